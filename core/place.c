/* place.c - where a configuration and its secrets come from.
 *
 * The chain: $BELAY_CONFIG, the user's file, /etc/belay/belay.conf. The working directory is no
 * part of it. A set-user-id program (AT_SECURE) sees neither the environment nor the user's file:
 * who starts it must not choose its locks. */
#define _GNU_SOURCE /* secure_getenv, explicit_bzero */
#include "core/place.h"

#include "core/alloc.h"
#include "core/suggest.h"
#include "core/url.h"

#include <errno.h>
#include <fcntl.h>
#include <pwd.h>
#include <stdio.h>
#include <sys/auxv.h>
#include <sys/stat.h>
#include <unistd.h>

#define SYSTEM_FILE "/etc/belay/belay.conf"

const char *const belay__secret_suffix[BELAY__SECRET_WAYS] = { "_file", "_env", "_credential" };

/* ------------------------------------------------------------------ one file */

/* CONFIG, "AT: PATH: why". */
static belay_status file_wrong(belay_error *err, const char *at, const char *path, const char *why)
{
    char shown[BELAY__AT];

    belay__at(shown, path, 0);
    if (at != NULL) return belay_error_set(err, BELAY_CONFIG, NULL, "%s: %s: %s", at, shown, why);
    return belay_error_set(err, BELAY_CONFIG, NULL, "%s: %s", shown, why);
}

static const char *file_errno(char out[64])
{
    const char *text = strerrordesc_np(errno);

    snprintf(out, 64, "%s", text != NULL ? text : "unknown error");
    return out;
}

static const char *file_kind(mode_t mode)
{
    if (S_ISDIR(mode)) return "is a directory, not a file";
    if (S_ISFIFO(mode)) return "is a pipe, not a regular file";
    if (S_ISSOCK(mode)) return "is a socket, not a regular file";
    return "is a device, not a regular file";
}

void belay__file_free(struct belay__file *file)
{
    if (file->bytes != NULL) explicit_bzero(file->bytes, file->length);
    belay__free(file->bytes);
    *file = (struct belay__file){ 0 };
}

/* Fills `file` from the descriptor: up to limit + 1 bytes, so that one too many is noticed. */
static int file_fill(struct belay__file *file, int fd, size_t limit)
{
    while (file->length <= limit) {
        ssize_t got = read(fd, file->bytes + file->length, limit + 1 - file->length);
        if (got == 0) break;
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return -1;
        file->length += (size_t)got;
    }
    return 0;
}

belay_status belay__file_read(struct belay__file *out, const char *path, size_t limit,
                              const char *at, belay_world *world, belay_error *err)
{
    struct belay__file file = { 0 };
    belay_status status = BELAY_OK;
    char why[64];
    struct stat st;
    int fd;

    *out = file;
    /* stat before open: opening a device can do things. The fstat is what counts. */
    if (stat(path, &st) != 0) return file_wrong(err, at, path, file_errno(why));
    if (!S_ISREG(st.st_mode)) return file_wrong(err, at, path, file_kind(st.st_mode));
    fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0) return file_wrong(err, at, path, file_errno(why));
    if (fstat(fd, &st) != 0) {
        status = file_wrong(err, at, path, file_errno(why));
        goto out;
    }
    if (!S_ISREG(st.st_mode)) {
        status = file_wrong(err, at, path, file_kind(st.st_mode));
        goto out;
    }
    if (st.st_size > (off_t)limit) {
        status = file_wrong(err, at, path, "is too large");
        goto out;
    }
    /* What it grows to while it is read is refused. (Of files in /proc the size is 0.) */
    limit = (size_t)st.st_size > 0 ? (size_t)st.st_size : limit;
    file.bytes = belay__alloc(world, limit + 2);
    if (file.bytes == NULL) {
        status = belay_error_set(err, BELAY_NOMEM, NULL, "no memory to read %s",
                                 belay__at((char[BELAY__AT]){ 0 }, path, 0));
        goto out;
    }
    if (file_fill(&file, fd, limit) != 0) {
        status = file_wrong(err, at, path, file_errno(why));
        goto out;
    }
    if (file.length > limit) {
        status =
            file_wrong(err, at, path,
                       st.st_size > 0 ? "changed while it was read; try again" : "is too large");
        goto out;
    }
    file.bytes[file.length] = '\0';
    file.dev = st.st_dev;
    file.ino = st.st_ino;
    file.mode = st.st_mode;

out:
    close(fd);
    if (status != BELAY_OK) belay__file_free(&file);
    else *out = file;
    return status;
}

/* ------------------------------------------------------------------ the chain */

static belay_status no_memory(belay_error *err)
{
    return belay_error_set(err, BELAY_NOMEM, NULL, "no memory to find the configuration");
}

/* "BEGIN/END", to be freed; NULL without memory. */
static char *path_join(belay_world *world, const char *begin, const char *end)
{
    size_t length = strlen(begin) + 1 + strlen(end);
    char *path = belay__alloc(world, length + 1);

    if (path != NULL) snprintf(path, length + 1, "%s/%s", begin, end);
    return path;
}

/* *found: there is something of that name. What can't be looked at is an error: it may be the one
 * that counts. */
static belay_status chain_look(const char *path, bool *found, belay_error *err)
{
    char why[64];
    struct stat st;

    *found = stat(path, &st) == 0;
    if (*found || errno == ENOENT || errno == ENOTDIR) return BELAY_OK;
    return file_wrong(err, NULL, path, file_errno(why));
}

/* The home directory in the password file, to be freed; NULL where there is none. */
static belay_status home_of_user(char **out, belay_world *world, belay_error *err)
{
    struct passwd entry, *found = NULL;
    belay_status status = BELAY_OK;
    size_t size = 1024;
    char *room;
    int rc;

    *out = NULL;
    for (;;) {
        room = belay__alloc(world, size);
        if (room == NULL) return no_memory(err);
        rc = getpwuid_r(getuid(), &entry, room, size, &found);
        if (rc == EINTR || (rc == ERANGE && size < (1u << 20))) {
            belay__free(room);
            size *= rc == ERANGE ? 4 : 1;
            continue;
        }
        break;
    }
    if (rc == 0 && found != NULL && found->pw_dir != NULL && found->pw_dir[0] == '/') {
        *out = belay__strdup(world, found->pw_dir);
        if (*out == NULL) status = no_memory(err);
    }
    belay__free(room);
    return status;
}

/* The path of the user's file, whether it exists or not; NULL where the user has no home. */
static belay_status user_file(char **out, belay_world *world, belay_error *err)
{
    const char *folder = secure_getenv("XDG_CONFIG_HOME");
    const char *home = secure_getenv("HOME");
    char *entry = NULL;
    belay_status status;

    *out = NULL;
    if (getauxval(AT_SECURE) != 0) return BELAY_OK;
    if (folder != NULL && folder[0] == '/') {
        *out = path_join(world, folder, "belay/belay.conf");
        return *out != NULL ? BELAY_OK : no_memory(err);
    }
    if (home == NULL || home[0] != '/') {
        status = home_of_user(&entry, world, err);
        if (status != BELAY_OK || entry == NULL) return status;
        home = entry;
    }
    *out = path_join(world, home, ".config/belay/belay.conf");
    belay__free(entry);
    return *out != NULL ? BELAY_OK : no_memory(err);
}

belay_status belay__place_find(char **out, const char *where, belay_world *world, belay_error *err)
{
    const char *named = where != NULL ? where : secure_getenv("BELAY_CONFIG");
    belay_status status;
    char *path = NULL;
    bool found = false;

    *out = NULL;
    if (where != NULL && *where == '\0')
        return belay_error_set(err, BELAY_INVALID, NULL, "the config file's path is empty");
    if (named != NULL && *named != '\0') {
        if (where == NULL && !belay__url_looks(named)) {
            status = chain_look(named, &found, err);
            if (status != BELAY_OK) return status;
            if (!found) return file_wrong(err, "BELAY_CONFIG", named, "there is no such file");
        }
        *out = belay__strdup(world, named);
        return *out != NULL ? BELAY_OK : no_memory(err);
    }
    status = user_file(&path, world, err);
    if (status == BELAY_OK && path != NULL) status = chain_look(path, &found, err);
    if (status != BELAY_OK || !found) {
        belay__free(path);
        path = NULL;
    }
    if (status == BELAY_OK && !found) status = chain_look(SYSTEM_FILE, &found, err);
    if (status == BELAY_OK && found && path == NULL) {
        path = belay__strdup(world, SYSTEM_FILE);
        if (path == NULL) status = no_memory(err);
    }
    *out = path;
    return status;
}

/* ------------------------------------------------------------------ secrets */

void belay__secret_free(char *secret)
{
    if (secret != NULL) explicit_bzero(secret, strlen(secret));
    belay__free(secret);
}

static belay_status secret_of_file(char **out, const char *path, const char *at, const char *key,
                                   belay_world *world, belay_error *err)
{
    struct belay__file file;
    belay_status status = belay__file_read(&file, path, BELAY__SECRET_MAX, at, world, err);
    char shown[BELAY__AT];

    if (status != BELAY_OK) return status;
    if (file.length > 0 && file.bytes[file.length - 1] == '\n') file.bytes[--file.length] = '\0';
    if (file.length > 0 && file.bytes[file.length - 1] == '\r') file.bytes[--file.length] = '\0';
    belay__at(shown, path, 0);
    if (file.length == 0)
        status = belay_error_set(err, BELAY_CONFIG, NULL, "%s: %s: %s is empty", at, key, shown);
    else if (memchr(file.bytes, '\0', file.length) != NULL)
        status = belay_error_set(err, BELAY_CONFIG, NULL, "%s: %s: %s has a NUL byte in it", at,
                                 key, shown);
    else if ((*out = belay__copy(world, file.bytes, file.length)) == NULL) status = no_memory(err);
    belay__file_free(&file);
    return status;
}

static belay_status secret_of_env(char **out, const char *name, const char *at, const char *key,
                                  belay_world *world, belay_error *err)
{
    const char *value = secure_getenv(name);
    char quoted[BELAY__QUOTE];

    if (value == NULL || *value == '\0')
        return belay_error_set(err, BELAY_CONFIG, NULL, "%s: %s: the environment variable %s is %s",
                               at, key, belay__quote(quoted, name),
                               value == NULL ? "not set" : "empty");
    *out = belay__strdup(world, value);
    return *out != NULL ? BELAY_OK : no_memory(err);
}

static belay_status secret_of_credential(char **out, const char *name, const char *at,
                                         const char *key, belay_world *world, belay_error *err)
{
    const char *folder = secure_getenv("CREDENTIALS_DIRECTORY");
    char quoted[BELAY__QUOTE];
    belay_status status;
    char *path;

    if (strchr(name, '/') != NULL || name[0] == '.')
        return belay_error_set(err, BELAY_CONFIG, NULL, "%s: %s: %s is not a credential's name", at,
                               key, belay__quote(quoted, name));
    if (folder == NULL || *folder != '/')
        return belay_error_set(
            err, BELAY_CONFIG, NULL,
            "%s: %s: CREDENTIALS_DIRECTORY is not set: systemd sets it where the unit "
            "has LoadCredential=",
            at, key);
    path = path_join(world, folder, name);
    if (path == NULL) return no_memory(err);
    status = secret_of_file(out, path, at, key, world, err);
    belay__free(path);
    return status;
}

belay_status belay__secret_read(char **out, belay__secret_from from, const char *name,
                                const char *at, const char *key, belay_world *world,
                                belay_error *err)
{
    char quoted[BELAY__QUOTE];

    *out = NULL;
    switch (from) {
    case BELAY__SECRET_ENV: return secret_of_env(out, name, at, key, world, err);
    case BELAY__SECRET_CREDENTIAL: return secret_of_credential(out, name, at, key, world, err);
    case BELAY__SECRET_FILE: break;
    }
    if (name[0] != '/')
        return belay_error_set(err, BELAY_CONFIG, NULL, "%s: %s: %s is not an absolute path", at,
                               key, belay__quote(quoted, name));
    return secret_of_file(out, name, at, key, world, err);
}
