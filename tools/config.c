/* config.c - is the configuration good, and what does it say: `config check`, `config show`,
 * `doctor`. */
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

/* ------------------------------------------------------------------ doctor */

struct findings {
    const struct args *args;
    struct json json;
    belay_severity worst;
};

static const char *const severities[] = { "fine", "warning", "broken" };

static void print_finding(void *arg, const belay_finding *finding)
{
    struct findings *findings = arg;
    if (finding->severity > findings->worst) findings->worst = finding->severity;
    if (findings->args->json) {
        json_open(&findings->json, NULL, '{');
        json_text(&findings->json, "severity", severities[finding->severity]);
        json_text(&findings->json, "backend", finding->backend);
        json_text(&findings->json, "check", finding->check);
        json_text(&findings->json, "text", finding->text);
        json_text(&findings->json, "advice", finding->advice);
        json_close(&findings->json, '}');
        return;
    }
    struct text text;
    text_init(&text);
    text_add(&text, "%-8s ", severities[finding->severity]);
    text_add_shown(&text, finding->backend);
    text_add(&text, ", ");
    text_add_shown(&text, finding->check);
    text_add(&text, ": ");
    text_add_shown(&text, finding->text);
    if (finding->advice[0] != '\0') {
        text_add(&text, " (");
        text_add_shown(&text, finding->advice);
        text_add(&text, ")");
    }
    puts(text.data);
}

int verb_doctor(const struct args *args)
{
    struct findings findings = { .args = args };
    belay_error err = BELAY_ERROR_INIT;
    int status;

    belay *client = client_open(args, &status);
    if (client == NULL) return status;
    json_init(&findings.json, stdout);
    if (args->json) json_open(&findings.json, NULL, '[');
    status = EXIT_DONE;
    if (belay_diagnose(client, print_finding, &findings, &err) != BELAY_OK)
        status = complain(NULL, &err);
    else if (findings.worst == BELAY_BROKEN) status = EXIT_UNAVAILABLE;
    if (args->json) {
        json_close(&findings.json, ']');
        putc('\n', stdout);
    }
    belay_close(client);
    return output_end(status);
}
