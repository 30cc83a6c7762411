/* sqlite_test.c - the conformance suite on the sqlite backend: one file, opened by both clients. */
#define _POSIX_C_SOURCE 200809L
#include "place.h"

struct files {
    struct place place;
    char url[128];
    const char *other; /* a config file: the same file, another prefix */
};

static belay_status open_sqlite(void *arg, int which, const belay_open_options *options,
                                belay **out, belay_error *err)
{
    const struct files *files = arg;
    bool other = which == BELAY_CONTRACT_OTHER_PREFIX;
    return belay_open(out, other ? files->other : files->url, options, err);
}

int main(int argc, char **argv)
{
    struct files files;
    char text[512];
    if (!place_make(&files.place)) return 1;
    snprintf(files.url, sizeof files.url, "sqlite://%s/locks.db", files.place.folder);
    snprintf(text, sizeof text,
             "use = \"s\";\n"
             "prefix = \"other:\";\n"
             "backends: { s: { type = \"sqlite\"; path = \"%s/locks.db\"; }; };\n",
             files.place.folder);
    files.other = place_config(&files.place, text);
    const belay_contract_target target = {
        BELAY_CONTRACT_TARGET_HEAD,
        .name = "sqlite",
        .open = open_sqlite,
        .arg = &files,
        .scope = BELAY_SCOPE_HOST,
        .fencing = true,
        .inspects = true,
        .lists = true,
        .breaks = true,
        .tells = true,
        .wakes = true,
        .prefixes = true,
        .only = argc > 1 ? argv[1] : NULL,
    };
    int failed = belay_contract_run(&target, stdout);
    place_remove(&files.place);
    return failed != 0;
}
