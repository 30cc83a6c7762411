/* sqlite_look.c - who holds what, and is the file in order: inspect, list, diagnose. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "sqlite.h"

#include <stdio.h>
#include <string.h>
#include <sys/vfs.h>

/* ------------------------------------------------------------------ inspect, list */

static void describe(const struct sqlite_backend *b, const struct sqlite_row *row, int64_t now_ns,
                     belay_info *info)
{
    const struct sqlite_self *self = &b->store.self;
    int64_t now = now_ns - self->shift_ns;
    info->held = true;
    info->scope = BELAY_SCOPE_HOST;
    info->token = (uint64_t)row->token;
    info->remaining_ms = (row->expires_ns - row->shift_ns - now) / 1000000;
    info->held_ms = (now - (row->taken_ns - row->shift_ns)) / 1000000;
    /* A pid means something in its own namespace only. */
    if (self->pid_ns != 0 && row->holder.pid_ns == self->pid_ns) info->pid = row->holder.pid;
    snprintf(info->owner, sizeof info->owner, "%s", row->owner);
}

static void describe_label(sqlite3_stmt *statement, belay_info *info)
{
    const char *label = (const char *)sqlite3_column_text(statement, 11);
    if (label != NULL) snprintf(info->label, sizeof info->label, "%s", label);
}

static bool inspect_read(struct sqlite_backend *b, belay_op *op, int64_t now_ns,
                         struct sqlite_failure *f)
{
    struct sqlite_row row = { 0 };
    sqlite3_stmt *look = belay__sqlite_store_statement(&b->store, SQL_LOOK, f);
    sqlite3_stmt *count = belay__sqlite_store_statement(&b->store, SQL_COUNT, f);
    if (look == NULL || count == NULL) return false;
    belay__sqlite_bind_key(look, op->key);
    int rc = sqlite3_step(look);
    if (rc == SQLITE_ROW) {
        belay__sqlite_row_read(&row, look);
        if (!belay__sqlite_row_free(&row, &b->store.self, now_ns)) {
            describe(b, &row, now_ns, op->info);
            describe_label(look, op->info);
        }
    }
    if (!belay__sqlite_store_done(&b->store, look, rc, f)) return false;
    belay__sqlite_bind_key(count, op->key);
    rc = sqlite3_step(count);
    if (rc == SQLITE_ROW) op->info->waiters = (uint32_t)sqlite3_column_int64(count, 0);
    return belay__sqlite_store_done(&b->store, count, rc, f);
}

void belay__sqlite_inspect(struct sqlite_backend *b, belay_op *op, int64_t now_ns)
{
    struct sqlite_failure f;
    bool read = inspect_read(b, op, now_ns, &f);
    belay__sqlite_store_rollback(&b->store);
    if (read) belay_op_settle(op, BELAY_OK);
    else belay__sqlite_op_fail(b, op, &f);
}

void belay__sqlite_list(struct sqlite_backend *b, belay_op *op, int64_t now_ns)
{
    struct sqlite_failure f;
    belay_status status = BELAY_OK;
    int rc = SQLITE_DONE;
    sqlite3_stmt *list = belay__sqlite_store_statement(&b->store, SQL_LIST, &f);
    while (list != NULL && status == BELAY_OK && (rc = sqlite3_step(list)) == SQLITE_ROW) {
        belay_info info = { .size = sizeof info };
        struct sqlite_row row;
        const char *key = (const char *)sqlite3_column_text(list, 12);
        const char *name = key != NULL ? belay_env_strip(b->store.env, key) : NULL;
        belay__sqlite_row_read(&row, list);
        if (name == NULL || belay__sqlite_row_free(&row, &b->store.self, now_ns)) continue;
        describe(b, &row, now_ns, &info);
        describe_label(list, &info);
        info.waiters = (uint32_t)sqlite3_column_int64(list, 13);
        snprintf(info.name, sizeof info.name, "%s", name);
        status = belay_op_emit(op, &info);
    }
    bool read = list != NULL && belay__sqlite_store_done(&b->store, list, rc, &f);
    belay__sqlite_store_rollback(&b->store);
    if (read) belay_op_settle(op, status);
    else belay__sqlite_op_fail(b, op, &f);
}

/* ------------------------------------------------------------------ diagnose */

static int text_row(void *arg, int columns, char **values, char **names)
{
    (void)names;
    snprintf(arg, 128, "%s", columns > 0 && values[0] != NULL ? values[0] : "");
    return 0;
}

static void ask(struct sqlite_backend *b, const char *sql, char out[128])
{
    char *error = NULL;
    out[0] = '\0';
    if (sqlite3_exec(b->store.db, sql, text_row, out, &error) != SQLITE_OK)
        snprintf(out, 128, "%s", error != NULL ? error : "failed");
    sqlite3_free(error);
}

static belay_status find_filesystem(struct sqlite_backend *b, belay_op *op)
{
    struct statfs fs;
    const struct sqlite_place *place = &b->store.place;
    const char *name;
    if (place->path[0] == '\0' ||
        statfs(place->directory[0] != '\0' ? place->directory : "/", &fs) != 0)
        return BELAY_OK;
    bool local = belay__sqlite_filesystem_local((unsigned long)fs.f_type, &name);
    belay_status status =
        belay_op_find(op, local ? BELAY_FINE : BELAY_BROKEN, "filesystem",
                      local ? "its locks hold among the processes of this host that open it"
                            : "other machines may write there, and its locks are not trusted",
                      local ? ""
                            : "put the file on a local filesystem: ext4, xfs, btrfs, tmpfs ...",
                      "%s on %s", place->path, name != NULL ? name : "an unknown filesystem");
    if (status != BELAY_OK) return status;
    unsigned long long kib =
        (unsigned long long)fs.f_bavail * (unsigned long long)fs.f_bsize / 1024;
    bool short_of = kib < 1024;
    return belay_op_find(op, short_of ? BELAY_WARNING : BELAY_FINE, "space",
                         short_of ? "on a full disk locks can be released, not taken" : "",
                         short_of ? "make room" : "", "%llu KiB free", kib);
}

static belay_status find_holders(struct sqlite_backend *b, belay_op *op)
{
    const struct sqlite_self *self = &b->store.self;
    if (!self->proc || self->start == 0 || self->pid_ns == 0)
        return belay_op_find(
            op, BELAY_WARNING, "processes",
            "who holds a lock can't be told apart: a dead holder's ends with its TTL",
            "mount /proc of this pid namespace", "/proc does not show this process");
    if (self->boot_length == 0)
        return belay_op_find(op, BELAY_WARNING, "boot",
                             "after a reboot a lock may seem held until its TTL has run out", "",
                             "this boot's id is not known here");
    return belay_op_find(op, BELAY_FINE, "processes", "a dead holder's lock is free at once", "",
                         "/proc shows who runs");
}

/* As the secondary of a fallback, say: "this host" is then this user's part of it. */
static belay_status find_users(struct sqlite_backend *b, belay_op *op)
{
    if (b->store.place.shared)
        return belay_op_find(op, BELAY_FINE, "users", "", "", "it is shared by a group");
    return belay_op_find(
        op, BELAY_FINE, "users",
        "other users have files of their own, unless `path` and `group` say otherwise", "",
        "it is this user's alone");
}

static belay_status find_database(struct sqlite_backend *b, belay_op *op)
{
    char journal[128], check[128], held[128];
    ask(b, "PRAGMA journal_mode", journal);
    ask(b, "PRAGMA quick_check(1)", check);
    ask(b,
        "SELECT count(*) || ' rows, ' || (SELECT count(*) FROM waiters) || ' waiting' FROM locks",
        held);
    bool persist = strcmp(journal, "persist") == 0, sound = strcmp(check, "ok") == 0;
    belay_status status =
        belay_op_find(op, BELAY_FINE, "sqlite", "", "", "SQLite %s, threads %s",
                      sqlite3_libversion(), sqlite3_threadsafe() != 0 ? "on" : "off");
    if (status == BELAY_OK)
        status = belay_op_find(
            op, persist ? BELAY_FINE : BELAY_WARNING, "journal",
            persist ? "a killed process leaves the file whole, a release needs no disk space"
                    : "what a killed process or a full disk leaves there is not what belay is "
                      "tested with",
            persist ? "" : "somebody changed it: close who else has the file open",
            "journal mode %s%s", journal, persist ? "" : ", belay wants persist");
    if (status == BELAY_OK)
        status =
            belay_op_find(op, sound ? BELAY_FINE : BELAY_BROKEN, "integrity",
                          sound ? "every row can be read"
                                : "the file is damaged: locks may be forgotten",
                          sound ? "" : "stop who uses the file and move it away: a new one is made",
                          "%s", check);
    if (status == BELAY_OK) status = belay_op_find(op, BELAY_FINE, "locks", "", "", "%s", held);
    return status;
}

void belay__sqlite_diagnose(struct sqlite_backend *b, belay_op *op, const struct sqlite_failure *f)
{
    const char *name = belay__sqlite_place_name(&b->store.place);
    belay_status status;
    if (f != NULL) {
        status = belay_op_find(op, BELAY_BROKEN, "reachable", "no lock can be taken there", "",
                               "%s: %s", name, f->text);
    } else {
        status = belay_op_find(op, BELAY_FINE, "reachable", "", "", "%s was opened and locked",
                               b->store.place.path);
    }
    if (status == BELAY_OK) status = find_filesystem(b, op);
    if (status == BELAY_OK && f == NULL) status = find_database(b, op);
    if (status == BELAY_OK) status = find_holders(b, op);
    if (status == BELAY_OK) status = find_users(b, op);
    belay__sqlite_store_rollback(&b->store);
    belay_op_settle(op, status);
}
