/* watch.c - `belay watch`: what happens to a client of its own, a line each, until a signal.
 *
 * A fallback that is well learns of an outage by its own attempts alone, so a lock is tried now and
 * then; what other processes of this host say is asked for after each try. One loop: belay's
 * descriptor, signals, the timer, and standard output, whose reader may go away. */
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <string.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "client.h"
#include "health.h"
#include "message.h"
#include "signals.h"
#include "verbs.h"

enum { EVERY_MIN_MS = 100, LEASE_MS = 5000, SHOWN_FROM_MS = 1000 };

struct watcher {
    const struct args *args;
    belay *client;
    struct signals signals;
    int timer;
    int write_failed; /* the errno of standard output; 0: it is written to */
    bool ended;       /* by a signal */

    /* the try */
    char name[64];
    uint64_t number;
    bool trying, tried; /* under way; answered, and `status`, `err` hold */
    int64_t began_ms;
    belay_status status;
    belay_error err;

    /* what was said last */
    bool said;    /* any of it */
    int standing; /* an exit status: OK and the kinds of failure */
    int64_t standing_since_ms;
    bool other;
    int64_t other_pid;
};

/* One line. `since_ms` and `pid`: -1 is none. */
struct line {
    const char *kind, *name, *text;
    belay_scope scope;
    int64_t since_ms, pid;
    const char *span; /* what stands before the time in words; NULL: the text has it */
};

static int64_t clock_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_BOOTTIME, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* ------------------------------------------------------------------ a line */

/* RFC 3339, in UTC: "2026-02-03T04:05:06.789Z". */
static void stamp(char out[40])
{
    struct timespec now;
    struct tm at;
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &at);
    size_t n = strftime(out, 32, "%Y-%m-%dT%H:%M:%S", &at);
    snprintf(out + n, 40 - n, ".%03dZ", (int)(now.tv_nsec / 1000000));
}

static void line_json(const char *time, const struct line *line)
{
    struct json json;
    json_init(&json, stdout);
    json_open(&json, NULL, '{');
    json_text(&json, "time", time);
    json_text(&json, "kind", line->kind);
    json_text_or_null(&json, "name", line->name);
    json_scope(&json, "scope", line->scope);
    json_text(&json, "text", line->text);
    json_number_from(&json, "since_ms", line->since_ms, 0);
    json_number_from(&json, "pid", line->pid, 1);
    json_close(&json, '}');
    putc('\n', stdout);
}

static void line_text(const char *time, const struct line *line)
{
    struct text text;
    text_init(&text);
    text_add(&text, "%s %s", time, line->kind);
    if (line->name[0] != '\0') {
        text_add(&text, " ");
        text_add_shown(&text, line->name);
    }
    text_add(&text, ": ");
    text_add_shown(&text, line->text);
    if (line->scope != BELAY_SCOPE_ANY)
        text_add(&text, "; scope %s", belay_scope_name(line->scope));
    if (line->span != NULL && line->since_ms >= SHOWN_FROM_MS) {
        text_add(&text, "; %s ", line->span);
        text_add_span(&text, line->since_ms);
    }
    puts(text.data);
}

static void print(struct watcher *watcher, const struct line *line)
{
    char time[40];
    if (watcher->write_failed != 0) return;
    stamp(time);
    if (watcher->args->json) line_json(time, line);
    else line_text(time, line);
    watcher->write_failed = output_flush();
}

/* ------------------------------------------------------------------ callbacks, inside dispatch */

static void on_event(void *arg, const belay_event *event)
{
    struct watcher *watcher = arg;
    bool of_lock = event->kind <= BELAY_EVENT_LOCK_PROMOTED;
    if (of_lock && strcmp(event->name, watcher->name) == 0) return; /* a try's: not news */
    print(watcher, &(struct line){ .kind = belay_event_name(event->kind),
                                   .name = event->name,
                                   .text = event->text,
                                   .scope = event->scope,
                                   .since_ms = event->since_ms,
                                   .pid = -1,
                                   .span = event->kind == BELAY_EVENT_RECOVERED ? NULL : "for" });
}

static void on_log(void *arg, belay_level level, const char *line)
{
    struct text text;
    (void)arg;
    (void)level;
    text_init(&text);
    text_add_shown(&text, line);
    say_text(NULL, &text);
}

static void try_answered(struct watcher *watcher, belay_status status, const belay_error *err)
{
    watcher->trying = false;
    watcher->tried = true;
    watcher->status = status;
    watcher->err = *err;
}

static void on_released(void *arg, belay_status status, belay_lock *lock, const belay_error *err)
{
    (void)lock;
    try_answered(arg, status, err);
}

static void on_acquired(void *arg, belay_status status, belay_lock *lock, const belay_error *err)
{
    struct watcher *watcher = arg;
    belay_error why = BELAY_ERROR_INIT;
    if (status == BELAY_OK) status = belay_release_start(lock, on_released, watcher, NULL, &why);
    else why = *err;
    if (status != BELAY_OK) try_answered(watcher, status, &why);
}

/* ------------------------------------------------------------------ trying, and looking */

static void try_begin(struct watcher *watcher)
{
    belay_options options = BELAY_OPTIONS_INIT;
    belay_error err = BELAY_ERROR_INIT;

    if (watcher->trying) return;
    snprintf(watcher->name, sizeof(watcher->name), "belay-watch-%ld-%" PRIu64, (long)getpid(),
             ++watcher->number);
    options.wait_ms = BELAY_TRY;
    options.keep = BELAY_KEEP_OFF;
    options.ttl_ms = LEASE_MS;
    options.label = "belay watch";
    watcher->trying = true;
    watcher->began_ms = clock_ms();
    belay_status status = belay_acquire_start(watcher->client, watcher->name, &options, on_acquired,
                                              watcher, NULL, &err);
    if (status != BELAY_OK) try_answered(watcher, status, &err);
}

/* Can locks be taken? Said at the beginning and whenever it changes. */
static void report_standing(struct watcher *watcher, belay_scope scope)
{
    bool ready = watcher->status == BELAY_OK;
    int standing = exit_status_of(watcher->status);
    struct line line = { .kind = ready ? "ready" : "not-ready",
                         .name = "",
                         .pid = -1,
                         .span = ready ? "after" : "for" };
    struct text text;

    if (watcher->said && standing == watcher->standing) return;
    text_init(&text); /* escaped when it is shown, and not in JSON */
    if (ready) text_add(&text, "%s", belay_where(watcher->client));
    else if (watcher->err.node[0] != '\0') text_add(&text, "%s: ", watcher->err.node);
    if (!ready) text_add(&text, "%s", watcher->err.text);
    line.text = text.data;
    line.scope = ready ? scope : BELAY_SCOPE_ANY;
    /* How long it had been otherwise; or since when it fails. */
    line.since_ms = clock_ms() - (ready ? watcher->standing_since_ms : watcher->began_ms);
    if (ready && !watcher->said) line.since_ms = -1;
    watcher->said = true;
    watcher->standing = standing;
    watcher->standing_since_ms = watcher->began_ms;
    print(watcher, &line);
}

static void report_other(struct watcher *watcher, const belay_health *health)
{
    struct line line = { .kind = "other-degraded",
                         .name = health->backend,
                         .text = health->other_why,
                         .since_ms = health->other_since_ms,
                         .pid = health->other_pid,
                         .span = "for" };
    struct text text;

    if (health->other == watcher->other && health->other_pid == watcher->other_pid) return;
    watcher->other = health->other;
    watcher->other_pid = health->other_pid;
    text_init(&text);
    if (!health->other) {
        line.kind = "other-recovered";
        line.text = "no other process of this host says that it is degraded";
        line.since_ms = -1;
    } else if (!watcher->args->json) {
        text_add(&text, "process %" PRId64 ": %s", health->other_pid, health->other_why);
        if (health->other_pid > 0) line.text = text.data;
    }
    print(watcher, &line);
}

static void report(struct watcher *watcher)
{
    belay_health health = { .size = sizeof(health) };
    belay_error err = BELAY_ERROR_INIT;
    bool known = belay_get_health(watcher->client, &health, &err) == BELAY_OK;

    watcher->tried = false;
    report_standing(watcher, known ? health.scope : BELAY_SCOPE_ANY);
    if (known) report_other(watcher, &health);
}

/* ------------------------------------------------------------------ the loop */

static void take_signals(struct watcher *watcher)
{
    int signal;
    while ((signal = signals_next(&watcher->signals)) != 0) {
        if (signal == SIGINT || signal == SIGTERM) watcher->ended = true;
        else if (signal == SIGTSTP) signals_stop(SIGTSTP, false);
        else if (signals_ends(signal)) signals_die(signal);
    }
}

static void watch_loop(struct watcher *watcher)
{
    /* No events of standard output's: that nobody reads it any more is told all the same. */
    struct pollfd fds[] = { { watcher->signals.fd, POLLIN, 0 },
                            { belay_fd(watcher->client), POLLIN, 0 },
                            { watcher->timer, POLLIN, 0 },
                            { STDOUT_FILENO, 0, 0 } };
    uint64_t ticks;

    try_begin(watcher);
    for (;;) {
        (void)belay_dispatch(watcher->client);
        if (watcher->tried) report(watcher);
        if (watcher->write_failed != 0) return;
        if (poll(fds, 4, -1) < 0) continue;
        if (fds[0].revents != 0) take_signals(watcher);
        if (watcher->ended) return;
        if (fds[2].revents != 0 && read(watcher->timer, &ticks, sizeof(ticks)) > 0)
            try_begin(watcher);
        if (fds[3].revents != 0) watcher->write_failed = EPIPE;
    }
}

static int watch_open(struct watcher *watcher)
{
    const struct args *args = watcher->args;
    belay_open_options options = BELAY_OPEN_OPTIONS_INIT;
    belay_error err = BELAY_ERROR_INIT;
    struct timespec every = { args->every_ms / 1000, args->every_ms % 1000 * 1000000 };
    struct itimerspec times = { every, every };

    watcher->timer = timerfd_create(CLOCK_BOOTTIME, TFD_CLOEXEC | TFD_NONBLOCK);
    if (watcher->timer < 0 || timerfd_settime(watcher->timer, 0, &times, NULL) != 0 ||
        !signals_open(&watcher->signals)) {
        say("watch", "a descriptor: %s", strerror(errno));
        return EXIT_INTERNAL;
    }
    options.threads = BELAY_DISPATCH_WORKER; /* a server may be named by its host's name */
    options.on_log = args->quiet ? NULL : on_log;
    options.log_level = args->verbose ? BELAY_LOG_DEBUG : BELAY_LOG_ERROR; /* events say the rest */
    options.on_event = on_event;
    options.arg = watcher;
    if (belay_open(&watcher->client, args->config, &options, &err) == BELAY_OK) return EXIT_DONE;
    return complain(NULL, &err);
}

int verb_watch(const struct args *args)
{
    struct watcher watcher = {
        .args = args, .signals.fd = -1, .timer = -1, .err = BELAY_ERROR_INIT
    };

    if (args->every_ms < EVERY_MIN_MS) {
        say(NULL, "--every: from %dms", EVERY_MIN_MS);
        return EXIT_USAGE;
    }
    int status = watch_open(&watcher);
    if (status == EXIT_DONE) watch_loop(&watcher);
    belay_close(watcher.client);
    signals_close(&watcher.signals);
    if (watcher.timer >= 0) close(watcher.timer);
    if (watcher.write_failed != 0) return output_failed(watcher.write_failed);
    return output_end(status);
}
