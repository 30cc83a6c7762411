/* fork.c - the page that a forked child finds empty.
 *
 * MADV_WIPEONFORK (Linux 4.14, madvise(2)) zeroes it in the child. Asking getpid on every call
 * would cost 190 ns. */
#include "core/client.h"

#include <sys/mman.h>

_Static_assert(sizeof(struct belay__page) == 4096, "one page");

struct belay__page *belay__page_new(void)
{
    struct belay__page *page =
        mmap(NULL, sizeof *page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED) return NULL;
    if (madvise(page, sizeof *page, MADV_WIPEONFORK) != 0) {
        munmap(page, sizeof *page);
        return NULL;
    }
    page->used = sizeof page->random;
    page->alive = 1;
    return page;
}

void belay__page_free(struct belay__page *page)
{
    if (page != NULL) munmap(page, sizeof *page);
}
