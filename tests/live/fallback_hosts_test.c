/* fallback_hosts_test.c - two hosts, ten workers each, whose server is killed and comes back with
 * what it knew, or which one of them does not see for a while. On each host two never hold a lock;
 * two who are told that theirs is the fleet's never do so at once; see crowd.h. */
#define _GNU_SOURCE
#include "tests/live/crowd.h"

enum { ROUNDS = 3 };

static struct crowd_scene scene;

static int tidy(void **state)
{
    (void)state;
    crowd_clear(&scene);
    return 0;
}

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

static void neither_sees_a_server_that_is_killed(void **state)
{
    (void)state;
    scene.two_hosts = true;
    crowd_begin(&scene, true, false, false);
    for (int i = 0; i < ROUNDS; i++) {
        server_kill(&scene.server);
        await_outage(i);
        assert_true(server_restart(&scene.server, false));
        await_recovery();
    }
    crowd_end(&scene, "two hosts, killed");
}

static void neither_is_answered_by_a_server_that_is_stopped(void **state)
{
    (void)state;
    scene.two_hosts = true;
    crowd_begin(&scene, true, false, false);
    for (int i = 0; i < ROUNDS; i++) {
        server_freeze(&scene.server);
        await_outage(i);
        server_thaw(&scene.server);
        await_recovery();
    }
    crowd_end(&scene, "two hosts, stopped");
}

/* The other goes on with the fleet's locks, those of the one that is cut off among them. */
static void one_host_is_cut_off(void **state)
{
    (void)state;
    scene.two_hosts = true;
    crowd_begin(&scene, true, true, false);
    for (int i = 0; i < ROUNDS; i++) {
        enum relay_way way = i % 2 == 0 ? RELAY_DOWN : RELAY_UP;
        relay_drop(scene.relay, RELAY_ALL, way, true);
        await_outage(i);
        relay_drop(scene.relay, RELAY_ALL, way, false);
        relay_cut(scene.relay, RELAY_ALL, false);
        await_recovery();
    }
    crowd_end(&scene, "two hosts, one cut off");
}

#define IS(function) cmocka_unit_test_teardown(function, tidy)

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        IS(neither_sees_a_server_that_is_killed),
        IS(neither_is_answered_by_a_server_that_is_stopped),
        IS(one_host_is_cut_off),
    };
    if (argc > 1) cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL) == 0 ? 0 : 1;
}
