/* slot_backend.c - a backend of one's own, explained in docs/writing-a-backend.md. */
#include <belay/backend.h>
#include <belay/testing.h>
#include <pthread.h>
#include <string.h>

static struct slot {
    char key[1024], owner[BELAY_OWNER_LENGTH + 1];
    int64_t until_ns;
} slots[128]; /* the place: all clients of the process share it, hence the mutex */
static uint64_t last_token;
static pthread_mutex_t place = PTHREAD_MUTEX_INITIALIZER;

static void slot_acquire(belay_backend *b, belay_op *op, struct slot *held, struct slot *spare)
{
    if (held != NULL) {
        op->held_for_ns = held->until_ns - belay_env_now(b->env);
        belay_op_settle(op, BELAY_HELD);
    } else if (spare == NULL || op->key.length >= sizeof spare->key) {
        belay_op_fail(op, BELAY_UNAVAILABLE, BELAY_CAUSE_BUSY, "slot", "no room for the lock");
    } else {
        memcpy(spare->key, op->key.at, op->key.length + 1);
        memcpy(spare->owner, op->owner, sizeof spare->owner);
        spare->until_ns = op->sent_ns + op->ttl_ms * INT64_C(1000000);
        uint64_t wish = belay_env_proposal(b->env);
        if (last_token < op->token_floor) last_token = op->token_floor;
        op->token = last_token = wish > last_token ? wish : last_token + 1;
        belay_op_settle(op, BELAY_OK);
    }
}
static void slot_do(belay_backend *b, belay_op *op)
{
    struct slot *held = NULL, *spare = NULL;
    pthread_mutex_lock(&place);
    for (struct slot *s = slots; s < slots + 128; s++) {
        if (s->until_ns <= belay_env_now(b->env)) spare = s; /* never used, let go, or expired */
        else if (strcmp(s->key, op->key.at) == 0) held = s;
    }
    if (op->verb == BELAY_VERB_ACQUIRE) {
        slot_acquire(b, op, held, spare);
    } else { /* release or extend: only where the owner matches, and never shorter */
        bool ours = held != NULL && strcmp(held->owner, op->owner) == 0;
        int64_t until_ns = op->sent_ns + op->ttl_ms * INT64_C(1000000);
        if (ours && op->verb == BELAY_VERB_RELEASE) held->until_ns = 0;
        else if (ours && until_ns > held->until_ns) held->until_ns = until_ns;
        if (ours && last_token < op->token_floor) last_token = op->token_floor;
        belay_op_settle(op, ours ? BELAY_OK : BELAY_LOST);
    }
    pthread_mutex_unlock(&place);
}
static belay_status slot_create(belay_backend **out, belay_env *env, const belay_settings *settings,
                                belay_error *err)
{
    (void)settings;
    *out = belay_env_alloc(env, sizeof **out);
    return *out != NULL ? BELAY_OK : belay_error_set(err, BELAY_NOMEM, NULL, "out of memory");
}
static void slot_destroy(belay_backend *b)
{
    belay_env_free(b->env, b);
}
static const char *const schemes[] = { "slot", NULL };
static const belay_backend_ops slot_ops = {
    BELAY_OPS_HEAD,         .type = "slot",
    .url_schemes = schemes, .scope = BELAY_SCOPE_PROCESS,
    .create = slot_create,  .destroy = slot_destroy,
    .acquire = slot_do,     .release = slot_do,
    .extend = slot_do,
};

int main(void)
{
    const belay_backend_ops *tables[] = { &slot_ops, NULL };
    belay_contract_target slot = { BELAY_CONTRACT_TARGET_HEAD, .name = "slot", .where = "slot:" };
    slot.backends = tables;
    slot.scope = BELAY_SCOPE_PROCESS;
    slot.fencing = true; /* no inspect, list, break: not claimed */
    return belay_contract_run(&slot, stdout) != 0;
}
