/* value.c - values from text. */
#define _GNU_SOURCE /* strtod_l */
#include "core/value.h"

#include <errno.h>
#include <inttypes.h>
#include <locale.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Largest first: belay__duration_show takes the first that divides. */
static const struct unit {
    const char *name;
    int64_t ms;
} units[] = { { "d", 86400000 }, { "h", 3600000 }, { "m", 60000 }, { "s", 1000 }, { "ms", 1 } };

#define UNITS (sizeof(units) / sizeof(units[0]))

/* So that nanoseconds fit into 63 bits: 292 years. */
#define DURATION_MAX_MS (INT64_MAX / 1000000)

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static const struct unit *unit_find(const char *name)
{
    for (size_t i = 0; i < UNITS; i++) {
        if (strcmp(units[i].name, name) == 0) return &units[i];
    }
    return NULL;
}

const char *belay__duration_parse(const char *text, int64_t *out_ms)
{
    const struct unit *unit;
    int64_t number = 0;
    const char *at = text;

    if (*at == '-') return "is negative; a duration is a whole number and a unit: \"10s\"";
    if (!is_digit(*at))
        return "is not a duration: a whole number and a unit (ms, s, m, h, d): \"10s\"";
    for (; is_digit(*at); at++) {
        if (number > (DURATION_MAX_MS - (*at - '0')) / 10) return "is too long for a duration";
        number = number * 10 + (*at - '0');
    }
    if (*at == '\0') return "has no unit (ms, s, m, h, d): \"10s\"";
    if (*at == '.') return "has a fraction; use a smaller unit: \"1500ms\" for 1.5 s";
    if (*at == ' ' || *at == '\t') return "has a space in it; write \"10s\"";
    unit = unit_find(at);
    if (unit == NULL) {
        for (const char *c = at; *c != '\0'; c++) {
            if (is_digit(*c))
                return "is more than one number and one unit; write \"90m\" for 1h30m";
        }
        return "has an unknown unit; the units are ms, s, m, h, d";
    }
    if (number > DURATION_MAX_MS / unit->ms) return "is too long for a duration";
    *out_ms = number * unit->ms;
    return NULL;
}

const char *belay__duration_show(char out[BELAY__DURATION], int64_t ms)
{
    for (size_t i = 0; i < UNITS; i++) {
        if (ms % units[i].ms != 0 || (ms == 0 && units[i].ms != 1000)) continue;
        snprintf(out, BELAY__DURATION, "%" PRId64 "%s", ms / units[i].ms, units[i].name);
        break;
    }
    return out;
}

const char *belay__mode_parse(const char *text, int64_t *out)
{
    size_t length = strlen(text);
    int64_t mode = 0;

    if (length < 3 || length > 4 || strspn(text, "01234567") != length)
        return "is not a file mode: three or four octal digits, as in \"0600\"";
    for (; *text != '\0'; text++) mode = mode * 8 + (*text - '0');
    *out = mode;
    return NULL;
}

const char *belay__integer_parse(const char *text, int64_t *out)
{
    const char *digits = text + (*text == '-' || *text == '+');
    size_t length = strspn(digits, "0123456789");
    long long value;

    if (length == 0 || digits[length] != '\0') return "is not a whole number";
    if (digits[0] == '0' && length > 1) return "begins with a zero; write it without";
    errno = 0;
    value = strtoll(text, NULL, 10);
    if (errno != 0) return "is too large for a number";
    *out = value;
    return NULL;
}

const char *belay__real_parse(const char *text, double *out)
{
    locale_t plain;
    double value;
    char *end;

    if (text[strspn(text, "0123456789+-.eE")] != '\0' || strpbrk(text, "0123456789") == NULL)
        return "is not a number";
    plain = newlocale(LC_ALL_MASK, "C", (locale_t)0);
    if (plain == (locale_t)0) return "cannot be read: no memory for the C locale";
    value = strtod_l(text, &end, plain);
    freelocale(plain);
    if (*end != '\0') return "is not a number";
    if (!isfinite(value)) return "is too large for a number";
    *out = value;
    return NULL;
}

const char *belay__boolean_parse(const char *text, bool *out)
{
    bool yes = strcmp(text, "true") == 0;

    if (!yes && strcmp(text, "false") != 0) return "is neither true nor false";
    *out = yes;
    return NULL;
}

const char *belay__real_show(char out[BELAY__DURATION], double real)
{
    snprintf(out, BELAY__DURATION, "%.12g", real);
    for (char *c = out; *c != '\0'; c++) {
        if (*c == ',') *c = '.';
    }
    return out;
}
