/* server.c - see server.h. */
#include "backends/resp/attempt.h"

#include <stdio.h>
#include <string.h>

#define MS INT64_C(1000000)

enum { BACKOFF_FIRST_MS = 10, BACKOFF_LAST_MS = 1000, PATIENCE_LEAST_MS = 1000 };

static void lane_connect(struct belay__lane *lane);

static enum belay__lane_id lane_id(const struct belay__lane *lane)
{
    return (enum belay__lane_id)(lane - lane->server->lanes);
}

/* ------------------------------------------------------------------ errands */

/* An errand may come back to the end of the queue: only those that wait now have their turn. */
static void queue_run(struct belay__lane *lane)
{
    belay_link todo = lane->queue;
    if (belay_links_empty(&lane->queue)) return;
    todo.next->prev = todo.prev->next = &todo;
    belay_links_init(&lane->queue);
    while (!belay_links_empty(&todo)) {
        belay_link *first = todo.next;
        struct belay__errand *errand = belay_container_of(first, struct belay__errand, link);
        belay_unlink(first);
        struct belay__link *link = belay__server_link(lane->server, lane_id(lane));
        if (link != NULL) errand->go(errand, link);
        else belay_link_append(&lane->queue, first);
    }
}

void belay__server_want(struct belay__server *server, enum belay__lane_id id,
                        struct belay__errand *errand)
{
    struct belay__lane *lane = &server->lanes[id];
    belay_link_append(&lane->queue, &errand->link);
    /* Refused a moment ago: the timer tells the errand, and asks again when it is time. */
    if (lane->link == NULL && !belay_timer_armed(&lane->again)) lane_connect(lane);
    else if (lane->link == NULL && lane->why.status == BELAY_REFUSED)
        belay_timer_arm(server->env, &lane->check, belay_env_now(server->env));
    else if (lane->link != NULL && lane->link->state == BELAY__LINK_READY)
        belay_timer_arm(server->env, &lane->check, belay_env_now(server->env));
}

void belay__server_unwant(struct belay__errand *errand)
{
    belay_unlink(&errand->link);
}

struct belay__link *belay__server_link(struct belay__server *server, enum belay__lane_id id)
{
    struct belay__link *link = server->lanes[id].link;
    return link != NULL && link->state == BELAY__LINK_READY ? link : NULL;
}

/* ------------------------------------------------------------------ links come and go */

void belay__server_mind(struct belay__server *server)
{
    bool busy = !belay_links_empty(&server->debts);
    for (int i = 0; i < BELAY__LANES; i++) busy |= !belay_links_empty(&server->lanes[i].draining);
    if (busy == server->minding) return;
    server->minding = busy;
    belay_env_mind(server->env, busy);
    int64_t due = belay_env_now(server->env) + belay_env_timeout_ns(server->env);
    for (int i = 0; busy && i < BELAY__LANES; i++)
        if (!belay_timer_armed(&server->lanes[i].check))
            belay_timer_arm(server->env, &server->lanes[i].check, due);
}

static bool is_needed(const struct belay__lane *lane)
{
    const struct belay__server *server = lane->server;
    if (!belay_links_empty(&lane->queue)) return true;
    return lane == &server->lanes[BELAY__LANE_MAIN] && !belay_links_empty(&server->held);
}

static void warn_of_eviction(struct belay__server *server, const struct belay__hello *hello)
{
    bool evicts = hello->maxmemory > 0 && hello->policy[0] != '\0' &&
                  strcmp(hello->policy, "noeviction") != 0;
    if (!evicts || server->warned) return;
    server->warned = true;
    belay_env_log(
        server->env, BELAY_LOG_WARN,
        "%s: its maxmemory-policy is %s: it may evict locks that are held; set noeviction",
        server->peer.node, hello->policy);
}

static void link_ready(struct belay__link *link)
{
    struct belay__lane *lane = link->owner;
    struct belay__server *server = lane->server;
    lane->ready_ns = belay_env_now(server->env);
    lane->why = (struct belay__failure){ .status = BELAY_UNAVAILABLE };
    bool restarted = server->run_id[0] != '\0' && link->hello.run_id[0] != '\0' &&
                     strcmp(server->run_id, link->hello.run_id) != 0;
    if (link->hello.run_id[0] != '\0')
        memcpy(server->run_id, link->hello.run_id, sizeof server->run_id);
    /* Who does not say since when it runs may have begun just now. */
    int64_t uptime_ns = 0, most_s = INT64_C(1) << 32; /* longer is a lie */
    if (link->hello.uptime_s > 0 && link->hello.uptime_s < most_s)
        uptime_ns = link->hello.uptime_s * 1000 * MS;
    if (server->started_ns == 0 || restarted) server->started_ns = lane->ready_ns - uptime_ns;
    if (restarted) server->run++;
    link->run = server->run;
    warn_of_eviction(server, &link->hello);
    if (restarted) {
        bool holds = !belay_links_empty(&server->held);
        belay_env_log(server->env, holds ? BELAY_LOG_WARN : BELAY_LOG_INFO,
                      "%s: it was restarted%s", server->peer.node,
                      holds ? "; held locks are checked" : "");
        belay__held_check(server);
    }
    if (lane_id(lane) == belay__server_takes(server)) belay__tracking_link(server, link);
    queue_run(lane);
}

static void lane_retry(struct belay__lane *lane)
{
    belay_env *env = lane->server->env;
    uint32_t backoff = lane->backoff_ms == 0 ? BACKOFF_FIRST_MS : lane->backoff_ms * 2;
    /* An attempt must not lie in a pause from its beginning to its end. */
    int64_t most = belay_env_timeout_ns(env) / (2 * MS);
    if (most > BACKOFF_LAST_MS) most = BACKOFF_LAST_MS;
    if (most < BACKOFF_FIRST_MS) most = BACKOFF_FIRST_MS;
    lane->backoff_ms = backoff < (uint32_t)most ? backoff : (uint32_t)most;
    /* Half of it at random: a crowd must not come back in step. */
    int64_t us = (int64_t)lane->backoff_ms * 500;
    us += belay_env_random_below(env, (uint32_t)us + 1);
    belay_timer_arm(env, &lane->again, belay_env_now(env) + us * 1000);
}

static void tell_refusal(struct belay__lane *lane)
{
    struct belay__errand *errand;
    belay_link todo = lane->queue;
    if (belay_links_empty(&lane->queue)) return;
    todo.next->prev = todo.prev->next = &todo;
    belay_links_init(&lane->queue);
    while (!belay_links_empty(&todo)) {
        belay_link *first = todo.next;
        errand = belay_container_of(first, struct belay__errand, link);
        belay_unlink(first);
        errand->refused(errand, &lane->why);
    }
}

static void link_ended(struct belay__link *link)
{
    struct belay__lane *lane = link->owner;
    bool in_use = lane->link == link;
    if (in_use) lane->link = NULL;
    else belay_unlink(&link->all);
    if (in_use) {
        bool said = strcmp(lane->why.text, link->why.text) == 0;
        lane->why = link->why;
        if (!said)
            belay_env_log(lane->server->env, BELAY_LOG_INFO, "%s: %s", lane->server->peer.node,
                          link->why.text);
        /* One that was of use is replaced at once. One that is cut as soon as it is used is not: a
         * proxy, perhaps, that does not like what we say. */
        if (link->served) lane->backoff_ms = 0;
        lane->ready_ns = 0;
        lane_retry(lane);
        if (lane->why.status != BELAY_UNAVAILABLE) tell_refusal(lane);
        if (lane_id(lane) == belay__server_takes(lane->server))
            belay__tracking_link(lane->server, NULL);
    }
    belay__link_close(link, true);
    belay__server_mind(lane->server);
}

/* A draining link has all its answers. */
static void link_idle(struct belay__link *link)
{
    struct belay__lane *lane = link->owner;
    if (lane->link == link) return;
    belay_unlink(&link->all);
    belay__link_close(link, true);
    belay__server_mind(lane->server);
}

static void lane_connect(struct belay__lane *lane)
{
    struct belay__server *server = lane->server;
    int64_t patience = 2 * belay_env_timeout_ns(server->env);
    if (patience < PATIENCE_LEAST_MS * MS) patience = PATIENCE_LEAST_MS * MS;
    lane->link = belay__link_new(server->env, &server->peer, patience);
    if (lane->link == NULL) {
        belay__failure_set(&lane->why, BELAY_NOMEM, BELAY_CAUSE_NONE, "no memory for a connection");
        lane_retry(lane);
        return;
    }
    lane->link->owner = lane;
    lane->link->serial = ++server->links;
    lane->link->ready = link_ready;
    lane->link->ended = link_ended;
    lane->link->idle = link_idle;
    belay__link_open(lane->link);
}

static void again_due(belay_timer *timer)
{
    struct belay__lane *lane = belay_container_of(timer, struct belay__lane, again);
    if (lane->link == NULL && is_needed(lane)) lane_connect(lane);
}

/* ------------------------------------------------------------------ stalls */

void belay__server_complain(struct belay__server *server, struct belay__link *link)
{
    struct belay__lane *lane = link->owner;
    int64_t now = belay_env_now(server->env);
    /* A timer is never early, and a request leaves a little after its op began. */
    bool silent = belay__link_silence(link, now) >= belay_env_timeout_ns(server->env) * 9 / 10;
    if (!silent || lane->link != link || link->state != BELAY__LINK_READY) return;
    if (belay__link_has_bytes(link)) return; /* it is we who did not listen */
    belay_env_log(server->env, BELAY_LOG_INFO, "%s: no answer; a second connection is opened",
                  server->peer.node);
    belay__failure_set(&lane->why, BELAY_UNAVAILABLE, BELAY_CAUSE_UNREACHABLE, "no answer in time");
    belay_link_append(&lane->draining, &link->all);
    lane->link = NULL;
    lane->ready_ns = 0;
    belay__server_mind(server);
    if (lane_id(lane) == belay__server_takes(server)) belay__tracking_link(server, NULL);
    lane_connect(lane);
}

/* A link that goes on saying nothing while its replacement is answered: it is not the server that
 * stalls. Ending it lets the replacement settle what it owes, for good (giveback.c). */
static void drains_check(struct belay__lane *lane, int64_t now)
{
    int64_t timeout = belay_env_timeout_ns(lane->server->env);
    for (belay_link *at = lane->draining.next, *next; at != &lane->draining; at = next) {
        next = at->next;
        struct belay__link *link = belay_container_of(at, struct belay__link, all);
        if (belay__link_silence(link, now) <= 3 * timeout) continue;
        belay__link_end(link, BELAY_UNAVAILABLE, BELAY_CAUSE_UNREACHABLE,
                        "no answer, while another connection is answered");
        next = lane->draining.next; /* whatever that has changed */
    }
}

static void check_due(belay_timer *timer)
{
    struct belay__lane *lane = belay_container_of(timer, struct belay__lane, check);
    struct belay__server *server = lane->server;
    int64_t now = belay_env_now(server->env);
    if (lane->link == NULL && lane->why.status != BELAY_UNAVAILABLE) tell_refusal(lane);
    if (belay__server_link(server, lane_id(lane)) != NULL) {
        queue_run(lane);
        if (now - lane->ready_ns > belay_env_timeout_ns(server->env)) drains_check(lane, now);
    }
    if (!server->minding) return;
    struct belay__link *link = belay__server_link(server, lane_id(lane));
    if (link != NULL) belay__server_complain(server, link);
    if (!belay_timer_armed(timer))
        belay_timer_arm(server->env, timer, now + belay_env_timeout_ns(server->env));
}

/* ------------------------------------------------------------------ the object */

belay_status belay__server_init(struct belay__server *server)
{
    belay_links_init(&server->debts);
    belay_links_init(&server->held);
    for (int i = 0; i < BELAY__LANES; i++) {
        struct belay__lane *lane = &server->lanes[i];
        lane->server = server;
        lane->why.status = BELAY_UNAVAILABLE;
        belay_links_init(&lane->draining);
        belay_links_init(&lane->queue);
        belay_timer_init(&lane->again, again_due);
        belay_timer_init(&lane->check, check_due);
    }
    return belay__tracking_init(server);
}

void belay__server_fini(struct belay__server *server)
{
    belay__tracking_fini(server);
    for (int i = 0; i < BELAY__LANES; i++) {
        struct belay__lane *lane = &server->lanes[i];
        struct belay__link *link = lane->link;
        lane->link = NULL;
        belay__link_close(link, true);
        while (!belay_links_empty(&lane->draining)) {
            link = belay_container_of(lane->draining.next, struct belay__link, all);
            belay_unlink(&link->all);
            belay__link_close(link, true);
        }
        belay_timer_disarm(server->env, &lane->again);
        belay_timer_disarm(server->env, &lane->check);
    }
    belay__givebacks_drop(server);
    belay__server_mind(server);
    belay__attempts_free(server);
}
