/* status.c - statuses in words, and the caller's belay_error. */
#include "core/client.h"

#include <stdio.h>

const char *belay_status_text(belay_status status)
{
    switch (status) {
#define TEXT_CASE(name, value, text)                                                               \
    case BELAY_##name: return text;
        BELAY_STATUS_MAP(TEXT_CASE)
#undef TEXT_CASE
    }
    return "unknown status";
}

const char *belay_status_name(belay_status status)
{
    switch (status) {
#define NAME_CASE(name, value, text)                                                               \
    case BELAY_##name: return #name;
        BELAY_STATUS_MAP(NAME_CASE)
#undef NAME_CASE
    }
    return "UNKNOWN";
}

const char *belay_scope_name(belay_scope scope)
{
    switch (scope) {
    case BELAY_SCOPE_ANY: return "any";
    case BELAY_SCOPE_PROCESS: return "process";
    case BELAY_SCOPE_HOST: return "host";
    case BELAY_SCOPE_FLEET: return "fleet";
    }
    return "unknown";
}

const char *belay_event_name(belay_event_kind kind)
{
    switch (kind) {
    case BELAY_EVENT_LOCK_LOST: return "lock-lost";
    case BELAY_EVENT_LOCK_DEMOTED: return "lock-demoted";
    case BELAY_EVENT_LOCK_PROMOTED: return "lock-promoted";
    case BELAY_EVENT_DEGRADED: return "degraded";
    case BELAY_EVENT_RECOVERED: return "recovered";
    case BELAY_EVENT_FAILOVER: return "failover";
    case BELAY_EVENT_NODE_DOWN: return "node-down";
    case BELAY_EVENT_NODE_BACK: return "node-back";
    }
    return "unknown";
}

const char *belay_version(void)
{
    return BELAY_VERSION;
}

void belay__error_vset(belay_error *err, belay_status status, const char *node, const char *format,
                       va_list args)
{
    if (err == NULL) return;
    err->status = status;
    snprintf(err->node, sizeof err->node, "%s", node != NULL ? node : "");
    if (format != NULL) vsnprintf(err->text, sizeof err->text, format, args);
    else snprintf(err->text, sizeof err->text, "%s", belay_status_text(status));
}

belay_status belay_error_set(belay_error *err, belay_status status, const char *node,
                             const char *format, ...)
{
    va_list args;
    va_start(args, format);
    belay__error_vset(err, status, node, format, args);
    va_end(args);
    return status;
}

belay_status belay__error_copy(belay_error *to, const belay_error *from)
{
    if (to == NULL) return from->status;
    to->status = from->status;
    memcpy(to->node, from->node, strlen(from->node) + 1);
    memcpy(to->text, from->text, strlen(from->text) + 1);
    return from->status;
}
