/* redlock_look.c - inspect, list, diagnose: what a quorum of the places says. See redlock.h. */
#include "redlock.h"

#include <inttypes.h>
#include <stdio.h>

struct look;

struct view {
    struct look *look;
    bool open;
    belay_status status;
    belay_info info;
    belay_op op;
};

struct look {
    struct redlock *r;
    belay_op *op;
    uint32_t open, answered;
    struct view views[];
};

static void look_settle(struct look *look, belay_status status)
{
    belay_op *op = look->op;
    belay_env_free(look->r->env, look);
    belay_op_settle(op, status);
}

/* ------------------------------------------------------------------ inspect */

/* Does that place's word count? */
static bool knows(struct look *look, uint32_t i)
{
    struct redlock *r = look->r;
    return look->views[i].status == BELAY_OK && belay__redlock_node_votes(r, &r->nodes[i]);
}

static bool same_holder(const struct view *a, const struct view *b)
{
    return b->status == BELAY_OK && b->info.held && strcmp(a->info.owner, b->info.owner) == 0;
}

/* At how many places is it that owner's? Its lock ends when it has no quorum any more. */
static uint32_t seats_of(struct look *look, const struct view *view, belay_info *out)
{
    struct redlock *r = look->r;
    int64_t ends[REDLOCK_NODES_MOST];
    uint32_t n = 0;
    *out = view->info;
    for (uint32_t i = 0; i < r->count; i++) {
        const belay_info *other = &look->views[i].info;
        if (!same_holder(view, &look->views[i])) continue;
        uint32_t at = n++;
        for (; at > 0 && ends[at - 1] < other->remaining_ms; at--) ends[at] = ends[at - 1];
        ends[at] = other->remaining_ms;
        if (other->token > out->token) out->token = other->token;
        if (other->waiters > out->waiters) out->waiters = other->waiters;
    }
    out->remaining_ms = ends[n >= r->quorum ? r->quorum - 1 : n - 1];
    return n;
}

/* The holder is whoever has a quorum, or may have one with the places that could not say. */
static void inspected(struct look *look)
{
    struct redlock *r = look->r;
    uint32_t unknown = 0, most = 0;
    belay_info best = { .held = false };
    for (uint32_t i = 0; i < r->count; i++) unknown += !knows(look, i);
    for (uint32_t i = 0; i < r->count; i++) {
        belay_info info;
        if (look->views[i].status != BELAY_OK || !look->views[i].info.held) continue;
        uint32_t n = seats_of(look, &look->views[i], &info);
        if (n > most) best = info;
        if (n > most) most = n;
    }
    if (look->answered >= r->quorum && most > 0 && most + unknown >= r->quorum) {
        uint32_t size = look->op->info->size;
        *look->op->info = best;
        look->op->info->size = size;
        look_settle(look, BELAY_OK);
    } else if (look->answered >= r->quorum) {
        look_settle(look, BELAY_OK);
    } else {
        char said[240];
        belay_op *op = look->op;
        belay__redlock_say(r, said, sizeof said);
        belay_env_free(r->env, look);
        belay_op_fail(op, BELAY_UNAVAILABLE, BELAY_CAUSE_UNREACHABLE, belay_env_name(r->env),
                      "no quorum (%s)", said);
    }
}

static void view_done(belay_op *op, belay_status status)
{
    struct view *view = belay_container_of(op, struct view, op);
    struct look *look = view->look;
    struct redlock *r = look->r;
    view->open = false;
    view->status = status;
    if (op->verb == BELAY_VERB_INSPECT || status == BELAY_OK)
        belay__redlock_node_heard(r, &r->nodes[view - look->views], op, status, false);
    else r->nodes[view - look->views].open--;
    if (status == BELAY_OK) look->answered++;
    if (--look->open > 0) return;
    if (op->verb == BELAY_VERB_INSPECT) {
        inspected(look);
    } else if (look->answered >= r->quorum) {
        look_settle(look, BELAY_OK);
    } else {
        belay_op *asked = look->op;
        belay_env_free(r->env, look);
        belay_op_fail(asked, BELAY_UNAVAILABLE, BELAY_CAUSE_UNREACHABLE, belay_env_name(r->env),
                      "fewer than a quorum answered with a list");
    }
}

static void look_begin(belay_backend *base, belay_op *op)
{
    struct redlock *r = belay__redlock_of(base);
    struct look *look = belay_env_alloc(r->env, sizeof *look + r->count * sizeof(struct view));
    if (look == NULL) {
        belay_op_fail(op, BELAY_NOMEM, BELAY_CAUSE_NONE, NULL, "out of memory");
        return;
    }
    look->r = r;
    look->op = op;
    look->open = r->count;
    op->data = look;
    for (uint32_t i = 0; i < r->count; i++) {
        struct view *view = &look->views[i];
        view->look = look;
        view->open = true;
        belay_op_init_child(&view->op, op);
        view->op.error = &r->nodes[i].error;
        r->nodes[i].error.text[0] = '\0';
        if (op->info != NULL) {
            view->info = *op->info;
            view->op.info = &view->info;
        }
        belay__redlock_node_asked(r, &r->nodes[i]);
        if (op->verb == BELAY_VERB_INSPECT)
            belay_op_start_within(&view->op, r->nodes[i].place, op, r->node_timeout_ns, view_done);
        else belay_op_start(&view->op, r->nodes[i].place, op, view_done);
    }
}

void belay__redlock_inspect(belay_backend *base, belay_op *op)
{
    look_begin(base, op);
}

/* Core makes one entry of several with the same name. */
void belay__redlock_list(belay_backend *base, belay_op *op)
{
    look_begin(base, op);
}

void belay__redlock_look_cancel(belay_op *op)
{
    struct look *look = op->data;
    for (uint32_t i = 0; i < look->r->count; i++)
        if (look->views[i].open) belay_op_cancel(&look->views[i].op);
}

/* ------------------------------------------------------------------ diagnose */

void belay__redlock_diagnose(belay_backend *base, belay_op *op)
{
    struct redlock *r = belay__redlock_of(base);
    belay_status status =
        belay_op_find(op, r->count % 2 == 0 ? BELAY_WARNING : BELAY_FINE, "quorum",
                      r->count % 2 == 0 ? "an even number survives no more failures than one less"
                                        : "",
                      r->count % 2 == 0 ? "an odd number of nodes" : "",
                      "a lock needs %" PRIu32 " of %" PRIu32 " nodes; %" PRIu32 " may fail",
                      r->quorum, r->count, r->count - r->quorum);
    if (status == BELAY_OK && r->twin[0] >= 0)
        status = belay_op_find(op, BELAY_BROKEN, "nodes", "no lock can be taken",
                               "name each place once", "%s and %s are one place",
                               belay_env_name(r->nodes[r->twin[0]].place->env),
                               belay_env_name(r->nodes[r->twin[1]].place->env));
    for (uint32_t i = 0; i < r->count && status == BELAY_OK; i++) {
        struct redlock_node *node = &r->nodes[i];
        const char *name = belay_env_name(node->place->env);
        if (!belay__redlock_node_votes(r, node))
            status = belay_op_find(op, BELAY_WARNING, "quarantine", "it counts as one that failed",
                                   "wait, or quarantine = false for places that forget nothing",
                                   "%s %s", name, node->said);
        else if (node->down)
            status = belay_op_find(op, BELAY_WARNING, "node", "it counts as one that failed", "",
                                   "%s is down: %s", name, node->said);
    }
    belay_op_settle(op, status);
}
