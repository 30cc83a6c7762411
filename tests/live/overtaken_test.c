/* overtaken_test.c - a release that had to be asked twice lets the waiter in that it had refused:
 * the waiter's attempt went right behind the first asking, was refused, and is told by nobody else
 * (the server does not tell us what we do ourselves). */
#define _GNU_SOURCE
#include "tests/live/client.h"

#define LONG_MS 60000
#define PATIENCE_MS 4000 /* less than the 5 s after which a waiter asks by itself */

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

/* A waiter of the same client, refused and asleep; then, if there is one, `spoil`; and the release,
 * whose script the server does not know yet: it knows what takes locks. */
static void released_after(const char *spoil, const char *top)
{
    struct caller caller = { 0 };
    server_command(&server, NULL, "SCRIPT FLUSH");
    client = client_open(at_server(&server), NULL, top);
    belay_lock *lock = must_take(client, "job", LONG_MS, BELAY_TRY);
    caller_acquire(&caller, client, "job", LONG_MS, PATIENCE_MS);
    /* It has been refused, and its ear is there. */
    assert_true(until_within(UNTIL_MS, server_clients(&server) == 2));
    if (spoil != NULL) server_command(&server, NULL, spoil);
    must_release(lock);
    assert_status(caller_end(&caller), BELAY_OK);
    must_release(caller.lock);
}

static void a_release_whose_script_is_not_known(void **state)
{
    (void)state;
    released_after(NULL, NULL);
}

static void the_same_without_tokens(void **state)
{
    (void)state;
    released_after(NULL, "fencing = false;");
}

static void a_release_on_another_connection(void **state)
{
    (void)state;
    released_after("CLIENT KILL TYPE normal SKIPME yes", NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(a_release_whose_script_is_not_known, tidy),
        cmocka_unit_test_teardown(the_same_without_tokens, tidy),
        cmocka_unit_test_teardown(a_release_on_another_connection, tidy),
    };
    return cmocka_run_group_tests(tests, setup, teardown) != 0;
}
