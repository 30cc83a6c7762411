/* fallback_hold.c - a held lock and its two sides.
 *
 * With the primary's scope it is held on both sides, and believed in until the smaller of the two
 * deadlines; with the host's scope the row alone counts. It lives until core has dropped it, no op
 * uses it and what is left of it was let go (fallback_move.c). See fallback.h. */
#include "fallback.h"

#include <assert.h>
#include <string.h>

/* ------------------------------------------------------------------ memory */

struct fallback_hold *belay__fallback_hold_new(struct fallback *fb, const belay_op *op)
{
    struct fallback_hold *hold =
        belay_env_alloc(fb->env, offsetof(struct fallback_hold, key) + op->key.length + 1);
    if (hold == NULL) return NULL;
    hold->fb = fb;
    hold->users = 1;
    hold->dropped = true;
    hold->row.place = fb->secondary;
    hold->prime.place = fb->primary;
    size_t owner = strlen(op->owner); /* BREAK: perhaps another library's */
    if (owner < sizeof hold->row.owner) {
        memcpy(hold->row.owner, op->owner, owner + 1);
        memcpy(hold->prime.owner, op->owner, owner + 1);
    }
    hold->ttl_ms = op->ttl_ms;
    hold->detached = op->detached;
    hold->far = op->at_least > fb->host_scope;
    hold->also_pid = op->also_pid;
    belay__fallback_move_init(hold);
    hold->key_length = (uint32_t)op->key.length;
    hold->name_length = (uint32_t)op->name.length;
    memcpy(hold->key, op->key.at, op->key.length);
    hold->hash = 2166136261u; /* FNV-1a */
    for (uint32_t i = 0; i < hold->key_length; i++)
        hold->hash = (hold->hash ^ (unsigned char)hold->key[i]) * 16777619u;
    belay_link_append(&fb->holds, &hold->all);
    return hold;
}

static void side_drop(struct fallback_side *side)
{
    if (side->grant != NULL && side->place->ops->drop != NULL)
        side->place->ops->drop(side->place, side->grant);
    side->grant = NULL;
}

void belay__fallback_hold_free(struct fallback_hold *hold)
{
    belay_env *env = hold->fb->env;
    belay_timer_disarm(env, &hold->timer);
    belay_unlink(&hold->all);
    belay_unlink(&hold->want);
    side_drop(&hold->row);
    side_drop(&hold->prime);
    belay_env_free(env, hold);
}

/* Is it over? Then what is left of it is let go, and it is freed when that is done. */
void belay__fallback_hold_check(struct fallback_hold *hold)
{
    if (!hold->dropped || hold->users > 0) return;
    if (hold->redo && hold->work != FALLBACK_CLEAN) belay__fallback_move_rest(hold);
    bool over = hold->ending || (hold->lost && !hold->adopted);
    if (hold->work == FALLBACK_IDLE && over) belay__fallback_move_clean(hold);
    if (hold->work == FALLBACK_IDLE) belay__fallback_hold_free(hold);
}

void belay__fallback_hold_put(struct fallback_hold *hold)
{
    if (--hold->users == 0 && hold->wanting) belay__fallback_hold_want(hold);
    belay__fallback_hold_check(hold);
}

/* ------------------------------------------------------------------ its sides */

static void row_told(belay_grant *grant, belay_status status, belay_scope scope,
                     int64_t deadline_ns, const char *why)
{
    struct fallback_hold *hold = grant->holder;
    if (status == BELAY_OK) {
        hold->row.until_ns = deadline_ns;
        hold->row.scope = scope;
        if (!hold->lost)
            belay_grant_changed(&hold->base, hold->fleet ? hold->prime.scope : scope,
                                belay__fallback_hold_until(hold), why);
        return;
    }
    hold->row.there = false;
    belay__fallback_hold_lose(hold, why);
}

static void prime_told(belay_grant *grant, belay_status status, belay_scope scope,
                       int64_t deadline_ns, const char *why)
{
    struct fallback_hold *hold = grant->holder;
    if (status == BELAY_OK) {
        hold->prime.until_ns = deadline_ns;
        hold->prime.scope = scope;
        if (hold->fleet && !hold->lost)
            belay_grant_changed(&hold->base, scope, belay__fallback_hold_until(hold), why);
        return;
    }
    hold->prime.there = false;
    hold->prime.told = status;
    if (!hold->fleet || hold->lost) return; /* on its way: who sets `fleet` looks at `there` */
    if (status == BELAY_UNCERTAIN && belay__fallback_hold_forgotten(hold, true, why)) return;
    belay__fallback_hold_lose(hold, why);
}

void belay__fallback_side_set(struct fallback_hold *hold, struct fallback_side *side,
                              const belay_op *op)
{
    int64_t until = belay__fallback_deadline(op->sent_ns, op->ttl_ms);
    int64_t gone = belay_env_now(hold->fb->env) + (int64_t)op->ttl_ms * FALLBACK_MS;
    if (op->verb == BELAY_VERB_ACQUIRE) {
        side_drop(side);
        side->until_ns = 0;
        side->grant = op->grant;
        side->told = BELAY_OK;
        if (op->owner != side->owner) memcpy(side->owner, op->owner, sizeof side->owner);
    }
    side->there = true;
    side->scope = op->scope;
    if (until > side->until_ns) side->until_ns = until;
    if (gone > side->gone_ns) side->gone_ns = gone;
    if (op->token > hold->fb->token_seen) hold->fb->token_seen = op->token;
    if (op->verb == BELAY_VERB_ACQUIRE && side->grant != NULL)
        belay_grant_listen(side->grant, hold, side == &hold->row ? row_told : prime_told);
}

void belay__fallback_side_op(struct fallback_hold *hold, struct fallback_side *side, belay_op *op,
                             belay_verb verb, uint32_t ttl_ms)
{
    /* It may be executed late, and nobody be told. */
    int64_t gone = belay_env_now(hold->fb->env) + (int64_t)ttl_ms * FALLBACK_MS;
    if (verb == BELAY_VERB_EXTEND && gone > side->gone_ns) side->gone_ns = gone;
    *op = (belay_op){
        .verb = verb,
        .key = { hold->key, hold->key_length },
        .name = { hold->key + (hold->key_length - hold->name_length), hold->name_length },
        .owner = side->owner,
        .label = "",
        .ttl_ms = ttl_ms,
        .detached = hold->detached,
        .also_pid = hold->also_pid,
        .grant = side->grant,
    };
}

int64_t belay__fallback_hold_until(const struct fallback_hold *hold)
{
    int64_t until = INT64_MAX;
    if (hold->fleet) until = hold->prime.until_ns;
    if (hold->row.there && hold->row.until_ns < until) until = hold->row.until_ns;
    return until;
}

bool belay__fallback_hold_lives(const struct fallback_hold *hold)
{
    return !hold->lost && (hold->fleet ? hold->prime.there : hold->row.there);
}

void belay__fallback_hold_settle(struct fallback_hold *hold, belay_op *op)
{
    int64_t until = belay__fallback_hold_until(hold);
    assert(until != INT64_MAX && "it is held nowhere");
    /* An answer may have crossed a promotion: core has the row's end, and never goes back by
     * itself. */
    if (hold->fleet && until < hold->told_ns)
        belay_grant_changed(&hold->base, hold->prime.scope, until, "an extension reached it again");
    hold->told_ns = until;
    op->scope = hold->fleet ? hold->prime.scope : hold->row.scope;
    op->token = hold->token;
    /* Of a long lock a short extension moves nothing: it can't have been sent in the future. */
    int64_t sent = until + belay__fallback_drift(op->ttl_ms) - (int64_t)op->ttl_ms * FALLBACK_MS;
    if (sent < op->sent_ns || op->verb == BELAY_VERB_ACQUIRE) op->sent_ns = sent;
    belay_op_settle(op, BELAY_OK);
}

/* ------------------------------------------------------------------ what becomes of it */

void belay__fallback_hold_lose(struct fallback_hold *hold, const char *why)
{
    if (hold->lost) return;
    hold->lost = true;
    hold->failing = false;
    belay_unlink(&hold->want);
    if (hold->work != FALLBACK_CLEAN) belay_timer_disarm(hold->fb->env, &hold->timer);
    /* What is left stays until its holder has let go of it, and knows: see drop. */
    belay_grant_lost(&hold->base, why);
}

void belay__fallback_drop(belay_backend *base, belay_grant *grant)
{
    struct fallback_hold *hold = belay__fallback_hold_of(grant);
    (void)base;
    hold->dropped = true;
    hold->base.told = NULL;
    belay_unlink(&hold->want);
    hold->failing = false;
    if (hold->work == FALLBACK_IDLE) belay_timer_disarm(hold->fb->env, &hold->timer);
    /* Neither released nor lost: it is left on purpose, and ends with its TTL. */
    if (!hold->ending && !hold->lost) hold->row.there = hold->prime.there = false;
    belay__fallback_hold_check(hold);
}
