/* child.h - the command: forked before anything is opened, let go when the lock is ours. */
#ifndef BELAY_TOOLS_CHILD_H
#define BELAY_TOOLS_CHILD_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include <belay/belay.h>

/* What the command finds in its environment. Goes through a pipe as it is: no padding. */
struct grant_news {
    uint64_t token;
    int32_t scope; /* belay_scope */
    int32_t degraded;
};

struct child {
    pid_t pid;  /* the id of its process group as well */
    int gate;   /* written to once; -1 afterwards */
    bool ended; /* `status` holds */
    int status; /* as waitpid gave it */
    int stop;   /* the signal that stopped it; 0: it is not stopped */
};

/* Forks. The child leads a process group of its own, dies with us, and waits. False: errno. */
bool child_fork(struct child *child, const char *lock, char **command);

/* Has it run the command. False: it is gone. */
bool child_go(struct child *child, const struct grant_news *news);

/* Ends a child that was not let go. */
void child_discard(struct child *child);

/* Reaps it if it ended; notes whether it is stopped. Never waits. True: it was stopped anew. */
bool child_look(struct child *child);

/* Sends a signal to its whole group. False: errno says why it reached nobody. */
bool child_signal(struct child *child, int signal);
/* Is there something left in its group, after its end, that is another user's? */
bool child_left_foreign(const struct child *child);
/* Continues it after a stop. */
void child_continue(struct child *child);

/* Its exit status, or 128 + the signal that ended it. */
int child_exit_status(const struct child *child);

#endif
