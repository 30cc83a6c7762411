/* client.h - opening belay for a verb that asks something and ends. */
#ifndef BELAY_TOOLS_CLIENT_H
#define BELAY_TOOLS_CLIENT_H

#include <belay/belay.h>

#include "args.h"

/* Opens what --config says. NULL: it went wrong, it was said, and *status is the one to exit with.
 */
belay *client_open(const struct args *args, int *status);

/* What others are shown as the holder: --label, or "USER@HOST: WHAT". */
void client_label(const struct args *args, const char *what, char label[BELAY_LABEL_MAX + 1]);

/* Flushes standard output. `status`, or EXIT_INTERNAL when it could not be written: then it is
 * said, or we end as a pipe's writer does when nobody reads. */
int output_end(int status);
/* Is everything written so far out? */
bool output_is_fine(void);

#endif
