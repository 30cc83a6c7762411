/* common_peers.c - common_peers.h's part that is compiled once. */
#define _GNU_SOURCE
#include "common_peers.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

struct kind {
    const char *name, *script;
    const char *programs[3]; /* tried in this order; NULL ends them */
};

/* Debian's python3-redis belongs to Debian's python3, which need not be the first on the PATH. */
static const struct kind kinds[BENCH_PEER_KINDS] = {
    [BENCH_REDIS_PY] = { "redis-py's Lock",
                         BENCH_SOURCES "/peers/redis_py.py",
                         { "/usr/bin/python3", "python3", NULL } },
    [BENCH_NODE_REDLOCK] = { "node-redlock", BENCH_SOURCES "/peers/node_redlock.js", { "node" } },
};

enum { PORTS_MOST = 8 };

static void peer_exec(const char *program, const char *script, const struct bench_redis *redis,
                      int count)
{
    char numbers[PORTS_MOST][16];
    char *words[PORTS_MOST + 3] = { (char *)program, (char *)script };
    const char *npm = getenv("BELAY_NPM");
    for (int i = 0; i < count && i < PORTS_MOST; i++) {
        snprintf(numbers[i], sizeof numbers[i], "%d", redis[i].port);
        words[2 + i] = numbers[i];
    }
    setenv("NODE_PATH", npm != NULL ? npm : BENCH_SOURCES "/../build/npm/node_modules", 1);
    execvp(program, words);
    printf("missing %s: %s\n", program, strerror(errno));
    fflush(stdout);
    _exit(0);
}

static void peer_spawn(struct bench_peer *peer, const char *program, const char *script,
                       const struct bench_redis *redis, int count)
{
    int to[2], from[2];
    if (pipe2(to, O_CLOEXEC) != 0 || pipe2(from, O_CLOEXEC) != 0)
        bench_die("pipe", strerror(errno));
    fflush(stdout);
    pid_t parent = getpid();
    peer->pid = fork();
    if (peer->pid < 0) bench_die("fork", strerror(errno));
    if (peer->pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent || dup2(to[0], STDIN_FILENO) < 0 ||
            dup2(from[1], STDOUT_FILENO) < 0)
            _exit(1);
        peer_exec(program, script, redis, count);
    }
    close(to[0]);
    close(from[1]);
    peer->tell = fdopen(to[1], "w");
    peer->hear = fdopen(from[0], "r");
    if (peer->tell == NULL || peer->hear == NULL) bench_die("fdopen", "no memory");
}

static void line_hear(struct bench_peer *peer, char *line, int size)
{
    if (fgets(line, size, peer->hear) == NULL) bench_die(peer->name, "ended");
    line[strcspn(line, "\n")] = '\0';
}

bool bench_peer_open(struct bench_peer *peer, enum bench_peer_kind which,
                     const struct bench_redis *redis, int count)
{
    const struct kind *kind = &kinds[which];
    char line[256] = "";
    peer->name = kind->name;
    for (int i = 0; i < 3 && kind->programs[i] != NULL; i++) {
        peer_spawn(peer, kind->programs[i], kind->script, redis, count);
        line_hear(peer, line, sizeof line);
        if (strncmp(line, "ready ", 6) == 0) {
            snprintf(peer->version, sizeof peer->version, "%.100s", line + 6);
            return true;
        }
        bench_peer_close(peer);
    }
    snprintf(peer->version, sizeof peer->version, "not here: %.100s", line);
    return false;
}

void bench_peer_close(struct bench_peer *peer)
{
    fclose(peer->tell); /* its input ends, and so does it */
    fclose(peer->hear);
    while (waitpid(peer->pid, NULL, 0) < 0 && errno == EINTR) continue;
}

void bench_peer_tell(struct bench_peer *peer, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vfprintf(peer->tell, format, args);
    va_end(args);
    if (fputc('\n', peer->tell) == EOF || fflush(peer->tell) != 0)
        bench_die(peer->name, "does not listen");
}

void bench_peer_hear(struct bench_peer *peer, double *out, size_t count)
{
    char line[1024], *at = line;
    line_hear(peer, line, sizeof line);
    for (size_t i = 0; i < count; i++) {
        char *end;
        out[i] = strtod(at, &end);
        if (end == at) bench_die(peer->name, line);
        at = end;
    }
}
