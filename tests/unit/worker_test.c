/* worker_test.c - BELAY_DISPATCH_WORKER: an event loop's client with one helper thread, for what
 * can only block. */
#define _GNU_SOURCE
#include "tests/unit/engine_help.h"

#include <poll.h>

static const char QUICK[] = "keep = false; close_timeout = \"100ms\";";

static int setup(void **state)
{
    belay_open_options options = help_options(BELAY_DISPATCH_WORKER, NULL);
    script_reset();
    *state = help_open(QUICK, &options);
    return *state == NULL ? -1 : 0;
}

static int teardown(void **state)
{
    script_gate(true);
    belay_close(*state);
    return 0;
}

static void acquires_by_a_job(void)
{
    script_add(BELAY_VERB_ACQUIRE,
               (struct script_reply){ .how = SCRIPT_WORKER, .status = BELAY_OK });
}

/* Dispatches when the descriptor is readable, until the condition holds. */
#define dispatch_until(client, condition)                                                          \
    do {                                                                                           \
        int64_t until_ns = help_now() + 10000 * MS;                                                \
        while (!(condition) && help_now() < until_ns) {                                            \
            struct pollfd at = { .fd = belay_fd(client), .events = POLLIN };                       \
            if (poll(&at, 1, 100) == 1) assert_int_equal(belay_dispatch(client), BELAY_OK);        \
        }                                                                                          \
        assert_true(condition);                                                                    \
    } while (0)

static void a_jobs_end_wakes_the_event_loop(void **state)
{
    belay *client = *state;
    struct answer answer = { 0 };
    script_gate(false);
    acquires_by_a_job();
    assert_int_equal(belay_acquire_start(client, "a", NULL, answer_in, &answer, NULL, NULL),
                     BELAY_OK);
    assert_true(eventually(script_jobs_begun() == 1));
    assert_int_equal(belay_dispatch(client), BELAY_OK);
    assert_false(help_readable(belay_fd(client)));
    assert_int_equal(atomic_load(&answer.count), 0);

    script_gate(true);
    dispatch_until(client, atomic_load(&answer.count) == 1);
    assert_int_equal(atomic_load(&answer.status), BELAY_OK);
    assert_true(pthread_equal(answer.thread, pthread_self()));
    assert_int_equal(belay_release(atomic_load(&answer.lock), NULL), BELAY_OK);
}

static void a_jobs_end_wakes_a_blocked_caller(void **state)
{
    belay_lock *lock;
    belay_options options = BELAY_OPTIONS_INIT;
    options.wait_ms = BELAY_FOREVER;
    acquires_by_a_job();
    for (int i = 0; i < 50; i++) {
        assert_int_equal(belay_acquire(*state, "a", &options, &lock, NULL), BELAY_OK);
        assert_int_equal(belay_release(lock, NULL), BELAY_OK);
    }
}

static void jobs_of_several_blocked_callers_end_beside_an_event_loop(void **state)
{
    belay *client = *state;
    enum { CALLERS = 4 };
    static const char *const names[CALLERS] = { "a", "b", "c", "d" };
    struct caller callers[CALLERS] = { 0 };
    struct answer answer = { 0 };
    script_gate(false);
    acquires_by_a_job();
    for (int i = 0; i < CALLERS; i++) caller_acquire(&callers[i], client, names[i], BELAY_FOREVER);
    assert_int_equal(belay_acquire_start(client, "e", NULL, answer_in, &answer, NULL, NULL),
                     BELAY_OK);
    assert_true(eventually(script_pending(BELAY_VERB_ACQUIRE) == CALLERS + 1));
    script_gate(true);
    dispatch_until(client, atomic_load(&answer.count) == 1);
    for (int i = 0; i < CALLERS; i++) {
        assert_true(caller_end(&callers[i]));
        assert_int_equal(callers[i].status, BELAY_OK);
        assert_int_equal(belay_release(callers[i].lock, NULL), BELAY_OK);
    }
    assert_int_equal(belay_release(atomic_load(&answer.lock), NULL), BELAY_OK);
}

static void writes_its_place(struct caller *caller)
{
    snprintf(caller->arg, 64, "/proc/self/task/%d", (int)gettid());
}

/* Kept locks, callbacks and repeated releases start none; a job starts one. */
static void one_thread_starts_with_the_first_job(void **state)
{
    belay *client = *state;
    struct answer answer = { 0 }, by_job = { 0 };
    belay_options options = BELAY_OPTIONS_INIT;
    char place[64];
    struct caller first = { .arg = place };
    caller_start(&first, writes_its_place); /* a sanitizer's own thread starts with it */
    assert_true(caller_end(&first));
    assert_true(eventually(access(place, F_OK) != 0));
    int threads = help_threads();
    options.keep = BELAY_KEEP_ON;
    options.ttl_ms = 100;
    assert_int_equal(belay_acquire_start(client, "a", &options, answer_in, &answer, NULL, NULL),
                     BELAY_OK);
    dispatch_until(client, script_count(BELAY_VERB_EXTEND) >= 2);
    script_add(BELAY_VERB_RELEASE, (struct script_reply){ .status = BELAY_UNAVAILABLE });
    script_add(BELAY_VERB_RELEASE, (struct script_reply){ .status = BELAY_OK });
    assert_int_equal(belay_release(atomic_load(&answer.lock), NULL), BELAY_UNAVAILABLE);
    dispatch_until(client, script_count(BELAY_VERB_RELEASE) == 2);
    assert_int_equal(help_threads(), threads);

    script_gate(false);
    acquires_by_a_job();
    assert_int_equal(belay_acquire_start(client, "b", NULL, answer_in, &by_job, NULL, NULL),
                     BELAY_OK);
    assert_int_equal(help_threads(), threads + 1);
    script_gate(true);
    dispatch_until(client, atomic_load(&by_job.count) == 1);
    assert_int_equal(help_threads(), threads + 1);
    assert_int_equal(belay_release(atomic_load(&by_job.lock), NULL), BELAY_OK);
    belay_close(client);
    *state = NULL;
    assert_true(eventually(help_threads() == threads));
}

static void a_stuck_worker_is_abandoned_at_close(void **state)
{
    belay *client = *state;
    struct answer answer = { 0 };
    script_gate(false);
    acquires_by_a_job();
    assert_int_equal(belay_acquire_start(client, "a", NULL, answer_in, &answer, NULL, NULL),
                     BELAY_OK);
    assert_true(eventually(script_jobs_begun() == 1));
    belay_close(client);
    *state = NULL;
    assert_int_equal(script_destroyed(), 1);
    assert_int_equal(atomic_load(&answer.status), BELAY_CANCELED);
    script_gate(true);
    assert_true(eventually(script_jobs_forgotten() == 1));
}

/* ------------------------------------------------------------------ with a turned clock */

static void no_time_passes_in_a_fake_world_before_the_job_has_ended(void **state)
{
    belay_fake_world *world = belay_fake_create(1);
    belay_world *base = belay_fake_base(world);
    belay_open_options options = help_options(BELAY_DISPATCH_WORKER, world);
    struct caller caller = { 0 };
    (void)state;
    script_reset();
    belay *client = help_open(QUICK, &options);
    assert_non_null(client);
    int64_t began = base->now(base);
    script_gate(false);
    acquires_by_a_job();
    caller_acquire(&caller, client, "a", BELAY_TRY);
    assert_true(eventually(script_jobs_begun() == 1));
    for (int i = 0; i < 20; i++) help_pause();
    assert_true(base->now(base) == began);
    script_gate(true);
    assert_true(caller_end(&caller));
    assert_int_equal(caller.status, BELAY_OK);
    assert_true(base->now(base) == began);
    assert_int_equal(belay_release(caller.lock, NULL), BELAY_OK);
    belay_close(client);
    belay_fake_destroy(world);
}

static void close_ends_in_a_fake_world_beside_a_stuck_worker(void **state)
{
    belay_fake_world *world = belay_fake_create(1);
    belay_open_options options = help_options(BELAY_DISPATCH_WORKER, world);
    struct answer answer = { 0 };
    (void)state;
    script_reset();
    belay *client = help_open("keep = false; close_timeout = \"1h\";", &options);
    assert_non_null(client);
    script_gate(false);
    acquires_by_a_job();
    script_add(BELAY_VERB_RELEASE, (struct script_reply){ .status = BELAY_UNAVAILABLE });
    assert_int_equal(belay_acquire_start(client, "a", NULL, answer_in, &answer, NULL, NULL),
                     BELAY_OK);
    assert_true(eventually(script_jobs_begun() == 1));
    belay_close(client);
    assert_int_equal(atomic_load(&answer.status), BELAY_CANCELED);
    script_gate(true);
    assert_true(eventually(script_jobs_forgotten() == 1));
    belay_fake_destroy(world);
}

/* ------------------------------------------------------------------ the options */

static void an_unknown_mode_is_invalid(void **state)
{
    (void)state;
    for (int mode = -1; mode < 5; mode++) {
        belay_open_options options = help_options(BELAY_THREADS, NULL);
        belay_error err = BELAY_ERROR_INIT;
        belay *client = NULL;
        memcpy(&options.threads, &mode, sizeof mode); /* a value that is no belay_threads */
        belay_status status = belay_open(&client, "memory:", &options, &err);
        bool known = mode >= BELAY_THREADS && mode <= BELAY_DISPATCH_WORKER;
        assert_int_equal(status, known ? BELAY_OK : BELAY_INVALID);
        if (!known) assert_non_null(strstr(err.text, "threads"));
        belay_close(client);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        /* First: it counts threads, and a closed client's worker may need a moment to be gone. */
        cmocka_unit_test_setup_teardown(one_thread_starts_with_the_first_job, setup, teardown),
        cmocka_unit_test_setup_teardown(a_jobs_end_wakes_the_event_loop, setup, teardown),
        cmocka_unit_test_setup_teardown(a_jobs_end_wakes_a_blocked_caller, setup, teardown),
        cmocka_unit_test_setup_teardown(jobs_of_several_blocked_callers_end_beside_an_event_loop,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(a_stuck_worker_is_abandoned_at_close, setup, teardown),
        cmocka_unit_test(no_time_passes_in_a_fake_world_before_the_job_has_ended),
        cmocka_unit_test(close_ends_in_a_fake_world_beside_a_stuck_worker),
        cmocka_unit_test(an_unknown_mode_is_invalid),
    };

    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
