/* owner.c - owner ids: 128 random bits, new for each attempt. */
#include "core/client.h"

void belay__owner_make(struct belay__page *page, belay_world *world,
                       char owner[BELAY_OWNER_LENGTH + 1])
{
    static const char digits[] = "0123456789abcdef";
    enum { BYTES = BELAY_OWNER_LENGTH / 2, BATCH = 1024 };
    /* One system call for many ids; the bytes lie in a page that a forked child does not inherit.
     */
    if (page->used + BYTES > BATCH) {
        belay__clock_random(world, page->random, BATCH);
        page->used = 0;
    }
    unsigned char *bytes = page->random + page->used;
    for (int i = 0; i < BYTES; i++) {
        owner[2 * i] = digits[bytes[i] >> 4];
        owner[2 * i + 1] = digits[bytes[i] & 15];
    }
    owner[BELAY_OWNER_LENGTH] = '\0';
    memset(bytes, 0, BYTES);
    page->used += BYTES;
}
