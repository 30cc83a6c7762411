/* health.h - how well a client is, as `status` and `watch` show it. */
#ifndef BELAY_TOOLS_HEALTH_H
#define BELAY_TOOLS_HEALTH_H

#include <belay/belay.h>

#include "json.h"
#include "text.h"

/* Adds "degraded for 12s: redis 127.0.0.1:6379: connection refused; locks reach this host alone;
 * the next probe is in 3s". */
void text_add_degraded(struct text *text, const belay_health *health);

/* Adds "process 4242 of this host has been degraded for 12s: WHY"; whether it is so, the caller has
 * looked. */
void text_add_other(struct text *text, const belay_health *health);

/* The members that say it, all of them always; NULL: it is not known. */
void json_health(struct json *json, const belay_health *health);

/* A member's value, or null where that is less than `from`. */
void json_number_from(struct json *json, const char *key, int64_t value, int64_t from);
/* The same for a text that is "". */
void json_text_or_null(struct json *json, const char *key, const char *value);
/* "host"; null for ANY, which is none. */
void json_scope(struct json *json, const char *key, belay_scope scope);

#endif
