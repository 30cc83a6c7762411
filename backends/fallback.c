/* fallback.c - a lock of the fleet's, and this host's where the fleet's is out of reach (SEMANTICS
 * 11): settings, the object, the table. fallback.h is the map of the other files; docs/fallback.md
 * says what is promised when. It knows nothing of the two backends that it is made of. */
#include "fallback.h"

#include <stdio.h>
#include <string.h>

#define HINT "belay-degraded:" /* how a hint's key begins */

/* ------------------------------------------------------------------ the object */

static void fallback_cancel(belay_backend *base, belay_op *op)
{
    (void)base;
    switch (op->verb) {
    case BELAY_VERB_ACQUIRE: belay__fallback_take_cancel(op); break;
    case BELAY_VERB_RELEASE:
    case BELAY_VERB_EXTEND: belay__fallback_keep_cancel(op); break;
    default: belay__fallback_look_cancel(op); break;
    }
}

static belay_scope fallback_scope_of(const belay_backend *base)
{
    return belay__fallback_scope(belay__fallback_of((belay_backend *)base)->primary);
}

/* Asked while the client closes: what nobody waits for is ended, what is left is let go. */
static bool fallback_owes(belay_backend *base)
{
    struct fallback *fb = belay__fallback_of(base);
    if (!fb->closing) {
        fb->closing = true;
        belay__fallback_health_stop(fb);
        belay__fallback_hint_stop(fb);
        belay__fallback_holds_close(fb);
    }
    return fb->busy > 0 || belay__fallback_hint_owes(fb) || belay__fallback_holds_owe(fb);
}

static void fallback_destroy(belay_backend *base)
{
    struct fallback *fb = belay__fallback_of(base);
    belay_env *env = fb->env;
    belay_timer_disarm(env, &fb->health.timer);
    if (fb->health.probing) belay_op_abandon(&fb->health.op);
    belay__fallback_hint_free(fb);
    belay__fallback_holds_free(fb);
    belay_task_drop(env, &fb->pump);
    belay_env_free(env, fb->probe_key);
    belay_env_free(env, fb->hint_key);
    belay_env_free(env, fb);
}

static char *key_make(belay_env *env, const char *first, const char *second, const char *third)
{
    size_t size = strlen(first) + strlen(second) + strlen(third) + 1;
    char *key = belay_env_alloc(env, size);
    if (key != NULL) snprintf(key, size, "%s%s%s", first, second, third);
    return key;
}

static belay_status settings_read(struct fallback *fb, const belay_settings *settings,
                                  belay_error *err)
{
    belay_env *env = fb->env;
    fb->primary = belay_settings_backend(settings, "primary", 0);
    fb->secondary = belay_settings_backend(settings, "secondary", 0);
    fb->local = strcmp(belay_settings_string(settings, "policy"), "local") == 0;
    fb->host_first = belay_settings_boolean(settings, "host_first");
    fb->fencing = belay_env_fencing(env);
    fb->trip_after = (uint32_t)belay_settings_integer(settings, "trip_after");
    fb->settle_ns = belay_settings_duration_ms(settings, "settle") * FALLBACK_MS;
    fb->probe_every_ns = belay_settings_duration_ms(settings, "probe_every") * FALLBACK_MS;
    fb->probe_most_ns = belay_settings_duration_ms(settings, "probe_most") * FALLBACK_MS;
    fb->patience_ns = belay_env_timeout_ns(fb->primary->env);
    fb->host_scope = belay__fallback_scope(fb->secondary);
    if (fb->primary == fb->secondary)
        return belay_settings_wrong(settings, "secondary", err,
                                    "is the primary: it would be gone together with it");
    if (fb->host_scope > belay__fallback_scope(fb->primary))
        return belay_settings_wrong(settings, "secondary", err,
                                    "reaches farther than the primary: are the two swapped?");
    if (fb->probe_most_ns < fb->probe_every_ns && !belay_settings_given(settings, "probe_most"))
        fb->probe_most_ns = fb->probe_every_ns;
    if (fb->probe_most_ns < fb->probe_every_ns)
        return belay_settings_wrong(settings, "probe_most", err, "is less than probe_every");
    int64_t needed = fb->patience_ns + belay_env_timeout_ns(fb->secondary->env);
    if (belay_env_timeout_ns(env) < needed)
        return belay_settings_wrong(settings, "timeout", err,
                                    "must be at least %lld ms, what its primary and secondary may "
                                    "take one after the other",
                                    (long long)(needed / FALLBACK_MS));
    fb->probe_key = key_make(env, belay_env_prefix(env), "belay-probe", "");
    fb->hint_key = key_make(env, HINT, belay_env_prefix(env), belay_env_name(fb->primary->env));
    if (fb->probe_key == NULL || fb->hint_key == NULL)
        return belay_error_set(err, BELAY_NOMEM, NULL, NULL);
    size_t prefix = strlen(belay_env_prefix(env));
    if (prefix < strlen(HINT)) {
        fb->hint_mark = belay_env_strip(env, fb->hint_key);
        fb->hint_mark_length = strlen(HINT) - prefix;
    }
    return BELAY_OK;
}

static belay_status fallback_create(belay_backend **out, belay_env *env,
                                    const belay_settings *settings, belay_error *err)
{
    struct fallback *fb = belay_env_alloc(env, sizeof *fb);
    if (fb == NULL) return belay_error_set(err, BELAY_NOMEM, NULL, NULL);
    fb->env = env;
    belay_links_init(&fb->holds);
    belay_links_init(&fb->wants);
    belay_links_init(&fb->frees);
    belay_links_init(&fb->parked);
    belay_links_init(&fb->doubts);
    belay_links_init(&fb->relays);
    fb->pump.fn = belay__fallback_pump;
    belay__fallback_health_init(fb);
    belay__fallback_hint_init(fb);
    belay_status status = settings_read(fb, settings, err);
    if (status != BELAY_OK) {
        fallback_destroy(&fb->base);
        return status;
    }
    if (!fb->host_first)
        belay_env_log(env, BELAY_LOG_WARN,
                      "%s: host_first = false: two processes of this host that see the primary "
                      "differently may hold a lock at once",
                      belay_env_name(env));
    *out = &fb->base;
    return BELAY_OK;
}

/* ------------------------------------------------------------------ the table */

static const belay_setting_spec fallback_settings[] = {
    { .key = "primary",
      .type = BELAY_SETTING_BACKEND,
      .required = true,
      .help = "where locks are taken while it can be reached" },
    { .key = "secondary",
      .type = BELAY_SETTING_BACKEND,
      .required = true,
      .help = "this host's locks, usually of type sqlite: taken first, and alone where the primary "
              "is out of reach" },
    { .key = "policy",
      .type = BELAY_SETTING_CHOICE,
      .initial = "local",
      .choices = "local|closed",
      .help = "without the primary: locks of this host alone, or (closed) none" },
    { .key = "host_first",
      .type = BELAY_SETTING_BOOLEAN,
      .initial = "true",
      .help = "the host's lock is taken before the primary's, always; false: only without the "
              "primary, and then two of this host may hold at once" },
    { .key = "trip_after",
      .type = BELAY_SETTING_INTEGER,
      .initial = "1",
      .min = 1,
      .max = 1000,
      .help = "so many attempts in a row that did not reach the primary, each a full timeout" },
    { .key = "probe_every",
      .type = BELAY_SETTING_DURATION,
      .initial = "1s",
      .min = 10,
      .max = 3600000,
      .help = "how soon the primary is looked for again; twice as long after each time in vain" },
    { .key = "probe_most",
      .type = BELAY_SETTING_DURATION,
      .initial = "30s",
      .min = 10,
      .max = 3600000,
      .help = "and at most so long" },
    { .key = "settle",
      .type = BELAY_SETTING_DURATION,
      .initial = "0ms",
      .min = 0,
      .max = 86400000,
      .help = "no lock of this host's alone for so long after the first failure, so that leases of "
              "other hosts run out first" },
    { 0 },
};

extern const belay_backend_ops belay__fallback_ops;
const belay_backend_ops belay__fallback_ops = {
    BELAY_OPS_HEAD,
    .type = "fallback",
    .settings = fallback_settings,
    .scope = BELAY_SCOPE_FLEET,
    .scope_of = fallback_scope_of,
    .timeout_of_children = true,
    .in_order = true,
    .create = fallback_create,
    .destroy = fallback_destroy,
    .acquire = belay__fallback_take,
    .release = belay__fallback_keep,
    .extend = belay__fallback_keep,
    .cancel = fallback_cancel,
    .drop = belay__fallback_drop,
    .unwait = belay__fallback_unwait,
    .owes = fallback_owes,
    .inspect = belay__fallback_inspect,
    .list = belay__fallback_list,
    .break_lock = belay__fallback_break,
    .diagnose = belay__fallback_diagnose,
    .health = belay__fallback_show_health,
};
