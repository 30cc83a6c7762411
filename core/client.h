/* client.h - what the files of core share: the client, a request, a held lock.
 *
 * Everything is under the client's monitor, but for what is marked otherwise. */
#ifndef BELAY_CORE_CLIENT_H
#define BELAY_CORE_CLIENT_H

#include "core/config.h"
#include "core/loop.h"

#define BELAY__MS INT64_C(1000000) /* nanoseconds */
#define BELAY__SECOND INT64_C(1000000000)

struct belay_env {
    belay *client;
    struct belay__loop *loop;
    const char *name;
    int64_t timeout_ns;
};

/* ------------------------------------------------------------------ fork.c, owner.c */

/* A page that a forked child finds zeroed (MADV_WIPEONFORK): the guard, and random bytes that must
 * not be handed out twice. */
struct belay__page {
    uint64_t alive; /* 0 in a child */
    size_t used;
    unsigned char random[4096 - 16];
};
struct belay__page *belay__page_new(void);
void belay__page_free(struct belay__page *page);

/* A new owner id: 32 hexadecimal digits and NUL. */
void belay__owner_make(struct belay__page *page, belay_world *world,
                       char owner[BELAY_OWNER_LENGTH + 1]);

/* ------------------------------------------------------------------ log.c */

/* What an outage makes a client say of every lock it holds. */
enum belay__log_kind {
    BELAY__LOG_LOST,
    BELAY__LOG_DEMOTED,
    BELAY__LOG_PROMOTED,
    BELAY__LOG_EXTENSION,
    BELAY__LOG_KINDS
};

struct belay__log {
    struct belay__call call;
    belay *client;
    belay_log_fn *fn;
    void *arg;
    struct belay__loop *loop;
    belay_level level;
    uint32_t first, count, dropped;
    struct {
        belay_level level;
        char text[244];
    } lines[32];
    struct belay__log_window { /* of one kind: from its first line on */
        int64_t since_ns;
        uint32_t said, left_out;
        belay_level level;
    } windows[BELAY__LOG_KINDS];
    belay_timer window_timer; /* armed while lines are being left out */
};
/* The monitor is held. */
void belay__log(belay *client, belay_level level, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
void belay__vlog(belay *client, belay_level level, const char *format, va_list args);
/* The same, but no more than five lines of a kind in ten seconds; how many were left out is said
 * when the ten seconds are over, or the client is closed. */
void belay__log_limited(belay *client, enum belay__log_kind kind, belay_level level,
                        const char *format, ...) __attribute__((format(printf, 4, 5)));
/* Says now what was left out so far: the client is being closed. NULL: it has no log. */
void belay__log_finish(struct belay__log *log);
/* A name fit for a line of text: control characters, quotes and bytes over 0x7e as \xNN. Returns
 * `out`. */
const char *belay__printable(const char *name, char *out, size_t size);

/* ------------------------------------------------------------------ the client */

struct belay__names { /* who waits, by name (names.c) */
    belay_request **buckets;
    uint32_t bucket_count; /* a power of two */
    uint32_t count;
    belay_request *few[16];
};

struct belay {
    struct belay__loop loop;
    struct belay__page *page;
    _Atomic uint32_t refs; /* the open client counts one, every lock's handle one */
    bool closing, closed;
    struct belay__closer *closer;

    struct belay__config *config;
    char *where; /* what belay_where says */
    belay_backend *root;
    belay_scope scope_max;
    int64_t timeout_ns;
    size_t prefix_length;

    belay_link requests;   /* every request under way */
    belay_link locks;      /* every handle */
    belay_link debts;      /* give-backs under way */
    belay_link cancels;    /* watched cancels */
    belay_link extensions; /* the keeper's, under way */
    struct belay__names names;
    struct belay__turn *turns; /* NULL: no `handoff_pause` */
    int64_t rtt_ns;            /* a smoothed round trip, for the pause after many hand-offs */

    struct belay__log *log;
    belay_event_fn *on_event;
    void *arg;
};

void belay__client_ref(belay *client);
void belay__client_unref(belay *client);
/* FORKED in a child; INVALID for NULL; fills err. Any thread, unlocked. */
belay_status belay__client_check(const belay *client, belay_error *err);
static inline bool belay__forked(const belay *client)
{
    return __atomic_load_n(&client->page->alive, __ATOMIC_RELAXED) == 0;
}
void belay__backends_destroy(belay *client);
/* Something ended: is that all that belay_close waits for? */
void belay__close_check(belay *client);
/* since_ns: when it began; 0: not known. */
void belay__event(belay *client, belay_event_kind kind, const char *name, belay_scope scope,
                  int64_t since_ns, const char *text);

/* ------------------------------------------------------------------ a lock */

struct belay_lock {
    belay *client;
    _Atomic int64_t deadline_ns; /* INT64_MIN: lost. Read without the monitor */
    uint64_t token;
    belay_grant *grant;
    belay_link all;
    belay_timer timer; /* the next extension, or the deadline */
    int64_t next_ns;   /* the next extension; INT64_MAX: none */
    struct belay__call call;
    belay_lost_fn *on_lost;
    belay_scope_fn *on_scope;
    void *arg;
    char *why; /* of the loss; NULL: memory was short, or not lost */
    uint32_t ttl_ms;
    uint32_t every_ms;
    uint32_t refs; /* the handle, and each op that uses the grant */
    uint32_t backoff_ms;
    _Atomic uint8_t scope;
    uint8_t at_least;
    bool kept, detached;
    bool extending;           /* by the keeper */
    bool lost;                /* told or to be told */
    bool definite;            /* the backend said so: there is nothing to delete */
    bool lost_due, scope_due; /* callbacks that wait */
    bool freed;               /* the handle is gone; ops may still hold refs */
    uint16_t prefix_length, key_length;
    char owner[BELAY_OWNER_LENGTH + 1];
    char key[]; /* prefix + name + NUL */
};

belay_lock *belay__lock_new(belay *client, const char *name, size_t name_length);
static inline const char *belay__lock_name(const belay_lock *lock)
{
    return lock->key + lock->prefix_length;
}
/* drift = ttl/100 + 2 ms (SEMANTICS 1). */
static inline int64_t belay__deadline(int64_t sent_ns, uint32_t ttl_ms)
{
    return sent_ns + (int64_t)ttl_ms * BELAY__MS -
           ((int64_t)ttl_ms * BELAY__MS / 100 + 2 * BELAY__MS);
}
/* The grant is in: from now on it is held, and kept. */
void belay__lock_begin(belay_lock *lock, belay_op *op);
void belay__lock_lose(belay_lock *lock, bool definite, const char *why);
/* An extension of `ttl_ms` was answered. */
void belay__lock_extended(belay_lock *lock, belay_op *op, belay_status status);
/* Fills the In part of an op on this lock. */
void belay__lock_op(belay_lock *lock, belay_op *op, belay_verb verb, uint32_t ttl_ms,
                    void (*done)(belay_op *, belay_status));
void belay__lock_unref(belay_lock *lock);
/* Takes the handle from its owner: no timer, no callback from now on. True: the monitor was let go
 * meanwhile. */
bool belay__lock_retire(belay_lock *lock);
/* The keeper: (re)arms the lock's timer. */
void belay__keeper_arm(belay_lock *lock);
void belay__keeper_stop(belay_lock *lock);
void belay__keeper_close(belay *client); /* cancels what it has under way */

/* ------------------------------------------------------------------ debts (debt.c) */

/* Releases what nobody may believe in any more, in the background, until it is gone, the TTL has
 * run out or the client gives up at close. The lock must be retired; it is freed when all is done.
 * Returns false when memory is short: nothing was begun. */
bool belay__debt_begin(belay_lock *lock, int64_t until_ns);
void belay__debts_drop(belay *client); /* at close, when time is up */

/* ------------------------------------------------------------------ requests */

typedef enum belay__request_phase {
    BELAY__PHASE_NEW = 0,
    BELAY__PHASE_QUEUED,   /* behind another waiter of this client */
    BELAY__PHASE_ATTEMPT,  /* an op is under way */
    BELAY__PHASE_SLEEP,    /* refused: until the timer or a wake-up */
    BELAY__PHASE_PAUSE,    /* after many hand-offs: until the timer */
    BELAY__PHASE_GIVEBACK, /* an unwanted grant is being released */
    BELAY__PHASE_DONE
} belay__request_phase;

struct belay_request {
    struct belay__waiter waiter;
    belay *client;
    belay_link all;
    belay__request_phase phase;
    belay_op op;
    belay_lock *lock; /* acquire: being made; extend, release: its subject */
    belay_lock *result;
    belay_status status;
    belay_status end_with; /* CANCELED or another status that was decided from outside; OK: none */
    bool queued;           /* acquire: in the queue of its name */
    struct belay__cancel_watch *cancel_watch;
    belay_link cancel_link;

    /* Started calls. */
    bool async, freed_by_user;
    belay_done_fn *done;
    void *arg;
    struct belay__call call;

    /* Acquire: zeroed for it alone. */
    belay_wait wait;
    bool wait_used; /* the backend saw it */
    bool woken;     /* since the attempt was sent */
    bool woken_twice;
    bool try_once;
    bool was_held; /* an attempt was answered HELD */
    bool handed;   /* this attempt follows a local release */
    int64_t wait_until_ns;
    int64_t outage_since_ns; /* 0: none */
    uint32_t backoff_ms;
    uint32_t ttl_ms;
    int32_t also_pid;
    belay_scope at_least;
    belay_timer timer;
    belay_task attempt; /* deferred: attempt now */
    belay_cancel *cancel;

    /* The local queue of a name (names.c): a ring whose head is in the hash table. */
    uint32_t hash;
    belay_request *bucket_next; /* the head's */
    uint32_t handoffs;          /* the head's: in a row */
    belay_link fifo;

    /* Never zeroed: it would cost more than all the rest. */
    belay_error error; /* where the op puts its text */
    char label[BELAY_LABEL_MAX + 1];
};

/* Readies a request; its memory may hold anything. For an acquire, belay__request_init_acquire
 * comes after it. */
void belay__request_init(belay_request *request, belay *client);
void belay__request_init_acquire(belay_request *request);
/* Begins a one-op request on a lock or a name; `done` of the op is set. */
void belay__request_begin_op(belay_request *request, int64_t now_ns);
/* The answer is known: wakes the caller or queues the callback. The request may be gone afterwards.
 */
void belay__request_finish(belay_request *request, belay_status status);
/* Ends it from outside (cancel, close, memory): soon. */
void belay__request_end(belay_request *request, belay_status with, const char *why);
/* Blocks until it is done and returns its status; entered with the monitor held, returns without
 * it. */
belay_status belay__request_wait(belay_request *request, belay_error *err);
/* The same ending for started calls: the monitor is held, and left. */
belay_status belay__request_started(belay_request *request, belay_request **out);
belay_request *belay__request_new(belay *client, belay_done_fn *done, void *arg);

/* Acquire (acquire.c): what the request needs is checked and copied, then it begins. */
void belay__acquire_prepare(belay_request *request); /* without the monitor */
void belay__acquire_begin(belay_request *request);
void belay__acquire_end(belay_request *request, belay_status with); /* from outside */
/* A release of that key was begun by this client: its first waiter may try, right behind it. */
void belay__acquire_released(belay *client, const char *key, size_t length);
/* It was answered: an attempt that overtook it may have been refused for nothing. */
void belay__acquire_freed(belay *client, const char *key, size_t length, bool in_order);
belay_status belay__options_read(belay_options *to, const belay_options *from, belay_error *err);

/* Leaving a name alone now and then (turns.c). */
belay_status belay__turns_init(belay *client); /* the config is read; OK, NOMEM */
void belay__turn_granted(belay *client, uint32_t hash, int64_t now);
void belay__turn_released(belay *client, uint32_t hash, int64_t now);
/* May the name be asked for now? 0; or until when it is left to others. */
int64_t belay__turn_wait(belay *client, uint32_t hash, int64_t now);
/* The queue (names.c). */
uint32_t belay__names_hash(const char *key, size_t length);
belay_request *belay__names_head(belay *client, const char *key, size_t length, uint32_t hash);
void belay__names_join(belay_request *request);
/* Takes it out; returns the new head if it was the head, or NULL. */
belay_request *belay__names_leave(belay_request *request);
void belay__names_free(belay *client);

/* Cancels (cancel.c). */
bool belay__cancel_fired(const belay_cancel *cancel);
bool belay__cancel_owns(const belay_watch *watch); /* its descriptor is the program's */
belay_status belay__cancel_watch(belay_request *request);
void belay__cancel_unwatch(belay_request *request);

/* Ops (op.c). */
void belay__op_begin(belay_op *op, int64_t now_ns);
enum { BELAY__OP_STARTED = 0x5e7 };
static inline bool belay__op_pending(const belay_op *op)
{
    return op->state == BELAY__OP_STARTED;
}

void belay__poke_init(struct belay__loop *loop, belay_poke *poke, belay_poke_fn *fn);
void belay__poke_fini(struct belay__loop *loop, belay_poke *poke);

/* Copies `from` into the caller's error, if there is one; returns its status. */
belay_status belay__error_copy(belay_error *to, const belay_error *from);
void belay__error_vset(belay_error *err, belay_status status, const char *node, const char *format,
                       va_list args);

#endif
