/* peer.h - a fake server: it says what the test wants said, byte by byte, and keeps what it was
 * asked.
 *
 * A connection is served by itself, on a thread of its own: it plays its script if it has one
 * (peer_script), and after that, or without one, answers command by command: the test's `handle`
 * first, then the plausible answers of a Redis 7 to a handshake. */
#ifndef BELAY_TESTS_FAKE_PEER_H
#define BELAY_TESTS_FAKE_PEER_H

#include "tests/fake/request.h"
#include <stdbool.h>
#include <stddef.h>

struct peer;
struct peer_connection;

/* True: it was dealt with, by peer_reply or by saying nothing. False: the peer answers as it likes.
 * One at a time, on a connection's thread. */
typedef bool peer_handle_fn(void *arg, struct peer_connection *connection, int argc, char **argv);

struct peer_options {
    const char *socket;  /* a unix socket's path; NULL: a free port of 127.0.0.1 */
    bool never_accepts;  /* a listener whose backlog is full: connects neither succeed nor fail */
    const char *run_id;  /* what INFO says; NULL: forty zeroes and ones */
    const char *version; /* NULL: "7.0.15" */
    const char *info;    /* more lines of INFO, each ended by "\r\n" */
    peer_handle_fn *handle;
    void *arg;
};

struct peer *peer_start(const struct peer_options *options); /* NULL: it could not */
void peer_end(struct peer *peer); /* cuts every connection; NULL is allowed */
int peer_port(const struct peer *peer);
/* redis://127.0.0.1:PORT or redis+unix://PATH; lives as long as the peer. */
const char *peer_url(const struct peer *peer);

/* Between these no handle runs: for what it shares with the test. */
void peer_lock(struct peer *peer);
void peer_unlock(struct peer *peer);

/* ------------------------------------------------------------------ saying */

/* In handle: the bytes go out as they are. */
void peer_reply(struct peer_connection *connection, const char *bytes);
void peer_reply_bytes(struct peer_connection *connection, const void *bytes, size_t length);
/* In handle: a bulk string; an error or status line is simply "-ERR what\r\n". */
void peer_reply_bulk(struct peer_connection *connection, const char *text);
/* In handle: the connection ends when it returns; `reset`: by RST. */
void peer_hang_up(struct peer_connection *connection, bool reset);
int peer_number(const struct peer_connection *connection); /* 0: the first that was accepted */

/* Any thread: bytes out of turn, on connection `number`. False: it is gone, or was never there. */
bool peer_say(struct peer *peer, int number, const void *bytes, size_t length);
/* Any thread: ends the connection, or all (PEER_ALL). */
#define PEER_ALL (-1)
void peer_cut(struct peer *peer, int number, bool reset);
/* Closes the listener, so that connects are refused, or opens it again on the same address. */
void peer_refuse(struct peer *peer, bool refuse);

/* ------------------------------------------------------------------ scripts */

enum peer_act {
    PEER_EXPECT,    /* reads until `count` more commands came (0: one) */
    PEER_EXPECT_IS, /* reads until a command came that matches `text` (request_is) */
    PEER_UNTIL,     /* answers as PEER_SERVE until a command matches `text`: that one it does not */
    PEER_SEND,      /* sends `text` (`count` bytes, or the string when that is 0) */
    PEER_DRIP,      /* the same, a byte each `ms` milliseconds */
    PEER_WAIT,      /* reads on, and waits for one peer_go */
    PEER_DEAF,      /* the same without reading: the client's socket fills up */
    PEER_CLOSE,     /* ends the connection in order */
    PEER_RESET,     /* by RST */
    PEER_SILENT,    /* reads, says nothing any more, until the client leaves */
    PEER_SERVE      /* answers `count` commands by handle and by itself (0: all from now on) */
};

struct peer_step {
    enum peer_act act;
    size_t count;
    const char *text;
    int ms;
};

/* What the connection with this number will play; before it is accepted. The steps (and their
 * texts) must live as long as the peer. After the last one: PEER_SERVE. PEER_ALL: whichever has
 * none of its own. */
void peer_script(struct peer *peer, int number, const struct peer_step *steps, size_t count);
void peer_go(struct peer *peer); /* lets one PEER_WAIT go on */
/* Waits until the connection has played its script to the end, or `ms` have passed. */
bool peer_played(struct peer *peer, int number, int ms);

/* ------------------------------------------------------------------ asking what it heard */

struct requests *peer_requests(struct peer *peer); /* everything it was sent, in order */
int peer_connections(struct peer *peer);           /* accepted so far */
int peer_live(struct peer *peer);                  /* open now */

#endif
