/* link.c - see link.h. */
#include "backends/resp/link.h"

#include <errno.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

enum {
    OUT_FIRST = 1024,
    OUT_MOST = 4 << 20,
    OUT_KEEP = 64 << 10,
    SLOTS_FIRST = 16,
    SLOTS_MOST = 1 << 17,
    READ_SIZE = 16 << 10
};

/* A name that is being resolved on the worker. The job and the link each hold a reference: at close
 * the worker forgets the job on whatever thread, and at whatever time, it likes. */
struct resolving {
    belay_job job;
    _Atomic int refs;
    struct belay__link *link; /* NULL: the link is gone; `done` alone looks */
    belay_env *env;
    struct belay__addresses found;
    const char *why;
    uint16_t port;
    char host[];
};

static void link_events(belay_watch *watch, uint32_t events);
static void connect_next(struct belay__link *link);
static void flush(struct belay__link *link);
static void resolving_unref(struct resolving *resolving);

/* ------------------------------------------------------------------ slots */

static struct belay__slot *slot_of(const struct belay__link *link, uint64_t seq)
{
    return &link->slots[seq & (link->slot_room - 1)];
}

static bool slots_grow(struct belay__link *link)
{
    uint32_t room = link->slot_room == 0 ? SLOTS_FIRST : link->slot_room * 2;
    if (room > SLOTS_MOST) return false;
    struct belay__slot *slots = belay_env_alloc(link->env, room * sizeof *slots);
    if (slots == NULL) return false;
    for (uint64_t seq = link->slot_first; seq < link->slot_next; seq++)
        slots[seq & (room - 1)] = *slot_of(link, seq);
    belay_env_free(link->env, link->slots);
    link->slots = slots;
    link->slot_room = room;
    return true;
}

static bool out_grow(struct belay__link *link, size_t more)
{
    size_t waits = link->out_end - link->out_at;
    if (link->out_room - waits >= more && link->out_at >= waits) {
        memcpy(link->out, link->out + link->out_at, waits);
        link->out_at = 0;
        link->out_end = waits;
        return true;
    }
    size_t room = link->out_room != 0 ? link->out_room * 2 : OUT_FIRST;
    while (room < waits + more) room *= 2;
    if (room > OUT_MOST) return false;
    char *out = belay_env_alloc(link->env, room);
    if (out == NULL) return false;
    if (waits > 0) memcpy(out, link->out + link->out_at, waits);
    if (link->out != NULL) explicit_bzero(link->out, link->out_room); /* AUTH may stand in it */
    belay_env_free(link->env, link->out);
    link->out = out;
    link->out_at = 0;
    link->out_end = waits;
    link->out_room = room;
    return true;
}

/* "$12\r\n": a count behind its mark. Returns where it ends. */
static char *put_count(char *out, char mark, size_t value)
{
    char digits[20];
    size_t count = 0;
    *out++ = mark;
    do digits[count++] = (char)('0' + value % 10);
    while ((value /= 10) != 0);
    while (count > 0) *out++ = digits[--count];
    *out++ = '\r';
    *out++ = '\n';
    return out;
}

/* Ready or not: the greeting goes first. A request is an array of bulk strings, written where it
 * leaves from: hiredis' formatter, which allocates and prints, takes a quarter of a busy loop's
 * time (docs/redis.md). */
static uint64_t ask(struct belay__link *link, belay__hear_fn *hear, void *owner, uint32_t which,
                    bool wants_left, int argc, const char *const *argv, const size_t *lengths)
{
    enum { COUNT_MOST = 1 + 20 + 2 };
    size_t most = COUNT_MOST;
    for (int i = 0; i < argc; i++)
        most += COUNT_MOST + (lengths != NULL ? lengths[i] : strlen(argv[i])) + 2;
    if (belay__link_unanswered(link) == link->slot_room && !slots_grow(link)) return 0;
    if (link->out_room - link->out_end < most && !out_grow(link, most)) return 0;
    char *const start = link->out + link->out_end;
    char *at = put_count(start, '*', (size_t)argc);
    for (int i = 0; i < argc; i++) {
        size_t length = lengths != NULL ? lengths[i] : strlen(argv[i]);
        at = put_count(at, '$', length);
        memcpy(at, argv[i], length);
        at += length;
        *at++ = '\r';
        *at++ = '\n';
    }
    uint64_t seq = link->slot_next++;
    *slot_of(link, seq) =
        (struct belay__slot){ .hear = hear,
                              .owner = owner,
                              .start = link->sent + (link->out_end - link->out_at),
                              .length = (uint32_t)(at - start),
                              .which = which,
                              .wants_left = wants_left };
    link->out_end += (size_t)(at - start);
    belay_task_post(link->env, &link->flush);
    return seq;
}

uint64_t belay__link_ask(struct belay__link *link, belay__hear_fn *hear, void *owner,
                         uint32_t which, bool wants_left, int argc, const char *const *argv,
                         const size_t *lengths)
{
    if (link->state != BELAY__LINK_READY) return 0;
    return ask(link, hear, owner, which, wants_left, argc, argv, lengths);
}

static bool is_open_slot(const struct belay__link *link, uint64_t seq)
{
    return seq >= link->slot_first && seq < link->slot_next;
}

bool belay__link_left(const struct belay__link *link, uint64_t seq)
{
    return !is_open_slot(link, seq) || slot_of(link, seq)->left;
}

void belay__link_forget(struct belay__link *link, uint64_t seq)
{
    if (is_open_slot(link, seq)) slot_of(link, seq)->hear = NULL;
}

bool belay__link_withdraw(struct belay__link *link, uint64_t seq)
{
    if (belay__link_left(link, seq)) return false;
    struct belay__slot *slot = slot_of(link, seq);
    if (slot->withdrawn) return true;
    size_t at = link->out_at + (size_t)(slot->start - link->sent);
    memmove(link->out + at, link->out + at + slot->length, link->out_end - at - slot->length);
    link->out_end -= slot->length;
    for (uint64_t later = seq + 1; later < link->slot_next; later++)
        slot_of(link, later)->start -= slot->length;
    slot->length = 0;
    slot->hear = NULL;
    slot->withdrawn = true;
    return true;
}

/* Withdrawn ones at the front have no answer to wait for. */
static void slots_skip(struct belay__link *link)
{
    while (link->slot_first < link->slot_next && slot_of(link, link->slot_first)->withdrawn)
        link->slot_first++;
    if (link->slot_unleft < link->slot_first) link->slot_unleft = link->slot_first;
}

static void slots_cut(struct belay__link *link)
{
    while (link->slot_first < link->slot_next) {
        struct belay__slot *slot = slot_of(link, link->slot_first);
        /* It is told while its slot still stands: `left` may be asked. */
        if (slot->hear != NULL) slot->hear(slot->owner, slot->which, BELAY__CUT, NULL);
        link->slot_first++;
    }
}

bool belay__link_has_bytes(const struct belay__link *link)
{
    char byte;
    return link->fd >= 0 && recv(link->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) > 0;
}

int64_t belay__link_silence(const struct belay__link *link, int64_t now_ns)
{
    uint64_t first = link->slot_first;
    while (first < link->slot_next && slot_of(link, first)->withdrawn) first++;
    if (first == link->slot_next || !slot_of(link, first)->left) return 0;
    return now_ns - link->waiting_since_ns;
}

/* ------------------------------------------------------------------ the end */

static void disconnect(struct belay__link *link)
{
    belay_timer_disarm(link->env, &link->timer);
    belay_watch_remove(link->env, &link->watch);
    if (link->fd >= 0) close(link->fd);
    link->fd = -1;
    belay__tls_close(link->tls);
    link->tls = NULL;
}

static void link_free(struct belay__link *link)
{
    belay__reader_free(link->reader);
    belay_env_free(link->env, link->slots);
    if (link->out != NULL) explicit_bzero(link->out, link->out_room);
    belay_env_free(link->env, link->out);
    belay_env_free(link->env, link);
}

static void enter(struct belay__link *link)
{
    link->busy++;
}

static void leave(struct belay__link *link)
{
    if (--link->busy == 0 && link->closed) link_free(link);
}

/* The connection is over; whoever owns the link learns it last. */
static void finish(struct belay__link *link)
{
    if (link->state == BELAY__LINK_ENDED) return;
    link->state = BELAY__LINK_ENDED;
    belay_task_drop(link->env, &link->flush);
    disconnect(link);
    enter(link);
    slots_cut(link);
    if (!link->closed && link->ended != NULL) link->ended(link);
    leave(link);
}

void belay__link_end(struct belay__link *link, belay_status status, belay_cause cause,
                     const char *format, ...)
{
    if (link->state == BELAY__LINK_ENDED) return;
    va_list args;
    va_start(args, format);
    char text[sizeof link->why.text];
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    belay__failure_set(&link->why, status, cause, "%s", text);
    finish(link);
}

void belay__link_close(struct belay__link *link, bool quiet)
{
    if (link == NULL || link->closed) return;
    link->closed = true;
    if (link->resolving != NULL) {
        link->resolving->link = NULL;
        resolving_unref(link->resolving);
    }
    link->resolving = NULL;
    if (quiet)
        for (uint64_t seq = link->slot_first; seq < link->slot_next; seq++)
            slot_of(link, seq)->hear = NULL;
    enter(link);
    finish(link);
    leave(link);
}

static void lost(struct belay__link *link, const char *doing, int error)
{
    belay__link_end(link, BELAY_UNAVAILABLE, BELAY_CAUSE_UNREACHABLE, "%s: %s", doing,
                    strerror(error));
}

/* ------------------------------------------------------------------ writing */

/* Tells those whose bytes have begun to leave. */
static void note_left(struct belay__link *link, int64_t now_ns)
{
    while (link->slot_unleft < link->slot_next) {
        struct belay__slot *slot = slot_of(link, link->slot_unleft);
        if (!slot->withdrawn) {
            if (slot->start >= link->sent) return;
            slot->left = true;
            if (link->slot_unleft == link->slot_first) link->waiting_since_ns = now_ns;
            if (slot->wants_left && slot->hear != NULL) {
                link->left_ns = now_ns;
                slot->hear(slot->owner, slot->which, BELAY__LEFT, NULL);
            }
        }
        link->slot_unleft++;
    }
}

static void took(struct belay__link *link, size_t count, int64_t now_ns)
{
    link->out_at += count;
    link->sent += count;
    if (link->out_at == link->out_end) {
        link->out_at = link->out_end = 0;
        if (link->state == BELAY__LINK_GREETING) explicit_bzero(link->out, link->out_room);
        if (link->out_room > OUT_KEEP) {
            belay_env_free(link->env, link->out);
            link->out = NULL;
            link->out_room = 0;
        }
    }
    note_left(link, now_ns);
}

static void want(struct belay__link *link, uint32_t events)
{
    if (belay_watch_change(link->env, &link->watch, events) != BELAY_OK)
        belay__link_end(link, BELAY_NOMEM, BELAY_CAUSE_NONE, "no memory to watch a connection");
}

/* False: the socket is full, or the link has ended. */
static bool send_some(struct belay__link *link, const void *bytes, size_t length, size_t *count)
{
    ssize_t sent;
    do sent = send(link->fd, bytes, length, MSG_NOSIGNAL);
    while (sent < 0 && errno == EINTR);
    *count = sent > 0 ? (size_t)sent : 0;
    if (sent >= 0) return (size_t)sent == length;
    if (errno == EAGAIN || errno == EWOULDBLOCK) return false;
    /* What the server said before it closed is still to be read ("max number of clients"): the
     * descriptor is readable, and its end is found there. */
    if (errno == EPIPE || errno == ECONNRESET) {
        link->mute = true;
        return false;
    }
    lost(link, "sending", errno);
    return false;
}

static void flush_tls(struct belay__link *link)
{
    for (;;) {
        size_t length, count;
        const void *bytes = belay__tls_pending(link->tls, &length);
        if (length > 0) {
            bool all = send_some(link, bytes, length, &count);
            if (link->state == BELAY__LINK_ENDED) return;
            belay__tls_sent(link->tls, count);
            if (link->mute) {
                want(link, EPOLLIN);
                return;
            }
            if (!all) break;
        } else if (link->out_at < link->out_end && belay__tls_state(link->tls) == BELAY__TLS_OPEN) {
            int64_t now = belay_env_now(link->env);
            count =
                belay__tls_write(link->tls, link->out + link->out_at, link->out_end - link->out_at);
            if (count == 0) break;
            took(link, count, now); /* encrypted is as good as sent: it can't be taken out again */
        } else {
            want(link, EPOLLIN);
            return;
        }
    }
    want(link, EPOLLIN | EPOLLOUT);
}

static void flush(struct belay__link *link)
{
    if (link->state < BELAY__LINK_SHAKING || link->state == BELAY__LINK_ENDED || link->mute) return;
    if (link->tls != NULL) {
        flush_tls(link);
        return;
    }
    if (link->out_at == link->out_end) {
        want(link, EPOLLIN);
        return;
    }
    size_t count;
    int64_t now = belay_env_now(link->env);
    bool all = send_some(link, link->out + link->out_at, link->out_end - link->out_at, &count);
    if (link->state == BELAY__LINK_ENDED) return;
    if (count > 0) took(link, count, now);
    want(link, all || link->mute ? EPOLLIN : EPOLLIN | EPOLLOUT);
}

static void flush_due(belay_task *task)
{
    struct belay__link *link = belay_container_of(task, struct belay__link, flush);
    enter(link);
    flush(link);
    leave(link);
}

/* ------------------------------------------------------------------ the greeting */

enum { ASK_AUTH, ASK_SELECT, ASK_NAME, ASK_ID, ASK_SERVER, ASK_MEMORY, ASK_REPLICATION };

static void info_copy(const char *info, const char *key, char *out, size_t size)
{
    size_t length = strlen(key);
    for (const char *line = info; line != NULL && *line != '\0';) {
        const char *end = line + strcspn(line, "\r\n");
        if (strncmp(line, key, length) == 0 && line[length] == ':') {
            snprintf(out, size, "%.*s", (int)(end - line - (ptrdiff_t)length - 1),
                     line + length + 1);
            belay__words_clean(out);
            return;
        }
        line = end + strspn(end, "\r\n");
    }
}

static void info_read(struct belay__hello *hello, const char *info)
{
    char number[32] = "";
    info_copy(info, "run_id", hello->run_id, sizeof hello->run_id);
    info_copy(info, "redis_version", hello->version, sizeof hello->version);
    info_copy(info, "maxmemory_policy", hello->policy, sizeof hello->policy);
    info_copy(info, "role", hello->role, sizeof hello->role);
    info_copy(info, "uptime_in_seconds", number, sizeof number);
    if (number[0] != '\0') hello->uptime_s = strtoll(number, NULL, 10);
    number[0] = '\0';
    info_copy(info, "maxmemory", number, sizeof number);
    if (number[0] != '\0') hello->maxmemory = strtoll(number, NULL, 10);
}

/* What can't be done without, was refused. */
static void greeting_refused(struct belay__link *link, const struct belay__reply *reply)
{
    struct belay__failure failure;
    if (reply->type != BELAY__REPLY_ERROR)
        belay__failure_set(&failure, BELAY_UNAVAILABLE, BELAY_CAUSE_WRONG,
                           "it does not speak the Redis protocol");
    else if (belay__words_read(reply->text, &failure) != BELAY__MEANS_LATER) {
        failure.status = BELAY_REFUSED; /* whatever its words: it will not have us */
        failure.cause = BELAY_CAUSE_WRONG;
    }
    belay__link_end(link, failure.status, failure.cause, "%s", failure.text);
}

static void greeted(void *owner, uint32_t which, enum belay__moment moment,
                    const struct belay__reply *reply)
{
    struct belay__link *link = owner;
    if (moment != BELAY__ANSWERED) return;
    bool error = reply->type == BELAY__REPLY_ERROR;
    if ((which == ASK_AUTH || which == ASK_SELECT) && !belay__reply_is(reply, "OK")) {
        greeting_refused(link, reply);
        return;
    }
    struct belay__failure failure;
    /* A server that is busy with a script says nothing of itself: it is asked again later. */
    if (error &&
        (strncmp(reply->text, "NOAUTH", 6) == 0 || strncmp(reply->text, "DENIED", 6) == 0 ||
         belay__words_read(reply->text, &failure) == BELAY__MEANS_LATER)) {
        greeting_refused(link, reply);
        return;
    }
    if (which == ASK_ID && reply->type == BELAY__REPLY_INTEGER)
        link->hello.client_id = reply->integer;
    if (which >= ASK_SERVER && reply->type == BELAY__REPLY_STRING)
        info_read(&link->hello, reply->text);
    if (--link->greeting > 0) return;
    belay_timer_disarm(link->env, &link->timer);
    link->state = BELAY__LINK_READY;
    if (link->ready != NULL) link->ready(link);
}

static bool greet_with(struct belay__link *link, uint32_t which, int argc, const char *const *argv)
{
    if (ask(link, greeted, link, which, false, argc, argv, NULL) == 0) return false;
    link->greeting++;
    return true;
}

static void greet(struct belay__link *link)
{
    const struct belay__peer *peer = link->peer;
    char number[16];
    snprintf(number, sizeof number, "%u", (unsigned)peer->db);
    const char *auth[] = { "AUTH", peer->user, peer->password };
    const char *old_auth[] = { "AUTH", peer->password };
    const char *select[] = { "SELECT", number };
    const char *name[] = { "CLIENT", "SETNAME", peer->client_name };
    const char *id[] = { "CLIENT", "ID" };
    const char *server[] = { "INFO", "server" };
    const char *memory[] = { "INFO", "memory" };
    const char *replication[] = { "INFO", "replication" };
    link->state = BELAY__LINK_GREETING;
    bool ok = true;
    if (peer->password != NULL && peer->user != NULL) ok = greet_with(link, ASK_AUTH, 3, auth);
    else if (peer->password != NULL) ok = greet_with(link, ASK_AUTH, 2, old_auth);
    if (ok && peer->db != 0) ok = greet_with(link, ASK_SELECT, 2, select);
    if (ok && peer->client_name != NULL) ok = greet_with(link, ASK_NAME, 3, name);
    ok = ok && greet_with(link, ASK_ID, 2, id) && greet_with(link, ASK_SERVER, 2, server) &&
         greet_with(link, ASK_MEMORY, 2, memory) &&
         greet_with(link, ASK_REPLICATION, 2, replication);
    if (!ok) belay__link_end(link, BELAY_NOMEM, BELAY_CAUSE_NONE, "no memory for a connection");
}

/* ------------------------------------------------------------------ reading */

static void hear(struct belay__link *link, const struct belay__reply *reply)
{
    const struct belay__reply *kind = belay__reply_item(reply, 0);
    if (link->push != NULL && kind != NULL && strcmp(kind->text, "message") == 0) {
        link->push(link, reply);
        return;
    }
    slots_skip(link);
    if (link->slot_first == link->slot_next || !slot_of(link, link->slot_first)->left) {
        if (reply->type == BELAY__REPLY_ERROR) {
            struct belay__failure failure;
            belay__words_read(reply->text, &failure);
            belay__link_end(link, failure.status, failure.cause, "%s", failure.text);
        } else {
            belay__link_end(link, BELAY_UNAVAILABLE, BELAY_CAUSE_UNREACHABLE,
                            "an answer that nobody asked for");
        }
        return;
    }
    struct belay__slot slot = *slot_of(link, link->slot_first);
    link->slot_first++;
    slots_skip(link);
    link->waiting_since_ns = link->heard_ns;
    link->served |= link->state == BELAY__LINK_READY;
    if (slot.hear != NULL) slot.hear(slot.owner, slot.which, BELAY__ANSWERED, reply);
}

static void replies(struct belay__link *link)
{
    const struct belay__reply *reply;
    while (link->state != BELAY__LINK_ENDED && !link->closed &&
           (reply = belay__reader_next(link->reader)) != NULL)
        hear(link, reply);
    if (link->state == BELAY__LINK_ENDED || link->closed) return;
    const char *broken = belay__reader_broken(link->reader);
    /* What never spoke it is no Redis: another port, a web server. */
    if (broken != NULL)
        belay__link_end(link, BELAY_UNAVAILABLE,
                        link->state < BELAY__LINK_READY ? BELAY_CAUSE_WRONG
                                                        : BELAY_CAUSE_UNREACHABLE,
                        "%s", broken);
    else if (link->idle != NULL && belay__link_unanswered(link) == 0) link->idle(link);
}

static void feed(struct belay__link *link, const char *bytes, size_t length)
{
    if (!belay__reader_feed(link->reader, bytes, length))
        belay__link_end(link, BELAY_UNAVAILABLE, BELAY_CAUSE_UNREACHABLE, "%s",
                        belay__reader_broken(link->reader));
}

static void tls_failed(struct belay__link *link)
{
    bool refused = belay__tls_refused(link->tls);
    char why[sizeof link->why.text];
    snprintf(why, sizeof why, "%s", belay__tls_why(link->tls));
    belay__link_end(link, refused ? BELAY_REFUSED : BELAY_UNAVAILABLE,
                    refused ? BELAY_CAUSE_WRONG : BELAY_CAUSE_UNREACHABLE, "TLS: %s", why);
}

/* Ciphertext was fed. What TLS makes of it shows while its plaintext is read. */
static void tls_moved(struct belay__link *link)
{
    char plain[READ_SIZE];
    size_t got;
    while (link->state != BELAY__LINK_ENDED &&
           (got = belay__tls_read(link->tls, plain, sizeof plain)) > 0) {
        feed(link, plain, got);
        if (link->state != BELAY__LINK_ENDED) replies(link);
    }
    if (link->state == BELAY__LINK_ENDED || link->closed) return;
    enum belay__tls_state state = belay__tls_state(link->tls);
    if (link->state == BELAY__LINK_SHAKING && state == BELAY__TLS_OPEN) {
        belay_timer_arm(link->env, &link->timer, belay_env_now(link->env) + link->patience_ns);
        greet(link);
    }
    if (link->state != BELAY__LINK_ENDED) flush(link); /* what TLS itself has to say: an alert */
    if (link->state == BELAY__LINK_ENDED) return;
    if (state == BELAY__TLS_FAILED) tls_failed(link);
    else if (state == BELAY__TLS_ENDED)
        belay__link_end(link, BELAY_UNAVAILABLE, BELAY_CAUSE_UNREACHABLE,
                        "the server closed the connection");
}

/* True: there may be more. */
static bool read_some(struct belay__link *link)
{
    char bytes[READ_SIZE];
    ssize_t got;
    do got = recv(link->fd, bytes, sizeof bytes, 0);
    while (got < 0 && errno == EINTR);
    if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return false;
    if (got < 0) {
        lost(link, "receiving", errno);
        return false;
    }
    if (got == 0 && link->tls != NULL) {
        belay__tls_feed(link->tls, NULL, 0);
        tls_moved(link);
        return false;
    }
    if (got == 0) {
        belay__link_end(link, BELAY_UNAVAILABLE, BELAY_CAUSE_UNREACHABLE,
                        "the server closed the connection");
        return false;
    }
    link->heard_ns = belay_env_now(link->env);
    if (link->tls != NULL) {
        belay__tls_feed(link->tls, bytes, (size_t)got);
        tls_moved(link);
    } else {
        feed(link, bytes, (size_t)got);
        if (link->state != BELAY__LINK_ENDED) replies(link);
    }
    return (size_t)got == sizeof bytes;
}

/* ------------------------------------------------------------------ connecting */

static void connected(struct belay__link *link)
{
    int error = belay__socket_error(link->fd);
    if (error != 0) {
        belay__failure_set(&link->why, BELAY_UNAVAILABLE, BELAY_CAUSE_UNREACHABLE, "connecting: %s",
                           strerror(error));
        connect_next(link);
        return;
    }
    link->state = BELAY__LINK_SHAKING;
    belay_timer_arm(link->env, &link->timer, belay_env_now(link->env) + link->patience_ns);
    if (link->peer->tls == NULL) {
        greet(link);
    } else {
        link->tls = belay__tls_open(link->peer->tls, link->peer->host);
        if (link->tls == NULL) {
            belay__link_end(link, BELAY_NOMEM, BELAY_CAUSE_NONE, "no memory for TLS");
            return;
        }
        if (belay__tls_state(link->tls) == BELAY__TLS_FAILED) {
            tls_failed(link); /* no certificate can be for such a host */
            return;
        }
    }
    if (link->state != BELAY__LINK_ENDED) flush(link);
}

static void link_events(belay_watch *watch, uint32_t events)
{
    struct belay__link *link = belay_container_of(watch, struct belay__link, watch);
    enter(link);
    if (link->state == BELAY__LINK_CONNECTING) {
        if (events & (EPOLLOUT | EPOLLERR | EPOLLHUP)) connected(link);
    } else {
        if (events & (EPOLLIN | EPOLLERR | EPOLLHUP | EPOLLRDHUP))
            while (read_some(link) && link->state != BELAY__LINK_ENDED && !link->closed) {}
        if ((events & EPOLLOUT) && link->state != BELAY__LINK_ENDED) flush(link);
    }
    leave(link);
}

/* The next address there is; without one the link ends, with what the last one said. */
static void connect_next(struct belay__link *link)
{
    disconnect(link);
    while (link->address < link->addresses.count) {
        const struct belay__address *address = &link->addresses.list[link->address++];
        int error = belay__socket_connect(address, &link->fd);
        if (error == 0 &&
            belay_watch_add(link->env, &link->watch, link->fd, EPOLLOUT, link_events) == BELAY_OK) {
            size_t left = link->addresses.count - link->address + 1;
            link->state = BELAY__LINK_CONNECTING;
            belay_timer_arm(link->env, &link->timer,
                            belay_env_now(link->env) + link->patience_ns / (int64_t)left);
            return;
        }
        if (error == 0) {
            belay__link_end(link, BELAY_NOMEM, BELAY_CAUSE_NONE, "no memory to watch a connection");
            return;
        }
        belay__failure_set(&link->why, BELAY_UNAVAILABLE, BELAY_CAUSE_UNREACHABLE, "connecting: %s",
                           strerror(error));
    }
    finish(link);
}

static void resolving_unref(struct resolving *resolving)
{
    if (atomic_fetch_sub(&resolving->refs, 1) == 1) belay_env_free(resolving->env, resolving);
}

static void resolving_forget(belay_job *job)
{
    resolving_unref(belay_container_of(job, struct resolving, job));
}

static void resolve_work(belay_job *job)
{
    struct resolving *resolving = belay_container_of(job, struct resolving, job);
    resolving->why = belay__address_ask(&resolving->found, resolving->host, resolving->port);
}

static void unresolved(struct belay__link *link, const char *why)
{
    belay__link_end(link, BELAY_UNAVAILABLE, BELAY_CAUSE_UNREACHABLE, "resolving %s: %s",
                    link->peer->host, why);
}

static void resolved(belay_job *job)
{
    struct resolving *resolving = belay_container_of(job, struct resolving, job);
    struct belay__link *link = resolving->link;
    if (link != NULL) {
        link->resolving = NULL;
        resolving_unref(resolving);
        enter(link);
        if (link->state == BELAY__LINK_RESOLVING && resolving->why != NULL) {
            unresolved(link, resolving->why);
        } else if (link->state == BELAY__LINK_RESOLVING) {
            link->addresses = resolving->found;
            connect_next(link);
        }
        leave(link);
    }
    resolving_unref(resolving);
}

/* A name: asked on the worker, where it may take as long as it likes. */
static void resolve(struct belay__link *link)
{
    size_t length = strlen(link->peer->host);
    struct resolving *resolving = belay_env_alloc(link->env, sizeof *resolving + length + 1);
    if (resolving != NULL) {
        resolving->job =
            (belay_job){ .work = resolve_work, .done = resolved, .forget = resolving_forget };
        resolving->link = link;
        atomic_init(&resolving->refs, 2);
        resolving->env = link->env;
        resolving->port = link->peer->port;
        memcpy(resolving->host, link->peer->host, length + 1);
        if (belay_env_run(link->env, &resolving->job) == BELAY_OK) {
            link->resolving = resolving;
            return;
        }
        belay_env_free(link->env, resolving);
    }
    belay__link_end(link, BELAY_NOMEM, BELAY_CAUSE_NONE, "no memory to resolve a name");
}

static void begin(struct belay__link *link)
{
    const struct belay__peer *peer = link->peer;
    if (peer->path != NULL) {
        (void)belay__address_path(&link->addresses, peer->path); /* its length was checked */
        connect_next(link);
    } else if (belay__address_known(&link->addresses, peer->host, peer->port)) {
        connect_next(link);
    } else if (peer->resolve_here) {
        const char *why = belay__address_ask(&link->addresses, peer->host, peer->port);
        if (why != NULL) unresolved(link, why);
        else connect_next(link);
    } else {
        resolve(link);
    }
}

static void timed_out(belay_timer *timer)
{
    struct belay__link *link = belay_container_of(timer, struct belay__link, timer);
    enter(link);
    if (link->state == BELAY__LINK_RESOLVING && link->resolving == NULL) {
        begin(link); /* see belay__link_open */
    } else if (link->state == BELAY__LINK_CONNECTING) {
        belay__failure_set(&link->why, BELAY_UNAVAILABLE, BELAY_CAUSE_UNREACHABLE,
                           "connecting: no answer");
        connect_next(link);
    } else {
        belay__link_end(link, BELAY_UNAVAILABLE, BELAY_CAUSE_UNREACHABLE,
                        link->state == BELAY__LINK_SHAKING
                            ? "no answer in the TLS handshake; does it speak TLS on that port?"
                            : "connected, but no answer");
    }
    leave(link);
}

struct belay__link *belay__link_new(belay_env *env, const struct belay__peer *peer,
                                    int64_t patience_ns)
{
    struct belay__link *link = belay_env_alloc(env, sizeof *link);
    if (link == NULL) return NULL;
    link->env = env;
    link->peer = peer;
    link->patience_ns = patience_ns;
    link->fd = -1;
    link->slot_first = link->slot_next = link->slot_unleft = 1;
    link->flush.fn = flush_due;
    link->hello.uptime_s = link->hello.maxmemory = -1;
    belay_timer_init(&link->timer, timed_out);
    link->reader = belay__reader_new(env);
    if (link->reader != NULL) return link;
    belay_env_free(env, link);
    return NULL;
}

/* Through a timer that is due at once: what fails must not be told from inside this call. */
void belay__link_open(struct belay__link *link)
{
    link->heard_ns = belay_env_now(link->env);
    belay_timer_arm(link->env, &link->timer, link->heard_ns);
}
