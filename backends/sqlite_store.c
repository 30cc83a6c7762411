/* sqlite_store.c - the file of locks: opening it, another boot, damage, transactions.
 *
 * Journal mode PERSIST, synchronous OFF, transactions EXCLUSIVE (docs/sqlite.md has the measurements):
 * no fsync on the way, a release works on a full disk, a killed process leaves a journal that the next
 * one rolls back. Only a power cut can damage the file, and what was in it is worthless after a boot. So the
 * first opening in a boot checks the file and, if it is damaged, empties it in place; the same damage within a
 * boot is somebody's doing and is left for the administrator: CONFIG.
 *
 * The header tells the file apart before SQLite trusts it: application_id "bel" and the schema's version,
 * user_version a hash of the boot that used it last. It is read through SQLite's own descriptor: opening and
 * closing another would drop this process's locks. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "sqlite.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define SCHEMA_VERSION 1
#define APPLICATION_ID 0x62656C00 /* "bel", and the version */
#define RESERVE_ROWS   12         /* pages that the journal keeps room for */
#define RESERVE_BYTES  3900
#define BEGIN_TRIES    3

static const char schema_sql[] =
    /* The largest token so far, and the boot that used the file last. */
    "CREATE TABLE meta(id INTEGER PRIMARY KEY, last INTEGER NOT NULL, boot BLOB NOT NULL);"
    "INSERT INTO meta VALUES(1, 0, x'');"
    "CREATE TABLE locks(name BLOB PRIMARY KEY, owner TEXT NOT NULL, token INTEGER NOT NULL,"
    " expires_ns INTEGER NOT NULL, taken_ns INTEGER NOT NULL, shift_ns INTEGER NOT NULL,"
    " boot BLOB NOT NULL, pid INTEGER NOT NULL, start INTEGER NOT NULL, pid_ns INTEGER NOT NULL,"
    " pid2 INTEGER NOT NULL, start2 INTEGER NOT NULL, label TEXT NOT NULL) WITHOUT ROWID;"
    "CREATE TABLE waiters(name BLOB NOT NULL, since_ns INTEGER NOT NULL, socket TEXT NOT NULL,"
    " PRIMARY KEY(name, since_ns, socket)) WITHOUT ROWID;"
    /* Written once, all in one transaction, so that the journal has its size while the disk has room. */
    "CREATE TABLE reserve(id INTEGER PRIMARY KEY, fill BLOB NOT NULL);";

static const char *const statement_sql[SQL_STATEMENTS] = {
    [SQL_BEGIN] = "BEGIN EXCLUSIVE",
    [SQL_COMMIT] = "COMMIT",
    [SQL_ROLLBACK] = "ROLLBACK",
    [SQL_LOOK] = "SELECT owner, token, expires_ns, taken_ns, shift_ns, boot, pid, start, pid_ns, pid2,"
                 " start2, label FROM locks WHERE name = ?1",
    [SQL_FENCE] = "UPDATE meta SET last = max(?1, max(last, ?2) + 1) WHERE id = 1"
                  " AND (max(last, ?2) + 1) & 1125899906842623 <> 0 RETURNING last",
    [SQL_TAKE] = "INSERT OR REPLACE INTO locks VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12,"
                 " ?13)",
    [SQL_EXTEND] = "UPDATE locks SET expires_ns = max(expires_ns, ?3) WHERE name = ?1 AND owner = ?2",
    [SQL_FREE] = "DELETE FROM locks WHERE name = ?1 AND owner = ?2",
    [SQL_SWEEP] = "DELETE FROM locks WHERE expires_ns < ?1 AND shift_ns = ?2",
    [SQL_WAIT] = "INSERT OR REPLACE INTO waiters VALUES(?1, ?2, ?3)",
    [SQL_UNWAIT] = "DELETE FROM waiters WHERE name = ?1 AND since_ns = ?2 AND socket = ?3",
    [SQL_NEXT] = "SELECT since_ns, socket FROM waiters WHERE name = ?1 ORDER BY since_ns, socket LIMIT 4",
    [SQL_COUNT] = "SELECT count(*) FROM waiters WHERE name = ?1",
    [SQL_LIST] = "SELECT owner, token, expires_ns, taken_ns, shift_ns, boot, pid, start, pid_ns, pid2,"
                 " start2, label, name, (SELECT count(*) FROM waiters WHERE waiters.name = locks.name)"
                 " FROM locks ORDER BY name",
};

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
        return belay__sqlite_fail(f, BELAY_UNAVAILABLE, BELAY_CAUSE_UNREACHABLE,
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
        return belay__sqlite_fail(f, BELAY_CONFIG, BELAY_CAUSE_WRONG,
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

static bool is_busy(int rc)
{
    return (rc & 0xFF) == SQLITE_BUSY || (rc & 0xFF) == SQLITE_LOCKED;
}

static bool is_damage(int rc)
{
    return (rc & 0xFF) == SQLITE_CORRUPT || (rc & 0xFF) == SQLITE_NOTADB ||
           (rc & 0xFF) == SQLITE_ERROR || (rc & 0xFF) == SQLITE_FORMAT;
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

/* ------------------------------------------------------------------ a new file */

/* The bytes of an empty file of locks; to be freed with sqlite3_free. NULL: out of memory. */
static unsigned char *image_make(sqlite3_int64 *size)
{
    sqlite3 *db = NULL;
    char head[160];
    unsigned char *image = NULL;
    snprintf(head, sizeof head, "PRAGMA page_size = 4096; PRAGMA application_id = %d; BEGIN;",
             APPLICATION_ID | SCHEMA_VERSION);
    int rc = sqlite3_open_v2(":memory:", &db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, NULL);
    if (rc == SQLITE_OK) rc = sqlite3_exec(db, head, NULL, NULL, NULL);
    if (rc == SQLITE_OK) rc = sqlite3_exec(db, schema_sql, NULL, NULL, NULL);
    snprintf(head, sizeof head, "INSERT INTO reserve VALUES(NULL, zeroblob(%d))", RESERVE_BYTES);
    for (int i = 0; i < RESERVE_ROWS && rc == SQLITE_OK; i++)
        rc = sqlite3_exec(db, head, NULL, NULL, NULL);
    if (rc == SQLITE_OK) rc = sqlite3_exec(db, "COMMIT", NULL, NULL, NULL);
    if (rc == SQLITE_OK) image = sqlite3_serialize(db, "main", size, 0);
    sqlite3_close(db);
    return image;
}

static bool file_create(struct sqlite_store *s, struct sqlite_failure *f)
{
    sqlite3_int64 size = 0;
    unsigned char bits[8];
    char unique[17];
    unsigned char *image = image_make(&size);
    if (image == NULL) return belay__sqlite_fail(f, BELAY_NOMEM, BELAY_CAUSE_NONE, "out of memory");
    belay_env_random(s->env, bits, sizeof bits);
    for (size_t i = 0; i < sizeof bits; i++) snprintf(unique + 2 * i, 3, "%02x", bits[i]);
    bool made = belay__sqlite_place_install(&s->place, image, (size_t)size, unique, f);
    sqlite3_free(image);
    return made;
}

/* ------------------------------------------------------------------ the header */

struct header {
    uint32_t application;
    int32_t boot_mark;
    bool wal; /* somebody else put it into that mode */
};

static uint32_t big_endian(const unsigned char *at)
{
    return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

static bool header_read(struct sqlite_store *s, struct header *h, struct sqlite_failure *f)
{
    sqlite3_file *file = s->file;
    sqlite3_int64 size = 0;
    unsigned char bytes[100];
    int rc = file->pMethods->xFileSize(file, &size);
    if (rc == SQLITE_OK && size == 0)
        return belay__sqlite_fail(f, BELAY_CONFIG, BELAY_CAUSE_WRONG,
                                  "it is empty, and so not a file of locks; remove it");
    if (rc == SQLITE_OK && size < 512)
        return belay__sqlite_fail(f, BELAY_CONFIG, BELAY_CAUSE_WRONG, "it is not a file of locks");
    if (rc == SQLITE_OK) rc = file->pMethods->xRead(file, bytes, sizeof bytes, 0);
    if (rc != SQLITE_OK) return belay__sqlite_store_fail(s, rc, f);
    if (memcmp(bytes, "SQLite format 3", 16) != 0)
        return belay__sqlite_fail(f, BELAY_CONFIG, BELAY_CAUSE_WRONG, "it is not a file of locks");
    h->application = big_endian(bytes + 68);
    h->boot_mark = (int32_t)big_endian(bytes + 60);
    h->wal = bytes[18] == 2 || bytes[19] == 2;
    if ((h->application & 0xFFFFFF00) != APPLICATION_ID)
        return belay__sqlite_fail(f, BELAY_CONFIG, BELAY_CAUSE_WRONG,
                                  "it is an SQLite database, but not belay's");
    if ((h->application & 0xFF) != SCHEMA_VERSION)
        return belay__sqlite_fail(f, BELAY_CONFIG, BELAY_CAUSE_WRONG,
                                  "its format is version %u; this belay knows version %d",
                                  (unsigned)h->application & 0xFF, SCHEMA_VERSION);
    return true;
}

static bool header_of_this_boot(const struct sqlite_store *s, const struct header *h)
{
    return h->boot_mark != 0 && (s->self.boot_length == 0 || h->boot_mark == s->self.boot_mark);
}

/* ------------------------------------------------------------------ another boot */

static int exec(struct sqlite_store *s, const char *sql)
{
    return sqlite3_exec(s->db, sql, NULL, NULL, NULL);
}

static int check_row(void *arg, int columns, char **values, char **names)
{
    (void)names;
    *(bool *)arg = columns > 0 && values[0] != NULL && strcmp(values[0], "ok") == 0;
    return 0;
}

/* Inside a transaction: this boot uses the file from now on. */
static int boot_adopt(struct sqlite_store *s, int64_t last)
{
    sqlite3_stmt *meta = NULL, *drop = NULL;
    char mark[48];
    int rc = sqlite3_prepare_v2(s->db, "UPDATE meta SET boot = ?1, last = max(last, ?2) WHERE id = 1",
                                -1, &meta, NULL);
    if (rc == SQLITE_OK) {
        sqlite3_bind_blob(meta, 1, s->self.boot, (int)s->self.boot_length, SQLITE_STATIC);
        sqlite3_bind_int64(meta, 2, last);
        rc = sqlite3_step(meta) == SQLITE_DONE ? SQLITE_OK : sqlite3_errcode(s->db);
    }
    /* A row without a boot id is of a process that can't read it, and may live. */
    if (rc == SQLITE_OK)
        rc = sqlite3_prepare_v2(s->db, "DELETE FROM locks WHERE CASE WHEN boot = x'' OR ?1 = x'' THEN"
                                       " taken_ns > ?2 ELSE boot <> ?1 END", -1, &drop, NULL);
    if (rc == SQLITE_OK) {
        sqlite3_bind_blob(drop, 1, s->self.boot_length > 0 ? (const void *)s->self.boot : "",
                          (int)s->self.boot_length, SQLITE_STATIC);
        sqlite3_bind_int64(drop, 2, belay_env_now(s->env));
        rc = sqlite3_step(drop) == SQLITE_DONE ? SQLITE_OK : sqlite3_errcode(s->db);
    }
    sqlite3_finalize(meta);
    sqlite3_finalize(drop);
    snprintf(mark, sizeof mark, "PRAGMA user_version = %d", (int)s->self.boot_mark);
    if (rc == SQLITE_OK) rc = exec(s, "DELETE FROM waiters");
    if (rc == SQLITE_OK) rc = exec(s, "UPDATE reserve SET fill = randomblob(length(fill))");
    if (rc == SQLITE_OK) rc = exec(s, mark);
    return rc;
}

static int64_t last_read(struct sqlite_store *s)
{
    sqlite3_stmt *statement = NULL;
    int64_t last = 0;
    if (sqlite3_prepare_v2(s->db, "SELECT last FROM meta WHERE id = 1", -1, &statement, NULL) ==
            SQLITE_OK &&
        sqlite3_step(statement) == SQLITE_ROW && sqlite3_column_type(statement, 0) == SQLITE_INTEGER)
        last = sqlite3_column_int64(statement, 0);
    sqlite3_finalize(statement);
    return last > 0 ? last : 0;
}

/* Damaged since another boot: nothing in it can be alive. It is emptied in place, under the exclusive lock
 * and in one transaction, so that of two processes only one does it and no third sees half of it. */
static int damage_reset(struct sqlite_store *s, int64_t last)
{
    char sql[160];
    struct sqlite_failure ignored;
    struct header h;
    sqlite3_db_config(s->db, SQLITE_DBCONFIG_RESET_DATABASE, 1, 0);
    int rc = exec(s, "BEGIN EXCLUSIVE");
    if (rc == SQLITE_OK && header_read(s, &h, &ignored) && header_of_this_boot(s, &h)) {
        rc = exec(s, "ROLLBACK"); /* another process was first */
        sqlite3_db_config(s->db, SQLITE_DBCONFIG_RESET_DATABASE, 0, 0);
        return rc;
    }
    snprintf(sql, sizeof sql, "PRAGMA application_id = %d", APPLICATION_ID | SCHEMA_VERSION);
    if (rc == SQLITE_OK) rc = exec(s, schema_sql);
    snprintf(sql, sizeof sql,
             "WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i + 1 FROM n WHERE i < %d)"
             " INSERT INTO reserve SELECT i, zeroblob(%d) FROM n", RESERVE_ROWS, RESERVE_BYTES);
    if (rc == SQLITE_OK) rc = exec(s, sql);
    snprintf(sql, sizeof sql, "PRAGMA application_id = %d", APPLICATION_ID | SCHEMA_VERSION);
    if (rc == SQLITE_OK) rc = exec(s, sql);
    if (rc == SQLITE_OK) rc = boot_adopt(s, last);
    if (rc == SQLITE_OK) rc = exec(s, "COMMIT");
    if (rc != SQLITE_OK && !sqlite3_get_autocommit(s->db)) exec(s, "ROLLBACK");
    sqlite3_db_config(s->db, SQLITE_DBCONFIG_RESET_DATABASE, 0, 0);
    if (rc == SQLITE_OK)
        belay_env_log(s->env, BELAY_LOG_WARN,
                      "%s: damaged by the end of an earlier boot, emptied: nothing in it was alive",
                      belay__sqlite_place_name(&s->place));
    return rc;
}

/* The first opening in a boot: the file is checked, and what was in it is gone. */
static int boot_begin(struct sqlite_store *s)
{
    struct sqlite_failure ignored;
    struct header h;
    bool sound = false;
    int64_t last = 0;
    int rc = exec(s, "BEGIN EXCLUSIVE");
    if (is_busy(rc)) return rc;
    if (rc == SQLITE_OK && header_read(s, &h, &ignored) && header_of_this_boot(s, &h))
        return exec(s, "ROLLBACK"); /* another process was first */
    if (rc == SQLITE_OK) {
        last = last_read(s);
        rc = sqlite3_exec(s->db, "PRAGMA quick_check(1)", check_row, &sound, NULL);
        if (rc == SQLITE_OK && !sound) rc = SQLITE_CORRUPT;
    }
    if (rc == SQLITE_OK) rc = boot_adopt(s, last);
    if (rc == SQLITE_OK) rc = exec(s, "COMMIT");
    if (rc != SQLITE_OK && !sqlite3_get_autocommit(s->db)) exec(s, "ROLLBACK");
    return is_damage(rc) ? damage_reset(s, last) : rc;
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
    return exec(s, "PRAGMA synchronous = OFF; PRAGMA temp_store = MEMORY; PRAGMA mmap_size = 0");
}

static enum sqlite_turn turn_of(struct sqlite_store *s, int rc, struct sqlite_failure *f)
{
    belay__sqlite_store_fail(s, rc, f);
    return is_busy(rc) ? TURN_BUSY : TURN_FAILED;
}

/* The connection is there: is it to the file that was checked, and is that one of ours? */
static enum sqlite_turn connected(struct sqlite_store *s, const struct stat *before,
                                  struct sqlite_failure *f)
{
    struct header h;
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
    if (!header_read(s, &h, f)) return TURN_FAILED;
    rc = configure(s);
    if (rc == SQLITE_OK && h.wal) rc = journal_set(s);
    if (rc != SQLITE_OK) return turn_of(s, rc, f);
    s->foreign_boot = !header_of_this_boot(s, &h);
    s->journal_due = true;
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
    if (absent && (!file_create(s, f) || !belay__sqlite_place_check(&s->place, &st, &absent, f)))
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
        if (is_busy(rc)) return turn_of(s, rc, f);
        s->journal_due = rc != SQLITE_OK;
    }
    int rc = boot_begin(s);
    if (rc != SQLITE_OK) return turn_of(s, rc, f);
    s->foreign_boot = false;
    if (s->place.shared) {
        char journal[SQLITE_PATH_MAX + 16];
        snprintf(journal, sizeof journal, "%s-journal", s->place.path);
        belay__sqlite_place_share(&s->place, journal);
    }
    return TURN_GO;
}

enum sqlite_turn belay__sqlite_store_open(struct sqlite_store *s, struct sqlite_failure *f)
{
    enum sqlite_turn turn = TURN_GO;
    if (s->db == NULL) {
        turn = connect_file(s, f);
        if (turn != TURN_GO) belay__sqlite_store_close(s);
    }
    if (turn == TURN_GO && s->foreign_boot) {
        turn = boot_settle(s, f);
        if (turn == TURN_FAILED) belay__sqlite_store_close(s);
    }
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

/* Asks without taking a lock. A BEGIN that fails has been in the way of the one that would have got through:
 * with many at the door, nobody does. */
static bool is_taken(struct sqlite_store *s)
{
    int taken = 0;
    return s->file->pMethods->xCheckReservedLock(s->file, &taken) == SQLITE_OK && taken != 0;
}

/* Two that come at the same moment turn each other away, so it is worth a second look. */
static int begin_step(struct sqlite_store *s, sqlite3_stmt *begin)
{
    int rc = SQLITE_BUSY;
    for (int i = 0; i < BEGIN_TRIES && is_busy(rc) && !is_taken(s); i++) {
        rc = sqlite3_step(begin);
        sqlite3_reset(begin);
    }
    return rc;
}

enum sqlite_turn belay__sqlite_store_begin(struct sqlite_store *s, struct sqlite_failure *f)
{
    enum sqlite_turn turn = belay__sqlite_store_open(s, f);
    if (turn != TURN_GO) return turn;
    sqlite3_stmt *begin = belay__sqlite_store_statement(s, SQL_BEGIN, f);
    if (begin == NULL) return TURN_FAILED;
    int rc = begin_step(s, begin);
    bool begun = rc == SQLITE_DONE;
    if (is_busy(rc)) return turn_of(s, rc, f);
    bool moved = file_moved(s);
    if (begun && !moved && s->journal_due) {
        rc = journal_set(s);
        s->journal_due = rc != SQLITE_OK;
    }
    if (begun && !moved && !s->journal_due) return TURN_GO;
    if (!moved) turn = turn_of(s, rc, f);
    if (begun) belay__sqlite_store_rollback(s);
    belay__sqlite_store_close(s);
    if (!moved) return turn;
    s->known = false;
    return TURN_MOVED;
}

void belay__sqlite_store_rollback(struct sqlite_store *s)
{
    struct sqlite_failure f;
    if (s->db == NULL || sqlite3_get_autocommit(s->db)) return;
    if (!belay__sqlite_store_run(s, belay__sqlite_store_statement(s, SQL_ROLLBACK, &f), &f) &&
        !sqlite3_get_autocommit(s->db))
        belay__sqlite_store_close(s); /* its lock must not stay */
}

bool belay__sqlite_store_commit(struct sqlite_store *s, struct sqlite_failure *f)
{
    if (belay__sqlite_store_run(s, belay__sqlite_store_statement(s, SQL_COMMIT, f), f)) return true;
    /* The journal decides: the next to open the file rolls back what is in it. */
    belay__sqlite_store_rollback(s);
    belay__sqlite_store_close(s);
    return false;
}

/* ------------------------------------------------------------------ rows */

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
    sqlite3_bind_blob(look, 1, key.at, (int)key.length, SQLITE_STATIC);
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
