/* footprint.c - the memory of a held lock: 100,000 of them with names of 32 bytes, by mallinfo2.
 *
 * With `memory:` that is both sides, the holder's handle and the backend's record; with `sqlite:`
 * the handle, and what SQLite keeps in memory of the file. The floor is one malloc for each side
 * with what it can't do without: the name, the owner id, the token, an end. */
#define _GNU_SOURCE
#include "bench.h"

#include <belay/belay.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LOCKS = 100000, NAME = 32 };

struct least {
    struct least *next;
    uint64_t token;
    int64_t until_ns;
    char owner[BELAY_OWNER_LENGTH];
    char name[NAME + 1];
};

static void *held[2 * LOCKS];
static int locks = LOCKS;

static double in_use(void)
{
    struct mallinfo2 info = mallinfo2();
    return (double)info.uordblks + (double)info.hblkhd;
}

static const char *name_of(int i, char out[NAME + 1])
{
    snprintf(out, NAME + 1, "tenant-%08d/nightly-report-%01d", i, i % 10);
    if (strlen(out) != NAME) bench_die("name", out);
    return out;
}

/* The tables that grow with the number of locks, and stay, count too: a fresh client each time. */
static double belay_bytes(const char *where)
{
    belay *client;
    belay_options options = { .size = sizeof options, .ttl_ms = 3600000 };
    belay_error err = BELAY_ERROR_INIT;
    char name[NAME + 1];
    bench_need(belay_open(&client, where, NULL, &err), where, err.text);
    double before = in_use();
    for (int i = 0; i < locks; i++) {
        belay_lock *lock;
        bench_need(belay_acquire(client, name_of(i, name), &options, &lock, &err), name, err.text);
        held[i] = lock;
    }
    double after = in_use();
    for (int i = 0; i < locks; i++) bench_need(belay_release(held[i], &err), "release", err.text);
    belay_close(client);
    return (after - before) / locks;
}

static double floor_bytes(int sides)
{
    double before = in_use();
    for (int i = 0; i < sides * locks; i++) {
        held[i] = malloc(sizeof(struct least));
        if (held[i] == NULL) bench_die("malloc", "no memory");
    }
    double after = in_use();
    for (int i = 0; i < sides * locks; i++) free(held[i]);
    return (after - before) / locks;
}

static void measure(const char *where, int sides, size_t times, const char *what,
                    const char *floor_is)
{
    double ours[3], bare[3];
    for (size_t i = 0; i < times; i++) {
        ours[i] = belay_bytes(where);
        bare[i] = floor_bytes(sides);
    }
    bench_row(&(struct bench_row){ .what = what,
                                   .unit = "bytes",
                                   .pair = bench_pair_of(ours, bare, times),
                                   .floor_is = floor_is,
                                   .belay_under = 512 });
}

int main(int argc, char **argv)
{
    bench_begin("footprint", argc, argv);
    /* Its rows need no disk for this. */
    char directory[] = "/dev/shm/belay-bench-XXXXXX", url[64];
    if (bench_quick()) locks = LOCKS / 100;
    if (mkdtemp(directory) == NULL) bench_die(directory, "cannot be made");
    snprintf(url, sizeof url, "sqlite://%s/locks.db", directory);
    measure("memory:", 2, 3, "a held lock, 32-byte name, kept, memory",
            "2 x malloc(name, owner, token, end)");
    measure(url, 1, 1, "the same, sqlite", "1 x the same");
    bench_remove(directory);
    return bench_end();
}
