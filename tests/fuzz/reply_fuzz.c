/* reply_fuzz.c - any bytes, as a server's replies (backends/resp/reply.h): whole, in slices and
 * byte by byte they are the same replies, each of them sound, or the stream is broken in the same
 * way.
 *
 * The first byte chooses the slices, the rest is what the server says. */
#define _GNU_SOURCE
#include "backends/resp/reply.h"
#include "core/client.h"

#include <belay/testing.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BROKEN(...)                                                                                \
    do {                                                                                           \
        fprintf(stderr, "\nbroken promise: " __VA_ARGS__);                                         \
        fputc('\n', stderr);                                                                       \
        abort();                                                                                   \
    } while (0)

enum { LARGEST = 32 << 20 };

static struct belay__loop loop;
static belay_env env = { .loop = &loop };
static bool (*fake_alloc)(belay_world *world, size_t size);

static bool world_alloc(belay_world *world, size_t size)
{
    if (size > LARGEST) BROKEN("an allocation of %zu bytes", size);
    return fake_alloc(world, size);
}

/* What was read, in a number that depends on all of it. */
struct digest {
    uint64_t sum;
    size_t replies;
    char broken[128];
};

static void digest_add(struct digest *digest, const void *bytes, size_t length)
{
    const unsigned char *at = bytes;
    for (size_t i = 0; i < length; i++)
        digest->sum = (digest->sum ^ at[i]) * UINT64_C(0x100000001b3);
}

/* The reply at `at` and all below it: how many there are. */
static uint32_t look(struct digest *digest, const struct belay__reply *at, unsigned depth)
{
    uint32_t span = 1;
    if (depth > BELAY__REPLY_DEPTH + 1) BROKEN("a reply at depth %u", depth);
    digest_add(digest, &at->type, sizeof at->type);
    digest_add(digest, &at->integer, at->type == BELAY__REPLY_INTEGER ? sizeof at->integer : 0);
    digest_add(digest, at->text, at->length);
    digest_add(digest, &at->count, sizeof at->count);
    if (at->text == NULL || at->text[at->length] != '\0') BROKEN("a text without an end");
    switch (at->type) {
    case BELAY__REPLY_ARRAY:
        for (uint32_t i = 0; i < at->count; i++) {
            const struct belay__reply *item = belay__reply_item(at, i);
            if (item != at + span) BROKEN("item %u is elsewhere", (unsigned)i);
            span += look(digest, item, depth + 1);
        }
        if (belay__reply_item(at, at->count) != NULL) BROKEN("an item too many");
        break;
    case BELAY__REPLY_NIL:
    case BELAY__REPLY_INTEGER:
        if (at->length != 0) BROKEN("a text where there is none");
        /* fall through */
    case BELAY__REPLY_STRING:
    case BELAY__REPLY_STATUS:
    case BELAY__REPLY_ERROR:
        if (at->count != 0 || belay__reply_item(at, 0) != NULL)
            BROKEN("items where there are none");
        break;
    default: BROKEN("a reply of type %d", (int)at->type);
    }
    if (at->span != span) BROKEN("a span of %u where %u stand", (unsigned)at->span, (unsigned)span);
    return span;
}

static bool drain(struct belay__reader *reader, struct digest *digest)
{
    const struct belay__reply *reply;
    while ((reply = belay__reader_next(reader)) != NULL) {
        digest->replies++;
        if (look(digest, reply, 1) > BELAY__REPLY_ELEMENTS) BROKEN("a reply of too many parts");
    }
    return belay__reader_broken(reader) == NULL;
}

/* `slice` 0: all at once. */
static struct digest digest_of(const char *at, size_t length, size_t slice)
{
    struct digest digest = { .sum = UINT64_C(0xcbf29ce484222325) };
    struct belay__reader *reader = belay__reader_new(&env);
    bool sound = reader != NULL;
    if (!sound) abort();
    while (sound && length > 0) {
        size_t part = slice == 0 || slice > length ? length : slice;
        char *copy = malloc(part); /* exactly as long, so that a byte too far is seen */
        if (copy == NULL) abort();
        memcpy(copy, at, part);
        sound = belay__reader_feed(reader, copy, part);
        free(copy);
        sound = drain(reader, &digest) && sound;
        at += part;
        length -= part;
    }
    const char *broken = belay__reader_broken(reader);
    if (sound != (broken == NULL)) BROKEN("broken, and it does not say so");
    if (broken != NULL) {
        snprintf(digest.broken, sizeof digest.broken, "%s", broken);
        if (belay__reader_feed(reader, "+OK\r\n", 5) || belay__reader_next(reader) != NULL)
            BROKEN("a broken stream goes on");
    }
    belay__reader_free(reader);
    return digest;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0) return 0;
    belay_fake_world *world = belay_fake_create(1);
    loop.world = belay_fake_base(world);
    fake_alloc = loop.world->may_alloc;
    loop.world->may_alloc = world_alloc;
    const char *at = (const char *)data + 1;
    struct digest whole = digest_of(at, size - 1, 0);
    size_t slices[] = { 1, (size_t)data[0] + 2 };
    for (size_t i = 0; i < 2; i++) {
        struct digest sliced = digest_of(at, size - 1, slices[i]);
        if (sliced.sum != whole.sum || sliced.replies != whole.replies ||
            strcmp(sliced.broken, whole.broken) != 0)
            BROKEN("%zu replies (%s) whole, %zu (%s) in slices of %zu", whole.replies, whole.broken,
                   sliced.replies, sliced.broken, slices[i]);
    }
    belay_fake_destroy(world);
    return 0;
}
