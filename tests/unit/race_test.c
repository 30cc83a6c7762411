/* race_test.c - extend, release, loss, a foreigner's break and the keeper race on one lock: FAULTS
 * row 54. */
#define _GNU_SOURCE
#include "tests/unit/engine_help.h"

struct race {
    belay *client, *other;
    belay_lock *lock;
    pthread_barrier_t start;
    atomic_int lost, extended, after_release;
    atomic_bool released;
    belay_status release;
};

static void on_lost(void *arg, belay_lock *lock, const belay_error *why)
{
    struct race *race = arg;
    (void)why;
    if (atomic_load(&race->released) || lock != race->lock)
        atomic_fetch_add(&race->after_release, 1);
    atomic_fetch_add(&race->lost, 1);
}

static void *extends(void *arg)
{
    struct race *race = arg;
    pthread_barrier_wait(&race->start);
    bool lost = false;
    for (int i = 0; i < 5; i++) {
        belay_status status = belay_extend(race->lock, 0, NULL);
        if (status == BELAY_OK && lost)
            atomic_fetch_add(&race->extended, 1000); /* a loss is final */
        if (status == BELAY_LOST) lost = true;
        if (lost && belay_lock_valid(race->lock, 0)) atomic_fetch_add(&race->extended, 1000);
    }
    return NULL;
}

static void *breaks(void *arg)
{
    struct race *race = arg;
    belay_info info = { .size = sizeof info };
    pthread_barrier_wait(&race->start);
    if (belay_inspect(race->other, "a", &info, NULL) == BELAY_OK && info.held)
        (void)!belay_break(race->other, "a", &info, NULL);
    return NULL;
}

static void *looks(void *arg)
{
    struct race *race = arg;
    pthread_barrier_wait(&race->start);
    for (int i = 0; i < 50; i++) {
        int64_t left = belay_lock_remaining_ms(race->lock);
        if (left < 0 || left > 100) atomic_fetch_add(&race->extended, 1000);
        (void)belay_lock_valid(race->lock, 10);
    }
    return NULL;
}

static void loss_is_final_and_told_at_most_once_whoever_wins(void **state)
{
    struct race race;
    (void)state;
    memset(&race, 0, sizeof race);
    race.client = help_open_url("memory:race", NULL);
    race.other = help_open_url("memory:race", NULL);
    int rounds = help_slow() ? 60 : 300;
    for (int round = 0; round < rounds; round++) {
        belay_options options = BELAY_OPTIONS_INIT;
        pthread_t threads[4];
        options.ttl_ms = 100;
        options.keep_every_ms = 1;
        options.on_lost = on_lost;
        options.arg = &race;
        atomic_store(&race.lost, 0);
        atomic_store(&race.released, false);
        pthread_barrier_init(&race.start, NULL, 4);
        assert_int_equal(belay_acquire(race.client, "a", &options, &race.lock, NULL), BELAY_OK);
        pthread_create(&threads[0], NULL, extends, &race);
        pthread_create(&threads[1], NULL, extends, &race);
        pthread_create(&threads[2], NULL, looks, &race);
        pthread_create(&threads[3], NULL, breaks, &race);
        for (int i = 0; i < 4; i++) pthread_join(threads[i], NULL);
        belay_status status = belay_release(race.lock, NULL);
        atomic_store(&race.released, true);
        assert_true(status == BELAY_OK || status == BELAY_LOST);
        assert_true(atomic_load(&race.lost) <= 1);
        pthread_barrier_destroy(&race.start);
    }
    assert_int_equal(atomic_load(&race.extended), 0);
    assert_int_equal(atomic_load(&race.after_release), 0);
    belay_close(race.client);
    belay_close(race.other);
}

/* Threads take, extend and release tiny, kept locks of few names; their sections exclude each
 * other. */
enum { NAMES = 3, WORKERS = 6 };
struct mill {
    belay *clients[2];
    atomic_int holders[NAMES];
    atomic_int wrong, done;
    uint64_t tokens[NAMES];
    int rounds;
};

static void *mills(void *arg)
{
    struct mill *mill = arg;
    static const char *const names[NAMES] = { "x", "y", "z" };
    static atomic_int numbers;
    int number = atomic_fetch_add(&numbers, 1);
    for (int i = 0; i < mill->rounds; i++) {
        belay_options options = BELAY_OPTIONS_INIT;
        belay_lock *lock;
        int n = (number + i) % NAMES;
        options.ttl_ms = 2000;
        options.keep_every_ms = 1;
        options.wait_ms = BELAY_FOREVER;
        if (belay_acquire(mill->clients[number % 2], names[n], &options, &lock, NULL) != BELAY_OK) {
            atomic_fetch_add(&mill->wrong, 1);
            continue;
        }
        if (atomic_fetch_add(&mill->holders[n], 1) != 0 && belay_lock_valid(lock, 0))
            atomic_fetch_add(&mill->wrong, 1);
        if (belay_lock_token(lock) <= mill->tokens[n]) atomic_fetch_add(&mill->wrong, 1);
        mill->tokens[n] = belay_lock_token(lock);
        if (i % 3 == 0) (void)!belay_extend(lock, 0, NULL);
        if (i % 16 == 0) help_pause();
        atomic_fetch_sub(&mill->holders[n], 1);
        belay_status status = belay_release(lock, NULL);
        if (status != BELAY_OK) atomic_fetch_add(&mill->wrong, 1);
    }
    atomic_fetch_add(&mill->done, 1);
    return NULL;
}

static void kept_locks_exclude_each_other_while_the_keeper_extends_them(void **state)
{
    struct mill mill;
    pthread_t threads[WORKERS];
    (void)state;
    memset(&mill, 0, sizeof mill);
    mill.rounds = help_slow() ? 60 : 500;
    for (int i = 0; i < 2; i++) mill.clients[i] = help_open_url("memory:mill", NULL);
    for (int i = 0; i < WORKERS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, mills, &mill), 0);
    for (int i = 0; i < WORKERS; i++) pthread_join(threads[i], NULL);
    assert_int_equal(atomic_load(&mill.wrong), 0);
    for (int i = 0; i < 2; i++) belay_close(mill.clients[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(loss_is_final_and_told_at_most_once_whoever_wins),
        cmocka_unit_test(kept_locks_exclude_each_other_while_the_keeper_extends_them),
    };

    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
