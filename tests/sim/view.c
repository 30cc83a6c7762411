/* view.c - a look at the places themselves, without a network: what do the memory backends hold? */
#include "tests/sim/sim.h"

/* All places, of which one at a time is looked at. */
struct view {
    belay_backend base;
    belay_backend *places[4];
    belay_op child;
    belay_op *op;
};

static void view_done(belay_op *child, belay_status status)
{
    belay_op_settle(belay_container_of(child, struct view, child)->op, status);
}

static void view_begin(belay_backend *base, belay_op *op)
{
    struct view *view = belay_container_of(base, struct view, base);
    view->op = op;
    belay_op_init_child(&view->child, op);
    belay_op_start(&view->child, view->places[sim_current->viewed], op, view_done);
}

static belay_status view_create(belay_backend **out, belay_env *env, const belay_settings *settings,
                                belay_error *err)
{
    struct view *view = belay_env_alloc(env, sizeof *view);
    if (view == NULL) return belay_error_set(err, BELAY_NOMEM, NULL, "out of memory");
    for (size_t i = 0; i < 4; i++) view->places[i] = belay_settings_backend(settings, "places", i);
    *out = &view->base;
    return BELAY_OK;
}

static void view_destroy(belay_backend *base)
{
    belay_env_free(base->env, belay_container_of(base, struct view, base));
}

static const belay_setting_spec view_settings[] = {
    { .key = "places", .type = BELAY_SETTING_BACKENDS, .required = true, .help = "memory" },
    { 0 },
};

const belay_backend_ops sim_view_ops = {
    BELAY_OPS_HEAD,
    .type = "view",
    .settings = view_settings,
    .scope = BELAY_SCOPE_PROCESS,
    .create = view_create,
    .destroy = view_destroy,
    .acquire = view_begin,
    .release = view_begin,
    .extend = view_begin,
    .list = view_begin,
    .break_lock = view_begin,
};
