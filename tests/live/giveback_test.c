/* giveback_test.c - nothing is left behind: SEMANTICS 2, a test for each sentence that one
 * connection can show. What is said on the wire is seen by the fake peer, or by the relay before a
 * real server.
 *
 * `fencing = false` makes an acquire a plain SET, which is easily told from the delete. */
#define _GNU_SOURCE
#include "tests/live/client.h"

#define PLAIN "fencing = false;"
#define LONG_MS 60000 /* a TTL that no test outlives */

static struct server server;
static struct peer *peer;
static struct relay *relay;
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
    relay_end(relay);
    relay = NULL;
    peer_end(peer);
    peer = NULL;
    server_thaw(&server);
    server_command(&server, NULL, "FLUSHALL");
    log_clear();
    return 0;
}

static void relay_begin(void)
{
    const struct relay_options options = { .to_port = server.port };
    relay = relay_start(&options);
    assert_non_null(relay);
}

static struct requests *heard(void)
{
    return peer != NULL ? peer_requests(peer) : relay_requests(relay);
}

static bool await(int connection, const char *pattern, size_t count)
{
    bool came = requests_await(heard(), connection, pattern, count, UNTIL_MS);
    if (!came) requests_show(heard());
    return came;
}

/* A give-back is an EVAL of a script that deletes, with one key and the owner. */
static const char *giveback_of(const struct request *request)
{
    bool is = request != NULL && request->argc == 5 && strcmp(request->argv[0], "EVAL") == 0 &&
              strstr(request->argv[1], "DEL") != NULL && strcmp(request->argv[2], "1") == 0;
    return is ? request->argv[4] : "no give-back";
}

/* Where in the order the nth SET of that key stands, on that connection; -1. */
static long set_at(int connection, const char *key, size_t nth)
{
    char pattern[600];
    snprintf(pattern, sizeof pattern, "SET %s *", key);
    return requests_where(heard(), connection, pattern, nth);
}

static const struct request *set_of(int connection, const char *key, size_t nth)
{
    char pattern[600];
    snprintf(pattern, sizeof pattern, "SET %s *", key);
    return requests_nth(heard(), connection, pattern, nth);
}

/* ------------------------------------------------------------------ a peer with a few words */

static struct {
    const char *eval;  /* to a give-back; NULL: ":1" */
    const char *kill;  /* to CLIENT KILL; NULL: ":1" */
    bool other_run_id; /* from the second connection on */
} words;

static bool speaks(void *arg, struct peer_connection *connection, int argc, char **argv)
{
    (void)arg;
    if (strcmp(argv[0], "EVAL") == 0) {
        peer_reply(connection, words.eval != NULL ? words.eval : ":1\r\n");
    } else if (strcmp(argv[0], "CLIENT") == 0 && argc > 2 && strcmp(argv[1], "KILL") == 0) {
        peer_reply(connection, words.kill != NULL ? words.kill : ":1\r\n");
    } else if (strcmp(argv[0], "INFO") == 0 && words.other_run_id && peer_number(connection) > 0) {
        peer_reply_bulk(connection, "redis_version:7.0.15\r\nuptime_in_seconds:5\r\nrole:master\r\n"
                                    "run_id:2222222222222222222222222222222222222222\r\n");
    } else {
        return false;
    }
    return true;
}

static void peer_begin(const struct peer_step *steps, size_t count)
{
    const struct peer_options options = { .handle = speaks };
    memset(&words, 0, sizeof words);
    peer = peer_start(&options);
    assert_non_null(peer);
    if (count > 0) peer_script(peer, 0, steps, count);
}

#define PEER_BEGIN(...)                                                                            \
    static const struct peer_step steps[] = { __VA_ARGS__ };                                       \
    peer_begin(steps, sizeof steps / sizeof steps[0])

static void try_in_doubt(const char *name)
{
    belay_error err = BELAY_ERROR_INIT;
    belay_status status = take(client, name, LONG_MS, BELAY_TRY, NULL, &err);
    if (status != BELAY_UNCERTAIN)
        fprintf(stderr, "%s: %s: %s\n", belay_status_name(status), err.node, err.text);
    assert_status(status, BELAY_UNCERTAIN);
}

/* ------------------------------------------------------------------ owner ids */

static int by_text(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Refused, unanswered, cut off before and after: no two SETs have one owner. */
static void every_attempt_has_an_owner_id_of_its_own(void **state)
{
    char *owners[512];
    const struct request *set;
    size_t count = 0;
    (void)state;
    relay_begin();
    client = client_open(at_relay(relay), "timeout = \"60ms\"; tracking = false;", PLAIN);
    client_ready(client);
    server_command(&server, NULL, "SET belay:job other PX 300");
    must_release(must_take(client, "job", LONG_MS, 10000));
    static const enum relay_trap traps[] = { RELAY_DROP_REPLY, RELAY_CUT_AFTER, RELAY_CUT_BEFORE,
                                             RELAY_HOLD_REQUEST };
    for (size_t i = 0; i < 2 * sizeof traps / sizeof traps[0]; i++) {
        relay_trap(relay, traps[i / 2], "SET");
        must_release(must_take(client, "job", LONG_MS, 10000));
        assert_int_not_equal(relay_trapped(relay, 0), -1);
    }
    for (; (set = set_of(REQUESTS_ANY, "belay:job", count)) != NULL; count++) {
        assert_true(count < sizeof owners / sizeof owners[0]);
        assert_int_equal(strlen(set->argv[2]), BELAY_OWNER_LENGTH);
        owners[count] = set->argv[2];
    }
    assert_true(count > 10);
    qsort(owners, count, sizeof owners[0], by_text);
    for (size_t i = 1; i < count; i++) assert_string_not_equal(owners[i - 1], owners[i]);
}

/* ------------------------------------------------------------------ abandoned attempts */

static void a_compare_and_delete_follows_on_the_same_socket(void **state)
{
    (void)state;
    PEER_BEGIN({ .act = PEER_UNTIL, .text = "SET belay:job *" }, { .act = PEER_SILENT });
    client = client_open(at_peer(peer), "timeout = \"100ms\";", PLAIN);
    client_ready(client);
    try_in_doubt("job");
    assert_true(await(0, "EVAL *", 1));
    const struct request *set = set_of(0, "belay:job", 0);
    const struct request *next = requests_nth(heard(), 0, "EVAL *", 0);
    assert_string_equal(giveback_of(next), set->argv[2]);
    assert_string_equal(next->argv[3], "belay:job");
    size_t before = 0; /* requests of that connection up to and with the SET */
    while (requests_nth(heard(), 0, NULL, before) != set) before++;
    assert_ptr_equal(requests_nth(heard(), 0, NULL, before + 1), next);
}

static void a_cancelled_attempt_is_given_back(void **state)
{
    struct caller caller = { 0 };
    (void)state;
    PEER_BEGIN({ .act = PEER_UNTIL, .text = "SET belay:job *" }, { .act = PEER_SILENT });
    client = client_open(at_peer(peer), "timeout = \"10s\";", PLAIN);
    client_ready(client);
    caller.options.cancel = belay_cancel_new();
    caller_acquire(&caller, client, "job", LONG_MS, BELAY_TRY);
    assert_true(await(0, "SET *", 1));
    belay_cancel_fire(caller.options.cancel);
    assert_status(caller_end(&caller), BELAY_CANCELED);
    belay_cancel_free(caller.options.cancel);
    assert_true(await(0, "EVAL *", 1));
    assert_string_equal(giveback_of(requests_nth(heard(), 0, "EVAL *", 0)),
                        set_of(0, "belay:job", 0)->argv[2]);
}

/* The first server to answer says NOSCRIPT, long after the attempt was abandoned. */
static void an_abandoned_attempt_is_never_sent_again(void **state)
{
    (void)state;
    PEER_BEGIN({ .act = PEER_UNTIL, .text = "EVALSHA *" }, { .act = PEER_WAIT },
               { .act = PEER_SEND, .text = "-NOSCRIPT No matching script.\r\n:0\r\n" });
    client = client_open(at_peer(peer), "timeout = \"100ms\";", NULL);
    client_ready(client);
    try_in_doubt("job");
    assert_true(await(0, "EVAL *", 1));
    const char *owner = requests_nth(heard(), 0, "EVALSHA *", 0)->argv[5];
    assert_string_equal(giveback_of(requests_nth(heard(), 0, "EVAL *", 0)), owner);
    peer_go(peer);
    assert_true(peer_played(peer, 0, UNTIL_MS));
    /* By the time that another attempt is answered the late word has been read. */
    belay_info info = { .size = sizeof info };
    assert_status(belay_inspect(client, "other", &info, NULL), BELAY_OK);
    char again[128];
    snprintf(again, sizeof again, "EVAL *PX* 2 belay:job *%s*", owner);
    assert_int_equal(requests_count(heard(), REQUESTS_ANY, again), 0);
    snprintf(again, sizeof again, "*%s*", owner);
    assert_int_equal(requests_count(heard(), REQUESTS_ANY, again), 2);
}

/* The peer stops reading, so most of what is asked stays in the client's buffer. */
enum { FLOOD = 800 };
static atomic_int flood_uncertain, flood_unavailable, flood_other;

static void flood_answer(void *arg, belay_status status, belay_lock *lock, const belay_error *err)
{
    (void)arg;
    (void)err;
    if (lock != NULL) (void)belay_release(lock, NULL);
    atomic_fetch_add(status == BELAY_UNCERTAIN     ? &flood_uncertain
                     : status == BELAY_UNAVAILABLE ? &flood_unavailable
                                                   : &flood_other,
                     1);
}

static void what_was_not_sent_is_taken_out(void **state)
{
    static const struct peer_step steps[] = {
        { .act = PEER_UNTIL, .text = "SET belay:first *" },
        { .act = PEER_DEAF },
        { .act = PEER_SERVE },
    };
    char path[128], name[BELAY_NAME_MAX + 1];
    struct caller first = { 0 };
    (void)state;
    memset(&words, 0, sizeof words);
    snprintf(path, sizeof path, "%s/peer.sock", server.folder);
    const struct peer_options options = { .handle = speaks, .socket = path };
    peer = peer_start(&options);
    peer_script(peer, 0, steps, sizeof steps / sizeof steps[0]);
    client = client_open(at_peer(peer), "timeout = \"300ms\";", PLAIN);
    client_ready(client);
    caller_acquire(&first, client, "first", LONG_MS, BELAY_TRY);
    assert_true(await(0, "SET belay:first *", 1));
    belay_options lease = BELAY_OPTIONS_INIT;
    lease.wait_ms = BELAY_TRY;
    lease.ttl_ms = LONG_MS;
    lease.keep = BELAY_KEEP_OFF;
    for (int i = 0; i < FLOOD; i++) {
        snprintf(name, sizeof name, "%04d-%0500d", i, 0);
        assert_status(belay_acquire_start(client, name, &lease, flood_answer, NULL, NULL, NULL),
                      BELAY_OK);
    }
    assert_status(caller_end(&first), BELAY_UNCERTAIN);
    assert_true(until(atomic_load(&flood_uncertain) + atomic_load(&flood_unavailable) +
                          atomic_load(&flood_other) ==
                      FLOOD));
    assert_int_equal(atomic_load(&flood_other), 0);
    assert_true(atomic_load(&flood_uncertain) > 0);
    assert_true(atomic_load(&flood_unavailable) > 0);
    peer_go(peer);
    /* Each that left is followed by its delete, the others never come. */
    size_t left = (size_t)atomic_load(&flood_uncertain) + 1;
    assert_true(await(0, "EVAL *", left));
    assert_int_equal(requests_count(heard(), REQUESTS_ANY, "SET *"), left);
    for (size_t i = 0; i < left; i++) {
        const struct request *set = requests_nth(heard(), 0, "SET *", i);
        char delete[BELAY_OWNER_LENGTH + 16];
        snprintf(delete, sizeof delete, "EVAL *%s", set->argv[2]);
        assert_int_equal(requests_count(heard(), 0, delete), 1);
    }
}

/* ------------------------------------------------------------------ stalls */

static void a_stalled_socket_drains_beside_its_replacement(void **state)
{
    (void)state;
    for (int requests_too = 0; requests_too < 2; requests_too++) {
        relay_begin();
        client = client_open(at_relay(relay), "timeout = \"400ms\";", PLAIN);
        client_ready(client);
        relay_trap(relay, requests_too ? RELAY_HOLD_REQUEST : RELAY_HOLD_REPLY, "SET");
        try_in_doubt("one");
        belay_lock *two = must_take(client, "two", LONG_MS, 5000);
        assert_int_equal(relay_connections(relay), 2);
        assert_int_equal(relay_live(relay), 2);
        assert_non_null(set_of(0, "belay:one", 0));
        assert_non_null(set_of(1, "belay:two", 0));
        relay_hold(relay, 0, requests_too ? RELAY_UP : RELAY_DOWN, false);
        assert_true(until(relay_live(relay) == 1)); /* it has all its answers, and is not needed */
        assert_int_equal(server_integer(&server, "EXISTS belay:one"), 0);
        assert_int_equal(requests_count(heard(), REQUESTS_ANY, "CLIENT KILL *"), 0);
        must_release(two);
        tidy(NULL);
    }
}

static void a_late_answer_finds_its_request(void **state)
{
    char name[16], owner[BELAY_OWNER_LENGTH + 1];
    int answered = 0, doubts = 0;
    (void)state;
    relay_begin();
    client = client_open(at_relay(relay), "timeout = \"40ms\";", NULL);
    client_ready(client);
    for (int i = 0; i < 10; i++)
        server_command(&server, NULL, "SET belay:n%d %032d PX 3600000", i, i);
    for (int round = 0; round < 150; round++) {
        belay_info info = { .size = sizeof info };
        int which = round % 10;
        relay_delay(relay, RELAY_DOWN, round % 7 * 9); /* 0 to 54 ms */
        snprintf(name, sizeof name, "n%d", which);
        snprintf(owner, sizeof owner, "%032d", which);
        belay_status status = belay_inspect(client, name, &info, NULL);
        if (status == BELAY_OK) {
            assert_true(info.held);
            assert_string_equal(info.owner, owner);
            answered++;
        } else {
            assert_true(is_doubt(status));
            doubts++;
        }
    }
    assert_true(answered > 20);
    assert_true(doubts > 10);
}

/* ------------------------------------------------------------------ broken connections */

static void a_broken_connection_is_killed_there_before_the_delete(void **state)
{
    (void)state;
    PEER_BEGIN({ .act = PEER_UNTIL, .text = "SET belay:job *" },
               { .act = PEER_EXPECT_IS, .text = "EVAL *" }, { .act = PEER_RESET });
    words.eval = ":0\r\n"; /* "not there": final, for the old connection is dead */
    client = client_open(at_peer(peer), "timeout = \"100ms\";", PLAIN);
    client_ready(client);
    try_in_doubt("job");
    (void)belay_release(must_take(client, "job", LONG_MS, 5000), NULL); /* "not there" as well */
    const char *owner = set_of(0, "belay:job", 0)->argv[2];
    assert_int_equal(requests_count(heard(), 1, "CLIENT KILL ID 100"), 1);
    long kill_at = requests_where(heard(), 1, "CLIENT KILL ID 100", 0);
    long delete_at = requests_where(heard(), 1, "EVAL *", 0);
    assert_string_equal(giveback_of(requests_nth(heard(), 1, "EVAL *", 0)), owner);
    assert_true(kill_at >= 0 && kill_at < delete_at);
    assert_true(delete_at < set_at(1, "belay:job", 0));
    char deletes[BELAY_OWNER_LENGTH + 16];
    snprintf(deletes, sizeof deletes, "EVAL *%s", owner);
    assert_int_equal(requests_count(heard(), 1, deletes), 1);
}

/* It breaks with the request unanswered and no time-out: the attempt itself is in doubt. */
static void a_connection_cut_after_the_request_is_settled_the_same_way(void **state)
{
    (void)state;
    relay_begin();
    client = client_open(at_relay(relay), "timeout = \"2s\";", PLAIN);
    client_ready(client);
    relay_trap(relay, RELAY_CUT_AFTER, "SET");
    try_in_doubt("job");
    assert_true(until(server_lock_keys(&server, "belay:") == 0));
    assert_true(await(1, "CLIENT KILL ID *", 1));
    assert_true(await(1, "EVAL *", 1));
    assert_string_equal(giveback_of(requests_nth(heard(), 1, "EVAL *", 0)),
                        set_of(0, "belay:job", 0)->argv[2]);
}

static void a_request_that_the_cut_outran_can_not_execute_later(void **state)
{
    (void)state;
    /* The server's side of the old connection lives on with a SET in its buffer: frozen. */
    client = client_open(at_server(&server), "timeout = \"100ms\";", PLAIN);
    client_ready(client);
    must_release(must_take(client, "warm", LONG_MS, 1000));
    for (int i = 0; i < 20; i++) {
        server_freeze(&server);
        try_in_doubt("job");
        server_thaw(&server);
        belay_lock *lock = must_take(client, "job", LONG_MS, 5000);
        must_release(lock);
        assert_int_equal(server_lock_keys(&server, "belay:"), 0);
    }
}

/* Repeated until the TTL has run out, as "not there" says nothing about later; and not beyond. */
static void giveback_repeats(int64_t ttl_ms)
{
    belay_error err = BELAY_ERROR_INIT;
    int64_t start = until_now_ms();
    belay_status status = take(client, "job", (uint32_t)ttl_ms, BELAY_TRY, NULL, &err);
    assert_status(status, BELAY_UNCERTAIN);
    char deletes[BELAY_OWNER_LENGTH + 16];
    snprintf(deletes, sizeof deletes, "EVAL *%s", set_of(0, "belay:job", 0)->argv[2]);
    assert_true(await(1, deletes, 3));
    belay_close(client); /* waits while something is owed */
    client = NULL;
    int64_t took = until_now_ms() - start;
    assert_true(took >= ttl_ms);
    assert_true(took < ttl_ms + 2000 * until_slow());
    assert_true(requests_count(heard(), REQUESTS_ANY, deletes) < 30); /* with pauses */
}

static void another_server_is_asked_until_the_ttl_has_run_out(void **state)
{
    (void)state;
    PEER_BEGIN({ .act = PEER_UNTIL, .text = "SET belay:job *" }, { .act = PEER_RESET });
    words.eval = ":0\r\n";
    words.other_run_id = true;
    client = client_open(at_peer(peer), "timeout = \"100ms\";", PLAIN "close_timeout = \"20s\";");
    client_ready(client);
    giveback_repeats(700);
    assert_int_equal(requests_count(heard(), REQUESTS_ANY, "CLIENT KILL *"), 0);
}

static void a_kill_that_is_refused_is_not_relied_upon(void **state)
{
    (void)state;
    PEER_BEGIN({ .act = PEER_UNTIL, .text = "SET belay:job *" }, { .act = PEER_RESET });
    words.eval = ":0\r\n";
    words.kill = "-NOPERM this user has no permissions to run the 'client|kill' command\r\n";
    client = client_open(at_peer(peer), "timeout = \"100ms\";", PLAIN "close_timeout = \"20s\";");
    client_ready(client);
    giveback_repeats(700);
    assert_true(requests_count(heard(), REQUESTS_ANY, "CLIENT KILL *") > 0);
}

static void deleted_is_final_everywhere(void **state)
{
    (void)state;
    PEER_BEGIN({ .act = PEER_UNTIL, .text = "SET belay:job *" }, { .act = PEER_RESET });
    words.eval = ":1\r\n";
    words.other_run_id = true;
    client = client_open(at_peer(peer), "timeout = \"100ms\";", PLAIN);
    client_ready(client);
    try_in_doubt("job");
    must_release(must_take(client, "job", LONG_MS, 5000)); /* not after a minute */
    char deletes[BELAY_OWNER_LENGTH + 16];
    snprintf(deletes, sizeof deletes, "EVAL *%s", set_of(0, "belay:job", 0)->argv[2]);
    assert_int_equal(requests_count(heard(), REQUESTS_ANY, deletes), 1);
}

/* A give-back of its own has to survive another cut. */
static void a_delete_that_was_cut_off_is_sent_again(void **state)
{
    (void)state;
    relay_begin();
    client = client_open(at_relay(relay), "timeout = \"300ms\";", PLAIN);
    client_ready(client);
    for (int i = 0; i < 2; i++) {
        relay_trap(relay, RELAY_CUT_AFTER, "SET");
        try_in_doubt("job");
        relay_trap(relay, i == 0 ? RELAY_CUT_BEFORE : RELAY_CUT_AFTER, "EVAL *");
        assert_true(until(server_lock_keys(&server, "belay:") == 0));
    }
    must_release(must_take(client, "job", LONG_MS, 5000));
}

/* ------------------------------------------------------------------ who comes next */

static void a_new_attempt_for_the_name_waits_behind_the_debt(void **state)
{
    struct caller caller = { 0 };
    (void)state;
    PEER_BEGIN({ .act = PEER_UNTIL, .text = "SET belay:job *" }, { .act = PEER_SILENT });
    words.eval = ":0\r\n";
    client = client_open(at_peer(peer), "timeout = \"200ms\";", PLAIN);
    client_ready(client);
    try_in_doubt("job");
    caller_acquire(&caller, client, "job", LONG_MS, 10000);
    belay_lock *other = must_take(client, "other", LONG_MS, 5000); /* is not held up */
    assert_int_equal(set_at(1, "belay:job", 0), -1);
    assert_status(caller_end(&caller), BELAY_OK);
    /* The first connection said nothing while the second was answered, and was given up. */
    long kill_at = requests_where(heard(), 1, "CLIENT KILL ID 100", 0);
    long delete_at = requests_where(heard(), 1, "EVAL * belay:job *", 0);
    assert_true(kill_at >= 0 && kill_at < delete_at);
    assert_true(delete_at < set_at(1, "belay:job", 0));
    assert_int_equal(requests_count(heard(), 0, "SET belay:job *"), 1);
    (void)belay_release(other, NULL);
    (void)belay_release(caller.lock, NULL);
}

static void a_new_attempt_on_the_same_connection_goes_right_behind(void **state)
{
    struct caller caller = { 0 };
    (void)state;
    PEER_BEGIN({ .act = PEER_UNTIL, .text = "SET belay:job *" }, { .act = PEER_WAIT },
               { .act = PEER_SEND, .text = "+OK\r\n:1\r\n" });
    client = client_open(at_peer(peer), "timeout = \"5s\";", PLAIN);
    client_ready(client);
    struct caller first = { 0 };
    first.options.cancel = belay_cancel_new();
    caller_acquire(&first, client, "job", LONG_MS, BELAY_TRY);
    assert_true(await(0, "SET *", 1));
    belay_cancel_fire(first.options.cancel); /* not a stall: the connection stays in use */
    assert_status(caller_end(&first), BELAY_CANCELED);
    belay_cancel_free(first.options.cancel);
    caller_acquire(&caller, client, "job", LONG_MS, BELAY_TRY);
    assert_true(await(0, "SET belay:job *", 2)); /* before anything was answered */
    assert_true(requests_where(heard(), 0, "EVAL *", 0) < set_at(0, "belay:job", 1));
    static const char granted[] = "+OK\r\n";
    peer_go(peer);
    assert_true(peer_played(peer, 0, UNTIL_MS));
    assert_true(peer_say(peer, 0, granted, sizeof granted - 1));
    assert_status(caller_end(&caller), BELAY_OK);
    assert_string_equal(belay_lock_owner(caller.lock), set_of(0, "belay:job", 1)->argv[2]);
    (void)belay_release(caller.lock, NULL);
}

/* ------------------------------------------------------------------ what cannot be trusted */

static void a_stream_that_cannot_be_trusted_is_never_used_again(void **state)
{
    (void)state;
    PEER_BEGIN({ .act = PEER_UNTIL, .text = "SET belay:job *" },
               { .act = PEER_SEND, .text = "+OK\r\n+OK\r\n" }, { .act = PEER_SILENT });
    client = client_open(at_peer(peer), "timeout = \"1s\";", PLAIN);
    client_ready(client);
    belay_error err = BELAY_ERROR_INIT;
    belay_lock *lock = NULL;
    (void)take(client, "job", LONG_MS, BELAY_TRY, &lock, &err);
    assert_true(until(peer_live(peer) == 0 || peer_connections(peer) > 1));
    must_release(must_take(client, "next", LONG_MS, 5000));
    assert_non_null(set_of(1, "belay:next", 0));
    assert_null(set_of(0, "belay:next", 0));
    if (lock != NULL) (void)belay_release(lock, NULL);
}

/* ------------------------------------------------------------------ closing */

static void run_close(struct caller *caller)
{
    belay_close(caller->client);
}

static void closing_pays_its_debts(void **state)
{
    struct caller caller = { 0 };
    (void)state;
    relay_begin();
    client = client_open(at_relay(relay), "timeout = \"200ms\";", PLAIN "close_timeout = \"10s\";");
    client_ready(client);
    must_release(must_take(client, "warm", LONG_MS, 1000));
    relay_trap(relay, RELAY_HOLD_REQUEST, "SET");
    try_in_doubt("job");
    caller.client = client;
    client = NULL;
    caller_start(&caller, run_close);
    relay_hold(relay, 0, RELAY_UP, false); /* now it executes, and is deleted */
    caller_end(&caller);
    assert_int_equal(server_lock_keys(&server, "belay:"), 0);
    assert_int_equal(requests_count(heard(), REQUESTS_ANY, "SET belay:job *"), 1);
    assert_true(until(relay_live(relay) == 0));
}

static void closing_releases_what_is_held_and_ends_in_time(void **state)
{
    belay_lock *lock;
    (void)state;
    client = client_open(at_server(&server), "timeout = \"200ms\";", "close_timeout = \"300ms\";");
    client_ready(client);
    lock = must_take(client, "job", LONG_MS, 1000);
    belay_close(client);
    client = NULL;
    assert_int_equal(server_lock_keys(&server, "belay:"), 0);
    assert_status(belay_release(lock, NULL), BELAY_CLOSED);

    client = client_open(at_server(&server), "timeout = \"200ms\";", "close_timeout = \"300ms\";");
    client_ready(client);
    lock = must_take(client, "job", LONG_MS, 1000);
    server_freeze(&server);
    int64_t start = until_now_ms();
    belay_close(client);
    client = NULL;
    assert_true(until_now_ms() - start < 1500 * until_slow());
    assert_status(belay_release(lock, NULL), BELAY_CLOSED);
    server_thaw(&server);
    /* It was sent before the client went. */
    assert_true(until(server_lock_keys(&server, "belay:") == 0));
}

/* ------------------------------------------------------------------ all of it at once */

struct storm {
    belay *client;
    atomic_bool ends;
    atomic_int grants, held, doubts, wrong;
};

static void *storm_worker(void *arg)
{
    struct storm *storm = arg;
    unsigned seed = (unsigned)(uintptr_t)&seed;
    while (!atomic_load(&storm->ends)) {
        char name[16];
        snprintf(name, sizeof name, "n%d", rand_r(&seed) % 4);
        belay_lock *lock = NULL;
        belay_status status =
            take(storm->client, name, LONG_MS, rand_r(&seed) % 2 ? BELAY_TRY : 100, &lock, NULL);
        atomic_fetch_add(status == BELAY_OK     ? &storm->grants
                         : status == BELAY_HELD ? &storm->held
                         : is_doubt(status)     ? &storm->doubts
                                                : &storm->wrong,
                         1);
        if (lock != NULL) (void)belay_release(lock, NULL);
    }
    return NULL;
}

/* Held back, delayed, cut, both ways, at random, under eight threads; then at rest. */
static void at_rest_no_key_exists(void **state)
{
    enum { WORKERS = 8, RUNS = 250 };
    struct storm storm = { 0 };
    pthread_t threads[WORKERS];
    unsigned seed = 7;
    (void)state;
    relay_begin();
    storm.client = client = client_open(at_relay(relay), "timeout = \"25ms\";", NULL);
    for (int i = 0; i < WORKERS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, storm_worker, &storm), 0);
    for (int run = 0; run < RUNS; run++) {
        struct timespec moment = { .tv_nsec = (long)(rand_r(&seed) % 20) * 1000000 };
        int what = rand_r(&seed) % 9; /* from 4 on: nothing, but for a cut now and then */
        if (what == 0) relay_hold(relay, RELAY_ALL, RELAY_UP, true);
        if (what == 1) relay_hold(relay, RELAY_ALL, RELAY_DOWN, true);
        if (what == 2) relay_delay(relay, (enum relay_way)(run % 2), 30);
        if (what == 3) relay_trap(relay, (enum relay_trap)(1 + rand_r(&seed) % 5), "SET");
        if (what == 3) relay_trap(relay, (enum relay_trap)(1 + rand_r(&seed) % 2), "EVAL*");
        if (what == 8) relay_cut(relay, RELAY_ALL, run % 2 == 0);
        nanosleep(&moment, NULL);
        relay_hold(relay, RELAY_ALL, RELAY_UP, false);
        relay_hold(relay, RELAY_ALL, RELAY_DOWN, false);
        relay_delay(relay, RELAY_UP, 0);
        relay_delay(relay, RELAY_DOWN, 0);
        moment.tv_nsec = (long)(rand_r(&seed) % 10) * 1000000;
        nanosleep(&moment, NULL);
    }
    relay_trap(relay, RELAY_NO_TRAP, NULL);
    atomic_store(&storm.ends, true);
    for (int i = 0; i < WORKERS; i++) pthread_join(threads[i], NULL);
    assert_true(until_within(5000, server_lock_keys(&server, "belay:") == 0));
    print_message("%d grants, %d held, %d doubts\n", atomic_load(&storm.grants),
                  atomic_load(&storm.held), atomic_load(&storm.doubts));
    assert_int_equal(atomic_load(&storm.wrong), 0);
    assert_true(atomic_load(&storm.grants) > 20);
    assert_true(atomic_load(&storm.doubts) > 10);
    must_release(must_take(client, "n0", LONG_MS, 5000));
    belay_close(client);
    client = NULL;
    assert_int_equal(server_lock_keys(&server, "belay:"), 0);
}

#define IS(function) cmocka_unit_test_teardown(function, tidy)

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        IS(every_attempt_has_an_owner_id_of_its_own),
        IS(a_compare_and_delete_follows_on_the_same_socket),
        IS(a_cancelled_attempt_is_given_back),
        IS(an_abandoned_attempt_is_never_sent_again),
        IS(what_was_not_sent_is_taken_out),
        IS(a_stalled_socket_drains_beside_its_replacement),
        IS(a_late_answer_finds_its_request),
        IS(a_broken_connection_is_killed_there_before_the_delete),
        IS(a_connection_cut_after_the_request_is_settled_the_same_way),
        IS(a_request_that_the_cut_outran_can_not_execute_later),
        IS(another_server_is_asked_until_the_ttl_has_run_out),
        IS(a_kill_that_is_refused_is_not_relied_upon),
        IS(deleted_is_final_everywhere),
        IS(a_delete_that_was_cut_off_is_sent_again),
        IS(a_new_attempt_for_the_name_waits_behind_the_debt),
        IS(a_new_attempt_on_the_same_connection_goes_right_behind),
        IS(a_stream_that_cannot_be_trusted_is_never_used_again),
        IS(closing_pays_its_debts),
        IS(closing_releases_what_is_held_and_ends_in_time),
        IS(at_rest_no_key_exists),
    };
    if (argc > 1) cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, setup, teardown) == 0 ? 0 : 1;
}
