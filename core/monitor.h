/* monitor.h - the one lock of a client. Backend code and all of core's state live under it.
 *
 * A futex with two bits and barging: a thread that is running may take it before one that was
 * woken, and no second sleeper is woken while a first one is on its way (a "designated waker"). So
 * a burst of short critical sections on few processors costs one wake for many of them, where a
 * plain mutex would pay one system call each. The sections are microseconds, so nobody waits long.
 *
 * It may be destroyed by a thread that holds it, has drained it, and unlocks it, when no other will
 * lock it again: an unlocker lets go and names whom it wakes in one atomic operation. After that it
 * adds a permit, which the woken one needs before it can clear WAKING, and then uses the address
 * alone. */
#ifndef BELAY_CORE_MONITOR_H
#define BELAY_CORE_MONITOR_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct belay__monitor {
    _Atomic uint32_t word;    /* LOCKED | WAKING | sleepers * SLEEPER */
    _Atomic uint32_t permits; /* wakes that no sleeper has taken yet: what they sleep on */
    _Atomic bool patient;     /* its sections are long: nobody spins */
};

enum { BELAY__MONITOR_LOCKED = 1, BELAY__MONITOR_WAKING = 2, BELAY__MONITOR_SLEEPER = 4 };

void belay__monitor_lock_slow(struct belay__monitor *monitor);
void belay__monitor_unlock_slow(struct belay__monitor *monitor);
/* Entered and left with the monitor held: until nobody sleeps on it or was woken from it. For who
 * destroys it. */
void belay__monitor_drain(struct belay__monitor *monitor);

static inline void belay__monitor_lock(struct belay__monitor *monitor)
{
    uint32_t free_word = 0;
    if (!atomic_compare_exchange_strong_explicit(&monitor->word, &free_word, BELAY__MONITOR_LOCKED,
                                                 memory_order_acquire, memory_order_relaxed))
        belay__monitor_lock_slow(monitor);
}

static inline void belay__monitor_unlock(struct belay__monitor *monitor)
{
    uint32_t alone = BELAY__MONITOR_LOCKED;
    if (!atomic_compare_exchange_strong_explicit(&monitor->word, &alone, 0, memory_order_release,
                                                 memory_order_relaxed))
        belay__monitor_unlock_slow(monitor);
}

#endif
