/* run.c - `belay run NAME -- true` from end to end, beside `flock FILE true`.
 *
 * Both are spawned and waited for in turn, 200 times each. belay is $BELAY_BIN, or the first
 * argument, or the `belay` on PATH, and has no config file: its lock is kept in the default place.
 *
 *   bench_run [--json] [--quick] [BELAY]
 */
#define _GNU_SOURCE
#include "bench.h"

#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

struct commands {
    const char *ours[8], *bare[8];
};

/* Microseconds from the spawn to the end. */
static double spawned(const char *const *argv)
{
    pid_t pid;
    int status;
    int64_t start = bench_now();
    int failed = posix_spawnp(&pid, argv[0], NULL, NULL, (char *const *)argv, environ);
    if (failed != 0) bench_die(argv[0], strerror(failed));
    if (waitpid(pid, &status, 0) != pid) bench_die("waitpid", "failed");
    int64_t took = bench_now() - start;
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) bench_die(argv[0], "did not exit with 0");
    return (double)took / 1e3;
}

static double ours(void *arg)
{
    return spawned(((struct commands *)arg)->ours);
}

static double bare(void *arg)
{
    return spawned(((struct commands *)arg)->bare);
}

int main(int argc, char **argv)
{
    int next = bench_begin("run", argc, argv);
    const char *program = getenv("BELAY_BIN");
    char home[] = "/tmp/belay-bench-XXXXXX", file[64], name[64];
    if (next < argc) program = argv[next];
    if (program == NULL) program = "belay";
    if (mkdtemp(home) == NULL) bench_die(home, "cannot be made");
    snprintf(file, sizeof file, "%s/flock", home);
    snprintf(name, sizeof name, "bench-run-%ld", (long)getpid());
    int fd = open(file, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
    if (fd < 0) bench_die(file, "cannot be made");
    close(fd);
    /* The configuration of the person who measures stays out of it. */
    unsetenv("BELAY_CONFIG");
    unsetenv("XDG_CONFIG_HOME");
    setenv("HOME", home, 1);
    bench_fact("command", "%s run NAME -- true", program);

    struct commands commands = {
        .ours = { program, "run", name, "--", "true", NULL },
        .bare = { "flock", file, "true", NULL },
    };
    bench_row(&(struct bench_row){
        .what = "belay run NAME -- true",
        .unit = "us",
        .pair = bench_pairs(bench_quick() ? 5 : 200, ours, bare, &commands),
        .floor_is = "flock FILE true",
        .ratio_under = 3,
    });
    unlink(file);
    rmdir(home);
    return bench_end();
}
