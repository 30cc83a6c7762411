/* fallback.pml - the protocol of the backend "fallback" (SEMANTICS 11), for spin to search whole.
 *
 * Two processes on one host (0 and 1) and one on another (2) want one lock. Each host has a row
 * for it in its own secondary; one primary has a key for all of them. Requests to the primary,
 * and its answers, may be lost or come late: a process for which nothing arrives is cut off
 * alone, and when nothing arrives for anybody the primary is down. Anybody may die at any step,
 * or stop for any time.
 *
 * The claims stand at the end. To search:
 *
 *   tests/model/run.sh                          all of it, as ./dev test -L model does
 *   spin -a fallback.pml                        by hand: makes pan.c (with PIECEWISE also -o3)
 *   cc -O2 -o pan pan.c
 *   ./pan -m3000000 -a -N alone_in_fleet        a claim; liveness also needs -f (and LIVE below)
 *   spin -t -p -g -k fallback.pml.trail fallback.pml    how it came to what was found
 *
 * Macros for spin -a (and spin -t):
 *   HOST_FIRST=0   without rule 1's "the host's lock comes first"
 *   FORGETS        the primary may lose its data
 *   LIVE           the faults may cease for good (calm). QUIET: from then on nobody wants the
 *                  lock, and who has it lets go. KEEPER=p: from then on p lets go of nothing
 *   NO_TTL         nothing ever expires. NO_DEATH: nobody dies
 *   WRONG_*        one mistake each, which spin must find
 *   PIECEWISE      for spin's list of what was never reached
 *
 * What is not modelled, and why that is no loss:
 *   - Time. A deadline is a bit, true until the clock says otherwise, and the clock may say so at
 *     any moment. A place lets a lock expire only after its holder's deadline: that is what
 *     "deadline = sent + ttl - drift" is for (SEMANTICS 1). An extension that goes well changes
 *     no bit; "demoted so long before the deadline" is here "demoted while the bit is true".
 *   - The number of ids. An attempt has a fresh id (SEMANTICS 2). Here each process has two: the
 *     one in use (NOW) and the ones before it (OLD), which may still be owed a give-back. Two are
 *     enough, as a new one is asked for only when the one before it can't be executed any more.
 *   - How a give-back reaches the primary: behind the attempt on the same socket, after CLIENT
 *     KILL, or until the TTL has run out. Here: it is over only when the attempt can no longer be
 *     executed.
 *   - Requests that change nothing when they are executed late: extensions, deletes of an old id.
 *   - A request that is lost, as apart from one that its sender has given up.
 *   - The evidence of rule 4 between two locks: a process that holds nothing and wants nothing
 *     has none.
 *   - The secondary's own faults: its row is there, at once, until it is let go, until its TTL is
 *     over, or until its holder is dead (FAULTS 33a is tests/sim's).
 *   - Tokens, queues within a process, waiting, settle, the hint row: they give nobody a lock.
 */

#ifndef HOST_FIRST
#define HOST_FIRST 1 /* host_first: the row before the primary; 0 takes the rule out */
#endif

mtype = {
    IDLE,
    ROW,       /* wants it: has the row, has not asked the primary, or not got an answer */
    ASKED,     /* wants it: has the row and has asked the primary */
    FLEET,     /* holds it: row and key */
    HOST,      /* holds it in host scope, and has no key */
    DEMOTED,   /* holds it in host scope, and its key may still be there */
    EXTENDING, /* the same, being promoted: its key is being extended */
    RETAKING,  /* holds it in host scope, being promoted: a key is being taken */
    RELEASING, /* holds it no more; the row goes last */
    DEAD
};

/* A process's request to the primary: on its way, or answered, and its answer on the way. */
mtype = { NONE, ACQUIRE, EXTEND, OK, NO };

/* What a process that is refused at a promotion knows of the key there. */
mtype = { NOTHING, THERE, MOVED };

/* The places. */
byte row[2]; /* by host: 0, or its owner's ME */
byte key;    /* 0, or its owner's NOW or OLD */

/* The processes. */
mtype st[3] = IDLE;
mtype net[3] = NONE;
bool late[3];     /* an attempt with the OLD id was given up, and may still be executed */
bool debt[3];     /* the OLD id is owed a give-back */
bool down[3];     /* its own evidence: its last attempt failed, and no probe has gone well since */
bool in_row[3];   /* the row's deadline has not passed */
bool in_key[3];   /* the key's deadline has not passed */
mtype seen[3] = NOTHING;

/* The world. */
bool calm;        /* the faults have ceased for good */
bool quiet;       /* and nobody wants the lock any more */

/* A step of anybody's is one step of the model. (PIECEWISE: so that spin tells of each part of it
 * whether it was ever reached.) */
#ifndef PIECEWISE
#define step d_step
#else
#define step atomic
#endif

#define HOST_OF(p) (p / 2)
#define P          _pid
#define ME         (P + 1)
#define MY_ROW     row[HOST_OF(P)]
#define NOW        (2 * P + 1)
#define OLD        (2 * P + 2)

#ifndef WRONG_LATE_DEMOTION
#define SURE_OF_KEY(p) in_key[p]
#define IN_DEMOTION    in_key[P]
#else /* goes on believing in the fleet until it is demoted, after the deadline */
#define SURE_OF_KEY(p) true
#define IN_DEMOTION    !in_key[P]
#endif

#ifndef WRONG_HASTY_CONFLICT
#define BEATEN(p) (seen[p] == MOVED)
#else /* whoever is refused is beaten */
#define BEATEN(p) true
#endif

#define IN_HOST(p)                                                                                 \
    (st[p] == HOST || st[p] == DEMOTED || st[p] == EXTENDING || st[p] == RETAKING)
#define BELIEVES_HOST(p)  (IN_HOST(p) && in_row[p])
#define BELIEVES_FLEET(p) (st[p] == FLEET && in_row[p] && SURE_OF_KEY(p))
#define BELIEVES(p)       (BELIEVES_HOST(p) || BELIEVES_FLEET(p))

/* --- what several steps do ------------------------------------------------------------------ */

/* The id in use becomes the old one: whatever was sent with it can still happen. */
inline retire_id() {
    late[P] = late[P] || net[P] == ACQUIRE;
    if
    :: key == NOW -> key = OLD
    :: else
    fi;
    net[P] = NONE
}

#if defined(WRONG_SAME_ID)
#define GIVEN_BACK (key == OLD || key == NOW)
#elif defined(WRONG_BLIND_DELETE)
#define GIVEN_BACK (key != 0)
#else
#define GIVEN_BACK (key == OLD)
#endif

/* An attempt whose outcome is not known, or not wanted any more: given back (SEMANTICS 2). */
inline give_back() {
    retire_id();
#ifndef WRONG_NO_GIVE_BACK
    debt[P] = true
#endif
}

inline let_row_go() {
    if
    :: MY_ROW == ME -> MY_ROW = 0
    :: else
    fi;
    in_row[P] = false;
    down[P] = false
}

inline stop_believing() {
    st[P] = RELEASING;
    seen[P] = NOTHING;
    in_row[P] = false;
    in_key[P] = false;
    down[P] = false
}

/* What is at the primary is given back; the row goes after that (rule 1). */
inline stop_holding() {
    if
    :: st[P] != HOST -> give_back()
    :: else
    fi;
    stop_believing()
}

/* The end of the key's TTL is a later one: somebody lives who has it. */
inline key_moves() {
    if
    :: seen[0] == THERE -> seen[0] = MOVED
    :: else
    fi;
    if
    :: seen[1] == THERE -> seen[1] = MOVED
    :: else
    fi;
    if
    :: seen[2] == THERE -> seen[2] = MOVED
    :: else
    fi
}

/* An answer to an extension or to an acquire is late when the key has expired since. */
#ifndef WRONG_LATE_OK
#define IN_TIME (key == NOW && in_row[P])
#else
#define IN_TIME true
#endif

inline become_fleet() {
    st[P] = FLEET;
    seen[P] = NOTHING;
    net[P] = NONE;
    in_key[P] = true
}

/* Nobody has to let go: in calm weather this one never does. */
#ifdef KEEPER
#define MAY_RELEASE (!calm || P != KEEPER)
#else
#define MAY_RELEASE true
#endif

/* A new id may be sent; a refused promotion is remembered; a lock is extended. */
#ifndef LIVE
#define FREE_TO_ASK !late[P]
#define REMEMBER    seen[P] = THERE
#define MAY_EXTEND  true
#else
/* In the end what is owed is paid between two tries. Each recovery is a new beginning for who is
 * refused: so it is enough to remember in calm weather; and to extend in it, as evidence that the
 * primary is gone comes from elsewhere too. (All that makes the search smaller.) */
#define FREE_TO_ASK !debt[P]
#define REMEMBER    seen[P] = (calm -> THERE : NOTHING)
#define MAY_EXTEND  (calm && !quiet)
#endif

#if HOST_FIRST
#define ROW_TO_START  (MY_ROW == 0)
#define ROW_FOR_HOST  (MY_ROW == ME)
#else
#define ROW_TO_START  true
#define ROW_FOR_HOST  (MY_ROW == ME || MY_ROW == 0)
#endif

/* A failed attempt: a full timeout without an answer, or none at all could be sent. */
#define TIMED_OUT (!calm && net[P] != NONE)

active [3] proctype client() {
end:
    do
    /* --- acquire ---------------------------------------------------------------------------- */
    /* Rule 1: the host's lock comes first. */
    :: step {
           st[P] == IDLE && !quiet && ROW_TO_START ->
#if HOST_FIRST
           MY_ROW = ME;
#endif
           in_row[P] = true;
           st[P] = ROW
       }
    /* ... then the primary's, behind an attempt that may still be executed (SEMANTICS 2). */
    :: step {
           st[P] == ROW && in_row[P] && !down[P] && FREE_TO_ASK -> net[P] = ACQUIRE;
           st[P] = ASKED
       }
    /* Both: fleet scope, until the smaller of the two deadlines. */
    :: step {
           st[P] == ASKED && net[P] == OK && IN_TIME -> become_fleet()
       }
    /* An OK whose deadline has passed is none (SEMANTICS 1). */
    :: step {
           st[P] == ASKED && net[P] == OK && !IN_TIME -> give_back();
           let_row_go();
           st[P] = IDLE
       }
    /* Rule 1: a refused primary lets the row go. Rule 2: being refused does not degrade. */
    :: step {
           st[P] == ASKED && net[P] == NO -> net[P] = NONE;
           let_row_go();
           st[P] = IDLE
       }
    /* No answer. Rule 4: its own failed attempt is the evidence. */
    :: step {
           st[P] == ASKED && TIMED_OUT -> give_back();
           down[P] = true;
           st[P] = ROW
       }
    /* Rule 3: the degraded grant, with the row alone. */
    :: step {
           st[P] == ROW && down[P] && in_row[P] && ROW_FOR_HOST -> MY_ROW = ME;
           st[P] = HOST
       }
    /* Rule 3: at_least fleet, policy closed; or its caller's time is up, or the row's; or the row
     * is another's (host_first off). */
    :: step {
           st[P] == ROW && (down[P] || !in_row[P] || !calm) -> let_row_go();
           st[P] = IDLE
       }

    /* --- held in fleet scope ---------------------------------------------------------------- */
    /* Rule 8: extended at both places, the row first. */
    :: step {
           st[P] == FLEET && net[P] == NONE && BELIEVES_FLEET(P) && !down[P] && MAY_EXTEND ->
           net[P] = EXTEND
       }
    :: step {
           st[P] == FLEET && net[P] == OK -> net[P] = NONE
       }
    :: step {
           st[P] == FLEET && TIMED_OUT -> net[P] = NONE;
           down[P] = true
       }
    /* Rule 5: an extension could not reach it, or hangs. Demoted in time, with the row. */
    :: step {
           st[P] == FLEET && (net[P] == NONE -> down[P] : !calm) && in_row[P] && ROW_FOR_HOST &&
           IN_DEMOTION -> MY_ROW = ME;
           in_key[P] = false;
           st[P] = DEMOTED
       }
#ifdef FORGETS
    /* A primary that was restarted and has forgotten the key: demoted at once. */
    :: step {
           st[P] == FLEET && net[P] == NO && in_row[P] && ROW_FOR_HOST && in_key[P] ->
           MY_ROW = ME;
           net[P] = NONE;
           in_key[P] = false;
           st[P] = HOST
       }
    /* The same, but the primary can't tell that from a lock that somebody broke: LOST. */
    :: step {
           st[P] == FLEET && net[P] == NO -> net[P] = NONE;
           stop_believing()
       }
#endif

    /* --- held in host scope ----------------------------------------------------------------- */
    /* The extension that hung is answered: too late to change anything, but for what it says. */
    :: step {
           st[P] == DEMOTED && (net[P] == OK || TIMED_OUT) -> down[P] = down[P] || net[P] != OK;
           net[P] = NONE
       }
    :: step {
           st[P] == DEMOTED && net[P] == NO -> net[P] = NONE;
           st[P] = HOST
       }
#ifndef WRONG_NO_PROMOTION
    /* Rule 6: recovery promotes. The key that may still be there is extended ... */
    :: step {
           st[P] == DEMOTED && net[P] == NONE && in_row[P] && !down[P] -> net[P] = EXTEND;
           st[P] = EXTENDING
       }
    /* ... else one is taken, with a fresh id, as at first. */
    :: step {
           st[P] == HOST && in_row[P] && !down[P] && FREE_TO_ASK && !quiet -> net[P] = ACQUIRE;
           st[P] = RETAKING
       }
#endif
    /* Free, or ours: fleet scope. */
    :: step {
           (st[P] == EXTENDING || st[P] == RETAKING) && net[P] == OK && IN_TIME -> become_fleet()
       }
    :: step {
           st[P] == EXTENDING && (net[P] == OK && !IN_TIME || TIMED_OUT) ->
           down[P] = down[P] || net[P] != OK;
           net[P] = NONE;
           st[P] = DEMOTED
       }
    :: step {
           st[P] == EXTENDING && net[P] == NO -> net[P] = NONE;
           st[P] = HOST
       }
    :: step {
           st[P] == RETAKING && (net[P] == OK && !IN_TIME || TIMED_OUT) ->
           down[P] = down[P] || net[P] != OK;
           give_back();
           seen[P] = NOTHING; /* what is there next may be its own */
           st[P] = HOST
       }
    /* Foreign. It may be what somebody left who holds no more (this very process, another of the
     * host, a dead one): that is let go, or ends, and until then its end doesn't move. */
    :: step {
           st[P] == RETAKING && net[P] == NO && !BEATEN(P) -> net[P] = NONE;
           REMEMBER;
           st[P] = HOST
       }
    /* It does: LOST, "conflict"; never stolen. */
    :: step {
           st[P] == RETAKING && net[P] == NO && BEATEN(P) -> net[P] = NONE;
           stop_believing()
       }

    /* --- release ---------------------------------------------------------------------------- */
    :: step {
           (st[P] == FLEET || IN_HOST(P)) && MAY_RELEASE -> stop_holding()
       }
    /* Rule 1: primary, then row, also when the primary can't be reached. */
    :: step {
           st[P] == RELEASING && (!debt[P] || !calm) -> let_row_go();
           st[P] = IDLE
       }

    /* --- the library behind the scenes ------------------------------------------------------ */
    /* A give-back is answered, and the attempt can't be executed any more. */
    :: step {
           debt[P] && !late[P] -> debt[P] = false;
           if
           :: GIVEN_BACK -> key = 0
           :: else
           fi
       }
    /* A give-back is executed; its answer is lost. */
    :: step {
           debt[P] && key == OLD && !calm -> key = 0
       }
    /* A connection is refused, an attempt for another lock fails: evidence, and nothing sent. */
    :: step {
           !calm && !down[P] && net[P] == NONE &&
           (st[P] == ROW || st[P] == FLEET || IN_HOST(P)) -> down[P] = true
       }
    /* Rule 4: a probe goes well. */
    :: step {
           down[P] -> down[P] = false;
           seen[P] = NOTHING
       }

    /* --- the primary, and the way to it ----------------------------------------------------- */
    :: step {
           net[P] == ACQUIRE ->
           if
           :: key == 0 -> key = NOW; net[P] = OK; key_moves()
#ifdef WRONG_STEALING_PROMOTION
           :: key != 0 && st[P] == RETAKING -> key = NOW; net[P] = OK
#endif
#ifdef WRONG_SAME_ID
           :: key == OLD -> key = NOW; net[P] = OK
#endif
           :: else -> net[P] = NO
           fi
       }
    :: step {
           net[P] == EXTEND ->
           if
           :: key == NOW -> net[P] = OK; key_moves()
           :: else -> net[P] = NO
           fi
       }
    /* An attempt that was given up is executed late, or never. */
    :: step {
           late[P] -> late[P] = false;
           if
           :: key == 0 -> key = OLD; key_moves()
           :: else
           fi
       }
    :: step {
           late[P] -> late[P] = false
       }

    /* --- time, death ------------------------------------------------------------------------ */
    /* A deadline passes: who held is a holder no more, whenever it looks at its clock. (In calm
     * weather whoever holds extends before it.) */
    :: step {
           !calm && in_row[P] -> in_row[P] = false;
           if
           :: st[P] == FLEET || IN_HOST(P) -> stop_holding()
           :: else
           fi
       }
    :: step {
           !calm && in_key[P] -> in_key[P] = false;
#ifndef WRONG_LATE_DEMOTION
           stop_holding()
#endif
       }
#ifndef NO_TTL
    /* A TTL is over: after the deadline. (In calm weather an answer comes sooner.) */
    :: step {
           key == OLD || key == NOW && !in_key[P] && (!calm || net[P] == NONE) -> key = 0
       }
    /* The row's too; or its holder is dead. */
    :: step {
           MY_ROW == ME && !in_row[P] -> MY_ROW = 0
       }
#endif
#ifndef NO_DEATH
    :: step {
           !calm && st[P] != DEAD -> retire_id();
           debt[P] = false;
           down[P] = false;
           in_row[P] = false;
           in_key[P] = false;
           seen[P] = NOTHING;
           st[P] = DEAD
       }
    /* Another process takes its place in this model, when nothing of it is left. */
    :: step {
           st[P] == DEAD && !late[P] && key != OLD && MY_ROW != ME -> st[P] = IDLE
       }
#endif
    od
}

#if defined(LIVE) || defined(FORGETS)
active proctype world() {
end:
    do
#ifdef LIVE
    :: step {
           !calm -> calm = true;
#ifdef QUIET
           quiet = true
#endif
       }
    :: calm -> skip /* time goes on, when nothing happens as well */
#endif
#ifdef FORGETS
    :: step {
           !calm && key != 0 -> key = 0
       }
#endif
    od
}
#endif

/* --- the claims ----------------------------------------------------------------------------- */

/* (a) Never two holders on one host, whatever each sees of the primary (rule 7). */
ltl alone_on_host {
    [] !(BELIEVES(0) && BELIEVES(1))
}

/* (b) Who believes in fleet scope is alone in it, while the primary keeps its data (rule 7). */
ltl alone_in_fleet {
    [] !(BELIEVES_FLEET(0) && BELIEVES_FLEET(2) || BELIEVES_FLEET(0) && BELIEVES_FLEET(1) ||
         BELIEVES_FLEET(1) && BELIEVES_FLEET(2))
}

/* Whoever loses a lock to a conflict lost it to another, not to an earlier attempt of its own. */
#define BEATEN_BY_ITSELF(p)                                                                        \
    (st[p] == RETAKING && net[p] == NO && BEATEN(p) && key == 2 * p + 2)
ltl beaten_by_another {
    [] !(BEATEN_BY_ITSELF(0) || BEATEN_BY_ITSELF(1) || BEATEN_BY_ITSELF(2))
}

/* (c) Stable health leads back to fleet scope (promoted, lost by conflict, or released), and then
 * none is in host scope any more. */
ltl back_to_fleet {
    [] (calm -> <> [] !IN_HOST(0))
}
ltl back_to_fleet_alone {
    [] (calm -> <> [] !IN_HOST(2))
}

/* (d) Nothing stays locked for ever. */
#define CLEAN                                                                                      \
    (key == 0 && row[0] == 0 && row[1] == 0 && !debt[0] && !debt[1] && !debt[2] && !late[0] &&     \
     !late[1] && !late[2])
ltl nothing_left {
    [] (quiet -> <> [] CLEAN)
}

/* The same while they go on wanting it: somebody gets it, and gets it in fleet scope. */
ltl still_granted {
    [] (calm -> <> (BELIEVES_FLEET(0) || BELIEVES_FLEET(1) || BELIEVES_FLEET(2)))
}

/* What must happen somewhere, or the claims above say nothing: each of these must fail. */
ltl never_degraded {
    [] !BELIEVES_HOST(0)
}
ltl never_demoted {
    [] !(st[0] == DEMOTED)
}
ltl never_promoted {
    [] !(st[0] == EXTENDING && in_row[0] && net[0] == OK && key == 1)
}
ltl never_retaken {
    [] !(st[0] == RETAKING && in_row[0] && net[0] == OK && key == 1)
}
ltl never_conflict {
    [] !(st[0] == RETAKING && in_row[0] && net[0] == NO && BEATEN(0))
}
/* Rule 7: across hosts, nothing while the primary is not reachable; the scopes say so. */
ltl never_beside {
    [] !(BELIEVES_HOST(0) && BELIEVES_FLEET(2))
}
