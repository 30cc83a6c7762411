/* resp_fuzz.c - any bytes, as what a server answers: every call ends, once and in its time, and
 * nothing is left behind.
 *
 * The input's first line says what the client does, a letter each; the rest is what the server
 * answers (resp_model.h). `./dev check fuzz` runs it, ctest gives it the corpus.
 *
 *   a b  acquire, once: two names       w  acquire, waiting       e  extend      r  release
 *   i    inspect    l  list    k  break what was seen    o  adopt what was seen    d  diagnose
 *   c    cancel the last call    t T  0.4 s, 5 s pass    .  nothing, until all is quiet
 *   F    no fencing    P  a password    D  a database    R  one replica    Q  a TTL of 2 s, kept
 *   L    what stalled is resumed late   M  the nth allocation from here fails, n is the next byte
 *
 * FUZZ_TRACE=1 in the environment shows what happens.
 *
 * One thread: the client runs with BELAY_DISPATCH, the server whenever the client has nothing to
 * do, on a clock that moves only when neither has. After the input the server tells the truth, and
 * within fifteen seconds every attempt that was told nothing must have been given back. */
#define _GNU_SOURCE
#include "tests/fuzz/resp_model.h"

#include <belay/backend.h>
#include <fcntl.h>
#include <sys/stat.h>

#define MS INT64_C(1000000)

enum {
    CALLS = 40,
    LOCKS = 40,
    TIMEOUT_MS = 500,
    WAIT_MS = 3000,
    SLACK_MS = 400,
    CLOSE_MS = 1000,
    DIAGNOSE_MS = 2000
};

struct call {
    bool started, ended, acquires;
    int64_t due_ns; /* when it must have called back */
    struct fuzz *fuzz;
};

struct fuzz {
    belay *client;
    belay_fake_world *world;
    struct model model;
    struct call calls[CALLS];
    size_t call_count;
    belay_request *last;
    belay_lock *locks[LOCKS];
    size_t lock_count;
    belay_info seen;
    int64_t jumped_ns; /* of the model's, so much was allowed for */
    bool fencing, password, database, replica, quick, late;
};

static char folder[] = "/tmp/belay-fuzz-XXXXXX";
static char socket_path[64], config_path[64];
static int listener;
static struct fuzz fuzz; /* one at a time; its buffers are used again */
static bool (*fake_wait)(belay_world *world, int64_t until_ns);

/* ------------------------------------------------------------------ the world */

static void folder_remove(void)
{
    unlink(socket_path);
    unlink(config_path);
    rmdir(folder);
}

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    struct sockaddr_un at = { .sun_family = AF_UNIX };
    (void)argc, (void)argv;
    if (mkdtemp(folder) == NULL) abort();
    traced = getenv("FUZZ_TRACE") != NULL;
    atexit(folder_remove);
    snprintf(socket_path, sizeof socket_path, "%s/s", folder);
    snprintf(config_path, sizeof config_path, "%s/c.conf", folder);
    memcpy(at.sun_path, socket_path, strlen(socket_path) + 1);
    listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (listener < 0 || bind(listener, (struct sockaddr *)&at, sizeof at) != 0 ||
        listen(listener, CONNECTIONS) != 0)
        abort();
    return 0;
}

/* A blocking call has nothing to do: the server's turn, or else the clock's. */
static bool world_wait(belay_world *world, int64_t until_ns)
{
    if (model_pump(&fuzz.model)) return true;
    if (until_ns == INT64_MAX) BROKEN("a call waits, and no timer is armed");
    return fake_wait(world, until_ns);
}

static bool world_alloc(belay_world *world, size_t size)
{
    (void)world;
    if (size > (32 << 20)) BROKEN("an allocation of %zu bytes", size);
    return true;
}

static bool (*fake_alloc)(belay_world *world, size_t size);
static bool world_may_alloc(belay_world *world, size_t size)
{
    return world_alloc(world, size) && fake_alloc(world, size);
}

static void config_write(const struct fuzz *f)
{
    FILE *file = fopen(config_path, "w");
    if (file == NULL) abort();
    fprintf(
        file,
        "use = \"there\";\nprefix = \"belay:\";\nfencing = %s;\nttl = \"%s\";\n"
        "backends: { there: { type = \"redis\"; path = \"%s\"; timeout = \"%dms\";%s%s%s }; };\n",
        f->fencing ? "true" : "false", f->quick ? "2s" : "600s", socket_path, TIMEOUT_MS,
        f->password ? " user = \"me\"; password = \"secret\";" : "", f->database ? " db = 2;" : "",
        f->replica ? " replicas = 1;" : "");
    if (fclose(file) != 0 || chmod(config_path, 0600) != 0) abort();
}

/* ------------------------------------------------------------------ calls */

/* A text is one line, whatever the server said. */
static void error_look(belay_status status, const belay_error *err)
{
    if (err->status != status) BROKEN("status %d, error %d", (int)status, (int)err->status);
    if (status != BELAY_OK && err->text[0] == '\0') BROKEN("status %d without a text", (int)status);
    for (const char *at = err->text; *at != '\0'; at++)
        if ((unsigned char)*at < 0x20) BROKEN("byte %d in an error's text", *at);
}

static void call_ended(void *arg, belay_status status, belay_lock *lock, const belay_error *err)
{
    struct call *call = arg;
    struct fuzz *f = call->fuzz;
    if (!call->started) BROKEN("a start that failed calls back");
    if (call->ended) BROKEN("a call has called back twice");
    call->ended = true;
    if (traced)
        fprintf(stderr, "        call %zu: %s %s\n", (size_t)(call - f->calls),
                belay_status_name(status), err->text);
    error_look(status, err);
    if (call->acquires && (status == BELAY_OK) != (lock != NULL))
        BROKEN("status %d and a lock", (int)status);
    if (!call->acquires || lock == NULL) return; /* an extend's may have been released since */
    if (f->lock_count == LOCKS) abort();
    f->locks[f->lock_count++] = lock;
}

static struct call *call_new(struct fuzz *f, int64_t limit_ms)
{
    if (f->call_count == CALLS) return NULL;
    struct call *call = &f->calls[f->call_count++];
    *call = (struct call){ .started = true, .fuzz = f };
    call->due_ns = belay_fake_now(f->world) + (limit_ms + SLACK_MS) * MS;
    belay_request_free(f->last);
    f->last = NULL;
    return call;
}

static void call_began(struct call *call, belay_status status)
{
    if (status == BELAY_OK) return;
    if (call->ended) BROKEN("a start that failed has called back");
    call->started = false;
    call->ended = true;
}

static void acquire(struct fuzz *f, const char *name, int64_t wait_ms)
{
    struct call *call = call_new(f, wait_ms > 0 ? wait_ms + TIMEOUT_MS : TIMEOUT_MS);
    belay_options options = BELAY_OPTIONS_INIT;
    options.wait_ms = wait_ms;
    options.keep = f->quick ? BELAY_KEEP_ON : BELAY_KEEP_OFF;
    if (call == NULL) return;
    call->acquires = true;
    call_began(call,
               belay_acquire_start(f->client, name, &options, call_ended, call, &f->last, NULL));
}

static void extend(struct fuzz *f)
{
    if (f->lock_count == 0) return;
    struct call *call = call_new(f, TIMEOUT_MS);
    if (call == NULL) return;
    call_began(call, belay_extend_start(f->locks[0], 0, call_ended, call, &f->last, NULL));
}

static bool release(struct fuzz *f)
{
    if (f->lock_count == 0) return false;
    belay_lock *lock = f->locks[--f->lock_count];
    struct call *call = call_new(f, TIMEOUT_MS);
    if (call == NULL) (void)belay_release(lock, NULL);
    else call_began(call, belay_release_start(lock, call_ended, call, &f->last, NULL));
    return true;
}

/* Whatever can be done without time passing is done. */
static void quiet(struct fuzz *f)
{
    int64_t began_ns = belay_fake_now(f->world);
    unsigned still = 0;
    for (unsigned turns = 0; still < 2; turns++) {
        if (turns > 100000) BROKEN("it never comes to rest");
        if (belay_dispatch(f->client) != BELAY_OK) BROKEN("dispatch fails");
        still = model_pump(&f->model) ? 0 : still + 1;
    }
    /* After a jump, as after a suspension, there may be one step more: an OK that came too late is
     * given back before the call ends. */
    for (size_t i = 0; i < f->call_count && f->model.jumped_ns != f->jumped_ns; i++)
        f->calls[i].due_ns += f->model.jumped_ns - f->jumped_ns + TIMEOUT_MS * MS;
    f->jumped_ns = f->model.jumped_ns;
    for (size_t i = 0; i < f->call_count; i++)
        if (!f->calls[i].ended && f->calls[i].due_ns < began_ns)
            BROKEN("call %zu has not ended in its time", i);
}

static void pass(struct fuzz *f, int64_t ms, int64_t coarse_ms)
{
    for (int64_t step = 1; ms > 0; step = step * 2 < coarse_ms ? step * 2 : coarse_ms) {
        if (step > ms) step = ms;
        belay_fake_advance(f->world, step * MS);
        quiet(f);
        ms -= step;
    }
}

static bool info_look(void *arg, const belay_info *info)
{
    struct fuzz *f = arg;
    if (memchr(info->name, '\0', sizeof info->name) == NULL ||
        memchr(info->owner, '\0', sizeof info->owner) == NULL || info->remaining_ms < -1)
        BROKEN("an entry that is none");
    f->seen = *info;
    return true;
}

static void finding_look(void *arg, const belay_finding *finding)
{
    (void)arg;
    for (const char *at = finding->text; *at != '\0'; at++)
        if ((unsigned char)*at < 0x20) BROKEN("byte %d in a finding", *at);
}

static void blocking(struct fuzz *f, char what)
{
    belay_error err = BELAY_ERROR_INIT;
    belay_info info = { .size = sizeof info };
    belay_lock *lock = NULL;
    struct owner *owner;
    int64_t began_ns = belay_fake_now(f->world), jumped_ns = f->model.jumped_ns;
    belay_status status = BELAY_OK;
    switch (what) {
    case 'i':
        status = belay_inspect(f->client, "one", &info, &err);
        if (status == BELAY_OK) (void)info_look(f, &info);
        break;
    case 'l': status = belay_list(f->client, NULL, info_look, f, &err); break;
    case 'd': status = belay_diagnose(f->client, finding_look, NULL, &err); break;
    case 'k':
        if (!f->seen.held || f->seen.owner[0] == '\0') return;
        owner = owner_find(&f->model, &(struct argument){ f->seen.owner, strlen(f->seen.owner) });
        if (owner != NULL) owner->broken = true;
        status = belay_break(f->client, f->seen.name, &f->seen, &err);
        break;
    case 'o':
        if (!f->seen.held || strlen(f->seen.owner) != BELAY_OWNER_LENGTH) return;
        status = belay_adopt(f->client, f->seen.name, f->seen.owner, NULL, &lock, &err);
        if ((status == BELAY_OK) != (lock != NULL)) BROKEN("status %d and a lock", (int)status);
        break;
    }
    if (traced) fprintf(stderr, "        %c: %s %s\n", what, belay_status_name(status), err.text);
    error_look(status, &err);
    if (lock != NULL) belay_forget(lock);
    int64_t took_ns = belay_fake_now(f->world) - began_ns - (f->model.jumped_ns - jumped_ns);
    int64_t limit_ms = what == 'd' ? DIAGNOSE_MS : TIMEOUT_MS;
    if (took_ns > (limit_ms + SLACK_MS) * MS)
        BROKEN("'%c' took %lld ms", what, (long long)(took_ns / MS));
}

/* ------------------------------------------------------------------ one input */

static void settings_read(struct fuzz *f, const char *at, const char *end)
{
    f->fencing = memchr(at, 'F', (size_t)(end - at)) == NULL;
    f->password = memchr(at, 'P', (size_t)(end - at)) != NULL;
    f->database = memchr(at, 'D', (size_t)(end - at)) != NULL;
    f->replica = memchr(at, 'R', (size_t)(end - at)) != NULL;
    f->quick = memchr(at, 'Q', (size_t)(end - at)) != NULL;
    f->late = memchr(at, 'L', (size_t)(end - at)) != NULL;
}

static void act(struct fuzz *f, char what)
{
    if (traced) fprintf(stderr, "%c\n", what);
    switch (what) {
    case 'a': acquire(f, "one", BELAY_TRY); break;
    case 'b': acquire(f, "two", BELAY_TRY); break;
    case 'w': acquire(f, "one", WAIT_MS); break;
    case 'e': extend(f); break;
    case 'r': (void)release(f); break;
    case 'i':
    case 'l':
    case 'd':
    case 'k':
    case 'o': blocking(f, what); break;
    case 'c':
        if (f->last != NULL) belay_request_cancel(f->last);
        break;
    case 't': pass(f, 400, 100); break;
    case 'T': pass(f, 5000, 100); break;
    case '.': quiet(f); break;
    }
}

static bool all_ended(const struct fuzz *f)
{
    for (size_t i = 0; i < f->call_count; i++)
        if (!f->calls[i].ended) return false;
    return true;
}

/* The client's calls end, its locks go, its debts are paid, it closes: each within its time. */
static void end(struct fuzz *f)
{
    pass(f, 50, 100);
    for (int i = 0; i < 100 && !all_ended(f); i++) pass(f, 100, 100);
    if (!all_ended(f)) BROKEN("a call never ends");
    model_tell_truth(&f->model);
    if (!f->late) model_resume(&f->model);
    while (release(f)) continue;
    pass(f, 6000, 1000);
    if (f->late) model_resume(&f->model);
    while (release(f)) continue;
    pass(f, 15000, 1000);
    if (!all_ended(f)) BROKEN("a release never ends");
    int64_t began_ns = belay_fake_now(f->world);
    belay_request_free(f->last);
    f->last = NULL;
    belay_close(f->client);
    int64_t took_ns = belay_fake_now(f->world) - began_ns;
    if (took_ns > (CLOSE_MS + SLACK_MS) * MS)
        BROKEN("closing took %lld ms", (long long)(took_ns / MS));
    /* Without memory to remember it, a release that was not answered is left to the TTL. */
    bool forgot = belay_fake_refused(f->world) > 0;
    const struct key *orphan = forgot ? NULL : model_orphan(&f->model);
    if (orphan != NULL)
        BROKEN("%.*s is left behind by %s", (int)orphan->name_length, orphan->name, orphan->value);
    if (belay_fake_clients(f->world) != 0) BROKEN("a client is left");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz *f = &fuzz;
    const char *at = (const char *)data, *end_of_line = memchr(data, '\n', size);
    belay_open_options options = BELAY_OPEN_OPTIONS_INIT;
    if (end_of_line == NULL || end_of_line - at > 30) return 0;
    f->call_count = f->lock_count = 0;
    f->jumped_ns = 0;
    memset(&f->seen, 0, sizeof f->seen);
    settings_read(f, at, end_of_line);
    config_write(f);
    f->world = belay_fake_create(size);
    belay_world *world = belay_fake_base(f->world);
    fake_wait = world->wait;
    fake_alloc = world->may_alloc;
    world->wait = world_wait;
    world->may_alloc = world_may_alloc;
    model_open(&f->model, f->world, listener, end_of_line + 1,
               size - (size_t)(end_of_line + 1 - at));
    options.threads = BELAY_DISPATCH;
    options.world = world;
    belay_error err = BELAY_ERROR_INIT;
    if (belay_open(&f->client, config_path, &options, &err) != BELAY_OK)
        BROKEN("it does not open: %s", err.text);
    for (; at < end_of_line; at++) {
        if (*at == 'M' && at + 1 < end_of_line) {
            belay_fake_fail_alloc(f->world, (unsigned char)*++at);
            continue;
        }
        act(f, *at);
    }
    end(f);
    model_close(&f->model);
    belay_fake_destroy(f->world);
    return 0;
}
