/* fault_test.c - the fault backend: each fate, each delay, and that it leaves nothing behind at its
 * child. */
#define _POSIX_C_SOURCE 200809L
#include "fault_stage.h"

/* ------------------------------------------------------------------ fates of acquire */

static void unavailable_is_not_sent(void **state)
{
    (void)state;
    struct stage stage;
    belay_error err = BELAY_ERROR_INIT;
    belay_lock *lock = NULL;
    begin(&stage, "acquire: { schedule = \"unavailable*3, ok\"; };");
    for (int i = 0; i < 3; i++) {
        assert_int_equal(try_for(stage.faulty, 10000, &lock, &err), BELAY_UNAVAILABLE);
        assert_true(is_free(&stage));
    }
    assert_non_null(strstr(err.text, "injected"));
    assert_string_equal(err.node, "f");
    pass(&stage, 0);
    assert_non_null(strstr(stage.log, "injecting unavailable"));
    lock = take(stage.faulty);
    assert_false(is_free(&stage));
    assert_int_equal(belay_release(lock, NULL), BELAY_OK);
    end(&stage);
}

static void held_is_refused_though_free(void **state)
{
    (void)state;
    struct stage stage;
    begin(&stage, "acquire: { schedule = \"held, held, ok\"; };");
    refused(stage.faulty, BELAY_HELD);
    assert_true(is_free(&stage));

    /* A waiter asks again soon. */
    belay_options wait = lease(10000);
    belay_lock *lock = NULL;
    wait.wait_ms = BELAY_FOREVER;
    int64_t before = belay_fake_now(stage.world);
    assert_int_equal(belay_acquire(stage.faulty, "name", &wait, &lock, NULL), BELAY_OK);
    assert_true(belay_fake_now(stage.world) - before < 200 * MS);
    assert_int_equal(belay_release(lock, NULL), BELAY_OK);
    end(&stage);
}

static void uncertain_applied_is_given_back(void **state)
{
    (void)state;
    struct stage stage;
    begin(&stage, "acquire: { schedule = \"uncertain_applied\"; };");
    refused(stage.faulty, BELAY_UNCERTAIN);
    assert_int_equal(free_after_ms(&stage, 5), 0);
    assert_int_equal(belay_release(take(stage.faulty), NULL), BELAY_OK);
    end(&stage);
}

static void uncertain_applied_is_left_when_asked(void **state)
{
    (void)state;
    struct stage stage;
    begin(&stage, "leave = true; acquire: { schedule = \"uncertain_applied\"; };");
    refused(stage.faulty, BELAY_UNCERTAIN);
    pass(&stage, 9000);
    refused(stage.plain, BELAY_HELD); /* it took effect: that is what is uncertain */
    pass(&stage, 1001);
    assert_int_equal(belay_release(take(stage.plain), NULL), BELAY_OK);
    end(&stage);
}

static void uncertain_applied_of_a_held_lock_harms_nobody(void **state)
{
    (void)state;
    struct stage stage;
    begin(&stage, "acquire: { schedule = \"uncertain_applied\"; };");
    belay_lock *lock = take(stage.plain);
    refused(stage.faulty, BELAY_UNCERTAIN);
    pass(&stage, 100);
    assert_true(belay_lock_valid(lock, 0));
    refused(stage.faulty, BELAY_HELD);
    assert_int_equal(belay_release(lock, NULL), BELAY_OK);
    end(&stage);
}

static void uncertain_dropped_is_not_sent(void **state)
{
    (void)state;
    struct stage stage;
    begin(&stage, "leave = true; acquire: { schedule = \"uncertain_dropped\"; };");
    refused(stage.faulty, BELAY_UNCERTAIN);
    assert_true(is_free(&stage));
    end(&stage);
}

/* A give-back that fails is repeated, also while the client closes. */
static void a_give_back_is_repeated(void **state)
{
    (void)state;
    static const char nested[] =
        /* %s: the place */ "use = \"outer\";\n"
                            "backends: {\n"
                            "  inner: { type = \"fault\"; child = \"%s\"; release: { "
                            "schedule = \"unavailable*3\"; }; };\n"
                            "  outer: { type = \"fault\"; child = \"inner\"; acquire: { "
                            "schedule = \"uncertain_applied\"; }; };\n"
                            "};\n";
    for (int closing = 0; closing < 2; closing++) {
        struct stage stage;
        begin(&stage, "");
        belay_close(stage.faulty);
        char text[512];
        snprintf(text, sizeof text, nested, stage.place);
        assert_int_equal(open_text(&stage, text, &stage.faulty, NULL), BELAY_OK);
        refused(stage.faulty, BELAY_UNCERTAIN);
        assert_false(is_free(&stage));
        if (closing == 0) {
            int64_t ms = free_after_ms(&stage, 1000);
            assert_true(ms > 0 && ms < 1000);
        } else {
            belay_close(stage.faulty);
            stage.faulty = NULL;
            assert_true(is_free(&stage));
        }
        end(&stage);
    }
}

/* ------------------------------------------------------------------ fates of release and extend */

static void a_release_that_fails_is_made_good(void **state)
{
    (void)state;
    static const char *const schedules[] = { "unavailable*2", "uncertain_dropped*2",
                                             "uncertain_applied" };
    for (size_t i = 0; i < sizeof schedules / sizeof schedules[0]; i++) {
        struct stage stage;
        char keys[128];
        snprintf(keys, sizeof keys, "release: { schedule = \"%s\"; };", schedules[i]);
        begin(&stage, keys);
        belay_status status = belay_release(take(stage.faulty), NULL);
        assert_true(status == BELAY_UNAVAILABLE || status == BELAY_UNCERTAIN);
        assert_true(free_after_ms(&stage, 1000) < 1000); /* long before the TTL */
        end(&stage);
    }
}

static void count_loss(void *arg, belay_lock *lock, const belay_error *why)
{
    (void)lock;
    (void)why;
    ++*(int *)arg;
}

static void lost_takes_the_lock_away(void **state)
{
    (void)state;
    struct stage stage;
    belay_lock *lock = NULL;
    int losses = 0;
    begin(&stage, "extend: { schedule = \"ok, lost\"; }; release: { schedule = \"ok, lost\"; };");
    belay_options options = lease(10000);
    options.on_lost = count_loss;
    options.arg = &losses;
    assert_int_equal(belay_acquire(stage.faulty, "name", &options, &lock, NULL), BELAY_OK);
    assert_int_equal(belay_extend(lock, 0, NULL), BELAY_OK);
    assert_int_equal(belay_extend(lock, 0, NULL), BELAY_LOST);
    assert_true(is_free(&stage)); /* what it says is true */
    assert_false(belay_lock_valid(lock, 0));
    pass(&stage, 0);
    assert_int_equal(losses, 1);
    assert_int_equal(belay_release(lock, NULL), BELAY_LOST);

    for (int i = 0; i < 2; i++) {
        lock = take(stage.faulty);
        belay_status status = belay_release(lock, NULL);
        assert_true(is_free(&stage));
        if (status == BELAY_LOST) break;
        assert_int_equal(status, BELAY_OK);
        assert_int_equal(i, 0);
    }
    end(&stage);
}

static void an_extension_in_doubt_leaves_the_deadline(void **state)
{
    (void)state;
    static const char *const schedules[] = { "unavailable", "uncertain_dropped",
                                             "uncertain_applied" };
    for (int i = 0; i < 3; i++) {
        struct stage stage;
        char keys[128];
        snprintf(keys, sizeof keys, "extend: { schedule = \"%s\"; };", schedules[i]);
        begin(&stage, keys);
        belay_lock *lock = take(stage.faulty);
        int64_t before = belay_lock_remaining_ms(lock);
        assert_int_equal(belay_extend(lock, 30000, NULL),
                         i == 0 ? BELAY_UNAVAILABLE : BELAY_UNCERTAIN);
        assert_int_equal(belay_lock_remaining_ms(lock), before);
        belay_fake_advance(stage.world, 11000 * MS);
        assert_int_equal(is_free(&stage), i != 2); /* the last one took effect */
        assert_int_equal(belay_release(lock, NULL), BELAY_LOST);
        end(&stage);
    }
}

/* ------------------------------------------------------------------ delays */

/* Before it is sent: the deadline counts from the sending. */
static void a_delay_comes_before_the_sending(void **state)
{
    (void)state;
    struct stage stage;
    begin(&stage, "acquire: { schedule = \"delay(200ms)\"; };");
    int64_t before = belay_fake_now(stage.world);
    belay_lock *lock = take(stage.faulty);
    assert_int_equal(belay_fake_now(stage.world) - before, 200 * MS);
    assert_int_equal(belay_lock_remaining_ms(lock), 10000 - 100 - 2);
    assert_int_equal(belay_release(lock, NULL), BELAY_OK);
    end(&stage);
}

static void a_delayed_reply_costs_validity(void **state)
{
    (void)state;
    struct stage stage;
    begin(&stage, "acquire: { schedule = \"delay_reply(200ms)\"; };");
    belay_lock *lock = take(stage.faulty);
    assert_int_equal(belay_lock_remaining_ms(lock), 10000 - 100 - 2 - 200);
    assert_int_equal(belay_release(lock, NULL), BELAY_OK);
    end(&stage);
}

/* FAULTS 7. */
static void an_ok_after_the_ttl_is_not_ok(void **state)
{
    (void)state;
    struct stage stage;
    belay_lock *lock = NULL;
    begin(&stage, "acquire: { schedule = \"delay_reply(990ms)\"; }; extend: { schedule = "
                  "\"delay_reply(1500ms)\"; };");
    assert_int_equal(try_for(stage.faulty, 1000, &lock, NULL), BELAY_UNAVAILABLE);
    assert_null(lock);
    assert_true(free_after_ms(&stage, 1) <= 1); /* 10 ms before its TTL is over */

    /* The same for an extension: the lock was lost while it was under way. */
    assert_int_equal(try_for(stage.faulty, 1000, &lock, NULL), BELAY_OK);
    assert_int_equal(belay_extend(lock, 0, NULL), BELAY_LOST);
    assert_false(belay_lock_valid(lock, 0));
    assert_int_equal(belay_release(lock, NULL), BELAY_LOST);
    end(&stage);
}

static void done_fn(void *arg, belay_status status, belay_lock *lock, const belay_error *err)
{
    (void)err;
    assert_null(lock);
    *(int *)arg = (int)status;
}

/* In each part of its way; nothing is left behind. */
static void a_canceled_attempt_ends_soon(void **state)
{
    (void)state;
    struct stage stage;
    begin(&stage, "acquire: { delay = \"100ms\"; delay_reply = \"100ms\"; };");
    for (int ms = 50; ms <= 150; ms += 100) {
        belay_options options = lease(10000);
        belay_request *request = NULL;
        int answer = -1;
        assert_int_equal(belay_acquire_start(stage.faulty, "name", &options, done_fn, &answer,
                                             &request, NULL),
                         BELAY_OK);
        pass(&stage, ms);
        assert_int_equal(answer, -1);
        assert_int_equal(is_free(&stage), ms == 50);
        belay_request_cancel(request);
        pass(&stage, 0);
        assert_int_equal(answer, BELAY_CANCELED);
        assert_true(is_free(&stage));
        belay_request_free(request);
    }
    end(&stage);
}

static void a_timeout_tells_what_is_known(void **state)
{
    (void)state;
    struct stage stage;
    begin(&stage, "timeout = \"100ms\"; acquire: { schedule = \"delay(1s), delay_reply(1s)\"; };");
    int64_t before = belay_fake_now(stage.world);
    refused(stage.faulty, BELAY_UNAVAILABLE); /* not sent */
    assert_int_equal(belay_fake_now(stage.world) - before, 100 * MS);
    refused(stage.faulty, BELAY_UNCERTAIN); /* sent, and granted */
    assert_int_equal(belay_fake_now(stage.world) - before, 200 * MS);
    assert_int_equal(free_after_ms(&stage, 5), 0);
    end(&stage);
}

static void delays_are_drawn_between_their_bounds(void **state)
{
    (void)state;
    struct stage stage;
    int64_t least = INT64_MAX, most = 0;
    begin(&stage, "acquire: { delay = \"10ms\"; delay_max = \"20ms\"; };");
    for (int i = 0; i < 200; i++) {
        int64_t before = belay_fake_now(stage.world);
        belay_lock *lock = take(stage.faulty);
        int64_t took = belay_fake_now(stage.world) - before;
        if (took < least) least = took;
        if (took > most) most = took;
        assert_int_equal(belay_release(lock, NULL), BELAY_OK);
    }
    assert_true(least >= 10 * MS && least < 11 * MS);
    assert_true(most <= 20 * MS && most > 19 * MS);
    end(&stage);
}

/* ------------------------------------------------------------------ what is passed on */

static bool count_one(void *arg, const belay_info *info)
{
    assert_string_equal(info->name, "name");
    ++*(int *)arg;
    return true;
}

static void what_is_not_disturbed_is_passed_on(void **state)
{
    (void)state;
    struct stage stage;
    belay_info info = { .size = sizeof info };
    belay_error err = BELAY_ERROR_INIT;
    int count = 0;
    begin(&stage, "inspect: { schedule = \"unavailable, delay(5ms)\"; };");
    belay_lock *lock = take(stage.faulty);
    assert_int_equal(belay_lock_scope(lock), BELAY_SCOPE_PROCESS); /* the child's */
    assert_int_equal(belay_inspect(stage.faulty, "name", &info, &err), BELAY_UNAVAILABLE);
    assert_int_equal(belay_inspect(stage.faulty, "name", &info, &err), BELAY_OK);
    assert_true(info.held);
    assert_string_equal(info.owner, belay_lock_owner(lock));
    assert_int_equal(belay_list(stage.faulty, NULL, count_one, &count, &err), BELAY_OK);
    assert_int_equal(count, 1);
    assert_int_equal(belay_break(stage.faulty, "name", &info, &err), BELAY_OK);
    assert_true(is_free(&stage));
    assert_int_equal(belay_release(lock, NULL), BELAY_LOST);

    belay_options options = lease(10000);
    options.at_least = BELAY_SCOPE_HOST;
    assert_int_equal(belay_acquire(stage.faulty, "name", &options, &lock, &err), BELAY_UNSUPPORTED);
    end(&stage);
}

static void a_url_names_the_child(void **state)
{
    (void)state;
    struct stage stage;
    belay *client = NULL;
    begin(&stage, "");
    belay_open_options options = options_of(&stage);
    char url[64];
    snprintf(url, sizeof url, "fault:%s", stage.place);
    assert_int_equal(belay_open(&client, url, &options, NULL), BELAY_OK);
    belay_lock *lock = take(client);
    refused(stage.plain, BELAY_HELD);
    assert_int_equal(belay_release(lock, NULL), BELAY_OK);
    belay_close(client);
    end(&stage);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(unavailable_is_not_sent),
        cmocka_unit_test(held_is_refused_though_free),
        cmocka_unit_test(uncertain_applied_is_given_back),
        cmocka_unit_test(uncertain_applied_is_left_when_asked),
        cmocka_unit_test(uncertain_applied_of_a_held_lock_harms_nobody),
        cmocka_unit_test(uncertain_dropped_is_not_sent),
        cmocka_unit_test(a_give_back_is_repeated),
        cmocka_unit_test(a_release_that_fails_is_made_good),
        cmocka_unit_test(lost_takes_the_lock_away),
        cmocka_unit_test(an_extension_in_doubt_leaves_the_deadline),
        cmocka_unit_test(a_delay_comes_before_the_sending),
        cmocka_unit_test(a_delayed_reply_costs_validity),
        cmocka_unit_test(an_ok_after_the_ttl_is_not_ok),
        cmocka_unit_test(a_canceled_attempt_ends_soon),
        cmocka_unit_test(a_timeout_tells_what_is_known),
        cmocka_unit_test(delays_are_drawn_between_their_bounds),
        cmocka_unit_test(what_is_not_disturbed_is_passed_on),
        cmocka_unit_test(a_url_names_the_child),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
