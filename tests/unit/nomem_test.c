/* nomem_test.c - the nth allocation fails, for every n: a clean answer, a known state, nothing
 * left: FAULTS row 53. */
#define _GNU_SOURCE
#include "core/client.h"
#include "tests/unit/engine_help.h"

#include <sys/resource.h>

static void find_nothing(void *arg, const belay_finding *finding)
{
    (void)arg;
    (void)finding;
}

/* Everything a client does in its life, with what may be refused anywhere. False: something
 * unclean. */
static bool life(belay_fake_world *world, belay_threads threads)
{
    belay_open_options open_options = help_options(threads, world);
    belay_options options = BELAY_OPTIONS_INIT, no_wait = BELAY_OPTIONS_INIT;
    struct lines lines = { .mutex = PTHREAD_MUTEX_INITIALIZER };
    struct answer extended = { 0 }, got = { 0 }, released = { 0 };
    belay_lock *lock = NULL, *second = NULL;
    belay *client = NULL;
    bool clean = true;
    open_options.on_log = lines_add;
    open_options.arg = &lines;
    belay_status status = belay_open(&client, "memory:", &open_options, NULL);
    if (status != BELAY_OK) return status == BELAY_NOMEM && client == NULL;

    options.label = "life";
    no_wait.wait_ms = BELAY_TRY;
    status = belay_acquire(client, "a", &options, &lock, NULL);
    clean = clean && (status == BELAY_OK || status == BELAY_NOMEM) &&
            (status == BELAY_OK) == (lock != NULL);
    if (lock != NULL) {
        status = belay_acquire(client, "a", &no_wait, &second, NULL);
        clean = clean && (status == BELAY_HELD || status == BELAY_NOMEM) && second == NULL;
        bool starts = belay_extend_start(lock, 0, answer_in, &extended, NULL, NULL) == BELAY_OK;
        bool waits =
            belay_acquire_start(client, "a", NULL, answer_in, &got, NULL, NULL) == BELAY_OK;
        clean = clean && belay_lock_valid(lock, 0);
        bool releases = belay_release_start(lock, answer_in, &released, NULL, NULL) == BELAY_OK;
        for (int i = 0; i < 10 && threads == BELAY_DISPATCH; i++)
            clean = clean && belay_dispatch(client) == BELAY_OK;
        clean = clean && eventually(atomic_load(&extended.count) == starts);
        clean = clean && eventually(atomic_load(&released.count) == releases);
        if (waits && threads == BELAY_DISPATCH) belay_fake_advance(world, 20000 * MS);
        for (int i = 0; i < 10 && threads == BELAY_DISPATCH; i++)
            clean = clean && belay_dispatch(client) == BELAY_OK;
        if (waits)
            clean = clean && eventually((belay_fake_advance(world, MS * 1000),
                                         atomic_load(&got.count) == 1));
        if (atomic_load(&got.lock) != NULL) (void)belay_release(atomic_load(&got.lock), NULL);
        /* Whatever was refused, the place is free now, or will be with the TTL. */
    }
    belay_info info = { .size = sizeof info };
    status = belay_inspect(client, "a", &info, NULL);
    clean = clean && (status == BELAY_OK || status == BELAY_NOMEM);
    status = belay_diagnose(client, find_nothing, NULL, NULL);
    clean = clean && (status == BELAY_OK || status == BELAY_NOMEM);
    belay_close(client);
    return clean;
}

static void every_allocation_may_fail(belay_threads threads)
{
    uint64_t n = 1;
    for (;; n++) {
        belay_fake_world *world = belay_fake_create(n);
        belay_fake_fail_alloc(world, n);
        bool clean = life(world, threads);
        bool refused = belay_fake_refused(world) != 0;
        size_t left = belay_fake_clients(world);
        belay_fake_destroy(world);
        if (!clean) print_message("allocation %lu\n", (unsigned long)n);
        assert_true(clean);
        assert_int_equal(left, 0);
        if (!refused) break;
    }
    assert_true(n > 10);
}

static void every_allocation_may_fail_with_dispatch(void **state)
{
    (void)state;
    every_allocation_may_fail(BELAY_DISPATCH);
}

static void every_allocation_may_fail_with_threads(void **state)
{
    (void)state;
    every_allocation_may_fail(BELAY_THREADS);
}

/* ------------------------------------------------------------------ threads */

static int child_without_threads(void *arg)
{
    struct answer answer = { 0 };
    belay_options options = BELAY_OPTIONS_INIT;
    belay_lock *lock = NULL;
    (void)arg;
    belay *client = help_open_url("memory:", NULL);
    if (client == NULL) return 1;
    /* No room for another thread's stack: as good as RLIMIT_NPROC, which root does not feel. */
    struct rlimit limit;
    getrlimit(RLIMIT_AS, &limit);
    limit.rlim_cur = 1;
    if (setrlimit(RLIMIT_AS, &limit) != 0) return 77;
    if (belay_acquire(client, "a", NULL, &lock, NULL) != BELAY_NOMEM || lock != NULL)
        return 2; /* it would be kept */
    if (belay_acquire_start(client, "a", NULL, answer_in, &answer, NULL, NULL) != BELAY_NOMEM)
        return 3;
    options.keep = BELAY_KEEP_OFF;
    if (belay_acquire(client, "a", &options, &lock, NULL) != BELAY_OK)
        return 4; /* this one needs none */
    if (belay_release_start(lock, answer_in, &answer, NULL, NULL) != BELAY_NOMEM) return 5;
    if (belay_acquire(client, "a", &options, &lock, NULL) != BELAY_OK)
        return 6; /* released all the same */
    if (belay_release(lock, NULL) != BELAY_OK) return 7;
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_AS, &limit);
    belay_close(client);
    return atomic_load(&answer.count) == 0 ? 0 : 8;
}

static void a_lock_that_needs_a_thread_is_not_taken_without_one(void **state)
{
    (void)state;
    if (help_slow()) skip(); /* a sanitizer's own memory knows no such limit */
    assert_int_equal(help_fork(child_without_threads, NULL), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_lock_that_needs_a_thread_is_not_taken_without_one), /* first: no stack is
                                                                                  cached yet */
        cmocka_unit_test(every_allocation_may_fail_with_dispatch),
        cmocka_unit_test(every_allocation_may_fail_with_threads),
    };

    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
