/* attempt_ask.c - what an attempt sends: EVALSHA, or EVAL where the server does not know the
 * script; SET where nothing is fenced; WAIT behind it, with `replicas`. See attempt.h. */
#include "backends/resp/attempt.h"

#include <string.h>

uint64_t belay__attempt_ask_script(struct belay__attempt *attempt, struct belay__link *link,
                                   enum belay__script_id id, bool by_source, enum belay__part part)
{
    const struct belay__script *script = &belay__scripts[id];
    char ttl[21];
    size_t ttl_length = belay__decimal(attempt->ttl_ms, ttl);
    const char *argv[] = { by_source ? "EVAL" : "EVALSHA",
                           by_source ? script->source : script->sha,
                           script->keys,
                           attempt->key,
                           attempt->owner,
                           ttl };
    size_t lengths[] = { strlen(argv[0]),
                         by_source ? strlen(script->source) : 40,
                         1,
                         attempt->key_length,
                         strlen(attempt->owner),
                         ttl_length };
    int argc = id == BELAY__SCRIPT_RELEASE ? 5 : 6;
    return belay__link_ask(link, belay__attempt_hear, attempt, part, id != BELAY__SCRIPT_RELEASE,
                           argc, argv, lengths);
}

static uint64_t ask_acquire(struct belay__attempt *attempt, struct belay__link *link)
{
    struct belay__server *server = attempt->server;
    const struct belay__script *script = &belay__scripts[BELAY__SCRIPT_ACQUIRE];
    char ttl[21], proposal[21], floor_epoch[21], floor_seq[21];
    uint64_t wish = belay_env_proposal(server->env), floor = attempt->op->token_floor;
    if (wish >= UINT64_C(1) << (SEQ_BITS - 1)) wish = 0; /* that clock is not to be believed */
    const char *argv[] = { attempt->by_source ? "EVAL" : "EVALSHA",
                           attempt->by_source ? script->source : script->sha,
                           script->keys,
                           attempt->key,
                           server->fence,
                           attempt->owner,
                           ttl,
                           proposal,
                           "0",
                           floor_epoch,
                           floor_seq };
    size_t lengths[] = { strlen(argv[0]),
                         attempt->by_source ? strlen(script->source) : 40,
                         1,
                         attempt->key_length,
                         server->fence_length,
                         BELAY_OWNER_LENGTH,
                         belay__decimal(attempt->ttl_ms, ttl),
                         belay__decimal(wish, proposal),
                         1,
                         belay__decimal(floor >> SEQ_BITS, floor_epoch),
                         belay__decimal(floor & ((UINT64_C(1) << SEQ_BITS) - 1), floor_seq) };
    return belay__link_ask(link, belay__attempt_hear, attempt, BELAY__PART_MAIN, true, 11, argv,
                           lengths);
}

/* An extension that also moves the fence. */
static uint64_t ask_raise(struct belay__attempt *attempt, struct belay__link *link)
{
    struct belay__server *server = attempt->server;
    const struct belay__script *script = &belay__scripts[BELAY__SCRIPT_RAISE];
    char ttl[21], floor_epoch[21], floor_seq[21];
    uint64_t floor = attempt->op->token_floor;
    const char *argv[] = { attempt->by_source ? "EVAL" : "EVALSHA",
                           attempt->by_source ? script->source : script->sha,
                           script->keys,
                           attempt->key,
                           server->fence,
                           attempt->owner,
                           ttl,
                           floor_epoch,
                           floor_seq };
    size_t lengths[] = { strlen(argv[0]),
                         attempt->by_source ? strlen(script->source) : 40,
                         1,
                         attempt->key_length,
                         server->fence_length,
                         strlen(attempt->owner),
                         belay__decimal(attempt->ttl_ms, ttl),
                         belay__decimal(floor >> SEQ_BITS, floor_epoch),
                         belay__decimal(floor & ((UINT64_C(1) << SEQ_BITS) - 1), floor_seq) };
    return belay__link_ask(link, belay__attempt_hear, attempt, BELAY__PART_MAIN, true, 9, argv,
                           lengths);
}

static uint64_t ask_set(struct belay__attempt *attempt, struct belay__link *link)
{
    char ttl[21];
    const char *argv[] = { "SET", attempt->key, attempt->owner, "NX", "PX", ttl };
    size_t lengths[] = {
        3, attempt->key_length, BELAY_OWNER_LENGTH, 2, 2, belay__decimal(attempt->ttl_ms, ttl)
    };
    return belay__link_ask(link, belay__attempt_hear, attempt, BELAY__PART_MAIN, true, 6, argv,
                           lengths);
}

/* What is there, and for how long yet: GET would refuse another format. */
static uint64_t ask_inspect(struct belay__attempt *attempt, struct belay__link *link)
{
    const char *get[] = { "GET", attempt->key };
    const char *pttl[] = { "PTTL", attempt->key };
    size_t get_lengths[] = { 3, attempt->key_length }, pttl_lengths[] = { 4, attempt->key_length };
    uint64_t seq = belay__link_ask(link, belay__attempt_hear, attempt, BELAY__PART_MAIN, false, 2,
                                   get, get_lengths);
    if (seq == 0) return 0;
    attempt->wait = belay__link_ask(link, belay__attempt_hear, attempt, BELAY__PART_LOOK, false, 2,
                                    pttl, pttl_lengths);
    if (attempt->wait != 0) return seq;
    belay__link_withdraw(link, seq);
    return 0;
}

/* A refused SET says nothing of the holder. */
bool belay__attempt_ask_look(struct belay__attempt *attempt)
{
    struct belay__link *link = attempt->link;
    const char *argv[] = { "PTTL", attempt->key };
    size_t lengths[] = { 4, attempt->key_length };
    attempt->main = belay__link_ask(link, belay__attempt_hear, attempt, BELAY__PART_LOOK, false, 2,
                                    argv, lengths);
    return attempt->main != 0;
}

bool belay__attempt_ask_wait(struct belay__attempt *attempt)
{
    struct belay__server *server = attempt->server;
    char replicas[21], timeout[21];
    const char *argv[] = { "WAIT", replicas, timeout };
    size_t lengths[] = { 4, belay__decimal(server->replicas, replicas),
                         belay__decimal(server->replicas_timeout_ms, timeout) };
    attempt->wait = belay__link_ask(attempt->link, belay__attempt_hear, attempt, BELAY__PART_WAIT,
                                    false, 3, argv, lengths);
    return attempt->wait != 0;
}

bool belay__attempt_waits(const struct belay__attempt *attempt)
{
    return attempt->server->replicas > 0 &&
           (attempt->verb == BELAY_VERB_ACQUIRE || attempt->verb == BELAY_VERB_EXTEND);
}

uint64_t belay__attempt_ask(struct belay__attempt *attempt, struct belay__link *link)
{
    switch (attempt->verb) {
    case BELAY_VERB_ACQUIRE:
        if (belay__attempt_fences(attempt)) return ask_acquire(attempt, link);
        /* A SET that is refused reads nothing: a waiter's asks by a script. */
        if (belay__tracking_knows(attempt->op))
            return belay__attempt_ask_script(attempt, link, BELAY__SCRIPT_TAKE, attempt->by_source,
                                             BELAY__PART_MAIN);
        attempt->plain = true;
        return ask_set(attempt, link);
    case BELAY_VERB_EXTEND:
        if (belay__attempt_fences(attempt)) return ask_raise(attempt, link);
        return belay__attempt_ask_script(attempt, link, BELAY__SCRIPT_EXTEND, attempt->by_source,
                                         BELAY__PART_MAIN);
    case BELAY_VERB_INSPECT: return ask_inspect(attempt, link);
    default:
        return belay__attempt_ask_script(attempt, link, BELAY__SCRIPT_RELEASE, attempt->by_source,
                                         BELAY__PART_MAIN);
    }
}
