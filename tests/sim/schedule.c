/* schedule.c - from a seed to a configuration and to what happens.
 *
 * A schedule is a time of misfortunes (clients ask, hold, freeze and die while links and places
 * fail), and then a time without any, after which all must be well again, and nothing left. */
#include "tests/sim/sim.h"

#include "core/client.h"

#include <stdio.h>
#include <stdlib.h>

#define FIRST_NOW_NS INT64_C(1234567890123457) /* two weeks after boot, and odd */

#define ONE_OF(sim, ...)                                                                           \
    one_of(sim, (const uint32_t[]){ __VA_ARGS__ },                                                 \
           sizeof((const uint32_t[]){ __VA_ARGS__ }) / sizeof(uint32_t))

static uint32_t one_of(struct sim *sim, const uint32_t *list, size_t count)
{
    return list[sim_below(sim, (uint32_t)count)];
}

/* ------------------------------------------------------------------ the configuration */

/* A few misfortunes of the fault backend: so few that they are over when all must be well. Replies
 * are delayed by the gate: they must not arrive when their connection has been cut. */
static void fault_make(struct sim *sim, char *text, size_t size)
{
    static const char *const fates[] = {
        "ok*2", "unavailable", "uncertain_applied", "uncertain_dropped", "held", "delay(3ms)"
    };
    static const char *const verbs[] = { "acquire", "release", "extend" };
    size_t at = 0;
    text[0] = '\0';
    for (int v = 0; v < 3; v++) {
        uint32_t count = sim_below(sim, 4);
        if (count == 0) continue;
        at += (size_t)snprintf(text + at, size - at, " %s: { schedule = \"", verbs[v]);
        for (uint32_t i = 0; i < count; i++) {
            const char *fate = fates[sim_below(sim, sizeof fates / sizeof fates[0])];
            if (v > 0 && strcmp(fate, "held") == 0) fate = "unavailable";
            at += (size_t)snprintf(text + at, size - at, "%s%s", i > 0 ? ", " : "", fate);
        }
        at += (size_t)snprintf(text + at, size - at, "\"; };");
    }
}

static void config_make(struct sim *sim)
{
    struct sim_config *config = &sim->config;
    config->on_first_host = 2 + (int)sim_below(sim, 2);
    config->clients = config->on_first_host + 1 + (int)sim_below(sim, 2);
    config->ttl_ms = ONE_OF(sim, 200, 400, 1000, 3000);
    config->local = sim_chance(sim, 85);
    config->host_first = sim_chance(sim, 90) && !sim->options.no_host_first;
    config->fencing = sim_chance(sim, 90);
    config->keep = sim_chance(sim, 70);
    config->settle_ms = sim_chance(sim, 80) ? 0 : ONE_OF(sim, 200, 1000);
    config->trip_after = sim_chance(sim, 70) ? 1 : ONE_OF(sim, 2, 3);
    config->probe_every_ms = ONE_OF(sim, 50, 50, 200, 1000);
    config->probe_most_ms = config->probe_every_ms * ONE_OF(sim, 1, 2, 8);
    config->outage_ms = ONE_OF(sim, 100, 1000, 5000);
    config->close_ms = ONE_OF(sim, 100, 300, 1000);
    config->primary_timeout_ms = ONE_OF(sim, 20, 50, 100);
    config->secondary_timeout_ms = ONE_OF(sim, 20, 50);
    if (sim_chance(sim, 30)) config->primary_slow_ns = ONE_OF(sim, 1, 5, 15, 60) * SIM_MS;
    if (sim_chance(sim, 15)) config->secondary_slow_ns = ONE_OF(sim, 1, 5, 30) * SIM_MS;
    if (sim_chance(sim, 25)) fault_make(sim, config->fault_primary, sizeof config->fault_primary);
    if (sim_chance(sim, 10))
        fault_make(sim, config->fault_secondary, sizeof config->fault_secondary);
    config->short_of_memory = sim_chance(sim, 6);
    config->faults = config->fault_primary[0] != '\0' || config->fault_secondary[0] != '\0';
}

/* A place as it is seen by one client: behind a gate, and perhaps a fault backend. */
static int side_text(char *text, size_t size, const char *name, const char *faults,
                     const char *gate)
{
    if (faults[0] == '\0') return snprintf(text, size, " %s: { %s };", name, gate);
    return snprintf(text, size,
                    " %s_gate: { %s }; %s: { type = \"fault\"; child = \"%s_gate\";%s };", name,
                    gate, name, name, faults);
}

void sim_config_text(const struct sim_client *client, char *text, size_t size)
{
    const struct sim_config *config = &client->sim->config;
    char gate[256];
    int at = snprintf(text, size,
                      "use = \"%s\"; prefix = \"" SIM_PREFIX
                      "\"; ttl = \"%ums\"; keep = %s; fencing = %s;\n"
                      "outage = \"%ums\"; close_timeout = \"%ums\";\n"
                      "backends: {\n p0: { type = \"memory\"; name = \"p0\"; };"
                      " p1: { type = \"memory\"; name = \"p1\"; };"
                      " h: { type = \"memory\"; name = \"h%d\"; };\n",
                      client->sim->options.plain ? "main" : "ha", (unsigned)config->ttl_ms,
                      config->keep ? "true" : "false", config->fencing ? "true" : "false",
                      (unsigned)config->outage_ms, (unsigned)config->close_ms, client->host);
    snprintf(gate, sizeof gate,
             "type = \"gate\"; client = %d; side = 0; places = ( \"p0\", \"p1\" ); timeout = "
             "\"%ums\";",
             client->number, (unsigned)config->primary_timeout_ms);
    at += side_text(text + at, size - (size_t)at, "main", config->fault_primary, gate);
    snprintf(gate, sizeof gate,
             "type = \"gate\"; client = %d; side = 1; places = ( \"h\" ); timeout = \"%ums\";",
             client->number, (unsigned)config->secondary_timeout_ms);
    at += side_text(text + at, size - (size_t)at, "local", config->fault_secondary, gate);
    if (!client->sim->options.plain)
        at += snprintf(text + at, size - (size_t)at,
                       "\n ha: { type = \"fallback\"; primary = \"main\"; secondary = \"local\";"
                       " policy = \"%s\"; host_first = %s; settle = \"%ums\"; trip_after = %u;"
                       " probe_every = \"%ums\"; probe_most = \"%ums\"; };",
                       config->local ? "local" : "closed", config->host_first ? "true" : "false",
                       (unsigned)config->settle_ms, (unsigned)config->trip_after,
                       (unsigned)config->probe_every_ms, (unsigned)config->probe_most_ms);
    snprintf(text + at, size - (size_t)at, "\n};\n");
}

/* ------------------------------------------------------------------ misfortunes */

static void link_set(struct sim_link *link, enum sim_state state, bool cut)
{
    bool was_away = link->state == SIM_REFUSES || link->state == SIM_SILENT;
    if (link->state == SIM_DEAD) return;
    if (was_away || cut || state == SIM_REFUSES || state == SIM_SILENT)
        link->away_ns = link->client->sim->now_ns;
    link->state = state;
    if (cut) link->cuts++;
    sim_link_changed(link);
}

/* One link, or all that lead to one place. */
static void change_links(struct sim *sim)
{
    static const char *const words[] = { "is up", "refuses", "is silent", "is busy" };
    uint32_t number = sim_below(sim, 100), what = sim_below(sim, 100);
    enum sim_place_id place = number < 70 ? SIM_FLEET : number < 85 ? SIM_HOST_A : SIM_HOST_B;
    enum sim_state state = SIM_UP;
    int only = sim_chance(sim, 40) ? (int)sim_below(sim, (uint32_t)sim->config.clients) : -1;
    bool cut = sim_chance(sim, 50);
    if (place == SIM_FLEET)
        state = what < 45 ? SIM_UP : what < 70 ? SIM_REFUSES : what < 95 ? SIM_SILENT : SIM_BUSY;
    else state = what < 70 ? SIM_UP : what < 80 ? SIM_REFUSES : what < 92 ? SIM_SILENT : SIM_BUSY;
    if (state == SIM_REFUSES) cut = true;
    for (int c = 0; c < sim->config.clients; c++) {
        struct sim_client *client = &sim->clients[c];
        if ((only >= 0 && only != c) || (place != SIM_FLEET && client->host != (int)place - 1))
            continue;
        sim_say(sim, "%s of client %d %s%s", place == SIM_FLEET ? "the primary" : "the host", c,
                words[state], cut ? ", connections cut" : "");
        link_set(&client->links[place == SIM_FLEET ? SIM_PRIMARY : SIM_SECONDARY], state, cut);
    }
}

/* The primary is restarted, and has nothing that it had. */
static void empty_primary(struct sim *sim)
{
    struct sim_place *place = &sim->places[SIM_FLEET];
    sim_view_clear(sim, (int)((place->epoch + 1) & 1));
    place->epoch++;
    place->count = 0;
    sim->emptied = true;
    sim_say(sim, "the primary has lost its data");
    for (int c = 0; c < sim->config.clients; c++) {
        struct sim_link *link = &sim->clients[c].links[SIM_PRIMARY];
        link_set(link, link->state, true);
    }
    for (int i = 0; i < SIM_NAMES; i++) sim->token_fleet[i] = 0;
}

/* An administrator takes a lock away from its holder. */
static void break_lock(struct sim *sim)
{
    enum sim_place_id p = (enum sim_place_id)sim_below(sim, SIM_PLACES);
    struct sim_place *place = &sim->places[p];
    struct sim_row *row = sim_place_some(sim, place);
    if (row == NULL) return;
    sim_say(sim, "%s is taken away from %d at %s", row->key, row->client->number,
            p == SIM_FLEET ? "the primary" : "its host");
    sim_check_broken(sim, p, row);
    sim_view_break(sim, p == SIM_FLEET ? (int)(place->epoch & 1) : (int)p + 1, row);
    sim_place_lose(place, row);
}

/* It does not run, or did not. */
static void stopped(struct sim_client *client)
{
    client->freezes++;
    for (int i = 0; i < SIM_SIDES; i++)
        client->links[i].ill_ns = client->links[i].away_ns = client->sim->now_ns;
}

static void freeze_or_thaw(struct sim *sim, struct sim_client *client)
{
    client->frozen = !client->frozen;
    stopped(client);
    sim_say(sim, "%d is %s", client->number, client->frozen ? "stopped" : "continued");
}

static void open_client(struct sim *sim, struct sim_client *client)
{
    for (int i = 0; i < SIM_SIDES; i++) {
        struct sim_link *link = &client->links[i];
        link->state = SIM_UP;
        link->ill_ns = sim->now_ns;
        link->out_most_ns = link->back_most_ns =
            i == SIM_PRIMARY ? sim->config.primary_slow_ns : sim->config.secondary_slow_ns;
    }
    sim_say(sim, "%d begins, on host %d", client->number, client->host);
    sim_client_open(client);
}

/* ------------------------------------------------------------------ time */

static void pass_time(struct sim *sim)
{
    int64_t now = sim->now_ns, ttl = (int64_t)sim->config.ttl_ms * SIM_MS, due;
    uint32_t how = sim_below(sim, 100);
    if (how < 35) {
        sim_run_until(sim, now + sim_up_to(sim, 3 * SIM_MS));
    } else if (how < 60) { /* to the next moment at which something happens, or just beside it */
        due = sim_next_due(sim);
        if (due == INT64_MAX || due - now > ttl) due = now + sim_up_to(sim, ttl / 3);
        due += (int64_t)sim_below(sim, 3) - 1;
        sim_run_until(sim, due > now ? due : now);
    } else if (how < 85) {
        sim_run_until(sim, now + sim_up_to(sim, ttl / 3));
    } else if (how < 97) {
        sim_run_until(sim, now + sim_up_to(sim, ttl));
    } else { /* the machines sleep: time passes, and nobody runs */
        sim->now_ns += sim_up_to(sim, ttl);
        for (int c = 0; c < sim->config.clients; c++) stopped(&sim->clients[c]);
        sim_say(sim, "all have slept");
        sim_settle(sim);
    }
}

/* ------------------------------------------------------------------ what happens */

static void ask(struct sim *sim, struct sim_client *client)
{
    uint32_t names = sim_chance(sim, 80) ? 1 : SIM_NAMES;
    if (sim_client_calls(client) < SIM_ASKED - 2)
        sim_client_acquire(client, (int)sim_below(sim, names));
}

static void let_go(struct sim_client *client)
{
    struct sim_held *held = sim_client_some_lock(client);
    if (held != NULL) sim_client_release(held);
}

static void extend(struct sim *sim, struct sim_client *client)
{
    struct sim_held *held = sim_client_some_lock(client);
    if (held != NULL)
        sim_client_extend(held, sim_chance(sim, 70) ? 0 : 100 + sim_below(sim, sim->config.ttl_ms));
}

static void cancel(struct sim_client *client)
{
    for (int i = 0; i < SIM_ASKED; i++) {
        if (!client->asked[i].used) continue;
        sim_say(client->sim, "%d cancels a call for %s", client->number,
                sim_name(client->asked[i].name));
        belay_request_cancel(client->asked[i].request);
        return;
    }
}

static void happen(struct sim *sim)
{
    uint32_t what = sim_below(sim, 1000);
    struct sim_client *client = &sim->clients[sim_below(sim, (uint32_t)sim->config.clients)];
    if (what < 420) {
        pass_time(sim);
    } else if (what < 520) {
        change_links(sim);
    } else if (what < 530) {
        empty_primary(sim);
    } else if (what < 540) {
        int host = (int)sim_below(sim, SIM_HOSTS);
        sim->wall_us[host] += sim_up_to(sim, 20000000) - 10000000;
        sim_say(sim, "the wall clock of host %d is stepped", host);
    } else if (what < 545) {
        break_lock(sim);
    } else if (client->belay == NULL) {
        if (what < 700) open_client(sim, client);
    } else if (client->frozen) {
        if (what < 800) freeze_or_thaw(sim, client);
    } else if (what < 780) {
        ask(sim, client);
    } else if (what < 880) {
        let_go(client);
    } else if (what < 950) {
        extend(sim, client);
    } else if (what < 965) {
        cancel(client);
    } else if (what < 985) {
        freeze_or_thaw(sim, client);
    } else if (what < 993) {
        sim_client_kill(client);
    } else {
        sim_client_close(client);
    }
    sim_settle(sim);
    sim_check_all(sim);
}

/* ------------------------------------------------------------------ all is well again */

static void heal(struct sim *sim)
{
    sim_say(sim, "from now on nothing goes wrong");
    sim->short_of_memory = false;
    for (int c = 0; c < sim->config.clients; c++) {
        struct sim_client *client = &sim->clients[c];
        if (client->frozen) freeze_or_thaw(sim, client);
        if (client->belay == NULL) open_client(sim, client);
        for (int i = 0; i < SIM_SIDES; i++) {
            client->links[i].out_most_ns = client->links[i].back_most_ns = 0;
            link_set(&client->links[i], SIM_UP, client->links[i].state == SIM_REFUSES);
        }
    }
}

/* A probe, and the pause (up to 1 s) between two tries to let go of what is left. */
static int64_t tidying_ns(const struct sim *sim)
{
    const struct sim_config *config = &sim->config;
    return (config->probe_most_ms + config->primary_timeout_ms + config->secondary_timeout_ms +
            1100) *
           SIM_MS;
}

/* A probe; how long a promotion puts up with another holder, who may be a dead one (its TTL); the
 * pause (up to 1 s) between two tries. */
static int64_t healing_ns(const struct sim *sim)
{
    const struct sim_config *config = &sim->config;
    int64_t ms = config->probe_most_ms + config->secondary_timeout_ms + 1100;
    int64_t longest = SIM_TTL_MOST(config->ttl_ms), grace = longest > 1000 ? longest : 1000;
    ms += grace + 2 * config->primary_timeout_ms;
    /* Some find out by their next extension that the primary has lost their lock. */
    if (sim->emptied) ms += longest / 3 + 1;
    return ms * SIM_MS;
}

/* True as soon as `check` is. A fault backend may have a few misfortunes left. */
static bool in_time(struct sim *sim, bool (*check)(struct sim *, char *, size_t), int64_t ns,
                    int tries)
{
    char why[256] = "";
    if (sim->config.faults) tries = 12;
    for (int i = 0; i < tries && !sim->failed; i++) {
        sim_run_until(sim, sim->now_ns + ns);
        if (sim->failed || check(sim, why, sizeof why)) return true;
    }
    sim_fail(sim, "all is well, but %s", why);
    return false;
}

static bool nothing_held(struct sim *sim)
{
    for (int c = 0; c < sim->config.clients; c++)
        if (sim_client_locks(&sim->clients[c]) > 0 || sim_client_calls(&sim->clients[c]) > 0)
            return false;
    return true;
}

/* Everybody lets go, those who wait have their turn and let go as well. */
static void let_all_go(struct sim *sim)
{
    int64_t until_ns = sim->now_ns + (int64_t)sim->config.ttl_ms * 8 * SIM_MS;
    while (!nothing_held(sim) && sim->now_ns < until_ns && !sim->failed) {
        sim_settle(sim);
        for (int c = 0; c < sim->config.clients; c++) {
            struct sim_client *client = &sim->clients[c];
            while (sim_client_locks(client) > 0 && sim_client_calls(client) < SIM_ASKED)
                let_go(client);
        }
        sim_settle(sim);
        if (nothing_held(sim)) return;
        int64_t due = sim_next_due(sim);
        sim_run_until(sim, due < until_ns ? due : until_ns);
    }
    if (!nothing_held(sim)) sim_fail(sim, "all was let go, and a call is still waiting");
}

/* A lock that nobody has is given at once, in the fleet's scope. */
static void ask_again(struct sim *sim)
{
    for (int c = 0; c < sim->config.clients && !sim->failed; c++) {
        uint64_t before = sim->fleet_grants;
        int tries = sim->config.faults ? 12 : 1;
        for (int i = 0; i < tries && sim->fleet_grants == before && !sim->failed; i++) {
            if (i > 0) sim_run_until(sim, sim->now_ns + healing_ns(sim));
            sim_client_acquire(&sim->clients[c], SIM_NAMES - 1);
            let_all_go(sim);
        }
        if (sim->fleet_grants == before && !sim->failed)
            sim_fail(sim, "all is well, but client %d is given no lock of the fleet's", c);
    }
}

static void schedule(struct sim *sim)
{
    const struct sim_config *config = &sim->config;
    uint32_t steps = 20 + sim_below(sim, 60);
    sim->emptied = false;
    sim->short_of_memory = config->short_of_memory;
    for (int c = 0; c < config->clients; c++) {
        struct sim_client *client = &sim->clients[c];
        for (int i = 0; i < SIM_SIDES; i++)
            client->links[i].out_most_ns = client->links[i].back_most_ns =
                i == SIM_PRIMARY ? config->primary_slow_ns : config->secondary_slow_ns;
    }
    for (uint32_t i = 0; i < steps && !sim->failed; i++) happen(sim);
    if (sim->failed) return;
    heal(sim);
    in_time(sim, sim_check_owned, tidying_ns(sim), 1);
    /* Another holder is taken for a dead one's rest for two of its TTLs. */
    in_time(sim, sim_check_healthy, healing_ns(sim), 2);
    let_all_go(sim);
    if (!sim->failed) ask_again(sim);
    /* Without memory for a give-back the TTL has to do it. */
    in_time(sim, sim_check_empty,
            (1200 + (config->short_of_memory ? SIM_TTL_MOST(config->ttl_ms) : 0)) * SIM_MS, 1);
}

/* ------------------------------------------------------------------ one set of schedules */

static void viewer_open(struct sim *sim)
{
    static const belay_backend_ops *const tables[] = { &sim_view_ops, NULL };
    belay_open_options options = BELAY_OPEN_OPTIONS_INIT;
    sim_world_init(&sim->viewer_world, &sim->clients[0], 0);
    sim->viewer_world.base.may_alloc = NULL;
    options.threads = BELAY_DISPATCH;
    options.backends = tables;
    options.world = &sim->viewer_world.base;
    sim_open(
        sim, &sim->viewer,
        "use = \"view\"; prefix = \"" SIM_PREFIX "\"; backends: {"
        " p0: { type = \"memory\"; name = \"p0\"; }; p1: { type = \"memory\"; name = \"p1\"; };"
        " h0: { type = \"memory\"; name = \"h0\"; }; h1: { type = \"memory\"; name = \"h1\"; };"
        " view: { type = \"view\"; places = ( \"p0\", \"p1\", \"h0\", \"h1\" ); }; };",
        &options);
}

static void begin(struct sim *sim, uint64_t set)
{
    sim->random = (set + 1) * UINT64_C(0xd1342543de82ef95);
    sim->began_ns = sim->now_ns = FIRST_NOW_NS;
    config_make(sim);
    for (int i = 0; i < SIM_HOSTS; i++) sim->wall_us[i] = sim_up_to(sim, 2000000);
    for (int c = 0; c < sim->config.clients; c++) {
        struct sim_client *client = &sim->clients[c];
        client->sim = sim;
        client->number = c;
        client->host = c < sim->config.on_first_host ? 0 : 1;
        for (int i = 0; i < SIM_SIDES; i++) {
            struct sim_link *link = &client->links[i];
            link->client = client;
            link->place = &sim->places[i == SIM_PRIMARY ? SIM_FLEET : SIM_HOST_A + client->host];
            link->scope = i == SIM_PRIMARY ? BELAY_SCOPE_FLEET : BELAY_SCOPE_HOST;
        }
    }
    viewer_open(sim);
    for (int c = 0; c < sim->config.clients && !sim->failed; c++)
        open_client(sim, &sim->clients[c]);
}

static void end(struct sim *sim, bool whole)
{
    for (int c = 0; c < sim->config.clients; c++) {
        struct sim_client *client = &sim->clients[c];
        if (client->belay == NULL) continue;
        if (sim->failed || !whole) sim_client_kill(client);
        else sim_client_close(client);
    }
    belay_close(sim->viewer);
}

void sim_run(uint64_t first, uint64_t last, const struct sim_options *options,
             struct sim_result *result)
{
    static struct sim sim;
    uint64_t set = first / SIM_ROUNDS;
    sim = (struct sim){ .options = *options, .digest = UINT64_C(0xcbf29ce484222325) };
    sim_current = &sim;
    /* What comes before the first belongs to its history. */
    for (sim.seed = set * SIM_ROUNDS; sim.seed <= last && !sim.failed; sim.seed++) {
        sim.options.loud = options->loud && sim.seed >= first;
        if (sim.seed == set * SIM_ROUNDS) begin(&sim, set);
        sim_say(&sim, "schedule %llu", (unsigned long long)sim.seed);
        if (!sim.failed) schedule(&sim);
        if (sim.failed) break;
    }
    result->failed = sim.failed;
    result->seed = sim.seed;
    memcpy(result->failure, sim.failure, sizeof result->failure);
    if (sim.failed) sim.options.loud = false; /* the rest is not worth telling */
    end(&sim, last % SIM_ROUNDS == SIM_ROUNDS - 1);
    if (sim.failed && !result->failed) { /* at the end of the set */
        result->failed = true;
        result->seed = last;
        memcpy(result->failure, sim.failure, sizeof result->failure);
    }
    result->digest = sim.digest;
    result->events = sim.events;
    result->grants = sim.grants;
    result->fleet_grants = sim.fleet_grants;
    result->moves = sim.moves;
}
