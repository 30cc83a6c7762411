/* attempt_answer.c - what a server's answer means for the op. An answer must be one of those to the
 * question: any other is no grant and no refusal, and the stream is not trusted any more. See
 * attempt.h. */
#include "backends/resp/attempt.h"

#include <stdio.h>
#include <string.h>

enum { AGAIN_FIRST_MS = 10, AGAIN_LAST_MS = 100 };

#define MS INT64_C(1000000)
#define EPOCH_BITS 13
#define HELD_MOST_MS (INT64_C(1) << 42) /* more than anybody waits, and far from an overflow */

/* "Not now": asked again a little later. When the op's time is up first, `cancel` tells why. */
static void again_later(struct belay__attempt *attempt)
{
    belay_env *env = attempt->server->env;
    belay__attempt_disown(attempt);
    uint32_t backoff = attempt->backoff_ms == 0 ? AGAIN_FIRST_MS : attempt->backoff_ms * 2;
    attempt->backoff_ms = backoff < AGAIN_LAST_MS ? backoff : AGAIN_LAST_MS;
    int64_t us = (int64_t)attempt->backoff_ms * 500;
    us += belay_env_random_below(env, (uint32_t)us + 1);
    belay_timer_arm(env, &attempt->timer, belay_env_now(env) + us * 1000);
}

void belay__attempt_held(struct belay__attempt *attempt, int64_t remains_ms, const char *kind)
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
    belay__attempt_settle(attempt, BELAY_HELD);
}

static void grant(struct belay__attempt *attempt)
{
    belay_op *op = attempt->op;
    if (attempt->verb == BELAY_VERB_ACQUIRE) {
        op->grant = belay__held_new(attempt->server, op, attempt->link);
        if (op->grant == NULL) {
            belay__attempt_abandon(attempt, BELAY_NOMEM, BELAY_CAUSE_NONE, "out of memory");
            return;
        }
        op->token = attempt->token;
    } else if (op->grant != NULL) {
        belay__held_seen(op->grant, attempt->link);
    }
    belay__attempt_settle(attempt, BELAY_OK);
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
        belay__attempt_abandon(attempt, BELAY_UNCERTAIN, BELAY_CAUSE_WRONG,
                               "an answer that makes no sense; the connection is closed");
    } else {
        belay__attempt_fail(attempt, BELAY_UNCERTAIN, BELAY_CAUSE_WRONG,
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
            belay__attempt_disown(attempt);
            attempt->by_source = true;
            belay__attempt_send(attempt, link);
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
        belay__attempt_settle(attempt, BELAY_LOST);
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
        belay__attempt_abandon(attempt, BELAY_UNCERTAIN, why.cause, why.text);
        return;
    case BELAY__MEANS_FAILED: break;
    }
    /* A newcomer's rights are often those on the prefix alone. */
    if (why.status == BELAY_REFUSED && belay__attempt_fences(attempt) &&
        strstr(why.text, "key") != NULL) {
        size_t used = strlen(why.text);
        snprintf(why.text + used, sizeof why.text - used, " (it needs the key %.60s as well)",
                 attempt->server->fence);
    }
    belay__attempt_fail(attempt, why.status, why.cause, why.text);
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
        belay__attempt_held(attempt, -1, NULL);
    } else {
        belay__link_forget(attempt->link, attempt->wait); /* there is nothing to replicate */
        attempt->wait = 0;
        attempt->looking = true;
        attempt->tracked = belay__tracking_is_on(attempt->server, attempt->link);
        attempt->since = belay__tracking_moment(attempt->server);
        if (!belay__attempt_ask_look(attempt)) belay__attempt_held(attempt, -1, NULL);
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
        belay__attempt_held(attempt, second->integer, third->text);
    } else {
        nonsense(attempt);
    }
}

/* A release that was asked again was overtaken by the attempt right behind it, whose refusal nobody
 * else makes good: the server does not tell us what we do ourselves (NOLOOP). */
static void wake_overtakers(const struct belay__attempt *attempt)
{
    if (attempt->verb == BELAY_VERB_EXTEND) return;
    if (attempt->by_source || attempt->backoff_ms != 0 || attempt->op->unsure_release)
        belay__tracking_wake(attempt->server, attempt->op->key);
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
        if (attempt->verb == BELAY_VERB_EXTEND && op->grant != NULL &&
            belay__held_is_news(op->grant, attempt->link))
            op->cause = BELAY_CAUSE_FORGOTTEN;
        wake_overtakers(attempt);
        belay__attempt_settle(attempt, done ? BELAY_OK : BELAY_LOST);
    } else if (attempt->verb == BELAY_VERB_EXTEND) {
        well(attempt);
    } else {
        wake_overtakers(attempt);
        belay__attempt_settle(attempt, BELAY_OK);
    }
}

static void inspected(struct belay__attempt *attempt, const struct belay__reply *reply)
{
    belay_info *info = attempt->op->info;
    attempt->main = 0;
    if (reply->type == BELAY__REPLY_ERROR && strncmp(reply->text, "WRONGTYPE", 9) == 0) {
        info->held = true;
        snprintf(info->label, sizeof info->label, "%s", BELAY__FOREIGN);
    } else if (reply->type == BELAY__REPLY_ERROR) {
        belay__link_forget(attempt->link, attempt->wait);
        attempt->wait = 0;
        failed(attempt, reply->text);
    } else if (reply->type == BELAY__REPLY_STRING) {
        info->held = true;
        if (reply->length < sizeof info->owner && strlen(reply->text) == reply->length)
            memcpy(info->owner, reply->text, reply->length + 1);
        else snprintf(info->label, sizeof info->label, "%s", BELAY__FOREIGN);
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
        belay__attempt_held(attempt, known ? reply->integer : -1, NULL);
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
    belay__attempt_settle(attempt, BELAY_OK);
}

static void replicated(struct belay__attempt *attempt, const struct belay__reply *reply)
{
    struct belay__server *server = attempt->server;
    attempt->wait = 0;
    if (!attempt->answered) { /* what they have is not ours */
        nonsense(attempt);
        return;
    }
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
    if (attempt->verb == BELAY_VERB_ACQUIRE)
        belay__attempt_abandon(attempt, why.status, why.cause, why.text);
    else belay__attempt_fail(attempt, why.status, why.cause, why.text);
}

void belay__attempt_answered(struct belay__attempt *attempt, enum belay__part part,
                             const struct belay__reply *reply)
{
    if (part == BELAY__PART_WAIT) {
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
