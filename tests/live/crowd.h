/* crowd.h - twenty workers in four processes on one host or two, who take and release a few names
 * through a fallback while the test breaks what it is made of; and whether anything went wrong that
 * must not, whatever is broken:
 *
 *   both      two of a host were inside at once, and both could believe in their lock; or two of
 *             the fleet, and both could believe that theirs was the fleet's
 *   fallen    a token was no larger than the one before it, of the same name
 *   untrue    the lock's scope was the fleet's, and the server did not have it with its owner
 *   lost      a lock was, though there is no other host that could have taken it
 *   odd       an answer that no outage explains
 *
 * The processes share a counter for each name and host, and one for the fleet: who enters must find
 * 0. */
#ifndef BELAY_TESTS_LIVE_CROWD_H
#define BELAY_TESTS_LIVE_CROWD_H

#include "tests/live/host.h"

enum { CROWD_PROCESSES = 4, CROWD_THREADS = 5, CROWD_NAMES = 4 };

/* Counts of all processes, for the test to look at at any time. */
struct crowd_counts {
    atomic_int fleet, host, held, doubted;   /* answers */
    atomic_int long_ones, demoted, promoted; /* of locks held for about their TTL */
    atomic_int asked;                        /* grants of which the server knew */
    atomic_int degraded, recovered;          /* events */
    atomic_int both, fallen, untrue, lost, odd;
    atomic_int tardy;   /* left a section after the lock had run out; no fault */
    atomic_int late_ms; /* the latest that a call ended after its time */
    atomic_int back_ms; /* calm: the slowest worker until its first grant of the fleet's */
    atomic_int astray;  /* workers who got none */
};

struct crowd;

struct crowd_scene {
    struct server server;
    struct relay *relay; /* to it */
    bool two_hosts; /* to be set before: processes 0 and 1 on one, behind the relay if the even ones
                       are, 2 and 3 on the other. The server must keep what it knows */
    struct host host, there;
    struct crowd *crowd;
    belay *client;    /* another process, where the even ones are, */
    belay_lock *held; /* with a kept lock that nobody else wants */
};

/* A server that outlives a kill with what it had, or does not; a relay; a host; and the crowd, at
 * work. `relayed`: are the even, the odd processes behind the relay? Fails the test when it can't.
 */
void crowd_begin(struct crowd_scene *scene, bool persist, bool even_relayed, bool odd_relayed);
struct crowd_counts *crowd_counts(struct crowd_scene *scene);
/* The server is about to forget what it knows. */
void crowd_server_forgets(struct crowd_scene *scene);
/* Waits until so many more have been counted. */
void crowd_await(struct crowd_scene *scene, atomic_int *of, int more);
/* Waits until the held lock has that scope, which it must get without being lost. */
void crowd_await_held(struct crowd_scene *scene, belay_scope scope);
/* All is well again. Tells them to end, and fails the test unless everything was as it must be: in
 * the end each is back with the fleet, and nothing is left in either place. */
void crowd_end(struct crowd_scene *scene, const char *what);
/* After each test, also one that failed in the middle. */
void crowd_clear(struct crowd_scene *scene);

#endif
