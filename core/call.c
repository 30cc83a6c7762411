/* call.c - callbacks: one at a time, unlocked, on a thread of their own or inside belay_dispatch.
 */
#include "core/loop.h"

#include "core/futex.h"

#include <limits.h>
#include <sys/eventfd.h>

static void seq_bump(struct belay__loop *loop)
{
    atomic_fetch_add_explicit(&loop->call_seq, 1, memory_order_release);
    belay__futex_wake(&loop->call_seq, INT_MAX);
}

/* Runs the first one; the monitor is let go meanwhile. */
static void run_first(struct belay__loop *loop)
{
    struct belay__call *call = belay_container_of(loop->calls.next, struct belay__call, link);
    belay_unlink(&call->link);
    loop->calling = true;
    loop->call_about = call->about;
    loop->call_thread = pthread_self();
    void (*run)(struct belay__call *) = call->run;
    belay__loop_leave(loop);
    run(call); /* it may free itself */
    belay__loop_enter(loop);
    loop->calling = false;
    loop->call_about = NULL;
    if (loop->call_waiters > 0) seq_bump(loop);
}

void belay__call_run_all(struct belay__loop *loop)
{
    /* Another thread may be running one: in order, one at a time. */
    while (!loop->calling && !loop->close_wanted && !belay_links_empty(&loop->calls))
        run_first(loop);
}

static void *caller_main(void *arg)
{
    struct belay__loop *loop = arg;
    belay__loop_enter(loop);
    for (;;) {
        belay__call_run_all(loop);
        if (loop->close_wanted) {
            /* A callback closed the client: this thread does it, and nobody joins it. */
            loop->close_wanted = false;
            loop->caller_started = false;
            pthread_detach(pthread_self());
            belay__loop_leave(loop);
            loop->close(loop);
            return NULL;
        }
        if (loop->caller_stop && belay_links_empty(&loop->calls)) break;
        uint32_t seq = atomic_load_explicit(&loop->call_seq, memory_order_acquire);
        belay__loop_leave(loop);
        belay__futex_wait(&loop->call_seq, seq, NULL);
        belay__loop_enter(loop);
    }
    belay__loop_leave(loop);
    return NULL;
}

belay_status belay__call_need(struct belay__loop *loop)
{
    if (!loop->threads || loop->caller_started) return BELAY_OK;
    if (belay__thread_start(&loop->caller, caller_main, loop) != 0) return BELAY_NOMEM;
    loop->caller_started = true;
    return BELAY_OK;
}

void belay__call_tell(struct belay__loop *loop)
{
    bool wanted = !belay_links_empty(&loop->calls);
    if (loop->call_told == wanted) return;
    loop->call_told = wanted;
    eventfd_t count;
    if (wanted) eventfd_write(loop->call_fd, 1);
    else eventfd_read(loop->call_fd, &count);
}

void belay__call_queue(struct belay__loop *loop, struct belay__call *call)
{
    if (belay_linked(&call->link)) return;
    bool first = belay_links_empty(&loop->calls);
    belay_link_append(&loop->calls, &call->link);
    if (!first) return;
    if (!loop->threads) {
        if (loop->dispatching == 0) belay__call_tell(loop); /* else it is about to run it */
        return;
    }
    /* Who must be able to count on the thread has asked for it before (belay__call_need); a log
     * line has not. */
    (void)belay__call_need(loop);
    seq_bump(loop);
}

bool belay__call_inside(const struct belay__loop *loop)
{
    return loop->calling && pthread_equal(loop->call_thread, pthread_self());
}

/* Lets the monitor go until `call_seq` moves. */
static void seq_wait(struct belay__loop *loop)
{
    uint32_t seq = atomic_load_explicit(&loop->call_seq, memory_order_acquire);
    loop->call_waiters++;
    belay__loop_leave(loop);
    belay__futex_wait(&loop->call_seq, seq, NULL);
    belay__loop_enter(loop);
    loop->call_waiters--;
}

bool belay__call_withdraw(struct belay__loop *loop, struct belay__call *call)
{
    const void *about = call->about;
    belay_unlink(&call->link);
    bool waited = false;
    loop->withdrawing++;
    while (loop->calling && loop->call_about == about && about != NULL &&
           !belay__call_inside(loop)) {
        waited = true;
        seq_wait(loop);
        belay_unlink(&call->link);
    }
    loop->withdrawing--;
    if (waited && loop->call_waiters > 0) seq_bump(loop); /* a close may wait for us */
    return waited;
}

void belay__call_settle(struct belay__loop *loop)
{
    while (loop->withdrawing > 0 || (!loop->threads && loop->calling)) seq_wait(loop);
}

void belay__call_stop(struct belay__loop *loop)
{
    belay__loop_enter(loop);
    bool started = loop->caller_started;
    loop->caller_stop = true;
    if (started) seq_bump(loop);
    else belay__call_run_all(loop);
    belay__loop_leave(loop);
    if (started) pthread_join(loop->caller, NULL);
    loop->caller_started = false;
}
