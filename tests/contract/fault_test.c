/* fault_test.c - the conformance suite on the fault backend over memory: as it is (a composite must
 * look like what it is made of), and with delays, so that every operation settles late. */
#define _POSIX_C_SOURCE 200809L
#include "place.h"

/* Every verb waits before it is sent and again before it is answered; and all of it twice. */
static const char late[] =
    "use = \"outer\";\n"
    "backends: {\n"
    "  inner: { type = \"fault\"; child = \"memory:late\"; seed = 7;\n"
    "           acquire: { delay = \"1ms\"; delay_max = \"5ms\"; delay_reply = \"2ms\"; };\n"
    "           release: { delay = \"2ms\"; delay_reply = \"1ms\"; delay_reply_max = \"4ms\"; };\n"
    "           extend: { delay_reply = \"3ms\"; };\n"
    "           inspect: { delay = \"1ms\"; delay_reply = \"1ms\"; }; };\n"
    "  outer: { type = \"fault\"; child = \"inner\"; seed = 8;\n"
    "           acquire: { delay_reply = \"1ms\"; delay_reply_max = \"2ms\"; };\n"
    "           release: { delay = \"1ms\"; };\n"
    "           extend: { delay = \"1ms\"; delay_max = \"3ms\"; }; };\n"
    "};\n";

static int run(const char *name, const char *where, bool is_late, const char *only)
{
    const belay_contract_target target = {
        BELAY_CONTRACT_TARGET_HEAD,
        .name = name,
        .where = where,
        .scope = BELAY_SCOPE_PROCESS,
        .fencing = true,
        .inspects = true,
        .lists = true,
        .breaks = true,
        .tells = true,
        .wakes = true,
        .late = is_late,
        .only = only,
    };
    return belay_contract_run(&target, stdout);
}

int main(int argc, char **argv)
{
    struct place place;
    const char *only = argc > 1 ? argv[1] : NULL;
    if (!place_make(&place)) return 1;
    int failed = run("fault(memory)", "fault:memory:contract", false, only);
    if (run("late fault(fault(memory))", place_config(&place, late), true, only) != 0) failed = 1;
    place_remove(&place);
    return failed != 0;
}
