/* looking.c - inspect, list, break, adopt: what others may see of a lock, and do to it. */
#include "scene.h"

static belay_info inspected(struct scene *s, belay *client, const char *name)
{
    belay_info info = { .size = sizeof info };
    belay_error err = BELAY_ERROR_INIT;
    if (!atomic_load(&s->failed))
        must_be(s, belay_inspect(client, name, &info, &err), BELAY_OK, "inspect");
    return info;
}

static void inspect_tells_who_holds(struct scene *s)
{
    belay *a = client_of(s, BELAY_CONTRACT_FIRST), *b = client_of(s, BELAY_CONTRACT_SECOND);
    const char *name = name_of(s, "lock");
    belay_options lease = lease_of(s, 10, BELAY_TRY);
    lease.label = "the holder";
    belay_lock *lock = take(s, a, name, &lease);
    pass_units(s, 2);

    belay *clients[] = { a, b };
    for (int i = 0; i < 2 && !atomic_load(&s->failed); i++) {
        belay_info info = inspected(s, clients[i], name);
        if (atomic_load(&s->failed)) break;
        must(s, info.held, "a held lock is shown as free");
        must(s, strcmp(info.name, name) == 0, "its name is \"%s\"", info.name);
        must(s, strcmp(info.owner, belay_lock_owner(lock)) == 0, "another owner is shown");
        must_tell(s, &info, belay_lock_token(lock), "the holder");
        must(s, info.scope == belay_lock_scope(lock), "another scope is shown");
        /* The place waits a little longer (drift) than the holder believes. */
        must(s,
             info.remaining_ms == -1 || (info.remaining_ms >= belay_lock_remaining_ms(lock) &&
                                         info.remaining_ms <= units(s, 8) + 1),
             "%lld ms remain, the holder has %lld", (long long)info.remaining_ms,
             (long long)belay_lock_remaining_ms(lock));
        must(s, info.held_ms == -1 || (info.held_ms >= 0 && info.held_ms <= units(s, 10)),
             "held for %lld ms", (long long)info.held_ms);
    }
    must(s, belay_lock_valid(lock, 0), "looking at a lock made it invalid");
    released(s, lock, BELAY_OK);
}

static void inspect_shows_a_free_lock_as_free(struct scene *s)
{
    belay *a = client_of(s, BELAY_CONTRACT_FIRST), *b = client_of(s, BELAY_CONTRACT_SECOND);
    const char *name = name_of(s, "lock");
    belay_options lease = lease_of(s, 4, BELAY_TRY);

    must(s, !inspected(s, a, name).held, "a lock that never was is held");
    belay_lock *lock = take(s, a, name, &lease);
    must(s, inspected(s, b, name).held, "a held lock is free");
    released(s, lock, BELAY_OK);
    must(s, !inspected(s, a, name).held && !inspected(s, b, name).held, "a released lock is held");
    lock = take(s, a, name, &lease);
    pass_units(s, 5);
    must(s, !inspected(s, a, name).held && !inspected(s, b, name).held, "an expired lock is held");
    released(s, lock, BELAY_LOST);
}

/* ------------------------------------------------------------------ list */

struct listing {
    const char *stem;
    unsigned mine, calls, stop_after;
    belay_info last;
};

static bool listing_one(void *arg, const belay_info *info)
{
    struct listing *listing = arg;
    listing->calls++;
    if (strncmp(info->name, listing->stem, strlen(listing->stem)) == 0) {
        listing->mine++;
        listing->last = *info;
    }
    return listing->calls != listing->stop_after;
}

/* Lists what matches `glob` (NULL: all); `wanted` of it must be this scene's. */
static void listed(struct scene *s, belay *client, const char *glob, int wanted,
                   struct listing *listing, int line)
{
    *listing = (struct listing){ .stem = s->stem, .stop_after = listing->stop_after };
    if (atomic_load(&s->failed)) return;
    belay_status status = belay_list(client, glob, listing_one, listing, NULL);
    must_equal_status(s, status, BELAY_OK, __FILE__, line, "list");
    must_see(s, wanted < 0 || (int)listing->mine == wanted, __FILE__, line,
             "%u of %d that match %s are listed", listing->mine, wanted, glob != NULL ? glob : "*");
}
#define must_list(s, client, glob, wanted, listing)                                                \
    listed((s), (client), (glob), (wanted), (listing), __LINE__)

static void list_shows_what_is_held(struct scene *s)
{
    belay *a = client_of(s, BELAY_CONTRACT_FIRST), *b = client_of(s, BELAY_CONTRACT_SECOND);
    const char *names[] = { name_of(s, "aa"), name_of(s, "ab"), name_of(s, "b") };
    belay_options lease = lease_of(s, 1000, BELAY_TRY);
    struct listing listing = { 0 };
    belay_lock *locks[3];
    char glob[64];

    must_list(s, a, NULL, 0, &listing);
    lease.label = "listed";
    for (int i = 0; i < 3; i++) locks[i] = take(s, i == 1 ? b : a, names[i], &lease);
    must_list(s, b, NULL, 3, &listing);
    snprintf(glob, sizeof glob, "%sa*", s->stem);
    must_list(s, a, glob, 2, &listing);
    snprintf(glob, sizeof glob, "%s?", s->stem);
    must_list(s, a, glob, 1, &listing);
    must(s, strcmp(listing.last.name, names[2]) == 0 || atomic_load(&s->failed), "? matches %s",
         listing.last.name);
    snprintf(glob, sizeof glob, "%s[xyz]*", s->stem);
    must_list(s, a, glob, 0, &listing);
    must_list(s, a, names[0], 1, &listing);
    if (!atomic_load(&s->failed)) must_tell(s, &listing.last, belay_lock_token(locks[0]), "listed");
    listing.stop_after = 1;
    must_list(s, a, NULL, -1, &listing); /* as many as it likes */
    must(s, listing.calls == 1, "list went on after `each` had said stop");
    listing.stop_after = 0;
    for (int i = 0; i < 3; i++) {
        released(s, locks[i], BELAY_OK);
        must_list(s, a, NULL, 2 - i, &listing);
    }
}

static void list_leaves_out_what_has_expired(struct scene *s)
{
    belay *a = client_of(s, BELAY_CONTRACT_FIRST), *b = client_of(s, BELAY_CONTRACT_SECOND);
    struct listing listing = { 0 };
    belay_options brief = lease_of(s, 4, BELAY_TRY), lease = lease_of(s, 20, BELAY_TRY);
    belay_lock *gone = take(s, a, name_of(s, "gone"), &brief);
    belay_lock *held = take(s, a, name_of(s, "held"), &lease);

    must_list(s, b, NULL, 2, &listing);
    pass_units(s, 5);
    must_list(s, b, NULL, 1, &listing);
    must_list(s, a, NULL, 1, &listing);
    released(s, held, BELAY_OK);
    released(s, gone, BELAY_LOST);
}

static void list_shows_every_lock_of_many(struct scene *s)
{
    enum { MANY = 500 };
    belay *a = client_of(s, BELAY_CONTRACT_FIRST);
    struct listing listing = { 0 };
    belay_options lease = lease_of(s, 1000, BELAY_TRY);
    belay_lock **locks = memory_of(s, MANY * sizeof *locks);
    int count = rounds_of(s, MANY) < MANY ? rounds_of(s, MANY) : MANY;

    for (int i = 0; i < count; i++) {
        char name[64];
        snprintf(name, sizeof name, "%s%d", s->stem, i);
        locks[i] = take(s, a, name, &lease);
    }
    must_list(s, a, NULL, count, &listing);
    for (int i = 0; i < count; i++) released(s, locks[i], BELAY_OK);
    must_list(s, a, NULL, 0, &listing);
}

/* ------------------------------------------------------------------ break */

static void break_removes_only_what_was_seen(struct scene *s)
{
    belay *a = client_of(s, BELAY_CONTRACT_FIRST), *b = client_of(s, BELAY_CONTRACT_SECOND);
    const char *name = name_of(s, "lock");
    belay_lock *old = take(s, a, name, NULL);
    belay_info seen = inspected(s, b, name);
    if (atomic_load(&s->failed)) return;
    belay_error err = BELAY_ERROR_INIT;

    must_be(s, belay_break(b, name, &seen, &err), BELAY_OK, "break");
    must(s, !inspected(s, b, name).held, "a broken lock is held");
    must_be(s, belay_break(b, name, &seen, &err), BELAY_LOST, "break of what is gone");
    belay_lock *new = take(s, b, name, NULL);
    must_be(s, belay_break(a, name, &seen, &err), BELAY_LOST, "break of another's lock");
    must(s, err.status == BELAY_LOST && err.text[0] != '\0', "LOST without a text");
    refused(s, a, name, NULL, BELAY_HELD);
    must(s, belay_lock_valid(new, 0), "the new holder lost its lock");
    extended(s, new, 0, BELAY_OK);
    released(s, new, BELAY_OK);
    released(s, old, BELAY_LOST);
}

static void break_lets_a_waiter_in(struct scene *s)
{
    belay *a = client_of(s, BELAY_CONTRACT_FIRST), *b = client_of(s, BELAY_CONTRACT_SECOND);
    const char *name = name_of(s, "lock");
    belay_options lease = lease_of(s, 100, BELAY_TRY), wait = lease_of(s, 100, BELAY_FOREVER);
    belay_lock *old = take(s, a, name, &lease);
    struct call *waiter = call_begin(s, b, name, &wait, NULL);
    drive(s);

    break_it(s, b, name);
    int64_t before = now_of(s);
    must_be(s, call_await(s, waiter), BELAY_OK, "the waiter");
    must(s, now_of(s) - before < (int64_t)units(s, 90) * NS_PER_MS, "it was left to the TTL");
    released(s, waiter->lock, BELAY_OK);
    released(s, old, BELAY_LOST);
}

/* ------------------------------------------------------------------ adopt */

static void adopt_takes_over_what_its_owner_holds(struct scene *s)
{
    belay *a = client_of(s, BELAY_CONTRACT_FIRST), *b = client_of(s, BELAY_CONTRACT_SECOND);
    const char *name = name_of(s, "lock");
    belay_options lease = lease_of(s, 10, BELAY_TRY), none = lease_of(s, 0, 0);
    lease.detached = true;
    belay_lock *lock = take(s, a, name, &lease), *adopted = NULL;
    if (atomic_load(&s->failed)) return;
    char owner[BELAY_OWNER_LENGTH + 1];
    memcpy(owner, belay_lock_owner(lock), sizeof owner);
    uint64_t token = belay_lock_token(lock);
    let_be(s, lock);
    belay_forget(lock);

    belay_error err = BELAY_ERROR_INIT;
    must_be(s, belay_adopt(b, name, owner, &none, &adopted, &err), BELAY_OK, "adopt");
    if (atomic_load(&s->failed)) return;
    must(s, belay_lock_valid(adopted, 0), "an adopted lock is not valid");
    must(s, belay_lock_remaining_ms(adopted) <= units(s, 10), "more than its TTL remains");
    must(s, strcmp(belay_lock_owner(adopted), owner) == 0, "it has another owner id");
    must(s,
         belay_lock_token(adopted) == token ||
             (!s->target->tells && belay_lock_token(adopted) == 0),
         "it has another token");
    pass_units(s, 5);
    extended(s, adopted, units(s, 20), BELAY_OK);
    pass_units(s, 8);
    must(s, belay_lock_valid(adopted, 0), "an adopted lock was not lengthened");
    refused(s, a, name, NULL, BELAY_HELD);
    must_be(s, belay_release(adopted, &err), BELAY_OK, "release of an adopted lock");
    released(s, take(s, a, name, NULL), BELAY_OK);
}

static void adopt_of_anothers_lock_is_lost(struct scene *s)
{
    belay *a = client_of(s, BELAY_CONTRACT_FIRST), *b = client_of(s, BELAY_CONTRACT_SECOND);
    const char *name = name_of(s, "lock");
    const char *wrong = "0123456789abcdef0123456789abcdef";
    const char *malformed[] = { "", "0123", "0123456789abcdef0123456789abcdeg",
                                "0123456789abcdef0123456789abcdef0", NULL };
    belay_options lease = lease_of(s, 4, BELAY_TRY);
    belay_lock *lock = take(s, a, name, &lease), *none = NULL;
    if (atomic_load(&s->failed)) return;

    must_be(s, belay_adopt(b, name, wrong, NULL, &none, NULL), BELAY_LOST, "adopt by another");
    must(s, none == NULL, "LOST with a lock");
    for (size_t i = 0; i < sizeof malformed / sizeof malformed[0]; i++)
        must_be(s, belay_adopt(b, name, malformed[i], NULL, &none, NULL), BELAY_INVALID,
                "adopt with a malformed owner");
    must(s, belay_lock_valid(lock, 0), "the holder lost its lock");
    char owner[BELAY_OWNER_LENGTH + 1];
    memcpy(owner, belay_lock_owner(lock), sizeof owner);
    pass_units(s, 5);
    must_be(s, belay_adopt(b, name, owner, NULL, &none, NULL), BELAY_LOST,
            "adopt of what has expired");
    released(s, lock, BELAY_LOST);
    must_be(s, belay_adopt(b, name_of(s, "free"), owner, NULL, &none, NULL), BELAY_LOST,
            "adopt of a free lock");
}

const struct promise belay__contract_looking[] = {
    PROMISE(inspect_tells_who_holds, ON_BOTH | INSPECT),
    PROMISE(inspect_shows_a_free_lock_as_free, ON_BOTH | INSPECT),
    PROMISE(list_shows_what_is_held, ON_BOTH | LIST),
    PROMISE(list_leaves_out_what_has_expired, ON_BOTH | LIST),
    PROMISE(list_shows_every_lock_of_many, ON_BOTH | LIST),
    PROMISE(break_removes_only_what_was_seen, ON_BOTH | BREAK | INSPECT),
    PROMISE(break_lets_a_waiter_in, ON_BOTH | BREAK | INSPECT | FLOWS),
    PROMISE(adopt_takes_over_what_its_owner_holds, ON_BOTH | INSPECT),
    PROMISE(adopt_of_anothers_lock_is_lost, ON_BOTH | INSPECT),
    { 0 },
};
