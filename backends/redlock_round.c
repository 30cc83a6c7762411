/* redlock_round.c - extend, release and break: every seat is asked at once, a quorum decides.
 *
 * An extension that reaches fewer leaves the old deadline; it is lost only when a quorum can't have
 * it any more. A minority's word never ends a lock. A release is done when a quorum has let it go;
 * the others go on, and what they don't answer is repeated. See redlock.h. */
#include "redlock.h"

#include <stdio.h>

struct leg {
    struct round *round;
    uint32_t index;
    bool open;
    belay_op op;
};

struct round {
    belay_link all; /* in r->rounds */
    struct redlock *r;
    struct redlock_lease *lease;
    belay_op *op; /* core's, until it is answered */
    belay_verb verb;
    uint32_t ttl_ms;
    bool no_memory;
    bool canceled;
    uint32_t open, ok, lost, failed, unreached;
    int64_t sent_ns; /* the smallest of those that count */
    struct leg legs[];
};

static void leg_done(belay_op *op, belay_status status);

static void round_free(struct round *round)
{
    struct redlock_lease *lease = round->lease;
    lease->users--;
    belay_unlink(&round->all);
    belay_env_free(round->r->env, round);
    belay__redlock_lease_check(lease);
}

static void answer(struct round *round, belay_status status)
{
    struct redlock *r = round->r;
    belay_op *op = round->op;
    round->op = NULL;
    if (round->verb == BELAY_VERB_RELEASE && belay__redlock_is_answer(status))
        round->lease->released = true;
    if (status == BELAY_OK) {
        op->sent_ns = round->sent_ns;
        int64_t until = belay__redlock_deadline(round->sent_ns, round->ttl_ms);
        if (round->lease->believed_ns < until) round->lease->believed_ns = until;
        op->token = round->lease->token;
        op->scope = belay__redlock_scope_of(&r->base);
        belay_op_settle(op, status);
        if (round->verb == BELAY_VERB_EXTEND && !round->lease->adopted)
            belay__redlock_lease_repair(round->lease);
    } else if (status == BELAY_LOST) {
        if (round->verb == BELAY_VERB_EXTEND) round->lease->lost = true;
        belay_op_settle(op, status);
    } else {
        char said[240];
        if (round->no_memory) status = BELAY_NOMEM;
        belay__redlock_say(r, said, sizeof said);
        bool gone = round->ok + round->lost + round->failed - round->unreached < r->quorum;
        belay_op_fail(op, status, gone ? BELAY_CAUSE_UNREACHABLE : BELAY_CAUSE_BUSY,
                      belay_env_name(r->env), "no quorum (%s)", said);
    }
}

/* Is the answer certain? */
static void extend_tally(struct round *round)
{
    uint32_t quorum = round->r->quorum;
    if (round->ok >= quorum) {
        answer(round, BELAY_OK);
    } else if (round->ok + round->failed + round->open < quorum) {
        answer(round, BELAY_LOST); /* whatever the silent ones say */
    } else if (round->ok + round->open < quorum) {
        answer(round, BELAY_UNAVAILABLE);
    }
}

static void release_tally(struct round *round)
{
    uint32_t quorum = round->r->quorum;
    if (round->ok >= quorum) answer(round, BELAY_OK);
    else if (round->ok + round->failed + round->open < quorum) answer(round, BELAY_LOST);
    else if (round->open > 0) return;
    else if (round->failed > 0) answer(round, BELAY_UNAVAILABLE);
    else answer(round, BELAY_LOST);
}

/* Whoever is broken at one place is, if a quorum was asked. */
static void break_tally(struct round *round)
{
    if (round->open > 0) return;
    if (round->ok + round->lost < round->r->quorum) answer(round, BELAY_UNAVAILABLE);
    else answer(round, round->ok > 0 ? BELAY_OK : BELAY_LOST);
}

static void tally(struct round *round)
{
    if (round->verb == BELAY_VERB_EXTEND) extend_tally(round);
    else if (round->verb == BELAY_VERB_RELEASE) release_tally(round);
    else break_tally(round);
}

/* Nobody has answered for it in a whole TTL. */
static bool is_over(const struct round *round, const struct redlock_seat *seat)
{
    return round->verb == BELAY_VERB_EXTEND && !round->lease->adopted &&
           belay_env_now(round->r->env) >= seat->until_ns;
}

static void leg_done(belay_op *op, belay_status status)
{
    struct leg *leg = belay_container_of(op, struct leg, op);
    struct round *round = leg->round;
    struct redlock *r = round->r;
    struct redlock_seat *seat = &round->lease->seats[leg->index];
    struct redlock_node *node = &r->nodes[leg->index];
    bool silent = op->canceled && op->cause == BELAY_CAUSE_CUT_SHORT && !round->canceled;
    leg->open = false;
    round->open--;
    seat->legs--;
    r->busy--;
    belay_env_mind(r->env, false);
    belay__redlock_node_heard(r, node, op, status, false);
    if (silent) belay__redlock_node_late(r, node);
    if (status == BELAY_OK || (status == BELAY_LOST && op->unsure_release)) {
        round->ok++;
        if (round->verb == BELAY_VERB_EXTEND) belay__redlock_seat_lasts(seat, op);
        if (op->sent_ns < round->sent_ns) round->sent_ns = op->sent_ns;
    } else if (status == BELAY_LOST || is_over(round, seat)) {
        round->lost++;
    } else {
        round->failed++;
        if (status == BELAY_NOMEM) round->no_memory = true;
        if (op->cause == BELAY_CAUSE_UNREACHABLE || op->cause == BELAY_CAUSE_CUT_SHORT)
            round->unreached++;
    }
    bool gone = status == BELAY_LOST || (status == BELAY_OK && round->verb != BELAY_VERB_EXTEND);
    if (gone && seat->there) {
        seat->there = false;
        seat->gone = round->verb == BELAY_VERB_EXTEND;
    }
    if (round->op != NULL) tally(round);
    if (round->verb == BELAY_VERB_EXTEND && gone)
        belay__redlock_lease_quorum(round->lease,
                                    "a quorum of its places does not have it any more");
    if (round->open == 0) round_free(round);
}

static void leg_start(struct round *round, uint32_t i)
{
    struct redlock *r = round->r;
    struct redlock_lease *lease = round->lease;
    struct leg *leg = &round->legs[i];
    struct redlock_node *node = &r->nodes[i];
    int64_t gone = belay_env_now(r->env) + (int64_t)round->ttl_ms * REDLOCK_MS;
    if (round->verb == BELAY_VERB_EXTEND && gone > lease->gone_ns) lease->gone_ns = gone;
    leg->round = round;
    leg->index = i;
    leg->open = true;
    leg->op = (belay_op){
        .verb = round->verb,
        .key = { lease->key, lease->key_length },
        .name = { lease->key + (lease->key_length - lease->name_length), lease->name_length },
        .owner = lease->owner,
        .label = "",
        .ttl_ms = round->ttl_ms,
        .grant = lease->seats[i].grant,
        .error = &node->error,
    };
    if (round->verb == BELAY_VERB_EXTEND) leg->op.token_floor = round->op->token_floor;
    node->error.text[0] = '\0';
    round->open++;
    lease->seats[i].legs++;
    r->busy++;
    belay_env_mind(r->env, true);
    belay__redlock_node_asked(r, node);
    /* A release is worth a second look: it would have to be repeated. */
    int64_t patience = r->node_timeout_ns * (round->verb == BELAY_VERB_RELEASE ? 2 : 1);
    belay_op_start_within(&leg->op, node->place, round->op, patience, leg_done);
}

/* A lock that was granted elsewhere may be at every place. */
static struct redlock_lease *lease_of(struct redlock *r, const belay_op *op)
{
    if (op->grant != NULL) return belay__redlock_lease_of(op->grant);
    struct redlock_lease *lease = belay__redlock_lease_new(r, op);
    if (lease == NULL) return NULL;
    lease->adopted = true;
    lease->gone_ns = belay_env_now(r->env) + (int64_t)r->max_ttl_ms * REDLOCK_MS;
    for (uint32_t i = 0; i < r->count; i++) lease->seats[i].there = true;
    return lease;
}

void belay__redlock_round(belay_backend *base, belay_op *op)
{
    struct redlock *r = belay__redlock_of(base);
    if (op->verb == BELAY_VERB_EXTEND && op->ttl_ms > r->max_ttl_ms) {
        belay_op_fail(op, BELAY_INVALID, BELAY_CAUSE_WRONG, belay_env_name(r->env),
                      "a TTL of %u ms is more than its max_ttl, %u ms", (unsigned)op->ttl_ms,
                      (unsigned)r->max_ttl_ms);
        return;
    }
    struct round *round = belay_env_alloc(r->env, sizeof *round + r->count * sizeof(struct leg));
    struct redlock_lease *lease = round != NULL ? lease_of(r, op) : NULL;
    if (lease == NULL) {
        belay_env_free(r->env, round);
        belay_op_fail(op, BELAY_NOMEM, BELAY_CAUSE_NONE, NULL, "out of memory");
        return;
    }
    round->r = r;
    round->lease = lease;
    round->op = op;
    round->verb = op->verb;
    round->ttl_ms = op->ttl_ms;
    round->sent_ns = INT64_MAX;
    belay_link_append(&r->rounds, &round->all);
    lease->users++;
    op->data = round;
    if (op->verb == BELAY_VERB_RELEASE) {
        lease->ending = true;
    } else if (op->verb == BELAY_VERB_EXTEND && op->ttl_ms > lease->ttl_ms) {
        lease->ttl_ms = op->ttl_ms;
    }
    round->open = 1; /* until all are asked */
    for (uint32_t i = 0; i < r->count; i++) {
        struct redlock_seat *seat = &lease->seats[i];
        if (lease->ending && seat->work == REDLOCK_REPAIR) belay_op_cancel(&seat->op);
        if (seat->there && seat->work != REDLOCK_CLEAN) leg_start(round, i);
    }
    belay__redlock_lease_undo(lease);
    if (--round->open > 0) return;
    tally(round);
    round_free(round);
}

void belay__redlock_round_cancel(belay_op *op)
{
    struct round *round = op->data;
    round->canceled = true;
    round->open++; /* it lives until all are */
    for (uint32_t i = 0; i < round->r->count; i++)
        if (round->legs[i].open) belay_op_cancel(&round->legs[i].op);
    round->open--;
}

/* Those that are answered, and whose last legs are silent. */
void belay__redlock_rounds_free(struct redlock *r)
{
    while (!belay_links_empty(&r->rounds)) {
        struct round *round = belay_container_of(r->rounds.next, struct round, all);
        for (uint32_t i = 0; i < r->count; i++)
            if (round->legs[i].open) belay_op_abandon(&round->legs[i].op);
        round->lease->users--;
        belay_unlink(&round->all);
        belay_env_free(r->env, round);
    }
}
