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

/* ------------------------------------------------------------------ standard error */

static bool never_wait;
static int own_fd = -1; /* standard error, opened again: O_NONBLOCK on the one that we share with
                           the command would be the command's as well */

void message_never_wait(bool on)
{
    struct stat st;
    never_wait = on;
    if (own_fd >= 0) close(own_fd);
    own_fd = -1;
    /* A file opened again would be written from its beginning; and it makes nobody wait. */
    if (on && fstat(STDERR_FILENO, &st) == 0 && (S_ISFIFO(st.st_mode) || S_ISCHR(st.st_mode)))
        own_fd = open("/proc/self/fd/2", O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
}

void message_write(const char *at, size_t length)
{
    struct pollfd out = { STDERR_FILENO, POLLOUT, 0 };
    ssize_t wrote = 0;
    if (own_fd >= 0) {
        wrote = write(own_fd, at, length);
    } else if (!never_wait) {
        wrote = write(STDERR_FILENO, at, length);
    } else if (send(STDERR_FILENO, at, length, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 &&
               errno == ENOTSOCK && poll(&out, 1, 0) == 1 && (out.revents & POLLOUT) != 0) {
        wrote = write(STDERR_FILENO, at, length);
    }
    (void)wrote; /* nowhere else to say so */
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
    message_write(line.data, line.length);
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
