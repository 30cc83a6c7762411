/* sqlite_wake_test.c - waiters in other processes: their rows, their sockets, and who is told. */
#define _GNU_SOURCE
#include "tests/unit/sqlite_help.h"

#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>

static struct room room;

static int setup(void **state)
{
    (void)state;
    room_make(&room);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    room_remove(&room);
    return 0;
}

/* Much less than core's timer (5 s) and the holder's TTL (60 s): only a wake-up is so quick. */
#define AT_ONCE_MS 2500

static int64_t waiters(void)
{
    return sql_number(room.path, "SELECT count(*) FROM waiters");
}

static void until_waiters(int64_t count)
{
    for (int64_t end = now_ms() + 20000; now_ms() < end && waiters() != count;) usleep(500);
    assert_int_equal(waiters(), count);
}

/* Waits for "lock", says so when it has it, and releases when it is told to. */
static void child_queues(void *arg, int from, int to)
{
    belay *client = child_open(arg);
    belay_lock *lock = child_take(client, "lock", 60000);
    child_ready(to);
    child_wait(from);
    if (belay_release(lock, NULL) != BELAY_OK) _exit(94);
    belay_close(client);
}

/* Has it for a moment only. */
static void child_passes(void *arg, int from, int to)
{
    belay *client = child_open(arg);
    (void)from;
    belay_lock *lock = child_take(client, "lock", 60000);
    if (belay_release(lock, NULL) != BELAY_OK) _exit(94);
    child_ready(to);
    belay_close(client);
}

/* Queues with a wait that ends before the lock is free. */
static void child_leaves(void *arg, int from, int to)
{
    belay *client = child_open(arg);
    belay_lock *lock = NULL;
    (void)from;
    if (take(client, "lock", 100, 60000, &lock, NULL) != BELAY_HELD) _exit(80);
    child_ready(to);
    child_wait(from);
    belay_close(client);
}

static void a_release_wakes_the_oldest_waiter_of_another_process(void **state)
{
    (void)state;
    belay *client = client_open(room.url);
    belay_lock *lock = must_take(client, "lock", BELAY_TRY);
    struct child first = child_start(child_queues, room.url);
    until_waiters(1);
    struct child second = child_start(child_queues, room.url);
    until_waiters(2);
    int64_t start = now_ms();
    must_release(lock);
    assert_true(child_said(&first));
    assert_true(now_ms() - start < AT_ONCE_MS);
    assert_int_equal(waiters(), 1);
    start = now_ms();
    child_go(&first);
    assert_true(child_said(&second));
    assert_true(now_ms() - start < AT_ONCE_MS);
    child_go(&second);
    assert_int_equal(child_end(&first, 0), 0);
    assert_int_equal(child_end(&second, 0), 0);
    assert_int_equal(waiters(), 0);
    assert_int_equal(room_count(&room, ".sock"), 0);
    belay_close(client);
}

/* Ctrl-Z: its first turn goes by, and after that the others' turns are theirs. */
static void a_stopped_waiter_swallows_one_wake_up_at_most(void **state)
{
    (void)state;
    belay *client = client_open(room.url);
    belay_lock *lock = must_take(client, "lock", BELAY_TRY);
    struct child stopped = child_start(child_queues, room.url);
    until_waiters(1);
    assert_int_equal(kill(stopped.pid, SIGSTOP), 0);
    struct child other = child_start(child_queues, room.url);
    until_waiters(2);
    must_release(lock); /* the stopped one is told */
    lock = must_take(client, "lock", BELAY_TRY);
    int64_t start = now_ms();
    must_release(lock);
    assert_true(child_said(&other));
    assert_true(now_ms() - start < AT_ONCE_MS);
    assert_int_equal(kill(stopped.pid, SIGCONT), 0); /* refused, it stands where it stood */
    until_waiters(1);
    child_go(&other);
    assert_true(child_said(&stopped));
    child_go(&stopped);
    assert_int_equal(child_end(&other, 0), 0);
    assert_int_equal(child_end(&stopped, 0), 0);
    assert_int_equal(waiters(), 0);
    belay_close(client);
}

static void twenty_processes_pass_a_lock_on_without_a_timer(void **state)
{
    struct child children[20];
    (void)state;
    belay *client = client_open(room.url);
    belay_lock *lock = must_take(client, "lock", BELAY_TRY);
    for (size_t i = 0; i < 20; i++) children[i] = child_start(child_passes, room.url);
    until_waiters(20);
    int64_t start = now_ms();
    must_release(lock);
    for (size_t i = 0; i < 20; i++) assert_true(child_said(&children[i]));
    assert_true(now_ms() - start < 2 * AT_ONCE_MS);
    for (size_t i = 0; i < 20; i++) assert_int_equal(child_end(&children[i], 0), 0);
    assert_int_equal(waiters(), 0);
    belay_close(client);
}

static void a_broken_lock_wakes_the_next(void **state)
{
    belay_info info = { .size = sizeof info };
    (void)state;
    belay *client = client_open(room.url);
    belay_lock *lock = must_take(client, "lock", BELAY_TRY);
    struct child child = child_start(child_queues, room.url);
    until_waiters(1);
    assert_int_equal(belay_inspect(client, "lock", &info, NULL), BELAY_OK);
    assert_true(info.held);
    assert_int_equal(info.waiters, 1);
    assert_int_equal(info.pid, getpid());
    int64_t start = now_ms();
    assert_int_equal(belay_break(client, "lock", &info, NULL), BELAY_OK);
    assert_true(child_said(&child));
    assert_true(now_ms() - start < AT_ONCE_MS);
    assert_int_equal(belay_release(lock, NULL), BELAY_LOST);
    child_go(&child);
    assert_int_equal(child_end(&child, 0), 0);
    belay_close(client);
}

static void a_killed_waiter_is_passed_over_and_leaves_nothing(void **state)
{
    struct child dead[6];
    (void)state;
    belay *client = client_open(room.url);
    belay_lock *lock = must_take(client, "lock", BELAY_TRY);
    for (int i = 0; i < 6; i++) {
        dead[i] = child_start(child_queues, room.url);
        until_waiters(i + 1);
    }
    struct child alive = child_start(child_queues, room.url);
    until_waiters(7);
    for (size_t i = 0; i < 6; i++) child_end(&dead[i], SIGKILL);
    assert_int_equal(room_count(&room, ".sock"), 7);
    int64_t start = now_ms();
    must_release(lock);
    assert_true(child_said(&alive));
    assert_true(now_ms() - start < AT_ONCE_MS);
    child_go(&alive);
    assert_int_equal(child_end(&alive, 0), 0);
    assert_int_equal(waiters(), 0);
    assert_int_equal(room_count(&room, ".sock"), 0);
    belay_close(client);
}

static void a_wait_that_ended_leaves_no_row(void **state)
{
    (void)state;
    belay *client = client_open(room.url);
    belay_lock *lock = must_take(client, "lock", BELAY_TRY);
    struct child child = child_start(child_leaves, room.url);
    assert_true(child_said(&child));
    child_go(&child);
    assert_int_equal(child_end(&child, 0), 0);
    assert_int_equal(waiters(), 0);
    assert_int_equal(room_count(&room, ".sock"), 0);
    must_release(lock);
    belay_close(client);
}

/* The datagram came to a process that does not wait for that lock any more: the next is told. */
static void a_stray_wake_up_is_passed_on(void **state)
{
    char socket_name[64] = "", sql[256];
    (void)state;
    belay *client = client_open(room.url);
    belay_lock *lock = must_take(client, "lock", BELAY_TRY);
    struct child first = child_start(child_queues, room.url);
    until_waiters(1);
    sqlite3 *db = sql_open(room.path);
    sqlite3_stmt *statement = NULL;
    assert_int_equal(sqlite3_prepare_v2(db, "SELECT socket FROM waiters", -1, &statement, NULL),
                     SQLITE_OK);
    assert_int_equal(sqlite3_step(statement), SQLITE_ROW);
    snprintf(socket_name, sizeof socket_name, "%s",
             (const char *)sqlite3_column_text(statement, 0));
    sqlite3_finalize(statement);
    sqlite3_close(db);
    /* A row of the first process that it knows nothing of, older than all. */
    snprintf(sql, sizeof sql, "INSERT INTO waiters SELECT name, 1, '%s' FROM waiters", socket_name);
    sql_run(room.path, sql);
    int64_t start = now_ms();
    must_release(lock);
    assert_true(child_said(&first));
    assert_true(now_ms() - start < AT_ONCE_MS);
    child_go(&first);
    assert_int_equal(child_end(&first, 0), 0);
    belay_close(client);
}

static void noise_on_the_socket_harms_nobody(void **state)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    char noise[256];
    DIR *dir;
    struct dirent *entry;
    (void)state;
    belay *client = client_open(room.url);
    belay_lock *lock = must_take(client, "lock", BELAY_TRY);
    struct child child = child_start(child_queues, room.url);
    until_waiters(1);
    dir = opendir(room.dir);
    assert_non_null(dir);
    while ((entry = readdir(dir)) != NULL)
        if (strstr(entry->d_name, ".sock") != NULL)
            snprintf(address.sun_path, sizeof address.sun_path, "%.40s/%.60s", room.dir,
                     entry->d_name);
    closedir(dir);
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    memset(noise, 0x55, sizeof noise);
    noise[1] = 'w';
    noise[2] = 'k';
    noise[3] = '1';
    for (size_t length = 0; length <= sizeof noise; length += 16) {
        noise[0] = length % 32 == 0 ? 'b' : 'x'; /* "bwk1" is how a real one begins */
        assert_int_equal(sendto(fd, noise, length, 0, (struct sockaddr *)&address, sizeof address),
                         (ssize_t)length);
    }
    close(fd);
    must_release(lock);
    assert_true(child_said(&child));
    child_go(&child);
    assert_int_equal(child_end(&child, 0), 0);
    belay_close(client);
}

static void a_long_path_is_no_hindrance(void **state)
{
    char long_dir[300], url[500], path[400];
    (void)state;
    /* Too long for a socket's address: it goes through a descriptor of the directory. */
    snprintf(long_dir, sizeof long_dir, "%s/%0120d", room.dir, 0);
    assert_int_equal(mkdir(long_dir, 0700), 0);
    snprintf(path, sizeof path, "%s/locks.db", long_dir);
    snprintf(url, sizeof url, "sqlite://%s", path);
    belay *client = client_open(url);
    belay_lock *lock = must_take(client, "lock", BELAY_TRY);
    struct child child = child_start(child_queues, url);
    for (int64_t end = now_ms() + 20000;
         now_ms() < end && sql_number(path, "SELECT count(*) FROM waiters") != 1;)
        usleep(500);
    int64_t start = now_ms();
    must_release(lock);
    assert_true(child_said(&child));
    assert_true(now_ms() - start < AT_ONCE_MS);
    child_go(&child);
    assert_int_equal(child_end(&child, 0), 0);
    belay_close(client);
    unlink(path);
    strcat(path, "-journal");
    unlink(path);
    assert_int_equal(rmdir(long_dir), 0);
}

static void idle_waiters_cost_nothing(void **state)
{
    enum { COUNT = 20 };
    struct child children[COUNT];
    struct timespec pause = { 1, 0 };
    (void)state;
    belay *client = client_open(room.url);
    belay_lock *lock = must_take(client, "lock", BELAY_TRY);
    for (size_t i = 0; i < COUNT; i++) children[i] = child_start(child_queues, room.url);
    until_waiters(COUNT);
    long before = 0, after = 0;
    for (int round = 0; round < 2; round++) {
        for (size_t i = 0; i < COUNT; i++) {
            char path[64], text[512];
            unsigned long user = 0, kernel = 0;
            snprintf(path, sizeof path, "/proc/%d/stat", (int)children[i].pid);
            int fd = open(path, O_RDONLY);
            assert_true(fd >= 0);
            ssize_t n = read(fd, text, sizeof text - 1);
            close(fd);
            assert_true(n > 0);
            text[n] = '\0';
            assert_int_equal(sscanf(strrchr(text, ')') + 1,
                                    " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user,
                                    &kernel),
                             2);
            *(round == 0 ? &before : &after) += (long)(user + kernel);
        }
        if (round == 0) nanosleep(&pause, NULL); /* the time that is measured */
    }
    /* Ticks of 10 ms: 1 % of a core for a hundred would be a fifth of a tick for twenty. */
    assert_true(after - before <= 1);
    for (size_t i = 0; i < COUNT; i++) child_end(&children[i], SIGKILL);
    must_release(lock);
    belay_close(client);
}

/* Marks what is open; returns how many are open that were not marked. */
static int descriptors(bool *marked, bool mark)
{
    DIR *dir = opendir("/proc/self/fd");
    struct dirent *entry;
    int count = 0;
    assert_non_null(dir);
    while ((entry = readdir(dir)) != NULL) {
        int fd = atoi(entry->d_name);
        if (entry->d_name[0] == '.' || fd == dirfd(dir) || fd > 255) continue;
        if (mark) {
            marked[fd] = true;
        } else if (!marked[fd]) {
            count++;
            assert_true(fd > 2);
            assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
        }
    }
    closedir(dir);
    return count;
}

/* FAULTS 46: the database, the sockets, the holder's pidfd. */
static void a_client_s_descriptors_end_with_it_and_are_closed_on_exec(void **state)
{
    bool marked[256] = { false };
    belay_lock *lock = NULL;
    (void)state;
    struct child holder = child_start(child_holds, room.url);
    assert_true(child_said(&holder));
    descriptors(marked, true);
    belay *client = client_open(room.url);
    assert_int_equal(take(client, "lock", 20, 60000, &lock, NULL), BELAY_HELD);
    assert_true(descriptors(marked, false) >= 2);
    belay_close(client);
    assert_int_equal(descriptors(marked, false), 0);
    child_go(&holder);
    assert_int_equal(child_end(&holder, 0), 0);
}

int main(int argc, char **argv)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(a_release_wakes_the_oldest_waiter_of_another_process),
        T(a_stopped_waiter_swallows_one_wake_up_at_most),
        T(twenty_processes_pass_a_lock_on_without_a_timer),
        T(a_broken_lock_wakes_the_next),
        T(a_killed_waiter_is_passed_over_and_leaves_nothing),
        T(a_wait_that_ended_leaves_no_row),
        T(a_stray_wake_up_is_passed_on),
        T(noise_on_the_socket_harms_nobody),
        T(a_long_path_is_no_hindrance),
        T(idle_waiters_cost_nothing),
        T(a_client_s_descriptors_end_with_it_and_are_closed_on_exec),
    };
    if (argc > 1) cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
