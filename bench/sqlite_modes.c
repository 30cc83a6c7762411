/* sqlite_modes.c - which journal mode suits a file of locks: the measurement behind docs/sqlite.md.
 *
 * Bare prepared statements, no belay: the same rows and the same two transactions as
 * backends/sqlite.c. For each mode and place: acquire+release pairs a second in one process; in
 * four, each with its own connection and a random pause after SQLITE_BUSY; the smallest share over
 * the largest; and the time of open, acquire, release, close, which is what a command line pays.
 *
 *   bench_sqlite_modes [--ms MILLISECONDS] [--json] [DIRECTORY...]     default: /run/lock /dev/shm
 */
#define _GNU_SOURCE
#include <errno.h>
#include <inttypes.h>
#include <sqlite3.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

struct mode {
    const char *name, *journal, *synchronous;
};

static const struct mode modes[] = {
    { "wal/normal", "WAL", "NORMAL" },       { "wal/off", "WAL", "OFF" },
    { "persist/off", "PERSIST", "OFF" },     { "truncate/off", "TRUNCATE", "OFF" },
    { "delete/off", "DELETE", "OFF" },       { "persist/normal", "PERSIST", "NORMAL" },
    { "delete/normal", "DELETE", "NORMAL" },
};

static const char schema[] =
    "CREATE TABLE IF NOT EXISTS meta(id INTEGER PRIMARY KEY, last INTEGER NOT NULL);"
    "INSERT OR IGNORE INTO meta VALUES(1, 0);"
    "CREATE TABLE IF NOT EXISTS locks(name BLOB PRIMARY KEY, owner TEXT NOT NULL,"
    " token INTEGER NOT NULL, expires_ns INTEGER NOT NULL, taken_ns INTEGER NOT NULL,"
    " boot BLOB NOT NULL, shift_ns INTEGER NOT NULL, pid INTEGER, start INTEGER, pid_ns INTEGER,"
    " pid2 INTEGER, start2 INTEGER, label BLOB) WITHOUT ROWID;"
    "CREATE TABLE IF NOT EXISTS waiters(id INTEGER PRIMARY KEY, name BLOB NOT NULL,"
    " since_ns INTEGER NOT NULL, socket BLOB NOT NULL);"
    "CREATE INDEX IF NOT EXISTS waiters_by_name ON waiters(name, id);";

enum { BEGIN, COMMIT, ROLLBACK, LOOK, FENCE, TAKE, FREE, NEXT, STATEMENTS };

static const char *const texts[STATEMENTS] = {
    [BEGIN] = "BEGIN EXCLUSIVE",
    [COMMIT] = "COMMIT",
    [ROLLBACK] = "ROLLBACK",
    [LOOK] = ("SELECT owner, expires_ns, boot, shift_ns, pid, start, pid_ns, pid2, start2"
              " FROM locks WHERE name=?1"),
    [FENCE] = "UPDATE meta SET last = max(last + 1, ?1) WHERE id = 1 RETURNING last",
    [TAKE] = "INSERT OR REPLACE INTO locks VALUES(?1,?2,?3,?4,?5,?6,0,?7,?8,?9,NULL,NULL,NULL)",
    [FREE] = "DELETE FROM locks WHERE name=?1 AND owner=?2",
    [NEXT] = "SELECT id, socket FROM waiters WHERE name=?1 ORDER BY id LIMIT 1",
};

struct place {
    sqlite3 *db;
    sqlite3_stmt *stmts[STATEMENTS];
};

static int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_BOOTTIME, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void die(const char *what, sqlite3 *db)
{
    fprintf(stderr, "%s: %s\n", what, db != NULL ? sqlite3_errmsg(db) : strerror(errno));
    exit(1);
}

static uint64_t chance;

static uint32_t below(uint32_t bound)
{
    chance ^= chance << 13;
    chance ^= chance >> 7;
    chance ^= chance << 17;
    return (uint32_t)((chance >> 16) % bound);
}

static void pause_busy(void)
{
    struct timespec t = { 0, 200000 + (long)below(7800000) };
    nanosleep(&t, NULL);
}

static int run(struct place *p, int statement)
{
    int rc = sqlite3_step(p->stmts[statement]);
    int again = sqlite3_reset(p->stmts[statement]);
    return rc == SQLITE_ROW ? (again == SQLITE_OK ? SQLITE_ROW : again) : rc;
}

static void exec_patiently(sqlite3 *db, const char *sql)
{
    while (true) {
        int rc = sqlite3_exec(db, sql, NULL, NULL, NULL);
        if (rc == SQLITE_OK) return;
        if (rc != SQLITE_BUSY) die(sql, db);
        pause_busy();
    }
}

/* The schema's check reads one row when it is there already, as an opening does. */
static void place_open(struct place *p, const char *path, const struct mode *mode, bool fresh)
{
    char sql[128];
    if (sqlite3_open_v2(path, &p->db,
                        SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX,
                        NULL) != SQLITE_OK)
        die(path, p->db);
    snprintf(sql, sizeof sql, "PRAGMA journal_mode=%s; PRAGMA synchronous=%s", mode->journal,
             mode->synchronous);
    exec_patiently(p->db, sql);
    if (fresh) exec_patiently(p->db, schema);
    memset(p->stmts, 0, sizeof p->stmts);
}

static sqlite3_stmt *prepared(struct place *p, int statement)
{
    if (p->stmts[statement] == NULL &&
        sqlite3_prepare_v3(p->db, texts[statement], -1, SQLITE_PREPARE_PERSISTENT,
                           &p->stmts[statement], NULL) != SQLITE_OK)
        die(texts[statement], p->db);
    return p->stmts[statement];
}

static void place_close(struct place *p)
{
    for (int i = 0; i < STATEMENTS; i++) sqlite3_finalize(p->stmts[i]);
    sqlite3_close(p->db);
}

static int begin(struct place *p)
{
    int moved = 0;
    prepared(p, BEGIN);
    int rc = run(p, BEGIN);
    if (rc != SQLITE_DONE) return rc;
    sqlite3_file_control(p->db, "main", SQLITE_FCNTL_HAS_MOVED, &moved);
    if (moved) die("moved", NULL);
    return rc;
}

/* False: busy. */
static bool pair_half(struct place *p, bool take, const char *name, int64_t number)
{
    static const char owner[] = "0123456789abcdef0123456789abcdef", boot[16] = "boot";
    int64_t now = now_ns();
    int rc = begin(p);
    if (rc == SQLITE_BUSY) return false;
    if (rc != SQLITE_DONE) die("begin", p->db);
    if (take) {
        sqlite3_bind_blob(prepared(p, LOOK), 1, name, (int)strlen(name), SQLITE_STATIC);
        if (run(p, LOOK) != SQLITE_DONE) die("look", p->db);
        sqlite3_stmt *fence = prepared(p, FENCE);
        sqlite3_bind_int64(fence, 1, number);
        if (sqlite3_step(fence) != SQLITE_ROW) die("fence", p->db);
        int64_t token = sqlite3_column_int64(fence, 0);
        if (sqlite3_step(fence) != SQLITE_DONE) die("fence", p->db);
        sqlite3_reset(fence);
        sqlite3_stmt *s = prepared(p, TAKE);
        sqlite3_bind_blob(s, 1, name, (int)strlen(name), SQLITE_STATIC);
        sqlite3_bind_text(s, 2, owner, 32, SQLITE_STATIC);
        sqlite3_bind_int64(s, 3, token);
        sqlite3_bind_int64(s, 4, now + 10000000000);
        sqlite3_bind_int64(s, 5, now);
        sqlite3_bind_blob(s, 6, boot, 16, SQLITE_STATIC);
        sqlite3_bind_int64(s, 7, getpid());
        sqlite3_bind_int64(s, 8, 12345);
        sqlite3_bind_int64(s, 9, 4026531836);
        if (run(p, TAKE) != SQLITE_DONE) die("take", p->db);
    } else {
        sqlite3_stmt *s = prepared(p, FREE);
        sqlite3_bind_blob(s, 1, name, (int)strlen(name), SQLITE_STATIC);
        sqlite3_bind_text(s, 2, owner, 32, SQLITE_STATIC);
        if (run(p, FREE) != SQLITE_DONE) die("free", p->db);
        sqlite3_bind_blob(prepared(p, NEXT), 1, name, (int)strlen(name), SQLITE_STATIC);
        if (run(p, NEXT) != SQLITE_DONE) die("next", p->db);
    }
    prepared(p, COMMIT);
    while ((rc = run(p, COMMIT)) == SQLITE_BUSY) pause_busy();
    if (rc != SQLITE_DONE) die("commit", p->db);
    return true;
}

static int64_t work(const char *path, const struct mode *mode, int64_t until_ns, int number)
{
    struct place p;
    char name[32];
    int64_t pairs = 0;
    chance = (uint64_t)now_ns() ^ ((uint64_t)getpid() << 32);
    place_open(&p, path, mode, false);
    while (now_ns() < until_ns) {
        snprintf(name, sizeof name, "belay:job-%d-%d", number, (int)(pairs % 100));
        while (!pair_half(&p, true, name, pairs)) pause_busy();
        while (!pair_half(&p, false, name, pairs)) pause_busy();
        pairs++;
    }
    place_close(&p);
    return pairs;
}

static void remove_all(const char *path)
{
    static const char *const ends[] = { "", "-journal", "-wal", "-shm" };
    char file[512];
    for (size_t i = 0; i < 4; i++) {
        snprintf(file, sizeof file, "%s%s", path, ends[i]);
        unlink(file);
    }
}

static int compare(const void *a, const void *b)
{
    double d = *(const double *)a - *(const double *)b;
    return d < 0 ? -1 : d > 0;
}

struct result {
    double one, four, share, shot_us;
};

static struct result measure(const char *directory, const struct mode *mode, int ms)
{
    struct result r;
    struct place p;
    char path[400];
    double shots[101];
    int64_t *counts = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (counts == MAP_FAILED) die("mmap", NULL);
    snprintf(path, sizeof path, "%s/belay-bench-%d.db", directory, (int)getpid());
    remove_all(path);
    place_open(&p, path, mode, true);
    place_close(&p);

    for (size_t i = 0; i < 101; i++) {
        int64_t start = now_ns();
        place_open(&p, path, mode, false);
        while (!pair_half(&p, true, "belay:one", (int64_t)i)) pause_busy();
        while (!pair_half(&p, false, "belay:one", (int64_t)i)) pause_busy();
        place_close(&p);
        shots[i] = (double)(now_ns() - start) / 1e3;
    }
    qsort(shots, 101, sizeof shots[0], compare);
    r.shot_us = shots[50];

    for (int processes = 1; processes <= 4; processes += 3) {
        int64_t until = now_ns() + (int64_t)ms * 1000000;
        for (int i = 0; i < processes; i++) {
            pid_t pid = fork();
            if (pid < 0) die("fork", NULL);
            if (pid == 0) {
                counts[i] = work(path, mode, until, i);
                _exit(0);
            }
        }
        while (wait(NULL) > 0 || errno == EINTR) continue;
        int64_t sum = 0, least = INT64_MAX, most = 1;
        for (int i = 0; i < processes; i++) {
            sum += counts[i];
            if (counts[i] < least) least = counts[i];
            if (counts[i] > most) most = counts[i];
        }
        if (processes == 1) r.one = (double)sum * 1000 / ms;
        else {
            r.four = (double)sum * 1000 / ms;
            r.share = (double)least / (double)most;
        }
    }
    remove_all(path);
    munmap(counts, 4096);
    return r;
}

int main(int argc, char **argv)
{
    const char *directories[16] = { "/run/lock", "/dev/shm" };
    int count = 0, ms = 1000;
    bool json = false;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--ms") == 0 && i + 1 < argc) ms = atoi(argv[++i]);
        else if (strcmp(argv[i], "--json") == 0) json = true;
        else if (count < 16) directories[count++] = argv[i];
    }
    if (count == 0) count = 2;
    if (ms < 10) ms = 10;
    if (json)
        printf("{\"bench\":\"sqlite_modes\",\"sqlite\":\"%s\",\"rows\":[", sqlite3_libversion());
    else
        printf("SQLite %s\n%-16s %-16s %12s %14s %10s %12s\n", sqlite3_libversion(), "place",
               "mode", "pairs/s", "4 processes", "min/max", "one-shot us");
    for (int d = 0; d < count; d++)
        for (size_t m = 0; m < sizeof modes / sizeof modes[0]; m++) {
            struct result r = measure(directories[d], &modes[m], ms);
            if (json)
                printf("%s{\"place\":\"%s\",\"mode\":\"%s\",\"pairs\":%.0f,\"pairs4\":%.0f,"
                       "\"share\":%.2f,\"oneshot_us\":%.0f}",
                       d + m > 0 ? "," : "", directories[d], modes[m].name, r.one, r.four, r.share,
                       r.shot_us);
            else
                printf("%-16s %-16s %12.0f %14.0f %10.2f %12.0f\n", directories[d], modes[m].name,
                       r.one, r.four, r.share, r.shot_us);
            fflush(stdout);
        }
    if (json) printf("]}\n");
    return 0;
}
