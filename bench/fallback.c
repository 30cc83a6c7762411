/* fallback.c - what a fallback over Redis and SQLite costs: with Redis healthy, without it, and
 * when it goes and comes back.
 *
 * Healthy, the floor is the sum of what the two cost alone (host_first), or the primary alone
 * (host_first off): both belay's own, in the same process, in turn. Degraded it is belay on SQLite
 * alone. Of an outage it is what a client of Redis alone sees of the same outage: its first
 * UNAVAILABLE, its first grant afterwards.
 *
 * Everything runs on one processor, the server as well, as in the pinned rows of bench_redis.
 *
 *   bench_fallback [--json] [--quick] [DIRECTORY...]    of SQLite's file; default: $TMPDIR or /tmp,
 *                                                       and /dev/shm
 */
#define _GNU_SOURCE
#include "common_redis.h"

#include <belay/belay.h>
#include <errno.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { NAMES = 64, ROUNDS = 15, OUTAGES = 5 };
enum { TIMEOUT_MS = 500, PROBE_MS = 1000, TTL_MS = 3000 };

#define MS INT64_C(1000000)

static struct bench_redis redis;
static char folder[300]; /* of SQLite's files */

struct scene {
    enum bench_road road;
    bool fencing;
};

/* ------------------------------------------------------------------ opening */

/* `use`: redis, sqlite, fallback, or late (host_first off). Each has a file of its own. */
static belay *open_client(const struct scene *scene, const char *use)
{
    char path[400], address[200];
    belay *client;
    belay_error err = BELAY_ERROR_INIT;
    if (scene->road == BENCH_UNIX) snprintf(address, sizeof address, "path = \"%s\"", redis.socket);
    else snprintf(address, sizeof address, "host = \"127.0.0.1\"; port = %d", redis.port);
    snprintf(path, sizeof path, "%s/bench.conf", folder);
    FILE *file = fopen(path, "we");
    if (file == NULL) bench_die(path, strerror(errno));
    fprintf(file,
            "use = \"%s\"; fencing = %s; keep = false; ttl = \"%dms\";\n"
            "backends: {\n"
            "  redis: { type = \"redis\"; %s; timeout = \"%dms\"; };\n"
            "  sqlite: { type = \"sqlite\"; path = \"%s/%s.db\"; };\n"
            "  fallback: { type = \"fallback\"; primary = \"redis\"; secondary = \"sqlite\";\n"
            "              probe_every = \"%dms\"; probe_most = \"%dms\"; };\n"
            "  late: { type = \"fallback\"; primary = \"redis\"; secondary = \"sqlite\";\n"
            "          host_first = false; };\n"
            "};\n",
            use, scene->fencing ? "true" : "false", TTL_MS, address, TIMEOUT_MS, folder, use,
            PROBE_MS, PROBE_MS);
    if (fclose(file) != 0) bench_die(path, strerror(errno));
    bench_need(belay_open(&client, path, NULL, &err), path, err.text);
    unlink(path);
    return client;
}

static belay_status try_take(belay *client, const char *name, belay_lock **out)
{
    belay_options options = BELAY_OPTIONS_INIT;
    options.wait_ms = BELAY_TRY;
    return belay_acquire(client, name, &options, out, NULL);
}

/* ------------------------------------------------------------------ healthy, and degraded */

/* Microseconds of an acquire and release. */
static double cycle_us(belay *client, belay_scope scope)
{
    belay_error err = BELAY_ERROR_INIT;
    char name[32];
    int64_t i = 0, start = bench_now(), end = start + (bench_quick() ? 20 : 200) * MS;
    for (; bench_now() < end; i++) {
        belay_lock *lock;
        snprintf(name, sizeof name, "nightly-%d", (int)(i % NAMES));
        bench_need(belay_acquire(client, name, NULL, &lock, &err), name, err.text);
        if (belay_lock_scope(lock) != scope) bench_die(name, "has another scope");
        bench_need(belay_release(lock, &err), name, err.text);
    }
    return (double)(bench_now() - start) / 1e3 / (double)i;
}

static size_t rounds_wanted(void)
{
    return bench_quick() ? 2 : ROUNDS;
}

/* bench_pair_of sorts: it gets copies, a figure is looked at more than once. */
static struct bench_pair pair_of(const double *ours, const double *bare)
{
    double of_ours[ROUNDS], of_bare[ROUNDS];
    memcpy(of_ours, ours, sizeof of_ours);
    memcpy(of_bare, bare, sizeof of_bare);
    return bench_pair_of(of_ours, of_bare, rounds_wanted());
}

static void cost_row(const char *what, const double *ours, const double *bare, const char *floor_is,
                     double ratio_under)
{
    bench_row(&(struct bench_row){ .what = what,
                                   .unit = "us",
                                   .pair = pair_of(ours, bare),
                                   .floor_is = floor_is,
                                   .ratio_under = ratio_under });
}

static void healthy(const struct scene *scene, const char *directory)
{
    static const char *const uses[] = { "fallback", "late", "redis", "sqlite" };
    enum { FALLBACK, LATE, REDIS, SQLITE, USES };
    belay *clients[USES];
    double us[USES][ROUNDS], sum[ROUNDS];
    char what[96];
    const char *road = bench_road_name(scene->road), *fenced = scene->fencing ? "" : "un";
    for (int i = 0; i < USES; i++) {
        clients[i] = open_client(scene, uses[i]);
        cycle_us(clients[i], i == SQLITE ? BELAY_SCOPE_HOST : BELAY_SCOPE_FLEET);
    }
    for (size_t round = 0; round < rounds_wanted(); round++) {
        for (int i = 0; i < USES; i++)
            us[i][round] = cycle_us(clients[i], i == SQLITE ? BELAY_SCOPE_HOST : BELAY_SCOPE_FLEET);
        sum[round] = us[REDIS][round] + us[SQLITE][round];
    }
    for (int i = 0; i < USES; i++) belay_close(clients[i]);
    snprintf(what, sizeof what, "%s, %sfenced, %s", road, fenced, directory);
    cost_row(what, us[FALLBACK], sum, "redis alone + sqlite alone", 1.1);
    snprintf(what, sizeof what, "  the same, host_first off");
    cost_row(what, us[LATE], us[REDIS], "redis alone", 1.05);
}

static void degraded(const struct scene *scene, const char *directory)
{
    double ours[ROUNDS], bare[ROUNDS];
    char what[96];
    belay *fallback = open_client(scene, "fallback"), *sqlite = open_client(scene, "sqlite");
    belay_lock *lock = NULL;
    bench_redis_kill(&redis);
    while (try_take(fallback, "first", &lock) != BELAY_OK) continue;
    belay_release(lock, NULL);
    cycle_us(fallback, BELAY_SCOPE_HOST);
    cycle_us(sqlite, BELAY_SCOPE_HOST);
    for (size_t round = 0; round < rounds_wanted(); round++) {
        ours[round] = cycle_us(fallback, BELAY_SCOPE_HOST);
        bare[round] = cycle_us(sqlite, BELAY_SCOPE_HOST);
    }
    belay_close(fallback);
    belay_close(sqlite);
    bench_redis_again(&redis);
    bench_pin(redis.pid, true);
    snprintf(what, sizeof what, "degraded, %sfenced, %s", scene->fencing ? "" : "un", directory);
    cost_row(what, ours, bare, "sqlite alone", 1.1);
}

/* ------------------------------------------------------------------ an outage */

struct outage {
    double degraded[OUTAGES], failed[OUTAGES];        /* until the first answer */
    double slowest[OUTAGES], slowest_sqlite[OUTAGES]; /* acquire afterwards */
    double fleet[OUTAGES], fleet_redis[OUTAGES];      /* until new grants are the fleet's */
    double promoted[OUTAGES];                         /* until the last held one was */
};

/* A lock that is held through the outage. */
struct holder {
    belay_lock *lock;
    _Atomic int64_t fleet_ns, host_ns; /* when it was told so last */
    atomic_bool lost;
};

static void on_scope(void *arg, belay_lock *lock, belay_scope scope)
{
    struct holder *holder = arg;
    (void)lock;
    atomic_store(scope == BELAY_SCOPE_FLEET ? &holder->fleet_ns : &holder->host_ns, bench_now());
}

static void on_lost(void *arg, belay_lock *lock, const belay_error *why)
{
    struct holder *holder = arg;
    (void)lock;
    (void)why;
    atomic_store(&holder->lost, true);
}

static void hold(struct holder *holder, belay *client, const char *name, belay_scope scope)
{
    belay_options options = BELAY_OPTIONS_INIT;
    belay_error err = BELAY_ERROR_INIT;
    options.keep = BELAY_KEEP_ON;
    options.on_scope = on_scope;
    options.on_lost = on_lost;
    options.arg = holder;
    atomic_store(&holder->fleet_ns, 0);
    atomic_store(&holder->host_ns, 0);
    atomic_store(&holder->lost, false);
    bench_need(belay_acquire(client, name, &options, &holder->lock, &err), name, err.text);
    if (belay_lock_scope(holder->lock) != scope) bench_die(name, "has another scope");
}

static double ms_since(int64_t from)
{
    return (double)(bench_now() - from) / 1e6;
}

/* Tries until a grant has that scope. */
static double until_scope(belay *client, belay_scope scope, int64_t from)
{
    for (;; bench_sleep(MS)) {
        belay_lock *lock;
        if (try_take(client, "new", &lock) != BELAY_OK) continue;
        double ms = ms_since(from);
        bool it_is = belay_lock_scope(lock) == scope;
        belay_release(lock, NULL);
        if (it_is) return ms;
    }
}

/* The slowest acquire of so long, probes and all. */
static double slowest_ms(belay *client, int64_t ns)
{
    double slowest = 0;
    for (int64_t end = bench_now() + ns; bench_now() < end; bench_sleep(MS / 4)) {
        belay_lock *lock;
        int64_t start = bench_now();
        if (try_take(client, "new", &lock) != BELAY_OK) bench_die("degraded", "no grant");
        double ms = ms_since(start);
        if (ms > slowest) slowest = ms;
        belay_release(lock, NULL);
    }
    return slowest;
}

static void go(bool killed)
{
    if (killed) bench_redis_kill(&redis);
    else kill(redis.pid, SIGSTOP);
}

static int64_t come_back(bool killed)
{
    int64_t at = bench_now();
    if (killed) {
        bench_redis_again(&redis);
        at = bench_now();
        bench_pin(redis.pid, true);
    } else {
        kill(redis.pid, SIGCONT);
    }
    return at;
}

/* False: it was lost. Of a machine that stood still for a TTL that says nothing. */
static bool wait_for(struct holder *holder, _Atomic int64_t *moment, const char *what)
{
    int64_t end = bench_now() + 20000 * MS;
    while (atomic_load(moment) == 0 && !atomic_load(&holder->lost)) {
        if (bench_now() > end) bench_die(what, "never");
        bench_sleep(MS / 4);
    }
    return !atomic_load(&holder->lost);
}

/* The client of Redis alone gets an outage of its own: on one processor they would disturb each
 * other. */
static void outage_alone(const struct scene *scene, bool killed, struct outage *out, size_t i)
{
    belay *client = open_client(scene, "redis");
    belay_lock *lock;
    until_scope(client, BELAY_SCOPE_FLEET, bench_now());
    int64_t from = bench_now();
    go(killed);
    while (try_take(client, "new", &lock) == BELAY_OK) belay_release(lock, NULL);
    out->failed[i] = ms_since(from);
    from = come_back(killed);
    out->fleet_redis[i] = until_scope(client, BELAY_SCOPE_FLEET, from);
    belay_close(client);
}

static bool outage_once(const struct scene *scene, bool killed, struct outage *out, size_t i)
{
    belay *client = open_client(scene, "fallback"), *sqlite = open_client(scene, "sqlite");
    struct holder demoted, began;
    until_scope(client, BELAY_SCOPE_FLEET, bench_now());
    hold(&demoted, client, "demoted", BELAY_SCOPE_FLEET);
    int64_t from = bench_now();
    go(killed);
    out->degraded[i] = until_scope(client, BELAY_SCOPE_HOST, from);
    hold(&began, client, "began", BELAY_SCOPE_HOST);
    int64_t watched = (bench_quick() ? 200 : 2500) * MS;
    out->slowest[i] = slowest_ms(client, watched);
    out->slowest_sqlite[i] = slowest_ms(sqlite, watched);
    bool well = wait_for(&demoted, &demoted.host_ns, "demotion");
    from = come_back(killed);
    out->fleet[i] = until_scope(client, BELAY_SCOPE_FLEET, from);
    well = well && wait_for(&demoted, &demoted.fleet_ns, "promotion") &&
           wait_for(&began, &began.fleet_ns, "promotion");
    int64_t last = atomic_load(&demoted.fleet_ns), other = atomic_load(&began.fleet_ns);
    if (other > last) last = other;
    out->promoted[i] = (double)(last - from) / 1e6;
    belay_release(demoted.lock, NULL);
    belay_release(began.lock, NULL);
    belay_close(client);
    belay_close(sqlite);
    return well;
}

/* The worst of all outages: the targets are promises. */
static double worst(const double *values, size_t count)
{
    double most = 0;
    for (size_t i = 0; i < count; i++)
        if (values[i] > most) most = values[i];
    return most;
}

static void worst_row(const char *what, const double *ours, const double *bare, size_t count,
                      const char *floor_is, double belay_under)
{
    struct bench_pair pair = { .belay = worst(ours, count) };
    if (bare != NULL) {
        pair.floor = worst(bare, count);
        pair.ratio = pair.floor > 0 ? pair.belay / pair.floor : 0;
    }
    bench_row(&(struct bench_row){ .what = what,
                                   .unit = "ms",
                                   .pair = pair,
                                   .floor_is = floor_is,
                                   .belay_under = belay_under });
}

static void outages(const struct scene *scene, bool killed)
{
    struct outage out;
    char what[96];
    size_t count = bench_quick() ? 1 : OUTAGES;
    for (size_t i = 0; i < count; i++) {
        for (int tries = 0; !outage_once(scene, killed, &out, i); tries++)
            if (tries == 5) bench_die("an outage", "held locks are lost: does the machine stall?");
        outage_alone(scene, killed, &out, i);
    }
    snprintf(what, sizeof what, "%s to the first degraded grant, %s",
             killed ? "kill -9" : "SIGSTOP", bench_road_name(scene->road));
    worst_row(what, out.degraded, out.failed, count, "redis alone: UNAVAILABLE", TIMEOUT_MS + 50);
    worst_row("  the slowest acquire in 2.5 s afterwards", out.slowest, out.slowest_sqlite, count,
              "sqlite alone", 100);
    worst_row("  back, to fleet scope of new grants", out.fleet, out.fleet_redis, count,
              "redis alone: its first grant", PROBE_MS + 200);
    worst_row("  back, to fleet scope of held ones", out.promoted, NULL, count, NULL,
              PROBE_MS + 1200);
}

/* ------------------------------------------------------------------ the report */

static void directory_measure(const char *directory)
{
    static const struct scene scenes[] = {
        { BENCH_UNIX, true }, { BENCH_UNIX, false }, { BENCH_TCP, true }, { BENCH_TCP, false }
    };
    snprintf(folder, sizeof folder, "%s/belay-bench-XXXXXX", directory);
    if (mkdtemp(folder) == NULL) bench_die(folder, "cannot be made");
    for (size_t i = 0; i < 4; i++) healthy(&scenes[i], directory);
    for (size_t i = 0; i < 2; i++) degraded(&scenes[i], directory);
    bench_remove(folder);
}

int main(int argc, char **argv)
{
    int next = bench_begin("fallback", argc, argv);
    const char *directory = getenv("TMPDIR");
    struct stat first, second;
    if (directory == NULL || directory[0] == '\0') directory = "/tmp";
    bench_redis_start(&redis);
    bench_fact("redis", "%s", redis.version);
    bench_fact("sqlite", "%s", sqlite3_libversion());
    bench_pin(getpid(), true);
    bench_pin(redis.pid, true);
    if (next < argc) {
        for (; next < argc; next++) directory_measure(argv[next]);
    } else {
        directory_measure(directory);
        if (stat(directory, &first) == 0 && stat("/dev/shm", &second) == 0 &&
            first.st_dev != second.st_dev)
            directory_measure("/dev/shm");
    }
    snprintf(folder, sizeof folder, "%s/belay-bench-XXXXXX", directory);
    if (mkdtemp(folder) == NULL) bench_die(folder, "cannot be made");
    for (int killed = 1; killed >= 0; killed--)
        for (int road = 0; road < 2; road++)
            outages(&(struct scene){ road == 0 ? BENCH_TCP : BENCH_UNIX, true }, killed != 0);
    bench_remove(folder);
    bench_redis_end(&redis);
    return bench_end();
}
