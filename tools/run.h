/* run.h - one `belay run`, from the fork to the exit status. */
#ifndef BELAY_TOOLS_RUN_H
#define BELAY_TOOLS_RUN_H

#include <belay/belay.h>

#include "args.h"
#include "child.h"
#include "signals.h"
#include "terminal.h"
#include "wait_display.h"

struct run {
    const struct args *args;
    const char *name;
    struct child child;
    struct signals signals;
    struct terminal terminal;
    struct wait_display display;
    belay *client;

    /* the acquire */
    bool answered;
    belay_status answer;
    belay_error why;
    int ended_by; /* the signal that ended the wait; 0: none */

    /* the lock */
    belay_lock *lock;
    int64_t grace_ms;  /* the command is told this long before the deadline, */
    int64_t margin_ms; /* and killed this long before it */
    bool lost;         /* the library said so; `lost_why` holds */
    belay_error lost_why;
    belay_scope scope;      /* as it was told last */
    belay_scope demoted_to; /* it came to reach no farther than this; ANY: it never did */
    bool told;              /* the command got its SIGTERM from us, */
    bool killed;            /* its SIGKILL */
};

/* hold.c: lets the command go, looks after it and the lock until it ends; its exit status. */
int hold(struct run *run);

#endif
