/* fallback_evidence_test.c - what degrades a client and what does not: its own evidence that the
 * server is out of reach, and no answer, no refusal, no neighbour. FAULTS rows 33 and 33b;
 * `policy`, `at_least`, `settle`, and callers with less patience than one attempt. */
#define _GNU_SOURCE
#include "tests/live/host.h"

#include <hiredis.h>
#include <sys/stat.h>

enum { TIMEOUT_MS = 200, LONG_MS = 60000 };

#define REDIS "timeout = \"200ms\";"
#define QUICK "probe_every = \"100ms\"; probe_most = \"200ms\";"
#define NEVER "probe_every = \"1h\"; probe_most = \"1h\";" /* what a caller finds out alone */

static struct server server, master;
static struct relay *relay;
static struct host host;
static belay *client, *neighbour;

static int tidy(void **state)
{
    (void)state;
    if (relay != NULL) { /* what they owe can be paid */
        relay_refuse(relay, false);
        relay_drop(relay, RELAY_ALL, RELAY_DOWN, false);
        relay_cut(relay, RELAY_ALL, false);
    }
    belay_close(client);
    belay_close(neighbour);
    client = neighbour = NULL;
    relay_end(relay);
    relay = NULL;
    server_end(&server);
    server_end(&master);
    host_end(&host);
    log_clear();
    return 0;
}

/* ------------------------------------------------------------------ the scene */

static void begin_with(const struct server_options *options, const char *redis,
                       const char *fallback)
{
    assert_true(host_begin(&host));
    assert_true(server_start(&server, options));
    const struct relay_options relay_options = { .to_port = server.port };
    relay = relay_start(&relay_options);
    assert_non_null(relay);
    struct fallback_at at = {
        .at = at_relay(relay), .host = &host, .redis = redis, .fallback = fallback
    };
    client = fallback_open(&at, NULL);
    at.at = at_server(&server);
    neighbour = fallback_open(&at, NULL);
    must_release(must_take(client, "job", LONG_MS, 5000));
    must_release(must_take(neighbour, "job", LONG_MS, 5000));
    assert_false(is_degraded(client) || is_degraded(neighbour));
}

static void begin(const char *fallback)
{
    begin_with(NULL, REDIS, fallback);
}

static void part(void)
{
    relay_refuse(relay, true);
    relay_cut(relay, RELAY_ALL, false);
}

static void join(void)
{
    relay_refuse(relay, false);
}

static belay_status ask(belay *from, const char *name, belay_scope at_least, int64_t wait_ms,
                        belay_lock **out, belay_error *err)
{
    belay_options options = BELAY_OPTIONS_INIT;
    belay_lock *lock = NULL;
    options.ttl_ms = LONG_MS;
    options.wait_ms = wait_ms;
    options.at_least = at_least;
    belay_status status = belay_acquire(from, name, &options, &lock, err);
    if (out != NULL) *out = lock;
    else if (lock != NULL) (void)belay_release(lock, NULL);
    return status;
}

static belay_lock *must_have(belay *from, const char *name, belay_scope scope)
{
    belay_lock *lock = must_take(from, name, LONG_MS, 5000);
    assert_int_equal(belay_lock_scope(lock), scope);
    return lock;
}

static void must_be_held(belay *from, const char *name)
{
    assert_status(take(from, name, LONG_MS, BELAY_TRY, NULL, NULL), BELAY_HELD);
}

static void all_is_well(belay *from)
{
    belay_error err = BELAY_ERROR_INIT;
    assert_true(until(!is_degraded(from)));
    assert_true(until(ask(from, "job", BELAY_SCOPE_FLEET, BELAY_TRY, NULL, &err) == BELAY_OK));
}

static void nothing_is_left(void)
{
    assert_true(until(server_lock_keys(&server, "belay:") == 0));
    assert_true(until(host_rows(&host) == 0));
}

/* ------------------------------------------------------------------ 33: two of one host */

/* One does not see the server, the other does: never two holders, and only the one degrades. */
static void differ(void (*go)(void), void (*come_back)(void))
{
    belay_health health = { .size = sizeof health };
    begin(QUICK);
    go();
    belay_lock *mine = must_have(client, "job", BELAY_SCOPE_HOST);
    must_be_held(neighbour, "job");
    belay_lock *theirs = must_have(neighbour, "other", BELAY_SCOPE_FLEET);
    must_be_held(client, "other");
    assert_true(is_degraded(client));
    assert_false(is_degraded(neighbour));
    /* It has heard of it, though. */
    assert_true(until(belay_get_health(neighbour, &health, NULL) == BELAY_OK && health.other));
    assert_int_equal(health.other_pid, getpid());
    assert_int_equal(health.scope, BELAY_SCOPE_FLEET);
    must_release(mine);
    mine = must_have(neighbour, "job", BELAY_SCOPE_FLEET);
    must_be_held(client, "job");
    must_release(theirs);
    theirs = must_have(client, "other", BELAY_SCOPE_HOST);
    must_be_held(neighbour, "other");
    come_back();
    assert_true(until(belay_lock_scope(theirs) == BELAY_SCOPE_FLEET));
    assert_true(until(!is_degraded(client)));
    must_be_held(client, "job");
    must_be_held(neighbour, "other");
    must_release(mine);
    must_release(theirs);
    assert_true(until(belay_get_health(neighbour, &health, NULL) == BELAY_OK && !health.other));
    nothing_is_left();
}

static void swallow(void)
{
    relay_drop(relay, RELAY_ALL, RELAY_DOWN, true);
}

static void swallow_no_more(void)
{
    relay_drop(relay, RELAY_ALL, RELAY_DOWN, false);
    relay_cut(relay, RELAY_ALL, false);
}

static void two_of_one_host_when_one_is_refused(void **state)
{
    (void)state;
    differ(part, join);
}

static void two_of_one_host_when_the_answers_of_one_are_swallowed(void **state)
{
    (void)state;
    differ(swallow, swallow_no_more);
}

/* ------------------------------------------------------------------ 33b: it is there */

/* A caller is told why, and nobody degrades. */
static void is_no_outage(const char *word)
{
    belay_error err = BELAY_ERROR_INIT;
    for (int i = 0; i < 3; i++) {
        belay_status status = ask(client, "job", BELAY_SCOPE_ANY, BELAY_TRY, NULL, &err);
        if (!is_doubt(status) || strstr(err.text, word) == NULL)
            fprintf(stderr, "%s: %s: %s\n", word, belay_status_name(status), err.text);
        assert_true(is_doubt(status));
        assert_non_null(strstr(err.text, word));
        assert_false(is_degraded(client));
    }
}

static void a_full_server_is_no_outage(void **state)
{
    (void)state;
    begin(QUICK);
    server_command(&server, NULL, "CONFIG SET maxmemory 1");
    is_no_outage("OOM");
    server_command(&server, NULL, "CONFIG SET maxmemory 0");
    all_is_well(client);
    nothing_is_left();
}

static void a_server_without_its_replicas_is_no_outage(void **state)
{
    (void)state;
    begin(QUICK);
    server_command(&server, NULL, "CONFIG SET min-replicas-to-write 1");
    is_no_outage("NOREPLICAS");
    server_command(&server, NULL, "CONFIG SET min-replicas-to-write 0");
    all_is_well(client);
    nothing_is_left();
}

/* Its snapshot can't be written: a folder is in the way. */
static void a_server_that_cannot_save_is_no_outage(void **state)
{
    char path[96], text[16];
    (void)state;
    begin(QUICK);
    snprintf(path, sizeof path, "%s/dump.rdb", server.folder);
    unlink(path);
    assert_int_equal(mkdir(path, 0700), 0);
    server_command(&server, NULL, "CONFIG SET save %s", "3600 1000000");
    server_command(&server, NULL, "BGSAVE");
    assert_true(until(
        strcmp(server_info(&server, "rdb_last_bgsave_status", text, sizeof text), "err") == 0));
    is_no_outage("MISCONF");
    server_command(&server, NULL, "CONFIG SET save %b", "", (size_t)0);
    all_is_well(client);
    nothing_is_left();
    assert_int_equal(rmdir(path), 0);
}

static void a_busy_server_is_no_outage(void **state)
{
    const struct server_options options = { .extra = "busy-reply-threshold 20" };
    int done = 0;
    (void)state;
    begin_with(&options, REDIS, QUICK);
    redisContext *stranger = redisConnectUnix(server.socket);
    assert_non_null(stranger);
    redisAppendCommand(stranger, "EVAL %s 0", "while true do end");
    while (!done) assert_int_equal(redisBufferWrite(stranger, &done), REDIS_OK);
    assert_true(until(server_command(&server, NULL, "PING") == SERVER_ERROR));
    is_no_outage("BUSY");
    assert_int_equal(server_command(&server, NULL, "SCRIPT KILL"), SERVER_STRING);
    redisFree(stranger);
    all_is_well(client);
    nothing_is_left();
}

/* An answer takes longer than the caller has. */
static void a_caller_with_no_time_is_no_outage(void **state)
{
    (void)state;
    begin_with(NULL, "timeout = \"5s\";", QUICK);
    relay_delay(relay, RELAY_DOWN, 150);
    for (int i = 0; i < 5; i++) {
        assert_true(is_doubt(take(client, "job", LONG_MS, 30, NULL, NULL)));
        assert_false(is_degraded(client));
    }
    relay_delay(relay, RELAY_DOWN, 0);
    all_is_well(client);
    assert_false(log_has("degraded"));
    nothing_is_left();
}

static void a_refused_password_is_no_outage(void **state)
{
    belay_error err = BELAY_ERROR_INIT;
    (void)state;
    begin(QUICK);
    server_command(&server, NULL, "CONFIG SET requirepass secret");
    relay_cut(relay, RELAY_ALL, false);
    assert_true(until(ask(client, "job", BELAY_SCOPE_ANY, BELAY_TRY, NULL, &err) == BELAY_REFUSED));
    assert_false(is_degraded(client));
}

/* ------------------------------------------------------------------ it is not */

static belay *open_at(const char *at, const char *fallback)
{
    return fallback_open(
        &(struct fallback_at){ .at = at, .host = &host, .redis = REDIS, .fallback = fallback },
        NULL);
}

/* FAULTS row 32. */
static void a_server_that_is_down_at_open_is_an_outage(void **state)
{
    (void)state;
    assert_true(host_begin(&host) && server_start(&server, NULL));
    server_kill(&server);
    client = open_at(at_server(&server), QUICK);
    must_release(must_have(client, "job", BELAY_SCOPE_HOST));
    assert_true(is_degraded(client));
    assert_true(server_restart(&server, false));
    all_is_well(client);
    nothing_is_left();
}

static void a_name_that_does_not_resolve_is_an_outage(void **state)
{
    (void)state;
    assert_true(host_begin(&host));
    client = open_at("host = \"nowhere.invalid\";", NEVER);
    must_release(must_have(client, "job", BELAY_SCOPE_HOST));
    assert_true(is_degraded(client));
}

/* It is there, and has nothing to serve with. */
static void a_replica_without_its_master_is_an_outage(void **state)
{
    char text[16];
    (void)state;
    assert_true(host_begin(&host) && server_start(&master, NULL));
    const struct server_options options = { .replica_of = &master,
                                            .extra = "replica-serve-stale-data no" };
    assert_true(server_start(&server, &options));
    assert_true(
        until(strcmp(server_info(&server, "master_link_status", text, sizeof text), "up") == 0));
    server_kill(&master);
    assert_true(
        until(strcmp(server_info(&server, "master_link_status", text, sizeof text), "down") == 0));
    client = open_at(at_server(&server), QUICK);
    must_release(must_have(client, "job", BELAY_SCOPE_HOST));
    assert_true(is_degraded(client));
    assert_true(until(log_has("MASTERDOWN")));
    server_command(&server, NULL, "REPLICAOF NO ONE");
    all_is_well(client);
    nothing_is_left();
}

/* ------------------------------------------------------------------ impatient callers */

/* The probe that one of them sets off finds out for all. */
static void callers_with_little_patience_find_out_together(void **state)
{
    (void)state;
    begin(NEVER);
    swallow();
    int64_t start = clock_ms();
    belay_lock *lock = NULL;
    assert_true(until(take(client, "job", LONG_MS, TIMEOUT_MS / 5, &lock, NULL) == BELAY_OK));
    int64_t took = clock_ms() - start;
    fprintf(stderr, "# callers with %d ms of patience: a grant after %d ms (timeout %d)\n",
            TIMEOUT_MS / 5, (int)took, TIMEOUT_MS);
    assert_int_equal(belay_lock_scope(lock), BELAY_SCOPE_HOST);
    assert_true(took < (2 * TIMEOUT_MS + 200) * until_slow());
    must_release(lock);
}

/* One timeout, by one caller; after that nobody pays. */
static void a_timeout_is_paid_once(void **state)
{
    (void)state;
    begin(NEVER);
    swallow();
    int64_t start = clock_ms(), slowest = 0;
    must_release(must_have(client, "job", BELAY_SCOPE_HOST));
    int64_t first = clock_ms() - start;
    for (int i = 0; i < 50; i++) {
        start = clock_ms();
        must_release(must_have(client, "job", BELAY_SCOPE_HOST));
        if (clock_ms() - start > slowest) slowest = clock_ms() - start;
    }
    fprintf(stderr, "# the first grant after %d ms, the slowest later one after %d ms\n",
            (int)first, (int)slowest);
    assert_in_range(first, TIMEOUT_MS / 2, (TIMEOUT_MS + 50) * until_slow());
    assert_true(slowest < TIMEOUT_MS / 2 * until_slow());
}

/* ------------------------------------------------------------------ who wants more than a host */

/* What a caller is told at once, when the client knows. */
static void must_be_refused(belay_scope at_least, const char *word)
{
    belay_error err = BELAY_ERROR_INIT;
    int64_t start = clock_ms();
    belay_status status = ask(client, "job", at_least, BELAY_TRY, NULL, &err);
    assert_status(status, BELAY_UNAVAILABLE);
    if (strstr(err.text, word) == NULL) fprintf(stderr, "%s\n", err.text);
    assert_non_null(strstr(err.text, word));
    assert_true(clock_ms() - start < TIMEOUT_MS / 2 * until_slow());
    assert_int_equal(host_number(&host,
                                 "SELECT count(*) FROM locks WHERE name = x'62656c61793a6a6f62'"),
                     0);
}

static void at_least_the_fleet_gets_nothing_less(void **state)
{
    belay_error err = BELAY_ERROR_INIT;
    (void)state;
    begin(NEVER);
    belay_lock *fleet = NULL;
    assert_status(ask(client, "held", BELAY_SCOPE_FLEET, BELAY_TRY, &fleet, &err), BELAY_OK);
    swallow();
    assert_status(ask(client, "job", BELAY_SCOPE_FLEET, BELAY_TRY, NULL, &err), BELAY_UNAVAILABLE);
    must_be_refused(BELAY_SCOPE_FLEET, "out of reach");
    must_release(must_have(client, "job", BELAY_SCOPE_HOST)); /* who asks for less */
    assert_int_equal(belay_lock_scope(fleet), BELAY_SCOPE_FLEET);
    (void)belay_release(fleet, NULL);
}

static void on_lost(void *arg, belay_lock *lock, const belay_error *why)
{
    (void)lock, (void)why;
    atomic_fetch_add((atomic_int *)arg, 1);
}

/* It never says "host": it is extended again in time, or lost. */
static void one_that_wants_the_fleet(bool back_in_time, const char *fallback, belay_scope at_least)
{
    atomic_int lost = 0;
    belay_options options = BELAY_OPTIONS_INIT;
    belay_lock *lock = NULL;
    begin(fallback);
    options.ttl_ms = 2000;
    options.at_least = at_least;
    options.on_lost = on_lost;
    options.arg = &lost;
    assert_status(belay_acquire(client, "held", &options, &lock, NULL), BELAY_OK);
    part();
    assert_true(until(is_degraded(client)));
    if (back_in_time) {
        join();
        int64_t end = clock_ms() + 2500; /* its TTL, and more */
        while (clock_ms() < end && belay_lock_valid(lock, 0)) {
            assert_int_equal(belay_lock_scope(lock), BELAY_SCOPE_FLEET);
            until_pause();
        }
        assert_true(belay_lock_valid(lock, 0));
        must_release(lock);
    } else {
        while (belay_lock_valid(lock, 0)) {
            assert_int_equal(belay_lock_scope(lock), BELAY_SCOPE_FLEET);
            until_pause();
        }
        assert_true(until(atomic_load(&lost) == 1));
        (void)belay_release(lock, NULL);
        join();
    }
    all_is_well(client);
    nothing_is_left();
}

static void one_that_wants_the_fleet_is_lost_with_it(void **state)
{
    (void)state;
    one_that_wants_the_fleet(false, QUICK, BELAY_SCOPE_FLEET);
}

static void one_that_wants_the_fleet_lives_when_it_is_back_in_time(void **state)
{
    (void)state;
    one_that_wants_the_fleet(true, QUICK, BELAY_SCOPE_FLEET);
}

static void with_a_closed_policy_it_is_lost_too(void **state)
{
    (void)state;
    one_that_wants_the_fleet(false, QUICK "policy = \"closed\";", BELAY_SCOPE_ANY);
}

static void a_closed_policy_grants_nothing(void **state)
{
    (void)state;
    begin(NEVER "policy = \"closed\";");
    swallow();
    assert_status(ask(client, "job", BELAY_SCOPE_ANY, BELAY_TRY, NULL, NULL), BELAY_UNAVAILABLE);
    must_be_refused(BELAY_SCOPE_ANY, "out of reach");
    must_be_refused(BELAY_SCOPE_HOST, "out of reach");
    belay_health health = { .size = sizeof health };
    assert_status(belay_get_health(client, &health, NULL), BELAY_OK);
    assert_true(health.degraded);
    assert_int_equal(health.scope, BELAY_SCOPE_ANY);
    must_release(must_have(neighbour, "job", BELAY_SCOPE_FLEET));
}

/* ------------------------------------------------------------------ settle */

static void a_settling_client_grants_nothing_yet(void **state)
{
    enum { SETTLE_MS = 1500 };
    (void)state;
    begin(NEVER "settle = \"1500ms\";");
    swallow();
    int64_t start = clock_ms();
    assert_status(ask(client, "job", BELAY_SCOPE_ANY, BELAY_TRY, NULL, NULL), BELAY_UNAVAILABLE);
    must_be_refused(BELAY_SCOPE_ANY, "settle");
    belay_lock *lock = NULL;
    assert_true(until(ask(client, "job", BELAY_SCOPE_ANY, BELAY_TRY, &lock, NULL) == BELAY_OK));
    int64_t took = clock_ms() - start;
    assert_in_range(took, SETTLE_MS, SETTLE_MS + (TIMEOUT_MS + 300) * until_slow());
    assert_int_equal(belay_lock_scope(lock), BELAY_SCOPE_HOST);
    must_release(lock);
}

#define IS(function) cmocka_unit_test_teardown(function, tidy)

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        IS(two_of_one_host_when_one_is_refused),
        IS(two_of_one_host_when_the_answers_of_one_are_swallowed),
        IS(a_full_server_is_no_outage),
        IS(a_server_without_its_replicas_is_no_outage),
        IS(a_server_that_cannot_save_is_no_outage),
        IS(a_busy_server_is_no_outage),
        IS(a_caller_with_no_time_is_no_outage),
        IS(a_refused_password_is_no_outage),
        IS(a_server_that_is_down_at_open_is_an_outage),
        IS(a_name_that_does_not_resolve_is_an_outage),
        IS(a_replica_without_its_master_is_an_outage),
        IS(callers_with_little_patience_find_out_together),
        IS(a_timeout_is_paid_once),
        IS(at_least_the_fleet_gets_nothing_less),
        IS(one_that_wants_the_fleet_is_lost_with_it),
        IS(one_that_wants_the_fleet_lives_when_it_is_back_in_time),
        IS(with_a_closed_policy_it_is_lost_too),
        IS(a_closed_policy_grants_nothing),
        IS(a_settling_client_grants_nothing_yet),
    };
    if (argc > 1) cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL) == 0 ? 0 : 1;
}
