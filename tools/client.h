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

/* Flushes standard output: 0, or the errno that says why it could not be written. */
int output_flush(void);
/* Says so, or ends us as a pipe's writer ends when nobody reads; the status to exit with. */
int output_failed(int why);
/* Flushes. `status`, or what output_failed returns. */
int output_end(int status);

#endif
