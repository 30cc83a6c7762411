/* socket.c - see socket.h. */
#include "backends/resp/socket.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

bool belay__address_path(struct belay__addresses *out, const char *path)
{
    struct belay__address *address = &out->list[0];
    memset(out, 0, sizeof *out);
    if (strlen(path) >= sizeof address->at.unix_path.sun_path) return false;
    address->at.unix_path.sun_family = AF_UNIX;
    memcpy(address->at.unix_path.sun_path, path, strlen(path) + 1);
    address->length = (socklen_t)sizeof address->at.unix_path;
    out->count = 1;
    return true;
}

static void add(struct belay__addresses *out, const void *at, socklen_t length)
{
    if (out->count == BELAY__ADDRESSES || length > sizeof out->list[0].at) return;
    struct belay__address *address = &out->list[out->count++];
    memcpy(&address->at, at, length);
    address->length = length;
}

static const char *ask(struct belay__addresses *out, const char *host, uint16_t port, int flags)
{
    struct addrinfo wanted = { .ai_family = AF_UNSPEC,
                               .ai_socktype = SOCK_STREAM,
                               .ai_flags = AI_NUMERICSERV | flags };
    struct addrinfo *found = NULL;
    char service[8];
    memset(out, 0, sizeof *out);
    snprintf(service, sizeof service, "%u", (unsigned)port);
    int failed = getaddrinfo(host, service, &wanted, &found);
    if (failed != 0) return gai_strerror(failed);
    for (const struct addrinfo *one = found; one != NULL; one = one->ai_next)
        add(out, one->ai_addr, one->ai_addrlen);
    freeaddrinfo(found);
    return out->count > 0 ? NULL : "the name has no address";
}

bool belay__address_known(struct belay__addresses *out, const char *host, uint16_t port)
{
    if (strcmp(host, "localhost") == 0) {
        struct sockaddr_in four = { .sin_family = AF_INET, .sin_port = htons(port) };
        struct sockaddr_in6 six = { .sin6_family = AF_INET6, .sin6_port = htons(port) };
        four.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        six.sin6_addr = in6addr_loopback;
        memset(out, 0, sizeof *out);
        add(out, &four, sizeof four);
        add(out, &six, sizeof six);
        return true;
    }
    return ask(out, host, port, AI_NUMERICHOST) == NULL; /* also "fe80::1%eth0" */
}

const char *belay__address_ask(struct belay__addresses *out, const char *host, uint16_t port)
{
    return ask(out, host, port, AI_ADDRCONFIG);
}

int belay__socket_connect(const struct belay__address *address, int *fd)
{
    int family = address->at.any.sa_family, one = 1;
    *fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (*fd >= 0 && *fd < 3) { /* a program that closed its standard streams */
        int low = *fd;
        *fd = fcntl(low, F_DUPFD_CLOEXEC, 3);
        int failed = errno;
        close(low);
        errno = failed;
    }
    if (*fd < 0) return errno;
    if (family != AF_UNIX) {
        setsockopt(*fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        setsockopt(*fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof one);
    }
    if (connect(*fd, &address->at.any, address->length) == 0 || errno == EINPROGRESS ||
        errno == EINTR)
        return 0;
    int failed = errno;
    close(*fd);
    *fd = -1;
    return failed;
}

int belay__socket_error(int fd)
{
    int error = 0;
    socklen_t length = sizeof error;
    return getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length) == 0 ? error : errno;
}
