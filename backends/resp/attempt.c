/* attempt.c - acquire, extend, release, break and inspect on one server: from the op to its answer.
 *
 * An attempt waits for a link, sends its request (EVALSHA; EVAL where the server does not know the
 * script; a plain SET where nothing is fenced), and reads the answer. What the server says for the
 * moment (LOADING, BUSY, OOM ...) is asked again within the attempt. When a link breaks, what is
 * safe to repeat is repeated on the next one; an acquire that may have been executed is not: it is
 * UNCERTAIN, and given back. SEMANTICS 2 and 5. */
#include "backends/resp/attempt.h"

#include <stdio.h>
#include <string.h>

enum { KEY_ROOM = 128, SPARES = 256, DEBTS_MOST = 4096 };

#define MS INT64_C(1000000)

/* ------------------------------------------------------------------ memory */

uint32_t belay__key_hash(const char *key, size_t length)
{
    uint32_t hash = 2166136261u;
    for (size_t i = 0; i < length; i++) hash = (hash ^ (unsigned char)key[i]) * 16777619u;
    return hash;
}

static void errand_go(struct belay__errand *errand, struct belay__link *link);
static void errand_refused(struct belay__errand *errand, const struct belay__failure *why);
static void timer_due(belay_timer *timer);

static struct belay__attempt *attempt_new(struct belay__server *server, belay_op *op)
{
    struct belay__attempt *attempt = server->spare;
    uint32_t room = KEY_ROOM;
    if (attempt != NULL && op->key.length < KEY_ROOM) {
        server->spare = (struct belay__attempt *)(void *)attempt->op;
        server->spares--;
        memset(attempt, 0, offsetof(struct belay__attempt, owner));
    } else {
        if (op->key.length >= room) room = (uint32_t)op->key.length + 1;
        attempt = belay_env_alloc(server->env, sizeof *attempt + room);
        if (attempt == NULL) return NULL;
        attempt->key_room = room;
    }
    attempt->server = server;
    attempt->op = op;
    attempt->verb = op->verb;
    attempt->ttl_ms = op->ttl_ms;
    attempt->began_ns = op->sent_ns;
    attempt->errand.go = errand_go;
    attempt->errand.refused = errand_refused;
    belay_timer_init(&attempt->timer, timer_due);
    attempt->key_length = (uint32_t)op->key.length;
    memcpy(attempt->key, op->key.at, op->key.length + 1);
    size_t owner = strlen(op->owner); /* BREAK: perhaps another library's, or none */
    memcpy(attempt->owner, op->owner, owner < sizeof attempt->owner ? owner + 1 : 0);
    attempt->owner[sizeof attempt->owner - 1] = '\0';
    op->data = attempt;
    return attempt;
}

/* Nobody hears its answers any more. */
void belay__attempt_disown(struct belay__attempt *attempt)
{
    if (attempt->link != NULL) {
        belay__link_forget(attempt->link, attempt->main);
        belay__link_forget(attempt->link, attempt->wait);
        belay__link_forget(attempt->link, attempt->giveback);
    }
    attempt->link = NULL;
    attempt->main = attempt->wait = attempt->giveback = 0;
}

void belay__attempt_free(struct belay__attempt *attempt)
{
    struct belay__server *server = attempt->server;
    belay__attempt_disown(attempt);
    belay__server_unwant(&attempt->errand);
    belay_timer_disarm(server->env, &attempt->timer);
    belay_unlink(&attempt->parked);
    if (attempt->key_room != KEY_ROOM || server->spares == SPARES) {
        belay_env_free(server->env, attempt);
        return;
    }
    attempt->op = (belay_op *)(void *)server->spare;
    server->spare = attempt;
    server->spares++;
}

void belay__attempts_free(struct belay__server *server)
{
    while (server->spare != NULL) {
        struct belay__attempt *attempt = server->spare;
        server->spare = (struct belay__attempt *)(void *)attempt->op;
        belay_env_free(server->env, attempt);
    }
    server->spares = 0;
}

/* ------------------------------------------------------------------ the end of an op */

/* The op's answer; the attempt is gone. */
void belay__attempt_settle(struct belay__attempt *attempt, belay_status status)
{
    belay_op *op = attempt->op;
    belay__attempt_free(attempt);
    belay_op_settle(op, status);
}

void belay__attempt_fail(struct belay__attempt *attempt, belay_status status, belay_cause cause,
                         const char *text)
{
    belay_op *op = attempt->op;
    const char *node = attempt->server->peer.node;
    /* The text may be the attempt's own. */
    belay_op_fail(op, status, cause, node, "%s", text);
    belay__attempt_free(attempt);
}

/* The op fails; what the server may do of it yet is taken back. */
void belay__attempt_abandon(struct belay__attempt *attempt, belay_status status, belay_cause cause,
                            const char *text)
{
    belay_op *op = attempt->op;
    belay_op_fail(op, status, cause, attempt->server->peer.node, "%s", text);
    attempt->op = NULL;
    belay__giveback_owe(attempt);
}

/* ------------------------------------------------------------------ going */

void belay__attempt_send(struct belay__attempt *attempt, struct belay__link *link)
{
    attempt->answered = attempt->looking = attempt->plain = false;
    attempt->wait = 0;
    attempt->link = link;
    attempt->tracked = belay__tracking_is_on(attempt->server, link);
    attempt->since = belay__tracking_moment(attempt->server);
    attempt->main = belay__attempt_ask(attempt, link);
    if (attempt->main != 0 && (!belay__attempt_waits(attempt) || belay__attempt_ask_wait(attempt)))
        return;
    if (attempt->main == 0 || belay__link_withdraw(link, attempt->main)) {
        belay__attempt_fail(attempt, BELAY_UNAVAILABLE, BELAY_CAUSE_BUSY,
                            "no room for another request");
        return;
    }
    belay__attempt_abandon(attempt, BELAY_UNCERTAIN, BELAY_CAUSE_BUSY,
                           "no room for another request");
}

static enum belay__lane_id lane_of(const struct belay__attempt *attempt)
{
    return belay__attempt_waits(attempt) ? BELAY__LANE_WAIT : BELAY__LANE_MAIN;
}

void belay__attempt_go(struct belay__attempt *attempt)
{
    struct belay__server *server = attempt->server;
    enum belay__lane_id lane = lane_of(attempt);
    struct belay__link *link = belay__server_link(server, lane);
    /* Short waits must find out as well that nobody answers there. */
    int64_t timeout = belay_env_timeout_ns(server->env);
    if (link != NULL && belay__link_silence(link, attempt->began_ns) >= timeout * 9 / 10) {
        belay__server_complain(server, link);
        link = belay__server_link(server, lane);
    }
    if (link == NULL) {
        belay__server_want(server, lane, &attempt->errand);
        return;
    }
    if (attempt->verb == BELAY_VERB_ACQUIRE && server->debt_count >= DEBTS_MOST) {
        belay__attempt_fail(attempt, BELAY_UNAVAILABLE, BELAY_CAUSE_BUSY,
                            "too many earlier attempts are still being given back");
        return;
    }
    if (attempt->verb == BELAY_VERB_ACQUIRE && !belay_links_empty(&server->debts)) {
        struct belay__attempt *debt =
            belay__giveback_before(server, attempt->op->key, attempt->hash, link);
        if (debt != NULL) {
            belay_link_append(&debt->behind, &attempt->parked);
            return;
        }
    }
    belay__attempt_send(attempt, link);
}

static void errand_go(struct belay__errand *errand, struct belay__link *link)
{
    (void)link; /* debts may have come up since */
    belay__attempt_go(belay_container_of(errand, struct belay__attempt, errand));
}

static void errand_refused(struct belay__errand *errand, const struct belay__failure *why)
{
    belay__attempt_fail(belay_container_of(errand, struct belay__attempt, errand), why->status,
                        why->cause, why->text);
}

static void timer_due(belay_timer *timer)
{
    belay__attempt_go(belay_container_of(timer, struct belay__attempt, timer));
}

/* ------------------------------------------------------------------ a link breaks */

/* It may have been executed. An acquire is not repeated: the owner id is owed a give-back. */
static void cut(struct belay__attempt *attempt)
{
    struct belay__link *link = attempt->link;
    if (attempt->looking) { /* its SET was refused */
        belay__attempt_disown(attempt);
        belay__attempt_held(attempt, -1, NULL);
        return;
    }
    bool left = attempt->main == 0 || belay__link_left(link, attempt->main);
    if (attempt->main != 0) belay__link_forget(link, attempt->main);
    if (attempt->wait != 0) belay__link_forget(link, attempt->wait);
    bool owed = attempt->verb == BELAY_VERB_ACQUIRE && left;
    if (owed) {
        char text[sizeof link->why.text];
        memcpy(text, link->why.text, sizeof text);
        belay__attempt_abandon(attempt, BELAY_UNCERTAIN, BELAY_CAUSE_UNREACHABLE, text);
        return;
    }
    if (left && (attempt->verb == BELAY_VERB_RELEASE || attempt->verb == BELAY_VERB_BREAK))
        attempt->op->unsure_release = true;
    attempt->link = NULL;
    attempt->main = attempt->wait = 0;
    if (attempt->verb == BELAY_VERB_INSPECT) {
        attempt->op->info->held = false;
        attempt->op->info->owner[0] = '\0';
    }
    belay__attempt_go(attempt);
}

void belay__attempt_hear(void *owner, uint32_t part, enum belay__moment moment,
                         const struct belay__reply *reply)
{
    struct belay__attempt *attempt = owner;
    if (attempt->op == NULL) {
        belay__giveback_hear(attempt, (enum belay__part)part, moment, reply);
    } else if (moment == BELAY__LEFT) {
        attempt->op->sent_ns = attempt->link->left_ns;
    } else if (moment == BELAY__CUT) {
        cut(attempt);
    } else {
        belay__attempt_answered(attempt, (enum belay__part)part, reply);
    }
}

/* ------------------------------------------------------------------ start, cancel */

void belay__attempt_start(struct belay__server *server, belay_op *op)
{
    struct belay__attempt *attempt = attempt_new(server, op);
    if (attempt == NULL) {
        belay_op_fail(op, BELAY_NOMEM, BELAY_CAUSE_NONE, server->peer.node, "out of memory");
        return;
    }
    attempt->hash =
        op->verb == BELAY_VERB_ACQUIRE ? belay__key_hash(op->key.at, op->key.length) : 0;
    if (server->fencing && op->key.length == server->fence_length &&
        memcmp(op->key.at, server->fence, server->fence_length) == 0) {
        belay__attempt_fail(attempt, BELAY_INVALID, BELAY_CAUSE_WRONG,
                            "the lock's key is the key that fencing tokens are kept in");
        return;
    }
    if (belay__attempt_fences(attempt) && op->token_floor > INT64_MAX) {
        belay__attempt_fail(attempt, BELAY_REFUSED, BELAY_CAUSE_WRONG,
                            "so large a fencing token leaves no room for another");
        return;
    }
    belay__attempt_go(attempt);
}

/* What can be said of an attempt whose time is up, or whose caller gave up. Only a full timeout
 * without an answer, or without a connection, is a place that can't be reached. */
static void say_why(struct belay__attempt *attempt, bool sent, struct belay__failure *why)
{
    belay_env *env = attempt->server->env;
    const struct belay__lane *lane = &attempt->server->lanes[lane_of(attempt)];
    int64_t now = belay_env_now(env), timeout = belay_env_timeout_ns(env);
    bool full = now - attempt->began_ns >= timeout - MS;
    belay_cause cause = full ? BELAY_CAUSE_UNREACHABLE : BELAY_CAUSE_CUT_SHORT;
    if (sent && full && belay__link_silence(attempt->link, now) < timeout * 9 / 10)
        cause = BELAY_CAUSE_BUSY; /* others are answered */
    if (sent) {
        bool told = attempt->why.text[0] != '\0';
        belay__failure_set(why, BELAY_UNCERTAIN, cause, "no answer in time%s%.120s",
                           told ? "; before that: " : "", attempt->why.text);
    } else if (attempt->why.text[0] != '\0') {
        *why = attempt->why;
    } else if (belay_linked(&attempt->parked)) {
        belay__failure_set(why, BELAY_UNAVAILABLE, cause,
                           "an earlier attempt for this lock is still being given back");
    } else if (lane->why.text[0] != '\0') {
        *why = lane->why;
        if (!full && why->cause == BELAY_CAUSE_UNREACHABLE) why->cause = BELAY_CAUSE_CUT_SHORT;
    } else {
        bool shaking = lane->link != NULL && lane->link->state == BELAY__LINK_SHAKING;
        belay__failure_set(why, BELAY_UNAVAILABLE, cause, "no connection in time%s",
                           shaking ? "; does it speak TLS on that port?" : "");
    }
    /* A release goes on in the background: for its caller the server was just not reached. */
    if (attempt->verb == BELAY_VERB_RELEASE || attempt->verb == BELAY_VERB_INSPECT)
        why->status = BELAY_UNAVAILABLE;
}

/* Takes the requests out that have not left. True: nothing of it has. */
static bool withdrawn(struct belay__attempt *attempt)
{
    struct belay__link *link = attempt->link;
    if (link == NULL) return true;
    if (attempt->wait != 0 && belay__link_withdraw(link, attempt->wait)) attempt->wait = 0;
    return !attempt->answered && attempt->main != 0 && belay__link_withdraw(link, attempt->main);
}

void belay__attempt_cancel(struct belay__server *server, belay_op *op)
{
    struct belay__attempt *attempt = op->data;
    struct belay__failure why;
    if (attempt->looking) {
        belay__attempt_held(attempt, -1, NULL);
        return;
    }
    struct belay__link *link = attempt->link;
    bool sent = !withdrawn(attempt);
    say_why(attempt, sent, &why);
    if (sent && attempt->verb == BELAY_VERB_ACQUIRE)
        belay__attempt_abandon(attempt, why.status, why.cause, why.text);
    else belay__attempt_fail(attempt, why.status, why.cause, why.text);
    if (sent) belay__server_complain(server, link);
}
