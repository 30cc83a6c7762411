/* degraded.c - a program that goes on while its server is away, and knows what its lock is worth.
 *
 *   ./degraded WHERE [STEPS]      a config file with a backend of type "fallback"
 * (docs/fallback.md)
 *
 * What it does for this host it does as long as the lock is held. What it does for everybody, it
 * does only while the lock reaches as far as it can when all is well; the rest is put off. Stop the
 * server while it runs, and start it again. */
#define _DEFAULT_SOURCE
#include <belay/belay.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { STEP_MS = 100 };

/* Callbacks come on a thread of belay's. */
struct app {
    atomic_bool lost;
    atomic_int changes;
};

static void on_event(void *arg, const belay_event *event)
{
    (void)arg; /* for the log, or an alarm: the locks are told by on_scope and on_lost */
    printf("degraded: event: %s %s: %s\n", belay_event_name(event->kind), event->name, event->text);
}

static void on_scope(void *arg, belay_lock *lock, belay_scope now)
{
    struct app *app = arg;
    atomic_fetch_add(&app->changes, 1);
    printf("degraded: %s reaches the %s now\n", belay_lock_name(lock), belay_scope_name(now));
}

static void on_lost(void *arg, belay_lock *lock, const belay_error *why)
{
    struct app *app = arg;
    printf("degraded: %s is lost: %s\n", belay_lock_name(lock), why->text);
    atomic_store(&app->lost, true);
}

static void step(belay *client, belay_lock *lock, int *put_off)
{
    /* The work for this host stands here. */
    if (belay_lock_scope(lock) < belay_reach(client)) {
        ++*put_off;
        return;
    }
    if (*put_off > 0) printf("degraded: %d steps were put off, and are made up for\n", *put_off);
    *put_off = 0;
    /* The work for everybody; it sends belay_lock_token(lock) along. */
}

int main(int argc, char **argv)
{
    struct app app = { false, 0 };
    belay *client;
    belay_lock *lock;
    belay_open_options open = BELAY_OPEN_OPTIONS_INIT;
    belay_options options = BELAY_OPTIONS_INIT;
    belay_error err = BELAY_ERROR_INIT;
    const struct timespec pause = { 0, STEP_MS * 1000000L };
    int steps = argc > 2 ? atoi(argv[2]) : 20, put_off = 0;

    setvbuf(stdout, NULL, _IOLBF, 0);
    open.on_event = on_event;
    open.arg = &app;
    options.on_scope = on_scope;
    options.on_lost = on_lost;
    options.arg = &app;
    /* options.at_least = BELAY_SCOPE_FLEET would refuse, and lose, what reaches this host alone. */
    if (belay_open(&client, argc > 1 ? argv[1] : NULL, &open, &err) != BELAY_OK) {
        fprintf(stderr, "degraded: %s\n", err.text);
        return 1;
    }
    if (belay_acquire(client, "stock", &options, &lock, &err) != BELAY_OK) {
        fprintf(stderr, "degraded: %s: %s\n", belay_status_name(err.status), err.text);
        belay_close(client);
        return 1;
    }
    printf("degraded: mine; it reaches the %s, and could reach the %s\n",
           belay_scope_name(belay_lock_scope(lock)), belay_scope_name(belay_reach(client)));
    for (int i = 0; i < steps && belay_lock_valid(lock, STEP_MS); i++) {
        step(client, lock, &put_off);
        nanosleep(&pause, NULL);
    }
    bool lost = atomic_load(&app.lost);
    (void)belay_release(lock,
                        NULL); /* waits for callbacks on it; a lost one is to be released too */
    belay_close(client);
    printf("degraded: %d changes of scope, %d steps left to do%s\n", atomic_load(&app.changes),
           put_off, lost ? ", and the lock was lost" : "");
    return lost;
}
