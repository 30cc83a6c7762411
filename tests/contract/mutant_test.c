/* mutant_test.c - the suite must be able to fail: a small backend that is right, and the same with
 * one promise broken at a time. The right one must pass everything, each mutant must fail the
 * promise that names it. */
#define _POSIX_C_SOURCE 200809L
#include <belay/backend.h>
#include <belay/testing.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum mutation {
    NONE,
    TWO_HOLDERS,
    RELEASE_IGNORES_OWNER,
    RELEASE_LEAVES,
    RELEASE_SAYS_OK,
    EXTEND_SHORTENS,
    EXTEND_RECREATES,
    EXTEND_IGNORES_OWNER,
    EXTEND_FORGETS,
    NEVER_EXPIRES,
    EXPIRES_EARLY,
    SENT_LATER,
    TOKEN_REPEATS,
    TOKEN_IS_THE_CLOCK,
    TOKEN_TOO_LARGE,
    NAMES_CUT,
    NAMES_FOLDED,
    NAMES_END_AT_A_LINE,
    LABEL_LOST,
    SHOWS_ANOTHER_TOKEN,
    INSPECT_SHOWS_THE_EXPIRED,
    LIST_FORGETS_ONE,
    LIST_SHOWS_THE_RELEASED,
    BREAK_IGNORES_OWNER,
    LOGS_THE_OWNER,
    NOMEM_LEAVES_IT,
    SAYS_IT_WAKES
};

static const struct {
    enum mutation mutation;
    const char *broken; /* the promise that must fail */
} expected[] = {
    { TWO_HOLDERS, "exclusion/a_held_lock_excludes_the_other_client" },
    { TWO_HOLDERS, "exclusion/nobody_comes_in_before_the_deadline" },
    { TWO_HOLDERS, "stress/threads_of_both_clients_lose_no_update" },
    { RELEASE_IGNORES_OWNER, "exclusion/release_of_a_foreign_lock_leaves_it" },
    { RELEASE_IGNORES_OWNER, "exclusion/a_holder_whose_clock_is_behind_harms_nobody" },
    { RELEASE_IGNORES_OWNER, "leases/release_of_a_broken_lock_is_lost" },
    { RELEASE_LEAVES, "exclusion/a_released_lock_is_free_at_once" },
    { RELEASE_LEAVES, "closing/close_releases_what_is_held" },
    { RELEASE_SAYS_OK, "leases/release_of_a_broken_lock_is_lost" },
    { EXTEND_SHORTENS, "leases/extend_never_shortens" },
    { EXTEND_RECREATES, "leases/extend_of_a_broken_lock_recreates_nothing" },
    { EXTEND_IGNORES_OWNER, "leases/extend_after_another_took_it_is_lost" },
    { EXTEND_IGNORES_OWNER, "exclusion/a_holder_whose_clock_is_behind_harms_nobody" },
    { EXTEND_FORGETS, "leases/extend_lengthens" },
    { EXTEND_FORGETS, "keeping/a_kept_lock_outlives_its_ttl" },
    { NEVER_EXPIRES, "exclusion/an_expired_lock_can_be_taken" },
    { EXPIRES_EARLY, "exclusion/nobody_comes_in_before_the_deadline" },
    { SENT_LATER, "leases/the_deadline_is_the_ttl_less_drift" },
    { TOKEN_REPEATS, "tokens/tokens_grow_from_grant_to_grant" },
    { TOKEN_IS_THE_CLOCK, "tokens/tokens_grow_when_the_wall_clock_steps_back" },
    { TOKEN_TOO_LARGE, "tokens/tokens_grow_from_grant_to_grant" },
    { NAMES_CUT, "names/names_of_any_bytes_are_carried_exactly" },
    { NAMES_FOLDED, "names/names_of_any_bytes_are_carried_exactly" },
    { NAMES_END_AT_A_LINE, "names/names_of_any_bytes_are_carried_exactly" },
    { LABEL_LOST, "names/a_label_is_carried_exactly" },
    { LABEL_LOST, "looking/list_shows_what_is_held" },
    { SHOWS_ANOTHER_TOKEN, "looking/inspect_tells_who_holds" },
    { SHOWS_ANOTHER_TOKEN, "looking/list_shows_what_is_held" },
    { INSPECT_SHOWS_THE_EXPIRED, "looking/inspect_shows_a_free_lock_as_free" },
    { LIST_FORGETS_ONE, "looking/list_shows_what_is_held" },
    { LIST_SHOWS_THE_RELEASED, "exclusion/a_held_lock_excludes_its_own_client" }, /* left behind */
    { BREAK_IGNORES_OWNER, "looking/break_removes_only_what_was_seen" },
    { LOGS_THE_OWNER, "names/logs_show_no_owner_and_no_raw_name" },
    { NOMEM_LEAVES_IT, "failure/an_allocation_that_fails_leaves_nothing" },
    { SAYS_IT_WAKES, "waiting/a_release_wakes_a_waiter_of_the_other_client" },
};

/* ------------------------------------------------------------------ the backend */

struct row {
    char key[BELAY_NAME_MAX + 64], owner[BELAY_OWNER_LENGTH + 1], label[BELAY_LABEL_MAX + 1];
    int64_t until_ns, since_ns;
    uint64_t token;
};

static enum mutation now_broken;
static struct row rows[1024];
static uint64_t last_token;
static pthread_mutex_t place = PTHREAD_MUTEX_INITIALIZER;

static bool broken(enum mutation mutation)
{
    return now_broken == mutation;
}

static bool same_key(const char *one, const char *two)
{
    if (broken(NAMES_CUT)) return strncmp(one, two, 100) == 0;
    if (broken(NAMES_FOLDED)) return strcasecmp(one, two) == 0;
    if (broken(NAMES_END_AT_A_LINE)) {
        size_t length = strcspn(one, "\n");
        return length == strcspn(two, "\n") && strncmp(one, two, length) == 0;
    }
    return strcmp(one, two) == 0;
}

static bool is_held(const struct row *row, int64_t now_ns)
{
    if (broken(NEVER_EXPIRES)) return row->until_ns != 0;
    return row->until_ns > now_ns;
}

/* The row of this key, or NULL; `free` is one that may be taken. */
static struct row *find(const char *key, int64_t now_ns, struct row **free)
{
    struct row *found = NULL;
    for (struct row *row = rows; row < rows + sizeof rows / sizeof rows[0]; row++) {
        if (!is_held(row, now_ns)) *free = row;
        else if (found == NULL && same_key(row->key, key)) found = row;
    }
    return found;
}

static int64_t end_of(const belay_op *op)
{
    int64_t ttl_ns = (int64_t)op->ttl_ms * 1000000;
    return op->sent_ns + (broken(EXPIRES_EARLY) ? ttl_ns / 2 : ttl_ns);
}

static void fill(struct row *row, belay_backend *backend, belay_op *op)
{
    memset(row, 0, sizeof *row);
    memcpy(row->key, op->key.at, op->key.length);
    memcpy(row->owner, op->owner, BELAY_OWNER_LENGTH);
    if (!broken(LABEL_LOST)) snprintf(row->label, sizeof row->label, "%s", op->label);
    row->until_ns = end_of(op);
    row->since_ns = op->sent_ns;
    uint64_t wish = belay_env_proposal(backend->env);
    if (!broken(TOKEN_IS_THE_CLOCK) && wish <= last_token) wish = last_token + 1;
    if (broken(TOKEN_REPEATS)) wish = last_token != 0 ? last_token : wish;
    op->token = row->token = last_token = wish;
    if (broken(TOKEN_TOO_LARGE)) op->token |= UINT64_C(1) << 63;
}

static void acquire(belay_backend *backend, belay_op *op)
{
    int64_t now = belay_env_now(backend->env);
    struct row *free = NULL, *held = find(op->key.at, now, &free);
    if (held != NULL && !broken(TWO_HOLDERS)) {
        op->held_for_ns = held->until_ns - now;
        belay_op_settle(op, BELAY_HELD);
        return;
    }
    if (broken(NOMEM_LEAVES_IT)) fill(free, backend, op);
    void *note = belay_env_alloc(backend->env, 1); /* as one that keeps something of its own does */
    belay_env_free(backend->env, note);
    if (note == NULL) {
        belay_op_fail(op, BELAY_NOMEM, BELAY_CAUSE_NONE, NULL, "out of memory");
        return;
    }
    fill(free, backend, op);
    if (broken(SENT_LATER)) op->sent_ns += 5000000;
    if (broken(LOGS_THE_OWNER))
        belay_env_log(backend->env, BELAY_LOG_DEBUG, "granted %s", op->owner);
    belay_op_settle(op, BELAY_OK);
}

static void release(belay_op *op, struct row *held)
{
    bool ours = held != NULL && strcmp(held->owner, op->owner) == 0;
    if (held != NULL &&
        broken(op->verb == BELAY_VERB_BREAK ? BREAK_IGNORES_OWNER : RELEASE_IGNORES_OWNER))
        ours = true;
    if (ours && !broken(RELEASE_LEAVES)) held->until_ns = 0;
    belay_op_settle(op, ours || broken(RELEASE_SAYS_OK) ? BELAY_OK : BELAY_LOST);
}

static void extend(belay_backend *backend, belay_op *op, struct row *held, struct row *free)
{
    bool ours = held != NULL && strcmp(held->owner, op->owner) == 0;
    if (held != NULL && broken(EXTEND_IGNORES_OWNER)) ours = true;
    if (ours && !broken(EXTEND_FORGETS) && (end_of(op) > held->until_ns || broken(EXTEND_SHORTENS)))
        held->until_ns = end_of(op);
    if (held == NULL && broken(EXTEND_RECREATES)) {
        fill(free, backend, op);
        ours = true;
    }
    belay_op_settle(op, ours ? BELAY_OK : BELAY_LOST);
}

static void describe(const struct row *row, int64_t now, const char *name, belay_info *info)
{
    info->held = true;
    info->scope = BELAY_SCOPE_PROCESS;
    info->token = row->token + (broken(SHOWS_ANOTHER_TOKEN) ? 1 : 0);
    info->remaining_ms = (row->until_ns - now) / 1000000;
    info->held_ms = (now - row->since_ns) / 1000000;
    snprintf(info->owner, sizeof info->owner, "%s", row->owner);
    snprintf(info->label, sizeof info->label, "%s", row->label);
    snprintf(info->name, sizeof info->name, "%s", name);
}

static void inspect(belay_op *op, const struct row *held, int64_t now)
{
    for (const struct row *row = rows; held == NULL && broken(INSPECT_SHOWS_THE_EXPIRED) &&
                                       row < rows + sizeof rows / sizeof rows[0];
         row++)
        if (strcmp(row->key, op->key.at) == 0) held = row;
    if (held != NULL) describe(held, now, op->name.at, op->info);
    belay_op_settle(op, BELAY_OK);
}

static void list(belay_backend *backend, belay_op *op, int64_t now)
{
    bool forget = broken(LIST_FORGETS_ONE);
    belay_status status = BELAY_OK;
    for (const struct row *row = rows; row < rows + sizeof rows / sizeof rows[0]; row++) {
        belay_info info = { .size = sizeof info };
        const char *name = belay_env_strip(backend->env, row->key);
        bool shown = is_held(row, now) || (broken(LIST_SHOWS_THE_RELEASED) && row->key[0] != '\0');
        if (!shown || name == NULL || status != BELAY_OK) continue;
        describe(row, now, name, &info);
        if (!forget) status = belay_op_emit(op, &info);
        forget = false;
    }
    belay_op_settle(op, status);
}

static void mutant_do(belay_backend *backend, belay_op *op)
{
    int64_t now = belay_env_now(backend->env);
    struct row *free = NULL;
    pthread_mutex_lock(&place);
    struct row *held = find(op->key.at, now, &free);
    switch (op->verb) {
    case BELAY_VERB_ACQUIRE: acquire(backend, op); break;
    case BELAY_VERB_RELEASE:
    case BELAY_VERB_BREAK: release(op, held); break;
    case BELAY_VERB_EXTEND: extend(backend, op, held, free); break;
    case BELAY_VERB_INSPECT: inspect(op, held, now); break;
    default: list(backend, op, now);
    }
    pthread_mutex_unlock(&place);
}

static belay_status mutant_create(belay_backend **out, belay_env *env,
                                  const belay_settings *settings, belay_error *err)
{
    (void)settings;
    *out = belay_env_alloc(env, sizeof **out);
    return *out != NULL ? BELAY_OK : belay_error_set(err, BELAY_NOMEM, NULL, "out of memory");
}

static void mutant_destroy(belay_backend *backend)
{
    belay_env_free(backend->env, backend);
}

static const char *const schemes[] = { "mutant", NULL };

static const belay_backend_ops mutant_ops = {
    BELAY_OPS_HEAD,          .type = "mutant",
    .url_schemes = schemes,  .scope = BELAY_SCOPE_PROCESS,
    .create = mutant_create, .destroy = mutant_destroy,
    .acquire = mutant_do,    .release = mutant_do,
    .extend = mutant_do,     .inspect = mutant_do,
    .list = mutant_do,       .break_lock = mutant_do,
};

/* ------------------------------------------------------------------ the runs */

static int run(enum mutation mutation, const char *only, FILE *tap)
{
    const belay_backend_ops *tables[] = { &mutant_ops, NULL };
    const belay_contract_target target = {
        BELAY_CONTRACT_TARGET_HEAD,
        .name = "mutant",
        .where = "mutant:",
        .backends = tables,
        .scope = BELAY_SCOPE_PROCESS,
        .fencing = true,
        .inspects = true,
        .lists = true,
        .breaks = true,
        .tells = true,
        .wakes = mutation == SAYS_IT_WAKES,
        .only = only,
        .patience_s = mutation != NONE ? 1 : 0,
    };
    now_broken = mutation;
    memset(rows, 0, sizeof rows);
    return belay_contract_run(&target, tap);
}

int main(int argc, char **argv)
{
    int failed = run(NONE, argc > 1 ? argv[1] : NULL, stdout) != 0;
    if (argc > 1) return failed;

    size_t count = sizeof expected / sizeof expected[0];
    printf("1..%zu\n", count);
    for (size_t i = 0; i < count; i++) {
        char *tap = NULL;
        size_t size = 0;
        FILE *stream = open_memstream(&tap, &size);
        if (stream == NULL) return 1;
        int seen = run(expected[i].mutation, expected[i].broken, stream);
        fclose(stream);
        printf("%s %zu - mutant %d fails %s\n", seen > 0 ? "ok" : "not ok", i + 1,
               (int)expected[i].mutation, expected[i].broken);
        const char *why = strstr(tap, "\n# "); /* of the first way that failed */
        if (seen <= 0) printf("%s", tap);
        else if (why != NULL) printf("# %.*s\n", (int)strcspn(why + 3, "\n"), why + 3);
        if (seen <= 0) failed = 1;
        free(tap);
    }
    return failed;
}
