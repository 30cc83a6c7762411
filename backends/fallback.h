/* fallback.h - private to fallback*.c: two places, one lock (SEMANTICS 11).
 *
 *   fallback.c          settings, the object, the table
 *   fallback_take.c     an acquire: the host's row first, then the primary
 *   fallback_keep.c     extend and release of a held lock
 *   fallback_hold.c     a held lock and its two sides
 *   fallback_move.c     it is demoted in time, promoted again; what is left of one is let go
 *   fallback_health.c   what this process knows of its primary: trip, probe, recover
 *   fallback_hint.c     the host's shared row that says "degraded" to other processes
 *   fallback_look.c     inspect, list, break, diagnose, health
 *
 * The two places are the primary (the fleet's lock) and the secondary (this host's: its lock is
 * called the row). A lock whose scope is the primary's is held on both sides; one whose scope is
 * the host's has the row alone, and perhaps, on the primary, what is left of better times.
 */
#ifndef BELAY_BACKENDS_FALLBACK_H
#define BELAY_BACKENDS_FALLBACK_H

#include <belay/backend.h>
#include <string.h>

#define FALLBACK_MS INT64_C(1000000) /* nanoseconds */

struct fallback_health {
    bool down;         /* the primary is done without */
    bool probing;      /* `op` is under way */
    uint32_t failures; /* in a row */
    int64_t first_ns;  /* of them; 0: none */
    int64_t last_ns;
    int64_t since_ns;    /* down: when it was found so */
    int64_t up_ns;       /* when it was found back last; 0: never */
    int64_t interval_ns; /* between probes */
    int64_t probed_ns;   /* when the last one began */
    int64_t logged_ns;   /* since when `logged` lines about it are counted */
    uint32_t logged;
    uint32_t unlogged; /* left out since the last */
    belay_timer timer; /* the next probe */
    belay_op op;
    belay_error error; /* the probe's */
    char owner[BELAY_OWNER_LENGTH + 1];
    char why[384]; /* what it failed with last, with the node */
};

struct fallback_hint {
    bool ours;   /* the row says that this process is degraded */
    bool busy;   /* `op` is under way */
    bool wanted; /* it should be there */
    belay_op op;
    belay_timer again;
    belay_grant *grant;
    char owner[BELAY_OWNER_LENGTH + 1];
    char label[BELAY_LABEL_MAX + 1];
};

struct fallback {
    belay_backend base;
    belay_env *env;
    belay_backend *primary, *secondary;
    belay_scope host_scope; /* the secondary's */
    bool local;             /* policy: degrade; otherwise nothing is granted without the primary */
    bool host_first;
    bool fencing;
    bool closing;
    uint32_t trip_after;
    int64_t settle_ns, probe_every_ns, probe_most_ns;
    int64_t patience_ns; /* the primary's timeout */
    struct fallback_health health;
    struct fallback_hint hint;
    belay_link holds;    /* every one */
    belay_link wants;    /* holds that are to be promoted, oldest first */
    uint32_t promoting;  /* under way */
    uint32_t busy;       /* ops of our own that nobody waits for */
    belay_task pump;     /* goes on with `wants` */
    belay_link frees;    /* releases under way */
    belay_link parked;   /* acquires behind a release of the same key */
    belay_link doubts;   /* acquires that wait for a probe */
    belay_link relays;   /* of waits that were refused */
    uint64_t token_seen; /* the largest */
    char *probe_key, *hint_key;
    const char *hint_mark; /* how its name begins in a list; NULL: it is in none */
    size_t hint_mark_length;
};

static inline struct fallback *belay__fallback_of(belay_backend *base)
{
    return belay_container_of(base, struct fallback, base);
}
/* When the holder stops to believe: as core has it (SEMANTICS 1). */
static inline int64_t belay__fallback_drift(uint32_t ttl_ms)
{
    return (int64_t)ttl_ms * FALLBACK_MS / 100 + 2 * FALLBACK_MS;
}
static inline int64_t belay__fallback_deadline(int64_t sent_ns, uint32_t ttl_ms)
{
    return sent_ns + (int64_t)ttl_ms * FALLBACK_MS - belay__fallback_drift(ttl_ms);
}
static inline bool belay__fallback_is_answer(belay_status status)
{
    return status == BELAY_OK || status == BELAY_HELD || status == BELAY_LOST;
}
static inline belay_scope belay__fallback_scope(const belay_backend *place)
{
    return place->ops->scope_of != NULL ? place->ops->scope_of(place) : place->ops->scope;
}
/* Is there any use in the row alone for who asks? */
static inline bool belay__fallback_may_degrade(const struct fallback *fb, const belay_op *op)
{
    return fb->local && op->at_least <= fb->host_scope;
}

/* ------------------------------------------------------------------ hold */

/* A lock at one of the two places. */
struct fallback_side {
    belay_backend *place;
    belay_grant *grant;
    bool there;        /* it may be */
    belay_status told; /* LOST or UNCERTAIN: the place said so of its lock; else OK */
    belay_scope scope;
    int64_t until_ns; /* the holder may believe in this side until then */
    int64_t gone_ns;  /* by then its TTL has run out at the place as well */
    char owner[BELAY_OWNER_LENGTH + 1];
};

enum fallback_work { /* what a hold's own op is doing */
                     FALLBACK_IDLE,
                     FALLBACK_DEMOTE, /* the row is extended, or taken, to live on it alone */
                     FALLBACK_REVIVE, /* the primary's old lock is extended */
                     FALLBACK_RETAKE, /* ... is taken afresh */
                     FALLBACK_CLEAN   /* what is left is released */
};

struct fallback_keep;

struct fallback_hold {
    belay_grant base;
    struct fallback *fb;
    belay_link all, want;
    uint32_t users; /* ops of core's that use it */
    struct fallback_side row, prime;
    uint64_t token;
    uint32_t ttl_ms;
    int64_t told_ns; /* the end that core was given by the last answer */
    bool fleet;      /* its scope is the primary's */
    bool behind;     /* the last extension did not reach the primary */
    bool failing;    /* an extension did not reach the primary: it is demoted in time */
    bool tainted;    /* the primary may yet execute an acquire with the row's owner id */
    bool adopted;    /* made for one op: which sides it has is not known */
    bool detached;
    bool far;    /* its holder has no use for the row alone */
    bool ending; /* a release has begun */
    bool lost;
    bool dropped;   /* core has none of it: not yet, or no more */
    bool promoting; /* counted in fb->promoting */
    bool wanting;   /* to be promoted, when no op uses it any more */
    bool redo;      /* `op` has ended, and `work` is tried again by the timer */
    int32_t also_pid;
    uint32_t backoff_ms;
    int64_t refused_ns; /* since when the primary says that another holds it; 0: it does not */
    int64_t refused_until_ns; /* ... at first */
    int64_t refused_end_ns;   /* ... and until when, if it isn't extended */
    uint32_t refused_moves;   /* of that end */
    enum fallback_work work;
    belay_op op;
    belay_timer timer;
    struct fallback_keep *release; /* waits until `op` has settled */
    uint32_t key_length, name_length, hash;
    char key[];
};

static inline bool belay__fallback_same_key(const struct fallback_hold *a,
                                            const struct fallback_hold *b)
{
    return a->hash == b->hash && a->key_length == b->key_length &&
           memcmp(a->key, b->key, a->key_length) == 0;
}

static inline struct fallback_hold *belay__fallback_hold_of(belay_grant *grant)
{
    return belay_container_of(grant, struct fallback_hold, base);
}

/* For the lock of this op, held nowhere yet and used by it; NULL: no memory. */
struct fallback_hold *belay__fallback_hold_new(struct fallback *fb, const belay_op *op);
/* An op doesn't use it any more. */
void belay__fallback_hold_put(struct fallback_hold *hold);
/* Is it over? Then what is left of it is let go, and it is freed when that is done. */
void belay__fallback_hold_check(struct fallback_hold *hold);
void belay__fallback_hold_free(struct fallback_hold *hold);
/* An op on one side was granted or extended for `ttl_ms`. */
void belay__fallback_side_set(struct fallback_hold *hold, struct fallback_side *side,
                              const belay_op *op);
/* Until when both sides that count let the holder believe; INT64_MAX: none counts. */
int64_t belay__fallback_hold_until(const struct fallback_hold *hold);
/* Is there a side that counts? */
bool belay__fallback_hold_lives(const struct fallback_hold *hold);
/* Settles core's op OK, so that its deadline is that of both sides. */
void belay__fallback_hold_settle(struct fallback_hold *hold, belay_op *op);

/* ------------------------------------------------------------------ move */

void belay__fallback_move_init(struct fallback_hold *hold);
/* What is left on either side is released, one after the other, until its TTL has run out. */
void belay__fallback_move_clean(struct fallback_hold *hold);
/* It lives on with the row alone. `tell`: core is not just being answered. */
void belay__fallback_hold_demote(struct fallback_hold *hold, bool tell, const char *why);
/* An extension did not reach the primary. True: it has been demoted, since it was time. */
bool belay__fallback_hold_unreached(struct fallback_hold *hold);
/* The primary is asked to extend it now: if that is not answered by the last moment, it is demoted.
 */
void belay__fallback_hold_watch(struct fallback_hold *hold);
/* It was answered, whatever it said. */
void belay__fallback_hold_reached(struct fallback_hold *hold);
void belay__fallback_hold_lose(struct fallback_hold *hold, const char *why);
/* The primary has forgotten it. False: then it is lost. */
bool belay__fallback_hold_forgotten(struct fallback_hold *hold, bool tell, const char *why);
/* It has host scope, and the primary is up: it is taken there, soon. */
void belay__fallback_hold_want(struct fallback_hold *hold);
/* Nothing is to become of it any more: no move that waits, no timer. */
void belay__fallback_move_rest(struct fallback_hold *hold);
/* The primary is back. */
void belay__fallback_holds_recovered(struct fallback *fb);
void belay__fallback_holds_close(struct fallback *fb); /* moves are canceled */
bool belay__fallback_holds_owe(const struct fallback *fb);
void belay__fallback_holds_free(struct fallback *fb);
void belay__fallback_pump(belay_task *task);
void belay__fallback_drop(belay_backend *base, belay_grant *grant);
/* An op on a side of a hold's, with everything that does not differ. */
void belay__fallback_side_op(struct fallback_hold *hold, struct fallback_side *side, belay_op *op,
                             belay_verb verb, uint32_t ttl_ms);

/* ------------------------------------------------------------------ take, keep, look */

void belay__fallback_take(belay_backend *base, belay_op *op);
void belay__fallback_take_cancel(belay_op *op);
/* The probe that they wait for has ended. */
void belay__fallback_take_decided(struct fallback *fb);
/* A release of that key has ended: whoever is parked behind it goes on. */
void belay__fallback_take_freed(struct fallback *fb, const struct fallback_hold *freed);
/* What stood in the way of that key was let go in the background. */
void belay__fallback_wake(struct fallback *fb, const char *key, size_t length);
/* The primary is gone: who waits for its word may have the row. */
void belay__fallback_wake_all(struct fallback *fb);
void belay__fallback_unwait(belay_backend *base, belay_wait *wait);

void belay__fallback_keep(belay_backend *base, belay_op *op); /* extend and release */
void belay__fallback_keep_cancel(belay_op *op);
void belay__fallback_keep_go(struct fallback_keep *release); /* the hold's own op has settled */
/* Is a release of that key under way? */
bool belay__fallback_keep_frees(struct fallback *fb, const struct fallback_hold *wanted);

void belay__fallback_inspect(belay_backend *base, belay_op *op);
void belay__fallback_list(belay_backend *base, belay_op *op);
void belay__fallback_break(belay_backend *base, belay_op *op);
void belay__fallback_diagnose(belay_backend *base, belay_op *op);
void belay__fallback_show_health(belay_backend *base, belay_op *op);
void belay__fallback_look_cancel(belay_op *op);

/* ------------------------------------------------------------------ health */

enum fallback_word {                 /* what an answer, or none, tells of the primary */
                     FALLBACK_FINE,  /* it was reached, or nothing is known */
                     FALLBACK_DOUBT, /* the connection was cut under an acquire: a probe will tell
                                      */
                     FALLBACK_GONE   /* it is done without */
};

void belay__fallback_health_init(struct fallback *fb);
/* An op on the primary settled. */
enum fallback_word belay__fallback_health_heard(struct fallback *fb, const belay_op *op,
                                                belay_status status);
/* Makes that op a probe: the release of a lock that nobody holds. */
void belay__fallback_health_probe_op(struct fallback *fb, belay_op *op);
/* A probe out of turn, for whom it is urgent; no more of them than `probe_every` allows. */
void belay__fallback_health_look(struct fallback *fb);
/* Is a probe long due? Then it is under way now. */
bool belay__fallback_health_overdue(struct fallback *fb);
void belay__fallback_health_stop(struct fallback *fb);          /* at close */
bool belay__fallback_health_settles(const struct fallback *fb); /* no host grant yet */
/* Says in core's op why it fails: the primary is done without, and its caller can't be served. */
void belay__fallback_health_refuse(struct fallback *fb, belay_op *op);

void belay__fallback_hint_init(struct fallback *fb);
void belay__fallback_hint_want(struct fallback *fb, bool wanted);
void belay__fallback_hint_stop(struct fallback *fb);
bool belay__fallback_hint_owes(const struct fallback *fb);
void belay__fallback_hint_free(struct fallback *fb); /* at destroy */

#endif
