/* redlock_faults_test.c - five servers, of which some are silent, slow, deaf or empty: FAULTS rows
 * 1 to 3 and 26 to 31. */
#define _GNU_SOURCE
#include "tests/live/five.h"

#define LONG_MS 60000 /* a TTL that no test outlives */

enum { NODE_TIMEOUT_MS = 100, CALLERS = 8 };

static struct five five;
static belay *client, *rival;

static void begin(bool relayed, const char *top)
{
    char keys[64];
    int ms = NODE_TIMEOUT_MS * until_slow();
    five_begin(&five, relayed);
    snprintf(keys, sizeof keys, "node_timeout = \"%dms\"; timeout = \"2s\";", ms);
    client = five_open(&five, keys, top);
    rival = five_open(&five, keys, top);
    assert_true(until(five_keys(&five, ALL_FIVE) == 0));
}

static int tidy(void **state)
{
    (void)state;
    for (int i = 0; i < FIVE; i++) server_thaw(&five.servers[i]);
    belay_close(client);
    belay_close(rival);
    client = rival = NULL;
    five_end(&five);
    log_clear();
    return 0;
}

static void freeze(int from, int to)
{
    for (int i = from; i < to; i++) server_freeze(&five.servers[i]);
}

static void thaw(void)
{
    for (int i = 0; i < FIVE; i++) server_thaw(&five.servers[i]);
}

static bool clean_within(int ms, unsigned set)
{
    return until_within(ms * until_slow(), five_keys(&five, set) == 0);
}

/* ------------------------------------------------------------------ at rest */

/* A quorum's answers are enough for all it did; the others' are still to come. */
static void who_closes_before_the_last_answer_leaves_nothing(void **state)
{
    (void)state;
    begin(false, "");
    for (int i = 0; i < 60; i++) {
        char text[2048];
        belay_open_options options = BELAY_OPEN_OPTIONS_INIT;
        belay_lock *lock = NULL;
        options.threads = i % 2 == 0 ? BELAY_DISPATCH : BELAY_THREADS;
        belay *one = client_open_text(
            five_config(&five, "quarantine = false; node_timeout = \"500ms\"; timeout = \"2s\";",
                        "", "", text, sizeof text),
            &options);
        assert_status(take(one, "job", LONG_MS, 5000, &lock, NULL), BELAY_OK);
        if (i % 4 < 2) must_release(lock);
        belay_close(one);
        if (i % 4 >= 2) (void)belay_release(lock, NULL);
        assert_int_equal(five_keys(&five, ALL_FIVE), 0);
    }
}

/* ------------------------------------------------------------------ 1, 3: lost replies */

static const enum relay_trap losses[] = { RELAY_DROP_REPLY, RELAY_CUT_AFTER, RELAY_HOLD_REPLY };
enum { LOSSES = sizeof losses / sizeof losses[0] };

static void a_quorum_without_the_answers_is_no_grant(void **state)
{
    (void)state;
    for (int i = 0; i < LOSSES; i++)
        for (int lost = 2; lost <= 3; lost++) {
            belay_lock *lock = NULL;
            begin(true, "");
            for (int j = 0; j < lost; j++)
                relay_trap(five.relays[j], losses[i], "EVALSHA * 2 belay:job *");
            belay_status status = take(client, "job", LONG_MS, BELAY_TRY, &lock, NULL);
            if (lost == 2) assert_status(status, BELAY_OK);
            else assert_true(is_doubt(status));
            if (lock != NULL) must_release(lock);
            assert_true(clean_within(5000, ALL_FIVE));
            must_release(must_take(rival, "job", LONG_MS, 5000));
            tidy(NULL);
        }
}

static void a_release_whose_answers_are_lost_is_not_forgotten(void **state)
{
    (void)state;
    for (int i = 0; i < LOSSES; i++) {
        begin(true, "");
        belay_lock *lock = must_take(client, "job", LONG_MS, 5000);
        for (int j = 0; j < 3; j++)
            relay_trap(five.relays[j], losses[i], "EVALSHA * 1 belay:job *");
        belay_status status = belay_release(lock, NULL);
        assert_true(status == BELAY_OK || is_doubt(status));
        must_release(must_take(rival, "job", LONG_MS, 10000 * until_slow()));
        assert_true(clean_within(5000, ALL_FIVE));
        tidy(NULL);
    }
}

/* ------------------------------------------------------------------ 2: executed late */

static void what_executes_late_is_given_back(void **state)
{
    int64_t most_ms = 0;
    (void)state;
    begin(false, "");
    for (int i = 0; i < 12; i++) {
        freeze(i % 3, i % 3 + 3);
        belay_status status = take(client, "job", LONG_MS, BELAY_TRY, NULL, NULL);
        if (!is_doubt(status)) assert_status(status, BELAY_UNCERTAIN);
        int64_t start = clock_ms();
        thaw();
        assert_true(clean_within(5000, ALL_FIVE));
        if (clock_ms() - start > most_ms) most_ms = clock_ms() - start;
        assert_true(until(take(client, "job", LONG_MS, BELAY_TRY, NULL, NULL) == BELAY_OK));
        assert_true(clean_within(5000, ALL_FIVE));
    }
    print_message("clean at most %d ms after SIGCONT\n", (int)most_ms);
}

/* ------------------------------------------------------------------ 26: a minority is silent */

static int by_time(const void *a, const void *b)
{
    const int64_t *one = a, *other = b;
    return *one < *other ? -1 : *one > *other;
}

/* The median and the longest of some acquires, each released at once. */
static int64_t cycles(int count, int64_t *most_us)
{
    int64_t took_us[2000];
    assert_true(count <= 2000);
    for (int i = 0; i < count; i++) {
        belay_lock *lock = NULL;
        belay_error err = BELAY_ERROR_INIT;
        int64_t start = until_now_us();
        belay_status status = take(client, "job", LONG_MS, BELAY_TRY, &lock, &err);
        took_us[i] = until_now_us() - start;
        if (status != BELAY_OK) fail_msg("%s: %s", belay_status_name(status), err.text);
        must_release(lock);
    }
    qsort(took_us, (size_t)count, sizeof took_us[0], by_time);
    if (most_us != NULL) *most_us = took_us[count - 1];
    return took_us[count / 2];
}

static void two_of_five_that_stand_still_are_not_felt(void **state)
{
    int64_t most_us;
    (void)state;
    begin(false, "");
    int64_t healthy_us = cycles(500, NULL);
    belay_lock *held = must_take(client, "held", LONG_MS, 5000);
    freeze(0, 2);
    int64_t silent_us = cycles(1000, &most_us);
    print_message("median %d us, %d us with two silent; at most %d us\n", (int)healthy_us,
                  (int)silent_us, (int)most_us);
    assert_int_equal(belay_extend(held, 0, NULL), BELAY_OK);
    long before_kb = memory_kb();
    for (int i = 0; i < 5; i++) cycles(2000 / until_slow(), NULL);
    long grown_kb = memory_kb() - before_kb;
    print_message("%ld kB more after %d more cycles\n", grown_kb, 10000 / until_slow());
    if (until_slow() == 1) assert_true(grown_kb < 1024); /* a sanitizer keeps what is freed */
    thaw();
    must_release(held);
    assert_true(clean_within(5000, ALL_FIVE));
    assert_true(until((cycles(1, NULL), log_has("n0 is back"))));
}

/* ------------------------------------------------------------------ 27: a majority is */

static void without_a_quorum_nothing_is_granted_and_nothing_stays(void **state)
{
    (void)state;
    begin(false, "");
    belay_lock *held = must_take(client, "held", LONG_MS, 5000);
    freeze(2, FIVE);
    for (int i = 0; i < 20; i++) {
        char name[16];
        snprintf(name, sizeof name, "job%d", i);
        belay_status status = take(client, name, LONG_MS, BELAY_TRY, NULL, NULL);
        if (!is_doubt(status)) assert_status(status, BELAY_UNCERTAIN);
    }
    assert_true(until_within(5000 * until_slow(), five_keys(&five, 3) == 2)); /* the held one */
    assert_true(is_doubt(belay_extend(held, 0, NULL)));
    assert_true(belay_lock_valid(held, 0));
    assert_true(is_doubt(belay_release(held, NULL)));
    assert_true(clean_within(5000, 3));
    thaw();
    assert_true(clean_within(10000, ALL_FIVE));
    assert_true(until(take(rival, "held", LONG_MS, BELAY_TRY, NULL, NULL) == BELAY_OK));
}

/* ------------------------------------------------------------------ 28: split votes */

static pthread_barrier_t together;
static atomic_int inside, both;

static void contend(struct caller *caller)
{
    pthread_barrier_wait(&together);
    int64_t start = clock_ms();
    caller->options.ttl_ms = LONG_MS;
    caller->options.wait_ms = 60000;
    caller->options.keep = BELAY_KEEP_OFF;
    caller->status =
        belay_acquire(caller->client, "job", &caller->options, &caller->lock, &caller->err);
    caller->took_ms = clock_ms() - start;
    if (caller->status != BELAY_OK) return;
    if (atomic_fetch_add(&inside, 1) != 0) atomic_fetch_add(&both, 1);
    usleep(500);
    atomic_fetch_sub(&inside, 1);
    caller->status = belay_release(caller->lock, &caller->err);
}

static void split_votes_end_soon(void **state)
{
    enum { ROUNDS = 10 };
    belay *clients[CALLERS];
    int64_t first_ms[ROUNDS], last_ms[ROUNDS];
    (void)state;
    begin(false, "");
    for (int i = 0; i < CALLERS; i++)
        clients[i] = five_open(&five, "node_timeout = \"500ms\"; timeout = \"2s\";", "");
    pthread_barrier_init(&together, NULL, CALLERS);
    for (int round = 0; round < ROUNDS; round++) {
        struct caller callers[CALLERS] = { 0 };
        first_ms[round] = INT64_MAX;
        last_ms[round] = 0;
        for (int i = 0; i < CALLERS; i++) {
            callers[i].client = clients[i];
            caller_start(&callers[i], contend);
        }
        for (int i = 0; i < CALLERS; i++) {
            assert_status(caller_end(&callers[i]), BELAY_OK);
            if (callers[i].took_ms < first_ms[round]) first_ms[round] = callers[i].took_ms;
            if (callers[i].took_ms > last_ms[round]) last_ms[round] = callers[i].took_ms;
        }
    }
    pthread_barrier_destroy(&together);
    qsort(first_ms, ROUNDS, sizeof first_ms[0], by_time);
    qsort(last_ms, ROUNDS, sizeof last_ms[0], by_time);
    print_message("of %d: the first after %d ms (at most %d), the last after %d ms (at most %d)\n",
                  CALLERS, (int)first_ms[ROUNDS / 2], (int)first_ms[ROUNDS - 1],
                  (int)last_ms[ROUNDS / 2], (int)last_ms[ROUNDS - 1]);
    assert_int_equal(both, 0);
    assert_true(first_ms[ROUNDS - 1] < 3000 * until_slow());
    for (int i = 0; i < CALLERS; i++) belay_close(clients[i]);
    assert_true(clean_within(5000, ALL_FIVE));
}

/* ------------------------------------------------------------------ 29: empty inside a lease */

/* Through the relays, or not. */
static belay *quarantined(bool relayed)
{
    char text[2048];
    struct five way = five;
    if (!relayed) memset(way.relays, 0, sizeof way.relays);
    return client_open_text(
        five_config(&way, "node_timeout = \"500ms\"; timeout = \"2s\"; max_ttl = \"4s\";", "",
                    "outage = \"1m\";", text, sizeof text),
        NULL);
}

static void a_majority_that_forgot_gives_the_lock_to_nobody_else(void **state)
{
    (void)state;
    five_begin(&five, true);
    client = quarantined(true);
    rival = quarantined(false);
    /* Fresh servers, too, are known to know nothing. */
    assert_true(is_doubt(take(client, "job", 4000, BELAY_TRY, NULL, NULL)));
    must_release(must_take(client, "job", 4000, 30000));
    belay_lock *lock = must_take(client, "job", 4000, 30000), *other = NULL;
    for (int i = 0; i < FIVE; i++) { /* its holder hears of nothing */
        relay_hold(five.relays[i], RELAY_ALL, RELAY_UP, true);
        relay_hold(five.relays[i], RELAY_ALL, RELAY_DOWN, true);
    }
    for (int i = 0; i < 3; i++) {
        server_kill(&five.servers[i]);
        assert_true(server_restart(&five.servers[i], true));
    }
    int tries = 0;
    while (belay_lock_valid(lock, 0)) {
        belay_status status = take(rival, "job", 4000, BELAY_TRY, &other, NULL);
        if (status == BELAY_OK) assert_false(belay_lock_valid(lock, 0));
        else assert_true(status == BELAY_HELD || is_doubt(status));
        if (status == BELAY_OK) must_release(other);
        tries++;
        usleep(20000);
    }
    assert_true(tries > 3);
    for (int i = 0; i < FIVE; i++) {
        relay_hold(five.relays[i], RELAY_ALL, RELAY_UP, false);
        relay_hold(five.relays[i], RELAY_ALL, RELAY_DOWN, false);
    }
    (void)belay_release(lock, NULL);
    must_release(must_take(rival, "job", 4000, 30000)); /* they vote again */
    assert_true(clean_within(5000, ALL_FIVE));
}

static void the_holder_puts_its_lock_back_on_who_forgot(void **state)
{
    (void)state;
    five_begin(&five, false);
    client = quarantined(false);
    rival = quarantined(false);
    must_release(must_take(client, "job", 4000, 30000));
    belay_options options = BELAY_OPTIONS_INIT;
    belay_lock *lock = NULL;
    options.ttl_ms = 4000;
    options.keep = BELAY_KEEP_ON;
    options.wait_ms = 30000;
    assert_status(belay_acquire(client, "job", &options, &lock, NULL), BELAY_OK);
    for (int i = 0; i < 2; i++) {
        server_kill(&five.servers[i]);
        assert_true(server_restart(&five.servers[i], true));
        assert_true(until(five_keys(&five, 1u << i) == 1));
        assert_true(belay_lock_valid(lock, 0));
    }
    /* They stand for it: two others may go now. */
    server_kill(&five.servers[3]);
    server_kill(&five.servers[4]);
    int64_t end = clock_ms() + 6000;
    while (clock_ms() < end) {
        assert_true(belay_lock_valid(lock, 0));
        usleep(50000);
    }
    must_release(lock);
    assert_true(clean_within(5000, 7));
}

/* ------------------------------------------------------------------ 31: one server twice */

static void one_server_by_two_names_is_found(void **state)
{
    char text[1024];
    belay_error err = BELAY_ERROR_INIT;
    (void)state;
    five_begin(&five, true);
    snprintf(text, sizeof text,
             "use = \"r\";\nbackends: {\n"
             "  a: { type = \"redis\"; host = \"127.0.0.1\"; port = %d; };\n"
             "  b: { type = \"redis\"; host = \"127.0.0.1\"; port = %d; };\n"
             "  c: { type = \"redis\"; path = \"%s\"; };\n"
             "  r: { type = \"redlock\"; quarantine = false; node_timeout = \"500ms\"; timeout = "
             "\"2s\"; "
             "nodes = (\"a\", \"b\", \"c\"); };\n};\n",
             five.servers[0].port, five.servers[1].port, five.servers[0].socket);
    client = client_open_text(text, NULL);
    assert_true(until(take(client, "job", 5000, BELAY_TRY, NULL, &err) == BELAY_CONFIG));
    assert_non_null(strstr(err.text, "a and c are one place"));
    for (int i = 0; i < 20; i++)
        assert_status(take(client, "job", 5000, BELAY_TRY, NULL, NULL), BELAY_CONFIG);
    assert_true(clean_within(5000, ALL_FIVE));
}

#define IS(function) cmocka_unit_test_teardown(function, tidy)

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        IS(who_closes_before_the_last_answer_leaves_nothing),
        IS(a_quorum_without_the_answers_is_no_grant),
        IS(a_release_whose_answers_are_lost_is_not_forgotten),
        IS(what_executes_late_is_given_back),
        IS(two_of_five_that_stand_still_are_not_felt),
        IS(without_a_quorum_nothing_is_granted_and_nothing_stays),
        IS(split_votes_end_soon),
        IS(a_majority_that_forgot_gives_the_lock_to_nobody_else),
        IS(the_holder_puts_its_lock_back_on_who_forgot),
        IS(one_server_by_two_names_is_found),
    };
    if (argc > 1) cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL) == 0 ? 0 : 1;
}
