/* memory.c - locks in this process: the reference. Read it first.
 *
 * A place is a hash table of the locks that are held. A client has a place of its own, or shares
 * one by its `name` with the other clients of the process; shared places stand in one static table,
 * under its mutex.
 *
 * Every verb settles before it returns, so there is nothing to cancel. A lock whose time has run
 * out is free: it is found so by whoever comes next. A refused waiter of another client is woken by
 * a poke when a lock is let go; a waiter of the same client is core's own business. */
#include <belay/backend.h>
#include <pthread.h>
#include <string.h>

struct held {
    struct held *next; /* in its bucket */
    int64_t until_ns;
    int64_t since_ns;
    uint64_t token;
    char *label; /* NULL: none */
    uint32_t hash;
    uint32_t length;
    char owner[BELAY_OWNER_LENGTH + 1];
    char key[];
};

struct place {
    belay_link all;     /* in `places`, if it has a name */
    belay_link members; /* the backends that share it */
    struct held **buckets;
    size_t bucket_count, count;
    uint64_t last_token;
    bool shared;
    int refs;
    char name[];
};

struct memory {
    belay_backend base;
    struct place *place;
    belay_env *env;
    belay_link member;
    belay_link waits; /* refused waiters of this client; they matter when the place is shared */
    belay_poke poke;
};

static pthread_mutex_t places_mutex = PTHREAD_MUTEX_INITIALIZER;
static belay_link places = { &places, &places };

static void place_lock(struct place *place)
{
    if (place->shared) pthread_mutex_lock(&places_mutex);
}

static void place_unlock(struct place *place)
{
    if (place->shared) pthread_mutex_unlock(&places_mutex);
}

/* ------------------------------------------------------------------ the table of what is held */

static uint32_t hash_of(belay_str key)
{
    uint32_t hash = 2166136261u; /* FNV-1a */
    for (size_t i = 0; i < key.length; i++) hash = (hash ^ (unsigned char)key.at[i]) * 16777619u;
    return hash;
}

static struct held **find(struct place *place, belay_str key, uint32_t hash)
{
    struct held **at = &place->buckets[hash & (place->bucket_count - 1)];
    while (*at != NULL && ((*at)->hash != hash || (*at)->length != key.length ||
                           memcmp((*at)->key, key.at, key.length) != 0))
        at = &(*at)->next;
    return at;
}

/* Without memory the table stays as it is: slower, as right. */
static void grow(struct memory *m)
{
    struct place *place = m->place;
    size_t count = place->bucket_count * 2;
    struct held **buckets = belay_env_alloc(m->env, count * sizeof *buckets);
    if (buckets == NULL) return;
    for (size_t i = 0; i < place->bucket_count; i++) {
        for (struct held *held = place->buckets[i], *next; held != NULL; held = next) {
            next = held->next;
            held->next = buckets[held->hash & (count - 1)];
            buckets[held->hash & (count - 1)] = held;
        }
    }
    belay_env_free(m->env, place->buckets);
    place->buckets = buckets;
    place->bucket_count = count;
}

static void held_free(struct memory *m, struct held **at)
{
    struct held *held = *at;
    *at = held->next;
    m->place->count--;
    belay_env_free(m->env, held->label);
    belay_env_free(m->env, held);
}

static struct held *held_new(struct memory *m, const belay_op *op, uint32_t hash)
{
    struct held *held = belay_env_alloc(m->env, sizeof *held + op->key.length + 1);
    size_t label = strlen(op->label);
    if (held == NULL || label == 0) goto out;
    held->label = belay_env_alloc(m->env, label + 1);
    if (held->label == NULL) {
        belay_env_free(m->env, held);
        return NULL;
    }
    memcpy(held->label, op->label, label);
out:
    if (held == NULL) return NULL;
    held->hash = hash;
    held->length = (uint32_t)op->key.length;
    memcpy(held->key, op->key.at, op->key.length);
    return held;
}

/* ------------------------------------------------------------------ waking others */

/* Something was let go: the other clients of the place may try again. Called with the place locked.
 */
static void wake_others(struct memory *m)
{
    if (!m->place->shared) return;
    for (belay_link *link = m->place->members.next; link != &m->place->members; link = link->next) {
        struct memory *other = belay_container_of(link, struct memory, member);
        if (other != m) belay_poke_raise(&other->poke);
    }
}

static void poked(belay_poke *poke)
{
    struct memory *m = belay_container_of(poke, struct memory, poke);
    for (belay_link *link = m->waits.next, *next; link != &m->waits; link = next) {
        next = link->next;
        belay_wait_wake(belay_container_of(link, belay_wait, link));
    }
}

static void memory_unwait(belay_backend *base, belay_wait *wait)
{
    (void)base;
    belay_unlink(&wait->link);
}

/* ------------------------------------------------------------------ the verbs */

static void memory_acquire(belay_backend *base, belay_op *op)
{
    struct memory *m = belay_container_of(base, struct memory, base);
    struct place *place = m->place;
    uint32_t hash = hash_of(op->key);
    int64_t now = op->sent_ns;
    place_lock(place);
    struct held **at = find(place, op->key, hash);
    if (*at != NULL && (*at)->until_ns > now) {
        op->held_for_ns = (*at)->until_ns - now;
        if (op->wait != NULL && !belay_linked(&op->wait->link))
            belay_link_append(&m->waits, &op->wait->link);
        place_unlock(place);
        belay_op_settle(op, BELAY_HELD);
        return;
    }
    struct held *held = held_new(m, op, hash);
    if (held == NULL) {
        place_unlock(place);
        belay_op_settle(op, BELAY_NOMEM);
        return;
    }
    if (*at != NULL) held_free(m, at);
    if (belay_env_fencing(m->env)) {
        uint64_t proposal = belay_env_proposal(m->env);
        if (proposal <= place->last_token) proposal = place->last_token + 1;
        if (proposal <= op->token_floor) proposal = op->token_floor + 1;
        op->token = held->token = place->last_token = proposal;
    }
    held->until_ns = now + (int64_t)op->ttl_ms * 1000000;
    held->since_ns = now;
    memcpy(held->owner, op->owner, sizeof held->owner);
    at = &place->buckets[hash & (place->bucket_count - 1)];
    held->next = *at;
    *at = held;
    if (++place->count > place->bucket_count) grow(m);
    place_unlock(place);
    belay_op_settle(op, BELAY_OK);
}

/* The lock of op->key if op->owner holds it now, or NULL. */
static struct held **find_own(struct memory *m, const belay_op *op)
{
    struct held **at = find(m->place, op->key, hash_of(op->key));
    if (*at == NULL || (*at)->until_ns <= op->sent_ns || strcmp((*at)->owner, op->owner) != 0)
        return NULL;
    return at;
}

static void memory_release(belay_backend *base, belay_op *op)
{
    struct memory *m = belay_container_of(base, struct memory, base);
    place_lock(m->place);
    struct held **at = find_own(m, op);
    if (at != NULL) {
        held_free(m, at);
        wake_others(m);
    }
    place_unlock(m->place);
    belay_op_settle(op, at != NULL ? BELAY_OK : BELAY_LOST);
}

/* Later tokens are larger than the floor, and the lock shows it as its own. */
static void raise_tokens(struct place *place, struct held *held, const belay_op *op)
{
    if (place->last_token < op->token_floor) place->last_token = op->token_floor;
    if (held->token < op->token_floor) held->token = op->token_floor;
}

static void memory_extend(belay_backend *base, belay_op *op)
{
    struct memory *m = belay_container_of(base, struct memory, base);
    place_lock(m->place);
    struct held **at = find_own(m, op);
    if (at != NULL) {
        int64_t until = op->sent_ns + (int64_t)op->ttl_ms * 1000000;
        if ((*at)->until_ns < until) (*at)->until_ns = until; /* lengthens, never shortens */
        if (op->token_floor != 0 && belay_env_fencing(m->env)) raise_tokens(m->place, *at, op);
        op->token = (*at)->token;
    }
    place_unlock(m->place);
    belay_op_settle(op, at != NULL ? BELAY_OK : BELAY_LOST);
}

/* ------------------------------------------------------------------ looking */

static void describe(const struct held *held, int64_t now, const char *name, belay_info *info)
{
    info->held = true;
    info->scope = BELAY_SCOPE_PROCESS;
    info->token = held->token;
    info->remaining_ms = (held->until_ns - now) / 1000000;
    info->held_ms = (now - held->since_ns) / 1000000;
    memcpy(info->owner, held->owner, sizeof held->owner);
    if (held->label != NULL) memcpy(info->label, held->label, strlen(held->label) + 1);
    memcpy(info->name, name, strlen(name) + 1);
}

static void memory_inspect(belay_backend *base, belay_op *op)
{
    struct memory *m = belay_container_of(base, struct memory, base);
    place_lock(m->place);
    const struct held *held = *find(m->place, op->key, hash_of(op->key));
    if (held != NULL && held->until_ns > op->sent_ns)
        describe(held, op->sent_ns, op->name.at, op->info);
    place_unlock(m->place);
    belay_op_settle(op, BELAY_OK);
}

static void memory_list(belay_backend *base, belay_op *op)
{
    struct memory *m = belay_container_of(base, struct memory, base);
    belay_status status = BELAY_OK;
    place_lock(m->place);
    for (size_t i = 0; i < m->place->bucket_count && status == BELAY_OK; i++) {
        for (const struct held *held = m->place->buckets[i]; held != NULL && status == BELAY_OK;
             held = held->next) {
            const char *name = belay_env_strip(m->env, held->key);
            if (held->until_ns <= op->sent_ns || name == NULL) continue;
            belay_info info = { .size = sizeof info };
            describe(held, op->sent_ns, name, &info);
            status = belay_op_emit(op, &info);
        }
    }
    place_unlock(m->place);
    belay_op_settle(op, status);
}

/* ------------------------------------------------------------------ the object */

static void place_leave(struct memory *m)
{
    struct place *place = m->place;
    belay_unlink(&m->member);
    if (--place->refs > 0) return;
    belay_unlink(&place->all);
    for (size_t i = 0; i < place->bucket_count; i++)
        while (place->buckets[i] != NULL) held_free(m, &place->buckets[i]);
    belay_env_free(m->env, place->buckets);
    belay_env_free(m->env, place);
}

static struct place *place_new(belay_env *env, const char *name)
{
    struct place *place = belay_env_alloc(env, sizeof *place + strlen(name) + 1);
    if (place == NULL) return NULL;
    place->bucket_count = 16;
    place->buckets = belay_env_alloc(env, place->bucket_count * sizeof *place->buckets);
    if (place->buckets == NULL) {
        belay_env_free(env, place);
        return NULL;
    }
    memcpy(place->name, name, strlen(name));
    place->shared = name[0] != '\0';
    belay_links_init(&place->members);
    if (place->shared) belay_link_append(&places, &place->all);
    return place;
}

/* The place of that name, or a new one. Called with the mutex held. */
static struct place *place_find(belay_env *env, const char *name)
{
    for (belay_link *link = places.next; name[0] != '\0' && link != &places; link = link->next) {
        struct place *place = belay_container_of(link, struct place, all);
        if (strcmp(place->name, name) == 0) return place;
    }
    return place_new(env, name);
}

static belay_status memory_create(belay_backend **out, belay_env *env,
                                  const belay_settings *settings, belay_error *err)
{
    const char *name = belay_settings_string(settings, "name");
    struct memory *m = belay_env_alloc(env, sizeof *m);
    if (m == NULL) return belay_error_set(err, BELAY_NOMEM, NULL, NULL);
    m->env = env;
    belay_links_init(&m->waits);
    pthread_mutex_lock(&places_mutex);
    m->place = place_find(env, name != NULL ? name : "");
    if (m->place != NULL) {
        m->place->refs++;
        belay_link_append(&m->place->members, &m->member);
        belay_poke_init(env, &m->poke, poked);
    }
    pthread_mutex_unlock(&places_mutex);
    if (m->place == NULL) {
        belay_env_free(env, m);
        return belay_error_set(err, BELAY_NOMEM, NULL, NULL);
    }
    *out = &m->base;
    return BELAY_OK;
}

static void memory_destroy(belay_backend *base)
{
    struct memory *m = belay_container_of(base, struct memory, base);
    pthread_mutex_lock(&places_mutex);
    place_leave(m);
    belay_poke_fini(&m->poke);
    pthread_mutex_unlock(&places_mutex);
    belay_env_free(m->env, m);
}

static const belay_setting_spec memory_settings[] = {
    { .key = "name",
      .type = BELAY_SETTING_STRING,
      .help = "clients of this process that give the same name share their locks; none: this "
              "client alone" },
    { 0 },
};

static const char *const memory_schemes[] = { "memory", NULL };

extern const belay_backend_ops belay__memory_ops;
const belay_backend_ops belay__memory_ops = {
    BELAY_OPS_HEAD,
    .type = "memory",
    .url_schemes = memory_schemes,
    .url_key = "name",
    .settings = memory_settings,
    .scope = BELAY_SCOPE_PROCESS,
    .in_order = true,
    .create = memory_create,
    .destroy = memory_destroy,
    .acquire = memory_acquire,
    .release = memory_release,
    .extend = memory_extend,
    .unwait = memory_unwait,
    .inspect = memory_inspect,
    .list = memory_list,
    .break_lock = memory_release,
};
