/* clock.c - the real world: CLOCK_BOOTTIME, the wall clock, getrandom; or the one the program gave.
 */
#include "core/loop.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

int64_t belay__clock_now(belay_world *world)
{
    if (world != NULL) return world->now(world);
    struct timespec now;
    clock_gettime(CLOCK_BOOTTIME, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

int64_t belay__clock_wall_us(belay_world *world)
{
    if (world != NULL) return world->wall(world);
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

void belay__clock_random(belay_world *world, void *out, size_t length)
{
    if (world != NULL) {
        world->random(world, out, length);
        return;
    }
    char *to = out;
    while (length > 0) {
        /* Blocks only until the kernel's pool is first filled, at boot. Other failures do not exist
         * (random(7)). */
        ssize_t got = getrandom(to, length < 256 ? length : 256, 0);
        if (got <= 0) continue;
        to += got;
        length -= (size_t)got;
    }
}

int belay__fd_high(int fd)
{
    if (fd < 0 || fd > 2) return fd;
    int high = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    close(fd);
    return high;
}
