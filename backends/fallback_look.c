/* fallback_look.c - inspect, list, break, diagnose, health: both places asked, one answer.
 *
 * The primary is asked first, if it is not done without. What it knows of a holder goes before what
 * the host's row says; the row adds what only the host knows: the process, the label. */
#include "fallback.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

struct look {
    struct fallback *fb;
    belay_op *op; /* core's */
    bool at_row;  /* the secondary is being asked */
    bool canceled;
    belay_status prime;
    belay_info fleet, host;
    belay_op child;
};

static void look_done(belay_op *child, belay_status status);

/* With a short prefix a hint's row looks like a lock. */
static bool is_no_hint(belay_op *child, const belay_info *info)
{
    struct look *look = belay_container_of(child, struct look, child);
    const struct fallback *fb = look->fb;
    if (fb->hint_mark != NULL && strncmp(info->name, fb->hint_mark, fb->hint_mark_length) == 0)
        return false;
    return look->op->sieve == NULL || look->op->sieve(look->op, info);
}

static void ask(struct look *look, belay_backend *place, belay_info *info)
{
    belay_op_init_child(&look->child, look->op);
    if (look->op->verb == BELAY_VERB_INSPECT) {
        *info = *look->op->info;
        look->child.info = info;
    }
    look->at_row = place == look->fb->secondary;
    if (look->op->verb == BELAY_VERB_LIST) look->child.sieve = is_no_hint;
    belay_op_start(&look->child, place, look->op, look_done);
    if (look->canceled) belay_op_cancel(&look->child);
}

static void look_settle(struct look *look, belay_status status)
{
    belay_op *op = look->op;
    belay_env_free(look->fb->env, look);
    belay_op_settle(op, status);
}

/* ------------------------------------------------------------------ the answers */

static void inspected(struct look *look, belay_status host)
{
    struct fallback *fb = look->fb;
    belay_info *out = look->op->info, *row = &look->host;
    bool down = look->prime != BELAY_OK;
    bool row_held = host == BELAY_OK && row->held;
    if (!down && look->fleet.held) {
        *out = look->fleet;
        if (row_held && strcmp(row->owner, out->owner) == 0) {
            if (out->token == 0) out->token = row->token;
            if (out->held_ms < 0) out->held_ms = row->held_ms;
            if (out->label[0] == '\0') memcpy(out->label, row->label, sizeof out->label);
            out->pid = row->pid;
        }
        if (row->waiters > out->waiters) out->waiters = row->waiters;
        look_settle(look, BELAY_OK);
    } else if (row_held) {
        *out = *row;
        look_settle(look, BELAY_OK);
    } else if (!down || (fb->health.down && fb->local && host == BELAY_OK)) {
        look_settle(look, host);
    } else {
        look_settle(look, look->prime);
    }
}

/* Whoever broke it in either place has broken it; but both must have been asked, unless there is
 * the row alone now: then its holder finds it gone, and extends nothing on the primary either. */
static void broken(struct look *look, belay_status host)
{
    belay_status prime = look->prime;
    if (look->fb->health.down && look->fb->local) {
        look_settle(look, host);
    } else if (!belay__fallback_is_answer(prime)) {
        if (host == BELAY_OK)
            belay_error_set(look->op->error, prime, belay_env_name(look->fb->env),
                            "broken on this host, but the primary could not be asked: %.200s",
                            look->fb->health.why);
        look_settle(look, prime);
    } else if (prime == BELAY_OK || host == BELAY_OK) {
        look_settle(look, belay__fallback_is_answer(host) ? BELAY_OK : host);
    } else {
        look_settle(look, host);
    }
}

static void look_done(belay_op *child, belay_status status)
{
    struct look *look = belay_container_of(child, struct look, child);
    struct fallback *fb = look->fb;
    if (!look->at_row) {
        /* A list takes as long as it takes: one that does not end, but goes on, is not UNREACHABLE
         * (a place's own duty). */
        (void)belay__fallback_health_heard(fb, child, status);
        look->prime = status;
        look->op->cause = child->cause;
        ask(look, fb->secondary, &look->host);
    } else if (look->op->verb == BELAY_VERB_INSPECT) {
        inspected(look, status);
    } else if (look->op->verb == BELAY_VERB_LIST) {
        /* Core makes one entry of two with the same name. */
        bool enough = look->prime == BELAY_OK || (fb->health.down && fb->local);
        look_settle(look, enough ? status : look->prime);
    } else {
        broken(look, status);
    }
}

static void look_begin(belay_backend *base, belay_op *op)
{
    struct fallback *fb = belay__fallback_of(base);
    struct look *look = belay_env_alloc(fb->env, sizeof *look);
    if (look == NULL) {
        belay_op_fail(op, BELAY_NOMEM, BELAY_CAUSE_NONE, NULL, "out of memory");
        return;
    }
    look->fb = fb;
    look->op = op;
    look->prime = BELAY_UNAVAILABLE;
    op->data = look;
    if (!fb->health.down) {
        ask(look, fb->primary, &look->fleet);
        return;
    }
    belay__fallback_health_refuse(fb, op);
    ask(look, fb->secondary, &look->host);
}

void belay__fallback_inspect(belay_backend *base, belay_op *op)
{
    look_begin(base, op);
}

void belay__fallback_list(belay_backend *base, belay_op *op)
{
    look_begin(base, op);
}

void belay__fallback_break(belay_backend *base, belay_op *op)
{
    look_begin(base, op);
}

void belay__fallback_look_cancel(belay_op *op)
{
    struct look *look = op->data;
    look->canceled = true;
    belay_op_cancel(&look->child);
}

/* ------------------------------------------------------------------ diagnose */

static belay_status find_mode(struct fallback *fb, belay_op *op)
{
    const struct fallback_health *health = &fb->health;
    int64_t now = belay_env_now(fb->env);
    const char *name = belay_env_name(fb->primary->env);
    if (!health->down)
        return belay_op_find(op, BELAY_FINE, "mode", "", "",
                             fb->local ? "locks of %s; where that is out of reach, of %s alone"
                                       : "locks of %s and %s; none where the first is out of reach",
                             name, belay_env_name(fb->secondary->env));
    return belay_op_find(op, BELAY_WARNING, "mode",
                         fb->local ? "locks exclude others on this host alone"
                                   : "no lock can be taken (policy = \"closed\")",
                         "bring the primary back; nothing has to be restarted",
                         "degraded for %" PRId64 " s: %s; the next probe is in %" PRId64 " s",
                         (now - health->since_ns) / (1000 * FALLBACK_MS), health->why,
                         belay_timer_armed(&health->timer)
                             ? (health->timer.due_ns - now) / (1000 * FALLBACK_MS)
                             : 0);
}

static belay_status find_all(struct fallback *fb, belay_op *op)
{
    belay_status status = find_mode(fb, op);
    if (status == BELAY_OK && !fb->host_first)
        status = belay_op_find(
            op, BELAY_WARNING, "host_first",
            "two processes of one host can hold a lock at once when they see the primary "
            "differently",
            "host_first = true", "the host's lock is not taken first");
    if (status == BELAY_OK && fb->local && fb->host_scope < BELAY_SCOPE_HOST)
        status =
            belay_op_find(op, BELAY_WARNING, "secondary",
                          "degraded, processes of this host do not exclude each other",
                          "a secondary of type sqlite", "%s reaches this %s alone",
                          belay_env_name(fb->secondary->env), belay_scope_name(fb->host_scope));
    return status;
}

static void diagnosed(belay_op *child, belay_status status)
{
    struct look *look = belay_container_of(child, struct look, child);
    (void)belay__fallback_health_heard(look->fb, child, status);
    look_settle(look, find_all(look->fb, look->op));
}

/* A client that has not tried yet knows nothing: a probe is made first. */
void belay__fallback_diagnose(belay_backend *base, belay_op *op)
{
    struct fallback *fb = belay__fallback_of(base);
    struct look *look = fb->health.down ? NULL : belay_env_alloc(fb->env, sizeof *look);
    if (look == NULL) {
        belay_op_settle(op, find_all(fb, op));
        return;
    }
    look->fb = fb;
    look->op = op;
    op->data = look;
    belay_op_init_child(&look->child, op);
    belay__fallback_health_probe_op(fb, &look->child);
    belay_op_start(&look->child, fb->primary, op, diagnosed);
}

/* ------------------------------------------------------------------ health */

static void copy(char *to, size_t size, const char *from)
{
    snprintf(to, size, "%s", from);
}

static void health_done(belay_op *child, belay_status status)
{
    struct look *look = belay_container_of(child, struct look, child);
    belay_health *out = look->op->health;
    const belay_info *row = &look->host;
    if (status == BELAY_OK && row->held && !look->fb->hint.ours) {
        out->other = true;
        out->other_pid = row->pid;
        out->other_since_ms = row->held_ms;
        copy(out->other_why, sizeof out->other_why, row->label);
    }
    look_settle(look, BELAY_OK); /* what others say is no condition */
}

void belay__fallback_show_health(belay_backend *base, belay_op *op)
{
    struct fallback *fb = belay__fallback_of(base);
    const struct fallback_health *health = &fb->health;
    belay_health *out = op->health;
    int64_t now = belay_env_now(fb->env);
    copy(out->backend, sizeof out->backend, belay_env_name(fb->env));
    out->degraded = health->down;
    if (health->down) {
        out->scope = fb->local ? fb->host_scope : BELAY_SCOPE_ANY;
        out->since_ms = (now - health->since_ns) / FALLBACK_MS;
        copy(out->why, sizeof out->why, health->why);
        out->next_probe_ms = 0;
        if (belay_timer_armed(&health->timer) && health->timer.due_ns > now)
            out->next_probe_ms = (health->timer.due_ns - now) / FALLBACK_MS;
    }
    struct look *look = belay_env_alloc(fb->env, sizeof *look);
    if (look == NULL || fb->secondary->ops->inspect == NULL) {
        belay_env_free(fb->env, look);
        belay_op_settle(op, BELAY_OK);
        return;
    }
    look->fb = fb;
    look->op = op;
    look->at_row = true;
    op->data = look;
    belay_op_init_child(&look->child, op);
    look->host = (belay_info){ .size = sizeof look->host, .remaining_ms = -1, .held_ms = -1 };
    look->child.verb = BELAY_VERB_INSPECT;
    look->child.key = look->child.name = (belay_str){ fb->hint_key, strlen(fb->hint_key) };
    look->child.owner = "";
    look->child.label = "";
    look->child.info = &look->host;
    belay_op_start(&look->child, fb->secondary, op, health_done);
}
