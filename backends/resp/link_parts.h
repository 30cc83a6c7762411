/* link_parts.h - private to link*.c: what the parts of a link do for each other.
 *
 *   link.c         writing, reading, the end
 *   link_slots.c   requests that are not answered, bytes that have not left
 *   link_greet.c   the first requests
 *   link_open.c    names, addresses, sockets
 */
#ifndef BELAY_BACKENDS_RESP_LINK_PARTS_H
#define BELAY_BACKENDS_RESP_LINK_PARTS_H

#include "backends/resp/link.h"

/* ------------------------------------------------------------------ link_slots.c */

/* belay__link_ask, ready or not: the greeting goes first. */
uint64_t belay__link_put(struct belay__link *link, belay__hear_fn *hear, void *owner,
                         uint32_t which, bool wants_left, int argc, const char *const *argv,
                         const size_t *lengths);
struct belay__slot *belay__link_slot(const struct belay__link *link, uint64_t seq);
/* Slots at the front that were withdrawn go. */
void belay__link_slots_skip(struct belay__link *link);
/* Every slot is told CUT. */
void belay__link_slots_cut(struct belay__link *link);
/* So many bytes have left. */
void belay__link_took(struct belay__link *link, size_t count, int64_t now_ns);

/* ------------------------------------------------------------------ link.c */

/* Around whatever may end the link: its memory stays until the last `leave`. */
void belay__link_enter(struct belay__link *link);
void belay__link_leave(struct belay__link *link);
void belay__link_disconnect(struct belay__link *link); /* the socket and TLS alone */
/* It is over, as link->why says: slots are told, then the owner. */
void belay__link_finish(struct belay__link *link);
void belay__link_flush(struct belay__link *link);
void belay__link_flush_due(belay_task *task);
void belay__link_events(belay_watch *watch, uint32_t events);
void belay__link_tls_failed(struct belay__link *link);

/* ------------------------------------------------------------------ link_greet.c, link_open.c */

void belay__link_greet(struct belay__link *link);
void belay__link_connected(struct belay__link *link); /* the socket is writable */
/* Whatever name is being resolved for it, the answer is nobody's. */
void belay__link_unresolve(struct belay__link *link);

#endif
