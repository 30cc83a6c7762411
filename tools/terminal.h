/* terminal.h - the controlling terminal, and whose turn it is to have it. */
#ifndef BELAY_TOOLS_TERMINAL_H
#define BELAY_TOOLS_TERMINAL_H

#include <stdbool.h>
#include <sys/types.h>
#include <termios.h>

struct terminal {
    int fd;      /* -1: none, or not looked for yet */
    bool ours;   /* fd is to be closed */
    bool handed; /* the command's group has it, from us */
    bool saved;  /* `modes` are those from before the first hand-over */
    struct termios modes;
};

void terminal_init(struct terminal *terminal);
void terminal_fini(struct terminal *terminal);

/* Gives the terminal to the command's group, if it is our group's to give. True: the group has it.
 */
bool terminal_hand(struct terminal *terminal, pid_t group);

/* The same for a command that starts: only where it will want it. */
void terminal_hand_at_start(struct terminal *terminal, pid_t group);

/* Takes it back, if we had handed it over. SIGTTOU has to be blocked. */
void terminal_take(struct terminal *terminal);

/* The command was killed and could not put the terminal's modes back itself (an editor's, say):
 * does that, after terminal_take. */
void terminal_restore(struct terminal *terminal);

#endif
