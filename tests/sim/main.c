/* main.c - many seeds, or one, told aloud.
 *
 *   sim --from N --count N       the schedules N ...; a failure is printed, and the status is 1
 *   sim --seeds FILE             those of the file, one a line; the rest of a line says why
 *   sim --seed N                 that one alone, and what happened in it
 *   sim --seconds N              with --from: until that time has passed
 *   sim --must-fail              with --from: claims what only host_first gives, without it; a
 *                                violation must be found
 *   sim --twice                  each set is run twice, which must be the same */
#include "tests/sim/sim.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { PATIENCE_S = 120 }; /* for the schedules of one set, which need milliseconds */

/* A call of belay's does not return. */
static void stuck(int number)
{
    char text[120];
    int length =
        snprintf(text, sizeof text, "seed %llu does not end: sim --seed %llu\n",
                 (unsigned long long)sim_current->seed, (unsigned long long)sim_current->seed);
    (void)number;
    if (write(STDERR_FILENO, text, (size_t)length) < 0) _exit(3);
    _exit(2);
}

struct arguments {
    uint64_t from, count;
    double seconds; /* 0: no limit */
    const char *seeds;
    bool one, twice;
    struct sim_options options;
};

struct totals {
    uint64_t schedules, events, grants, fleet_grants, moves;
    double seconds;
};

static double clock_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

/* The last of what happened, which only a second run tells. */
static void failed(const struct sim_result *result, const struct sim_options *options)
{
    struct sim_options again = *options;
    struct sim_result same;
    fflush(stdout);
    if (!options->loud) {
        again.loud = again.last = true;
        sim_run(result->seed, result->seed, &again, &same);
        sim_say_last(stderr);
    }
    fprintf(stderr, "seed %llu: %s\nall of it: sim%s --seed %llu\n",
            (unsigned long long)result->seed, result->failure,
            options->no_host_first ? " --must-fail" : "", (unsigned long long)result->seed);
}

static void add(struct totals *totals, const struct sim_result *result, uint64_t schedules)
{
    totals->schedules += schedules;
    totals->events += result->events;
    totals->grants += result->grants;
    totals->fleet_grants += result->fleet_grants;
    totals->moves += result->moves;
}

/* The schedules first to last of one set. */
static bool run(const struct arguments *arguments, uint64_t first, uint64_t last,
                struct totals *totals)
{
    struct sim_result result, again;
    alarm(PATIENCE_S);
    sim_run(first, last, &arguments->options, &result);
    add(totals, &result, last - first + 1);
    if (!result.failed && arguments->twice) {
        sim_run(first, last, &arguments->options, &again);
        if (again.failed || again.digest != result.digest) {
            result = again;
            result.failed = true;
            result.seed = last;
            snprintf(result.failure, sizeof result.failure, "a second run was another one");
        }
    }
    if (result.failed) failed(&result, &arguments->options);
    return !result.failed;
}

static bool run_many(const struct arguments *arguments, struct totals *totals)
{
    double began = clock_now();
    uint64_t end = arguments->from + arguments->count;
    bool well = true;
    for (uint64_t at = arguments->from, next; at < end && well; at = next) {
        next = (at / SIM_ROUNDS + 1) * SIM_ROUNDS;
        if (next > end) next = end;
        well = run(arguments, at, next - 1, totals);
        totals->seconds = clock_now() - began;
        if (arguments->seconds > 0 && totals->seconds > arguments->seconds) break;
    }
    return well;
}

static bool run_seeds(const struct arguments *arguments, struct totals *totals)
{
    char line[512];
    bool well = true;
    FILE *file = fopen(arguments->seeds, "r");
    if (file == NULL) {
        perror(arguments->seeds);
        return false;
    }
    while (fgets(line, sizeof line, file) != NULL) {
        char *end;
        uint64_t seed = strtoull(line, &end, 10);
        if (end == line) continue; /* a comment */
        if (!run(arguments, seed, seed, totals)) well = false;
    }
    fclose(file);
    return well;
}

static int wrong(const char *what)
{
    fprintf(stderr, "sim: %s: see the head of tests/sim/main.c\n", what);
    return 64;
}

static int read_arguments(struct arguments *arguments, int count, char **words)
{
    for (int i = 1; i < count; i++) {
        const char *word = words[i], *value = i + 1 < count ? words[i + 1] : "";
        bool alone = false;
        if (strcmp(word, "--from") == 0) arguments->from = strtoull(value, NULL, 10);
        else if (strcmp(word, "--count") == 0) arguments->count = strtoull(value, NULL, 10);
        else if (strcmp(word, "--seconds") == 0) arguments->seconds = strtod(value, NULL);
        else if (strcmp(word, "--seeds") == 0) arguments->seeds = value;
        else if (strcmp(word, "--seed") == 0) {
            arguments->from = strtoull(value, NULL, 10);
            arguments->one = true;
        } else {
            alone = true;
            if (strcmp(word, "--must-fail") == 0) arguments->options.no_host_first = true;
            else if (strcmp(word, "--twice") == 0) arguments->twice = true;
            else if (strcmp(word, "--plain") == 0) arguments->options.plain = true;
            else return wrong(word);
        }
        if (!alone && ++i == count) return wrong(word);
    }
    return 0;
}

int main(int count, char **words)
{
    struct arguments arguments = { .count = 1000 };
    struct totals totals = { 0 };
    int status = read_arguments(&arguments, count, words);
    if (status != 0) return status;
    signal(SIGALRM, stuck);
    if (arguments.one) {
        arguments.options.loud = true;
        return run(&arguments, arguments.from, arguments.from, &totals) ? 0 : 1;
    }
    bool well =
        arguments.seeds != NULL ? run_seeds(&arguments, &totals) : run_many(&arguments, &totals);
    printf("%llu schedules in %.1f s (%.0f a second): %llu grants, %llu of the fleet's, %llu "
           "changes of scope\n",
           (unsigned long long)totals.schedules, totals.seconds,
           totals.seconds > 0 ? (double)totals.schedules / totals.seconds : 0,
           (unsigned long long)totals.grants, (unsigned long long)totals.fleet_grants,
           (unsigned long long)totals.moves);
    if (arguments.options.no_host_first) {
        printf(well ? "no violation was found, and one had to be\n" : "as it must be\n");
        return well ? 1 : 0;
    }
    return well ? 0 : 1;
}
