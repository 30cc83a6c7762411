/* attempt.h - private to attempt*.c and giveback.c: one attempt of one verb, and what is left of
 * it.
 *
 *   attempt.c          from the op to a link; a link that breaks; an op that is given up
 *   attempt_ask.c      what is sent
 *   attempt_answer.c   what an answer means
 *   giveback.c         what an abandoned attempt leaves, deleted
 *
 * An attempt lives from its op's start to its op's end. One that was abandoned after a byte of it
 * had left lives on as a debt, until its compare-and-delete was answered for good.
 */
#ifndef BELAY_BACKENDS_RESP_ATTEMPT_H
#define BELAY_BACKENDS_RESP_ATTEMPT_H

#include "backends/resp/server.h"

/* Which request of an attempt's an answer is to. */
enum belay__part {
    BELAY__PART_MAIN,
    BELAY__PART_WAIT,    /* WAIT, right behind it */
    BELAY__PART_LOOK,    /* PTTL, behind a refused SET */
    BELAY__PART_KILL,    /* CLIENT KILL ID of the connection that broke */
    BELAY__PART_GIVEBACK /* the compare-and-delete */
};

struct belay__attempt {
    struct belay__server *server;
    belay_op *op; /* NULL: abandoned, a debt */
    struct belay__errand errand;
    belay_timer timer; /* the next try */
    belay_link parked; /* behind a debt of the same key */

    struct belay__link *link; /* where the requests below stand; NULL: nowhere */
    uint64_t main, wait;      /* their sequence numbers; 0: none */
    int64_t began_ns;
    struct belay__failure why; /* the server's last word; text "": none */
    uint64_t since;            /* belay__tracking_moment when it was sent */
    uint64_t token;            /* granted, WAIT is to come */
    uint32_t backoff_ms, ttl_ms, hash;
    belay_verb verb;
    bool by_source; /* EVAL: the server did not know the script */
    bool tracked;   /* the server remembers that this connection read the key */
    bool plain;     /* it is a SET, whose answers are others than a script's */
    bool answered;  /* the main request was: nothing of it can come later */
    bool looking;   /* it was refused: for how long? */

    /* A debt's. */
    belay_link debt;      /* in server->debts */
    belay_link behind;    /* who is parked */
    uint64_t giveback;    /* the sequence number of the delete; 0: not asked */
    int64_t until_ns;     /* the attempt's TTL has run out for certain */
    int64_t client_id;    /* of the connection that carried it ... */
    char run_id[48];      /* ... and of the server */
    uint64_t answered_on; /* the serial of the link that deleted nothing last */
    uint8_t cuts;         /* links that broke over it */
    bool final;           /* the attempt can't be executed any more: any answer settles the debt */

    char owner[BELAY_OWNER_LENGTH + 1];
    uint32_t key_length, key_room;
    char key[];
};

/* The token's low bits count grants, the rest is the epoch (SEMANTICS 4). */
#define SEQ_BITS 50

/* ------------------------------------------------------------------ attempt.c */

void belay__attempt_hear(void *attempt, uint32_t part, enum belay__moment moment,
                         const struct belay__reply *reply);
/* Sends it, as soon as there is a link. */
void belay__attempt_go(struct belay__attempt *attempt);
void belay__attempt_send(struct belay__attempt *attempt, struct belay__link *link);
/* Nobody hears its requests' answers any more. */
void belay__attempt_disown(struct belay__attempt *attempt);
/* The op's answer; the attempt is gone. */
void belay__attempt_settle(struct belay__attempt *attempt, belay_status status);
void belay__attempt_fail(struct belay__attempt *attempt, belay_status status, belay_cause cause,
                         const char *text);
/* The op fails; what the server may do of it yet is taken back. */
void belay__attempt_abandon(struct belay__attempt *attempt, belay_status status, belay_cause cause,
                            const char *text);
void belay__attempt_free(struct belay__attempt *attempt);
void belay__attempts_free(struct belay__server *server); /* the spare ones */
/* ------------------------------------------------------------------ attempt_ask.c */

/* Does it need the fence key? An extension does where it must move it. */
static inline bool belay__attempt_fences(const struct belay__attempt *attempt)
{
    return attempt->server->fencing &&
           (attempt->verb == BELAY_VERB_ACQUIRE ||
            (attempt->verb == BELAY_VERB_EXTEND && attempt->op->token_floor != 0));
}
/* With `replicas`, a grant and an extension count only behind a WAIT. */
bool belay__attempt_waits(const struct belay__attempt *attempt);
/* Each returns the sequence number of what it asked, or 0 (false): no room. */
uint64_t belay__attempt_ask(struct belay__attempt *attempt, struct belay__link *link);
bool belay__attempt_ask_wait(struct belay__attempt *attempt);
bool belay__attempt_ask_look(struct belay__attempt *attempt); /* behind a refused SET */
/* EVAL or EVALSHA with one key, the attempt's. */
uint64_t belay__attempt_ask_script(struct belay__attempt *attempt, struct belay__link *link,
                                   enum belay__script_id script, bool by_source,
                                   enum belay__part part);

/* ------------------------------------------------------------------ attempt_answer.c */

void belay__attempt_answered(struct belay__attempt *attempt, enum belay__part part,
                             const struct belay__reply *reply);
/* Refused: the holder's TTL runs for so long yet (-1: not known); `kind`: of its key, or NULL. */
void belay__attempt_held(struct belay__attempt *attempt, int64_t remains_ms, const char *kind);

/* ------------------------------------------------------------------ giveback.c */

/* The attempt may have been granted, or may yet be: its link carried it. From now on it is a debt;
 * its op is settled by the caller, and not its own any more. */
void belay__giveback_owe(struct belay__attempt *attempt);
void belay__giveback_hear(struct belay__attempt *attempt, enum belay__part part,
                          enum belay__moment moment, const struct belay__reply *reply);
/* Before an attempt for that key goes to `link`: debts that stand nowhere are asked there first, so
 * that it is behind them. Returns a debt that stands on another link (it stalls), or NULL. */
struct belay__attempt *belay__giveback_before(struct belay__server *server, belay_str key,
                                              uint32_t hash, struct belay__link *link);
void belay__givebacks_drop(struct belay__server *server);

#endif
