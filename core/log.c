/* log.c - lines for the log callback: kept in a ring until a callback may run; never blocks, never
 * allocates.
 *
 * What an outage says of every held lock is limited: the first lines of a kind are said, the rest
 * is counted, and the number is said when the window ends. */
#include "core/client.h"

#include <stdio.h>

enum { WINDOW_S = 10, WINDOW_LINES = 5 };

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

/* ------------------------------------------------------------------ a thousand locks at once */

static const char *const kind_words[BELAY__LOG_KINDS] = {
    [BELAY__LOG_LOST] = "locks lost",
    [BELAY__LOG_DEMOTED] = "locks demoted",
    [BELAY__LOG_PROMOTED] = "locks promoted",
    [BELAY__LOG_EXTENSION] = "extensions failed",
};

/* The window is over: the next line begins another. */
static void window_end(struct belay__log *log, enum belay__log_kind kind, int64_t now)
{
    struct belay__log_window *window = &log->windows[kind];
    int64_t seconds = (now - window->since_ns + BELAY__SECOND - 1) / BELAY__SECOND;
    if (window->left_out > 0)
        belay__log(log->client, window->level, "... and %u more %s within %llds",
                   (unsigned)window->left_out, kind_words[kind],
                   (long long)(seconds > 0 ? seconds : 1));
    *window = (struct belay__log_window){ 0 };
}

static void window_timer(belay_timer *timer)
{
    struct belay__log *log = belay_container_of(timer, struct belay__log, window_timer);
    int64_t now = belay__loop_now(log->loop), next = INT64_MAX;
    for (enum belay__log_kind kind = 0; kind < BELAY__LOG_KINDS; kind++) {
        struct belay__log_window *window = &log->windows[kind];
        int64_t end = window->since_ns + WINDOW_S * BELAY__SECOND;
        if (window->left_out == 0) continue;
        if (now >= end) window_end(log, kind, now);
        else if (end < next) next = end;
    }
    if (next != INT64_MAX) belay__timer_arm(log->loop, timer, next);
}

/* False: it is counted, and not said. */
static bool window_has_room(struct belay__log *log, enum belay__log_kind kind, belay_level level)
{
    struct belay__log_window *window = &log->windows[kind];
    int64_t now = belay__loop_now(log->loop);
    if (now >= window->since_ns + WINDOW_S * BELAY__SECOND) window_end(log, kind, now);
    if (window->said == 0) window->since_ns = now;
    if (window->said < WINDOW_LINES) {
        window->said++;
        return true;
    }
    window->left_out++;
    window->level = level;
    if (!belay_timer_armed(&log->window_timer)) {
        belay_timer_init(&log->window_timer, window_timer);
        belay__timer_arm(log->loop, &log->window_timer,
                         window->since_ns + WINDOW_S * BELAY__SECOND);
    }
    return false;
}

void belay__log_limited(belay *client, enum belay__log_kind kind, belay_level level,
                        const char *format, ...)
{
    struct belay__log *log = client->log;
    if (log == NULL || level > log->level || !window_has_room(log, kind, level)) return;
    va_list args;
    va_start(args, format);
    belay__vlog(client, level, format, args);
    va_end(args);
}

void belay__log_finish(struct belay__log *log)
{
    if (log == NULL) return;
    int64_t now = belay__loop_now(log->loop);
    for (enum belay__log_kind kind = 0; kind < BELAY__LOG_KINDS; kind++) window_end(log, kind, now);
    belay__timer_disarm(log->loop, &log->window_timer);
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
