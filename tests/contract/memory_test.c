/* memory_test.c - the conformance suite on the memory backend. */
#include <belay/testing.h>
#include <string.h>

/* The other prefix needs a config file; a URL is enough for the rest. */
static belay_status open_memory(void *arg, int which, const belay_open_options *options,
                                belay **out, belay_error *err)
{
    (void)arg;
    const char *where = which == BELAY_CONTRACT_OTHER_PREFIX ? NULL : "memory:contract";
    return belay_open(out, where, options, err);
}

int main(int argc, char **argv)
{
    const belay_contract_target target = {
        BELAY_CONTRACT_TARGET_HEAD,
        .name = "memory",
        .open = open_memory,
        .scope = BELAY_SCOPE_PROCESS,
        .fencing = true,
        .inspects = true,
        .lists = true,
        .breaks = true,
        .wakes = true,
        .only = argc > 1 ? argv[1] : NULL,
    };
    return belay_contract_run(&target, stdout) != 0;
}
