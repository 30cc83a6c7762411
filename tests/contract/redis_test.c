/* redis_test.c - the conformance suite on a real redis-server, over TCP, a unix socket or TLS.
 *
 *   redis_test tcp|unix|tls [PATTERN]
 *
 * The first client is opened by a URL, the second by a config file: both mean the same place. */
#define _POSIX_C_SOURCE 200809L
#include "place.h"
#include "tests/live/server.h"

struct one {
    struct server server;
    struct place place;
    const char *url, *conf, *other;
};

static belay_status open_redis(void *arg, int which, const belay_open_options *options, belay **out,
                               belay_error *err)
{
    const struct one *one = arg;
    const char *where = which == BELAY_CONTRACT_FIRST          ? one->url
                        : which == BELAY_CONTRACT_OTHER_PREFIX ? one->other
                                                               : one->conf;
    return belay_open(out, where, options, err);
}

static void stop(void *arg)
{
    struct one *one = arg;
    server_freeze(&one->server);
}

static void cont(void *arg)
{
    struct one *one = arg;
    server_thaw(&one->server);
}

static long peek(void *arg)
{
    struct one *one = arg;
    long mine = server_lock_keys(&one->server, "belay:");
    long others = server_lock_keys(&one->server, "other:");
    return mine < 0 || others < 0 ? -1 : mine + others;
}

/* Config files whose backend is found `at`. */
static bool configure(struct one *one, const char *at)
{
    char text[768];
    snprintf(text, sizeof text, "backends: { r: { type = \"redis\"; %s }; };\n", at);
    one->conf = place_config(&one->place, text);
    snprintf(text, sizeof text,
             "use = \"r\";\nprefix = \"other:\";\nbackends: { r: { type = \"redis\"; %s }; };\n",
             at);
    one->other = place_config(&one->place, text);
    return one->conf != NULL && one->other != NULL;
}

static bool make(struct one *one, const char *way)
{
    struct server_options options = { 0 };
    char at[384];
    bool tcp = strcmp(way, "tcp") == 0, local = strcmp(way, "unix") == 0;
    bool tls = strcmp(way, "tls") == 0;
    if (!tcp && !local && !tls) return false;
    options.no_tcp = !tcp;
    options.tls = tls;
    if (!server_start(&one->server, &options)) return false;
    if (tcp) snprintf(at, sizeof at, "host = \"127.0.0.1\"; port = %d;", one->server.port);
    if (local) snprintf(at, sizeof at, "path = \"%s\";", one->server.socket);
    if (tls)
        snprintf(at, sizeof at, "host = \"localhost\"; port = %d; tls: { ca = \"%s\"; };",
                 one->server.tls_port, one->server.certificates.ca);
    one->url = tcp ? one->server.url : local ? one->server.unix_url : one->server.tls_url;
    return configure(one, at);
}

int main(int argc, char **argv)
{
    static struct one one;
    const char *way = argc > 1 ? argv[1] : "tcp";
    char name[32];
    snprintf(name, sizeof name, "redis %.16s", way);
    if (!place_make(&one.place)) return 1;
    bool made = make(&one, way);
    const belay_contract_target target = {
        BELAY_CONTRACT_TARGET_HEAD,
        .name = name,
        .open = open_redis,
        .arg = &one,
        .scope = BELAY_SCOPE_FLEET,
        .fencing = true,
        .inspects = true,
        .lists = true,
        .breaks = true,
        .wakes = true,
        .prefixes = true,
        .late = true,
        .real_time = true,
        .stop = stop,
        .cont = cont,
        .peek = peek,
        .only = argc > 2 ? argv[2] : NULL,
    };
    int failed = made ? belay_contract_run(&target, stdout) : 1;
    server_end(&one.server);
    place_remove(&one.place);
    return failed != 0;
}
