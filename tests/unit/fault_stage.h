/* fault_stage.h - what the fault backend's tests stand on: a client that is disturbed, and an
 * undisturbed one that looks at the same memory place. */
#ifndef BELAY_TESTS_UNIT_FAULT_STAGE_H
#define BELAY_TESTS_UNIT_FAULT_STAGE_H

#include <belay/testing.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define MS INT64_C(1000000)

struct stage {
    belay_fake_world *world;
    belay *faulty, *plain; /* the same place */
    char place[32];        /* "memory:" and a name of its own */
    char path[64];
    char log[4096];
};

static inline void log_fn(void *arg, belay_level level, const char *line)
{
    struct stage *stage = arg;
    size_t at = strlen(stage->log);
    (void)level;
    snprintf(stage->log + at, sizeof stage->log - at, "%s\n", line);
}

static inline belay_open_options options_of(struct stage *stage)
{
    belay_open_options options = BELAY_OPEN_OPTIONS_INIT;
    options.threads = BELAY_DISPATCH;
    options.world = belay_fake_base(stage->world);
    options.on_log = log_fn;
    options.log_level = BELAY_LOG_DEBUG;
    options.arg = stage;
    return options;
}

/* Opens a config file with this text. */
static inline belay_status open_text(struct stage *stage, const char *text, belay **out,
                                     belay_error *err)
{
    belay_open_options options = options_of(stage);
    snprintf(stage->path, sizeof stage->path, "/tmp/belay-fault-XXXXXX");
    int fd = mkstemp(stage->path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    close(fd);
    belay_status status = belay_open(out, stage->path, &options, err);
    unlink(stage->path);
    return status;
}

/* The keys of one fault backend over memory. */
static inline belay_status open_fault(struct stage *stage, const char *keys, belay **out,
                                      belay_error *err)
{
    char text[1024];
    snprintf(text, sizeof text,
             "use = \"f\"; outage = \"1h\";\nbackends: { f: { type = \"fault\"; child = "
             "\"%s\"; seed = 11;\n%s\n}; };\n",
             stage->place, keys);
    return open_text(stage, text, out, err);
}

static inline void begin(struct stage *stage, const char *keys)
{
    belay_error err = BELAY_ERROR_INIT;
    static int stages;
    memset(stage, 0, sizeof *stage);
    snprintf(stage->place, sizeof stage->place, "memory:unit%d", stages++);
    stage->world = belay_fake_create(3);
    assert_non_null(stage->world);
    belay_open_options options = options_of(stage);
    assert_int_equal(belay_open(&stage->plain, stage->place, &options, NULL), BELAY_OK);
    belay_status status = open_fault(stage, keys, &stage->faulty, &err);
    if (status != BELAY_OK) fail_msg("open: %s", err.text);
}

static inline void end(struct stage *stage)
{
    belay_close(stage->faulty);
    belay_close(stage->plain);
    assert_int_equal(belay_fake_clients(stage->world), 0);
    belay_fake_destroy(stage->world);
}

static inline belay_options lease(uint32_t ttl_ms)
{
    belay_options options = BELAY_OPTIONS_INIT;
    options.ttl_ms = ttl_ms;
    options.wait_ms = BELAY_TRY;
    options.keep = BELAY_KEEP_OFF;
    return options;
}

static inline belay_status try_for(belay *client, uint32_t ttl_ms, belay_lock **out,
                                   belay_error *err)
{
    belay_options options = lease(ttl_ms);
    *out = NULL;
    return belay_acquire(client, "name", &options, out, err);
}

static inline belay_lock *take(belay *client)
{
    belay_lock *lock = NULL;
    belay_error err = BELAY_ERROR_INIT;
    belay_status status = try_for(client, 10000, &lock, &err);
    if (status != BELAY_OK) fail_msg("acquire: %s: %s", belay_status_name(status), err.text);
    return lock;
}

static inline void refused(belay *client, belay_status wanted)
{
    belay_lock *lock = NULL;
    assert_int_equal(try_for(client, 10000, &lock, NULL), wanted);
    assert_null(lock);
}

static inline bool is_free(struct stage *stage)
{
    belay_info info = { .size = sizeof info };
    assert_int_equal(belay_inspect(stage->plain, "name", &info, NULL), BELAY_OK);
    return !info.held;
}

/* Lets time pass for the faulty client, in steps. */
static inline void pass(struct stage *stage, int64_t ms)
{
    for (int64_t step = ms > 0 ? ms : 1; step-- > 0;) {
        if (ms > 0) belay_fake_advance(stage->world, MS);
        assert_int_equal(belay_dispatch(stage->faulty), BELAY_OK);
    }
}

/* How long until the place is free, up to `most` ms. */
static inline int64_t free_after_ms(struct stage *stage, int64_t most)
{
    for (int64_t ms = 0; ms <= most; ms++) {
        if (is_free(stage)) return ms;
        pass(stage, 1);
    }
    return most + 1;
}

#endif
