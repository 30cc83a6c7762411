/* alloc.h - belay's own allocator: zeroed memory, and a world that may refuse it.
 *
 * Every allocation of core goes through here (and every one of a backend through belay_env_alloc),
 * so that a test can make each of them fail in turn. A failure is an answer, BELAY_NOMEM, never an
 * exit. */
#ifndef BELAY_CORE_ALLOC_H
#define BELAY_CORE_ALLOC_H

#include <belay/backend.h>
#include <stdlib.h>
#include <string.h>

/* `world` may be NULL: the real one. NULL when it fails. */
static inline void *belay__alloc(belay_world *world, size_t size)
{
    if (world != NULL && world->may_alloc != NULL && !world->may_alloc(world, size)) return NULL;
    return calloc(1, size != 0 ? size : 1);
}

static inline void belay__free(void *memory)
{
    free(memory);
}

static inline char *belay__copy(belay_world *world, const char *from, size_t length)
{
    char *copy = belay__alloc(world, length + 1);
    if (copy != NULL) memcpy(copy, from, length);
    return copy;
}

static inline char *belay__strdup(belay_world *world, const char *from)
{
    return belay__copy(world, from, strlen(from));
}

#endif
