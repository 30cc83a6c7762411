/* fault_plan_test.c - the fault backend's chance, and how its config says what happens. */
#define _POSIX_C_SOURCE 200809L
#include "fault_stage.h"

/* ------------------------------------------------------------------ chance */

/* One letter for each of 200 tries. */
static void outcomes(const char *keys, char *out)
{
    struct stage stage;
    begin(&stage, keys);
    for (int i = 0; i < 200; i++) {
        belay_lock *lock = NULL;
        belay_status status = try_for(stage.faulty, 10000, &lock, NULL);
        out[i] = (char)('a' + status);
        if (lock != NULL) belay_release(lock, NULL);
    }
    out[200] = '\0';
    end(&stage);
}

static void the_same_seed_gives_the_same_faults(void **state)
{
    (void)state;
    char one[201], two[201], other[201];
    int unavailable = 0, held = 0;
    outcomes("acquire: { unavailable = 0.25; held = 0.25; };", one);
    outcomes("acquire: { unavailable = 0.25; held = 0.25; };", two);
    assert_string_equal(one, two);
    outcomes("acquire: { unavailable = 0.25; held = 0.25; delay = \"1ms\"; delay_max = \"9ms\"; };",
             other);
    assert_string_equal(one, other); /* delays draw on their own */
    for (int i = 0; i < 200; i++) {
        unavailable += one[i] == 'a' + BELAY_UNAVAILABLE;
        held += one[i] == 'a' + BELAY_HELD;
    }
    assert_in_range(unavailable, 30, 70);
    assert_in_range(held, 30, 70);
}

static void probabilities_follow_the_schedule(void **state)
{
    (void)state;
    char out[201];
    outcomes("acquire: { schedule = \"ok*2, held, ok\"; unavailable = 1.0; };", out);
    assert_memory_equal(out, "aabadddd", 8);
    assert_int_equal(strspn(out + 4, "d"), 196);
    outcomes("acquire: { schedule = \"ok, held*\"; unavailable = 1.0; };", out);
    assert_int_equal(strspn(out + 1, "b"), 199);
    outcomes("", out);
    assert_int_equal(strspn(out, "a"), 200);
}

/* ------------------------------------------------------------------ what is written wrong */

static void schedules_are_read(void **state)
{
    (void)state;
    static const char *const right[] = {
        "ok",
        " ok ",
        "ok,ok",
        "ok , unavailable * 3",
        "ok*",
        "delay(5ms)",
        "delay( 5 ms )*2",
        "delay(5ms) delay_reply(1s) held",
        "uncertain_applied,uncertain_dropped*1000000000",
        "delay(1h)",
        "delay(10us) ok*",
        "delay_reply(0ms)",
    };
    static const struct {
        const char *text;
        int position;
        const char *expected;
    } wrong[] = {
        { "okay", 1, "ok, unavailable" },
        { "ok, no", 5, "ok, unavailable" },
        { "ok,", 4, "ok, unavailable" },
        { ",ok", 1, "ok, unavailable" },
        { "ok*0", 4, "a count" },
        { "ok*3x", 5, "',' or the end" },
        { "ok unavailable", 4, "',' or the end" },
        { "ok*99999999999", 4, "a count" },
        { "delay", 6, "'('" },
        { "delay()", 7, "a duration" },
        { "delay(5)", 8, "units" },
        { "delay(5 parsecs)", 9, "units" },
        { "delay(5ms", 10, "')'" },
        { "delay(2h)", 7, "one hour" },
        { "lost", 1, "this verb" },
        { "OK", 1, "ok, unavailable" },
    };
    struct stage stage;
    char keys[256];
    begin(&stage, "");
    for (size_t i = 0; i < sizeof right / sizeof right[0]; i++) {
        belay *client = NULL;
        belay_error err = BELAY_ERROR_INIT;
        snprintf(keys, sizeof keys, "acquire: { schedule = \"%s\"; };", right[i]);
        belay_status status = open_fault(&stage, keys, &client, &err);
        if (status != BELAY_OK) fail_msg("\"%s\": %s", right[i], err.text);
        belay_close(client);
    }
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        belay *client = NULL;
        belay_error err = BELAY_ERROR_INIT;
        char position[32];
        snprintf(keys, sizeof keys, "acquire: { schedule = \"%s\"; };", wrong[i].text);
        snprintf(position, sizeof position, "position %d,", wrong[i].position);
        assert_int_equal(open_fault(&stage, keys, &client, &err), BELAY_CONFIG);
        assert_null(client);
        if (strstr(err.text, "acquire.schedule") == NULL || strstr(err.text, position) == NULL ||
            strstr(err.text, wrong[i].expected) == NULL || strstr(err.text, ":3: ") == NULL)
            fail_msg("\"%s\": %s", wrong[i].text, err.text);
    }
    end(&stage);
}

static void wrong_settings_open_nothing(void **state)
{
    (void)state;
    static const struct {
        const char *keys, *key;
    } wrong[] = {
        { "acquire: { unavailable = 0.6; held = 0.5; };", "acquire.unavailable" },
        { "acquire: { unavailable = 1.5; };", "acquire.unavailable" },
        { "acquire: { unavailable = -0.5; };", "acquire.unavailable" },
        { "acquire: { delay = \"5ms\"; delay_max = \"4ms\"; };", "acquire.delay_max" },
        { "extend: { delay_reply = \"5ms\"; delay_reply_max = \"4ms\"; };",
          "extend.delay_reply_max" },
        { "acquire: { delay = \"2h\"; };", "acquire.delay" },
        { "release: { held = 0.5; };", "held" },
        { "acquire: { lost = 0.5; };", "lost" },
        { "release: { schedule = \"held\"; };", "release.schedule" },
        { "inspect: { schedule = \"uncertain_applied\"; };", "inspect.schedule" },
    };
    struct stage stage;
    begin(&stage, "");
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        belay *client = NULL;
        belay_error err = BELAY_ERROR_INIT;
        assert_int_equal(open_fault(&stage, wrong[i].keys, &client, &err), BELAY_CONFIG);
        assert_null(client);
        if (strstr(err.text, wrong[i].key) == NULL) fail_msg("%s: %s", wrong[i].keys, err.text);
    }
    belay *client = NULL;
    assert_int_equal(open_text(&stage, "use = \"f\"; backends: { f: { type = \"fault\"; }; };",
                               &client, NULL),
                     BELAY_CONFIG);
    end(&stage);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_same_seed_gives_the_same_faults),
        cmocka_unit_test(probabilities_follow_the_schedule),
        cmocka_unit_test(schedules_are_read),
        cmocka_unit_test(wrong_settings_open_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
