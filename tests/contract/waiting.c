/* waiting.c - whoever waits gets its turn, in order, as soon as it is there, and no later than
 * promised. */
#include "scene.h"

enum { IN_A_ROW = 20, CROWD = 1000 };

/* Lets waiters reach the place and be refused there. (With threads that is likely, not certain:
 * then the promise is kept more easily.) */
static void let_them_wait(struct scene *s)
{
    for (int i = 0; i < (s->dispatch ? 8 : 60); i++) {
        drive(s);
        if (s->dispatch && s->target->late) pass_ms(s, 20);
    }
}

/* How long it took, in fake time, to be woken: no time at all, but for operations that need some.
 */
static void must_be_prompt(struct scene *s, int64_t from_ns, int64_t to_ns)
{
    if (s->world == NULL) return;
    int64_t took_ms = (to_ns - from_ns) / NS_PER_MS;
    if (!s->flows) must(s, took_ms == 0, "it took %lld ms of a still clock", (long long)took_ms);
    else if (s->dispatch) must(s, took_ms < 1000, "it took %lld ms", (long long)took_ms);
}

static void a_release_lets_a_waiter_of_its_client_in(struct scene *s)
{
    belay *a = client_of(s, BELAY_CONTRACT_FIRST);
    const char *name = name_of(s, "lock");
    belay_options lease = lease_of(s, 100, BELAY_TRY), wait = lease_of(s, 100, BELAY_FOREVER);
    belay_lock *lock = take(s, a, name, &lease);
    struct call *waiter = call_begin(s, a, name, &wait, NULL);
    let_them_wait(s);
    must(s, !call_done(waiter), "a waiter was answered while the lock was held");

    int64_t before = now_of(s);
    released(s, lock, BELAY_OK);
    must_be(s, call_await(s, waiter), BELAY_OK, "the waiter");
    must_be_prompt(s, before, waiter->at_ns);
    refused(s, a, name, NULL, BELAY_HELD);
    released(s, waiter->lock, BELAY_OK);
}

static void a_release_wakes_a_waiter_of_the_other_client(struct scene *s)
{
    belay *a = client_of(s, BELAY_CONTRACT_FIRST), *b = client_of(s, BELAY_CONTRACT_SECOND);
    const char *name = name_of(s, "lock");
    belay_options lease = lease_of(s, 100, BELAY_TRY), wait = lease_of(s, 100, BELAY_FOREVER);

    for (int i = 0; i < 5; i++) {
        belay_lock *lock = take(s, a, name, &lease);
        struct call *waiter = call_begin(s, b, name, &wait, NULL);
        let_them_wait(s);
        must(s, !call_done(waiter), "a waiter was answered while the lock was held");
        int64_t before = now_of(s);
        released(s, lock, BELAY_OK);
        must_be(s, call_await(s, waiter), BELAY_OK, "the waiter");
        must_be_prompt(s, before, waiter->at_ns);
        released(s, waiter->lock, BELAY_OK);
    }
}

/* Also where nothing wakes: a wake-up is a hint, the timer is always armed. */
static void a_release_lets_the_other_client_in_before_the_ttl(struct scene *s)
{
    belay *a = client_of(s, BELAY_CONTRACT_FIRST), *b = client_of(s, BELAY_CONTRACT_SECOND);
    const char *name = name_of(s, "lock");
    belay_options lease = lease_of(s, 100, BELAY_TRY), wait = lease_of(s, 100, BELAY_FOREVER);
    belay_lock *lock = take(s, a, name, &lease);
    struct call *waiter = call_begin(s, b, name, &wait, NULL);
    let_them_wait(s);
    must(s, !call_done(waiter), "a waiter was answered while the lock was held");

    int64_t before = now_of(s);
    released(s, lock, BELAY_OK);
    must_be(s, call_await(s, waiter), BELAY_OK, "the waiter");
    must(s, waiter->at_ns - before < (int64_t)units(s, 90) * NS_PER_MS, "it was left to the TTL");
    released(s, waiter->lock, BELAY_OK);
}

static void a_waiter_comes_in_when_the_lock_expires(struct scene *s)
{
    belay *a = client_of(s, BELAY_CONTRACT_FIRST), *b = client_of(s, BELAY_CONTRACT_SECOND);
    const char *name = name_of(s, "lock");
    belay_options lease = lease_of(s, 4, BELAY_TRY), wait = lease_of(s, 10, BELAY_FOREVER);
    int64_t before = now_of(s);
    belay_lock *old = take(s, a, name, &lease), *new = NULL;
    must_be(s, take_status(s, b, name, &wait, &new), BELAY_OK, "the waiter");

    int64_t after_ms = (now_of(s) - before) / NS_PER_MS;
    must(s, !belay_lock_valid(old, 0), "two hold the lock, and both believe in it");
    if (s->dispatch || s->world == NULL) /* otherwise time runs on while the thread wakes up */
        must(s, after_ms < units(s, 5) + 1000,
             "the waiter came in %lld ms after the grant of %u ms", (long long)after_ms,
             units(s, 4));
    released(s, new, BELAY_OK);
    released(s, old, BELAY_LOST);
}

static void waiters_of_a_client_come_in_by_order(struct scene *s)
{
    belay *a = client_of(s, BELAY_CONTRACT_FIRST);
    const char *name = name_of(s, "lock");
    belay_options lease = lease_of(s, 1000, BELAY_TRY), wait = lease_of(s, 1000, BELAY_FOREVER);
    atomic_int counter = 0;
    struct call *waiters[IN_A_ROW];
    belay_lock *lock = take(s, a, name, &lease);
    for (int i = 0; i < IN_A_ROW; i++) waiters[i] = call_begin(s, a, name, &wait, &counter);
    let_them_wait(s);
    must(s, atomic_load(&counter) == 0, "a waiter was answered while the lock was held");

    for (int i = 0; i < IN_A_ROW; i++) {
        released(s, lock, BELAY_OK);
        must_be(s, call_await(s, waiters[i]), BELAY_OK, "the next waiter");
        must(s, waiters[i]->order == i + 1, "waiter %d was number %d", i + 1, waiters[i]->order);
        lock = waiters[i]->lock;
    }
    released(s, lock, BELAY_OK);
}

static void waiters_of_both_clients_come_in(struct scene *s)
{
    belay *clients[] = { client_of(s, BELAY_CONTRACT_FIRST), client_of(s, BELAY_CONTRACT_SECOND) };
    const char *name = name_of(s, "lock");
    belay_options lease = lease_of(s, 1000, BELAY_TRY), wait = lease_of(s, 1000, BELAY_FOREVER);
    struct call *waiters[IN_A_ROW];
    atomic_int counter = 0;
    belay_lock *lock = take(s, clients[0], name, &lease);
    for (int i = 0; i < IN_A_ROW; i++)
        waiters[i] = call_begin(s, clients[i % 2], name, &wait, &counter);
    let_them_wait(s);
    released(s, lock, BELAY_OK);

    for (int served = 0; served < IN_A_ROW && !atomic_load(&s->failed);) {
        drive(s);
        if (s->dispatch) pass_ms(s, 1);
        for (int i = 0; i < IN_A_ROW; i++) {
            if (waiters[i]->request == NULL || !call_done(waiters[i])) continue;
            must(s, atomic_load(&counter) == ++served, "two waiters came in at once");
            must_be(s, call_await(s, waiters[i]), BELAY_OK, "a waiter");
            released(s, waiters[i]->lock, BELAY_OK);
        }
    }
}

/* A try-once must not overtake those who wait, even when the lock is free at this moment. */
static void a_try_behind_a_queue_is_held(struct scene *s)
{
    belay *a = client_of(s, BELAY_CONTRACT_FIRST), *b = client_of(s, BELAY_CONTRACT_SECOND);
    const char *name = name_of(s, "lock");
    belay_options lease = lease_of(s, 100, BELAY_TRY), wait = lease_of(s, 100, BELAY_FOREVER);
    belay_lock *lock = take(s, b, name, &lease);
    struct call *first = call_begin(s, a, name, &wait, NULL);
    struct call *second = call_begin(s, a, name, &wait, NULL);
    let_them_wait(s);

    released(s, lock, BELAY_OK);
    refused(s, a, name, NULL, BELAY_HELD);
    must_be(s, call_await(s, first), BELAY_OK, "the first waiter");
    released(s, first->lock, BELAY_OK);
    must_be(s, call_await(s, second), BELAY_OK, "the second waiter");
    released(s, second->lock, BELAY_OK);
}

static void a_wait_ends_when_it_was_to_end(struct scene *s)
{
    belay *a = client_of(s, BELAY_CONTRACT_FIRST), *b = client_of(s, BELAY_CONTRACT_SECOND);
    const char *name = name_of(s, "lock");
    belay_options lease = lease_of(s, 100, BELAY_TRY), wait = lease_of(s, 10, 0);
    belay_lock *lock = take(s, a, name, &lease);

    const int64_t waits_ms[] = { 1, units(s, 1) / 4, units(s, 1), units(s, 2) + 1 };
    for (size_t i = 0; i < sizeof waits_ms / sizeof waits_ms[0]; i++) {
        wait.wait_ms = waits_ms[i];
        if (s->target->late && i == 0)
            continue; /* too brief for one attempt: rightly UNAVAILABLE */
        int64_t before = now_of(s);
        refused(s, i % 2 == 0 ? b : a, name, &wait, BELAY_HELD);
        int64_t took_ms = (now_of(s) - before) / NS_PER_MS;
        must(s, took_ms >= waits_ms[i], "a wait of %lld ms ended after %lld",
             (long long)waits_ms[i], (long long)took_ms);
        /* The clock that runs by itself runs on while the thread wakes up. */
        int64_t slack_ms = !s->flows ? 1 : s->dispatch ? 100 : 600000;
        if (s->world == NULL) slack_ms = 2000;
        must(s, took_ms <= waits_ms[i] + slack_ms, "a wait of %lld ms ended after %lld",
             (long long)waits_ms[i], (long long)took_ms);
    }
    released(s, lock, BELAY_OK);
}

static void a_wait_that_is_over_holds_nobody_up(struct scene *s)
{
    belay *a = client_of(s, BELAY_CONTRACT_FIRST);
    const char *name = name_of(s, "lock");
    belay_options lease = lease_of(s, 1000, BELAY_TRY), forever = lease_of(s, 1000, BELAY_FOREVER),
                  brief = lease_of(s, 1000, units(s, 1));
    belay_lock *lock = take(s, a, name, &lease);
    struct call *first = call_begin(s, a, name, &brief, NULL);
    struct call *second = call_begin(s, a, name, &forever, NULL);
    struct call *third = call_begin(s, a, name, &brief, NULL);
    struct call *fourth = call_begin(s, a, name, &forever, NULL);

    must_be(s, call_await(s, first), BELAY_HELD, "the first, whose wait was brief");
    must_be(s, call_await(s, third), BELAY_HELD, "the third, whose wait was brief");
    must(s, !call_done(second) && !call_done(fourth), "a patient waiter was answered");
    released(s, lock, BELAY_OK);
    must_be(s, call_await(s, second), BELAY_OK, "the second");
    must(s, !call_done(fourth), "two hold the lock");
    released(s, second->lock, BELAY_OK);
    must_be(s, call_await(s, fourth), BELAY_OK, "the fourth");
    released(s, fourth->lock, BELAY_OK);
}

static void blocked_threads_come_in(struct scene *s)
{
    belay *a = client_of(s, BELAY_CONTRACT_FIRST), *b = client_of(s, BELAY_CONTRACT_SECOND);
    const char *name = name_of(s, "lock");
    belay_options lease = lease_of(s, 1000, BELAY_TRY);
    belay_lock *lock = take(s, a, name, &lease);
    struct thread threads[4] = { 0 };
    for (int i = 0; i < 4; i++) {
        threads[i].client = i % 2 == 0 ? a : b;
        threads[i].name = name;
        threads[i].options = lease_of(s, 1000, BELAY_FOREVER);
        thread_begin(s, &threads[i], thread_acquire);
    }
    let_them_wait(s);
    for (int i = 0; i < 4; i++)
        must(s, !atomic_load(&threads[i].ended), "a thread came in while the lock was held");
    released(s, lock, BELAY_OK);

    bool served[4] = { false };
    for (int left = 4; left > 0 && !atomic_load(&s->failed);) {
        drive(s);
        for (int i = 0; i < 4; i++) {
            if (served[i] || !threads[i].begun || !atomic_load(&threads[i].ended)) continue;
            must_be(s, threads[i].status, BELAY_OK, "a thread's acquire");
            refused(s, a, name, NULL, BELAY_HELD);
            released(s, threads[i].lock, BELAY_OK);
            served[i] = true;
            left--;
        }
    }
    for (int i = 0; i < 4; i++) thread_join(s, &threads[i]);
}

/* A crowd on one name: FAULTS 55. */
struct crowd {
    struct scene *scene;
    atomic_int answered, served, inside;
    int size;
};

static bool crowd_answered(void *arg)
{
    struct crowd *crowd = arg;
    return atomic_load(&crowd->answered) == crowd->size;
}

static void in_and_out(void *arg, belay_status status, belay_lock *lock, const belay_error *err)
{
    struct crowd *crowd = arg;
    struct scene *s = crowd->scene;
    (void)err;
    if (status == BELAY_OK) {
        must(s, atomic_fetch_add(&crowd->inside, 1) == 0, "two of the crowd are inside");
        atomic_fetch_sub(&crowd->inside, 1);
        atomic_fetch_add(&crowd->served, 1);
        must_be(s, belay_release(lock, NULL), BELAY_OK, "release inside the callback");
    }
    atomic_fetch_add(&crowd->answered, 1);
}

static void a_crowd_comes_in_one_by_one(struct scene *s)
{
    belay *clients[] = { client_of(s, BELAY_CONTRACT_FIRST), client_of(s, BELAY_CONTRACT_SECOND) };
    const char *name = name_of(s, "lock");
    belay_options lease = lease_of(s, 6000, BELAY_TRY), wait = lease_of(s, 6000, BELAY_FOREVER);
    struct crowd *crowd = memory_of(s, sizeof *crowd);
    crowd->scene = s;
    crowd->size = 2 * rounds_of(s, CROWD);
    belay_lock *lock = take(s, clients[0], name, &lease);
    for (int i = 0; i < crowd->size && !atomic_load(&s->failed); i++)
        must_be(s, belay_acquire_start(clients[i % 2], name, &wait, in_and_out, crowd, NULL, NULL),
                BELAY_OK, "acquire_start");
    released(s, lock, BELAY_OK);

    until(s, crowd_answered, crowd, "the crowd's answers");
    must(s, atomic_load(&crowd->served) == crowd->size, "%d of %d came in",
         atomic_load(&crowd->served), crowd->size);
}

static void a_crowd_that_waits_in_vain_is_answered_in_time(struct scene *s)
{
    bool open[DESCRIPTORS];
    belay *clients[] = { client_of(s, BELAY_CONTRACT_FIRST), client_of(s, BELAY_CONTRACT_SECOND) };
    const char *name = name_of(s, "lock");
    belay_options lease = lease_of(s, 1000, BELAY_TRY), wait = lease_of(s, 1000, units(s, 2));
    struct crowd *crowd = memory_of(s, sizeof *crowd);
    crowd->scene = s;
    crowd->size = 2 * rounds_of(s, CROWD);
    belay_lock *lock = take(s, clients[0], name, &lease);
    int before = descriptors_of(open);
    for (int i = 0; i < crowd->size && !atomic_load(&s->failed); i++)
        must_be(s, belay_acquire_start(clients[i % 2], name, &wait, in_and_out, crowd, NULL, NULL),
                BELAY_OK, "acquire_start");
    drive(s);
    int more = descriptors_of(open) - before;
    must(s, more < 30, "%d waiters have %d descriptors", crowd->size, more);
    must(s, atomic_load(&crowd->answered) == 0 || !s->dispatch,
         "some were answered before their time");
    pass_units(s, 2);
    if (s->dispatch) drive(s);

    if (s->dispatch && !s->target->late && s->world != NULL)
        must(s, crowd_answered(crowd), "%d of %d were answered in time",
             atomic_load(&crowd->answered), crowd->size);
    until(s, crowd_answered, crowd, "the crowd's answers");
    must(s, atomic_load(&crowd->served) == 0, "%d came in", atomic_load(&crowd->served));
    must(s, belay_lock_valid(lock, 0), "the holder's lock is not valid any more");
    released(s, lock, BELAY_OK);
}

const struct promise belay__contract_waiting[] = {
    PROMISE(a_release_lets_a_waiter_of_its_client_in, ON_BOTH | STARTED),
    PROMISE(a_release_wakes_a_waiter_of_the_other_client, ON_BOTH | STARTED | WAKES),
    PROMISE(a_release_lets_the_other_client_in_before_the_ttl, ON_BOTH | STARTED | FLOWS),
    PROMISE(a_waiter_comes_in_when_the_lock_expires, ON_BOTH | STARTED | FLOWS),
    PROMISE(waiters_of_a_client_come_in_by_order, ON_BOTH | STARTED | FLOWS),
    PROMISE(waiters_of_both_clients_come_in, ON_BOTH | FLOWS),
    PROMISE(a_try_behind_a_queue_is_held, ON_BOTH | FLOWS),
    PROMISE(a_wait_ends_when_it_was_to_end, ON_DISPATCH | CLOCK),
    PROMISE(a_wait_ends_when_it_was_to_end, ON_THREADS | STARTED | FLOWS),
    PROMISE(a_wait_that_is_over_holds_nobody_up, ON_BOTH | FLOWS),
    PROMISE(blocked_threads_come_in, ON_THREADS | FLOWS),
    PROMISE(a_crowd_comes_in_one_by_one, ON_BOTH | FLOWS),
    PROMISE(a_crowd_that_waits_in_vain_is_answered_in_time, ON_BOTH | FLOWS),
    { 0 },
};
