/* engine_test.c - whoever waits, leads; the engine's thread leads when nobody else would; idling is
 * idle. */
#define _GNU_SOURCE
#include "core/client.h"
#include "tests/unit/engine_help.h"

static void *leader_of(belay *client)
{
    belay__loop_enter(&client->loop);
    void *leader = (void *)(uintptr_t)client->loop.leader;
    belay__loop_leave(&client->loop);
    return leader;
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

static bool engine_leads(belay *client)
{
    return leader_of(client) == &client->loop;
}
static bool caller_leads(belay *client)
{
    return leader_of(client) != NULL && !engine_leads(client);
}

static int setup(void **state)
{
    script_reset();
    *state = help_open("keep = false;", NULL);
    return *state == NULL ? -1 : 0;
}

static int teardown(void **state)
{
    belay_close(*state);
    return 0;
}

static void a_blocked_caller_leads_and_no_thread_starts(void **state)
{
    belay *client = *state;
    struct caller a = { 0 };
    script_add(BELAY_VERB_ACQUIRE,
               (struct script_reply){ .how = SCRIPT_PEND, .status = BELAY_UNAVAILABLE });

    caller_acquire(&a, client, "a", BELAY_TRY);
    assert_true(eventually(caller_leads(client)));
    belay__loop_enter(&client->loop);
    bool started = client->loop.engine_started || client->loop.caller_started;
    belay__loop_leave(&client->loop);
    assert_false(started);
    script_settle(BELAY_VERB_ACQUIRE, BELAY_OK);

    assert_true(caller_end(&a));
    assert_int_equal(a.status, BELAY_OK);
    assert_null(leader_of(client));
    assert_int_equal(belay_release(a.lock, NULL), BELAY_OK);
}

static void a_leader_that_leaves_passes_the_lead_on(void **state)
{
    belay *client = *state;
    struct caller callers[8];
    memset(callers, 0, sizeof callers);
    script_add(BELAY_VERB_ACQUIRE, (struct script_reply){ .how = SCRIPT_PEND,
                                                          .status = BELAY_UNAVAILABLE,
                                                          .times = 1 });
    script_add(BELAY_VERB_ACQUIRE,
               (struct script_reply){ .how = SCRIPT_TIMER, .status = BELAY_OK, .after_ms = 50 });

    /* The first leads; its own time is up (200 ms) later than the others are answered. */
    caller_acquire(&callers[0], client, "0", BELAY_TRY);
    assert_true(eventually(caller_leads(client)));
    for (int i = 1; i < 8; i++) caller_acquire(&callers[i], client, "x", BELAY_TRY);

    for (int i = 1; i < 8; i++) {
        assert_true(caller_end(&callers[i]));
        assert_int_equal(callers[i].status, BELAY_OK);
    }
    assert_true(caller_end(&callers[0]));
    assert_int_equal(callers[0].status, BELAY_UNAVAILABLE);
    /* And the other way round: the leader goes first, and those it leaves are answered. */
    for (int i = 1; i < 8; i++) assert_int_equal(belay_release(callers[i].lock, NULL), BELAY_OK);
    assert_null(leader_of(client));
}

static void who_follows_is_answered_after_the_leader_went(void **state)
{
    belay *client = *state;
    struct caller first = { 0 }, second = { 0 };
    script_add(BELAY_VERB_ACQUIRE,
               (struct script_reply){ .how = SCRIPT_TIMER, .status = BELAY_OK, .after_ms = 30 });
    script_add(BELAY_VERB_ACQUIRE,
               (struct script_reply){ .how = SCRIPT_TIMER, .status = BELAY_OK, .after_ms = 120 });

    caller_acquire(&first, client, "first", BELAY_TRY);
    assert_true(eventually(caller_leads(client)));
    caller_acquire(&second, client, "second", BELAY_TRY);

    assert_true(caller_end(&first));
    assert_true(caller_end(&second));
    assert_int_equal(first.status, BELAY_OK);
    assert_int_equal(second.status, BELAY_OK);
    assert_int_equal(belay_release(first.lock, NULL), BELAY_OK);
    assert_int_equal(belay_release(second.lock, NULL), BELAY_OK);
}

static void a_leader_whose_wait_another_thread_ends_returns(void **state)
{
    belay *client = *state;
    struct caller a = { 0 };
    belay_lock *held;
    assert_int_equal(belay_acquire(client, "a", NULL, &held, NULL), BELAY_OK);
    script_add(BELAY_VERB_ACQUIRE,
               (struct script_reply){ .how = SCRIPT_NOW, .status = BELAY_HELD });
    script_add(BELAY_VERB_ACQUIRE, (struct script_reply){ .how = SCRIPT_NOW, .status = BELAY_OK });

    caller_acquire(&a, client, "a", BELAY_FOREVER);
    assert_true(eventually(caller_leads(client)));
    /* The attempt behind this release is made, and answered, on our thread. */
    assert_int_equal(belay_release(held, NULL), BELAY_OK);

    assert_true(caller_end(&a));
    assert_int_equal(a.status, BELAY_OK);
    assert_int_equal(belay_release(a.lock, NULL), BELAY_OK);
}

static void the_engine_gives_up_the_lead_to_a_caller_and_takes_it_back(void **state)
{
    belay *client = *state;
    struct caller a = { 0 };
    struct answer answer = { 0 };
    belay_options options = BELAY_OPTIONS_INIT;
    options.wait_ms = BELAY_FOREVER;
    script_add(BELAY_VERB_ACQUIRE,
               (struct script_reply){ .how = SCRIPT_NOW, .status = BELAY_HELD });
    script_add(BELAY_VERB_ACQUIRE,
               (struct script_reply){ .how = SCRIPT_NOW, .status = BELAY_HELD });
    script_add(BELAY_VERB_ACQUIRE, (struct script_reply){ .how = SCRIPT_NOW, .status = BELAY_OK });
    assert_int_equal(belay_acquire_start(client, "started", &options, answer_in, &answer, NULL,
                                         NULL),
                     BELAY_OK);
    assert_true(eventually(engine_leads(client)));

    caller_acquire(&a, client, "blocking", BELAY_FOREVER);
    assert_true(eventually(script_count(BELAY_VERB_ACQUIRE) == 2));
    assert_true(eventually(caller_leads(client)));
    script_wake(); /* both try again */

    assert_true(caller_end(&a));
    assert_true(eventually(atomic_load(&answer.count) == 1));
    assert_int_equal(a.status, BELAY_OK);
    assert_int_equal(atomic_load(&answer.status), BELAY_OK);
    assert_int_equal(belay_release(a.lock, NULL), BELAY_OK);
    assert_int_equal(belay_release(atomic_load(&answer.lock), NULL), BELAY_OK);
}

static void the_engine_takes_the_lead_back_when_the_caller_goes(void **state)
{
    belay *client = *state;
    struct caller a = { 0 };
    struct answer answer = { 0 };
    belay_options options = BELAY_OPTIONS_INIT;
    options.wait_ms = BELAY_FOREVER;
    script_add(BELAY_VERB_ACQUIRE, (struct script_reply){ .how = SCRIPT_PEND, .status = BELAY_OK });
    script_add(BELAY_VERB_ACQUIRE,
               (struct script_reply){ .how = SCRIPT_NOW, .status = BELAY_HELD });

    caller_acquire(&a, client, "blocking", BELAY_TRY);
    assert_true(eventually(caller_leads(client)));
    assert_int_equal(belay_acquire_start(client, "started", &options, answer_in, &answer, NULL,
                                         NULL),
                     BELAY_OK);
    assert_true(caller_end(&a)); /* its time was up: the backend said OK, too late */
    assert_true(eventually(engine_leads(client)));

    belay_close(client);
    assert_int_equal(atomic_load(&answer.count), 1);
    assert_int_equal(atomic_load(&answer.status), BELAY_CANCELED);
    if (a.lock != NULL) (void)belay_release(a.lock, NULL);
    *state = help_open("", NULL);
}

/* Less than a fifth of 300 ms: a loop that spins takes all of it. */
static bool idles(void)
{
    int64_t until = help_now() + 300 * MS, spent = help_cpu();
    while (help_now() < until) {
        struct timespec moment = { .tv_nsec = 20 * MS };
        nanosleep(&moment, NULL);
    }
    return help_cpu() - spent < 60 * MS;
}

static void waiting_callers_and_started_calls_take_no_processor_time(void **state)
{
    belay *client = *state;
    struct caller callers[4];
    struct answer answer = { 0 };
    belay_options options = BELAY_OPTIONS_INIT;
    memset(callers, 0, sizeof callers);
    options.wait_ms = BELAY_FOREVER;
    options.keep = BELAY_KEEP_OFF;
    script_add(BELAY_VERB_ACQUIRE,
               (struct script_reply){ .how = SCRIPT_NOW, .status = BELAY_HELD });

    assert_int_equal(belay_acquire_start(client, "started", &options, answer_in, &answer, NULL,
                                         NULL),
                     BELAY_OK);
    assert_true(eventually(engine_leads(client)));
    assert_true(idles());
    for (int i = 0; i < 4; i++) caller_acquire(&callers[i], client, "blocking", BELAY_FOREVER);
    assert_true(eventually(caller_leads(client)));
    assert_true(eventually(calls_of(client) == 5));
    assert_true(idles());

    belay_close(client);
    for (int i = 0; i < 4; i++) {
        assert_true(caller_end(&callers[i]));
        assert_int_equal(callers[i].status, BELAY_CANCELED);
    }
    assert_int_equal(atomic_load(&answer.status), BELAY_CANCELED);
    *state = help_open("", NULL);
}

static void a_kept_lock_is_extended_while_callers_come_and_go(void **state)
{
    belay *client = *state;
    belay_options options = BELAY_OPTIONS_INIT;
    belay_lock *kept, *other;
    options.keep_every_ms = 20;
    options.keep = BELAY_KEEP_ON;
    assert_int_equal(belay_acquire(client, "kept", &options, &kept, NULL), BELAY_OK);

    int64_t until = help_now() + 400 * MS;
    do {
        assert_int_equal(belay_acquire(client, "other", NULL, &other, NULL), BELAY_OK);
        assert_int_equal(belay_release(other, NULL), BELAY_OK);
        help_pause();
    } while (help_now() < until);

    assert_true(eventually(script_count(BELAY_VERB_EXTEND) >= 4));
    assert_int_equal(belay_release(kept, NULL), BELAY_OK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_blocked_caller_leads_and_no_thread_starts, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_leader_that_leaves_passes_the_lead_on, setup, teardown),
        cmocka_unit_test_setup_teardown(who_follows_is_answered_after_the_leader_went, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_leader_whose_wait_another_thread_ends_returns, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(the_engine_gives_up_the_lead_to_a_caller_and_takes_it_back,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(the_engine_takes_the_lead_back_when_the_caller_goes, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(waiting_callers_and_started_calls_take_no_processor_time,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(a_kept_lock_is_extended_while_callers_come_and_go, setup,
                                        teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
