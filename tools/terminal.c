/* terminal.c - the controlling terminal, and whose turn it is to have it.
 *
 * The command leads a process group of its own, so it must be made the terminal's foreground group
 * to read from it and to get Ctrl-C and Ctrl-Z. In a pipeline (`belay run x -- make | less`) the
 * others of our group still need the terminal: there the command gets it only when it asks, that
 * is, when it was stopped for touching it. */
#include "terminal.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

void terminal_init(struct terminal *terminal)
{
    *terminal = (struct terminal){ .fd = -1 };
}

void terminal_fini(struct terminal *terminal)
{
    if (terminal->ours) close(terminal->fd);
    terminal_init(terminal);
}

/* Standard input mostly is it; with that redirected, the controlling terminal has a name. */
static bool terminal_find(struct terminal *terminal)
{
    if (terminal->fd >= 0) return true;
    if (tcgetpgrp(STDIN_FILENO) >= 0) {
        terminal->fd = STDIN_FILENO;
        return true;
    }
    terminal->fd = open("/dev/tty", O_RDWR | O_CLOEXEC | O_NOCTTY);
    terminal->ours = terminal->fd >= 0;
    return terminal->ours;
}

bool terminal_hand(struct terminal *terminal, pid_t group)
{
    if (!terminal_find(terminal)) return false;
    pid_t has_it = tcgetpgrp(terminal->fd);
    if (has_it == group) return true;
    if (has_it != getpgrp()) return false;
    if (!terminal->saved) terminal->saved = tcgetattr(terminal->fd, &terminal->modes) == 0;
    terminal->handed = tcsetpgrp(terminal->fd, group) == 0;
    return terminal->handed;
}

void terminal_hand_at_start(struct terminal *terminal, pid_t group)
{
    struct stat out;
    if (tcgetpgrp(STDIN_FILENO) != getpgrp()) return;
    if (fstat(STDOUT_FILENO, &out) == 0 && S_ISFIFO(out.st_mode)) return;
    terminal_hand(terminal, group);
}

void terminal_take(struct terminal *terminal)
{
    if (!terminal->handed) return;
    terminal->handed = false;
    tcsetpgrp(terminal->fd, getpgrp());
}

void terminal_restore(struct terminal *terminal)
{
    if (terminal->saved && tcgetpgrp(terminal->fd) == getpgrp())
        tcsetattr(terminal->fd, TCSADRAIN, &terminal->modes);
}
