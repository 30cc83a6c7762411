/* client.c - a process: what a program does with belay, and what happens to programs. */
#define _GNU_SOURCE /* memfd_create */
#include "tests/sim/sim.h"

#include "core/client.h"

#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

enum { SLACK_MS = 2 };

const char *sim_key(int name)
{
    static const char *const keys[SIM_NAMES] = { SIM_PREFIX "apple", SIM_PREFIX "pear",
                                                 SIM_PREFIX "plum" };
    return keys[name];
}

const char *sim_name(int name)
{
    return sim_key(name) + strlen(SIM_PREFIX);
}

/* ------------------------------------------------------------------ what it is told */

static void on_event(void *arg, const belay_event *event)
{
    struct sim_client *client = arg;
    if (!client->going) sim_check_event(client->sim, client, event);
}

static void on_log(void *arg, belay_level level, const char *line)
{
    struct sim_client *client = arg;
    sim_say(client->sim, "      %d logs (%d): %s", client->number, (int)level, line);
    if (level == BELAY_LOG_ERROR) sim_fail(client->sim, "client %d: %s", client->number, line);
}

static void on_lost(void *arg, belay_lock *lock, const belay_error *why)
{
    struct sim_held *held = arg;
    struct sim *sim = held->client->sim;
    (void)lock;
    if (held->client->going) return;
    held->lost++;
    sim_say(sim, "  %d LOST %s: %s", held->client->number, sim_name(held->name), why->text);
    sim_mix(sim, 0x1057);
    sim_check_lost(sim, held, why->text);
    if (sim_chance(sim, 30)) sim_client_release(held); /* from inside the callback */
}

static void on_scope(void *arg, belay_lock *lock, belay_scope now)
{
    struct sim_held *held = arg;
    (void)lock;
    if (held->client->going) return;
    sim_say(held->client->sim, "  %d %s is now of scope %s", held->client->number,
            sim_name(held->name), belay_scope_name(now));
    sim_check_scope(held->client->sim, held, now);
}

/* ------------------------------------------------------------------ calls */

static struct sim_asked *asked_new(struct sim_client *client, char verb, int name)
{
    for (int i = 0; i < SIM_ASKED; i++) {
        struct sim_asked *asked = &client->asked[i];
        if (asked->used) continue;
        *asked = (struct sim_asked){ .client = client, .used = true, .verb = verb, .name = name };
        asked->freezes = client->freezes;
        return asked;
    }
    return NULL;
}

/* It was not started. */
static void refused(struct sim_asked *asked, belay_status status)
{
    struct sim *sim = asked->client->sim;
    bool lost = status == BELAY_LOST && asked->verb != 'a';
    asked->used = false;
    sim_mix(sim, (uint64_t)status);
    if (!lost && !(status == BELAY_NOMEM && sim->short_of_memory))
        sim_fail(sim, "client %d: a call was refused: %s", asked->client->number,
                 belay_status_name(status));
}

static void answered(void *arg, belay_status status, belay_lock *lock, const belay_error *err)
{
    struct sim_asked *asked = arg;
    struct sim_client *client = asked->client;
    struct sim *sim = client->sim;
    struct sim_held *held = asked->held;
    belay_request_free(asked->request);
    asked->used = false;
    sim_mix(sim, (uint64_t)status << 8 | (uint64_t)asked->verb);
    if (client->going) {
        if (asked->verb == 'a' && lock != NULL) client->orphans[client->orphan_count++] = lock;
        return;
    }
    sim_say(sim, "  %d %s %s: %s%s%s%s%s", client->number,
            asked->verb == 'a'   ? "acquire"
            : asked->verb == 'e' ? "extend"
                                 : "release",
            sim_name(asked->name), belay_status_name(status), status != BELAY_OK ? " " : "",
            status != BELAY_OK ? err->node : "", status != BELAY_OK ? ": " : "",
            status != BELAY_OK ? err->text : "");
    sim_check_answered(sim, asked, status);
    if (asked->verb != 'a') return;
    if (lock == NULL) {
        held->state = SIM_FREE;
        return;
    }
    held->state = SIM_TAKEN;
    held->lock = lock;
    held->scope = belay_lock_scope(lock);
    sim_check_granted(sim, held);
    if (sim_chance(sim, 5)) sim_client_release(held);
}

static void acquire_options(struct sim_client *client, belay_options *options)
{
    struct sim *sim = client->sim;
    uint32_t ttl = sim->config.ttl_ms;
    options->ttl_ms = sim_chance(sim, 20) ? 100 + sim_below(sim, SIM_TTL_MOST(ttl) - 99) : 0;
    if (options->ttl_ms == 0) options->ttl_ms = ttl;
    options->wait_ms = BELAY_TRY;
    if (sim_chance(sim, 55)) options->wait_ms = 1 + sim_below(sim, 3 * ttl);
    if (sim_chance(sim, 15)) options->keep = sim_chance(sim, 50) ? BELAY_KEEP_ON : BELAY_KEEP_OFF;
    if (sim_chance(sim, 10)) options->at_least = BELAY_SCOPE_FLEET;
    options->on_lost = on_lost;
    options->on_scope = on_scope;
}

void sim_client_acquire(struct sim_client *client, int name)
{
    struct sim *sim = client->sim;
    belay_options options = BELAY_OPTIONS_INIT;
    struct sim_held *held = NULL;
    for (int i = 0; i < SIM_HELD && held == NULL; i++)
        if (client->held[i].state == SIM_FREE) held = &client->held[i];
    struct sim_asked *asked = held != NULL ? asked_new(client, 'a', name) : NULL;
    if (asked == NULL) return;
    acquire_options(client, &options);
    bool keep =
        options.keep == BELAY_KEEP_DEFAULT ? sim->config.keep : options.keep == BELAY_KEEP_ON;
    *held = (struct sim_held){ .client = client, .state = SIM_WANTED, .name = name, .kept = keep };
    held->at_least = options.at_least;
    held->ttl_ms = options.ttl_ms;
    held->asked_ns = sim->now_ns;
    held->epoch =
        sim->places[SIM_FLEET].epoch; /* it may be granted before a loss, and told after */
    options.arg = held;
    asked->held = held;
    /* A grant that comes too late is given back, which may take another timeout. */
    int64_t timeout = client->belay->timeout_ns;
    int64_t wait = options.wait_ms == BELAY_TRY ? timeout : options.wait_ms * SIM_MS;
    asked->by_ns = sim->now_ns + wait + timeout + SLACK_MS * SIM_MS;
    sim_say(sim, "%d asks for %s (wait %lld ms, ttl %u ms, %s%s)", client->number, sim_name(name),
            (long long)options.wait_ms, (unsigned)options.ttl_ms, keep ? "kept" : "not kept",
            options.at_least == BELAY_SCOPE_FLEET ? ", at least fleet" : "");
    belay_status status = belay_acquire_start(client->belay, sim_name(name), &options, answered,
                                              asked, &asked->request, NULL);
    if (status == BELAY_OK) return;
    held->state = SIM_FREE;
    refused(asked, status);
}

void sim_client_release(struct sim_held *held)
{
    struct sim_client *client = held->client;
    struct sim *sim = client->sim;
    belay_lock *lock = held->lock;
    struct sim_asked *asked = asked_new(client, 'r', held->name);
    if (asked == NULL) return;
    asked->by_ns = sim->now_ns + client->belay->timeout_ns + SLACK_MS * SIM_MS;
    held->state = SIM_FREE;
    held->lock = NULL;
    memcpy(asked->owner, belay_lock_owner(lock), sizeof asked->owner);
    asked->fleet = belay_lock_scope(lock) == BELAY_SCOPE_FLEET;
    sim_say(sim, "%d releases %s", client->number, sim_name(held->name));
    belay_status status = belay_release_start(lock, answered, asked, &asked->request, NULL);
    if (status != BELAY_OK) refused(asked, status);
}

void sim_client_extend(struct sim_held *held, uint32_t ttl_ms)
{
    struct sim_client *client = held->client;
    struct sim *sim = client->sim;
    struct sim_asked *asked = asked_new(client, 'e', held->name);
    if (asked == NULL) return;
    asked->by_ns = sim->now_ns + client->belay->timeout_ns + SLACK_MS * SIM_MS;
    sim_say(sim, "%d extends %s for %u ms", client->number, sim_name(held->name), (unsigned)ttl_ms);
    belay_status status =
        belay_extend_start(held->lock, ttl_ms, answered, asked, &asked->request, NULL);
    if (status != BELAY_OK) refused(asked, status);
}

struct sim_held *sim_client_some_lock(struct sim_client *client)
{
    struct sim_held *found[SIM_HELD];
    uint32_t count = 0;
    for (int i = 0; i < SIM_HELD; i++)
        if (client->held[i].state == SIM_TAKEN) found[count++] = &client->held[i];
    return count > 0 ? found[sim_below(client->sim, count)] : NULL;
}

int sim_client_locks(const struct sim_client *client)
{
    int count = 0;
    for (int i = 0; i < SIM_HELD; i++) count += client->held[i].state == SIM_TAKEN;
    return count;
}

int sim_client_calls(const struct sim_client *client)
{
    int count = 0;
    for (int i = 0; i < SIM_ASKED; i++) count += client->asked[i].used;
    return count;
}

/* ------------------------------------------------------------------ its life */

bool sim_open(struct sim *sim, belay **out, const char *text, const belay_open_options *options)
{
    static int config = -1; /* a file without a name, written anew for every client */
    char path[64];
    belay_error err = BELAY_ERROR_INIT;
    size_t length = strlen(text);
    if (config < 0) config = memfd_create("sim.conf", MFD_CLOEXEC);
    if (config < 0 || ftruncate(config, 0) != 0 ||
        pwrite(config, text, length, 0) != (ssize_t)length) {
        sim_fail(sim, "no file for the configuration");
        return false;
    }
    snprintf(path, sizeof path, "/proc/self/fd/%d", config);
    if (belay_open(out, path, options, &err) == BELAY_OK) return true;
    sim_fail(sim, "belay_open: %s\n%s", err.text, text);
    return false;
}

bool sim_client_open(struct sim_client *client)
{
    static const belay_backend_ops *const tables[] = { &sim_gate_ops, NULL };
    struct sim *sim = client->sim;
    char text[4096];
    belay_open_options options = BELAY_OPEN_OPTIONS_INIT;
    sim_config_text(client, text, sizeof text);
    client->life++;
    client->going = client->frozen = client->degraded = false;
    client->forgotten_count = 0;
    sim_world_init(&client->world, client, sim_random(sim));
    options.threads = BELAY_DISPATCH;
    options.backends = tables;
    options.world = &client->world.base;
    options.on_event = on_event;
    options.arg = client;
    options.on_log = on_log; /* also when nothing is printed: a line is work for a dispatch */
    options.log_level = BELAY_LOG_INFO;
    bool was_short = sim->short_of_memory;
    sim->short_of_memory = false;
    bool opened = sim_open(sim, &client->belay, text, &options);
    sim->short_of_memory = was_short;
    return opened;
}

/* It is gone: its memory is freed here, which no process that was killed would do. */
static void forget(struct sim_client *client)
{
    client->belay = NULL;
    for (int i = 0; i < SIM_HELD; i++) {
        if (client->held[i].state == SIM_TAKEN) belay_forget(client->held[i].lock);
        client->held[i] = (struct sim_held){ 0 };
    }
    for (int i = 0; i < client->orphan_count; i++) belay_forget(client->orphans[i]);
    client->orphan_count = 0;
    for (int i = 0; i < SIM_ASKED; i++) {
        if (client->asked[i].used)
            sim_fail(client->sim, "client %d was closed, and a call was never answered",
                     client->number);
        client->asked[i].used = false;
    }
}

void sim_client_kill(struct sim_client *client)
{
    struct sim *sim = client->sim;
    belay *gone = client->belay;
    int64_t now = sim->now_ns;
    if (gone == NULL) return;
    sim_say(sim, "%d is killed", client->number);
    client->going = true;
    client->frozen = false;
    for (int i = 0; i < SIM_SIDES; i++) {
        client->links[i].state = SIM_DEAD;
        client->links[i].cuts++;
        sim_link_changed(&client->links[i]);
    }
    /* Nothing of this reaches a place; and for the others it takes no time. */
    sim->killing = true;
    belay_close(gone);
    sim->killing = false;
    sim->now_ns = now;
    forget(client);
}

void sim_client_close(struct sim_client *client)
{
    struct sim *sim = client->sim;
    int64_t began = sim->now_ns;
    int64_t most = (int64_t)sim->config.close_ms * 2 + 100;
    sim_say(sim, "%d closes", client->number);
    client->going = true;
    belay_close(client->belay);
    sim_say(sim, "%d is closed", client->number);
    if (sim->now_ns - began > most * SIM_MS)
        sim_fail(sim, "client %d needed %lld ms to close", client->number,
                 (long long)((sim->now_ns - began) / SIM_MS));
    forget(client);
}
