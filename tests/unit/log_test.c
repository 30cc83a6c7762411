/* log_test.c - what is said of held locks: each loss and change of scope, but not a thousand lines
 * of an outage; and the events beside it, of which none is left out. */
#define _GNU_SOURCE
#include "core/client.h"
#include "tests/unit/engine_help.h"

enum { LOCKS = 40, KINDS = BELAY_EVENT_NODE_BACK + 1, LINES = 64 };

struct said {
    belay_fake_world *world;
    belay *client;
    belay_lock *locks[LOCKS];
    int events[KINDS];
    char event_text[384];
    struct {
        belay_level level;
        char text[300];
    } lines[LINES];
    int line_count, scope_calls;
    belay_error lost;
};

static void on_log(void *arg, belay_level level, const char *line)
{
    struct said *said = arg;
    if (said->line_count == LINES) return;
    said->lines[said->line_count].level = level;
    snprintf(said->lines[said->line_count++].text, sizeof said->lines[0].text, "%s", line);
}

static void on_event(void *arg, const belay_event *event)
{
    struct said *said = arg;
    said->events[event->kind]++;
    snprintf(said->event_text, sizeof said->event_text, "%s", event->text);
}

static void on_scope(void *arg, belay_lock *lock, belay_scope now)
{
    (void)lock, (void)now;
    ((struct said *)arg)->scope_calls++;
}

static void on_lost(void *arg, belay_lock *lock, const belay_error *why)
{
    (void)lock;
    ((struct said *)arg)->lost = *why;
}

static int setup(void **state)
{
    static struct said said;
    memset(&said, 0, sizeof said);
    script_reset();
    said.world = belay_fake_create(1);
    belay_open_options options = help_options(BELAY_DISPATCH, said.world);
    options.on_log = on_log;
    options.on_event = on_event;
    options.log_level = BELAY_LOG_DEBUG;
    options.arg = &said;
    said.client = help_open("ttl = \"1h\";", &options);
    *state = &said;
    return said.client == NULL ? -1 : 0;
}

static int teardown(void **state)
{
    struct said *said = *state;
    belay_close(said->client);
    belay_fake_destroy(said->world);
    return 0;
}

static belay_lock *take(struct said *said, const char *name, belay_scope at_least)
{
    belay_options options = BELAY_OPTIONS_INIT;
    belay_lock *lock = NULL;
    options.at_least = at_least;
    options.on_scope = on_scope;
    options.on_lost = on_lost;
    options.arg = said;
    (void)!belay_acquire(said->client, name, &options, &lock, NULL);
    return lock;
}

static void take_all(struct said *said)
{
    for (int i = 0; i < LOCKS; i++) {
        char name[16];
        snprintf(name, sizeof name, "lock-%02d", i);
        said->locks[i] = take(said, name, BELAY_SCOPE_ANY);
        assert_non_null(said->locks[i]);
    }
}

static void release_all(struct said *said)
{
    for (int i = 0; i < LOCKS; i++) (void)belay_release(said->locks[i], NULL);
}

/* What a fallback would tell of its grant. */
static void change(belay_lock *lock, belay_scope scope, const char *why)
{
    belay__loop_enter(&lock->client->loop);
    belay_grant_changed(lock->grant, scope, lock->deadline_ns, why);
    belay__loop_leave(&lock->client->loop);
}

/* How many lines have that in them. */
static int lines_with(const struct said *said, const char *what)
{
    int count = 0;
    for (int i = 0; i < said->line_count; i++) count += strstr(said->lines[i].text, what) != NULL;
    return count;
}

static void a_demotion_and_a_promotion_are_said_with_their_reason(void **state)
{
    struct said *said = *state;
    belay_lock *lock = take(said, "x\n", BELAY_SCOPE_ANY);
    change(lock, BELAY_SCOPE_ANY, "the wire was cut");
    change(lock, BELAY_SCOPE_PROCESS, "it was mended");
    assert_int_equal(belay_dispatch(said->client), BELAY_OK);

    assert_int_equal(said->line_count, 2);
    assert_string_equal(said->lines[0].text,
                        "x\\x0a: demoted, it reaches this any alone: the wire was cut");
    assert_int_equal(said->lines[0].level, BELAY_LOG_WARN);
    assert_string_equal(said->lines[1].text,
                        "x\\x0a: promoted, it reaches the process: it was mended");
    assert_int_equal(said->lines[1].level, BELAY_LOG_INFO);
    assert_int_equal(said->events[BELAY_EVENT_LOCK_DEMOTED], 1);
    assert_int_equal(said->events[BELAY_EVENT_LOCK_PROMOTED], 1);
    assert_int_equal(belay_release(lock, NULL), BELAY_OK);
}

static void of_many_demotions_five_are_said_and_then_their_number(void **state)
{
    struct said *said = *state;
    take_all(said);
    for (int i = 0; i < LOCKS; i++) change(said->locks[i], BELAY_SCOPE_ANY, "an outage");
    assert_int_equal(belay_dispatch(said->client), BELAY_OK);
    assert_int_equal(lines_with(said, "demoted"), 5);
    assert_int_equal(said->events[BELAY_EVENT_LOCK_DEMOTED], LOCKS);
    assert_int_equal(said->scope_calls, LOCKS);

    belay_fake_advance(said->world, 9999 * MS);
    assert_int_equal(belay_dispatch(said->client), BELAY_OK);
    assert_int_equal(said->line_count, 5);
    belay_fake_advance(said->world, 1 * MS);
    assert_int_equal(belay_dispatch(said->client), BELAY_OK);
    assert_int_equal(said->line_count, 6);
    assert_string_equal(said->lines[5].text, "... and 35 more locks demoted within 10s");
    assert_int_equal(said->lines[5].level, BELAY_LOG_WARN);

    /* Another window, which is not full: its end is nobody's news. */
    change(said->locks[0], BELAY_SCOPE_PROCESS, "");
    change(said->locks[0], BELAY_SCOPE_ANY, "again");
    belay_fake_advance(said->world, 60000 * MS);
    assert_int_equal(belay_dispatch(said->client), BELAY_OK);
    assert_int_equal(lines_with(said, "demoted"), 7);
    release_all(said);
}

static void each_kind_is_counted_by_itself(void **state)
{
    struct said *said = *state;
    take_all(said);
    for (int i = 0; i < LOCKS; i++) {
        change(said->locks[i], BELAY_SCOPE_ANY, "an outage");
        change(said->locks[i], BELAY_SCOPE_PROCESS, "its end");
    }
    script_lose("gone");
    assert_true(eventually(belay_dispatch(said->client) == BELAY_OK &&
                           said->events[BELAY_EVENT_LOCK_LOST] == LOCKS));
    assert_int_equal(lines_with(said, ": demoted"), 5);
    assert_int_equal(lines_with(said, ": promoted"), 5);
    assert_int_equal(lines_with(said, ": lost"), 5);
    assert_int_equal(said->line_count, 15);
    belay_fake_advance(said->world, 10000 * MS);
    assert_int_equal(belay_dispatch(said->client), BELAY_OK);
    assert_int_equal(lines_with(said, "35 more locks "), 3);
    release_all(said);
}

static void what_was_left_out_is_said_at_the_end(void **state)
{
    struct said *said = *state;
    take_all(said);
    script_lose("gone");
    assert_true(eventually(belay_dispatch(said->client) == BELAY_OK && said->line_count == 5));
    release_all(said);
    belay_close(said->client);
    said->client = NULL;
    assert_int_equal(said->line_count, 6);
    assert_int_equal(lines_with(said, "... and 35 more locks lost within 1s"), 1);
}

static void a_row_of_failed_extensions_is_one_warning(void **state)
{
    struct said *said = *state;
    belay_options options = BELAY_OPTIONS_INIT;
    belay_lock *lock;
    options.ttl_ms = 60000;
    script_add(BELAY_VERB_EXTEND, (struct script_reply){ .status = BELAY_UNAVAILABLE, .times = 4 });
    script_add(BELAY_VERB_EXTEND, (struct script_reply){ .status = BELAY_OK });
    script_add(BELAY_VERB_EXTEND, (struct script_reply){ .status = BELAY_UNCERTAIN });
    script_add(BELAY_VERB_EXTEND, (struct script_reply){ .status = BELAY_OK });
    assert_int_equal(belay_acquire(said->client, "x", &options, &lock, NULL), BELAY_OK);
    while (script_count(BELAY_VERB_EXTEND) < 7) {
        belay_fake_advance(said->world, 20 * MS);
        assert_int_equal(belay_dispatch(said->client), BELAY_OK);
    }
    int warnings = 0, details = 0;
    for (int i = 0; i < said->line_count; i++) {
        warnings += said->lines[i].level == BELAY_LOG_WARN;
        details += said->lines[i].level == BELAY_LOG_DEBUG;
    }
    assert_int_equal(warnings, 2);
    assert_int_equal(details, 3);
    assert_string_equal(
        said->lines[0].text,
        "x: an extension failed (UNAVAILABLE: node: it is scripted); it is tried again");
    assert_int_equal(belay_release(lock, NULL), BELAY_OK);
}

static void below_what_was_asked_for_is_lost_and_not_demoted(void **state)
{
    struct said *said = *state;
    belay_lock *lock = take(said, "x", BELAY_SCOPE_PROCESS);
    change(lock, BELAY_SCOPE_ANY, "redis 127.0.0.1:6379: connection refused");
    assert_int_equal(belay_dispatch(said->client), BELAY_OK);

    assert_int_equal(said->events[BELAY_EVENT_LOCK_DEMOTED], 0);
    assert_int_equal(said->events[BELAY_EVENT_LOCK_LOST], 1);
    assert_int_equal(said->scope_calls, 0);
    assert_string_equal(said->lost.text,
                        "it reaches this any alone now, and its holder asked for the process: "
                        "redis 127.0.0.1:6379: connection refused");
    assert_string_equal(said->event_text, said->lost.text);
    assert_int_equal(lines_with(said, "x: lost: it reaches"), 1);
    assert_int_equal(said->line_count, 1);
    assert_int_equal(belay_release(lock, NULL), BELAY_LOST);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_demotion_and_a_promotion_are_said_with_their_reason,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(of_many_demotions_five_are_said_and_then_their_number,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(each_kind_is_counted_by_itself, setup, teardown),
        cmocka_unit_test_setup_teardown(what_was_left_out_is_said_at_the_end, setup, teardown),
        cmocka_unit_test_setup_teardown(a_row_of_failed_extensions_is_one_warning, setup, teardown),
        cmocka_unit_test_setup_teardown(below_what_was_asked_for_is_lost_and_not_demoted, setup,
                                        teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
