/* leases.c - what a TTL is worth: the deadline, extending, and what is lost for good. */
#include "scene.h"

/* How long a grant is believed in from its sending: ttl less drift (SEMANTICS 1). */
static int64_t belief_ns(uint32_t ttl_ms)
{
    int64_t ttl_ns = (int64_t)ttl_ms * NS_PER_MS;
    return ttl_ns - (ttl_ns / 100 + 2 * NS_PER_MS);
}

/* A grant or an extension of ttl_ms that began at before_ns: how much must remain now? */
static void must_remain(struct scene *s, const belay_lock *lock, uint32_t ttl_ms, int64_t before_ns)
{
    int64_t took_ns = now_of(s) - before_ns; /* 0, but for operations that take time */
    int64_t most_ms = belief_ns(ttl_ms) / NS_PER_MS;
    int64_t least_ms = (belief_ns(ttl_ms) - took_ns) / NS_PER_MS;
    int64_t remain_ms = belay_lock_remaining_ms(lock);
    must(s, remain_ms >= least_ms && remain_ms <= most_ms,
         "with a TTL of %u ms %lld ms remain, not %lld to %lld", ttl_ms, (long long)remain_ms,
         (long long)least_ms, (long long)most_ms);
}

static void the_deadline_is_the_ttl_less_drift(struct scene *s)
{
    belay *a = client_of(s, BELAY_CONTRACT_FIRST);
    const uint32_t most = s->target->ttl_max_ms != 0 ? s->target->ttl_max_ms : BELAY_TTL_MAX_MS;
    const uint32_t ttls[] = { 100, 101, 150, 999, 1000, 12345, 60000, 3600000, most };

    for (size_t i = 0; i < sizeof ttls / sizeof ttls[0]; i++) {
        belay_options lease = lease_of(s, 10, BELAY_TRY);
        lease.ttl_ms = ttls[i];
        if (ttls[i] > most || (s->target->late && ttls[i] < 1000)) continue;
        int64_t before = now_of(s);
        belay_lock *lock = take(s, a, name_of(s, "lock"), &lease);
        must_remain(s, lock, ttls[i], before);
        pass_ms(s, ttls[i] / 2);
        before = now_of(s);
        extended(s, lock, 0, BELAY_OK);
        must_remain(s, lock, ttls[i], before);
        released(s, lock, BELAY_OK);
    }
}

static void validity_ends_at_the_deadline_without_any_io(struct scene *s)
{
    if (s->target->late) {
        skip_here(s, "needs operations that take no time");
        return;
    }
    belay *a = client_of(s, BELAY_CONTRACT_FIRST);
    belay_options lease = lease_of(s, 10, BELAY_TRY);
    belay_lock *lock = take(s, a, name_of(s, "lock"), &lease);
    int64_t left_ns = belief_ns(lease.ttl_ms), left_ms = left_ns / NS_PER_MS;

    must(s, belay_lock_remaining_ms(lock) == left_ms, "%lld ms remain",
         (long long)belay_lock_remaining_ms(lock));
    must(s, belay_lock_valid(lock, (uint32_t)left_ms - 1), "not valid for what remains");
    must(s, !belay_lock_valid(lock, (uint32_t)left_ms + 1), "valid for more than remains");
    belay_fake_advance(s->world, left_ns - 5 * NS_PER_MS);
    must(s, belay_lock_valid(lock, 4), "not valid for 4 of 5 ms");
    must(s, !belay_lock_valid(lock, 6), "valid for 6 of 5 ms");
    must(s, belay_lock_remaining_ms(lock) == 5, "%lld of 5 ms remain",
         (long long)belay_lock_remaining_ms(lock));
    belay_fake_advance(s->world, 5 * NS_PER_MS - 1);
    must(s, belay_lock_valid(lock, 0), "not valid a nanosecond before the deadline");
    must(s, belay_lock_remaining_ms(lock) == 0, "less than a millisecond is not rounded down");
    belay_fake_advance(s->world, 1);
    must(s, !belay_lock_valid(lock, 0), "valid at the deadline");
    must(s, belay_lock_remaining_ms(lock) == 0, "something remains at the deadline");
    belay_fake_advance(s->world, INT64_C(1000000000000));
    must(s, !belay_lock_valid(lock, 0), "valid long after the deadline");
    must(s, !belay_lock_valid(NULL, 0), "no lock is valid");
    released(s, lock, BELAY_LOST);
}

static void extend_lengthens(struct scene *s)
{
    belay *a = client_of(s, BELAY_CONTRACT_FIRST), *b = client_of(s, BELAY_CONTRACT_SECOND);
    const char *name = name_of(s, "lock");
    belay_options lease = lease_of(s, 4, BELAY_TRY);
    belay_lock *lock = take(s, a, name, &lease);

    for (int i = 0; i < 5; i++) { /* many TTLs in a row */
        pass_units(s, 2);
        extended(s, lock, 0, BELAY_OK);
        refused(s, b, name, NULL, BELAY_HELD);
    }
    extended(s, lock, units(s, 20), BELAY_OK);
    pass_units(s, 15); /* the place must have heard of it, too */
    must(s, belay_lock_valid(lock, 0), "the lock was not lengthened");
    refused(s, b, name, NULL, BELAY_HELD);
    released(s, lock, BELAY_OK);
}

static void extend_never_shortens(struct scene *s)
{
    belay *a = client_of(s, BELAY_CONTRACT_FIRST), *b = client_of(s, BELAY_CONTRACT_SECOND);
    const char *name = name_of(s, "lock");
    belay_options lease = lease_of(s, 20, BELAY_TRY);
    belay_lock *lock = take(s, a, name, &lease);

    int64_t before_ms = belay_lock_remaining_ms(lock), before = now_of(s);
    extended(s, lock, units(s, 4), BELAY_OK);
    int64_t took_ms = (now_of(s) - before) / NS_PER_MS + 1;
    must(s, belay_lock_remaining_ms(lock) >= before_ms - took_ms, "%lld of %lld ms remain",
         (long long)belay_lock_remaining_ms(lock), (long long)before_ms);
    pass_units(s, 8); /* past the shorter one, at the place as well */
    must(s, belay_lock_valid(lock, 0), "the lock was shortened");
    refused(s, b, name, NULL, BELAY_HELD);
    extended(s, lock, 0, BELAY_OK);
    released(s, lock, BELAY_OK);
}

static void extend_past_the_deadline_is_lost_for_good(struct scene *s)
{
    belay *a = client_of(s, BELAY_CONTRACT_FIRST), *b = client_of(s, BELAY_CONTRACT_SECOND);
    const char *name = name_of(s, "lock");
    belay_options lease = lease_of(s, 4, BELAY_TRY);
    belay_lock *lock = take(s, a, name, &lease);

    pass_units(s, 5);
    extended(s, lock, 0, BELAY_LOST);
    must(s, !belay_lock_valid(lock, 0), "a lost lock is valid");
    belay_lock *new = take(s, b, name, NULL); /* nothing was made anew */
    extended(s, lock, 0, BELAY_LOST);
    extended(s, new, 0, BELAY_OK);
    released(s, new, BELAY_OK);
    extended(s, lock, units(s, 10), BELAY_LOST);
    released(s, take(s, b, name, NULL), BELAY_OK);
    released(s, lock, BELAY_LOST);
}

static void extend_of_a_broken_lock_recreates_nothing(struct scene *s)
{
    belay *a = client_of(s, BELAY_CONTRACT_FIRST), *b = client_of(s, BELAY_CONTRACT_SECOND);
    const char *name = name_of(s, "lock");
    belay_lock *lock = take(s, a, name, NULL);

    break_it(s, b, name);
    extended(s, lock, 0, BELAY_LOST);
    must(s, !belay_lock_valid(lock, 0), "a lost lock is valid");
    released(s, take(s, b, name, NULL), BELAY_OK);
    extended(s, lock, 0, BELAY_LOST);
    released(s, take(s, b, name, NULL), BELAY_OK);
    released(s, lock, BELAY_LOST);
}

static void extend_after_another_took_it_is_lost(struct scene *s)
{
    belay *a = client_of(s, BELAY_CONTRACT_FIRST), *b = client_of(s, BELAY_CONTRACT_SECOND);
    const char *name = name_of(s, "lock");
    belay_lock *lock = take(s, a, name, NULL);

    break_it(s, b, name);
    belay_lock *new = take(s, b, name, NULL);
    extended(s, lock, 0, BELAY_LOST);
    must(s, belay_lock_valid(new, 0), "the new holder's lock is not valid any more");
    extended(s, new, 0, BELAY_OK);
    refused(s, a, name, NULL, BELAY_HELD);
    released(s, lock, BELAY_LOST);
    refused(s, a, name, NULL, BELAY_HELD);
    released(s, new, BELAY_OK);
}

static void release_of_a_broken_lock_is_lost(struct scene *s)
{
    belay *a = client_of(s, BELAY_CONTRACT_FIRST), *b = client_of(s, BELAY_CONTRACT_SECOND);
    const char *name = name_of(s, "lock");

    belay_lock *lock = take(s, a, name, NULL);
    break_it(s, b, name);
    released(s, lock, BELAY_LOST);

    lock = take(s, a, name, NULL);
    break_it(s, b, name);
    belay_lock *new = take(s, b, name, NULL);
    released(s, lock, BELAY_LOST);
    refused(s, a, name, NULL, BELAY_HELD);
    released(s, new, BELAY_OK);
}

/* Between the holder's deadline and the end of the TTL at the place the lock is still there: a
 * release says LOST, and deletes it all the same. */
static void release_past_the_deadline_is_lost_and_deletes(struct scene *s)
{
    belay *a = client_of(s, BELAY_CONTRACT_FIRST), *b = client_of(s, BELAY_CONTRACT_SECOND);
    const char *name = name_of(s, "lock");
    belay_options lease = lease_of(s, 1000, BELAY_TRY);
    if (s->target->ttl_max_ms != 0 && lease.ttl_ms > s->target->ttl_max_ms)
        lease.ttl_ms = s->target->ttl_max_ms;
    belay_lock *lock = take(s, a, name, &lease);

    pass_ms(s, belay_lock_remaining_ms(lock) + 1);
    must(s, !belay_lock_valid(lock, 0), "the deadline did not come");
    refused(s, b, name, NULL,
            BELAY_HELD); /* drift: the place waits longer than the holder believes */
    int64_t before = now_of(s);
    released(s, lock, BELAY_LOST);
    struct taker args = { s, b, name, NULL };
    until(s, can_be_taken, &args, "the delete");
    must(s, now_of(s) - before < (int64_t)lease.ttl_ms / 200 * NS_PER_MS, "it was left to expire");
    released(s, args.lock, BELAY_OK);
}

static void a_ttl_out_of_range_is_invalid(struct scene *s)
{
    belay *a = client_of(s, BELAY_CONTRACT_FIRST);
    const char *name = name_of(s, "lock");
    const uint32_t most = s->target->ttl_max_ms != 0 ? s->target->ttl_max_ms : BELAY_TTL_MAX_MS;
    const uint32_t wrong[] = { 1, 99, most + 1, BELAY_TTL_MAX_MS + 1, UINT32_MAX };
    belay_options lease = lease_of(s, 10, BELAY_TRY);
    belay_lock *lock = take(s, a, name, NULL);

    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0] && !atomic_load(&s->failed); i++) {
        belay_lock *none = NULL;
        belay_error err = BELAY_ERROR_INIT;
        lease.ttl_ms = wrong[i];
        must_be(s, belay_acquire(a, name_of(s, "other"), &lease, &none, &err), BELAY_INVALID,
                "acquire with a wrong TTL");
        must_be(s, belay_extend(lock, wrong[i], &err), BELAY_INVALID, "extend with a wrong TTL");
    }
    must(s, belay_lock_valid(lock, 0), "a wrong TTL made the lock invalid");
    lease.ttl_ms = BELAY_TTL_MIN_MS;
    if (!s->target->late) released(s, take(s, a, name_of(s, "least"), &lease), BELAY_OK);
    lease.ttl_ms = most;
    released(s, take(s, a, name_of(s, "most"), &lease), BELAY_OK);
    released(s, lock, BELAY_OK);
}

/* FAULTS 10. */
static void steps_of_the_wall_clock_change_nothing(struct scene *s)
{
    belay *a = client_of(s, BELAY_CONTRACT_FIRST), *b = client_of(s, BELAY_CONTRACT_SECOND);
    const char *name = name_of(s, "lock");
    const int64_t hour_us = INT64_C(3600000000), steps[] = { hour_us, -2 * hour_us, hour_us };
    belay_options lease = lease_of(s, 10, BELAY_TRY);

    for (size_t i = 0; i < sizeof steps / sizeof steps[0]; i++) {
        belay_lock *lock = take(s, a, name, &lease);
        int64_t before_ms = belay_lock_remaining_ms(lock);
        belay_fake_step_wall(s->world, steps[i]);
        pass_ms(s, 0);
        int64_t after_ms = belay_lock_remaining_ms(lock);
        must(s, after_ms == before_ms || s->target->late, "%lld ms remained, then %lld",
             (long long)before_ms, (long long)after_ms);
        refused(s, b, name, NULL, BELAY_HELD);
        extended(s, lock, 0, BELAY_OK);
        must(s, belay_lock_valid(lock, units(s, 8)), "the extended lock is not valid");
        pass_units(s, 11);
        released(s, take(s, b, name, NULL), BELAY_OK);
        released(s, lock, BELAY_LOST);
    }
}

const struct promise belay__contract_leases[] = {
    PROMISE(the_deadline_is_the_ttl_less_drift, ON_BOTH | STARTED | CLOCK | PROMPT),
    PROMISE(validity_ends_at_the_deadline_without_any_io, ON_BOTH | CLOCK | PROMPT),
    PROMISE(extend_lengthens, ON_BOTH | STARTED),
    PROMISE(extend_never_shortens, ON_BOTH | STARTED),
    PROMISE(extend_past_the_deadline_is_lost_for_good, ON_BOTH | STARTED),
    PROMISE(extend_of_a_broken_lock_recreates_nothing, ON_BOTH | STARTED | BREAK | INSPECT),
    PROMISE(extend_after_another_took_it_is_lost, ON_BOTH | STARTED | BREAK | INSPECT),
    PROMISE(release_of_a_broken_lock_is_lost, ON_BOTH | STARTED | BREAK | INSPECT),
    PROMISE(release_past_the_deadline_is_lost_and_deletes, ON_BOTH | CLOCK | PROMPT),
    PROMISE(a_ttl_out_of_range_is_invalid, ON_BOTH),
    PROMISE(steps_of_the_wall_clock_change_nothing, ON_BOTH | CLOCK),
    { 0 },
};
