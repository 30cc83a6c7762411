/* redis_handover.c - one hot name on one Redis server, and what waiting costs.
 *
 * Two processes with eight threads each want one name: each takes it, holds it for nothing or for a
 * millisecond, releases it and queues again at once. Figures: hand-overs a second; the commands
 * that clients sent for each (by MONITOR, in a round of its own: INFO counts what scripts do as
 * well); the luckiest waiter's grants over the unluckiest's; who got nothing. The floor is a token
 * that the same threads of the same processes pass on by BLPOP and RPUSH, each over its own
 * connection, held in the same way.
 *
 * Rows that are named after redis-py or node-redlock show that client in belay's place, two
 * processes with eight waiters each, beside the same floor.
 *
 * The cost of waiting is the processor time of a hundred waiters, twenty processes with one thread
 * and four with twenty, and of the server, while one more client keeps the lock and nobody gets it.
 * The floor is a hundred plain connections of the same threads.
 *
 *   bench_redis_handover [--json] [--quick]
 */
#define _GNU_SOURCE
#include "common_peers.h"

#include <belay/belay.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PROCESSES_MAX = 24, WAITERS_MAX = 100, ROUNDS = 7, IDLE_ROUNDS = 3 };
enum { HOT_PROCESSES = 2, HOT_THREADS = 8, HOT_WAITERS = HOT_PROCESSES * HOT_THREADS };

enum phase { PHASE_BELAY, PHASE_TOKEN, PHASE_IDLE, PHASE_IDLE_BARE, PHASE_END };

/* Shared by all processes of a run. */
struct stage {
    pthread_barrier_t barrier; /* the threads and the parent */
    _Atomic int phase;
    _Atomic int64_t end_ns, hold_ns;
    _Atomic bool fencing;
    _Atomic int64_t grants[WAITERS_MAX];
};

static struct bench_redis redis;
static redisContext *control;
static struct stage *stage;
static int process_count, waiter_count;
static int threads_of[PROCESSES_MAX];
static pid_t pids[PROCESSES_MAX];

/* ------------------------------------------------------------------ a process and its threads */

static struct {
    belay *client;
    pthread_mutex_t mutex; /* who opens it, who closes it */
    int users;
} own = { .mutex = PTHREAD_MUTEX_INITIALIZER };

struct waiter {
    int number; /* among all */
    pthread_t thread;
};

static belay *client_open(bool fencing)
{
    belay *client;
    struct bench_config config = { .road = BENCH_TCP, .fencing = fencing, .keep = true };
    belay_error err = BELAY_ERROR_INIT;
    char where[200];
    bench_redis_where(&redis, &config, where);
    bench_need(belay_open(&client, where, NULL, &err), where, err.text);
    bench_need(belay_ready(client, &err), where, err.text);
    return client;
}

/* One client for the threads of this process, while any of them is in a phase of belay's. */
static belay *client_join(void)
{
    pthread_mutex_lock(&own.mutex);
    if (own.users++ == 0) own.client = client_open(atomic_load(&stage->fencing));
    pthread_mutex_unlock(&own.mutex);
    return own.client;
}

static void client_leave(void)
{
    pthread_mutex_lock(&own.mutex);
    if (--own.users == 0) belay_close(own.client);
    pthread_mutex_unlock(&own.mutex);
}

static belay_lock *take(belay *client, const char *name)
{
    belay_options options = { .size = sizeof options, .wait_ms = BELAY_FOREVER };
    belay_error err = BELAY_ERROR_INIT;
    belay_lock *lock;
    bench_need(belay_acquire(client, name, &options, &lock, &err), "acquire", err.text);
    return lock;
}

static void let_go(belay_lock *lock)
{
    belay_error err = BELAY_ERROR_INIT;
    bench_need(belay_release(lock, &err), "release", err.text);
}

/* It is ours: counts and holds; true when the round is over. */
static bool granted(int number)
{
    int64_t hold_ns = atomic_load(&stage->hold_ns);
    if (bench_now() >= atomic_load(&stage->end_ns)) return true;
    atomic_fetch_add_explicit(&stage->grants[number], 1, memory_order_relaxed);
    if (hold_ns > 0) bench_sleep(hold_ns);
    return false;
}

static void belay_phase(int number)
{
    belay *client = client_join();
    pthread_barrier_wait(&stage->barrier); /* all are open */
    for (bool over = false; !over;) {
        belay_lock *lock = take(client, "hot");
        over = granted(number);
        let_go(lock);
    }
    pthread_barrier_wait(&stage->barrier);
    client_leave();
}

static void token_phase(int number)
{
    redisContext *link = bench_redis_connect(&redis, BENCH_TCP);
    pthread_barrier_wait(&stage->barrier);
    for (bool over = false; !over;) {
        freeReplyObject(bench_redis_ask(link, "BLPOP token 0"));
        over = granted(number);
        freeReplyObject(bench_redis_ask(link, "RPUSH token 1"));
    }
    pthread_barrier_wait(&stage->barrier);
    redisFree(link);
}

/* The parent holds the lock until the figure is taken. */
static void idle_phase(void)
{
    belay *client = client_join();
    pthread_barrier_wait(&stage->barrier);
    let_go(take(client, "idle"));
    pthread_barrier_wait(&stage->barrier);
    client_leave();
}

static void idle_bare_phase(void)
{
    redisContext *link = bench_redis_connect(&redis, BENCH_TCP);
    pthread_barrier_wait(&stage->barrier);
    pthread_barrier_wait(&stage->barrier);
    redisFree(link);
}

static void *waiter_main(void *arg)
{
    const struct waiter *waiter = arg;
    while (true) {
        pthread_barrier_wait(&stage->barrier);
        switch (atomic_load(&stage->phase)) {
        case PHASE_BELAY: belay_phase(waiter->number); break;
        case PHASE_TOKEN: token_phase(waiter->number); break;
        case PHASE_IDLE: idle_phase(); break;
        case PHASE_IDLE_BARE: idle_bare_phase(); break;
        default: return NULL;
        }
    }
}

static void process_main(int first, int threads)
{
    struct waiter waiters[WAITERS_MAX];
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (int i = 0; i < threads; i++) {
        waiters[i].number = first + i;
        if (pthread_create(&waiters[i].thread, NULL, waiter_main, &waiters[i]) != 0)
            bench_die("pthread_create", "failed");
    }
    for (int i = 0; i < threads; i++) pthread_join(waiters[i].thread, NULL);
    _exit(0);
}

/* ------------------------------------------------------------------ the parent */

static void processes_start(void)
{
    pthread_barrierattr_t shared;
    waiter_count = 0;
    for (int i = 0; i < process_count; i++) waiter_count += threads_of[i];
    pthread_barrierattr_init(&shared);
    pthread_barrierattr_setpshared(&shared, PTHREAD_PROCESS_SHARED);
    pthread_barrier_init(&stage->barrier, &shared, (unsigned)waiter_count + 1);
    fflush(stdout);
    for (int i = 0, first = 0; i < process_count; first += threads_of[i], i++) {
        pids[i] = fork();
        if (pids[i] < 0) bench_die("fork", "failed");
        if (pids[i] == 0) process_main(first, threads_of[i]);
    }
}

/* Returns when everybody is connected and begins. */
static void phase_begin(enum phase phase, int64_t ns)
{
    atomic_store(&stage->phase, (int)phase);
    for (int i = 0; i < waiter_count; i++) atomic_store(&stage->grants[i], 0);
    pthread_barrier_wait(&stage->barrier);
    if (phase == PHASE_END) return;
    atomic_store(&stage->end_ns, INT64_MAX);
    pthread_barrier_wait(&stage->barrier);
    atomic_store(&stage->end_ns, bench_now() + ns);
}

static void phase_end(void)
{
    pthread_barrier_wait(&stage->barrier);
}

static void processes_end(void)
{
    phase_begin(PHASE_END, 0);
    for (int i = 0; i < process_count; i++) waitpid(pids[i], NULL, 0);
    pthread_barrier_destroy(&stage->barrier);
}

/* ------------------------------------------------------------------ one hot name */

struct hot {
    bool fencing, pinned, peers; /* peers know no fencing */
    int64_t hold_ns;
};

/* Belay, the token, then peers: two processes each. */
struct player {
    const char *name;
    struct bench_peer *peers; /* HOT_PROCESSES of them, or NULL */
    enum phase phase;
    double rate[ROUNDS], spread[ROUNDS], commands[ROUNDS], nothing;
};

static struct bench_peer peers[BENCH_PEER_KINDS][HOT_PROCESSES];
static struct player players[2 + BENCH_PEER_KINDS];
static size_t player_count;

/* Seen by MONITOR: everybody is connected; the round is over. */
static const char BEGIN[] = "belay-bench-begin", END[] = "belay-bench-end";

static void marker_send(const char *marker)
{
    freeReplyObject(bench_redis_ask(control, "ECHO %s", marker));
}

static void play(const struct player *player, const struct hot *hot, int64_t ns,
                 double grants[HOT_WAITERS])
{
    if (player->peers == NULL) {
        atomic_store(&stage->hold_ns, hot->hold_ns);
        atomic_store(&stage->fencing, hot->fencing);
        if (player->phase == PHASE_TOKEN)
            freeReplyObject(bench_redis_ask(control, "RPUSH token 1"));
        phase_begin(player->phase, ns);
        marker_send(BEGIN);
        phase_end();
        if (player->phase == PHASE_TOKEN) freeReplyObject(bench_redis_ask(control, "DEL token"));
        for (int i = 0; i < HOT_WAITERS; i++) grants[i] = (double)atomic_load(&stage->grants[i]);
        return;
    }
    marker_send(BEGIN);
    for (int i = 0; i < HOT_PROCESSES; i++)
        bench_peer_tell(&player->peers[i], "hot %d %.3f %.3f", HOT_THREADS,
                        (double)hot->hold_ns / 1e6, (double)ns / 1e9);
    for (size_t i = 0; i < HOT_PROCESSES; i++)
        bench_peer_hear(&player->peers[i], grants + i * HOT_THREADS, HOT_THREADS);
}

static double sum_of(const double *values, size_t count)
{
    double sum = 0;
    for (size_t i = 0; i < count; i++) sum += values[i];
    return sum;
}

/* Grants a second, and how they are shared. The end of a round is not counted. */
static void play_timed(struct player *player, const struct hot *hot, int64_t ns, size_t at)
{
    double grants[HOT_WAITERS], least, most = 0, nothing = 0;
    play(player, hot, ns, grants);
    least = grants[0];
    for (int i = 0; i < HOT_WAITERS; i++) {
        if (grants[i] < least) least = grants[i];
        if (grants[i] > most) most = grants[i];
        nothing += grants[i] == 0;
    }
    player->rate[at] = sum_of(grants, HOT_WAITERS) * 1e9 / (double)ns;
    player->spread[at] = most / (least > 0 ? least : 1);
    if (nothing > player->nothing) player->nothing = nothing;
}

/* True for a command that a client sent; MONITOR shows those of scripts as "[0 lua]". */
static bool monitored_from_client(const char *line)
{
    const char *from = strchr(line, '['), *end = from != NULL ? strchr(from, ']') : NULL;
    return end != NULL && !(end - from > 4 && strncmp(end - 4, " lua", 4) == 0);
}

/* The commands that clients send for each hand-over, connecting left out. */
static void play_monitored(struct player *player, const struct hot *hot, int64_t ns, size_t at)
{
    redisContext *monitor = bench_redis_connect(&redis, BENCH_UNIX);
    double grants[HOT_WAITERS], commands = 0;
    void *reply;
    freeReplyObject(bench_redis_ask(monitor, "MONITOR"));
    play(player, hot, ns, grants);
    marker_send(END);
    for (bool over = false; !over;) {
        if (redisGetReply(monitor, &reply) != REDIS_OK) bench_die("MONITOR", monitor->errstr);
        const char *line = ((redisReply *)reply)->str;
        over = strstr(line, END) != NULL;
        if (strstr(line, BEGIN) != NULL) commands = 0;
        else commands += !over && monitored_from_client(line);
        freeReplyObject(reply);
    }
    redisFree(monitor);
    /* Everybody had it once more at the end. */
    player->commands[at] = commands / (sum_of(grants, HOT_WAITERS) + HOT_WAITERS);
}

static size_t rounds_wanted(void)
{
    return bench_quick() ? 2 : ROUNDS;
}

static struct bench_pair pair_of(const double *ours, const double *bare)
{
    double of_ours[ROUNDS], of_bare[ROUNDS];
    memcpy(of_ours, ours, sizeof of_ours);
    memcpy(of_bare, bare, sizeof of_bare);
    return bench_pair_of(of_ours, of_bare, rounds_wanted());
}

static void hot_rows(const struct player *player, const char *what, double ratio_over)
{
    const struct player *bare = &players[1];
    bool ours = player == &players[0];
    struct bench_row rate = { what, "/s", pair_of(player->rate, bare->rate),
                              "token by BLPOP and RPUSH", .ratio_over = ratio_over };
    struct bench_row commands = { "  commands sent for each", "",
                                  pair_of(player->commands, bare->commands), "the same",
                                  .belay_under = ours ? 4 : 0 };
    struct bench_row spread = { "  luckiest waiter over unluckiest", "",
                                pair_of(player->spread, bare->spread), "the same",
                                .belay_under = ours ? 1.5 : 0 };
    struct bench_row nothing = { "  waiters with nothing, worst round",
                                 "",
                                 { .belay = player->nothing, .floor = bare->nothing },
                                 "the same",
                                 .belay_under = ours ? 1 : 0 };
    bench_row(&rate);
    bench_row(&commands);
    bench_row(&spread);
    bench_row(&nothing);
}

static void hot_pin(bool pinned)
{
    bench_pin(redis.pid, pinned);
    for (int i = 0; i < HOT_PROCESSES; i++) bench_pin(pids[i], pinned);
    for (size_t p = 2; p < player_count; p++)
        for (int i = 0; i < HOT_PROCESSES; i++) bench_pin(players[p].peers[i].pid, pinned);
}

static void hot_name(const struct hot *hot, double ratio_over)
{
    int64_t ns = bench_quick() ? 200000000 : 2000000000;
    size_t count = hot->peers ? player_count : 2;
    char what[96];
    hot_pin(hot->pinned);
    for (size_t p = 0; p < count; p++) players[p].nothing = 0;
    for (size_t i = 0; i < rounds_wanted(); i++)
        for (size_t p = 0; p < count; p++) {
            play_monitored(&players[p], hot, ns / 4, i);
            play_timed(&players[p], hot, ns, i);
        }
    snprintf(what, sizeof what, "held %d ms, %s, %s", (int)(hot->hold_ns / 1000000),
             hot->pinned ? "pinned" : "free", hot->fencing ? "fenced" : "unfenced");
    hot_rows(&players[0], what, ratio_over);
    for (size_t p = 2; p < count; p++) {
        snprintf(what, sizeof what, "  %s, held %d ms", players[p].name,
                 (int)(hot->hold_ns / 1000000));
        hot_rows(&players[p], what, 0);
    }
}

static void hot_names(void)
{
    static const struct hot hots[] = {
        { .fencing = true, .pinned = true },
        { .fencing = true },
        { .pinned = true, .peers = true },
        { .fencing = true, .pinned = true, .hold_ns = 1000000 },
        { .fencing = true, .hold_ns = 1000000 },
        { .pinned = true, .peers = true, .hold_ns = 1000000 },
    };
    process_count = HOT_PROCESSES;
    for (int i = 0; i < HOT_PROCESSES; i++) threads_of[i] = HOT_THREADS;
    processes_start();
    for (size_t i = 0; i < sizeof hots / sizeof *hots; i++)
        hot_name(&hots[i], hots[i].hold_ns == 0 ? 0.5 : 0.9);
    processes_end();
}

static void players_open(void)
{
    players[0] = (struct player){ .name = "belay", .phase = PHASE_BELAY };
    players[1] = (struct player){ .name = "token", .phase = PHASE_TOKEN };
    player_count = 2;
    for (int kind = 0; kind < BENCH_PEER_KINDS; kind++) {
        bool here = bench_peer_open(&peers[kind][0], kind, &redis, 1);
        bench_fact(peers[kind][0].name, "%s", peers[kind][0].version);
        for (int i = 1; here && i < HOT_PROCESSES; i++)
            if (!bench_peer_open(&peers[kind][i], kind, &redis, 1))
                bench_die(peers[kind][i].name, peers[kind][i].version);
        if (here)
            players[player_count++] =
                (struct player){ .name = peers[kind][0].name, .peers = peers[kind] };
    }
}

static void players_close(void)
{
    for (size_t p = 2; p < player_count; p++)
        for (int i = 0; i < HOT_PROCESSES; i++) bench_peer_close(&players[p].peers[i]);
}

/* ------------------------------------------------------------------ idle waiters */

struct cost {
    double clients, server; /* percent of one processor */
};

static int64_t clients_ns(void)
{
    int64_t sum = 0;
    for (int i = 0; i < process_count; i++) sum += bench_processor_ns(pids[i]);
    return sum;
}

static struct cost idle_cost(enum phase phase)
{
    belay *client = NULL;
    belay_lock *lock = NULL;
    if (phase == PHASE_IDLE) {
        client = client_open(true);
        lock = take(client, "idle");
    }
    phase_begin(phase, 0);
    bench_sleep(bench_quick() ? 200000000 : 2000000000); /* they begin to wait */
    int64_t start = bench_now(), ours = clients_ns(), server = bench_processor_ns(redis.pid);
    bench_sleep(bench_quick() ? 500000000 : INT64_C(10000000000));
    ours = clients_ns() - ours;
    server = bench_processor_ns(redis.pid) - server;
    double whole = (double)(bench_now() - start) / 100;
    if (lock != NULL) let_go(lock);
    phase_end();
    if (client != NULL) belay_close(client);
    return (struct cost){ .clients = (double)ours / whole, .server = (double)server / whole };
}

/* Half a percent of one processor above the floor is what "no measurable difference" means here. */
static void idle_row(const char *what, double *ours, double *bare, size_t count)
{
    struct bench_pair pair = bench_pair_of(ours, bare, count);
    bench_row(&(struct bench_row){ .what = what,
                                   .unit = "% core",
                                   .pair = pair,
                                   .floor_is = "100 idle connections",
                                   .belay_under = pair.floor + 0.5 });
}

static void idle_waiters(void)
{
    double ours[IDLE_ROUNDS], bare[IDLE_ROUNDS], server[IDLE_ROUNDS], server_bare[IDLE_ROUNDS];
    size_t rounds = bench_quick() ? 1 : IDLE_ROUNDS;
    process_count = PROCESSES_MAX;
    for (int i = 0; i < process_count; i++) threads_of[i] = i < 20 ? 1 : 20;
    processes_start();
    bench_pin(redis.pid, false);
    atomic_store(&stage->fencing, true);
    for (size_t i = 0; i < rounds; i++) {
        struct cost cost = idle_cost(PHASE_IDLE);
        ours[i] = cost.clients;
        server[i] = cost.server;
        cost = idle_cost(PHASE_IDLE_BARE);
        bare[i] = cost.clients;
        server_bare[i] = cost.server;
    }
    processes_end();
    idle_row("100 waiters for 10 s: the clients, in all", ours, bare, rounds);
    idle_row("100 waiters for 10 s: the server", server, server_bare, rounds);
}

/* ------------------------------------------------------------------ the report */

int main(int argc, char **argv)
{
    bench_begin("redis_handover", argc, argv);
    bench_redis_start(&redis);
    bench_fact("redis", "%s", redis.version);
    stage = mmap(NULL, sizeof *stage, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (stage == MAP_FAILED) bench_die("mmap", "no memory");
    bench_watch_children();
    players_open();
    control = bench_redis_connect(&redis, BENCH_UNIX);
    hot_names();
    players_close();
    idle_waiters();
    redisFree(control);
    bench_redis_end(&redis);
    return bench_end();
}
