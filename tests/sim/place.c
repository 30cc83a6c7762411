/* place.c - what a place holds in truth.
 *
 * The gate tells every request that was executed. So the checks can look at a place at any moment
 * without asking it, and know which client's lock it is. */
#include "tests/sim/sim.h"

#include <string.h>

static struct sim_row *find(struct sim_place *place, const char *key)
{
    for (uint32_t i = 0; i < place->count; i++)
        if (strcmp(place->rows[i].key, key) == 0) return &place->rows[i];
    return NULL;
}

static void take_out(struct sim_place *place, struct sim_row *row)
{
    *row = place->rows[--place->count];
}

/* Room for one more: what has expired goes. */
static struct sim_row *add(struct sim_place *place, int64_t now)
{
    for (uint32_t i = 0; i < place->count;) {
        if (place->rows[i].until_ns <= now) take_out(place, &place->rows[i]);
        else i++;
    }
    return place->count < SIM_ROWS ? &place->rows[place->count++] : NULL;
}

struct sim_row *sim_place_some(struct sim *sim, struct sim_place *place)
{
    struct sim_row *found[SIM_NAMES];
    uint32_t count = 0;
    for (int i = 0; i < SIM_NAMES; i++) {
        struct sim_row *row = find(place, sim_key(i));
        if (row != NULL && row->until_ns > sim->now_ns) found[count++] = row;
    }
    return count > 0 ? found[sim_below(sim, count)] : NULL;
}

void sim_place_lose(struct sim_place *place, struct sim_row *row)
{
    take_out(place, row);
}

bool sim_place_did(struct sim_place *place, struct sim_client *client, const belay_op *op,
                   bool late)
{
    int64_t until_ns = op->sent_ns + (int64_t)op->ttl_ms * SIM_MS;
    struct sim_row *row = find(place, op->key.at);
    if (op->verb == BELAY_VERB_ACQUIRE) {
        if (row != NULL && row->until_ns > op->sent_ns) return false;
        if (row == NULL) row = add(place, op->sent_ns);
        if (row == NULL || op->key.length >= sizeof row->key) return false;
        memcpy(row->key, op->key.at, op->key.length + 1);
        memcpy(row->owner, op->owner, sizeof row->owner);
        row->client = client;
        row->life = client->life;
        row->until_ns = until_ns;
        row->late = false;
        return true;
    }
    if (row == NULL || row->until_ns <= op->sent_ns || strcmp(row->owner, op->owner) != 0)
        return false;
    if (op->verb == BELAY_VERB_EXTEND) {
        if (row->until_ns < until_ns) {
            row->until_ns = until_ns;
            row->late |= late;
        }
    } else {
        take_out(place, row);
    }
    return true;
}

const struct sim_row *sim_place_look(const struct sim_place *place, const char *key, int64_t now)
{
    for (uint32_t i = 0; i < place->count; i++)
        if (strcmp(place->rows[i].key, key) == 0)
            return place->rows[i].until_ns > now ? &place->rows[i] : NULL;
    return NULL;
}
