/* silent_test.c - the conformance suite on a place that can fall silent: memory, with a switch.
 * What is asked while it is off is never answered; core's timeouts cancel it. This shows what holds
 * during an outage. */
#define _POSIX_C_SOURCE 200809L
#include <belay/backend.h>
#include <belay/testing.h>
#include <stdatomic.h>

extern const belay_backend_ops belay__memory_ops;

static atomic_bool silent;

#define VERB(name)                                                                                 \
    static void silent_##name(belay_backend *backend, belay_op *op)                                \
    {                                                                                              \
        if (!atomic_load(&silent)) belay__memory_ops.name(backend, op);                            \
    }
VERB(acquire)
VERB(release)
VERB(extend)
VERB(inspect)
VERB(list)
VERB(break_lock)

static void silent_cancel(belay_backend *backend, belay_op *op)
{
    belay_op_fail(op, BELAY_UNAVAILABLE, BELAY_CAUSE_UNREACHABLE, belay_env_name(backend->env),
                  "no answer");
}

static void stop(void *arg)
{
    (void)arg;
    atomic_store(&silent, true);
}

static void cont(void *arg)
{
    (void)arg;
    atomic_store(&silent, false);
}

int main(int argc, char **argv)
{
    static const char *const schemes[] = { "silent", NULL };
    belay_backend_ops ops = belay__memory_ops;
    ops.type = "silent";
    ops.url_schemes = schemes;
    ops.acquire = silent_acquire;
    ops.release = silent_release;
    ops.extend = silent_extend;
    ops.inspect = silent_inspect;
    ops.list = silent_list;
    ops.break_lock = silent_break_lock;
    ops.cancel = silent_cancel;
    const belay_backend_ops *tables[] = { &ops, NULL };
    const belay_contract_target target = {
        BELAY_CONTRACT_TARGET_HEAD,
        .name = "silent",
        .where = "silent:contract",
        .backends = tables,
        .scope = BELAY_SCOPE_PROCESS,
        .fencing = true,
        .inspects = true,
        .lists = true,
        .breaks = true,
        .tells = true,
        .wakes = true,
        .stop = stop,
        .cont = cont,
        .only = argc > 1 ? argv[1] : "failure/*",
    };
    return belay_contract_run(&target, stdout) != 0;
}
