/* sqlite_place.c - where a file of locks may be, and how a new one gets there.
 *
 * Exclusion needs a file that nobody else can swap and a filesystem whose locks are this machine's.
 * So: a directory that is ours, root's or the group's and not open to all; a regular file with one
 * name, our own (or, with `group`, the group's); a filesystem from an allow-list. Nothing here ever
 * opens the file itself: closing any descriptor of it would drop the process's locks on it (POSIX,
 * and SQLite's warning). A new file is complete before it has its name. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "sqlite.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/vfs.h>
#include <unistd.h>

bool belay__sqlite_fail(struct sqlite_failure *f, belay_status status, belay_cause cause,
                        const char *format, ...)
{
    va_list args;
    f->status = status;
    f->cause = cause;
    va_start(args, format);
    vsnprintf(f->text, sizeof f->text, format, args);
    va_end(args);
    return false;
}

bool belay__sqlite_fail_errno(struct sqlite_failure *f, int error, const char *what)
{
    const char *text = strerrordesc_np(error);
    if (text == NULL) text = "unknown error";
    if (error == EACCES || error == EPERM)
        return belay__sqlite_fail(f, BELAY_REFUSED, BELAY_CAUSE_WRONG, "%s: %s", what, text);
    if (error == ENOSPC || error == EDQUOT)
        return belay__sqlite_fail(f, BELAY_UNAVAILABLE, BELAY_CAUSE_BUSY, "%s: the disk is full",
                                  what);
    return belay__sqlite_fail(f, BELAY_UNAVAILABLE, BELAY_CAUSE_UNREACHABLE, "%s: %s", what, text);
}

static bool place_wrong(struct sqlite_failure *f, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

static bool place_wrong(struct sqlite_failure *f, const char *format, ...)
{
    va_list args;
    f->status = BELAY_CONFIG;
    f->cause = BELAY_CAUSE_WRONG;
    va_start(args, format);
    vsnprintf(f->text, sizeof f->text, format, args);
    va_end(args);
    return false;
}

/* ------------------------------------------------------------------ the filesystem */

bool belay__sqlite_filesystem_local(unsigned long magic, const char **name)
{
    static const struct {
        unsigned long magic;
        bool local;
        const char *name;
    } known[] = {
        { 0xEF53, true, "ext4" },          { 0x58465342, true, "xfs" },
        { 0x9123683E, true, "btrfs" },     { 0xF2F52010, true, "f2fs" },
        { 0x01021994, true, "tmpfs" },     { 0x858458F6, true, "ramfs" },
        { 0x794C7630, true, "overlayfs" }, { 0x2FC12FC1, true, "zfs" },
        { 0xCA451A4E, true, "bcachefs" },  { 0x52654973, true, "reiserfs" },
        { 0x3153464A, true, "jfs" },       { 0x3434, true, "nilfs" },
        { 0x24051905, true, "ubifs" },     { 0x6969, false, "nfs" },
        { 0xFF534D42, false, "cifs" },     { 0xFE534D42, false, "smb2" },
        { 0x517B, false, "smb" },          { 0x65735546, false, "fuse" },
        { 0x01021997, false, "9p" },       { 0x00C36400, false, "ceph" },
        { 0x5346414F, false, "afs" },      { 0x6B414653, false, "afs" },
        { 0x01161970, false, "gfs2" },     { 0x7461636F, false, "ocfs2" },
        { 0x0BD00BD0, false, "lustre" },   { 0x73757245, false, "coda" },
        { 0x786F4256, false, "vboxsf" },   { 0x47504653, false, "gpfs" },
        { 0x4D44, false, "vfat" },         { 0x2011BAB0, false, "exfat" },
    };
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (known[i].magic == (magic & 0xFFFFFFFF)) {
            *name = known[i].name;
            return known[i].local;
        }
    *name = NULL;
    return false;
}

static bool filesystem_check(const char *path, struct sqlite_failure *f)
{
    struct statfs fs;
    const char *name;
    if (statfs(path, &fs) != 0) return belay__sqlite_fail_errno(f, errno, "statfs");
    if (belay__sqlite_filesystem_local((unsigned long)fs.f_type, &name)) return true;
    if (name != NULL)
        return place_wrong(f,
                           "it is on %s, whose locks belay does not trust on one machine alone;"
                           " put it on a local filesystem",
                           name);
    return place_wrong(f,
                       "it is on a filesystem that belay does not know (type 0x%lx); put it on a"
                       " local one such as ext4, xfs, btrfs or tmpfs",
                       (unsigned long)fs.f_type & 0xFFFFFFFF);
}

/* ------------------------------------------------------------------ settings */

static bool group_find(struct sqlite_place *place)
{
    char buffer[4096], *end;
    struct group entry, *found = NULL;
    if (getgrnam_r(place->group_name, &entry, buffer, sizeof buffer, &found) == 0 &&
        found != NULL) {
        place->group = found->gr_gid;
        return true;
    }
    unsigned long number = strtoul(place->group_name, &end, 10);
    place->group = (gid_t)number;
    return place->group_name[0] >= '0' && place->group_name[0] <= '9' && *end == '\0' &&
           number < (gid_t)-1;
}

belay_status belay__sqlite_place_init(struct sqlite_place *place, const belay_settings *settings,
                                      belay_error *err)
{
    const char *path = belay_settings_string(settings, "path");
    const char *group = belay_settings_string(settings, "group");
    memset(place, 0, sizeof *place);
    place->roots[0] = "/run/lock";
    place->roots[1] = "/tmp";
    if (path != NULL && path[0] != '\0') {
        size_t length = strlen(path);
        if (path[0] != '/')
            return belay_settings_wrong(settings, "path", err,
                                        "\"%s\" is not absolute: it must begin with a '/'", path);
        if (path[length - 1] == '/')
            return belay_settings_wrong(settings, "path", err,
                                        "\"%s\" names a directory, not a file", path);
        if (length >= sizeof place->given)
            return belay_settings_wrong(settings, "path", err, "longer than %d bytes",
                                        SQLITE_PATH_MAX - 1);
        memcpy(place->given, path, length + 1);
    }
    if (group != NULL && group[0] != '\0') {
        if (place->given[0] == '\0')
            return belay_settings_wrong(settings, "group", err,
                                        "a shared file needs a `path` as well");
        if (strlen(group) >= sizeof place->group_name)
            return belay_settings_wrong(settings, "group", err, "no group has such a long name");
        strcpy(place->group_name, group);
        if (!group_find(place))
            return belay_settings_wrong(settings, "group", err, "there is no group \"%s\"", group);
        place->shared = true;
    }
    place->mode = (mode_t)belay_settings_integer(settings, "mode");
    if (place->shared && !belay_settings_given(settings, "mode")) place->mode = 0660;
    if ((place->mode & 0600) != 0600 || (place->mode & ~(mode_t)0660) != 0)
        return belay_settings_wrong(
            settings, "mode", err,
            "must be 0600, or 0660 with a `group`: who can write the file can"
            " break every lock in it");
    if (!place->shared && (place->mode & 0060) != 0)
        return belay_settings_wrong(settings, "mode", err, "%#o needs a `group`",
                                    (unsigned)place->mode);
    return BELAY_OK;
}

const char *belay__sqlite_place_name(const struct sqlite_place *place)
{
    if (place->given[0] != '\0') return place->given;
    return place->path[0] != '\0' ? place->path : "sqlite";
}

/* ------------------------------------------------------------------ the directory */

/* A directory of our own below `root`. False with *next: not here, try the next root. */
static bool default_make(struct sqlite_place *place, const char *root, bool *next,
                         struct sqlite_failure *f)
{
    struct stat st;
    uid_t uid = geteuid();
    char *directory = place->directory;
    *next = false;
    if (stat(root, &st) != 0 || !S_ISDIR(st.st_mode) ||
        ((st.st_mode & S_IWOTH) != 0 && (st.st_mode & S_ISVTX) == 0)) {
        /* In a directory that is open to all and not sticky, anybody could move ours away. */
        *next = true;
        return place_wrong(f, "%s cannot hold a directory of ours", root);
    }
    snprintf(directory, sizeof place->directory, "%s/belay-%u", root, (unsigned)uid);
    if (mkdir(directory, 0700) != 0 && errno != EEXIST) {
        *next = errno == EACCES || errno == EPERM || errno == EROFS || errno == ENOENT;
        place->surprising = errno == EROFS || (uid == 0 && errno != ENOENT);
        return belay__sqlite_fail_errno(f, errno, directory);
    }
    if (lstat(directory, &st) != 0) return belay__sqlite_fail_errno(f, errno, directory);
    if (S_ISLNK(st.st_mode)) return place_wrong(f, "%s is a symbolic link", directory);
    if (!S_ISDIR(st.st_mode)) return place_wrong(f, "%s is not a directory", directory);
    if (st.st_uid != uid)
        return place_wrong(f, "%s belongs to user %u, not to us (%u)", directory,
                           (unsigned)st.st_uid, (unsigned)uid);
    if ((st.st_mode & 077) != 0)
        return place_wrong(f, "%s is open to others (mode %04o): it must be 0700", directory,
                           (unsigned)st.st_mode & 07777);
    return true;
}

static bool default_find(struct sqlite_place *place, struct sqlite_failure *f)
{
    bool next = true;
    place->why_second[0] = '\0';
    for (size_t i = 0; next && i < sizeof place->roots / sizeof place->roots[0]; i++) {
        if (i > 0) snprintf(place->why_second, sizeof place->why_second, "%s", f->text);
        if (default_make(place, place->roots[i], &next, f)) {
            snprintf(place->path, sizeof place->path, "%.*s/locks.db", (int)sizeof place->path - 16,
                     place->directory);
            return true;
        }
    }
    return false;
}

static bool directory_check(const struct sqlite_place *place, struct sqlite_failure *f)
{
    struct stat st;
    const char *directory = place->directory[0] != '\0' ? place->directory : "/";
    if (stat(directory, &st) != 0) return belay__sqlite_fail_errno(f, errno, directory);
    if (!S_ISDIR(st.st_mode)) return place_wrong(f, "%s is not a directory", directory);
    if (!place->shared && st.st_uid != geteuid() && st.st_uid != 0)
        return place_wrong(
            f,
            "its directory belongs to user %u, who could swap the file; with a `group`"
            " that is allowed",
            (unsigned)st.st_uid);
    if ((st.st_mode & S_IWOTH) != 0 && (st.st_mode & S_ISVTX) == 0)
        return place_wrong(
            f,
            "anybody can swap files in its directory (mode %04o): take away the right"
            " to write, or make it sticky",
            (unsigned)st.st_mode & 07777);
    if (place->shared && (st.st_mode & S_IWGRP) != 0 && (st.st_mode & S_ISVTX) == 0 &&
        st.st_gid != place->group)
        return place_wrong(f, "group %u can swap files in its directory, and is not \"%s\"",
                           (unsigned)st.st_gid, place->group_name);
    return true;
}

/* SQLite refuses a symbolic link anywhere in the path; those of the directory are resolved here. */
static bool given_find(struct sqlite_place *place, struct sqlite_failure *f)
{
    char parent[SQLITE_PATH_MAX], real[PATH_MAX];
    const char *base = strrchr(place->given, '/') + 1;
    size_t length = (size_t)(base - place->given);
    memcpy(parent, place->given, length);
    parent[length] = '\0';
    if (realpath(parent, real) == NULL) return belay__sqlite_fail_errno(f, errno, parent);
    if (strcmp(real, "/") == 0) real[0] = '\0';
    if (strlen(real) + strlen(base) + 2 > sizeof place->path)
        return place_wrong(f, "the path is longer than %d bytes", SQLITE_PATH_MAX - 1);
    if (strcmp(base, ".") == 0 || strcmp(base, "..") == 0)
        return place_wrong(f, "it is a directory, not a file");
    strcpy(place->directory, real);
    strcpy(place->path, real);
    strcat(place->path, "/");
    strcat(place->path, base);
    return directory_check(place, f);
}

bool belay__sqlite_place_find(struct sqlite_place *place, struct sqlite_failure *f)
{
    if (place->given[0] == '\0' ? !default_find(place, f) : !given_find(place, f)) {
        place->path[0] = '\0';
        return false;
    }
    return filesystem_check(place->directory[0] != '\0' ? place->directory : "/", f);
}

/* ------------------------------------------------------------------ the file */

/* The file, or its journal: a link or a stranger's file in its place would be written to, or
 * believed. */
static bool owner_check(const struct sqlite_place *place, const struct stat *st, const char *what,
                        struct sqlite_failure *f)
{
    if (S_ISLNK(st->st_mode)) return place_wrong(f, "%s is a symbolic link", what);
    if (!S_ISREG(st->st_mode)) return place_wrong(f, "%s is not a regular file", what);
    if (st->st_nlink > 1)
        return place_wrong(f, "%s has %u names (hard links): it must have one", what,
                           (unsigned)st->st_nlink);
    if (!place->shared && st->st_uid != geteuid())
        return place_wrong(f, "%s belongs to user %u, not to us (%u); to share it, set `group`",
                           what, (unsigned)st->st_uid, (unsigned)geteuid());
    if (place->shared && st->st_gid != place->group)
        return place_wrong(f, "%s belongs to group %u, not to \"%s\"", what, (unsigned)st->st_gid,
                           place->group_name);
    if ((st->st_mode & S_IWOTH) != 0 || (!place->shared && (st->st_mode & S_IWGRP) != 0))
        return place_wrong(f, "%s can be written by others (mode %04o)", what,
                           (unsigned)st->st_mode & 07777);
    return true;
}

bool belay__sqlite_place_check(const struct sqlite_place *place, struct stat *st, bool *absent,
                               struct sqlite_failure *f)
{
    static const char *const beside[] = { "-journal", "-wal" };
    char path[SQLITE_PATH_MAX + 16];
    struct stat other;
    *absent = false;
    if (lstat(place->path, st) != 0) {
        *absent = errno == ENOENT;
        return *absent || belay__sqlite_fail_errno(f, errno, "stat");
    }
    if (!owner_check(place, st, "the file", f)) return false;
    for (size_t i = 0; i < sizeof beside / sizeof beside[0]; i++) {
        snprintf(path, sizeof path, "%s%s", place->path, beside[i]);
        if (lstat(path, &other) == 0 && !owner_check(place, &other, "its journal", f)) return false;
    }
    return true;
}

void belay__sqlite_place_share(const struct sqlite_place *place, const char *file)
{
    struct stat st;
    if (!place->shared || lstat(file, &st) != 0 || st.st_uid != geteuid()) return;
    if (st.st_gid != place->group && lchown(file, (uid_t)-1, place->group) != 0) return;
    if ((st.st_mode & 0777) != place->mode && !S_ISLNK(st.st_mode) &&
        fchmodat(AT_FDCWD, file, place->mode, 0) != 0)
        return;
}

/* A directory that we may not write to now may be writable tomorrow: not REFUSED. */
static bool create_failed(struct sqlite_failure *f, int error)
{
    if (error != EACCES && error != EPERM)
        return belay__sqlite_fail_errno(f, error, "it cannot be created");
    return belay__sqlite_fail(f, BELAY_UNAVAILABLE, BELAY_CAUSE_UNREACHABLE,
                              "it cannot be created: we may not write to its directory");
}

static bool image_write(const struct sqlite_place *place, int fd, const char *image, size_t size)
{
    while (size > 0) {
        ssize_t n = write(fd, image, size);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return false;
        image += n;
        size -= (size_t)n;
    }
    if (place->shared && fchown(fd, (uid_t)-1, place->group) != 0) return false;
    /* The only fsync there ever is: a power cut must not leave a name without its first page. */
    return fchmod(fd, place->mode) == 0 && fsync(fd) == 0;
}

bool belay__sqlite_place_install(const struct sqlite_place *place, const void *image, size_t size,
                                 const char *unique, struct sqlite_failure *f)
{
    char temporary[SQLITE_PATH_MAX + 32];
    snprintf(temporary, sizeof temporary, "%s.new-%s", place->path, unique);
    int fd = open(temporary, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0) return create_failed(f, errno);
    if (fd < 3) { /* whoever prints to a closed stdout must not write into it */
        int higher = fcntl(fd, F_DUPFD_CLOEXEC, 3);
        close(fd);
        if (higher < 0) {
            int error = errno;
            unlink(temporary);
            return create_failed(f, error);
        }
        fd = higher;
    }
    bool written = image_write(place, fd, image, size);
    int error = errno;
    close(fd); /* before it has its name: see above */
    if (written) {
        error = 0;
        if (renameat2(AT_FDCWD, temporary, AT_FDCWD, place->path, RENAME_NOREPLACE) != 0)
            error = errno;
        if (error == EINVAL || error == ENOSYS)
            error = link(temporary, place->path) == 0 ? 0 : errno;
        if (error == EEXIST) error = 0;
        written = error == 0;
    }
    unlink(temporary);
    return written || create_failed(f, error);
}
