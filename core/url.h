/* url.h - URLs: taken apart, and made fit to be shown. */
#ifndef BELAY_CORE_URL_H
#define BELAY_CORE_URL_H

#include <belay/backend.h>

#define BELAY__URL_MAX 4096 /* bytes */

struct belay__url_pair {
    const char *key, *value;
};

/* scheme:rest, or scheme://user:password@host:port,host/path?key=value&... Percent-decoded. */
struct belay__url {
    belay_url parts; /* what a backend's `url` is given; it points into the rest */
    bool authority;  /* there is a "//" */
    struct belay__url_pair *query;
    size_t query_count;
    belay_url_host *hosts;
    char *masked; /* parts.text */
    char *store;  /* every other string, one behind the other */
    size_t used, room;
};

/* Does it begin as a URL does: a lowercase letter, letters, digits, + - . and a colon? */
bool belay__url_looks(const char *text);

/* CONFIG: "AT: URL: what is wrong", with the password masked; NOMEM. `at` may be NULL. Free with
 * belay__url_free in either case. */
belay_status belay__url_parse(struct belay__url *out, const char *text, const char *at,
                              belay_world *world, belay_error *err);
void belay__url_free(struct belay__url *url); /* wipes */

/* A copy with passwords replaced by ***, to be freed: what stands between the first ':' behind "//"
 * and the last '@', and the query's values whose key has "pass" or "secret" in it (KEY_file,
 * KEY_env and KEY_credential aside) or is not written plainly. Errs on the side of masking. */
char *belay__url_masked(const char *text, belay_world *world);

#endif
