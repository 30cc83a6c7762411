/* text.h - a line of text in the making: bounded, and safe to show on a terminal. */
#ifndef BELAY_TOOLS_TEXT_H
#define BELAY_TOOLS_TEXT_H

#include <stddef.h>
#include <stdint.h>

/* What does not fit any more is left out. `data` always ends in NUL. */
struct text {
    size_t length;
    char data[4088];
};

void text_init(struct text *text);
void text_add(struct text *text, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Adds what others wrote (names, labels, a server's words): control characters and bytes that are
 * not UTF-8 appear as \n, \t, \xNN; a backslash as two. */
void text_add_shown(struct text *text, const char *raw);

/* Adds a span of time, short: "850ms", "12s", "3m05s", "2h10m", "5d03h". */
void text_add_span(struct text *text, int64_t ms);

/* Cuts to `columns` characters (not bytes), with "..." where something was cut off. */
void text_cut(struct text *text, size_t columns);

/* How many bytes the UTF-8 character at `s` has: 1 to 4; 0 when it is not one. */
size_t text_utf8_length(const char *s);

#endif
