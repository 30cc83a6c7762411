/* server.h - one server: its connections, replaced as they stall or break; what waits for them.
 *
 *   server.c     lanes: the link that is in use, its replacement, those that drain; who waits
 *   attempt.c    one attempt of one verb, from the op to the answer
 *   giveback.c   what must not be left behind: compare-and-delete behind an abandoned attempt
 *   held.c       held locks, looked at again when the server was restarted
 *   tracking.c   who waits for which key, and how the server's word of it reaches them
 *   scan.c       list
 *   doctor.c     diagnose
 *
 * A lane is "a connection to the server", whichever link that is now. Most servers have one; with
 * `replicas` the commands that WAIT behind them have a lane of their own. A link that leaves a
 * request unanswered for a whole timeout has stalled: it drains beside its replacement.
 */
#ifndef BELAY_BACKENDS_RESP_SERVER_H
#define BELAY_BACKENDS_RESP_SERVER_H

#include "backends/resp/link.h"
#include "backends/resp/scripts.h"

/* Something that needs a ready link: a queue's element. */
struct belay__errand {
    belay_link link;
    /* Append requests now; never from inside belay__server_want. */
    void (*go)(struct belay__errand *errand, struct belay__link *link);
    /* The server will not have us (credentials, certificate): asking again does not help now. */
    void (*refused)(struct belay__errand *errand, const struct belay__failure *why);
};

/* What inspect and list say of a key whose holder is no owner id. */
#define BELAY__FOREIGN "another format"

enum belay__lane_id { BELAY__LANE_MAIN, BELAY__LANE_WAIT, BELAY__LANES };

struct belay__lane {
    struct belay__server *server;
    struct belay__link *link; /* on its way or ready; NULL: none */
    belay_link draining;      /* links that stalled: their answers are still to come */
    belay_link queue;         /* errands */
    belay_timer again;        /* when the next link may be opened */
    belay_timer check;        /* of links that say nothing; of errands that came late */
    int64_t ready_ns;         /* when the link became it */
    uint32_t backoff_ms;
    struct belay__failure why; /* the last failure to get a link */
};

struct belay__server {
    belay_env *env;
    struct belay__peer peer;
    uint32_t replicas; /* a grant counts when so many have it; 0: no WAIT */
    uint32_t replicas_timeout_ms;
    bool fencing, use_tracking;
    char fence[600]; /* the fence key */
    size_t fence_length;

    struct belay__lane lanes[BELAY__LANES];
    char run_id[48];    /* of the server that was last talked to */
    int64_t started_ns; /* ... when it was started, at the latest; 0: it would not say */
    uint64_t run;       /* counts the changes of that */
    bool warned;        /* of its eviction policy */
    bool minding;       /* belay_env_mind */

    struct belay__attempt *spare; /* attempts' memory, to be used again */
    uint32_t spares;
    belay_link debts; /* attempts that are owed a give-back */
    belay_link held;  /* grants */
    uint32_t debt_count;
    uint64_t links; /* made so far: their serial numbers */
    struct belay__tracking *tracking;
};

/* Zeroed memory with env, peer and settings filled. OK, NOMEM. */
belay_status belay__server_init(struct belay__server *server);
void belay__server_fini(struct belay__server *server);

/* Runs the errand when the lane has a ready link: soon, never from inside this call. A failure to
 * connect is not told, but kept in lane->why; the errand waits until it is taken back. */
void belay__server_want(struct belay__server *server, enum belay__lane_id lane,
                        struct belay__errand *errand);
/* Debts or draining links have come or gone: is there work that nobody waits for? */
void belay__server_mind(struct belay__server *server);
/* Where acquires go, and so what reads for tracking. */
static inline enum belay__lane_id belay__server_takes(const struct belay__server *server)
{
    return server->replicas > 0 ? BELAY__LANE_WAIT : BELAY__LANE_MAIN;
}
/* FNV-1a. */
uint32_t belay__key_hash(const char *key, size_t length);
/* Takes it back; not queued: does nothing. */
void belay__server_unwant(struct belay__errand *errand);
/* The lane's link, if it is ready, or NULL. */
struct belay__link *belay__server_link(struct belay__server *server, enum belay__lane_id lane);
/* Somebody waits for an answer in vain: if the link has said nothing for a whole timeout, it is
 * replaced. */
void belay__server_complain(struct belay__server *server, struct belay__link *link);

/* ------------------------------------------------------------------ attempt.c, giveback.c */

/* attempt.h has what the two share. */
struct belay__attempt;
void belay__attempt_start(struct belay__server *server, belay_op *op);
void belay__attempt_cancel(struct belay__server *server, belay_op *op);
bool belay__giveback_owes(const struct belay__server *server);

/* ------------------------------------------------------------------ held.c */

/* A grant for a lock that was taken there, or NULL: no memory. */
belay_grant *belay__held_new(struct belay__server *server, const belay_op *op,
                             const struct belay__link *link);
void belay__held_drop(struct belay__server *server, belay_grant *grant);
/* It was extended there just now. */
void belay__held_seen(belay_grant *grant, const struct belay__link *link);
/* Is that link to another run of the server than the one where the lock was seen last? Then what is
 * not there may be forgotten, and nobody needs to have taken it. */
bool belay__held_is_news(const belay_grant *grant, const struct belay__link *link);
/* The server is another than before: are they still ours? */
void belay__held_check(struct belay__server *server);

/* ------------------------------------------------------------------ tracking.c */

belay_status belay__tracking_init(struct belay__server *server);
void belay__tracking_fini(struct belay__server *server);
/* A waiting acquire was refused; the holder's TTL runs for `held_for_ns` yet (-1: not known). Sees
 * to it that it is woken. `registered`: the server remembers that `link` read the key; `since`:
 * belay__tracking_moment when it was asked to. */
void belay__tracking_refused(struct belay__server *server, belay_op *op, uint32_t hash,
                             const struct belay__link *link, bool registered, uint64_t since);
/* Now, in the order of invalidations: `since` of an attempt that is sent now. */
uint64_t belay__tracking_moment(const struct belay__server *server);
/* Does the server remember what that link reads? */
bool belay__tracking_is_on(const struct belay__server *server, const struct belay__link *link);
/* Was this wait refused before? */
bool belay__tracking_knows(const belay_op *op);
void belay__tracking_unwait(struct belay__server *server, belay_wait *wait);
/* Somebody waiting for that key may succeed now. */
void belay__tracking_wake(struct belay__server *server, belay_str key);
/* The main lane has a new link, or lost one. */
void belay__tracking_link(struct belay__server *server, struct belay__link *link);

/* ------------------------------------------------------------------ scan.c, doctor.c */

void belay__scan_start(struct belay__server *server, belay_op *op);
void belay__scan_cancel(struct belay__server *server, belay_op *op);
void belay__doctor_start(struct belay__server *server, belay_op *op);
void belay__doctor_cancel(struct belay__server *server, belay_op *op);

#endif
