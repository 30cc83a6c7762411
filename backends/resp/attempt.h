/* attempt.h - private to attempt.c and giveback.c: one attempt of one verb, and what is left of it.
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

void belay__attempt_hear(void *attempt, uint32_t part, enum belay__moment moment,
                         const struct belay__reply *reply);
/* Sends it, as soon as there is a link. */
void belay__attempt_go(struct belay__attempt *attempt);
void belay__attempt_free(struct belay__attempt *attempt);
void belay__attempts_free(struct belay__server *server); /* the spare ones */
/* EVAL or EVALSHA with one key, the attempt's. 0: no room. */
uint64_t belay__attempt_ask_script(struct belay__attempt *attempt, struct belay__link *link,
                                   enum belay__script_id script, bool by_source,
                                   enum belay__part part);

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
