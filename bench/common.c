/* common.c - bench.h's part that is compiled once. */
#define _GNU_SOURCE
#include "bench.h"

#include <belay/belay.h>
#include <dirent.h>
#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { PAIRS_MAX = 1024 };

static struct {
    const char *name;
    bool json, quick;
    int rows;
    int missed;
    int64_t began_ns;
    double busy_before;
} report;

int64_t bench_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

void bench_sleep(int64_t ns)
{
    struct timespec left = { .tv_sec = ns / 1000000000, .tv_nsec = ns % 1000000000 };
    while (nanosleep(&left, &left) != 0 && errno == EINTR) continue;
}

void bench_die(const char *what, const char *why)
{
    fprintf(stderr, "bench: %s: %s\n", what, why);
    exit(1);
}

void bench_need(int status, const char *what, const char *why)
{
    if (status != BELAY_OK) bench_die(what, why[0] != '\0' ? why : belay_status_text(status));
}

static void child_ended(int signal)
{
    static const char said[] = "bench: a process failed\n";
    int saved = errno;
    siginfo_t child = { 0 };
    (void)signal;
    if (waitid(P_ALL, 0, &child, WEXITED | WNOHANG | WNOWAIT) == 0 && child.si_pid != 0 &&
        (child.si_code != CLD_EXITED || child.si_status != 0)) {
        if (write(STDERR_FILENO, said, sizeof said - 1) < 0) _exit(2);
        _exit(1);
    }
    errno = saved;
}

void bench_watch_children(void)
{
    struct sigaction action = { .sa_handler = child_ended, .sa_flags = SA_RESTART | SA_NOCLDSTOP };
    if (sigaction(SIGCHLD, &action, NULL) != 0) bench_die("sigaction", strerror(errno));
}

void bench_remove(const char *directory)
{
    char path[512];
    const struct dirent *entry;
    DIR *dir = opendir(directory);
    while (dir != NULL && (entry = readdir(dir)) != NULL) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
        snprintf(path, sizeof path, "%s/%s", directory, entry->d_name);
        unlink(path);
    }
    if (dir != NULL) closedir(dir);
    rmdir(directory);
}

/* ------------------------------------------------------------------ medians */

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double bench_median(double *values, size_t count)
{
    if (count == 0) return 0;
    qsort(values, count, sizeof *values, ascending);
    size_t middle = count / 2;
    return count % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
}

struct bench_pair bench_pair_of(double *ours, double *bare, size_t count)
{
    double ratios[PAIRS_MAX];
    if (count > PAIRS_MAX) bench_die("pairs", "too many");
    for (size_t i = 0; i < count; i++) ratios[i] = bare[i] != 0 ? ours[i] / bare[i] : 0;
    return (struct bench_pair){ .belay = bench_median(ours, count),
                                .floor = bench_median(bare, count),
                                .ratio = bench_median(ratios, count) };
}

struct bench_pair bench_pairs(size_t count, bench_figure_fn *ours, bench_figure_fn *bare, void *arg)
{
    double of_ours[PAIRS_MAX], of_bare[PAIRS_MAX];
    if (count > PAIRS_MAX) bench_die("pairs", "too many");
    ours(arg);
    bare(arg);
    for (size_t i = 0; i < count; i++) {
        of_ours[i] = ours(arg);
        of_bare[i] = bare(arg);
    }
    return bench_pair_of(of_ours, of_bare, count);
}

/* ------------------------------------------------------------------ the report */

static void quoted(const char *text)
{
    putchar('"');
    for (; *text != '\0'; text++) {
        if (*text == '"' || *text == '\\') putchar('\\');
        if ((unsigned char)*text >= ' ') putchar(*text);
    }
    putchar('"');
}

void bench_fact(const char *key, const char *format, ...)
{
    char text[256];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (!report.json) {
        printf("%s: %s\n", key, text);
        return;
    }
    printf(", ");
    quoted(key);
    printf(": ");
    quoted(text);
}

static void processor(char *out, size_t size)
{
    char line[256];
    FILE *file = fopen("/proc/cpuinfo", "re");
    snprintf(out, size, "unknown");
    while (file != NULL && fgets(line, sizeof line, file) != NULL) {
        char *colon = strchr(line, ':');
        if (strncmp(line, "model name", 10) != 0 || colon == NULL) continue;
        line[strcspn(line, "\n")] = '\0';
        snprintf(out, size, "%s", colon + 2);
        break;
    }
    if (file != NULL) fclose(file);
}

/* Seconds that all processors were not idle, since boot; and those of them that were ours. */
static double busy_seconds(void)
{
    double busy = 0, field;
    FILE *file = fopen("/proc/stat", "re");
    if (file == NULL || fscanf(file, "cpu ") != 0) goto out;
    for (int i = 0; i < 8 && fscanf(file, "%lf", &field) == 1; i++)
        if (i != 3 && i != 4) busy += field; /* idle, iowait */
out:
    if (file != NULL) fclose(file);
    return busy / (double)sysconf(_SC_CLK_TCK);
}

static double own_seconds(void)
{
    double sum = 0;
    const int who[] = { RUSAGE_SELF, RUSAGE_CHILDREN };
    for (size_t i = 0; i < 2; i++) {
        struct rusage used;
        getrusage(who[i], &used);
        sum += (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) +
               (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6;
    }
    return sum;
}

/* How many processors were busy for others during the run: what to distrust the figures by. */
static double others(void)
{
    double took = (double)(bench_now() - report.began_ns) / 1e9;
    double busy = busy_seconds() - report.busy_before - own_seconds();
    return took > 0 && busy > 0 ? busy / took : 0;
}

int bench_begin(const char *name, int argc, char **argv)
{
    int next = 1;
    report.name = name;
    report.began_ns = bench_now();
    report.busy_before = busy_seconds();
    for (; next < argc; next++) {
        if (strcmp(argv[next], "--json") == 0) report.json = true;
        else if (strcmp(argv[next], "--quick") == 0) report.quick = true;
        else break;
    }
    char model[128], date[32];
    struct utsname os;
    time_t now = time(NULL);
    struct tm utc;
    processor(model, sizeof model);
    uname(&os);
    strftime(date, sizeof date, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &utc));
    if (report.json) {
        printf("{\"bench\": ");
        quoted(name);
    }
    bench_fact("date", "%s", date);
    bench_fact("machine", "%s, %ld processors, %s %s", model, sysconf(_SC_NPROCESSORS_ONLN),
               os.sysname, os.release);
    bench_fact("belay", "%s", belay_version());
    if (report.quick) bench_fact("quick", "yes: the figures mean nothing");
    return next;
}

bool bench_quick(void)
{
    return report.quick;
}

/* Three significant digits; thousands in groups. */
static const char *shown(double value, char out[32])
{
    if (value == 0 || fabs(value) < 1000) {
        snprintf(out, 32, "%.3g", value);
        return out;
    }
    char digits[24];
    snprintf(digits, sizeof digits, "%.0f", value);
    size_t length = strlen(digits), to = 0;
    for (size_t i = 0; i < length; i++) {
        if (i > 0 && (length - i) % 3 == 0) out[to++] = ',';
        out[to++] = digits[i];
    }
    out[to] = '\0';
    return out;
}

/* The target in words, and whether it is met: 1, 0, or -1 where there is none. */
static int judge(const struct bench_row *row, char out[64])
{
    char number[32];
    out[0] = '\0';
    if (row->belay_over != 0) {
        snprintf(out, 64, "> %s", shown(row->belay_over, number));
        return row->pair.belay > row->belay_over;
    }
    if (row->belay_under != 0) {
        snprintf(out, 64, "< %s", shown(row->belay_under, number));
        return row->pair.belay < row->belay_under;
    }
    if (row->ratio_over != 0) {
        snprintf(out, 64, "ratio >= %s", shown(row->ratio_over, number));
        return row->pair.ratio >= row->ratio_over;
    }
    if (row->ratio_under != 0) {
        snprintf(out, 64, "ratio <= %s", shown(row->ratio_under, number));
        return row->pair.ratio <= row->ratio_under;
    }
    return -1;
}

static void row_json(const struct bench_row *row, const char *target, int ok)
{
    printf(report.rows == 0 ? ", \"rows\": [\n" : ",\n");
    printf("  {\"what\": ");
    quoted(row->what);
    printf(", \"unit\": ");
    quoted(row->unit);
    printf(", \"belay\": %.9g", row->pair.belay);
    if (row->floor_is != NULL)
        printf(", \"floor\": %.9g, \"ratio\": %.4g", row->pair.floor, row->pair.ratio);
    else printf(", \"floor\": null, \"ratio\": null");
    printf(", \"target\": ");
    quoted(target);
    printf(", \"ok\": %s, \"floor is\": ", ok < 0 ? "null" : ok ? "true" : "false");
    quoted(row->floor_is != NULL ? row->floor_is : "");
    printf("}");
}

void bench_row(const struct bench_row *row)
{
    char target[64], ours[32], bare[32], ratio[32];
    static const char *const verdicts[] = { "", "NO", "yes" };
    int ok = judge(row, target);
    report.missed += ok == 0;
    if (report.json) {
        row_json(row, target, ok);
    } else {
        if (report.rows == 0)
            printf("\n%-44s %6s %12s %12s %7s  %-14s %-3s %s\n", "what", "unit", "belay", "floor",
                   "ratio", "target", "ok", "floor is");
        bool has_floor = row->floor_is != NULL;
        printf("%-44s %6s %12s %12s %7s  %-14s %-3s %s\n", row->what, row->unit,
               shown(row->pair.belay, ours), has_floor ? shown(row->pair.floor, bare) : "-",
               has_floor ? shown(row->pair.ratio, ratio) : "-", target, verdicts[ok + 1],
               has_floor ? row->floor_is : "");
    }
    report.rows++;
    fflush(stdout);
}

int bench_end(void)
{
    static const char shown_json[] = ", \"processors busy for others\": %.2f, \"missed\": %d}\n";
    static const char shown_text[] = "\nprocessors busy for others: %.2f; targets missed: %d\n";
    if (report.json && report.rows > 0) printf("\n ]");
    printf(report.json ? shown_json : shown_text, others(), report.missed);
    fflush(stdout);
    return ferror(stdout) ? 1 : 0;
}
