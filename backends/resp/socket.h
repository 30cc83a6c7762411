/* socket.h - where a server is, and a socket that is on its way there. */
#ifndef BELAY_BACKENDS_RESP_SOCKET_H
#define BELAY_BACKENDS_RESP_SOCKET_H

#include <belay/backend.h>
#include <sys/socket.h>
#include <sys/un.h>

struct belay__address {
    union {
        struct sockaddr any;
        struct sockaddr_storage room;
        struct sockaddr_un unix_path;
    } at;
    socklen_t length;
};

enum { BELAY__ADDRESSES = 8 };
struct belay__addresses {
    size_t count;
    struct belay__address list[BELAY__ADDRESSES];
};

/* A unix socket's path. False: longer than the system takes. */
bool belay__address_path(struct belay__addresses *out, const char *path);
/* What needs no asking: a numeric IPv4 or IPv6 address, "localhost" (RFC 6761). False: a name. */
bool belay__address_known(struct belay__addresses *out, const char *host, uint16_t port);
/* Asks the system's resolver, and blocks while it does. NULL, or why not. */
const char *belay__address_ask(struct belay__addresses *out, const char *host, uint16_t port);

/* A socket of ours (non-blocking, close-on-exec, never one of the first three descriptors) that
 * begins to connect. 0 or an errno; *fd is -1 then. */
int belay__socket_connect(const struct belay__address *address, int *fd);
/* How the connecting ended: 0, or an errno. */
int belay__socket_error(int fd);

#endif
