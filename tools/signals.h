/* signals.h - signals as something to read: caught ones come through a descriptor, in order. */
#ifndef BELAY_TOOLS_SIGNALS_H
#define BELAY_TOOLS_SIGNALS_H

#include <signal.h>
#include <stdbool.h>

struct signals {
    int fd; /* poll it for reading; -1: not open */
};

/* From now on signals come through signals_next. What was ignored when we were started stays
 * ignored (nohup), but for SIGCHLD. Before this a signal acts as always. False: errno says why. */
bool signals_open(struct signals *signals);
void signals_close(struct signals *signals);

/* The next signal that came, or 0. */
int signals_next(struct signals *signals);

/* Would this one end a process that does not handle it? */
bool signals_ends(int signal);

/* Acts as the signal does by default, on ourselves or (group) on our whole process group. Returns
 * when it stopped us and we were continued (true; the SIGCONT can then be read), or when the kernel
 * dropped it (false): nobody could continue us. */
bool signals_stop(int signal, bool group);

/* Dies of the signal, which the shell sees as 128 + its number. */
_Noreturn void signals_die(int signal);

#endif
