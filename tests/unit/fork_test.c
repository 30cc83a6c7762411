/* fork_test.c - a forked child gets FORKED from every call, touches nothing, and harms nobody:
 * FAULTS row 45. */
#define _GNU_SOURCE
#include "tests/unit/engine_help.h"

#include <fcntl.h>

struct family {
    belay *client;
    belay_lock *lock;
    belay_cancel *cancel;
};

static void never(void *arg, belay_status status, belay_lock *lock, const belay_error *err)
{
    (void)status, (void)lock, (void)err;
    atomic_fetch_add((atomic_int *)arg, 1);
}

static bool list_none(void *arg, const belay_info *info)
{
    (void)arg, (void)info;
    return true;
}

static void find_none(void *arg, const belay_finding *finding)
{
    (void)arg, (void)finding;
}

/* How many calls did not say FORKED, by bits. */
static int child_calls_everything(void *arg)
{
    struct family *family = arg;
    belay *client = family->client;
    belay_lock *lock = NULL;
    belay_request *request = NULL;
    belay_info info = { .size = sizeof info,
                        .held = true,
                        .owner = "0123456789abcdef0123456789abcdef" };
    int calls = script_count(0), wrong = 0;
    atomic_int answers = 0;
    wrong += belay_acquire(client, "b", NULL, &lock, NULL) != BELAY_FORKED;
    wrong +=
        belay_acquire_start(client, "b", NULL, never, &answers, &request, NULL) != BELAY_FORKED;
    wrong += belay_adopt(client, "a", info.owner, NULL, &lock, NULL) != BELAY_FORKED;
    wrong += belay_ready(client, NULL) != BELAY_FORKED;
    wrong += belay_inspect(client, "a", &info, NULL) != BELAY_FORKED;
    info.held = true;
    wrong += belay_list(client, NULL, list_none, NULL, NULL) != BELAY_FORKED;
    wrong += belay_break(client, "a", &info, NULL) != BELAY_FORKED;
    wrong += belay_diagnose(client, find_none, NULL, NULL) != BELAY_FORKED;
    wrong += belay_dispatch(client) != BELAY_FORKED;
    wrong += belay_fd(client) != -1;
    wrong += belay_lock_valid(family->lock, 0);
    wrong += belay_lock_remaining_ms(family->lock) != 0;
    wrong += belay_extend(family->lock, 0, NULL) != BELAY_FORKED;
    wrong += belay_extend_start(family->lock, 0, never, &answers, NULL, NULL) != BELAY_FORKED;
    wrong += belay_release_start(family->lock, never, &answers, NULL, NULL) != BELAY_FORKED;
    belay_forget(family->lock);
    wrong += belay_release(family->lock, NULL) != BELAY_FORKED;
    wrong += lock != NULL || request != NULL || atomic_load(&answers) != 0;
    wrong += script_count(0) != calls; /* no I/O */
    belay_close(client);
    wrong += script_destroyed() != 0;
    return wrong;
}

static int setup(void **state)
{
    script_reset();
    *state = help_open("", NULL);
    return *state == NULL ? -1 : 0;
}

static int teardown(void **state)
{
    belay_close(*state);
    return 0;
}

static void a_child_gets_forked_from_every_call_and_the_parent_goes_on(void **state)
{
    struct family family = { .client = *state };
    belay_options options = BELAY_OPTIONS_INIT;
    options.ttl_ms = 200;
    assert_int_equal(belay_acquire(family.client, "a", &options, &family.lock, NULL), BELAY_OK);

    assert_int_equal(help_fork(child_calls_everything, &family), 0);

    /* Nothing was released, extensions go on, and the epoll the child shared still has its timer.
     */
    assert_int_equal(script_count(BELAY_VERB_RELEASE), 0);
    int extended = script_count(BELAY_VERB_EXTEND);
    assert_true(eventually(script_count(BELAY_VERB_EXTEND) >= extended + 3));
    assert_true(belay_lock_valid(family.lock, 0));
    assert_int_equal(belay_release(family.lock, NULL), BELAY_OK);
}

static int child_closes_and_counts(void *arg)
{
    struct family *family = arg;
    int before = help_fds();
    belay_close(family->client);
    int closed = before - help_fds();
    if (closed < 4) return 1; /* epoll, timer, two eventfds */
    /* Its numbers are given out anew; what the program owns must not be among them. */
    int fds[32];
    for (int i = 0; i < 32; i++) fds[i] = open("/dev/null", O_RDONLY | O_CLOEXEC);
    belay_cancel_free(family->cancel);
    for (int i = 0; i < 32; i++)
        if (fcntl(fds[i], F_GETFD) < 0) return 2;
    return 0;
}

static void a_childs_close_closes_the_clients_descriptors_and_not_the_programs(void **state)
{
    struct family family = { .client = *state, .cancel = belay_cancel_new() };
    struct caller blocked = { .options.cancel = family.cancel };
    script_add(BELAY_VERB_ACQUIRE,
               (struct script_reply){ .how = SCRIPT_NOW, .status = BELAY_HELD });
    caller_acquire(&blocked, family.client, "a", BELAY_FOREVER);
    assert_true(eventually(script_count(BELAY_VERB_ACQUIRE) == 1));
    for (int i = 0; i < 20; i++) help_pause();

    assert_int_equal(help_fork(child_closes_and_counts, &family), 0);

    assert_false(atomic_load(&blocked.ended));
    belay_cancel_fire(family.cancel); /* the parent's watch is whole */
    assert_true(caller_end(&blocked));
    assert_int_equal(blocked.status, BELAY_CANCELED);
    belay_cancel_free(family.cancel);
}

static int child_opens_its_own(void *arg)
{
    struct family *family = arg;
    belay_options options = BELAY_OPTIONS_INIT;
    belay_lock *lock;
    belay_close(family->client);
    belay *own = help_open_url("memory:", NULL);
    options.keep = BELAY_KEEP_OFF; /* TSan starts no thread in the child of threads */
    if (own == NULL || belay_acquire(own, "a", &options, &lock, NULL) != BELAY_OK) return 1;
    if (strcmp(belay_lock_owner(lock), belay_lock_owner(family->lock)) == 0) return 2;
    if (belay_release(lock, NULL) != BELAY_OK) return 3;
    belay_close(own);
    return 0;
}

static void a_child_may_open_a_client_of_its_own(void **state)
{
    struct family family = { .client = *state };
    assert_int_equal(belay_acquire(family.client, "a", NULL, &family.lock, NULL), BELAY_OK);
    assert_int_equal(help_fork(child_opens_its_own, &family), 0);
    assert_int_equal(belay_release(family.lock, NULL), BELAY_OK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_child_gets_forked_from_every_call_and_the_parent_goes_on,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(
            a_childs_close_closes_the_clients_descriptors_and_not_the_programs, setup, teardown),
        cmocka_unit_test_setup_teardown(a_child_may_open_a_client_of_its_own, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
