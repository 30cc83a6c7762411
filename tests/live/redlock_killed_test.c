/* redlock_killed_test.c - five servers that keep nothing are killed and started again, frozen and
 * let go on, at random, under workers: two never believe in one lock, tokens grow, every call ends,
 * it goes on when it is over, and nothing stays behind on any of the five.
 *
 * The moments are random and not to be repeated; BELAY_CHAOS_MS says for how long. Servers that
 * forget are in quarantine for `max_ttl` and two seconds more, so there may be no quorum for a
 * while: that is no fault. */
#define _GNU_SOURCE
#include "tests/live/five.h"

enum { WORKERS = 8, CLIENTS = 4, NAMES = 3, MAX_TTL_MS = 1000, CALM_MS = 15000 };

static struct five five;
static belay *clients[CLIENTS];
static atomic_bool over;
static atomic_int granted, held, doubted, lost, both, fallen, odd, late_ms;

/* Of one name. */
static struct guarded {
    pthread_mutex_t lock;
    const belay_lock *inside;
    uint64_t token;
} guarded[NAMES];

static void enter(struct guarded *it, const belay_lock *lock)
{
    pthread_mutex_lock(&it->lock);
    /* The other's is looked at first: who is valid afterwards was so before. */
    if (it->inside != NULL && belay_lock_valid(it->inside, 0) && belay_lock_valid(lock, 0))
        atomic_fetch_add(&both, 1);
    if (belay_lock_valid(lock, 0)) {
        it->inside = lock;
        if (belay_lock_token(lock) <= it->token) atomic_fetch_add(&fallen, 1);
        it->token = belay_lock_token(lock);
    }
    pthread_mutex_unlock(&it->lock);
}

static void leave(struct guarded *it, const belay_lock *lock)
{
    pthread_mutex_lock(&it->lock);
    if (it->inside == lock) it->inside = NULL;
    pthread_mutex_unlock(&it->lock);
}

static void count(belay_status status, const belay_error *err)
{
    if (status == BELAY_OK) atomic_fetch_add(&granted, 1);
    else if (status == BELAY_HELD) atomic_fetch_add(&held, 1);
    else if (is_doubt(status)) atomic_fetch_add(&doubted, 1);
    else if (atomic_fetch_add(&odd, 1) < 5)
        fprintf(stderr, "%s: %s: %s\n", belay_status_name(status), err->node, err->text);
}

struct worker {
    belay *client;
    unsigned dice;
    pthread_t thread;
};

static void *work(void *arg)
{
    static const char *const names[NAMES] = { "one", "two", "three" };
    static const int64_t waits_ms[] = { BELAY_TRY, 40, 250, 1000 };
    struct worker *worker = arg;
    while (!atomic_load(&over)) {
        unsigned *dice = &worker->dice;
        int name = rand_r(dice) % NAMES;
        belay_options options = BELAY_OPTIONS_INIT;
        belay_error err = BELAY_ERROR_INIT;
        belay_lock *lock = NULL;
        options.ttl_ms = rand_r(dice) % 2 == 0 ? MAX_TTL_MS : 400;
        options.wait_ms = waits_ms[rand_r(dice) % 4];
        options.keep = rand_r(dice) % 2 == 0 ? BELAY_KEEP_ON : BELAY_KEEP_OFF;
        int64_t start = clock_ms(), allowed = options.wait_ms > 0 ? options.wait_ms : 0;
        belay_status status = belay_acquire(worker->client, names[name], &options, &lock, &err);
        int late = (int)(clock_ms() - start - allowed), was = atomic_load(&late_ms);
        while (late > was && !atomic_compare_exchange_weak(&late_ms, &was, late)) {}
        count(status, &err);
        if (status != BELAY_OK) continue;
        enter(&guarded[name], lock);
        /* Now and then for longer than its TTL. */
        usleep((useconds_t)(rand_r(dice) % (rand_r(dice) % 8 == 0 ? 1500 : 15)) * 1000);
        leave(&guarded[name], lock);
        if (belay_release(lock, &err) == BELAY_LOST) atomic_fetch_add(&lost, 1);
    }
    return NULL;
}

static void go_wrong(unsigned *dice)
{
    int i = rand_r(dice) % FIVE, j = rand_r(dice) % FIVE;
    switch (rand_r(dice) % 4) {
    case 0:
        server_freeze(&five.servers[i]);
        usleep((useconds_t)(rand_r(dice) % 700) * 1000);
        server_thaw(&five.servers[i]);
        break;
    case 1: /* two at once, which is what five are for */
        server_freeze(&five.servers[i]);
        server_freeze(&five.servers[j]);
        usleep((useconds_t)(rand_r(dice) % 700) * 1000);
        server_thaw(&five.servers[i]);
        server_thaw(&five.servers[j]);
        break;
    default:
        server_kill(&five.servers[i]);
        usleep((useconds_t)(rand_r(dice) % 300) * 1000);
        if (!server_restart(&five.servers[i], true)) atomic_fetch_add(&odd, 1);
        break;
    }
}

static int tidy(void **state)
{
    (void)state;
    for (int i = 0; i < CLIENTS; i++) belay_close(clients[i]);
    memset(clients, 0, sizeof clients);
    five_end(&five);
    log_clear();
    return 0;
}

static void two_never_hold_while_servers_are_killed(void **state)
{
    const char *given = getenv("BELAY_CHAOS_MS");
    unsigned dice = (unsigned)clock_ms();
    struct worker workers[WORKERS];
    char text[2048], keys[96];
    (void)state;
    five_begin(&five, false);
    snprintf(keys, sizeof keys, "node_timeout = \"%dms\"; timeout = \"2s\"; max_ttl = \"%dms\";",
             100 * until_slow(), MAX_TTL_MS);
    for (int i = 0; i < CLIENTS; i++)
        clients[i] = client_open_text(five_config(&five, keys, "timeout = \"300ms\";", "", text,
                                                  sizeof text),
                                      NULL);
    for (int i = 0; i < NAMES; i++) pthread_mutex_init(&guarded[i].lock, NULL);
    for (int i = 0; i < CLIENTS; i++) /* they were started a moment ago */
        assert_true(
            until(take(clients[i], "first", MAX_TTL_MS, BELAY_TRY, NULL, NULL) == BELAY_OK));
    for (int i = 0; i < WORKERS; i++) {
        workers[i] = (struct worker){ .client = clients[i % CLIENTS], .dice = dice + (unsigned)i };
        assert_int_equal(pthread_create(&workers[i].thread, NULL, work, &workers[i]), 0);
    }
    int64_t end = clock_ms() + (given != NULL && given[0] != '\0' ? atol(given) : 12000);
    while (clock_ms() < end) {
        go_wrong(&dice);
        usleep((useconds_t)(rand_r(&dice) % 1500) * 1000);
    }
    atomic_store(&over, true);
    for (int i = 0; i < WORKERS; i++) pthread_join(workers[i].thread, NULL);

    bool clean = until_within(CALM_MS * until_slow(), five_keys(&five, ALL_FIVE) == 0);
    fprintf(stderr, "# %d granted, %d held, %d in doubt, %d lost; at most %d ms late\n", granted,
            held, doubted, lost, late_ms);
    if (!clean || both + fallen + odd > 0) log_show();
    assert_int_equal(both, 0);
    assert_int_equal(fallen, 0);
    assert_int_equal(odd, 0);
    assert_true(granted > 0);
    assert_true(clean);
    for (int i = 0; i < CLIENTS; i++)
        assert_true(
            until(take(clients[i], "afterwards", MAX_TTL_MS, BELAY_TRY, NULL, NULL) == BELAY_OK));
    for (int i = 0; i < CLIENTS; i++) belay_close(clients[i]);
    memset(clients, 0, sizeof clients);
    assert_int_equal(five_keys(&five, ALL_FIVE), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(two_never_hold_while_servers_are_killed, tidy),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) == 0 ? 0 : 1;
}
