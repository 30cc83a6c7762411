/* scene.c - one run of one promise: its clients, its clock, its end; see scene.h. */
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

void must_show(struct scene *s, const belay_info *info, uint64_t token, const char *label,
               const char *file, int line)
{
    bool silent = !s->target->tells;
    must_see(s, info->token == token || (silent && info->token == 0), file, line,
             "token %llu is shown, it is %llu", (unsigned long long)info->token,
             (unsigned long long)token);
    must_see(s, strcmp(info->label, label) == 0 || (silent && info->label[0] == '\0'), file, line,
             "label \"%s\" is shown, it is \"%s\"", info->label, label);
}

void skip_here(struct scene *s, const char *why)
{
    if (atomic_load(&s->failed)) return;
    s->skipped = true;
    snprintf(s->why, sizeof s->why, "%s", why);
}

/* Every error that comes out: the status it came with, and one line of text. */
void must_be_told(struct scene *s, belay_status status, const belay_error *err)
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

void track(struct scene *s, belay_lock *lock)
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
