/* fake_world_test.c - the world that tests own: clocks, chance, memory, and whom it wakes. */
#define _POSIX_C_SOURCE 200809L
#include <belay/backend.h>
#include <belay/testing.h>

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#define SECOND INT64_C(1000000000)

static int set_up(void **state)
{
    *state = belay_fake_create(1);
    return *state == NULL;
}

static int tear_down(void **state)
{
    belay_fake_destroy(*state);
    return 0;
}

static void it_begins_at_a_large_odd_moment(void **state)
{
    belay_fake_world *world = *state;
    assert_true(belay_fake_now(world) > 86400 * SECOND);
    assert_int_equal(belay_fake_now(world) % 2, 1);
    assert_int_equal(belay_fake_wall(world), INT64_C(1767225600000000));
    assert_int_equal(belay_fake_base(world)->size, sizeof(belay_world));
    assert_int_equal(belay_fake_base(world)->now(belay_fake_base(world)), belay_fake_now(world));
    assert_int_equal(belay_fake_base(world)->wall(belay_fake_base(world)), belay_fake_wall(world));
}

static void advancing_moves_both_clocks(void **state)
{
    belay_fake_world *world = *state;
    int64_t now = belay_fake_now(world), wall = belay_fake_wall(world);
    belay_fake_advance(world, 30 * SECOND);
    assert_int_equal(belay_fake_now(world), now + 30 * SECOND);
    assert_int_equal(belay_fake_wall(world), wall + 30000000);
    belay_fake_advance(world, 0);
    belay_fake_advance(world, -SECOND); /* time does not go back */
    assert_int_equal(belay_fake_now(world), now + 30 * SECOND);
}

static void a_step_moves_the_wall_clock_alone(void **state)
{
    belay_fake_world *world = *state;
    int64_t now = belay_fake_now(world), wall = belay_fake_wall(world);
    belay_fake_step_wall(world, -3600000000);
    assert_int_equal(belay_fake_now(world), now);
    assert_int_equal(belay_fake_wall(world), wall - 3600000000);
    belay_fake_advance(world, SECOND);
    assert_int_equal(belay_fake_wall(world), wall - 3600000000 + 1000000);
}

static void the_same_seed_gives_the_same_chance(void **state)
{
    belay_fake_world *other = belay_fake_create(1), *third = belay_fake_create(2);
    belay_world *one = belay_fake_base(*state), *two = belay_fake_base(other);
    unsigned char a[37], b[37], c[37];
    assert_non_null(other);
    assert_non_null(third);
    one->random(one, a, sizeof a);
    two->random(two, b, sizeof b);
    belay_fake_base(third)->random(belay_fake_base(third), c, sizeof c);
    assert_memory_equal(a, b, sizeof a);
    assert_memory_not_equal(a, c, sizeof a);
    one->random(one, b, sizeof b);
    assert_memory_not_equal(a, b, sizeof a);
    belay_fake_destroy(other);
    belay_fake_destroy(third);
}

static void the_nth_allocation_fails_once(void **state)
{
    belay_fake_world *world = *state;
    belay_world *base = belay_fake_base(world);
    for (int i = 0; i < 5; i++) assert_true(base->may_alloc(base, 10));
    belay_fake_fail_alloc(world, 3);
    assert_true(base->may_alloc(base, 10));
    assert_true(base->may_alloc(base, 10));
    assert_false(base->may_alloc(base, 10));
    assert_true(base->may_alloc(base, 10));
    assert_int_equal(belay_fake_allocs(world), 9);
    assert_int_equal(belay_fake_refused(world), 1);
    belay_fake_fail_alloc(world, 1);
    belay_fake_fail_alloc(world, 0);
    assert_true(base->may_alloc(base, 10));
    assert_int_equal(belay_fake_refused(world), 1);
}

static void count_kick(void *arg)
{
    atomic_fetch_add((atomic_int *)arg, 1);
}

static void clients_are_kicked_until_they_detach(void **state)
{
    belay_fake_world *world = *state;
    belay_world *base = belay_fake_base(world);
    atomic_int one = 0, two = 0;
    assert_int_equal(base->attach(base, count_kick, &one), BELAY_OK);
    assert_int_equal(base->attach(base, count_kick, &two), BELAY_OK);
    assert_int_equal(belay_fake_clients(world), 2);
    belay_fake_advance(world, 1);
    assert_int_equal(atomic_load(&one), 1);
    assert_int_equal(atomic_load(&two), 1);
    base->detach(base, count_kick, &one);
    base->detach(base, count_kick, &one); /* not attached: nothing happens */
    belay_fake_advance(world, 1);
    assert_int_equal(atomic_load(&one), 1);
    assert_int_equal(atomic_load(&two), 2);
    base->detach(base, count_kick, &two);
    assert_int_equal(belay_fake_clients(world), 0);
}

static void attaching_may_run_out_of_memory(void **state)
{
    belay_fake_world *world = *state;
    belay_world *base = belay_fake_base(world);
    atomic_int kicks = 0;
    belay_fake_fail_alloc(world, 1);
    assert_int_equal(base->attach(base, count_kick, &kicks), BELAY_NOMEM);
    belay_fake_advance(world, 1);
    assert_int_equal(atomic_load(&kicks), 0);
    assert_int_equal(belay_fake_clients(world), 0);
}

static void an_idle_client_moves_the_clock(void **state)
{
    belay_fake_world *world = *state;
    belay_world *base = belay_fake_base(world);
    atomic_int kicks = 0;
    int64_t now = belay_fake_now(world);
    assert_int_equal(base->attach(base, count_kick, &kicks), BELAY_OK);
    assert_true(base->wait(base, now + SECOND));
    assert_int_equal(belay_fake_now(world), now + SECOND);
    assert_int_equal(atomic_load(&kicks), 1);
    assert_true(base->wait(base, now)); /* due already */
    assert_int_equal(belay_fake_now(world), now + SECOND);
    assert_false(base->wait(base, INT64_MAX)); /* nothing to wait for */
    belay_fake_auto_advance(world, false);
    assert_false(base->wait(base, now + 2 * SECOND));
    assert_int_equal(belay_fake_now(world), now + SECOND);
    belay_fake_auto_advance(world, true);
    assert_true(base->wait(base, now + 2 * SECOND));
    assert_int_equal(belay_fake_now(world), now + 2 * SECOND);
    base->detach(base, count_kick, &kicks);
}

static void *advance_often(void *arg)
{
    belay_world *base = belay_fake_base(arg);
    unsigned char bytes[3];
    for (int i = 0; i < 1000; i++) {
        atomic_int kicks = 0;
        belay_fake_advance(arg, 3);
        base->random(base, bytes, sizeof bytes);
        if (base->attach(base, count_kick, &kicks) == BELAY_OK)
            base->detach(base, count_kick, &kicks);
    }
    return NULL;
}

static void threads_may_share_it(void **state)
{
    belay_fake_world *world = *state;
    int64_t now = belay_fake_now(world);
    pthread_t threads[4];
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, advance_often, world), 0);
    for (int i = 0; i < 4; i++) pthread_join(threads[i], NULL);
    assert_int_equal(belay_fake_now(world), now + 12000);
    assert_int_equal(belay_fake_clients(world), 0);
}

/* Thirty seconds pass without a pause: what the fake world is for. */
static void a_client_lives_in_it(void **state)
{
    belay_fake_world *world = *state;
    belay_open_options options = BELAY_OPEN_OPTIONS_INIT;
    belay_options wait = BELAY_OPTIONS_INIT;
    belay *client = NULL;
    belay_lock *lock = NULL, *none = NULL;
    options.threads = BELAY_DISPATCH;
    options.world = belay_fake_base(world);
    assert_int_equal(belay_open(&client, "memory:", &options, NULL), BELAY_OK);
    assert_int_equal(belay_fake_clients(world), 1);
    wait.ttl_ms = 60000;
    wait.wait_ms = 30000;
    wait.keep = BELAY_KEEP_OFF;
    assert_int_equal(belay_acquire(client, "name", &wait, &lock, NULL), BELAY_OK);
    int64_t before = belay_fake_now(world);
    assert_int_equal(belay_acquire(client, "name", &wait, &none, NULL), BELAY_HELD);
    assert_int_equal(belay_fake_now(world) - before, 30 * SECOND);
    assert_int_equal(belay_release(lock, NULL), BELAY_OK);
    belay_close(client);
    assert_int_equal(belay_fake_clients(world), 0);
    belay_fake_destroy(NULL);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(it_begins_at_a_large_odd_moment),
        TEST(advancing_moves_both_clocks),
        TEST(a_step_moves_the_wall_clock_alone),
        TEST(the_same_seed_gives_the_same_chance),
        TEST(the_nth_allocation_fails_once),
        TEST(clients_are_kicked_until_they_detach),
        TEST(attaching_may_run_out_of_memory),
        TEST(an_idle_client_moves_the_clock),
        TEST(threads_may_share_it),
        TEST(a_client_lives_in_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
