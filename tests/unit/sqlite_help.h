/* sqlite_help.h - for the sqlite tests: a folder of one's own, raw SQL beside belay, processes to
 * kill. */
#ifndef BELAY_TESTS_UNIT_SQLITE_HELP_H
#define BELAY_TESTS_UNIT_SQLITE_HELP_H

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <belay/belay.h>
#include <cmocka.h>

struct room {
    char dir[64], path[96], url[112];
};

static inline void room_make(struct room *room)
{
    snprintf(room->dir, sizeof room->dir, "/tmp/belay-sqlite-XXXXXX");
    assert_non_null(mkdtemp(room->dir));
    snprintf(room->path, sizeof room->path, "%s/locks.db", room->dir);
    snprintf(room->url, sizeof room->url, "sqlite://%s", room->path);
}

static inline int room_count(const struct room *room, const char *end)
{
    int count = 0;
    DIR *dir = opendir(room->dir);
    struct dirent *entry;
    assert_non_null(dir);
    while ((entry = readdir(dir)) != NULL) {
        size_t length = strlen(entry->d_name), tail = strlen(end);
        if (entry->d_name[0] != '.' && length >= tail &&
            strcmp(entry->d_name + length - tail, end) == 0)
            count++;
    }
    closedir(dir);
    return count;
}

static inline void room_remove(struct room *room)
{
    DIR *dir = opendir(room->dir);
    struct dirent *entry;
    while (dir != NULL && (entry = readdir(dir)) != NULL)
        if (entry->d_name[0] != '.') unlinkat(dirfd(dir), entry->d_name, 0);
    if (dir != NULL) closedir(dir);
    rmdir(room->dir);
}

/* ------------------------------------------------------------------ raw SQL */

static inline sqlite3 *sql_open(const char *path)
{
    sqlite3 *db = NULL;
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    sqlite3_busy_timeout(db, 5000);
    return db;
}

static inline void sql_run(const char *path, const char *sql)
{
    sqlite3 *db = sql_open(path);
    char *error = NULL;
    int rc = sqlite3_exec(db, sql, NULL, NULL, &error);
    if (rc != SQLITE_OK) print_error("%s: %s\n", sql, error);
    sqlite3_free(error);
    sqlite3_close(db);
    assert_int_equal(rc, SQLITE_OK);
}

static inline int64_t sql_number(const char *path, const char *sql)
{
    sqlite3 *db = sql_open(path);
    sqlite3_stmt *statement = NULL;
    int64_t number = -1;
    if (sqlite3_prepare_v2(db, sql, -1, &statement, NULL) == SQLITE_OK &&
        sqlite3_step(statement) == SQLITE_ROW)
        number = sqlite3_column_int64(statement, 0);
    sqlite3_finalize(statement);
    sqlite3_close(db);
    return number;
}

static inline bool sql_sound(const char *path)
{
    return sql_number(path, "SELECT count(*) FROM pragma_integrity_check"
                            " WHERE integrity_check = 'ok'") == 1;
}

/* ------------------------------------------------------------------ belay */

static inline int64_t now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_BOOTTIME, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static inline belay *client_open(const char *url)
{
    belay *client = NULL;
    belay_error err = BELAY_ERROR_INIT;
    belay_status status = belay_open(&client, url, NULL, &err);
    if (status != BELAY_OK) print_error("%s: %s\n", err.node, err.text);
    assert_int_equal(status, BELAY_OK);
    return client;
}

/* `wait_ms` may be BELAY_TRY. Never kept: no thread is started, so that a test may fork. */
static inline belay_status take(belay *client, const char *name, int64_t wait_ms, uint32_t ttl_ms,
                                belay_lock **lock, belay_error *err)
{
    belay_options options = BELAY_OPTIONS_INIT;
    options.wait_ms = wait_ms;
    options.ttl_ms = ttl_ms;
    options.keep = BELAY_KEEP_OFF;
    return belay_acquire(client, name, &options, lock, err);
}

static inline belay_lock *must_take(belay *client, const char *name, int64_t wait_ms)
{
    belay_lock *lock = NULL;
    belay_error err = BELAY_ERROR_INIT;
    belay_status status = take(client, name, wait_ms, 60000, &lock, &err);
    if (status != BELAY_OK)
        print_error("%s: %s %s: %s\n", name, belay_status_name(status), err.node, err.text);
    assert_int_equal(status, BELAY_OK);
    return lock;
}

static inline void must_release(belay_lock *lock)
{
    belay_error err = BELAY_ERROR_INIT;
    belay_status status = belay_release(lock, &err);
    if (status != BELAY_OK) print_error("release: %s %s\n", belay_status_name(status), err.text);
    assert_int_equal(status, BELAY_OK);
}

/* What opening says: the status, its text and node in err. */
static inline belay_status open_says(const char *url, belay_error *err)
{
    belay *client = NULL;
    *err = (belay_error)BELAY_ERROR_INIT;
    belay_status status = belay_open(&client, url, NULL, err);
    belay_close(client);
    return status;
}

/* ------------------------------------------------------------------ other processes */

/* A child: it writes a byte when it is ready, reads one when it may go on. */
struct child {
    pid_t pid;
    int from, to; /* as the parent sees them */
};

static inline void child_ready(int to)
{
    if (write(to, "r", 1) != 1) _exit(90);
}

static inline void child_wait(int from)
{
    char byte;
    if (read(from, &byte, 1) < 0) _exit(91);
}

static inline struct child child_start(void (*body)(void *arg, int from, int to), void *arg)
{
    int up[2], down[2];
    assert_int_equal(pipe2(up, O_CLOEXEC), 0);
    assert_int_equal(pipe2(down, O_CLOEXEC), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        close(up[0]);
        close(down[1]);
        body(arg, down[0], up[1]);
        _exit(0);
    }
    close(up[1]);
    close(down[0]);
    return (struct child){ pid, up[0], down[1] };
}

/* Waits until the child wrote a byte; false when it ended or twenty seconds have passed. */
static inline bool child_said(const struct child *child)
{
    struct pollfd p = { .fd = child->from, .events = POLLIN };
    char byte;
    int n;
    do n = poll(&p, 1, 20000);
    while (n < 0 && errno == EINTR);
    return n == 1 && read(child->from, &byte, 1) == 1;
}

static inline void child_go(const struct child *child)
{
    assert_int_equal(write(child->to, "g", 1), 1);
}

/* Its exit status, or 128 and the signal. */
static inline int child_end(struct child *child, int signal)
{
    int status = 0;
    if (signal != 0) kill(child->pid, signal);
    while (waitpid(child->pid, &status, 0) < 0 && errno == EINTR) continue;
    close(child->from);
    close(child->to);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* For children, which must not assert. */
static inline belay *child_open(const char *url)
{
    belay *client = NULL;
    belay_error err = BELAY_ERROR_INIT;
    if (belay_open(&client, url, NULL, &err) == BELAY_OK) return client;
    fprintf(stderr, "child: %s: %s: %s\n", belay_status_name(err.status), err.node, err.text);
    _exit(92);
}

static inline belay_lock *child_take(belay *client, const char *name, int64_t wait_ms)
{
    belay_lock *lock = NULL;
    if (take(client, name, wait_ms, 60000, &lock, NULL) != BELAY_OK) _exit(93);
    return lock;
}

/* Takes "lock" of the url in `arg`, says so, and holds it until it is told to go on. */
static inline void child_holds(void *arg, int from, int to)
{
    belay *client = child_open(arg);
    belay_lock *lock = child_take(client, "lock", BELAY_TRY);
    child_ready(to);
    child_wait(from);
    if (belay_release(lock, NULL) != BELAY_OK) _exit(94);
    belay_close(client);
}

#endif
