/* memory_test.c - the conformance suite on the memory backend. */
#define _POSIX_C_SOURCE 200809L
#include "place.h"

static const char other_prefix[] =
    "use = \"m\";\n"
    "prefix = \"other:\";\n"
    "backends: { m: { type = \"memory\"; name = \"contract\"; }; };\n";

static belay_status open_memory(void *arg, int which, const belay_open_options *options,
                                belay **out, belay_error *err)
{
    const char *other = ((const struct place *)arg)->paths[0];
    return belay_open(out, which == BELAY_CONTRACT_OTHER_PREFIX ? other : "memory:contract",
                      options, err);
}

int main(int argc, char **argv)
{
    struct place place;
    if (!place_make(&place) || place_config(&place, other_prefix) == NULL) return 1;
    const belay_contract_target target = {
        BELAY_CONTRACT_TARGET_HEAD,
        .name = "memory",
        .open = open_memory,
        .arg = &place,
        .scope = BELAY_SCOPE_PROCESS,
        .fencing = true,
        .inspects = true,
        .lists = true,
        .breaks = true,
        .tells = true,
        .wakes = true,
        .prefixes = true,
        .only = argc > 1 ? argv[1] : NULL,
    };
    int failed = belay_contract_run(&target, stdout);
    place_remove(&place);
    return failed != 0;
}
