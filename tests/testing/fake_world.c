/* fake_world.c - a world that a test owns: its clock, its chance, its memory.
 *
 * The clocks and counters are atomic, so that a client may ask them with any lock of its own held.
 * One mutex guards the list of clients and stays held while they are kicked: after detach has
 * returned, no kick of that client runs or will. A kick therefore must not wait for anything. */
#define _POSIX_C_SOURCE 200809L
#include <belay/backend.h>
#include <belay/testing.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#define FIRST_NOW_NS INT64_C(1234567890123457)  /* two weeks after boot, and odd */
#define FIRST_WALL_US INT64_C(1767225600000000) /* 2026-01-01 00:00 UTC */

struct attached {
    belay_kick_fn *kick;
    void *arg;
    struct attached *next;
};

struct belay_fake_world {
    belay_world base;
    _Atomic int64_t now_ns;
    _Atomic int64_t stepped_us; /* what the wall clock was stepped by */
    atomic_bool auto_advance;
    _Atomic uint64_t allocs, refused;
    _Atomic uint64_t fail_at; /* refuse the allocation with this number; 0: none */
    pthread_mutex_t random_lock;
    uint64_t random_state;
    pthread_mutex_t clients_lock;
    struct attached *clients;
};

static belay_fake_world *fake_of(belay_world *base)
{
    return belay_container_of(base, belay_fake_world, base);
}

/* ------------------------------------------------------------------ what core asks */

static int64_t fake_now(belay_world *base)
{
    return belay_fake_now(fake_of(base));
}

static int64_t fake_wall(belay_world *base)
{
    return belay_fake_wall(fake_of(base));
}

/* splitmix64: every seed gives a full-period stream, also 0. */
static uint64_t random_next(uint64_t *state)
{
    uint64_t z = (*state += UINT64_C(0x9e3779b97f4a7c15));
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

static void fake_random(belay_world *base, void *out, size_t length)
{
    belay_fake_world *world = fake_of(base);
    unsigned char *at = out;
    pthread_mutex_lock(&world->random_lock);
    while (length > 0) {
        uint64_t word = random_next(&world->random_state);
        size_t part = length < sizeof word ? length : sizeof word;
        memcpy(at, &word, part);
        at += part;
        length -= part;
    }
    pthread_mutex_unlock(&world->random_lock);
}

static void kick_all(belay_fake_world *world)
{
    pthread_mutex_lock(&world->clients_lock);
    for (struct attached *a = world->clients; a != NULL; a = a->next) a->kick(a->arg);
    pthread_mutex_unlock(&world->clients_lock);
}

static bool fake_wait(belay_world *base, int64_t until_ns)
{
    belay_fake_world *world = fake_of(base);
    if (until_ns == INT64_MAX || !atomic_load(&world->auto_advance)) return false;
    int64_t now = atomic_load(&world->now_ns);
    while (now < until_ns) {
        if (atomic_compare_exchange_weak(&world->now_ns, &now, until_ns)) {
            kick_all(world); /* other clients of this world have timers, too */
            break;
        }
    }
    return true;
}

static bool fake_may_alloc(belay_world *base, size_t size)
{
    belay_fake_world *world = fake_of(base);
    (void)size;
    uint64_t number = atomic_fetch_add(&world->allocs, 1) + 1;
    if (number != atomic_load(&world->fail_at)) return true;
    atomic_fetch_add(&world->refused, 1);
    return false;
}

static belay_status fake_attach(belay_world *base, belay_kick_fn *kick, void *arg)
{
    belay_fake_world *world = fake_of(base);
    struct attached *a = fake_may_alloc(base, sizeof *a) ? calloc(1, sizeof *a) : NULL;
    if (a == NULL) return BELAY_NOMEM;
    a->kick = kick;
    a->arg = arg;
    pthread_mutex_lock(&world->clients_lock);
    a->next = world->clients;
    world->clients = a;
    pthread_mutex_unlock(&world->clients_lock);
    return BELAY_OK;
}

static void fake_detach(belay_world *base, belay_kick_fn *kick, void *arg)
{
    belay_fake_world *world = fake_of(base);
    struct attached *gone = NULL;
    pthread_mutex_lock(&world->clients_lock);
    for (struct attached **at = &world->clients; *at != NULL; at = &(*at)->next) {
        if ((*at)->kick != kick || (*at)->arg != arg) continue;
        gone = *at;
        *at = gone->next;
        break;
    }
    pthread_mutex_unlock(&world->clients_lock);
    free(gone);
}

/* ------------------------------------------------------------------ what a test asks */

belay_fake_world *belay_fake_create(uint64_t seed)
{
    belay_fake_world *world = calloc(1, sizeof *world);
    if (world == NULL) return NULL;
    world->base = (belay_world){
        .size = (uint32_t)sizeof(belay_world),
        .now = fake_now,
        .wall = fake_wall,
        .random = fake_random,
        .wait = fake_wait,
        .may_alloc = fake_may_alloc,
        .attach = fake_attach,
        .detach = fake_detach,
    };
    atomic_init(&world->now_ns, FIRST_NOW_NS);
    atomic_init(&world->stepped_us, 0);
    atomic_init(&world->auto_advance, true);
    atomic_init(&world->allocs, 0);
    atomic_init(&world->refused, 0);
    atomic_init(&world->fail_at, 0);
    world->random_state = seed;
    pthread_mutex_init(&world->random_lock, NULL);
    pthread_mutex_init(&world->clients_lock, NULL);
    return world;
}

void belay_fake_destroy(belay_fake_world *world)
{
    if (world == NULL) return;
    while (world->clients != NULL) {
        struct attached *a = world->clients;
        world->clients = a->next;
        free(a);
    }
    pthread_mutex_destroy(&world->clients_lock);
    pthread_mutex_destroy(&world->random_lock);
    free(world);
}

belay_world *belay_fake_base(belay_fake_world *world)
{
    return &world->base;
}

int64_t belay_fake_now(const belay_fake_world *world)
{
    return atomic_load(&world->now_ns);
}

int64_t belay_fake_wall(const belay_fake_world *world)
{
    int64_t passed_us = (atomic_load(&world->now_ns) - FIRST_NOW_NS) / 1000;
    return FIRST_WALL_US + passed_us + atomic_load(&world->stepped_us);
}

void belay_fake_advance(belay_fake_world *world, int64_t ns)
{
    if (ns > 0) atomic_fetch_add(&world->now_ns, ns);
    kick_all(world);
}

void belay_fake_step_wall(belay_fake_world *world, int64_t us)
{
    atomic_fetch_add(&world->stepped_us, us);
}

void belay_fake_auto_advance(belay_fake_world *world, bool on)
{
    atomic_store(&world->auto_advance, on);
    kick_all(world);
}

void belay_fake_fail_alloc(belay_fake_world *world, uint64_t nth)
{
    atomic_store(&world->fail_at, nth == 0 ? 0 : atomic_load(&world->allocs) + nth);
}

uint64_t belay_fake_allocs(const belay_fake_world *world)
{
    return atomic_load(&world->allocs);
}

uint64_t belay_fake_refused(const belay_fake_world *world)
{
    return atomic_load(&world->refused);
}

size_t belay_fake_clients(const belay_fake_world *world)
{
    belay_fake_world *mine =
        (belay_fake_world *)world; /* to lock it; nothing a caller sees changes */
    size_t count = 0;
    pthread_mutex_lock(&mine->clients_lock);
    for (struct attached *a = mine->clients; a != NULL; a = a->next) count++;
    pthread_mutex_unlock(&mine->clients_lock);
    return count;
}
