/* fault_test.c - the fault backend: each fate, each delay, the grammar of its schedules, and that
 * it leaves nothing behind at its child. The child is a memory place that a second, undisturbed
 * client looks at. */
#define _POSIX_C_SOURCE 200809L
#include <belay/testing.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define MS INT64_C(1000000)

struct stage {
    belay_fake_world *world;
    belay *faulty, *plain; /* the same place */
    char place[32];        /* "memory:" and a name of its own */
    char path[64];
    char log[4096];
};

static belay_status open_text(struct stage *stage, const char *text, belay **out, belay_error *err);

static void log_fn(void *arg, belay_level level, const char *line)
{
    struct stage *stage = arg;
    size_t at = strlen(stage->log);
    (void)level;
    snprintf(stage->log + at, sizeof stage->log - at, "%s\n", line);
}

static belay_open_options options_of(struct stage *stage)
{
    belay_open_options options = BELAY_OPEN_OPTIONS_INIT;
    options.threads = BELAY_DISPATCH;
    options.world = belay_fake_base(stage->world);
    options.on_log = log_fn;
    options.log_level = BELAY_LOG_DEBUG;
    options.arg = stage;
    return options;
}

/* Opens a config file with this text. */
static belay_status open_text(struct stage *stage, const char *text, belay **out, belay_error *err)
{
    belay_open_options options = options_of(stage);
    snprintf(stage->path, sizeof stage->path, "/tmp/belay-fault-XXXXXX");
    int fd = mkstemp(stage->path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    close(fd);
    belay_status status = belay_open(out, stage->path, &options, err);
    unlink(stage->path);
    return status;
}

/* The keys of one fault backend over memory. */
static belay_status open_fault(struct stage *stage, const char *keys, belay **out, belay_error *err)
{
    char text[1024];
    snprintf(text, sizeof text,
             "use = \"f\"; outage = \"1h\";\nbackends: { f: { type = \"fault\"; child = "
             "\"%s\"; seed = 11;\n%s\n}; };\n",
             stage->place, keys);
    return open_text(stage, text, out, err);
}

static void begin(struct stage *stage, const char *keys)
{
    belay_error err = BELAY_ERROR_INIT;
    static int stages;
    memset(stage, 0, sizeof *stage);
    snprintf(stage->place, sizeof stage->place, "memory:unit%d", stages++);
    stage->world = belay_fake_create(3);
    assert_non_null(stage->world);
    belay_open_options options = options_of(stage);
    assert_int_equal(belay_open(&stage->plain, stage->place, &options, NULL), BELAY_OK);
    belay_status status = open_fault(stage, keys, &stage->faulty, &err);
    if (status != BELAY_OK) fail_msg("open: %s", err.text);
}

static void end(struct stage *stage)
{
    belay_close(stage->faulty);
    belay_close(stage->plain);
    assert_int_equal(belay_fake_clients(stage->world), 0);
    belay_fake_destroy(stage->world);
}

static belay_options lease(uint32_t ttl_ms)
{
    belay_options options = BELAY_OPTIONS_INIT;
    options.ttl_ms = ttl_ms;
    options.wait_ms = BELAY_TRY;
    options.keep = BELAY_KEEP_OFF;
    return options;
}

static belay_status try_for(belay *client, uint32_t ttl_ms, belay_lock **out, belay_error *err)
{
    belay_options options = lease(ttl_ms);
    *out = NULL;
    return belay_acquire(client, "name", &options, out, err);
}

static belay_lock *take(belay *client)
{
    belay_lock *lock = NULL;
    belay_error err = BELAY_ERROR_INIT;
    belay_status status = try_for(client, 10000, &lock, &err);
    if (status != BELAY_OK) fail_msg("acquire: %s: %s", belay_status_name(status), err.text);
    return lock;
}

static void refused(belay *client, belay_status wanted)
{
    belay_lock *lock = NULL;
    assert_int_equal(try_for(client, 10000, &lock, NULL), wanted);
    assert_null(lock);
}

static bool is_free(struct stage *stage)
{
    belay_info info = { .size = sizeof info };
    assert_int_equal(belay_inspect(stage->plain, "name", &info, NULL), BELAY_OK);
    return !info.held;
}

/* Lets time pass for the faulty client, in steps. */
static void pass(struct stage *stage, int64_t ms)
{
    for (int64_t step = ms > 0 ? ms : 1; step-- > 0;) {
        if (ms > 0) belay_fake_advance(stage->world, MS);
        assert_int_equal(belay_dispatch(stage->faulty), BELAY_OK);
    }
}

/* How long until the place is free, up to `most` ms. */
static int64_t free_after_ms(struct stage *stage, int64_t most)
{
    for (int64_t ms = 0; ms <= most; ms++) {
        if (is_free(stage)) return ms;
        pass(stage, 1);
    }
    return most + 1;
}

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
        cmocka_unit_test(the_same_seed_gives_the_same_faults),
        cmocka_unit_test(probabilities_follow_the_schedule),
        cmocka_unit_test(what_is_not_disturbed_is_passed_on),
        cmocka_unit_test(a_url_names_the_child),
        cmocka_unit_test(schedules_are_read),
        cmocka_unit_test(wrong_settings_open_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
