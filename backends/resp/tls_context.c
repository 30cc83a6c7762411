/* tls_context.c - the settings of TLS, made into an SSL_CTX once: authorities, certificate, key.
 *
 * Files are read by us, not by OpenSSL: so that a FIFO can't hang us, an encrypted key asks nobody
 * for a password, and each fault is told with the file's name. Like all of tls.c these functions
 * leave OpenSSL's error queue, which is the calling thread's and so the program's, empty. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "tls_context.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509_vfy.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { FILE_MAX = 16 << 20 }; /* a bundle of authorities is a few hundred kB */

/* ------------------------------------------------------------------ files */

static belay_status wrong(belay_error *err, const char *key, const char *path, const char *what)
{
    return belay_error_set(err, BELAY_CONFIG, NULL, "tls.%s: %s: %s", key, path, what);
}

static belay_status wrong_errno(belay_error *err, const char *key, const char *path, int error)
{
    const char *text = strerrordesc_np(error);
    return wrong(err, key, path, text != NULL ? text : "can't be read");
}

/* OpenSSL's word for what went wrong first, and the queue is empty. */
static belay_status wrong_openssl(belay_error *err, const char *key, const char *path)
{
    unsigned long error = ERR_peek_error();
    const char *text = ERR_reason_error_string(error);
    ERR_clear_error();
    if (ERR_GET_REASON(error) == ERR_R_MALLOC_FAILURE)
        return belay_error_set(err, BELAY_NOMEM, NULL, NULL);
    return wrong(err, key, path, text != NULL ? text : "OpenSSL does not take it");
}

struct text {
    char *at;
    size_t length;
};

/* A key may have been in it. */
static void text_free(belay_env *env, struct text *text)
{
    if (text->at != NULL) OPENSSL_cleanse(text->at, text->length);
    belay_env_free(env, text->at);
    text->at = NULL;
}

static belay_status text_fill(struct text *text, belay_env *env, int fd, const char *key,
                              const char *path, belay_error *err)
{
    struct stat st;
    size_t size;
    if (fstat(fd, &st) != 0) return wrong_errno(err, key, path, errno);
    if (!S_ISREG(st.st_mode)) return wrong(err, key, path, "is not a file");
    if (st.st_size == 0) return wrong(err, key, path, "is empty");
    if (st.st_size > FILE_MAX) return wrong(err, key, path, "is longer than 16 MiB");
    size = (size_t)st.st_size;
    text->at = belay_env_alloc(env, size);
    if (text->at == NULL) return belay_error_set(err, BELAY_NOMEM, NULL, NULL);
    while (text->length < size) {
        ssize_t n = read(fd, text->at + text->length, size - text->length);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return wrong_errno(err, key, path, errno);
        if (n == 0) break;
        text->length += (size_t)n;
    }
    return BELAY_OK;
}

static belay_status text_read(struct text *text, belay_env *env, const char *key, const char *path,
                              belay_error *err)
{
    belay_status status;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY); /* a FIFO must not hang us */
    *text = (struct text){ 0 };
    if (fd < 0) return wrong_errno(err, key, path, errno);
    status = text_fill(text, env, fd, key, path, err);
    close(fd);
    if (status != BELAY_OK) text_free(env, text);
    return status;
}

/* OpenSSL's default asks on the terminal. */
static int password_refuse(char *out, int size, int writing, void *asked)
{
    (void)out, (void)size, (void)writing;
    *(bool *)asked = true;
    return -1;
}

static bool is_end_of_pem(void)
{
    unsigned long error = ERR_peek_last_error();
    return ERR_GET_LIB(error) == ERR_LIB_PEM && ERR_GET_REASON(error) == PEM_R_NO_START_LINE;
}

/* Gives every certificate of a PEM text to `take`, the first one with number 0. */
static belay_status certificates_take(SSL_CTX *ssl, const struct text *text,
                                      bool (*take)(SSL_CTX *ssl, X509 *cert, unsigned number),
                                      const char *key, const char *path, belay_error *err)
{
    belay_status status = BELAY_OK;
    bool asked = false;
    unsigned number = 0;
    BIO *bio = BIO_new_mem_buf(text->at, (int)text->length);
    if (bio == NULL) return wrong_openssl(err, key, path);
    while (status == BELAY_OK) {
        X509 *cert = PEM_read_bio_X509_AUX(bio, NULL, password_refuse, &asked);
        if (cert == NULL && is_end_of_pem()) break;
        if (cert == NULL || !take(ssl, cert, number)) status = wrong_openssl(err, key, path);
        X509_free(cert);
        number++;
    }
    if (status == BELAY_OK && number == 0)
        status = wrong(err, key, path, "no certificate in it (as PEM)");
    BIO_free(bio);
    ERR_clear_error();
    return status;
}

/* ------------------------------------------------------------------ the authorities */

static bool authority_take(SSL_CTX *ssl, X509 *cert, unsigned number)
{
    (void)number;
    return X509_STORE_add_cert(SSL_CTX_get_cert_store(ssl), cert) == 1;
}

/* "1a2b3c4d.0", as `openssl rehash` names them. */
static bool is_hashed_name(const char *name)
{
    return strspn(name, "0123456789abcdefABCDEF") == 8 && name[8] == '.' &&
           isdigit((unsigned char)name[9]);
}

static belay_status folder_load(SSL_CTX *ssl, const char *path, belay_error *err)
{
    bool found = false;
    struct dirent *entry;
    DIR *folder = opendir(path);
    if (folder == NULL) return wrong_errno(err, "ca", path, errno);
    while (!found && (entry = readdir(folder)) != NULL) found = is_hashed_name(entry->d_name);
    closedir(folder);
    if (!found)
        return wrong(err, "ca", path, "a folder without hashed certificates (see openssl rehash)");
    if (SSL_CTX_load_verify_dir(ssl, path) != 1) return wrong_openssl(err, "ca", path);
    return BELAY_OK;
}

static belay_status authorities_load(struct belay__tls_context *context, const char *path,
                                     belay_error *err)
{
    struct stat st;
    struct text text;
    belay_status status;
    if (path == NULL) {
        /* That there is none shows when a certificate is to be verified. */
        (void)SSL_CTX_set_default_verify_paths(context->ssl);
        return BELAY_OK;
    }
    context->own_ca = true;
    /* What the file holds is trusted, also where it is no root: one server's certificate, say. */
    X509_VERIFY_PARAM_set_flags(SSL_CTX_get0_param(context->ssl), X509_V_FLAG_PARTIAL_CHAIN);
    if (stat(path, &st) == 0 && S_ISDIR(st.st_mode)) return folder_load(context->ssl, path, err);
    status = text_read(&text, context->env, "ca", path, err);
    if (status != BELAY_OK) return status;
    status = certificates_take(context->ssl, &text, authority_take, "ca", path, err);
    text_free(context->env, &text);
    return status;
}

/* ------------------------------------------------------------------ the client's certificate */

static bool own_take(SSL_CTX *ssl, X509 *cert, unsigned number)
{
    return number == 0 ? SSL_CTX_use_certificate(ssl, cert) == 1
                       : SSL_CTX_add1_chain_cert(ssl, cert) == 1;
}

static belay_status cert_load(struct belay__tls_context *context, const char *path,
                              belay_error *err)
{
    struct text text;
    belay_status status = text_read(&text, context->env, "cert", path, err);
    if (status != BELAY_OK) return status;
    status = certificates_take(context->ssl, &text, own_take, "cert", path, err);
    text_free(context->env, &text);
    return status;
}

static belay_status key_parse(EVP_PKEY **out, const struct text *text, const char *path,
                              belay_error *err)
{
    bool asked = false;
    BIO *bio = BIO_new_mem_buf(text->at, (int)text->length);
    if (bio == NULL) return wrong_openssl(err, "key", path);
    *out = PEM_read_bio_PrivateKey(bio, NULL, password_refuse, &asked);
    BIO_free(bio);
    if (*out != NULL) return BELAY_OK;
    if (asked) return wrong(err, "key", path, "is encrypted; a key without a password is needed");
    return wrong(err, "key", path, "no private key in it (as PEM)");
}

static belay_status key_load(struct belay__tls_context *context,
                             const struct belay__tls_options *options, belay_error *err)
{
    struct text text;
    EVP_PKEY *key = NULL;
    belay_status status = text_read(&text, context->env, "key", options->key, err);
    if (status != BELAY_OK) return status;
    status = key_parse(&key, &text, options->key, err);
    text_free(context->env, &text);
    if (status == BELAY_OK &&
        X509_check_private_key(SSL_CTX_get0_certificate(context->ssl), key) != 1)
        status = belay_error_set(err, BELAY_CONFIG, NULL,
                                 "tls.key: %s is not the key of the certificate in tls.cert: %s",
                                 options->key, options->cert);
    if (status == BELAY_OK && SSL_CTX_use_PrivateKey(context->ssl, key) != 1)
        status = wrong_openssl(err, "key", options->key);
    EVP_PKEY_free(key);
    ERR_clear_error();
    return status;
}

/* ------------------------------------------------------------------ a context */

static belay_status options_check(const struct belay__tls_options *options, belay_error *err)
{
    if ((options->cert == NULL) != (options->key == NULL))
        return belay_error_set(err, BELAY_CONFIG, NULL, "tls.%s without tls.%s",
                               options->cert != NULL ? "cert" : "key",
                               options->cert != NULL ? "key" : "cert");
    if (options->server_name != NULL && !belay__tls_is_name(options->server_name))
        return wrong(err, "server_name", options->server_name, "is not a host's name or address");
    return BELAY_OK;
}

static belay_status context_fill(struct belay__tls_context *context,
                                 const struct belay__tls_options *options, belay_error *err)
{
    belay_status status;
    context->ssl = SSL_CTX_new(TLS_client_method());
    if (context->ssl == NULL || SSL_CTX_set_min_proto_version(context->ssl, TLS1_2_VERSION) != 1) {
        unsigned long error = ERR_peek_error();
        const char *text = ERR_reason_error_string(error);
        return belay_error_set(err, BELAY_CONFIG, NULL, "tls: OpenSSL can't be used: %s",
                               text != NULL ? text : "unknown reason");
    }
    SSL_CTX_set_verify(context->ssl, SSL_VERIFY_PEER, NULL);
    SSL_CTX_set_session_cache_mode(context->ssl, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_options(context->ssl, SSL_OP_NO_RENEGOTIATION);
    if (options->server_name != NULL) {
        size_t length = strlen(options->server_name);
        context->server_name = belay_env_alloc(context->env, length + 1);
        if (context->server_name == NULL) return belay_error_set(err, BELAY_NOMEM, NULL, NULL);
        memcpy(context->server_name, options->server_name, length);
    }
    status = authorities_load(context, options->ca, err);
    if (status != BELAY_OK || options->cert == NULL) return status;
    context->has_cert = true;
    status = cert_load(context, options->cert, err);
    return status == BELAY_OK ? key_load(context, options, err) : status;
}

belay_status belay__tls_context_create(struct belay__tls_context **out, belay_env *env,
                                       const struct belay__tls_options *options, belay_error *err)
{
    struct belay__tls_context *context;
    belay_status status = options_check(options, err);
    *out = NULL;
    if (status != BELAY_OK) return status;
    context = belay_env_alloc(env, sizeof *context);
    if (context == NULL) return belay_error_set(err, BELAY_NOMEM, NULL, NULL);
    context->env = env;
    /* exit() must not take OpenSSL away from a client that is still at work on another thread. This
     * has to be the first call, and does nothing where the program uses OpenSSL already. */
    (void)OPENSSL_init_ssl(OPENSSL_INIT_NO_ATEXIT, NULL);
    ERR_clear_error();
    status = context_fill(context, options, err);
    if (status == BELAY_OK) *out = context;
    else belay__tls_context_destroy(context);
    ERR_clear_error();
    return status;
}

void belay__tls_context_destroy(struct belay__tls_context *context)
{
    if (context == NULL) return;
    SSL_CTX_free(context->ssl);
    belay_env_free(context->env, context->server_name);
    belay_env_free(context->env, context);
}
