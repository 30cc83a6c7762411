/* timer.c - timers in an intrusive pairing heap: arming cannot fail, the earliest is at the root.
 *
 * Insertion is O(1), removal O(log n) amortised. Fredman, Sedgewick, Sleator, Tarjan: "The Pairing
 * Heap" (1986). `link` is the address of the pointer that points at the node (its parent's `child`,
 * its elder sibling's `next`, or the heap's root); it is NULL while the timer is not armed. */
#include "core/loop.h"

static bool fires_before(const belay_timer *a, const belay_timer *b)
{
    if (a->due_ns != b->due_ns) return a->due_ns < b->due_ns;
    return a->depth > b->depth; /* children's deadlines before their parents' */
}

/* Both are roots without siblings. */
static belay_timer *meld(belay_timer *a, belay_timer *b)
{
    if (a == NULL) return b;
    if (b == NULL) return a;
    if (fires_before(b, a)) {
        belay_timer *swap = a;
        a = b;
        b = swap;
    }
    b->next = a->child;
    if (b->next != NULL) b->next->link = &b->next;
    a->child = b;
    b->link = &a->child;
    return a;
}

/* Melds a list of siblings into one root: in pairs from the left, then all from the right. */
static belay_timer *meld_siblings(belay_timer *first)
{
    belay_timer *pairs = NULL; /* a stack through `next` */
    while (first != NULL) {
        belay_timer *a = first;
        belay_timer *b = a->next;
        first = b != NULL ? b->next : NULL;
        a->next = NULL;
        if (b != NULL) b->next = NULL;
        a = meld(a, b);
        a->next = pairs;
        pairs = a;
    }
    belay_timer *root = NULL;
    while (pairs != NULL) {
        belay_timer *rest = pairs->next;
        pairs->next = NULL;
        root = meld(root, pairs);
        pairs = rest;
    }
    return root;
}

static void set_root(belay_timer **heap, belay_timer *root)
{
    *heap = root;
    if (root != NULL) root->link = heap;
}

void belay__timer_insert(belay_timer **heap, belay_timer *timer)
{
    timer->child = timer->next = NULL;
    set_root(heap, meld(*heap, timer));
}

void belay__timer_remove(belay_timer **heap, belay_timer *timer)
{
    belay_timer *orphans = meld_siblings(timer->child);
    bool was_root = *heap == timer;
    if (!was_root) {
        *timer->link = timer->next;
        if (timer->next != NULL) timer->next->link = timer->link;
    }
    timer->child = timer->next = NULL;
    timer->link = NULL;
    set_root(heap, was_root ? orphans : meld(*heap, orphans));
}
