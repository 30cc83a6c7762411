/* testing.h - for tests: a world whose clock you turn, and the suite that every backend must pass.
 *
 * Two things, both in the small library belay-testing (pkg-config belay-testing, CMake
 * belay::testing), which needs no test framework:
 *
 * - The fake world: time, chance and memory that a test owns. Give it to belay_open and thirty
 * seconds pass in a microsecond, a wall clock steps back, the ninth allocation fails. It is for
 * backends that live in this process or on this host (memory, sqlite, fault, your own), never for a
 * real server, whose TTLs run in real time.
 * - The conformance suite: every promise that belay makes to an application and that holds whatever
 * the backend is. docs/writing-a-backend.md shows how to run it on a backend of your own.
 */
#ifndef BELAY_TESTING_H
#define BELAY_TESTING_H

#include <belay/belay.h>
#include <stdio.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ------------------------------------------------------------------ the fake world */

/* One world may serve any number of clients, which then share its clock. Every function may be
 * called from any thread, except create and destroy. */
typedef struct belay_fake_world belay_fake_world;

/* A world at rest: its clock begins at a large odd value, its wall clock at 2026-01-01 00:00 UTC,
 * its randomness follows from `seed`. NULL when memory ran out. */
belay_fake_world *belay_fake_create(uint64_t seed);
/* After every client that was given the world was closed. NULL is allowed. */
void belay_fake_destroy(belay_fake_world *world);

/* What belay_open_options.world wants. Lives as long as the fake. */
struct belay_world *belay_fake_base(belay_fake_world *world);

/* The clock in nanoseconds, and the wall clock in microseconds since 1970. */
int64_t belay_fake_now(const belay_fake_world *world);
int64_t belay_fake_wall(const belay_fake_world *world);

/* Turns both clocks forward by `ns` (not negative) and makes every client look at them: what is due
 * then happens soon, on the clients' own threads, in a caller that waits, or in the next
 * belay_dispatch. */
void belay_fake_advance(belay_fake_world *world, int64_t ns);
/* Steps the wall clock alone, forward or back, as an administrator or NTP does. */
void belay_fake_step_wall(belay_fake_world *world, int64_t us);

/* Without BELAY_THREADS a blocking call that has nothing to do moves the clock to its next moment
 * of work by itself, so that it needs no second thread. On at first; off: it blocks until another
 * thread advances the clock. */
void belay_fake_auto_advance(belay_fake_world *world, bool on);

/* Makes the `nth` allocation from now on fail, once (1: the next one; 0: none). Attaching a client
 * to the world counts as one. */
void belay_fake_fail_alloc(belay_fake_world *world, uint64_t nth);
/* How many allocations were asked for since the world began, and how many of them were refused. */
uint64_t belay_fake_allocs(const belay_fake_world *world);
uint64_t belay_fake_refused(const belay_fake_world *world);

/* How many clients use the world now: 0 when all were closed. */
size_t belay_fake_clients(const belay_fake_world *world);

/* ------------------------------------------------------------------ the conformance suite */

/* Which client `open` is asked for. The first two share one place and one prefix: a lock of the one
 * excludes the other. */
#define BELAY_CONTRACT_FIRST 0
#define BELAY_CONTRACT_SECOND 1
#define BELAY_CONTRACT_OTHER_PREFIX                                                                \
    2 /* the same place, another `prefix`; asked for if `prefixes` */

/* What is to be tested, and what it claims. A claim that is false or 0 skips the promises that need
 * it, and the skip is printed; a claim that is made must be kept. */
typedef struct belay_contract_target {
    uint32_t size;
    const char *name; /* for the output: "memory" */

    /* How to open a client: a config file or URL, with the tables it needs (NULL: the built-in
     * ones) ... */
    const char *where;
    const struct belay_backend_ops *const *backends;
    /* ... or a function that opens client `which` with exactly these options and returns what
     * belay_open returned. */
    belay_status (*open)(void *arg, int which, const belay_open_options *options, belay **out,
                         belay_error *err);
    void *arg; /* for open and the hooks */

    /* Claims. */
    belay_scope scope;   /* of every grant */
    belay_scope at_best; /* a composite that is degraded now: of its grants at other times; until
                            then who wants more than `scope` is UNAVAILABLE. ANY: `scope` as well */
    uint32_t ttl_max_ms; /* the longest TTL it takes; 0: BELAY_TTL_MAX_MS */
    bool fencing;        /* tokens are larger than 0 and grow */
    bool token_by_name;  /* ... for each name alone: those of two names may be equal */
    bool inspects;       /* belay_inspect and belay_adopt work */
    bool lists;          /* belay_list works */
    bool breaks;         /* belay_break works */
    bool wakes;          /* a release wakes a waiter of the other client before any timer is due */
    bool prefixes;       /* open knows BELAY_CONTRACT_OTHER_PREFIX */
    bool late;           /* operations need time to settle */
    bool real_time;      /* its TTLs run in real time: no fake clock; a minute or two */
    bool tells; /* inspect and list show the holder's token and label; else these, or 0 and "" */

    /* Hooks; each may be NULL. `stop`: the place stops answering (a frozen server, a cut cable);
     * `cont`: it answers again; `peek`: how many locks it holds, looked at without belay, or -1. */
    void (*stop)(void *arg);
    void (*cont)(void *arg);
    long (*peek)(void *arg);

    /* How much. `only`: a pattern (fnmatch), the promises whose "topic/promise" matches; NULL: all.
     * `effort`: percent of the threads' rounds and of the thousands of waiters; 0: 100.
     * `patience_s`: how long to wait in vain before a promise counts as broken; 0: 40. */
    const char *only;
    uint32_t effort;
    uint32_t patience_s;
} belay_contract_target;

#define BELAY_CONTRACT_TARGET_HEAD .size = (uint32_t)sizeof(belay_contract_target)

/* Runs every promise, each with fresh clients and names of its own, in the ways that apply: with
 * BELAY_THREADS and with BELAY_DISPATCH, by the blocking and by the started calls. Prints TAP to
 * `tap`. Returns how many did not keep their promise: 0 is a pass; -1: the target or the pattern is
 * not valid. A promise that does not end within two minutes ends the process (abort), its name
 * printed. */
int belay_contract_run(const belay_contract_target *target, FILE *tap);

/* Calls `each` once for each promise: "topic/promise". */
void belay_contract_promises(void (*each)(void *arg, const char *promise), void *arg);

#ifdef __cplusplus
}
#endif
#endif
