/* reply.h - what a server said: a reader with limits, and replies to look at.
 *
 * hiredis parses; the replies are kept here, in memory that the next reply uses again, so that
 * neither a reply nor a hostile peer costs an allocation for each element. A stream that broke the
 * protocol or a limit stays broken: the connection is to be closed.
 */
#ifndef BELAY_BACKENDS_RESP_REPLY_H
#define BELAY_BACKENDS_RESP_REPLY_H

#include <belay/backend.h>

enum {
    BELAY__REPLY_BYTES = 8 << 20,    /* fed for one reply: INFO, a page of SCAN, a cluster's map */
    BELAY__REPLY_ELEMENTS = 1 << 17, /* of one reply, nested ones included */
    BELAY__REPLY_DEPTH = 6           /* arrays in arrays; hiredis 0.14 itself takes 7 */
};

enum belay__reply_type {
    BELAY__REPLY_NIL,
    BELAY__REPLY_INTEGER,
    BELAY__REPLY_STRING, /* a bulk string */
    BELAY__REPLY_STATUS, /* "+OK" */
    BELAY__REPLY_ERROR,  /* "-ERR ..." */
    BELAY__REPLY_ARRAY
};

/* A reply and, in preorder behind it, what it is made of. Valid until the next one is read. */
struct belay__reply {
    enum belay__reply_type type;
    uint32_t count;  /* of an array's elements */
    uint32_t span;   /* how many replies stand here, this one and all below it */
    uint32_t length; /* of text */
    int64_t integer;
    const char *text; /* NUL-terminated as well; "" where it is not a text */
};

/* The i-th element of an array, or NULL. */
const struct belay__reply *belay__reply_item(const struct belay__reply *reply, uint32_t i);
/* Is it that status ("OK"), whatever else? */
bool belay__reply_is(const struct belay__reply *reply, const char *status);

struct belay__reader;

struct belay__reader *belay__reader_new(belay_env *env); /* NULL: no memory */
void belay__reader_free(struct belay__reader *reader);   /* NULL is allowed */
/* Takes bytes from the server. False: broken. */
bool belay__reader_feed(struct belay__reader *reader, const char *bytes, size_t length);
/* The next complete reply, or NULL: none yet, or broken. */
const struct belay__reply *belay__reader_next(struct belay__reader *reader);
/* Why it is broken, or NULL while it is not. */
const char *belay__reader_broken(const struct belay__reader *reader);

#endif
