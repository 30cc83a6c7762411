/* redlock_vote.c - an acquire: all places are asked at once, and the answer is given as soon as it
 * is certain.
 *
 * Won: a quorum granted, with one token; whoever is silent then owes nothing, and its late grant
 * joins the lock. Lost: a quorum can't come together any more; everything is given back, also by
 * the silent ones. A place that is silent for `node_timeout` counts as one that refuses. The time
 * that a holder may believe counts from before the first request left.
 *
 * Tokens: the same proposal goes to every place. T is the largest of the answers; where a voter
 * answered less, T is written back to it, and the grant waits until a quorum stands at T. So the
 * next quorum, which shares a place with this one, answers more. See redlock.h. */
#include "redlock.h"

#include <stdio.h>

#define PROPOSAL_MOST (UINT64_C(1) << 49)

enum { LEAD_TICKS = 64, SPLIT_MS = 20, SPLITS_FEW = 1, SPLITS_MOST = 6, OPEN_MOST = 64 };

static void take_done(belay_op *op, belay_status status);
static void tally(struct redlock_lease *lease);

/* ------------------------------------------------------------------ waits of the children */

/* It outlives its wait while places that were asked for it have not answered. */
struct redlock_relay {
    struct redlock *r;
    belay_wait *up;  /* NULL: it has ended */
    uint32_t splits; /* votes that nobody won, less those that somebody did */
    uint32_t asked;  /* seats whose op points here */
    bool voting, woken;
    int64_t quiet_ns; /* a split: no wake counts before this */
    belay_timer timer;
    struct relay_at {
        belay_wait wait;
        struct redlock_relay *relay;
        bool seen;
    } at[REDLOCK_NODES_MOST];
    belay_link all; /* in r->relays */
    size_t key_length;
    char key[];
};

static int64_t relay_random(struct redlock_relay *relay)
{
    uint32_t most = SPLIT_MS << (relay->splits < 5 ? relay->splits : 5);
    return (int64_t)belay_env_random_below(relay->r->env, most * 1000) * 1000;
}

static void relay_due(belay_timer *timer)
{
    struct redlock_relay *relay = belay_container_of(timer, struct redlock_relay, timer);
    if (relay->up != NULL) belay_wait_wake(relay->up);
}

/* A crowd that is woken in one moment splits again. */
static void relay_pass(struct redlock_relay *relay)
{
    int64_t now = belay_env_now(relay->r->env);
    if (now < relay->quiet_ns || belay_timer_armed(&relay->timer)) return;
    if (relay->splits <= SPLITS_FEW) belay_wait_wake(relay->up);
    else belay_timer_arm(relay->r->env, &relay->timer, now + relay_random(relay));
}

static void relay_woken(belay_wait *wait)
{
    struct redlock_relay *relay = belay_container_of(wait, struct relay_at, wait)->relay;
    if (relay->up == NULL) return;
    if (relay->voting) relay->woken = true;
    else relay_pass(relay);
}

static struct redlock_relay *relay_of(struct redlock *r, const belay_op *op)
{
    belay_wait *wait = op->wait;
    struct redlock_relay *relay = wait->data;
    if (relay != NULL) return relay;
    relay = belay_env_alloc(r->env, sizeof *relay + op->key.length);
    if (relay == NULL) return NULL;
    relay->key_length = op->key.length;
    memcpy(relay->key, op->key.at, op->key.length);
    belay_link_append(&r->relays, &relay->all);
    relay->r = r;
    relay->up = wait;
    belay_timer_init(&relay->timer, relay_due);
    for (uint32_t i = 0; i < r->count; i++) {
        relay->at[i].relay = relay;
        relay->at[i].wait.parent = wait;
        relay->at[i].wait.woken = relay_woken;
        relay->at[i].wait.since_ns = wait->since_ns;
    }
    wait->data = relay;
    return relay;
}

/* The places wake others when something is let go; our own waiters are our own business. */
void belay__redlock_wake(struct redlock *r, const char *key, size_t length)
{
    for (belay_link *at = r->relays.next; at != &r->relays; at = at->next) {
        struct redlock_relay *relay = belay_container_of(at, struct redlock_relay, all);
        if (relay->key_length == length && memcmp(relay->key, key, length) == 0)
            relay_woken(&relay->at[0].wait);
    }
}

/* The vote is over: what woke us meanwhile counts, unless it was the crowd's own doing. */
static void relay_voted(const belay_op *op, bool split)
{
    struct redlock_relay *relay = op->wait != NULL ? op->wait->data : NULL;
    if (relay == NULL || !relay->voting) return;
    relay->voting = false;
    if (split && relay->splits > SPLITS_FEW) return;
    if (!split && relay->splits > 0 && belay_env_random_below(relay->r->env, 4) == 0)
        relay->splits--;
    if (relay->woken) relay_pass(relay);
    relay->woken = false;
}

static void relay_unwait(struct redlock *r, struct redlock_relay *relay, uint32_t i)
{
    belay_backend *place = r->nodes[i].place;
    if (relay->at[i].seen && place->ops->unwait != NULL)
        place->ops->unwait(place, &relay->at[i].wait);
    relay->at[i].seen = false;
}

/* The seat's op has settled. */
static void relay_put(struct redlock_seat *seat)
{
    struct redlock_relay *relay = seat->relay;
    struct redlock *r = seat->lease->r;
    if (relay == NULL) return;
    seat->relay = NULL;
    relay->asked--;
    if (relay->up != NULL) return;
    relay->at[seat->index].seen = true; /* this answer may have shown it again */
    relay_unwait(r, relay, seat->index);
    if (relay->asked == 0) belay_env_free(r->env, relay);
}

void belay__redlock_vote_abandon(struct redlock_seat *seat)
{
    belay_op_abandon(&seat->op);
    relay_put(seat);
}

void belay__redlock_unwait(belay_backend *base, belay_wait *wait)
{
    struct redlock *r = belay__redlock_of(base);
    struct redlock_relay *relay = wait->data;
    if (relay == NULL) return;
    wait->data = NULL;
    relay->up = NULL;
    belay_unlink(&relay->all);
    belay_timer_disarm(r->env, &relay->timer);
    for (uint32_t i = 0; i < r->count; i++) {
        relay->at[i].wait.parent = NULL;
        relay_unwait(r, relay, i);
        relay->at[i].seen = relay->asked > 0; /* an answer on its way may show it again */
    }
    if (relay->asked == 0) belay_env_free(r->env, relay);
}

/* ------------------------------------------------------------------ the answer */

static void hand_up(struct redlock_lease *lease)
{
    struct redlock *r = lease->r;
    belay_op *op = lease->op;
    int64_t sent = INT64_MAX;
    for (uint32_t i = 0; i < r->count; i++) {
        const struct redlock_seat *seat = &lease->seats[i];
        if (seat->voted && seat->sent_ns < sent) sent = seat->sent_ns;
    }
    relay_voted(op, false);
    lease->op = NULL;
    lease->dropped = false;
    lease->won = true;
    op->grant = &lease->base;
    op->token = lease->token;
    op->scope = belay__redlock_scope_of(&r->base);
    op->sent_ns = sent;
    lease->believed_ns = belay__redlock_deadline(sent, lease->ttl_ms);
    belay_op_settle(op, BELAY_OK);
}

/* Nobody has it, or that is not known: it is asked again soon. */
static int64_t split_pause(struct redlock_lease *lease)
{
    struct redlock_relay *relay = lease->op->wait != NULL ? lease->op->wait->data : NULL;
    belay_env *env = lease->r->env;
    if (relay == NULL) return (int64_t)belay_env_random_below(env, SPLIT_MS * 1000) * 1000;
    int64_t pause = relay_random(relay);
    relay->splits++;
    /* A lock that is being let go, place by place, is met half free: that is no crowd. */
    if (relay->splits > SPLITS_FEW) relay->quiet_ns = belay_env_now(env) + pause;
    return pause;
}

/* The refusals alone prevent a quorum. A split of many looks the same at first. */
static bool is_held(const struct redlock_lease *lease)
{
    const struct redlock *r = lease->r;
    const belay_wait *wait = lease->op->wait;
    const struct redlock_relay *relay = wait != NULL ? wait->data : NULL;
    if (lease->held <= r->count - r->quorum) return false;
    return lease->granted == 0 || (relay != NULL && relay->splits >= SPLITS_MOST);
}

/* When a quorum of places is free again, if nobody extends: -1, not known. */
static int64_t held_for(const struct redlock_lease *lease)
{
    const struct redlock *r = lease->r;
    int64_t sorted[REDLOCK_NODES_MOST];
    for (uint32_t i = 0; i < r->count; i++) {
        uint32_t at = i;
        int64_t left = lease->held_for_ns[i] < 0 ? INT64_MAX : lease->held_for_ns[i];
        for (; at > 0 && sorted[at - 1] > left; at--) sorted[at] = sorted[at - 1];
        sorted[at] = left;
    }
    int64_t left = sorted[r->quorum - 1];
    return left == INT64_MAX ? -1 : left;
}

/* What is open stays so until `node_timeout`: its answer tells how its place is, and a grant is let
 * go then. */
static void fail(struct redlock_lease *lease, belay_status status, belay_cause cause,
                 const char *what)
{
    struct redlock *r = lease->r;
    belay_op *op = lease->op;
    char said[240];
    belay__redlock_say(r, said, sizeof said);
    relay_voted(op, false);
    lease->op = NULL;
    lease->ending = true;
    if (status == BELAY_HELD)
        belay_error_set(op->error, status, belay_env_name(r->env), "%s", said);
    if (status == BELAY_HELD) belay_op_settle(op, status);
    else belay_op_fail(op, status, cause, belay_env_name(r->env), "%s (%s)", what, said);
    if (!lease->telling) belay__redlock_lease_undo(lease);
    belay_task_post(r->env, &lease->check); /* who called may be using it yet */
}

/* No quorum can come together any more. */
static void lose(struct redlock_lease *lease)
{
    struct redlock *r = lease->r;
    belay_op *op = lease->op;
    bool silent = lease->uncertain > 0;
    if (lease->no_memory) {
        fail(lease, BELAY_NOMEM, BELAY_CAUSE_NONE, "out of memory");
        return;
    }
    for (uint32_t i = 0; i < r->count; i++)
        if (lease->seats[i].work == REDLOCK_TAKE) silent = true;
    if (lease->held > 0) {
        bool held = is_held(lease);
        op->held_for_ns = held ? held_for(lease) : split_pause(lease);
        relay_voted(op, !held);
        fail(lease, BELAY_HELD, BELAY_CAUSE_NONE, "");
        return;
    }
    /* Is the quorum out of reach, or did those who were reached refuse? */
    uint32_t reached = lease->granted + lease->held + lease->failed - lease->unreached;
    belay_cause cause = reached < r->quorum ? BELAY_CAUSE_UNREACHABLE : BELAY_CAUSE_BUSY;
    fail(lease, silent ? BELAY_UNCERTAIN : BELAY_UNAVAILABLE, cause, "no quorum");
}

/* ------------------------------------------------------------------ won, but for the token */

static void raise_done(belay_op *op, belay_status status)
{
    struct redlock_seat *seat = belay_container_of(op, struct redlock_seat, op);
    struct redlock_lease *lease = seat->lease;
    belay__redlock_seat_ended(seat, status);
    if (status == BELAY_OK) {
        seat->token = op->token_floor; /* T may have grown meanwhile */
        belay__redlock_seat_lasts(seat, op);
    } else {
        if (status == BELAY_LOST) seat->there = false;
        belay__redlock_vote_withdraw(seat);
        if (op->cause == BELAY_CAUSE_UNREACHABLE) lease->unreached++;
    }
    if (lease->op != NULL) tally(lease);
    else belay__redlock_lease_quorum(lease, "fewer than a quorum of its places have it");
    belay__redlock_lease_check(lease);
}

/* A grant that does not count any more. */
void belay__redlock_vote_withdraw(struct redlock_seat *seat)
{
    if (!seat->voted) return;
    seat->voted = false;
    seat->lease->granted--;
    seat->lease->failed++;
}

void belay__redlock_vote_told(struct redlock_seat *seat)
{
    struct redlock_lease *lease = seat->lease;
    if (!seat->voted) return;
    belay__redlock_vote_withdraw(seat);
    lease->telling = true; /* from within a place's own code: nothing is started there now */
    tally(lease);
    lease->telling = false;
}

/* True: a quorum stands at T. */
static bool token_agreed(struct redlock_lease *lease)
{
    struct redlock *r = lease->r;
    uint32_t at_token = 0;
    for (uint32_t i = 0; i < r->count; i++)
        if (lease->seats[i].voted && lease->seats[i].token > lease->token)
            lease->token = lease->seats[i].token;
    for (uint32_t i = 0; i < r->count; i++)
        at_token += lease->seats[i].voted && lease->seats[i].token >= lease->token;
    if (at_token >= r->quorum) return true;
    for (uint32_t i = 0; i < r->count; i++) {
        struct redlock_seat *seat = &lease->seats[i];
        if (!seat->voted || seat->token >= lease->token || seat->work != REDLOCK_IDLE) continue;
        belay__redlock_seat_op(seat, REDLOCK_RAISE, BELAY_VERB_EXTEND, lease->ttl_ms);
        seat->op.token_floor = lease->token;
        belay__redlock_seat_start(seat, r->node_timeout_ns, raise_done);
    }
    return false;
}

static void tally(struct redlock_lease *lease)
{
    const struct redlock *r = lease->r;
    if (lease->granted >= r->quorum) {
        if (token_agreed(lease)) hand_up(lease);
    } else if (lease->granted + lease->left < r->quorum) {
        /* Who waits wants to know for how long: is it held, or only out of reach? */
        bool held = lease->held > r->count - r->quorum;
        if (lease->op->wait == NULL || lease->left == 0 || held) lose(lease);
    }
}

/* ------------------------------------------------------------------ the votes */

/* A vote that came after the answer: it joins the lock, or is given back. */
static void take_late(struct redlock_seat *seat, belay_status status)
{
    if (status == BELAY_OK) belay__redlock_seat_take(seat);
    belay__redlock_lease_check(seat->lease);
}

static void take_done(belay_op *op, belay_status status)
{
    struct redlock_seat *seat = belay_container_of(op, struct redlock_seat, op);
    struct redlock_lease *lease = seat->lease;
    struct redlock *r = lease->r;
    struct redlock_node *node = &r->nodes[seat->index];
    bool was_late = seat->late;
    bool weak = status == BELAY_OK && op->scope < belay__redlock_scope_of(&r->base);
    belay__redlock_seat_ended(seat, status);
    relay_put(seat);
    if (lease->op == NULL) {
        take_late(seat, status);
        return;
    }
    if (!was_late) lease->left--;
    else if (lease->failed > 0) lease->failed--, lease->unreached--;
    if (status == BELAY_OK) {
        belay__redlock_seat_take(seat);
        if (!seat->there || weak) { /* lost at once, or degraded itself */
            lease->failed++;
        } else if (belay__redlock_node_votes(r, node)) {
            seat->voted = true;
            lease->granted++;
        } else {
            lease->failed++;
        }
    } else if (status == BELAY_HELD) {
        lease->held++;
        lease->held_for_ns[seat->index] = op->held_for_ns;
    } else {
        lease->failed++;
        if (status == BELAY_NOMEM) lease->no_memory = true;
        if (status == BELAY_UNCERTAIN) lease->uncertain++;
        if (op->cause == BELAY_CAUSE_UNREACHABLE) lease->unreached++;
    }
    if (r->twin[0] >= 0) {
        char what[200];
        snprintf(what, sizeof what, "%.80s and %.80s are one place",
                 belay_env_name(r->nodes[r->twin[0]].place->env),
                 belay_env_name(r->nodes[r->twin[1]].place->env));
        fail(lease, BELAY_CONFIG, BELAY_CAUSE_WRONG, what);
        return;
    }
    tally(lease);
}

/* `node_timeout` is over: who has not answered counts as one that refuses, and may yet join. */
static void timer_due(belay_timer *timer)
{
    struct redlock_lease *lease = belay_container_of(timer, struct redlock_lease, timer);
    struct redlock *r = lease->r;
    int64_t now = belay_env_now(r->env);
    if (now - timer->due_ns > r->node_timeout_ns / 4 && !lease->stalled) {
        /* It is us who stood still: the answers may be there, unread. */
        lease->stalled = true;
        belay_timer_arm(r->env, timer, now + REDLOCK_MS);
        return;
    }
    for (uint32_t i = 0; i < r->count; i++) {
        struct redlock_seat *seat = &lease->seats[i];
        if (seat->work != REDLOCK_TAKE || seat->late) continue;
        seat->late = true;
        belay__redlock_node_late(r, &r->nodes[i]);
        if (lease->ending) belay_op_cancel(&seat->op);
        if (lease->op == NULL) continue;
        lease->left--;
        lease->failed++;
        lease->unreached++;
    }
    if (lease->op != NULL) tally(lease);
    for (uint32_t i = 0; i < r->count; i++)
        if (lease->ending && lease->seats[i].work == REDLOCK_TAKE)
            belay_op_cancel(&lease->seats[i].op);
}

/* ------------------------------------------------------------------ the beginning */

/* Whom to ask: who is silent is spared, unless the others are too few. */
static uint32_t choose(struct redlock *r, bool asks[])
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < r->count; i++) {
        asks[i] =
            belay__redlock_node_votes(r, &r->nodes[i]) && belay__redlock_node_asks(r, &r->nodes[i]);
        n += asks[i];
    }
    bool few = n < r->quorum;
    for (uint32_t i = 0; i < r->count && few; i++) {
        if (asks[i] || !belay__redlock_node_votes(r, &r->nodes[i])) continue;
        if (r->nodes[i].open >= OPEN_MOST) continue;
        asks[i] = true;
        n++;
    }
    return n;
}

static void ask_all(struct redlock_lease *lease)
{
    struct redlock *r = lease->r;
    belay_op *op = lease->op;
    struct redlock_relay *relay = op->wait != NULL ? op->wait->data : NULL;
    int64_t now = belay_env_now(r->env);
    uint64_t floor = op->token_floor, proposal = belay_env_proposal(r->env) + LEAD_TICKS;
    /* Two names that ask in one tick do so in the same order everywhere. */
    if (proposal <= r->proposal && r->proposal < PROPOSAL_MOST) proposal = r->proposal + 1;
    if (r->fencing && proposal < PROPOSAL_MOST && proposal > floor) floor = proposal;
    r->proposal = proposal;
    bool asks[REDLOCK_NODES_MOST] = { false };
    (void)choose(r, asks);
    if (relay != NULL) {
        relay->voting = true;
        relay->woken = false;
        belay_timer_disarm(r->env, &relay->timer);
    }
    for (uint32_t i = 0; i < r->count; i++) {
        struct redlock_seat *seat = &lease->seats[i];
        lease->held_for_ns[i] = -1;
        if (!asks[i]) {
            lease->failed++;
            lease->unreached += belay__redlock_node_votes(r, &r->nodes[i]);
            continue;
        }
        belay__redlock_seat_op(seat, REDLOCK_TAKE, BELAY_VERB_ACQUIRE, op->ttl_ms);
        seat->op.label = lease->label;
        seat->op.also_pid = op->also_pid;
        seat->op.token_floor = floor;
        seat->op.at_least = op->at_least;
        if (relay != NULL) {
            seat->op.wait = &relay->at[i].wait;
            seat->relay = relay;
            relay->at[i].seen = true;
            relay->asked++;
        }
        lease->left++;
        belay__redlock_seat_start(seat, 0, take_done);
    }
    belay_timer_init(&lease->timer, timer_due);
    belay_timer_arm(r->env, &lease->timer, now + r->node_timeout_ns);
    if (lease->granted + lease->left < r->quorum) lose(lease);
}

void belay__redlock_vote(belay_backend *base, belay_op *op)
{
    struct redlock *r = belay__redlock_of(base);
    if (op->ttl_ms > r->max_ttl_ms) {
        belay_op_fail(op, BELAY_INVALID, BELAY_CAUSE_WRONG, belay_env_name(r->env),
                      "a TTL of %u ms is more than its max_ttl, %u ms", (unsigned)op->ttl_ms,
                      (unsigned)r->max_ttl_ms);
        return;
    }
    struct redlock_lease *lease = belay__redlock_lease_new(r, op);
    if (lease == NULL || (op->wait != NULL && relay_of(r, op) == NULL)) {
        if (lease != NULL) belay__redlock_lease_check(lease);
        belay_op_fail(op, BELAY_NOMEM, BELAY_CAUSE_NONE, NULL, "out of memory");
        return;
    }
    lease->op = op;
    op->data = lease;
    ask_all(lease);
}

void belay__redlock_vote_cancel(belay_op *op)
{
    struct redlock_lease *lease = op->data;
    struct redlock *r = lease->r;
    int64_t whole = belay_env_timeout_ns(r->env);
    if (r->node_timeout_ns < whole) whole = r->node_timeout_ns;
    bool full = belay_env_now(r->env) >= op->sent_ns + whole;
    fail(lease, BELAY_UNCERTAIN, full ? BELAY_CAUSE_UNREACHABLE : BELAY_CAUSE_CUT_SHORT,
         "no quorum in time");
}
