/* server.c - starting, stopping and asking a redis-server.
 *
 * Its configuration is a file in its folder. The port is drawn below the kernel's ephemeral range,
 * so that no outgoing connection takes it between two lives of the server; two drawing tests are
 * told apart by the bind, which fails for one of them: it draws again. */
#define _GNU_SOURCE
#include "tests/live/server.h"
#include "tests/live/until.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <hiredis/hiredis.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define TRIES 20 /* of a port */
#define OWN_USER "harness"
#define OWN_PASSWORD "of-the-harness"

/* ------------------------------------------------------------------ folders and ports */

static int remove_entry(const char *path, const struct stat *info, int kind, struct FTW *walk)
{
    (void)info;
    (void)kind;
    (void)walk;
    return remove(path);
}

static void folder_remove(const char *folder)
{
    nftw(folder, remove_entry, 8, FTW_DEPTH | FTW_PHYS);
}

static bool port_is_free(int port)
{
    struct sockaddr_in at = { .sin_family = AF_INET,
                              .sin_port = htons((uint16_t)port),
                              .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) return false;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    bool free = bind(fd, (struct sockaddr *)&at, sizeof at) == 0 && listen(fd, 1) == 0;
    close(fd);
    return free;
}

static int port_draw(void)
{
    for (;;) {
        uint16_t chance = 0;
        if (getrandom(&chance, sizeof chance, 0) != sizeof chance) abort();
        int port = 10000 + chance % 22000;
        if (port_is_free(port)) return port;
    }
}

/* ------------------------------------------------------------------ configuration */

static bool config_write(const struct server *server)
{
    const struct server_options *options = &server->options;
    char path[96];
    snprintf(path, sizeof path, "%s/redis.conf", server->folder);
    FILE *file = fopen(path, "we");
    if (file == NULL) return false;
    fprintf(file,
            "dir %s\nlogfile %s/log\nbind 127.0.0.1\nport %d\nunixsocket %s\ndaemonize no\n"
            "save \"\"\nappendonly %s\nappendfsync always\nprotected-mode no\nhz 50\n"
            "enable-debug-command yes\nrepl-diskless-sync yes\nrepl-diskless-sync-delay "
            "0\nshutdown-timeout 0\n"
            "user " OWN_USER " on >" OWN_PASSWORD " ~* &* +@all\n",
            server->folder, server->folder, server->port, server->socket,
            options->persist ? "yes" : "no");
    if (options->password != NULL) fprintf(file, "requirepass %s\n", options->password);
    for (size_t i = 0; options->users != NULL && options->users[i] != NULL; i++)
        fprintf(file, "user %s\n", options->users[i]);
    if (options->tls)
        fprintf(file,
                "tls-port %d\ntls-ca-cert-file %s\ntls-cert-file %s\ntls-key-file %s\n"
                "tls-auth-clients %s\n",
                server->tls_port, server->certificates.ca,
                server->certificates.cert[options->tls_certificate],
                server->certificates.key[options->tls_certificate],
                options->tls_clients ? "yes" : "no");
    if (options->maxmemory != NULL) fprintf(file, "maxmemory %s\n", options->maxmemory);
    if (options->policy != NULL) fprintf(file, "maxmemory-policy %s\n", options->policy);
    if (options->maxclients > 0) fprintf(file, "maxclients %d\n", options->maxclients);
    if (options->replica_of != NULL)
        fprintf(file, "replicaof 127.0.0.1 %d\n", options->replica_of->port);
    if (options->extra != NULL) fprintf(file, "%s\n", options->extra);
    return fclose(file) == 0;
}

void server_show_log(const struct server *server)
{
    char path[96], line[512];
    snprintf(path, sizeof path, "%s/log", server->folder);
    FILE *file = fopen(path, "re");
    if (file == NULL) return;
    if (fseek(file, -2000, SEEK_END) != 0) rewind(file);
    while (fgets(line, sizeof line, file) != NULL) fprintf(stderr, "redis-server: %s", line);
    fclose(file);
}

/* ------------------------------------------------------------------ the process */

static bool process_run(struct server *server)
{
    char config[96];
    snprintf(config, sizeof config, "%s/redis.conf", server->folder);
    pid_t parent = getpid();
    pid_t pid = fork();
    if (pid < 0) return false;
    if (pid == 0) {
        sigset_t none;
        sigemptyset(&none);
        sigprocmask(SIG_SETMASK, &none, NULL);
        if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0 || getppid() != parent) _exit(127);
        int null = open("/dev/null", O_RDWR);
        if (null < 0 || dup2(null, 0) < 0 || dup2(null, 1) < 0) _exit(127);
        unsetenv("LD_PRELOAD"); /* a sanitizer's, say */
        if (server->options.preload != NULL) setenv("LD_PRELOAD", server->options.preload, 1);
        setenv("BELAY_TEST_FOLDER", server->folder, 1);
        execlp("redis-server", "redis-server", config, (char *)NULL);
        _exit(127);
    }
    server->pid = pid;
    server->frozen = false;
    return true;
}

static bool process_ended(struct server *server)
{
    pid_t got = waitpid(server->pid, NULL, WNOHANG);
    if (got == 0 || (got < 0 && errno == EINTR)) return false;
    server->pid = 0;
    server->frozen = false;
    return true;
}

static char process_state(pid_t pid)
{
    char path[48], text[256] = "";
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    FILE *file = fopen(path, "re");
    if (file == NULL) return '\0';
    if (fgets(text, sizeof text, file) == NULL) text[0] = '\0';
    fclose(file);
    const char *name_end = strrchr(text, ')');
    return name_end != NULL && name_end[1] == ' ' ? name_end[2] : '\0';
}

static void connection_drop(struct server *server)
{
    pthread_mutex_lock(&server->lock);
    if (server->connection != NULL) redisFree(server->connection);
    server->connection = NULL;
    pthread_mutex_unlock(&server->lock);
}

static void end_by(struct server *server, int how)
{
    connection_drop(server);
    if (server->pid <= 0) return;
    server_thaw(server);
    kill(server->pid, how);
    if (!until(process_ended(server))) {
        kill(server->pid, SIGKILL);
        (void)until(process_ended(server));
    }
}

/* Answers, and is not loading. */
static bool server_answers(struct server *server)
{
    struct server_reply reply;
    return server_command(server, &reply, "PING") == SERVER_STRING;
}

/* Eight bytes of zero: no step yet. */
static bool clock_write(const struct server *server)
{
    char path[96];
    if (!server->options.steps) return true;
    snprintf(path, sizeof path, "%s/clock", server->folder);
    FILE *file = fopen(path, "we");
    if (file == NULL) return false;
    const int64_t none = 0;
    bool written = fwrite(&none, sizeof none, 1, file) == 1;
    return fclose(file) == 0 && written;
}

static bool server_run(struct server *server)
{
    unlink(server->socket);
    if (!config_write(server) || !clock_write(server) || !process_run(server)) return false;
    bool up = false;
    (void)until(process_ended(server) || (up = server_answers(server)));
    if (up) return true;
    end_by(server, SIGKILL);
    return false;
}

static void urls_write(struct server *server)
{
    server->url[0] = server->tls_url[0] = '\0';
    if (server->port > 0)
        snprintf(server->url, sizeof server->url, "redis://127.0.0.1:%d", server->port);
    if (server->tls_port > 0)
        snprintf(server->tls_url, sizeof server->tls_url, "rediss://127.0.0.1:%d?tls.ca=%s",
                 server->tls_port, server->certificates.ca);
    snprintf(server->unix_url, sizeof server->unix_url, "redis+unix://%s", server->socket);
}

bool server_start(struct server *server, const struct server_options *options)
{
    static const struct server_options plain = { 0 };
    memset(server, 0, sizeof *server);
    server->options = options != NULL ? *options : plain;
    pthread_mutex_init(&server->lock, NULL);
    snprintf(server->folder, sizeof server->folder, "/tmp/belay-live-XXXXXX");
    if (mkdtemp(server->folder) == NULL) {
        server->folder[0] = '\0';
        fprintf(stderr, "server: no folder: %s\n", strerror(errno));
        return false;
    }
    snprintf(server->socket, sizeof server->socket, "%s/redis.sock", server->folder);
    if (server->options.tls && !certificates_make(&server->certificates, server->folder)) {
        server_end(server);
        return false;
    }
    for (int try = 0; try < TRIES; try++) {
        if (!server->options.no_tcp) server->port = port_draw();
        if (server->options.tls) do
                server->tls_port = port_draw();
            while (server->tls_port == server->port);
        urls_write(server);
        if (server_run(server)) return true;
        /* Another one took the port? Whatever else it is, it will be so again. */
        if ((server->port == 0 || port_is_free(server->port)) &&
            (server->tls_port == 0 || port_is_free(server->tls_port)))
            break;
    }
    fprintf(stderr, "server: redis-server did not start\n");
    server_show_log(server);
    server_end(server);
    return false;
}

void server_end(struct server *server)
{
    if (server->folder[0] == '\0') return;
    end_by(server, SIGKILL);
    folder_remove(server->folder);
    server->folder[0] = '\0';
    pthread_mutex_destroy(&server->lock);
}

void server_stop(struct server *server)
{
    end_by(server, SIGTERM);
}

void server_kill(struct server *server)
{
    end_by(server, SIGKILL);
}

void server_freeze(struct server *server)
{
    if (server->pid <= 0 || server->frozen) return;
    kill(server->pid, SIGSTOP);
    (void)until(process_state(server->pid) == 'T');
    server->frozen = true;
}

void server_thaw(struct server *server)
{
    if (server->pid <= 0 || !server->frozen) return;
    server->frozen = false;
    kill(server->pid, SIGCONT);
    (void)until(process_state(server->pid) != 'T');
}

bool server_restart(struct server *server, bool empty)
{
    end_by(server, SIGKILL);
    if (empty) {
        char path[96];
        snprintf(path, sizeof path, "%s/appendonlydir", server->folder);
        folder_remove(path);
        snprintf(path, sizeof path, "%s/dump.rdb", server->folder);
        unlink(path);
    }
    /* The port may be taken for a moment, by a test that looks whether it is free. */
    for (int try = 0; try < TRIES; try++)
        if (server_run(server)) return true;
    fprintf(stderr, "server: redis-server did not start again\n");
    server_show_log(server);
    return false;
}

/* ------------------------------------------------------------------ asking it */

static redisContext *connection_open(struct server *server)
{
    struct timeval patience = { .tv_sec = 10 };
    redisContext *connection = redisConnectUnixWithTimeout(server->socket, patience);
    if (connection == NULL) return NULL;
    if (connection->err != 0) goto failed;
    fcntl(connection->fd, F_SETFD, FD_CLOEXEC);
    redisSetTimeout(connection, patience);
    static const char *const hello[] = { "AUTH " OWN_USER " " OWN_PASSWORD,
                                         "CLIENT SETNAME " OWN_USER };
    for (size_t i = 0; i < sizeof hello / sizeof hello[0]; i++) {
        redisReply *reply = redisCommand(connection, hello[i]);
        if (reply == NULL) goto failed;
        bool welcome = reply->type == REDIS_REPLY_STATUS;
        freeReplyObject(reply);
        if (!welcome) goto failed;
    }
    return connection;

failed:
    redisFree(connection);
    return NULL;
}

static void reply_flatten(const redisReply *from, char *out, size_t size)
{
    size_t used = strlen(out);
    switch (from->type) {
    case REDIS_REPLY_INTEGER: snprintf(out + used, size - used, "%lld\n", from->integer); break;
    case REDIS_REPLY_ARRAY:
        for (size_t i = 0; i < from->elements; i++) reply_flatten(from->element[i], out, size);
        break;
    case REDIS_REPLY_NIL: snprintf(out + used, size - used, "\n"); break;
    default: snprintf(out + used, size - used, "%s\n", from->str);
    }
}

static enum server_answer reply_take(const redisReply *from, struct server_reply *out)
{
    out->integer = 0;
    out->text[0] = '\0';
    switch (from->type) {
    case REDIS_REPLY_INTEGER:
        out->integer = from->integer;
        snprintf(out->text, sizeof out->text, "%lld", from->integer);
        return out->type = SERVER_INTEGER;
    case REDIS_REPLY_ARRAY:
        out->integer = (int64_t)from->elements;
        reply_flatten(from, out->text, sizeof out->text);
        return out->type = SERVER_ARRAY;
    case REDIS_REPLY_NIL: return out->type = SERVER_NIL;
    default:
        snprintf(out->text, sizeof out->text, "%s", from->str);
        return out->type = from->type == REDIS_REPLY_ERROR ? SERVER_ERROR : SERVER_STRING;
    }
}

/* With the lock held; the caller frees it. Once more when the connection turned out to be dead. */
static redisReply *ask(struct server *server, const char *bytes, int length)
{
    for (int try = 0; try < 2; try++) {
        bool fresh = server->connection == NULL;
        if (fresh) server->connection = connection_open(server);
        redisContext *connection = server->connection;
        void *reply = NULL;
        if (connection == NULL) return NULL;
        if (redisAppendFormattedCommand(connection, bytes, (size_t)length) == REDIS_OK &&
            redisGetReply(connection, &reply) == REDIS_OK)
            return reply;
        bool timed_out = connection->err == REDIS_ERR_IO && errno == EAGAIN;
        redisFree(connection);
        server->connection = NULL;
        if (fresh || timed_out) return NULL;
    }
    return NULL;
}

static redisReply *ask_v(struct server *server, const char *format, va_list args)
{
    char *bytes = NULL;
    int length = redisvFormatCommand(&bytes, format, args);
    if (length < 0) return NULL;
    pthread_mutex_lock(&server->lock);
    redisReply *reply = ask(server, bytes, length);
    pthread_mutex_unlock(&server->lock);
    redisFreeCommand(bytes);
    return reply;
}

static redisReply *ask_f(struct server *server, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    redisReply *reply = ask_v(server, format, args);
    va_end(args);
    return reply;
}

static enum server_answer command_v(struct server *server, struct server_reply *out,
                                    const char *format, va_list args)
{
    redisReply *reply = ask_v(server, format, args);
    if (reply == NULL) {
        out->integer = 0;
        snprintf(out->text, sizeof out->text, "no answer");
        return out->type = SERVER_NONE;
    }
    reply_take(reply, out);
    freeReplyObject(reply);
    return out->type;
}

enum server_answer server_command(struct server *server, struct server_reply *reply,
                                  const char *format, ...)
{
    struct server_reply unwanted;
    va_list args;
    va_start(args, format);
    enum server_answer type = command_v(server, reply != NULL ? reply : &unwanted, format, args);
    va_end(args);
    return type;
}

int64_t server_integer(struct server *server, const char *format, ...)
{
    struct server_reply reply;
    char *end;
    va_list args;
    va_start(args, format);
    command_v(server, &reply, format, args);
    va_end(args);
    if (reply.type == SERVER_INTEGER) return reply.integer;
    if (reply.type != SERVER_STRING) return SERVER_NO_INTEGER;
    long long number = strtoll(reply.text, &end, 10);
    return end != reply.text && *end == '\0' ? number : SERVER_NO_INTEGER;
}

char *server_string(struct server *server, char *out, size_t size, const char *format, ...)
{
    struct server_reply reply;
    va_list args;
    va_start(args, format);
    command_v(server, &reply, format, args);
    va_end(args);
    snprintf(out, size, "%s", reply.type == SERVER_STRING ? reply.text : "");
    return out;
}

char *server_info(struct server *server, const char *field, char *out, size_t size)
{
    char wanted[80];
    snprintf(wanted, sizeof wanted, "\n%s:", field);
    snprintf(out, size, "%s", "");
    redisReply *reply = ask_f(server, "INFO everything");
    const char *at =
        reply != NULL && reply->type == REDIS_REPLY_STRING ? strstr(reply->str, wanted) : NULL;
    if (at != NULL) {
        at += strlen(wanted);
        snprintf(out, size, "%.*s", (int)strcspn(at, "\r\n"), at);
    }
    if (reply != NULL) freeReplyObject(reply);
    return out;
}

long server_calls(struct server *server, const char *command)
{
    char field[64], text[128];
    snprintf(field, sizeof field, "cmdstat_%s", command);
    server_info(server, field, text, sizeof text);
    return strncmp(text, "calls=", 6) == 0 ? strtol(text + 6, NULL, 10) : 0;
}

/* `fence:<prefix>`, or in a cluster `fence:{tag}<prefix>`. */
static bool is_fence(const char *key, size_t length, const char *prefix)
{
    size_t tail = strlen(prefix);
    if (length < 6 + tail || memcmp(key, "fence:", 6) != 0) return false;
    if (memcmp(key + length - tail, prefix, tail) != 0) return false;
    return length == 6 + tail || (key[6] == '{' && key[length - tail - 1] == '}');
}

long server_lock_keys(struct server *server, const char *prefix)
{
    char cursor[32] = "0";
    long count = 0;
    do {
        redisReply *reply = ask_f(server, "SCAN %s COUNT 1000", cursor);
        if (reply == NULL || reply->type != REDIS_REPLY_ARRAY || reply->elements != 2) {
            if (reply != NULL) freeReplyObject(reply);
            return -1;
        }
        snprintf(cursor, sizeof cursor, "%s", reply->element[0]->str);
        const redisReply *keys = reply->element[1];
        for (size_t i = 0; i < keys->elements; i++) {
            const redisReply *key = keys->element[i];
            if (key->len >= strlen(prefix) && memcmp(key->str, prefix, strlen(prefix)) == 0 &&
                !is_fence(key->str, key->len, prefix))
                count++;
        }
        freeReplyObject(reply);
    } while (strcmp(cursor, "0") != 0);
    return count;
}

long server_clients(struct server *server)
{
    redisReply *reply = ask_f(server, "CLIENT LIST");
    long count = -1;
    if (reply != NULL && reply->type == REDIS_REPLY_STRING)
        for (const char *at = reply->str; at != NULL && (at = strchr(at, '\n')) != NULL; at++)
            count++;
    if (reply != NULL) freeReplyObject(reply);
    return count;
}
