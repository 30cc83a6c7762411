/* callback_test.c - callbacks are the user's time: one at a time, once, never after the release,
 * and nothing waits for them that need not. */
#define _GNU_SOURCE
#include "core/client.h"
#include "tests/unit/engine_help.h"

static const char QUICK[] = "close_timeout = \"2s\";";

static int setup(void **state)
{
    script_reset();
    *state = help_open(QUICK, NULL);
    return *state == NULL ? -1 : 0;
}

static int teardown(void **state)
{
    belay_close(*state);
    return 0;
}

/* What an on_lost did, and may wait for. */
struct lost {
    belay *client;
    atomic_int count, running;
    atomic_bool gate; /* it returns when this is true */
    bool release, close;
    belay_status status, released;
    char text[128];
};

static void on_lost(void *arg, belay_lock *lock, const belay_error *why)
{
    struct lost *lost = arg;
    atomic_store(&lost->running, 1);
    lost->status = why->status;
    snprintf(lost->text, sizeof lost->text, "%s", why->text);
    if (lost->close) belay_close(lost->client);
    if (lost->release) lost->released = belay_release(lock, NULL);
    while (!atomic_load(&lost->gate)) help_pause();
    atomic_store(&lost->running, 0);
    atomic_fetch_add(&lost->count, 1);
}

static bool release_waits(belay *client)
{
    belay__loop_enter(&client->loop);
    bool waits = client->loop.call_waiters > 0;
    belay__loop_leave(&client->loop);
    return waits;
}

static belay_lock *take(belay *client, struct lost *lost, uint32_t ttl_ms)
{
    belay_options options = BELAY_OPTIONS_INIT;
    belay_lock *lock = NULL;
    options.ttl_ms = ttl_ms;
    options.on_lost = on_lost;
    options.arg = lost;
    lost->client = client;
    (void)!belay_acquire(client, "a", &options, &lock, NULL);
    return lock;
}

static void a_loss_is_told_once_with_its_reason(void **state)
{
    struct lost lost = { .gate = true };
    belay_lock *lock = take(*state, &lost, 600000);
    assert_non_null(lock);
    script_lose("the file was replaced");
    assert_true(eventually(atomic_load(&lost.count) == 1));
    script_lose("again");
    script_add(BELAY_VERB_EXTEND, (struct script_reply){ .status = BELAY_OK });

    assert_int_equal(belay_extend(lock, 0, NULL), BELAY_LOST); /* a later OK revives nothing */
    assert_false(belay_lock_valid(lock, 0));
    assert_int_equal(belay_release(lock, NULL), BELAY_LOST);
    assert_int_equal(atomic_load(&lost.count), 1);
    assert_int_equal(lost.status, BELAY_LOST);
    assert_string_equal(lost.text, "the file was replaced");
}

static void what_a_foreign_thread_tells_is_heard_though_nobody_waits(void **state)
{
    struct lost lost = { .gate = true };
    belay_lock *lock = take(*state, &lost, 600000); /* its next extension is minutes away */
    for (int i = 0; i < 2; i++) {                   /* after a caller that led, as well */
        belay_lock *other;
        script_add(BELAY_VERB_ACQUIRE,
                   (struct script_reply){ .how = SCRIPT_TIMER, .status = BELAY_OK, .after_ms = 5 });
        assert_int_equal(belay_acquire(*state, "b", NULL, &other, NULL), BELAY_OK);
        assert_int_equal(belay_release(other, NULL), BELAY_OK);
    }
    script_lose("gone");
    assert_true(eventually(atomic_load(&lost.count) == 1));
    assert_int_equal(belay_release(lock, NULL), BELAY_LOST);
}

static void a_loss_by_the_clock_is_told_once(void **state)
{
    struct lost lost = { .gate = true };
    script_add(BELAY_VERB_EXTEND, (struct script_reply){ .status = BELAY_UNAVAILABLE });
    belay_lock *lock = take(*state, &lost, 100);
    assert_true(eventually(atomic_load(&lost.count) == 1));
    assert_int_equal(belay_extend(lock, 0, NULL), BELAY_LOST);
    assert_int_equal(belay_release(lock, NULL), BELAY_LOST);
    assert_int_equal(atomic_load(&lost.count), 1);
}

static void a_lock_may_be_released_inside_its_own_callback(void **state)
{
    struct lost lost = { .gate = true, .release = true };
    assert_non_null(take(*state, &lost, 600000));
    script_lose("gone");
    assert_true(eventually(atomic_load(&lost.count) == 1));
    assert_int_equal(lost.released, BELAY_LOST);
}

static void release_waits_for_a_callback_that_runs_and_none_starts_after(void **state)
{
    struct lost lost = { .gate = false };
    struct caller release = { 0 };
    belay_lock *lock = take(*state, &lost, 600000);
    script_lose("gone");
    assert_true(eventually(atomic_load(&lost.running) == 1));

    caller_release(&release, lock);
    for (int i = 0; i < 20; i++) help_pause();
    assert_false(atomic_load(&release.ended));
    atomic_store(&lost.gate, true);

    assert_true(caller_end(&release));
    assert_int_equal(atomic_load(&lost.running), 0); /* it had ended before release returned */
    assert_int_equal(release.status, BELAY_LOST);
    assert_int_equal(atomic_load(&lost.count), 1);
}

static void release_takes_back_a_callback_that_has_not_begun(void **state)
{
    struct lost first = { .gate = false }, second = { .gate = true };
    belay_lock *a = take(*state, &first, 600000);
    script_lose("gone");
    assert_true(eventually(atomic_load(&first.running) == 1));
    belay_lock *b = take(*state, &second, 600000);
    script_lose("gone too");
    assert_true(eventually(belay_lock_remaining_ms(b) == 0));

    assert_int_equal(belay_release(b, NULL), BELAY_LOST); /* does not wait for the other's */
    atomic_store(&first.gate, true);
    assert_int_equal(belay_release(a, NULL), BELAY_LOST);
    assert_int_equal(atomic_load(&second.count), 0);
}

static void a_callback_that_blocks_stops_no_extension(void **state)
{
    struct lost lost = { .gate = false };
    belay_options options = BELAY_OPTIONS_INIT;
    belay_lock *a = take(*state, &lost, 600000), *kept;
    script_lose("gone");
    assert_true(eventually(atomic_load(&lost.running) == 1));
    options.keep_every_ms = 20;
    assert_int_equal(belay_acquire(*state, "kept", &options, &kept, NULL), BELAY_OK);

    assert_true(eventually(script_count(BELAY_VERB_EXTEND) >= 5));
    assert_true(belay_lock_valid(kept, 0));

    atomic_store(&lost.gate, true);
    assert_int_equal(belay_release(kept, NULL), BELAY_OK);
    assert_int_equal(belay_release(a, NULL), BELAY_LOST);
}

static void a_close_inside_a_callback_takes_effect_when_it_returns(void **state)
{
    struct lost lost = { .gate = false, .close = true };
    belay_lock *lock = take(*state, &lost, 600000);
    script_lose("gone");
    assert_true(eventually(atomic_load(&lost.running) == 1));
    for (int i = 0; i < 20; i++) help_pause();
    assert_int_equal(script_destroyed(), 0);

    atomic_store(&lost.gate, true);
    assert_true(eventually(script_destroyed() == 1));
    assert_int_equal(atomic_load(&lost.count), 1);
    assert_int_equal(belay_release(lock, NULL), BELAY_CLOSED);
    *state = NULL;
}

static void a_callback_s_waiting_release_and_a_close_get_along(void **state)
{
    struct lost lost = { .gate = false };
    struct caller release = { 0 }, close = { 0 };
    belay *client = *state;
    belay_lock *lock = take(client, &lost, 600000);
    script_lose("gone");
    assert_true(eventually(atomic_load(&lost.running) == 1));
    caller_release(&release, lock);
    assert_true(eventually(release_waits(client)));
    caller_close(&close, client);
    for (int i = 0; i < 50; i++) help_pause();

    atomic_store(&lost.gate, true);

    assert_true(caller_end(&release));
    assert_true(caller_end(&close));
    assert_int_equal(release.status, BELAY_LOST);
    *state = NULL;
}

/* ------------------------------------------------------------------ with a clock of ours */

static void on_scope_waits(void *arg, belay_lock *lock, belay_scope now)
{
    (void)lock, (void)now;
    struct lost *lost = arg;
    atomic_store(&lost->running, 1);
    while (!atomic_load(&lost->gate)) help_pause();
}

static void a_release_that_waited_for_a_callback_has_its_whole_timeout_yet(void **state)
{
    belay_fake_world *world = belay_fake_create(1);
    belay_open_options open = help_options(BELAY_THREADS, world);
    belay_options options = BELAY_OPTIONS_INIT;
    struct lost lost = { .gate = false };
    struct caller release = { 0 };
    belay_lock *lock;
    (void)state;
    belay *client = help_open(QUICK, &open);
    options.on_scope = on_scope_waits;
    options.arg = &lost;
    options.keep = BELAY_KEEP_OFF;
    assert_int_equal(belay_acquire(client, "a", &options, &lock, NULL), BELAY_OK);
    belay__loop_enter(&client->loop);
    belay_grant_changed(lock->grant, BELAY_SCOPE_ANY, lock->deadline_ns, "");
    belay__loop_leave(&client->loop);
    assert_true(eventually(atomic_load(&lost.running) == 1));
    caller_release(&release, lock);
    assert_true(eventually(release_waits(client)));

    belay_fake_advance(world, 3000 * MS);
    atomic_store(&lost.gate, true);

    assert_true(caller_end(&release));
    struct script_call sent = script_call_at(BELAY_VERB_RELEASE, 0);
    assert_int_equal(sent.at_ns, belay_fake_now(world));
    assert_int_equal(sent.settle_by_ns, belay_fake_now(world) + 200 * MS);
    assert_int_equal(release.status, BELAY_OK);
    belay_close(client);
    belay_fake_destroy(world);
}

static void extending_a_handle_after_the_client_and_its_world_are_gone_says_closed(void **state)
{
    belay_fake_world *world = belay_fake_create(1);
    belay_open_options open = help_options(BELAY_DISPATCH, world);
    belay_lock *lock;
    (void)state;
    belay *client = help_open(QUICK, &open);
    assert_int_equal(belay_acquire(client, "a", NULL, &lock, NULL), BELAY_OK);
    belay_close(client);
    belay_fake_destroy(world);

    assert_int_equal(belay_extend(lock, 0, NULL), BELAY_CLOSED);
    assert_false(belay_lock_valid(lock, 0));
    assert_int_equal(belay_lock_remaining_ms(lock), 0);
    assert_int_equal(belay_release(lock, NULL), BELAY_CLOSED);
}

/* ------------------------------------------------------------------ dispatch on one thread, close
 * on another */

static void done_waits(void *arg, belay_status status, belay_lock *lock, const belay_error *err)
{
    (void)status, (void)err;
    struct lost *lost = arg;
    lost->released = belay_release(lock, NULL);
    atomic_store(&lost->running, 1);
    while (!atomic_load(&lost->gate)) help_pause();
}

static void run_dispatch(struct caller *caller)
{
    caller->status = belay_dispatch(caller->client);
}

static void a_close_waits_for_a_dispatch_of_another_thread(void **state)
{
    belay_open_options open = help_options(BELAY_DISPATCH, NULL);
    struct lost lost = { .gate = false };
    struct caller dispatch = { 0 }, close = { 0 };
    (void)state;
    belay *client = help_open(QUICK, &open);
    assert_int_equal(belay_acquire_start(client, "a", NULL, done_waits, &lost, NULL, NULL),
                     BELAY_OK);
    dispatch.client = client;
    caller_start(&dispatch, run_dispatch);
    assert_true(eventually(atomic_load(&lost.running) == 1));
    caller_close(&close, client);
    for (int i = 0; i < 50; i++) help_pause();
    assert_false(atomic_load(&close.ended));

    atomic_store(&lost.gate, true);
    assert_true(caller_end(&dispatch));
    assert_true(caller_end(&close));
    assert_int_equal(dispatch.status, BELAY_OK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_loss_is_told_once_with_its_reason, setup, teardown),
        cmocka_unit_test_setup_teardown(what_a_foreign_thread_tells_is_heard_though_nobody_waits,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(a_loss_by_the_clock_is_told_once, setup, teardown),
        cmocka_unit_test_setup_teardown(a_lock_may_be_released_inside_its_own_callback, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(
            release_waits_for_a_callback_that_runs_and_none_starts_after, setup, teardown),
        cmocka_unit_test_setup_teardown(release_takes_back_a_callback_that_has_not_begun, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_callback_that_blocks_stops_no_extension, setup, teardown),
        cmocka_unit_test_setup_teardown(a_close_inside_a_callback_takes_effect_when_it_returns,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(a_callback_s_waiting_release_and_a_close_get_along, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(
            a_release_that_waited_for_a_callback_has_its_whole_timeout_yet, setup, teardown),
        cmocka_unit_test_setup_teardown(
            extending_a_handle_after_the_client_and_its_world_are_gone_says_closed, setup,
            teardown),
        cmocka_unit_test_setup_teardown(a_close_waits_for_a_dispatch_of_another_thread, setup,
                                        teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
