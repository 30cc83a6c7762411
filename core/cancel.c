/* cancel.c - something that ends calls early: one eventfd, given to any number of calls.
 *
 * A client watches it while a call that was given it is under way, so that firing needs nothing but
 * a write. */
#include "core/client.h"

#include <sys/eventfd.h>
#include <unistd.h>

struct belay_cancel {
    int fd;
    _Atomic bool fired;
};

/* One client's watch of one cancel, shared by its calls. */
struct belay__cancel_watch {
    belay_watch watch;
    belay_cancel *cancel;
    belay *client;
    belay_link link;
    belay_link requests;
    bool firing;
};

belay_cancel *belay_cancel_new(void)
{
    belay_cancel *cancel = calloc(1, sizeof *cancel);
    if (cancel == NULL) return NULL;
    cancel->fd = belay__fd_high(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (cancel->fd >= 0) return cancel;
    free(cancel);
    return NULL;
}

void belay_cancel_fire(belay_cancel *cancel)
{
    if (cancel == NULL) return;
    uint64_t one = 1;
    int was = errno; /* of what a signal interrupted */
    atomic_store(&cancel->fired, true);
    ssize_t ignored = write(cancel->fd, &one, sizeof one);
    (void)ignored;
    errno = was;
}

void belay_cancel_free(belay_cancel *cancel)
{
    if (cancel == NULL) return;
    close(cancel->fd);
    free(cancel);
}

bool belay__cancel_fired(const belay_cancel *cancel)
{
    return cancel != NULL && atomic_load(&cancel->fired);
}

static void watch_free_if_unused(struct belay__cancel_watch *watch)
{
    if (watch->firing || !belay_links_empty(&watch->requests)) return;
    belay__watch_remove(&watch->client->loop, &watch->watch);
    belay_unlink(&watch->link);
    belay__free(watch);
}

static void fired(belay_watch *watch, uint32_t events)
{
    (void)events;
    struct belay__cancel_watch *cancel =
        belay_container_of(watch, struct belay__cancel_watch, watch);
    /* It stays readable for good: do not watch it any more. The last request's end frees this. */
    belay__watch_remove(&cancel->client->loop, watch);
    cancel->firing = true;
    for (belay_link *link = cancel->requests.next, *next; link != &cancel->requests; link = next) {
        next = link->next; /* ending one ends no other */
        belay__request_end(belay_container_of(link, belay_request, cancel_link), BELAY_CANCELED,
                           "canceled by the caller");
    }
    cancel->firing = false;
    watch_free_if_unused(cancel);
}

bool belay__cancel_owns(const belay_watch *watch)
{
    return watch->fn == fired;
}

belay_status belay__cancel_watch(belay_request *request)
{
    belay *client = request->client;
    struct belay__cancel_watch *watch = NULL;
    for (belay_link *link = client->cancels.next; link != &client->cancels && watch == NULL;
         link = link->next) {
        struct belay__cancel_watch *at = belay_container_of(link, struct belay__cancel_watch, link);
        if (at->cancel == request->cancel && at->watch.slot != 0) watch = at;
    }
    if (watch == NULL) {
        watch = belay__alloc(client->loop.world, sizeof *watch);
        if (watch == NULL) return BELAY_NOMEM;
        watch->cancel = request->cancel;
        watch->client = client;
        belay_links_init(&watch->requests);
        if (belay__watch_add(&client->loop, &watch->watch, request->cancel->fd, EPOLLIN, fired) !=
            BELAY_OK) {
            belay__free(watch);
            return BELAY_NOMEM;
        }
        belay_link_append(&client->cancels, &watch->link);
    }
    belay_link_append(&watch->requests, &request->cancel_link);
    request->cancel_watch = watch;
    return BELAY_OK;
}

void belay__cancel_unwatch(belay_request *request)
{
    struct belay__cancel_watch *watch = request->cancel_watch;
    if (watch == NULL) return;
    request->cancel_watch = NULL;
    belay_unlink(&request->cancel_link);
    watch_free_if_unused(watch);
}
