/* fallback_keep.c - extend and release go where the grant came from, both places when both hold it.
 *
 * Extend: the row first; without it the primary is not extended any more. Release: the primary
 * first, so that nobody of this host asks it in vain; then the row, also when the primary can't be
 * reached. What one try leaves undone core tries again with the same hold. */
#include "fallback.h"

#include <stdio.h>
#include <string.h>

enum keep_step {
    KEEP_WAITS, /* a release: for the hold's own op */
    KEEP_ROW,
    KEEP_PRIME,
    KEEP_LOOK /* the primary does not have an adopted lock: does another? */
};

struct fallback_keep {
    struct fallback *fb;
    belay_op *op; /* core's */
    struct fallback_hold *hold;
    enum keep_step step;
    bool canceled;
    belay_status prime, row; /* a release: their answers; OK where there was nothing */
    bool prime_unsure;
    belay_link freeing; /* among fb->frees */
    belay_info *info;   /* KEEP_LOOK's */
    belay_op child;
};

static void keep_done(belay_op *child, belay_status status);

static void keep_settle(struct fallback_keep *keep, belay_status status)
{
    struct fallback *fb = keep->fb;
    belay_op *op = keep->op;
    bool release = op->verb == BELAY_VERB_RELEASE;
    belay_unlink(&keep->freeing);
    if (release) belay__fallback_take_freed(fb, keep->hold);
    /* It may have been lost while the answer was on its way. */
    if (status == BELAY_OK && !release && !belay__fallback_hold_lives(keep->hold))
        status = BELAY_LOST;
    if (status == BELAY_OK && !release) belay__fallback_hold_settle(keep->hold, op);
    else belay_op_settle(op, status);
    belay__fallback_hold_put(keep->hold);
    belay_env_free(fb->env, keep->info);
    belay_env_free(fb->env, keep);
}

static void child_start(struct fallback_keep *keep, struct fallback_side *side, belay_verb verb)
{
    belay__fallback_side_op(keep->hold, side, &keep->child, verb, keep->op->ttl_ms);
    keep->child.error = keep->op->error;
    if (verb == BELAY_VERB_EXTEND) keep->child.token_floor = keep->op->token_floor;
    belay_op_start(&keep->child, side->place, keep->op, keep_done);
    if (keep->canceled) belay_op_cancel(&keep->child); /* sent it is all the same */
}

/* ------------------------------------------------------------------ extend */

static void lost(struct fallback_keep *keep, const char *why)
{
    belay_error *error = keep->op->error;
    if (error == NULL || error->text[0] == '\0')
        belay_error_set(error, BELAY_LOST, belay_env_name(keep->fb->env), "%s", why);
    if (!keep->hold->lost) {
        keep->hold->lost = true; /* core is being told by the answer */
        belay_unlink(&keep->hold->want);
    }
    keep_settle(keep, BELAY_LOST);
}

/* The row is extended, and the primary out of reach. Nobody will look after an adopted lock later:
 * it has host scope at once. */
static void unreached(struct fallback_keep *keep)
{
    struct fallback_hold *hold = keep->hold;
    if (belay__fallback_hold_unreached(hold) ||
        (hold->adopted && hold->row.there && keep->fb->local)) {
        hold->fleet = false;
        if (keep->fb->health.down)
            belay_error_set(keep->op->error, BELAY_OK, NULL, "%s", keep->fb->health.why);
        keep_settle(keep, BELAY_OK);
        return;
    }
    if (keep->fb->health.down) belay__fallback_health_refuse(keep->fb, keep->op);
    keep_settle(keep, BELAY_UNAVAILABLE);
}

static void extend_prime(struct fallback_keep *keep)
{
    if (keep->fb->health.down) {
        if (keep->hold->fleet) belay__fallback_health_look(keep->fb); /* it has not long to live */
        unreached(keep);
        return;
    }
    keep->step = KEEP_PRIME;
    if (!keep->hold->adopted) belay__fallback_hold_watch(keep->hold);
    child_start(keep, &keep->hold->prime, BELAY_VERB_EXTEND);
}

static void row_extended(struct fallback_keep *keep, belay_status status)
{
    struct fallback_hold *hold = keep->hold;
    keep->op->cause = keep->child.cause;
    if (status == BELAY_LOST && hold->adopted && !keep->fb->host_first) {
        hold->row.there = false; /* perhaps there never was one */
        extend_prime(keep);
    } else if (status == BELAY_LOST) {
        hold->row.there = false;
        lost(keep, "the host's lock is not ours any more");
    } else if (status != BELAY_OK || keep->canceled) {
        keep_settle(keep, status != BELAY_OK ? status : BELAY_UNAVAILABLE);
    } else {
        belay__fallback_side_set(hold, &hold->row, &keep->child);
        if (hold->adopted) hold->token = keep->child.token;
        if (hold->fleet) extend_prime(keep);
        else keep_settle(keep, BELAY_OK);
    }
}

/* It was out of reach for this lock, whatever other attempts say of it. */
static bool is_unreached(const struct fallback_keep *keep, belay_status status)
{
    if (status != BELAY_UNAVAILABLE && status != BELAY_UNCERTAIN) return false;
    if (keep->child.cause == BELAY_CAUSE_UNREACHABLE) return true;
    /* Its time was up: not its caller's patience. */
    return keep->child.cause == BELAY_CAUSE_CUT_SHORT &&
           belay_env_now(keep->fb->env) >= keep->op->settle_by_ns;
}

/* Perhaps it was granted without the primary: it goes on with the row, unless another has it there.
 */
static void look(struct fallback_keep *keep)
{
    struct fallback_hold *hold = keep->hold;
    hold->prime.there = hold->fleet = false;
    keep->info = belay_env_alloc(keep->fb->env, sizeof *keep->info);
    if (keep->info == NULL) {
        keep_settle(keep, BELAY_NOMEM);
        return;
    }
    keep->info->size = sizeof *keep->info;
    keep->step = KEEP_LOOK;
    belay__fallback_side_op(hold, &hold->prime, &keep->child, BELAY_VERB_INSPECT, 0);
    keep->child.info = keep->info;
    belay_op_start(&keep->child, hold->prime.place, keep->op, keep_done);
    if (keep->canceled) belay_op_cancel(&keep->child);
}

static void looked(struct fallback_keep *keep, belay_status status)
{
    if (status == BELAY_OK && keep->info->held) lost(keep, "conflict: another holds it");
    else keep_settle(keep, BELAY_OK);
}

static void prime_extended(struct fallback_keep *keep, belay_status status)
{
    struct fallback_hold *hold = keep->hold;
    (void)belay__fallback_health_heard(keep->fb, &keep->child, status);
    keep->op->cause = keep->child.cause;
    if (status == BELAY_OK && !hold->fleet) {
        /* Demoted meanwhile: it is promoted, with its deadline. */
        belay__fallback_side_set(hold, &hold->prime, &keep->child);
        belay__fallback_hold_want(hold);
        keep_settle(keep, BELAY_OK);
    } else if (status == BELAY_OK) {
        belay__fallback_side_set(hold, &hold->prime, &keep->child);
        belay__fallback_hold_reached(hold);
        hold->fleet = true;
        if (hold->token == 0) hold->token = keep->child.token;
        keep_settle(keep, BELAY_OK);
    } else if (!hold->fleet) { /* it was demoted meanwhile, and has the row */
        if (status == BELAY_LOST) hold->prime.there = false;
        keep_settle(keep, BELAY_OK);
    } else if (status == BELAY_LOST && hold->adopted && hold->row.there && keep->fb->local) {
        look(keep);
    } else if (status == BELAY_LOST && keep->child.cause == BELAY_CAUSE_FORGOTTEN &&
               belay__fallback_hold_forgotten(hold, false, "")) {
        belay_error_set(keep->op->error, BELAY_OK, NULL, "the primary has forgotten it");
        keep_settle(keep, BELAY_OK);
    } else if (status == BELAY_LOST) {
        hold->prime.there = false;
        lost(keep, "the primary says it is not ours any more");
    } else if (is_unreached(keep, status)) {
        unreached(keep);
    } else {
        belay__fallback_hold_reached(hold);
        keep_settle(keep, status);
    }
}

static void extend_begin(struct fallback_keep *keep)
{
    struct fallback_hold *hold = keep->hold;
    if (hold->lost) {
        lost(keep, "it was lost before");
        return;
    }
    if (hold->ttl_ms < keep->op->ttl_ms) hold->ttl_ms = keep->op->ttl_ms;
    if (keep->fb->token_seen < keep->op->token_floor) keep->fb->token_seen = keep->op->token_floor;
    if (hold->row.there) {
        keep->step = KEEP_ROW;
        child_start(keep, &hold->row, BELAY_VERB_EXTEND);
    } else {
        extend_prime(keep);
    }
}

/* ------------------------------------------------------------------ release */

static void released(struct fallback_keep *keep)
{
    struct fallback_hold *hold = keep->hold;
    belay_status prime = keep->prime, row = keep->row, status;
    bool row_gone = belay__fallback_is_answer(row);
    bool host_alone = !hold->fleet || (hold->adopted && keep->fb->health.down && keep->fb->local);
    if (host_alone) { /* what is left of better times is let go in the background, or ends */
        status = row;
    } else if (!belay__fallback_is_answer(prime)) {
        status = prime;
    } else if (prime == BELAY_LOST && !(hold->adopted && row == BELAY_OK)) {
        status = row_gone ? BELAY_LOST : row;
        keep->op->unsure_release = keep->prime_unsure;
    } else {
        status = hold->adopted && row_gone ? BELAY_OK : row;
    }
    keep_settle(keep, status);
}

static void release_row(struct fallback_keep *keep)
{
    struct fallback_hold *hold = keep->hold;
    keep->step = KEEP_ROW;
    if (hold->row.there) child_start(keep, &hold->row, BELAY_VERB_RELEASE);
    else released(keep);
}

static void row_released(struct fallback_keep *keep, belay_status status)
{
    keep->row = status == BELAY_LOST && keep->child.unsure_release ? BELAY_OK : status;
    if (belay__fallback_is_answer(status)) keep->hold->row.there = false;
    released(keep);
}

static void prime_released(struct fallback_keep *keep, belay_status status)
{
    (void)belay__fallback_health_heard(keep->fb, &keep->child, status);
    keep->prime = status;
    keep->prime_unsure = keep->child.unsure_release;
    keep->op->cause = keep->child.cause;
    if (belay__fallback_is_answer(status)) keep->hold->prime.there = false;
    release_row(keep);
}

static void release_go(struct fallback_keep *keep)
{
    struct fallback *fb = keep->fb;
    struct fallback_hold *hold = keep->hold;
    keep->prime = keep->row = BELAY_OK;
    bool down = fb->health.down && !fb->closing; /* then there is no probe to wait for */
    if (!hold->prime.there || (down && !hold->fleet)) {
        release_row(keep);
    } else if (down) {
        belay__fallback_health_refuse(fb, keep->op);
        keep->prime = BELAY_UNAVAILABLE;
        release_row(keep);
    } else {
        keep->step = KEEP_PRIME;
        child_start(keep, &hold->prime, BELAY_VERB_RELEASE);
    }
}

void belay__fallback_keep_go(struct fallback_keep *release)
{
    release_go(release);
}

static void release_begin(struct fallback_keep *keep)
{
    struct fallback_hold *hold = keep->hold;
    belay_link_append(&keep->fb->frees, &keep->freeing);
    hold->ending = true;
    hold->failing = false;
    belay_unlink(&hold->want);
    if (hold->work == FALLBACK_IDLE || hold->redo) {
        belay__fallback_move_rest(hold);
        release_go(keep);
        return;
    }
    keep->step = KEEP_WAITS;
    hold->release = keep;
    belay_op_cancel(&hold->op);
}

bool belay__fallback_keep_frees(struct fallback *fb, const struct fallback_hold *wanted)
{
    for (belay_link *at = fb->frees.next; at != &fb->frees; at = at->next)
        if (belay__fallback_same_key(belay_container_of(at, struct fallback_keep, freeing)->hold,
                                     wanted))
            return true;
    return false;
}

/* ------------------------------------------------------------------ both */

static void keep_done(belay_op *child, belay_status status)
{
    struct fallback_keep *keep = belay_container_of(child, struct fallback_keep, child);
    bool release = keep->op->verb == BELAY_VERB_RELEASE;
    switch (keep->step) {
    case KEEP_WAITS: break;
    case KEEP_LOOK: looked(keep, status); break;
    case KEEP_ROW:
        if (release) row_released(keep, status);
        else row_extended(keep, status);
        break;
    case KEEP_PRIME:
        if (release) prime_released(keep, status);
        else prime_extended(keep, status);
        break;
    }
}

/* Of a lock that was granted elsewhere nobody knows which sides it has. */
static struct fallback_hold *adopt(struct fallback *fb, const belay_op *op)
{
    struct fallback_hold *hold = belay__fallback_hold_new(fb, op);
    if (hold == NULL) return NULL;
    hold->adopted = hold->fleet = true;
    hold->prime.there = true;
    hold->row.there = fb->host_first || fb->health.down || op->verb == BELAY_VERB_RELEASE;
    hold->prime.scope = belay__fallback_scope(fb->primary);
    hold->row.scope = fb->host_scope;
    return hold;
}

void belay__fallback_keep(belay_backend *base, belay_op *op)
{
    struct fallback *fb = belay__fallback_of(base);
    struct fallback_keep *keep = belay_env_alloc(fb->env, sizeof *keep);
    struct fallback_hold *hold = NULL;
    if (keep != NULL && op->grant != NULL) hold = belay__fallback_hold_of(op->grant);
    else if (keep != NULL) hold = adopt(fb, op);
    if (hold == NULL) {
        belay_env_free(fb->env, keep);
        belay_op_fail(op, BELAY_NOMEM, BELAY_CAUSE_NONE, NULL, "out of memory");
        return;
    }
    if (op->grant != NULL) hold->users++;
    keep->fb = fb;
    keep->op = op;
    keep->hold = hold;
    op->data = keep;
    if (op->verb == BELAY_VERB_RELEASE) release_begin(keep);
    else extend_begin(keep);
}

void belay__fallback_keep_cancel(belay_op *op)
{
    struct fallback_keep *keep = op->data;
    keep->canceled = true;
    if (keep->step == KEEP_WAITS) {
        keep->hold->release = NULL;
        belay_op_fail(op, BELAY_UNAVAILABLE, BELAY_CAUSE_CUT_SHORT, belay_env_name(keep->fb->env),
                      "no time was left to release it");
        belay_unlink(&keep->freeing);
        belay__fallback_take_freed(keep->fb, keep->hold);
        belay__fallback_hold_put(keep->hold);
        belay_env_free(keep->fb->env, keep);
        return;
    }
    belay_op_cancel(&keep->child);
}
