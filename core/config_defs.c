/* config_defs.c - the backends of a configuration while it is read.
 *
 * They form a graph: a composite's BACKEND and BACKENDS keys name its children, or are URLs that
 * describe them. The whole graph is checked; what `use` reaches is handed over, children before
 * parents. */
#include "core/config_defs.h"

#include "core/alloc.h"
#include "core/place.h"
#include "core/suggest.h"
#include "core/url.h"

#include <stdio.h>

#define DEFS_MAX 256u

enum mark { MARK_NEW, MARK_OPEN, MARK_DONE, MARK_ORDERED };

static belay_status no_memory(const struct belay__defs *defs)
{
    return belay_error_set(defs->err, BELAY_NOMEM, NULL, "no memory for the configuration");
}

/* ------------------------------------------------------------------ adding */

belay_status belay__defs_add(struct belay__defs *defs, const char *name,
                             const belay_backend_ops *ops, const char *at, size_t *index)
{
    struct belay__def *def;
    char what[96];

    if (defs->count >= DEFS_MAX)
        return belay_error_set(defs->err, BELAY_CONFIG, NULL,
                               "%s: more than %u backends are too many", at, DEFS_MAX);
    if (defs->count == defs->room) {
        size_t room = defs->room != 0 ? defs->room * 2 : 8;
        struct belay__def *list = belay__alloc(defs->world, room * sizeof(*list));
        if (list == NULL) return no_memory(defs);
        if (defs->count > 0) memcpy(list, defs->list, defs->count * sizeof(*list));
        belay__free(defs->list);
        defs->list = list;
        defs->room = room;
    }
    def = &defs->list[defs->count];
    def->name = belay__strdup(defs->world, name);
    if (def->name == NULL) return no_memory(defs);
    *index = defs->count++;
    def->ops = ops;
    snprintf(what, sizeof(what), "a backend of type \"%.40s\"", ops->type);
    return belay__settings_new(&def->settings, ops->settings, belay__common_keys, what, at,
                               defs->world, defs->err);
}

void belay__defs_free(struct belay__defs *defs)
{
    for (size_t i = 0; i < defs->count; i++) {
        struct belay__def *def = &defs->list[i];
        belay__free(def->name);
        belay__secret_free(def->url);
        belay__settings_free(def->settings);
        belay__free(def->children);
    }
    belay__free(defs->list);
    *defs = (struct belay__defs){ 0 };
}

/* ------------------------------------------------------------------ URLs */

/* Of the top level, what a URL may say in its query. */
static const char *const top_words[] = { "prefix", "ttl", "wait", "keep", "fencing", NULL };

struct url_reading {
    struct belay__defs *defs;
    const struct belay__url *url;
    belay_settings *settings; /* the backend's */
    belay_settings *top;
    const char *at; /* for messages: where it was written, and the URL */
    belay_status status;
};

static bool is_top_word(const char *key)
{
    for (const char *const *word = top_words; *word != NULL; word++) {
        if (strcmp(*word, key) == 0) return true;
    }
    return false;
}

static void url_put(void *arg, const char *key, const char *value)
{
    struct url_reading *r = arg;
    struct belay__raw raw = { .kind = BELAY__RAW_TEXT, .text = value };

    if (r->status == BELAY_OK)
        r->status = belay__settings_put(r->settings, key, &raw, r->at, false, r->defs->err);
}

static belay_status url_query(struct url_reading *r, const char *key, const char *value)
{
    struct belay__raw raw = { .kind = BELAY__RAW_TEXT, .text = value };
    belay_error *err = r->defs->err;

    switch (belay__settings_key(r->settings, key)) {
    case BELAY__KEY_VALUE: url_put(r, key, value); return r->status;
    case BELAY__KEY_GROUP:
        return belay_error_set(err, BELAY_CONFIG, NULL, "%s: %s: is a group: %s.KEY=VALUE", r->at,
                               key, key);
    case BELAY__KEY_UNKNOWN: break;
    }
    if (!is_top_word(key))
        return belay__settings_unknown(r->settings, key, r->top != NULL ? top_words : NULL, r->at,
                                       err);
    if (r->top == NULL)
        return belay_error_set(
            err, BELAY_CONFIG, NULL,
            "%s: %s is the whole configuration's: write it into the file, beside \"use\"", r->at,
            key);
    return belay__settings_put(r->top, key, &raw, r->at, false, err);
}

/* What stands behind "scheme:" for a table without a `url` of its own. */
static belay_status url_rest(struct url_reading *r, const belay_backend_ops *ops)
{
    const belay_url *url = &r->url->parts;

    if (url->host_count > 0 || url->user != NULL || url->password != NULL)
        return belay_error_set(
            r->defs->err, BELAY_CONFIG, NULL,
            "%s: has a host, and %s: takes none; a path has three slashes: %s:///path", r->at,
            url->scheme, url->scheme);
    if (url->path[0] == '\0') return BELAY_OK;
    if (ops->url_key == NULL)
        return belay_error_set(r->defs->err, BELAY_CONFIG, NULL,
                               "%s: nothing stands behind \"%s:\"", r->at, url->scheme);
    url_put(r, ops->url_key, url->path);
    return r->status;
}

/* The table's own reading of the URL. Its message is not to show the password. */
static belay_status url_own(struct url_reading *r, const belay_backend_ops *ops)
{
    const belay_url *url = &r->url->parts;
    belay_error *err = r->defs->err;
    belay_status status = ops->url(url, url_put, r, err);

    if (r->status != BELAY_OK) return r->status;
    if (status == BELAY_OK) return BELAY_OK;
    if (err != NULL && url->password != NULL && url->password[0] != '\0' &&
        (strstr(err->text, url->password) != NULL || strstr(err->node, url->password) != NULL))
        belay_error_set(err, status, NULL, "is not a valid URL for a backend of type \"%.40s\"",
                        ops->type);
    return belay__error_at(err, status, r->at);
}

static belay_status url_fill(struct url_reading *r, const belay_backend_ops *ops)
{
    belay_status status = BELAY_OK;

    url_put(r, "type", ops->type);
    if (r->status == BELAY_OK) status = ops->url != NULL ? url_own(r, ops) : url_rest(r, ops);
    for (size_t i = 0; status == BELAY_OK && r->status == BELAY_OK && i < r->url->query_count; i++)
        status = url_query(r, r->url->query[i].key, r->url->query[i].value);
    if (status == BELAY_OK) status = r->status;
    return status == BELAY_OK ? belay__settings_finish(r->settings, r->defs->err) : status;
}

/* Does it hold a secret in clear? */
static bool url_has_secret(const struct belay__url *url, const belay_backend_ops *ops)
{
    if (url->parts.password != NULL) return true;
    for (size_t i = 0; i < url->query_count; i++) {
        for (const belay_setting_spec *s = ops->settings; s != NULL && s->key != NULL; s++) {
            if (s->type == BELAY_SETTING_SECRET && strcmp(s->key, url->query[i].key) == 0)
                return true;
        }
    }
    return false;
}

/* "AT: URL", the URL masked; or the URL alone. */
static belay_status url_place(struct belay__defs *defs, const char *url, const char *at, char *out,
                              size_t size)
{
    char *masked = belay__url_masked(url, defs->world), shown[BELAY__AT];

    if (masked == NULL) return no_memory(defs);
    belay__at(shown, masked, 0);
    belay__free(masked);
    snprintf(out, size, "%s%s%s", at != NULL ? at : "", at != NULL ? ": " : "", shown);
    return BELAY_OK;
}

belay_status belay__defs_url(struct belay__defs *defs, const char *text, const char *at,
                             belay_settings *top, bool exposed, size_t *index)
{
    struct belay__url url = { 0 };
    struct url_reading r = { .defs = defs, .url = &url, .top = top };
    const belay_backend_ops *ops = NULL;
    char place[2 * BELAY__AT + 4];
    belay_status status;

    for (size_t i = 0; i < defs->count; i++) {
        if (defs->list[i].url == NULL || strcmp(defs->list[i].url, text) != 0) continue;
        *index = i;
        return BELAY_OK;
    }
    status = url_place(defs, text, at, place, sizeof(place));
    if (status != BELAY_OK) return status;
    r.at = place;
    status = belay__registry_find_scheme(defs->registry, text, strcspn(text, ":"), &ops, defs->err);
    if (status != BELAY_OK) return belay__error_at(defs->err, status, place);
    status = belay__url_parse(&url, text, at, defs->world, defs->err);
    if (status == BELAY_OK && exposed && at != NULL && url_has_secret(&url, ops))
        status = belay__exposed(at, defs->err);
    if (status == BELAY_OK) status = belay__defs_add(defs, url.parts.text, ops, place, index);
    if (status == BELAY_OK) {
        struct belay__def *def = &defs->list[*index];
        def->url = belay__strdup(defs->world, text);
        r.settings = def->settings;
        status = def->url != NULL ? url_fill(&r, ops) : no_memory(defs);
    }
    belay__url_free(&url);
    return status;
}

/* ------------------------------------------------------------------ the graph */

belay_status belay__defs_find(struct belay__defs *defs, const struct belay__child *child,
                              size_t *index)
{
    struct belay__nearest nearest = { .wanted = child->name };
    char hint[BELAY__HINT], quoted[BELAY__QUOTE];

    if (belay__url_looks(child->name))
        return belay__defs_url(defs, child->name, child->at, NULL, child->exposed, index);
    for (size_t i = 0; i < defs->count; i++) {
        if (defs->list[i].url != NULL) continue;
        if (strcmp(defs->list[i].name, child->name) == 0) {
            *index = i;
            return BELAY_OK;
        }
        belay__nearest_offer(&nearest, defs->list[i].name);
    }
    return belay_error_set(defs->err, BELAY_CONFIG, NULL, "%s: %s: there is no backend %s%s",
                           child->at, child->key, belay__quote(quoted, child->name),
                           belay__nearest_hint(&nearest, hint));
}

static belay_status def_link(struct belay__defs *defs, size_t i)
{
    struct belay__child child;
    size_t count = 0;

    while (belay__settings_child(defs->list[i].settings, count, &child)) count++;
    if (count == 0) return BELAY_OK;
    defs->list[i].children = belay__alloc(defs->world, count * sizeof(size_t));
    if (defs->list[i].children == NULL) return no_memory(defs);
    for (size_t n = 0; n < count; n++) {
        size_t found = 0;
        belay_status status;
        belay__settings_child(defs->list[i].settings, n, &child);
        status = belay__defs_find(defs, &child, &found); /* may move the list */
        if (status != BELAY_OK) return status;
        defs->list[i].children[n] = found;
        defs->list[i].child_count++;
    }
    return BELAY_OK;
}

/* "AT: cycle: a -> b -> a"; path[] is how `again` was reached. */
static belay_status cycle_wrong(struct belay__defs *defs, const size_t *path, size_t length,
                                size_t again, size_t child)
{
    struct belay__child closing = { 0 };
    char text[160] = "";
    size_t used = 0, from = 0;

    while (from + 1 < length && path[from] != again) from++;
    for (size_t i = from; i <= length && used < sizeof(text); i++) {
        const char *name = defs->list[i < length ? path[i] : again].name;
        used += (size_t)snprintf(text + used, sizeof(text) - used, "%s%.40s",
                                 i > from ? " -> " : "", name);
    }
    belay__settings_child(defs->list[path[length - 1]].settings, child, &closing);
    return belay_error_set(defs->err, BELAY_CONFIG, NULL, "%s: cycle: %s", closing.at, text);
}

/* Depth first; `path` has room for every backend once. */
static belay_status cycle_search(struct belay__defs *defs, size_t i, size_t *path, size_t length)
{
    struct belay__def *def = &defs->list[i];
    belay_status status = BELAY_OK;

    if (def->mark == MARK_DONE) return BELAY_OK;
    def->mark = MARK_OPEN;
    path[length++] = i;
    for (size_t n = 0; n < def->child_count && status == BELAY_OK; n++) {
        size_t child = def->children[n];
        status = defs->list[child].mark == MARK_OPEN ? cycle_wrong(defs, path, length, child, n)
                                                     : cycle_search(defs, child, path, length);
    }
    def->mark = MARK_DONE;
    return status;
}

belay_status belay__defs_link(struct belay__defs *defs)
{
    size_t path[DEFS_MAX];
    belay_status status = BELAY_OK;

    for (size_t i = 0; i < defs->count && status == BELAY_OK; i++) status = def_link(defs, i);
    for (size_t i = 0; i < defs->count && status == BELAY_OK; i++)
        status = cycle_search(defs, i, path, 0);
    return status;
}

/* ------------------------------------------------------------------ handing over */

/* Its children are in the config already. */
static uint32_t def_timeout_ms(const struct belay__def *def, const struct belay__config *config)
{
    if (belay_settings_given(def->settings, "timeout"))
        return (uint32_t)belay_settings_duration_ms(def->settings, "timeout");
    uint64_t sum = def->ops->timeout_ms;
    if (!def->ops->timeout_of_children) return sum != 0 ? (uint32_t)sum : 500;
    for (size_t i = 0; i < def->child_count; i++)
        sum += config->backends[def->children[i]].timeout_ms;
    return sum < UINT32_MAX ? (uint32_t)sum : UINT32_MAX;
}

static void def_order(struct belay__defs *defs, size_t i, struct belay__config *config)
{
    struct belay__def *def = &defs->list[i];
    struct belay__config_backend *to;

    if (def->mark == MARK_ORDERED) return;
    def->mark = MARK_ORDERED;
    for (size_t n = 0; n < def->child_count; n++) def_order(defs, def->children[n], config);
    for (size_t n = 0; n < def->child_count; n++)
        def->children[n] = defs->list[def->children[n]].final;
    def->final = config->count++;
    to = &config->backends[def->final];
    to->name = def->name;
    to->ops = def->ops;
    to->settings = def->settings;
    to->timeout_ms = def_timeout_ms(def, config);
    to->children = def->children;
    to->child_count = def->child_count;
    def->name = NULL;
    def->settings = NULL;
    def->children = NULL;
}

belay_status belay__defs_order(struct belay__defs *defs, size_t root, struct belay__config *config)
{
    config->backends = belay__alloc(defs->world, defs->count * sizeof(*config->backends));
    if (config->backends == NULL) return no_memory(defs);
    def_order(defs, root, config);
    config->use = defs->list[root].final;
    return BELAY_OK;
}
