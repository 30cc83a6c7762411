/* scan.c - every lock of ours on one server: SCAN by the prefix, then who holds it and for how
 * long.
 *
 * SCAN may say a key twice, and leaves out none that was there all the time; a page is small enough
 * not to hold up the server's other clients. */
#include "backends/resp/server.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PAGE = 500, KEYS_FIRST = 64, IN_FLIGHT = 128 };

struct key {
    char *at;
    uint32_t length;
    char owner[BELAY_OWNER_LENGTH + 4];
    bool gone;
};

struct scan {
    struct belay__server *server;
    belay_op *op;
    struct belay__errand errand;
    struct belay__link *link; /* where questions stand */
    uint64_t seqs[2 * IN_FLIGHT];
    char cursor[24];
    struct key *keys;
    size_t count, room;
    size_t asked, answered; /* of keys, once the scan is over */
};

enum part { PART_PAGE, PART_GET, PART_PTTL };

static void ask_page(struct scan *scan);

static void scan_free(struct scan *scan)
{
    belay_env *env = scan->server->env;
    belay__server_unwant(&scan->errand);
    for (size_t i = 0; scan->link != NULL && i < 2 * IN_FLIGHT; i++)
        belay__link_forget(scan->link, scan->seqs[i]);
    for (size_t i = 0; i < scan->count; i++) belay_env_free(env, scan->keys[i].at);
    belay_env_free(env, scan->keys);
    belay_env_free(env, scan);
}

static void settle(struct scan *scan, belay_status status)
{
    belay_op *op = scan->op;
    scan_free(scan);
    belay_op_settle(op, status);
}

static void fail(struct scan *scan, belay_status status, belay_cause cause, const char *text)
{
    belay_op_fail(scan->op, status, cause, scan->server->peer.node, "%s", text);
    scan_free(scan);
}

static bool key_add(struct scan *scan, const struct belay__reply *key)
{
    belay_env *env = scan->server->env;
    if (scan->count == scan->room) {
        size_t room = scan->room == 0 ? KEYS_FIRST : scan->room * 2;
        struct key *keys = belay_env_alloc(env, room * sizeof *keys);
        if (keys == NULL) return false;
        if (scan->count > 0) memcpy(keys, scan->keys, scan->count * sizeof *keys);
        belay_env_free(env, scan->keys);
        scan->keys = keys;
        scan->room = room;
    }
    char *copy = belay_env_alloc(env, key->length + 1);
    if (copy == NULL) return false;
    memcpy(copy, key->text, key->length);
    scan->keys[scan->count++] = (struct key){ .at = copy, .length = key->length };
    return true;
}

static int by_name(const void *a, const void *b)
{
    const struct key *one = a, *two = b;
    return strcmp(one->at, two->at);
}

static void keys_unique(struct scan *scan)
{
    size_t kept = 0;
    if (scan->count > 1) qsort(scan->keys, scan->count, sizeof *scan->keys, by_name);
    for (size_t i = 0; i < scan->count; i++) {
        if (kept > 0 && strcmp(scan->keys[kept - 1].at, scan->keys[i].at) == 0)
            belay_env_free(scan->server->env, scan->keys[i].at);
        else scan->keys[kept++] = scan->keys[i];
    }
    scan->count = kept;
}

static void hear(void *owner, uint32_t part, enum belay__moment moment,
                 const struct belay__reply *reply);

/* As many keys' questions as may be under way. */
static void ask_keys(struct scan *scan)
{
    if (scan->answered == scan->count) {
        settle(scan, BELAY_OK);
        return;
    }
    while (scan->asked < scan->count && scan->asked - scan->answered < IN_FLIGHT) {
        const struct key *key = &scan->keys[scan->asked];
        const char *get[] = { "GET", key->at }, *pttl[] = { "PTTL", key->at };
        const size_t get_lengths[] = { 3, key->length }, pttl_lengths[] = { 4, key->length };
        uint64_t *seqs = &scan->seqs[scan->asked % IN_FLIGHT * 2];
        seqs[0] = belay__link_ask(scan->link, hear, scan, PART_GET, false, 2, get, get_lengths);
        seqs[1] = seqs[0] == 0 ? 0
                               : belay__link_ask(scan->link, hear, scan, PART_PTTL, false, 2, pttl,
                                                 pttl_lengths);
        if (seqs[1] == 0) {
            fail(scan, BELAY_UNAVAILABLE, BELAY_CAUSE_BUSY, "no room for another request");
            return;
        }
        scan->asked++;
    }
}

static void page_heard(struct scan *scan, const struct belay__reply *reply)
{
    const struct belay__server *server = scan->server;
    const struct belay__reply *cursor = belay__reply_item(reply, 0);
    const struct belay__reply *keys = belay__reply_item(reply, 1), *key;
    if (keys == NULL || cursor->length >= sizeof scan->cursor) {
        fail(scan, BELAY_UNAVAILABLE, BELAY_CAUSE_WRONG, "SCAN answered something else");
        return;
    }
    memcpy(scan->cursor, cursor->text, cursor->length + 1);
    /* From one to the next: an item's place is not found by counting again each time. */
    key = keys + 1;
    for (uint32_t i = 0; i < keys->count; i++, key += key->span) {
        bool fence = server->fencing && strcmp(key->text, server->fence) == 0;
        bool ours = key->type == BELAY__REPLY_STRING && strlen(key->text) == key->length &&
                    belay_env_strip(server->env, key->text) != NULL;
        if (!ours || fence) continue;
        if (!key_add(scan, key)) {
            fail(scan, BELAY_NOMEM, BELAY_CAUSE_NONE, "out of memory");
            return;
        }
    }
    if (strcmp(scan->cursor, "0") != 0) {
        ask_page(scan);
        return;
    }
    keys_unique(scan);
    ask_keys(scan);
}

static void key_heard(struct scan *scan, enum part part, const struct belay__reply *reply)
{
    struct key *key = &scan->keys[scan->answered];
    if (part == PART_GET) {
        key->gone = reply->type == BELAY__REPLY_NIL;
        if (reply->type == BELAY__REPLY_STRING && reply->length < sizeof key->owner)
            memcpy(key->owner, reply->text, reply->length + 1);
        return;
    }
    scan->answered++;
    const char *name = belay_env_strip(scan->server->env, key->at);
    if (!key->gone && reply->type == BELAY__REPLY_INTEGER && reply->integer != -2 &&
        strlen(name) <= BELAY_NAME_MAX) {
        belay_info info = { .size = sizeof info,
                            .held = true,
                            .scope = BELAY_SCOPE_FLEET,
                            .remaining_ms = reply->integer,
                            .held_ms = -1 };
        snprintf(info.owner, sizeof info.owner, "%s", key->owner);
        if (key->owner[0] == '\0') snprintf(info.label, sizeof info.label, "%s", BELAY__FOREIGN);
        snprintf(info.name, sizeof info.name, "%s", name);
        if (belay_op_emit(scan->op, &info) != BELAY_OK) {
            fail(scan, BELAY_NOMEM, BELAY_CAUSE_NONE, "out of memory");
            return;
        }
    }
    ask_keys(scan);
}

static void hear(void *owner, uint32_t part, enum belay__moment moment,
                 const struct belay__reply *reply)
{
    struct scan *scan = owner;
    struct belay__failure why;
    if (moment == BELAY__LEFT) return;
    if (moment == BELAY__CUT) {
        fail(scan, BELAY_UNAVAILABLE, BELAY_CAUSE_UNREACHABLE, scan->link->why.text);
    } else if (reply->type == BELAY__REPLY_ERROR && strncmp(reply->text, "WRONGTYPE", 9) != 0) {
        belay__words_read(reply->text, &why);
        fail(scan, why.status, why.cause, why.text);
    } else if (part == PART_PAGE) {
        page_heard(scan, reply);
    } else {
        key_heard(scan, (enum part)part, reply);
    }
}

/* The prefix as a pattern that means just that. */
static size_t pattern_make(const char *prefix, char *out, size_t size)
{
    size_t used = 0;
    for (; *prefix != '\0' && used + 4 < size; prefix++) {
        if (strchr("*?[]\\^-", *prefix) != NULL) out[used++] = '\\';
        out[used++] = *prefix;
    }
    out[used++] = '*';
    out[used] = '\0';
    return used;
}

static void ask_page(struct scan *scan)
{
    char pattern[1100];
    const char *argv[] = { "SCAN", scan->cursor, "MATCH", pattern, "COUNT", "500" };
    pattern_make(belay_env_prefix(scan->server->env), pattern, sizeof pattern);
    scan->seqs[0] = belay__link_ask(scan->link, hear, scan, PART_PAGE, false, 6, argv, NULL);
    if (scan->seqs[0] == 0)
        fail(scan, BELAY_UNAVAILABLE, BELAY_CAUSE_BUSY, "no room for another request");
}

static void go(struct belay__errand *errand, struct belay__link *link)
{
    struct scan *scan = belay_container_of(errand, struct scan, errand);
    scan->link = link;
    ask_page(scan);
}

static void refused(struct belay__errand *errand, const struct belay__failure *why)
{
    fail(belay_container_of(errand, struct scan, errand), why->status, why->cause, why->text);
}

void belay__scan_start(struct belay__server *server, belay_op *op)
{
    struct scan *scan = belay_env_alloc(server->env, sizeof *scan);
    if (scan == NULL) {
        belay_op_fail(op, BELAY_NOMEM, BELAY_CAUSE_NONE, server->peer.node, "out of memory");
        return;
    }
    scan->server = server;
    scan->op = op;
    scan->errand.go = go;
    scan->errand.refused = refused;
    scan->cursor[0] = '0';
    op->data = scan;
    struct belay__link *link = belay__server_link(server, BELAY__LANE_MAIN);
    if (link != NULL) go(&scan->errand, link);
    else belay__server_want(server, BELAY__LANE_MAIN, &scan->errand);
}

void belay__scan_cancel(struct belay__server *server, belay_op *op)
{
    struct scan *scan = op->data;
    const struct belay__lane *lane = &server->lanes[BELAY__LANE_MAIN];
    struct belay__link *link = scan->link;
    const char *text = link != NULL             ? "no complete list in time"
                       : lane->why.text[0] != 0 ? lane->why.text
                                                : "no connection in time";
    /* Page after page may have come: that is no silence. */
    int64_t now = belay_env_now(server->env), timeout = belay_env_timeout_ns(server->env);
    bool silent = link == NULL || belay__link_silence(link, now) >= timeout * 9 / 10;
    bool full = now - op->sent_ns >= timeout * 9 / 10;
    belay_cause cause = full ? BELAY_CAUSE_BUSY : BELAY_CAUSE_CUT_SHORT;
    if (full && silent) cause = BELAY_CAUSE_UNREACHABLE;
    fail(scan, BELAY_UNAVAILABLE, cause, text);
    if (link != NULL) belay__server_complain(server, link);
}
