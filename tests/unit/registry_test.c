/* registry_test.c - tables are found by type and scheme, and a table that is not sound is refused.
 */
#define _GNU_SOURCE
#include "tests/unit/config_fakes.h"

static const struct belay__registry *registry_of(const belay_backend_ops *own)
{
    static const belay_backend_ops *tables[2];
    static struct belay__registry registry;

    tables[0] = own;
    registry = (struct belay__registry){ tables, fake_tables };
    return &registry;
}

static void table_refused(const belay_backend_ops *own, const char *type, const char *message)
{
    const belay_backend_ops *found = &plain_ops;
    belay_error err = BELAY_ERROR_INIT;

    assert_int_equal(belay__registry_find(registry_of(own), type, &found, &err), BELAY_CONFIG);
    assert_null(found);
    assert_string_equal(err.text, message);
}

static void a_table_is_found_by_its_type_and_by_each_scheme(void **state)
{
    const belay_backend_ops *found = NULL;

    (void)state;
    assert_int_equal(belay__registry_find(&fake_registry, "net", &found, NULL), BELAY_OK);
    assert_ptr_equal(found, &net_ops);
    assert_int_equal(belay__registry_find_scheme(&fake_registry, "nets://x", 4, &found, NULL),
                     BELAY_OK);
    assert_ptr_equal(found, &net_ops);
    assert_int_equal(belay__registry_find_scheme(&fake_registry, "plain:", 5, &found, NULL),
                     BELAY_OK);
    assert_ptr_equal(found, &plain_ops);
    assert_int_equal(belay__registry_find_scheme(&fake_registry, "plain:", 4, &found, NULL),
                     BELAY_CONFIG);
    assert_null(found);
}

static void the_program_s_own_table_is_found_first(void **state)
{
    belay_backend_ops own = plain_ops;
    const belay_backend_ops *found = NULL;

    (void)state;
    assert_int_equal(belay__registry_find(registry_of(&own), "plain", &found, NULL), BELAY_OK);
    assert_ptr_equal(found, &own);
    assert_int_equal(belay__registry_find(registry_of(&own), "net", &found, NULL), BELAY_OK);
    assert_ptr_equal(found, &net_ops);
}

static void a_foreign_abi_is_refused_before_anything_else_is_read(void **state)
{
    belay_backend_ops own = plain_ops;

    (void)state;
    own.abi = 7;
    own.type = (const char *)1; /* not to be read */
    table_refused(&own, "plain",
                  "table 0 of options.backends has abi 7, this library speaks 1: it was built for "
                  "another belay");
}

static void a_table_that_is_too_small_is_refused(void **state)
{
    belay_backend_ops own = plain_ops;
    char message[160];

    (void)state;
    own.size = 16;
    own.type = (const char *)1;
    snprintf(message, sizeof(message),
             "table 0 of options.backends has 16 bytes, at least %zu are needed: begin it with "
             "BELAY_OPS_HEAD",
             sizeof(belay_backend_ops));
    table_refused(&own, "plain", message);
}

static void a_larger_table_of_a_later_version_is_taken(void **state)
{
    belay_backend_ops own = plain_ops;
    const belay_backend_ops *found = NULL;

    (void)state;
    own.size += 8;
    assert_int_equal(belay__registry_find(registry_of(&own), "plain", &found, NULL), BELAY_OK);
}

static void a_table_without_a_required_verb_is_refused_by_the_verb_s_name(void **state)
{
    belay_backend_ops own[5];
    static const char *const verbs[] = { "create", "destroy", "acquire", "release", "extend" };

    (void)state;
    for (int i = 0; i < 5; i++) own[i] = plain_ops;
    own[0].create = NULL;
    own[1].destroy = NULL;
    own[2].acquire = NULL;
    own[3].release = NULL;
    own[4].extend = NULL;
    for (int i = 0; i < 5; i++) {
        char message[80];
        snprintf(message, sizeof(message), "the table of backend type \"plain\" has no %s",
                 verbs[i]);
        table_refused(&own[i], "plain", message);
    }
}

static void a_table_without_a_type_is_refused(void **state)
{
    belay_backend_ops own = plain_ops;

    (void)state;
    own.type = NULL;
    table_refused(
        &own, "plain",
        "table 0 of options.backends has no type, or one that is not letters, digits and '-'");
    own.type = "a b";
    table_refused(
        &own, "plain",
        "table 0 of options.backends has no type, or one that is not letters, digits and '-'");
}

static void a_table_with_unsound_keys_is_refused(void **state)
{
    belay_backend_ops own = plain_ops;
    belay_setting_spec keys[2] = { { .key = "timeout", .type = BELAY_SETTING_DURATION }, { 0 } };

    (void)state;
    own.settings = keys;
    table_refused(
        &own, "plain",
        "the table of backend type \"plain\": its key \"timeout\" is core's own, and every "
        "backend has it");
    keys[0] = (belay_setting_spec){ .key = "x", .type = BELAY_SETTING_CHOICE };
    table_refused(&own, "plain",
                  "the table of backend type \"plain\": its key \"x\" has no choices");
    keys[0] = (belay_setting_spec){ .key = "x", .type = (belay_setting_type)99 };
    table_refused(&own, "plain",
                  "the table of backend type \"plain\": its key \"x\" is of an unknown type");
    keys[0] = (belay_setting_spec){ .key = "x", .type = BELAY_SETTING_INTEGER, .min = 2, .max = 1 };
    table_refused(
        &own, "plain",
        "the table of backend type \"plain\": its key \"x\" has a smallest value above its "
        "largest");
}

static void an_unknown_type_lists_what_is_known(void **state)
{
    const struct belay__registry none = { NULL, NULL };
    const belay_backend_ops *found;
    belay_error err = BELAY_ERROR_INIT;

    (void)state;
    table_refused(NULL, "redis",
                  "there is no backend type \"redis\" (known: plain, pair, net, sqlite)");
    table_refused(
        NULL, "sqllite",
        "there is no backend type \"sqllite\"; did you mean \"sqlite\"? (known: plain, pair, "
        "net, sqlite)");
    assert_int_equal(belay__registry_find(&none, "a", &found, &err), BELAY_CONFIG);
    assert_string_equal(err.text, "there is no backend type \"a\" (known: none)");
}

/* ------------------------------------------------------------------ describing */

struct lines {
    char text[4096];
    int count;
};

static void line_keep(void *arg, const char *line)
{
    struct lines *lines = arg;

    strcat(lines->text, line);
    strcat(lines->text, "\n");
    lines->count++;
}

static void describe_lists_the_types_with_their_reach_and_urls(void **state)
{
    struct lines lines = { "", 0 };

    (void)state;
    belay__describe(&fake_registry, NULL, line_keep, &lines);
    assert_string_equal(lines.text, "plain        host     plain:\n"
                                    "pair         fleet    pair:\n"
                                    "net          any      net:, nets:\n"
                                    "sqlite       any      sqlite:\n");
}

static void describe_shows_every_key_with_type_range_default_and_help(void **state)
{
    struct lines lines = { "", 0 };

    (void)state;
    belay__describe(&fake_registry, "plain", line_keep, &lines);
    assert_int_equal(lines.count, 14);
    assert_non_null(strstr(lines.text, "path      string     a file\n"));
    assert_non_null(strstr(lines.text, "size      integer    1 to 64  default 4  how many\n"));
    assert_non_null(strstr(lines.text, "pause     duration   10ms to 1m  default 1s"));
    assert_non_null(strstr(lines.text, "policy    choice     local|closed  default local"));
    assert_non_null(strstr(lines.text, "timeout   duration   1ms to 1h  default 500ms  how long"));
    lines = (struct lines){ "", 0 };
    belay__describe(&fake_registry, "pair", line_keep, &lines);
    assert_non_null(
        strstr(lines.text, "first    backend    required  the one that is asked first\n"));
    assert_non_null(strstr(lines.text, "default 2s"));
    lines = (struct lines){ "", 0 };
    belay__describe(&fake_registry, "nett", line_keep, &lines);
    assert_int_equal(lines.count, 0);
}

static void describe_says_that_a_timeout_is_the_children_s_sum(void **state)
{
    belay_backend_ops sum = pair_ops;
    struct lines lines = { "", 0 };

    (void)state;
    sum.type = "sum";
    sum.timeout_of_children = true;
    belay__describe(registry_of(&sum), "sum", line_keep, &lines);
    assert_non_null(strstr(lines.text, "default 2s and the sum of its backends'  how long"));
    sum.timeout_ms = 0;
    lines = (struct lines){ "", 0 };
    belay__describe(registry_of(&sum), "sum", line_keep, &lines);
    assert_non_null(strstr(lines.text, "default the sum of its backends'  how long"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_table_is_found_by_its_type_and_by_each_scheme),
        cmocka_unit_test(the_program_s_own_table_is_found_first),
        cmocka_unit_test(a_foreign_abi_is_refused_before_anything_else_is_read),
        cmocka_unit_test(a_table_that_is_too_small_is_refused),
        cmocka_unit_test(a_larger_table_of_a_later_version_is_taken),
        cmocka_unit_test(a_table_without_a_required_verb_is_refused_by_the_verb_s_name),
        cmocka_unit_test(a_table_without_a_type_is_refused),
        cmocka_unit_test(a_table_with_unsound_keys_is_refused),
        cmocka_unit_test(an_unknown_type_lists_what_is_known),
        cmocka_unit_test(describe_lists_the_types_with_their_reach_and_urls),
        cmocka_unit_test(describe_shows_every_key_with_type_range_default_and_help),
        cmocka_unit_test(describe_says_that_a_timeout_is_the_children_s_sum),
    };

    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
