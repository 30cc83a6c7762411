/* env.c - a backend's world: what backend.h promises, handed on to the engine. */
#include "core/client.h"

#include <stdio.h>
#include <unistd.h>

int64_t belay_env_now(belay_env *env)
{
    return belay__loop_now(env->loop);
}

int64_t belay_env_wall_us(belay_env *env)
{
    return belay__clock_wall_us(env->loop->world);
}

void belay_env_random(belay_env *env, void *out, size_t length)
{
    belay__clock_random(env->loop->world, out, length);
}

uint32_t belay_env_random_below(belay_env *env, uint32_t bound)
{
    uint32_t bits;
    belay__clock_random(env->loop->world, &bits, sizeof bits);
    return (uint32_t)((uint64_t)bits * bound >> 32);
}

void belay_env_owner(belay_env *env, char owner[BELAY_OWNER_LENGTH + 1])
{
    belay__owner_make(env->client->page, env->loop->world, owner);
}

void *belay_env_alloc(belay_env *env, size_t size)
{
    return belay__alloc(env->loop->world, size);
}

void belay_env_free(belay_env *env, void *memory)
{
    (void)env;
    belay__free(memory);
}

const char *belay_env_name(const belay_env *env)
{
    return env->name;
}

const char *belay_env_prefix(const belay_env *env)
{
    return env->client->config->prefix;
}

bool belay_env_fencing(const belay_env *env)
{
    return env->client->config->fencing;
}

bool belay_env_threads(const belay_env *env)
{
    return env->loop->threads;
}

bool belay_env_worker(const belay_env *env)
{
    return env->loop->worker_allowed;
}

int64_t belay_env_timeout_ns(const belay_env *env)
{
    return env->timeout_ns;
}

void belay_env_mind(belay_env *env, bool busy)
{
    struct belay__loop *loop = env->loop;
    if (!busy) {
        loop->minding--;
        return;
    }
    loop->minding++;
    /* Without the thread it is done while a caller waits for something else, or at close. */
    if (belay__engine_need(loop) == BELAY_OK) belay__engine_kick(loop);
}

void belay_env_log(belay_env *env, belay_level level, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    belay__vlog(env->client, level, format, args);
    va_end(args);
}

void belay_env_event(belay_env *env, belay_event_kind kind, belay_scope scope, int64_t since_ns,
                     const char *format, ...)
{
    char text[384];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    belay__event(env->client, kind, env->name, scope, since_ns, text);
}

const char *belay_env_strip(const belay_env *env, const char *key)
{
    const char *prefix = env->client->config->prefix;
    size_t length = env->client->prefix_length;
    return strncmp(key, prefix, length) == 0 && key[length] != '\0' ? key + length : NULL;
}

void belay_timer_arm(belay_env *env, belay_timer *timer, int64_t due_ns)
{
    belay__timer_arm(env->loop, timer, due_ns);
}

void belay_timer_disarm(belay_env *env, belay_timer *timer)
{
    belay__timer_disarm(env->loop, timer);
}

belay_status belay_watch_add(belay_env *env, belay_watch *watch, int fd, uint32_t events,
                             belay_watch_fn *fn)
{
    /* Its leader makes system calls inside from now on: who waits for it does so asleep. */
    env->loop->monitor.patient = true;
    return belay__watch_add(env->loop, watch, fd, events, fn);
}

belay_status belay_watch_change(belay_env *env, belay_watch *watch, uint32_t events)
{
    return belay__watch_change(env->loop, watch, events);
}

void belay_watch_remove(belay_env *env, belay_watch *watch)
{
    belay__watch_remove(env->loop, watch);
}

void belay_task_post(belay_env *env, belay_task *task)
{
    if (!belay_linked(&task->link)) belay_link_append(&env->loop->tasks, &task->link);
}

void belay_task_drop(belay_env *env, belay_task *task)
{
    (void)env;
    belay_unlink(&task->link);
}

void belay__poke_init(struct belay__loop *loop, belay_poke *poke, belay_poke_fn *fn)
{
    poke->fn = fn;
    poke->env = NULL;
    poke->raised = 0;
    poke->loop = loop;
    poke->link = (belay_link){ 0 };
    belay_link_append(&loop->pokes, &poke->link);
}

void belay__poke_fini(struct belay__loop *loop, belay_poke *poke)
{
    (void)loop;
    belay_unlink(&poke->link);
}

void belay_poke_init(belay_env *env, belay_poke *poke, belay_poke_fn *fn)
{
    belay__poke_init(env->loop, poke, fn);
    poke->env = env;
}

void belay_poke_raise(belay_poke *poke)
{
    struct belay__loop *loop = poke->loop;
    if (__atomic_exchange_n(&poke->raised, 1, __ATOMIC_ACQ_REL) != 0) return;
    atomic_store_explicit(&loop->poked, 1, memory_order_release);
    uint64_t one = 1;
    ssize_t ignored = write(loop->wake_fd, &one, sizeof one);
    (void)ignored;
}

void belay_poke_fini(belay_poke *poke)
{
    if (poke->fn != NULL) belay_unlink(&poke->link);
}

belay_status belay_env_run(belay_env *env, belay_job *job)
{
    return belay__worker_run(env->loop, job);
}
