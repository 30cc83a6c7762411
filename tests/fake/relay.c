/* relay.c - one thread and poll. A pair is a client's socket and the server's; each way of a pair
 * is a queue of chunks, each with the moment from which it may be written.
 *
 * Controls change the state under the lock and kick the thread, which alone touches the sockets. */
#define _GNU_SOURCE
#include "tests/fake/relay.h"
#include "tests/live/until.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define PAIRS 512 /* at once */

struct chunk {
    struct chunk *next;
    int64_t due_us;
    size_t at, length;
    char bytes[];
};

struct way {
    bool held, dropped;
    bool ended;    /* its source has no more */
    bool shut;     /* and its sink was told */
    char *partial; /* read, and not a whole request or reply yet */
    size_t length, room;
    int64_t passed; /* requests, or replies, that were put into the queue */
    struct chunk *first, **last;
};

struct pair {
    struct pair *next;
    int number;
    int fds[2]; /* [RELAY_UP]: where what goes up comes from, the client; [RELAY_DOWN]: the server
                 */
    struct way ways[2];
    bool raw;
    bool cut, reset;      /* to be cut as soon as the thread sees it */
    enum relay_trap trap; /* waits for a reply */
    int64_t trap_reply;   /* the number of that reply; 0: the first */
    bool pushes;          /* subscribed: what comes down is not counted */
};

struct relay {
    struct relay_options options;
    char url[160];
    int port, listener, wake;
    pthread_t thread;
    pthread_mutex_t lock; /* of all that follows */
    bool ending, refusing;
    int accepted;
    int delay_ms[2];
    bool held[2], dropped[2]; /* of future pairs */
    int64_t bytes[2];
    struct pair *pairs;
    enum relay_trap trap;
    char pattern[128];
    int trapped;
    struct requests requests;
};

/* ------------------------------------------------------------------ sockets */

union address {
    struct sockaddr any;
    struct sockaddr_un local;
    struct sockaddr_in inet;
};

static socklen_t address_of(union address *at, const char *path, int port)
{
    memset(at, 0, sizeof *at);
    if (path != NULL) {
        at->local.sun_family = AF_UNIX;
        snprintf(at->local.sun_path, sizeof at->local.sun_path, "%s", path);
        return sizeof at->local;
    }
    at->inet.sin_family = AF_INET;
    at->inet.sin_port = htons((uint16_t)port);
    at->inet.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return sizeof at->inet;
}

static int listener_open(struct relay *relay)
{
    union address at;
    int one = 1;
    socklen_t size = address_of(&at, relay->options.socket, relay->port);
    if (relay->options.socket != NULL) unlink(relay->options.socket);
    int fd = socket(at.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) return -1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(fd, &at.any, size) != 0 || listen(fd, 256) != 0) {
        close(fd);
        return -1;
    }
    if (relay->options.socket == NULL && getsockname(fd, &at.any, &size) == 0)
        relay->port = ntohs(at.inet.sin_port);
    return fd;
}

static void listener_close(struct relay *relay)
{
    if (relay->refusing) return;
    shutdown(relay->listener, SHUT_RDWR); /* poll in the thread would keep it listening */
    close(relay->listener);
    if (relay->options.socket != NULL) unlink(relay->options.socket);
    relay->refusing = true;
}

/* To the server, which is on this host: it blocks for as long as the server's backlog is full, and
 * is refused at once when there is none. */
static int server_connect(const struct relay *relay)
{
    union address at;
    int one = 1;
    socklen_t size = address_of(&at, relay->options.to_socket, relay->options.to_port);
    int fd = socket(at.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) return -1;
    if (connect(fd, &at.any, size) != 0) {
        close(fd);
        return -1;
    }
    if (at.any.sa_family == AF_INET) setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    return fd;
}

static void socket_close(int fd, bool reset)
{
    struct linger now = { .l_onoff = 1, .l_linger = 0 };
    if (reset) setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
    close(fd);
}

/* ------------------------------------------------------------------ a pair */

static void way_clear(struct way *way)
{
    for (struct chunk *chunk = way->first, *next; chunk != NULL; chunk = next) {
        next = chunk->next;
        free(chunk);
    }
    way->first = NULL;
    way->last = &way->first;
}

static void pair_open(struct relay *relay, int client)
{
    int one = 1, server = server_connect(relay);
    if (server < 0) {
        socket_close(client, true);
        return;
    }
    struct pair *pair = calloc(1, sizeof *pair);
    if (pair == NULL) abort();
    if (relay->options.socket == NULL)
        setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    pair->number = relay->accepted++;
    pair->fds[RELAY_UP] = client;
    pair->fds[RELAY_DOWN] = server;
    pair->raw = relay->options.raw;
    for (int i = 0; i < 2; i++) {
        pair->ways[i].last = &pair->ways[i].first;
        pair->ways[i].held = relay->held[i];
        pair->ways[i].dropped = relay->dropped[i];
    }
    pair->next = relay->pairs;
    relay->pairs = pair;
}

static void pair_close(struct pair *pair)
{
    for (int i = 0; i < 2; i++) {
        socket_close(pair->fds[i], pair->reset);
        way_clear(&pair->ways[i]);
        free(pair->ways[i].partial);
    }
    free(pair);
}

static void enqueue(struct relay *relay, struct pair *pair, enum relay_way to, const char *bytes,
                    size_t length)
{
    struct way *way = &pair->ways[to];
    if (way->dropped) return;
    struct chunk *chunk = malloc(sizeof *chunk + length);
    if (chunk == NULL) abort();
    *chunk = (struct chunk){ .due_us = until_now_us() + (int64_t)relay->delay_ms[to] * 1000,
                             .length = length };
    memcpy(chunk->bytes, bytes, length);
    *way->last = chunk;
    way->last = &chunk->next;
}

/* ------------------------------------------------------------------ traps */

static void trap_off(struct relay *relay, const struct pair *pair)
{
    relay->trapped = pair->number;
}

/* A whole request came. False: it is not to be forwarded. */
static bool request_seen(struct relay *relay, struct pair *pair, const struct request *request)
{
    if (request_is(request, "SUBSCRIBE") || request_is(request, "PSUBSCRIBE")) pair->pushes = true;
    if (relay->trap == RELAY_NO_TRAP || !request_is(request, relay->pattern)) return true;
    enum relay_trap trap = relay->trap;
    relay->trap = RELAY_NO_TRAP;
    switch (trap) {
    case RELAY_CUT_BEFORE:
        pair->cut = true;
        trap_off(relay, pair);
        return false;
    case RELAY_HOLD_REQUEST:
        pair->ways[RELAY_UP].held = true;
        trap_off(relay, pair);
        return true;
    default: /* it is about its reply */
        pair->trap = trap;
        pair->trap_reply = pair->ways[RELAY_UP].passed;
        return true;
    }
}

/* A whole reply came, its number is ways[RELAY_DOWN].passed. False: it is not to be forwarded. */
static bool reply_seen(struct relay *relay, struct pair *pair)
{
    if (pair->trap == RELAY_NO_TRAP || pair->ways[RELAY_DOWN].passed != pair->trap_reply)
        return true;
    enum relay_trap trap = pair->trap;
    pair->trap = RELAY_NO_TRAP;
    trap_off(relay, pair);
    switch (trap) {
    case RELAY_HOLD_REPLY: pair->ways[RELAY_DOWN].held = true; return true;
    case RELAY_DROP_REPLY: pair->ways[RELAY_DOWN].dropped = true; return false;
    case RELAY_REFUSE_AFTER:
        listener_close(relay);
        /* fall through */
    default: pair->cut = true; return false;
    }
}

/* ------------------------------------------------------------------ moving bytes */

/* Moves what is whole from `partial` into the queue. */
static void way_cut_up(struct relay *relay, struct pair *pair, enum relay_way to)
{
    struct way *way = &pair->ways[to];
    size_t at = 0;
    while (at < way->length && !pair->cut) {
        const char *bytes = way->partial + at;
        size_t left = way->length - at;
        struct request *request = NULL;
        long used = pair->raw || (to == RELAY_DOWN && pair->pushes) ? (long)left
                    : to == RELAY_UP ? request_parse(bytes, left, &request)
                                     : reply_length(bytes, left);
        if (used == 0) break;
        if (used < 0) { /* not RESP: from here on only bytes */
            pair->raw = true;
            continue;
        }
        bool pass = true;
        if (request != NULL) {
            request->connection = pair->number;
            pass = request_seen(relay, pair, request);
            if (pass) requests_add(&relay->requests, request);
            else request_free(request);
        } else if (to == RELAY_DOWN && !pair->raw) {
            pass = reply_seen(relay, pair);
        }
        if (pass) enqueue(relay, pair, to, bytes, (size_t)used);
        way->passed++;
        at += (size_t)used;
    }
    memmove(way->partial, way->partial + at, way->length - at);
    way->length -= at;
}

static void way_read(struct relay *relay, struct pair *pair, enum relay_way to)
{
    struct way *way = &pair->ways[to];
    if (way->room - way->length < 16384) {
        way->room = way->room * 2 + 32768;
        way->partial = realloc(way->partial, way->room);
        if (way->partial == NULL) abort();
    }
    ssize_t got =
        recv(pair->fds[to], way->partial + way->length, way->room - way->length, MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (got <= 0) {
        way->ended = true;
        if (got < 0) pair->cut = pair->reset = true;
        return;
    }
    way->length += (size_t)got;
    way_cut_up(relay, pair, to);
}

static void way_write(struct relay *relay, struct pair *pair, enum relay_way to)
{
    struct way *way = &pair->ways[to];
    int sink = pair->fds[1 - to];
    while (way->first != NULL && !way->held && way->first->due_us <= until_now_us()) {
        struct chunk *chunk = way->first;
        ssize_t sent = send(sink, chunk->bytes + chunk->at, chunk->length - chunk->at,
                            MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent < 0 && (errno == EAGAIN || errno == EINTR)) return;
        if (sent < 0) {
            pair->cut = true;
            return;
        }
        relay->bytes[to] += sent;
        chunk->at += (size_t)sent;
        if (chunk->at < chunk->length) return;
        way->first = chunk->next;
        if (way->first == NULL) way->last = &way->first;
        free(chunk);
    }
    if (way->ended && way->first == NULL && !way->held && !way->shut) {
        way->shut = true;
        shutdown(sink, SHUT_WR);
    }
}

/* ------------------------------------------------------------------ the thread */

static void pairs_sweep(struct relay *relay)
{
    for (struct pair **at = &relay->pairs; *at != NULL;) {
        struct pair *pair = *at;
        if (pair->cut) { /* what is due goes first: replies before the one that is cut off */
            way_write(relay, pair, RELAY_DOWN);
            way_write(relay, pair, RELAY_UP);
        }
        if (pair->cut || (pair->ways[0].shut && pair->ways[1].shut)) {
            *at = pair->next;
            pair_close(pair);
        } else {
            at = &pair->next;
        }
    }
}

/* How long until the next chunk is due, in microseconds; -1: none is. */
static int64_t next_due(const struct relay *relay)
{
    int64_t first = INT64_MAX, now = until_now_us();
    for (const struct pair *pair = relay->pairs; pair != NULL; pair = pair->next)
        for (int i = 0; i < 2; i++) {
            const struct way *way = &pair->ways[i];
            if (way->first != NULL && !way->held && way->first->due_us > now &&
                way->first->due_us < first)
                first = way->first->due_us;
        }
    return first == INT64_MAX ? -1 : first - now;
}

static nfds_t polls_of(struct relay *relay, struct pollfd *polls, struct pair **whose)
{
    int64_t now = until_now_us();
    nfds_t count = 2;
    polls[0] = (struct pollfd){ .fd = relay->wake, .events = POLLIN };
    polls[1] = (struct pollfd){ .fd = relay->refusing ? -1 : relay->listener, .events = POLLIN };
    for (struct pair *pair = relay->pairs; pair != NULL && count < 2 + 2 * PAIRS; pair = pair->next)
        for (int i = 0; i < 2; i++) {
            const struct way *way = &pair->ways[i], *back = &pair->ways[1 - i];
            short events = way->ended ? 0 : POLLIN;
            if (back->first != NULL && !back->held && back->first->due_us <= now) events |= POLLOUT;
            whose[count] = pair;
            polls[count++] =
                (struct pollfd){ .fd = events != 0 ? pair->fds[i] : -1, .events = events };
        }
    return count;
}

static void *relay_main(void *arg)
{
    static __thread struct pollfd polls[2 + 2 * PAIRS];
    static __thread struct pair *whose[2 + 2 * PAIRS];
    struct relay *relay = arg;
    pthread_mutex_lock(&relay->lock);
    while (!relay->ending) {
        nfds_t count = polls_of(relay, polls, whose);
        int64_t us = next_due(relay);
        struct timespec wait = { .tv_sec = us / 1000000, .tv_nsec = us % 1000000 * 1000 };
        pthread_mutex_unlock(&relay->lock);
        int ready = ppoll(polls, count, us < 0 ? NULL : &wait, NULL);
        pthread_mutex_lock(&relay->lock);
        uint64_t kicks;
        if (ready > 0 && polls[0].revents != 0 && read(relay->wake, &kicks, sizeof kicks) < 0)
            abort();
        for (nfds_t i = 2; ready > 0 && i < count; i++) {
            enum relay_way way = (i & 1) == 0 ? RELAY_UP : RELAY_DOWN;
            if (polls[i].revents != 0 && !whose[i]->cut && !whose[i]->ways[way].ended)
                way_read(relay, whose[i], way);
        }
        for (struct pair *pair = relay->pairs; pair != NULL; pair = pair->next)
            for (int i = 0; i < 2 && !pair->cut; i++) way_write(relay, pair, (enum relay_way)i);
        pairs_sweep(relay);
        if (ready > 0 && (polls[1].revents & POLLIN) != 0 && !relay->refusing) {
            int fd = accept4(relay->listener, NULL, NULL, SOCK_CLOEXEC);
            if (fd >= 0) pair_open(relay, fd);
        }
    }
    pthread_mutex_unlock(&relay->lock);
    return NULL;
}

/* ------------------------------------------------------------------ from outside */

struct relay *relay_start(const struct relay_options *options)
{
    struct relay *relay = calloc(1, sizeof *relay);
    if (relay == NULL) return NULL;
    relay->options = *options;
    relay->trapped = -1;
    relay->listener = listener_open(relay);
    if (relay->listener < 0) {
        fprintf(stderr, "relay: no listener: %s\n", strerror(errno));
        free(relay);
        return NULL;
    }
    if (options->socket != NULL)
        snprintf(relay->url, sizeof relay->url, "redis+unix://%s", options->socket);
    else snprintf(relay->url, sizeof relay->url, "redis://127.0.0.1:%d", relay->port);
    pthread_mutex_init(&relay->lock, NULL);
    requests_init(&relay->requests);
    relay->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (relay->wake < 0 || pthread_create(&relay->thread, NULL, relay_main, relay) != 0) abort();
    return relay;
}

/* Every control begins and ends with these. */
static void control(struct relay *relay)
{
    pthread_mutex_lock(&relay->lock);
}

static void controlled(struct relay *relay)
{
    uint64_t one = 1;
    pthread_mutex_unlock(&relay->lock);
    if (write(relay->wake, &one, sizeof one) < 0) abort();
}

void relay_end(struct relay *relay)
{
    if (relay == NULL) return;
    control(relay);
    relay->ending = true;
    controlled(relay);
    pthread_join(relay->thread, NULL);
    for (struct pair *pair = relay->pairs, *next; pair != NULL; pair = next) {
        next = pair->next;
        pair_close(pair);
    }
    listener_close(relay);
    close(relay->wake);
    requests_fini(&relay->requests);
    pthread_mutex_destroy(&relay->lock);
    free(relay);
}

int relay_port(const struct relay *relay)
{
    return relay->port;
}

const char *relay_url(const struct relay *relay)
{
    return relay->url;
}

void relay_delay(struct relay *relay, enum relay_way way, int ms)
{
    control(relay);
    relay->delay_ms[way] = ms;
    controlled(relay);
}

void relay_hold(struct relay *relay, int number, enum relay_way way, bool hold)
{
    control(relay);
    if (number == RELAY_ALL) relay->held[way] = hold;
    for (struct pair *pair = relay->pairs; pair != NULL; pair = pair->next)
        if (number == RELAY_ALL || pair->number == number) pair->ways[way].held = hold;
    controlled(relay);
}

void relay_drop(struct relay *relay, int number, enum relay_way way, bool drop)
{
    control(relay);
    if (number == RELAY_ALL) relay->dropped[way] = drop;
    for (struct pair *pair = relay->pairs; pair != NULL; pair = pair->next)
        if (drop && (number == RELAY_ALL || pair->number == number)) {
            pair->ways[way].dropped = true;
            way_clear(&pair->ways[way]);
        }
    controlled(relay);
}

void relay_cut(struct relay *relay, int number, bool reset)
{
    control(relay);
    for (struct pair *pair = relay->pairs; pair != NULL; pair = pair->next)
        if (number == RELAY_ALL || pair->number == number) {
            pair->cut = true;
            pair->reset = reset;
            way_clear(&pair->ways[RELAY_UP]);
            way_clear(&pair->ways[RELAY_DOWN]);
        }
    controlled(relay);
}

void relay_refuse(struct relay *relay, bool refuse)
{
    control(relay);
    if (refuse) {
        listener_close(relay);
    } else if (relay->refusing) {
        relay->listener = listener_open(relay);
        if (relay->listener < 0) abort();
        relay->refusing = false;
    }
    controlled(relay);
}

void relay_turn(struct relay *relay, int to_port)
{
    control(relay);
    relay->options.to_socket = NULL;
    relay->options.to_port = to_port;
    controlled(relay);
}

void relay_trap(struct relay *relay, enum relay_trap trap, const char *pattern)
{
    control(relay);
    relay->trap = trap;
    relay->trapped = -1;
    snprintf(relay->pattern, sizeof relay->pattern, "%s", pattern != NULL ? pattern : "*");
    controlled(relay);
}

static int trapped_now(struct relay *relay)
{
    pthread_mutex_lock(&relay->lock);
    int number = relay->trapped;
    pthread_mutex_unlock(&relay->lock);
    return number;
}

int relay_trapped(struct relay *relay, int ms)
{
    (void)until_within(ms, trapped_now(relay) >= 0);
    return trapped_now(relay);
}

struct requests *relay_requests(struct relay *relay)
{
    return &relay->requests;
}

int relay_connections(struct relay *relay)
{
    pthread_mutex_lock(&relay->lock);
    int count = relay->accepted;
    pthread_mutex_unlock(&relay->lock);
    return count;
}

int relay_live(struct relay *relay)
{
    int count = 0;
    pthread_mutex_lock(&relay->lock);
    for (const struct pair *pair = relay->pairs; pair != NULL; pair = pair->next) count++;
    pthread_mutex_unlock(&relay->lock);
    return count;
}

int64_t relay_bytes(struct relay *relay, enum relay_way way)
{
    pthread_mutex_lock(&relay->lock);
    int64_t bytes = relay->bytes[way];
    pthread_mutex_unlock(&relay->lock);
    return bytes;
}
