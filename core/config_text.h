/* config_text.h - a config file and what it includes, as one text that libconfig can't misread. */
#ifndef BELAY_CORE_CONFIG_TEXT_H
#define BELAY_CORE_CONFIG_TEXT_H

#include "core/place.h"
#include "core/suggest.h"

/* A file that lines come from. */
struct belay__text_file {
    char *path;
    bool exposed; /* its group or others can read it */
    dev_t dev;
    ino_t ino;
    bool open; /* being read: including it again would never end */
};

/* Where a line of the text comes from. */
struct belay__text_line {
    uint32_t file, line;
};

/* A name, to find the one that is there twice. */
struct belay__text_name {
    size_t at, length; /* in the text */
    uint32_t group, line_index;
};

enum belay__text_bracket { BELAY__GROUP, BELAY__LIST, BELAY__ARRAY };

struct belay__text_level {
    enum belay__text_bracket bracket;
    uint32_t group; /* number of the innermost group */
    struct belay__text_line open;
};

#define BELAY__TEXT_DEPTH 16 /* brackets within brackets */

struct belay__text {
    belay_world *world;
    belay_error *err;
    char
        *text; /* NUL-terminated; no comments, no @include, numbers as every libconfig reads them */
    size_t length, room;
    struct belay__text_line *lines; /* [0] is line 1 of the text */
    size_t line_count, line_room;
    struct belay__text_file *files;
    size_t file_count, file_room;
    struct belay__text_name *names;
    size_t name_count, name_room;
    /* The grammar: what may come next. */
    struct belay__text_level levels[BELAY__TEXT_DEPTH + 1];
    size_t depth;
    uint32_t groups;
    int expect;
    bool after_string;
};

/* Reads the file at `path` and all it includes: regular files only, 1 MiB each, 4 MiB in all, 10
 * deep, 64 in number. A relative include is looked for beside the file that names it. What
 * libconfig would refuse is refused here, with a better reason; what its versions read differently
 * as well. CONFIG with "FILE:LINE: why", or NOMEM. To be freed in either case. */
belay_status belay__text_read(struct belay__text *text, const char *path, belay_world *world,
                              belay_error *err);
void belay__text_free(struct belay__text *text); /* wipes */

/* Where line `line` of the text (from 1) comes from: the file, and "FILE:LINE" into `out`. */
const struct belay__text_file *belay__text_at(const struct belay__text *text, unsigned line,
                                              char out[BELAY__AT]);

/* For config_text.c and config_grammar.c. */
enum belay__token {
    BELAY__TOKEN_NAME,
    BELAY__TOKEN_EQUALS,
    BELAY__TOKEN_WORD, /* true, false, a number */
    BELAY__TOKEN_STRING,
    BELAY__TOKEN_OPEN,
    BELAY__TOKEN_CLOSE,
    BELAY__TOKEN_COMMA,
    BELAY__TOKEN_SEMICOLON,
    BELAY__TOKEN_END
};
/* Takes the token that stands at text[at..length) and came from `where`. */
belay_status belay__grammar_take(struct belay__text *text, enum belay__token token, size_t at,
                                 struct belay__text_line where);
/* CONFIG, "FILE:LINE: why". */
belay_status belay__text_wrong(struct belay__text *text, struct belay__text_line where,
                               const char *format, ...) __attribute__((format(printf, 3, 4)));
belay_status belay__text_no_memory(struct belay__text *text);
/* Room for one more element of `size` bytes; false without memory. Wipes what it leaves. */
bool belay__text_grow(struct belay__text *text, void **array, size_t count, size_t *room,
                      size_t more, size_t size);

#endif
