/* config.c - a configuration, read: from a file by libconfig, from a URL, or the embedded default.
 *
 * The whole of it is checked against the tables' keys before anything is opened. The only file that
 * knows libconfig, which gets one checked text (config_text.c) and is asked for nothing but its
 * tree. libconfig allocates for itself, and 1.5 crashes or exits when that fails: the one place
 * where belay can't answer NOMEM. It switches to the C locale while it reads, in its own thread
 * only. */
#define _GNU_SOURCE /* explicit_bzero */
#include "core/config.h"

#include "core/alloc.h"
#include "core/config_defs.h"
#include "core/config_text.h"
#include "core/place.h"
#include "core/settings.h"
#include "core/suggest.h"
#include "core/url.h"

#include <libconfig.h>
#include <stdio.h>

#define NAME_MAX_BYTES 64

struct reader {
    struct belay__config *config;
    const struct belay__registry *registry;
    belay_world *world;
    belay_error *err;
    belay_settings *top;
    struct belay__defs defs;
    struct belay__text text;
};

/* ------------------------------------------------------------------ the top level */

#define DAY_MS 86400000

static const belay_setting_spec top_keys[] = {
    { .key = "use",
      .type = BELAY_SETTING_BACKEND,
      .help = "which backend: a name in `backends`, or a URL" },
    { .key = "prefix",
      .type = BELAY_SETTING_STRING,
      .initial = "belay:",
      .min = 0,
      .max = 256,
      .help = "stands before every lock's name where it is stored" },
    { .key = "ttl",
      .type = BELAY_SETTING_DURATION,
      .initial = "10s",
      .min = BELAY_TTL_MIN_MS,
      .max = BELAY_TTL_MAX_MS,
      .help = "how long a grant lasts unless it is extended" },
    { .key = "wait",
      .type = (belay_setting_type)BELAY__SETTING_WAIT,
      .initial = "5s",
      .min = 1,
      .max = BELAY_WAIT_MAX_MS,
      .help = "how long an acquire waits; or try, forever" },
    { .key = "keep",
      .type = BELAY_SETTING_BOOLEAN,
      .initial = "true",
      .help = "extend held locks" },
    { .key = "fencing",
      .type = BELAY_SETTING_BOOLEAN,
      .initial = "true",
      .help = "give fencing tokens" },
    { .key = "outage",
      .type = BELAY_SETTING_DURATION,
      .initial = "5s",
      .min = 0,
      .max = DAY_MS,
      .help = "how long a waiting acquire goes on while the backend fails" },
    { .key = "handoffs",
      .type = BELAY_SETTING_INTEGER,
      .initial = "8",
      .min = 0,
      .max = 1000000,
      .help = "hand-overs within the process before others get their turn; 0: no limit" },
    { .key = "handoff_pause",
      .type = BELAY_SETTING_DURATION,
      .initial = "0s",
      .min = 0,
      .max = 60000,
      .help = "how long that turn is; 0s: two round trips" },
    { .key = "close_timeout",
      .type = BELAY_SETTING_DURATION,
      .initial = "1s",
      .min = 0,
      .max = 3600000,
      .help = "how long closing may clean up" },
    { .key = "log.level",
      .type = BELAY_SETTING_CHOICE,
      .initial = "info",
      .choices = "error|warn|info|debug",
      .help = "what is logged" },
    { .key = "log.to",
      .type = BELAY_SETTING_CHOICE,
      .initial = "stderr",
      .choices = "stderr|none",
      .help = "where the command line logs to" },
    { 0 },
};

static belay_status no_memory(const struct reader *r)
{
    return belay_error_set(r->err, BELAY_NOMEM, NULL, "no memory for the configuration");
}

static belay_status top_new(struct reader *r, const char *at)
{
    return belay__settings_new(&r->top, top_keys, NULL, "the configuration", at, r->world, r->err);
}

static int level_of(const char *word)
{
    switch (word[0]) {
    case 'e': return BELAY_LOG_ERROR;
    case 'w': return BELAY_LOG_WARN;
    case 'd': return BELAY_LOG_DEBUG;
    default: return BELAY_LOG_INFO;
    }
}

static belay_status top_hand_over(struct reader *r)
{
    struct belay__config *config = r->config;
    const belay_settings *top = r->top;
    const char *prefix = belay_settings_string(top, "prefix");
    const char *log_to = belay_settings_string(top, "log.to");

    if (prefix == NULL || log_to == NULL) return no_memory(r); /* both have defaults */
    config->prefix = belay__strdup(r->world, prefix);
    config->log_to = belay__strdup(r->world, log_to);
    if (config->prefix == NULL || config->log_to == NULL) return no_memory(r);
    config->ttl_ms = (uint32_t)belay_settings_duration_ms(top, "ttl");
    config->wait_ms = belay_settings_duration_ms(top, "wait");
    config->keep = belay_settings_boolean(top, "keep");
    config->fencing = belay_settings_boolean(top, "fencing");
    config->outage_ms = (uint32_t)belay_settings_duration_ms(top, "outage");
    config->handoffs = (uint32_t)belay_settings_integer(top, "handoffs");
    config->handoff_pause_ms = (uint32_t)belay_settings_duration_ms(top, "handoff_pause");
    config->close_timeout_ms = (uint32_t)belay_settings_duration_ms(top, "close_timeout");
    config->log_level = level_of(belay_settings_string(top, "log.level"));
    return BELAY_OK;
}

/* ------------------------------------------------------------------ libconfig's tree */

static const struct belay__text_file *setting_at(const struct reader *r,
                                                 const config_setting_t *setting,
                                                 char at[BELAY__AT])
{
    return belay__text_at(&r->text, config_setting_source_line(setting), at);
}

/* The strings of a list; *items is to be freed. A list with something else in it is MIXED. */
static belay_status raw_of_list(const struct reader *r, const config_setting_t *list,
                                struct belay__raw *raw, const char ***items)
{
    size_t count = (size_t)config_setting_length(list);

    *items = belay__alloc(r->world, (count + 1) * sizeof(**items));
    if (*items == NULL) return no_memory(r);
    raw->kind = BELAY__RAW_LIST;
    raw->items = *items;
    raw->count = count;
    for (size_t i = 0; i < count; i++) {
        const config_setting_t *item = config_setting_get_elem(list, (unsigned)i);
        (*items)[i] = config_setting_type(item) == CONFIG_TYPE_STRING
                          ? config_setting_get_string(item)
                          : NULL;
        if ((*items)[i] != NULL) continue;
        raw->kind = BELAY__RAW_MIXED;
        raw->count = i + 1;
        break;
    }
    return BELAY_OK;
}

static belay_status raw_of(const struct reader *r, const config_setting_t *setting,
                           struct belay__raw *raw, const char ***items)
{
    *raw = (struct belay__raw){ 0 };
    *items = NULL;
    switch (config_setting_type(setting)) {
    case CONFIG_TYPE_STRING:
        raw->kind = BELAY__RAW_STRING;
        raw->text = config_setting_get_string(setting);
        if (raw->text == NULL) raw->text = "";
        break;
    case CONFIG_TYPE_INT:
    case CONFIG_TYPE_INT64:
        raw->kind = BELAY__RAW_INTEGER;
        raw->integer = config_setting_get_int64(setting);
        break;
    case CONFIG_TYPE_FLOAT:
        raw->kind = BELAY__RAW_REAL;
        raw->real = config_setting_get_float(setting);
        break;
    case CONFIG_TYPE_BOOL:
        raw->kind = BELAY__RAW_BOOLEAN;
        raw->boolean = config_setting_get_bool(setting) != 0;
        break;
    case CONFIG_TYPE_GROUP: raw->kind = BELAY__RAW_GROUP; break;
    default: return raw_of_list(r, setting, raw, items);
    }
    return BELAY_OK;
}

/* One setting: a value is put, a group is entered. `key` is its full, dotted key. */
static belay_status setting_walk(struct reader *r, config_setting_t *setting, const char *key,
                                 belay_settings *into, const char *const *also);

/* Puts all of a group into the settings. `under`: "" or "tls."; `also`: words at this level that
 * are dealt with elsewhere. */
static belay_status group_walk(struct reader *r, config_setting_t *group, const char *under,
                               belay_settings *into, const char *const *also)
{
    belay_status status = BELAY_OK;

    for (unsigned i = 0; status == BELAY_OK && i < (unsigned)config_setting_length(group); i++) {
        config_setting_t *setting = config_setting_get_elem(group, i);
        char key[128];
        snprintf(key, sizeof(key), "%s%s", under, config_setting_name(setting));
        status = setting_walk(r, setting, key, into, also);
    }
    return status;
}

static belay_status setting_walk(struct reader *r, config_setting_t *setting, const char *key,
                                 belay_settings *into, const char *const *also)
{
    char at[BELAY__AT], under[160];
    const struct belay__text_file *file = setting_at(r, setting, at);
    const char **items = NULL;
    struct belay__raw raw;
    belay_status status;

    for (const char *const *word = also; word != NULL && *word != NULL; word++) {
        if (strcmp(*word, key) == 0) return BELAY_OK;
    }
    switch (belay__settings_key(into, key)) {
    case BELAY__KEY_UNKNOWN: return belay__settings_unknown(into, key, also, at, r->err);
    case BELAY__KEY_GROUP:
        if (config_setting_type(setting) != CONFIG_TYPE_GROUP)
            return belay_error_set(r->err, BELAY_CONFIG, NULL, "%s: %s: is a group: %s: { ... };",
                                   at, key, key);
        snprintf(under, sizeof(under), "%s.", key);
        return group_walk(r, setting, under, into, NULL);
    case BELAY__KEY_VALUE: break;
    }
    status = raw_of(r, setting, &raw, &items);
    if (status == BELAY_OK)
        status = belay__settings_put(into, key, &raw, at, file->exposed, r->err);
    belay__free(items);
    return status;
}

static belay_status backend_type(struct reader *r, const config_setting_t *group, const char *at,
                                 const belay_backend_ops **ops)
{
    config_setting_t *type = config_setting_get_member(group, "type");
    char type_at[BELAY__AT];
    belay_status status;

    if (type == NULL)
        return belay_error_set(r->err, BELAY_CONFIG, NULL,
                               "%s: the backend \"%.40s\" has no type: type = \"sqlite\";", at,
                               config_setting_name(group));
    setting_at(r, type, type_at);
    if (config_setting_type(type) != CONFIG_TYPE_STRING)
        return belay_error_set(r->err, BELAY_CONFIG, NULL,
                               "%s: type: a string is wanted, in quotes", type_at);
    status = belay__registry_find(r->registry, config_setting_get_string(type), ops, r->err);
    return belay__error_at(r->err, status, type_at);
}

static belay_status backend_walk(struct reader *r, config_setting_t *group)
{
    const char *name = config_setting_name(group);
    const belay_backend_ops *ops = NULL;
    belay_settings *settings;
    char at[BELAY__AT];
    belay_status status;
    size_t index;

    setting_at(r, group, at);
    if (config_setting_type(group) != CONFIG_TYPE_GROUP)
        return belay_error_set(r->err, BELAY_CONFIG, NULL,
                               "%s: a backend is a group: %.40s: { type = \"...\"; };", at, name);
    if (strlen(name) > NAME_MAX_BYTES)
        return belay_error_set(r->err, BELAY_CONFIG, NULL,
                               "%s: a backend's name has at most %d bytes", at, NAME_MAX_BYTES);
    status = backend_type(r, group, at, &ops);
    if (status == BELAY_OK) status = belay__defs_add(&r->defs, name, ops, at, &index);
    if (status != BELAY_OK) return status;
    settings = r->defs.list[index].settings;
    status = group_walk(r, group, "", settings, NULL);
    return status == BELAY_OK ? belay__settings_finish(settings, r->err) : status;
}

static belay_status backends_walk(struct reader *r, config_setting_t *root)
{
    config_setting_t *backends = config_setting_get_member(root, "backends");
    belay_status status = BELAY_OK;
    char at[BELAY__AT];

    if (backends == NULL) return BELAY_OK;
    setting_at(r, backends, at);
    if (config_setting_type(backends) != CONFIG_TYPE_GROUP)
        return belay_error_set(r->err, BELAY_CONFIG, NULL,
                               "%s: backends: is a group: backends: { NAME: { ... }; };", at);
    for (unsigned i = 0; status == BELAY_OK && i < (unsigned)config_setting_length(backends); i++)
        status = backend_walk(r, config_setting_get_elem(backends, i));
    return status;
}

/* libconfig frees its strings as they are; passwords are among them. */
static void tree_wipe(config_setting_t *setting)
{
    if (config_setting_type(setting) == CONFIG_TYPE_STRING) {
        char *text = setting->value.sval;
        if (text != NULL) explicit_bzero(text, strlen(text));
    }
    if (!config_setting_is_aggregate(setting)) return;
    for (unsigned i = 0; i < (unsigned)config_setting_length(setting); i++)
        tree_wipe(config_setting_get_elem(setting, i));
}

/* ------------------------------------------------------------------ which one */

/* Without `use`: the only one there is. */
static belay_status use_only(struct reader *r, const char *shown, size_t *root)
{
    char names[128] = "";
    size_t used = 0;

    if (r->defs.count == 1) {
        *root = 0;
        return BELAY_OK;
    }
    if (r->defs.count == 0)
        return belay_error_set(
            r->err, BELAY_CONFIG, NULL,
            "%s: there is no backend: add one to \"backends\", or name a URL: use = \"sqlite:\";",
            shown);
    for (size_t i = 0; i < r->defs.count && used < sizeof(names); i++)
        used += (size_t)snprintf(names + used, sizeof(names) - used, "%s%.40s", i > 0 ? ", " : "",
                                 r->defs.list[i].name);
    return belay_error_set(r->err, BELAY_CONFIG, NULL,
                           "%s: \"use\" is to say which of the backends it is: %s", shown, names);
}

/* Everything is read: finds the root, checks the whole, hands over. */
static belay_status reader_finish(struct reader *r)
{
    struct belay__child use;
    char shown[BELAY__AT];
    belay_status status = belay__settings_finish(r->top, r->err);
    size_t root = 0;

    if (status != BELAY_OK) return status;
    if (belay__settings_child(r->top, 0, &use)) status = belay__defs_find(&r->defs, &use, &root);
    else status = use_only(r, belay__at(shown, r->config->source, 0), &root);
    if (status == BELAY_OK) status = belay__defs_link(&r->defs);
    if (status == BELAY_OK) status = belay__defs_order(&r->defs, root, r->config);
    return status == BELAY_OK ? top_hand_over(r) : status;
}

/* ------------------------------------------------------------------ the three sources */

static belay_status load_tree(struct reader *r, config_t *lib)
{
    static const char *const also[] = { "backends", NULL };
    config_setting_t *root;
    char at[BELAY__AT];
    belay_status status;

    if (config_read_string(lib, r->text.text) != CONFIG_TRUE) {
        belay__text_at(&r->text, (unsigned)config_error_line(lib), at);
        return belay_error_set(r->err, BELAY_CONFIG, NULL, "%s: %s", at,
                               config_error_text(lib) != NULL ? config_error_text(lib)
                                                              : "cannot be read");
    }
    root = config_root_setting(lib);
    status = group_walk(r, root, "", r->top, also);
    if (status == BELAY_OK) status = backends_walk(r, root);
    tree_wipe(root);
    return status;
}

static belay_status load_file(struct reader *r, const char *path)
{
    char at[BELAY__AT];
    belay_status status = belay__text_read(&r->text, path, r->world, r->err);
    config_t lib;

    if (status == BELAY_OK) status = top_new(r, belay__at(at, path, 0));
    if (status != BELAY_OK) return status;
    r->config->source = belay__strdup(r->world, path);
    if (r->config->source == NULL) return no_memory(r);
    config_init(&lib);
    status = load_tree(r, &lib);
    config_destroy(&lib);
    return status == BELAY_OK ? reader_finish(r) : status;
}

static belay_status load_url(struct reader *r, const char *url)
{
    char at[BELAY__AT];
    belay_status status;
    size_t index;

    r->config->source = belay__url_masked(url, r->world);
    if (r->config->source == NULL) return no_memory(r);
    status = top_new(r, belay__at(at, r->config->source, 0));
    if (status == BELAY_OK) status = belay__defs_url(&r->defs, url, NULL, r->top, false, &index);
    return status == BELAY_OK ? reader_finish(r) : status;
}

static belay_status load_default(struct reader *r)
{
    static const char name[] = "built-in default", type[] = "sqlite";
    struct belay__raw raw = { .kind = BELAY__RAW_TEXT, .text = type };
    const belay_backend_ops *ops = NULL;
    belay_settings *settings;
    belay_status status;
    size_t index;

    r->config->source = belay__strdup(r->world, name);
    if (r->config->source == NULL) return no_memory(r);
    status = top_new(r, name);
    if (status == BELAY_OK) {
        status = belay__registry_find(r->registry, type, &ops, r->err);
        status = belay__error_at(r->err, status, name);
    }
    if (status == BELAY_OK) status = belay__defs_add(&r->defs, type, ops, name, &index);
    if (status != BELAY_OK) return status;
    settings = r->defs.list[index].settings;
    status = belay__settings_put(settings, "type", &raw, name, false, r->err);
    if (status == BELAY_OK) status = belay__settings_finish(settings, r->err);
    return status == BELAY_OK ? reader_finish(r) : status;
}

belay_status belay__config_load(struct belay__config **out, const char *where,
                                const struct belay__registry *registry, belay_world *world,
                                belay_error *err)
{
    struct reader r = { .registry = registry, .world = world, .err = err };
    char *place = NULL;
    belay_status status = belay__place_find(&place, where, world, err);

    *out = NULL;
    if (status != BELAY_OK) return status;
    r.defs = (struct belay__defs){ .registry = registry, .world = world, .err = err };
    r.config = belay__alloc(world, sizeof(*r.config));
    if (r.config == NULL) status = no_memory(&r);
    else if (place == NULL) status = load_default(&r);
    else status = belay__url_looks(place) ? load_url(&r, place) : load_file(&r, place);
    belay__secret_free(place);
    belay__settings_free(r.top);
    belay__defs_free(&r.defs);
    belay__text_free(&r.text);
    if (status == BELAY_OK) *out = r.config;
    else belay__config_free(r.config);
    return status;
}

void belay__config_free(struct belay__config *config)
{
    if (config == NULL) return;
    for (size_t i = 0; i < config->count; i++) {
        belay__free(config->backends[i].name);
        belay__settings_free(config->backends[i].settings);
        belay__free(config->backends[i].children);
    }
    belay__free(config->backends);
    belay__free(config->source);
    belay__free(config->prefix);
    belay__free(config->log_to);
    belay__free(config);
}
