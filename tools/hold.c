/* hold.c - the command and the lock, side by side, until the command ends.
 *
 * Whatever happens to the lock, the command is dead before another can hold it: it is told to end
 * at deadline - grace and killed at deadline - margin. The deadline moves with each extension, so
 * it is asked for anew in every turn of the loop. The timer runs on CLOCK_BOOTTIME: a suspended
 * machine's time counts. A lock that comes to reach less far than before ends the command in the
 * same way, where --on-degrade=term wants it. */
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <string.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "message.h"
#include "run.h"

enum { NS_PER_MS = 1000000 };

struct watch {
    struct run *run;
    int timer;
    int64_t armed_ns; /* what the timer is set to; 0: nothing */
    int64_t kill_ns;  /* when the command must be dead, as of the last look */
    bool seen_lost;
    belay_scope scope;   /* as it was said last */
    int64_t degraded_ns; /* --on-degrade=term: dead by then; 0: it was not demoted */
};

static int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_BOOTTIME, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* ------------------------------------------------------------------ the clock */

static void arm(struct watch *watch, int64_t at_ns)
{
    struct itimerspec when = { .it_value = { at_ns / 1000000000, at_ns % 1000000000 } };
    if (at_ns == watch->armed_ns) return;
    timerfd_settime(watch->timer, TFD_TIMER_ABSTIME, &when, NULL);
    watch->armed_ns = at_ns;
}

static void add_reach(struct text *text, belay_scope scope, const char *how)
{
    bool fleet = scope == BELAY_SCOPE_FLEET;
    text_add(text, "the lock reaches %s %s %s", fleet ? "the" : "this", belay_scope_name(scope),
             how);
}

static void say_ending(struct watch *watch, int64_t left_ms, const char *what)
{
    struct run *run = watch->run;
    bool degraded = watch->degraded_ns != 0;
    struct text text;
    text_init(&text);
    if (run->lost) {
        text_add(&text, "the lock is lost");
        if (run->args->quiet) { /* otherwise the library's log has said why */
            text_add(&text, " (");
            text_add_error(&text, &run->lost_why);
            text_add(&text, ")");
        }
    } else if (degraded && left_ms > 0) {
        add_reach(&text, run->demoted_to, "alone now");
    } else if (left_ms > 0) {
        text_add(&text, "the lock could not be extended and ends in %" PRId64 "ms", left_ms);
    } else {
        text_add(&text, "the lock is lost");
    }
    text_add(&text, ": %s", what);
    say_text(run->name, &text);
}

/* 0, or the errno. Signals come first and words afterwards. */
static int command_signal(struct run *run, int signal)
{
    return child_signal(&run->child, signal) ? 0 : errno;
}

/* sudo, a set-user-id program: it became another user's, and we may not signal it. */
static void say_beyond_us(struct run *run, int why)
{
    if (why != 0)
        say(run->name, "the command can't be signalled (%s): it goes on WITHOUT the lock",
            strerror(why));
}

/* Does the lock reach as far as before? Why not, the library's log has said. */
static void watch_scope(struct watch *watch)
{
    struct run *run = watch->run;
    struct text text;

    if (run->demoted_to != BELAY_SCOPE_ANY && run->args->on_degrade == ON_DEGRADE_TERM &&
        watch->degraded_ns == 0)
        watch->degraded_ns = now_ns() + run->grace_ms * NS_PER_MS;
    if (run->scope == watch->scope) return;
    bool less = run->scope < watch->scope;
    watch->scope = run->scope;
    if (run->args->quiet || watch->degraded_ns != 0) return;
    text_init(&text);
    add_reach(&text, run->scope, less ? "alone now: the command goes on" : "now");
    say_text(run->name, &text);
}

/* Tells or kills the command if it is time, and sets the timer for the next such moment. */
static void watch_look(struct watch *watch)
{
    struct run *run = watch->run;
    int policy = run->args->on_lost;
    int64_t left_ms = belay_lock_remaining_ms(run->lock), now = now_ns(), tell_ns;

    watch_scope(watch);
    if (left_ms > 0) {
        int64_t end_ns = now + left_ms * NS_PER_MS;
        watch->kill_ns = end_ns - run->margin_ms * NS_PER_MS;
        tell_ns = end_ns - run->grace_ms * NS_PER_MS;
        if (tell_ns > watch->kill_ns) tell_ns = watch->kill_ns;
    } else {
        /* Taken away before its time (broken, its file deleted), or we slept past its end. Grace
         * is still given, but not beyond the moment that the lock would have allowed. */
        int64_t last_ns = now + (policy == ON_LOST_TERM ? run->grace_ms * NS_PER_MS : 0);
        if (!watch->seen_lost && last_ns < watch->kill_ns) watch->kill_ns = last_ns;
        if (!watch->seen_lost && policy == ON_LOST_IGNORE)
            say_ending(watch, 0, "the command goes on, as --on-lost=ignore wants it");
        watch->seen_lost = true;
        tell_ns = now;
    }
    if (policy == ON_LOST_IGNORE) return;
    if (watch->degraded_ns != 0) { /* the lock may live on */
        policy = ON_LOST_TERM;
        tell_ns = now;
        if (watch->degraded_ns < watch->kill_ns) watch->kill_ns = watch->degraded_ns;
    }

    if (policy == ON_LOST_TERM && !run->told && now >= tell_ns) {
        run->told = true;
        int why = command_signal(run, SIGTERM);
        if (run->child.stop != 0) child_continue(&run->child);
        say_ending(watch, left_ms, "ending the command");
        say_beyond_us(run, why);
    }
    if (!run->killed && now >= watch->kill_ns) {
        run->killed = true;
        int why = command_signal(run, SIGKILL);
        if (run->told) say(run->name, "it goes on: killing the command");
        else say_ending(watch, left_ms, "killing the command");
        say_beyond_us(run, why);
    }
    if (!run->killed) arm(watch, policy == ON_LOST_TERM && !run->told ? tell_ns : watch->kill_ns);
}

/* ------------------------------------------------------------------ stopping and going on */

/* The command was stopped: by Ctrl-Z, for touching a terminal that is not its turn, or by somebody.
 */
static void watch_stopped(struct watch *watch)
{
    struct run *run = watch->run;
    int signal = run->child.stop;
    bool had_terminal = run->terminal.handed;
    bool asks = signal == SIGTTIN || signal == SIGTTOU;

    if (asks && terminal_hand(&run->terminal, run->child.pid)) {
        child_continue(&run->child);
        return;
    }
    /* Somebody's own wish, and no shell is waiting: we stay awake and keep the lock for it. */
    if (signal == SIGSTOP && !had_terminal) return;

    terminal_take(&run->terminal);
    /* With the terminal handed over, the rest of our group saw nothing of the Ctrl-Z. */
    if (signals_stop(asks ? signal : SIGTSTP, had_terminal)) return; /* SIGCONT is to be read */

    /* Nobody could ever continue us (an orphaned process group): then the command can't stop
     * either, as it would not if it were in our place; and who must not touch the terminal is told
     * that it's gone. */
    if (asks) (void)child_signal(&run->child, SIGHUP);
    if (had_terminal) terminal_hand(&run->terminal, run->child.pid);
    child_continue(&run->child);
}

/* We go on, after a Ctrl-Z and `fg`, after `bg`, or after somebody's SIGSTOP and SIGCONT. Time has
 * passed: the lock is looked at before the command goes on. */
static void watch_continued(struct watch *watch)
{
    struct run *run = watch->run;
    belay_error err = BELAY_ERROR_INIT;

    if (run->child.stop != 0 && belay_extend(run->lock, 0, &err) == BELAY_LOST && !run->lost) {
        run->lost = true;
        run->lost_why = err;
    }
    (void)belay_dispatch(run->client);
    watch_look(watch);
    terminal_hand_at_start(&run->terminal, run->child.pid);
    child_continue(&run->child);
}

/* ------------------------------------------------------------------ the loop */

static void watch_signals(struct watch *watch)
{
    struct run *run = watch->run;
    int signal;
    while (!run->child.ended && (signal = signals_next(&run->signals)) != 0) {
        if (signal == SIGCONT) {
            watch_continued(watch);
        } else if (signal == SIGCHLD) {
            if (child_look(&run->child) && run->child.stop != 0) watch_stopped(watch);
        } else {
            int why = command_signal(run, signal);
            if (why != 0)
                say(run->name, "signal %d did not reach the command: %s", signal, strerror(why));
        }
    }
}

static void watch_loop(struct watch *watch)
{
    struct run *run = watch->run;
    struct pollfd fds[] = { { run->signals.fd, POLLIN, 0 },
                            { belay_fd(run->client), POLLIN, 0 },
                            { watch->timer, POLLIN, 0 } };
    uint64_t ticks;

    while (!run->child.ended) {
        watch_look(watch);
        if (poll(fds, 3, -1) < 0) continue;
        if (fds[0].revents != 0) watch_signals(watch);
        if (run->child.ended) return;
        if (fds[1].revents != 0) (void)belay_dispatch(run->client);
        if (fds[2].revents != 0 && read(watch->timer, &ticks, sizeof(ticks)) > 0)
            watch->armed_ns = 0;
    }
}

/* We may have been stopped since the grant: a command does not begin when it would have to be told
 * to end at once. */
static bool hold_begins(struct watch *watch)
{
    struct run *run = watch->run;
    int64_t left_ms = belay_lock_remaining_ms(run->lock), enough_ms = run->margin_ms;
    if (run->args->on_lost == ON_LOST_TERM && run->grace_ms > enough_ms) enough_ms = run->grace_ms;
    if (left_ms <= enough_ms) {
        belay_error err = BELAY_ERROR_INIT;
        (void)!belay_extend(run->lock, 0, &err);
        left_ms = belay_lock_remaining_ms(run->lock);
    }
    watch->kill_ns = now_ns() + (left_ms - run->margin_ms) * NS_PER_MS;
    if (left_ms > enough_ms) return true;
    run->killed = true;
    say_ending(watch, left_ms, "the command was not begun");
    return false;
}

int hold(struct run *run)
{
    belay_scope scope = belay_lock_scope(run->lock);
    struct watch watch = { .run = run, .timer = -1, .scope = scope };
    struct grant_news news = { belay_lock_token(run->lock), (int32_t)scope,
                               scope < belay_reach(run->client) };

    run->scope = scope;
    run->demoted_to = BELAY_SCOPE_ANY;
    watch.timer = timerfd_create(CLOCK_BOOTTIME, TFD_CLOEXEC | TFD_NONBLOCK);
    if (watch.timer < 0) {
        say(run->name, "timerfd: %s", strerror(errno));
        return EXIT_INTERNAL;
    }
    if (run->args->verbose)
        say(run->name, "ours, scope %s, token %" PRIu64, belay_scope_name(scope), news.token);
    terminal_hand_at_start(&run->terminal, run->child.pid);
    if (hold_begins(&watch) && child_go(&run->child, &news)) {
        watch_loop(&watch);
        if ((run->told || run->killed) && child_left_foreign(&run->child))
            say(run->name, "another user's processes are left of it: they go on WITHOUT the lock");
    } else { /* or somebody killed it while it waited */
        child_discard(&run->child);
    }
    close(watch.timer);
    return child_exit_status(&run->child);
}
