/* world.c - time and chance: one clock for all, turned from one client's next work to another's.
 *
 * A client is run by belay_dispatch, and only when it has something to do: core's private headers
 * tell when that is. A client that blocks (in belay_close) lets the others run meanwhile. */
#include "tests/sim/sim.h"

#include "core/client.h"

#include <stdio.h>
#include <stdlib.h>

#define FIRST_WALL_US INT64_C(1767225600000000) /* 2026-01-01 00:00 UTC */

enum {
    WORK_MOST = 200000, /* dispatches in one go: more is a spin */
    LAST_LINES = 60,
    ALLOC_FAILS_OF = 60
};

struct sim *sim_current;

/* ------------------------------------------------------------------ chance */

/* splitmix64: every seed gives a full-period stream, also 0. */
static uint64_t next(uint64_t *state)
{
    uint64_t z = (*state += UINT64_C(0x9e3779b97f4a7c15));
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

uint64_t sim_random(struct sim *sim)
{
    return next(&sim->random);
}

uint32_t sim_below(struct sim *sim, uint32_t bound)
{
    return (uint32_t)(((sim_random(sim) >> 32) * bound) >> 32);
}

bool sim_chance(struct sim *sim, uint32_t percent)
{
    return sim_below(sim, 100) < percent;
}

int64_t sim_up_to(struct sim *sim, int64_t most)
{
    return most > 0 ? (int64_t)(sim_random(sim) % (uint64_t)(most + 1)) : 0;
}

/* ------------------------------------------------------------------ what is told */

void sim_mix(struct sim *sim, uint64_t number)
{
    sim->digest = (sim->digest ^ number) * UINT64_C(0x100000001b3);
    sim->digest ^= sim->digest >> 29;
    sim->events++;
}

static char said[LAST_LINES][200];
static uint32_t said_count;

void sim_say(struct sim *sim, const char *format, ...)
{
    char line[sizeof said[0]];
    va_list args;
    if (!sim->options.loud) return;
    int at = snprintf(line, sizeof line, "%12.6f ", (double)(sim->now_ns - sim->began_ns) / 1e6);
    va_start(args, format);
    vsnprintf(line + at, sizeof line - (size_t)at, format, args);
    va_end(args);
    if (sim->options.last) memcpy(said[said_count++ % LAST_LINES], line, sizeof line);
    else puts(line);
}

void sim_say_last(FILE *to)
{
    uint32_t first = said_count > LAST_LINES ? said_count - LAST_LINES : 0;
    for (uint32_t i = first; i < said_count; i++) fprintf(to, "%s\n", said[i % LAST_LINES]);
    said_count = 0;
}

void sim_fail(struct sim *sim, const char *format, ...)
{
    va_list args;
    if (sim->failed) return;
    sim->failed = true;
    va_start(args, format);
    vsnprintf(sim->failure, sizeof sim->failure, format, args);
    va_end(args);
    sim_say(sim, "FAILED: %s", sim->failure);
}

/* ------------------------------------------------------------------ running clients */

static bool has_work(const struct sim_client *client)
{
    const struct belay__loop *loop;
    if (client->belay == NULL || client->frozen || client == client->sim->closing) return false;
    loop = &client->belay->loop;
    return !belay_links_empty(&loop->calls) || !belay_links_empty(&loop->tasks) ||
           atomic_load_explicit(&loop->poked, memory_order_relaxed) != 0 ||
           (loop->timers != NULL && loop->timers->due_ns <= client->sim->now_ns);
}

static void run(struct sim_client *client)
{
    struct sim *sim = client->sim;
    belay_dispatch(client->belay);
    sim_check_client(sim, client);
    sim_check_all(sim);
}

void sim_settle(struct sim *sim)
{
    for (uint32_t done = 0; !sim->failed; done++) {
        struct sim_client *busy[SIM_CLIENTS];
        uint32_t count = 0;
        for (int i = 0; i < sim->config.clients; i++)
            if (has_work(&sim->clients[i])) busy[count++] = &sim->clients[i];
        if (count == 0) return;
        if (done == WORK_MOST) {
            sim_fail(sim, "client %d has work without end at one moment", busy[0]->number);
            return;
        }
        run(busy[count > 1 ? sim_below(sim, count) : 0]);
    }
}

int64_t sim_next_due(const struct sim *sim)
{
    int64_t due = INT64_MAX;
    for (int i = 0; i < sim->config.clients; i++) {
        const struct sim_client *client = &sim->clients[i];
        if (client->belay == NULL || client->frozen || client == sim->closing) continue;
        const belay_timer *first = client->belay->loop.timers;
        if (first != NULL && first->due_ns < due) due = first->due_ns;
    }
    return due;
}

void sim_run_until(struct sim *sim, int64_t until_ns)
{
    for (uint32_t done = 0; !sim->failed; done++) {
        sim_settle(sim);
        /* Whoever blocks was given something to do: it is its turn. */
        if (sim->closing != NULL && atomic_load(&sim->closing->belay->loop.poked) != 0) return;
        int64_t due = sim_next_due(sim);
        if (due > until_ns) break;
        if (due > sim->now_ns) sim->now_ns = due;
        if (done == WORK_MOST) sim_fail(sim, "timers without end");
    }
    if (sim->now_ns < until_ns) sim->now_ns = until_ns;
    sim_settle(sim);
}

/* ------------------------------------------------------------------ what core asks */

static struct sim_world *world_of(belay_world *base)
{
    return belay_container_of(base, struct sim_world, base);
}

static int64_t world_now(belay_world *base)
{
    return world_of(base)->client->sim->now_ns;
}

static int64_t world_wall(belay_world *base)
{
    const struct sim_client *client = world_of(base)->client;
    return FIRST_WALL_US + client->sim->now_ns / 1000 + client->sim->wall_us[client->host];
}

static void world_random(belay_world *base, void *out, size_t length)
{
    unsigned char *at = out;
    while (length > 0) {
        uint64_t word = next(&world_of(base)->random);
        size_t part = length < sizeof word ? length : sizeof word;
        memcpy(at, &word, part);
        at += part;
        length -= part;
    }
}

static bool world_may_alloc(belay_world *base, size_t size)
{
    struct sim *sim = world_of(base)->client->sim;
    (void)size;
    return !sim->short_of_memory || sim->killing || sim_below(sim, ALLOC_FAILS_OF) != 0;
}

/* A client blocks, and nothing will happen to it before that moment. */
static bool world_wait(belay_world *base, int64_t until_ns)
{
    struct sim_client *client = world_of(base)->client;
    struct sim *sim = client->sim;
    if (until_ns == INT64_MAX) {
        fprintf(stderr, "seed %llu: client %d would block for ever\n",
                (unsigned long long)sim->seed, client->number);
        abort();
    }
    if (sim->failed || sim->killing) {
        if (sim->now_ns < until_ns) sim->now_ns = until_ns;
        return true;
    }
    struct sim_client *outer = sim->closing;
    sim->closing = client;
    sim_run_until(sim, until_ns);
    sim->closing = outer;
    return true;
}

void sim_world_init(struct sim_world *world, struct sim_client *client, uint64_t seed)
{
    *world = (struct sim_world){
        .base = { .size = (uint32_t)sizeof(belay_world),
                  .now = world_now,
                  .wall = world_wall,
                  .random = world_random,
                  .wait = world_wait,
                  .may_alloc = world_may_alloc },
        .client = client,
        .random = seed,
    };
}
