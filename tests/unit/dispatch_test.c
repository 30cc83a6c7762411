/* dispatch_test.c - BELAY_DISPATCH: one descriptor that neither spins nor loses a wake-up, and no
 * thread, ever. */
#define _GNU_SOURCE
#include "tests/unit/engine_help.h"

#include <poll.h>

static const char QUICK[] = "keep = false; close_timeout = \"100ms\";";

static int setup(void **state)
{
    belay_open_options options = help_options(BELAY_DISPATCH, NULL);
    script_reset();
    *state = help_open(QUICK, &options);
    return *state == NULL ? -1 : 0;
}

static int teardown(void **state)
{
    belay_close(*state);
    return 0;
}

/* Runs a level-triggered event loop until the condition holds; counts the passes that found it
 * readable. */
#define dispatch_until(client, condition)                                                          \
    __extension__({                                                                                \
        int readable = 0;                                                                          \
        int64_t until_ns = help_now() + 10000 * MS;                                                \
        while (!(condition) && help_now() < until_ns) {                                            \
            struct pollfd at = { .fd = belay_fd(client), .events = POLLIN };                       \
            if (poll(&at, 1, 100) != 1) continue;                                                  \
            readable++;                                                                            \
            assert_int_equal(belay_dispatch(client), BELAY_OK);                                    \
        }                                                                                          \
        assert_true(condition);                                                                    \
        readable;                                                                                  \
    })

static void the_descriptor_is_not_readable_while_there_is_nothing_to_do(void **state)
{
    belay *client = *state;
    belay_lock *lock;
    assert_false(help_readable(belay_fd(client)));
    assert_int_equal(belay_acquire(client, "a", NULL, &lock, NULL), BELAY_OK);
    assert_int_equal(belay_release(lock, NULL), BELAY_OK);

    while (help_readable(belay_fd(client))) assert_int_equal(belay_dispatch(client), BELAY_OK);
    struct pollfd at = { .fd = belay_fd(client), .events = POLLIN };
    assert_int_equal(poll(&at, 1, 50), 0);
}

static void an_answer_makes_the_descriptor_readable_until_it_is_dispatched(void **state)
{
    belay *client = *state;
    struct answer answer = { 0 };
    assert_int_equal(belay_acquire_start(client, "a", NULL, answer_in, &answer, NULL, NULL),
                     BELAY_OK);
    assert_int_equal(atomic_load(&answer.count), 0); /* never from the middle of another call */
    assert_true(help_readable(belay_fd(client)));

    assert_int_equal(belay_dispatch(client), BELAY_OK);
    assert_int_equal(atomic_load(&answer.count), 1);
    assert_true(pthread_equal(answer.thread, pthread_self()));
    assert_false(help_readable(belay_fd(client)));
    assert_int_equal(belay_release(atomic_load(&answer.lock), NULL), BELAY_OK);
}

static void a_timer_wakes_the_event_loop_once(void **state)
{
    belay *client = *state;
    struct answer answer = { 0 };
    script_add(BELAY_VERB_ACQUIRE,
               (struct script_reply){ .how = SCRIPT_TIMER, .status = BELAY_OK, .after_ms = 40 });
    assert_int_equal(belay_acquire_start(client, "a", NULL, answer_in, &answer, NULL, NULL),
                     BELAY_OK);
    assert_false(help_readable(belay_fd(client)));

    int passes = dispatch_until(client, atomic_load(&answer.count) == 1);
    assert_in_range(passes, 1, 3);
    assert_int_equal(belay_release(atomic_load(&answer.lock), NULL), BELAY_OK);
}

static void another_threads_poke_wakes_the_event_loop(void **state)
{
    belay *client = *state;
    struct answer answer = { 0 };
    script_add(BELAY_VERB_ACQUIRE,
               (struct script_reply){ .how = SCRIPT_PEND, .status = BELAY_UNAVAILABLE });
    assert_int_equal(belay_acquire_start(client, "a", NULL, answer_in, &answer, NULL, NULL),
                     BELAY_OK);
    assert_false(help_readable(belay_fd(client)));

    script_settle(BELAY_VERB_ACQUIRE, BELAY_OK);
    assert_true(help_readable(belay_fd(client)));
    dispatch_until(client, atomic_load(&answer.count) == 1);
    assert_int_equal(belay_release(atomic_load(&answer.lock), NULL), BELAY_OK);
}

static void no_thread_ever_starts(void **state)
{
    belay *client = *state;
    struct answer answers[8];
    belay_options options = BELAY_OPTIONS_INIT;
    int threads = help_threads();
    memset(answers, 0, sizeof answers);
    options.keep = BELAY_KEEP_ON;
    options.ttl_ms = 100;
    for (int i = 0; i < 8; i++) {
        char name[8];
        snprintf(name, sizeof name, "%d", i);
        assert_int_equal(belay_acquire_start(client, name, &options, answer_in, &answers[i], NULL,
                                             NULL),
                         BELAY_OK);
    }
    script_add(BELAY_VERB_RELEASE, (struct script_reply){ .how = SCRIPT_NOW,
                                                          .status = BELAY_UNAVAILABLE,
                                                          .times = 16 });
    script_add(BELAY_VERB_RELEASE, (struct script_reply){ .how = SCRIPT_NOW, .status = BELAY_OK });
    dispatch_until(client, script_count(BELAY_VERB_EXTEND) >= 16);
    assert_int_equal(help_threads(), threads);
    for (int i = 0; i < 8; i++)
        assert_int_equal(belay_release(atomic_load(&answers[i].lock), NULL), BELAY_UNAVAILABLE);
    dispatch_until(client, script_count(BELAY_VERB_RELEASE) >= 24); /* the debts */
    assert_int_equal(help_threads(), threads);
}

static void a_worker_is_not_to_be_had(void **state)
{
    belay *client = *state;
    belay_lock *lock;
    script_add(BELAY_VERB_ACQUIRE,
               (struct script_reply){ .how = SCRIPT_WORKER, .status = BELAY_OK });
    belay_options options = BELAY_OPTIONS_INIT;
    options.wait_ms = BELAY_TRY;
    assert_int_equal(belay_acquire(client, "a", &options, &lock, NULL), BELAY_UNSUPPORTED);
}

/* ------------------------------------------------------------------ inside a callback */

struct nest {
    belay *client;
    struct answer inner;
    belay_status blocking, dispatch, released;
    int count;
};

static void nest(void *arg, belay_status status, belay_lock *lock, const belay_error *err)
{
    struct nest *to = arg;
    belay_lock *other;
    (void)status, (void)err;
    to->count++;
    to->released = belay_release(lock, NULL);
    to->blocking = belay_acquire(to->client, "inside", NULL, &other, NULL);
    if (to->blocking == BELAY_OK) (void)belay_release(other, NULL);
    (void)!belay_acquire_start(to->client, "started", NULL, answer_in, &to->inner, NULL, NULL);
    to->dispatch = belay_dispatch(to->client);
    if (atomic_load(&to->inner.count) != 0) to->count = -100; /* callbacks do not nest */
}

static void a_callback_may_call_belay_and_none_runs_inside_it(void **state)
{
    struct nest to = { .client = *state };
    assert_int_equal(belay_acquire_start(to.client, "a", NULL, nest, &to, NULL, NULL), BELAY_OK);

    dispatch_until(to.client, atomic_load(&to.inner.count) == 1);
    assert_int_equal(to.count, 1);
    assert_int_equal(to.released, BELAY_OK);
    assert_int_equal(to.blocking, BELAY_OK);
    assert_int_equal(to.dispatch, BELAY_OK);
    assert_int_equal(belay_release(atomic_load(&to.inner.lock), NULL), BELAY_OK);
}

static void close_inside(void *arg, belay_status status, belay_lock *lock, const belay_error *err)
{
    (void)status, (void)err;
    belay_close(arg);
    (void)belay_release(lock, NULL); /* not closed yet: it takes effect when we return */
}

static void a_close_inside_a_callback_makes_dispatch_say_closed(void **state)
{
    belay *client = *state;
    struct answer waiting = { 0 };
    assert_int_equal(belay_acquire_start(client, "a", NULL, close_inside, client, NULL, NULL),
                     BELAY_OK);
    script_add(BELAY_VERB_ACQUIRE,
               (struct script_reply){ .how = SCRIPT_PEND, .status = BELAY_UNAVAILABLE });
    assert_int_equal(belay_acquire_start(client, "b", NULL, answer_in, &waiting, NULL, NULL),
                     BELAY_OK);

    assert_int_equal(belay_dispatch(client), BELAY_CLOSED);
    assert_int_equal(script_destroyed(), 1);
    assert_int_equal(atomic_load(&waiting.count), 1);
    assert_int_equal(atomic_load(&waiting.status), BELAY_CANCELED);
    *state = NULL;
}

static void dispatch_is_for_dispatch_clients_alone(void **state)
{
    belay *threads = help_open("", NULL);
    (void)state;
    assert_int_equal(belay_fd(threads), -1);
    assert_int_equal(belay_dispatch(threads), BELAY_INVALID);
    belay_close(threads);
    assert_int_equal(belay_dispatch(NULL), BELAY_INVALID);
}

/* ------------------------------------------------------------------ beside a blocked thread */

static void a_dispatch_beside_a_blocked_caller_does_not_hide_its_answer(void **state)
{
    belay *client = *state;
    for (int i = 0; i < 50; i++) {
        struct caller blocked = { 0 };
        belay_lock *held;
        assert_int_equal(belay_acquire(client, "a", NULL, &held, NULL), BELAY_OK);
        script_reset();
        script_add(BELAY_VERB_ACQUIRE,
                   (struct script_reply){ .how = SCRIPT_NOW, .status = BELAY_HELD });
        script_add(BELAY_VERB_ACQUIRE,
                   (struct script_reply){ .how = SCRIPT_NOW, .status = BELAY_OK });
        caller_acquire(&blocked, client, "a", BELAY_FOREVER);
        assert_true(eventually(script_count(BELAY_VERB_ACQUIRE) == 1));
        if (i % 2 == 0)
            for (int n = 0; n < 20; n++, help_pause())
                assert_int_equal(belay_dispatch(client), BELAY_OK);

        /* Its answer is made here, and it sleeps in epoll: the kick must reach it, not us. */
        assert_int_equal(belay_release(held, NULL), BELAY_OK);
        for (int n = 0; n < 20; n++) assert_int_equal(belay_dispatch(client), BELAY_OK);

        assert_true(caller_end(&blocked));
        assert_int_equal(blocked.status, BELAY_OK);
        assert_int_equal(belay_release(blocked.lock, NULL), BELAY_OK);
        script_reset();
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(the_descriptor_is_not_readable_while_there_is_nothing_to_do,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(
            an_answer_makes_the_descriptor_readable_until_it_is_dispatched, setup, teardown),
        cmocka_unit_test_setup_teardown(a_timer_wakes_the_event_loop_once, setup, teardown),
        cmocka_unit_test_setup_teardown(another_threads_poke_wakes_the_event_loop, setup, teardown),
        cmocka_unit_test_setup_teardown(no_thread_ever_starts, setup, teardown),
        cmocka_unit_test_setup_teardown(a_worker_is_not_to_be_had, setup, teardown),
        cmocka_unit_test_setup_teardown(a_callback_may_call_belay_and_none_runs_inside_it, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_close_inside_a_callback_makes_dispatch_say_closed, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(dispatch_is_for_dispatch_clients_alone, setup, teardown),
        cmocka_unit_test_setup_teardown(a_dispatch_beside_a_blocked_caller_does_not_hide_its_answer,
                                        setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
