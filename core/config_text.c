/* config_text.c - a config file and what it includes, as one text that libconfig can't misread.
 *
 * What of libconfig must never be met, because it is answered here (FACTS.md):
 *   - @include of a directory, a FIFO, a missing file, itself: libconfig may hang or call exit(2).
 * It never sees one.
 *   - 5000000000 becomes 705032704 in 1.5: numbers are written out anew, with the L that they need.
 *   - 010 is 10 in 1.5 and 8 in 1.7; \a is two characters in one and one in the other; \x00 cuts a
 * string: refused.
 *   - a comment in a last line without a newline is a syntax error in 1.5: comments are left out.
 * What was checked is what is parsed: every file is read once. */
#define _GNU_SOURCE /* explicit_bzero */
#include "core/config_text.h"

#include "core/alloc.h"
#include "core/suggest.h"

#include <errno.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/stat.h>

#define INCLUDE_DEPTH 10
#define INCLUDE_FILES 64
#define TEXT_MAX (4u << 20)

/* One file while it is read. */
struct source {
    const char *at, *end;
    struct belay__text_line where;
    int depth;
    bool line_begins; /* nothing but blanks stands before `at` in its line */
};

/* ------------------------------------------------------------------ the text that grows */

belay_status belay__text_no_memory(struct belay__text *t)
{
    return belay_error_set(t->err, BELAY_NOMEM, NULL, "no memory for the config file");
}

belay_status belay__text_wrong(struct belay__text *t, struct belay__text_line where,
                               const char *format, ...)
{
    char at[BELAY__AT], text[sizeof(t->err->text)];
    va_list list;

    va_start(list, format);
    vsnprintf(text, sizeof(text), format, list);
    va_end(list);
    belay__at(at, t->files[where.file].path, where.line);
    return belay_error_set(t->err, BELAY_CONFIG, NULL, "%s: %s", at, text);
}

bool belay__text_grow(struct belay__text *t, void **array, size_t count, size_t *room, size_t more,
                      size_t size)
{
    size_t want = *room != 0 ? *room : 64;
    void *grown;

    if (count + more <= *room) return true;
    while (want < count + more) want *= 2;
    grown = belay__alloc(t->world, want * size);
    if (grown == NULL) return false;
    if (*array != NULL) {
        memcpy(grown, *array, count * size);
        explicit_bzero(*array, count * size);
        belay__free(*array);
    }
    *array = grown;
    *room = want;
    return true;
}

static belay_status text_add(struct belay__text *t, const char *bytes, size_t length)
{
    void *text = t->text;

    if (t->length + length > TEXT_MAX)
        return belay_error_set(t->err, BELAY_CONFIG, NULL,
                               "the config file and what it includes are too large");
    if (!belay__text_grow(t, &text, t->length, &t->room, length + 1, 1))
        return belay__text_no_memory(t);
    t->text = text;
    memcpy(t->text + t->length, bytes, length);
    t->length += length;
    t->text[t->length] = '\0';
    return BELAY_OK;
}

/* Ends the line; the next one comes from `where`. */
static belay_status text_newline(struct belay__text *t, struct belay__text_line where)
{
    void *lines = t->lines;
    belay_status status = t->line_count > 0 ? text_add(t, "\n", 1) : BELAY_OK;

    if (status != BELAY_OK) return status;
    if (!belay__text_grow(t, &lines, t->line_count, &t->line_room, 1, sizeof(*t->lines)))
        return belay__text_no_memory(t);
    t->lines = lines;
    t->lines[t->line_count++] = where;
    return BELAY_OK;
}

static belay_status source_newline(struct belay__text *t, struct source *s)
{
    s->at++;
    s->where.line++;
    s->line_begins = true;
    return text_newline(t, s->where);
}

/* Adds the token and shows it to the grammar. */
static belay_status token_add(struct belay__text *t, struct source *s, enum belay__token token,
                              const char *bytes, size_t length)
{
    size_t at = t->length;
    belay_status status = text_add(t, bytes, length);

    s->line_begins = false;
    return status == BELAY_OK ? belay__grammar_take(t, token, at, s->where) : status;
}

/* ------------------------------------------------------------------ tokens */

static bool is_letter(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static bool is_hex(char c)
{
    return is_digit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

/* Line comments up to the newline, block comments whole. */
static belay_status comment_skip(struct belay__text *t, struct source *s)
{
    struct belay__text_line begin = s->where;
    belay_status status = BELAY_OK;

    if (*s->at == '#' || s->at[1] == '/') {
        while (s->at < s->end && *s->at != '\n') s->at++;
        return BELAY_OK;
    }
    s->line_begins = false;
    for (s->at += 2; s->end - s->at >= 2 && status == BELAY_OK;) {
        if (s->at[0] == '*' && s->at[1] == '/') {
            s->at += 2;
            s->line_begins = false;
            return text_add(t, " ", 1);
        }
        if (*s->at == '\n') status = source_newline(t, s);
        else s->at++;
    }
    return status != BELAY_OK ? status
                              : belay__text_wrong(t, begin, "this comment is never closed");
}

static belay_status string_take(struct belay__text *t, struct source *s)
{
    const char *begin = s->at++;

    for (; s->at < s->end && *s->at != '\n'; s->at++) {
        if (*s->at == '"') {
            s->at++;
            return token_add(t, s, BELAY__TOKEN_STRING, begin, (size_t)(s->at - begin));
        }
        if (*s->at != '\\') continue;
        s->at++;
        if (s->at >= s->end) break;
        if (s->end - s->at > 2 && (*s->at == 'x' || *s->at == 'X') && is_hex(s->at[1]) &&
            is_hex(s->at[2])) {
            if (s->at[1] == '0' && s->at[2] == '0')
                return belay__text_wrong(t, s->where, "a NUL byte (\\x00) in a string");
            s->at += 2;
        } else if (*s->at == '\n' || strchr("nrtf\"\\", *s->at) == NULL) {
            return belay__text_wrong(t, s->where, "a backslash in a string is written \\\\");
        }
    }
    return belay__text_wrong(t, s->where, "this string is not closed in its line");
}

/* Whether the token is a whole number, perhaps with L or LL; *value gets it, with a sticky
 * overflow. */
static bool token_integer(const char *token, long long *value, const char **why)
{
    bool minus = *token == '-';
    const char *digits = token + (*token == '-' || *token == '+');
    bool hex = digits == token && digits[0] == '0' && (digits[1] == 'x' || digits[1] == 'X');
    unsigned long long sum = 0, limit = (unsigned long long)LLONG_MAX + (minus ? 1 : 0);
    unsigned base = hex ? 16 : 10;
    const char *c = digits + (hex ? 2 : 0), *first = c;

    for (; hex ? is_hex(*c) : is_digit(*c); c++) {
        unsigned digit = is_digit(*c) ? (unsigned)(*c - '0') : (unsigned)((*c | 0x20) - 'a' + 10);
        if (sum > (limit - digit) / base) *why = "is too large for a number";
        else sum = sum * base + digit;
    }
    if (c == first) return false;
    if (!hex && *first == '0' && c > first + 1)
        *why = "begins with a zero, which not every libconfig reads alike; a file mode is a "
               "string: \"0600\"";
    if (*c == 'L') c++;
    if (*c == 'L') c++;
    if (*c != '\0') return false;
    *value = minus ? (long long)(0 - sum) : (long long)sum;
    return true;
}

static bool token_real(const char *c)
{
    size_t digits = 0;
    bool point = false, exponent = false;

    c += *c == '-' || *c == '+';
    for (; is_digit(*c); c++) digits++;
    if (*c == '.') {
        point = true;
        for (c++; is_digit(*c); c++) digits++;
    }
    if (digits > 0 && (*c == 'e' || *c == 'E')) {
        c += c[1] == '-' || c[1] == '+' ? 2 : 1;
        exponent = is_digit(*c);
        if (!exponent) return false;
        while (is_digit(*c)) c++;
    }
    return digits > 0 && (point || exponent) && *c == '\0';
}

static belay_status number_take(struct belay__text *t, struct source *s)
{
    char token[64], quoted[BELAY__QUOTE], canonical[32];
    const char *begin = s->at, *why = NULL;
    long long value;
    size_t length;

    for (; s->at < s->end; s->at++) {
        char before = s->at > begin ? s->at[-1] : '\0';
        bool sign = (*s->at == '-' || *s->at == '+') &&
                    (s->at == begin || ((before | 0x20) == 'e' && begin[1] != 'x'));
        if (!is_letter(*s->at) && !is_digit(*s->at) && *s->at != '.' && *s->at != '_' && !sign)
            break;
    }
    length = (size_t)(s->at - begin);
    snprintf(token, sizeof(token), "%.*s", (int)(length < 60 ? length : 60), begin);
    if (length < 60 && token_integer(token, &value, &why)) {
        if (why != NULL) return belay__text_wrong(t, s->where, "%s %s", token, why);
        snprintf(canonical, sizeof(canonical), "%lld%s", value,
                 value < INT_MIN || value > INT_MAX ? "L" : "");
        return token_add(t, s, BELAY__TOKEN_WORD, canonical, strlen(canonical));
    }
    if (length < 60 && token_real(token)) return token_add(t, s, BELAY__TOKEN_WORD, token, length);
    belay__quote(quoted, token);
    if (why == NULL && is_digit(*begin))
        return belay__text_wrong(
            t, s->where,
            "%s is not a number; a string stands in quotes, a name begins with a letter", quoted);
    return belay__text_wrong(t, s->where, "%s %s", quoted,
                             why != NULL ? why : "is not a number; a string stands in quotes");
}

static belay_status name_take(struct belay__text *t, struct source *s)
{
    const char *begin = s->at;
    size_t length;
    bool word;

    while (s->at < s->end && (is_letter(*s->at) || is_digit(*s->at) || *s->at == '-' ||
                              *s->at == '_' || *s->at == '*'))
        s->at++;
    length = (size_t)(s->at - begin);
    word = (length == 4 && strncasecmp(begin, "true", 4) == 0) ||
           (length == 5 && strncasecmp(begin, "false", 5) == 0);
    return token_add(t, s, word ? BELAY__TOKEN_WORD : BELAY__TOKEN_NAME, begin, length);
}

/* ------------------------------------------------------------------ including */

static belay_status file_take(struct belay__text *t, const char *path, const struct source *from);

/* *out: the path of an include in the file it stands in, to be freed. */
static belay_status include_path(struct belay__text *t, struct source *s, char **out)
{
    const char *file = t->files[s->where.file].path, *slash = strrchr(file, '/');
    const char *begin = s->at;
    size_t folder, used;
    char *path;

    while (s->at < s->end && *s->at != '"' && *s->at != '\n' && *s->at != '\\') s->at++;
    if (s->at >= s->end || *s->at != '"')
        return belay__text_wrong(t, s->where, "an include is one line: @include \"FILE\"");
    used = (size_t)(s->at - begin);
    s->at++;
    if (used == 0) return belay__text_wrong(t, s->where, "the included file's name is empty");
    folder = *begin == '/' || slash == NULL ? 0 : (size_t)(slash + 1 - file);
    path = belay__alloc(t->world, folder + used + 1);
    if (path == NULL) return belay__text_no_memory(t);
    memcpy(path, file, folder);
    memcpy(path + folder, begin, used);
    *out = path;
    return BELAY_OK;
}

static belay_status include_take(struct belay__text *t, struct source *s)
{
    static const char word[] = "@include";
    const char *c = s->at + sizeof(word) - 1;
    belay_status status;
    char *path = NULL;

    if (!s->line_begins || (size_t)(s->end - s->at) < sizeof(word) ||
        strncmp(s->at, word, sizeof(word) - 1) != 0 || (*c != ' ' && *c != '\t'))
        return belay__text_wrong(
            t, s->where, "a '@' stands only in @include \"FILE\", at the beginning of a line");
    while (c < s->end && (*c == ' ' || *c == '\t')) c++;
    if (c >= s->end || *c != '"')
        return belay__text_wrong(t, s->where, "an include is one line: @include \"FILE\"");
    s->at = c + 1;
    status = include_path(t, s, &path);
    if (status == BELAY_OK) status = file_take(t, path, s);
    if (status == BELAY_OK) status = text_newline(t, s->where);
    s->line_begins = false;
    belay__free(path);
    return status;
}

/* ------------------------------------------------------------------ a file */

static belay_status source_step(struct belay__text *t, struct source *s)
{
    char c = *s->at, quoted[BELAY__QUOTE];
    bool comment = s->end - s->at >= 2 && c == '/' && (s->at[1] == '/' || s->at[1] == '*');

    if (c == '\n') return source_newline(t, s);
    if (c == ' ' || c == '\t' || c == '\r' || c == '\f') {
        if (c == '\f' || c == '\r') s->line_begins = false;
        s->at++;
        return text_add(t, " ", 1);
    }
    if (c == '#' || comment) return comment_skip(t, s);
    if (c == '@') return include_take(t, s);
    if (c == '"') return string_take(t, s);
    if (is_letter(c) || c == '*') return name_take(t, s);
    if (is_digit(c) || c == '-' || c == '+' || c == '.') return number_take(t, s);
    s->at++;
    switch (c) {
    case '=':
    case ':': return token_add(t, s, BELAY__TOKEN_EQUALS, &c, 1);
    case ',': return token_add(t, s, BELAY__TOKEN_COMMA, &c, 1);
    case ';': return token_add(t, s, BELAY__TOKEN_SEMICOLON, &c, 1);
    case '{':
    case '(':
    case '[': return token_add(t, s, BELAY__TOKEN_OPEN, &c, 1);
    case '}':
    case ')':
    case ']': return token_add(t, s, BELAY__TOKEN_CLOSE, &c, 1);
    default:
        return belay__text_wrong(t, s->where, "%s has no meaning here; a string stands in quotes",
                                 belay__quote(quoted, (char[]){ c, '\0' }));
    }
}

static belay_status source_take(struct belay__text *t, struct source *s)
{
    static const char mark[] = "\xef\xbb\xbf"; /* that some editors put first */
    belay_status status = text_newline(t, s->where);
    const char *nul = memchr(s->at, '\0', (size_t)(s->end - s->at));

    if (nul != NULL) {
        for (; s->at < nul; s->at++) s->where.line += *s->at == '\n';
        return belay__text_wrong(t, s->where, "a NUL byte: this is not a text file");
    }
    if (s->end - s->at >= 3 && memcmp(s->at, mark, 3) == 0) s->at += 3;
    while (status == BELAY_OK && s->at < s->end) status = source_step(t, s);
    if (status == BELAY_OK && s->depth == 0)
        status = belay__grammar_take(t, BELAY__TOKEN_END, t->length, s->where);
    return status;
}

/* Remembers the file; *index is where. */
static belay_status file_add(struct belay__text *t, const char *path,
                             const struct belay__file *file, uint32_t *index)
{
    void *files = t->files;
    struct belay__text_file *added;

    if (!belay__text_grow(t, &files, t->file_count, &t->file_room, 1, sizeof(*t->files)))
        return belay__text_no_memory(t);
    t->files = files;
    added = &t->files[t->file_count];
    added->path = belay__strdup(t->world, path);
    if (added->path == NULL) return belay__text_no_memory(t);
    added->exposed = (file->mode & (S_IRGRP | S_IROTH)) != 0;
    added->dev = file->dev;
    added->ino = file->ino;
    added->open = true;
    *index = (uint32_t)t->file_count++;
    return BELAY_OK;
}

/* Whether another file may be included from there. */
static belay_status include_room(struct belay__text *t, const struct source *from)
{
    if (from->depth >= INCLUDE_DEPTH)
        return belay__text_wrong(t, from->where, "includes are more than %d deep", INCLUDE_DEPTH);
    if (t->file_count >= INCLUDE_FILES)
        return belay__text_wrong(t, from->where, "more than %d files are included", INCLUDE_FILES);
    return BELAY_OK;
}

/* Whether this file is not one of those that led to it. */
static belay_status include_new(struct belay__text *t, const struct source *from,
                                const struct belay__file *file)
{
    char at[BELAY__AT];

    for (size_t i = 0; i < t->file_count; i++) {
        const struct belay__text_file *other = &t->files[i];
        if (!other->open || other->dev != file->dev || other->ino != file->ino) continue;
        if (i == from->where.file)
            return belay__text_wrong(t, from->where, "the file includes itself");
        return belay__text_wrong(t, from->where, "the include leads back to %s",
                                 belay__at(at, other->path, 0));
    }
    return BELAY_OK;
}

/* `from` includes it; NULL: it is the first. */
static belay_status file_take(struct belay__text *t, const char *path, const struct source *from)
{
    struct source s = { .line_begins = true };
    belay_status status = BELAY_OK;
    struct belay__file file;
    char at[BELAY__AT];

    if (from != NULL) {
        s.depth = from->depth + 1;
        belay__at(at, t->files[from->where.file].path, from->where.line);
        status = include_room(t, from);
    }
    if (status != BELAY_OK) return status;
    status =
        belay__file_read(&file, path, BELAY__FILE_MAX, from != NULL ? at : NULL, t->world, t->err);
    if (status != BELAY_OK) return status;
    if (from != NULL) status = include_new(t, from, &file);
    if (status == BELAY_OK) status = file_add(t, path, &file, &s.where.file);
    if (status == BELAY_OK) {
        s.where.line = 1;
        s.at = file.bytes;
        s.end = file.bytes + file.length;
        status = source_take(t, &s);
        t->files[s.where.file].open = false;
    }
    belay__file_free(&file);
    return status;
}

belay_status belay__text_read(struct belay__text *t, const char *path, belay_world *world,
                              belay_error *err)
{
    belay_status status;

    *t = (struct belay__text){ .world = world, .err = err };
    status = file_take(t, path, NULL);
    return status == BELAY_OK ? text_add(t, "\n", 1) : status;
}

void belay__text_free(struct belay__text *t)
{
    if (t->text != NULL) explicit_bzero(t->text, t->room);
    for (size_t i = 0; i < t->file_count; i++) belay__free(t->files[i].path);
    belay__free(t->text);
    belay__free(t->lines);
    belay__free(t->files);
    belay__free(t->names);
    *t = (struct belay__text){ 0 };
}

const struct belay__text_file *belay__text_at(const struct belay__text *t, unsigned line,
                                              char out[BELAY__AT])
{
    size_t i = line > 0 && line <= t->line_count ? line - 1 : t->line_count - 1;
    const struct belay__text_file *file = &t->files[t->lines[i].file];

    belay__at(out, file->path, t->lines[i].line);
    return file;
}
