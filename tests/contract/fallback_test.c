/* fallback_test.c - the conformance suite on the fallback: to an application it is one place, with
 * its primary and without.
 *
 *   fallback_test memory|redis|down|frozen|closed [PATTERN]
 *
 * "memory" is memory over memory: as it is, with a primary that fails every time, with host_first
 * off, and with both places silent. Its primary says that it reaches the fleet, so that a lock's
 * scope shows which of the two it has.
 *
 * The others are redis over sqlite. "redis": with a real server. "down": there is none. "frozen":
 * it is stopped, takes connections and never answers. "closed": it is stopped and goes on, and
 * policy = "closed", so that the fallback is a place that stops answering (with "local" it goes on,
 * which is what it is for). That it serves at once when the server is back is not claimed: the
 * fallback waits for its next probe.
 *
 * Without the server a client's first attempt takes one `timeout` of the primary, which is short
 * here: a wait or a TTL that is over by then is no time to find out. */
#define _POSIX_C_SOURCE 200809L
#include "place.h"
#include "tests/live/server.h"
#include "tests/live/until.h"

#include <belay/backend.h>
#include <stdatomic.h>

extern const belay_backend_ops belay__memory_ops;

struct stage {
    struct place place;
    struct server server;
    const char *conf, *other; /* config files; the second has another prefix */
};

static belay_status open_stage(void *arg, int which, const belay_open_options *options, belay **out,
                               belay_error *err)
{
    const struct stage *stage = arg;
    bool other = which == BELAY_CONTRACT_OTHER_PREFIX;
    return belay_open(out, other ? stage->other : stage->conf, options, err);
}

/* `keys` are the fallback's own beside its two places, `places` the definitions of `one` and `two`.
 */
static bool configure(struct stage *stage, const char *keys, const char *places)
{
    char text[1024];
    for (int i = 0; i < 2; i++) {
        snprintf(text, sizeof text,
                 "use = \"f\";\n%s"
                 "backends: {\n  f: { type = \"fallback\"; primary = \"one\"; secondary = \"two\"; "
                 "%s };\n  %s\n};\n",
                 i == 0 ? "" : "prefix = \"other:\";\n", keys, places);
        const char *path = place_config(&stage->place, text);
        if (path == NULL) return false;
        if (i == 0) stage->conf = path;
        else stage->other = path;
    }
    return true;
}

static belay_contract_target target_of(struct stage *stage, const char *name, belay_scope scope,
                                       const char *only)
{
    return (belay_contract_target){
        BELAY_CONTRACT_TARGET_HEAD,
        .name = name,
        .open = open_stage,
        .arg = stage,
        .scope = scope,
        .at_best = BELAY_SCOPE_FLEET,
        .fencing = true,
        .inspects = true,
        .lists = true,
        .breaks = true,
        .tells = true,
        .wakes = true,
        .prefixes = true,
        .only = only,
    };
}

/* ------------------------------------------------------------------ memory over memory */

static void wide_inspect(belay_backend *backend, belay_op *op)
{
    belay__memory_ops.inspect(backend, op);
    if (op->info->held) op->info->scope = BELAY_SCOPE_FLEET;
}

static int run_memory(const char *name, belay_scope scope, const char *keys, const char *places,
                      const char *only)
{
    belay_backend_ops wide = belay__memory_ops;
    wide.type = "wide";
    wide.url_schemes = NULL;
    wide.scope = BELAY_SCOPE_FLEET;
    wide.inspect = wide_inspect;
    const belay_backend_ops *tables[] = { &wide, NULL };
    struct stage stage = { 0 };
    if (!place_make(&stage.place)) return 1;
    bool made = configure(&stage, keys, places);
    belay_contract_target target = target_of(&stage, name, scope, only);
    target.backends = tables;
    int failed = made ? belay_contract_run(&target, stdout) : 1;
    place_remove(&stage.place);
    return failed;
}

/* Memory, with a switch: what is asked while it is off is never answered. */
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

static void silence(void *arg)
{
    (void)arg;
    atomic_store(&silent, true);
}

static void sound(void *arg)
{
    (void)arg;
    atomic_store(&silent, false);
}

static int run_silent(const char *only)
{
    belay_backend_ops ops = belay__memory_ops;
    ops.type = "silent";
    ops.url_schemes = NULL;
    ops.acquire = silent_acquire;
    ops.release = silent_release;
    ops.extend = silent_extend;
    ops.inspect = silent_inspect;
    ops.list = silent_list;
    ops.break_lock = silent_break_lock;
    ops.cancel = silent_cancel;
    const belay_backend_ops *tables[] = { &ops, NULL };
    struct stage stage = { 0 };
    if (!place_make(&stage.place)) return 1;
    bool made = configure(&stage, "",
                          "one: { type = \"silent\"; name = \"silent1\"; }; "
                          "two: { type = \"silent\"; name = \"silent2\"; };");
    belay_contract_target target =
        target_of(&stage, "fallback(silent, silent)", BELAY_SCOPE_PROCESS, only);
    target.backends = tables;
    target.at_best = BELAY_SCOPE_ANY;
    target.stop = silence;
    target.cont = sound;
    if (only == NULL) target.only = "failure/*";
    int failed = made ? belay_contract_run(&target, stdout) : 1;
    place_remove(&stage.place);
    return failed;
}

static int run_memories(const char *only)
{
    int failed = run_memory("fallback(memory, memory)", BELAY_SCOPE_FLEET, "",
                            "one: { type = \"wide\"; name = \"main\"; }; "
                            "two: { type = \"memory\"; name = \"local\"; };",
                            only);
    failed += run_memory("fallback(broken, memory)", BELAY_SCOPE_PROCESS, "",
                         "gone: { type = \"wide\"; }; "
                         "one: { type = \"fault\"; child = \"gone\"; "
                         "acquire: { unavailable = 1.0; }; release: { unavailable = 1.0; }; "
                         "extend: { unavailable = 1.0; }; inspect: { unavailable = 1.0; }; }; "
                         "two: { type = \"memory\"; name = \"left\"; };",
                         only);
    failed += run_memory("fallback(memory, memory), host_first off", BELAY_SCOPE_FLEET,
                         "host_first = false;",
                         "one: { type = \"wide\"; name = \"main2\"; }; "
                         "two: { type = \"memory\"; name = \"local2\"; };",
                         only);
    return failed + run_silent(only);
}

/* ------------------------------------------------------------------ redis over sqlite */

static void freeze(void *arg)
{
    struct stage *stage = arg;
    server_freeze(&stage->server);
}

static void thaw(void *arg)
{
    struct stage *stage = arg;
    server_thaw(&stage->server);
}

static long peek(void *arg)
{
    struct stage *stage = arg;
    long mine = server_lock_keys(&stage->server, "belay:");
    long others = server_lock_keys(&stage->server, "other:");
    return mine < 0 || others < 0 ? -1 : mine + others;
}

static bool configure_redis(struct stage *stage, const char *own, const char *keys)
{
    char places[384];
    snprintf(places, sizeof places,
             "one: { type = \"redis\"; host = \"127.0.0.1\"; port = %d; %s }; "
             "two: { type = \"sqlite\"; path = \"%s/locks.db\"; };",
             stage->server.port, keys, stage->place.folder);
    return configure(stage, own, places);
}

/* The server comes back to life, and executes what it was asked: nothing of it may stay. */
static int remains(struct stage *stage)
{
    server_thaw(&stage->server);
    if (until_within(20000, peek(stage) == 0)) return 0;
    fprintf(stderr, "%ld locks were left behind on the server\n", peek(stage));
    return 1;
}

static int run_redis(const char *way, const char *only)
{
    static struct stage stage;
    bool down = strcmp(way, "down") == 0, frozen = strcmp(way, "frozen") == 0;
    bool closed = strcmp(way, "closed") == 0;
    char name[48];
    snprintf(name, sizeof name, "fallback(redis, sqlite) %.8s", way);
    if (!place_make(&stage.place)) return 1;
    bool made = server_start(&stage.server, NULL);
    made = made && configure_redis(&stage, closed ? "policy = \"closed\";" : "",
                                   down || frozen ? "timeout = \"20ms\";" : "");
    belay_contract_target target =
        target_of(&stage, name, down || frozen ? BELAY_SCOPE_HOST : BELAY_SCOPE_FLEET, only);
    target.real_time = target.late = true;
    target.peek = down || frozen ? NULL : peek;
    if (down) server_kill(&stage.server);
    if (frozen) server_freeze(&stage.server);
    if (closed) {
        target.stop = freeze;
        target.cont = thaw;
        if (only == NULL) target.only = "failure/a_[cklrw]*";
    }
    int failed = made ? belay_contract_run(&target, stdout) : 1;
    if (made && frozen) failed += remains(&stage);
    server_end(&stage.server);
    place_remove(&stage.place);
    return failed;
}

int main(int argc, char **argv)
{
    const char *way = argc > 1 ? argv[1] : "memory", *only = argc > 2 ? argv[2] : NULL;
    int failed = strcmp(way, "memory") == 0 ? run_memories(only) : run_redis(way, only);
    return failed != 0;
}
