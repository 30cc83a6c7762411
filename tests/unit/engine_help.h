/* engine_help.h - what the engine's tests share: conditions with a deadline, clients of small
 * configs, callers on threads of their own, and a backend that does what it is told.
 *
 * No helper asserts: cmocka may only be asked on the main thread. */
#ifndef BELAY_TESTS_UNIT_ENGINE_HELP_H
#define BELAY_TESTS_UNIT_ENGINE_HELP_H

#include <belay/backend.h>
#include <belay/testing.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

#include <cmocka.h>

#define MS INT64_C(1000000) /* nanoseconds */

/* ------------------------------------------------------------------ conditions */

/* Waits until the expression is true, for at most ten seconds (a slow machine under a sanitizer is
 * no failure); its value at the end. */
#define eventually(expression)                                                                     \
    __extension__({                                                                                \
        int64_t until_ns = help_now() + 10000 * MS;                                                \
        bool is_true;                                                                              \
        while (!(is_true = (expression)) && help_now() < until_ns) help_pause();                   \
        is_true;                                                                                   \
    })
int64_t help_now(void); /* CLOCK_MONOTONIC */
void help_pause(void);  /* lets others run for a moment */
int64_t help_cpu(void); /* processor time of this process, nanoseconds */
int help_threads(void); /* of this process, by /proc/self/task */
bool help_readable(int fd);
int help_fds(void);   /* open descriptors */
bool help_slow(void); /* under valgrind or a sanitizer: do less */
/* Runs `child` in a fork; its exit status, or -1 - signal. 200: it did not end within ten seconds.
 */
int help_fork(int (*child)(void *arg), void *arg);

/* ------------------------------------------------------------------ clients */

extern const belay_backend_ops scripted_ops; /* type "scripted", URL "scripted:" */

/* Opens a client of the scripted backend with these lines of top-level config ("" for none). */
belay *help_open(const char *config, const belay_open_options *options);
belay *help_open_url(const char *url, const belay_open_options *options);
/* A fake world for a scripted or memory client. */
belay_open_options help_options(belay_threads threads, belay_fake_world *world);

/* ------------------------------------------------------------------ callers on threads */

struct caller {
    pthread_t thread;
    belay *client;
    const char *name;
    belay_options options;
    belay_lock *lock; /* the answer; or, for a release or an extend, the lock */
    belay_status status;
    belay_error err;
    void (*run)(struct caller *caller);
    void *arg;
    atomic_bool ended;
};
void caller_acquire(struct caller *caller, belay *client, const char *name, int64_t wait_ms);
void caller_release(struct caller *caller, belay_lock *lock);
void caller_close(struct caller *caller, belay *client);
void caller_start(struct caller *caller, void (*run)(struct caller *));
bool caller_end(struct caller *caller); /* joins; false: it did not end in time, and is left */

/* ------------------------------------------------------------------ started calls */

struct answer {
    atomic_int count;
    atomic_int status;
    belay_lock *_Atomic lock;
    pthread_t thread;
    char text[272];
};
void answer_in(void *arg, belay_status status, belay_lock *lock, const belay_error *err);

/* ------------------------------------------------------------------ the log */

struct lines {
    pthread_mutex_t mutex;
    char text[8192];
};
void lines_add(void *arg, belay_level level, const char *line);
bool lines_have(struct lines *lines, const char *what);

/* ------------------------------------------------------------------ the scripted backend */

/* How an op is answered. */
enum script_how {
    SCRIPT_NOW,   /* settled with `status` inside the verb */
    SCRIPT_PEND,  /* kept; when canceled it settles with `status` */
    SCRIPT_DEAF,  /* kept; a cancel does nothing */
    SCRIPT_WAKE,  /* the wait is woken, and then it is settled with `status` */
    SCRIPT_TIMER, /* settled with `status` by a timer of the backend's, `after_ms` later */
    SCRIPT_WORKER /* settled with `status` by a job on the worker */
};
struct script_reply {
    enum script_how how;
    belay_status status;
    int64_t held_for_ms; /* HELD; 0: not known */
    int64_t after_ms;
    int times; /* 0: once; then the next of the script */
};

struct script_call {
    belay_verb verb;
    char owner[BELAY_OWNER_LENGTH + 1];
    char name[40];
    int64_t at_ns, settle_by_ns;
    bool waits;
    int64_t since_ns;    /* of its wait */
    belay_status status; /* once settled ... */
    bool settled;
    bool canceled;
};

/* Forgets everything; before the client is opened. */
void script_reset(void);
/* The next answer of that verb; the last one stands for good. Before any, everything is OK at once.
 */
void script_add(belay_verb verb, struct script_reply reply);
/* How many ops of that verb (0: any) began. */
int script_count(belay_verb verb);
int script_pending(belay_verb verb);
struct script_call script_call_at(belay_verb verb, int number); /* from 0 */
/* From any thread, through a poke: settles every op of that verb that is kept; wakes every wait;
 * tells every grant that it is lost. */
void script_settle(belay_verb verb, belay_status status);
void script_wake(void);
void script_lose(const char *why);
/* How often was drop called, and unwait; is one destroyed? */
int script_drops(void), script_unwaits(void), script_destroyed(void);
int script_grants(void);
/* A worker's job waits while this is closed. */
void script_gate(bool open);
int script_jobs_begun(void), script_jobs_forgotten(void);
/* Settles the next op that is kept twice. */
void script_settle_twice(void);

#endif
