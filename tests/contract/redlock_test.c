/* redlock_test.c - the conformance suite on a quorum: to an application it is one place, with all
 * of its nodes and without one.
 *
 *   redlock_test memory|three|five|without|frozen|stops|sqlite [PATTERN]
 *
 * "memory" is three of memory: as they are, and with one that fails every time. The others are on
 * real redis-servers: three, and the same with one that is down or frozen throughout; five; three
 * that all stop and go on (what is left of the suite when a place stops answering); and "sqlite", a
 * fallback over three whose secondary is sqlite.
 *
 * A max_ttl below the longest TTL is not what the suite is about. The servers were started a moment
 * ago, and nobody has used them before: they need no quarantine. Eight threads on two processors,
 * and a sanitizer, may be slower than the default node_timeout. What asks all nodes, as a list
 * does, waits for one that is away for node_timeout, which is shorter then: a TTL that is over by
 * then is no time to find out. They are run by hand: a busy machine is slower than that. */
#define _POSIX_C_SOURCE 200809L
#include "place.h"
#include "tests/live/server.h"
#include "tests/live/until.h"

enum { SERVERS = 5 };

struct stage {
    struct place place;
    struct server servers[SERVERS];
    int count;
    int away;                 /* the node that is down or frozen throughout; -1: none */
    const char *conf, *other; /* config files; the second has another prefix */
};

static belay_status open_stage(void *arg, int which, const belay_open_options *options, belay **out,
                               belay_error *err)
{
    const struct stage *stage = arg;
    bool other = which == BELAY_CONTRACT_OTHER_PREFIX;
    return belay_open(out, other ? stage->other : stage->conf, options, err);
}

/* `use` is one of `backends`. */
static bool configure(struct stage *stage, const char *use, const char *backends)
{
    char text[2048];
    for (int i = 0; i < 2; i++) {
        snprintf(text, sizeof text, "use = \"%s\";\n%sbackends: {\n%s\n};\n", use,
                 i == 0 ? "" : "prefix = \"other:\";\n", backends);
        const char *path = place_config(&stage->place, text);
        if (path == NULL) return false;
        if (i == 0) stage->conf = path;
        else stage->other = path;
    }
    return true;
}

static belay_contract_target target_of(struct stage *stage, const char *name, const char *only)
{
    return (belay_contract_target){
        BELAY_CONTRACT_TARGET_HEAD,
        .name = name,
        .open = open_stage,
        .arg = stage,
        .fencing = true,
        .token_by_name = true, /* T is the largest of the votes: two names may meet at one */
        .inspects = true,
        .lists = true,
        .breaks = true,
        .wakes = true,
        .prefixes = true,
        .only = only,
    };
}

/* ------------------------------------------------------------------ memory */

static int run_memory(const char *name, const char *nodes, const char *only)
{
    struct stage stage = { 0 };
    if (!place_make(&stage.place)) return 1;
    bool made = configure(&stage, "r", nodes);
    belay_contract_target target = target_of(&stage, name, only);
    target.scope = BELAY_SCOPE_PROCESS;
    target.tells = true;
    int failed = made ? belay_contract_run(&target, stdout) : 1;
    place_remove(&stage.place);
    return failed;
}

static int run_memories(const char *only)
{
    int failed =
        run_memory("redlock(memory x 3)",
                   "a: { type = \"memory\"; name = \"a\"; }; "
                   "b: { type = \"memory\"; name = \"b\"; }; "
                   "c: { type = \"memory\"; name = \"c\"; }; "
                   "r: { type = \"redlock\"; max_ttl = \"168h\"; nodes = (\"a\", \"b\", \"c\"); };",
                   only);
    return failed +
           run_memory(
               "redlock(memory x 3), one broken",
               "d: { type = \"memory\"; name = \"d\"; }; "
               "a: { type = \"fault\"; child = \"d\"; acquire: { unavailable = 1.0; }; "
               "release: { unavailable = 1.0; }; extend: { unavailable = 1.0; }; "
               "inspect: { unavailable = 1.0; }; }; "
               "b: { type = \"memory\"; name = \"e\"; }; "
               "c: { type = \"memory\"; name = \"f\"; }; "
               "r: { type = \"redlock\"; max_ttl = \"168h\"; nodes = (\"a\", \"b\", \"c\"); };",
               only);
}

/* ------------------------------------------------------------------ real servers */

static void stop(void *arg)
{
    struct stage *stage = arg;
    for (int i = 0; i < stage->count; i++) server_freeze(&stage->servers[i]);
}

static void cont(void *arg)
{
    struct stage *stage = arg;
    for (int i = 0; i < stage->count; i++) server_thaw(&stage->servers[i]);
}

/* A lock that is anywhere counts, once for all the nodes. */
static long peek(void *arg)
{
    struct stage *stage = arg;
    long most = 0;
    for (int i = 0; i < stage->count; i++) {
        if (i == stage->away) continue;
        long mine = server_lock_keys(&stage->servers[i], "belay:");
        long others = server_lock_keys(&stage->servers[i], "other:");
        if (mine < 0 || others < 0) return -1;
        if (mine + others > most) most = mine + others;
    }
    return most;
}

static bool make(struct stage *stage, const char *use)
{
    char text[1536];
    int used = 0;
    for (int i = 0; i < stage->count; i++) {
        if (!server_start(&stage->servers[i], NULL)) return false;
        used += snprintf(
            text + used, sizeof text - (size_t)used,
            "n%d: { type = \"redis\"; host = \"127.0.0.1\"; port = %d; timeout = \"1s\"; };\n", i,
            stage->servers[i].port);
    }
    used +=
        snprintf(text + used, sizeof text - (size_t)used,
                 "r: { type = \"redlock\"; max_ttl = \"168h\"; quarantine = false; "
                 "node_timeout = \"%s\"; timeout = \"1s\"; nodes = (\"n0\", \"n1\", \"n2\"%s); };\n"
                 "s: { type = \"sqlite\"; path = \"%s/locks.db\"; };\n"
                 "f: { type = \"fallback\"; primary = \"r\"; secondary = \"s\"; };\n",
                 stage->away < 0 ? "400ms" : "100ms", stage->count == 5 ? ", \"n3\", \"n4\"" : "",
                 stage->place.folder);
    return used < (int)sizeof text && configure(stage, use, text);
}

/* The frozen one comes back to life, and executes what it was asked: nothing of it may stay. */
static int remains(struct stage *stage)
{
    server_thaw(&stage->servers[stage->away]);
    stage->away = -1;
    if (until_within(70000, peek(stage) == 0)) return 0;
    fprintf(stderr, "%ld locks were left behind\n", peek(stage));
    return 1;
}

static int run_redis(const char *way, const char *only)
{
    static struct stage stage;
    bool frozen = strcmp(way, "frozen") == 0, without = strcmp(way, "without") == 0;
    char name[48];
    stage.count = strcmp(way, "five") == 0 ? 5 : 3;
    stage.away = frozen || without ? 0 : -1;
    snprintf(name, sizeof name, "redlock(%d redis) %.8s", stage.count, way);
    if (!place_make(&stage.place)) return 1;
    bool made = make(&stage, strcmp(way, "sqlite") == 0 ? "f" : "r");
    belay_contract_target target = target_of(&stage, name, only);
    target.scope = BELAY_SCOPE_FLEET;
    target.late = target.real_time = true;
    target.peek = peek;
    if (without) server_kill(&stage.servers[0]);
    if (frozen) server_freeze(&stage.servers[0]);
    if (strcmp(way, "stops") == 0) {
        target.stop = stop;
        target.cont = cont;
        if (only == NULL) target.only = "failure/*";
    }
    int failed = made ? belay_contract_run(&target, stdout) : 1;
    if (made && frozen) failed += remains(&stage);
    for (int i = 0; i < stage.count; i++) server_end(&stage.servers[i]);
    place_remove(&stage.place);
    return failed;
}

int main(int argc, char **argv)
{
    const char *way = argc > 1 ? argv[1] : "memory", *only = argc > 2 ? argv[2] : NULL;
    int failed = strcmp(way, "memory") == 0 ? run_memories(only) : run_redis(way, only);
    return failed != 0;
}
