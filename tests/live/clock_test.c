/* clock_test.c - wall clocks that are stepped: the client's (FAULTS row 10) and the server's (rows
 * 11 and 12). The server's by a preloaded shim, the client's by a world of its own. */
#define _GNU_SOURCE
#include "tests/live/client.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <time.h>

#define SECOND INT64_C(1000000)
#define TTL_MS 30000

static struct server server;
static belay *client, *rival;
static _Atomic int64_t *server_step; /* microseconds */

/* ------------------------------------------------------------------ the server's clock */

static int setup(void **state)
{
    const struct server_options options = { .preload = getenv("BELAY_CLOCK_SHIM"), .steps = true };
    char path[96];
    (void)state;
    if (options.preload == NULL || access(options.preload, R_OK) != 0) {
        fprintf(stderr, "BELAY_CLOCK_SHIM names no library\n");
        return -1;
    }
    if (!server_start(&server, &options)) return -1;
    snprintf(path, sizeof path, "%s/clock", server.folder);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    void *memory = mmap(NULL, sizeof *server_step, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (memory == MAP_FAILED) return -1;
    server_step = memory;
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    if (server_step != NULL) munmap(server_step, sizeof *server_step);
    server_end(&server);
    return 0;
}

static int64_t server_wall_s(void)
{
    struct server_reply reply;
    if (server_command(&server, &reply, "TIME") != SERVER_ARRAY) return -1;
    return strtoll(reply.text, NULL, 10);
}

/* Its cached clock follows within a tick. */
static void step_server(int64_t seconds)
{
    int64_t now = time(NULL);
    atomic_store(server_step, seconds * SECOND);
    assert_true(until(llabs(server_wall_s() - (now + seconds)) <= 2));
}

static int tidy(void **state)
{
    (void)state;
    belay_close(client);
    belay_close(rival);
    client = rival = NULL;
    atomic_store(server_step, 0);
    server_command(&server, NULL, "FLUSHALL");
    log_clear();
    return 0;
}

/* 11. The server believes that the TTL is over, and lets another in. */
static void a_server_that_steps_forward_loses_the_lock(void **state)
{
    (void)state;
    client = client_open(at_server(&server), NULL, NULL);
    rival = client_open(at_server(&server), NULL, NULL);
    belay_lock *first = must_take(client, "job", TTL_MS, BELAY_TRY);
    assert_status(take(rival, "job", TTL_MS, BELAY_TRY, NULL, NULL), BELAY_HELD);
    step_server(60);
    belay_lock *second = must_take(rival, "job", TTL_MS, 5000);
    assert_true(belay_lock_token(second) > belay_lock_token(first));
    assert_status(belay_extend(first, 0, NULL), BELAY_LOST);
    assert_false(belay_lock_valid(first, 0));
    assert_status(belay_release(first, NULL), BELAY_LOST);
    assert_true(belay_lock_valid(second, TTL_MS / 2)); /* untouched */
    assert_status(belay_extend(second, 0, NULL), BELAY_OK);
    must_release(second);
}

static atomic_int told;

static void on_lost(void *arg, belay_lock *lock, const belay_error *why)
{
    (void)arg;
    (void)lock;
    if (why->status == BELAY_LOST) atomic_fetch_add(&told, 1);
}

/* A waiter gets it as soon as it is expired there; a kept lock's holder hears of its loss. */
static void a_waiter_and_a_keeper_hear_of_the_step(void **state)
{
    belay_options options = BELAY_OPTIONS_INIT;
    belay_lock *kept = NULL;
    struct caller caller = { 0 };
    (void)state;
    client = client_open(at_server(&server), NULL, NULL);
    rival = client_open(at_server(&server), NULL, NULL);
    atomic_store(&told, 0);
    options.ttl_ms = TTL_MS;
    options.keep_every_ms = 300;
    options.wait_ms = BELAY_TRY;
    options.on_lost = on_lost;
    assert_status(belay_acquire(client, "job", &options, &kept, NULL), BELAY_OK);
    caller_acquire(&caller, rival, "job", TTL_MS, 20000);
    assert_true(until(server_clients(&server) >= 3)); /* it waits by tracking */
    step_server(60);
    assert_status(caller_end(&caller), BELAY_OK);
    assert_true(caller.took_ms < 10000);
    assert_true(belay_lock_token(caller.lock) > belay_lock_token(kept));
    assert_true(until(atomic_load(&told) == 1));
    assert_status(belay_release(kept, NULL), BELAY_LOST);
    must_release(caller.lock);
}

/* 12. The server believes that the TTL runs for an hour and more. */
static void a_server_that_steps_back_holds_it_longer(void **state)
{
    belay_info info = { .size = sizeof info };
    (void)state;
    client = client_open(at_server(&server), NULL, NULL);
    rival = client_open(at_server(&server), NULL, NULL);
    belay_lock *lock = must_take(client, "job", TTL_MS, BELAY_TRY);
    step_server(-3600);
    assert_true(server_integer(&server, "PTTL belay:job") > 3600000);
    assert_status(take(rival, "job", TTL_MS, BELAY_TRY, NULL, NULL), BELAY_HELD);
    int64_t start = clock_ms();
    assert_status(take(rival, "job", TTL_MS, 500, NULL, NULL), BELAY_HELD);
    int64_t took = clock_ms() - start;
    assert_true(took >= 500 && took < 500 + 300 * until_slow()); /* bounded by its own wait */
    assert_status(belay_inspect(rival, "job", &info, NULL), BELAY_OK);
    assert_true(info.held);
    assert_status(belay_extend(lock, 0, NULL), BELAY_OK);
    assert_true(belay_lock_remaining_ms(lock) <= TTL_MS); /* the holder's own count is unmoved */
    /* A waiter whose timer would have to fire in an hour is there when it is released. */
    struct caller caller = { 0 };
    caller_acquire(&caller, rival, "job", TTL_MS, 20000);
    assert_false(until_within(200, atomic_load(&caller.ended)));
    must_release(lock);
    assert_status(caller_end(&caller), BELAY_OK);
    assert_true(caller.took_ms < 6000);
    must_release(caller.lock);
    assert_int_equal(server_lock_keys(&server, "belay:"), 0);
}

/* And one that never returns it: its own deadline still ends its belief. */
static void a_holder_s_deadline_is_its_own(void **state)
{
    (void)state;
    client = client_open(at_server(&server), NULL, NULL);
    belay_lock *lock = must_take(client, "job", 500, BELAY_TRY);
    step_server(-3600);
    assert_true(until_within(1000, !belay_lock_valid(lock, 0)));
    assert_status(belay_extend(lock, 0, NULL), BELAY_LOST);
    assert_status(belay_release(lock, NULL), BELAY_LOST);
    /* It was sent all the same: nobody has to wait for an hour. */
    assert_true(until(server_lock_keys(&server, "belay:") == 0));
}

/* ------------------------------------------------------------------ the client's wall clock */

struct stepped {
    belay_world base;
    _Atomic int64_t step_us;
};

static int64_t real_now(belay_world *world)
{
    struct timespec at;
    (void)world;
    clock_gettime(CLOCK_BOOTTIME, &at);
    return (int64_t)at.tv_sec * 1000000000 + at.tv_nsec;
}

static int64_t stepped_wall(belay_world *world)
{
    struct timespec at;
    clock_gettime(CLOCK_REALTIME, &at);
    return (int64_t)at.tv_sec * 1000000 + at.tv_nsec / 1000 +
           atomic_load(&belay_container_of(world, struct stepped, base)->step_us);
}

static void real_random(belay_world *world, void *out, size_t length)
{
    (void)world;
    if (getrandom(out, length, 0) != (ssize_t)length) abort();
}

static belay_status attach(belay_world *world, belay_kick_fn *kick, void *arg)
{
    (void)world;
    (void)kick;
    (void)arg;
    return BELAY_OK;
}

static void detach(belay_world *world, belay_kick_fn *kick, void *arg)
{
    (void)world;
    (void)kick;
    (void)arg;
}

static struct stepped world = {
    .base = { .size = sizeof(belay_world),
              .now = real_now,
              .wall = stepped_wall,
              .random = real_random,
              .attach = attach,
              .detach = detach },
};

/* 10. Tokens grow, deadlines stay, TTLs on the server are what was asked. */
static void a_client_s_wall_clock_changes_nothing(void **state)
{
    static const int64_t steps[] = { 0, 3600, -3600, 0, -3600, 86400 * 400L, -86400 * 400L, 0 };
    belay_open_options options = BELAY_OPEN_OPTIONS_INIT;
    uint64_t last = 0;
    (void)state;
    options.world = &world.base;
    client = client_open_with(at_server(&server), NULL, NULL, &options);
    rival = client_open(at_server(&server), NULL, NULL);
    for (size_t i = 0; i < sizeof steps / sizeof steps[0]; i++) {
        belay_lock *lock = must_take(client, "job", TTL_MS, BELAY_TRY);
        assert_true(belay_lock_token(lock) > last);
        last = belay_lock_token(lock);
        atomic_store(&world.step_us, steps[i] * SECOND);
        int64_t left = belay_lock_remaining_ms(lock);
        assert_true(left > TTL_MS - 5000 && left <= TTL_MS);
        int64_t pttl = server_integer(&server, "PTTL belay:job");
        assert_true(pttl > TTL_MS - 5000 && pttl <= TTL_MS);
        assert_status(belay_extend(lock, 2 * TTL_MS, NULL), BELAY_OK);
        pttl = server_integer(&server, "PTTL belay:job");
        assert_true(pttl > 2 * TTL_MS - 5000 && pttl <= 2 * TTL_MS);
        must_release(lock);
        lock = must_take(rival, "job", TTL_MS, BELAY_TRY);
        assert_true(belay_lock_token(lock) > last);
        last = belay_lock_token(lock);
        must_release(lock);
    }
}

/* A wall clock beyond 2^49 ticks is not believed. */
static void an_absurd_wall_clock_uses_up_no_tokens(void **state)
{
    belay_open_options options = BELAY_OPEN_OPTIONS_INIT;
    (void)state;
    options.world = &world.base;
    client = client_open(at_server(&server), NULL, NULL);
    belay_lock *lock = must_take(client, "job", TTL_MS, BELAY_TRY);
    uint64_t before = belay_lock_token(lock);
    must_release(lock);
    atomic_store(&world.step_us, INT64_C(1) << 58); /* 9000 years */
    rival = client_open_with(at_server(&server), NULL, NULL, &options);
    lock = must_take(rival, "job", TTL_MS, BELAY_TRY);
    assert_true(belay_lock_token(lock) > before);
    assert_true(belay_lock_token(lock) - before < UINT64_C(10000000000)); /* two days of ticks */
    must_release(lock);
    atomic_store(&world.step_us, 0);
}

/* What is left of the sequence ends: refused, and nothing is granted. */
static void an_exhausted_sequence_is_refused(void **state)
{
    belay_error err = BELAY_ERROR_INIT;
    (void)state;
    client = client_open(at_server(&server), NULL, NULL);
    server_command(&server, NULL, "SET fence:belay: 0:1125899906842621");
    for (int i = 2; i <= 3; i++) {
        belay_lock *lock = must_take(client, "job", TTL_MS, BELAY_TRY);
        assert_true(belay_lock_token(lock) == UINT64_C(1125899906842620) + (uint64_t)i);
        must_release(lock);
    }
    assert_status(take(client, "job", TTL_MS, BELAY_TRY, NULL, &err), BELAY_REFUSED);
    assert_non_null(strstr(err.text, "token"));
    assert_int_equal(server_lock_keys(&server, "belay:"), 0);
}

/* Beyond 2^46, where Lua's tostring would round. */
static void large_tokens_are_exact(void **state)
{
    char text[64], wanted[64];
    (void)state;
    client = client_open(at_server(&server), NULL, NULL);
    server_command(&server, NULL, "SET fence:belay: 0:1001999906842600");
    for (int i = 1; i <= 20; i++) {
        belay_lock *lock = must_take(client, "job", TTL_MS, BELAY_TRY);
        snprintf(wanted, sizeof wanted, "0:%lld", 1001999906842600LL + i);
        assert_true(belay_lock_token(lock) == UINT64_C(1001999906842600) + (uint64_t)i);
        assert_string_equal(server_string(&server, text, sizeof text, "GET fence:belay:"), wanted);
        must_release(lock);
    }
}

#define IS(function) cmocka_unit_test_teardown(function, tidy)

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        IS(a_server_that_steps_forward_loses_the_lock), IS(a_waiter_and_a_keeper_hear_of_the_step),
        IS(a_server_that_steps_back_holds_it_longer),   IS(a_holder_s_deadline_is_its_own),
        IS(a_client_s_wall_clock_changes_nothing),      IS(an_absurd_wall_clock_uses_up_no_tokens),
        IS(an_exhausted_sequence_is_refused),           IS(large_tokens_are_exact),
    };
    if (argc > 1) cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, setup, teardown) == 0 ? 0 : 1;
}
