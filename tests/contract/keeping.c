/* keeping.c - a kept lock lives until it is released; one that is not kept ends with its TTL. */
#include "scene.h"

/* Lets `count` times `step_ms` pass; each time the lock must soon stand at its least or above. */
static void must_be_kept(struct scene *s, struct kept *kept, int count, int64_t step_ms)
{
    for (int i = 0; i < count && !atomic_load(&s->failed); i++) {
        pass_ms(s, step_ms);
        until(s, is_kept_up, kept, "an extension of a kept lock");
        must(s, belay_lock_valid(kept->lock, 0), "a kept lock is not valid");
    }
}

static void a_kept_lock_outlives_its_ttl(struct scene *s)
{
    belay *a = client_of(s, BELAY_CONTRACT_FIRST), *b = client_of(s, BELAY_CONTRACT_SECOND);
    const char *name = name_of(s, "lock");
    belay_options lease = lease_of(s, 12, BELAY_TRY);
    lease.keep = BELAY_KEEP_ON;
    struct kept kept = { take(s, a, name, &lease), lease.ttl_ms * 6 / 10 };

    for (int i = 0; i < 5; i++) {
        must_be_kept(s, &kept, 12, units(s, 1));
        refused(s, b, name, NULL, BELAY_HELD);
    }
    released(s, kept.lock, BELAY_OK);
    released(s, take(s, b, name, NULL), BELAY_OK);
}

static void a_lock_is_kept_as_often_as_was_asked(struct scene *s)
{
    belay *a = client_of(s, BELAY_CONTRACT_FIRST);
    belay_options lease = lease_of(s, 20, BELAY_TRY);
    lease.keep = BELAY_KEEP_ON;
    lease.keep_every_ms = units(s, 2);
    struct kept kept = { take(s, a, name_of(s, "lock"), &lease), lease.ttl_ms * 8 / 10 };

    must_be_kept(s, &kept, 30, units(s, 1));
    released(s, kept.lock, BELAY_OK);
}

static void keeping_never_shortens(struct scene *s)
{
    belay *a = client_of(s, BELAY_CONTRACT_FIRST);
    belay_options lease = lease_of(s, 6, BELAY_TRY);
    lease.keep = BELAY_KEEP_ON;
    struct kept kept = { take(s, a, name_of(s, "lock"), &lease), 0 };

    extended(s, kept.lock, units(s, 60), BELAY_OK);
    kept.least_ms = units(s, 45);
    must_be_kept(s, &kept, 10, units(s, 1));
    kept.least_ms = units(s, 3); /* it is kept as well when the long extension ends */
    must_be_kept(s, &kept, 70, units(s, 1));
    released(s, kept.lock, BELAY_OK);
}

static void a_lock_that_is_not_kept_ends_with_its_ttl(struct scene *s)
{
    belay *a = client_of(s, BELAY_CONTRACT_FIRST), *b = client_of(s, BELAY_CONTRACT_SECOND);
    const char *name = name_of(s, "lock");
    belay_options lease = lease_of(s, 6, BELAY_TRY);
    belay_lock *lock = take(s, a, name, &lease);

    for (int i = 0; i < 7; i++) {
        pass_units(s, 1);
        drive(s);
    }
    must(s, !belay_lock_valid(lock, 0), "a lock that is not kept outlived its TTL");
    released(s, take(s, b, name, NULL), BELAY_OK);
    released(s, lock, BELAY_LOST);
}

static void a_kept_lock_outlives_its_waiters(struct scene *s)
{
    belay *a = client_of(s, BELAY_CONTRACT_FIRST), *b = client_of(s, BELAY_CONTRACT_SECOND);
    const char *name = name_of(s, "lock");
    belay_options lease = lease_of(s, 6, BELAY_TRY), wait = lease_of(s, 6, units(s, 30));
    lease.keep = BELAY_KEEP_ON;
    belay_lock *lock = take(s, a, name, &lease);
    struct call *waiters[] = { call_begin(s, b, name, &wait, NULL),
                               call_begin(s, a, name, &wait, NULL) };

    must_be(s, call_await(s, waiters[0]), BELAY_HELD, "the waiter of the other client");
    must_be(s, call_await(s, waiters[1]), BELAY_HELD, "the waiter of the same client");
    must(s, belay_lock_valid(lock, 0), "the kept lock is not valid any more");
    released(s, lock, BELAY_OK);
}

/* With BELAY_DISPATCH extensions happen in blocking calls as well. */
static void a_blocked_call_keeps_the_clients_locks(struct scene *s)
{
    belay *a = client_of(s, BELAY_CONTRACT_FIRST), *b = client_of(s, BELAY_CONTRACT_SECOND);
    const char *busy = name_of(s, "busy");
    belay_options lease = lease_of(s, 1000, BELAY_TRY), kept = lease_of(s, 6, BELAY_TRY),
                  wait = lease_of(s, 6, units(s, 50));
    kept.keep = BELAY_KEEP_ON;
    belay_lock *other = take(s, b, busy, &lease), *lock = take(s, a, name_of(s, "lock"), &kept);

    refused(s, a, busy, &wait, BELAY_HELD);
    must(s, belay_lock_valid(lock, 0), "a blocked call let the client's kept lock end");
    released(s, lock, BELAY_OK);
    released(s, other, BELAY_OK);
}

static void count_loss(void *arg, belay_lock *lock, const belay_error *why)
{
    (void)lock;
    (void)why;
    atomic_fetch_add((atomic_int *)arg, 1);
}

/* The holder was stopped (FAULTS 8, 9): it wakes up behind its deadline, and nobody has extended.
 */
static void a_holder_that_was_stopped_finds_its_lock_lost(struct scene *s)
{
    belay *a = client_of(s, BELAY_CONTRACT_FIRST), *b = client_of(s, BELAY_CONTRACT_SECOND);
    const char *name = name_of(s, "lock"), *second = name_of(s, "second");
    atomic_int *losses = memory_of(s, sizeof *losses);
    belay_options lease = lease_of(s, 6, BELAY_TRY);
    lease.keep = BELAY_KEEP_ON;
    lease.on_lost = count_loss;
    lease.arg = losses;
    belay_lock *lock = take(s, a, name, &lease), *other = take(s, a, second, &lease);

    if (!atomic_load(&s->failed)) belay_fake_advance(s->world, units(s, 7) * NS_PER_MS);
    must(s, !belay_lock_valid(lock, 0), "the stop ended no lock");
    must(s, atomic_load(losses) == 0, "on_lost came before the client was asked anything");
    extended(s, lock, 0, BELAY_LOST); /* the first call says so, not the backend */
    released(s, other, BELAY_LOST);
    for (int i = 0; i < 20; i++) drive(s); /* nor does a late extension revive it */
    must(s, !belay_lock_valid(lock, 0), "a lost lock was revived");
    released(s, take(s, b, name, NULL), BELAY_OK);
    released(s, take(s, b, second, NULL), BELAY_OK);
    released(s, lock, BELAY_LOST);
    must(s, atomic_load(losses) >= 1 && atomic_load(losses) <= 2, "on_lost came %d times for two",
         atomic_load(losses));
}

const struct promise belay__contract_keeping[] = {
    PROMISE(a_kept_lock_outlives_its_ttl, ON_BOTH | STARTED),
    PROMISE(a_lock_is_kept_as_often_as_was_asked, ON_BOTH),
    PROMISE(keeping_never_shortens, ON_BOTH),
    PROMISE(a_lock_that_is_not_kept_ends_with_its_ttl, ON_BOTH),
    PROMISE(a_kept_lock_outlives_its_waiters, ON_DISPATCH | FLOWS),
    PROMISE(a_holder_that_was_stopped_finds_its_lock_lost, ON_DISPATCH | STARTED | CLOCK),
    PROMISE(a_blocked_call_keeps_the_clients_locks, ON_DISPATCH | CLOCK),
    { 0 },
};
