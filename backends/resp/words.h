/* words.h - what a server's error line means for a lock. */
#ifndef BELAY_BACKENDS_RESP_WORDS_H
#define BELAY_BACKENDS_RESP_WORDS_H

#include <belay/backend.h>

/* Why something failed; made where the fact is known, told by whoever started it. */
struct belay__failure {
    belay_status status;
    belay_cause cause;
    char text[200];
};

void belay__failure_set(struct belay__failure *failure, belay_status status, belay_cause cause,
                        const char *format, ...) __attribute__((format(printf, 4, 5)));

enum belay__meaning {
    BELAY__MEANS_LATER,     /* not now: the same again a little later, within the attempt */
    BELAY__MEANS_NOSCRIPT,  /* EVAL with the source */
    BELAY__MEANS_WRONGTYPE, /* the key holds another format */
    BELAY__MEANS_FAILED,    /* it was not done, as `failure` says */
    BELAY__MEANS_UNKNOWN    /* a proxy's word, perhaps: it may have been done all the same */
};

/* Makes what a stranger said fit to be shown: all but printable ASCII becomes '?'. */
void belay__words_clean(char *text);

/* Reads an error line ("LOADING Redis is loading ...") and fills the failure. Servers word the same
 * thing differently: the first word decides, or, where an old server wraps what a script met in
 * "ERR Error running script", the word inside. SEMANTICS 5. */
enum belay__meaning belay__words_read(const char *line, struct belay__failure *failure);

#endif
