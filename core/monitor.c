/* monitor.c - the slow halves of the monitor: spin a little, then sleep; wake one. */
#include "core/monitor.h"

#include "core/futex.h"

#include <sched.h>

enum {
    LOCKED = BELAY__MONITOR_LOCKED,
    WAKING = BELAY__MONITOR_WAKING,
    SLEEPER = BELAY__MONITOR_SLEEPER,
    SPINS = 5
};

static void pause_times(int times)
{
    while (times-- > 0)
#if defined(__x86_64__) || defined(__i386__)
        __builtin_ia32_pause();
#else
        atomic_signal_fence(memory_order_seq_cst);
#endif
}

/* Takes one permit, sleeping until there is one. */
static void permit_take(struct belay__monitor *monitor)
{
    uint32_t permits = atomic_load_explicit(&monitor->permits, memory_order_relaxed);
    for (;;) {
        if (permits == 0) {
            belay__futex_wait(&monitor->permits, 0, NULL);
            permits = atomic_load_explicit(&monitor->permits, memory_order_relaxed);
        } else if (atomic_compare_exchange_weak_explicit(&monitor->permits, &permits, permits - 1,
                                                         memory_order_acquire,
                                                         memory_order_relaxed)) {
            return;
        }
    }
}

void belay__monitor_lock_slow(struct belay__monitor *monitor)
{
    uint32_t keep = ~(uint32_t)0; /* becomes ~WAKING once we are the one who was woken */
    uint32_t word = atomic_load_explicit(&monitor->word, memory_order_relaxed);
    int most = atomic_load_explicit(&monitor->patient, memory_order_relaxed) ? 0 : SPINS;
    for (int spins = 0;;) {
        if ((word & LOCKED) == 0) {
            if (atomic_compare_exchange_weak_explicit(&monitor->word, &word, (word | LOCKED) & keep,
                                                      memory_order_acquire, memory_order_relaxed))
                return;
        } else if (spins < most) {
            pause_times(256 << spins++); /* seldom: each look takes the line from the holder */
            word = atomic_load_explicit(&monitor->word, memory_order_relaxed);
        } else if (atomic_compare_exchange_weak_explicit(&monitor->word, &word,
                                                         (word + SLEEPER) & keep,
                                                         memory_order_relaxed,
                                                         memory_order_relaxed)) {
            permit_take(monitor);
            keep = ~(uint32_t)WAKING;
            spins = 0;
            word = atomic_load_explicit(&monitor->word, memory_order_relaxed);
        }
    }
}

void belay__monitor_unlock_slow(struct belay__monitor *monitor)
{
    uint32_t word = atomic_load_explicit(&monitor->word, memory_order_relaxed), next;
    bool wake;
    do {
        wake = word >= SLEEPER && (word & WAKING) == 0; /* one at a time */
        next = wake ? ((word - LOCKED - SLEEPER) | WAKING) : word - LOCKED;
    } while (!atomic_compare_exchange_weak_explicit(&monitor->word, &word, next,
                                                    memory_order_release, memory_order_relaxed));
    if (!wake) return;
    atomic_fetch_add_explicit(&monitor->permits, 1, memory_order_release);
    belay__futex_wake(&monitor->permits, 1);
}

void belay__monitor_drain(struct belay__monitor *monitor)
{
    while (atomic_load_explicit(&monitor->word, memory_order_relaxed) != LOCKED) {
        belay__monitor_unlock(monitor);
        sched_yield();
        belay__monitor_lock(monitor);
    }
}
