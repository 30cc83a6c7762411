/* run.c - the conformance suite: which promises there are, which way each is run, and the TAP. */
#define _POSIX_C_SOURCE 200809L
#include "scene.h"

#include <fnmatch.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { HANG_S = 120 };

static const struct topic topics[] = {
    { "exclusion", belay__contract_exclusion }, { "waiting", belay__contract_waiting },
    { "canceling", belay__contract_canceling }, { "leases", belay__contract_leases },
    { "keeping", belay__contract_keeping },     { "tokens", belay__contract_tokens },
    { "callbacks", belay__contract_callbacks }, { "names", belay__contract_names },
    { "looking", belay__contract_looking },     { "closing", belay__contract_closing },
    { "failure", belay__contract_failure },     { "stress", belay__contract_stress },
};
enum { TOPICS = sizeof topics / sizeof topics[0] };

/* A promise in one of its ways. */
struct turn {
    const struct promise *promise;
    const char *title; /* "topic/promise" */
    unsigned how;      /* one of ON_*, STARTED or not, FLOWS */
};

struct run {
    const belay_contract_target *target;
    FILE *tap;
    belay_fake_world *world;
    unsigned number, failed, skipped;
    /* The watchdog's. */
    pthread_mutex_t lock;
    pthread_cond_t over;
    const char *title; /* what runs now; NULL: the suite is over */
    unsigned turn;
};

/* ------------------------------------------------------------------ which, and how */

static const char *why_not(const belay_contract_target *target, const struct turn *turn)
{
    unsigned needs = turn->promise->how;
    if ((needs & CLOCK) != 0 && target->real_time) return "needs a clock that can be turned";
    if ((needs & PROMPT) != 0 && target->late && (turn->how & ON_THREADS) != 0)
        return "needs operations that take no time";
    if ((needs & FENCING) != 0 && !target->fencing) return "no fencing tokens";
    if ((needs & INSPECT) != 0 && !target->inspects) return "cannot inspect";
    if ((needs & LIST) != 0 && !target->lists) return "cannot list";
    if ((needs & BREAK) != 0 && !target->breaks) return "cannot break";
    if ((needs & WAKES) != 0 && !target->wakes) return "does not wake waiters";
    if ((needs & PREFIXES) != 0 && !target->prefixes) return "opens no other prefix";
    if ((needs & STOP) != 0 && (target->stop == NULL || target->cont == NULL))
        return "cannot be stopped";
    return NULL;
}

/* Calls `each` for every turn that `only` selects. Returns how many. */
static unsigned each_turn(const char *only, void (*each)(void *arg, const struct turn *turn),
                          void *arg)
{
    static const unsigned ways[] = { ON_THREADS, ON_THREADS | STARTED, ON_DISPATCH,
                                     ON_DISPATCH | STARTED };
    unsigned count = 0;
    for (size_t t = 0; t < TOPICS; t++) {
        for (const struct promise *p = topics[t].promises; p->name != NULL; p++) {
            char title[160];
            snprintf(title, sizeof title, "%s/%s", topics[t].name, p->name);
            if (only != NULL && fnmatch(only, title, 0) != 0) continue;
            for (size_t w = 0; w < sizeof ways / sizeof ways[0]; w++) {
                if ((ways[w] & p->how) != ways[w]) continue;
                struct turn turn = { p, title, ways[w] | (p->how & FLOWS) };
                each(arg, &turn);
                count++;
            }
        }
    }
    return count;
}

static void count_turn(void *arg, const struct turn *turn)
{
    (void)arg;
    (void)turn;
}

static const char *way_name(unsigned how)
{
    if ((how & ON_DISPATCH) != 0) return (how & STARTED) != 0 ? "dispatch, started" : "dispatch";
    return (how & STARTED) != 0 ? "threads, started" : "threads";
}

/* ------------------------------------------------------------------ the watchdog */

static void *watchdog_run(void *arg)
{
    struct run *run = arg;
    pthread_mutex_lock(&run->lock);
    while (run->title != NULL) {
        unsigned turn = run->turn;
        struct timespec end;
        clock_gettime(CLOCK_REALTIME, &end);
        end.tv_sec += HANG_S;
        while (run->title != NULL && run->turn == turn)
            if (pthread_cond_timedwait(&run->over, &run->lock, &end) != 0) break;
        if (run->title == NULL || run->turn != turn) continue;
        fprintf(run->tap, "Bail out! %s has not ended after %d seconds\n", run->title, HANG_S);
        fflush(run->tap);
        abort();
    }
    pthread_mutex_unlock(&run->lock);
    return NULL;
}

static void watchdog_see(struct run *run, const char *title)
{
    pthread_mutex_lock(&run->lock);
    run->title = title;
    run->turn++;
    pthread_cond_signal(&run->over);
    pthread_mutex_unlock(&run->lock);
}

/* ------------------------------------------------------------------ a turn */

static void print_why(FILE *tap, const char *why)
{
    fputs("# ", tap);
    for (; *why != '\0'; why++) fputs(*why == '\n' ? "\n# " : (char[]){ *why, '\0' }, tap);
    fputc('\n', tap);
}

static void take_turn(void *arg, const struct turn *turn)
{
    struct run *run = arg;
    const char *skip = why_not(run->target, turn);
    struct scene s;
    run->number++;
    if (skip == NULL) {
        watchdog_see(run, turn->title);
        if (!scene_begin(&s, run->target, run->world, turn->how, run->number))
            must(&s, false, "out of threads");
        turn->promise->keep(&s);
        scene_end(&s);
        if (s.skipped && !atomic_load(&s.failed)) skip = s.why;
    }
    bool failed = skip == NULL && atomic_load(&s.failed);
    fprintf(run->tap, "%s %u - %s: %s [%s]%s%s\n", failed ? "not ok" : "ok", run->number,
            run->target->name, turn->title, way_name(turn->how), skip != NULL ? " # SKIP " : "",
            skip != NULL ? skip : "");
    if (failed) print_why(run->tap, s.why);
    fflush(run->tap);
    run->failed += failed;
    run->skipped += skip != NULL;
}

/* ------------------------------------------------------------------ the suite */

int belay_contract_run(const belay_contract_target *given, FILE *tap)
{
    belay_contract_target target = { 0 };
    if (given == NULL || given->size == 0 || given->size > sizeof target || tap == NULL) return -1;
    memcpy(&target, given, given->size);
    if (target.name == NULL || (target.open == NULL && target.where == NULL)) return -1;
    struct run run = { .target = &target, .tap = tap, .title = "" };
    unsigned planned = each_turn(target.only, count_turn, NULL);
    if (planned == 0) return -1;
    if (!target.real_time && (run.world = belay_fake_create(1)) == NULL) return -1;
    pthread_mutex_init(&run.lock, NULL);
    pthread_cond_init(&run.over, NULL);
    pthread_t watchdog;
    bool watched = pthread_create(&watchdog, NULL, watchdog_run, &run) == 0;

    fprintf(tap, "1..%u\n", planned);
    each_turn(target.only, take_turn, &run);
    fprintf(tap, "# %s: %u passed, %u failed, %u skipped\n", target.name,
            run.number - run.failed - run.skipped, run.failed, run.skipped);
    fflush(tap);

    watchdog_see(&run, NULL);
    if (watched) pthread_join(watchdog, NULL);
    pthread_cond_destroy(&run.over);
    pthread_mutex_destroy(&run.lock);
    belay_fake_destroy(run.world);
    return (int)run.failed;
}

void belay_contract_promises(void (*each)(void *arg, const char *promise), void *arg)
{
    for (size_t t = 0; t < TOPICS; t++) {
        for (const struct promise *p = topics[t].promises; p->name != NULL; p++) {
            char title[160];
            snprintf(title, sizeof title, "%s/%s", topics[t].name, p->name);
            each(arg, title);
        }
    }
}
