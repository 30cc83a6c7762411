/* turns.c - leaving a name alone now and then: with `handoff_pause` set, a client that took one
 * name `handoffs` times more, without such a pause between, gives others one.
 *
 * It does not matter who had the lock in between, nor whether the next waiter stood in line:
 * whoever polls for the lock (other libraries' clients do, every 100 ms or so) gets in only where
 * it is free for that long, and two belays that wake each other would leave no gap. What is
 * remembered of a name may be overwritten by another's: then a pause comes later. */
#include "core/client.h"

enum { TURNS = 64 }; /* a power of two */

struct belay__turn {
    uint32_t hash;
    uint32_t grants;  /* since the last pause */
    bool ours;        /* granted, and not released */
    int64_t seen_ns;  /* when it was ours last */
    int64_t until_ns; /* the pause's end */
};

belay_status belay__turns_init(belay *client)
{
    const struct belay__config *config = client->config;
    if (config->handoffs == 0 || config->handoff_pause_ms == 0) return BELAY_OK;
    client->turns = belay__alloc(client->loop.world, TURNS * sizeof *client->turns);
    return client->turns != NULL ? BELAY_OK : BELAY_NOMEM;
}

static int64_t pause_ns(const belay *client)
{
    return (int64_t)client->config->handoff_pause_ms * BELAY__MS;
}

/* What is known of the name; `make`: or its empty place. */
static struct belay__turn *turn_of(belay *client, uint32_t hash, bool make)
{
    if (client->turns == NULL) return NULL;
    struct belay__turn *turn = &client->turns[hash & (TURNS - 1)];
    if (turn->hash == hash && turn->seen_ns != 0) return turn;
    if (!make) return NULL;
    *turn = (struct belay__turn){ .hash = hash };
    return turn;
}

void belay__turn_granted(belay *client, uint32_t hash, int64_t now)
{
    struct belay__turn *turn = turn_of(client, hash, true);
    if (turn == NULL) return;
    if (!turn->ours && now - turn->seen_ns >= pause_ns(client)) turn->grants = 0;
    turn->grants++;
    turn->ours = true;
    turn->seen_ns = now;
}

void belay__turn_released(belay *client, uint32_t hash, int64_t now)
{
    struct belay__turn *turn = turn_of(client, hash, false);
    if (turn == NULL) return;
    turn->ours = false;
    turn->seen_ns = now;
}

int64_t belay__turn_wait(belay *client, uint32_t hash, int64_t now)
{
    struct belay__turn *turn = turn_of(client, hash, false);
    if (turn == NULL) return 0;
    if (now < turn->until_ns) return turn->until_ns;
    if (!turn->ours && now - turn->seen_ns >= pause_ns(client)) return 0; /* they had it */
    if (turn->grants <= client->config->handoffs) return 0;
    uint32_t jitter;
    belay__clock_random(client->loop.world, &jitter, sizeof jitter);
    turn->grants = 0;
    turn->until_ns = now + pause_ns(client) + (int64_t)(jitter % 1024) * pause_ns(client) / 2048;
    return turn->until_ns;
}
