/* valid.c - belay_lock_valid beside a bare clock_gettime(CLOCK_BOOTTIME), and the proof that it
 * makes no system call: a child that may only exit (seccomp) calls it a million times and lives. */
#define _GNU_SOURCE
#include "bench.h"

#include <belay/belay.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { CALLS = 1000000 };

static volatile int64_t sink;

static double valid_ns(void *arg)
{
    const belay_lock *lock = arg;
    int calls = bench_quick() ? CALLS / 100 : CALLS;
    int64_t yes = 0, start = bench_now();
    for (int i = 0; i < calls; i++) yes += belay_lock_valid(lock, 100);
    int64_t took = bench_now() - start;
    if (yes != calls) bench_die("belay_lock_valid", "said no");
    return (double)took / calls;
}

static double clock_ns(void *arg)
{
    (void)arg;
    int calls = bench_quick() ? CALLS / 100 : CALLS;
    int64_t sum = 0, start = bench_now();
    for (int i = 0; i < calls; i++) {
        struct timespec now;
        clock_gettime(CLOCK_BOOTTIME, &now);
        sum += now.tv_nsec;
    }
    int64_t took = bench_now() - start;
    sink = sum;
    return (double)took / calls;
}

static belay *opened(void)
{
    belay *client;
    belay_error err = BELAY_ERROR_INIT;
    bench_need(belay_open(&client, "memory:", NULL, &err), "belay_open", err.text);
    return client;
}

static belay_lock *taken(belay *client)
{
    belay_lock *lock;
    belay_options options = { .size = sizeof options, .ttl_ms = 3600000, .keep = BELAY_KEEP_OFF };
    belay_error err = BELAY_ERROR_INIT;
    bench_need(belay_acquire(client, "valid", &options, &lock, &err), "belay_acquire", err.text);
    return lock;
}

/* From now on any system call but exit ends the process with SIGSYS. */
static void renounce(void)
{
    struct sock_filter rules[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_exit, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
    };
    struct sock_fprog program = { .len = sizeof rules / sizeof rules[0], .filter = rules };
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
        prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0)
        _exit(2);
}

/* True: `calls` calls and, where `cheat`, one getpid were made, and the child lived. */
static bool lives(int calls, bool cheat)
{
    pid_t child = fork();
    if (child < 0) bench_die("fork", "failed");
    if (child == 0) {
        /* A client of its own: the parent's is invalid here, without a look at the clock. */
        belay_lock *lock = taken(opened());
        renounce();
        int yes = 0;
        for (int i = 0; i < calls; i++) yes += belay_lock_valid(lock, 100);
        if (cheat) (void)syscall(SYS_getpid);
        (void)syscall(SYS_exit, yes == calls ? 0 : 1);
    }
    int status;
    if (waitpid(child, &status, 0) != child) bench_die("waitpid", "failed");
    if (WIFEXITED(status) && WEXITSTATUS(status) == 2) bench_die("seccomp", "not available here");
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

int main(int argc, char **argv)
{
    bench_begin("valid", argc, argv);
    bool silent = lives(CALLS, false);
    if (lives(1, true)) bench_die("seccomp", "a system call went unnoticed");
    bench_fact("system calls in 1,000,000 calls", "%s", silent ? "none" : "SOME");

    belay *client = opened();
    belay_lock *lock = taken(client);
    bench_row(&(struct bench_row){
        .what = "belay_lock_valid",
        .unit = "ns",
        .pair = bench_pairs(bench_quick() ? 3 : 51, valid_ns, clock_ns, lock),
        .floor_is = "clock_gettime(CLOCK_BOOTTIME)",
        .ratio_under = 1.5,
    });
    belay_release(lock, NULL);
    belay_close(client);
    return bench_end();
}
