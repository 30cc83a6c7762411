/* server.h - a real redis-server of the test's own: in a folder of its own below /tmp, on a free
 * port of 127.0.0.1 and a unix socket, dead when the test is.
 *
 * Start servers from the main thread: the kernel's "die with the parent" means the thread that
 * forked. Everything else may be called from any thread, server_command too. */
#ifndef BELAY_TESTS_LIVE_SERVER_H
#define BELAY_TESTS_LIVE_SERVER_H

#include "tests/live/certificates.h"
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct server;

/* Zero is a plain server on a port, that keeps nothing on disk. */
struct server_options {
    bool no_tcp;          /* its unix socket alone */
    const char *password; /* requirepass */
    /* NULL, or a NULL-ended array: "app on >pass ~app:* +@all". For the default user: "default
     * off".
     */
    const char *const *users;
    bool tls;                         /* a TLS port beside the plain one */
    enum certificate tls_certificate; /* which one the server shows */
    bool tls_clients;                 /* clients must show a certificate of the CA */
    const char *maxmemory, *policy;   /* "2mb", "allkeys-lru" */
    int maxclients;                   /* 0: the default; the harness's own connection counts */
    const struct server *replica_of;  /* a running one that has no password */
    bool persist;                     /* append-only file: what was acknowledged outlives a kill */
    const char *preload;              /* a library for LD_PRELOAD */
    bool steps;                       /* makes the file `clock` in the folder, for clock_shim.c */
    const char *extra;                /* more lines of its configuration */
};

struct server {
    struct server_options options;
    char folder[48]; /* below /tmp */
    char socket[96]; /* always there: the harness's door, and the test's if it likes */
    int port;        /* 0 with no_tcp */
    int tls_port;    /* 0 without tls */
    struct certificates certificates; /* with tls */
    char url[64];                     /* redis://127.0.0.1:PORT */
    char unix_url[128];               /* redis+unix:///path */
    char tls_url[256];                /* rediss://127.0.0.1:PORT?tls.ca=FILE */
    pid_t pid;                        /* 0 while it does not run */
    bool frozen;
    pthread_mutex_t lock; /* the connection's */
    void *connection;     /* the harness's own */
};

/* Starts one and waits until it answers. NULL options: a plain one. False, and lines on stderr,
 * when it did not start; then nothing is left. */
bool server_start(struct server *server, const struct server_options *options);
/* Kills it if it runs and removes the folder. Allowed twice, and on a zeroed struct. */
void server_end(struct server *server);

void server_stop(struct server *server);   /* SIGTERM; returns when it has ended */
void server_kill(struct server *server);   /* SIGKILL; returns when it has ended */
void server_freeze(struct server *server); /* SIGSTOP; returns when it stands still */
void server_thaw(struct server *server);   /* SIGCONT; nothing when it is not frozen */
/* Kills it if it runs, and starts it again on the same port and socket. `empty`: without what a
 * persisting one had on disk. */
bool server_restart(struct server *server, bool empty);

/* ------------------------------------------------------------------ asking it */

enum server_answer {
    SERVER_NONE = 0, /* it did not answer: the text says why */
    SERVER_NIL,
    SERVER_INTEGER,
    SERVER_STRING, /* and status */
    SERVER_ERROR,
    SERVER_ARRAY /* `integer` elements; the text has the flat ones, a line each */
};

struct server_reply {
    enum server_answer type;
    int64_t integer;
    char text[4096]; /* cut where it is longer */
};

/* One command on the harness's own connection (user "harness", who may do everything), which is
 * opened again when it broke. Format as hiredis: %s, %b with a size_t, %d, %lld. Blocks for 10 s at
 * most. Returns what came: reply->type. `reply` may be NULL. */
enum server_answer server_command(struct server *server, struct server_reply *reply,
                                  const char *format, ...);
/* The same, for an integer (also one in a string): SERVER_NO_INTEGER when it was something else. */
#define SERVER_NO_INTEGER INT64_MIN
int64_t server_integer(struct server *server, const char *format, ...);
/* The same, for a string; "" when it was something else. Into the caller's buffer; returns it. */
char *server_string(struct server *server, char *out, size_t size, const char *format, ...);
/* A field of INFO, as "run_id"; "" when there is none. Returns `out`. */
char *server_info(struct server *server, const char *field, char *out, size_t size);
/* How many keys of database 0 begin with `prefix` and are not a fence key (`fence:<prefix>`,
 * `fence:{tag}<prefix>`); -1 when it did not answer. */
long server_lock_keys(struct server *server, const char *prefix);
/* How often it has executed that command ("set", "evalsha") since it started; also the harness's.
 */
long server_calls(struct server *server, const char *command);
/* How many connections it has now, without the harness's own; -1 when it did not answer. */
long server_clients(struct server *server);
/* Prints the end of its log on stderr, for a test that failed. */
void server_show_log(const struct server *server);

#endif
