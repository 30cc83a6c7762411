/* sim.h - the simulation: clients of a fallback in one thread, on one turned clock, from one seed.
 *
 *   world.c      a client's belay_world: the shared clock, its host's wall clock, its chance
 *   place.c      what each place holds in truth, kept beside the memory backend's own table
 *   gate.c       the backend between a client and a place: the network, and a server that fails
 *   view.c       a look at the places themselves
 *   client.c     a process: opened, asking, holding, frozen, killed, closed
 *   check.c      what must be true whatever happens
 *   schedule.c   from a seed to a configuration and to what happens
 *   main.c       many seeds; one seed, told aloud
 *
 * A seed stands for one schedule. SIM_ROUNDS schedules that follow each other share one set of
 * clients (opening them costs as much as a schedule), so a seed is replayed from the first of its
 * set on. Everything runs in one thread and draws from the seed alone: two runs are the same. */
#ifndef BELAY_TESTS_SIM_H
#define BELAY_TESTS_SIM_H

#include <belay/backend.h>
#include <stdio.h>

#define SIM_MS INT64_C(1000000) /* nanoseconds */
#define SIM_PREFIX "sim:"
#define SIM_TTL_MOST(ttl_ms) (100 + (ttl_ms) / 2 * 3) /* the longest of a lock, in milliseconds */

enum {
    SIM_ROUNDS = 16,
    SIM_HOSTS = 2,
    SIM_CLIENTS = 5,
    SIM_NAMES = 3,
    SIM_HELD = 4,
    SIM_ASKED = 6,
    SIM_FORGOTTEN = 8,
    SIM_ROWS = 16
};

enum sim_place_id { SIM_FLEET, SIM_HOST_A, SIM_HOST_B, SIM_PLACES };
enum sim_side { SIM_PRIMARY, SIM_SECONDARY, SIM_SIDES };

struct sim;
struct sim_client;

/* ------------------------------------------------------------------ places */

struct sim_row {
    char key[64];
    char owner[BELAY_OWNER_LENGTH + 1];
    struct sim_client *client;
    uint32_t life; /* of the client */
    int64_t until_ns;
    bool late; /* lengthened by an extension that was given up long before */
};

struct sim_place {
    struct sim_row rows[SIM_ROWS];
    uint32_t count;
    uint32_t epoch; /* how often it has lost its data */
};

/* A row of one of SIM_NAMES at random; NULL: there is none. */
struct sim_row *sim_place_some(struct sim *sim, struct sim_place *place);
/* Somebody takes it away. */
void sim_place_lose(struct sim_place *place, struct sim_row *row);
/* What was executed at the place; `late`: when its caller had been answered. False: it can't be. */
bool sim_place_did(struct sim_place *place, struct sim_client *client, const belay_op *op,
                   bool late);
/* Who holds it now; NULL: nobody. */
const struct sim_row *sim_place_look(const struct sim_place *place, const char *key, int64_t now);

/* ------------------------------------------------------------------ links */

enum sim_state {
    SIM_UP,
    SIM_REFUSES, /* nobody listens there: at once */
    SIM_SILENT,  /* no answer comes; what was sent may be executed, now, later or never */
    SIM_BUSY,    /* answers that it can't serve */
    SIM_DEAD     /* the client was killed */
};

/* From one client to one place. */
struct sim_link {
    struct sim_client *client;
    struct sim_place *place;
    enum sim_state state;
    belay_scope scope;
    int64_t out_most_ns, back_most_ns; /* how long a request or a reply may take; 0: no time */
    uint32_t cuts;                     /* how often the connection has broken */
    int64_t ill_ns;                    /* when something was wrong with it last */
    int64_t busy_ns;                   /* when it was busy last */
    int64_t away_ns;                   /* when it was out of reach last */
    struct sim_gate *gate;             /* NULL: not opened */
};

extern const belay_backend_ops sim_gate_ops, sim_view_ops;
/* The link was changed: its client sees that when it runs. */
void sim_link_changed(struct sim_link *link);
/* Has nothing been wrong with it, or with its client, for that long? */
bool sim_link_well(const struct sim_link *link, int64_t ns);

/* ------------------------------------------------------------------ clients */

struct sim_world {
    belay_world base;
    struct sim_client *client;
    uint64_t random;
};

/* A lock that a client holds, or asks for. */
struct sim_held {
    struct sim_client *client;
    enum { SIM_FREE, SIM_WANTED, SIM_TAKEN } state;
    belay_lock *lock;
    int name;
    bool kept;
    uint32_t ttl_ms;
    int64_t asked_ns;
    belay_scope at_least, scope; /* scope: as its holder was told */
    uint32_t lost;               /* how often its loss was told */
    int64_t broken_ns;           /* somebody took it away from its host's place; 0: nobody */
    char broken[BELAY_OWNER_LENGTH + 1]; /* its id then */
    bool fleet_broken;                   /* ... or from the primary */
    bool forgotten;                      /* its client is told that the primary has forgotten it */
    bool was_degraded;                   /* it had not the fleet's scope for a time */
    uint32_t epoch; /* of the primary, when it was told to have the fleet's scope */
    int moved;      /* by events: -1 demoted last, 1 promoted, 0 neither */
};

/* A call that was started and has not answered. */
struct sim_asked {
    struct sim_client *client;
    bool used;
    char verb; /* 'a', 'r', 'e' */
    int name;
    struct sim_held *held;              /* of an acquire: what it will fill */
    char owner[BELAY_OWNER_LENGTH + 1]; /* of a release: whose lock it was ... */
    bool fleet;                         /* ... and was that the fleet's? */
    belay_request *request;
    int64_t by_ns; /* it must have been answered */
    uint32_t freezes;
};

struct sim_client {
    struct sim *sim;
    int number, host;
    uint32_t life; /* counts its openings */
    belay *belay;  /* NULL: there is no such process now */
    bool going;    /* killed or being closed: its callbacks count no more */
    bool frozen;   /* stopped by its scheduler */
    uint32_t freezes;
    bool degraded;   /* by its events ... */
    int64_t down_ns; /* ... since then */
    struct sim_world world;
    struct sim_link links[SIM_SIDES];
    struct sim_held held[SIM_HELD];
    struct sim_asked asked[SIM_ASKED];
    char forgotten[SIM_FORGOTTEN][BELAY_OWNER_LENGTH + 1]; /* told so of these, last */
    uint32_t forgotten_count;
    belay_lock *orphans[SIM_ASKED]; /* granted while it was being closed */
    int orphan_count;
};

/* belay_open with that text as its configuration file. */
bool sim_open(struct sim *sim, belay **out, const char *text, const belay_open_options *options);
bool sim_client_open(struct sim_client *client);
void sim_client_kill(struct sim_client *client);
void sim_client_close(struct sim_client *client);
void sim_client_acquire(struct sim_client *client, int name);
void sim_client_release(struct sim_held *held);
void sim_client_extend(struct sim_held *held, uint32_t ttl_ms);
struct sim_held *sim_client_some_lock(struct sim_client *client); /* at random; NULL: none */
int sim_client_locks(const struct sim_client *client);
int sim_client_calls(const struct sim_client *client);
const char *sim_name(int name); /* 0 .. SIM_NAMES-1 */
const char *sim_key(int name);  /* with the prefix */

/* ------------------------------------------------------------------ the world */

struct sim_config {
    int clients, on_first_host;
    bool local, host_first, fencing, keep, faults;
    bool short_of_memory; /* now and then an allocation fails */
    uint32_t ttl_ms, settle_ms, trip_after, probe_every_ms, probe_most_ms, outage_ms, close_ms;
    uint32_t primary_timeout_ms, secondary_timeout_ms;
    int64_t primary_slow_ns, secondary_slow_ns;    /* the longest latency of each */
    char fault_primary[640], fault_secondary[640]; /* keys of a fault backend; "": none */
};

struct sim_options {
    bool plain;         /* no fallback: every client has the primary alone */
    bool no_host_first; /* what belay promises with host_first is claimed without it: must fail */
    bool loud;          /* what happens is printed ... */
    bool last;          /* ... that is, kept for sim_say_last */
};

struct sim {
    uint64_t seed;   /* of the schedule that runs */
    uint64_t random; /* the state */
    int64_t now_ns, began_ns;
    int64_t wall_us[SIM_HOSTS]; /* what each host's wall clock is off by */
    uint64_t digest;            /* of all that happened */
    uint64_t events, grants, fleet_grants, moves;
    struct sim_options options;
    struct sim_config config;
    struct sim_place places[SIM_PLACES];
    struct sim_client clients[SIM_CLIENTS];
    struct sim_client *running; /* whose dispatch or call it is */
    struct sim_client *closing; /* whose belay_close waits */
    bool killing;               /* a dead client's memory is freed: that takes no time */
    belay *viewer;              /* looks at the places without a network */
    int viewed;                 /* at which: the primary's two, then the hosts' */
    struct sim_world viewer_world;
    uint64_t token_host[SIM_NAMES][SIM_HOSTS]; /* the largest so far */
    uint64_t token_fleet[SIM_NAMES];           /* of this epoch */
    bool emptied;                              /* the primary, in this schedule */
    bool short_of_memory;                      /* now */
    bool failed;
    char failure[512];
};

extern struct sim *sim_current; /* a table of functions has no argument of its own */

uint64_t sim_random(struct sim *sim);
uint32_t sim_below(struct sim *sim, uint32_t bound); /* 0 .. bound-1 */
bool sim_chance(struct sim *sim, uint32_t percent);
int64_t sim_up_to(struct sim *sim, int64_t most); /* 0 .. most */
void sim_world_init(struct sim_world *world, struct sim_client *client, uint64_t seed);

void sim_mix(struct sim *sim, uint64_t number); /* into the digest */
void sim_say(struct sim *sim, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Prints the last that was said. */
void sim_say_last(FILE *to);
/* The first failure is the one that is kept. */
void sim_fail(struct sim *sim, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Lets everybody do what is due now. */
void sim_settle(struct sim *sim);
/* Turns the clock to that moment, from one client's next work to another's. */
void sim_run_until(struct sim *sim, int64_t until_ns);
/* When somebody has something to do; INT64_MAX: nobody ever. */
int64_t sim_next_due(const struct sim *sim);

/* ------------------------------------------------------------------ checks */

void sim_check_granted(struct sim *sim, struct sim_held *held);
void sim_check_scope(struct sim *sim, struct sim_held *held, belay_scope now);
void sim_check_lost(struct sim *sim, struct sim_held *held, const char *why);
void sim_check_event(struct sim *sim, struct sim_client *client, const belay_event *event);
/* It is being told that the primary has forgotten this owner's lock. */
void sim_check_forgotten(struct sim_client *client, const char *owner);
void sim_check_answered(struct sim *sim, const struct sim_asked *asked, belay_status status);
/* Somebody took that row away: its holder may believe until it looks. */
void sim_check_broken(struct sim *sim, enum sim_place_id place, const struct sim_row *row);
void sim_check_client(struct sim *sim, struct sim_client *client); /* it has just run */
void sim_check_all(struct sim *sim);                               /* at any moment */
/* After a time without misfortunes. False: not yet (said by `why`). */
bool sim_check_healthy(struct sim *sim, char *why, size_t size);
/* What is at the places is somebody's. */
bool sim_check_owned(struct sim *sim, char *why, size_t size);
/* All was released: nothing may be left anywhere. */
bool sim_check_empty(struct sim *sim, char *why, size_t size);
/* Takes the row's lock away. */
void sim_view_break(struct sim *sim, int which, const struct sim_row *row);
/* Empties the place that the primary will have after it lost its data. */
void sim_view_clear(struct sim *sim, int which);

/* ------------------------------------------------------------------ schedules */

struct sim_result {
    bool failed;
    uint64_t seed; /* that failed */
    char failure[512];
    uint64_t digest, events, grants, fleet_grants, moves;
};

/* Runs the schedules `first` to `last`, which belong to one set. */
void sim_run(uint64_t first, uint64_t last, const struct sim_options *options,
             struct sim_result *result);
/* The configuration file of one client, as text. */
void sim_config_text(const struct sim_client *client, char *text, size_t size);

#endif
