/* redlock_edges_test.c - a redlock's narrow places: what once let two hold a lock, sleep beside a
 * free one, poll, crash, or stay behind. */
#define _GNU_SOURCE
#include "tests/unit/redlock_nodes.h"

enum { TTL_MS = 10000 };

/* A client of these backends; "r" is used. */
static belay *open_text(struct stage *stage, int which, const char *backends)
{
    char text[1024], path[] = "/tmp/belay-edges-XXXXXX";
    belay_open_options options = BELAY_OPEN_OPTIONS_INIT;
    belay_error err = BELAY_ERROR_INIT;
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    int used = snprintf(text, sizeof text, "use = \"r\"; prefix = \"t:\"; backends: {\n%s\n};\n",
                        backends);
    assert_int_equal(write(fd, text, (size_t)used), used);
    close(fd);
    options.threads = BELAY_DISPATCH;
    options.world = belay_fake_base(stage->world);
    options.backends = node_tables;
    options.on_event = stage_event;
    options.arg = stage;
    belay_status status = belay_open(&stage->clients[which], path, &options, &err);
    unlink(path);
    if (status != BELAY_OK) fail_msg("open: %s", err.text);
    return stage->clients[which];
}

static void lose_all(struct stage *stage)
{
    for (int i = 0; i < stage->count; i++) memset(nodes[i].locks, 0, sizeof nodes[i].locks);
}

/* ------------------------------------------------------------------ two holders */

/* Held at three; the third is not reached for longer than a TTL, and then the second loses it. */
static belay_lock *one_and_a_ghost(struct stage *stage, int64_t silent_after_ms)
{
    belay *client = stage_open(stage, 0, 3, "", "");
    stage_open(stage, 1, 3, "", "");
    belay_lock *lock = must_take(client, "x", TTL_MS, BELAY_KEEP_OFF);
    pass(stage, silent_after_ms);
    assert_int_equal(belay_extend(lock, 0, NULL), BELAY_OK);
    node_set(&nodes[2], FATE_GONE);
    return lock;
}

static void a_seat_counts_for_no_longer_than_its_ttl(void **state)
{
    struct stage *stage = *state;
    belay_lock *lock = one_and_a_ghost(stage, 0), *other;
    for (int i = 0; i < 3; i++) {
        pass(stage, 4000);
        assert_int_equal(belay_extend(lock, 0, NULL), BELAY_OK);
    }
    node_lose(stage->clients[0], &nodes[1], BELAY_LOST);
    assert_false(belay_lock_valid(lock, 0));
    node_set(&nodes[2], FATE_DONE);
    assert_int_equal(try_for(stage->clients[1], "x", TTL_MS, &other), BELAY_OK);
    (void)belay_release(lock, NULL);
    assert_int_equal(belay_release(other, NULL), BELAY_OK);
}

static void an_extension_knows_which_seats_are_over(void **state)
{
    struct stage *stage = *state;
    belay_lock *lock = one_and_a_ghost(stage, 0);
    for (int i = 0; i < 3; i++) {
        pass(stage, 4000);
        assert_int_equal(belay_extend(lock, 0, NULL), BELAY_OK);
    }
    memset(nodes[1].locks, 0, sizeof nodes[1].locks);
    assert_status(belay_extend(lock, 0, NULL), BELAY_LOST);
    assert_false(belay_lock_valid(lock, 0));
    (void)belay_release(lock, NULL);
}

/* What is left is a quorum now, but not until the deadline. */
static void a_deadline_ends_with_its_quorum(void **state)
{
    struct stage *stage = *state;
    belay_lock *lock = one_and_a_ghost(stage, 4000), *other;
    pass(stage, 4000);
    assert_int_equal(belay_extend(lock, 0, NULL), BELAY_OK);
    pass(stage, 1000);
    node_lose(stage->clients[0], &nodes[1], BELAY_LOST);
    assert_true(belay_lock_valid(lock, 4000));
    assert_false(belay_lock_valid(lock, 5000)); /* then the third place's is over */
    pass(stage, 5100);
    assert_false(belay_lock_valid(lock, 0));
    node_set(&nodes[2], FATE_DONE);
    assert_int_equal(try_for(stage->clients[1], "x", TTL_MS, &other), BELAY_OK);
    (void)belay_release(lock, NULL);
    assert_int_equal(belay_release(other, NULL), BELAY_OK);
}

/* A place of a place: what reaches this host alone is no vote of the fleet. */
static void a_degraded_grant_is_no_vote(void **state)
{
    struct stage *stage = *state;
    belay_lock *lock;
    belay *client =
        open_text(stage, 0,
                  "n0: { type = \"node\"; index = 0; }; n1: { type = \"node\"; index = 1; };\n"
                  "n2: { type = \"node\"; index = 2; }; m0: { type = \"memory\"; }; m1: { type = "
                  "\"memory\"; };\n"
                  "a: { type = \"fallback\"; primary = \"n0\"; secondary = \"m0\"; };\n"
                  "b: { type = \"fallback\"; primary = \"n1\"; secondary = \"m1\"; };\n"
                  "r: { type = \"redlock\"; nodes = ( \"a\", \"b\", \"n2\" ); };");
    for (int i = 0; i < 3; i++) node_set(&nodes[i], FATE_GONE);
    assert_int_not_equal(try_for(client, "x", TTL_MS, &lock), BELAY_OK);
    node_set(&nodes[2], FATE_DONE); /* one vote, and two that are none */
    assert_int_not_equal(try_for(client, "x", TTL_MS, &lock), BELAY_OK);
    pass(stage, 2000);
    assert_int_equal(nodes_total(stage), 0);
}

/* ------------------------------------------------------------------ lifetimes */

/* A straggler that asks its place when the call has long returned. */
static void a_label_outlives_the_call(void **state)
{
    struct stage *stage = *state;
    belay_options options = options_of(TTL_MS, BELAY_TRY, BELAY_KEEP_OFF);
    struct answer answer = { 0 };
    belay *client = open_text(
        stage, 0,
        "a: { type = \"memory\"; }; b: { type = \"memory\"; }; m: { type = \"memory\"; };\n"
        "c: { type = \"fault\"; child = \"m\"; acquire: { delay = \"20ms\"; }; };\n"
        "r: { type = \"redlock\"; nodes = ( \"a\", \"b\", \"c\" ); };");
    options.label = "somebody with a long enough label";
    assert_int_equal(belay_acquire_start(client, "x", &options, answered, &answer, NULL, NULL),
                     BELAY_OK);
    pass(stage, 100);
    assert_status(answer.status, BELAY_OK);
    assert_int_equal(belay_release(answer.lock, NULL), BELAY_OK);
}

/* The place forgot it; one extension puts it back while another is still under way there. */
static void a_repair_waits_for_what_is_under_way(void **state)
{
    struct stage *stage = *state;
    struct answer first = { 0 }, second = { 0 };
    belay *client = stage_open(stage, 0, 3, "quarantine = false;", "");
    belay_lock *lock = must_take(client, "x", TTL_MS, BELAY_KEEP_OFF);
    nodes[2].fate[BELAY_VERB_EXTEND] = FATE_SILENT;
    assert_int_equal(belay_extend_start(lock, 0, answered, &first, NULL, NULL), BELAY_OK);
    assert_int_equal(belay_extend_start(lock, 0, answered, &second, NULL, NULL), BELAY_OK);
    dispatch(stage);
    node_lose(client, &nodes[2], BELAY_UNCERTAIN);
    assert_int_equal(belay_extend(lock, 0, NULL), BELAY_OK); /* would repair */
    dispatch(stage);
    node_settle(client, &nodes[2], true); /* reads its grant */
    pass(stage, 100);
    nodes[2].fate[BELAY_VERB_EXTEND] = FATE_DONE;
    assert_int_equal(belay_extend(lock, 0, NULL), BELAY_OK);
    dispatch(stage);
    assert_int_equal(nodes_with(stage, "t:x", belay_lock_owner(lock)), 3);
    assert_int_equal(belay_release(lock, NULL), BELAY_OK);
    assert_int_equal(nodes_total(stage), 0);
}

/* ------------------------------------------------------------------ waiting */

/* A bare quorum leaves a place free; whoever waits must not take and give it back for ever. */
static void who_waits_for_a_bare_quorum_does_not_poll(void **state)
{
    struct stage *stage = *state;
    struct answer answer;
    belay *client = stage_open(stage, 0, 3, "", "");
    for (int i = 1; i < 3; i++)
        node_put(&nodes[i], "t:x", "another", now_of(stage), now_of(stage) + 60000 * MS);
    begin(client, "x", TTL_MS, 55000, &answer);
    pass(stage, 5000);
    int before = nodes[1].count[BELAY_VERB_ACQUIRE];
    pass(stage, 45000);
    assert_true(nodes[1].count[BELAY_VERB_ACQUIRE] - before < 30);
    assert_int_equal(answer.count, 0);
    pass(stage, 6000);
    assert_status(answer.status, BELAY_HELD);
}

/* One says held and the others are away: that is no word for five seconds. */
static void who_was_refused_by_one_asks_again_soon(void **state)
{
    struct stage *stage = *state;
    struct answer answer;
    belay *client = stage_open(stage, 0, 3, "", "outage = \"1h\";");
    node_put(&nodes[0], "t:x", "another", now_of(stage), now_of(stage) + 60000 * MS);
    node_set(&nodes[1], FATE_GONE);
    node_set(&nodes[2], FATE_GONE);
    begin(client, "x", TTL_MS, 30000, &answer);
    pass(stage, 100);
    node_set(&nodes[1], FATE_DONE);
    node_set(&nodes[2], FATE_DONE);
    pass(stage, 2000);
    assert_status(answer.status, BELAY_OK);
    assert_int_equal(belay_release(answer.lock, NULL), BELAY_OK);
}

/* The places tell others what is let go late; our own waiter has only us. */
static void what_is_let_go_late_wakes_our_own_waiter(void **state)
{
    struct stage *stage = *state;
    struct answer answer, released = { 0 };
    belay *client = stage_open(stage, 0, 3, "", "");
    belay_lock *lock = must_take(client, "x", 30000, BELAY_KEEP_OFF);
    begin(client, "x", TTL_MS, 60000, &answer);
    pass(stage, 100);
    for (int i = 0; i < 3; i++) nodes[i].fate[BELAY_VERB_RELEASE] = FATE_GONE;
    assert_int_equal(belay_release_start(lock, answered, &released, NULL, NULL), BELAY_OK);
    pass(stage, 300);
    assert_status(released.status, BELAY_UNAVAILABLE);
    for (int i = 0; i < 3; i++) nodes[i].fate[BELAY_VERB_RELEASE] = FATE_DONE;
    pass(stage, 2500);
    assert_status(answer.status, BELAY_OK);
    assert_int_equal(belay_release(answer.lock, NULL), BELAY_OK);
}

/* ------------------------------------------------------------------ silence */

/* Who is thought to be down is spared only while the others are enough. */
static void who_is_spared_is_asked_when_votes_are_short(void **state)
{
    struct stage *stage = *state;
    belay_lock *lock;
    belay *client = stage_open(stage, 0, 3, "", "");
    node_set(&nodes[1], FATE_GONE);
    node_set(&nodes[2], FATE_GONE);
    for (int i = 0; i < 4; i++) {
        assert_int_not_equal(try_for(client, "x", TTL_MS, &lock), BELAY_OK);
        pass(stage, 5);
    }
    node_set(&nodes[2], FATE_DONE); /* the first of the spared ones is the dead one */
    assert_int_equal(try_for(client, "x", TTL_MS, &lock), BELAY_OK);
    assert_int_equal(belay_release(lock, NULL), BELAY_OK);
}

/* A node that always answers too late goes once, and does not come back with each late answer. */
static void a_slow_node_goes_once(void **state)
{
    struct stage *stage = *state;
    belay *client = stage_open(stage, 0, 3, "", "");
    node_set(&nodes[2], FATE_SLOW);
    nodes[2].slow_ms = 60;
    for (int i = 0; i < 100; i++) {
        belay_lock *locks[3];
        char name[3][8];
        for (int j = 0; j < 3; j++) {
            snprintf(name[j], sizeof name[j], "n%d", j);
            assert_int_equal(try_for(client, name[j], TTL_MS, &locks[j]), BELAY_OK);
        }
        pass(stage, 70);
        for (int j = 0; j < 3; j++) assert_int_equal(belay_release(locks[j], NULL), BELAY_OK);
        pass(stage, 20);
    }
    assert_int_equal(stage->down, 1);
    assert_int_equal(stage->back, 0);
}

/* A token has to be written back to a node that falls silent just then. */
static void a_silent_raise_costs_no_more_than_a_silent_vote(void **state)
{
    struct stage *stage = *state;
    struct answer answer;
    belay *client = stage_open(stage, 0, 3, "", "");
    nodes[1].fence = UINT64_C(1) << 48;
    node_set(&nodes[2], FATE_SILENT);
    nodes[0].fate[BELAY_VERB_EXTEND] = FATE_SILENT;
    begin(client, "x", TTL_MS, BELAY_TRY, &answer);
    pass(stage, 105); /* 2 * node_timeout */
    assert_int_equal(answer.count, 1);
    assert_int_not_equal(answer.status, BELAY_OK);
    pass(stage, 1000);
    assert_int_equal(nodes_total(stage), 0);
}

static void a_node_timeout_beyond_the_attempt_is_refused(void **state)
{
    struct stage *stage = *state;
    belay_error err = BELAY_ERROR_INIT;
    assert_status(stage_try_open(stage, 0, 3, "node_timeout = \"300ms\";", "", &err), BELAY_CONFIG);
    assert_non_null(strstr(err.text, "node_timeout"));
    assert_int_equal(stage_try_open(stage, 0, 3, "node_timeout = \"300ms\"; timeout = \"1s\";", "",
                                    &err),
                     BELAY_OK);
}

/* Two of three say that it is gone: the third, which is away, can't make it ours. */
static void a_release_of_what_is_over_is_lost(void **state)
{
    struct stage *stage = *state;
    belay *client = stage_open(stage, 0, 3, "", "");
    belay_lock *lock = must_take(client, "x", TTL_MS, BELAY_KEEP_OFF);
    lose_all(stage);
    node_set(&nodes[2], FATE_GONE);
    assert_status(belay_release(lock, NULL), BELAY_LOST);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, stage_setup, stage_teardown)
    const struct CMUnitTest tests[] = {
        TEST(a_seat_counts_for_no_longer_than_its_ttl),
        TEST(an_extension_knows_which_seats_are_over),
        TEST(a_deadline_ends_with_its_quorum),
        TEST(a_degraded_grant_is_no_vote),
        TEST(a_label_outlives_the_call),
        TEST(a_repair_waits_for_what_is_under_way),
        TEST(who_waits_for_a_bare_quorum_does_not_poll),
        TEST(who_was_refused_by_one_asks_again_soon),
        TEST(what_is_let_go_late_wakes_our_own_waiter),
        TEST(who_is_spared_is_asked_when_votes_are_short),
        TEST(a_slow_node_goes_once),
        TEST(a_silent_raise_costs_no_more_than_a_silent_vote),
        TEST(a_node_timeout_beyond_the_attempt_is_refused),
        TEST(a_release_of_what_is_over_is_lost),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
