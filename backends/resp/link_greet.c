/* link_greet.c - the first requests on a connection: who we are, which database, and what the
 * server says of itself. See link.h. */
#include "backends/resp/link_parts.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ASK_AUTH, ASK_SELECT, ASK_NAME, ASK_ID, ASK_SERVER, ASK_MEMORY, ASK_REPLICATION };

static void info_copy(const char *info, const char *key, char *out, size_t size)
{
    size_t length = strlen(key);
    for (const char *line = info; line != NULL && *line != '\0';) {
        const char *end = line + strcspn(line, "\r\n");
        if (strncmp(line, key, length) == 0 && line[length] == ':') {
            snprintf(out, size, "%.*s", (int)(end - line - (ptrdiff_t)length - 1),
                     line + length + 1);
            belay__words_clean(out);
            return;
        }
        line = end + strspn(end, "\r\n");
    }
}

static void info_read(struct belay__hello *hello, const char *info)
{
    char number[32] = "";
    info_copy(info, "run_id", hello->run_id, sizeof hello->run_id);
    info_copy(info, "redis_version", hello->version, sizeof hello->version);
    info_copy(info, "maxmemory_policy", hello->policy, sizeof hello->policy);
    info_copy(info, "role", hello->role, sizeof hello->role);
    info_copy(info, "uptime_in_seconds", number, sizeof number);
    if (number[0] != '\0') hello->uptime_s = strtoll(number, NULL, 10);
    number[0] = '\0';
    info_copy(info, "maxmemory", number, sizeof number);
    if (number[0] != '\0') hello->maxmemory = strtoll(number, NULL, 10);
}

/* What can't be done without, was refused. */
static void greeting_refused(struct belay__link *link, const struct belay__reply *reply)
{
    struct belay__failure failure;
    if (reply->type != BELAY__REPLY_ERROR)
        belay__failure_set(&failure, BELAY_UNAVAILABLE, BELAY_CAUSE_WRONG,
                           "it does not speak the Redis protocol");
    else if (belay__words_read(reply->text, &failure) != BELAY__MEANS_LATER) {
        failure.status = BELAY_REFUSED; /* whatever its words: it will not have us */
        failure.cause = BELAY_CAUSE_WRONG;
    }
    belay__link_end(link, failure.status, failure.cause, "%s", failure.text);
}

static void greeted(void *owner, uint32_t which, enum belay__moment moment,
                    const struct belay__reply *reply)
{
    struct belay__link *link = owner;
    if (moment != BELAY__ANSWERED) return;
    bool error = reply->type == BELAY__REPLY_ERROR;
    if ((which == ASK_AUTH || which == ASK_SELECT) && !belay__reply_is(reply, "OK")) {
        greeting_refused(link, reply);
        return;
    }
    struct belay__failure failure;
    /* A server that is busy with a script says nothing of itself: it is asked again later. */
    if (error &&
        (strncmp(reply->text, "NOAUTH", 6) == 0 || strncmp(reply->text, "DENIED", 6) == 0 ||
         belay__words_read(reply->text, &failure) == BELAY__MEANS_LATER)) {
        greeting_refused(link, reply);
        return;
    }
    if (which == ASK_ID && reply->type == BELAY__REPLY_INTEGER)
        link->hello.client_id = reply->integer;
    if (which >= ASK_SERVER && reply->type == BELAY__REPLY_STRING)
        info_read(&link->hello, reply->text);
    if (--link->greeting > 0) return;
    belay_timer_disarm(link->env, &link->timer);
    link->state = BELAY__LINK_READY;
    if (link->ready != NULL) link->ready(link);
}

static bool greet_with(struct belay__link *link, uint32_t which, int argc, const char *const *argv)
{
    if (belay__link_put(link, greeted, link, which, false, argc, argv, NULL) == 0) return false;
    link->greeting++;
    return true;
}

void belay__link_greet(struct belay__link *link)
{
    const struct belay__peer *peer = link->peer;
    char number[16];
    snprintf(number, sizeof number, "%u", (unsigned)peer->db);
    const char *auth[] = { "AUTH", peer->user, peer->password };
    const char *old_auth[] = { "AUTH", peer->password };
    const char *select[] = { "SELECT", number };
    const char *name[] = { "CLIENT", "SETNAME", peer->client_name };
    const char *id[] = { "CLIENT", "ID" };
    const char *server[] = { "INFO", "server" };
    const char *memory[] = { "INFO", "memory" };
    const char *replication[] = { "INFO", "replication" };
    link->state = BELAY__LINK_GREETING;
    bool ok = true;
    if (peer->password != NULL && peer->user != NULL) ok = greet_with(link, ASK_AUTH, 3, auth);
    else if (peer->password != NULL) ok = greet_with(link, ASK_AUTH, 2, old_auth);
    if (ok && peer->db != 0) ok = greet_with(link, ASK_SELECT, 2, select);
    if (ok && peer->client_name != NULL) ok = greet_with(link, ASK_NAME, 3, name);
    ok = ok && greet_with(link, ASK_ID, 2, id) && greet_with(link, ASK_SERVER, 2, server) &&
         greet_with(link, ASK_MEMORY, 2, memory) &&
         greet_with(link, ASK_REPLICATION, 2, replication);
    if (!ok) belay__link_end(link, BELAY_NOMEM, BELAY_CAUSE_NONE, "no memory for a connection");
}
