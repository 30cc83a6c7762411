/* config_include_test.c - configurations of several files, and files that are none. */
#define _GNU_SOURCE
#include "tests/unit/config_fakes.h"

static void an_include_is_read_beside_the_file_that_names_it(void **state)
{
    struct belay__config *config;

    (void)state;
    mkdir("sub", 0755);
    file_write("sub/top.conf", "backends: {\n  @include \"deep/a.conf\" # "
                               "here\n};\n\t@include\t\"ttl.conf\" prefix = \"p:\";\n");
    mkdir("sub/deep", 0755);
    file_write("sub/deep/a.conf", "a: { type = \"plain\"; @include_is_not_this = 1; };");
    refused_where(
        "sub/top.conf", BELAY_CONFIG,
        "sub/deep/a.conf:1: a '@' stands only in @include \"FILE\", at the beginning of a line");
    file_write("sub/deep/a.conf", "a: { type = \"plain\"; };");
    file_write("sub/ttl.conf", "ttl = \"3s\";");
    config = loaded("sub/top.conf");
    assert_int_equal(config->ttl_ms, 3000);
    assert_string_equal(config->prefix, "p:");
    belay__config_free(config);
}

static void a_mistake_in_an_include_is_told_with_its_own_file_and_line(void **state)
{
    (void)state;
    file_write("inc.conf", "\n\nttl = 3;\n");
    refused(
        "use = \"plain:\";\n@include \"inc.conf\"\n",
        "inc.conf:3: ttl: 3 has no unit: a duration is a string with one: \"3s\" (ms, s, m, h, d)");
    file_write("inc.conf", "ttl = \"3s\";\n");
    refused("use = \"plain:\";\n@include \"inc.conf\"\n\nkeep = 1;",
            "c.conf:4: keep: 1 is not what is wanted: true or false, without quotes");
}

static void an_include_of_itself_is_refused(void **state)
{
    (void)state;
    refused("\n@include \"c.conf\"\n", "c.conf:2: the file includes itself");
    refused("@include \"./c.conf\"\n", "c.conf:1: the file includes itself");
    file_write("b.conf", "\n@include \"c.conf\"\n");
    refused("@include \"b.conf\"\n", "b.conf:2: the include leads back to c.conf");
}

static void an_include_of_a_directory_is_refused(void **state)
{
    (void)state;
    mkdir("folder", 0755);
    refused("\n@include \"folder\"\n", "c.conf:2: folder: is a directory, not a file");
}

static void an_include_of_a_fifo_is_refused_at_once(void **state)
{
    (void)state;
    assert_int_equal(mkfifo("pipe", 0644), 0);
    refused("@include \"pipe\"\n", "c.conf:1: pipe: is a pipe, not a regular file");
    refused_where("pipe", BELAY_CONFIG, "pipe: is a pipe, not a regular file");
}

static void an_include_of_a_device_or_of_nothing_is_refused(void **state)
{
    (void)state;
    refused("@include \"/dev/zero\"\n", "c.conf:1: /dev/zero: is a device, not a regular file");
    refused("@include \"absent.conf\"\n", "c.conf:1: absent.conf: No such file or directory");
    refused("@include \"\"\n", "c.conf:1: the included file's name is empty");
    refused("@include absent.conf\n", "c.conf:1: an include is one line: @include \"FILE\"");
    refused("@include \"a\nb\"", "c.conf:1: an include is one line: @include \"FILE\"");
}

static void includes_are_at_most_ten_deep(void **state)
{
    char name[32], text[64];

    (void)state;
    for (int i = 0; i < 12; i++) {
        snprintf(name, sizeof(name), "d%d.conf", i);
        snprintf(text, sizeof(text), "@include \"d%d.conf\"\n", i + 1);
        file_write(name, text);
    }
    refused_where("d0.conf", BELAY_CONFIG, "d10.conf:1: includes are more than 10 deep");
    file_write("d10.conf", "use = \"plain:\";");
    belay__config_free(loaded("d0.conf"));
}

static void many_small_includes_are_refused(void **state)
{
    char text[8192] = "";

    (void)state;
    file_write("empty.conf", "\n");
    for (int i = 0; i < 70; i++) strcat(text, "@include \"empty.conf\"\n");
    refused(text, "c.conf:64: more than 64 files are included");
}

static void a_file_over_a_mebibyte_is_refused(void **state)
{
    size_t length = (1u << 20) + 1;
    char *text = malloc(length);

    (void)state;
    memset(text, '\n', length);
    file_write_bytes("c.conf", text, length, 0644);
    free(text);
    refused_where("c.conf", BELAY_CONFIG, "c.conf: is too large");
}

static void a_missing_file_or_a_folder_is_refused(void **state)
{
    (void)state;
    refused_where("absent.conf", BELAY_CONFIG, "absent.conf: No such file or directory");
    refused_where("/tmp", BELAY_CONFIG, "/tmp: is a directory, not a file");
    refused_where("", BELAY_INVALID, "the config file's path is empty");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_include_is_read_beside_the_file_that_names_it),
        cmocka_unit_test(a_mistake_in_an_include_is_told_with_its_own_file_and_line),
        cmocka_unit_test(an_include_of_itself_is_refused),
        cmocka_unit_test(an_include_of_a_directory_is_refused),
        cmocka_unit_test(an_include_of_a_fifo_is_refused_at_once),
        cmocka_unit_test(an_include_of_a_device_or_of_nothing_is_refused),
        cmocka_unit_test(includes_are_at_most_ten_deep),
        cmocka_unit_test(many_small_includes_are_refused),
        cmocka_unit_test(a_file_over_a_mebibyte_is_refused),
        cmocka_unit_test(a_missing_file_or_a_folder_is_refused),
    };

    return cmocka_run_group_tests(tests, folder_setup, folder_teardown) != 0;
}
