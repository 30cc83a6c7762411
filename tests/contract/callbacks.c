/* callbacks.c - what is told, how often, on which thread; and that a callback may do what a program
 * does. */
#include "scene.h"

#include <poll.h>

/* What on_lost saw. */
struct loss {
    struct scene *scene;
    atomic_int count;
    bool lets_go; /* releases inside the callback */
    _Atomic int64_t at_ns;
    belay_lock *lock; /* of the call; compared, never used */
    belay_status released;
};

static void lost_fn(void *arg, belay_lock *lock, const belay_error *why)
{
    struct loss *loss = arg;
    struct scene *s = loss->scene;
    atomic_store(&loss->at_ns, now_of(s));
    loss->lock = lock;
    must(s, !belay_lock_valid(lock, 0), "on_lost came for a lock that is valid");
    must(s, why != NULL && why->status == BELAY_LOST && why->text[0] != '\0',
         "on_lost without a reason");
    if (loss->lets_go) {
        let_be(s, lock);
        loss->released = belay_release(lock, NULL);
    }
    atomic_fetch_add(&loss->count, 1);
}

static bool loss_seen(void *arg)
{
    struct loss *loss = arg;
    return atomic_load(&loss->count) > 0;
}

static struct loss *loss_of(struct scene *s, belay_options *options)
{
    struct loss *loss = memory_of(s, sizeof *loss);
    loss->scene = s;
    options->on_lost = lost_fn;
    options->arg = loss;
    return loss;
}

/* Nothing more comes, whatever happens. */
static void must_stay_one(struct scene *s, struct loss *loss)
{
    for (int i = 0; i < 5; i++) {
        pass_units(s, 5);
        drive(s);
    }
    must(s, atomic_load(&loss->count) == 1, "on_lost came %d times", atomic_load(&loss->count));
}

static void a_loss_is_told_once_at_the_deadline(struct scene *s)
{
    belay *a = client_of(s, BELAY_CONTRACT_FIRST);
    belay_options lease = lease_of(s, 6, BELAY_TRY);
    struct loss *loss = loss_of(s, &lease);
    belay_lock *lock = take(s, a, name_of(s, "lock"), &lease);

    pass_units(s, 3);
    drive(s);
    must(s, !loss_seen(loss), "on_lost came long before the deadline");
    int64_t deadline_ns = now_of(s) + (belay_lock_remaining_ms(lock) + 1) * NS_PER_MS;
    pass_units(s, 3);
    until(s, loss_seen, loss, "on_lost");
    must(s, loss->lock == lock, "on_lost came for another lock");
    if (s->world != NULL && !s->flows)
        must(s, atomic_load(&loss->at_ns) <= deadline_ns + units(s, 3) * NS_PER_MS,
             "on_lost was late");
    extended(s, lock, 0, BELAY_LOST);
    must_stay_one(s, loss);
    released(s, lock, BELAY_LOST);
    must_stay_one(s, loss);
}

/* A kept lock that was broken: found out by its next extension, or told by the backend at once. */
static void the_loss_of_a_broken_lock_is_told_once(struct scene *s)
{
    belay *a = client_of(s, BELAY_CONTRACT_FIRST), *b = client_of(s, BELAY_CONTRACT_SECOND);
    const char *name = name_of(s, "lock");
    belay_options lease = lease_of(s, 12, BELAY_TRY);
    lease.keep = BELAY_KEEP_ON;
    struct loss *loss = loss_of(s, &lease);
    belay_lock *lock = take(s, a, name, &lease);

    pass_units(s, 1);
    break_it(s, b, name);
    int64_t before = now_of(s);
    for (int i = 0; i < 12 && !loss_seen(loss); i++) {
        pass_units(s, 1);
        for (int d = 0; d < 20 && !loss_seen(loss); d++) drive(s);
    }
    until(s, loss_seen, loss, "on_lost");
    if (s->dispatch && s->world != NULL)
        must(s, atomic_load(&loss->at_ns) - before <= (int64_t)units(s, 7) * NS_PER_MS,
             "a kept lock that was broken was told after more than half of its TTL");
    must(s, !belay_lock_valid(lock, 0), "a lost lock is valid");
    must_stay_one(s, loss);
    released(s, lock, BELAY_LOST);
    must_stay_one(s, loss);
}

static void a_loss_that_extend_found_is_told_once(struct scene *s)
{
    belay *a = client_of(s, BELAY_CONTRACT_FIRST), *b = client_of(s, BELAY_CONTRACT_SECOND);
    const char *name = name_of(s, "lock");
    belay_options lease = lease_of(s, 12, BELAY_TRY);
    struct loss *loss = loss_of(s, &lease);
    belay_lock *lock = take(s, a, name, &lease);

    break_it(s, b, name);
    extended(s, lock, 0, BELAY_LOST);
    until(s, loss_seen, loss, "on_lost");
    must_stay_one(s, loss);
    released(s, lock, BELAY_LOST);
}

static void a_release_inside_on_lost_works(struct scene *s)
{
    belay *a = client_of(s, BELAY_CONTRACT_FIRST);
    const char *name = name_of(s, "lock");
    belay_options lease = lease_of(s, 4, BELAY_TRY);

    for (int i = 0; i < 3; i++) {
        struct loss *loss = loss_of(s, &lease);
        loss->lets_go = true;
        take(s, a, name, &lease);
        pass_units(s, 5);
        until(s, loss_seen, loss, "on_lost");
        must_be(s, loss->released, BELAY_LOST, "the release inside on_lost");
        must_stay_one(s, loss);
    }
    released(s, take(s, a, name, NULL), BELAY_OK);
}

static void nothing_is_told_after_a_release(struct scene *s)
{
    belay *a = client_of(s, BELAY_CONTRACT_FIRST);
    belay_options lease = lease_of(s, 4, BELAY_TRY);

    for (int i = 0; i < 6; i++) {
        lease.keep = i % 2 == 0 ? BELAY_KEEP_OFF : BELAY_KEEP_ON;
        struct loss *loss = loss_of(s, &lease);
        belay_lock *lock = take(s, a, name_of(s, "lock"), &lease);
        released(s, lock, BELAY_OK);
        pass_units(s, 10);
        drive(s);
        must(s, !loss_seen(loss), "on_lost came for a lock that was released");
    }
}

/* The release races with the deadline: when it has returned, nothing is running or will start. */
static void a_release_at_the_deadline_ends_the_telling(struct scene *s)
{
    belay *a = client_of(s, BELAY_CONTRACT_FIRST);
    const char *name = name_of(s, "lock");
    belay_options lease = lease_of(s, 4, BELAY_TRY);

    for (int i = 0; i < rounds_of(s, 50) && !atomic_load(&s->failed); i++) {
        struct loss *loss = loss_of(s, &lease);
        belay_lock *lock = take(s, a, name, &lease);
        if (s->world != NULL) belay_fake_advance(s->world, (int64_t)lease.ttl_ms * NS_PER_MS);
        let_go(s, lock);
        int told = atomic_load(&loss->count);
        loss->lock = NULL;
        drive(s);
        must(s, atomic_load(&loss->count) == told && loss->lock == NULL,
             "on_lost came after the release had returned");
        must(s, told <= 1, "on_lost came %d times", told);
    }
}

/* ------------------------------------------------------------------ started calls */

static void every_started_call_calls_back_once(struct scene *s)
{
    belay *a = client_of(s, BELAY_CONTRACT_FIRST);
    const char *name = name_of(s, "lock");
    belay_options brief = lease_of(s, 10, units(s, 1));
    struct call *calls[6] = { 0 };

    for (int i = 0; i < 6; i++) calls[i] = call_begin(s, a, name, &brief, NULL);
    for (int i = 0; i < 6; i++) call_await(s, calls[i]); /* call_fn sees a second time */
    int got = 0;
    for (int i = 0; i < 6; i++) {
        must(s, calls[i]->status == (i == 0 ? BELAY_OK : BELAY_HELD), "call %d: %s", i,
             belay_status_name(calls[i]->status));
        got += calls[i]->lock != NULL;
    }
    must(s, got == 1, "%d of them got the lock", got);
    for (int i = 0; i < 20; i++) extended(s, calls[0]->lock, 0, BELAY_OK);
    released(s, calls[0]->lock, BELAY_OK);
    pass_units(s, 5);
    drive(s);
}

static void a_start_that_fails_never_calls_back(struct scene *s)
{
    belay *a = client_of(s, BELAY_CONTRACT_FIRST);
    belay_options wrong = lease_of(s, 10, BELAY_TRY);
    wrong.ttl_ms = 1;
    struct call *call = call_new(s);
    belay_lock *lock = take(s, a, name_of(s, "lock"), NULL);
    if (atomic_load(&s->failed)) return;
    belay_error err = BELAY_ERROR_INIT;

    must_be(s, belay_acquire_start(a, "", NULL, call_fn, call, NULL, &err), BELAY_INVALID,
            "acquire_start without a name");
    must_be(s, err.status, BELAY_INVALID, "its error");
    must_be(s, belay_acquire_start(a, "x", &wrong, call_fn, call, NULL, &err), BELAY_INVALID,
            "acquire_start with a wrong TTL");
    must_be(s, belay_extend_start(lock, 1, call_fn, call, NULL, &err), BELAY_INVALID,
            "extend_start with a wrong TTL");
    pass_units(s, 1);
    drive(s);
    must(s, !call_done(call), "a start that failed called back");
    released(s, lock, BELAY_OK);
}

static void a_request_may_be_freed_at_any_time(struct scene *s)
{
    belay *a = client_of(s, BELAY_CONTRACT_FIRST);
    const char *name = name_of(s, "lock");
    if (atomic_load(&s->failed)) return;

    struct call *early = call_new(s);
    must_be(s, belay_acquire_start(a, name, NULL, call_fn, early, &early->request, NULL), BELAY_OK,
            "acquire_start");
    belay_request_free(early->request);
    early->request = NULL;
    must_be(s, call_await(s, early), BELAY_OK, "acquire");

    struct call *none = call_new(s);
    must_be(s, belay_extend_start(early->lock, 0, call_fn, none, NULL, NULL), BELAY_OK,
            "extend_start without a handle");
    must_be(s, call_await(s, none), BELAY_OK, "extend");
    released(s, early->lock, BELAY_OK);
}

/* ------------------------------------------------------------------ which thread, and when */

enum { CALLS = 8 };

struct watcher {
    struct scene *scene;
    belay *client;
    atomic_bool in_call; /* the main thread is inside a call that is not belay_dispatch */
    atomic_int inside;   /* callbacks that run now */
    atomic_int called;
    atomic_bool go_on; /* of a callback that blocks */
    pthread_t main_thread;
    belay_status nested;
    const char *name;
};

static void watch_fn(void *arg, belay_status status, belay_lock *lock, const belay_error *err)
{
    struct watcher *w = arg;
    struct scene *s = w->scene;
    (void)err;
    must(s, atomic_fetch_add(&w->inside, 1) == 0, "two callbacks at once");
    bool on_main = pthread_equal(pthread_self(), w->main_thread) != 0;
    must(s, on_main == s->dispatch, "a callback on %s thread",
         on_main ? "the caller's" : "a strange");
    must(s, !s->dispatch || !atomic_load(&w->in_call), "a callback in the middle of another call");
    if (status == BELAY_OK) belay_release(lock, NULL);
    atomic_fetch_sub(&w->inside, 1);
    atomic_fetch_add(&w->called, 1);
}

static bool watcher_called(void *arg)
{
    struct watcher *w = arg;
    return atomic_load(&w->called) == CALLS;
}

static void callbacks_come_from_dispatch_or_their_own_thread(struct scene *s)
{
    belay *a = client_of(s, BELAY_CONTRACT_FIRST);
    struct watcher *w = memory_of(s, sizeof *w);
    w->scene = s;
    w->main_thread = s->main_thread;
    if (atomic_load(&s->failed)) return;

    atomic_store(&w->in_call, true);
    for (int i = 0; i < CALLS; i++) {
        char tail[8];
        snprintf(tail, sizeof tail, "%d", i);
        must_be(s, belay_acquire_start(a, name_of(s, tail), NULL, watch_fn, w, NULL, NULL),
                BELAY_OK, "acquire_start");
        belay_lock *lock = NULL;
        (void)take_status(s, a, name_of(s, "other"), NULL, &lock);
        let_go(s, lock);
    }
    atomic_store(&w->in_call, false);
    until(s, watcher_called, w, "the callbacks");
}

static void nest_fn(void *arg, belay_status status, belay_lock *lock, const belay_error *err)
{
    struct watcher *w = arg;
    belay_options lease = lease_of(w->scene, 10, units(w->scene, 1));
    belay_lock *inner = NULL;
    (void)err;
    must_be(w->scene, status, BELAY_OK, "the outer acquire");
    must_be(w->scene, belay_extend(lock, 0, NULL), BELAY_OK, "extend in a callback");
    must_be(w->scene, belay_acquire(w->client, w->name, &lease, &inner, NULL), BELAY_OK,
            "acquire in a callback");
    must_be(w->scene, belay_release(inner, NULL), BELAY_OK, "release in a callback");
    must_be(w->scene, belay_release(lock, NULL), BELAY_OK, "release of the outer lock");
    atomic_store(&w->called, CALLS);
}

static void a_callback_may_call_belay(struct scene *s)
{
    belay *a = client_of(s, BELAY_CONTRACT_FIRST);
    struct watcher *w = memory_of(s, sizeof *w);
    w->scene = s;
    w->client = a;
    w->name = name_of(s, "inner");
    const char *outer = name_of(s, "outer");
    if (atomic_load(&s->failed)) return;

    must_be(s, belay_acquire_start(a, outer, NULL, nest_fn, w, NULL, NULL), BELAY_OK,
            "acquire_start");
    until(s, watcher_called, w, "the callback");
    released(s, take(s, a, outer, NULL), BELAY_OK);
}

static void block_fn(void *arg, belay_status status, belay_lock *lock, const belay_error *err)
{
    struct watcher *w = arg;
    (void)err;
    if (status == BELAY_OK) belay_release(lock, NULL);
    atomic_store(&w->inside, 1);
    while (!atomic_load(&w->go_on) && !atomic_load(&w->scene->failed)) drive(w->scene);
    atomic_store(&w->called, CALLS);
}

static bool is_blocking(void *arg)
{
    struct watcher *w = arg;
    return atomic_load(&w->inside) == 1;
}

static void a_callback_that_blocks_stops_no_extension(struct scene *s)
{
    belay *a = client_of(s, BELAY_CONTRACT_FIRST);
    struct watcher *w = memory_of(s, sizeof *w);
    w->scene = s;
    belay_options lease = lease_of(s, 12, BELAY_TRY);
    lease.keep = BELAY_KEEP_ON;
    struct kept kept = { take(s, a, name_of(s, "kept"), &lease), units(s, 7) };
    if (atomic_load(&s->failed)) return;
    must_be(s, belay_acquire_start(a, name_of(s, "other"), NULL, block_fn, w, NULL, NULL), BELAY_OK,
            "acquire_start");
    until(s, is_blocking, w, "the callback");

    for (int i = 0; i < 24; i++) {
        pass_units(s, 1);
        until(s, is_kept_up, &kept, "an extension while a callback blocks");
    }
    released(s, take(s, a, name_of(s, "third"), NULL), BELAY_OK);
    released(s, kept.lock, BELAY_OK);
    atomic_store(&w->go_on, true);
    until(s, watcher_called, w, "the end of the callback");
}

/* ------------------------------------------------------------------ the descriptor */

static bool is_readable(void *arg)
{
    struct pollfd fd = { .fd = *(const int *)arg, .events = POLLIN };
    return poll(&fd, 1, 0) == 1 && (fd.revents & POLLIN) != 0;
}

static void the_descriptor_tells_when_to_dispatch(struct scene *s)
{
    belay *a = client_of(s, BELAY_CONTRACT_FIRST), *b = client_of(s, BELAY_CONTRACT_SECOND);
    const char *name = name_of(s, "lock");
    belay_options lease = lease_of(s, 10, BELAY_TRY), wait = lease_of(s, 10, units(s, 2));
    if (atomic_load(&s->failed)) return;
    int fd = belay_fd(b);
    must(s, fd >= 0, "no descriptor");
    belay_lock *lock = take(s, a, name, &lease);
    struct call *call = call_begin(s, b, name, &wait, NULL);

    /* A loop as a program writes it: nothing but poll and dispatch, while time goes on. */
    for (int i = 0; i < 400 && !call_done(call) && !atomic_load(&s->failed); i++) {
        if (s->world != NULL) belay_fake_advance(s->world, 10 * NS_PER_MS);
        for (int d = 0; d < 20 && is_readable(&fd); d++)
            must_be(s, belay_dispatch(b), BELAY_OK, "dispatch");
        if (s->world == NULL) pass_ms(s, 1);
    }
    must(s, call_done(call), "the descriptor did not tell of a wait that is over");
    must_be(s, call->status, BELAY_HELD, "the waiter");
    for (int d = 0; d < 20 && is_readable(&fd); d++)
        must_be(s, belay_dispatch(b), BELAY_OK, "dispatch");
    must(s, !is_readable(&fd), "the descriptor stays readable with nothing to do");
    released(s, lock, BELAY_OK);
}

static void with_threads_there_is_no_descriptor(struct scene *s)
{
    belay *a = client_of(s, BELAY_CONTRACT_FIRST);
    if (atomic_load(&s->failed)) return;
    must(s, belay_fd(a) == -1, "a descriptor with BELAY_THREADS");
    must_be(s, belay_dispatch(a), BELAY_INVALID, "dispatch with BELAY_THREADS");
}

const struct promise belay__contract_callbacks[] = {
    PROMISE(a_loss_is_told_once_at_the_deadline, ON_BOTH),
    PROMISE(the_loss_of_a_broken_lock_is_told_once, ON_BOTH | BREAK | INSPECT),
    PROMISE(a_loss_that_extend_found_is_told_once, ON_BOTH | STARTED | BREAK | INSPECT),
    PROMISE(a_release_inside_on_lost_works, ON_BOTH),
    PROMISE(nothing_is_told_after_a_release, ON_BOTH | STARTED),
    PROMISE(a_release_at_the_deadline_ends_the_telling, ON_BOTH | CLOCK),
    PROMISE(every_started_call_calls_back_once, ON_BOTH | STARTED | FLOWS),
    PROMISE(a_start_that_fails_never_calls_back, ON_BOTH),
    PROMISE(a_request_may_be_freed_at_any_time, ON_BOTH | FLOWS),
    PROMISE(callbacks_come_from_dispatch_or_their_own_thread, ON_BOTH | FLOWS),
    PROMISE(a_callback_may_call_belay, ON_BOTH | FLOWS),
    PROMISE(a_callback_that_blocks_stops_no_extension, ON_THREADS),
    PROMISE(the_descriptor_tells_when_to_dispatch, ON_DISPATCH),
    PROMISE(with_threads_there_is_no_descriptor, ON_THREADS),
    { 0 },
};
