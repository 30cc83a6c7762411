/* tls_test.c - TLS without a socket, against a real OpenSSL server: who is let in, who is not and
 * why, bytes whole and drop by drop, and what a peer may do between them. FAULTS row 57. */
#define _GNU_SOURCE
#include "tests/unit/tls_stage.h"

#include <fcntl.h>
#include <time.h>

struct stage {
    belay_fake_world *world;
    struct belay__loop *loop;
    belay_env env;
    struct folder folder;
    struct paper authority, foreign;                    /* and certificates of the first: */
    struct paper server, expired, early, client, plain; /* `plain` has a common name only */
    /* Of the running test. */
    struct belay__tls_context *context;
    struct belay__tls *tls;
    struct server peer;
    size_t chunk; /* bytes in one go, each way; 0: all there are */
    char *got;
    size_t got_length;
};

/* ------------------------------------------------------------------ both ends */

static void queue_is_empty(void)
{
    assert_int_equal(ERR_peek_error(), 0);
}

static struct belay__tls_context *context_make(struct stage *stage,
                                               struct belay__tls_options options)
{
    belay_error err = BELAY_ERROR_INIT;
    struct belay__tls_context *context = NULL;
    belay_status status = belay__tls_context_create(&context, &stage->env, &options, &err);
    if (status != BELAY_OK) print_message("%s\n", err.text);
    assert_int_equal(status, BELAY_OK);
    queue_is_empty();
    return context;
}

/* A client that trusts the stage's authority, towards `host`. */
static void client_open(struct stage *stage, const char *host)
{
    if (stage->context == NULL)
        stage->context =
            context_make(stage, (struct belay__tls_options){
                                    .ca = folder_file(&stage->folder, "authority.pem") });
    stage->tls = belay__tls_open(stage->context, host);
    assert_non_null(stage->tls);
    queue_is_empty();
}

static void both_open(struct stage *stage, const char *host, const struct paper *paper, int version)
{
    assert_true(server_open(&stage->peer, paper, version, NULL));
    client_open(stage, host);
}

static void both_close(struct stage *stage)
{
    belay__tls_close(stage->tls);
    queue_is_empty();
    belay__tls_context_destroy(stage->context);
    server_close(&stage->peer);
    free(stage->got);
    stage->context = NULL;
    stage->tls = NULL;
    stage->peer = (struct server){ 0 };
    stage->chunk = 0;
    stage->got = NULL;
    stage->got_length = 0;
}

/* Everything that can be read now. */
static void client_reads(struct stage *stage)
{
    static char part[50000];
    size_t n;
    while ((n = belay__tls_read(stage->tls, part, sizeof part)) > 0) {
        queue_is_empty();
        stage->got = realloc(stage->got, stage->got_length + n);
        assert_non_null(stage->got);
        memcpy(stage->got + stage->got_length, part, n);
        stage->got_length += n;
    }
    queue_is_empty();
}

static size_t to_server(struct stage *stage)
{
    size_t length;
    const void *bytes = belay__tls_pending(stage->tls, &length);
    if (stage->chunk != 0 && length > stage->chunk) length = stage->chunk;
    if (length == 0) return 0;
    assert_int_equal(BIO_write(stage->peer.in, bytes, (int)length), (int)length);
    belay__tls_sent(stage->tls, length);
    queue_is_empty();
    server_work(&stage->peer);
    return length;
}

static size_t to_client(struct stage *stage)
{
    static char part[60000];
    size_t size = stage->chunk != 0 ? stage->chunk : sizeof part;
    int n = BIO_read(stage->peer.out, part, (int)size);
    if (n <= 0) return 0;
    belay__tls_feed(stage->tls, part, (size_t)n);
    queue_is_empty();
    client_reads(stage);
    return (size_t)n;
}

/* Lets bytes flow until none do. */
static void flow(struct stage *stage)
{
    size_t moved;
    do {
        moved = to_server(stage);
        moved += to_client(stage);
    } while (moved > 0);
}

static enum belay__tls_state state_of(struct stage *stage)
{
    return belay__tls_state(stage->tls);
}

static void assert_open(struct stage *stage)
{
    if (state_of(stage) != BELAY__TLS_OPEN) print_message("%s\n", belay__tls_why(stage->tls));
    assert_int_equal(state_of(stage), BELAY__TLS_OPEN);
    assert_string_equal(belay__tls_why(stage->tls), "");
}

static void assert_failed(struct stage *stage, bool refused, const char *why)
{
    assert_int_equal(state_of(stage), BELAY__TLS_FAILED);
    if (strstr(belay__tls_why(stage->tls), why) == NULL)
        print_message("\"%s\" is not in: %s\n", why, belay__tls_why(stage->tls));
    assert_non_null(strstr(belay__tls_why(stage->tls), why));
    assert_int_equal(belay__tls_refused(stage->tls), refused);
    /* And it stays so. */
    assert_int_equal(belay__tls_write(stage->tls, "x", 1), 0);
    char one;
    assert_int_equal(belay__tls_read(stage->tls, &one, 1), 0);
    assert_int_equal(belay__tls_feed(stage->tls, "x", 1), BELAY__TLS_FAILED);
    queue_is_empty();
}

/* ------------------------------------------------------------------ the handshake */

static void a_handshake_opens_a_session(void **state)
{
    struct stage *stage = *state;
    both_open(stage, "redis.example", &stage->server, 0);
    assert_int_equal(state_of(stage), BELAY__TLS_SHAKING);
    assert_int_equal(belay__tls_write(stage->tls, "early", 5), 0);
    flow(stage);
    assert_open(stage);
    assert_true(stage->peer.open);
    assert_string_equal(stage->peer.sni, "redis.example");
    assert_string_equal(belay__tls_version(stage->tls), "TLSv1.3");
    int64_t left = belay__tls_not_after_s(stage->tls) - (int64_t)time(NULL);
    assert_true(left > 9 * STAGE_DAY && left <= 10 * STAGE_DAY);
}

static void a_handshake_may_come_byte_by_byte(void **state)
{
    struct stage *stage = *state;
    both_open(stage, "redis.example", &stage->server, 0);
    stage->chunk = 1;
    flow(stage);
    assert_open(stage);
    both_close(stage);

    both_open(stage, "redis.example", &stage->server, TLS1_2_VERSION);
    stage->chunk = 1;
    flow(stage);
    assert_open(stage);
    assert_string_equal(belay__tls_version(stage->tls), "TLSv1.2");
}

static void no_name_is_sent_for_an_address(void **state)
{
    struct stage *stage = *state;
    static const char *const addresses[] = { "10.0.0.1", "fd00::1", "fd00:0::1%lo" };
    for (size_t i = 0; i < sizeof addresses / sizeof *addresses; i++) {
        both_open(stage, addresses[i], &stage->server, 0);
        snprintf(stage->peer.sni, sizeof stage->peer.sni, "unasked");
        flow(stage);
        assert_open(stage);
        assert_true(stage->peer.sni[0] == '\0' || strcmp(stage->peer.sni, "unasked") == 0);
        both_close(stage);
    }
}

static void a_dot_at_the_end_of_a_name_is_the_resolvers(void **state)
{
    struct stage *stage = *state;
    both_open(stage, "redis.example.", &stage->server, 0);
    flow(stage);
    assert_open(stage);
    assert_string_equal(stage->peer.sni, "redis.example");
}

static void server_name_stands_for_the_host(void **state)
{
    struct stage *stage = *state;
    char ca[64];
    snprintf(ca, sizeof ca, "%s", folder_file(&stage->folder, "authority.pem"));
    stage->context =
        context_make(stage,
                     (struct belay__tls_options){ .ca = ca, .server_name = "redis.example" });
    both_open(stage, "192.0.2.7", &stage->server, 0);
    flow(stage);
    assert_open(stage);
    assert_string_equal(stage->peer.sni, "redis.example");
    both_close(stage);

    stage->context =
        context_make(stage,
                     (struct belay__tls_options){ .ca = ca, .server_name = "other.example" });
    both_open(stage, "redis.example", &stage->server, 0);
    flow(stage);
    assert_failed(stage, true, "the certificate is not for other.example");
}

static void a_common_name_will_do_where_there_are_no_others(void **state)
{
    struct stage *stage = *state;
    both_open(stage, "redis.example", &stage->plain, 0);
    flow(stage);
    assert_open(stage);
}

/* ------------------------------------------------------------------ who is not let in */

static void refused(struct stage *stage, const char *host, const struct paper *paper,
                    const char *why)
{
    static const int versions[] = { TLS1_2_VERSION, TLS1_3_VERSION };
    for (size_t i = 0; i < 2; i++) {
        both_open(stage, host, paper, versions[i]);
        flow(stage);
        assert_failed(stage, true, why);
        assert_false(stage->peer.open && stage->peer.got_length > 0);
        both_close(stage);
    }
}

static void a_foreign_authority_is_refused(void **state)
{
    struct stage *stage = *state;
    refused(stage, "redis.example", &stage->foreign, "the certificate of redis.example: ");
    refused(stage, "redis.example", &stage->foreign, "not signed by what tls.ca names");
}

static void the_systems_authorities_do_not_know_ours(void **state)
{
    struct stage *stage = *state;
    stage->context = context_make(stage, (struct belay__tls_options){ 0 });
    both_open(stage, "redis.example", &stage->server, 0);
    flow(stage);
    assert_failed(stage, true, "not signed by an authority of this system");
}

static void another_name_is_refused(void **state)
{
    struct stage *stage = *state;
    refused(stage, "other.example", &stage->server, "the certificate is not for other.example");
    refused(stage, "example", &stage->server, "the certificate is not for example");
    refused(stage, "a.redis.example", &stage->server, "not for a.redis.example");
}

static void another_address_is_refused(void **state)
{
    struct stage *stage = *state;
    refused(stage, "10.0.0.2", &stage->server, "the certificate is not for 10.0.0.2");
    refused(stage, "fd00::2", &stage->server, "the certificate is not for fd00::2");
    /* A name that looks like it does not stand for an address. */
    refused(stage, "10.0.0.1", &stage->plain, "the certificate is not for 10.0.0.1");
}

static void dates_are_looked_at(void **state)
{
    struct stage *stage = *state;
    refused(stage, "redis.example", &stage->expired, "certificate has expired");
    refused(stage, "redis.example", &stage->early, "certificate is not yet valid");
}

static void a_host_that_no_certificate_can_be_for_fails_at_once(void **state)
{
    struct stage *stage = *state;
    static const char *const hosts[] = { "", ".example", ".", "%lo" };
    char longer[400];
    for (size_t i = 0; i < sizeof hosts / sizeof *hosts - 1; i++) {
        both_open(stage, hosts[i], &stage->server, 0);
        assert_failed(stage, true, "no certificate can be for");
        both_close(stage);
    }
    memset(longer, 'a', sizeof longer);
    longer[sizeof longer - 1] = '\0';
    both_open(stage, longer, &stage->server, 0);
    assert_failed(stage, true, "no certificate can be for");
}

static void a_server_of_tls_1_1_is_refused(void **state)
{
    struct stage *stage = *state;
    both_open(stage, "redis.example", &stage->server, TLS1_1_VERSION);
    flow(stage);
    assert_failed(stage, true, "protocol version");
    assert_false(stage->peer.open);
}

static void a_peer_that_speaks_no_tls_is_recognised(void **state)
{
    struct stage *stage = *state;
    static const char *const greetings[] = { "-ERR unknown command\r\n",
                                             "HTTP/1.1 400 Bad Request",
                                             "+PONG\r\n",
                                             "SSH-2.0-x\r\n",
                                             "\r\n",
                                             "-",
                                             "\x16-ERR what\r\n" };
    for (size_t i = 0; i < sizeof greetings / sizeof *greetings; i++) {
        client_open(stage, "redis.example");
        belay__tls_feed(stage->tls, greetings[i], strlen(greetings[i]));
        assert_failed(stage, true, "the peer does not speak TLS");
        both_close(stage);
    }
}

/* ------------------------------------------------------------------ the client's certificate */

static void certificate_demanded(struct stage *stage, bool given, int version)
{
    char ca[64], cert[64], key[64];
    snprintf(ca, sizeof ca, "%s", folder_file(&stage->folder, "authority.pem"));
    snprintf(cert, sizeof cert, "%s", folder_file(&stage->folder, "client.pem"));
    snprintf(key, sizeof key, "%s", folder_file(&stage->folder, "client.key"));
    stage->context =
        context_make(stage, (struct belay__tls_options){
                                .ca = ca, .cert = given ? cert : NULL, .key = given ? key : NULL });
    assert_true(server_open(&stage->peer, &stage->server, version, stage->authority.cert));
    client_open(stage, "redis.example");
    flow(stage);
}

static void a_certificate_that_is_demanded_is_shown(void **state)
{
    struct stage *stage = *state;
    static const int versions[] = { TLS1_2_VERSION, TLS1_3_VERSION };
    for (size_t i = 0; i < 2; i++) {
        certificate_demanded(stage, true, versions[i]);
        assert_open(stage);
        assert_true(stage->peer.open);
        X509 *shown = SSL_get0_peer_certificate(stage->peer.ssl);
        assert_non_null(shown);
        assert_int_equal(X509_cmp(shown, stage->client.cert), 0);
        both_close(stage);
    }
}

static void a_certificate_that_is_demanded_and_lacks_is_said_to_lack(void **state)
{
    struct stage *stage = *state;
    certificate_demanded(stage, false, TLS1_3_VERSION);
    assert_failed(stage, true, "certificate required (tls.cert and tls.key are not set)");
    both_close(stage);
    certificate_demanded(stage, false, TLS1_2_VERSION);
    assert_failed(stage, true, "tls.cert and tls.key are not set");
}

/* ------------------------------------------------------------------ data */

static char pattern(size_t i)
{
    return (char)(i * 31 + i / 251);
}

static void carried_both_ways(struct stage *stage, size_t length)
{
    static char bytes[100000];
    assert_true(length <= sizeof bytes);
    for (size_t i = 0; i < length; i++) bytes[i] = pattern(i + length);
    stage->got_length = stage->peer.got_length = 0;
    assert_int_equal(belay__tls_write(stage->tls, bytes, length), length);
    assert_int_equal(SSL_write(stage->peer.ssl, bytes, (int)length), (int)length);
    flow(stage);
    assert_int_equal(stage->got_length, length);
    assert_memory_equal(stage->got, bytes, length);
    assert_int_equal(stage->peer.got_length, length);
    assert_memory_equal(stage->peer.got, bytes, length);
}

static void all_sizes_are_carried(void **state)
{
    struct stage *stage = *state;
    static const int versions[] = { TLS1_2_VERSION, TLS1_3_VERSION };
    static const size_t sizes[] = {
        16383, 16384, 16385, 32767, 32768, 32769, 65536, 99999, 100000
    };
    size_t step = help_slow() ? 97 : 7;
    for (size_t v = 0; v < 2; v++) {
        both_open(stage, "redis.example", &stage->server, versions[v]);
        flow(stage);
        for (size_t length = 1; length < 2000; length += step) carried_both_ways(stage, length);
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
            carried_both_ways(stage, sizes[i]);
        stage->chunk = 1;
        carried_both_ways(stage, 1);
        carried_both_ways(stage, 20000);
        stage->chunk = 1447;
        carried_both_ways(stage, 100000);
        assert_open(stage);
        both_close(stage);
    }
}

static void nothing_is_no_data(void **state)
{
    struct stage *stage = *state;
    both_open(stage, "redis.example", &stage->server, 0);
    flow(stage);
    size_t length;
    char one;
    assert_int_equal(belay__tls_write(stage->tls, "", 0), 0);
    assert_int_equal(belay__tls_read(stage->tls, &one, 0), 0);
    assert_int_equal(belay__tls_read(stage->tls, &one, 1), 0);
    (void)belay__tls_pending(stage->tls, &length);
    assert_int_equal(length, 0);
    assert_open(stage);
}

static void key_updates_and_tickets_between_data_go_unnoticed(void **state)
{
    struct stage *stage = *state;
    both_open(stage, "redis.example", &stage->server, TLS1_3_VERSION);
    flow(stage);
    for (int round = 0; round < 40; round++) {
        assert_int_equal(SSL_key_update(stage->peer.ssl, round % 2 != 0
                                                             ? SSL_KEY_UPDATE_REQUESTED
                                                             : SSL_KEY_UPDATE_NOT_REQUESTED),
                         1);
        assert_int_equal(SSL_do_handshake(stage->peer.ssl), 1);
        assert_int_equal(SSL_new_session_ticket(stage->peer.ssl), 1);
        stage->chunk = round % 3 == 0 ? 1 : 0;
        carried_both_ways(stage, 500);
    }
    assert_open(stage);
}

static void renegotiation_is_not_entered(void **state)
{
    struct stage *stage = *state;
    both_open(stage, "redis.example", &stage->server, TLS1_2_VERSION);
    flow(stage);
    carried_both_ways(stage, 100);
    assert_int_equal(SSL_renegotiate(stage->peer.ssl), 1);
    (void)SSL_do_handshake(stage->peer.ssl); /* a HelloRequest leaves */
    assert_true(BIO_ctrl_pending(stage->peer.out) > 0);
    while (to_client(stage) > 0) continue;
    assert_open(stage);
    size_t length;
    (void)belay__tls_pending(stage->tls, &length);
    assert_int_equal(length > 0, true); /* the alert that says no */
    assert_true(length < 100);
}

/* ------------------------------------------------------------------ ends */

static void an_orderly_end_comes_after_the_data(void **state)
{
    struct stage *stage = *state;
    static const int versions[] = { TLS1_2_VERSION, TLS1_3_VERSION };
    for (size_t v = 0; v < 2; v++) {
        both_open(stage, "redis.example", &stage->server, versions[v]);
        flow(stage);
        stage->got_length = 0;
        assert_int_equal(SSL_write(stage->peer.ssl, "last", 4), 4);
        (void)SSL_shutdown(stage->peer.ssl);
        ERR_clear_error();
        flow(stage);
        assert_int_equal(stage->got_length, 4);
        assert_int_equal(state_of(stage), BELAY__TLS_ENDED);
        assert_int_equal(belay__tls_feed(stage->tls, NULL, 0), BELAY__TLS_ENDED);
        assert_int_equal(belay__tls_write(stage->tls, "x", 1), 0);
        assert_string_equal(belay__tls_why(stage->tls), "");
        both_close(stage);
    }
}

static void an_end_without_goodbye_is_a_break(void **state)
{
    struct stage *stage = *state;
    both_open(stage, "redis.example", &stage->server, 0);
    flow(stage);
    assert_open(stage);
    belay__tls_feed(stage->tls, NULL, 0);
    assert_failed(stage, false, "cut off without a TLS goodbye");
}

static void a_broken_record_is_a_break(void **state)
{
    struct stage *stage = *state;
    char record[200];
    both_open(stage, "redis.example", &stage->server, 0);
    flow(stage);
    assert_int_equal(SSL_write(stage->peer.ssl, "data", 4), 4);
    int n = BIO_read(stage->peer.out, record, sizeof record);
    assert_true(n > 10);
    record[n - 1] ^= 1;
    belay__tls_feed(stage->tls, record, (size_t)n);
    client_reads(stage);
    assert_int_equal(stage->got_length, 0);
    assert_failed(stage, false, "the TLS stream broke: ");
}

/* The server's first flight, as one piece. */
static size_t flight(struct stage *stage, char *out, size_t size, int version)
{
    both_open(stage, "redis.example", &stage->server, version);
    while (to_server(stage) > 0) continue;
    int n = BIO_read(stage->peer.out, out, (int)size);
    assert_true(n > 100);
    return (size_t)n;
}

static void a_handshake_that_is_cut_never_opens(void **state)
{
    struct stage *stage = *state;
    static char bytes[8192];
    size_t step = help_slow() ? 41 : 5;
    for (size_t cut = 1;; cut += step) {
        size_t length = flight(stage, bytes, sizeof bytes, TLS1_3_VERSION);
        if (cut >= length) break;
        assert_int_equal(belay__tls_feed(stage->tls, bytes, cut), BELAY__TLS_SHAKING);
        belay__tls_feed(stage->tls, NULL, 0);
        assert_failed(stage, false, "cut off in the TLS handshake");
        both_close(stage);
    }
}

static void a_handshake_that_was_tampered_with_never_ends_well(void **state)
{
    struct stage *stage = *state;
    static char bytes[8192];
    size_t step = help_slow() ? 61 : 11;
    for (size_t at = 6;; at += step) { /* behind the first record's header, which holds no secret */
        size_t length =
            flight(stage, bytes, sizeof bytes, at % 2 != 0 ? TLS1_2_VERSION : TLS1_3_VERSION);
        if (at >= length) break;
        bytes[at] ^= 0x10;
        belay__tls_feed(stage->tls, bytes, length);
        queue_is_empty();
        client_reads(stage);
        flow(stage);
        /* Either side may be the one that notices. */
        assert_false(state_of(stage) == BELAY__TLS_OPEN && stage->peer.open && !stage->peer.failed);
        both_close(stage);
    }
}

static void noise_is_never_taken_for_tls(void **state)
{
    struct stage *stage = *state;
    unsigned char noise[600];
    for (int round = 0; round < (help_slow() ? 100 : 2000); round++) {
        belay__clock_random(stage->loop->world, noise, sizeof noise);
        noise[0] = round % 4 == 0 ? 0x15 : 0x16;
        if (round % 2 == 0) noise[1] = 3;
        if (round % 8 == 0) noise[2] = 3, noise[3] = 0, noise[4] &= 0x7f;
        client_open(stage, "redis.example");
        belay__tls_feed(stage->tls, noise, sizeof noise);
        queue_is_empty();
        assert_true(state_of(stage) == BELAY__TLS_FAILED || state_of(stage) == BELAY__TLS_SHAKING);
        assert_int_equal(state_of(stage) == BELAY__TLS_FAILED,
                         belay__tls_why(stage->tls)[0] != '\0');
        belay__tls_close(stage->tls);
        stage->tls = NULL;
    }
}

/* ------------------------------------------------------------------ bounds */

static void what_nobody_reads_is_bounded(void **state)
{
    struct stage *stage = *state;
    static char part[16000], bytes[40000];
    int rounds = 0;
    both_open(stage, "redis.example", &stage->server, 0);
    flow(stage);
    for (; rounds < 100 && state_of(stage) == BELAY__TLS_OPEN; rounds++) {
        assert_true(SSL_write(stage->peer.ssl, part, sizeof part) > 0);
        int n = BIO_read(stage->peer.out, bytes, sizeof bytes);
        belay__tls_feed(stage->tls, bytes, (size_t)n);
    }
    assert_in_range(rounds, 60, 70);
    assert_failed(stage, false, "that nobody read");
}

static void answers_that_the_peer_does_not_take_are_bounded(void **state)
{
    struct stage *stage = *state;
    size_t length = 0;
    both_open(stage, "redis.example", &stage->server, TLS1_2_VERSION);
    flow(stage);
    /* It asks and asks, and reads nothing. */
    for (int i = 0; i < 20000 && state_of(stage) == BELAY__TLS_OPEN; i++) {
        SSL_renegotiate(stage->peer.ssl);
        (void)SSL_do_handshake(stage->peer.ssl);
        ERR_clear_error();
        if (to_client(stage) == 0) break;
        (void)belay__tls_pending(stage->tls, &length);
    }
    (void)belay__tls_pending(stage->tls, &length);
    assert_true(length < (300 << 10));
}

/* ------------------------------------------------------------------ files */

static void wrong_files(struct stage *stage, struct belay__tls_options options, const char *file,
                        const char *why)
{
    belay_error err = BELAY_ERROR_INIT;
    struct belay__tls_context *context = NULL;
    belay_status status = belay__tls_context_create(&context, &stage->env, &options, &err);
    queue_is_empty();
    assert_int_equal(status, BELAY_CONFIG);
    assert_null(context);
    if (strstr(err.text, why) == NULL || strstr(err.text, file) == NULL)
        print_message("\"%s\" or \"%s\" is not in: %s\n", file, why, err.text);
    assert_non_null(strstr(err.text, file));
    assert_non_null(strstr(err.text, why));
}

static void a_wrong_authority_is_named(void **state)
{
    struct stage *stage = *state;
    struct folder *folder = &stage->folder;
    struct belay__tls_options options = { .ca = folder->file };

    folder_file(folder, "absent.pem");
    wrong_files(stage, options, folder->file, "tls.ca: ");
    wrong_files(stage, options, folder->file, "No such file");
    assert_true(folder_write(folder, "empty.pem", ""));
    wrong_files(stage, options, folder->file, "is empty");
    assert_true(folder_write(folder, "text.pem", "# nothing here\n"));
    wrong_files(stage, options, folder->file, "no certificate in it");
    folder_file(folder, "client.key");
    wrong_files(stage, options, folder->file, "no certificate in it");
    assert_true(folder_write(folder, "damaged.pem",
                             "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"));
    wrong_files(stage, options, folder->file, "tls.ca: ");
    folder_file(folder, "hollow");
    assert_int_equal(mkdir(folder->file, 0700), 0);
    wrong_files(stage, options, folder->file, "a folder without hashed certificates");
    folder_file(folder, "fifo");
    assert_int_equal(mkfifo(folder->file, 0600), 0);
    wrong_files(stage, options, folder->file, "is not a file");
}

static void a_wrong_certificate_or_key_is_named(void **state)
{
    struct stage *stage = *state;
    char ca[64], cert[64], key[64], other[64], locked[64];
    snprintf(ca, sizeof ca, "%s", folder_file(&stage->folder, "authority.pem"));
    snprintf(cert, sizeof cert, "%s", folder_file(&stage->folder, "client.pem"));
    snprintf(key, sizeof key, "%s", folder_file(&stage->folder, "client.key"));
    snprintf(other, sizeof other, "%s", folder_file(&stage->folder, "other.key"));
    snprintf(locked, sizeof locked, "%s", folder_file(&stage->folder, "locked.key"));

    wrong_files(stage, (struct belay__tls_options){ .ca = ca, .cert = cert }, "tls.cert",
                "without tls.key");
    wrong_files(stage, (struct belay__tls_options){ .ca = ca, .key = key }, "tls.key",
                "without tls.cert");
    wrong_files(stage, (struct belay__tls_options){ .ca = ca, .cert = key, .key = key }, key,
                "no certificate in it");
    wrong_files(stage, (struct belay__tls_options){ .ca = ca, .cert = cert, .key = cert }, cert,
                "tls.key: ");
    wrong_files(stage, (struct belay__tls_options){ .ca = ca, .cert = cert, .key = other }, other,
                "is not the key of the certificate");
    wrong_files(stage, (struct belay__tls_options){ .ca = ca, .cert = cert, .key = other }, cert,
                "tls.cert: ");
    /* No prompt: a test that has a terminal would hang here. */
    wrong_files(stage, (struct belay__tls_options){ .ca = ca, .cert = cert, .key = locked }, locked,
                "is encrypted");
    wrong_files(stage, (struct belay__tls_options){ .ca = ca, .cert = cert, .key = "/absent" },
                "/absent", "No such file");
    wrong_files(stage, (struct belay__tls_options){ .ca = ca, .server_name = "" }, "server_name",
                "is not a host's name");
    wrong_files(stage, (struct belay__tls_options){ .ca = ca, .server_name = ".example" },
                ".example", "is not a host's name");
}

static void a_folder_of_hashed_certificates_will_do(void **state)
{
    struct stage *stage = *state;
    char name[32];
    snprintf(name, sizeof name, "hashed/%08lx.0", X509_subject_name_hash(stage->authority.cert));
    assert_int_equal(mkdir(folder_file(&stage->folder, "hashed"), 0700), 0);
    assert_true(folder_cert(&stage->folder, name, stage->authority.cert));
    stage->context =
        context_make(stage,
                     (struct belay__tls_options){ .ca = folder_file(&stage->folder, "hashed") });
    both_open(stage, "redis.example", &stage->server, 0);
    flow(stage);
    assert_open(stage);
    both_close(stage);
    stage->context =
        context_make(stage,
                     (struct belay__tls_options){ .ca = folder_file(&stage->folder, "hashed") });
    both_open(stage, "redis.example", &stage->foreign, 0);
    flow(stage);
    assert_failed(stage, true, "the certificate of redis.example");
}

static void a_servers_own_certificate_can_be_the_authority(void **state)
{
    struct stage *stage = *state;
    stage->context = context_make(stage, (struct belay__tls_options){
                                             .ca = folder_file(&stage->folder, "server.pem") });
    both_open(stage, "redis.example", &stage->server, 0);
    flow(stage);
    assert_open(stage);
    both_close(stage);
    stage->context = context_make(stage, (struct belay__tls_options){
                                             .ca = folder_file(&stage->folder, "server.pem") });
    both_open(stage, "redis.example", &stage->plain, 0);
    flow(stage);
    assert_failed(stage, true, "the certificate of redis.example");
}

/* ------------------------------------------------------------------ memory, and the end */

static void memory_that_runs_out_is_an_answer(void **state)
{
    struct stage *stage = *state;
    char ca[64], cert[64], key[64];
    snprintf(ca, sizeof ca, "%s", folder_file(&stage->folder, "authority.pem"));
    snprintf(cert, sizeof cert, "%s", folder_file(&stage->folder, "client.pem"));
    snprintf(key, sizeof key, "%s", folder_file(&stage->folder, "client.key"));
    struct belay__tls_options options = { ca, cert, key, "redis.example" };
    uint64_t nth = 1;
    for (;; nth++) {
        struct belay__tls_context *context = NULL;
        struct belay__tls *tls = NULL;
        uint64_t before = belay_fake_refused(stage->world);
        belay_fake_fail_alloc(stage->world, nth);
        belay_status status = belay__tls_context_create(&context, &stage->env, &options, NULL);
        if (status == BELAY_OK) tls = belay__tls_open(context, "host");
        bool was_refused = belay_fake_refused(stage->world) != before;
        belay_fake_fail_alloc(stage->world, 0);
        assert_true(status == BELAY_OK || status == BELAY_NOMEM);
        assert_int_equal(status == BELAY_OK, context != NULL);
        assert_int_equal(tls == NULL, was_refused);
        belay__tls_close(tls);
        belay__tls_context_destroy(context);
        if (!was_refused) break;
    }
    assert_int_equal(nth, 7);
    belay__tls_close(NULL);
    belay__tls_context_destroy(NULL);
}

static struct belay__tls_context *late_context;

static void late(void)
{
    size_t length = 0;
    struct belay__tls *tls = belay__tls_open(late_context, "redis.example");
    if (tls != NULL) (void)belay__tls_pending(tls, &length);
    belay__tls_close(tls);
    belay__tls_context_destroy(late_context);
    _exit(length > 100 ? 0 : 1);
}

/* In a process that has not used OpenSSL yet: what was registered before it runs after it. */
static int child_exits(void *arg)
{
    struct stage *stage = arg;
    struct belay__tls_options options = { 0 };
    if (atexit(late) != 0 ||
        belay__tls_context_create(&late_context, &stage->env, &options, NULL) != BELAY_OK)
        return 2;
    exit(3); /* `late` has the last word */
}

static int exit_status_of_the_child;

static void exit_does_not_take_openssl_away_from_who_still_works(void **state)
{
    (void)state;
    assert_int_equal(exit_status_of_the_child, 0);
}

/* ------------------------------------------------------------------ */

static bool papers_make(struct stage *stage)
{
    static const char names[] = "DNS:redis.example,IP:10.0.0.1,IP:fd00::1";
    struct folder *folder = &stage->folder;
    struct paper other = { 0 };
    const struct paper *authority = &stage->authority;
    bool done =
        paper_make(&stage->authority, NULL, "belay test authority", NULL, -STAGE_DAY,
                   20 * STAGE_DAY) &&
        paper_make(&stage->foreign, NULL, "redis.example", names, -STAGE_DAY, 10 * STAGE_DAY) &&
        paper_make(&stage->server, authority, "server", names, -STAGE_DAY, 10 * STAGE_DAY) &&
        paper_make(&stage->expired, authority, "server", names, -3 * STAGE_DAY, -STAGE_DAY) &&
        paper_make(&stage->early, authority, "server", names, STAGE_DAY, 3 * STAGE_DAY) &&
        paper_make(&stage->plain, authority, "redis.example", "", -STAGE_DAY, 10 * STAGE_DAY) &&
        paper_make(&stage->client, authority, "client", "", -STAGE_DAY, 10 * STAGE_DAY) &&
        paper_make(&other, authority, "other", "", -STAGE_DAY, 10 * STAGE_DAY) &&
        folder_cert(folder, "authority.pem", stage->authority.cert) &&
        folder_cert(folder, "server.pem", stage->server.cert) &&
        folder_cert(folder, "client.pem", stage->client.cert) &&
        folder_key(folder, "client.key", stage->client.key, NULL) &&
        folder_key(folder, "other.key", other.key, NULL) &&
        folder_key(folder, "locked.key", stage->client.key, "secret");
    paper_free(&other);
    ERR_clear_error();
    return done;
}

static int stage_set(void **state)
{
    static struct stage stage;
    snprintf(stage.folder.path, sizeof stage.folder.path, "/tmp/belay-tls-XXXXXX");
    stage.world = belay_fake_create(57);
    stage.loop = calloc(1, sizeof *stage.loop);
    if (stage.world == NULL || stage.loop == NULL || mkdtemp(stage.folder.path) == NULL) return -1;
    stage.loop->world = belay_fake_base(stage.world);
    stage.env.loop = stage.loop;
    exit_status_of_the_child = help_fork(child_exits, &stage);
    *state = &stage;
    return papers_make(&stage) ? 0 : -1;
}

static int stage_strike(void **state)
{
    struct stage *stage = *state;
    char command[64];
    paper_free(&stage->authority);
    paper_free(&stage->foreign);
    paper_free(&stage->server);
    paper_free(&stage->expired);
    paper_free(&stage->early);
    paper_free(&stage->plain);
    paper_free(&stage->client);
    free(stage->loop);
    belay_fake_destroy(stage->world);
    snprintf(command, sizeof command, "rm -rf %s", stage->folder.path);
    return system(command);
}

static int after(void **state)
{
    both_close(*state);
    return 0;
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(exit_does_not_take_openssl_away_from_who_still_works),
        cmocka_unit_test_teardown(a_handshake_opens_a_session, after),
        cmocka_unit_test_teardown(a_handshake_may_come_byte_by_byte, after),
        cmocka_unit_test_teardown(no_name_is_sent_for_an_address, after),
        cmocka_unit_test_teardown(a_dot_at_the_end_of_a_name_is_the_resolvers, after),
        cmocka_unit_test_teardown(server_name_stands_for_the_host, after),
        cmocka_unit_test_teardown(a_common_name_will_do_where_there_are_no_others, after),
        cmocka_unit_test_teardown(a_foreign_authority_is_refused, after),
        cmocka_unit_test_teardown(the_systems_authorities_do_not_know_ours, after),
        cmocka_unit_test_teardown(another_name_is_refused, after),
        cmocka_unit_test_teardown(another_address_is_refused, after),
        cmocka_unit_test_teardown(dates_are_looked_at, after),
        cmocka_unit_test_teardown(a_host_that_no_certificate_can_be_for_fails_at_once, after),
        cmocka_unit_test_teardown(a_server_of_tls_1_1_is_refused, after),
        cmocka_unit_test_teardown(a_peer_that_speaks_no_tls_is_recognised, after),
        cmocka_unit_test_teardown(a_certificate_that_is_demanded_is_shown, after),
        cmocka_unit_test_teardown(a_certificate_that_is_demanded_and_lacks_is_said_to_lack, after),
        cmocka_unit_test_teardown(all_sizes_are_carried, after),
        cmocka_unit_test_teardown(nothing_is_no_data, after),
        cmocka_unit_test_teardown(key_updates_and_tickets_between_data_go_unnoticed, after),
        cmocka_unit_test_teardown(renegotiation_is_not_entered, after),
        cmocka_unit_test_teardown(an_orderly_end_comes_after_the_data, after),
        cmocka_unit_test_teardown(an_end_without_goodbye_is_a_break, after),
        cmocka_unit_test_teardown(a_broken_record_is_a_break, after),
        cmocka_unit_test_teardown(a_handshake_that_is_cut_never_opens, after),
        cmocka_unit_test_teardown(a_handshake_that_was_tampered_with_never_ends_well, after),
        cmocka_unit_test_teardown(noise_is_never_taken_for_tls, after),
        cmocka_unit_test_teardown(what_nobody_reads_is_bounded, after),
        cmocka_unit_test_teardown(answers_that_the_peer_does_not_take_are_bounded, after),
        cmocka_unit_test_teardown(a_wrong_authority_is_named, after),
        cmocka_unit_test_teardown(a_wrong_certificate_or_key_is_named, after),
        cmocka_unit_test_teardown(a_folder_of_hashed_certificates_will_do, after),
        cmocka_unit_test_teardown(a_servers_own_certificate_can_be_the_authority, after),
        cmocka_unit_test_teardown(memory_that_runs_out_is_an_answer, after),
    };
    return cmocka_run_group_tests(tests, stage_set, stage_strike) != 0;
}
