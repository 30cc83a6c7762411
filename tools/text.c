/* text.c - a line of text in the making: bounded, and safe to show on a terminal. */
#include "text.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

void text_init(struct text *text)
{
    text->length = 0;
    text->data[0] = '\0';
}

void text_add(struct text *text, const char *format, ...)
{
    size_t room = sizeof(text->data) - text->length;
    va_list args;
    va_start(args, format);
    int wrote = vsnprintf(text->data + text->length, room, format, args);
    va_end(args);
    if (wrote > 0) text->length += (size_t)wrote < room ? (size_t)wrote : room - 1;
}

static void text_add_bytes(struct text *text, const char *bytes, size_t count)
{
    if (count >= sizeof(text->data) - text->length) return;
    memcpy(text->data + text->length, bytes, count);
    text->length += count;
    text->data[text->length] = '\0';
}

/* RFC 3629's table: no overlong forms, no surrogates, nothing above U+10FFFF. */
size_t text_utf8_length(const char *s)
{
    const unsigned char *u = (const unsigned char *)s;
    unsigned char low = 0x80, high = 0xBF;
    size_t length;

    if (u[0] < 0x80) return 1;
    if (u[0] >= 0xC2 && u[0] <= 0xDF) {
        length = 2;
    } else if (u[0] >= 0xE0 && u[0] <= 0xEF) {
        length = 3;
        if (u[0] == 0xE0) low = 0xA0;
        if (u[0] == 0xED) high = 0x9F;
    } else if (u[0] >= 0xF0 && u[0] <= 0xF4) {
        length = 4;
        if (u[0] == 0xF0) low = 0x90;
        if (u[0] == 0xF4) high = 0x8F;
    } else {
        return 0;
    }
    if (u[1] < low || u[1] > high) return 0;
    for (size_t i = 2; i < length; i++)
        if (u[i] < 0x80 || u[i] > 0xBF) return 0;
    return length;
}

/* Would it do something to a terminal, or hide what stands there? C0, DEL, C1, and the characters
 * that turn the direction of writing around. */
static int is_control(const char *s, size_t length)
{
    const unsigned char *u = (const unsigned char *)s;
    if (length == 1) return u[0] < 0x20 || u[0] == 0x7F;
    if (length == 2) return u[0] == 0xC2 && u[1] < 0xA0;
    if (length == 3 && u[0] == 0xE2)
        return (u[1] == 0x80 && (u[2] >= 0xA8 && u[2] <= 0xAE)) ||
               (u[1] == 0x81 && (u[2] >= 0xA6 && u[2] <= 0xA9));
    return 0;
}

void text_add_shown(struct text *text, const char *raw)
{
    for (const char *s = raw; *s != '\0';) {
        size_t length = text_utf8_length(s);
        if (length != 0 && !is_control(s, length)) {
            if (*s == '\\') text_add_bytes(text, "\\", 1);
            text_add_bytes(text, s, length);
            s += length;
            continue;
        }
        for (size_t i = 0; i < (length ? length : 1); i++, s++) {
            if (*s == '\n') text_add_bytes(text, "\\n", 2);
            else if (*s == '\t') text_add_bytes(text, "\\t", 2);
            else text_add(text, "\\x%02x", (unsigned)(unsigned char)*s);
        }
    }
}

void text_add_span(struct text *text, int64_t ms)
{
    int64_t s = ms / 1000;
    if (ms < 1000) text_add(text, "%" PRId64 "ms", ms < 0 ? 0 : ms);
    else if (s < 60) text_add(text, "%" PRId64 "s", s);
    else if (s < 3600) text_add(text, "%" PRId64 "m%02" PRId64 "s", s / 60, s % 60);
    else if (s < 86400) text_add(text, "%" PRId64 "h%02" PRId64 "m", s / 3600, s / 60 % 60);
    else text_add(text, "%" PRId64 "d%02" PRId64 "h", s / 86400, s / 3600 % 24);
}

void text_cut(struct text *text, size_t columns)
{
    size_t seen = 0, keep = 0;
    const char *s = text->data;
    if (columns < 4) return;
    while (*s != '\0') {
        size_t length = text_utf8_length(s);
        s += length ? length : 1;
        seen++;
        if (seen == columns - 3) keep = (size_t)(s - text->data);
    }
    if (seen <= columns) return;
    memcpy(text->data + keep, "...", 4);
    text->length = keep + 3;
}
