/* lost_replies_test.c - answers that never come, or come too late: FAULTS rows 1, 3, 4, 5, 6, 7. */
#define _GNU_SOURCE
#include "tests/live/client.h"

#define LONG_MS 60000 /* a TTL that no test outlives */

static struct server server;
static struct relay *relay;
static belay *client, *rival;

static int setup(void **state)
{
    (void)state;
    return server_start(&server, NULL) ? 0 : -1;
}

static int teardown(void **state)
{
    (void)state;
    server_end(&server);
    return 0;
}

/* The client goes through the relay, its rival does not. */
static void begin(const char *timeout, const char *top)
{
    const struct relay_options options = { .to_port = server.port };
    char more[64];
    snprintf(more, sizeof more, "timeout = \"%s\";", timeout);
    relay = relay_start(&options);
    assert_non_null(relay);
    client = client_open(at_relay(relay), more, top);
    rival = client_open(at_server(&server), NULL, top);
    must_release(must_take(client, "warm", LONG_MS, 5000)); /* its scripts are known there */
}

static int tidy(void **state)
{
    (void)state;
    belay_close(client);
    belay_close(rival);
    client = rival = NULL;
    relay_end(relay);
    relay = NULL;
    server_command(&server, NULL, "FLUSHALL");
    log_clear();
    return 0;
}

static long keys(void)
{
    return server_lock_keys(&server, "belay:");
}

/* What takes an acquire's reply away, and when. */
static const enum relay_trap losses[] = { RELAY_DROP_REPLY, RELAY_CUT_AFTER, RELAY_HOLD_REPLY };
enum { LOSSES = sizeof losses / sizeof losses[0] };

/* ------------------------------------------------------------------ 1: acquire */

static void a_try_whose_answer_is_lost_is_uncertain(void **state)
{
    (void)state;
    for (size_t i = 0; i < 2 * LOSSES; i++) {
        bool fenced = i % 2 == 0;
        begin("300ms", fenced ? NULL : "fencing = false;");
        relay_trap(relay, losses[i / 2], fenced ? "EVALSHA * 2 belay:job *" : "SET belay:job *");
        belay_error err = BELAY_ERROR_INIT;
        int64_t start = clock_ms();
        belay_status status = take(client, "job", LONG_MS, BELAY_TRY, NULL, &err);
        assert_status(status, BELAY_UNCERTAIN);
        assert_true(err.text[0] != '\0');
        assert_true(clock_ms() - start < 1000 * until_slow());
        assert_int_not_equal(relay_trapped(relay, 0), -1);
        assert_true(until_within(3000 * until_slow(), keys() == 0));
        must_release(must_take(rival, "job", LONG_MS, 5000));
        tidy(NULL);
    }
}

static void a_waiting_acquire_tries_again_with_another_owner(void **state)
{
    (void)state;
    for (size_t i = 0; i < LOSSES; i++) {
        begin("200ms", "fencing = false;");
        relay_trap(relay, losses[i], "SET belay:job *");
        belay_lock *lock = must_take(client, "job", LONG_MS, 10000);
        struct requests *seen = relay_requests(relay);
        char first[BELAY_OWNER_LENGTH + 1], owner[64], pattern[80];
        snprintf(first, sizeof first, "%s", requests_nth(seen, -1, "SET belay:job *", 0)->argv[2]);
        assert_string_not_equal(belay_lock_owner(lock), first);
        assert_string_equal(server_string(&server, owner, sizeof owner, "GET belay:job"),
                            belay_lock_owner(lock));
        snprintf(pattern, sizeof pattern, "EVAL *%s", first);
        assert_true(requests_count(seen, REQUESTS_ANY, pattern) > 0);
        must_release(lock);
        assert_int_equal(keys(), 0);
        tidy(NULL);
    }
}

/* ------------------------------------------------------------------ 3: release */

static void a_release_whose_answer_is_lost_is_not_forgotten(void **state)
{
    (void)state;
    for (size_t i = 0; i < LOSSES; i++) {
        begin("300ms", NULL);
        belay_lock *lock = must_take(client, "job", LONG_MS, 5000);
        relay_trap(relay, losses[i], "EVALSHA * 1 belay:job *");
        belay_status status = belay_release(lock, NULL);
        assert_true(status == BELAY_OK || is_doubt(status)); /* OK: it was repeated in time */
        assert_int_not_equal(relay_trapped(relay, 0), -1);
        must_release(must_take(rival, "job", LONG_MS, 5000));
        assert_int_equal(keys(), 0);
        tidy(NULL);
    }
}

/* The request never arrives: the first connection is cut, or holds it back for good. */
static void a_release_that_did_not_arrive_is_sent_again(void **state)
{
    (void)state;
    for (int i = 0; i < 2; i++) {
        begin("300ms", NULL);
        belay_lock *lock = must_take(client, "job", LONG_MS, 5000);
        relay_trap(relay, i == 0 ? RELAY_CUT_BEFORE : RELAY_HOLD_REQUEST,
                   "EVALSHA * 1 belay:job *");
        belay_status status = belay_release(lock, NULL);
        assert_true(status == BELAY_OK || is_doubt(status));
        must_release(must_take(rival, "job", LONG_MS, 10000));
        assert_int_equal(keys(), 0);
        tidy(NULL);
    }
}

/* ------------------------------------------------------------------ 4: a release that is late */

static void a_late_release_does_not_touch_the_next_holder(void **state)
{
    char owner[64];
    (void)state;
    begin("200ms", NULL);
    belay_lock *lock = must_take(client, "job", 600, 5000);
    relay_trap(relay, RELAY_HOLD_REQUEST, "EVALSHA * 1 belay:job *");
    assert_true(is_doubt(belay_release(lock, NULL)));
    relay_refuse(relay, true); /* nor does another connection bring it */
    belay_lock *next = must_take(rival, "job", LONG_MS, 10000); /* after the TTL */
    relay_hold(relay, RELAY_ALL, RELAY_UP, false);
    relay_refuse(relay, false);
    must_release(must_take(client, "other", LONG_MS, 10000)); /* by now it has been executed */
    assert_string_equal(server_string(&server, owner, sizeof owner, "GET belay:job"),
                        belay_lock_owner(next));
    assert_true(belay_lock_valid(next, 1000));
    must_release(next);
}

/* ------------------------------------------------------------------ 5, 6: extend */

static void an_extension_whose_answer_is_lost_leaves_the_deadline(void **state)
{
    (void)state;
    for (size_t i = 0; i < LOSSES; i++) {
        begin("200ms", NULL);
        belay_lock *lock = must_take(client, "job", 20000, 5000);
        relay_trap(relay, losses[i], "EVALSHA * 1 belay:job *");
        int64_t before = belay_lock_remaining_ms(lock);
        belay_status status = belay_extend(lock, LONG_MS, NULL);
        if (losses[i] != RELAY_CUT_AFTER || status != BELAY_OK) {
            assert_true(is_doubt(status));
            assert_true(belay_lock_remaining_ms(lock) <= before);
            assert_true(belay_lock_valid(lock, 15000));
        }
        relay_trap(relay, RELAY_NO_TRAP, NULL);
        assert_true(until(belay_extend(lock, LONG_MS, NULL) == BELAY_OK));
        assert_true(belay_lock_remaining_ms(lock) > 50000);
        must_release(lock);
        tidy(NULL);
    }
}

static atomic_int losses_told;

static void on_lost(void *arg, belay_lock *lock, const belay_error *why)
{
    (void)arg;
    (void)lock;
    if (why->status == BELAY_LOST) atomic_fetch_add(&losses_told, 1);
}

/* A kept lock whose every extension goes unanswered is lost at its deadline, once, and not before.
 */
static void a_kept_lock_without_answers_is_lost_at_its_deadline(void **state)
{
    belay_options options = BELAY_OPTIONS_INIT;
    belay_lock *lock = NULL;
    (void)state;
    begin("100ms", NULL);
    atomic_store(&losses_told, 0);
    options.ttl_ms = 1500;
    options.wait_ms = BELAY_TRY;
    options.on_lost = on_lost;
    int64_t start = clock_ms();
    assert_status(belay_acquire(client, "job", &options, &lock, NULL), BELAY_OK);
    int64_t deadline = clock_ms() + belay_lock_remaining_ms(lock);
    relay_drop(relay, RELAY_ALL, RELAY_DOWN, true);
    assert_true(until_within(5000 * until_slow(), atomic_load(&losses_told) > 0));
    int64_t told = clock_ms();
    assert_true(told >= deadline - 5);
    assert_true(told - deadline < 100 * until_slow());
    assert_true(told - start < 1500 + 100 * until_slow());
    assert_false(belay_lock_valid(lock, 0));
    assert_status(belay_extend(lock, 0, NULL), BELAY_LOST);
    assert_status(belay_release(lock, NULL), BELAY_LOST);
    assert_int_equal(atomic_load(&losses_told), 1);
}

static void an_extension_never_recreates(void **state)
{
    (void)state;
    begin("500ms", NULL);
    belay_lock *lock = must_take(client, "job", LONG_MS, 5000);
    server_command(&server, NULL, "DEL belay:job");
    assert_status(belay_extend(lock, LONG_MS, NULL), BELAY_LOST);
    assert_int_equal(keys(), 0);
    assert_status(belay_extend(lock, LONG_MS, NULL), BELAY_LOST);
    assert_status(belay_release(lock, NULL), BELAY_LOST);
    lock = must_take(client, "job", LONG_MS, 5000);
    server_command(&server, NULL, "SET belay:job somebody PX %d", LONG_MS);
    assert_status(belay_extend(lock, LONG_MS, NULL), BELAY_LOST);
    assert_status(belay_release(lock, NULL), BELAY_LOST);
    assert_int_equal(server_integer(&server, "EXISTS belay:job"), 1);
}

/* It lengthens, and never shortens, also when its answer is lost. */
static void a_short_extension_shortens_nothing(void **state)
{
    (void)state;
    begin("200ms", NULL);
    belay_lock *lock = must_take(client, "job", LONG_MS, 5000);
    assert_status(belay_extend(lock, 100, NULL), BELAY_OK);
    assert_true(server_integer(&server, "PTTL belay:job") > LONG_MS - 5000);
    assert_true(belay_lock_remaining_ms(lock) > LONG_MS - 5000);
    relay_trap(relay, RELAY_DROP_REPLY, "EVALSHA * 1 belay:job *");
    assert_true(is_doubt(belay_extend(lock, 100, NULL)));
    assert_true(server_integer(&server, "PTTL belay:job") > LONG_MS - 10000);
    must_release(lock);
}

/* ------------------------------------------------------------------ 7: an answer past its TTL */

static void an_answer_that_comes_past_the_ttl_is_no_grant(void **state)
{
    (void)state;
    for (int fenced = 0; fenced < 2; fenced++) {
        begin("3s", fenced ? NULL : "fencing = false;");
        relay_delay(relay, RELAY_DOWN, 300);
        belay_status status = take(client, "job", 150, BELAY_TRY, NULL, NULL);
        assert_true(is_doubt(status));
        relay_delay(relay, RELAY_DOWN, 0);
        must_release(must_take(rival, "job", LONG_MS, 5000));
        /* Longer than the answer took: a grant, whose time counts from before it was asked for. */
        relay_delay(relay, RELAY_DOWN, 200);
        belay_lock *lock = must_take(client, "job", 1000, BELAY_TRY);
        assert_true(belay_lock_remaining_ms(lock) <= 1000 - 200 - 12);
        relay_delay(relay, RELAY_DOWN, 0);
        must_release(lock);
        tidy(NULL);
    }
}

/* It executes when its caller has long been told: only giving it back frees the name. */
static void a_late_grant_is_given_back(void **state)
{
    (void)state;
    begin("200ms", "fencing = false;");
    long sets = server_calls(&server, "set");
    relay_delay(relay, RELAY_UP, 350);
    assert_status(take(client, "job", LONG_MS, BELAY_TRY, NULL, NULL), BELAY_UNCERTAIN);
    assert_int_equal(server_calls(&server, "set"), sets);
    relay_delay(relay, RELAY_UP, 0);
    assert_true(until(server_calls(&server, "set") > sets));
    assert_true(until_within(3000 * until_slow(), keys() == 0));
    must_release(must_take(rival, "job", LONG_MS, 5000));
}

#define IS(function) cmocka_unit_test_teardown(function, tidy)

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        IS(a_try_whose_answer_is_lost_is_uncertain),
        IS(a_waiting_acquire_tries_again_with_another_owner),
        IS(a_release_whose_answer_is_lost_is_not_forgotten),
        IS(a_release_that_did_not_arrive_is_sent_again),
        IS(a_late_release_does_not_touch_the_next_holder),
        IS(an_extension_whose_answer_is_lost_leaves_the_deadline),
        IS(a_kept_lock_without_answers_is_lost_at_its_deadline),
        IS(an_extension_never_recreates),
        IS(a_short_extension_shortens_nothing),
        IS(an_answer_that_comes_past_the_ttl_is_no_grant),
        IS(a_late_grant_is_given_back),
    };
    if (argc > 1) cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, setup, teardown) == 0 ? 0 : 1;
}
