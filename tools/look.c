/* look.c - looking at locks from outside: `status`, `list`, and `break`, which looks before it
 * acts. */
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#include "client.h"
#include "health.h"
#include "json.h"
#include "message.h"
#include "verbs.h"

/* Owner ids are shown when asked for: who knows one may release the lock. */
static void print_info_json(struct json *json, const belay_info *info, bool show_owner)
{
    json_open(json, NULL, '{');
    json_text(json, "name", info->name);
    json_bool(json, "held", info->held);
    if (info->held) {
        json_text(json, "label", info->label);
        json_text(json, "scope", belay_scope_name(info->scope));
        json_unsigned(json, "token", info->token);
        json_number_from(json, "pid", info->pid, 1);
        json_number_from(json, "held_ms", info->held_ms, 0);
        json_number_from(json, "remaining_ms", info->remaining_ms, 0);
        json_unsigned(json, "waiters", info->waiters);
        if (show_owner) json_text(json, "owner", info->owner);
    }
    json_close(json, '}');
}

static void text_add_info(struct text *text, const belay_info *info, bool show_owner)
{
    text_add_shown(text, info->name);
    if (!info->held) {
        text_add(text, ": free");
        return;
    }
    text_add(text, ": held by ");
    text_add_holder(text, info);
    if (info->remaining_ms >= 0) {
        text_add(text, "; TTL ");
        text_add_span(text, info->remaining_ms);
    }
    text_add(text, "; scope %s", belay_scope_name(info->scope));
    if (info->token != 0) text_add(text, "; token %" PRIu64, info->token);
    if (info->waiters != 0) text_add(text, "; %" PRIu32 " waiting", info->waiters);
    if (show_owner) {
        text_add(text, "; owner ");
        text_add_shown(text, info->owner[0] != '\0' ? info->owner : "unknown");
    }
}

static void print_info(const struct args *args, const belay_info *info)
{
    if (args->json) {
        struct json json;
        json_init(&json, stdout);
        print_info_json(&json, info, args->show_owner);
        putc('\n', stdout);
    } else {
        struct text text;
        text_init(&text);
        text_add_info(&text, info, args->show_owner);
        puts(text.data);
    }
}

static bool inspect(belay *client, const char *name, belay_info *info, int *status)
{
    belay_error err = BELAY_ERROR_INIT;
    memset(info, 0, sizeof(*info));
    info->size = (uint32_t)sizeof(*info);
    if (belay_inspect(client, name, info, &err) != BELAY_OK) {
        *status = complain(name, &err);
        return false;
    }
    if (info->name[0] == '\0') snprintf(info->name, sizeof(info->name), "%s", name);
    return true;
}

/* ------------------------------------------------------------------ status */

static bool count_one(void *arg, const belay_info *info)
{
    (void)info;
    ++*(uint64_t *)arg;
    return true;
}

struct overall {
    belay_status ready;
    belay_error err;
    bool known; /* `health` holds */
    belay_health health;
    bool counted;
    uint64_t held;
};

static void overall_json(const struct overall *overall, const belay *client)
{
    struct json json;
    json_init(&json, stdout);
    json_open(&json, NULL, '{');
    json_bool(&json, "ready", overall->ready == BELAY_OK);
    json_text(&json, "status", belay_status_name(overall->ready));
    json_text_or_null(&json, "node", overall->ready != BELAY_OK ? overall->err.node : "");
    json_text_or_null(&json, "text", overall->ready != BELAY_OK ? overall->err.text : "");
    json_text(&json, "where", belay_where(client));
    if (overall->counted) json_unsigned(&json, "held", overall->held);
    else json_null(&json, "held");
    json_scope(&json, "reach", belay_reach(client));
    json_health(&json, overall->known ? &overall->health : NULL);
    json_close(&json, '}');
    putc('\n', stdout);
}

static void overall_text(const struct overall *overall, const belay *client)
{
    const belay_health *health = &overall->health;
    struct text text;

    if (overall->ready == BELAY_OK) {
        text_init(&text);
        text_add(&text, "ready: ");
        text_add_shown(&text, belay_where(client));
        if (overall->known) text_add(&text, "; scope %s", belay_scope_name(health->scope));
        if (overall->counted) text_add(&text, "; %" PRIu64 " held", overall->held);
        puts(text.data);
    }
    if (overall->known && health->degraded) {
        text_init(&text);
        text_add_degraded(&text, health);
        puts(text.data);
    }
    if (overall->known && health->other) {
        text_init(&text);
        text_add_other(&text, health);
        puts(text.data);
    }
}

/* Without a name: could a lock be taken here and now, how far would it reach, and how many are
 * held? */
static int status_overall(belay *client, const struct args *args)
{
    struct overall overall = { .err = BELAY_ERROR_INIT,
                               .health = { .size = sizeof(belay_health) } };
    belay_error ignored = BELAY_ERROR_INIT;

    overall.ready = belay_ready(client, &overall.err); /* first: what is known is known by trying */
    overall.known = belay_get_health(client, &overall.health, &ignored) == BELAY_OK;
    overall.counted = belay_list(client, NULL, count_one, &overall.held, &ignored) == BELAY_OK;
    if (args->json) overall_json(&overall, client);
    else overall_text(&overall, client);
    if (overall.ready != BELAY_OK) return complain(NULL, &overall.err);
    if (!args->no_degrade || !overall.known || !overall.health.degraded) return EXIT_DONE;
    say(NULL, "degraded, which --no-degrade does not take");
    return EXIT_UNAVAILABLE;
}

int verb_status(const struct args *args)
{
    belay_info info;
    int status;

    belay *client = client_open(args, &status);
    if (client == NULL) return status;
    if (args->word_count == 0) {
        status = status_overall(client, args);
    } else if (inspect(client, args->words[0], &info, &status)) {
        print_info(args, &info);
        status = EXIT_DONE;
    }
    belay_close(client);
    return output_end(status);
}

/* ------------------------------------------------------------------ list */

struct listing {
    const struct args *args;
    struct json json;
};

static bool list_one(void *arg, const belay_info *info)
{
    struct listing *listing = arg;
    if (listing->args->json) print_info_json(&listing->json, info, listing->args->show_owner);
    else print_info(listing->args, info);
    return !ferror(stdout);
}

int verb_list(const struct args *args)
{
    struct listing listing = { .args = args };
    belay_error err = BELAY_ERROR_INIT;
    int status;

    belay *client = client_open(args, &status);
    if (client == NULL) return status;
    json_init(&listing.json, stdout);
    if (args->json) json_open(&listing.json, NULL, '[');
    status = EXIT_DONE;
    if (belay_list(client, args->words[0], list_one, &listing, &err) != BELAY_OK)
        status = complain(NULL, &err);
    if (args->json) {
        json_close(&listing.json, ']');
        putc('\n', stdout);
    }
    belay_close(client);
    return output_end(status);
}

/* ------------------------------------------------------------------ break */

static bool confirmed(const belay_info *info)
{
    struct text text;
    int answer = 0, c;

    text_init(&text);
    text_add_info(&text, info, false);
    text_add(&text, "\nbelay: break it? Its holder is not asked. [y/N] ");
    say_text(NULL, &text);
    while ((c = getchar()) != EOF && c != '\n')
        if (answer == 0) answer = c;
    return answer == 'y' || answer == 'Y';
}

static int break_seen(belay *client, const struct args *args, const belay_info *info)
{
    belay_error err = BELAY_ERROR_INIT;

    if (info->held) {
        if (!args->yes && !confirmed(info)) {
            say(info->name, "left alone");
            return EXIT_HELD;
        }
        if (belay_break(client, info->name, info, &err) != BELAY_OK)
            return complain(info->name, &err);
    } else if (!args->quiet) {
        say(info->name, "nobody holds it");
    }
    if (args->json) {
        struct json json;
        json_init(&json, stdout);
        json_open(&json, NULL, '{');
        json_text(&json, "name", info->name);
        json_bool(&json, "broken", info->held);
        json_text(&json, "label", info->label);
        json_close(&json, '}');
        putc('\n', stdout);
    } else if (info->held && !args->quiet) {
        struct text text;
        text_init(&text);
        text_add(&text, "broken; it was held by ");
        text_add_holder(&text, info);
        say_text(info->name, &text);
    }
    return EXIT_DONE;
}

int verb_break(const struct args *args)
{
    belay_info info;
    int status;

    if (!args->yes && (isatty(STDIN_FILENO) != 1 || isatty(STDERR_FILENO) != 1)) {
        say("break", "nobody to ask: --yes, if it is to be broken");
        return EXIT_USAGE;
    }
    belay *client = client_open(args, &status);
    if (client == NULL) return status;
    if (inspect(client, args->words[0], &info, &status)) status = break_seen(client, args, &info);
    belay_close(client);
    return output_end(status);
}
