/* fault_plan.c - fate, for fault.c: probabilities and schedules, and how the config file says them.
 *
 * The grammar of a schedule (docs/writing-a-backend.md has examples):
 *   schedule = step { "," step }
 *   step     = { "delay(" duration ")" | "delay_reply(" duration ")" } [ fate ] [ "*" [ count ] ]
 *   fate     = "ok" | "unavailable" | "uncertain_applied" | "uncertain_dropped" | "held" | "lost"
 *   duration = number ( "us" | "ms" | "s" | "m" | "h" )
 * A step without a fate is ok; "*3" is three times, "*" alone is for ever. The steps come first,
 * the probabilities after them. */
#include "fault_plan.h"

#include <belay/backend.h>
#include <stdio.h>
#include <string.h>

#define MS INT64_C(1000000) /* nanoseconds */

enum { DELAY_MAX_MS = 3600000, REPEAT_MAX = 1000000000 };

static const char *const fate_names[FAULT_FATES] = {
    "ok", "unavailable", "uncertain_applied", "uncertain_dropped", "held", "lost"
};

const char *belay__fault_fate_name(enum fault_fate fate)
{
    return fate_names[fate];
}

/* ------------------------------------------------------------------ drawing */

/* splitmix64. */
static uint64_t random_next(uint64_t *random)
{
    uint64_t z = (*random += UINT64_C(0x9e3779b97f4a7c15));
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

static int64_t random_between(uint64_t *random, int64_t least, int64_t most)
{
    uint64_t number =
        random_next(random); /* drawn in any case: a changed range moves nothing else */
    return most > least ? least + (int64_t)(number % (uint64_t)(most - least + 1)) : least;
}

struct fault_step belay__fault_plan_next(struct fault_plan *plan, uint64_t *random)
{
    if (plan->at < plan->step_count) {
        struct fault_step step = plan->steps[plan->at];
        if (step.count != 0 && ++plan->done == step.count) {
            plan->at++;
            plan->done = 0;
        }
        return step;
    }
    double at = (double)(random_next(random) >> 11) / 9007199254740992.0; /* [0, 1) by 53 bits */
    enum fault_fate fate = FAULT_UNAVAILABLE;
    while (fate < FAULT_FATES && at >= plan->share[fate]) at -= plan->share[fate++];
    return (struct fault_step){
        .fate = fate < FAULT_FATES ? fate : FAULT_OK,
        .delay_ns = random_between(random, plan->delay_ns, plan->delay_max_ns),
        .reply_ns = random_between(random, plan->reply_ns, plan->reply_max_ns),
    };
}

/* ------------------------------------------------------------------ reading the settings */

/* Where a schedule is being read. */
struct reader {
    const char *text, *at;
    const char *wrong; /* what was expected at `at`; NULL: all is well */
};

static void skip_blanks(struct reader *r)
{
    r->at += strspn(r->at, " \t\r\n");
}

static bool skip_word(struct reader *r, const char *word)
{
    size_t length = strlen(word);
    if (strncmp(r->at, word, length) != 0) return false;
    r->at += length;
    skip_blanks(r);
    return true;
}

static int64_t read_number(struct reader *r, int64_t least, int64_t most, const char *wrong)
{
    const char *begin = r->at;
    int64_t number = 0;
    for (; *r->at >= '0' && *r->at <= '9' && number <= most; r->at++)
        number = number * 10 + (*r->at - '0');
    if (r->at == begin || number < least || number > most) {
        r->at = begin;
        r->wrong = wrong;
    }
    return number;
}

/* "(200ms)". */
static int64_t read_duration(struct reader *r)
{
    static const struct {
        const char *name;
        int64_t ns;
    } units[] = {
        { "us", 1000 }, { "ms", MS }, { "s", 1000 * MS }, { "m", 60000 * MS }, { "h", 3600000 * MS }
    };
    if (!skip_word(r, "(")) {
        r->wrong = "'(' and a duration";
        return 0;
    }
    const char *begin = r->at;
    int64_t number = read_number(r, 0, DELAY_MAX_MS * INT64_C(1000), "a duration like 200ms");
    if (r->wrong != NULL) return 0;
    skip_blanks(r);
    for (size_t i = 0; i < sizeof units / sizeof units[0]; i++) {
        if (!skip_word(r, units[i].name)) continue;
        if (number > DELAY_MAX_MS * MS / units[i].ns) {
            r->at = begin;
            r->wrong = "at most one hour";
        } else if (!skip_word(r, ")")) {
            r->wrong = "')'";
        }
        return number * units[i].ns;
    }
    r->wrong = "one of the units us, ms, s, m, h";
    return 0;
}

static bool fate_fits(enum fault_fate fate, belay_verb verb)
{
    switch (fate) {
    case FAULT_HELD: return verb == BELAY_VERB_ACQUIRE;
    case FAULT_LOST: return verb == BELAY_VERB_RELEASE || verb == BELAY_VERB_EXTEND;
    case FAULT_APPLIED:
    case FAULT_DROPPED: return verb != BELAY_VERB_INSPECT;
    default: return true;
    }
}

static struct fault_step read_step(struct reader *r, belay_verb verb)
{
    struct fault_step step = { .fate = FAULT_OK, .count = 1 };
    const char *begin = r->at;
    for (;;) {
        if (skip_word(r, "delay_reply")) step.reply_ns = read_duration(r);
        else if (skip_word(r, "delay")) step.delay_ns = read_duration(r);
        else break;
        if (r->wrong != NULL) return step;
    }
    size_t length = strspn(r->at, "abcdefghijklmnopqrstuvwxyz_");
    enum fault_fate fate = FAULT_OK;
    while (fate < FAULT_FATES &&
           (strlen(fate_names[fate]) != length || strncmp(r->at, fate_names[fate], length) != 0))
        fate++;
    if ((length == 0 && r->at == begin) || (length != 0 && fate == FAULT_FATES)) {
        r->wrong =
            "ok, unavailable, uncertain_applied, uncertain_dropped, held, lost, delay(200ms)";
        return step;
    }
    if (length != 0 && !fate_fits(fate, verb)) {
        r->wrong = "something that can happen to this verb";
        return step;
    }
    if (length != 0) step.fate = fate;
    r->at += length;
    skip_blanks(r);
    if (!skip_word(r, "*")) return step;
    step.count = 0;
    if (*r->at == ',' || *r->at == '\0') return step;
    step.count = (uint32_t)read_number(r, 1, REPEAT_MAX, "a count from 1 to 1000000000");
    skip_blanks(r);
    return step;
}

static const char *const verb_names[] = { [BELAY_VERB_ACQUIRE] = "acquire",
                                          [BELAY_VERB_RELEASE] = "release",
                                          [BELAY_VERB_EXTEND] = "extend",
                                          [BELAY_VERB_INSPECT] = "inspect" };

/* "acquire.delay" in `key`, which has room for every key. */
enum { KEY_SIZE = 40 };
static const char *key_of(char *key, belay_verb verb, const char *what)
{
    snprintf(key, KEY_SIZE, "%s.%s", verb_names[verb], what);
    return key;
}

static belay_status plan_read_schedule(struct fault_plan *plan, belay_env *env,
                                       const belay_settings *settings, belay_verb verb,
                                       belay_error *err)
{
    char key[KEY_SIZE];
    const char *text = belay_settings_string(settings, key_of(key, verb, "schedule"));
    struct reader r = { .text = text, .at = text };
    if (text == NULL) return BELAY_OK;
    skip_blanks(&r);
    if (*r.at == '\0') return BELAY_OK;
    size_t most = 1;
    for (const char *c = text; *c != '\0'; c++) most += *c == ',';
    plan->steps = belay_env_alloc(env, most * sizeof *plan->steps);
    if (plan->steps == NULL) return belay_error_set(err, BELAY_NOMEM, NULL, "out of memory");
    do {
        plan->steps[plan->step_count++] = read_step(&r, verb);
    } while (r.wrong == NULL && skip_word(&r, ","));
    if (r.wrong == NULL && *r.at != '\0') r.wrong = "',' or the end";
    if (r.wrong == NULL) return BELAY_OK;
    return belay_settings_wrong(settings, key, err, "at position %d, before \"%.20s\": expected %s",
                                (int)(r.at - text) + 1, r.at, r.wrong);
}

static belay_status plan_read_delays(int64_t *least_ns, int64_t *most_ns,
                                     const belay_settings *settings, belay_verb verb,
                                     const char *least, const char *most, belay_error *err)
{
    char key[KEY_SIZE];
    *least_ns = belay_settings_duration_ms(settings, key_of(key, verb, least)) * MS;
    *most_ns = *least_ns;
    if (!belay_settings_given(settings, key_of(key, verb, most))) return BELAY_OK;
    *most_ns = belay_settings_duration_ms(settings, key) * MS;
    if (*most_ns >= *least_ns) return BELAY_OK;
    return belay_settings_wrong(settings, key, err, "is less than %s.%s", verb_names[verb], least);
}

belay_status belay__fault_plan_read(struct fault_plan *plan, belay_env *env,
                                    const belay_settings *settings, belay_verb verb,
                                    belay_error *err)
{
    char key[KEY_SIZE];
    double sum = 0;
    for (enum fault_fate fate = FAULT_UNAVAILABLE; fate < FAULT_FATES; fate++) {
        if (!fate_fits(fate, verb)) continue;
        plan->share[fate] = belay_settings_real(settings, key_of(key, verb, fate_names[fate]));
        sum += plan->share[fate];
    }
    if (sum > 1.000001)
        return belay_settings_wrong(settings, key_of(key, verb, "unavailable"), err,
                                    "the probabilities of %s add up to more than 1",
                                    verb_names[verb]);
    belay_status status = plan_read_delays(&plan->delay_ns, &plan->delay_max_ns, settings, verb,
                                           "delay", "delay_max", err);
    if (status == BELAY_OK)
        status = plan_read_delays(&plan->reply_ns, &plan->reply_max_ns, settings, verb,
                                  "delay_reply", "delay_reply_max", err);
    if (status == BELAY_OK) status = plan_read_schedule(plan, env, settings, verb, err);
    return status;
}

void belay__fault_plan_fini(struct fault_plan *plan, belay_env *env)
{
    belay_env_free(env, plan->steps);
}

/* ------------------------------------------------------------------ the keys */

#define SHARE(verb, name, text)                                                                    \
    {                                                                                              \
        .key = verb "." name, .type = BELAY_SETTING_REAL, .initial = "0.0", .min = 0, .max = 1,    \
        .help = "how often " text                                                                  \
    }
#define DELAY(verb, name, text)                                                                    \
    {                                                                                              \
        .key = verb "." name, .type = BELAY_SETTING_DURATION, .initial = "0ms", .min = 0,          \
        .max = DELAY_MAX_MS, .help = text                                                          \
    }
#define DELAYS(verb)                                                                               \
    DELAY(verb, "delay", "wait this long before it is sent (the least)"),                          \
        DELAY(verb, "delay_max", "the longest; without it, always `delay`"),                       \
        DELAY(verb, "delay_reply", "wait this long before it is answered (the least)"),            \
        DELAY(verb, "delay_reply_max", "the longest; without it, always `delay_reply`"),           \
    {                                                                                              \
        .key = verb ".schedule", .type = BELAY_SETTING_STRING,                                     \
        .help = "what happens to the first attempts: \"ok, unavailable*3, delay(200ms) held\""     \
    }
#define DOUBTS(verb)                                                                               \
    SHARE(verb, "unavailable", "it is not sent and answers UNAVAILABLE"),                          \
        SHARE(verb, "uncertain_applied", "it takes effect and answers UNCERTAIN"),                 \
        SHARE(verb, "uncertain_dropped", "it is not sent and answers UNCERTAIN"), DELAYS(verb)

const belay_setting_spec belay__fault_settings[] = {
    { .key = "child",
      .type = BELAY_SETTING_BACKEND,
      .required = true,
      .help = "what to make misbehave" },
    { .key = "seed",
      .type = BELAY_SETTING_INTEGER,
      .initial = "0",
      .min = 0,
      .max = 2147483647,
      .help = "the same seed gives the same faults; 0: new ones each time" },
    { .key = "leave",
      .type = BELAY_SETTING_BOOLEAN,
      .initial = "false",
      .help = "do not give back what was granted behind an UNCERTAIN" },
    DOUBTS("acquire"),
    SHARE("acquire", "held", "it is not sent and answers HELD"),
    DOUBTS("release"),
    SHARE("release", "lost", "the lock is taken away and it answers LOST"),
    DOUBTS("extend"),
    SHARE("extend", "lost", "the lock is taken away and it answers LOST"),
    SHARE("inspect", "unavailable", "it is not sent and answers UNAVAILABLE"),
    DELAYS("inspect"),
    { .key = NULL },
};
