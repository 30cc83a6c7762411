/* names.c - who waits for what inside this client: a FIFO for each name, and only its head asks the
 * backend.
 *
 * The queue needs no memory of its own: its waiters form a ring, and the head of the ring stands in
 * the hash table. */
#include "core/client.h"

uint32_t belay__names_hash(const char *key, size_t length)
{
    uint32_t hash = 2166136261u; /* FNV-1a */
    for (size_t i = 0; i < length; i++) hash = (hash ^ (unsigned char)key[i]) * 16777619u;
    return hash;
}

static belay_request **bucket(struct belay__names *names, uint32_t hash)
{
    if (names->buckets == NULL) {
        names->buckets = names->few;
        names->bucket_count = sizeof names->few / sizeof names->few[0];
    }
    return &names->buckets[hash & (names->bucket_count - 1)];
}

static bool same_key(const belay_request *request, const char *key, size_t length, uint32_t hash)
{
    return request->hash == hash && request->op.key.length == length &&
           memcmp(request->op.key.at, key, length) == 0;
}

static belay_request **head_place(belay *client, const char *key, size_t length, uint32_t hash)
{
    belay_request **place = bucket(&client->names, hash);
    while (*place != NULL && !same_key(*place, key, length, hash)) place = &(*place)->bucket_next;
    return place;
}

belay_request *belay__names_head(belay *client, const char *key, size_t length, uint32_t hash)
{
    return client->names.count != 0 ? *head_place(client, key, length, hash) : NULL;
}

/* Without memory the table stays small: slower, as right. */
static void grow(belay *client)
{
    struct belay__names *names = &client->names;
    uint32_t count = names->bucket_count * 4;
    belay_request **old = names->buckets;
    belay_request **buckets = belay__alloc(client->loop.world, count * sizeof *buckets);
    if (buckets == NULL) return;
    for (uint32_t i = 0; i < names->bucket_count; i++) {
        for (belay_request *request = old[i], *next; request != NULL; request = next) {
            next = request->bucket_next;
            request->bucket_next = buckets[request->hash & (count - 1)];
            buckets[request->hash & (count - 1)] = request;
        }
    }
    names->buckets = buckets;
    names->bucket_count = count;
    if (old != names->few) belay__free(old);
}

void belay__names_join(belay_request *request)
{
    if (request->queued) return;
    belay *client = request->client;
    const belay_str key = request->op.key;
    request->queued = true;
    belay_request **place = head_place(client, key.at, key.length, request->hash);
    if (*place != NULL) {
        belay_link_append(&(*place)->fifo, &request->fifo);
        return;
    }
    belay_links_init(&request->fifo);
    request->handoffs = 0;
    request->bucket_next = NULL;
    *place = request;
    if (++client->names.count > client->names.bucket_count) grow(client);
}

belay_request *belay__names_leave(belay_request *request)
{
    if (!request->queued) return NULL;
    belay *client = request->client;
    request->queued = false;
    belay_request **place =
        head_place(client, request->op.key.at, request->op.key.length, request->hash);
    if (*place != request) {
        belay_unlink(&request->fifo);
        return NULL;
    }
    if (belay_links_empty(&request->fifo)) {
        *place = request->bucket_next;
        client->names.count--;
        return NULL;
    }
    belay_request *next = belay_container_of(request->fifo.next, belay_request, fifo);
    belay_unlink(&request->fifo);
    next->bucket_next = request->bucket_next;
    next->handoffs = request->handoffs;
    *place = next;
    return next;
}

void belay__names_free(belay *client)
{
    if (client->names.buckets != client->names.few) belay__free(client->names.buckets);
    client->names.buckets = NULL;
}
