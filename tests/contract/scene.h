/* scene.h - what the suite's promises are told with.
 *
 * A scene is one run of one promise: its clients, its clock, its names. The first thing that is
 * wrong is written down with its place, and from then on every helper does nothing and every `must`
 * is silent; so a promise reads from top to bottom without a return in each line. Helpers may be
 * called from any thread unless they say otherwise. */
#ifndef BELAY_TESTS_CONTRACT_SCENE_H
#define BELAY_TESTS_CONTRACT_SCENE_H

#include <belay/belay.h>
#include <belay/testing.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#define NS_PER_MS INT64_C(1000000)

struct scene {
    const belay_contract_target *target;
    belay_fake_world *world; /* NULL: real time */
    belay_fake_world *other; /* made by other_world */
    bool dispatch;           /* clients are opened with BELAY_DISPATCH, otherwise BELAY_THREADS */
    bool started;            /* take, lengthen and let_go use the started calls */
    bool flows;              /* fake time goes on while something is awaited */
    uint32_t unit_ms;        /* the tests' unit of time: short in real time */
    int effort;              /* percent */
    int64_t patience_ns;     /* real */

    char stem[40]; /* every name of this scene begins with it */
    pthread_mutex_t lock;
    atomic_bool failed;
    bool skipped;
    char why[1024];
    belay *clients[16]; /* the main thread's */
    size_t client_count;
    char (*names)[BELAY_NAME_MAX + 4];
    size_t name_count;
    struct memory *memory; /* freed after the clients were closed */
    struct call *calls;
    struct cancels *cancels;
    belay_lock **locks; /* got, and not let go */
    size_t lock_count, lock_room;
    pthread_t main_thread;
    pthread_t pump;
    bool pumping;
    atomic_bool pump_ends;
};

/* ------------------------------------------------------------------ promises */

enum how {
    ON_THREADS = 1 << 0,  /* runs with BELAY_THREADS */
    ON_DISPATCH = 1 << 1, /* runs with BELAY_DISPATCH */
    ON_BOTH = ON_THREADS | ON_DISPATCH,
    STARTED = 1 << 2, /* runs a second time by the started calls */
    FLOWS = 1 << 3,   /* fake time goes on by itself while something is awaited */
    /* What it needs. */
    CLOCK = 1 << 4, /* a clock that the test turns */
    PROMPT =
        1 << 5, /* operations that need no time: with a late target only in ON_DISPATCH's way */
    FENCING = 1 << 6,
    INSPECT = 1 << 7,
    LIST = 1 << 8,
    BREAK = 1 << 9,
    WAKES = 1 << 10,
    PREFIXES = 1 << 11,
    STOP = 1 << 12
};

struct promise {
    const char *name;
    void (*keep)(struct scene *s);
    unsigned how;
};

struct topic {
    const char *name;
    const struct promise *promises; /* ends with a zeroed one */
};

#define PROMISE(function, how)                                                                     \
    {                                                                                              \
#function, function, how                                                                   \
    }

/* What follows has short names here and prefixed ones at the linker: this is a library for other
 * people's programs. */
#define must_see belay__contract_must_see
#define must_equal_status belay__contract_must_equal_status
#define must_be_told belay__contract_must_be_told
#define skip_here belay__contract_skip_here
#define client_of belay__contract_client_of
#define client_with belay__contract_client_with
#define close_client belay__contract_close_client
#define name_of belay__contract_name_of
#define memory_of belay__contract_memory_of
#define cancel_of belay__contract_cancel_of
#define call_cancel belay__contract_call_cancel
#define descriptors_of belay__contract_descriptors_of
#define now_of belay__contract_now_of
#define pass_ns belay__contract_pass_ns
#define drive belay__contract_drive
#define until_at belay__contract_until_at
#define units belay__contract_units
#define other_world belay__contract_other_world
#define open_options belay__contract_open_options
#define rounds_of belay__contract_rounds_of
#define lease_of belay__contract_lease_of
#define take_status belay__contract_take_status
#define take_at belay__contract_take_at
#define refuse_at belay__contract_refuse_at
#define lengthen belay__contract_lengthen
#define let_go belay__contract_let_go
#define call_new belay__contract_call_new
#define track belay__contract_track
#define let_be belay__contract_let_be
#define thread_acquire belay__contract_thread_acquire
#define break_it belay__contract_break_it
#define is_kept_up belay__contract_is_kept_up
#define can_be_taken belay__contract_can_be_taken
#define call_begin belay__contract_call_begin
#define call_await belay__contract_call_await
#define call_done belay__contract_call_done
#define call_fn belay__contract_call_fn
#define thread_begin belay__contract_thread_begin
#define thread_join belay__contract_thread_join
#define scene_begin belay__contract_scene_begin
#define scene_end belay__contract_scene_end
#define random_next belay__contract_random_next

/* ------------------------------------------------------------------ what must be */

bool must_see(struct scene *s, bool seen, const char *file, int line, const char *format, ...)
    __attribute__((format(printf, 5, 6)));
/* must(s, condition, "what is wrong when it is false", ...) */
#define must(s, condition, ...) must_see((s), (condition), __FILE__, __LINE__, __VA_ARGS__)

bool must_equal_status(struct scene *s, belay_status got, belay_status wanted, const char *file,
                       int line, const char *what);
#define must_be(s, got, wanted, what)                                                              \
    must_equal_status((s), (got), (wanted), __FILE__, __LINE__, what)

/* Of what inspect or list shows of a holder: its token and label; or, from a place that does not
 * claim to tell them, 0 and "". */
void must_show(struct scene *s, const belay_info *info, uint64_t token, const char *label,
               const char *file, int line);
#define must_tell(s, info, token, label)                                                           \
    must_show((s), (info), (token), (label), __FILE__, __LINE__)

/* Of every error that comes out: the status it came with, and one line of text. */
void must_be_told(struct scene *s, belay_status status, const belay_error *err);

/* Main thread: the rest does not apply here, and says why. */
void skip_here(struct scene *s, const char *why);

/* ------------------------------------------------------------------ clients and names */

/* Main thread. A new client; closed at the end of the scene unless it was before. NULL on failure.
 */
belay *client_of(struct scene *s, int which);
belay *client_with(struct scene *s, int which, const belay_open_options *options);
/* What client_of opens with. */
belay_open_options open_options(const struct scene *s);
void close_client(struct scene *s, belay *client);

/* Zeroed memory that lives until the clients were closed: for what callbacks write to, also late
 * ones. */
void *memory_of(struct scene *s, size_t size);

/* A cancel; freed after the clients were closed. NULL on failure. */
belay_cancel *cancel_of(struct scene *s);

/* Which descriptors are open now: open[fd] for the first DESCRIPTORS of them. Returns how many. */
enum { DESCRIPTORS = 1024 };
int descriptors_of(bool *open);

/* Main thread. A name of this scene's own that ends with `tail`; valid until the scene's end. */
const char *name_of(struct scene *s, const char *tail);

/* ------------------------------------------------------------------ time */

int64_t now_of(const struct scene *s);                 /* nanoseconds */
uint32_t units(const struct scene *s, uint32_t count); /* in milliseconds */
/* Lets time pass: turns the clock, or sleeps. With BELAY_DISPATCH (main thread) what is due is
 * done. */
void pass_ns(struct scene *s, int64_t ns);
#define pass_ms(s, ms) pass_ns((s), (int64_t)(ms)*NS_PER_MS)
#define pass_units(s, count) pass_ms((s), units((s), (count)))

/* Main thread. One look at every client: dispatches, or waits a moment for their threads. */
void drive(struct scene *s);
/* Main thread. Drives until `seen` is true; with FLOWS fake time goes on. False, and a failure that
 * names `what`, after many real seconds. */
bool until_at(struct scene *s, bool (*seen)(void *arg), void *arg, const char *file, int line,
              const char *what);
#define until(s, seen, arg, what) until_at((s), (seen), (arg), __FILE__, __LINE__, (what))

/* Main thread. A second world whose clock stands where the first one's does now; once in a scene.
 * NULL when memory ran out. */
belay_fake_world *other_world(struct scene *s);

/* `count` times the target's effort, at least 1. */
int rounds_of(const struct scene *s, int count);

/* ------------------------------------------------------------------ locks */

/* Options: not kept, `ttl_units` long. */
belay_options lease_of(const struct scene *s, uint32_t ttl_units, int64_t wait_ms);

/* Acquires in the scene's way. NULL options: a try for a lease of 10 units. */
belay_status take_status(struct scene *s, belay *client, const char *name,
                         const belay_options *options, belay_lock **out);
belay_lock *take_at(struct scene *s, belay *client, const char *name, const belay_options *options,
                    const char *file, int line);
#define take(s, client, name, options) take_at((s), (client), (name), (options), __FILE__, __LINE__)
/* The acquire must be answered so; what it gets all the same is released. */
void refuse_at(struct scene *s, belay *client, const char *name, const belay_options *options,
               belay_status wanted, const char *file, int line);
#define refused(s, client, name, options, wanted)                                                  \
    refuse_at((s), (client), (name), (options), (wanted), __FILE__, __LINE__)

belay_status lengthen(struct scene *s, belay_lock *lock, uint32_t ttl_ms);
belay_status let_go(struct scene *s, belay_lock *lock);
#define extended(s, lock, ttl_ms, wanted)                                                          \
    must_be((s), lengthen((s), (lock), (ttl_ms)), (wanted), "extend")
#define released(s, lock, wanted) must_be((s), let_go((s), (lock)), (wanted), "release")

/* Removes the lock at the place, behind its holder's back. */
void break_it(struct scene *s, belay *client, const char *name);

/* A lock that is kept, and how much must remain of it; `is_kept_up` is for until. */
struct kept {
    belay_lock *lock;
    int64_t least_ms;
};
bool is_kept_up(void *kept);

/* Takes the lock for ten units when it can be had; `can_be_taken` is for until. */
struct taker {
    struct scene *scene;
    belay *client;
    const char *name;
    belay_lock *lock;
};
bool can_be_taken(void *taker);

/* The scene knows a lock from when it was got until let_go, and ends what is left at its end.
 * `let_be`: the test lets go of it in another way. */
void track(struct scene *s, belay_lock *lock);
void let_be(struct scene *s, const belay_lock *lock);

/* ------------------------------------------------------------------ started calls */

struct call {
    struct scene *scene;
    struct call *next;
    atomic_uint count; /* of the times it was called back */
    belay_status status;
    belay_lock *lock;
    int64_t at_ns;
    int order;           /* 1: the first of the calls that share `counter` */
    atomic_int *counter; /* NULL: none */
    pthread_t thread;
    belay_request *request;
    belay_error err;
};

/* A call that is not started; for belay_*_start and call_fn. Lives until the scene's end; never
 * NULL. */
struct call *call_new(struct scene *s);
/* The callback: fills the `struct call` that is its argument. */
void call_fn(void *arg, belay_status status, belay_lock *lock, const belay_error *err);
/* Starts an acquire; the start must be OK. Never NULL. `counter` may be NULL. */
struct call *call_begin(struct scene *s, belay *client, const char *name,
                        const belay_options *options, atomic_int *counter);
bool call_done(const struct call *call);
void call_cancel(struct call *call);
/* Main thread. Drives until it has called back; its status. */
belay_status call_await(struct scene *s, struct call *call);

/* ------------------------------------------------------------------ threads */

/* Zero it and set what `run` needs; the rest is for its results. */
struct thread {
    struct scene *scene;
    void (*run)(struct thread *thread);
    belay *client;
    const char *name;
    belay_options options; /* its cancel is fired when the scene has failed */
    int number, rounds;
    void *shared;
    belay_status status;
    belay_lock *lock;
    int64_t at_ns;
    pthread_t id;
    bool begun;
    atomic_bool ended;
};

void thread_begin(struct scene *s, struct thread *thread, void (*run)(struct thread *));
/* Main thread. Waits for its end, and for no longer when the scene has failed; allowed when it was
 * not begun. Every thread must be joined before the promise returns. */
void thread_join(struct scene *s, struct thread *thread);
/* What most threads run: one blocking acquire of `name` into status, lock, at_ns. */
void thread_acquire(struct thread *thread);

uint64_t random_next(uint64_t *state);

/* ------------------------------------------------------------------ the run */

bool scene_begin(struct scene *s, const belay_contract_target *target, belay_fake_world *world,
                 unsigned how, unsigned number);
/* Closes what is open and looks for what was left behind. */
void scene_end(struct scene *s);

extern const struct promise belay__contract_exclusion[];
extern const struct promise belay__contract_waiting[];
extern const struct promise belay__contract_canceling[];
extern const struct promise belay__contract_leases[];
extern const struct promise belay__contract_keeping[];
extern const struct promise belay__contract_tokens[];
extern const struct promise belay__contract_callbacks[];
extern const struct promise belay__contract_names[];
extern const struct promise belay__contract_looking[];
extern const struct promise belay__contract_closing[];
extern const struct promise belay__contract_failure[];
extern const struct promise belay__contract_stress[];

#endif
