/* tracking.c - waiters are woken by the server: client-side caching's invalidations, put to use.
 *
 * While somebody waits, the server remembers which keys the connection that acquires reads, as
 * every attempt by a script does (TYPE). When such a key changes, it says so, in RESP2 to a second
 * connection that subscribed to it: the ear. Not OPTIN: that would take a CLIENT CACHING before
 * every attempt, and what it spares the server is a table entry for each lock taken meanwhile.
 * NOLOOP: what we change ourselves we know.
 *
 * That is a hint and never a promise (an expiry's word may come late or not at all, a connection
 * may die first): core's timer is always armed, and while a waiter is not registered it is woken by
 * polling, 10 ms doubling to 250 ms. What breaks wakes everybody. SEMANTICS 3.
 *
 *   off -> the ear connects -> subscribes -> the main link is told to redirect there -> on
 */
#include "backends/resp/server.h"

#include <string.h>

#define MS INT64_C(1000000)

enum {
    POLL_FIRST_MS = 10,
    POLL_LAST_MS = 250,
    PING_MS = 5000,
    LINGER_MS = 1000,
    AGAIN_MS = 250,
    MARKS = 64
};

struct belay__tracking {
    struct belay__server *server;
    belay_link waiters;
    struct belay__link *ear; /* NULL: none */
    struct belay__link *on;  /* the main link that redirects to the ear */
    belay_timer timer;       /* the ear's: ping, linger, the next one */
    bool subscribed;
    bool enabling; /* the main link was asked to redirect */
    bool refused;  /* this server will not */
    /* How many invalidations came, and which was the last for keys of one hash: an attempt's may be
     * read before its refusal is, when its waiter is not known yet. */
    uint64_t told, told_all, told_of[MARKS];
};

/* A wait that was refused, hung on its belay_wait. */
struct waiter {
    belay_link all;
    struct belay__tracking *tracking;
    belay_wait *wait;
    belay_timer poll;
    struct belay__link *link; /* where it is being registered; NULL: nowhere */
    uint64_t asked;
    uint32_t backoff_ms;
    bool registered;
    uint32_t key_length;
    char key[];
};

static void ear_open(struct belay__tracking *tracking);
static void enable(struct belay__tracking *tracking);

/* ------------------------------------------------------------------ waiters */

static void wake(struct waiter *waiter)
{
    waiter->registered = false;
    belay_wait_wake(waiter->wait);
}

static void wake_all(struct belay__tracking *tracking)
{
    tracking->told_all = ++tracking->told;
    for (belay_link *at = tracking->waiters.next, *next; at != &tracking->waiters; at = next) {
        next = at->next;
        wake(belay_container_of(at, struct waiter, all));
    }
}

static void wake_key(struct belay__tracking *tracking, const char *key, size_t length)
{
    tracking->told_of[belay__key_hash(key, length) % MARKS] = ++tracking->told;
    for (belay_link *at = tracking->waiters.next, *next; at != &tracking->waiters; at = next) {
        struct waiter *waiter = belay_container_of(at, struct waiter, all);
        next = at->next;
        if (waiter->key_length == length && memcmp(waiter->key, key, length) == 0) wake(waiter);
    }
}

void belay__tracking_wake(struct belay__server *server, belay_str key)
{
    wake_key(server->tracking, key.at, key.length);
}

static void poll_due(belay_timer *timer)
{
    wake(belay_container_of(timer, struct waiter, poll));
}

static void poll_arm(struct waiter *waiter, int64_t held_for_ns)
{
    belay_env *env = waiter->tracking->server->env;
    uint32_t backoff = waiter->backoff_ms == 0 ? POLL_FIRST_MS : waiter->backoff_ms * 2;
    waiter->backoff_ms = backoff < POLL_LAST_MS ? backoff : POLL_LAST_MS;
    int64_t us = (int64_t)waiter->backoff_ms * 750;
    us += belay_env_random_below(env, (uint32_t)us * 2 / 3 + 1);
    int64_t ns = us * 1000;
    if (held_for_ns >= 0 && held_for_ns < ns) ns = held_for_ns + MS;
    belay_timer_arm(env, &waiter->poll, belay_env_now(env) + ns);
}

static void registration(void *owner, uint32_t which, enum belay__moment moment,
                         const struct belay__reply *reply)
{
    struct waiter *waiter = owner;
    (void)which;
    if (moment == BELAY__LEFT) return;
    struct belay__link *link = waiter->link;
    waiter->link = NULL;
    if (moment == BELAY__CUT || link != waiter->tracking->on) return; /* polled meanwhile */
    if (reply->type != BELAY__REPLY_INTEGER) return;
    if (reply->integer == -2) {
        wake(waiter); /* it was let go between the refusal and this */
    } else {
        belay_env *env = waiter->tracking->server->env;
        waiter->registered = true;
        waiter->backoff_ms = 0;
        belay_timer_disarm(env, &waiter->poll);
        /* The server's word of an expiry may never come. */
        if (reply->integer >= 0 && reply->integer < BELAY_TTL_MAX_MS)
            belay_timer_arm(env, &waiter->poll, belay_env_now(env) + (reply->integer + 1) * MS);
    }
}

/* PTTL reads the key, whatever is kept there. */
static void register_key(struct waiter *waiter)
{
    struct belay__link *link = waiter->tracking->on;
    if (link == NULL || waiter->link != NULL || waiter->registered) return;
    const char *look[] = { "PTTL", waiter->key };
    const size_t lengths[] = { 4, waiter->key_length };
    waiter->asked = belay__link_ask(link, registration, waiter, 0, false, 2, look, lengths);
    if (waiter->asked != 0) waiter->link = link;
}

static struct waiter *waiter_new(struct belay__tracking *tracking, const belay_op *op)
{
    struct waiter *waiter =
        belay_env_alloc(tracking->server->env, sizeof *waiter + op->key.length + 1);
    if (waiter == NULL) return NULL;
    waiter->tracking = tracking;
    waiter->wait = op->wait;
    belay_timer_init(&waiter->poll, poll_due);
    waiter->key_length = (uint32_t)op->key.length;
    memcpy(waiter->key, op->key.at, op->key.length);
    belay_link_append(&tracking->waiters, &waiter->all);
    op->wait->data = waiter;
    return waiter;
}

void belay__tracking_refused(struct belay__server *server, belay_op *op, uint32_t hash,
                             const struct belay__link *link, bool registered, uint64_t since)
{
    struct belay__tracking *tracking = server->tracking;
    struct waiter *waiter = op->wait->data;
    if (waiter == NULL) waiter = waiter_new(tracking, op);
    if (waiter == NULL) return; /* core's timer is armed */
    waiter->registered = registered && link != NULL && link == tracking->on;
    if (waiter->registered) {
        waiter->backoff_ms = 0;
        belay_timer_disarm(server->env, &waiter->poll);
        if (tracking->told_all > since || tracking->told_of[hash % MARKS] > since) wake(waiter);
        return;
    }
    poll_arm(waiter, op->held_for_ns);
    if (tracking->on != NULL) register_key(waiter);
    else if (tracking->ear == NULL && !belay_timer_armed(&tracking->timer)) ear_open(tracking);
}

void belay__tracking_unwait(struct belay__server *server, belay_wait *wait)
{
    struct belay__tracking *tracking = server->tracking;
    struct waiter *waiter = wait->data;
    if (waiter == NULL) return;
    wait->data = NULL;
    if (waiter->link != NULL) belay__link_forget(waiter->link, waiter->asked);
    belay_timer_disarm(server->env, &waiter->poll);
    belay_unlink(&waiter->all);
    belay_env_free(server->env, waiter);
    if (belay_links_empty(&tracking->waiters) && tracking->ear != NULL)
        belay_timer_arm(server->env, &tracking->timer, belay_env_now(server->env) + LINGER_MS * MS);
}

uint64_t belay__tracking_moment(const struct belay__server *server)
{
    return server->tracking->told;
}

bool belay__tracking_is_on(const struct belay__server *server, const struct belay__link *link)
{
    return server->tracking->on == link;
}

bool belay__tracking_knows(const belay_op *op)
{
    return op->wait != NULL && op->wait->data != NULL;
}

/* ------------------------------------------------------------------ the ear */

static void ear_close(struct belay__tracking *tracking)
{
    struct belay__link *ear = tracking->ear;
    tracking->ear = NULL;
    tracking->on = NULL;
    tracking->subscribed = tracking->enabling = false;
    belay__link_close(ear, true);
}

static void again_later(struct belay__tracking *tracking)
{
    belay_env *env = tracking->server->env;
    int64_t us = AGAIN_MS * 500 + belay_env_random_below(env, AGAIN_MS * 1000);
    belay_timer_arm(env, &tracking->timer, belay_env_now(env) + us * 1000);
}

/* Nobody may rely on what was registered: everybody asks again. */
static void broken(struct belay__tracking *tracking)
{
    ear_close(tracking);
    wake_all(tracking);
    if (!tracking->refused) again_later(tracking);
}

static void ear_heard(void *owner, uint32_t which, enum belay__moment moment,
                      const struct belay__reply *reply)
{
    struct belay__tracking *tracking = owner;
    (void)which;
    if (moment != BELAY__ANSWERED || tracking->subscribed) return;
    if (reply->type != BELAY__REPLY_ARRAY) {
        tracking->refused = true; /* no permission, or too old */
        broken(tracking);
        return;
    }
    tracking->subscribed = true;
    enable(tracking);
}

static void ear_ready(struct belay__link *ear)
{
    struct belay__tracking *tracking = ear->owner;
    static const char *const argv[] = { "SUBSCRIBE", "__redis__:invalidate" };
    if (ear->hello.client_id == 0) {
        tracking->refused = true;
        broken(tracking);
    } else if (belay__link_ask(ear, ear_heard, tracking, 0, false, 2, argv, NULL) == 0) {
        broken(tracking);
    } else {
        belay_timer_arm(tracking->server->env, &tracking->timer,
                        belay_env_now(tracking->server->env) + PING_MS * MS);
    }
}

static void ear_ended(struct belay__link *ear)
{
    struct belay__tracking *tracking = ear->owner;
    if (ear->why.status == BELAY_REFUSED) tracking->refused = true;
    broken(tracking);
}

/* ["message", channel, the keys that changed; nil: all of them (a flush)] */
static void ear_told(struct belay__link *ear, const struct belay__reply *reply)
{
    struct belay__tracking *tracking = ear->owner;
    const struct belay__reply *keys = belay__reply_item(reply, 2), *key;
    if (keys == NULL || keys->type != BELAY__REPLY_ARRAY) {
        wake_all(tracking);
        return;
    }
    for (uint32_t i = 0; (key = belay__reply_item(keys, i)) != NULL; i++)
        wake_key(tracking, key->text, key->length);
}

static void ear_open(struct belay__tracking *tracking)
{
    struct belay__server *server = tracking->server;
    if (tracking->refused || !server->use_tracking) return;
    tracking->ear =
        belay__link_new(server->env, &server->peer, 2 * belay_env_timeout_ns(server->env));
    if (tracking->ear == NULL) {
        again_later(tracking);
        return;
    }
    tracking->ear->owner = tracking;
    tracking->ear->ready = ear_ready;
    tracking->ear->ended = ear_ended;
    tracking->ear->push = ear_told;
    belay__link_open(tracking->ear);
}

/* ------------------------------------------------------------------ the main link redirects */

static void enabled(void *owner, uint32_t which, enum belay__moment moment,
                    const struct belay__reply *reply)
{
    struct belay__tracking *tracking = owner;
    struct belay__link *link =
        belay__server_link(tracking->server, belay__server_takes(tracking->server));
    if (moment == BELAY__LEFT || !tracking->enabling) return;
    if (link == NULL || (uint32_t)link->serial != which) return; /* one that is not in use */
    tracking->enabling = false;
    if (moment == BELAY__CUT) return; /* belay__tracking_link comes next */
    if (!belay__reply_is(reply, "OK")) {
        /* NOPERM, or a server before 6.0: they are polled for. The ear that is gone already is
         * another matter: it will be told as ended. */
        tracking->refused = strstr(reply->text, "redirect") == NULL;
        broken(tracking);
        return;
    }
    tracking->on = link;
    for (belay_link *at = tracking->waiters.next; at != &tracking->waiters; at = at->next)
        register_key(belay_container_of(at, struct waiter, all));
}

static void enable(struct belay__tracking *tracking)
{
    struct belay__link *link =
        belay__server_link(tracking->server, belay__server_takes(tracking->server));
    struct belay__link *ear = tracking->ear;
    if (link == NULL || ear == NULL || !tracking->subscribed || tracking->enabling) return;
    if (strcmp(link->hello.run_id, ear->hello.run_id) != 0) {
        broken(tracking); /* another server answers there now */
        return;
    }
    char id[21];
    belay__decimal((uint64_t)ear->hello.client_id, id);
    const char *argv[] = { "CLIENT", "TRACKING", "ON", "REDIRECT", id, "NOLOOP" };
    tracking->enabling =
        belay__link_ask(link, enabled, tracking, (uint32_t)link->serial, false, 6, argv, NULL) != 0;
    if (!tracking->enabling) broken(tracking);
}

void belay__tracking_link(struct belay__server *server, struct belay__link *link)
{
    struct belay__tracking *tracking = server->tracking;
    tracking->on = NULL;
    tracking->enabling = false;
    if (link != NULL) tracking->refused = false; /* it may be another server, or other rights */
    if (link == NULL) wake_all(tracking);
    else if (tracking->subscribed) enable(tracking);
    else if (tracking->ear == NULL && !belay_links_empty(&tracking->waiters)) ear_open(tracking);
}

/* ------------------------------------------------------------------ the timer */

static void turn_off(struct belay__tracking *tracking)
{
    static const char *const argv[] = { "CLIENT", "TRACKING", "OFF" };
    if (tracking->on != NULL) belay__link_ask(tracking->on, NULL, NULL, 0, false, 3, argv, NULL);
    ear_close(tracking);
}

static void timer_due(belay_timer *timer)
{
    struct belay__tracking *tracking = belay_container_of(timer, struct belay__tracking, timer);
    belay_env *env = tracking->server->env;
    static const char *const ping[] = { "PING" };
    if (belay_links_empty(&tracking->waiters)) {
        if (tracking->ear != NULL) turn_off(tracking);
        return;
    }
    if (tracking->ear == NULL) {
        ear_open(tracking);
        return;
    }
    int64_t now = belay_env_now(env);
    if (tracking->ear->state == BELAY__LINK_READY) {
        if (belay__link_silence(tracking->ear, now) >= belay_env_timeout_ns(env)) {
            broken(tracking);
            return;
        }
        if (now - tracking->ear->heard_ns >= PING_MS * MS / 2)
            belay__link_ask(tracking->ear, ear_heard, tracking, 0, false, 1, ping, NULL);
    }
    belay_timer_arm(env, timer, now + PING_MS * MS);
}

belay_status belay__tracking_init(struct belay__server *server)
{
    struct belay__tracking *tracking = belay_env_alloc(server->env, sizeof *tracking);
    if (tracking == NULL) return BELAY_NOMEM;
    tracking->server = server;
    belay_links_init(&tracking->waiters);
    belay_timer_init(&tracking->timer, timer_due);
    server->tracking = tracking;
    return BELAY_OK;
}

void belay__tracking_fini(struct belay__server *server)
{
    struct belay__tracking *tracking = server->tracking;
    if (tracking == NULL) return;
    belay_timer_disarm(server->env, &tracking->timer);
    belay__link_close(tracking->ear, true);
    while (!belay_links_empty(&tracking->waiters)) {
        struct waiter *waiter = belay_container_of(tracking->waiters.next, struct waiter, all);
        belay_timer_disarm(server->env, &waiter->poll);
        belay_unlink(&waiter->all);
        belay_env_free(server->env, waiter);
    }
    belay_env_free(server->env, tracking);
    server->tracking = NULL;
}
