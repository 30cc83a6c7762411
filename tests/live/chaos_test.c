/* chaos_test.c - whatever breaks, in whatever order: two never hold one name, tokens grow, every
 * call ends in time, nothing stays behind, and it goes on when it is over.
 *
 * Some clients, with threads or an event loop, take a few names through a relay, while connections
 * are cut, held, delayed and refused, answers swallowed, scripts flushed, the server stopped and
 * (since it keeps everything) killed and started again. The moments are random and not to be
 * repeated; what must be true at each of them is not. BELAY_CHAOS_MS and BELAY_CHAOS_SEED change
 * how long, and which dice. */
#define _GNU_SOURCE
#include "tests/live/client.h"

#include <poll.h>

enum {
    NAMES = 3,
    CLIENTS = 3,
    THREADS = 3, /* of each client */
    STARTS = 4,  /* calls under way at a time, of the event loop */
    TIMEOUT_MS = 300,
    CALM_MS = 10000 /* afterwards, everything must be well within that */
};

static struct server server, replica;
static struct relay *relay;
static atomic_bool over;
static bool fenced;

/* ------------------------------------------------------------------ what is guarded */

/* Of one name. Who holds its lock is inside, for as long as it does. */
static struct guarded {
    pthread_mutex_t lock;
    const belay_lock *inside;
    uint64_t token;
} guarded[NAMES];

static atomic_int granted, held, doubted, lost, both, fallen, odd, late_ms;

static void note(atomic_int *most, int value)
{
    int was = atomic_load(most);
    while (value > was && !atomic_compare_exchange_weak(most, &was, value)) {}
}

/* `name` NAMES: one that nobody else uses. */
static void enter(int name, const belay_lock *lock)
{
    struct guarded *it = &guarded[name];
    if (name == NAMES) return;
    pthread_mutex_lock(&it->lock);
    /* The other's is looked at first: who is valid afterwards was so before. */
    if (it->inside != NULL && belay_lock_valid(it->inside, 0) && belay_lock_valid(lock, 0))
        atomic_fetch_add(&both, 1);
    bool first = it->inside == NULL && belay_lock_valid(lock, 0);
    if (first) it->inside = lock;
    uint64_t token = belay_lock_token(lock);
    if (first && fenced) {
        if (token <= it->token) atomic_fetch_add(&fallen, 1);
        it->token = token;
    }
    pthread_mutex_unlock(&it->lock);
}

static void leave(int name, const belay_lock *lock)
{
    struct guarded *it = &guarded[name];
    if (name == NAMES) return;
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

static const char *const names[NAMES] = { "one", "two", "three" };
/* And names that are used once: nobody comes again to find what was left behind. */
static atomic_int fresh_names;

/* Mostly longer than the test, so that what stays behind is seen. */
static belay_options options_of(unsigned *dice)
{
    static const uint32_t ttls_ms[] = { 60000, 60000, 1500, 700 };
    static const int64_t waits_ms[] = { BELAY_TRY, 40, 250, 800, 2500 };
    belay_options options = BELAY_OPTIONS_INIT;
    options.ttl_ms = ttls_ms[rand_r(dice) % 4];
    options.wait_ms = waits_ms[rand_r(dice) % 5];
    options.keep = rand_r(dice) % 2 == 0 ? BELAY_KEEP_ON : BELAY_KEEP_OFF;
    return options;
}

/* ------------------------------------------------------------------ who takes locks */

struct taker {
    belay *client;
    unsigned dice;
    pthread_t thread;
};

static void *take_and_release(void *arg)
{
    struct taker *taker = arg;
    while (!atomic_load(&over)) {
        int name = rand_r(&taker->dice) % (2 * NAMES);
        char fresh[32];
        belay_options options = options_of(&taker->dice);
        belay_error err = BELAY_ERROR_INIT;
        belay_lock *lock = NULL;
        if (name > NAMES) name = NAMES;
        if (name == NAMES) {
            snprintf(fresh, sizeof fresh, "n%d", atomic_fetch_add(&fresh_names, 1));
            options.wait_ms = BELAY_TRY;
        }
        int64_t start = clock_ms();
        belay_status status = belay_acquire(taker->client, name == NAMES ? fresh : names[name],
                                            &options, &lock, &err);
        int64_t allowed = options.wait_ms > 0 ? options.wait_ms : 0;
        note(&late_ms, (int)(clock_ms() - start - allowed));
        count(status, &err);
        if (status != BELAY_OK) continue;
        enter(name, lock);
        usleep((useconds_t)(rand_r(&taker->dice) % 15) * 1000);
        if (rand_r(&taker->dice) % 4 == 0) {
            status = belay_extend(lock, 500 + (uint32_t)rand_r(&taker->dice) % 3000, &err);
            if (status == BELAY_LOST) atomic_fetch_add(&lost, 1);
        }
        leave(name, lock);
        start = clock_ms();
        status = belay_release(lock, &err);
        note(&late_ms, (int)(clock_ms() - start));
        if (status == BELAY_LOST) atomic_fetch_add(&lost, 1);
    }
    return NULL;
}

/* The same by callbacks: each begins the next. */
struct start {
    struct taker *taker;
    int name;
};

static int under_way; /* the event loop's thread alone looks */

static void begin_next(struct start *start);

static void start_released(void *arg, belay_status status, belay_lock *lock, const belay_error *err)
{
    (void)lock, (void)err;
    under_way--;
    if (status == BELAY_LOST) atomic_fetch_add(&lost, 1);
    begin_next(arg);
}

static void start_acquired(void *arg, belay_status status, belay_lock *lock, const belay_error *err)
{
    struct start *start = arg;
    belay_error why = BELAY_ERROR_INIT;
    under_way--;
    count(status, err);
    if (status == BELAY_OK) {
        enter(start->name, lock);
        leave(start->name, lock);
        if (belay_release_start(lock, start_released, start, NULL, &why) == BELAY_OK) {
            under_way++;
            return;
        }
    }
    begin_next(start);
}

static void begin_next(struct start *start)
{
    if (atomic_load(&over)) return;
    belay_options options = options_of(&start->taker->dice);
    belay_error err = BELAY_ERROR_INIT;
    start->name = rand_r(&start->taker->dice) % NAMES;
    belay_status status = belay_acquire_start(start->taker->client, names[start->name], &options,
                                              start_acquired, start, NULL, &err);
    if (status == BELAY_OK) under_way++;
    else count(status, &err);
}

static void *dispatch(void *arg)
{
    struct taker *taker = arg;
    struct start starts[STARTS];
    for (int i = 0; i < STARTS; i++) {
        starts[i] = (struct start){ .taker = taker };
        begin_next(&starts[i]);
    }
    while (under_way > 0) {
        struct pollfd readable = { .fd = belay_fd(taker->client), .events = POLLIN };
        if (poll(&readable, 1, 100) > 0 && belay_dispatch(taker->client) != BELAY_OK) break;
    }
    return NULL;
}

/* ------------------------------------------------------------------ what goes wrong */

static void pause_ms(int ms)
{
    usleep((useconds_t)ms * 1000);
}

static void hold_for_a_while(unsigned *dice, int number, enum relay_way way)
{
    relay_hold(relay, number, way, true);
    pause_ms(rand_r(dice) % 700);
    relay_hold(relay, number, way, false);
}

static void go_wrong(unsigned *dice)
{
    int number = rand_r(dice) % (relay_connections(relay) + 1);
    switch (rand_r(dice) % 10) {
    case 0: relay_cut(relay, RELAY_ALL, rand_r(dice) % 2 == 0); break;
    case 1: relay_cut(relay, number, true); break;
    case 2:
        server_freeze(&server);
        pause_ms(rand_r(dice) % 800);
        server_thaw(&server);
        break;
    case 3: hold_for_a_while(dice, number, RELAY_UP); break;
    case 4: hold_for_a_while(dice, number, RELAY_DOWN); break;
    case 5:
        relay_delay(relay, RELAY_DOWN, rand_r(dice) % 400);
        pause_ms(300);
        relay_delay(relay, RELAY_DOWN, 0);
        break;
    case 6: server_command(&server, NULL, "SCRIPT FLUSH"); break;
    case 7:
        relay_refuse(relay, true);
        pause_ms(rand_r(dice) % 400);
        relay_refuse(relay, false);
        break;
    case 8:
        server_kill(&server);
        pause_ms(rand_r(dice) % 300);
        if (!server_restart(&server, false)) atomic_fetch_add(&odd, 1);
        break;
    default:
        relay_trap(relay, (enum relay_trap)(RELAY_CUT_BEFORE + rand_r(dice) % 5),
                   rand_r(dice) % 2 == 0 ? "EVALSHA *" : "EVAL *");
        break;
    }
}

static void calm_down(void)
{
    relay_trap(relay, RELAY_NO_TRAP, NULL);
    relay_hold(relay, RELAY_ALL, RELAY_UP, false);
    relay_hold(relay, RELAY_ALL, RELAY_DOWN, false);
    atomic_store(&over, true);
}

static long setting(const char *name, long otherwise)
{
    const char *given = getenv(name);
    return given != NULL && given[0] != '\0' ? atol(given) : otherwise;
}

/* ------------------------------------------------------------------ a run */

static bool replica_is_there(void)
{
    char count_of[16];
    return strcmp(server_info(&server, "connected_slaves", count_of, sizeof count_of), "1") == 0;
}

static void reset(void)
{
    for (int i = 0; i < NAMES; i++) {
        pthread_mutex_init(&guarded[i].lock, NULL);
        guarded[i].inside = NULL;
        guarded[i].token = 0;
    }
    atomic_store(&over, false);
    under_way = 0;
    granted = held = doubted = lost = both = fallen = odd = late_ms = 0;
    atomic_store(&fresh_names, 0);
}

static void run(bool with_fence, bool with_replica)
{
    const struct server_options kept = { .persist = true, .extra = "appendfsync always\n" };
    assert_true(server_start(&server, &kept));
    const struct server_options copies = { .replica_of = &server };
    if (with_replica) assert_true(server_start(&replica, &copies) && until(replica_is_there()));
    const struct relay_options options = { .to_port = server.port };
    relay = relay_start(&options);
    assert_non_null(relay);
    fenced = with_fence;
    reset();

    long seed = setting("BELAY_CHAOS_SEED", (long)clock_ms());
    unsigned dice = (unsigned)seed;
    char more[96];
    snprintf(more, sizeof more, "timeout = \"%dms\"; replicas = %d; replicas_timeout = \"100ms\";",
             TIMEOUT_MS, with_replica ? 1 : 0);
    belay_open_options by_events = BELAY_OPEN_OPTIONS_INIT;
    by_events.threads = BELAY_DISPATCH;
    belay *clients[CLIENTS + 1];
    struct taker takers[CLIENTS * THREADS + 1];
    for (int i = 0; i <= CLIENTS; i++)
        clients[i] = client_open_with(at_relay(relay), more, fenced ? NULL : "fencing = false;",
                                      i == CLIENTS ? &by_events : NULL);
    for (int i = 0; i <= CLIENTS * THREADS; i++) {
        bool events = i == CLIENTS * THREADS;
        takers[i] = (struct taker){ .client = clients[i / THREADS], .dice = dice + (unsigned)i };
        assert_int_equal(pthread_create(&takers[i].thread, NULL,
                                        events ? dispatch : take_and_release, &takers[i]),
                         0);
    }
    int64_t end = clock_ms() + setting("BELAY_CHAOS_MS", 4000);
    while (clock_ms() < end) {
        pause_ms(50 + rand_r(&dice) % 200);
        go_wrong(&dice);
    }
    calm_down();
    for (int i = 0; i <= CLIENTS * THREADS; i++) pthread_join(takers[i].thread, NULL);

    int calm_ms = CALM_MS * until_slow();
    bool clean = until_within(calm_ms, server_lock_keys(&server, "belay:") == 0);
    fprintf(stderr,
            "# seed %ld: %d granted, %d held, %d in doubt, %d lost; at most %d ms late; %d "
            "connections\n",
            seed, granted, held, doubted, lost, late_ms, relay_connections(relay));
    if (!clean || both + fallen + odd > 0) log_show();
    assert_int_equal(both, 0);
    assert_int_equal(fallen, 0);
    assert_int_equal(odd, 0);
    assert_true(clean);
    assert_true(granted > 0);
    assert_true(late_ms < 3000 * until_slow());
    for (int i = 0; i <= CLIENTS; i++)
        must_release(must_take(clients[i], "afterwards", 5000, calm_ms));
    for (int i = 0; i <= CLIENTS; i++) belay_close(clients[i]);
    assert_int_equal(server_lock_keys(&server, "belay:"), 0);
}

static int tidy(void **state)
{
    (void)state;
    relay_end(relay);
    relay = NULL;
    server_end(&replica);
    server_end(&server);
    log_clear();
    return 0;
}

static void two_never_hold_and_tokens_grow(void **state)
{
    (void)state;
    run(true, false);
}

static void two_never_hold_without_tokens(void **state)
{
    (void)state;
    run(false, false);
}

static void two_never_hold_what_a_replica_has(void **state)
{
    (void)state;
    run(true, true);
}

static void two_never_hold_what_a_replica_has_without_tokens(void **state)
{
    (void)state;
    run(false, true);
}

#define IS(function) cmocka_unit_test_teardown(function, tidy)

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        IS(two_never_hold_and_tokens_grow),
        IS(two_never_hold_without_tokens),
        IS(two_never_hold_what_a_replica_has),
        IS(two_never_hold_what_a_replica_has_without_tokens),
    };
    if (argc > 1) cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL) == 0 ? 0 : 1;
}
