/* fallback_move.c - a held lock changes its scope, and what is left of one is let go.
 *
 * When an extension cannot reach the primary the lock is demoted: the row is extended, and from
 * then on alone what counts. That is decided by the clock, early enough to be done before the
 * primary's deadline. When the primary is back the lock is taken there again: what is left of the
 * old one is extended, or else it is acquired afresh; where another holds it by now, it is lost.
 *
 * Each hold has one op of its own for all this, with the monitor held and nobody waiting: `work`
 * says what it is doing. See fallback.h. */
#include "fallback.h"

#include <stdio.h>
#include <string.h>

enum {
    PROMOTING_MOST = 16,
    AGAIN_FIRST_MS = 20,
    AGAIN_LAST_MS = 1000,
    TTL_LEAST_MS = 100,
    GRACE_MS = 1000,
    GRACE_MOST_MS = 30000,
    SLACK_MS = 20
};

static void work_done(belay_op *op, belay_status status);

/* ------------------------------------------------------------------ without the primary */

void belay__fallback_hold_demote(struct fallback_hold *hold, bool tell, const char *why)
{
    if (!hold->fleet) return;
    hold->fleet = hold->failing = false;
    if (hold->work == FALLBACK_IDLE) belay_timer_disarm(hold->fb->env, &hold->timer);
    if (tell) belay_grant_changed(&hold->base, hold->row.scope, hold->row.until_ns, why);
    if (!hold->fb->health.down) belay__fallback_hold_want(hold);
}

static bool may_be_demoted(const struct fallback_hold *hold)
{
    return hold->fb->local && !hold->far && hold->fleet && !hold->lost && !hold->ending;
}

static bool may_live_on(const struct fallback_hold *hold)
{
    return may_be_demoted(hold) && hold->row.there;
}

bool belay__fallback_hold_forgotten(struct fallback_hold *hold, bool tell, const char *why)
{
    hold->prime.there = false;
    if (!may_live_on(hold)) return false;
    belay__fallback_hold_demote(hold, tell, why);
    return true;
}

/* The last moment to decide that it lives on without the primary: with time for two attempts, and
 * before the holder itself acts upon a lock that can't be extended (`belay run` up to a third of
 * the TTL before its end). */
static int64_t decide_ns(const struct fallback_hold *hold)
{
    int64_t before = (int64_t)hold->ttl_ms * FALLBACK_MS * 2 / 5;
    if (before < 2 * hold->fb->patience_ns) before = 2 * hold->fb->patience_ns;
    return hold->prime.until_ns - before;
}

bool belay__fallback_hold_unreached(struct fallback_hold *hold)
{
    struct fallback *fb = hold->fb;
    hold->behind = true;
    if (!may_be_demoted(hold)) return false;
    int64_t decide = decide_ns(hold);
    if (hold->row.there && belay_env_now(fb->env) >= decide) {
        belay__fallback_hold_demote(hold, false, "");
        return true;
    }
    hold->failing = true;
    if (hold->work == FALLBACK_IDLE && !belay_timer_armed(&hold->timer))
        belay_timer_arm(fb->env, &hold->timer, decide);
    return false;
}

void belay__fallback_hold_watch(struct fallback_hold *hold)
{
    belay_env *env = hold->fb->env;
    if (!may_live_on(hold) || hold->work != FALLBACK_IDLE) return;
    int64_t now = belay_env_now(env), decide = decide_ns(hold), until = hold->prime.until_ns;
    /* It has its whole time to be answered, if the holder need not act before that; of a short TTL
     * half of what is left. */
    int64_t answered = now + hold->fb->patience_ns + SLACK_MS * FALLBACK_MS;
    int64_t acts = until - (int64_t)hold->ttl_ms * FALLBACK_MS * 34 / 100;
    if (decide < answered && answered <= acts) decide = answered;
    if (decide <= now) decide = now + (until - now) / 2;
    hold->failing = true;
    if (!belay_timer_armed(&hold->timer)) belay_timer_arm(env, &hold->timer, decide);
}

void belay__fallback_hold_reached(struct fallback_hold *hold)
{
    hold->failing = hold->behind = false;
    if (hold->work == FALLBACK_IDLE) belay_timer_disarm(hold->fb->env, &hold->timer);
}

/* ------------------------------------------------------------------ its own op */

static void work_start(struct fallback_hold *hold, struct fallback_side *side)
{
    struct fallback *fb = hold->fb;
    fb->busy++;
    belay_env_mind(fb->env, true);
    belay_op_start(&hold->op, side->place, NULL, work_done);
}

static void work_again(struct fallback_hold *hold, enum fallback_work work)
{
    uint32_t backoff = hold->backoff_ms == 0 ? AGAIN_FIRST_MS : hold->backoff_ms * 2;
    hold->backoff_ms = backoff < AGAIN_LAST_MS ? backoff : AGAIN_LAST_MS;
    hold->work = work;
    hold->redo = true;
    belay_timer_arm(hold->fb->env, &hold->timer,
                    belay_env_now(hold->fb->env) + hold->backoff_ms * FALLBACK_MS);
}

static void work_end(struct fallback_hold *hold)
{
    hold->work = FALLBACK_IDLE;
    hold->redo = false;
    hold->backoff_ms = 0;
    belay_timer_disarm(hold->fb->env, &hold->timer);
    if (hold->failing && !hold->lost && !hold->ending)
        belay_timer_arm(hold->fb->env, &hold->timer, decide_ns(hold));
    if (hold->wanting && hold->users == 0) belay__fallback_hold_want(hold);
}

void belay__fallback_move_rest(struct fallback_hold *hold)
{
    if (hold->redo || hold->work == FALLBACK_IDLE) work_end(hold);
}

static const char *why_of(const struct fallback_hold *hold)
{
    return hold->fb->health.down ? hold->fb->health.why : "an extension was not answered in time";
}

/* ------------------------------------------------------------------ demotion */

/* With host_first the row is there and is extended; otherwise it has to be won. */
static void demote_begin(struct fallback_hold *hold)
{
    belay_op *op = &hold->op;
    hold->work = FALLBACK_DEMOTE;
    if (hold->row.there) {
        belay__fallback_side_op(hold, &hold->row, op, BELAY_VERB_EXTEND, hold->ttl_ms);
    } else {
        belay__fallback_side_op(hold, &hold->row, op, BELAY_VERB_ACQUIRE, hold->ttl_ms);
        op->grant = NULL;
        op->token_floor = hold->token;
    }
    work_start(hold, &hold->row);
}

static void demote_done(struct fallback_hold *hold, belay_status status)
{
    int64_t now = belay_env_now(hold->fb->env);
    if (status == BELAY_OK) {
        belay__fallback_side_set(hold, &hold->row, &hold->op);
        work_end(hold);
        if (hold->fleet && hold->failing && !hold->lost && !hold->ending)
            belay__fallback_hold_demote(hold, true, why_of(hold));
    } else if (status == BELAY_LOST) {
        hold->row.there = false;
        work_end(hold);
        belay__fallback_hold_lose(hold, "the host's lock is not ours any more");
    } else if (hold->failing && now < hold->prime.until_ns && !hold->ending) {
        work_again(hold, FALLBACK_DEMOTE);
    } else {
        hold->failing = false; /* it is over: no last moment is left to wait for */
        work_end(hold);
    }
}

/* ------------------------------------------------------------------ promotion */

void belay__fallback_hold_want(struct fallback_hold *hold)
{
    struct fallback *fb = hold->fb;
    hold->wanting = hold->users > 0; /* an extension may use what the primary has of it yet */
    if (hold->fleet || hold->lost || hold->ending || hold->adopted || fb->closing) return;
    if (hold->wanting || hold->row.until_ns <= belay_env_now(fb->env)) return;
    if (!belay_linked(&hold->want)) belay_link_append(&fb->wants, &hold->want);
    belay_task_post(fb->env, &fb->pump);
}

static void promote_later(struct fallback_hold *hold)
{
    if (hold->fb->health.down || hold->lost || hold->ending || hold->fleet) work_end(hold);
    else work_again(hold, FALLBACK_REVIVE);
}

/* For the rest of the row's time: it isn't lengthened by that. */
static uint32_t rest_ms(const struct fallback_hold *hold)
{
    int64_t left = hold->row.until_ns - belay_env_now(hold->fb->env);
    int64_t ms = left / FALLBACK_MS + left / (100 * FALLBACK_MS) + 3;
    return ms > TTL_LEAST_MS ? (uint32_t)ms : TTL_LEAST_MS;
}

static void revive_begin(struct fallback_hold *hold)
{
    hold->work = FALLBACK_REVIVE;
    uint32_t ttl = hold->fleet ? hold->ttl_ms : rest_ms(hold);
    belay__fallback_side_op(hold, &hold->prime, &hold->op, BELAY_VERB_EXTEND, ttl);
    work_start(hold, &hold->prime);
}

/* An id that the primary may yet set, or that is being given back there, is never used again. */
static void retake_begin(struct fallback_hold *hold)
{
    hold->work = FALLBACK_RETAKE;
    if (hold->tainted) belay_env_owner(hold->fb->env, hold->prime.owner);
    else memcpy(hold->prime.owner, hold->row.owner, sizeof hold->prime.owner);
    belay__fallback_side_op(hold, &hold->prime, &hold->op, BELAY_VERB_ACQUIRE, rest_ms(hold));
    hold->op.grant = NULL;
    hold->op.token_floor = hold->token;
    belay_scope reach = belay__fallback_scope(hold->fb->primary);
    if (hold->row.scope < reach) hold->op.at_least = reach; /* a primary that is degraded itself */
    work_start(hold, &hold->prime);
}

static void promoted(struct fallback_hold *hold)
{
    char why[sizeof hold->fb->health.why];
    if (!hold->prime.there && !hold->lost && !hold->ending) { /* gone again already */
        if (hold->prime.told == BELAY_UNCERTAIN) promote_later(hold);
        else belay__fallback_hold_lose(hold, "the primary lost it as soon as it had it");
        if (hold->lost) work_end(hold);
        return;
    }
    work_end(hold);
    if (hold->lost || hold->ending) return;
    hold->fleet = true;
    hold->failing = false;
    hold->refused_ns = 0;
    snprintf(why, sizeof why, "%s is back", belay_env_name(hold->fb->primary->env));
    belay_grant_changed(&hold->base, hold->prime.scope, belay__fallback_hold_until(hold), why);
}

/* The primary's answer to a move that nobody waits for: what it says of the primary itself. */
static void heard(struct fallback_hold *hold, belay_status status)
{
    (void)belay__fallback_health_heard(hold->fb, &hold->op, status);
}

static bool is_silence(belay_status status, const belay_op *op)
{
    if (status != BELAY_UNAVAILABLE && status != BELAY_UNCERTAIN) return false;
    return op->cause == BELAY_CAUSE_UNREACHABLE || op->cause == BELAY_CAUSE_CUT_SHORT;
}

static void revive_done(struct fallback_hold *hold, belay_status status)
{
    heard(hold, status);
    if (status == BELAY_OK) {
        belay__fallback_side_set(hold, &hold->prime, &hold->op);
        if (!hold->fleet) {
            promoted(hold);
        } else {
            hold->failing = hold->behind = false;
            work_end(hold);
            if (!hold->lost && !hold->ending)
                belay_grant_changed(&hold->base, hold->prime.scope,
                                    belay__fallback_hold_until(hold), "");
        }
    } else if (hold->fleet) { /* a last try before it is demoted */
        if (status == BELAY_LOST) {
            bool forgotten = hold->op.cause == BELAY_CAUSE_FORGOTTEN;
            hold->prime.there = false;
            work_end(hold);
            if (!forgotten ||
                !belay__fallback_hold_forgotten(hold, true, "the primary has forgotten it"))
                belay__fallback_hold_lose(hold, "the primary says it is not ours any more");
        } else if (is_silence(status, &hold->op) && may_be_demoted(hold)) {
            demote_begin(hold);
        } else { /* it answered, whatever it said */
            hold->failing = false;
            work_end(hold);
        }
    } else if (status == BELAY_LOST) {
        hold->prime.there = false;
        work_end(hold);
        belay__fallback_hold_want(hold);
    } else {
        promote_later(hold);
    }
}

/* It may be what an earlier holder of this host left there: that is let go when its process finds
 * the primary back, or ends with its TTL, and until then its end does not move, but for extensions
 * that a primary which stood still executes late, all at once. An end that moves twice is a living
 * holder's. Where it is not known, a moment must do. */
static bool refused_by_another(struct fallback_hold *hold)
{
    int64_t now = belay_env_now(hold->fb->env), left = hold->op.held_for_ns;
    int64_t grace = GRACE_MS * FALLBACK_MS + hold->fb->patience_ns;
    bool first = hold->refused_ns == 0;
    if (first) hold->refused_ns = hold->refused_until_ns = now;
    if (left >= 0) { /* it ends between sent + left and now + left */
        bool moved =
            !first && hold->op.sent_ns + left > hold->refused_end_ns + SLACK_MS * FALLBACK_MS;
        hold->refused_end_ns = now + left;
        if (first) hold->refused_moves = 0;
        if (moved && ++hold->refused_moves > 1) return true;
        int64_t most = GRACE_MOST_MS * FALLBACK_MS;
        if (first || moved) hold->refused_until_ns = now + (left < most ? left : most);
    }
    return now >= hold->refused_until_ns && now - hold->refused_ns >= grace;
}

static void retake_done(struct fallback_hold *hold, belay_status status)
{
    heard(hold, status);
    if (status == BELAY_OK) {
        belay__fallback_side_set(hold, &hold->prime, &hold->op);
        promoted(hold);
    } else if (status == BELAY_HELD && !refused_by_another(hold)) {
        promote_later(hold);
    } else if (status == BELAY_HELD) {
        work_end(hold);
        belay__fallback_hold_lose(hold,
                                  "conflict: another took it while the primary was out of reach");
    } else {
        hold->refused_ns = 0;
        if (status == BELAY_UNCERTAIN) hold->tainted = true;
        promote_later(hold);
    }
}

static void promote_begin(struct fallback_hold *hold)
{
    hold->fb->promoting++;
    hold->promoting = true;
    if (hold->prime.there) revive_begin(hold);
    else retake_begin(hold);
}

void belay__fallback_pump(belay_task *task)
{
    struct fallback *fb = belay_container_of(task, struct fallback, pump);
    while (!belay_links_empty(&fb->wants) && fb->promoting < PROMOTING_MOST && !fb->health.down &&
           !fb->closing) {
        struct fallback_hold *hold = belay_container_of(fb->wants.next, struct fallback_hold, want);
        belay_unlink(&hold->want);
        hold->wanting = hold->users > 0 || hold->work != FALLBACK_IDLE;
        if (!hold->fleet && !hold->wanting) promote_begin(hold);
    }
}

void belay__fallback_holds_recovered(struct fallback *fb)
{
    for (belay_link *at = fb->holds.next; at != &fb->holds; at = at->next) {
        struct fallback_hold *hold = belay_container_of(at, struct fallback_hold, all);
        bool cleans = hold->work == FALLBACK_CLEAN && hold->redo;
        if (cleans) belay_timer_arm(fb->env, &hold->timer, belay_env_now(fb->env));
        bool waits = hold->behind && hold->fleet && hold->work == FALLBACK_IDLE;
        if (waits && hold->users == 0) revive_begin(hold);
        hold->refused_ns = 0;
        if (hold->row.there && !hold->dropped) belay__fallback_hold_want(hold);
    }
}

/* ------------------------------------------------------------------ letting go */

/* What is left on either side, one after the other, until its TTL has run out. */
void belay__fallback_move_clean(struct fallback_hold *hold)
{
    int64_t now = belay_env_now(hold->fb->env);
    struct fallback_side *side = NULL;
    if (hold->prime.there && now >= hold->prime.gone_ns) hold->prime.there = false;
    if (hold->row.there && now >= hold->row.gone_ns) hold->row.there = false;
    if (hold->row.there) side = &hold->row;
    else if (hold->prime.there) side = &hold->prime;
    hold->work = FALLBACK_CLEAN;
    if (side == NULL) {
        work_end(hold);
    } else if (side == &hold->prime && hold->fb->health.down && !hold->fb->closing) {
        work_again(hold, FALLBACK_CLEAN);
    } else {
        belay__fallback_side_op(hold, side, &hold->op, BELAY_VERB_RELEASE, 0);
        work_start(hold, side);
    }
}

static void clean_done(struct fallback_hold *hold, belay_status status)
{
    struct fallback_side *side = hold->op.backend == hold->row.place ? &hold->row : &hold->prime;
    if (side == &hold->prime) heard(hold, status);
    if (belay__fallback_is_answer(status)) {
        side->there = false;
        hold->backoff_ms = 0;
        belay__fallback_wake(hold->fb, hold->key, hold->key_length);
        belay__fallback_move_clean(hold);
    } else {
        work_again(hold, FALLBACK_CLEAN);
    }
}

/* ------------------------------------------------------------------ closing */

void belay__fallback_holds_close(struct fallback *fb)
{
    while (!belay_links_empty(&fb->wants)) belay_unlink(fb->wants.next);
    for (belay_link *at = fb->holds.next, *next; at != &fb->holds; at = next) {
        struct fallback_hold *hold = belay_container_of(at, struct fallback_hold, all);
        next = at->next;
        bool over = hold->lost && !hold->dropped && hold->users == 0;
        if (hold->work == FALLBACK_IDLE && over)
            belay__fallback_move_clean(hold);             /* its holder is gone */
        if (hold->work == FALLBACK_CLEAN && hold->redo) { /* one try more, for certain */
            hold->backoff_ms = 0;
            belay_timer_arm(fb->env, &hold->timer, belay_env_now(fb->env));
        }
        if (hold->work == FALLBACK_IDLE || hold->work == FALLBACK_CLEAN) continue;
        if (hold->redo) work_end(hold);
        else belay_op_cancel(&hold->op);
    }
}

bool belay__fallback_holds_owe(const struct fallback *fb)
{
    for (belay_link *at = fb->holds.next; at != &fb->holds; at = at->next) {
        const struct fallback_hold *hold = belay_container_of(at, struct fallback_hold, all);
        bool in_vain = hold->redo && fb->health.down && !hold->row.there && hold->backoff_ms > 0;
        if (hold->work != FALLBACK_IDLE && !in_vain) return true;
    }
    return false;
}

void belay__fallback_holds_free(struct fallback *fb)
{
    while (!belay_links_empty(&fb->holds)) {
        struct fallback_hold *hold = belay_container_of(fb->holds.next, struct fallback_hold, all);
        if (hold->work != FALLBACK_IDLE && !hold->redo) belay_op_abandon(&hold->op);
        belay__fallback_hold_free(hold);
    }
}

/* ------------------------------------------------------------------ the op and the timer */

static void work_done(belay_op *op, belay_status status)
{
    struct fallback_hold *hold = belay_container_of(op, struct fallback_hold, op);
    struct fallback *fb = hold->fb;
    enum fallback_work work = hold->work;
    fb->busy--;
    belay_env_mind(fb->env, false);
    if (hold->promoting) fb->promoting--;
    hold->promoting = false;
    switch (work) {
    case FALLBACK_DEMOTE: demote_done(hold, status); break;
    case FALLBACK_REVIVE: revive_done(hold, status); break;
    case FALLBACK_RETAKE: retake_done(hold, status); break;
    case FALLBACK_CLEAN: clean_done(hold, status); break;
    case FALLBACK_IDLE: break;
    }
    if (!belay_links_empty(&fb->wants)) belay_task_post(fb->env, &fb->pump);
    if (hold->release != NULL && (hold->work == FALLBACK_IDLE || hold->redo)) {
        struct fallback_keep *release = hold->release;
        hold->release = NULL;
        if (hold->redo) work_end(hold);
        belay__fallback_keep_go(release);
    } else {
        belay__fallback_hold_check(hold);
    }
}

static void timer_due(belay_timer *timer)
{
    struct fallback_hold *hold = belay_container_of(timer, struct fallback_hold, timer);
    enum fallback_work work = hold->work;
    bool redo = hold->redo;
    hold->redo = false;
    if (work == FALLBACK_IDLE) { /* the last moment to demote it */
        int64_t fresh = (int64_t)hold->ttl_ms * FALLBACK_MS / 2;
        if (!hold->failing || hold->lost || hold->ending || !hold->fleet) return;
        bool hangs = hold->fb->health.down || hold->users > 0;
        if (hangs && may_live_on(hold) &&
            hold->row.until_ns - belay_env_now(hold->fb->env) >= fresh)
            belay__fallback_hold_demote(hold, true, why_of(hold));
        else if (hold->fb->health.down) demote_begin(hold);
        else revive_begin(hold);
    } else if (redo && work == FALLBACK_CLEAN) {
        belay__fallback_move_clean(hold);
        belay__fallback_hold_check(hold);
    } else if (redo && work == FALLBACK_DEMOTE) {
        if (hold->failing) demote_begin(hold);
        else work_end(hold);
    } else if (redo) {
        hold->work = FALLBACK_IDLE; /* its backoff goes on */
        belay__fallback_hold_want(hold);
    }
}

void belay__fallback_move_init(struct fallback_hold *hold)
{
    belay_timer_init(&hold->timer, timer_due);
}
