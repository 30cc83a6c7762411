/* waiting_test.c - one blocked acquire, attempt by attempt, with a turned clock: SEMANTICS
 * section 3.
 *
 * BELAY_DISPATCH and a fake world: a blocking call moves the clock to its next moment of work by
 * itself, so that what an acquire did and when is exact but for its jitter (less than 25 ms). */
#define _GNU_SOURCE
#include "tests/unit/engine_help.h"

static belay_fake_world *world;
static int64_t begun_ns;

static belay *open_with(const char *config)
{
    belay_open_options options = help_options(BELAY_DISPATCH, world);
    belay *client = help_open(config, &options);
    begun_ns = belay_fake_now(world);
    return client;
}

static int setup(void **state)
{
    script_reset();
    world = belay_fake_create(7);
    *state = open_with("keep = false; handoffs = 8; handoff_pause = \"50ms\";");
    return *state == NULL ? -1 : 0;
}

static int teardown(void **state)
{
    belay_close(*state);
    belay_fake_destroy(world);
    return 0;
}

static void acquires(struct script_reply reply)
{
    script_add(BELAY_VERB_ACQUIRE, reply);
}

static belay_status acquire(belay *client, int64_t wait_ms)
{
    belay_options options = BELAY_OPTIONS_INIT;
    belay_lock *lock;
    options.wait_ms = wait_ms;
    belay_status status = belay_acquire(client, "a", &options, &lock, NULL);
    if (status == BELAY_OK) (void)belay_release(lock, NULL);
    return status;
}

/* When the n-th attempt was sent, in ms since the client was opened. */
static int64_t sent_ms(int attempt)
{
    return (script_call_at(BELAY_VERB_ACQUIRE, attempt).at_ns - begun_ns) / MS;
}

static int64_t passed_ms(void)
{
    return (belay_fake_now(world) - begun_ns) / MS;
}

static void a_refused_attempt_is_repeated_when_the_holders_ttl_has_run_out(void **state)
{
    acquires((struct script_reply){ .status = BELAY_HELD, .held_for_ms = 700 });
    acquires((struct script_reply){ .status = BELAY_OK });
    assert_int_equal(acquire(*state, 3000), BELAY_OK);
    assert_int_equal(script_count(BELAY_VERB_ACQUIRE), 2);
    assert_in_range(sent_ms(1), 700, 725);
}

static void a_wait_without_an_end_knows_since_when_it_waits(void **state)
{
    acquires((struct script_reply){ .status = BELAY_HELD, .held_for_ms = 700 });
    acquires((struct script_reply){ .status = BELAY_OK });
    assert_int_equal(acquire(*state, BELAY_FOREVER), BELAY_OK);
    assert_true(script_call_at(BELAY_VERB_ACQUIRE, 0).since_ns == begun_ns);
    assert_true(script_call_at(BELAY_VERB_ACQUIRE, 1).since_ns == begun_ns);
}

static void without_any_hint_it_asks_again_every_five_seconds(void **state)
{
    acquires((struct script_reply){ .status = BELAY_HELD, .times = 2 });
    acquires((struct script_reply){ .status = BELAY_OK });
    assert_int_equal(acquire(*state, BELAY_FOREVER), BELAY_OK);
    assert_in_range(sent_ms(1), 5000, 5025);
    assert_in_range(sent_ms(2), 10000, 10050);
}

static void a_long_ttl_is_no_reason_to_sleep_longer_than_five_seconds(void **state)
{
    acquires((struct script_reply){ .status = BELAY_HELD, .held_for_ms = 3600000 });
    acquires((struct script_reply){ .status = BELAY_OK });
    assert_int_equal(acquire(*state, BELAY_FOREVER), BELAY_OK);
    assert_in_range(sent_ms(1), 5000, 5025);
}

static void a_wait_ends_when_it_ends(void **state)
{
    acquires((struct script_reply){ .status = BELAY_HELD });
    assert_int_equal(acquire(*state, 1234), BELAY_HELD);
    assert_int_equal(passed_ms(), 1234);
    assert_int_equal(script_unwaits(), 1);
}

static void a_try_asks_once_and_leaves_nothing_waiting(void **state)
{
    acquires((struct script_reply){ .status = BELAY_HELD });
    assert_int_equal(acquire(*state, BELAY_TRY), BELAY_HELD);
    assert_int_equal(script_count(BELAY_VERB_ACQUIRE), 1);
    assert_false(script_call_at(BELAY_VERB_ACQUIRE, 0).waits);
    assert_int_equal(passed_ms(), 0);
}

static void a_wake_between_sending_and_the_refusal_counts(void **state)
{
    acquires((struct script_reply){ .how = SCRIPT_WAKE, .status = BELAY_HELD });
    acquires((struct script_reply){ .status = BELAY_OK });
    assert_int_equal(acquire(*state, BELAY_FOREVER), BELAY_OK);
    assert_int_equal(passed_ms(), 0);
}

static void a_backend_that_wakes_in_every_attempt_does_not_spin(void **state)
{
    acquires((struct script_reply){ .how = SCRIPT_WAKE, .status = BELAY_HELD });
    assert_int_equal(acquire(*state, 100), BELAY_HELD);
    assert_in_range(script_count(BELAY_VERB_ACQUIRE), 3, 210);
}

static void every_attempt_has_an_owner_of_its_own(void **state)
{
    acquires((struct script_reply){ .status = BELAY_HELD, .held_for_ms = 10, .times = 5 });
    acquires((struct script_reply){ .status = BELAY_OK });
    assert_int_equal(acquire(*state, BELAY_FOREVER), BELAY_OK);
    for (int i = 0; i < 6; i++)
        for (int j = 0; j < i; j++)
            assert_string_not_equal(script_call_at(BELAY_VERB_ACQUIRE, i).owner,
                                    script_call_at(BELAY_VERB_ACQUIRE, j).owner);
}

/* ------------------------------------------------------------------ outages */

static void an_outage_is_sat_out_while_it_is_shorter_than_outage(void **state)
{
    acquires((struct script_reply){ .status = BELAY_UNAVAILABLE, .times = 6 });
    acquires((struct script_reply){ .status = BELAY_OK });
    assert_int_equal(acquire(*state, BELAY_FOREVER), BELAY_OK);
}

static void an_outage_longer_than_outage_is_the_answer(void **state)
{
    acquires((struct script_reply){ .status = BELAY_UNAVAILABLE });
    assert_int_equal(acquire(*state, BELAY_FOREVER), BELAY_UNAVAILABLE);
    assert_in_range(passed_ms(), 5000, 5400);
}

static void an_outage_that_lasts_to_the_waits_end_is_the_answer(void **state)
{
    acquires((struct script_reply){ .status = BELAY_UNCERTAIN });
    assert_int_equal(acquire(*state, 1000), BELAY_UNCERTAIN);
    assert_int_equal(passed_ms(), 1000);
}

static void a_refusal_between_makes_it_two_outages(void **state)
{
    acquires((struct script_reply){ .how = SCRIPT_PEND, .status = BELAY_UNAVAILABLE, .times = 10 });
    acquires((struct script_reply){ .status = BELAY_HELD, .held_for_ms = 10 });
    acquires((struct script_reply){ .how = SCRIPT_PEND, .status = BELAY_UNAVAILABLE, .times = 10 });
    acquires((struct script_reply){ .status = BELAY_OK });
    assert_int_equal(acquire(*state, BELAY_FOREVER), BELAY_OK);
    assert_true(passed_ms() > 5000);
}

static void the_last_status_is_the_answer(void **state)
{
    acquires((struct script_reply){ .status = BELAY_UNAVAILABLE, .times = 3 });
    acquires((struct script_reply){ .status = BELAY_HELD });
    assert_int_equal(acquire(*state, 2000), BELAY_HELD);
}

static void held_stays_the_answer_when_the_last_attempt_was_cut_by_the_waits_end(void **state)
{
    acquires((struct script_reply){ .status = BELAY_HELD, .held_for_ms = 900 });
    acquires((struct script_reply){ .how = SCRIPT_PEND, .status = BELAY_UNAVAILABLE });
    assert_int_equal(acquire(*state, 1000), BELAY_HELD); /* it had 200 ms, and got less than 100 */
    assert_int_equal(script_count(BELAY_VERB_ACQUIRE), 2);
    assert_int_equal(passed_ms(), 1000);
}

static void a_dead_server_is_not_called_busy_for_having_been_so_before(void **state)
{
    for (int64_t wait_ms = 1000; wait_ms < 1500; wait_ms += 25) { /* some end amid an attempt */
        script_reset();
        acquires((struct script_reply){ .status = BELAY_HELD, .held_for_ms = 10 });
        acquires((struct script_reply){ .how = SCRIPT_PEND, .status = BELAY_UNAVAILABLE });
        assert_int_equal(acquire(*state, wait_ms), BELAY_UNAVAILABLE);
    }
}

static void a_first_attempt_cut_by_the_waits_end_is_no_held(void **state)
{
    acquires((struct script_reply){ .how = SCRIPT_PEND, .status = BELAY_UNAVAILABLE });
    assert_int_equal(acquire(*state, 50), BELAY_UNAVAILABLE);
    assert_int_equal(passed_ms(), 50);
}

static void a_refusal_for_good_is_the_answer_at_once(void **state)
{
    acquires((struct script_reply){ .status = BELAY_REFUSED });
    assert_int_equal(acquire(*state, BELAY_FOREVER), BELAY_REFUSED);
    assert_int_equal(passed_ms(), 0);
}

/* ------------------------------------------------------------------ the queue */

static void start(belay *client, struct answer *answer, int64_t wait_ms, belay_request **request)
{
    belay_options options = BELAY_OPTIONS_INIT;
    options.wait_ms = wait_ms;
    assert_int_equal(belay_acquire_start(client, "a", &options, answer_in, answer, request, NULL),
                     BELAY_OK);
}

static void turn(belay *client, int64_t ms)
{
    belay_fake_advance(world, ms * MS);
    for (int i = 0; i < 4; i++) assert_int_equal(belay_dispatch(client), BELAY_OK);
}

static void only_the_head_asks_and_the_queue_is_first_in_first_out(void **state)
{
    belay *client = *state;
    struct answer answers[6];
    belay_lock *held;
    memset(answers, 0, sizeof answers);
    assert_int_equal(belay_acquire(client, "a", NULL, &held, NULL), BELAY_OK);
    acquires((struct script_reply){ .status = BELAY_HELD });
    acquires((struct script_reply){ .status = BELAY_OK });
    for (int i = 0; i < 6; i++) start(client, &answers[i], BELAY_FOREVER, NULL);
    turn(client, 0);
    assert_int_equal(script_count(BELAY_VERB_ACQUIRE), 2);    /* ours and the head's */
    assert_int_equal(acquire(client, BELAY_TRY), BELAY_HELD); /* behind a queue: no I/O */
    assert_int_equal(script_count(BELAY_VERB_ACQUIRE), 2);

    assert_int_equal(belay_release(held, NULL), BELAY_OK);
    for (int i = 0; i < 6; i++) {
        turn(client, 0);
        for (int j = 0; j < 6; j++) assert_int_equal(atomic_load(&answers[j].count), j <= i);
        assert_int_equal(belay_release(atomic_load(&answers[i].lock), NULL), BELAY_OK);
    }
}

static void after_eight_hand_overs_the_head_pauses(void **state)
{
    belay *client = *state;
    struct answer answers[12];
    belay_lock *held;
    memset(answers, 0, sizeof answers);
    assert_int_equal(belay_acquire(client, "a", NULL, &held, NULL), BELAY_OK);
    acquires((struct script_reply){ .status = BELAY_HELD });
    acquires((struct script_reply){ .status = BELAY_OK });
    for (int i = 0; i < 12; i++) start(client, &answers[i], BELAY_FOREVER, NULL);
    turn(client, 0);
    assert_int_equal(belay_release(held, NULL), BELAY_OK);
    for (int i = 0; i < 8; i++) {
        turn(client, 0);
        assert_int_equal(atomic_load(&answers[i].count), 1);
        assert_int_equal(belay_release(atomic_load(&answers[i].lock), NULL), BELAY_OK);
    }
    turn(client, 49);
    assert_int_equal(atomic_load(&answers[8].count), 0); /* others' turn */
    turn(client, 27);
    assert_int_equal(atomic_load(&answers[8].count), 1);
    for (int i = 8; i < 12; i++) {
        turn(client, 0);
        assert_int_equal(belay_release(atomic_load(&answers[i].lock), NULL), BELAY_OK);
    }
}

/* ------------------------------------------------------------------ again and again, alone */

static void who_takes_a_name_again_and_again_leaves_it_alone_now_and_then(void **state)
{
    for (int round = 0; round < 3; round++) {
        int64_t began_ms = passed_ms();
        for (int i = 0; i < 9; i++) assert_int_equal(acquire(*state, BELAY_FOREVER), BELAY_OK);
        if (round == 0) assert_int_equal(passed_ms(), 0);
        else assert_in_range(passed_ms() - began_ms, 50, 75);
    }
}

static void grants_of_others_in_between_are_no_pause(void **state)
{
    for (int i = 0; i < 9; i++) {
        acquires((struct script_reply){ .how = SCRIPT_WAKE, .status = BELAY_HELD });
        acquires((struct script_reply){ .status = BELAY_OK });
    }
    for (int i = 0; i < 9; i++) assert_int_equal(acquire(*state, BELAY_FOREVER), BELAY_OK);
    assert_int_equal(passed_ms(), 0);
    assert_int_equal(acquire(*state, BELAY_FOREVER), BELAY_OK);
    assert_in_range(passed_ms(), 50, 75);
}

static void a_long_hold_is_no_pause(void **state)
{
    belay *client = *state;
    for (int i = 0; i < 9; i++) {
        belay_lock *lock;
        assert_int_equal(belay_acquire(client, "a", NULL, &lock, NULL), BELAY_OK);
        turn(client, 500);
        assert_int_equal(belay_release(lock, NULL), BELAY_OK);
    }
    int64_t began_ms = passed_ms();
    assert_int_equal(acquire(client, BELAY_FOREVER), BELAY_OK);
    assert_in_range(passed_ms() - began_ms, 50, 75);
}

static void a_name_that_was_left_alone_for_long_needs_no_pause(void **state)
{
    for (int i = 0; i < 20; i++) {
        int64_t began_ms = passed_ms();
        for (int n = 0; n < 8; n++) assert_int_equal(acquire(*state, BELAY_FOREVER), BELAY_OK);
        assert_int_equal(passed_ms(), began_ms);
        turn(*state, 50);
    }
}

static void a_wait_that_ends_before_the_pause_asks_all_the_same(void **state)
{
    for (int i = 0; i < 9; i++) assert_int_equal(acquire(*state, BELAY_FOREVER), BELAY_OK);
    for (int i = 0; i < 20; i++) {
        assert_int_equal(acquire(*state, 40), BELAY_OK);
        assert_int_equal(acquire(*state, BELAY_TRY), BELAY_OK);
    }
    assert_int_equal(passed_ms(), 0);
}

static void other_names_are_not_left_alone_with_it(void **state)
{
    belay *client = *state;
    belay_lock *lock;
    for (int i = 0; i < 9; i++) assert_int_equal(acquire(client, BELAY_FOREVER), BELAY_OK);
    assert_int_equal(belay_acquire(client, "b", NULL, &lock, NULL), BELAY_OK);
    assert_int_equal(passed_ms(), 0);
    assert_int_equal(belay_release(lock, NULL), BELAY_OK);
}

static void without_a_handoff_pause_nobody_who_is_alone_pauses(void **state)
{
    belay *client = open_with("keep = false;");
    (void)state;
    for (int i = 0; i < 100; i++) assert_int_equal(acquire(client, BELAY_FOREVER), BELAY_OK);
    assert_int_equal(passed_ms(), 0);
    belay_close(client);
}

static void a_new_head_asks_at_once_when_the_head_is_canceled(void **state)
{
    belay *client = *state;
    struct answer first = { 0 }, second = { 0 };
    belay_request *request;
    acquires((struct script_reply){ .status = BELAY_HELD });
    acquires((struct script_reply){ .status = BELAY_OK });
    start(client, &first, BELAY_FOREVER, &request);
    start(client, &second, BELAY_FOREVER, NULL);
    turn(client, 0);

    belay_request_cancel(request);
    turn(client, 0);

    assert_int_equal(atomic_load(&first.status), BELAY_CANCELED);
    assert_int_equal(atomic_load(&second.count), 1);
    assert_int_equal(atomic_load(&second.status), BELAY_OK);
    belay_request_free(request);
    assert_int_equal(belay_release(atomic_load(&second.lock), NULL), BELAY_OK);
}

static void who_queues_behind_an_outage_hears_of_it(void **state)
{
    belay *client = *state;
    struct answer head = { 0 }, queued = { 0 };
    acquires((struct script_reply){ .status = BELAY_UNAVAILABLE });
    start(client, &head, BELAY_FOREVER, NULL);
    start(client, &queued, 1000, NULL);
    for (int i = 0; i < 22; i++) turn(client, 50);
    assert_int_equal(atomic_load(&queued.count), 1);
    assert_int_equal(atomic_load(&queued.status), BELAY_UNAVAILABLE); /* not HELD: nobody said so */
    for (int i = 0; i < 120; i++) turn(client, 50);
    assert_int_equal(atomic_load(&head.status), BELAY_UNAVAILABLE);
}

static void an_outage_counts_for_all_who_queue_not_for_each_in_turn(void **state)
{
    belay *client = *state;
    struct answer answers[4];
    memset(answers, 0, sizeof answers);
    acquires((struct script_reply){ .status = BELAY_UNAVAILABLE });
    for (int i = 0; i < 4; i++) start(client, &answers[i], BELAY_FOREVER, NULL);
    for (int i = 0; i < 120; i++) turn(client, 50); /* 6 s */
    for (int i = 0; i < 4; i++) {
        assert_int_equal(atomic_load(&answers[i].count), 1);
        assert_int_equal(atomic_load(&answers[i].status), BELAY_UNAVAILABLE);
    }
}

static void who_waited_through_an_outage_is_answered_with_the_head(void **state)
{
    belay *client = *state;
    struct answer answers[5];
    memset(answers, 0, sizeof answers);
    acquires((struct script_reply){
        .how = SCRIPT_TIMER, .status = BELAY_UNAVAILABLE, .after_ms = 90, .times = 1000 });
    for (int i = 0; i < 4; i++) start(client, &answers[i], BELAY_FOREVER, NULL);
    for (int i = 0; i < 60; i++) turn(client, 50);
    start(client, &answers[4], BELAY_FOREVER, NULL); /* it comes late, and is asked for once */
    for (int i = 0; i < 120 && atomic_load(&answers[0].count) == 0; i++) turn(client, 50);
    for (int i = 0; i < 4; i++) {
        assert_int_equal(atomic_load(&answers[i].count), 1);
        assert_int_equal(atomic_load(&answers[i].status), BELAY_UNAVAILABLE);
    }
    assert_int_equal(atomic_load(&answers[4].count), 0);
    for (int i = 0; i < 10; i++) turn(client, 50);
    assert_int_equal(atomic_load(&answers[4].status), BELAY_UNAVAILABLE);
}

static void an_early_wake_up_is_a_hint_and_the_timer_stays_armed(void **state)
{
    belay *client = *state;
    struct answer answer = { 0 };
    acquires((struct script_reply){ .status = BELAY_HELD, .held_for_ms = 1000, .times = 2 });
    acquires((struct script_reply){ .status = BELAY_OK });
    start(client, &answer, BELAY_FOREVER, NULL);
    turn(client, 10);
    script_wake();
    turn(client, 0);
    assert_int_equal(script_count(BELAY_VERB_ACQUIRE), 2);
    turn(client, 999);
    assert_int_equal(script_count(BELAY_VERB_ACQUIRE), 2);
    turn(client, 30);
    assert_int_equal(atomic_load(&answer.count), 1);
    assert_int_equal(belay_release(atomic_load(&answer.lock), NULL), BELAY_OK);
}

#define PROMISE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        PROMISE(a_refused_attempt_is_repeated_when_the_holders_ttl_has_run_out),
        PROMISE(a_wait_without_an_end_knows_since_when_it_waits),
        PROMISE(without_any_hint_it_asks_again_every_five_seconds),
        PROMISE(a_long_ttl_is_no_reason_to_sleep_longer_than_five_seconds),
        PROMISE(a_wait_ends_when_it_ends),
        PROMISE(a_try_asks_once_and_leaves_nothing_waiting),
        PROMISE(a_wake_between_sending_and_the_refusal_counts),
        PROMISE(a_backend_that_wakes_in_every_attempt_does_not_spin),
        PROMISE(every_attempt_has_an_owner_of_its_own),
        PROMISE(an_outage_is_sat_out_while_it_is_shorter_than_outage),
        PROMISE(an_outage_longer_than_outage_is_the_answer),
        PROMISE(an_outage_that_lasts_to_the_waits_end_is_the_answer),
        PROMISE(a_refusal_between_makes_it_two_outages),
        PROMISE(the_last_status_is_the_answer),
        PROMISE(held_stays_the_answer_when_the_last_attempt_was_cut_by_the_waits_end),
        PROMISE(a_dead_server_is_not_called_busy_for_having_been_so_before),
        PROMISE(a_first_attempt_cut_by_the_waits_end_is_no_held),
        PROMISE(a_refusal_for_good_is_the_answer_at_once),
        PROMISE(only_the_head_asks_and_the_queue_is_first_in_first_out),
        PROMISE(after_eight_hand_overs_the_head_pauses),
        PROMISE(who_takes_a_name_again_and_again_leaves_it_alone_now_and_then),
        PROMISE(grants_of_others_in_between_are_no_pause),
        PROMISE(a_long_hold_is_no_pause),
        PROMISE(a_name_that_was_left_alone_for_long_needs_no_pause),
        PROMISE(a_wait_that_ends_before_the_pause_asks_all_the_same),
        PROMISE(other_names_are_not_left_alone_with_it),
        PROMISE(without_a_handoff_pause_nobody_who_is_alone_pauses),
        PROMISE(a_new_head_asks_at_once_when_the_head_is_canceled),
        PROMISE(who_queues_behind_an_outage_hears_of_it),
        PROMISE(an_outage_counts_for_all_who_queue_not_for_each_in_turn),
        PROMISE(who_waited_through_an_outage_is_answered_with_the_head),
        PROMISE(an_early_wake_up_is_a_hint_and_the_timer_stays_armed),
    };

    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
