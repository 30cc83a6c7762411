/* settings_get.c - what backends ask of their settings, and what `belay config show` says about
 * keys. */
#include "core/settings.h"

#include "core/alloc.h"
#include "core/config.h"
#include "core/place.h"
#include "core/value.h"

#include <stdio.h>

static const char *type_name(int type)
{
    switch (type) {
    case BELAY_SETTING_INTEGER: return "integer";
    case BELAY_SETTING_REAL: return "number";
    case BELAY_SETTING_BOOLEAN: return "boolean";
    case BELAY_SETTING_DURATION: return "duration";
    case BELAY__SETTING_WAIT: return "duration";
    case BELAY_SETTING_MODE: return "mode";
    case BELAY_SETTING_CHOICE: return "choice";
    case BELAY_SETTING_SECRET: return "secret";
    case BELAY_SETTING_STRINGS: return "strings";
    case BELAY_SETTING_BACKEND: return "backend";
    case BELAY_SETTING_BACKENDS: return "backends";
    default: return "string";
    }
}

/* ------------------------------------------------------------------ getters */

/* The setting, if it is there and of one of the types in the mask; a backend that asks otherwise is
 * wrong. */
#define OF(type) (1u << (unsigned)(type))

static const struct belay__setting *setting_get(const belay_settings *s, const char *key,
                                                unsigned types)
{
    const struct belay__setting *setting = belay__setting_find(s, key);

    if (setting != NULL && (OF(setting->spec->type) & types) != 0) return setting;
#ifndef NDEBUG
    fprintf(stderr, "belay: a backend asked for the setting \"%s\", which %s\n", key,
            setting == NULL ? "it does not have" : "is of another type");
    abort();
#endif
    return NULL;
}

const char *belay_settings_string(const belay_settings *s, const char *key)
{
    const struct belay__setting *setting =
        setting_get(s, key,
                    OF(BELAY_SETTING_STRING) | OF(BELAY_SETTING_CHOICE) | OF(BELAY_SETTING_SECRET));
    return setting != NULL ? setting->text : NULL;
}

int64_t belay_settings_integer(const belay_settings *s, const char *key)
{
    const struct belay__setting *setting =
        setting_get(s, key, OF(BELAY_SETTING_INTEGER) | OF(BELAY_SETTING_MODE));
    return setting != NULL ? setting->number : 0;
}

double belay_settings_real(const belay_settings *s, const char *key)
{
    const struct belay__setting *setting = setting_get(s, key, OF(BELAY_SETTING_REAL));
    return setting != NULL ? setting->real : 0;
}

bool belay_settings_boolean(const belay_settings *s, const char *key)
{
    const struct belay__setting *setting = setting_get(s, key, OF(BELAY_SETTING_BOOLEAN));
    return setting != NULL && setting->number != 0;
}

int64_t belay_settings_duration_ms(const belay_settings *s, const char *key)
{
    const struct belay__setting *setting =
        setting_get(s, key, OF(BELAY_SETTING_DURATION) | OF(BELAY__SETTING_WAIT));
    return setting != NULL ? setting->number : 0;
}

size_t belay_settings_count(const belay_settings *s, const char *key)
{
    const struct belay__setting *setting = setting_get(s, key, ~0u);

    if (setting == NULL) return 0;
    switch ((int)setting->spec->type) {
    case BELAY_SETTING_STRINGS:
    case BELAY_SETTING_BACKENDS:
    case BELAY_SETTING_BACKEND: return setting->count;
    default: return setting->at != NULL || setting->spec->initial != NULL ? 1 : 0;
    }
}

const char *belay_settings_item(const belay_settings *s, const char *key, size_t i)
{
    const struct belay__setting *setting =
        setting_get(s, key,
                    OF(BELAY_SETTING_STRINGS) | OF(BELAY_SETTING_BACKENDS) |
                        OF(BELAY_SETTING_BACKEND));
    return setting != NULL && i < setting->count ? setting->items[i] : NULL;
}

belay_backend *belay_settings_backend(const belay_settings *s, const char *key, size_t i)
{
    const struct belay__setting *setting =
        setting_get(s, key, OF(BELAY_SETTING_BACKENDS) | OF(BELAY_SETTING_BACKEND));
    return setting != NULL && i < setting->count && setting->objects != NULL ? setting->objects[i]
                                                                             : NULL;
}

bool belay_settings_given(const belay_settings *s, const char *key)
{
    const struct belay__setting *setting = setting_get(s, key, ~0u);
    return setting != NULL && setting->at != NULL;
}

belay_status belay_settings_wrong(const belay_settings *s, const char *key, belay_error *err,
                                  const char *format, ...)
{
    const struct belay__setting *setting = setting_get(s, key, ~0u);
    char text[sizeof(((belay_error *)NULL)->text)];
    va_list list;

    va_start(list, format);
    vsnprintf(text, sizeof(text), format, list);
    va_end(list);
    return belay_error_set(err, BELAY_CONFIG, NULL, "%s: %s: %s",
                           setting != NULL && setting->at != NULL ? setting->at : s->at, key, text);
}

/* ------------------------------------------------------------------ children */

static bool is_backend(const struct belay__setting *setting)
{
    return setting->spec->type == BELAY_SETTING_BACKEND ||
           setting->spec->type == BELAY_SETTING_BACKENDS;
}

/* The setting that the i-th child stands in; *i becomes its index there. */
static struct belay__setting *child_setting(const belay_settings *s, size_t *i)
{
    for (size_t n = 0; n < s->count; n++) {
        if (!is_backend(&s->list[n])) continue;
        if (*i < s->list[n].count) return &s->list[n];
        *i -= s->list[n].count;
    }
    return NULL;
}

bool belay__settings_child(const belay_settings *s, size_t i, struct belay__child *out)
{
    const struct belay__setting *setting = child_setting(s, &i);

    if (setting == NULL) return false;
    out->name = setting->items[i];
    out->key = setting->spec->key;
    out->at = setting->at != NULL ? setting->at : s->at;
    out->exposed = setting->exposed;
    return true;
}

void belay__settings_resolve(belay_settings *s, size_t i, belay_backend *object)
{
    struct belay__setting *setting = child_setting(s, &i);

    if (setting != NULL) setting->objects[i] = object;
}

/* ------------------------------------------------------------------ describing */

/* "from 1 to 64", or "". */
static void range_show(char *out, size_t size, const belay_setting_spec *spec)
{
    char low[BELAY__DURATION], high[BELAY__DURATION];

    out[0] = '\0';
    switch ((int)spec->type) {
    case BELAY_SETTING_CHOICE: snprintf(out, size, "  %s", spec->choices); return;
    case BELAY_SETTING_INTEGER:
    case BELAY_SETTING_REAL:
        belay__real_show(low, spec->min);
        belay__real_show(high, spec->max);
        break;
    case BELAY_SETTING_DURATION:
    case BELAY__SETTING_WAIT:
        belay__duration_show(low, (int64_t)spec->min);
        belay__duration_show(high, (int64_t)spec->max);
        break;
    default: return;
    }
    if (spec->min != 0 || spec->max != 0) snprintf(out, size, "  %s to %s", low, high);
}

int belay__settings_width(const belay_setting_spec *specs)
{
    size_t width = 0;

    for (; specs != NULL && specs->key != NULL; specs++) {
        if (strlen(specs->key) > width) width = strlen(specs->key);
    }
    return (int)width;
}

void belay__settings_describe(const belay_setting_spec *specs, int width,
                              void (*each)(void *arg, const char *line), void *arg)
{
    for (; specs != NULL && specs->key != NULL; specs++) {
        char line[512], range[160], initial[128] = "";
        range_show(range, sizeof(range), specs);
        if (specs->initial != NULL)
            snprintf(initial, sizeof(initial), "  default %s",
                     specs->initial[0] != '\0' ? specs->initial : "\"\"");
        snprintf(line, sizeof(line), "%-*s  %-9s%s%s%s  %s", width, specs->key,
                 type_name((int)specs->type), specs->required ? "  required" : "", range, initial,
                 specs->help != NULL ? specs->help : "");
        each(arg, line);
    }
}
