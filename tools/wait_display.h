/* wait_display.h - one line on the terminal, while we wait: for how long, and who holds the lock.
 */
#ifndef BELAY_TOOLS_WAIT_DISPLAY_H
#define BELAY_TOOLS_WAIT_DISPLAY_H

#include <stdbool.h>
#include <stdint.h>

#include <belay/belay.h>

#include "args.h"

struct wait_display {
    const char *name;
    bool off;     /* never anything to show */
    bool verbose; /* without a terminal: one line, once */
    bool shown;   /* the line stands on the terminal */
    int64_t started_ms, next_ms;
    int64_t looked_ms; /* when `holder` was true; 0: never */
    bool known;        /* `holder` holds */
    belay_info holder;
};

/* Waiting begins now. */
void wait_display_init(struct wait_display *display, const struct args *args);

/* Milliseconds until wait_display_draw is due, for poll; -1: never. */
int wait_display_timeout(const struct wait_display *display);

/* Draws, if it is due. Asks now and then who holds the lock, which blocks for a moment. */
void wait_display_draw(struct wait_display *display, belay *client);

/* The wait is over, or something else is to be written: the line goes. */
void wait_display_clear(struct wait_display *display);

#endif
