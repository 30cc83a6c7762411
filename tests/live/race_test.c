/* race_test.c - extending, releasing and losing race on one lock of a real server: FAULTS row 54.
 * One winner, one callback at most, none after the release has returned. TSan looks on. */
#define _GNU_SOURCE
#include "tests/live/client.h"

#define ROUNDS 150
#define LONG_MS 60000

static struct server server;
static belay *client;

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
    client = NULL;
    server_command(&server, NULL, "FLUSHALL");
    log_clear();
    return 0;
}

struct round {
    belay_lock *lock;
    atomic_bool go, stop;
    atomic_int told;
    atomic_bool released;
    atomic_int late; /* callbacks that began after the release had returned */
    int oks_after_loss, wrong;
    long pause_ns; /* before it is taken away */
};

static void on_lost(void *arg, belay_lock *lock, const belay_error *why)
{
    struct round *round = arg;
    (void)lock;
    if (atomic_load(&round->released) || why->status != BELAY_LOST)
        atomic_fetch_add(&round->late, 1);
    atomic_fetch_add(&round->told, 1);
}

static void *extends(void *arg)
{
    struct round *round = arg;
    bool lost = false;
    while (!atomic_load(&round->go)) continue;
    while (!atomic_load(&round->stop)) {
        belay_status status = belay_extend(round->lock, LONG_MS, NULL);
        if (status == BELAY_OK && lost) round->oks_after_loss++;
        if (status != BELAY_OK && status != BELAY_LOST) round->wrong++;
        lost = lost || status == BELAY_LOST;
        (void)belay_lock_valid(round->lock, 0);
    }
    return NULL;
}

static void *takes_away(void *arg)
{
    struct round *round = arg;
    struct timespec moment = { .tv_nsec = round->pause_ns };
    while (!atomic_load(&round->go)) continue;
    nanosleep(&moment, NULL);
    server_command(&server, NULL, "DEL belay:job");
    return NULL;
}

/* `with_loss`: somebody deletes the key meanwhile. */
static void race(bool with_loss)
{
    int losses = 0, oks = 0, seed = 1;
    client = client_open(at_server(&server), "timeout = \"5s\";", NULL);
    for (int i = 0; i < ROUNDS / until_slow() + 20; i++) {
        seed = (seed * 75 + 74) % 65537;
        struct round round = { .pause_ns = seed % 600 * 1000L };
        belay_options options = BELAY_OPTIONS_INIT;
        pthread_t extender, taker;
        options.ttl_ms = LONG_MS;
        options.keep_every_ms = 1;
        options.wait_ms = 10000;
        options.on_lost = on_lost;
        options.arg = &round;
        assert_status(belay_acquire(client, "job", &options, &round.lock, NULL), BELAY_OK);
        assert_int_equal(pthread_create(&extender, NULL, extends, &round), 0);
        if (with_loss) assert_int_equal(pthread_create(&taker, NULL, takes_away, &round), 0);
        atomic_store(&round.go, true);
        seed = (seed * 75 + 74) % 65537;
        struct timespec moment = { .tv_nsec = seed % 1000 * 1000L };
        nanosleep(&moment, NULL);
        /* Calls on one lock may race with each other; the release may not, so it comes after. */
        atomic_store(&round.stop, true);
        pthread_join(extender, NULL);
        belay_status status = belay_release(round.lock, NULL);
        int told = atomic_load(&round.told);
        atomic_store(&round.released, true);
        if (with_loss) pthread_join(taker, NULL);
        assert_true(status == BELAY_OK || (with_loss && status == BELAY_LOST));
        assert_true(told <= 1);
        losses += status == BELAY_LOST;
        oks += status == BELAY_OK;
        assert_int_equal(round.oks_after_loss, 0);
        assert_int_equal(round.wrong, 0);
        must_release(
            must_take(client, "other", LONG_MS, 10000)); /* a late callback would be here */
        assert_int_equal(atomic_load(&round.late), 0);
        assert_int_equal(atomic_load(&round.told), told);
    }
    print_message("%d lost, %d released\n", losses, oks);
    if (with_loss) assert_true(losses > 0);
    assert_int_equal(server_lock_keys(&server, "belay:"), 0);
}

static void a_loss_races_with_extensions_and_the_release(void **state)
{
    (void)state;
    race(true);
}

static void without_a_loss_each_release_is_ok(void **state)
{
    (void)state;
    race(false);
}

/* Two clients, one lock by adoption: both may release it, one of them did. */
static void two_handles_release_once(void **state)
{
    (void)state;
    client = client_open(at_server(&server), "timeout = \"5s\";", NULL);
    belay *second = client_open(at_server(&server), "timeout = \"5s\";", NULL);
    for (int i = 0; i < 50; i++) {
        struct caller caller = { 0 };
        belay_lock *one = must_take(client, "job", LONG_MS, BELAY_TRY), *other = NULL;
        assert_status(belay_adopt(second, "job", belay_lock_owner(one), NULL, &other, NULL),
                      BELAY_OK);
        caller_release(&caller, other);
        belay_status first = belay_release(one, NULL), last = caller_end(&caller);
        assert_true((first == BELAY_OK && last == BELAY_LOST) ||
                    (first == BELAY_LOST && last == BELAY_OK));
    }
    belay_close(second);
}

#define IS(function) cmocka_unit_test_teardown(function, tidy)

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        IS(a_loss_races_with_extensions_and_the_release),
        IS(without_a_loss_each_release_is_ok),
        IS(two_handles_release_once),
    };
    if (argc > 1) cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, setup, teardown) == 0 ? 0 : 1;
}
