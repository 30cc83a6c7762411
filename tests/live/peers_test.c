/* peers_test.c - one key, three kinds of clients: belay, redis-py's Lock and node-redlock keep each
 * other out. Two processes of each contend for a while; what they count in a file while they hold
 * the lock is what they were granted, and everyone gets a share.
 *
 * The clients are the programs of tests/live/peers. `./dev deps` brings what is not ours. */
#define _GNU_SOURCE
#include "tests/live/server.h"
#include "tests/live/until.h"

#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

static const char PYTHON[] =
    "/usr/bin/python3"; /* the one that Debian's python3-redis belongs to */
static const char KEY[] = "nightly-report";

enum { OF_EACH = 2, KINDS = 3, PEERS = OF_EACH * KINDS, LEAST_PERMILLE = 5 };

struct peer {
    const char *kind;
    pid_t pid;
    FILE *in, *out;
    long grants;
};

static char belay_peer[512], redis_py[512], redlock[512];

/* ------------------------------------------------------------------ programs */

static pid_t program_start(const char *const *argv, int in, int out)
{
    fflush(NULL);
    pid_t parent = getpid(), pid = fork();
    if (pid != 0) return pid;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) _exit(1);
    dup2(in, 0);
    dup2(out, 1);
    execvp(argv[0], (char *const *)(uintptr_t)argv);
    _exit(127);
}

static bool program_works(const char *program, const char *flag, const char *text)
{
    const char *argv[] = { program, flag, text, NULL };
    int status = -1;
    pid_t pid = program_start(argv, 0, 2);
    return pid > 0 && waitpid(pid, &status, 0) == pid && status == 0;
}

static void path_set(char *to, size_t size, const char *variable, const char *rest)
{
    const char *root = getenv(variable);
    snprintf(to, size, "%s/%s", root != NULL ? root : ".", rest);
}

/* ------------------------------------------------------------------ peers */

static void peer_start(struct peer *peer, const char *const *argv)
{
    int in[2], out[2];
    assert_int_equal(pipe2(in, O_CLOEXEC), 0);
    assert_int_equal(pipe2(out, O_CLOEXEC), 0);
    peer->pid = program_start(argv, in[0], out[1]);
    assert_true(peer->pid > 0);
    close(in[0]);
    close(out[1]);
    peer->in = fdopen(in[1], "w");
    peer->out = fdopen(out[0], "r");
    assert_true(peer->in != NULL && peer->out != NULL);
}

/* Its next line, within `ms`. */
static const char *peer_says(struct peer *peer, int ms, char *line, size_t size)
{
    struct pollfd at = { .fd = fileno(peer->out), .events = POLLIN };
    line[0] = '\0';
    if (poll(&at, 1, ms) == 1 && fgets(line, (int)size, peer->out) == NULL) line[0] = '\0';
    return line;
}

static void peer_go(struct peer *peer)
{
    assert_true(fputs("go\n", peer->in) >= 0 && fflush(peer->in) == 0);
}

static void peer_end(struct peer *peer, int ms)
{
    char line[256];
    const char *grants = strstr(peer_says(peer, ms, line, sizeof line), "\"grants\":");
    int status = -1;
    if (grants == NULL) kill(peer->pid, SIGKILL);
    waitpid(peer->pid, &status, 0);
    fclose(peer->in);
    fclose(peer->out);
    peer->pid = 0;
    assert_non_null(grants);
    assert_int_equal(status, 0);
    peer->grants = strtol(grants + strlen("\"grants\":"), NULL, 10);
}

/* ------------------------------------------------------------------ the promise */

static void file_write(const char *path, const char *text)
{
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    assert_true(fputs(text, file) >= 0);
    assert_int_equal(fclose(file), 0);
}

static long number_in(const char *path)
{
    long number = -1;
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    assert_int_equal(fscanf(file, "%ld", &number), 1);
    fclose(file);
    return number;
}

static struct server server;

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

static void six_clients_of_three_kinds_lose_no_update(void **state)
{
    const char *given = getenv("BELAY_PEERS_SECONDS");
    const char *seconds = given != NULL ? given : until_slow() > 1 ? "10" : "30";
    int patience_ms = 1000 * atoi(seconds) + UNTIL_MS;
    char config[80], counter[80], port[8], text[512], line[64];
    struct peer peers[PEERS] = { 0 };
    long sum = 0;
    (void)state;
    snprintf(counter, sizeof counter, "%s/counter", server.folder);
    snprintf(config, sizeof config, "%s/belay.conf", server.folder);
    snprintf(port, sizeof port, "%d", server.port);
    /* The format of the others: the key is the name. They poll, some every 300 ms: whoever wants to
     * share with them leaves them a pause. */
    snprintf(text, sizeof text,
             "use = \"main\";\nprefix = \"\";\nhandoff_pause = \"100ms\";\n"
             "backends: { main: { type = \"redis\"; host = \"127.0.0.1\"; port = %d; }; };\n",
             server.port);
    file_write(config, text);
    file_write(counter, "0");

    const char *const argvs[KINDS][7] = {
        { belay_peer, config, KEY, counter, seconds, NULL },
        { PYTHON, redis_py, port, KEY, counter, seconds, NULL },
        { "node", redlock, port, KEY, counter, seconds, NULL },
    };
    static const char *const kinds[KINDS] = { "belay", "redis-py", "node-redlock" };
    for (int i = 0; i < PEERS; i++) {
        peers[i].kind = kinds[i % KINDS];
        peer_start(&peers[i], argvs[i % KINDS]);
    }
    for (int i = 0; i < PEERS; i++)
        assert_string_equal(peer_says(&peers[i], UNTIL_MS, line, sizeof line), "ready\n");
    for (int i = 0; i < PEERS; i++) peer_go(&peers[i]);
    for (int i = 0; i < PEERS; i++) peer_end(&peers[i], patience_ms);

    for (int i = 0; i < PEERS; i++) sum += peers[i].grants;
    for (int i = 0; i < PEERS; i++)
        print_message("%-12s %6ld grants, %4.1f %%\n", peers[i].kind, peers[i].grants,
                      100.0 * (double)peers[i].grants / (double)sum);
    assert_int_equal(number_in(counter), sum);
    for (int i = 0; i < PEERS; i++)
        assert_true(peers[i].grants * 1000 >= sum * LEAST_PERMILLE && peers[i].grants > 0);
    assert_int_equal(server_integer(&server, "EXISTS %s", KEY), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(six_clients_of_three_kinds_lose_no_update),
    };
    char node_path[512];

    path_set(belay_peer, sizeof belay_peer, "BELAY_BUILD", "tests/belay_peer");
    path_set(redis_py, sizeof redis_py, "BELAY_SRC", "tests/live/peers/redis_py.py");
    path_set(redlock, sizeof redlock, "BELAY_SRC", "tests/live/peers/redlock.cjs");
    path_set(node_path, sizeof node_path, "BELAY_SRC", "build/npm/node_modules");
    setenv("NODE_PATH", node_path, 1);
    if (!program_works(PYTHON, "-c", "import redis") ||
        !program_works("node", "-e", "require('ioredis'); require('redlock')")) {
        fprintf(stderr, "redis-py or node-redlock is missing: ./dev deps brings them\n");
        return 77;
    }
    return cmocka_run_group_tests(tests, setup, teardown) != 0;
}
