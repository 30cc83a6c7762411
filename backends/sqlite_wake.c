/* sqlite_wake.c - waking a waiter in another process.
 *
 * A client that was refused and waits has one unix datagram socket, a file beside the database:
 * whoever may write the database may write to it, and nobody else (an abstract name would obey no
 * permission and end at the network namespace). A release reads the oldest waiter's row and sends
 * one datagram: the key and since when it waits. A datagram is a hint: a forged one costs an
 * attempt, a lost one is made good by core's timer.
 *
 * A holder that dies releases nothing: its waiters watch its pidfd, one for each process however
 * many wait. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "sqlite.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#define MESSAGE_MAGIC 0x316B7762u /* "bwk1" */
#define KEY_MAX 8192
#define WATCHES_MAX 64
#define DRAIN_MAX 64

struct message {
    uint32_t magic, length;
    int64_t since_ns;
    char key[KEY_MAX];
};

/* A holder's process, while anyone waits for it. */
struct sqlite_watch {
    belay_watch watch;
    belay_link link;
    struct sqlite_wakes *wakes;
    int64_t pid, start;
    unsigned users;
};

/* A descriptor above the standard three: a program whose stdout is closed must not print into it.
 */
static int high(int fd)
{
    if (fd < 0 || fd > 2) return fd;
    int higher = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    close(fd);
    return higher;
}

/* ------------------------------------------------------------------ waiters */

static void waiter_wake(struct sqlite_waiter *waiter)
{
    belay_wait_wake(waiter->wait);
}

static struct sqlite_waiter *waiter_find(struct sqlite_wakes *w, const char *key, size_t length,
                                         int64_t since_ns)
{
    for (belay_link *link = w->waiters.next; link != &w->waiters; link = link->next) {
        struct sqlite_waiter *waiter = belay_container_of(link, struct sqlite_waiter, link);
        if (waiter->since_ns == since_ns && waiter->length == length &&
            memcmp(waiter->key, key, length) == 0)
            return waiter;
    }
    return NULL;
}

struct sqlite_waiter *belay__sqlite_waiter_of(struct sqlite_wakes *w, belay_wait *wait,
                                              belay_str key)
{
    struct sqlite_waiter *waiter = wait->data;
    if (waiter != NULL || key.length > KEY_MAX) return waiter;
    waiter = belay_env_alloc(w->env, sizeof *waiter + key.length + 1);
    if (waiter == NULL) return NULL;
    waiter->wait = wait;
    waiter->since_ns = wait->since_ns;
    waiter->length = key.length;
    memcpy(waiter->key, key.at, key.length);
    belay_link_append(&w->waiters, &waiter->link);
    wait->data = waiter;
    return waiter;
}

/* ------------------------------------------------------------------ the holder's process */

static void watch_end(struct sqlite_watch *watch)
{
    struct sqlite_wakes *w = watch->wakes;
    belay_watch_remove(w->env, &watch->watch);
    close(watch->watch.fd);
    belay_unlink(&watch->link);
    w->watch_count--;
    belay_env_free(w->env, watch);
}

static void waiter_unwatch(struct sqlite_waiter *waiter)
{
    struct sqlite_watch *watch = waiter->watch;
    waiter->watch = NULL;
    if (watch != NULL && --watch->users == 0) watch_end(watch);
}

/* Level-triggered: a pidfd stays readable, so it goes at once. */
static void process_ended(belay_watch *base, uint32_t events)
{
    struct sqlite_watch *watch = belay_container_of(base, struct sqlite_watch, watch);
    struct sqlite_wakes *w = watch->wakes;
    (void)events;
    for (belay_link *link = w->waiters.next; link != &w->waiters; link = link->next) {
        struct sqlite_waiter *waiter = belay_container_of(link, struct sqlite_waiter, link);
        if (waiter->watch != watch) continue;
        waiter->watch = NULL;
        waiter_wake(waiter);
    }
    watch_end(watch);
}

static struct sqlite_watch *watch_find(struct sqlite_wakes *w, int64_t pid, int64_t start)
{
    for (belay_link *link = w->watches.next; link != &w->watches; link = link->next) {
        struct sqlite_watch *watch = belay_container_of(link, struct sqlite_watch, link);
        if (watch->pid == pid && watch->start == start) return watch;
    }
    return NULL;
}

/* NULL: it can't be watched, or *gone: there is nothing left to watch. */
static struct sqlite_watch *watch_open(struct sqlite_wakes *w, int64_t pid, int64_t start,
                                       bool *gone)
{
    *gone = false;
    if (w->watch_count >= WATCHES_MAX) return NULL;
#ifdef SYS_pidfd_open
    int fd = high((int)syscall(SYS_pidfd_open, (pid_t)pid, 0u));
#else
    int fd = -1;
    errno = ENOSYS;
#endif
    if (fd < 0) {
        *gone = errno == ESRCH;
        return NULL;
    }
    struct sqlite_watch *watch = NULL;
    /* The pid may have become another's since its row was read. */
    *gone = belay__sqlite_process_gone(w->self, pid, start);
    if (!*gone) watch = belay_env_alloc(w->env, sizeof *watch);
    if (watch != NULL &&
        belay_watch_add(w->env, &watch->watch, fd, EPOLLIN, process_ended) != BELAY_OK) {
        belay_env_free(w->env, watch);
        watch = NULL;
    }
    if (watch == NULL) {
        close(fd);
        return NULL;
    }
    watch->wakes = w;
    watch->pid = pid;
    watch->start = start;
    belay_link_append(&w->watches, &watch->link);
    w->watch_count++;
    return watch;
}

void belay__sqlite_waiter_watch(struct sqlite_wakes *w, struct sqlite_waiter *waiter,
                                const struct sqlite_holder *holder)
{
    int64_t pid = holder->pid, start = holder->start;
    if (pid > 0 && holder->pid2 > 0 && belay__sqlite_process_gone(w->self, pid, start)) {
        pid = holder->pid2;
        start = holder->start2;
    }
    bool ours = pid == w->self->pid; /* we shall hardly outlive ourselves */
    if (pid <= 0 || ours || w->self->pid_ns == 0 || holder->pid_ns != w->self->pid_ns) {
        waiter_unwatch(waiter);
        return;
    }
    if (waiter->watch != NULL && waiter->watch->pid == pid && waiter->watch->start == start) return;
    waiter_unwatch(waiter);
    bool gone = false;
    struct sqlite_watch *watch = watch_find(w, pid, start);
    if (watch == NULL) watch = watch_open(w, pid, start, &gone);
    if (watch != NULL) {
        waiter->watch = watch;
        watch->users++;
    } else if (gone) {
        waiter_wake(waiter);
    }
}

void belay__sqlite_waiter_free(struct sqlite_wakes *w, struct sqlite_waiter *waiter)
{
    waiter_unwatch(waiter);
    belay_unlink(&waiter->link);
    if (waiter->wait != NULL) waiter->wait->data = NULL;
    belay_env_free(w->env, waiter);
}

/* ------------------------------------------------------------------ sockets */

/* An address below the file's directory; through a descriptor of it where the path is too long.
 * Returns that descriptor, -1 if it was not needed, -2 if there is no way. */
static int address_make(const struct sqlite_wakes *w, const char *name, struct sockaddr_un *address)
{
    memset(address, 0, sizeof *address);
    address->sun_family = AF_UNIX;
    size_t room = sizeof address->sun_path;
    int length = snprintf(address->sun_path, room, "%s/%.64s", w->place->directory, name);
    if (length > 0 && (size_t)length < room) return -1;
    int fd = high(open(w->place->directory, O_PATH | O_DIRECTORY | O_CLOEXEC));
    if (fd < 0) return -2;
    snprintf(address->sun_path, room, "/proc/self/fd/%d/%.60s", fd, name);
    return fd;
}

static void address_drop(int fd)
{
    if (fd >= 0) close(fd);
}

/* Ours: "w<pid>-<random>.sock". Nothing else in the directory is ever touched. */
static bool socket_named(const char *name, long *pid)
{
    char *end;
    if (name[0] != 'w' || name[1] < '1' || name[1] > '9') return false;
    *pid = strtol(name + 1, &end, 10);
    if (*end != '-' || strlen(end) != 14 || strcmp(end + 9, ".sock") != 0) return false;
    return strspn(end + 1, "0123456789abcdef") == 8;
}

static void socket_path(const struct sqlite_wakes *w, const char *name,
                        char path[SQLITE_PATH_MAX + 72])
{
    snprintf(path, SQLITE_PATH_MAX + 72, "%s/%.64s", w->place->directory, name);
}

static int sender_fd(struct sqlite_wakes *w)
{
    if (w->sender < 0)
        w->sender = high(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    return w->sender;
}

static enum sqlite_sent send_bytes(struct sqlite_wakes *w, const char *name, const void *bytes,
                                   size_t length)
{
    struct sockaddr_un address;
    if (sender_fd(w) < 0) return SENT_NOT;
    int directory = address_make(w, name, &address);
    if (directory == -2) return SENT_NOT;
    ssize_t n;
    do
        n = sendto(w->sender, bytes, length, MSG_DONTWAIT | MSG_NOSIGNAL,
                   (struct sockaddr *)&address, sizeof address);
    while (n < 0 && errno == EINTR);
    int error = n < 0 ? errno : 0;
    address_drop(directory);
    if (error == ECONNREFUSED || error == ENOENT || error == ENOTSOCK || error == EPROTOTYPE)
        return SENT_DEAD;
    /* A full queue holds wakes enough. */
    return error == 0 || error == EAGAIN ? SENT_OK : SENT_NOT;
}

/* Removes the file of a socket that nobody listens on any more. In a sticky directory only its
 * owner can. */
static void socket_bury(struct sqlite_wakes *w, const char *name)
{
    char path[SQLITE_PATH_MAX + 72];
    struct stat st;
    long pid;
    if (!socket_named(name, &pid)) return;
    socket_path(w, name, path);
    if (lstat(path, &st) == 0 && S_ISSOCK(st.st_mode)) (void)unlink(path);
}

/* The sockets of processes that were killed. */
static void sweep(struct sqlite_wakes *w)
{
    DIR *directory = opendir(w->place->directory[0] != '\0' ? w->place->directory : "/");
    if (directory == NULL) return;
    struct dirent *entry;
    while ((entry = readdir(directory)) != NULL) {
        long pid;
        if (!socket_named(entry->d_name, &pid) || kill((pid_t)pid, 0) == 0 || errno != ESRCH)
            continue;
        /* Of another pid namespace, perhaps: who answers lives. An empty datagram wakes nobody. */
        if (send_bytes(w, entry->d_name, "", 0) == SENT_DEAD) socket_bury(w, entry->d_name);
    }
    closedir(directory);
}

static void received(struct sqlite_wakes *w, const struct message *m, ssize_t length)
{
    size_t head = offsetof(struct message, key);
    if (length < (ssize_t)head || m->magic != MESSAGE_MAGIC || (size_t)length != head + m->length)
        return;
    struct sqlite_waiter *waiter = waiter_find(w, m->key, m->length, m->since_ns);
    if (waiter != NULL) waiter_wake(waiter);
    else w->stray(w, (belay_str){ m->key, m->length });
}

static void readable(belay_watch *watch, uint32_t events)
{
    struct sqlite_wakes *w = belay_container_of(watch, struct sqlite_wakes, watch);
    struct message message;
    int count = 0;
    (void)events;
    while (count < DRAIN_MAX) {
        ssize_t n = recv(w->receiver, &message, sizeof message, MSG_DONTWAIT);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) break;
        count++;
        received(w, &message, n);
    }
    if (count < 8) return;
    /* So many at once: the queue may have been full, and others may have been turned away. */
    for (belay_link *link = w->waiters.next, *next; link != &w->waiters; link = next) {
        next = link->next;
        waiter_wake(belay_container_of(link, struct sqlite_waiter, link));
    }
}

static bool receiver_bind(struct sqlite_wakes *w, int fd)
{
    struct sockaddr_un address;
    char path[SQLITE_PATH_MAX + 72];
    uint32_t bits;
    /* Before it has a name: there is no moment at which more than these may write to it. */
    if (fchmod(fd, w->place->mode) != 0) return false;
    belay_env_random(w->env, &bits, sizeof bits);
    snprintf(w->socket, sizeof w->socket, "w%d-%08x.sock", (int)w->self->pid, (unsigned)bits);
    int directory = address_make(w, w->socket, &address);
    bool bound = directory != -2 && bind(fd, (struct sockaddr *)&address, sizeof address) == 0;
    address_drop(directory);
    if (!bound) return false;
    socket_path(w, w->socket, path);
    belay__sqlite_place_share(w->place, path);
    return true;
}

static void receiver_close(struct sqlite_wakes *w)
{
    char path[SQLITE_PATH_MAX + 72];
    if (w->receiver >= 0) {
        belay_watch_remove(w->env, &w->watch);
        close(w->receiver);
        socket_path(w, w->socket, path);
        (void)unlink(path);
    }
    w->receiver = -1;
    w->socket[0] = '\0';
}

bool belay__sqlite_wakes_listen(struct sqlite_wakes *w)
{
    if (w->receiver >= 0 || w->tried) return w->receiver >= 0;
    w->tried = true;
    sweep(w);
    int fd = high(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (fd >= 0 && receiver_bind(w, fd)) {
        w->receiver = fd;
        if (belay_watch_add(w->env, &w->watch, fd, EPOLLIN, readable) == BELAY_OK) return true;
        receiver_close(w);
        return false;
    }
    int error = errno;
    w->socket[0] = '\0';
    if (fd >= 0) close(fd);
    belay_env_log(w->env, BELAY_LOG_INFO, "%s: no socket beside it (%s): waiting by timers alone",
                  belay__sqlite_place_name(w->place), strerrordesc_np(error));
    return false;
}

void belay__sqlite_wakes_moved(struct sqlite_wakes *w)
{
    receiver_close(w);
    w->tried = false;
    for (belay_link *link = w->waiters.next; link != &w->waiters; link = link->next)
        belay_container_of(link, struct sqlite_waiter, link)->stored = false;
}

enum sqlite_sent belay__sqlite_wakes_send(struct sqlite_wakes *w, const char *socket, belay_str key,
                                          int64_t since_ns)
{
    struct message message;
    long pid;
    if (strcmp(socket, w->socket) == 0) {
        struct sqlite_waiter *waiter = waiter_find(w, key.at, key.length, since_ns);
        if (waiter == NULL) return SENT_DEAD;
        waiter_wake(waiter);
        return SENT_OK;
    }
    if (!socket_named(socket, &pid) || key.length > KEY_MAX) return SENT_DEAD;
    message.magic = MESSAGE_MAGIC;
    message.length = (uint32_t)key.length;
    message.since_ns = since_ns;
    memcpy(message.key, key.at, key.length);
    enum sqlite_sent sent =
        send_bytes(w, socket, &message, offsetof(struct message, key) + key.length);
    if (sent == SENT_DEAD) socket_bury(w, socket);
    return sent;
}

/* ------------------------------------------------------------------ */

void belay__sqlite_wakes_init(struct sqlite_wakes *w, belay_env *env,
                              const struct sqlite_place *place, const struct sqlite_self *self,
                              void (*stray)(struct sqlite_wakes *w, belay_str key))
{
    memset(w, 0, sizeof *w);
    w->env = env;
    w->place = place;
    w->self = self;
    w->stray = stray;
    w->receiver = w->sender = -1;
    belay_links_init(&w->waiters);
    belay_links_init(&w->watches);
}

void belay__sqlite_wakes_fini(struct sqlite_wakes *w)
{
    while (!belay_links_empty(&w->waiters))
        belay__sqlite_waiter_free(w,
                                  belay_container_of(w->waiters.next, struct sqlite_waiter, link));
    receiver_close(w);
    if (w->sender >= 0) close(w->sender);
    w->sender = -1;
}
