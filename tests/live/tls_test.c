/* tls_test.c - TLS that is right, and TLS that is wrong: FAULTS row 57. Refused with the reason,
 * never in plaintext, and nobody spins. */
#define _GNU_SOURCE
#include "tests/live/client.h"

#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

#define LONG_MS 60000

static struct server server;
static struct relay *relay;
static belay *client;

static int tidy(void **state)
{
    (void)state;
    belay_close(client);
    client = NULL;
    relay_end(relay);
    relay = NULL;
    server_end(&server);
    log_clear();
    return 0;
}

static void begin(enum certificate certificate, bool clients_too)
{
    const struct server_options options = { .tls = true,
                                            .tls_certificate = certificate,
                                            .tls_clients = clients_too };
    assert_true(server_start(&server, &options));
}

static belay *open_at(const char *host, int port, const char *tls)
{
    char at[700];
    snprintf(at, sizeof at, "host = \"%s\"; port = %d; tls: { ca = \"%s\"; %s };", host, port,
             server.certificates.ca, tls);
    client = client_open(at, "timeout = \"2s\";", "close_timeout = \"200ms\";");
    return client;
}

static void works(const char *host, const char *tls)
{
    open_at(host, server.tls_port, tls);
    belay_lock *lock = must_take(client, "job", LONG_MS, 5000);
    assert_status(belay_extend(lock, LONG_MS, NULL), BELAY_OK);
    must_release(lock);
    belay_close(client);
    client = NULL;
}

/* Refused at once, also for who would wait; the reason is told, and nothing was sent in plaintext.
 */
static void refused(belay *by, const char *reason)
{
    belay_error err = BELAY_ERROR_INIT;
    int64_t start = clock_ms(), cpu = cpu_ms();
    belay_status status = take(by, "job", LONG_MS, 10000, NULL, &err);
    if (status != BELAY_REFUSED || strstr(err.text, reason) == NULL)
        fprintf(stderr, "wanted \"%s\", came %s: %s\n", reason, belay_status_name(status),
                err.text);
    assert_status(status, BELAY_REFUSED);
    assert_non_null(strstr(err.text, reason));
    assert_true(clock_ms() - start < 1000 * until_slow());
    assert_true(cpu_ms() - cpu < 300 * until_slow());
}

static void a_good_certificate_is_taken_by_name_and_by_address(void **state)
{
    (void)state;
    begin(CERTIFICATE_SERVER, false);
    works("127.0.0.1", "");
    works("localhost", "");
    works("127.0.0.1", "server_name = \"localhost\";");
    client = NULL;
    belay_error err = BELAY_ERROR_INIT;
    assert_status(belay_open(&client, server.tls_url, NULL, &err), BELAY_OK);
    must_release(must_take(client, "job", LONG_MS, 5000));
    assert_int_equal(server_lock_keys(&server, "belay:"), 0);
}

static void a_client_certificate_is_shown(void **state)
{
    char tls[512];
    (void)state;
    begin(CERTIFICATE_SERVER, true);
    snprintf(tls, sizeof tls, "cert = \"%s\"; key = \"%s\";",
             server.certificates.cert[CERTIFICATE_CLIENT],
             server.certificates.key[CERTIFICATE_CLIENT]);
    works("127.0.0.1", tls);
    /* Without it, or with one of another authority: the server will not have us. */
    open_at("127.0.0.1", server.tls_port, "");
    refused(client, "certificate");
    belay_close(client);
    snprintf(tls, sizeof tls, "cert = \"%s\"; key = \"%s\";",
             server.certificates.cert[CERTIFICATE_STRANGER],
             server.certificates.key[CERTIFICATE_STRANGER]);
    open_at("127.0.0.1", server.tls_port, tls);
    refused(client, "");
}

static void a_certificate_of_another_authority_is_refused(void **state)
{
    (void)state;
    begin(CERTIFICATE_STRANGER, false);
    open_at("127.0.0.1", server.tls_port, "");
    refused(client, "certificate");
    assert_int_equal(server_lock_keys(&server, "belay:"), 0);
}

static void a_certificate_for_elsewhere_is_refused(void **state)
{
    (void)state;
    begin(CERTIFICATE_ELSEWHERE, false);
    open_at("127.0.0.1", server.tls_port, "");
    refused(client, "127.0.0.1");
    belay_close(client);
    open_at("localhost", server.tls_port, "");
    refused(client, "localhost");
    belay_close(client);
    works("127.0.0.1", "server_name = \"elsewhere.example\";");
    open_at("127.0.0.1", server.tls_port, "server_name = \"nowhere.example\";");
    refused(client, "nowhere.example");
}

static void an_expired_certificate_is_refused(void **state)
{
    (void)state;
    begin(CERTIFICATE_EXPIRED, false);
    open_at("127.0.0.1", server.tls_port, "");
    refused(client, "expired");
}

/* A held lock's client reconnects to a server whose certificate has gone bad: the lock lives on
 * until its deadline, and nothing goes out in plaintext. */
static void a_certificate_that_goes_bad_is_noticed_on_reconnect(void **state)
{
    char cert[160];
    (void)state;
    begin(CERTIFICATE_SERVER, false);
    open_at("127.0.0.1", server.tls_port, "");
    belay_lock *lock = must_take(client, "job", LONG_MS, 5000);
    assert_int_equal(server_command(&server, NULL, "CONFIG SET tls-cert-file %s tls-key-file %s",
                                    server.certificates.cert[CERTIFICATE_EXPIRED],
                                    server.certificates.key[CERTIFICATE_EXPIRED]),
                     SERVER_STRING);
    snprintf(cert, sizeof cert, "%s", server.certificates.cert[CERTIFICATE_SERVER]);
    server_command(&server, NULL, "CLIENT KILL TYPE normal SKIPME yes");
    belay_error err = BELAY_ERROR_INIT;
    assert_true(until(take(client, "other", LONG_MS, BELAY_TRY, NULL, &err) == BELAY_REFUSED));
    assert_non_null(strstr(err.text, "expired"));
    assert_true(belay_lock_valid(lock, 1000));
    assert_int_equal(server_command(&server, NULL, "CONFIG SET tls-cert-file %s tls-key-file %s",
                                    cert, server.certificates.key[CERTIFICATE_SERVER]),
                     SERVER_STRING);
    assert_true(until(belay_extend(lock, LONG_MS, NULL) == BELAY_OK)); /* without reopening */
    must_release(lock);
}

/* ------------------------------------------------------------------ who speaks no TLS */

static void a_plaintext_port_is_no_tls_server(void **state)
{
    (void)state;
    begin(CERTIFICATE_SERVER, false);
    long commands = server_calls(&server, "set") + server_calls(&server, "evalsha") +
                    server_calls(&server, "eval");
    open_at("127.0.0.1", server.port, "");
    belay_error err = BELAY_ERROR_INIT;
    belay_status status = take(client, "job", LONG_MS, BELAY_TRY, NULL, &err);
    assert_true(status == BELAY_REFUSED || status == BELAY_UNAVAILABLE);
    assert_true(err.text[0] != '\0');
    belay_close(client);
    client = client_open(at_port(server.tls_port), "timeout = \"500ms\";", NULL);
    status = take(client, "job", LONG_MS, BELAY_TRY, NULL, &err);
    assert_true(is_doubt(status) || status == BELAY_REFUSED);
    assert_int_equal(server_calls(&server, "set") + server_calls(&server, "evalsha") +
                         server_calls(&server, "eval"),
                     commands);
}

/* A listener of the test's own: what the client's first bytes are. */
static int listener(int *port)
{
    struct sockaddr_in at = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t size = sizeof at;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&at, sizeof at), 0);
    assert_int_equal(listen(fd, 64), 0);
    getsockname(fd, (struct sockaddr *)&at, &size);
    *port = ntohs(at.sin_port);
    return fd;
}

/* Everything that clients have sent by now begins with a TLS record of a handshake. */
static int greetings(int fd, const char *answer)
{
    int count = 0;
    for (;; count++) {
        struct pollfd at = { .fd = fd, .events = POLLIN };
        unsigned char bytes[4096];
        if (poll(&at, 1, 0) != 1) return count;
        int client_fd = accept4(fd, NULL, NULL, SOCK_CLOEXEC);
        assert_true(client_fd >= 0);
        ssize_t got = recv(client_fd, bytes, sizeof bytes, 0);
        if (got > 0) {
            assert_int_equal(bytes[0], 0x16);
            assert_int_equal(bytes[1], 0x03);
            assert_null(memmem(bytes, (size_t)got, "CLIENT", 6));
        }
        if (answer != NULL) (void)send(client_fd, answer, strlen(answer), MSG_NOSIGNAL);
        close(client_fd);
    }
}

static void a_stall_in_the_handshake_ends_in_time_without_spinning(void **state)
{
    int port;
    (void)state;
    begin(CERTIFICATE_SERVER, false);
    int fd = listener(&port);
    char at[400];
    snprintf(at, sizeof at, "host = \"127.0.0.1\"; port = %d; tls: { ca = \"%s\"; };", port,
             server.certificates.ca);
    client = client_open(at, "timeout = \"400ms\";", "close_timeout = \"100ms\";");
    for (int i = 0; i < 2; i++) {
        belay_error err = BELAY_ERROR_INIT;
        int64_t start = clock_ms(), cpu = cpu_ms();
        assert_status(take(client, "job", LONG_MS, BELAY_TRY, NULL, &err), BELAY_UNAVAILABLE);
        int64_t took = clock_ms() - start;
        assert_true(took >= 350 && took < 400 + 200 * until_slow());
        assert_true(cpu_ms() - cpu < 100 * until_slow());
    }
    belay_close(client);
    client = NULL;
    assert_true(greetings(fd, NULL) > 0);
    close(fd);
}

static void who_answers_a_handshake_in_plaintext_gets_nothing(void **state)
{
    int port;
    struct caller caller = { 0 };
    (void)state;
    begin(CERTIFICATE_SERVER, false);
    int fd = listener(&port), seen = 0;
    char at[400];
    snprintf(at, sizeof at, "host = \"127.0.0.1\"; port = %d; tls: { ca = \"%s\"; };", port,
             server.certificates.ca);
    client = client_open(at, "timeout = \"400ms\";", "outage = \"1s\"; close_timeout = \"100ms\";");
    caller_acquire(&caller, client, "job", LONG_MS, 3000);
    while (!atomic_load(&caller.ended)) seen += greetings(fd, "-ERR unknown command\r\n");
    belay_status status = caller_end(&caller);
    assert_true(status == BELAY_REFUSED || is_doubt(status));
    assert_true(strstr(caller.err.text, "TLS") != NULL);
    assert_true(seen > 0);
    close(fd);
}

/* Cut off, stalled and dripped TLS streams: the same promises as without TLS. */
static void a_broken_tls_stream_leaves_nothing_behind(void **state)
{
    (void)state;
    begin(CERTIFICATE_SERVER, false);
    const struct relay_options options = { .to_port = server.tls_port, .raw = true };
    relay = relay_start(&options);
    char at[400];
    snprintf(at, sizeof at, "host = \"127.0.0.1\"; port = %d; tls: { ca = \"%s\"; };",
             relay_port(relay), server.certificates.ca);
    client = client_open(at, "timeout = \"150ms\";", NULL);
    for (int i = 0; i < 12; i++) {
        must_release(must_take(client, "job", LONG_MS, 10000));
        switch (i % 4) {
        case 0: relay_cut(relay, RELAY_ALL, false); break;
        case 1: relay_cut(relay, RELAY_ALL, true); break;
        case 2: relay_hold(relay, RELAY_ALL, RELAY_UP, true); break;
        default: relay_hold(relay, RELAY_ALL, RELAY_DOWN, true);
        }
        belay_status status = take(client, "job", LONG_MS, BELAY_TRY, NULL, NULL);
        assert_true(status == BELAY_OK || is_doubt(status));
        if (i % 4 >= 2) assert_true(is_doubt(status));
        relay_hold(relay, RELAY_ALL, RELAY_UP, false);
        relay_hold(relay, RELAY_ALL, RELAY_DOWN, false);
    }
    assert_true(until_within(5000, server_lock_keys(&server, "belay:") == 0));
}

#define IS(function) cmocka_unit_test_teardown(function, tidy)

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        IS(a_good_certificate_is_taken_by_name_and_by_address),
        IS(a_client_certificate_is_shown),
        IS(a_certificate_of_another_authority_is_refused),
        IS(a_certificate_for_elsewhere_is_refused),
        IS(an_expired_certificate_is_refused),
        IS(a_certificate_that_goes_bad_is_noticed_on_reconnect),
        IS(a_plaintext_port_is_no_tls_server),
        IS(a_stall_in_the_handshake_ends_in_time_without_spinning),
        IS(who_answers_a_handshake_in_plaintext_gets_nothing),
        IS(a_broken_tls_stream_leaves_nothing_behind),
    };
    if (argc > 1) cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL) == 0 ? 0 : 1;
}
