/* doctor.c - what a server is like, and what that means for the locks on it: diagnose.
 *
 * Asks on a connection of its own, so that nothing it tries changes the one in use: first a few
 * round trips, then everything else at once. What a server refuses to say is a finding too. */
#include "backends/resp/server.h"

#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define MS INT64_C(1000000)

enum { PINGS = 5, PROBE_TTL_MS = 1000, CLOCKS_APART_MS = 5000, CERTIFICATE_DAYS = 14 };

enum question {
    ASK_PING,
    ASK_INFO,
    ASK_TIME,
    ASK_WHOAMI,
    ASK_APPEND,
    ASK_SAVE,
    ASK_FENCE,
    ASK_SHA,
    ASK_TAKE,
    ASK_EXTEND,
    ASK_RELEASE,
    ASK_SCAN,
    ASK_KILL,
    ASK_TRACKING,
    ASK_SUBSCRIBE, /* last: afterwards the connection is of no other use */
    QUESTIONS
};

struct doctor {
    struct belay__server *server;
    belay_op *op;
    struct belay__link *link;
    int64_t asked_ns, trips_ns[PINGS];
    unsigned pings, open;
    char key[700];
    char info[16 << 10];
    char words[QUESTIONS][160]; /* errors; "": none */
    char user[64], append[16], save[64];
    int64_t clock_apart_ms;
    bool refused[QUESTIONS]; /* of those: it will never allow it */
    bool clock_known, fence_odd, lock_lost;
};

/* ------------------------------------------------------------------ what was found */

__attribute__((format(printf, 6, 7))) static void find(struct doctor *d, belay_severity severity,
                                                       const char *check, const char *meaning,
                                                       const char *advice, const char *format, ...)
{
    char text[384];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    (void)belay_op_find(d->op, severity, check, meaning, advice, "%s", text);
}

/* A field of INFO; "" when there is none. */
static const char *info(const struct doctor *d, const char *field, char out[64])
{
    size_t length = strlen(field);
    out[0] = '\0';
    for (const char *line = d->info; *line != '\0'; line += strspn(line, "\r\n")) {
        size_t end = strcspn(line, "\r\n");
        if (end > length && strncmp(line, field, length) == 0 && line[length] == ':')
            snprintf(out, 64, "%.*s", (int)(end - length - 1), line + length + 1);
        line += end;
    }
    belay__words_clean(out);
    return out;
}

static long long info_number(const struct doctor *d, const char *field)
{
    char text[64];
    return info(d, field, text)[0] != '\0' ? strtoll(text, NULL, 10) : -1;
}

static bool is_local(const struct belay__link *link)
{
    if (link->address == 0) return false;
    const struct belay__address *at = &link->addresses.list[link->address - 1];
    if (at->at.any.sa_family == AF_UNIX) return true;
    if (at->at.any.sa_family == AF_INET) {
        struct sockaddr_in four;
        memcpy(&four, &at->at, sizeof four);
        return (ntohl(four.sin_addr.s_addr) >> 24) == 127;
    }
    struct sockaddr_in6 six;
    memcpy(&six, &at->at, sizeof six);
    return IN6_IS_ADDR_LOOPBACK(&six.sin6_addr);
}

static void find_version(struct doctor *d)
{
    const struct belay__hello *hello = &d->link->hello;
    int major = atoi(hello->version);
    if (hello->version[0] == '\0')
        find(d, BELAY_WARNING, "version",
             "restarts of the server go unnoticed, and what a broken connection left behind is "
             "deleted again and again until its TTL has run out",
             "allow the INFO command to its user", "it does not say: %s",
             d->words[ASK_INFO][0] != '\0' ? d->words[ASK_INFO] : "INFO has no version");
    else if (major < 6)
        find(d, BELAY_WARNING, "version", "waiters ask again and again instead of being told",
             "6.0 or later has client tracking", "%s, up for %lld s", hello->version,
             (long long)hello->uptime_s);
    else
        find(d, BELAY_FINE, "version", "", "", "%s, up for %lld s", hello->version,
             (long long)hello->uptime_s);
}

static void find_role(struct doctor *d)
{
    const struct belay__server *server = d->server;
    long long replicas = info_number(d, "connected_slaves");
    char role[64];
    if (info(d, "role", role)[0] == '\0') return;
    if (strcmp(role, "master") != 0)
        find(d, BELAY_BROKEN, "role", "no lock can be taken there: it may not be written to",
             "point the configuration to its master", "it is a replica");
    else if (info_number(d, "cluster_enabled") == 1)
        find(d, BELAY_BROKEN, "role", "it serves some locks and refuses others",
             "this type is for one server", "it is a node of a cluster");
    else if (server->replicas > 0 && replicas < (long long)server->replicas)
        find(d, BELAY_BROKEN, "replicas", "no lock can be granted: each waits for them in vain",
             "start the replicas, or ask for fewer", "%lld are connected, `replicas` asks for %u",
             replicas, (unsigned)server->replicas);
    else if (server->replicas > 0)
        find(d, BELAY_FINE, "replicas", "a grant counts when they have it", "",
             "master; %lld are connected, `replicas` asks for %u", replicas,
             (unsigned)server->replicas);
    else if (replicas > 0)
        find(d, BELAY_WARNING, "replicas",
             "replication is asynchronous: a failover can lose the newest locks, and two then hold "
             "one",
             "set `replicas`, and let what is guarded refuse older tokens",
             "master; %lld are connected, and no grant waits for them", replicas);
    else find(d, BELAY_FINE, "role", "", "", "master, without replicas");
}

static void find_latency(struct doctor *d)
{
    for (unsigned i = 1; i < d->pings; i++) /* a few, by insertion */
        for (unsigned k = i; k > 0 && d->trips_ns[k] < d->trips_ns[k - 1]; k--) {
            int64_t trip = d->trips_ns[k];
            d->trips_ns[k] = d->trips_ns[k - 1];
            d->trips_ns[k - 1] = trip;
        }
    if (d->pings == 0) return;
    unsigned middle = d->pings / 2;
    double ms = (double)d->trips_ns[middle] / 1e6;
    double most = (double)belay_env_timeout_ns(d->server->env) / 1e6;
    bool slow = ms > most / 5;
    find(d, slow ? BELAY_WARNING : BELAY_FINE, "latency",
         slow ? "a hiccup is an outage: an attempt needs a round trip or two" : "",
         slow ? "raise `timeout`, and the TTLs with it" : "",
         "%.2f ms a round trip; `timeout` is %.0f ms", ms, most);
}

static void find_tls(struct doctor *d)
{
    const struct belay__link *link = d->link;
    if (link->tls == NULL) {
        bool local = is_local(link);
        find(d, local ? BELAY_FINE : BELAY_WARNING, "tls",
             local ? "" : "who can listen on the network can read owner ids and break locks",
             local ? "" : "use rediss://, or the tls group", "no TLS%s",
             local ? ", and the connection does not leave this host" : "");
        return;
    }
    int64_t end = belay__tls_not_after_s(link->tls);
    int64_t left = end - belay_env_wall_us(d->server->env) / 1000000; /* seconds */
    time_t at = (time_t)end;
    struct tm utc;
    char date[32] = "an unknown day";
    if (end >= 0 && gmtime_r(&at, &utc) != NULL) strftime(date, sizeof date, "%Y-%m-%d", &utc);
    bool soon = end >= 0 && left < CERTIFICATE_DAYS * INT64_C(86400);
    find(d, soon ? BELAY_WARNING : BELAY_FINE, "tls",
         soon ? "when it ends, no client gets in any more" : "", soon ? "renew it" : "",
         "%s; its certificate is good until %s", belay__tls_version(link->tls), date);
}

static void find_credentials(struct doctor *d)
{
    const struct belay__peer *peer = d->link->peer;
    const char *user = d->user[0] != '\0' ? d->user : peer->user != NULL ? peer->user : "default";
    bool open = peer->password == NULL && !is_local(d->link);
    find(d, open ? BELAY_WARNING : BELAY_FINE, "credentials",
         open ? "whoever reaches the port can take and break locks" : "",
         open ? "give it a password, or users (ACL SETUSER)" : "", "user \"%s\", %s", user,
         peer->password != NULL ? "with a password" : "without a password");
}

static void find_rights(struct doctor *d)
{
    static const enum question needed[] = { ASK_SHA, ASK_TAKE, ASK_EXTEND, ASK_RELEASE, ASK_FENCE };
    static const char *const rights =
        "allow its user EVAL, EVALSHA, SET, GET, DEL, TYPE, PTTL, PEXPIRE on its prefix and the "
        "fence key";
    for (size_t i = 0; i < sizeof needed / sizeof needed[0]; i++) {
        if (d->words[needed[i]][0] == '\0') continue;
        if (d->refused[needed[i]])
            find(d, BELAY_BROKEN, "scripts", "locks can't be taken, kept or released", rights, "%s",
                 d->words[needed[i]]);
        else
            find(d, BELAY_BROKEN, "scripts", "no lock can be taken while that lasts",
                 "see to what it says", "%s", d->words[needed[i]]);
        return;
    }
    if (d->lock_lost)
        find(d, BELAY_WARNING, "scripts", "something deletes or changes keys that are not its own",
             "find out who else writes to this database", "a key of ours vanished within a moment");
    else find(d, BELAY_FINE, "scripts", "", "", "what takes, keeps and releases a lock is allowed");
    if (d->words[ASK_SCAN][0] != '\0')
        find(d, BELAY_WARNING, "list", "`belay list` can't tell what is held", "allow SCAN", "%s",
             d->words[ASK_SCAN]);
    if (d->words[ASK_KILL][0] != '\0' || d->link->hello.client_id == 0)
        find(d, BELAY_WARNING, "give-back",
             "what a broken connection may have left behind is deleted again and again until its "
             "TTL has run out, instead of once and for all",
             "allow CLIENT ID and CLIENT KILL", "%s",
             d->words[ASK_KILL][0] != '\0' ? d->words[ASK_KILL] : "CLIENT ID has no answer");
}

static void find_tracking(struct doctor *d)
{
    const char *words =
        d->words[ASK_TRACKING][0] != '\0' ? d->words[ASK_TRACKING] : d->words[ASK_SUBSCRIBE];
    if (!d->server->use_tracking)
        find(d, BELAY_WARNING, "waiting", "waiters ask up to 100 times a second", "tracking = true",
             "`tracking` is off");
    else if (words[0] != '\0')
        find(d, BELAY_WARNING, "waiting", "waiters ask again and again instead of being told",
             "allow CLIENT TRACKING, and the channel __redis__:invalidate", "%s", words);
    else find(d, BELAY_FINE, "waiting", "", "", "waiters are told when a lock is let go");
}

static void find_clock(struct doctor *d)
{
    if (!d->clock_known) return;
    bool apart = llabs((long long)d->clock_apart_ms) > CLOCKS_APART_MS;
    find(d, apart ? BELAY_WARNING : BELAY_FINE, "clock",
         apart ? "TTLs do not mind; but if the fence key is lost, tokens may not grow for as long"
               : "",
         apart ? "let NTP set the clocks" : "", "%lld ms apart from this host's",
         (long long)d->clock_apart_ms);
}

static void find_persistence(struct doctor *d)
{
    bool append = strcmp(d->append, "yes") == 0 || info_number(d, "aof_enabled") == 1;
    bool known = d->append[0] != '\0' || info_number(d, "aof_enabled") >= 0;
    if (!known) return;
    if (append)
        find(d, BELAY_FINE, "persistence", "after a restart it knows all but the last second", "",
             "append-only file");
    else
        find(d, BELAY_WARNING, "persistence",
             "a restart forgets locks that are held: their holders learn it at once, but another "
             "may be in already",
             "appendonly yes; or let what is guarded refuse older tokens", "%s",
             d->save[0] != '\0' ? "snapshots, no append-only file" : "none");
}

static void find_memory(struct doctor *d)
{
    long long most = info_number(d, "maxmemory"), used = info_number(d, "used_memory");
    char policy[64];
    if (info(d, "maxmemory_policy", policy)[0] == '\0') return;
    bool evicts = strcmp(policy, "noeviction") != 0;
    if (most > 0 && evicts)
        find(d, BELAY_WARNING, "eviction", "when memory is short it may evict locks that are held",
             "maxmemory-policy noeviction, or a server for the locks alone",
             "maxmemory %lld bytes, %lld used, policy %s", most, used, policy);
    else if (most > 0 && used > most / 10 * 9)
        find(d, BELAY_WARNING, "memory", "soon no lock can be taken (OOM)", "give it more",
             "%lld of %lld bytes are used", used, most);
    else
        find(d, BELAY_FINE, "eviction", "no lock is evicted", "", "%s",
             most > 0 ? policy : "no limit of memory");
    long long clients = info_number(d, "connected_clients"), room = info_number(d, "maxclients");
    if (clients > 0 && room > 0 && clients > room / 10 * 9)
        find(d, BELAY_WARNING, "clients", "soon it lets nobody in any more", "raise maxclients",
             "%lld of %lld connections are in use", clients, room);
}

static void find_fence(struct doctor *d)
{
    if (!d->server->fencing)
        find(d, BELAY_WARNING, "fencing",
             "a holder that was paused can't be told from the next one", "fencing = true",
             "off: tokens are 0");
    else if (d->fence_odd)
        find(d, BELAY_BROKEN, "fencing", "no lock can be taken",
             "find out who writes there, then delete it",
             "the fence key %.100s holds something else", d->server->fence);
    else find(d, BELAY_FINE, "fencing", "", "", "tokens are kept in %.100s", d->server->fence);
}

/* ------------------------------------------------------------------ asking */

static void doctor_free(struct doctor *d)
{
    belay__link_close(d->link, true);
    belay_env_free(d->server->env, d);
}

static void settle(struct doctor *d)
{
    belay_op *op = d->op;
    doctor_free(d);
    belay_op_settle(op, BELAY_OK);
}

static void unreachable(struct doctor *d, belay_status status, belay_cause cause, const char *text)
{
    bool refused = status == BELAY_REFUSED, busy = cause == BELAY_CAUSE_BUSY;
    find(d, BELAY_BROKEN, refused ? "credentials" : "reachable",
         busy ? "no lock can be taken while that lasts" : "no lock can be taken",
         refused ? "check user, password and certificates"
         : busy  ? "it is there: see what keeps it from serving"
                 : "is it running, and is this its address?",
         "%s: %s", d->server->peer.node, text);
    settle(d);
}

static void conclude(struct doctor *d)
{
    find(d, BELAY_FINE, "reachable", "", "", "%s", d->server->peer.node);
    find_version(d);
    find_role(d);
    find_latency(d);
    find_tls(d);
    find_credentials(d);
    find_rights(d);
    find_tracking(d);
    find_clock(d);
    find_persistence(d);
    find_memory(d);
    find_fence(d);
    settle(d);
}

static void hear(void *owner, uint32_t which, enum belay__moment moment,
                 const struct belay__reply *reply);

static void ask(struct doctor *d, enum question which, int argc, const char *const *argv)
{
    if (belay__link_ask(d->link, hear, d, which, false, argc, argv, NULL) != 0) d->open++;
}

static void ask_script(struct doctor *d, enum question which, enum belay__script_id id,
                       bool by_source)
{
    const struct belay__script *script = &belay__scripts[id];
    char ttl[16];
    snprintf(ttl, sizeof ttl, "%d", (int)PROBE_TTL_MS);
    const char *argv[] = { by_source ? "EVAL" : "EVALSHA",
                           by_source ? script->source : script->sha,
                           "1",
                           d->key,
                           "0123456789abcdef0123456789abcdef",
                           ttl };
    ask(d, which, id == BELAY__SCRIPT_RELEASE ? 5 : 6, argv);
}

static void ask_ping(struct doctor *d)
{
    static const char *const ping[] = { "PING" };
    d->asked_ns = belay_env_now(d->server->env);
    ask(d, ASK_PING, 1, ping);
}

static void ask_all(struct doctor *d)
{
    const char *all[] = { "INFO" }, *clock[] = { "TIME" }, *whoami[] = { "ACL", "WHOAMI" };
    const char *append[] = { "CONFIG", "GET", "appendonly" }, *save[] = { "CONFIG", "GET", "save" };
    const char *fence[] = { "GET", d->server->fence }, *scan[] = { "SCAN", "0", "COUNT", "1" };
    const char *kill[] = { "CLIENT", "KILL", "ID", "9223372036854775806" };
    const char *tracking[] = { "CLIENT", "TRACKING", "ON" };
    const char *subscribe[] = { "SUBSCRIBE", "__redis__:invalidate" };
    d->asked_ns = belay_env_now(d->server->env);
    ask(d, ASK_TIME, 1, clock);
    ask(d, ASK_INFO, 1, all);
    ask(d, ASK_WHOAMI, 2, whoami);
    ask(d, ASK_APPEND, 3, append);
    ask(d, ASK_SAVE, 3, save);
    ask(d, ASK_FENCE, 2, fence);
    ask_script(d, ASK_SHA, BELAY__SCRIPT_EXTEND, false);
    ask_script(d, ASK_TAKE, BELAY__SCRIPT_TAKE, true);
    ask_script(d, ASK_EXTEND, BELAY__SCRIPT_EXTEND, true);
    ask_script(d, ASK_RELEASE, BELAY__SCRIPT_RELEASE, true);
    ask(d, ASK_SCAN, 4, scan);
    ask(d, ASK_KILL, 4, kill);
    ask(d, ASK_TRACKING, 3, tracking);
    ask(d, ASK_SUBSCRIBE, 2, subscribe);
}

static void text_of(const struct belay__reply *reply, char *out, size_t size)
{
    if (reply == NULL) return;
    snprintf(out, size, "%s", reply->text);
    belay__words_clean(out);
}

static void answer(struct doctor *d, enum question which, const struct belay__reply *reply)
{
    const struct belay__reply *one = belay__reply_item(reply, 0),
                              *two = belay__reply_item(reply, 1);
    switch (which) {
    case ASK_INFO: snprintf(d->info, sizeof d->info, "%s", reply->text); break;
    case ASK_TIME:
        if (two == NULL) break;
        d->clock_apart_ms = strtoll(one->text, NULL, 10) * 1000 +
                            strtoll(two->text, NULL, 10) / 1000 -
                            belay_env_wall_us(d->server->env) / 1000;
        d->clock_known = true;
        break;
    case ASK_WHOAMI: text_of(reply, d->user, sizeof d->user); break;
    case ASK_APPEND: text_of(two, d->append, sizeof d->append); break;
    case ASK_SAVE: text_of(two, d->save, sizeof d->save); break;
    case ASK_FENCE:
        d->fence_odd = reply->type == BELAY__REPLY_STRING &&
                       strspn(reply->text, "0123456789:") != reply->length;
        break;
    case ASK_EXTEND:
    case ASK_RELEASE: d->lock_lost |= reply->integer != 1; break;
    default: break;
    }
}

static void hear(void *owner, uint32_t which, enum belay__moment moment,
                 const struct belay__reply *reply)
{
    struct doctor *d = owner;
    struct belay__failure why;
    if (moment != BELAY__ANSWERED) return;
    d->open--;
    if (reply->type == BELAY__REPLY_ERROR) {
        bool expected = which == ASK_SHA && strncmp(reply->text, "NOSCRIPT", 8) == 0;
        bool wrong = strncmp(reply->text, "WRONGTYPE", 9) == 0;
        /* A server that forbids no CLIENT KILL may still find that id odd. */
        if (which == ASK_KILL && strncmp(reply->text, "NOPERM", 6) != 0) expected = true;
        if (which == ASK_FENCE && wrong) d->fence_odd = expected = true;
        if (!expected) {
            belay__words_read(reply->text, &why);
            snprintf(d->words[which], sizeof d->words[which], "%s", why.text);
            d->refused[which] = why.status == BELAY_REFUSED;
        }
    } else {
        answer(d, (enum question)which, reply);
    }
    if (which == ASK_PING) {
        d->trips_ns[d->pings++] = belay_env_now(d->server->env) - d->asked_ns;
        if (d->pings < PINGS) ask_ping(d);
        else ask_all(d);
    }
    if (d->open == 0) conclude(d);
}

static void link_ready(struct belay__link *link)
{
    struct doctor *d = link->owner;
    ask_ping(d);
    if (d->open == 0) unreachable(d, BELAY_NOMEM, BELAY_CAUSE_NONE, "no memory to ask");
}

static void link_ended(struct belay__link *link)
{
    struct doctor *d = link->owner;
    unreachable(d, link->why.status, link->why.cause, link->why.text);
}

void belay__doctor_start(struct belay__server *server, belay_op *op)
{
    struct doctor *d = belay_env_alloc(server->env, sizeof *d);
    struct belay__link *link =
        d == NULL ? NULL
                  : belay__link_new(server->env, &server->peer, belay_env_timeout_ns(server->env));
    if (link == NULL) {
        belay_env_free(server->env, d);
        belay_op_fail(op, BELAY_NOMEM, BELAY_CAUSE_NONE, server->peer.node, "out of memory");
        return;
    }
    uint32_t chance[2];
    belay_env_random(server->env, chance, sizeof chance);
    snprintf(d->key, sizeof d->key, "%sdoctor-%08x%08x", belay_env_prefix(server->env),
             (unsigned)chance[0], (unsigned)chance[1]);
    d->server = server;
    d->op = op;
    d->link = link;
    op->data = d;
    link->owner = d;
    link->ready = link_ready;
    link->ended = link_ended;
    belay__link_open(link);
}

void belay__doctor_cancel(struct belay__server *server, belay_op *op)
{
    struct doctor *d = op->data;
    (void)server;
    unreachable(d, BELAY_UNAVAILABLE, BELAY_CAUSE_UNREACHABLE,
                d->link->state < BELAY__LINK_READY ? "no connection in time" : "no answer in time");
}
