/* message.c - what the command line says on standard error, and the statuses it exits with. */
#include "message.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
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
    ssize_t wrote = write(STDERR_FILENO, line.data, line.length);
    (void)wrote; /* nowhere else to say so */
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
