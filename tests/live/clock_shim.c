/* clock_shim.c - preloaded into a redis-server: its wall clock is stepped by what the file
 * $BELAY_TEST_FOLDER/clock holds, an int64_t of microseconds that the test changes through a
 * mapping. The monotonic clock is left alone, as a real step leaves it. (libfaketime cannot be
 * preloaded there.)
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static _Atomic int64_t none;
static _Atomic int64_t *step = &none;

__attribute__((constructor)) static void begin(void)
{
    const char *folder = getenv("BELAY_TEST_FOLDER");
    char path[512];
    snprintf(path, sizeof path, "%s/clock", folder != NULL ? folder : ".");
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return;
    void *memory = mmap(NULL, sizeof *step, PROT_READ, MAP_SHARED, fd, 0);
    close(fd);
    if (memory != MAP_FAILED) step = memory;
}

static int64_t wall_us(void)
{
    struct timespec at;
    syscall(SYS_clock_gettime, CLOCK_REALTIME, &at);
    return (int64_t)at.tv_sec * 1000000 + at.tv_nsec / 1000 + atomic_load(step);
}

int clock_gettime(clockid_t clock, struct timespec *out)
{
    if (clock != CLOCK_REALTIME && clock != CLOCK_REALTIME_COARSE)
        return (int)syscall(SYS_clock_gettime, clock, out);
    int64_t now = wall_us();
    out->tv_sec = now / 1000000;
    out->tv_nsec = now % 1000000 * 1000;
    return 0;
}

int gettimeofday(struct timeval *restrict out, void *restrict zone)
{
    int64_t now = wall_us();
    (void)zone;
    out->tv_sec = now / 1000000;
    out->tv_usec = now % 1000000;
    return 0;
}

time_t time(time_t *out)
{
    time_t now = wall_us() / 1000000;
    if (out != NULL) *out = now;
    return now;
}
