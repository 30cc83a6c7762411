/* certificates.h - certificates for one test, made on the spot: two authorities, and what the first
 * one signed. PEM files in the folder of the test; elliptic keys, so that it takes milliseconds. */
#ifndef BELAY_TESTS_LIVE_CERTIFICATES_H
#define BELAY_TESTS_LIVE_CERTIFICATES_H

#include <stdbool.h>

enum certificate {
    CERTIFICATE_SERVER = 0, /* for 127.0.0.1 and localhost */
    CERTIFICATE_EXPIRED,    /* the same, and ended yesterday */
    CERTIFICATE_ELSEWHERE,  /* for elsewhere.example and 192.0.2.1 */
    CERTIFICATE_STRANGER,   /* for 127.0.0.1 and localhost, by the other authority */
    CERTIFICATE_CLIENT,     /* of a client, "belay-test" */
    CERTIFICATE_COUNT
};

struct certificates {
    char ca[128];       /* the authority that everybody here trusts */
    char stranger[128]; /* another one */
    char cert[CERTIFICATE_COUNT][128];
    char key[CERTIFICATE_COUNT][128];
};

/* Makes them all in `folder`, which goes with them. False, and a line on stderr, when it could not.
 */
bool certificates_make(struct certificates *all, const char *folder);

#endif
