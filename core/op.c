/* op.c - one attempt of one verb: begun, settled once, finished after the stack has unwound. */
#include "core/client.h"

#include <assert.h>
#include <stdio.h>

enum op_state { OP_STARTED = BELAY__OP_STARTED, OP_SETTLED, OP_DONE };

static struct belay__loop *op_loop(const belay_op *op)
{
    return op->backend->env->loop;
}

static void op_timed_out(belay_timer *timer)
{
    belay_op_cancel(belay_container_of(timer, belay_op, timeout));
}

void belay__op_begin(belay_op *op, int64_t now_ns)
{
    const belay_backend_ops *ops = op->backend->ops;
    op->state = OP_STARTED;
    op->canceled = false;
    op->sent_ns = now_ns;
    op->token = 0;
    op->scope = ops->scope;
    op->held_for_ns = -1;
    op->cause = BELAY_CAUSE_NONE;
    op->unsure_release = false;
    op->link = (belay_link){ 0 };
    op->settled = (belay_link){ 0 };
    uint32_t depth = op->timeout.depth;
    belay_timer_init(&op->timeout, op_timed_out);
    op->timeout.depth = depth;
    void (*verb)(belay_backend *, belay_op *) = NULL;
    switch (op->verb) {
    case BELAY_VERB_ACQUIRE: verb = ops->acquire; break;
    case BELAY_VERB_RELEASE: verb = ops->release; break;
    case BELAY_VERB_EXTEND: verb = ops->extend; break;
    case BELAY_VERB_INSPECT: verb = ops->inspect; break;
    case BELAY_VERB_LIST: verb = ops->list; break;
    case BELAY_VERB_BREAK: verb = ops->break_lock; break;
    case BELAY_VERB_DIAGNOSE: verb = ops->diagnose; break;
    case BELAY_VERB_HEALTH: verb = ops->health; break;
    }
    if (verb == NULL) {
        belay_op_fail(op, BELAY_UNSUPPORTED, BELAY_CAUSE_WRONG, op->backend->env->name,
                      "a backend of type %s cannot do that", ops->type);
        return;
    }
    verb(op->backend, op);
    /* Most ops of a local backend have settled by now, and pay for no timer. */
    if (op->state == OP_STARTED) belay__timer_arm(op_loop(op), &op->timeout, op->settle_by_ns);
}

void belay_op_settle(belay_op *op, belay_status status)
{
    if (op->state != OP_STARTED) {
        assert(!"an op was settled twice, or before it was started");
        belay__log(op->backend->env->client, BELAY_LOG_ERROR,
                   "%s: an op was settled twice; the second time is ignored",
                   op->backend->env->name);
        return;
    }
    struct belay__loop *loop = op_loop(op);
    op->state = OP_SETTLED;
    op->status = status;
    belay__timer_disarm(loop, &op->timeout);
    belay_link_append(&loop->settled, &op->settled);
}

void belay_op_fail(belay_op *op, belay_status status, belay_cause cause, const char *node,
                   const char *format, ...)
{
    va_list args;
    va_start(args, format);
    belay__error_vset(op->error, status, node, format, args);
    va_end(args);
    op->cause = cause;
    belay_op_settle(op, status);
}

/* Called by the loop when the stack has unwound. */
void belay__op_finish(belay_op *op)
{
    op->state = OP_DONE;
    op->done(op, op->status);
}

void belay_op_cancel(belay_op *op)
{
    if (op->state != OP_STARTED || op->canceled) return;
    op->canceled = true;
    belay__timer_disarm(op_loop(op), &op->timeout);
    if (op->backend->ops->cancel != NULL) {
        op->backend->ops->cancel(op->backend, op);
        return;
    }
    /* A table without `cancel` promised to settle before it returns. */
    belay_op_fail(op, BELAY_UNCERTAIN, BELAY_CAUSE_WRONG, op->backend->env->name,
                  "a backend of type %s did not answer and cannot be canceled",
                  op->backend->ops->type);
}

static void op_ignored(belay_op *op, belay_status status)
{
    (void)op, (void)status;
}

/* What it is made of, if it is a composite's, ends now as well: each part when the last has. */
void belay_op_abandon(belay_op *op)
{
    struct belay__loop *loop = op_loop(op);
    op->done = op_ignored;
    belay_op_cancel(op);
    belay__loop_unwind(loop);
    belay__timer_disarm(loop, &op->timeout);
    belay_unlink(&op->settled);
    op->state = OP_DONE;
}

void belay_op_init_child(belay_op *child, const belay_op *parent)
{
    *child = (belay_op){
        .verb = parent->verb,
        .key = parent->key,
        .name = parent->name,
        .owner = parent->owner,
        .label = parent->label,
        .ttl_ms = parent->ttl_ms,
        .also_pid = parent->also_pid,
        .detached = parent->detached,
        .at_least = parent->at_least,
        .settle_by_ns = parent->settle_by_ns,
        .token_floor = parent->token_floor,
        .info = parent->info,
        .health = parent->health,
        .error = parent->error,
        .sink = parent->sink,
    };
}

void belay_op_start_within(belay_op *child, belay_backend *backend, belay_op *parent,
                           int64_t timeout_ns, void (*done)(belay_op *child, belay_status status))
{
    int64_t now = belay__loop_now(backend->env->loop);
    int64_t by = now + timeout_ns;
    child->backend = backend;
    child->parent = parent;
    child->done = done;
    child->timeout.depth = parent != NULL ? parent->timeout.depth + 1 : 0;
    child->settle_by_ns = parent != NULL && parent->settle_by_ns < by ? parent->settle_by_ns : by;
    belay__op_begin(child, now);
}

void belay_op_start(belay_op *child, belay_backend *backend, belay_op *parent,
                    void (*done)(belay_op *child, belay_status status))
{
    belay_op_start_within(child, backend, parent, backend->env->timeout_ns, done);
}

void belay_wait_wake(belay_wait *wait)
{
    while (wait->woken == NULL && wait->parent != NULL) wait = wait->parent;
    if (wait->woken != NULL) wait->woken(wait);
}

static void grant_tell(belay_grant *grant, belay_status status, belay_scope scope,
                       int64_t deadline_ns, const char *why)
{
    if (grant->told != NULL) {
        grant->told(grant, status, scope, deadline_ns, why);
    } else if (!grant->early || grant->early_status == BELAY_OK) { /* a loss is the last word */
        grant->early = true;
        grant->early_status = status;
        grant->early_scope = scope;
        grant->early_deadline_ns = deadline_ns;
    }
}

void belay_grant_changed(belay_grant *grant, belay_scope scope, int64_t deadline_ns,
                         const char *why)
{
    grant_tell(grant, BELAY_OK, scope, deadline_ns, why);
}

void belay_grant_lost(belay_grant *grant, const char *why)
{
    grant_tell(grant, BELAY_LOST, BELAY_SCOPE_ANY, 0, why);
}

void belay_grant_forgotten(belay_grant *grant, const char *why)
{
    grant_tell(grant, BELAY_UNCERTAIN, BELAY_SCOPE_ANY, 0, why);
}

void belay_grant_listen(belay_grant *grant, void *holder,
                        void (*told)(belay_grant *grant, belay_status status, belay_scope scope,
                                     int64_t deadline_ns, const char *why))
{
    grant->holder = holder;
    grant->told = told;
    if (!grant->early) return;
    grant->early = false;
    told(grant, grant->early_status, grant->early_scope, grant->early_deadline_ns,
         "the place lost it before it was handed over");
}
