/* request.c - parsing requests, keeping them, matching them. */
#define _GNU_SOURCE
#include "tests/fake/request.h"

#include <errno.h>
#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

/* The number in the line that begins behind the type byte; where the next line begins, 0 while this
 * one is not complete, -1 when it is none. */
static long number_line(const char *bytes, size_t length, long long *number)
{
    const char *end = memchr(bytes, '\n', length);
    if (end == NULL) return length > 32 ? -1 : 0;
    char *stop;
    *number = strtoll(bytes, &stop, 10);
    return stop != bytes && (*stop == '\r' || *stop == '\n') ? end + 1 - bytes : -1;
}

void request_free(struct request *request)
{
    if (request == NULL) return;
    for (int i = 0; i < request->argc; i++) free(request->argv[i]);
    free(request->argv);
    free(request->lengths);
    free(request->line);
    free(request);
}

static void *must_have(void *memory)
{
    if (memory == NULL) abort();
    return memory;
}

static void request_line(struct request *request)
{
    size_t length = 1, used = 0;
    for (int i = 0; i < request->argc; i++) length += strlen(request->argv[i]) + 1;
    request->line = must_have(calloc(1, length));
    for (int i = 0; i < request->argc; i++)
        used += (size_t)snprintf(request->line + used, length - used, "%s%s", i > 0 ? " " : "",
                                 request->argv[i]);
}

long request_parse(const char *bytes, size_t length, struct request **out)
{
    long long count, size;
    *out = NULL;
    if (length == 0) return 0;
    if (bytes[0] != '*') return -1;
    long at = number_line(bytes + 1, length - 1, &count);
    if (at <= 0) return at;
    if (count < 1 || count > 1000) return -1;
    at++;
    struct request *request = must_have(calloc(1, sizeof *request));
    request->argv = must_have(calloc((size_t)count + 1, sizeof *request->argv));
    request->lengths = must_have(calloc((size_t)count, sizeof *request->lengths));
    long result = 0;
    while (request->argc < count) {
        if ((size_t)at >= length) goto out;
        result = -1;
        if (bytes[at] != '$') goto out;
        long line = number_line(bytes + at + 1, length - (size_t)at - 1, &size);
        if (line > 0 && (size < 0 || size > (1 << 24))) goto out;
        result = line;
        if (line <= 0) goto out;
        at += 1 + line;
        result = 0;
        if (length - (size_t)at < (size_t)size + 2) goto out;
        char *argument = must_have(malloc((size_t)size + 1));
        memcpy(argument, bytes + at, (size_t)size);
        argument[size] = '\0';
        request->argv[request->argc] = argument;
        request->lengths[request->argc++] = (size_t)size;
        at += (long)size + 2;
    }
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    request->at_us = (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
    request_line(request);
    *out = request;
    return at;

out:
    request_free(request);
    return result;
}

bool request_is(const struct request *request, const char *pattern)
{
    return pattern == NULL || strcasecmp(request->argv[0], pattern) == 0 ||
           fnmatch(pattern, request->line, FNM_CASEFOLD) == 0;
}

long reply_length(const char *bytes, size_t length)
{
    size_t at = 0;
    long long left = 1;
    for (; left > 0; left--) {
        if (at >= length) return 0;
        char type = bytes[at];
        const char *end = memchr(bytes + at, '\n', length - at);
        if (strchr("+-:$*", type) == NULL || type == '\0') return -1;
        if (end == NULL) return 0;
        size_t next = (size_t)(end + 1 - bytes);
        long long number = strtoll(bytes + at + 1, NULL, 10);
        if (type == '$' && number >= 0) next += (size_t)number + 2;
        if (type == '*' && number > 0) left += number;
        if (next > length) return 0;
        at = next;
    }
    return (long)at;
}

/* ------------------------------------------------------------------ all that were seen */

void requests_init(struct requests *requests)
{
    pthread_condattr_t attributes;
    memset(requests, 0, sizeof *requests);
    pthread_mutex_init(&requests->lock, NULL);
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&requests->added, &attributes);
    pthread_condattr_destroy(&attributes);
}

void requests_fini(struct requests *requests)
{
    for (size_t i = 0; i < requests->count; i++) request_free(requests->all[i]);
    free(requests->all);
    pthread_cond_destroy(&requests->added);
    pthread_mutex_destroy(&requests->lock);
}

void requests_add(struct requests *requests, struct request *request)
{
    pthread_mutex_lock(&requests->lock);
    if (requests->count == requests->room) {
        requests->room = requests->room * 2 + 64;
        requests->all = must_have(realloc(requests->all, requests->room * sizeof *requests->all));
    }
    requests->all[requests->count++] = request;
    pthread_cond_broadcast(&requests->added);
    pthread_mutex_unlock(&requests->lock);
}

/* With the lock held: the index of the nth match, or count of matches when nth is SIZE_MAX. */
static long find(const struct requests *requests, int connection, const char *pattern, size_t nth)
{
    size_t seen = 0;
    for (size_t i = 0; i < requests->count; i++) {
        const struct request *request = requests->all[i];
        if (connection != REQUESTS_ANY && request->connection != connection) continue;
        if (!request_is(request, pattern)) continue;
        if (seen++ == nth) return (long)i;
    }
    return nth == SIZE_MAX ? (long)seen : -1;
}

size_t requests_count(struct requests *requests, int connection, const char *pattern)
{
    pthread_mutex_lock(&requests->lock);
    long count = find(requests, connection, pattern, SIZE_MAX);
    pthread_mutex_unlock(&requests->lock);
    return (size_t)count;
}

const struct request *requests_nth(struct requests *requests, int connection, const char *pattern,
                                   size_t nth)
{
    pthread_mutex_lock(&requests->lock);
    long at = find(requests, connection, pattern, nth);
    const struct request *found = at < 0 ? NULL : requests->all[at];
    pthread_mutex_unlock(&requests->lock);
    return found;
}

long requests_where(struct requests *requests, int connection, const char *pattern, size_t nth)
{
    pthread_mutex_lock(&requests->lock);
    long at = find(requests, connection, pattern, nth);
    pthread_mutex_unlock(&requests->lock);
    return at;
}

bool requests_await(struct requests *requests, int connection, const char *pattern, size_t count,
                    int ms)
{
    struct timespec end;
    clock_gettime(CLOCK_MONOTONIC, &end);
    end.tv_sec += ms / 1000;
    end.tv_nsec += (long)(ms % 1000) * 1000000;
    if (end.tv_nsec >= 1000000000) {
        end.tv_sec++;
        end.tv_nsec -= 1000000000;
    }
    pthread_mutex_lock(&requests->lock);
    bool enough;
    while (!(enough = (size_t)find(requests, connection, pattern, SIZE_MAX) >= count))
        if (pthread_cond_timedwait(&requests->added, &requests->lock, &end) == ETIMEDOUT) {
            enough = (size_t)find(requests, connection, pattern, SIZE_MAX) >= count;
            break;
        }
    pthread_mutex_unlock(&requests->lock);
    return enough;
}

void requests_show(struct requests *requests)
{
    pthread_mutex_lock(&requests->lock);
    for (size_t i = 0; i < requests->count; i++) {
        const struct request *request = requests->all[i];
        fprintf(stderr, "%8lld us  #%d ", (long long)(request->at_us - requests->all[0]->at_us),
                request->connection);
        for (int a = 0; a < request->argc; a++) fprintf(stderr, " %.44s", request->argv[a]);
        fprintf(stderr, "\n");
    }
    pthread_mutex_unlock(&requests->lock);
}
