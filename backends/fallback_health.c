/* fallback_health.c - what this process knows of its primary: by its own attempts alone.
 *
 * An attempt that could not reach it (after a full `timeout`) is evidence; `trip_after` of them in
 * a row, and it is done without until a probe is answered. Another process's word is no evidence:
 * one behind a bad firewall rule must not degrade its neighbours.
 *
 * A probe releases a lock that nobody holds: every backend can answer that, and it changes nothing.
 * Probes come every `probe_every`, a little earlier by chance, and twice as rarely after each that
 * failed. A recovery that does not last does not make them more frequent. */
#include "fallback.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum { LASTING = 10, LOG_LINES = 6, LOG_S = 60 };

#define SECOND (1000 * FALLBACK_MS)

/* From one probe's beginning to the next one's. */
static void probe_arm(struct fallback *fb, int64_t since_ns)
{
    struct fallback_health *health = &fb->health;
    uint32_t fifth_us = (uint32_t)(health->interval_ns / 5000);
    int64_t pause = health->interval_ns - (int64_t)belay_env_random_below(fb->env, fifth_us) * 1000;
    belay_timer_arm(fb->env, &health->timer, since_ns + pause);
}

static void interval_double(struct fallback *fb)
{
    struct fallback_health *health = &fb->health;
    health->interval_ns *= 2;
    if (health->interval_ns > fb->probe_most_ns) health->interval_ns = fb->probe_most_ns;
}

/* ------------------------------------------------------------------ saying so */

/* A primary that comes and goes all the time is not worth a line each time. */
static void say(struct fallback *fb, const char *text)
{
    struct fallback_health *health = &fb->health;
    int64_t now = belay_env_now(fb->env);
    const char *name = belay_env_name(fb->env);
    if (health->logged == 0 || now - health->logged_ns >= LOG_S * SECOND) {
        health->logged_ns = now;
        health->logged = 0;
    }
    if (health->logged++ >= LOG_LINES) {
        health->unlogged++;
        belay_env_log(fb->env, BELAY_LOG_DEBUG, "%s: %s", name, text);
        return;
    }
    if (health->unlogged > 0)
        belay_env_log(fb->env, BELAY_LOG_WARN,
                      "%s: %s (%" PRIu32 " changes before were not logged)", name, text,
                      health->unlogged);
    else belay_env_log(fb->env, BELAY_LOG_WARN, "%s: %s", name, text);
    health->unlogged = 0;
}

/* ------------------------------------------------------------------ down, and up again */

static void why_set(struct fallback *fb, const belay_op *op)
{
    struct fallback_health *health = &fb->health;
    const belay_error *error = op->error;
    if (error != NULL && error->text[0] != '\0')
        snprintf(health->why, sizeof health->why, "%s%s%s", error->node,
                 error->node[0] != '\0' ? ": " : "", error->text);
    else if (health->why[0] == '\0')
        snprintf(health->why, sizeof health->why, "%s could not be reached",
                 belay_env_name(fb->primary->env));
}

static void trip(struct fallback *fb)
{
    struct fallback_health *health = &fb->health;
    int64_t now = belay_env_now(fb->env);
    char text[sizeof health->why + 80];
    health->down = true;
    health->since_ns = now;
    int64_t up = now - health->up_ns;
    bool lasted = up >= LASTING * fb->probe_every_ns && up >= 2 * health->interval_ns;
    if (lasted || health->up_ns == 0) health->interval_ns = fb->probe_every_ns;
    else interval_double(fb);
    if (fb->local)
        snprintf(text, sizeof text, "degraded: locks reach this %s alone: %s",
                 belay_scope_name(fb->host_scope), health->why);
    else snprintf(text, sizeof text, "no locks without the primary: %s", health->why);
    say(fb, text);
    belay_env_event(fb->env, BELAY_EVENT_DEGRADED, fb->local ? fb->host_scope : BELAY_SCOPE_ANY,
                    health->first_ns, "%s", health->why);
    belay_env_mind(fb->env, true);  /* probes need the client's thread ... */
    belay_env_mind(fb->env, false); /* ... but only when they are due */
    probe_arm(fb, now);
    belay__fallback_hint_want(fb, true);
    belay__fallback_wake_all(fb);
}

static void recover(struct fallback *fb)
{
    struct fallback_health *health = &fb->health;
    int64_t now = belay_env_now(fb->env), away_ms = (now - health->since_ns) / FALLBACK_MS;
    char text[200];
    health->down = false;
    health->up_ns = now;
    health->why[0] = '\0';
    belay_timer_disarm(fb->env, &health->timer);
    snprintf(text, sizeof text, "%.80s is back after %" PRId64 ".%" PRId64 " s",
             belay_env_name(fb->primary->env), away_ms / 1000, away_ms % 1000 / 100);
    say(fb, text);
    belay_env_event(fb->env, BELAY_EVENT_RECOVERED, belay__fallback_scope(fb->primary),
                    health->since_ns, "%s", text);
    belay__fallback_hint_want(fb, false);
    belay__fallback_holds_recovered(fb);
}

/* ------------------------------------------------------------------ probes */

static void probe_done(belay_op *op, belay_status status)
{
    struct fallback_health *health = belay_container_of(op, struct fallback_health, op);
    struct fallback *fb = belay_container_of(health, struct fallback, health);
    health->probing = false;
    fb->busy--;
    belay_env_mind(fb->env, false);
    bool was_down = health->down;
    (void)belay__fallback_health_heard(fb, op, status);
    if (was_down && health->down && !fb->closing) {
        if (!belay_timer_armed(&health->timer)) { /* it was the timer's */
            interval_double(fb);
            probe_arm(fb, health->probed_ns);
        }
        belay__fallback_hint_want(fb, true); /* it is still so */
    }
    belay__fallback_take_decided(fb);
}

void belay__fallback_health_probe_op(struct fallback *fb, belay_op *op)
{
    struct fallback_health *health = &fb->health;
    size_t prefix = strlen(belay_env_prefix(fb->env)), length = strlen(fb->probe_key);
    if (health->owner[0] == '\0') belay_env_owner(fb->env, health->owner);
    op->verb = BELAY_VERB_RELEASE;
    op->key = (belay_str){ fb->probe_key, length };
    op->name = (belay_str){ fb->probe_key + prefix, length - prefix };
    op->owner = health->owner;
    op->label = "";
}

static void probe_begin(struct fallback *fb)
{
    struct fallback_health *health = &fb->health;
    if (health->probing || fb->closing) return;
    health->error = (belay_error)BELAY_ERROR_INIT;
    health->op = (belay_op){ .error = &health->error };
    belay__fallback_health_probe_op(fb, &health->op);
    health->probing = true;
    health->probed_ns = belay_env_now(fb->env);
    fb->busy++;
    belay_env_mind(fb->env, true);
    belay_op_start(&health->op, fb->primary, NULL, probe_done);
}

void belay__fallback_health_look(struct fallback *fb)
{
    const struct fallback_health *health = &fb->health;
    bool recent = belay_env_now(fb->env) < health->probed_ns + fb->probe_every_ns;
    if (health->probed_ns == 0 || !recent) probe_begin(fb);
}

/* Nobody dispatches, and so no timer comes: the call that finds that out makes the probe, and waits
 * for it. */
bool belay__fallback_health_overdue(struct fallback *fb)
{
    struct fallback_health *health = &fb->health;
    int64_t late = belay_env_now(fb->env) - health->timer.due_ns;
    if (!belay_timer_armed(&health->timer) || late < fb->probe_every_ns) return false;
    belay_timer_disarm(fb->env, &health->timer);
    probe_begin(fb);
    return health->probing;
}

static void timer_due(belay_timer *timer)
{
    struct fallback_health *health = belay_container_of(timer, struct fallback_health, timer);
    probe_begin(belay_container_of(health, struct fallback, health));
}

/* ------------------------------------------------------------------ evidence */

/* Unreachable is a matter of UNAVAILABLE and UNCERTAIN alone. A refusal, a full disk, a server that
 * is busy: it was reached. What its caller's own deadline cut short says neither, and callers with
 * less patience than one `timeout` would never find out: a probe does. An acquire whose connection
 * was cut can't be sent again, and has not had its full time: a probe has. */
enum fallback_word belay__fallback_health_heard(struct fallback *fb, const belay_op *op,
                                                belay_status status)
{
    struct fallback_health *health = &fb->health;
    bool failed = status == BELAY_UNAVAILABLE || status == BELAY_UNCERTAIN;
    bool cut = op->verb == BELAY_VERB_ACQUIRE && status == BELAY_UNCERTAIN && !op->canceled;
    bool unclear = op->cause == BELAY_CAUSE_CUT_SHORT || op->cause == BELAY_CAUSE_NONE;
    if (status == BELAY_NOMEM || status == BELAY_UNSUPPORTED || status == BELAY_INVALID ||
        fb->closing)
        return FALLBACK_FINE;
    if (failed && op->cause == BELAY_CAUSE_UNREACHABLE) {
        why_set(fb, op);
        if (health->down) return FALLBACK_GONE;
        int64_t now = belay_env_now(fb->env), gap = fb->probe_every_ns + 2 * fb->patience_ns;
        if (health->first_ns == 0 || now - health->last_ns > gap) health->first_ns = now;
        health->last_ns = now;
        if (cut) {
            probe_begin(fb);
            return FALLBACK_DOUBT;
        }
        if (++health->failures >= fb->trip_after) trip(fb);
        return health->down ? FALLBACK_GONE : FALLBACK_FINE;
    }
    if (failed && unclear) {
        if (!health->down && op != &health->op) belay__fallback_health_look(fb);
        return FALLBACK_FINE;
    }
    health->failures = 0;
    health->first_ns = 0;
    if (health->down) recover(fb);
    return FALLBACK_FINE;
}

bool belay__fallback_health_settles(const struct fallback *fb)
{
    return belay_env_now(fb->env) < fb->health.since_ns + fb->settle_ns;
}

void belay__fallback_health_refuse(struct fallback *fb, belay_op *op)
{
    const struct fallback_health *health = &fb->health;
    int64_t now = belay_env_now(fb->env);
    op->cause = BELAY_CAUSE_UNREACHABLE;
    if (fb->local && op->verb == BELAY_VERB_ACQUIRE && belay__fallback_may_degrade(fb, op))
        belay_error_set(op->error, BELAY_UNAVAILABLE, belay_env_name(fb->env),
                        "no locks of this host's for another %" PRId64 " ms (settle): %s",
                        (health->since_ns + fb->settle_ns - now) / FALLBACK_MS, health->why);
    else
        belay_error_set(op->error, BELAY_UNAVAILABLE, belay_env_name(fb->env),
                        "the primary is out of reach for %" PRId64 " ms: %s",
                        (now - health->since_ns) / FALLBACK_MS, health->why);
}

void belay__fallback_health_init(struct fallback *fb)
{
    belay_timer_init(&fb->health.timer, timer_due);
}

void belay__fallback_health_stop(struct fallback *fb)
{
    belay_timer_disarm(fb->env, &fb->health.timer);
    if (fb->health.probing) belay_op_cancel(&fb->health.op);
}
