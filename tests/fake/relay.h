/* relay.h - a relay between a client and a real server: passes on, delays, holds back, swallows,
 * cuts; at a moment that the test chooses by the command, not by the clock.
 *
 * It forwards requests whole and counts replies, so it knows which reply belongs to which request.
 * With `raw` (TLS, say) it only moves bytes: then traps and commands are not to be had. */
#ifndef BELAY_TESTS_FAKE_RELAY_H
#define BELAY_TESTS_FAKE_RELAY_H

#include "tests/fake/request.h"
#include <stdbool.h>
#include <stdint.h>

struct relay;

struct relay_options {
    const char *to_socket; /* the server's unix socket; NULL: to_port on 127.0.0.1 */
    int to_port;
    const char *socket; /* where the relay listens; NULL: a free port of 127.0.0.1 */
    bool raw;
};

struct relay *relay_start(const struct relay_options *options); /* NULL: it could not */
void relay_end(struct relay *relay);                            /* NULL is allowed */
int relay_port(const struct relay *relay);
/* redis://127.0.0.1:PORT or redis+unix://PATH; lives as long as the relay. */
const char *relay_url(const struct relay *relay);

/* ------------------------------------------------------------------ controls; any thread */

enum relay_way { RELAY_UP = 0, RELAY_DOWN = 1 }; /* to the server; to the client */

/* A connection's number, 0 for the first that was accepted; or every one, future ones too. */
#define RELAY_ALL (-1)

/* From now on every byte that way arrives so much later. */
void relay_delay(struct relay *relay, enum relay_way way, int ms);
/* Stops forwarding that way, sockets stay; what comes is forwarded when it is let go. */
void relay_hold(struct relay *relay, int number, enum relay_way way, bool hold);
/* Swallows what comes that way from now on, also what was held back. There is no way back for a
 * connection that has lost bytes; `drop` false is for those that come later. */
void relay_drop(struct relay *relay, int number, enum relay_way way, bool drop);
/* Cuts now: both sides are closed; RELAY_ALL means those that are open. `reset`: by RST. */
void relay_cut(struct relay *relay, int number, bool reset);
/* Closes the listener, so that connects are refused, or opens it again on the same address. */
void relay_refuse(struct relay *relay, bool refuse);
/* From now on connects to another server (a port of 127.0.0.1). */
void relay_turn(struct relay *relay, int to_port);

/* A trap waits for the next request that matches `pattern` (request_is) on whichever connection,
 * and goes off once. One at a time; a new one replaces one that has not gone off. */
enum relay_trap {
    RELAY_NO_TRAP = 0,
    RELAY_CUT_BEFORE,   /* the request is not forwarded; both sides are cut */
    RELAY_CUT_AFTER,    /* the server executes it; instead of its reply, both sides are cut */
    RELAY_HOLD_REQUEST, /* that connection is held RELAY_UP from this request on */
    RELAY_HOLD_REPLY,   /* that connection is held RELAY_DOWN from its reply on */
    RELAY_DROP_REPLY,   /* its reply and all that follows on that connection is swallowed */
    RELAY_REFUSE_AFTER  /* as RELAY_CUT_AFTER, and connects are refused from then on */
};
void relay_trap(struct relay *relay, enum relay_trap trap, const char *pattern);
/* Waits until it has gone off: for CUT_AFTER, HOLD_REPLY and DROP_REPLY that is when the server has
 * answered. The number of the connection, or -1: it has not, for `ms`. */
int relay_trapped(struct relay *relay, int ms);

/* ------------------------------------------------------------------ counts */

struct requests *relay_requests(
    struct relay *relay);                   /* every request that was forwarded, in order */
int relay_connections(struct relay *relay); /* accepted so far */
int relay_live(struct relay *relay);        /* open now */
int64_t relay_bytes(struct relay *relay, enum relay_way way); /* forwarded so far */

#endif
