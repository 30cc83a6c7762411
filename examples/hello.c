/* hello.c - the smallest use: take a lock, do what only one may do, let it go.
 *
 *   ./hello [WHERE]     a config file or a URL; without one, what belay_open's default chain finds
 *
 * Run two at once: the second waits for the first. */
#include <belay/belay.h>
#include <stdio.h>

int main(int argc, char **argv)
{
    belay *client;
    belay_lock *lock;
    belay_error err = BELAY_ERROR_INIT;

    if (belay_open(&client, argc > 1 ? argv[1] : NULL, NULL, &err) != BELAY_OK) {
        fprintf(stderr, "hello: %s\n", err.text);
        return 1;
    }
    if (belay_acquire(client, "hello", NULL, &lock, &err) != BELAY_OK) {
        fprintf(stderr, "hello: %s: %s\n", belay_status_name(err.status), err.text);
        belay_close(client);
        return 1;
    }
    printf("hello: mine, for %lld ms and kept, on this %s\n",
           (long long)belay_lock_remaining_ms(lock), belay_scope_name(belay_lock_scope(lock)));

    /* The work. A long one asks belay_lock_valid before each step that matters. */

    if (belay_release(lock, &err) != BELAY_OK)
        fprintf(stderr, "hello: it ended before it was released: %s\n", err.text);
    belay_close(client);
    return 0;
}
