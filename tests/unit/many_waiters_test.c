/* many_waiters_test.c - thousands wait for one name: descriptors and memory are bounded, all are
 * answered: FAULTS row 55. */
#define _GNU_SOURCE
#include "tests/unit/engine_help.h"

#include <malloc.h>

struct crowd {
    belay *client;
    atomic_int got, wrong, done, inside;
};

/* Releases at once, so that the next one gets it. */
static void pass_on(void *arg, belay_status status, belay_lock *lock, const belay_error *err)
{
    struct crowd *crowd = arg;
    (void)err;
    if (status != BELAY_OK || belay_release(lock, NULL) != BELAY_OK)
        atomic_fetch_add(&crowd->wrong, 1);
    atomic_fetch_add(&crowd->got, 1);
}

static void *blocks(void *arg)
{
    struct crowd *crowd = arg;
    belay_options options = BELAY_OPTIONS_INIT;
    belay_lock *lock;
    options.wait_ms = BELAY_FOREVER;
    options.keep = BELAY_KEEP_OFF;
    if (belay_acquire(crowd->client, "a", &options, &lock, NULL) != BELAY_OK) {
        atomic_fetch_add(&crowd->wrong, 1);
    } else {
        if (atomic_fetch_add(&crowd->inside, 1) != 0) atomic_fetch_add(&crowd->wrong, 1);
        atomic_fetch_sub(&crowd->inside, 1);
        if (belay_release(lock, NULL) != BELAY_OK) atomic_fetch_add(&crowd->wrong, 1);
        atomic_fetch_add(&crowd->got, 1);
    }
    atomic_fetch_add(&crowd->done, 1);
    return NULL;
}

static void five_thousand_started_waiters_are_all_answered(void **state)
{
    struct crowd crowd;
    belay_options options = BELAY_OPTIONS_INIT;
    belay_lock *held;
    (void)state;
    memset(&crowd, 0, sizeof crowd);
    int waiters = help_slow() ? 1000 : 5000;
    crowd.client = help_open_url("memory:", NULL);
    options.wait_ms = BELAY_FOREVER;
    options.keep = BELAY_KEEP_OFF;
    options.ttl_ms = 600000;
    assert_int_equal(belay_acquire(crowd.client, "a", &options, &held, NULL), BELAY_OK);
    int fds = help_fds();
    for (int i = 0; i < waiters; i++)
        assert_int_equal(belay_acquire_start(crowd.client, "a", &options, pass_on, &crowd, NULL,
                                             NULL),
                         BELAY_OK);
    assert_int_equal(help_fds(), fds);
    int64_t spent = help_cpu();
    assert_int_equal(belay_release(held, NULL), BELAY_OK);
    assert_true(eventually(atomic_load(&crowd.got) == waiters));
    assert_int_equal(atomic_load(&crowd.wrong), 0);
    assert_true(help_cpu() - spent < 5000 * MS);
    belay_close(crowd.client);
}

static void two_hundred_blocked_threads_are_all_answered(void **state)
{
    enum { THREADS = 200 };
    struct crowd crowd;
    static pthread_t threads[THREADS];
    belay_options options = BELAY_OPTIONS_INIT;
    belay_lock *held;
    (void)state;
    memset(&crowd, 0, sizeof crowd);
    crowd.client = help_open_url("memory:", NULL);
    options.keep = BELAY_KEEP_OFF;
    options.ttl_ms = 600000;
    assert_int_equal(belay_acquire(crowd.client, "a", &options, &held, NULL), BELAY_OK);
    int fds = help_fds();
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, blocks, &crowd), 0);
    assert_int_equal(help_fds(), fds);
    assert_int_equal(belay_release(held, NULL), BELAY_OK);
    assert_true(eventually(atomic_load(&crowd.done) == THREADS));
    for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
    assert_int_equal(atomic_load(&crowd.got), THREADS);
    assert_int_equal(atomic_load(&crowd.wrong), 0);
    belay_close(crowd.client);
}

static void a_hundred_idle_waiters_take_no_processor_time(void **state)
{
    struct crowd crowd;
    belay_options options = BELAY_OPTIONS_INIT;
    belay_lock *held;
    (void)state;
    memset(&crowd, 0, sizeof crowd);
    crowd.client = help_open_url("memory:", NULL);
    options.wait_ms = BELAY_FOREVER;
    options.ttl_ms = 600000;
    assert_int_equal(belay_acquire(crowd.client, "a", &options, &held, NULL), BELAY_OK);
    for (int i = 0; i < 100; i++)
        assert_int_equal(belay_acquire_start(crowd.client, "a", &options, pass_on, &crowd, NULL,
                                             NULL),
                         BELAY_OK);
    int64_t until = help_now() + 300 * MS, spent = help_cpu();
    while (help_now() < until) usleep(20000);
    assert_true(help_cpu() - spent < 60 * MS);
    assert_int_equal(belay_release(held, NULL), BELAY_OK);
    assert_true(eventually(atomic_load(&crowd.got) == 100));
    belay_close(crowd.client);
}

static void a_held_lock_takes_less_than_512_bytes(void **state)
{
    (void)state;
    if (help_slow()) skip(); /* not malloc's own numbers */
    enum { LOCKS = 100000 };
    static belay_lock *locks[LOCKS];
    script_reset();
    belay *client = help_open_url("scripted:", NULL);
    struct mallinfo2 before = mallinfo2();
    for (int i = 0; i < LOCKS; i++) {
        char name[40];
        snprintf(name, sizeof name, "%032d", i);
        assert_int_equal(belay_acquire(client, name, NULL, &locks[i], NULL), BELAY_OK);
    }
    struct mallinfo2 after = mallinfo2();
    size_t each = (after.uordblks + after.hblkhd - before.uordblks - before.hblkhd) / LOCKS;
    print_message("a held lock: %zu bytes\n", each);
    assert_in_range(each, 100, 511);
    for (int i = 0; i < LOCKS; i++) assert_int_equal(belay_release(locks[i], NULL), BELAY_OK);
    belay_close(client);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(five_thousand_started_waiters_are_all_answered),
        cmocka_unit_test(two_hundred_blocked_threads_are_all_answered),
        cmocka_unit_test(a_hundred_idle_waiters_take_no_processor_time),
        cmocka_unit_test(a_held_lock_takes_less_than_512_bytes),
    };

    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
