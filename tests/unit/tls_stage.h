/* tls_stage.h - for tls_test.c: authorities and certificates made on the spot, in files of a folder
 * of their own; and the other side of a connection, OpenSSL as a server between two memory BIOs. */
#ifndef BELAY_TESTS_UNIT_TLS_STAGE_H
#define BELAY_TESTS_UNIT_TLS_STAGE_H

#include "core/client.h"
#include "tests/unit/engine_help.h"

#include "backends/resp/tls.h"

#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <sys/stat.h>

#define STAGE_DAY (24L * 3600)

/* ------------------------------------------------------------------ certificates */

struct paper {
    X509 *cert;
    EVP_PKEY *key;
};

static inline void paper_free(struct paper *paper)
{
    X509_free(paper->cert);
    EVP_PKEY_free(paper->key);
}

static inline bool paper_extend(X509 *cert, X509 *issuer, int nid, const char *value)
{
    X509V3_CTX context;
    X509V3_set_ctx(&context, issuer, cert, NULL, NULL, 0);
    X509_EXTENSION *extension = X509V3_EXT_conf_nid(NULL, &context, nid, value);
    bool done = extension != NULL && X509_add_ext(cert, extension, -1) == 1;
    X509_EXTENSION_free(extension);
    return done;
}

/* Valid from now + from_s to now + to_s. `issuer` NULL: signed by itself. `names`: NULL makes an
 * authority. */
static inline bool paper_make(struct paper *out, const struct paper *issuer, const char *subject,
                              const char *names, long from_s, long to_s)
{
    static long serial = 1;
    X509 *cert = out->cert = X509_new();
    EVP_PKEY *key = out->key = EVP_EC_gen("P-256");
    X509 *by = issuer != NULL ? issuer->cert : cert;
    X509_NAME *name = X509_get_subject_name(cert);
    return key != NULL && X509_set_version(cert, X509_VERSION_3) == 1 &&
           ASN1_INTEGER_set(X509_get_serialNumber(cert), serial++) == 1 &&
           X509_gmtime_adj(X509_getm_notBefore(cert), from_s) != NULL &&
           X509_gmtime_adj(X509_getm_notAfter(cert), to_s) != NULL &&
           X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_UTF8, (const unsigned char *)subject, -1,
                                      -1, 0) == 1 &&
           X509_set_issuer_name(cert, X509_get_subject_name(by)) == 1 &&
           X509_set_pubkey(cert, key) == 1 &&
           paper_extend(cert, by, NID_basic_constraints,
                        names == NULL ? "critical,CA:TRUE" : "CA:FALSE") &&
           (names == NULL || names[0] == '\0' ||
            paper_extend(cert, by, NID_subject_alt_name, names)) &&
           X509_sign(cert, issuer != NULL ? issuer->key : key, EVP_sha256()) > 0;
}

/* ------------------------------------------------------------------ the folder */

struct folder {
    char path[32];
    char file[64]; /* of the last one that was named */
};

static inline const char *folder_file(struct folder *folder, const char *name)
{
    snprintf(folder->file, sizeof folder->file, "%s/%s", folder->path, name);
    return folder->file;
}

static inline bool folder_write(struct folder *folder, const char *name, const char *text)
{
    FILE *file = fopen(folder_file(folder, name), "w");
    bool done = file != NULL && fputs(text, file) >= 0;
    return file != NULL && fclose(file) == 0 && done;
}

static inline bool folder_cert(struct folder *folder, const char *name, X509 *cert)
{
    FILE *file = fopen(folder_file(folder, name), "w");
    bool done = file != NULL && PEM_write_X509(file, cert) == 1;
    return file != NULL && fclose(file) == 0 && done;
}

/* `password` NULL: not encrypted. */
static inline bool folder_key(struct folder *folder, const char *name, EVP_PKEY *key,
                              const char *password)
{
    FILE *file = fopen(folder_file(folder, name), "w");
    bool done =
        file != NULL &&
        PEM_write_PKCS8PrivateKey(file, key, password != NULL ? EVP_aes_128_cbc() : NULL, password,
                                  password != NULL ? (int)strlen(password) : 0, NULL, NULL) == 1;
    return file != NULL && fclose(file) == 0 && done;
}

/* ------------------------------------------------------------------ the other side */

struct server {
    SSL_CTX *context;
    SSL *ssl;
    BIO *in, *out;
    bool open, failed;
    char sni[64]; /* what the client asked for */
    char *got;    /* plaintext that came */
    size_t got_length;
};

static inline int server_hears_name(SSL *ssl, int *alert, void *arg)
{
    struct server *server = arg;
    const char *name = SSL_get_servername(ssl, TLSEXT_NAMETYPE_host_name);
    (void)alert;
    snprintf(server->sni, sizeof server->sni, "%s", name != NULL ? name : "");
    return SSL_TLSEXT_ERR_OK;
}

static inline bool server_open(struct server *server, const struct paper *paper, int version,
                               X509 *client_ca)
{
    SSL_CTX *context = SSL_CTX_new(TLS_server_method());
    *server = (struct server){ .context = context };
    if (context == NULL || SSL_CTX_use_certificate(context, paper->cert) != 1 ||
        SSL_CTX_use_PrivateKey(context, paper->key) != 1)
        return false;
    if (version != 0 && version < TLS1_2_VERSION) SSL_CTX_set_security_level(context, 0);
    SSL_CTX_set_min_proto_version(context, version);
    SSL_CTX_set_max_proto_version(context, version);
    SSL_CTX_set_tlsext_servername_callback(context, server_hears_name);
    SSL_CTX_set_tlsext_servername_arg(context, server);
    if (client_ca != NULL) {
        X509_STORE_add_cert(SSL_CTX_get_cert_store(context), client_ca);
        SSL_CTX_set_verify(context, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
    }
    server->ssl = SSL_new(context);
    server->in = BIO_new(BIO_s_mem());
    server->out = BIO_new(BIO_s_mem());
    BIO_set_mem_eof_return(server->in, -1);
    SSL_set_bio(server->ssl, server->in, server->out);
    SSL_set_accept_state(server->ssl);
    return true;
}

static inline void server_close(struct server *server)
{
    SSL_free(server->ssl);
    SSL_CTX_free(server->context);
    free(server->got);
    ERR_clear_error();
}

/* Does what it can with the bytes that have come. */
static inline void server_work(struct server *server)
{
    static char part[70000];
    int n;
    if (!server->open && !server->failed) {
        n = SSL_do_handshake(server->ssl);
        if (n == 1) server->open = true;
        else server->failed = SSL_get_error(server->ssl, n) != SSL_ERROR_WANT_READ;
    }
    while (server->open && (n = SSL_read(server->ssl, part, sizeof part)) > 0) {
        server->got = realloc(server->got, server->got_length + (size_t)n);
        if (server->got == NULL) abort();
        memcpy(server->got + server->got_length, part, (size_t)n);
        server->got_length += (size_t)n;
    }
    ERR_clear_error(); /* what is in the queue later is the client's doing */
}

#endif
