/* loop.h - the engine of one client: whoever waits, leads.
 *
 * Everything here runs under the monitor, unless it says otherwise. See docs/engine.md for the
 * whole picture. */
#ifndef BELAY_CORE_LOOP_H
#define BELAY_CORE_LOOP_H

#include "core/alloc.h"
#include "core/monitor.h"
#include <belay/backend.h>
#include <errno.h>
#include <pthread.h>
#include <sys/epoll.h>

/* A blocked caller's seat. Lives on its stack. */
enum { BELAY__RUNNING = 0, BELAY__LEAD = 1, BELAY__DONE = 2 };
struct belay__waiter {
    _Atomic uint32_t state; /* the futex */
    bool asleep;            /* in loop->sleepers */
    bool inside;            /* counted in loop->inside */
    belay_link link;
};

/* A callback that waits for its turn. Embedded in what it is about. */
struct belay__call {
    belay_link link;
    void (*run)(struct belay__call *call); /* unlocked */
    const void *about;                     /* the lock, or NULL */
};

enum belay__turns { BELAY__TURNS_NEVER, BELAY__TURNS_WITHOUT_JOBS, BELAY__TURNS_ALWAYS };

struct belay__slot {
    belay_watch *watch; /* NULL: free */
    uint32_t generation;
};

struct belay__loop {
    struct belay__monitor monitor;
    int inside_cancelable; /* whose monitor it is: its cancel state ... */
    int inside_errno;      /* ... and errno, to be as they were */
    belay_world *world;    /* NULL: the real one */
    bool threads;          /* BELAY_THREADS: the engine's and the callbacks' may be started */
    bool worker_allowed;   /* not BELAY_DISPATCH */
    bool attached;         /* to the world */

    /* Descriptors; -1 where there is none. `inner` holds the timer, `wake_fd` and every watch;
     * `outer` (without BELAY_THREADS) holds the inner one and `call_fd`, which is readable while
     * callbacks wait: only dispatch may run them, so a blocked caller must not be woken by it. */
    int inner, outer, timer_fd, wake_fd, call_fd, engine_fd;
    struct belay__slot *slots;
    uint32_t slot_count;

    belay_timer *timers; /* the root of the heap */
    int64_t armed_ns;    /* what timer_fd stands at; INT64_MAX: nothing */

    belay_link settled;  /* ops whose `done` is due */
    belay_link deferred; /* tasks of core's own: run while unwinding */
    belay_link tasks;    /* backends': run by the leader before it sleeps */
    belay_link pokes;    /* every poke there is */
    _Atomic uint32_t poked;

    /* The lead. */
    const void *leader;   /* a waiter, the loop itself (the engine's thread), or NULL: vacant */
    bool polling;         /* the leader sleeps in epoll_wait */
    bool kicked;          /* ... and was told to wake up */
    bool call_told;       /* call_fd is readable */
    int64_t batch_ns;     /* when the first of a batch was begun; 0: none was */
    uint32_t dispatching; /* in belay_dispatch, whose end does what its callbacks begin */
    bool wanted;          /* a caller asks the engine's thread for the lead */
    uint32_t leads; /* counts callers that took the lead: the engine keeps off while it moves */
    const void *elected; /* a sleeper that was asked to take it and is on its way */
    /* May a blocked caller turn the world's clock? While the worker is at it, time must not pass
     * before its answer; but a close must end. */
    enum belay__turns turns_clock;
    belay_link sleepers;
    uint32_t inside;     /* waiters that will enter the monitor once more */
    uint32_t background; /* work that nobody waits for: started calls, extensions in flight, jobs */
    uint32_t jobs;       /* of these, the worker's */
    uint32_t minding;    /* backends with work of their own (belay_env_mind): close asks `owes` */

    _Atomic uint32_t *wakes[32]; /* futexes to wake when the monitor is left */
    uint32_t wake_count;

    /* The engine's own thread, on demand. */
    bool engine_started, engine_stop;
    bool engine_alert; /* it sleeps for good: kick it when the lead falls vacant with work in the
                          background ... */
    bool engine_blind; /* ... or at all: since somebody led it does not watch what the leader
                          watches */
    pthread_t engine;

    /* Callbacks, and the thread that runs them (BELAY_THREADS), on demand. */
    belay_link calls;
    bool caller_started, caller_stop;
    bool close_wanted;                       /* by a callback: done when it has returned ... */
    void (*close)(struct belay__loop *loop); /* ... by this, unlocked */
    bool calling;                            /* one runs now ... */
    uint32_t call_waiters;                   /* threads that wait for it to end, ... */
    uint32_t withdrawing;                    /* ... of these, the ones in belay__call_withdraw */
    const void *call_about;                  /* ... about this lock ... */
    pthread_t call_thread;                   /* ... on this thread */
    _Atomic uint32_t call_seq; /* a futex: moves when a callback ends or one is queued */
    pthread_t caller;

    struct belay__worker *worker;
};

belay_status belay__loop_init(struct belay__loop *loop, belay_world *world, belay_threads threads);
void belay__loop_stop(struct belay__loop *loop);      /* unlocked: ends the threads */
void belay__loop_fini(struct belay__loop *loop);      /* closes the descriptors */
void belay__loop_close_fds(struct belay__loop *loop); /* in a forked child: nothing else */

/* A thread must not be cancelled while it has the monitor: a write to an eventfd, a backend's I/O
 * are cancellation points. */
static inline void belay__loop_enter(struct belay__loop *loop)
{
    int was = errno, cancelable;
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancelable);
    belay__monitor_lock(&loop->monitor);
    loop->inside_cancelable = cancelable;
    loop->inside_errno = was;
}
/* Unlocks and wakes, no more: for a client that is closed. */
void belay__loop_unlock(struct belay__loop *loop);
/* Unwinds, arms the timer, passes the lead on, unlocks, wakes. */
void belay__loop_leave(struct belay__loop *loop);
/* What may be done at once: pokes, timers that are due, tasks, settled ops; until nothing is left.
 */
void belay__loop_work(struct belay__loop *loop);
/* Settled ops and deferred tasks alone. */
void belay__loop_unwind(struct belay__loop *loop);

/* An op that settled, once the stack has unwound (op.c). */
void belay__op_finish(belay_op *op);

/* Blocks the caller until its waiter is done; entered with the monitor held, returns without it. */
void belay__loop_wait(struct belay__loop *loop, struct belay__waiter *waiter);
/* Ends a waiter's waiting. The waiter must not be touched afterwards. */
void belay__loop_complete(struct belay__loop *loop, struct belay__waiter *waiter);
/* One pass for belay_dispatch, never blocking; the monitor is held before and after. */
void belay__loop_poll(struct belay__loop *loop);
/* Makes a sleeping leader look again. */
void belay__loop_kick(struct belay__loop *loop);

static inline void belay__loop_defer(struct belay__loop *loop, belay_task *task)
{
    if (!belay_linked(&task->link)) belay_link_append(&loop->deferred, &task->link);
}

/* The engine's thread: needed from now on, since there is work that nobody waits for. BELAY_NOMEM
 * when it cannot be started; OK, and nothing, without BELAY_THREADS. */
belay_status belay__engine_need(struct belay__loop *loop);
/* Something for the engine to look at. */
void belay__engine_kick(struct belay__loop *loop);
void belay__engine_stop(struct belay__loop *loop); /* unlocked */
/* Used by the engine's thread: leads until it is asked for the lead (true) or nothing is left in
 * the background. */
bool belay__loop_lead_for_engine(struct belay__loop *loop);

/* Is there work that no caller waits for? */
static inline bool belay__loop_unattended(const struct belay__loop *loop)
{
    return loop->background > 0 || loop->minding > 0;
}

/* Callbacks (call.c). */
belay_status belay__call_need(struct belay__loop *loop); /* the thread exists from now on */
void belay__call_queue(struct belay__loop *loop, struct belay__call *call);
/* call_fd is readable while callbacks wait that only belay_dispatch may run. */
void belay__call_tell(struct belay__loop *loop);
/* Takes a lock's call out of the queue and waits until one that runs has ended, unless we are
 * inside it. The monitor is held before and after; true: it was let go meanwhile. */
bool belay__call_withdraw(struct belay__loop *loop, struct belay__call *call);
/* For closing: waits until no other thread is in belay__call_withdraw or (without BELAY_THREADS) in
 * a callback. */
void belay__call_settle(struct belay__loop *loop);
void belay__call_run_all(struct belay__loop *loop); /* monitor held before and after */
bool belay__call_inside(
    const struct belay__loop *loop); /* is this thread in a callback of this client? */
void belay__call_stop(
    struct belay__loop *loop); /* unlocked: runs what is queued, ends the thread */

/* Time and chance (clock.c). */
int64_t belay__clock_now(belay_world *world);
int64_t belay__clock_wall_us(belay_world *world);
void belay__clock_random(belay_world *world, void *out, size_t length);
static inline int64_t belay__loop_now(const struct belay__loop *loop)
{
    return belay__clock_now(loop->world);
}

/* Timers (timer.c): a pairing heap; nothing can fail. */
void belay__timer_insert(belay_timer **heap, belay_timer *timer);
void belay__timer_remove(belay_timer **heap, belay_timer *timer);
static inline void belay__timer_arm(struct belay__loop *loop, belay_timer *timer, int64_t due_ns)
{
    if (belay_timer_armed(timer)) belay__timer_remove(&loop->timers, timer);
    timer->due_ns = due_ns;
    belay__timer_insert(&loop->timers, timer);
}
static inline void belay__timer_disarm(struct belay__loop *loop, belay_timer *timer)
{
    if (belay_timer_armed(timer)) belay__timer_remove(&loop->timers, timer);
}

/* Watches. */
belay_status belay__watch_add(struct belay__loop *loop, belay_watch *watch, int fd, uint32_t events,
                              belay_watch_fn *fn);
belay_status belay__watch_change(struct belay__loop *loop, belay_watch *watch, uint32_t events);
void belay__watch_remove(struct belay__loop *loop, belay_watch *watch);

/* The worker (worker.c). */
belay_status belay__worker_run(struct belay__loop *loop, belay_job *job);
void belay__worker_stop(struct belay__loop *loop); /* abandons a stuck one */

/* A thread that takes no signals of the program's; as pthread_create. */
int belay__thread_start(pthread_t *thread, void *(*run)(void *), void *arg);
/* A descriptor that is not 0, 1 or 2, close-on-exec; takes `fd` over; -1 if it cannot. */
int belay__fd_high(int fd);

#endif
