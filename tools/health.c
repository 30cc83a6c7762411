/* health.c - how well a client is, in words and in JSON: what a fallback knows of its primary, and
 * what other processes of this host say of theirs. */
#include "health.h"

#include <inttypes.h>

enum { JUST_NOW_MS = 1000 };

void text_add_degraded(struct text *text, const belay_health *health)
{
    text_add(text, "degraded");
    if (health->since_ms >= JUST_NOW_MS) { /* otherwise this very look has found it out */
        text_add(text, " for ");
        text_add_span(text, health->since_ms);
    }
    text_add(text, ": ");
    text_add_shown(text, health->why);
    if (health->scope == BELAY_SCOPE_ANY) text_add(text, "; there are no locks until it is back");
    else text_add(text, "; locks reach this %s alone", belay_scope_name(health->scope));
    if (health->next_probe_ms < 0) return;
    text_add(text, "; the next probe is in ");
    text_add_span(text, health->next_probe_ms);
}

void text_add_other(struct text *text, const belay_health *health)
{
    if (health->other_pid > 0) text_add(text, "process %" PRId64 " of", health->other_pid);
    else text_add(text, "another process of");
    text_add(text, " this host has been degraded");
    if (health->other_since_ms >= 0) {
        text_add(text, " for ");
        text_add_span(text, health->other_since_ms);
    }
    if (health->other_why[0] == '\0') return;
    text_add(text, ": ");
    text_add_shown(text, health->other_why);
}

void json_number_from(struct json *json, const char *key, int64_t value, int64_t from)
{
    if (value >= from) json_number(json, key, value);
    else json_null(json, key);
}

void json_text_or_null(struct json *json, const char *key, const char *value)
{
    if (value[0] != '\0') json_text(json, key, value);
    else json_null(json, key);
}

void json_scope(struct json *json, const char *key, belay_scope scope)
{
    json_text_or_null(json, key, scope != BELAY_SCOPE_ANY ? belay_scope_name(scope) : "");
}

void json_health(struct json *json, const belay_health *health)
{
    static const belay_health unknown = { .next_probe_ms = -1 };
    bool known = health != NULL;

    if (!known) health = &unknown;
    json_scope(json, "scope", health->scope);
    if (known) json_bool(json, "degraded", health->degraded);
    else json_null(json, "degraded");
    json_text_or_null(json, "backend", health->backend);
    json_number_from(json, "since_ms", health->degraded ? health->since_ms : -1, 0);
    json_text_or_null(json, "why", health->why);
    json_number_from(json, "next_probe_ms", health->next_probe_ms, 0);
    if (!health->other) {
        json_null(json, "other");
        return;
    }
    json_open(json, "other", '{');
    json_number_from(json, "pid", health->other_pid, 1);
    json_number_from(json, "since_ms", health->other_since_ms, 0);
    json_text_or_null(json, "why", health->other_why);
    json_close(json, '}');
}
