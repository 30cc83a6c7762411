/* scripts.h - the Lua that runs inside the server: what must be one step there.
 *
 * They are sent as EVALSHA, and as EVAL to a server that does not know them; SCRIPT is never sent,
 * so neither a flush nor a forbidden SCRIPT command stops anybody. Each names every key in KEYS,
 * none asks for the time, and whatever can fail comes before the lock's key is written.
 */
#ifndef BELAY_BACKENDS_RESP_SCRIPTS_H
#define BELAY_BACKENDS_RESP_SCRIPTS_H

#include <stddef.h>

enum belay__script_id {
    /* KEYS lock, fence; ARGV owner, ttl (ms), proposal, epoch, floor's epoch, floor's seq.
     * {1, seq, epoch}; {0, what remains (ms, -1: no end), the type of what is there}. */
    BELAY__SCRIPT_ACQUIRE,
    /* The same without a fence: KEYS lock; ARGV owner, ttl. {1, 0, 0}; {0, remains, type}. */
    BELAY__SCRIPT_TAKE,
    /* KEYS lock; ARGV owner, ttl. 1, or 0: not ours. Lengthens, never shortens, never makes. */
    BELAY__SCRIPT_EXTEND,
    /* The same, and later tokens are larger than the floor: KEYS lock, fence; ARGV owner, ttl,
     * floor's epoch, floor's seq. */
    BELAY__SCRIPT_RAISE,
    /* KEYS lock; ARGV owner. 1, or 0: not ours. */
    BELAY__SCRIPT_RELEASE,
    BELAY__SCRIPTS
};

struct belay__script {
    const char *source;
    const char *sha; /* SHA-1 of the source, 40 lowercase hexadecimal digits; a test checks it */
    const char *keys;
};

extern const struct belay__script belay__scripts[BELAY__SCRIPTS];

#endif
