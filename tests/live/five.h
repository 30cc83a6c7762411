/* five.h - five real servers, with a relay before each if a test wants them, and clients of type
 * "redlock" on them. For cmocka's main thread, unless it says otherwise. */
#ifndef BELAY_TESTS_LIVE_FIVE_H
#define BELAY_TESTS_LIVE_FIVE_H

#include "tests/live/client.h"

enum { FIVE = 5 };

struct five {
    struct server servers[FIVE];
    struct relay *relays[FIVE]; /* NULL: the client goes to the server */
};

static inline void five_begin(struct five *five, bool relayed)
{
    memset(five, 0, sizeof *five);
    for (int i = 0; i < FIVE; i++) {
        assert_true(server_start(&five->servers[i], NULL));
        const struct relay_options options = { .to_port = five->servers[i].port };
        if (relayed) assert_non_null(five->relays[i] = relay_start(&options));
    }
}

static inline void five_end(struct five *five)
{
    for (int i = 0; i < FIVE; i++) {
        relay_end(five->relays[i]);
        five->relays[i] = NULL;
        server_end(&five->servers[i]);
    }
}

/* `keys` are the redlock's own, `node` those of each server, `top` of the top level. Any thread. */
static inline const char *five_config(const struct five *five, const char *keys, const char *node,
                                      const char *top, char *text, size_t size)
{
    int used = snprintf(text, size, "use = \"r\";\n%s\nbackends: {\n", top);
    for (int i = 0; i < FIVE; i++)
        used +=
            snprintf(text + used, size - (size_t)used,
                     "  n%d: { type = \"redis\"; host = \"127.0.0.1\"; port = %d; %s };\n", i,
                     five->relays[i] != NULL ? relay_port(five->relays[i]) : five->servers[i].port,
                     node);
    snprintf(text + used, size - (size_t)used,
             "  r: { type = \"redlock\"; nodes = (\"n0\", \"n1\", \"n2\", \"n3\", \"n4\"); %s };\n"
             "};\n",
             keys);
    return text;
}

/* The servers were started a moment ago, and nobody used them before: no quarantine. */
static inline belay *five_open(const struct five *five, const char *keys, const char *top)
{
    char text[2048], own[256];
    snprintf(own, sizeof own, "quarantine = false; %s", keys);
    belay *client = client_open_text(five_config(five, own, "", top, text, sizeof text), NULL);
    client_ready(client);
    assert_true(until(take(client, "warm", 5000, BELAY_TRY, NULL, NULL) == BELAY_OK));
    return client;
}

/* Locks on the servers of that set of bits, all together; -1: one did not answer. Any thread. */
static inline long five_keys(struct five *five, unsigned set)
{
    long sum = 0;
    for (int i = 0; i < FIVE; i++) {
        if ((set >> i & 1) == 0) continue;
        long keys = server_lock_keys(&five->servers[i], "belay:");
        if (keys < 0) return -1;
        sum += keys;
    }
    return sum;
}

enum { ALL_FIVE = 31 };

#endif
