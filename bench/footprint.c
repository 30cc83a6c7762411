/* footprint.c - the memory of a held lock: 100,000 of them with names of 32 bytes, by mallinfo2.
 *
 * With `memory:` that is both sides, the holder's handle and the backend's record. The floor is one
 * malloc for each side with what either can't do without: the name, the owner id, the token, an
 * end. */
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

static double belay_bytes(void *arg)
{
    belay *client = arg;
    belay_options options = { .size = sizeof options, .ttl_ms = 3600000 };
    belay_error err = BELAY_ERROR_INIT;
    char name[NAME + 1];
    double before = in_use();
    for (int i = 0; i < LOCKS; i++) {
        belay_lock *lock;
        bench_need(belay_acquire(client, name_of(i, name), &options, &lock, &err), name, err.text);
        held[i] = lock;
    }
    double after = in_use();
    for (int i = 0; i < LOCKS; i++) bench_need(belay_release(held[i], &err), "release", err.text);
    return (after - before) / LOCKS;
}

static double floor_bytes(void *arg)
{
    (void)arg;
    double before = in_use();
    for (int i = 0; i < 2 * LOCKS; i++) {
        held[i] = malloc(sizeof(struct least));
        if (held[i] == NULL) bench_die("malloc", "no memory");
    }
    double after = in_use();
    for (int i = 0; i < 2 * LOCKS; i++) free(held[i]);
    return (after - before) / LOCKS;
}

/* The first run also pays for tables that grow with the number of locks and stay: that counts. */
static double first_run(void)
{
    belay *client;
    belay_error err = BELAY_ERROR_INIT;
    bench_need(belay_open(&client, "memory:", NULL, &err), "belay_open", err.text);
    double bytes = belay_bytes(client);
    belay_close(client);
    return bytes;
}

int main(int argc, char **argv)
{
    bench_begin("footprint", argc, argv);
    double ours[3], bare[3];
    for (int i = 0; i < 3; i++) {
        ours[i] = first_run();
        bare[i] = floor_bytes(NULL);
    }
    bench_row(&(struct bench_row){
        .what = "a held lock, 32-byte name, kept",
        .unit = "bytes",
        .pair = bench_pair_of(ours, bare, 3),
        .floor_is = "2 x malloc(name, owner, token, end)",
        .belay_under = 512,
    });
    return bench_end();
}
