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

enum { KEY_ROOM = 128, SPARES = 256, AGAIN_FIRST_MS = 10, AGAIN_LAST_MS = 100 };

#define MS INT64_C(1000000)
#define SEQ_BITS 50
#define EPOCH_BITS 13
#define HELD_MOST_MS (INT64_C(1) << 42) /* more than anybody waits, and far from an overflow */

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
static void disown_requests(struct belay__attempt *attempt)
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
    disown_requests(attempt);
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
static void settle(struct belay__attempt *attempt, belay_status status)
{
    belay_op *op = attempt->op;
    belay__attempt_free(attempt);
    belay_op_settle(op, status);
}

static void fail(struct belay__attempt *attempt, belay_status status, belay_cause cause,
                 const char *text)
{
    belay_op *op = attempt->op;
    const char *node = attempt->server->peer.node;
    /* The text may be the attempt's own. */
    belay_op_fail(op, status, cause, node, "%s", text);
    belay__attempt_free(attempt);
}

/* The op fails; what the server may do of it yet is taken back. */
static void abandon(struct belay__attempt *attempt, belay_status status, belay_cause cause,
                    const char *text)
{
    belay_op *op = attempt->op;
    belay_op_fail(op, status, cause, attempt->server->peer.node, "%s", text);
    attempt->op = NULL;
    belay__giveback_owe(attempt);
}

/* ------------------------------------------------------------------ asking */

static size_t decimal(uint64_t value, char out[21])
{
    char digits[20];
    size_t count = 0, length = 0;
    do digits[count++] = (char)('0' + value % 10);
    while ((value /= 10) != 0);
    while (count > 0) out[length++] = digits[--count];
    out[length] = '\0';
    return length;
}

uint64_t belay__attempt_ask_script(struct belay__attempt *attempt, struct belay__link *link,
                                   enum belay__script_id id, bool by_source, enum belay__part part)
{
    const struct belay__script *script = &belay__scripts[id];
    char ttl[21];
    size_t ttl_length = decimal(attempt->ttl_ms, ttl);
    const char *argv[] = { by_source ? "EVAL" : "EVALSHA",
                           by_source ? script->source : script->sha,
                           script->keys,
                           attempt->key,
                           attempt->owner,
                           ttl };
    size_t lengths[] = { strlen(argv[0]),
                         by_source ? strlen(script->source) : 40,
                         1,
                         attempt->key_length,
                         strlen(attempt->owner),
                         ttl_length };
    int argc = id == BELAY__SCRIPT_RELEASE ? 5 : 6;
    return belay__link_ask(link, belay__attempt_hear, attempt, part, id != BELAY__SCRIPT_RELEASE,
                           argc, argv, lengths);
}

static uint64_t ask_acquire(struct belay__attempt *attempt, struct belay__link *link)
{
    struct belay__server *server = attempt->server;
    const struct belay__script *script = &belay__scripts[BELAY__SCRIPT_ACQUIRE];
    char ttl[21], proposal[21], floor_epoch[21], floor_seq[21];
    uint64_t wish = belay_env_proposal(server->env), floor = attempt->op->token_floor;
    if (wish >= UINT64_C(1) << (SEQ_BITS - 1)) wish = 0; /* that clock is not to be believed */
    const char *argv[] = { attempt->by_source ? "EVAL" : "EVALSHA",
                           attempt->by_source ? script->source : script->sha,
                           script->keys,
                           attempt->key,
                           server->fence,
                           attempt->owner,
                           ttl,
                           proposal,
                           "0",
                           floor_epoch,
                           floor_seq };
    size_t lengths[] = { strlen(argv[0]),
                         attempt->by_source ? strlen(script->source) : 40,
                         1,
                         attempt->key_length,
                         server->fence_length,
                         BELAY_OWNER_LENGTH,
                         decimal(attempt->ttl_ms, ttl),
                         decimal(wish, proposal),
                         1,
                         decimal(floor >> SEQ_BITS, floor_epoch),
                         decimal(floor & ((UINT64_C(1) << SEQ_BITS) - 1), floor_seq) };
    return belay__link_ask(link, belay__attempt_hear, attempt, BELAY__PART_MAIN, true, 11, argv,
                           lengths);
}

static uint64_t ask_set(struct belay__attempt *attempt, struct belay__link *link)
{
    char ttl[21];
    const char *argv[] = { "SET", attempt->key, attempt->owner, "NX", "PX", ttl };
    size_t lengths[] = { 3, attempt->key_length,          BELAY_OWNER_LENGTH, 2,
                         2, decimal(attempt->ttl_ms, ttl) };
    return belay__link_ask(link, belay__attempt_hear, attempt, BELAY__PART_MAIN, true, 6, argv,
                           lengths);
}

/* What is there, and for how long yet: GET would refuse another format. */
static uint64_t ask_inspect(struct belay__attempt *attempt, struct belay__link *link)
{
    const char *get[] = { "GET", attempt->key };
    const char *pttl[] = { "PTTL", attempt->key };
    size_t get_lengths[] = { 3, attempt->key_length }, pttl_lengths[] = { 4, attempt->key_length };
    uint64_t seq = belay__link_ask(link, belay__attempt_hear, attempt, BELAY__PART_MAIN, false, 2,
                                   get, get_lengths);
    if (seq == 0) return 0;
    attempt->wait = belay__link_ask(link, belay__attempt_hear, attempt, BELAY__PART_LOOK, false, 2,
                                    pttl, pttl_lengths);
    if (attempt->wait != 0) return seq;
    belay__link_withdraw(link, seq);
    return 0;
}

/* A refused SET says nothing of the holder. */
static bool ask_look(struct belay__attempt *attempt)
{
    struct belay__link *link = attempt->link;
    const char *argv[] = { "PTTL", attempt->key };
    size_t lengths[] = { 4, attempt->key_length };
    attempt->main = belay__link_ask(link, belay__attempt_hear, attempt, BELAY__PART_LOOK, false, 2,
                                    argv, lengths);
    return attempt->main != 0;
}

static bool ask_wait(struct belay__attempt *attempt)
{
    struct belay__server *server = attempt->server;
    char replicas[21], timeout[21];
    const char *argv[] = { "WAIT", replicas, timeout };
    size_t lengths[] = { 4, decimal(server->replicas, replicas),
                         decimal(server->replicas_timeout_ms, timeout) };
    attempt->wait = belay__link_ask(attempt->link, belay__attempt_hear, attempt, BELAY__PART_WAIT,
                                    false, 3, argv, lengths);
    return attempt->wait != 0;
}

static bool waits_for_replicas(const struct belay__attempt *attempt)
{
    return attempt->server->replicas > 0 &&
           (attempt->verb == BELAY_VERB_ACQUIRE || attempt->verb == BELAY_VERB_EXTEND);
}

static uint64_t ask_main(struct belay__attempt *attempt, struct belay__link *link)
{
    switch (attempt->verb) {
    case BELAY_VERB_ACQUIRE:
        if (attempt->server->fencing) return ask_acquire(attempt, link);
        /* A SET that is refused reads nothing: a waiter's asks by a script. */
        if (belay__tracking_knows(attempt->op))
            return belay__attempt_ask_script(attempt, link, BELAY__SCRIPT_TAKE, attempt->by_source,
                                             BELAY__PART_MAIN);
        attempt->plain = true;
        return ask_set(attempt, link);
    case BELAY_VERB_EXTEND:
        return belay__attempt_ask_script(attempt, link, BELAY__SCRIPT_EXTEND, attempt->by_source,
                                         BELAY__PART_MAIN);
    case BELAY_VERB_INSPECT: return ask_inspect(attempt, link);
    default:
        return belay__attempt_ask_script(attempt, link, BELAY__SCRIPT_RELEASE, attempt->by_source,
                                         BELAY__PART_MAIN);
    }
}

static void send_to(struct belay__attempt *attempt, struct belay__link *link)
{
    attempt->answered = attempt->looking = attempt->plain = false;
    attempt->wait = 0;
    attempt->link = link;
    attempt->tracked = belay__tracking_is_on(attempt->server, link);
    attempt->since = belay__tracking_moment(attempt->server);
    attempt->main = ask_main(attempt, link);
    if (attempt->main != 0 && (!waits_for_replicas(attempt) || ask_wait(attempt))) return;
    if (attempt->main == 0 || belay__link_withdraw(link, attempt->main)) {
        fail(attempt, BELAY_UNAVAILABLE, BELAY_CAUSE_BUSY, "no room for another request");
        return;
    }
    abandon(attempt, BELAY_UNCERTAIN, BELAY_CAUSE_BUSY, "no room for another request");
}

static enum belay__lane_id lane_of(const struct belay__attempt *attempt)
{
    return waits_for_replicas(attempt) ? BELAY__LANE_WAIT : BELAY__LANE_MAIN;
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
    if (attempt->verb == BELAY_VERB_ACQUIRE && !belay_links_empty(&server->debts)) {
        struct belay__attempt *debt =
            belay__giveback_before(server, attempt->op->key, attempt->hash, link);
        if (debt != NULL) {
            belay_link_append(&debt->behind, &attempt->parked);
            return;
        }
    }
    send_to(attempt, link);
}

static void errand_go(struct belay__errand *errand, struct belay__link *link)
{
    (void)link; /* debts may have come up since */
    belay__attempt_go(belay_container_of(errand, struct belay__attempt, errand));
}

static void errand_refused(struct belay__errand *errand, const struct belay__failure *why)
{
    fail(belay_container_of(errand, struct belay__attempt, errand), why->status, why->cause,
         why->text);
}

static void timer_due(belay_timer *timer)
{
    belay__attempt_go(belay_container_of(timer, struct belay__attempt, timer));
}

/* ------------------------------------------------------------------ answers */

/* "Not now": asked again a little later. When the op's time is up first, `cancel` tells why. */
static void again_later(struct belay__attempt *attempt)
{
    belay_env *env = attempt->server->env;
    disown_requests(attempt);
    uint32_t backoff = attempt->backoff_ms == 0 ? AGAIN_FIRST_MS : attempt->backoff_ms * 2;
    attempt->backoff_ms = backoff < AGAIN_LAST_MS ? backoff : AGAIN_LAST_MS;
    int64_t us = (int64_t)attempt->backoff_ms * 500;
    us += belay_env_random_below(env, (uint32_t)us + 1);
    belay_timer_arm(env, &attempt->timer, belay_env_now(env) + us * 1000);
}

static void held(struct belay__attempt *attempt, int64_t remains_ms, const char *kind)
{
    belay_op *op = attempt->op;
    if (remains_ms > HELD_MOST_MS) remains_ms = HELD_MOST_MS;
    op->held_for_ns = remains_ms >= 0 ? remains_ms * MS : -1;
    if (op->wait != NULL)
        belay__tracking_refused(attempt->server, op, attempt->hash, attempt->link, attempt->tracked,
                                attempt->since);
    if (kind != NULL && strcmp(kind, "string") != 0 && kind[0] != '\0') {
        char clean[24];
        snprintf(clean, sizeof clean, "%s", kind);
        belay__words_clean(clean);
        belay_error_set(op->error, BELAY_HELD, attempt->server->peer.node,
                        "another holds the lock, in a format that is not ours (a %s)", clean);
    }
    settle(attempt, BELAY_HELD);
}

static void grant(struct belay__attempt *attempt)
{
    belay_op *op = attempt->op;
    if (attempt->verb == BELAY_VERB_ACQUIRE) {
        op->grant = belay__held_new(attempt->server, op);
        if (op->grant == NULL) {
            abandon(attempt, BELAY_NOMEM, BELAY_CAUSE_NONE, "out of memory");
            return;
        }
        op->token = attempt->token;
    }
    settle(attempt, BELAY_OK);
}

static void well(struct belay__attempt *attempt)
{
    attempt->answered = true;
    attempt->main = 0;
    if (attempt->wait == 0) grant(attempt);
}

/* An answer that belongs to no question of ours: the stream can't be trusted any more. */
static void nonsense(struct belay__attempt *attempt)
{
    struct belay__link *link = attempt->link;
    attempt->main = 0;
    if (attempt->verb == BELAY_VERB_ACQUIRE) {
        abandon(attempt, BELAY_UNCERTAIN, BELAY_CAUSE_WRONG,
                "an answer that makes no sense; the connection is closed");
    } else {
        fail(attempt, BELAY_UNCERTAIN, BELAY_CAUSE_WRONG,
             "an answer that makes no sense; the connection is closed");
    }
    belay__link_end(link, BELAY_UNAVAILABLE, BELAY_CAUSE_WRONG, "an answer that makes no sense");
}

static void failed(struct belay__attempt *attempt, const char *line)
{
    struct belay__failure why;
    switch (belay__words_read(line, &why)) {
    case BELAY__MEANS_NOSCRIPT:
        if (!attempt->by_source) {
            struct belay__link *link = attempt->link;
            disown_requests(attempt);
            attempt->by_source = true;
            send_to(attempt, link);
            return;
        }
        break;
    case BELAY__MEANS_WRONGTYPE:
        if (attempt->verb == BELAY_VERB_ACQUIRE) { /* no lock was taken */
            belay__failure_set(&why, BELAY_REFUSED, BELAY_CAUSE_WRONG,
                               "the fence key %.100s holds something else", attempt->server->fence);
            break;
        }
        belay_error_set(attempt->op->error, BELAY_LOST, attempt->server->peer.node,
                        "its key holds another format now");
        settle(attempt, BELAY_LOST);
        return;
    case BELAY__MEANS_LATER:
        attempt->why = why;
        again_later(attempt);
        return;
    case BELAY__MEANS_UNKNOWN:
        if (attempt->verb != BELAY_VERB_ACQUIRE) break;
        attempt->main = 0;
        /* Whoever numbers its connections executes in their order: it is over by now. */
        attempt->answered = attempt->link->hello.client_id > 0;
        abandon(attempt, BELAY_UNCERTAIN, why.cause, why.text);
        return;
    case BELAY__MEANS_FAILED: break;
    }
    /* A newcomer's rights are often those on the prefix alone. */
    if (why.status == BELAY_REFUSED && attempt->verb == BELAY_VERB_ACQUIRE &&
        attempt->server->fencing && strstr(why.text, "key") != NULL) {
        size_t used = strlen(why.text);
        snprintf(why.text + used, sizeof why.text - used, " (it needs the key %.60s as well)",
                 attempt->server->fence);
    }
    fail(attempt, why.status, why.cause, why.text);
}

/* {1, seq, epoch}, as a token that fits and has grown; false: it is none. */
static bool token_read(struct belay__attempt *attempt, const struct belay__reply *seq,
                       const struct belay__reply *epoch)
{
    if (seq->type != BELAY__REPLY_INTEGER || epoch->type != BELAY__REPLY_INTEGER) return false;
    if (seq->integer < 0 || seq->integer >= INT64_C(1) << SEQ_BITS) return false;
    if (epoch->integer < 0 || epoch->integer >= INT64_C(1) << EPOCH_BITS) return false;
    attempt->token = (uint64_t)epoch->integer << SEQ_BITS | (uint64_t)seq->integer;
    return !attempt->server->fencing || attempt->token > attempt->op->token_floor;
}

static void set_answered(struct belay__attempt *attempt, const struct belay__reply *reply)
{
    if (belay__reply_is(reply, "OK")) {
        well(attempt);
    } else if (reply->type != BELAY__REPLY_NIL) {
        nonsense(attempt);
    } else if (attempt->op->wait == NULL) {
        held(attempt, -1, NULL);
    } else {
        belay__link_forget(attempt->link, attempt->wait); /* there is nothing to replicate */
        attempt->wait = 0;
        attempt->looking = true;
        attempt->tracked = belay__tracking_is_on(attempt->server, attempt->link);
        attempt->since = belay__tracking_moment(attempt->server);
        if (!ask_look(attempt)) held(attempt, -1, NULL);
    }
}

static void acquire_answered(struct belay__attempt *attempt, const struct belay__reply *reply)
{
    const struct belay__reply *granted = belay__reply_item(reply, 0);
    const struct belay__reply *second = belay__reply_item(reply, 1);
    const struct belay__reply *third = belay__reply_item(reply, 2);
    bool formed = third != NULL && granted->type == BELAY__REPLY_INTEGER &&
                  second->type == BELAY__REPLY_INTEGER;
    if (attempt->plain) {
        set_answered(attempt, reply);
    } else if (formed && granted->integer == 1 && token_read(attempt, second, third)) {
        well(attempt);
    } else if (formed && granted->integer == 0 && second->integer >= -2 &&
               third->type != BELAY__REPLY_INTEGER) {
        held(attempt, second->integer, third->text);
    } else {
        nonsense(attempt);
    }
}

/* Extend, release, break: 1, or 0. */
static void answered(struct belay__attempt *attempt, const struct belay__reply *reply)
{
    belay_op *op = attempt->op;
    if (reply->type != BELAY__REPLY_INTEGER || (reply->integer != 0 && reply->integer != 1)) {
        nonsense(attempt);
    } else if (reply->integer == 0) {
        /* A break whose first try was not answered: it may have done it, and that is what was
         * wanted. */
        bool done = attempt->verb == BELAY_VERB_BREAK && op->unsure_release;
        settle(attempt, done ? BELAY_OK : BELAY_LOST);
    } else if (attempt->verb == BELAY_VERB_EXTEND) {
        well(attempt);
    } else {
        settle(attempt, BELAY_OK);
    }
}

static void inspected(struct belay__attempt *attempt, const struct belay__reply *reply)
{
    belay_info *info = attempt->op->info;
    attempt->main = 0;
    if (reply->type == BELAY__REPLY_ERROR && strncmp(reply->text, "WRONGTYPE", 9) == 0) {
        info->held = true;
    } else if (reply->type == BELAY__REPLY_ERROR) {
        belay__link_forget(attempt->link, attempt->wait);
        attempt->wait = 0;
        failed(attempt, reply->text);
    } else if (reply->type == BELAY__REPLY_STRING) {
        info->held = true;
        if (reply->length < sizeof info->owner && strlen(reply->text) == reply->length)
            memcpy(info->owner, reply->text, reply->length + 1);
    } else if (reply->type != BELAY__REPLY_NIL) {
        nonsense(attempt);
    }
}

static void looked(struct belay__attempt *attempt, const struct belay__reply *reply)
{
    belay_op *op = attempt->op;
    if (attempt->verb == BELAY_VERB_ACQUIRE) {
        attempt->main = 0;
        bool known = reply->type == BELAY__REPLY_INTEGER;
        if (known && reply->integer == -2) belay_wait_wake(op->wait); /* it is free by now */
        held(attempt, known ? reply->integer : -1, NULL);
        return;
    }
    attempt->wait = 0;
    if (reply->type == BELAY__REPLY_ERROR) {
        failed(attempt, reply->text);
        return;
    }
    if (reply->type == BELAY__REPLY_INTEGER) {
        if (reply->integer == -2) op->info->held = false; /* it ended in between */
        if (reply->integer >= 0) op->info->remaining_ms = reply->integer;
    }
    if (op->info->held) op->info->scope = BELAY_SCOPE_FLEET;
    else op->info->owner[0] = '\0';
    settle(attempt, BELAY_OK);
}

static void replicated(struct belay__attempt *attempt, const struct belay__reply *reply)
{
    struct belay__server *server = attempt->server;
    attempt->wait = 0;
    if (reply->type == BELAY__REPLY_INTEGER && reply->integer >= (int64_t)server->replicas) {
        grant(attempt);
        return;
    }
    struct belay__failure why = { .status = BELAY_UNAVAILABLE, .cause = BELAY_CAUSE_BUSY };
    if (reply->type == BELAY__REPLY_INTEGER)
        belay__failure_set(&why, BELAY_UNAVAILABLE, BELAY_CAUSE_BUSY,
                           "%d of the %u replicas asked for had it within %u ms",
                           (int)reply->integer, (unsigned)server->replicas,
                           (unsigned)server->replicas_timeout_ms);
    else belay__words_read(reply->text, &why);
    if (attempt->verb == BELAY_VERB_ACQUIRE) abandon(attempt, why.status, why.cause, why.text);
    else fail(attempt, why.status, why.cause, why.text);
}

/* ------------------------------------------------------------------ a link breaks */

/* It may have been executed. An acquire is not repeated: the owner id is owed a give-back. */
static void cut(struct belay__attempt *attempt)
{
    struct belay__link *link = attempt->link;
    if (attempt->looking) { /* its SET was refused */
        disown_requests(attempt);
        held(attempt, -1, NULL);
        return;
    }
    bool left = attempt->main == 0 || belay__link_left(link, attempt->main);
    if (attempt->main != 0) belay__link_forget(link, attempt->main);
    if (attempt->wait != 0) belay__link_forget(link, attempt->wait);
    bool owed = attempt->verb == BELAY_VERB_ACQUIRE && left;
    if (owed) {
        char text[sizeof link->why.text];
        memcpy(text, link->why.text, sizeof text);
        abandon(attempt, BELAY_UNCERTAIN, BELAY_CAUSE_UNREACHABLE, text);
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
    } else if (part == BELAY__PART_WAIT) {
        replicated(attempt, reply);
    } else if (part == BELAY__PART_LOOK) {
        looked(attempt, reply);
    } else if (attempt->verb == BELAY_VERB_INSPECT) {
        inspected(attempt, reply);
    } else if (reply->type == BELAY__REPLY_ERROR) {
        failed(attempt, reply->text);
    } else if (attempt->verb == BELAY_VERB_ACQUIRE) {
        acquire_answered(attempt, reply);
    } else {
        answered(attempt, reply);
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
        fail(attempt, BELAY_INVALID, BELAY_CAUSE_WRONG,
             "the lock's key is the key that fencing tokens are kept in");
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
        belay__failure_set(why, BELAY_UNCERTAIN, cause, "no answer in time");
    } else if (attempt->why.text[0] != '\0') {
        *why = attempt->why;
    } else if (belay_linked(&attempt->parked)) {
        belay__failure_set(why, BELAY_UNAVAILABLE, cause,
                           "an earlier attempt for this lock is still being given back");
    } else if (lane->why.text[0] != '\0') {
        *why = lane->why;
        if (!full && why->cause == BELAY_CAUSE_UNREACHABLE) why->cause = BELAY_CAUSE_CUT_SHORT;
    } else {
        belay__failure_set(why, BELAY_UNAVAILABLE, cause, "no connection in time");
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
        held(attempt, -1, NULL);
        return;
    }
    struct belay__link *link = attempt->link;
    bool sent = !withdrawn(attempt);
    say_why(attempt, sent, &why);
    if (sent && attempt->verb == BELAY_VERB_ACQUIRE)
        abandon(attempt, why.status, why.cause, why.text);
    else fail(attempt, why.status, why.cause, why.text);
    if (sent) belay__server_complain(server, link);
}
