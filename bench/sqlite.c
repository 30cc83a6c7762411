/* sqlite.c - acquire and release of distinct names in one SQLite file: one process, and four.
 *
 * The floor is a program of prepared statements that does the same SQL by hand on the same file,
 * opened with the same pragmas: for an acquire BEGIN, one look whether the file was moved, the row,
 * the fencing token, the new row, COMMIT; for a release BEGIN, the look, DELETE, the oldest waiter,
 * COMMIT. Where another process is in the file it tries again after a random pause, drawn as belay
 * draws it. What it leaves out is what belay adds: owner ids, deadlines, waiting in turn, keeping,
 * being told.
 *
 * The statements are those of backends/sqlite_store.c, the pauses those of belay__sqlite_retry_arm,
 * and must stay so.
 *
 *   bench_sqlite [--json] [--quick] [DIRECTORY...]     default: $TMPDIR or /tmp, and /dev/shm
 */
#define _GNU_SOURCE
#include "bench.h"

#include <belay/belay.h>
#include <pthread.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { PROCESSES = 4, NAMES = 64, ROUNDS_ONE = 15, ROUNDS_MANY = 7 };

static char path[400], url[420];

static void name_make(char *out, size_t size, int process, int64_t i)
{
    snprintf(out, size, "nightly-%d-%d", process, (int)(i % NAMES));
}

/* ------------------------------------------------------------------ the floor */

enum { BEGIN, COMMIT, LOOK, FENCE, TAKE, FREE, NEXT, STATEMENTS };

static const char *const texts[STATEMENTS] = {
    [BEGIN] = "BEGIN EXCLUSIVE",
    [COMMIT] = "COMMIT",
    [LOOK] = "SELECT owner, token, expires_ns, taken_ns, shift_ns, boot, pid, start, pid_ns, pid2,"
             " start2, label FROM locks WHERE name = ?1",
    [FENCE] = "UPDATE meta SET last = max(?1, max(last, ?2) + 1) WHERE id = 1"
              " AND (max(last, ?2) + 1) & 1125899906842623 <> 0 RETURNING last",
    [TAKE] =
        "INSERT OR REPLACE INTO locks VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12,"
        " ?13)",
    [FREE] = "DELETE FROM locks WHERE name = ?1 AND owner = ?2",
    [NEXT] =
        "SELECT since_ns, socket FROM waiters WHERE name = ?1 ORDER BY since_ns, socket LIMIT 4",
};

struct bare {
    sqlite3 *db;
    sqlite3_stmt *statements[STATEMENTS];
    struct stat file;
    uint64_t chance;
    int64_t late_ns; /* how late the last pause ended */
};

static void bare_die(const struct bare *b, const char *what)
{
    bench_die(what, sqlite3_errmsg(b->db));
}

static void bare_open(struct bare *b)
{
    b->chance = (uint64_t)bench_now() ^ (uint64_t)getpid() << 32;
    if (sqlite3_open_v2(path, &b->db,
                        SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_PRIVATECACHE,
                        NULL) != SQLITE_OK)
        bare_die(b, path);
    if (sqlite3_exec(b->db,
                     "PRAGMA synchronous = OFF; PRAGMA temp_store = MEMORY; PRAGMA mmap_size = 0;"
                     "PRAGMA journal_mode = PERSIST",
                     NULL, NULL, NULL) != SQLITE_OK)
        bare_die(b, "pragma");
    for (int i = 0; i < STATEMENTS; i++)
        if (sqlite3_prepare_v3(b->db, texts[i], -1, SQLITE_PREPARE_PERSISTENT, &b->statements[i],
                               NULL) != SQLITE_OK)
            bare_die(b, texts[i]);
    if (stat(path, &b->file) != 0) bench_die(path, "is not there");
}

static void bare_close(struct bare *b)
{
    for (int i = 0; i < STATEMENTS; i++) sqlite3_finalize(b->statements[i]);
    sqlite3_close(b->db);
}

static void bare_pause(struct bare *b, int tries)
{
    int64_t late = b->late_ns < 15000000 ? b->late_ns : 15000000;
    int64_t least = tries == 0 ? 50000 : 200000;
    int64_t range = tries == 0 ? 350000 : 7800000 + 4 * late;
    b->chance ^= b->chance << 13;
    b->chance ^= b->chance >> 7;
    b->chance ^= b->chance << 17;
    int64_t due = bench_now() + least + (int64_t)(b->chance % (uint64_t)range);
    bench_sleep(due - bench_now());
    b->late_ns = bench_now() - due;
}

/* The statement's first row stays readable until the next run of it. */
static int bare_run(struct bare *b, int which)
{
    sqlite3_stmt *s = b->statements[which];
    int rc = sqlite3_step(s);
    if (rc == SQLITE_ROW || rc == SQLITE_DONE || rc == SQLITE_BUSY) return rc;
    bare_die(b, texts[which]);
    return rc;
}

static void bare_begin(struct bare *b)
{
    struct stat now;
    for (int tries = 0;; tries++) {
        int rc = bare_run(b, BEGIN);
        sqlite3_reset(b->statements[BEGIN]);
        if (rc == SQLITE_DONE) break;
        bare_pause(b, tries);
    }
    if (lstat(path, &now) != 0 || now.st_dev != b->file.st_dev || now.st_ino != b->file.st_ino)
        bench_die(path, "was moved");
}

static void bare_commit(struct bare *b)
{
    bare_run(b, COMMIT);
    sqlite3_reset(b->statements[COMMIT]);
}

static const char owner[] = "0123456789abcdef0123456789abcdef";

static void bare_acquire(struct bare *b, const char *name)
{
    static const unsigned char boot[16] = { 0xb0, 0x07 };
    struct timespec now, wall;
    int length = (int)strlen(name);
    sqlite3_stmt *look = b->statements[LOOK], *fence = b->statements[FENCE];
    sqlite3_stmt *take = b->statements[TAKE];
    clock_gettime(CLOCK_BOOTTIME, &now);
    clock_gettime(CLOCK_REALTIME, &wall);
    int64_t taken = (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
    int64_t ticks = ((int64_t)wall.tv_sec * 1000000 + wall.tv_nsec / 1000) / 16;

    bare_begin(b);
    sqlite3_bind_blob(look, 1, name, length, SQLITE_STATIC);
    if (bare_run(b, LOOK) != SQLITE_DONE) bench_die(name, "is held");
    sqlite3_reset(look);
    sqlite3_bind_int64(fence, 1, ticks);
    sqlite3_bind_int64(fence, 2, 0);
    if (bare_run(b, FENCE) != SQLITE_ROW) bare_die(b, "fence");
    int64_t token = sqlite3_column_int64(fence, 0);
    while (bare_run(b, FENCE) == SQLITE_ROW) continue;
    sqlite3_reset(fence);
    sqlite3_bind_blob(take, 1, name, length, SQLITE_STATIC);
    sqlite3_bind_text(take, 2, owner, 32, SQLITE_STATIC);
    sqlite3_bind_int64(take, 3, token);
    sqlite3_bind_int64(take, 4, taken + 10000000000);
    sqlite3_bind_int64(take, 5, taken);
    sqlite3_bind_int64(take, 6, 0);
    sqlite3_bind_blob(take, 7, boot, 16, SQLITE_STATIC);
    sqlite3_bind_int64(take, 8, getpid());
    sqlite3_bind_int64(take, 9, 12345);
    sqlite3_bind_int64(take, 10, 4026531836);
    sqlite3_bind_int64(take, 11, 0);
    sqlite3_bind_int64(take, 12, 0);
    sqlite3_bind_text(take, 13, "", 0, SQLITE_STATIC);
    bare_run(b, TAKE);
    sqlite3_reset(take);
    bare_commit(b);
}

static void bare_release(struct bare *b, const char *name)
{
    sqlite3_stmt *gone = b->statements[FREE], *next = b->statements[NEXT];
    int length = (int)strlen(name);
    bare_begin(b);
    sqlite3_bind_blob(gone, 1, name, length, SQLITE_STATIC);
    sqlite3_bind_text(gone, 2, owner, 32, SQLITE_STATIC);
    bare_run(b, FREE);
    sqlite3_reset(gone);
    if (sqlite3_changes(b->db) != 1) bench_die(name, "was not ours");
    sqlite3_bind_blob(next, 1, name, length, SQLITE_STATIC);
    if (bare_run(b, NEXT) != SQLITE_DONE) bench_die(name, "is waited for");
    sqlite3_reset(next);
    bare_commit(b);
}

/* ------------------------------------------------------------------ a process of either kind */

struct stage { /* shared */
    pthread_barrier_t barrier;
    _Atomic int64_t end_ns;
    struct {
        int64_t cycles;
        char apart[56]; /* a cache line each */
    } of[PROCESSES];
};

static struct stage *stage;

static bool over(void)
{
    return bench_now() >= atomic_load_explicit(&stage->end_ns, memory_order_relaxed);
}

static int64_t bare_work(int process)
{
    struct bare b = { 0 };
    char name[32];
    int64_t i = 0;
    bare_open(&b);
    pthread_barrier_wait(&stage->barrier);
    pthread_barrier_wait(&stage->barrier);
    for (; !over(); i++) {
        name_make(name, sizeof name, process, i);
        bare_acquire(&b, name);
        bare_release(&b, name);
    }
    bare_close(&b);
    return i;
}

static int64_t belay_work(int process)
{
    belay *client;
    belay_error err = BELAY_ERROR_INIT;
    char name[32];
    int64_t i = 0;
    bench_need(belay_open(&client, url, NULL, &err), url, err.text);
    bench_need(belay_ready(client, &err), url, err.text);
    pthread_barrier_wait(&stage->barrier);
    pthread_barrier_wait(&stage->barrier);
    for (; !over(); i++) {
        belay_lock *lock;
        name_make(name, sizeof name, process, i);
        bench_need(belay_acquire(client, name, NULL, &lock, &err), name, err.text);
        bench_need(belay_release(lock, &err), name, err.text);
    }
    belay_close(client);
    return i;
}

struct result {
    double rate, share; /* cycles a second in all; the smallest count over the largest */
};

static struct result measure(int64_t (*work)(int process), int processes)
{
    pthread_barrierattr_t shared;
    pid_t pids[PROCESSES];
    pthread_barrierattr_init(&shared);
    pthread_barrierattr_setpshared(&shared, PTHREAD_PROCESS_SHARED);
    pthread_barrier_init(&stage->barrier, &shared, (unsigned)processes + 1);
    fflush(stdout);
    bench_watch_children();
    for (int i = 0; i < processes; i++) {
        pids[i] = fork();
        if (pids[i] < 0) bench_die("fork", "failed");
        if (pids[i] > 0) continue;
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        stage->of[i].cycles = work(i);
        _exit(0);
    }
    int64_t ns = bench_quick() ? 50000000 : processes == 1 ? 400000000 : 1000000000;
    pthread_barrier_wait(&stage->barrier); /* all are open */
    atomic_store(&stage->end_ns, bench_now() + ns);
    pthread_barrier_wait(&stage->barrier);
    int64_t sum = 0, least = INT64_MAX, most = 1;
    for (int i = 0; i < processes; i++) {
        int status;
        if (waitpid(pids[i], &status, 0) != pids[i] || status != 0)
            bench_die("a process", "failed");
        int64_t cycles = stage->of[i].cycles;
        sum += cycles;
        if (cycles < least) least = cycles;
        if (cycles > most) most = cycles;
    }
    pthread_barrier_destroy(&stage->barrier);
    return (struct result){ .rate = (double)sum * 1e9 / (double)ns,
                            .share = (double)least / (double)most };
}

/* ------------------------------------------------------------------ the report */

struct figures {
    struct bench_pair rate, share;
};

static struct figures figures_of(int processes, size_t rounds)
{
    double ours[ROUNDS_ONE], bare[ROUNDS_ONE], ours_share[ROUNDS_ONE], bare_share[ROUNDS_ONE];
    (void)measure(belay_work, processes);
    (void)measure(bare_work, processes);
    for (size_t i = 0; i < rounds; i++) {
        struct result result = measure(belay_work, processes);
        ours[i] = result.rate;
        ours_share[i] = result.share;
        result = measure(bare_work, processes);
        bare[i] = result.rate;
        bare_share[i] = result.share;
    }
    return (struct figures){ .rate = bench_pair_of(ours, bare, rounds),
                             .share = bench_pair_of(ours_share, bare_share, rounds) };
}

static void directory_measure(const char *directory)
{
    char made[300], what[80];
    snprintf(made, sizeof made, "%s/belay-bench-XXXXXX", directory);
    if (mkdtemp(made) == NULL) bench_die(made, "cannot be made");
    snprintf(path, sizeof path, "%s/locks.db", made);
    snprintf(url, sizeof url, "sqlite://%s", path);
    static const char floor_is[] = "the same SQL, bare statements";

    struct figures one = figures_of(1, bench_quick() ? 2 : ROUNDS_ONE);
    snprintf(what, sizeof what, "acquire+release, 1 process, %s", directory);
    bench_row(&(struct bench_row){ what, "/s", one.rate, floor_is, .ratio_over = 0.8 });

    struct figures many = figures_of(PROCESSES, bench_quick() ? 2 : ROUNDS_MANY);
    snprintf(what, sizeof what, "4 processes, in all, %s", directory);
    bench_row(&(struct bench_row){ what, "/s", many.rate, "4 bare ones, the same retry",
                                   .ratio_over = 0.7 });
    snprintf(what, sizeof what, "  smallest share / largest, %s", directory);
    bench_row(&(struct bench_row){ what, "", many.share, "the same", .belay_over = 1.0 / 3 });
    bench_remove(made);
}

int main(int argc, char **argv)
{
    int next = bench_begin("sqlite", argc, argv);
    const char *directory = getenv("TMPDIR");
    struct stat first, second;
    if (directory == NULL || directory[0] == '\0') directory = "/tmp";
    bench_fact("sqlite", "%s", sqlite3_libversion());
    stage = mmap(NULL, sizeof *stage, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (stage == MAP_FAILED) bench_die("mmap", "no memory");
    if (next < argc) {
        for (; next < argc; next++) directory_measure(argv[next]);
        return bench_end();
    }
    directory_measure(directory);
    if (stat(directory, &first) == 0 && stat("/dev/shm", &second) == 0 &&
        first.st_dev != second.st_dev)
        directory_measure("/dev/shm");
    return bench_end();
}
