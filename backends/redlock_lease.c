/* redlock_lease.c - a held lock: a seat at each place that granted it, or may yet.
 *
 * Each seat has one op of its own: the vote's, a raise of the fence, a repair, and in the end the
 * release of what is left there, repeated until it is answered or the TTL has run out. The lease
 * lives until core has dropped it and no op of its seats is under way. See redlock.h. */
#include "redlock.h"

#include <stdio.h>

enum { AGAIN_FIRST_MS = 50, AGAIN_LAST_MS = 1000 };

static void clean_again(belay_timer *timer);
static void check_due(belay_task *task);
static void clean_done(belay_op *op, belay_status status);

/* ------------------------------------------------------------------ memory */

struct redlock_lease *belay__redlock_lease_new(struct redlock *r, const belay_op *op)
{
    size_t seats = r->count * sizeof(struct redlock_seat);
    struct redlock_lease *lease =
        belay_env_alloc(r->env, sizeof *lease + seats + op->key.length + 1);
    if (lease == NULL) return NULL;
    lease->r = r;
    lease->dropped = true;
    lease->check.fn = check_due;
    lease->ttl_ms = op->ttl_ms;
    lease->detached = op->detached;
    lease->key = (char *)lease + sizeof *lease + seats;
    lease->key_length = (uint32_t)op->key.length;
    lease->name_length = (uint32_t)op->name.length;
    memcpy(lease->key, op->key.at, op->key.length);
    snprintf(lease->label, sizeof lease->label, "%s", op->label != NULL ? op->label : "");
    size_t owner = strlen(op->owner); /* BREAK: perhaps another library's */
    if (owner < sizeof lease->owner) memcpy(lease->owner, op->owner, owner + 1);
    for (uint32_t i = 0; i < r->count; i++) {
        lease->seats[i].lease = lease;
        lease->seats[i].index = i;
        belay_timer_init(&lease->seats[i].again, clean_again);
    }
    belay_link_append(&r->leases, &lease->all);
    return lease;
}

static void seat_drop(struct redlock_seat *seat)
{
    belay_backend *place = seat->lease->r->nodes[seat->index].place;
    if (seat->grant != NULL && place->ops->drop != NULL) place->ops->drop(place, seat->grant);
    seat->grant = NULL;
}

static void lease_free(struct redlock_lease *lease)
{
    belay_env *env = lease->r->env;
    belay_timer_disarm(env, &lease->timer);
    belay_task_drop(env, &lease->check);
    belay_unlink(&lease->all);
    for (uint32_t i = 0; i < lease->r->count; i++) {
        belay_timer_disarm(env, &lease->seats[i].again);
        seat_drop(&lease->seats[i]);
    }
    belay_env_free(env, lease);
}

void belay__redlock_lease_check(struct redlock_lease *lease)
{
    bool busy = false, over = lease->ending && (lease->released || lease->dropped);
    if (lease->lost && lease->dropped && !lease->adopted) over = true;
    if (lease->users > 0 || lease->op != NULL) return;
    for (uint32_t i = 0; i < lease->r->count; i++) {
        struct redlock_seat *seat = &lease->seats[i];
        if (seat->work == REDLOCK_IDLE && seat->there && over && !seat->undoing)
            belay__redlock_seat_clean(seat);
        if (seat->work != REDLOCK_IDLE || seat->undoing) busy = true;
    }
    if (!busy && lease->dropped) lease_free(lease);
}

static void check_due(belay_task *task)
{
    struct redlock_lease *lease = belay_container_of(task, struct redlock_lease, check);
    belay__redlock_lease_undo(lease);
    belay__redlock_lease_check(lease);
}

uint32_t belay__redlock_lease_seats(const struct redlock_lease *lease)
{
    uint32_t n = 0;
    int64_t now = belay_env_now(lease->r->env);
    for (uint32_t i = 0; i < lease->r->count; i++) {
        const struct redlock_seat *seat = &lease->seats[i];
        n += seat->there && !seat->weak && (now < seat->until_ns || lease->adopted);
    }
    return n;
}

/* ------------------------------------------------------------------ what a place tells */

static void seat_told(belay_grant *grant, belay_status status, belay_scope scope,
                      int64_t deadline_ns, const char *why)
{
    struct redlock_seat *seat = grant->holder;
    struct redlock_lease *lease = seat->lease;
    (void)deadline_ns; /* core goes by what the extensions said */
    if (!seat->there) return;
    if (status == BELAY_OK) {
        seat->weak = scope < belay__redlock_scope_of(&lease->r->base);
        if (!seat->weak) return;
    } else {
        seat->there = false;
        seat->gone = true;
    }
    if (lease->op != NULL) belay__redlock_vote_told(seat);
    else belay__redlock_lease_quorum(lease, why);
}

/* Until when a quorum of seats counts. */
static int64_t quorum_until(const struct redlock_lease *lease)
{
    int64_t ends[REDLOCK_NODES_MOST] = { 0 };
    uint32_t n = 0;
    for (uint32_t i = 0; i < lease->r->count; i++) {
        const struct redlock_seat *seat = &lease->seats[i];
        if (!seat->there || seat->weak) continue;
        uint32_t at = n++;
        for (; at > 0 && ends[at - 1] < seat->until_ns; at--) ends[at] = ends[at - 1];
        ends[at] = seat->until_ns;
    }
    return n >= lease->r->quorum ? ends[lease->r->quorum - 1] : INT64_MIN;
}

void belay__redlock_lease_quorum(struct redlock_lease *lease, const char *why)
{
    if (lease->lost || lease->ending || lease->adopted || lease->op != NULL) return;
    if (belay__redlock_lease_seats(lease) < lease->r->quorum) {
        lease->lost = true;
        belay_grant_lost(&lease->base, why);
        return;
    }
    /* Enough are left; but until when? */
    int64_t ttl_ns = (int64_t)lease->ttl_ms * REDLOCK_MS;
    int64_t until = quorum_until(lease) - (ttl_ns / 100 + 2 * REDLOCK_MS);
    if (until >= lease->believed_ns) return;
    lease->believed_ns = until;
    belay_grant_changed(&lease->base, belay__redlock_scope_of(&lease->r->base), until, why);
}

void belay__redlock_seat_lasts(struct redlock_seat *seat, const belay_op *op)
{
    int64_t until = op->sent_ns + (int64_t)op->ttl_ms * REDLOCK_MS;
    if (until > seat->until_ns) seat->until_ns = until;
}

void belay__redlock_seat_take(struct redlock_seat *seat)
{
    struct redlock_lease *lease = seat->lease;
    int64_t gone = belay_env_now(lease->r->env) + (int64_t)lease->ttl_ms * REDLOCK_MS;
    if (gone > lease->gone_ns) lease->gone_ns = gone;
    seat_drop(seat);
    seat->there = true;
    seat->gone = false;
    seat->weak = seat->op.scope < belay__redlock_scope_of(&lease->r->base);
    seat->grant = seat->op.grant;
    seat->token = seat->op.token;
    seat->sent_ns = seat->op.sent_ns;
    belay__redlock_seat_lasts(seat, &seat->op);
    if (seat->grant != NULL) belay_grant_listen(seat->grant, seat, seat_told);
}

/* ------------------------------------------------------------------ a seat's own op */

void belay__redlock_seat_op(struct redlock_seat *seat, enum redlock_work work, belay_verb verb,
                            uint32_t ttl_ms)
{
    struct redlock_lease *lease = seat->lease;
    int64_t gone = belay_env_now(lease->r->env) + (int64_t)ttl_ms * REDLOCK_MS;
    if (gone > lease->gone_ns) lease->gone_ns = gone;
    seat->work = work;
    seat->op = (belay_op){
        .verb = verb,
        .key = { lease->key, lease->key_length },
        .name = { lease->key + (lease->key_length - lease->name_length), lease->name_length },
        .owner = lease->owner,
        .label = "",
        .ttl_ms = ttl_ms,
        .detached = lease->detached,
        .grant = verb == BELAY_VERB_ACQUIRE ? NULL : seat->grant,
        .error = &lease->r->nodes[seat->index].error,
    };
    lease->r->nodes[seat->index].error.text[0] = '\0';
}

void belay__redlock_seat_start(struct redlock_seat *seat, int64_t timeout_ns,
                               void (*done)(belay_op *op, belay_status status))
{
    struct redlock *r = seat->lease->r;
    belay_backend *place = r->nodes[seat->index].place;
    if (timeout_ns == 0) timeout_ns = belay_env_timeout_ns(place->env);
    r->busy++;
    belay_env_mind(r->env, true);
    belay__redlock_node_asked(r, &r->nodes[seat->index]);
    belay_op_start_within(&seat->op, place, NULL, timeout_ns, done);
}

void belay__redlock_seat_ended(struct redlock_seat *seat, belay_status status)
{
    struct redlock *r = seat->lease->r;
    struct redlock_node *node = &r->nodes[seat->index];
    r->busy--;
    belay_env_mind(r->env, false);
    seat->work = REDLOCK_IDLE;
    if (seat->op.verb == BELAY_VERB_ACQUIRE && status == BELAY_UNCERTAIN) seat->tainted = true;
    belay__redlock_node_heard(r, node, &seat->op, status, seat->late);
    seat->late = false;
}

/* ------------------------------------------------------------------ letting go */

/* What a lost vote leaves must not wake who lost it. */
static void let_go(struct redlock_lease *lease)
{
    if (lease->won) belay__redlock_wake(lease->r, lease->key, lease->key_length);
}

static void undo_done(belay_op *op, belay_status status)
{
    struct redlock_seat *seat = belay_container_of(op, struct redlock_seat, undo);
    struct redlock_lease *lease = seat->lease;
    struct redlock *r = lease->r;
    r->busy--;
    belay_env_mind(r->env, false);
    seat->undoing = false;
    belay__redlock_node_heard(r, &r->nodes[seat->index], op, status, false);
    if (status == BELAY_OK) {
        seat->there = false;
        let_go(lease);
    }
    belay__redlock_lease_check(lease);
}

/* A vote that is still open when the lock ends: its delete goes right behind it, so that our next
 * attempt does not meet it there. Where the two are executed in another order, the vote's answer
 * brings another delete. */
void belay__redlock_lease_undo(struct redlock_lease *lease)
{
    struct redlock *r = lease->r;
    for (uint32_t i = 0; i < r->count && lease->ending; i++) {
        struct redlock_seat *seat = &lease->seats[i];
        if (seat->work != REDLOCK_TAKE || seat->undone) continue;
        seat->undo = (belay_op){
            .verb = BELAY_VERB_RELEASE,
            .key = { lease->key, lease->key_length },
            .name = { lease->key + (lease->key_length - lease->name_length), lease->name_length },
            .owner = lease->owner,
            .label = "",
        };
        seat->undone = seat->undoing = true;
        r->busy++;
        belay_env_mind(r->env, true);
        belay__redlock_node_asked(r, &r->nodes[i]);
        belay_op_start(&seat->undo, r->nodes[i].place, NULL, undo_done);
    }
}

void belay__redlock_seat_clean(struct redlock_seat *seat)
{
    struct redlock_lease *lease = seat->lease;
    if (belay_env_now(lease->r->env) >= lease->gone_ns) {
        seat->there = false;
        return;
    }
    belay__redlock_seat_op(seat, REDLOCK_CLEAN, BELAY_VERB_RELEASE, 0);
    belay__redlock_seat_start(seat, 0, clean_done);
}

static void clean_done(belay_op *op, belay_status status)
{
    struct redlock_seat *seat = belay_container_of(op, struct redlock_seat, op);
    struct redlock_lease *lease = seat->lease;
    belay_env *env = lease->r->env;
    belay__redlock_seat_ended(seat, status);
    if (belay__redlock_is_answer(status) || lease->r->closing) {
        seat->there = false;
        let_go(lease);
    } else {
        uint32_t backoff = seat->backoff_ms == 0 ? AGAIN_FIRST_MS : seat->backoff_ms * 2;
        seat->backoff_ms = backoff < AGAIN_LAST_MS ? backoff : AGAIN_LAST_MS;
        seat->work = REDLOCK_CLEAN;
        seat->waits = true;
        belay_timer_arm(env, &seat->again, belay_env_now(env) + seat->backoff_ms * REDLOCK_MS);
    }
    belay__redlock_lease_check(lease);
}

static void clean_again(belay_timer *timer)
{
    struct redlock_seat *seat = belay_container_of(timer, struct redlock_seat, again);
    seat->waits = false;
    seat->work = REDLOCK_IDLE;
    belay__redlock_seat_clean(seat);
    belay__redlock_lease_check(seat->lease);
}

/* ------------------------------------------------------------------ repair */

static void repair_done(belay_op *op, belay_status status)
{
    struct redlock_seat *seat = belay_container_of(op, struct redlock_seat, op);
    struct redlock_lease *lease = seat->lease;
    belay__redlock_seat_ended(seat, status);
    if (status == BELAY_OK) belay__redlock_seat_take(seat);
    belay__redlock_lease_check(lease);
}

/* It is taken only where it is free, and only with an id that is not being given back there. */
void belay__redlock_lease_repair(struct redlock_lease *lease)
{
    for (uint32_t i = 0; i < lease->r->count; i++) {
        struct redlock_seat *seat = &lease->seats[i];
        if (!seat->gone || seat->there || seat->tainted || seat->legs > 0) continue;
        if (seat->work != REDLOCK_IDLE) continue;
        if (!belay__redlock_node_asks(lease->r, &lease->r->nodes[i])) continue;
        belay__redlock_seat_op(seat, REDLOCK_REPAIR, BELAY_VERB_ACQUIRE, lease->ttl_ms);
        if (lease->token > 0) seat->op.token_floor = lease->token - 1;
        belay__redlock_seat_start(seat, 0, repair_done);
    }
}

/* ------------------------------------------------------------------ the end */

void belay__redlock_drop(belay_backend *base, belay_grant *grant)
{
    struct redlock_lease *lease = belay__redlock_lease_of(grant);
    (void)base;
    lease->dropped = true;
    lease->base.told = NULL;
    /* Neither released nor lost: it is left on purpose, and ends with its TTL. */
    if (!lease->ending && !lease->lost)
        for (uint32_t i = 0; i < lease->r->count; i++) lease->seats[i].there = false;
    belay__redlock_lease_check(lease);
}

bool belay__redlock_owes(belay_backend *base)
{
    struct redlock *r = belay__redlock_of(base);
    for (belay_link *at = r->leases.next; at != &r->leases; at = at->next) {
        struct redlock_lease *lease = belay_container_of(at, struct redlock_lease, all);
        for (uint32_t i = 0; i < r->count; i++) {
            enum redlock_work work = lease->seats[i].work;
            if (work == REDLOCK_REPAIR) belay_op_cancel(&lease->seats[i].op);
            if (work != REDLOCK_IDLE || lease->seats[i].undoing) return true;
        }
    }
    return r->busy > 0;
}

void belay__redlock_leases_free(struct redlock *r)
{
    r->closing = true;
    belay__redlock_rounds_free(r);
    while (!belay_links_empty(&r->leases)) {
        struct redlock_lease *lease = belay_container_of(r->leases.next, struct redlock_lease, all);
        lease->users++; /* it is freed here and nowhere else */
        for (uint32_t i = 0; i < r->count; i++) {
            struct redlock_seat *seat = &lease->seats[i];
            if (seat->undoing) belay_op_abandon(&seat->undo);
            if (seat->work != REDLOCK_IDLE && !seat->waits) belay__redlock_vote_abandon(seat);
        }
        lease_free(lease);
    }
}
