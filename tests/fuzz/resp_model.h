/* resp_model.h - the server of resp_fuzz.c: it does what a Redis would do with every request, keeps
 * the keys, and answers with whatever it is told to, on the thread that also runs the client.
 *
 * So what a lying, silent or cut connection leaves behind can be looked at: the keys are the truth.
 * A stalled connection is not read until it is resumed, as a stopped server's. Every request must
 * be well-formed, never SCRIPT, and no owner id may be set again behind its own delete. */
#ifndef BELAY_TESTS_FUZZ_RESP_MODEL_H
#define BELAY_TESTS_FUZZ_RESP_MODEL_H

#include "backends/resp/scripts.h"

#include <belay/belay.h>
#include <belay/testing.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { CONNECTIONS = 64, KEYS = 32, OWNERS = 256, ARGUMENTS = 16, IN_SIZE = 64 << 10 };

#define BROKEN(...)                                                                                \
    do {                                                                                           \
        fprintf(stderr, "\nbroken promise: " __VA_ARGS__);                                         \
        fputc('\n', stderr);                                                                       \
        abort();                                                                                   \
    } while (0)

static bool traced; /* show what happens */

struct connection {
    int fd;           /* -1: free */
    int64_t id;       /* never given twice */
    bool stalled;     /* nothing is read */
    bool late;        /* it was stalled, once */
    bool tainted;     /* what was answered there may have been a lie */
    unsigned dropped; /* requests that got no answer */
    size_t length;
    char *in; /* IN_SIZE bytes */
};

struct key {
    char name[700];
    size_t name_length;
    char value[64];
    int64_t ends_ns;
};

/* An acquire that came in. */
struct owner {
    char id[BELAY_OWNER_LENGTH + 1];
    uint64_t open; /* where no true answer has left yet: a bit for each connection's id */
    bool lied;     /* a false one may have: the client can't know */
    bool deleted;
    bool broken; /* the program deleted it as another's */
};

struct model {
    belay_fake_world *world;
    int listener;
    struct connection connections[CONNECTIONS];
    int64_t next_id;
    struct key keys[KEYS];
    struct owner owners[OWNERS];
    size_t owner_count;
    bool knows[BELAY__SCRIPTS];
    uint64_t seq;
    bool lied; /* ever, anywhere */
    bool honest;
    int64_t jumped_ns; /* by "~t" */

    /* The script of answers, and the connection in the middle of a piece of it. */
    const char *at, *end;
    struct connection *current;
    unsigned true_ones; /* "~3": how many true answers are still to come */
    char reply[2048];   /* the true one, to the last request */
    size_t reply_length;
    size_t sent;     /* bytes, for tests of the corpus itself */
    size_t requests; /* so many came */
};

struct argument {
    const char *at;
    size_t length;
};

static inline bool argument_is(const struct argument *argument, const char *text)
{
    return argument->length == strlen(text) &&
           strncasecmp(argument->at, text, argument->length) == 0;
}

/* ------------------------------------------------------------------ connections */

static inline void connection_close(struct model *model, struct connection *connection)
{
    if (traced) fprintf(stderr, "    #%lld closed\n", (long long)connection->id);
    close(connection->fd);
    connection->fd = -1;
    if (model->current == connection) model->current = NULL;
}

/* Ids that are 64 apart share one; then a lie there excuses more than it should. */
static inline uint64_t connection_bit(const struct connection *connection)
{
    return UINT64_C(1) << (connection->id & 63);
}

/* From now on nothing that was or will be said there can be relied on. */
static inline void connection_taint(struct model *model, struct connection *connection)
{
    connection->tainted = model->lied = true;
    for (size_t i = 0; i < model->owner_count; i++)
        if (model->owners[i].open & connection_bit(connection)) model->owners[i].lied = true;
}

static inline void connection_send(struct model *model, struct connection *connection,
                                   const char *bytes, size_t length)
{
    if (length == 0) return;
    if (traced)
        fprintf(stderr, "    #%lld <- %.*s\n", (long long)connection->id, (int)length, bytes);
    ssize_t sent = send(connection->fd, bytes, length, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent > 0) model->sent += (size_t)sent;
    if (sent != (ssize_t)length) connection_close(model, connection);
}

static inline void connection_lie(struct model *model, struct connection *connection,
                                  const char *bytes, size_t length)
{
    connection_taint(model, connection);
    connection_send(model, connection, bytes, length);
}

static inline bool connections_accept(struct model *model)
{
    bool moved = false;
    for (size_t i = 0; i < CONNECTIONS; i++) {
        struct connection *connection = &model->connections[i];
        if (connection->fd >= 0) continue;
        int fd = accept4(model->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd < 0) break;
        char *in = connection->in != NULL ? connection->in : malloc(IN_SIZE);
        *connection = (struct connection){ .fd = fd, .id = ++model->next_id, .in = in };
        moved = true;
    }
    return moved;
}

/* ------------------------------------------------------------------ keys and owners */

static inline struct key *key_find(struct model *model, const struct argument *name)
{
    int64_t now = belay_fake_now(model->world);
    for (size_t i = 0; i < KEYS; i++) {
        struct key *key = &model->keys[i];
        if (key->value[0] != '\0' && key->ends_ns <= now) key->value[0] = '\0';
        if (key->value[0] != '\0' && key->name_length == name->length &&
            memcmp(key->name, name->at, name->length) == 0)
            return key;
    }
    return NULL;
}

static inline int64_t key_left_ms(const struct model *model, const struct key *key)
{
    return (key->ends_ns - belay_fake_now(model->world)) / 1000000;
}

static inline bool key_is(const struct key *key, const struct argument *value)
{
    return key != NULL && strlen(key->value) == value->length &&
           memcmp(key->value, value->at, value->length) == 0;
}

static inline int64_t number_of(const struct argument *argument)
{
    char text[32];
    snprintf(text, sizeof text, "%.*s", (int)(argument->length < 31 ? argument->length : 31),
             argument->at);
    return strtoll(text, NULL, 10);
}

static inline void key_set(struct model *model, const struct argument *name,
                           const struct argument *value, const struct argument *ttl_ms)
{
    for (size_t i = 0; i < KEYS; i++) {
        struct key *key = &model->keys[i];
        if (key->value[0] != '\0') continue;
        if (name->length > sizeof key->name || value->length >= sizeof key->value)
            BROKEN("a key of %zu bytes, a value of %zu", name->length, value->length);
        memcpy(key->name, name->at, name->length);
        key->name_length = name->length;
        memcpy(key->value, value->at, value->length);
        key->value[value->length] = '\0';
        key->ends_ns = belay_fake_now(model->world) + number_of(ttl_ms) * 1000000;
        return;
    }
}

static inline struct owner *owner_find(struct model *model, const struct argument *id)
{
    for (size_t i = 0; i < model->owner_count; i++)
        if (id->length == BELAY_OWNER_LENGTH &&
            memcmp(model->owners[i].id, id->at, id->length) == 0)
            return &model->owners[i];
    return NULL;
}

static inline void owner_acquires(struct model *model, const struct connection *connection,
                                  const struct argument *name, const struct argument *id)
{
    static const char doctor[] =
        "belay:doctor-"; /* its lock lasts a second, under a name of its own */
    if (name->length >= sizeof doctor && memcmp(name->at, doctor, sizeof doctor - 1) == 0) return;
    struct owner *owner = owner_find(model, id);
    if (id->length != BELAY_OWNER_LENGTH) BROKEN("an owner id of %zu bytes", id->length);
    if (owner != NULL && owner->deleted && !owner->broken && !connection->late)
        BROKEN("an owner id is set again behind its delete");
    if (owner == NULL && model->owner_count < OWNERS) {
        owner = &model->owners[model->owner_count++];
        *owner = (struct owner){ .lied = false };
        memcpy(owner->id, id->at, id->length);
    }
    if (owner == NULL) return;
    owner->open |= connection_bit(connection);
    if (connection->tainted || (connection->late && model->lied)) owner->lied = true;
}

/* A false answer to what was asked now would be as false about the lock. */
static inline void owner_asked(struct model *model, const struct connection *connection,
                               const struct argument *id)
{
    struct owner *owner = owner_find(model, id);
    if (owner == NULL) return;
    owner->open |= connection_bit(connection);
    if (connection->tainted) owner->lied = true;
}

/* ------------------------------------------------------------------ what a Redis would do */

static inline void answer(struct model *model, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
static inline void answer(struct model *model, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int length = vsnprintf(model->reply, sizeof model->reply, format, args);
    va_end(args);
    model->reply_length = length < (int)sizeof model->reply ? (size_t)length : 0;
}

static inline void answer_bulk(struct model *model, const char *text)
{
    answer(model, "$%zu\r\n%s\r\n", strlen(text), text);
}

static inline void delete_where(struct model *model, const struct argument *name,
                                const struct argument *id)
{
    struct key *key = key_find(model, name);
    struct owner *owner = owner_find(model, id);
    bool ours = key_is(key, id);
    if (owner != NULL) owner->deleted = true;
    if (ours) key->value[0] = '\0';
    answer(model, ":%d\r\n", ours);
}

static inline void script_run(struct model *model, const struct connection *connection,
                              enum belay__script_id script, const struct argument *keys,
                              const struct argument *args, int count)
{
    struct key *key = key_find(model, &keys[0]);
    switch (script) {
    case BELAY__SCRIPT_ACQUIRE:
    case BELAY__SCRIPT_TAKE:
        if (count < 2) BROKEN("a script without a TTL");
        owner_acquires(model, connection, &keys[0], &args[0]);
        if (key != NULL) {
            answer(model, "*3\r\n:0\r\n:%lld\r\n$6\r\nstring\r\n",
                   (long long)key_left_ms(model, key));
            return;
        }
        key_set(model, &keys[0], &args[0], &args[1]);
        if (script == BELAY__SCRIPT_ACQUIRE)
            answer(model, "*3\r\n:1\r\n:%llu\r\n:0\r\n", (unsigned long long)++model->seq);
        else answer(model, "*3\r\n:1\r\n:0\r\n:0\r\n");
        return;
    case BELAY__SCRIPT_EXTEND:
    case BELAY__SCRIPT_RAISE:
        owner_asked(model, connection, &args[0]);
        if (key_is(key, &args[0]) && key_left_ms(model, key) < number_of(&args[1]))
            key->ends_ns = belay_fake_now(model->world) + number_of(&args[1]) * 1000000;
        answer(model, ":%d\r\n", key_is(key, &args[0]));
        return;
    case BELAY__SCRIPT_RELEASE: delete_where(model, &keys[0], &args[0]); return;
    case BELAY__SCRIPTS: break;
    }
    BROKEN("a script of an unknown kind");
}

/* It was not done. */
static inline void answer_noscript(struct model *model, const struct connection *connection,
                                   const struct argument *id)
{
    owner_asked(model, connection, id);
    answer(model, "-NOSCRIPT No matching script. Please use EVAL.\r\n");
}

static inline void eval(struct model *model, const struct connection *connection,
                        const struct argument *argv, int argc)
{
    bool by_source = argument_is(&argv[0], "EVAL");
    int64_t keys = argc > 3 ? number_of(&argv[2]) : 0;
    if (keys < 1 || argc < 4 + keys) BROKEN("a script without keys or arguments");
    for (int i = 0; i < BELAY__SCRIPTS; i++) {
        if (!argument_is(&argv[1], by_source ? belay__scripts[i].source : belay__scripts[i].sha))
            continue;
        if (by_source) model->knows[i] = true;
        if (model->knows[i])
            script_run(model, connection, (enum belay__script_id)i, argv + 3, argv + 3 + keys,
                       argc - 3 - (int)keys);
        else answer_noscript(model, connection, &argv[3 + keys]);
        return;
    }
    BROKEN("a script that is none of ours");
}

static inline void info(struct model *model)
{
    answer_bulk(model, "# Server\r\nredis_version:7.0.15\r\n"
                       "run_id:00112233445566778899aabbccddeeff00112233\r\n"
                       "uptime_in_seconds:100000\r\nmaxmemory:0\r\nmaxmemory_policy:noeviction\r\n"
                       "role:master\r\nconnected_slaves:1\r\naof_enabled:1\r\n");
}

static inline void client(struct model *model, const struct connection *connection,
                          const struct argument *argv, int argc)
{
    if (argument_is(&argv[1], "ID")) {
        answer(model, ":%lld\r\n", (long long)connection->id);
    } else if (argument_is(&argv[1], "KILL")) {
        int64_t id = argc == 4 ? number_of(&argv[3]) : 0;
        int killed = 0;
        for (size_t i = 0; i < CONNECTIONS; i++) {
            if (model->connections[i].fd < 0 || model->connections[i].id != id) continue;
            connection_close(model, &model->connections[i]); /* what it had sent is gone */
            killed = 1;
        }
        answer(model, ":%d\r\n", killed);
    } else {
        answer(model, "+OK\r\n");
    }
}

static inline void scan(struct model *model)
{
    char keys[1500];
    size_t used = 0;
    int count = 0;
    for (size_t i = 0; i < KEYS; i++) {
        struct key *key = &model->keys[i];
        if (key->value[0] == '\0' || used + key->name_length + 16 > sizeof keys) continue;
        used += (size_t)snprintf(keys + used, sizeof keys - used, "$%zu\r\n%.*s\r\n",
                                 key->name_length, (int)key->name_length, key->name);
        count++;
    }
    answer(model, "*2\r\n$1\r\n0\r\n*%d\r\n%.*s", count, (int)used, keys);
}

static inline void request_show(const struct model *model, const struct connection *connection,
                                const struct argument *argv, int argc)
{
    fprintf(stderr, "%lld ms #%lld", (long long)(belay_fake_now(model->world) / 1000000),
            (long long)connection->id);
    for (int i = 0; i < argc; i++)
        fprintf(stderr, " %.*s", (int)(argv[i].length < 40 ? argv[i].length : 12), argv[i].at);
    fputc('\n', stderr);
}

/* Does it, and leaves the true answer in model->reply. */
static inline void execute(struct model *model, const struct connection *connection,
                           const struct argument *argv, int argc)
{
    const struct argument *verb = &argv[0];
    if (traced) request_show(model, connection, argv, argc);
    struct key *key = argc > 1 ? key_find(model, &argv[1]) : NULL;
    if (argument_is(verb, "EVAL") || argument_is(verb, "EVALSHA")) {
        eval(model, connection, argv, argc);
    } else if (argument_is(verb, "SET") && argc == 6) {
        owner_acquires(model, connection, &argv[1], &argv[2]);
        if (key == NULL) key_set(model, &argv[1], &argv[2], &argv[5]);
        answer(model, key == NULL ? "+OK\r\n" : "$-1\r\n");
    } else if (argument_is(verb, "GET") && argc == 2) {
        if (key != NULL) {
            owner_asked(model, connection, &(struct argument){ key->value, strlen(key->value) });
            answer_bulk(model, key->value);
        } else {
            answer(model, "$-1\r\n");
        }
    } else if (argument_is(verb, "PTTL") && argc == 2) {
        answer(model, ":%lld\r\n", key != NULL ? (long long)key_left_ms(model, key) : -2LL);
    } else if (argument_is(verb, "TYPE") && argc == 2) {
        answer(model, "+%s\r\n", key != NULL ? "string" : "none");
    } else if (argument_is(verb, "CLIENT") && argc > 1) {
        client(model, connection, argv, argc);
    } else if (argument_is(verb, "INFO")) {
        info(model);
    } else if (argument_is(verb, "SCAN")) {
        scan(model);
    } else if (argument_is(verb, "WAIT")) {
        answer(model, ":1\r\n");
    } else if (argument_is(verb, "PING")) {
        answer(model, "+PONG\r\n");
    } else if (argument_is(verb, "SUBSCRIBE") && argc == 2) {
        answer(model, "*3\r\n$9\r\nsubscribe\r\n$%zu\r\n%.*s\r\n:1\r\n", argv[1].length,
               (int)argv[1].length, argv[1].at);
    } else if (argument_is(verb, "AUTH") || argument_is(verb, "SELECT")) {
        answer(model, "+OK\r\n");
    } else if (argument_is(verb, "SCRIPT")) {
        BROKEN("SCRIPT is never sent");
    } else {
        answer(model, "-ERR unknown command\r\n");
    }
}

/* ------------------------------------------------------------------ what it answers */

static inline void answer_truly(struct model *model, struct connection *connection)
{
    bool noscript = strncmp(model->reply, "-NOSCRIPT", 9) == 0;
    /* It is taken for the answer to what was dropped before. */
    if (connection->dropped > 0) connection_taint(model, connection);
    for (size_t i = 0; i < model->owner_count && !connection->tainted && !noscript; i++)
        model->owners[i].open &= ~connection_bit(connection);
    connection_send(model, connection, model->reply, model->reply_length);
}

/* The next piece of the script of answers, for the connection whose request was just executed:
 *
 *   ~.  the piece ends             ~h  ... with the true answer      ~1 to ~9  so many true ones
 *   ~-  ... with none              ~c  ... and so does the connection
 *   ~z  ... and nothing more is read there until the end
 *   ~Z  ... with the true answer, and nothing more is read there until the end
 *   ~s  what stands before is sent by itself, and seen before the rest
 *   ~tC the clock goes forward by C * 10 ms     ~~  a tilde
 *
 * Everything else is sent as it stands. False: there is more of the piece. */
static inline bool answer_piece(struct model *model, struct connection *connection)
{
    char part[1024];
    size_t length = 0;
    bool over = false, pause = false;
    while (!over && !pause && model->at < model->end) {
        char c = *model->at++;
        char control = c == '~' && model->at < model->end ? *model->at++ : '\0';
        if (c != '~' || control == '~') {
            part[length++] = c;
        } else if (control == 't') {
            int64_t ns =
                model->at < model->end ? (int64_t)(unsigned char)*model->at++ * 10000000 : 0;
            model->jumped_ns += ns;
            belay_fake_advance(model->world, ns);
        } else {
            pause = control == 's';
            over = !pause;
        }
        if (length == sizeof part || ((over || pause) && length > 0)) {
            connection_lie(model, connection, part, length);
            length = 0;
        }
        if (connection->fd < 0) return true;
        if (!over) continue;
        if (control >= '1' && control <= '9') model->true_ones = (unsigned)(control - '1');
        if (control == 'h' || control == 'Z' || (control >= '1' && control <= '9'))
            answer_truly(model, connection);
        else if (control == 'c') connection_close(model, connection);
        else connection->dropped++; /* what was said instead, if anything, was a lie */
        if (control == 'z' || control == 'Z') connection->stalled = connection->late = true;
    }
    if (length > 0) connection_lie(model, connection, part, length);
    if (!over && !pause && connection->fd >= 0) connection->dropped++; /* the script ends here */
    return !pause;
}

static inline void request_answer(struct model *model, struct connection *connection)
{
    if (model->honest || model->at == model->end) {
        answer_truly(model, connection);
    } else if (model->true_ones > 0) {
        model->true_ones--;
        answer_truly(model, connection);
    } else if (!answer_piece(model, connection) && connection->fd >= 0) {
        model->current = connection;
    }
}

/* ------------------------------------------------------------------ requests */

/* "*2\r\n$3\r\nGET\r\n$1\r\nk\r\n": how many bytes it is; 0: not whole yet. */
static inline size_t request_read(const char *in, size_t length, struct argument *argv, int *argc)
{
    const char *at = in, *end = in + length, *line;
    char *stop;
    if (length == 0) return 0;
    if (*at != '*') BROKEN("a request that begins with byte %d", *at);
    if ((line = memchr(at, '\n', length)) == NULL) return 0;
    long count = strtol(at + 1, &stop, 10);
    if (stop != line - 1 || count < 1 || count > ARGUMENTS) BROKEN("a request of %ld parts", count);
    at = line + 1;
    for (*argc = 0; *argc < count; (*argc)++) {
        if (at == end) return 0;
        if (*at != '$') BROKEN("an argument that begins with byte %d", *at);
        if ((line = memchr(at, '\n', (size_t)(end - at))) == NULL) return 0;
        long size = strtol(at + 1, &stop, 10);
        if (stop != line - 1 || size < 0 || size > IN_SIZE) BROKEN("an argument of %ld", size);
        at = line + 1;
        if (end - at < size + 2) return 0;
        argv[*argc] = (struct argument){ at, (size_t)size };
        if (at[size] != '\r' || at[size + 1] != '\n') BROKEN("an argument without an end");
        at += size + 2;
    }
    return (size_t)(at - in);
}

static inline bool connection_work(struct model *model, struct connection *connection)
{
    ssize_t got = recv(connection->fd, connection->in + connection->length,
                       IN_SIZE - connection->length, MSG_DONTWAIT);
    if (got < 0 && errno == EAGAIN) return false;
    if (got <= 0) {
        if (connection->length == IN_SIZE) BROKEN("a request of more than %d bytes", IN_SIZE);
        connection_close(model, connection);
        return true;
    }
    connection->length += (size_t)got;
    return true;
}

/* Executes and answers what stands there. */
static inline bool connection_serve(struct model *model, struct connection *connection)
{
    struct argument argv[ARGUMENTS];
    int argc;
    size_t size, done = 0;
    while (connection->fd >= 0 && !connection->stalled && model->current == NULL &&
           (size = request_read(connection->in + done, connection->length - done, argv, &argc)) >
               0) {
        model->requests++;
        execute(model, connection, argv, argc);
        done += size;
        if (connection->fd >= 0) request_answer(model, connection);
    }
    if (done > 0) {
        memmove(connection->in, connection->in + done, connection->length - done);
        connection->length -= done;
    }
    return done > 0;
}

/* Everything that can be done now; false: there was nothing. */
static inline bool model_pump(struct model *model)
{
    bool moved = connections_accept(model);
    struct connection *current = model->current;
    if (current != NULL) {
        model->current = NULL;
        if (!answer_piece(model, current) && current->fd >= 0) model->current = current;
        moved = true;
    }
    for (size_t i = 0; i < CONNECTIONS; i++) {
        struct connection *connection = &model->connections[i];
        if (connection->fd < 0 || connection->stalled) continue;
        if (connection_serve(model, connection)) moved = true;
        if (connection->fd >= 0 && !connection->stalled && connection_work(model, connection))
            moved = true;
    }
    return moved;
}

/* The lies are over: whoever was lied to is cut off, every new connection is served truly. */
static inline void model_tell_truth(struct model *model)
{
    model->honest = true;
    model->current = NULL;
    for (size_t i = 0; i < CONNECTIONS; i++) {
        struct connection *connection = &model->connections[i];
        if (connection->fd >= 0 && !connection->stalled &&
            (connection->tainted || connection->dropped > 0))
            connection_close(model, connection);
    }
}

/* What stalled is read and executed at last. Where answers are missing, it ends then. */
static inline void model_resume(struct model *model)
{
    struct argument argv[ARGUMENTS];
    int argc;
    for (size_t i = 0; i < CONNECTIONS; i++) {
        struct connection *connection = &model->connections[i];
        if (connection->fd < 0 || !connection->stalled) continue;
        connection->stalled = false;
        if (!connection->tainted && connection->dropped == 0) continue;
        bool more = true;
        while (more) {
            size_t size, done = 0;
            more = connection->fd >= 0 && connection_work(model, connection);
            while ((size = request_read(connection->in + done, connection->length - done, argv,
                                        &argc)) > 0) {
                execute(model, connection, argv, argc);
                done += size;
            }
            memmove(connection->in, connection->in + done, connection->length - done);
            connection->length -= done;
        }
        if (connection->fd >= 0) connection_close(model, connection);
    }
}

/* ------------------------------------------------------------------ its life */

static inline void model_open(struct model *model, belay_fake_world *world, int listener,
                              const char *script, size_t length)
{
    for (size_t i = 0; i < CONNECTIONS; i++) model->connections[i].fd = -1;
    model->next_id = 0;
    for (size_t i = 0; i < KEYS; i++) model->keys[i].value[0] = '\0';
    model->owner_count = model->sent = model->requests = 0;
    memset(model->knows, 0, sizeof model->knows);
    model->seq = 1000;
    model->lied = model->honest = false;
    model->jumped_ns = 0;
    model->world = world;
    model->listener = listener;
    model->at = script;
    model->end = script + length;
    model->current = NULL;
    model->true_ones = 0;
}

static inline void model_close(struct model *model)
{
    int fd;
    for (size_t i = 0; i < CONNECTIONS; i++)
        if (model->connections[i].fd >= 0) close(model->connections[i].fd);
    while ((fd = accept4(model->listener, NULL, NULL, SOCK_CLOEXEC)) >= 0) close(fd);
}

/* Every client is gone and everything it owed was asked for: whose key is left, that was told no
 * lie? NULL: nobody's. */
static inline const struct key *model_orphan(struct model *model)
{
    for (size_t i = 0; i < KEYS; i++) {
        struct key *key = &model->keys[i];
        struct argument id = { key->value, strlen(key->value) };
        struct argument name = { key->name, key->name_length };
        struct owner *owner = id.length > 0 ? owner_find(model, &id) : NULL;
        if (owner != NULL && !owner->lied && key_find(model, &name) == key) return key;
    }
    return NULL;
}

#endif
