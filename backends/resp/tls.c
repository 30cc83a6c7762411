/* tls.c - one connection's TLS, between two memory BIOs: see tls.h for what it promises.
 *
 * Ciphertext from the socket goes into `in`, ciphertext for it comes out of `out`; OpenSSL never
 * sees a descriptor, so it can't block and can't raise SIGPIPE. The handshake is driven by feed.
 * What the peer can make us keep is bounded: ciphertext nobody reads, and answers it does not take.
 *
 * Verification is set up in two places and checked in a third: SSL_VERIFY_PEER in the context, the
 * name or address in the session, and the result once more before a session is called open. A
 * session whose name could not be set (an empty one would mean "any") has failed from the start.
 *
 * OpenSSL keeps its errors in a queue of the calling thread, which may be the program's own. Each
 * function here that calls OpenSSL leaves that queue empty. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "tls_context.h"

#include <arpa/inet.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

enum {
    UNREAD_MAX = 1 << 20, /* ciphertext that was fed and not read yet */
    ANSWERS_MAX =
        256 << 10 /* what the peer made us say and does not take; a handshake needs 20 kB */
};

struct belay__tls {
    belay_env *env;
    SSL *ssl;
    BIO *in, *out; /* the SSL's */
    enum belay__tls_state state;
    bool heard; /* the first byte has come */
    bool refused;
    bool own_ca, has_cert;
    size_t answers; /* bytes in `out` that nobody here asked for, since it was last empty */
    char why[256];
    char host[]; /* what the certificate must be for */
};

/* ------------------------------------------------------------------ why it failed */

static enum belay__tls_state fail(struct belay__tls *tls, bool refused, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
static enum belay__tls_state fail(struct belay__tls *tls, bool refused, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(tls->why, sizeof tls->why, format, args);
    va_end(args);
    tls->refused = refused;
    return tls->state = BELAY__TLS_FAILED;
}

static const char no_tls[] = "the peer does not speak TLS";

static void fail_verification(struct belay__tls *tls, long result)
{
    const char *hint = "";
    switch (result) {
    case X509_V_ERR_HOSTNAME_MISMATCH:
    case X509_V_ERR_IP_ADDRESS_MISMATCH:
        fail(tls, true, "the certificate is not for %s", tls->host);
        return;
    case X509_V_ERR_OUT_OF_MEM: fail(tls, false, "memory ran out"); return;
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT:
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY:
    case X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE:
    case X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT:
    case X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN:
    case X509_V_ERR_CERT_SIGNATURE_FAILURE:
        hint = tls->own_ca ? " (not signed by what tls.ca names)"
                           : " (not signed by an authority of this system; tls.ca names others)";
        break;
    }
    fail(tls, true, "the certificate of %s: %s%s", tls->host, X509_verify_cert_error_string(result),
         hint);
}

/* An alert is the peer's word: is it about certificates and settings, or did something break? */
static bool is_refusal(int alert)
{
    switch (alert) {
    case SSL_AD_HANDSHAKE_FAILURE:
    case SSL_AD_BAD_CERTIFICATE:
    case SSL_AD_UNSUPPORTED_CERTIFICATE:
    case SSL_AD_CERTIFICATE_REVOKED:
    case SSL_AD_CERTIFICATE_EXPIRED:
    case SSL_AD_CERTIFICATE_UNKNOWN:
    case SSL_AD_UNKNOWN_CA:
    case SSL_AD_ACCESS_DENIED:
    case SSL_AD_PROTOCOL_VERSION:
    case SSL_AD_INSUFFICIENT_SECURITY:
    case SSL_AD_UNRECOGNIZED_NAME:
    case SSL_AD_CERTIFICATE_REQUIRED: return true;
    default: return false;
    }
}

static void fail_alert(struct belay__tls *tls, int alert, const char *text)
{
    const char *word = text != NULL ? strstr(text, " alert ") : NULL;
    const char *hint = "";
    /* Up to TLS 1.2 the lack of a certificate is just a failure. */
    if (!tls->has_cert &&
        (alert == SSL_AD_CERTIFICATE_REQUIRED || alert == SSL_AD_HANDSHAKE_FAILURE))
        hint = alert == SSL_AD_CERTIFICATE_REQUIRED
                   ? " (tls.cert and tls.key are not set)"
                   : " (it may want a certificate; tls.cert and tls.key are not set)";
    fail(tls, is_refusal(alert), "the peer refused: %s%s",
         word != NULL ? word + strlen(" alert ") : "a TLS alert", hint);
}

/* From the thread's error queue, whose first entry is the root of it. */
static void fail_openssl(struct belay__tls *tls)
{
    bool shaking = tls->state == BELAY__TLS_SHAKING, refused = false;
    unsigned long error = ERR_peek_error();
    const char *text = ERR_reason_error_string(error);
    int reason = ERR_GET_REASON(error);
    if (reason == ERR_R_MALLOC_FAILURE) {
        fail(tls, false, "memory ran out");
        return;
    }
    if (ERR_GET_LIB(error) == ERR_LIB_SSL) {
        if (reason > SSL_AD_REASON_OFFSET && reason <= SSL_AD_REASON_OFFSET + 255) {
            fail_alert(tls, reason - SSL_AD_REASON_OFFSET, text);
            return;
        }
        switch (reason) {
        case SSL_R_CERTIFICATE_VERIFY_FAILED:
            fail_verification(tls, SSL_get_verify_result(tls->ssl));
            return;
        case SSL_R_WRONG_VERSION_NUMBER:
            if (!shaking) break;
            fail(tls, true, no_tls);
            return;
        case SSL_R_UNSUPPORTED_PROTOCOL:
        case SSL_R_WRONG_SSL_VERSION:
        case SSL_R_DH_KEY_TOO_SMALL:
        case SSL_R_UNSAFE_LEGACY_RENEGOTIATION_DISABLED: refused = shaking; break;
        }
    }
    fail(tls, refused, shaking ? "the TLS handshake failed: %s" : "the TLS stream broke: %s",
         text != NULL ? text : "unknown reason");
}

/* ------------------------------------------------------------------ a session */

/* The name or address to verify, and SNI. False: OpenSSL's error queue, or nothing, says why. */
static bool host_set(struct belay__tls *tls)
{
    unsigned char address[16];
    if (!belay__tls_is_name(tls->host)) return false;
    if (inet_pton(AF_INET, tls->host, address) == 1 || inet_pton(AF_INET6, tls->host, address) == 1)
        return X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(tls->ssl), tls->host) == 1;
    SSL_set_hostflags(tls->ssl, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
    return SSL_set1_host(tls->ssl, tls->host) == 1 &&
           SSL_set_tlsext_host_name(tls->ssl, tls->host) == 1;
}

static bool bios_set(struct belay__tls *tls)
{
    tls->in = BIO_new(BIO_s_mem());
    tls->out = BIO_new(BIO_s_mem());
    if (tls->in == NULL || tls->out == NULL) {
        BIO_free(tls->in);
        BIO_free(tls->out);
        return false;
    }
    BIO_set_mem_eof_return(tls->in, -1); /* empty is "later", not the end */
    SSL_set_bio(tls->ssl, tls->in, tls->out);
    return true;
}

/* What the peer makes us say must not pile up while it reads nothing. */
static void answers_count(struct belay__tls *tls, size_t before)
{
    size_t now = BIO_ctrl_pending(tls->out);
    if (now > before) tls->answers += now - before;
    if (tls->answers > ANSWERS_MAX && tls->state != BELAY__TLS_FAILED)
        fail(tls, false, "the peer does not take the answers it asks for");
}

static void opened(struct belay__tls *tls)
{
    long result = SSL_get_verify_result(tls->ssl);
    if (SSL_get0_peer_certificate(tls->ssl) == NULL) fail(tls, true, "the peer has no certificate");
    else if (result != X509_V_OK) fail_verification(tls, result);
    else tls->state = BELAY__TLS_OPEN;
}

static void shake(struct belay__tls *tls)
{
    size_t before = BIO_ctrl_pending(tls->out);
    int done = SSL_do_handshake(tls->ssl);
    if (done == 1) {
        opened(tls);
    } else {
        switch (SSL_get_error(tls->ssl, done)) {
        case SSL_ERROR_WANT_READ: break;
        case SSL_ERROR_ZERO_RETURN:
            fail(tls, false, "the peer ended the connection in the TLS handshake");
            break;
        default: fail_openssl(tls); break;
        }
    }
    answers_count(tls, before);
}

/* A zone is ours alone, a dot at the end is the resolver's: no certificate has either. */
static size_t host_length(const char *host)
{
    const char *zone = strchr(host, ':') != NULL ? strchr(host, '%') : NULL;
    size_t length = zone != NULL ? (size_t)(zone - host) : strlen(host);
    return length > 1 && host[length - 1] == '.' ? length - 1 : length;
}

struct belay__tls *belay__tls_open(struct belay__tls_context *context, const char *host)
{
    const char *name = context->server_name != NULL ? context->server_name : host;
    size_t length = host_length(name);
    struct belay__tls *tls = belay_env_alloc(context->env, sizeof *tls + length + 1);
    if (tls == NULL) return NULL;
    ERR_clear_error();
    memcpy(tls->host, name, length);
    tls->env = context->env;
    tls->own_ca = context->own_ca;
    tls->has_cert = context->has_cert;
    tls->ssl = SSL_new(context->ssl);
    if (tls->ssl == NULL || !bios_set(tls)) {
        belay__tls_close(tls);
        return NULL;
    }
    SSL_set_connect_state(tls->ssl);
    if (host_set(tls)) shake(tls);
    else fail(tls, true, "no certificate can be for \"%.64s\"", tls->host);
    ERR_clear_error();
    return tls;
}

void belay__tls_close(struct belay__tls *tls)
{
    if (tls == NULL) return;
    SSL_free(tls->ssl);
    ERR_clear_error();
    belay_env_free(tls->env, tls);
}

enum belay__tls_state belay__tls_state(const struct belay__tls *tls)
{
    return tls->state;
}

static bool is_live(const struct belay__tls *tls)
{
    return tls->state == BELAY__TLS_SHAKING || tls->state == BELAY__TLS_OPEN;
}

enum belay__tls_state belay__tls_feed(struct belay__tls *tls, const void *bytes, size_t length)
{
    if (!is_live(tls)) return tls->state;
    if (length == 0)
        return fail(tls, false,
                    tls->state == BELAY__TLS_OPEN ? "cut off without a TLS goodbye"
                                                  : "cut off in the TLS handshake");
    /* A TLS stream begins with a handshake record or an alert. */
    if (!tls->heard && *(const unsigned char *)bytes != SSL3_RT_HANDSHAKE &&
        *(const unsigned char *)bytes != SSL3_RT_ALERT)
        return fail(tls, true, no_tls);
    tls->heard = true;
    if (length > UNREAD_MAX || BIO_ctrl_pending(tls->in) > UNREAD_MAX - length)
        return fail(tls, false, "more than %d bytes that nobody read", (int)UNREAD_MAX);
    ERR_clear_error();
    if (BIO_write(tls->in, bytes, (int)length) != (int)length) fail(tls, false, "memory ran out");
    else if (tls->state == BELAY__TLS_SHAKING) shake(tls);
    ERR_clear_error();
    return tls->state;
}

size_t belay__tls_read(struct belay__tls *tls, void *out, size_t size)
{
    size_t got = 0, before;
    if (tls->state != BELAY__TLS_OPEN || size == 0) return 0;
    ERR_clear_error();
    before = BIO_ctrl_pending(tls->out);
    int done = SSL_read_ex(tls->ssl, out, size, &got);
    if (done != 1) {
        got = 0;
        switch (SSL_get_error(tls->ssl, done)) {
        case SSL_ERROR_WANT_READ: break;
        case SSL_ERROR_ZERO_RETURN: tls->state = BELAY__TLS_ENDED; break;
        default: fail_openssl(tls); break;
        }
    }
    answers_count(tls, before);
    ERR_clear_error();
    return got;
}

size_t belay__tls_write(struct belay__tls *tls, const void *bytes, size_t length)
{
    size_t written = 0;
    if (tls->state != BELAY__TLS_OPEN || length == 0) return 0;
    ERR_clear_error();
    if (SSL_write_ex(tls->ssl, bytes, length, &written) != 1 || written != length) {
        fail_openssl(tls);
        (void)BIO_reset(tls->out); /* not a part of it */
        length = 0;
    }
    ERR_clear_error();
    return length;
}

const void *belay__tls_pending(struct belay__tls *tls, size_t *length)
{
    char *bytes = NULL;
    long pending = BIO_get_mem_data(tls->out, &bytes);
    *length = pending > 0 ? (size_t)pending : 0;
    return bytes;
}

void belay__tls_sent(struct belay__tls *tls, size_t length)
{
    char gone[4096];
    while (length > 0) {
        int n = BIO_read(tls->out, gone, length < sizeof gone ? (int)length : (int)sizeof gone);
        if (n <= 0) break;
        length -= (size_t)n;
    }
    if (BIO_ctrl_pending(tls->out) == 0) tls->answers = 0;
}

const char *belay__tls_why(const struct belay__tls *tls)
{
    return tls->why;
}

bool belay__tls_refused(const struct belay__tls *tls)
{
    return tls->refused;
}

/* ------------------------------------------------------------------ for the doctor */

int64_t belay__tls_not_after_s(const struct belay__tls *tls)
{
    struct tm end;
    X509 *cert = SSL_get0_peer_certificate(tls->ssl);
    bool known = cert != NULL && ASN1_TIME_to_tm(X509_get0_notAfter(cert), &end) == 1;
    ERR_clear_error();
    return known ? (int64_t)timegm(&end) : -1;
}

const char *belay__tls_version(const struct belay__tls *tls)
{
    return SSL_get_version(tls->ssl);
}
