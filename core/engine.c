/* engine.c - the client's own thread: leads when there is work that nobody waits for, and keeps off
 * otherwise.
 *
 * It starts with the first such work. Parked, it watches the timer and its own eventfd. Timers that
 * are due it runs under the monitor whether or not another leads. The lead it takes when that is
 * vacant and something is under way in the background (a started call, an extension whose answer is
 * awaited), and gives it up to a caller that asks: one hop each way would cost a lone caller a
 * quarter of its rate, so after giving it up the engine lingers until no caller has led for
 * LINGER_MS.
 *
 * With nothing in the background and nobody leading it watches the rest as well (a poke, a server's
 * word about a held lock), and looks when there is something; beside busy callers it does so again
 * IDLE_MS after the last of them led. */
#include "core/loop.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <unistd.h>

enum { LINGER_MS = 2, IDLE_MS = 50 };

static void drain(int fd)
{
    uint64_t count;
    ssize_t ignored = read(fd, &count, sizeof count);
    (void)ignored;
}

static void *engine_main(void *arg)
{
    struct belay__loop *loop = arg;
    uint32_t leads = 0;
    belay__loop_enter(loop);
    while (!loop->engine_stop) {
        belay__loop_work(loop);
        bool quiet = loop->leads == leads; /* no caller led since we last looked */
        leads = loop->leads;
        if (belay__loop_unattended(loop) && loop->leader == NULL && quiet) {
            /* Who asked for the lead sleeps and has not led yet: linger as if it had. */
            if (belay__loop_lead_for_engine(loop)) leads = loop->leads - 1;
            continue;
        }
        int patience = quiet ? -1 : belay__loop_unattended(loop) ? LINGER_MS : IDLE_MS;
        bool watches = quiet && !belay__loop_unattended(loop) && loop->leader == NULL;
        loop->engine_alert = quiet;
        loop->engine_blind = quiet && !watches;
        belay__loop_leave(loop);
        struct pollfd fds[] = { { .fd = loop->timer_fd, .events = POLLIN },
                                { .fd = loop->engine_fd, .events = POLLIN },
                                { .fd = loop->inner, .events = POLLIN } };
        int ready = poll(fds, watches ? 3 : 2, patience);
        if (ready > 0 && fds[1].revents != 0) drain(loop->engine_fd);
        belay__loop_enter(loop);
        loop->engine_alert = loop->engine_blind = false;
        if (ready > 0 && fds[0].revents != 0) {
            drain(loop->timer_fd);
            loop->armed_ns = INT64_MAX;
        }
        if (ready > 0 && watches && fds[2].revents != 0 && loop->leader == NULL)
            belay__loop_poll(loop);
    }
    belay__loop_leave(loop);
    return NULL;
}

int belay__thread_start(pthread_t *thread, void *(*run)(void *), void *arg)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int failed = pthread_create(thread, NULL, run, arg);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return failed;
}

belay_status belay__engine_need(struct belay__loop *loop)
{
    if (!loop->threads || loop->engine_started) return BELAY_OK;
    if (loop->engine_stop) return BELAY_NOMEM; /* the client is being closed, and this is over */
    if (belay__thread_start(&loop->engine, engine_main, loop) != 0) return BELAY_NOMEM;
    loop->engine_started = true;
    return BELAY_OK;
}

void belay__engine_kick(struct belay__loop *loop)
{
    if (!loop->engine_started) return;
    loop->engine_alert = false;
    uint64_t one = 1;
    ssize_t ignored = write(loop->engine_fd, &one, sizeof one);
    (void)ignored;
}

void belay__engine_stop(struct belay__loop *loop)
{
    belay__loop_enter(loop);
    bool started = loop->engine_started;
    loop->engine_stop = true;
    belay__engine_kick(loop);
    belay__loop_kick(loop);
    belay__loop_leave(loop);
    if (started) pthread_join(loop->engine, NULL);
    loop->engine_started = false;
}
