/* url.h - URLs: taken apart, and made fit to be shown. */
#ifndef BELAY_CORE_URL_H
#define BELAY_CORE_URL_H

#include <belay/backend.h>

#define BELAY__URL_MAX 4096 /* bytes */

struct belay__url_host {
    char *host;    /* a name or an address; IPv6 without its brackets */
    uint16_t port; /* 0: not given */
};

struct belay__url_pair {
    char *key, *value;
};

/* scheme:rest, or scheme://user:password@host:port,host/path?key=value&... Percent-decoded. */
struct belay__url {
    char *scheme;
    char *bare;            /* the URL without its query, as written */
    bool authority;        /* there is a "//" */
    char *user, *password; /* NULL where there is none */
    struct belay__url_host *hosts;
    size_t host_count;
    char *path; /* behind the authority, or behind "scheme:"; may be "" */
    struct belay__url_pair *query;
    size_t query_count;
};

/* Does it begin as a URL does: a lowercase letter, letters, digits, + - . and a colon? */
bool belay__url_looks(const char *text);

/* CONFIG: "AT: URL: what is wrong", with the password masked; NOMEM. `at` may be NULL. Free with
 * belay__url_free in either case. */
belay_status belay__url_parse(struct belay__url *out, const char *text, const char *at,
                              belay_world *world, belay_error *err);
void belay__url_free(struct belay__url *url); /* wipes */

/* A copy with passwords replaced by ***, to be freed: what stands between the first ':' behind "//"
 * and the last '@', and the query's values whose key has "pass" or "secret" in it. Errs on the side
 * of masking. */
char *belay__url_masked(const char *text, belay_world *world);

#endif
