/* settings.c - the keys of one part of a configuration: checked when they are put, read by
 * backends.
 *
 * The getters are in settings_get.c. */
#define _GNU_SOURCE /* explicit_bzero */
#include "core/settings.h"

#include "core/alloc.h"
#include "core/config.h"
#include "core/place.h"
#include "core/suggest.h"
#include "core/value.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>

#define KEY_ROOM 80 /* bytes of a key with a secret's suffix */

/* ------------------------------------------------------------------ messages */

belay_status belay__error_at(belay_error *err, belay_status status, const char *at)
{
    char text[sizeof(err->text)], node[sizeof(err->node)];

    if (err == NULL || status == BELAY_OK || status == BELAY_NOMEM) return status;
    memcpy(text, err->text, sizeof(text));
    memcpy(node, err->node, sizeof(node));
    text[sizeof(text) - 1] = node[sizeof(node) - 1] = '\0';
    return belay_error_set(err, status, node[0] != '\0' ? node : NULL, "%s: %s", at, text);
}

belay_status belay__exposed(const char *at, belay_error *err)
{
    const char *colon = strrchr(at, ':');
    int path = (int)(colon != NULL ? (size_t)(colon - at) : strlen(at));

    return belay_error_set(err, BELAY_REFUSED, NULL,
                           "%s: holds a password and others can read it: chmod 600 %.*s", at, path,
                           at);
}

static belay_status no_memory(belay_error *err)
{
    return belay_error_set(err, BELAY_NOMEM, NULL, "no memory for the settings");
}

/* What a value of the type looks like. */
static const char *type_wanted(int type)
{
    switch (type) {
    case BELAY_SETTING_INTEGER: return "a whole number, without quotes";
    case BELAY_SETTING_REAL: return "a number, without quotes";
    case BELAY_SETTING_BOOLEAN: return "true or false, without quotes";
    case BELAY_SETTING_DURATION: return "a string with a unit (ms, s, m, h, d): \"10s\"";
    case BELAY__SETTING_WAIT: return "a string: \"10s\", \"try\" or \"forever\"";
    case BELAY_SETTING_MODE: return "a string of octal digits: \"0600\"";
    case BELAY_SETTING_STRINGS: return "a list of strings: ( \"a\", \"b\" )";
    case BELAY_SETTING_BACKEND: return "the name of a backend, or a URL, in quotes";
    case BELAY_SETTING_BACKENDS: return "a list of names of backends, or URLs: ( \"a\", \"b\" )";
    default: return "a string, in quotes";
    }
}

/* "10", "5.5", "true", "a list": what was written instead. */
static const char *raw_shown(char out[BELAY__QUOTE], const struct belay__raw *raw)
{
    switch (raw->kind) {
    case BELAY__RAW_INTEGER: snprintf(out, BELAY__QUOTE, "%" PRId64, raw->integer); break;
    case BELAY__RAW_REAL: snprintf(out, BELAY__QUOTE, "a number with a fraction"); break;
    case BELAY__RAW_BOOLEAN:
        snprintf(out, BELAY__QUOTE, "%s", raw->boolean ? "true" : "false");
        break;
    case BELAY__RAW_MIXED: snprintf(out, BELAY__QUOTE, "item %zu", raw->count); break;
    case BELAY__RAW_LIST: snprintf(out, BELAY__QUOTE, "a list"); break;
    case BELAY__RAW_GROUP: snprintf(out, BELAY__QUOTE, "a group"); break;
    default: belay__quote(out, raw->text);
    }
    return out;
}

static bool is_duration(int type)
{
    return type == BELAY_SETTING_DURATION || type == BELAY__SETTING_WAIT;
}

static belay_status wrong_type(const struct belay__setting *setting, const char *key,
                               const struct belay__raw *raw, const char *at, belay_error *err)
{
    int type = (int)setting->spec->type;
    char shown[BELAY__QUOTE];

    raw_shown(shown, raw);
    if (is_duration(type) && raw->kind == BELAY__RAW_INTEGER && raw->integer >= 0)
        return belay_error_set(
            err, BELAY_CONFIG, NULL,
            "%s: %s: %s has no unit: a duration is a string with one: \"%ss\" (ms, s, m, h, d)", at,
            key, shown, shown);
    if (type == BELAY_SETTING_MODE && raw->kind == BELAY__RAW_INTEGER)
        return belay_error_set(err, BELAY_CONFIG, NULL, "%s: %s: a file mode is %s, not a number",
                               at, key, type_wanted(type));
    return belay_error_set(err, BELAY_CONFIG, NULL, "%s: %s: %s is not what is wanted: %s", at, key,
                           shown, type_wanted(type));
}

/* "AT: KEY: "TEXT" WHY" */
static belay_status wrong_text(const struct belay__setting *setting, const char *text,
                               const char *at, const char *why, belay_error *err)
{
    char quoted[BELAY__QUOTE];

    return belay_error_set(err, BELAY_CONFIG, NULL, "%s: %s: %s %s", at, setting->spec->key,
                           belay__quote(quoted, text), why);
}

/* ------------------------------------------------------------------ finding */

struct belay__setting *belay__setting_find(const belay_settings *s, const char *key)
{
    for (size_t i = 0; i < s->count; i++) {
        if (strcmp(s->list[i].spec->key, key) == 0) return &s->list[i];
    }
    return NULL;
}

/* KEY, or KEY with a secret's suffix: *way is 0, or 1 + which. */
static struct belay__setting *setting_of_key(const belay_settings *s, const char *key,
                                             unsigned *way)
{
    struct belay__setting *found = belay__setting_find(s, key);
    size_t length = strlen(key);

    *way = 0;
    for (unsigned w = 0; found == NULL && w < BELAY__SECRET_WAYS; w++) {
        size_t suffix = strlen(belay__secret_suffix[w]);
        if (length <= suffix || strcmp(key + length - suffix, belay__secret_suffix[w]) != 0)
            continue;
        for (size_t i = 0; i < s->count; i++) {
            const belay_setting_spec *spec = s->list[i].spec;
            if (spec->type != BELAY_SETTING_SECRET || strlen(spec->key) != length - suffix ||
                strncmp(spec->key, key, length - suffix) != 0)
                continue;
            *way = 1 + w;
            found = &s->list[i];
        }
    }
    return found;
}

belay__key_kind belay__settings_key(const belay_settings *s, const char *key)
{
    size_t length = strlen(key);
    unsigned way;

    if (setting_of_key(s, key, &way) != NULL) return BELAY__KEY_VALUE;
    for (size_t i = 0; i < s->count; i++) {
        const char *known = s->list[i].spec->key;
        if (strncmp(known, key, length) == 0 && known[length] == '.') return BELAY__KEY_GROUP;
    }
    return BELAY__KEY_UNKNOWN;
}

/* Offers a word that may be gone when the message is made: the nearest is kept in `kept`. */
static void nearest_offer_copy(struct belay__nearest *nearest, char kept[KEY_ROOM],
                               const char *word, size_t length, const char *suffix)
{
    struct belay__nearest one = { .wanted = nearest->wanted };
    char copy[KEY_ROOM];

    snprintf(copy, sizeof(copy), "%.*s%s", (int)length, word, suffix);
    belay__nearest_offer(&one, copy);
    if (one.word == NULL || (nearest->word != NULL && nearest->distance <= one.distance)) return;
    memcpy(kept, copy, KEY_ROOM);
    nearest->word = kept;
    nearest->distance = one.distance;
}

belay_status belay__settings_unknown(const belay_settings *s, const char *key,
                                     const char *const *also, const char *at, belay_error *err)
{
    struct belay__nearest nearest = { .wanted = key };
    char hint[BELAY__HINT], quoted[BELAY__QUOTE], kept[KEY_ROOM];

    for (; also != NULL && *also != NULL; also++) belay__nearest_offer(&nearest, *also);
    for (size_t i = 0; i < s->count; i++) {
        const belay_setting_spec *spec = s->list[i].spec;
        size_t group = strcspn(spec->key, ".");
        belay__nearest_offer(&nearest, spec->key);
        if (spec->key[group] == '.') nearest_offer_copy(&nearest, kept, spec->key, group, "");
        for (size_t w = 0; spec->type == BELAY_SETTING_SECRET && w < BELAY__SECRET_WAYS; w++)
            nearest_offer_copy(&nearest, kept, spec->key, strlen(spec->key),
                               belay__secret_suffix[w]);
    }
    return belay_error_set(err, BELAY_CONFIG, NULL, "%s: %s has no key %s%s", at, s->what,
                           belay__quote(quoted, key), belay__nearest_hint(&nearest, hint));
}

const char *belay__settings_at(const belay_settings *s)
{
    return s->at;
}

/* ------------------------------------------------------------------ making, freeing */

static size_t spec_count(const belay_setting_spec *specs)
{
    size_t n = 0;

    while (specs != NULL && specs[n].key != NULL) n++;
    return n;
}

belay_status belay__settings_new(belay_settings **out, const belay_setting_spec *own,
                                 const belay_setting_spec *common, const char *what, const char *at,
                                 belay_world *world, belay_error *err)
{
    size_t own_count = spec_count(own), count = own_count + spec_count(common);
    belay_settings *s = belay__alloc(world, sizeof(*s));

    *out = NULL;
    if (s == NULL) return no_memory(err);
    s->world = world;
    s->what = belay__strdup(world, what);
    s->at = belay__strdup(world, at);
    s->list = belay__alloc(world, count * sizeof(*s->list));
    if (s->what == NULL || s->at == NULL || s->list == NULL) {
        belay__settings_free(s);
        return no_memory(err);
    }
    s->count = count;
    for (size_t i = 0; i < count; i++)
        s->list[i].spec = i < own_count ? &own[i] : &common[i - own_count];
    *out = s;
    return BELAY_OK;
}

/* Forgets the value, not where it was written. */
static void setting_clear(struct belay__setting *setting)
{
    belay__secret_free(setting->text);
    for (size_t i = 0; i < setting->count; i++) belay__secret_free(setting->items[i]);
    belay__free(setting->items);
    belay__free(setting->objects);
    setting->text = NULL;
    setting->items = NULL;
    setting->objects = NULL;
    setting->count = 0;
}

void belay__settings_free(belay_settings *s)
{
    if (s == NULL) return;
    for (size_t i = 0; i < s->count; i++) {
        setting_clear(&s->list[i]);
        belay__free(s->list[i].at);
    }
    belay__free(s->list);
    belay__free(s->what);
    belay__free(s->at);
    belay__free(s);
}

/* ------------------------------------------------------------------ taking a value */

static void bound_show(char out[BELAY__DURATION], int type, double bound)
{
    if (is_duration(type)) belay__duration_show(out, (int64_t)bound);
    else if (type == BELAY_SETTING_MODE) snprintf(out, BELAY__DURATION, "%04o", (unsigned)bound);
    else belay__real_show(out, bound);
}

/* min and max, both 0: any. */
static belay_status range_check(const struct belay__setting *setting, double value,
                                const char *shown, const char *at, belay_error *err)
{
    const belay_setting_spec *spec = setting->spec;
    char low[BELAY__DURATION], high[BELAY__DURATION];

    if ((spec->min == 0 && spec->max == 0) || (value >= spec->min && value <= spec->max))
        return BELAY_OK;
    bound_show(low, (int)spec->type, spec->min);
    bound_show(high, (int)spec->type, spec->max);
    return belay_error_set(err, BELAY_CONFIG, NULL, "%s: %s: %s is out of range: from %s to %s", at,
                           spec->key, shown, low, high);
}

/* A string's min and max are its length in bytes; both 0: not empty, unless its default is. */
static belay_status length_check(const struct belay__setting *setting, const char *text,
                                 const char *at, belay_error *err)
{
    const belay_setting_spec *spec = setting->spec;
    double length = (double)strlen(text);

    if (spec->min == 0 && spec->max == 0) {
        if (*text != '\0' || (spec->initial != NULL && *spec->initial == '\0')) return BELAY_OK;
        return belay_error_set(err, BELAY_CONFIG, NULL, "%s: %s: is empty", at, spec->key);
    }
    if (length >= spec->min && length <= spec->max) return BELAY_OK;
    return belay_error_set(err, BELAY_CONFIG, NULL,
                           "%s: %s: has %.0f bytes; from %.0f to %.0f are allowed", at, spec->key,
                           length, spec->min, spec->max);
}

static belay_status choice_check(const struct belay__setting *setting, const char *text,
                                 const char *at, belay_error *err)
{
    struct belay__nearest nearest = { .wanted = text };
    char hint[BELAY__HINT], quoted[BELAY__QUOTE], words[8][32];
    const char *choices = setting->spec->choices;

    for (size_t n = 0; *choices != '\0'; n++) {
        size_t length = strcspn(choices, "|");
        if (strlen(text) == length && strncmp(choices, text, length) == 0) return BELAY_OK;
        if (n < 8 && length < sizeof(words[0])) {
            snprintf(words[n], sizeof(words[n]), "%.*s", (int)length, choices);
            belay__nearest_offer(&nearest, words[n]);
        }
        choices += length + (choices[length] == '|');
    }
    return belay_error_set(err, BELAY_CONFIG, NULL, "%s: %s: %s is none of %s%s", at,
                           setting->spec->key, belay__quote(quoted, text), setting->spec->choices,
                           belay__nearest_hint(&nearest, hint));
}

/* What of `text` is a value of the setting's type goes into number and real. */
static belay_status text_convert(struct belay__setting *setting, const char *text, const char *at,
                                 belay_error *err)
{
    int type = (int)setting->spec->type;
    char quoted[BELAY__QUOTE];
    const char *why = NULL;
    bool yes = false;

    switch (type) {
    case BELAY_SETTING_STRING:
    case BELAY_SETTING_SECRET: return length_check(setting, text, at, err);
    case BELAY_SETTING_CHOICE: return choice_check(setting, text, at, err);
    case BELAY_SETTING_INTEGER:
        why = belay__integer_parse(text, &setting->number);
        setting->real = (double)setting->number;
        break;
    case BELAY_SETTING_REAL: why = belay__real_parse(text, &setting->real); break;
    case BELAY_SETTING_BOOLEAN:
        why = belay__boolean_parse(text, &yes);
        setting->number = yes;
        return why == NULL ? BELAY_OK : wrong_text(setting, text, at, why, err);
    case BELAY__SETTING_WAIT:
        if (strcmp(text, "try") == 0 || strcmp(text, "forever") == 0) {
            setting->number = *text == 't' ? BELAY_TRY : BELAY_FOREVER;
            return BELAY_OK;
        }
        __attribute__((fallthrough));
    case BELAY_SETTING_DURATION:
        why = belay__duration_parse(text, &setting->number);
        setting->real = (double)setting->number;
        break;
    default:
        why = belay__mode_parse(text, &setting->number);
        setting->real = (double)setting->number;
        break;
    }
    if (why != NULL) return wrong_text(setting, text, at, why, err);
    return range_check(setting, setting->real, belay__quote(quoted, text), at, err);
}

static belay_status item_add(const belay_settings *s, struct belay__setting *setting,
                             const char *text, size_t length, const char *at, belay_error *err)
{
    char **items;

    if (length == 0)
        return belay_error_set(err, BELAY_CONFIG, NULL, "%s: %s: item %zu is empty", at,
                               setting->spec->key, setting->count + 1);
    items = belay__alloc(s->world, (setting->count + 1) * sizeof(*items));
    if (items == NULL) return no_memory(err);
    if (setting->count > 0) memcpy(items, setting->items, setting->count * sizeof(*items));
    belay__free(setting->items);
    setting->items = items;
    items[setting->count] = belay__copy(s->world, text, length);
    if (items[setting->count] == NULL) return no_memory(err);
    setting->count++;
    return BELAY_OK;
}

static bool is_list(int type)
{
    return type == BELAY_SETTING_STRINGS || type == BELAY_SETTING_BACKENDS;
}

/* The value itself; its type was checked. */
static belay_status setting_take(const belay_settings *s, struct belay__setting *setting,
                                 const struct belay__raw *raw, const char *at, belay_error *err)
{
    int type = (int)setting->spec->type;
    char shown[BELAY__QUOTE];
    belay_status status = BELAY_OK;

    switch (raw->kind) {
    case BELAY__RAW_INTEGER:
        setting->number = raw->integer;
        setting->real = (double)raw->integer;
        return range_check(setting, setting->real, raw_shown(shown, raw), at, err);
    case BELAY__RAW_REAL:
        if (!isfinite(raw->real))
            return wrong_text(setting, "inf", at, "is too large for a number", err);
        setting->real = raw->real;
        belay__real_show(shown, raw->real);
        return range_check(setting, raw->real, shown, at, err);
    case BELAY__RAW_BOOLEAN: setting->number = raw->boolean; return BELAY_OK;
    case BELAY__RAW_LIST:
        for (size_t i = 0; status == BELAY_OK && i < raw->count; i++)
            status = item_add(s, setting, raw->items[i], strlen(raw->items[i]), at, err);
        return status;
    default: break;
    }
    if (is_list(type)) return item_add(s, setting, raw->text, strlen(raw->text), at, err);
    if (type == BELAY_SETTING_BACKEND) {
        status = length_check(setting, raw->text, at, err);
        return status == BELAY_OK ? item_add(s, setting, raw->text, strlen(raw->text), at, err)
                                  : status;
    }
    status = text_convert(setting, raw->text, at, err);
    if (status != BELAY_OK) return status;
    setting->text = belay__strdup(s->world, raw->text);
    return setting->text != NULL ? BELAY_OK : no_memory(err);
}

static bool type_fits(int type, enum belay__raw_kind kind)
{
    switch (kind) {
    case BELAY__RAW_TEXT: return true;
    case BELAY__RAW_INTEGER: return type == BELAY_SETTING_INTEGER || type == BELAY_SETTING_REAL;
    case BELAY__RAW_REAL: return type == BELAY_SETTING_REAL;
    case BELAY__RAW_BOOLEAN: return type == BELAY_SETTING_BOOLEAN;
    case BELAY__RAW_LIST: return is_list(type);
    case BELAY__RAW_STRING:
        return !is_list(type) && type != BELAY_SETTING_INTEGER && type != BELAY_SETTING_REAL &&
               type != BELAY_SETTING_BOOLEAN;
    default: return false;
    }
}

/* One of the ways to give a secret: its text is kept as it is until finish reads it. */
static belay_status secret_put(belay_settings *s, struct belay__setting *setting, const char *key,
                               unsigned way, const struct belay__raw *raw, const char *at,
                               bool exposed, belay_error *err)
{
    belay_status status;

    if (raw->kind != BELAY__RAW_STRING && raw->kind != BELAY__RAW_TEXT)
        return belay_error_set(err, BELAY_CONFIG, NULL, "%s: %s: a string is wanted, in quotes", at,
                               key);
    if (setting->ways != 0)
        return belay_error_set(err, BELAY_CONFIG, NULL,
                               "%s: %s: the secret was given before (%s); give one of %s, %s_file, "
                               "%s_env, %s_credential",
                               at, key, setting->at, setting->spec->key, setting->spec->key,
                               setting->spec->key, setting->spec->key);
    if (*raw->text == '\0')
        return belay_error_set(err, BELAY_CONFIG, NULL, "%s: %s: is empty", at, key);
    if (way == 0 && exposed) {
        return belay__exposed(at, err);
    }
    if (way == 0) {
        status = length_check(setting, raw->text, at, err);
        if (status != BELAY_OK) return status;
    }
    setting->at = belay__strdup(s->world, at);
    setting->text = belay__strdup(s->world, raw->text);
    if (setting->at == NULL || setting->text == NULL) return no_memory(err);
    setting->ways = 1u << way;
    return BELAY_OK;
}

belay_status belay__settings_put(belay_settings *s, const char *key, const struct belay__raw *raw,
                                 const char *at, bool exposed, belay_error *err)
{
    unsigned way;
    struct belay__setting *setting = setting_of_key(s, key, &way);
    int type;

    if (setting == NULL) return belay__settings_unknown(s, key, NULL, at, err);
    type = (int)setting->spec->type;
    if (type == BELAY_SETTING_SECRET)
        return secret_put(s, setting, key, way, raw, at, exposed, err);
    if (!type_fits(type, raw->kind)) return wrong_type(setting, key, raw, at, err);
    if (setting->at != NULL && !(is_list(type) && raw->kind == BELAY__RAW_TEXT))
        return belay_error_set(err, BELAY_CONFIG, NULL, "%s: %s: is given twice", at, key);
    if (setting->at == NULL) {
        setting->at = belay__strdup(s->world, at);
        if (setting->at == NULL) return no_memory(err);
    }
    setting->exposed = exposed;
    return setting_take(s, setting, raw, at, err);
}

/* ------------------------------------------------------------------ finishing */

static belay_status default_take(const belay_settings *s, struct belay__setting *setting,
                                 belay_error *err)
{
    const char *initial = setting->spec->initial;
    struct belay__raw raw = { .kind = BELAY__RAW_TEXT, .text = initial };
    belay_status status = BELAY_OK;

    if (initial == NULL) return BELAY_OK;
    if (!is_list((int)setting->spec->type)) return setting_take(s, setting, &raw, s->at, err);
    while (status == BELAY_OK && *initial != '\0') {
        size_t length;
        initial += strspn(initial, " ,");
        length = strcspn(initial, " ,");
        if (length > 0) status = item_add(s, setting, initial, length, s->at, err);
        initial += length;
    }
    return status;
}

/* Turns the name of a place into the secret that is there. */
static belay_status secret_finish(const belay_settings *s, struct belay__setting *setting,
                                  belay_error *err)
{
    belay_status status = BELAY_OK;
    char key[KEY_ROOM], *secret = NULL;

    for (unsigned w = 0; status == BELAY_OK && w < BELAY__SECRET_WAYS; w++) {
        if (setting->ways != 1u << (1 + w)) continue;
        snprintf(key, sizeof(key), "%s%s", setting->spec->key, belay__secret_suffix[w]);
        status = belay__secret_read(&secret, (belay__secret_from)w, setting->text, setting->at, key,
                                    s->world, err);
        if (status != BELAY_OK) return status;
        belay__secret_free(setting->text);
        setting->text = secret;
    }
    return status;
}

belay_status belay__settings_finish(belay_settings *s, belay_error *err)
{
    belay_status status = BELAY_OK;

    for (size_t i = 0; status == BELAY_OK && i < s->count; i++) {
        struct belay__setting *setting = &s->list[i];
        const belay_setting_spec *spec = setting->spec;
        if (setting->at == NULL && spec->required)
            return belay_error_set(err, BELAY_CONFIG, NULL, "%s: %s needs a %s%s%s", s->at, s->what,
                                   spec->key, spec->help != NULL ? ": " : "",
                                   spec->help != NULL ? spec->help : "");
        if (setting->at != NULL && spec->required && is_list((int)spec->type) &&
            setting->count == 0)
            return belay_error_set(err, BELAY_CONFIG, NULL, "%s: %s: the list is empty",
                                   setting->at, spec->key);
        if (spec->type == BELAY_SETTING_SECRET) status = secret_finish(s, setting, err);
        else if (setting->at == NULL) status = default_take(s, setting, err);
        if (status == BELAY_OK && setting->count > 0) {
            setting->objects = belay__alloc(s->world, setting->count * sizeof(*setting->objects));
            if (setting->objects == NULL) status = no_memory(err);
        }
    }
    return status;
}
