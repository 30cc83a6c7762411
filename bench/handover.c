/* handover.c - how long after a release the next process has the lock, and what waiting costs.
 *
 * Processes wait for one name in one SQLite file: two of them, then a hundred. Each holds the lock
 * for a millisecond, writes down the time, releases, rests, and queues again. A figure is the time
 * from just before belay_release to the return of the next holder's belay_acquire, counted only
 * where that one had been waiting. The floor is a token sent round the same processes over unix
 * datagram sockets, held and stamped in the same way.
 *
 * The cost of waiting is the processor time of a hundred processes, each with its own client, while
 * one more keeps the lock and nobody gets it. The floor is the same hundred in recv(2).
 *
 *   bench_handover [--json] [--quick] [DIRECTORY]      default: $TMPDIR or /tmp
 */
#define _GNU_SOURCE
#include "bench.h"

#include <belay/belay.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { MANY = 100, SAMPLES = 16384, ROUNDS = 7 };

static const int64_t HOLD_NS = 1000000, REST_NS = 300000;

enum phase { PHASE_BELAY, PHASE_TOKEN, PHASE_IDLE, PHASE_IDLE_TOKEN, PHASE_END };

/* Shared by all processes of a run. */
struct stage {
    pthread_barrier_t barrier; /* the processes and the parent */
    _Atomic int phase;
    _Atomic int64_t end_ns;
    _Atomic int64_t released_ns;
    _Atomic bool idle_over;
    _Atomic uint32_t count;
    _Atomic uint32_t unavailable;
    double samples[SAMPLES]; /* microseconds */
};

struct token {
    int64_t sent_ns;
    int32_t hops_left; /* -1: for as long as the phase lasts */
};

static struct stage *stage;
static int sockets[MANY + 1][2]; /* send to [i][0] what process i receives from [i][1] */
static pid_t pids[MANY + 1];
static char url[512];

static void record(int64_t ns)
{
    uint32_t at = atomic_fetch_add(&stage->count, 1);
    if (at < SAMPLES) stage->samples[at] = (double)ns / 1e3;
}

/* ------------------------------------------------------------------ a process */

/* On a machine that is busy with other things the file may be, for longer than `outage`. */
static bool unavailable(belay_status status)
{
    if (status != BELAY_UNAVAILABLE) return false;
    atomic_fetch_add(&stage->unavailable, 1);
    return true;
}

static belay_lock *take(belay *client)
{
    belay_options options = { .size = sizeof options, .wait_ms = BELAY_FOREVER };
    belay_error err = BELAY_ERROR_INIT;
    belay_lock *lock;
    belay_status status;
    do status = belay_acquire(client, "handover", &options, &lock, &err);
    while (unavailable(status));
    bench_need(status, "acquire", err.text);
    return lock;
}

static void let_go(belay_lock *lock)
{
    belay_error err = BELAY_ERROR_INIT;
    belay_status status = belay_release(lock, &err);
    if (!unavailable(status)) bench_need(status, "release", err.text);
}

static void belay_phase(belay *client)
{
    for (bool over = false; !over;) {
        int64_t asked = bench_now();
        belay_lock *lock = take(client);
        int64_t got = bench_now(), released = atomic_load(&stage->released_ns);
        over = got >= atomic_load(&stage->end_ns);
        if (!over) {
            if (released > asked + REST_NS) record(got - released);
            bench_sleep(HOLD_NS);
        }
        atomic_store(&stage->released_ns, bench_now());
        let_go(lock);
        bench_sleep(REST_NS);
    }
}

static void pass(int number, int processes, struct token token)
{
    int to = sockets[(number + 1) % processes][0];
    token.sent_ns = bench_now();
    if (send(to, &token, sizeof token, 0) != sizeof token) bench_die("send", "failed");
}

static struct token receive(int number)
{
    struct token token;
    if (recv(sockets[number][1], &token, sizeof token, 0) != sizeof token)
        bench_die("recv", "failed");
    return token;
}

static void token_phase(int number, int processes)
{
    if (number == 0) pass(number, processes, (struct token){ .hops_left = -1 });
    while (true) {
        struct token token = receive(number);
        int64_t got = bench_now();
        if (token.hops_left < 0) {
            record(got - token.sent_ns);
            if (got >= atomic_load(&stage->end_ns)) token.hops_left = processes;
            else bench_sleep(HOLD_NS);
        }
        bool last = token.hops_left == 1, over = token.hops_left > 0;
        if (over) token.hops_left--;
        if (!last) pass(number, processes, token);
        if (over) return;
    }
}

/* Process 0 holds; the others wait until it lets go. */
static void idle_phase(belay *client, int number)
{
    belay_lock *lock = NULL;
    if (number == 0) lock = take(client);
    pthread_barrier_wait(&stage->barrier);
    if (number != 0) lock = take(client);
    while (number == 0 && !atomic_load(&stage->idle_over)) bench_sleep(10000000);
    let_go(lock);
}

static void idle_token_phase(int number, int processes)
{
    pthread_barrier_wait(&stage->barrier);
    if (number == 0) {
        while (!atomic_load(&stage->idle_over)) bench_sleep(10000000);
        pass(number, processes, (struct token){ 0 });
    }
    (void)receive(number);
    if (number != 0) pass(number, processes, (struct token){ 0 });
}

static void process_main(int number, int processes)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    belay *client;
    belay_error err = BELAY_ERROR_INIT;
    bench_need(belay_open(&client, url, NULL, &err), url, err.text);
    while (true) {
        pthread_barrier_wait(&stage->barrier);
        int phase = atomic_load(&stage->phase);
        if (phase == PHASE_BELAY) belay_phase(client);
        if (phase == PHASE_TOKEN) token_phase(number, processes);
        if (phase == PHASE_IDLE) idle_phase(client, number);
        if (phase == PHASE_IDLE_TOKEN) idle_token_phase(number, processes);
        if (phase == PHASE_END) break;
        pthread_barrier_wait(&stage->barrier);
    }
    belay_close(client);
    _exit(0);
}

/* ------------------------------------------------------------------ the parent */

static void processes_start(int processes)
{
    pthread_barrierattr_t shared;
    stage = mmap(NULL, sizeof *stage, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (stage == MAP_FAILED) bench_die("mmap", "no memory");
    pthread_barrierattr_init(&shared);
    pthread_barrierattr_setpshared(&shared, PTHREAD_PROCESS_SHARED);
    pthread_barrier_init(&stage->barrier, &shared, (unsigned)processes + 1);
    for (int i = 0; i < processes; i++)
        if (socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, sockets[i]) != 0)
            bench_die("socketpair", "failed");
    fflush(stdout);
    bench_watch_children();
    for (int i = 0; i < processes; i++) {
        pids[i] = fork();
        if (pids[i] < 0) bench_die("fork", "failed");
        if (pids[i] == 0) process_main(i, processes);
    }
}

static void phase_begin(enum phase phase, int64_t ns)
{
    atomic_store(&stage->phase, (int)phase);
    atomic_store(&stage->count, 0);
    atomic_store(&stage->idle_over, false);
    atomic_store(&stage->end_ns, bench_now() + ns);
    pthread_barrier_wait(&stage->barrier);
}

static void processes_end(int processes)
{
    phase_begin(PHASE_END, 0);
    uint32_t unavailable_calls = atomic_load(&stage->unavailable);
    if (unavailable_calls > 0)
        fprintf(stderr, "bench: UNAVAILABLE, and tried again: %u calls of %d processes\n",
                (unsigned)unavailable_calls, processes);
    for (int i = 0; i < processes; i++) {
        waitpid(pids[i], NULL, 0);
        close(sockets[i][0]);
        close(sockets[i][1]);
    }
    munmap(stage, sizeof *stage);
}

struct spread {
    double median, late; /* 99 of 100 are below `late` */
};

/* A phase in which nobody had been waiting says nothing: it is repeated. */
static struct spread samples_of(enum phase phase)
{
    for (int tries = 0; tries < 10; tries++) {
        phase_begin(phase, bench_quick() ? 60000000 : 700000000);
        pthread_barrier_wait(&stage->barrier);
        size_t count = atomic_load(&stage->count);
        if (count > SAMPLES) count = SAMPLES;
        if (count < 5) continue;
        struct spread spread = { .median = bench_median(stage->samples, count) };
        spread.late = stage->samples[count * 99 / 100];
        return spread;
    }
    bench_die("hand-over", "none was seen in ten rounds");
}

/* Of processes 1 and up, in nanoseconds. */
static int64_t processor_time(int processes)
{
    int64_t sum = 0;
    for (int i = 1; i < processes; i++) {
        clockid_t clock;
        struct timespec used;
        if (clock_getcpuclockid(pids[i], &clock) != 0 || clock_gettime(clock, &used) != 0)
            bench_die("clock_getcpuclockid", "failed");
        sum += (int64_t)used.tv_sec * 1000000000 + used.tv_nsec;
    }
    return sum;
}

/* Percent of one processor. */
static double idle_cost(enum phase phase, int processes)
{
    phase_begin(phase, 0);
    pthread_barrier_wait(&stage->barrier); /* the lock is held */
    bench_sleep(bench_quick() ? 200000000 : 1000000000);
    int64_t start = bench_now(), used = processor_time(processes);
    bench_sleep(bench_quick() ? 500000000 : INT64_C(10000000000));
    used = processor_time(processes) - used;
    double percent = 100.0 * (double)used / (double)(bench_now() - start);
    atomic_store(&stage->idle_over, true);
    pthread_barrier_wait(&stage->barrier);
    return percent;
}

static void handovers(int processes, const char *what, const char *what_late)
{
    double ours[ROUNDS], bare[ROUNDS], ours_late[ROUNDS], bare_late[ROUNDS];
    size_t rounds = bench_quick() ? 2 : ROUNDS;
    processes_start(processes);
    (void)samples_of(PHASE_BELAY);
    (void)samples_of(PHASE_TOKEN);
    for (size_t i = 0; i < rounds; i++) {
        struct spread spread = samples_of(PHASE_BELAY);
        ours[i] = spread.median;
        ours_late[i] = spread.late;
        spread = samples_of(PHASE_TOKEN);
        bare[i] = spread.median;
        bare_late[i] = spread.late;
    }
    processes_end(processes);
    static const char floor_is[] = "token over unix datagrams";
    bench_row(&(struct bench_row){ .what = what,
                                   .unit = "us",
                                   .pair = bench_pair_of(ours, bare, rounds),
                                   .floor_is = floor_is,
                                   .belay_under = 500 });
    bench_row(&(struct bench_row){ .what = what_late,
                                   .unit = "us",
                                   .pair = bench_pair_of(ours_late, bare_late, rounds),
                                   .floor_is = floor_is });
}

int main(int argc, char **argv)
{
    int next = bench_begin("handover", argc, argv);
    const char *directory = getenv("TMPDIR");
    char path[400];
    if (directory == NULL || directory[0] == '\0') directory = "/tmp";
    if (next < argc) directory = argv[next];
    snprintf(path, sizeof path, "%s/belay-bench-XXXXXX", directory);
    if (mkdtemp(path) == NULL) bench_die(path, "cannot be made");
    snprintf(url, sizeof url, "sqlite://%s/locks.db", path);
    bench_fact("directory", "%s", directory);

    handovers(2, "hand-over between 2 processes, median", "  99 of 100 within");
    handovers(MANY, "hand-over among 100 processes, median", "  99 of 100 within");

    processes_start(MANY + 1);
    struct bench_pair idle = { .belay = idle_cost(PHASE_IDLE, MANY + 1) };
    idle.floor = idle_cost(PHASE_IDLE_TOKEN, MANY + 1);
    idle.ratio = idle.floor > 0 ? idle.belay / idle.floor : 0;
    processes_end(MANY + 1);
    bench_row(&(struct bench_row){ .what = "100 processes waiting for 10 s, in all",
                                   .unit = "% core",
                                   .pair = idle,
                                   .floor_is = "the same processes in recv",
                                   .belay_under = 1 });

    bench_remove(path);
    return bench_end();
}
