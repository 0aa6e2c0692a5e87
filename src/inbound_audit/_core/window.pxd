"""Windows of time: a ring of trees, one per window, and the timeline of the ring.

    slot        0        1        2        3          interval 300 s, 4 slots
             +--------+--------+--------+--------+
    number   |   8    |   5    |   6    |   7    |    newest = 8: window 0 of a query is 8, window 3 is 5
             +--------+--------+--------+--------+
                 |
                 +-- when the clock reaches 9, the first record empties slot 1 and labels it 9

A query looks for window `number` in slot `number` mod `slots` and compares the label, so it never counts an older
window. To rotate empties one tree in O(1), whatever it holds. Its pages stay for the next window; later records give
back the pages that are not used again, one slice at a time.

The timeline of a ring is `number = clock's number + base`, and it never runs backwards. While the clock is before the
newest window, that window goes on. When the clock was set back by more than a window, `base` takes up the difference.
So a step backwards changes no count, and a step forwards by k windows makes window v window v + k. Each process keeps
the timeline of its own rings, and publishes `newest` and `base` in the header of the ring's head. The timelines of all
processes are equal until a clock is set.

Lock rule: a change of a ring of this process, or of its trees, holds `Series.lock`. Readers take no lock.
"""

from libc.stdint cimport int64_t
from libc.stdlib cimport calloc, free

from inbound_audit._core.arena cimport arena_renew, arena_trim, unlabel
from inbound_audit._core.bits cimport u32, u64, acquire64, fence_acquire, load64, publish64, store32, store64
from inbound_audit._core.clock cimport system_clock, window_number
from inbound_audit._core.layout cimport header
from inbound_audit._core.model cimport (
    MAX_SERIES, MAX_SERVICES, Owner, Ring, Series, Slot, Term, Tree, load_ring, load_series, load_tree, publish_ring,
    publish_tree,
)
from inbound_audit._core.prefix cimport Prefix
from inbound_audit._core.sums cimport tree_count, tree_sum

cdef extern from *:
    """
    #define IA_REUSE_DELAY_NS ((uint64_t)1000000000)
    """
    const u64 REUSE_DELAY_NS "IA_REUSE_DELAY_NS"    # a reader may stand on a detached tree for that long


cdef inline int64_t now_of(Owner *o) noexcept nogil:
    """Microseconds since 1970, by the audit's clock. The caller holds no lock, because the clock may be Python's."""
    return o.now(o) if o.now != NULL else system_clock()


# ---- rings in their lists (one thread at a time, as in the room `trees`)

cdef inline int series_place(const Series *s) noexcept nogil:
    """The `service` of the trees of this series: a detached tree is used again only for the same series."""
    cdef int i = 0
    while s.owner.series[i] != s and s.owner.series[i].remote != s:
        i += 1
    return MAX_SERVICES + i + (0 if s.owner.series[i] == s else MAX_SERIES)


cdef inline Series *series_at(Owner *o, u32 at) noexcept nogil:
    """Of 2 x `series_known`: each series, and after it that of the other nodes, which may be NULL."""
    cdef Series *s = o.series[at // 2]
    return load_series(&s.remote) if at % 2 else s


cdef inline Ring *new_ring(Series *s, u64 now) noexcept nogil:
    """A ring without trees, not yet in the list; NULL if there is no memory. `now`: nanoseconds, as in `dropped`."""
    cdef Ring **at = &s.spare
    cdef Ring *r
    while at[0] != NULL:
        if now - at[0].dropped >= REUSE_DELAY_NS:
            r = at[0]
            at[0] = r.same_file
            return r
        at = &at[0].same_file
    r = <Ring *>calloc(1, sizeof(Ring))
    if r == NULL:
        return NULL
    r.tree = <Tree **>calloc(2 * s.slots, sizeof(Tree *))
    if r.tree == NULL:
        free(r)
        return NULL
    r.series = s
    return r


cdef inline void link_ring(Series *s, Ring *r) noexcept nogil:
    publish_ring(&r.next, s.first)  # as in `link_tree`
    publish_ring(&s.first, r)


cdef inline void drop_ring(Ring *r, u64 now) noexcept nogil:
    """Takes a ring out of its list, and its trees out of the ring. A reader on the ring goes on to the next one."""
    cdef Series *s = r.series
    cdef Ring **at = &s.first
    cdef u32 i
    while at[0] != NULL and at[0] != r:
        at = &at[0].next
    if at[0] == r:
        publish_ring(at, r.next)
    for i in range(2 * s.slots):
        publish_tree(&r.tree[i], NULL)
    r.dropped = now
    r.same_file = s.spare
    s.spare = r


# ---- queries

cdef inline u32 slot_of(int64_t number, u32 slots) noexcept nogil:
    """The slot of a window; the number may be negative."""
    cdef int64_t slot
    if slots & (slots - 1) == 0:  # two windows, most often: no division
        return <u32>(number & (slots - 1))
    slot = number % <int64_t>slots
    return <u32>(slot + slots if slot < 0 else slot)


cdef inline bint ring_now(Ring *r, int64_t clock_number, int64_t *now) noexcept nogil:
    """The number of the ring's window 0 if the clock is in window `clock_number`. False: the ring has no head."""
    cdef Tree *head = load_tree(&r.tree[0])
    cdef int64_t newest
    if head == NULL:
        return False
    newest = <int64_t>acquire64(<u64 *>&header(&head.arena).newest)
    now[0] = <int64_t>(<u64>clock_number + load64(<u64 *>&header(&head.arena).base))
    if now[0] < newest:
        now[0] = newest
    return True


cdef inline int64_t count_in_window(
    Tree *t, int64_t number, const Prefix *p, const Term *term, size_t terms
) noexcept nogil:
    """The count of a tree below a prefix if it held window `number` before and after the walk; else 0.

    With some terms, as in `tree_sum`.
    """
    cdef u64 *held
    cdef int64_t count
    if t == NULL:
        return 0
    held = <u64 *>&header(&t.arena).number
    if acquire64(held) != <u64>number:
        return 0
    count = tree_sum(t, p, term, terms) if terms else tree_count(t, p)
    fence_acquire()
    return count if load64(held) == <u64>number else 0


cdef inline int64_t pair_sum(
    Tree *added, Tree *taken, int64_t number, const Prefix *p, const Term *term, size_t terms
) noexcept nogil:
    """What was added below a prefix in window `number` minus what was subtracted, and the same of some terms.

    `added` and `taken` are the trees of its slot, or NULL. `p` may be NULL if there are terms.
    O(prefix length x (1 + terms)).
    """
    cdef int64_t count = count_in_window(added, number, p, term, terms)
    if taken == NULL:
        return count
    count -= count_in_window(taken, number, p, term, terms)
    # To rotate empties the first tree alone, so its label is read again: the second tree may be an older window's.
    return count if added != NULL and load64(<u64 *>&header(&added.arena).number) == <u64>number else 0


cdef inline int64_t window_sum(
    Ring *r, int64_t number, const Prefix *p, const Term *term, size_t terms
) noexcept nogil:
    """`pair_sum` of one window of a ring."""
    cdef u32 at = 2 * slot_of(number, r.series.slots)
    return pair_sum(load_tree(&r.tree[at]), load_tree(&r.tree[at + 1]), number, p, term, terms)


cdef inline int64_t window_count(Ring *r, int64_t number, const Prefix *p) noexcept nogil:
    """What was added below a prefix in one window minus what was subtracted. O(prefix length)."""
    return window_sum(r, number, p, NULL, 0)


cdef inline int64_t range_count(Series *s, int64_t now, int64_t first, int64_t last, const Prefix *p) noexcept nogil:
    """The sum over windows `first` to `last` (0 is the current one) of all rings. `now`: microseconds.

    O(rings x windows x prefix length).
    """
    cdef Ring *r = load_ring(&s.first)
    cdef int64_t total = 0, number = 0, v
    while r != NULL:
        if ring_now(r, window_number(now, s.interval), &number):
            for v in range(first, last + 1):
                total += window_count(r, number - v, p)
        r = load_ring(&r.next)
    return total


# ---- changes (the caller holds the series' lock)

cdef inline void store_level(Tree *t, const Slot *slot, const int *lengths) noexcept nogil:
    """Writes into the header to which lengths hosts are folded, for readers."""
    store32(&header(&t.arena).level[0], lengths[0])
    store32(&header(&t.arena).level[1], lengths[1])
    store64(&header(&t.arena).folded, slot.folded)


cdef inline Tree *tree_for(Series *s, int64_t number, int sign) noexcept nogil:
    """This process's tree of a window in view, emptied if it held another window; NULL if there is no tree."""
    cdef u32 at = slot_of(number, s.slots)
    cdef Tree *t = s.own.tree[2 * at + sign]
    cdef Slot *slot = &s.slot[at]
    cdef int full[2]
    if t == NULL or slot.number[sign] == number:
        return t
    if sign == 0:  # a caller gets this tree before the other one
        slot.level[0] = slot.level[1] = 0
        slot.folding = False
        slot.folded = 0
        full[0], full[1] = 32, 128
        unlabel(&t.arena)  # the lengths belong to the window before
        store_level(t, slot, full)
    arena_renew(&t.arena, number)
    slot.number[sign] = number
    return t


cdef inline bint in_view(const Series *s, int64_t number) noexcept nogil:
    return s.newest - <int64_t>s.slots < number <= s.newest


cdef inline void publish_timeline(Series *s) noexcept nogil:
    """Writes the timeline into the header of the head, for readers."""
    publish64(<u64 *>&header(&s.own.tree[0].arena).base, <u64>s.base)
    publish64(<u64 *>&header(&s.own.tree[0].arena).newest, <u64>s.newest)


cdef inline void rotate(Series *s, int64_t number) noexcept nogil:
    """Makes window `number` the current one. O(slots), whatever they hold."""
    cdef u64 most = 0, used
    cdef u32 i
    tree_for(s, number, 0)
    s.newest = number
    publish_timeline(s)
    for i in range(2 * s.slots):
        if s.own.tree[i] != NULL:
            used = <u64>s.own.tree[i].arena.bump * 16
            most = used if used > most else most
    s.keep = most
    s.trims = True


cdef inline bint lies_back(const Series *s, int64_t now) noexcept nogil:
    """The time is over one window before the current one: the clock was set back, or the time was read long ago."""
    return window_number(now, s.interval) + s.base < s.newest - 1


cdef inline int64_t advance(Series *s, int64_t now) noexcept nogil:
    """Moves the ring to the time `now` (microseconds); returns its current window. O(1), and O(slots) to rotate."""
    cdef int64_t clock_number = window_number(now, s.interval)
    cdef int64_t number = clock_number + s.base
    if number > s.newest:
        rotate(s, number)
    elif lies_back(s, now):
        s.base = s.newest - clock_number
        publish_timeline(s)
    return s.newest


cdef inline void trim(Series *s) noexcept nogil:
    """Gives back one slice of the pages that no window needs. At most one system call."""
    cdef u32 i
    for i in range(2 * s.slots):
        if s.own.tree[i] != NULL and arena_trim(&s.own.tree[i].arena, s.keep):
            return
    s.trims = False
