/* redis.c - locks on one Redis server (or Valkey, KeyDB, or whatever speaks its protocol).
 *
 * The lock's key is prefix + name, a plain string that holds the owner id, with a TTL: the format
 * that most lock clients share. What it means is SEMANTICS 5; how it is done stands in
 * backends/resp/: this file reads the settings and hands each verb on. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* explicit_bzero, gethostname */
#endif
#include "backends/resp/server.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { PORT = 6379, PATH_MOST = sizeof(((struct sockaddr_un *)NULL)->sun_path) - 1 };

struct redis {
    belay_backend base;
    belay_env *env;
    struct belay__server server;
    char *words[6]; /* copies of settings, wiped when they go */
    size_t word_count;
    char client_name[128];
};

static struct redis *redis_of(belay_backend *base)
{
    return belay_container_of(base, struct redis, base);
}

/* ------------------------------------------------------------------ the verbs */

static void redis_attempt(belay_backend *base, belay_op *op)
{
    belay__attempt_start(&redis_of(base)->server, op);
}

static void redis_list(belay_backend *base, belay_op *op)
{
    belay__scan_start(&redis_of(base)->server, op);
}

static void redis_diagnose(belay_backend *base, belay_op *op)
{
    belay__doctor_start(&redis_of(base)->server, op);
}

static void redis_cancel(belay_backend *base, belay_op *op)
{
    struct belay__server *server = &redis_of(base)->server;
    switch (op->verb) {
    case BELAY_VERB_LIST: belay__scan_cancel(server, op); break;
    case BELAY_VERB_DIAGNOSE: belay__doctor_cancel(server, op); break;
    default: belay__attempt_cancel(server, op); break;
    }
}

static void redis_drop(belay_backend *base, belay_grant *grant)
{
    belay__held_drop(&redis_of(base)->server, grant);
}

static void redis_unwait(belay_backend *base, belay_wait *wait)
{
    belay__tracking_unwait(&redis_of(base)->server, wait);
}

static void redis_about(const belay_backend *base, belay_about *out)
{
    const struct belay__server *server = &redis_of((belay_backend *)base)->server;
    snprintf(out->instance, sizeof out->instance, "%s", server->run_id);
    out->started_ns = server->started_ns;
}

static bool redis_owes(belay_backend *base)
{
    return belay__giveback_owes(&redis_of(base)->server);
}

/* ------------------------------------------------------------------ the object */

static void redis_destroy(belay_backend *base)
{
    struct redis *r = redis_of(base);
    belay__server_fini(&r->server);
    belay__tls_context_destroy(r->server.peer.tls);
    for (size_t i = 0; i < r->word_count; i++) {
        if (r->words[i] == NULL) continue;
        explicit_bzero(r->words[i], strlen(r->words[i]));
        belay_env_free(r->env, r->words[i]);
    }
    belay_env_free(r->env, r);
}

/* A setting's text, kept for as long as the backend. False: no memory. */
static bool keep(struct redis *r, const belay_settings *settings, const char *key, const char **out)
{
    const char *text = belay_settings_string(settings, key);
    *out = NULL;
    if (text == NULL) return true;
    size_t length = strlen(text) + 1;
    char *copy = belay_env_alloc(r->env, length);
    if (copy == NULL) return false;
    memcpy(copy, text, length);
    r->words[r->word_count++] = copy;
    *out = copy;
    return true;
}

static bool wants_tls(const belay_settings *settings)
{
    if (belay_settings_given(settings, "tls.enabled"))
        return belay_settings_boolean(settings, "tls.enabled");
    return belay_settings_given(settings, "tls.ca") || belay_settings_given(settings, "tls.cert") ||
           belay_settings_given(settings, "tls.key") ||
           belay_settings_given(settings, "tls.server_name");
}

static belay_status tls_read(struct redis *r, const belay_settings *settings, belay_error *err)
{
    if (!wants_tls(settings)) return BELAY_OK;
    if (r->server.peer.path != NULL)
        return belay_settings_wrong(settings, "path", err, "a unix socket has no TLS");
    const struct belay__tls_options options = {
        .ca = belay_settings_string(settings, "tls.ca"),
        .cert = belay_settings_string(settings, "tls.cert"),
        .key = belay_settings_string(settings, "tls.key"),
        .server_name = belay_settings_string(settings, "tls.server_name"),
    };
    return belay__tls_context_create(&r->server.peer.tls, r->env, &options, err);
}

/* Where the server is: a path, or a host and a port. */
static belay_status place_read(struct redis *r, const belay_settings *settings, belay_error *err)
{
    struct belay__peer *peer = &r->server.peer;
    struct belay__addresses known;
    if (peer->path != NULL) {
        if (belay_settings_given(settings, "host") || belay_settings_given(settings, "port"))
            return belay_settings_wrong(settings, "path", err,
                                        "stands instead of a host and a port, not beside them");
        if (strlen(peer->path) > PATH_MOST)
            return belay_settings_wrong(settings, "path", err,
                                        "is longer than the %d bytes a unix socket's may have",
                                        (int)PATH_MOST);
        snprintf(peer->node, sizeof peer->node, "redis %s", peer->path);
        return BELAY_OK;
    }
    if (peer->host == NULL || peer->host[0] == '\0')
        return belay_settings_wrong(settings, "host", err, "is empty");
    peer->port = (uint16_t)belay_settings_integer(settings, "port");
    snprintf(peer->node, sizeof peer->node,
             strchr(peer->host, ':') != NULL ? "redis [%.80s]:%u" : "redis %.80s:%u", peer->host,
             (unsigned)peer->port);
    peer->resolve_here = strcmp(belay_settings_string(settings, "resolve"), "blocking") == 0;
    if (peer->resolve_here || belay_env_worker(r->env) ||
        belay__address_known(&known, peer->host, peer->port))
        return BELAY_OK;
    return belay_settings_wrong(
        settings, "host", err,
        "\"%.100s\" is a name, and with BELAY_DISPATCH no thread may resolve it: give a numeric "
        "address, or resolve = \"blocking\"",
        peer->host);
}

static belay_status replicas_read(struct redis *r, const belay_settings *settings, belay_error *err)
{
    struct belay__server *server = &r->server;
    server->replicas = (uint32_t)belay_settings_integer(settings, "replicas");
    server->replicas_timeout_ms =
        (uint32_t)belay_settings_duration_ms(settings, "replicas_timeout");
    if (server->replicas > 0 &&
        (int64_t)server->replicas_timeout_ms * 1000000 >= belay_env_timeout_ns(r->env))
        return belay_settings_wrong(settings, "replicas_timeout", err,
                                    "must be less than `timeout`, %lld ms: an attempt has no more",
                                    (long long)(belay_env_timeout_ns(r->env) / 1000000));
    return BELAY_OK;
}

static void name_make(struct redis *r, const belay_settings *settings)
{
    const char *given = belay_settings_string(settings, "client_name");
    char host[65] = "";
    if (gethostname(host, sizeof host - 1) != 0 || host[strcspn(host, " \n")] != '\0')
        memcpy(host, "host", sizeof "host");
    if (given != NULL) snprintf(r->client_name, sizeof r->client_name, "%s", given);
    else snprintf(r->client_name, sizeof r->client_name, "belay:%s:%ld", host, (long)getpid());
}

static belay_status settings_read(struct redis *r, const belay_settings *settings, belay_error *err)
{
    struct belay__peer *peer = &r->server.peer;
    const char *name = belay_settings_string(settings, "client_name");
    if (name != NULL)
        for (const char *c = name; *c != '\0'; c++)
            if (*c <= ' ' || *c > '~')
                return belay_settings_wrong(settings, "client_name", err,
                                            "has a space or a special character in it");
    name_make(r, settings);
    peer->client_name = r->client_name;
    peer->db = (uint32_t)belay_settings_integer(settings, "db");
    if (!keep(r, settings, "host", &peer->host) || !keep(r, settings, "path", &peer->path) ||
        !keep(r, settings, "user", &peer->user) || !keep(r, settings, "password", &peer->password))
        return belay_error_set(err, BELAY_NOMEM, NULL, NULL);
    if (peer->user != NULL && peer->password == NULL)
        return belay_settings_wrong(settings, "user", err, "needs a password as well");
    belay_status status = place_read(r, settings, err);
    if (status == BELAY_OK) status = tls_read(r, settings, err);
    if (status == BELAY_OK) status = replicas_read(r, settings, err);
    return status;
}

static belay_status redis_create(belay_backend **out, belay_env *env,
                                 const belay_settings *settings, belay_error *err)
{
    struct redis *r = belay_env_alloc(env, sizeof *r);
    if (r == NULL) return belay_error_set(err, BELAY_NOMEM, NULL, NULL);
    struct belay__server *server = &r->server;
    r->env = server->env = env;
    server->fencing = belay_env_fencing(env);
    server->use_tracking = belay_settings_boolean(settings, "tracking");
    server->fence_length =
        (size_t)snprintf(server->fence, sizeof server->fence, "fence:%s", belay_env_prefix(env));
    belay_status status = belay__server_init(server);
    if (status != BELAY_OK) belay_error_set(err, status, NULL, NULL);
    if (status == BELAY_OK) status = settings_read(r, settings, err);
    if (status == BELAY_OK) *out = &r->base;
    else redis_destroy(&r->base);
    return status;
}

/* ------------------------------------------------------------------ the table */

/* redis://user:password@host:port/db, rediss:// the same with TLS, redis+unix:///path. */
static belay_status redis_url(const belay_url *url,
                              void (*put)(void *arg, const char *key, const char *value), void *arg,
                              belay_error *err)
{
    char port[8];
    if (url->user != NULL && url->user[0] != '\0') put(arg, "user", url->user);
    if (url->password != NULL) put(arg, "password", url->password);
    if (strcmp(url->scheme, "redis+unix") == 0) {
        if (url->host_count > 0 || url->path[0] != '/')
            return belay_error_set(err, BELAY_CONFIG, NULL,
                                   "a socket's path stands behind three slashes: "
                                   "redis+unix:///run/redis.sock");
        put(arg, "path", url->path);
        return BELAY_OK;
    }
    if (url->host_count > 1)
        return belay_error_set(err, BELAY_CONFIG, NULL, "names several servers: %s: is one alone",
                               url->scheme);
    if (url->host_count == 1) put(arg, "host", url->hosts[0].host);
    if (url->host_count == 1 && url->hosts[0].port != 0) {
        snprintf(port, sizeof port, "%u", (unsigned)url->hosts[0].port);
        put(arg, "port", port);
    }
    if (strcmp(url->scheme, "rediss") == 0) put(arg, "tls.enabled", "true");
    if (url->path[0] == '/' && url->path[1] != '\0') put(arg, "db", url->path + 1);
    else if (url->path[0] != '\0' && url->path[0] != '/') put(arg, "host", url->path);
    return BELAY_OK;
}

static const belay_setting_spec redis_settings[] = {
    { .key = "host",
      .type = BELAY_SETTING_STRING,
      .initial = "127.0.0.1",
      .help = "the server's name or address" },
    { .key = "port",
      .type = BELAY_SETTING_INTEGER,
      .initial = "6379",
      .min = 1,
      .max = 65535,
      .help = "its port" },
    { .key = "path",
      .type = BELAY_SETTING_STRING,
      .help = "its unix socket, instead of a host and a port" },
    { .key = "user", .type = BELAY_SETTING_STRING, .help = "an ACL user; none: the default one" },
    { .key = "password", .type = BELAY_SETTING_SECRET, .help = "the user's password" },
    { .key = "db",
      .type = BELAY_SETTING_INTEGER,
      .initial = "0",
      .min = 0,
      .max = 1000000,
      .help = "the number of the database; all who share locks use the same" },
    { .key = "client_name",
      .type = BELAY_SETTING_STRING,
      .help = "shown by CLIENT LIST; belay:HOST:PID unless set" },
    { .key = "tls.enabled",
      .type = BELAY_SETTING_BOOLEAN,
      .initial = "false",
      .help = "TLS with the system's certificates; on where another tls key is set" },
    { .key = "tls.ca",
      .type = BELAY_SETTING_STRING,
      .help = "a PEM file (or directory) of the authorities to trust, instead of the system's" },
    { .key = "tls.cert", .type = BELAY_SETTING_STRING, .help = "our certificate, a PEM file" },
    { .key = "tls.key", .type = BELAY_SETTING_STRING, .help = "its private key, a PEM file" },
    { .key = "tls.server_name",
      .type = BELAY_SETTING_STRING,
      .help = "the name its certificate must be for, if not the host" },
    { .key = "replicas",
      .type = BELAY_SETTING_INTEGER,
      .initial = "0",
      .min = 0,
      .max = 1000,
      .help = "a grant counts when that many replicas have it (WAIT)" },
    { .key = "replicas_timeout",
      .type = BELAY_SETTING_DURATION,
      .initial = "100ms",
      .min = 1,
      .max = 60000,
      .help = "how long to wait for them" },
    { .key = "tracking",
      .type = BELAY_SETTING_BOOLEAN,
      .initial = "true",
      .help = "waiters are woken by the server (CLIENT TRACKING); false: they poll" },
    { .key = "resolve",
      .type = BELAY_SETTING_CHOICE,
      .initial = "worker",
      .choices = "worker|blocking",
      .help = "who resolves a host's name: a thread, or (blocking) whoever waits" },
    { 0 },
};

static const char *const redis_schemes[] = { "redis", "rediss", "redis+unix", NULL };

extern const belay_backend_ops belay__redis_ops;
const belay_backend_ops belay__redis_ops = {
    BELAY_OPS_HEAD,
    .type = "redis",
    .url_schemes = redis_schemes,
    .url = redis_url,
    .settings = redis_settings,
    .scope = BELAY_SCOPE_FLEET,
    .timeout_ms = 500,
    .in_order = true,
    .create = redis_create,
    .destroy = redis_destroy,
    .acquire = redis_attempt,
    .release = redis_attempt,
    .extend = redis_attempt,
    .cancel = redis_cancel,
    .drop = redis_drop,
    .unwait = redis_unwait,
    .owes = redis_owes,
    .inspect = redis_attempt,
    .list = redis_list,
    .break_lock = redis_attempt,
    .diagnose = redis_diagnose,
    .about = redis_about,
};
