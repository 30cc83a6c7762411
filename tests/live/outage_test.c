/* outage_test.c - servers that are not there, come back, or whose name nobody resolves: FAULTS rows
 * 32 and 56. The resolver is the test's own: the program's getaddrinfo stands before the system's.
 */
#define _GNU_SOURCE
#include "tests/live/client.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>

#define LONG_MS 60000

static struct server server;
static struct relay *relay;
static belay *client;

/* ------------------------------------------------------------------ the resolver */

enum answer { ANSWER_FAILS, ANSWER_NEVER, ANSWER_FIRST_DEAD, ANSWER_ALIVE };

static struct {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    enum answer answer;
    int asked, inside;
} resolver = { .lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER };

static void resolver_say(enum answer answer)
{
    pthread_mutex_lock(&resolver.lock);
    resolver.answer = answer;
    pthread_cond_broadcast(&resolver.changed);
    pthread_mutex_unlock(&resolver.lock);
}

static int resolver_inside(void)
{
    pthread_mutex_lock(&resolver.lock);
    int inside = resolver.inside;
    pthread_mutex_unlock(&resolver.lock);
    return inside;
}

static int resolver_asked(void)
{
    pthread_mutex_lock(&resolver.lock);
    int asked = resolver.asked;
    pthread_mutex_unlock(&resolver.lock);
    return asked;
}

static struct addrinfo *address(const char *numeric, const char *port, struct addrinfo *next)
{
    struct both {
        struct addrinfo info;
        struct sockaddr_in at;
    } *both = calloc(1, sizeof *both);
    if (both == NULL) abort();
    both->at.sin_family = AF_INET;
    both->at.sin_port = htons((uint16_t)strtol(port != NULL ? port : "0", NULL, 10));
    both->at.sin_addr.s_addr =
        htonl(strcmp(numeric, "dead") == 0 ? INADDR_LOOPBACK + 41 : INADDR_LOOPBACK);
    both->info.ai_family = AF_INET;
    both->info.ai_socktype = SOCK_STREAM;
    both->info.ai_protocol = IPPROTO_TCP;
    both->info.ai_addrlen = sizeof both->at;
    both->info.ai_addr = (struct sockaddr *)&both->at;
    both->info.ai_next = next;
    return &both->info;
}

int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints,
                struct addrinfo **out)
{
    struct in_addr numeric;
    if (hints != NULL && (hints->ai_flags & AI_NUMERICHOST) != 0) { /* nobody is asked */
        if (inet_pton(AF_INET, node, &numeric) != 1) return EAI_NONAME;
        *out = address("alive", service, NULL);
        return 0;
    }
    pthread_mutex_lock(&resolver.lock);
    resolver.asked++;
    resolver.inside++;
    while (resolver.answer == ANSWER_NEVER) pthread_cond_wait(&resolver.changed, &resolver.lock);
    enum answer answer = resolver.answer;
    resolver.inside--;
    pthread_mutex_unlock(&resolver.lock);
    if (answer == ANSWER_FAILS) return EAI_NONAME;
    *out = address("alive", service, NULL);
    if (answer == ANSWER_FIRST_DEAD) *out = address("dead", service, *out);
    return 0;
}

void freeaddrinfo(struct addrinfo *info)
{
    while (info != NULL) {
        struct addrinfo *next = info->ai_next;
        free(info);
        info = next;
    }
}

static int tidy(void **state)
{
    (void)state;
    resolver_say(ANSWER_ALIVE);
    belay_close(client);
    client = NULL;
    relay_end(relay);
    relay = NULL;
    server_end(&server);
    log_clear();
    return 0;
}

static const char *by_name(int port)
{
    static char at[80];
    snprintf(at, sizeof at, "host = \"redis.example\"; port = %d;", port);
    return at;
}

/* ------------------------------------------------------------------ 32: down at open */

static void a_client_opens_while_its_server_is_down(void **state)
{
    (void)state;
    for (int local = 0; local < 2; local++) {
        belay_error err = BELAY_ERROR_INIT;
        char nowhere[64];
        assert_true(server_start(&server, NULL));
        server_kill(&server);
        if (local) assert_int_equal(unlink(server.socket), 0);
        snprintf(nowhere, sizeof nowhere, "%s", server.socket);
        client = client_open(local ? at_socket(nowhere) : at_server(&server),
                             "timeout = \"300ms\";", NULL);
        for (int i = 0; i < 3; i++) {
            int64_t start = clock_ms();
            assert_status(take(client, "job", LONG_MS, BELAY_TRY, NULL, &err), BELAY_UNAVAILABLE);
            assert_true(clock_ms() - start < 300 + 100 * until_slow());
            assert_non_null(strstr(err.text, local ? "No such file" : "refused"));
        }
        assert_true(server_restart(&server, true));
        assert_true(until(take(client, "job", LONG_MS, BELAY_TRY, NULL, NULL) == BELAY_OK));
        assert_int_equal(server_lock_keys(&server, "belay:"), 0);
        tidy(NULL);
    }
}

static void a_waiting_acquire_gets_it_when_the_server_comes(void **state)
{
    struct caller caller = { 0 };
    (void)state;
    assert_true(server_start(&server, NULL));
    server_kill(&server);
    client = client_open(at_server(&server), "timeout = \"200ms\";", "outage = \"1h\";");
    caller_acquire(&caller, client, "job", LONG_MS, 30000);
    assert_false(until_within(500, atomic_load(&caller.ended)));
    int64_t start = clock_ms();
    assert_true(server_restart(&server, true));
    assert_status(caller_end(&caller), BELAY_OK);
    assert_true(clock_ms() - start < 3000 * until_slow()); /* backoff up to a second */
    must_release(caller.lock);
}

static void a_waiting_acquire_gives_up_after_an_outage(void **state)
{
    belay_error err = BELAY_ERROR_INIT;
    (void)state;
    assert_true(server_start(&server, NULL));
    server_kill(&server);
    client = client_open(at_server(&server), "timeout = \"100ms\";", "outage = \"700ms\";");
    int64_t start = clock_ms(), cpu = cpu_ms();
    assert_status(take(client, "job", LONG_MS, 30000, NULL, &err), BELAY_UNAVAILABLE);
    int64_t took = clock_ms() - start;
    assert_true(took >= 650 && took < 700 + 400 * until_slow());
    assert_true(cpu_ms() - cpu < 100 * until_slow()); /* it did not hammer */
}

/* Killed and restarted again and again under a client that is never reopened. */
static void recovery_needs_no_reopening(void **state)
{
    const struct server_options options = { .persist = true };
    (void)state;
    assert_true(server_start(&server, &options));
    client = client_open(at_server(&server), "timeout = \"300ms\";", NULL);
    belay_lock *held = must_take(client, "held", LONG_MS, 5000);
    for (int i = 0; i < 4; i++) {
        must_release(must_take(client, "job", LONG_MS, 10000));
        server_kill(&server);
        assert_true(is_doubt(take(client, "job", LONG_MS, BELAY_TRY, NULL, NULL)));
        assert_true(server_restart(&server, false));
        assert_true(until(belay_extend(held, LONG_MS, NULL) == BELAY_OK)); /* it was persisted */
    }
    must_release(held);
    assert_true(until(server_lock_keys(&server, "belay:") == 0));
}

static void connects_back_off_while_nobody_is_there(void **state)
{
    (void)state;
    const struct peer_step hang_up[] = { { .act = PEER_CLOSE } };
    struct peer *peer = peer_start(NULL);
    peer_script(peer, PEER_ALL, hang_up, 1);
    client = client_open(at_peer(peer), "timeout = \"2s\";", "outage = \"2s\";");
    int64_t start = clock_ms();
    assert_true(is_doubt(take(client, "job", LONG_MS, 2000, NULL, NULL)));
    assert_true(clock_ms() - start < 2000 + 500 * until_slow());
    int connections = peer_connections(peer);
    assert_true(connections >= 4 && connections <= 20); /* 10 ms, doubling to a second, jittered */
    belay_close(client);
    client = NULL;
    peer_end(peer);
}

/* ------------------------------------------------------------------ 56: names */

static void a_name_that_never_resolves_keeps_the_deadline(void **state)
{
    (void)state;
    assert_true(server_start(&server, NULL));
    resolver_say(ANSWER_NEVER);
    client =
        client_open(by_name(server.port), "timeout = \"300ms\";", "close_timeout = \"200ms\";");
    belay *numeric = client_open(at_server(&server), "timeout = \"300ms\";", NULL);
    for (int i = 0; i < 3; i++) {
        belay_error err = BELAY_ERROR_INIT;
        int64_t start = clock_ms();
        assert_status(take(client, "job", LONG_MS, BELAY_TRY, NULL, &err), BELAY_UNAVAILABLE);
        assert_true(clock_ms() - start < 300 + 150 * until_slow());
        assert_true(err.text[0] != '\0');
        must_release(must_take(numeric, "job", LONG_MS, BELAY_TRY)); /* is not affected */
    }
    assert_true(resolver_asked() > 0);
    int64_t start = clock_ms();
    belay_close(client); /* nor does closing wait for it */
    client = NULL;
    assert_true(clock_ms() - start < 1000 * until_slow());
    belay_close(numeric);
    resolver_say(ANSWER_FAILS);
    assert_true(until(resolver_inside() == 0));
}

static void a_name_that_resolves_at_last_is_used(void **state)
{
    struct caller caller = { 0 };
    (void)state;
    assert_true(server_start(&server, NULL));
    resolver_say(ANSWER_NEVER);
    client = client_open(by_name(server.port), "timeout = \"300ms\";", "outage = \"1h\";");
    caller_acquire(&caller, client, "job", LONG_MS, 30000);
    assert_false(until_within(500, atomic_load(&caller.ended)));
    resolver_say(ANSWER_FIRST_DEAD);
    assert_status(caller_end(&caller), BELAY_OK);
    must_release(caller.lock);
}

static void a_name_that_nobody_knows_is_told(void **state)
{
    belay_error err = BELAY_ERROR_INIT;
    (void)state;
    assert_true(server_start(&server, NULL));
    resolver_say(ANSWER_FAILS);
    client = client_open(by_name(server.port), "timeout = \"300ms\";", NULL);
    assert_status(take(client, "job", LONG_MS, BELAY_TRY, NULL, &err), BELAY_UNAVAILABLE);
    assert_non_null(strstr(err.text, "redis.example"));
    resolver_say(ANSWER_ALIVE);
    assert_true(until(take(client, "job", LONG_MS, BELAY_TRY, NULL, NULL) == BELAY_OK));
}

static void every_address_of_a_name_is_tried_and_asked_for_again(void **state)
{
    (void)state;
    assert_true(server_start(&server, NULL));
    const struct relay_options to = { .to_port = server.port };
    relay = relay_start(&to);
    resolver_say(ANSWER_FIRST_DEAD);
    client = client_open(by_name(relay_port(relay)), "timeout = \"2s\";", NULL);
    must_release(must_take(client, "job", LONG_MS, BELAY_TRY));
    int asked = resolver_asked();
    relay_cut(relay, RELAY_ALL, true);
    assert_true(until(take(client, "job", LONG_MS, 5000, NULL, NULL) == BELAY_OK));
    assert_true(resolver_asked() > asked);
}

static void a_name_needs_a_worker_with_dispatch(void **state)
{
    belay_open_options options = BELAY_OPEN_OPTIONS_INIT;
    (void)state;
    resolver_say(ANSWER_ALIVE);
    assert_true(server_start(&server, NULL));
    options.threads = BELAY_DISPATCH;
    assert_null(client_try_open(by_name(server.port), NULL, NULL, &options));
    client = client_open_with(by_name(server.port), "resolve = \"blocking\";", NULL, &options);
    must_release(must_take(client, "job", LONG_MS, 5000));
}

#define IS(function) cmocka_unit_test_teardown(function, tidy)

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        IS(a_client_opens_while_its_server_is_down),
        IS(a_waiting_acquire_gets_it_when_the_server_comes),
        IS(a_waiting_acquire_gives_up_after_an_outage),
        IS(recovery_needs_no_reopening),
        IS(connects_back_off_while_nobody_is_there),
        IS(a_name_that_never_resolves_keeps_the_deadline),
        IS(a_name_that_resolves_at_last_is_used),
        IS(a_name_that_nobody_knows_is_told),
        IS(every_address_of_a_name_is_tried_and_asked_for_again),
        IS(a_name_needs_a_worker_with_dispatch),
    };
    if (argc > 1) cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL) == 0 ? 0 : 1;
}
