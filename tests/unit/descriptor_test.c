/* descriptor_test.c - what descriptors a client has, and who else gets them: FAULTS rows 46 and 47.
 */
#define _GNU_SOURCE
#include "tests/unit/engine_help.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/resource.h>

/* A client with everything it can have: watches, a cancel, threads; or the outer epoll. */
static belay *open_busy(belay_threads threads, belay_cancel **cancel, struct answer *answer)
{
    belay_open_options open_options = help_options(threads, NULL);
    belay_options options = BELAY_OPTIONS_INIT;
    script_reset();
    script_add(BELAY_VERB_ACQUIRE,
               (struct script_reply){ .how = SCRIPT_NOW, .status = BELAY_HELD });
    belay *client = help_open("", &open_options);
    *cancel = belay_cancel_new();
    options.cancel = *cancel;
    options.wait_ms = BELAY_FOREVER;
    if (client != NULL &&
        belay_acquire_start(client, "a", &options, answer_in, answer, NULL, NULL) != BELAY_OK)
        return NULL;
    return client;
}

static bool known_at_start[1024];

static void every_descriptor_is_close_on_exec(void **state)
{
    struct answer answers[2];
    belay_cancel *cancels[2];
    belay *clients[2];
    (void)state;
    memset(answers, 0, sizeof answers);
    for (int fd = 0; fd < 1024; fd++) known_at_start[fd] = fcntl(fd, F_GETFD) >= 0;
    for (int i = 0; i < 2; i++)
        clients[i] = open_busy(i == 0 ? BELAY_THREADS : BELAY_DISPATCH, &cancels[i], &answers[i]);
    assert_non_null(clients[0]);
    assert_non_null(clients[1]);
    int ours = 0;
    for (int fd = 0; fd < 1024; fd++) {
        int flags = fcntl(fd, F_GETFD);
        if (flags < 0 || known_at_start[fd]) continue;
        ours++;
        assert_true((flags & FD_CLOEXEC) != 0);
    }
    assert_true(ours >= 11);
    for (int i = 0; i < 2; i++) {
        belay_close(clients[i]);
        belay_cancel_free(cancels[i]);
    }
}

/* Execs a program that lists its descriptors: its stdin, stdout, stderr, and the one that looks. */
static int child_execs(void *arg)
{
    struct answer answer = { 0 };
    belay_cancel *cancel;
    (void)arg;
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    for (int fd = 0; fd < 3; fd++) dup2(null, fd);
    for (int fd = 3; fd < 1024; fd++) close(fd);
    if (open_busy(BELAY_DISPATCH, &cancel, &answer) == NULL) return 100;
    execl("/bin/sh", "sh", "-c",
          "set -- /proc/self/fd/*; n=0; for f; do [ -e \"$f\" ] && n=$((n+1)); done; exit $n",
          (char *)NULL);
    return 101;
}

static void a_program_that_is_executed_inherits_none(void **state)
{
    (void)state;
    int seen = help_fork(child_execs, NULL);
    assert_in_range(seen, 3, 4);
}

static int child_without_standard_streams(void *arg)
{
    struct answer answer = { 0 };
    belay_cancel *cancel;
    belay_threads threads = *(belay_threads *)arg;
    for (int fd = 0; fd < 3; fd++) close(fd);
    belay *client = open_busy(threads, &cancel, &answer);
    if (client == NULL) return 1;
    for (int fd = 0; fd < 3; fd++)
        if (fcntl(fd, F_GETFD) >= 0) return 2 + fd;
    belay_close(client);
    belay_cancel_free(cancel);
    return atomic_load(&answer.status) == BELAY_CANCELED ? 0 : 9;
}

static void with_the_standard_streams_closed_ours_are_three_or_more(void **state)
{
    (void)state;
    for (belay_threads threads = BELAY_THREADS; threads <= BELAY_DISPATCH_WORKER; threads++)
        assert_int_equal(help_fork(child_without_standard_streams, &threads), 0);
}

static void a_closed_client_leaves_no_descriptor_open(void **state)
{
    struct answer answer = { 0 };
    belay_cancel *cancel;
    (void)state;
    int before = help_fds();
    for (int i = 0; i < 10; i++) {
        belay_close(open_busy(i % 2 == 0 ? BELAY_THREADS : BELAY_DISPATCH, &cancel, &answer));
        belay_cancel_free(cancel);
    }
    assert_int_equal(help_fds(), before);
}

/* With room for n descriptors more, for every n: NOMEM, or a client that works. */
static int child_short_of_descriptors(void *arg)
{
    (void)arg;
    int before = help_fds();
    for (int room = 0; room < 12; room++) {
        int top = open("/dev/null", O_RDONLY);
        struct rlimit limit = { (rlim_t)top + (rlim_t)room, 4096 };
        close(top);
        if (setrlimit(RLIMIT_NOFILE, &limit) != 0) return 100;
        belay_open_options options =
            help_options(room % 2 == 0 ? BELAY_THREADS : BELAY_DISPATCH, NULL);
        belay *client = NULL;
        belay_status status = belay_open(&client, "memory:", &options, NULL);
        if (status != BELAY_OK && (status != BELAY_NOMEM || client != NULL)) return 1;
        if (status == BELAY_OK) {
            belay_lock *lock;
            belay_options with = BELAY_OPTIONS_INIT;
            with.cancel = belay_cancel_new();
            if (belay_acquire(client, "a", &with, &lock, NULL) != BELAY_OK) return 2;
            if (belay_release(lock, NULL) != BELAY_OK) return 3;
            belay_close(client);
            belay_cancel_free(with.cancel);
        }
        limit.rlim_cur = 1024;
        if (setrlimit(RLIMIT_NOFILE, &limit) != 0) return 101;
        if (help_fds() != before) return 4;
    }
    return 0;
}

static void without_descriptors_open_answers_nomem_and_leaves_none(void **state)
{
    (void)state;
    assert_int_equal(help_fork(child_short_of_descriptors, NULL), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_descriptor_is_close_on_exec),
        cmocka_unit_test(a_program_that_is_executed_inherits_none),
        cmocka_unit_test(with_the_standard_streams_closed_ours_are_three_or_more),
        cmocka_unit_test(a_closed_client_leaves_no_descriptor_open),
        cmocka_unit_test(without_descriptors_open_answers_nomem_and_leaves_none),
    };

    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
