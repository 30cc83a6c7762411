/* redlock_peers_test.c - one key on five masters, two kinds of clients: belay's redlock with
 * prefix = "" and node-redlock 5 keep each other out. Two processes of each contend for a while;
 * what they count in a file while they hold the lock is what they were granted, and both get a
 * share.
 *
 * The clients are the programs of tests/live/peers. `./dev deps` brings what is not ours. */
#define _GNU_SOURCE
#include "tests/live/five.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>

static const char KEY[] = "nightly-report";

enum { OF_EACH = 2, PEERS = 2 * OF_EACH };

struct process {
    const char *kind;
    pid_t pid;
    FILE *in, *out;
    long grants;
};

static char belay_peer[512], redlock[512];
static struct five five;

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

static void process_start(struct process *process, const char *const *argv)
{
    int in[2], out[2];
    assert_int_equal(pipe2(in, O_CLOEXEC), 0);
    assert_int_equal(pipe2(out, O_CLOEXEC), 0);
    process->pid = program_start(argv, in[0], out[1]);
    assert_true(process->pid > 0);
    close(in[0]);
    close(out[1]);
    process->in = fdopen(in[1], "w");
    process->out = fdopen(out[0], "r");
    assert_true(process->in != NULL && process->out != NULL);
}

/* Its next line, within `ms`. */
static const char *process_says(struct process *process, int ms, char *line, size_t size)
{
    struct pollfd at = { .fd = fileno(process->out), .events = POLLIN };
    line[0] = '\0';
    if (poll(&at, 1, ms) == 1 && fgets(line, (int)size, process->out) == NULL) line[0] = '\0';
    return line;
}

static void process_end(struct process *process, int ms)
{
    char line[256];
    const char *grants = strstr(process_says(process, ms, line, sizeof line), "\"grants\":");
    int status = -1;
    if (grants == NULL) kill(process->pid, SIGKILL);
    waitpid(process->pid, &status, 0);
    fclose(process->in);
    fclose(process->out);
    process->pid = 0;
    assert_non_null(grants);
    assert_int_equal(status, 0);
    process->grants = strtol(grants + strlen("\"grants\":"), NULL, 10);
}

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

static int tidy(void **state)
{
    (void)state;
    five_end(&five);
    return 0;
}

static void two_kinds_of_clients_on_five_masters_lose_no_update(void **state)
{
    const char *given = getenv("BELAY_PEERS_SECONDS");
    const char *seconds = given != NULL ? given : until_slow() > 1 ? "10" : "20";
    char config[96], counter[96], ports[64] = "", text[2048], line[64];
    struct process peers[PEERS] = { 0 };
    long sum = 0, of_kind[2] = { 0 };
    (void)state;
    five_begin(&five, false);
    snprintf(counter, sizeof counter, "%s/counter", five.servers[0].folder);
    snprintf(config, sizeof config, "%s/belay.conf", five.servers[0].folder);
    for (int i = 0; i < FIVE; i++)
        snprintf(ports + strlen(ports), sizeof ports - strlen(ports), "%s%d", i > 0 ? "," : "",
                 five.servers[i].port);
    /* The format of the other: the key is the name. It polls: whoever wants to share with it leaves
     * it a pause. */
    file_write(config,
               five_config(&five, "quarantine = false; node_timeout = \"500ms\"; timeout = \"2s\";",
                           "", "prefix = \"\"; handoff_pause = \"100ms\";", text, sizeof text));
    file_write(counter, "0");
    const char *const argvs[2][6] = {
        { belay_peer, config, KEY, counter, seconds, NULL },
        { "node", redlock, ports, KEY, counter, seconds },
    };
    for (int i = 0; i < PEERS; i++) {
        const char *argv[7] = { NULL };
        memcpy(argv, argvs[i % 2], sizeof argvs[0]);
        peers[i].kind = i % 2 == 0 ? "belay" : "node-redlock";
        process_start(&peers[i], argv);
    }
    for (int i = 0; i < PEERS; i++)
        assert_string_equal(process_says(&peers[i], UNTIL_MS, line, sizeof line), "ready\n");
    for (int i = 0; i < PEERS; i++)
        assert_true(fputs("go\n", peers[i].in) >= 0 && fflush(peers[i].in) == 0);
    for (int i = 0; i < PEERS; i++) process_end(&peers[i], 1000 * atoi(seconds) + UNTIL_MS);

    for (int i = 0; i < PEERS; i++) sum += peers[i].grants;
    for (int i = 0; i < PEERS; i++) {
        of_kind[i % 2] += peers[i].grants;
        print_message("%-12s %6ld grants, %4.1f %%\n", peers[i].kind, peers[i].grants,
                      100.0 * (double)peers[i].grants / (double)(sum > 0 ? sum : 1));
    }
    assert_int_equal(number_in(counter), sum);
    assert_true(of_kind[0] > 0 && of_kind[1] > 0);
    for (int i = 0; i < FIVE; i++)
        assert_true(until_within(5000, server_integer(&five.servers[i], "EXISTS %s", KEY) == 0));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(two_kinds_of_clients_on_five_masters_lose_no_update, tidy),
    };
    char node_path[512];

    path_set(belay_peer, sizeof belay_peer, "BELAY_BUILD", "tests/belay_peer");
    path_set(redlock, sizeof redlock, "BELAY_SRC", "tests/live/peers/redlock.cjs");
    path_set(node_path, sizeof node_path, "BELAY_SRC", "build/npm/node_modules");
    setenv("NODE_PATH", node_path, 1);
    if (!program_works("node", "-e", "require('ioredis'); require('redlock')")) {
        fprintf(stderr, "node-redlock is missing: ./dev deps brings it\n");
        return 77;
    }
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
