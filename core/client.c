/* client.c - opening and closing; taking locks; what an event loop calls. */
#include "core/client.h"

#include <stdio.h>
#include <unistd.h>

void belay__client_ref(belay *client)
{
    atomic_fetch_add_explicit(&client->refs, 1, memory_order_relaxed);
}

void belay__client_unref(belay *client)
{
    if (atomic_fetch_sub_explicit(&client->refs, 1, memory_order_acq_rel) != 1) return;
    belay__page_free(client->page);
    belay__free(client);
}

belay_status belay__client_check(const belay *client, belay_error *err)
{
    if (client == NULL) return belay_error_set(err, BELAY_INVALID, NULL, "the client is NULL");
    if (belay__forked(client))
        return belay_error_set(err, BELAY_FORKED, NULL,
                               "this process was forked from the one that opened the client");
    return BELAY_OK;
}

/* ------------------------------------------------------------------ events */

struct event_call {
    struct belay__call call;
    belay_event_fn *fn;
    void *arg;
    belay_event event;
    char text[384];
    char name[];
};

static void event_run(struct belay__call *call)
{
    struct event_call *event = belay_container_of(call, struct event_call, call);
    event->fn(event->arg, &event->event);
    belay__free(event);
}

void belay__event(belay *client, belay_event_kind kind, const char *name, belay_scope scope,
                  int64_t since_ns, const char *text)
{
    if (client->on_event == NULL) return;
    size_t length = strlen(name);
    struct event_call *event = belay__alloc(client->loop.world, sizeof *event + length + 1);
    if (event == NULL) {
        belay__log(client, BELAY_LOG_WARN, "no memory to report an event");
        return;
    }
    memcpy(event->name, name, length);
    snprintf(event->text, sizeof event->text, "%s", text);
    event->call.run = event_run;
    event->fn = client->on_event;
    event->arg = client->arg;
    event->event = (belay_event){ .size = sizeof event->event,
                                  .kind = kind,
                                  .name = event->name,
                                  .scope = scope,
                                  .text = event->text,
                                  .since_ms = -1 };
    if (since_ns != 0)
        event->event.since_ms = (belay__loop_now(&client->loop) - since_ns) / BELAY__MS;
    belay__call_queue(&client->loop, &event->call);
}

/* ------------------------------------------------------------------ opening */

static belay_env *env_new(belay *client, const struct belay__config_backend *backend)
{
    belay_env *env = belay__alloc(client->loop.world, sizeof *env);
    if (env == NULL) return NULL;
    env->client = client;
    env->loop = &client->loop;
    env->name = backend->name;
    env->timeout_ns = (int64_t)backend->timeout_ms * BELAY__MS;
    return env;
}

/* Children first: the config is in that order. */
static belay_status backends_create(belay *client, belay_error *err)
{
    struct belay__config *config = client->config;
    for (size_t i = 0; i < config->count; i++) {
        struct belay__config_backend *at = &config->backends[i];
        at->env = env_new(client, at);
        if (at->env == NULL) return belay_error_set(err, BELAY_NOMEM, NULL, NULL);
        for (size_t c = 0; c < at->child_count; c++)
            belay__settings_resolve(at->settings, c, config->backends[at->children[c]].object);
        belay_status status = at->ops->create(&at->object, at->env, at->settings, err);
        if (status != BELAY_OK) {
            at->object = NULL;
            return status;
        }
        at->object->ops = at->ops;
        at->object->env = at->env;
    }
    client->root = config->backends[config->use].object;
    client->timeout_ns = client->root->env->timeout_ns;
    const belay_backend_ops *ops = client->root->ops;
    client->scope_max = ops->scope_of != NULL ? ops->scope_of(client->root) : ops->scope;
    client->prefix_length = strlen(config->prefix);
    return BELAY_OK;
}

void belay__backends_destroy(belay *client)
{
    struct belay__config *config = client->config;
    if (config == NULL) return;
    for (size_t i = config->count; i-- > 0;) {
        struct belay__config_backend *at = &config->backends[i];
        if (at->object != NULL) at->ops->destroy(at->object);
        belay__free(at->env);
        at->object = NULL;
        at->env = NULL;
    }
    client->root = NULL;
}

/* "/etc/belay/belay.conf: ha (fallback)"; where one word says it all, it is not said twice. */
static char *where_make(belay *client)
{
    const struct belay__config *config = client->config;
    const struct belay__config_backend *root = &config->backends[config->use];
    size_t size =
        strlen(config->source) + strlen(root->name) + strlen(root->ops->type) + sizeof ":  ()";
    char *where = belay__alloc(client->loop.world, size);
    if (where == NULL) return NULL;
    if (strcmp(config->source, root->name) == 0)
        snprintf(where, size, "%s (%s)", config->source, root->ops->type);
    else if (strcmp(root->name, root->ops->type) == 0)
        snprintf(where, size, "%s: %s", config->source, root->name);
    else snprintf(where, size, "%s: %s (%s)", config->source, root->name, root->ops->type);
    return where;
}

static belay_status log_create(belay *client, const belay_open_options *options)
{
    if (options->on_log == NULL) return BELAY_OK;
    struct belay__log *log = belay__alloc(client->loop.world, sizeof *log);
    if (log == NULL) return BELAY_NOMEM;
    log->client = client;
    log->fn = options->on_log;
    log->arg = options->arg;
    log->loop = &client->loop;
    log->level = options->log_level != BELAY_LOG_DEFAULT ? options->log_level
                                                         : (belay_level)client->config->log_level;
    client->log = log;
    return BELAY_OK;
}

static void close_wanted(struct belay__loop *loop)
{
    belay_close(belay_container_of(loop, belay, loop));
}

static belay_status options_read(belay_open_options *to, const belay_open_options *from,
                                 belay_error *err)
{
    memset(to, 0, sizeof *to);
    if (from == NULL) return BELAY_OK;
    uint32_t size = from->size != 0 ? from->size : (uint32_t)sizeof *to;
    if (size < offsetof(belay_open_options, threads) + sizeof to->threads)
        return belay_error_set(err, BELAY_INVALID, NULL,
                               "belay_open_options.size is %u: start from BELAY_OPEN_OPTIONS_INIT",
                               (unsigned)size);
    memcpy(to, from, size < sizeof *to ? size : sizeof *to);
    if (to->threads != BELAY_THREADS && to->threads != BELAY_DISPATCH &&
        to->threads != BELAY_DISPATCH_WORKER)
        return belay_error_set(err, BELAY_INVALID, NULL, "belay_open_options.threads is %d",
                               (int)to->threads);
    if (to->log_level < BELAY_LOG_DEFAULT || to->log_level > BELAY_LOG_DEBUG)
        return belay_error_set(err, BELAY_INVALID, NULL, "belay_open_options.log_level is %d",
                               (int)to->log_level);
    return BELAY_OK;
}

static belay_status open_client(belay **out, const char *where, const belay_open_options *given,
                                belay_error *err)
{
    if (out == NULL) return belay_error_set(err, BELAY_INVALID, NULL, "out is NULL");
    *out = NULL;
    belay_open_options options;
    belay_status status = options_read(&options, given, err);
    if (status != BELAY_OK) return status;
    belay_world *world = options.world;

    belay *client = belay__alloc(world, sizeof *client);
    if (client == NULL) return belay_error_set(err, BELAY_NOMEM, NULL, NULL);
    atomic_init(&client->refs, 1);
    belay_links_init(&client->requests);
    belay_links_init(&client->locks);
    belay_links_init(&client->debts);
    belay_links_init(&client->cancels);
    belay_links_init(&client->extensions);
    client->on_event = options.on_event;
    client->arg = options.arg;
    client->page = belay__page_new();
    if (client->page == NULL ||
        belay__loop_init(&client->loop, world, options.threads) != BELAY_OK) {
        belay__page_free(client->page);
        belay__free(client);
        return belay_error_set(err, BELAY_NOMEM, NULL, "out of memory or descriptors");
    }
    client->loop.close = close_wanted;

    struct belay__registry registry = { options.backends, belay__builtin_backends };
    status = belay__config_load(&client->config, where, &registry, world, err);
    if (status == BELAY_OK) client->where = where_make(client);
    if (status == BELAY_OK && (client->where == NULL || log_create(client, &options) != BELAY_OK ||
                               belay__turns_init(client) != BELAY_OK))
        status = belay_error_set(err, BELAY_NOMEM, NULL, NULL);
    belay__loop_enter(&client->loop);
    if (status == BELAY_OK) status = backends_create(client, err);
    if (status != BELAY_OK) {
        belay__worker_stop(&client->loop); /* a create may have begun a job */
        belay__backends_destroy(client);
    }
    belay__loop_leave(&client->loop);
    if (status == BELAY_OK) {
        *out = client;
        belay_error_set(err, BELAY_OK, NULL, NULL);
        return BELAY_OK;
    }
    belay__loop_stop(&client->loop);
    belay__loop_fini(&client->loop);
    belay__free(client->log);
    belay__free(client->turns);
    belay__free(client->where);
    belay__config_free(client->config);
    belay__client_unref(client);
    return status;
}

belay_status belay_open(belay **out, const char *where, const belay_open_options *given,
                        belay_error *err)
{
    int was = errno, cancelable;
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancelable);
    belay_status status = open_client(out, where, given, err);
    errno = was;
    pthread_setcancelstate(cancelable, NULL);
    return status;
}

const char *belay_where(const belay *client)
{
    return client != NULL && client->where != NULL ? client->where : "";
}

belay_scope belay_reach(const belay *client)
{
    return client != NULL ? client->scope_max : BELAY_SCOPE_ANY;
}

uint32_t belay_ttl_ms(const belay *client)
{
    return client != NULL && client->config != NULL ? client->config->ttl_ms : 0;
}

/* ------------------------------------------------------------------ acquire */

belay_status belay__options_read(belay_options *to, const belay_options *from, belay_error *err)
{
    memset(to, 0, sizeof *to);
    if (from == NULL) return BELAY_OK;
    uint32_t size = from->size != 0 ? from->size : (uint32_t)sizeof *to;
    if (size < offsetof(belay_options, ttl_ms) + sizeof to->ttl_ms)
        return belay_error_set(err, BELAY_INVALID, NULL,
                               "belay_options.size is %u: start from BELAY_OPTIONS_INIT",
                               (unsigned)size);
    memcpy(to, from, size < sizeof *to ? size : sizeof *to);
    return BELAY_OK;
}

static belay_status invalid(belay_error *err, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
static belay_status invalid(belay_error *err, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    belay__error_vset(err, BELAY_INVALID, NULL, format, args);
    va_end(args);
    return BELAY_INVALID;
}

/* Everything that can be known to be wrong before anything begins. */
static belay_status acquire_check(belay *client, const char *name, size_t *name_length,
                                  belay_options *options, belay_error *err)
{
    const struct belay__config *config = client->config;
    if (name == NULL) return invalid(err, "the name is NULL");
    *name_length = strnlen(name, BELAY_NAME_MAX + 1);
    if (*name_length == 0) return invalid(err, "the lock's name is empty");
    if (*name_length > BELAY_NAME_MAX)
        return invalid(err, "the lock's name is longer than %d bytes", BELAY_NAME_MAX);
    if (options->ttl_ms == 0) options->ttl_ms = config->ttl_ms;
    if (options->ttl_ms < BELAY_TTL_MIN_MS || options->ttl_ms > BELAY_TTL_MAX_MS)
        return invalid(err, "a TTL of %u ms: it must be 100 ms to 7 days",
                       (unsigned)options->ttl_ms);
    if (options->wait_ms == 0) options->wait_ms = config->wait_ms;
    if (options->wait_ms < BELAY_FOREVER || options->wait_ms > BELAY_WAIT_MAX_MS)
        return invalid(err,
                       "wait_ms is %lld: it must be BELAY_TRY, BELAY_FOREVER, or up to 365 days",
                       (long long)options->wait_ms);
    if (options->keep < BELAY_KEEP_DEFAULT || options->keep > BELAY_KEEP_OFF)
        return invalid(err, "keep is %d", (int)options->keep);
    if (options->keep == BELAY_KEEP_DEFAULT)
        options->keep = config->keep && !options->detached ? BELAY_KEEP_ON : BELAY_KEEP_OFF;
    if (options->keep_every_ms == 0) options->keep_every_ms = options->ttl_ms / 3;
    if (options->keep_every_ms >= options->ttl_ms)
        return invalid(err, "keep_every_ms is %u: it must be less than the TTL of %u ms",
                       (unsigned)options->keep_every_ms, (unsigned)options->ttl_ms);
    if (options->also_pid < 0) return invalid(err, "also_pid is %d", (int)options->also_pid);
    if (options->label != NULL && strnlen(options->label, BELAY_LABEL_MAX + 1) > BELAY_LABEL_MAX)
        return invalid(err, "the label is longer than %d bytes", BELAY_LABEL_MAX);
    if (options->at_least < BELAY_SCOPE_ANY || options->at_least > BELAY_SCOPE_FLEET)
        return invalid(err, "at_least is %d", (int)options->at_least);
    if (options->at_least > client->scope_max)
        return belay_error_set(err, BELAY_UNSUPPORTED, client->root->env->name,
                               "its locks reach no farther than this %s; %s was asked for",
                               belay_scope_name(client->scope_max),
                               belay_scope_name(options->at_least));
    if (belay__cancel_fired(options->cancel))
        return belay_error_set(err, BELAY_CANCELED, NULL, "canceled by the caller");
    return BELAY_OK;
}

static belay_lock *lock_prepare(belay *client, const char *name, size_t length,
                                const belay_options *options)
{
    belay_lock *lock = belay__lock_new(client, name, length);
    if (lock == NULL) return NULL;
    lock->ttl_ms = options->ttl_ms;
    lock->every_ms = options->keep_every_ms;
    lock->kept = options->keep == BELAY_KEEP_ON;
    lock->detached = options->detached;
    lock->at_least = (uint8_t)options->at_least;
    lock->on_lost = options->on_lost;
    lock->on_scope = options->on_scope;
    lock->arg = options->arg;
    return lock;
}

/* The threads that this lock will need exist before it is taken: later there is nobody to tell. */
static bool threads_ready(belay *client, const belay_lock *lock, bool async)
{
    bool calls =
        async || lock->on_lost != NULL || lock->on_scope != NULL || client->on_event != NULL;
    if ((calls || lock->kept) && belay__engine_need(&client->loop) != BELAY_OK) return false;
    return !calls || belay__call_need(&client->loop) == BELAY_OK;
}

/* A lock that never was. */
static void lock_discard(belay_lock *lock)
{
    belay *client = lock->client;
    belay__free(lock);
    belay__client_unref(client);
}

static void request_prepare(belay_request *request, belay_lock *lock, const belay_options *options)
{
    belay *client = request->client;
    belay__request_init_acquire(request);
    request->lock = lock;
    request->ttl_ms = options->ttl_ms;
    request->also_pid = options->also_pid;
    request->at_least = options->at_least;
    request->cancel = options->cancel;
    request->try_once = options->wait_ms == BELAY_TRY;
    request->wait_until_ns = INT64_MAX;
    if (options->label != NULL)
        snprintf(request->label, sizeof request->label, "%s", options->label);
    belay__acquire_prepare(request);
    if (request->try_once) return;
    request->wait.since_ns = belay__loop_now(&client->loop);
    if (options->wait_ms > 0)
        request->wait_until_ns = request->wait.since_ns + options->wait_ms * BELAY__MS;
}

/* The arguments are right, and as they will be used. */
static belay_status arguments_read(belay *client, const char *name, size_t *length,
                                   const belay_options *given, belay_options *options,
                                   belay_error *err)
{
    belay_status status = belay__client_check(client, err);
    if (status == BELAY_OK) status = belay__options_read(options, given, err);
    if (status == BELAY_OK) status = acquire_check(client, name, length, options, err);
    return status;
}

/* On OK the monitor is held, and the lock may begin. Otherwise the lock is gone. */
static belay_status enter_with(belay_lock *lock, bool async, belay_error *err)
{
    belay *client = lock->client;
    belay_status status = BELAY_OK;
    belay__loop_enter(&client->loop);
    if (client->closing) status = belay_error_set(err, BELAY_CLOSED, NULL, "the client is closed");
    else if (!threads_ready(client, lock, async))
        status = belay_error_set(err, BELAY_NOMEM, NULL, "a thread could not be started");
    if (status == BELAY_OK) return BELAY_OK;
    belay__loop_leave(&client->loop);
    lock_discard(lock);
    return status;
}

belay_status belay_acquire(belay *client, const char *name, const belay_options *given,
                           belay_lock **out, belay_error *err)
{
    if (out == NULL) return invalid(err, "out is NULL");
    *out = NULL;
    belay_options options;
    size_t length;
    belay_status status = arguments_read(client, name, &length, given, &options, err);
    if (status != BELAY_OK) return status;
    belay_lock *lock = lock_prepare(client, name, length, &options);
    if (lock == NULL) return belay_error_set(err, BELAY_NOMEM, NULL, NULL);
    belay_request request;
    belay__request_init(&request, client);
    request_prepare(&request, lock, &options);
    status = enter_with(lock, false, err);
    if (status != BELAY_OK) return status;
    belay__acquire_begin(&request);
    status = belay__request_wait(&request, err);
    *out = request.result;
    return status;
}

belay_status belay_acquire_start(belay *client, const char *name, const belay_options *given,
                                 belay_done_fn *done, void *arg, belay_request **out,
                                 belay_error *err)
{
    if (out != NULL) *out = NULL;
    if (done == NULL) return invalid(err, "done is NULL");
    belay_options options;
    size_t length;
    belay_status status = arguments_read(client, name, &length, given, &options, err);
    if (status != BELAY_OK) return status;
    belay_lock *lock = lock_prepare(client, name, length, &options);
    belay_request *request = lock != NULL ? belay__request_new(client, done, arg) : NULL;
    if (request == NULL) {
        if (lock != NULL) lock_discard(lock);
        return belay_error_set(err, BELAY_NOMEM, NULL, NULL);
    }
    request_prepare(request, lock, &options);
    status = enter_with(lock, true, err);
    if (status != BELAY_OK) {
        belay__free(request);
        return status;
    }
    client->loop.background++;
    belay__acquire_begin(request);
    return belay__request_started(request, out);
}

static bool owner_is_well_formed(const char *owner)
{
    return owner != NULL && strlen(owner) == BELAY_OWNER_LENGTH &&
           strspn(owner, "0123456789abcdef") == BELAY_OWNER_LENGTH;
}

belay_status belay_adopt(belay *client, const char *name, const char *owner,
                         const belay_options *given, belay_lock **out, belay_error *err)
{
    if (out == NULL) return invalid(err, "out is NULL");
    *out = NULL;
    belay_options options;
    size_t length;
    belay_status status = arguments_read(client, name, &length, given, &options, err);
    if (status != BELAY_OK) return status;
    if (!owner_is_well_formed(owner))
        return invalid(err, "an owner id is %d hexadecimal digits", BELAY_OWNER_LENGTH);
    if (given == NULL || given->keep != BELAY_KEEP_ON) options.keep = BELAY_KEEP_OFF;

    int64_t asked = belay__loop_now(&client->loop);
    belay_info info = { .size = sizeof info };
    status = belay_inspect(client, name, &info, err);
    if (status != BELAY_OK) return status;
    if (!info.held || strcmp(info.owner, owner) != 0)
        return belay_error_set(err, BELAY_LOST, NULL, "that owner does not hold the lock");
    if (info.scope < options.at_least)
        return belay_error_set(err, BELAY_UNAVAILABLE, client->root->env->name,
                               "it is held in a smaller scope than was asked for");
    belay_lock *lock = lock_prepare(client, name, length, &options);
    if (lock == NULL) return belay_error_set(err, BELAY_NOMEM, NULL, NULL);
    status = enter_with(lock, false, err);
    if (status != BELAY_OK) return status;
    memcpy(lock->owner, owner, sizeof lock->owner);
    /* As if granted when we asked, for what the place says is left. */
    int64_t left = (info.remaining_ms >= 0 ? info.remaining_ms : lock->ttl_ms) * BELAY__MS;
    belay_op op = { .sent_ns = asked, .token = info.token, .scope = info.scope };
    belay__lock_begin(lock, &op);
    int64_t deadline = asked + left - (left / 100 + 2 * BELAY__MS);
    atomic_store_explicit(&lock->deadline_ns, deadline, memory_order_release);
    if (lock->kept) lock->next_ns = asked; /* what is left may be short */
    belay__keeper_arm(lock);
    belay__loop_leave(&client->loop);
    if (belay_lock_valid(lock, 0)) {
        *out = lock;
        return BELAY_OK;
    }
    belay_forget(lock);
    return belay_error_set(err, BELAY_LOST, NULL, "what was left of its TTL has run out");
}

belay_status belay_ready(belay *client, belay_error *err)
{
    belay_status status = belay__client_check(client, err);
    if (status != BELAY_OK) return status;
    char name[16 + BELAY_OWNER_LENGTH + 1] = "ready-";
    belay__loop_enter(&client->loop);
    belay__owner_make(client->page, client->loop.world, name + strlen(name));
    belay__loop_leave(&client->loop);
    belay_options options = {
        .size = sizeof options, .ttl_ms = 1000, .wait_ms = BELAY_TRY, .keep = BELAY_KEEP_OFF
    };
    belay_lock *lock;
    status = belay_acquire(client, name, &options, &lock, err);
    return status == BELAY_OK ? belay_release(lock, err) : status;
}

/* ------------------------------------------------------------------ event loops */

int belay_fd(const belay *client)
{
    return client != NULL && !belay__forked(client) ? client->loop.outer : -1;
}

belay_status belay_dispatch(belay *client)
{
    belay_status status = belay__client_check(client, NULL);
    if (status != BELAY_OK) return status;
    struct belay__loop *loop = &client->loop;
    if (loop->threads) return BELAY_INVALID;
    belay__loop_enter(loop);
    loop->inside++; /* a close on another thread waits for us */
    int cancelable = loop->inside_cancelable;
    loop->inside_cancelable = PTHREAD_CANCEL_DISABLE; /* also between */
    loop->dispatching++;
    belay__loop_poll(loop);
    belay__call_run_all(loop); /* nothing, if a callback is where we are called from */
    loop->dispatching--;
    belay__call_tell(loop);
    bool close = loop->close_wanted && !loop->calling;
    if (close) loop->close_wanted = false;
    loop->inside--;
    belay__loop_leave(loop);
    if (close) belay_close(client);
    pthread_setcancelstate(cancelable, NULL);
    return close ? BELAY_CLOSED : BELAY_OK;
}
