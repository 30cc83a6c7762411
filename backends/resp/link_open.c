/* link_open.c - the way to a ready link: a name becomes addresses, an address a socket. See link.h.
 */
#include "backends/resp/link_parts.h"

#include <stdatomic.h>
#include <string.h>
#include <sys/epoll.h>

/* A name that is being resolved on the worker. The job and the link each hold a reference: at close
 * the worker forgets the job on whatever thread, and at whatever time, it likes. */
struct belay__resolving {
    belay_job job;
    _Atomic int refs;
    struct belay__link *link; /* NULL: the link is gone; `done` alone looks */
    belay_env *env;
    struct belay__addresses found;
    const char *why;
    uint16_t port;
    char host[];
};

static void connect_next(struct belay__link *link);

void belay__link_connected(struct belay__link *link)
{
    int error = belay__socket_error(link->fd);
    if (error != 0) {
        belay__failure_set(&link->why, BELAY_UNAVAILABLE, BELAY_CAUSE_UNREACHABLE, "connecting: %s",
                           strerror(error));
        connect_next(link);
        return;
    }
    link->state = BELAY__LINK_SHAKING;
    belay_timer_arm(link->env, &link->timer, belay_env_now(link->env) + link->patience_ns);
    if (link->peer->tls == NULL) {
        belay__link_greet(link);
    } else {
        link->tls = belay__tls_open(link->peer->tls, link->peer->host);
        if (link->tls == NULL) {
            belay__link_end(link, BELAY_NOMEM, BELAY_CAUSE_NONE, "no memory for TLS");
            return;
        }
        if (belay__tls_state(link->tls) == BELAY__TLS_FAILED) {
            belay__link_tls_failed(link); /* no certificate can be for such a host */
            return;
        }
    }
    if (link->state != BELAY__LINK_ENDED) belay__link_flush(link);
}

/* The next address there is; without one the link ends, with what the last one said. */
static void connect_next(struct belay__link *link)
{
    belay__link_disconnect(link);
    while (link->address < link->addresses.count) {
        const struct belay__address *address = &link->addresses.list[link->address++];
        int error = belay__socket_connect(address, &link->fd);
        if (error == 0 && belay_watch_add(link->env, &link->watch, link->fd, EPOLLOUT,
                                          belay__link_events) == BELAY_OK) {
            size_t left = link->addresses.count - link->address + 1;
            link->state = BELAY__LINK_CONNECTING;
            belay_timer_arm(link->env, &link->timer,
                            belay_env_now(link->env) + link->patience_ns / (int64_t)left);
            return;
        }
        if (error == 0) {
            belay__link_end(link, BELAY_NOMEM, BELAY_CAUSE_NONE, "no memory to watch a connection");
            return;
        }
        belay__failure_set(&link->why, BELAY_UNAVAILABLE, BELAY_CAUSE_UNREACHABLE, "connecting: %s",
                           strerror(error));
    }
    belay__link_finish(link);
}

static void resolving_unref(struct belay__resolving *resolving)
{
    if (atomic_fetch_sub(&resolving->refs, 1) == 1) belay_env_free(resolving->env, resolving);
}

void belay__link_unresolve(struct belay__link *link)
{
    if (link->resolving == NULL) return;
    link->resolving->link = NULL;
    resolving_unref(link->resolving);
    link->resolving = NULL;
}

static void resolving_forget(belay_job *job)
{
    resolving_unref(belay_container_of(job, struct belay__resolving, job));
}

static void resolve_work(belay_job *job)
{
    struct belay__resolving *resolving = belay_container_of(job, struct belay__resolving, job);
    resolving->why = belay__address_ask(&resolving->found, resolving->host, resolving->port);
}

static void unresolved(struct belay__link *link, const char *why)
{
    belay__link_end(link, BELAY_UNAVAILABLE, BELAY_CAUSE_UNREACHABLE, "resolving %s: %s",
                    link->peer->host, why);
}

static void resolved(belay_job *job)
{
    struct belay__resolving *resolving = belay_container_of(job, struct belay__resolving, job);
    struct belay__link *link = resolving->link;
    if (link != NULL) {
        link->resolving = NULL;
        resolving_unref(resolving);
        belay__link_enter(link);
        if (link->state == BELAY__LINK_RESOLVING && resolving->why != NULL) {
            unresolved(link, resolving->why);
        } else if (link->state == BELAY__LINK_RESOLVING) {
            link->addresses = resolving->found;
            connect_next(link);
        }
        belay__link_leave(link);
    }
    resolving_unref(resolving);
}

/* A name: asked on the worker, where it may take as long as it likes. */
static void resolve(struct belay__link *link)
{
    size_t length = strlen(link->peer->host);
    struct belay__resolving *resolving = belay_env_alloc(link->env, sizeof *resolving + length + 1);
    if (resolving != NULL) {
        resolving->job =
            (belay_job){ .work = resolve_work, .done = resolved, .forget = resolving_forget };
        resolving->link = link;
        atomic_init(&resolving->refs, 2);
        resolving->env = link->env;
        resolving->port = link->peer->port;
        memcpy(resolving->host, link->peer->host, length + 1);
        if (belay_env_run(link->env, &resolving->job) == BELAY_OK) {
            link->resolving = resolving;
            return;
        }
        belay_env_free(link->env, resolving);
    }
    belay__link_end(link, BELAY_NOMEM, BELAY_CAUSE_NONE, "no memory to resolve a name");
}

static void begin(struct belay__link *link)
{
    const struct belay__peer *peer = link->peer;
    if (peer->path != NULL) {
        (void)belay__address_path(&link->addresses, peer->path); /* its length was checked */
        connect_next(link);
    } else if (belay__address_known(&link->addresses, peer->host, peer->port)) {
        connect_next(link);
    } else if (peer->resolve_here) {
        const char *why = belay__address_ask(&link->addresses, peer->host, peer->port);
        if (why != NULL) unresolved(link, why);
        else connect_next(link);
    } else {
        resolve(link);
    }
}

static void timed_out(belay_timer *timer)
{
    struct belay__link *link = belay_container_of(timer, struct belay__link, timer);
    belay__link_enter(link);
    if (link->state == BELAY__LINK_RESOLVING && link->resolving == NULL) {
        begin(link); /* see belay__link_open */
    } else if (link->mute) {
        /* What it said before has been read by now, if there was anything. */
        belay__link_events(&link->watch, EPOLLIN);
        belay__link_end(link, BELAY_UNAVAILABLE, BELAY_CAUSE_UNREACHABLE,
                        "sending: the connection is closed");
    } else if (link->state == BELAY__LINK_CONNECTING) {
        belay__failure_set(&link->why, BELAY_UNAVAILABLE, BELAY_CAUSE_UNREACHABLE,
                           "connecting: no answer");
        connect_next(link);
    } else {
        belay__link_end(link, BELAY_UNAVAILABLE, BELAY_CAUSE_UNREACHABLE,
                        link->state == BELAY__LINK_SHAKING
                            ? "no answer in the TLS handshake; does it speak TLS on that port?"
                            : "connected, but no answer");
    }
    belay__link_leave(link);
}

struct belay__link *belay__link_new(belay_env *env, const struct belay__peer *peer,
                                    int64_t patience_ns)
{
    struct belay__link *link = belay_env_alloc(env, sizeof *link);
    if (link == NULL) return NULL;
    link->env = env;
    link->peer = peer;
    link->patience_ns = patience_ns;
    link->fd = -1;
    link->slot_first = link->slot_next = link->slot_unleft = 1;
    link->flush.fn = belay__link_flush_due;
    link->hello.uptime_s = link->hello.maxmemory = -1;
    belay_timer_init(&link->timer, timed_out);
    link->reader = belay__reader_new(env);
    if (link->reader != NULL) return link;
    belay_env_free(env, link);
    return NULL;
}

/* Through a timer that is due at once: what fails must not be told from inside this call. */
void belay__link_open(struct belay__link *link)
{
    link->heard_ns = belay_env_now(link->env);
    belay_timer_arm(link->env, &link->timer, link->heard_ns);
}
