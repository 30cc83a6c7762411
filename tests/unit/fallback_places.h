/* fallback_places.h - a fallback over two places that do what a test tells them, answer for answer.
 *
 * A place is a handful of locks with owners and ends. Each verb has a fate of its own: done at
 * once, kept until the test settles it, or failed in one of the ways that places fail. */
#ifndef BELAY_TESTS_UNIT_FALLBACK_PLACES_H
#define BELAY_TESTS_UNIT_FALLBACK_PLACES_H

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
    FATE_DONE,      /* what the place can do is done, at once */
    FATE_KEPT,      /* the test settles it; when it is canceled, its time was up */
    FATE_GONE,      /* not reached */
    FATE_BUSY,      /* reached, and can't now */
    FATE_CUT_SHORT, /* its caller's time was up */
    FATE_UNHEARD,   /* done, and the answer lost */
    FATE_FORGOTTEN  /* the place does not know the lock any more */
};

enum { PLACES = 2, LOCKS = 8, KEPT = 16, VERBS = BELAY_VERB_HEALTH + 1, TIMEOUT_MS = 500 };

struct place_lock {
    char key[64], owner[BELAY_OWNER_LENGTH + 1];
    int64_t until_ns;
    uint64_t token;
};

struct place_grant {
    belay_grant base;
    belay_link link;
};

/* One for all objects of its type. */
struct place {
    struct place_lock locks[LOCKS];
    uint64_t last_token;
    enum fate fate[VERBS];
    int count[VERBS];
    belay_op *kept[KEPT];
    int kept_count;
    belay_link grants;
    belay_status early; /* of the next grant: told right behind it; OK: nothing is */
};

static struct place places[PLACES], *const prime = &places[0], *const row = &places[1];

struct place_object {
    belay_backend base;
    belay_env *env;
    struct place *place;
};

static inline struct place_object *place_object_of(belay_backend *base)
{
    return belay_container_of(base, struct place_object, base);
}

static inline struct place_lock *place_find(struct place *place, const char *key, int64_t now)
{
    for (struct place_lock *lock = place->locks; lock < place->locks + LOCKS; lock++)
        if (lock->until_ns > now && strcmp(lock->key, key) == 0) return lock;
    return NULL;
}

static inline struct place_lock *place_put(struct place *place, const char *key, const char *owner,
                                           int64_t now, int64_t until_ns)
{
    struct place_lock *lock = place->locks;
    while (lock->until_ns > now) lock++;
    assert_true(lock < place->locks + LOCKS);
    snprintf(lock->key, sizeof lock->key, "%s", key);
    snprintf(lock->owner, sizeof lock->owner, "%s", owner);
    lock->until_ns = until_ns;
    return lock;
}

static inline void place_grant_new(struct place *place, belay_op *op)
{
    struct place_grant *grant = calloc(1, sizeof *grant);
    assert_non_null(grant);
    belay_link_append(&place->grants, &grant->link);
    op->grant = &grant->base;
}

static inline void place_grant_tell(belay_grant *grant, belay_status status, const char *why)
{
    if (status == BELAY_UNCERTAIN) belay_grant_forgotten(grant, why);
    else belay_grant_lost(grant, why);
}

static inline belay_status place_take(struct place_object *object, belay_op *op)
{
    struct place *place = object->place;
    int64_t now = belay_env_now(object->env);
    struct place_lock *lock = place_find(place, op->key.at, now);
    if (lock != NULL) {
        op->held_for_ns = lock->until_ns - now;
        return BELAY_HELD;
    }
    lock = place_put(place, op->key.at, op->owner, now, op->sent_ns + op->ttl_ms * MS);
    uint64_t token = belay_env_proposal(object->env);
    if (token <= place->last_token) token = place->last_token + 1;
    if (token <= op->token_floor) token = op->token_floor + 1;
    op->token = lock->token = place->last_token = token;
    return BELAY_OK;
}

/* What the place says, its state changed by it. */
static inline belay_status place_do(struct place_object *object, belay_op *op)
{
    struct place *place = object->place;
    int64_t now = belay_env_now(object->env), until = op->sent_ns + op->ttl_ms * MS;
    if (op->verb == BELAY_VERB_ACQUIRE) return place_take(object, op);
    struct place_lock *lock = place_find(place, op->key.at, now);
    if (op->verb == BELAY_VERB_INSPECT) {
        if (lock == NULL) return BELAY_OK;
        op->info->held = true;
        op->info->scope = object->base.ops->scope;
        op->info->token = lock->token;
        op->info->remaining_ms = (lock->until_ns - now) / MS;
        memcpy(op->info->owner, lock->owner, strlen(lock->owner) + 1);
        return BELAY_OK;
    }
    if (op->verb == BELAY_VERB_LIST) return BELAY_OK;
    if (lock == NULL || strcmp(lock->owner, op->owner) != 0) return BELAY_LOST;
    if (op->verb != BELAY_VERB_EXTEND) {
        lock->until_ns = 0;
        return BELAY_OK;
    }
    if (op->grant != NULL)
        assert_false(op->grant->early); /* under a sanitizer: it is still there */
    if (lock->until_ns < until) lock->until_ns = until;
    if (place->last_token < op->token_floor) place->last_token = op->token_floor;
    op->token = lock->token;
    return BELAY_OK;
}

static inline void place_answer(struct place_object *object, belay_op *op)
{
    struct place *place = object->place;
    belay_status status = place_do(object, op), early = place->early;
    if (op->verb == BELAY_VERB_ACQUIRE && status == BELAY_OK) place_grant_new(place, op);
    belay_grant *grant = op->verb == BELAY_VERB_ACQUIRE ? op->grant : NULL;
    belay_op_settle(op, status);
    if (grant == NULL || early == BELAY_OK) return;
    place->early = BELAY_OK;
    place_find(place, op->key.at, belay_env_now(object->env))->until_ns = 0;
    place_grant_tell(grant, early, "told early");
}

static inline void place_verb(belay_backend *base, belay_op *op)
{
    struct place_object *object = place_object_of(base);
    struct place *place = object->place;
    const char *name = belay_env_name(object->env);
    place->count[op->verb]++;
    switch (place->fate[op->verb]) {
    case FATE_DONE: place_answer(object, op); break;
    case FATE_KEPT:
        assert_true(place->kept_count < KEPT);
        op->data = object;
        op->number = belay_env_now(object->env);
        place->kept[place->kept_count++] = op;
        break;
    case FATE_GONE:
        belay_op_fail(op, BELAY_UNAVAILABLE, BELAY_CAUSE_UNREACHABLE, name, "connection refused");
        break;
    case FATE_BUSY: belay_op_fail(op, BELAY_UNAVAILABLE, BELAY_CAUSE_BUSY, name, "busy"); break;
    case FATE_CUT_SHORT:
        belay_op_fail(op, BELAY_UNAVAILABLE, BELAY_CAUSE_CUT_SHORT, name, "no time");
        break;
    case FATE_UNHEARD:
        (void)place_do(object, op);
        belay_op_fail(op, BELAY_UNCERTAIN, BELAY_CAUSE_UNREACHABLE, name, "the answer was lost");
        break;
    case FATE_FORGOTTEN:
        belay_op_fail(op, BELAY_LOST, BELAY_CAUSE_FORGOTTEN, name, "it was restarted");
        break;
    }
}

static inline void place_cancel(belay_backend *base, belay_op *op)
{
    struct place_object *object = place_object_of(base);
    struct place *place = object->place;
    for (int i = 0; i < place->kept_count; i++)
        if (place->kept[i] == op) place->kept[i--] = place->kept[--place->kept_count];
    bool full = belay_env_now(object->env) >= op->number + belay_env_timeout_ns(object->env);
    belay_op_fail(op, op->verb == BELAY_VERB_RELEASE ? BELAY_UNAVAILABLE : BELAY_UNCERTAIN,
                  full ? BELAY_CAUSE_UNREACHABLE : BELAY_CAUSE_CUT_SHORT,
                  belay_env_name(object->env), "no answer in time");
}

static inline void place_drop(belay_backend *base, belay_grant *grant)
{
    struct place_grant *ours = belay_container_of(grant, struct place_grant, base);
    (void)base;
    belay_unlink(&ours->link);
    free(ours);
}

static inline belay_status place_new(belay_backend **out, belay_env *env, struct place *place,
                                     belay_error *err)
{
    struct place_object *object = belay_env_alloc(env, sizeof *object);
    if (object == NULL) return belay_error_set(err, BELAY_NOMEM, NULL, NULL);
    object->env = env;
    object->place = place;
    *out = &object->base;
    return BELAY_OK;
}

static inline belay_status prime_create(belay_backend **out, belay_env *env,
                                        const belay_settings *settings, belay_error *err)
{
    (void)settings;
    return place_new(out, env, prime, err);
}

static inline belay_status row_create(belay_backend **out, belay_env *env,
                                      const belay_settings *settings, belay_error *err)
{
    (void)settings;
    return place_new(out, env, row, err);
}

static inline void place_destroy(belay_backend *base)
{
    belay_env_free(place_object_of(base)->env, place_object_of(base));
}

#define PLACE_OPS                                                                                  \
    BELAY_OPS_HEAD, .timeout_ms = TIMEOUT_MS, .in_order = true, .destroy = place_destroy,          \
                    .acquire = place_verb, .release = place_verb, .extend = place_verb,            \
                    .cancel = place_cancel, .drop = place_drop, .inspect = place_verb,             \
                    .list = place_verb, .break_lock = place_verb

static const belay_backend_ops prime_ops = { PLACE_OPS, .type = "prime", .scope = BELAY_SCOPE_FLEET,
                                             .create = prime_create };
static const belay_backend_ops row_ops = { PLACE_OPS, .type = "row", .scope = BELAY_SCOPE_HOST,
                                           .create = row_create };
static const belay_backend_ops *const place_tables[] = { &prime_ops, &row_ops, NULL };

/* ------------------------------------------------------------------ the test's hands */

static inline void place_set(struct place *place, enum fate fate)
{
    for (int verb = 0; verb < VERBS; verb++) place->fate[verb] = fate;
}

/* Of `client`: settles everything that is kept, by what the place says, or as not reached. */
static inline void place_settle(belay *client, struct place *place, bool done)
{
    belay__loop_enter(&client->loop);
    while (place->kept_count > 0) {
        belay_op *op = place->kept[--place->kept_count];
        if (done) place_answer(op->data, op);
        else belay_op_fail(op, BELAY_UNAVAILABLE, BELAY_CAUSE_UNREACHABLE, "place", "cut");
    }
    belay__loop_leave(&client->loop);
}

/* Forgets all its locks, and tells every grant so. */
static inline void place_tell(belay *client, struct place *place, belay_status status)
{
    belay__loop_enter(&client->loop);
    for (struct place_lock *lock = place->locks; lock < place->locks + LOCKS; lock++)
        lock->until_ns = 0;
    for (belay_link *at = place->grants.next; at != &place->grants; at = at->next)
        place_grant_tell(&belay_container_of(at, struct place_grant, link)->base, status, "told");
    belay__loop_leave(&client->loop);
}

static inline void places_reset(void)
{
    for (struct place *place = places; place < places + PLACES; place++) {
        memset(place, 0, sizeof *place);
        belay_links_init(&place->grants);
    }
}

#endif
