/* sqlite.c - locks of this host: any number of processes that open one file (SEMANTICS 9).
 *
 * Each verb is one short exclusive transaction, and nothing is held across a return to the loop.
 * When another process is in the file, the op joins a queue that one timer empties: a random pause,
 * never a sleep. sqlite.h is the map of the other files; docs/sqlite.md says why it is as it is,
 * with figures. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "sqlite.h"

#include <stdio.h>
#include <string.h>

/* Pauses before the next try when another process is in the file. */
#define FIRST_LEAST_NS 50000
#define FIRST_RANGE_NS 350000
#define USUAL_LEAST_NS 200000
#define USUAL_RANGE_NS 7800000
#define LATE_MAX_NS 15000000
#define SWEEP_CHANCE 128
#define SWEEP_AFTER_NS INT64_C(60000000000)
#define PROPOSAL_MAX (UINT64_C(1) << 49)
#define FLOOR_MAX ((uint64_t)INT64_MAX - 2) /* a column is signed, and one more must fit */

/* What a grant must know: that it is lost, and that a release may have been done. */
struct grant {
    belay_grant base;
    belay_link link;
    bool lost, unsure;
};

static struct sqlite_backend *backend_of(belay_backend *base)
{
    return belay_container_of(base, struct sqlite_backend, base);
}

void belay__sqlite_op_fail(struct sqlite_backend *b, belay_op *op, const struct sqlite_failure *f)
{
    belay_op_fail(op, f->status, f->cause, belay__sqlite_place_name(&b->store.place), "%s",
                  f->text);
}

/* ------------------------------------------------------------------ transactions */

/* The locks of the file that stood there are nobody's now. Not inside a transaction: who is told
 * may start ops of this backend at once. */
static void file_lost(struct sqlite_backend *b)
{
    belay_link lost;
    const char *name = belay__sqlite_place_name(&b->store.place);
    char why[200];
    belay__sqlite_wakes_moved(&b->wakes);
    belay_env_log(b->store.env, BELAY_LOG_ERROR, "%s: replaced or removed while it was in use",
                  name);
    snprintf(why, sizeof why, "%s was replaced or removed", name);
    belay_links_init(&lost);
    while (!belay_links_empty(&b->grants)) {
        belay_link *link = b->grants.next;
        belay_unlink(link);
        belay_link_append(&lost, link);
    }
    while (!belay_links_empty(&lost)) {
        struct grant *grant = belay_container_of(lost.next, struct grant, link);
        belay_unlink(&grant->link);
        grant->lost = true;
        belay_grant_lost(&grant->base, why);
    }
}

enum sqlite_turn belay__sqlite_begin(struct sqlite_backend *b, struct sqlite_failure *f)
{
    for (int i = 0; i < 3; i++) {
        enum sqlite_turn turn = belay__sqlite_store_begin(&b->store, f);
        if (turn != TURN_MOVED) return turn;
        file_lost(b);
    }
    belay__sqlite_fail(f, BELAY_UNAVAILABLE, BELAY_CAUSE_BUSY, "it is being replaced");
    return TURN_FAILED;
}

static void give_up(struct sqlite_backend *b, belay_op *op, const struct sqlite_failure *f)
{
    belay__sqlite_store_rollback(&b->store);
    if (f->status == BELAY_CONFIG) belay__sqlite_store_close(&b->store);
    belay__sqlite_op_fail(b, op, f);
}

/* ------------------------------------------------------------------ acquire */

static bool fence(struct sqlite_backend *b, belay_op *op, struct sqlite_failure *f)
{
    uint64_t proposal = belay_env_proposal(b->store.env);
    op->token = 0;
    if (!belay_env_fencing(b->store.env)) return true;
    sqlite3_stmt *statement = belay__sqlite_store_statement(&b->store, SQL_FENCE, f);
    if (statement == NULL) return false;
    if (proposal >= PROPOSAL_MAX)
        proposal = 0; /* a clock that is far off must not use up the numbers */
    bool room = op->token_floor <= FLOOR_MAX;
    sqlite3_bind_int64(statement, 1, (int64_t)proposal);
    sqlite3_bind_int64(statement, 2, (int64_t)(room ? op->token_floor : FLOOR_MAX));
    int rc = sqlite3_step(statement);
    if (rc == SQLITE_ROW) {
        op->token = (uint64_t)sqlite3_column_int64(statement, 0);
        rc = sqlite3_step(statement); /* until DONE nothing is written */
    }
    if (!belay__sqlite_store_done(&b->store, statement, rc, f)) return false;
    if (op->token > op->token_floor && room) return true;
    return belay__sqlite_fail(f, BELAY_REFUSED, BELAY_CAUSE_WRONG,
                              "its fencing tokens are used up");
}

static bool row_take(struct sqlite_backend *b, const belay_op *op, int64_t now_ns,
                     struct sqlite_failure *f)
{
    const struct sqlite_self *self = &b->store.self;
    sqlite3_stmt *take = belay__sqlite_store_statement(&b->store, SQL_TAKE, f);
    bool second = op->also_pid > 0 && !op->detached;
    if (take == NULL) return false;
    belay__sqlite_bind_key(take, op->key);
    sqlite3_bind_text(take, 2, op->owner, BELAY_OWNER_LENGTH, SQLITE_STATIC);
    sqlite3_bind_int64(take, 3, (int64_t)op->token);
    sqlite3_bind_int64(take, 4, now_ns + (int64_t)op->ttl_ms * 1000000);
    sqlite3_bind_int64(take, 5, now_ns);
    sqlite3_bind_int64(take, 6, self->shift_ns);
    sqlite3_bind_blob(take, 7, self->boot_length > 0 ? (const void *)self->boot : "",
                      (int)self->boot_length, SQLITE_STATIC);
    sqlite3_bind_int64(take, 8, op->detached ? 0 : self->pid);
    sqlite3_bind_int64(take, 9, op->detached ? 0 : self->start);
    sqlite3_bind_int64(take, 10, op->detached ? 0 : self->pid_ns);
    sqlite3_bind_int64(take, 11, second ? op->also_pid : 0);
    sqlite3_bind_int64(take, 12, second ? belay__sqlite_start_of(self, op->also_pid) : 0);
    sqlite3_bind_text(take, 13, op->label != NULL ? op->label : "", -1, SQLITE_STATIC);
    return belay__sqlite_store_run(&b->store, take, f);
}

/* Now and then, what others left behind under names that nobody asks for any more. The owner id is
 * random, so that of 256 attempts one begins with "00". */
static bool sweep(struct sqlite_backend *b, const belay_op *op, int64_t now_ns,
                  struct sqlite_failure *f)
{
    if (op->owner[0] != '0' || op->owner[1] != '0') return true;
    sqlite3_stmt *statement = belay__sqlite_store_statement(&b->store, SQL_SWEEP, f);
    if (statement == NULL) return false;
    sqlite3_bind_int64(statement, 1, now_ns - SWEEP_AFTER_NS);
    sqlite3_bind_int64(statement, 2, b->store.self.shift_ns);
    return belay__sqlite_store_run(&b->store, statement, f);
}

static void acquire_free(struct sqlite_backend *b, belay_op *op, int64_t now_ns)
{
    struct sqlite_failure f;
    struct sqlite_waiter *waiter = op->wait != NULL ? op->wait->data : NULL;
    struct grant *grant = belay_env_alloc(b->store.env, sizeof *grant);
    bool done = grant != NULL;
    if (!done) belay__sqlite_fail(&f, BELAY_NOMEM, BELAY_CAUSE_NONE, "out of memory");
    done = done && fence(b, op, &f) && row_take(b, op, now_ns, &f) && sweep(b, op, now_ns, &f);
    if (waiter != NULL && waiter->stored)
        done =
            done && belay__sqlite_waiter_delete(b, op->key, waiter->since_ns, b->wakes.socket, &f);
    done = done && belay__sqlite_store_commit(&b->store, &f);
    if (!done) {
        belay_env_free(b->store.env, grant);
        give_up(b, op, &f);
        return;
    }
    if (waiter != NULL) waiter->stored = false;
    belay_link_append(&b->grants, &grant->link);
    op->grant = &grant->base;
    op->sent_ns = now_ns;
    belay_op_settle(op, BELAY_OK);
}

/* The waiter's row goes in with the refusal, so that no release can come between. It may be there
 * already, or have been taken out by a release that told us. */
static void acquire_held(struct sqlite_backend *b, belay_op *op, const struct sqlite_row *row,
                         int64_t now_ns)
{
    struct sqlite_failure f;
    struct sqlite_waiter *waiter = NULL;
    bool done = false;
    int64_t left = row->expires_ns - row->shift_ns - (now_ns - b->store.self.shift_ns);
    if (op->wait != NULL) waiter = belay__sqlite_waiter_of(&b->wakes, op->wait, op->key);
    if (waiter != NULL && belay__sqlite_wakes_listen(&b->wakes)) {
        sqlite3_stmt *wait = belay__sqlite_store_statement(&b->store, SQL_WAIT, &f);
        if (wait != NULL) {
            belay__sqlite_bind_key(wait, op->key);
            sqlite3_bind_int64(wait, 2, waiter->since_ns);
            sqlite3_bind_text(wait, 3, b->wakes.socket, -1, SQLITE_STATIC);
        }
        /* On a full disk it waits by core's timer. */
        done = wait != NULL && belay__sqlite_store_run(&b->store, wait, &f) &&
               belay__sqlite_store_commit(&b->store, &f);
        waiter->stored = waiter->stored || done;
    }
    if (!done) belay__sqlite_store_rollback(&b->store);
    if (waiter != NULL) belay__sqlite_waiter_watch(&b->wakes, waiter, &row->holder);
    op->held_for_ns = left;
    belay_op_settle(op, BELAY_HELD);
}

static void acquire(struct sqlite_backend *b, belay_op *op, int64_t now_ns)
{
    struct sqlite_failure f;
    struct sqlite_row row;
    if (!belay__sqlite_store_look(&b->store, op->key, &row, &f)) {
        give_up(b, op, &f);
    } else if (belay__sqlite_row_free(&row, &b->store.self, now_ns)) {
        acquire_free(b, op, now_ns);
    } else if (row.shift_ns != b->store.self.shift_ns) {
        belay__sqlite_fail(
            &f, BELAY_CONFIG, BELAY_CAUSE_WRONG,
            "its holder lives in another time namespace; share a file within one only");
        belay__sqlite_store_rollback(&b->store);
        belay__sqlite_op_fail(b, op, &f);
    } else {
        acquire_held(b, op, &row, now_ns);
    }
}

/* ------------------------------------------------------------------ release, break, extend */

static struct grant *grant_of(const belay_op *op)
{
    return op->grant != NULL ? belay_container_of(op->grant, struct grant, base) : NULL;
}

static void release(struct sqlite_backend *b, belay_op *op)
{
    struct sqlite_failure f;
    struct sqlite_next next = { 0 };
    struct grant *grant = op->verb == BELAY_VERB_RELEASE ? grant_of(op) : NULL;
    sqlite3_stmt *statement = belay__sqlite_store_statement(&b->store, SQL_FREE, &f);
    if (statement != NULL) {
        belay__sqlite_bind_key(statement, op->key);
        sqlite3_bind_text(statement, 2, op->owner, -1, SQLITE_STATIC);
    }
    if (!belay__sqlite_store_run(&b->store, statement, &f)) {
        give_up(b, op, &f);
    } else if (sqlite3_changes(b->store.db) == 0) {
        belay__sqlite_store_rollback(&b->store);
        if (grant != NULL) op->unsure_release = grant->unsure;
        belay_op_settle(op, BELAY_LOST);
    } else if (!belay__sqlite_next_read(b, op->key, &next, &f) ||
               !belay__sqlite_store_commit(&b->store, &f)) {
        if (grant != NULL) grant->unsure = true;
        give_up(b, op, &f);
    } else {
        belay__sqlite_next_tell(b, op->key, &next);
        belay_op_settle(op, BELAY_OK);
    }
}

/* Tokens of later grants are larger than the floor of an extension. */
static bool fence_raise(struct sqlite_backend *b, uint64_t floor, struct sqlite_failure *f)
{
    if (floor == 0) return true;
    if (floor > FLOOR_MAX)
        return belay__sqlite_fail(f, BELAY_REFUSED, BELAY_CAUSE_WRONG,
                                  "so large a fencing token leaves no room for another");
    sqlite3_stmt *statement = belay__sqlite_store_statement(&b->store, SQL_RAISE, f);
    if (statement != NULL) sqlite3_bind_int64(statement, 1, (int64_t)floor);
    return belay__sqlite_store_run(&b->store, statement, f);
}

static void extend(struct sqlite_backend *b, belay_op *op, int64_t now_ns)
{
    uint64_t floor = belay_env_fencing(b->store.env) ? op->token_floor : 0;
    struct sqlite_failure f;
    struct sqlite_row row;
    if (!belay__sqlite_store_look(&b->store, op->key, &row, &f)) {
        give_up(b, op, &f);
        return;
    }
    if (belay__sqlite_row_ended(&row, &b->store.self, now_ns) ||
        strcmp(row.owner, op->owner) != 0) {
        belay__sqlite_store_rollback(&b->store);
        belay_op_settle(op, BELAY_LOST);
        return;
    }
    sqlite3_stmt *statement = belay__sqlite_store_statement(&b->store, SQL_EXTEND, &f);
    if (statement != NULL) {
        belay__sqlite_bind_key(statement, op->key);
        sqlite3_bind_text(statement, 2, op->owner, -1, SQLITE_STATIC);
        sqlite3_bind_int64(statement, 3,
                           now_ns + (int64_t)op->ttl_ms * 1000000 + row.shift_ns -
                               b->store.self.shift_ns);
        sqlite3_bind_int64(statement, 4, (int64_t)(floor <= FLOOR_MAX ? floor : 0));
    }
    if (!belay__sqlite_store_run(&b->store, statement, &f) || !fence_raise(b, floor, &f) ||
        !belay__sqlite_store_commit(&b->store, &f)) {
        give_up(b, op, &f);
        return;
    }
    op->sent_ns = now_ns;
    op->token = (uint64_t)row.token > floor ? (uint64_t)row.token : floor;
    belay_op_settle(op, BELAY_OK);
}

/* ------------------------------------------------------------------ the queue */

/* Inside a transaction, which it ends. */
static void run(struct sqlite_backend *b, belay_op *op)
{
    int64_t now_ns = belay_env_now(b->store.env);
    switch (op->verb) {
    case BELAY_VERB_ACQUIRE: acquire(b, op, now_ns); break;
    case BELAY_VERB_EXTEND: extend(b, op, now_ns); break;
    case BELAY_VERB_INSPECT: belay__sqlite_inspect(b, op, now_ns); break;
    case BELAY_VERB_DIAGNOSE: belay__sqlite_diagnose(b, op, NULL); break;
    case BELAY_VERB_LIST: belay__sqlite_list(b, op, now_ns); break;
    default: release(b, op); break;
    }
}

/* One try. False: another process is in the file. */
static bool attempt(struct sqlite_backend *b, belay_op *op)
{
    struct sqlite_failure f;
    enum sqlite_turn turn = belay__sqlite_begin(b, &f);
    struct grant *grant =
        op->verb == BELAY_VERB_EXTEND || op->verb == BELAY_VERB_RELEASE ? grant_of(op) : NULL;
    if (grant != NULL && grant->lost) {
        if (turn == TURN_GO) belay__sqlite_store_rollback(&b->store);
        belay_op_fail(op, BELAY_LOST, BELAY_CAUSE_NONE, belay__sqlite_place_name(&b->store.place),
                      "it was replaced or removed");
        return true;
    }
    if (turn == TURN_BUSY) return false;
    if (turn == TURN_GO) {
        run(b, op);
    } else if (op->verb == BELAY_VERB_DIAGNOSE) {
        belay__sqlite_diagnose(b, op, &f);
    } else {
        belay__sqlite_op_fail(b, op, &f);
    }
    return true;
}

/* A collision is over in a moment, a file under siege is to be left in peace. When the timer comes
 * late the processors are, and it may be our tries that keep whoever is in the file from getting
 * out: three hundred processes that asked every 4 ms let nobody through for 15 s (docs/sqlite.md).
 */
void belay__sqlite_retry_arm(struct sqlite_backend *b)
{
    belay_env *env = b->store.env;
    if (belay_timer_armed(&b->retry)) return;
    int64_t late = b->late_ns < LATE_MAX_NS ? b->late_ns : LATE_MAX_NS;
    int64_t pause = FIRST_LEAST_NS + belay_env_random_below(env, FIRST_RANGE_NS);
    if (b->tries > 0)
        pause = USUAL_LEAST_NS + belay_env_random_below(env, (uint32_t)(USUAL_RANGE_NS + 4 * late));
    b->tries++;
    belay_timer_arm(env, &b->retry, belay_env_now(env) + pause);
}

static void retry_fired(belay_timer *timer)
{
    struct sqlite_backend *b = belay_container_of(timer, struct sqlite_backend, retry);
    b->late_ns = belay_env_now(b->store.env) - timer->due_ns;
    while (!belay_links_empty(&b->queue)) {
        belay_op *op = belay_container_of(b->queue.next, belay_op, link);
        if (!attempt(b, op)) {
            belay__sqlite_retry_arm(b);
            return;
        }
        belay_unlink(&op->link);
        b->tries = 0;
    }
    belay__sqlite_chores_run(b);
}

/* Behind those that wait for the file already. */
static void start(belay_backend *base, belay_op *op)
{
    struct sqlite_backend *b = backend_of(base);
    if (belay_links_empty(&b->queue) && attempt(b, op)) return;
    op->number = belay_env_now(b->store.env);
    belay_link_append(&b->queue, &op->link);
    belay__sqlite_retry_arm(b);
}

static void cancel(belay_backend *base, belay_op *op)
{
    struct sqlite_backend *b = backend_of(base);
    if (!belay_linked(&op->link)) return;
    belay_unlink(&op->link);
    if (belay_links_empty(&b->queue) && belay_links_empty(&b->chores))
        belay_timer_disarm(b->store.env, &b->retry);
    int64_t ms = (belay_env_now(b->store.env) - op->number) / 1000000;
    belay_op_fail(op, BELAY_UNAVAILABLE, BELAY_CAUSE_BUSY,
                  belay__sqlite_place_name(&b->store.place),
                  "busy: another process was writing to it at every try for %lld ms",
                  (long long)ms);
}

/* ------------------------------------------------------------------ grants and waits */

static void drop(belay_backend *base, belay_grant *base_grant)
{
    struct grant *grant = belay_container_of(base_grant, struct grant, base);
    belay_unlink(&grant->link);
    belay_env_free(backend_of(base)->store.env, grant);
}

static void unwait(belay_backend *base, belay_wait *wait)
{
    struct sqlite_backend *b = backend_of(base);
    struct sqlite_waiter *waiter = wait->data;
    if (waiter == NULL) return;
    if (waiter->stored)
        belay__sqlite_chore_add(b, false, (belay_str){ waiter->key, waiter->length },
                                waiter->since_ns, b->wakes.socket);
    belay__sqlite_waiter_free(&b->wakes, waiter);
}

static void stray(struct sqlite_wakes *wakes, belay_str key)
{
    belay__sqlite_chore_add(belay_container_of(wakes, struct sqlite_backend, wakes), true, key, 0,
                            "");
}

static bool owes(belay_backend *base)
{
    struct sqlite_backend *b = backend_of(base);
    if (!belay_links_empty(&b->chores) && belay_links_empty(&b->queue)) belay__sqlite_chores_run(b);
    return !belay_links_empty(&b->chores);
}

/* ------------------------------------------------------------------ the object */

static void task_run(belay_task *task)
{
    belay__sqlite_chores_run(belay_container_of(task, struct sqlite_backend, task));
}

static void destroy(belay_backend *base)
{
    struct sqlite_backend *b = backend_of(base);
    belay_env *env = b->store.env;
    belay__sqlite_chores_drop(b);
    belay_task_drop(env, &b->task);
    belay_timer_disarm(env, &b->retry);
    belay__sqlite_wakes_fini(&b->wakes);
    belay__sqlite_store_close(&b->store);
    belay_env_free(env, b);
}

/* A place that is wrong is an error now; one that is only out of reach may come back. */
static belay_status open_now(struct sqlite_backend *b, belay_error *err)
{
    struct sqlite_failure f;
    const char *name = belay__sqlite_place_name(&b->store.place);
    if (belay__sqlite_store_open(&b->store, &f) != TURN_FAILED) return BELAY_OK;
    if (f.status != BELAY_UNAVAILABLE) return belay_error_set(err, f.status, name, "%s", f.text);
    belay_env_log(b->store.env, BELAY_LOG_WARN, "%s: %s", name, f.text);
    return BELAY_OK;
}

static belay_status create(belay_backend **out, belay_env *env, const belay_settings *settings,
                           belay_error *err)
{
    if (sqlite3_threadsafe() == 0)
        return belay_error_set(err, BELAY_CONFIG, NULL, "this SQLite was built without threads");
    struct sqlite_backend *b = belay_env_alloc(env, sizeof *b);
    if (b == NULL) return belay_error_set(err, BELAY_NOMEM, NULL, NULL);
    b->store.env = env;
    belay_links_init(&b->grants);
    belay_links_init(&b->queue);
    belay_links_init(&b->chores);
    belay_timer_init(&b->retry, retry_fired);
    b->task.fn = task_run;
    belay__sqlite_wakes_init(&b->wakes, env, &b->store.place, &b->store.self, stray);
    belay_status status = belay__sqlite_place_init(&b->store.place, settings, err);
    if (status == BELAY_OK) {
        belay__sqlite_self_read(&b->store.self);
        status = open_now(b, err);
    }
    if (status != BELAY_OK) {
        destroy(&b->base);
        return status;
    }
    *out = &b->base;
    return BELAY_OK;
}

static const belay_setting_spec sqlite_settings[] = {
    { .key = "path",
      .type = BELAY_SETTING_STRING,
      .help =
          "the file of locks, an absolute path; none: a directory of this user's on this host" },
    { .key = "group",
      .type = BELAY_SETTING_STRING,
      .help = "a group whose members share the file; without it the file is this user's alone" },
    { .key = "mode",
      .type = BELAY_SETTING_MODE,
      .initial = "0600",
      .help = "the mode of a new file; with a group 0660 unless it is given" },
    { 0 },
};

static const char *const sqlite_schemes[] = { "sqlite", NULL };

extern const belay_backend_ops belay__sqlite_ops;
const belay_backend_ops belay__sqlite_ops = {
    BELAY_OPS_HEAD,
    .type = "sqlite",
    .url_schemes = sqlite_schemes,
    .url_key = "path",
    .settings = sqlite_settings,
    .scope = BELAY_SCOPE_HOST,
    .in_order = true,
    .timeout_ms = 1000, /* a file under siege by a hundred starting processes takes half of it */
    .create = create,
    .destroy = destroy,
    .acquire = start,
    .release = start,
    .extend = start,
    .cancel = cancel,
    .drop = drop,
    .unwait = unwait,
    .owes = owes,
    .inspect = start,
    .list = start,
    .break_lock = start,
    .diagnose = start,
};
