/* settings_test.c - values from text, the getters, secrets. */
#define _GNU_SOURCE
#include "tests/unit/config_fakes.h"

#include "core/suggest.h"
#include "core/value.h"

#include <fcntl.h>
#include <sys/wait.h>

/* ------------------------------------------------------------------ values from text */

static void durations_are_whole_numbers_with_a_unit(void **state)
{
    static const struct {
        const char *text;
        int64_t ms;
    } good[] = { { "0s", 0 },         { "1ms", 1 },     { "500ms", 500 },
                 { "10s", 10000 },    { "2m", 120000 }, { "1h", 3600000 },
                 { "7d", 604800000 }, { "007s", 7000 }, { "106751d", INT64_C(9223286400000) } };
    static const char *const bad[] = { "",
                                       "10",
                                       "s",
                                       "10 s",
                                       " 10s",
                                       "10s ",
                                       "-5s",
                                       "+5s",
                                       "1.5s",
                                       "1e3s",
                                       "10S",
                                       "10sec",
                                       "1h30m",
                                       "10us",
                                       "0x1s",
                                       "ten",
                                       "1e18s",
                                       "1000000000000000000s",
                                       "9223372036854775808ms",
                                       "99999999999999999999999999d",
                                       "106752d",
                                       "\n1s" };
    int64_t ms;

    (void)state;
    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
        assert_null(belay__duration_parse(good[i].text, &ms));
        assert_true(ms == good[i].ms);
    }
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        ms = 77;
        if (belay__duration_parse(bad[i], &ms) == NULL) fail_msg("\"%s\" was taken", bad[i]);
        assert_int_equal(ms, 77);
    }
}

static void a_duration_is_shown_in_its_largest_whole_unit(void **state)
{
    char out[BELAY__DURATION];

    (void)state;
    assert_string_equal(belay__duration_show(out, 0), "0s");
    assert_string_equal(belay__duration_show(out, 1), "1ms");
    assert_string_equal(belay__duration_show(out, 1500), "1500ms");
    assert_string_equal(belay__duration_show(out, 90000), "90s");
    assert_string_equal(belay__duration_show(out, 120000), "2m");
    assert_string_equal(belay__duration_show(out, 604800000), "7d");
    assert_string_equal(belay__duration_show(out, 604800001), "604800001ms");
}

static void integers_modes_and_booleans_from_text(void **state)
{
    int64_t number;
    bool yes;

    (void)state;
    assert_null(belay__integer_parse("-9223372036854775808", &number));
    assert_true(number == INT64_MIN);
    assert_null(belay__integer_parse("0", &number));
    assert_int_equal(number, 0);
    assert_non_null(belay__integer_parse("9223372036854775808", &number));
    assert_non_null(belay__integer_parse("010", &number));
    assert_non_null(belay__integer_parse("", &number));
    assert_non_null(belay__integer_parse("-", &number));
    assert_non_null(belay__integer_parse(" 1", &number));
    assert_non_null(belay__integer_parse("1 ", &number));
    assert_null(belay__mode_parse("0640", &number));
    assert_int_equal(number, 0640);
    assert_null(belay__mode_parse("7777", &number));
    assert_int_equal(number, 07777);
    assert_non_null(belay__mode_parse("0o640", &number));
    assert_non_null(belay__mode_parse("64", &number));
    assert_non_null(belay__mode_parse("00640", &number));
    assert_non_null(belay__mode_parse("-640", &number));
    assert_null(belay__boolean_parse("false", &yes));
    assert_false(yes);
    assert_non_null(belay__boolean_parse("1", &yes));
    assert_non_null(belay__boolean_parse("TRUE", &yes));
}

static void reals_from_text(void **state)
{
    static const char *const bad[] = { "",    ".",    "-",  "e5",    "1,5", "1.5.2", "inf",
                                       "nan", "0x10", "1e", "1e999", "1 ",  "--1" };
    double real;

    (void)state;
    assert_null(belay__real_parse("0.25", &real));
    assert_true(real == 0.25);
    assert_null(belay__real_parse("-1e2", &real));
    assert_true(real == -100);
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        if (belay__real_parse(bad[i], &real) == NULL) fail_msg("\"%s\" was taken", bad[i]);
    }
}

/* ------------------------------------------------------------------ words */

static const char *nearest(const char *wanted, const char *a, const char *b)
{
    struct belay__nearest near = { .wanted = wanted };

    belay__nearest_offer(&near, a);
    belay__nearest_offer(&near, b);
    return near.word != NULL ? near.word : "";
}

static void the_nearest_word_is_suggested_and_a_far_one_is_not(void **state)
{
    (void)state;
    assert_string_equal(nearest("pathh", "mode", "path"), "path");
    assert_string_equal(nearest("apth", "mode", "path"), "path");
    assert_string_equal(nearest("tmeout", "timeout", "ttl"), "timeout");
    assert_string_equal(nearest("time_out", "timeout", "ttl"), "timeout");
    assert_string_equal(nearest("zebra", "path", "mode"), "");
    assert_string_equal(nearest("a", "b", "c"), "");
    assert_string_equal(nearest("", "b", ""), "");
    assert_string_equal(nearest("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "a",
                                "b"),
                        "");
}

static void quoted_text_is_short_and_shows_no_control_characters(void **state)
{
    char out[BELAY__QUOTE], at[BELAY__AT], text[400];

    (void)state;
    assert_string_equal(belay__quote(out, "a\nb\x7f"), "\"a\\x0ab\\x7f\"");
    assert_string_equal(belay__quote(out, ""), "\"\"");
    assert_string_equal(belay__quote(out, "\xc3\xa4"), "\"\xc3\xa4\"");
    assert_string_equal(belay__quote(out, "\xa0\xc3"), "\"\\xa0\\xc3\"");
    assert_string_equal(belay__quote(out, "\xc2\x9b"), "\"\\xc2\\x9b\"");
    memset(text, '\n', sizeof(text) - 1);
    text[sizeof(text) - 1] = '\0';
    assert_true(strlen(belay__quote(out, text)) < BELAY__QUOTE);
    assert_true(strlen(belay__at(at, text, 4294967295u)) < BELAY__AT);
    for (size_t shift = 0; shift < 2; shift++) { /* never half a character */
        for (size_t i = 0; i + 2 < sizeof(text); i += 2) memcpy(text + shift + i, "\xc3\xa4", 2);
        text[0] = shift ? 'x' : text[0];
        text[sizeof(text) - 3] = '\0';
        belay__quote(out, text);
        assert_true(strlen(out) < BELAY__QUOTE);
        assert_int_equal((unsigned char)out[strlen(out) - 5], 0xa4);
    }
    memset(text, 'a', sizeof(text) - 1);
    memcpy(text + sizeof(text) - 6, ".conf", 6);
    belay__at(at, text, 7);
    assert_int_equal(strncmp(at, "...aaa", 6), 0);
    assert_non_null(strstr(at, "a.conf:7"));
}

/* ------------------------------------------------------------------ getters */

static belay_settings *settings_of(const belay_setting_spec *keys)
{
    belay_settings *s = NULL;

    assert_int_equal(belay__settings_new(&s, keys, belay__common_keys, "a thing", "here:1", NULL,
                                         NULL),
                     BELAY_OK);
    return s;
}

static belay_status put_text(belay_settings *s, const char *key, const char *text, belay_error *err)
{
    struct belay__raw raw = { .kind = BELAY__RAW_TEXT, .text = text };

    return belay__settings_put(s, key, &raw, "there:5", false, err);
}

static belay_settings *plain_finished(void)
{
    belay_settings *s = settings_of(plain_keys);

    assert_int_equal(put_text(s, "type", "plain", NULL), BELAY_OK);
    assert_int_equal(belay__settings_finish(s, NULL), BELAY_OK);
    return s;
}

static void what_was_not_written_has_its_default_and_is_not_given(void **state)
{
    belay_settings *s = plain_finished();

    (void)state;
    assert_null(belay_settings_string(s, "path"));
    assert_int_equal(belay_settings_count(s, "path"), 0);
    assert_int_equal(belay_settings_integer(s, "size"), 4);
    assert_int_equal(belay_settings_count(s, "size"), 1);
    assert_true(belay_settings_real(s, "ratio") == 0.5);
    assert_true(belay_settings_boolean(s, "sync"));
    assert_int_equal(belay_settings_duration_ms(s, "pause"), 1000);
    assert_int_equal(belay_settings_duration_ms(s, "age"), 0);
    assert_int_equal(belay_settings_integer(s, "mode"), 0600);
    assert_string_equal(belay_settings_string(s, "policy"), "local");
    assert_null(belay_settings_string(s, "password"));
    assert_int_equal(belay_settings_count(s, "nodes"), 2);
    assert_string_equal(belay_settings_item(s, "nodes", 0), "one");
    assert_string_equal(belay_settings_item(s, "nodes", 1), "two");
    assert_false(belay_settings_given(s, "size"));
    assert_true(belay_settings_given(s, "type"));
    belay__settings_free(s);
}

static void wrong_names_the_place_of_the_key_and_of_the_part_where_it_was_not_written(void **state)
{
    belay_settings *s = settings_of(plain_keys);
    belay_error err = BELAY_ERROR_INIT;

    (void)state;
    assert_int_equal(put_text(s, "path", "/x", NULL), BELAY_OK);
    assert_int_equal(belay_settings_wrong(s, "path", &err, "no %s in %d", "file", 7), BELAY_CONFIG);
    assert_string_equal(err.text, "there:5: path: no file in 7");
    assert_int_equal(err.status, BELAY_CONFIG);
    assert_int_equal(belay_settings_wrong(s, "size", &err, "odd"), BELAY_CONFIG);
    assert_string_equal(err.text, "here:1: size: odd");
    belay__settings_free(s);
}

static void a_default_that_is_none_is_an_error_not_a_crash(void **state)
{
    static const belay_setting_spec keys[] = {
        { .key = "age", .type = BELAY_SETTING_DURATION, .initial = "soon" }, { 0 }
    };
    belay_settings *s = settings_of(keys);
    belay_error err = BELAY_ERROR_INIT;

    (void)state;
    assert_int_equal(put_text(s, "type", "x", NULL), BELAY_OK);
    assert_int_equal(belay__settings_finish(s, &err), BELAY_CONFIG);
    assert_string_equal(err.text, "here:1: age: \"soon\" is not a duration: a whole number and a "
                                  "unit (ms, s, m, h, d): \"10s\"");
    belay__settings_free(s);
}

/* In a child, since debug builds abort. 0: it returned what it should. */
static int asked_for_a_key_that_is_none(void)
{
    pid_t pid = fork();
    int how = 0;

    assert_true(pid >= 0);
    if (pid == 0) {
        belay_settings *s = plain_finished();
        (void)!freopen("/dev/null", "w", stderr);
        _exit(belay_settings_string(s, "nothing") == NULL && belay_settings_integer(s, "path") == 0
                  ? 0
                  : 1);
    }
    assert_int_equal(waitpid(pid, &how, 0), pid);
    return how;
}

static void asking_for_a_key_that_is_none_aborts_in_debug_builds(void **state)
{
    int how = asked_for_a_key_that_is_none();

    (void)state;
#ifdef NDEBUG
    assert_true(WIFEXITED(how));
    assert_int_equal(WEXITSTATUS(how), 0);
#else
    assert_true(WIFSIGNALED(how));
    assert_int_equal(WTERMSIG(how), SIGABRT);
#endif
}

/* ------------------------------------------------------------------ secrets */

/* Loads a "net" backend with that line; its password, or the error's text in `message`. */
static belay_status password_of(const char *line, mode_t mode, char out[64], belay_error *err)
{
    struct belay__config *config = NULL;
    char text[512];
    belay_status status;

    snprintf(text, sizeof(text), "backends: { a: { type = \"net\"; host = ( \"h\" );\n%s\n}; };\n",
             line);
    file_write_bytes("c.conf", text, strlen(text), mode);
    out[0] = '\0';
    status = belay__config_load(&config, "c.conf", &fake_registry, NULL, err);
    if (status == BELAY_OK) {
        const char *password = belay_settings_string(config->backends[0].settings, "password");
        if (password != NULL) snprintf(out, 64, "%s", password);
    }
    belay__config_free(config);
    return status;
}

static void password_is(const char *line, const char *want)
{
    belay_error err = BELAY_ERROR_INIT;
    char out[64];
    belay_status status = password_of(line, 0600, out, &err);

    if (status != BELAY_OK) print_error("%s\n", err.text);
    assert_int_equal(status, BELAY_OK);
    assert_string_equal(out, want);
}

static void password_refused(const char *line, mode_t mode, belay_status want, const char *message)
{
    belay_error err = BELAY_ERROR_INIT;
    char out[64];

    assert_int_equal(password_of(line, mode, out, &err), want);
    assert_string_equal(err.text, message);
}

/* A line that names `file` in the test's folder. */
static const char *file_line(const char *file)
{
    static char line[160];

    snprintf(line, sizeof(line), "password_file = \"%s/%s\";", fake_folder, file);
    return line;
}

static void a_secret_comes_from_the_key_a_file_the_environment_or_a_credential(void **state)
{
    (void)state;
    password_is("", "");
    password_is("password = \"hush\";", "hush");
    file_write("pw", "from file\n");
    password_is(file_line("pw"), "from file");
    file_write("pw", "crlf\r\n");
    password_is(file_line("pw"), "crlf");
    file_write("pw", " two\n\n");
    password_is(file_line("pw"), " two\n");
    setenv("TEST_PASSWORD", "from env", 1);
    password_is("password_env = \"TEST_PASSWORD\";", "from env");
    setenv("CREDENTIALS_DIRECTORY", fake_folder, 1);
    file_write("cred", "from credential");
    password_is("password_credential = \"cred\";", "from credential");
}

static void a_secret_given_in_two_ways_is_refused(void **state)
{
    (void)state;
    password_refused(
        "password = \"a\";\npassword_env = \"HOME\";", 0600, BELAY_CONFIG,
        "c.conf:3: password_env: the secret was given before (c.conf:2); give one of password, "
        "password_file, password_env, password_credential");
}

static void a_secret_in_a_file_that_others_can_read_is_refused(void **state)
{
    (void)state;
    password_refused("password = \"a\";", 0644, BELAY_REFUSED,
                     "c.conf:2: holds a password and others can read it: chmod 600 c.conf");
    password_refused("password = \"a\";", 0640, BELAY_REFUSED,
                     "c.conf:2: holds a password and others can read it: chmod 600 c.conf");
    password_refused("password = \"a\";", 0604, BELAY_REFUSED,
                     "c.conf:2: holds a password and others can read it: chmod 600 c.conf");
    setenv("TEST_PASSWORD", "x", 1);
    file_write("c.conf", "use = \"net://u:hush@h\";");
    belay_error err = BELAY_ERROR_INIT;
    struct belay__config *config = NULL;
    assert_int_equal(belay__config_load(&config, "c.conf", &fake_registry, NULL, &err),
                     BELAY_REFUSED);
    assert_string_equal(err.text,
                        "c.conf:1: holds a password and others can read it: chmod 600 c.conf");
    file_write("c.conf", "use = \"nets://u@h?password=hush\";");
    assert_int_equal(belay__config_load(&config, "c.conf", &fake_registry, NULL, &err),
                     BELAY_REFUSED);
    file_write("c.conf",
               "use = \"p\"; backends: { p: { type = \"pair\"; first = \"net://u:hush@h\"; }; };");
    assert_int_equal(belay__config_load(&config, "c.conf", &fake_registry, NULL, &err),
                     BELAY_REFUSED);
}

static void what_counts_is_the_file_that_the_secret_stands_in(void **state)
{
    struct belay__config *config = NULL;
    belay_error err = BELAY_ERROR_INIT;

    (void)state;
    file_write_bytes("secret.conf", "\npassword = \"a\";\n", 17, 0600);
    file_write(
        "c.conf",
        "backends: { a: { type = \"net\"; host = ( \"h\" );\n@include \"secret.conf\"\n}; };");
    assert_int_equal(belay__config_load(&config, "c.conf", &fake_registry, NULL, &err), BELAY_OK);
    belay__config_free(config);
    assert_int_equal(chmod("secret.conf", 0644), 0);
    assert_int_equal(chmod("c.conf", 0600), 0);
    assert_int_equal(belay__config_load(&config, "c.conf", &fake_registry, NULL, &err),
                     BELAY_REFUSED);
    assert_string_equal(
        err.text, "secret.conf:2: holds a password and others can read it: chmod 600 secret.conf");
}

static void a_secret_that_cannot_be_had_is_an_error_that_names_where(void **state)
{
    char message[256], big[70000];

    (void)state;
    unsetenv("TEST_PASSWORD");
    password_refused(
        "password_env = \"TEST_PASSWORD\";", 0644, BELAY_CONFIG,
        "c.conf:2: password_env: the environment variable \"TEST_PASSWORD\" is not set");
    setenv("TEST_PASSWORD", "", 1);
    password_refused("password_env = \"TEST_PASSWORD\";", 0644, BELAY_CONFIG,
                     "c.conf:2: password_env: the environment variable \"TEST_PASSWORD\" is empty");
    password_refused("password_file = \"pw\";", 0644, BELAY_CONFIG,
                     "c.conf:2: password_file: \"pw\" is not an absolute path");
    password_refused("password = 5;", 0644, BELAY_CONFIG,
                     "c.conf:2: password: a string is wanted, in quotes");
    password_refused("password = \"\";", 0644, BELAY_CONFIG, "c.conf:2: password: is empty");
    password_refused("password_credential = \"../x\";", 0644, BELAY_CONFIG,
                     "c.conf:2: password_credential: \"../x\" is not a credential's name");
    unsetenv("CREDENTIALS_DIRECTORY");
    password_refused("password_credential = \"x\";", 0644, BELAY_CONFIG,
                     "c.conf:2: password_credential: CREDENTIALS_DIRECTORY is not set: systemd "
                     "sets it where the "
                     "unit has LoadCredential=");
    snprintf(message, sizeof(message), "c.conf:2: %s/absent: No such file or directory",
             fake_folder);
    password_refused(file_line("absent"), 0644, BELAY_CONFIG, message);
    file_write("none", "\n");
    snprintf(message, sizeof(message), "c.conf:2: password_file: %s/none is empty", fake_folder);
    password_refused(file_line("none"), 0644, BELAY_CONFIG, message);
    memset(big, 'x', sizeof(big));
    file_write_bytes("big", big, sizeof(big), 0600);
    snprintf(message, sizeof(message), "c.conf:2: %s/big: is too large", fake_folder);
    password_refused(file_line("big"), 0644, BELAY_CONFIG, message);
    file_write_bytes("nul", "a\0b", 3, 0600);
    snprintf(message, sizeof(message), "c.conf:2: password_file: %s/nul has a NUL byte in it",
             fake_folder);
    password_refused(file_line("nul"), 0644, BELAY_CONFIG, message);
    assert_int_equal(mkfifo("pipe", 0600), 0);
    snprintf(message, sizeof(message), "c.conf:2: %s/pipe: is a pipe, not a regular file",
             fake_folder);
    password_refused(file_line("pipe"), 0644, BELAY_CONFIG, message);
}

/* ------------------------------------------------------------------ wiping */

#define TRACE_LENGTH 64

/* A secret that stands nowhere in this program: its letters are made when they are needed. */
static char trace_letter(size_t i)
{
    return (char)('A' + (i * 7 + i / 5) % 26);
}

/* How often the end of the secret (a freed block's beginning is the allocator's) stands in what the
 * process may write. */
static int traces_in(const char *bytes, size_t length)
{
    int count = 0;

    for (size_t at = 0; at + 32 <= length; at++) {
        size_t n = 0;
        while (n < 32 && bytes[at + n] == trace_letter(TRACE_LENGTH - 32 + n)) n++;
        count += n == 32;
    }
    return count;
}

static int traces_in_memory(void)
{
    static char page[1 << 16];
    FILE *maps = fopen("/proc/self/maps", "r");
    int memory = open("/proc/self/mem", O_RDONLY), count = 0;
    unsigned long from, to;
    char line[512], mode[8];

    assert_non_null(maps);
    assert_true(memory >= 0);
    while (fgets(line, sizeof(line), maps) != NULL) {
        if (sscanf(line, "%lx-%lx %7s", &from, &to, mode) != 3 || mode[1] != 'w') continue;
        if (to - from > 1ul << 30) continue; /* a sanitizer's shadow */
        for (; from < to; from += sizeof(page) / 2) {
            ssize_t got;
            if (from <= (unsigned long)page + sizeof(page) &&
                from + sizeof(page) > (unsigned long)page)
                continue;
            got = pread(memory, page,
                        sizeof(page) / 2 + 31 < to - from ? sizeof(page) / 2 + 31 : to - from,
                        (off_t)from);
            if (got > 0) count += traces_in(page, (size_t)got);
        }
    }
    close(memory);
    fclose(maps);
    return count;
}

static void a_secret_from_a_file_is_wiped_from_memory(void **state)
{
    struct belay__config *config = NULL;
    char text[256], secret[TRACE_LENGTH];
    int file = open("trace", O_WRONLY | O_CREAT, 0600);

    (void)state;
    for (size_t i = 0; i < TRACE_LENGTH; i++) secret[i] = trace_letter(i);
    assert_int_equal(write(file, secret, TRACE_LENGTH), TRACE_LENGTH);
    close(file);
    explicit_bzero(secret, sizeof(secret));
    snprintf(text, sizeof(text), "backends: { a: { type = \"net\"; host = ( \"h\" ); %s }; };",
             file_line("trace"));
    file_write("c.conf", text);
    assert_int_equal(belay__config_load(&config, "c.conf", &fake_registry, NULL, NULL), BELAY_OK);
    assert_int_equal(traces_in_memory(), 1);
    belay__config_free(config);
    assert_int_equal(traces_in_memory(), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(durations_are_whole_numbers_with_a_unit),
        cmocka_unit_test(a_duration_is_shown_in_its_largest_whole_unit),
        cmocka_unit_test(integers_modes_and_booleans_from_text),
        cmocka_unit_test(reals_from_text),
        cmocka_unit_test(the_nearest_word_is_suggested_and_a_far_one_is_not),
        cmocka_unit_test(quoted_text_is_short_and_shows_no_control_characters),
        cmocka_unit_test(what_was_not_written_has_its_default_and_is_not_given),
        cmocka_unit_test(wrong_names_the_place_of_the_key_and_of_the_part_where_it_was_not_written),
        cmocka_unit_test(a_default_that_is_none_is_an_error_not_a_crash),
        cmocka_unit_test(asking_for_a_key_that_is_none_aborts_in_debug_builds),
        cmocka_unit_test(a_secret_comes_from_the_key_a_file_the_environment_or_a_credential),
        cmocka_unit_test(a_secret_given_in_two_ways_is_refused),
        cmocka_unit_test(a_secret_in_a_file_that_others_can_read_is_refused),
        cmocka_unit_test(what_counts_is_the_file_that_the_secret_stands_in),
        cmocka_unit_test(a_secret_from_a_file_is_wiped_from_memory),
        cmocka_unit_test(a_secret_that_cannot_be_had_is_an_error_that_names_where),
    };

    return cmocka_run_group_tests(tests, folder_setup, folder_teardown) != 0;
}
