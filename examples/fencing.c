/* fencing.c - what a lock alone can't do, and how the fencing token does it.
 *
 * A holder that is stopped for longer than its TTL (a swapped-out process, a suspended machine, a
 * debugger) does not notice. Another takes the lock and writes; then the first wakes up in the
 * middle of a write that it began when the lock was still its own. No lock service can prevent
 * that; the resource can: it remembers the largest token it has seen and refuses smaller ones.
 *
 * Here the resource is a file whose first line is that token; its own flock(2) makes a check and a
 * write one step. In a database it is one condition: UPDATE ... WHERE token <= the token sent.
 * Martin Kleppmann, "How to do distributed locking" (2016), tells the story at length.
 *
 *   ./fencing [WHERE]
 */
#define _DEFAULT_SOURCE
#include <belay/belay.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

/* ------------------------------------------------------------------ the resource */

/* True: written. False: somebody with a larger token was here before. */
static bool ledger_write(const char *path, uint64_t token, const char *text)
{
    uint64_t seen = 0;
    bool written = false;
    FILE *file = fopen(path, "r+");
    if (file == NULL) return false;
    if (flock(fileno(file), LOCK_EX) != 0) goto out;
    if (fscanf(file, "%" SCNu64, &seen) != 1) seen = 0;
    if (token < seen) goto out;
    rewind(file);
    if (ftruncate(fileno(file), 0) != 0) goto out;
    written = fprintf(file, "%" PRIu64 "\n%s\n", token, text) > 0 && fflush(file) == 0;
out:
    fclose(file); /* lets go of the flock as well */
    return written;
}

/* ------------------------------------------------------------------ two holders */

static belay *opened(const char *where)
{
    belay *client;
    belay_error err = BELAY_ERROR_INIT;
    if (belay_open(&client, where, NULL, &err) == BELAY_OK) return client;
    fprintf(stderr, "fencing: %s\n", err.text);
    exit(1);
}

static belay_lock *taken(belay *client, const char *who)
{
    belay_options options = BELAY_OPTIONS_INIT;
    belay_error err = BELAY_ERROR_INIT;
    belay_lock *lock;
    options.ttl_ms = 300;
    options.keep = BELAY_KEEP_OFF; /* so that it ends in time for an example */
    if (belay_acquire(client, "ledger", &options, &lock, &err) != BELAY_OK) {
        fprintf(stderr, "fencing: %s\n", err.text);
        exit(1);
    }
    printf("%s has the lock, token %" PRIu64 "\n", who, belay_lock_token(lock));
    return lock;
}

int main(int argc, char **argv)
{
    const char *where = argc > 1 ? argv[1] : "memory:fencing";
    char path[] = "/tmp/belay-ledger-XXXXXX";
    int fd = mkstemp(path);
    if (fd < 0) return 1;
    close(fd);

    belay *ann = opened(where), *bob = opened(where); /* as if on two machines */
    belay_lock *anns = taken(ann, "Ann");
    printf("Ann writes: %s\n", ledger_write(path, belay_lock_token(anns), "Ann, 1") ? "yes" : "NO");

    /* Ann is stopped. Her lock runs out, and Bob gets it. */
    belay_lock *bobs = taken(bob, "Bob");
    printf("Bob writes: %s\n", ledger_write(path, belay_lock_token(bobs), "Bob, 1") ? "yes" : "NO");

    /* Ann goes on where she was. Asking first would tell her; that is what belay_lock_valid is for.
     */
    printf("Ann still believes in her lock: %s\n", belay_lock_valid(anns, 0) ? "YES" : "no");
    /* But a write that was on its way already did not ask. */
    bool late = ledger_write(path, belay_lock_token(anns), "Ann, 2");
    printf("Ann's late write gets in: %s\n", late ? "YES" : "no, her token is smaller");

    belay_release(anns, NULL); /* LOST */
    belay_release(bobs, NULL);
    belay_close(ann);
    belay_close(bob);
    unlink(path);
    return late ? 1 : 0;
}
