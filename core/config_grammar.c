/* config_grammar.c - libconfig's grammar, one token at a time, for the sake of the message:
 * libconfig itself says "syntax error" (and 1.5 leaks then), wherever it noticed. */
#include "core/config_text.h"
#include "core/suggest.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define NAMES_MAX 4096u

enum expect {
    EXPECT_NAME,   /* in a group: a name, or its end */
    EXPECT_EQUALS, /* behind a name */
    EXPECT_VALUE,  /* behind "name =" */
    EXPECT_END,    /* behind a value in a group: ; or , or the next name, or the end */
    EXPECT_FIRST,  /* behind ( or [: an item, or the end */
    EXPECT_ITEM,   /* behind a comma */
    EXPECT_COMMA   /* behind an item: a comma, or the end */
};

static const char *token_quote(struct belay__text *t, size_t at, char out[BELAY__QUOTE])
{
    char plain[48];

    snprintf(plain, sizeof(plain), "%.*s", (int)(t->length - at < 40 ? t->length - at : 40),
             t->text + at);
    if (plain[0] == '"') {
        snprintf(out, BELAY__QUOTE, "a string");
        return out;
    }
    return belay__quote(out, plain);
}

static struct belay__text_level *level_now(struct belay__text *t)
{
    return &t->levels[t->depth];
}

/* A name in a group: not the second of its kind. */
static belay_status name_take(struct belay__text *t, size_t at, struct belay__text_line where)
{
    size_t length = t->length - at;
    uint32_t group = level_now(t)->group;
    void *names = t->names;
    char first[BELAY__AT];

    if (t->name_count >= NAMES_MAX)
        return belay__text_wrong(t, where, "more than %u settings are too many", NAMES_MAX);
    for (size_t i = 0; i < t->name_count; i++) {
        const struct belay__text_name *name = &t->names[i];
        if (name->group != group || name->length != length ||
            memcmp(t->text + name->at, t->text + at, length) != 0)
            continue;
        belay__text_at(t, name->line_index + 1, first);
        return belay__text_wrong(t, where, "\"%.*s\" is here twice; the first is at %s",
                                 (int)(length < 40 ? length : 40), t->text + at, first);
    }
    if (!belay__text_grow(t, &names, t->name_count, &t->name_room, 1, sizeof(*t->names)))
        return belay__text_no_memory(t);
    t->names = names;
    t->names[t->name_count++] = (struct belay__text_name){
        .at = at, .length = length, .group = group, .line_index = (uint32_t)t->line_count - 1
    };
    t->expect = EXPECT_EQUALS;
    return BELAY_OK;
}

static belay_status open_take(struct belay__text *t, char bracket, struct belay__text_line where)
{
    struct belay__text_level *level;

    if (t->depth >= BELAY__TEXT_DEPTH)
        return belay__text_wrong(t, where, "brackets are more than %d deep", BELAY__TEXT_DEPTH);
    if (level_now(t)->bracket == BELAY__ARRAY)
        return belay__text_wrong(t, where,
                                 "'%c' inside of [ ]: a list of other things than values is ( )",
                                 bracket);
    t->depth++;
    level = level_now(t);
    level->bracket = bracket == '{' ? BELAY__GROUP : bracket == '(' ? BELAY__LIST : BELAY__ARRAY;
    level->group = bracket == '{' ? ++t->groups : 0;
    level->open = where;
    t->expect = bracket == '{' ? EXPECT_NAME : EXPECT_FIRST;
    return BELAY_OK;
}

/* Behind a value, of a group's name or of a list. */
static void value_done(struct belay__text *t)
{
    t->expect = level_now(t)->bracket == BELAY__GROUP ? EXPECT_END : EXPECT_COMMA;
}

static belay_status close_take(struct belay__text *t, char bracket, struct belay__text_line where)
{
    static const char closers[] = { '}', ')', ']' };
    char want = closers[level_now(t)->bracket], open[BELAY__AT];

    if (t->depth == 0) return belay__text_wrong(t, where, "'%c' closes nothing", bracket);
    if (bracket != want) {
        belay__at(open, t->files[level_now(t)->open.file].path, level_now(t)->open.line);
        return belay__text_wrong(t, where,
                                 "'%c' where a '%c' is wanted: the bracket was opened at %s",
                                 bracket, want, open);
    }
    t->depth--;
    value_done(t);
    return BELAY_OK;
}

/* The message for a token that may not stand here. */
static belay_status token_wrong(struct belay__text *t, enum belay__token token, size_t at,
                                struct belay__text_line where)
{
    const struct belay__text_name *name = t->name_count > 0 ? &t->names[t->name_count - 1] : NULL;
    char quoted[BELAY__QUOTE], named[48] = "";

    if (name != NULL)
        snprintf(named, sizeof(named), "%.*s", (int)(name->length < 40 ? name->length : 40),
                 t->text + name->at);
    token_quote(t, at, quoted);
    switch ((enum expect)t->expect) {
    case EXPECT_NAME:
        if (token == BELAY__TOKEN_SEMICOLON || token == BELAY__TOKEN_COMMA)
            return belay__text_wrong(t, where, "a %s too many", quoted);
        return belay__text_wrong(t, where,
                                 "%s stands where a setting's name is wanted (without quotes)",
                                 quoted);
    case EXPECT_EQUALS:
        return belay__text_wrong(t, where, "behind \"%s\" a '=' is wanted, not %s", named, quoted);
    case EXPECT_VALUE:
        if (token == BELAY__TOKEN_NAME)
            return belay__text_wrong(
                t, where,
                "%s: %s is no value; a string stands in quotes, a boolean is true or false", named,
                quoted);
        return belay__text_wrong(t, where, "\"%s\" has no value", named);
    case EXPECT_END:
        return belay__text_wrong(t, where, "behind the value of \"%s\" a ';' is wanted, not %s",
                                 named, quoted);
    case EXPECT_FIRST:
    case EXPECT_ITEM:
        if (token == BELAY__TOKEN_NAME)
            return belay__text_wrong(t, where, "%s is no value; a string stands in quotes", quoted);
        if (token == BELAY__TOKEN_CLOSE)
            return belay__text_wrong(t, where, "a ',' too many before %s", quoted);
        return belay__text_wrong(t, where, "an item is wanted, not %s", quoted);
    case EXPECT_COMMA: break;
    }
    return belay__text_wrong(t, where, "between two items a ',' is wanted, not %s", quoted);
}

static belay_status end_take(struct belay__text *t, struct belay__text_line where)
{
    static const char openers[] = { '{', '(', '[' };

    if (t->depth > 0)
        return belay__text_wrong(t, level_now(t)->open, "this '%c' is never closed",
                                 openers[level_now(t)->bracket]);
    if (t->expect == EXPECT_NAME || t->expect == EXPECT_END) return BELAY_OK;
    return belay__text_wrong(t, where, "the file ends behind \"%.*s\"; a value is wanted",
                             (int)(t->names[t->name_count - 1].length < 40
                                       ? t->names[t->name_count - 1].length
                                       : 40),
                             t->text + t->names[t->name_count - 1].at);
}

belay_status belay__grammar_take(struct belay__text *t, enum belay__token token, size_t at,
                                 struct belay__text_line where)
{
    enum expect expect = (enum expect)t->expect;
    bool value = expect == EXPECT_VALUE || expect == EXPECT_FIRST || expect == EXPECT_ITEM;
    bool after_string = t->after_string;

    t->after_string = false;
    switch (token) {
    case BELAY__TOKEN_NAME:
        if (expect == EXPECT_NAME || expect == EXPECT_END) return name_take(t, at, where);
        break;
    case BELAY__TOKEN_EQUALS:
        if (expect != EXPECT_EQUALS) break;
        t->expect = EXPECT_VALUE;
        return BELAY_OK;
    case BELAY__TOKEN_STRING: /* strings that follow each other are one */
        if (!value && !after_string) break;
        t->after_string = true;
        value_done(t);
        return BELAY_OK;
    case BELAY__TOKEN_WORD:
        if (!value) break;
        value_done(t);
        return BELAY_OK;
    case BELAY__TOKEN_OPEN:
        if (!value) break;
        return open_take(t, t->text[at], where);
    case BELAY__TOKEN_CLOSE:
        if (expect == EXPECT_EQUALS || expect == EXPECT_VALUE || expect == EXPECT_ITEM) break;
        return close_take(t, t->text[at], where);
    case BELAY__TOKEN_COMMA:
    case BELAY__TOKEN_SEMICOLON:
        if (expect == EXPECT_END) {
            t->expect = EXPECT_NAME;
            return BELAY_OK;
        }
        if (expect == EXPECT_COMMA && token == BELAY__TOKEN_COMMA) {
            t->expect = EXPECT_ITEM;
            return BELAY_OK;
        }
        break;
    case BELAY__TOKEN_END: return end_take(t, where);
    }
    return token_wrong(t, token, at, where);
}
