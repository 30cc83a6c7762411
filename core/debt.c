/* debt.c - what is owed: a release that was not answered is repeated until it is, or until the TTL
 * has run out since. */
#include "core/client.h"

enum { AGAIN_FIRST_MS = 20, AGAIN_LAST_MS = 1000 };

struct debt {
    belay_op op;
    belay_timer timer;
    belay_link link;
    belay_lock *lock;
    int64_t until_ns;
    uint32_t backoff_ms;
    bool dropped; /* the client closes: no further try */
};

static void debt_end(struct debt *debt)
{
    belay *client = debt->lock->client;
    belay__timer_disarm(&client->loop, &debt->timer);
    belay_unlink(&debt->link);
    /* A release that was repeated is in no order with anybody's attempt. */
    belay__acquire_freed(client, debt->lock->key, debt->lock->key_length, false);
    client->loop.background--;
    belay__lock_unref(debt->lock);
    belay__free(debt);
    belay__close_check(client);
}

static void debt_settled(belay_op *op, belay_status status)
{
    struct debt *debt = belay_container_of(op, struct debt, op);
    belay *client = debt->lock->client;
    /* A composite needs memory for its children's ops: that, too, may be there next time. */
    bool undone = status == BELAY_UNAVAILABLE || status == BELAY_UNCERTAIN || status == BELAY_NOMEM;
    /* Refused, though the grant was not: a password that changes, an ACL that is being reloaded. */
    if (status == BELAY_REFUSED || status == BELAY_CONFIG) undone = true;
    bool again = undone && !debt->dropped;
    int64_t now = belay__loop_now(&client->loop);
    if (!again || now >= debt->until_ns) {
        debt_end(debt);
        return;
    }
    uint32_t backoff = debt->backoff_ms == 0 ? AGAIN_FIRST_MS : debt->backoff_ms * 2;
    debt->backoff_ms = backoff < AGAIN_LAST_MS ? backoff : AGAIN_LAST_MS;
    belay__timer_arm(&client->loop, &debt->timer, now + debt->backoff_ms * BELAY__MS);
}

static void debt_try(struct debt *debt)
{
    belay *client = debt->lock->client;
    int64_t now = belay__loop_now(&client->loop);
    belay__lock_op(debt->lock, &debt->op, BELAY_VERB_RELEASE, 0, debt_settled);
    debt->op.label = "";
    debt->op.settle_by_ns = now + client->timeout_ns;
    belay__op_begin(&debt->op, now);
}

static void timer_fired(belay_timer *timer)
{
    debt_try(belay_container_of(timer, struct debt, timer));
}

bool belay__debt_begin(belay_lock *lock, int64_t until_ns)
{
    belay *client = lock->client;
    struct debt *debt = belay__alloc(client->loop.world, sizeof *debt);
    if (debt == NULL) {
        belay__log(client, BELAY_LOG_WARN, "no memory to go on releasing a lock: its TTL ends it");
        return false;
    }
    debt->lock = lock;
    debt->until_ns = until_ns;
    lock->freed = true;
    belay_timer_init(&debt->timer, timer_fired);
    belay_link_append(&client->debts, &debt->link);
    client->loop.background++;
    (void)belay__engine_need(&client->loop); /* without it, the next call's turn does */
    debt_try(debt);
    return true;
}

void belay__debts_drop(belay *client)
{
    for (belay_link *link = client->debts.next, *next; link != &client->debts; link = next) {
        next = link->next;
        struct debt *debt = belay_container_of(link, struct debt, link);
        debt->dropped = true;
        if (belay__op_pending(&debt->op)) belay_op_cancel(&debt->op);
        else if (belay_timer_armed(&debt->timer)) debt_end(debt);
    }
}
