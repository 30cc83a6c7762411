/* grant.c - locks held across several commands of a script: `belay try` takes one and prints its
 * owner id, `extend` and `release` prove themselves with it. Nothing is tied to a process: such a
 * lock lives by its TTL. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "client.h"
#include "json.h"
#include "message.h"
#include "verbs.h"

/* False: the TTL is out of range, and it was said. */
static bool ttl_of(const struct args *args, uint32_t *ttl_ms)
{
    *ttl_ms = 0;
    if (args->ttl_ms < 0) return true;
    if (args->ttl_ms < (int64_t)BELAY_TTL_MIN_MS || args->ttl_ms > (int64_t)BELAY_TTL_MAX_MS) {
        say(NULL, "--ttl: from 100ms to 7d");
        return false;
    }
    *ttl_ms = (uint32_t)args->ttl_ms;
    return true;
}

/* That another holds it is an answer, which -q does not want to hear. */
static int failed(const struct args *args, const belay_error *err)
{
    if (args->quiet && err->status == BELAY_HELD) return EXIT_HELD;
    return complain(args->words[0], err);
}

static void print_grant(const belay_lock *lock)
{
    struct json json;
    json_init(&json, stdout);
    json_open(&json, NULL, '{');
    json_text(&json, "name", belay_lock_name(lock));
    json_text(&json, "owner", belay_lock_owner(lock));
    json_unsigned(&json, "token", belay_lock_token(lock));
    json_text(&json, "scope", belay_scope_name(belay_lock_scope(lock)));
    json_number(&json, "remaining_ms", belay_lock_remaining_ms(lock));
    json_close(&json, '}');
    putc('\n', stdout);
}

static int try_with(belay *client, const struct args *args, uint32_t ttl_ms)
{
    belay_options options = BELAY_OPTIONS_INIT;
    belay_error err = BELAY_ERROR_INIT;
    belay_lock *lock;
    char label[BELAY_LABEL_MAX + 1];

    client_label(args, "belay try", label);
    options.label = label;
    options.ttl_ms = ttl_ms;
    options.wait_ms = BELAY_TRY;
    options.keep = BELAY_KEEP_OFF;
    options.detached = true;
    options.at_least = args->no_degrade ? belay_reach(client) : BELAY_SCOPE_ANY;
    belay_status status = belay_acquire(client, args->words[0], &options, &lock, &err);
    if (status != BELAY_OK) {
        int exit_status = failed(args, &err);
        return status == BELAY_HELD ? (int)args->held_status : exit_status;
    }
    if (args->json) print_grant(lock);
    else printf("%s\n", belay_lock_owner(lock));
    /* A lock whose owner id reached nobody could be released by nobody. */
    int why = output_flush();
    if (why == 0) {
        belay_forget(lock);
        return EXIT_DONE;
    }
    (void)belay_release(lock, NULL);
    return output_failed(why);
}

int verb_try(const struct args *args)
{
    uint32_t ttl_ms;
    int status;

    if (!ttl_of(args, &ttl_ms)) return EXIT_USAGE;
    belay *client = client_open(args, &status);
    if (client == NULL) return status;
    status = try_with(client, args, ttl_ms);
    belay_close(client);
    return status;
}

static belay_lock *adopt(belay *client, const struct args *args, int *status)
{
    belay_options options = BELAY_OPTIONS_INIT;
    belay_error err = BELAY_ERROR_INIT;
    belay_lock *lock;

    options.keep = BELAY_KEEP_OFF;
    options.detached = true;
    if (belay_adopt(client, args->words[0], args->owner, &options, &lock, &err) == BELAY_OK)
        return lock;
    *status = failed(args, &err);
    return NULL;
}

int verb_extend(const struct args *args)
{
    belay_error err = BELAY_ERROR_INIT;
    uint32_t ttl_ms;
    int status;

    if (!ttl_of(args, &ttl_ms)) return EXIT_USAGE;
    belay *client = client_open(args, &status);
    if (client == NULL) return status;
    belay_lock *lock = adopt(client, args, &status);
    if (lock != NULL) {
        status = EXIT_DONE;
        if (belay_extend(lock, ttl_ms, &err) != BELAY_OK) status = failed(args, &err);
        else if (args->json) print_grant(lock);
        belay_forget(lock);
    }
    belay_close(client);
    return output_end(status);
}

int verb_release(const struct args *args)
{
    belay_error err = BELAY_ERROR_INIT;
    int status;

    belay *client = client_open(args, &status);
    if (client == NULL) return status;
    belay_lock *lock = adopt(client, args, &status);
    if (lock != NULL) {
        status = EXIT_DONE;
        if (belay_release(lock, &err) != BELAY_OK) status = failed(args, &err);
    }
    belay_close(client);
    if (args->json && status == EXIT_DONE) {
        struct json json;
        json_init(&json, stdout);
        json_open(&json, NULL, '{');
        json_text(&json, "name", args->words[0]);
        json_bool(&json, "released", true);
        json_close(&json, '}');
        putc('\n', stdout);
    }
    return output_end(status);
}
