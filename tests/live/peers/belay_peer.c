/* belay_peer.c - belay_peer CONFIG NAME FILE SECONDS: belay, contending with the others of
 * peers_test.c; see redis_py.py. */
#define _POSIX_C_SOURCE 200809L
#include <belay/belay.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { WORKERS = 2, PAUSE_MS = 1 };

static int64_t now_ms(void)
{
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return (int64_t)at.tv_sec * 1000 + at.tv_nsec / 1000000;
}

/* No atomic increment: whoever comes in meanwhile loses an update, or makes us lose ours. */
static bool count(const char *path)
{
    struct timespec pause = { .tv_nsec = PAUSE_MS * 1000000 };
    long number = 0;
    FILE *file = fopen(path, "r+");
    if (file == NULL) return false;
    bool done = fscanf(file, "%ld", &number) == 1;
    nanosleep(&pause, NULL);
    rewind(file);
    done = fprintf(file, "%ld", number + 1) > 0 && done;
    return fclose(file) == 0 && done;
}

/* One that wants the lock again and again. */
struct worker {
    pthread_t thread;
    belay *client;
    const char *name, *counter;
    int64_t end;
    long grants;
    bool failed;
};

static bool fails(const char *what, const belay_error *err)
{
    fprintf(stderr, "belay_peer: %s: %s: %s %s\n", what, belay_status_name(err->status), err->node,
            err->text);
    return true;
}

static void *work(void *arg)
{
    struct worker *worker = arg;
    belay_error err = BELAY_ERROR_INIT;
    belay_options options = BELAY_OPTIONS_INIT;
    for (int64_t left; (left = worker->end - now_ms()) > 0 && !worker->failed; worker->grants++) {
        belay_lock *lock;
        options.wait_ms = left;
        belay_status status = belay_acquire(worker->client, worker->name, &options, &lock, &err);
        if (status == BELAY_HELD) break;
        /* The end cut its only attempt short, and it is given back. */
        bool cut = status == BELAY_UNAVAILABLE || status == BELAY_UNCERTAIN;
        if (cut && now_ms() >= worker->end) break;
        if (status != BELAY_OK) worker->failed = fails("acquire", &err);
        else if (!count(worker->counter)) worker->failed = fails("the counter", &err);
        else if (belay_release(lock, &err) != BELAY_OK) worker->failed = fails("release", &err);
    }
    return NULL;
}

int main(int argc, char **argv)
{
    belay_error err = BELAY_ERROR_INIT;
    struct worker workers[WORKERS] = { { 0 } };
    belay *client;
    long grants = 0;
    if (argc != 5) return 64;
    if (belay_open(&client, argv[1], NULL, &err) != BELAY_OK) return fails("open", &err);
    if (belay_ready(client, &err) != BELAY_OK) return fails("ready", &err);
    puts("ready");
    fflush(stdout);
    if (getchar() == EOF) return 1;

    int64_t end = now_ms() + atol(argv[4]) * 1000;
    for (int i = 0; i < WORKERS; i++) {
        workers[i] =
            (struct worker){ .client = client, .name = argv[2], .counter = argv[3], .end = end };
        if (pthread_create(&workers[i].thread, NULL, work, &workers[i]) != 0) return 1;
    }
    bool failed = false;
    for (int i = 0; i < WORKERS; i++) {
        pthread_join(workers[i].thread, NULL);
        grants += workers[i].grants;
        failed = failed || workers[i].failed;
    }
    belay_close(client);
    printf("{\"client\": \"belay\", \"grants\": %ld}\n", grants);
    return failed;
}
