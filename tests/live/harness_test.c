/* harness_test.c - the harness keeps its own promises: servers, the fake peer, the relay. */
#define _GNU_SOURCE
#include "tests/fake/peer.h"
#include "tests/fake/relay.h"
#include "tests/live/server.h"
#include "tests/live/until.h"

#include <errno.h>
#include <hiredis/hiredis.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static struct server server;
static struct peer *peer;
static struct relay *relay;
static redisContext *client;

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
    if (client != NULL) redisFree(client);
    client = NULL;
    relay_end(relay);
    relay = NULL;
    peer_end(peer);
    peer = NULL;
    server_thaw(&server);
    server_command(&server, NULL, "FLUSHALL");
    return 0;
}

/* ------------------------------------------------------------------ a plain client */

static redisContext *client_open(int port)
{
    struct timeval patience = { .tv_sec = 10 };
    redisContext *opened = redisConnectWithTimeout("127.0.0.1", port, patience);
    assert_non_null(opened);
    if (opened->err == 0) redisSetTimeout(opened, patience);
    return opened;
}

/* The next reply: "+OK", ":1", "-ERR ...", "$text", "nil", or "none" when the connection broke. */
static const char *heard(redisContext *from)
{
    static char text[512];
    void *got = NULL;
    if (redisGetReply(from, &got) != REDIS_OK) return "none";
    redisReply *reply = got;
    switch (reply->type) {
    case REDIS_REPLY_INTEGER: snprintf(text, sizeof text, ":%lld", reply->integer); break;
    case REDIS_REPLY_NIL: snprintf(text, sizeof text, "nil"); break;
    case REDIS_REPLY_ERROR: snprintf(text, sizeof text, "-%s", reply->str); break;
    case REDIS_REPLY_STATUS: snprintf(text, sizeof text, "+%s", reply->str); break;
    case REDIS_REPLY_ARRAY: snprintf(text, sizeof text, "*%zu", reply->elements); break;
    default: snprintf(text, sizeof text, "$%s", reply->str);
    }
    freeReplyObject(reply);
    return text;
}

/* What it answers to that. */
static const char *says(redisContext *to, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int done = redisvAppendCommand(to, format, args);
    va_end(args);
    assert_int_equal(done, REDIS_OK);
    return heard(to);
}

static void send_only(redisContext *to, const char *format, ...)
{
    va_list args;
    int done = 0;
    va_start(args, format);
    assert_int_equal(redisvAppendCommand(to, format, args), REDIS_OK);
    va_end(args);
    while (!done) assert_int_equal(redisBufferWrite(to, &done), REDIS_OK);
}

static bool has_reply(redisContext *to, int ms)
{
    struct pollfd at = { .fd = to->fd, .events = POLLIN };
    return poll(&at, 1, ms) == 1;
}

/* ------------------------------------------------------------------ servers */

static void a_server_answers_on_its_port_and_its_socket(void **state)
{
    char text[64];
    (void)state;
    client = client_open(server.port);
    assert_string_equal(says(client, "SET k v"), "+OK");
    assert_string_equal(server_string(&server, text, sizeof text, "GET k"), "v");
    assert_int_equal(server_integer(&server, "DBSIZE"), 1);
    assert_int_equal(server_integer(&server, "PTTL k"), -1);
    assert_int_equal(server_integer(&server, "GET k"), SERVER_NO_INTEGER);
    assert_string_equal(server_info(&server, "role", text, sizeof text), "master");
    assert_int_equal(server_clients(&server), 1);
}

static void lock_keys_are_those_of_the_prefix_without_its_fence(void **state)
{
    (void)state;
    for (int i = 0; i < 300; i++) server_command(&server, NULL, "SET belay:%d x", i);
    server_command(&server, NULL, "SET fence:belay: 0:1");
    server_command(&server, NULL, "SET other:1 x");
    assert_int_equal(server_lock_keys(&server, "belay:"), 300);
    assert_int_equal(server_lock_keys(&server, "other:"), 1);
    assert_int_equal(server_lock_keys(&server, "none:"), 0);
    server_command(&server, NULL, "FLUSHALL");
    server_command(&server, NULL, "SET fence: 0:1");
    server_command(&server, NULL, "SET fence:x 0:1");
    assert_int_equal(server_lock_keys(&server, ""), 1);
}

static void a_frozen_server_says_nothing_until_it_is_thawed(void **state)
{
    (void)state;
    client = client_open(server.port);
    assert_string_equal(says(client, "PING"), "+PONG");
    server_freeze(&server);
    send_only(client, "SET k v");
    assert_false(has_reply(client, 30));
    server_thaw(&server);
    assert_true(has_reply(client, UNTIL_MS));
    assert_int_equal(server_integer(&server, "EXISTS k"), 1);
}

static void a_killed_server_comes_back_on_its_port_empty_or_not(void **state)
{
    struct server persisting;
    const struct server_options options = { .persist = true };
    (void)state;
    assert_true(server_start(&persisting, &options));
    int port = persisting.port;
    server_command(&persisting, NULL, "SET k v");
    server_kill(&persisting);
    client = client_open(port);
    assert_int_not_equal(client->err, 0);
    assert_true(server_restart(&persisting, false));
    assert_int_equal(persisting.port, port);
    assert_int_equal(server_integer(&persisting, "EXISTS k"), 1);
    assert_true(server_restart(&persisting, true));
    assert_int_equal(server_integer(&persisting, "EXISTS k"), 0);
    server_stop(&persisting);
    assert_true(server_restart(&persisting, false));
    char folder[64];
    snprintf(folder, sizeof folder, "%s", persisting.folder);
    server_end(&persisting);
    assert_int_equal(access(folder, F_OK), -1);
    server_end(&persisting);
}

static void passwords_and_users_are_asked_for(void **state)
{
    struct server closed;
    static const char *const users[] = { "app on >secret ~app:* +@all -@dangerous", "nobody off",
                                         NULL };
    const struct server_options options = { .password = "word", .users = users };
    (void)state;
    assert_true(server_start(&closed, &options));
    client = client_open(closed.port);
    assert_memory_equal(says(client, "PING"), "-NOAUTH", 7);
    assert_memory_equal(says(client, "AUTH wrong"), "-WRONGPASS", 10);
    assert_string_equal(says(client, "AUTH word"), "+OK");
    assert_string_equal(says(client, "PING"), "+PONG");
    assert_string_equal(says(client, "AUTH app secret"), "+OK");
    assert_string_equal(says(client, "SET app:1 x"), "+OK");
    assert_memory_equal(says(client, "SET other x"), "-NOPERM", 7);
    assert_int_equal(server_integer(&closed, "DBSIZE"), 1);
    server_end(&closed);
}

static void limits_are_set(void **state)
{
    struct server small;
    char text[64];
    const struct server_options options = {
        .maxmemory = "3mb", .policy = "allkeys-lru", .maxclients = 2, .no_tcp = true
    };
    (void)state;
    assert_true(server_start(&small, &options));
    assert_int_equal(small.port, 0);
    assert_string_equal(server_info(&small, "maxmemory", text, sizeof text), "3145728");
    assert_string_equal(server_info(&small, "maxmemory_policy", text, sizeof text), "allkeys-lru");
    assert_string_equal(server_info(&small, "maxclients", text, sizeof text), "2");
    server_end(&small);
}

static void a_replica_follows(void **state)
{
    struct server replica;
    struct server_reply reply;
    char text[64];
    const struct server_options options = { .replica_of = &server };
    (void)state;
    assert_true(server_start(&replica, &options));
    assert_true(
        until(strcmp(server_info(&replica, "master_link_status", text, sizeof text), "up") == 0));
    server_command(&server, NULL, "SET k v");
    assert_int_equal(server_integer(&server, "WAIT 1 5000"), 1);
    assert_string_equal(server_string(&replica, text, sizeof text, "GET k"), "v");
    assert_int_equal(server_command(&replica, &reply, "SET k w"), SERVER_ERROR);
    assert_memory_equal(reply.text, "READONLY", 8);
    server_end(&replica);
}

static void a_tls_server_shows_the_certificate_that_was_asked_for(void **state)
{
    static const char *const verdicts[] = {
        [CERTIFICATE_SERVER] = "Verify return code: 0 ",
        [CERTIFICATE_EXPIRED] = "certificate has expired",
        [CERTIFICATE_ELSEWHERE] = "IP address mismatch",
        [CERTIFICATE_STRANGER] = "unable to get local issuer",
    };
    (void)state;
    for (int i = 0; i <= CERTIFICATE_STRANGER; i++) {
        struct server secret;
        const struct server_options options = { .tls = true,
                                                .tls_certificate = (enum certificate)i };
        assert_true(server_start(&secret, &options));
        char command[512], output[8192];
        snprintf(command, sizeof command,
                 "LD_PRELOAD= openssl s_client -connect 127.0.0.1:%d -CAfile %s "
                 "-verify_ip 127.0.0.1 </dev/null 2>&1",
                 secret.tls_port, secret.certificates.ca);
        FILE *pipe = popen(command, "re");
        assert_non_null(pipe);
        size_t length = fread(output, 1, sizeof output - 1, pipe);
        output[length] = '\0';
        pclose(pipe);
        assert_non_null(strstr(output, verdicts[i]));
        server_end(&secret);
    }
}

static void a_server_dies_with_the_test(void **state)
{
    int pipes[2];
    pid_t server_pid = 0;
    (void)state;
    assert_int_equal(pipe(pipes), 0);
    fflush(NULL);
    pid_t test = fork();
    if (test == 0) {
        struct server orphan;
        bool up = server_start(&orphan, NULL);
        if (!up || write(pipes[1], &orphan.pid, sizeof orphan.pid) < 0) _exit(1);
        char command[96];
        snprintf(command, sizeof command, "rm -rf %s", orphan.folder);
        _exit(system(command) == 0 ? 0 : 1);
    }
    int status = -1;
    assert_int_equal(read(pipes[0], &server_pid, sizeof server_pid), sizeof server_pid);
    assert_int_equal(waitpid(test, &status, 0), test);
    assert_int_equal(status, 0);
    assert_true(until(kill(server_pid, 0) != 0 && errno == ESRCH));
    close(pipes[0]);
    close(pipes[1]);
}

/* ------------------------------------------------------------------ the fake peer */

static bool answers_set(void *arg, struct peer_connection *connection, int argc, char **argv)
{
    (void)arg;
    if (argc < 2 || strcmp(argv[0], "SET") != 0) return false;
    if (strcmp(argv[1], "held") == 0) peer_reply(connection, "$-1\r\n");
    else if (strcmp(argv[1], "cut") == 0) peer_hang_up(connection, true);
    else peer_reply_bulk(connection, argv[1]);
    return true;
}

static void a_peer_shakes_hands_and_lets_the_test_decide(void **state)
{
    const struct peer_options options = { .handle = answers_set };
    (void)state;
    peer = peer_start(&options);
    assert_non_null(peer);
    client = client_open(peer_port(peer));
    assert_string_equal(says(client, "AUTH x"), "+OK");
    assert_memory_equal(says(client, "HELLO 3"), "-ERR unknown command", 20);
    assert_string_equal(says(client, "CLIENT SETNAME x"), "+OK");
    assert_string_equal(says(client, "CLIENT ID"), ":100");
    assert_string_equal(says(client, "PING"), "+PONG");
    assert_non_null(strstr(says(client, "INFO"), "redis_version:7.0.15"));
    assert_memory_equal(says(client, "EVALSHA x 0"), "-NOSCRIPT", 9);
    assert_string_equal(says(client, "SET held x NX PX 1000"), "nil");
    assert_string_equal(says(client, "SET name x NX PX 1000"), "$name");
    assert_string_equal(says(client, "SET cut x"), "none");
    redisFree(client);
    client = client_open(peer_port(peer));
    assert_string_equal(says(client, "SUBSCRIBE ch"), "*3");
    assert_string_equal(says(client, "PING"), "*2");
    struct requests *seen = peer_requests(peer);
    assert_int_equal(requests_count(seen, 0, "SET"), 3);
    assert_int_equal(requests_count(seen, 1, NULL), 2);
    assert_string_equal(requests_nth(seen, 0, "set held *", 0)->line, "SET held x NX PX 1000");
    assert_int_equal(requests_nth(seen, REQUESTS_ANY, "SET", 0)->argc, 6);
    assert_true(requests_where(seen, REQUESTS_ANY, "AUTH", 0) <
                requests_where(seen, REQUESTS_ANY, "client id", 0));
    assert_int_equal(requests_where(seen, 0, "SUBSCRIBE", 0), -1);
    assert_int_equal(peer_connections(peer), 2);
}

static void a_peer_plays_its_script(void **state)
{
    static const struct peer_step steps[] = {
        { .act = PEER_EXPECT_IS, .text = "SET *" },
        { .act = PEER_DRIP, .text = "+OK\r\n", .ms = 5 },
        { .act = PEER_EXPECT, .count = 2 },
        { .act = PEER_WAIT },
        { .act = PEER_SEND, .text = ":1\r\n:2\r\n" },
        { .act = PEER_SERVE, .count = 1 },
        { .act = PEER_RESET },
    };
    (void)state;
    peer = peer_start(NULL);
    peer_script(peer, 0, steps, sizeof steps / sizeof steps[0]);
    client = client_open(peer_port(peer));
    int64_t start = until_now_ms();
    assert_string_equal(says(client, "SET k v"), "+OK");
    assert_true(until_now_ms() - start >= 20);
    send_only(client, "A");
    send_only(client, "B");
    assert_true(requests_await(peer_requests(peer), 0, "B", 1, UNTIL_MS));
    assert_false(has_reply(client, 20));
    peer_go(peer);
    assert_string_equal(heard(client), ":1");
    assert_string_equal(heard(client), ":2");
    assert_string_equal(says(client, "PING"), "+PONG");
    assert_true(peer_played(peer, 0, UNTIL_MS));
    assert_true(has_reply(client, UNTIL_MS));
    char byte;
    assert_int_equal(recv(client->fd, &byte, 1, 0), -1);
    assert_int_equal(errno, ECONNRESET);
    assert_true(until(peer_live(peer) == 0));
}

static void a_peer_speaks_out_of_turn_hangs_up_and_refuses(void **state)
{
    (void)state;
    peer = peer_start(NULL);
    client = client_open(peer_port(peer));
    assert_string_equal(says(client, "PING"), "+PONG");
    assert_true(peer_say(peer, 0, ":7\r\n", 4));
    assert_false(peer_say(peer, 1, ":7\r\n", 4));
    assert_string_equal(says(client, "PING"), ":7");
    peer_cut(peer, PEER_ALL, false);
    assert_true(until(peer_live(peer) == 0));
    assert_false(peer_say(peer, 0, ":7\r\n", 4));
    redisFree(client);
    peer_refuse(peer, true);
    client = client_open(peer_port(peer));
    assert_int_not_equal(client->err, 0);
    redisFree(client);
    peer_refuse(peer, false);
    client = client_open(peer_port(peer));
    assert_string_equal(says(client, "PING"), "+PONG");
}

/* A connect that neither succeeds nor fails. */
static bool hangs(int port)
{
    struct sockaddr_in at = { .sin_family = AF_INET,
                              .sin_port = htons((uint16_t)port),
                              .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    struct pollfd poll_at = { .fd = fd, .events = POLLOUT };
    bool hung = connect(fd, (struct sockaddr *)&at, sizeof at) < 0 && errno == EINPROGRESS &&
                poll(&poll_at, 1, 50) == 0;
    close(fd);
    return hung;
}

static void a_peer_may_never_accept(void **state)
{
    const struct peer_options options = { .never_accepts = true };
    (void)state;
    peer = peer_start(&options);
    assert_true(hangs(peer_port(peer)));
    peer_end(peer);
    peer = peer_start(NULL);
    assert_false(hangs(peer_port(peer)));
}

/* ------------------------------------------------------------------ the relay */

static void relay_to_server(void)
{
    const struct relay_options options = { .to_port = server.port };
    relay = relay_start(&options);
    assert_non_null(relay);
    client = client_open(relay_port(relay));
    assert_string_equal(says(client, "PING"), "+PONG");
}

static void a_relay_passes_and_counts(void **state)
{
    (void)state;
    relay_to_server();
    for (int i = 0; i < 20; i++) assert_string_equal(says(client, "SET k %d", i), "+OK");
    assert_int_equal(requests_count(relay_requests(relay), 0, "SET"), 20);
    assert_int_equal(requests_count(relay_requests(relay), REQUESTS_ANY, NULL), 21);
    assert_int_equal(relay_connections(relay), 1);
    assert_int_equal(relay_bytes(relay, RELAY_DOWN), 7 + 20 * 5);
    assert_int_equal(relay_live(relay), 1);
    redisFree(client);
    client = NULL;
    assert_true(until(relay_live(relay) == 0));
}

static void a_relay_works_over_unix_sockets(void **state)
{
    char path[128];
    (void)state;
    snprintf(path, sizeof path, "%s/relay.sock", server.folder);
    const struct relay_options options = { .to_socket = server.socket, .socket = path };
    relay = relay_start(&options);
    client = redisConnectUnix(path);
    assert_string_equal(says(client, "PING"), "+PONG");
}

static void a_relay_delays_each_way(void **state)
{
    (void)state;
    relay_to_server();
    for (int way = 0; way < 2; way++) {
        relay_delay(relay, (enum relay_way)way, 40);
        int64_t start = until_now_ms();
        assert_string_equal(says(client, "SET k v"), "+OK");
        assert_true(until_now_ms() - start >= 39);
        relay_delay(relay, (enum relay_way)way, 0);
    }
    relay_delay(relay, RELAY_DOWN, 60);
    send_only(client, "SET late v");
    assert_true(until(server_integer(&server, "EXISTS late") == 1));
}

static void a_relay_holds_each_way(void **state)
{
    (void)state;
    relay_to_server();
    relay_hold(relay, RELAY_ALL, RELAY_UP, true);
    send_only(client, "SET up v");
    assert_true(requests_await(relay_requests(relay), 0, "SET up v", 1, UNTIL_MS));
    assert_int_equal(server_integer(&server, "EXISTS up"), 0);
    relay_hold(relay, RELAY_ALL, RELAY_UP, false);
    assert_string_equal(heard(client), "+OK");
    relay_hold(relay, 0, RELAY_DOWN, true);
    send_only(client, "SET down v");
    assert_true(until(server_integer(&server, "EXISTS down") == 1));
    redisContext *second = client_open(relay_port(relay));
    assert_string_equal(says(second, "PING"), "+PONG");
    redisFree(second);
    assert_false(has_reply(client, 20));
    relay_hold(relay, 0, RELAY_DOWN, false);
    assert_string_equal(heard(client), "+OK");
}

static void a_relay_swallows_replies(void **state)
{
    (void)state;
    relay_to_server();
    relay_drop(relay, RELAY_ALL, RELAY_DOWN, true);
    send_only(client, "SET k v");
    assert_true(until(server_integer(&server, "EXISTS k") == 1));
    assert_false(has_reply(client, 20));
    relay_drop(relay, RELAY_ALL, RELAY_DOWN, false);
    redisFree(client);
    client = client_open(relay_port(relay));
    assert_string_equal(says(client, "GET k"), "$v");
}

static void a_trap_cuts_before_a_request_or_after_it(void **state)
{
    (void)state;
    relay_to_server();
    relay_trap(relay, RELAY_CUT_BEFORE, "SET");
    assert_string_equal(says(client, "GET k"), "nil");
    assert_string_equal(says(client, "SET k v"), "none");
    assert_int_equal(relay_trapped(relay, UNTIL_MS), 0);
    assert_int_equal(server_integer(&server, "EXISTS k"), 0);
    redisFree(client);
    client = client_open(relay_port(relay));
    relay_trap(relay, RELAY_CUT_AFTER, "SET k v");
    send_only(client, "GET k");
    assert_string_equal(says(client, "SET k v"), "nil"); /* the GET's */
    assert_int_equal(relay_trapped(relay, UNTIL_MS), 1);
    assert_string_equal(heard(client), "none");
    assert_int_equal(server_integer(&server, "EXISTS k"), 1);
    redisFree(client);
    client = client_open(relay_port(relay));
    assert_string_equal(says(client, "SET k v"), "+OK"); /* a trap goes off once */
}

static void a_trap_holds_a_request_or_a_reply(void **state)
{
    (void)state;
    relay_to_server();
    relay_trap(relay, RELAY_HOLD_REQUEST, "SET");
    send_only(client, "SET k v");
    assert_int_equal(relay_trapped(relay, UNTIL_MS), 0);
    assert_int_equal(server_integer(&server, "EXISTS k"), 0);
    relay_hold(relay, 0, RELAY_UP, false);
    assert_true(until(server_integer(&server, "EXISTS k") == 1));
    assert_string_equal(heard(client), "+OK");
    assert_string_equal(says(client, "DEL k"), ":1");
    relay_trap(relay, RELAY_HOLD_REPLY, "GET");
    send_only(client, "GET k");
    assert_int_equal(relay_trapped(relay, UNTIL_MS), 0);
    assert_false(has_reply(client, 20));
    redisContext *second = client_open(relay_port(relay));
    assert_string_equal(says(second, "PING"), "+PONG");
    redisFree(second);
    relay_trap(relay, RELAY_REFUSE_AFTER, "SET");
    second = client_open(relay_port(relay));
    assert_string_equal(says(second, "SET k w"), "none");
    redisFree(second);
    second = client_open(relay_port(relay));
    assert_int_not_equal(second->err, 0);
    redisFree(second);
    assert_int_equal(server_integer(&server, "EXISTS k"), 1);
}

static void a_relay_cuts_and_refuses(void **state)
{
    (void)state;
    relay_to_server();
    relay_cut(relay, RELAY_ALL, true);
    assert_string_equal(says(client, "PING"), "none");
    redisFree(client);
    relay_refuse(relay, true);
    client = client_open(relay_port(relay));
    assert_int_not_equal(client->err, 0);
    redisFree(client);
    relay_refuse(relay, false);
    client = client_open(relay_port(relay));
    assert_string_equal(says(client, "PING"), "+PONG");
    assert_int_equal(relay_connections(relay), 2);
}

/* ------------------------------------------------------------------ requests */

static void requests_and_replies_are_told_apart_byte_by_byte(void **state)
{
    static const char request[] = "*2\r\n$3\r\nGET\r\n$3\r\na\0b\r\n";
    static const char reply[] = "*3\r\n$2\r\nab\r\n*2\r\n:1\r\n$-1\r\n-E x\r\n";
    struct request *parsed;
    (void)state;
    for (size_t i = 0; i < sizeof request - 1; i++) {
        char part[64];
        memcpy(part, request, sizeof request);
        part[i] = '\0';
        assert_int_equal(request_parse(part, i, &parsed), 0);
    }
    assert_int_equal(request_parse(request, sizeof request - 1, &parsed), sizeof request - 1);
    assert_int_equal(parsed->argc, 2);
    assert_int_equal(parsed->lengths[1], 3);
    assert_memory_equal(parsed->argv[1], "a\0b", 4);
    assert_true(request_is(parsed, "get"));
    assert_false(request_is(parsed, "ge"));
    assert_true(request_is(parsed, "GET a*"));
    request_free(parsed);
    assert_int_equal(request_parse("PING\r\n", 6, &parsed), -1);
    for (size_t i = 0; i < sizeof reply - 1; i++) assert_int_equal(reply_length(reply, i), 0);
    assert_int_equal(reply_length(reply, sizeof reply - 1), sizeof reply - 1);
    assert_int_equal(reply_length("x", 1), -1);
}

#define IS(function) cmocka_unit_test_teardown(function, tidy)

int main(void)
{
    const struct CMUnitTest tests[] = {
        IS(a_server_answers_on_its_port_and_its_socket),
        IS(lock_keys_are_those_of_the_prefix_without_its_fence),
        IS(a_frozen_server_says_nothing_until_it_is_thawed),
        IS(a_killed_server_comes_back_on_its_port_empty_or_not),
        IS(passwords_and_users_are_asked_for),
        IS(limits_are_set),
        IS(a_replica_follows),
        IS(a_tls_server_shows_the_certificate_that_was_asked_for),
        IS(a_server_dies_with_the_test),
        IS(a_peer_shakes_hands_and_lets_the_test_decide),
        IS(a_peer_plays_its_script),
        IS(a_peer_speaks_out_of_turn_hangs_up_and_refuses),
        IS(a_peer_may_never_accept),
        IS(a_relay_passes_and_counts),
        IS(a_relay_works_over_unix_sockets),
        IS(a_relay_delays_each_way),
        IS(a_relay_holds_each_way),
        IS(a_relay_swallows_replies),
        IS(a_trap_cuts_before_a_request_or_after_it),
        IS(a_trap_holds_a_request_or_a_reply),
        IS(a_relay_cuts_and_refuses),
        IS(requests_and_replies_are_told_apart_byte_by_byte),
    };
    return cmocka_run_group_tests(tests, setup, teardown) == 0 ? 0 : 1;
}
