/* words_test.c - what a server says instead of doing it: FAULTS rows 16 and 17. By the fake peer,
 * which can say anything, and by real servers in the state that makes them say it. */
#define _GNU_SOURCE
#include "tests/live/client.h"

#include <hiredis/hiredis.h>

#define LONG_MS 60000
#define PLAIN "fencing = false;"

static struct server server, second;
static struct peer *peer;
static belay *client;
static redisContext *stranger; /* somebody else's connection */

static int tidy(void **state)
{
    (void)state;
    belay_close(client);
    client = NULL;
    peer_end(peer);
    peer = NULL;
    if (stranger != NULL) redisFree(stranger);
    stranger = NULL;
    server_end(&server);
    server_end(&second);
    log_clear();
    return 0;
}

/* ------------------------------------------------------------------ a peer with a word */

static struct {
    char word[300];
    atomic_int left;  /* how often it is said yet; -1: always */
    atomic_int asked; /* requests it was said, or could have been said, to */
} saying;

static bool says(void *arg, struct peer_connection *connection, int argc, char **argv)
{
    (void)arg;
    (void)argc;
    bool write = strcmp(argv[0], "SET") == 0 || strncmp(argv[0], "EVAL", 4) == 0;
    if (!write) return false;
    atomic_fetch_add(&saying.asked, 1);
    int left = atomic_load(&saying.left);
    if (left > 0) atomic_store(&saying.left, left - 1);
    if (left != 0) peer_reply(connection, saying.word);
    else peer_reply(connection, strcmp(argv[0], "SET") == 0 ? "+OK\r\n" : ":1\r\n");
    return true;
}

static void say(const char *word, int times)
{
    peer_lock(peer);
    snprintf(saying.word, sizeof saying.word, "-%s\r\n", word);
    atomic_store(&saying.asked, 0);
    atomic_store(&saying.left, times);
    peer_unlock(peer);
}

static void peer_begin(const char *more)
{
    const struct peer_options options = { .handle = says };
    peer = peer_start(&options);
    assert_non_null(peer);
    say("", 0);
    client = client_open(at_peer(peer), more, PLAIN);
    client_ready(client);
}

/* Each with what must be in the error's text. */
static const struct {
    const char *word, *told;
} later[] = {
    { "READONLY You can't write against a read only replica.", "READONLY" },
    { "READONLY You can't write against a read only replica. script: 3c9c9e, on @user_script:2.",
      "READONLY" },
    { "LOADING Redis is loading the dataset in memory", "LOADING" },
    { "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
      "MASTERDOWN" },
    { "CLUSTERDOWN The cluster is down", "CLUSTERDOWN" },
    { "TRYAGAIN Multiple keys request during rehashing of slot", "TRYAGAIN" },
    { "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.",
      "BUSY" },
    { "NOREPLICAS Not enough good replicas to write.", "NOREPLICAS" },
    { "OOM command not allowed when used memory > 'maxmemory'.", "OOM" },
    { "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist",
      "MISCONF" },
    { "ERR max number of clients reached", "max number of clients" },
    /* As servers before 7 told what a script met. */
    { "ERR Error running script (call to f_3c9c9e): @user_script:2: @user_script: 2: -OOM command "
      "not allowed when used memory > 'maxmemory'.",
      "OOM" },
    { "ERR Error running script (call to f_3c9c9e): @user_script:2: @user_script: 2: -MISCONF "
      "Redis "
      "is configured to save RDB snapshots",
      "MISCONF" },
    { "ERR Error running script (call to f_3c9c9e): @user_script:2: -READONLY You can't write "
      "against a read only replica.",
      "READONLY" },
};
enum { LATER = sizeof later / sizeof later[0] };

/* The word; or time was up while the same was asked once more. */
static void assert_told(belay_status status, const belay_error *err, const char *word)
{
    bool at_the_end = strncmp(err->text, "no answer in time", 17) == 0;
    if (strstr(err->text, word) == NULL && !at_the_end)
        fprintf(stderr, "%s: it says: %s\n", word, err->text);
    assert_true(strstr(err->text, word) != NULL || at_the_end);
    assert_true(status == BELAY_UNAVAILABLE || (status == BELAY_UNCERTAIN && at_the_end));
}

static void a_word_for_the_moment_is_asked_again(void **state)
{
    (void)state;
    peer_begin("timeout = \"2s\";");
    for (size_t i = 0; i < LATER; i++) {
        say(later[i].word, 2);
        belay_lock *lock = must_take(client, "job", LONG_MS, BELAY_TRY);
        assert_int_equal(atomic_load(&saying.asked), 3);
        say(later[i].word, 2);
        assert_status(belay_extend(lock, LONG_MS, NULL), BELAY_OK);
        assert_int_equal(atomic_load(&saying.asked), 3);
        say(later[i].word, 2);
        must_release(lock);
        assert_int_equal(atomic_load(&saying.asked), 3);
    }
    assert_int_equal(peer_connections(peer), 1);
}

static void a_word_that_stays_is_unavailable_and_told(void **state)
{
    (void)state;
    peer_begin("timeout = \"200ms\";");
    must_release(must_take(client, "warm", LONG_MS, BELAY_TRY));
    for (size_t i = 0; i < LATER; i++) {
        belay_error err = BELAY_ERROR_INIT;
        say(later[i].word, -1);
        int64_t start = clock_ms();
        belay_status status = take(client, "job", LONG_MS, BELAY_TRY, NULL, &err);
        int64_t took = clock_ms() - start;
        assert_told(status, &err, later[i].told);
        if (strstr(err.text, "user_script") != NULL) fprintf(stderr, "it says: %s\n", err.text);
        assert_null(strstr(err.text, "user_script"));
        assert_true(strncmp(err.node, "redis 127.0.0.1:", 16) == 0);
        assert_true(took >= 150 && took < 200 + 150 * until_slow());
        int asked = atomic_load(&saying.asked);
        assert_true(asked >= 3 && asked <= 40); /* again, and not in a hurry */
    }
}

/* A held lock under each word: the old deadline stands, and a release goes on by itself. */
static void extend_and_release_outlive_the_word(void **state)
{
    (void)state;
    peer_begin("timeout = \"100ms\";");
    for (size_t i = 0; i < LATER; i++) {
        belay_error err = BELAY_ERROR_INIT;
        say("", 0);
        belay_lock *lock = must_take(client, "job", LONG_MS, BELAY_TRY);
        say(later[i].word, -1);
        belay_status status = belay_extend(lock, LONG_MS, &err);
        assert_told(status, &err, later[i].told);
        assert_true(belay_lock_valid(lock, LONG_MS / 2));
        status = belay_release(lock, &err);
        assert_told(status, &err, later[i].told);
        say("", 0);
        assert_true(until(atomic_load(&saying.asked) > 0)); /* nobody calls, and it is released */
        say("", 0);
        must_release(must_take(client, "next", LONG_MS, BELAY_TRY));
    }
}

static const struct {
    const char *word, *told;
} never[] = {
    { "NOAUTH Authentication required.", "NOAUTH" },
    { "WRONGPASS invalid username-password pair or user is disabled.", "WRONGPASS" },
    { "NOPERM this user has no permissions to run the 'set' command", "NOPERM" },
    { "NOPERM this user has no permissions to access one of the keys used as arguments", "NOPERM" },
    { "ERR The user executing the script can't run this command or subcommand script: 3c9c9e, on "
      "@user_script:1.",
      "can't run this command" },
};

static void a_refusal_is_told_at_once(void **state)
{
    (void)state;
    peer_begin("timeout = \"3s\";");
    for (size_t i = 0; i < sizeof never / sizeof never[0]; i++) {
        belay_error err = BELAY_ERROR_INIT;
        say(never[i].word, -1);
        int64_t start = clock_ms();
        /* Also of a caller who would wait: it will be no different. */
        belay_status status =
            take(client, "job", LONG_MS, i % 2 == 0 ? BELAY_TRY : 10000, NULL, &err);
        if (status != BELAY_REFUSED) fprintf(stderr, "%s: %s\n", never[i].word, err.text);
        assert_status(status, BELAY_REFUSED);
        assert_non_null(strstr(err.text, never[i].told));
        assert_true(clock_ms() - start < 500 * until_slow());
        assert_true(atomic_load(&saying.asked) <= 2);
    }
}

static void an_unknown_word_is_no_grant(void **state)
{
    static const char *const words[] = { "ERR something new", "", "UNHEARDOF of", "err", "OK" };
    (void)state;
    peer_begin("timeout = \"100ms\";");
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
        belay_error err = BELAY_ERROR_INIT;
        say(words[i], -1);
        belay_status status = take(client, "job", LONG_MS, BELAY_TRY, NULL, &err);
        assert_true(is_doubt(status) || status == BELAY_REFUSED);
        assert_true(err.text[0] != '\0');
    }
}

/* ------------------------------------------------------------------ real ones: for the moment */

static void begin(const struct server_options *options, const char *more)
{
    assert_true(server_start(&server, options));
    client = client_open(at_server(&server), more, NULL);
}

static void unavailable(const char *word)
{
    belay_error err = BELAY_ERROR_INIT;
    int64_t start = clock_ms();
    belay_status status = take(client, "job", LONG_MS, BELAY_TRY, NULL, &err);
    assert_told(status, &err, word);
    assert_true(clock_ms() - start < 1000 * until_slow());
}

static void a_full_server_takes_no_lock_and_lets_go_of_all(void **state)
{
    (void)state;
    begin(NULL, "timeout = \"200ms\";");
    belay_lock *lock = must_take(client, "held", LONG_MS, BELAY_TRY);
    server_command(&server, NULL, "CONFIG SET maxmemory 1");
    unavailable("OOM");
    assert_status(belay_extend(lock, 2 * LONG_MS, NULL), BELAY_OK);
    must_release(lock);
    server_command(&server, NULL, "CONFIG SET maxmemory 0");
    must_release(must_take(client, "job", LONG_MS, BELAY_TRY));
    assert_int_equal(server_lock_keys(&server, "belay:"), 0);
}

static void a_master_without_its_replicas_is_unavailable(void **state)
{
    (void)state;
    begin(NULL, "timeout = \"200ms\";");
    belay_lock *lock = must_take(client, "held", LONG_MS, BELAY_TRY);
    server_command(&server, NULL, "CONFIG SET min-replicas-to-write 1");
    unavailable("NOREPLICAS");
    assert_true(is_doubt(belay_extend(lock, 2 * LONG_MS, NULL)));
    assert_true(belay_lock_valid(lock, LONG_MS / 2));
    assert_true(is_doubt(belay_release(lock, NULL)));
    server_command(&server, NULL, "CONFIG SET min-replicas-to-write 0");
    assert_true(until_within(5000, server_lock_keys(&server, "belay:") == 0));
    must_release(must_take(client, "job", LONG_MS, BELAY_TRY));
}

static void a_replica_is_read_only_until_it_is_promoted(void **state)
{
    (void)state;
    assert_true(server_start(&second, NULL));
    const struct server_options options = { .replica_of = &second };
    begin(&options, "timeout = \"200ms\";");
    char text[16];
    assert_true(
        until(strcmp(server_info(&server, "master_link_status", text, sizeof text), "up") == 0));
    unavailable("READONLY");
    server_command(&server, NULL, "REPLICAOF NO ONE");
    must_release(must_take(client, "job", LONG_MS, BELAY_TRY));
}

static void a_replica_without_its_master_says_so(void **state)
{
    (void)state;
    assert_true(server_start(&second, NULL));
    const struct server_options options = { .replica_of = &second,
                                            .extra = "replica-serve-stale-data no" };
    begin(&options, "timeout = \"200ms\";");
    char text[16];
    assert_true(
        until(strcmp(server_info(&server, "master_link_status", text, sizeof text), "up") == 0));
    server_kill(&second);
    assert_true(
        until(strcmp(server_info(&server, "master_link_status", text, sizeof text), "down") == 0));
    unavailable("MASTERDOWN");
    server_command(&server, NULL, "REPLICAOF NO ONE");
    must_release(must_take(client, "job", LONG_MS, BELAY_TRY));
}

static void stranger_connect(void)
{
    struct timeval patience = { .tv_sec = 20 };
    stranger = redisConnectUnix(server.socket);
    assert_non_null(stranger);
    assert_int_equal(stranger->err, 0);
    redisSetTimeout(stranger, patience);
}

static void a_server_that_runs_a_long_script_is_busy(void **state)
{
    const struct server_options options = { .extra = "busy-reply-threshold 20" };
    struct caller caller = { 0 };
    struct server_reply reply;
    int done = 0;
    (void)state;
    begin(&options, "timeout = \"300ms\";");
    must_release(must_take(client, "job", LONG_MS, BELAY_TRY));
    stranger_connect();
    redisAppendCommand(stranger, "EVAL %s 0", "while true do end");
    while (!done) assert_int_equal(redisBufferWrite(stranger, &done), REDIS_OK);
    assert_true(until(server_command(&server, &reply, "PING") == SERVER_ERROR));
    unavailable("BUSY");
    caller_acquire(&caller, client, "job", LONG_MS, 20000);
    assert_int_equal(server_command(&server, &reply, "SCRIPT KILL"), SERVER_STRING);
    assert_status(caller_end(&caller), BELAY_OK); /* it waited */
    must_release(caller.lock);
}

static void a_server_with_too_many_clients_lets_nobody_in_for_the_moment(void **state)
{
    const struct server_options options = { .maxclients = 2 };
    struct caller caller = { 0 };
    (void)state;
    begin(&options, "timeout = \"300ms\";");
    stranger_connect();
    redisReply *reply = redisCommand(stranger, "PING");
    assert_non_null(reply);
    freeReplyObject(reply);
    unavailable("max number of clients");
    caller_acquire(&caller, client, "job", LONG_MS, 20000);
    redisFree(stranger);
    stranger = NULL;
    assert_status(caller_end(&caller), BELAY_OK);
    must_release(caller.lock);
}

/* ------------------------------------------------------------------ real ones: never */

#define SECRET "a-secret-word"

static void refused(const char *at, const char *more, const char *word)
{
    char settings[256];
    belay_error err = BELAY_ERROR_INIT;
    snprintf(settings, sizeof settings, "timeout = \"3s\"; %s", more);
    client = client_open(at, settings, NULL);
    int64_t start = clock_ms();
    belay_status status = take(client, "job", LONG_MS, 10000, NULL, &err);
    if (status != BELAY_REFUSED) fprintf(stderr, "%s: %s\n", more, err.text);
    assert_status(status, BELAY_REFUSED);
    assert_true(clock_ms() - start < 1000 * until_slow());
    if (strstr(err.text, word) == NULL) fprintf(stderr, "%s: it says: %s\n", more, err.text);
    assert_non_null(strstr(err.text, word));
    assert_null(strstr(err.text, SECRET));
    assert_false(log_has(SECRET));
    belay_close(client);
    client = NULL;
}

static void allowed(const char *at, const char *more)
{
    client = client_open(at, more, NULL);
    belay_lock *lock = must_take(client, "job", LONG_MS, 5000);
    assert_status(belay_extend(lock, LONG_MS, NULL), BELAY_OK);
    must_release(lock);
    belay_close(client);
    client = NULL;
}

static void a_password_is_needed_and_must_be_right(void **state)
{
    const struct server_options options = { .password = SECRET };
    (void)state;
    assert_true(server_start(&server, &options));
    refused(at_server(&server), "", "NOAUTH");
    refused(at_server(&server), "password = \"" SECRET "x\";", "WRONGPASS");
    refused(at_server(&server), "user = \"nobody\"; password = \"" SECRET "\";", "WRONGPASS");
    allowed(at_server(&server), "password = \"" SECRET "\";");
    allowed(at_server(&server), "user = \"default\"; password = \"" SECRET "\";");
}

/* What belay needs, and no more; then each thing that it can't do without. */
static void a_user_needs_what_the_documentation_says(void **state)
{
    static const char *const users[] = {
        "default off",
        "enough on >" SECRET " ~belay:* ~fence:belay:* +set +get +del +type +pttl +pexpire +eval "
        "+evalsha",
        "tracked on >" SECRET " ~belay:* ~fence:belay:* &__redis__:invalidate +set +get +del +type "
        "+pttl +pexpire +eval +evalsha +client +info +subscribe +ping -script",
        "nokeys on >" SECRET " ~other:* +@all",
        "noset on >" SECRET " ~* +@all -set",
        "noeval on >" SECRET " ~* +@all -eval -evalsha",
        NULL
    };
    const struct server_options options = { .users = users };
    (void)state;
    assert_true(server_start(&server, &options));
    allowed(at_server(&server), "user = \"enough\"; password = \"" SECRET "\";");
    allowed(at_server(&server), "user = \"tracked\"; password = \"" SECRET "\";");
    refused(at_server(&server), "user = \"nokeys\"; password = \"" SECRET "\";", "NOPERM");
    refused(at_server(&server), "user = \"noset\"; password = \"" SECRET "\";", "");
    refused(at_server(&server), "user = \"noeval\"; password = \"" SECRET "\";", "NOPERM");
    refused(at_server(&server), "", "NOAUTH");
}

static void a_right_that_is_given_later_needs_no_reopening(void **state)
{
    static const char *const users[] = { "app on >" SECRET " ~other:* +@all", NULL };
    const struct server_options options = { .users = users };
    (void)state;
    assert_true(server_start(&server, &options));
    client = client_open(at_server(&server), "user = \"app\"; password = \"" SECRET "\";", NULL);
    assert_status(take(client, "job", LONG_MS, 5000, NULL, NULL), BELAY_REFUSED);
    server_command(&server, NULL, "ACL SETUSER app ~*");
    must_release(must_take(client, "job", LONG_MS, 5000));
    /* And one whose password is wrong for a while. */
    server_command(&server, NULL, "ACL SETUSER app resetpass >another");
    server_command(&server, NULL, "CLIENT KILL USER app");
    assert_true(until(take(client, "job", LONG_MS, BELAY_TRY, NULL, NULL) == BELAY_REFUSED));
    server_command(&server, NULL, "ACL SETUSER app resetpass >" SECRET);
    assert_true(
        until_within(5000, take(client, "job", LONG_MS, BELAY_TRY, NULL, NULL) == BELAY_OK));
    assert_int_equal(server_lock_keys(&server, "belay:"), 0);
}

/* Waiters of a user who may not use tracking poll, and get it all the same. */
static void a_user_without_tracking_waits_by_polling(void **state)
{
    static const char *const users[] = {
        "bare on >" SECRET " ~belay:* ~fence:belay:* +set +get +del +type +pttl +pexpire +eval "
        "+evalsha",
        NULL
    };
    const struct server_options options = { .users = users };
    struct caller caller = { 0 };
    (void)state;
    assert_true(server_start(&server, &options));
    client = client_open(at_server(&server), "user = \"bare\"; password = \"" SECRET "\";", NULL);
    belay *rival = client_open(at_server(&server), NULL, NULL);
    belay_lock *lock = must_take(rival, "job", LONG_MS, BELAY_TRY);
    long before = server_calls(&server, "evalsha");
    caller_acquire(&caller, client, "job", LONG_MS, 20000);
    assert_true(until(server_calls(&server, "evalsha") >= before + 4)); /* it asks again */
    int64_t start = clock_ms();
    must_release(lock);
    assert_status(caller_end(&caller), BELAY_OK);
    assert_true(clock_ms() - start < 600 * until_slow());
    must_release(caller.lock);
    belay_close(rival);
}

static void a_database_that_is_not_there_is_refused(void **state)
{
    const struct server_options options = { .extra = "databases 4" };
    (void)state;
    assert_true(server_start(&server, &options));
    refused(at_server(&server), "db = 9;", "DB index");
    allowed(at_server(&server), "db = 3;");
    client = client_open(at_server(&server), "db = 3;", NULL);
    belay_lock *lock = must_take(client, "job", LONG_MS, BELAY_TRY);
    assert_int_equal(server_lock_keys(&server, "belay:"), 0); /* not in database 0 */
    must_release(lock);
}

#define IS(function) cmocka_unit_test_teardown(function, tidy)

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        IS(a_word_for_the_moment_is_asked_again),
        IS(a_word_that_stays_is_unavailable_and_told),
        IS(extend_and_release_outlive_the_word),
        IS(a_refusal_is_told_at_once),
        IS(an_unknown_word_is_no_grant),
        IS(a_full_server_takes_no_lock_and_lets_go_of_all),
        IS(a_master_without_its_replicas_is_unavailable),
        IS(a_replica_is_read_only_until_it_is_promoted),
        IS(a_replica_without_its_master_says_so),
        IS(a_server_that_runs_a_long_script_is_busy),
        IS(a_server_with_too_many_clients_lets_nobody_in_for_the_moment),
        IS(a_password_is_needed_and_must_be_right),
        IS(a_user_needs_what_the_documentation_says),
        IS(a_right_that_is_given_later_needs_no_reopening),
        IS(a_user_without_tracking_waits_by_polling),
        IS(a_database_that_is_not_there_is_refused),
    };
    if (argc > 1) cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL) == 0 ? 0 : 1;
}
