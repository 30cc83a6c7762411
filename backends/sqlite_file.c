/* sqlite_file.c - what is in the file of locks: the schema, a new file, the header, another boot,
 * damage.
 *
 * Only a power cut can damage the file, and what was in it is worthless after a boot. So the first
 * opening in a boot checks the file and, if it is damaged, empties it in place; the same damage
 * within a boot is somebody's doing and is left for the administrator: CONFIG.
 *
 * The header tells the file apart before SQLite trusts it: application_id "bel" and the schema's
 * version, user_version a hash of the boot that used it last. It is read through SQLite's own
 * descriptor: opening and closing another would drop this process's locks. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "sqlite.h"

#include <stdio.h>
#include <string.h>

#define SCHEMA_VERSION 1
#define APPLICATION_ID 0x62656C00 /* "bel", and the version */
#define RESERVE_ROWS 12           /* pages that the journal keeps room for */
#define RESERVE_BYTES 3900

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
    /* Written once, all in one transaction, so that the journal has its size while the disk has
       room. */
    "CREATE TABLE reserve(id INTEGER PRIMARY KEY, fill BLOB NOT NULL);";

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

bool belay__sqlite_file_create(struct sqlite_store *s, struct sqlite_failure *f)
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

static uint32_t big_endian(const unsigned char *at)
{
    return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

bool belay__sqlite_header_read(struct sqlite_store *s, struct sqlite_header *h,
                               struct sqlite_failure *f)
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

bool belay__sqlite_header_current(const struct sqlite_store *s, const struct sqlite_header *h)
{
    return h->boot_mark != 0 && (s->self.boot_length == 0 || h->boot_mark == s->self.boot_mark);
}

/* ------------------------------------------------------------------ another boot */

int belay__sqlite_exec(struct sqlite_store *s, const char *sql)
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
    int rc =
        sqlite3_prepare_v2(s->db, "UPDATE meta SET boot = ?1, last = max(last, ?2) WHERE id = 1",
                           -1, &meta, NULL);
    if (rc == SQLITE_OK) {
        sqlite3_bind_blob(meta, 1, s->self.boot, (int)s->self.boot_length, SQLITE_STATIC);
        sqlite3_bind_int64(meta, 2, last);
        rc = sqlite3_step(meta) == SQLITE_DONE ? SQLITE_OK : sqlite3_errcode(s->db);
    }
    /* A row without a boot id is of a process that can't read it, and may live. */
    if (rc == SQLITE_OK)
        rc = sqlite3_prepare_v2(s->db,
                                "DELETE FROM locks WHERE CASE WHEN boot = x'' OR ?1 = x'' THEN"
                                " taken_ns > ?2 ELSE boot <> ?1 END",
                                -1, &drop, NULL);
    if (rc == SQLITE_OK) {
        sqlite3_bind_blob(drop, 1, s->self.boot_length > 0 ? (const void *)s->self.boot : "",
                          (int)s->self.boot_length, SQLITE_STATIC);
        sqlite3_bind_int64(drop, 2, belay_env_now(s->env));
        rc = sqlite3_step(drop) == SQLITE_DONE ? SQLITE_OK : sqlite3_errcode(s->db);
    }
    sqlite3_finalize(meta);
    sqlite3_finalize(drop);
    snprintf(mark, sizeof mark, "PRAGMA user_version = %d", (int)s->self.boot_mark);
    if (rc == SQLITE_OK) rc = belay__sqlite_exec(s, "DELETE FROM waiters");
    if (rc == SQLITE_OK)
        rc = belay__sqlite_exec(s, "UPDATE reserve SET fill = randomblob(length(fill))");
    if (rc == SQLITE_OK) rc = belay__sqlite_exec(s, mark);
    return rc;
}

static int64_t last_read(struct sqlite_store *s)
{
    sqlite3_stmt *statement = NULL;
    int64_t last = 0;
    if (sqlite3_prepare_v2(s->db, "SELECT last FROM meta WHERE id = 1", -1, &statement, NULL) ==
            SQLITE_OK &&
        sqlite3_step(statement) == SQLITE_ROW &&
        sqlite3_column_type(statement, 0) == SQLITE_INTEGER)
        last = sqlite3_column_int64(statement, 0);
    sqlite3_finalize(statement);
    return last > 0 ? last : 0;
}

/* Damaged since another boot: nothing in it can be alive. It is emptied in place, under the
 * exclusive lock and in one transaction, so that of two processes only one does it and no third
 * sees half of it. */
static int damage_reset(struct sqlite_store *s, int64_t last)
{
    char sql[160];
    struct sqlite_failure ignored;
    struct sqlite_header h;
    sqlite3_db_config(s->db, SQLITE_DBCONFIG_RESET_DATABASE, 1, 0);
    int rc = belay__sqlite_exec(s, "BEGIN EXCLUSIVE");
    if (rc == SQLITE_OK && belay__sqlite_header_read(s, &h, &ignored) &&
        belay__sqlite_header_current(s, &h)) {
        rc = belay__sqlite_exec(s, "ROLLBACK"); /* another process was first */
        sqlite3_db_config(s->db, SQLITE_DBCONFIG_RESET_DATABASE, 0, 0);
        return rc;
    }
    snprintf(sql, sizeof sql, "PRAGMA application_id = %d", APPLICATION_ID | SCHEMA_VERSION);
    if (rc == SQLITE_OK) rc = belay__sqlite_exec(s, schema_sql);
    snprintf(sql, sizeof sql,
             "WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i + 1 FROM n WHERE i < %d)"
             " INSERT INTO reserve SELECT i, zeroblob(%d) FROM n",
             RESERVE_ROWS, RESERVE_BYTES);
    if (rc == SQLITE_OK) rc = belay__sqlite_exec(s, sql);
    snprintf(sql, sizeof sql, "PRAGMA application_id = %d", APPLICATION_ID | SCHEMA_VERSION);
    if (rc == SQLITE_OK) rc = belay__sqlite_exec(s, sql);
    if (rc == SQLITE_OK) rc = boot_adopt(s, last);
    if (rc == SQLITE_OK) rc = belay__sqlite_exec(s, "COMMIT");
    if (rc != SQLITE_OK && !sqlite3_get_autocommit(s->db)) belay__sqlite_exec(s, "ROLLBACK");
    sqlite3_db_config(s->db, SQLITE_DBCONFIG_RESET_DATABASE, 0, 0);
    if (rc == SQLITE_OK)
        belay_env_log(s->env, BELAY_LOG_WARN,
                      "%s: damaged by the end of an earlier boot, emptied: nothing in it was alive",
                      belay__sqlite_place_name(&s->place));
    return rc;
}

static bool is_damage(int rc)
{
    return (rc & 0xFF) == SQLITE_CORRUPT || (rc & 0xFF) == SQLITE_NOTADB ||
           (rc & 0xFF) == SQLITE_ERROR || (rc & 0xFF) == SQLITE_FORMAT;
}

int belay__sqlite_boot_begin(struct sqlite_store *s)
{
    struct sqlite_failure ignored;
    struct sqlite_header h;
    bool sound = false;
    int64_t last = 0;
    int rc = belay__sqlite_exec(s, "BEGIN EXCLUSIVE");
    if (belay__sqlite_busy(rc)) return rc;
    if (rc == SQLITE_OK && belay__sqlite_header_read(s, &h, &ignored) &&
        belay__sqlite_header_current(s, &h))
        return belay__sqlite_exec(s, "ROLLBACK"); /* another process was first */
    if (rc == SQLITE_OK) {
        last = last_read(s);
        rc = sqlite3_exec(s->db, "PRAGMA quick_check(1)", check_row, &sound, NULL);
        if (rc == SQLITE_OK && !sound) rc = SQLITE_CORRUPT;
    }
    if (rc == SQLITE_OK) rc = boot_adopt(s, last);
    if (rc == SQLITE_OK) rc = belay__sqlite_exec(s, "COMMIT");
    if (rc != SQLITE_OK && !sqlite3_get_autocommit(s->db)) belay__sqlite_exec(s, "ROLLBACK");
    return is_damage(rc) ? damage_reset(s, last) : rc;
}
