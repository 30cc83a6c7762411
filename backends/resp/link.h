/* link.h - one connection to one server: socket, TLS, the greeting, requests and their answers.
 *
 *   connecting -> shaking hands (TLS) -> greeting -> ready -> ended
 *
 * The requests of all threads go down one connection, in the order they were appended, and their
 * answers come back in that order. A request that is asked is a slot: it outlives whoever asked,
 * so that later answers stay matched. An answer that no slot waits for, or a stream that breaks the
 * protocol, ends the link; it is never used again.
 *
 * A link is made once and ends once. Whoever owns it (server.c, tracking.c) makes the next one.
 */
#ifndef BELAY_BACKENDS_RESP_LINK_H
#define BELAY_BACKENDS_RESP_LINK_H

#include "backends/resp/reply.h"
#include "backends/resp/socket.h"
#include "backends/resp/tls.h"
#include "backends/resp/words.h"

/* Where a server is and who we are there. Lives as long as the backend. */
struct belay__peer {
    char node[112]; /* for messages: "redis 127.0.0.1:6379" */
    const char *host;
    uint16_t port;
    const char *path; /* a unix socket's; NULL: host and port */
    const char *user, *password;
    const char *client_name;
    uint32_t db;
    struct belay__tls_context *tls; /* NULL: plain */
    bool resolve_here;              /* names are resolved on the calling thread, which blocks */
};

enum belay__moment {
    BELAY__LEFT,     /* its first byte is leaving now: link->left_ns */
    BELAY__ANSWERED, /* `reply` is its answer */
    BELAY__CUT       /* the link ended first; `left` of the slot says whether it may have arrived */
};
/* What happens to a request. `which` is the asker's own. */
typedef void belay__hear_fn(void *owner, uint32_t which, enum belay__moment moment,
                            const struct belay__reply *reply);

enum belay__link_state {
    BELAY__LINK_RESOLVING,
    BELAY__LINK_CONNECTING,
    BELAY__LINK_SHAKING,
    BELAY__LINK_GREETING,
    BELAY__LINK_READY,
    BELAY__LINK_ENDED
};

/* What a server said of itself in the greeting. */
struct belay__hello {
    char run_id[48]; /* "": it would not say */
    char version[24];
    char policy[24]; /* maxmemory_policy */
    char role[16];
    int64_t client_id; /* of this connection; 0: it would not say */
    int64_t uptime_s;  /* -1: it would not say */
    int64_t maxmemory; /* bytes; 0: no limit; -1: it would not say */
};

struct belay__slot {
    belay__hear_fn *hear; /* NULL: nobody listens any more */
    void *owner;
    uint64_t start; /* of its bytes in the stream */
    uint32_t length;
    uint32_t which;
    bool wants_left, left, withdrawn;
};

struct belay__link {
    belay_env *env;
    const struct belay__peer *peer;
    enum belay__link_state state;
    struct belay__hello hello;
    struct belay__failure why; /* it ended */
    int64_t left_ns;           /* during BELAY__LEFT: just before the bytes could leave */
    int64_t heard_ns;          /* when bytes came last, or it was opened */
    /* The owner's: set before belay__link_open. `push` gets what a subscribed connection is told.
     */
    void *owner;
    void (*ready)(struct belay__link *link);
    void (*ended)(struct belay__link *link); /* once; slots were told before */
    void (*idle)(struct belay__link *link);  /* every answer is in; may be NULL */
    void (*push)(struct belay__link *link, const struct belay__reply *reply);
    belay_link all; /* the owner's: in a list of links */

    /* link.c's own. */
    int64_t patience_ns; /* for each step until it is ready */
    int fd;
    belay_watch watch;
    belay_timer timer;
    belay_task flush;
    struct belay__tls *tls;
    struct belay__reader *reader;
    struct belay__addresses addresses;
    size_t address;
    struct belay__resolving *resolving;
    char *out; /* what has not left: [out_at, out_end) */
    size_t out_at, out_end, out_room;
    uint64_t sent; /* the stream's offset of out_at */
    struct belay__slot *slots;
    uint64_t slot_first, slot_next, slot_unleft; /* sequence numbers, from 1 */
    uint32_t slot_room;
    int64_t waiting_since_ns; /* the oldest unanswered request left then, or the last answer came */
    uint32_t greeting;        /* answers to come */
    unsigned busy;            /* on the stack: closing waits */
    uint64_t serial;          /* the owner's: no two of its links have the same */
    uint64_t run;             /* the owner's: two to the same run of the server have the same */
    bool served;              /* it has answered more than the greeting */
    bool mute;                /* sending failed: what the peer said before is still read */
    bool closed;
};

/* Begins to connect. NULL: no memory. What fails later is told by `ended`, never from inside this
 * call. `patience_ns`: how long each step may take. */
struct belay__link *belay__link_new(belay_env *env, const struct belay__peer *peer,
                                    int64_t patience_ns);
void belay__link_open(struct belay__link *link);
/* Closes the socket and frees it; slots are told CUT first unless `quiet`; `ended` is not called.
 */
void belay__link_close(struct belay__link *link, bool quiet);
/* Ends it for a reason of ours: as if the peer had cut it; `ended` is called. */
void belay__link_end(struct belay__link *link, belay_status status, belay_cause cause,
                     const char *format, ...) __attribute__((format(printf, 4, 5)));

/* The number as a request's word; returns its length. */
size_t belay__decimal(uint64_t value, char out[21]);
/* Appends a request to a ready link; it leaves soon. Returns its sequence number; 0: no memory, or
 * too much waits already. */
uint64_t belay__link_ask(struct belay__link *link, belay__hear_fn *hear, void *owner,
                         uint32_t which, bool wants_left, int argc, const char *const *argv,
                         const size_t *lengths);
/* Did a byte of it leave? */
bool belay__link_left(const struct belay__link *link, uint64_t seq);
/* Takes an unsent request out, as if it had never been asked. False: a byte of it has left. */
bool belay__link_withdraw(struct belay__link *link, uint64_t seq);
/* Nobody listens to that slot any more. */
void belay__link_forget(struct belay__link *link, uint64_t seq);
/* Requests that were asked and are not answered. */
static inline uint64_t belay__link_unanswered(const struct belay__link *link)
{
    return link->slot_next - link->slot_first;
}
/* Do bytes lie there to be read? */
bool belay__link_has_bytes(const struct belay__link *link);
/* For how long the oldest request that has left waits for its answer; 0: none does. */
int64_t belay__link_silence(const struct belay__link *link, int64_t now_ns);

#endif
