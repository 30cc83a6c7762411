/* client.h - belay clients for the live tests: opened from a few words of configuration, what they
 * logged, locks that must be got and let go. For cmocka's main thread, unless it says otherwise. */
#ifndef BELAY_TESTS_LIVE_CLIENT_H
#define BELAY_TESTS_LIVE_CLIENT_H

#include "tests/fake/peer.h"
#include "tests/fake/relay.h"
#include "tests/live/server.h"
#include "tests/live/until.h"

#include <belay/backend.h>
#include <belay/belay.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

/* ------------------------------------------------------------------ opening */

/* Where a client finds its server: settings of type "redis". Each returns one of a few static
 * buffers. */
const char *at_port(int port);
const char *at_socket(const char *path);
const char *at_server(const struct server *server); /* its port */
const char *at_relay(const struct relay *relay);
const char *at_peer(const struct peer *peer);

/* Opens a client of type "redis" in a config file: `at` and `more` are settings of the backend,
 * `top` of the top level; each may be NULL. Fails the test when it can't. */
belay *client_open(const char *at, const char *more, const char *top);
belay *client_open_with(const char *at, const char *more, const char *top,
                        const belay_open_options *options);
/* A whole config file, as text. */
belay *client_open_text(const char *config, const belay_open_options *options);
/* The same, not checked: any thread, also a forked child. NULL, and a line on stderr. */
belay *client_try_open_text(const char *config, const belay_open_options *options);
belay *client_try_open(const char *at, const char *more, const char *top,
                       const belay_open_options *options);

/* Waits until it is connected, by a question that takes no lock: short timeouts then measure what
 * the test is about. */
void client_ready(belay *client);

/* What all clients have logged since the last log_clear; any thread. */
bool log_has(const char *text);
int log_count(const char *text);
void log_clear(void);
void log_show(void);

/* ------------------------------------------------------------------ locks; any thread */

/* Not kept. What belay_acquire answers, and its error. `out` may be NULL: what was got is released.
 */
belay_status take(belay *client, const char *name, uint32_t ttl_ms, int64_t wait_ms,
                  belay_lock **out, belay_error *err);

/* These fail the test: main thread. */
belay_lock *must_take_at(belay *client, const char *name, uint32_t ttl_ms, int64_t wait_ms,
                         const char *file, int line);
#define must_take(client, name, ttl_ms, wait_ms)                                                   \
    must_take_at((client), (name), (ttl_ms), (wait_ms), __FILE__, __LINE__)
void must_release_at(belay_lock *lock, const char *file, int line);
#define must_release(lock) must_release_at((lock), __FILE__, __LINE__)
/* The status by name, so that a failure says what came. */
#define assert_status(got, wanted)                                                                 \
    assert_string_equal(belay_status_name(got), belay_status_name(wanted))

/* Neither OK nor a refusal: the answer to an attempt whose fate is not known, or that failed. */
static inline bool is_doubt(belay_status status)
{
    return status == BELAY_UNAVAILABLE || status == BELAY_UNCERTAIN;
}

/* ------------------------------------------------------------------ calls on threads */

/* One blocking acquire, extend or release on a thread of its own. Zero it and start it; its options
 * may be changed before. */
struct caller {
    belay *client;
    const char *name;
    belay_lock *lock;
    belay_options options;
    belay_status status;
    belay_error err;
    int64_t took_ms;
    pthread_t thread;
    atomic_bool ended;
    void (*run)(struct caller *);
    void *arg;
};
void caller_start(struct caller *caller, void (*run)(struct caller *));
/* Joins it; fails the test when it does not end. Returns its status. */
belay_status caller_end(struct caller *caller);
void caller_acquire(struct caller *caller, belay *client, const char *name, uint32_t ttl_ms,
                    int64_t wait_ms);
void caller_release(struct caller *caller, belay_lock *lock);

/* ------------------------------------------------------------------ this process */

int open_fds(void);
int64_t cpu_ms(void);   /* processor time so far */
long memory_kb(void);   /* resident now */
int64_t clock_ms(void); /* CLOCK_BOOTTIME */

#endif
