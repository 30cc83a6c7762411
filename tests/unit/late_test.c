/* late_test.c - answers that come late, or never: nothing stays behind, and close ends in time. */
#define _GNU_SOURCE
#include "core/client.h"
#include "tests/unit/engine_help.h"

#include <sys/wait.h>

static const char QUICK[] = "keep = false; close_timeout = \"100ms\";";

static int setup(void **state)
{
    script_reset();
    *state = help_open(QUICK, NULL);
    return *state == NULL ? -1 : 0;
}

static int teardown(void **state)
{
    belay_close(*state);
    return 0;
}

static void acquires(enum script_how how, belay_status status, int64_t after_ms)
{
    script_add(BELAY_VERB_ACQUIRE,
               (struct script_reply){
                   .how = how, .status = status, .after_ms = after_ms, .times = 1 });
}

/* How many calls are under way. */
static int calls_of(belay *client)
{
    int count = 0;
    belay__loop_enter(&client->loop);
    for (belay_link *link = client->requests.next; link != &client->requests; link = link->next)
        count++;
    belay__loop_leave(&client->loop);
    return count;
}

static bool gave_back(int acquire)
{
    struct script_call granted = script_call_at(BELAY_VERB_ACQUIRE, acquire);
    for (int i = 0; i < script_count(BELAY_VERB_RELEASE); i++)
        if (strcmp(script_call_at(BELAY_VERB_RELEASE, i).owner, granted.owner) == 0) return true;
    return false;
}

static belay_status acquire_for(belay *client, int64_t wait_ms, uint32_t ttl_ms, belay_lock **lock)
{
    belay_options options = BELAY_OPTIONS_INIT;
    options.wait_ms = wait_ms;
    options.ttl_ms = ttl_ms;
    return belay_acquire(client, "late", &options, lock, NULL);
}

static void an_op_that_settles_by_a_timer_is_answered(void **state)
{
    belay_lock *lock;
    acquires(SCRIPT_TIMER, BELAY_OK, 20);
    assert_int_equal(acquire_for(*state, BELAY_TRY, 0, &lock), BELAY_OK);
    assert_int_equal(belay_release(lock, NULL), BELAY_OK);
}

static void an_op_that_settles_by_a_job_on_the_worker_is_answered(void **state)
{
    belay_lock *lock;
    acquires(SCRIPT_WORKER, BELAY_OK, 0);
    assert_int_equal(acquire_for(*state, BELAY_TRY, 0, &lock), BELAY_OK);
    assert_int_equal(belay_release(lock, NULL), BELAY_OK);
}

static void an_op_that_settles_by_a_foreign_threads_poke_is_answered(void **state)
{
    struct caller caller = { 0 };
    acquires(SCRIPT_PEND, BELAY_UNAVAILABLE, 0);
    caller_acquire(&caller, *state, "late", BELAY_TRY);
    assert_true(eventually(script_pending(BELAY_VERB_ACQUIRE) == 1));
    script_settle(BELAY_VERB_ACQUIRE, BELAY_OK);
    assert_true(caller_end(&caller));
    assert_int_equal(caller.status, BELAY_OK);
    assert_int_equal(belay_release(caller.lock, NULL), BELAY_OK);
}

static void a_try_that_is_not_answered_ends_with_its_timeout(void **state)
{
    belay_lock *lock;
    int64_t began = help_now();
    acquires(SCRIPT_PEND, BELAY_UNCERTAIN, 0);
    assert_int_equal(acquire_for(*state, BELAY_TRY, 0, &lock), BELAY_UNCERTAIN);
    assert_true(help_now() - began >= 199 * MS);
    assert_true(script_call_at(BELAY_VERB_ACQUIRE, 0).canceled);
}

static void an_ok_past_the_deadline_is_given_back_and_no_ok(void **state)
{
    belay_lock *lock;
    acquires(SCRIPT_TIMER, BELAY_OK, 150); /* of a TTL of 100 ms */
    assert_int_equal(acquire_for(*state, BELAY_TRY, 100, &lock), BELAY_UNAVAILABLE);
    assert_null(lock);
    assert_true(gave_back(0));
    assert_int_equal(script_drops(), 1);
}

static void an_ok_after_a_cancel_is_given_back_and_canceled(void **state)
{
    struct caller caller = { .options.cancel = belay_cancel_new() };
    acquires(SCRIPT_PEND, BELAY_OK, 0); /* the cancel comes too late for the backend */
    caller_acquire(&caller, *state, "late", BELAY_FOREVER);
    assert_true(eventually(script_pending(BELAY_VERB_ACQUIRE) == 1));

    belay_cancel_fire(caller.options.cancel);

    assert_true(caller_end(&caller));
    assert_int_equal(caller.status, BELAY_CANCELED);
    assert_null(caller.lock);
    assert_true(gave_back(0));
    assert_int_equal(script_drops(), 1);
    belay_cancel_free(caller.options.cancel);
}

static void a_release_that_is_not_answered_is_repeated_until_it_is(void **state)
{
    belay_lock *lock;
    script_add(BELAY_VERB_RELEASE,
               (struct script_reply){ .status = BELAY_UNAVAILABLE, .times = 3 });
    script_add(BELAY_VERB_RELEASE, (struct script_reply){ .status = BELAY_OK });
    assert_int_equal(acquire_for(*state, BELAY_TRY, 0, &lock), BELAY_OK);

    assert_int_equal(belay_release(lock, NULL), BELAY_UNAVAILABLE);

    assert_true(eventually(script_drops() == 1)); /* the debt is paid, its lock is gone */
    assert_int_equal(script_count(BELAY_VERB_RELEASE), 4);
    for (int i = 0; i < 4; i++)
        assert_string_equal(script_call_at(BELAY_VERB_RELEASE, i).owner,
                            script_call_at(BELAY_VERB_ACQUIRE, 0).owner);
}

static void a_release_is_not_repeated_when_the_ttl_has_run_out_since(void **state)
{
    belay_fake_world *world = belay_fake_create(1);
    belay_open_options options = help_options(BELAY_DISPATCH, world);
    belay *client = help_open(QUICK, &options);
    belay_lock *lock;
    (void)state;
    script_add(BELAY_VERB_RELEASE, (struct script_reply){ .status = BELAY_UNAVAILABLE });
    assert_int_equal(acquire_for(client, BELAY_TRY, 1000, &lock), BELAY_OK);
    assert_int_equal(belay_release(lock, NULL), BELAY_UNAVAILABLE);
    for (int i = 0; i < 100; i++) {
        belay_fake_advance(world, 100 * MS);
        assert_int_equal(belay_dispatch(client), BELAY_OK);
    }
    assert_int_equal(script_drops(), 1);
    int tries = script_count(BELAY_VERB_RELEASE);
    belay_fake_advance(world, 10000 * MS);
    assert_int_equal(belay_dispatch(client), BELAY_OK);
    assert_int_equal(script_count(BELAY_VERB_RELEASE), tries);
    belay_close(client);
    belay_fake_destroy(world);
}

static void a_debt_is_paid_at_close(void **state)
{
    belay *client = help_open("keep = false; close_timeout = \"5s\";", NULL);
    belay_lock *lock;
    (void)state;
    script_add(BELAY_VERB_RELEASE,
               (struct script_reply){ .status = BELAY_UNAVAILABLE, .times = 3 });
    script_add(BELAY_VERB_RELEASE, (struct script_reply){ .status = BELAY_OK });
    assert_int_equal(acquire_for(client, BELAY_TRY, 0, &lock), BELAY_OK);
    assert_int_equal(belay_release(lock, NULL), BELAY_UNAVAILABLE);

    belay_close(client);

    assert_int_equal(script_count(BELAY_VERB_RELEASE), 4);
    assert_int_equal(script_call_at(BELAY_VERB_RELEASE, 3).status, BELAY_OK);
    assert_int_equal(script_drops(), 1);
}

static void close_gives_up_a_debt_after_its_timeout_and_says_so(void **state)
{
    static struct lines lines = { .mutex = PTHREAD_MUTEX_INITIALIZER };
    belay_open_options options = BELAY_OPEN_OPTIONS_INIT;
    belay_lock *lock;
    (void)state;
    options.on_log = lines_add;
    options.arg = &lines;
    belay *client = help_open(QUICK, &options);
    script_add(BELAY_VERB_RELEASE, (struct script_reply){ .status = BELAY_UNAVAILABLE });
    assert_int_equal(acquire_for(client, BELAY_TRY, 0, &lock), BELAY_OK);
    int64_t began = help_now();

    belay_close(client);

    int64_t took = help_now() - began;
    assert_in_range(took / MS, 99, 5000);
    assert_int_equal(script_destroyed(), 1);
    assert_true(lines_have(&lines, "close"));
    assert_int_equal(belay_release(lock, NULL), BELAY_CLOSED);
}

static void close_cancels_what_is_in_flight_and_releases_what_is_held(void **state)
{
    belay *client = *state;
    struct caller callers[3];
    struct answer answer = { 0 };
    belay_options options = BELAY_OPTIONS_INIT;
    belay_lock *held;
    memset(callers, 0, sizeof callers);
    assert_int_equal(acquire_for(client, BELAY_TRY, 0, &held), BELAY_OK);
    options.wait_ms = BELAY_FOREVER;
    acquires(SCRIPT_PEND, BELAY_UNAVAILABLE, 0);
    const char *names[] = { "a", "b", "a" };
    for (int i = 0; i < 3; i++) caller_acquire(&callers[i], client, names[i], BELAY_FOREVER);
    assert_true(eventually(script_pending(BELAY_VERB_ACQUIRE) == 2));
    assert_int_equal(belay_acquire_start(client, "c", &options, answer_in, &answer, NULL, NULL),
                     BELAY_OK);
    assert_true(eventually(calls_of(client) == 4));

    belay_close(client);

    for (int i = 0; i < 3; i++) {
        assert_true(caller_end(&callers[i]));
        assert_int_equal(callers[i].status, BELAY_CANCELED);
    }
    assert_int_equal(atomic_load(&answer.count), 1);
    assert_int_equal(atomic_load(&answer.status), BELAY_CANCELED);
    assert_true(gave_back(0));
    assert_int_equal(script_drops(), 1);
    assert_int_equal(script_destroyed(), 1);
    assert_int_equal(belay_release(held, NULL), BELAY_CLOSED);
    *state = NULL;
}

/* ------------------------------------------------------------------ broken backends */

/* The clients of these are leaked on purpose, so they run in children without a leak checker. */
static struct lines child_lines = { .mutex = PTHREAD_MUTEX_INITIALIZER };

static int closes_over_a_deaf_backend(void *arg)
{
    bool blocking = *(bool *)arg;
    belay_open_options options = BELAY_OPEN_OPTIONS_INIT;
    struct caller caller = { 0 };
    struct answer answer = { 0 };
    options.on_log = lines_add;
    options.arg = &child_lines;
    script_reset();
    belay *client = help_open(QUICK, &options);
    if (client == NULL) return 1;
    acquires(SCRIPT_DEAF, BELAY_OK, 0);
    if (blocking) caller_acquire(&caller, client, "a", BELAY_TRY);
    else if (belay_acquire_start(client, "a", NULL, answer_in, &answer, NULL, NULL) != BELAY_OK)
        return 2;
    if (!eventually(script_pending(BELAY_VERB_ACQUIRE) == 1)) return 3;
    int64_t began = help_now();
    belay_close(client);
    int64_t took = help_now() - began;
    if (took < 190 * MS || took > 5000 * MS) return 4;
    if (!lines_have(&child_lines, "settle")) return 5;
    if (script_destroyed() != 0) return 6; /* its op still points there */
    if (!blocking) return 0;
    /* Its caller's op lies on its stack: it comes back when the backend lets it, and not before. */
    if (atomic_load(&caller.ended)) return 7;
    script_settle(BELAY_VERB_ACQUIRE, BELAY_UNAVAILABLE);
    if (!caller_end(&caller)) return 8;
    return caller.status == BELAY_CANCELED ? 0 : 9;
}

static void close_returns_though_a_started_call_never_settles_and_says_so(void **state)
{
    bool blocking = false;
    (void)state;
    assert_int_equal(help_fork(closes_over_a_deaf_backend, &blocking), 0);
}

static void close_returns_though_a_blocked_call_never_settles(void **state)
{
    bool blocking = true;
    (void)state;
    assert_int_equal(help_fork(closes_over_a_deaf_backend, &blocking), 0);
}

static void a_stuck_worker_is_abandoned_and_forgets_its_job_later(void **state)
{
    belay *client = *state;
    struct answer answer = { 0 };
    script_gate(false);
    acquires(SCRIPT_WORKER, BELAY_OK, 0);
    assert_int_equal(belay_acquire_start(client, "a", NULL, answer_in, &answer, NULL, NULL),
                     BELAY_OK);
    assert_true(eventually(script_jobs_begun() == 1));
    int threads = help_threads();

    belay_close(client);
    *state = NULL;
    assert_int_equal(script_destroyed(), 1);
    assert_int_equal(atomic_load(&answer.status), BELAY_CANCELED);
    assert_int_equal(script_jobs_forgotten(), 0);

    script_gate(true);
    assert_true(eventually(script_jobs_forgotten() == 1));
    assert_true(eventually(help_threads() < threads));
}

static int settles_twice(void *arg)
{
    belay_lock *lock;
    (void)arg;
    fclose(stderr); /* the assertion's message is expected */
    script_reset();
    belay *client = help_open(QUICK, NULL);
    script_settle_twice();
    if (belay_acquire(client, "a", NULL, &lock, NULL) != BELAY_OK) return 1;
    if (belay_release(lock, NULL) != BELAY_OK) return 2;
    belay_close(client);
    return 0;
}

static void settling_twice_aborts_in_debug_builds_and_is_ignored_in_release_ones(void **state)
{
    (void)state;
    int ended = help_fork(settles_twice, NULL);
#ifdef NDEBUG
    assert_int_equal(ended, 0);
#else
    assert_true(ended != 0 && ended != 1 && ended != 2 && ended != 200);
#endif
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(an_op_that_settles_by_a_timer_is_answered, setup, teardown),
        cmocka_unit_test_setup_teardown(an_op_that_settles_by_a_job_on_the_worker_is_answered,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(an_op_that_settles_by_a_foreign_threads_poke_is_answered,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(a_try_that_is_not_answered_ends_with_its_timeout, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(an_ok_past_the_deadline_is_given_back_and_no_ok, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(an_ok_after_a_cancel_is_given_back_and_canceled, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_release_that_is_not_answered_is_repeated_until_it_is,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(a_release_is_not_repeated_when_the_ttl_has_run_out_since,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(a_debt_is_paid_at_close, setup, teardown),
        cmocka_unit_test_setup_teardown(close_gives_up_a_debt_after_its_timeout_and_says_so, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(close_cancels_what_is_in_flight_and_releases_what_is_held,
                                        setup, teardown),
        cmocka_unit_test(close_returns_though_a_started_call_never_settles_and_says_so),
        cmocka_unit_test(close_returns_though_a_blocked_call_never_settles),
        cmocka_unit_test_setup_teardown(a_stuck_worker_is_abandoned_and_forgets_its_job_later,
                                        setup, teardown),
        cmocka_unit_test(settling_twice_aborts_in_debug_builds_and_is_ignored_in_release_ones),
    };

    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
