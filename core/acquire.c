/* acquire.c - one blocked acquire: its turn, its attempts, its sleep between them, its end.
 *
 * Attempts of this client for one name are made by the head of the name's queue alone. A refused
 * head sleeps until the holder's TTL would run out, a wake-up, POLL_CAP or its own end, whichever
 * is first: the timer is always armed, and a wake-up is a hint. A wake-up that comes between
 * sending an attempt and its refusal counts. SEMANTICS section 3. */
#include "core/client.h"

#include <stdio.h>

enum {
    POLL_CAP_MS = 5000,
    JITTER_MS = 25,
    TRIP_MOST_MS = 50,
    BACKOFF_FIRST_MS = 10,
    BACKOFF_LAST_MS = 250,
    PAUSE_LEAST_US = 300
};

static uint32_t random_below(belay *client, uint32_t bound)
{
    uint32_t bits;
    belay__clock_random(client->loop.world, &bits, sizeof bits);
    return (uint32_t)((uint64_t)bits * bound >> 32);
}

/* ------------------------------------------------------------------ the end */

static void sleep_until(belay_request *request, int64_t until_ns)
{
    if (until_ns > request->wait_until_ns) until_ns = request->wait_until_ns;
    belay__timer_arm(&request->client->loop, &request->timer, until_ns);
}

static bool is_head(belay_request *request)
{
    return belay__names_head(request->client, request->op.key.at, request->op.key.length,
                             request->hash) == request;
}

/* The one before it is gone. With the lock: nothing to ask for until that one lets go, or its TTL
 * is over. */
static void promote(belay_request *next, bool held_here, uint32_t ttl_ms)
{
    belay *client = next->client;
    next->phase = BELAY__PHASE_SLEEP;
    if (!held_here) {
        belay__loop_defer(&client->loop, &next->attempt);
        return;
    }
    uint32_t ms = ttl_ms < POLL_CAP_MS ? ttl_ms : POLL_CAP_MS;
    sleep_until(next, belay__loop_now(&client->loop) +
                          (ms + random_below(client, JITTER_MS)) * BELAY__MS);
}

static void finish(belay_request *request, belay_status status)
{
    belay *client = request->client;
    belay_request *next = belay__names_leave(request);
    if (next != NULL &&
        request->outage_since_ns != 0) { /* the outage is the name's, not the head's */
        next->outage_since_ns = request->outage_since_ns;
        next->status = request->status;
    }
    if (next != NULL) promote(next, status == BELAY_OK, request->ttl_ms);
    belay__timer_disarm(&client->loop, &request->timer);
    belay_unlink(&request->attempt.link);
    if (request->wait_used && client->root->ops->unwait != NULL)
        client->root->ops->unwait(client->root, &request->wait);
    if (status == BELAY_OK) {
        request->result = request->lock;
    } else {
        belay__free(request->lock);
        atomic_fetch_sub_explicit(&client->refs, 1, memory_order_relaxed);
        if (status == BELAY_HELD && request->error.text[0] == '\0')
            snprintf(request->error.text, sizeof request->error.text, "%s",
                     request->try_once ? "another holds the lock"
                                       : "another held the lock until the wait was over");
    }
    request->lock = NULL;
    belay__request_finish(request, status);
}

void belay__acquire_end(belay_request *request, belay_status with)
{
    finish(request, with);
}

/* The call does not return at once: its cancel is watched from now on. May end the request. */
static void cancel_watch(belay_request *request)
{
    if (request->cancel == NULL || request->cancel_watch != NULL) return;
    if (belay__cancel_watch(request) != BELAY_OK)
        belay__request_end(request, BELAY_NOMEM, "no memory to watch the cancel object");
}

/* ------------------------------------------------------------------ an attempt */

static void attempt_settled(belay_op *op, belay_status status);

static void attempt(belay_request *request)
{
    belay *client = request->client;
    belay_op *op = &request->op;
    request->phase = BELAY__PHASE_ATTEMPT;
    request->woken = false;
    request->error.text[0] = request->error.node[0] = '\0';
    belay__timer_disarm(&client->loop, &request->timer);
    belay__owner_make(client->page, client->loop.world, request->lock->owner);
    int64_t now = belay__loop_now(&client->loop);
    op->verb = BELAY_VERB_ACQUIRE;
    op->done = attempt_settled;
    op->error = &request->error;
    op->grant = NULL;
    op->wait = request->try_once ? NULL : &request->wait;
    request->wait_used = op->wait != NULL;
    op->settle_by_ns = now + client->timeout_ns;
    if (op->settle_by_ns > request->wait_until_ns) op->settle_by_ns = request->wait_until_ns;
    belay__op_begin(op, now);
    /* Others of this client line up behind an attempt that is under way. */
    if (!belay__op_pending(op)) return;
    if (!request->try_once) belay__names_join(request);
    cancel_watch(request);
}

/* The name is left to others for a while (turns.c), unless the wait ends before: then this is the
 * only chance. */
static bool pauses(belay_request *request)
{
    belay *client = request->client;
    if (client->turns == NULL || request->try_once) return false;
    int64_t until_ns = belay__turn_wait(client, request->hash, belay__loop_now(&client->loop));
    if (until_ns == 0 || until_ns >= request->wait_until_ns) return false;
    belay__names_join(request);
    request->phase = BELAY__PHASE_PAUSE;
    sleep_until(request, until_ns);
    cancel_watch(request);
    return true;
}

static void attempt_deferred(belay_task *task)
{
    belay_request *request = belay_container_of(task, belay_request, attempt);
    if (request->phase != BELAY__PHASE_SLEEP || !is_head(request)) return;
    /* Nothing can be granted in less than a round trip: the wait's end is awaited. */
    int64_t left = request->wait_until_ns - belay__loop_now(&request->client->loop);
    if (request->was_held && left < request->client->rtt_ns / 2) sleep_until(request, INT64_MAX);
    else if (!pauses(request)) attempt(request);
}

/* Who queues has not asked. While the head meets an outage, nobody may say that the lock is held.
 */
static void outage_of_head(belay_request *request)
{
    const belay_request *head = belay__names_head(request->client, request->op.key.at,
                                                  request->op.key.length, request->hash);
    if (head == NULL || head->outage_since_ns == 0) return;
    request->status = head->status;
    memcpy(request->error.node, head->error.node, strlen(head->error.node) + 1);
    memcpy(request->error.text, head->error.text, strlen(head->error.text) + 1);
}

static void timer_fired(belay_timer *timer)
{
    belay_request *request = belay_container_of(timer, belay_request, timer);
    if (belay__loop_now(&request->client->loop) >= request->wait_until_ns) {
        if (request->phase == BELAY__PHASE_QUEUED) outage_of_head(request);
        finish(request, request->status);
    } else if (request->phase == BELAY__PHASE_PAUSE ||
               (request->phase == BELAY__PHASE_SLEEP && !pauses(request))) {
        attempt(request);
    }
}

static void woken(belay_wait *wait)
{
    belay_request *request = belay_container_of(wait, belay_request, wait);
    request->woken = true;
    if (request->phase == BELAY__PHASE_SLEEP)
        belay__loop_defer(&request->client->loop, &request->attempt);
}

/* Refused, or failed: sleeps until `until_ns` if it is the head, or for its turn. */
static void sleep_as(belay_request *request, belay_status status, int64_t now, int64_t until_ns)
{
    request->status = status;
    belay__names_join(request);
    if (!is_head(request)) {
        request->phase = BELAY__PHASE_QUEUED;
        sleep_until(request, INT64_MAX);
    } else if (request->woken && !request->woken_twice) {
        request->phase = BELAY__PHASE_SLEEP;
        request->woken_twice = true; /* a backend that wakes in every attempt must not spin */
        belay__loop_defer(&request->client->loop, &request->attempt);
    } else {
        request->phase = BELAY__PHASE_SLEEP;
        sleep_until(request, request->woken ? now + BELAY__MS : until_ns);
        request->woken_twice = false;
    }
    cancel_watch(request);
}

/* The outage has lasted too long, and it is the name's: whoever waited through all of it behind
 * this one has the same answer now, not one `timeout` after the other. */
static void give_up(belay_request *request, belay_status status, int64_t now)
{
    const belay_error why = request->error;
    int64_t outage = (int64_t)request->client->config->outage_ms * BELAY__MS;
    for (;;) {
        belay_request *next = NULL;
        if (request->queued && is_head(request) && !belay_links_empty(&request->fifo))
            next = belay_container_of(request->fifo.next, belay_request, fifo);
        bool waited = next != NULL && now - next->wait.since_ns >= outage;
        finish(request, status); /* its memory may be its caller's */
        if (!waited) return;
        request = next;
        request->status = status;
        memcpy(request->error.node, why.node, sizeof why.node);
        memcpy(request->error.text, why.text, sizeof why.text);
    }
}

static void refused(belay_request *request, belay_status status)
{
    belay *client = request->client;
    int64_t now = belay__loop_now(&client->loop);
    bool over = request->try_once || now >= request->wait_until_ns;
    if (request->end_with != BELAY_OK) {
        /* What ended it has also written why. */
        finish(request, request->end_with);
    } else if (status == BELAY_HELD) {
        request->was_held = true;
        request->outage_since_ns = 0;
        request->backoff_ms = 0;
        request->handoffs = 0;
        if (over) {
            finish(request, BELAY_HELD);
            return;
        }
        int64_t cap = POLL_CAP_MS * BELAY__MS, left = request->op.held_for_ns;
        if (left < 0 || left > cap) left = cap;
        sleep_as(request, BELAY_HELD, now,
                 now + left + random_below(client, JITTER_MS) * BELAY__MS);
    } else if (status == BELAY_UNAVAILABLE || status == BELAY_UNCERTAIN) {
        if (request->outage_since_ns == 0) request->outage_since_ns = request->op.sent_ns;
        bool too_long =
            now - request->outage_since_ns >= (int64_t)client->config->outage_ms * BELAY__MS;
        if (over || too_long) {
            /* The last attempt was cut short by the wait's end, unsent or being given back: what
             * was known before holds. */
            bool short_cut =
                status == BELAY_UNAVAILABLE || request->op.cause == BELAY_CAUSE_CUT_SHORT;
            bool cut = over && !request->try_once && short_cut && request->was_held &&
                       request->status == BELAY_HELD && request->op.canceled;
            if (cut) request->error.text[0] = '\0';
            else request->status = status;
            if (too_long && !cut) give_up(request, status, now);
            else finish(request, cut ? BELAY_HELD : status);
            return;
        }
        uint32_t backoff = request->backoff_ms == 0 ? BACKOFF_FIRST_MS : request->backoff_ms * 2;
        request->backoff_ms = backoff < BACKOFF_LAST_MS ? backoff : BACKOFF_LAST_MS;
        int64_t ms = request->backoff_ms / 2 + random_below(client, request->backoff_ms);
        sleep_as(request, status, now, now + ms * BELAY__MS);
    } else {
        finish(request, status);
    }
}

/* ------------------------------------------------------------------ a grant */

static void giveback_settled(belay_op *op, belay_status status)
{
    belay_request *request = belay_container_of(op, belay_request, op);
    belay *client = request->client;
    bool gone = status == BELAY_OK || status == BELAY_LOST;
    if (!gone) {
        belay_lock *debtor = belay__lock_new(client, op->name.at, op->name.length);
        if (debtor != NULL) {
            memcpy(debtor->owner, request->lock->owner, sizeof debtor->owner);
            debtor->grant = op->grant;
            debtor->ttl_ms = request->ttl_ms;
            op->grant = NULL;
            int64_t until = belay__loop_now(&client->loop) + (int64_t)request->ttl_ms * BELAY__MS;
            if (!belay__debt_begin(debtor, until)) belay__lock_unref(debtor);
        } else {
            belay__log(client, BELAY_LOG_WARN, "a grant could not be given back: its TTL ends it");
        }
    }
    if (op->grant != NULL && client->root->ops->drop != NULL)
        client->root->ops->drop(client->root, op->grant);
    op->grant = NULL;
    refused(request, BELAY_UNAVAILABLE);
}

/* An OK that nobody may believe in. The release runs in the request's own op: it needs no memory.
 */
static void give_back(belay_request *request, const char *why)
{
    belay *client = request->client;
    belay_op *op = &request->op;
    if (request->end_with == BELAY_OK)
        belay_error_set(&request->error, BELAY_UNAVAILABLE, client->root->env->name, "%s", why);
    request->phase = BELAY__PHASE_GIVEBACK;
    op->verb = BELAY_VERB_RELEASE;
    op->wait = NULL;
    op->done = giveback_settled;
    op->error = NULL;
    int64_t now = belay__loop_now(&client->loop);
    op->settle_by_ns = now + client->timeout_ns;
    belay__op_begin(op, now);
}

static void granted(belay_request *request)
{
    belay *client = request->client;
    belay_op *op = &request->op;
    int64_t now = belay__loop_now(&client->loop);
    int64_t trip = now - op->sent_ns;
    if (trip > TRIP_MOST_MS * BELAY__MS) trip = TRIP_MOST_MS * BELAY__MS; /* a stall is none */
    client->rtt_ns += (trip - client->rtt_ns) / 8;
    if (request->end_with != BELAY_OK) {
        give_back(request, "");
    } else if (now >= belay__deadline(op->sent_ns, request->ttl_ms)) {
        give_back(request, "granted too late: the TTL had run out when the answer came");
    } else if (op->scope < request->at_least) {
        give_back(request, "granted in a smaller scope than was asked for");
    } else {
        belay__lock_begin(request->lock, op);
        belay__turn_granted(client, request->hash, now);
        finish(request, BELAY_OK);
    }
}

static void attempt_settled(belay_op *op, belay_status status)
{
    belay_request *request = belay_container_of(op, belay_request, op);
    if (status == BELAY_OK) granted(request);
    else refused(request, status);
}

/* ------------------------------------------------------------------ the beginning */

void belay__acquire_prepare(belay_request *request)
{
    belay *client = request->client;
    belay_lock *lock = request->lock;
    belay_op *op = &request->op;
    belay_timer_init(&request->timer, timer_fired);
    request->attempt.fn = attempt_deferred;
    request->wait.woken = woken;
    request->status = BELAY_HELD;
    op->backend = client->root;
    op->key = (belay_str){ lock->key, lock->key_length };
    op->name = (belay_str){ lock->key + lock->prefix_length,
                            (size_t)lock->key_length - lock->prefix_length };
    op->owner = lock->owner;
    op->ttl_ms = request->ttl_ms;
    op->also_pid = request->also_pid;
    op->detached = lock->detached;
    op->at_least = request->at_least;

    request->hash = belay__names_hash(op->key.at, op->key.length);
}

void belay__acquire_begin(belay_request *request)
{
    belay *client = request->client;
    belay_op *op = &request->op;
    belay_link_append(&client->requests, &request->all);

    belay_request *head = belay__names_head(client, op->key.at, op->key.length, request->hash);
    if (head == NULL) {
        if (!pauses(request)) attempt(request);
    } else if (request->try_once) {
        snprintf(request->error.text, sizeof request->error.text,
                 "others of this client wait for the lock already");
        finish(request, BELAY_HELD);
    } else {
        belay__names_join(request);
        request->phase = BELAY__PHASE_QUEUED;
        request->was_held = true;
        sleep_until(request, INT64_MAX);
        cancel_watch(request);
    }
}

void belay__acquire_released(belay *client, const char *key, size_t length)
{
    if (client->turns != NULL)
        belay__turn_released(client, belay__names_hash(key, length),
                             belay__loop_now(&client->loop));
    if (client->names.count == 0) return;
    belay_request *head = belay__names_head(client, key, length, belay__names_hash(key, length));
    if (head == NULL) return;
    if (head->phase == BELAY__PHASE_ATTEMPT) head->woken = true;
    if (head->phase != BELAY__PHASE_SLEEP) return;
    uint32_t limit = client->config->handoffs;
    if (limit == 0 || head->handoffs < limit || client->turns != NULL) {
        head->handoffs++;
        belay__loop_defer(&client->loop, &head->attempt);
        return;
    }
    /* Other processes get their turn. */
    head->handoffs = 0;
    head->phase = BELAY__PHASE_PAUSE;
    int64_t pause = 2 * client->rtt_ns;
    bool alone = client->scope_max <= BELAY_SCOPE_PROCESS;
    if (pause < PAUSE_LEAST_US * 1000 && !alone) pause = PAUSE_LEAST_US * 1000;
    pause +=
        random_below(client, (uint32_t)(pause < BELAY__SECOND ? pause : BELAY__SECOND) / 2 + 1);
    sleep_until(head, belay__loop_now(&client->loop) + pause);
}

void belay__acquire_freed(belay *client, const char *key, size_t length, bool in_order)
{
    if (client->names.count == 0 || in_order) return;
    belay_request *head = belay__names_head(client, key, length, belay__names_hash(key, length));
    if (head != NULL) woken(&head->wait);
}
