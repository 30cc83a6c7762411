/* futex.h - sleep on a word, wake who sleeps there. Private to the process. */
#ifndef BELAY_CORE_FUTEX_H
#define BELAY_CORE_FUTEX_H

#include <linux/futex.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* Returns when woken, at once when *word is not `expected`, or for no reason. errno is left alone
 * by the callers' contract: belay sets none, so it is saved by the entry points that sleep. */
static inline void belay__futex_wait(_Atomic uint32_t *word, uint32_t expected,
                                     const struct timespec *timeout)
{
    (void)syscall(SYS_futex, (void *)word, FUTEX_WAIT_PRIVATE, expected, timeout, NULL, 0);
}

/* The memory may be gone: only its address is used. */
static inline void belay__futex_wake(_Atomic uint32_t *word, int count)
{
    (void)syscall(SYS_futex, (void *)word, FUTEX_WAKE_PRIVATE, count, NULL, NULL, 0);
}

#endif
