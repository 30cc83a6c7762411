/* belay.h - distributed locks: one small API, many places to keep the lock.
 *
 * A program opens a client (`belay_open`), takes locks by name (`belay_acquire`), asks whether it
 * may still believe in them (`belay_lock_valid`), and lets them go (`belay_release`). Where the
 * lock is kept is the config file's business.
 *
 * Threads: a client may be used from any number of threads. The calls on one lock may come from any
 * thread; `belay_release` and `belay_forget` end the handle and must not race with another call on
 * it.
 *
 * Fork: in the child of a fork every call answers BELAY_FORKED, does no I/O and releases nothing.
 * The child may call `belay_close`, which only closes the descriptors.
 *
 * Signals, cancellation: no call touches a signal's disposition or mask. Thread cancellation is off
 * inside blocking calls. `belay_cancel_fire` alone may be called from a signal handler.
 *
 * Errors: every call that can fail returns a `belay_status` and, when the caller gives one, fills a
 * `belay_error`. Nothing is printed, no errno is set, nothing exits or aborts.
 */
#ifndef BELAY_BELAY_H
#define BELAY_BELAY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define BELAY_API __attribute__((visibility("default")))
#define BELAY_CHECK __attribute__((warn_unused_result))
#else
#define BELAY_API
#define BELAY_CHECK
#endif

/* ------------------------------------------------------------------ statuses */

/* X(name, value, text). The text is what `belay_status_text` returns. The values are stable. */
#define BELAY_STATUS_MAP(X)                                                                        \
    X(OK, 0, "done")                                                                               \
    /* Answers: the backend was reached and said so. */                                            \
    X(HELD, 1, "another holds the lock")                                                           \
    X(LOST, 2, "the lock is not ours any more")                                                    \
    /* Doubts. */                                                                                  \
    X(UNAVAILABLE, 3, "the backend could not be reached; nothing is held")                         \
    X(UNCERTAIN, 4, "sent, but the outcome is not known; it is being cleaned up")                  \
    /* Refusals: asking again will not help. */                                                    \
    X(REFUSED, 5, "the server does not allow it")                                                  \
    X(UNSUPPORTED, 6, "this backend cannot do that")                                               \
    /* The caller's. */                                                                            \
    X(INVALID, 7, "an argument is not valid")                                                      \
    X(CONFIG, 8, "the configuration is not valid")                                                 \
    X(CANCELED, 9, "canceled by the caller")                                                       \
    X(FORKED, 10, "this process is a fork of the one that opened the client")                      \
    X(CLOSED, 11, "the client is closed")                                                          \
    X(NOMEM, 12, "out of memory, threads or descriptors")

typedef enum belay_status {
#define BELAY_STATUS_ENUM(name, value, text) BELAY_##name = value,
    BELAY_STATUS_MAP(BELAY_STATUS_ENUM)
#undef BELAY_STATUS_ENUM
} belay_status;

/* The status in words ("another holds the lock") and its name ("HELD"). Static; never NULL. */
BELAY_API const char *belay_status_text(belay_status status);
BELAY_API const char *belay_status_name(belay_status status);

/* What went wrong, in the caller's own memory. Start from `belay_error err = BELAY_ERROR_INIT;` or
 * `{0}`. Filled by every call that takes one, also with BELAY_OK. `text` is one line, without the
 * node, made where the fact was known; `node` names the server or file that said it, or is "". */
typedef struct belay_error {
    uint32_t size; /* sizeof(belay_error); 0 means the size of version 0.1 */
    belay_status status;
    char node[112];
    char text[272];
} belay_error;

#define BELAY_ERROR_INIT                                                                           \
    {                                                                                              \
        (uint32_t)sizeof(belay_error), BELAY_OK, "", ""                                            \
    }

/* ------------------------------------------------------------------ words */

typedef struct belay belay;                 /* a client: one opened configuration */
typedef struct belay_lock belay_lock;       /* a lock that is held */
typedef struct belay_request belay_request; /* a started acquire, extend or release */
typedef struct belay_cancel belay_cancel;   /* something that ends calls early */

struct belay_backend_ops; /* belay/backend.h */
struct belay_world;       /* belay/backend.h */

/* How far a grant excludes others. Larger reaches farther. */
typedef enum belay_scope {
    BELAY_SCOPE_ANY = 0,     /* in options: whatever the backend gives */
    BELAY_SCOPE_PROCESS = 1, /* the threads of this process */
    BELAY_SCOPE_HOST = 2,    /* the processes of this host that open the same file */
    BELAY_SCOPE_FLEET = 3    /* every machine that reaches the same server */
} belay_scope;

BELAY_API const char *belay_scope_name(belay_scope scope); /* "any", "process", "host", "fleet" */

#define BELAY_NAME_MAX 512            /* bytes of a lock's name; at least 1; any byte but NUL */
#define BELAY_LABEL_MAX 63            /* bytes of a label */
#define BELAY_OWNER_LENGTH 32         /* an owner id is 32 hexadecimal digits: 128 random bits */
#define BELAY_TTL_MIN_MS 100u         /* the shortest TTL: 100 ms */
#define BELAY_TTL_MAX_MS 604800000u   /* the longest: 7 days */
#define BELAY_WAIT_MAX_MS 31536000000 /* the longest finite wait: 365 days */

#define BELAY_TRY (-1)     /* wait_ms: one attempt, no waiting */
#define BELAY_FOREVER (-2) /* wait_ms: until it is ours, outages longer than `outage` aside */

/* ------------------------------------------------------------------ opening */

/* BELAY_THREADS: the library starts threads of its own when there is work that no caller waits for
 * (extensions, callbacks). BELAY_DISPATCH: none, ever; extensions and callbacks happen inside
 * `belay_dispatch` (extensions in blocking calls as well). BELAY_DISPATCH_WORKER: as
 * BELAY_DISPATCH, but for one thread that is started when something has to be done that can only
 * block, as resolving a host's name; it runs nothing of the program's. */
typedef enum belay_threads {
    BELAY_THREADS = 0,
    BELAY_DISPATCH = 1,
    BELAY_DISPATCH_WORKER = 2
} belay_threads;

typedef enum belay_level {
    BELAY_LOG_DEFAULT = 0, /* in options: info */
    BELAY_LOG_ERROR = 1,
    BELAY_LOG_WARN = 2,
    BELAY_LOG_INFO = 3,
    BELAY_LOG_DEBUG = 4
} belay_level;

/* What happened to the client or a lock of its. */
typedef enum belay_event_kind {
    BELAY_EVENT_LOCK_LOST = 1,     /* a held lock is not ours any more */
    BELAY_EVENT_LOCK_DEMOTED = 2,  /* ... is held in a smaller scope than before */
    BELAY_EVENT_LOCK_PROMOTED = 3, /* ... in a larger one */
    BELAY_EVENT_DEGRADED =
        4, /* a fallback does without its primary; `scope`: of grants from now on */
    BELAY_EVENT_RECOVERED = 5, /* its primary is back; `since_ms`: for how long it was away */
    BELAY_EVENT_FAILOVER = 6,
    BELAY_EVENT_NODE_DOWN = 7,
    BELAY_EVENT_NODE_BACK = 8
} belay_event_kind;

/* The name of an event's kind, as in "lock-lost". Static; never NULL. */
BELAY_API const char *belay_event_name(belay_event_kind kind);

/* Pointers are valid until the callback returns. */
typedef struct belay_event {
    uint32_t size;
    belay_event_kind kind;
    const char *name;  /* the lock's name, or (DEGRADED and below) the backend's in the config */
    belay_scope scope; /* now */
    const char *text;  /* why, in one line */
    int64_t since_ms;  /* how long ago what it tells of began; -1: not known */
} belay_event;

/* Callbacks run one at a time, with no lock of the library's held, on a thread of the client's own
 * (BELAY_THREADS) or inside `belay_dispatch` (the other two). They may call belay again. */
typedef void belay_log_fn(void *arg, belay_level level, const char *line);
typedef void belay_event_fn(void *arg, const belay_event *event);

typedef struct belay_open_options {
    uint32_t size;
    belay_threads threads;
    const struct belay_backend_ops *const *backends; /* NULL, or a NULL-ended array of tables that
                                                        are tried before the built-in ones; they
                                                        must outlive the client */
    struct belay_world *world;                       /* NULL: the real one; for tests */
    belay_log_fn *on_log;                            /* NULL: the library is silent */
    belay_level log_level;
    belay_event_fn *on_event;
    void *arg; /* for on_log and on_event */
} belay_open_options;

#define BELAY_OPEN_OPTIONS_INIT                                                                    \
    {                                                                                              \
        (uint32_t)sizeof(belay_open_options), BELAY_THREADS, NULL, NULL, NULL, BELAY_LOG_DEFAULT,  \
            NULL, NULL                                                                             \
    }

/* Opens a client.
 *   where    a config file's path; a URL (sqlite:///path, memory:, memory:name ...); or NULL for
 *            the default chain: $BELAY_CONFIG (by secure_getenv), ~/.config/belay/belay.conf,
 *            /etc/belay/belay.conf, and where none exists SQLite in a folder of this host. The
 *            working directory is never searched.
 *   options  NULL for the defaults.
 * A server that is down does not make it fail: it is reached when it is back, without reopening.
 * One bad key opens nothing.
 * OK: *out is a client; close it with belay_close. Otherwise *out is NULL.
 * CONFIG: the file, a key or a value is wrong; the text says `file:line: what`. INVALID, NOMEM,
 * REFUSED (a config file with a password that others can read). */
BELAY_API BELAY_CHECK belay_status belay_open(belay **out, const char *where,
                                              const belay_open_options *options, belay_error *err);

/* Ends what runs (calls in flight answer CANCELED), releases what is held (detached locks are
 * left), cleans up behind itself for up to `close_timeout` (1 s), frees the client. NULL is
 * allowed. Handles of locks stay valid for one more belay_release or belay_forget each, which
 * answers CLOSED. No other call on the client may begin after this one did. Inside a callback it
 * takes effect when the callback returns. */
BELAY_API void belay_close(belay *client);

/* What was opened, in one line: the config file's path, the URL or "built-in default", and the
 * backend's name and type, as "/etc/belay/belay.conf: main (sqlite)". Owned by the client; "" for
 * NULL. */
BELAY_API const char *belay_where(const belay *client);
/* The farthest scope that a lock of this client can have, when all is well; ANY for NULL. */
BELAY_API belay_scope belay_reach(const belay *client);
/* The config's `ttl`, which a zero in belay_options means. */
BELAY_API uint32_t belay_ttl_ms(const belay *client);

/* A start-up check: takes and releases a lock of a random name. OK, or what an acquire would
 * answer. */
BELAY_API BELAY_CHECK belay_status belay_ready(belay *client, belay_error *err);

/* ------------------------------------------------------------------ locks */

typedef enum belay_keep {
    BELAY_KEEP_DEFAULT = 0, /* the config's `keep`, which is true unless set */
    BELAY_KEEP_ON = 1,      /* extended every ttl/3 until it is released or lost */
    BELAY_KEEP_OFF = 2      /* ends with its TTL unless the caller extends it */
} belay_keep;

/* The lock was lost: told once, no later than its deadline plus one scheduling delay. The handle is
 * still the caller's to release. `why->status` is BELAY_LOST, `why->text` says how. */
typedef void belay_lost_fn(void *arg, belay_lock *lock, const belay_error *why);

/* The lock's scope changed: a fallback's primary is out of reach, or back again. The token stays.
 */
typedef void belay_scope_fn(void *arg, belay_lock *lock, belay_scope now);

/* Zero in a field means the config's default; in `size`, sizeof(belay_options). */
typedef struct belay_options {
    uint32_t size;
    uint32_t ttl_ms; /* BELAY_TTL_MIN_MS to BELAY_TTL_MAX_MS */
    int64_t wait_ms; /* up to BELAY_WAIT_MAX_MS, BELAY_TRY, or BELAY_FOREVER */
    belay_keep keep;
    uint32_t
        keep_every_ms; /* how often a kept lock is extended; 0: a third of its TTL; less than it */
    belay_scope at_least; /* the smallest scope that will do; more than the backend can ever give
                             is UNSUPPORTED */
    bool detached;        /* not tied to this process: no dead-holder rule, not released by close */
    int32_t also_pid;     /* > 0: another process that holds too: the dead-holder rule waits for
                             both (sqlite) */
    const char *label;    /* shown by inspect; at most BELAY_LABEL_MAX bytes; copied */
    belay_lost_fn *on_lost;
    belay_scope_fn *on_scope;
    void *arg;            /* for on_lost and on_scope */
    belay_cancel *cancel; /* ends the call with CANCELED when it is fired */
} belay_options;

#define BELAY_OPTIONS_INIT                                                                         \
    {                                                                                              \
        (uint32_t)sizeof(belay_options), 0, 0, BELAY_KEEP_DEFAULT, 0, BELAY_SCOPE_ANY, false, 0,   \
            NULL, NULL, NULL, NULL, NULL                                                           \
    }

/* Takes the lock `name`, waiting up to `wait_ms` for its turn. Blocks.
 * OK: *out is the lock; end it with belay_release. Otherwise *out is NULL and nothing is held, or
 * what may be held is being given back (UNCERTAIN).
 * HELD: another holds it and the wait is over. UNAVAILABLE, UNCERTAIN: outages longer than
 * `outage`, a wait whose end cut its only attempt short, or the one attempt of BELAY_TRY. REFUSED,
 * UNSUPPORTED, INVALID, CONFIG, CANCELED, FORKED, CLOSED, NOMEM. */
BELAY_API BELAY_CHECK belay_status belay_acquire(belay *client, const char *name,
                                                 const belay_options *options, belay_lock **out,
                                                 belay_error *err);

/* Lengthens the lock: what remains becomes at least `ttl_ms` (0: the TTL it was taken with), never
 * less. OK: the deadline moved. LOST: final; the handle is still to be released. UNAVAILABLE,
 * UNCERTAIN: the old deadline stands; try again. INVALID, FORKED, CLOSED, NOMEM. Blocks for at most
 * one `timeout` of the backend. */
BELAY_API BELAY_CHECK belay_status belay_extend(belay_lock *lock, uint32_t ttl_ms,
                                                belay_error *err);

/* Releases the lock and frees the handle, whatever it returns. NULL is allowed: INVALID.
 * OK: it was ours and is gone. LOST: it was not ours any more. UNAVAILABLE: not reached; the
 * library goes on releasing in the background, and the TTL ends it at the latest. FORKED (nothing
 * was released), CLOSED. When it returns, no callback for this lock runs or will start, except the
 * one it was called from. */
BELAY_API belay_status belay_release(belay_lock *lock, belay_error *err);

/* Frees the handle and leaves the lock as it is: it ends with its TTL. For detached grants. */
BELAY_API void belay_forget(belay_lock *lock);

/* A handle on a grant that was made elsewhere (by `belay try`, say): asks the backend whether
 * `owner` (32 hexadecimal digits) holds `name` now. Not kept unless options->keep is ON. LOST: it
 * does not. UNSUPPORTED: the backend cannot tell. Otherwise as belay_acquire. */
BELAY_API BELAY_CHECK belay_status belay_adopt(belay *client, const char *name, const char *owner,
                                               const belay_options *options, belay_lock **out,
                                               belay_error *err);

/* True while the holder may believe in the lock and will be able to for `need_ms` more. No I/O, no
 * system call: a clock read and a comparison. False from the deadline on, after a loss, in a forked
 * child, and for NULL. */
BELAY_API bool belay_lock_valid(const belay_lock *lock, uint32_t need_ms);
/* Milliseconds until the deadline, rounded down; 0 when it is past or the lock is lost. */
BELAY_API int64_t belay_lock_remaining_ms(const belay_lock *lock);
/* The fencing token: grows from grant to grant; 0 with `fencing = false`. */
BELAY_API uint64_t belay_lock_token(const belay_lock *lock);
BELAY_API belay_scope belay_lock_scope(const belay_lock *lock);
/* Owned by the lock; valid until it is released. The owner id proves who may release: a secret. */
BELAY_API const char *belay_lock_name(const belay_lock *lock);
BELAY_API const char *belay_lock_owner(const belay_lock *lock);

/* ------------------------------------------------------------------ looking, and breaking */

typedef struct belay_info {
    uint32_t size; /* sizeof(belay_info); 0 means the size of version 0.1 */
    bool held;     /* everything below is about the holder, if there is one */
    belay_scope scope;
    uint32_t waiters; /* how many are known to wait */
    uint64_t token;
    int64_t remaining_ms;               /* of the TTL; -1: not known, or it has none */
    int64_t held_ms;                    /* since it was taken; -1: not known */
    int64_t pid;                        /* the holder's process on this host; 0: not known */
    char owner[BELAY_OWNER_LENGTH + 4]; /* "" where the format is foreign */
    char label[BELAY_LABEL_MAX + 1];
    char name[BELAY_NAME_MAX + 4];
} belay_info;

/* Who holds `name` now? OK (look at out->held), UNSUPPORTED, UNAVAILABLE, ... */
BELAY_API BELAY_CHECK belay_status belay_inspect(belay *client, const char *name, belay_info *out,
                                                 belay_error *err);

/* Calls `each` for every held lock whose name matches `glob` (fnmatch; NULL: all), in the order of
 * their names, on the calling thread, after the answer is complete. `each` returns false to stop.
 */
typedef bool belay_list_fn(void *arg, const belay_info *info);
BELAY_API BELAY_CHECK belay_status belay_list(belay *client, const char *glob, belay_list_fn *each,
                                              void *arg, belay_error *err);

/* Removes another's lock: only while its owner is still the one `seen` shows (a
 * compare-and-delete). OK; LOST: the owner is not that one any more, nothing was done. */
BELAY_API BELAY_CHECK belay_status belay_break(belay *client, const char *name,
                                               const belay_info *seen, belay_error *err);

typedef enum belay_severity { BELAY_FINE = 0, BELAY_WARNING = 1, BELAY_BROKEN = 2 } belay_severity;

typedef struct belay_finding {
    uint32_t size;
    belay_severity severity;
    const char *backend; /* its name in the config */
    const char *type;    /* its type */
    const char *check;   /* what was looked at: "reachable", "filesystem" ... */
    const char *text;    /* what was found */
    const char *meaning; /* what that means for the locks, or "" */
    const char *advice;  /* what to do, or "" */
} belay_finding;

/* What `belay doctor` prints: asks every backend that the config's `use` reaches, children before
 * what is made of them, and calls `each` for each finding, on the calling thread, when all were
 * asked. One that cannot be asked is a finding too. Each may take two seconds, or its `timeout`
 * where that is longer. OK, FORKED, CLOSED, CANCELED (the client was closed meanwhile), INVALID,
 * NOMEM. */
typedef void belay_finding_fn(void *arg, const belay_finding *finding);
BELAY_API BELAY_CHECK belay_status belay_diagnose(belay *client, belay_finding_fn *each, void *arg,
                                                  belay_error *err);

/* How well the client is: what a fallback knows of its primary. Of other backends: that nothing is
 * degraded. */
typedef struct belay_health {
    uint32_t size;          /* sizeof(belay_health); 0 means the size of version 0.1 */
    bool degraded;          /* the primary is done without, by this client's own evidence */
    belay_scope scope;      /* of grants, now; ANY: there are none (policy = "closed") */
    int64_t since_ms;       /* for how long it has been so; 0 when not degraded */
    int64_t next_probe_ms;  /* until the primary is looked for again; -1: it is not looked for */
    bool other;             /* another process of this host says that it is degraded */
    int64_t other_pid;      /* that process; 0: not known */
    int64_t other_since_ms; /* for how long; -1: not known */
    char other_why[BELAY_LABEL_MAX + 1];
    char backend[128]; /* the fallback's name in the config; "" where there is none */
    char why[384];     /* what the primary failed with last, with its node; "" when not degraded */
} belay_health;

/* How is the client? What this client knows by its own attempts, which a client that has not tried
 * yet does not (belay_ready tries); and what others of this host say, which needs a look at the
 * secondary. OK, INVALID, FORKED, CLOSED, CANCELED. */
BELAY_API BELAY_CHECK belay_status belay_get_health(belay *client, belay_health *out,
                                                    belay_error *err);

/* ------------------------------------------------------------------ without blocking */

/* The answer of a started call. `lock` is the lock that was acquired (now the callee's to release),
 * or NULL. For an extend it is the lock extended; for a release NULL. `err` is never NULL. */
typedef void belay_done_fn(void *arg, belay_status status, belay_lock *lock,
                           const belay_error *err);

/* Start what the blocking calls of the same name do. A start that returns an error never calls
 * back; one that returns OK calls back exactly once, on the callback thread or inside
 * `belay_dispatch`. `out` may be NULL; otherwise *out is a handle that the caller frees with
 * belay_request_free (before or after the callback; freeing does not cancel). belay_release_start
 * frees the lock's handle, at once and also when it fails. The arguments are copied. */
BELAY_API BELAY_CHECK belay_status belay_acquire_start(belay *client, const char *name,
                                                       const belay_options *options,
                                                       belay_done_fn *done, void *arg,
                                                       belay_request **out, belay_error *err);
BELAY_API BELAY_CHECK belay_status belay_extend_start(belay_lock *lock, uint32_t ttl_ms,
                                                      belay_done_fn *done, void *arg,
                                                      belay_request **out, belay_error *err);
BELAY_API BELAY_CHECK belay_status belay_release_start(belay_lock *lock, belay_done_fn *done,
                                                       void *arg, belay_request **out,
                                                       belay_error *err);

/* Asks a started call to end: it calls back soon, with CANCELED unless it was done already. */
BELAY_API void belay_request_cancel(belay_request *request);
BELAY_API void belay_request_free(belay_request *request);

/* Without BELAY_THREADS: a descriptor to poll for reading (level-triggered); -1 with it. When it
 * is readable, call belay_dispatch, which never blocks: it does the work that is due and runs
 * the callbacks. INVALID with BELAY_THREADS; CLOSED when a callback closed the client: it is gone.
 */
BELAY_API int belay_fd(const belay *client);
BELAY_API belay_status belay_dispatch(belay *client);

/* A cancel ends every call it was given to, now or later: CANCELED. It may be given to any number
 * of calls and clients, and is to be freed after they have returned or called back. Firing is one
 * write to an eventfd: fit for signal handlers and any thread. NULL when descriptors or memory ran
 * out. */
BELAY_API belay_cancel *belay_cancel_new(void);
BELAY_API void belay_cancel_fire(belay_cancel *cancel);
BELAY_API void belay_cancel_free(belay_cancel *cancel);

/* ------------------------------------------------------------------ the library */

/* "0.1.0": the library that is linked, which may be newer than the header. */
BELAY_API const char *belay_version(void);

/* The keys a backend type understands, one line each, as `belay config show TYPE` prints them.
 * `each` is called once per line; NULL for `type` lists the types. */
BELAY_API void belay_describe(const char *type, void (*each)(void *arg, const char *line),
                              void *arg);

#ifdef __cplusplus
}
#endif
#endif
