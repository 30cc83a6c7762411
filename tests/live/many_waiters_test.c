/* many_waiters_test.c - thousands of waiters on one name of a real server: FAULTS row 55.
 * Descriptors, processor time, memory and commands are bounded, and each is answered in time. */
#define _GNU_SOURCE
#include "tests/live/client.h"

#define LONG_MS 60000

static struct server server;

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
    server_command(&server, NULL, "FLUSHALL");
    return 0;
}

static struct {
    atomic_int got, held, doubts, wrong, overlaps, inside;
} answers;

static int answered(void)
{
    return atomic_load(&answers.got) + atomic_load(&answers.held) + atomic_load(&answers.doubts) +
           atomic_load(&answers.wrong);
}

static void answer(void *arg, belay_status status, belay_lock *lock, const belay_error *err)
{
    (void)arg;
    (void)err;
    if (lock != NULL) {
        if (atomic_fetch_add(&answers.inside, 1) != 0) atomic_fetch_add(&answers.overlaps, 1);
        atomic_fetch_sub(&answers.inside, 1);
        if (belay_release_start(lock, answer, NULL, NULL, NULL) == BELAY_OK) return;
        status = BELAY_NOMEM;
    }
    atomic_fetch_add(status == BELAY_OK     ? &answers.got /* released */
                     : status == BELAY_HELD ? &answers.held
                     : is_doubt(status)     ? &answers.doubts
                                            : &answers.wrong,
                     1);
}

static void start_all(belay *client, int count, int64_t wait_ms)
{
    belay_options options = BELAY_OPTIONS_INIT;
    options.ttl_ms = LONG_MS;
    options.wait_ms = wait_ms;
    options.keep = BELAY_KEEP_OFF;
    for (int i = 0; i < count; i++)
        assert_status(belay_acquire_start(client, "job", &options, answer, NULL, NULL, NULL),
                      BELAY_OK);
}

static long commands(void)
{
    return server_calls(&server, "evalsha") + server_calls(&server, "eval") +
           server_calls(&server, "set") + server_calls(&server, "pttl");
}

static void thousands_of_waiters_cost_next_to_nothing(void **state)
{
    enum { WAITERS = 5000, WAIT_MS = 2500 };
    (void)state;
    memset(&answers, 0, sizeof answers);
    belay *client = client_open(at_server(&server), NULL, NULL);
    server_command(&server, NULL, "SET belay:job somebody PX %d", LONG_MS);
    assert_status(take(client, "job", LONG_MS, BELAY_TRY, NULL, NULL), BELAY_HELD);
    int fds = open_fds();
    long memory = memory_kb(), before = commands();
    start_all(client, WAITERS, WAIT_MS * until_slow());
    int64_t start = clock_ms(), cpu = cpu_ms();
    assert_false(until_within(1000, answered() > 0));
    assert_true(cpu_ms() - cpu < 400 * until_slow());
    assert_true(commands() - before < 20);
    assert_true(open_fds() - fds <= 4); /* the second connection, a thread's eventfd */
    if (until_slow() == 1) assert_true(memory_kb() - memory < WAITERS * 2); /* 2 KB each */
    assert_true(until(answered() == WAITERS));
    assert_true(clock_ms() - start < WAIT_MS * until_slow() + 1500 * until_slow());
    assert_int_equal(atomic_load(&answers.held), WAITERS);
    belay_close(client);
}

static void each_of_a_thousand_gets_its_turn(void **state)
{
    enum { CLIENTS = 4, EACH = 250 };
    belay *clients[CLIENTS];
    (void)state;
    memset(&answers, 0, sizeof answers);
    server_command(&server, NULL, "SET belay:job somebody PX %d", LONG_MS);
    for (int i = 0; i < CLIENTS; i++) {
        clients[i] = client_open(at_server(&server), "timeout = \"5s\";", NULL);
        start_all(clients[i], EACH, 60000);
    }
    assert_true(until(server_clients(&server) >= 2 * CLIENTS)); /* all wait by tracking */
    server_command(&server, NULL, "DEL belay:job");
    assert_true(until_within(60000, answered() == CLIENTS * EACH));
    assert_int_equal(atomic_load(&answers.got), CLIENTS * EACH);
    assert_int_equal(atomic_load(&answers.overlaps), 0);
    for (int i = 0; i < CLIENTS; i++) belay_close(clients[i]);
    assert_int_equal(server_lock_keys(&server, "belay:"), 0);
}

/* The server stops under all of them, and each is answered in time. */
static void a_stop_answers_thousands_in_time(void **state)
{
    enum { WAITERS = 3000 };
    (void)state;
    memset(&answers, 0, sizeof answers);
    belay *client = client_open(at_server(&server), "timeout = \"200ms\";",
                                "outage = \"1s\"; close_timeout = \"200ms\";");
    server_command(&server, NULL, "SET belay:job somebody PX %d", LONG_MS);
    assert_status(take(client, "job", LONG_MS, BELAY_TRY, NULL, NULL), BELAY_HELD);
    start_all(client, WAITERS, 4000);
    int64_t start = clock_ms();
    server_freeze(&server);
    assert_true(until(answered() == WAITERS));
    int64_t took = clock_ms() - start;
    server_thaw(&server);
    assert_true(took < 6000 * until_slow());
    assert_int_equal(atomic_load(&answers.got) + atomic_load(&answers.wrong), 0);
    belay_close(client);
    server_command(&server, NULL, "DEL belay:job");
    assert_true(until(server_lock_keys(&server, "belay:") == 0));
}

#define IS(function) cmocka_unit_test_teardown(function, tidy)

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        IS(thousands_of_waiters_cost_next_to_nothing),
        IS(each_of_a_thousand_gets_its_turn),
        IS(a_stop_answers_thousands_in_time),
    };
    if (argc > 1) cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, setup, teardown) == 0 ? 0 : 1;
}
