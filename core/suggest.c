/* suggest.c - words for messages. No allocation: a message about a failure must not fail. */
#include "core/suggest.h"

#include <stdint.h>
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

/* Appends one byte as it may be shown; false when it does not fit into `limit`. */
static int shown_byte(char *out, size_t *used, size_t limit, unsigned char byte)
{
    int plain = byte >= 0x20 && byte != 0x7f;
    size_t need = plain ? 1 : 4;

    if (*used + need > limit) return 0;
    if (plain)
        out[*used] = (char)byte;
    else
        snprintf(out + *used, 5, "\\x%02x", byte);
    *used += need;
    return 1;
}

const char *belay__quote(char out[BELAY__QUOTE], const char *text)
{
    size_t used = 0, limit = BELAY__QUOTE - 5; /* the closing quote, three dots, the end */

    out[used++] = '"';
    for (; *text != '\0'; text++) {
        if (!shown_byte(out, &used, limit, (unsigned char)*text)) break;
    }
    if (*text != '\0') {
        /* Not in the middle of a UTF-8 character. */
        if (((unsigned char)*text & 0xc0) == 0x80) {
            while (used > 1 && ((unsigned char)out[used - 1] & 0xc0) == 0x80) used--;
            if (used > 1 && (unsigned char)out[used - 1] >= 0xc0) used--;
        }
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
    for (; *path != '\0'; path++) {
        if (!shown_byte(out, &used, limit, (unsigned char)*path)) break;
    }
    out[used] = '\0';
    if (line != 0) snprintf(out + used, BELAY__AT - used, ":%u", line);
    return out;
}
