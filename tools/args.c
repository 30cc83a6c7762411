/* args.c - the command line, read: one table of options for all verbs, so that help and completion
 * can't disagree with what is accepted. Options may stand before and after the verb and the words,
 * up to `--`. */
#include "args.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <belay/belay.h>

#include "message.h"

enum kind { KIND_FLAG, KIND_DURATION, KIND_WORD, KIND_STATUS, KIND_CHOICE };

struct option {
    char letter; /* 0: none */
    const char *name;
    enum kind kind;
    size_t field; /* in struct args */
    unsigned verbs;
    const char *value; /* what help calls its value; NULL for a flag; of a choice, the words */
    const char *about;
};

#define FIELD(member) offsetof(struct args, member)
#define VERB_ALL (~0u)
#define VERB_TELLING                                                                               \
    (VERB_TRY | VERB_EXTEND | VERB_RELEASE | VERB_STATUS | VERB_WATCH | VERB_LIST | VERB_BREAK |   \
     VERB_DOCTOR | VERB_CONFIG | VERB_VERSION)

static const struct option options[] = {
    { 'n', "no-wait", KIND_FLAG, FIELD(no_wait), VERB_RUN, NULL,
      "give up at once when another holds the lock" },
    { 'w', "wait", KIND_DURATION, FIELD(wait_ms), VERB_RUN, "DUR",
      "wait at most this long (default: as long as it takes)" },
    { 't', "ttl", KIND_DURATION, FIELD(ttl_ms), VERB_RUN | VERB_TRY | VERB_EXTEND, "DUR",
      "how long the lock lasts unless it is extended (default: the config's)" },
    { 'E', "held-status", KIND_STATUS, FIELD(held_status), VERB_RUN | VERB_TRY, "CODE",
      "exit with CODE when another holds the lock (default 75)" },
    { 'k', "grace", KIND_DURATION, FIELD(grace_ms), VERB_RUN, "DUR",
      "tell CMD this long before the lock ends (default: 5s, at most a quarter of the TTL)" },
    { 0, "on-lost", KIND_CHOICE, FIELD(on_lost), VERB_RUN, "term|kill|ignore",
      "when the lock can't be kept: term CMD, then kill it (default); kill; or ignore" },
    { 0, "no-degrade", KIND_FLAG, FIELD(no_degrade), VERB_RUN | VERB_TRY | VERB_STATUS, NULL,
      "nothing less than what locks reach when all is well" },
    { 0, "on-degrade", KIND_CHOICE, FIELD(on_degrade), VERB_RUN, "continue|term",
      "when the lock comes to reach less while CMD runs: continue (default), or term CMD" },
    { 0, "every", KIND_DURATION, FIELD(every_ms), VERB_WATCH, "DUR",
      "how often a lock is tried (default: 1s)" },
    { 0, "owner", KIND_WORD, FIELD(owner), VERB_EXTEND | VERB_RELEASE, "ID",
      "the owner id that `belay try` printed" },
    { 0, "label", KIND_WORD, FIELD(label), VERB_RUN | VERB_TRY, "TEXT",
      "what others are shown as the holder (default: USER@HOST: CMD)" },
    { 0, "show-owner", KIND_FLAG, FIELD(show_owner), VERB_STATUS | VERB_LIST, NULL,
      "show owner ids: who knows one may release the lock" },
    { 'y', "yes", KIND_FLAG, FIELD(yes), VERB_BREAK, NULL, "do not ask" },
    { 'f', "force", KIND_FLAG, FIELD(yes), VERB_BREAK, NULL, "the same" },
    { 0, "config", KIND_WORD, FIELD(config), VERB_ALL, "WHERE",
      "a config file or a URL (default: $BELAY_CONFIG, ~/.config/belay, /etc/belay)" },
    { 0, "json", KIND_FLAG, FIELD(json), VERB_TELLING, NULL, "answer in JSON" },
    { 'q', "quiet", KIND_FLAG, FIELD(quiet), VERB_ALL, NULL,
      "errors only: nothing about a held lock, waiting, warnings" },
    { 'v', "verbose", KIND_FLAG, FIELD(verbose), VERB_ALL, NULL, "say more on standard error" },
    { 'h', "help", KIND_FLAG, FIELD(help), VERB_ALL, NULL, "this help" },
    { 0, "version", KIND_FLAG, FIELD(version), VERB_ALL, NULL, "the version" },
};
enum { OPTION_COUNT = sizeof(options) / sizeof(options[0]) };

/* ------------------------------------------------------------------ values */

const char *args_duration(const char *word, int64_t *out_ms)
{
    static const struct {
        const char *unit;
        int64_t ms;
    } units[] = { { "ms", 1 }, { "s", 1000 }, { "m", 60000 }, { "h", 3600000 }, { "d", 86400000 } };
    const int64_t max = BELAY_WAIT_MAX_MS;
    int64_t number = 0;
    const char *s = word;

    if (*s < '0' || *s > '9') return "a duration looks like 500ms, 10s, 2m or 1h";
    for (; *s >= '0' && *s <= '9'; s++) {
        number = number * 10 + (*s - '0');
        if (number > max) return "it is too long";
    }
    if (*s == '\0') return "a duration needs its unit: ms, s, m, h or d";
    for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++) {
        if (strcmp(s, units[i].unit) != 0) continue;
        if (number > max / units[i].ms) return "it is too long";
        *out_ms = number * units[i].ms;
        return NULL;
    }
    return "the units are ms, s, m, h and d";
}

static const char *status_value(const char *word, int64_t *out)
{
    char *end;
    errno = 0;
    long value = strtol(word, &end, 10);
    if (*word < '0' || *word > '9' || *end != '\0' || errno != 0 || value > 255)
        return "an exit status is a number from 0 to 255";
    *out = value;
    return NULL;
}

/* Stores the number of the word in "term|kill|ignore", from 0. */
static const char *choice_value(const char *choices, const char *word, int *out)
{
    static char why[80];
    size_t length = strlen(word);
    int number = 0;

    for (const char *at = choices;; at++, number++) {
        size_t n = strcspn(at, "|");
        if (n == length && strncmp(at, word, n) == 0) break;
        at += n;
        if (*at != '\0') continue;
        snprintf(why, sizeof(why), "it is one of %s", choices);
        return why;
    }
    *out = number;
    return NULL;
}

/* Stores an option's value. Words are kept, not copied: argv outlives us. */
static const char *option_store(const struct option *option, struct args *args, const char *value)
{
    void *field = (char *)args + option->field;
    switch (option->kind) {
    case KIND_FLAG: *(bool *)field = true; return NULL;
    case KIND_WORD: *(const char **)field = value; return NULL;
    case KIND_DURATION: return args_duration(value, (int64_t *)field);
    case KIND_STATUS: return status_value(value, (int64_t *)field);
    case KIND_CHOICE: return choice_value(option->value, value, (int *)field);
    }
    return NULL;
}

/* ------------------------------------------------------------------ did you mean */

/* Levenshtein's distance, for short words. */
static size_t distance(const char *a, const char *b)
{
    enum { LONGEST = 31 };
    size_t row[LONGEST + 1], width = strlen(b);
    if (width > LONGEST) return SIZE_MAX;
    for (size_t j = 0; j <= width; j++) row[j] = j;
    for (size_t i = 0; a[i] != '\0'; i++) {
        size_t diagonal = row[0];
        row[0] = i + 1;
        for (size_t j = 0; j < width; j++) {
            size_t best = diagonal + (a[i] != b[j]);
            if (row[j] + 1 < best) best = row[j] + 1;
            diagonal = row[j + 1];
            if (diagonal + 1 < best) best = diagonal + 1;
            row[j + 1] = best;
        }
    }
    return row[width];
}

static const char *nearest_verb(const char *word)
{
    const char *found = NULL;
    size_t best = 3;
    for (const struct verb *verb = verbs; verb->name != NULL; verb++) {
        size_t d = distance(word, verb->name);
        if (d < best && d < strlen(verb->name)) {
            best = d;
            found = verb->name;
        }
    }
    return found;
}

static const char *nearest_option(const char *word, unsigned verb_bits)
{
    const char *found = NULL;
    size_t best = 3;
    for (int i = 0; i < OPTION_COUNT; i++) {
        size_t d = distance(word, options[i].name);
        if ((options[i].verbs & verb_bits) == 0 || d >= best) continue;
        best = d;
        found = options[i].name;
    }
    return found;
}

/* ------------------------------------------------------------------ reading */

struct reader {
    struct args *args;
    int argc, next;
    char **argv;
    uint32_t given; /* a bit for each entry of `options` */
};

static bool wrong(const struct args *args, const char *word, const char *what)
{
    struct text text;
    text_init(&text);
    text_add_shown(&text, word);
    text_add(&text, ": %s", what);
    if (args->verb != NULL) text_add(&text, " (see: belay help %s)", args->verb->name);
    else text_add(&text, " (see: belay help)");
    say_text(NULL, &text);
    return false;
}

static bool unknown(const struct args *args, const char *word, const char *what, const char *dashes,
                    const char *nearest)
{
    struct text text;
    text_init(&text);
    text_add(&text, "%s", what);
    if (nearest != NULL) text_add(&text, "; did you mean %s%s?", dashes, nearest);
    return wrong(args, word, text.data);
}

/* `value` is NULL when it would be the next argument. */
static bool read_option(struct reader *reader, int index, const char *shown, const char *value)
{
    const struct option *option = &options[index];
    reader->given |= 1u << index;
    if (option->kind == KIND_FLAG) {
        if (value != NULL) return wrong(reader->args, shown, "takes no value");
    } else if (value == NULL) {
        if (reader->next >= reader->argc) return wrong(reader->args, shown, "needs a value");
        value = reader->argv[reader->next++];
    }
    const char *why = option_store(option, reader->args, value);
    if (why == NULL) return true;

    struct text text;
    text_init(&text);
    text_add(&text, "%s %s", shown, value);
    return wrong(reader->args, text.data, why);
}

static bool read_long(struct reader *reader, const char *arg)
{
    const char *name = arg + 2, *equals = strchr(name, '=');
    size_t length = equals ? (size_t)(equals - name) : strlen(name);
    for (int i = 0; i < OPTION_COUNT; i++) {
        if (strncmp(options[i].name, name, length) != 0 || options[i].name[length] != '\0')
            continue;
        struct text shown;
        text_init(&shown);
        text_add(&shown, "--%s", options[i].name);
        return read_option(reader, i, shown.data, equals ? equals + 1 : NULL);
    }
    const struct verb *verb = reader->args->verb;
    struct text typed;
    text_init(&typed);
    text_add(&typed, "%.*s", (int)length, name);
    return unknown(reader->args, arg, "no such option", "--",
                   nearest_option(typed.data, verb ? (unsigned)verb->bit : VERB_ALL));
}

/* -n, -nq, -w5s, -w 5s */
static bool read_letters(struct reader *reader, const char *arg)
{
    for (const char *s = arg + 1; *s != '\0'; s++) {
        char shown[] = { '-', *s, '\0' };
        int i = 0;
        while (i < OPTION_COUNT && options[i].letter != *s) i++;
        if (i == OPTION_COUNT) return wrong(reader->args, shown, "no such option");
        if (options[i].kind != KIND_FLAG)
            return read_option(reader, i, shown, s[1] != '\0' ? s + 1 : NULL);
        if (!read_option(reader, i, shown, NULL)) return false;
    }
    return true;
}

static bool read_word(struct reader *reader, const char *word)
{
    struct args *args = reader->args;
    if (args->verb == NULL) {
        args->verb = args_verb(word);
        if (args->verb != NULL) return true;
        return unknown(args, word, "no such command", "", nearest_verb(word));
    }
    if (args->word_count >= args->verb->words_max) {
        if (args->verb->bit == VERB_RUN)
            return wrong(args, word, "the command to run stands after `--`");
        return wrong(args, word, "one word too many");
    }
    args->words[args->word_count++] = word;
    return true;
}

/* What stands after `--`: the words that are still missing, then (run) the command. */
static bool read_rest(struct reader *reader)
{
    struct args *args = reader->args;
    if (args->verb == NULL) return wrong(args, "--", "a command of belay's stands before it");
    if (args->verb->bit == VERB_RUN && args->word_count == 0 && reader->next < reader->argc) {
        args->words[args->word_count++] = reader->argv[reader->next++];
        if (reader->next < reader->argc && strcmp(reader->argv[reader->next], "--") == 0)
            reader->next++;
    }
    if (args->verb->bit == VERB_RUN) {
        args->command = reader->argv + reader->next;
        return true;
    }
    while (reader->next < reader->argc)
        if (!read_word(reader, reader->argv[reader->next++])) return false;
    return true;
}

static bool given(const struct reader *reader, const char *name)
{
    for (int i = 0; i < OPTION_COUNT; i++)
        if (strcmp(options[i].name, name) == 0) return (reader->given & (1u << i)) != 0;
    return false;
}

/* Options that say different things about one question. */
static const char *contradiction(const struct reader *reader, const char **which)
{
    const struct args *args = reader->args;
    *which = "-n and -w";
    if (args->no_wait && args->wait_ms >= 0) return "one of them, not both";
    *which = "--no-degrade and --on-degrade";
    if (args->no_degrade && given(reader, "on-degrade"))
        return "one of them: with --no-degrade a lock that reaches less is lost, and --on-lost "
               "says what happens";
    *which = "--on-degrade=term and --on-lost=ignore";
    if (args->on_degrade == ON_DEGRADE_TERM && args->on_lost == ON_LOST_IGNORE)
        return "what may go on without the lock may go on with less of it";
    *which = "--no-degrade";
    if (args->no_degrade && args->verb->bit == VERB_STATUS && args->word_count > 0)
        return "is about `belay status` without a name";
    return NULL;
}

/* What can only be judged when everything was read. */
static bool check(const struct reader *reader)
{
    const struct args *args = reader->args;
    const struct verb *verb = args->verb;

    if (args->help || args->version) return true;
    if (verb == NULL) return wrong(args, "belay", "what is it to do?");
    for (int i = 0; i < OPTION_COUNT; i++) {
        if ((reader->given & (1u << i)) == 0 || (options[i].verbs & (unsigned)verb->bit) != 0)
            continue;
        struct text shown;
        text_init(&shown);
        text_add(&shown, "--%s", options[i].name);
        return wrong(args, shown.data, "not an option of this command");
    }
    if (args->word_count < verb->words_min)
        return wrong(args, verb->name,
                     verb->bit == VERB_COMPLETION ? "for which shell? bash"
                     : verb->bit == VERB_CONFIG   ? "check or show?"
                                                  : "the lock's name is missing");
    if (verb->needs_owner && args->owner == NULL)
        return wrong(args, verb->name, "--owner ID is missing");
    if (verb->bit == VERB_RUN && (args->command == NULL || args->command[0] == NULL))
        return wrong(args, verb->name, "the command is missing: belay run NAME -- CMD");
    const char *which, *why = contradiction(reader, &which);
    return why == NULL || wrong(args, which, why);
}

bool args_read(struct args *args, int argc, char **argv)
{
    *args = (struct args){
        .wait_ms = -1, .ttl_ms = -1, .grace_ms = -1, .every_ms = 1000, .held_status = EXIT_HELD
    };
    struct reader reader = { .args = args, .argc = argc, .next = 1, .argv = argv };

    while (reader.next < argc) {
        const char *arg = argv[reader.next++];
        bool fine;
        if (arg[0] != '-' || arg[1] == '\0') fine = read_word(&reader, arg);
        else if (strcmp(arg, "--") == 0) fine = read_rest(&reader);
        else if (arg[1] == '-') fine = read_long(&reader, arg);
        else fine = read_letters(&reader, arg);
        if (!fine) return false;
        if (args->command != NULL) break;
    }
    return check(&reader);
}

const struct verb *args_verb(const char *name)
{
    for (const struct verb *verb = verbs; verb->name != NULL; verb++)
        if (strcmp(verb->name, name) == 0) return verb;
    return NULL;
}

/* ------------------------------------------------------------------ help */

void args_print_options(FILE *out, const struct verb *verb)
{
    for (int i = 0; i < OPTION_COUNT; i++) {
        const struct option *option = &options[i];
        char left[40];
        if ((option->verbs & (unsigned)verb->bit) == 0 || strcmp(option->name, "version") == 0)
            continue;
        snprintf(left, sizeof(left), "%c%c%c --%s%s%s", option->letter ? '-' : ' ',
                 option->letter ? option->letter : ' ', option->letter ? ',' : ' ', option->name,
                 option->value ? " " : "",
                 option->kind == KIND_CHOICE ? "WHAT"
                 : option->value             ? option->value
                                             : "");
        fprintf(out, "  %-24s %s\n", left, option->about);
    }
}

void args_print_option_words(FILE *out, const struct verb *verb)
{
    for (int i = 0; i < OPTION_COUNT; i++)
        if ((options[i].verbs & (unsigned)verb->bit) != 0) fprintf(out, " --%s", options[i].name);
}

void args_print_option_choices(FILE *out)
{
    for (int i = 0; i < OPTION_COUNT; i++) {
        if (options[i].kind != KIND_CHOICE) continue;
        fprintf(out, "    --%s) COMPREPLY=($(compgen -W '", options[i].name);
        for (const char *at = options[i].value; *at != '\0'; at++)
            putc(*at == '|' ? ' ' : *at, out);
        fputs("' -- \"$word\")); return ;;\n", out);
    }
}
