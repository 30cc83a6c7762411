/* fault.c - one backend, made to misbehave on purpose: for tests of what stands on top of it.
 *
 * Each attempt of a verb is first given a fate, by the verb's schedule while that lasts and by its
 * probabilities after it. Then, in this order: it waits for `delay`, it is forwarded to the child
 * (or not), it waits for `delay_reply`, it is answered. An acquire that took effect and whose
 * caller was told otherwise is given back, as a real backend would; `leave = true` leaves it.
 *
 * It is also the shortest composite, to be read before redlock and fallback. What a composite owes:
 * - a child op lives in memory of our own (`struct call`) until it has settled; the caller's may be
 *   gone by then, so what a give-back needs is copied;
 * - a child's grant is kept in one of ours (`struct lease`), and what it is told is told on;
 * - a child waits on a wait of its own (`struct relay`), which points up;
 * - a cancel goes to the child, and what the child grants all the same is given back. */
#include "fault_plan.h"

#include <belay/backend.h>
#include <string.h>

#define MS INT64_C(1000000) /* nanoseconds */

enum {
    HELD_FOR_MS = 20, /* a made-up holder goes soon */
    GIVE_BACK_AGAIN_MS = 50
};

struct fault {
    belay_backend base;
    belay_backend *child;
    bool leave;
    uint64_t random; /* the state: the same seed and the same calls give the same fates */
    struct fault_plan plans[BELAY_VERB_INSPECT + 1]; /* by verb */
    belay_link owed;                                 /* calls that give back */
};

static struct fault *fault_of(belay_backend *base)
{
    return belay_container_of(base, struct fault, base);
}

/* ------------------------------------------------------------------ a grant of ours */

/* What we hand up: the child's grant inside ours. */
struct lease {
    belay_grant base;
    belay_backend *backend; /* the child */
    belay_grant *child;     /* may be NULL: it needs none */
};

static void lease_told(belay_grant *grant, belay_status status, belay_scope scope,
                       int64_t deadline_ns, const char *why)
{
    struct lease *lease = grant->holder;
    if (status == BELAY_LOST) belay_grant_lost(&lease->base, why);
    else if (status == BELAY_UNCERTAIN) belay_grant_forgotten(&lease->base, why);
    else belay_grant_changed(&lease->base, scope, deadline_ns, why);
}

static void lease_set(struct lease *lease, belay_grant *child)
{
    lease->child = child;
    if (child == NULL) return;
    child->told = lease_told;
    child->holder = lease;
}

static void lease_free(belay_env *env, struct lease *lease)
{
    if (lease == NULL) return;
    if (lease->child != NULL && lease->backend->ops->drop != NULL)
        lease->backend->ops->drop(lease->backend, lease->child);
    belay_env_free(env, lease);
}

static void fault_drop(belay_backend *base, belay_grant *grant)
{
    lease_free(base->env, belay_container_of(grant, struct lease, base));
}

/* ------------------------------------------------------------------ a wait of the child */

struct relay {
    belay_wait base;
};

static void relay_woken(belay_wait *wait)
{
    belay_wait_wake(wait->parent);
}

/* The child's wait for ours, made at the first attempt; NULL when memory is short. */
static belay_wait *relay_of(belay_env *env, belay_wait *wait)
{
    struct relay *relay = wait->data;
    if (relay == NULL) {
        relay = belay_env_alloc(env, sizeof *relay);
        if (relay == NULL) return NULL;
        relay->base.parent = wait;
        relay->base.woken = relay_woken;
        relay->base.since_ns = wait->since_ns;
        wait->data = relay;
    }
    return &relay->base;
}

static void fault_unwait(belay_backend *base, belay_wait *wait)
{
    belay_backend *child = fault_of(base)->child;
    struct relay *relay = wait->data;
    if (relay == NULL) return; /* no attempt of this wait was forwarded */
    wait->data = NULL;
    if (child->ops->unwait != NULL) child->ops->unwait(child, &relay->base);
    belay_env_free(base->env, relay);
}

/* ------------------------------------------------------------------ a call */

enum phase { PHASE_DELAY, PHASE_SENT, PHASE_REPLY };

/* One attempt, from end to end. */
struct call {
    struct fault *fault;
    belay_op *op; /* the caller's; not ours to touch once it has settled */
    struct fault_step step;
    enum phase phase;
    int64_t begun_ns;
    bool canceled;
    bool granted;        /* the child holds a lock for this attempt */
    belay_status status; /* the child's answer */
    struct lease *lease; /* acquire: until it is handed up */
    belay_timer timer;
    belay_op child;
    belay_op give_back;
    belay_link owed;
    char owner[BELAY_OWNER_LENGTH + 1];
    char key[]; /* for the give-back */
};

static void call_timer(belay_timer *timer);
static void call_give_back(struct call *call);

static struct call *call_new(struct fault *fault, belay_op *op, struct fault_step step)
{
    belay_env *env = fault->base.env;
    struct call *call = belay_env_alloc(env, sizeof *call + op->key.length + 1);
    if (call == NULL) return NULL;
    if (op->verb == BELAY_VERB_ACQUIRE) {
        call->lease = belay_env_alloc(env, sizeof *call->lease);
        if (call->lease == NULL) {
            belay_env_free(env, call);
            return NULL;
        }
        call->lease->backend = fault->child;
    }
    call->fault = fault;
    call->op = op;
    call->step = step;
    call->begun_ns = belay_env_now(env);
    belay_timer_init(&call->timer, call_timer);
    return call;
}

static void call_free(struct call *call)
{
    belay_env *env = call->fault->base.env;
    belay_timer_disarm(env, &call->timer);
    belay_unlink(&call->owed);
    lease_free(env, call->lease);
    belay_env_free(env, call);
}

/* Who cut it short: our own `timeout` (the place is silent), or the caller's deadline or cancel? */
static belay_cause call_cut_cause(const struct call *call)
{
    belay_env *env = call->fault->base.env;
    bool own = belay_env_now(env) >= call->begun_ns + belay_env_timeout_ns(env);
    return own ? BELAY_CAUSE_UNREACHABLE : BELAY_CAUSE_CUT_SHORT;
}

/* Settles the caller's op with something that the child did not say. */
static void call_lie(struct call *call, belay_status status, belay_cause cause, const char *what)
{
    belay_op *op = call->op;
    belay_op_fail(op, status, cause, belay_env_name(call->fault->base.env), "injected fault: %s",
                  what);
}

/* Settles the caller's op as the child's. True if a grant was handed up with it. */
static bool call_tell(struct call *call)
{
    belay_op *op = call->op;
    op->sent_ns = call->child.sent_ns;
    op->token = call->child.token;
    op->scope = call->child.scope;
    op->held_for_ns = call->child.held_for_ns;
    op->cause = call->child.cause;
    op->unsure_release = call->child.unsure_release;
    if (call->granted) {
        op->grant = &call->lease->base;
        call->lease = NULL;
    }
    belay_op_settle(op, call->status);
    return call->granted;
}

static bool is_failure(belay_status status)
{
    return status != BELAY_OK && status != BELAY_HELD && status != BELAY_LOST;
}

/* The end of the caller's part; what it was not told of is given back. */
static void call_answer(struct call *call)
{
    bool handed_up = false;
    bool cut = call->canceled && call->status == BELAY_OK;
    switch (call->step.fate) {
    case FAULT_UNAVAILABLE:
        call_lie(call, BELAY_UNAVAILABLE, BELAY_CAUSE_UNREACHABLE, "not reached");
        break;
    case FAULT_DROPPED:
        call_lie(call, BELAY_UNCERTAIN, BELAY_CAUSE_UNREACHABLE, "the request was lost");
        break;
    case FAULT_HELD:
        call->op->held_for_ns = HELD_FOR_MS * MS;
        call_lie(call, BELAY_HELD, BELAY_CAUSE_NONE, "held");
        break;
    case FAULT_APPLIED:
        if (is_failure(call->status)) handed_up = call_tell(call);
        else call_lie(call, BELAY_UNCERTAIN, BELAY_CAUSE_UNREACHABLE, "the reply was lost");
        break;
    case FAULT_LOST:
        if (is_failure(call->status)) handed_up = call_tell(call);
        else call_lie(call, BELAY_LOST, BELAY_CAUSE_NONE, "lost");
        break;
    default:
        if (cut) call_lie(call, BELAY_UNCERTAIN, call_cut_cause(call), "the reply came too late");
        else handed_up = call_tell(call);
    }
    call->op = NULL;
    if (call->granted && !handed_up && !call->fault->leave) call_give_back(call);
    else call_free(call);
}

/* What the child said, or would have said, is known: the way back begins. */
static void call_reply(struct call *call)
{
    belay_env *env = call->fault->base.env;
    call->phase = PHASE_REPLY;
    if (call->step.reply_ns > 0 && !call->canceled)
        belay_timer_arm(env, &call->timer, belay_env_now(env) + call->step.reply_ns);
    else call_answer(call);
}

static void child_done(belay_op *child, belay_status status)
{
    struct call *call = belay_container_of(child, struct call, child);
    call->status = status;
    if (child->verb == BELAY_VERB_ACQUIRE && status == BELAY_OK) {
        call->granted = true;
        lease_set(call->lease, child->grant);
    }
    call_reply(call);
}

static void call_send(struct call *call)
{
    struct fault *fault = call->fault;
    belay_op *op = call->op;
    if (call->step.fate == FAULT_UNAVAILABLE || call->step.fate == FAULT_DROPPED ||
        call->step.fate == FAULT_HELD) {
        call_reply(call);
        return;
    }
    belay_op_init_child(&call->child, op);
    if (op->wait != NULL) {
        call->child.wait = relay_of(fault->base.env, op->wait);
        if (call->child.wait == NULL) {
            belay_op_fail(op, BELAY_NOMEM, BELAY_CAUSE_NONE, NULL, "out of memory");
            call_free(call);
            return;
        }
    }
    if (op->grant != NULL) {
        struct lease *lease = belay_container_of(op->grant, struct lease, base);
        call->child.grant = lease->child;
    }
    if (call->step.fate == FAULT_LOST) call->child.verb = BELAY_VERB_RELEASE; /* to be true */
    if (op->verb == BELAY_VERB_ACQUIRE) {
        memcpy(call->key, op->key.at, op->key.length);
        memcpy(call->owner, op->owner, BELAY_OWNER_LENGTH);
    }
    call->phase = PHASE_SENT;
    belay_op_start(&call->child, fault->child, op, child_done);
}

static void call_timer(belay_timer *timer)
{
    struct call *call = belay_container_of(timer, struct call, timer);
    if (call->op == NULL) call_give_back(call);
    else if (call->phase == PHASE_DELAY) call_send(call);
    else call_answer(call);
}

static void call_cancel(struct call *call)
{
    belay_env *env = call->fault->base.env;
    call->canceled = true;
    switch (call->phase) {
    case PHASE_DELAY:
        call_lie(call, BELAY_UNAVAILABLE, call_cut_cause(call), "not sent in time");
        call_free(call);
        break;
    case PHASE_SENT:
        belay_op_cancel(&call->child); /* child_done answers */
        break;
    case PHASE_REPLY:
        belay_timer_disarm(env, &call->timer);
        call_answer(call);
        break;
    }
}

/* ------------------------------------------------------------------ giving back */

static void give_back_done(belay_op *op, belay_status status)
{
    struct call *call = belay_container_of(op, struct call, give_back);
    belay_env *env = call->fault->base.env;
    int64_t now = belay_env_now(env);
    int64_t gone_ns = call->child.sent_ns + (int64_t)call->child.ttl_ms * MS;
    bool again = status == BELAY_UNAVAILABLE || status == BELAY_UNCERTAIN || status == BELAY_NOMEM;
    if (again && now < gone_ns) belay_timer_arm(env, &call->timer, now + GIVE_BACK_AGAIN_MS * MS);
    else call_free(call);
}

/* A compare-and-delete with the attempt's owner id. The caller's op is gone: every string is our
 * copy. */
static void call_give_back(struct call *call)
{
    struct fault *fault = call->fault;
    belay_op *op = &call->give_back;
    belay_op_init_child(op, &call->child);
    op->verb = BELAY_VERB_RELEASE;
    op->key.at = call->key;
    op->name.at = call->key + (op->key.length - op->name.length);
    op->owner = call->owner;
    op->label = "";
    op->grant = call->lease->child;
    op->error = NULL;
    if (!belay_linked(&call->owed)) belay_link_append(&fault->owed, &call->owed);
    belay_op_start(op, fault->child, NULL, give_back_done);
}

static bool fault_owes(belay_backend *base)
{
    return !belay_links_empty(&fault_of(base)->owed);
}

/* ------------------------------------------------------------------ the verbs */

/* Every verb: those without a plan are passed on as they are. */
static void fault_begin(belay_backend *base, belay_op *op)
{
    struct fault *fault = fault_of(base);
    struct fault_step step = { .fate = FAULT_OK };
    if (op->verb <= BELAY_VERB_INSPECT)
        step = belay__fault_plan_next(&fault->plans[op->verb], &fault->random);
    if (step.fate != FAULT_OK)
        belay_env_log(base->env, BELAY_LOG_DEBUG, "%s: injecting %s", belay_env_name(base->env),
                      belay__fault_fate_name(step.fate));
    struct call *call = call_new(fault, op, step);
    op->data = call;
    if (call == NULL) belay_op_fail(op, BELAY_NOMEM, BELAY_CAUSE_NONE, NULL, "out of memory");
    else if (step.delay_ns > 0)
        belay_timer_arm(base->env, &call->timer, call->begun_ns + step.delay_ns);
    else call_send(call);
}

static void fault_cancel(belay_backend *base, belay_op *op)
{
    (void)base;
    call_cancel(op->data);
}

static belay_scope fault_scope_of(const belay_backend *base)
{
    const belay_backend *child = fault_of((belay_backend *)base)->child;
    return child->ops->scope_of != NULL ? child->ops->scope_of(child) : child->ops->scope;
}

/* ------------------------------------------------------------------ the object */

static void fault_destroy(belay_backend *base)
{
    struct fault *fault = fault_of(base);
    belay_env *env = base->env;
    while (!belay_links_empty(&fault->owed)) { /* close did not want to wait for these */
        struct call *call = belay_container_of(fault->owed.next, struct call, owed);
        belay_unlink(&call->owed);
        if (!belay_timer_armed(&call->timer)) belay_op_abandon(&call->give_back);
        call_free(call);
    }
    for (int verb = BELAY_VERB_ACQUIRE; verb <= BELAY_VERB_INSPECT; verb++)
        belay__fault_plan_fini(&fault->plans[verb], env);
    belay_env_free(env, fault);
}

static belay_status fault_create(belay_backend **out, belay_env *env,
                                 const belay_settings *settings, belay_error *err)
{
    struct fault *fault = belay_env_alloc(env, sizeof *fault);
    if (fault == NULL) return belay_error_set(err, BELAY_NOMEM, NULL, "out of memory");
    fault->base.env = env;
    fault->child = belay_settings_backend(settings, "child", 0);
    fault->leave = belay_settings_boolean(settings, "leave");
    fault->random = (uint64_t)belay_settings_integer(settings, "seed");
    belay_links_init(&fault->owed);
    if (fault->random == 0) belay_env_random(env, &fault->random, sizeof fault->random);
    belay_status status = BELAY_OK;
    for (belay_verb verb = BELAY_VERB_ACQUIRE; verb <= BELAY_VERB_INSPECT && status == BELAY_OK;
         verb++)
        status = belay__fault_plan_read(&fault->plans[verb], env, settings, verb, err);
    if (status == BELAY_OK) *out = &fault->base;
    else fault_destroy(&fault->base);
    return status;
}

static void fault_diagnose(belay_backend *base, belay_op *op)
{
    (void)base;
    belay_op_settle(op, belay_op_find(op, BELAY_WARNING, "faults", "locks fail as its keys say",
                                      "it is for tests: let the config name what is behind it",
                                      "it makes faults on purpose"));
}

static void fault_about(const belay_backend *base, belay_about *out)
{
    const belay_backend *child = fault_of((belay_backend *)base)->child;
    if (child->ops->about != NULL) child->ops->about(child, out);
}

static void fault_health(belay_backend *base, belay_op *op)
{
    if (fault_of(base)->child->ops->health != NULL) fault_begin(base, op);
    else belay_op_settle(op, BELAY_OK);
}

/* ------------------------------------------------------------------ the table */

static const char *const fault_schemes[] = { "fault", NULL };

extern const belay_backend_ops belay__fault_ops;
const belay_backend_ops belay__fault_ops = {
    BELAY_OPS_HEAD,
    .type = "fault",
    .url_schemes = fault_schemes, /* fault:memory:name */
    .url_key = "child",
    .settings = belay__fault_settings,
    .scope = BELAY_SCOPE_FLEET,
    .scope_of = fault_scope_of,
    .timeout_ms = 10000, /* longer than a child's, so that a delayed op is its caller's to end */
    .create = fault_create,
    .destroy = fault_destroy,
    .acquire = fault_begin,
    .release = fault_begin,
    .extend = fault_begin,
    .cancel = fault_cancel,
    .drop = fault_drop,
    .unwait = fault_unwait,
    .owes = fault_owes,
    .inspect = fault_begin,
    .list = fault_begin,
    .break_lock = fault_begin,
    .diagnose = fault_diagnose,
    .health = fault_health,
    .about = fault_about,
};
