/* redlock.h - private to redlock*.c: one lock on a quorum of independent places (SEMANTICS 8).
 *
 *   redlock.c        settings, URLs, the object, the table
 *   redlock_vote.c   an acquire: all are asked at once, a quorum decides
 *   redlock_lease.c  a held lock and its seats, one at each place; what is left is let go
 *   redlock_round.c  extend, release and break: all seats at once, a quorum decides
 *   redlock_node.c   what is known of each place: silence, restarts, quarantine
 *   redlock_look.c   inspect, list, diagnose
 *
 * A quorum is more than half of the places, whether they can be reached or not. Any two quorums
 * have a place in common: that is what excludes. A place that has forgotten its locks would be in
 * common and not know it, so it does not vote until every lock from before has ended.
 */
#ifndef BELAY_BACKENDS_REDLOCK_H
#define BELAY_BACKENDS_REDLOCK_H

#include <belay/backend.h>
#include <string.h>

#define REDLOCK_MS INT64_C(1000000) /* nanoseconds */

enum { REDLOCK_NODES_MOST = 15 };

struct redlock_node {
    belay_backend *place;
    uint32_t open;     /* ops that are under way there */
    int64_t since_ns;  /* something has waited for an answer since; 0: nothing does */
    uint32_t failures; /* in a row */
    uint32_t answers;  /* down: in a row, and in time */
    bool down;         /* after some of them; it is asked now and then */
    int64_t again_ns;  /* down: when it is asked again */
    int64_t votes_ns;  /* it has forgotten, and does not vote before this; 0: it does */
    belay_about about;
    belay_error error; /* of the op that failed last */
    char said[96];     /* why it did not grant, for messages */
};

struct redlock {
    belay_backend base;
    belay_env *env;
    uint32_t count, quorum;
    bool fencing, quarantine;
    uint32_t max_ttl_ms;
    int64_t node_timeout_ns;
    uint64_t proposal; /* the last one */
    belay_link leases, rounds;
    belay_link relays; /* of waits */
    uint32_t busy;     /* ops of our own that nobody waits for */
    bool closing;
    int twin[2]; /* two nodes that are one place; -1: none */
    struct redlock_node nodes[];
};

static inline struct redlock *belay__redlock_of(belay_backend *base)
{
    return belay_container_of(base, struct redlock, base);
}
static inline bool belay__redlock_is_answer(belay_status status)
{
    return status == BELAY_OK || status == BELAY_HELD || status == BELAY_LOST;
}

/* When the holder stops to believe: as core has it (SEMANTICS 1). */
static inline int64_t belay__redlock_deadline(int64_t sent_ns, uint32_t ttl_ms)
{
    int64_t ttl_ns = (int64_t)ttl_ms * REDLOCK_MS;
    return sent_ns + ttl_ns - (ttl_ns / 100 + 2 * REDLOCK_MS);
}
/* No farther than the place that reaches least far. */
belay_scope belay__redlock_scope_of(const belay_backend *base);

/* ------------------------------------------------------------------ node */

/* May it be asked for a vote now? False: it is silent, and enough waits for it already. */
bool belay__redlock_node_asks(struct redlock *r, struct redlock_node *node);
/* An op is started there. */
void belay__redlock_node_asked(struct redlock *r, struct redlock_node *node);
/* It answered, or failed to; `late`: beyond `node_timeout`. */
void belay__redlock_node_heard(struct redlock *r, struct redlock_node *node, const belay_op *op,
                               belay_status status, bool late);
/* It has not answered for `node_timeout`. */
void belay__redlock_node_late(struct redlock *r, struct redlock_node *node);
/* Does it vote, or has it forgotten? */
bool belay__redlock_node_votes(struct redlock *r, struct redlock_node *node);
/* "a: held; b: no answer; ..." */
void belay__redlock_say(struct redlock *r, char *out, size_t size);

/* ------------------------------------------------------------------ lease */

enum redlock_work { REDLOCK_IDLE, REDLOCK_TAKE, REDLOCK_RAISE, REDLOCK_REPAIR, REDLOCK_CLEAN };

struct redlock_lease;
struct redlock_relay;

/* The lock at one of the places. */
struct redlock_seat {
    struct redlock_lease *lease;
    uint32_t index;
    enum redlock_work work; /* what `op` is doing */
    bool there;             /* it may be there */
    bool late;              /* TAKE: `node_timeout` is over */
    bool voted;             /* it was granted, and counts */
    bool weak;              /* ... but reaches less far than it should */
    bool gone;              /* it was there, and is not any more: it may be put back */
    bool tainted;           /* the place may yet set our id, or gives it back */
    uint32_t legs;          /* of rounds, under way */
    bool waits;             /* `again` is armed */
    uint32_t backoff_ms;
    uint64_t token;
    int64_t sent_ns;
    int64_t until_ns; /* of what was answered last: it counts until then */
    belay_grant *grant;
    struct redlock_relay *relay; /* TAKE: the wait that its op was shown */
    bool undone, undoing;        /* the delete behind an open vote: asked; under way */
    belay_op op, undo;
    belay_timer again;
};

struct redlock_lease {
    belay_grant base;
    struct redlock *r;
    belay_link all;
    belay_op *op;   /* core's acquire, until it is answered */
    uint32_t users; /* rounds that use it */
    bool dropped;   /* core has none of it: not yet, or no more */
    bool ending;    /* its seats are to be let go ... */
    bool released;  /* ... and core has had its answer: the rest is ours */
    bool won;       /* it was handed up */
    bool lost, adopted, detached;
    bool no_memory; /* a place had none */
    bool telling;   /* a place is: nothing may be started there */
    bool stalled;   /* the timer came late once */
    uint32_t ttl_ms;
    uint64_t token;
    int64_t believed_ns; /* until when its holder believes in it */
    int64_t gone_ns;     /* its TTL has run out everywhere */
    belay_timer timer;
    belay_task check; /* soon: is it over? */
    /* The vote. */
    uint32_t granted, held, failed; /* answers, late ones as failed */
    uint32_t uncertain, unreached;  /* of the failed */
    uint32_t left;                  /* neither answered nor late */
    int64_t held_for_ns[REDLOCK_NODES_MOST];
    char owner[BELAY_OWNER_LENGTH + 4]; /* BREAK: perhaps another library's */
    char label[BELAY_LABEL_MAX + 1];
    uint32_t key_length, name_length;
    char *key; /* behind the seats */
    struct redlock_seat seats[];
};

static inline struct redlock_lease *belay__redlock_lease_of(belay_grant *grant)
{
    return belay_container_of(grant, struct redlock_lease, base);
}

struct redlock_lease *belay__redlock_lease_new(struct redlock *r, const belay_op *op);
/* Frees it when core has none of it, nothing uses it and nothing is left. */
void belay__redlock_lease_check(struct redlock_lease *lease);
/* An op of the seat's own. */
void belay__redlock_seat_op(struct redlock_seat *seat, enum redlock_work work, belay_verb verb,
                            uint32_t ttl_ms);
/* timeout_ns 0: the place's own. */
void belay__redlock_seat_start(struct redlock_seat *seat, int64_t timeout_ns,
                               void (*done)(belay_op *op, belay_status status));
/* At the top of `done`. */
void belay__redlock_seat_ended(struct redlock_seat *seat, belay_status status);
/* It was granted, or extended: the seat counts for the TTL of that op. */
void belay__redlock_seat_lasts(struct redlock_seat *seat, const belay_op *op);
/* An acquire was granted there. */
void belay__redlock_seat_take(struct redlock_seat *seat);
void belay__redlock_seat_clean(struct redlock_seat *seat);
/* What is still open of an ending lock's vote gets its delete behind it. */
void belay__redlock_lease_undo(struct redlock_lease *lease);
/* A quorum proves the lock: where it is gone it is put back. */
void belay__redlock_lease_repair(struct redlock_lease *lease);
uint32_t belay__redlock_lease_seats(const struct redlock_lease *lease); /* where it may be */
/* A place less has it: is that too few? Then it is lost, and told. */
void belay__redlock_lease_quorum(struct redlock_lease *lease, const char *why);
void belay__redlock_drop(belay_backend *base, belay_grant *grant);
bool belay__redlock_owes(belay_backend *base);
void belay__redlock_leases_free(struct redlock *r);

/* ------------------------------------------------------------------ vote, round, look */

void belay__redlock_vote(belay_backend *base, belay_op *op);
void belay__redlock_vote_cancel(belay_op *op);
/* Something that stood in the way of that key was let go. */
void belay__redlock_wake(struct redlock *r, const char *key, size_t length);
/* Its place has told of a loss while the vote is open. */
void belay__redlock_vote_told(struct redlock_seat *seat);
void belay__redlock_vote_withdraw(struct redlock_seat *seat);
void belay__redlock_vote_abandon(struct redlock_seat *seat); /* at destroy */
void belay__redlock_unwait(belay_backend *base, belay_wait *wait);

void belay__redlock_round(belay_backend *base, belay_op *op);
void belay__redlock_round_cancel(belay_op *op);
void belay__redlock_rounds_free(struct redlock *r);

void belay__redlock_inspect(belay_backend *base, belay_op *op);
void belay__redlock_list(belay_backend *base, belay_op *op);
void belay__redlock_diagnose(belay_backend *base, belay_op *op);
void belay__redlock_look_cancel(belay_op *op);

#endif
