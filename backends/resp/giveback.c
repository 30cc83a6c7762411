/* giveback.c - nothing is left behind: what an abandoned acquire may yet become is deleted.
 *
 * The compare-and-delete goes right behind the attempt on the same socket, so the server executes
 * them in that order whenever it comes to it. If that link breaks before the answer, the next one
 * to the same server first ends the old connection there (CLIENT KILL ID): then nothing of it can
 * be executed any more, and any answer to the delete is final. Where that can't be done (a proxy,
 * another server, no permission), only "deleted" is final, and the delete is repeated until the
 * attempt's TTL has run out. SEMANTICS 2. */
#include "backends/resp/attempt.h"

#include <string.h>

#define MS INT64_C(1000000)

enum {
    AGAIN_FIRST_MS = 20,
    AGAIN_LAST_MS = 1000,
    MARGIN_MS = 100,
    CUTS_MOST = 10,
    NAME_MOST = 8,
    GONE_MS = 3600000
};

static void pay(struct belay__attempt *debt, struct belay__link *link);

static void errand_go(struct belay__errand *errand, struct belay__link *link)
{
    struct belay__attempt *debt = belay_container_of(errand, struct belay__attempt, errand);
    belay_timer_disarm(debt->server->env, &debt->timer);
    pay(debt, link);
}

/* Who waited behind it tries again: it is settled, or stands nowhere and can go ahead of them. */
static void let_go(belay_link *parked)
{
    belay_link behind = *parked;
    if (belay_links_empty(parked)) return;
    behind.next->prev = behind.prev->next = &behind;
    belay_links_init(parked);
    while (!belay_links_empty(&behind)) {
        struct belay__attempt *next =
            belay_container_of(behind.next, struct belay__attempt, parked);
        belay_unlink(&next->parked);
        belay__attempt_go(next);
    }
}

/* Past its TTL there is nothing to delete any more: the attempt is over, or can't be ended. One
 * whose connection can be killed may come back to life with it (a server that was stopped): it is
 * given up when that is gone for good. */
static bool is_over(const struct belay__attempt *debt)
{
    bool killable = debt->client_id > 0 && debt->run_id[0] != '\0' && debt->cuts < CUTS_MOST;
    int64_t past = belay_env_now(debt->server->env) - debt->until_ns;
    return past >= (debt->final || !killable ? 0 : GONE_MS * MS);
}

static void done(struct belay__attempt *debt)
{
    struct belay__server *server = debt->server;
    belay_unlink(&debt->debt);
    server->debt_count--;
    belay__server_mind(server);
    belay__tracking_wake(server, (belay_str){ debt->key, debt->key_length });
    let_go(&debt->behind);
    belay__attempt_free(debt);
}

/* Asks again after a while, unless there is nothing to delete any more. */
static void again(struct belay__attempt *debt)
{
    belay_env *env = debt->server->env;
    uint32_t backoff = debt->backoff_ms == 0 ? AGAIN_FIRST_MS : debt->backoff_ms * 2;
    debt->backoff_ms = backoff < AGAIN_LAST_MS ? backoff : AGAIN_LAST_MS;
    belay_timer_arm(env, &debt->timer, belay_env_now(env) + debt->backoff_ms * MS);
}

/* It can't be executed any more, nor was it later than now. */
static void finally(struct belay__attempt *debt)
{
    debt->final = true;
    debt->until_ns = belay_env_now(debt->server->env) + ((int64_t)debt->ttl_ms + MARGIN_MS) * MS;
}

static enum belay__lane_id lane_of(const struct belay__attempt *debt)
{
    return belay__server_takes(debt->server);
}

/* By the link that carried the attempt while that lives, else by the lane's next. */
static void settle_soon(struct belay__attempt *debt)
{
    struct belay__link *link = debt->link;
    if (link != NULL && link->state == BELAY__LINK_READY) {
        pay(debt, link);
        return;
    }
    bool killable = debt->client_id > 0 && !debt->final;
    belay__server_unwant(&debt->errand);
    belay__server_want(debt->server, lane_of(debt), &debt->errand);
    belay_timer_arm(debt->server->env, &debt->timer,
                    debt->until_ns + (killable ? GONE_MS * MS : 0));
}

static void timer_due(belay_timer *timer)
{
    struct belay__attempt *debt = belay_container_of(timer, struct belay__attempt, timer);
    if (debt->link == NULL && is_over(debt)) done(debt);
    else settle_soon(debt);
}

static void errand_refused(struct belay__errand *errand, const struct belay__failure *why)
{
    struct belay__attempt *debt = belay_container_of(errand, struct belay__attempt, errand);
    (void)why;
    if (debt->cuts < CUTS_MOST) debt->cuts++;
    again(debt);
}

/* Is it sure that killing the old connection ends what it carried? */
static bool is_killable(const struct belay__attempt *debt, const struct belay__link *link)
{
    return debt->client_id > 0 && debt->client_id != link->hello.client_id &&
           debt->run_id[0] != '\0' && strcmp(debt->run_id, link->hello.run_id) == 0;
}

static void pay(struct belay__attempt *debt, struct belay__link *link)
{
    bool same_socket = debt->link == link;
    /* The process that had it is gone. */
    if (!same_socket && link->hello.run_id[0] != '\0' &&
        strcmp(debt->run_id, link->hello.run_id) != 0)
        debt->client_id = 0;
    if (!same_socket && !debt->final && is_killable(debt, link)) {
        char id[21];
        const char *argv[] = { "CLIENT", "KILL", "ID", id };
        belay__decimal((uint64_t)debt->client_id, id);
        debt->link = link;
        debt->main = belay__link_ask(link, belay__attempt_hear, debt, BELAY__PART_KILL, false, 4,
                                     argv, NULL);
    }
    uint64_t seq = belay__attempt_ask_script(debt, link, BELAY__SCRIPT_RELEASE, debt->by_source,
                                             BELAY__PART_GIVEBACK);
    if (seq != 0) {
        debt->link = link;
        debt->giveback = seq;
        return;
    }
    if (debt->main == 0 && debt->wait == 0) debt->link = NULL;
    again(debt);
}

void belay__giveback_owe(struct belay__attempt *attempt)
{
    struct belay__server *server = attempt->server;
    struct belay__link *link = attempt->link;
    attempt->until_ns = belay_env_now(server->env) + ((int64_t)attempt->ttl_ms + MARGIN_MS) * MS;
    attempt->client_id = link->hello.client_id;
    memcpy(attempt->run_id, link->hello.run_id, sizeof attempt->run_id);
    attempt->errand.go = errand_go;
    attempt->errand.refused = errand_refused;
    belay_timer_disarm(server->env, &attempt->timer);
    belay_timer_init(&attempt->timer, timer_due);
    attempt->backoff_ms = 0;
    attempt->by_source = true; /* EVAL: it must not come back as NOSCRIPT */
    attempt->giveback = 0;
    belay_links_init(&attempt->behind);
    belay_link_append(&server->debts, &attempt->debt);
    server->debt_count++;
    belay__server_mind(server);
    /* It was answered already: nothing can come after the delete. */
    if (attempt->main == 0 && attempt->answered) finally(attempt);
    if (link->state == BELAY__LINK_ENDED) {
        attempt->link = NULL;
        attempt->main = attempt->wait = 0;
    }
    settle_soon(attempt);
}

/* The link is gone, and with it everything that was asked there. */
static void broken(struct belay__attempt *debt)
{
    struct belay__link *link = debt->link;
    if (link == NULL) return;
    belay__link_forget(link, debt->main);
    belay__link_forget(link, debt->wait);
    belay__link_forget(link, debt->giveback);
    debt->link = NULL;
    debt->main = debt->wait = debt->giveback = 0;
    belay_timer_disarm(debt->server->env, &debt->timer);
    if (debt->cuts < CUTS_MOST) debt->cuts++;
    if (is_over(debt)) {
        done(debt);
        return;
    }
    settle_soon(debt);
    let_go(&debt->behind);
}

/* What the answer to one part says of the whole. True: the debt is settled. */
static bool part_answered(struct belay__attempt *debt, enum belay__part part,
                          const struct belay__reply *reply)
{
    bool number = reply->type == BELAY__REPLY_INTEGER;
    struct belay__failure why;
    switch (part) {
    case BELAY__PART_MAIN: /* the attempt itself: executed, or refused; what comes next is final */
        debt->main = 0;
        finally(debt);
        return false;
    case BELAY__PART_KILL:
        debt->main = 0;
        if (number) finally(debt); /* none killed: it had ended by itself */
        else if (belay__words_read(reply->text, &why) != BELAY__MEANS_LATER)
            debt->client_id = 0; /* it may not: no use asking again */
        return false;
    case BELAY__PART_GIVEBACK:
        debt->giveback = 0;
        debt->answered_on = number ? debt->link->serial : 0;
        if (number && (reply->integer == 1 || debt->final)) return true;
        /* Who may not EVAL may EVALSHA, perhaps; if the script is not there, the other way. */
        if (reply->type == BELAY__REPLY_ERROR) {
            enum belay__meaning meaning = belay__words_read(reply->text, &why);
            if (meaning == BELAY__MEANS_NOSCRIPT || why.status == BELAY_REFUSED)
                debt->by_source = !debt->by_source;
        }
        again(debt);
        return false;
    case BELAY__PART_LOOK: debt->main = 0; return false;
    default: debt->wait = 0; return false;
    }
}

void belay__giveback_hear(struct belay__attempt *debt, enum belay__part part,
                          enum belay__moment moment, const struct belay__reply *reply)
{
    if (moment == BELAY__LEFT) return;
    if (moment == BELAY__CUT) {
        broken(debt);
    } else if (part_answered(debt, part, reply)) {
        done(debt);
    } else if (debt->main == 0 && debt->wait == 0 && debt->giveback == 0) {
        debt->link = NULL; /* nothing of it stands there any more */
        let_go(&debt->behind);
    }
}

static bool is_for(const struct belay__attempt *debt, belay_str key, uint32_t hash)
{
    return debt->hash == hash && debt->key_length == key.length &&
           memcmp(debt->key, key.at, key.length) == 0;
}

struct belay__attempt *belay__giveback_before(struct belay__server *server, belay_str key,
                                              uint32_t hash, struct belay__link *link)
{
    unsigned count = 0;
    struct belay__attempt *first = NULL;
    for (belay_link *at = server->debts.next; at != &server->debts; at = at->next) {
        struct belay__attempt *debt = belay_container_of(at, struct belay__attempt, debt);
        if (!is_for(debt, key, hash)) continue;
        if (count++ == 0) first = debt;
        /* Deleted there, or found gone: it is ahead, whatever may come of it later. */
        if (debt->link == NULL && debt->answered_on == link->serial) continue;
        if (debt->link == NULL) {
            belay__server_unwant(&debt->errand);
            belay_timer_disarm(server->env, &debt->timer);
            pay(debt, link);
        }
        if (debt->link != link || debt->giveback == 0) return debt;
    }
    /* Attempts that all become debts: no more of them until these are settled. */
    return count >= NAME_MOST ? first : NULL;
}

bool belay__giveback_owes(const struct belay__server *server)
{
    return !belay_links_empty(&server->debts);
}

void belay__givebacks_drop(struct belay__server *server)
{
    while (!belay_links_empty(&server->debts)) {
        struct belay__attempt *debt =
            belay_container_of(server->debts.next, struct belay__attempt, debt);
        belay_unlink(&debt->debt);
        server->debt_count--;
        debt->link = NULL;
        belay__attempt_free(debt);
    }
}
