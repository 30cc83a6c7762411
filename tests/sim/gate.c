/* gate.c - between one client and one place: the network, and a server that fails.
 *
 * A request is on its way out, is executed at the place (a memory backend), and its reply is on its
 * way back. What happens to it meanwhile follows from the link's state, which the schedule changes:
 * it is refused, lost, executed late, executed with its reply lost. What the caller is told then is
 * what a backend for a real server tells it (backends/resp/attempt.c), and as that one it gives
 * back what its caller was not told of: right behind the attempt while the connection lives,
 * afterwards again and again until the attempt's TTL has run out. A dead client gives nothing back.
 *
 * A place may lose its data. Then the second memory backend is the place, with what it has: nothing
 * but an older fence. */
#include "tests/sim/sim.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { GIVE_BACK_AGAIN_MS = 50 };

struct sim_gate {
    belay_backend base;
    struct sim_link *link;
    belay_backend *places[2];
    belay_link calls, grants, waits;
    belay_poke poke;
    uint32_t cuts_seen, epoch_seen;
    enum sim_state state_seen;
};

static struct sim_gate *gate_of(belay_backend *base)
{
    return belay_container_of(base, struct sim_gate, base);
}

static struct sim *sim_of(const struct sim_gate *gate)
{
    return gate->link->client->sim;
}

static belay_backend *place_of(const struct sim_gate *gate)
{
    return gate->places[gate->link->place->epoch & 1];
}

void sim_link_changed(struct sim_link *link)
{
    link->ill_ns = link->client->sim->now_ns;
    if (link->gate != NULL) belay_poke_raise(&link->gate->poke);
}

bool sim_link_well(const struct sim_link *link, int64_t ns)
{
    return link->state == SIM_UP && link->out_most_ns == 0 &&
           link->client->sim->now_ns - link->ill_ns > ns;
}

/* ------------------------------------------------------------------ grants */

struct lease {
    belay_grant base;
    belay_link link;
    uint32_t epoch; /* of the place, when it was granted there */
    bool told;      /* that it was forgotten */
    char owner[BELAY_OWNER_LENGTH + 1];
};

static void gate_drop(belay_backend *base, belay_grant *grant)
{
    struct lease *lease = belay_container_of(grant, struct lease, base);
    (void)base;
    belay_unlink(&lease->link);
    free(lease);
}

/* ------------------------------------------------------------------ waits */

/* The place's wait for ours: one for each memory backend. */
struct relay {
    belay_link link;
    belay_wait at[2];
    bool seen[2];
};

static void relay_woken(belay_wait *wait)
{
    belay_wait_wake(wait->parent);
}

static belay_wait *relay_of(struct sim_gate *gate, belay_wait *wait)
{
    struct relay *relay = wait->data;
    int which = (int)(gate->link->place->epoch & 1);
    if (relay == NULL) {
        relay = calloc(1, sizeof *relay);
        if (relay == NULL) abort();
        for (int i = 0; i < 2; i++) {
            relay->at[i].parent = wait;
            relay->at[i].woken = relay_woken;
            relay->at[i].since_ns = wait->since_ns;
        }
        wait->data = relay;
        belay_link_append(&gate->waits, &relay->link);
    }
    relay->seen[which] = true;
    return &relay->at[which];
}

static void gate_unwait(belay_backend *base, belay_wait *wait)
{
    struct sim_gate *gate = gate_of(base);
    struct relay *relay = wait->data;
    if (relay == NULL) return;
    wait->data = NULL;
    for (int i = 0; i < 2; i++)
        if (relay->seen[i]) gate->places[i]->ops->unwait(gate->places[i], &relay->at[i]);
    belay_unlink(&relay->link);
    free(relay);
}

/* ------------------------------------------------------------------ calls */

enum where {
    CALL_OUT,  /* on its way */
    CALL_DONE, /* being executed: its answer is queued */
    CALL_BACK, /* the reply is on its way */
    CALL_OWED  /* a grant that nobody was told of */
};

struct call {
    struct sim_gate *gate;
    belay_link link;
    belay_op *op; /* NULL: its caller has had an answer */
    enum where where;
    bool stuck;    /* goes on when the link is up again */
    bool never;    /* lost on its way out */
    bool lost;     /* the reply will be lost */
    bool cut;      /* the connection broke behind it: no delete follows on the same one */
    bool canceled; /* while it was being executed */
    belay_status status;
    struct lease *lease, *of; /* acquire: until it is handed up. others: whose lock it is */
    uint32_t epoch;           /* of `of` */
    int64_t begun_ns;
    belay_timer timer;
    belay_op child, back;
    belay_info *info;
    char owner[BELAY_OWNER_LENGTH + 1], label[BELAY_LABEL_MAX + 1];
    char key[];
};

static void call_due(belay_timer *timer);
static void call_owe(struct call *call);

/* NULL: the client is short of memory. What else the gate needs is not the client's. */
static struct call *call_new(struct sim_gate *gate, belay_op *op)
{
    belay_env *env = gate->base.env;
    struct call *call = belay_env_alloc(env, sizeof *call + op->key.length + 1);
    if (call == NULL) return NULL;
    call->gate = gate;
    call->op = op;
    call->begun_ns = belay_env_now(env);
    belay_timer_init(&call->timer, call_due);
    belay_link_append(&gate->calls, &call->link);
    memcpy(call->key, op->key.at, op->key.length + 1);
    memcpy(call->owner, op->owner, strlen(op->owner) + 1);
    memcpy(call->label, op->label, strlen(op->label) + 1);
    belay_op_init_child(&call->child, op);
    call->child.key.at = call->key;
    call->child.name.at = call->key + (op->key.length - op->name.length);
    call->child.owner = call->owner;
    call->child.label = call->label;
    call->child.error = NULL;
    call->child.at_least = BELAY_SCOPE_ANY;
    if (op->verb == BELAY_VERB_ACQUIRE) {
        call->lease = calloc(1, sizeof *call->lease);
        if (call->lease == NULL) abort();
    } else if (op->grant != NULL) {
        call->of = belay_container_of(op->grant, struct lease, base);
        call->epoch = call->of->epoch;
    }
    if (op->verb == BELAY_VERB_INSPECT) {
        call->info = calloc(1, sizeof *call->info);
        if (call->info == NULL) abort();
        *call->info = *op->info;
        call->child.info = call->info;
    }
    return call;
}

static void call_free(struct call *call)
{
    belay_env *env = call->gate->base.env;
    belay_timer_disarm(env, &call->timer);
    belay_unlink(&call->link);
    free(call->lease);
    free(call->info);
    belay_env_free(env, call);
}

/* The caller is told that it failed. */
static void call_fail(struct call *call, belay_status status, belay_cause cause, const char *why)
{
    belay_op *op = call->op;
    if (op == NULL) return;
    call->op = NULL;
    if (op->verb == BELAY_VERB_RELEASE || op->verb == BELAY_VERB_BREAK) {
        op->unsure_release = true;
        status = BELAY_UNAVAILABLE;
    }
    if (op->verb == BELAY_VERB_INSPECT) status = BELAY_UNAVAILABLE;
    belay_op_fail(op, status, cause, belay_env_name(call->gate->base.env), "%s", why);
}

/* The caller is told what the place said. */
static void call_answer(struct call *call)
{
    belay_op *op = call->op;
    struct sim_gate *gate = call->gate;
    if (op == NULL) { /* it did not wait for that */
        if (call->lease != NULL && call->status == BELAY_OK) call_owe(call);
        else call_free(call);
        return;
    }
    op->token = call->child.token;
    op->scope = gate->link->scope;
    op->held_for_ns = call->child.held_for_ns;
    op->cause = call->child.cause;
    if (call->info != NULL) *op->info = *call->info;
    if (op->verb == BELAY_VERB_ACQUIRE && call->status == BELAY_OK) {
        call->lease->epoch = call->epoch;
        memcpy(call->lease->owner, call->owner, sizeof call->lease->owner);
        belay_link_append(&gate->grants, &call->lease->link);
        op->grant = &call->lease->base;
        call->lease = NULL;
    }
    if (call->status == BELAY_LOST && call->of != NULL && call->epoch != gate->link->place->epoch)
        op->cause = BELAY_CAUSE_FORGOTTEN;
    belay_status status = call->status;
    call_free(call);
    belay_op_settle(op, status);
}

static const char *verb_name(belay_verb verb)
{
    switch (verb) {
    case BELAY_VERB_ACQUIRE: return "acquire";
    case BELAY_VERB_RELEASE: return "release";
    case BELAY_VERB_EXTEND: return "extend";
    case BELAY_VERB_INSPECT: return "inspect";
    default: return "break";
    }
}

/* A memory backend has done it when its verb returns: also if nobody hears of that any more. */
static void executed(const struct call *call, const belay_op *op)
{
    const struct sim_link *link = call->gate->link;
    struct sim *sim = link->client->sim;
    int64_t age = sim->now_ns - call->begun_ns;
    bool late = call->op == NULL || age >= belay_env_timeout_ns(call->gate->base.env);
    if (op->status == BELAY_OK && op->verb != BELAY_VERB_INSPECT &&
        !sim_place_did(link->place, link->client, op, late))
        sim_fail(sim, "a place did what can't be: %s of %s", verb_name(op->verb), call->key);
    if (sim->options.loud)
        sim_say(sim, "      %d at %s: %s %s %.8s -> %s%s", link->client->number,
                link->place == &sim->places[SIM_FLEET] ? "fleet" : "host", verb_name(op->verb),
                call->key, call->owner, belay_status_name(op->status),
                op == &call->back  ? " (given back)"
                : call->op == NULL ? " (late)"
                                   : "");
}

/* The place's answer to the request. */
static void call_executed(belay_op *child, belay_status status)
{
    struct call *call = belay_container_of(child, struct call, child);
    struct sim_gate *gate = call->gate;
    struct sim *sim = sim_of(gate);
    bool granted = child->verb == BELAY_VERB_ACQUIRE && status == BELAY_OK;
    call->status = status;
    call->where = CALL_BACK;
    if (granted) call->epoch = gate->link->place->epoch;
    if (call->canceled && call->op != NULL)
        call_fail(call, BELAY_UNCERTAIN, BELAY_CAUSE_CUT_SHORT, "no answer in time");
    if (gate->link->state == SIM_DEAD) { /* nobody is there to hear it, or to give it back */
        call_fail(call, BELAY_UNAVAILABLE, BELAY_CAUSE_UNREACHABLE, "the process is dead");
        call_free(call);
    } else if (call->op == NULL) {
        call_answer(call);
    } else if (call->lost) {
        call->stuck = true;
    } else if (gate->link->back_most_ns > 0) {
        belay_timer_arm(gate->base.env, &call->timer,
                        sim->now_ns + sim_up_to(sim, gate->link->back_most_ns));
    } else {
        call_answer(call);
    }
}

static void call_send(struct call *call)
{
    struct sim_gate *gate = call->gate;
    belay_op *op = call->op;
    call->where = CALL_DONE;
    call->stuck = false;
    if (op != NULL && op->wait != NULL) call->child.wait = relay_of(gate, op->wait);
    belay_op_start(&call->child, place_of(gate), NULL, call_executed);
    executed(call, &call->child);
}

/* ------------------------------------------------------------------ giving back */

static void call_given_back(belay_op *op, belay_status status)
{
    (void)status;
    call_free(belay_container_of(op, struct call, back));
}

static void call_give_back(struct call *call)
{
    belay_op_init_child(&call->back, &call->child);
    call->back.verb = BELAY_VERB_RELEASE;
    belay_op_start(&call->back, place_of(call->gate), NULL, call_given_back);
    executed(call, &call->back);
}

/* A grant of which its caller was not told. */
static void call_owe(struct call *call)
{
    struct sim_gate *gate = call->gate;
    int64_t now = belay_env_now(gate->base.env);
    bool again = call->where == CALL_OWED;
    call->where = CALL_OWED;
    call->stuck = false;
    if (!call->cut && !again) call_give_back(call); /* it came right behind the attempt */
    else if (gate->link->state == SIM_UP) call_give_back(call);
    else if (now >= call->child.sent_ns + (int64_t)call->child.ttl_ms * SIM_MS) call_free(call);
    else belay_timer_arm(gate->base.env, &call->timer, now + GIVE_BACK_AGAIN_MS * SIM_MS);
}

static void call_due(belay_timer *timer)
{
    struct call *call = belay_container_of(timer, struct call, timer);
    switch (call->where) {
    case CALL_OUT: call_send(call); break;
    case CALL_BACK: call_answer(call); break;
    case CALL_OWED: call_owe(call); break;
    case CALL_DONE: break;
    }
}

/* ------------------------------------------------------------------ the link changes */

/* The connection broke. `emptied`: the server lost what it had. */
static void call_cut(struct call *call, bool emptied)
{
    struct sim_gate *gate = call->gate;
    struct sim *sim = sim_of(gate);
    bool dead = gate->link->state == SIM_DEAD;
    bool executed = call->where == CALL_OUT && !call->never && !emptied && sim_chance(sim, 50);
    if (call->where == CALL_DONE) return; /* its answer is about to be heard */
    belay_timer_disarm(gate->base.env, &call->timer);
    bool unsent = call->where == CALL_OUT && !executed && sim_chance(sim, 30);
    call_fail(call, unsent ? BELAY_UNAVAILABLE : BELAY_UNCERTAIN, BELAY_CAUSE_UNREACHABLE,
              "the connection was cut");
    call->cut = true;
    if (call->where == CALL_OUT && !executed) call_free(call);
    else if (call->where == CALL_OUT) call_send(call);
    else if (call->lease == NULL || call->status != BELAY_OK || dead) call_free(call);
    else if (call->where == CALL_BACK) call_owe(call);
    else belay_timer_arm(gate->base.env, &call->timer, belay_env_now(gate->base.env));
}

static void call_silenced(struct call *call)
{
    struct sim_gate *gate = call->gate;
    if (call->where == CALL_DONE || call->where == CALL_OWED || call->stuck) return;
    if (call->where == CALL_OUT && sim_chance(sim_of(gate), 50)) {
        call->lost = true; /* it arrives all the same */
        return;
    }
    belay_timer_disarm(gate->base.env, &call->timer);
    call->stuck = true;
}

static void call_freed(struct call *call)
{
    if (!call->stuck) return;
    call->stuck = call->lost = false;
    if (call->never) return;
    belay_timer_arm(call->gate->base.env, &call->timer, belay_env_now(call->gate->base.env));
}

static void forgotten(struct sim_gate *gate)
{
    for (belay_link *at = gate->grants.next; at != &gate->grants; at = at->next) {
        struct lease *lease = belay_container_of(at, struct lease, link);
        if (lease->told || lease->epoch == gate->link->place->epoch) continue;
        lease->told = true;
        if (sim_chance(sim_of(gate), 40)) continue; /* its next extension will find out */
        sim_check_forgotten(gate->link->client, lease->owner);
        belay_grant_forgotten(&lease->base, "the place has lost its data");
        at = &gate->grants; /* anything may have been dropped: from the beginning */
    }
}

static void wake_all(struct sim_gate *gate)
{
    for (belay_link *at = gate->waits.next; at != &gate->waits; at = at->next)
        belay_wait_wake(belay_container_of(at, struct relay, link)->at[0].parent);
}

static void gate_changed(struct sim_gate *gate)
{
    struct sim_link *link = gate->link;
    enum sim_state was = gate->state_seen;
    bool emptied = gate->epoch_seen != link->place->epoch;
    bool cut = gate->cuts_seen != link->cuts;
    gate->state_seen = link->state;
    gate->cuts_seen = link->cuts;
    for (belay_link *at = gate->calls.next, *next; at != &gate->calls; at = next) {
        struct call *call = belay_container_of(at, struct call, link);
        next = at->next;
        if (cut) call_cut(call, emptied);
        else if (link->state == SIM_SILENT && was != SIM_SILENT) call_silenced(call);
        else if (link->state == SIM_UP && was != SIM_UP) call_freed(call);
    }
    if (link->state != SIM_UP || !emptied) return;
    gate->epoch_seen = link->place->epoch;
    wake_all(gate);
    forgotten(gate);
}

static void gate_poked(belay_poke *poke)
{
    gate_changed(belay_container_of(poke, struct sim_gate, poke));
}

/* ------------------------------------------------------------------ the verbs */

static void gate_begin(belay_backend *base, belay_op *op)
{
    struct sim_gate *gate = gate_of(base);
    struct sim_link *link = gate->link;
    struct sim *sim = sim_of(gate);
    const char *node = belay_env_name(base->env);
    if (link->state == SIM_DEAD || link->state == SIM_REFUSES) {
        belay_op_fail(op, BELAY_UNAVAILABLE, BELAY_CAUSE_UNREACHABLE, node, "connection refused");
        return;
    }
    if (link->state == SIM_BUSY) {
        link->busy_ns = sim->now_ns;
        belay_op_fail(op, BELAY_UNAVAILABLE, BELAY_CAUSE_BUSY, node, "busy");
        return;
    }
    struct call *call = call_new(gate, op);
    op->data = call;
    if (call == NULL) {
        belay_op_fail(op, BELAY_NOMEM, BELAY_CAUSE_NONE, NULL, "out of memory");
    } else if (link->state == SIM_SILENT) {
        uint32_t fate = sim_below(sim, 3);
        call->never = fate == 0;
        call->lost = fate == 1;
        if (fate == 1) call_send(call);
        else call->stuck = true;
    } else if (link->out_most_ns > 0) {
        belay_timer_arm(base->env, &call->timer, sim->now_ns + sim_up_to(sim, link->out_most_ns));
    } else {
        call_send(call);
    }
}

static void gate_cancel(belay_backend *base, belay_op *op)
{
    struct call *call = op->data;
    int64_t age = belay_env_now(base->env) - call->begun_ns;
    bool full = age >= belay_env_timeout_ns(base->env) - SIM_MS;
    belay_cause cause = full ? BELAY_CAUSE_UNREACHABLE : BELAY_CAUSE_CUT_SHORT;
    if (call->where == CALL_DONE) {
        call->canceled = true;
        return;
    }
    if (call->gate->link->state == SIM_DEAD) {
        call_cut(call, false);
        return;
    }
    call_fail(call, call->never ? BELAY_UNAVAILABLE : BELAY_UNCERTAIN, cause, "no answer in time");
    if (call->where == CALL_BACK) {
        belay_timer_disarm(base->env, &call->timer);
        call_answer(call);
    } else if (call->never) {
        call_free(call);
    } /* else it is executed late, and its delete comes right behind it */
}

static bool gate_owes(belay_backend *base)
{
    struct sim_gate *gate = gate_of(base);
    if (gate->link->state == SIM_DEAD) return false;
    for (belay_link *at = gate->calls.next; at != &gate->calls; at = at->next) {
        struct call *call = belay_container_of(at, struct call, link);
        if (call->op == NULL && call->child.verb == BELAY_VERB_ACQUIRE) return true;
    }
    return false;
}

static belay_scope gate_scope_of(const belay_backend *base)
{
    return belay_container_of(base, const struct sim_gate, base)->link->scope;
}

/* ------------------------------------------------------------------ the object */

static belay_status gate_create(belay_backend **out, belay_env *env, const belay_settings *settings,
                                belay_error *err)
{
    struct sim_gate *gate = belay_env_alloc(env, sizeof *gate);
    if (gate == NULL) return belay_error_set(err, BELAY_NOMEM, NULL, "out of memory");
    struct sim_client *client = &sim_current->clients[belay_settings_integer(settings, "client")];
    gate->link = &client->links[belay_settings_integer(settings, "side")];
    for (size_t i = 0; i < 2; i++) {
        size_t count = belay_settings_count(settings, "places");
        gate->places[i] = belay_settings_backend(settings, "places", i < count ? i : 0);
    }
    gate->state_seen = gate->link->state;
    gate->cuts_seen = gate->link->cuts;
    gate->epoch_seen = gate->link->place->epoch;
    belay_links_init(&gate->calls);
    belay_links_init(&gate->grants);
    belay_links_init(&gate->waits);
    belay_poke_init(env, &gate->poke, gate_poked);
    gate->link->gate = gate;
    *out = &gate->base;
    return BELAY_OK;
}

static void gate_destroy(belay_backend *base)
{
    struct sim_gate *gate = gate_of(base);
    while (!belay_links_empty(&gate->calls))
        call_free(belay_container_of(gate->calls.next, struct call, link));
    gate->link->gate = NULL;
    belay_poke_fini(&gate->poke);
    belay_env_free(base->env, gate);
}

static const belay_setting_spec gate_settings[] = {
    { .key = "client", .type = BELAY_SETTING_INTEGER, .required = true, .help = "whose" },
    { .key = "side", .type = BELAY_SETTING_INTEGER, .required = true, .help = "to which place" },
    { .key = "places", .type = BELAY_SETTING_BACKENDS, .required = true, .help = "memory" },
    { 0 },
};

const belay_backend_ops sim_gate_ops = {
    BELAY_OPS_HEAD,
    .type = "gate",
    .settings = gate_settings,
    .scope = BELAY_SCOPE_FLEET,
    .scope_of = gate_scope_of,
    .create = gate_create,
    .destroy = gate_destroy,
    .acquire = gate_begin,
    .release = gate_begin,
    .extend = gate_begin,
    .cancel = gate_cancel,
    .drop = gate_drop,
    .unwait = gate_unwait,
    .owes = gate_owes,
    .inspect = gate_begin,
    .break_lock = gate_begin,
};
