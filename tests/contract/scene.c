/* scene.c - clients, clock, calls and threads of one promise; see scene.h. */
#define _POSIX_C_SOURCE 200809L
#include "scene.h"

#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum {
    PATIENCE_S = 40, /* real time for something that takes microseconds */
    NAMES_MAX = 64,
    PUMP_STEP_MS = 10,   /* of fake time ... */
    PUMP_PAUSE_US = 100, /* ... for each real pause */
    LEFT_BEHIND_LOOKS = 400
};

static int64_t real_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_BOOTTIME, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void real_sleep(int64_t ns)
{
    struct timespec t = { .tv_sec = ns / 1000000000, .tv_nsec = ns % 1000000000 };
    while (nanosleep(&t, &t) != 0) {}
}

/* Memory of the suite itself, not of what it tests. */
static void *must_alloc(void *old, size_t size)
{
    void *memory = realloc(old, size);
    if (memory == NULL) abort();
    return memory;
}

struct memory {
    struct memory *next;
    max_align_t bytes[];
};

void *memory_of(struct scene *s, size_t size)
{
    struct memory *memory = must_alloc(NULL, sizeof *memory + size);
    memset(memory->bytes, 0, size);
    pthread_mutex_lock(&s->lock);
    memory->next = s->memory;
    s->memory = memory;
    pthread_mutex_unlock(&s->lock);
    return memory->bytes;
}

struct cancels {
    struct cancels *next;
    belay_cancel *cancel;
};

belay_cancel *cancel_of(struct scene *s)
{
    struct cancels *node = memory_of(s, sizeof *node);
    node->cancel = belay_cancel_new();
    must(s, node->cancel != NULL, "no cancel");
    pthread_mutex_lock(&s->lock);
    node->next = s->cancels;
    s->cancels = node;
    pthread_mutex_unlock(&s->lock);
    return node->cancel;
}

uint64_t random_next(uint64_t *state) /* splitmix64 */
{
    uint64_t z = (*state += UINT64_C(0x9e3779b97f4a7c15));
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

/* ------------------------------------------------------------------ what must be */

bool must_see(struct scene *s, bool seen, const char *file, int line, const char *format, ...)
{
    if (seen || atomic_load(&s->failed)) return seen;
    pthread_mutex_lock(&s->lock);
    if (!atomic_load(&s->failed)) {
        const char *base = strrchr(file, '/');
        int at = snprintf(s->why, sizeof s->why, "%s:%d: ", base != NULL ? base + 1 : file, line);
        va_list args;
        va_start(args, format);
        vsnprintf(s->why + at, sizeof s->why - (size_t)at, format, args);
        va_end(args);
        atomic_store(&s->failed, true);
    }
    pthread_mutex_unlock(&s->lock);
    return false;
}

bool must_equal_status(struct scene *s, belay_status got, belay_status wanted, const char *file,
                       int line, const char *what)
{
    return must_see(s, got == wanted, file, line, "%s: %s was expected, %s came", what,
                    belay_status_name(wanted), belay_status_name(got));
}

void skip_here(struct scene *s, const char *why)
{
    if (atomic_load(&s->failed)) return;
    s->skipped = true;
    snprintf(s->why, sizeof s->why, "%s", why);
}

/* Every error that comes out: the status it came with, and one line of text. */
static void must_be_told(struct scene *s, belay_status status, const belay_error *err)
{
    must(s, err->status == status, "the error says %s, the call %s", belay_status_name(err->status),
         belay_status_name(status));
    must(s, strpbrk(err->text, "\r\n") == NULL && strpbrk(err->node, "\r\n") == NULL,
         "an error of more than one line");
    must(s, status == BELAY_OK || err->text[0] != '\0', "%s without a text",
         belay_status_name(status));
}

/* ------------------------------------------------------------------ clients and names */

belay *client_with(struct scene *s, int which, const belay_open_options *options)
{
    const belay_contract_target *target = s->target;
    belay *client = NULL;
    belay_error err = BELAY_ERROR_INIT;
    if (atomic_load(&s->failed)) return NULL;
    belay_status status = target->open != NULL
                              ? target->open(target->arg, which, options, &client, &err)
                              : belay_open(&client, target->where, options, &err);
    must_be_told(s, status, &err);
    must(s, status == BELAY_OK && client != NULL, "open: %s: %s", belay_status_name(status),
         err.text);
    if (client == NULL) return NULL;
    size_t room = sizeof s->clients / sizeof s->clients[0];
    if (!must(s, s->client_count < room, "the promise opens too many clients")) {
        belay_close(client);
        return NULL;
    }
    s->clients[s->client_count++] = client;
    return client;
}

belay_open_options open_options(const struct scene *s)
{
    belay_open_options options = BELAY_OPEN_OPTIONS_INIT;
    options.threads = s->dispatch ? BELAY_DISPATCH : BELAY_THREADS;
    options.backends = s->target->backends;
    options.world = s->world != NULL ? belay_fake_base(s->world) : NULL;
    return options;
}

belay *client_of(struct scene *s, int which)
{
    belay_open_options options = open_options(s);
    return client_with(s, which, &options);
}

void close_client(struct scene *s, belay *client)
{
    for (size_t i = 0; i < s->client_count; i++) {
        if (s->clients[i] != client) continue;
        s->clients[i] = s->clients[--s->client_count];
        belay_close(client);
        return;
    }
}

int descriptors_of(bool *open)
{
    int count = 0;
    for (int fd = 0; fd < DESCRIPTORS; fd++) {
        open[fd] = fcntl(fd, F_GETFD) != -1;
        count += open[fd];
    }
    return count;
}

const char *name_of(struct scene *s, const char *tail)
{
    if (!must(s, s->name_count < NAMES_MAX, "the promise needs too many names")) return "none";
    char *name = s->names[s->name_count++];
    snprintf(name, BELAY_NAME_MAX + 1, "%s%s", s->stem, tail);
    return name;
}

/* ------------------------------------------------------------------ time */

int64_t now_of(const struct scene *s)
{
    return s->world != NULL ? belay_fake_now(s->world) : real_now();
}

uint32_t units(const struct scene *s, uint32_t count)
{
    return count * s->unit_ms;
}

int rounds_of(const struct scene *s, int count)
{
    int rounds = (int)((int64_t)count * s->effort / 100);
    return rounds > 0 ? rounds : 1;
}

belay_fake_world *other_world(struct scene *s)
{
    s->other = belay_fake_create(7);
    if (must(s, s->other != NULL, "out of memory"))
        belay_fake_advance(s->other, belay_fake_now(s->world) - belay_fake_now(s->other));
    return s->other;
}

void drive(struct scene *s)
{
    if (!s->dispatch) {
        real_sleep(50000);
        return;
    }
    for (size_t i = 0; i < s->client_count; i++)
        must_be(s, belay_dispatch(s->clients[i]), BELAY_OK, "dispatch");
}

void pass_ns(struct scene *s, int64_t ns)
{
    if (atomic_load(&s->failed)) return;
    if (s->world != NULL) belay_fake_advance(s->world, ns);
    else real_sleep(ns);
    if (s->dispatch) drive(s);
}

bool until_at(struct scene *s, bool (*seen)(void *arg), void *arg, const char *file, int line,
              const char *what)
{
    int64_t end = real_now() + s->patience_ns;
    for (uint32_t looks = 0; !atomic_load(&s->failed); looks++) {
        if (seen(arg)) return true;
        drive(s);
        if (seen(arg)) return true;
        if (s->dispatch && s->flows && s->world != NULL) belay_fake_advance(s->world, NS_PER_MS);
        else if (s->dispatch && looks > 100) real_sleep(50000);
        if ((looks & 63) != 63) continue;
        if (!must_see(s, real_now() < end, file, line, "waited in vain for: %s", what)) break;
    }
    return false;
}

static void *pump_run(void *arg)
{
    struct scene *s = arg;
    while (!atomic_load(&s->pump_ends)) {
        belay_fake_advance(s->world, PUMP_STEP_MS * NS_PER_MS);
        real_sleep(PUMP_PAUSE_US * 1000);
    }
    return NULL;
}

/* ------------------------------------------------------------------ locks */

belay_options lease_of(const struct scene *s, uint32_t ttl_units, int64_t wait_ms)
{
    belay_options options = BELAY_OPTIONS_INIT;
    options.ttl_ms = units(s, ttl_units);
    options.wait_ms = wait_ms;
    options.keep = BELAY_KEEP_OFF;
    return options;
}

static void track(struct scene *s, belay_lock *lock)
{
    if (lock == NULL) return;
    pthread_mutex_lock(&s->lock);
    if (s->lock_count == s->lock_room) {
        s->lock_room = s->lock_room != 0 ? 2 * s->lock_room : 64;
        s->locks = must_alloc(s->locks, s->lock_room * sizeof(belay_lock *));
    }
    s->locks[s->lock_count++] = lock;
    pthread_mutex_unlock(&s->lock);
}

void let_be(struct scene *s, const belay_lock *lock)
{
    pthread_mutex_lock(&s->lock);
    for (size_t i = s->lock_count; i-- > 0;) {
        if (s->locks[i] != lock) continue;
        s->locks[i] = s->locks[--s->lock_count];
        break;
    }
    pthread_mutex_unlock(&s->lock);
}

static bool by_start(const struct scene *s)
{
    return s->started && pthread_equal(pthread_self(), s->main_thread);
}

static void acquired_fn(void *arg, belay_status status, belay_lock *lock, const belay_error *err);

/* A start may answer at once, by its error: then it never calls back. */
static belay_status take_by_start(struct scene *s, belay *client, const char *name,
                                  const belay_options *options, belay_lock **out)
{
    struct call *call = call_new(s);
    belay_error err = BELAY_ERROR_INIT;
    belay_status status =
        belay_acquire_start(client, name, options, acquired_fn, call, &call->request, &err);
    must_be_told(s, status, &err);
    if (status != BELAY_OK) {
        drive(s);
        must(s, !call_done(call), "a start that failed called back");
        call->request = NULL;
        return status;
    }
    status = call_await(s, call);
    *out = call->lock;
    return status;
}

belay_status take_status(struct scene *s, belay *client, const char *name,
                         const belay_options *options, belay_lock **out)
{
    belay_options defaults = lease_of(s, 10, BELAY_TRY);
    if (options == NULL) options = &defaults;
    *out = NULL;
    if (atomic_load(&s->failed)) return BELAY_CLOSED;
    if (by_start(s)) return take_by_start(s, client, name, options, out);
    belay_error err = BELAY_ERROR_INIT;
    belay_lock *lock = (belay_lock *)(void *)s; /* anything: it must be overwritten */
    belay_status status = belay_acquire(client, name, options, &lock, &err);
    must_be_told(s, status, &err);
    must(s, (status == BELAY_OK) == (lock != NULL), "%s %s a lock", belay_status_name(status),
         lock != NULL ? "with" : "without");
    if (status != BELAY_OK) return status;
    track(s, lock);
    *out = lock;
    return status;
}

belay_lock *take_at(struct scene *s, belay *client, const char *name, const belay_options *options,
                    const char *file, int line)
{
    belay_lock *lock = NULL;
    belay_status status = take_status(s, client, name, options, &lock);
    must_equal_status(s, status, BELAY_OK, file, line, "acquire");
    return lock;
}

void refuse_at(struct scene *s, belay *client, const char *name, const belay_options *options,
               belay_status wanted, const char *file, int line)
{
    belay_lock *lock = NULL;
    belay_status status = take_status(s, client, name, options, &lock);
    must_equal_status(s, status, wanted, file, line, "acquire");
}

belay_status lengthen(struct scene *s, belay_lock *lock, uint32_t ttl_ms)
{
    if (atomic_load(&s->failed) || lock == NULL) return BELAY_CLOSED;
    belay_error err = BELAY_ERROR_INIT;
    if (by_start(s)) {
        struct call *call = call_new(s);
        belay_status status = belay_extend_start(lock, ttl_ms, call_fn, call, &call->request, &err);
        if (status != BELAY_OK) return status;
        status = call_await(s, call);
        must(s, call->lock == lock, "an extend called back with another lock");
        return status;
    }
    belay_status status = belay_extend(lock, ttl_ms, &err);
    must_be_told(s, status, &err);
    return status;
}

belay_status let_go(struct scene *s, belay_lock *lock)
{
    if (atomic_load(&s->failed) || lock == NULL) return BELAY_CLOSED;
    let_be(s, lock);
    belay_error err = BELAY_ERROR_INIT;
    if (by_start(s)) {
        struct call *call = call_new(s);
        belay_status status = belay_release_start(lock, call_fn, call, &call->request, &err);
        if (status != BELAY_OK) return status;
        status = call_await(s, call);
        must(s, call->lock == NULL, "a release called back with a lock");
        return status;
    }
    belay_status status = belay_release(lock, &err);
    must_be_told(s, status, &err);
    return status;
}

void break_it(struct scene *s, belay *client, const char *name)
{
    belay_info info = { .size = sizeof info };
    belay_error err = BELAY_ERROR_INIT;
    if (atomic_load(&s->failed)) return;
    must_be(s, belay_inspect(client, name, &info, &err), BELAY_OK, "inspect");
    must(s, info.held, "the lock that is to be broken is not held");
    must_be(s, belay_break(client, name, &info, &err), BELAY_OK, "break");
}

bool is_kept_up(void *arg)
{
    struct kept *kept = arg;
    return belay_lock_remaining_ms(kept->lock) >= kept->least_ms;
}

bool can_be_taken(void *arg)
{
    struct taker *taker = arg;
    return take_status(taker->scene, taker->client, taker->name, NULL, &taker->lock) == BELAY_OK;
}

/* ------------------------------------------------------------------ started calls */

struct call *call_new(struct scene *s)
{
    struct call *call = memory_of(s, sizeof *call);
    call->scene = s;
    call->status = BELAY_CLOSED;
    pthread_mutex_lock(&s->lock);
    call->next = s->calls;
    s->calls = call;
    pthread_mutex_unlock(&s->lock);
    return call;
}

void call_fn(void *arg, belay_status status, belay_lock *lock, const belay_error *err)
{
    struct call *call = arg;
    struct scene *s = call->scene;
    if (!must(s, atomic_load(&call->count) == 0, "a started call called back twice")) return;
    call->status = status;
    call->lock = lock;
    call->at_ns = now_of(s);
    call->thread = pthread_self();
    if (call->counter != NULL) call->order = atomic_fetch_add(call->counter, 1) + 1;
    if (must(s, err != NULL, "a callback without an error")) {
        must_be_told(s, status, err);
        call->err = *err;
    }
    atomic_store(&call->count, 1);
}

bool call_done(const struct call *call)
{
    return atomic_load(&call->count) != 0;
}

/* The callback of an acquire: the lock is the scene's from now on. */
static void acquired_fn(void *arg, belay_status status, belay_lock *lock, const belay_error *err)
{
    struct call *call = arg;
    must(call->scene, (status == BELAY_OK) == (lock != NULL), "%s %s a lock",
         belay_status_name(status), lock != NULL ? "with" : "without");
    track(call->scene, lock);
    call_fn(arg, status, lock, err);
}

struct call *call_begin(struct scene *s, belay *client, const char *name,
                        const belay_options *options, atomic_int *counter)
{
    struct call *call = call_new(s);
    call->counter = counter;
    if (atomic_load(&s->failed)) return call;
    belay_error err = BELAY_ERROR_INIT;
    belay_status status =
        belay_acquire_start(client, name, options, acquired_fn, call, &call->request, &err);
    if (!must(s, status == BELAY_OK, "acquire_start: %s: %s", belay_status_name(status), err.text))
        call->request = NULL;
    return call;
}

void call_cancel(struct call *call)
{
    if (call->request != NULL) belay_request_cancel(call->request);
}

static bool call_seen(void *arg)
{
    return call_done(arg);
}

belay_status call_await(struct scene *s, struct call *call)
{
    until(s, call_seen, call, "a started call's answer");
    if (!call_done(call)) return BELAY_CLOSED;
    belay_request_free(call->request);
    call->request = NULL;
    return call->status;
}

/* ------------------------------------------------------------------ threads */

static void *thread_main(void *arg)
{
    struct thread *thread = arg;
    thread->run(thread);
    atomic_store(&thread->ended, true);
    return NULL;
}

void thread_begin(struct scene *s, struct thread *thread, void (*run)(struct thread *))
{
    if (atomic_load(&s->failed)) return;
    thread->scene = s;
    thread->run = run;
    if (thread->options.cancel == NULL) {
        if (thread->options.size == 0) thread->options = lease_of(s, 10, BELAY_TRY);
        thread->options.cancel = cancel_of(s);
    }
    thread->begun = pthread_create(&thread->id, NULL, thread_main, thread) == 0;
    must(s, thread->begun, "no thread");
}

static bool thread_seen(void *arg)
{
    struct thread *thread = arg;
    return atomic_load(&thread->ended);
}

void thread_join(struct scene *s, struct thread *thread)
{
    if (thread->begun) {
        until(s, thread_seen, thread, "a thread's end");
        if (atomic_load(&s->failed)) belay_cancel_fire(thread->options.cancel);
        pthread_join(thread->id, NULL);
        thread->begun = false;
    }
}

void thread_acquire(struct thread *thread)
{
    belay_error err = BELAY_ERROR_INIT;
    thread->status =
        belay_acquire(thread->client, thread->name, &thread->options, &thread->lock, &err);
    thread->at_ns = now_of(thread->scene);
    must_be_told(thread->scene, thread->status, &err);
    track(thread->scene, thread->lock);
}

/* ------------------------------------------------------------------ the run */

bool scene_begin(struct scene *s, const belay_contract_target *target, belay_fake_world *world,
                 unsigned how, unsigned number)
{
    memset(s, 0, sizeof *s);
    s->target = target;
    s->world = world;
    s->dispatch = (how & ON_DISPATCH) != 0;
    s->started = (how & STARTED) != 0;
    s->flows = (how & FLOWS) != 0 || target->late;
    s->patience_ns =
        (target->patience_s != 0 ? target->patience_s : PATIENCE_S) * INT64_C(1000000000);
    s->effort = target->effort != 0 ? (int)target->effort : 100;
    s->names = must_alloc(NULL, NAMES_MAX * sizeof *s->names);
    s->main_thread = pthread_self();
    pthread_mutex_init(&s->lock, NULL);
    snprintf(s->stem, sizeof s->stem, "%x.%llx.%u.", (unsigned)getpid(),
             (unsigned long long)(real_now() / 1000000) & 0xffffffffu, number);
    bool pump = world != NULL && !s->dispatch && s->flows;
    s->unit_ms = world == NULL ? 50 : pump ? 4000 : 1000;
    if (pump) s->pumping = pthread_create(&s->pump, NULL, pump_run, s) == 0;
    return !pump || s->pumping;
}

static bool count_mine(void *arg, const belay_info *info)
{
    struct scene *s = arg;
    if (strncmp(info->name, s->stem, strlen(s->stem)) == 0) s->name_count++;
    return true;
}

/* At rest, nothing may remain of this scene; what is on its way gets a moment. */
static void look_behind(struct scene *s)
{
    long remain = 0;
    s->dispatch = true;
    s->started = false;
    belay *client = s->target->lists ? client_of(s, BELAY_CONTRACT_FIRST) : NULL;
    for (int looks = 0; looks < LEFT_BEHIND_LOOKS && !atomic_load(&s->failed); looks++) {
        if (looks > 0) {
            real_sleep(s->world != NULL ? 100000 : 5000000);
            if (s->world != NULL) belay_fake_advance(s->world, NS_PER_MS);
        }
        remain = 0;
        if (client != NULL) {
            belay_error err = BELAY_ERROR_INIT;
            s->name_count = 0;
            belay_status status = belay_list(client, NULL, count_mine, s, &err);
            must(s, status == BELAY_OK, "looking behind: list: %s: %s", belay_status_name(status),
                 err.text);
            remain = (long)s->name_count;
        }
        long more = s->target->peek != NULL ? s->target->peek(s->target->arg) : 0;
        if (more > remain) remain = more;
        if (remain == 0) break;
    }
    must(s, remain == 0, "%ld locks were left behind", remain);
    close_client(s, client);
}

static void must_be_detached(struct scene *s)
{
    for (int looks = 0; looks < LEFT_BEHIND_LOOKS && belay_fake_clients(s->world) > 0; looks++)
        real_sleep(1000000);
    size_t clients = belay_fake_clients(s->world);
    must(s, clients == 0, "%zu closed clients still use the world", clients);
}

void scene_end(struct scene *s)
{
    if (s->world != NULL) {
        belay_fake_fail_alloc(s->world, 0);
        belay_fake_auto_advance(s->world, true);
    }
    while (s->client_count > 0) belay_close(s->clients[--s->client_count]);
    /* A promise that was not kept has left handles; they are good for one release each. */
    while (s->lock_count > 0) (void)belay_release(s->locks[--s->lock_count], NULL);
    for (struct call *call = s->calls; call != NULL; call = call->next)
        belay_request_free(call->request);
    for (struct cancels *node = s->cancels; node != NULL; node = node->next)
        belay_cancel_free(node->cancel);
    while (s->memory != NULL) {
        struct memory *memory = s->memory;
        s->memory = memory->next;
        free(memory);
    }
    atomic_store(&s->pump_ends, true);
    if (s->pumping) pthread_join(s->pump, NULL);
    s->pumping = false;
    if (s->world != NULL) must_be_detached(s);
    if (!s->skipped && (s->target->lists || s->target->peek != NULL)) look_behind(s);
    belay_fake_destroy(s->other);
    free(s->locks);
    free(s->names);
    pthread_mutex_destroy(&s->lock);
}
