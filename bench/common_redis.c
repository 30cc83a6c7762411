/* common_redis.c - common_redis.h's part that is compiled once. */
#define _GNU_SOURCE
#include "common_redis.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <netinet/in.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* ------------------------------------------------------------------ the server */

enum { SERVERS_MOST = 8 };

static struct {
    pid_t owner; /* a forked child must not clean up */
    int count;
    char directory[SERVERS_MOST][128];
} folders;

static void folders_remove(void)
{
    if (folders.owner != getpid()) return;
    for (int i = 0; i < folders.count; i++) bench_remove(folders.directory[i]);
    folders.count = 0;
}

const char *bench_road_name(enum bench_road road)
{
    return road == BENCH_TCP ? "TCP" : "unix socket";
}

static int free_port(void)
{
    struct sockaddr_in address = { .sin_family = AF_INET };
    socklen_t length = sizeof address;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, length) != 0 ||
        getsockname(fd, (struct sockaddr *)&address, &length) != 0)
        bench_die("a free port", strerror(errno));
    close(fd);
    return ntohs(address.sin_port);
}

static pid_t server_spawn(const struct bench_redis *redis)
{
    char port[16], log[160];
    snprintf(port, sizeof port, "%d", redis->port);
    snprintf(log, sizeof log, "%s/redis.log", redis->directory);
    pid_t parent = getpid(), pid = fork();
    if (pid < 0) bench_die("fork", strerror(errno));
    if (pid > 0) return pid;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) _exit(1);
    execlp("redis-server", "redis-server", "--port", port, "--bind", "127.0.0.1", "--unixsocket",
           redis->socket, "--save", "", "--appendonly", "no", "--daemonize", "no", "--dir",
           redis->directory, "--logfile", log, (char *)NULL);
    _exit(127);
}

static redisContext *connect_once(const struct bench_redis *redis, enum bench_road road)
{
    redisContext *link = road == BENCH_TCP ? redisConnect("127.0.0.1", redis->port)
                                           : redisConnectUnix(redis->socket);
    if (link == NULL) bench_die("redisConnect", "no memory");
    return link;
}

/* False: it ended instead, as it does when another took the port before it could. */
static bool server_answers(const struct bench_redis *redis)
{
    for (int64_t end_ns = bench_now() + INT64_C(10000000000); bench_now() < end_ns;) {
        int status;
        if (waitpid(redis->pid, &status, WNOHANG) == redis->pid) {
            if (WIFEXITED(status) && WEXITSTATUS(status) == 127)
                bench_die("redis-server", "cannot be run; ./dev deps installs it");
            return false;
        }
        redisContext *link = connect_once(redis, BENCH_UNIX);
        redisReply *reply = link->err == 0 ? redisCommand(link, "PING") : NULL;
        bool pong = reply != NULL && reply->type == REDIS_REPLY_STATUS;
        if (reply != NULL) freeReplyObject(reply);
        redisFree(link);
        if (pong) return true;
        bench_sleep(5000000);
    }
    bench_die("redis-server", "did not answer");
}

/* The line `field:VALUE` of an INFO. */
static void info_field(const redisReply *info, const char *field, char *out, size_t size)
{
    const char *at = strstr(info->str, field);
    if (at == NULL) bench_die(field, "is not in INFO");
    at += strlen(field) + 1;
    snprintf(out, size, "%.*s", (int)strcspn(at, "\r\n"), at);
}

void bench_redis_start(struct bench_redis *redis)
{
    const char *temporary = getenv("TMPDIR");
    if (temporary == NULL || temporary[0] == '\0' || strlen(temporary) > 64) temporary = "/tmp";
    snprintf(redis->directory, sizeof redis->directory, "%s/belay-bench-XXXXXX", temporary);
    if (mkdtemp(redis->directory) == NULL) bench_die(redis->directory, "cannot be made");
    if (folders.count == SERVERS_MOST) bench_die("redis-server", "too many");
    memcpy(folders.directory[folders.count++], redis->directory, sizeof folders.directory[0]);
    if (folders.owner == 0) atexit(folders_remove);
    folders.owner = getpid();
    snprintf(redis->socket, sizeof redis->socket, "%s/redis.sock", redis->directory);
    for (int tries = 0;; tries++) {
        if (tries == 5) bench_die("redis-server", "ends as soon as it is started");
        redis->port = free_port();
        redis->pid = server_spawn(redis);
        if (server_answers(redis)) break;
    }
    redisContext *link = bench_redis_connect(redis, BENCH_TCP);
    redisReply *info = bench_redis_ask(link, "INFO server");
    info_field(info, "redis_version", redis->version, sizeof redis->version);
    freeReplyObject(info);
    redisFree(link);
}

void bench_redis_end(struct bench_redis *redis)
{
    kill(redis->pid, SIGTERM); /* it exits with 0: bench_watch_children says nothing */
    while (waitpid(redis->pid, NULL, 0) < 0 && errno == EINTR) continue;
    bench_remove(redis->directory); /* and once more at exit, which finds nothing */
}

void bench_redis_kill(struct bench_redis *redis)
{
    kill(redis->pid, SIGKILL);
    while (waitpid(redis->pid, NULL, 0) < 0 && errno == EINTR) continue;
}

void bench_redis_again(struct bench_redis *redis)
{
    redis->pid = server_spawn(redis);
    if (!server_answers(redis)) bench_die("redis-server", "does not start again");
}

const char *bench_redis_where(const struct bench_redis *redis, const struct bench_config *config,
                              char out[200])
{
    char url[200], fresh[200];
    if (config->road == BENCH_TCP) snprintf(url, sizeof url, "redis://127.0.0.1:%d", redis->port);
    else snprintf(url, sizeof url, "redis+unix://%s", redis->socket);
    snprintf(out, 200, "%s/%d%d%d.conf", redis->directory, config->road == BENCH_UNIX,
             config->fencing, config->keep);
    snprintf(fresh, sizeof fresh, "%s/%ld.new", redis->directory, (long)getpid());
    FILE *file = fopen(fresh, "we");
    if (file == NULL) bench_die(fresh, strerror(errno));
    fprintf(file, "use = \"%s\";\nfencing = %s;\nkeep = %s;\n", url,
            config->fencing ? "true" : "false", config->keep ? "true" : "false");
    /* Whole at once: another process may be reading it. */
    if (fclose(file) != 0 || rename(fresh, out) != 0) bench_die(out, strerror(errno));
    return out;
}

redisContext *bench_redis_connect(const struct bench_redis *redis, enum bench_road road)
{
    redisContext *link = connect_once(redis, road);
    if (link->err != 0) bench_die("redisConnect", link->errstr);
    return link;
}

static redisReply *reply_next(redisContext *link)
{
    void *reply = NULL;
    if (redisGetReply(link, &reply) != REDIS_OK || reply == NULL)
        bench_die("a reply", link->errstr);
    if (((redisReply *)reply)->type == REDIS_REPLY_ERROR)
        bench_die("a command", ((redisReply *)reply)->str);
    return reply;
}

redisReply *bench_redis_ask(redisContext *link, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int failed = redisvAppendCommand(link, format, args);
    va_end(args);
    if (failed != REDIS_OK) bench_die(format, "is no command");
    return reply_next(link);
}

int bench_redis_scripts(redisContext *link)
{
    char number[24];
    redisReply *info = bench_redis_ask(link, "INFO memory");
    info_field(info, "number_of_cached_scripts", number, sizeof number);
    freeReplyObject(info);
    return (int)strtol(number, NULL, 10);
}

int bench_redis_clients(redisContext *link)
{
    int lines = 0;
    redisReply *list = bench_redis_ask(link, "CLIENT LIST");
    for (const char *at = list->str; (at = strchr(at, '\n')) != NULL; at++) lines++;
    freeReplyObject(list);
    return lines - 1;
}

/* ------------------------------------------------------------------ processors */

/* The last one we may use: interrupts mostly go to the first. */
static void processors(bool pinned, cpu_set_t *out)
{
    static cpu_set_t allowed; /* as it was before we were pinned */
    if (CPU_COUNT(&allowed) == 0 && sched_getaffinity(0, sizeof allowed, &allowed) != 0)
        bench_die("sched_getaffinity", strerror(errno));
    *out = allowed;
    if (!pinned) return;
    int last = CPU_SETSIZE - 1;
    while (!CPU_ISSET(last, &allowed)) last--;
    CPU_ZERO(out);
    CPU_SET(last, out);
}

void bench_pin(pid_t pid, bool pinned)
{
    char path[64];
    cpu_set_t set;
    const struct dirent *entry;
    processors(pinned, &set);
    snprintf(path, sizeof path, "/proc/%d/task", (int)pid);
    DIR *tasks = opendir(path);
    if (tasks == NULL) bench_die(path, strerror(errno));
    while ((entry = readdir(tasks)) != NULL) {
        pid_t task = (pid_t)strtol(entry->d_name, NULL, 10);
        if (task > 0 && sched_setaffinity(task, sizeof set, &set) != 0 && errno != ESRCH)
            bench_die("sched_setaffinity", strerror(errno));
    }
    closedir(tasks);
}

int64_t bench_processor_ns(pid_t pid)
{
    clockid_t clock;
    struct timespec used;
    if (clock_getcpuclockid(pid, &clock) != 0 || clock_gettime(clock, &used) != 0)
        bench_die("clock_getcpuclockid", "failed");
    return (int64_t)used.tv_sec * 1000000000 + used.tv_nsec;
}

/* ------------------------------------------------------------------ the bare client */

/* The scripts are those of backends/resp/scripts.c, and must stay so: bench/redis.c sees to it. */
static const char let_go_source[] = "if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end\n"
                                    "return redis.call('DEL', KEYS[1])\n";

static const char take_source[] =
    "local kind = redis.call('TYPE', KEYS[1]).ok\n"
    "if kind ~= 'none' then return {0, redis.call('PTTL', KEYS[1]), kind} end\n"
    "local seq, epoch = tonumber(ARGV[3]), tonumber(ARGV[4])\n"
    "local last_epoch, last = tonumber(ARGV[5]), tonumber(ARGV[6])\n"
    "local fence = redis.call('GET', KEYS[2])\n"
    "if fence then\n"
    "  local e, s = string.match(fence, '^(%d+):(%d+)$')\n"
    "  if not e then return redis.error_reply('BELAYFENCE the fence key holds something else') "
    "end\n"
    "  e, s = tonumber(e), tonumber(s)\n"
    "  if e > last_epoch or (e == last_epoch and s > last) then last_epoch, last = e, s end\n"
    "end\n"
    "if epoch < last_epoch then epoch = last_epoch end\n"
    "if epoch == last_epoch and seq <= last then seq = last + 1 end\n"
    "if seq > 1125899906842623 then return redis.error_reply('BELAYFENCE no token is left') end\n"
    "redis.call('SET', KEYS[2], string.format('%.0f:%.0f', epoch, seq))\n"
    "redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])\n"
    "return {1, seq, epoch}\n";

static const char owner[] = "0123456789abcdef0123456789abcdef";

static void script_load(redisContext *link, const char *source, char digest[41])
{
    redisReply *reply = bench_redis_ask(link, "SCRIPT LOAD %s", source);
    if (reply->type != REDIS_REPLY_STRING || reply->len != 40) bench_die("SCRIPT LOAD", "failed");
    memcpy(digest, reply->str, 41);
    freeReplyObject(reply);
}

void bench_bare_open(struct bench_bare *bare, const struct bench_redis *redis, enum bench_road road,
                     bool fencing)
{
    bare->link = bench_redis_connect(redis, road);
    bare->fencing = fencing;
    script_load(bare->link, let_go_source, bare->let_go);
    if (fencing) script_load(bare->link, take_source, bare->take);
}

void bench_bare_close(struct bench_bare *bare)
{
    redisFree(bare->link);
}

static void append(struct bench_bare *bare, const char **words, int count)
{
    if (redisAppendCommandArgv(bare->link, count, words, NULL) != REDIS_OK)
        bench_die("redisAppendCommandArgv", bare->link->errstr);
}

void bench_bare_take(struct bench_bare *bare, const char *name)
{
    char key[64], proposal[24];
    struct timespec wall;
    snprintf(key, sizeof key, "belay:%s", name);
    if (!bare->fencing) {
        const char *words[] = { "SET", key, owner, "NX", "PX", "10000" };
        append(bare, words, 6);
        return;
    }
    clock_gettime(CLOCK_REALTIME, &wall);
    snprintf(proposal, sizeof proposal, "%lld",
             ((long long)wall.tv_sec * 1000000 + wall.tv_nsec / 1000) / 16);
    const char *words[] = { "EVALSHA", bare->take, "2", key, "fence:belay:", owner, "10000",
                            proposal,  "0",        "0", "0" };
    append(bare, words, 11);
}

void bench_bare_taken(struct bench_bare *bare)
{
    redisReply *reply = reply_next(bare->link);
    bool ours = bare->fencing ? reply->type == REDIS_REPLY_ARRAY && reply->elements == 3 &&
                                    reply->element[0]->integer == 1
                              : reply->type == REDIS_REPLY_STATUS;
    if (!ours) bench_die("a free lock", "was refused");
    freeReplyObject(reply);
}

void bench_bare_let_go(struct bench_bare *bare, const char *name)
{
    char key[64];
    snprintf(key, sizeof key, "belay:%s", name);
    const char *words[] = { "EVALSHA", bare->let_go, "1", key, owner };
    append(bare, words, 5);
}

void bench_bare_gone(struct bench_bare *bare)
{
    redisReply *reply = reply_next(bare->link);
    if (reply->type != REDIS_REPLY_INTEGER || reply->integer != 1)
        bench_die("a lock of ours", "was not ours");
    freeReplyObject(reply);
}
