/* tls_context.h - what tls.c and tls_context.c share. */
#ifndef BELAY_BACKENDS_RESP_TLS_CONTEXT_H
#define BELAY_BACKENDS_RESP_TLS_CONTEXT_H

#include "tls.h"

#include <openssl/ssl.h>
#include <string.h>

struct belay__tls_context {
    belay_env *env;
    SSL_CTX *ssl;
    bool own_ca; /* not the system's store */
    bool has_cert;
    char *server_name; /* or NULL */
};

/* Fit to be verified: "" would match every certificate, ".a.b" everything below a.b. */
static inline bool belay__tls_is_name(const char *name)
{
    return name[0] != '\0' && name[0] != '.' && strlen(name) <= 255;
}

#endif
