/* reply.c - hiredis as the parser, with its objects made by us: see reply.h. */
#include "backends/resp/reply.h"

#include <hiredis/hiredis.h>
#include <stdio.h>
#include <string.h>

enum { NODES_FIRST = 32, TEXT_FIRST = 1024, KEEP_NODES = 4096, KEEP_TEXT = 64 << 10 };

struct belay__reader {
    belay_env *env;
    redisReader *parser;
    struct belay__reply *nodes; /* text holds an offset until the reply is complete */
    uint32_t count, room;
    char *text;
    size_t used, text_room;
    size_t fed; /* since the last complete reply */
    const char *broken;
};

/* ------------------------------------------------------------------ looking */

const struct belay__reply *belay__reply_item(const struct belay__reply *reply, uint32_t i)
{
    if (reply->type != BELAY__REPLY_ARRAY || i >= reply->count) return NULL;
    const struct belay__reply *item = reply + 1;
    while (i-- > 0) item += item->span;
    return item;
}

bool belay__reply_is(const struct belay__reply *reply, const char *status)
{
    return reply->type == BELAY__REPLY_STATUS && strcmp(reply->text, status) == 0;
}

/* ------------------------------------------------------------------ hiredis makes its objects */

/* The reader that is parsing: hiredis hands its tasks' privdata down from the parser's. */
static struct belay__reader *reader_of(const redisReadTask *task)
{
    return task->privdata;
}

/* hiredis only asks whether an object is NULL. */
static char made;

static void *refuse(struct belay__reader *reader, const char *why)
{
    if (reader->broken == NULL) reader->broken = why;
    return NULL;
}

static bool grow(struct belay__reader *reader, void **memory, size_t used, size_t wanted)
{
    void *more = belay_env_alloc(reader->env, wanted);
    if (more == NULL) return false;
    memcpy(more, *memory, used);
    belay_env_free(reader->env, *memory);
    *memory = more;
    return true;
}

static struct belay__reply *node_new(struct belay__reader *reader, enum belay__reply_type type)
{
    if (reader->count == BELAY__REPLY_ELEMENTS) return refuse(reader, "a reply has too many parts");
    if (reader->count == reader->room) {
        void *nodes = reader->nodes;
        size_t size = sizeof *reader->nodes;
        if (!grow(reader, &nodes, reader->count * size, reader->room * 2 * size))
            return refuse(reader, "no memory for a reply");
        reader->nodes = nodes;
        reader->room *= 2;
    }
    struct belay__reply *node = &reader->nodes[reader->count++];
    *node = (struct belay__reply){ .type = type, .span = 1 };
    return node;
}

static void *make_text(const redisReadTask *task, char *from, size_t length)
{
    struct belay__reader *reader = reader_of(task);
    if (reader->used + length + 1 > reader->text_room) {
        void *text = reader->text;
        size_t wanted = reader->text_room * 2;
        while (wanted < reader->used + length + 1) wanted *= 2;
        if (!grow(reader, &text, reader->used, wanted))
            return refuse(reader, "no memory for a reply");
        reader->text = text;
        reader->text_room = wanted;
    }
    enum belay__reply_type type = BELAY__REPLY_STRING;
    if (task->type == REDIS_REPLY_STATUS) type = BELAY__REPLY_STATUS;
    else if (task->type == REDIS_REPLY_ERROR) type = BELAY__REPLY_ERROR;
    else if (task->type != REDIS_REPLY_STRING) return refuse(reader, "a reply of an unknown type");
    struct belay__reply *node = node_new(reader, type);
    if (node == NULL) return NULL;
    node->integer = (int64_t)reader->used;
    node->length = (uint32_t)length;
    memcpy(reader->text + reader->used, from, length);
    reader->text[reader->used + length] = '\0';
    reader->used += length + 1;
    return &made;
}

#if HIREDIS_MAJOR >= 1
static void *make_array(const redisReadTask *task, size_t count)
#else
static void *make_array(const redisReadTask *task, int count)
#endif
{
    struct belay__reader *reader = reader_of(task);
    unsigned depth = 1;
    for (const redisReadTask *up = task->parent; up != NULL; up = up->parent) depth++;
    if (task->type != REDIS_REPLY_ARRAY) return refuse(reader, "a reply of an unknown type");
    if (depth > BELAY__REPLY_DEPTH) return refuse(reader, "a reply is nested too deeply");
    if ((unsigned long long)count > BELAY__REPLY_ELEMENTS)
        return refuse(reader, "a reply has too many parts");
    struct belay__reply *node = node_new(reader, BELAY__REPLY_ARRAY);
    if (node == NULL) return NULL;
    node->count = (uint32_t)count;
    return &made;
}

static void *make_integer(const redisReadTask *task, long long value)
{
    struct belay__reply *node = node_new(reader_of(task), BELAY__REPLY_INTEGER);
    if (node == NULL) return NULL;
    node->integer = value;
    return &made;
}

static void *make_nil(const redisReadTask *task)
{
    /* "$-1", "*-1"; "_" is RESP3's. */
    if (task->type != REDIS_REPLY_STRING && task->type != REDIS_REPLY_ARRAY)
        return refuse(reader_of(task), "a reply of an unknown type");
    return node_new(reader_of(task), BELAY__REPLY_NIL) != NULL ? &made : NULL;
}

#if HIREDIS_MAJOR >= 1
/* RESP3's: nobody asked for it. */
static void *make_double(const redisReadTask *task, double value, char *text, size_t length)
{
    (void)value, (void)text, (void)length;
    return refuse(reader_of(task), "a reply of an unknown type");
}

static void *make_bool(const redisReadTask *task, int value)
{
    (void)value;
    return refuse(reader_of(task), "a reply of an unknown type");
}
#endif

static void nothing_to_free(void *object)
{
    (void)object;
}

static redisReplyObjectFunctions functions = {
    .createString = make_text,
    .createArray = make_array,
    .createInteger = make_integer,
#if HIREDIS_MAJOR >= 1
    .createDouble = make_double,
    .createBool = make_bool,
#endif
    .createNil = make_nil,
    .freeObject = nothing_to_free,
};

/* ------------------------------------------------------------------ reading */

struct belay__reader *belay__reader_new(belay_env *env)
{
    struct belay__reader *reader = belay_env_alloc(env, sizeof *reader);
    if (reader == NULL) return NULL;
    reader->env = env;
    reader->room = NODES_FIRST;
    reader->text_room = TEXT_FIRST;
    reader->nodes = belay_env_alloc(env, NODES_FIRST * sizeof *reader->nodes);
    reader->text = belay_env_alloc(env, TEXT_FIRST);
    reader->parser = redisReaderCreateWithFunctions(&functions);
    if (reader->nodes == NULL || reader->text == NULL || reader->parser == NULL) {
        belay__reader_free(reader);
        return NULL;
    }
    reader->parser->privdata = reader;
    return reader;
}

void belay__reader_free(struct belay__reader *reader)
{
    if (reader == NULL) return;
    if (reader->parser != NULL) redisReaderFree(reader->parser);
    belay_env_free(reader->env, reader->nodes);
    belay_env_free(reader->env, reader->text);
    belay_env_free(reader->env, reader);
}

bool belay__reader_feed(struct belay__reader *reader, const char *bytes, size_t length)
{
    if (reader->broken != NULL) return false;
    reader->fed += length;
    if (reader->fed > BELAY__REPLY_BYTES) reader->broken = "a reply is too long";
    else if (redisReaderFeed(reader->parser, bytes, length) != REDIS_OK)
        reader->broken = "no memory for a reply";
    return reader->broken == NULL;
}

/* Offsets become pointers, and every array learns how far it goes. */
static void complete(struct belay__reader *reader)
{
    for (uint32_t i = reader->count; i-- > 0;) {
        struct belay__reply *node = &reader->nodes[i];
        bool is_text = node->type == BELAY__REPLY_STRING || node->type == BELAY__REPLY_STATUS ||
                       node->type == BELAY__REPLY_ERROR;
        node->text = is_text ? reader->text + node->integer : "";
        if (is_text) node->integer = 0;
        for (uint32_t n = 0; node->type == BELAY__REPLY_ARRAY && n < node->count; n++)
            node->span += node[node->span].span;
    }
}

/* What a large reply left behind is not kept for ever. */
static void shrink(struct belay__reader *reader)
{
    if (reader->room > KEEP_NODES) {
        void *nodes = reader->nodes;
        if (grow(reader, &nodes, 0, NODES_FIRST * sizeof *reader->nodes)) {
            reader->nodes = nodes;
            reader->room = NODES_FIRST;
        }
    }
    if (reader->text_room > KEEP_TEXT) {
        void *text = reader->text;
        if (grow(reader, &text, 0, TEXT_FIRST)) {
            reader->text = text;
            reader->text_room = TEXT_FIRST;
        }
    }
}

const struct belay__reply *belay__reader_next(struct belay__reader *reader)
{
    void *object = NULL;
    if (reader->broken != NULL) return NULL;
    if (reader->parser->reply == NULL) { /* not amid one */
        reader->count = 0;
        reader->used = 0;
        if (reader->room > KEEP_NODES || reader->text_room > KEEP_TEXT) shrink(reader);
    }
    if (redisReaderGetReply(reader->parser, &object) != REDIS_OK) {
        if (reader->broken == NULL) reader->broken = "it does not speak the Redis protocol";
        return NULL;
    }
    if (object == NULL) return NULL;
    /* What lies behind it is the next one's. */
    reader->fed = reader->parser->len - reader->parser->pos;
    complete(reader);
    return reader->nodes;
}

const char *belay__reader_broken(const struct belay__reader *reader)
{
    return reader->broken;
}
