/* lock.c - a held lock: what its holder may believe, and how it ends.
 *
 * The deadline is the truth: `deadline_ns` is read without the monitor by belay_lock_valid, and set
 * to INT64_MIN by every kind of end. A loss is final: a later OK revives nothing. */
#include "core/client.h"

#include <stdio.h>

belay_lock *belay__lock_new(belay *client, const char *name, size_t name_length)
{
    size_t key_length = client->prefix_length + name_length;
    belay_lock *lock = belay__alloc(client->loop.world, offsetof(belay_lock, key) + key_length + 1);
    if (lock == NULL) return NULL;
    memcpy(lock->key, client->config->prefix, client->prefix_length);
    memcpy(lock->key + client->prefix_length, name, name_length);
    lock->prefix_length = (uint16_t)client->prefix_length;
    lock->key_length = (uint16_t)key_length;
    lock->client = client;
    lock->refs = 1;
    lock->next_ns = INT64_MAX;
    lock->call.about = lock;
    belay__client_ref(client);
    return lock;
}

void belay__lock_unref(belay_lock *lock)
{
    if (--lock->refs != 0) return;
    belay *client = lock->client;
    belay_unlink(&lock->all);
    if (lock->grant != NULL && client->root->ops->drop != NULL)
        client->root->ops->drop(client->root, lock->grant);
    belay__free(lock->why);
    belay__free(lock);
    /* The client is open, or being closed: it counts one for itself. */
    atomic_fetch_sub_explicit(&client->refs, 1, memory_order_relaxed);
}

/* ------------------------------------------------------------------ loss, and what is told */

static void lock_call(struct belay__call *call)
{
    belay_lock *lock = belay_container_of(call, belay_lock, call);
    struct belay__loop *loop = &lock->client->loop;
    belay_error why = BELAY_ERROR_INIT;
    belay__loop_enter(loop);
    bool scope_due = lock->scope_due, lost_due = !scope_due && lock->lost_due;
    if (scope_due) lock->scope_due = false;
    else lock->lost_due = false;
    if (lock->lost_due) belay__call_queue(loop, &lock->call); /* one at a time, in order */
    if (lost_due)
        belay_error_set(&why, BELAY_LOST, NULL, "%s",
                        lock->why != NULL ? lock->why : belay_status_text(BELAY_LOST));
    belay_lost_fn *on_lost = lock->on_lost;
    belay_scope_fn *on_scope = lock->on_scope;
    void *arg = lock->arg;
    belay_scope scope = (belay_scope)atomic_load(&lock->scope);
    belay__loop_leave(loop);
    /* The callback may release the lock: it is not touched afterwards. */
    if (scope_due) on_scope(arg, lock, scope);
    else if (lost_due) on_lost(arg, lock, &why);
}

static void tell(belay_lock *lock)
{
    lock->call.run = lock_call;
    belay__call_queue(&lock->client->loop, &lock->call);
}

void belay__lock_lose(belay_lock *lock, bool definite, const char *why)
{
    if (definite) lock->definite = true;
    if (lock->lost) return;
    belay *client = lock->client;
    lock->lost = true;
    atomic_store_explicit(&lock->deadline_ns, INT64_MIN, memory_order_release);
    belay__keeper_stop(lock);
    if (lock->freed) return;
    lock->why = belay__strdup(client->loop.world, why);
    char name[80];
    belay__log_limited(client, BELAY__LOG_LOST, BELAY_LOG_WARN, "%s: lost: %s",
                       belay__printable(belay__lock_name(lock), name, sizeof name), why);
    belay__event(client, BELAY_EVENT_LOCK_LOST, belay__lock_name(lock),
                 (belay_scope)atomic_load(&lock->scope), belay__loop_now(&client->loop), why);
    if (lock->on_lost != NULL) {
        lock->lost_due = true;
        tell(lock);
    }
    belay__acquire_released(client, lock->key, lock->key_length);
}

/* Its holder asked for more than it has now. */
static void lose_for_scope(belay_lock *lock, belay_scope scope, const char *why)
{
    char text[320];
    snprintf(text, sizeof text, "it reaches this %s alone now, and its holder asked for the %s%s%s",
             belay_scope_name(scope), belay_scope_name((belay_scope)lock->at_least),
             why[0] != '\0' ? ": " : "", why);
    belay__lock_lose(lock, false, text);
}

static void set_scope(belay_lock *lock, belay_scope scope, const char *why)
{
    belay *client = lock->client;
    belay_scope before = (belay_scope)atomic_exchange(&lock->scope, (uint8_t)scope);
    if (before == scope || lock->lost || lock->freed) return;
    if (scope < (belay_scope)lock->at_least) {
        lose_for_scope(lock, scope, why);
        return;
    }
    bool demoted = scope < before;
    char name[80];
    belay__printable(belay__lock_name(lock), name, sizeof name);
    if (demoted)
        belay__log_limited(client, BELAY__LOG_DEMOTED, BELAY_LOG_WARN,
                           "%s: demoted, it reaches this %s alone: %s", name,
                           belay_scope_name(scope), why);
    else
        belay__log_limited(client, BELAY__LOG_PROMOTED, BELAY_LOG_INFO,
                           "%s: promoted, it reaches the %s: %s", name, belay_scope_name(scope),
                           why);
    belay__event(client, demoted ? BELAY_EVENT_LOCK_DEMOTED : BELAY_EVENT_LOCK_PROMOTED,
                 belay__lock_name(lock), scope, belay__loop_now(&client->loop), why);
    if (lock->on_scope == NULL) return;
    lock->scope_due = true;
    tell(lock);
}

/* The backend tells of a grant what it learned by itself. */
static void grant_told(belay_grant *grant, belay_status status, belay_scope scope,
                       int64_t deadline_ns, const char *why)
{
    belay_lock *lock = grant->holder;
    if (status != BELAY_OK) {
        belay__lock_lose(lock, true, why);
        return;
    }
    if (lock->lost) return;
    int64_t old = atomic_load_explicit(&lock->deadline_ns, memory_order_relaxed);
    /* Nobody may have watched it: this is where it shows. */
    if (belay__loop_now(&lock->client->loop) >= old) {
        belay__lock_lose(lock, false, "its TTL ran out");
        return;
    }
    atomic_store_explicit(&lock->deadline_ns, deadline_ns, memory_order_release);
    set_scope(lock, scope, why);
    if (!lock->lost) belay__keeper_arm(lock);
}

void belay__lock_begin(belay_lock *lock, belay_op *op)
{
    belay *client = lock->client;
    lock->grant = op->grant;
    op->grant = NULL;
    lock->token = op->token;
    atomic_store_explicit(&lock->scope, (uint8_t)op->scope, memory_order_relaxed);
    int64_t deadline = belay__deadline(op->sent_ns, lock->ttl_ms);
    atomic_store_explicit(&lock->deadline_ns, deadline, memory_order_release);
    if (lock->kept) lock->next_ns = op->sent_ns + (int64_t)lock->every_ms * BELAY__MS;
    belay_link_append(&client->locks, &lock->all);
    belay__keeper_arm(lock);
    if (lock->grant != NULL) belay_grant_listen(lock->grant, lock, grant_told);
}

/* ------------------------------------------------------------------ extend */

void belay__lock_op(belay_lock *lock, belay_op *op, belay_verb verb, uint32_t ttl_ms,
                    void (*done)(belay_op *, belay_status))
{
    op->verb = verb;
    op->backend = lock->client->root;
    op->key = (belay_str){ lock->key, lock->key_length };
    op->name =
        (belay_str){ belay__lock_name(lock), (size_t)lock->key_length - lock->prefix_length };
    op->owner = lock->owner;
    op->ttl_ms = ttl_ms;
    op->grant = lock->grant;
    op->detached = lock->detached;
    op->done = done;
}

/* An extension that reached less far may have left the reason in its error. */
static void extended_scope(belay_lock *lock, const belay_op *op)
{
    const belay_error *error = op->error;
    belay_scope before = (belay_scope)atomic_load(&lock->scope);
    char why[400];
    if (op->scope == before) return;
    if (op->scope > before) snprintf(why, sizeof why, "an extension reached it again");
    else if (error != NULL && error->text[0] != '\0')
        snprintf(why, sizeof why, "%s%s%s", error->node, error->node[0] != '\0' ? ": " : "",
                 error->text);
    else snprintf(why, sizeof why, "an extension did not reach farther");
    set_scope(lock, op->scope, why);
}

/* `every_ms` after this one; sooner where a shorter extension, by hand, has left too little time.
 */
static int64_t next_extension(const belay_lock *lock, int64_t sent_ns, int64_t end_ns)
{
    int64_t next = sent_ns + (int64_t)lock->every_ms * BELAY__MS;
    int64_t least = (int64_t)(lock->ttl_ms - lock->every_ms) * BELAY__MS / 4;
    return end_ns - next < least ? sent_ns + (end_ns - sent_ns) / 2 : next;
}

void belay__lock_extended(belay_lock *lock, belay_op *op, belay_status status)
{
    if (lock->lost || lock->freed) return;
    int64_t now = belay__loop_now(&lock->client->loop);
    int64_t deadline = atomic_load_explicit(&lock->deadline_ns, memory_order_relaxed);
    if (status == BELAY_LOST) {
        belay__lock_lose(lock, true,
                         op->error != NULL && op->error->text[0] != '\0'
                             ? op->error->text
                             : "the backend says it is not ours any more");
    } else if (now >= deadline) {
        belay__lock_lose(lock, false, "its TTL ran out before an extension was answered");
    } else if (status == BELAY_OK) {
        int64_t longer = belay__deadline(op->sent_ns, op->ttl_ms);
        if (longer > deadline)
            atomic_store_explicit(&lock->deadline_ns, longer, memory_order_release);
        if (lock->kept)
            lock->next_ns =
                next_extension(lock, op->sent_ns, longer > deadline ? longer : deadline);
        lock->backoff_ms = 0;
        extended_scope(lock, op);
        if (!lock->lost) belay__keeper_arm(lock);
    }
}

static void extend_settled(belay_op *op, belay_status status)
{
    belay_request *request = belay_container_of(op, belay_request, op);
    belay_lock *lock = request->lock;
    belay__lock_extended(lock, op, status);
    if (lock->lost) status = BELAY_LOST;
    else if (request->end_with != BELAY_OK && status != BELAY_OK) status = request->end_with;
    if (status == BELAY_LOST && request->error.text[0] == '\0' && lock->why != NULL)
        belay_error_set(&request->error, BELAY_LOST, NULL, "%s", lock->why);
    request->lock = NULL;
    request->result = lock->freed ? NULL : lock;
    belay__lock_unref(lock);
    belay__request_finish(request, status);
}

/* Looks at the clock, then the arguments. OK: go on. The monitor is held. */
static belay_status extend_check(belay_lock *lock, uint32_t *ttl_ms, int64_t *now, belay_error *err)
{
    belay *client = lock->client;
    if (client->closing) /* and its world may be gone */
        return belay_error_set(err, BELAY_CLOSED, NULL, "the client was closed");
    *now = belay__loop_now(&client->loop);
    if (*ttl_ms == 0) *ttl_ms = lock->ttl_ms;
    if (*ttl_ms < BELAY_TTL_MIN_MS || *ttl_ms > BELAY_TTL_MAX_MS)
        return belay_error_set(err, BELAY_INVALID, NULL,
                               "a TTL of %u ms: it must be 100 ms to 7 days", (unsigned)*ttl_ms);
    int64_t deadline = atomic_load_explicit(&lock->deadline_ns, memory_order_relaxed);
    if (!lock->lost && *now >= deadline) belay__lock_lose(lock, false, "its TTL ran out");
    if (lock->lost)
        return belay_error_set(err, BELAY_LOST, NULL, "%s",
                               lock->why != NULL ? lock->why : belay_status_text(BELAY_LOST));
    return BELAY_OK;
}

static void extend_begin(belay_request *request, belay_lock *lock, uint32_t ttl_ms, int64_t now)
{
    request->lock = lock;
    lock->refs++;
    belay__lock_op(lock, &request->op, BELAY_VERB_EXTEND, ttl_ms, extend_settled);
    belay__request_begin_op(request, now);
}

static belay_status lock_check(const belay_lock *lock, belay_error *err)
{
    if (lock == NULL) return belay_error_set(err, BELAY_INVALID, NULL, "the lock is NULL");
    return belay__client_check(lock->client, err);
}

belay_status belay_extend(belay_lock *lock, uint32_t ttl_ms, belay_error *err)
{
    belay_status status = lock_check(lock, err);
    if (status != BELAY_OK) return status;
    belay *client = lock->client;
    belay__loop_enter(&client->loop);
    int64_t now = 0;
    status = extend_check(lock, &ttl_ms, &now, err);
    if (status != BELAY_OK) {
        belay__loop_leave(&client->loop);
        return status;
    }
    belay_request request;
    belay__request_init(&request, client);
    extend_begin(&request, lock, ttl_ms, now);
    return belay__request_wait(&request, err);
}

static belay_status started_need(belay *client, belay_error *err)
{
    if (belay__engine_need(&client->loop) == BELAY_OK &&
        belay__call_need(&client->loop) == BELAY_OK)
        return BELAY_OK;
    return belay_error_set(err, BELAY_NOMEM, NULL, "a thread could not be started");
}

belay_status belay_extend_start(belay_lock *lock, uint32_t ttl_ms, belay_done_fn *done, void *arg,
                                belay_request **out, belay_error *err)
{
    if (out != NULL) *out = NULL;
    belay_status status = lock_check(lock, err);
    if (status != BELAY_OK) return status;
    if (done == NULL) return belay_error_set(err, BELAY_INVALID, NULL, "done is NULL");
    belay *client = lock->client;
    belay__loop_enter(&client->loop);
    int64_t now = 0;
    status = extend_check(lock, &ttl_ms, &now, err);
    if (status == BELAY_OK) status = started_need(client, err);
    belay_request *request = status == BELAY_OK ? belay__request_new(client, done, arg) : NULL;
    if (request == NULL) {
        belay__loop_leave(&client->loop);
        return status == BELAY_OK ? belay_error_set(err, BELAY_NOMEM, NULL, NULL) : status;
    }
    client->loop.background++;
    extend_begin(request, lock, ttl_ms, now);
    return belay__request_started(request, out);
}

/* ------------------------------------------------------------------ release */

bool belay__lock_retire(belay_lock *lock)
{
    lock->freed = true;
    belay__keeper_stop(lock);
    belay_unlink(&lock->all);
    return belay__call_withdraw(&lock->client->loop, &lock->call);
}

/* What is left of its time at the backend, at most. */
static int64_t runs_until(const belay_lock *lock, int64_t now)
{
    int64_t deadline = atomic_load_explicit(&lock->deadline_ns, memory_order_relaxed);
    int64_t ttl = (int64_t)lock->ttl_ms * BELAY__MS;
    return (deadline > now ? deadline : now) + ttl;
}

static void release_settled(belay_op *op, belay_status status)
{
    belay_request *request = belay_container_of(op, belay_request, op);
    belay *client = request->client;
    belay_lock *lock = request->lock;
    request->lock = NULL;
    if (status == BELAY_LOST && op->unsure_release) status = BELAY_OK;
    if (status != BELAY_OK && status != BELAY_LOST) {
        /* Nothing stays behind: the library goes on releasing. */
        int64_t until = runs_until(lock, belay__loop_now(&client->loop));
        if (belay__debt_begin(lock, until)) lock = NULL;
    }
    if (lock != NULL) {
        belay__acquire_freed(client, lock->key, lock->key_length,
                             client->root->ops->in_order && !op->unsure_release);
        belay__lock_unref(lock);
    }
    bool known = status == BELAY_OK || status == BELAY_LOST;
    belay__request_finish(request,
                          request->end_with != BELAY_OK && !known ? request->end_with : status);
}

/* The first half of a release: the handle is gone from its owner. False: there is nothing to send,
 * and *status says why. */
static bool release_begin(belay_lock *lock, int64_t *now, belay_status *status, belay_error *err)
{
    belay *client = lock->client;
    *now = belay__loop_now(&client->loop);
    int64_t deadline = atomic_load_explicit(&lock->deadline_ns, memory_order_relaxed);
    if (!lock->lost && *now >= deadline) {
        lock->lost = true; /* its holder is asking: this is how it learns */
        atomic_store_explicit(&lock->deadline_ns, INT64_MIN, memory_order_release);
    }
    if (belay__lock_retire(lock))
        *now = belay__loop_now(&client->loop); /* a callback took its time */
    if (!lock->lost) return true;
    *status = belay_error_set(err, BELAY_LOST, NULL, "%s",
                              lock->why != NULL ? lock->why
                              : lock->definite  ? "the backend says it is not ours any more"
                                                : "its TTL ran out before it was released");
    /* Past its deadline: the delete is still sent, in case the place has not noticed. */
    belay__acquire_released(client, lock->key, lock->key_length);
    if (lock->definite || !belay__debt_begin(lock, *now + (int64_t)lock->ttl_ms * BELAY__MS))
        belay__lock_unref(lock);
    return false;
}

static void release_send(belay_request *request, belay_lock *lock, int64_t now)
{
    belay *client = lock->client;
    request->lock = lock;
    belay__lock_op(lock, &request->op, BELAY_VERB_RELEASE, 0, release_settled);
    belay__request_begin_op(request, now);
    /* Right behind the release, on the same connection: the next of this client. */
    belay__acquire_released(client, request->op.key.at, request->op.key.length);
}

/* The client is closed, or on its way: the handle alone goes. The monitor is held, and left. */
static belay_status release_closed(belay_lock *lock, belay_error *err)
{
    belay *client = lock->client;
    if (!client->closed) {
        /* belay_close is at work on it, and counts for itself. */
        belay__lock_unref(lock);
        belay__loop_leave(&client->loop);
    } else {
        bool used = --lock->refs != 0; /* by an op that never settled: leaked with its client */
        belay__loop_unlock(&client->loop);
        if (!used) {
            belay__free(lock->why);
            belay__free(lock);
            belay__client_unref(client);
        }
    }
    return belay_error_set(err, BELAY_CLOSED, NULL, "the client was closed");
}

belay_status belay_release(belay_lock *lock, belay_error *err)
{
    belay_status status = lock_check(lock, err);
    if (status != BELAY_OK) return status;
    belay *client = lock->client;
    belay_request request;
    belay__request_init(&request, client);
    belay__loop_enter(&client->loop);
    if (client->closing) return release_closed(lock, err);
    int64_t now;
    if (!release_begin(lock, &now, &status, err)) {
        belay__loop_leave(&client->loop);
        return status;
    }
    release_send(&request, lock, now);
    return belay__request_wait(&request, err);
}

belay_status belay_release_start(belay_lock *lock, belay_done_fn *done, void *arg,
                                 belay_request **out, belay_error *err)
{
    if (out != NULL) *out = NULL;
    belay_status status = lock_check(lock, err);
    if (status != BELAY_OK) return status;
    belay *client = lock->client;
    belay__loop_enter(&client->loop);
    if (client->closing) return release_closed(lock, err);
    int64_t now = belay__loop_now(&client->loop);
    belay_request *request = NULL;
    if (done == NULL) status = belay_error_set(err, BELAY_INVALID, NULL, "done is NULL");
    if (status == BELAY_OK) status = started_need(client, err);
    if (status == BELAY_OK && (request = belay__request_new(client, done, arg)) == NULL)
        status = belay_error_set(err, BELAY_NOMEM, NULL, NULL);
    if (status == BELAY_OK && !release_begin(lock, &now, &status, err)) {
        belay__free(request);
        request = NULL;
    } else if (status != BELAY_OK) {
        /* The handle goes all the same, and so does the lock, without an answer. */
        belay__lock_retire(lock);
        if (!belay__debt_begin(lock, runs_until(lock, now))) belay__lock_unref(lock);
    }
    if (status != BELAY_OK) {
        belay__loop_leave(&client->loop);
        return status;
    }
    client->loop.background++;
    release_send(request, lock, now);
    return belay__request_started(request, out);
}

void belay_forget(belay_lock *lock)
{
    if (lock_check(lock, NULL) != BELAY_OK) return;
    belay *client = lock->client;
    belay__loop_enter(&client->loop);
    if (client->closing) {
        (void)release_closed(lock, NULL);
        return;
    }
    belay__lock_retire(lock);
    belay__lock_unref(lock);
    belay__loop_leave(&client->loop);
}

/* ------------------------------------------------------------------ looking at it, without the
 * monitor */

bool belay_lock_valid(const belay_lock *lock, uint32_t need_ms)
{
    if (lock == NULL || belay__forked(lock->client)) return false;
    int64_t deadline = atomic_load_explicit(&lock->deadline_ns, memory_order_acquire);
    if (deadline == INT64_MIN) return false;
    return belay__clock_now(lock->client->loop.world) + (int64_t)need_ms * BELAY__MS < deadline;
}

int64_t belay_lock_remaining_ms(const belay_lock *lock)
{
    if (lock == NULL || belay__forked(lock->client)) return 0;
    int64_t deadline = atomic_load_explicit(&lock->deadline_ns, memory_order_acquire);
    if (deadline == INT64_MIN) return 0;
    int64_t left = deadline - belay__clock_now(lock->client->loop.world);
    return left > 0 ? left / BELAY__MS : 0;
}

uint64_t belay_lock_token(const belay_lock *lock)
{
    return lock != NULL ? lock->token : 0;
}

belay_scope belay_lock_scope(const belay_lock *lock)
{
    return lock != NULL ? (belay_scope)atomic_load(&lock->scope) : BELAY_SCOPE_ANY;
}

const char *belay_lock_name(const belay_lock *lock)
{
    return lock != NULL ? belay__lock_name(lock) : "";
}

const char *belay_lock_owner(const belay_lock *lock)
{
    return lock != NULL ? lock->owner : "";
}
