/* composite_test.c - what a composite may ask of the place below it: an extension that moves the
 * tokens (op->token_floor), on every kind of place; and what a server says that was restarted and
 * has forgotten a lock, which is not the same as one that was taken away.
 *
 * "probe" is the composite. It passes everything on, notes what it hears, and lets an extension
 * with a floor follow an acquire when the test says so. */
#define _GNU_SOURCE
#include "backends/resp/scripts.h"
#include "tests/live/client.h"

#include <dirent.h>

#define LONG_MS 60000

/* ------------------------------------------------------------------ the composite */

/* What the test says, and what the probe heard. */
static struct {
    uint64_t floor;              /* of the extension behind an acquire; 0: none */
    const char *(*before)(void); /* a command for the server before that, or NULL */
    belay_status status;         /* of the last extension */
    belay_cause cause;
    uint64_t token;
    belay_error error;
    atomic_int told; /* of a grant: what it is told, a belay_status; -1: nothing */
    bool deaf;       /* and it is not passed on */
} heard;

static struct server server;
static struct server keeping; /* what was acknowledged outlives a restart */

struct probe {
    belay_backend base;
    belay_backend *child;
};

struct lease {
    belay_grant base;
    belay_grant *child;
};

struct call {
    belay_op child; /* the op below, one after the other */
    belay_op *op;
    struct probe *probe;
    struct lease *lease;
    belay_op first; /* the acquire's answer while the extension is under way */
};

static void told(belay_grant *grant, belay_status status, belay_scope scope, int64_t deadline_ns,
                 const char *why)
{
    struct lease *lease = grant->holder;
    if (heard.deaf) (void)why;
    else if (status == BELAY_LOST) belay_grant_lost(&lease->base, why);
    else if (status == BELAY_UNCERTAIN) belay_grant_forgotten(&lease->base, why);
    else belay_grant_changed(&lease->base, scope, deadline_ns, why);
    atomic_store(&heard.told, (int)status);
}

static void call_end(struct call *call, const belay_op *from, belay_status status)
{
    belay_op *op = call->op;
    op->sent_ns = from->sent_ns;
    op->token = from->token;
    op->scope = from->scope;
    op->held_for_ns = from->held_for_ns;
    op->cause = from->cause;
    op->unsure_release = from->unsure_release;
    if (op->verb == BELAY_VERB_ACQUIRE && status == BELAY_OK) op->grant = &call->lease->base;
    else free(call->lease);
    belay_op_settle(op, status);
    free(call);
}

static void extended(belay_op *child, belay_status status)
{
    struct call *call = belay_container_of(child, struct call, child);
    heard.status = status;
    heard.cause = child->cause;
    heard.token = child->token;
    if (call->op->verb == BELAY_VERB_EXTEND) call_end(call, child, status);
    else call_end(call, &call->first, BELAY_OK);
}

static void answered(belay_op *child, belay_status status)
{
    struct call *call = belay_container_of(child, struct call, child);
    if (child->verb == BELAY_VERB_ACQUIRE && status == BELAY_OK) {
        call->lease->child = child->grant;
        if (child->grant != NULL) belay_grant_listen(child->grant, call->lease, told);
        if (heard.floor != 0) {
            const char *command = heard.before != NULL ? heard.before() : NULL;
            if (command != NULL) server_command(&server, NULL, command);
            call->first = *child;
            belay_op_init_child(&call->child, call->op);
            call->child.verb = BELAY_VERB_EXTEND;
            call->child.ttl_ms = 2 * LONG_MS;
            call->child.token_floor = heard.floor;
            call->child.grant = call->lease->child;
            call->child.error = &heard.error;
            belay_op_start(&call->child, call->probe->child, call->op, extended);
            return;
        }
    }
    call_end(call, child, status);
}

static void begin(belay_backend *base, belay_op *op)
{
    struct call *call = calloc(1, sizeof *call);
    call->op = op;
    call->probe = belay_container_of(base, struct probe, base);
    op->data = call;
    if (op->verb == BELAY_VERB_ACQUIRE) call->lease = calloc(1, sizeof *call->lease);
    belay_op_init_child(&call->child, op);
    call->child.wait = op->wait;
    if (op->grant != NULL)
        call->child.grant = belay_container_of(op->grant, struct lease, base)->child;
    belay_op_start(&call->child, call->probe->child, op,
                   op->verb == BELAY_VERB_EXTEND ? extended : answered);
}

static void cancel(belay_backend *base, belay_op *op)
{
    struct call *call = op->data;
    (void)base;
    belay_op_cancel(&call->child);
}

static void drop(belay_backend *base, belay_grant *grant)
{
    belay_backend *child = belay_container_of(base, struct probe, base)->child;
    struct lease *lease = belay_container_of(grant, struct lease, base);
    if (lease->child != NULL && child->ops->drop != NULL) child->ops->drop(child, lease->child);
    free(lease);
}

static void unwait(belay_backend *base, belay_wait *wait)
{
    belay_backend *child = belay_container_of(base, struct probe, base)->child;
    if (child->ops->unwait != NULL) child->ops->unwait(child, wait);
}

static belay_status create(belay_backend **out, belay_env *env, const belay_settings *settings,
                           belay_error *err)
{
    struct probe *probe = calloc(1, sizeof *probe);
    (void)env, (void)err;
    probe->child = belay_settings_backend(settings, "child", 0);
    *out = &probe->base;
    return BELAY_OK;
}

static void destroy(belay_backend *base)
{
    free(belay_container_of(base, struct probe, base));
}

static const belay_setting_spec settings[] = {
    { .key = "child", .type = BELAY_SETTING_BACKEND, .required = true, .help = "what is asked" },
    { 0 },
};

static const belay_backend_ops probe_ops = {
    BELAY_OPS_HEAD,      .type = "probe",  .settings = settings, .scope = BELAY_SCOPE_FLEET,
    .timeout_ms = 10000, .create = create, .destroy = destroy,   .acquire = begin,
    .release = begin,    .extend = begin,  .cancel = cancel,     .drop = drop,
    .unwait = unwait,    .inspect = begin,
};

/* ------------------------------------------------------------------ the stage */

static char folder[] = "/tmp/belay-composite-XXXXXX";

/* A place for one test: "memory", "sqlite", "redis", "fault" over a redis, or a redis that is
 * "keeping" what it has. Bare: without the probe. */
static belay *open_place(const char *kind, bool bare, const char *top)
{
    static const belay_backend_ops *const tables[] = { &probe_ops, NULL };
    belay_open_options options = BELAY_OPEN_OPTIONS_INIT;
    char more[256] = "type = \"memory\"; name = \"composite\";", text[768], path[96];
    belay_error err = BELAY_ERROR_INIT;
    belay *client = NULL;
    if (strcmp(kind, "sqlite") == 0)
        snprintf(more, sizeof more, "type = \"sqlite\"; path = \"%s/locks.db\";", folder);
    else if (strcmp(kind, "memory") != 0)
        snprintf(more, sizeof more, "type = \"redis\"; %s timeout = \"2s\";",
                 at_server(strcmp(kind, "keeping") == 0 ? &keeping : &server));
    snprintf(text, sizeof text,
             "use = \"%s\";\n%s\nbackends: { leaf: { %s }; f: { type = \"fault\"; child = "
             "\"leaf\"; }; p: { type = \"probe\"; child = \"%s\"; }; };\n",
             bare ? "leaf" : "p", top != NULL ? top : "", more,
             strcmp(kind, "fault") == 0 ? "f" : "leaf");
    snprintf(path, sizeof path, "%s/conf", folder);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    assert_true(fputs(text, file) >= 0);
    assert_int_equal(fclose(file), 0);
    options.backends = tables;
    belay_status status = belay_open(&client, path, &options, &err);
    if (status != BELAY_OK) fail_msg("open: %s", err.text);
    return client;
}

static int setup(void **state)
{
    (void)state;
    const struct server_options options = { .persist = true };
    assert_non_null(mkdtemp(folder));
    return server_start(&server, NULL) && server_start(&keeping, &options) ? 0 : -1;
}

static int teardown(void **state)
{
    DIR *dir = opendir(folder);
    struct dirent *entry;
    (void)state;
    while (dir != NULL && (entry = readdir(dir)) != NULL)
        if (entry->d_name[0] != '.') unlinkat(dirfd(dir), entry->d_name, 0);
    if (dir != NULL) closedir(dir);
    rmdir(folder);
    server_end(&server);
    server_end(&keeping);
    return 0;
}

static int tidy(void **state)
{
    (void)state;
    memset(&heard, 0, sizeof heard);
    heard.told = -1;
    server_command(&server, NULL, "FLUSHALL");
    server_command(&keeping, NULL, "FLUSHALL");
    return 0;
}

/* The token of a lock that is taken and released. */
static uint64_t next_token(belay *client, const char *name)
{
    belay_lock *lock = must_take(client, name, LONG_MS, BELAY_TRY);
    uint64_t token = belay_lock_token(lock);
    must_release(lock);
    return token;
}

static int64_t remains_ms(belay *client, const char *name, uint64_t *token)
{
    belay_info info = { .size = sizeof info };
    assert_status(belay_inspect(client, name, &info, NULL), BELAY_OK);
    assert_true(info.held);
    if (token != NULL) *token = info.token;
    return info.remaining_ms;
}

/* ------------------------------------------------------------------ floors */

static const char *const kinds[] = { "memory", "sqlite", "redis", "fault" };
enum { KINDS = sizeof kinds / sizeof kinds[0] };

static void later_tokens_are_larger_than_the_floor_of_an_extension(void **state)
{
    (void)state;
    for (int i = 0; i < KINDS; i++) {
        belay *client = open_place(kinds[i], false, NULL);
        belay *plain = open_place(kinds[i], true, NULL);
        uint64_t before = next_token(plain, "a"), floor = before + 1000000000, shown = 0;
        heard.floor = floor;
        belay_lock *lock = must_take(client, "job", LONG_MS, BELAY_TRY);
        heard.floor = 0;
        assert_status(heard.status, BELAY_OK);
        /* It is an extension as well, and the lock's own token stays what its holder was told. */
        assert_true(remains_ms(plain, "job", &shown) > LONG_MS + LONG_MS / 2);
        assert_true(belay_lock_token(lock) > before && belay_lock_token(lock) < floor);
        if (i < 2) assert_int_equal(shown, floor); /* a redis has no room for it */
        assert_true(next_token(plain, "b") > floor);
        assert_true(next_token(client, "a") > floor + 1);
        must_release(lock);
        belay_close(client);
        belay_close(plain);
    }
}

static void a_floor_that_is_passed_already_changes_nothing(void **state)
{
    (void)state;
    for (int i = 0; i < KINDS; i++) {
        belay *client = open_place(kinds[i], false, NULL);
        char fence[64], wanted[64];
        uint64_t shown = 0;
        heard.floor = 77;
        belay_lock *lock = must_take(client, "job", LONG_MS, BELAY_TRY);
        assert_status(heard.status, BELAY_OK);
        heard.floor = 0;
        if (i < 2) {
            remains_ms(client, "job", &shown);
            assert_int_equal(shown, belay_lock_token(lock));
        } else {
            server_string(&server, fence, sizeof fence, "GET fence:belay:");
            snprintf(wanted, sizeof wanted, "0:%llu", (unsigned long long)belay_lock_token(lock));
            assert_string_equal(fence, wanted);
        }
        assert_true(next_token(client, "b") > belay_lock_token(lock));
        must_release(lock);
        belay_close(client);
    }
}

static void a_floor_with_nothing_above_it_is_refused(void **state)
{
    static const uint64_t floors[] = { UINT64_MAX, (uint64_t)INT64_MAX + 1 };
    (void)state;
    for (int i = 1; i < KINDS; i++) {
        belay *client = open_place(kinds[i], false, NULL);
        for (size_t n = 0; n < sizeof floors / sizeof floors[0]; n++) {
            heard.floor = floors[n];
            belay_lock *lock = must_take(client, "job", LONG_MS, BELAY_TRY);
            heard.floor = 0;
            assert_status(heard.status, BELAY_REFUSED);
            assert_non_null(strstr(heard.error.text, "fencing token"));
            /* Nothing of it was done. */
            assert_true(remains_ms(client, "job", NULL) <= LONG_MS);
            assert_true(next_token(client, "b") < UINT64_C(1) << 49);
            must_release(lock);
        }
        belay_close(client);
    }
}

/* The fence is compared epoch first, and both parts of a floor arrive. */
static void a_floor_may_be_of_a_later_epoch(void **state)
{
    const uint64_t floor = UINT64_C(3) << 50 | 41;
    (void)state;
    for (int i = 1; i < KINDS; i++) {
        belay *client = open_place(kinds[i], false, NULL);
        heard.floor = floor;
        belay_lock *lock = must_take(client, "job", LONG_MS, BELAY_TRY);
        assert_status(heard.status, BELAY_OK);
        heard.floor = UINT64_C(2) << 50 | 4711; /* of an earlier one: it is behind */
        must_release(must_take(client, "b", LONG_MS, BELAY_TRY));
        assert_status(heard.status, BELAY_OK);
        heard.floor = 0;
        uint64_t next = next_token(client, "a");
        assert_true(next > floor && next >> 50 == 3);
        must_release(lock);
        belay_close(client);
        server_command(&server, NULL, "FLUSHALL");
    }
}

static void without_fencing_a_floor_means_nothing(void **state)
{
    (void)state;
    for (int i = 0; i < KINDS; i++) {
        belay *client = open_place(kinds[i], false, "fencing = false; prefix = \"bare:\";");
        heard.floor = UINT64_MAX;
        belay_lock *lock = must_take(client, "job", LONG_MS, BELAY_TRY);
        heard.floor = 0;
        assert_status(heard.status, BELAY_OK);
        assert_true(remains_ms(client, "job", NULL) > LONG_MS + LONG_MS / 2);
        assert_int_equal(belay_lock_token(lock), 0);
        must_release(lock);
        belay_close(client);
    }
    assert_int_equal(server_command(&server, NULL, "GET fence:bare:"), SERVER_NIL);
}

static const char *delete_the_lock(void)
{
    return "DEL belay:job";
}

static void who_holds_nothing_moves_no_token(void **state)
{
    (void)state;
    belay *client = open_place("redis", false, NULL);
    uint64_t first = next_token(client, "a");
    heard.floor = first + 1000000000;
    heard.before = delete_the_lock;
    belay_lock *lock = must_take(client, "job", LONG_MS, BELAY_TRY);
    assert_status(heard.status, BELAY_LOST);
    heard.floor = 0;
    assert_true(next_token(client, "a") < first + 1000000000);
    belay_release(lock, NULL);
    belay_close(client);
}

static const char *spoil_the_fence(void)
{
    return "SET fence:belay: what";
}

static const char *make_the_fence_a_list(void)
{
    server_command(&server, NULL, "DEL fence:belay:");
    return "RPUSH fence:belay: what";
}

/* Nothing is lengthened either, the lock lives on. */
static void a_fence_that_is_none_refuses_the_floor(void **state)
{
    static const char *(*const spoils[])(void) = { spoil_the_fence, make_the_fence_a_list };
    (void)state;
    for (int i = 0; i < 2; i++) {
        server_command(&server, NULL, "FLUSHALL");
        belay *client = open_place("redis", false, NULL);
        heard.floor = 77;
        heard.before = spoils[i];
        belay_lock *lock = must_take(client, "job", LONG_MS, BELAY_TRY);
        assert_status(heard.status, BELAY_REFUSED);
        assert_non_null(strstr(heard.error.text, "fence:belay:"));
        assert_true(remains_ms(client, "job", NULL) <= LONG_MS);
        assert_status(belay_extend(lock, LONG_MS, NULL), BELAY_OK);
        must_release(lock);
        belay_close(client);
    }
}

/* Known to the server, it is asked for by its name. */
static void every_script_has_the_name_that_is_sent(void **state)
{
    char sha[64];
    (void)state;
    for (int i = 0; i < BELAY__SCRIPTS; i++) {
        server_string(&server, sha, sizeof sha, "SCRIPT LOAD %s", belay__scripts[i].source);
        assert_string_equal(sha, belay__scripts[i].sha);
    }
    long evals = server_calls(&server, "eval");
    belay *client = open_place("redis", false, NULL);
    heard.floor = 77;
    must_release(must_take(client, "job", LONG_MS, BELAY_TRY));
    assert_status(heard.status, BELAY_OK);
    belay_close(client);
    assert_int_equal(server_calls(&server, "eval"), evals);
}

/* ------------------------------------------------------------------ forgotten */

static void on_lost(void *arg, belay_lock *lock, const belay_error *why)
{
    (void)arg, (void)lock, (void)why;
}

/* Kept, so that the client connects again by itself; extended in 20 s. */
static belay_lock *take_kept(belay *client)
{
    belay_options options = BELAY_OPTIONS_INIT;
    belay_lock *lock = NULL;
    options.ttl_ms = LONG_MS;
    options.wait_ms = BELAY_TRY;
    options.on_lost = on_lost;
    atomic_store(&heard.told, -1);
    assert_status(belay_acquire(client, "job", &options, &lock, NULL), BELAY_OK);
    return lock;
}

static void what_a_restarted_server_does_not_know_is_forgotten(void **state)
{
    (void)state;
    for (int i = 2; i < KINDS; i++) {
        belay *client = open_place(kinds[i], false, NULL);
        belay_lock *lock = take_kept(client);
        assert_true(server_restart(&server, true));
        assert_true(until(atomic_load(&heard.told) >= 0));
        assert_status((belay_status)atomic_load(&heard.told), BELAY_UNCERTAIN);
        /* To who holds the lock it is lost, as ever. */
        assert_true(until(!belay_lock_valid(lock, 0)));
        assert_status(belay_release(lock, NULL), BELAY_LOST);
        belay_close(client);
    }
}

static void an_extension_says_so_too(void **state)
{
    (void)state;
    for (int i = 2; i < KINDS; i++) {
        belay *client = open_place(kinds[i], false, NULL);
        heard.deaf = true;
        belay_lock *lock = take_kept(client);
        assert_true(server_restart(&server, true));
        assert_true(until(atomic_load(&heard.told) >= 0));
        assert_status(belay_extend(lock, LONG_MS, NULL), BELAY_LOST);
        assert_int_equal(heard.cause, BELAY_CAUSE_FORGOTTEN);
        belay_release(lock, NULL);
        belay_close(client);
    }
}

static void a_lock_that_was_taken_away_is_not_forgotten(void **state)
{
    (void)state;
    belay *client = open_place("redis", false, NULL);
    belay_lock *lock = take_kept(client);
    server_command(&server, NULL, "DEL belay:job");
    assert_status(belay_extend(lock, LONG_MS, NULL), BELAY_LOST);
    assert_int_equal(heard.cause, BELAY_CAUSE_NONE);
    belay_release(lock, NULL);
    belay_close(client);
}

/* Seen after the restart, and gone afterwards. */
static void nor_is_one_that_outlived_the_restart(void **state)
{
    (void)state;
    belay *client = open_place("keeping", false, NULL);
    belay_lock *lock = take_kept(client);
    assert_true(server_restart(&keeping, false));
    assert_true(until(server_calls(&keeping, "get") > 0)); /* it is looked at */
    server_command(&keeping, NULL, "DEL belay:job");
    assert_status(belay_extend(lock, LONG_MS, NULL), BELAY_LOST);
    assert_int_equal(heard.cause, BELAY_CAUSE_NONE);
    assert_int_equal(atomic_load(&heard.told), -1);
    belay_release(lock, NULL);
    belay_close(client);
}

static void nor_is_one_that_another_holds_after_the_restart(void **state)
{
    (void)state;
    belay *client = open_place("keeping", false, NULL);
    heard.deaf = true;
    belay_lock *lock = take_kept(client);
    server_command(&keeping, NULL, "SET belay:job 0123456789abcdef0123456789abcdef PX 60000");
    assert_true(server_restart(&keeping, false));
    assert_true(until(atomic_load(&heard.told) >= 0));
    assert_status((belay_status)atomic_load(&heard.told), BELAY_LOST);
    assert_status(belay_extend(lock, LONG_MS, NULL), BELAY_LOST);
    assert_int_equal(heard.cause, BELAY_CAUSE_NONE);
    belay_release(lock, NULL);
    belay_close(client);
}

#define IS(function) cmocka_unit_test_setup_teardown(function, tidy, tidy)

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        IS(later_tokens_are_larger_than_the_floor_of_an_extension),
        IS(a_floor_that_is_passed_already_changes_nothing),
        IS(a_floor_with_nothing_above_it_is_refused),
        IS(a_floor_may_be_of_a_later_epoch),
        IS(without_fencing_a_floor_means_nothing),
        IS(who_holds_nothing_moves_no_token),
        IS(a_fence_that_is_none_refuses_the_floor),
        IS(every_script_has_the_name_that_is_sent),
        IS(what_a_restarted_server_does_not_know_is_forgotten),
        IS(an_extension_says_so_too),
        IS(a_lock_that_was_taken_away_is_not_forgotten),
        IS(nor_is_one_that_outlived_the_restart),
        IS(nor_is_one_that_another_holds_after_the_restart),
    };
    if (argc > 1) cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, setup, teardown) == 0 ? 0 : 1;
}
