/* config.c - is the configuration good, and what may it say: `config check`, `config show`. */
#include <string.h>

#include "client.h"
#include "json.h"
#include "message.h"
#include "verbs.h"

/* Opening checks every key and connects to nothing. */
static int config_check(const struct args *args, const char *where)
{
    struct args at = *args;
    int status;

    if (where != NULL) at.config = where;
    belay *client = client_open(&at, &status);
    if (client == NULL) return status;
    if (args->json) {
        struct json json;
        json_init(&json, stdout);
        json_open(&json, NULL, '{');
        json_bool(&json, "valid", true);
        json_text(&json, "where", belay_where(client));
        json_number(&json, "ttl_ms", belay_ttl_ms(client));
        json_close(&json, '}');
        putc('\n', stdout);
    } else {
        struct text text;
        text_init(&text);
        text_add_shown(&text, belay_where(client));
        printf("OK: %s\n", text.data);
    }
    belay_close(client);
    return EXIT_DONE;
}

struct description {
    struct json json;
    bool as_json;
    int lines;
};

static void show_line(void *arg, const char *line)
{
    struct description *description = arg;
    description->lines++;
    if (description->as_json) json_text(&description->json, NULL, line);
    else puts(line);
}

/* The keys that a type of backend understands, or the types. */
static int config_show(const struct args *args, const char *type)
{
    struct description description = { .as_json = args->json };
    json_init(&description.json, stdout);
    if (args->json) json_open(&description.json, NULL, '[');
    belay_describe(type, show_line, &description);
    if (args->json) {
        json_close(&description.json, ']');
        putc('\n', stdout);
    }
    if (description.lines > 0 || type == NULL) return EXIT_DONE;
    say(type, "no such type of backend; `belay config show` lists them");
    return EXIT_USAGE;
}

int verb_config(const struct args *args)
{
    const char *what = args->words[0];
    if (strcmp(what, "check") == 0) return output_end(config_check(args, args->words[1]));
    if (strcmp(what, "show") == 0) return output_end(config_show(args, args->words[1]));
    say("config", "check or show?");
    return EXIT_USAGE;
}
