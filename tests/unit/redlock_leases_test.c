/* redlock_leases_test.c - a lock that a quorum gave: split votes, nodes that forgot, extensions
 * that reach few, what is told of it at any moment, calls and clients that end in the middle, and
 * memory that runs out. FAULTS 28 to 30 with a turned clock. */
#define _GNU_SOURCE
#include "tests/unit/redlock_nodes.h"

enum { TTL_MS = 10000 };

static bool ours_is_quorum(struct stage *stage, const belay_lock *lock)
{
    return nodes_with(stage, "t:x", belay_lock_owner(lock)) >= stage->quorum;
}

/* ------------------------------------------------------------------ split votes (28) */

/* Eight clients ask at once and five nodes hear them in another order each. */
static void a_split_vote_ends_soon(void **state)
{
    struct stage *stage = *state;
    for (int round = 0; round < 20; round++) {
        struct answer answers[CLIENTS];
        int won = 0, inside = 0;
        int64_t began = now_of(stage), first_ns = 0;
        nodes_reset();
        for (int i = 0; i < NODES; i++) node_set(&nodes[i], FATE_SLOW);
        for (int i = 0; i < CLIENTS; i++) stage_open(stage, i, NODES, "", "");
        for (int i = 0; i < CLIENTS; i++) {
            for (int j = 0; j < NODES; j++) nodes[j].slow_ms = 1 + (i * 7 + j * 3 + round) % 5;
            begin(stage->clients[i], "x", TTL_MS, 60000, &answers[i]);
        }
        for (int ms = 0; ms < 30000 && won < CLIENTS; ms++) {
            belay_fake_advance(stage->world, MS);
            dispatch(stage);
            for (int i = 0; i < CLIENTS; i++) {
                if (answers[i].count != 1 || answers[i].lock == NULL) continue;
                assert_status(answers[i].status, BELAY_OK);
                assert_int_equal(inside++, 0);
                if (won++ == 0) first_ns = now_of(stage) - began;
                assert_true(ours_is_quorum(stage, answers[i].lock));
                assert_int_equal(belay_release_start(answers[i].lock, answered, &answers[i], NULL,
                                                     NULL),
                                 BELAY_OK);
                answers[i].lock = NULL;
                inside--;
            }
        }
        assert_int_equal(won, CLIENTS);
        assert_true(first_ns < 1000 * MS);
        pass(stage, 50);
        assert_int_equal(nodes_total(stage), 0);
        assert_int_equal(nodes_open(), 0);
        stage_close(stage);
    }
}

/* Two attempts of one wait are open at one node when the wait ends: each may hang it up there. */
static void a_wait_that_has_ended_hangs_nowhere(void **state)
{
    struct stage *stage = *state;
    for (int ms = 30; ms < 90; ms += 3) {
        struct answer answer;
        nodes_reset();
        belay *client = stage_open(stage, 0, 3, "node_timeout = \"100ms\";", "");
        for (int i = 0; i < 3; i++) {
            nodes[i].fate[BELAY_VERB_ACQUIRE] = FATE_SLOW;
            nodes[i].slow_ms = i < 2 ? 1 : ms;
            node_put(&nodes[i], "t:x", "another", now_of(stage),
                     now_of(stage) + (i < 2 ? 8 : 5000) * MS);
        }
        begin(client, "x", TTL_MS, 5000, &answer);
        while (answer.count == 0) pass(stage, 1);
        assert_status(answer.status, BELAY_OK);
        pass(stage, 600);
        assert_int_equal(belay_release(answer.lock, NULL), BELAY_OK);
        stage_close(stage);
    }
}

/* ------------------------------------------------------------------ nodes that forgot (29) */

/* A holds two of three; one of the two is restarted, empty. */
static belay_lock *two_of_three(struct stage *stage, const char *keys, int which_restarts)
{
    stage_open(stage, 0, 3, keys, "");
    stage_open(stage, 1, 3, keys, "");
    node_set(&nodes[2], FATE_GONE);
    belay_lock *lock = must_take(stage->clients[0], "x", TTL_MS, BELAY_KEEP_OFF);
    node_set(&nodes[2], FATE_DONE);
    node_restart(stage, &nodes[which_restarts]);
    return lock;
}

static void a_node_that_forgot_does_not_vote(void **state)
{
    struct stage *stage = *state;
    for (int which = 0; which < 2; which++) {
        belay_lock *other;
        nodes_reset();
        belay_lock *lock = two_of_three(stage, "max_ttl = \"20s\";", which);
        int64_t restarted = now_of(stage);
        belay_status status = BELAY_HELD;
        while (status != BELAY_OK) {
            status = try_for(stage->clients[1], "x", TTL_MS, &other);
            assert_false(status == BELAY_OK && belay_lock_valid(lock, 0));
            if (status != BELAY_OK) assert_true(is_refusal(status));
            if (status != BELAY_OK) assert_int_equal(nodes_with(stage, "t:x", NULL), 1);
            if (status == BELAY_OK) break;
            pass(stage, 100);
            assert_true(now_of(stage) < restarted + 30000 * MS);
        }
        assert_int_equal(belay_release(other, NULL), BELAY_OK);
        (void)belay_release(lock, NULL);
        pass(stage, 1000);
        assert_int_equal(nodes_total(stage), 0);
        /* Two that vote are enough; the third does again when every lock from before has ended. */
        int asked = nodes[which].count[BELAY_VERB_ACQUIRE];
        other = must_take(stage->clients[1], "x", TTL_MS, BELAY_KEEP_OFF);
        assert_int_equal(nodes[which].count[BELAY_VERB_ACQUIRE], asked);
        assert_int_equal(belay_release(other, NULL), BELAY_OK);
        jump(stage, (restarted - now_of(stage)) / MS + 20000 + 2001);
        other = must_take(stage->clients[1], "x", TTL_MS, BELAY_KEEP_OFF);
        assert_int_equal(nodes[which].count[BELAY_VERB_ACQUIRE], asked + 1);
        assert_int_equal(belay_release(other, NULL), BELAY_OK);
        stage_close(stage);
    }
}

/* What the quarantine is for: without it there are two. */
static void without_the_quarantine_there_are_two_holders(void **state)
{
    struct stage *stage = *state;
    belay_lock *lock = two_of_three(stage, "quarantine = false;", 1), *other;
    assert_status(try_for(stage->clients[1], "x", TTL_MS, &other), BELAY_OK);
    assert_true(belay_lock_valid(lock, 0) && belay_lock_valid(other, 0));
    assert_int_equal(belay_release(other, NULL), BELAY_OK);
    (void)belay_release(lock, NULL);
}

static void two_of_three_that_forgot_give_nothing(void **state)
{
    struct stage *stage = *state;
    belay_lock *lock = two_of_three(stage, "max_ttl = \"20s\";", 0), *other;
    node_restart(stage, &nodes[1]);
    for (int i = 0; i < 40; i++) {
        assert_int_not_equal(try_for(stage->clients[1], "x", TTL_MS, &other), BELAY_OK);
        assert_int_equal(nodes_total(stage), 0);
        pass(stage, 500);
    }
    (void)belay_release(lock, NULL);
    pass(stage, 2100);
    other = must_take(stage->clients[1], "x", TTL_MS, BELAY_KEEP_OFF);
    assert_int_equal(belay_release(other, NULL), BELAY_OK);
}

static void the_holder_puts_its_lock_back(void **state)
{
    struct stage *stage = *state;
    belay_lock *other;
    belay *client = stage_open(stage, 0, 3, "", "");
    stage_open(stage, 1, 3, "", "");
    belay_lock *lock = must_take(client, "x", TTL_MS, BELAY_KEEP_OFF);
    node_restart(stage, &nodes[1]);
    nodes[1].fate[BELAY_VERB_EXTEND] = FATE_FORGOTTEN;
    assert_int_equal(nodes_with(stage, "t:x", belay_lock_owner(lock)), 2);
    assert_int_equal(belay_extend(lock, 0, NULL), BELAY_OK);
    dispatch(stage);
    assert_int_equal(nodes_with(stage, "t:x", belay_lock_owner(lock)), 3);
    assert_true(nodes[1].fence >= belay_lock_token(lock));
    /* From now on it stands for the lock as the others do. */
    nodes[1].fate[BELAY_VERB_EXTEND] = FATE_DONE;
    node_set(&nodes[0], FATE_GONE);
    assert_int_equal(belay_extend(lock, 0, NULL), BELAY_OK);
    node_set(&nodes[0], FATE_DONE);
    assert_int_not_equal(try_for(stage->clients[1], "x", TTL_MS, &other), BELAY_OK);
    assert_int_equal(belay_release(lock, NULL), BELAY_OK);
    assert_int_equal(nodes_total(stage), 0);
}

/* A repair is under way, and another verb comes. */
static void a_repair_leaves_nothing_behind(void **state)
{
    struct stage *stage = *state;
    for (int way = 0; way < 4; way++) {
        nodes_reset();
        belay *client = stage_open(stage, 0, 3, "", "");
        belay_lock *lock = must_take(client, "x", TTL_MS, BELAY_KEEP_OFF);
        node_restart(stage, &nodes[1]);
        nodes[1].fate[BELAY_VERB_EXTEND] = FATE_FORGOTTEN;
        nodes[1].fate[BELAY_VERB_ACQUIRE] = FATE_SILENT;
        assert_int_equal(belay_extend(lock, 0, NULL), BELAY_OK);
        dispatch(stage);
        assert_int_equal(nodes[1].open_count, 1);
        nodes[1].deaf = way == 1;
        if (way == 2) { /* lost meanwhile */
            node_lose(client, &nodes[0], BELAY_LOST);
            node_lose(client, &nodes[2], BELAY_LOST);
            assert_false(belay_lock_valid(lock, 0));
        }
        if (way != 3) (void)belay_release(lock, NULL);
        if (way == 1) node_settle(client, &nodes[1], true);
        dispatch(stage);
        nodes[1].deaf = false;
        stage_close(stage);
        if (way == 3) (void)belay_release(lock, NULL);
        assert_int_equal(nodes_open(), 0);
        assert_int_equal(nodes_total(stage), 0);
    }
}

/* ------------------------------------------------------------------ few are reached (30) */

static void an_extension_of_a_minority_leaves_the_deadline(void **state)
{
    struct stage *stage = *state;
    static const enum fate ways[] = { FATE_GONE, FATE_BUSY, FATE_SILENT, FATE_UNHEARD };
    for (size_t i = 0; i < sizeof ways / sizeof ways[0]; i++)
        for (int count = 2; count <= NODES; count++) {
            nodes_reset();
            belay *client = stage_open(stage, 0, count, "", "");
            belay_lock *lock = must_take(client, "x", TTL_MS, BELAY_KEEP_OFF);
            pass(stage, 1000);
            int64_t before = belay_lock_remaining_ms(lock);
            int64_t at = now_of(stage);
            for (int j = 0; j < count - stage->quorum + 1; j++) node_set(&nodes[j], ways[i]);
            belay_status status = belay_extend(lock, 0, NULL);
            assert_true(status == BELAY_UNAVAILABLE || status == BELAY_UNCERTAIN);
            assert_int_equal(belay_lock_remaining_ms(lock), before - (now_of(stage) - at) / MS);
            for (int j = 0; j < count; j++) node_set(&nodes[j], FATE_DONE);
            assert_int_equal(belay_extend(lock, 0, NULL), BELAY_OK);
            assert_true(belay_lock_remaining_ms(lock) > before);
            assert_int_equal(nodes_count(BELAY_VERB_RELEASE), 0);
            assert_int_equal(belay_release(lock, NULL), BELAY_OK);
            pass(stage, 2000);
            assert_int_equal(nodes_total(stage), 0);
            stage_close(stage);
        }
}

static void a_kept_lock_is_tried_again_until_its_deadline(void **state)
{
    struct stage *stage = *state;
    static const enum fate ways[] = { FATE_GONE, FATE_BUSY, FATE_SILENT, FATE_UNHEARD };
    for (size_t i = 0; i < sizeof ways / sizeof ways[0]; i++) {
        nodes_reset();
        belay *client = stage_open(stage, 0, 5, "", "");
        belay_lock *lock = must_take(client, "x", TTL_MS, BELAY_KEEP_ON);
        int lost = stage->lost;
        int64_t end = now_of(stage) + belay_lock_remaining_ms(lock) * MS;
        for (int j = 0; j < 3; j++) node_set(&nodes[j], ways[i]);
        while (belay_lock_valid(lock, 0)) {
            assert_int_equal(stage->lost, lost);
            pass(stage, 5);
        }
        assert_true(now_of(stage) >= end && now_of(stage) <= end + 10 * MS);
        assert_int_equal(stage->lost, lost + 1);
        assert_true(nodes[0].count[BELAY_VERB_EXTEND] > 5);
        assert_int_equal(nodes_count(BELAY_VERB_RELEASE), 0);
        for (int j = 0; j < 3; j++) node_set(&nodes[j], FATE_DONE);
        pass(stage, 1000);
        assert_int_equal(nodes_count(BELAY_VERB_RELEASE), 0); /* it is the holder's to release */
        assert_status(belay_release(lock, NULL), BELAY_LOST);
        pass(stage, 1000);
        assert_int_equal(nodes_total(stage), 0);
        stage_close(stage);
    }
}

static void a_kept_lock_survives_what_ends_before_its_deadline(void **state)
{
    struct stage *stage = *state;
    belay *client = stage_open(stage, 0, 5, "", "");
    belay_lock *lock = must_take(client, "x", TTL_MS, BELAY_KEEP_ON);
    for (int i = 0; i < 20; i++) {
        static const enum fate ways[] = { FATE_GONE, FATE_SILENT, FATE_UNHEARD };
        for (int j = 0; j < 3; j++) node_set(&nodes[(i + j) % 5], ways[(i + j) % 3]);
        pass(stage, 5000);
        for (int j = 0; j < 5; j++) node_set(&nodes[j], FATE_DONE);
        pass(stage, 4000);
        assert_true(belay_lock_valid(lock, 0));
        assert_true(ours_is_quorum(stage, lock));
    }
    assert_int_equal(stage->lost, 0);
    assert_int_equal(belay_release(lock, NULL), BELAY_OK);
    pass(stage, 1000);
    assert_int_equal(nodes_total(stage), 0);
}

/* A quorum that says it is not ours ends it; fewer do not, whatever the others say. */
static void only_a_quorum_can_say_that_it_is_lost(void **state)
{
    struct stage *stage = *state;
    for (int count = 1; count <= NODES; count++)
        for (int gone = 0; gone <= count; gone++) {
            nodes_reset();
            belay *client = stage_open(stage, 0, count, "", "");
            belay_lock *lock = must_take(client, "x", TTL_MS, BELAY_KEEP_OFF);
            for (int i = 0; i < gone; i++) memset(nodes[i].locks, 0, sizeof nodes[i].locks);
            belay_status status = belay_extend(lock, 0, NULL);
            if (count - gone >= stage->quorum) assert_status(status, BELAY_OK);
            else assert_status(status, BELAY_LOST);
            assert_true(belay_lock_valid(lock, 0) == (status == BELAY_OK));
            (void)belay_release(lock, NULL);
            pass(stage, 200);
            assert_int_equal(nodes_total(stage), 0);
            stage_close(stage);
        }
}

/* ------------------------------------------------------------------ what is told of it */

/* Any set of nodes tells, one by one, with a lock at rest, while it is extended, while it is
 * released: it is lost exactly when too few are left. */
static void too_few_places_are_a_loss_and_enough_are_not(void **state)
{
    struct stage *stage = *state;
    static const belay_status told[] = { BELAY_LOST, BELAY_UNCERTAIN };
    for (int set = 0; set < 32; set++)
        for (int moment = 0; moment < 3; moment++) {
            struct answer answer = { 0 };
            int left = NODES;
            nodes_reset();
            belay *client = stage_open(stage, 0, NODES, "", "");
            belay_lock *lock = must_take(client, "x", TTL_MS, BELAY_KEEP_OFF);
            for (int i = 0; i < NODES && moment > 0; i++) node_set(&nodes[i], FATE_SLOW);
            if (moment == 1)
                assert_int_equal(belay_extend_start(lock, 0, answered, &answer, NULL, NULL),
                                 BELAY_OK);
            if (moment == 2)
                assert_int_equal(belay_release_start(lock, answered, &answer, NULL, NULL),
                                 BELAY_OK);
            dispatch(stage);
            for (int i = 0; i < NODES; i++) {
                if ((set >> i & 1) == 0) continue;
                node_lose(client, &nodes[i], told[(set + i) % 2]);
                left--;
                if (moment < 2) assert_true(belay_lock_valid(lock, 0) == (left >= 3));
            }
            pass(stage, 100);
            assert_int_equal(answer.count, moment > 0);
            if (moment == 1) assert_status(answer.status, left >= 3 ? BELAY_OK : BELAY_LOST);
            if (moment == 1 && left >= 3) assert_true(ours_is_quorum(stage, lock));
            if (moment == 2) assert_status(answer.status, left >= 3 ? BELAY_OK : BELAY_LOST);
            for (int i = 0; i < NODES; i++) node_set(&nodes[i], FATE_DONE);
            if (moment < 2)
                assert_status(belay_release(lock, NULL), left >= 3 ? BELAY_OK : BELAY_LOST);
            pass(stage, 100);
            assert_int_equal(nodes_total(stage), 0);
            stage_close(stage);
        }
}

/* The same, at any moment of a vote that takes its time. */
static void what_is_told_during_a_vote_counts(void **state)
{
    struct stage *stage = *state;
    for (int number = 0; number < 4 * 4 * 4 * 2; number++) {
        struct answer answer;
        int at[3], rest = number;
        nodes_reset();
        belay *client = stage_open(stage, 0, 3, "", "");
        for (int i = 0; i < 3; i++, rest /= 4) {
            at[i] = rest % 4; /* when it is told: never, at 5, 15, 25 ms */
            nodes[i].fate[BELAY_VERB_ACQUIRE] = FATE_SLOW;
            nodes[i].slow_ms = 10 * i;
            nodes[i].fence = (uint64_t)belay_fake_wall(stage->world) / 16 + 1000 * (uint64_t)i;
            nodes[i].fate[BELAY_VERB_EXTEND] = FATE_SLOW;
        }
        begin(client, "x", TTL_MS, BELAY_TRY, &answer);
        for (int ms = 5; ms <= 120; ms += 5) {
            bool before = answer.count > 0;
            pass(stage, 5);
            if (answer.count > 0 && answer.status == BELAY_OK && !before)
                assert_true(ours_is_quorum(stage, answer.lock));
            for (int i = 0; i < 3; i++)
                if (at[i] > 0 && ms == 10 * at[i] - 5)
                    node_lose(client, &nodes[i], rest % 2 ? BELAY_LOST : BELAY_UNCERTAIN);
            if (answer.count > 0 && answer.status == BELAY_OK &&
                !ours_is_quorum(stage, answer.lock))
                assert_false(belay_lock_valid(answer.lock, 0) && nodes_open() == 0);
        }
        assert_int_equal(answer.count, 1);
        for (int i = 0; i < 3; i++) node_set(&nodes[i], FATE_DONE);
        if (answer.lock != NULL) {
            if (belay_lock_valid(answer.lock, 0)) assert_true(ours_is_quorum(stage, answer.lock));
            else assert_int_not_equal(number % 64, 0); /* some were told */
            (void)belay_release(answer.lock, NULL);
        }
        pass(stage, 600);
        assert_int_equal(nodes_total(stage), 0);
        stage_close(stage);
    }
}

/* ------------------------------------------------------------------ ended in the middle */

/* Every call's life: a vote with a raise, a straggler and a silent one; an extension with a repair;
 * a release. `end` ends it after so many steps of 5 ms; the number of steps is returned. */
enum ending { CANCEL, CLOSE, CLOSE_SOON };

static int life(struct stage *stage, int steps, enum ending ending)
{
    struct answer answer = { 0 }, more = { 0 };
    belay_request *request = NULL;
    belay_options options = options_of(TTL_MS, 2000, BELAY_KEEP_ON);
    int step = 0;
    nodes_reset();
    uint64_t base = (uint64_t)belay_fake_wall(stage->world) / 16;
    belay *client =
        stage_open(stage, 0, NODES,
                   ending == CLOSE_SOON ? "node_timeout = \"20s\"; timeout = \"40s\";" : "",
                   ending == CLOSE_SOON ? "close_timeout = \"10ms\";" : "");
    for (int i = 0; i < NODES; i++) {
        nodes[i].slow_ms = 10 * (i + 1);
        nodes[i].fence = base + (uint64_t)(100000 * i);
        node_set(&nodes[i], FATE_SLOW);
    }
    nodes[3].slow_ms = 70; /* joins */
    nodes[4].fate[BELAY_VERB_ACQUIRE] = FATE_SILENT;
    nodes[4].fate[BELAY_VERB_RELEASE] = FATE_SILENT;
#define STEP                                                                                       \
    do {                                                                                           \
        if (step++ >= steps) goto out;                                                             \
        pass(stage, 5);                                                                            \
    } while (0)
    assert_int_equal(belay_acquire_start(client, "x", &options, answered, &answer, &request, NULL),
                     BELAY_OK);
    while (answer.count == 0) STEP;
    assert_status(answer.status, BELAY_OK);
    for (int i = 0; i < 10; i++) STEP;
    belay_request_free(request);
    request = NULL;
    nodes[2].fate[BELAY_VERB_EXTEND] = FATE_FORGOTTEN;
    if (ending == CLOSE_SOON) nodes[0].fate[BELAY_VERB_EXTEND] = FATE_SILENT;
    assert_int_equal(belay_extend_start(answer.lock, 0, answered, &more, &request, NULL), BELAY_OK);
    for (int i = 0; i < 30; i++) STEP;
    belay_request_free(request);
    request = NULL;
    assert_int_equal(belay_release_start(answer.lock, answered, &more, &request, NULL), BELAY_OK);
    answer.lock = NULL;
    for (int i = 0; i < 30; i++) STEP;
#undef STEP
out:
    if (ending == CANCEL) {
        if (request != NULL) belay_request_cancel(request);
        pass(stage, 10);
        if (answer.count > 0 && answer.lock != NULL) (void)belay_release(answer.lock, NULL);
        answer.lock = NULL;
        for (int i = 0; i < NODES; i++) node_set(&nodes[i], FATE_DONE);
        pass(stage, 1500);
        assert_int_equal(nodes_total(stage), 0);
    }
    for (int i = 0; i < NODES && ending == CLOSE; i++)
        nodes[i].fate[BELAY_VERB_RELEASE] = FATE_DONE;
    stage_close(stage);
    if (answer.lock != NULL) assert_status(belay_release(answer.lock, NULL), BELAY_CLOSED);
    if (request != NULL) belay_request_free(request);
    if (ending != CLOSE_SOON) assert_int_equal(nodes_total(stage), 0);
    assert_int_equal(nodes_open(), 0);
    for (int i = 0; i < NODES; i++) assert_true(belay_links_empty(&nodes[i].grants));
    return step;
}

static void a_call_may_be_canceled_at_any_step(void **state)
{
    for (int n = 0; life(*state, n, CANCEL) > n; n++) continue;
}

static void a_client_may_be_closed_at_any_step(void **state)
{
    for (int n = 0; life(*state, n, CLOSE) > n; n++) continue;
}

static void a_client_may_be_closed_while_a_node_keeps_silent(void **state)
{
    for (int n = 0; life(*state, n, CLOSE_SOON) > n; n++) continue;
}

/* The node speaks when the lock is released, forgotten, the client about to close. */
static void stragglers_find_nothing_to_break(void **state)
{
    struct stage *stage = *state;
    for (int way = 0; way < 4; way++) {
        char owner[BELAY_OWNER_LENGTH + 1];
        nodes_reset();
        belay *client = stage_open(stage, 0, 3, "", "");
        nodes[2].fate[BELAY_VERB_ACQUIRE] = FATE_SILENT;
        nodes[2].deaf = true;
        belay_lock *lock = must_take(client, "x", TTL_MS, BELAY_KEEP_OFF);
        snprintf(owner, sizeof owner, "%s", belay_lock_owner(lock));
        pass(stage, way == 3 ? 400 : 60);
        if (way == 0 || way == 3) assert_int_equal(belay_release(lock, NULL), BELAY_OK);
        if (way == 1) belay_forget(lock);
        if (way == 2) {
            node_lose(client, &nodes[0], BELAY_LOST);
            node_lose(client, &nodes[1], BELAY_UNCERTAIN);
            assert_status(belay_release(lock, NULL), BELAY_LOST);
        }
        dispatch(stage);
        node_settle(client, &nodes[2], true);
        dispatch(stage);
        nodes[2].deaf = false;
        /* Forgotten: it is left on purpose, as a lock is, until its TTL. */
        assert_int_equal(nodes_with(stage, "t:x", owner), way == 1 ? 3 : 0);
        stage_close(stage);
    }
}

/* ------------------------------------------------------------------ memory */

static belay_status allowed(belay_status status)
{
    bool known = status == BELAY_OK || status == BELAY_NOMEM || status == BELAY_UNAVAILABLE ||
                 status == BELAY_UNCERTAIN || status == BELAY_HELD;
    if (!known) fail_msg("%s", belay_status_name(status));
    return status;
}

static bool see(void *arg, const belay_info *info)
{
    (void)info;
    ++*(int *)arg;
    return true;
}

static void find(void *arg, const belay_finding *finding)
{
    (void)finding;
    ++*(int *)arg;
}

static void every_allocation_may_fail(void **state)
{
    struct stage *stage = *state;
    for (uint64_t n = 1;; n++) {
        uint64_t refused = belay_fake_refused(stage->world);
        belay_lock *lock = NULL, *adopted = NULL;
        belay_info info = { .size = sizeof info };
        belay_options options = options_of(TTL_MS, BELAY_TRY, BELAY_KEEP_OFF);
        belay_options waits = options_of(TTL_MS, 100, BELAY_KEEP_OFF);
        int seen = 0;
        nodes_reset();
        stage_open(stage, 0, 3, "", "");
        stage_open(stage, 1, 3, "", "");
        nodes[1].fence = (uint64_t)belay_fake_wall(stage->world) / 16 + 1000000;
        belay_fake_fail_alloc(stage->world, n);
        allowed(belay_acquire(stage->clients[0], "x", &options, &lock, NULL));
        if (lock != NULL) {
            char owner[BELAY_OWNER_LENGTH + 1];
            snprintf(owner, sizeof owner, "%s", belay_lock_owner(lock));
            nodes[1].fate[BELAY_VERB_EXTEND] = FATE_FORGOTTEN;
            allowed(belay_extend(lock, 0, NULL));
            nodes[1].fate[BELAY_VERB_EXTEND] = FATE_DONE;
            dispatch(stage);
            assert_true(belay_lock_valid(lock, 0));
            belay_lock *second = NULL;
            belay_status status =
                allowed(belay_acquire(stage->clients[1], "x", &waits, &second, NULL));
            assert_int_not_equal(status, BELAY_OK);
            allowed(belay_inspect(stage->clients[1], "x", &info, NULL));
            allowed(belay_list(stage->clients[1], NULL, see, &seen, NULL));
            allowed(belay_diagnose(stage->clients[1], find, &seen, NULL));
            if (allowed(belay_adopt(stage->clients[1], "x", owner, &options, &adopted, NULL)) ==
                BELAY_OK)
                belay_forget(adopted);
            allowed(belay_release(lock, NULL));
        }
        pass(stage, 1500);
        assert_int_equal(nodes_total(stage), 0);
        assert_int_equal(nodes_open(), 0);
        belay_fake_fail_alloc(stage->world, 0);
        stage_close(stage);
        if (belay_fake_refused(stage->world) == refused) {
            assert_true(n > 10);
            break;
        }
    }
}

/* ------------------------------------------------------------------ looking */

static void put(struct stage *stage, int node, const char *name, const char *owner)
{
    struct node_lock *lock =
        node_put(&nodes[node], name, owner, now_of(stage), now_of(stage) + 5000 * MS);
    lock->token = (uint64_t)(node + 1);
}

static const char A[] = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
                  B[] = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

static void the_holder_is_whoever_has_a_quorum(void **state)
{
    struct stage *stage = *state;
    belay_info info = { .size = sizeof info };
    belay *client = stage_open(stage, 0, 5, "", "");
    for (int i = 0; i < 3; i++) put(stage, i, "t:x", A);
    for (int i = 3; i < 5; i++) put(stage, i, "t:x", B);
    assert_int_equal(belay_inspect(client, "x", &info, NULL), BELAY_OK);
    assert_true(info.held);
    assert_string_equal(info.owner, A);
    assert_int_equal(info.token, 3);
    /* Nobody has one: it is free, though two are in the middle of their votes. */
    memset(nodes[0].locks, 0, sizeof nodes[0].locks);
    assert_int_equal(belay_inspect(client, "x", &info, NULL), BELAY_OK);
    assert_false(info.held);
    /* Three that are silent say nothing. */
    for (int i = 2; i < 5; i++) node_set(&nodes[i], FATE_SILENT);
    assert_status(belay_inspect(client, "x", &info, NULL), BELAY_UNAVAILABLE);
}

static bool remember(void *arg, const belay_info *info)
{
    char *names = arg;
    snprintf(names + strlen(names), 64, "%s ", info->name);
    return true;
}

static void a_list_names_what_is_held_once(void **state)
{
    struct stage *stage = *state;
    char names[256] = "";
    belay *client = stage_open(stage, 0, 3, "", "");
    belay_lock *one = must_take(client, "one", TTL_MS, BELAY_KEEP_OFF);
    belay_lock *two = must_take(client, "two", TTL_MS, BELAY_KEEP_OFF);
    assert_int_equal(belay_list(client, NULL, remember, names, NULL), BELAY_OK);
    assert_string_equal(names, "one two ");
    node_set(&nodes[1], FATE_GONE);
    names[0] = '\0';
    assert_int_equal(belay_list(client, NULL, remember, names, NULL), BELAY_OK);
    assert_string_equal(names, "one two ");
    node_set(&nodes[2], FATE_SILENT);
    assert_status(belay_list(client, NULL, remember, names, NULL), BELAY_UNAVAILABLE);
    node_set(&nodes[1], FATE_DONE);
    node_set(&nodes[2], FATE_DONE);
    assert_int_equal(belay_release(one, NULL), BELAY_OK);
    assert_int_equal(belay_release(two, NULL), BELAY_OK);
}

static void a_break_reaches_every_node(void **state)
{
    struct stage *stage = *state;
    belay_info info = { .size = sizeof info };
    belay *client = stage_open(stage, 0, 3, "", "");
    belay_lock *lock = must_take(client, "x", TTL_MS, BELAY_KEEP_OFF);
    assert_int_equal(belay_inspect(client, "x", &info, NULL), BELAY_OK);
    assert_int_equal(belay_break(client, "x", &info, NULL), BELAY_OK);
    assert_int_equal(nodes_total(stage), 0);
    assert_status(belay_break(client, "x", &info, NULL), BELAY_LOST);
    assert_status(belay_extend(lock, 0, NULL), BELAY_LOST);
    assert_status(belay_release(lock, NULL), BELAY_LOST);
    /* Another's lock is left alone. */
    for (int i = 0; i < 3; i++) put(stage, i, "t:x", B);
    assert_status(belay_break(client, "x", &info, NULL), BELAY_LOST);
    assert_int_equal(nodes_with(stage, "t:x", B), 3);
}

static void an_adopted_lock_needs_a_quorum_and_leaves_nothing(void **state)
{
    struct stage *stage = *state;
    belay_options options = options_of(TTL_MS, BELAY_TRY, BELAY_KEEP_OFF);
    belay_lock *lock = NULL;
    belay *client = stage_open(stage, 0, 3, "", "");
    put(stage, 0, "t:x", A);
    assert_status(belay_adopt(client, "x", A, &options, &lock, NULL), BELAY_LOST);
    put(stage, 1, "t:x", A);
    put(stage, 2, "t:x", A);
    assert_int_equal(belay_adopt(client, "x", A, &options, &lock, NULL), BELAY_OK);
    node_set(&nodes[2], FATE_SILENT);
    assert_int_equal(belay_extend(lock, 0, NULL), BELAY_OK);
    assert_int_equal(belay_release(lock, NULL), BELAY_OK);
    node_set(&nodes[2], FATE_DONE);
    pass(stage, 2000);
    assert_int_equal(nodes_total(stage), 0); /* also where it was not reached at first */
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, stage_setup, stage_teardown)
    const struct CMUnitTest tests[] = {
        TEST(a_split_vote_ends_soon),
        TEST(a_wait_that_has_ended_hangs_nowhere),
        TEST(a_node_that_forgot_does_not_vote),
        TEST(without_the_quarantine_there_are_two_holders),
        TEST(two_of_three_that_forgot_give_nothing),
        TEST(the_holder_puts_its_lock_back),
        TEST(a_repair_leaves_nothing_behind),
        TEST(an_extension_of_a_minority_leaves_the_deadline),
        TEST(a_kept_lock_is_tried_again_until_its_deadline),
        TEST(a_kept_lock_survives_what_ends_before_its_deadline),
        TEST(only_a_quorum_can_say_that_it_is_lost),
        TEST(too_few_places_are_a_loss_and_enough_are_not),
        TEST(what_is_told_during_a_vote_counts),
        TEST(a_call_may_be_canceled_at_any_step),
        TEST(a_client_may_be_closed_at_any_step),
        TEST(a_client_may_be_closed_while_a_node_keeps_silent),
        TEST(stragglers_find_nothing_to_break),
        TEST(every_allocation_may_fail),
        TEST(the_holder_is_whoever_has_a_quorum),
        TEST(a_list_names_what_is_held_once),
        TEST(a_break_reaches_every_node),
        TEST(an_adopted_lock_needs_a_quorum_and_leaves_nothing),
    };

    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
