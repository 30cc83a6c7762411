/* fallback_edges_test.c - the fallback's narrow places: answers that come late, early, twice or
 * never, each of which once made a lock claim too much, be lost for nothing, or stay behind. */
#define _GNU_SOURCE
#include "tests/unit/fallback_places.h"

struct edge {
    belay_fake_world *world;
    belay *client;
    char log[8192];
};

static void on_log(void *arg, belay_level level, const char *line)
{
    struct edge *edge = arg;
    size_t at = strlen(edge->log);
    (void)level;
    snprintf(edge->log + at, sizeof edge->log - at, "%s\n", line);
}

/* A fallback with these keys, and these of the whole configuration. */
static void open_edge(struct edge *edge, const char *keys, const char *top)
{
    char text[1024], path[] = "/tmp/belay-edge-XXXXXX";
    belay_open_options options = BELAY_OPEN_OPTIONS_INIT;
    belay_error err = BELAY_ERROR_INIT;
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    snprintf(text, sizeof text,
             "use = \"f\"; outage = \"1h\"; prefix = \"t:\"; %s\n"
             "backends: { p: { type = \"prime\"; }; s: { type = \"row\"; };\n"
             "  f: { type = \"fallback\"; primary = \"p\"; secondary = \"s\"; %s }; };\n",
             top, keys);
    assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    close(fd);
    options.threads = BELAY_DISPATCH;
    options.world = belay_fake_base(edge->world);
    options.backends = place_tables;
    options.on_log = on_log;
    options.log_level = BELAY_LOG_DEBUG;
    options.arg = edge;
    belay_status status = belay_open(&edge->client, path, &options, &err);
    unlink(path);
    if (status != BELAY_OK) fail_msg("open: %s", err.text);
}

static int setup(void **state)
{
    struct edge *edge = calloc(1, sizeof *edge);
    places_reset();
    edge->world = belay_fake_create(7);
    *state = edge;
    return edge->world != NULL ? 0 : -1;
}

static int teardown(void **state)
{
    struct edge *edge = *state;
    int grants = 0;
    if (edge->client != NULL) belay_close(edge->client);
    for (struct place *place = places; place < places + PLACES; place++)
        grants += !belay_links_empty(&place->grants);
    belay_fake_destroy(edge->world);
    free(edge);
    return grants;
}

static void end(struct edge *edge)
{
    belay_close(edge->client);
    edge->client = NULL;
}

static void pass(struct edge *edge, int64_t ms)
{
    for (; ms > 0; ms -= ms < 5 ? ms : 5) {
        belay_fake_advance(edge->world, (ms < 5 ? ms : 5) * MS);
        assert_int_equal(belay_dispatch(edge->client), BELAY_OK);
    }
}

static bool is_held(struct edge *edge, struct place *place)
{
    return place_find(place, "t:x", belay_fake_now(edge->world)) != NULL;
}

static belay_status try_for(struct edge *edge, const char *name, uint32_t ttl_ms, belay_keep keep,
                            belay_lock **out)
{
    belay_options options = BELAY_OPTIONS_INIT;
    options.ttl_ms = ttl_ms;
    options.keep = keep;
    options.wait_ms = BELAY_TRY;
    *out = NULL;
    return belay_acquire(edge->client, name, &options, out, NULL);
}

static belay_lock *take(struct edge *edge, uint32_t ttl_ms, belay_keep keep)
{
    belay_lock *lock;
    assert_int_equal(try_for(edge, "x", ttl_ms, keep, &lock), BELAY_OK);
    return lock;
}

static belay_scope scope_now(struct edge *edge)
{
    belay_lock *lock;
    belay_scope scope = BELAY_SCOPE_ANY;
    if (try_for(edge, "now", 1000, BELAY_KEEP_OFF, &lock) != BELAY_OK) return scope;
    scope = belay_lock_scope(lock);
    (void)belay_release(lock, NULL);
    return scope;
}

struct answer {
    int count;
    belay_status status;
    belay_lock *lock;
};

static void answered(void *arg, belay_status status, belay_lock *lock, const belay_error *err)
{
    (void)err;
    *(struct answer *)arg = (struct answer){ ((struct answer *)arg)->count + 1, status, lock };
}

/* ------------------------------------------------------------------ told before, told meanwhile */

static void what_is_lost_before_it_is_handed_over_is_no_lock(void **state)
{
    struct edge *edge = *state;
    belay_lock *lock;
    open_edge(edge, "", "");
    prime->early = BELAY_LOST;
    assert_int_equal(try_for(edge, "x", 10000, BELAY_KEEP_OFF, &lock), BELAY_UNAVAILABLE);
    prime->early = BELAY_UNCERTAIN;
    assert_int_equal(try_for(edge, "x", 10000, BELAY_KEEP_OFF, &lock), BELAY_UNAVAILABLE);
    row->early = BELAY_LOST;
    place_set(prime, FATE_GONE);
    assert_int_not_equal(try_for(edge, "x", 10000, BELAY_KEEP_OFF, &lock), BELAY_OK);
    place_set(prime, FATE_DONE);
    assert_false(is_held(edge, row));
    assert_false(is_held(edge, prime));
}

static void an_extension_under_way_keeps_its_grant_and_its_owner(void **state)
{
    struct edge *edge = *state;
    open_edge(edge, "", "");
    belay_lock *lock = take(edge, 10000, BELAY_KEEP_ON);
    prime->fate[BELAY_VERB_EXTEND] = FATE_KEPT;
    pass(edge, 3400);
    assert_int_equal(prime->kept_count, 1);

    place_tell(edge->client, prime, BELAY_UNCERTAIN);
    assert_int_equal(belay_dispatch(edge->client), BELAY_OK);
    assert_int_equal(belay_lock_scope(lock), BELAY_SCOPE_HOST);
    assert_ptr_equal(prime->kept[0]->grant,
                     &belay_container_of(prime->grants.next, struct place_grant, link)->base);

    prime->fate[BELAY_VERB_EXTEND] = FATE_DONE;
    place_settle(edge->client, prime, true);
    pass(edge, 50);
    assert_int_equal(belay_lock_scope(lock), BELAY_SCOPE_FLEET); /* taken again behind it */
    assert_int_equal(belay_release(lock, NULL), BELAY_OK);
}

static void lost_on_the_host_while_the_primary_is_asked_is_lost(void **state)
{
    struct edge *edge = *state;
    open_edge(edge, "", "");
    for (int done = 0; done < 2; done++) {
        belay_lock *lock = take(edge, 1500, BELAY_KEEP_ON);
        prime->fate[BELAY_VERB_EXTEND] = FATE_KEPT;
        for (int ms = 0; ms < 1400 && belay_lock_scope(lock) == BELAY_SCOPE_FLEET; ms++)
            pass(edge, 1);
        assert_int_equal(belay_lock_scope(lock), BELAY_SCOPE_HOST); /* by the clock */
        place_tell(edge->client, row, BELAY_LOST);
        assert_false(belay_lock_valid(lock, 0));
        place_settle(edge->client, prime, done);
        assert_false(belay_lock_valid(lock, 0));
        prime->fate[BELAY_VERB_EXTEND] = FATE_DONE;
        assert_int_equal(belay_release(lock, NULL), BELAY_LOST);
        pass(edge, 1500);
    }
}

/* Demoted by the clock while an extension hangs; then that is answered after all. */
static void a_late_extension_claims_no_more_than_the_primary_has(void **state)
{
    struct edge *edge = *state;
    struct answer answer = { 0 };
    open_edge(edge, "", "");
    belay_lock *lock = take(edge, 2000, BELAY_KEEP_OFF);
    pass(edge, 900);
    prime->fate[BELAY_VERB_EXTEND] = FATE_KEPT;
    assert_int_equal(belay_extend_start(lock, 0, answered, &answer, NULL, NULL), BELAY_OK);
    pass(edge, 250);
    assert_int_equal(prime->kept_count, 1);
    prime->fate[BELAY_VERB_EXTEND] = FATE_GONE;
    (void)!belay_extend(lock, 0, NULL); /* demotes, and lengthens the row */
    assert_int_equal(belay_lock_scope(lock), BELAY_SCOPE_HOST);

    prime->fate[BELAY_VERB_EXTEND] = FATE_DONE;
    place_settle(edge->client, prime, true);
    pass(edge, 50);
    struct place_lock *there = place_find(prime, "t:x", belay_fake_now(edge->world));
    assert_non_null(there);
    int64_t left_ms = (there->until_ns - belay_fake_now(edge->world)) / MS;
    assert_true(belay_lock_scope(lock) == BELAY_SCOPE_HOST ||
                belay_lock_remaining_ms(lock) <= left_ms);
    assert_int_equal(belay_release(lock, NULL), BELAY_OK);
}

static void forgotten_at_the_last_try_is_said_at_once(void **state)
{
    struct edge *edge = *state;
    open_edge(edge, "trip_after = 5;", "");
    belay_lock *lock = take(edge, 10000, BELAY_KEEP_OFF);
    pass(edge, 1000);
    prime->fate[BELAY_VERB_EXTEND] = FATE_GONE;
    assert_int_equal(belay_extend(lock, 0, NULL), BELAY_UNAVAILABLE);
    prime->fate[BELAY_VERB_EXTEND] = FATE_FORGOTTEN;
    row->fate[BELAY_VERB_EXTEND] = FATE_KEPT;
    pass(edge, 6000);
    assert_int_equal(belay_lock_scope(lock), BELAY_SCOPE_HOST);
    row->fate[BELAY_VERB_EXTEND] = FATE_DONE;
    place_settle(edge->client, row, true);
    assert_int_equal(belay_release(lock, NULL), BELAY_OK);
}

/* ------------------------------------------------------------------ demoted in time, or not */

static void a_hanging_extension_is_overtaken_by_the_clock(void **state)
{
    struct edge *edge = *state;
    static const struct {
        const char *keys;
        uint32_t ttl_ms;
    } cases[] = { { "", 500 }, { "", 750 }, { "", 2000 }, { "trip_after = 4;", 3000 } };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        open_edge(edge, cases[i].keys, "");
        belay_lock *lock = take(edge, cases[i].ttl_ms, BELAY_KEEP_ON);
        place_set(prime, FATE_KEPT);
        pass(edge, cases[i].ttl_ms + 500);
        assert_true(belay_lock_valid(lock, 0));
        assert_int_equal(belay_lock_scope(lock), BELAY_SCOPE_HOST);
        place_set(prime, FATE_DONE);
        assert_int_equal(belay_release(lock, NULL), BELAY_OK);
        end(edge);
    }
}

static void a_primary_that_is_busy_demotes_nothing(void **state)
{
    struct edge *edge = *state;
    open_edge(edge, "", "");
    belay_lock *lock = take(edge, 10000, BELAY_KEEP_ON);
    prime->fate[BELAY_VERB_EXTEND] = FATE_BUSY;
    for (int i = 0; i < 98; i++) {
        pass(edge, 100);
        assert_int_equal(belay_lock_scope(lock), BELAY_SCOPE_FLEET);
    }
    pass(edge, 200);
    assert_false(belay_lock_valid(lock, 0));
    assert_int_equal(belay_release(lock, NULL), BELAY_LOST);
}

static void a_demotion_that_comes_to_nothing_is_not_tried_for_ever(void **state)
{
    struct edge *edge = *state;
    static const char *const keys[] = { "", "host_first = false;" };
    for (int i = 0; i < 2; i++) {
        open_edge(edge, keys[i], "");
        belay_lock *lock = take(edge, 10000, BELAY_KEEP_ON);
        place_set(prime, FATE_GONE);
        place_set(row, FATE_BUSY);
        pass(edge, 12000);
        assert_false(belay_lock_valid(lock, 0));
        assert_true(row->count[BELAY_VERB_ACQUIRE] + row->count[BELAY_VERB_EXTEND] < 100);
        place_set(prime, FATE_DONE);
        place_set(row, FATE_DONE);
        (void)belay_release(lock, NULL);
        end(edge);
    }
}

static void an_adopted_lock_needs_a_row_to_live_on(void **state)
{
    struct edge *edge = *state;
    belay_lock *adopted;
    open_edge(edge, "host_first = false;", "");
    belay_lock *lock = take(edge, 10000, BELAY_KEEP_OFF);
    assert_int_equal(belay_adopt(edge->client, "x", belay_lock_owner(lock), NULL, &adopted, NULL),
                     BELAY_OK);
    place_set(prime, FATE_GONE);
    assert_int_equal(belay_extend(adopted, 10000, NULL), BELAY_UNAVAILABLE);
    assert_true(belay_lock_remaining_ms(adopted) <= 10000);
    place_set(prime, FATE_DONE);
    belay_forget(adopted);
    pass(edge, 1100); /* a probe tells */
    assert_int_equal(belay_release(lock, NULL), BELAY_OK);
}

/* ------------------------------------------------------------------ evidence */

static bool each(void *arg, const belay_info *found)
{
    (void)arg, (void)found;
    return true;
}

static void a_list_that_does_not_end_is_no_evidence(void **state)
{
    struct edge *edge = *state;
    open_edge(edge, "", "");
    prime->fate[BELAY_VERB_LIST] = FATE_BUSY;
    assert_int_not_equal(belay_list(edge->client, NULL, each, NULL, NULL), BELAY_OK);
    assert_int_equal(scope_now(edge), BELAY_SCOPE_FLEET);
}

static void impatient_callers_do_not_double_the_load(void **state)
{
    struct edge *edge = *state;
    belay_lock *lock;
    open_edge(edge, "", "");
    prime->fate[BELAY_VERB_ACQUIRE] = FATE_CUT_SHORT;
    for (int i = 0; i < 100; i++) (void)!try_for(edge, "x", 10000, BELAY_KEEP_OFF, &lock);
    assert_int_equal(prime->count[BELAY_VERB_RELEASE], 1); /* the probe */
}

static void settle_begins_with_this_outage(void **state)
{
    struct edge *edge = *state;
    belay_lock *lock;
    open_edge(edge, "trip_after = 2; settle = \"30s\";", "");
    prime->fate[BELAY_VERB_ACQUIRE] = FATE_GONE;
    assert_int_equal(try_for(edge, "x", 10000, BELAY_KEEP_OFF, &lock), BELAY_UNAVAILABLE);
    belay_fake_advance(edge->world, 3600 * 1000 * MS);
    place_set(prime, FATE_GONE);
    for (int i = 0; i < 3; i++)
        assert_int_equal(try_for(edge, "x", 10000, BELAY_KEEP_OFF, &lock), BELAY_UNAVAILABLE);
    pass(edge, 31000);
    assert_int_equal(scope_now(edge), BELAY_SCOPE_HOST);
}

static void who_never_dispatches_finds_the_primary_again(void **state)
{
    struct edge *edge = *state;
    open_edge(edge, "", "");
    place_set(prime, FATE_GONE);
    assert_int_equal(scope_now(edge), BELAY_SCOPE_HOST);
    place_set(prime, FATE_DONE);
    belay_fake_advance(edge->world, 60 * 1000 * MS);
    assert_int_equal(scope_now(edge), BELAY_SCOPE_FLEET);
}

/* ------------------------------------------------------------------ a promotion that is refused */

static belay_lock *take_degraded(struct edge *edge, uint32_t ttl_ms)
{
    place_set(prime, FATE_GONE);
    belay_lock *lock = take(edge, ttl_ms, BELAY_KEEP_ON);
    assert_int_equal(belay_lock_scope(lock), BELAY_SCOPE_HOST);
    return lock;
}

static void each_recovery_has_its_own_grace(void **state)
{
    struct edge *edge = *state;
    open_edge(edge, "", "");
    belay_lock *lock = take_degraded(edge, 60000);
    int64_t now = belay_fake_now(edge->world);
    struct place_lock *left = place_put(prime, "t:x", "another's", now, now + 600 * 1000 * MS);
    place_set(prime, FATE_DONE);
    while (prime->count[BELAY_VERB_ACQUIRE] < 3) pass(edge, 5);
    place_set(prime, FATE_GONE);
    assert_int_equal(scope_now(edge), BELAY_SCOPE_HOST);
    pass(edge, 60000);
    int before = prime->count[BELAY_VERB_ACQUIRE];
    place_set(prime, FATE_DONE);
    while (prime->count[BELAY_VERB_ACQUIRE] < before + 3) pass(edge, 5);
    assert_true(belay_lock_valid(lock, 0));
    left->until_ns = 0;
    pass(edge, 2000);
    assert_int_equal(belay_lock_scope(lock), BELAY_SCOPE_FLEET);
    assert_int_equal(belay_release(lock, NULL), BELAY_OK);
}

/* What is left of another lock ends at a moment that does not move, however late we hear of it. */
static void a_late_refusal_is_no_sign_of_life(void **state)
{
    struct edge *edge = *state;
    open_edge(edge, "", "");
    belay_lock *lock = take_degraded(edge, 30000);
    int64_t now = belay_fake_now(edge->world);
    struct place_lock *left = place_put(prime, "t:x", "a leftover", now, now + 8000 * MS);
    place_set(prime, FATE_DONE);
    while (prime->count[BELAY_VERB_ACQUIRE] < 3) pass(edge, 5);
    prime->fate[BELAY_VERB_ACQUIRE] = FATE_KEPT;
    while (prime->kept_count == 0) pass(edge, 1);
    belay_op *op = prime->kept[0];
    op->held_for_ns = left->until_ns - belay_fake_now(edge->world);
    pass(edge, 300); /* on its way */
    prime->kept_count = 0;
    belay__loop_enter(&edge->client->loop);
    belay_op_settle(op, BELAY_HELD);
    belay__loop_leave(&edge->client->loop);
    prime->fate[BELAY_VERB_ACQUIRE] = FATE_DONE;
    pass(edge, 10000);
    assert_int_equal(belay_lock_scope(lock), BELAY_SCOPE_FLEET);
    assert_int_equal(belay_release(lock, NULL), BELAY_OK);
}

/* ------------------------------------------------------------------ nothing is left behind */

static void what_an_unheard_extension_left_is_let_go(void **state)
{
    struct edge *edge = *state;
    open_edge(edge, "", "");
    belay_lock *lock = take(edge, 10000, BELAY_KEEP_OFF);
    pass(edge, 6500);
    place_set(prime, FATE_GONE);
    prime->fate[BELAY_VERB_EXTEND] = FATE_UNHEARD;
    assert_int_equal(belay_extend(lock, 0, NULL), BELAY_OK);
    assert_int_equal(belay_lock_scope(lock), BELAY_SCOPE_HOST);
    place_set(prime, FATE_GONE);
    assert_int_equal(belay_release(lock, NULL), BELAY_OK);
    pass(edge, 4000); /* the end of what was answered is past */
    assert_true(is_held(edge, prime));
    place_set(prime, FATE_DONE);
    pass(edge, 4500);
    assert_false(is_held(edge, prime));
}

static void who_waits_is_woken_by_a_release_in_the_background(void **state)
{
    struct edge *edge = *state;
    struct answer answer = { 0 };
    belay_options options = BELAY_OPTIONS_INIT;
    belay_lock *lock;
    open_edge(edge, "", "");
    prime->fate[BELAY_VERB_ACQUIRE] = FATE_BUSY;
    row->fate[BELAY_VERB_RELEASE] = FATE_BUSY;
    assert_int_equal(try_for(edge, "x", 30000, BELAY_KEEP_OFF, &lock), BELAY_UNAVAILABLE);
    assert_true(is_held(edge, row)); /* still on its way out */
    prime->fate[BELAY_VERB_ACQUIRE] = FATE_DONE;
    options.wait_ms = 20000;
    assert_int_equal(belay_acquire_start(edge->client, "x", &options, answered, &answer, NULL,
                                         NULL),
                     BELAY_OK);
    row->fate[BELAY_VERB_RELEASE] = FATE_DONE;
    pass(edge, 100);
    assert_int_equal(answer.count, 1);
    assert_int_equal(answer.status, BELAY_OK);
    assert_int_equal(belay_release(answer.lock, NULL), BELAY_OK);
}

static void a_close_takes_the_hint_with_it(void **state)
{
    struct edge *edge = *state;
    open_edge(edge, "", "");
    belay_lock *lock = take(edge, 10000, BELAY_KEEP_ON);
    place_set(prime, FATE_GONE);
    assert_int_equal(scope_now(edge), BELAY_SCOPE_HOST);
    int64_t now = belay_fake_now(edge->world);
    assert_non_null(place_find(row, "belay-degraded:t:p", now));
    end(edge);
    (void)belay_release(lock, NULL);
    assert_null(place_find(row, "belay-degraded:t:p", now));
    assert_null(place_find(row, "t:x", now));
}

static void a_close_releases_what_ended_for_its_holder_alone(void **state)
{
    struct edge *edge = *state;
    belay_options options = BELAY_OPTIONS_INIT;
    belay_lock *lock = NULL;
    open_edge(edge, "", "");
    options.ttl_ms = 10000;
    options.at_least = BELAY_SCOPE_FLEET;
    options.keep = BELAY_KEEP_ON;
    assert_int_equal(belay_acquire(edge->client, "x", &options, &lock, NULL), BELAY_OK);
    place_set(prime, FATE_GONE);
    pass(edge, 9990);
    assert_false(belay_lock_valid(lock, 0));
    assert_true(is_held(edge, row));
    end(edge);
    (void)belay_release(lock, NULL);
    assert_false(is_held(edge, row));
}

static void a_close_asks_the_primary_once_more(void **state)
{
    struct edge *edge = *state;
    open_edge(edge, "", "");
    belay_lock *lock = take(edge, 60000, BELAY_KEEP_ON);
    place_set(prime, FATE_GONE);
    assert_int_equal(scope_now(edge), BELAY_SCOPE_HOST);
    place_set(prime, FATE_DONE); /* and no probe has told yet */
    end(edge);
    (void)belay_release(lock, NULL);
    assert_false(is_held(edge, prime));
    assert_false(is_held(edge, row));
}

static void a_close_ends_though_the_row_is_silent(void **state)
{
    struct edge *edge = *state;
    open_edge(edge, "", "close_timeout = \"10ms\";");
    belay_lock *lock = take(edge, 10000, BELAY_KEEP_ON);
    place_set(prime, FATE_KEPT);
    place_set(row, FATE_KEPT);
    belay *client = edge->client;
    edge->client = NULL;
    belay_close(client);
    (void)belay_release(lock, NULL);
    assert_null(strstr(edge->log, "did not settle"));
    assert_int_equal(prime->kept_count + row->kept_count, 0);
}

#define EDGE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        EDGE(what_is_lost_before_it_is_handed_over_is_no_lock),
        EDGE(an_extension_under_way_keeps_its_grant_and_its_owner),
        EDGE(lost_on_the_host_while_the_primary_is_asked_is_lost),
        EDGE(a_late_extension_claims_no_more_than_the_primary_has),
        EDGE(forgotten_at_the_last_try_is_said_at_once),
        EDGE(a_hanging_extension_is_overtaken_by_the_clock),
        EDGE(a_primary_that_is_busy_demotes_nothing),
        EDGE(a_demotion_that_comes_to_nothing_is_not_tried_for_ever),
        EDGE(an_adopted_lock_needs_a_row_to_live_on),
        EDGE(a_list_that_does_not_end_is_no_evidence),
        EDGE(impatient_callers_do_not_double_the_load),
        EDGE(settle_begins_with_this_outage),
        EDGE(who_never_dispatches_finds_the_primary_again),
        EDGE(each_recovery_has_its_own_grace),
        EDGE(a_late_refusal_is_no_sign_of_life),
        EDGE(what_an_unheard_extension_left_is_let_go),
        EDGE(who_waits_is_woken_by_a_release_in_the_background),
        EDGE(a_close_takes_the_hint_with_it),
        EDGE(a_close_releases_what_ended_for_its_holder_alone),
        EDGE(a_close_asks_the_primary_once_more),
        EDGE(a_close_ends_though_the_row_is_silent),
    };

    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
