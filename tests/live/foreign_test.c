/* foreign_test.c - keys that others wrote, took away or evicted: FAULTS rows 19 and 21. */
#define _GNU_SOURCE
#include "tests/live/client.h"

#define LONG_MS 60000

static struct server server;
static belay *client, *rival;

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
    belay_close(rival);
    client = rival = NULL;
    server_command(&server, NULL, "CONFIG SET maxmemory 0");
    server_command(&server, NULL, "CONFIG SET maxmemory-policy noeviction");
    server_command(&server, NULL, "FLUSHALL");
    log_clear();
    return 0;
}

/* ------------------------------------------------------------------ 19: another format */

static const struct {
    const char *kind, *write, *told;
} formats[] = {
    { "list", "RPUSH belay:job a b c", "list" },
    { "hash", "HSET belay:job 8743c9c0-0795-4907-87fd-6c719a6b4586:1 1", "hash" }, /* Redisson's */
    { "set", "SADD belay:job a b", "set" },
    { "zset", "ZADD belay:job 1767225600 token", "zset" }, /* symfony/lock's */
    { "stream", "XADD belay:job 1-1 a b", "stream" },
    { "string", "SET belay:job somebody's", NULL },
    { "empty string", "SET belay:job %b", NULL },
};
enum { FORMATS = sizeof formats / sizeof formats[0] };

/* What is kept there and for how long, as one text. */
static void look(char *out, size_t size)
{
    struct server_reply reply;
    assert_int_equal(server_command(&server, &reply, "DEBUG DIGEST-VALUE belay:job"), SERVER_ARRAY);
    snprintf(out, size, "%s", reply.text);
}

/* A plain SET that was refused does not learn of what kind the key is. */
static void foreign_keys_are_held(const char *top, bool with_ttl)
{
    bool kind_told = top == NULL;
    client = client_open(at_server(&server), NULL, top);
    for (size_t i = 0; i < FORMATS; i++) {
        char before[128], after[128];
        belay_info info = { .size = sizeof info };
        belay_error err = BELAY_ERROR_INIT;
        server_command(&server, NULL, "DEL belay:job");
        server_command(&server, NULL, formats[i].write, "", (size_t)0);
        if (with_ttl) server_command(&server, NULL, "PEXPIRE belay:job 50000");
        look(before, sizeof before);
        assert_status(take(client, "job", LONG_MS, BELAY_TRY, NULL, &err), BELAY_HELD);
        if (kind_told && formats[i].told != NULL && strstr(err.text, formats[i].told) == NULL)
            fprintf(stderr, "of a %s it says: %s\n", formats[i].kind, err.text);
        if (kind_told && formats[i].told != NULL)
            assert_non_null(strstr(err.text, formats[i].told));
        assert_status(take(client, "job", LONG_MS, 60, NULL, &err), BELAY_HELD); /* waits */
        assert_status(belay_inspect(client, "job", &info, &err), BELAY_OK);
        assert_true(info.held);
        if (formats[i].told != NULL) assert_string_equal(info.owner, "");
        if (with_ttl) assert_true(info.remaining_ms > 40000 && info.remaining_ms <= 50000);
        else assert_int_equal(info.remaining_ms, -1);
        look(after, sizeof after);
        assert_string_equal(before, after);
        int64_t left = server_integer(&server, "PTTL belay:job");
        if (with_ttl) assert_true(left > 40000 && left <= 50000);
        else assert_int_equal(left, -1);
    }
}

static void a_foreign_key_is_held_and_never_touched(void **state)
{
    (void)state;
    foreign_keys_are_held(NULL, false);
}

static void a_foreign_key_with_a_ttl_too(void **state)
{
    (void)state;
    foreign_keys_are_held(NULL, true);
}

static void without_fencing_too(void **state)
{
    (void)state;
    foreign_keys_are_held("fencing = false;", false);
}

/* Whoever waits gets it when the foreign key goes, by its TTL or by hand. */
static void a_waiter_outlives_a_foreign_key(void **state)
{
    (void)state;
    client = client_open(at_server(&server), NULL, NULL);
    for (size_t i = 0; i < FORMATS; i++) {
        struct caller caller = { 0 };
        bool by_hand = i % 2 == 0;
        server_command(&server, NULL, formats[i].write, "", (size_t)0);
        if (!by_hand) server_command(&server, NULL, "PEXPIRE belay:job 300");
        caller_acquire(&caller, client, "job", LONG_MS, 20000);
        assert_true(until(server_clients(&server) >= 2)); /* it waits: its second connection */
        int64_t start = clock_ms();
        if (by_hand) server_command(&server, NULL, "DEL belay:job");
        assert_status(caller_end(&caller), BELAY_OK);
        assert_true(clock_ms() - start < 1500 * until_slow());
        must_release(caller.lock);
    }
}

/* Nor does releasing or extending touch what has come in the place of a lock. */
static void what_replaced_a_lock_is_not_touched(void **state)
{
    (void)state;
    client = client_open(at_server(&server), NULL, NULL);
    for (size_t i = 0; i < FORMATS; i++) {
        char before[128], after[128];
        belay_lock *lock = must_take(client, "job", LONG_MS, BELAY_TRY);
        belay_lock *other;
        server_command(&server, NULL, "DEL belay:job");
        server_command(&server, NULL, formats[i].write, "", (size_t)0);
        look(before, sizeof before);
        assert_status(belay_extend(lock, LONG_MS, NULL), BELAY_LOST);
        assert_status(belay_release(lock, NULL), BELAY_LOST);
        look(after, sizeof after);
        assert_string_equal(before, after);
        server_command(&server, NULL, "DEL belay:job");
        other = must_take(client, "job", LONG_MS, BELAY_TRY);
        server_command(&server, NULL, "DEL belay:job");
        server_command(&server, NULL, formats[i].write, "", (size_t)0);
        assert_status(belay_release(other, NULL), BELAY_LOST);
        look(after, sizeof after);
        assert_string_equal(before, after);
        server_command(&server, NULL, "DEL belay:job");
    }
}

/* A fence key of another type: nothing is granted and nothing left behind. */
static void a_foreign_fence_key_grants_nothing(void **state)
{
    static const char *const fences[] = { "RPUSH fence:belay: a", "SET fence:belay: somebody's",
                                          "HSET fence:belay: a b", "SET fence:belay: 12" };
    (void)state;
    client = client_open(at_server(&server), "timeout = \"200ms\";", NULL);
    for (size_t i = 0; i < sizeof fences / sizeof fences[0]; i++) {
        belay_error err = BELAY_ERROR_INIT;
        server_command(&server, NULL, "DEL fence:belay:");
        server_command(&server, NULL, fences[i]);
        belay_status status = take(client, "job", LONG_MS, BELAY_TRY, NULL, &err);
        if (status != BELAY_REFUSED) fprintf(stderr, "%s: %s\n", fences[i], err.text);
        assert_status(status, BELAY_REFUSED);
        if (strstr(err.text, "fence") == NULL)
            fprintf(stderr, "%s: it says: %s\n", fences[i], err.text);
        assert_non_null(strstr(err.text, "fence"));
        assert_int_equal(server_lock_keys(&server, "belay:"), 0);
    }
}

/* ------------------------------------------------------------------ 21: taken away */

static atomic_int told;

static void on_lost(void *arg, belay_lock *lock, const belay_error *why)
{
    (void)arg;
    (void)lock;
    if (why->status == BELAY_LOST) atomic_fetch_add(&told, 1);
}

static void take_away(const char *how)
{
    belay_options options = BELAY_OPTIONS_INIT;
    belay_lock *kept = NULL;
    atomic_store(&told, 0);
    belay_lock *lock = must_take(client, "plain", LONG_MS, BELAY_TRY);
    options.ttl_ms = 3000;
    options.keep_every_ms = 200;
    options.keep = BELAY_KEEP_ON;
    options.wait_ms = BELAY_TRY;
    options.on_lost = on_lost;
    assert_status(belay_acquire(client, "kept", &options, &kept, NULL), BELAY_OK);
    assert_int_not_equal(server_command(&server, NULL, how), SERVER_ERROR);
    /* The kept one at its next extension, the other when it is asked for. */
    int64_t start = clock_ms();
    assert_true(until(atomic_load(&told) == 1));
    assert_true(clock_ms() - start < 1000 * until_slow());
    assert_false(belay_lock_valid(kept, 0));
    assert_status(belay_extend(lock, LONG_MS, NULL), BELAY_LOST);
    assert_false(belay_lock_valid(lock, 0));
    assert_status(belay_release(lock, NULL), BELAY_LOST);
    assert_status(belay_release(kept, NULL), BELAY_LOST);
    assert_int_equal(server_lock_keys(&server, "belay:"), 0);
    assert_int_equal(atomic_load(&told), 1);
}

static void a_flush_or_a_delete_by_hand_loses_the_lock(void **state)
{
    (void)state;
    client = client_open(at_server(&server), NULL, NULL);
    take_away("FLUSHALL");
    take_away("DEL belay:plain belay:kept");
    take_away("UNLINK belay:plain belay:kept");
    take_away("FLUSHDB ASYNC");
}

/* Tokens grow although the fence key went with it. */
static void tokens_grow_across_a_flush(void **state)
{
    uint64_t last = 0;
    (void)state;
    client = client_open(at_server(&server), NULL, NULL);
    for (int i = 0; i < 20; i++) {
        belay_lock *lock = must_take(client, "job", LONG_MS, BELAY_TRY);
        assert_true(belay_lock_token(lock) > last);
        last = belay_lock_token(lock);
        if (i % 2 == 0) must_release(lock);
        server_command(&server, NULL, "FLUSHALL");
        if (i % 2 != 0) assert_status(belay_release(lock, NULL), BELAY_LOST);
    }
}

static void an_evicted_lock_is_lost(void **state)
{
    char filler[1024];
    (void)state;
    client = client_open(at_server(&server), NULL, NULL);
    rival = client_open(at_server(&server), NULL, NULL);
    belay_lock *lock = must_take(client, "job", LONG_MS, BELAY_TRY);
    server_command(&server, NULL, "CONFIG SET maxmemory-policy allkeys-random");
    char used[32];
    server_info(&server, "used_memory", used, sizeof used);
    server_command(&server, NULL, "CONFIG SET maxmemory %lld", strtoll(used, NULL, 10) + 500000);
    memset(filler, 'x', sizeof filler - 1);
    filler[sizeof filler - 1] = '\0';
    for (int i = 0; i < 200000 && server_lock_keys(&server, "belay:") > 0;)
        for (int many = 0; many < 200; many++)
            server_command(&server, NULL, "SET filler:%d %s", i++, filler);
    assert_int_equal(server_lock_keys(&server, "belay:"), 0);
    belay_lock *next = must_take(rival, "job", LONG_MS, BELAY_TRY);
    /* The next one's token is larger if the fence lived, or the clock went on. */
    assert_true(belay_lock_token(next) > belay_lock_token(lock));
    assert_status(belay_extend(lock, LONG_MS, NULL), BELAY_LOST);
    assert_status(belay_release(lock, NULL), BELAY_LOST);
    (void)belay_release(next, NULL);
}

/* Said once for each client, whichever of its connections saw it. */
static void an_evicting_policy_is_warned_about_once(void **state)
{
    (void)state;
    server_command(&server, NULL, "CONFIG SET maxmemory 100mb");
    server_command(&server, NULL, "CONFIG SET maxmemory-policy volatile-lru");
    client = client_open(at_server(&server), NULL, NULL);
    must_release(must_take(client, "job", LONG_MS, BELAY_TRY));
    assert_true(until(log_has("volatile-lru")));
    server_command(&server, NULL, "CLIENT KILL TYPE normal SKIPME yes");
    assert_true(until(take(client, "job", LONG_MS, 5000, NULL, NULL) == BELAY_OK));
    assert_int_equal(log_count("volatile-lru"), 1);
    belay_close(client);
    log_clear();
    server_command(&server, NULL, "CONFIG SET maxmemory-policy noeviction");
    client = client_open(at_server(&server), NULL, NULL);
    must_release(must_take(client, "job", LONG_MS, BELAY_TRY));
    assert_false(log_has("noeviction"));
}

/* A server that comes back empty is another one: held locks are looked at at once. */
static void a_server_that_was_restarted_empty_loses_the_lock_soon(void **state)
{
    belay_options options = BELAY_OPTIONS_INIT;
    belay_lock *lock = NULL;
    (void)state;
    client = client_open(at_server(&server), "timeout = \"300ms\";", NULL);
    options.ttl_ms = LONG_MS; /* its next extension would be in 20 s */
    options.wait_ms = BELAY_TRY;
    options.on_lost = on_lost;
    atomic_store(&told, 0);
    assert_status(belay_acquire(client, "job", &options, &lock, NULL), BELAY_OK);
    assert_true(server_restart(&server, true));
    assert_true(until_within(8000 * until_slow(), atomic_load(&told) == 1));
    assert_false(belay_lock_valid(lock, 0));
    assert_status(belay_release(lock, NULL), BELAY_LOST);
    must_release(must_take(client, "job", LONG_MS, 5000));
}

#define IS(function) cmocka_unit_test_teardown(function, tidy)

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        IS(a_foreign_key_is_held_and_never_touched),
        IS(a_foreign_key_with_a_ttl_too),
        IS(without_fencing_too),
        IS(a_waiter_outlives_a_foreign_key),
        IS(what_replaced_a_lock_is_not_touched),
        IS(a_foreign_fence_key_grants_nothing),
        IS(a_flush_or_a_delete_by_hand_loses_the_lock),
        IS(tokens_grow_across_a_flush),
        IS(an_evicted_lock_is_lost),
        IS(an_evicting_policy_is_warned_about_once),
        IS(a_server_that_was_restarted_empty_loses_the_lock_soon),
    };
    if (argc > 1) cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, setup, teardown) == 0 ? 0 : 1;
}
