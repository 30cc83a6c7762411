/* closing.c - the end of a client, of a handle, of a process: what is released, and what is left
 * alone. */
#define _POSIX_C_SOURCE 200809L
#include "scene.h"

#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void close_releases_what_is_held(struct scene *s)
{
    belay *a = client_of(s, BELAY_CONTRACT_FIRST), *b = client_of(s, BELAY_CONTRACT_SECOND);
    const char *names[] = { name_of(s, "one"), name_of(s, "two"), name_of(s, "three") };
    belay_options lease = lease_of(s, 1000, BELAY_TRY);
    belay_lock *locks[3];
    for (int i = 0; i < 3; i++) {
        lease.keep = i == 1 ? BELAY_KEEP_ON : BELAY_KEEP_OFF;
        locks[i] = take(s, a, names[i], &lease);
    }
    close_client(s, a);
    for (int i = 0; i < 3; i++) {
        must(s, !belay_lock_valid(locks[i], 0), "a lock outlived its client");
        released(s, take(s, b, names[i], NULL), BELAY_OK);
    }
}

static void handles_of_a_closed_client_answer_closed(struct scene *s)
{
    belay *a = client_of(s, BELAY_CONTRACT_FIRST), *b = client_of(s, BELAY_CONTRACT_SECOND);
    belay_lock *one = take(s, a, name_of(s, "one"), NULL),
               *two = take(s, a, name_of(s, "two"), NULL);
    if (atomic_load(&s->failed)) return;
    close_client(s, a);
    belay_error err = BELAY_ERROR_INIT;
    let_be(s, one);
    let_be(s, two);
    must_be(s, belay_release(one, &err), BELAY_CLOSED, "release after close");
    must_be(s, err.status, BELAY_CLOSED, "its error");
    belay_forget(two);
    belay_forget(NULL);
    must_be(s, belay_release(NULL, &err), BELAY_INVALID, "release of no lock");
    released(s, take(s, b, name_of(s, "one"), NULL), BELAY_OK);
}

static void a_detached_lock_survives_close(struct scene *s)
{
    belay *a = client_of(s, BELAY_CONTRACT_FIRST), *b = client_of(s, BELAY_CONTRACT_SECOND);
    const char *name = name_of(s, "lock");
    belay_options lease = lease_of(s, 6, BELAY_TRY);
    lease.detached = true;
    take(s, a, name, &lease);
    close_client(s, a);

    refused(s, b, name, NULL, BELAY_HELD);
    pass_units(s, 5);
    refused(s, b, name, NULL, BELAY_HELD);
    pass_units(s, 2);
    released(s, take(s, b, name, NULL), BELAY_OK);
}

static void forget_leaves_the_lock_to_its_ttl(struct scene *s)
{
    belay *a = client_of(s, BELAY_CONTRACT_FIRST), *b = client_of(s, BELAY_CONTRACT_SECOND);
    const char *names[] = { name_of(s, "kept"), name_of(s, "not") };
    for (int i = 0; i < 2 && !atomic_load(&s->failed); i++) {
        belay_options lease = lease_of(s, 6, BELAY_TRY);
        lease.keep = i == 0 ? BELAY_KEEP_ON : BELAY_KEEP_OFF;
        lease.detached = true;
        belay_lock *lock = take(s, a, names[i], &lease);
        let_be(s, lock);
        belay_forget(lock);
        refused(s, b, names[i], NULL, BELAY_HELD);
        for (int u = 0; u < 7; u++) {
            pass_units(s, 1);
            drive(s);
        }
        released(s, take(s, b, names[i], NULL), BELAY_OK); /* and nobody kept it */
    }
}

static void close_answers_what_waits(struct scene *s)
{
    belay *a = client_of(s, BELAY_CONTRACT_FIRST), *b = client_of(s, BELAY_CONTRACT_SECOND);
    const char *name = name_of(s, "lock"), *own = name_of(s, "own");
    belay_options lease = lease_of(s, 1000, BELAY_TRY), wait = lease_of(s, 1000, BELAY_FOREVER);
    belay_lock *lock = take(s, b, name, &lease);
    take(s, a, own, &lease);
    struct call *calls[6];
    for (int i = 0; i < 6; i++) calls[i] = call_begin(s, a, i < 4 ? name : own, &wait, NULL);
    for (int i = 0; i < 6; i++) { /* the handles may go first */
        belay_request *request = calls[i]->request;
        calls[i]->request = NULL;
        if (request != NULL) belay_request_free(request);
    }
    drive(s);
    struct call *next = call_begin(s, b, name, &wait, NULL);
    drive(s);

    close_client(s, a);
    for (int i = 0; i < 6; i++) {
        must(s, call_done(calls[i]), "close returned before call %d was answered", i);
        must_be(s, calls[i]->status, BELAY_CANCELED, "a call in flight");
    }
    must(s, belay_lock_valid(lock, 0), "another client's lock was lost");
    released(s, lock, BELAY_OK);
    must_be(s, call_await(s, next), BELAY_OK, "the waiter of the other client");
    released(s, next->lock, BELAY_OK);
}

static void close_ends_blocked_threads(struct scene *s)
{
    belay *a = client_of(s, BELAY_CONTRACT_FIRST), *b = client_of(s, BELAY_CONTRACT_SECOND);
    const char *name = name_of(s, "lock");
    belay_options lease = lease_of(s, 1000, BELAY_TRY);
    belay_lock *lock = take(s, b, name, &lease);
    struct thread threads[3] = { 0 };
    for (int i = 0; i < 3; i++) {
        threads[i].client = a;
        threads[i].name = name;
        threads[i].options = lease_of(s, 1000, BELAY_FOREVER);
        thread_begin(s, &threads[i], thread_acquire);
    }
    /* No call may begin after close did: they must all be waiting by then. */
    struct timespec pause = { .tv_nsec = 200000000 };
    nanosleep(&pause, NULL);
    close_client(s, a);
    for (int i = 0; i < 3; i++) {
        thread_join(s, &threads[i]);
        must_be(s, threads[i].status, BELAY_CANCELED, "a blocked acquire");
    }
    released(s, lock, BELAY_OK);
}

/* ------------------------------------------------------------------ close in a callback */

struct closer {
    struct scene *scene;
    belay *client;
    atomic_bool called;
};

static void close_fn(void *arg, belay_status status, belay_lock *lock, const belay_error *err)
{
    struct closer *closer = arg;
    (void)err;
    must_be(closer->scene, status, BELAY_OK, "acquire");
    if (status == BELAY_OK) must_be(closer->scene, belay_release(lock, NULL), BELAY_OK, "release");
    belay_close(closer->client);
    atomic_store(&closer->called, true);
}

static bool has_closed(void *arg)
{
    struct closer *closer = arg;
    struct scene *s = closer->scene;
    if (s->dispatch && !atomic_load(&closer->called)) {
        belay_status status = belay_dispatch(closer->client);
        bool closed = atomic_load(&closer->called);
        must_be(s, status, closed ? BELAY_CLOSED : BELAY_OK, "dispatch");
    }
    return atomic_load(&closer->called);
}

static void close_inside_a_callback_closes(struct scene *s)
{
    belay *b = client_of(s, BELAY_CONTRACT_SECOND);
    belay_open_options options = open_options(s);
    belay *a = client_with(s, BELAY_CONTRACT_FIRST, &options);
    const char *name = name_of(s, "lock"), *other = name_of(s, "other");
    belay_options lease = lease_of(s, 1000, BELAY_TRY);
    struct closer *closer = memory_of(s, sizeof *closer);
    closer->scene = s;
    closer->client = a;
    take(s, a, other, &lease);
    if (atomic_load(&s->failed)) return;
    s->client_count--; /* it closes itself; the scene's end waits until it has */
    must_be(s, belay_acquire_start(a, name, NULL, close_fn, closer, NULL, NULL), BELAY_OK,
            "acquire_start");
    until(s, has_closed, closer, "the callback");
    struct taker taker = { s, b, other, NULL };
    until(s, can_be_taken, &taker, "what the closed client held");
    released(s, taker.lock, BELAY_OK);
}

/* ------------------------------------------------------------------ descriptors */

/* FAULTS 46 and 47. */
static void descriptors_are_close_on_exec_and_none_leaks(struct scene *s)
{
    bool before[DESCRIPTORS], during[DESCRIPTORS], after[DESCRIPTORS];
    const char *name = name_of(s, "lock");
    int count = descriptors_of(before);
    for (int round = 0; round < 3 && !atomic_load(&s->failed); round++) {
        belay *a = client_of(s, BELAY_CONTRACT_FIRST), *b = client_of(s, BELAY_CONTRACT_SECOND);
        belay_options wait = lease_of(s, 10, units(s, 1));
        struct call *call = call_begin(s, a, name, &wait, NULL);
        must_be(s, call_await(s, call), BELAY_OK, "acquire");
        refused(s, b, name, &wait, BELAY_HELD);
        descriptors_of(during);
        for (int fd = 0; fd < DESCRIPTORS; fd++) {
            if (!during[fd] || before[fd]) continue;
            must(s, fd > 2, "descriptor %d is one of the three standard ones", fd);
            must(s, (fcntl(fd, F_GETFD) & FD_CLOEXEC) != 0, "descriptor %d survives exec", fd);
        }
        released(s, call->lock, BELAY_OK);
        close_client(s, a);
        close_client(s, b);
    }
    if (atomic_load(&s->failed)) return;
    int left = descriptors_of(after);
    must(s, left <= count, "%d descriptors were left open", left - count);
}

/* ------------------------------------------------------------------ fork */

/* What the child found wrong: 0 is nothing. Runs in the child: no check macros, no allocation. */
static int look_from_a_child(belay *client, belay_lock *lock, const char *name, bool dispatch)
{
    belay_error err = BELAY_ERROR_INIT;
    belay_info info = { .size = sizeof info };
    belay_options options = BELAY_OPTIONS_INIT;
    belay_lock *other = NULL;
    options.wait_ms = BELAY_TRY;
    if (belay_lock_valid(lock, 0)) return 1;
    if (belay_acquire(client, name, &options, &other, &err) != BELAY_FORKED) return 2;
    if (other != NULL || err.status != BELAY_FORKED || err.text[0] == '\0') return 3;
    if (belay_extend(lock, 0, &err) != BELAY_FORKED) return 4;
    if (belay_acquire_start(client, name, &options, call_fn, NULL, NULL, &err) != BELAY_FORKED)
        return 5;
    if (belay_inspect(client, name, &info, &err) != BELAY_FORKED) return 6;
    if (belay_ready(client, &err) != BELAY_FORKED) return 7;
    if (dispatch && belay_dispatch(client) != BELAY_FORKED) return 8;
    if (belay_release(lock, &err) != BELAY_FORKED) return 9;
    belay_close(client);
    return 0;
}

static bool has_exited(void *arg)
{
    int *child = arg; /* the pid, then the status */
    int status = 0;
    if (waitpid(child[0], &status, WNOHANG) != child[0]) return false;
    child[1] = WIFEXITED(status) ? WEXITSTATUS(status) : 100 + WTERMSIG(status);
    return true;
}

/* FAULTS 45. */
static void a_forked_child_touches_nothing(struct scene *s)
{
    belay *a = client_of(s, BELAY_CONTRACT_FIRST), *b = client_of(s, BELAY_CONTRACT_SECOND);
    const char *name = name_of(s, "lock");
    belay_options lease = lease_of(s, 100, BELAY_TRY), wait = lease_of(s, 100, BELAY_FOREVER);
    lease.keep = BELAY_KEEP_ON;
    belay_lock *lock = take(s, a, name, &lease);
    struct call *waiter = call_begin(s, a, name, &wait, NULL); /* with its threads running */
    drive(s);
    if (atomic_load(&s->failed)) return;

    int child[2] = { fork(), -1 };
    if (child[0] == 0) {
        alarm(20);
        _exit(look_from_a_child(a, lock, name, s->dispatch));
    }
    must(s, child[0] > 0, "no fork");
    if (child[0] > 0 && !until(s, has_exited, child, "the child's exit")) kill(child[0], SIGKILL);
    must(s, child[1] == 0, "step %d of the child failed", child[1]);

    must(s, belay_lock_valid(lock, 0), "the child harmed the parent's lock");
    refused(s, b, name, NULL, BELAY_HELD);
    extended(s, lock, 0, BELAY_OK);
    released(s, take(s, a, name_of(s, "other"), NULL), BELAY_OK);
    released(s, lock, BELAY_OK);
    must_be(s, call_await(s, waiter), BELAY_OK, "the parent's waiter");
    released(s, waiter->lock, BELAY_OK);
}

const struct promise belay__contract_closing[] = {
    PROMISE(close_releases_what_is_held, ON_BOTH | STARTED | FLOWS),
    PROMISE(handles_of_a_closed_client_answer_closed, ON_BOTH),
    PROMISE(a_detached_lock_survives_close, ON_BOTH),
    PROMISE(forget_leaves_the_lock_to_its_ttl, ON_BOTH),
    PROMISE(close_answers_what_waits, ON_BOTH | FLOWS),
    PROMISE(close_ends_blocked_threads, ON_THREADS),
    PROMISE(close_inside_a_callback_closes, ON_BOTH | FLOWS),
    PROMISE(descriptors_are_close_on_exec_and_none_leaks, ON_BOTH | FLOWS),
    PROMISE(a_forked_child_touches_nothing, ON_BOTH | FLOWS),
    { 0 },
};
