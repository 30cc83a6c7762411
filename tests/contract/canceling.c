/* canceling.c - a call that is no longer wanted ends soon, holds nothing, and holds nobody up. */
#include "scene.h"

/* Waiters of one client on a lock that is held. */
struct queue {
    belay *client;
    const char *name;
    belay_lock *held;
    struct call *calls[4];
    belay_cancel *cancels[4];
};

static void queue_begin(struct scene *s, struct queue *q)
{
    q->client = client_of(s, BELAY_CONTRACT_FIRST);
    q->name = name_of(s, "lock");
    belay_options lease = lease_of(s, 1000, BELAY_TRY), wait = lease_of(s, 1000, BELAY_FOREVER);
    q->held = take(s, q->client, q->name, &lease);
    for (int i = 0; i < 4; i++) {
        q->cancels[i] = wait.cancel = cancel_of(s);
        q->calls[i] = call_begin(s, q->client, q->name, &wait, NULL);
    }
    for (int i = 0; i < 4; i++) drive(s);
}

/* Releases the lock: the waiters in `left`, which ends with -1, must come in one after the other.
 */
static void queue_goes_on(struct scene *s, struct queue *q, const int *left)
{
    for (; *left >= 0; left++) {
        released(s, q->held, BELAY_OK);
        must_be(s, call_await(s, q->calls[*left]), BELAY_OK, "a waiter that was not canceled");
        q->held = q->calls[*left]->lock;
    }
    released(s, q->held, BELAY_OK);
}

static void a_fired_cancel_ends_a_call_before_it_begins(struct scene *s)
{
    belay *a = client_of(s, BELAY_CONTRACT_FIRST);
    const char *name = name_of(s, "lock");
    belay_options lease = lease_of(s, 10, BELAY_TRY), wait = lease_of(s, 10, BELAY_FOREVER);
    lease.cancel = wait.cancel = cancel_of(s);
    if (atomic_load(&s->failed)) return;
    belay_cancel_fire(lease.cancel);

    refused(s, a, name, &lease, BELAY_CANCELED);
    refused(s, a, name, &wait, BELAY_CANCELED);
    belay_cancel_fire(lease.cancel);
    refused(s, a, name, &lease, BELAY_CANCELED);
    released(s, take(s, a, name, NULL), BELAY_OK);
}

static void a_canceled_waiter_leaves_the_queue(struct scene *s)
{
    struct queue q = { 0 };
    queue_begin(s, &q);
    belay_cancel_fire(q.cancels[1]);
    must_be(s, call_await(s, q.calls[1]), BELAY_CANCELED, "the canceled waiter");
    must(s, !call_done(q.calls[0]) && !call_done(q.calls[2]), "another waiter was answered");
    queue_goes_on(s, &q, (const int[]){ 0, 2, 3, -1 });
}

static void a_canceled_head_leaves_the_queue(struct scene *s)
{
    struct queue q = { 0 };
    queue_begin(s, &q);
    belay_cancel_fire(q.cancels[0]);
    must_be(s, call_await(s, q.calls[0]), BELAY_CANCELED, "the canceled waiter");
    belay_cancel_fire(q.cancels[1]);
    must_be(s, call_await(s, q.calls[1]), BELAY_CANCELED, "the canceled waiter");
    queue_goes_on(s, &q, (const int[]){ 2, 3, -1 });
}

static void a_canceled_request_leaves_the_queue(struct scene *s)
{
    struct queue q = { 0 };
    queue_begin(s, &q);
    call_cancel(q.calls[2]);
    must_be(s, call_await(s, q.calls[2]), BELAY_CANCELED, "the canceled waiter");
    call_cancel(q.calls[0]);
    must_be(s, call_await(s, q.calls[0]), BELAY_CANCELED, "the canceled head");
    queue_goes_on(s, &q, (const int[]){ 1, 3, -1 });
}

/* With the release under way the head has its attempt in flight, or even its grant. */
static void a_cancel_that_races_with_a_release_holds_nobody_up(struct scene *s)
{
    struct queue q = { 0 };
    queue_begin(s, &q);
    released(s, q.held, BELAY_OK);
    belay_cancel_fire(q.cancels[0]);
    belay_status first = call_await(s, q.calls[0]);
    must(s, first == BELAY_OK || first == BELAY_CANCELED, "the head: %s", belay_status_name(first));
    if (first == BELAY_OK) {
        q.held = q.calls[0]->lock;
    } else {
        must_be(s, call_await(s, q.calls[1]), BELAY_OK, "the second");
        q.held = q.calls[1]->lock;
        queue_goes_on(s, &q, (const int[]){ 2, 3, -1 });
        return;
    }
    queue_goes_on(s, &q, (const int[]){ 1, 2, 3, -1 });
}

static void what_a_canceled_attempt_got_is_given_back(struct scene *s)
{
    belay *a = client_of(s, BELAY_CONTRACT_FIRST), *b = client_of(s, BELAY_CONTRACT_SECOND);
    const char *name = name_of(s, "lock");
    belay_options lease = lease_of(s, 100, BELAY_TRY);

    for (int i = 0; i < 10; i++) {
        struct call *call = call_begin(s, a, name, &lease, NULL);
        if (s->target->late && s->dispatch) pass_ms(s, i); /* in each part of its way */
        call_cancel(call);
        belay_status status = call_await(s, call);
        must(s, status == BELAY_OK || status == BELAY_CANCELED, "%s", belay_status_name(status));
        if (status == BELAY_OK) released(s, call->lock, BELAY_OK);
        int64_t before = now_of(s);
        struct taker args = { s, b, name, NULL };
        until(s, can_be_taken, &args, "a lock that was canceled");
        must(s, now_of(s) - before < (int64_t)units(s, 50) * NS_PER_MS, "it was left to expire");
        released(s, args.lock, BELAY_OK);
    }
}

static void a_blocked_thread_is_canceled(struct scene *s)
{
    belay *a = client_of(s, BELAY_CONTRACT_FIRST), *b = client_of(s, BELAY_CONTRACT_SECOND);
    const char *name = name_of(s, "lock");
    belay_options lease = lease_of(s, 1000, BELAY_TRY);
    belay_lock *lock = take(s, a, name, &lease);
    struct thread threads[3] = { 0 };
    belay_cancel *cancel = cancel_of(s);
    for (int i = 0; i < 3; i++) {
        threads[i].client = i == 0 ? a : b;
        threads[i].name = name;
        threads[i].options = lease_of(s, 1000, BELAY_FOREVER);
        threads[i].options.cancel = i < 2 ? cancel : NULL;
        thread_begin(s, &threads[i], thread_acquire);
    }
    for (int i = 0; i < 40; i++) drive(s);
    must(s, !atomic_load(&threads[0].ended) && !atomic_load(&threads[1].ended), "nobody waited");
    belay_cancel_fire(cancel);
    for (int i = 0; i < 2; i++) {
        thread_join(s, &threads[i]);
        must_be(s, threads[i].status, BELAY_CANCELED, "the thread's acquire");
    }

    released(s, lock, BELAY_OK);
    thread_join(s, &threads[2]);
    must_be(s, threads[2].status, BELAY_OK, "the thread that was not canceled");
    released(s, threads[2].lock, BELAY_OK);
}

static void one_cancel_ends_calls_of_both_clients(struct scene *s)
{
    belay *a = client_of(s, BELAY_CONTRACT_FIRST), *b = client_of(s, BELAY_CONTRACT_SECOND);
    const char *name = name_of(s, "lock"), *free_name = name_of(s, "free");
    belay_options lease = lease_of(s, 1000, BELAY_TRY), wait = lease_of(s, 1000, BELAY_FOREVER);
    wait.cancel = cancel_of(s);
    if (atomic_load(&s->failed)) return;
    belay_lock *lock = take(s, a, name, &lease);
    belay_lock *got = take(s, a, free_name, &wait); /* answered before it is fired */
    struct call *calls[] = { call_begin(s, a, name, &wait, NULL),
                             call_begin(s, b, name, &wait, NULL),
                             call_begin(s, a, name, &wait, NULL) };
    drive(s);
    belay_cancel_fire(wait.cancel);
    for (int i = 0; i < 3; i++)
        must_be(s, call_await(s, calls[i]), BELAY_CANCELED, "a canceled call");
    must(s, belay_lock_valid(got, 0), "a cancel ended a lock that was got before");
    refused(s, b, free_name, &wait, BELAY_CANCELED);
    released(s, got, BELAY_OK);
    released(s, lock, BELAY_OK);
}

static void a_cancel_after_the_answer_changes_nothing(struct scene *s)
{
    belay *a = client_of(s, BELAY_CONTRACT_FIRST);
    const char *name = name_of(s, "lock");
    struct call *call = call_new(s);
    belay_error err = BELAY_ERROR_INIT;
    if (atomic_load(&s->failed)) return;
    must_be(s, belay_acquire_start(a, name, NULL, call_fn, call, &call->request, &err), BELAY_OK,
            "acquire_start");
    belay_request *request = call->request;
    call->request = NULL;
    must_be(s, call_await(s, call), BELAY_OK, "acquire");
    belay_request_cancel(request);
    drive(s);
    must(s, belay_lock_valid(call->lock, 0), "a cancel after the answer ended the lock");
    must(s, atomic_load(&call->count) == 1, "it called back again");
    belay_request_free(request);
    released(s, call->lock, BELAY_OK);
}

const struct promise belay__contract_canceling[] = {
    PROMISE(a_fired_cancel_ends_a_call_before_it_begins, ON_BOTH | STARTED),
    PROMISE(a_canceled_waiter_leaves_the_queue, ON_BOTH | FLOWS),
    PROMISE(a_canceled_head_leaves_the_queue, ON_BOTH | FLOWS),
    PROMISE(a_canceled_request_leaves_the_queue, ON_BOTH | FLOWS),
    PROMISE(a_cancel_that_races_with_a_release_holds_nobody_up, ON_BOTH | FLOWS),
    PROMISE(what_a_canceled_attempt_got_is_given_back, ON_BOTH | FLOWS),
    PROMISE(a_blocked_thread_is_canceled, ON_THREADS | FLOWS),
    PROMISE(one_cancel_ends_calls_of_both_clients, ON_BOTH | STARTED | FLOWS),
    PROMISE(a_cancel_after_the_answer_changes_nothing, ON_BOTH),
    { 0 },
};
