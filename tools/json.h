/* json.h - JSON on standard output: objects and arrays of plain values. */
#ifndef BELAY_TOOLS_JSON_H
#define BELAY_TOOLS_JSON_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

struct json {
    FILE *out;
    bool comma; /* something stands before the next value */
};

void json_init(struct json *json, FILE *out);
/* `key` is NULL inside an array and at the top. */
void json_open(struct json *json, const char *key, char bracket);
void json_close(struct json *json, char bracket);
/* Bytes that are not UTF-8 become lone surrogates, U+DC80 to U+DCFF, as Python's surrogateescape
 * has it: nothing of a lock's name is lost. */
void json_text(struct json *json, const char *key, const char *value);
void json_number(struct json *json, const char *key, int64_t value);
void json_unsigned(struct json *json, const char *key, uint64_t value);
void json_bool(struct json *json, const char *key, bool value);
void json_null(struct json *json, const char *key);

#endif
