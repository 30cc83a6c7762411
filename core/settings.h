/* settings.h - the keys of one part of a configuration, with their values, checked.
 *
 * Made by config.c from a file, a URL or nothing at all: new, put for each key that was written,
 * finish (defaults, required keys, secrets). Read by backends through belay_settings_* of
 * backend.h, and by config.c itself, whose own top-level keys are such an object too. */
#ifndef BELAY_CORE_SETTINGS_H
#define BELAY_CORE_SETTINGS_H

#include <belay/backend.h>

/* Core's own type, for `wait`: a duration, or "try", or "forever". Its value is milliseconds,
 * BELAY_TRY or BELAY_FOREVER. */
#define BELAY__SETTING_WAIT ((int)BELAY_SETTING_BACKENDS + 1)

/* A value as it was written. */
enum belay__raw_kind {
    BELAY__RAW_TEXT,   /* in a URL or a default: text that is yet to be read by the key's type */
    BELAY__RAW_STRING, /* the rest: in a file */
    BELAY__RAW_INTEGER,
    BELAY__RAW_REAL,
    BELAY__RAW_BOOLEAN,
    BELAY__RAW_LIST,  /* of strings: items, count */
    BELAY__RAW_MIXED, /* a list with something else in it; count: the first such item, from 1 */
    BELAY__RAW_GROUP
};

struct belay__raw {
    enum belay__raw_kind kind;
    const char *text;
    int64_t integer;
    double real;
    bool boolean;
    const char *const *items;
    size_t count;
};

/* Two arrays of keys that end with a zeroed entry: the part's own, and keys that all such parts
 * have. Both may be NULL; both must outlive the settings. `what` is for messages ("a backend of
 * type \"x\""); `at` is where the part begins, "FILE:LINE" or a URL without its password. Both are
 * copied. */
belay_status belay__settings_new(belay_settings **out, const belay_setting_spec *own,
                                 const belay_setting_spec *common, const char *what, const char *at,
                                 belay_world *world, belay_error *err);
void belay__settings_free(belay_settings *settings); /* secrets are wiped; NULL is allowed */

typedef enum belay__key_kind {
    BELAY__KEY_UNKNOWN,
    BELAY__KEY_VALUE,
    BELAY__KEY_GROUP /* "tls", where there is a "tls.ca" */
} belay__key_kind;
belay__key_kind belay__settings_key(const belay_settings *settings, const char *key);

/* Takes one written value: checks its type, range and words. In a URL a list's key may come several
 * times. `exposed`: where it was written can be read by others, so a secret there is REFUSED. */
belay_status belay__settings_put(belay_settings *settings, const char *key,
                                 const struct belay__raw *raw, const char *at, bool exposed,
                                 belay_error *err);
/* The message for a key that is none: CONFIG, and what may have been meant; `also` (NULL, or
 * NULL-ended): words that are allowed besides. */
belay_status belay__settings_unknown(const belay_settings *settings, const char *key,
                                     const char *const *also, const char *at, belay_error *err);
/* Fills in the defaults, misses the required, reads the secrets. */
belay_status belay__settings_finish(belay_settings *settings, belay_error *err);

/* The children, flattened: every item of every BACKEND and BACKENDS key in the order of the keys.
 * False past the end. */
struct belay__child {
    const char *name; /* or a URL */
    const char *key, *at;
    bool exposed; /* where it was written can be read by others */
};
bool belay__settings_child(const belay_settings *settings, size_t i, struct belay__child *out);
/* Where the part begins. */
const char *belay__settings_at(const belay_settings *settings);

/* Puts "AT: " before the error's text. Returns its status. */
belay_status belay__error_at(belay_error *err, belay_status status, const char *at);

/* REFUSED: "FILE:LINE: holds a password and others can read it". */
belay_status belay__exposed(const char *at, belay_error *err);

/* The lines that describe a set of keys: type, range, default, help. `width` is the first column's.
 */
void belay__settings_describe(const belay_setting_spec *specs, int width,
                              void (*each)(void *arg, const char *line), void *arg);
/* The length of the longest key. */
int belay__settings_width(const belay_setting_spec *specs);

/* The keys of core's own that every backend has: type, timeout. */
extern const belay_setting_spec belay__common_keys[];

/* ------------------------------------------------------------------ the object */

/* A setting lives at the index of its spec: the part's own keys first, then the common ones. */
struct belay__setting {
    const belay_setting_spec *spec;
    char *at;       /* where it was written; NULL: it was not */
    bool exposed;   /* others can read that */
    char *text;     /* STRING, CHOICE, SECRET and the source of what follows */
    int64_t number; /* INTEGER, DURATION, MODE, WAIT; BOOLEAN: 0 or 1 */
    double real;
    char **items; /* STRINGS, BACKENDS; BACKEND: one */
    size_t count;
    belay_backend **objects; /* of the items, once they exist */
    unsigned ways;           /* SECRET: bit 0 KEY itself, bit 1 + i the i-th other way */
};

struct belay_settings {
    belay_world *world;
    char *what, *at;
    struct belay__setting *list;
    size_t count;
};

/* By its exact key; NULL if there is none. */
struct belay__setting *belay__setting_find(const belay_settings *settings, const char *key);

#endif
