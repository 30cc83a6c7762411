/* config_fakes.h - tables of three made-up backends, files in a folder of the test's own, and a
 * world that refuses allocations. For the tests of configuration. */
#ifndef BELAY_TESTS_CONFIG_FAKES_H
#define BELAY_TESTS_CONFIG_FAKES_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "core/config.h"
#include "core/settings.h"

#define UNUSED __attribute__((unused))

/* ------------------------------------------------------------------ tables */

UNUSED static belay_status fake_create(belay_backend **out, belay_env *env,
                                       const belay_settings *settings, belay_error *err)
{
    (void)out, (void)env, (void)settings, (void)err;
    return BELAY_UNSUPPORTED;
}
UNUSED static void fake_destroy(belay_backend *backend)
{
    (void)backend;
}
UNUSED static void fake_verb(belay_backend *backend, belay_op *op)
{
    (void)backend, (void)op;
}

#define FAKE_VERBS                                                                                 \
    .create = fake_create, .destroy = fake_destroy, .acquire = fake_verb, .release = fake_verb,    \
    .extend = fake_verb

/* One key of each type. */
static const belay_setting_spec plain_keys[] = {
    { .key = "path", .type = BELAY_SETTING_STRING, .help = "a file" },
    { .key = "size",
      .type = BELAY_SETTING_INTEGER,
      .initial = "4",
      .min = 1,
      .max = 64,
      .help = "how many" },
    { .key = "big", .type = BELAY_SETTING_INTEGER, .initial = "0" },
    { .key = "ratio", .type = BELAY_SETTING_REAL, .initial = "0.5", .min = 0, .max = 1 },
    { .key = "sync", .type = BELAY_SETTING_BOOLEAN, .initial = "true" },
    { .key = "pause", .type = BELAY_SETTING_DURATION, .initial = "1s", .min = 10, .max = 60000 },
    { .key = "age", .type = BELAY_SETTING_DURATION },
    { .key = "mode", .type = BELAY_SETTING_MODE, .initial = "0600" },
    { .key = "policy",
      .type = BELAY_SETTING_CHOICE,
      .initial = "local",
      .choices = "local|closed" },
    { .key = "password", .type = BELAY_SETTING_SECRET },
    { .key = "nodes", .type = BELAY_SETTING_STRINGS, .initial = "one, two" },
    { .key = "tls.ca", .type = BELAY_SETTING_STRING },
    { .key = "tls.name", .type = BELAY_SETTING_STRING, .initial = "" },
    { 0 },
};
static const char *const plain_schemes[] = { "plain", NULL };
static const belay_backend_ops plain_ops = { BELAY_OPS_HEAD,           FAKE_VERBS,
                                             .type = "plain",          .url_schemes = plain_schemes,
                                             .url_key = "path",        .settings = plain_keys,
                                             .scope = BELAY_SCOPE_HOST };

/* A composite. */
static const belay_setting_spec pair_keys[] = {
    { .key = "first",
      .type = BELAY_SETTING_BACKEND,
      .required = true,
      .help = "the one that is asked first" },
    { .key = "rest", .type = BELAY_SETTING_BACKENDS },
    { 0 },
};
static const char *const pair_schemes[] = { "pair", NULL };
static const belay_backend_ops pair_ops = { BELAY_OPS_HEAD,
                                            FAKE_VERBS,
                                            .type = "pair",
                                            .url_schemes = pair_schemes,
                                            .url_key = "first",
                                            .settings = pair_keys,
                                            .scope = BELAY_SCOPE_FLEET,
                                            .timeout_ms = 2000 };

/* One that reads its URLs by itself, and is not careful with what it says. */
static belay_status net_url(const belay_url *url,
                            void (*put)(void *arg, const char *key, const char *value), void *arg,
                            belay_error *err)
{
    if (url->host_count == 0) return belay_error_set(err, BELAY_CONFIG, NULL, "there is no host");
    for (size_t i = 0; i < url->host_count; i++) {
        char host[64];
        snprintf(host, sizeof(host), "%s port %d", url->hosts[i].host, url->hosts[i].port);
        put(arg, "host", host);
    }
    if (url->user != NULL) put(arg, "user", url->user);
    if (url->password != NULL) put(arg, "password", url->password);
    if (strcmp(url->path, "/bad") == 0)
        return belay_error_set(err, BELAY_CONFIG, NULL, "bad: %s (%s)", url->text,
                               url->password != NULL ? url->password : "");
    return BELAY_OK;
}
static const belay_setting_spec net_keys[] = {
    { .key = "host", .type = BELAY_SETTING_STRINGS, .required = true, .help = "where it is" },
    { .key = "user", .type = BELAY_SETTING_STRING },
    { .key = "password", .type = BELAY_SETTING_SECRET },
    { .key = "tls.ca", .type = BELAY_SETTING_STRING },
    { .key = "tls.pass_phrase", .type = BELAY_SETTING_SECRET },
    { 0 },
};
static const char *const net_schemes[] = { "net", "nets", NULL };
static const belay_backend_ops net_ops = {
    BELAY_OPS_HEAD,      FAKE_VERBS, .type = "net", .url = net_url, .url_schemes = net_schemes,
    .settings = net_keys
};

/* What the embedded default wants. */
static const belay_setting_spec sqlite_keys[] = { { .key = "path", .type = BELAY_SETTING_STRING },
                                                  { 0 } };
static const char *const sqlite_schemes[] = { "sqlite", NULL };
static const belay_backend_ops fake_sqlite_ops = { BELAY_OPS_HEAD,    FAKE_VERBS,
                                                   .type = "sqlite",  .url_schemes = sqlite_schemes,
                                                   .url_key = "path", .settings = sqlite_keys };

static const belay_backend_ops *const fake_tables[] = { &plain_ops, &pair_ops, &net_ops,
                                                        &fake_sqlite_ops, NULL };
UNUSED static const struct belay__registry fake_registry = { NULL, fake_tables };

/* ------------------------------------------------------------------ a world without memory */

/* Refuses the `fail_at`-th allocation, counted from 0; and all that follow. */
struct poor_world {
    belay_world base;
    long count, fail_at;
};

UNUSED static bool poor_may_alloc(belay_world *world, size_t size)
{
    struct poor_world *poor = belay_container_of(world, struct poor_world, base);

    (void)size;
    return poor->count++ < poor->fail_at;
}

#define POOR_WORLD(n)                                                                              \
    {                                                                                              \
        .base = { .size = sizeof(belay_world), .may_alloc = poor_may_alloc }, .fail_at = (n)       \
    }

/* ------------------------------------------------------------------ files */

static char fake_folder[64];

/* A folder of the test's own is the working directory, and the home; nothing of the user's reaches
 * the test. */
UNUSED static int folder_setup(void **state)
{
    (void)state;
    snprintf(fake_folder, sizeof(fake_folder), "/tmp/belay-config-XXXXXX");
    if (mkdtemp(fake_folder) == NULL || chdir(fake_folder) != 0) return -1;
    unsetenv("BELAY_CONFIG");
    unsetenv("XDG_CONFIG_HOME");
    unsetenv("CREDENTIALS_DIRECTORY");
    setenv("HOME", fake_folder, 1);
    umask(022);
    return 0;
}

UNUSED static int folder_teardown(void **state)
{
    char command[96];

    (void)state;
    if (chdir("/") != 0) return -1;
    snprintf(command, sizeof(command), "rm -rf '%s'", fake_folder);
    return system(command);
}

UNUSED static void file_write_bytes(const char *path, const char *bytes, size_t length, mode_t mode)
{
    FILE *file = fopen(path, "w");

    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, length, file), length);
    assert_int_equal(fclose(file), 0);
    assert_int_equal(chmod(path, mode), 0);
}

UNUSED static void file_write(const char *path, const char *text)
{
    file_write_bytes(path, text, strlen(text), 0644);
}

/* ------------------------------------------------------------------ loading */

UNUSED static struct belay__config *loaded(const char *where)
{
    struct belay__config *config = NULL;
    belay_error err = BELAY_ERROR_INIT;
    belay_status status = belay__config_load(&config, where, &fake_registry, NULL, &err);

    if (status != BELAY_OK) print_error("%s\n", err.text);
    assert_int_equal(status, BELAY_OK);
    assert_non_null(config);
    return config;
}

UNUSED static struct belay__config *loaded_text(const char *text)
{
    file_write("c.conf", text);
    return loaded("c.conf");
}

UNUSED static void refused_where(const char *where, belay_status want, const char *message)
{
    struct belay__config *config = (void *)1;
    belay_error err = BELAY_ERROR_INIT;
    belay_status status = belay__config_load(&config, where, &fake_registry, NULL, &err);

    assert_string_equal(err.text, message);
    assert_int_equal(status, want);
    assert_int_equal(err.status, want);
    assert_null(config);
}

/* The text, in c.conf, is refused with that message. */
UNUSED static void refused(const char *text, const char *message)
{
    file_write("c.conf", text);
    refused_where("c.conf", BELAY_CONFIG, message);
}

#endif
