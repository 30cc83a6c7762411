/* run.c - `belay run`: fork, take the lock, let the command go (hold.c), release, exit.
 *
 * One thread and one loop: belay's descriptor, signals, a timer. The library is in the mode
 * BELAY_DISPATCH_WORKER, so its extensions and callbacks happen when belay_dispatch is called here
 * and never elsewhere; a thread of its may resolve a server's name. */
#include "run.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "client.h"
#include "message.h"
#include "verbs.h"

enum { GRACE_MAX_MS = 5000, MARGIN_MIN_MS = 250 };

/* ------------------------------------------------------------------ callbacks, inside dispatch */

static void on_log(void *arg, belay_level level, const char *line)
{
    struct run *run = arg;
    struct text text;
    (void)level;
    wait_display_clear(&run->display);
    text_init(&text);
    text_add_shown(&text, line);
    say_text(NULL, &text);
}

static void on_done(void *arg, belay_status status, belay_lock *lock, const belay_error *err)
{
    struct run *run = arg;
    run->answered = true;
    run->answer = status;
    run->lock = lock;
    run->why = *err;
}

static void on_lost(void *arg, belay_lock *lock, const belay_error *why)
{
    struct run *run = arg;
    (void)lock;
    run->lost = true;
    run->lost_why = *why;
}

static void on_scope(void *arg, belay_lock *lock, belay_scope now)
{
    struct run *run = arg;
    (void)lock;
    if (now < run->scope) run->demoted_to = now;
    run->scope = now;
}

/* ------------------------------------------------------------------ the times */

/* From the TTL: when the command is told that the lock can't be kept, and when it is killed. A very
 * short TTL must leave room for extensions before either. */
static int times_set(struct run *run, int64_t ttl_ms)
{
    const struct args *args = run->args;
    int64_t margin = ttl_ms / 20 > MARGIN_MIN_MS ? ttl_ms / 20 : MARGIN_MIN_MS;
    run->margin_ms = margin < ttl_ms / 4 ? margin : ttl_ms / 4;
    run->grace_ms = ttl_ms / 4 < GRACE_MAX_MS ? ttl_ms / 4 : GRACE_MAX_MS;
    if (args->grace_ms >= 0) run->grace_ms = args->grace_ms;
    if (run->grace_ms <= ttl_ms / 3) return EXIT_DONE;
    say(NULL, "--grace: %" PRId64 "ms is more than a third of the TTL, %" PRId64 "ms",
        run->grace_ms, ttl_ms);
    return EXIT_USAGE;
}

/* Three tries to extend before the command must be told. */
static uint32_t keep_every_ms(const struct run *run, int64_t ttl_ms)
{
    int64_t before = run->grace_ms > run->margin_ms ? run->grace_ms : run->margin_ms;
    int64_t every = (ttl_ms - before) / 3;
    return every > 1 ? (uint32_t)every : 1;
}

/* ------------------------------------------------------------------ the acquire */

/* One signal while we wait for the lock. */
static void acquire_signal(struct run *run, belay_request *request, int signal)
{
    if (signal == SIGTSTP) { /* nobody has the terminal but us: simply stop */
        wait_display_clear(&run->display);
        signals_stop(SIGTSTP, false);
        return;
    }
    if (signal == SIGCHLD) {
        (void)child_look(&run->child);
        if (!run->child.ended) return;
    } else if (!signals_ends(signal)) {
        return;
    } else if (run->ended_by != 0) { /* asked twice: at once */
        wait_display_clear(&run->display);
        signals_die(signal);
    } else {
        run->ended_by = signal;
    }
    belay_request_cancel(request);
}

/* `belay run x -- sh -c "belay run x -- ..."`: the outer one waits for its command, which waits for
 * the lock. What CMD left in the background may do so with reason, so it is no error. The token
 * tells a lock of that name in another place apart. True: it asked, which took time. */
static bool warn_nested(struct run *run)
{
    const char *outer = getenv("BELAY_LOCK"), *token = getenv("BELAY_TOKEN");
    belay_info info = { .size = (uint32_t)sizeof(info) };
    belay_error err = BELAY_ERROR_INIT;

    if (run->args->quiet || outer == NULL || token == NULL || strcmp(outer, run->name) != 0)
        return false;
    if (belay_inspect(run->client, run->name, &info, &err) == BELAY_OK && info.held &&
        info.token == strtoull(token, NULL, 10))
        say(run->name, "waiting for the lock that this command itself runs under (BELAY_LOCK): "
                       "it is free when the outer `belay run` ends");
    return true;
}

/* Waits until the acquire has called back. */
static void acquire_wait(struct run *run, belay_request *request)
{
    struct pollfd fds[2] = { { belay_fd(run->client), POLLIN, 0 }, { run->signals.fd, POLLIN, 0 } };
    bool warned = run->args->no_wait || run->args->wait_ms == 0; /* or has no need to */
    int signal;

    for (;;) {
        /* First: an answer that is there already costs no poll. */
        belay_status status = belay_dispatch(run->client);
        if (run->answered) return;
        if (status != BELAY_OK) break;
        if (!warned) {
            warned = true;
            if (warn_nested(run)) continue;
        }
        if (poll(fds, 2, wait_display_timeout(&run->display)) < 0 && errno != EINTR) break;
        while ((signal = signals_next(&run->signals)) != 0) acquire_signal(run, request, signal);
        if (!run->answered) wait_display_draw(&run->display, run->client);
    }
    run->answered = true;
    run->answer = run->why.status = BELAY_UNAVAILABLE;
}

/* Who was in the way, where that can still be told. */
static void say_held(struct run *run)
{
    belay_info info = { .size = (uint32_t)sizeof(info) };
    belay_error err = BELAY_ERROR_INIT;
    struct text text;

    if (run->args->quiet) return;
    if (belay_inspect(run->client, run->name, &info, &err) != BELAY_OK || !info.held) {
        complain(run->name, &run->why);
        return;
    }
    text_init(&text);
    text_add(&text, "held by ");
    text_add_holder(&text, &info);
    say_text(run->name, &text);
}

/* The lock is in run->lock, or the status to exit with is returned. */
static int acquire(struct run *run, int64_t ttl_ms)
{
    const struct args *args = run->args;
    belay_options options = BELAY_OPTIONS_INIT;
    belay_request *request = NULL;
    char label[BELAY_LABEL_MAX + 1];

    client_label(args, args->command[0], label);
    options.label = label;
    options.keep = BELAY_KEEP_ON;
    options.also_pid = run->child.pid;
    options.on_lost = on_lost;
    options.on_scope = on_scope;
    options.arg = run;
    options.at_least = args->no_degrade ? belay_reach(run->client) : BELAY_SCOPE_ANY;
    options.wait_ms = BELAY_FOREVER;
    if (args->wait_ms > 0) options.wait_ms = args->wait_ms;
    if (args->no_wait || args->wait_ms == 0) options.wait_ms = BELAY_TRY;
    options.ttl_ms = (uint32_t)ttl_ms;
    options.keep_every_ms = keep_every_ms(run, ttl_ms);

    wait_display_init(&run->display, args);
    if (belay_acquire_start(run->client, run->name, &options, on_done, run, &request, &run->why) !=
        BELAY_OK)
        return complain(run->name, &run->why);
    acquire_wait(run, request);
    wait_display_clear(&run->display);
    belay_request_free(request);
    if (run->lock == NULL) message_never_wait(false);

    if (run->ended_by != 0) return EXIT_SIGNAL + run->ended_by;
    if (run->child.ended) return child_exit_status(&run->child);
    if (run->answer == BELAY_OK) return EXIT_DONE;
    if (run->answer == BELAY_HELD) {
        say_held(run);
        return (int)args->held_status;
    }
    return complain(run->name, &run->why);
}

/* ------------------------------------------------------------------ the end */

/* Lets the lock go. What it says matters only when the command was not stopped for it already. */
static int release(struct run *run, int status)
{
    const struct args *args = run->args;
    belay_error err = BELAY_ERROR_INIT;
    belay_status released = belay_release(run->lock, &err);
    struct text text;

    run->lock = NULL;
    if (run->told || run->killed) return EXIT_LOST;
    if (run->lost || released == BELAY_LOST) {
        text_init(&text);
        text_add(&text, "the lock was lost before the command ended: ");
        text_add_error(&text, run->lost ? &run->lost_why : &err);
        say_text(run->name, &text);
        return args->on_lost == ON_LOST_IGNORE ? status : EXIT_LOST;
    }
    if (released != BELAY_OK && !args->quiet) {
        text_init(&text);
        text_add(&text, "not released yet, it ends with its TTL: ");
        text_add_error(&text, &err);
        say_text(run->name, &text);
    }
    return status;
}

/* The terminal's Ctrl-C went to the command's group alone, because we had put it in front. The
 * others of our group (a script that loops, say) and the shell would have got it too. */
static void pass_to_own_group(const struct child *child, bool had_terminal)
{
    int signal = WIFSIGNALED(child->status) ? WTERMSIG(child->status) : 0;
    if (!had_terminal || (signal != SIGINT && signal != SIGQUIT)) return;
    kill(0, signal);
    signals_die(signal);
}

static int open_and_hold(struct run *run)
{
    const struct args *args = run->args;
    belay_open_options options = BELAY_OPEN_OPTIONS_INIT;
    belay_error err = BELAY_ERROR_INIT;

    options.threads = BELAY_DISPATCH_WORKER; /* a server may be named by its host's name */
    options.on_log = args->quiet ? NULL : on_log;
    options.log_level = args->verbose ? BELAY_LOG_DEBUG : BELAY_LOG_DEFAULT;
    options.arg = run;
    if (belay_open(&run->client, args->config, &options, &err) != BELAY_OK)
        return complain(NULL, &err);

    int64_t ttl_ms = args->ttl_ms >= 0 ? args->ttl_ms : (int64_t)belay_ttl_ms(run->client);
    int status = times_set(run, ttl_ms);
    if (status != EXIT_DONE) return status;
    message_never_wait(true); /* the lock may be ours before we know */
    status = acquire(run, ttl_ms);
    if (run->lock != NULL) {
        if (status == EXIT_DONE) status = hold(run);
        status = release(run, status);
    }
    message_never_wait(false);
    return status;
}

int verb_run(const struct args *args)
{
    struct run run = { .args = args,
                       .name = args->words[0],
                       .signals.fd = -1,
                       .child.gate = -1,
                       .why = BELAY_ERROR_INIT,
                       .lost_why = BELAY_ERROR_INIT };
    int status;

    if (args->ttl_ms >= 0 &&
        (args->ttl_ms < (int64_t)BELAY_TTL_MIN_MS || args->ttl_ms > (int64_t)BELAY_TTL_MAX_MS)) {
        say(NULL, "--ttl: from 100ms to 7d");
        return EXIT_USAGE;
    }
    terminal_init(&run.terminal);
    if (!child_fork(&run.child, run.name, args->command)) {
        say(run.name, "fork: %s", strerror(errno));
        return EXIT_INTERNAL;
    }
    if (signals_open(&run.signals)) {
        status = open_and_hold(&run);
    } else {
        say(run.name, "signalfd: %s", strerror(errno));
        status = EXIT_INTERNAL;
    }

    bool had_terminal = run.terminal.handed;
    bool ran = run.child.ended && run.child.gate < 0;
    terminal_take(&run.terminal);
    if (run.child.ended && WIFSIGNALED(run.child.status)) terminal_restore(&run.terminal);
    terminal_fini(&run.terminal);
    child_discard(&run.child);
    message_never_wait(true); /* closing may have something to say, and releases meanwhile */
    belay_close(run.client);
    message_never_wait(false);
    if (run.ended_by != 0) signals_die(run.ended_by);
    if (ran && status == child_exit_status(&run.child)) pass_to_own_group(&run.child, had_terminal);
    signals_close(&run.signals);
    return status;
}
