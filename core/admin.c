/* admin.c - looking at locks from outside: inspect, list, break, diagnose; and adopting a grant by
 * its owner id. */
#include "core/client.h"

#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>

struct entry { /* of a list or a diagnosis: copied until the caller's own thread may see it */
    belay_link link;
    belay_info info;
    belay_severity severity;
    char check[48];
    char text[384];
    char meaning[256];
    char advice[256];
    char backend[128];
    const char *type;
};

static belay_status entry_new(belay_op *op, struct entry **out)
{
    struct entry *entry = belay__alloc(op->backend->env->loop->world, sizeof *entry);
    if (entry == NULL) return BELAY_NOMEM;
    belay_link_append(op->sink, &entry->link);
    *out = entry;
    return BELAY_OK;
}

belay_status belay_op_emit(belay_op *op, const belay_info *info)
{
    struct entry *entry;
    if (op->sieve != NULL && !op->sieve(op, info)) return BELAY_OK;
    belay_status status = entry_new(op, &entry);
    if (status == BELAY_OK) entry->info = *info;
    return status;
}

belay_status belay_op_find(belay_op *op, belay_severity severity, const char *check,
                           const char *meaning, const char *advice, const char *format, ...)
{
    struct entry *entry;
    belay_status status = entry_new(op, &entry);
    if (status != BELAY_OK) return status;
    entry->severity = severity;
    entry->type = op->backend->ops->type;
    snprintf(entry->backend, sizeof entry->backend, "%s", op->backend->env->name);
    snprintf(entry->check, sizeof entry->check, "%s", check);
    snprintf(entry->meaning, sizeof entry->meaning, "%s", meaning != NULL ? meaning : "");
    snprintf(entry->advice, sizeof entry->advice, "%s", advice != NULL ? advice : "");
    va_list args;
    va_start(args, format);
    vsnprintf(entry->text, sizeof entry->text, format, args);
    va_end(args);
    return BELAY_OK;
}

static void entries_free(belay_link *entries)
{
    while (!belay_links_empty(entries)) {
        struct entry *entry = belay_container_of(entries->next, struct entry, link);
        belay_unlink(&entry->link);
        belay__free(entry);
    }
}

static void settled(belay_op *op, belay_status status)
{
    belay_request *request = belay_container_of(op, belay_request, op);
    belay__request_finish(request, request->end_with != BELAY_OK ? request->end_with : status);
}

/* Checks, builds prefix + name in `key`, enters. On OK the monitor is held. */
static belay_status begin(belay *client, const char *name, char key[], size_t size,
                          belay_request *request, belay_verb verb, belay_error *err)
{
    belay_status status = belay__client_check(client, err);
    if (status != BELAY_OK) return status;
    size_t length = name != NULL ? strnlen(name, BELAY_NAME_MAX + 1) : 0;
    if (name != NULL && (length == 0 || length > BELAY_NAME_MAX))
        return belay_error_set(err, BELAY_INVALID, NULL, "a lock's name has 1 to %d bytes",
                               BELAY_NAME_MAX);
    belay__loop_enter(&client->loop);
    if (client->closing) {
        belay__loop_leave(&client->loop);
        return belay_error_set(err, BELAY_CLOSED, NULL, "the client is closed");
    }
    belay__request_init(request, client);
    belay_op *op = &request->op;
    op->verb = verb;
    op->done = settled;
    op->owner = "";
    if (name != NULL) {
        int n = snprintf(key, size, "%s%s", client->config->prefix, name);
        op->key = (belay_str){ key, (size_t)n };
        op->name = (belay_str){ key + client->prefix_length, length };
    } else {
        op->key = op->name = (belay_str){ "", 0 };
    }
    return BELAY_OK;
}

enum { KEY_ROOM = BELAY_NAME_MAX + 1024 }; /* a prefix has up to 512 bytes: core/config.c */

static void info_start(belay_info *info, const char *name)
{
    memset(info, 0, sizeof *info);
    info->size = sizeof *info;
    info->remaining_ms = info->held_ms = -1;
    snprintf(info->name, sizeof info->name, "%s", name);
}

belay_status belay_inspect(belay *client, const char *name, belay_info *out, belay_error *err)
{
    if (out == NULL || name == NULL)
        return belay_error_set(err, BELAY_INVALID, NULL, "%s is NULL",
                               out == NULL ? "out" : "name");
    char key[KEY_ROOM];
    belay_request request;
    belay_status status = begin(client, name, key, sizeof key, &request, BELAY_VERB_INSPECT, err);
    if (status != BELAY_OK) return status;
    uint32_t size = out->size;
    info_start(out, name);
    if (size != 0) out->size = size;
    request.op.info = out;
    belay__request_begin_op(&request, belay__loop_now(&client->loop));
    return belay__request_wait(&request, err);
}

/* By name; of two with the same name the farther reaching first. */
static int entry_order(const void *a, const void *b)
{
    const struct entry *left = *(struct entry *const *)a, *right = *(struct entry *const *)b;
    int names = strcmp(left->info.name, right->info.name);
    return names != 0 ? names : (int)right->info.scope - (int)left->info.scope;
}

/* A composite lists what each of its places knows of a lock: what the nearer one adds, its process
 * and its label, joins the farther one's. */
static void entry_join(belay_info *to, const belay_info *from)
{
    if (strcmp(to->owner, from->owner) == 0) {
        if (to->token == 0) to->token = from->token;
        if (to->held_ms < 0) to->held_ms = from->held_ms;
        if (to->pid == 0) to->pid = from->pid;
        if (to->label[0] == '\0') memcpy(to->label, from->label, sizeof to->label);
    }
    if (to->waiters < from->waiters) to->waiters = from->waiters;
}

/* Shows each lock once, in the order of their names. */
static belay_status entries_show(belay *client, const belay_link *entries, const char *glob,
                                 belay_list_fn *each, void *arg)
{
    size_t count = 0, n = 0;
    for (const belay_link *link = entries->next; link != entries; link = link->next) count++;
    if (count == 0) return BELAY_OK;
    struct entry **sorted = belay__alloc(client->loop.world, count * sizeof(struct entry *));
    if (sorted == NULL) return BELAY_NOMEM;
    for (const belay_link *link = entries->next; link != entries; link = link->next)
        sorted[n++] = belay_container_of(link, struct entry, link);
    qsort(sorted, count, sizeof(struct entry *), entry_order);
    for (size_t i = 0; i < count; i = n) {
        belay_info *info = &sorted[i]->info;
        for (n = i + 1; n < count && strcmp(sorted[n]->info.name, info->name) == 0; n++)
            entry_join(info, &sorted[n]->info);
        if (glob != NULL && fnmatch(glob, info->name, 0) != 0) continue;
        if (!each(arg, info)) break;
    }
    belay__free(sorted);
    return BELAY_OK;
}

belay_status belay_list(belay *client, const char *glob, belay_list_fn *each, void *arg,
                        belay_error *err)
{
    if (each == NULL) return belay_error_set(err, BELAY_INVALID, NULL, "each is NULL");
    belay_request request;
    belay_link entries;
    belay_links_init(&entries);
    belay_status status = begin(client, NULL, NULL, 0, &request, BELAY_VERB_LIST, err);
    if (status != BELAY_OK) return status;
    request.op.sink = &entries;
    belay__request_begin_op(&request, belay__loop_now(&client->loop));
    status = belay__request_wait(&request, err);
    if (status == BELAY_OK) {
        status = entries_show(client, &entries, glob, each, arg);
        if (status != BELAY_OK) belay_error_set(err, status, NULL, NULL);
    }
    entries_free(&entries);
    return status;
}

belay_status belay_break(belay *client, const char *name, const belay_info *seen, belay_error *err)
{
    if (name == NULL || seen == NULL)
        return belay_error_set(err, BELAY_INVALID, NULL, "%s is NULL",
                               name == NULL ? "name" : "seen");
    if (!seen->held) return belay_error_set(err, BELAY_INVALID, NULL, "`seen` shows no holder");
    if (seen->owner[0] == '\0')
        return belay_error_set(err, BELAY_INVALID, NULL,
                               "what holds it shows no owner id: its format is not belay's");
    char key[KEY_ROOM];
    belay_request request;
    belay_status status = begin(client, name, key, sizeof key, &request, BELAY_VERB_BREAK, err);
    if (status != BELAY_OK) return status;
    request.op.owner = seen->owner;
    belay__request_begin_op(&request, belay__loop_now(&client->loop));
    belay__loop_unwind(&client->loop);
    belay__acquire_released(client, key, request.op.key.length);
    return belay__request_wait(&request, err);
}

belay_status belay_get_health(belay *client, belay_health *out, belay_error *err)
{
    if (out == NULL) return belay_error_set(err, BELAY_INVALID, NULL, "out is NULL");
    belay_request request;
    belay_status status = begin(client, NULL, NULL, 0, &request, BELAY_VERB_HEALTH, err);
    if (status != BELAY_OK) return status;
    belay_health health = {
        .size = sizeof health, .scope = client->scope_max, .next_probe_ms = -1, .other_since_ms = -1
    };
    if (client->root->ops->health == NULL) {
        belay__loop_leave(&client->loop);
        (void)belay_error_set(err, BELAY_OK, NULL, NULL);
    } else {
        request.op.health = &health;
        belay__request_begin_op(&request, belay__loop_now(&client->loop));
        status = belay__request_wait(&request, err);
    }
    uint32_t size = out->size != 0 && out->size < sizeof health ? out->size : sizeof health;
    memcpy(out, &health, size);
    out->size = size;
    return status;
}

/* ------------------------------------------------------------------ diagnose */

enum { DIAGNOSE_MS = 2000 }; /* looking takes more questions than locking */

/* One call: the backends are asked one after the other. On the caller's stack. */
struct diagnosis {
    belay *client;
    belay_request request;
    size_t next; /* of the config's backends */
    belay_link entries;
};

static void diagnose_next(struct diagnosis *diagnosis)
{
    belay *client = diagnosis->client;
    belay_op *op = &diagnosis->request.op;
    while (diagnosis->next < client->config->count) {
        belay_backend *backend = client->config->backends[diagnosis->next++].object;
        op->backend = backend;
        if (backend->ops->diagnose != NULL) {
            int64_t now = belay__loop_now(&client->loop), patience = backend->env->timeout_ns;
            if (patience < DIAGNOSE_MS * BELAY__MS) patience = DIAGNOSE_MS * BELAY__MS;
            op->settle_by_ns = now + patience;
            belay__op_begin(op, now);
            return;
        }
        if (belay_op_find(op, BELAY_FINE, "itself", "", "", "it has nothing to tell") != BELAY_OK) {
            belay__request_finish(&diagnosis->request, BELAY_NOMEM);
            return;
        }
    }
    belay__request_finish(&diagnosis->request, BELAY_OK);
}

/* That a backend can't be asked is a finding as well. */
static void diagnosed(belay_op *op, belay_status status)
{
    belay_request *request = belay_container_of(op, belay_request, op);
    const belay_error *why = &request->error;
    if (request->end_with != BELAY_OK) {
        belay__request_finish(request, request->end_with);
        return;
    }
    if (status != BELAY_OK && status != BELAY_NOMEM)
        status = belay_op_find(op, BELAY_BROKEN, "itself",
                               "whether a lock can be taken there is not known", "",
                               "it could not be asked: %s%s%s", why->node,
                               why->node[0] != '\0' ? ": " : "",
                               why->text[0] != '\0' ? why->text : belay_status_text(status));
    if (status != BELAY_OK) {
        belay__request_finish(request, status);
        return;
    }
    request->error.node[0] = request->error.text[0] = '\0';
    diagnose_next(belay_container_of(request, struct diagnosis, request));
}

belay_status belay_diagnose(belay *client, belay_finding_fn *each, void *arg, belay_error *err)
{
    if (each == NULL) return belay_error_set(err, BELAY_INVALID, NULL, "each is NULL");
    struct diagnosis diagnosis;
    belay_request *request = &diagnosis.request;
    belay_status status = begin(client, NULL, NULL, 0, request, BELAY_VERB_DIAGNOSE, err);
    if (status != BELAY_OK) return status;
    belay_links_init(&diagnosis.entries);
    diagnosis.client = client;
    diagnosis.next = 0;
    request->op.done = diagnosed;
    request->op.sink = &diagnosis.entries;
    request->phase = BELAY__PHASE_ATTEMPT;
    belay_link_append(&client->requests, &request->all);
    diagnose_next(&diagnosis);
    status = belay__request_wait(request, err);
    for (belay_link *link = diagnosis.entries.next;
         status == BELAY_OK && link != &diagnosis.entries; link = link->next) {
        struct entry *entry = belay_container_of(link, struct entry, link);
        belay_finding finding = { .size = sizeof finding,
                                  .severity = entry->severity,
                                  .backend = entry->backend,
                                  .type = entry->type,
                                  .check = entry->check,
                                  .text = entry->text,
                                  .meaning = entry->meaning,
                                  .advice = entry->advice };
        each(arg, &finding);
    }
    entries_free(&diagnosis.entries);
    return status;
}
