/* suggest.c - words for messages. No allocation: a message about a failure must not fail. */
#include "core/suggest.h"

#include <stdio.h>
#include <string.h>

#define WORD_MAX 40u /* longer words are not compared */

static size_t smaller(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* Insertions, deletions, substitutions, and swaps of neighbours ("optimal string alignment"). */
static size_t edit_distance(const char *a, size_t a_length, const char *b, size_t b_length)
{
    size_t rows[3][WORD_MAX + 1];
    size_t *before = rows[0], *last = rows[1], *row = rows[2];

    memset(rows, 0, sizeof(rows));
    for (size_t j = 0; j <= b_length; j++) last[j] = j;
    for (size_t i = 1; i <= a_length; i++) {
        row[0] = i;
        for (size_t j = 1; j <= b_length; j++) {
            size_t cost = a[i - 1] == b[j - 1] ? 0 : 1;
            row[j] = smaller(smaller(last[j] + 1, row[j - 1] + 1), last[j - 1] + cost);
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
                row[j] = smaller(row[j], before[j - 2] + 1);
        }
        size_t *spare = before;
        before = last;
        last = row;
        row = spare;
    }
    return last[b_length];
}

void belay__nearest_offer(struct belay__nearest *nearest, const char *candidate)
{
    size_t a = strlen(nearest->wanted), b = strlen(candidate), distance;

    if (a == 0 || b == 0 || a > WORD_MAX || b > WORD_MAX) return;
    distance = edit_distance(nearest->wanted, a, candidate, b);
    if (distance > (a <= 3 ? 1 : a <= 7 ? 2 : 3) || distance >= b || distance >= a) return;
    if (nearest->word != NULL && nearest->distance <= distance) return;
    nearest->word = candidate;
    nearest->distance = distance;
}

const char *belay__nearest_hint(const struct belay__nearest *nearest, char out[BELAY__HINT])
{
    out[0] = '\0';
    if (nearest->word != NULL)
        snprintf(out, BELAY__HINT, "; did you mean \"%.*s\"?", (int)WORD_MAX, nearest->word);
    return out;
}

/* The bytes of the UTF-8 character at `text` if it may be shown as it is; 0: a control character,
 * or no UTF-8. */
static size_t character_length(const char *text)
{
    const unsigned char *c = (const unsigned char *)text;
    size_t length = c[0] < 0x80   ? 1
                    : c[0] < 0xc2 ? 0
                    : c[0] < 0xe0 ? 2
                    : c[0] < 0xf0 ? 3
                    : c[0] < 0xf5 ? 4
                                  : 0;

    if (length == 1) return c[0] >= 0x20 && c[0] != 0x7f ? 1 : 0;
    for (size_t i = 1; i < length; i++) {
        if ((c[i] & 0xc0) != 0x80) return 0;
    }
    if (c[0] == 0xc2 && c[1] < 0xa0) return 0; /* U+0080 to U+009F are control characters */
    return length;
}

/* Appends what of `text` fits below `limit`, whole characters only. Returns what did not fit. */
static const char *shown_add(char *out, size_t *used, size_t limit, const char *text)
{
    while (*text != '\0') {
        size_t length = character_length(text), need = length != 0 ? length : 4;
        if (*used + need > limit) break;
        if (length != 0) memcpy(out + *used, text, length);
        else snprintf(out + *used, 5, "\\x%02x", (unsigned char)*text);
        *used += need;
        text += length != 0 ? length : 1;
    }
    return text;
}

const char *belay__quote(char out[BELAY__QUOTE], const char *text)
{
    size_t used = 0;

    out[used++] = '"';
    text =
        shown_add(out, &used, BELAY__QUOTE - 5, text); /* three dots, the closing quote, the end */
    if (*text != '\0') {
        memcpy(out + used, "...", 3);
        used += 3;
    }
    out[used++] = '"';
    out[used] = '\0';
    return out;
}

const char *belay__at(char out[BELAY__AT], const char *path, unsigned line)
{
    size_t used = 0, limit = BELAY__AT - 12, length = strlen(path); /* ":4294967295" and the end */

    if (length > limit) {
        path += length - (limit - 3);
        while (((unsigned char)*path & 0xc0) == 0x80) path++;
        memcpy(out, "...", 3);
        used = 3;
    }
    shown_add(out, &used, limit, path);
    out[used] = '\0';
    if (line != 0) snprintf(out + used, BELAY__AT - used, ":%u", line);
    return out;
}
