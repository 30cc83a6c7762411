/* request.h - the requests that the fake peer and the relay have seen: parsed, kept in their order,
 * and asked about by the test. RESP arrays of bulk strings, which is what clients send. */
#ifndef BELAY_TESTS_FAKE_REQUEST_H
#define BELAY_TESTS_FAKE_REQUEST_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct request {
    int connection; /* 0: the first that was accepted */
    int64_t at_us;  /* when it was complete; CLOCK_MONOTONIC */
    int argc;
    char **argv;     /* NUL-terminated; NULL-ended */
    size_t *lengths; /* of argv: an argument may hold NULs */
    char *line;      /* the arguments, a space between them */
};

/* Takes one request apart: how many of the bytes it is; 0: it is not complete; -1: not a request.
 * *out is NULL unless it is complete; free it with request_free, or give it to requests_add. */
long request_parse(const char *bytes, size_t length, struct request **out);
void request_free(struct request *request);

/* A pattern: the command alone ("SET", any case), or an fnmatch pattern of the whole line
 * ("CLIENT KILL *", "EVAL* belay:x *"), any case. */
bool request_is(const struct request *request, const char *pattern);

/* How many bytes the first reply is, arrays whole; 0: it is not complete; -1: not a reply. */
long reply_length(const char *bytes, size_t length);

/* ------------------------------------------------------------------ all that were seen */

struct requests {
    pthread_mutex_t lock;
    pthread_cond_t added;
    struct request **all;
    size_t count, room;
};

void requests_init(struct requests *requests);
void requests_fini(struct requests *requests);
/* Owns it from now on. */
void requests_add(struct requests *requests, struct request *request);

#define REQUESTS_ANY (-1) /* of whichever connection */

/* Any thread. What is returned lives as long as the list. `pattern` NULL: every request. */
size_t requests_count(struct requests *requests, int connection, const char *pattern);
/* The nth (0: the first) that matches, or NULL. */
const struct request *requests_nth(struct requests *requests, int connection, const char *pattern,
                                   size_t nth);
/* Where in the order of all requests the nth that matches stands; -1: there is none. */
long requests_where(struct requests *requests, int connection, const char *pattern, size_t nth);
/* Waits until as many match, for `ms` at most. */
bool requests_await(struct requests *requests, int connection, const char *pattern, size_t count,
                    int ms);
/* Prints all of them on stderr, for a test that failed. Scripts are cut. */
void requests_show(struct requests *requests);

#endif
