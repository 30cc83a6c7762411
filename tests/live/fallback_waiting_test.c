/* fallback_waiting_test.c - who waits is woken by whichever side frees the lock, and an outage ends
 * no wait. Two clients of one host, one behind a relay, and one of another host; how long a
 * hand-over takes in each combination is printed. */
#define _GNU_SOURCE
#include "tests/live/host.h"

enum { LONG_MS = 60000, ROUNDS = 7, TIMEOUT_MS = 200 };
/* Nobody may wait for a timer: the next look would be 5 s away, the TTL a minute. */
enum { WOKEN_MS = 1000 };

#define REDIS "timeout = \"200ms\";"
#define FALLBACK "probe_every = \"100ms\"; probe_most = \"200ms\";"

static struct server server;
static struct relay *relay;
static struct host here, there;
static belay *relayed, *direct, *distant; /* of `here`, of `here`, of `there` */

static int setup(void **state)
{
    (void)state;
    if (!host_begin(&here) || !host_begin(&there) || !server_start(&server, NULL)) return -1;
    const struct relay_options options = { .to_port = server.port };
    relay = relay_start(&options);
    if (relay == NULL) return -1;
    struct fallback_at at = {
        .at = at_relay(relay), .host = &here, .redis = REDIS, .fallback = FALLBACK
    };
    relayed = fallback_open(&at, NULL);
    at.at = at_server(&server);
    direct = fallback_open(&at, NULL);
    at.host = &there;
    distant = fallback_open(&at, NULL);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    if (relay != NULL) relay_refuse(relay, false);
    belay_close(relayed);
    belay_close(direct);
    belay_close(distant);
    relayed = direct = distant = NULL;
    relay_end(relay);
    relay = NULL;
    server_end(&server);
    host_end(&here);
    host_end(&there);
    log_clear();
    return 0;
}

static void part(void)
{
    relay_refuse(relay, true);
    relay_cut(relay, RELAY_ALL, false);
    assert_true(until(take(relayed, "other", LONG_MS, BELAY_TRY, NULL, NULL) == BELAY_OK &&
                      is_degraded(relayed)));
}

static void join(void)
{
    relay_refuse(relay, false);
    assert_true(until(!is_degraded(relayed)));
}

/* ------------------------------------------------------------------ from one to the other */

static int by_size(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

/* It waits on its own thread; when it has been refused is seen by that it waits no more than that.
 */
static bool is_waited_for(belay *holder)
{
    belay_info info = { .size = sizeof info };
    return belay_inspect(holder, "job", &info, NULL) == BELAY_OK && info.waiters > 0;
}

/* `seen`: the holder's backend can tell that somebody waits; otherwise a moment must do. */
static void hand_over(const char *what, belay *from, belay *to, bool seen, belay_scope scope)
{
    int64_t took_us[ROUNDS];
    for (int i = 0; i < ROUNDS; i++) {
        struct caller caller = { 0 };
        belay_lock *lock = must_take(from, "job", LONG_MS, 10000);
        caller_acquire(&caller, to, "job", LONG_MS, 20000);
        if (seen) assert_true(until(is_waited_for(from)));
        else assert_false(until_within(100, atomic_load(&caller.ended)));
        int64_t start = until_now_us();
        must_release(lock);
        assert_status(caller_end(&caller), BELAY_OK);
        took_us[i] = until_now_us() - start;
        assert_int_equal(belay_lock_scope(caller.lock), scope);
        must_release(caller.lock);
    }
    qsort(took_us, ROUNDS, sizeof *took_us, by_size);
    fprintf(stderr, "# %-52s median %6d us, worst %6d us\n", what, (int)took_us[ROUNDS / 2],
            (int)took_us[ROUNDS - 1]);
    assert_true(took_us[ROUNDS - 1] < WOKEN_MS * 1000 * until_slow());
}

static void all_is_well(void **state)
{
    (void)state;
    hand_over("healthy, to a neighbour", direct, relayed, true, BELAY_SCOPE_FLEET);
    hand_over("healthy, to another host", direct, distant, false, BELAY_SCOPE_FLEET);
    hand_over("healthy, from another host", distant, direct, false, BELAY_SCOPE_FLEET);
}

static void one_of_the_host_is_degraded(void **state)
{
    (void)state;
    part();
    hand_over("degraded, to a healthy neighbour", relayed, direct, true, BELAY_SCOPE_FLEET);
    hand_over("healthy, to a degraded neighbour", direct, relayed, true, BELAY_SCOPE_HOST);
    join();
    hand_over("recovered, to a neighbour", relayed, direct, true, BELAY_SCOPE_FLEET);
}

static void the_server_is_gone(void **state)
{
    (void)state;
    must_release(must_take(direct, "job", LONG_MS, 5000));
    part();
    server_kill(&server);
    assert_true(until(take(direct, "other", LONG_MS, BELAY_TRY, NULL, NULL) == BELAY_OK &&
                      is_degraded(direct)));
    hand_over("degraded, both", direct, relayed, true, BELAY_SCOPE_HOST);
    assert_true(server_restart(&server, false));
}

/* ------------------------------------------------------------------ what changes meanwhile */

/* Who waits for another host's lock, and loses sight of the server: it has the host's. */
static void an_outage_ends_the_wait_for_another_host(void **state)
{
    struct caller caller = { 0 };
    (void)state;
    belay_lock *theirs = must_take(distant, "job", LONG_MS, 5000);
    caller_acquire(&caller, relayed, "job", LONG_MS, 20000);
    assert_false(until_within(100, atomic_load(&caller.ended)));
    int64_t start = clock_ms();
    relay_refuse(relay, true);
    relay_cut(relay, RELAY_ALL, false);
    assert_status(caller_end(&caller), BELAY_OK);
    fprintf(stderr, "# who waited for another host has its own host's %d ms after the cut\n",
            (int)(clock_ms() - start));
    assert_int_equal(belay_lock_scope(caller.lock), BELAY_SCOPE_HOST);
    must_release(caller.lock);
    must_release(theirs);
}

/* Who waits for a neighbour goes on doing so, whatever becomes of the server. */
static void an_outage_ends_no_wait_for_a_neighbour(void **state)
{
    struct caller caller = { 0 };
    (void)state;
    belay_lock *theirs = must_take(direct, "job", LONG_MS, 5000);
    caller_acquire(&caller, relayed, "job", LONG_MS, 20000);
    assert_true(until(is_waited_for(direct)));
    part();
    assert_false(until_within(2 * TIMEOUT_MS, atomic_load(&caller.ended)));
    join();
    assert_false(until_within(100, atomic_load(&caller.ended)));
    int64_t start = clock_ms();
    must_release(theirs);
    assert_status(caller_end(&caller), BELAY_OK);
    assert_true(clock_ms() - start < WOKEN_MS * until_slow());
    assert_int_equal(belay_lock_scope(caller.lock), BELAY_SCOPE_FLEET);
    must_release(caller.lock);
}

/* It frees its row at once, and cannot free the server's: what was promised is the host's. */
static void who_lets_go_in_an_outage_wakes_its_neighbour(void **state)
{
    struct caller caller = { 0 };
    (void)state;
    belay_lock *mine = must_take(relayed, "job", LONG_MS, 5000);
    assert_int_equal(belay_lock_scope(mine), BELAY_SCOPE_FLEET);
    part();
    server_kill(&server);
    caller_acquire(&caller, direct, "job", LONG_MS, 20000);
    assert_true(until(is_waited_for(relayed)));
    int64_t start = clock_ms();
    (void)belay_release(mine, NULL);
    assert_status(caller_end(&caller), BELAY_OK);
    assert_true(clock_ms() - start < (WOKEN_MS + TIMEOUT_MS) * until_slow());
    assert_int_equal(belay_lock_scope(caller.lock), BELAY_SCOPE_HOST);
    assert_true(server_restart(&server, false));
    join();
    assert_true(until(belay_lock_scope(caller.lock) == BELAY_SCOPE_FLEET));
    must_release(caller.lock);
    assert_true(until(server_lock_keys(&server, "belay:") == 0));
    assert_true(until(host_rows(&here) == 0));
}

/* Two hosts, one of them cut off: whoever waits for it on the fleet has it when its TTL is over or
 * it was given back; nobody waits for a TTL that has a minute to run. */
static void who_comes_back_gives_back_what_it_left(void **state)
{
    struct caller caller = { 0 };
    (void)state;
    belay_lock *mine = must_take(relayed, "job", LONG_MS, 5000);
    part();
    caller_acquire(&caller, distant, "job", LONG_MS, 20000);
    (void)belay_release(mine, NULL);
    assert_false(until_within(100, atomic_load(&caller.ended)));
    int64_t start = clock_ms();
    join();
    assert_status(caller_end(&caller), BELAY_OK);
    fprintf(stderr, "# what could not be released was let go %d ms after the recovery\n",
            (int)(clock_ms() - start));
    assert_true(clock_ms() - start < 3000 * until_slow());
    must_release(caller.lock);
}

#define IS(function) cmocka_unit_test_setup_teardown(function, setup, teardown)

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        IS(all_is_well),
        IS(one_of_the_host_is_degraded),
        IS(the_server_is_gone),
        IS(an_outage_ends_the_wait_for_another_host),
        IS(an_outage_ends_no_wait_for_a_neighbour),
        IS(who_lets_go_in_an_outage_wakes_its_neighbour),
        IS(who_comes_back_gives_back_what_it_left),
    };
    if (argc > 1) cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL) == 0 ? 0 : 1;
}
