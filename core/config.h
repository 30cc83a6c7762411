/* config.h - a configuration as read: everything checked, nothing opened. */
#ifndef BELAY_CORE_CONFIG_H
#define BELAY_CORE_CONFIG_H

#include <belay/backend.h>

/* The tables a client knows: the program's own, then the built-in ones. */
struct belay__registry {
    const belay_backend_ops *const *own;      /* may be NULL */
    const belay_backend_ops *const *built_in; /* NULL-ended */
};

/* One named backend. `settings` belongs to it; client.c creates the objects, children first. */
struct belay__config_backend {
    char *name;
    const belay_backend_ops *ops;
    belay_settings *settings;
    uint32_t timeout_ms; /* the common key `timeout` */
    size_t *children; /* indices into belay__config.backends, in the order of the settings; always
                         smaller than its own index */
    size_t child_count;
    belay_backend *object; /* client.c's */
    belay_env *env;        /* client.c's */
};

struct belay__config {
    char *source;              /* the file's path, the URL, or "built-in default": for messages */
    char *prefix;              /* "belay:" */
    uint32_t ttl_ms;           /* 10 s */
    int64_t wait_ms;           /* BELAY_TRY, BELAY_FOREVER or milliseconds; default 5 s */
    bool keep;                 /* true */
    bool fencing;              /* true */
    uint32_t outage_ms;        /* 5 s */
    uint32_t handoffs;         /* 8; 0: never pause */
    uint32_t handoff_pause_ms; /* 0: two round trips */
    uint32_t close_timeout_ms; /* 1 s */
    int log_level; /* belay_level; log.to is the command line's own business but is checked here */
    char *log_to;  /* "stderr" */
    struct belay__config_backend *backends; /* in the order of creation: children before parents;
                                               only those that `use` reaches */
    size_t count;
    size_t use; /* index of the root */
};

/* `where` as belay_open's. On OK *out is to be freed with belay__config_free. */
belay_status belay__config_load(struct belay__config **out, const char *where,
                                const struct belay__registry *registry, belay_world *world,
                                belay_error *err);
void belay__config_free(struct belay__config *config);

/* Sets the object that belay_settings_backend gives for child `i` of this backend. */
void belay__settings_resolve(belay_settings *settings, size_t i, belay_backend *object);

/* Finds a table by type or by URL scheme; checks abi and required verbs: CONFIG with the reason. */
belay_status belay__registry_find(const struct belay__registry *registry, const char *type,
                                  const belay_backend_ops **out, belay_error *err);
belay_status belay__registry_find_scheme(const struct belay__registry *registry, const char *scheme,
                                         size_t length, const belay_backend_ops **out,
                                         belay_error *err);

/* belay_describe, for any registry. No line at all: there is no such type. */
void belay__describe(const struct belay__registry *registry, const char *type,
                     void (*each)(void *arg, const char *line), void *arg);

extern const belay_backend_ops *const belay__builtin_backends[];

#endif
