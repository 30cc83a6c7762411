/* backend.h - for who writes a backend: a place where locks are kept.
 *
 * A backend is one `const` table of functions and one object for each place of the config file. The
 * shortest needs create, destroy, acquire, release and extend, each settling its op before it
 * returns (examples/slot_backend.c; backends/memory.c is the reference). docs/writing-a-backend.md
 * walks through one.
 *
 * The world of a backend is its `belay_env`: clock, randomness, memory, timers, descriptors,
 * worker, log. It calls no clock, no sleep and no poll by itself, so that a test can turn the
 * clock.
 *
 * Threads: every function of the table runs with the client's monitor held. It is single-threaded
 * code: no locks, and it must not block (SQLite's short transactions are the stated exception). All
 * functions below are to be called with the monitor held, that is, from within the table's
 * functions and the callbacks they arm, unless they say otherwise.
 */
#ifndef BELAY_BACKEND_H
#define BELAY_BACKEND_H

#include <belay/belay.h>
#include <stdarg.h>

#ifdef __cplusplus
extern "C" {
#endif

#define BELAY_BACKEND_ABI 1u

typedef struct belay_backend_ops belay_backend_ops;
typedef struct belay_backend belay_backend;
typedef struct belay_env belay_env;
typedef struct belay_settings belay_settings;
typedef struct belay_op belay_op;
typedef struct belay_wait belay_wait;
typedef struct belay_grant belay_grant;
typedef struct belay_world belay_world;

#define belay_container_of(pointer, type, member)                                                  \
    ((type *)(void *)((char *)(pointer)-offsetof(type, member)))

/* ------------------------------------------------------------------ lists */

/* An intrusive, circular, doubly linked list. A zeroed link is in no list; a list's head is a link
 * that belay_list_init made. */
typedef struct belay_link {
    struct belay_link *next, *prev;
} belay_link;

static inline void belay_links_init(belay_link *head)
{
    head->next = head->prev = head;
}
static inline bool belay_links_empty(const belay_link *head)
{
    return head->next == head;
}
static inline bool belay_linked(const belay_link *link)
{
    return link->next != NULL;
}
static inline void belay_link_append(belay_link *head, belay_link *link)
{
    link->prev = head->prev;
    link->next = head;
    head->prev->next = link;
    head->prev = link;
}
/* Takes the link out of its list; does nothing when it is in none. */
static inline void belay_unlink(belay_link *link)
{
    if (link->next == NULL) return;
    link->prev->next = link->next;
    link->next->prev = link->prev;
    link->next = link->prev = NULL;
}

/* ------------------------------------------------------------------ settings */

typedef enum belay_setting_type {
    BELAY_SETTING_STRING,   /* "text" */
    BELAY_SETTING_INTEGER,  /* a number; min and max hold */
    BELAY_SETTING_REAL,     /* a number with a fraction; min and max hold */
    BELAY_SETTING_BOOLEAN,  /* true, false */
    BELAY_SETTING_DURATION, /* "500ms", "10s", "2m", "1h"; min and max in milliseconds */
    BELAY_SETTING_MODE,     /* "0600": octal */
    BELAY_SETTING_CHOICE,   /* one of `choices`: "local|closed" */
    BELAY_SETTING_SECRET,   /* also as KEY_file, KEY_env, KEY_credential; never shown */
    BELAY_SETTING_STRINGS,  /* ( "a", "b" ) */
    BELAY_SETTING_BACKEND,  /* the name of another backend, or a URL */
    BELAY_SETTING_BACKENDS  /* ( "a", "b" ): names or URLs */
} belay_setting_type;

/* One key of a backend's part of the config file. A dot makes a group: "tls.ca" is `tls: { ca =
 * ...; }`. Core checks type and range, suggests the nearest key for an unknown one, and documents
 * it. An array of these ends with a zeroed one. `timeout` is core's own and every backend has it.
 */
typedef struct belay_setting_spec {
    const char *key;
    belay_setting_type type;
    const char *initial; /* the default, as it would be written (without quotes); NULL: none */
    double min, max;     /* both 0: any */
    const char *choices;
    bool required;
    const char *help; /* one line */
} belay_setting_spec;

/* The value of a key, or its default. Asking for a key that the table does not have, or as another
 * type than it has, is a bug in the backend: aborts in debug builds, otherwise gives NULL, 0 or
 * false. Strings and children are owned by core: strings live until create returns, child backends
 * until the asking backend was destroyed. */
BELAY_API const char *belay_settings_string(const belay_settings *s,
                                            const char *key); /* may be NULL */
BELAY_API int64_t belay_settings_integer(const belay_settings *s,
                                         const char *key); /* MODE as well */
BELAY_API double belay_settings_real(const belay_settings *s, const char *key);
BELAY_API bool belay_settings_boolean(const belay_settings *s, const char *key);
BELAY_API int64_t belay_settings_duration_ms(const belay_settings *s, const char *key);
BELAY_API size_t belay_settings_count(const belay_settings *s,
                                      const char *key); /* of a list; 0 or 1 else */
BELAY_API const char *belay_settings_item(const belay_settings *s, const char *key, size_t i);
BELAY_API belay_backend *belay_settings_backend(const belay_settings *s, const char *key, size_t i);
BELAY_API bool belay_settings_given(const belay_settings *s,
                                    const char *key); /* written by the user? */
/* Fills err with CONFIG and "FILE:LINE: KEY: text" for that key; returns BELAY_CONFIG. */
BELAY_API belay_status belay_settings_wrong(const belay_settings *s, const char *key,
                                            belay_error *err, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/* ------------------------------------------------------------------ the env */

/* The clock: nanoseconds of CLOCK_BOOTTIME, or the fake world's. */
BELAY_API int64_t belay_env_now(belay_env *env);
/* The wall clock, microseconds since 1970: for fencing proposals, never for deadlines. */
BELAY_API int64_t belay_env_wall_us(belay_env *env);
BELAY_API void belay_env_random(belay_env *env, void *out, size_t length);
BELAY_API uint32_t belay_env_random_below(belay_env *env, uint32_t bound); /* 0 .. bound-1 */
/* A new owner id: 32 hexadecimal digits and NUL. */
BELAY_API void belay_env_owner(belay_env *env, char owner[BELAY_OWNER_LENGTH + 1]);
/* Zeroed memory, or NULL. Free with belay_env_free (NULL allowed). */
BELAY_API void *belay_env_alloc(belay_env *env, size_t size);
BELAY_API void belay_env_free(belay_env *env, void *memory);
BELAY_API const char *belay_env_name(const belay_env *env); /* this backend's name in the config */
BELAY_API const char *belay_env_prefix(const belay_env *env); /* the config's `prefix` */
BELAY_API bool belay_env_fencing(const belay_env *env);       /* the config's `fencing` */
BELAY_API bool belay_env_threads(const belay_env *env);       /* BELAY_THREADS? */
BELAY_API bool belay_env_worker(const belay_env *env);        /* may belay_env_run be used? */
BELAY_API int64_t belay_env_timeout_ns(const belay_env *env); /* this backend's `timeout` */
/* This backend begins (true) or has ended (false) work that no caller waits for: answers that are
 * still to come, give-backs. Meanwhile the client's own thread attends to descriptors and timers;
 * with the other thread modes belay_dispatch does. In pairs. */
BELAY_API void belay_env_mind(belay_env *env, bool busy);
/* A line for the log callback; never blocks. Never give it an owner id or a secret. */
BELAY_API void belay_env_log(belay_env *env, belay_level level, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Tells the program of something that happened to this backend (DEGRADED and the kinds below it in
 * belay.h), by `on_event`. `scope` is that of grants from now on; since_ns the moment when it began
 * (0: not known); the text says why, in one line. */
BELAY_API void belay_env_event(belay_env *env, belay_event_kind kind, belay_scope scope,
                               int64_t since_ns, const char *format, ...)
    __attribute__((format(printf, 5, 6)));

/* A token proposal (SEMANTICS 4): the wall clock in ticks of 16 microseconds. */
static inline uint64_t belay_env_proposal(belay_env *env)
{
    return (uint64_t)belay_env_wall_us(env) / 16u;
}

/* The name in a key, or NULL if the key does not begin with this config's prefix. */
BELAY_API const char *belay_env_strip(const belay_env *env, const char *key);

/* A timer: embed one, init it, arm it. Arming an armed timer moves it. It fires once, with the
 * monitor held. Neither can fail. Disarm before freeing. */
typedef struct belay_timer belay_timer;
typedef void belay_timer_fn(belay_timer *timer);
struct belay_timer {
    belay_timer_fn *fn;
    int64_t due_ns;
    struct belay_timer *child, *next, **link; /* the engine's: a pairing heap */
    uint32_t depth; /* of two that are due together the deeper fires first */
};
static inline void belay_timer_init(belay_timer *timer, belay_timer_fn *fn)
{
    timer->fn = fn;
    timer->due_ns = 0;
    timer->child = timer->next = NULL;
    timer->link = NULL;
    timer->depth = 0;
}
static inline bool belay_timer_armed(const belay_timer *timer)
{
    return timer->link != NULL;
}
BELAY_API void belay_timer_arm(belay_env *env, belay_timer *timer, int64_t due_ns);
BELAY_API void belay_timer_disarm(belay_env *env, belay_timer *timer);

/* A descriptor: `fn` is called with epoll's events (EPOLLIN ...), level-triggered, monitor held.
 * The descriptor stays the backend's to close, after belay_watch_remove. OK or NOMEM. */
typedef struct belay_watch belay_watch;
typedef void belay_watch_fn(belay_watch *watch, uint32_t events);
struct belay_watch {
    belay_watch_fn *fn;
    int fd;
    uint32_t events;
    uint32_t slot; /* the engine's: 0 while it is not added */
};
BELAY_API belay_status belay_watch_add(belay_env *env, belay_watch *watch, int fd, uint32_t events,
                                       belay_watch_fn *fn);
BELAY_API belay_status belay_watch_change(belay_env *env, belay_watch *watch, uint32_t events);
BELAY_API void belay_watch_remove(belay_env *env, belay_watch *watch); /* not added: does nothing */

/* A task runs once, soon: after the call that posted it, before the loop sleeps. So that writes of
 * many callers batch. Posting a posted task does nothing. Zero it and set fn. */
typedef struct belay_task belay_task;
typedef void belay_task_fn(belay_task *task);
struct belay_task {
    belay_task_fn *fn;
    belay_link link; /* the engine's */
};
BELAY_API void belay_task_post(belay_env *env, belay_task *task);
BELAY_API void belay_task_drop(belay_env *env, belay_task *task);

/* A poke makes this client's loop call `fn`, soon, with the monitor held. belay_poke may be called
 * from any thread, with any other lock held, at any time between init and fini: two atomic writes
 * and perhaps an eventfd's. Several pokes may be one call. */
typedef struct belay_poke belay_poke;
typedef void belay_poke_fn(belay_poke *poke);
struct belay_poke {
    belay_poke_fn *fn;
    belay_env *env;  /* for fn's use */
    uint32_t raised; /* the engine's, as are the next two */
    void *loop;
    belay_link link;
};
BELAY_API void belay_poke_init(belay_env *env, belay_poke *poke, belay_poke_fn *fn);
BELAY_API void belay_poke_raise(belay_poke *poke);
BELAY_API void belay_poke_fini(belay_poke *poke);

/* What must block (resolving a name) goes to the client's worker thread: `work` runs there,
 * unlocked, and must touch nothing but `job`; then `done` runs with the monitor held. Embed the job
 * in memory that lives until `done`. A stuck worker is abandoned at close: then `done` is never
 * called and `forget` (may be NULL) is, on whatever thread ends last, to free the job. UNSUPPORTED
 * with BELAY_DISPATCH (see belay_env_worker); NOMEM. */
typedef struct belay_job belay_job;
struct belay_job {
    void (*work)(belay_job *job);
    void (*done)(belay_job *job);
    void (*forget)(belay_job *job);
    belay_link link; /* the engine's */
};
BELAY_API belay_status belay_env_run(belay_env *env, belay_job *job);

/* ------------------------------------------------------------------ ops */

typedef enum belay_verb {
    BELAY_VERB_ACQUIRE = 1,
    BELAY_VERB_RELEASE,
    BELAY_VERB_EXTEND,
    BELAY_VERB_INSPECT,
    BELAY_VERB_LIST,
    BELAY_VERB_BREAK,
    BELAY_VERB_DIAGNOSE,
    BELAY_VERB_HEALTH
} belay_verb;

/* Why an op failed, for composites: only UNREACHABLE may degrade (SEMANTICS 11). */
typedef enum belay_cause {
    BELAY_CAUSE_NONE = 0,
    BELAY_CAUSE_UNREACHABLE, /* no connection, cut, no answer, loading: the place is gone */
    BELAY_CAUSE_BUSY,        /* reached, and cannot serve now: full, busy, too few replicas */
    BELAY_CAUSE_CUT_SHORT,   /* the caller's own deadline or cancel ended it */
    BELAY_CAUSE_WRONG,       /* refused, or not what we speak */
    BELAY_CAUSE_FORGOTTEN /* LOST: the place was restarted or emptied since the lock was seen there
                             last, and nobody needs to have taken it */
} belay_cause;

typedef struct belay_str {
    const char *at; /* NUL-terminated as well */
    size_t length;
} belay_str;

/* What a backend remembers of a success, so that extend and release go where it came from. The
 * backend allocates it, leaves it in op->grant on OK (or leaves NULL: it needs none), and frees it
 * in `drop`, which core calls exactly once, when no op uses it any more. Zero it. `told` and
 * `holder` are set by who received it; what is told before that is kept in the last four. */
struct belay_grant {
    void (*told)(belay_grant *grant, belay_status status, belay_scope scope, int64_t deadline_ns,
                 const char *why);
    void *holder;
    bool early;
    belay_status early_status;
    belay_scope early_scope;
    int64_t early_deadline_ns;
};
/* Told upward, at any time between settling OK and drop: the scope or the deadline changed; or it
 * is lost. */
BELAY_API void belay_grant_changed(belay_grant *grant, belay_scope scope, int64_t deadline_ns,
                                   const char *why);
BELAY_API void belay_grant_lost(belay_grant *grant, const char *why);
/* The place was restarted and has forgotten the lock, which nobody needs to have taken: the same as
 * lost, but that a composite may take it there once more. `told` gets the status UNCERTAIN. */
BELAY_API void belay_grant_forgotten(belay_grant *grant, const char *why);
/* For who received a grant (a composite): from now on `told` hears of it, and at once of what it
 * missed. */
BELAY_API void belay_grant_listen(belay_grant *grant, void *holder,
                                  void (*told)(belay_grant *grant, belay_status status,
                                               belay_scope scope, int64_t deadline_ns,
                                               const char *why));

/* One blocked acquire, across its attempts. A backend may hang state on it until `unwait`, and
 * calls belay_wait_wake when another attempt may succeed. A wake is a hint, and sticky from the
 * moment an attempt is sent. `link`, `data` and `number` are the backend's own. */
struct belay_wait {
    belay_link link;
    void *data;
    int64_t number;
    belay_wait *parent;              /* a composite's child points up */
    void (*woken)(belay_wait *wait); /* set by who owns the wait */
    int64_t since_ns;                /* when the waiting began */
};
BELAY_API void belay_wait_wake(belay_wait *wait);

/* One attempt of one verb: started now, settled once, later. Where it lives is the starter's
 * business; it is valid until it has settled. */
struct belay_op {
    /* In. */
    belay_verb verb;
    belay_str key;        /* prefix + name: what to store the lock under */
    belay_str name;       /* the name alone: for messages */
    const char *owner;    /* 32 hexadecimal digits and NUL. BREAK: of the holder that was seen */
    const char *label;    /* "" if none */
    uint32_t ttl_ms;      /* acquire, extend */
    int32_t also_pid;     /* acquire: another process that holds too, or 0 */
    bool detached;        /* acquire: not tied to this process */
    belay_scope at_least; /* acquire: the smallest scope that will do */
    int64_t settle_by_ns; /* core calls cancel then */
    belay_wait *wait; /* acquire: NULL tries once; otherwise a refusal may leave a waiter behind */
    uint64_t
        token_floor; /* acquire: the token must be larger. extend: so must the place's later ones */
    /* In and out. */
    belay_grant *grant; /* out of acquire; into extend and release */
    /* Out. */
    int64_t
        sent_ns; /* core stamps it at the start; a leaf may move it to when the first byte left */
    uint64_t token;      /* acquire, extend */
    belay_scope scope;   /* core fills the table's; a backend may say less */
    int64_t held_for_ns; /* HELD: how long the holder's TTL still runs; -1: not known */
    belay_cause cause;
    belay_info *info;     /* INSPECT: fill it (core zeroed it and set name) */
    belay_health *health; /* HEALTH: fill it (core has filled in that all is well) */
    bool unsure_release;  /* RELEASE that settles LOST: an earlier try may have done it */
    belay_error *error;   /* where belay_op_fail puts the text; may be NULL */
    /* The backend's own, until it settles. */
    belay_link link;
    void *data;
    int64_t number;
    /* The engine's. */
    belay_backend *backend;
    void (*done)(belay_op *op, belay_status status);
    belay_op *parent;
    belay_link settled;
    belay_timer timeout;
    belay_status status;
    uint32_t state;
    bool canceled; /* cancel was called */
    void *sink;    /* LIST, DIAGNOSE: where entries go */
    bool (*sieve)(belay_op *op,
                  const belay_info *info); /* LIST, a composite's: false leaves it out */
};

/* Settles the op: only queues; what waits on it runs after the stack has unwound. Legal inside the
 * verb itself. Exactly once: a second time aborts in debug builds and is ignored and logged in
 * release ones. */
BELAY_API void belay_op_settle(belay_op *op, belay_status status);
/* The same with the reason: one line, without the node; `node` may be NULL. */
BELAY_API void belay_op_fail(belay_op *op, belay_status status, belay_cause cause, const char *node,
                             const char *format, ...) __attribute__((format(printf, 5, 6)));
/* LIST: one held lock (copied). Names are without the prefix: use belay_env_strip. NOMEM. */
BELAY_API belay_status belay_op_emit(belay_op *op, const belay_info *info);
/* DIAGNOSE: one finding (copied): what was looked at (a word), what that means for the locks (or
 * ""), what to do (or ""), and what was found. No secret, no owner id. NOMEM. */
BELAY_API belay_status belay_op_find(belay_op *op, belay_severity severity, const char *check,
                                     const char *meaning, const char *advice, const char *format,
                                     ...) __attribute__((format(printf, 6, 7)));
/* For composites. Init a child from its parent (all of In is copied, and so are `error`, `info` and
 * `sink`: give a child that may outlive its parent its own, or NULL; wait and grant are NULL),
 * change what differs, start it; `done` is called with the monitor held when it has settled and the
 * stack is unwound. settle_by becomes the smaller of the parent's and now + the child's timeout. A
 * child may be started later than its parent began, and with parent NULL (a give-back):
 * belay_op_init_child still takes the op to copy from. */
BELAY_API void belay_op_init_child(belay_op *child, const belay_op *parent);
BELAY_API void belay_op_start(belay_op *child, belay_backend *backend, belay_op *parent,
                              void (*done)(belay_op *child, belay_status status));
/* The same with another time than the child's `timeout`. With a parent not beyond its settle_by. */
BELAY_API void belay_op_start_within(belay_op *child, belay_backend *backend, belay_op *parent,
                                     int64_t timeout_ns,
                                     void (*done)(belay_op *child, belay_status status));
/* Cancels a started op that has not settled: it will, soon. */
BELAY_API void belay_op_cancel(belay_op *op);

/* For destroy alone: an op that was started, and whose memory goes. Its `done` is not called any
 * more; that of others may be, inside this call. */
BELAY_API void belay_op_abandon(belay_op *op);

/* Fills err (which may be NULL); returns status. `node` may be NULL. Any thread. */
BELAY_API belay_status belay_error_set(belay_error *err, belay_status status, const char *node,
                                       const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/* ------------------------------------------------------------------ the table */

/* A URL, taken apart and percent-decoded: scheme://user:password@host:port,host/path, or
 * scheme:path. What stands behind '?' is core's: there key=value sets a key of the table, also a
 * dotted one, `timeout`, and what the whole configuration has (prefix, ttl, wait, keep, fencing).
 * Everything is valid until `url` returns. */
typedef struct belay_url_host {
    const char *host; /* a name or an address; IPv6 without its brackets */
    uint16_t port;    /* 0: not given */
} belay_url_host;

typedef struct belay_url {
    const char *scheme;
    const char *text;            /* the URL for messages: without its query, the password masked */
    const char *user, *password; /* NULL where there is none */
    size_t host_count;
    const belay_url_host *hosts; /* NULL if there are none */
    const char *path;            /* behind the authority ("/0"), or behind "scheme:"; may be "" */
} belay_url;

struct belay_backend {
    const belay_backend_ops *ops; /* core fills both when create has returned OK */
    belay_env *env;
};

#define BELAY_OPS_HEAD .abi = BELAY_BACKEND_ABI, .size = (uint32_t)sizeof(belay_backend_ops)

/* Which run of a place it was that answered last. */
typedef struct belay_about {
    char instance[64]; /* the same for all who reach that place: a server's run id; "": not known */
    int64_t started_ns; /* by the env's clock, when it began to remember; 0: it forgets nothing */
} belay_about;

struct belay_backend_ops {
    /* BELAY_OPS_HEAD fills both. The registry refuses a foreign abi. */
    uint32_t abi, size;
    /* The word in the config file; letters, digits, '-'. */
    const char *type;
    /* NULL, or a NULL-ended array: "sqlite" for sqlite:///path. */
    const char *const *url_schemes;
    /* For URLs: turns the parts of one into settings by calling put(arg, "key", "value"); a list
     * is put one by one. Refusing, it sets err to CONFIG and why (core puts the URL before it); no
     * secret belongs there. NULL: what stands behind "scheme:" and any slashes of an empty
     * authority is the value of `url_key`. */
    belay_status (*url)(const belay_url *url,
                        void (*put)(void *arg, const char *key, const char *value), void *arg,
                        belay_error *err);
    const char *url_key;
    /* NULL, or an array that ends with a zeroed entry. */
    const belay_setting_spec *settings;
    /* The farthest its grants can reach. For a composite `scope_of` may say it of the object. */
    belay_scope scope;
    belay_scope (*scope_of)(const belay_backend *backend);
    /* The default of `timeout`: how long one attempt may take. 0: 500. */
    uint32_t timeout_ms;
    /* The default of `timeout` is what its children may take one after the other, and this on top:
     * the sum of theirs and `timeout_ms`. */
    bool timeout_of_children;
    /* A release and an acquire of one key that were started in this order take effect in it, also
     * before the first has settled (one pipelined connection, or verbs that settle before they
     * return). Where it is false, core tries again when the release was answered. */
    bool in_order;

    /* Required. Makes the object; does no I/O that could block: an unreachable server is not its
     * business. On OK *out is its base; otherwise err says why and nothing is left. */
    belay_status (*create)(belay_backend **out, belay_env *env, const belay_settings *settings,
                           belay_error *err);
    /* Required. Every op has settled, every grant was dropped. */
    void (*destroy)(belay_backend *backend);

    /* Required. Start one attempt: never block, never sleep. OK: held, until sent_ns + ttl. HELD:
     * another holds it; held_for_ns says for how long yet. If op->wait is set, a refusal may leave
     * something behind that wakes it. */
    void (*acquire)(belay_backend *backend, belay_op *op);
    /* Required. Delete where the owner matches. OK; LOST: it was not there, or another's. */
    void (*release)(belay_backend *backend, belay_op *op);
    /* Required. What remains becomes at least ttl, never less; never recreates. OK, LOST. Where
     * op->token_floor is not 0, tokens of later grants of this place are larger. */
    void (*extend)(belay_backend *backend, belay_op *op);
    /* Settle it soon, and see to it that nothing is left behind. Core calls it when the op's time
     * is up or its caller gave up; once. NULL if every verb settles before it returns. */
    void (*cancel)(belay_backend *backend, belay_op *op);
    /* Frees a grant. NULL if acquire leaves none. */
    void (*drop)(belay_backend *backend, belay_grant *grant);
    /* A wait that an acquire of this backend saw has ended, or its lock was got, or is not to be
     * woken for now: a composite may show it again. NULL if nothing hangs on waits. */
    void (*unwait)(belay_backend *backend, belay_wait *wait);
    /* Flush what is owed (give-backs) at close: return true while something is still owed. NULL:
     * nothing ever is. */
    bool (*owes)(belay_backend *backend);

    /* Optional: NULL makes the call UNSUPPORTED. */
    void (*inspect)(belay_backend *backend, belay_op *op); /* fill op->info; OK also when free */
    void (*list)(belay_backend *backend, belay_op *op);    /* belay_op_emit for each; then OK */
    void (*break_lock)(belay_backend *backend,
                       belay_op *op); /* compare-and-delete by op->owner: OK, LOST */
    /* belay_op_find for each finding; then OK, also when what was found is bad. A composite speaks
     * of itself alone: its children are asked by core. */
    void (*diagnose)(belay_backend *backend, belay_op *op);
    /* Fill op->health. NULL: all is well, always. */
    void (*health)(belay_backend *backend, belay_op *op);
    /* What is known without asking. NULL: nothing. */
    void (*about)(const belay_backend *backend, belay_about *out);
};

/* ------------------------------------------------------------------ the world */

typedef void belay_kick_fn(void *arg);

/* Where time and chance come from. NULL in the open options is the real one; belay/testing.h has a
 * fake. Every function may be called from any thread. */
struct belay_world {
    uint32_t size;
    int64_t (*now)(belay_world *world);  /* nanoseconds; what CLOCK_BOOTTIME is in the real world */
    int64_t (*wall)(belay_world *world); /* microseconds since 1970 */
    void (*random)(belay_world *world, void *out, size_t length);
    /* Without BELAY_THREADS only, when a blocking call has nothing to do before `until_ns`
     * (INT64_MAX: nothing is armed): true if the clock was moved there, false to poll the
     * descriptors. May be NULL. */
    bool (*wait)(belay_world *world, int64_t until_ns);
    /* False makes this allocation fail. May be NULL. */
    bool (*may_alloc)(belay_world *world, size_t size);
    /* A client came, or goes: kick(arg) makes it look at the clock again. */
    belay_status (*attach)(belay_world *world, belay_kick_fn *kick, void *arg);
    void (*detach)(belay_world *world, belay_kick_fn *kick, void *arg);
};

#ifdef __cplusplus
}
#endif
#endif
