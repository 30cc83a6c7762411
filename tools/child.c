/* child.c - the command. It is forked before anything is opened: it inherits no descriptor of ours,
 * no connection and no thread's state, and its process id can be stored with the lock. It waits at
 * a pipe, the gate: a message through it says go; its end says that there is nothing to do. */
#include "child.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "message.h"

static void child_environment(const char *lock, const struct grant_news *news)
{
    char token[24];
    snprintf(token, sizeof(token), "%" PRIu64, news->token);
    if (setenv("BELAY_LOCK", lock, 1) != 0 || setenv("BELAY_TOKEN", token, 1) != 0 ||
        setenv("BELAY_SCOPE", belay_scope_name((belay_scope)news->scope), 1) != 0 ||
        setenv("BELAY_DEGRADED", news->degraded ? "1" : "0", 1) != 0) {
        say(lock, "no memory for the environment");
        _exit(EXIT_INTERNAL);
    }
}

static _Noreturn void child_main(pid_t parent, const int gate[2], const char *lock, char **command)
{
    struct grant_news news;

    setpgid(0, 0);
    close(gate[1]);
    /* It goes to us when the thread that forked us dies, and survives the exec. */
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0 || getppid() != parent) _exit(EXIT_INTERNAL);

    ssize_t got;
    do got = read(gate[0], &news, sizeof(news));
    while (got < 0 && errno == EINTR);
    if (got != (ssize_t)sizeof(news)) _exit(EXIT_INTERNAL);

    child_environment(lock, &news);
    execvp(command[0], command);

    int why = errno;
    struct text text;
    text_init(&text);
    text_add_shown(&text, command[0]);
    text_add(&text, ": %s", strerror(why));
    say_text(NULL, &text);
    _exit(why == ENOENT ? EXIT_NOT_FOUND : EXIT_NOT_EXECUTABLE);
}

bool child_fork(struct child *child, const char *lock, char **command)
{
    int gate[2];
    pid_t self = getpid();

    *child = (struct child){ .gate = -1 };
    if (pipe2(gate, O_CLOEXEC) != 0) return false;
    child->pid = fork();
    if (child->pid == 0) child_main(self, gate, lock, command);

    int why = errno;
    close(gate[0]);
    if (child->pid < 0) {
        close(gate[1]);
        child->pid = 0;
        errno = why;
        return false;
    }
    child->gate = gate[1];
    setpgid(child->pid, child->pid); /* both sides: whoever comes first */
    return true;
}

bool child_go(struct child *child, const struct grant_news *news)
{
    ssize_t wrote = write(child->gate, news, sizeof(*news));
    close(child->gate);
    child->gate = -1;
    return wrote == (ssize_t)sizeof(*news);
}

void child_discard(struct child *child)
{
    if (child->gate >= 0) close(child->gate);
    child->gate = -1;
    if (child->pid <= 0 || child->ended) return;
    kill(child->pid, SIGKILL); /* it may be stopped */
    while (waitpid(child->pid, &child->status, 0) < 0 && errno == EINTR) {}
    child->ended = true;
}

bool child_look(struct child *child)
{
    bool stopped = false;
    int status;
    for (;;) {
        pid_t got = waitpid(child->pid, &status, WNOHANG | WUNTRACED | WCONTINUED);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) { /* somebody else reaped it: its status is not known */
            child->ended = true;
            child->status = EXIT_INTERNAL << 8;
        }
        if (got <= 0) return stopped;
        if (WIFSTOPPED(status)) {
            stopped = true;
            child->stop = WSTOPSIG(status);
        } else if (WIFCONTINUED(status)) {
            child->stop = 0;
        } else {
            child->status = status;
            child->ended = true;
            return false;
        }
    }
}

/* While it is not reaped its id can't be another's. */
bool child_signal(struct child *child, int signal)
{
    if (child->ended || kill(-child->pid, signal) == 0) return true;
    return errno == ESRCH && kill(child->pid, signal) == 0; /* it went to a group of its own */
}

/* Signal 0 asks and does nothing, should the group be gone and its id another's. */
bool child_left_foreign(const struct child *child)
{
    return kill(-child->pid, 0) != 0 && errno == EPERM;
}

void child_continue(struct child *child)
{
    (void)child_signal(child, SIGCONT);
    child->stop = 0;
}

int child_exit_status(const struct child *child)
{
    if (WIFSIGNALED(child->status)) return EXIT_SIGNAL + WTERMSIG(child->status);
    return WEXITSTATUS(child->status);
}
