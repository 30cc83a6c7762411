/* stress.c - many at once, at random: no update is lost, no two are inside, every call is answered.
 */
#define _POSIX_C_SOURCE 200809L
#include "scene.h"

#include <sched.h>
#include <stdlib.h>

enum { THREADS = 4, NAMES = 3, ROUNDS = 150, CALLS = 400 };

/* A counter that only the holder may touch: read, pause, write, so that a second holder loses an
 * update. Relaxed atomics: what is looked for is two holders, not the order of memory. */
struct guarded {
    const char *name;
    atomic_int inside;
    atomic_int counter;
};

struct arena {
    struct guarded guarded[NAMES];
    belay *clients[2];
    atomic_int entered[NAMES]; /* how often someone was inside */
};

static void enter(struct scene *s, struct arena *arena, int which)
{
    struct guarded *g = &arena->guarded[which];
    must(s, atomic_fetch_add(&g->inside, 1) == 0, "two are inside at once");
    int seen = atomic_load_explicit(&g->counter, memory_order_relaxed);
    sched_yield();
    atomic_store_explicit(&g->counter, seen + 1, memory_order_relaxed);
    atomic_fetch_add(&arena->entered[which], 1);
    atomic_fetch_sub(&g->inside, 1);
}

static struct arena *arena_of(struct scene *s)
{
    struct arena *arena = memory_of(s, sizeof *arena);
    arena->clients[0] = client_of(s, BELAY_CONTRACT_FIRST);
    arena->clients[1] = client_of(s, BELAY_CONTRACT_SECOND);
    for (int i = 0; i < NAMES; i++) {
        char tail[8];
        snprintf(tail, sizeof tail, "%d", i);
        arena->guarded[i].name = name_of(s, tail);
    }
    return arena;
}

static void must_add_up(struct scene *s, const struct arena *arena)
{
    for (int i = 0; i < NAMES; i++) {
        int entered = atomic_load(&arena->entered[i]),
            counted = atomic_load(&arena->guarded[i].counter);
        must(s, entered == counted, "%d of %d updates were lost", entered - counted, entered);
    }
}

/* A brief wait ends with HELD; or with a doubt, when its end cut an attempt short that takes time.
 */
static bool wait_may_end(const struct scene *s, belay_status status)
{
    bool doubt = status == BELAY_UNAVAILABLE || status == BELAY_UNCERTAIN;
    return status == BELAY_HELD || (doubt && s->target->late);
}

static void one_after_the_other(struct thread *thread)
{
    struct arena *arena = thread->shared;
    struct scene *s = thread->scene;
    for (int i = 0; i < thread->rounds && !atomic_load(&s->failed); i++) {
        int which = i % NAMES;
        belay_lock *lock = NULL;
        belay_status status = belay_acquire(thread->client, arena->guarded[which].name,
                                            &thread->options, &lock, NULL);
        if (!must_be(s, status, BELAY_OK, "acquire")) return;
        enter(s, arena, which);
        must_be(s, belay_release(lock, NULL), BELAY_OK, "release");
    }
}

static void anything(struct thread *thread)
{
    struct arena *arena = thread->shared;
    struct scene *s = thread->scene;
    uint64_t random = (uint64_t)thread->number * 7919 + 1;
    for (int i = 0; i < thread->rounds && !atomic_load(&s->failed); i++) {
        uint64_t dice = random_next(&random);
        int which = (int)(dice % NAMES);
        const char *name = arena->guarded[which].name;
        belay *client = arena->clients[dice / 8 % 2];
        belay_options options = thread->options;
        belay_lock *lock = NULL;
        options.wait_ms = dice / 16 % 3 == 0 ? BELAY_TRY : dice / 16 % 3 == 1 ? 200 : BELAY_FOREVER;
        options.keep = dice / 64 % 4 == 0 ? BELAY_KEEP_ON : BELAY_KEEP_OFF;
        belay_status status = belay_acquire(client, name, &options, &lock, NULL);
        if (options.wait_ms != BELAY_FOREVER && wait_may_end(s, status)) continue;
        if (!must_be(s, status, BELAY_OK, "acquire")) return;
        enter(s, arena, which);
        if (dice / 256 % 3 == 0) must_be(s, belay_extend(lock, 0, NULL), BELAY_OK, "extend");
        if (dice / 1024 % 4 == 0 && s->target->inspects) {
            belay_info info = { .size = sizeof info };
            must_be(s, belay_inspect(client, name, &info, NULL), BELAY_OK, "inspect");
            must(s, info.held && strcmp(info.owner, belay_lock_owner(lock)) == 0,
                 "another holds it");
        }
        enter(s, arena, which);
        must(s, belay_lock_valid(lock, 0), "a lock ended long before its TTL");
        must_be(s, belay_release(lock, NULL), BELAY_OK, "release");
    }
}

static void in_threads(struct scene *s, void (*run)(struct thread *), int rounds)
{
    struct arena *arena = arena_of(s);
    struct thread threads[THREADS] = { 0 };
    for (int i = 0; i < THREADS; i++) {
        threads[i].client = arena->clients[i % 2];
        threads[i].number = i;
        threads[i].rounds = rounds_of(s, rounds);
        threads[i].shared = arena;
        threads[i].options = lease_of(s, 6000, BELAY_FOREVER);
        thread_begin(s, &threads[i], run);
    }
    for (int i = 0; i < THREADS; i++) thread_join(s, &threads[i]);
    must_add_up(s, arena);
}

static void threads_of_both_clients_lose_no_update(struct scene *s)
{
    in_threads(s, one_after_the_other, ROUNDS);
}

static void threads_that_do_anything_lose_no_update(struct scene *s)
{
    in_threads(s, anything, ROUNDS);
}

/* ------------------------------------------------------------------ started calls */

struct flood {
    struct scene *scene;
    struct arena *arena;
    atomic_int answered;
    int size;
};

struct drop {
    struct flood *flood;
    int which;
    bool patient;
    atomic_int count;
    belay_request *request;
};

static void drop_fn(void *arg, belay_status status, belay_lock *lock, const belay_error *err)
{
    struct drop *drop = arg;
    struct scene *s = drop->flood->scene;
    (void)err;
    must(s, atomic_fetch_add(&drop->count, 1) == 0, "a started call called back twice");
    bool allowed = status == BELAY_OK || status == BELAY_CANCELED ||
                   (!drop->patient && wait_may_end(s, status));
    must(s, allowed, "a started call: %s", belay_status_name(status));
    if (status == BELAY_OK) {
        enter(s, drop->flood->arena, drop->which);
        must_be(s, belay_release(lock, NULL), BELAY_OK, "release");
    }
    atomic_fetch_add(&drop->flood->answered, 1);
}

static bool flood_is_over(void *arg)
{
    struct flood *flood = arg;
    return atomic_load(&flood->answered) == flood->size;
}

static void started_calls_at_random_are_all_answered(struct scene *s)
{
    struct flood *flood = memory_of(s, sizeof *flood);
    flood->scene = s;
    flood->arena = arena_of(s);
    flood->size = rounds_of(s, CALLS);
    struct drop *drops = memory_of(s, (size_t)flood->size * sizeof *drops);
    uint64_t random = 3;
    for (int i = 0; i < flood->size && !atomic_load(&s->failed); i++) {
        uint64_t dice = random_next(&random);
        struct drop *drop = &drops[i];
        belay_options options = lease_of(s, 6000, dice / 16 % 2 == 0 ? BELAY_FOREVER : 30);
        *drop = (struct drop){ .flood = flood,
                               .which = (int)(dice % NAMES),
                               .patient = options.wait_ms == BELAY_FOREVER };
        must_be(s,
                belay_acquire_start(flood->arena->clients[dice / 8 % 2],
                                    flood->arena->guarded[drop->which].name, &options, drop_fn,
                                    drop, &drop->request, NULL),
                BELAY_OK, "acquire_start");
        struct drop *victim = &drops[dice / 1024 % (uint64_t)(i + 1)];
        if (dice / 32 % 4 == 0) belay_request_cancel(victim->request);
        if (dice / 128 % 4 == 0) drive(s);
        if (dice / 512 % 8 == 0) pass_ms(s, 7);
    }
    until(s, flood_is_over, flood, "every answer");
    must_add_up(s, flood->arena);
    for (int i = 0; i < flood->size; i++)
        if (drops[i].request != NULL) belay_request_free(drops[i].request);
}

/* FAULTS 54: extend, release and loss race on one lock. */
static void extend_all_the_time(struct thread *thread)
{
    struct scene *s = thread->scene;
    atomic_bool *over = thread->shared;
    while (!atomic_load(over) && !atomic_load(&s->failed)) {
        belay_status status = belay_extend(thread->lock, 0, NULL);
        must(s, status == BELAY_OK || status == BELAY_LOST, "extend: %s",
             belay_status_name(status));
        (void)belay_lock_valid(thread->lock, 0);
        (void)belay_lock_remaining_ms(thread->lock);
    }
}

static void count_loss(void *arg, belay_lock *lock, const belay_error *why)
{
    (void)lock;
    (void)why;
    atomic_fetch_add((atomic_int *)arg, 1);
}

static void extensions_and_loss_race_and_one_wins(struct scene *s)
{
    belay *a = client_of(s, BELAY_CONTRACT_FIRST), *b = client_of(s, BELAY_CONTRACT_SECOND);
    const char *name = name_of(s, "lock");
    for (int i = 0; i < rounds_of(s, 10) && !atomic_load(&s->failed); i++) {
        atomic_int *losses = memory_of(s, sizeof *losses);
        atomic_bool over = false;
        belay_options lease = lease_of(s, 10, BELAY_TRY);
        lease.keep = i % 2 == 0 ? BELAY_KEEP_ON : BELAY_KEEP_OFF;
        lease.on_lost = count_loss;
        lease.arg = losses;
        belay_lock *lock = take(s, a, name, &lease);
        struct thread threads[2] = { 0 };
        for (int t = 0; t < 2; t++) {
            threads[t].lock = lock;
            threads[t].shared = &over;
            thread_begin(s, &threads[t], extend_all_the_time);
        }
        for (int d = 0; d < 3; d++) drive(s);
        if (s->target->breaks && s->target->inspects) break_it(s, b, name);
        else pass_units(s, 11);
        for (int d = 0; d < 3; d++) drive(s);
        atomic_store(&over, true);
        for (int t = 0; t < 2; t++) thread_join(s, &threads[t]);
        belay_status status = let_go(s, lock);
        bool gone = s->target->breaks && s->target->inspects;
        must(s, status == BELAY_LOST || (!gone && status == BELAY_OK), "release: %s",
             belay_status_name(status));
        must(s, atomic_load(losses) <= 1, "on_lost came %d times", atomic_load(losses));
        drive(s);
        released(s, take(s, b, name, NULL), BELAY_OK);
    }
}

const struct promise belay__contract_stress[] = {
    PROMISE(threads_of_both_clients_lose_no_update, ON_THREADS | FLOWS),
    PROMISE(threads_that_do_anything_lose_no_update, ON_THREADS | FLOWS),
    PROMISE(started_calls_at_random_are_all_answered, ON_BOTH | FLOWS),
    PROMISE(extensions_and_loss_race_and_one_wins, ON_THREADS),
    { 0 },
};
