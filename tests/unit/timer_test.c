/* timer_test.c - the pairing heap fires in the order of time, deeper timers first among equals. */
#include "core/loop.h"
#include "tests/unit/engine_help.h"

enum { TIMERS = 500, ROUNDS = 20000 };

static uint32_t state_of_chance = 12345;
static uint32_t chance(uint32_t below)
{
    state_of_chance = state_of_chance * 1664525u + 1013904223u;
    return (uint32_t)((uint64_t)state_of_chance * below >> 32);
}

static bool before(const belay_timer *a, const belay_timer *b)
{
    return a->due_ns != b->due_ns ? a->due_ns < b->due_ns : a->depth > b->depth;
}

/* None that is armed is before the root. */
static void root_is_first(belay_timer *heap, const belay_timer *timers, size_t count)
{
    size_t armed = 0;
    for (size_t i = 0; i < count; i++) {
        if (!belay_timer_armed(&timers[i])) continue;
        armed++;
        assert_non_null(heap);
        assert_false(before(&timers[i], heap));
    }
    assert_int_equal(heap != NULL, armed != 0);
}

static void the_root_is_the_first_after_any_inserts_and_removes(void **state)
{
    static belay_timer timers[TIMERS];
    belay_timer *heap = NULL;
    (void)state;
    for (size_t i = 0; i < TIMERS; i++) belay_timer_init(&timers[i], NULL);
    for (int round = 0; round < ROUNDS; round++) {
        belay_timer *timer = &timers[chance(TIMERS)];
        if (belay_timer_armed(timer)) {
            belay__timer_remove(&heap, timer);
            assert_false(belay_timer_armed(timer));
        } else {
            timer->due_ns = chance(100); /* many are due together */
            timer->depth = chance(3);
            belay__timer_insert(&heap, timer);
            assert_true(belay_timer_armed(timer));
        }
        if (round % 50 == 0) root_is_first(heap, timers, TIMERS);
    }
}

static void taking_the_root_again_and_again_sorts(void **state)
{
    static belay_timer timers[TIMERS];
    belay_timer *heap = NULL;
    size_t taken = 0;
    (void)state;
    for (size_t i = 0; i < TIMERS; i++) {
        belay_timer_init(&timers[i], NULL);
        timers[i].due_ns = (int64_t)chance(200) - 100;
        timers[i].depth = chance(4);
        belay__timer_insert(&heap, &timers[i]);
    }
    for (size_t i = 0; i < TIMERS; i += 3) belay__timer_remove(&heap, &timers[i]);
    for (belay_timer last = { .due_ns = INT64_MIN }, *root; (root = heap) != NULL; taken++) {
        assert_false(before(root, &last));
        last = *root;
        belay__timer_remove(&heap, root);
    }
    assert_int_equal(taken, TIMERS - (TIMERS + 2) / 3);
}

static void of_two_that_are_due_together_the_deeper_fires_first(void **state)
{
    belay_timer parent, child, *heap;
    (void)state;
    for (int order = 0; order < 2; order++) {
        heap = NULL;
        belay_timer_init(&parent, NULL);
        belay_timer_init(&child, NULL);
        parent.due_ns = child.due_ns = 7;
        child.depth = 1;
        belay__timer_insert(&heap, order == 0 ? &parent : &child);
        belay__timer_insert(&heap, order == 0 ? &child : &parent);
        assert_ptr_equal(heap, &child);
        belay__timer_remove(&heap, &child);
        assert_ptr_equal(heap, &parent);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_root_is_the_first_after_any_inserts_and_removes),
        cmocka_unit_test(taking_the_root_again_and_again_sorts),
        cmocka_unit_test(of_two_that_are_due_together_the_deeper_fires_first),
    };

    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
