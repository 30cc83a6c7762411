/* registry.c - the tables a client knows: by type, by URL scheme; and what they say of their keys.
 *
 * A table is looked at before anything else in it is read: a foreign abi or a smaller size means
 * that the rest is not where this library would look for it. */
#include "core/config.h"
#include "core/settings.h"
#include "core/suggest.h"
#include "core/value.h"

#include <stdio.h>
#include <string.h>

const belay_setting_spec belay__common_keys[] = {
    { .key = "type",
      .type = BELAY_SETTING_STRING,
      .required = true,
      .help = "what kind of backend it is" },
    { .key = "timeout",
      .type = BELAY_SETTING_DURATION,
      .min = 1,
      .max = 3600000,
      .help = "how long one attempt may take" },
    { 0 },
};

/* ------------------------------------------------------------------ walking */

/* The i-th table: the program's own first. NULL: the end. */
static const belay_backend_ops *table_at(const struct belay__registry *registry, size_t i,
                                         bool *own)
{
    size_t n = 0;

    for (; registry->own != NULL && registry->own[n] != NULL; n++) {
        if (n == i) {
            *own = true;
            return registry->own[n];
        }
    }
    *own = false;
    if (registry->built_in == NULL) return NULL;
    for (size_t b = 0; registry->built_in[b] != NULL; b++) {
        if (n + b == i) return registry->built_in[b];
    }
    return NULL;
}

/* ------------------------------------------------------------------ checking */

static const char *missing_verb(const belay_backend_ops *ops)
{
    if (ops->create == NULL) return "create";
    if (ops->destroy == NULL) return "destroy";
    if (ops->acquire == NULL) return "acquire";
    if (ops->release == NULL) return "release";
    if (ops->extend == NULL) return "extend";
    return NULL;
}

static bool type_is_word(const char *type)
{
    const char *letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-";

    return type != NULL && *type != '\0' && type[strspn(type, letters)] == '\0';
}

/* What is wrong with the keys of a table; *key is the one. */
static const char *keys_wrong(const belay_setting_spec *specs, const char **key)
{
    for (; specs != NULL && specs->key != NULL; specs++) {
        *key = specs->key;
        for (const belay_setting_spec *c = belay__common_keys; c->key != NULL; c++) {
            if (strcmp(specs->key, c->key) == 0) return "is core's own, and every backend has it";
        }
        if ((unsigned)specs->type > (unsigned)BELAY_SETTING_BACKENDS)
            return "is of an unknown type";
        if (specs->type == BELAY_SETTING_CHOICE && specs->choices == NULL) return "has no choices";
        if (specs->max < specs->min) return "has a smallest value above its largest";
    }
    return NULL;
}

/* The head of the i-th table: whether the rest of it may be read. */
static belay_status table_head(const belay_backend_ops *ops, size_t i, bool own, belay_error *err)
{
    const char *where = own ? "options.backends" : "the built-in backends";

    if (ops->abi != BELAY_BACKEND_ABI)
        return belay_error_set(
            err, BELAY_CONFIG, NULL,
            "table %zu of %s has abi %u, this library speaks %u: it was built for another belay", i,
            where, (unsigned)ops->abi, BELAY_BACKEND_ABI);
    if (ops->size < sizeof(belay_backend_ops))
        return belay_error_set(
            err, BELAY_CONFIG, NULL,
            "table %zu of %s has %u bytes, at least %zu are needed: begin it with BELAY_OPS_HEAD",
            i, where, (unsigned)ops->size, sizeof(belay_backend_ops));
    if (!type_is_word(ops->type))
        return belay_error_set(
            err, BELAY_CONFIG, NULL,
            "table %zu of %s has no type, or one that is not letters, digits and '-'", i, where);
    return BELAY_OK;
}

static belay_status table_body(const belay_backend_ops *ops, belay_error *err)
{
    const char *verb = missing_verb(ops), *key = NULL, *why;

    if (verb != NULL)
        return belay_error_set(err, BELAY_CONFIG, NULL,
                               "the table of backend type \"%.40s\" has no %s", ops->type, verb);
    why = keys_wrong(ops->settings, &key);
    if (why != NULL)
        return belay_error_set(err, BELAY_CONFIG, NULL,
                               "the table of backend type \"%.40s\": its key \"%.40s\" %s",
                               ops->type, key, why);
    return BELAY_OK;
}

/* ------------------------------------------------------------------ finding */

/* "memory, sqlite, fault": the types, or the schemes. */
static void known_words(const struct belay__registry *registry, bool schemes, char *out,
                        size_t size)
{
    const belay_backend_ops *ops;
    size_t used = 0;
    bool own;

    out[0] = '\0';
    for (size_t i = 0; (ops = table_at(registry, i, &own)) != NULL; i++) {
        const char *one[] = { ops->type, NULL };
        const char *const *words = schemes ? ops->url_schemes : one;
        for (; words != NULL && *words != NULL; words++) {
            int n = snprintf(out + used, size - used, "%s%s%s", used > 0 ? ", " : "", *words,
                             schemes ? ":" : "");
            if (n < 0 || (size_t)n >= size - used) {
                out[used] = '\0';
                return;
            }
            used += (size_t)n;
        }
    }
}

static bool has_scheme(const belay_backend_ops *ops, const char *scheme, size_t length)
{
    for (const char *const *s = ops->url_schemes; s != NULL && *s != NULL; s++) {
        if (strlen(*s) == length && strncmp(*s, scheme, length) == 0) return true;
    }
    return false;
}

/* By type, or by scheme where `schemes`. */
static belay_status table_find(const struct belay__registry *registry, const char *word,
                               bool schemes, const belay_backend_ops **out, belay_error *err)
{
    struct belay__nearest nearest = { .wanted = word };
    char known[96], hint[BELAY__HINT], quoted[BELAY__QUOTE];
    const belay_backend_ops *ops;
    belay_status status;
    bool own;

    *out = NULL;
    for (size_t i = 0; (ops = table_at(registry, i, &own)) != NULL; i++) {
        status = table_head(ops, i, own, err);
        if (status != BELAY_OK) return status;
        if (schemes ? has_scheme(ops, word, strlen(word)) : strcmp(ops->type, word) == 0) {
            status = table_body(ops, err);
            if (status == BELAY_OK) *out = ops;
            return status;
        }
        if (!schemes) belay__nearest_offer(&nearest, ops->type);
        for (const char *const *s = ops->url_schemes; schemes && s != NULL && *s != NULL; s++)
            belay__nearest_offer(&nearest, *s);
    }
    known_words(registry, schemes, known, sizeof(known));
    if (known[0] == '\0') memcpy(known, "none", sizeof("none"));
    return belay_error_set(err, BELAY_CONFIG, NULL, "there is no %s %s%s (known: %s)",
                           schemes ? "URL scheme" : "backend type", belay__quote(quoted, word),
                           belay__nearest_hint(&nearest, hint), known);
}

belay_status belay__registry_find(const struct belay__registry *registry, const char *type,
                                  const belay_backend_ops **out, belay_error *err)
{
    return table_find(registry, type, false, out, err);
}

belay_status belay__registry_find_scheme(const struct belay__registry *registry, const char *scheme,
                                         size_t length, const belay_backend_ops **out,
                                         belay_error *err)
{
    char word[64];

    if (length >= sizeof(word)) {
        *out = NULL;
        return belay_error_set(err, BELAY_CONFIG, NULL, "there is no URL scheme as long as that");
    }
    memcpy(word, scheme, length);
    word[length] = '\0';
    return table_find(registry, word, true, out, err);
}

/* ------------------------------------------------------------------ describing */

static void describe_types(const struct belay__registry *registry,
                           void (*each)(void *arg, const char *line), void *arg)
{
    const belay_backend_ops *ops;
    bool own;

    for (size_t i = 0; (ops = table_at(registry, i, &own)) != NULL; i++) {
        char line[256], schemes[128] = "";
        struct belay__registry only = { NULL, (const belay_backend_ops *const[]){ ops, NULL } };
        known_words(&only, true, schemes, sizeof(schemes));
        snprintf(line, sizeof(line), "%-12s %-8s %s", ops->type, belay_scope_name(ops->scope),
                 schemes);
        for (size_t end = strlen(line); end > 0 && line[end - 1] == ' ';) line[--end] = '\0';
        each(arg, line);
    }
}

void belay__describe(const struct belay__registry *registry, const char *type,
                     void (*each)(void *arg, const char *line), void *arg)
{
    belay_setting_spec timeout[2] = { belay__common_keys[1], { 0 } };
    char initial[96], duration[BELAY__DURATION];
    const belay_backend_ops *ops = NULL;
    int width;

    if (type == NULL) {
        describe_types(registry, each, arg);
        return;
    }
    if (belay__registry_find(registry, type, &ops, NULL) != BELAY_OK || ops == NULL) return;
    belay__duration_show(duration, ops->timeout_ms != 0 ? ops->timeout_ms : 500);
    bool of_children = ops->timeout_of_children, own = ops->timeout_ms != 0 || !of_children;
    snprintf(initial, sizeof(initial), "%s%s%s", own ? duration : "",
             own && of_children ? " and " : "", of_children ? "the sum of its backends'" : "");
    timeout[0].initial = initial;
    width = belay__settings_width(ops->settings);
    if (width < belay__settings_width(timeout)) width = belay__settings_width(timeout);
    belay__settings_describe(ops->settings, width, each, arg);
    belay__settings_describe(timeout, width, each, arg);
}

void belay_describe(const char *type, void (*each)(void *arg, const char *line), void *arg)
{
    const struct belay__registry built_in = { NULL, belay__builtin_backends };

    belay__describe(&built_in, type, each, arg);
}
