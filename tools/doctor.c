/* doctor.c - `belay doctor`: what every backend of the config says of itself, and a lock taken and
 * released. */
#include <inttypes.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "client.h"
#include "json.h"
#include "message.h"
#include "verbs.h"

enum { EXIT_WARNINGS = 1, LEASE_MS = 5000 };

struct report {
    const struct args *args;
    struct json json;
    int counts[BELAY_BROKEN + 1];
    char backend[256]; /* whose findings are being printed */
    struct text where; /* what was opened: the first line */
};

static const char *const severities[] = { "fine", "warning", "broken" };

/* ------------------------------------------------------------------ a finding */

static void add_part(struct text *text, const char *label, const char *part)
{
    if (part[0] == '\0') return;
    text_add(text, "\n           %s: ", label);
    text_add_shown(text, part);
}

/* What is fine takes one line; what is not says what it means, and what to do. */
static void print_text(struct report *report, const belay_finding *finding)
{
    struct text text;
    bool fine = finding->severity == BELAY_FINE;
    if (strcmp(report->backend, finding->backend) != 0) {
        snprintf(report->backend, sizeof report->backend, "%s", finding->backend);
        text_init(&text);
        text_add_shown(&text, finding->backend);
        if (finding->type[0] != '\0' && strcmp(finding->type, finding->backend) != 0)
            text_add(&text, " (%s)", finding->type);
        /* With a URL it stands there already. */
        if (strcmp(text.data, report->where.data) == 0) putchar('\n');
        else printf("\n%s\n", text.data);
    }
    text_init(&text);
    text_add(&text, "  %-8s ", severities[finding->severity]);
    text_add_shown(&text, finding->check);
    text_add(&text, ": ");
    text_add_shown(&text, finding->text);
    if (fine && finding->meaning[0] != '\0') {
        text_add(&text, "; ");
        text_add_shown(&text, finding->meaning);
    } else if (!fine) {
        add_part(&text, "that means", finding->meaning);
    }
    add_part(&text, "to do", finding->advice);
    puts(text.data);
}

static void print_json(struct json *json, const belay_finding *finding)
{
    json_open(json, NULL, '{');
    json_text(json, "severity", severities[finding->severity]);
    json_text(json, "backend", finding->backend);
    json_text(json, "type", finding->type);
    json_text(json, "check", finding->check);
    json_text(json, "text", finding->text);
    json_text(json, "meaning", finding->meaning);
    json_text(json, "advice", finding->advice);
    json_close(json, '}');
}

static void on_finding(void *arg, const belay_finding *finding)
{
    struct report *report = arg;
    report->counts[finding->severity]++;
    if (report->args->json) print_json(&report->json, finding);
    else print_text(report, finding);
}

/* ------------------------------------------------------------------ all of it together */

static int64_t clock_ns(void)
{
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return (int64_t)at.tv_sec * 1000000000 + at.tv_nsec;
}

/* Takes and releases a lock of its own, and tells how that went. Its name holds the pid and the
 * time, so that two doctors don't meet. */
static void try_a_lock(belay *client, struct report *report)
{
    belay_options options = BELAY_OPTIONS_INIT;
    belay_error err = BELAY_ERROR_INIT;
    belay_finding finding = { .size = sizeof finding,
                              .backend = "all of it together",
                              .type = "",
                              .check = "a lock",
                              .meaning = "",
                              .advice = "" };
    struct text text;
    belay_lock *lock;
    char name[64];
    int64_t began = clock_ns();

    snprintf(name, sizeof name, "belay-doctor-%ld-%" PRIx64, (long)getpid(), (uint64_t)began);
    options.wait_ms = BELAY_TRY;
    options.keep = BELAY_KEEP_OFF;
    uint32_t usual_ms = belay_ttl_ms(client); /* a place may take none that is longer */
    options.ttl_ms = usual_ms < LEASE_MS ? usual_ms : LEASE_MS;
    options.label = "belay doctor";
    text_init(&text);
    belay_status status = belay_acquire(client, name, &options, &lock, &err);
    if (status == BELAY_OK) {
        belay_scope scope = belay_lock_scope(lock);
        uint64_t token = belay_lock_token(lock);
        status = belay_release(lock, &err);
        double ms = (double)(clock_ns() - began) / 1e6;
        text_add(&text, status == BELAY_OK ? "taken and released in %.1f ms" : "taken in %.1f ms",
                 ms);
        text_add(&text, "; scope %s", belay_scope_name(scope));
        if (token != 0) text_add(&text, "; token %" PRIu64, token);
        if (status != BELAY_OK) {
            text_add(&text, "; not released: ");
            finding.meaning = "locks stay behind until their TTL ends";
        }
    } else {
        text_add(&text, "not taken: ");
        finding.meaning = "a program that wants a lock gets the same answer";
    }
    if (status != BELAY_OK) text_add_error(&text, &err);
    finding.text = text.data;
    finding.severity = status == BELAY_OK ? BELAY_FINE : BELAY_BROKEN;
    on_finding(report, &finding);
}

static int conclude(struct report *report)
{
    const int *counts = report->counts;
    int worst = counts[BELAY_BROKEN] > 0    ? BELAY_BROKEN
                : counts[BELAY_WARNING] > 0 ? BELAY_WARNING
                                            : BELAY_FINE;
    if (report->args->json) {
        json_close(&report->json, ']');
        json_text(&report->json, "verdict", severities[worst]);
        json_close(&report->json, '}');
        putc('\n', stdout);
    } else if (worst == BELAY_FINE) {
        puts("\nall is well");
    } else {
        printf("\n%d broken, %d warning%s, %d fine\n", counts[BELAY_BROKEN], counts[BELAY_WARNING],
               counts[BELAY_WARNING] == 1 ? "" : "s", counts[BELAY_FINE]);
    }
    return worst == BELAY_BROKEN    ? EXIT_UNAVAILABLE
           : worst == BELAY_WARNING ? EXIT_WARNINGS
                                    : EXIT_DONE;
}

int verb_doctor(const struct args *args)
{
    struct report report = { .args = args };
    belay_error err = BELAY_ERROR_INIT;
    int status;

    belay *client = client_open(args, &status);
    if (client == NULL) return status;
    json_init(&report.json, stdout);
    if (args->json) {
        json_open(&report.json, NULL, '{');
        json_text(&report.json, "where", belay_where(client));
        json_text(&report.json, "version", belay_version());
        json_open(&report.json, "findings", '[');
    } else {
        text_init(&report.where);
        text_add_shown(&report.where, belay_where(client));
        puts(report.where.data);
    }
    if (belay_diagnose(client, on_finding, &report, &err) != BELAY_OK) {
        complain(NULL, &err);
        report.counts[BELAY_BROKEN]++;
    }
    try_a_lock(client, &report);
    status = conclude(&report);
    belay_close(client);
    return output_end(status);
}
