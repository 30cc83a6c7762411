/* signal_test.c - signals, cancellation and errno are the program's: FAULTS row 48. */
#define _GNU_SOURCE
#include "core/client.h"
#include "tests/unit/engine_help.h"

#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <sys/time.h>

static atomic_int ticks;
static void tick(int signal)
{
    (void)signal;
    atomic_fetch_add(&ticks, 1);
}

/* A storm of SIGALRM, without SA_RESTART, to any thread that takes it. */
static void storm(bool on)
{
    struct sigaction action = { .sa_handler = tick };
    struct itimerval every = { 0 };
    if (on) every.it_interval.tv_usec = every.it_value.tv_usec = 500;
    sigaction(SIGALRM, &action, NULL);
    setitimer(ITIMER_REAL, &every, NULL);
}

static void a_storm_of_signals_neither_ends_nor_delays_a_wait(void **state)
{
    belay *client = help_open_url("memory:", NULL);
    belay_options options = BELAY_OPTIONS_INIT;
    belay_lock *held, *lock;
    (void)state;
    assert_int_equal(belay_acquire(client, "a", NULL, &held, NULL), BELAY_OK);
    atomic_store(&ticks, 0);
    storm(true);
    int64_t began = help_now();
    options.wait_ms = 200;
    belay_status status = belay_acquire(client, "a", &options, &lock, NULL);
    int64_t took = help_now() - began;
    for (int i = 0; i < 200 && status == BELAY_HELD; i++) {
        belay_lock *other = NULL;
        if (belay_acquire(client, "b", NULL, &other, NULL) != BELAY_OK) status = BELAY_INVALID;
        if (other != NULL && belay_release(other, NULL) != BELAY_OK) status = BELAY_INVALID;
    }
    storm(false);
    assert_int_equal(status, BELAY_HELD);
    assert_in_range(took / MS, 199, 5000);
    assert_true(atomic_load(&ticks) > 10);
    assert_int_equal(belay_release(held, NULL), BELAY_OK);
    belay_close(client);
}

/* SigBlk of a thread, by /proc. */
static uint64_t blocked_by(const char *tid)
{
    char path[64], line[128];
    unsigned long long blocked = 0;
    snprintf(path, sizeof path, "/proc/self/task/%.20s/status", tid);
    FILE *file = fopen(path, "r");
    while (file != NULL && fgets(line, sizeof line, file) != NULL)
        if (sscanf(line, "SigBlk: %llx", &blocked) == 1) break;
    if (file != NULL) fclose(file);
    return blocked;
}

static int threads_that_take_signals(void *arg)
{
    script_reset();
    belay *client = help_open("", NULL);
    belay_options options = BELAY_OPTIONS_INIT;
    struct answer answer = { 0 };
    (void)arg;
    script_add(BELAY_VERB_ACQUIRE,
               (struct script_reply){ .how = SCRIPT_WORKER, .status = BELAY_OK });
    if (belay_acquire_start(client, "a", &options, answer_in, &answer, NULL, NULL) != BELAY_OK)
        return 100;
    if (!eventually(atomic_load(&answer.count) == 1)) return 101;
    int open = 0, all = 0;
    DIR *dir = opendir("/proc/self/task");
    for (struct dirent *entry; dir != NULL && (entry = readdir(dir)) != NULL;) {
        if (entry->d_name[0] == '.') continue;
        all++;
        if ((blocked_by(entry->d_name) >> (SIGTERM - 1) & 1) == 0) open++;
    }
    if (dir != NULL) closedir(dir);
    if (all < 4) return 102; /* ours, the engine's, the callbacks', the worker's */
    return open;
}

static void threads_of_ours_take_no_signals(void **state)
{
    (void)state;
    const char *sanitize = getenv("BELAY_SANITIZE");
    if (sanitize != NULL && strcmp(sanitize, "thread") == 0)
        skip(); /* it has a thread of its own */
    assert_int_equal(help_fork(threads_that_take_signals, NULL), 1); /* the main thread alone */
}

static void no_disposition_and_no_mask_is_touched(void **state)
{
    sigset_t before, after;
    struct sigaction pipe_before, pipe_after;
    (void)state;
    pthread_sigmask(SIG_SETMASK, NULL, &before);
    sigaction(SIGPIPE, NULL, &pipe_before);
    belay *client = help_open_url("memory:", NULL);
    belay_lock *lock;
    assert_int_equal(belay_acquire(client, "a", NULL, &lock, NULL), BELAY_OK);
    assert_int_equal(belay_release(lock, NULL), BELAY_OK);
    belay_close(client);
    pthread_sigmask(SIG_SETMASK, NULL, &after);
    sigaction(SIGPIPE, NULL, &pipe_after);
    for (int signal = 1; signal < 65; signal++)
        assert_int_equal(sigismember(&before, signal), sigismember(&after, signal));
    assert_true(pipe_before.sa_handler == pipe_after.sa_handler);
}

/* ------------------------------------------------------------------ errno */

static void errno_is_left_alone(void **state)
{
    belay *client = help_open_url("memory:errno", NULL),
          *other = help_open_url("memory:errno", NULL);
    belay_cancel *cancel = belay_cancel_new();
    belay_options options = BELAY_OPTIONS_INIT;
    belay_lock *lock, *none;
    (void)state;
    options.wait_ms = 30;
    errno = EDOM;
    assert_int_equal(belay_acquire(client, "a", NULL, &lock, NULL), BELAY_OK);
    assert_int_equal(errno, EDOM);
    storm(true);
    errno = EDOM;
    belay_status status = belay_acquire(other, "a", &options, &none, NULL);
    int after = errno;
    storm(false);
    assert_int_equal(status, BELAY_HELD);
    assert_int_equal(after, EDOM);
    for (int i = 0; i < 3; i++) {
        errno = EDOM;
        belay_cancel_fire(cancel);
        assert_int_equal(errno, EDOM);
    }
    errno = EDOM;
    assert_int_equal(belay_release(lock, NULL), BELAY_OK);
    belay_close(other);
    belay_close(client);
    assert_int_equal(errno, EDOM);
    belay_cancel_free(cancel);
}

/* ------------------------------------------------------------------ thread cancellation */

struct victim {
    belay *client;
    belay_lock *lock;
    atomic_bool released, acquired;
};

static void *victim_main(void *arg)
{
    struct victim *victim = arg;
    belay_lock *lock = NULL;
    pthread_cancel(pthread_self()); /* from here on every cancellation point would be the end */
    if (belay_release(victim->lock, NULL) == BELAY_OK) atomic_store(&victim->released, true);
    if (belay_acquire(victim->client, "a", NULL, &lock, NULL) == BELAY_OK) {
        atomic_store(&victim->acquired, true);
        (void)belay_release(lock, NULL);
    }
    return NULL;
}

static void a_thread_is_not_canceled_inside_a_call(void **state)
{
    /* Releasing wakes the other client of the place by a write, which is a cancellation point. */
    belay *client = help_open_url("memory:cancel", NULL),
          *other = help_open_url("memory:cancel", NULL);
    struct victim victim = { .client = client };
    belay_lock *lock;
    pthread_t thread;
    (void)state;
    assert_int_equal(belay_acquire(client, "a", NULL, &victim.lock, NULL), BELAY_OK);
    assert_int_equal(pthread_create(&thread, NULL, victim_main, &victim), 0);
    pthread_join(thread, NULL);

    assert_true(atomic_load(&victim.released));
    assert_true(atomic_load(&victim.acquired));
    assert_int_equal(belay_acquire(other, "a", NULL, &lock, NULL),
                     BELAY_OK); /* nothing was left locked */
    assert_int_equal(belay_release(lock, NULL), BELAY_OK);
    belay_close(other);
    belay_close(client);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_storm_of_signals_neither_ends_nor_delays_a_wait),
        cmocka_unit_test(threads_of_ours_take_no_signals),
        cmocka_unit_test(no_disposition_and_no_mask_is_touched),
        cmocka_unit_test(a_thread_is_not_canceled_inside_a_call),
        cmocka_unit_test(errno_is_left_alone),
    };

    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
