/* failing_test.c - the nth allocation, socket, connect, send or receive fails, for every n: FAULTS
 * row 53 on a real server. A clean answer, a known state, nothing left behind.
 *
 * Memory is the world's to refuse. The system's calls are this program's own functions of the same
 * names, which stand before libc's. */
#define _GNU_SOURCE
#include "tests/live/client.h"

#include <errno.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>

#define LONG_MS 60000

static struct server server;

/* ------------------------------------------------------------------ calls that fail */

enum call { CALL_NONE, CALL_SOCKET, CALL_CONNECT, CALL_SEND, CALL_RECV, CALL_EPOLL, CALLS };

static struct {
    _Atomic int which; /* enum call */
    _Atomic int error;
    atomic_long left;  /* calls until one fails; < 0: it has */
    atomic_int pieces; /* a few bytes at a time, now and then interrupted */
} plan;

static bool fails(enum call which)
{
    if (atomic_load(&plan.which) != (int)which) return false;
    if (atomic_fetch_sub(&plan.left, 1) != 0) return false;
    errno = atomic_load(&plan.error);
    return true;
}

int socket(int domain, int type, int protocol)
{
    return fails(CALL_SOCKET) ? -1 : (int)syscall(SYS_socket, domain, type, protocol);
}

/* As glibc declares it: a union that any kind of address fits. */
int connect(int fd, __CONST_SOCKADDR_ARG at, socklen_t length)
{
    return fails(CALL_CONNECT) ? -1 : (int)syscall(SYS_connect, fd, at.__sockaddr__, length);
}

ssize_t send(int fd, const void *bytes, size_t length, int flags)
{
    static atomic_int turn;
    if (fails(CALL_SEND)) return -1;
    if (atomic_load(&plan.pieces) != 0) {
        if (atomic_fetch_add(&turn, 1) % 3 == 0) {
            errno = EINTR;
            return -1;
        }
        if (length > 7) length = 7;
    }
    return syscall(SYS_sendto, fd, bytes, length, flags, NULL, 0);
}

ssize_t recv(int fd, void *bytes, size_t length, int flags)
{
    if (fails(CALL_RECV)) return -1;
    if (atomic_load(&plan.pieces) != 0 && length > 5) length = 5;
    return syscall(SYS_recvfrom, fd, bytes, length, flags, NULL, NULL);
}

int epoll_ctl(int epoll, int what, int fd, struct epoll_event *event)
{
    if (what != EPOLL_CTL_DEL && fails(CALL_EPOLL)) return -1;
    return (int)syscall(SYS_epoll_ctl, epoll, what, fd, event);
}

/* ------------------------------------------------------------------ memory that is refused */

static struct {
    belay_world base;
    atomic_long asked, refuse; /* which one; < 0: none */
} world;

static int64_t world_now(belay_world *base)
{
    struct timespec at;
    (void)base;
    clock_gettime(CLOCK_BOOTTIME, &at);
    return (int64_t)at.tv_sec * 1000000000 + at.tv_nsec;
}

static int64_t world_wall(belay_world *base)
{
    struct timespec at;
    (void)base;
    clock_gettime(CLOCK_REALTIME, &at);
    return (int64_t)at.tv_sec * 1000000 + at.tv_nsec / 1000;
}

static void world_random(belay_world *base, void *out, size_t length)
{
    (void)base;
    if (getrandom(out, length, 0) != (ssize_t)length) abort();
}

static bool world_may_alloc(belay_world *base, size_t size)
{
    (void)base;
    (void)size;
    return atomic_fetch_add(&world.asked, 1) != atomic_load(&world.refuse);
}

/* One client at a time. A world of one's own must say when time has passed. */
static struct {
    pthread_mutex_t lock;
    belay_kick_fn *kick;
    void *arg;
    pthread_t thread;
    atomic_bool ends;
} ticker = { .lock = PTHREAD_MUTEX_INITIALIZER };

static belay_status world_attach(belay_world *base, belay_kick_fn *kick, void *arg)
{
    if (!world_may_alloc(base, 0)) return BELAY_NOMEM;
    pthread_mutex_lock(&ticker.lock);
    ticker.kick = kick;
    ticker.arg = arg;
    pthread_mutex_unlock(&ticker.lock);
    return BELAY_OK;
}

static void world_detach(belay_world *base, belay_kick_fn *kick, void *arg)
{
    (void)base;
    (void)kick;
    (void)arg;
    pthread_mutex_lock(&ticker.lock);
    ticker.kick = NULL;
    pthread_mutex_unlock(&ticker.lock);
}

static void *ticker_main(void *arg)
{
    (void)arg;
    while (!atomic_load(&ticker.ends)) {
        until_pause();
        pthread_mutex_lock(&ticker.lock);
        if (ticker.kick != NULL) ticker.kick(ticker.arg);
        pthread_mutex_unlock(&ticker.lock);
    }
    return NULL;
}

static int setup(void **state)
{
    (void)state;
    world.base = (belay_world){ .size = sizeof world.base,
                                .now = world_now,
                                .wall = world_wall,
                                .random = world_random,
                                .may_alloc = world_may_alloc,
                                .attach = world_attach,
                                .detach = world_detach };
    atomic_store(&world.refuse, -1);
    if (!server_start(&server, NULL)) return -1;
    return pthread_create(&ticker.thread, NULL, ticker_main, NULL) == 0 ? 0 : -1;
}

static int teardown(void **state)
{
    (void)state;
    atomic_store(&ticker.ends, true);
    pthread_join(ticker.thread, NULL);
    server_end(&server);
    return 0;
}

/* ------------------------------------------------------------------ a life */

static int failures;

static bool clean(belay_status status, const char *what)
{
    bool known = status == BELAY_OK || is_doubt(status) || status == BELAY_NOMEM;
    if (!known) {
        fprintf(stderr, "%s: %s\n", what, belay_status_name(status));
        failures++;
    }
    return status == BELAY_OK;
}

static bool list_one(void *arg, const belay_info *info)
{
    (void)info;
    ++*(int *)arg;
    return true;
}

/* Everything once: a short life of a client, in which something fails. */
static void live(const char *at, belay_world *in)
{
    belay_open_options options = BELAY_OPEN_OPTIONS_INIT;
    belay_options kept = BELAY_OPTIONS_INIT;
    belay_info info = { .size = sizeof info };
    belay_lock *lock = NULL, *second = NULL;
    int listed = 0;
    options.world = in;
    belay *client = client_try_open(at, "timeout = \"200ms\";", "outage = \"1s\";", &options);
    if (client == NULL) return;
    bool got = clean(take(client, "job", LONG_MS, 2000, &lock, NULL), "acquire");
    if (got != (lock != NULL)) failures++;
    if (got) {
        clean(belay_extend(lock, LONG_MS, NULL), "extend");
        if (!belay_lock_valid(lock, 1000)) failures++;
    }
    clean(belay_inspect(client, "job", &info, NULL), "inspect");
    belay_status status = take(client, "held", LONG_MS, 30, NULL, NULL);
    if (status != BELAY_HELD) clean(status, "a wait in vain");
    kept.ttl_ms = LONG_MS;
    kept.wait_ms = 2000;
    if (clean(belay_acquire(client, "kept", &kept, &second, NULL), "acquire, kept") !=
        (second != NULL))
        failures++;
    clean(belay_list(client, NULL, list_one, &listed, NULL), "list");
    if (lock != NULL) clean(belay_release(lock, NULL), "release");
    belay_close(client); /* the second is left to it */
    if (second != NULL) (void)belay_release(second, NULL);
}

/* One life, and what it left behind. */
static void live_and_look(const char *at, belay_world *in, const char *what, long nth)
{
    int fds = open_fds();
    server_command(&server, NULL, "SET belay:held somebody PX %d", LONG_MS);
    live(at, in);
    atomic_store(&plan.which, CALL_NONE);
    atomic_store(&world.refuse, -1);
    if (!until_within(3000 * until_slow(), server_lock_keys(&server, "belay:") == 1)) {
        struct server_reply keys;
        server_command(&server, &keys, "KEYS belay:*");
        fprintf(stderr, "left behind: %s\n", keys.text);
        failures++;
        server_command(&server, NULL, "FLUSHALL");
    }
    if (open_fds() != fds) {
        fprintf(stderr, "%d descriptors are left\n", open_fds() - fds);
        failures++;
    }
    if (failures > 0) fprintf(stderr, "that was %s %ld\n", what, nth);
}

/* ------------------------------------------------------------------ every one */

static void an_allocation_that_fails_leaves_nothing(void **state)
{
    long nth = 0, most = 4000;
    (void)state;
    failures = 0;
    for (; nth < most && failures == 0; nth++) {
        atomic_store(&world.asked, 0);
        atomic_store(&world.refuse, nth);
        live_and_look(at_server(&server), &world.base, "allocation", nth);
        if (atomic_load(&world.asked) <= nth) break; /* there are no more */
    }
    print_message("%ld allocations\n", nth);
    assert_int_equal(failures, 0);
    assert_true(nth > 30 && nth < most);
}

static void calls_fail(enum call which, const char *name, const int *errors, size_t count)
{
    for (size_t e = 0; e < count; e++) {
        long nth = 0;
        failures = 0;
        for (; nth < 400; nth++) {
            atomic_store(&plan.error, errors[e]);
            atomic_store(&plan.left, nth);
            atomic_store(&plan.which, (int)which);
            live_and_look(at_server(&server), NULL, name, nth);
            if (failures > 0) fprintf(stderr, "with %s\n", strerror(errors[e]));
            assert_int_equal(failures, 0);
            if (atomic_load(&plan.left) >= 0) break; /* there were not so many */
        }
        assert_true(nth > 0);
    }
}

static void a_socket_that_fails_leaves_nothing(void **state)
{
    static const int errors[] = { EMFILE, ENOBUFS };
    (void)state;
    calls_fail(CALL_SOCKET, "socket", errors, 2);
}

static void a_connect_that_fails_leaves_nothing(void **state)
{
    static const int errors[] = { EADDRNOTAVAIL, ENETUNREACH, EAGAIN };
    (void)state;
    calls_fail(CALL_CONNECT, "connect", errors, 3);
}

static void a_send_that_fails_leaves_nothing(void **state)
{
    static const int errors[] = { EPIPE, ENOBUFS, EINTR, EAGAIN };
    (void)state;
    calls_fail(CALL_SEND, "send", errors, 4);
}

static void a_receive_that_fails_leaves_nothing(void **state)
{
    static const int errors[] = { ECONNRESET, EINTR, EAGAIN };
    (void)state;
    calls_fail(CALL_RECV, "recv", errors, 3);
}

static void a_watch_that_fails_leaves_nothing(void **state)
{
    static const int errors[] = { ENOSPC, ENOMEM };
    (void)state;
    calls_fail(CALL_EPOLL, "epoll_ctl", errors, 2);
}

/* Seven bytes at a time, interrupted in between: nothing fails, it is only slow. */
static void a_stream_in_pieces_is_whole(void **state)
{
    (void)state;
    failures = 0;
    belay *client = client_open(at_server(&server), "timeout = \"5s\";", NULL);
    atomic_store(&plan.pieces, 1);
    for (int i = 0; i < 20; i++) {
        belay_lock *lock = must_take(client, "job", LONG_MS, 5000);
        assert_status(belay_extend(lock, LONG_MS, NULL), BELAY_OK);
        must_release(lock);
    }
    atomic_store(&plan.pieces, 0);
    belay_close(client);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_allocation_that_fails_leaves_nothing),
        cmocka_unit_test(a_socket_that_fails_leaves_nothing),
        cmocka_unit_test(a_connect_that_fails_leaves_nothing),
        cmocka_unit_test(a_send_that_fails_leaves_nothing),
        cmocka_unit_test(a_receive_that_fails_leaves_nothing),
        cmocka_unit_test(a_watch_that_fails_leaves_nothing),
        cmocka_unit_test(a_stream_in_pieces_is_whole),
    };
    if (argc > 1) cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, setup, teardown) == 0 ? 0 : 1;
}
