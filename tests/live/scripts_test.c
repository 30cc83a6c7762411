/* scripts_test.c - scripts are EVALSHA, EVAL where they are not known, and SCRIPT never: FAULTS
 * row 18. */
#define _GNU_SOURCE
#include "tests/live/client.h"

#define LONG_MS 60000
#define RUN_MS 2000

enum { CLIENTS = 5, EACH = 10, NAMES = 8 };

static struct server server;
static struct relay *relay;

static int tidy(void **state)
{
    (void)state;
    relay_end(relay);
    relay = NULL;
    server_end(&server);
    log_clear();
    return 0;
}

struct worker {
    belay *client;
    pthread_t thread;
    int number;
    atomic_bool *ends;
    int cycles, failures;
    belay_error first;
    atomic_int *inside; /* holders of each name */
    int overlaps;
};

static void *work(void *arg)
{
    struct worker *worker = arg;
    unsigned seed = (unsigned)worker->number;
    while (!atomic_load(worker->ends)) {
        char name[16];
        int which = rand_r(&seed) % NAMES;
        belay_error err = BELAY_ERROR_INIT;
        belay_lock *lock = NULL;
        snprintf(name, sizeof name, "n%d", which);
        belay_status status = take(worker->client, name, LONG_MS, 30000, &lock, &err);
        if (status == BELAY_OK) {
            worker->overlaps += atomic_fetch_add(&worker->inside[which], 1) != 0;
            if (worker->cycles % 3 == 0) status = belay_extend(lock, LONG_MS, &err);
            atomic_fetch_sub(&worker->inside[which], 1);
            belay_status released = belay_release(lock, status == BELAY_OK ? &err : NULL);
            if (status == BELAY_OK) status = released;
        }
        worker->cycles++;
        if (status == BELAY_OK) continue;
        if (worker->failures++ == 0) worker->first = err;
    }
    return NULL;
}

/* SCRIPT FLUSH in a loop under fifty workers: nobody notices. */
static void a_flush_of_the_scripts_fails_nobody(void **state)
{
    static struct worker workers[CLIENTS * EACH];
    static atomic_int inside[NAMES];
    belay *clients[CLIENTS];
    atomic_bool ends = false;
    int cycles = 0, flushes = 0;
    (void)state;
    assert_true(server_start(&server, NULL));
    for (int i = 0; i < CLIENTS; i++)
        clients[i] = client_open(at_server(&server), "timeout = \"2s\";",
                                 i % 2 == 0 ? NULL : "fencing = true; handoffs = 2;");
    memset(workers, 0, sizeof workers);
    for (int i = 0; i < CLIENTS * EACH; i++) {
        workers[i].client = clients[i % CLIENTS];
        workers[i].number = i;
        workers[i].ends = &ends;
        workers[i].inside = inside;
        assert_int_equal(pthread_create(&workers[i].thread, NULL, work, &workers[i]), 0);
    }
    for (int64_t end = until_now_ms() + RUN_MS; until_now_ms() < end; flushes++)
        assert_int_equal(server_command(&server, NULL,
                                        flushes % 2 ? "SCRIPT FLUSH SYNC" : "SCRIPT FLUSH ASYNC"),
                         SERVER_STRING);
    atomic_store(&ends, true);
    for (int i = 0; i < CLIENTS * EACH; i++) {
        pthread_join(workers[i].thread, NULL);
        cycles += workers[i].cycles;
        if (workers[i].failures > 0)
            fprintf(stderr, "worker %d: %d failures: %s: %s\n", i, workers[i].failures,
                    belay_status_name(workers[i].first.status), workers[i].first.text);
        assert_int_equal(workers[i].failures, 0);
        assert_int_equal(workers[i].overlaps, 0);
        assert_true(workers[i].cycles > 0);
    }
    for (int i = 0; i < CLIENTS; i++) belay_close(clients[i]);
    print_message("%d cycles, %d flushes\n", cycles, flushes);
    assert_true(cycles > CLIENTS * EACH * 4);
    assert_true(flushes > 100);
    assert_true(server_calls(&server, "eval") > 20); /* the flushes did something */
    assert_int_equal(server_lock_keys(&server, "belay:"), 0);
}

static void script_is_never_sent(void **state)
{
    static const char *const users[] = { "app on >pass ~* &* +@all -script", NULL };
    const struct server_options options = { .users = users };
    (void)state;
    assert_true(server_start(&server, &options));
    const struct relay_options to = { .to_port = server.port };
    relay = relay_start(&to);
    belay *client = client_open(at_relay(relay), "user = \"app\"; password = \"pass\";", NULL);
    for (int round = 0; round < 3; round++) {
        belay_lock *lock = must_take(client, "job", LONG_MS, BELAY_TRY);
        assert_status(belay_extend(lock, LONG_MS, NULL), BELAY_OK);
        must_release(lock);
        server_command(&server, NULL, "SCRIPT FLUSH");
    }
    belay_close(client);
    struct requests *seen = relay_requests(relay);
    assert_int_equal(requests_count(seen, REQUESTS_ANY, "SCRIPT"), 0);
    assert_int_equal(requests_count(seen, REQUESTS_ANY, "EVAL"), 9);
    assert_int_equal(requests_count(seen, REQUESTS_ANY, "EVALSHA"), 9);
}

/* Every script's source is sent in full after its EVALSHA; all its keys are in KEYS; no TIME. */
static void scripts_name_their_keys_and_ask_no_clock(void **state)
{
    (void)state;
    assert_true(server_start(&server, NULL));
    const struct relay_options to = { .to_port = server.port };
    relay = relay_start(&to);
    belay *client = client_open(at_relay(relay), NULL, "prefix = \"app:\";");
    belay_lock *lock = must_take(client, "job", LONG_MS, BELAY_TRY);
    assert_status(belay_extend(lock, LONG_MS, NULL), BELAY_OK);
    must_release(lock);
    belay_close(client);
    const struct request *eval;
    size_t count = 0;
    for (; (eval = requests_nth(relay_requests(relay), REQUESTS_ANY, "EVAL", count)); count++) {
        long keys = strtol(eval->argv[2], NULL, 10);
        assert_null(strstr(eval->argv[1], "TIME'"));
        assert_null(strstr(eval->argv[1], "app:"));
        for (int i = 3; i < eval->argc; i++) {
            bool is_key =
                strcmp(eval->argv[i], "app:job") == 0 || strcmp(eval->argv[i], "fence:app:") == 0;
            assert_true(is_key == (i < 3 + keys));
        }
    }
    assert_int_equal(count, 3);
}

#define IS(function) cmocka_unit_test_teardown(function, tidy)

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        IS(a_flush_of_the_scripts_fails_nobody),
        IS(script_is_never_sent),
        IS(scripts_name_their_keys_and_ask_no_clock),
    };
    if (argc > 1) cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL) == 0 ? 0 : 1;
}
