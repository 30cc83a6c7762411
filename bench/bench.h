/* bench.h - what the benches share: time, medians of interleaved pairs, a table of figures beside
 * their floors.
 *
 * A bench is bench_begin, bench_row for each figure, bench_end. By itself it prints a table; with
 * `--json` one JSON object, as CONTRIBUTING.md wants it. `--quick` runs each part for a moment, to
 * see that it works: its figures mean nothing. A missed target is shown and is no failure. */
#ifndef BELAY_BENCH_H
#define BELAY_BENCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Nanoseconds of CLOCK_MONOTONIC: the same for every process of this host. */
int64_t bench_now(void);
/* Sleeps that long, signals or not. */
void bench_sleep(int64_t ns);
/* Prints "bench: WHAT: WHY" and exits with 1. */
_Noreturn void bench_die(const char *what, const char *why);
/* bench_die unless `status`, a belay_status, is BELAY_OK. */
void bench_need(int status, const char *what, const char *why);
/* From now on a child that fails ends this process: a barrier would wait for it for ever. Children
 * are to end with their parent (PR_SET_PDEATHSIG). */
void bench_watch_children(void);
/* Removes a directory of ours and the files in it. */
void bench_remove(const char *directory);
/* The middle one, or the mean of the middle two; sorts them. 0 for none. */
double bench_median(double *values, size_t count);

/* --------------------------------------------------------------------- pairs */

/* One figure each: belay's and the floor's. */
typedef double bench_figure_fn(void *arg);

struct bench_pair {
    double belay, floor; /* medians */
    double ratio;        /* the median of belay / floor of each pair */
};

/* belay, floor, belay, floor ..., `count` times; one pair before them is not counted. */
struct bench_pair bench_pairs(size_t count, bench_figure_fn *ours, bench_figure_fn *bare,
                              void *arg);
/* The same of figures that were taken in another way. Sorts them. At most 1024 pairs. */
struct bench_pair bench_pair_of(double *ours, double *bare, size_t count);

/* --------------------------------------------------------------------- the report */

struct bench_row {
    const char *what, *unit;
    struct bench_pair pair; /* floor 0: there is none */
    const char *floor_is;
    /* The target: one of these, or none. */
    double belay_over, belay_under, ratio_over, ratio_under;
};

/* Reads the options; returns the index of the first argument that is none of ours. */
int bench_begin(const char *name, int argc, char **argv);
bool bench_quick(void);
/* A fact about the run, before the first row: "sqlite", "3.40.1". */
void bench_fact(const char *key, const char *format, ...) __attribute__((format(printf, 2, 3)));
void bench_row(const struct bench_row *row);
/* Ends the report; returns the exit status. */
int bench_end(void);

#endif
