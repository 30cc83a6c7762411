/* loop.c - whoever waits, leads.
 *
 * A blocked caller that finds nobody polling becomes the leader: it sleeps in epoll with the
 * monitor let go, works with it held, ends the waiting of those whose ops settled, and hands the
 * lead to one of them that still sleeps on its way out. The others sleep on a futex of their own
 * and read their answer without entering the monitor again. The shape is libxcb's, where threads
 * take turns at reading one connection.
 *
 * Lost wake-ups are impossible by two rules: `polling` is set before the monitor is let go, so who
 * makes work afterwards kicks the eventfd; and whoever leaves the monitor with the lead vacant
 * passes it on. */
#include "core/loop.h"

#include "core/futex.h"

#include <errno.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

enum { EVENTS = 64, BATCH_NS = 1000000 };
static const uint32_t TIMER_SLOT = 0xffffffffu, WAKE_SLOT = 0xfffffffeu;

/* ------------------------------------------------------------------ descriptors */

static void fd_signal(int fd)
{
    uint64_t one = 1;
    ssize_t ignored = write(fd, &one, sizeof one); /* full means signalled already */
    (void)ignored;
}

static void fd_drain(int fd)
{
    uint64_t count;
    ssize_t ignored = read(fd, &count, sizeof count);
    (void)ignored;
}

static int watch_fd(int epoll_fd, int fd, uint32_t slot)
{
    struct epoll_event event = { .events = EPOLLIN, .data.u64 = slot };
    return epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event);
}

static void world_kicked(void *arg)
{
    struct belay__loop *loop = arg;
    fd_signal(loop->wake_fd);
    if (loop->engine_fd >= 0) fd_signal(loop->engine_fd);
}

belay_status belay__loop_init(struct belay__loop *loop, belay_world *world, belay_threads threads)
{
    loop->world = world;
    loop->threads = threads == BELAY_THREADS;
    loop->worker_allowed = threads != BELAY_DISPATCH;
    loop->turns_clock = loop->threads ? BELAY__TURNS_NEVER : BELAY__TURNS_WITHOUT_JOBS;
    loop->armed_ns = INT64_MAX;
    belay_links_init(&loop->settled);
    belay_links_init(&loop->deferred);
    belay_links_init(&loop->tasks);
    belay_links_init(&loop->pokes);
    belay_links_init(&loop->sleepers);
    belay_links_init(&loop->calls);
    loop->outer = loop->call_fd = loop->engine_fd = -1;

    loop->inner = belay__fd_high(epoll_create1(EPOLL_CLOEXEC));
    loop->timer_fd = belay__fd_high(timerfd_create(CLOCK_BOOTTIME, TFD_CLOEXEC | TFD_NONBLOCK));
    loop->wake_fd = belay__fd_high(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    bool ok = loop->inner >= 0 && loop->timer_fd >= 0 && loop->wake_fd >= 0 &&
              watch_fd(loop->inner, loop->timer_fd, TIMER_SLOT) == 0 &&
              watch_fd(loop->inner, loop->wake_fd, WAKE_SLOT) == 0;
    if (ok && !loop->threads) {
        loop->outer = belay__fd_high(epoll_create1(EPOLL_CLOEXEC));
        loop->call_fd = belay__fd_high(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
        ok = loop->outer >= 0 && loop->call_fd >= 0 && watch_fd(loop->outer, loop->inner, 0) == 0 &&
             watch_fd(loop->outer, loop->call_fd, 1) == 0;
    } else if (ok) {
        loop->engine_fd = belay__fd_high(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
        ok = loop->engine_fd >= 0;
    }
    if (ok && world != NULL && world->attach != NULL) {
        ok = world->attach(world, world_kicked, loop) == BELAY_OK;
        loop->attached = ok;
    }
    if (ok) return BELAY_OK;
    belay__loop_fini(loop);
    return BELAY_NOMEM;
}

void belay__loop_close_fds(struct belay__loop *loop)
{
    int fds[] = { loop->inner,   loop->outer,   loop->timer_fd,
                  loop->wake_fd, loop->call_fd, loop->engine_fd };
    for (size_t i = 0; i < sizeof fds / sizeof fds[0]; i++)
        if (fds[i] >= 0) close(fds[i]);
    loop->inner = loop->outer = loop->timer_fd = loop->wake_fd = loop->call_fd = loop->engine_fd =
        -1;
}

void belay__loop_stop(struct belay__loop *loop)
{
    belay__engine_stop(loop);
    belay__call_stop(loop);
}

void belay__loop_fini(struct belay__loop *loop)
{
    if (loop->attached && loop->world->detach != NULL)
        loop->world->detach(loop->world, world_kicked, loop);
    loop->attached = false;
    belay__loop_close_fds(loop);
    belay__free(loop->slots);
    loop->slots = NULL;
    loop->slot_count = 0;
}

/* ------------------------------------------------------------------ watches */

static uint64_t slot_tag(const struct belay__loop *loop, uint32_t slot)
{
    return (uint64_t)loop->slots[slot - 1].generation << 32 | slot;
}

static bool slots_grow(struct belay__loop *loop)
{
    uint32_t count = loop->slot_count != 0 ? loop->slot_count * 2 : 8;
    struct belay__slot *slots = belay__alloc(loop->world, count * sizeof *slots);
    if (slots == NULL) return false;
    if (loop->slot_count != 0) memcpy(slots, loop->slots, loop->slot_count * sizeof *slots);
    struct belay__slot *old = loop->slots;
    loop->slots = slots; /* a child forked amid this finds a table */
    loop->slot_count = count;
    belay__free(old);
    return true;
}

belay_status belay__watch_add(struct belay__loop *loop, belay_watch *watch, int fd, uint32_t events,
                              belay_watch_fn *fn)
{
    uint32_t slot = 1;
    while (slot <= loop->slot_count && loop->slots[slot - 1].watch != NULL) slot++;
    if (slot > loop->slot_count && !slots_grow(loop)) return BELAY_NOMEM;
    struct epoll_event event = { .events = events, .data.u64 = slot_tag(loop, slot) };
    if (epoll_ctl(loop->inner, EPOLL_CTL_ADD, fd, &event) != 0) return BELAY_NOMEM;
    loop->slots[slot - 1].watch = watch;
    *watch = (belay_watch){ .fn = fn, .fd = fd, .events = events, .slot = slot };
    return BELAY_OK;
}

belay_status belay__watch_change(struct belay__loop *loop, belay_watch *watch, uint32_t events)
{
    if (watch->slot == 0) return BELAY_INVALID;
    if (watch->events == events) return BELAY_OK;
    struct epoll_event event = { .events = events, .data.u64 = slot_tag(loop, watch->slot) };
    if (epoll_ctl(loop->inner, EPOLL_CTL_MOD, watch->fd, &event) != 0) return BELAY_NOMEM;
    watch->events = events;
    return BELAY_OK;
}

void belay__watch_remove(struct belay__loop *loop, belay_watch *watch)
{
    if (watch->slot == 0) return;
    struct epoll_event event = { .events = 0 };
    epoll_ctl(loop->inner, EPOLL_CTL_DEL, watch->fd, &event);
    /* An event of this watch may lie in a leader's hands already: the generation makes it stale. */
    loop->slots[watch->slot - 1].watch = NULL;
    loop->slots[watch->slot - 1].generation++;
    watch->slot = 0;
}

static void events_handle(struct belay__loop *loop, const struct epoll_event *events, int count)
{
    for (int i = 0; i < count; i++) {
        uint32_t slot = (uint32_t)events[i].data.u64;
        if (slot == TIMER_SLOT) {
            fd_drain(loop->timer_fd);
            loop->armed_ns = INT64_MAX;
        } else if (slot == WAKE_SLOT) {
            /* A leader that sleeps beside this look (belay_dispatch) may be the one who was meant.
             */
            if (!loop->polling) fd_drain(loop->wake_fd);
        } else if (slot <= loop->slot_count && slot_tag(loop, slot) == events[i].data.u64) {
            belay_watch *watch = loop->slots[slot - 1].watch;
            if (watch != NULL) watch->fn(watch, events[i].events);
        }
    }
}

/* ------------------------------------------------------------------ work */

static belay_link *links_pop(belay_link *head)
{
    if (belay_links_empty(head)) return NULL;
    belay_link *first = head->next;
    belay_unlink(first);
    return first;
}

void belay__loop_unwind(struct belay__loop *loop)
{
    for (;;) {
        belay_link *link;
        if ((link = links_pop(&loop->settled)) != NULL)
            belay__op_finish(belay_container_of(link, belay_op, settled));
        else if ((link = links_pop(&loop->deferred)) != NULL)
            belay_container_of(link, belay_task, link)
                ->fn(belay_container_of(link, belay_task, link));
        else return;
    }
}

static void pokes_run(struct belay__loop *loop)
{
    if (atomic_exchange_explicit(&loop->poked, 0, memory_order_acquire) == 0) return;
    /* One popped at a time: a poke may end any of them. */
    belay_link todo = loop->pokes;
    if (belay_links_empty(&loop->pokes)) return;
    todo.next->prev = todo.prev->next = &todo;
    belay_links_init(&loop->pokes);
    for (belay_link *link; (link = links_pop(&todo)) != NULL;) {
        belay_poke *poke = belay_container_of(link, belay_poke, link);
        belay_link_append(&loop->pokes, link);
        if (__atomic_exchange_n(&poke->raised, 0, __ATOMIC_ACQ_REL) != 0) poke->fn(poke);
    }
}

static void timers_run(struct belay__loop *loop)
{
    if (loop->timers == NULL) return;
    int64_t now = belay__loop_now(loop);
    while (loop->timers != NULL && loop->timers->due_ns <= now) {
        belay_timer *timer = loop->timers;
        belay__timer_remove(&loop->timers, timer);
        timer->fn(timer);
        belay__loop_unwind(loop);
    }
}

void belay__loop_work(struct belay__loop *loop)
{
    loop->batch_ns = 0;
    do {
        pokes_run(loop);
        /* Before the timers: what is late is sent before it is given up. */
        belay_link *link;
        while ((link = links_pop(&loop->tasks)) != NULL)
            belay_container_of(link, belay_task, link)
                ->fn(belay_container_of(link, belay_task, link));
        timers_run(loop);
        belay__loop_unwind(loop);
    } while (!belay_links_empty(&loop->tasks) ||
             atomic_load_explicit(&loop->poked, memory_order_relaxed) != 0);
}

static void timer_fd_arm(struct belay__loop *loop)
{
    if (loop->world != NULL || loop->timers == NULL || loop->timers->due_ns >= loop->armed_ns)
        return;
    int64_t due = loop->timers->due_ns > 0 ? loop->timers->due_ns : 1;
    struct itimerspec at = { .it_value = { .tv_sec = due / 1000000000,
                                           .tv_nsec = due % 1000000000 } };
    timerfd_settime(loop->timer_fd, TFD_TIMER_ABSTIME, &at, NULL);
    loop->armed_ns = due;
}

void belay__loop_kick(struct belay__loop *loop)
{
    if (!loop->polling || loop->kicked) return;
    loop->kicked = true;
    fd_signal(loop->wake_fd);
}

/* ------------------------------------------------------------------ leaving */

static void wake_later(struct belay__loop *loop, _Atomic uint32_t *futex)
{
    if (loop->wake_count == sizeof loop->wakes / sizeof loop->wakes[0]) {
        belay__futex_wake(futex, 1);
        return;
    }
    loop->wakes[loop->wake_count++] = futex;
}

void belay__loop_unlock(struct belay__loop *loop)
{
    _Atomic uint32_t *wakes[sizeof loop->wakes / sizeof loop->wakes[0]];
    uint32_t count = loop->wake_count;
    for (uint32_t i = 0; i < count; i++) wakes[i] = loop->wakes[i];
    loop->wake_count = 0;
    int was = loop->inside_errno, cancelable = loop->inside_cancelable;
    belay__monitor_unlock(&loop->monitor);
    for (uint32_t i = 0; i < count; i++) belay__futex_wake(wakes[i], 1);
    errno = was;
    pthread_setcancelstate(cancelable, NULL);
}

/* The lead is vacant: one who sleeps takes it. It is only asked: who runs already may be quicker.
 */
static void lead_pass(struct belay__loop *loop)
{
    if (loop->elected != NULL) return;
    belay_link *link = links_pop(&loop->sleepers);
    if (link == NULL) {
        if (loop->engine_alert && (belay__loop_unattended(loop) || loop->engine_blind))
            belay__engine_kick(loop);
        return;
    }
    struct belay__waiter *waiter = belay_container_of(link, struct belay__waiter, link);
    waiter->asleep = false;
    loop->elected = waiter;
    atomic_store_explicit(&waiter->state, BELAY__LEAD, memory_order_release);
    wake_later(loop, &waiter->state);
}

/* Inside a callback of belay_dispatch, and others wait for their turn: what they begin as well
 * leaves with it, when the last of them returns; or in between, when they take their time. */
static bool batches(struct belay__loop *loop)
{
    if (loop->dispatching == 0 || belay_links_empty(&loop->calls) || !belay__call_inside(loop))
        return false;
    int64_t now = belay__loop_now(loop);
    if (loop->batch_ns == 0) loop->batch_ns = now;
    return now - loop->batch_ns < BATCH_NS;
}

void belay__loop_leave(struct belay__loop *loop)
{
    belay__loop_unwind(loop);
    if (!belay_links_empty(&loop->tasks)) {
        if (loop->leader != NULL) belay__loop_kick(loop);
        else if (!batches(loop)) belay__loop_work(loop);
    }
    timer_fd_arm(loop);
    if (loop->leader == NULL) lead_pass(loop);
    belay__loop_unlock(loop);
}

/* ------------------------------------------------------------------ leading */

static bool may_turn(const struct belay__loop *loop)
{
    if (loop->turns_clock == BELAY__TURNS_WITHOUT_JOBS) return loop->jobs == 0;
    return loop->turns_clock == BELAY__TURNS_ALWAYS;
}

/* Sleeps until something happens (or, not `block`, looks), and handles it. The monitor is held
 * before and after. */
static void poll_once(struct belay__loop *loop, bool block)
{
    struct epoll_event events[EVENTS];
    timer_fd_arm(loop);
    int64_t due = loop->timers != NULL ? loop->timers->due_ns : INT64_MAX;
    bool turns = block && loop->world != NULL && loop->world->wait != NULL && may_turn(loop);
    if (block) loop->polling = true; /* a look must not hide a leader that sleeps */
    belay__loop_unlock(loop);
    int count = epoll_wait(loop->inner, events, EVENTS, block && !turns ? -1 : 0);
    if (turns && count == 0 && !loop->world->wait(loop->world, due))
        count = epoll_wait(loop->inner, events, EVENTS, -1);
    belay__loop_enter(loop);
    if (block) loop->polling = loop->kicked = false;
    events_handle(loop, events, count);
}

static bool is_done(struct belay__waiter *waiter)
{
    return atomic_load_explicit(&waiter->state, memory_order_acquire) == BELAY__DONE;
}

static void lead(struct belay__loop *loop, struct belay__waiter *waiter)
{
    loop->leader = waiter;
    loop->leads++;
    if (loop->elected == waiter) loop->elected = NULL;
    belay__loop_work(loop);
    while (!is_done(waiter)) {
        poll_once(loop, true);
        belay__loop_work(loop);
    }
    loop->leader = NULL;
}

bool belay__loop_lead_for_engine(struct belay__loop *loop)
{
    loop->leader = loop;
    belay__loop_work(loop);
    while (!loop->wanted && !loop->engine_stop && belay__loop_unattended(loop)) {
        poll_once(loop, true);
        belay__loop_work(loop);
    }
    bool asked = loop->wanted;
    loop->leader = NULL;
    loop->wanted = false;
    return asked;
}

void belay__loop_poll(struct belay__loop *loop)
{
    poll_once(loop, false);
    belay__loop_work(loop);
}

/* Sleeps as a follower. True: it is done, and the monitor was not entered again. */
static bool follow(struct belay__loop *loop, struct belay__waiter *waiter)
{
    if (loop->elected == waiter) loop->elected = NULL;
    if (loop->leader == loop && !loop->wanted) {
        loop->wanted = true;
        belay__loop_kick(loop);
    }
    waiter->asleep = true;
    belay_link_append(&loop->sleepers, &waiter->link);
    belay__loop_leave(loop);
    while (atomic_load_explicit(&waiter->state, memory_order_acquire) == BELAY__RUNNING)
        belay__futex_wait(&waiter->state, BELAY__RUNNING, NULL);
    uint32_t asked = BELAY__LEAD;
    if (!atomic_compare_exchange_strong_explicit(&waiter->state, &asked, BELAY__RUNNING,
                                                 memory_order_acquire, memory_order_acquire))
        return true;
    belay__loop_enter(loop);
    return false;
}

void belay__loop_wait(struct belay__loop *loop, struct belay__waiter *waiter)
{
    waiter->inside = true;
    loop->inside++;
    while (!is_done(waiter)) {
        if (loop->leader == NULL) lead(loop, waiter);
        else if (follow(loop, waiter)) return;
    }
    if (loop->elected == waiter) loop->elected = NULL;
    loop->inside--;
    belay__loop_leave(loop);
}

void belay__loop_complete(struct belay__loop *loop, struct belay__waiter *waiter)
{
    bool asleep = waiter->asleep, inside = waiter->inside;
    if (asleep) {
        belay_unlink(&waiter->link);
        waiter->asleep = false;
    }
    if (loop->elected == waiter) loop->elected = NULL;
    if (loop->leader == waiter)
        belay__loop_kick(loop); /* it may sleep in epoll, and this not be its thread */
    /* From here on its owner may return and its memory be gone: the address alone is used. */
    uint32_t was = atomic_exchange_explicit(&waiter->state, BELAY__DONE, memory_order_acq_rel);
    if (asleep) wake_later(loop, &waiter->state);
    if (inside && (asleep || was == BELAY__LEAD)) loop->inside--;
}
