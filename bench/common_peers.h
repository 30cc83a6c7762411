/* common_peers.h - other people's lock clients, measured beside belay: redis-py's Lock and
 * node-redlock.
 *
 * Each is a process of its own that plays what it is told, a line at a time (bench/peers/). One
 * that is not installed is left out, and the table says so. */
#ifndef BELAY_BENCH_COMMON_PEERS_H
#define BELAY_BENCH_COMMON_PEERS_H

#include "common_redis.h"

#include <stdio.h>

enum bench_peer_kind { BENCH_REDIS_PY, BENCH_NODE_REDLOCK, BENCH_PEER_KINDS };

struct bench_peer {
    const char *name; /* "redis-py's Lock" */
    pid_t pid;
    FILE *tell, *hear;
    char version[128]; /* or why it is not here */
};

/* False: it is not here. It will talk TCP to `redis`; node-redlock to all `count` of them. */
bool bench_peer_open(struct bench_peer *peer, enum bench_peer_kind kind,
                     const struct bench_redis *redis, int count);
void bench_peer_close(struct bench_peer *peer);
/* Tells it what to play: "one SECONDS", "many WAITERS SECONDS", "hot WAITERS HOLD_MS SECONDS";
 * node-redlock also "median SECONDS". */
void bench_peer_tell(struct bench_peer *peer, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* Waits until it has played; the numbers that it answers: cycles and nanoseconds for the first two,
 * the grants of each waiter for the third, nanoseconds of a cycle for the fourth. */
void bench_peer_hear(struct bench_peer *peer, double *out, size_t count);

#endif
