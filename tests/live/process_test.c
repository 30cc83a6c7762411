/* process_test.c - fork, exec, closed descriptors, signals: FAULTS rows 45 to 48 with a client that
 * is connected to a server. Children run before any assert and tell by their exit status. */
#define _GNU_SOURCE
#include "tests/live/client.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/wait.h>

#define LONG_MS 60000

static struct server server;
static struct relay *relay;
static belay *client;

static int setup(void **state)
{
    (void)state;
    return server_start(&server, NULL) ? 0 : -1;
}

static int teardown(void **state)
{
    (void)state;
    server_end(&server);
    return 0;
}

static int tidy(void **state)
{
    (void)state;
    belay_close(client);
    client = NULL;
    relay_end(relay);
    relay = NULL;
    server_command(&server, NULL, "FLUSHALL");
    log_clear();
    return 0;
}

static void relay_begin(void)
{
    const struct relay_options options = { .to_port = server.port };
    relay = relay_start(&options);
    assert_non_null(relay);
}

/* The child's exit status; 200 and the signal when one ended it. */
static int run_child(int (*child)(void *arg), void *arg)
{
    int status = 0;
    fflush(NULL);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        alarm(60);
        _exit(child(arg));
    }
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR) continue;
    return WIFSIGNALED(status) ? 200 + WTERMSIG(status) : WEXITSTATUS(status);
}

/* ------------------------------------------------------------------ 8, 9: a holder that is stopped
 */

#define BRIEF_MS 800

static atomic_int told;

static void on_lost(void *arg, belay_lock *lock, const belay_error *why)
{
    (void)arg;
    (void)lock;
    if (why->status == BELAY_LOST) atomic_fetch_add(&told, 1);
}

/* Takes two locks, one of them kept; says so; is stopped, and looks at them when it goes on. */
static int child_is_stopped(void *arg)
{
    int to_parent = *(int *)arg;
    belay_options options = BELAY_OPTIONS_INIT;
    belay_lock *kept = NULL, *plain = NULL;
    belay *own = client_try_open(at_server(&server), NULL, NULL, NULL);
    if (own == NULL) return 1;
    options.ttl_ms = BRIEF_MS;
    options.wait_ms = 5000;
    options.on_lost = on_lost;
    if (belay_acquire(own, "kept", &options, &kept, NULL) != BELAY_OK) return 2;
    if (take(own, "plain", BRIEF_MS, 5000, &plain, NULL) != BELAY_OK) return 3;
    /* Nothing but time tells that it was stopped: a step of a TTL is one. It may be stopped as soon
     * as it has said that it is ready. */
    int64_t before = clock_ms(), now;
    if (write(to_parent, "x", 1) != 1) return 4;
    while ((now = clock_ms()) - before < BRIEF_MS) before = now;
    if (belay_lock_valid(kept, 0) || belay_lock_valid(plain, 0)) return 5;
    if (belay_lock_remaining_ms(plain) != 0) return 6;
    if (belay_extend(plain, LONG_MS, NULL) != BELAY_LOST) return 7;
    if (belay_extend(kept, LONG_MS, NULL) != BELAY_LOST) return 8;
    if (!until_within(2000 * until_slow(), atomic_load(&told) == 1)) return 9;
    if (belay_release(kept, NULL) != BELAY_LOST) return 10;
    if (belay_release(plain, NULL) != BELAY_LOST) return 11;
    belay_close(own);
    return atomic_load(&told) == 1 ? 0 : 12;
}

static void a_stopped_holder_knows_that_it_lost(void **state)
{
    int pipes[2], status = 0;
    char byte, owner[64];
    (void)state;
    assert_int_equal(pipe(pipes), 0);
    fflush(NULL);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        alarm(60);
        _exit(child_is_stopped(&pipes[1]));
    }
    assert_int_equal(read(pipes[0], &byte, 1), 1);
    kill(pid, SIGSTOP);
    client = client_open(at_server(&server), NULL, NULL);
    int64_t start = clock_ms();
    belay_lock *kept = must_take(client, "kept", LONG_MS, 20000); /* not before the TTL is over */
    belay_lock *plain = must_take(client, "plain", LONG_MS, 20000);
    assert_false(until_within(BRIEF_MS * 2 - (clock_ms() - start), false));
    kill(pid, SIGCONT);
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR) continue;
    close(pipes[0]);
    close(pipes[1]);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
    /* The late releases of the one who was stopped touched nothing. */
    assert_string_equal(server_string(&server, owner, sizeof owner, "GET belay:kept"),
                        belay_lock_owner(kept));
    must_release(kept);
    must_release(plain);
}

/* ------------------------------------------------------------------ 45: fork */

static bool list_none(void *arg, const belay_info *info)
{
    (void)arg;
    (void)info;
    return true;
}

static int child_uses_everything(void *arg)
{
    belay_lock *held = arg, *lock = NULL;
    belay_info info = { .size = sizeof info };
    if (take(client, "other", LONG_MS, BELAY_TRY, &lock, NULL) != BELAY_FORKED) return 1;
    if (lock != NULL) return 2;
    if (belay_extend(held, LONG_MS, NULL) != BELAY_FORKED) return 3;
    if (belay_lock_valid(held, 0)) return 4;
    if (belay_inspect(client, "job", &info, NULL) != BELAY_FORKED) return 5;
    if (belay_list(client, NULL, list_none, NULL, NULL) != BELAY_FORKED) return 6;
    if (belay_release(held, NULL) != BELAY_FORKED) return 7;
    if (belay_ready(client, NULL) != BELAY_FORKED) return 8;
    belay_close(client);
    /* A client of its own works. */
    belay *own = client_try_open(at_server(&server), NULL, NULL, NULL);
    if (own == NULL) return 9;
    if (take(own, "child", LONG_MS, 5000, NULL, NULL) != BELAY_OK) return 10;
    if (take(own, "job", LONG_MS, BELAY_TRY, NULL, NULL) != BELAY_HELD) return 11;
    belay_close(own);
    return 0;
}

static void a_forked_child_says_nothing_and_releases_nothing(void **state)
{
    char owner[64];
    (void)state;
    relay_begin();
    client = client_open(at_relay(relay), NULL, NULL);
    belay_lock *lock = must_take(client, "job", LONG_MS, BELAY_TRY);
    size_t requests = requests_count(relay_requests(relay), REQUESTS_ANY, NULL);
    assert_int_equal(run_child(child_uses_everything, lock), 0);
    assert_int_equal(requests_count(relay_requests(relay), REQUESTS_ANY, NULL), requests);
    assert_int_equal(relay_live(relay), 1); /* the parent's connection is unharmed */
    assert_string_equal(server_string(&server, owner, sizeof owner, "GET belay:job"),
                        belay_lock_owner(lock));
    assert_status(belay_extend(lock, LONG_MS, NULL), BELAY_OK);
    must_release(lock);
    assert_int_equal(relay_connections(relay), 1);
}

/* Forked in the middle of a call of another thread, with an answer on its way. */
static void a_fork_beside_a_call_harms_neither(void **state)
{
    struct caller caller = { 0 };
    (void)state;
    relay_begin();
    client = client_open(at_relay(relay), "timeout = \"10s\";", NULL);
    belay_lock *held = must_take(client, "held", LONG_MS, BELAY_TRY);
    relay_hold(relay, RELAY_ALL, RELAY_DOWN, true);
    caller_acquire(&caller, client, "job", LONG_MS, BELAY_TRY);
    assert_true(until(server_integer(&server, "EXISTS belay:job") == 1));
    assert_int_equal(run_child(child_uses_everything, held), 0);
    relay_hold(relay, RELAY_ALL, RELAY_DOWN, false);
    assert_status(caller_end(&caller), BELAY_OK);
    must_release(caller.lock);
    must_release(held);
}

/* ------------------------------------------------------------------ 46: exec */

/* How many descriptors a program that is executed now finds open. */
static int child_counts_descriptors(void *arg)
{
    char *const argv[] = { (char[]){ "sh" }, (char[]){ "-c" },
                           (char[]){ "set -- /proc/self/fd/*; exit $#" }, NULL };
    (void)arg;
    execv("/bin/sh", argv);
    return 255;
}

static int inheritable(void)
{
    int count = 0;
    for (int fd = 0; fd < 256; fd++) {
        int flags = fcntl(fd, F_GETFD);
        count += flags >= 0 && (flags & FD_CLOEXEC) == 0;
    }
    return count;
}

static void no_descriptor_leaks_through_exec(void **state)
{
    struct caller caller = { 0 };
    (void)state;
    int before = run_child(child_counts_descriptors, NULL), inherited = inheritable();
    client = client_open(at_server(&server), NULL, NULL);
    belay *rival = client_open(at_socket(server.socket), NULL, NULL);
    belay_lock *lock = must_take(client, "job", LONG_MS, BELAY_TRY);
    caller_acquire(&caller, rival, "job", LONG_MS, 20000); /* with its second connection */
    assert_true(until(server_clients(&server) >= 3));
    assert_int_equal(inheritable(), inherited);
    assert_int_equal(run_child(child_counts_descriptors, NULL), before);
    must_release(lock);
    assert_status(caller_end(&caller), BELAY_OK);
    must_release(caller.lock);
    belay_close(rival);
}

/* ------------------------------------------------------------------ 47: 0, 1 and 2 are closed */

static int child_without_stdio(void *arg)
{
    (void)arg;
    close(0);
    close(1);
    close(2);
    belay *own = client_try_open(at_server(&server), NULL, NULL, NULL);
    if (own == NULL) return 1;
    belay_lock *lock = NULL, *kept = NULL;
    belay_options options = BELAY_OPTIONS_INIT;
    if (take(own, "job", LONG_MS, 5000, &lock, NULL) != BELAY_OK) return 2;
    options.ttl_ms = LONG_MS;
    if (belay_acquire(own, "kept", &options, &kept, NULL) != BELAY_OK) return 3;
    /* A waiter: the second connection. */
    if (take(own, "job", LONG_MS, 200, NULL, NULL) != BELAY_HELD) return 4;
    for (int fd = 0; fd < 3; fd++)
        if (fcntl(fd, F_GETFD) >= 0) return 5 + fd;
    if (belay_release(lock, NULL) != BELAY_OK) return 8;
    if (belay_release(kept, NULL) != BELAY_OK) return 9;
    belay_close(own);
    return 0;
}

static void descriptors_stay_clear_of_stdio(void **state)
{
    (void)state;
    assert_int_equal(run_child(child_without_stdio, NULL), 0);
}

/* ------------------------------------------------------------------ 48: signals, cuts */

static atomic_long signals;

static void on_signal(int number)
{
    (void)number;
    atomic_fetch_add(&signals, 1);
}

/* An interval timer interrupts every system call of every thread. */
static int child_in_a_storm(void *arg)
{
    struct sigaction action = { .sa_handler = on_signal }; /* no SA_RESTART */
    struct itimerval often = { .it_interval = { .tv_usec = 300 }, .it_value = { .tv_usec = 300 } };
    (void)arg;
    sigaction(SIGALRM, &action, NULL);
    belay *own = client_try_open(at_server(&server), "timeout = \"2s\";", NULL, NULL);
    belay *rival = client_try_open(at_socket(server.socket), "timeout = \"2s\";", NULL, NULL);
    if (own == NULL || rival == NULL) return 1;
    setitimer(ITIMER_REAL, &often, NULL);
    for (int64_t end = clock_ms() + 1000; clock_ms() < end;) {
        belay_lock *lock = NULL;
        int64_t start = clock_ms();
        if (take(own, "job", LONG_MS, 5000, &lock, NULL) != BELAY_OK) return 2;
        if (take(rival, "job", LONG_MS, 20, NULL, NULL) != BELAY_HELD) return 3;
        if (belay_extend(lock, LONG_MS, NULL) != BELAY_OK) return 4;
        if (belay_release(lock, NULL) != BELAY_OK) return 5;
        if (clock_ms() - start > 1000 * until_slow()) return 6;
    }
    belay_close(own);
    belay_close(rival);
    often = (struct itimerval){ 0 };
    setitimer(ITIMER_REAL, &often, NULL);
    return atomic_load(&signals) > 100 ? 0 : 7;
}

static void interrupted_calls_are_in_time(void **state)
{
    (void)state;
    assert_int_equal(run_child(child_in_a_storm, NULL), 0);
    assert_int_equal(server_lock_keys(&server, "belay:"), 0);
}

/* SIGPIPE as a program finds it: deadly. The peer resets whenever it likes. */
static int child_is_reset(void *arg)
{
    int port = 0;
    if (read(*(int *)arg, &port, sizeof port) != sizeof port) return 9;
    signal(SIGPIPE, SIG_DFL);
    belay *own = client_try_open(at_port(port), "timeout = \"500ms\";", NULL, NULL);
    if (own == NULL) return 1;
    int got = 0;
    for (int i = 0; i < 300; i++) {
        belay_lock *lock = NULL;
        int64_t start = clock_ms();
        belay_status status = take(own, "job", LONG_MS, BELAY_TRY, &lock, NULL);
        if (status != BELAY_OK && !is_doubt(status)) return 2;
        if (clock_ms() - start > 500 + 300 * until_slow()) return 3;
        got += status == BELAY_OK;
        if (lock != NULL) (void)belay_release(lock, NULL);
    }
    belay_close(own);
    return got > 20 ? 0 : 4;
}

static void a_peer_that_resets_kills_nobody(void **state)
{
    int status = 0, pipes[2];
    (void)state;
    assert_int_equal(pipe(pipes), 0);
    fflush(NULL);
    pid_t pid = fork(); /* before the relay's thread begins: TSan wants it so */
    assert_true(pid >= 0);
    if (pid == 0) _exit(child_is_reset(&pipes[0]));
    relay_begin();
    int cuts = 0, port = relay_port(relay);
    assert_int_equal(write(pipes[1], &port, sizeof port), sizeof port);
    while (waitpid(pid, &status, WNOHANG) == 0) {
        relay_cut(relay, RELAY_ALL, cuts++ % 2 == 0);
        usleep(3000);
    }
    close(pipes[0]);
    close(pipes[1]);
    assert_false(WIFSIGNALED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
    assert_true(cuts > 20);
    assert_true(until(server_lock_keys(&server, "belay:") == 0));
}

#define IS(function) cmocka_unit_test_teardown(function, tidy)

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        IS(a_stopped_holder_knows_that_it_lost),
        IS(a_forked_child_says_nothing_and_releases_nothing),
        IS(a_fork_beside_a_call_harms_neither),
        IS(no_descriptor_leaks_through_exec),
        IS(descriptors_stay_clear_of_stdio),
        IS(interrupted_calls_are_in_time),
        IS(a_peer_that_resets_kills_nobody),
    };
    if (argc > 1) cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, setup, teardown) == 0 ? 0 : 1;
}
