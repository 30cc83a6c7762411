/* sqlite_chore.c - whose turn is it now: reading the next waiters, telling one, and what is done
 * later.
 *
 * A release reads the oldest waiters in its transaction and tells one after its COMMIT. Rows of the
 * dead, and of waits that ended, are chores: deleted soon, in a transaction of their own, many at
 * once. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "sqlite.h"

#include <stdio.h>
#include <string.h>

#define CHORES_MAX 4096

/* What is done when there is time: a waiter's row that nobody needs, a wake-up to be passed on. */
struct chore {
    belay_link link;
    bool pass;
    int64_t since_ns;
    char socket[64];
    size_t length;
    char key[];
};

void belay__sqlite_chore_add(struct sqlite_backend *b, bool pass, belay_str key, int64_t since_ns,
                             const char *socket)
{
    if (b->chore_count >= CHORES_MAX) return;
    for (belay_link *link = b->chores.next; pass && link != &b->chores; link = link->next) {
        const struct chore *other = belay_container_of(link, struct chore, link);
        if (other->pass && other->length == key.length &&
            memcmp(other->key, key.at, key.length) == 0)
            return;
    }
    /* Without memory a dead row stays until the next release trips over it. */
    struct chore *chore = belay_env_alloc(b->store.env, sizeof *chore + key.length + 1);
    if (chore == NULL) return;
    chore->pass = pass;
    chore->since_ns = since_ns;
    snprintf(chore->socket, sizeof chore->socket, "%s", socket);
    chore->length = key.length;
    memcpy(chore->key, key.at, key.length);
    belay_link_append(&b->chores, &chore->link);
    b->chore_count++;
    belay_task_post(b->store.env, &b->task);
}

static void chore_free(struct sqlite_backend *b, struct chore *chore)
{
    belay_unlink(&chore->link);
    b->chore_count--;
    belay_env_free(b->store.env, chore);
}

bool belay__sqlite_waiter_delete(struct sqlite_backend *b, belay_str key, int64_t since_ns,
                                 const char *socket, struct sqlite_failure *f)
{
    sqlite3_stmt *unwait = belay__sqlite_store_statement(&b->store, SQL_UNWAIT, f);
    if (unwait == NULL) return false;
    belay__sqlite_bind_key(unwait, key);
    sqlite3_bind_int64(unwait, 2, since_ns);
    sqlite3_bind_text(unwait, 3, socket, -1, SQLITE_STATIC);
    return belay__sqlite_store_run(&b->store, unwait, f);
}

bool belay__sqlite_next_read(struct sqlite_backend *b, belay_str key, struct sqlite_next *next,
                             struct sqlite_failure *f)
{
    sqlite3_stmt *statement = belay__sqlite_store_statement(&b->store, SQL_NEXT, f);
    int rc;
    next->count = 0;
    if (statement == NULL) return false;
    belay__sqlite_bind_key(statement, key);
    while ((rc = sqlite3_step(statement)) == SQLITE_ROW && next->count < SQLITE_NEXT_MAX) {
        const char *socket = (const char *)sqlite3_column_text(statement, 1);
        next->at[next->count].since_ns = sqlite3_column_int64(statement, 0);
        snprintf(next->at[next->count].socket, sizeof next->at[0].socket, "%s",
                 socket != NULL ? socket : "");
        next->count++;
    }
    if (!belay__sqlite_store_done(&b->store, statement, rc, f)) return false;
    /* The oldest has had its turn, whatever becomes of it: one that is stopped must not swallow
     * every wake-up. If it is refused it comes back, as old as it is. */
    return next->count == 0 ||
           belay__sqlite_waiter_delete(b, key, next->at[0].since_ns, next->at[0].socket, f);
}

/* Tells the oldest that can be told. Rows of the dead go, later. */
void belay__sqlite_next_tell(struct sqlite_backend *b, belay_str key,
                             const struct sqlite_next *next)
{
    int dead = 0;
    for (int i = 0; i < next->count; i++) {
        enum sqlite_sent sent =
            belay__sqlite_wakes_send(&b->wakes, next->at[i].socket, key, next->at[i].since_ns);
        if (sent == SENT_OK) return;
        if (sent != SENT_DEAD) continue;
        belay__sqlite_chore_add(b, false, key, next->at[i].since_ns, next->at[i].socket);
        dead++;
    }
    if (next->count == SQLITE_NEXT_MAX && dead > 0) belay__sqlite_chore_add(b, true, key, 0, "");
}

/* Somebody woke us for a lock that none of our waits wants any more: whose turn is it now? */
static bool chore_pass(struct sqlite_backend *b, belay_str key, struct sqlite_next *next,
                       struct sqlite_failure *f)
{
    struct sqlite_row row;
    next->count = 0;
    if (!belay__sqlite_store_look(&b->store, key, &row, f)) return false;
    return !belay__sqlite_row_free(&row, &b->store.self, belay_env_now(b->store.env)) ||
           belay__sqlite_next_read(b, key, next, f);
}

/* One transaction for all the dead rows at the front, or for one wake-up. */
static bool chores_step(struct sqlite_backend *b, struct sqlite_failure *f)
{
    struct chore *first = belay_container_of(b->chores.next, struct chore, link);
    belay_str key = { first->key, first->length };
    struct sqlite_next next = { 0 };
    bool done = true;
    unsigned count = 0;
    if (first->pass) {
        done = chore_pass(b, key, &next, f);
        count = 1;
    }
    for (belay_link *link = b->chores.next; !first->pass && done && link != &b->chores;
         link = link->next) {
        struct chore *chore = belay_container_of(link, struct chore, link);
        if (chore->pass) break;
        done = belay__sqlite_waiter_delete(b, (belay_str){ chore->key, chore->length },
                                           chore->since_ns, chore->socket, f);
        count++;
    }
    done = done && belay__sqlite_store_commit(&b->store, f);
    if (!done) belay__sqlite_store_rollback(&b->store);
    else if (first->pass) belay__sqlite_next_tell(b, key, &next);
    for (; count > 0; count--)
        chore_free(b, belay_container_of(b->chores.next, struct chore, link));
    return done;
}

void belay__sqlite_chores_drop(struct sqlite_backend *b)
{
    while (!belay_links_empty(&b->chores))
        chore_free(b, belay_container_of(b->chores.next, struct chore, link));
}

/* Chores are hints: what fails but for want of a turn is dropped. */
void belay__sqlite_chores_run(struct sqlite_backend *b)
{
    struct sqlite_failure f;
    unsigned limit = 2 * CHORES_MAX;
    while (!belay_links_empty(&b->chores) && limit-- > 0) {
        enum sqlite_turn turn = belay__sqlite_begin(b, &f);
        if (turn == TURN_BUSY) {
            belay__sqlite_retry_arm(b);
            return;
        }
        b->tries = 0;
        if (turn != TURN_GO || !chores_step(b, &f)) break;
    }
    belay__sqlite_chores_drop(b);
}
