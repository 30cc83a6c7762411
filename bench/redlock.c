/* redlock.c - acquire and release on a quorum of five Redis servers of our own: one thread, with
 * one and two of them stopped, 64 threads, and a millisecond away.
 *
 * The floor is a bare program: five plain hiredis connections, each command is sent to all five at
 * once, it goes on at three answers and reads the late ones afterwards. The commands are belay's.
 * With stopped servers the floor is belay itself before they were stopped; of 64 threads it is
 * node-redlock with 64 calls at once; far away it is one round trip through the same relay.
 *
 * Pinned is all on one processor, servers and peers as well. Free is as the system places them:
 * then six processes share what there is. A server that was just started does not vote until
 * max_ttl is over: quarantine is off here.
 *
 *   bench_redlock [--json] [--quick] [PART...]      one, stopped, many, far; default: all
 */
#define _GNU_SOURCE
#include "common_peers.h"
#include "tests/fake/relay.h"

#include <belay/belay.h>
#include <errno.h>
#include <hiredis.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { NODES = 5, QUORUM = 3, THREADS = 64, NAMES = 64, ROUNDS = 9 };
enum { NODE_TIMEOUT_MS = 50, FAR_MS = 1, SILENT_CYCLES = 10000, TIMES_MOST = 200000 };

#define MS INT64_C(1000000)

static struct bench_redis servers[NODES];
static struct bench_peer peer; /* node-redlock */
static bool peer_here;
static double times[TIMES_MOST]; /* of single cycles, ns */
static atomic_int calls, without_quorum;

struct scene {
    bool fencing, pinned;
};

static const char *scene_name(const struct scene *scene)
{
    static char text[64];
    snprintf(text, sizeof text, "TCP, %s, %s", scene->pinned ? "pinned" : "free",
             scene->fencing ? "fenced" : "unfenced");
    return text;
}

static size_t rounds_wanted(void)
{
    return bench_quick() ? 2 : ROUNDS;
}

static int64_t part(int64_t ns)
{
    return bench_quick() ? ns / 10 : ns;
}

static void name_make(char *out, size_t size, int number, int64_t i)
{
    snprintf(out, size, "nightly-%d-%d", number, (int)(i % NAMES));
}

static void place(bool pinned)
{
    bench_pin(getpid(), pinned);
    for (int i = 0; i < NODES; i++) bench_pin(servers[i].pid, pinned);
    if (peer_here) bench_pin(peer.pid, pinned);
}

/* ------------------------------------------------------------------ belay */

/* `relays`: NULL, or one before each server. */
static belay *client_open(bool fencing, struct relay *const *relays)
{
    char path[200];
    belay *client;
    belay_error err = BELAY_ERROR_INIT;
    snprintf(path, sizeof path, "%s/bench.conf", servers[0].directory);
    FILE *file = fopen(path, "we");
    if (file == NULL) bench_die(path, strerror(errno));
    fprintf(file, "use = \"redlock\"; fencing = %s; keep = false;\nbackends: {\n",
            fencing ? "true" : "false");
    for (int i = 0; i < NODES; i++)
        fprintf(file, "  n%d: { type = \"redis\"; host = \"127.0.0.1\"; port = %d; };\n", i,
                relays != NULL ? relay_port(relays[i]) : servers[i].port);
    /* For a moment means on a machine that does other things as well. */
    fprintf(file,
            "  redlock: { type = \"redlock\"; nodes = ( \"n0\", \"n1\", \"n2\", \"n3\", \"n4\" );\n"
            "             node_timeout = \"%dms\"; timeout = \"1s\"; quarantine = false; };\n};\n",
            bench_quick() ? 400 : NODE_TIMEOUT_MS);
    if (fclose(file) != 0) bench_die(path, strerror(errno));
    bench_need(belay_open(&client, path, NULL, &err), path, err.text);
    bench_need(belay_ready(client, &err), path, err.text);
    unlink(path);
    return client;
}

/* A machine that is busy with other things may stand still for a node_timeout: that is a row of its
 * own, and no reason to end. */
static void missed(belay_status status, const char *what, const belay_error *err)
{
    static atomic_int said;
    if (status != BELAY_UNAVAILABLE && status != BELAY_UNCERTAIN)
        bench_need(status, what, err->text);
    if (atomic_fetch_add(&said, 1) < 5) fprintf(stderr, "bench: %s: %s\n", what, err->text);
    atomic_fetch_add(&without_quorum, 1);
}

/* Nanoseconds of an acquire, and of the release after it. */
static void belay_cycle(belay *client, int number, int64_t i, int64_t *took, int64_t *gave)
{
    belay_error err = BELAY_ERROR_INIT;
    belay_lock *lock = NULL;
    char name[32];
    name_make(name, sizeof name, number, i);
    int64_t began = bench_now();
    belay_status status = belay_acquire(client, name, NULL, &lock, &err);
    int64_t taken = bench_now();
    if (status != BELAY_OK) missed(status, "acquire", &err);
    else if ((status = belay_release(lock, &err)) != BELAY_OK) missed(status, "release", &err);
    *took = taken - began;
    *gave = bench_now() - taken;
    atomic_fetch_add(&calls, 2);
}

/* Microseconds of a cycle, the median. *slowest_ms: of a single call. */
static double belay_median(belay *client, int64_t ns, double *slowest_ms)
{
    size_t count = 0;
    for (int64_t end = bench_now() + ns; bench_now() < end && count < TIMES_MOST; count++) {
        int64_t took, gave;
        belay_cycle(client, 0, (int64_t)count, &took, &gave);
        times[count] = (double)(took + gave);
        double slower = (double)(took > gave ? took : gave) / 1e6;
        if (slowest_ms != NULL && slower > *slowest_ms) *slowest_ms = slower;
    }
    return bench_median(times, count) / 1e3;
}

/* ------------------------------------------------------------------ the floor */

struct bare {
    struct bench_bare at[NODES];
    int64_t got[NODES]; /* replies; they alternate: taken, gone, taken ... */
    int64_t asked;
};

static void bare_open(struct bare *bare, bool fencing)
{
    *bare = (struct bare){ .asked = 0 };
    for (int i = 0; i < NODES; i++) bench_bare_open(&bare->at[i], &servers[i], BENCH_TCP, fencing);
}

static void bare_close(struct bare *bare)
{
    for (int i = 0; i < NODES; i++) bench_bare_close(&bare->at[i]);
}

/* All that has come on one connection, the late ones as well. */
static void bare_hear(struct bare *bare, int i)
{
    const redisReader *reader = bare->at[i].link->reader;
    do {
        if (bare->got[i]++ % 2 == 0) bench_bare_taken(&bare->at[i]);
        else bench_bare_gone(&bare->at[i]);
    } while (reader->pos < reader->len);
}

/* What was appended goes to all; back when a quorum has answered it. */
static void bare_round(struct bare *bare)
{
    int answers = 0, done;
    for (int i = 0; i < NODES; i++)
        if (redisBufferWrite(bare->at[i].link, &done) != REDIS_OK || !done)
            bench_die("redisBufferWrite", bare->at[i].link->errstr);
    bare->asked++;
    while (answers < QUORUM) {
        struct pollfd polls[NODES];
        for (int i = 0; i < NODES; i++)
            polls[i] =
                (struct pollfd){ .fd = bare->got[i] < bare->asked ? bare->at[i].link->fd : -1,
                                 .events = POLLIN };
        if (poll(polls, NODES, 10000) < 1) bench_die("poll", "no answer");
        for (int i = 0; i < NODES; i++) {
            if (polls[i].revents == 0) continue;
            bare_hear(bare, i);
            answers += bare->got[i] == bare->asked;
        }
    }
}

static double bare_median(struct bare *bare, int64_t ns)
{
    size_t count = 0;
    char name[32];
    int64_t began = bench_now(), now = began;
    for (; now < began + ns && count < TIMES_MOST; count++) {
        /* Names of its own: belay's releases may still be on their way to the slowest. */
        snprintf(name, sizeof name, "bare-%d", (int)(count % NAMES));
        int64_t before = now;
        for (int i = 0; i < NODES; i++) bench_bare_take(&bare->at[i], name);
        bare_round(bare);
        for (int i = 0; i < NODES; i++) bench_bare_let_go(&bare->at[i], name);
        bare_round(bare);
        now = bench_now();
        times[count] = (double)(now - before);
    }
    return bench_median(times, count) / 1e3;
}

/* ------------------------------------------------------------------ one thread after another */

static double peer_median(int64_t ns)
{
    double told;
    bench_peer_tell(&peer, "median %.3f", (double)ns / 1e9);
    bench_peer_hear(&peer, &told, 1);
    return told / 1e3;
}

/* bench_pair_of sorts: it gets copies, a figure is looked at more than once. */
static struct bench_pair pair_of(const double *ours, const double *bare)
{
    double of_ours[ROUNDS], of_bare[ROUNDS];
    memcpy(of_ours, ours, sizeof of_ours);
    memcpy(of_bare, bare, sizeof of_bare);
    return bench_pair_of(of_ours, of_bare, rounds_wanted());
}

static void one_thread(const struct scene *scene)
{
    double ours[ROUNDS], floor[ROUNDS], theirs[ROUNDS] = { 0 };
    int64_t ns = part(400 * MS);
    bool peers = peer_here && !scene->fencing;
    struct bare bare;
    char what[96];
    place(scene->pinned);
    belay *client = client_open(scene->fencing, NULL);
    bare_open(&bare, scene->fencing);
    place(scene->pinned); /* its threads too */
    belay_median(client, ns, NULL);
    bare_median(&bare, ns);
    if (peers) peer_median(ns);
    for (size_t i = 0; i < rounds_wanted(); i++) {
        ours[i] = belay_median(client, ns, NULL);
        floor[i] = bare_median(&bare, ns);
        if (peers) theirs[i] = peer_median(ns);
    }
    snprintf(what, sizeof what, "1 thread, %s, median", scene_name(scene));
    bench_row(&(struct bench_row){ .what = what,
                                   .unit = "us",
                                   .pair = pair_of(ours, floor),
                                   .floor_is = "bare, to all five, on at three",
                                   .ratio_under = scene->fencing ? 1.5 : 1.3 });
    if (peers)
        bench_row(&(struct bench_row){ .what = "  node-redlock, 1 at once",
                                       .unit = "us",
                                       .pair = pair_of(theirs, floor),
                                       .floor_is = "the same" });
    bare_close(&bare);
    belay_close(client);
}

/* ------------------------------------------------------------------ some of them stopped */

/* kB that are in memory. */
static double resident_kb(void)
{
    long pages = 0;
    FILE *file = fopen("/proc/self/statm", "re");
    if (file == NULL || fscanf(file, "%*d %ld", &pages) != 1) bench_die("statm", "cannot be read");
    fclose(file);
    return (double)pages * (double)sysconf(_SC_PAGESIZE) / 1024;
}

/* kB that so many cycles add. */
static double growth_kb(belay *client)
{
    double before = resident_kb();
    int64_t count = bench_quick() ? SILENT_CYCLES / 20 : SILENT_CYCLES, took, gave;
    for (int64_t i = 0; i < count; i++) belay_cycle(client, 0, i, &took, &gave);
    return resident_kb() - before;
}

static void stopped(const struct scene *scene, int silent)
{
    double ours[ROUNDS], healthy[ROUNDS], slowest = 0, slow = 0, grown = 0, silence = 0;
    int64_t ns = part(400 * MS);
    char what[96];
    place(scene->pinned);
    for (size_t i = 0; i < rounds_wanted(); i++) {
        belay *client = client_open(scene->fencing, NULL);
        belay_median(client, ns / 4, NULL);
        healthy[i] = belay_median(client, ns, &slow);
        double before = resident_kb();
        for (int n = 0; n < silent; n++) kill(servers[NODES - 1 - n].pid, SIGSTOP);
        ours[i] = belay_median(client, 4 * ns, &slowest); /* also the first calls, and retries */
        if (resident_kb() - before > silence) silence = resident_kb() - before;
        if (i + 1 == rounds_wanted()) grown = growth_kb(client);
        for (int n = 0; n < silent; n++) kill(servers[NODES - 1 - n].pid, SIGCONT);
        belay_close(client);
    }
    snprintf(what, sizeof what, "%d of 5 stopped, %s, median", silent, scene_name(scene));
    bench_row(&(struct bench_row){ .what = what,
                                   .unit = "us",
                                   .pair = pair_of(ours, healthy),
                                   .floor_is = "belay, none stopped",
                                   .ratio_under = 1.3 });
    bench_row(&(struct bench_row){ .what = "  its slowest call, the first ones too",
                                   .unit = "ms",
                                   .pair = { slowest, slow, slow > 0 ? slowest / slow : 0 },
                                   .floor_is = "the same",
                                   .belay_under = 2 * NODE_TIMEOUT_MS });
    bench_row(&(struct bench_row){ .what = "  memory that the first 1.6 s of it take",
                                   .unit = "kB",
                                   .pair = { .belay = silence } });
    bench_row(&(struct bench_row){ .what = "  memory that 10,000 more cycles add",
                                   .unit = "kB",
                                   .pair = { .belay = grown },
                                   .belay_under = 256 });
}

/* ------------------------------------------------------------------ 64 threads */

struct crowd {
    belay *client;
    pthread_barrier_t start;
    int64_t end_ns;
};

struct member {
    struct crowd *crowd;
    int number;
    int64_t cycles;
    pthread_t thread;
};

static void *member_main(void *arg)
{
    struct member *member = arg;
    pthread_barrier_wait(&member->crowd->start);
    pthread_barrier_wait(&member->crowd->start);
    for (int64_t took, gave; bench_now() < member->crowd->end_ns; member->cycles++)
        belay_cycle(member->crowd->client, member->number, member->cycles, &took, &gave);
    return NULL;
}

/* Cycles a second. */
static double crowd_rate(belay *client, int64_t ns)
{
    struct crowd crowd = { .client = client };
    struct member members[THREADS];
    int64_t cycles = 0;
    pthread_barrier_init(&crowd.start, NULL, THREADS + 1);
    for (int i = 0; i < THREADS; i++) {
        members[i] = (struct member){ .crowd = &crowd, .number = i };
        if (pthread_create(&members[i].thread, NULL, member_main, &members[i]) != 0)
            bench_die("pthread_create", "failed");
    }
    pthread_barrier_wait(&crowd.start); /* all are there */
    int64_t start = bench_now();
    crowd.end_ns = start + ns;
    pthread_barrier_wait(&crowd.start);
    for (int i = 0; i < THREADS; i++) {
        pthread_join(members[i].thread, NULL);
        cycles += members[i].cycles;
    }
    pthread_barrier_destroy(&crowd.start);
    return (double)cycles * 1e9 / (double)(bench_now() - start);
}

static double peer_rate(int64_t ns)
{
    double told[2];
    bench_peer_tell(&peer, "many %d %.3f", THREADS, (double)ns / 1e9);
    bench_peer_hear(&peer, told, 2);
    return told[0] * 1e9 / told[1];
}

static void many_threads(const struct scene *scene)
{
    double ours[ROUNDS], theirs[ROUNDS] = { 0 };
    int64_t ns = part(1000 * MS);
    char what[96];
    place(scene->pinned);
    belay *client = client_open(scene->fencing, NULL);
    crowd_rate(client, ns / 2);
    if (peer_here) peer_rate(ns / 2);
    for (size_t i = 0; i < rounds_wanted(); i++) {
        ours[i] = crowd_rate(client, ns);
        if (peer_here) theirs[i] = peer_rate(ns);
    }
    belay_close(client);
    snprintf(what, sizeof what, "64 threads, %s", scene_name(scene));
    bench_row(
        &(struct bench_row){ .what = what,
                             .unit = "/s",
                             .pair = pair_of(ours, theirs),
                             .floor_is = peer_here ? "node-redlock, 64 at once, unfenced" : NULL,
                             .ratio_over = peer_here && !scene->fencing ? 3 : 0 });
}

/* ------------------------------------------------------------------ a millisecond away */

struct far {
    belay *client;
    redisContext *one; /* through the first relay */
};

/* Microseconds of an acquire, and of a round trip in turn with it: medians of many. */
static void far_medians(const struct far *far, double *acquire_us, double *trip_us)
{
    static double trips[TIMES_MOST];
    size_t count = 0;
    for (int64_t end = bench_now() + part(500 * MS); bench_now() < end; count++) {
        int64_t took, gave;
        belay_cycle(far->client, 0, (int64_t)count, &took, &gave);
        int64_t began = bench_now();
        freeReplyObject(bench_redis_ask(far->one, "PING"));
        trips[count] = (double)(bench_now() - began);
        times[count] = (double)took;
    }
    *acquire_us = bench_median(times, count) / 1e3;
    *trip_us = bench_median(trips, count) / 1e3;
}

static void far_away(const struct scene *scene)
{
    double ours[ROUNDS], trip[ROUNDS];
    struct relay *relays[NODES];
    struct bench_redis through = { .port = 0 };
    struct far far;
    char what[96];
    place(scene->pinned);
    for (int i = 0; i < NODES; i++) {
        relays[i] = relay_start(&(struct relay_options){ .to_port = servers[i].port });
        if (relays[i] == NULL) bench_die("a relay", "cannot be started");
        relay_delay(relays[i], RELAY_UP, FAR_MS);
        relay_delay(relays[i], RELAY_DOWN, FAR_MS);
    }
    through.port = relay_port(relays[0]);
    far.client = client_open(scene->fencing, relays);
    far.one = bench_redis_connect(&through, BENCH_TCP);
    far_medians(&far, ours, trip);
    for (size_t i = 0; i < rounds_wanted(); i++) far_medians(&far, &ours[i], &trip[i]);
    redisFree(far.one);
    belay_close(far.client);
    for (int i = 0; i < NODES; i++) relay_end(relays[i]);
    snprintf(what, sizeof what, "acquire, 1 ms each way, %s", scene_name(scene));
    bench_row(&(struct bench_row){ .what = what,
                                   .unit = "us",
                                   .pair = pair_of(ours, trip),
                                   .floor_is = "one PING through the same relay",
                                   .ratio_under = 1.15 });
}

/* ------------------------------------------------------------------ the report */

static bool wanted(const char *const *parts, const char *part)
{
    bool any = *parts == NULL;
    for (; *parts != NULL; parts++) any = any || strcmp(*parts, part) == 0;
    return any;
}

int main(int argc, char **argv)
{
    int next = bench_begin("redlock", argc, argv);
    const char **parts = (const char **)argv + next;
    for (int i = 0; i < NODES; i++) bench_redis_start(&servers[i]);
    bench_fact("redis", "%s, five of them", servers[0].version);
    bench_fact("hiredis", "%d.%d.%d", HIREDIS_MAJOR, HIREDIS_MINOR, HIREDIS_PATCH);
    peer_here = bench_peer_open(&peer, BENCH_NODE_REDLOCK, servers, NODES);
    bench_fact(peer.name, "%s", peer.version);
    static const struct scene scenes[] = {
        { false, true }, { false, false }, { true, true }, { true, false }
    };
    for (int i = 0; i < 4 && wanted(parts, "one"); i++) one_thread(&scenes[i]);
    for (int i = 0; i < 4 && wanted(parts, "stopped"); i += 2)
        for (int silent = 1; silent <= 2; silent++) stopped(&scenes[i], silent);
    for (int i = 0; i < 4 && wanted(parts, "many"); i++) many_threads(&scenes[i]);
    for (int i = 1; i < 4 && wanted(parts, "far"); i += 2) far_away(&scenes[i]);
    bench_row(
        &(struct bench_row){ .what = "belay's calls that found no quorum in time",
                             .unit = "%",
                             .pair = { .belay = calls > 0 ? 100.0 * without_quorum / calls : 0 },
                             .belay_under = 0.01 });
    if (peer_here) bench_peer_close(&peer);
    for (int i = 0; i < NODES; i++) bench_redis_end(&servers[i]);
    return bench_end();
}
