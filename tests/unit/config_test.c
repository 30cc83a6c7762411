/* config_test.c - configurations from files: what is read, and that what is wrong opens nothing and
 * says where. */
#define _GNU_SOURCE
#include "tests/unit/config_fakes.h"

/* The same for a line of a backend of type "plain". */
static void refused_line(const char *line, const char *message)
{
    char text[512];

    snprintf(text, sizeof(text), "backends: { a: { type = \"plain\";\n%s\n}; };\n", line);
    refused(text, message);
}

/* ------------------------------------------------------------------ what is read */

static void a_file_without_values_gets_the_documented_defaults(void **state)
{
    struct belay__config *config = loaded_text("backends: { a: { type = \"plain\"; }; };");

    (void)state;
    assert_string_equal(config->prefix, "belay:");
    assert_int_equal(config->ttl_ms, 10000);
    assert_int_equal(config->wait_ms, 5000);
    assert_true(config->keep);
    assert_true(config->fencing);
    assert_int_equal(config->outage_ms, 5000);
    assert_int_equal(config->handoffs, 8);
    assert_int_equal(config->handoff_pause_ms, 0);
    assert_int_equal(config->close_timeout_ms, 1000);
    assert_int_equal(config->log_level, BELAY_LOG_INFO);
    assert_string_equal(config->log_to, "stderr");
    assert_string_equal(config->source, "c.conf");
    assert_int_equal(config->count, 1);
    assert_string_equal(config->backends[0].name, "a");
    assert_ptr_equal(config->backends[0].ops, &plain_ops);
    assert_int_equal(config->backends[0].timeout_ms, 500);
    belay__config_free(config);
}

static void every_top_level_key_is_read(void **state)
{
    struct belay__config *config =
        loaded_text("use = \"a\"; prefix = \"app:\"; ttl = \"30s\"; wait = \"2m\"; keep = false;\n"
                    "fencing = FALSE; outage = \"0s\"; handoffs = 3; handoff_pause = \"7ms\";\n"
                    "close_timeout = \"250ms\"; log: { level = \"debug\"; to = \"none\"; };\n"
                    "backends = { a = { type = \"plain\", timeout = \"1h\" } }");

    (void)state;
    assert_string_equal(config->prefix, "app:");
    assert_int_equal(config->ttl_ms, 30000);
    assert_int_equal(config->wait_ms, 120000);
    assert_false(config->keep);
    assert_false(config->fencing);
    assert_int_equal(config->outage_ms, 0);
    assert_int_equal(config->handoffs, 3);
    assert_int_equal(config->handoff_pause_ms, 7);
    assert_int_equal(config->close_timeout_ms, 250);
    assert_int_equal(config->log_level, BELAY_LOG_DEBUG);
    assert_string_equal(config->log_to, "none");
    assert_int_equal(config->backends[0].timeout_ms, 3600000);
    belay__config_free(config);
}

static void wait_may_be_try_or_forever(void **state)
{
    struct belay__config *config =
        loaded_text("wait = \"try\"; backends: { a: { type = \"plain\"; }; };");

    (void)state;
    assert_int_equal(config->wait_ms, BELAY_TRY);
    belay__config_free(config);
    config = loaded_text("wait = \"forever\"; backends: { a: { type = \"plain\"; }; };");
    assert_int_equal(config->wait_ms, BELAY_FOREVER);
    belay__config_free(config);
}

static void an_empty_prefix_is_one(void **state)
{
    struct belay__config *config = loaded_text("prefix = \"\"; use = \"plain:\";");

    (void)state;
    assert_string_equal(config->prefix, "");
    belay__config_free(config);
}

static void values_of_every_type_reach_the_backend(void **state)
{
    struct belay__config *config =
        loaded_text("backends: { a: { type = \"plain\"; path = \"/x\" \"/y\"; size = 0x10; big = "
                    "5000000000; ratio = 1;\n"
                    "sync = false; pause = \"20ms\"; mode = \"2750\"; policy = \"closed\"; nodes = "
                    "[ \"x\", \"y\", \"z\" ];\n"
                    "tls: { ca = \"a\\\\b\\x41\"; }; }; };");
    const belay_settings *s = config->backends[0].settings;

    (void)state;
    assert_string_equal(belay_settings_string(s, "path"), "/x/y");
    assert_int_equal(belay_settings_integer(s, "size"), 16);
    assert_true(belay_settings_integer(s, "big") == 5000000000);
    assert_true(belay_settings_real(s, "ratio") == 1.0);
    assert_false(belay_settings_boolean(s, "sync"));
    assert_int_equal(belay_settings_duration_ms(s, "pause"), 20);
    assert_int_equal(belay_settings_integer(s, "mode"), 02750);
    assert_string_equal(belay_settings_string(s, "policy"), "closed");
    assert_int_equal(belay_settings_count(s, "nodes"), 3);
    assert_string_equal(belay_settings_item(s, "nodes", 2), "z");
    assert_null(belay_settings_item(s, "nodes", 3));
    assert_string_equal(belay_settings_string(s, "tls.ca"), "a\\bA");
    assert_true(belay_settings_given(s, "tls.ca"));
    assert_false(belay_settings_given(s, "tls.name"));
    assert_string_equal(belay_settings_string(s, "tls.name"), "");
    belay__config_free(config);
}

static void comments_tabs_carriage_returns_and_a_byte_order_mark_are_read(void **state)
{
    struct belay__config *config = loaded_text("\xef\xbb\xbf# one\r\n// two \"\r\n/* three\n\" "
                                               "@include \"nothing\"\n*/ ttl\t= /**/ \"1s\";\r\n"
                                               "use = \"plain:\" # no newline at the end");

    (void)state;
    assert_int_equal(config->ttl_ms, 1000);
    belay__config_free(config);
}

/* ------------------------------------------------------------------ values that are wrong */

static void a_bare_number_where_a_duration_is_wanted_is_refused_with_file_and_line(void **state)
{
    (void)state;
    refused(
        "use = \"plain:\";\nttl = 10;\n",
        "c.conf:2: ttl: 10 has no unit: a duration is a string with one: \"10s\" (ms, s, m, h, d)");
    refused("wait = 5000000000;", "c.conf:1: wait: 5000000000 has no unit: a duration is a string "
                                  "with one: \"5000000000s\" (ms, s, m, h, d)");
    refused_line("timeout = 1;", "c.conf:2: timeout: 1 has no unit: a duration is a string with "
                                 "one: \"1s\" (ms, s, m, h, d)");
}

static void an_unquoted_duration_is_refused(void **state)
{
    (void)state;
    refused("ttl = 10s;", "c.conf:1: \"10s\" is not a number; a string stands in quotes, a name "
                          "begins with a letter");
}

static void a_ttl_of_ten_to_the_eighteen_is_refused(void **state)
{
    (void)state;
    refused("ttl = \"1000000000000000000s\";",
            "c.conf:1: ttl: \"1000000000000000000s\" is too long for a duration");
    refused(
        "ttl = \"1e18s\";",
        "c.conf:1: ttl: \"1e18s\" is more than one number and one unit; write \"90m\" for 1h30m");
    refused("ttl = 1000000000000000000;",
            "c.conf:1: ttl: 1000000000000000000 has no unit: a duration is a string with one: "
            "\"1000000000000000000s\" (ms, s, m, h, d)");
}

static void a_negative_duration_is_refused(void **state)
{
    (void)state;
    refused("ttl = \"-5s\";",
            "c.conf:1: ttl: \"-5s\" is negative; a duration is a whole number and a unit: \"10s\"");
    refused(
        "ttl = -5;",
        "c.conf:1: ttl: -5 is not what is wanted: a string with a unit (ms, s, m, h, d): \"10s\"");
}

static void a_duration_out_of_range_is_refused_with_the_range(void **state)
{
    (void)state;
    refused("ttl = \"99ms\";", "c.conf:1: ttl: \"99ms\" is out of range: from 100ms to 7d");
    refused("ttl = \"8d\";", "c.conf:1: ttl: \"8d\" is out of range: from 100ms to 7d");
    refused("wait = \"0s\";", "c.conf:1: wait: \"0s\" is out of range: from 1ms to 365d");
    refused_line("timeout = \"61m\";",
                 "c.conf:2: timeout: \"61m\" is out of range: from 1ms to 1h");
}

static void a_number_out_of_range_is_refused_and_never_wraps(void **state)
{
    (void)state;
    refused_line("size = 65;", "c.conf:2: size: 65 is out of range: from 1 to 64");
    refused_line("size = 4294967297;", "c.conf:2: size: 4294967297 is out of range: from 1 to 64");
    refused_line("size = -9223372036854775808;",
                 "c.conf:2: size: -9223372036854775808 is out of range: from 1 to 64");
    refused_line("size = 99999999999999999999;",
                 "c.conf:2: 99999999999999999999 is too large for a number");
    refused_line("size = 0xFFFFFFFFFFFFFFFFF;",
                 "c.conf:2: 0xFFFFFFFFFFFFFFFFF is too large for a number");
    refused_line("ratio = 1.5;", "c.conf:2: ratio: 1.5 is out of range: from 0 to 1");
    refused_line("ratio = 1e999;", "c.conf:2: ratio: \"inf\" is too large for a number");
}

static void a_leading_zero_is_refused(void **state)
{
    (void)state;
    refused_line(
        "size = 010;",
        "c.conf:2: 010 begins with a zero, which not every libconfig reads alike; a file mode "
        "is a string: \"0600\"");
}

static void a_mode_is_a_string_of_octal_digits(void **state)
{
    (void)state;
    refused_line("mode = 600;",
                 "c.conf:2: mode: a file mode is a string of octal digits: \"0600\", not a number");
    refused_line(
        "mode = \"0800\";",
        "c.conf:2: mode: \"0800\" is not a file mode: three or four octal digits, as in \"0600\"");
}

static void a_value_of_another_type_is_refused_with_what_is_wanted(void **state)
{
    (void)state;
    refused_line("path = 5;", "c.conf:2: path: 5 is not what is wanted: a string, in quotes");
    refused_line("size = \"5\";",
                 "c.conf:2: size: \"5\" is not what is wanted: a whole number, without quotes");
    refused_line("size = 5.5;", "c.conf:2: size: a number with a fraction is not what is wanted: a "
                                "whole number, without quotes");
    refused_line("sync = \"true\";",
                 "c.conf:2: sync: \"true\" is not what is wanted: true or false, without quotes");
    refused_line("sync = 1;",
                 "c.conf:2: sync: 1 is not what is wanted: true or false, without quotes");
    refused_line(
        "nodes = \"a\";",
        "c.conf:2: nodes: \"a\" is not what is wanted: a list of strings: ( \"a\", \"b\" )");
    refused_line(
        "nodes = ( \"a\", 2 );",
        "c.conf:2: nodes: item 2 is not what is wanted: a list of strings: ( \"a\", \"b\" )");
    refused_line("nodes = ( \"a\", \"\" );", "c.conf:2: nodes: item 2 is empty");
    refused_line("path = ( \"a\" );",
                 "c.conf:2: path: a list is not what is wanted: a string, in quotes");
    refused_line("path: { a = 1; };",
                 "c.conf:2: path: a group is not what is wanted: a string, in quotes");
    refused_line("tls = \"on\";", "c.conf:2: tls: is a group: tls: { ... };");
    refused_line("path = \"\";", "c.conf:2: path: is empty");
}

static void a_choice_is_suggested(void **state)
{
    (void)state;
    refused_line("policy = \"closd\";",
                 "c.conf:2: policy: \"closd\" is none of local|closed; did you mean \"closed\"?");
    refused(
        "log: {\nlevel = \"inf\";\n};",
        "c.conf:2: log.level: \"inf\" is none of error|warn|info|debug; did you mean \"info\"?");
}

/* ------------------------------------------------------------------ keys and names that are wrong
 */

static void an_unknown_key_is_refused_with_a_suggestion(void **state)
{
    (void)state;
    refused("prefx = \"a\";",
            "c.conf:1: the configuration has no key \"prefx\"; did you mean \"prefix\"?");
    refused("backend: { };",
            "c.conf:1: the configuration has no key \"backend\"; did you mean \"backends\"?");
    refused("lgo: { };", "c.conf:1: the configuration has no key \"lgo\"; did you mean \"log\"?");
    refused("log: { levle = \"info\"; };",
            "c.conf:1: the configuration has no key \"log.levle\"; did you mean \"log.level\"?");
    refused_line("zebra = 1;", "c.conf:2: a backend of type \"plain\" has no key \"zebra\"");
    refused_line(
        "tls: {\n cA = \"x\"; };",
        "c.conf:3: a backend of type \"plain\" has no key \"tls.cA\"; did you mean \"tls.ca\"?");
    refused_line("password_fil = \"/x\";", "c.conf:2: a backend of type \"plain\" has no key "
                                           "\"password_fil\"; did you mean \"password_file\"?");
}

static void a_key_given_twice_is_refused_with_both_places(void **state)
{
    (void)state;
    refused("ttl = \"1s\";\n\nttl = \"2s\";",
            "c.conf:3: \"ttl\" is here twice; the first is at c.conf:1");
    file_write("more.conf", "\nttl = \"2s\";\n");
    refused("ttl = \"1s\";\n@include \"more.conf\"\n",
            "more.conf:2: \"ttl\" is here twice; the first is at c.conf:1");
    refused("backends: { a: { type = \"plain\"; }; a: { type = \"plain\"; }; };",
            "c.conf:1: \"a\" is here twice; the first is at c.conf:1");
}

static void an_unknown_type_is_refused_with_a_suggestion(void **state)
{
    (void)state;
    refused("backends: {\n a: {\n type = \"plian\"; }; };",
            "c.conf:3: there is no backend type \"plian\"; did you mean \"plain\"? (known: plain, "
            "pair, net, sqlite)");
    refused("backends: {\n a: {\n }; };",
            "c.conf:2: the backend \"a\" has no type: type = \"sqlite\";");
    refused("backends: { a: { type = 5; }; };", "c.conf:1: type: a string is wanted, in quotes");
    refused("backends: { a = 5; };", "c.conf:1: a backend is a group: a: { type = \"...\"; };");
    refused("backends = ( );", "c.conf:1: backends: is a group: backends: { NAME: { ... }; };");
}

static void an_unknown_backend_is_refused_with_a_suggestion(void **state)
{
    (void)state;
    refused("use = \"mian\";\nbackends: { main: { type = \"plain\"; }; };",
            "c.conf:1: use: there is no backend \"mian\"; did you mean \"main\"?");
    refused("use = \"a\";\nbackends: { a: { type = \"pair\";\n first = \"b\"; }; };",
            "c.conf:3: first: there is no backend \"b\"");
}

static void a_missing_required_key_is_refused(void **state)
{
    (void)state;
    refused("backends: {\n a: { type = \"pair\"; }; };",
            "c.conf:2: a backend of type \"pair\" needs a first: the one that is asked first");
    refused("backends: {\n a: { type = \"net\";\n host = ( ); }; };",
            "c.conf:3: host: the list is empty");
}

static void a_wrong_key_in_a_backend_that_is_not_used_opens_nothing(void **state)
{
    (void)state;
    refused("use = \"a\"; backends: { a: { type = \"plain\"; };\n b: { type = \"plain\";\n siez = "
            "4; }; };",
            "c.conf:3: a backend of type \"plain\" has no key \"siez\"; did you mean \"size\"?");
    refused("use = \"a\"; backends: { a: { type = \"plain\"; };\n b: { type = \"pair\";\n first = "
            "\"c\"; }; };",
            "c.conf:3: first: there is no backend \"c\"");
}

/* ------------------------------------------------------------------ syntax */

static void mistakes_of_syntax_are_named(void **state)
{
    (void)state;
    refused("ttl = \"10s;\nkeep = true;\n", "c.conf:1: this string is not closed in its line");
    refused("ttl \"10s\";", "c.conf:1: behind \"ttl\" a '=' is wanted, not a string");
    refused("keep = yes;", "c.conf:1: keep: \"yes\" is no value; a string stands in quotes, a "
                           "boolean is true or false");
    refused("keep = ;", "c.conf:1: \"keep\" has no value");
    refused("keep =", "c.conf:1: the file ends behind \"keep\"; a value is wanted");
    refused("\n/* open\n", "c.conf:2: this comment is never closed");
    refused("ttl = \"1s\";;", "c.conf:1: a \";\" too many");
    refused("\nlog: {\n", "c.conf:2: this '{' is never closed");
    refused("log: {\n );",
            "c.conf:2: ')' where a '}' is wanted: the bracket was opened at c.conf:1");
    refused("};", "c.conf:1: '}' closes nothing");
    refused("a = ( \"x\" \"y\", );", "c.conf:1: a ',' too many before \")\"");
    refused("a = ( 1 2 );", "c.conf:1: between two items a ',' is wanted, not \"2\"");
    refused("a = [ ( 1 ) ];",
            "c.conf:1: '(' inside of [ ]: a list of other things than values is ( )");
    refused("a = 1 b = 2 3", "c.conf:1: behind the value of \"b\" a ';' is wanted, not \"3\"");
    refused("\"ttl\" = 1;",
            "c.conf:1: a string stands where a setting's name is wanted (without quotes)");
    refused("ttl = \"a\\qb\";", "c.conf:1: a backslash in a string is written \\\\");
    refused("a = $b;", "c.conf:1: \"$\" has no meaning here; a string stands in quotes");
    refused("\ttl = '1s';", "c.conf:1: \"'\" has no meaning here; a string stands in quotes");
}

static void a_nul_byte_is_refused(void **state)
{
    (void)state;
    file_write_bytes("c.conf", "ttl = \"1s\";\n\0prefix = 1;", 24, 0644);
    refused_where("c.conf", BELAY_CONFIG, "c.conf:2: a NUL byte: this is not a text file");
    refused("prefix = \"a\\x00b\";", "c.conf:1: a NUL byte (\\x00) in a string");
}

static void a_control_character_in_a_name_is_shown_escaped(void **state)
{
    (void)state;
    refused("use = \"a\\x1b[2Jb\";", "c.conf:1: use: there is no backend \"a\\x1b[2Jb\"");
}

static void brackets_are_at_most_sixteen_deep(void **state)
{
    (void)state;
    refused("a = ((((((((((((((((1))))))))))))))));",
            "c.conf:1: the configuration has no key \"a\"");
    refused("a = (((((((((((((((((1)))))))))))))))));", "c.conf:1: brackets are more than 16 deep");
}

static void settings_are_at_most_4096(void **state)
{
    char *text = malloc(5000 * 12), *end = text;

    (void)state;
    for (int i = 0; i < 4097; i++) end += sprintf(end, "k%d = 1;\n", i);
    refused(text, "c.conf:4097: more than 4096 settings are too many");
    free(text);
}

static void an_array_of_mixed_values_is_refused(void **state)
{
    (void)state;
    refused("\na = [ 1, \"b\" ];", "c.conf:2: mismatched element type in array");
}

/* ------------------------------------------------------------------ the graph */

static void children_come_before_their_parents_and_what_is_not_used_stays_out(void **state)
{
    struct belay__config *config =
        loaded_text("use = \"top\"; backends: {\n"
                    "top: { type = \"pair\"; first = \"mid\"; rest = ( \"leaf\", \"mid\", "
                    "\"plain:/x\", \"plain:/x\" ); };\n"
                    "idle: { type = \"plain\"; };\n"
                    "mid: { type = \"pair\"; first = \"leaf\"; };\n"
                    "leaf: { type = \"plain\"; }; };");
    const struct belay__config_backend *top;
    int mark[4];

    (void)state;
    assert_int_equal(config->count, 4);
    assert_int_equal(config->use, 3);
    top = &config->backends[3];
    assert_string_equal(top->name, "top");
    assert_int_equal(top->timeout_ms, 2000);
    assert_int_equal(top->child_count, 5);
    assert_string_equal(config->backends[top->children[0]].name, "mid");
    assert_string_equal(config->backends[top->children[1]].name, "leaf");
    assert_int_equal(top->children[2], top->children[0]);
    assert_string_equal(config->backends[top->children[3]].name, "plain:/x");
    assert_int_equal(top->children[4], top->children[3]);
    for (size_t i = 0; i < config->count; i++) {
        for (size_t n = 0; n < config->backends[i].child_count; n++)
            assert_true(config->backends[i].children[n] < i);
    }
    /* The objects, as client.c sets them. */
    for (size_t n = 0; n < 5; n++)
        belay__settings_resolve(top->settings, n, (belay_backend *)(void *)&mark[top->children[n]]);
    assert_ptr_equal(belay_settings_backend(top->settings, "first", 0), &mark[top->children[0]]);
    assert_ptr_equal(belay_settings_backend(top->settings, "rest", 0), &mark[top->children[1]]);
    assert_ptr_equal(belay_settings_backend(top->settings, "rest", 3), &mark[top->children[4]]);
    assert_null(belay_settings_backend(top->settings, "rest", 4));
    assert_int_equal(belay_settings_count(top->settings, "rest"), 4);
    belay__config_free(config);
}

static void a_cycle_is_refused_with_its_names(void **state)
{
    (void)state;
    refused("use = \"a\"; backends: {\n a: { type = \"pair\"; first = \"b\"; };\n b: { type = "
            "\"pair\"; first = \"a\"; }; };",
            "c.conf:3: cycle: a -> b -> a");
    refused("use = \"ok\"; backends: { ok: { type = \"plain\"; };\n x: { type = \"pair\"; first = "
            "\"ok\"; rest = ( \"x\" ); }; };",
            "c.conf:2: cycle: x -> x");
}

static void without_use_a_single_backend_is_it_and_several_are_listed(void **state)
{
    (void)state;
    belay__config_free(loaded_text("backends: { a: { type = \"plain\"; }; };"));
    refused("backends: { a: { type = \"plain\"; }; b: { type = \"plain\"; }; };",
            "c.conf: \"use\" is to say which of the backends it is: a, b");
    refused(
        "ttl = \"5s\";",
        "c.conf: there is no backend: add one to \"backends\", or name a URL: use = \"sqlite:\";");
}

static void use_may_be_a_url(void **state)
{
    struct belay__config *config = loaded_text("use = \"plain:///x?size=5&timeout=1s\";");

    (void)state;
    assert_int_equal(config->count, 1);
    assert_string_equal(config->backends[0].name, "plain:///x");
    assert_string_equal(belay_settings_string(config->backends[0].settings, "path"), "/x");
    assert_int_equal(belay_settings_integer(config->backends[0].settings, "size"), 5);
    assert_int_equal(config->backends[0].timeout_ms, 1000);
    belay__config_free(config);
    refused("\nuse = \"plian:\";", "c.conf:2: plian:: there is no URL scheme \"plian\"; did you "
                                   "mean \"plain\"? (known: plain:, pair:, net:, "
                                   "nets:, sqlite:)");
    refused("use = \"plain:?prefix=x\";",
            "c.conf:1: plain:?prefix=x: prefix is the whole configuration's: write it into the "
            "file, beside \"use\"");
}

/* ------------------------------------------------------------------ memory */

static void every_failing_allocation_is_a_clean_nomem(void **state)
{
    belay_error err = BELAY_ERROR_INIT;
    struct belay__config *config = NULL;
    belay_status status = BELAY_NOMEM;
    long n;

    (void)state;
    file_write("inc.conf", "leaf: { type = \"plain\"; nodes = ( \"a\", \"b\" ); };\n");
    file_write("c.conf", "use = \"top\"; prefix = \"x:\"; backends: {\n@include \"inc.conf\"\n"
                         "top: { type = \"pair\"; first = \"leaf\"; rest = ( \"plain:/p?size=3\", "
                         "\"nets://pw@h\" ); };\n"
                         "n: { type = \"net\"; host = ( \"h\" ); password_env = \"HOME\"; }; };\n");
    for (n = 0; status == BELAY_NOMEM; n++) {
        struct poor_world poor = POOR_WORLD(n);
        assert_null(config);
        status = belay__config_load(&config, "c.conf", &fake_registry, &poor.base, &err);
        assert_true(status == BELAY_NOMEM || status == BELAY_OK);
        assert_int_equal(err.status == BELAY_NOMEM || status == BELAY_OK, 1);
        assert_true(n < 1000);
    }
    assert_int_equal(status, BELAY_OK);
    assert_true(n > 50);
    belay__config_free(config);
}

static void an_error_without_a_place_for_it_is_only_a_status(void **state)
{
    struct belay__config *config = NULL;

    (void)state;
    file_write("c.conf", "backends: { a: { type = \"nothing\"; }; };");
    assert_int_equal(belay__config_load(&config, "c.conf", &fake_registry, NULL, NULL),
                     BELAY_CONFIG);
    assert_int_equal(belay__config_load(&config, "nets:", &fake_registry, NULL, NULL),
                     BELAY_CONFIG);
}

static void a_program_s_own_table_is_found_before_a_built_in_one(void **state)
{
    belay_backend_ops own = plain_ops;
    const belay_backend_ops *const own_tables[] = { &own, NULL };
    const struct belay__registry registry = { own_tables, fake_tables };
    struct belay__config *config = NULL;

    (void)state;
    assert_int_equal(belay__config_load(&config, "plain:", &registry, NULL, NULL), BELAY_OK);
    assert_ptr_equal(config->backends[0].ops, &own);
    belay__config_free(config);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_file_without_values_gets_the_documented_defaults),
        cmocka_unit_test(every_top_level_key_is_read),
        cmocka_unit_test(wait_may_be_try_or_forever),
        cmocka_unit_test(an_empty_prefix_is_one),
        cmocka_unit_test(values_of_every_type_reach_the_backend),
        cmocka_unit_test(comments_tabs_carriage_returns_and_a_byte_order_mark_are_read),
        cmocka_unit_test(a_bare_number_where_a_duration_is_wanted_is_refused_with_file_and_line),
        cmocka_unit_test(an_unquoted_duration_is_refused),
        cmocka_unit_test(a_ttl_of_ten_to_the_eighteen_is_refused),
        cmocka_unit_test(a_negative_duration_is_refused),
        cmocka_unit_test(a_duration_out_of_range_is_refused_with_the_range),
        cmocka_unit_test(a_number_out_of_range_is_refused_and_never_wraps),
        cmocka_unit_test(a_leading_zero_is_refused),
        cmocka_unit_test(a_mode_is_a_string_of_octal_digits),
        cmocka_unit_test(a_value_of_another_type_is_refused_with_what_is_wanted),
        cmocka_unit_test(a_choice_is_suggested),
        cmocka_unit_test(an_unknown_key_is_refused_with_a_suggestion),
        cmocka_unit_test(a_key_given_twice_is_refused_with_both_places),
        cmocka_unit_test(an_unknown_type_is_refused_with_a_suggestion),
        cmocka_unit_test(an_unknown_backend_is_refused_with_a_suggestion),
        cmocka_unit_test(a_missing_required_key_is_refused),
        cmocka_unit_test(a_wrong_key_in_a_backend_that_is_not_used_opens_nothing),
        cmocka_unit_test(mistakes_of_syntax_are_named),
        cmocka_unit_test(a_nul_byte_is_refused),
        cmocka_unit_test(a_control_character_in_a_name_is_shown_escaped),
        cmocka_unit_test(brackets_are_at_most_sixteen_deep),
        cmocka_unit_test(settings_are_at_most_4096),
        cmocka_unit_test(an_array_of_mixed_values_is_refused),
        cmocka_unit_test(children_come_before_their_parents_and_what_is_not_used_stays_out),
        cmocka_unit_test(a_cycle_is_refused_with_its_names),
        cmocka_unit_test(without_use_a_single_backend_is_it_and_several_are_listed),
        cmocka_unit_test(use_may_be_a_url),
        cmocka_unit_test(every_failing_allocation_is_a_clean_nomem),
        cmocka_unit_test(an_error_without_a_place_for_it_is_only_a_status),
        cmocka_unit_test(a_program_s_own_table_is_found_before_a_built_in_one),
    };

    return cmocka_run_group_tests(tests, folder_setup, folder_teardown) != 0;
}
