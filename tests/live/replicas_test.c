/* replicas_test.c - `replicas = n`: a grant counts when so many replicas have it: FAULTS row 20. */
#define _GNU_SOURCE
#include "tests/live/client.h"

#define LONG_MS 60000
#define ONE "timeout = \"600ms\"; replicas = 1; replicas_timeout = \"150ms\";"

static struct server master, replica;
static belay *client;

static bool link_is(const char *status)
{
    char text[16];
    return strcmp(server_info(&replica, "master_link_status", text, sizeof text), status) == 0;
}

static int setup(void **state)
{
    (void)state;
    const struct server_options first = { .password = NULL };
    if (!server_start(&master, &first)) return -1;
    const struct server_options options = { .replica_of = &master, .extra = "repl-timeout 60" };
    if (!server_start(&replica, &options)) return -1;
    return until(link_is("up")) ? 0 : -1;
}

static int teardown(void **state)
{
    (void)state;
    server_end(&replica);
    server_end(&master);
    return 0;
}

/* The replica can't come back: it has a wrong password. */
static void part(void)
{
    server_command(&replica, NULL, "CONFIG SET masterauth wrong");
    server_command(&master, NULL, "CONFIG SET requirepass right");
    server_command(&master, NULL, "CLIENT KILL TYPE replica");
    assert_true(until(link_is("down")));
}

static void join(void)
{
    server_command(&replica, NULL, "CONFIG SET masterauth right");
    assert_true(until(link_is("up")));
}

static int tidy(void **state)
{
    (void)state;
    belay_close(client);
    client = NULL;
    server_thaw(&replica);
    server_command(&replica, NULL, "CONFIG SET masterauth right");
    (void)until(link_is("up"));
    server_command(&master, NULL, "CONFIG SET requirepass %b", "", (size_t)0);
    server_command(&master, NULL, "FLUSHALL");
    log_clear();
    return 0;
}

static void a_grant_that_counts_is_on_the_replica(void **state)
{
    char owner[64];
    (void)state;
    client = client_open(at_server(&master), ONE, NULL);
    for (int i = 0; i < 20; i++) {
        belay_lock *lock = must_take(client, "job", LONG_MS, 5000);
        assert_string_equal(server_string(&replica, owner, sizeof owner, "GET belay:job"),
                            belay_lock_owner(lock));
        assert_status(belay_extend(lock, 2 * LONG_MS, NULL), BELAY_OK);
        assert_true(server_integer(&replica, "PTTL belay:job") > LONG_MS + 50000);
        must_release(lock);
    }
}

static void falls_short(const char *top)
{
    belay_error err = BELAY_ERROR_INIT;
    int64_t start = clock_ms();
    assert_status(take(client, "job", LONG_MS, BELAY_TRY, NULL, &err), BELAY_UNAVAILABLE);
    int64_t took = clock_ms() - start;
    assert_true(took >= 140 && took < 900 * until_slow());
    if (strstr(err.text, "replica") == NULL) fprintf(stderr, "%s: it says: %s\n", top, err.text);
    assert_non_null(strstr(err.text, "replica"));
    assert_true(until_within(2000, server_lock_keys(&master, "belay:") == 0));
}

static void a_wait_that_falls_short_gives_the_grant_back(void **state)
{
    static const char *const tops[] = { "", "fencing = false;" };
    (void)state;
    for (int i = 0; i < 2; i++) {
        client = client_open(at_server(&master), ONE "password = \"right\";", tops[i]);
        server_command(&master, NULL, "CONFIG SET requirepass right");
        must_release(must_take(client, "job", LONG_MS, 5000));
        part();
        falls_short(tops[i]);
        falls_short(tops[i]);
        join();
        assert_true(until(take(client, "job", LONG_MS, 5000, NULL, NULL) == BELAY_OK));
        assert_int_equal(server_lock_keys(&master, "belay:"), 0);
        tidy(NULL);
    }
}

/* A replica that stands still keeps its connection and acknowledges nothing. */
static void a_frozen_replica_counts_for_nothing(void **state)
{
    (void)state;
    client = client_open(at_server(&master), ONE, NULL);
    must_release(must_take(client, "job", LONG_MS, 5000));
    server_freeze(&replica);
    falls_short("frozen");
    server_thaw(&replica);
    must_release(must_take(client, "job", LONG_MS, 5000));
}

static void an_extension_that_falls_short_leaves_the_deadline(void **state)
{
    (void)state;
    client = client_open(at_server(&master), ONE, NULL);
    belay_lock *lock = must_take(client, "job", 30000, 5000);
    server_freeze(&replica);
    int64_t before = belay_lock_remaining_ms(lock);
    assert_status(belay_extend(lock, LONG_MS, NULL), BELAY_UNAVAILABLE);
    assert_true(belay_lock_remaining_ms(lock) <= before);
    assert_true(belay_lock_valid(lock, 20000)); /* it is not given back */
    assert_int_equal(server_lock_keys(&master, "belay:"), 1);
    server_thaw(&replica);
    assert_true(until(belay_extend(lock, LONG_MS, NULL) == BELAY_OK));
    assert_true(belay_lock_remaining_ms(lock) > 50000);
    must_release(lock);
}

/* While WAIT stalls its connection, whatever needs no replica goes by another. */
static void a_wait_stalls_nobody_else(void **state)
{
    struct caller caller = { 0 };
    belay_info info = { .size = sizeof info };
    (void)state;
    client = client_open(at_server(&master),
                         "timeout = \"3s\"; replicas = 1; replicas_timeout = \"2500ms\";", NULL);
    belay_lock *held = must_take(client, "held", LONG_MS, 5000);
    server_freeze(&replica);
    caller_acquire(&caller, client, "job", LONG_MS, BELAY_TRY);
    assert_true(until(server_integer(&master, "EXISTS belay:job") == 1));
    int64_t start = clock_ms();
    assert_status(belay_inspect(client, "held", &info, NULL), BELAY_OK);
    assert_true(info.held);
    must_release(held);
    assert_true(clock_ms() - start < 500 * until_slow());
    assert_false(atomic_load(&caller.ended));
    server_thaw(&replica);
    assert_status(caller_end(&caller), BELAY_OK); /* it was not late */
    must_release(caller.lock);
}

static void a_waiting_acquire_outlasts_the_gap(void **state)
{
    struct caller caller = { 0 };
    (void)state;
    client = client_open(at_server(&master), ONE, NULL);
    server_freeze(&replica);
    caller_acquire(&caller, client, "job", LONG_MS, 20000);
    assert_true(until(server_calls(&master, "wait") > 2)); /* more than once it fell short */
    assert_false(atomic_load(&caller.ended));
    server_thaw(&replica);
    assert_status(caller_end(&caller), BELAY_OK);
    must_release(caller.lock);
}

static void more_replicas_than_there_are_grant_nothing(void **state)
{
    (void)state;
    client = client_open(at_server(&master),
                         "timeout = \"600ms\"; replicas = 2; replicas_timeout = \"150ms\";", NULL);
    falls_short("two");
}

#define IS(function) cmocka_unit_test_teardown(function, tidy)

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        IS(a_grant_that_counts_is_on_the_replica),
        IS(a_wait_that_falls_short_gives_the_grant_back),
        IS(a_frozen_replica_counts_for_nothing),
        IS(an_extension_that_falls_short_leaves_the_deadline),
        IS(a_wait_stalls_nobody_else),
        IS(a_waiting_acquire_outlasts_the_gap),
        IS(more_replicas_than_there_are_grant_nothing),
    };
    if (argc > 1) cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, setup, teardown) == 0 ? 0 : 1;
}
