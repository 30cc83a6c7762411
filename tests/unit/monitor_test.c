/* monitor_test.c - one at a time, nobody forgotten. */
#include "core/monitor.h"
#include "tests/unit/engine_help.h"

enum { THREADS = 16 };

struct shared {
    struct belay__monitor monitor;
    long plain; /* unprotected: a race is a lost count, and a report of TSan */
    atomic_int inside, most;
    int rounds;
    bool naps;
    atomic_int ended;
};

static void *hammer(void *arg)
{
    struct shared *shared = arg;
    for (int i = 0; i < shared->rounds; i++) {
        belay__monitor_lock(&shared->monitor);
        int now = atomic_fetch_add(&shared->inside, 1) + 1;
        if (now > 1) atomic_store(&shared->most, now);
        shared->plain++;
        if (shared->naps && i % 8 == 0) help_pause(); /* so that the others go to sleep */
        atomic_fetch_sub(&shared->inside, 1);
        belay__monitor_unlock(&shared->monitor);
    }
    atomic_fetch_add(&shared->ended, 1);
    return NULL;
}

static void run(int rounds, bool naps)
{
    struct shared shared = { .rounds = rounds, .naps = naps };
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, hammer, &shared), 0);
    assert_true(
        eventually(atomic_load(&shared.ended) == THREADS)); /* a lost wake would leave one asleep */
    for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
    assert_int_equal(shared.plain, (long)THREADS * rounds);
    assert_int_equal(atomic_load(&shared.most), 0);
    assert_int_equal(shared.monitor.word, 0); /* at rest: no sleeper, no waker, no permit */
    assert_int_equal(shared.monitor.permits, 0);
}

static void short_sections_exclude_each_other_and_all_get_in(void **state)
{
    (void)state;
    run(help_slow() ? 2000 : 20000, false);
}

static void sleepers_are_all_woken(void **state)
{
    (void)state;
    run(40, true);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(short_sections_exclude_each_other_and_all_get_in),
        cmocka_unit_test(sleepers_are_all_woken),
    };

    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
