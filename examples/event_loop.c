/* event_loop.c - belay inside somebody else's poll loop: no threads, nothing blocks.
 *
 *   ./event_loop [WHERE]
 *
 * The client is opened with BELAY_DISPATCH. Its one descriptor stands in the poll set beside the
 * program's own; when it is readable, belay_dispatch does what is due (answers, extensions, timers)
 * and runs the callbacks. The program works in small steps while it holds the lock. */
#include <belay/belay.h>
#include <poll.h>
#include <stdio.h>

enum { STEPS = 5, STEP_MS = 20 };

struct app {
    belay *client;
    belay_lock *lock;
    int steps;
    int status; /* of the program */
    bool done;
};

static void lost(void *arg, belay_lock *lock, const belay_error *why)
{
    (void)arg;
    /* The handle is still ours to release; the next step sees that the lock is not valid. */
    fprintf(stderr, "event_loop: %s was lost: %s\n", belay_lock_name(lock), why->text);
}

static void acquired(void *arg, belay_status status, belay_lock *lock, const belay_error *err)
{
    struct app *app = arg;
    app->lock = lock;
    if (status == BELAY_OK) return;
    fprintf(stderr, "event_loop: %s: %s\n", belay_status_name(status), err->text);
    app->status = 1;
    app->done = true;
}

static void released(void *arg, belay_status status, belay_lock *lock, const belay_error *err)
{
    struct app *app = arg;
    (void)lock;
    printf("event_loop: released: %s\n", status == BELAY_OK ? "it was ours" : err->text);
    app->done = true;
}

static void step(struct app *app)
{
    belay_error err = BELAY_ERROR_INIT;
    bool mine = belay_lock_valid(app->lock, STEP_MS);
    if (mine && app->steps < STEPS) {
        printf("event_loop: step %d of %d\n", ++app->steps, STEPS);
        return;
    }
    if (!mine) app->status = 1;
    belay_lock *lock = app->lock;
    app->lock = NULL; /* belay_release_start takes the handle, whatever it returns */
    if (belay_release_start(lock, released, app, NULL, &err) == BELAY_OK) return;
    fprintf(stderr, "event_loop: release: %s\n", err.text);
    app->done = true;
}

int main(int argc, char **argv)
{
    struct app app = { 0 };
    belay_open_options open = BELAY_OPEN_OPTIONS_INIT;
    belay_options options = BELAY_OPTIONS_INIT;
    belay_error err = BELAY_ERROR_INIT;

    open.threads = BELAY_DISPATCH;
    options.wait_ms = 60000;
    options.on_lost = lost;
    if (belay_open(&app.client, argc > 1 ? argv[1] : NULL, &open, &err) != BELAY_OK ||
        belay_acquire_start(app.client, "event-loop", &options, acquired, &app, NULL, &err) !=
            BELAY_OK) {
        fprintf(stderr, "event_loop: %s\n", err.text);
        belay_close(app.client);
        return 1;
    }
    while (!app.done) {
        /* Here stand the program's other descriptors as well. */
        struct pollfd fds[] = { { .fd = belay_fd(app.client), .events = POLLIN } };
        int ready = poll(fds, 1, app.lock != NULL ? STEP_MS : -1);
        if (ready > 0 && belay_dispatch(app.client) != BELAY_OK) app.done = true;
        if (ready == 0 && app.lock != NULL) step(&app);
    }
    belay_close(app.client);
    return app.status;
}
