/* place_test.c - the default chain: which configuration an open without `where` reads. */
#define _GNU_SOURCE
#include "tests/unit/config_fakes.h"

#include "core/place.h"

#include <pwd.h>
#include <sys/wait.h>

/* /etc/belay/belay.conf is the machine's: where it exists, tests that walk past it say so and stop.
 */
static bool machine_has_a_file(void)
{
    if (access("/etc/belay/belay.conf", F_OK) != 0) return false;
    print_message("/etc/belay/belay.conf exists here\n");
    return true;
}

static void clean_environment(void)
{
    unsetenv("BELAY_CONFIG");
    unsetenv("XDG_CONFIG_HOME");
    setenv("HOME", fake_folder, 1);
}

static void found(const char *where, const char *want)
{
    belay_error err = BELAY_ERROR_INIT;
    char *place = NULL, full[256] = "";

    assert_int_equal(belay__place_find(&place, where, NULL, &err), BELAY_OK);
    if (want != NULL && strncmp(want, "@/", 2) == 0)
        snprintf(full, sizeof(full), "%s%s", fake_folder, want + 1);
    else if (want != NULL) snprintf(full, sizeof(full), "%s", want);
    if (want == NULL) assert_null(place);
    else assert_string_equal(place, full);
    free(place);
}

static void without_any_file_the_default_is_sqlite_without_settings(void **state)
{
    struct belay__config *config = NULL;

    (void)state;
    clean_environment();
    if (machine_has_a_file()) return;
    found(NULL, NULL);
    assert_int_equal(belay__config_load(&config, NULL, &fake_registry, NULL, NULL), BELAY_OK);
    assert_string_equal(config->source, "built-in default");
    assert_int_equal(config->count, 1);
    assert_string_equal(config->backends[0].name, "sqlite");
    assert_ptr_equal(config->backends[0].ops, &fake_sqlite_ops);
    assert_false(belay_settings_given(config->backends[0].settings, "path"));
    assert_int_equal(config->ttl_ms, 10000);
    belay__config_free(config);
}

static void the_working_directory_is_never_searched(void **state)
{
    (void)state;
    clean_environment();
    if (machine_has_a_file()) return;
    file_write("belay.conf", "this is not to be read");
    mkdir(".belay", 0755);
    file_write(".belay/belay.conf", "nor this");
    found(NULL, NULL);
}

static void belay_config_comes_first_and_may_be_a_url(void **state)
{
    (void)state;
    clean_environment();
    mkdir(".config", 0755);
    mkdir(".config/belay", 0755);
    file_write(".config/belay/belay.conf", "");
    file_write("named.conf", "");
    setenv("BELAY_CONFIG", "named.conf", 1);
    found(NULL, "named.conf");
    setenv("BELAY_CONFIG", "memory:x", 1);
    found(NULL, "memory:x");
    setenv("BELAY_CONFIG", "", 1);
    found(NULL, "@/.config/belay/belay.conf");
    assert_int_equal(unlink(".config/belay/belay.conf"), 0);
}

static void what_the_caller_names_is_taken_before_the_environment(void **state)
{
    (void)state;
    clean_environment();
    setenv("BELAY_CONFIG", "memory:x", 1);
    found("other.conf", "other.conf");
    found("memory:y", "memory:y");
}

static void a_missing_file_in_belay_config_is_an_error(void **state)
{
    belay_error err = BELAY_ERROR_INIT;
    char *place = NULL;

    (void)state;
    clean_environment();
    setenv("BELAY_CONFIG", "/nowhere/belay.conf", 1);
    assert_int_equal(belay__place_find(&place, NULL, NULL, &err), BELAY_CONFIG);
    assert_null(place);
    assert_string_equal(err.text, "BELAY_CONFIG: /nowhere/belay.conf: there is no such file");
}

static void the_user_s_file_is_in_xdg_config_home_or_in_config_below_home(void **state)
{
    (void)state;
    clean_environment();
    mkdir(".config", 0755);
    mkdir(".config/belay", 0755);
    file_write(".config/belay/belay.conf", "");
    found(NULL, "@/.config/belay/belay.conf");
    mkdir("xdg", 0755);
    mkdir("xdg/belay", 0755);
    file_write("xdg/belay/belay.conf", "");
    char folder[128];
    snprintf(folder, sizeof(folder), "%s/xdg", fake_folder);
    setenv("XDG_CONFIG_HOME", folder, 1);
    found(NULL, "@/xdg/belay/belay.conf");
    setenv("XDG_CONFIG_HOME", "xdg", 1); /* not absolute: ignored, as the XDG specification says */
    found(NULL, "@/.config/belay/belay.conf");
    assert_int_equal(unlink(".config/belay/belay.conf"), 0);
}

static void without_home_the_password_file_s_entry_is_asked(void **state)
{
    belay_error err = BELAY_ERROR_INIT;
    struct passwd *entry = getpwuid(getuid());
    char *place = NULL, file[300];
    bool exists;

    (void)state;
    clean_environment();
    unsetenv("HOME");
    if (entry == NULL || machine_has_a_file()) return;
    snprintf(file, sizeof(file), "%s/.config/belay/belay.conf", entry->pw_dir);
    exists = access(file, F_OK) == 0;
    assert_int_equal(belay__place_find(&place, NULL, NULL, &err), BELAY_OK);
    if (exists) assert_string_equal(place, file);
    else assert_null(place);
    free(place);
}

static void a_file_of_the_chain_that_is_no_file_is_an_error_and_not_skipped(void **state)
{
    struct belay__config *config = NULL;
    belay_error err = BELAY_ERROR_INIT;
    char message[256];

    (void)state;
    clean_environment();
    mkdir(".config", 0755);
    mkdir(".config/belay", 0755);
    mkdir(".config/belay/belay.conf", 0755);
    assert_int_equal(belay__config_load(&config, NULL, &fake_registry, NULL, &err), BELAY_CONFIG);
    snprintf(message, sizeof(message), "%s/.config/belay/belay.conf: is a directory, not a file",
             fake_folder);
    assert_string_equal(err.text, message);
    rmdir(".config/belay/belay.conf");
}

/* Root reads everything, so a child that is nobody tries. */
static int as_nobody(void)
{
    struct belay__config *config = NULL;
    belay_error err = BELAY_ERROR_INIT;
    belay_status status;

    if (getuid() == 0 && setuid(65534) != 0) return 2;
    status = belay__config_load(&config, NULL, &fake_registry, NULL, &err);
    if (status != BELAY_CONFIG || strstr(err.text, "belay.conf: Permission denied") == NULL)
        return 1;
    return 0;
}

static void a_file_of_the_chain_that_cannot_be_read_is_an_error_and_not_skipped(void **state)
{
    int how = 0;
    pid_t pid;

    (void)state;
    clean_environment();
    assert_int_equal(chmod(fake_folder, 0755), 0);
    mkdir(".config", 0755);
    mkdir(".config/belay", 0755);
    for (int folder = 0; folder < 2; folder++) {
        file_write_bytes(".config/belay/belay.conf", "use = \"plain:\";", 15, folder ? 0644 : 0000);
        if (folder) assert_int_equal(chmod(".config/belay", 0000), 0);
        pid = fork();
        assert_true(pid >= 0);
        if (pid == 0) _exit(as_nobody());
        assert_int_equal(waitpid(pid, &how, 0), pid);
        assert_int_equal(chmod(".config/belay", 0755), 0);
        assert_true(WIFEXITED(how));
        assert_int_equal(WEXITSTATUS(how), 0);
    }
    assert_int_equal(unlink(".config/belay/belay.conf"), 0);
}

static void a_file_that_hides_its_size_stays_bounded(void **state)
{
    struct belay__file file;
    belay_error err = BELAY_ERROR_INIT;

    (void)state;
    assert_int_equal(belay__file_read(&file, "/proc/self/maps", 16, NULL, NULL, &err),
                     BELAY_CONFIG);
    assert_string_equal(err.text, "/proc/self/maps: is too large");
    assert_int_equal(belay__file_read(&file, "/proc/self/comm", 64, NULL, NULL, &err), BELAY_OK);
    assert_true(file.length > 0);
    belay__file_free(&file);
}

static void every_failing_allocation_of_the_chain_is_a_clean_nomem(void **state)
{
    belay_status status = BELAY_NOMEM;
    belay_error err = BELAY_ERROR_INIT;
    char *place = NULL;

    (void)state;
    clean_environment();
    unsetenv("HOME");
    if (machine_has_a_file()) return;
    for (long n = 0; status == BELAY_NOMEM; n++) {
        struct poor_world poor = POOR_WORLD(n);
        status = belay__place_find(&place, NULL, &poor.base, &err);
        assert_true(status == BELAY_OK || (status == BELAY_NOMEM && place == NULL));
    }
    assert_int_equal(status, BELAY_OK);
    free(place);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(without_any_file_the_default_is_sqlite_without_settings),
        cmocka_unit_test(the_working_directory_is_never_searched),
        cmocka_unit_test(belay_config_comes_first_and_may_be_a_url),
        cmocka_unit_test(what_the_caller_names_is_taken_before_the_environment),
        cmocka_unit_test(a_missing_file_in_belay_config_is_an_error),
        cmocka_unit_test(the_user_s_file_is_in_xdg_config_home_or_in_config_below_home),
        cmocka_unit_test(without_home_the_password_file_s_entry_is_asked),
        cmocka_unit_test(a_file_of_the_chain_that_is_no_file_is_an_error_and_not_skipped),
        cmocka_unit_test(a_file_of_the_chain_that_cannot_be_read_is_an_error_and_not_skipped),
        cmocka_unit_test(a_file_that_hides_its_size_stays_bounded),
        cmocka_unit_test(every_failing_allocation_of_the_chain_is_a_clean_nomem),
    };

    return cmocka_run_group_tests(tests, folder_setup, folder_teardown) != 0;
}
