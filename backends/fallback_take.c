/* fallback_take.c - one attempt to acquire: the host's row first, then the primary.
 *
 * A row that is held is the answer. With the row, the primary is asked: refused by it, the row is
 * let go; out of its reach, the row alone is the lock, if the caller and the policy allow that. So
 * two processes of a host exclude each other whatever each of them sees of the primary.
 *
 * Tokens: the row's T2 is larger than any that this host has seen, and a little ahead of the clock.
 * The primary is asked for one that is no smaller. It mostly answers T2 itself; where it is further
 * ahead, the secondary's fence is raised to its answer before anybody is told of the grant. So the
 * next grant of this host, degraded or not, has a larger one. */
#include "fallback.h"

#include <string.h>

#define SEQ_MASK ((UINT64_C(1) << 50) - 1)
#define PROPOSAL_MOST (UINT64_C(1) << 49)

enum { LEAD_TICKS = 64 }; /* of 16 us: how far ahead of the clock a row's token is */

enum take_step {
    TAKE_PARKED, /* behind a release of the same key */
    TAKE_ROW,
    TAKE_PRIME,
    TAKE_DOUBT,   /* the primary was cut off: a probe tells whether it is gone */
    TAKE_RAISE,   /* the secondary's fence */
    TAKE_REFRESH, /* the row has become old while the primary was asked */
    TAKE_LETGO    /* of the row, and then the answer */
};

struct take {
    struct fallback *fb;
    belay_op *op; /* core's */
    struct fallback_hold *hold;
    enum take_step step;
    bool canceled;
    bool degraded;       /* it is the row that counts */
    belay_status status; /* the answer, when the row is let go */
    uint64_t row_token;
    int64_t row_ns;    /* when the row was taken */
    belay_link parked; /* among fb->parked or fb->doubts */
    belay_op child;
};

static void take_done(belay_op *child, belay_status status);
static void take_go(struct take *take);

/* ------------------------------------------------------------------ waits of the children */

struct relay {
    belay_wait row, prime;
    bool row_seen, prime_seen;
    belay_link all; /* in fb->relays */
    size_t key_length;
    char key[];
};

static void relay_woken(belay_wait *wait)
{
    belay_wait_wake(wait->parent);
}

/* Made at the first attempt; NULL when memory is short. */
static struct relay *relay_of(struct fallback *fb, const belay_op *op)
{
    belay_wait *wait = op->wait;
    struct relay *relay = wait->data;
    if (relay != NULL) return relay;
    relay = belay_env_alloc(fb->env, sizeof *relay + op->key.length);
    if (relay == NULL) return NULL;
    relay->row.parent = relay->prime.parent = wait;
    relay->row.woken = relay->prime.woken = relay_woken;
    relay->row.since_ns = relay->prime.since_ns = wait->since_ns;
    relay->key_length = op->key.length;
    memcpy(relay->key, op->key.at, op->key.length);
    belay_link_append(&fb->relays, &relay->all);
    wait->data = relay;
    return relay;
}

/* The places wake others when something is let go, and our own waiters are our own business. */
void belay__fallback_wake(struct fallback *fb, const char *key, size_t length)
{
    for (belay_link *at = fb->relays.next; at != &fb->relays; at = at->next) {
        struct relay *relay = belay_container_of(at, struct relay, all);
        if (relay->key_length == length && memcmp(relay->key, key, length) == 0)
            belay_wait_wake(relay->row.parent);
    }
}

static void unwait(belay_backend *place, belay_wait *wait, bool *seen)
{
    if (*seen && place->ops->unwait != NULL) place->ops->unwait(place, wait);
    *seen = false;
}

void belay__fallback_wake_all(struct fallback *fb)
{
    for (belay_link *at = fb->relays.next; at != &fb->relays; at = at->next)
        belay_wait_wake(belay_container_of(at, struct relay, all)->row.parent);
}

void belay__fallback_unwait(belay_backend *base, belay_wait *wait)
{
    struct fallback *fb = belay__fallback_of(base);
    struct relay *relay = wait->data;
    if (relay == NULL) return;
    wait->data = NULL;
    unwait(fb->secondary, &relay->row, &relay->row_seen);
    unwait(fb->primary, &relay->prime, &relay->prime_seen);
    belay_unlink(&relay->all);
    belay_env_free(fb->env, relay);
}

/* ------------------------------------------------------------------ the end */

static void take_free(struct take *take)
{
    belay_unlink(&take->parked);
    take->hold->ending = true; /* what it has is let go; unless it was handed up */
    belay__fallback_hold_put(take->hold);
    belay_env_free(take->fb->env, take);
}

static void take_fail(struct take *take, belay_status status, belay_cause cause, const char *text)
{
    belay_op_fail(take->op, status, cause, belay_env_name(take->fb->env), "%s", text);
    take_free(take);
}

/* The children have said it, and why. */
static void take_settle(struct take *take, belay_status status)
{
    belay_op *op = take->op;
    take_free(take);
    belay_op_settle(op, status);
}

static void take_grant(struct take *take)
{
    struct fallback_hold *hold = take->hold;
    belay_op *op = take->op;
    if (hold->lost || !(take->degraded ? hold->row.there : hold->prime.there)) {
        take_fail(take, BELAY_UNAVAILABLE, BELAY_CAUSE_BUSY,
                  "it was lost again before it could be handed over");
        return;
    }
    hold->fleet = !take->degraded;
    hold->dropped = false;
    if (take->degraded) {
        hold->token = take->row_token;
        if (!take->fb->health.down) belay__fallback_hold_want(hold); /* it is back by now */
    }
    op->grant = &hold->base;
    belay__fallback_hold_settle(hold, op);
    belay_env_free(take->fb->env, take);
    belay__fallback_hold_put(hold);
}

/* The answer is known, and the row is in the way of others. From now on it is the primary whose
 * word is awaited: others of this host who take the row and let it go again must not wake us, nor
 * we them. */
static void take_letgo(struct take *take, belay_status status)
{
    struct fallback_hold *hold = take->hold;
    struct relay *relay = take->op->wait != NULL ? take->op->wait->data : NULL;
    if (relay != NULL) unwait(take->fb->secondary, &relay->row, &relay->row_seen);
    take->status = status;
    if (!hold->row.there || take->canceled) { /* no time: it is let go in the background */
        take_settle(take, status);
        return;
    }
    take->step = TAKE_LETGO;
    belay__fallback_side_op(hold, &hold->row, &take->child, BELAY_VERB_RELEASE, 0);
    belay_op_start(&take->child, take->fb->secondary, take->op, take_done);
}

/* ------------------------------------------------------------------ the steps */

/* The children's error is the caller's: whoever fails last has the word. */
static void child_init(struct take *take, struct fallback_side *side, belay_verb verb)
{
    belay_op_init_child(&take->child, take->op);
    take->child.verb = verb;
    take->child.at_least = BELAY_SCOPE_ANY;
    take->child.grant = verb == BELAY_VERB_EXTEND ? side->grant : NULL;
}

static uint64_t row_floor(const struct take *take)
{
    struct fallback *fb = take->fb;
    if (!fb->fencing) return take->op->token_floor;
    /* Where the primary's grants come without a row, the clock alone orders the two. */
    uint64_t lead = fb->host_first ? LEAD_TICKS : 0;
    uint64_t proposal = belay_env_proposal(fb->env) + lead, floor = fb->token_seen;
    if (proposal < PROPOSAL_MOST && (floor & ~SEQ_MASK) + proposal > floor)
        floor = (floor & ~SEQ_MASK) + proposal;
    return floor > take->op->token_floor ? floor : take->op->token_floor;
}

static void ask_row(struct take *take)
{
    belay_op *op = take->op;
    take->step = TAKE_ROW;
    child_init(take, &take->hold->row, BELAY_VERB_ACQUIRE);
    take->child.token_floor = row_floor(take);
    if (op->wait != NULL) {
        struct relay *relay = relay_of(take->fb, op);
        if (relay == NULL) {
            take_fail(take, BELAY_NOMEM, BELAY_CAUSE_NONE, "out of memory");
            return;
        }
        take->child.wait = &relay->row;
        relay->row_seen = true;
    }
    belay_op_start(&take->child, take->fb->secondary, op, take_done);
}

static void ask_prime(struct take *take)
{
    belay_op *op = take->op;
    take->step = TAKE_PRIME;
    child_init(take, &take->hold->prime, BELAY_VERB_ACQUIRE);
    take->child.at_least = op->at_least;
    uint64_t floor = take->row_token > 0 ? take->row_token - 1 : take->fb->token_seen;
    if (take->fb->fencing && floor > op->token_floor) take->child.token_floor = floor;
    if (op->wait != NULL) {
        struct relay *relay = relay_of(take->fb, op);
        if (relay == NULL) {
            belay_error_set(op->error, BELAY_NOMEM, NULL, "out of memory");
            take_letgo(take, BELAY_NOMEM);
            return;
        }
        take->child.wait = &relay->prime;
        relay->prime_seen = true;
    }
    belay_op_start(&take->child, take->fb->primary, op, take_done);
}

static void extend_row(struct take *take, enum take_step step, uint64_t floor)
{
    take->step = step;
    child_init(take, &take->hold->row, BELAY_VERB_EXTEND);
    take->child.token_floor = floor;
    belay_op_start(&take->child, take->fb->secondary, take->op, take_done);
}

/* The primary is out of reach. Is the row good enough? */
static void degrade(struct take *take)
{
    struct fallback *fb = take->fb;
    struct fallback_hold *hold = take->hold;
    int64_t age = belay_env_now(fb->env) - take->row_ns;
    take->degraded = true;
    if (!belay__fallback_may_degrade(fb, take->op) || belay__fallback_health_settles(fb)) {
        belay__fallback_health_refuse(fb, take->op);
        take_letgo(take, BELAY_UNAVAILABLE);
    } else if (!hold->row.there) { /* host_first = false */
        ask_row(take);
    } else if (age > (int64_t)take->op->ttl_ms * FALLBACK_MS / 10) {
        extend_row(take, TAKE_REFRESH, 0);
    } else {
        take_grant(take);
    }
}

static void row_done(struct take *take, belay_status status)
{
    if (status == BELAY_HELD) {
        take->op->held_for_ns = take->child.held_for_ns;
    } else if (status == BELAY_OK) {
        belay__fallback_side_set(take->hold, &take->hold->row, &take->child);
        take->row_token = take->child.token;
        take->row_ns = take->child.sent_ns;
        if (take->canceled) {
            take->op->cause = BELAY_CAUSE_CUT_SHORT;
            belay_error_set(take->op->error, BELAY_UNAVAILABLE, belay_env_name(take->fb->env),
                            "no time was left to ask the primary");
            take_letgo(take, BELAY_UNAVAILABLE);
        } else if (take->degraded) {
            take_grant(take);
        } else if (take->fb->health.down) {
            degrade(take);
        } else {
            ask_prime(take);
        }
        return;
    }
    take->op->cause = take->child.cause;
    take_settle(take, status);
}

static void prime_done(struct take *take, belay_status status)
{
    struct fallback *fb = take->fb;
    struct fallback_hold *hold = take->hold;
    belay_op *op = take->op;
    enum fallback_word word = belay__fallback_health_heard(fb, &take->child, status);
    if (status == BELAY_OK) {
        belay__fallback_side_set(hold, &hold->prime, &take->child);
        hold->token = take->child.token;
        bool raise = fb->fencing && fb->host_first && hold->token > take->row_token;
        if (!raise) take_grant(take);
        else if (!take->canceled) extend_row(take, TAKE_RAISE, hold->token);
        else take_fail(take, BELAY_UNAVAILABLE, BELAY_CAUSE_CUT_SHORT, "granted too late");
        return;
    }
    if (status == BELAY_UNCERTAIN) hold->tainted = true;
    op->cause = take->child.cause;
    op->held_for_ns = take->child.held_for_ns;
    if (word == FALLBACK_GONE && !take->canceled) {
        degrade(take);
    } else if (word == FALLBACK_DOUBT && !take->canceled && belay__fallback_may_degrade(fb, op)) {
        take->step = TAKE_DOUBT;
        take->status = status;
        belay_link_append(&fb->doubts, &take->parked);
    } else {
        take_letgo(take, status);
    }
}

void belay__fallback_take_decided(struct fallback *fb)
{
    belay_link decided;
    belay_links_init(&decided);
    while (!belay_links_empty(&fb->doubts)) {
        belay_link *link = fb->doubts.next;
        belay_unlink(link);
        belay_link_append(&decided, link);
    }
    while (!belay_links_empty(&decided)) {
        struct take *take = belay_container_of(decided.next, struct take, parked);
        belay_unlink(&take->parked);
        if (take->status == BELAY_OK) take_go(take); /* nobody was asked yet */
        else if (fb->health.down) degrade(take);
        else take_letgo(take, take->status);
    }
}

/* The row was extended, for its fence or its time. */
static void extended(struct take *take, belay_status status)
{
    struct fallback_hold *hold = take->hold;
    if (status == BELAY_OK) {
        belay__fallback_side_set(hold, &hold->row, &take->child);
        take_grant(take);
        return;
    }
    if (status == BELAY_LOST && take->step == TAKE_REFRESH && !take->canceled) {
        hold->row.there = false; /* its TTL is no longer than the primary took: once more */
        ask_row(take);
        return;
    }
    if (status == BELAY_LOST) {
        hold->row.there = false;
        belay_error_set(take->op->error, BELAY_UNAVAILABLE, belay_env_name(take->fb->env),
                        "the host's lock was lost before the primary had answered");
    }
    take->op->cause = take->child.cause;
    take_settle(take, status == BELAY_LOST ? BELAY_UNAVAILABLE : status);
}

static void take_done(belay_op *child, belay_status status)
{
    struct take *take = belay_container_of(child, struct take, child);
    switch (take->step) {
    case TAKE_ROW: row_done(take, status); break;
    case TAKE_PRIME: prime_done(take, status); break;
    case TAKE_RAISE:
    case TAKE_REFRESH: extended(take, status); break;
    case TAKE_LETGO:
        if (belay__fallback_is_answer(status)) take->hold->row.there = false;
        take_settle(take, take->status);
        break;
    case TAKE_PARKED:
    case TAKE_DOUBT: break;
    }
}

/* ------------------------------------------------------------------ the beginning */

static void take_begin(struct take *take)
{
    struct fallback *fb = take->fb;
    if (fb->health.down && belay__fallback_health_overdue(fb)) {
        take->step = TAKE_DOUBT;
        belay_link_append(&fb->doubts, &take->parked);
    } else {
        take_go(take);
    }
}

static void take_go(struct take *take)
{
    struct fallback *fb = take->fb;
    if (fb->health.down &&
        (!belay__fallback_may_degrade(fb, take->op) || belay__fallback_health_settles(fb))) {
        belay_op *op = take->op;
        belay__fallback_health_refuse(fb, op);
        take_settle(take, BELAY_UNAVAILABLE);
    } else if (fb->host_first || fb->health.down) {
        take->degraded = !fb->host_first;
        ask_row(take);
    } else {
        ask_prime(take);
    }
}

void belay__fallback_take(belay_backend *base, belay_op *op)
{
    struct fallback *fb = belay__fallback_of(base);
    struct take *take = belay_env_alloc(fb->env, sizeof *take);
    struct fallback_hold *hold = take != NULL ? belay__fallback_hold_new(fb, op) : NULL;
    if (hold == NULL) {
        belay_env_free(fb->env, take);
        belay_op_fail(op, BELAY_NOMEM, BELAY_CAUSE_NONE, NULL, "out of memory");
        return;
    }
    take->fb = fb;
    take->op = op;
    take->hold = hold;
    op->data = take;
    if (belay__fallback_keep_frees(fb, hold)) belay_link_append(&fb->parked, &take->parked);
    else take_begin(take);
}

void belay__fallback_take_freed(struct fallback *fb, const struct fallback_hold *freed)
{
    for (belay_link *at = fb->parked.next, *next; at != &fb->parked; at = next) {
        struct take *take = belay_container_of(at, struct take, parked);
        next = at->next;
        if (!belay__fallback_same_key(take->hold, freed)) continue;
        belay_unlink(&take->parked);
        take_begin(take);
    }
}

void belay__fallback_take_cancel(belay_op *op)
{
    struct take *take = op->data;
    take->canceled = true;
    if (take->step == TAKE_PARKED)
        take_fail(take, BELAY_UNAVAILABLE, BELAY_CAUSE_CUT_SHORT,
                  "an earlier release of the lock is still under way");
    else if (take->step == TAKE_DOUBT && take->status == BELAY_OK)
        take_fail(take, BELAY_UNAVAILABLE, BELAY_CAUSE_CUT_SHORT,
                  "no time was left to look for the primary");
    else if (take->step == TAKE_DOUBT) take_letgo(take, take->status);
    else belay_op_cancel(&take->child);
}
