/* link_slots.c - what was asked and is not answered: the bytes that have not left, a slot for each
 * request. See link.h. */
#include "backends/resp/link_parts.h"

#include <string.h>
#include <sys/socket.h>

enum {
    OUT_FIRST = 1024,
    OUT_MOST = 4 << 20,
    OUT_KEEP = 64 << 10,
    SLOTS_FIRST = 16,
    SLOTS_MOST = 1 << 17
};

struct belay__slot *belay__link_slot(const struct belay__link *link, uint64_t seq)
{
    return &link->slots[seq & (link->slot_room - 1)];
}

static bool slots_grow(struct belay__link *link)
{
    uint32_t room = link->slot_room == 0 ? SLOTS_FIRST : link->slot_room * 2;
    if (room > SLOTS_MOST) return false;
    struct belay__slot *slots = belay_env_alloc(link->env, room * sizeof *slots);
    if (slots == NULL) return false;
    for (uint64_t seq = link->slot_first; seq < link->slot_next; seq++)
        slots[seq & (room - 1)] = *belay__link_slot(link, seq);
    belay_env_free(link->env, link->slots);
    link->slots = slots;
    link->slot_room = room;
    return true;
}

static bool out_grow(struct belay__link *link, size_t more)
{
    size_t waits = link->out_end - link->out_at;
    if (link->out_room - waits >= more && link->out_at >= waits) {
        memcpy(link->out, link->out + link->out_at, waits);
        link->out_at = 0;
        link->out_end = waits;
        return true;
    }
    size_t room = link->out_room != 0 ? link->out_room * 2 : OUT_FIRST;
    while (room < waits + more) room *= 2;
    if (room > OUT_MOST) return false;
    char *out = belay_env_alloc(link->env, room);
    if (out == NULL) return false;
    if (waits > 0) memcpy(out, link->out + link->out_at, waits);
    if (link->out != NULL) explicit_bzero(link->out, link->out_room); /* AUTH may stand in it */
    belay_env_free(link->env, link->out);
    link->out = out;
    link->out_at = 0;
    link->out_end = waits;
    link->out_room = room;
    return true;
}

size_t belay__decimal(uint64_t value, char out[21])
{
    char digits[20];
    size_t count = 0, length = 0;
    do digits[count++] = (char)('0' + value % 10);
    while ((value /= 10) != 0);
    while (count > 0) out[length++] = digits[--count];
    out[length] = '\0';
    return length;
}

/* "$12\r\n": a count behind its mark. Returns where it ends. */
static char *put_count(char *out, char mark, size_t value)
{
    *out++ = mark;
    out += belay__decimal(value, out); /* and a NUL, where the next byte goes */
    *out++ = '\r';
    *out++ = '\n';
    return out;
}

/* Ready or not: the greeting goes first. A request is an array of bulk strings, written where it
 * leaves from: hiredis' formatter, which allocates and prints, takes a quarter of a busy loop's
 * time (docs/resp.md). */
uint64_t belay__link_put(struct belay__link *link, belay__hear_fn *hear, void *owner,
                         uint32_t which, bool wants_left, int argc, const char *const *argv,
                         const size_t *lengths)
{
    enum { COUNT_MOST = 1 + 20 + 2 };
    size_t most = COUNT_MOST;
    for (int i = 0; i < argc; i++)
        most += COUNT_MOST + (lengths != NULL ? lengths[i] : strlen(argv[i])) + 2;
    if (belay__link_unanswered(link) == link->slot_room && !slots_grow(link)) return 0;
    if (link->out_room - link->out_end < most && !out_grow(link, most)) return 0;
    char *const start = link->out + link->out_end;
    char *at = put_count(start, '*', (size_t)argc);
    for (int i = 0; i < argc; i++) {
        size_t length = lengths != NULL ? lengths[i] : strlen(argv[i]);
        at = put_count(at, '$', length);
        memcpy(at, argv[i], length);
        at += length;
        *at++ = '\r';
        *at++ = '\n';
    }
    uint64_t seq = link->slot_next++;
    *belay__link_slot(link, seq) =
        (struct belay__slot){ .hear = hear,
                              .owner = owner,
                              .start = link->sent + (link->out_end - link->out_at),
                              .length = (uint32_t)(at - start),
                              .which = which,
                              .wants_left = wants_left };
    link->out_end += (size_t)(at - start);
    belay_task_post(link->env, &link->flush);
    return seq;
}

uint64_t belay__link_ask(struct belay__link *link, belay__hear_fn *hear, void *owner,
                         uint32_t which, bool wants_left, int argc, const char *const *argv,
                         const size_t *lengths)
{
    if (link->state != BELAY__LINK_READY) return 0;
    return belay__link_put(link, hear, owner, which, wants_left, argc, argv, lengths);
}

static bool is_open_slot(const struct belay__link *link, uint64_t seq)
{
    return seq >= link->slot_first && seq < link->slot_next;
}

bool belay__link_left(const struct belay__link *link, uint64_t seq)
{
    return !is_open_slot(link, seq) || belay__link_slot(link, seq)->left;
}

void belay__link_forget(struct belay__link *link, uint64_t seq)
{
    if (is_open_slot(link, seq)) belay__link_slot(link, seq)->hear = NULL;
}

bool belay__link_withdraw(struct belay__link *link, uint64_t seq)
{
    if (belay__link_left(link, seq)) return false;
    struct belay__slot *slot = belay__link_slot(link, seq);
    if (slot->withdrawn) return true;
    size_t at = link->out_at + (size_t)(slot->start - link->sent);
    memmove(link->out + at, link->out + at + slot->length, link->out_end - at - slot->length);
    link->out_end -= slot->length;
    for (uint64_t later = seq + 1; later < link->slot_next; later++)
        belay__link_slot(link, later)->start -= slot->length;
    slot->length = 0;
    slot->hear = NULL;
    slot->withdrawn = true;
    return true;
}

/* Withdrawn ones at the front have no answer to wait for. */
void belay__link_slots_skip(struct belay__link *link)
{
    while (link->slot_first < link->slot_next &&
           belay__link_slot(link, link->slot_first)->withdrawn)
        link->slot_first++;
    if (link->slot_unleft < link->slot_first) link->slot_unleft = link->slot_first;
}

void belay__link_slots_cut(struct belay__link *link)
{
    while (link->slot_first < link->slot_next) {
        struct belay__slot *slot = belay__link_slot(link, link->slot_first);
        /* It is told while its slot still stands: `left` may be asked. */
        if (slot->hear != NULL) slot->hear(slot->owner, slot->which, BELAY__CUT, NULL);
        link->slot_first++;
    }
}

bool belay__link_has_bytes(const struct belay__link *link)
{
    char byte;
    return link->fd >= 0 && recv(link->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) > 0;
}

int64_t belay__link_silence(const struct belay__link *link, int64_t now_ns)
{
    uint64_t first = link->slot_first;
    while (first < link->slot_next && belay__link_slot(link, first)->withdrawn) first++;
    if (first == link->slot_next || !belay__link_slot(link, first)->left) return 0;
    return now_ns - link->waiting_since_ns;
}

/* Tells those whose bytes have begun to leave. */
static void note_left(struct belay__link *link, int64_t now_ns)
{
    while (link->slot_unleft < link->slot_next) {
        struct belay__slot *slot = belay__link_slot(link, link->slot_unleft);
        if (!slot->withdrawn) {
            if (slot->start >= link->sent) return;
            slot->left = true;
            if (link->slot_unleft == link->slot_first) link->waiting_since_ns = now_ns;
            if (slot->wants_left && slot->hear != NULL) {
                link->left_ns = now_ns;
                slot->hear(slot->owner, slot->which, BELAY__LEFT, NULL);
            }
        }
        link->slot_unleft++;
    }
}

void belay__link_took(struct belay__link *link, size_t count, int64_t now_ns)
{
    link->out_at += count;
    link->sent += count;
    if (link->out_at == link->out_end) {
        link->out_at = link->out_end = 0;
        if (link->state == BELAY__LINK_GREETING) explicit_bzero(link->out, link->out_room);
        if (link->out_room > OUT_KEEP) {
            belay_env_free(link->env, link->out);
            link->out = NULL;
            link->out_room = 0;
        }
    }
    note_left(link, now_ns);
}
