/* fallback_hint.c - one row for the whole host: "a process of this host does without the primary".
 *
 * It is a lock at the secondary that the first such process takes and keeps while it is so, with
 * the reason as its label; its process and its age come with it, and a process that dies leaves
 * none. For `belay status` to show, and no more: nobody degrades by another's word. */
#include "fallback.h"

#include <stdio.h>
#include <string.h>

enum { TTL_MORE_MS = 10000, AGAIN_MS = 200 };

static void hint_done(belay_op *op, belay_status status);

static void grant_drop(struct fallback *fb)
{
    if (fb->hint.grant != NULL && fb->secondary->ops->drop != NULL)
        fb->secondary->ops->drop(fb->secondary, fb->hint.grant);
    fb->hint.grant = NULL;
}

static void hint_start(struct fallback *fb, belay_verb verb)
{
    struct fallback_hint *hint = &fb->hint;
    size_t length = strlen(fb->hint_key);
    if (verb == BELAY_VERB_ACQUIRE) {
        belay_env_owner(fb->env, hint->owner);
        snprintf(hint->label, sizeof hint->label, "%s", fb->health.why);
    }
    hint->op = (belay_op){
        .verb = verb,
        .key = { fb->hint_key, length },
        .name = { fb->hint_key, length },
        .owner = hint->owner,
        .label = hint->label,
        .ttl_ms = (uint32_t)(3 * fb->health.interval_ns / FALLBACK_MS) + TTL_MORE_MS,
        .grant = hint->grant,
    };
    hint->busy = true;
    fb->busy++;
    belay_env_mind(fb->env, true);
    belay_op_start(&hint->op, fb->secondary, NULL, hint_done);
}

static void hint_done(belay_op *op, belay_status status)
{
    struct fallback_hint *hint = belay_container_of(op, struct fallback_hint, op);
    struct fallback *fb = belay_container_of(hint, struct fallback, hint);
    hint->busy = false;
    fb->busy--;
    belay_env_mind(fb->env, false);
    if (op->verb == BELAY_VERB_ACQUIRE && status == BELAY_OK) {
        hint->ours = true;
        hint->grant = op->grant;
    } else if (status == BELAY_LOST || (op->verb == BELAY_VERB_RELEASE && status == BELAY_OK)) {
        hint->ours = false;
        grant_drop(fb);
    }
    if (hint->wanted || !hint->ours) return;
    if (op->verb == BELAY_VERB_RELEASE) /* the place is busy, or silent */
        belay_timer_arm(fb->env, &hint->again, belay_env_now(fb->env) + AGAIN_MS * FALLBACK_MS);
    else hint_start(fb, BELAY_VERB_RELEASE);
}

static void again_due(belay_timer *timer)
{
    struct fallback_hint *hint = belay_container_of(timer, struct fallback_hint, again);
    struct fallback *fb = belay_container_of(hint, struct fallback, hint);
    if (!hint->busy && hint->ours && !hint->wanted) hint_start(fb, BELAY_VERB_RELEASE);
}

void belay__fallback_hint_init(struct fallback *fb)
{
    belay_timer_init(&fb->hint.again, again_due);
}

void belay__fallback_hint_want(struct fallback *fb, bool wanted)
{
    struct fallback_hint *hint = &fb->hint;
    hint->wanted = wanted && !fb->closing;
    if (hint->busy) return; /* hint_done goes on */
    if (hint->wanted) hint_start(fb, hint->ours ? BELAY_VERB_EXTEND : BELAY_VERB_ACQUIRE);
    else if (hint->ours) hint_start(fb, BELAY_VERB_RELEASE);
}

void belay__fallback_hint_stop(struct fallback *fb)
{
    belay__fallback_hint_want(fb, false);
}

bool belay__fallback_hint_owes(const struct fallback *fb)
{
    return fb->hint.busy || fb->hint.ours;
}

void belay__fallback_hint_free(struct fallback *fb)
{
    belay_timer_disarm(fb->env, &fb->hint.again);
    if (fb->hint.busy) belay_op_abandon(&fb->hint.op);
    grant_drop(fb);
}
