/* failure.c - when memory runs out, an argument is wrong, or the place does not answer: a clean
 * answer, a known state, and nothing left behind. */
#include "scene.h"

/* ------------------------------------------------------------------ arguments */

static void a_ready_client_says_so(struct scene *s)
{
    belay *a = client_of(s, BELAY_CONTRACT_FIRST);
    belay_error err = BELAY_ERROR_INIT;
    if (atomic_load(&s->failed)) return;
    must_be(s, belay_ready(a, &err), BELAY_OK, "ready");
    must_be(s, belay_ready(a, NULL), BELAY_OK, "ready without an error to fill");
}

static void wrong_options_are_invalid(struct scene *s)
{
    belay *a = client_of(s, BELAY_CONTRACT_FIRST);
    const char *name = name_of(s, "lock");
    if (atomic_load(&s->failed)) return;

    for (int i = 0; i < 6; i++) {
        belay_options wrong = lease_of(s, 10, BELAY_TRY);
        belay_lock *lock = NULL;
        belay_error err = BELAY_ERROR_INIT;
        struct call *call = call_new(s);
        if (i == 0) wrong.wait_ms = -3;
        if (i == 1) wrong.wait_ms = BELAY_WAIT_MAX_MS + 1;
        if (i == 2) wrong.keep_every_ms = wrong.ttl_ms + 1;
        if (i == 3) wrong.keep = (belay_keep)7;
        if (i == 4) wrong.at_least = (belay_scope)9;
        if (i == 5) wrong.also_pid = -1;
        if (i == 2) wrong.keep = BELAY_KEEP_ON;
        must(s, belay_acquire(a, name, &wrong, &lock, &err) == BELAY_INVALID && lock == NULL,
             "wrong option %d is not INVALID: %s", i, belay_status_name(err.status));
        must(s, err.text[0] != '\0', "wrong option %d without a text", i);
        must(s, belay_acquire_start(a, name, &wrong, call_fn, call, NULL, &err) == BELAY_INVALID,
             "wrong option %d of a started call is not INVALID", i);
        drive(s);
        must(s, !call_done(call), "a start that failed called back");
    }
    released(s, take(s, a, name, NULL), BELAY_OK);
}

/* ------------------------------------------------------------------ memory */

static bool clean(struct scene *s, belay_status status, const char *what)
{
    must(s, status == BELAY_OK || status == BELAY_NOMEM, "%s: %s, not OK or NOMEM", what,
         belay_status_name(status));
    return status == BELAY_OK;
}

/* A short life of a client, in which one allocation fails. */
static void live(struct scene *s, const char *name, const char *other)
{
    belay_open_options options = open_options(s);
    belay_options lease = lease_of(s, 100, BELAY_TRY), wait = lease_of(s, 100, units(s, 1));
    belay_error err = BELAY_ERROR_INIT;
    belay *client = NULL;
    belay_lock *lock = NULL, *second = NULL;
    lease.label = "a label";
    belay_status opened =
        s->target->open != NULL
            ? s->target->open(s->target->arg, BELAY_CONTRACT_FIRST, &options, &client, &err)
            : belay_open(&client, s->target->where, &options, &err);
    must(s, (opened == BELAY_OK) == (client != NULL), "open: %s", belay_status_name(opened));
    if (!clean(s, opened, "open")) return;
    s->clients[s->client_count++] = client;

    struct call *call = call_new(s);
    must(s, clean(s, belay_acquire(client, name, &lease, &lock, &err), "acquire") == (lock != NULL),
         "NOMEM with a lock");
    belay_status started = belay_acquire_start(client, other, &wait, call_fn, call, NULL, &err);
    if (clean(s, started, "acquire_start")) {
        clean(s, call_await(s, call), "a started acquire");
        second = call->lock;
    }
    if (lock != NULL) {
        clean(s, belay_extend(lock, units(s, 200), &err), "extend");
        must(s, belay_lock_valid(lock, 0), "a lock that could not be extended is not valid");
    }
    if (s->target->inspects) {
        belay_info info = { .size = sizeof info };
        clean(s, belay_inspect(client, name, &info, &err), "inspect");
    }
    belay_status went = lock != NULL ? belay_release(lock, &err) : BELAY_OK;
    must(s, went == BELAY_OK || went == BELAY_NOMEM || went == BELAY_UNAVAILABLE, "release: %s",
         belay_status_name(went));
    /* The second is left to close. */
    close_client(s, client);
    if (second != NULL) (void)belay_release(second, NULL);
}

/* FAULTS 53: every allocation in turn. */
static void an_allocation_that_fails_leaves_nothing(struct scene *s)
{
    enum { MOST = 3000, IN_A_ROW = 3 };
    belay *b = client_of(s, BELAY_CONTRACT_SECOND);
    const char *name = name_of(s, "lock"), *other = name_of(s, "other");
    int unharmed = 0; /* runs in a row without a failure: all were tried */
    for (uint64_t nth = 1; nth < MOST && unharmed < IN_A_ROW && !atomic_load(&s->failed); nth++) {
        uint64_t refused_before = belay_fake_refused(s->world);
        belay_fake_fail_alloc(s->world, nth);
        live(s, name, other);
        belay_fake_fail_alloc(s->world, 0);
        unharmed = belay_fake_refused(s->world) == refused_before ? unharmed + 1 : 0;

        int64_t before = now_of(s);
        struct taker takers[] = { { s, b, name, NULL }, { s, b, other, NULL } };
        for (int i = 0; i < 2; i++) {
            until(s, can_be_taken, &takers[i], "a lock after an allocation failed");
            released(s, takers[i].lock, BELAY_OK);
        }
        must(s, now_of(s) - before < (int64_t)units(s, 50) * NS_PER_MS, "a lock was left behind");
        if (atomic_load(&s->failed)) {
            size_t at = strlen(s->why);
            snprintf(s->why + at, sizeof s->why - at, " (allocation %llu)",
                     (unsigned long long)nth);
        }
    }
    must(s, unharmed == IN_A_ROW, "there is no end of allocations");
}

/* ------------------------------------------------------------------ a place that does not answer
 */

static void stopped(struct scene *s, bool stop)
{
    if (stop) s->target->stop(s->target->arg);
    else s->target->cont(s->target->arg);
}

static bool is_doubt(belay_status status)
{
    return status == BELAY_UNAVAILABLE || status == BELAY_UNCERTAIN;
}

static void a_stopped_place_answers_a_try_with_doubt(struct scene *s)
{
    belay *a = client_of(s, BELAY_CONTRACT_FIRST), *b = client_of(s, BELAY_CONTRACT_SECOND);
    const char *name = name_of(s, "lock");
    belay_options lease = lease_of(s, 1000, BELAY_TRY);
    belay_lock *lock = NULL;

    for (int i = 0; i < 3; i++) {
        stopped(s, true);
        belay_status status = take_status(s, a, name, &lease, &lock);
        must(s, is_doubt(status), "a try on a stopped place: %s", belay_status_name(status));
        stopped(s, false);
        struct taker taker = { s, b, name, NULL };
        until(s, can_be_taken, &taker, "the lock, when the place is back");
        released(s, taker.lock, BELAY_OK);
        released(s, take(s, a, name, NULL), BELAY_OK); /* without reopening */
    }
}

static void a_client_opens_while_the_place_is_stopped(struct scene *s)
{
    stopped(s, true);
    belay *a = client_of(s, BELAY_CONTRACT_FIRST);
    belay_lock *lock = NULL;
    belay_status status = take_status(s, a, name_of(s, "lock"), NULL, &lock);
    must(s, is_doubt(status), "a try on a stopped place: %s", belay_status_name(status));
    stopped(s, false);
    struct taker taker = { s, a, name_of(s, "lock"), NULL };
    until(s, can_be_taken, &taker, "the lock, when the place is back");
    released(s, taker.lock, BELAY_OK);
}

static void an_extension_in_doubt_leaves_the_deadline(struct scene *s)
{
    belay *a = client_of(s, BELAY_CONTRACT_FIRST);
    belay_options lease = lease_of(s, 100, BELAY_TRY);
    belay_lock *lock = take(s, a, name_of(s, "lock"), &lease);
    pass_units(s, 10);

    int64_t before_ms = belay_lock_remaining_ms(lock);
    stopped(s, true);
    belay_status status = lengthen(s, lock, units(s, 500));
    stopped(s, false);
    must(s, is_doubt(status), "extend on a stopped place: %s", belay_status_name(status));
    must(s, belay_lock_valid(lock, 0), "the doubt ended the lock");
    must(s, belay_lock_remaining_ms(lock) <= before_ms, "the doubt moved the deadline");
    extended(s, lock, 0, BELAY_OK);
    must(s, belay_lock_remaining_ms(lock) > before_ms, "the deadline did not move");
    released(s, lock, BELAY_OK);
}

static void a_kept_lock_outlives_a_short_stop(struct scene *s)
{
    belay *a = client_of(s, BELAY_CONTRACT_FIRST), *b = client_of(s, BELAY_CONTRACT_SECOND);
    const char *name = name_of(s, "lock");
    belay_options lease = lease_of(s, 24, BELAY_TRY);
    lease.keep = BELAY_KEEP_ON;
    struct kept kept = { take(s, a, name, &lease), units(s, 13) };

    for (int round = 0; round < 3 && !atomic_load(&s->failed); round++) {
        stopped(s, true);
        for (int i = 0; i < 12; i++) pass_units(s, 1); /* an extension fails */
        must(s, belay_lock_valid(kept.lock, 0), "half a TTL of silence ended a kept lock");
        stopped(s, false);
        for (int i = 0; i < 6; i++) { /* and is tried again long before the deadline */
            pass_units(s, 1);
            drive(s);
        }
        until(s, is_kept_up, &kept, "an extension after the stop");
    }
    refused(s, b, name, NULL, BELAY_HELD);
    released(s, kept.lock, BELAY_OK);
}

static void count_loss(void *arg, belay_lock *lock, const belay_error *why)
{
    (void)lock;
    (void)why;
    atomic_fetch_add((atomic_int *)arg, 1);
}

static bool is_counted(void *arg)
{
    return atomic_load((atomic_int *)arg) > 0;
}

static void a_long_stop_ends_a_kept_lock_at_its_deadline(struct scene *s)
{
    belay *a = client_of(s, BELAY_CONTRACT_FIRST);
    const char *name = name_of(s, "lock");
    atomic_int *losses = memory_of(s, sizeof *losses);
    belay_options lease = lease_of(s, 12, BELAY_TRY);
    lease.keep = BELAY_KEEP_ON;
    lease.on_lost = count_loss;
    lease.arg = losses;
    belay_lock *lock = take(s, a, name, &lease);

    stopped(s, true);
    for (int i = 0; i < 13; i++) {
        pass_units(s, 1);
        drive(s);
    }
    must(s, !belay_lock_valid(lock, 0), "a lock that could not be extended outlived its TTL");
    until(s, is_counted, losses, "on_lost");
    stopped(s, false);
    pass_units(s, 5);
    extended(s, lock, 0, BELAY_LOST); /* nothing revives it */
    released(s, lock, BELAY_LOST);
    must(s, atomic_load(losses) == 1, "on_lost came %d times", atomic_load(losses));
    struct taker taker = { s, a, name, NULL };
    until(s, can_be_taken, &taker, "the lock, when the place is back");
    released(s, taker.lock, BELAY_OK);
}

static void a_waiter_outlasts_a_short_stop(struct scene *s)
{
    belay *a = client_of(s, BELAY_CONTRACT_FIRST);
    const char *name = name_of(s, "lock");
    belay_options wait = lease_of(s, 1000, BELAY_FOREVER);

    stopped(s, true);
    struct call *call = call_begin(s, a, name, &wait, NULL);
    for (int i = 0; i < 10; i++) {
        pass_ms(s, 100); /* less than `outage` */
        drive(s);
    }
    must(s, !call_done(call), "a second of silence ended a wait: %s",
         belay_status_name(call->status));
    stopped(s, false);
    must_be(s, call_await(s, call), BELAY_OK, "the waiter");
    released(s, call->lock, BELAY_OK);
}

static void a_release_in_doubt_is_not_forgotten(struct scene *s)
{
    belay *a = client_of(s, BELAY_CONTRACT_FIRST), *b = client_of(s, BELAY_CONTRACT_SECOND);
    const char *name = name_of(s, "lock");
    belay_options lease = lease_of(s, 1000, BELAY_TRY);
    belay_lock *lock = take(s, a, name, &lease);

    stopped(s, true);
    belay_status status = let_go(s, lock);
    must(s, is_doubt(status), "release on a stopped place: %s", belay_status_name(status));
    stopped(s, false);
    int64_t before = now_of(s);
    struct taker taker = { s, b, name, NULL };
    until(s, can_be_taken, &taker, "the lock that was released");
    must(s, now_of(s) - before < (int64_t)units(s, 500) * NS_PER_MS, "it was left to expire");
    released(s, taker.lock, BELAY_OK);
}

const struct promise belay__contract_failure[] = {
    PROMISE(a_ready_client_says_so, ON_BOTH),
    PROMISE(wrong_options_are_invalid, ON_BOTH),
    PROMISE(an_allocation_that_fails_leaves_nothing, ON_BOTH | CLOCK | FLOWS),
    PROMISE(a_stopped_place_answers_a_try_with_doubt, ON_BOTH | STARTED | STOP | FLOWS),
    PROMISE(a_client_opens_while_the_place_is_stopped, ON_BOTH | STOP | FLOWS),
    PROMISE(an_extension_in_doubt_leaves_the_deadline, ON_BOTH | STARTED | STOP | FLOWS),
    PROMISE(a_kept_lock_outlives_a_short_stop, ON_BOTH | STOP),
    PROMISE(a_long_stop_ends_a_kept_lock_at_its_deadline, ON_BOTH | STOP),
    PROMISE(a_waiter_outlasts_a_short_stop, ON_DISPATCH | STOP | FLOWS),
    PROMISE(a_release_in_doubt_is_not_forgotten, ON_BOTH | STARTED | STOP | FLOWS),
    { 0 },
};
