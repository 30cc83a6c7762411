/* crowd.c - the workers, what they guard, and how they tell. */
#define _GNU_SOURCE
#include "tests/live/crowd.h"

#include <errno.h>
#include <hiredis.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>

/* Of one name, on one host or in the fleet. */
struct guarded {
    atomic_int inside;
    _Atomic int64_t intruded_ns; /* when somebody last found another inside */
    _Atomic uint64_t token;
};

struct crowd {
    const struct host *hosts[2]; /* the same one twice, or two */
    const char *socket; /* the server's, to ask it whether it has what is said to be the fleet's */
    char at[2][96];     /* where the even and the odd processes find it, or those of each host */
    atomic_bool begun;  /* that is known */
    struct crowd_counts counts;
    struct guarded on_host[2][CROWD_NAMES], in_fleet[CROWD_NAMES];
    atomic_int epoch; /* of what the server knows */
    atomic_bool over;
    pid_t pids[CROWD_PROCESSES];
};

enum { FRESH = CROWD_NAMES, LONG_TTL_MS = 1500, CALM_MS = 15000 };

static const char *const names[CROWD_NAMES] = { "one", "two", "three", "four" };

static int64_t clock_ns(void)
{
    struct timespec at;
    clock_gettime(CLOCK_BOOTTIME, &at);
    return (int64_t)at.tv_sec * 1000000000 + at.tv_nsec;
}

static void note(atomic_int *most, int64_t value)
{
    int was = atomic_load(most);
    while (value > was && !atomic_compare_exchange_weak(most, &was, (int)value)) {}
}

/* ------------------------------------------------------------------ a worker */

struct worker {
    struct crowd *crowd;
    belay *client;
    int host; /* 0 or 1 */
    unsigned dice;
    int number, fresh;
    redisContext *server; /* its own door to it */
    pthread_t thread;
};

/* A lock, from the attempt to the release. */
struct hold {
    struct worker *worker;
    int name;
    char key[48];
    int epoch; /* when it was asked for */
    belay_lock *lock;
    bool fleet; /* its scope when it was granted */
    int64_t entered_ns;
    atomic_bool demoted, promoted;
};

static const char *key_name(const struct hold *hold)
{
    return hold->key + strlen("belay:");
}

/* ------------------------------------------------------------------ does the server have it? */

/* What it has under the key; NULL: it could not be asked. */
static redisReply *ask(struct worker *worker, const char *key)
{
    if (worker->server == NULL) {
        struct timeval patience = { .tv_usec = 200000 };
        worker->server = redisConnectUnixWithTimeout(worker->crowd->socket, patience);
        if (worker->server == NULL) return NULL;
        redisSetTimeout(worker->server, patience);
    }
    redisReply *reply =
        worker->server->err == 0 ? redisCommand(worker->server, "GET %s", key) : NULL;
    if (reply != NULL) return reply;
    redisFree(worker->server);
    worker->server = NULL;
    return NULL;
}

/* `granted`: just now, so that it is there with the owner that the lock shows. Later it may have
 * been promoted with another. */
static void check_scope(struct hold *hold, bool granted)
{
    struct worker *worker = hold->worker;
    struct crowd_counts *counts = &worker->crowd->counts;
    if (belay_lock_scope(hold->lock) != BELAY_SCOPE_FLEET) return;
    redisReply *reply = ask(worker, hold->key);
    if (reply == NULL) return;
    bool counted = belay_lock_valid(hold->lock, 0) &&
                   belay_lock_scope(hold->lock) == BELAY_SCOPE_FLEET &&
                   atomic_load(&worker->crowd->epoch) == hold->epoch;
    bool string = reply->type == REDIS_REPLY_STRING;
    bool ours = string && strcmp(reply->str, belay_lock_owner(hold->lock)) == 0;
    /* One that is promoted the moment it was granted is told so a little later. */
    bool fine = ours || (string && !granted) ||
                (string && until_within(2000, atomic_load(&hold->promoted)));
    if (counted && (string || reply->type == REDIS_REPLY_NIL)) {
        atomic_fetch_add(&counts->asked, 1);
        if (!fine && atomic_fetch_add(&counts->untrue, 1) < 5)
            fprintf(stderr, "# %s: the fleet's, but the server has %s (%s)\n", key_name(hold),
                    string ? "another owner" : "none", granted ? "granted" : "held");
    }
    freeReplyObject(reply);
}

/* ------------------------------------------------------------------ inside */

static void enter_one(struct hold *hold, struct guarded *it)
{
    struct crowd_counts *counts = &hold->worker->crowd->counts;
    if (atomic_fetch_add(&it->inside, 1) != 0) {
        atomic_store(&it->intruded_ns, clock_ns());
        return;
    }
    uint64_t token = belay_lock_token(hold->lock), last = atomic_load(&it->token);
    if (!belay_lock_valid(hold->lock, 0)) return;
    if (token <= last && atomic_fetch_add(&counts->fallen, 1) < 5)
        fprintf(stderr, "# %s: token %llu after %llu\n", key_name(hold), (unsigned long long)token,
                (unsigned long long)last);
    atomic_store(&it->token, token);
}

static void enter(struct hold *hold)
{
    struct crowd *crowd = hold->worker->crowd;
    if (hold->name < FRESH) {
        enter_one(hold, &crowd->on_host[hold->worker->host][hold->name]);
        if (hold->fleet) enter_one(hold, &crowd->in_fleet[hold->name]);
    }
    hold->entered_ns = clock_ns(); /* who was inside before us will see that we came */
}

/* `believed`: it has had it all the time, and has it yet. */
static void leave_one(struct hold *hold, struct guarded *it, bool believed)
{
    struct crowd_counts *counts = &hold->worker->crowd->counts;
    if (believed && atomic_load(&it->intruded_ns) >= hold->entered_ns &&
        atomic_fetch_add(&counts->both, 1) < 5)
        fprintf(stderr, "# %s: two were inside; one of them with scope %s\n", key_name(hold),
                belay_scope_name(belay_lock_scope(hold->lock)));
    atomic_fetch_sub(&it->inside, 1);
}

static void leave(struct hold *hold)
{
    struct crowd *crowd = hold->worker->crowd;
    bool fleet = belay_lock_scope(hold->lock) == BELAY_SCOPE_FLEET && !atomic_load(&hold->demoted);
    bool valid =
        belay_lock_valid(hold->lock, 0); /* after its scope: that was so while it was ours */
    if (!valid) atomic_fetch_add(&crowd->counts.tardy, 1);
    if (hold->name == FRESH) return;
    if (hold->fleet) leave_one(hold, &crowd->in_fleet[hold->name], valid && fleet);
    leave_one(hold, &crowd->on_host[hold->worker->host][hold->name], valid);
}

static void on_scope(void *arg, belay_lock *lock, belay_scope now)
{
    struct hold *hold = arg;
    struct crowd_counts *counts = &hold->worker->crowd->counts;
    (void)lock;
    atomic_store(now == BELAY_SCOPE_FLEET ? &hold->promoted : &hold->demoted, true);
    atomic_fetch_add(now == BELAY_SCOPE_FLEET ? &counts->promoted : &counts->demoted, 1);
}

/* Mostly short; now and then as long as its TTL, so that it lives through an outage. */
static void stay(struct hold *hold, bool long_one)
{
    struct worker *worker = hold->worker;
    int64_t until_ms = clock_ms() + rand_r(&worker->dice) % (long_one ? LONG_TTL_MS : 10);
    while (clock_ms() < until_ms && belay_lock_valid(hold->lock, 0)) usleep(1000);
}

/* ------------------------------------------------------------------ the work */

static bool count(struct worker *worker, const char *what, belay_status status,
                  const belay_error *err)
{
    struct crowd_counts *counts = &worker->crowd->counts;
    if (status == BELAY_OK) return true;
    if (status == BELAY_HELD) {
        atomic_fetch_add(&counts->held, 1);
    } else if (is_doubt(status)) {
        atomic_fetch_add(&counts->doubted, 1);
    } else {
        atomic_int *of = status == BELAY_LOST ? &counts->lost : &counts->odd;
        if (atomic_fetch_add(of, 1) < 5)
            fprintf(stderr, "# %s: %s: %s: %s\n", what, belay_status_name(status), err->node,
                    err->text);
    }
    return false;
}

static void name_draw(struct worker *worker, struct hold *hold)
{
    hold->name = rand_r(&worker->dice) % (CROWD_NAMES + 2);
    if (hold->name > FRESH) hold->name = FRESH;
    /* A name that is used once: nobody comes again to find what was left behind. */
    if (hold->name == FRESH)
        snprintf(hold->key, sizeof hold->key, "belay:w%d-%d", worker->number, worker->fresh++);
    else snprintf(hold->key, sizeof hold->key, "belay:%s", names[hold->name]);
}

/* Returns the scope that it had when it was granted; ANY: it was not. */
static belay_scope work_once(struct worker *worker)
{
    static const int64_t waits_ms[] = { BELAY_TRY, 40, 250, 1500 };
    struct crowd_counts *counts = &worker->crowd->counts;
    struct hold hold = { .worker = worker, .epoch = atomic_load(&worker->crowd->epoch) };
    belay_options options = BELAY_OPTIONS_INIT;
    belay_error err = BELAY_ERROR_INIT;
    bool long_one = rand_r(&worker->dice) % 8 == 0;
    name_draw(worker, &hold);
    options.ttl_ms = long_one ? LONG_TTL_MS : 20000;
    options.keep = long_one || rand_r(&worker->dice) % 2 == 0 ? BELAY_KEEP_ON : BELAY_KEEP_OFF;
    options.wait_ms = waits_ms[rand_r(&worker->dice) % 4];
    options.on_scope = on_scope;
    options.arg = &hold;
    int64_t start = clock_ms();
    belay_status status =
        belay_acquire(worker->client, key_name(&hold), &options, &hold.lock, &err);
    note(&counts->late_ms, clock_ms() - start - (options.wait_ms > 0 ? options.wait_ms : 0));
    if (!count(worker, "acquire", status, &err)) return BELAY_SCOPE_ANY;
    belay_scope scope = belay_lock_scope(hold.lock);
    atomic_fetch_add(scope == BELAY_SCOPE_FLEET ? &counts->fleet : &counts->host, 1);
    atomic_fetch_add(&counts->long_ones, long_one);
    hold.fleet = scope == BELAY_SCOPE_FLEET;
    enter(&hold);
    check_scope(&hold, true);
    stay(&hold, long_one);
    check_scope(&hold, false);
    leave(&hold);
    start = clock_ms();
    status = belay_release(hold.lock, &err);
    /* What a server has forgotten meanwhile was not ours any more. */
    if (status != BELAY_LOST || hold.epoch == atomic_load(&worker->crowd->epoch))
        (void)count(worker, "release", status, &err);
    note(&counts->late_ms, clock_ms() - start);
    return scope;
}

static void *work(void *arg)
{
    struct worker *worker = arg;
    struct crowd_counts *counts = &worker->crowd->counts;
    while (!atomic_load(&worker->crowd->over)) (void)work_once(worker);
    int64_t start = clock_ms(), end = start + CALM_MS * until_slow();
    bool fleet = false;
    while (!fleet && clock_ms() < end) fleet = work_once(worker) == BELAY_SCOPE_FLEET;
    if (fleet) note(&counts->back_ms, clock_ms() - start);
    else atomic_fetch_add(&counts->astray, 1);
    redisFree(worker->server);
    return NULL;
}

static void on_event(void *arg, const belay_event *event)
{
    struct crowd_counts *counts = arg;
    if (event->kind == BELAY_EVENT_DEGRADED) atomic_fetch_add(&counts->degraded, 1);
    if (event->kind == BELAY_EVENT_RECOVERED) atomic_fetch_add(&counts->recovered, 1);
}

static int host_of(int number)
{
    return number / 2 % 2;
}

static int road_of(const struct crowd *crowd, int number)
{
    return crowd->hosts[0] != crowd->hosts[1] ? host_of(number) : number % 2;
}

static belay *client_of(struct crowd *crowd, int number)
{
    belay_open_options options = BELAY_OPEN_OPTIONS_INIT;
    const struct fallback_at at = { .at = crowd->at[road_of(crowd, number)],
                                    .host = crowd->hosts[host_of(number)],
                                    .redis = "timeout = \"150ms\";",
                                    .fallback =
                                        "probe_every = \"100ms\"; probe_most = \"800ms\";" };
    options.on_event = on_event;
    options.arg = &crowd->counts;
    options.log_level = BELAY_LOG_INFO;
    return fallback_try_open(&at, &options);
}

static int process_main(struct crowd *crowd, int number)
{
    struct worker workers[CROWD_THREADS];
    belay *client = client_of(crowd, number);
    if (client == NULL) return 2;
    for (int i = 0; i < CROWD_THREADS; i++) {
        int which = number * CROWD_THREADS + i;
        workers[i] =
            (struct worker){ .crowd = crowd,
                             .client = client,
                             .host = crowd->hosts[0] != crowd->hosts[1] ? host_of(number) : 0,
                             .number = which,
                             .dice = (unsigned)(clock_ms() + 7919 * which) };
        if (pthread_create(&workers[i].thread, NULL, work, &workers[i]) != 0) return 3;
    }
    for (int i = 0; i < CROWD_THREADS; i++) pthread_join(workers[i].thread, NULL);
    belay_close(client);
    struct crowd_counts *counts = &crowd->counts;
    if (counts->both + counts->fallen + counts->untrue + counts->odd + counts->astray > 0) {
        fprintf(stderr, "# log of process %d:\n", number);
        log_show();
    }
    return 0;
}

/* ------------------------------------------------------------------ the crowd */

/* Before there are threads: ThreadSanitizer knows no child of a parent that had some. */
static struct crowd *crowd_fork(const struct crowd_scene *scene)
{
    struct crowd *crowd =
        mmap(NULL, sizeof *crowd, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(crowd, MAP_FAILED);
    crowd->hosts[0] = &scene->host;
    crowd->hosts[1] = scene->two_hosts ? &scene->there : &scene->host;
    crowd->socket = scene->server.socket;
    fflush(NULL);
    for (int i = 0; i < CROWD_PROCESSES; i++) {
        pid_t parent = getpid(), pid = fork();
        assert_true(pid >= 0);
        if (pid > 0) {
            crowd->pids[i] = pid; /* by us alone: it is shared */
            continue;
        }
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent) _exit(1);
        signal(SIGPIPE, SIG_IGN); /* for hiredis in ask() */
        log_clear();
        while (!atomic_load(&crowd->begun)) until_pause();
        _exit(process_main(crowd, i));
    }
    return crowd;
}

static bool ended_well(pid_t *pid)
{
    int status = 0;
    while (waitpid(*pid, &status, 0) < 0)
        if (errno != EINTR) return false;
    *pid = 0;
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return true;
    fprintf(stderr, "# a process ended with status %x\n", (unsigned)status);
    return false;
}

static void show(const struct crowd_counts *c, const char *what)
{
    fprintf(stderr,
            "# %s: %d fleet, %d host, %d held, %d in doubt, %d lost; %d long ones, %d demoted, %d "
            "promoted; %d asked; %d degraded, %d recovered; %d tardy; at most %d ms late, back in "
            "%d ms\n",
            what, c->fleet, c->host, c->held, c->doubted, c->lost, c->long_ones, c->demoted,
            c->promoted, c->asked, c->degraded, c->recovered, c->tardy, c->late_ms, c->back_ms);
}

/* ------------------------------------------------------------------ the scene */

void crowd_begin(struct crowd_scene *scene, bool persist, bool even_relayed, bool odd_relayed)
{
    const struct server_options options = { .persist = persist,
                                            .extra = persist ? "appendfsync always\n" : NULL };
    assert_true(host_begin(&scene->host));
    if (scene->two_hosts) assert_true(host_begin(&scene->there));
    assert_true(server_start(&scene->server, &options));
    struct crowd *crowd = scene->crowd = crowd_fork(scene);
    const struct relay_options relay_options = { .to_port = scene->server.port };
    scene->relay = relay_start(&relay_options);
    assert_non_null(scene->relay);
    const char *relayed = at_relay(scene->relay), *direct = at_server(&scene->server);
    snprintf(crowd->at[0], sizeof crowd->at[0], "%s", even_relayed ? relayed : direct);
    snprintf(crowd->at[1], sizeof crowd->at[1], "%s", odd_relayed ? relayed : direct);
    atomic_store(&crowd->begun, true);
    belay_options held = BELAY_OPTIONS_INIT;
    held.ttl_ms = LONG_TTL_MS;
    scene->client = client_of(scene->crowd, 0);
    assert_non_null(scene->client);
    assert_status(belay_acquire(scene->client, "held", &held, &scene->held, NULL), BELAY_OK);
    assert_int_equal(belay_lock_scope(scene->held), BELAY_SCOPE_FLEET);
    crowd_await(scene, &scene->crowd->counts.fleet, 20);
}

struct crowd_counts *crowd_counts(struct crowd_scene *scene)
{
    return &scene->crowd->counts;
}

void crowd_server_forgets(struct crowd_scene *scene)
{
    atomic_fetch_add(&scene->crowd->epoch, 1);
}

void crowd_await(struct crowd_scene *scene, atomic_int *of, int more)
{
    int wanted = atomic_load(of) + more;
    bool came = until(atomic_load(of) >= wanted);
    if (!came) show(&scene->crowd->counts, "in vain");
    assert_true(came);
}

void crowd_await_held(struct crowd_scene *scene, belay_scope scope)
{
    assert_true(until(belay_lock_scope(scene->held) == scope));
    assert_true(belay_lock_valid(scene->held, 0));
}

void crowd_end(struct crowd_scene *scene, const char *what)
{
    struct crowd_counts *counts = &scene->crowd->counts;
    bool well = true;
    atomic_store(&scene->crowd->over, true);
    for (int i = 0; i < CROWD_PROCESSES; i++) well = ended_well(&scene->crowd->pids[i]) && well;
    belay_status released = belay_release(scene->held, NULL);
    scene->held = NULL;
    bool keys_gone = until(server_lock_keys(&scene->server, "belay:") == 0);
    bool rows_gone = until(host_rows(&scene->host) == 0);
    if (scene->two_hosts) rows_gone = until(host_rows(&scene->there) == 0) && rows_gone;
    show(counts, what);
    if (!keys_gone || !rows_gone)
        fprintf(stderr, "# left: %ld keys, %ld rows\n", server_lock_keys(&scene->server, "belay:"),
                host_rows(&scene->host));
    assert_true(well);
    assert_status(released, BELAY_OK);
    assert_int_equal(counts->both, 0);
    assert_int_equal(counts->fallen, 0);
    assert_int_equal(counts->untrue, 0);
    assert_int_equal(counts->odd, 0);
    if (!scene->two_hosts) assert_int_equal(counts->lost, 0);
    assert_int_equal(counts->astray, 0);
    assert_true(counts->late_ms < 3000 * until_slow());
    assert_true(keys_gone);
    assert_true(rows_gone);
    assert_true(counts->asked > 0 && counts->host > 0); /* something was tried */
}

void crowd_clear(struct crowd_scene *scene)
{
    struct crowd *crowd = scene->crowd;
    for (int i = 0; crowd != NULL && i < CROWD_PROCESSES; i++) {
        if (crowd->pids[i] <= 0) continue;
        kill(crowd->pids[i], SIGKILL);
        while (waitpid(crowd->pids[i], NULL, 0) < 0 && errno == EINTR) continue;
    }
    if (crowd != NULL) munmap(crowd, sizeof *crowd);
    scene->crowd = NULL;
    belay_close(scene->client);
    scene->client = NULL;
    relay_end(scene->relay);
    scene->relay = NULL;
    server_end(&scene->server);
    host_end(&scene->host);
    host_end(&scene->there);
    scene->two_hosts = false;
    log_clear();
}
