/* until.h - waiting for a condition with a deadline, as no sleep decides a test. */
#ifndef BELAY_TESTS_LIVE_UNTIL_H
#define BELAY_TESTS_LIVE_UNTIL_H

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <time.h>

#define UNTIL_MS 20000 /* in vain this long: the test has failed */

static inline int64_t until_now_us(void)
{
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return (int64_t)at.tv_sec * 1000000 + at.tv_nsec / 1000;
}

static inline int64_t until_now_ms(void)
{
    return until_now_us() / 1000;
}

static inline void until_pause(void)
{
    struct timespec moment = { .tv_nsec = 300000 };
    nanosleep(&moment, NULL);
}

/* Sanitizers slow everything down: bounds on time are to be multiplied by this. */
static inline int until_slow(void)
{
    const char *sanitize = getenv("BELAY_SANITIZE");
    return sanitize != NULL && sanitize[0] != '\0' ? 5 : 1;
}

/* True as soon as `condition` is; false when it was not for `ms` milliseconds. */
#define until_within(ms, condition)                                                                \
    __extension__({                                                                                \
        int64_t until_end = until_now_ms() + (ms);                                                 \
        bool until_seen;                                                                           \
        while (!(until_seen = (condition)) && until_now_ms() < until_end) until_pause();           \
        until_seen;                                                                                \
    })
#define until(condition) until_within(UNTIL_MS, condition)

#endif
