/* diagnose_test.c - belay_diagnose asks every backend that `use` reaches, and one that can't be
 * asked hides no other. */
#define _GNU_SOURCE
#include "tests/unit/engine_help.h"

struct found {
    int count;
    belay_severity worst;
    char text[2048]; /* "backend/type/check/severity: text" a line each */
};

static void find(void *arg, const belay_finding *finding)
{
    struct found *found = arg;
    size_t at = strlen(found->text);
    found->count++;
    if (finding->severity > found->worst) found->worst = finding->severity;
    snprintf(found->text + at, sizeof found->text - at, "%s/%s/%s/%d: %s\n", finding->backend,
             finding->type, finding->check, (int)finding->severity, finding->text);
    assert_non_null(finding->meaning);
    assert_non_null(finding->advice);
}

static belay *open_config(const char *text)
{
    char path[] = "/tmp/belay-diagnose-XXXXXX";
    int fd = mkstemp(path);
    if (fd < 0) return NULL;
    dprintf(fd, "%s", text);
    close(fd);
    belay *client = help_open_url(path, NULL);
    unlink(path);
    return client;
}

static void every_backend_that_is_used_is_asked_children_first(void **state)
{
    struct found found = { 0 };
    belay *client = open_config("use = \"outer\"; backends: {\n"
                                " outer: { type = \"fault\"; child = \"inner\"; };\n"
                                " inner: { type = \"fault\"; child = \"place\"; };\n"
                                " place: { type = \"memory\"; };\n"
                                " unused: { type = \"memory\"; }; };\n");
    (void)state;
    assert_non_null(client);
    assert_int_equal(belay_diagnose(client, find, &found, NULL), BELAY_OK);
    assert_string_equal(found.text, "place/memory/itself/0: it has nothing to tell\n"
                                    "inner/fault/faults/1: it makes faults on purpose\n"
                                    "outer/fault/faults/1: it makes faults on purpose\n");
    belay_close(client);
}

static void one_that_fails_is_a_finding_and_hides_no_other(void **state)
{
    struct found found = { 0 };
    belay_error err = BELAY_ERROR_INIT;
    script_reset();
    belay *client = open_config("use = \"outer\"; backends: {\n"
                                " outer: { type = \"fault\"; child = \"place\"; };\n"
                                " place: { type = \"scripted\"; }; };\n");
    (void)state;
    assert_non_null(client);
    script_add(BELAY_VERB_DIAGNOSE, (struct script_reply){ .status = BELAY_UNAVAILABLE });
    assert_int_equal(belay_diagnose(client, find, &found, &err), BELAY_OK);
    assert_int_equal(err.status, BELAY_OK);
    assert_string_equal(found.text,
                        "place/scripted/itself/2: it could not be asked: node: it is scripted\n"
                        "outer/fault/faults/1: it makes faults on purpose\n");
    belay_close(client);
}

static void one_that_does_not_answer_has_two_seconds(void **state)
{
    belay_fake_world *world = belay_fake_create(1);
    belay_world *base = belay_fake_base(world);
    belay_open_options options = help_options(BELAY_DISPATCH, world);
    struct found found = { 0 };
    (void)state;
    script_reset();
    belay *client = help_open("", &options); /* its timeout is 200 ms */
    assert_non_null(client);
    script_add(BELAY_VERB_DIAGNOSE,
               (struct script_reply){ .how = SCRIPT_PEND, .status = BELAY_UNCERTAIN });
    int64_t began = base->now(base);
    assert_int_equal(belay_diagnose(client, find, &found, NULL), BELAY_OK);
    assert_true(base->now(base) - began == 2000 * MS);
    assert_int_equal(found.worst, BELAY_BROKEN);
    belay_close(client);
    belay_fake_destroy(world);
}

static void diagnoses(struct caller *caller)
{
    caller->status = belay_diagnose(caller->client, find, caller->arg, &caller->err);
}

static void a_close_ends_it_and_nothing_is_told(void **state)
{
    struct found found = { 0 };
    struct caller caller = { .arg = &found };
    (void)state;
    script_reset();
    caller.client = help_open("", NULL);
    assert_non_null(caller.client);
    script_add(BELAY_VERB_DIAGNOSE,
               (struct script_reply){ .how = SCRIPT_PEND, .status = BELAY_UNAVAILABLE });
    caller_start(&caller, diagnoses);
    assert_true(eventually(script_pending(BELAY_VERB_DIAGNOSE) == 1));
    belay_close(caller.client);
    assert_true(caller_end(&caller));
    assert_int_equal(caller.status, BELAY_CANCELED);
    assert_int_equal(found.count, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_backend_that_is_used_is_asked_children_first),
        cmocka_unit_test(one_that_fails_is_a_finding_and_hides_no_other),
        cmocka_unit_test(one_that_does_not_answer_has_two_seconds),
        cmocka_unit_test(a_close_ends_it_and_nothing_is_told),
    };

    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
