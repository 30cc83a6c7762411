/* engine_help.c - conditions, clients, callers. */
#include "tests/unit/engine_help.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <time.h>

static int64_t clock_ns(clockid_t clock)
{
    struct timespec at;
    clock_gettime(clock, &at);
    return (int64_t)at.tv_sec * 1000000000 + at.tv_nsec;
}

int64_t help_now(void)
{
    return clock_ns(CLOCK_MONOTONIC);
}

int64_t help_cpu(void)
{
    return clock_ns(CLOCK_PROCESS_CPUTIME_ID);
}

void help_pause(void)
{
    struct timespec moment = { .tv_nsec = 200000 };
    nanosleep(&moment, NULL);
}

static int entries_of(const char *path)
{
    DIR *dir = opendir(path);
    int count = 0;
    for (struct dirent *entry; dir != NULL && (entry = readdir(dir)) != NULL;)
        if (entry->d_name[0] != '.') count++;
    if (dir != NULL) closedir(dir);
    return count;
}

int help_threads(void)
{
    return entries_of("/proc/self/task");
}

int help_fds(void)
{
    return entries_of("/proc/self/fd") - 1; /* the one that looks */
}

bool help_readable(int fd)
{
    struct pollfd at = { .fd = fd, .events = POLLIN };
    return poll(&at, 1, 0) == 1;
}

bool help_slow(void)
{
    const char *sanitize = getenv("BELAY_SANITIZE");
    return getenv("BELAY_ON_VALGRIND") != NULL || (sanitize != NULL && sanitize[0] != '\0');
}

int help_fork(int (*child)(void *arg), void *arg)
{
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        alarm(10);
        _exit(child(arg));
    }
    int status = 0;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR) continue;
    if (WIFSIGNALED(status)) return WTERMSIG(status) == SIGALRM ? 200 : -1 - WTERMSIG(status);
    return WEXITSTATUS(status);
}

/* ------------------------------------------------------------------ clients */

belay_open_options help_options(belay_threads threads, belay_fake_world *world)
{
    belay_open_options options = BELAY_OPEN_OPTIONS_INIT;
    options.threads = threads;
    options.world = world != NULL ? belay_fake_base(world) : NULL;
    return options;
}

belay *help_open_url(const char *url, const belay_open_options *given)
{
    static const belay_backend_ops *const own[] = { &scripted_ops, NULL };
    belay_open_options options = BELAY_OPEN_OPTIONS_INIT;
    belay_error err = BELAY_ERROR_INIT;
    belay *client;
    if (given != NULL) options = *given;
    options.backends = own;
    if (belay_open(&client, url, &options, &err) == BELAY_OK) return client;
    fprintf(stderr, "cannot open %s: %s\n", url, err.text);
    return NULL;
}

belay *help_open(const char *config, const belay_open_options *options)
{
    char path[] = "/tmp/belay-engine-XXXXXX";
    int fd = mkstemp(path);
    if (fd < 0) return NULL;
    dprintf(fd,
            "use = \"s\"; %s\nbackends = { s = { type = \"scripted\", timeout = \"200ms\" } };\n",
            config);
    close(fd);
    belay *client = help_open_url(path, options);
    unlink(path);
    return client;
}

/* ------------------------------------------------------------------ callers on threads */

static void *caller_main(void *arg)
{
    struct caller *caller = arg;
    caller->run(caller);
    atomic_store(&caller->ended, true);
    return NULL;
}

void caller_start(struct caller *caller, void (*run)(struct caller *))
{
    caller->run = run;
    caller->err = (belay_error)BELAY_ERROR_INIT;
    atomic_store(&caller->ended, false);
    if (pthread_create(&caller->thread, NULL, caller_main, caller) != 0) abort();
}

bool caller_end(struct caller *caller)
{
    if (!eventually(atomic_load(&caller->ended))) return false;
    pthread_join(caller->thread, NULL);
    return true;
}

static void run_acquire(struct caller *caller)
{
    caller->status =
        belay_acquire(caller->client, caller->name, &caller->options, &caller->lock, &caller->err);
}

void caller_acquire(struct caller *caller, belay *client, const char *name, int64_t wait_ms)
{
    belay_cancel *cancel = caller->options.cancel;
    caller->client = client;
    caller->name = name;
    caller->options = (belay_options)BELAY_OPTIONS_INIT;
    caller->options.wait_ms = wait_ms;
    caller->options.keep = BELAY_KEEP_OFF;
    caller->options.cancel = cancel;
    caller_start(caller, run_acquire);
}

static void run_release(struct caller *caller)
{
    caller->status = belay_release(caller->lock, &caller->err);
}

void caller_release(struct caller *caller, belay_lock *lock)
{
    caller->lock = lock;
    caller_start(caller, run_release);
}

static void run_close(struct caller *caller)
{
    belay_close(caller->client);
}

void caller_close(struct caller *caller, belay *client)
{
    caller->client = client;
    caller_start(caller, run_close);
}

/* ------------------------------------------------------------------ answers and lines */

void answer_in(void *arg, belay_status status, belay_lock *lock, const belay_error *err)
{
    struct answer *answer = arg;
    answer->thread = pthread_self();
    snprintf(answer->text, sizeof answer->text, "%s", err->text);
    atomic_store(&answer->status, (int)status);
    atomic_store(&answer->lock, lock);
    atomic_fetch_add(&answer->count, 1);
}

void lines_add(void *arg, belay_level level, const char *line)
{
    struct lines *lines = arg;
    (void)level;
    pthread_mutex_lock(&lines->mutex);
    size_t used = strlen(lines->text);
    snprintf(lines->text + used, sizeof lines->text - used, "%s\n", line);
    pthread_mutex_unlock(&lines->mutex);
}

bool lines_have(struct lines *lines, const char *what)
{
    pthread_mutex_lock(&lines->mutex);
    bool have = strstr(lines->text, what) != NULL;
    pthread_mutex_unlock(&lines->mutex);
    return have;
}
