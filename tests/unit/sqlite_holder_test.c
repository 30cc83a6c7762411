/* sqlite_holder_test.c - the dead-holder rule: provably gone is free at once, unknown is alive.
 * FAULTS 43. */
#define _GNU_SOURCE
#include "backends/sqlite.h"
#include "tests/unit/sqlite_help.h"

#include <pthread.h>

static struct room room;
static struct sqlite_self self;

static int setup(void **state)
{
    (void)state;
    room_make(&room);
    belay__sqlite_self_read(&self);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    room_remove(&room);
    return 0;
}

static void child_waits(void *arg, int from, int to)
{
    (void)arg;
    child_ready(to);
    child_wait(from);
}

/* ------------------------------------------------------------------ the rule */

static void we_know_ourselves(void **state)
{
    (void)state;
    assert_int_equal(self.pid, getpid());
    assert_true(self.proc);
    assert_true(self.start > 0);
    assert_true(self.pid_ns > 0);
    assert_int_equal(self.boot_length, 16);
    assert_int_equal(self.shift_ns, 0);
    assert_int_equal(belay__sqlite_start_of(&self, getpid()), self.start);
}

static void a_living_process_is_not_gone(void **state)
{
    (void)state;
    struct child child = child_start(child_waits, NULL);
    assert_true(child_said(&child));
    int64_t start = belay__sqlite_start_of(&self, child.pid);
    assert_true(start >= self.start);
    assert_false(belay__sqlite_process_gone(&self, child.pid, start));
    assert_false(belay__sqlite_process_gone(&self, child.pid, 0));
    assert_int_equal(child_end(&child, SIGKILL), 128 + SIGKILL);
    assert_true(belay__sqlite_process_gone(&self, child.pid, start));
}

static void a_pid_that_is_another_process_now_is_gone(void **state)
{
    (void)state;
    struct child child = child_start(child_waits, NULL);
    assert_true(child_said(&child));
    int64_t start = belay__sqlite_start_of(&self, child.pid);
    assert_true(belay__sqlite_process_gone(&self, child.pid, start - 1));
    assert_true(belay__sqlite_process_gone(&self, getpid(), self.start + 1));
    child_go(&child);
    assert_int_equal(child_end(&child, 0), 0);
}

static void a_zombie_is_gone(void **state)
{
    siginfo_t info;
    (void)state;
    struct child child = child_start(child_waits, NULL);
    assert_true(child_said(&child));
    int64_t start = belay__sqlite_start_of(&self, child.pid);
    kill(child.pid, SIGKILL);
    assert_int_equal(waitid(P_PID, (id_t)child.pid, &info, WEXITED | WNOWAIT), 0);
    assert_int_equal(kill(child.pid, 0), 0);
    assert_true(belay__sqlite_process_gone(&self, child.pid, start));
    child_end(&child, 0);
}

static void *thread_waits(void *arg)
{
    int *fds = arg;
    child_ready(fds[1]);
    child_wait(fds[0]);
    _exit(0);
}

/* The leader is a zombie then, and the process lives on in its other thread. */
static void leader_exits(void *arg, int from, int to)
{
    static int fds[2]; /* the leader's stack goes with it */
    pthread_t thread;
    (void)arg;
    fds[0] = from;
    fds[1] = to;
    if (pthread_create(&thread, NULL, thread_waits, fds) != 0) _exit(80);
    pthread_exit(NULL);
}

static void a_process_whose_leader_has_exited_lives(void **state)
{
    char path[64], text[512] = "";
    (void)state;
    struct child child = child_start(leader_exits, NULL);
    assert_true(child_said(&child));
    snprintf(path, sizeof path, "/proc/%d/stat", (int)child.pid);
    for (int64_t end = now_ms() + 10000; now_ms() < end && strstr(text, ") Z ") == NULL;) {
        int fd = open(path, O_RDONLY);
        assert_true(fd >= 0);
        assert_true(read(fd, text, sizeof text - 1) > 0);
        close(fd);
    }
    assert_non_null(strstr(text, ") Z "));
    int64_t start = belay__sqlite_start_of(&self, child.pid);
    assert_false(belay__sqlite_process_gone(&self, child.pid, start));
    child_go(&child);
    assert_int_equal(child_end(&child, 0), 0);
    assert_true(belay__sqlite_process_gone(&self, child.pid, start));
}

static void what_cannot_be_read_is_alive(void **state)
{
    struct sqlite_self blind = self;
    (void)state;
    struct child child = child_start(child_waits, NULL);
    assert_true(child_said(&child));
    blind.proc = false; /* as under a /proc of another pid namespace */
    assert_false(belay__sqlite_process_gone(&blind, child.pid, 1));
    assert_int_equal(belay__sqlite_start_of(&blind, child.pid), 0);
    child_go(&child);
    assert_int_equal(child_end(&child, 0), 0);
}

static void a_holder_of_another_pid_namespace_is_alive(void **state)
{
    (void)state;
    struct child child = child_start(child_waits, NULL);
    assert_true(child_said(&child));
    struct sqlite_holder holder = { .pid = child.pid, .start = 1, .pid_ns = self.pid_ns };
    assert_true(belay__sqlite_holder_gone(&self, &holder));
    holder.pid_ns++;
    assert_false(belay__sqlite_holder_gone(&self, &holder));
    holder.pid_ns = 0;
    assert_false(belay__sqlite_holder_gone(&self, &holder));
    child_go(&child);
    assert_int_equal(child_end(&child, 0), 0);
}

static void two_holders_are_gone_when_both_are(void **state)
{
    (void)state;
    struct child a = child_start(child_waits, NULL), b = child_start(child_waits, NULL);
    assert_true(child_said(&a) && child_said(&b));
    struct sqlite_holder holder = { a.pid, belay__sqlite_start_of(&self, a.pid), self.pid_ns, b.pid,
                                    belay__sqlite_start_of(&self, b.pid) };
    child_end(&a, SIGKILL);
    assert_false(belay__sqlite_holder_gone(&self, &holder));
    child_end(&b, SIGKILL);
    assert_true(belay__sqlite_holder_gone(&self, &holder));
}

static void a_row_without_a_process_lives_by_its_ttl(void **state)
{
    struct sqlite_holder holder = { .pid = 0, .pid_ns = self.pid_ns };
    (void)state;
    assert_false(belay__sqlite_holder_gone(&self, &holder));
}

/* ------------------------------------------------------------------ locks */

static void a_killed_holder_s_lock_is_free_at_once(void **state)
{
    belay_lock *lock = NULL;
    (void)state;
    struct child child = child_start(child_holds, room.url);
    assert_true(child_said(&child));
    belay *client = client_open(room.url);
    assert_int_equal(take(client, "lock", BELAY_TRY, 60000, &lock, NULL), BELAY_HELD);
    uint64_t token = (uint64_t)sql_number(room.path, "SELECT token FROM locks");
    assert_int_equal(child_end(&child, SIGKILL), 128 + SIGKILL);
    lock = must_take(client, "lock", BELAY_TRY);
    assert_true(belay_lock_token(lock) > token);
    must_release(lock);
    belay_close(client);
}

/* By the holder's pidfd: its TTL is a minute, and core's timer five seconds. */
static void a_waiter_learns_of_the_holder_s_death_at_once(void **state)
{
    (void)state;
    struct child holder = child_start(child_holds, room.url);
    assert_true(child_said(&holder));
    struct child waiter = child_start(child_holds, room.url); /* BELAY_TRY: refused, and ends */
    assert_int_equal(child_end(&waiter, 0), 93);
    int64_t died = 0;
    belay *client = client_open(room.url);
    pid_t killer = fork();
    assert_true(killer >= 0);
    if (killer == 0) {
        /* Kills when our row is in the file. */
        sqlite3 *db = NULL;
        sqlite3_stmt *count = NULL;
        if (sqlite3_open(room.path, &db) != SQLITE_OK) _exit(80);
        sqlite3_busy_timeout(db, 5000);
        if (sqlite3_prepare_v2(db, "SELECT count(*) FROM waiters", -1, &count, NULL) != SQLITE_OK)
            _exit(81);
        for (int64_t end = now_ms() + 20000; now_ms() < end; usleep(500)) {
            bool waits = sqlite3_step(count) == SQLITE_ROW && sqlite3_column_int(count, 0) == 1;
            sqlite3_reset(count);
            if (!waits) continue;
            kill(holder.pid, SIGKILL);
            _exit(0);
        }
        _exit(82);
    }
    died = now_ms();
    belay_lock *lock = must_take(client, "lock", 30000);
    assert_true(now_ms() - died < 2500);
    int status = -1;
    assert_int_equal(waitpid(killer, &status, 0), killer);
    assert_int_equal(status, 0);
    assert_int_equal(child_end(&holder, 0), 128 + SIGKILL);
    assert_int_equal(sql_number(room.path, "SELECT count(*) FROM waiters"), 0);
    must_release(lock);
    belay_close(client);
}

static void detached_holds(void *arg, int from, int to)
{
    belay *client = child_open(arg);
    belay_options options = BELAY_OPTIONS_INIT;
    belay_lock *lock = NULL;
    options.wait_ms = BELAY_TRY;
    options.ttl_ms = 60000;
    options.detached = true;
    options.keep = BELAY_KEEP_OFF;
    if (belay_acquire(client, "lock", &options, &lock, NULL) != BELAY_OK) _exit(80);
    child_ready(to);
    child_wait(from);
}

static void a_detached_lock_outlives_its_process(void **state)
{
    belay_lock *lock = NULL;
    (void)state;
    struct child child = child_start(detached_holds, room.url);
    assert_true(child_said(&child));
    assert_int_equal(child_end(&child, SIGKILL), 128 + SIGKILL);
    belay *client = client_open(room.url);
    assert_int_equal(take(client, "lock", BELAY_TRY, 60000, &lock, NULL), BELAY_HELD);
    assert_int_equal(sql_number(room.path, "SELECT pid FROM locks"), 0);
    belay_close(client);
}

static pid_t second_pid;

static void pair_holds(void *arg, int from, int to)
{
    belay *client = child_open(arg);
    belay_options options = BELAY_OPTIONS_INIT;
    belay_lock *lock = NULL;
    options.wait_ms = BELAY_TRY;
    options.ttl_ms = 60000;
    options.also_pid = second_pid;
    options.keep = BELAY_KEEP_OFF;
    if (belay_acquire(client, "lock", &options, &lock, NULL) != BELAY_OK) _exit(80);
    child_ready(to);
    child_wait(from);
}

static void a_lock_of_two_processes_is_free_when_both_are_gone(void **state)
{
    belay_lock *lock = NULL;
    (void)state;
    struct child second = child_start(child_waits, NULL);
    assert_true(child_said(&second));
    second_pid = second.pid;
    struct child first = child_start(pair_holds, room.url);
    assert_true(child_said(&first));
    belay *client = client_open(room.url);
    child_end(&first, SIGKILL);
    assert_int_equal(take(client, "lock", BELAY_TRY, 60000, &lock, NULL), BELAY_HELD);
    child_end(&second, SIGKILL);
    must_release(must_take(client, "lock", BELAY_TRY));
    belay_close(client);
}

static void another_client_of_this_process_is_a_living_holder(void **state)
{
    belay_lock *lock = NULL;
    (void)state;
    belay *a = client_open(room.url), *b = client_open(room.url);
    belay_lock *held = must_take(a, "lock", BELAY_TRY);
    assert_int_equal(take(b, "lock", 50, 60000, &lock, NULL), BELAY_HELD);
    must_release(held);
    must_release(must_take(b, "lock", BELAY_TRY));
    belay_close(a);
    belay_close(b);
}

int main(int argc, char **argv)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(we_know_ourselves),
        T(a_living_process_is_not_gone),
        T(a_pid_that_is_another_process_now_is_gone),
        T(a_zombie_is_gone),
        T(a_process_whose_leader_has_exited_lives),
        T(what_cannot_be_read_is_alive),
        T(a_holder_of_another_pid_namespace_is_alive),
        T(two_holders_are_gone_when_both_are),
        T(a_row_without_a_process_lives_by_its_ttl),
        T(a_killed_holder_s_lock_is_free_at_once),
        T(a_waiter_learns_of_the_holder_s_death_at_once),
        T(a_detached_lock_outlives_its_process),
        T(a_lock_of_two_processes_is_free_when_both_are_gone),
        T(another_client_of_this_process_is_a_living_holder),
    };
    if (argc > 1) cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
