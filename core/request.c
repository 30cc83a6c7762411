/* request.c - one call of the application's, blocking or started: begun, waited for or called back,
 * ended early. */
#include "core/client.h"

#include <stdio.h>

void belay__request_init(belay_request *request, belay *client)
{
    memset(request, 0, offsetof(belay_request, wait));
    request->client = client;
    request->error.size = sizeof request->error;
    request->error.status = BELAY_OK;
    request->error.node[0] = request->error.text[0] = '\0';
    request->label[0] = '\0';
    request->op.error = &request->error;
    request->op.label = request->label;
}

void belay__request_init_acquire(belay_request *request)
{
    memset(&request->wait, 0, offsetof(belay_request, error) - offsetof(belay_request, wait));
}

belay_request *belay__request_new(belay *client, belay_done_fn *done, void *arg)
{
    belay_request *request = belay__alloc(client->loop.world, sizeof *request);
    if (request == NULL) return NULL;
    belay__request_init(request, client);
    request->async = true;
    request->freed_by_user = true; /* until a handle is given out */
    request->done = done;
    request->arg = arg;
    return request;
}

void belay__request_begin_op(belay_request *request, int64_t now)
{
    belay *client = request->client;
    belay_link_append(&client->requests, &request->all);
    request->phase = BELAY__PHASE_ATTEMPT;
    request->op.backend = client->root;
    request->op.settle_by_ns = now + client->timeout_ns;
    belay__op_begin(&request->op, now);
}

/* Unlocked, on the thread that runs callbacks. */
static void request_call(struct belay__call *call)
{
    belay_request *request = belay_container_of(call, belay_request, call);
    struct belay__loop *loop = &request->client->loop;
    request->done(request->arg, request->status, request->result, &request->error);
    belay__loop_enter(loop);
    bool unused = request->freed_by_user;
    __atomic_store_n(&request->client, NULL, __ATOMIC_RELEASE); /* to the handle: it is over */
    belay__loop_leave(loop);
    if (unused) belay__free(request);
}

void belay__request_finish(belay_request *request, belay_status status)
{
    belay *client = request->client;
    struct belay__loop *loop = &client->loop;
    belay__cancel_unwatch(request);
    belay_unlink(&request->all);
    request->phase = BELAY__PHASE_DONE;
    request->status = status;
    request->error.status = status;
    if (status == BELAY_OK) {
        request->error.node[0] = '\0';
        memcpy(request->error.text, "done", sizeof "done");
    } else if (request->error.text[0] == '\0') {
        snprintf(request->error.text, sizeof request->error.text, "%s", belay_status_text(status));
    }
    if (request->async) {
        loop->background--;
        request->call.run = request_call;
        belay__call_queue(loop, &request->call);
    } else {
        belay__loop_complete(loop, &request->waiter);
    }
    belay__close_check(client);
}

void belay__request_end(belay_request *request, belay_status with, const char *why)
{
    if (request->end_with != BELAY_OK || request->phase == BELAY__PHASE_DONE) return;
    request->end_with = with;
    belay_error_set(&request->error, with, NULL, "%s", why);
    if (request->phase == BELAY__PHASE_ATTEMPT) belay_op_cancel(&request->op);
    else if (request->phase != BELAY__PHASE_GIVEBACK) belay__acquire_end(request, with);
}

belay_status belay__request_wait(belay_request *request, belay_error *err)
{
    struct belay__loop *loop = &request->client->loop;
    belay__loop_unwind(loop);
    if (request->phase == BELAY__PHASE_DONE) {
        belay__loop_leave(loop);
    } else {
        int cancelable = loop->inside_cancelable, was = loop->inside_errno;
        loop->inside_cancelable = PTHREAD_CANCEL_DISABLE; /* also while it sleeps */
        belay__loop_wait(loop, &request->waiter);
        errno = was;
        pthread_setcancelstate(cancelable, NULL);
    }
    return belay__error_copy(err, &request->error);
}

belay_status belay__request_started(belay_request *request, belay_request **out)
{
    struct belay__loop *loop = &request->client->loop;
    if (out != NULL) {
        request->freed_by_user = false;
        *out = request;
    }
    belay__loop_leave(loop); /* its callback may have run by now, and it may be gone */
    return BELAY_OK;
}

void belay_request_cancel(belay_request *request)
{
    if (request == NULL) return;
    /* The handle lives until it is freed; the client is NULL once the callback has returned. */
    belay *client = __atomic_load_n(&request->client, __ATOMIC_ACQUIRE);
    if (client == NULL || belay__forked(client)) return;
    belay__loop_enter(&client->loop);
    if (request->client != NULL)
        belay__request_end(request, BELAY_CANCELED, "canceled by the caller");
    belay__loop_leave(&client->loop);
}

void belay_request_free(belay_request *request)
{
    if (request == NULL) return;
    belay *client = __atomic_load_n(&request->client, __ATOMIC_ACQUIRE);
    if (client != NULL && !belay__forked(client)) {
        belay__loop_enter(&client->loop);
        bool over = request->client == NULL;
        request->freed_by_user = true;
        belay__loop_leave(&client->loop);
        if (!over) return;
    } else if (client != NULL) {
        return; /* a child's copy: leaked on purpose */
    }
    belay__free(request);
}
