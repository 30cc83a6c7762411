/* sqlite_fault_test.c - what happens to a file of locks, and the right answer. FAULTS 37, 38, 40 to
 * 42, 48. */
#define _GNU_SOURCE
#include "tests/unit/sqlite_help.h"

#include <sched.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/time.h>

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

/* ------------------------------------------------------------------ moved, replaced, deleted (38)
 */

static void count_loss(void *arg, belay_lock *lock, const belay_error *why)
{
    (void)lock;
    if (strstr(why->text, "replaced or removed") != NULL)
        __atomic_fetch_add((int *)arg, 1, __ATOMIC_SEQ_CST);
}

static void file_goes(int how)
{
    char other[128];
    snprintf(other, sizeof other, "%s/other.db", room.dir);
    if (how == 0) {
        assert_int_equal(unlink(room.path), 0);
    } else if (how == 1) {
        assert_int_equal(rename(room.path, other), 0);
    } else {
        /* Another good file of locks takes its place. */
        char url[160];
        unlink(other);
        snprintf(url, sizeof url, "sqlite://%s", other);
        belay_close(client_open(url));
        assert_int_equal(rename(other, room.path), 0);
    }
}

static void every_lock_is_lost_when_the_file_goes(void **state)
{
    (void)state;
    for (int how = 0; how < 3; how++) {
        belay_options options = BELAY_OPTIONS_INIT;
        int losses = 0;
        belay_lock *used = NULL, *idle = NULL, *next = NULL;
        belay_error err = BELAY_ERROR_INIT;
        options.ttl_ms = 60000;
        options.on_lost = count_loss;
        options.arg = &losses;
        belay *client = client_open(room.url);
        assert_int_equal(belay_acquire(client, "used", &options, &used, NULL), BELAY_OK);
        assert_int_equal(belay_acquire(client, "idle", &options, &idle, NULL), BELAY_OK);
        file_goes(how);
        assert_int_equal(belay_extend(used, 0, &err), BELAY_LOST);
        assert_non_null(strstr(err.text, "replaced or removed"));
        assert_false(belay_lock_valid(used, 0));
        assert_false(belay_lock_valid(idle, 0));
        for (int64_t end = now_ms() + 10000;
             now_ms() < end && __atomic_load_n(&losses, __ATOMIC_SEQ_CST) < 2;)
            usleep(500);
        assert_int_equal(losses, 2);
        assert_int_equal(belay_release(used, NULL), BELAY_LOST);
        /* What stands there now is used. */
        next = must_take(client, "used", BELAY_TRY);
        assert_int_equal(sql_number(room.path, "SELECT count(*) FROM locks"), 1);
        must_release(next);
        assert_int_equal(belay_release(idle, NULL), BELAY_LOST);
        belay_close(client);
    }
}

static void a_release_after_the_file_went_says_lost(void **state)
{
    (void)state;
    belay *client = client_open(room.url);
    belay_lock *lock = must_take(client, "lock", BELAY_TRY);
    file_goes(0);
    assert_int_equal(belay_release(lock, NULL), BELAY_LOST);
    must_release(must_take(client, "lock", BELAY_TRY));
    belay_close(client);
}

static void a_directory_that_goes_is_an_outage_and_heals(void **state)
{
    char away[96];
    belay_error err = BELAY_ERROR_INIT;
    belay_lock *next = NULL;
    (void)state;
    snprintf(away, sizeof away, "%s.away", room.dir);
    belay *client = client_open(room.url);
    belay_lock *lock = must_take(client, "lock", BELAY_TRY);
    assert_int_equal(rename(room.dir, away), 0);
    assert_int_equal(take(client, "next", BELAY_TRY, 60000, &next, &err), BELAY_UNAVAILABLE);
    assert_false(belay_lock_valid(lock, 0));
    assert_int_equal(rename(away, room.dir), 0);
    assert_int_equal(belay_release(lock, NULL), BELAY_LOST);
    must_release(must_take(client, "next", BELAY_TRY));
    belay_close(client);
}

/* The other's rows are in the new file, and the tokens grow across it by the wall clock. */
static void tokens_grow_when_the_file_is_replaced(void **state)
{
    (void)state;
    belay *client = client_open(room.url);
    belay_lock *lock = must_take(client, "lock", BELAY_TRY);
    uint64_t before = belay_lock_token(lock);
    must_release(lock);
    file_goes(0);
    lock = must_take(client, "lock", BELAY_TRY);
    assert_true(belay_lock_token(lock) > before);
    must_release(lock);
    belay_close(client);
}

/* ------------------------------------------------------------------ another boot (42) */

static void rows_of_another_boot_are_free_and_tokens_grow(void **state)
{
    belay_lock *lock = NULL;
    (void)state;
    struct child child = child_start(child_holds, room.url);
    assert_true(child_said(&child));
    belay *client = client_open(room.url);
    assert_int_equal(take(client, "lock", BELAY_TRY, 60000, &lock, NULL), BELAY_HELD);
    sql_run(room.path, "UPDATE locks SET boot = x'00112233445566778899aabbccddeeff'");
    uint64_t before = (uint64_t)sql_number(room.path, "SELECT last FROM meta");
    lock = must_take(client, "lock", BELAY_TRY);
    assert_true(belay_lock_token(lock) > before);
    must_release(lock);
    belay_close(client);
    child_end(&child, SIGKILL);
}

static void an_extension_of_another_boot_s_lock_is_lost(void **state)
{
    (void)state;
    belay *client = client_open(room.url);
    belay_lock *lock = must_take(client, "lock", BELAY_TRY);
    sql_run(room.path, "UPDATE locks SET boot = x'00112233445566778899aabbccddeeff'");
    assert_int_equal(belay_extend(lock, 0, NULL), BELAY_LOST);
    (void)belay_release(lock, NULL);
    belay_close(client);
}

/* As a reboot leaves it: rows, waiters and the mark of the boot. */
static void leave_as_another_boot(int64_t last)
{
    char sql[512];
    belay_close(client_open(room.url));
    snprintf(sql, sizeof sql,
             "PRAGMA user_version = 77; UPDATE meta SET last = %lld, boot = "
             "x'00112233445566778899aabbccddeeff';"
             "INSERT INTO locks VALUES(CAST('belay:lock' AS BLOB), 'owner', 5, "
             "9223372036854775807, 1, 0,"
             " x'00112233445566778899aabbccddeeff', 1, 1, 1, 0, 0, '');"
             "INSERT INTO waiters VALUES(CAST('belay:lock' AS BLOB), 1, 'w1-00000000.sock')",
             (long long)last);
    sql_run(room.path, sql);
}

static void the_first_opening_in_a_boot_empties_the_file(void **state)
{
    int64_t last = INT64_C(1) << 49;
    (void)state;
    leave_as_another_boot(last);
    belay *client = client_open(room.url);
    assert_int_equal(sql_number(room.path, "SELECT count(*) FROM locks"), 0);
    assert_int_equal(sql_number(room.path, "SELECT count(*) FROM waiters"), 0);
    assert_true(sql_number(room.path, "PRAGMA user_version") != 77);
    belay_lock *lock = must_take(client, "lock", BELAY_TRY);
    assert_int_equal(belay_lock_token(lock), last + 1);
    must_release(lock);
    belay_close(client);
}

static void overwrite(const char *path, off_t from, off_t to, int byte)
{
    int fd = open(path, O_WRONLY);
    assert_true(fd >= 0);
    for (off_t at = from; at < to; at++) assert_int_equal(pwrite(fd, &byte, 1, at), 1);
    close(fd);
}

static off_t size_of(const char *path)
{
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    return st.st_size;
}

/* A power cut leaves such files. Nobody has to repair them: what was in them is worthless. */
static void damage_of_another_boot_is_emptied_in_place(void **state)
{
    (void)state;
    for (int how = 0; how < 7; how++) {
        char journal[128];
        struct stat before, after;
        leave_as_another_boot(1000);
        assert_int_equal(stat(room.path, &before), 0);
        snprintf(journal, sizeof journal, "%s-journal", room.path);
        switch (how) {
        case 0: overwrite(room.path, 4096, before.st_size, 0xA5); break; /* noise in every page */
        case 1: overwrite(room.path, 4096, before.st_size, 0); break;
        case 2: assert_int_equal(truncate(room.path, 8192), 0); break; /* cut */
        case 3: assert_int_equal(truncate(room.path, 5000), 0); break;
        case 4: overwrite(room.path, 100, 4096, 0xFF); break; /* the schema */
        case 5:                                               /* a journal that is half there */
            close(open(journal, O_WRONLY | O_CREAT, 0600));
            overwrite(journal, 0, 9000, 0x3C);
            overwrite(room.path, 12288, 16384, 0x11);
            break;
        default: /* a row that points nowhere */ overwrite(room.path, 8192, 8192 + 64, 0x0D); break;
        }
        belay *client = client_open(room.url);
        must_release(must_take(client, "lock", BELAY_TRY));
        must_release(must_take(client, "another", BELAY_TRY));
        belay_close(client);
        assert_true(sql_sound(room.path));
        assert_int_equal(stat(room.path, &after), 0);
        assert_int_equal(before.st_ino, after.st_ino);
        unlink(room.path);
        unlink(journal);
    }
}

static void opens_and_takes(void *arg, int from, int to)
{
    char name[32];
    child_ready(to);
    child_wait(from);
    belay *client = child_open(arg);
    snprintf(name, sizeof name, "own-%d", (int)getpid());
    belay_lock *own = child_take(client, name, 20000);
    belay_lock *lock = child_take(client, "lock", 20000);
    if (belay_extend(own, 0, NULL) != BELAY_OK) _exit(80); /* emptied twice, it would be lost */
    if (belay_release(lock, NULL) != BELAY_OK) _exit(81);
    if (belay_release(own, NULL) != BELAY_OK) _exit(82);
    belay_close(client);
}

static void together(int count)
{
    struct child children[16];
    for (int i = 0; i < count; i++) children[i] = child_start(opens_and_takes, room.url);
    for (int i = 0; i < count; i++) assert_true(child_said(&children[i]));
    for (int i = 0; i < count; i++) child_go(&children[i]);
    for (int i = 0; i < count; i++) assert_int_equal(child_end(&children[i], 0), 0);
    assert_int_equal(sql_number(room.path, "SELECT count(*) FROM locks"), 0);
}

static void sixteen_first_openers_all_succeed(void **state)
{
    (void)state;
    together(16);
    assert_int_equal(room_count(&room, ""), 2);
}

static void sits_in_the_file(void *arg, int from, int to)
{
    sqlite3 *db = NULL;
    (void)arg;
    if (sqlite3_open(room.path, &db) != SQLITE_OK) _exit(80);
    if (sqlite3_exec(db, "BEGIN EXCLUSIVE", NULL, NULL, NULL) != SQLITE_OK) _exit(81);
    child_ready(to);
    child_wait(from);
}

static void opens_early(void *arg, int from, int to)
{
    char name[32];
    belay *client =
        child_open(arg); /* it has seen that the file is another boot's, and has no turn */
    snprintf(name, sizeof name, "own-%d", (int)getpid());
    child_ready(to);
    child_wait(from);
    belay_lock *own = child_take(client, name, 20000);
    child_ready(to);
    child_wait(from);
    if (belay_extend(own, 0, NULL) != BELAY_OK) _exit(80);
    if (belay_release(own, NULL) != BELAY_OK) _exit(81);
    belay_close(client);
}

/* All have found it to be of another boot before the first of them gets in: one empties it, or the
 * locks of those that were quicker would be gone. */
static void of_many_first_openers_in_a_boot_one_empties_the_file(void **state)
{
    enum { COUNT = 8 };
    (void)state;
    for (int damaged = 0; damaged < 2; damaged++) {
        struct child children[COUNT];
        leave_as_another_boot(1000);
        if (damaged) overwrite(room.path, 4096, size_of(room.path), 0xA5);
        struct child sitter = child_start(sits_in_the_file, NULL);
        assert_true(child_said(&sitter));
        for (int i = 0; i < COUNT; i++) children[i] = child_start(opens_early, room.url);
        for (int i = 0; i < COUNT; i++) assert_true(child_said(&children[i]));
        child_go(&sitter);
        assert_int_equal(child_end(&sitter, 0), 0);
        for (int i = 0; i < COUNT; i++) child_go(&children[i]);
        for (int i = 0; i < COUNT; i++) assert_true(child_said(&children[i]));
        for (int i = 0; i < COUNT; i++) child_go(&children[i]);
        for (int i = 0; i < COUNT; i++) assert_int_equal(child_end(&children[i], 0), 0);
        assert_true(sql_sound(room.path));
    }
}

static void a_holder_of_another_time_namespace_is_refused(void **state)
{
    belay_lock *lock = NULL;
    belay_error err = BELAY_ERROR_INIT;
    (void)state;
    struct child child = child_start(child_holds, room.url);
    assert_true(child_said(&child));
    belay *client = client_open(room.url);
    sql_run(room.path,
            "UPDATE locks SET shift_ns = 86400000000000, expires_ns = expires_ns + 86400000000000");
    assert_int_equal(take(client, "lock", BELAY_TRY, 60000, &lock, &err), BELAY_CONFIG);
    assert_non_null(strstr(err.text, "time namespace"));
    /* Its TTL is reckoned on the machine's own clock all the same. */
    sql_run(room.path, "UPDATE locks SET expires_ns = expires_ns - 60000000000");
    must_release(must_take(client, "lock", BELAY_TRY));
    belay_close(client);
    child_end(&child, SIGKILL);
}

static void used_up_tokens_are_refused(void **state)
{
    belay_lock *lock = NULL;
    belay_error err = BELAY_ERROR_INIT;
    (void)state;
    belay *client = client_open(room.url);
    sql_run(room.path, "UPDATE meta SET last = 1125899906842622");
    lock = must_take(client, "last", BELAY_TRY);
    assert_int_equal(belay_lock_token(lock), 1125899906842623);
    must_release(lock);
    assert_int_equal(take(client, "lock", BELAY_TRY, 60000, &lock, &err), BELAY_REFUSED);
    assert_non_null(strstr(err.text, "used up"));
    assert_int_equal(sql_number(room.path, "SELECT count(*) FROM locks"), 0);
    belay_close(client);
}

/* ------------------------------------------------------------------ a stopped writer (41) */

static void stops_inside(void *arg, int from, int to)
{
    sqlite3 *db = NULL;
    (void)arg;
    (void)from;
    if (sqlite3_open(room.path, &db) != SQLITE_OK) _exit(80);
    if (sqlite3_exec(db, "BEGIN EXCLUSIVE; UPDATE meta SET last = 1", NULL, NULL, NULL) !=
        SQLITE_OK)
        _exit(81);
    child_ready(to);
    raise(SIGSTOP);
    _exit(0);
}

static void a_writer_stopped_inside_its_transaction_is_an_outage_in_time(void **state)
{
    belay_error err = BELAY_ERROR_INIT;
    belay_lock *lock = NULL;
    int64_t start;
    (void)state;
    belay *client = client_open(room.url);
    belay_lock *held = must_take(client, "held", BELAY_TRY);
    struct child child = child_start(stops_inside, NULL);
    assert_true(child_said(&child));
    assert_int_equal(waitpid(child.pid, NULL, WUNTRACED), child.pid);

    start = now_ms();
    assert_int_equal(take(client, "lock", BELAY_TRY, 60000, &lock, &err), BELAY_UNAVAILABLE);
    assert_true(now_ms() - start < 2500);
    assert_non_null(strstr(err.text, "busy"));
    assert_string_equal(err.node, room.path);
    start = now_ms();
    assert_int_equal(belay_extend(held, 0, NULL), BELAY_UNAVAILABLE);
    assert_true(now_ms() - start < 2500);
    assert_true(belay_lock_valid(held, 0)); /* its deadline stands */
    /* A new client opens in spite of it. */
    start = now_ms();
    belay *other = client_open(room.url);
    assert_int_equal(take(other, "lock", BELAY_TRY, 60000, &lock, &err), BELAY_UNAVAILABLE);
    assert_true(now_ms() - start < 2500);
    belay_close(other);

    child_end(&child, SIGKILL);
    assert_int_equal(belay_extend(held, 0, NULL), BELAY_OK);
    must_release(held);
    must_release(must_take(client, "lock", BELAY_TRY));
    belay_close(client);
    assert_true(sql_sound(room.path));
}

/* A release that met the stopped writer is done as soon as it can be. */
static void a_release_behind_a_stopped_writer_happens_later(void **state)
{
    (void)state;
    belay *client = client_open(room.url);
    belay_lock *held = must_take(client, "held", BELAY_TRY);
    struct child child = child_start(stops_inside, NULL);
    assert_true(child_said(&child));
    assert_int_equal(waitpid(child.pid, NULL, WUNTRACED), child.pid);
    assert_int_equal(belay_release(held, NULL), BELAY_UNAVAILABLE);
    child_end(&child, SIGKILL);
    for (int64_t end = now_ms() + 10000;
         now_ms() < end && sql_number(room.path, "SELECT count(*) FROM locks") != 0;)
        usleep(1000);
    assert_int_equal(sql_number(room.path, "SELECT count(*) FROM locks"), 0);
    belay_close(client);
}

/* ------------------------------------------------------------------ kill -9 (40) */

struct tally {
    _Atomic uint64_t largest;
    _Atomic uint64_t grants;
};

static struct tally *tally;

static void cycles(void *arg, int from, int to)
{
    static const char *const names[] = { "one", "two", "three" };
    belay_options options = BELAY_OPTIONS_INIT;
    (void)from;
    options.wait_ms = 1000;
    options.ttl_ms = 60000;
    options.keep = BELAY_KEEP_OFF;
    belay *client = child_open(arg);
    child_ready(to);
    for (unsigned i = (unsigned)getpid();; i++) {
        belay_lock *lock = NULL;
        if (belay_acquire(client, names[i % 3], &options, &lock, NULL) != BELAY_OK) continue;
        uint64_t token = belay_lock_token(lock), largest = tally->largest;
        while (token > largest &&
               !__atomic_compare_exchange_n((uint64_t *)&tally->largest, &largest, token, false,
                                            __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
            continue;
        tally->grants++;
        if (i % 2 == 0 && belay_extend(lock, 60000, NULL) == BELAY_NOMEM) _exit(80);
        (void)belay_release(lock, NULL);
    }
}

static void a_thousand_kills_leave_the_file_whole(void **state)
{
    enum { KILLS = 1000, AT_ONCE = 4 };
    struct child children[AT_ONCE];
    const char *sanitize = getenv("BELAY_SANITIZE");
    bool slow = sanitize != NULL && sanitize[0] != '\0';
    int kills = getenv("BELAY_ON_VALGRIND") != NULL ? 40 : slow ? KILLS / 4 : KILLS;
    unsigned seed = 4711;
    (void)state;
    tally = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(tally != MAP_FAILED);
    for (int i = 0; i < kills; i += AT_ONCE) {
        for (int k = 0; k < AT_ONCE; k++) children[k] = child_start(cycles, room.url);
        for (int k = 0; k < AT_ONCE; k++) {
            struct timespec moment = { 0, (long)(rand_r(&seed) % 3000) * 1000 };
            nanosleep(&moment, NULL); /* the random point */
            assert_int_equal(child_end(&children[k], SIGKILL), 128 + SIGKILL);
        }
        /* (Looked at before there is a file, SQLite would make an empty one.) */
        if (i % 100 == 0 && access(room.path, F_OK) == 0) assert_true(sql_sound(room.path));
    }
    assert_true(sql_sound(room.path));
    /* Whatever the dead held is free at once, and the tokens went on growing. */
    belay *client = client_open(room.url);
    belay_lock *locks[3] = { must_take(client, "one", BELAY_TRY),
                             must_take(client, "two", BELAY_TRY),
                             must_take(client, "three", BELAY_TRY) };
    for (int i = 0; i < 3; i++) {
        assert_true(belay_lock_token(locks[i]) > tally->largest);
        must_release(locks[i]);
    }
    belay_close(client);
    assert_true(tally->grants > 0);
    munmap(tally, 4096);
}

/* ------------------------------------------------------------------ a full disk (37) */

static void on_a_full_disk_a_release_works_and_an_acquire_says_so(void **state)
{
    static char noise[65536];
    char mount_dir[96], path[128], url[160], fill[128], name[64];
    belay_error err = BELAY_ERROR_INIT;
    belay_lock *lock = NULL, *locks[256];
    int held = 0;
    (void)state;
    if (geteuid() != 0 || unshare(CLONE_NEWNS) != 0) skip();
    assert_int_equal(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL), 0);
    snprintf(mount_dir, sizeof mount_dir, "%s/disk", room.dir);
    assert_int_equal(mkdir(mount_dir, 0700), 0);
    assert_int_equal(mount("tmpfs", mount_dir, "tmpfs", 0, "size=512k,mode=0700"), 0);
    snprintf(path, sizeof path, "%s/locks.db", mount_dir);
    snprintf(url, sizeof url, "sqlite://%s", path);
    snprintf(fill, sizeof fill, "%s/fill", mount_dir);

    belay *client = client_open(url);
    for (; held < 40; held++) {
        snprintf(name, sizeof name, "before-%d", held);
        locks[held] = must_take(client, name, BELAY_TRY);
    }
    int fd = open(fill, O_WRONLY | O_CREAT, 0600);
    assert_true(fd >= 0);
    while (write(fd, noise, sizeof noise) > 0) continue;
    while (write(fd, noise, 1) > 0) continue;
    close(fd);

    belay_status status = BELAY_OK;
    for (int i = 0; i < 200 && status == BELAY_OK; i++) {
        snprintf(name, sizeof name, "on-the-full-disk-%d", i);
        status = take(client, name, BELAY_TRY, 60000, &lock, &err);
        if (status == BELAY_OK) locks[held++] = lock;
    }
    assert_int_equal(status, BELAY_UNAVAILABLE);
    assert_non_null(strstr(err.text, "full"));
    for (int i = 0; i < held; i++) {
        assert_int_equal(belay_extend(locks[i], 0, &err), BELAY_OK);
        must_release(locks[i]);
    }
    assert_int_equal(sql_number(path, "SELECT count(*) FROM locks"), 0);
    assert_int_equal(unlink(fill), 0);
    must_release(must_take(client, name, BELAY_TRY));
    belay_close(client);
    assert_true(sql_sound(path));
    assert_int_equal(umount2(mount_dir, MNT_DETACH), 0);
    assert_int_equal(rmdir(mount_dir), 0);
}

/* Too full for a file of locks: nothing half-made stays. */
static void on_a_disk_full_from_the_start_opening_works_and_heals(void **state)
{
    static char noise[4096];
    char mount_dir[96], path[128], url[160], fill[128];
    belay_error err = BELAY_ERROR_INIT;
    belay_lock *lock = NULL;
    (void)state;
    if (geteuid() != 0 || unshare(CLONE_NEWNS) != 0) skip();
    assert_int_equal(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL), 0);
    snprintf(mount_dir, sizeof mount_dir, "%s/disk", room.dir);
    assert_int_equal(mkdir(mount_dir, 0700), 0);
    assert_int_equal(mount("tmpfs", mount_dir, "tmpfs", 0, "size=512k,mode=0700"), 0);
    snprintf(path, sizeof path, "%s/locks.db", mount_dir);
    snprintf(url, sizeof url, "sqlite://%s", path);
    snprintf(fill, sizeof fill, "%s/fill", mount_dir);
    int fd = open(fill, O_WRONLY | O_CREAT, 0600);
    assert_true(fd >= 0);
    while (write(fd, noise, sizeof noise) > 0) continue;
    close(fd);
    belay *client = client_open(url);
    assert_int_equal(take(client, "lock", BELAY_TRY, 60000, &lock, &err), BELAY_UNAVAILABLE);
    assert_non_null(strstr(err.text, "full"));
    assert_int_not_equal(access(path, F_OK), 0);
    assert_int_equal(unlink(fill), 0);
    must_release(must_take(client, "lock", BELAY_TRY));
    belay_close(client);
    assert_int_equal(umount2(mount_dir, MNT_DETACH), 0);
    assert_int_equal(rmdir(mount_dir), 0);
}

/* ------------------------------------------------------------------ signals (48), closed
 * descriptors (47) */

static void on_alarm(int signal)
{
    (void)signal;
}

static void a_storm_of_signals_changes_nothing(void **state)
{
    struct sigaction action = { .sa_handler = on_alarm }, before;
    struct itimerval storm = { { 0, 200 }, { 0, 200 } }, calm = { { 0, 0 }, { 0, 0 } };
    (void)state;
    belay *client = client_open(room.url);
    assert_int_equal(sigaction(SIGALRM, &action, &before), 0);
    assert_int_equal(setitimer(ITIMER_REAL, &storm, NULL), 0);
    belay_status worst = BELAY_OK;
    for (int i = 0; i < 500 && worst == BELAY_OK; i++) {
        belay_lock *lock = NULL;
        worst = take(client, "lock", BELAY_TRY, 60000, &lock, NULL);
        if (worst == BELAY_OK) worst = belay_release(lock, NULL);
    }
    setitimer(ITIMER_REAL, &calm, NULL);
    sigaction(SIGALRM, &before, NULL);
    assert_int_equal(worst, BELAY_OK);
    belay_close(client);
}

static void without_descriptors(void *arg, int from, int to)
{
    struct stat st, fds[3];
    (void)from;
    (void)to;
    close(0);
    close(1);
    close(2);
    belay *client = child_open(arg);
    belay_lock *lock = child_take(client, "lock", BELAY_TRY), *other = NULL;
    belay *second = child_open(arg);
    if (take(second, "lock", 20, 60000, &other, NULL) != BELAY_HELD) _exit(80);
    /* SQLite puts /dev/null there; none of ours may be. */
    for (int i = 0; i < 3; i++) {
        if (fstat(i, &fds[i]) != 0) continue;
        if (stat("/dev/null", &st) != 0 || fds[i].st_rdev != st.st_rdev || !S_ISCHR(fds[i].st_mode))
            _exit(81 + i);
    }
    if (belay_release(lock, NULL) != BELAY_OK) _exit(85);
    belay_close(second);
    belay_close(client);
}

static void with_descriptors_0_to_2_closed_ours_stay_above(void **state)
{
    (void)state;
    struct child child = child_start(without_descriptors, room.url);
    assert_int_equal(child_end(&child, 0), 0);
    assert_true(sql_sound(room.path));
}

int main(int argc, char **argv)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(every_lock_is_lost_when_the_file_goes),
        T(a_release_after_the_file_went_says_lost),
        T(a_directory_that_goes_is_an_outage_and_heals),
        T(tokens_grow_when_the_file_is_replaced),
        T(rows_of_another_boot_are_free_and_tokens_grow),
        T(an_extension_of_another_boot_s_lock_is_lost),
        T(the_first_opening_in_a_boot_empties_the_file),
        T(damage_of_another_boot_is_emptied_in_place),
        T(sixteen_first_openers_all_succeed),
        T(of_many_first_openers_in_a_boot_one_empties_the_file),
        T(a_holder_of_another_time_namespace_is_refused),
        T(used_up_tokens_are_refused),
        T(a_writer_stopped_inside_its_transaction_is_an_outage_in_time),
        T(a_release_behind_a_stopped_writer_happens_later),
        T(a_thousand_kills_leave_the_file_whole),
        T(a_storm_of_signals_changes_nothing),
        T(with_descriptors_0_to_2_closed_ours_stay_above),
        T(on_a_full_disk_a_release_works_and_an_acquire_says_so),
        T(on_a_disk_full_from_the_start_opening_works_and_heals),
    };
    if (argc > 1) cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
