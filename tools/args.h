/* args.h - the command line, read: verbs, options, words. */
#ifndef BELAY_TOOLS_ARGS_H
#define BELAY_TOOLS_ARGS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

enum on_lost { ON_LOST_TERM, ON_LOST_KILL, ON_LOST_IGNORE };
enum on_degrade { ON_DEGRADE_CONTINUE, ON_DEGRADE_TERM };

enum { WORDS_MAX = 2 };

struct args {
    const struct verb *verb;
    const char *config; /* where, as belay_open's; NULL: the default chain */
    bool json, quiet, verbose, yes, show_owner, help, version;
    bool no_wait, no_degrade;
    int64_t wait_ms, ttl_ms, grace_ms; /* -1: not given */
    int64_t every_ms;
    int64_t held_status;
    int on_lost, on_degrade; /* as their enums have it */
    const char *owner, *label;
    const char *words[WORDS_MAX + 1]; /* what is neither the verb nor an option; NULL-ended */
    int word_count;
    char **command; /* what stands after `--`; NULL-ended; NULL: nothing does */
};

/* The bits say which verbs an option belongs to. */
enum verb_bit {
    VERB_RUN = 1 << 0,
    VERB_TRY = 1 << 1,
    VERB_EXTEND = 1 << 2,
    VERB_RELEASE = 1 << 3,
    VERB_STATUS = 1 << 4,
    VERB_LIST = 1 << 5,
    VERB_BREAK = 1 << 6,
    VERB_DOCTOR = 1 << 7,
    VERB_CONFIG = 1 << 8,
    VERB_VERSION = 1 << 9,
    VERB_COMPLETION = 1 << 10,
    VERB_HELP = 1 << 11,
    VERB_WATCH = 1 << 12
};

struct verb {
    const char *name;
    enum verb_bit bit;
    int (*run)(const struct args *args); /* the exit status */
    int words_min, words_max;
    bool needs_owner;
    const char *synopsis; /* what follows the verb */
    const char *about;    /* one line */
    const char *details;  /* for `help VERB`; may be NULL */
};

extern const struct verb verbs[]; /* main.c's; ends with a NULL name */

/* Reads the arguments. False: it is wrong, and standard error says how. */
bool args_read(struct args *args, int argc, char **argv);

/* "500ms", "10s", "2m", "1h", "7d". NULL: *out_ms has it; otherwise what is wrong. */
const char *args_duration(const char *word, int64_t *out_ms);

/* The verb of that name, or NULL. */
const struct verb *args_verb(const char *name);

/* The lines about each option of a verb, for its help. */
void args_print_options(FILE *out, const struct verb *verb);
/* The words a shell may complete after a verb: "--ttl --wait ...". */
void args_print_option_words(FILE *out, const struct verb *verb);
/* For a shell's completion: a line of a `case` for each option that has words to choose from. */
void args_print_option_choices(FILE *out);

#endif
