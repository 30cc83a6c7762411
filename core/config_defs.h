/* config_defs.h - the backends of a configuration while it is read: by name or by URL, and who has
 * whom as a child. */
#ifndef BELAY_CORE_CONFIG_DEFS_H
#define BELAY_CORE_CONFIG_DEFS_H

#include "core/config.h"
#include "core/settings.h"

struct belay__def {
    char *name; /* in the file; or the URL without its query and password */
    char *url;  /* NULL, or what was written: the same again is the same object */
    const belay_backend_ops *ops;
    belay_settings *settings;
    size_t *children; /* indices, in the order of the settings */
    size_t child_count;
    int mark;     /* cycle search and ordering */
    size_t final; /* its index in belay__config.backends */
};

struct belay__defs {
    const struct belay__registry *registry;
    belay_world *world;
    belay_error *err;
    struct belay__def *list;
    size_t count, room;
};

/* Adds a backend of the file: its settings are empty. *index is where; names are unique
 * (libconfig's groups are). `at` is "FILE:LINE". CONFIG, NOMEM. */
belay_status belay__defs_add(struct belay__defs *defs, const char *name,
                             const belay_backend_ops *ops, const char *at, size_t *index);
/* Adds the backend that a URL describes, complete; or finds it when it was there before. `at` is
 * where it was written, NULL if the caller of belay_open did. `top`: the top-level settings that
 * its query may set, or NULL. CONFIG, REFUSED, NOMEM. */
belay_status belay__defs_url(struct belay__defs *defs, const char *url, const char *at,
                             belay_settings *top, bool exposed, size_t *index);
/* The backend that a child's text means. */
belay_status belay__defs_find(struct belay__defs *defs, const struct belay__child *child,
                              size_t *index);
/* Finds every backend's children, adds those that are URLs, refuses cycles. */
belay_status belay__defs_link(struct belay__defs *defs);
/* Moves `root` and what it reaches into the config, children first. */
belay_status belay__defs_order(struct belay__defs *defs, size_t root, struct belay__config *config);
void belay__defs_free(struct belay__defs *defs);

#endif
