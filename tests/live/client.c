/* client.c - opening clients, the log, locks, callers. */
#define _GNU_SOURCE
#include "tests/live/client.h"

#include <dirent.h>
#include <time.h>

/* ------------------------------------------------------------------ opening */

enum { BUFFERS = 8 };

static char *buffer(void)
{
    static char buffers[BUFFERS][160];
    static unsigned next;
    return buffers[next++ % BUFFERS];
}

const char *at_port(int port)
{
    char *at = buffer();
    snprintf(at, 160, "host = \"127.0.0.1\"; port = %d;", port);
    return at;
}

const char *at_socket(const char *path)
{
    char *at = buffer();
    snprintf(at, 160, "path = \"%s\";", path);
    return at;
}

const char *at_server(const struct server *server)
{
    return at_port(server->port);
}

const char *at_relay(const struct relay *relay)
{
    const char *url = relay_url(relay);
    return strncmp(url, "redis+unix://", 13) == 0 ? at_socket(url + 13)
                                                  : at_port(relay_port(relay));
}

const char *at_peer(const struct peer *peer)
{
    const char *url = peer_url(peer);
    return strncmp(url, "redis+unix://", 13) == 0 ? at_socket(url + 13) : at_port(peer_port(peer));
}

static struct {
    pthread_mutex_t lock;
    char text[1 << 18];
    size_t used;
} logged = { .lock = PTHREAD_MUTEX_INITIALIZER };

static void log_add(void *arg, belay_level level, const char *line)
{
    (void)arg;
    pthread_mutex_lock(&logged.lock);
    int added = snprintf(logged.text + logged.used, sizeof logged.text - logged.used, "%d %s\n",
                         (int)level, line);
    if (added > 0 && (size_t)added < sizeof logged.text - logged.used) logged.used += (size_t)added;
    pthread_mutex_unlock(&logged.lock);
}

int log_count(const char *text)
{
    int count = 0;
    pthread_mutex_lock(&logged.lock);
    for (const char *at = logged.text; (at = strstr(at, text)) != NULL; at++) count++;
    pthread_mutex_unlock(&logged.lock);
    return count;
}

bool log_has(const char *text)
{
    return log_count(text) > 0;
}

void log_clear(void)
{
    pthread_mutex_lock(&logged.lock);
    logged.used = 0;
    logged.text[0] = '\0';
    pthread_mutex_unlock(&logged.lock);
}

void log_show(void)
{
    pthread_mutex_lock(&logged.lock);
    fputs(logged.text, stderr);
    pthread_mutex_unlock(&logged.lock);
}

belay *client_try_open_text(const char *config, const belay_open_options *given)
{
    belay_open_options options = BELAY_OPEN_OPTIONS_INIT;
    belay_error err = BELAY_ERROR_INIT;
    belay *client = NULL;
    char path[] = "/tmp/belay-live-conf-XXXXXX";
    int fd = mkstemp(path);
    if (fd < 0) return NULL;
    dprintf(fd, "%s", config);
    close(fd);
    if (given != NULL) options = *given;
    if (options.on_log == NULL) options.on_log = log_add;
    if (options.log_level == BELAY_LOG_DEFAULT) options.log_level = BELAY_LOG_DEBUG;
    belay_status status = belay_open(&client, path, &options, &err);
    if (status != BELAY_OK && status != BELAY_NOMEM) /* who refuses memory knows */
        fprintf(stderr, "cannot open: %s: %s\n%s", belay_status_name(err.status), err.text, config);
    unlink(path);
    return client;
}

belay *client_try_open(const char *at, const char *more, const char *top,
                       const belay_open_options *options)
{
    char config[4096];
    snprintf(config, sizeof config,
             "use = \"r\";\n%s\nbackends: { r: { type = \"redis\"; %s %s }; };\n",
             top != NULL ? top : "", at != NULL ? at : "", more != NULL ? more : "");
    return client_try_open_text(config, options);
}

belay *client_open_with(const char *at, const char *more, const char *top,
                        const belay_open_options *options)
{
    belay *client = client_try_open(at, more, top, options);
    assert_non_null(client);
    return client;
}

belay *client_open_text(const char *config, const belay_open_options *options)
{
    belay *client = client_try_open_text(config, options);
    assert_non_null(client);
    return client;
}

belay *client_open(const char *at, const char *more, const char *top)
{
    return client_open_with(at, more, top, NULL);
}

void client_ready(belay *client)
{
    belay_info info = { .size = sizeof info };
    assert_true(until(belay_inspect(client, "ready", &info, NULL) == BELAY_OK));
}

/* ------------------------------------------------------------------ locks */

belay_status take(belay *client, const char *name, uint32_t ttl_ms, int64_t wait_ms,
                  belay_lock **out, belay_error *err)
{
    belay_options options = BELAY_OPTIONS_INIT;
    belay_lock *lock = NULL;
    options.ttl_ms = ttl_ms;
    options.wait_ms = wait_ms;
    options.keep = BELAY_KEEP_OFF;
    belay_status status = belay_acquire(client, name, &options, &lock, err);
    if (out != NULL) *out = lock;
    else if (lock != NULL) (void)belay_release(lock, NULL);
    return status;
}

belay_lock *must_take_at(belay *client, const char *name, uint32_t ttl_ms, int64_t wait_ms,
                         const char *file, int line)
{
    belay_lock *lock = NULL;
    belay_error err = BELAY_ERROR_INIT;
    belay_status status = take(client, name, ttl_ms, wait_ms, &lock, &err);
    if (status != BELAY_OK) {
        fprintf(stderr, "%s:%d: acquire: %s: %s: %s\n", file, line, belay_status_name(status),
                err.node, err.text);
        _fail(file, line);
    }
    return lock;
}

void must_release_at(belay_lock *lock, const char *file, int line)
{
    belay_error err = BELAY_ERROR_INIT;
    belay_status status = belay_release(lock, &err);
    if (status == BELAY_OK) return;
    fprintf(stderr, "%s:%d: release: %s: %s: %s\n", file, line, belay_status_name(status), err.node,
            err.text);
    _fail(file, line);
}

/* ------------------------------------------------------------------ callers */

static void *caller_main(void *arg)
{
    struct caller *caller = arg;
    int64_t start = clock_ms();
    caller->run(caller);
    caller->took_ms = clock_ms() - start;
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

belay_status caller_end(struct caller *caller)
{
    assert_true(until_within(2 * UNTIL_MS, atomic_load(&caller->ended)));
    pthread_join(caller->thread, NULL);
    return caller->status;
}

static void run_acquire(struct caller *caller)
{
    caller->status =
        belay_acquire(caller->client, caller->name, &caller->options, &caller->lock, &caller->err);
}

void caller_acquire(struct caller *caller, belay *client, const char *name, uint32_t ttl_ms,
                    int64_t wait_ms)
{
    belay_cancel *cancel = caller->options.cancel;
    caller->client = client;
    caller->name = name;
    caller->options = (belay_options)BELAY_OPTIONS_INIT;
    caller->options.ttl_ms = ttl_ms;
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

/* ------------------------------------------------------------------ this process */

int open_fds(void)
{
    DIR *folder = opendir("/proc/self/fd");
    int count = -1; /* the one that looks */
    for (struct dirent *entry; folder != NULL && (entry = readdir(folder)) != NULL;)
        if (entry->d_name[0] != '.') count++;
    if (folder != NULL) closedir(folder);
    return count;
}

static int64_t clock_of(clockid_t id)
{
    struct timespec at;
    clock_gettime(id, &at);
    return (int64_t)at.tv_sec * 1000 + at.tv_nsec / 1000000;
}

int64_t cpu_ms(void)
{
    return clock_of(CLOCK_PROCESS_CPUTIME_ID);
}

int64_t clock_ms(void)
{
    return clock_of(CLOCK_BOOTTIME);
}

long memory_kb(void)
{
    long pages = 0, unused = 0;
    FILE *file = fopen("/proc/self/statm", "re");
    if (file == NULL) return -1;
    if (fscanf(file, "%ld %ld", &unused, &pages) != 2) pages = -1;
    fclose(file);
    return pages < 0 ? -1 : pages * (sysconf(_SC_PAGESIZE) / 1024);
}
