/* certificates.c - by libcrypto: the openssl command can't make a certificate that ended yesterday
 * in one call, and eight calls of it would take longer than the test. */
#define _GNU_SOURCE
#include "tests/live/certificates.h"

#include <openssl/ec.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>
#include <stdio.h>

#define DAY 86400L

struct identity {
    EVP_PKEY *key;
    X509 *cert;
};

static bool extend_cert(X509 *cert, X509 *issuer, int nid, const char *value)
{
    X509V3_CTX context;
    X509V3_set_ctx(&context, issuer, cert, NULL, NULL, 0);
    X509_EXTENSION *extension = X509V3_EXT_conf_nid(NULL, &context, nid, value);
    bool done = extension != NULL && X509_add_ext(cert, extension, -1) == 1;
    X509_EXTENSION_free(extension);
    return done;
}

/* `by` NULL: an authority, signed by itself. `names`: its subjectAltName, or NULL. */
static bool identity_make(struct identity *made, const struct identity *by, const char *common_name,
                          const char *names, long from, long to)
{
    static long serial = 1;
    X509 *cert = made->cert = X509_new();
    made->key = EVP_EC_gen("P-256");
    if (cert == NULL || made->key == NULL) return false;
    X509 *issuer = by != NULL ? by->cert : cert;
    X509_NAME *subject = X509_get_subject_name(cert);
    return X509_set_version(cert, 2) == 1 &&
           ASN1_INTEGER_set(X509_get_serialNumber(cert), serial++) == 1 &&
           X509_gmtime_adj(X509_getm_notBefore(cert), from) != NULL &&
           X509_gmtime_adj(X509_getm_notAfter(cert), to) != NULL &&
           X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_ASC,
                                      (const unsigned char *)common_name, -1, -1, 0) == 1 &&
           X509_set_issuer_name(cert, X509_get_subject_name(issuer)) == 1 &&
           X509_set_pubkey(cert, made->key) == 1 &&
           extend_cert(cert, issuer, NID_basic_constraints,
                       by == NULL ? "critical,CA:TRUE" : "critical,CA:FALSE") &&
           extend_cert(cert, issuer, NID_subject_key_identifier, "hash") &&
           extend_cert(cert, issuer, NID_authority_key_identifier, "keyid") &&
           (names == NULL || extend_cert(cert, issuer, NID_subject_alt_name, names)) &&
           X509_sign(cert, by != NULL ? by->key : made->key, EVP_sha256()) > 0;
}

static bool identity_write(const struct identity *made, const char *cert, const char *key)
{
    FILE *file = fopen(cert, "we");
    bool done = file != NULL && PEM_write_X509(file, made->cert) == 1;
    if (file != NULL && fclose(file) != 0) done = false;
    if (!done || key == NULL) return done;
    file = fopen(key, "we");
    done = file != NULL && PEM_write_PrivateKey(file, made->key, NULL, NULL, 0, NULL, NULL) == 1;
    return (file == NULL || fclose(file) == 0) && done;
}

static void identity_free(struct identity *made)
{
    EVP_PKEY_free(made->key);
    X509_free(made->cert);
}

bool certificates_make(struct certificates *all, const char *folder)
{
    static const char here[] = "IP:127.0.0.1,DNS:localhost";
    static const struct {
        const char *file, *common_name, *names;
        bool by_stranger, expired;
    } wanted[CERTIFICATE_COUNT] = {
        [CERTIFICATE_SERVER] = { "server", "localhost", here, false, false },
        [CERTIFICATE_EXPIRED] = { "expired", "localhost", here, false, true },
        [CERTIFICATE_ELSEWHERE] = { "elsewhere", "elsewhere.example",
                                    "IP:192.0.2.1,DNS:elsewhere.example", false, false },
        [CERTIFICATE_STRANGER] = { "stranger", "localhost", here, true, false },
        [CERTIFICATE_CLIENT] = { "client", "belay-test", NULL, false, false },
    };
    struct identity ca = { 0 }, stranger = { 0 };
    snprintf(all->ca, sizeof all->ca, "%s/ca.pem", folder);
    snprintf(all->stranger, sizeof all->stranger, "%s/stranger-ca.pem", folder);
    bool done = identity_make(&ca, NULL, "belay test CA", NULL, -2 * DAY, 10 * DAY) &&
                identity_make(&stranger, NULL, "another CA", NULL, -2 * DAY, 10 * DAY) &&
                identity_write(&ca, all->ca, NULL) &&
                identity_write(&stranger, all->stranger, NULL);
    for (int i = 0; done && i < CERTIFICATE_COUNT; i++) {
        struct identity leaf = { 0 };
        snprintf(all->cert[i], sizeof all->cert[i], "%s/%s.pem", folder, wanted[i].file);
        snprintf(all->key[i], sizeof all->key[i], "%s/%s.key", folder, wanted[i].file);
        done = identity_make(&leaf, wanted[i].by_stranger ? &stranger : &ca, wanted[i].common_name,
                             wanted[i].names, -2 * DAY, wanted[i].expired ? -DAY : 10 * DAY) &&
               identity_write(&leaf, all->cert[i], all->key[i]);
        identity_free(&leaf);
    }
    identity_free(&ca);
    identity_free(&stranger);
    if (!done) fprintf(stderr, "certificates: could not make them in %s\n", folder);
    return done;
}
