/* engine_script.c - a backend that does what a test tells it: answers at once, later, never, or too
 * late. */
#include "tests/unit/engine_help.h"

enum { REPLIES = 64, CALLS = 4096, KEPT = 512 };

struct kept { /* an op that was not answered yet */
    belay_link link;
    belay_op *op;
    struct script_reply reply;
    int call;
    belay_timer timer;
    belay_job job;
};

struct grant {
    belay_grant base;
    belay_link link;
};

struct order { /* from a foreign thread */
    enum { SETTLE, WAKE, LOSE } what;
    belay_verb verb;
    belay_status status;
    char why[64];
};

struct scripted {
    belay_backend base;
    belay_env *env;
    belay_poke poke;
    belay_link kept, waits, grants;
};

/* One script for all; its mutex is only ever the innermost. */
static struct {
    pthread_mutex_t mutex;
    pthread_cond_t opened;
    struct script_reply replies[BELAY_VERB_HEALTH + 1][REPLIES];
    int reply_count[BELAY_VERB_HEALTH + 1], reply_at[BELAY_VERB_HEALTH + 1];
    int reply_used[BELAY_VERB_HEALTH + 1];
    struct script_call calls[CALLS];
    int call_count;
    struct order orders[KEPT];
    int order_count;
    int pending[BELAY_VERB_HEALTH + 1];
    int drops, unwaits, destroyed, grants, begun, forgotten;
    bool closed_gate, twice;
    struct scripted *object;
} script = { .mutex = PTHREAD_MUTEX_INITIALIZER, .opened = PTHREAD_COND_INITIALIZER };

#define SCRIPT_LOCKED(...)                                                                         \
    do {                                                                                           \
        pthread_mutex_lock(&script.mutex);                                                         \
        __VA_ARGS__;                                                                               \
        pthread_mutex_unlock(&script.mutex);                                                       \
    } while (0)

void script_reset(void)
{
    SCRIPT_LOCKED({
        memset(script.reply_count, 0, sizeof script.reply_count);
        memset(script.reply_at, 0, sizeof script.reply_at);
        memset(script.reply_used, 0, sizeof script.reply_used);
        memset(script.pending, 0, sizeof script.pending);
        script.call_count = script.order_count = 0;
        script.drops = script.unwaits = script.destroyed = script.grants = script.begun =
            script.forgotten = 0;
        script.closed_gate = script.twice = false;
    });
}

void script_add(belay_verb verb, struct script_reply reply)
{
    SCRIPT_LOCKED(if (script.reply_count[verb] < REPLIES)
                      script.replies[verb][script.reply_count[verb]++] = reply);
}

int script_count(belay_verb verb)
{
    int count = 0;
    SCRIPT_LOCKED(for (int i = 0; i < script.call_count; i++) count +=
                  verb == 0 || script.calls[i].verb == verb);
    return count;
}

struct script_call script_call_at(belay_verb verb, int number)
{
    struct script_call call = { 0 };
    SCRIPT_LOCKED(for (int i = 0; i < script.call_count; i++) {
        if (script.calls[i].verb != verb || number-- != 0) continue;
        call = script.calls[i];
        break;
    });
    return call;
}

static int number_of(const int *what)
{
    int value;
    SCRIPT_LOCKED(value = *what);
    return value;
}

int script_pending(belay_verb verb)
{
    return number_of(&script.pending[verb]);
}
int script_drops(void)
{
    return number_of(&script.drops);
}
int script_unwaits(void)
{
    return number_of(&script.unwaits);
}
int script_destroyed(void)
{
    return number_of(&script.destroyed);
}
int script_grants(void)
{
    return number_of(&script.grants);
}
int script_jobs_begun(void)
{
    return number_of(&script.begun);
}
int script_jobs_forgotten(void)
{
    return number_of(&script.forgotten);
}

void script_gate(bool open)
{
    SCRIPT_LOCKED(script.closed_gate = !open; pthread_cond_broadcast(&script.opened));
}

void script_settle_twice(void)
{
    SCRIPT_LOCKED(script.twice = true);
}

static void order(struct order given)
{
    SCRIPT_LOCKED(if (script.object != NULL && script.order_count < KEPT) {
        script.orders[script.order_count++] = given;
        belay_poke_raise(&script.object->poke);
    });
}

void script_settle(belay_verb verb, belay_status status)
{
    order((struct order){ .what = SETTLE, .verb = verb, .status = status });
}

void script_wake(void)
{
    order((struct order){ .what = WAKE });
}

void script_lose(const char *why)
{
    struct order given = { .what = LOSE };
    snprintf(given.why, sizeof given.why, "%s", why);
    order(given);
}

/* ------------------------------------------------------------------ under the monitor */

static struct scripted *scripted_of(belay_backend *base)
{
    return belay_container_of(base, struct scripted, base);
}

/* Answers; `op` may be gone afterwards. */
static void answer(struct scripted *s, belay_op *op, int call, struct script_reply reply,
                   belay_status status)
{
    bool twice;
    SCRIPT_LOCKED({
        script.calls[call].status = status;
        script.calls[call].settled = true;
        twice = script.twice;
        script.twice = false;
    });
    if (status == BELAY_HELD && reply.held_for_ms != 0) op->held_for_ns = reply.held_for_ms * MS;
    if (status == BELAY_OK && op->verb == BELAY_VERB_ACQUIRE) {
        struct grant *grant = belay_env_alloc(s->env, sizeof *grant);
        if (grant == NULL) {
            belay_op_settle(op, BELAY_NOMEM);
            return;
        }
        belay_link_append(&s->grants, &grant->link);
        op->grant = &grant->base;
        op->token = 1;
        SCRIPT_LOCKED(script.grants++);
    }
    if (status == BELAY_UNAVAILABLE || status == BELAY_UNCERTAIN)
        belay_op_fail(op, status, BELAY_CAUSE_UNREACHABLE, "node", "it is scripted");
    else belay_op_settle(op, status);
    if (twice) belay_op_settle(op, status);
}

static void kept_end(struct scripted *s, struct kept *kept, belay_status status)
{
    belay_op *op = kept->op;
    belay_verb verb = op->verb;
    belay_timer_disarm(s->env, &kept->timer);
    belay_unlink(&kept->link);
    SCRIPT_LOCKED(script.pending[verb]--);
    answer(s, op, kept->call, kept->reply, status);
    if (kept->reply.how == SCRIPT_WORKER) kept->op = NULL; /* freed by its job */
    else belay_env_free(s->env, kept);
}

static void kept_timer(belay_timer *timer)
{
    struct kept *kept = belay_container_of(timer, struct kept, timer);
    kept_end(scripted_of(kept->op->backend), kept, kept->reply.status);
}

static void job_work(belay_job *job)
{
    (void)job;
    SCRIPT_LOCKED(script.begun++;
                  while (script.closed_gate) pthread_cond_wait(&script.opened, &script.mutex));
}

static void job_done(belay_job *job)
{
    struct kept *kept = belay_container_of(job, struct kept, job);
    if (kept->op != NULL) kept_end(scripted_of(kept->op->backend), kept, kept->reply.status);
    free(kept);
}

static void job_forget(belay_job *job)
{
    SCRIPT_LOCKED(script.forgotten++);
    free(belay_container_of(job, struct kept, job));
}

static void scripted_verb(belay_backend *base, belay_op *op)
{
    struct scripted *s = scripted_of(base);
    belay_verb verb = op->verb;
    struct script_reply reply = { SCRIPT_NOW, BELAY_OK, 0, 0, 0 };
    int call;
    SCRIPT_LOCKED({
        int at = script.reply_at[verb];
        if (script.reply_count[verb] > 0) {
            reply = script.replies[verb][at];
            int times = reply.times > 0 ? reply.times : 1;
            if (++script.reply_used[verb] >= times && at + 1 < script.reply_count[verb]) {
                script.reply_at[verb]++;
                script.reply_used[verb] = 0;
            }
        }
        call = script.call_count < CALLS - 1 ? script.call_count++ : CALLS - 1;
        struct script_call *to = &script.calls[call];
        *to = (struct script_call){ .verb = verb,
                                    .at_ns = op->sent_ns,
                                    .settle_by_ns = op->settle_by_ns,
                                    .waits = op->wait != NULL,
                                    .since_ns = op->wait != NULL ? op->wait->since_ns : 0 };
        snprintf(to->owner, sizeof to->owner, "%s", op->owner);
        snprintf(to->name, sizeof to->name, "%s", op->name.at);
    });
    if (op->wait != NULL && !belay_linked(&op->wait->link))
        belay_link_append(&s->waits, &op->wait->link);
    if (reply.how == SCRIPT_WAKE && op->wait != NULL) belay_wait_wake(op->wait);
    if (reply.how == SCRIPT_NOW || reply.how == SCRIPT_WAKE) {
        answer(s, op, call, reply, reply.status);
        return;
    }
    struct kept *kept = belay_env_alloc(s->env, sizeof *kept);
    if (kept == NULL) {
        answer(s, op, call, reply, BELAY_NOMEM);
        return;
    }
    kept->op = op;
    kept->reply = reply;
    kept->call = call;
    belay_timer_init(&kept->timer, kept_timer);
    op->data = kept;
    belay_link_append(&s->kept, &kept->link);
    SCRIPT_LOCKED(script.pending[verb]++);
    if (reply.how == SCRIPT_TIMER)
        belay_timer_arm(s->env, &kept->timer, belay_env_now(s->env) + reply.after_ms * MS);
    if (reply.how == SCRIPT_WORKER) {
        kept->job = (belay_job){ .work = job_work, .done = job_done, .forget = job_forget };
        belay_status status = belay_env_run(s->env, &kept->job);
        if (status != BELAY_OK) {
            kept->reply.how = SCRIPT_PEND;
            kept_end(s, kept, status);
        }
    }
}

static void scripted_cancel(belay_backend *base, belay_op *op)
{
    struct kept *kept = op->data;
    SCRIPT_LOCKED(script.calls[kept->call].canceled = true);
    if (kept->reply.how == SCRIPT_DEAF) return;
    bool known = kept->reply.how == SCRIPT_PEND;
    kept_end(scripted_of(base), kept, known ? kept->reply.status : BELAY_UNCERTAIN);
}

static void scripted_drop(belay_backend *base, belay_grant *grant)
{
    struct grant *g = belay_container_of(grant, struct grant, base);
    SCRIPT_LOCKED(script.drops++);
    belay_unlink(&g->link);
    belay_env_free(base->env, g);
}

static void scripted_unwait(belay_backend *base, belay_wait *wait)
{
    (void)base;
    SCRIPT_LOCKED(script.unwaits++);
    belay_unlink(&wait->link);
}

static void poked(belay_poke *poke)
{
    struct scripted *s = belay_container_of(poke, struct scripted, poke);
    struct order orders[KEPT];
    int count;
    SCRIPT_LOCKED({
        count = script.order_count;
        memcpy(orders, script.orders, (size_t)count * sizeof orders[0]);
        script.order_count = 0;
    });
    for (int i = 0; i < count; i++) {
        belay_link *link, *next;
        if (orders[i].what == WAKE) {
            for (link = s->waits.next; link != &s->waits; link = next) {
                next = link->next;
                belay_wait_wake(belay_container_of(link, belay_wait, link));
            }
        } else if (orders[i].what == LOSE) {
            for (link = s->grants.next; link != &s->grants; link = next) {
                next = link->next;
                belay_grant_lost(&belay_container_of(link, struct grant, link)->base,
                                 orders[i].why);
            }
        } else {
            for (link = s->kept.next; link != &s->kept; link = next) {
                next = link->next;
                struct kept *kept = belay_container_of(link, struct kept, link);
                if (kept->op->verb == orders[i].verb) kept_end(s, kept, orders[i].status);
            }
        }
    }
}

static belay_status scripted_create(belay_backend **out, belay_env *env,
                                    const belay_settings *settings, belay_error *err)
{
    (void)settings;
    struct scripted *s = belay_env_alloc(env, sizeof *s);
    if (s == NULL) return belay_error_set(err, BELAY_NOMEM, NULL, NULL);
    s->env = env;
    belay_links_init(&s->kept);
    belay_links_init(&s->waits);
    belay_links_init(&s->grants);
    belay_poke_init(env, &s->poke, poked);
    SCRIPT_LOCKED(script.object = s);
    *out = &s->base;
    return BELAY_OK;
}

static void scripted_destroy(belay_backend *base)
{
    struct scripted *s = scripted_of(base);
    SCRIPT_LOCKED({
        script.destroyed++;
        if (script.object == s) script.object = NULL;
    });
    belay_poke_fini(&s->poke);
    belay_env_free(s->env, s);
}

static const char *const schemes[] = { "scripted", NULL };
static const belay_setting_spec settings[] = {
    { .key = "name", .type = BELAY_SETTING_STRING, .help = "nothing" },
    { 0 },
};

const belay_backend_ops scripted_ops = {
    BELAY_OPS_HEAD,
    .type = "scripted",
    .url_schemes = schemes,
    .url_key = "name",
    .settings = settings,
    .scope = BELAY_SCOPE_PROCESS,
    .create = scripted_create,
    .destroy = scripted_destroy,
    .acquire = scripted_verb,
    .release = scripted_verb,
    .extend = scripted_verb,
    .cancel = scripted_cancel,
    .drop = scripted_drop,
    .unwait = scripted_unwait,
    .inspect = scripted_verb,
    .break_lock = scripted_verb,
    .diagnose = scripted_verb,
};
