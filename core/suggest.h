/* suggest.h - words for messages: the nearest of several, and text made fit to be shown. */
#ifndef BELAY_CORE_SUGGEST_H
#define BELAY_CORE_SUGGEST_H

#include <stddef.h>

#define BELAY__QUOTE 72 /* bytes of a quoted text in a message, its end included */
#define BELAY__AT 144   /* bytes of a place in a message: "FILE:LINE" or a URL */
#define BELAY__HINT 112 /* bytes of "; did you mean \"...\"?" */

/* The nearest, by edit distance, of the words offered. Start from { .wanted = word }. */
struct belay__nearest {
    const char *wanted;
    const char *word; /* NULL: nothing is near enough to be meant */
    size_t distance;
};
void belay__nearest_offer(struct belay__nearest *nearest, const char *candidate);

/* "; did you mean \"path\"?", or "". Returns `out`. */
const char *belay__nearest_hint(const struct belay__nearest *nearest, char out[BELAY__HINT]);

/* `text` in quotes, control characters as \xHH, cut with "..." where it is long. Returns `out`. */
const char *belay__quote(char out[BELAY__QUOTE], const char *text);

/* "PATH:LINE", or "PATH" where line is 0. Of a long path the end is shown. Returns `out`. */
const char *belay__at(char out[BELAY__AT], const char *path, unsigned line);

#endif
