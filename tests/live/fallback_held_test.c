/* fallback_held_test.c - what becomes of a held lock: demoted in time when its server goes,
 * promoted when it is back, lost when the host's row is gone or another holds it: FAULTS rows 33a
 * and 35. */
#define _GNU_SOURCE
#include "tests/live/host.h"

#include <sqlite3.h>

enum { TTL_MS = 2000, TIMEOUT_MS = 150, LONG_MS = 60000 };

#define REDIS "timeout = \"150ms\";"
#define FALLBACK "probe_every = \"100ms\"; probe_most = \"200ms\";"

static struct server server;
static struct relay *relay;
static struct host here, there;
static belay *client, *other;

/* A held lock, and what its holder was told. */
struct holder {
    belay_lock *lock;
    atomic_int demoted, promoted, lost;
    _Atomic int64_t demoted_ms, lost_ms;
    char why[256];
};

static struct holder holder;

static int tidy(void **state)
{
    (void)state;
    if (holder.lock != NULL) (void)belay_release(holder.lock, NULL);
    belay_close(client);
    belay_close(other);
    client = other = NULL;
    memset(&holder, 0, sizeof holder);
    relay_end(relay);
    relay = NULL;
    server_end(&server);
    host_end(&here);
    host_end(&there);
    log_clear();
    return 0;
}

/* ------------------------------------------------------------------ the scene */

static void on_scope(void *arg, belay_lock *lock, belay_scope now)
{
    struct holder *it = arg;
    (void)lock;
    if (now == BELAY_SCOPE_HOST) atomic_store(&it->demoted_ms, clock_ms());
    atomic_fetch_add(now == BELAY_SCOPE_HOST ? &it->demoted : &it->promoted, 1);
}

static void on_lost(void *arg, belay_lock *lock, const belay_error *why)
{
    struct holder *it = arg;
    (void)lock;
    snprintf(it->why, sizeof it->why, "%s", why->text);
    atomic_store(&it->lost_ms, clock_ms());
    atomic_fetch_add(&it->lost, 1);
}

static belay *open_at(const char *at, const struct host *host)
{
    return fallback_open(
        &(struct fallback_at){ .at = at, .host = host, .redis = REDIS, .fallback = FALLBACK },
        NULL);
}

/* A server that keeps what it knows, or not; a client of its own way to it, and one that goes
 * straight there from another host. */
static void begin(bool persist)
{
    const struct server_options options = { .persist = persist,
                                            .extra = persist ? "appendfsync always\n" : NULL };
    assert_true(host_begin(&here) && host_begin(&there));
    assert_true(server_start(&server, &options));
    const struct relay_options relay_options = { .to_port = server.port };
    relay = relay_start(&relay_options);
    assert_non_null(relay);
    client = open_at(at_relay(relay), &here);
    other = open_at(at_server(&server), &there);
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

static void hold(belay_scope scope, uint32_t ttl_ms)
{
    belay_options options = BELAY_OPTIONS_INIT;
    belay_error err = BELAY_ERROR_INIT;
    options.ttl_ms = ttl_ms;
    options.wait_ms = 5000;
    options.on_scope = on_scope;
    options.on_lost = on_lost;
    options.arg = &holder;
    belay_status status = belay_acquire(client, "job", &options, &holder.lock, &err);
    if (status != BELAY_OK) fprintf(stderr, "%s: %s\n", err.node, err.text);
    assert_status(status, BELAY_OK);
    assert_int_equal(belay_lock_scope(holder.lock), scope);
}

static bool server_has(const char *owner)
{
    char text[64];
    return strcmp(server_string(&server, text, sizeof text, "GET belay:job"), owner) == 0;
}

/* Where the fleet's lock has gone, or come back to. */
static void await_scope(belay_scope scope)
{
    bool came = until(belay_lock_scope(holder.lock) == scope);
    if (!came) log_show();
    assert_true(came);
    assert_true(belay_lock_valid(holder.lock, 0));
    assert_true(
        until(atomic_load(scope == BELAY_SCOPE_HOST ? &holder.demoted : &holder.promoted) > 0));
}

static void let_go(belay_status wanted)
{
    belay_lock *lock = holder.lock;
    holder.lock = NULL;
    belay_status status = belay_release(lock, NULL);
    assert_status(status, wanted);
}

static void nothing_is_left(void)
{
    assert_true(until(server_lock_keys(&server, "belay:") == 0));
    assert_true(until(host_rows(&here) == 0));
    assert_true(until(host_rows(&there) <= 0)); /* -1: nobody was there */
}

static void still_works(belay_scope scope)
{
    assert_true(until(belay_lock_scope(holder.lock) == scope));
    assert_status(take(client, "job", LONG_MS, BELAY_TRY, NULL, NULL), BELAY_HELD);
    if (scope == BELAY_SCOPE_FLEET)
        assert_status(take(other, "job", LONG_MS, BELAY_TRY, NULL, NULL), BELAY_HELD);
    assert_int_equal(atomic_load(&holder.lost), 0);
    assert_true(belay_lock_valid(holder.lock, 0));
}

/* ------------------------------------------------------------------ an outage */

static void outlives(void (*go)(void), void (*come_back)(void))
{
    hold(BELAY_SCOPE_FLEET, TTL_MS);
    uint64_t token = belay_lock_token(holder.lock);
    int64_t deadline_ms = clock_ms() + belay_lock_remaining_ms(holder.lock);
    go();
    await_scope(BELAY_SCOPE_HOST);
    /* In time: an extension may have reached it after we looked. */
    assert_true(atomic_load(&holder.demoted_ms) < deadline_ms + TTL_MS / 3 + 50 * until_slow());
    still_works(BELAY_SCOPE_HOST);
    come_back();
    await_scope(BELAY_SCOPE_FLEET);
    char owner[64];
    server_string(&server, owner, sizeof owner, "GET belay:job");
    assert_int_equal(strlen(owner), BELAY_OWNER_LENGTH);
    assert_int_equal(belay_lock_token(holder.lock), token);
    still_works(BELAY_SCOPE_FLEET);
    let_go(BELAY_OK);
    belay_lock *next = must_take(other, "job", LONG_MS, 5000);
    assert_true(belay_lock_token(next) > token);
    must_release(next);
    nothing_is_left();
}

static void kill_it(void)
{
    server_kill(&server);
}

static void restart_it(void)
{
    assert_true(server_restart(&server, false));
}

static void freeze_it(void)
{
    server_freeze(&server);
}

static void thaw_it(void)
{
    server_thaw(&server);
}

static void a_held_lock_outlives_a_server_that_is_killed(void **state)
{
    (void)state;
    begin(true);
    outlives(kill_it, restart_it);
}

static void a_held_lock_outlives_a_server_that_forgets(void **state)
{
    (void)state;
    begin(false);
    outlives(kill_it, restart_it);
}

static void a_held_lock_outlives_a_server_that_is_stopped(void **state)
{
    (void)state;
    begin(false);
    outlives(freeze_it, thaw_it);
}

static void a_held_lock_outlives_a_network_that_is_cut(void **state)
{
    (void)state;
    begin(false);
    outlives(part, join);
}

/* Shorter than it takes to be demoted. */
static void a_short_outage_is_not_noticed(void **state)
{
    (void)state;
    begin(true);
    hold(BELAY_SCOPE_FLEET, LONG_MS);
    server_kill(&server);
    restart_it();
    assert_status(belay_extend(holder.lock, 2 * LONG_MS, NULL), BELAY_OK);
    assert_true(server_integer(&server, "PTTL belay:job") > LONG_MS);
    still_works(BELAY_SCOPE_FLEET);
    assert_int_equal(atomic_load(&holder.demoted) + atomic_load(&holder.promoted), 0);
    assert_true(server_has(belay_lock_owner(holder.lock)));
    let_go(BELAY_OK);
    nothing_is_left();
}

/* As short, but what was known is gone: demoted for a moment, and taken again. */
static void a_server_that_forgot_is_told_again(void **state)
{
    (void)state;
    begin(false);
    hold(BELAY_SCOPE_FLEET, LONG_MS);
    uint64_t token = belay_lock_token(holder.lock);
    server_kill(&server);
    restart_it();
    assert_true(until(server_lock_keys(&server, "belay:") == 1));
    assert_true(until(belay_lock_scope(holder.lock) == BELAY_SCOPE_FLEET));
    assert_true(until(atomic_load(&holder.promoted) == 1));
    assert_int_equal(atomic_load(&holder.demoted), 1);
    assert_int_equal(belay_lock_token(holder.lock), token);
    still_works(BELAY_SCOPE_FLEET);
    let_go(BELAY_OK);
    nothing_is_left();
}

/* ------------------------------------------------------------------ 33a: the row is gone */

/* The primary's lock is not extended any more, and stays until its holder has let go. */
static void loses_by_its_row(const char *why)
{
    assert_true(until(atomic_load(&holder.lost) == 1));
    assert_false(belay_lock_valid(holder.lock, 0));
    if (strstr(holder.why, why) == NULL) fprintf(stderr, "lost: %s\n", holder.why);
    assert_non_null(strstr(holder.why, why));
    int64_t left = server_integer(&server, "PTTL belay:job"), least = left;
    assert_true(until((left = server_integer(&server, "PTTL belay:job")) > least ||
                      (least = left) < TTL_MS / 4));
    assert_true(left <= least);
    let_go(BELAY_LOST);
    nothing_is_left();
}

static void a_row_that_is_gone_loses_the_lock(void **state)
{
    (void)state;
    begin(false);
    hold(BELAY_SCOPE_FLEET, TTL_MS);
    assert_true(host_sql(&here, "DELETE FROM locks"));
    loses_by_its_row("not ours any more");
}

static void a_row_of_another_loses_the_lock(void **state)
{
    (void)state;
    begin(false);
    hold(BELAY_SCOPE_FLEET, TTL_MS);
    assert_true(host_sql(&here, "UPDATE locks SET owner = 'ffffffffffffffffffffffffffffffff'"));
    assert_true(until(atomic_load(&holder.lost) == 1));
    assert_true(host_sql(&here, "DELETE FROM locks"));
    loses_by_its_row("");
}

static void a_file_that_is_gone_loses_the_lock(void **state)
{
    (void)state;
    begin(false);
    hold(BELAY_SCOPE_FLEET, TTL_MS);
    assert_int_equal(unlink(here.path), 0);
    loses_by_its_row("replaced or removed");
}

/* Somebody sits in the file, so that nothing can be written: no extension, on neither side. */
static void a_file_that_cannot_be_written_loses_the_lock(void **state)
{
    sqlite3 *db = NULL;
    (void)state;
    begin(false);
    hold(BELAY_SCOPE_FLEET, TTL_MS);
    assert_int_equal(sqlite3_open(here.path, &db), SQLITE_OK);
    sqlite3_busy_timeout(db, 5000);
    assert_int_equal(sqlite3_exec(db, "BEGIN EXCLUSIVE", NULL, NULL, NULL), SQLITE_OK);
    /* One that had begun may end. */
    size_t extended = requests_count(relay_requests(relay), REQUESTS_ANY, "EVAL* belay:job *");
    assert_true(until(atomic_load(&holder.lost) == 1));
    size_t now = requests_count(relay_requests(relay), REQUESTS_ANY, "EVAL* belay:job *");
    assert_in_range(now, extended, extended + 1);
    assert_false(belay_lock_valid(holder.lock, 0));
    assert_int_equal(sqlite3_exec(db, "ROLLBACK", NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(db);
    let_go(BELAY_LOST);
    nothing_is_left();
}

/* ------------------------------------------------------------------ 35: a conflict */

static void another_holds_it_by_now(bool kept)
{
    belay_options options = BELAY_OPTIONS_INIT;
    belay_lock *theirs = NULL;
    begin(false);
    must_release(must_take(client, "job", LONG_MS, BELAY_TRY));
    part();
    hold(BELAY_SCOPE_HOST, TTL_MS);
    options.ttl_ms = kept ? TTL_MS : LONG_MS;
    options.keep = kept ? BELAY_KEEP_ON : BELAY_KEEP_OFF;
    assert_status(belay_acquire(other, "job", &options, &theirs, NULL), BELAY_OK);
    assert_int_equal(belay_lock_scope(theirs), BELAY_SCOPE_FLEET);
    join();
    uint32_t ttl_ms = LONG_MS; /* its end moves, by its own doing or by ours */
    assert_true(until((kept || belay_extend(theirs, ttl_ms += 100, NULL) == BELAY_OK) &&
                      atomic_load(&holder.lost) == 1));
    assert_int_equal(atomic_load(&holder.promoted), 0);
    assert_non_null(strstr(holder.why, "conflict"));
    assert_false(belay_lock_valid(holder.lock, 0));
    assert_true(belay_lock_valid(theirs, 0));
    assert_true(server_has(belay_lock_owner(theirs)));
    let_go(BELAY_LOST);
    assert_true(server_has(belay_lock_owner(theirs)));
    assert_status(belay_extend(theirs, LONG_MS, NULL), BELAY_OK);
    assert_status(take(client, "job", LONG_MS, BELAY_TRY, NULL, NULL), BELAY_HELD);
    must_release(theirs);
    nothing_is_left();
}

static void a_conflict_ends_the_lock_and_not_the_others(void **state)
{
    (void)state;
    another_holds_it_by_now(true);
}

static void a_conflict_with_one_that_is_extended_by_hand(void **state)
{
    (void)state;
    another_holds_it_by_now(false);
}

/* Nobody extends it: it is waited for. */
static void what_a_dead_one_left_is_no_conflict(void **state)
{
    (void)state;
    begin(false);
    must_release(must_take(client, "job", LONG_MS, BELAY_TRY));
    part();
    hold(BELAY_SCOPE_HOST, LONG_MS);
    server_command(&server, NULL, "SET belay:job ffffffffffffffffffffffffffffffff PX 1500");
    join();
    assert_true(until(!is_degraded(client)));
    assert_true(server_integer(&server, "PTTL belay:job") > 0);
    assert_int_equal(belay_lock_scope(holder.lock), BELAY_SCOPE_HOST);
    await_scope(BELAY_SCOPE_FLEET);
    assert_int_equal(atomic_load(&holder.lost), 0);
    assert_false(server_has("ffffffffffffffffffffffffffffffff"));
    still_works(BELAY_SCOPE_FLEET);
    let_go(BELAY_OK);
    nothing_is_left();
}

/* Who held it in between and has let go can't be known. */
static void one_that_was_held_and_let_go_is_taken_again(void **state)
{
    (void)state;
    begin(false);
    hold(BELAY_SCOPE_FLEET, TTL_MS);
    uint64_t token = belay_lock_token(holder.lock);
    part();
    await_scope(BELAY_SCOPE_HOST);
    belay_lock *theirs = must_take(other, "job", LONG_MS, 10000); /* when its TTL is over */
    uint64_t later = belay_lock_token(theirs);
    assert_true(later > token);
    must_release(theirs);
    join();
    await_scope(BELAY_SCOPE_FLEET);
    assert_int_equal(belay_lock_token(holder.lock), token);
    let_go(BELAY_OK);
    theirs = must_take(other, "job", LONG_MS, BELAY_TRY);
    assert_true(belay_lock_token(theirs) > later);
    must_release(theirs);
    nothing_is_left();
}

#define IS(function) cmocka_unit_test_teardown(function, tidy)

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        IS(a_held_lock_outlives_a_server_that_is_killed),
        IS(a_held_lock_outlives_a_server_that_forgets),
        IS(a_held_lock_outlives_a_server_that_is_stopped),
        IS(a_held_lock_outlives_a_network_that_is_cut),
        IS(a_short_outage_is_not_noticed),
        IS(a_server_that_forgot_is_told_again),
        IS(a_row_that_is_gone_loses_the_lock),
        IS(a_row_of_another_loses_the_lock),
        IS(a_file_that_is_gone_loses_the_lock),
        IS(a_file_that_cannot_be_written_loses_the_lock),
        IS(a_conflict_ends_the_lock_and_not_the_others),
        IS(a_conflict_with_one_that_is_extended_by_hand),
        IS(what_a_dead_one_left_is_no_conflict),
        IS(one_that_was_held_and_let_go_is_taken_again),
    };
    if (argc > 1) cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL) == 0 ? 0 : 1;
}
