/* redlock.c - one lock on a quorum of independent places: settings, the object, the table.
 * redlock.h is the map of the other files; docs/redlock.md says what is promised, what is assumed,
 * and what was said against it. It knows nothing of the places that it is made of. */
#include "redlock.h"

#include <stdio.h>

static void redlock_cancel(belay_backend *base, belay_op *op)
{
    (void)base;
    switch (op->verb) {
    case BELAY_VERB_ACQUIRE: belay__redlock_vote_cancel(op); break;
    case BELAY_VERB_RELEASE:
    case BELAY_VERB_BREAK:
    case BELAY_VERB_EXTEND: belay__redlock_round_cancel(op); break;
    default: belay__redlock_look_cancel(op); break;
    }
}

belay_scope belay__redlock_scope_of(const belay_backend *base)
{
    const struct redlock *r = belay__redlock_of((belay_backend *)base);
    belay_scope least = BELAY_SCOPE_FLEET;
    for (uint32_t i = 0; i < r->count; i++) {
        const belay_backend *place = r->nodes[i].place;
        belay_scope scope =
            place->ops->scope_of != NULL ? place->ops->scope_of(place) : place->ops->scope;
        if (scope < least) least = scope;
    }
    return least;
}

/* ------------------------------------------------------------------ the object */

static void redlock_destroy(belay_backend *base)
{
    struct redlock *r = belay__redlock_of(base);
    belay__redlock_leases_free(r);
    belay_env_free(r->env, r);
}

static belay_status settings_read(struct redlock *r, const belay_settings *settings,
                                  belay_error *err)
{
    r->max_ttl_ms = (uint32_t)belay_settings_duration_ms(settings, "max_ttl");
    r->node_timeout_ns = belay_settings_duration_ms(settings, "node_timeout") * REDLOCK_MS;
    r->quarantine = belay_settings_boolean(settings, "quarantine");
    r->fencing = belay_env_fencing(r->env);
    if (r->count > REDLOCK_NODES_MOST)
        return belay_settings_wrong(settings, "nodes", err, "names more than %d nodes",
                                    (int)REDLOCK_NODES_MOST);
    if (2 * r->node_timeout_ns > belay_env_timeout_ns(r->env))
        return belay_settings_wrong(settings, "node_timeout", err,
                                    "must be at most half of `timeout`, %lld ms: an attempt has "
                                    "no more",
                                    (long long)(belay_env_timeout_ns(r->env) / REDLOCK_MS));
    r->quorum = r->count / 2 + 1;
    for (uint32_t i = 0; i < r->count; i++) {
        r->nodes[i].place = belay_settings_backend(settings, "nodes", i);
        for (uint32_t j = 0; j < i; j++)
            if (r->nodes[j].place == r->nodes[i].place)
                return belay_settings_wrong(settings, "nodes", err, "names %s twice",
                                            belay_env_name(r->nodes[i].place->env));
    }
    return BELAY_OK;
}

static belay_status redlock_create(belay_backend **out, belay_env *env,
                                   const belay_settings *settings, belay_error *err)
{
    size_t count = belay_settings_count(settings, "nodes");
    struct redlock *r = belay_env_alloc(env, sizeof *r + count * sizeof(struct redlock_node));
    if (r == NULL) return belay_error_set(err, BELAY_NOMEM, NULL, NULL);
    r->env = env;
    r->count = (uint32_t)count;
    r->twin[0] = r->twin[1] = -1;
    belay_links_init(&r->leases);
    belay_links_init(&r->rounds);
    belay_links_init(&r->relays);
    belay_status status = settings_read(r, settings, err);
    if (status != BELAY_OK) {
        belay_env_free(env, r);
        return status;
    }
    if (count % 2 == 0)
        belay_env_log(env, BELAY_LOG_INFO,
                      "%s: an even number of nodes survives no more failures than one less",
                      belay_env_name(env));
    *out = &r->base;
    return BELAY_OK;
}

/* ------------------------------------------------------------------ the table */

/* Percent-encoded, as it stands in a URL; what does not fit is left out. */
static void encode(char *out, size_t size, const char *text)
{
    static const char plain[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~";
    size_t used = strlen(out);
    for (const unsigned char *c = (const unsigned char *)text; *c != '\0' && used + 4 < size; c++) {
        int n = snprintf(out + used, size - used, strchr(plain, *c) != NULL ? "%c" : "%%%02X", *c);
        used += (size_t)n;
    }
}

/* redlock://user:password@host:port,host:port,host:port/db: one Redis at each; redlocks:// the same
 * with TLS. */
static belay_status redlock_url(const belay_url *url,
                                void (*put)(void *arg, const char *key, const char *value),
                                void *arg, belay_error *err)
{
    bool tls = strcmp(url->scheme, "redlocks") == 0;
    if (url->host_count < 1)
        return belay_error_set(err, BELAY_CONFIG, NULL,
                               "names no hosts: redlock://HOST:PORT,HOST:PORT,HOST:PORT");
    for (size_t i = 0; i < url->host_count; i++) {
        const belay_url_host *host = &url->hosts[i];
        char node[2048];
        bool six = strchr(host->host, ':') != NULL, named = url->user != NULL;
        snprintf(node, sizeof node, "%s://", tls ? "rediss" : "redis");
        if (named) encode(node, sizeof node, url->user);
        if (url->password != NULL) {
            strncat(node, ":", sizeof node - strlen(node) - 1);
            encode(node, sizeof node, url->password);
        }
        size_t used = strlen(node);
        int n =
            snprintf(node + used, sizeof node - used, "%s%s%s%s:%u%s",
                     named || url->password != NULL ? "@" : "", six ? "[" : "", host->host,
                     six ? "]" : "", (unsigned)(host->port != 0 ? host->port : 6379), url->path);
        if (n < 0 || (size_t)n >= sizeof node - used)
            return belay_error_set(err, BELAY_CONFIG, NULL, "is too long");
        put(arg, "nodes", node);
    }
    return BELAY_OK;
}

static const belay_setting_spec redlock_settings[] = {
    { .key = "nodes",
      .type = BELAY_SETTING_BACKENDS,
      .required = true,
      .help = "independent places, an odd number of them: a lock needs more than half" },
    { .key = "node_timeout",
      .type = BELAY_SETTING_DURATION,
      .initial = "50ms",
      .min = 1,
      .max = 60000,
      .help = "a node that has not answered for so long counts as one that refuses; far below the "
              "TTL" },
    { .key = "max_ttl",
      .type = BELAY_SETTING_DURATION,
      .initial = "60s",
      .min = 100,
      .max = 604800000,
      .help =
          "no TTL is longer; the same in the whole fleet, since it is how long a restarted node "
          "does not vote" },
    { .key = "quarantine",
      .type = BELAY_SETTING_BOOLEAN,
      .initial = "true",
      .help = "a node that was restarted does not vote until its old locks have ended; false: it "
              "forgets nothing" },
    { 0 },
};

static const char *const redlock_schemes[] = { "redlock", "redlocks", NULL };

extern const belay_backend_ops belay__redlock_ops;
const belay_backend_ops belay__redlock_ops = {
    BELAY_OPS_HEAD,
    .type = "redlock",
    .url_schemes = redlock_schemes,
    .url = redlock_url,
    .settings = redlock_settings,
    .scope = BELAY_SCOPE_FLEET,
    .scope_of = belay__redlock_scope_of,
    .timeout_ms = 500,
    .create = redlock_create,
    .destroy = redlock_destroy,
    .acquire = belay__redlock_vote,
    .release = belay__redlock_round,
    .extend = belay__redlock_round,
    .cancel = redlock_cancel,
    .drop = belay__redlock_drop,
    .unwait = belay__redlock_unwait,
    .owes = belay__redlock_owes,
    .inspect = belay__redlock_inspect,
    .list = belay__redlock_list,
    .break_lock = belay__redlock_round,
    .diagnose = belay__redlock_diagnose,
};
