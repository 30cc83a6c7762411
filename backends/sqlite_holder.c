/* sqlite_holder.c - who holds a lock, and whether it is provably gone.
 *
 * A lock is free at once when its holder's process is gone. Provably means: kill(2) says there is
 * no such process; or the pid is another process's now (its start time differs); or it is a zombie
 * whose threads have all ended. Whatever can't be read is alive: hidepid, other pid namespaces, a
 * /proc that shows another namespace. Then the TTL decides. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "sqlite.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Reads a small file; returns its length, or -1. The text is NUL-terminated. */
static ssize_t file_read(const char *path, char *out, size_t size)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return -1;
    ssize_t n;
    do n = read(fd, out, size - 1);
    while (n < 0 && errno == EINTR);
    close(fd);
    out[n < 0 ? 0 : n] = '\0';
    return n;
}

struct process_stat {
    char state;
    long long threads, start;
};

/* The name in parentheses may hold anything, so the fields are counted from the last ')'. */
static bool stat_read(const char *path, struct process_stat *out)
{
    char text[1024];
    if (file_read(path, text, sizeof text) <= 0) return false;
    const char *at = strrchr(text, ')');
    return at != NULL &&
           sscanf(at + 1,
                  " %c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d"
                  " %lld %*d %lld",
                  &out->state, &out->threads, &out->start) == 3;
}

static bool process_read(pid_t pid, struct process_stat *out)
{
    char path[40];
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    return stat_read(path, out);
}

/* Some containers lay a boot id of their own over the kernel's. Beside processes outside it would
 * free their locks, so such an id counts as not known. */
static void boot_read(struct sqlite_self *self)
{
    static const char path[] = "/proc/sys/kernel/random/boot_id";
    struct stat id, sys;
    char text[64];
    uint32_t hash = 2166136261u;
    self->boot_mark = 1;
    if (stat(path, &id) != 0 || stat("/proc/sys/kernel", &sys) != 0 || id.st_dev != sys.st_dev ||
        file_read(path, text, sizeof text) < 36)
        return;
    for (const char *at = text; self->boot_length < sizeof self->boot; at++) {
        unsigned byte;
        if (*at == '-') continue;
        if (sscanf(at, "%2x", &byte) != 1) break;
        self->boot[self->boot_length++] = (unsigned char)byte;
        hash = (hash ^ byte) * 16777619u;
        at++;
    }
    if (self->boot_length != sizeof self->boot) self->boot_length = 0;
    else self->boot_mark = (int32_t)(hash > 1 ? hash : 2);
}

static void shift_read(struct sqlite_self *self)
{
    char text[256];
    long long seconds, ns;
    if (file_read("/proc/self/timens_offsets", text, sizeof text) <= 0) return;
    const char *at = strstr(text, "boottime");
    if (at != NULL && sscanf(at, "boottime %lld %lld", &seconds, &ns) == 2)
        self->shift_ns = seconds * 1000000000 + ns;
}

void belay__sqlite_self_read(struct sqlite_self *self)
{
    struct process_stat me;
    struct stat ns;
    char link[24];
    memset(self, 0, sizeof *self);
    self->pid = getpid();
    ssize_t length = readlink("/proc/self", link, sizeof link - 1);
    if (length > 0) {
        link[length] = '\0';
        self->proc = strtol(link, NULL, 10) == self->pid;
    }
    if (self->proc && process_read(self->pid, &me)) self->start = me.start;
    if (stat("/proc/self/ns/pid", &ns) == 0) self->pid_ns = (int64_t)ns.st_ino;
    boot_read(self);
    shift_read(self);
}

int64_t belay__sqlite_start_of(const struct sqlite_self *self, pid_t pid)
{
    struct process_stat other;
    if (pid == self->pid) return self->start;
    return self->proc && process_read(pid, &other) ? other.start : 0;
}

bool belay__sqlite_process_gone(const struct sqlite_self *self, int64_t pid, int64_t start)
{
    struct process_stat other;
    if (pid == self->pid) return start != 0 && self->start != 0 && start != self->start;
    if (kill((pid_t)pid, 0) != 0 && errno == ESRCH) return true;
    if (!self->proc || !process_read((pid_t)pid, &other)) return false;
    if (start != 0 && other.start != start) return true;
    return (other.state == 'Z' || other.state == 'X') && other.threads <= 1;
}

bool belay__sqlite_holder_gone(const struct sqlite_self *self, const struct sqlite_holder *holder)
{
    if (holder->pid <= 0 || self->pid_ns == 0 || holder->pid_ns != self->pid_ns) return false;
    return belay__sqlite_process_gone(self, holder->pid, holder->start) &&
           (holder->pid2 <= 0 || belay__sqlite_process_gone(self, holder->pid2, holder->start2));
}
