/* common_redis.h - what the Redis benches share: a server of their own, where it and they may run,
 * and the bare hiredis client that is their floor.
 *
 * The floor sends the commands that belay sends, on one blocking connection: unfenced `SET key
 * owner NX PX ttl` and the compare-and-delete by EVALSHA, fenced the two scripts. What it leaves
 * out is what belay adds: owner ids, deadlines, waiting in turn, keeping, being told, releasing
 * what was abandoned. */
#ifndef BELAY_BENCH_COMMON_REDIS_H
#define BELAY_BENCH_COMMON_REDIS_H

#include "bench.h"

#include <hiredis.h>
#include <sys/types.h>

enum bench_road { BENCH_TCP, BENCH_UNIX };

const char *bench_road_name(enum bench_road road); /* "TCP", "unix socket" */

/* One redis-server of our own in a temporary folder, without persistence, on a free port of
 * 127.0.0.1 and on a unix socket. It dies with us. */
struct bench_redis {
    pid_t pid;
    int port;
    char version[32];
    char directory[128], socket[160];
};

void bench_redis_start(struct bench_redis *redis);
void bench_redis_end(struct bench_redis *redis);
/* Kills it; starts it again in the same place, empty. The latter returns when it answers. */
void bench_redis_kill(struct bench_redis *redis);
void bench_redis_again(struct bench_redis *redis);

/* A config file for belay's side; it lives as long as the server. With the defaults but for these.
 */
struct bench_config {
    enum bench_road road;
    bool fencing, keep;
};
const char *bench_redis_where(const struct bench_redis *redis, const struct bench_config *config,
                              char out[200]);

/* A blocking connection, and one command on it, which must not fail; free the reply. */
redisContext *bench_redis_connect(const struct bench_redis *redis, enum bench_road road);
redisReply *bench_redis_ask(redisContext *link, const char *format, ...);
/* How many clients the server has, `link` left out. */
int bench_redis_clients(redisContext *link);
/* How many different scripts it knows. */
int bench_redis_scripts(redisContext *link);

/* Where every thread of a process runs from now on, and those it will start: all on one and the
 * same processor, or on any. */
void bench_pin(pid_t pid, bool pinned);
/* What a process has used so far, all its threads. */
int64_t bench_processor_ns(pid_t pid);

/* --------------------------------------------------------------------- the bare client */

struct bench_bare {
    redisContext *link;
    bool fencing;
    char take[41], let_go[41]; /* the scripts' digests */
};

void bench_bare_open(struct bench_bare *bare, const struct bench_redis *redis, enum bench_road road,
                     bool fencing);
void bench_bare_close(struct bench_bare *bare);
/* Append a request for the lock `name`; read the reply of the oldest one. */
void bench_bare_take(struct bench_bare *bare, const char *name);
void bench_bare_taken(struct bench_bare *bare);
void bench_bare_let_go(struct bench_bare *bare, const char *name);
void bench_bare_gone(struct bench_bare *bare);

#endif
