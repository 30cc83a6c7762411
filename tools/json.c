/* json.c - JSON on standard output: objects and arrays of plain values (RFC 8259). */
#include "json.h"

#include <inttypes.h>

#include "text.h"

void json_init(struct json *json, FILE *out)
{
    json->out = out;
    json->comma = false;
}

static void json_string(FILE *out, const char *s)
{
    putc('"', out);
    while (*s != '\0') {
        unsigned char c = (unsigned char)*s;
        size_t length = text_utf8_length(s);
        if (length == 0) {
            fprintf(out, "\\udc%02x", (unsigned)c);
            s++;
        } else if (c == '"' || c == '\\') {
            putc('\\', out);
            putc(*s++, out);
        } else if (c < 0x20 || c == 0x7F) {
            fprintf(out, "\\u%04x", (unsigned)c);
            s++;
        } else {
            fwrite(s, 1, length, out);
            s += length;
        }
    }
    putc('"', out);
}

static void json_key(struct json *json, const char *key)
{
    if (json->comma) fputs(", ", json->out);
    json->comma = true;
    if (key == NULL) return;
    json_string(json->out, key);
    fputs(": ", json->out);
}

void json_open(struct json *json, const char *key, char bracket)
{
    json_key(json, key);
    putc(bracket, json->out);
    json->comma = false;
}

void json_close(struct json *json, char bracket)
{
    putc(bracket, json->out);
    json->comma = true;
}

void json_text(struct json *json, const char *key, const char *value)
{
    json_key(json, key);
    json_string(json->out, value);
}

void json_number(struct json *json, const char *key, int64_t value)
{
    json_key(json, key);
    fprintf(json->out, "%" PRId64, value);
}

void json_unsigned(struct json *json, const char *key, uint64_t value)
{
    json_key(json, key);
    fprintf(json->out, "%" PRIu64, value);
}

void json_bool(struct json *json, const char *key, bool value)
{
    json_key(json, key);
    fputs(value ? "true" : "false", json->out);
}

void json_null(struct json *json, const char *key)
{
    json_key(json, key);
    fputs("null", json->out);
}
