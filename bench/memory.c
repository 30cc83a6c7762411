/* memory.c - acquire and release inside one process: one thread, and eight on distinct names.
 *
 * belay is opened and called as a newcomer would: `memory:`, no options, so that every lock is kept
 * and has a fencing token. The floor is what a program would write by hand, a pthread mutex around
 * a hash table of names, one malloc and one free for each lock. It has no owners, no TTL, no
 * tokens. */
#define _GNU_SOURCE
#include "bench.h"

#include <belay/belay.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { THREADS = 8, NAMES = 64, BUCKETS = 1024 };

struct entry {
    struct entry *next;
    char name[];
};

static struct entry *buckets[BUCKETS];
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

static belay *client;
static const belay_options unkept = { .size = sizeof unkept, .keep = BELAY_KEEP_OFF };
static char names[THREADS][NAMES][24];

/* ------------------------------------------------------------------ the floor */

static uint32_t hash_of(const char *name)
{
    uint32_t hash = 2166136261u; /* FNV-1a */
    for (; *name != '\0'; name++) hash = (hash ^ (unsigned char)*name) * 16777619u;
    return hash;
}

static struct entry **find(const char *name)
{
    struct entry **at = &buckets[hash_of(name) % BUCKETS];
    while (*at != NULL && strcmp((*at)->name, name) != 0) at = &(*at)->next;
    return at;
}

static void floor_cycle(const char *name)
{
    size_t length = strlen(name);
    pthread_mutex_lock(&mutex);
    struct entry **at = find(name);
    if (*at == NULL) {
        *at = malloc(sizeof **at + length + 1);
        if (*at == NULL) bench_die("malloc", "no memory");
        (*at)->next = NULL;
        memcpy((*at)->name, name, length + 1);
    }
    pthread_mutex_unlock(&mutex);

    pthread_mutex_lock(&mutex);
    at = find(name);
    struct entry *entry = *at;
    *at = entry->next;
    pthread_mutex_unlock(&mutex);
    free(entry);
}

/* ------------------------------------------------------------------ belay */

static void belay_cycle(const char *name, const belay_options *options)
{
    belay_lock *lock;
    belay_error err = BELAY_ERROR_INIT;
    bench_need(belay_acquire(client, name, options, &lock, &err), name, err.text);
    bench_need(belay_release(lock, &err), name, err.text);
}

static void kept_cycle(const char *name)
{
    belay_cycle(name, NULL);
}

static void unkept_cycle(const char *name)
{
    belay_cycle(name, &unkept);
}

/* ------------------------------------------------------------------ threads */

struct run {
    void (*cycle)(const char *name);
    _Atomic bool go, stop;
};

struct worker {
    struct run *run;
    int number;
    uint64_t cycles;
    pthread_t thread;
};

static void *worker_main(void *arg)
{
    struct worker *worker = arg;
    struct run *run = worker->run;
    while (!atomic_load_explicit(&run->go, memory_order_acquire)) sched_yield();
    for (uint64_t i = 0; !atomic_load_explicit(&run->stop, memory_order_relaxed); i++) {
        run->cycle(names[worker->number][i % NAMES]);
        worker->cycles = i + 1;
    }
    return NULL;
}

/* Cycles a second of all threads together. */
static double rate(void (*cycle)(const char *name), int threads)
{
    struct run run = { .cycle = cycle };
    struct worker workers[THREADS];
    for (int i = 0; i < threads; i++) {
        workers[i] = (struct worker){ .run = &run, .number = i };
        if (pthread_create(&workers[i].thread, NULL, worker_main, &workers[i]) != 0)
            bench_die("pthread_create", "failed");
    }
    int64_t start = bench_now();
    atomic_store_explicit(&run.go, true, memory_order_release);
    bench_sleep(bench_quick() ? 20000000 : 250000000);
    atomic_store_explicit(&run.stop, true, memory_order_relaxed);
    double cycles = 0;
    for (int i = 0; i < threads; i++) {
        pthread_join(workers[i].thread, NULL);
        cycles += (double)workers[i].cycles;
    }
    return cycles * 1e9 / (double)(bench_now() - start);
}

static double kept_one(void *arg)
{
    (void)arg;
    return rate(kept_cycle, 1);
}

static double unkept_one(void *arg)
{
    (void)arg;
    return rate(unkept_cycle, 1);
}

static double floor_one(void *arg)
{
    (void)arg;
    return rate(floor_cycle, 1);
}

static double kept_all(void *arg)
{
    (void)arg;
    return rate(kept_cycle, THREADS);
}

static double floor_all(void *arg)
{
    (void)arg;
    return rate(floor_cycle, THREADS);
}

int main(int argc, char **argv)
{
    bench_begin("memory", argc, argv);
    size_t pairs = bench_quick() ? 2 : 15;
    belay_error err = BELAY_ERROR_INIT;
    bench_need(belay_open(&client, "memory:", NULL, &err), "belay_open", err.text);
    for (int t = 0; t < THREADS; t++)
        for (int n = 0; n < NAMES; n++)
            snprintf(names[t][n], sizeof names[t][n], "nightly-%d-%d", t, n);

    bench_row(&(struct bench_row){
        .what = "acquire+release, one thread",
        .unit = "/s",
        .pair = bench_pairs(pairs, kept_one, floor_one, NULL),
        .floor_is = "mutex, hash table, malloc and free",
        .belay_over = 1e6,
    });
    bench_row(&(struct bench_row){
        .what = "the same, keep off",
        .unit = "/s",
        .pair = bench_pairs(pairs, unkept_one, floor_one, NULL),
        .floor_is = "as above",
    });
    bench_row(&(struct bench_row){
        .what = "8 threads, distinct names, in all",
        .unit = "/s",
        .pair = bench_pairs(pairs, kept_all, kept_one, NULL),
        .floor_is = "belay, one thread",
        .ratio_over = 1,
    });
    bench_row(&(struct bench_row){
        .what = "8 threads, distinct names, in all",
        .unit = "/s",
        .pair = bench_pairs(pairs, kept_all, floor_all, NULL),
        .floor_is = "mutex and hash table, 8 threads",
    });
    belay_close(client);
    return bench_end();
}
