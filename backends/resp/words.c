/* words.c - see words.h. */
#include "backends/resp/words.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

void belay__failure_set(struct belay__failure *failure, belay_status status, belay_cause cause,
                        const char *format, ...)
{
    va_list args;
    failure->status = status;
    failure->cause = cause;
    va_start(args, format);
    vsnprintf(failure->text, sizeof failure->text, format, args);
    va_end(args);
}

struct word {
    const char *word;
    enum belay__meaning meaning;
    belay_status status;
    belay_cause cause;
};

static const struct word words[] = {
    { "NOSCRIPT", BELAY__MEANS_NOSCRIPT, BELAY_UNAVAILABLE, BELAY_CAUSE_BUSY },
    { "WRONGTYPE", BELAY__MEANS_WRONGTYPE, BELAY_REFUSED, BELAY_CAUSE_WRONG },
    /* It is there, and has nothing to serve with: as good as gone. */
    { "LOADING", BELAY__MEANS_LATER, BELAY_UNAVAILABLE, BELAY_CAUSE_UNREACHABLE },
    { "MASTERDOWN", BELAY__MEANS_LATER, BELAY_UNAVAILABLE, BELAY_CAUSE_UNREACHABLE },
    { "CLUSTERDOWN", BELAY__MEANS_LATER, BELAY_UNAVAILABLE, BELAY_CAUSE_UNREACHABLE },
    { "READONLY", BELAY__MEANS_LATER, BELAY_UNAVAILABLE, BELAY_CAUSE_BUSY },
    { "TRYAGAIN", BELAY__MEANS_LATER, BELAY_UNAVAILABLE, BELAY_CAUSE_BUSY },
    { "BUSY", BELAY__MEANS_LATER, BELAY_UNAVAILABLE, BELAY_CAUSE_BUSY },
    { "NOREPLICAS", BELAY__MEANS_LATER, BELAY_UNAVAILABLE, BELAY_CAUSE_BUSY },
    { "OOM", BELAY__MEANS_LATER, BELAY_UNAVAILABLE, BELAY_CAUSE_BUSY },
    { "MISCONF", BELAY__MEANS_LATER, BELAY_UNAVAILABLE, BELAY_CAUSE_BUSY },
    { "NOAUTH", BELAY__MEANS_FAILED, BELAY_REFUSED, BELAY_CAUSE_WRONG },
    { "WRONGPASS", BELAY__MEANS_FAILED, BELAY_REFUSED, BELAY_CAUSE_WRONG },
    { "NOPERM", BELAY__MEANS_FAILED, BELAY_REFUSED, BELAY_CAUSE_WRONG },
    { "DENIED", BELAY__MEANS_FAILED, BELAY_REFUSED, BELAY_CAUSE_WRONG }, /* protected mode */
    /* Our own scripts' words: scripts.c. */
    { "BELAYFENCE", BELAY__MEANS_FAILED, BELAY_REFUSED, BELAY_CAUSE_WRONG },
    /* A cluster's node, and this is not type "cluster". */
    { "MOVED", BELAY__MEANS_FAILED, BELAY_CONFIG, BELAY_CAUSE_WRONG },
    { "ASK", BELAY__MEANS_FAILED, BELAY_CONFIG, BELAY_CAUSE_WRONG },
    { "CROSSSLOT", BELAY__MEANS_FAILED, BELAY_CONFIG, BELAY_CAUSE_WRONG },
};

/* "ERR": what follows decides. */
static const struct word sentences[] = {
    { "max number of clients", BELAY__MEANS_LATER, BELAY_UNAVAILABLE, BELAY_CAUSE_BUSY },
    { "The user executing the script", BELAY__MEANS_FAILED, BELAY_REFUSED, BELAY_CAUSE_WRONG },
    { "unknown command", BELAY__MEANS_FAILED, BELAY_REFUSED, BELAY_CAUSE_WRONG },
    { "unknown subcommand", BELAY__MEANS_FAILED, BELAY_REFUSED, BELAY_CAUSE_WRONG },
    { "invalid password", BELAY__MEANS_FAILED, BELAY_REFUSED, BELAY_CAUSE_WRONG },
    { "AUTH", BELAY__MEANS_FAILED, BELAY_REFUSED, BELAY_CAUSE_WRONG },
    { "DB index", BELAY__MEANS_FAILED, BELAY_REFUSED, BELAY_CAUSE_WRONG },
    { "SELECT is not allowed", BELAY__MEANS_FAILED, BELAY_REFUSED, BELAY_CAUSE_WRONG },
};

static size_t word_length(const char *text)
{
    size_t length = 0;
    while ((text[length] >= 'A' && text[length] <= 'Z') || text[length] == '_') length++;
    return length;
}

static const struct word *word_find(const char *text)
{
    size_t length = word_length(text);
    for (size_t i = 0; length > 0 && i < sizeof words / sizeof words[0]; i++)
        if (strlen(words[i].word) == length && memcmp(words[i].word, text, length) == 0)
            return &words[i];
    return NULL;
}

/* What a script met, as servers before 7 tell it: "... @user_script:1: [-]OOM command not ...". */
static const struct word *word_inside(const char *line, const char **at)
{
    for (const char *colon = strstr(line, ": "); colon != NULL; colon = strstr(colon + 2, ": ")) {
        *at = colon + 2;
        if (**at == '-') (*at)++;
        const struct word *word = word_find(*at);
        if (word != NULL) return word;
    }
    return NULL;
}

enum { LINE_LONG = 160 };

/* How much of it may be shown. What an unknown command was asked with would be owner ids, or a
 * password; where in a script it happened is nobody's business. */
static size_t words_shown(const char *line)
{
    static const char *const ends[] = { ", with args beginning with", " script: " };
    size_t length = strlen(line);
    for (size_t i = 0; i < sizeof ends / sizeof ends[0]; i++) {
        const char *end = strstr(line, ends[i]);
        if (end != NULL && (size_t)(end - line) < length) length = (size_t)(end - line);
    }
    /* "DENIED Redis is running in protected mode ...": a sentence says it, a page follows. */
    const char *sentence = length > LINE_LONG ? strstr(line, ". ") : NULL;
    if (sentence != NULL && (size_t)(sentence - line) < length) length = (size_t)(sentence - line);
    return length;
}

void belay__words_clean(char *text)
{
    for (; *text != '\0'; text++)
        if (*text < ' ' || *text > '~') *text = '?';
}

enum belay__meaning belay__words_read(const char *line, struct belay__failure *failure)
{
    const char *at = line;
    const struct word *word = word_find(line);
    if (word == NULL && strncmp(line, "ERR", 3) == 0) {
        if (strstr(line, "running script") != NULL) word = word_inside(line, &at);
        if (word == NULL) at = line;
        for (size_t i = 0; word == NULL && i < sizeof sentences / sizeof sentences[0]; i++)
            if (strstr(line, sentences[i].word) != NULL) word = &sentences[i];
    }
    int length = (int)words_shown(at);
    if (word == NULL) {
        belay__failure_set(failure, BELAY_UNAVAILABLE, BELAY_CAUSE_BUSY, "%.*s", length, at);
        belay__words_clean(failure->text);
        return BELAY__MEANS_UNKNOWN;
    }
    belay__failure_set(failure, word->status, word->cause, "%.*s%s", length, at,
                       word->status == BELAY_CONFIG
                           ? " (it is a node of a cluster; this type is for one server)"
                           : "");
    belay__words_clean(failure->text);
    return word->meaning;
}
