/* sqlite_store.c - the file of locks: opening it, turns, transactions, statements, rows.
 *
 * Journal mode PERSIST, synchronous OFF, transactions EXCLUSIVE (docs/sqlite.md has the
 * measurements): no fsync on the way, a release works on a full disk, a killed process leaves a
 * journal that the next one rolls back, and a COMMIT never has to wait for readers. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "sqlite.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#define BEGIN_TRIES 3

static const char *const statement_sql[SQL_STATEMENTS] = {
    [SQL_BEGIN] = "BEGIN EXCLUSIVE",
    [SQL_COMMIT] = "COMMIT",
    [SQL_ROLLBACK] = "ROLLBACK",
    [SQL_LOOK] =
        "SELECT owner, token, expires_ns, taken_ns, shift_ns, boot, pid, start, pid_ns, pid2,"
        " start2, label FROM locks WHERE name = ?1",
    /* Not beyond the last number of an epoch. */
    [SQL_FENCE] = "UPDATE meta SET last = max(?1, max(last, ?2) + 1) WHERE id = 1"
                  " AND max(last, ?2) & 1125899906842623 <> 1125899906842623 RETURNING last",
    [SQL_RAISE] = "UPDATE meta SET last = ?1 WHERE id = 1 AND last < ?1",
    [SQL_TAKE] =
        "INSERT OR REPLACE INTO locks VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12,"
        " ?13)",
    [SQL_EXTEND] = "UPDATE locks SET expires_ns = max(expires_ns, ?3), token = max(token, ?4)"
                   " WHERE name = ?1 AND owner = ?2",
    [SQL_FREE] = "DELETE FROM locks WHERE name = ?1 AND owner = ?2",
    [SQL_SWEEP] = "DELETE FROM locks WHERE expires_ns < ?1 AND shift_ns = ?2",
    [SQL_WAIT] = "INSERT OR IGNORE INTO waiters VALUES(?1, ?2, ?3)",
    [SQL_UNWAIT] = "DELETE FROM waiters WHERE name = ?1 AND since_ns = ?2 AND socket = ?3",
    [SQL_NEXT] =
        "SELECT since_ns, socket FROM waiters WHERE name = ?1 ORDER BY since_ns, socket LIMIT 4",
    [SQL_COUNT] = "SELECT count(*) FROM waiters WHERE name = ?1",
    [SQL_LIST] =
        "SELECT owner, token, expires_ns, taken_ns, shift_ns, boot, pid, start, pid_ns, pid2,"
        " start2, label, name, (SELECT count(*) FROM waiters WHERE waiters.name = locks.name)"
        " FROM locks ORDER BY name",
};

/* ------------------------------------------------------------------ this process's turn */

/* Clients of one process take turns by this mutex, for one transaction at a time: between
 * themselves they need no retries. It is the backend's one piece of global state. A child of a fork
 * finds it free: whoever had it does not live there. */
static pthread_mutex_t turn_mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t turn_once = PTHREAD_ONCE_INIT;

static void turn_forked(void)
{
    static const pthread_mutex_t free_mutex = PTHREAD_MUTEX_INITIALIZER;
    turn_mutex = free_mutex;
}

static void turn_init(void)
{
    (void)pthread_atfork(NULL, NULL, turn_forked);
}

static void turn_take(struct sqlite_store *s)
{
    pthread_once(&turn_once, turn_init);
    pthread_mutex_lock(&turn_mutex);
    s->inside = true;
}

static void turn_leave(struct sqlite_store *s)
{
    if (!s->inside) return;
    s->inside = false;
    pthread_mutex_unlock(&turn_mutex);
}

/* ------------------------------------------------------------------ what SQLite says */

bool belay__sqlite_store_fail(struct sqlite_store *s, int rc, struct sqlite_failure *f)
{
    switch (rc & 0xFF) {
    case SQLITE_FULL:
        return belay__sqlite_fail(f, BELAY_UNAVAILABLE, BELAY_CAUSE_BUSY, "the disk is full");
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
        return belay__sqlite_fail(f, BELAY_UNAVAILABLE, BELAY_CAUSE_BUSY,
                                  "another process is writing to it");
    case SQLITE_NOMEM: return belay__sqlite_fail(f, BELAY_NOMEM, BELAY_CAUSE_NONE, "out of memory");
    case SQLITE_READONLY:
        return belay__sqlite_fail(f, BELAY_UNAVAILABLE, BELAY_CAUSE_UNREACHABLE,
                                  rc == SQLITE_READONLY_DIRECTORY ? "its directory is read-only"
                                                                  : "it is read-only");
    case SQLITE_CANTOPEN:
        return belay__sqlite_fail(
            f, BELAY_UNAVAILABLE, BELAY_CAUSE_UNREACHABLE,
            "it or its journal cannot be opened: is the directory read-only?");
    case SQLITE_PERM:
    case SQLITE_AUTH:
        return belay__sqlite_fail(f, BELAY_REFUSED, BELAY_CAUSE_WRONG, "permission denied");
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
    case SQLITE_FORMAT:
        return belay__sqlite_fail(f, BELAY_CONFIG, BELAY_CAUSE_WRONG,
                                  "it is damaged (%s); stop who uses it and move it away",
                                  sqlite3_errstr(rc));
    case SQLITE_ERROR:
    case SQLITE_CONSTRAINT:
    case SQLITE_MISMATCH:
        return belay__sqlite_fail(
            f, BELAY_CONFIG, BELAY_CAUSE_WRONG,
            "its tables are not belay's (%s); stop who uses it and move it away",
            s->db != NULL ? sqlite3_errmsg(s->db) : sqlite3_errstr(rc));
    case SQLITE_IOERR:
        if (rc == SQLITE_IOERR_NOMEM)
            return belay__sqlite_fail(f, BELAY_NOMEM, BELAY_CAUSE_NONE, "out of memory");
        /* fall through */
    default:
        return belay__sqlite_fail(f, BELAY_UNAVAILABLE, BELAY_CAUSE_UNREACHABLE, "%s (%d)",
                                  sqlite3_errstr(rc), rc);
    }
}

/* ------------------------------------------------------------------ statements */

sqlite3_stmt *belay__sqlite_store_statement(struct sqlite_store *s, enum sqlite_statement which,
                                            struct sqlite_failure *f)
{
    if (s->statements[which] == NULL) {
        int rc = sqlite3_prepare_v3(s->db, statement_sql[which], -1, SQLITE_PREPARE_PERSISTENT,
                                    &s->statements[which], NULL);
        if (rc != SQLITE_OK) belay__sqlite_store_fail(s, rc, f);
    }
    return s->statements[which];
}

bool belay__sqlite_store_done(struct sqlite_store *s, sqlite3_stmt *statement, int rc,
                              struct sqlite_failure *f)
{
    int reset = sqlite3_reset(statement);
    if (rc != SQLITE_ROW && rc != SQLITE_DONE) return belay__sqlite_store_fail(s, rc, f);
    return reset == SQLITE_OK || belay__sqlite_store_fail(s, reset, f);
}

bool belay__sqlite_store_run(struct sqlite_store *s, sqlite3_stmt *statement,
                             struct sqlite_failure *f)
{
    if (statement == NULL) return false;
    int rc;
    do rc = sqlite3_step(statement);
    while (rc == SQLITE_ROW);
    return belay__sqlite_store_done(s, statement, rc, f);
}

/* ------------------------------------------------------------------ opening */

static int journal_row(void *arg, int columns, char **values, char **names)
{
    (void)names;
    *(bool *)arg = columns > 0 && values[0] != NULL && strcmp(values[0], "persist") == 0;
    return 0;
}

/* It reads the file, and so needs a turn: inside the first transaction it needs none of its own. */
static int journal_set(struct sqlite_store *s)
{
    bool persist = false;
    int rc = sqlite3_exec(s->db, "PRAGMA journal_mode = PERSIST", journal_row, &persist, NULL);
    return rc == SQLITE_OK && !persist ? SQLITE_BUSY : rc;
}

static int configure(struct sqlite_store *s)
{
    static const int options[][2] = { { SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0 },
                                      { SQLITE_DBCONFIG_DQS_DML, 0 },
                                      { SQLITE_DBCONFIG_DQS_DDL, 0 },
                                      { SQLITE_DBCONFIG_ENABLE_TRIGGER, 0 },
                                      { SQLITE_DBCONFIG_ENABLE_VIEW, 0 } };
    for (size_t i = 0; i < sizeof options / sizeof options[0]; i++)
        sqlite3_db_config(s->db, options[i][0], options[i][1], 0);
    sqlite3_extended_result_codes(s->db, 1);
    return belay__sqlite_exec(s, "PRAGMA temp_store = MEMORY; PRAGMA mmap_size = 0");
}

static enum sqlite_turn turn_of(struct sqlite_store *s, int rc, struct sqlite_failure *f)
{
    belay__sqlite_store_fail(s, rc, f);
    return belay__sqlite_busy(rc) ? TURN_BUSY : TURN_FAILED;
}

/* The connection is there: is it to the file that was checked, and is that one of ours? */
static enum sqlite_turn connected(struct sqlite_store *s, const struct stat *before,
                                  struct sqlite_failure *f)
{
    struct sqlite_header h;
    struct stat st;
    bool absent;
    if (!belay__sqlite_place_check(&s->place, &st, &absent, f)) return TURN_FAILED;
    if (absent || st.st_dev != before->st_dev || st.st_ino != before->st_ino) {
        belay__sqlite_fail(f, BELAY_UNAVAILABLE, BELAY_CAUSE_BUSY, "it is being replaced");
        return TURN_BUSY;
    }
    if (sqlite3_db_readonly(s->db, "main") == 1) {
        belay__sqlite_fail(f, BELAY_UNAVAILABLE, BELAY_CAUSE_UNREACHABLE, "it is read-only");
        return TURN_FAILED;
    }
    int rc = sqlite3_file_control(s->db, "main", SQLITE_FCNTL_FILE_POINTER, &s->file);
    if (rc == SQLITE_OK && (s->file == NULL || s->file->pMethods == NULL)) rc = SQLITE_CANTOPEN;
    if (rc != SQLITE_OK) return turn_of(s, rc, f);
    if (!belay__sqlite_header_read(s, &h, f)) return TURN_FAILED;
    rc = configure(s);
    if (rc == SQLITE_OK && h.wal) rc = journal_set(s);
    if (rc != SQLITE_OK) return turn_of(s, rc, f);
    s->foreign_boot = !belay__sqlite_header_current(s, &h);
    s->sync_due = s->journal_due = true;
    if (s->known && (s->device != st.st_dev || s->inode != st.st_ino)) {
        s->known = false; /* it was replaced while it was not open */
        return TURN_MOVED;
    }
    s->known = true;
    s->device = st.st_dev;
    s->inode = st.st_ino;
    return TURN_GO;
}

static enum sqlite_turn connect_file(struct sqlite_store *s, struct sqlite_failure *f)
{
    struct stat st;
    bool absent;
    if (!belay__sqlite_place_find(&s->place, f) ||
        !belay__sqlite_place_check(&s->place, &st, &absent, f))
        return TURN_FAILED;
    if (s->place.why_second[0] != '\0')
        belay_env_log(s->env, s->place.surprising ? BELAY_LOG_WARN : BELAY_LOG_DEBUG,
                      "%s: chosen because %s; who can use that place excludes nobody here",
                      s->place.path, s->place.why_second);
    if (absent && (!belay__sqlite_file_create(s, f) ||
                   !belay__sqlite_place_check(&s->place, &st, &absent, f)))
        return TURN_FAILED;
    int rc = sqlite3_open_v2(s->place.path, &s->db,
                             SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_NOFOLLOW |
                                 SQLITE_OPEN_PRIVATECACHE,
                             NULL);
    if (rc == SQLITE_OK) return connected(s, &st, f);
    int error = s->db != NULL ? sqlite3_system_errno(s->db) : 0;
    enum sqlite_turn turn = turn_of(s, rc, f);
    if ((rc & 0xFF) == SQLITE_CANTOPEN && error != 0) belay__sqlite_fail_errno(f, error, "open");
    return turn;
}

/* The first opening in a boot needs a turn; until it comes, what was opened stays open. */
static enum sqlite_turn boot_settle(struct sqlite_store *s, struct sqlite_failure *f)
{
    if (s->journal_due) {
        int rc = journal_set(s);
        if (belay__sqlite_busy(rc)) return turn_of(s, rc, f);
        s->journal_due = rc != SQLITE_OK;
    }
    int rc = belay__sqlite_boot_begin(s);
    if (rc != SQLITE_OK) return turn_of(s, rc, f);
    s->foreign_boot = false;
    if (s->place.shared) {
        char journal[SQLITE_PATH_MAX + 16];
        snprintf(journal, sizeof journal, "%s-journal", s->place.path);
        belay__sqlite_place_share(&s->place, journal);
    }
    return TURN_GO;
}

/* Like the journal's mode it reads the file, but it cannot be set inside a transaction. */
static enum sqlite_turn sync_set(struct sqlite_store *s, bool may_fail, struct sqlite_failure *f)
{
    int rc = belay__sqlite_exec(s, "PRAGMA synchronous = OFF");
    s->sync_due = rc != SQLITE_OK;
    if (rc == SQLITE_OK || (may_fail && !belay__sqlite_busy(rc))) return TURN_GO;
    return turn_of(s, rc, f);
}

static enum sqlite_turn open_inside(struct sqlite_store *s, struct sqlite_failure *f)
{
    enum sqlite_turn turn = TURN_GO;
    if (s->db == NULL) {
        turn = connect_file(s, f);
        if (turn == TURN_BUSY) belay__sqlite_store_close(s);
    }
    /* On a damaged file of another boot the first try fails. */
    if (turn == TURN_GO && s->sync_due) turn = sync_set(s, s->foreign_boot, f);
    if (turn == TURN_GO && s->foreign_boot) turn = boot_settle(s, f);
    if (turn == TURN_GO && s->sync_due) turn = sync_set(s, false, f);
    if (turn != TURN_GO && turn != TURN_BUSY) belay__sqlite_store_close(s);
    return turn;
}

enum sqlite_turn belay__sqlite_store_open(struct sqlite_store *s, struct sqlite_failure *f)
{
    turn_take(s);
    enum sqlite_turn turn = open_inside(s, f);
    turn_leave(s);
    return turn;
}

void belay__sqlite_store_close(struct sqlite_store *s)
{
    for (int i = 0; i < SQL_STATEMENTS; i++) {
        sqlite3_finalize(s->statements[i]);
        s->statements[i] = NULL;
    }
    sqlite3_close(s->db);
    s->db = NULL;
    s->file = NULL;
}

/* ------------------------------------------------------------------ transactions */

static bool file_moved(const struct sqlite_store *s)
{
    struct stat st;
    return lstat(s->place.path, &st) != 0 || st.st_dev != s->device || st.st_ino != s->inode;
}

/* Asks without taking a lock. A BEGIN that fails has been in the way of the one that would have got
 * through: with many at the door, nobody does. */
static bool is_taken(struct sqlite_store *s)
{
    int taken = 0;
    return s->file->pMethods->xCheckReservedLock(s->file, &taken) == SQLITE_OK && taken != 0;
}

/* Two that come at the same moment turn each other away, so it is worth a second look. */
static int begin_step(struct sqlite_store *s, sqlite3_stmt *begin)
{
    int rc = SQLITE_BUSY;
    for (int i = 0; i < BEGIN_TRIES && belay__sqlite_busy(rc); i++) {
        if (s->turned_away && is_taken(s)) break;
        rc = sqlite3_step(begin);
        sqlite3_reset(begin);
        s->turned_away = belay__sqlite_busy(rc);
    }
    return rc;
}

static void rollback_inside(struct sqlite_store *s)
{
    struct sqlite_failure f;
    if (s->db == NULL || sqlite3_get_autocommit(s->db)) return;
    if (!belay__sqlite_store_run(s, belay__sqlite_store_statement(s, SQL_ROLLBACK, &f), &f) &&
        !sqlite3_get_autocommit(s->db))
        belay__sqlite_store_close(s); /* its lock must not stay */
}

static enum sqlite_turn begin_inside(struct sqlite_store *s, struct sqlite_failure *f)
{
    enum sqlite_turn turn = open_inside(s, f);
    if (turn != TURN_GO) return turn;
    sqlite3_stmt *begin = belay__sqlite_store_statement(s, SQL_BEGIN, f);
    if (begin == NULL) return TURN_FAILED;
    int rc = begin_step(s, begin);
    bool begun = rc == SQLITE_DONE;
    if (belay__sqlite_busy(rc)) return turn_of(s, rc, f);
    bool moved = file_moved(s);
    if (begun && !moved && s->journal_due) {
        rc = journal_set(s);
        s->journal_due = rc != SQLITE_OK;
    }
    if (begun && !moved && !s->journal_due) return TURN_GO;
    if (!moved) turn = turn_of(s, rc, f);
    if (begun) rollback_inside(s);
    belay__sqlite_store_close(s);
    if (!moved) return turn;
    s->known = false;
    return TURN_MOVED;
}

enum sqlite_turn belay__sqlite_store_begin(struct sqlite_store *s, struct sqlite_failure *f)
{
    turn_take(s);
    enum sqlite_turn turn = begin_inside(s, f);
    if (turn != TURN_GO) turn_leave(s);
    return turn;
}

void belay__sqlite_store_rollback(struct sqlite_store *s)
{
    rollback_inside(s);
    turn_leave(s);
}

bool belay__sqlite_store_commit(struct sqlite_store *s, struct sqlite_failure *f)
{
    bool done = belay__sqlite_store_run(s, belay__sqlite_store_statement(s, SQL_COMMIT, f), f);
    if (!done) {
        /* The journal decides: the next to open the file rolls back what is in it. */
        rollback_inside(s);
        belay__sqlite_store_close(s);
    }
    turn_leave(s);
    return done;
}

/* ------------------------------------------------------------------ rows */

void belay__sqlite_bind_key(sqlite3_stmt *statement, belay_str key)
{
    sqlite3_bind_blob(statement, 1, key.at, (int)key.length, SQLITE_STATIC);
}

void belay__sqlite_row_read(struct sqlite_row *row, sqlite3_stmt *statement)
{
    memset(row, 0, sizeof *row);
    const unsigned char *owner = sqlite3_column_text(statement, 0);
    const void *boot = sqlite3_column_blob(statement, 5);
    int length = sqlite3_column_bytes(statement, 5);
    row->there = true;
    if (owner != NULL) snprintf(row->owner, sizeof row->owner, "%s", (const char *)owner);
    row->token = sqlite3_column_int64(statement, 1);
    row->expires_ns = sqlite3_column_int64(statement, 2);
    row->taken_ns = sqlite3_column_int64(statement, 3);
    row->shift_ns = sqlite3_column_int64(statement, 4);
    if (boot != NULL && length == (int)sizeof row->boot) {
        memcpy(row->boot, boot, sizeof row->boot);
        row->boot_length = sizeof row->boot;
    }
    row->holder.pid = sqlite3_column_int64(statement, 6);
    row->holder.start = sqlite3_column_int64(statement, 7);
    row->holder.pid_ns = sqlite3_column_int64(statement, 8);
    row->holder.pid2 = sqlite3_column_int64(statement, 9);
    row->holder.start2 = sqlite3_column_int64(statement, 10);
}

bool belay__sqlite_store_look(struct sqlite_store *s, belay_str key, struct sqlite_row *row,
                              struct sqlite_failure *f)
{
    sqlite3_stmt *look = belay__sqlite_store_statement(s, SQL_LOOK, f);
    row->there = false;
    if (look == NULL) return false;
    belay__sqlite_bind_key(look, key);
    int rc = sqlite3_step(look);
    if (rc == SQLITE_ROW) belay__sqlite_row_read(row, look);
    return belay__sqlite_store_done(s, look, rc, f);
}

bool belay__sqlite_row_ended(const struct sqlite_row *row, const struct sqlite_self *self,
                             int64_t now_ns)
{
    if (!row->there) return true;
    if (row->boot_length > 0 && self->boot_length > 0) {
        if (memcmp(row->boot, self->boot, sizeof row->boot) != 0) return true;
    } else if (row->taken_ns - row->shift_ns > now_ns - self->shift_ns) {
        return true; /* a boot that isn't known, but a grant from the future: an earlier one */
    }
    return row->expires_ns - row->shift_ns <= now_ns - self->shift_ns;
}

bool belay__sqlite_row_free(const struct sqlite_row *row, const struct sqlite_self *self,
                            int64_t now_ns)
{
    if (belay__sqlite_row_ended(row, self, now_ns)) return true;
    struct sqlite_holder holder = row->holder;
    /* /proc shows start times as the reader's time namespace has them: across two they say nothing.
     */
    if (row->shift_ns != self->shift_ns) holder.start = holder.start2 = 0;
    return belay__sqlite_holder_gone(self, &holder);
}
