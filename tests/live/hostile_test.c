/* hostile_test.c - a peer that drips, lies, floods or says nothing: FAULTS rows 49 and 50. Total
 * time and memory are bounded, a stream that cannot be trusted is closed, and nothing is granted by
 * guess. */
#define _GNU_SOURCE
#include "tests/live/client.h"

#define LONG_MS 60000
#define MEMORY_KB (48 << 10) /* what any reply may cost for a while, sanitizers apart */

static struct peer *peer;
static belay *client;

static int tidy(void **state)
{
    (void)state;
    belay_close(client);
    client = NULL;
    peer_end(peer);
    peer = NULL;
    log_clear();
    return 0;
}

/* ------------------------------------------------------------------ 49: dripping */

/* Each step alone is in time, the whole is not. */
static void drips(const struct peer_step *steps, size_t count)
{
    peer = peer_start(NULL);
    peer_script(peer, PEER_ALL, steps, count);
    client = client_open(at_peer(peer), "timeout = \"250ms\";",
                         "fencing = false; close_timeout = \"200ms\";");
    for (int i = 0; i < 2; i++) {
        int64_t start = clock_ms(), cpu = cpu_ms();
        belay_status status = take(client, "job", LONG_MS, BELAY_TRY, NULL, NULL);
        int64_t took = clock_ms() - start;
        assert_true(is_doubt(status));
        assert_true(took >= 200 && took < 250 + 200 * until_slow());
        assert_true(cpu_ms() - cpu < 150 * until_slow());
    }
    tidy(NULL);
}

static void a_dripped_answer_keeps_to_the_total_time(void **state)
{
    static const struct peer_step steps[] = {
        { .act = PEER_UNTIL, .text = "SET *" },
        { .act = PEER_DRIP, .text = "+OKxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\r\n", .ms = 40 },
        { .act = PEER_SILENT },
    };
    (void)state;
    drips(steps, sizeof steps / sizeof steps[0]);
}

static void a_dripped_greeting_too(void **state)
{
    static const struct peer_step steps[] = {
        { .act = PEER_DRIP, .text = "+OK\r\n:7\r\n$3000\r\nredis_version:7.0.15", .ms = 40 },
        { .act = PEER_SILENT },
    };
    (void)state;
    drips(steps, sizeof steps / sizeof steps[0]);
}

static void a_peer_that_accepts_and_says_nothing_too(void **state)
{
    static const struct peer_step steps[] = { { .act = PEER_SILENT } };
    (void)state;
    drips(steps, 1);
}

static void a_peer_that_never_accepts_too(void **state)
{
    (void)state;
    for (int local = 0; local < 2; local++) {
        char path[64];
        snprintf(path, sizeof path, "/tmp/belay-hostile-%d.sock", (int)getpid());
        const struct peer_options options = { .never_accepts = true,
                                              .socket = local ? path : NULL };
        peer = peer_start(&options);
        client = client_open(at_peer(peer), "timeout = \"250ms\";", "close_timeout = \"200ms\";");
        int64_t start = clock_ms(), cpu = cpu_ms();
        belay_error err = BELAY_ERROR_INIT;
        assert_status(take(client, "job", LONG_MS, BELAY_TRY, NULL, &err), BELAY_UNAVAILABLE);
        assert_true(clock_ms() - start < 250 + 200 * until_slow());
        assert_true(cpu_ms() - cpu < 150 * until_slow());
        assert_true(err.text[0] != '\0');
        tidy(NULL);
    }
}

/* ------------------------------------------------------------------ 50: lies */

static struct {
    const char *bytes;
    size_t length;
    size_t flood;        /* then so many 'a's */
    char said_to[16];    /* "SET", "EVALSHA" ... */
    atomic_int said;     /* once */
    bool hang_up, reset; /* afterwards */
} lie;

static bool lies(void *arg, struct peer_connection *connection, int argc, char **argv)
{
    static char block[1 << 16];
    (void)arg;
    (void)argc;
    if (strcmp(argv[0], lie.said_to) != 0 || atomic_exchange(&lie.said, 1) != 0) {
        if (strncmp(argv[0], "EVAL", 4) != 0) return false;
        peer_reply(connection, ":1\r\n");
        return true;
    }
    peer_reply_bytes(connection, lie.bytes, lie.length);
    memset(block, 'a', sizeof block);
    for (size_t left = lie.flood; left > 0;) {
        size_t part = left < sizeof block ? left : sizeof block;
        peer_reply_bytes(connection, block, part);
        left -= part;
    }
    if (lie.hang_up) peer_hang_up(connection, lie.reset);
    return true;
}

static const struct {
    const char *what, *bytes;
    size_t flood;
    bool stays; /* a sound stream, if not what was hoped for: the connection need not be closed */
} set_lies[] = {
    { "an integer", ":1\r\n", 0, true },
    { "a string", "$5\r\nhello\r\n", 0, true },
    { "another status", "+QUEUED\r\n", 0, true },
    { "an empty array", "*0\r\n", 0, true },
    { "a nested array", "*2\r\n*1\r\n:1\r\n$-1\r\n", 0, true },
    { "a nil array", "*-1\r\n", 0, true },
    { "no RESP at all", "HTTP/1.1 400 Bad Request\r\n\r\n", 0, false },
    { "an unknown type", "@OK\r\n", 0, false },
    { "binary", "\x16\x03\x01\x02\x15\x03\x03", 0, false },
    { "zeroes", "", 64, false },
    { "a number that is none", ":abc\r\n", 0, false },
    { "a number too large", ":99999999999999999999999\r\n", 0, false },
    { "a length that is none", "$abc\r\n", 0, false },
    { "a negative length", "$-2\r\n", 0, false },
    { "a huge length", "$9223372036854775807\r\n", 0, false },
    { "a length of 512 MB, and bytes", "$536870912\r\n", 24 << 20, false },
    { "a length beyond 2^64", "$18446744073709551617\r\nx\r\n", 0, false },
    { "a negative count", "*-2\r\n", 0, false },
    { "a huge count", "*2147483647\r\n", 0, false },
    { "a count beyond everything", "*9223372036854775807\r\n", 0, false },
    { "two huge counts", "*1000000\r\n*1000000\r\n*1000000\r\n", 0, false },
    { "deep nesting",
      "*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n:1\r\n",
      0, false },
    { "a line without an end", "+", 24 << 20, false },
    { "an error without an end", "-ERR ", 24 << 20, false },
    { "a string without its end", "$3\r\nabcd\r\n", 0, false },
    { "an answer too many", "$-1\r\n+OK\r\n", 0, false },
    { "RESP3: a map", "%1\r\n+a\r\n+b\r\n", 0, false },
    { "RESP3: a push", ">2\r\n+invalidate\r\n*0\r\n", 0, false },
    { "RESP3: null", "_\r\n", 0, false },
};
enum { SET_LIES = sizeof set_lies / sizeof set_lies[0] };

static void peer_lies(const char *to, const char *top)
{
    const struct peer_options options = { .handle = lies };
    snprintf(lie.said_to, sizeof lie.said_to, "%s", to);
    atomic_store(&lie.said, 0);
    peer = peer_start(&options);
    client = client_open(at_peer(peer), "timeout = \"500ms\";", top);
}

static void a_lie_is_no_grant_and_ends_the_connection(void **state)
{
    (void)state;
    for (size_t i = 0; i < SET_LIES; i++) {
        belay_lock *lock = NULL;
        lie.bytes = set_lies[i].bytes;
        lie.length = strlen(lie.bytes);
        lie.flood = set_lies[i].flood;
        long before = memory_kb();
        peer_lies("SET", "fencing = false;");
        int64_t start = clock_ms();
        belay_status status = take(client, "job", LONG_MS, BELAY_TRY, &lock, NULL);
        int64_t took = clock_ms() - start;
        if (!is_doubt(status) && status != BELAY_HELD)
            fprintf(stderr, "%s: %s\n", set_lies[i].what, belay_status_name(status));
        assert_true(is_doubt(status) || (status == BELAY_HELD && set_lies[i].bytes[0] == '$') ||
                    (status == BELAY_HELD && set_lies[i].bytes[0] == '*'));
        assert_null(lock);
        assert_true(took < 500 + 300 * until_slow());
        if (until_slow() == 1) assert_true(memory_kb() - before < MEMORY_KB);
        if (!set_lies[i].stays && !until(peer_live(peer) == 0 || peer_connections(peer) > 1)) {
            fprintf(stderr, "%s: the connection lives\n", set_lies[i].what);
            fail();
        }
        must_release(must_take(client, "next", LONG_MS, 5000));
        tidy(NULL);
    }
    lie.flood = 0;
}

/* The scripts' answers: {1, seq, epoch}, {0, ttl, type}. */
static void a_script_s_odd_answer_is_no_grant(void **state)
{
    static const char *const answers[] = {
        ":1\r\n",
        "+OK\r\n",
        "$-1\r\n",
        "*0\r\n",
        "*-1\r\n",
        "*1\r\n:1\r\n",
        "*3\r\n$1\r\n1\r\n$1\r\n5\r\n$1\r\n0\r\n",
        "*3\r\n:1\r\n:-5\r\n:0\r\n",
        "*3\r\n:1\r\n:9223372036854775807\r\n:0\r\n",
        "*3\r\n:1\r\n:5\r\n:9223372036854775807\r\n",
        "*3\r\n:1\r\n*1\r\n:5\r\n:0\r\n",
        "*3\r\n:7\r\n:5\r\n:0\r\n",
        "*3\r\n$-1\r\n$-1\r\n$-1\r\n",
        "*3\r\n:1\r\n$-1\r\n:0\r\n",
    };
    (void)state;
    for (size_t i = 0; i < sizeof answers / sizeof answers[0]; i++) {
        belay_lock *lock = NULL;
        lie.bytes = answers[i];
        lie.length = strlen(lie.bytes);
        peer_lies("EVALSHA", NULL);
        int64_t start = clock_ms();
        belay_status status = take(client, "job", LONG_MS, BELAY_TRY, &lock, NULL);
        if (status == BELAY_OK || (!is_doubt(status) && status != BELAY_REFUSED))
            fprintf(stderr, "answer %zu: %s\n", i, belay_status_name(status));
        assert_true(is_doubt(status) || status == BELAY_REFUSED);
        assert_null(lock);
        assert_true(clock_ms() - start < 500 + 300 * until_slow());
        tidy(NULL);
    }
}

/* A refusal whose numbers make no sense is still a refusal, and ends in time. */
static void a_refusal_with_odd_numbers_is_bounded(void **state)
{
    static const char *const answers[] = {
        "*3\r\n:0\r\n:-7\r\n$6\r\nstring\r\n",
        "*3\r\n:0\r\n:9223372036854775807\r\n$6\r\nstring\r\n",
        "*3\r\n:0\r\n:-9223372036854775808\r\n$6\r\nstring\r\n",
        "*3\r\n:0\r\n:100\r\n:3\r\n",
        "*3\r\n:0\r\n:100\r\n$-1\r\n",
        "*2\r\n:0\r\n:100\r\n",
        "*3\r\n:0\r\n$-1\r\n$-1\r\n",
    };
    (void)state;
    for (size_t i = 0; i < sizeof answers / sizeof answers[0]; i++) {
        lie.bytes = answers[i];
        lie.length = strlen(lie.bytes);
        peer_lies("EVALSHA", NULL);
        int64_t start = clock_ms();
        belay_status status = take(client, "job", LONG_MS, BELAY_TRY, NULL, NULL);
        assert_true(status == BELAY_HELD || is_doubt(status));
        assert_true(clock_ms() - start < 500 + 300 * until_slow());
        tidy(NULL);
    }
}

/* The handshake's answers are no better. */
static void a_greeting_that_lies_is_survived(void **state)
{
    static const char *const names[] = { "INFO", "CLIENT" };
    static const char *const answers[] = {
        "$-1\r\n",
        ":-1\r\n",
        "*0\r\n",
        "$0\r\n\r\n",
        "+\r\n",
        "$9\r\nrun_id:\r\n\r\n",
        "-ERR no\r\n",
        ":9223372036854775807\r\n",
        "$2147483647\r\n",
        "*2147483647\r\n",
        "garbage\r\n",
        "$60\r\nrun_id:0123456789012345678901234567890123456789012345678901\xff\r\n",
    };
    (void)state;
    for (size_t n = 0; n < 2; n++)
        for (size_t i = 0; i < sizeof answers / sizeof answers[0]; i++) {
            lie.bytes = answers[i];
            lie.length = strlen(lie.bytes);
            peer_lies(names[n], "fencing = false;");
            belay_status status = take(client, "job", LONG_MS, BELAY_TRY, NULL, NULL);
            if (status != BELAY_OK && !is_doubt(status) && status != BELAY_REFUSED)
                fprintf(stderr, "%s %zu: %s\n", names[n], i, belay_status_name(status));
            assert_true(status == BELAY_OK || is_doubt(status) || status == BELAY_REFUSED);
            assert_true(until(take(client, "job", LONG_MS, 2000, NULL, NULL) == BELAY_OK));
            tidy(NULL);
        }
}

/* Nothing was asked, and something is said. A kept lock has somebody look at the connection. */
static void a_word_that_nobody_asked_for_ends_the_connection(void **state)
{
    static const char word[] = "+OK\r\n";
    belay_options options = BELAY_OPTIONS_INIT;
    belay_lock *lock = NULL;
    (void)state;
    peer_lies("nothing", "fencing = false;");
    options.ttl_ms = LONG_MS;
    options.wait_ms = BELAY_TRY;
    assert_status(belay_acquire(client, "job", &options, &lock, NULL), BELAY_OK);
    assert_true(peer_say(peer, 0, word, sizeof word - 1));
    assert_true(until(peer_connections(peer) == 2 && peer_live(peer) == 1));
    must_release(lock);
}

/* The server goes in the middle of an answer, politely or not. */
static void a_cut_in_the_middle_of_an_answer_is_a_doubt(void **state)
{
    static const char *const parts[] = {
        "", "+", "+O", "+OK", "+OK\r", "$5\r\nhe", "*3\r\n:1\r\n"
    };
    (void)state;
    for (size_t i = 0; i < 2 * sizeof parts / sizeof parts[0]; i++) {
        belay_lock *lock = NULL;
        lie.bytes = parts[i / 2];
        lie.length = strlen(lie.bytes);
        lie.hang_up = true;
        lie.reset = i % 2 != 0;
        peer_lies("SET", "fencing = false;");
        int64_t start = clock_ms();
        assert_status(take(client, "job", LONG_MS, BELAY_TRY, &lock, NULL), BELAY_UNCERTAIN);
        assert_null(lock);
        assert_true(clock_ms() - start < 500 * until_slow()); /* at once, not when time is up */
        peer_lock(peer);
        lie.hang_up = false;
        peer_unlock(peer);
        must_release(must_take(client, "job", LONG_MS, 5000));
        tidy(NULL);
    }
}

/* ------------------------------------------------------------------ 50: floods */

/* Enough of a server for a waiter that is told of changes. */
static bool tells(void *arg, struct peer_connection *connection, int argc, char **argv)
{
    const char *answer = NULL;
    (void)arg;
    if (strcmp(argv[0], "EVALSHA") == 0 && argc > 5)
        answer = strcmp(argv[3], "belay:held") == 0 ? "*3\r\n:0\r\n:60000\r\n$6\r\nstring\r\n"
                 : strcmp(argv[2], "2") == 0        ? "*3\r\n:1\r\n:7\r\n:0\r\n"
                                                    : ":1\r\n";
    else if (strncmp(argv[0], "EVAL", 4) == 0) answer = ":1\r\n";
    else if (strcmp(argv[0], "PTTL") == 0) answer = ":60000\r\n";
    else if (strcmp(argv[0], "SUBSCRIBE") == 0)
        answer = "*3\r\n$9\r\nsubscribe\r\n$20\r\n__redis__:invalidate\r\n:1\r\n";
    else if (argc > 1 && strcmp(argv[1], "TRACKING") == 0) answer = "+OK\r\n";
    if (answer == NULL) return false;
    peer_reply(connection, answer);
    return true;
}

static atomic_bool flooding;

static void *flood(void *arg)
{
    static const char told[] =
        "*3\r\n$7\r\nmessage\r\n$20\r\n__redis__:invalidate\r\n*1\r\n$5\r\nother\r\n";
    enum { TIMES = 16384 };
    size_t length = sizeof told - 1;
    char *bytes = malloc(TIMES * length);
    for (size_t i = 0; bytes != NULL && i < TIMES; i++) memcpy(bytes + i * length, told, length);
    while (bytes != NULL && atomic_load(&flooding) && peer_say(peer, 1, bytes, TIMES * length)) {}
    free(bytes);
    (void)arg;
    return NULL;
}

/* Faster than it can be read: every read fills the buffer, and there is always more. */
static void a_flood_of_invalidations_holds_nobody_up(void **state)
{
    (void)state;
    const struct peer_options options = { .handle = tells };
    peer = peer_start(&options);
    client = client_open(at_peer(peer), "timeout = \"500ms\";", "close_timeout = \"200ms\";");
    struct caller waiter = { 0 };
    caller_acquire(&waiter, client, "held", LONG_MS, 3000);
    assert_true(requests_await(peer_requests(peer), 1, "SUBSCRIBE *", 1, UNTIL_MS));
    pthread_t thread;
    atomic_store(&flooding, true);
    assert_int_equal(pthread_create(&thread, NULL, flood, NULL), 0);
    int64_t start = clock_ms(), longest = 0;
    while (clock_ms() - start < 1500) {
        int64_t before = clock_ms();
        (void)take(client, "free", LONG_MS, BELAY_TRY, NULL, NULL);
        if (clock_ms() - before > longest) longest = clock_ms() - before;
    }
    assert_status(caller_end(&waiter), BELAY_HELD);
    atomic_store(&flooding, false);
    belay_close(client); /* nobody reads any more: the flood must not wait for that */
    client = NULL;
    pthread_join(thread, NULL);
    assert_true(longest < 1500 * until_slow());
    assert_true(waiter.took_ms < 5000 * until_slow());
}

#define IS(function) cmocka_unit_test_teardown(function, tidy)

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        IS(a_dripped_answer_keeps_to_the_total_time),
        IS(a_dripped_greeting_too),
        IS(a_peer_that_accepts_and_says_nothing_too),
        IS(a_peer_that_never_accepts_too),
        IS(a_lie_is_no_grant_and_ends_the_connection),
        IS(a_script_s_odd_answer_is_no_grant),
        IS(a_refusal_with_odd_numbers_is_bounded),
        IS(a_greeting_that_lies_is_survived),
        IS(a_word_that_nobody_asked_for_ends_the_connection),
        IS(a_cut_in_the_middle_of_an_answer_is_a_doubt),
        IS(a_flood_of_invalidations_holds_nobody_up),
    };
    if (argc > 1) cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL) == 0 ? 0 : 1;
}
