/* signals.c - signals as something to read. They are blocked and read from a signalfd, so nothing
 * of ours ever runs in a handler, and none is lost between a look and a sleep. SIGKILL, SIGSTOP and
 * what a fault raises are left alone. */
#include "signals.h"

#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

/* What a command may be waiting for: all of it is passed on. */
static const int passed_on[] = { SIGHUP,  SIGINT,  SIGQUIT, SIGTERM,   SIGUSR1, SIGUSR2, SIGALRM,
                                 SIGTSTP, SIGCONT, SIGPWR,  SIGVTALRM, SIGPROF, SIGIO };

bool signals_open(struct signals *signals)
{
    struct sigaction now, by_default = { .sa_handler = SIG_DFL },
                          ignore = { .sa_handler = SIG_IGN };
    sigset_t caught, blocked;

    signals->fd = -1;
    sigemptyset(&caught);
    for (size_t i = 0; i < sizeof(passed_on) / sizeof(passed_on[0]); i++) {
        /* A blocked signal is queued even when it is ignored. */
        if (sigaction(passed_on[i], NULL, &now) == 0 && now.sa_handler != SIG_IGN)
            sigaddset(&caught, passed_on[i]);
    }
    /* An ignored SIGCHLD, inherited, would have the kernel throw our child's status away. */
    sigaction(SIGCHLD, &by_default, NULL);
    sigaddset(&caught, SIGCHLD);
    sigaction(SIGPIPE, &ignore, NULL);

    blocked = caught;
    sigaddset(&blocked, SIGTTOU); /* we take the terminal back, and write, from the background */
    if (sigprocmask(SIG_BLOCK, &blocked, NULL) != 0) return false;
    signals->fd = signalfd(-1, &caught, SFD_CLOEXEC | SFD_NONBLOCK);
    return signals->fd >= 0;
}

void signals_close(struct signals *signals)
{
    if (signals->fd >= 0) close(signals->fd);
    signals->fd = -1;
}

int signals_next(struct signals *signals)
{
    struct signalfd_siginfo info;
    if (read(signals->fd, &info, sizeof(info)) != (ssize_t)sizeof(info)) return 0;
    return (int)info.ssi_signo;
}

bool signals_ends(int signal)
{
    return signal != SIGCHLD && signal != SIGCONT && signal != SIGTSTP && signal != SIGWINCH;
}

static void let_through(int signal)
{
    struct sigaction by_default = { .sa_handler = SIG_DFL };
    sigset_t set;
    sigaction(signal, &by_default, NULL);
    sigemptyset(&set);
    sigaddset(&set, signal);
    sigprocmask(SIG_UNBLOCK, &set, NULL);
}

bool signals_stop(int signal, bool group)
{
    sigset_t before, pending;
    sigprocmask(SIG_BLOCK, NULL, &before);
    kill(group ? 0 : getpid(), signal);
    let_through(signal); /* here we stop, if at all */
    sigprocmask(SIG_SETMASK, &before, NULL);
    /* SIGCONT is blocked: if one woke us, it is still to be read. */
    return sigpending(&pending) == 0 && sigismember(&pending, SIGCONT) == 1;
}

_Noreturn void signals_die(int signal)
{
    prctl(PR_SET_DUMPABLE, 0); /* the core worth having is the command's */
    kill(getpid(), signal);
    let_through(signal);
    _exit(128 + signal); /* it was one that does not end a process */
}
