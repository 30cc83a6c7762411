/* value.h - values from text: durations, modes, numbers. Pure functions, independent of the locale.
 */
#ifndef BELAY_CORE_VALUE_H
#define BELAY_CORE_VALUE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Each returns NULL and fills *out, or says what is wrong in words that follow "KEY: \"VALUE\" ".
 */

/* A whole number and a unit, nothing between or around them: ms, s, m, h, d. In milliseconds. */
const char *belay__duration_parse(const char *text, int64_t *out_ms);

/* Three or four octal digits. */
const char *belay__mode_parse(const char *text, int64_t *out);

/* A decimal number; a leading zero is refused: libconfig's versions disagree on what it means. */
const char *belay__integer_parse(const char *text, int64_t *out);

/* A finite number with a point or an exponent, or a whole one; the point is always '.'. */
const char *belay__real_parse(const char *text, double *out);

const char *belay__boolean_parse(const char *text, bool *out);

/* The shortest way to write it: "10s", "1500ms", "7d". Returns `out`. */
#define BELAY__DURATION 32
const char *belay__duration_show(char out[BELAY__DURATION], int64_t ms);

/* A number as it is written in a file: the point is always '.'. Returns `out`. */
const char *belay__real_show(char out[BELAY__DURATION], double real);

#endif
