/* redlock_votes_test.c - every vote that up to five nodes can give: what is answered and when, what
 * the winner may believe, and that nothing stays behind on any of them. */
#define _GNU_SOURCE
#include "tests/unit/redlock_nodes.h"

extern bool help_slow(void);

enum { TTL_MS = 10000, DRIFT_MS = 102, SLOW_MS = 30, NODE_TIMEOUT_MS = 50 };

enum vote { GRANT, HELD, BUSY, GONE, UNSURE, SLOW, LATE, SILENT, VOTES };

static const char *const vote_names[VOTES] = { "grant",  "held", "busy", "gone",
                                               "unsure", "slow", "late", "silent" };

static const enum fate fates[VOTES] = { FATE_DONE,    FATE_DONE, FATE_BUSY,   FATE_GONE,
                                        FATE_UNHEARD, FATE_SLOW, FATE_SILENT, FATE_SILENT };

struct expected {
    belay_status status;
    int64_t at_ms;
    int grants; /* of those who had answered */
};

/* As SEMANTICS 8 has it, over the answers in the order of their coming. */
static struct expected expect(const enum vote *votes, int count)
{
    int granted = 0, held = 0, doubts = 0, heard = 0, quorum = count / 2 + 1;
    for (int64_t at_ms = 0; at_ms <= NODE_TIMEOUT_MS; at_ms += at_ms == 0 ? SLOW_MS : 20) {
        for (int i = 0; i < count; i++) {
            bool now = at_ms == 0         ? votes[i] < SLOW
                       : at_ms == SLOW_MS ? votes[i] == SLOW
                                          : votes[i] > SLOW;
            if (!now) continue;
            heard++;
            granted += votes[i] == GRANT || votes[i] == SLOW;
            held += votes[i] == HELD;
            doubts += votes[i] == UNSURE;
            if (granted >= quorum) return (struct expected){ BELAY_OK, at_ms, granted };
            if (granted + count - heard >= quorum) continue;
            bool open = heard < count || votes[i] > SLOW;
            for (int j = 0; j < count; j++) open |= votes[j] > SLOW;
            return (struct expected){ held > 0             ? BELAY_HELD
                                      : doubts > 0 || open ? BELAY_UNCERTAIN
                                                           : BELAY_UNAVAILABLE,
                                      at_ms, granted };
        }
    }
    fail_msg("nothing decides this vote");
    return (struct expected){ 0 };
}

static void show(const enum vote *votes, int count)
{
    for (int i = 0; i < count; i++) print_message("%s ", vote_names[votes[i]]);
    print_message("\n");
}

#define check(condition)                                                                           \
    do {                                                                                           \
        if (condition) break;                                                                      \
        show(votes, count);                                                                        \
        fail_msg("%s", #condition);                                                                \
    } while (0)

static void nodes_vote(struct stage *stage, const enum vote *votes, int count, int *foreign)
{
    *foreign = 0;
    for (int i = 0; i < count; i++) {
        struct node *node = &nodes[i];
        memset(node->count, 0, sizeof node->count);
        memset(node->locks, 0, sizeof node->locks);
        node_set(node, FATE_DONE);
        node->fate[BELAY_VERB_ACQUIRE] = fates[votes[i]];
        if (votes[i] != HELD) continue;
        node_put(node, "t:x", "another", now_of(stage), now_of(stage) + 60000 * MS);
        ++*foreign;
    }
}

/* A quorum stands at the winner's token, which is beyond all before it. */
static bool token_stands(struct stage *stage, const belay_lock *lock, uint64_t *last)
{
    int at = 0;
    uint64_t token = belay_lock_token(lock);
    for (int i = 0; i < stage->count; i++)
        at +=
            nodes[i].fence >= token && node_find(&nodes[i], "t:x", now_of(stage)) != NULL &&
            strcmp(node_find(&nodes[i], "t:x", now_of(stage))->owner, belay_lock_owner(lock)) == 0;
    bool grows = token > *last;
    *last = token;
    return grows && at >= stage->quorum;
}

static void one_vote(struct stage *stage, const enum vote *votes, int count, uint64_t *last)
{
    belay *client = stage->clients[0];
    struct expected expected = expect(votes, count);
    struct answer answer;
    int foreign;
    nodes_vote(stage, votes, count, &foreign);
    begin(client, "x", TTL_MS, BELAY_TRY, &answer);
    for (int64_t at_ms = 0; at_ms < expected.at_ms; at_ms += 10) {
        check(answer.count == 0);
        jump(stage, 10);
    }
    check(answer.count == 1);
    if (answer.status != expected.status) {
        show(votes, count);
        assert_status(answer.status, expected.status);
    }
    for (int i = 0; i < count; i++) check(nodes[i].count[BELAY_VERB_ACQUIRE] == 1);
    if (answer.status == BELAY_OK) {
        char owner[BELAY_OWNER_LENGTH + 1];
        int late = 0;
        snprintf(owner, sizeof owner, "%s", belay_lock_owner(answer.lock));
        check(token_stands(stage, answer.lock, last));
        check(belay_lock_remaining_ms(answer.lock) == TTL_MS - DRIFT_MS - expected.at_ms);
        jump(stage, NODE_TIMEOUT_MS + 20 - expected.at_ms);
        check(nodes_with(stage, "t:x", owner) >= expected.grants);
        for (int i = 0; i < count; i++) {
            if (votes[i] != LATE) continue;
            node_settle(client, &nodes[i], true);
            late++;
        }
        dispatch(stage);
        check(nodes_with(stage, "t:x", owner) >= expected.grants + late);
        check(belay_lock_valid(answer.lock, 0));
        check(belay_release(answer.lock, NULL) == BELAY_OK);
    } else { /* the slow ones and the late ones answer, and are given back */
        jump(stage, SLOW_MS + NODE_TIMEOUT_MS);
        for (int i = 0; i < count; i++)
            if (votes[i] == LATE) node_settle(client, &nodes[i], true);
        dispatch(stage);
        check(nodes_total(stage) == foreign);
    }
    jump(stage, 500); /* the silent ones are waited for no longer */
    dispatch(stage);
    check(nodes_open() == 0);
    check(nodes_total(stage) == foreign);
    check(nodes_with(stage, "t:x", "another") == foreign);
    for (int i = 0; i < count; i++) check(belay_links_empty(&nodes[i].grants));
}

static void every_vote(struct stage *stage, int count)
{
    int all = 1;
    uint64_t last = 0;
    for (int i = 0; i < count; i++) all *= VOTES;
    stage_open(stage, 0, count, "", "");
    for (int number = 0; number < all; number++) {
        enum vote votes[NODES];
        for (int i = 0, rest = number; i < count; i++, rest /= VOTES)
            votes[i] = (enum vote)(rest % VOTES);
        for (int i = 0; i < count; i++) /* others have raised the fences since */
            nodes[i].fence += (uint64_t)((number * 7 + i * 5) % 4) * 100000;
        one_vote(stage, votes, count, &last);
        jump(stage, 600); /* who was found silent or gone is asked again */
    }
    print_message("%d votes of %d nodes\n", all, count);
    stage_close(stage);
}

static void every_vote_is_counted_and_leaves_nothing(void **state)
{
    struct stage *stage = *state;
    int most = getenv("BELAY_ON_VALGRIND") != NULL ? 3 : NODES;
    for (int count = 1; count <= most; count++) {
        nodes_reset();
        every_vote(stage, count);
    }
}

/* ------------------------------------------------------------------ narrow places */

static void who_is_not_asked_makes_nobody_late(void **state)
{
    struct stage *stage = *state;
    belay_lock *lock;
    belay *client = stage_open(stage, 0, 3, "", "");
    node_set(&nodes[0], FATE_GONE);
    for (int i = 0; i < 3; i++) {
        assert_status(try_for(client, "x", TTL_MS, &lock), BELAY_OK);
        assert_int_equal(belay_release(lock, NULL), BELAY_OK);
    }
    assert_int_equal(nodes[0].count[BELAY_VERB_ACQUIRE], 3);
    dispatch(stage);
    assert_int_equal(stage->down, 1);
    nodes[1].fate[BELAY_VERB_ACQUIRE] = nodes[2].fate[BELAY_VERB_ACQUIRE] = FATE_SLOW;
    assert_status(try_for(client, "x", TTL_MS, &lock), BELAY_OK);
    assert_int_equal(nodes[0].count[BELAY_VERB_ACQUIRE], 3); /* it was not asked */
    assert_int_equal(belay_lock_remaining_ms(lock), TTL_MS - DRIFT_MS - SLOW_MS);
    assert_int_equal(belay_release(lock, NULL), BELAY_OK);
    node_set(&nodes[0], FATE_DONE);
    for (int i = 0; i < 3; i++) { /* one answer may be chance */
        jump(stage, 300);
        assert_status(try_for(client, "x", TTL_MS, &lock), BELAY_OK);
        assert_int_equal(belay_release(lock, NULL), BELAY_OK);
    }
    dispatch(stage);
    assert_int_equal(stage->back, 1);
}

/* Its answers come when all is over; but it would answer. */
static void a_node_that_is_only_slower_is_asked_when_it_is_needed(void **state)
{
    struct stage *stage = *state;
    struct answer answer;
    belay_lock *lock;
    belay *client = stage_open(stage, 0, 3, "", "");
    nodes[2].fate[BELAY_VERB_ACQUIRE] = FATE_SLOW;
    nodes[2].slow_ms = 5;
    for (int i = 0; i < 200; i++) {
        assert_status(try_for(client, "x", TTL_MS, &lock), BELAY_OK);
        assert_int_equal(belay_release(lock, NULL), BELAY_OK);
        jump(stage, 1);
    }
    node_set(&nodes[0], FATE_GONE);
    begin(client, "x", TTL_MS, BELAY_TRY, &answer);
    pass(stage, 10);
    assert_int_equal(answer.count, 1);
    assert_status(answer.status, BELAY_OK);
    assert_int_equal(belay_release(answer.lock, NULL), BELAY_OK);
}

/* Granted, and lost again before the quorum stands: by restart, or to another. */
static void what_is_lost_during_the_vote_is_no_vote(void **state)
{
    struct stage *stage = *state;
    static const belay_status told[] = { BELAY_LOST, BELAY_UNCERTAIN };
    for (int early = 0; early < 2; early++)
        for (int i = 0; i < 2; i++) {
            struct answer answer;
            nodes_reset();
            belay *client = stage_open(stage, 0, 3, "", "");
            node_set(&nodes[2], FATE_SILENT);
            nodes[1].fate[BELAY_VERB_ACQUIRE] = FATE_SLOW;
            if (early) nodes[0].early = told[i];
            begin(client, "x", TTL_MS, BELAY_TRY, &answer);
            jump(stage, 10);
            if (!early) node_lose(client, &nodes[0], told[i]);
            jump(stage, 20);
            assert_true(answer.count == 0 || answer.status != BELAY_OK);
            jump(stage, 20);
            assert_int_equal(answer.count, 1);
            assert_int_not_equal(answer.status, BELAY_OK);
            dispatch(stage);
            assert_int_equal(nodes_total(stage), 0);
            stage_close(stage);
        }
}

/* And it may be made up for by another. */
static void a_vote_that_was_lost_is_replaced(void **state)
{
    struct stage *stage = *state;
    struct answer answer;
    belay *client = stage_open(stage, 0, 3, "", "");
    nodes[1].fate[BELAY_VERB_ACQUIRE] = FATE_SLOW;
    nodes[2].fate[BELAY_VERB_ACQUIRE] = FATE_SLOW;
    nodes[2].slow_ms = 40;
    begin(client, "x", TTL_MS, BELAY_TRY, &answer);
    node_lose(client, &nodes[0], BELAY_LOST);
    jump(stage, 30);
    assert_int_equal(answer.count, 0);
    jump(stage, 10);
    assert_int_equal(answer.count, 1);
    assert_status(answer.status, BELAY_OK);
    assert_int_equal(nodes_with(stage, "t:x", belay_lock_owner(answer.lock)), 2);
    assert_int_equal(belay_release(answer.lock, NULL), BELAY_OK);
    assert_int_equal(nodes_total(stage), 0);
}

/* While one node's fence is being raised, another answers more. */
static void a_token_that_grew_is_written_again(void **state)
{
    struct stage *stage = *state;
    struct answer answer;
    belay *client = stage_open(stage, 0, 5, "", "");
    uint64_t base = (uint64_t)belay_fake_wall(stage->world) / 16 + 100000;
    static const uint64_t fences[] = { 200, 200, 100, 300, 0 };
    for (int i = 0; i < 5; i++) nodes[i].fence = base + fences[i];
    node_put(&nodes[4], "t:x", "another", now_of(stage), now_of(stage) + 60000 * MS);
    nodes[1].fate[BELAY_VERB_EXTEND] = FATE_SILENT;
    nodes[2].fate[BELAY_VERB_EXTEND] = FATE_SLOW;
    nodes[3].fate[BELAY_VERB_ACQUIRE] = FATE_SLOW;
    nodes[3].slow_ms = 10;
    begin(client, "x", TTL_MS, BELAY_TRY, &answer);
    pass(stage, 60);
    assert_int_equal(answer.count, 1);
    assert_status(answer.status, BELAY_OK);
    uint64_t last = 0;
    assert_true(token_stands(stage, answer.lock, &last));
    assert_int_equal(belay_release(answer.lock, NULL), BELAY_OK);
    pass(stage, 60);
    assert_int_equal(nodes_with(stage, "t:x", "another"), nodes_total(stage));
}

/* Each node's raise fails in each way, or hangs: OK is said of a quorum at the token, and else of
 * none. */
static void a_token_that_cannot_be_written_is_no_grant(void **state)
{
    struct stage *stage = *state;
    static const enum fate ways[] = { FATE_DONE, FATE_SLOW,    FATE_SILENT,   FATE_GONE,
                                      FATE_BUSY, FATE_UNHEARD, FATE_FORGOTTEN };
    enum { WAYS = sizeof ways / sizeof ways[0] };
    uint64_t last = 0;
    stage_open(stage, 0, 3, "", "");
    for (int number = 0; number < WAYS * WAYS * 2; number++) {
        struct answer answer;
        int high = number % 2, good = 1;
        uint64_t base = (uint64_t)belay_fake_wall(stage->world) / 16 + 1000000;
        for (int i = 0, rest = number / 2; i < 3; i++) {
            node_set(&nodes[i], FATE_DONE);
            if (nodes[i].fence < base) nodes[i].fence = base;
            if (i == high) {
                nodes[i].fence += 1000;
                continue;
            }
            nodes[i].fate[BELAY_VERB_EXTEND] = ways[rest % WAYS];
            good += ways[rest % WAYS] == FATE_DONE || ways[rest % WAYS] == FATE_SLOW;
            rest /= WAYS;
        }
        begin(stage->clients[0], "x", TTL_MS, BELAY_TRY, &answer);
        for (int i = 0; i < 700 && answer.count == 0; i += 10) pass(stage, 10);
        assert_int_equal(answer.count, 1);
        if (good >= 2) assert_status(answer.status, BELAY_OK);
        else assert_int_not_equal(answer.status, BELAY_OK);
        if (answer.status == BELAY_OK) {
            assert_true(token_stands(stage, answer.lock, &last));
            assert_int_equal(belay_release(answer.lock, NULL), BELAY_OK);
        }
        pass(stage, 700);
        assert_int_equal(nodes_total(stage), 0);
        assert_int_equal(nodes_open(), 0);
    }
}

/* A composite's answer to a cancel, say: it is given back when it comes. */
static void what_is_granted_in_spite_of_a_cancel_is_given_back(void **state)
{
    struct stage *stage = *state;
    for (int won = 0; won < 2; won++)
        for (uint32_t ttl_ms = 100; ttl_ms <= 10000; ttl_ms *= 100) {
            struct answer answer;
            nodes_reset();
            belay *client = stage_open(stage, 0, 3, "", "");
            nodes[0].fate[BELAY_VERB_ACQUIRE] = FATE_SILENT;
            nodes[0].deaf = true;
            for (int i = 1; i < 3 && !won; i++) node_set(&nodes[i], FATE_BUSY);
            begin(client, "x", ttl_ms, BELAY_TRY, &answer);
            assert_int_equal(answer.count, 1);
            assert_true((answer.status == BELAY_OK) == won);
            if (won) assert_int_equal(belay_release(answer.lock, NULL), BELAY_OK);
            pass(stage, 300);
            node_settle(client, &nodes[0], true);
            dispatch(stage);
            assert_int_equal(nodes_total(stage), 0); /* at once, not with its TTL */
            stage_close(stage);
        }
}

static void a_waiter_sleeps_until_a_quorum_can_be_free(void **state)
{
    struct stage *stage = *state;
    struct answer answer;
    belay *client = stage_open(stage, 0, 3, "", "");
    for (int i = 0; i < 3; i++)
        node_put(&nodes[i], "t:x", "another", now_of(stage), now_of(stage) + (300 + 300 * i) * MS);
    begin(client, "x", TTL_MS, 5000, &answer);
    assert_int_equal(answer.count, 0);
    pass(stage, 595);
    assert_int_equal(nodes[0].count[BELAY_VERB_ACQUIRE], 1);
    for (int i = 0; i < 400 && answer.count == 0; i++) pass(stage, 5);
    assert_int_equal(answer.count, 1);
    assert_status(answer.status, BELAY_OK);
    assert_true(nodes[0].count[BELAY_VERB_ACQUIRE] <= 3);
    assert_int_equal(belay_release(answer.lock, NULL), BELAY_OK);
}

static void the_error_names_the_nodes_and_what_each_said(void **state)
{
    struct stage *stage = *state;
    belay_options options = options_of(TTL_MS, BELAY_TRY, BELAY_KEEP_OFF);
    belay_error err = BELAY_ERROR_INIT;
    belay_lock *lock;
    belay *client = stage_open(stage, 0, 3, "", "");
    node_set(&nodes[0], FATE_SILENT);
    node_set(&nodes[1], FATE_GONE);
    assert_status(belay_acquire(client, "x", &options, &lock, &err), BELAY_UNCERTAIN);
    assert_non_null(strstr(err.text, "n0: no answer"));
    assert_non_null(strstr(err.text, "n1: connection refused"));
    assert_non_null(strstr(err.text, "n2: granted"));
    assert_string_equal(err.node, "r");
}

/* Two names of one place are found by the first answers that could make a quorum of them. */
static void one_place_twice_is_a_mistake_of_the_config(void **state)
{
    struct stage *stage = *state;
    for (int other = 1; other < 3; other++)
        for (int slow = 0; slow < 2; slow++) {
            belay_lock *lock;
            nodes_reset();
            belay *client = stage_open(stage, 0, 3, "", "");
            snprintf(nodes[other].instance, sizeof nodes[other].instance, "%s", nodes[0].instance);
            if (slow) nodes[0].fate[BELAY_VERB_ACQUIRE] = FATE_SLOW;
            belay_status status = try_for(client, "x", TTL_MS, &lock);
            if (status == BELAY_OK) { /* by two that are not one; the third spoke later */
                pass(stage, 40);
                assert_int_equal(belay_release(lock, NULL), BELAY_OK);
                status = try_for(client, "x", TTL_MS, &lock);
            }
            assert_status(status, BELAY_CONFIG);
            pass(stage, 40);
            assert_int_equal(nodes_total(stage), 0);
            stage_close(stage);
        }
}

static void what_waits_for_a_silent_node_is_capped(void **state)
{
    struct stage *stage = *state;
    belay_lock *lock;
    belay *client = stage_open(stage, 0, 3, "", "");
    int most = 0;
    node_set(&nodes[0], FATE_SILENT);
    for (int i = 0; i < 300; i++) {
        assert_status(try_for(client, "x", TTL_MS, &lock), BELAY_OK);
        pass(stage, 60);
        if (nodes[0].open_count > most) most = nodes[0].open_count;
        assert_int_equal(belay_release(lock, NULL), BELAY_OK);
    }
    assert_true(most <= 16);
    dispatch(stage);
    assert_int_equal(stage->down, 1);
    assert_int_equal(nodes_total(stage), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(every_vote_is_counted_and_leaves_nothing, stage_setup,
                                        stage_teardown),
        cmocka_unit_test_setup_teardown(who_is_not_asked_makes_nobody_late, stage_setup,
                                        stage_teardown),
        cmocka_unit_test_setup_teardown(a_node_that_is_only_slower_is_asked_when_it_is_needed,
                                        stage_setup, stage_teardown),
        cmocka_unit_test_setup_teardown(what_is_lost_during_the_vote_is_no_vote, stage_setup,
                                        stage_teardown),
        cmocka_unit_test_setup_teardown(a_vote_that_was_lost_is_replaced, stage_setup,
                                        stage_teardown),
        cmocka_unit_test_setup_teardown(a_token_that_grew_is_written_again, stage_setup,
                                        stage_teardown),
        cmocka_unit_test_setup_teardown(a_token_that_cannot_be_written_is_no_grant, stage_setup,
                                        stage_teardown),
        cmocka_unit_test_setup_teardown(what_is_granted_in_spite_of_a_cancel_is_given_back,
                                        stage_setup, stage_teardown),
        cmocka_unit_test_setup_teardown(a_waiter_sleeps_until_a_quorum_can_be_free, stage_setup,
                                        stage_teardown),
        cmocka_unit_test_setup_teardown(the_error_names_the_nodes_and_what_each_said, stage_setup,
                                        stage_teardown),
        cmocka_unit_test_setup_teardown(one_place_twice_is_a_mistake_of_the_config, stage_setup,
                                        stage_teardown),
        cmocka_unit_test_setup_teardown(what_waits_for_a_silent_node_is_capped, stage_setup,
                                        stage_teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
