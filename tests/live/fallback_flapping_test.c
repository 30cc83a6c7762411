/* fallback_flapping_test.c - a server that comes and goes ten times a second, under twenty workers
 * in four processes of one host: FAULTS row 34, and crowd.h. It lasts BELAY_FLAP_MS, a minute in
 * `./dev check`. */
#define _GNU_SOURCE
#include "tests/live/crowd.h"

enum { HALF_MS = 50 };

static struct crowd_scene scene;

static int tidy(void **state)
{
    (void)state;
    crowd_clear(&scene);
    return 0;
}

static int64_t setting(const char *name, int64_t otherwise)
{
    const char *given = getenv(name);
    return given != NULL && given[0] != '\0' ? atoll(given) : otherwise;
}

static void half_a_flap(void)
{
    usleep(HALF_MS * 1000);
}

static void its_server_comes_and_goes_ten_times_a_second(void **state)
{
    (void)state;
    crowd_begin(&scene, false, true, true);
    struct crowd_counts *counts = crowd_counts(&scene);
    int flaps = 0;
    int64_t end = clock_ms() + setting("BELAY_FLAP_MS", 10000);
    for (; clock_ms() < end; flaps++) {
        relay_refuse(scene.relay, true);
        relay_cut(scene.relay, RELAY_ALL, flaps % 2 == 0);
        half_a_flap();
        relay_refuse(scene.relay, false);
        half_a_flap();
    }
    /* The probes have become rarer: no process has followed each of them. */
    int degraded = atomic_load(&counts->degraded) / CROWD_PROCESSES;
    fprintf(stderr, "# %d flaps, %d degradations of each process\n", flaps, degraded);
    assert_true(degraded > 0);
    assert_true(degraded < flaps / 2);
    crowd_await_held(&scene, BELAY_SCOPE_FLEET);
    crowd_end(&scene, "flapping");
}

#define IS(function) cmocka_unit_test_teardown(function, tidy)

int main(void)
{
    const struct CMUnitTest tests[] = { IS(its_server_comes_and_goes_ten_times_a_second) };
    return cmocka_run_group_tests(tests, NULL, NULL) == 0 ? 0 : 1;
}
