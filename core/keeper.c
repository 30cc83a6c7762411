/* keeper.c - kept locks are extended every ttl/3, and tried again until their deadline; every lock
 * that anybody wants to hear of ends at its deadline. */
#include "core/client.h"

enum { RETRY_FIRST_MS = 20, RETRY_LAST_MS = 1000 };

/* One extension under way. It keeps the lock's memory, not the lock. */
struct extension {
    belay_op op;
    belay_link link; /* in client->extensions */
    belay_lock *lock;
    belay_error error;
};

/* The first of a row is news; that it goes on failing is for who looks closely. */
static void log_failed(const struct extension *extension, belay_status status, bool first)
{
    static const char format[] = "%s: an extension failed (%s: %s%s%s); it is tried again";
    const belay_error *error = &extension->error;
    belay *client = extension->lock->client;
    const char *colon = error->node[0] != '\0' ? ": " : "";
    char name[80];
    belay__printable(belay__lock_name(extension->lock), name, sizeof name);
    if (first)
        belay__log_limited(client, BELAY__LOG_EXTENSION, BELAY_LOG_WARN, format, name,
                           belay_status_name(status), error->node, colon, error->text);
    else
        belay__log(client, BELAY_LOG_DEBUG, format, name, belay_status_name(status), error->node,
                   colon, error->text);
}

static void extension_settled(belay_op *op, belay_status status)
{
    struct extension *extension = belay_container_of(op, struct extension, op);
    belay_lock *lock = extension->lock;
    belay *client = lock->client;
    lock->extending = false;
    belay_unlink(&extension->link);
    if (status != BELAY_OK && status != BELAY_LOST && !lock->lost && !lock->freed) {
        bool first = lock->backoff_ms == 0; /* since the last that was answered */
        uint32_t backoff = first ? RETRY_FIRST_MS : lock->backoff_ms * 2;
        lock->backoff_ms = backoff < RETRY_LAST_MS ? backoff : RETRY_LAST_MS;
        lock->next_ns = belay__loop_now(&client->loop) + lock->backoff_ms * BELAY__MS;
        log_failed(extension, status, first);
    }
    belay__lock_extended(lock, op, status);
    if (!lock->lost && !lock->freed) belay__keeper_arm(lock);
    client->loop.background--;
    belay__lock_unref(lock);
    belay__free(extension);
    belay__close_check(client);
}

static void extend(belay_lock *lock, int64_t now)
{
    belay *client = lock->client;
    struct extension *extension = belay__alloc(client->loop.world, sizeof *extension);
    if (extension == NULL) {
        lock->next_ns = now + RETRY_FIRST_MS * BELAY__MS;
        return;
    }
    int64_t deadline = atomic_load_explicit(&lock->deadline_ns, memory_order_relaxed);
    extension->lock = lock;
    lock->refs++;
    lock->extending = true;
    belay_link_append(&client->extensions, &extension->link);
    lock->next_ns = INT64_MAX; /* until it is answered */
    client->loop.background++;
    belay__lock_op(lock, &extension->op, BELAY_VERB_EXTEND, lock->ttl_ms, extension_settled);
    extension->op.error = &extension->error;
    extension->op.label = "";
    extension->op.settle_by_ns = now + client->timeout_ns;
    if (extension->op.settle_by_ns > deadline) extension->op.settle_by_ns = deadline;
    belay__op_begin(&extension->op, now);
}

static void timer_fired(belay_timer *timer)
{
    belay_lock *lock = belay_container_of(timer, belay_lock, timer);
    int64_t now = belay__loop_now(&lock->client->loop);
    if (now >= atomic_load_explicit(&lock->deadline_ns, memory_order_relaxed)) {
        belay__lock_lose(lock, false,
                         lock->kept ? "it could not be extended before its TTL ran out"
                                    : "its TTL ran out");
        return;
    }
    if (lock->kept && !lock->extending && now >= lock->next_ns) extend(lock, now);
    belay__keeper_arm(lock);
}

void belay__keeper_arm(belay_lock *lock)
{
    if (lock->freed || lock->lost) return;
    if (!lock->kept && lock->on_lost == NULL && lock->client->on_event == NULL) return;
    int64_t due = atomic_load_explicit(&lock->deadline_ns, memory_order_relaxed);
    if (lock->kept && !lock->extending && lock->next_ns < due) due = lock->next_ns;
    if (belay_timer_armed(&lock->timer) && lock->timer.due_ns == due) return;
    lock->timer.fn = timer_fired;
    belay__timer_arm(&lock->client->loop, &lock->timer, due);
}

void belay__keeper_stop(belay_lock *lock)
{
    belay__timer_disarm(&lock->client->loop, &lock->timer);
}

void belay__keeper_close(belay *client)
{
    for (belay_link *at = client->extensions.next, *next; at != &client->extensions; at = next) {
        next = at->next;
        belay_op_cancel(&belay_container_of(at, struct extension, link)->op);
    }
}
