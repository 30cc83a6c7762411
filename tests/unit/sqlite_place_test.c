/* sqlite_place_test.c - where a file of locks may be, and what a stranger's file is answered.
 * FAULTS 37, 39, 44. */
#define _GNU_SOURCE
#include "backends/sqlite.h"
#include "tests/unit/sqlite_help.h"

#include <grp.h>

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

static void file_write(const char *path, const void *bytes, size_t length)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, bytes, length), (ssize_t)length);
    close(fd);
}

static void a_file_is_made(void)
{
    belay *client = client_open(room.url);
    must_release(must_take(client, "lock", BELAY_TRY));
    belay_close(client);
}

/* Opening answers CONFIG, names the file, says `word`, and leaves the file. */
static void must_refuse(const char *word)
{
    belay_error err;
    struct stat before, after;
    assert_int_equal(lstat(room.path, &before), 0);
    assert_int_equal(open_says(room.url, &err), BELAY_CONFIG);
    if (strstr(err.text, word) == NULL) print_error("\"%s\" not in: %s\n", word, err.text);
    assert_non_null(strstr(err.text, word));
    assert_string_equal(err.node, room.path);
    assert_int_equal(lstat(room.path, &after), 0);
    assert_int_equal(before.st_ino, after.st_ino);
    assert_int_equal(before.st_size, after.st_size);
}

/* ------------------------------------------------------------------ the filesystem */

static void only_local_filesystems_are_trusted(void **state)
{
    static const struct {
        unsigned long magic;
        bool local;
        const char *name;
    } rows[] = { { 0xEF53, true, "ext4" },          { 0x01021994, true, "tmpfs" },
                 { 0x9123683E, true, "btrfs" },     { 0x58465342, true, "xfs" },
                 { 0x794C7630, true, "overlayfs" }, { 0x6969, false, "nfs" },
                 { 0xFF534D42, false, "cifs" },     { 0xFFFFFFFFFF534D42, false, "cifs" },
                 { 0xFE534D42, false, "smb2" },     { 0x65735546, false, "fuse" },
                 { 0x01021997, false, "9p" },       { 0x12345678, false, NULL } };
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        const char *name = "?";
        assert_int_equal(belay__sqlite_filesystem_local(rows[i].magic, &name), rows[i].local);
        if (rows[i].name == NULL) assert_null(name);
        else assert_string_equal(name, rows[i].name);
    }
}

static void proc_is_refused_by_its_name(void **state)
{
    belay_error err;
    (void)state;
    assert_int_equal(open_says("sqlite:///proc/locks.db", &err), BELAY_CONFIG);
    assert_non_null(strstr(err.text, "filesystem"));
}

/* ------------------------------------------------------------------ the file */

static void a_symlink_is_refused(void **state)
{
    char real[128];
    (void)state;
    a_file_is_made();
    snprintf(real, sizeof real, "%s/real.db", room.dir);
    assert_int_equal(rename(room.path, real), 0);
    assert_int_equal(symlink(real, room.path), 0);
    must_refuse("symbolic link");
}

static void a_symlink_to_the_directory_is_followed(void **state)
{
    char link[128], url[160];
    (void)state;
    a_file_is_made();
    snprintf(link, sizeof link, "%s/dir", room.dir);
    assert_int_equal(symlink(room.dir, link), 0);
    snprintf(url, sizeof url, "sqlite://%s/locks.db", link);
    belay *a = client_open(room.url), *b = client_open(url);
    belay_lock *lock = must_take(a, "lock", BELAY_TRY), *other = NULL;
    assert_int_equal(take(b, "lock", BELAY_TRY, 60000, &other, NULL), BELAY_HELD);
    must_release(lock);
    belay_close(a);
    belay_close(b);
}

static void a_hard_link_is_refused(void **state)
{
    char other[128];
    (void)state;
    a_file_is_made();
    snprintf(other, sizeof other, "%s/other.db", room.dir);
    assert_int_equal(link(room.path, other), 0);
    must_refuse("names");
}

static void a_fifo_is_refused(void **state)
{
    (void)state;
    assert_int_equal(mkfifo(room.path, 0600), 0);
    must_refuse("not a regular file");
}

static void a_foreign_owner_is_refused(void **state)
{
    (void)state;
    if (geteuid() != 0) skip();
    a_file_is_made();
    assert_int_equal(chown(room.path, 65534, 65534), 0);
    must_refuse("belongs to user");
}

static void a_foreign_journal_is_refused(void **state)
{
    char journal[128];
    (void)state;
    if (geteuid() != 0) skip();
    a_file_is_made();
    snprintf(journal, sizeof journal, "%s-journal", room.path);
    assert_int_equal(chown(journal, 65534, 65534), 0);
    must_refuse("its journal belongs to user");
}

static void a_file_that_others_may_write_is_refused(void **state)
{
    (void)state;
    a_file_is_made();
    assert_int_equal(chmod(room.path, 0666), 0);
    must_refuse("written by others");
}

static void a_directory_open_to_all_is_refused(void **state)
{
    belay_error err;
    (void)state;
    assert_int_equal(chmod(room.dir, 0777), 0);
    assert_int_equal(open_says(room.url, &err), BELAY_CONFIG);
    assert_non_null(strstr(err.text, "anybody can swap"));
    assert_int_equal(chmod(room.dir, 01777), 0);
    assert_int_equal(open_says(room.url, &err), BELAY_OK);
}

static void an_empty_file_is_refused_and_stays(void **state)
{
    (void)state;
    file_write(room.path, "", 0);
    must_refuse("empty");
}

static void a_text_is_refused_and_stays(void **state)
{
    char text[4096];
    (void)state;
    memset(text, 'x', sizeof text);
    file_write(room.path, "hello", 5);
    must_refuse("not a file of locks");
    file_write(room.path, text, sizeof text);
    must_refuse("not a file of locks");
}

static void a_foreign_database_is_refused_and_stays(void **state)
{
    (void)state;
    sql_run(room.path, "CREATE TABLE mine(x); INSERT INTO mine VALUES(1)");
    must_refuse("not belay's");
    assert_int_equal(sql_number(room.path, "SELECT x FROM mine"), 1);
}

static void a_newer_format_is_refused_and_stays(void **state)
{
    char sql[64];
    (void)state;
    a_file_is_made();
    snprintf(sql, sizeof sql, "PRAGMA application_id = %d", 0x62656C02);
    sql_run(room.path, sql);
    must_refuse("version 2");
}

/* Damage within a boot is somebody's doing. */
static void damage_within_a_boot_is_refused_and_stays(void **state)
{
    unsigned char noise[4096];
    struct stat before, after;
    belay_error err = BELAY_ERROR_INIT;
    belay_lock *lock = NULL;
    (void)state;
    a_file_is_made();
    assert_int_equal(stat(room.path, &before), 0);
    memset(noise, 0xA5, sizeof noise);
    int fd = open(room.path, O_WRONLY);
    assert_true(fd >= 0);
    for (off_t at = 4096; at < before.st_size; at += 4096)
        assert_int_equal(pwrite(fd, noise, sizeof noise, at), sizeof noise);
    close(fd);
    belay *client = client_open(room.url);
    assert_int_equal(take(client, "lock", BELAY_TRY, 60000, &lock, &err), BELAY_CONFIG);
    assert_string_equal(err.node, room.path);
    assert_non_null(strstr(err.text, "damaged"));
    belay_close(client);
    assert_int_equal(stat(room.path, &after), 0);
    assert_int_equal(before.st_ino, after.st_ino);
}

static void a_new_file_is_its_owner_s_alone(void **state)
{
    struct stat st;
    char journal[128];
    (void)state;
    mode_t before = umask(0);
    a_file_is_made();
    umask(before);
    assert_int_equal(stat(room.path, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0600);
    snprintf(journal, sizeof journal, "%s-journal", room.path);
    assert_int_equal(stat(journal, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0600);
    assert_int_equal(room_count(&room, ""), 2);
}

/* ------------------------------------------------------------------ the default place */

static void place_of_root(struct sqlite_place *place, const char *first, const char *second)
{
    memset(place, 0, sizeof *place);
    place->roots[0] = first;
    place->roots[1] = second;
    place->mode = 0600;
}

static void the_default_directory_is_made_for_its_owner_alone(void **state)
{
    struct sqlite_place place;
    struct sqlite_failure f;
    struct stat st;
    char want[128];
    (void)state;
    mode_t before = umask(0);
    place_of_root(&place, room.dir, "/nonexistent");
    bool found = belay__sqlite_place_find(&place, &f);
    umask(before);
    assert_true(found);
    snprintf(want, sizeof want, "%s/belay-%u/locks.db", room.dir, (unsigned)geteuid());
    assert_string_equal(place.path, want);
    assert_int_equal(lstat(place.directory, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0700);
    assert_int_equal(rmdir(place.directory), 0);
}

static void without_the_first_root_the_second_is_taken(void **state)
{
    struct sqlite_place place;
    struct sqlite_failure f;
    (void)state;
    place_of_root(&place, "/nonexistent", room.dir);
    assert_true(belay__sqlite_place_find(&place, &f));
    assert_memory_equal(place.path, room.dir, strlen(room.dir));
    assert_int_equal(rmdir(place.directory), 0);
}

/* Not the second root then: two worlds would be worse than none. */
static void a_squatted_default_directory_is_refused(void **state)
{
    struct sqlite_place place;
    struct sqlite_failure f;
    char squat[128];
    (void)state;
    snprintf(squat, sizeof squat, "%s/belay-%u", room.dir, (unsigned)geteuid());
    assert_int_equal(symlink("/tmp", squat), 0);
    place_of_root(&place, room.dir, "/tmp");
    assert_false(belay__sqlite_place_find(&place, &f));
    assert_int_equal(f.status, BELAY_CONFIG);
    assert_non_null(strstr(f.text, "symbolic link"));
    assert_int_equal(unlink(squat), 0);

    assert_int_equal(mkdir(squat, 0755), 0);
    assert_false(belay__sqlite_place_find(&place, &f));
    assert_int_equal(f.status, BELAY_CONFIG);
    assert_non_null(strstr(f.text, "open to others"));
    if (geteuid() == 0) {
        assert_int_equal(chmod(squat, 0700), 0);
        assert_int_equal(chown(squat, 65534, 65534), 0);
        assert_false(belay__sqlite_place_find(&place, &f));
        assert_non_null(strstr(f.text, "belongs to user 65534"));
    }
    assert_int_equal(rmdir(squat), 0);
}

/* ------------------------------------------------------------------ settings */

static void wrong_settings_open_nothing(void **state)
{
    static const struct {
        const char *settings, *says;
    } rows[] = { { "path = \"locks.db\";", "not absolute" },
                 { "path = \"/tmp/\";", "names a directory" },
                 { "path = \"/tmp/x.db\"; group = \"no-such-group\";", "no group" },
                 { "group = \"root\";", "needs a `path`" },
                 { "path = \"/tmp/x.db\"; mode = \"0666\";", "must be 0600" },
                 { "path = \"/tmp/x.db\"; mode = \"0400\";", "must be 0600" },
                 { "path = \"/tmp/x.db\"; mode = \"0660\";", "needs a `group`" } };
    char conf[128], text[256];
    belay_error err;
    (void)state;
    snprintf(conf, sizeof conf, "%s/belay.conf", room.dir);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        snprintf(text, sizeof text, "use = \"s\"; backends: { s: { type = \"sqlite\"; %s }; };\n",
                 rows[i].settings);
        file_write(conf, text, strlen(text));
        assert_int_equal(open_says(conf, &err), BELAY_CONFIG);
        if (strstr(err.text, rows[i].says) == NULL)
            print_error("%s: %s\n", rows[i].settings, err.text);
        assert_non_null(strstr(err.text, rows[i].says));
    }
}

/* ------------------------------------------------------------------ what may heal (FAULTS 32, 37)
 */

static void a_missing_directory_is_an_outage_and_heals(void **state)
{
    char dir[128], path[160], url[192];
    belay_error err = BELAY_ERROR_INIT;
    belay_lock *lock = NULL;
    (void)state;
    snprintf(dir, sizeof dir, "%s/later", room.dir);
    snprintf(path, sizeof path, "%s/locks.db", dir);
    snprintf(url, sizeof url, "sqlite://%s", path);
    belay *client = client_open(url);
    assert_int_equal(take(client, "lock", BELAY_TRY, 60000, &lock, &err), BELAY_UNAVAILABLE);
    assert_string_equal(err.node, path);
    assert_non_null(strstr(err.text, "No such file"));
    assert_int_equal(mkdir(dir, 0700), 0);
    must_release(must_take(client, "lock", BELAY_TRY));
    belay_close(client);
    unlink(path);
    strcat(path, "-journal");
    unlink(path);
    assert_int_equal(rmdir(dir), 0);
}

static void as_nobody(void *arg, int from, int to)
{
    belay_error err = BELAY_ERROR_INIT;
    belay_lock *lock = NULL;
    (void)from;
    (void)to;
    if (setgid(65534) != 0 || setuid(65534) != 0) _exit(80);
    if (chmod(room.dir, 0500) != 0) _exit(81);
    belay *client = child_open(arg);
    if (take(client, "lock", BELAY_TRY, 60000, &lock, &err) != BELAY_UNAVAILABLE) _exit(82);
    if (strstr(err.text, "may not write") == NULL) _exit(83);
    if (chmod(room.dir, 0700) != 0) _exit(84);
    lock = child_take(client, "lock", BELAY_TRY);
    /* From now on the journal is there, and the directory is not written to. */
    if (chmod(room.dir, 0500) != 0) _exit(85);
    if (belay_release(lock, NULL) != BELAY_OK) _exit(86);
    lock = child_take(client, "lock", BELAY_TRY);
    if (belay_release(lock, NULL) != BELAY_OK) _exit(87);
    belay_close(client);
    if (chmod(room.path, 0400) != 0) _exit(88);
    client = child_open(arg);
    if (take(client, "lock", BELAY_TRY, 60000, &lock, &err) != BELAY_UNAVAILABLE) _exit(89);
    if (strstr(err.text, "read-only") == NULL) _exit(95);
    belay_close(client);
}

static void a_read_only_directory_is_an_outage_and_releasing_works(void **state)
{
    (void)state;
    if (geteuid() != 0) skip();
    assert_int_equal(chown(room.dir, 65534, 65534), 0);
    struct child child = child_start(as_nobody, room.url);
    assert_int_equal(child_end(&child, 0), 0);
}

/* ------------------------------------------------------------------ group */

static char group_conf[128];

static void in_the_group(void *arg, int from, int to)
{
    uid_t uid = *(uid_t *)arg;
    gid_t group = 65533;
    if (setgroups(1, &group) != 0 || setgid(uid) != 0 || setuid(uid) != 0) _exit(80);
    umask(077);
    belay *client = child_open(group_conf);
    belay_lock *lock = child_take(client, "lock", 10000);
    child_ready(to);
    child_wait(from);
    if (belay_release(lock, NULL) != BELAY_OK) _exit(81);
    /* Alive until it is told: its end would wake the other as well. */
    child_ready(to);
    child_wait(from);
    belay_close(client);
}

static void users_of_a_group_share_a_file_and_wake_each_other(void **state)
{
    static uid_t first = 65531, second = 65532;
    char text[256];
    struct stat st;
    (void)state;
    if (geteuid() != 0) skip();
    snprintf(group_conf, sizeof group_conf, "%s/belay.conf", room.dir);
    snprintf(text, sizeof text,
             "use = \"s\"; backends: { s: { type = \"sqlite\"; path = \"%s\"; group = \"65533\"; "
             "}; };\n",
             room.path);
    file_write(group_conf, text, strlen(text));
    assert_int_equal(chmod(group_conf, 0644), 0);
    assert_int_equal(chown(room.dir, 0, 65533), 0);
    assert_int_equal(chmod(room.dir, 01775), 0);
    struct child a = child_start(in_the_group, &first);
    assert_true(child_said(&a));
    struct child b = child_start(in_the_group, &second);
    for (int64_t end = now_ms() + 10000; now_ms() < end && room_count(&room, ".sock") == 0;)
        usleep(500);
    assert_int_equal(room_count(&room, ".sock"), 1);
    int64_t start = now_ms();
    child_go(&a);
    assert_true(child_said(&a));
    assert_true(child_said(&b)); /* long before the minute of the TTL, or core's five seconds */
    assert_true(now_ms() - start < 2500);
    child_go(&b);
    assert_true(child_said(&b));
    child_go(&a);
    child_go(&b);
    assert_int_equal(child_end(&a, 0), 0);
    assert_int_equal(child_end(&b, 0), 0);
    assert_int_equal(stat(room.path, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0660);
    assert_int_equal(st.st_gid, 65533);
}

int main(int argc, char **argv)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(only_local_filesystems_are_trusted),
        T(proc_is_refused_by_its_name),
        T(a_symlink_is_refused),
        T(a_symlink_to_the_directory_is_followed),
        T(a_hard_link_is_refused),
        T(a_fifo_is_refused),
        T(a_foreign_owner_is_refused),
        T(a_foreign_journal_is_refused),
        T(a_file_that_others_may_write_is_refused),
        T(a_directory_open_to_all_is_refused),
        T(an_empty_file_is_refused_and_stays),
        T(a_text_is_refused_and_stays),
        T(a_foreign_database_is_refused_and_stays),
        T(a_newer_format_is_refused_and_stays),
        T(damage_within_a_boot_is_refused_and_stays),
        T(a_new_file_is_its_owner_s_alone),
        T(the_default_directory_is_made_for_its_owner_alone),
        T(without_the_first_root_the_second_is_taken),
        T(a_squatted_default_directory_is_refused),
        T(wrong_settings_open_nothing),
        T(a_missing_directory_is_an_outage_and_heals),
        T(a_read_only_directory_is_an_outage_and_releasing_works),
        T(users_of_a_group_share_a_file_and_wake_each_other),
    };
    if (argc > 1) cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
