/* link.c - a link at work: writing, reading, its end. See link.h. */
#include "backends/resp/link_parts.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

enum { READ_SIZE = 16 << 10, READS_MOST = 8 };

/* ------------------------------------------------------------------ the end */

void belay__link_disconnect(struct belay__link *link)
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

void belay__link_enter(struct belay__link *link)
{
    link->busy++;
}

void belay__link_leave(struct belay__link *link)
{
    if (--link->busy == 0 && link->closed) link_free(link);
}

/* The connection is over; whoever owns the link learns it last. */
void belay__link_finish(struct belay__link *link)
{
    if (link->state == BELAY__LINK_ENDED) return;
    link->state = BELAY__LINK_ENDED;
    belay_task_drop(link->env, &link->flush);
    belay__link_disconnect(link);
    belay__link_enter(link);
    belay__link_slots_cut(link);
    if (!link->closed && link->ended != NULL) link->ended(link);
    belay__link_leave(link);
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
    belay__link_finish(link);
}

void belay__link_close(struct belay__link *link, bool quiet)
{
    if (link == NULL || link->closed) return;
    link->closed = true;
    belay__link_unresolve(link);
    if (quiet)
        for (uint64_t seq = link->slot_first; seq < link->slot_next; seq++)
            belay__link_slot(link, seq)->hear = NULL;
    belay__link_enter(link);
    belay__link_finish(link);
    belay__link_leave(link);
}

static void lost(struct belay__link *link, const char *doing, int error)
{
    belay__link_end(link, BELAY_UNAVAILABLE, BELAY_CAUSE_UNREACHABLE, "%s: %s", doing,
                    strerror(error));
}

/* ------------------------------------------------------------------ writing */

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
    /* What the server said before it closed is still to be read ("max number of clients"); then it
     * ends, by what is found there or by the timer. */
    if (errno == EPIPE || errno == ECONNRESET) {
        link->mute = true;
        belay_timer_arm(link->env, &link->timer, belay_env_now(link->env));
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
            if (count == 0) { /* memory: it can't go on */
                belay__link_tls_failed(link);
                return;
            }
            /* Encrypted is as good as sent: it can't be taken out again. */
            belay__link_took(link, count, now);
        } else {
            want(link, EPOLLIN);
            return;
        }
    }
    want(link, EPOLLIN | EPOLLOUT);
}

void belay__link_flush(struct belay__link *link)
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
    if (count > 0) belay__link_took(link, count, now);
    want(link, all || link->mute ? EPOLLIN : EPOLLIN | EPOLLOUT);
}

void belay__link_flush_due(belay_task *task)
{
    struct belay__link *link = belay_container_of(task, struct belay__link, flush);
    belay__link_enter(link);
    belay__link_flush(link);
    belay__link_leave(link);
}

/* ------------------------------------------------------------------ reading */

static void hear(struct belay__link *link, const struct belay__reply *reply)
{
    const struct belay__reply *kind = belay__reply_item(reply, 0);
    if (link->push != NULL && kind != NULL && strcmp(kind->text, "message") == 0) {
        link->push(link, reply);
        return;
    }
    belay__link_slots_skip(link);
    if (link->slot_first == link->slot_next || !belay__link_slot(link, link->slot_first)->left) {
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
    struct belay__slot slot = *belay__link_slot(link, link->slot_first);
    link->slot_first++;
    belay__link_slots_skip(link);
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

void belay__link_tls_failed(struct belay__link *link)
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
        belay__link_greet(link);
    }
    if (link->state != BELAY__LINK_ENDED)
        belay__link_flush(link); /* what TLS itself has to say: an alert */
    if (link->state == BELAY__LINK_ENDED) return;
    if (state == BELAY__TLS_FAILED) belay__link_tls_failed(link);
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

void belay__link_events(belay_watch *watch, uint32_t events)
{
    struct belay__link *link = belay_container_of(watch, struct belay__link, watch);
    belay__link_enter(link);
    if (link->state == BELAY__LINK_CONNECTING) {
        if (events & (EPOLLOUT | EPOLLERR | EPOLLHUP)) belay__link_connected(link);
    } else {
        if (events & (EPOLLIN | EPOLLERR | EPOLLHUP | EPOLLRDHUP))
            /* Not for ever: whoever floods us must not hold up timers and other clients' answers.
             * What is left makes the descriptor readable again. */
            for (int reads = 0; reads < READS_MOST && read_some(link); reads++)
                if (link->state == BELAY__LINK_ENDED || link->closed) break;
        if ((events & EPOLLOUT) && link->state != BELAY__LINK_ENDED) belay__link_flush(link);
    }
    belay__link_leave(link);
}
