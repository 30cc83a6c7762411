/* message.h - what the command line says on standard error, and the statuses it exits with. */
#ifndef BELAY_TOOLS_MESSAGE_H
#define BELAY_TOOLS_MESSAGE_H

#include <belay/belay.h>

#include "text.h"

/* The words are sysexits.h's where it has them. */
enum exit_status {
    EXIT_DONE = 0,
    EXIT_USAGE = 64,
    EXIT_UNAVAILABLE = 69, /* also: sent, and the outcome is not known */
    EXIT_INTERNAL = 70,
    EXIT_HELD = 75,
    EXIT_REFUSED = 77,
    EXIT_CONFIG = 78,
    EXIT_LOST = 79,
    EXIT_NOT_EXECUTABLE = 126,
    EXIT_NOT_FOUND = 127,
    EXIT_SIGNAL = 128 /* + the signal's number */
};

enum exit_status exit_status_of(belay_status status);

/* While a lock is held, nothing waits for who reads standard error (a full pipe, a terminal after
 * Ctrl-S): no extension, and not the end of a command. A line that would is left out and counted;
 * the number is said before the next line that goes, or when this is switched off. */
void message_never_wait(bool on);
/* To standard error, as it is: up to PIPE_BUF bytes. False: not all of it went. */
bool message_write(const char *at, size_t length);

/* "belay: NAME: what", one line, one write. `name` (a lock's; may be NULL) is escaped, the rest is
 * not. */
void say(const char *name, const char *format, ...) __attribute__((format(printf, 2, 3)));
void say_text(const char *name, const struct text *text);

/* Says what went wrong, with the node that said it; returns the status to exit with. */
int complain(const char *name, const belay_error *err);

/* Adds "NODE: TEXT", or the status in words where there is no text. */
void text_add_error(struct text *text, const belay_error *err);

/* Adds who holds it: "root@web1: backup.sh (pid 4242) for 3m05s". */
void text_add_holder(struct text *text, const belay_info *info);

#endif
