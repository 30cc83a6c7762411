/* place.h - where a configuration and its secrets come from: the chain of files, reading one
 * safely. */
#ifndef BELAY_CORE_PLACE_H
#define BELAY_CORE_PLACE_H

#include <belay/backend.h>
#include <sys/types.h>

#define BELAY__FILE_MAX (1u << 20) /* bytes of a config file */
#define BELAY__SECRET_MAX (64u << 10)

/* A regular file, read whole into memory. */
struct belay__file {
    char *bytes; /* NUL-terminated as well */
    size_t length;
    dev_t dev;
    ino_t ino;
    mode_t mode;
};

/* Never hangs on a FIFO and opens nothing but a regular file of at most `limit` bytes. `at` says
 * who asks for it
 * ("FILE:LINE", may be NULL). CONFIG with the reason, NOMEM. */
belay_status belay__file_read(struct belay__file *out, const char *path, size_t limit,
                              const char *at, belay_world *world, belay_error *err);
void belay__file_free(struct belay__file *file); /* wipes the bytes */

/* Which file or URL `where` means (belay_open's; NULL: the default chain). *out is a copy to be
 * freed, or NULL where the chain ended without a file: the embedded default. */
belay_status belay__place_find(char **out, const char *where, belay_world *world, belay_error *err);

/* How a secret was given: KEY itself aside. */
typedef enum belay__secret_from {
    BELAY__SECRET_FILE,      /* KEY_file: a file's path */
    BELAY__SECRET_ENV,       /* KEY_env: an environment variable's name */
    BELAY__SECRET_CREDENTIAL /* KEY_credential: a file's name in $CREDENTIALS_DIRECTORY (systemd) */
} belay__secret_from;
#define BELAY__SECRET_WAYS 3
extern const char
    *const belay__secret_suffix[BELAY__SECRET_WAYS]; /* "_file", "_env", "_credential" */

/* Reads a secret; *out is to be wiped and freed. `at` and `key` are for messages. */
belay_status belay__secret_read(char **out, belay__secret_from from, const char *name,
                                const char *at, const char *key, belay_world *world,
                                belay_error *err);
/* Wipes and frees; NULL is allowed. */
void belay__secret_free(char *secret);

#endif
