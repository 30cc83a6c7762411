/* check.c - what must be true whatever happens (SEMANTICS 1, 2, 4 and 11).
 *
 *   exclusion   on one host never two holders; of the fleet's scope never two at all, while the
 *               primary has what it granted
 *   truth       who may believe has it at the place: the host's row under the lock's owner id, and,
 *               with the fleet's scope, the primary's lock, until the deadline at least
 *   tokens      on one host they grow with every grant of a name; the fleet's grow with its grants
 *   loss        told once, by the time that the lock is not valid any more
 *   answers     every call has one within its time
 *   events      demoted and promoted alternate, and so do degraded and recovered
 *   the end     without misfortunes everybody is back at the fleet's scope, and what was released
 *               is gone from every place
 *
 * Without host_first the host's claims are dropped: that is what host_first is for. */
#include "tests/sim/sim.h"

#include "core/client.h"

#include <stdio.h>

static int64_t deadline_of(const struct sim_held *held)
{
    return atomic_load(&held->lock->deadline_ns);
}

static bool is_valid(const struct sim_held *held)
{
    return held->state == SIM_TAKEN && belay_lock_valid(held->lock, 0);
}

static bool is_fleet(const struct sim_held *held)
{
    return belay_lock_scope(held->lock) == BELAY_SCOPE_FLEET;
}

static struct sim_place *host_of(struct sim *sim, const struct sim_client *client)
{
    return &sim->places[SIM_HOST_A + client->host];
}

static bool has_row(const struct sim_place *place, const struct sim_held *held)
{
    const struct sim_row *row =
        sim_place_look(place, sim_key(held->name), held->client->sim->now_ns);
    return row != NULL && strcmp(row->owner, belay_lock_owner(held->lock)) == 0;
}

/* ------------------------------------------------------------------ truth */

/* The holder may believe until its deadline: does the place know of that? */
static void check_truth(struct sim *sim, const struct sim_held *held)
{
    const struct sim_client *client = held->client;
    const struct sim_place *fleet = &sim->places[SIM_FLEET];
    const char *key = sim_key(held->name);
    int64_t deadline = deadline_of(held);
    /* Who can't know that its lock was taken away finds out by its next extension. */
    int64_t most = held->broken_ns + SIM_TTL_MOST(sim->config.ttl_ms) * SIM_MS;
    if (held->broken_ns != 0 && deadline > most)
        sim_fail(sim, "client %d goes on with %s without its host's row", client->number, key);
    if (sim->config.host_first && !sim->options.plain && held->broken_ns == 0) {
        const struct sim_row *row = sim_place_look(host_of(sim, client), key, sim->now_ns);
        if (row == NULL || strcmp(row->owner, belay_lock_owner(held->lock)) != 0)
            sim_fail(sim, "client %d believes in %s, and the host's row is %s", client->number, key,
                     row == NULL ? "gone" : "another's");
        else if (row->until_ns < deadline)
            sim_fail(sim, "client %d believes in %s for longer than the host's row lasts",
                     client->number, key);
    }
    if (is_fleet(held) && held->epoch == fleet->epoch && !held->fleet_broken) {
        const struct sim_row *row = sim_place_look(fleet, key, sim->now_ns);
        if (row == NULL || row->client != client || row->life != client->life)
            sim_fail(sim, "client %d says fleet of %s, and the primary's lock is %s",
                     client->number, key, row == NULL ? "gone" : "another's");
        else if (row->until_ns < deadline)
            sim_fail(sim, "client %d believes in %s for longer than the primary's lock lasts",
                     client->number, key);
    }
}

/* ------------------------------------------------------------------ exclusion */

static void check_pair(struct sim *sim, const struct sim_held *one, const struct sim_held *other)
{
    const struct sim_config *config = &sim->config;
    bool host = (config->host_first || sim->options.no_host_first) && !sim->options.plain;
    uint32_t epoch = sim->places[SIM_FLEET].epoch;
    bool broken = one->broken_ns != 0 || other->broken_ns != 0;
    if (host && !broken && one->client->host == other->client->host)
        sim_fail(sim, "clients %d and %d of host %d hold %s at once (%s, %s)", one->client->number,
                 other->client->number, one->client->host, sim_name(one->name),
                 belay_scope_name(belay_lock_scope(one->lock)),
                 belay_scope_name(belay_lock_scope(other->lock)));
    broken = one->fleet_broken || other->fleet_broken;
    if (!broken && is_fleet(one) && is_fleet(other) && one->epoch == epoch && other->epoch == epoch)
        sim_fail(sim, "clients %d and %d hold %s at once, both with the fleet's scope",
                 one->client->number, other->client->number, sim_name(one->name));
}

void sim_check_all(struct sim *sim)
{
    struct sim_held *valid[SIM_CLIENTS * SIM_HELD];
    int count = 0;
    for (int c = 0; c < sim->config.clients; c++) {
        struct sim_client *client = &sim->clients[c];
        if (client->belay == NULL || client->going) continue;
        for (int i = 0; i < SIM_HELD; i++)
            if (is_valid(&client->held[i])) valid[count++] = &client->held[i];
        for (int i = 0; i < SIM_ASKED; i++) {
            const struct sim_asked *asked = &client->asked[i];
            if (asked->used && sim->now_ns > asked->by_ns && !client->frozen &&
                asked->freezes == client->freezes && client != sim->closing)
                sim_fail(sim, "client %d has had no answer for %s", client->number,
                         sim_name(asked->name));
        }
    }
    for (int i = 0; i < count; i++) {
        check_truth(sim, valid[i]);
        for (int j = 0; j < i; j++)
            if (valid[i]->name == valid[j]->name) check_pair(sim, valid[j], valid[i]);
    }
}

/* ------------------------------------------------------------------ tokens */

static void check_token(struct sim *sim, const struct sim_held *held)
{
    const struct sim_client *client = held->client;
    uint64_t token = belay_lock_token(held->lock);
    uint64_t *host = &sim->token_host[held->name][client->host];
    uint64_t *fleet = &sim->token_fleet[held->name];
    if (!sim->config.fencing) {
        if (token != 0) sim_fail(sim, "a token without fencing");
        return;
    }
    if (held->broken_ns != 0 || held->fleet_broken) return; /* it is not its any more */
    if (sim->config.host_first && !sim->options.plain && token <= *host)
        sim_fail(sim, "client %d got token %llu for %s, and its host had %llu before",
                 client->number, (unsigned long long)token, sim_name(held->name),
                 (unsigned long long)*host);
    if (*host < token) *host = token;
    if (!is_fleet(held) || held->epoch != sim->places[SIM_FLEET].epoch) return;
    /* A lock that was promoted before its holder heard of it has its host's token. */
    if (token <= *fleet && !held->lock->scope_due)
        sim_fail(sim, "client %d got token %llu for %s, and the fleet had %llu before",
                 client->number, (unsigned long long)token, sim_name(held->name),
                 (unsigned long long)*fleet);
    if (*fleet < token) *fleet = token;
}

/* ------------------------------------------------------------------ what callbacks tell */

/* It is handed over as the fleet's: then it may not have been told already that it is not. */
static void check_forgotten(struct sim *sim, const struct sim_held *held)
{
    const struct sim_client *client = held->client;
    const char *owner = belay_lock_owner(held->lock);
    if (has_row(&sim->places[SIM_FLEET], held)) return;
    for (uint32_t i = 0; i < SIM_FORGOTTEN && i < client->forgotten_count; i++)
        if (strcmp(client->forgotten[i], owner) == 0)
            sim_fail(sim, "client %d got %s as the fleet's, and knew that it was forgotten there",
                     client->number, sim_name(held->name));
}

void sim_check_granted(struct sim *sim, struct sim_held *held)
{
    struct sim_client *client = held->client;
    belay_scope scope = belay_lock_scope(held->lock);
    if (!is_valid(held)) return; /* lost before it was told */
    sim->grants++;
    /* An earlier attempt's was taken away, or this one's row, which it then took once more. */
    bool another = strcmp(held->broken, belay_lock_owner(held->lock)) != 0;
    if (another || has_row(host_of(sim, client), held)) held->broken_ns = 0;
    if (another || has_row(&sim->places[SIM_FLEET], held)) held->fleet_broken = false;
    held->was_degraded = scope != BELAY_SCOPE_FLEET || held->lock->scope_due;
    if (scope == BELAY_SCOPE_FLEET) sim->fleet_grants++;
    sim_mix(sim, belay_lock_token(held->lock));
    sim_say(sim, "  %d HOLDS %s: scope %s, token %llu, owner %.8s, for %.1f ms", client->number,
            sim_name(held->name), belay_scope_name(scope),
            (unsigned long long)belay_lock_token(held->lock), belay_lock_owner(held->lock),
            (double)(deadline_of(held) - sim->now_ns) / 1e6);
    if (scope < held->at_least)
        sim_fail(sim, "client %d was given less than it had asked for", client->number);
    if (scope != BELAY_SCOPE_FLEET && (!sim->config.local || sim->options.plain))
        sim_fail(sim, "client %d was given a lock of its host's alone", client->number);
    if (scope != BELAY_SCOPE_FLEET && !sim->config.short_of_memory && !held->lock->scope_due &&
        sim->now_ns - client->down_ns < ((int64_t)sim->config.settle_ms - 1) * SIM_MS)
        sim_fail(sim, "client %d was given a lock of its host's alone before `settle`",
                 client->number);
    check_token(sim, held);
    if (scope == BELAY_SCOPE_FLEET && !held->lock->scope_due) check_forgotten(sim, held);
}

void sim_check_scope(struct sim *sim, struct sim_held *held, belay_scope now)
{
    uint64_t token = belay_lock_token(held->lock);
    sim_mix(sim, 0x5c09e + (uint64_t)now);
    sim->moves++;
    held->scope = now;
    held->forgotten = false;
    if (now < held->at_least && is_valid(held))
        sim_fail(sim, "client %d keeps %s in a smaller scope than it had asked for",
                 held->client->number, sim_name(held->name));
    if (now != BELAY_SCOPE_FLEET) {
        const struct sim_link *primary = &held->client->links[SIM_PRIMARY];
        if (!held->was_degraded && !sim->config.faults && !sim->config.short_of_memory &&
            sim_link_well(primary, sim->now_ns - held->asked_ns))
            sim_fail(sim, "client %d: %s was demoted while all was well", held->client->number,
                     sim_name(held->name));
        held->was_degraded = true;
        held->fleet_broken = false; /* it has found out */
        return;
    }
    held->epoch = sim->places[SIM_FLEET].epoch;
    if (sim->token_fleet[held->name] < token) sim->token_fleet[held->name] = token;
}

/* Kept locks are not lost while what they need is well. */
static void check_lost_for_nothing(struct sim *sim, const struct sim_held *held, const char *why)
{
    const struct sim_config *config = &sim->config;
    const struct sim_client *client = held->client;
    int64_t life = sim->now_ns - held->asked_ns, ttl = (int64_t)held->ttl_ms * SIM_MS;
    bool alone = config->local && held->at_least < BELAY_SCOPE_FLEET;
    bool ran_out = strstr(why, "TTL") != NULL;
    /* A TTL must leave time for more than one attempt. */
    bool hurried = held->ttl_ms < 6 * (config->primary_timeout_ms + config->secondary_timeout_ms);
    if (held->broken_ns != 0 || held->fleet_broken) return;
    if (!held->kept || !config->host_first || config->faults || config->short_of_memory || hurried)
        return;
    if (!held->was_degraded && sim_link_well(&client->links[SIM_SECONDARY], life) &&
        sim_link_well(&client->links[SIM_PRIMARY], life))
        sim_fail(sim, "client %d lost %s while all was well: %s", client->number,
                 sim_name(held->name), why);
    else if (ran_out && alone && sim_link_well(&client->links[SIM_SECONDARY], ttl) &&
             sim->now_ns - client->links[SIM_PRIMARY].busy_ns > ttl) /* that does not degrade */
        sim_fail(sim, "client %d lost %s while its host was well: %s", client->number,
                 sim_name(held->name), why);
}

void sim_check_lost(struct sim *sim, struct sim_held *held, const char *why)
{
    check_lost_for_nothing(sim, held, why);
    if (held->lost > 1)
        sim_fail(sim, "client %d was told twice that it lost %s", held->client->number,
                 sim_name(held->name));
    if (belay_lock_valid(held->lock, 0))
        sim_fail(sim, "client %d was told that it lost %s, which is valid", held->client->number,
                 sim_name(held->name));
}

/* Events name the lock alone: without host_first, or when the primary has lost its data, a client
 * may have two of one name. */
static void check_moved(struct sim *sim, struct sim_client *client, const belay_event *event)
{
    int moved = event->kind == BELAY_EVENT_LOCK_PROMOTED ? 1 : -1, count = 0;
    struct sim_held *found = NULL;
    for (int i = 0; i < SIM_HELD; i++) {
        struct sim_held *held = &client->held[i];
        if (held->state != SIM_TAKEN || held->lost > 0 ||
            strcmp(sim_name(held->name), event->name) != 0)
            continue;
        if (count++ == 0) found = held;
        else held->moved = found->moved = 0;
    }
    if (count != 1 || sim->config.short_of_memory) return; /* an event may be missing */
    if (found->moved == moved)
        sim_fail(sim, "client %d: %s was %s twice", client->number, event->name,
                 belay_event_name(event->kind));
    found->moved = moved;
}

/* Only what can't be reached is done without. */
static void check_cause(struct sim *sim, const struct sim_client *client)
{
    const struct sim_config *config = &sim->config;
    int64_t patience = (config->primary_timeout_ms + config->secondary_timeout_ms) * 2 * SIM_MS;
    if (config->faults || config->short_of_memory || config->primary_slow_ns > 0) return;
    const struct sim_link *link = &client->links[SIM_PRIMARY];
    bool reached = link->state == SIM_UP || link->state == SIM_BUSY;
    if (reached && sim->now_ns - link->away_ns > patience)
        sim_fail(sim, "client %d does without a primary that could be reached", client->number);
}

void sim_check_event(struct sim *sim, struct sim_client *client, const belay_event *event)
{
    bool degraded = event->kind == BELAY_EVENT_DEGRADED;
    sim_mix(sim, 0xe7e47 + (uint64_t)event->kind);
    sim_say(sim, "  %d event %s %s: %s (since %lld ms)", client->number,
            belay_event_name(event->kind), event->name, event->text, (long long)event->since_ms);
    if (degraded) check_cause(sim, client);
    switch (event->kind) {
    case BELAY_EVENT_DEGRADED:
    case BELAY_EVENT_RECOVERED:
        if (client->degraded == degraded && !sim->config.short_of_memory)
            sim_fail(sim, "client %d says %s twice", client->number, belay_event_name(event->kind));
        client->degraded = degraded;
        if (degraded) client->down_ns = sim->now_ns - event->since_ms * SIM_MS;
        break;
    case BELAY_EVENT_LOCK_DEMOTED:
    case BELAY_EVENT_LOCK_PROMOTED: check_moved(sim, client, event); break;
    default: break;
    }
}

void sim_check_forgotten(struct sim_client *client, const char *owner)
{
    for (int i = 0; i < SIM_HELD; i++) {
        struct sim_held *held = &client->held[i];
        if (held->state == SIM_TAKEN && strcmp(belay_lock_owner(held->lock), owner) == 0)
            held->forgotten = true;
    }
    memcpy(client->forgotten[client->forgotten_count++ % SIM_FORGOTTEN], owner,
           BELAY_OWNER_LENGTH + 1);
}

/* A release that says OK leaves nothing where the lock was. */
static void check_released(struct sim *sim, const struct sim_asked *asked)
{
    const struct sim_client *client = asked->client;
    const char *key = sim_key(asked->name);
    for (int p = 0; p < SIM_PLACES; p++) {
        if (p == SIM_FLEET ? !asked->fleet : p != SIM_HOST_A + client->host) continue;
        const struct sim_row *row = sim_place_look(&sim->places[p], key, sim->now_ns);
        if (row != NULL && strcmp(row->owner, asked->owner) == 0)
            sim_fail(sim, "client %d has released %s, and it is still at place %d", client->number,
                     sim_name(asked->name), p);
    }
}

void sim_check_answered(struct sim *sim, const struct sim_asked *asked, belay_status status)
{
    const struct sim_client *client = asked->client;
    if (asked->freezes == client->freezes && sim->now_ns > asked->by_ns)
        sim_fail(sim, "client %d was answered %lld us too late", client->number,
                 (long long)((sim->now_ns - asked->by_ns) / 1000));
    if (asked->verb == 'r' && status == BELAY_OK) check_released(sim, asked);
}

/* The owner id of a lock that is held, or on its way. */
static const char *owner_of(const struct sim_held *held)
{
    const struct sim_client *client = held->client;
    if (held->state == SIM_TAKEN) return belay_lock_owner(held->lock);
    for (int i = 0; i < SIM_ASKED; i++) {
        const struct sim_asked *asked = &client->asked[i];
        if (!asked->used || asked->held != held) continue;
        const belay_lock *lock =
            asked->request->lock != NULL ? asked->request->lock : asked->request->result;
        if (lock != NULL) return lock->owner;
    }
    return "";
}

void sim_check_broken(struct sim *sim, enum sim_place_id place, const struct sim_row *row)
{
    struct sim_client *client = row->client;
    if (client->belay == NULL || client->life != row->life) return;
    for (int i = 0; i < SIM_HELD; i++) {
        struct sim_held *held = &client->held[i];
        if (held->state == SIM_FREE || strcmp(sim_key(held->name), row->key) != 0) continue;
        bool same = strcmp(owner_of(held), row->owner) == 0;
        if (same) memcpy(held->broken, row->owner, sizeof held->broken);
        /* A lock that was promoted may have another id at the primary. */
        if (place == SIM_FLEET) held->fleet_broken |= same || held->state == SIM_TAKEN;
        else if (same) held->broken_ns = sim->now_ns;
    }
}

/* It has just run: what it is to know, it has been told. */
void sim_check_client(struct sim *sim, struct sim_client *client)
{
    for (int i = 0; i < SIM_HELD; i++) {
        struct sim_held *held = &client->held[i];
        if (held->state != SIM_TAKEN || client->going) continue;
        bool valid = belay_lock_valid(held->lock, 0);
        if (!valid && held->lost == 0)
            sim_fail(sim, "client %d was not told that it lost %s", client->number,
                     sim_name(held->name));
        if (valid && belay_lock_scope(held->lock) != held->scope)
            sim_fail(sim, "client %d was not told that %s has another scope", client->number,
                     sim_name(held->name));
        if (valid && is_fleet(held) && held->forgotten && sim->config.host_first)
            sim_fail(sim, "client %d knows that the primary has forgotten %s, and says fleet",
                     client->number, sim_name(held->name));
    }
}

/* ------------------------------------------------------------------ the end */

bool sim_check_healthy(struct sim *sim, char *why, size_t size)
{
    for (int c = 0; c < sim->config.clients; c++) {
        struct sim_client *client = &sim->clients[c];
        belay_health health = { .size = sizeof health };
        if (client->belay == NULL) continue;
        if (belay_get_health(client->belay, &health, NULL) != BELAY_OK || health.degraded) {
            snprintf(why, size, "client %d is still degraded: %s", c, health.why);
            return false;
        }
        for (int i = 0; i < SIM_HELD; i++) {
            const struct sim_held *held = &client->held[i];
            if (!is_valid(held) || is_fleet(held)) continue;
            snprintf(why, size, "client %d still has the host's scope of %s", c,
                     sim_name(held->name));
            return false;
        }
    }
    return true;
}

struct look {
    struct sim *sim;
    const struct sim_place *place;
    char *why;
    size_t size;
    bool known;
};

/* What the memory backend lists is what we know of. */
static bool look_at(void *arg, const belay_info *info)
{
    struct look *look = arg;
    char key[64];
    snprintf(key, sizeof key, SIM_PREFIX "%s", info->name);
    if (sim_place_look(look->place, key, look->sim->now_ns) != NULL) return true;
    snprintf(look->why, look->size, "a place lists %s, which was never told", info->name);
    look->known = false;
    return false;
}

/* Who has, or asks for, the lock of that row? */
static bool is_wanted(const struct sim_row *row)
{
    const struct sim_client *client = row->client;
    for (int i = 0; i < SIM_HELD; i++)
        if (client->held[i].state != SIM_FREE &&
            strcmp(sim_key(client->held[i].name), row->key) == 0)
            return true;
    for (int i = 0; i < SIM_ASKED; i++)
        if (client->asked[i].used && strcmp(sim_key(client->asked[i].name), row->key) == 0)
            return true;
    return strncmp(row->key, SIM_PREFIX, strlen(SIM_PREFIX)) != 0; /* a hint */
}

bool sim_check_owned(struct sim *sim, char *why, size_t size)
{
    if (sim->config.short_of_memory) return true; /* there may have been none to give it back */
    for (int p = 0; p < SIM_PLACES; p++) {
        for (uint32_t i = 0; i < sim->places[p].count; i++) {
            const struct sim_row *row = &sim->places[p].rows[i];
            /* Its TTL ends what an extension lengthened that was stuck on its way. */
            if (row->until_ns <= sim->now_ns || row->life != row->client->life || row->late ||
                is_wanted(row))
                continue;
            snprintf(why, size, "client %d left %s at place %d", row->client->number, row->key, p);
            return false;
        }
    }
    return true;
}

bool sim_check_empty(struct sim *sim, char *why, size_t size)
{
    for (int p = 0; p < SIM_PLACES; p++) {
        const struct sim_place *place = &sim->places[p];
        for (uint32_t i = 0; i < place->count; i++) {
            const struct sim_row *row = &place->rows[i];
            bool dead = row->client->belay == NULL || row->life != row->client->life;
            if (row->until_ns <= sim->now_ns || dead) continue;
            /* A hint to others is no lock: it is let go once, and else its TTL ends it. */
            if (strncmp(row->key, "belay-degraded:", strlen("belay-degraded:")) == 0) continue;
            snprintf(why, size, "%s of client %d stays at place %d for %lld ms more", row->key,
                     row->client->number, p, (long long)((row->until_ns - sim->now_ns) / SIM_MS));
            return false;
        }
        struct look look = { .sim = sim, .place = place, .why = why, .size = size, .known = true };
        sim->viewed = p == SIM_FLEET ? (int)(place->epoch & 1) : p + 1;
        if (belay_list(sim->viewer, NULL, look_at, &look, NULL) != BELAY_OK) {
            snprintf(why, size, "a place could not be listed");
            return false;
        }
        if (!look.known) return false;
    }
    return true;
}

struct clear {
    struct sim *sim;
    const char *key; /* NULL: all */
};

static bool clear_one(void *arg, const belay_info *info)
{
    const struct clear *clear = arg;
    if (clear->key != NULL && strcmp(clear->key + strlen(SIM_PREFIX), info->name) != 0) return true;
    return belay_break(clear->sim->viewer, info->name, info, NULL) == BELAY_OK;
}

static void view_clear(struct sim *sim, int which, const char *key)
{
    struct clear clear = { .sim = sim, .key = key };
    sim->viewed = which;
    if (belay_list(sim->viewer, NULL, clear_one, &clear, NULL) != BELAY_OK)
        sim_fail(sim, "a place could not be emptied");
}

void sim_view_clear(struct sim *sim, int which)
{
    view_clear(sim, which, NULL);
}

void sim_view_break(struct sim *sim, int which, const struct sim_row *row)
{
    view_clear(sim, which, row->key);
}
