/* exclusion.c - one holder at a time: between clients, within one, and for as long as was promised.
 */
#include "scene.h"

static void a_held_lock_excludes_the_other_client(struct scene *s)
{
    belay *a = client_of(s, BELAY_CONTRACT_FIRST), *b = client_of(s, BELAY_CONTRACT_SECOND);
    const char *name = name_of(s, "lock");

    belay_lock *lock = take(s, a, name, NULL);
    refused(s, b, name, NULL, BELAY_HELD);
    must(s, belay_lock_valid(lock, 0), "the refused attempt of another made the lock invalid");
    released(s, lock, BELAY_OK);

    lock = take(s, b, name, NULL);
    refused(s, a, name, NULL, BELAY_HELD);
    released(s, lock, BELAY_OK);
}

static void a_held_lock_excludes_its_own_client(struct scene *s)
{
    belay *a = client_of(s, BELAY_CONTRACT_FIRST);
    const char *name = name_of(s, "lock");

    belay_lock *lock = take(s, a, name, NULL);
    refused(s, a, name, NULL, BELAY_HELD);
    released(s, lock, BELAY_OK);
    released(s, take(s, a, name, NULL), BELAY_OK);
}

static void a_try_on_a_held_lock_is_held_at_once(struct scene *s)
{
    belay *a = client_of(s, BELAY_CONTRACT_FIRST), *b = client_of(s, BELAY_CONTRACT_SECOND);
    const char *name = name_of(s, "lock");
    belay_lock *lock = take(s, a, name, NULL);

    int64_t before = now_of(s);
    refused(s, b, name, NULL, BELAY_HELD);
    refused(s, a, name, NULL, BELAY_HELD);
    int64_t took_ms = (now_of(s) - before) / NS_PER_MS;

    if (s->world != NULL && !s->target->late)
        must(s, took_ms == 0, "two tries took %lld ms", (long long)took_ms);
    else must(s, took_ms < units(s, 10), "two tries took %lld ms", (long long)took_ms);
    released(s, lock, BELAY_OK);
}

static void a_released_lock_is_free_at_once(struct scene *s)
{
    belay *clients[] = { client_of(s, BELAY_CONTRACT_FIRST), client_of(s, BELAY_CONTRACT_SECOND) };
    const char *name = name_of(s, "lock");

    for (int i = 0; i < 20; i++) {
        belay_lock *lock = take(s, clients[i % 2], name, NULL);
        must(s, belay_lock_valid(lock, 1), "a lock that was just taken is not valid");
        released(s, lock, BELAY_OK);
    }
    for (int i = 0; i < 20; i++) released(s, take(s, clients[0], name, NULL), BELAY_OK);
}

static void names_do_not_exclude_each_other(struct scene *s)
{
    belay *a = client_of(s, BELAY_CONTRACT_FIRST), *b = client_of(s, BELAY_CONTRACT_SECOND);

    belay_lock *one = take(s, a, name_of(s, "one"), NULL);
    belay_lock *two = take(s, b, name_of(s, "two"), NULL);
    belay_lock *three = take(s, a, name_of(s, "on"), NULL);
    released(s, two, BELAY_OK);
    refused(s, b, name_of(s, "one"), NULL, BELAY_HELD);
    refused(s, b, name_of(s, "on"), NULL, BELAY_HELD);
    released(s, one, BELAY_OK);
    released(s, three, BELAY_OK);
}

/* The other client may come in only when the holder has stopped believing in its lock. */
static void nobody_comes_in_before_the_deadline(struct scene *s)
{
    belay *a = client_of(s, BELAY_CONTRACT_FIRST), *b = client_of(s, BELAY_CONTRACT_SECOND);
    const char *name = name_of(s, "lock");
    belay_options lease = lease_of(s, 10, BELAY_TRY);
    belay_lock *lock = take(s, a, name, &lease), *stolen = NULL;

    for (int tries = 0; tries < 10000 && !atomic_load(&s->failed); tries++) {
        belay_status status = take_status(s, b, name, NULL, &stolen);
        bool believes = belay_lock_valid(lock, 0); /* asked after the other was let in */
        must(s, status == BELAY_OK || status == BELAY_HELD, "a try: %s", belay_status_name(status));
        must(s, stolen == NULL || !believes, "two hold the lock, and both believe in it");
        if (stolen != NULL) break;
        int64_t left = belay_lock_remaining_ms(lock);
        pass_ms(s, left > units(s, 1) ? units(s, 1) : left > 1 ? left / 2 : 1);
    }
    must(s, stolen != NULL, "nobody came in after the deadline");
    released(s, stolen, BELAY_OK);
    released(s, lock, BELAY_LOST);
}

static void an_expired_lock_can_be_taken(struct scene *s)
{
    belay *a = client_of(s, BELAY_CONTRACT_FIRST), *b = client_of(s, BELAY_CONTRACT_SECOND);
    const char *name = name_of(s, "lock");
    belay_options lease = lease_of(s, 4, BELAY_TRY);

    belay_lock *old = take(s, a, name, &lease);
    pass_units(s, 5);
    must(s, !belay_lock_valid(old, 0), "a lock is valid past its TTL");
    belay_lock *new = take(s, b, name, NULL);
    refused(s, a, name, NULL, BELAY_HELD);
    released(s, new, BELAY_OK);
    released(s, old, BELAY_LOST);
}

/* A delayed release (FAULTS 4): what another holds by now stays. */
static void release_of_a_foreign_lock_leaves_it(struct scene *s)
{
    belay *a = client_of(s, BELAY_CONTRACT_FIRST), *b = client_of(s, BELAY_CONTRACT_SECOND);
    const char *name = name_of(s, "lock");
    belay_options lease = lease_of(s, 4, BELAY_TRY);

    belay_lock *old = take(s, a, name, &lease);
    pass_units(s, 5);
    belay_lock *new = take(s, b, name, NULL);
    released(s, old, BELAY_LOST);
    pass_ms(s, 1); /* what is still being sent arrives */

    refused(s, a, name, NULL, BELAY_HELD);
    must(s, belay_lock_valid(new, 0), "the new holder's lock is not valid any more");
    extended(s, new, 0, BELAY_OK);
    released(s, new, BELAY_OK);
}

/* The same with a holder that believes in its lock: only the place can know. Its clock is behind,
 * so that the other sees the lock expired before its holder does. */
static void a_holder_whose_clock_is_behind_harms_nobody(struct scene *s)
{
    belay_fake_world *behind = other_world(s);
    if (behind == NULL) return;
    belay_open_options options = open_options(s);
    options.world = belay_fake_base(behind);
    belay *a = client_with(s, BELAY_CONTRACT_FIRST, &options);
    belay *b = client_of(s, BELAY_CONTRACT_SECOND);
    const char *name = name_of(s, "lock");
    belay_options lease = lease_of(s, 4, BELAY_TRY);

    belay_lock *old = take(s, a, name, &lease);
    belay_lock *second = take(s, a, name_of(s, "second"), &lease);
    pass_units(s, 5);
    must(s, belay_lock_valid(old, 0), "the holder's clock is not behind");
    belay_lock *new = take(s, b, name, NULL);
    belay_lock *other = take(s, b, name_of(s, "second"), NULL);

    extended(s, old, 0, BELAY_LOST);
    must(s, !belay_lock_valid(old, 0), "a lost lock is valid");
    released(s, old, BELAY_LOST);
    released(s, second, BELAY_LOST);
    refused(s, b, name, NULL, BELAY_HELD);
    refused(s, b, name_of(s, "second"), NULL, BELAY_HELD);
    extended(s, new, 0, BELAY_OK);
    released(s, new, BELAY_OK);
    released(s, other, BELAY_OK);
}

static void a_lock_says_what_it_is(struct scene *s)
{
    belay *a = client_of(s, BELAY_CONTRACT_FIRST);
    const char *name = name_of(s, "lock");
    belay_lock *one = take(s, a, name, NULL), *two = take(s, a, name_of(s, "two"), NULL);
    if (atomic_load(&s->failed)) return;

    must(s, strcmp(belay_lock_name(one), name) == 0, "its name is %s", belay_lock_name(one));
    const char *owner = belay_lock_owner(one);
    must(s, strlen(owner) == BELAY_OWNER_LENGTH, "the owner id has %zu characters", strlen(owner));
    must(s, strspn(owner, "0123456789abcdef") == BELAY_OWNER_LENGTH,
         "the owner id is not hexadecimal");
    must(s, strcmp(owner, belay_lock_owner(two)) != 0, "two locks have one owner id");
    must(s, belay_lock_scope(one) == s->target->scope, "its scope is %s",
         belay_scope_name(belay_lock_scope(one)));
    released(s, one, BELAY_OK);
    released(s, two, BELAY_OK);
}

static void a_lock_needs_no_options(struct scene *s)
{
    belay *a = client_of(s, BELAY_CONTRACT_FIRST), *b = client_of(s, BELAY_CONTRACT_SECOND);
    const char *name = name_of(s, "lock");
    belay_options defaults = BELAY_OPTIONS_INIT;
    belay_lock *lock = NULL;
    if (atomic_load(&s->failed)) return;

    must_be(s, belay_acquire(a, name, NULL, &lock, NULL), BELAY_OK, "acquire without options");
    must(s, belay_lock_valid(lock, 1), "the lock is not valid");
    refused(s, b, name, NULL, BELAY_HELD);
    if (lock != NULL) must_be(s, belay_release(lock, NULL), BELAY_OK, "release");
    released(s, take(s, b, name, &defaults), BELAY_OK);
}

static void more_scope_than_there_is_is_unsupported(struct scene *s)
{
    belay *a = client_of(s, BELAY_CONTRACT_FIRST);
    const char *name = name_of(s, "lock");
    belay_options lease = lease_of(s, 10, BELAY_TRY);
    int now = (int)s->target->scope, best = (int)s->target->at_best;

    for (int scope = BELAY_SCOPE_ANY; scope <= BELAY_SCOPE_FLEET; scope++) {
        lease.at_least = (belay_scope)scope;
        if (scope <= now) released(s, take(s, a, name, &lease), BELAY_OK);
        else refused(s, a, name, &lease, scope <= best ? BELAY_UNAVAILABLE : BELAY_UNSUPPORTED);
    }
}

const struct promise belay__contract_exclusion[] = {
    PROMISE(a_held_lock_excludes_the_other_client, ON_BOTH | STARTED),
    PROMISE(a_held_lock_excludes_its_own_client, ON_BOTH | STARTED),
    PROMISE(a_try_on_a_held_lock_is_held_at_once, ON_BOTH | STARTED),
    PROMISE(a_released_lock_is_free_at_once, ON_BOTH | STARTED),
    PROMISE(names_do_not_exclude_each_other, ON_BOTH | STARTED),
    PROMISE(nobody_comes_in_before_the_deadline, ON_BOTH),
    PROMISE(an_expired_lock_can_be_taken, ON_BOTH | STARTED),
    PROMISE(release_of_a_foreign_lock_leaves_it, ON_BOTH | STARTED),
    PROMISE(a_holder_whose_clock_is_behind_harms_nobody, ON_DISPATCH | CLOCK),
    PROMISE(a_lock_says_what_it_is, ON_BOTH | STARTED),
    PROMISE(a_lock_needs_no_options, ON_BOTH | FLOWS),
    PROMISE(more_scope_than_there_is_is_unsupported, ON_BOTH | STARTED),
    { 0 },
};
