/* redis.c - acquire and release on one Redis server: one thread, 64 threads on one client, and an
 * event loop with 256 locks in flight.
 *
 * The floors are plain hiredis sending the same commands: one blocking connection; one for each of
 * 64 threads; one that appends 256 requests and then reads 256 replies. Free is as the system
 * places us and the server, pinned is both on one processor: a wake-up across processors costs tens
 * of microseconds on a virtual machine and hides everything else.
 *
 * Rows that are named after redis-py or node-redlock show that client in belay's place, beside the
 * same floor.
 *
 *   bench_redis [--json] [--quick]
 */
#define _GNU_SOURCE
#include "common_peers.h"

#include <belay/belay.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { THREADS = 64, DEPTH = 256, NAMES = 64, ROUNDS = 9, PLAYERS = 2 + BENCH_PEER_KINDS };

static struct bench_redis redis;
static redisContext *control; /* for asking the server about itself */
static struct bench_peer peers[BENCH_PEER_KINDS];
static bool peer_here[BENCH_PEER_KINDS];

struct scene {
    enum bench_road road;
    bool fencing, pinned;
};

static void name_make(char *out, size_t size, int number, int64_t i)
{
    snprintf(out, size, "nightly-%d-%d", number, (int)(i % NAMES));
}

static const char *scene_name(const struct scene *scene)
{
    static char text[64];
    snprintf(text, sizeof text, "%s, %s, %s", bench_road_name(scene->road),
             scene->pinned ? "pinned" : "free", scene->fencing ? "fenced" : "unfenced");
    return text;
}

/* ------------------------------------------------------------------ players and rounds */

struct round {
    int64_t cycles, ns;
};

/* Somebody who takes and releases locks: belay, the floor, a peer. */
struct player {
    struct round (*play)(struct player *player, int64_t ns);
    belay *client;
    struct bench_bare *bare; /* `width` of them */
    struct bench_peer *peer;
    int width; /* threads, or locks in flight */
    pid_t pid; /* whose processor time it takes */
    bool look; /* in the middle of a round: how many connections the server has */
    int connections;
    double rate[ROUNDS], ours_us[ROUNDS], server_us[ROUNDS], both_us[ROUNDS];
};

static struct player players[PLAYERS]; /* belay, the floor, then peers */
static size_t player_count;

static size_t rounds_wanted(void)
{
    return bench_quick() ? 2 : ROUNDS;
}

static void play_once(struct player *player, int64_t ns, size_t at)
{
    int64_t ours = bench_processor_ns(player->pid), server = bench_processor_ns(redis.pid);
    struct round round = player->play(player, ns);
    ours = bench_processor_ns(player->pid) - ours;
    server = bench_processor_ns(redis.pid) - server;
    if (round.cycles == 0) bench_die("a round", "without a single cycle");
    double cycles = (double)round.cycles;
    player->rate[at] = cycles * 1e9 / (double)round.ns;
    player->ours_us[at] = (double)ours / 1e3 / cycles;
    player->server_us[at] = (double)server / 1e3 / cycles;
    player->both_us[at] = player->ours_us[at] + player->server_us[at];
}

/* Everybody once, in turn, `rounds_wanted` times; once before that is not counted. */
static void play_all(int64_t ns)
{
    if (bench_quick()) ns /= 10;
    for (size_t p = 0; p < player_count; p++) play_once(&players[p], ns, 0);
    for (size_t i = 0; i < rounds_wanted(); i++)
        for (size_t p = 0; p < player_count; p++) play_once(&players[p], ns, i);
}

/* pair_of sorts: it gets copies, the floor is looked at more than once. */
static struct bench_pair pair_of(const double *ours, const double *bare)
{
    double of_ours[ROUNDS], of_bare[ROUNDS];
    memcpy(of_ours, ours, sizeof of_ours);
    memcpy(of_bare, bare, sizeof of_bare);
    return bench_pair_of(of_ours, of_bare, rounds_wanted());
}

static void rate_row(const char *what, const char *floor_is, double ratio_over)
{
    const struct player *bare = &players[1];
    bench_row(&(struct bench_row){ .what = what,
                                   .unit = "/s",
                                   .pair = pair_of(players[0].rate, bare->rate),
                                   .floor_is = floor_is,
                                   .ratio_over = ratio_over });
    for (size_t p = 2; p < player_count; p++) {
        char who[64];
        snprintf(who, sizeof who, "  %s, %d at once", players[p].peer->name, players[p].width);
        bench_row(&(struct bench_row){ .what = who,
                                       .unit = "/s",
                                       .pair = pair_of(players[p].rate, bare->rate),
                                       .floor_is = "the same" });
    }
}

/* ------------------------------------------------------------------ opening and closing them */

static struct player *belay_player(const struct scene *scene, belay_threads threads)
{
    struct player *player = &players[0];
    struct bench_config config = { .road = scene->road, .fencing = scene->fencing };
    belay_open_options options = BELAY_OPEN_OPTIONS_INIT;
    belay_error err = BELAY_ERROR_INIT;
    char where[200];
    bench_redis_where(&redis, &config, where);
    options.threads = threads;
    *player = (struct player){ .pid = getpid() };
    bench_need(belay_open(&player->client, where, &options, &err), where, err.text);
    bench_need(belay_ready(player->client, &err), where, err.text);
    return player;
}

/* Called when belay has sent its scripts: those of the floor must be the same. */
static struct player *bare_player(const struct scene *scene, int connections)
{
    struct player *player = &players[1];
    int scripts = bench_redis_scripts(control);
    *player = (struct player){ .pid = getpid() };
    player->bare = calloc((size_t)connections, sizeof *player->bare);
    if (player->bare == NULL) bench_die("calloc", "no memory");
    for (int i = 0; i < connections; i++)
        bench_bare_open(&player->bare[i], &redis, scene->road, scene->fencing);
    if (bench_redis_scripts(control) != scripts)
        bench_die("common_redis.c", "its scripts are not belay's any more");
    return player;
}

static struct round peer_play(struct player *player, int64_t ns)
{
    double told[2];
    bench_peer_tell(player->peer, "many %d %.3f", player->width, (double)ns / 1e9);
    bench_peer_hear(player->peer, told, 2);
    return (struct round){ .cycles = (int64_t)told[0], .ns = (int64_t)told[1] };
}

/* From the kind `first` on. The peers know one road, and no fencing. */
static void peers_join(const struct scene *scene, int width, enum bench_peer_kind first)
{
    if (scene->road != BENCH_TCP || scene->fencing) return;
    for (int i = (int)first; i < BENCH_PEER_KINDS; i++) {
        if (!peer_here[i]) continue;
        bench_pin(peers[i].pid, scene->pinned);
        players[player_count++] = (struct player){
            .play = peer_play, .peer = &peers[i], .width = width, .pid = peers[i].pid
        };
    }
}

static void place(const struct scene *scene)
{
    bench_pin(getpid(), scene->pinned);
    bench_pin(redis.pid, scene->pinned);
    player_count = 2;
}

static void players_end(int connections)
{
    belay_close(players[0].client);
    for (int i = 0; i < connections; i++) bench_bare_close(&players[1].bare[i]);
    free(players[1].bare);
}

/* ------------------------------------------------------------------ one thread after another */

static int64_t belay_cycles(belay *client, int number, int64_t end_ns)
{
    belay_error err = BELAY_ERROR_INIT;
    char name[32];
    int64_t i = 0;
    for (; bench_now() < end_ns; i++) {
        belay_lock *lock;
        name_make(name, sizeof name, number, i);
        bench_need(belay_acquire(client, name, NULL, &lock, &err), name, err.text);
        bench_need(belay_release(lock, &err), name, err.text);
    }
    return i;
}

static int64_t bare_cycles(struct bench_bare *bare, int number, int64_t end_ns)
{
    char name[32];
    int64_t i = 0;
    for (; bench_now() < end_ns; i++) {
        name_make(name, sizeof name, number, i);
        bench_bare_take(bare, name);
        bench_bare_taken(bare);
        bench_bare_let_go(bare, name);
        bench_bare_gone(bare);
    }
    return i;
}

static struct round belay_one(struct player *player, int64_t ns)
{
    int64_t start = bench_now(), cycles = belay_cycles(player->client, 0, start + ns);
    return (struct round){ .cycles = cycles, .ns = bench_now() - start };
}

static struct round bare_one(struct player *player, int64_t ns)
{
    int64_t start = bench_now(), cycles = bare_cycles(player->bare, 0, start + ns);
    return (struct round){ .cycles = cycles, .ns = bench_now() - start };
}

static void one_thread(const struct scene *scene)
{
    char what[96];
    place(scene);
    belay_player(scene, BELAY_THREADS)->play = belay_one;
    bare_player(scene, 1)->play = bare_one;
    peers_join(scene, 1, BENCH_REDIS_PY);
    play_all(400000000);
    snprintf(what, sizeof what, "1 thread, %s", scene_name(scene));
    rate_row(what, "a blocking hiredis connection", scene->pinned ? 0.9 : 0);
    players_end(1);
}

/* ------------------------------------------------------------------ 64 threads */

struct crowd {
    struct player *player;
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
    struct player *player = member->crowd->player;
    pthread_barrier_wait(&member->crowd->start);
    pthread_barrier_wait(&member->crowd->start);
    if (player->client != NULL)
        member->cycles = belay_cycles(player->client, member->number, member->crowd->end_ns);
    else
        member->cycles =
            bare_cycles(&player->bare[member->number], member->number, member->crowd->end_ns);
    return NULL;
}

static struct round crowd_play(struct player *player, int64_t ns)
{
    struct crowd crowd = { .player = player };
    struct member members[THREADS];
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
    struct round round = { 0 };
    if (player->look) {
        bench_sleep(ns / 2);
        player->connections = bench_redis_clients(control);
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(members[i].thread, NULL);
        round.cycles += members[i].cycles;
    }
    round.ns = bench_now() - start;
    pthread_barrier_destroy(&crowd.start);
    return round;
}

/* By belay, while it is at work; before the floor's are there, and without the peers'. */
static int connections_used(const struct scene *scene)
{
    int others = bench_redis_clients(control);
    struct player *player = belay_player(scene, BELAY_THREADS);
    player->play = crowd_play;
    player->look = true;
    (void)crowd_play(player, 100000000);
    player->look = false;
    return player->connections - others;
}

static void processor_row(const char *what, const double *ours, const double *bare,
                          double ratio_under)
{
    bench_row(&(struct bench_row){ .what = what,
                                   .unit = "us",
                                   .pair = pair_of(ours, bare),
                                   .floor_is = "the same",
                                   .ratio_under = ratio_under });
}

static void many_threads(const struct scene *scene)
{
    const struct player *ours = &players[0], *bare = &players[1];
    char what[96];
    place(scene);
    int connections = connections_used(scene);
    bare_player(scene, THREADS)->play = crowd_play;
    peers_join(scene, THREADS, BENCH_REDIS_PY);
    play_all(1000000000);
    snprintf(what, sizeof what, "64 threads, %s", scene_name(scene));
    rate_row(what, "64 blocking hiredis connections", scene->fencing ? 0 : 1.3);
    processor_row("  processor time of a cycle", ours->both_us, bare->both_us,
                  scene->fencing ? 0 : 1);
    processor_row("    of it the client's", ours->ours_us, bare->ours_us, 0);
    processor_row("    of it the server's", ours->server_us, bare->server_us, 0);
    bench_row(&(struct bench_row){
        .what = "  connections",
        .unit = "",
        .pair = { .belay = connections, .floor = THREADS, .ratio = (double)connections / THREADS },
        .floor_is = "the same",
        .belay_under = 2 });
    players_end(THREADS);
}

/* ------------------------------------------------------------------ an event loop */

struct loop {
    belay *client;
    int in_flight;
    int64_t cycles, end_ns;
};

struct chain {
    struct loop *loop;
    int number;
    int64_t i;
};

static void chain_begin(struct chain *chain);

static void chain_released(void *arg, belay_status status, belay_lock *lock, const belay_error *err)
{
    struct chain *chain = arg;
    (void)lock;
    bench_need(status, "release", err->text);
    chain->loop->cycles++;
    if (bench_now() < chain->loop->end_ns) chain_begin(chain);
    else chain->loop->in_flight--;
}

static void chain_acquired(void *arg, belay_status status, belay_lock *lock, const belay_error *err)
{
    belay_error wrong = BELAY_ERROR_INIT;
    bench_need(status, "acquire", err->text);
    bench_need(belay_release_start(lock, chain_released, arg, NULL, &wrong), "release", wrong.text);
}

static void chain_begin(struct chain *chain)
{
    belay_error wrong = BELAY_ERROR_INIT;
    char name[32];
    name_make(name, sizeof name, chain->number, chain->i++);
    bench_need(belay_acquire_start(chain->loop->client, name, NULL, chain_acquired, chain, NULL,
                                   &wrong),
               name, wrong.text);
}

static struct round loop_play(struct player *player, int64_t ns)
{
    static struct chain chains[DEPTH];
    int64_t start = bench_now();
    struct loop loop = { .client = player->client, .in_flight = DEPTH, .end_ns = start + ns };
    struct pollfd ready = { .fd = belay_fd(player->client), .events = POLLIN };
    for (int i = 0; i < DEPTH; i++) {
        chains[i] = (struct chain){ .loop = &loop, .number = i };
        chain_begin(&chains[i]);
    }
    while (loop.in_flight > 0) {
        if (poll(&ready, 1, 10000) != 1) bench_die("belay_fd", "is not readable for 10 s");
        bench_need(belay_dispatch(player->client), "belay_dispatch", "");
    }
    return (struct round){ .cycles = loop.cycles, .ns = bench_now() - start };
}

static struct round pipeline_play(struct player *player, int64_t ns)
{
    int64_t start = bench_now(), i = 0;
    char name[32];
    for (; bench_now() < start + ns; i++) {
        for (int n = 0; n < DEPTH; n++) {
            name_make(name, sizeof name, n, i);
            bench_bare_take(player->bare, name);
        }
        for (int n = 0; n < DEPTH; n++) bench_bare_taken(player->bare);
        for (int n = 0; n < DEPTH; n++) {
            name_make(name, sizeof name, n, i);
            bench_bare_let_go(player->bare, name);
        }
        for (int n = 0; n < DEPTH; n++) bench_bare_gone(player->bare);
    }
    return (struct round){ .cycles = i * DEPTH, .ns = bench_now() - start };
}

static void event_loop(const struct scene *scene)
{
    char what[96];
    place(scene);
    belay_player(scene, BELAY_DISPATCH)->play = loop_play;
    bare_player(scene, 1)->play = pipeline_play;
    peers_join(scene, DEPTH, BENCH_NODE_REDLOCK); /* redis-py's Lock has no event loop */
    play_all(500000000);
    snprintf(what, sizeof what, "event loop, 256 at once, %s", scene_name(scene));
    rate_row(what, "hiredis, 256 appended, 256 read", 0.7);
    players_end(1);
}

/* ------------------------------------------------------------------ the report */

int main(int argc, char **argv)
{
    bench_begin("redis", argc, argv);
    bench_redis_start(&redis);
    bench_fact("redis", "%s", redis.version);
    bench_fact("hiredis", "%d.%d.%d", HIREDIS_MAJOR, HIREDIS_MINOR, HIREDIS_PATCH);
    for (int i = 0; i < BENCH_PEER_KINDS; i++) {
        peer_here[i] = bench_peer_open(&peers[i], i, &redis, 1);
        bench_fact(peers[i].name, "%s", peers[i].version);
    }
    control = bench_redis_connect(&redis, BENCH_UNIX);
    static const struct scene scenes[] = {
        { BENCH_TCP, false, true },   { BENCH_TCP, false, false }, { BENCH_UNIX, false, true },
        { BENCH_UNIX, false, false }, { BENCH_TCP, true, true },   { BENCH_TCP, true, false },
        { BENCH_UNIX, true, true },   { BENCH_UNIX, true, false },
    };
    size_t count = sizeof scenes / sizeof *scenes;
    for (size_t i = 0; i < count; i++) one_thread(&scenes[i]);
    for (size_t i = 0; i < count; i++)
        if (scenes[i].road == BENCH_TCP) many_threads(&scenes[i]);
    for (size_t i = 0; i < count; i++)
        if (scenes[i].road == BENCH_TCP) event_loop(&scenes[i]);
    for (int i = 0; i < BENCH_PEER_KINDS; i++)
        if (peer_here[i]) bench_peer_close(&peers[i]);
    redisFree(control);
    bench_redis_end(&redis);
    return bench_end();
}
