/* held.c - the locks that this client holds at a server, looked at again when that is another than
 * before: it was restarted, perhaps with nothing in it, and there is no need to wait for the next
 * extension to say so. */
#include "backends/resp/server.h"

#include <string.h>

struct held {
    belay_grant grant;
    struct belay__server *server;
    struct belay__errand errand;
    struct belay__link *link; /* where the question stands; NULL: nowhere */
    uint64_t asked;
    belay_link all;
    uint64_t run; /* of the server, when the lock was looked at there last */
    char owner[BELAY_OWNER_LENGTH + 1];
    uint32_t key_length;
    char key[];
};

static void want(struct held *held)
{
    if (!belay_linked(&held->errand.link))
        belay__server_want(held->server, BELAY__LANE_MAIN, &held->errand);
}

static void hear(void *owner, uint32_t which, enum belay__moment moment,
                 const struct belay__reply *reply)
{
    struct held *held = owner;
    const struct belay__link *link = held->link;
    (void)which;
    if (moment == BELAY__LEFT) return;
    held->link = NULL;
    if (moment == BELAY__CUT) {
        want(held);
    } else if (reply->type == BELAY__REPLY_NIL) {
        belay_grant_forgotten(&held->grant, "the server was restarted and has forgotten it");
    } else if (reply->type == BELAY__REPLY_STRING) {
        held->run = link->run;
        if (strcmp(reply->text, held->owner) != 0)
            belay_grant_lost(&held->grant, "the server was restarted, and another holds it");
    } /* whatever else it says, the next extension asks again */
}

static void go(struct belay__errand *errand, struct belay__link *link)
{
    struct held *held = belay_container_of(errand, struct held, errand);
    const char *argv[] = { "GET", held->key };
    const size_t lengths[] = { 3, held->key_length };
    held->asked = belay__link_ask(link, hear, held, 0, false, 2, argv, lengths);
    if (held->asked != 0) held->link = link;
}

static void refused(struct belay__errand *errand, const struct belay__failure *why)
{
    (void)errand, (void)why; /* the next extension says it */
}

belay_grant *belay__held_new(struct belay__server *server, const belay_op *op,
                             const struct belay__link *link)
{
    struct held *held = belay_env_alloc(server->env, sizeof *held + op->key.length + 1);
    if (held == NULL) return NULL;
    held->server = server;
    held->errand.go = go;
    held->errand.refused = refused;
    memcpy(held->owner, op->owner, strlen(op->owner) + 1);
    memcpy(held->key, op->key.at, op->key.length);
    held->key_length = (uint32_t)op->key.length;
    held->run = link->run;
    belay_link_append(&server->held, &held->all);
    return &held->grant;
}

void belay__held_drop(struct belay__server *server, belay_grant *grant)
{
    struct held *held = belay_container_of(grant, struct held, grant);
    if (held->link != NULL) belay__link_forget(held->link, held->asked);
    belay__server_unwant(&held->errand);
    belay_unlink(&held->all);
    belay_env_free(server->env, held);
}

void belay__held_seen(belay_grant *grant, const struct belay__link *link)
{
    belay_container_of(grant, struct held, grant)->run = link->run;
}

bool belay__held_is_news(const belay_grant *grant, const struct belay__link *link)
{
    return belay_container_of(grant, struct held, grant)->run != link->run;
}

void belay__held_check(struct belay__server *server)
{
    for (belay_link *at = server->held.next; at != &server->held; at = at->next)
        want(belay_container_of(at, struct held, all));
}
