/* log.c - lines for the log callback: kept in a ring until a callback may run; never blocks, never
 * allocates. */
#include "core/client.h"

#include <stdio.h>

static void log_run(struct belay__call *call)
{
    struct belay__log *log = belay_container_of(call, struct belay__log, call);
    char text[sizeof log->lines[0].text + 40];
    for (;;) {
        belay__loop_enter(log->loop);
        uint32_t dropped = log->dropped;
        if (log->count == 0) {
            belay__loop_leave(log->loop);
            return;
        }
        belay_level level = log->lines[log->first].level;
        if (dropped > 0)
            snprintf(text, sizeof text, "%s (%u lines were dropped)", log->lines[log->first].text,
                     (unsigned)dropped);
        else snprintf(text, sizeof text, "%s", log->lines[log->first].text);
        log->dropped = 0;
        log->first = (log->first + 1) % (sizeof log->lines / sizeof log->lines[0]);
        log->count--;
        belay__loop_leave(log->loop);
        log->fn(log->arg, level, text);
    }
}

void belay__vlog(belay *client, belay_level level, const char *format, va_list args)
{
    struct belay__log *log = client->log;
    if (log == NULL || level > log->level) return;
    const uint32_t room = sizeof log->lines / sizeof log->lines[0];
    if (log->count == room) {
        log->dropped++;
        return;
    }
    uint32_t at = (log->first + log->count++) % room;
    log->lines[at].level = level;
    vsnprintf(log->lines[at].text, sizeof log->lines[at].text, format, args);
    log->call.run = log_run;
    belay__call_queue(&client->loop, &log->call);
}

void belay__log(belay *client, belay_level level, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    belay__vlog(client, level, format, args);
    va_end(args);
}

const char *belay__printable(const char *name, char *out, size_t size)
{
    size_t n = 0;
    for (const unsigned char *c = (const unsigned char *)name; *c != '\0'; c++) {
        if (n + 8 > size) {
            memcpy(out + n, "...", 4);
            return out;
        }
        if (*c >= 0x20 && *c < 0x7f && *c != '"' && *c != '\\') out[n++] = (char)*c;
        else n += (size_t)snprintf(out + n, size - n, "\\x%02x", *c);
    }
    out[n] = '\0';
    return out;
}
