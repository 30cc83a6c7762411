/* fallback_killed_test.c - a holder that is killed in the middle of a promotion: both sides are
 * free by the TTL, and nothing is left (FAULTS row 36). The holder is a forked child behind a
 * relay. */
#define _GNU_SOURCE
#include "tests/live/host.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>

enum { TTL_MS = 700, LONG_MS = 60000, ROUNDS = 12, TOLD = 9 };

#define FALLBACK "probe_every = \"20ms\"; probe_most = \"20ms\";"

static struct server server;
static struct relay *relay;
static struct host host, elsewhere;
static belay *neighbour, *stranger; /* of the same host, of another */
static pid_t child;
static int told[2]; /* a pipe from the child */

static int setup(void **state)
{
    (void)state;
    if (!host_begin(&host) || !host_begin(&elsewhere) || !server_start(&server, NULL)) return -1;
    const struct relay_options options = { .to_port = server.port };
    relay = relay_start(&options);
    if (relay == NULL || pipe(told) != 0) return -1;
    struct fallback_at at = { .at = at_server(&server), .host = &host, .fallback = FALLBACK };
    neighbour = fallback_open(&at, NULL);
    at.host = &elsewhere;
    stranger = fallback_open(&at, NULL);
    must_release(must_take(neighbour, "job", LONG_MS, 5000)); /* the server has the scripts */
    return 0;
}

static int child_end(void)
{
    int status = 0;
    if (child <= 0) return -1;
    kill(child, SIGKILL);
    while (waitpid(child, &status, 0) < 0 && errno == EINTR) continue;
    child = 0;
    return WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status);
}

static int teardown(void **state)
{
    (void)state;
    (void)child_end();
    close(told[0]);
    close(told[1]);
    belay_close(neighbour);
    belay_close(stranger);
    neighbour = stranger = NULL;
    relay_end(relay);
    relay = NULL;
    server_end(&server);
    host_end(&host);
    host_end(&elsewhere);
    log_clear();
    return 0;
}

/* ------------------------------------------------------------------ the holder */

static void on_scope(void *arg, belay_lock *lock, belay_scope now)
{
    (void)arg, (void)lock;
    if (now == BELAY_SCOPE_FLEET && write(TOLD, "p", 1) != 1) _exit(4);
}

/* Holds the host's lock, kept, and says so; what comes then is its client's own doing. */
static int hold_until_killed(const char *where, const char *path)
{
    struct host same = { .folder = "" };
    snprintf(same.path, sizeof same.path, "%s", path);
    const struct fallback_at at = {
        .at = where, .host = &same, .redis = "timeout = \"100ms\";", .fallback = FALLBACK
    };
    belay_options options = BELAY_OPTIONS_INIT;
    belay_lock *lock = NULL;
    belay *client = fallback_try_open(&at, NULL);
    if (client == NULL) return 1;
    options.ttl_ms = TTL_MS;
    options.wait_ms = 5000;
    options.on_scope = on_scope;
    if (belay_acquire(client, "job", &options, &lock, NULL) != BELAY_OK) return 2;
    if (belay_lock_scope(lock) != BELAY_SCOPE_HOST) return 3;
    if (write(TOLD, "h", 1) != 1) return 4;
    for (;;) pause();
}

static void child_begin(void)
{
    char said = 0;
    relay_refuse(relay, true);
    relay_cut(relay, RELAY_ALL, false);
    fflush(NULL);
    pid_t parent = getpid();
    child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent) _exit(1);
        if (dup2(told[1], TOLD) != TOLD) _exit(1);
        execl("/proc/self/exe", "holder", "hold", at_relay(relay), host.path, (char *)NULL);
        _exit(127);
    }
    assert_int_equal(read(told[0], &said, 1), 1);
    assert_int_equal(said, 'h');
    assert_status(take(neighbour, "job", LONG_MS, BELAY_TRY, NULL, NULL), BELAY_HELD);
}

/* The fleet has it back by the TTL of whatever may be there; this host's row is free at once. */
static void is_free_by_the_ttl(int64_t killed_ms)
{
    belay *who[] = { stranger, neighbour };
    for (int i = 0; i < 2; i++) {
        belay_lock *lock = must_take(who[i], "job", LONG_MS, 10000);
        assert_int_equal(belay_lock_scope(lock), BELAY_SCOPE_FLEET);
        assert_true(clock_ms() - killed_ms < TTL_MS + 400 * until_slow());
        must_release(lock);
    }
    assert_true(until(server_lock_keys(&server, "belay:") == 0));
    /* Its hint that it was degraded may be there: it died with it, and is free. */
    assert_true(until(host_number(&host, "SELECT count(*) FROM locks WHERE CAST(name AS TEXT)"
                                         " NOT LIKE 'belay-degraded:%'") == 0));
}

/* ------------------------------------------------------------------ the promises */

static void killed_at(enum relay_trap trap)
{
    child_begin();
    relay_trap(relay, trap, "EVAL* belay:job *");
    relay_refuse(relay, false);
    assert_true(relay_trapped(relay, UNTIL_MS) >= 0);
    bool there = server_lock_keys(&server, "belay:") == 1;
    assert_int_equal(there, trap == RELAY_HOLD_REPLY);
    assert_int_equal(child_end(), SIGKILL);
    is_free_by_the_ttl(clock_ms());
}

static void killed_before_the_server_was_asked(void **state)
{
    (void)state;
    killed_at(RELAY_HOLD_REQUEST);
}

static void killed_before_the_server_has_answered(void **state)
{
    (void)state;
    killed_at(RELAY_HOLD_REPLY);
}

static void killed_when_it_was_promoted(void **state)
{
    char said = 0;
    (void)state;
    child_begin();
    relay_refuse(relay, false);
    assert_int_equal(read(told[0], &said, 1), 1);
    assert_int_equal(said, 'p');
    assert_int_equal(server_lock_keys(&server, "belay:"), 1);
    assert_int_equal(child_end(), SIGKILL);
    is_free_by_the_ttl(clock_ms());
}

static void killed_at_any_moment(void **state)
{
    unsigned dice = (unsigned)clock_ms();
    int promoted = 0;
    (void)state;
    for (int i = 0; i < ROUNDS; i++) {
        child_begin();
        relay_refuse(relay, false);
        usleep((useconds_t)rand_r(&dice) % 40000);
        assert_int_equal(child_end(), SIGKILL);
        int64_t killed_ms = clock_ms();
        promoted += server_lock_keys(&server, "belay:") == 1;
        is_free_by_the_ttl(killed_ms);
        char said[8]; /* what it said before it died */
        struct pollfd readable = { .fd = told[0], .events = POLLIN };
        if (poll(&readable, 1, 0) > 0) (void)!read(told[0], said, sizeof said);
    }
    fprintf(stderr, "# %d of %d had reached the server\n", promoted, ROUNDS);
}

#define IS(function) cmocka_unit_test_setup_teardown(function, setup, teardown)

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        IS(killed_before_the_server_was_asked),
        IS(killed_before_the_server_has_answered),
        IS(killed_when_it_was_promoted),
        IS(killed_at_any_moment),
    };
    if (argc == 4 && strcmp(argv[1], "hold") == 0) return hold_until_killed(argv[2], argv[3]);
    if (argc > 1) cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL) == 0 ? 0 : 1;
}
