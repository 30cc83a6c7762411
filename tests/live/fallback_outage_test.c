/* fallback_outage_test.c - a server that is killed, stopped or cut off under twenty workers in four
 * processes of one host: crowd.h says what must be true throughout, and afterwards. */
#define _GNU_SOURCE
#include "tests/live/crowd.h"

enum { ROUNDS = 2 };

static struct crowd_scene scene;

static int tidy(void **state)
{
    (void)state;
    crowd_clear(&scene);
    return 0;
}

/* As long as it takes until there is enough of what an outage brings; the last one is so long that
 * held locks are demoted. */
static void await_outage(int round)
{
    crowd_await(&scene, &crowd_counts(&scene)->host, 20);
    if (round == ROUNDS - 1) crowd_await_held(&scene, BELAY_SCOPE_HOST);
}

static void await_recovery(void)
{
    crowd_await(&scene, &crowd_counts(&scene)->fleet, 20);
    crowd_await_held(&scene, BELAY_SCOPE_FLEET);
}

static void a_server_is_killed(void **state)
{
    (void)state;
    crowd_begin(&scene, true, false, false);
    for (int i = 0; i < ROUNDS; i++) {
        server_kill(&scene.server);
        await_outage(i);
        assert_true(server_restart(&scene.server, false));
        await_recovery();
    }
    crowd_end(&scene, "killed");
}

static void a_server_is_killed_and_forgets(void **state)
{
    (void)state;
    crowd_begin(&scene, false, false, false);
    for (int i = 0; i < ROUNDS; i++) {
        crowd_server_forgets(&scene);
        server_kill(&scene.server);
        await_outage(i);
        assert_true(server_restart(&scene.server, false));
        await_recovery();
    }
    crowd_end(&scene, "killed, forgets");
}

static void a_server_is_stopped(void **state)
{
    (void)state;
    crowd_begin(&scene, false, false, false);
    for (int i = 0; i < ROUNDS; i++) {
        server_freeze(&scene.server);
        await_outage(i);
        server_thaw(&scene.server);
        await_recovery();
    }
    crowd_end(&scene, "stopped");
}

/* Of two of the four processes: the others see a healthy server all the time. */
static void packets_of_some_are_dropped(void **state)
{
    (void)state;
    crowd_begin(&scene, false, true, false);
    for (int i = 0; i < ROUNDS; i++) {
        enum relay_way way = i % 2 == 0 ? RELAY_DOWN : RELAY_UP;
        relay_drop(scene.relay, RELAY_ALL, way, true);
        await_outage(i);
        relay_drop(scene.relay, RELAY_ALL, way, false);
        relay_cut(scene.relay, RELAY_ALL, false);
        await_recovery();
    }
    crowd_end(&scene, "dropped");
}

#define IS(function) cmocka_unit_test_teardown(function, tidy)

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        IS(a_server_is_killed),
        IS(a_server_is_killed_and_forgets),
        IS(a_server_is_stopped),
        IS(packets_of_some_are_dropped),
    };
    if (argc > 1) cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL) == 0 ? 0 : 1;
}
