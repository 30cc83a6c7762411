/* redlock_nodes.h - a redlock over up to five nodes that do what a test tells them, on a turned
 * clock.
 *
 * A node is a handful of locks with owners and ends, a fence, and the run that it is in. Each verb
 * has a fate of its own: done at once, done after a while, kept until the test settles it, or
 * failed in one of the ways that nodes fail. All clients of a test meet at the same nodes. */
#ifndef BELAY_TESTS_UNIT_REDLOCK_NODES_H
#define BELAY_TESTS_UNIT_REDLOCK_NODES_H

#include "core/client.h"

#include <belay/testing.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define MS INT64_C(1000000)

enum fate {
    FATE_DONE,    /* at once */
    FATE_SLOW,    /* after `slow_ms` */
    FATE_SILENT,  /* the test settles it; when it is canceled, its time was up, and nothing is left
                   */
    FATE_GONE,    /* not reached */
    FATE_BUSY,    /* reached, and can't now */
    FATE_UNHEARD, /* what became of it is not known; the node has seen to it that nothing is left */
    FATE_FORGOTTEN /* the node was restarted, and has no lock any more */
};

enum { NODES = 5, LOCKS = 16, OPEN = 64, VERBS = BELAY_VERB_HEALTH + 1, CLIENTS = 8 };

struct node_lock {
    char key[64], owner[BELAY_OWNER_LENGTH + 1];
    int64_t until_ns;
    uint64_t token;
};

struct node_grant {
    belay_grant base;
    belay_link link;
    struct node *node;
    char key[64];
    bool told;
};

struct node {
    struct node_lock locks[LOCKS];
    uint64_t fence;
    enum fate fate[VERBS];
    int64_t slow_ms;
    int count[VERBS];
    belay_op *open[OPEN]; /* not answered */
    int open_count;
    belay_link grants, waits;
    belay_status early; /* of the next grant: told right behind it; OK: nothing is */
    char instance[16];
    int64_t started_ns;
    bool deaf; /* a cancel does nothing: what is open is answered when the test says */
};

static struct node nodes[NODES];

struct node_object {
    belay_backend base;
    belay_env *env;
    struct node *node;
    belay_timer timer; /* of the slow ones */
};

static inline struct node_object *node_object_of(belay_backend *base)
{
    return belay_container_of(base, struct node_object, base);
}

static inline struct node_lock *node_find(struct node *node, const char *key, int64_t now)
{
    for (struct node_lock *lock = node->locks; lock < node->locks + LOCKS; lock++)
        if (lock->until_ns > now && strcmp(lock->key, key) == 0) return lock;
    return NULL;
}

static inline struct node_lock *node_put(struct node *node, const char *key, const char *owner,
                                         int64_t now, int64_t until_ns)
{
    struct node_lock *lock = node->locks;
    while (lock < node->locks + LOCKS && lock->until_ns > now) lock++;
    assert_true(lock < node->locks + LOCKS);
    snprintf(lock->key, sizeof lock->key, "%s", key);
    snprintf(lock->owner, sizeof lock->owner, "%s", owner);
    lock->until_ns = until_ns;
    return lock;
}

static inline belay_status node_take(struct node_object *object, belay_op *op)
{
    struct node *node = object->node;
    int64_t now = belay_env_now(object->env);
    struct node_lock *lock = node_find(node, op->key.at, now);
    if (lock != NULL) {
        op->held_for_ns = lock->until_ns - now;
        if (op->wait != NULL && !belay_linked(&op->wait->link))
            belay_link_append(&node->waits, &op->wait->link); /* never woken; seen to go */
        return BELAY_HELD;
    }
    lock = node_put(node, op->key.at, op->owner, now, now + op->ttl_ms * MS);
    uint64_t token = node->fence + 1;
    if (token <= op->token_floor) token = op->token_floor + 1;
    op->token = lock->token = node->fence = token;
    struct node_grant *grant = calloc(1, sizeof *grant);
    assert_non_null(grant);
    grant->node = node;
    snprintf(grant->key, sizeof grant->key, "%s", op->key.at);
    belay_link_append(&node->grants, &grant->link);
    op->grant = &grant->base;
    return BELAY_OK;
}

static inline void node_show(const struct node_lock *lock, int64_t now, belay_info *info)
{
    info->held = true;
    info->scope = BELAY_SCOPE_FLEET;
    info->token = lock->token;
    info->remaining_ms = (lock->until_ns - now) / MS;
    memcpy(info->owner, lock->owner, strlen(lock->owner) + 1);
}

static inline belay_status node_list(struct node_object *object, belay_op *op)
{
    struct node *node = object->node;
    int64_t now = belay_env_now(object->env);
    for (struct node_lock *lock = node->locks; lock < node->locks + LOCKS; lock++) {
        belay_info info = { .size = sizeof info, .held_ms = -1 };
        const char *name = lock->until_ns > now ? belay_env_strip(object->env, lock->key) : NULL;
        if (name == NULL) continue;
        snprintf(info.name, sizeof info.name, "%s", name);
        node_show(lock, now, &info);
        if (belay_op_emit(op, &info) != BELAY_OK) return BELAY_NOMEM;
    }
    return BELAY_OK;
}

/* What the node says, its state changed by it. */
static inline belay_status node_do(struct node_object *object, belay_op *op)
{
    struct node *node = object->node;
    int64_t now = belay_env_now(object->env);
    if (op->verb == BELAY_VERB_ACQUIRE) return node_take(object, op);
    if (op->verb == BELAY_VERB_LIST) return node_list(object, op);
    struct node_lock *lock = node_find(node, op->key.at, now);
    if (op->verb == BELAY_VERB_INSPECT) {
        if (lock != NULL) node_show(lock, now, op->info);
        return BELAY_OK;
    }
    if (op->grant != NULL) /* under a sanitizer: it is still there */
        assert_ptr_equal(belay_container_of(op->grant, struct node_grant, base)->node, node);
    if (lock == NULL || strcmp(lock->owner, op->owner) != 0) return BELAY_LOST;
    if (op->verb != BELAY_VERB_EXTEND) {
        lock->until_ns = 0;
        return BELAY_OK;
    }
    if (lock->until_ns < now + op->ttl_ms * MS) lock->until_ns = now + op->ttl_ms * MS;
    if (node->fence < op->token_floor) node->fence = op->token_floor;
    op->token = lock->token;
    return BELAY_OK;
}

static inline void node_tell(struct node_grant *grant, belay_status status)
{
    grant->told = true;
    if (status == BELAY_UNCERTAIN) belay_grant_forgotten(&grant->base, "told");
    else belay_grant_lost(&grant->base, "told");
}

static inline void node_answer(struct node_object *object, belay_op *op)
{
    struct node *node = object->node;
    belay_status status = node_do(object, op), early = node->early;
    belay_grant *grant = op->verb == BELAY_VERB_ACQUIRE && status == BELAY_OK ? op->grant : NULL;
    belay_op_settle(op, status);
    if (grant == NULL || early == BELAY_OK) return;
    node->early = BELAY_OK;
    node_find(node, op->key.at, belay_env_now(object->env))->until_ns = 0;
    node_tell(belay_container_of(grant, struct node_grant, base), early);
}

static inline void node_arm(struct node_object *object)
{
    int64_t due = INT64_MAX;
    for (int i = 0; i < object->node->open_count; i++) {
        const belay_op *op = object->node->open[i];
        if (op->data == object && op->number < due) due = op->number;
    }
    if (due < INT64_MAX) belay_timer_arm(object->env, &object->timer, due);
}

static inline void node_slow_due(belay_timer *timer)
{
    struct node_object *object = belay_container_of(timer, struct node_object, timer);
    struct node *node = object->node;
    for (int i = 0; i < node->open_count; i++) {
        belay_op *op = node->open[i];
        if (op->data != object || op->number > belay_env_now(object->env)) continue;
        for (int j = i--; j < node->open_count - 1; j++) node->open[j] = node->open[j + 1];
        node->open_count--; /* in order */
        node_answer(object, op);
    }
    node_arm(object);
}

static inline void node_keep(struct node_object *object, belay_op *op, int64_t due_ns)
{
    struct node *node = object->node;
    assert_true(node->open_count < OPEN);
    op->data = object;
    op->number = due_ns;
    node->open[node->open_count++] = op;
    node_arm(object);
}

/* An acquire of that key, not answered: what comes behind it is executed behind it. */
static inline const belay_op *node_before(const struct node_object *object, const belay_op *op)
{
    const struct node *node = object->node;
    for (int i = node->open_count - 1; i >= 0; i--) {
        const belay_op *open = node->open[i];
        if (open->data == object && strcmp(open->key.at, op->key.at) == 0) return open;
    }
    return NULL;
}

static inline void node_verb(belay_backend *base, belay_op *op)
{
    struct node_object *object = node_object_of(base);
    struct node *node = object->node;
    const char *name = belay_env_name(object->env);
    node->count[op->verb]++;
    const belay_op *before = node_before(object, op);
    switch (node->fate[op->verb]) {
    case FATE_DONE:
        if (before == NULL) node_answer(object, op);
        else node_keep(object, op, before->number);
        break;
    case FATE_SLOW: node_keep(object, op, belay_env_now(object->env) + node->slow_ms * MS); break;
    case FATE_SILENT: node_keep(object, op, INT64_MAX); break;
    case FATE_GONE:
        belay_op_fail(op, BELAY_UNAVAILABLE, BELAY_CAUSE_UNREACHABLE, name, "connection refused");
        break;
    case FATE_BUSY: belay_op_fail(op, BELAY_UNAVAILABLE, BELAY_CAUSE_BUSY, name, "busy"); break;
    case FATE_UNHEARD:
        belay_op_fail(op, BELAY_UNCERTAIN, BELAY_CAUSE_UNREACHABLE, name, "the answer was lost");
        break;
    case FATE_FORGOTTEN:
        memset(node->locks, 0, sizeof node->locks);
        belay_op_fail(op, BELAY_LOST, BELAY_CAUSE_FORGOTTEN, name, "it was restarted");
        break;
    }
}

static inline void node_cancel(belay_backend *base, belay_op *op)
{
    struct node_object *object = node_object_of(base);
    struct node *node = object->node;
    if (node->deaf) return;
    for (int i = 0; i < node->open_count; i++)
        if (node->open[i] == op) node->open[i--] = node->open[--node->open_count];
    belay_op_fail(op, op->verb == BELAY_VERB_RELEASE ? BELAY_UNAVAILABLE : BELAY_UNCERTAIN,
                  belay_env_now(object->env) >= op->settle_by_ns ? BELAY_CAUSE_UNREACHABLE
                                                                 : BELAY_CAUSE_CUT_SHORT,
                  belay_env_name(object->env), "no answer in time");
}

static inline void node_drop(belay_backend *base, belay_grant *grant)
{
    struct node_grant *ours = belay_container_of(grant, struct node_grant, base);
    (void)base;
    belay_unlink(&ours->link);
    free(ours);
}

static inline void node_unwait(belay_backend *base, belay_wait *wait)
{
    (void)base;
    belay_unlink(&wait->link);
}

static inline void node_about(const belay_backend *base, belay_about *out)
{
    const struct node *node = node_object_of((belay_backend *)(uintptr_t)base)->node;
    snprintf(out->instance, sizeof out->instance, "%s", node->instance);
    out->started_ns = node->started_ns;
}

static inline belay_status node_create(belay_backend **out, belay_env *env,
                                       const belay_settings *settings, belay_error *err)
{
    struct node_object *object = belay_env_alloc(env, sizeof *object);
    if (object == NULL) return belay_error_set(err, BELAY_NOMEM, NULL, NULL);
    object->env = env;
    object->node = &nodes[belay_settings_integer(settings, "index")];
    belay_timer_init(&object->timer, node_slow_due);
    *out = &object->base;
    return BELAY_OK;
}

static inline void node_destroy(belay_backend *base)
{
    struct node_object *object = node_object_of(base);
    for (int i = 0; i < object->node->open_count; i++)
        assert_ptr_not_equal(object->node->open[i]->data, object); /* every op has settled */
    belay_timer_disarm(object->env, &object->timer);
    belay_env_free(object->env, object);
}

static const belay_setting_spec node_settings[] = {
    { .key = "index", .type = BELAY_SETTING_INTEGER, .max = NODES - 1, .required = true },
    { 0 },
};

static const belay_backend_ops node_ops = {
    BELAY_OPS_HEAD,
    .type = "node",
    .settings = node_settings,
    .scope = BELAY_SCOPE_FLEET,
    .timeout_ms = 500,
    .in_order = true,
    .create = node_create,
    .destroy = node_destroy,
    .acquire = node_verb,
    .release = node_verb,
    .extend = node_verb,
    .cancel = node_cancel,
    .drop = node_drop,
    .unwait = node_unwait,
    .inspect = node_verb,
    .list = node_verb,
    .break_lock = node_verb,
    .about = node_about,
};
static const belay_backend_ops *const node_tables[] = { &node_ops, NULL };

/* ------------------------------------------------------------------ the test's hands */

struct stage {
    belay_fake_world *world;
    belay *clients[CLIENTS];
    int count; /* of nodes */
    int quorum;
    char log[16384];
    int lost, down, back; /* events */
};

static inline void nodes_reset(void)
{
    for (int i = 0; i < NODES; i++) {
        memset(&nodes[i], 0, sizeof nodes[i]);
        nodes[i].slow_ms = 30;
        belay_links_init(&nodes[i].grants);
        belay_links_init(&nodes[i].waits);
        snprintf(nodes[i].instance, sizeof nodes[i].instance, "run-%d", i);
    }
}

static inline void node_set(struct node *node, enum fate fate)
{
    for (int verb = 0; verb < VERBS; verb++) node->fate[verb] = fate;
}

static inline void stage_log(void *arg, belay_level level, const char *line)
{
    struct stage *stage = arg;
    size_t at = strlen(stage->log);
    (void)level;
    snprintf(stage->log + at, sizeof stage->log - at, "%s\n", line);
}

static inline void stage_event(void *arg, const belay_event *event)
{
    struct stage *stage = arg;
    stage->lost += event->kind == BELAY_EVENT_LOCK_LOST;
    stage->down += event->kind == BELAY_EVENT_NODE_DOWN;
    stage->back += event->kind == BELAY_EVENT_NODE_BACK;
}

/* Client `which` of a redlock over the first `count` nodes, with these keys of its own and these of
 * the whole configuration. */
static inline belay_status stage_try_open(struct stage *stage, int which, int count,
                                          const char *keys, const char *top, belay_error *err)
{
    char text[2048], path[] = "/tmp/belay-nodes-XXXXXX";
    belay_open_options options = BELAY_OPEN_OPTIONS_INIT;
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    int used = snprintf(text, sizeof text, "use = \"r\"; prefix = \"t:\"; %s\nbackends: {\n", top);
    for (int i = 0; i < count; i++)
        used += snprintf(text + used, sizeof text - (size_t)used,
                         "  n%d: { type = \"node\"; index = %d; };\n", i, i);
    used +=
        snprintf(text + used, sizeof text - (size_t)used, "  r: { type = \"redlock\"; nodes = (");
    for (int i = 0; i < count; i++)
        used +=
            snprintf(text + used, sizeof text - (size_t)used, "%s \"n%d\"", i > 0 ? "," : "", i);
    used += snprintf(text + used, sizeof text - (size_t)used, " ); %s };\n};\n", keys);
    assert_int_equal(write(fd, text, (size_t)used), used);
    close(fd);
    options.threads = BELAY_DISPATCH;
    options.world = belay_fake_base(stage->world);
    options.backends = node_tables;
    options.on_log = stage_log;
    options.on_event = stage_event;
    options.log_level = BELAY_LOG_DEBUG;
    options.arg = stage;
    belay_status status = belay_open(&stage->clients[which], path, &options, err);
    unlink(path);
    stage->count = count;
    stage->quorum = count / 2 + 1;
    return status;
}

static inline belay *stage_open(struct stage *stage, int which, int count, const char *keys,
                                const char *top)
{
    belay_error err = BELAY_ERROR_INIT;
    if (stage_try_open(stage, which, count, keys, top, &err) != BELAY_OK)
        fail_msg("open: %s", err.text);
    return stage->clients[which];
}

static inline void stage_close(struct stage *stage)
{
    for (int i = 0; i < CLIENTS; i++) {
        if (stage->clients[i] != NULL) belay_close(stage->clients[i]);
        stage->clients[i] = NULL;
    }
    for (int i = 0; i < NODES; i++) assert_true(belay_links_empty(&nodes[i].waits));
}

static inline int stage_setup(void **state)
{
    struct stage *stage = calloc(1, sizeof *stage);
    nodes_reset();
    stage->world = belay_fake_create(11);
    *state = stage;
    return stage->world != NULL ? 0 : -1;
}

static inline int stage_teardown(void **state)
{
    struct stage *stage = *state;
    int grants = 0;
    stage_close(stage);
    for (int i = 0; i < NODES; i++) grants += !belay_links_empty(&nodes[i].grants);
    belay_fake_destroy(stage->world);
    free(stage);
    return grants;
}

static inline void dispatch(struct stage *stage)
{
    for (int i = 0; i < CLIENTS; i++)
        if (stage->clients[i] != NULL)
            assert_int_equal(belay_dispatch(stage->clients[i]), BELAY_OK);
}

/* Time passes at once. */
static inline void jump(struct stage *stage, int64_t ms)
{
    belay_fake_advance(stage->world, ms * MS);
    dispatch(stage);
}

/* Time passes, in steps of 5 ms. */
static inline void pass(struct stage *stage, int64_t ms)
{
    for (; ms > 0; ms -= ms < 5 ? ms : 5) {
        belay_fake_advance(stage->world, (ms < 5 ? ms : 5) * MS);
        dispatch(stage);
    }
}

static inline int64_t now_of(struct stage *stage)
{
    return belay_fake_now(stage->world);
}

/* Settles what `client` has open at the node: by what the node says, or as cut off. */
static inline void node_settle(belay *client, struct node *node, bool done)
{
    belay__loop_enter(&client->loop);
    for (int i = 0; i < node->open_count; i++) {
        belay_op *op = node->open[i];
        struct node_object *object = op->data;
        if (object->env->client != client) continue;
        for (int j = i--; j < node->open_count - 1; j++) node->open[j] = node->open[j + 1];
        node->open_count--;
        if (done) node_answer(object, op);
        else belay_op_fail(op, BELAY_UNAVAILABLE, BELAY_CAUSE_UNREACHABLE, "node", "cut");
    }
    belay__loop_leave(&client->loop);
}

/* The node loses every lock: to nobody (forgotten), or so it says (lost). Its grants are told. */
static inline void node_lose(belay *client, struct node *node, belay_status status)
{
    belay__loop_enter(&client->loop);
    memset(node->locks, 0, sizeof node->locks);
    for (belay_link *at = node->grants.next, *next; at != &node->grants; at = next) {
        struct node_grant *grant = belay_container_of(at, struct node_grant, link);
        next = at->next;
        node_tell(grant, status);
    }
    belay__loop_leave(&client->loop);
}

/* A new run of it, which knows nothing. Its clients learn of it when they ask. */
static inline void node_restart(struct stage *stage, struct node *node)
{
    static int runs;
    memset(node->locks, 0, sizeof node->locks);
    node->fence = 0;
    node->started_ns = now_of(stage);
    snprintf(node->instance, sizeof node->instance, "again-%d", ++runs);
}

/* At how many nodes is the lock, with that owner (NULL: any)? */
static inline int nodes_with(struct stage *stage, const char *key, const char *owner)
{
    int n = 0;
    for (int i = 0; i < NODES; i++) {
        const struct node_lock *lock = node_find(&nodes[i], key, now_of(stage));
        n += lock != NULL && (owner == NULL || strcmp(lock->owner, owner) == 0);
    }
    return n;
}

static inline int nodes_total(struct stage *stage)
{
    int n = 0;
    for (int i = 0; i < NODES; i++)
        for (int j = 0; j < LOCKS; j++) n += nodes[i].locks[j].until_ns > now_of(stage);
    return n;
}

static inline int nodes_open(void)
{
    int n = 0;
    for (int i = 0; i < NODES; i++) n += nodes[i].open_count;
    return n;
}

static inline int nodes_count(belay_verb verb)
{
    int n = 0;
    for (int i = 0; i < NODES; i++) n += nodes[i].count[verb];
    return n;
}

struct answer {
    int count;
    belay_status status;
    belay_lock *lock;
    char text[272];
};

static inline void answered(void *arg, belay_status status, belay_lock *lock,
                            const belay_error *err)
{
    struct answer *answer = arg;
    answer->count++;
    answer->status = status;
    answer->lock = lock;
    snprintf(answer->text, sizeof answer->text, "%s", err->text);
}

static inline belay_options options_of(uint32_t ttl_ms, int64_t wait_ms, belay_keep keep)
{
    belay_options options = BELAY_OPTIONS_INIT;
    options.ttl_ms = ttl_ms;
    options.wait_ms = wait_ms;
    options.keep = keep;
    return options;
}

/* One attempt; the clock moves by itself while it is not answered. */
static inline belay_status try_for(belay *client, const char *name, uint32_t ttl_ms,
                                   belay_lock **out)
{
    belay_options options = options_of(ttl_ms, BELAY_TRY, BELAY_KEEP_OFF);
    *out = NULL;
    return belay_acquire(client, name, &options, out, NULL);
}

static inline belay_lock *must_take(belay *client, const char *name, uint32_t ttl_ms,
                                    belay_keep keep)
{
    belay_options options = options_of(ttl_ms, BELAY_TRY, keep);
    belay_lock *lock = NULL;
    belay_error err = BELAY_ERROR_INIT;
    if (belay_acquire(client, name, &options, &lock, &err) != BELAY_OK) fail_msg("%s", err.text);
    return lock;
}

static inline struct answer *begin(belay *client, const char *name, uint32_t ttl_ms,
                                   int64_t wait_ms, struct answer *answer)
{
    belay_options options = options_of(ttl_ms, wait_ms, BELAY_KEEP_OFF);
    *answer = (struct answer){ 0 };
    assert_int_equal(belay_acquire_start(client, name, &options, answered, answer, NULL, NULL),
                     BELAY_OK);
    assert_int_equal(belay_dispatch(client), BELAY_OK);
    return answer;
}

static inline bool is_refusal(belay_status status)
{
    return status == BELAY_HELD || status == BELAY_UNAVAILABLE || status == BELAY_UNCERTAIN;
}

#define assert_status(got, wanted)                                                                 \
    assert_string_equal(belay_status_name(got), belay_status_name(wanted))

#endif
