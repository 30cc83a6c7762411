/* scene_calls.c - locks, started calls and threads of a promise; see scene.h. */
#define _POSIX_C_SOURCE 200809L
#include "scene.h"

/* ------------------------------------------------------------------ locks */

belay_options lease_of(const struct scene *s, uint32_t ttl_units, int64_t wait_ms)
{
    belay_options options = BELAY_OPTIONS_INIT;
    options.ttl_ms = units(s, ttl_units);
    options.wait_ms = wait_ms;
    options.keep = BELAY_KEEP_OFF;
    return options;
}

static bool by_start(const struct scene *s)
{
    return s->started && pthread_equal(pthread_self(), s->main_thread);
}

static void acquired_fn(void *arg, belay_status status, belay_lock *lock, const belay_error *err);

/* A start may answer at once, by its error: then it never calls back. */
static belay_status take_by_start(struct scene *s, belay *client, const char *name,
                                  const belay_options *options, belay_lock **out)
{
    struct call *call = call_new(s);
    belay_error err = BELAY_ERROR_INIT;
    belay_status status =
        belay_acquire_start(client, name, options, acquired_fn, call, &call->request, &err);
    must_be_told(s, status, &err);
    if (status != BELAY_OK) {
        drive(s);
        must(s, !call_done(call), "a start that failed called back");
        call->request = NULL;
        return status;
    }
    status = call_await(s, call);
    if (call_done(call)) *out = call->lock; /* given up otherwise: it may answer yet */
    return status;
}

belay_status take_status(struct scene *s, belay *client, const char *name,
                         const belay_options *options, belay_lock **out)
{
    belay_options defaults = lease_of(s, 10, BELAY_TRY);
    if (options == NULL) options = &defaults;
    *out = NULL;
    if (atomic_load(&s->failed)) return BELAY_CLOSED;
    if (by_start(s)) return take_by_start(s, client, name, options, out);
    belay_error err = BELAY_ERROR_INIT;
    belay_lock *lock = (belay_lock *)(void *)s; /* anything: it must be overwritten */
    belay_status status = belay_acquire(client, name, options, &lock, &err);
    must_be_told(s, status, &err);
    must(s, (status == BELAY_OK) == (lock != NULL), "%s %s a lock", belay_status_name(status),
         lock != NULL ? "with" : "without");
    if (status != BELAY_OK) return status;
    track(s, lock);
    *out = lock;
    return status;
}

belay_lock *take_at(struct scene *s, belay *client, const char *name, const belay_options *options,
                    const char *file, int line)
{
    belay_lock *lock = NULL;
    belay_status status = take_status(s, client, name, options, &lock);
    must_equal_status(s, status, BELAY_OK, file, line, "acquire");
    return lock;
}

void refuse_at(struct scene *s, belay *client, const char *name, const belay_options *options,
               belay_status wanted, const char *file, int line)
{
    belay_lock *lock = NULL;
    belay_status status = take_status(s, client, name, options, &lock);
    must_equal_status(s, status, wanted, file, line, "acquire");
}

belay_status lengthen(struct scene *s, belay_lock *lock, uint32_t ttl_ms)
{
    if (atomic_load(&s->failed) || lock == NULL) return BELAY_CLOSED;
    belay_error err = BELAY_ERROR_INIT;
    if (by_start(s)) {
        struct call *call = call_new(s);
        belay_status status = belay_extend_start(lock, ttl_ms, call_fn, call, &call->request, &err);
        if (status != BELAY_OK) return status;
        status = call_await(s, call);
        must(s, !call_done(call) || call->lock == lock, "an extend called back with another lock");
        return status;
    }
    belay_status status = belay_extend(lock, ttl_ms, &err);
    must_be_told(s, status, &err);
    return status;
}

belay_status let_go(struct scene *s, belay_lock *lock)
{
    if (atomic_load(&s->failed) || lock == NULL) return BELAY_CLOSED;
    let_be(s, lock);
    belay_error err = BELAY_ERROR_INIT;
    if (by_start(s)) {
        struct call *call = call_new(s);
        belay_status status = belay_release_start(lock, call_fn, call, &call->request, &err);
        if (status != BELAY_OK) return status;
        status = call_await(s, call);
        must(s, !call_done(call) || call->lock == NULL, "a release called back with a lock");
        return status;
    }
    belay_status status = belay_release(lock, &err);
    must_be_told(s, status, &err);
    return status;
}

void break_it(struct scene *s, belay *client, const char *name)
{
    belay_info info = { .size = sizeof info };
    belay_error err = BELAY_ERROR_INIT;
    if (atomic_load(&s->failed)) return;
    must_be(s, belay_inspect(client, name, &info, &err), BELAY_OK, "inspect");
    must(s, info.held, "the lock that is to be broken is not held");
    must_be(s, belay_break(client, name, &info, &err), BELAY_OK, "break");
}

bool is_kept_up(void *arg)
{
    struct kept *kept = arg;
    return belay_lock_remaining_ms(kept->lock) >= kept->least_ms;
}

bool can_be_taken(void *arg)
{
    struct taker *taker = arg;
    return take_status(taker->scene, taker->client, taker->name, NULL, &taker->lock) == BELAY_OK;
}

/* ------------------------------------------------------------------ started calls */

struct call *call_new(struct scene *s)
{
    struct call *call = memory_of(s, sizeof *call);
    call->scene = s;
    call->status = BELAY_CLOSED;
    pthread_mutex_lock(&s->lock);
    call->next = s->calls;
    s->calls = call;
    pthread_mutex_unlock(&s->lock);
    return call;
}

void call_fn(void *arg, belay_status status, belay_lock *lock, const belay_error *err)
{
    struct call *call = arg;
    struct scene *s = call->scene;
    if (!must(s, atomic_load(&call->count) == 0, "a started call called back twice")) return;
    call->status = status;
    call->lock = lock;
    call->at_ns = now_of(s);
    call->thread = pthread_self();
    if (call->counter != NULL) call->order = atomic_fetch_add(call->counter, 1) + 1;
    if (must(s, err != NULL, "a callback without an error")) {
        must_be_told(s, status, err);
        call->err = *err;
    }
    atomic_store(&call->count, 1);
}

bool call_done(const struct call *call)
{
    return atomic_load(&call->count) != 0;
}

/* The callback of an acquire: the lock is the scene's from now on. */
static void acquired_fn(void *arg, belay_status status, belay_lock *lock, const belay_error *err)
{
    struct call *call = arg;
    must(call->scene, (status == BELAY_OK) == (lock != NULL), "%s %s a lock",
         belay_status_name(status), lock != NULL ? "with" : "without");
    track(call->scene, lock);
    call_fn(arg, status, lock, err);
}

struct call *call_begin(struct scene *s, belay *client, const char *name,
                        const belay_options *options, atomic_int *counter)
{
    struct call *call = call_new(s);
    call->counter = counter;
    if (atomic_load(&s->failed)) return call;
    belay_error err = BELAY_ERROR_INIT;
    belay_status status =
        belay_acquire_start(client, name, options, acquired_fn, call, &call->request, &err);
    if (!must(s, status == BELAY_OK, "acquire_start: %s: %s", belay_status_name(status), err.text))
        call->request = NULL;
    return call;
}

void call_cancel(struct call *call)
{
    if (call->request != NULL) belay_request_cancel(call->request);
}

static bool call_seen(void *arg)
{
    return call_done(arg);
}

belay_status call_await(struct scene *s, struct call *call)
{
    until(s, call_seen, call, "a started call's answer");
    if (!call_done(call)) return BELAY_CLOSED;
    belay_request_free(call->request);
    call->request = NULL;
    return call->status;
}

/* ------------------------------------------------------------------ threads */

static void *thread_main(void *arg)
{
    struct thread *thread = arg;
    thread->run(thread);
    atomic_store(&thread->ended, true);
    return NULL;
}

void thread_begin(struct scene *s, struct thread *thread, void (*run)(struct thread *))
{
    if (atomic_load(&s->failed)) return;
    thread->scene = s;
    thread->run = run;
    if (thread->options.cancel == NULL) {
        if (thread->options.size == 0) thread->options = lease_of(s, 10, BELAY_TRY);
        thread->options.cancel = cancel_of(s);
    }
    thread->begun = pthread_create(&thread->id, NULL, thread_main, thread) == 0;
    must(s, thread->begun, "no thread");
}

static bool thread_seen(void *arg)
{
    struct thread *thread = arg;
    return atomic_load(&thread->ended);
}

void thread_join(struct scene *s, struct thread *thread)
{
    if (thread->begun) {
        until(s, thread_seen, thread, "a thread's end");
        if (atomic_load(&s->failed)) belay_cancel_fire(thread->options.cancel);
        pthread_join(thread->id, NULL);
        thread->begun = false;
    }
}

void thread_acquire(struct thread *thread)
{
    belay_error err = BELAY_ERROR_INIT;
    thread->status =
        belay_acquire(thread->client, thread->name, &thread->options, &thread->lock, &err);
    thread->at_ns = now_of(thread->scene);
    must_be_told(thread->scene, thread->status, &err);
    track(thread->scene, thread->lock);
}
