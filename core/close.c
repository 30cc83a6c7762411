/* close.c - the end of a client: what runs is canceled, what is held is released, what is owed is
 * paid for a while. */
#include "core/client.h"

#include <sched.h>
#include <unistd.h>

/* The one who closes, waiting for the rest. On its stack. */
struct belay__closer {
    struct belay__waiter waiter;
    belay_timer timer;
    belay *client;
    int64_t until_ns;
    bool dropped;  /* time is up: whatever is left was canceled */
    bool given_up; /* a backend does not settle what was canceled */
};

enum { OWES_CHECK_MS = 5 };

static bool is_idle(belay *client)
{
    if (!belay_links_empty(&client->requests) || !belay_links_empty(&client->debts)) return false;
    return client->loop.background == client->loop.jobs;
}

/* Each is asked, also where one does: it is how they learn of the closing. */
static bool owes(belay *client)
{
    bool any = false;
    for (size_t i = client->config->count; i-- > 0;) {
        belay_backend *backend = client->config->backends[i].object;
        if (backend->ops->owes != NULL && backend->ops->owes(backend)) any = true;
    }
    return any;
}

void belay__close_check(belay *client)
{
    struct belay__closer *closer = client->closer;
    if (closer == NULL || !is_idle(client)) return;
    if (!closer->given_up && !closer->dropped && owes(client))
        return; /* looked at again by the timer */
    client->closer = NULL;
    belay__timer_disarm(&client->loop, &closer->timer);
    belay__loop_complete(&client->loop, &closer->waiter);
}

static void closer_timer(belay_timer *timer)
{
    struct belay__closer *closer = belay_container_of(timer, struct belay__closer, timer);
    belay *client = closer->client;
    int64_t now = belay__loop_now(&client->loop);
    if (now >= closer->until_ns) {
        if (closer->dropped) {
            /* Canceled, and still not settled: a broken backend. Its memory is left to it. */
            closer->given_up = true;
            client->closer = NULL;
            belay__log(client, BELAY_LOG_ERROR,
                       "close: a backend did not settle what was canceled; the client's memory is "
                       "left to it");
            belay__loop_complete(&client->loop, &closer->waiter);
            return;
        }
        closer->dropped = true;
        closer->until_ns = now + client->config->close_timeout_ms * BELAY__MS;
        if (!belay_links_empty(&client->debts))
            belay__log(
                client, BELAY_LOG_WARN,
                "close: not everything could be released within close_timeout; its TTL ends it");
        belay__debts_drop(client);
        belay__loop_unwind(&client->loop);
        if (client->closer == NULL) return; /* that was the last of it */
    }
    int64_t next = now + OWES_CHECK_MS * BELAY__MS;
    belay__timer_arm(&client->loop, timer,
                     is_idle(client) && next < closer->until_ns ? next : closer->until_ns);
    belay__close_check(client);
}

static void requests_end(belay *client)
{
    for (belay_link *link = client->requests.next, *next; link != &client->requests; link = next) {
        next = link->next;
        belay__request_end(belay_container_of(link, belay_request, all), BELAY_CANCELED,
                           "the client is being closed");
    }
}

static void released_here(belay_op *op, belay_status status)
{
    belay__request_finish(belay_container_of(op, belay_request, op), status);
}

/* Memory is too short for a debt: this thread releases it itself, and waits. The monitor is let go
 * meanwhile. */
static void release_here(belay *client, belay_lock *lock)
{
    belay_request request;
    belay__request_init(&request, client);
    belay__lock_op(lock, &request.op, BELAY_VERB_RELEASE, 0, released_here);
    belay__request_begin_op(&request, belay__loop_now(&client->loop));
    (void)belay__request_wait(&request, NULL);
    belay__loop_enter(&client->loop);
}

/* Every handle's lock ends; the handles stay their owners'. */
static void locks_end(belay *client, belay_link *handles)
{
    while (!belay_links_empty(&client->locks)) {
        belay_lock *lock = belay_container_of(client->locks.next, belay_lock, all);
        belay_unlink(&lock->all);
        belay_link_append(handles, &lock->all);
        bool ours = !lock->definite && !lock->detached;
        lock->refs++; /* for the release below, and against a belay_release meanwhile */
        lock->freed = true;
        lock->lost = true;
        atomic_store_explicit(&lock->deadline_ns, INT64_MIN, memory_order_release);
        belay__keeper_stop(lock);
        belay__call_withdraw(&client->loop, &lock->call);
        int64_t until = belay__loop_now(&client->loop) + (int64_t)lock->ttl_ms * BELAY__MS;
        if (ours && belay__debt_begin(lock, until)) continue;
        if (ours) release_here(client, lock);
        belay__lock_unref(lock);
    }
}

/* True: nothing is under way any more. The monitor is held before and after. */
static bool wait_for_the_rest(belay *client)
{
    struct belay__loop *loop = &client->loop;
    struct belay__closer closer = { .client = client };
    closer.until_ns = belay__loop_now(loop) + client->config->close_timeout_ms * BELAY__MS;
    belay_timer_init(&closer.timer, closer_timer);
    client->closer = &closer;
    (void)owes(client);
    belay__loop_unwind(loop);
    belay__close_check(client);
    if (client->closer != NULL) {
        belay__timer_arm(loop, &closer.timer, belay__loop_now(loop) + OWES_CHECK_MS * BELAY__MS);
        belay__loop_wait(loop, &closer.waiter);
        belay__loop_enter(loop);
    }
    belay__timer_disarm(loop, &closer.timer);
    return !closer.given_up;
}

static void close_in_child(belay *client)
{
    /* No lock, no epoll_ctl: the parent shares the epoll. Descriptors alone; the memory is left. */
    struct belay__loop *loop = &client->loop;
    for (uint32_t i = 0; i < loop->slot_count; i++)
        if (loop->slots[i].watch != NULL && !belay__cancel_owns(loop->slots[i].watch))
            close(loop->slots[i].watch->fd);
    belay__loop_close_fds(loop);
}

static void close_now(belay *client)
{
    struct belay__loop *loop = &client->loop;
    belay_link handles;
    belay_links_init(&handles);
    client->closing = true;
    belay__call_settle(loop); /* a release that waits for a callback is under way, and goes on */
    loop->turns_clock = BELAY__TURNS_ALWAYS; /* a fake world's time would stand still */
    requests_end(client);
    belay__keeper_close(client);
    locks_end(client, &handles);
    bool clean = wait_for_the_rest(client);
    /* Callers that were answered may still be on their way out. Those whose op never settles stay,
     * and go on leading. */
    while (clean && loop->inside > 0) {
        belay__loop_leave(loop);
        sched_yield();
        belay__loop_enter(loop);
    }
    belay__log_finish(client->log);
    belay__loop_leave(loop);

    belay__loop_stop(loop); /* the callbacks that are due run before it returns */

    belay__monitor_lock(&loop->monitor);
    belay__worker_stop(loop);
    while (!belay_links_empty(&handles)) {
        belay_lock *lock = belay_container_of(handles.next, belay_lock, all);
        belay_unlink(&lock->all);
        if (lock->grant != NULL && clean && client->root->ops->drop != NULL)
            client->root->ops->drop(client->root, lock->grant);
        lock->grant = NULL;
    }
    if (clean) {
        belay__names_free(client);
        belay__backends_destroy(client);
    }
    client->closed = true;
    belay__monitor_drain(
        &loop->monitor); /* calls that began before this one, and are answered CLOSED */
    belay__monitor_unlock(&loop->monitor);
    if (!clean) return; /* an op that never settled still points everywhere: leaked on purpose */
    belay__loop_fini(loop);
    belay__free(client->log);
    client->log = NULL;
    belay__free(client->turns);
    client->turns = NULL;
    belay__free(client->where);
    client->where = NULL;
    belay__config_free(client->config);
    client->config = NULL;
    belay__client_unref(client);
}

void belay_close(belay *client)
{
    if (client == NULL) return;
    if (belay__forked(client)) {
        close_in_child(client);
        return;
    }
    struct belay__loop *loop = &client->loop;
    int cancelable, was = errno;
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancelable);
    belay__loop_enter(loop);
    if (client->closing) {
        belay__loop_leave(loop);
    } else if (belay__call_inside(loop)) {
        loop->close_wanted = true;
        belay__loop_leave(loop);
    } else {
        close_now(client);
    }
    errno = was;
    pthread_setcancelstate(cancelable, NULL);
}
