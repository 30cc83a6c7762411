/* peer.c - a thread that accepts, and one for each connection that plays its script with blocking
 * reads, so that a script reads from top to bottom. A socket is shut down from outside to end its
 * thread, and closed by that thread alone. */
#define _GNU_SOURCE
#include "tests/fake/peer.h"
#include "tests/live/until.h"

#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define SCRIPTS 32
#define FILLERS 8

struct peer_connection {
    struct peer *peer;
    struct peer_connection *next;
    int number, fd;
    pthread_t thread;
    bool open;       /* under the peer's lock: fd may be used */
    bool played;     /* its script, to the end; under the peer's lock */
    atomic_bool cut; /* from outside: a send that blocks gives up */
    pthread_mutex_t writing;
    bool hang_up, reset; /* its thread's */
    int subscribed;
    char *bytes; /* received, not parsed */
    size_t length, room;
};

struct script {
    int number;
    const struct peer_step *steps;
    size_t count;
};

struct peer {
    struct peer_options options;
    char url[160], run_id[48];
    int port, listener, wake;
    int fillers[FILLERS];
    pthread_t thread;
    pthread_mutex_t lock;     /* of what follows */
    pthread_mutex_t handling; /* one handle at a time */
    bool ending, refusing;
    int accepted, goes;
    struct peer_connection *connections;
    struct script scripts[SCRIPTS];
    int script_count;
    struct requests requests;
};

/* ------------------------------------------------------------------ the listener */

static int listen_unix(struct peer *peer)
{
    struct sockaddr_un at = { .sun_family = AF_UNIX };
    snprintf(at.sun_path, sizeof at.sun_path, "%s", peer->options.socket);
    unlink(at.sun_path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) return -1;
    if (bind(fd, (struct sockaddr *)&at, sizeof at) != 0 ||
        listen(fd, peer->options.never_accepts ? 0 : 128) != 0) {
        close(fd);
        return -1;
    }
    snprintf(peer->url, sizeof peer->url, "redis+unix://%s", peer->options.socket);
    return fd;
}

/* The port it had, or any. */
static int listen_tcp(struct peer *peer)
{
    struct sockaddr_in at = { .sin_family = AF_INET,
                              .sin_port = htons((uint16_t)peer->port),
                              .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t size = sizeof at;
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) return -1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(fd, (struct sockaddr *)&at, sizeof at) != 0 ||
        listen(fd, peer->options.never_accepts ? 0 : 128) != 0 ||
        getsockname(fd, (struct sockaddr *)&at, &size) != 0) {
        close(fd);
        return -1;
    }
    peer->port = ntohs(at.sin_port);
    snprintf(peer->url, sizeof peer->url, "redis://127.0.0.1:%d", peer->port);
    return fd;
}

static int listener_open(struct peer *peer)
{
    return peer->options.socket != NULL ? listen_unix(peer) : listen_tcp(peer);
}

/* Connects that fill the backlog and stay: the next one gets no answer. */
static void backlog_fill(struct peer *peer)
{
    union {
        struct sockaddr any;
        struct sockaddr_un local;
        struct sockaddr_in inet;
    } at;
    socklen_t size = sizeof at;
    getsockname(peer->listener, &at.any, &size);
    for (int i = 0; i < FILLERS; i++) {
        int fd = socket(at.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (fd < 0) break;
        peer->fillers[i] = fd;
        (void)connect(fd, &at.any, size); /* loopback connects finish at once where there is room */
    }
}

/* ------------------------------------------------------------------ one connection */

static void send_all(struct peer_connection *c, const void *bytes, size_t length)
{
    const char *at = bytes;
    pthread_mutex_lock(&c->writing);
    while (length > 0 && !atomic_load(&c->cut)) {
        ssize_t sent = send(c->fd, at, length, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent < 0 && errno == EINTR) continue;
        if (sent < 0 && errno == EAGAIN) {
            struct pollfd room = { .fd = c->fd, .events = POLLOUT };
            poll(&room, 1, 10);
            continue;
        }
        if (sent <= 0) break; /* the reading side will notice */
        at += sent;
        length -= (size_t)sent;
    }
    pthread_mutex_unlock(&c->writing);
}

/* Parses and keeps one command if one is complete; false when there is none. A stream that is no
 * RESP is kept as bytes. */
static bool command_take(struct peer_connection *c, const struct request **out)
{
    struct request *request;
    long used = request_parse(c->bytes, c->length, &request);
    if (request == NULL) return false;
    request->connection = c->number;
    memmove(c->bytes, c->bytes + used, c->length - (size_t)used);
    c->length -= (size_t)used;
    *out = request;
    requests_add(&c->peer->requests, request);
    return true;
}

/* Waits `ms` (-1: for ever) for bytes. False: the connection has ended. */
static bool bytes_read(struct peer_connection *c, int ms)
{
    struct pollfd at = { .fd = c->fd, .events = POLLIN };
    int ready = poll(&at, 1, ms);
    if (ready == 0 || (ready < 0 && errno == EINTR)) return true;
    if (c->room - c->length < 4096) {
        c->room = c->room * 2 + 65536;
        c->bytes = realloc(c->bytes, c->room);
        if (c->bytes == NULL) abort();
    }
    ssize_t got = recv(c->fd, c->bytes + c->length, c->room - c->length, 0);
    if (got < 0 && errno == EINTR) return true;
    if (got <= 0) return false;
    c->length += (size_t)got;
    return true;
}

/* The next command; NULL: the connection has ended. */
static const struct request *command_read(struct peer_connection *c)
{
    const struct request *request = NULL;
    while (!command_take(c, &request))
        if (!bytes_read(c, -1)) return NULL;
    return request;
}

/* ------------------------------------------------------------------ what a Redis would say */

static void say_info(struct peer_connection *c)
{
    const struct peer_options *options = &c->peer->options;
    char text[2048];
    snprintf(text, sizeof text,
             "# Server\r\nredis_version:%s\r\nredis_mode:standalone\r\nrun_id:%s\r\n"
             "uptime_in_seconds:100000\r\n# Memory\r\nmaxmemory:0\r\n"
             "maxmemory_policy:noeviction\r\n# Persistence\r\nloading:0\r\naof_enabled:0\r\n"
             "# Replication\r\nrole:master\r\nconnected_slaves:0\r\n%s",
             options->version != NULL ? options->version : "7.0.15", c->peer->run_id,
             options->info != NULL ? options->info : "");
    peer_reply_bulk(c, text);
}

static void say_subscribed(struct peer_connection *c, int argc, char **argv)
{
    char text[600];
    for (int i = 1; i < argc; i++) {
        snprintf(text, sizeof text, "*3\r\n$9\r\nsubscribe\r\n$%zu\r\n%.500s\r\n:%d\r\n",
                 strlen(argv[i]), argv[i], ++c->subscribed);
        peer_reply(c, text);
    }
}

static void say_client(struct peer_connection *c, int argc, char **argv)
{
    char text[32];
    const char *verb = argc > 1 ? argv[1] : "";
    if (strcasecmp(verb, "ID") == 0) {
        snprintf(text, sizeof text, ":%d\r\n", 100 + c->number);
        peer_reply(c, text);
    } else if (strcasecmp(verb, "KILL") == 0) {
        peer_reply(c, ":0\r\n");
    } else if (strcasecmp(verb, "LIST") == 0) {
        peer_reply_bulk(c, "");
    } else {
        peer_reply(c, "+OK\r\n");
    }
}

static void say_by_itself(struct peer_connection *c, int argc, char **argv)
{
    static const struct {
        const char *name, *reply;
    } plain[] = {
        { "AUTH", "+OK\r\n" },
        { "SELECT", "+OK\r\n" },
        { "ASKING", "+OK\r\n" },
        { "READONLY", "+OK\r\n" },
        { "WAIT", ":0\r\n" },
        { "DEL", ":0\r\n" },
        { "UNLINK", ":0\r\n" },
        { "GET", "$-1\r\n" },
        { "PTTL", ":-2\r\n" },
        { "EXISTS", ":0\r\n" },
        { "COMMAND", "*0\r\n" },
        { "SET", "+OK\r\n" },
        { "EVALSHA", "-NOSCRIPT No matching script. Please use EVAL.\r\n" },
        { "SCAN", "*2\r\n$1\r\n0\r\n*0\r\n" },
    };
    const char *name = argv[0];
    for (size_t i = 0; i < sizeof plain / sizeof plain[0]; i++)
        if (strcasecmp(name, plain[i].name) == 0) {
            peer_reply(c, plain[i].reply);
            return;
        }
    if (strcasecmp(name, "PING") == 0)
        peer_reply(c, c->subscribed > 0 ? "*2\r\n$4\r\npong\r\n$0\r\n\r\n" : "+PONG\r\n");
    else if (strcasecmp(name, "INFO") == 0) say_info(c);
    else if (strcasecmp(name, "SUBSCRIBE") == 0) say_subscribed(c, argc, argv);
    else if (strcasecmp(name, "CLIENT") == 0) say_client(c, argc, argv);
    else if (strcasecmp(name, "CONFIG") == 0)
        peer_reply(c, argc > 1 && strcasecmp(argv[1], "GET") == 0 ? "*0\r\n" : "+OK\r\n");
    else if (strcasecmp(name, "ROLE") == 0) peer_reply(c, "*3\r\n$6\r\nmaster\r\n:0\r\n*0\r\n");
    else if (strcasecmp(name, "ACL") == 0) peer_reply_bulk(c, "default");
    else if (strcasecmp(name, "TIME") == 0) peer_reply(c, "*2\r\n$10\r\n1767225600\r\n$1\r\n0\r\n");
    else if (strcasecmp(name, "QUIT") == 0) {
        peer_reply(c, "+OK\r\n");
        c->hang_up = true;
    } else {
        char text[128];
        snprintf(text, sizeof text, "-ERR unknown command '%.64s'\r\n", name);
        peer_reply(c, text);
    }
}

void peer_reply_bytes(struct peer_connection *connection, const void *bytes, size_t length)
{
    send_all(connection, bytes, length);
}

void peer_reply(struct peer_connection *connection, const char *bytes)
{
    send_all(connection, bytes, strlen(bytes));
}

void peer_reply_bulk(struct peer_connection *connection, const char *text)
{
    size_t length = strlen(text), room = length + 32;
    char *bytes = malloc(room);
    if (bytes == NULL) abort();
    int used = snprintf(bytes, room, "$%zu\r\n%s\r\n", length, text);
    send_all(connection, bytes, (size_t)used);
    free(bytes);
}

void peer_hang_up(struct peer_connection *connection, bool reset)
{
    connection->hang_up = true;
    connection->reset = reset;
}

int peer_number(const struct peer_connection *connection)
{
    return connection->number;
}

/* ------------------------------------------------------------------ playing */

static void answer(struct peer_connection *c, const struct request *request)
{
    struct peer *peer = c->peer;
    pthread_mutex_lock(&peer->handling);
    bool handled = peer->options.handle != NULL &&
                   peer->options.handle(peer->options.arg, c, request->argc, request->argv);
    pthread_mutex_unlock(&peer->handling);
    if (!handled) say_by_itself(c, request->argc, request->argv);
}

/* Answers so many commands (0: all), or until one matches. False: the connection is to end. */
static bool serve(struct peer_connection *c, size_t count, const char *until_one)
{
    for (size_t i = 0; count == 0 || i < count; i++) {
        const struct request *request = command_read(c);
        if (request == NULL) return false;
        if (until_one != NULL && request_is(request, until_one)) return true;
        answer(c, request);
        if (c->hang_up) return false;
    }
    return true;
}

/* Waits for one peer_go; unless it is deaf it reads and keeps what comes meanwhile. */
static bool wait_to_go(struct peer_connection *c, bool deaf)
{
    struct peer *peer = c->peer;
    const struct request *unused;
    for (;;) {
        pthread_mutex_lock(&peer->lock);
        bool go = peer->goes > 0;
        if (go) peer->goes--;
        pthread_mutex_unlock(&peer->lock);
        if (go) return true;
        if (deaf && atomic_load(&c->cut)) return false;
        if (deaf) until_pause();
        else if (!bytes_read(c, 1)) return false;
        while (!deaf && command_take(c, &unused)) continue;
    }
}

static bool play_step(struct peer_connection *c, const struct peer_step *step)
{
    const struct request *request;
    size_t length = step->count > 0 ? step->count : step->text != NULL ? strlen(step->text) : 0;
    switch (step->act) {
    case PEER_EXPECT:
        for (size_t i = 0; i < step->count || i == 0; i++)
            if (command_read(c) == NULL) return false;
        return true;
    case PEER_EXPECT_IS:
        do request = command_read(c);
        while (request != NULL && !request_is(request, step->text));
        return request != NULL;
    case PEER_UNTIL: return serve(c, 0, step->text);
    case PEER_SEND: send_all(c, step->text, length); return true;
    case PEER_DRIP:
        for (size_t i = 0; i < length; i++) {
            send_all(c, step->text + i, 1);
            for (int64_t end = until_now_ms() + step->ms; until_now_ms() < end;)
                if (!bytes_read(c, 1)) return false;
        }
        return true;
    case PEER_WAIT: return wait_to_go(c, false);
    case PEER_DEAF: return wait_to_go(c, true);
    case PEER_CLOSE: return false;
    case PEER_RESET: c->reset = true; return false;
    case PEER_SILENT:
        while (command_read(c) != NULL) continue;
        return false;
    case PEER_SERVE: return serve(c, step->count, NULL);
    }
    return false;
}

static const struct script *script_of(struct peer *peer, int number)
{
    const struct script *found = NULL;
    pthread_mutex_lock(&peer->lock);
    for (int i = 0; i < peer->script_count; i++)
        if (peer->scripts[i].number == number ||
            (peer->scripts[i].number == PEER_ALL && found == NULL))
            found = &peer->scripts[i];
    pthread_mutex_unlock(&peer->lock);
    return found;
}

static void *connection_main(void *arg)
{
    struct peer_connection *c = arg;
    struct peer *peer = c->peer;
    const struct script *script = script_of(peer, c->number);
    bool open = true;
    for (size_t i = 0; script != NULL && open && i < script->count; i++)
        open = play_step(c, &script->steps[i]);
    pthread_mutex_lock(&peer->lock);
    c->played = true;
    pthread_mutex_unlock(&peer->lock);
    if (open) serve(c, 0, NULL);
    pthread_mutex_lock(&peer->lock);
    if (c->reset) {
        struct linger now = { .l_onoff = 1, .l_linger = 0 };
        setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
    }
    c->open = false;
    close(c->fd);
    pthread_mutex_unlock(&peer->lock);
    return NULL;
}

static void connection_begin(struct peer *peer, int fd)
{
    struct peer_connection *c = calloc(1, sizeof *c);
    if (c == NULL) abort();
    c->peer = peer;
    c->fd = fd;
    c->open = true;
    pthread_mutex_init(&c->writing, NULL);
    pthread_mutex_lock(&peer->lock);
    c->number = peer->accepted++;
    c->next = peer->connections;
    peer->connections = c;
    if (pthread_create(&c->thread, NULL, connection_main, c) != 0) abort();
    pthread_mutex_unlock(&peer->lock);
}

static void *peer_main(void *arg)
{
    struct peer *peer = arg;
    for (;;) {
        pthread_mutex_lock(&peer->lock);
        bool ending = peer->ending;
        int listener = peer->refusing || peer->options.never_accepts ? -1 : peer->listener;
        pthread_mutex_unlock(&peer->lock);
        if (ending) return NULL;
        struct pollfd at[2] = { { .fd = peer->wake, .events = POLLIN },
                                { .fd = listener, .events = POLLIN } };
        if (poll(at, 2, -1) < 0) continue;
        uint64_t kicks;
        if (at[0].revents != 0 && read(peer->wake, &kicks, sizeof kicks) < 0) continue;
        if ((at[1].revents & POLLIN) == 0) continue;
        pthread_mutex_lock(&peer->lock);
        int fd = peer->refusing ? -1 : accept4(peer->listener, NULL, NULL, SOCK_CLOEXEC);
        pthread_mutex_unlock(&peer->lock);
        if (fd >= 0) connection_begin(peer, fd);
    }
}

static void peer_kick(struct peer *peer)
{
    uint64_t one = 1;
    if (write(peer->wake, &one, sizeof one) < 0) abort();
}

/* ------------------------------------------------------------------ from outside */

struct peer *peer_start(const struct peer_options *options)
{
    static const struct peer_options plain = { 0 };
    struct peer *peer = calloc(1, sizeof *peer);
    if (peer == NULL) return NULL;
    peer->options = options != NULL ? *options : plain;
    snprintf(peer->run_id, sizeof peer->run_id, "%s",
             peer->options.run_id != NULL ? peer->options.run_id
                                          : "0101010101010101010101010101010101010101");
    peer->listener = listener_open(peer);
    if (peer->listener < 0) {
        fprintf(stderr, "peer: no listener: %s\n", strerror(errno));
        free(peer);
        return NULL;
    }
    pthread_mutex_init(&peer->lock, NULL);
    pthread_mutex_init(&peer->handling, NULL);
    requests_init(&peer->requests);
    if (peer->options.never_accepts) backlog_fill(peer);
    peer->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (peer->wake < 0 || pthread_create(&peer->thread, NULL, peer_main, peer) != 0) abort();
    return peer;
}

void peer_end(struct peer *peer)
{
    if (peer == NULL) return;
    pthread_mutex_lock(&peer->lock);
    peer->ending = true;
    pthread_mutex_unlock(&peer->lock);
    peer_kick(peer);
    pthread_join(peer->thread, NULL);
    peer_cut(peer, PEER_ALL, false);
    for (struct peer_connection *c = peer->connections, *next; c != NULL; c = next) {
        next = c->next;
        pthread_join(c->thread, NULL);
        pthread_mutex_destroy(&c->writing);
        free(c->bytes);
        free(c);
    }
    for (int i = 0; i < FILLERS; i++)
        if (peer->fillers[i] > 0) close(peer->fillers[i]);
    if (!peer->refusing) close(peer->listener);
    if (peer->options.socket != NULL) unlink(peer->options.socket);
    close(peer->wake);
    requests_fini(&peer->requests);
    pthread_mutex_destroy(&peer->handling);
    pthread_mutex_destroy(&peer->lock);
    free(peer);
}

int peer_port(const struct peer *peer)
{
    return peer->port;
}

const char *peer_url(const struct peer *peer)
{
    return peer->url;
}

void peer_lock(struct peer *peer)
{
    pthread_mutex_lock(&peer->handling);
}

void peer_unlock(struct peer *peer)
{
    pthread_mutex_unlock(&peer->handling);
}

bool peer_say(struct peer *peer, int number, const void *bytes, size_t length)
{
    bool said = false;
    pthread_mutex_lock(&peer->lock);
    for (struct peer_connection *c = peer->connections; c != NULL; c = c->next)
        if (c->number == number && c->open) {
            send_all(c, bytes, length);
            said = true;
        }
    pthread_mutex_unlock(&peer->lock);
    return said;
}

void peer_cut(struct peer *peer, int number, bool reset)
{
    pthread_mutex_lock(&peer->lock);
    for (struct peer_connection *c = peer->connections; c != NULL; c = c->next) {
        if (!c->open || (number != PEER_ALL && c->number != number)) continue;
        struct linger now = { .l_onoff = 1, .l_linger = 0 };
        if (reset) setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
        /* Its thread sees the end of the stream and closes. For an RST nothing may have been said
         * yet: only the reading side is shut down. */
        atomic_store(&c->cut, true);
        shutdown(c->fd, reset ? SHUT_RD : SHUT_RDWR);
    }
    pthread_mutex_unlock(&peer->lock);
}

void peer_refuse(struct peer *peer, bool refuse)
{
    pthread_mutex_lock(&peer->lock);
    if (refuse && !peer->refusing) {
        shutdown(peer->listener, SHUT_RDWR); /* poll in the thread would keep it listening */
        close(peer->listener);
        if (peer->options.socket != NULL) unlink(peer->options.socket);
        peer->listener = -1;
    } else if (!refuse && peer->refusing) {
        peer->listener = listener_open(peer);
        if (peer->listener < 0) abort();
    }
    peer->refusing = refuse;
    pthread_mutex_unlock(&peer->lock);
    peer_kick(peer);
}

void peer_script(struct peer *peer, int number, const struct peer_step *steps, size_t count)
{
    pthread_mutex_lock(&peer->lock);
    if (peer->script_count == SCRIPTS) abort();
    peer->scripts[peer->script_count++] =
        (struct script){ .number = number, .steps = steps, .count = count };
    pthread_mutex_unlock(&peer->lock);
}

void peer_go(struct peer *peer)
{
    pthread_mutex_lock(&peer->lock);
    peer->goes++;
    pthread_mutex_unlock(&peer->lock);
}

static bool has_played(struct peer *peer, int number)
{
    bool played = false;
    pthread_mutex_lock(&peer->lock);
    for (struct peer_connection *c = peer->connections; c != NULL; c = c->next)
        if (c->number == number) played = c->played;
    pthread_mutex_unlock(&peer->lock);
    return played;
}

bool peer_played(struct peer *peer, int number, int ms)
{
    return until_within(ms, has_played(peer, number));
}

struct requests *peer_requests(struct peer *peer)
{
    return &peer->requests;
}

int peer_connections(struct peer *peer)
{
    pthread_mutex_lock(&peer->lock);
    int count = peer->accepted;
    pthread_mutex_unlock(&peer->lock);
    return count;
}

int peer_live(struct peer *peer)
{
    int count = 0;
    pthread_mutex_lock(&peer->lock);
    for (struct peer_connection *c = peer->connections; c != NULL; c = c->next) count += c->open;
    pthread_mutex_unlock(&peer->lock);
    return count;
}
