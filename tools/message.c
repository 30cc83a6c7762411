/* message.c - what the command line says on standard error, and the statuses it exits with. */
#include "message.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

enum exit_status exit_status_of(belay_status status)
{
    switch (status) {
    case BELAY_OK: return EXIT_DONE;
    case BELAY_HELD: return EXIT_HELD;
    case BELAY_LOST: return EXIT_LOST;
    case BELAY_UNAVAILABLE:
    case BELAY_UNCERTAIN: return EXIT_UNAVAILABLE;
    case BELAY_REFUSED:
    case BELAY_UNSUPPORTED: return EXIT_REFUSED;
    case BELAY_INVALID: return EXIT_USAGE;
    case BELAY_CONFIG: return EXIT_CONFIG;
    case BELAY_CANCELED:
    case BELAY_FORKED:
    case BELAY_CLOSED:
    case BELAY_NOMEM: return EXIT_INTERNAL;
    }
    return EXIT_INTERNAL;
}

/* ------------------------------------------------------------------ standard error
 *
 * O_NONBLOCK on the standard error we were given would be the command's and the shell's as well.
 * So a pipe or a terminal is opened anew, when the first line comes that must not wait. poll alone
 * does not do: the command fills the same pipe, between the poll and the write. */

enum { END_PATIENCE_MS = 1000 };

static struct {
    bool never_wait;
    bool tried;             /* to open it anew; */
    int fd;                 /* -1: that can't be done */
    unsigned long left_out; /* lines, since the last one that went */
} out = { .fd = -1 };

static bool poll_says(int timeout_ms)
{
    struct pollfd fd = { STDERR_FILENO, POLLOUT, 0 };
    return poll(&fd, 1, timeout_ms) == 1 && (fd.revents & POLLOUT) != 0;
}

static void open_anew(void)
{
    struct stat st;
    out.tried = true;
    /* A file opened again would be written from its beginning; and it makes nobody wait. */
    if (fstat(STDERR_FILENO, &st) == 0 && (S_ISFIFO(st.st_mode) || S_ISCHR(st.st_mode)))
        out.fd = open("/proc/self/fd/2", O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
}

bool message_write(const char *at, size_t length)
{
    ssize_t wrote;
    if (out.never_wait && !out.tried) open_anew();
    if (!out.never_wait) {
        wrote = write(STDERR_FILENO, at, length);
    } else if (out.fd >= 0) {
        wrote = write(out.fd, at, length);
    } else {
        /* Another user's terminal, say, or a socket. A line is no longer than PIPE_BUF. */
        wrote = send(STDERR_FILENO, at, length, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (wrote < 0 && errno == ENOTSOCK && poll_says(0))
            wrote = write(STDERR_FILENO, at, length);
    }
    return wrote == (ssize_t)length;
}

static bool say_left_out(void)
{
    struct text line;
    if (out.left_out == 0) return true;
    text_init(&line);
    text_add(&line, "belay: %lu %s left out: nobody was reading standard error\n", out.left_out,
             out.left_out == 1 ? "line was" : "lines were");
    if (!message_write(line.data, line.length)) return false;
    out.left_out = 0;
    return true;
}

void message_never_wait(bool on)
{
    if (!on && out.left_out > 0 && poll_says(END_PATIENCE_MS)) (void)say_left_out();
    if (!on && out.fd >= 0) close(out.fd);
    if (!on) out.fd = -1;
    out.tried = false;
    out.left_out = 0;
    out.never_wait = on;
}

void say_text(const char *name, const struct text *text)
{
    struct text line;
    text_init(&line);
    text_add(&line, "belay: ");
    if (name != NULL) {
        text_add_shown(&line, *name != '\0' ? name : "\"\"");
        text_add(&line, ": ");
    }
    text_add(&line, "%s", text->data);
    /* A line that was cut still ends. */
    if (line.length == sizeof(line.data) - 1) line.length--;
    line.data[line.length++] = '\n';
    if (!say_left_out() || !message_write(line.data, line.length)) out.left_out++;
}

void say(const char *name, const char *format, ...)
{
    struct text text;
    va_list args;
    va_start(args, format);
    int wrote = vsnprintf(text.data, sizeof(text.data), format, args);
    va_end(args);
    text.length = wrote < 0 ? 0 : (size_t)wrote;
    if (text.length >= sizeof(text.data)) text.length = sizeof(text.data) - 1;
    text.data[text.length] = '\0';
    say_text(name, &text);
}

void text_add_error(struct text *text, const belay_error *err)
{
    if (err->node[0] != '\0') {
        text_add_shown(text, err->node);
        text_add(text, ": ");
    }
    text_add_shown(text, err->text[0] != '\0' ? err->text : belay_status_text(err->status));
}

int complain(const char *name, const belay_error *err)
{
    struct text text;
    text_init(&text);
    text_add_error(&text, err);
    say_text(name, &text);
    return exit_status_of(err->status);
}

void text_add_holder(struct text *text, const belay_info *info)
{
    text_add_shown(text, info->label[0] != '\0' ? info->label : "another");
    if (info->pid > 0) text_add(text, " (pid %" PRId64 ")", info->pid);
    if (info->held_ms >= 0) {
        text_add(text, " for ");
        text_add_span(text, info->held_ms);
    }
}
