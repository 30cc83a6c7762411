/* names.c - a name is bytes: carried exactly, kept apart, and harmless in messages and logs (FAULTS
 * 51). */
#include "scene.h"

#define LONGEST BELAY_NAME_MAX

/* Hostile names, some made in `make_names`. */
enum { MADE = 5 };
static const char *const given_names[] = {
    "a",    "A",     "\n",    "a\nb",    "{}",
    "{",    "}",     "{a}b",  "%n%s%n",  "\x80\xff\xfe",
    " ",    "  ",    "a b",   " a",      "a ",
    "'",    "\"",    "\\",    "a\\nb",   "\t",
    "\x01", "\x7f",  "*",     "?",       "[a]",
    "a*",   "a?",    "../x",  "/",       "a:b",
    ":",    ";",     "$(x)",  "--",      "%",
    "_",    "\r",    "\r\n",  "NULL",    "\xc3\xa9",
    "\xc3", "fence", "'; --", "\x1b[2J", "\xe2\x80\xa8",
};
enum { NAMES = sizeof given_names / sizeof given_names[0] + MADE };

static void make_names(struct scene *s, const char **names)
{
    char *made[MADE];
    memcpy(names, given_names, sizeof given_names);
    for (size_t i = 0; i < MADE; i++) {
        names[NAMES - MADE + i] = made[i] = memory_of(s, LONGEST + 1);
        memset(made[i], 'x', LONGEST);
    }
    made[1][LONGEST - 1] = 'y';
    made[2][LONGEST - 1] = '\0';
    memset(made[3], 0xf0, LONGEST);
    for (int byte = 1; byte < 256; byte++) made[4][byte - 1] = (char)byte;
    made[4][255] = '\0';
}

/* For list: how often each name came. */
struct tally {
    const char **names;
    belay_lock **locks;
    unsigned seen[NAMES];
    bool wrong_owner;
};

static bool tally_one(void *arg, const belay_info *info)
{
    struct tally *tally = arg;
    for (size_t i = 0; i < NAMES; i++) {
        if (strcmp(info->name, tally->names[i]) != 0) continue;
        tally->seen[i]++;
        if (tally->locks[i] != NULL && strcmp(info->owner, belay_lock_owner(tally->locks[i])) != 0)
            tally->wrong_owner = true;
    }
    return true;
}

static void names_of_any_bytes_are_carried_exactly(struct scene *s)
{
    belay *a = client_of(s, BELAY_CONTRACT_FIRST), *b = client_of(s, BELAY_CONTRACT_SECOND);
    const char **names = memory_of(s, NAMES * sizeof *names);
    belay_lock *locks[NAMES] = { NULL };
    belay_options lease = lease_of(s, 1000, BELAY_TRY);
    make_names(s, names);

    for (size_t i = 0; i < NAMES && !atomic_load(&s->failed); i++) {
        locks[i] =
            take(s, i % 2 == 0 ? a : b, names[i], &lease); /* all at once: all are different */
        must(s, locks[i] != NULL && strcmp(belay_lock_name(locks[i]), names[i]) == 0,
             "name %zu came back changed", i);
    }
    for (size_t i = 0; i < NAMES; i++) {
        refused(s, i % 2 == 0 ? b : a, names[i], &lease, BELAY_HELD);
        if (!s->target->inspects || atomic_load(&s->failed)) continue;
        belay_info info = { .size = sizeof info };
        must_be(s, belay_inspect(b, names[i], &info, NULL), BELAY_OK, "inspect");
        must(s, strcmp(info.name, names[i]) == 0, "inspect tells name %zu changed", i);
        must(s, strcmp(info.owner, belay_lock_owner(locks[i])) == 0, "inspect mistakes name %zu",
             i);
    }
    struct tally tally = { .names = names, .locks = locks };
    if (s->target->lists && !atomic_load(&s->failed)) {
        must_be(s, belay_list(a, NULL, tally_one, &tally, NULL), BELAY_OK, "list");
        must(s, !tally.wrong_owner, "list mistakes a name");
        for (size_t i = 0; i < NAMES; i++)
            must(s, tally.seen[i] == 1, "list shows name %zu %u times", i, tally.seen[i]);
    }
    for (size_t i = 0; i < NAMES; i++) released(s, locks[i], BELAY_OK);
    for (size_t i = 0; i < NAMES; i++) released(s, take(s, b, names[i], NULL), BELAY_OK);
}

static void a_name_out_of_range_is_invalid(struct scene *s)
{
    belay *a = client_of(s, BELAY_CONTRACT_FIRST);
    char *longer = memory_of(s, LONGEST + 2);
    memset(longer, 'x', LONGEST + 1);
    const char *wrong[] = { "", longer, NULL };
    if (atomic_load(&s->failed)) return;

    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        belay_lock *lock = NULL;
        belay_info info = { .size = sizeof info };
        belay_error err = BELAY_ERROR_INIT;
        struct call *call = call_new(s);
        must_be(s, belay_acquire(a, wrong[i], NULL, &lock, &err), BELAY_INVALID, "acquire");
        must(s, lock == NULL, "INVALID with a lock");
        must(s, strlen(err.text) < sizeof err.text && strchr(err.text, '\n') == NULL, "its text");
        must_be(s, belay_acquire_start(a, wrong[i], NULL, call_fn, call, NULL, NULL), BELAY_INVALID,
                "acquire_start");
        must_be(s, belay_inspect(a, wrong[i], &info, NULL), BELAY_INVALID, "inspect");
        must_be(s, belay_break(a, wrong[i], &info, NULL), BELAY_INVALID, "break");
        must_be(s, belay_adopt(a, wrong[i], "00000000000000000000000000000000", NULL, &lock, NULL),
                BELAY_INVALID, "adopt");
    }
}

static void prefixes_are_separate(struct scene *s)
{
    belay *a = client_of(s, BELAY_CONTRACT_FIRST), *b = client_of(s, BELAY_CONTRACT_OTHER_PREFIX);
    const char *name = name_of(s, "lock"), *other = name_of(s, "other");

    belay_lock *one = take(s, a, name, NULL), *two = take(s, b, name, NULL);
    belay_lock *three = take(s, b, other, NULL);
    released(s, take(s, a, other, NULL), BELAY_OK);
    if (s->target->inspects && !atomic_load(&s->failed)) {
        belay_info info = { .size = sizeof info };
        must_be(s, belay_inspect(a, other, &info, NULL), BELAY_OK, "inspect");
        must(s, !info.held, "a lock under another prefix is seen");
    }
    released(s, one, BELAY_OK);
    must(s, belay_lock_valid(two, 0), "the same name under another prefix was released");
    released(s, two, BELAY_OK);
    released(s, three, BELAY_OK);
}

static void a_label_is_carried_exactly(struct scene *s)
{
    belay *a = client_of(s, BELAY_CONTRACT_FIRST), *b = client_of(s, BELAY_CONTRACT_SECOND);
    char longest[BELAY_LABEL_MAX + 2];
    memset(longest, 'l', sizeof longest);
    longest[BELAY_LABEL_MAX] = '\0';
    const char *labels[] = {
        NULL, "", "nightly report", longest, "%n", "'\"\\", "\xc3\xa9\xff", "*"
    };
    belay_options lease = lease_of(s, 10, BELAY_TRY);

    for (size_t i = 0; i < sizeof labels / sizeof labels[0] && !atomic_load(&s->failed); i++) {
        const char *name = name_of(s, "lock");
        belay_info info = { .size = sizeof info };
        lease.label = labels[i];
        belay_lock *lock = take(s, a, name, &lease);
        must_be(s, belay_inspect(b, name, &info, NULL), BELAY_OK, "inspect");
        must_tell(s, &info, belay_lock_token(lock), labels[i] != NULL ? labels[i] : "");
        released(s, lock, BELAY_OK);
    }
    belay_lock *none = NULL;
    longest[BELAY_LABEL_MAX] = 'l';
    longest[BELAY_LABEL_MAX + 1] = '\0';
    lease.label = longest;
    if (!atomic_load(&s->failed))
        must_be(s, belay_acquire(a, name_of(s, "lock"), &lease, &none, NULL), BELAY_INVALID,
                "acquire with a label that is too long");
}

/* ------------------------------------------------------------------ what is logged */

struct log {
    struct scene *scene;
    char owner[BELAY_OWNER_LENGTH + 1];
    atomic_int lines;
};

static void log_fn(void *arg, belay_level level, const char *line)
{
    struct log *log = arg;
    (void)level;
    atomic_fetch_add(&log->lines, 1);
    must(log->scene, strpbrk(line, "\n\r\x1b") == NULL, "a log line with a control character");
    for (const char *at = line; *at != '\0'; at++) {
        size_t digits = strspn(at, "0123456789abcdef");
        must(log->scene, digits < BELAY_OWNER_LENGTH, "an owner id was logged");
        if (digits > 1) at += digits - 1;
    }
}

static void logs_show_no_owner_and_no_raw_name(struct scene *s)
{
    struct log *log = memory_of(s, sizeof *log);
    log->scene = s;
    belay_open_options options = open_options(s);
    options.on_log = log_fn;
    options.log_level = BELAY_LOG_DEBUG;
    options.arg = log;
    belay *a = client_with(s, BELAY_CONTRACT_FIRST, &options);
    belay *b = client_of(s, BELAY_CONTRACT_SECOND);
    belay_options lease = lease_of(s, 4, BELAY_TRY);

    for (int i = 0; i < 4; i++) {
        const char *name = name_of(s, "lo\nck\r\x1b[2J");
        belay_lock *lock = take(s, a, name, &lease);
        refused(s, a, name, NULL, BELAY_HELD);
        refused(s, b, name, NULL, BELAY_HELD);
        extended(s, lock, 0, BELAY_OK);
        if (i == 1) pass_units(s, 5);
        if (i == 2 && s->target->breaks && s->target->inspects) break_it(s, a, name);
        let_go(s, lock);
        drive(s);
    }
}

const struct promise belay__contract_names[] = {
    PROMISE(names_of_any_bytes_are_carried_exactly, ON_BOTH | STARTED),
    PROMISE(a_name_out_of_range_is_invalid, ON_BOTH),
    PROMISE(prefixes_are_separate, ON_BOTH | PREFIXES),
    PROMISE(a_label_is_carried_exactly, ON_BOTH | INSPECT),
    PROMISE(logs_show_no_owner_and_no_raw_name, ON_BOTH | STARTED),
    { 0 },
};
