/* tokens.c - fencing tokens: a number that only grows from grant to grant (SEMANTICS 4). */
#include "scene.h"

static void must_grow(struct scene *s, uint64_t *last, const belay_lock *lock)
{
    if (atomic_load(&s->failed)) return;
    uint64_t token = belay_lock_token(lock);
    must(s, token > *last, "the token %llu follows %llu", (unsigned long long)token,
         (unsigned long long)*last);
    must(s, token < UINT64_C(1) << 63, "the token does not fit a signed column");
    *last = token;
}

static void tokens_grow_from_grant_to_grant(struct scene *s)
{
    belay *clients[] = { client_of(s, BELAY_CONTRACT_FIRST), client_of(s, BELAY_CONTRACT_SECOND) };
    const char *names[] = { name_of(s, "one"), name_of(s, "two"), name_of(s, "three") };
    uint64_t last = 0;

    for (int i = 0; i < 30; i++) {
        belay_lock *lock = take(s, clients[i % 2], names[i % 3], NULL);
        must_grow(s, &last, lock);
        refused(s, clients[(i + 1) % 2], names[i % 3], NULL, BELAY_HELD);
        released(s, lock, BELAY_OK);
        if (i % 5 == 0) pass_ms(s, 1);
    }
    for (int i = 0; i < 3; i++) { /* held at once */
        belay_lock *lock = take(s, clients[i % 2], names[i], NULL);
        must_grow(s, &last, lock);
    }
}

static void tokens_grow_when_a_lock_expires(struct scene *s)
{
    belay *clients[] = { client_of(s, BELAY_CONTRACT_FIRST), client_of(s, BELAY_CONTRACT_SECOND) };
    const char *name = name_of(s, "lock");
    belay_options lease = lease_of(s, 4, BELAY_TRY);
    uint64_t last = 0;

    for (int i = 0; i < 4; i++) {
        belay_lock *lock = take(s, clients[i % 2], name, &lease);
        must_grow(s, &last, lock);
        pass_units(s, 5);
    }
}

static void tokens_grow_for_a_new_client(struct scene *s)
{
    belay *old = client_of(s, BELAY_CONTRACT_FIRST);
    const char *name = name_of(s, "lock");
    uint64_t last = 0;

    must_grow(s, &last, take(s, old, name_of(s, "other"), NULL));
    for (int i = 0; i < 5; i++) {
        belay *new = client_of(s, i % 2 == 0 ? BELAY_CONTRACT_SECOND : BELAY_CONTRACT_FIRST);
        belay_lock *lock = take(s, new, name, NULL);
        must_grow(s, &last, lock);
        released(s, lock, BELAY_OK);
        close_client(s, new);
    }
}

static void tokens_grow_when_the_wall_clock_steps_back(struct scene *s)
{
    belay *clients[] = { client_of(s, BELAY_CONTRACT_FIRST), client_of(s, BELAY_CONTRACT_SECOND) };
    const char *name = name_of(s, "lock");
    const int64_t hour_us = INT64_C(3600000000);
    const int64_t steps[] = { hour_us, -2 * hour_us, -50 * 365 * 24 * hour_us, 0,
                              50 * 365 * 24 * hour_us + hour_us };
    uint64_t last = 0;

    for (size_t i = 0; i < sizeof steps / sizeof steps[0]; i++) {
        for (int c = 0; c < 2; c++) {
            belay_lock *lock = take(s, clients[c], name, NULL);
            must_grow(s, &last, lock);
            released(s, lock, BELAY_OK);
        }
        belay_fake_step_wall(s->world, steps[i]);
    }
}

static void extend_leaves_the_token(struct scene *s)
{
    belay *a = client_of(s, BELAY_CONTRACT_FIRST);
    belay_lock *lock = take(s, a, name_of(s, "lock"), NULL);
    if (atomic_load(&s->failed)) return;

    uint64_t token = belay_lock_token(lock);
    pass_units(s, 1);
    extended(s, lock, 0, BELAY_OK);
    must(s, belay_lock_token(lock) == token, "an extension changed the token");
    released(s, lock, BELAY_OK);
}

static void take_many(struct thread *thread)
{
    uint64_t *tokens = thread->shared;
    for (int i = 0; i < thread->rounds; i++) {
        belay_lock *lock = NULL;
        belay_status status =
            belay_acquire(thread->client, thread->name, &thread->options, &lock, NULL);
        if (!must(thread->scene, status == BELAY_OK, "%s", belay_status_name(status))) return;
        tokens[i] = belay_lock_token(lock);
        must_be(thread->scene, belay_release(lock, NULL), BELAY_OK, "release");
        must(thread->scene, i == 0 || tokens[i] > tokens[i - 1], "a thread's tokens do not grow");
    }
}

static void tokens_of_threads_are_all_different(struct scene *s)
{
    enum { THREADS = 4, ROUNDS = 50 };
    belay *clients[] = { client_of(s, BELAY_CONTRACT_FIRST), client_of(s, BELAY_CONTRACT_SECOND) };
    uint64_t tokens[THREADS][ROUNDS] = { { 0 } };
    struct thread threads[THREADS] = { 0 };
    for (int i = 0; i < THREADS; i++) {
        char tail[8];
        snprintf(tail, sizeof tail, "%d", i);
        threads[i].client = clients[i % 2];
        threads[i].name = name_of(s, tail);
        threads[i].rounds = rounds_of(s, ROUNDS) < ROUNDS ? rounds_of(s, ROUNDS) : ROUNDS;
        threads[i].shared = tokens[i];
        threads[i].options = lease_of(s, 100, BELAY_FOREVER);
        thread_begin(s, &threads[i], take_many);
    }
    for (int i = 0; i < THREADS; i++) thread_join(s, &threads[i]);

    for (int i = 0; i < THREADS * ROUNDS && !s->target->token_by_name; i++) {
        uint64_t one = tokens[i / ROUNDS][i % ROUNDS];
        for (int j = 0; j < i && one != 0; j++)
            must(s, one != tokens[j / ROUNDS][j % ROUNDS], "two grants have the token %llu",
                 (unsigned long long)one);
    }
}

const struct promise belay__contract_tokens[] = {
    PROMISE(tokens_grow_from_grant_to_grant, ON_BOTH | STARTED | FENCING),
    PROMISE(tokens_grow_when_a_lock_expires, ON_BOTH | FENCING),
    PROMISE(tokens_grow_for_a_new_client, ON_BOTH | FENCING),
    PROMISE(tokens_grow_when_the_wall_clock_steps_back, ON_BOTH | FENCING | CLOCK),
    PROMISE(extend_leaves_the_token, ON_BOTH | STARTED | FENCING),
    PROMISE(tokens_of_threads_are_all_different, ON_THREADS | FENCING | FLOWS),
    { 0 },
};
