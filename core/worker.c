/* worker.c - one thread for what must block (resolving a name), started by the first job.
 *
 * It shares nothing with the client but this struct, which is reference-counted: a job that never
 * returns keeps the struct, not the client, and closing abandons it. */
#include "core/loop.h"

struct belay__worker {
    pthread_mutex_t mutex;
    pthread_cond_t more;
    belay_link todo, done;
    bool stop;
    int refs;
    struct belay__loop *loop; /* the client's side alone uses it */
    belay_poke poke;          /* raised under the mutex, and not after stop */
};

static void worker_unref(struct belay__worker *worker) /* mutex held; lets it go */
{
    bool last = --worker->refs == 0;
    pthread_mutex_unlock(&worker->mutex);
    if (!last) return;
    pthread_cond_destroy(&worker->more);
    pthread_mutex_destroy(&worker->mutex);
    belay__free(worker);
}

static belay_job *jobs_pop(belay_link *jobs)
{
    if (belay_links_empty(jobs)) return NULL;
    belay_job *job = belay_container_of(jobs->next, belay_job, link);
    belay_unlink(&job->link);
    return job;
}

static void *worker_main(void *arg)
{
    struct belay__worker *worker = arg;
    pthread_mutex_lock(&worker->mutex);
    while (!worker->stop) {
        belay_job *job = jobs_pop(&worker->todo);
        if (job == NULL) {
            pthread_cond_wait(&worker->more, &worker->mutex);
            continue;
        }
        pthread_mutex_unlock(&worker->mutex);
        job->work(job);
        pthread_mutex_lock(&worker->mutex);
        if (!worker->stop) {
            belay_link_append(&worker->done, &job->link);
            belay_poke_raise(&worker->poke);
        } else if (job->forget != NULL) {
            job->forget(job);
        }
    }
    worker_unref(worker);
    return NULL;
}

static void worker_poked(belay_poke *poke)
{
    struct belay__worker *worker = belay_container_of(poke, struct belay__worker, poke);
    struct belay__loop *loop = worker->loop;
    for (;;) {
        pthread_mutex_lock(&worker->mutex);
        belay_job *job = jobs_pop(&worker->done);
        pthread_mutex_unlock(&worker->mutex);
        if (job == NULL) return;
        loop->background--;
        loop->jobs--;
        job->done(job);
    }
}

void belay__poke_init(struct belay__loop *loop, belay_poke *poke, belay_poke_fn *fn); /* env.c */
void belay__poke_fini(struct belay__loop *loop, belay_poke *poke);

static belay_status worker_start(struct belay__loop *loop)
{
    struct belay__worker *worker = belay__alloc(loop->world, sizeof *worker);
    if (worker == NULL) return BELAY_NOMEM;
    pthread_mutex_init(&worker->mutex, NULL);
    pthread_cond_init(&worker->more, NULL);
    belay_links_init(&worker->todo);
    belay_links_init(&worker->done);
    worker->refs = 2;
    worker->loop = loop;
    belay__poke_init(loop, &worker->poke, worker_poked);
    pthread_t thread;
    if (belay__thread_start(&thread, worker_main, worker) != 0) {
        belay__poke_fini(loop, &worker->poke);
        worker->refs = 1;
        pthread_mutex_lock(&worker->mutex);
        worker_unref(worker);
        return BELAY_NOMEM;
    }
    pthread_detach(thread);
    loop->worker = worker;
    return BELAY_OK;
}

belay_status belay__worker_run(struct belay__loop *loop, belay_job *job)
{
    if (!loop->worker_allowed) return BELAY_UNSUPPORTED;
    if (belay__engine_need(loop) != BELAY_OK) return BELAY_NOMEM;
    if (loop->worker == NULL && worker_start(loop) != BELAY_OK) return BELAY_NOMEM;
    struct belay__worker *worker = loop->worker;
    pthread_mutex_lock(&worker->mutex);
    belay_link_append(&worker->todo, &job->link);
    pthread_cond_signal(&worker->more);
    pthread_mutex_unlock(&worker->mutex);
    loop->background++;
    loop->jobs++;
    belay__engine_kick(loop);
    return BELAY_OK;
}

/* Jobs that have not begun, and those whose `done` was not called yet, are forgotten here; a
 * running one by its thread. */
void belay__worker_stop(struct belay__loop *loop)
{
    struct belay__worker *worker = loop->worker;
    if (worker == NULL) return;
    loop->worker = NULL;
    belay_link forgotten;
    belay_links_init(&forgotten);
    pthread_mutex_lock(&worker->mutex);
    worker->stop = true;
    belay_job *job;
    while ((job = jobs_pop(&worker->todo)) != NULL || (job = jobs_pop(&worker->done)) != NULL)
        belay_link_append(&forgotten, &job->link);
    belay__poke_fini(loop, &worker->poke);
    pthread_cond_signal(&worker->more);
    worker_unref(worker);
    while ((job = jobs_pop(&forgotten)) != NULL)
        if (job->forget != NULL) job->forget(job);
}
