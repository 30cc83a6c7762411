/* waiting_test.c - who waits is woken by the server's word, and by a timer where that is lost:
 * SEMANTICS 3.
 *
 * Through a relay, which numbers a client's connections: 0 is the one that asks, 1 the ear that
 * hears of keys that changed. */
#define _GNU_SOURCE
#include "tests/live/client.h"

#define LONG_MS 60000
#define SOON_MS 300 /* far below every timer: the TTL, five seconds, the slowest poll's sum */
#define ASKS "EVAL* 2 belay:job *" /* an acquire */

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

static int tidy(void **state)
{
    (void)state;
    belay_close(client);
    belay_close(rival);
    client = rival = NULL;
    relay_end(relay);
    relay = NULL;
    server_thaw(&server);
    server_command(&server, NULL, "FLUSHALL");
    log_clear();
    return 0;
}

static void begin(const char *more)
{
    const struct relay_options options = { .to_port = server.port };
    relay = relay_start(&options);
    assert_non_null(relay);
    client = client_open(at_relay(relay), more, "outage = \"1h\";");
    rival = client_open(at_server(&server), NULL, NULL);
}

static size_t asked(const char *pattern)
{
    return requests_count(relay_requests(relay), REQUESTS_ANY, pattern);
}

/* Its wait is known to the server: it asks no more. */
static void until_it_sleeps(void)
{
    assert_true(requests_await(relay_requests(relay), 0, "CLIENT TRACKING ON *", 1, UNTIL_MS));
    size_t before;
    int64_t quiet_since;
    do {
        before = asked(NULL);
        quiet_since = until_now_ms();
        (void)until_within(400, asked(NULL) != before);
    } while (asked(NULL) != before || until_now_ms() - quiet_since < 400);
}

static void wait_for_job(struct caller *caller)
{
    caller_acquire(caller, client, "job", LONG_MS, 40000);
    until_it_sleeps();
    assert_false(atomic_load(&caller->ended));
}

/* It is got within so much of `start`. */
static void got_by(struct caller *caller, int64_t start, int64_t ms)
{
    assert_status(caller_end(caller), BELAY_OK);
    int64_t took = clock_ms() - start;
    if (took >= ms * until_slow()) print_message("it took %lld ms\n", (long long)took);
    assert_true(took < ms * until_slow());
    must_release(caller->lock);
}

static void somebody_s(const char *name, int ttl_ms)
{
    server_command(&server, NULL, "SET belay:%s somebody PX %d", name, ttl_ms);
}

/* ------------------------------------------------------------------ woken */

static void a_release_wakes_a_waiter_of_another_client(void **state)
{
    struct caller caller = { 0 };
    (void)state;
    begin(NULL);
    belay_lock *lock = must_take(rival, "job", LONG_MS, BELAY_TRY);
    wait_for_job(&caller);
    int64_t start = clock_ms();
    must_release(lock);
    got_by(&caller, start, SOON_MS);
}

static void a_waiter_asks_nothing_while_it_sleeps(void **state)
{
    struct caller caller = { 0 };
    (void)state;
    begin(NULL);
    somebody_s("job", LONG_MS);
    wait_for_job(&caller);
    size_t before = asked(NULL);
    int64_t cpu = cpu_ms();
    assert_false(until_within(1500, asked(NULL) > before + 1)); /* a PING is allowed */
    assert_true(cpu_ms() - cpu < 200 * until_slow());           /* most of it this loop's */
    int64_t start = clock_ms();
    server_command(&server, NULL, "DEL belay:job");
    got_by(&caller, start, SOON_MS);
    assert_true(asked(ASKS) <= 6);
}

static void whatever_takes_the_key_away_wakes(void **state)
{
    static const char *const ways[] = {
        "DEL belay:job", "UNLINK belay:job",           "FLUSHALL",
        "FLUSHDB ASYNC", "RENAME belay:job elsewhere", "PEXPIRE belay:job 1"
    };
    (void)state;
    begin(NULL);
    for (size_t i = 0; i < sizeof ways / sizeof ways[0]; i++) {
        struct caller caller = { 0 };
        somebody_s("job", LONG_MS);
        wait_for_job(&caller);
        int64_t start = clock_ms();
        server_command(&server, NULL, ways[i]);
        got_by(&caller, start, SOON_MS);
    }
}

static void a_flush_wakes_the_waiters_of_all_names(void **state)
{
    enum { NAMES = 12 };
    static char names[NAMES][16];
    struct caller callers[NAMES] = { 0 };
    (void)state;
    begin(NULL);
    for (int i = 0; i < NAMES; i++) {
        snprintf(names[i], sizeof names[i], "n%d", i);
        somebody_s(names[i], LONG_MS);
        caller_acquire(&callers[i], client, names[i], LONG_MS, 40000);
    }
    until_it_sleeps();
    int64_t start = clock_ms();
    server_command(&server, NULL, "FLUSHALL");
    for (int i = 0; i < NAMES; i++) got_by(&callers[i], start, SOON_MS);
}

/* A foreign overwrite is no release: it looks, is refused, and sleeps on. */
static void a_wake_up_that_was_for_nothing_is_slept_off(void **state)
{
    struct caller caller = { 0 };
    (void)state;
    begin(NULL);
    somebody_s("job", LONG_MS);
    wait_for_job(&caller);
    for (int i = 0; i < 5; i++) {
        somebody_s("job", LONG_MS);
        until_it_sleeps();
    }
    assert_false(atomic_load(&caller.ended));
    int64_t start = clock_ms();
    server_command(&server, NULL, "DEL belay:job");
    got_by(&caller, start, SOON_MS);
}

/* The word can be there before the refusal is: it counts from the moment the attempt is sent. */
static void a_word_that_overtakes_the_refusal_counts(void **state)
{
    struct caller caller = { 0 };
    (void)state;
    begin("timeout = \"5s\";");
    somebody_s("job", LONG_MS);
    wait_for_job(&caller);
    relay_trap(relay, RELAY_HOLD_REPLY, ASKS);
    somebody_s("job", LONG_MS); /* wakes it: the attempt's refusal stays in the relay */
    assert_int_equal(relay_trapped(relay, UNTIL_MS), 0);
    int64_t down = relay_bytes(relay, RELAY_DOWN);
    server_command(&server, NULL, "DEL belay:job"); /* said to the ear */
    assert_true(until(relay_bytes(relay, RELAY_DOWN) > down));
    int64_t start = clock_ms();
    relay_hold(relay, 0, RELAY_DOWN, false);
    got_by(&caller, start, SOON_MS);
}

/* ------------------------------------------------------------------ not woken */

/* The ear hears nothing: the holder's TTL, which the refusal told, is when it asks again. */
static void a_lost_word_delays_until_the_ttl(void **state)
{
    struct caller caller = { 0 };
    (void)state;
    begin(NULL);
    somebody_s("job", 2500);
    wait_for_job(&caller);
    relay_hold(relay, 1, RELAY_DOWN, true);
    int64_t left = server_integer(&server, "PTTL belay:job");
    assert_true(left > 0);
    got_by(&caller, clock_ms(), left + SOON_MS);
}

/* Released early, and nobody said so: five seconds are the longest sleep. */
static void a_lost_word_delays_for_five_seconds_at_most(void **state)
{
    struct caller caller = { 0 };
    (void)state;
    begin(NULL);
    somebody_s("job", LONG_MS);
    wait_for_job(&caller);
    relay_hold(relay, 1, RELAY_DOWN, true);
    server_command(&server, NULL, "DEL belay:job");
    got_by(&caller, clock_ms(), 5000 + SOON_MS);
}

/* ------------------------------------------------------------------ what breaks */

static void an_ear_that_is_cut_off_is_replaced(void **state)
{
    (void)state;
    begin(NULL);
    for (int i = 0; i < 3; i++) {
        struct caller caller = { 0 };
        somebody_s("job", LONG_MS);
        wait_for_job(&caller);
        size_t tracked = asked("CLIENT TRACKING ON *");
        int ear = relay_connections(relay) - 1;
        relay_cut(relay, ear, i % 2 == 0);
        assert_true(until(asked("CLIENT TRACKING ON *") > tracked)); /* by another one */
        until_it_sleeps();
        int64_t start = clock_ms();
        server_command(&server, NULL, "DEL belay:job");
        got_by(&caller, start, SOON_MS);
    }
}

/* Cut off at the very moment when the key goes: whoever waited is woken by the cut. */
static void a_word_that_was_cut_off_wakes_all_the_same(void **state)
{
    struct caller caller = { 0 };
    (void)state;
    begin(NULL);
    somebody_s("job", LONG_MS);
    wait_for_job(&caller);
    relay_hold(relay, 1, RELAY_DOWN, true);
    server_command(&server, NULL, "DEL belay:job");
    int64_t start = clock_ms();
    relay_cut(relay, 1, true);
    got_by(&caller, start, SOON_MS);
}

static void a_cut_of_both_connections_loses_no_waiter(void **state)
{
    struct caller caller = { 0 };
    (void)state;
    begin(NULL);
    somebody_s("job", LONG_MS);
    wait_for_job(&caller);
    size_t tracked = asked("CLIENT TRACKING ON *");
    relay_cut(relay, RELAY_ALL, true);
    assert_true(until(asked("CLIENT TRACKING ON *") > tracked));
    until_it_sleeps();
    int64_t start = clock_ms();
    server_command(&server, NULL, "DEL belay:job");
    got_by(&caller, start, SOON_MS);
}

/* An ear that says nothing any more is pinged, and given up. */
static void a_deaf_ear_is_noticed(void **state)
{
    struct caller caller = { 0 };
    (void)state;
    begin(NULL);
    somebody_s("job", LONG_MS);
    wait_for_job(&caller);
    size_t tracked = asked("CLIENT TRACKING ON *");
    relay_hold(relay, 1, RELAY_DOWN, true);
    assert_true(requests_await(relay_requests(relay), 1, "PING", 1, UNTIL_MS));
    assert_true(until(asked("CLIENT TRACKING ON *") > tracked));
    until_it_sleeps();
    int64_t start = clock_ms();
    server_command(&server, NULL, "DEL belay:job");
    got_by(&caller, start, SOON_MS);
}

static void a_restart_of_the_server_loses_no_waiter(void **state)
{
    struct caller caller = { 0 };
    (void)state;
    begin(NULL);
    somebody_s("job", LONG_MS);
    wait_for_job(&caller);
    assert_true(server_restart(&server, true)); /* and nobody holds it any more */
    got_by(&caller, clock_ms(), 4000);
}

static void a_stop_of_the_server_loses_no_waiter(void **state)
{
    struct caller caller = { 0 };
    (void)state;
    begin("timeout = \"200ms\";");
    somebody_s("job", 1500);
    wait_for_job(&caller);
    server_freeze(&server);
    assert_false(until_within(2500, atomic_load(&caller.ended)));
    server_thaw(&server);
    got_by(&caller, clock_ms(), 2000);
}

/* ------------------------------------------------------------------ the second connection */

static void the_ear_lives_only_while_somebody_waits(void **state)
{
    struct caller caller = { 0 };
    (void)state;
    begin(NULL);
    must_release(must_take(client, "job", LONG_MS, BELAY_TRY));
    assert_status(take(client, "job", LONG_MS, 5000, NULL, NULL), BELAY_OK);
    somebody_s("job", LONG_MS);
    assert_status(take(client, "job", LONG_MS, BELAY_TRY, NULL, NULL), BELAY_HELD);
    assert_int_equal(relay_connections(relay), 1); /* nobody waited */
    wait_for_job(&caller);
    assert_int_equal(relay_live(relay), 2);
    int64_t start = clock_ms();
    server_command(&server, NULL, "DEL belay:job");
    got_by(&caller, start, SOON_MS);
    assert_true(
        until_within(5000, take(client, "job", LONG_MS, BELAY_TRY, NULL, NULL) == BELAY_OK &&
                               relay_live(relay) == 1));
    assert_true(asked("CLIENT TRACKING OFF") > 0);
}

/* ------------------------------------------------------------------ without it */

static void without_tracking_it_polls_more_and_more_slowly(void **state)
{
    struct caller caller = { 0 };
    (void)state;
    begin("tracking = false;");
    somebody_s("job", LONG_MS);
    caller_acquire(&caller, client, "job", LONG_MS, 40000);
    assert_false(until_within(2000, atomic_load(&caller.ended)));
    size_t asks = asked(ASKS);
    assert_true(asks >= 8 && asks <= 24); /* 10 ms doubling to 250 ms, jittered */
    int64_t start = clock_ms();
    server_command(&server, NULL, "DEL belay:job");
    got_by(&caller, start, 250 + SOON_MS);
    assert_int_equal(relay_connections(relay), 1);
    assert_int_equal(asked("CLIENT TRACKING*"), 0);
}

/* The holder's TTL is nearer than the next poll. */
static void polling_is_bounded_by_the_ttl(void **state)
{
    struct caller caller = { 0 };
    (void)state;
    begin("tracking = false;");
    somebody_s("job", 1700);
    caller_acquire(&caller, client, "job", LONG_MS, 40000);
    assert_true(until(server_integer(&server, "PTTL belay:job") < 300));
    got_by(&caller, clock_ms(), 300 + SOON_MS / 2);
}

#define IS(function) cmocka_unit_test_teardown(function, tidy)

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        IS(a_release_wakes_a_waiter_of_another_client),
        IS(a_waiter_asks_nothing_while_it_sleeps),
        IS(whatever_takes_the_key_away_wakes),
        IS(a_flush_wakes_the_waiters_of_all_names),
        IS(a_wake_up_that_was_for_nothing_is_slept_off),
        IS(a_word_that_overtakes_the_refusal_counts),
        IS(a_lost_word_delays_until_the_ttl),
        IS(a_lost_word_delays_for_five_seconds_at_most),
        IS(an_ear_that_is_cut_off_is_replaced),
        IS(a_word_that_was_cut_off_wakes_all_the_same),
        IS(a_cut_of_both_connections_loses_no_waiter),
        IS(a_deaf_ear_is_noticed),
        IS(a_restart_of_the_server_loses_no_waiter),
        IS(a_stop_of_the_server_loses_no_waiter),
        IS(the_ear_lives_only_while_somebody_waits),
        IS(without_tracking_it_polls_more_and_more_slowly),
        IS(polling_is_bounded_by_the_ttl),
    };
    if (argc > 1) cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, setup, teardown) == 0 ? 0 : 1;
}
