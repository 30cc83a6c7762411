/* names_test.c - any name, carried exactly or INVALID: FAULTS row 51, as a real server sees them.
 */
#define _GNU_SOURCE
#include "tests/live/client.h"

#define LONG_MS 60000

static struct server server;
static belay *client;

static int setup(void **state)
{
    (void)state;
    return server_start(&server, NULL) ? 0 : -1;
}

static int teardown(void **state)
{
    (void)state;
    server_end(&server);
    return 0;
}

static int tidy(void **state)
{
    (void)state;
    belay_close(client);
    client = NULL;
    server_command(&server, NULL, "FLUSHALL");
    log_clear();
    return 0;
}

static char longest[BELAY_NAME_MAX + 1], too_long[BELAY_NAME_MAX + 2], every_byte[256];

static const char *const good[] = {
    "a",
    " ",
    "a b",
    "line\nbreak",
    "\r\n*1\r\n$8\r\nFLUSHALL\r\n",
    "tab\tand\x01control",
    "{}",
    "{",
    "}",
    "{tag}rest",
    "%n",
    "%s%s%s%n",
    "%%",
    "\\",
    "\"quoted\"",
    "'; DROP TABLE locks; --",
    "*",
    "?",
    "[a-z]",
    "\xc3\xa4\xe2\x82\xac\xf0\x9f\x94\x92",
    "\x80\xff\xfe",
    "../../etc/passwd",
    "fence:belay:",
    "belay:",
    longest,
    every_byte,
};
enum { GOOD = sizeof good / sizeof good[0] };

static struct {
    int count;
    char name[BELAY_NAME_MAX + 4];
} listed;

static bool list_one(void *arg, const belay_info *info)
{
    (void)arg;
    listed.count++;
    snprintf(listed.name, sizeof listed.name, "%s", info->name);
    return true;
}

static void names_are_carried_exactly(const char *top, const char *prefix)
{
    char owner[64], key[BELAY_NAME_MAX + 64];
    memset(longest, 'l', BELAY_NAME_MAX);
    for (int i = 1; i < 256; i++) every_byte[i - 1] = (char)i;
    client = client_open(at_server(&server), NULL, top);
    for (size_t i = 0; i < GOOD; i++) {
        belay_info info = { .size = sizeof info };
        belay_lock *lock = must_take(client, good[i], LONG_MS, BELAY_TRY);
        assert_string_equal(belay_lock_name(lock), good[i]);
        snprintf(key, sizeof key, "%s%s", prefix, good[i]);
        server_string(&server, owner, sizeof owner, "GET %b", key, strlen(key));
        assert_string_equal(owner, belay_lock_owner(lock));
        assert_status(take(client, good[i], LONG_MS, BELAY_TRY, NULL, NULL), BELAY_HELD);
        assert_status(belay_inspect(client, good[i], &info, NULL), BELAY_OK);
        assert_true(info.held);
        assert_string_equal(info.name, good[i]);
        listed.count = 0;
        assert_status(belay_list(client, NULL, list_one, NULL, NULL), BELAY_OK);
        assert_int_equal(listed.count, 1);
        assert_string_equal(listed.name, good[i]);
        assert_status(belay_extend(lock, LONG_MS, NULL), BELAY_OK);
        must_release(lock);
        assert_int_equal(server_lock_keys(&server, prefix), 0);
    }
}

static void with_a_prefix_names_are_carried_exactly(void **state)
{
    (void)state;
    names_are_carried_exactly(NULL, "belay:");
}

static void without_fencing_too(void **state)
{
    (void)state;
    names_are_carried_exactly("fencing = false; prefix = \"p:\";", "p:");
}

static void without_a_prefix_too(void **state)
{
    (void)state;
    names_are_carried_exactly("prefix = \"\";", "");
}

static void with_an_odd_prefix_too(void **state)
{
    (void)state;
    names_are_carried_exactly("prefix = \"[*]?\\\\{x}\";", "[*]?\\{x}");
}

static void names_that_cannot_be_carried_are_invalid(void **state)
{
    belay_info info = { .size = sizeof info };
    (void)state;
    memset(too_long, 'l', sizeof too_long - 1);
    client = client_open(at_server(&server), NULL, NULL);
    static const char *const bad[] = { "", too_long };
    for (size_t i = 0; i < 2; i++) {
        assert_status(take(client, bad[i], LONG_MS, BELAY_TRY, NULL, NULL), BELAY_INVALID);
        assert_status(belay_inspect(client, bad[i], &info, NULL), BELAY_INVALID);
    }
    assert_int_equal(server_integer(&server, "DBSIZE"), 0);
}

/* Without a prefix a name can be the fence's key: it would be lock and fence at once. */
static void the_fence_s_own_name_is_invalid(void **state)
{
    belay_error err = BELAY_ERROR_INIT;
    (void)state;
    client = client_open(at_server(&server), NULL, "prefix = \"\";");
    must_release(must_take(client, "job", LONG_MS, BELAY_TRY));
    assert_status(take(client, "fence:", LONG_MS, BELAY_TRY, NULL, &err), BELAY_INVALID);
    assert_true(err.text[0] != '\0');
    must_release(must_take(client, "fence:x", LONG_MS, BELAY_TRY));
    listed.count = 0;
    assert_status(belay_list(client, NULL, list_one, NULL, NULL), BELAY_OK);
    assert_int_equal(listed.count, 0); /* the fence key is no lock */
}

/* What a message or a line of the log says of a name is fit for a terminal. */
static void messages_are_one_clean_line(void **state)
{
    (void)state;
    client = client_open(at_server(&server), "timeout = \"100ms\";", NULL);
    for (size_t i = 0; i < GOOD; i++) {
        belay_error err = BELAY_ERROR_INIT;
        char key[BELAY_NAME_MAX + 64];
        snprintf(key, sizeof key, "belay:%s", good[i]);
        server_command(&server, NULL, "RPUSH %b x", key, strlen(key));
        assert_status(take(client, good[i], LONG_MS, BELAY_TRY, NULL, &err), BELAY_HELD);
        for (const char *at = err.text; *at != '\0'; at++)
            assert_true((unsigned char)*at >= ' ' && *at != 0x7f);
        server_command(&server, NULL, "DEL %b", key, strlen(key));
    }
    assert_false(log_has("\x01"));
    assert_false(log_has("\x1b"));
}

#define IS(function) cmocka_unit_test_teardown(function, tidy)

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        IS(with_a_prefix_names_are_carried_exactly),
        IS(without_fencing_too),
        IS(without_a_prefix_too),
        IS(with_an_odd_prefix_too),
        IS(names_that_cannot_be_carried_are_invalid),
        IS(the_fence_s_own_name_is_invalid),
        IS(messages_are_one_clean_line),
    };
    if (argc > 1) cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, setup, teardown) == 0 ? 0 : 1;
}
