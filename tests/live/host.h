/* host.h - a host of the test's own, which is a folder with a SQLite file in it, and clients of
 * type "fallback" over a Redis server and that file. Processes that open the same one are on the
 * same host, those of another are elsewhere in the fleet. */
#ifndef BELAY_TESTS_LIVE_HOST_H
#define BELAY_TESTS_LIVE_HOST_H

#include "tests/live/client.h"

struct host {
    char folder[48]; /* below /tmp */
    char path[64];
};

/* False: there is no folder. */
bool host_begin(struct host *host);
/* Removes it. Allowed twice, and on a zeroed one. */
void host_end(struct host *host);

/* Where a client's two places are. Each text may be NULL. */
struct fallback_at {
    const char *at; /* the server: at_server, at_relay ... */
    const struct host *host;
    const char *redis;    /* more settings of the primary, */
    const char *fallback; /* of the fallback, */
    const char *top;      /* of the top level */
};

/* Fails the test when it can't. */
belay *fallback_open(const struct fallback_at *at, const belay_open_options *options);
/* Not checked: any thread, also a forked child. */
belay *fallback_try_open(const struct fallback_at *at, const belay_open_options *options);

/* Rows of the file: locks, those that have run out too, and waits. -1: they can't be counted. */
long host_rows(const struct host *host);
/* An SQL statement on the file; false when it failed. */
bool host_sql(const struct host *host, const char *sql);
/* One number by SQL; `host_no_number` when there is none. */
#define HOST_NO_NUMBER INT64_MIN
int64_t host_number(const struct host *host, const char *sql);

/* What a client says of itself. */
bool is_degraded(belay *client);

#endif
