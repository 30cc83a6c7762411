/* tls.h - TLS without a socket: bytes in, bytes out. The link owns the socket and moves the bytes.
 *
 * A context is what a backend's settings say (CA, certificate, key), made once; a session is one
 * connection's. The peer's certificate is always verified, its host name or address too; there is
 * no way to turn that off, and no fallback to plaintext. TLS 1.2 at least.
 *
 * OpenSSL is at home in tls.c and tls_context.c alone. All of it runs under the client's monitor;
 * none of it blocks.
 */
#ifndef BELAY_BACKENDS_RESP_TLS_H
#define BELAY_BACKENDS_RESP_TLS_H

#include <belay/backend.h>

struct belay__tls_context;
struct belay__tls;

/* Paths of PEM files. `ca` NULL: the system's store; a directory of hashed certificates is allowed.
 * `cert` and `key` come together or not at all. `server_name`: what to verify and send as SNI
 * instead of the host that is connected to, or NULL. */
struct belay__tls_options {
    const char *ca, *cert, *key, *server_name;
};

/* OK, or: CONFIG, a file that can't be read or is not what it should be, named in the text; NOMEM.
 */
belay_status belay__tls_context_create(struct belay__tls_context **out, belay_env *env,
                                       const struct belay__tls_options *options, belay_error *err);
void belay__tls_context_destroy(struct belay__tls_context *context); /* NULL is allowed */

enum belay__tls_state {
    BELAY__TLS_SHAKING, /* the handshake is under way */
    BELAY__TLS_OPEN,
    BELAY__TLS_ENDED, /* the peer closed it in order */
    BELAY__TLS_FAILED /* belay__tls_why says how */
};

/* A client's session with `host` (a name, or a numeric address without brackets; verified by name
 * or by address accordingly, unless the context has a server_name; SNI is sent for names only).
 * The first bytes of the handshake are pending at once. NULL: memory ran out. A host that no
 * certificate can be for (empty, ".a") has failed at once. */
struct belay__tls *belay__tls_open(struct belay__tls_context *context, const char *host);
void belay__tls_close(struct belay__tls *tls); /* NULL is allowed; frees, sends nothing */
enum belay__tls_state belay__tls_state(const struct belay__tls *tls);

/* Ciphertext that came from the socket. Goes on with the handshake when there is one; afterwards it
 * is decrypted by reading: read until there is nothing before feeding more (a megabyte that nobody
 * read is a failure). `length` 0 says that the socket has ended: without the peer's goodbye that is
 * a failure too; what was fed can't be read any more then. */
enum belay__tls_state belay__tls_feed(struct belay__tls *tls, const void *bytes, size_t length);
/* Plaintext that has arrived: up to `size` bytes into `out`; returns how many, 0 for none now. That
 * the peer ended the stream, refused us or broke it shows when all before it was read: look at the
 * state after a 0. (With TLS 1.3 a server refuses our certificate only after we are open.) */
size_t belay__tls_read(struct belay__tls *tls, void *out, size_t size);
/* Encrypts all of it, or nothing: 0 while the handshake goes on or after a failure, else `length`.
 */
size_t belay__tls_write(struct belay__tls *tls, const void *bytes, size_t length);
/* Ciphertext that waits to be sent, contiguous; *length is 0 when there is none. Valid until the
 * next call. Then say how much of it the socket took. After feed and read look here too: the peer
 * may have asked for an answer; and after a failure, for the alert that tells the peer why. */
const void *belay__tls_pending(struct belay__tls *tls, size_t *length);
void belay__tls_sent(struct belay__tls *tls, size_t length);

/* Why it failed, in a line: "the certificate is not for 10.0.0.1", "certificate has expired",
 * "the peer does not speak TLS". Empty while it did not. Valid until close. */
const char *belay__tls_why(const struct belay__tls *tls);
/* True if asking again can't help without somebody changing a certificate or a setting
 * (verification failed, handshake refused); false if the stream merely broke. */
bool belay__tls_refused(const struct belay__tls *tls);

/* For the doctor, when open. `not_after_s`: seconds since 1970 when the peer's certificate ends;
 * -1: not known. `version`: "TLSv1.3". */
int64_t belay__tls_not_after_s(const struct belay__tls *tls);
const char *belay__tls_version(const struct belay__tls *tls);

#endif
