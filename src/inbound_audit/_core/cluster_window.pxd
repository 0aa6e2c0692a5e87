"""A window over a cluster: what the rings of this host hold of it, and the ring that holds what the other nodes do.

A window goes by its number by the clock, so hosts whose clocks agree mean the same. In a ring it is `number + base`,
because a ring's own timeline does not go back (room `window`).

What the other nodes recorded is in one ring, that of the agent, in a series of its own. Its `base` is 0: its windows
follow the clock in both directions, because what they hold is made anew from the trees of the nodes at any time. A
window of it is *whole* when it is the sum of the trees of all nodes; then a change of such a tree is made in it, too.
If it has no room for that it folds, all at once: which is why a change is made at the length of the window.

Lock rule: `Series.lock` of the series of the other nodes is held to change its ring. Reading takes no lock.
"""

from libc.stdint cimport int64_t

from inbound_audit._core.address cimport Address
from inbound_audit._core.bits cimport u32, u64, acquire64, fence_acquire, load32, load64
from inbound_audit._core.clock cimport window_number
from inbound_audit._core.coalesce cimport coalesce
from inbound_audit._core.codes cimport FULL, OK
from inbound_audit._core.difference cimport Difference, next_difference, stamp_tree, start_difference
from inbound_audit._core.fold cimport family_to_fold, length_of, publish_levels
from inbound_audit._core.hosts cimport Merge, merge_tree, reserve_merge
from inbound_audit._core.layout cimport NO_WINDOW, Header, header
from inbound_audit._core.model cimport (
    REPLICATE_CLUSTER, REPLICATE_MANAGER, REPLICATE_NONE, Ring, Series, Slot, Tree, load_ring, load_tree,
)
from inbound_audit._core.node_tree cimport set_in
from inbound_audit._core.records cimport Host, mix
from inbound_audit._core.window cimport in_view, lies_back, ring_now, rotate, slot_of, tree_for

cdef enum:
    ANY_HOSTS = 0xFFFFFFFF      # of a window: its memory is the bound


# ---- the rings of this host

cdef inline u32 replicate_of(Series *s) noexcept nogil:
    """Which hosts count the series, by the word of all processes: what reaches most hosts. O(rings)."""
    cdef Ring *r = load_ring(&s.first)
    cdef Tree *head
    cdef u32 found = REPLICATE_NONE, replicate
    while r != NULL:
        head = load_tree(&r.tree[0])
        replicate = load32(&header(&head.arena).replicate) if head != NULL else REPLICATE_NONE
        if replicate == REPLICATE_CLUSTER or (replicate == REPLICATE_MANAGER and found == REPLICATE_NONE):
            found = replicate
        r = load_ring(&r.next)
    return found


cdef inline Tree *window_tree(Ring *r, int64_t clock_number, int64_t number, int sign) noexcept nogil:
    """The ring's tree of a window in view; NULL if it has none. `clock_number`: the window of the time now."""
    cdef Tree *head = load_tree(&r.tree[0])
    cdef Tree *added
    cdef int64_t now = 0
    cdef u64 own
    cdef u32 at
    if head == NULL or not ring_now(r, clock_number, &now):
        return NULL
    own = <u64>number + load64(<u64 *>&header(&head.arena).base)
    if <u64>now - own >= r.series.slots:
        return NULL
    at = 2 * slot_of(<int64_t>own, r.series.slots)
    # To rotate empties the first tree alone; the second may be an older window's.
    added = load_tree(&r.tree[at])
    if added == NULL or acquire64(<u64 *>&header(&added.arena).number) != own:
        return NULL
    added = load_tree(&r.tree[at + sign])
    return added if added != NULL and acquire64(<u64 *>&header(&added.arena).number) == own else NULL


cdef inline int open_window(Merge *m, Series *s, int64_t clock_number, int64_t number, int sign) noexcept nogil:
    """The trees of a window in all rings. Returns OK; or FULL, and nothing is allocated."""
    cdef Ring *r = load_ring(&s.first)
    cdef size_t room = 0
    while r != NULL:
        room += 1
        r = load_ring(&r.next)
    if reserve_merge(m, room) != OK:
        return FULL
    r = load_ring(&s.first)
    while r != NULL:
        merge_tree(m, window_tree(r, clock_number, number, sign))
        r = load_ring(&r.next)
    return OK


cdef inline bint holds_window(const Merge *m, int64_t clock_number, int64_t number, int sign) noexcept nogil:
    """After a walk: no tree of the merge was emptied for another window."""
    cdef size_t i
    fence_acquire()
    for i in range(m.trees):
        if window_tree(m.tree[i].ring, clock_number, number, sign) != m.tree[i]:
            return False
    return True


cdef inline u64 stamp_of_window(Series *s, int64_t clock_number, int64_t number, int sign) noexcept nogil:
    """A number that differs as soon as a tree of the window has changed, or its levels, or the rings that have it."""
    cdef Ring *r = load_ring(&s.first)
    cdef Tree *t
    cdef Header *h
    cdef u64 stamp = 0
    while r != NULL:
        t = window_tree(r, clock_number, number, sign)
        if t != NULL:
            h = header(&t.arena)
            stamp = stamp_tree(stamp, t) ^ mix(<u64>load32(&h.level[0]) << 32 | load32(&h.level[1]))
        r = load_ring(&r.next)
    return stamp


cdef inline void levels_of_window(Series *s, int64_t clock_number, int64_t number, int *lengths) noexcept nogil:
    """The shortest lengths to which hosts of the window are folded in any ring, IPv4 first; 32 and 128: in none."""
    cdef Ring *r = load_ring(&s.first)
    cdef Tree *t
    cdef int family
    cdef u32 length
    lengths[0], lengths[1] = 32, 128
    while r != NULL:
        t = window_tree(r, clock_number, number, 0)
        for family in range(2 if t != NULL else 0):
            length = load32(&header(&t.arena).level[family])
            if length < <u32>lengths[family]:
                lengths[family] = <int>length
        r = load_ring(&r.next)


# ---- the ring of the other nodes (the caller holds the series' lock)

cdef inline bint follow_clock(Series *s, int64_t now) noexcept nogil:
    """Moves the ring to the time `now` (microseconds), in either direction. Returns whether it has moved.

    As in other rings, a window goes on while the clock is in the one before. O(slots).
    """
    cdef int64_t number = window_number(now, s.interval)
    cdef u32 i
    if number <= s.newest and not lies_back(s, now):
        return False
    rotate(s, number)
    for i in range(2 * s.slots):  # what is out of view misses changes
        if s.slot[i // 2].whole[i % 2] == number or not in_view(s, s.slot[i // 2].whole[i % 2]):
            s.slot[i // 2].whole[i % 2] = NO_WINDOW
    return True


cdef inline Tree *whole_tree(Series *s, int64_t number, int sign) noexcept nogil:
    """The tree of a window in view that is whole; else NULL. A node may say any number, that of no window too."""
    if not in_view(s, number) or s.slot[slot_of(number, s.slots)].whole[sign] != number:
        return NULL
    return tree_for(s, number, sign)


cdef inline int add_up(Tree *t, Merge *m, const int *lengths) noexcept nogil:
    """Makes the tree the sum of those of a merge, folded to these lengths (IPv4 first). Without folding no host passes
    through a count that is neither its old one nor its new one. Returns OK; or a code if there was no room for some.
    O(hosts x log trees)."""
    cdef Difference d
    cdef Address start
    cdef Host host
    cdef u32 before
    cdef int version, one, code = OK
    for version in range(4, 7, 2):
        start.hi = start.lo = 0
        start.version = version
        m.length = lengths[version == 6]
        start_difference(&d, m, t, &start)
        while next_difference(&d, &host):
            one = set_in(&t.arena, &host.address, host.count, ANY_HOSTS, &before)
            code = one if one != OK and code != FULL else code
    return code


cdef inline int add_up_folded(Series *s, u32 at, Tree *t, Merge *m) noexcept nogil:
    cdef int[2] lengths
    cdef int code
    lengths[0], lengths[1] = length_of(s, &s.slot[at], 0), length_of(s, &s.slot[at], 1)
    code = add_up(t, m, lengths)
    if code == FULL:  # what came may have had no room before the rest had gone
        coalesce(&t.arena)
        code = add_up(t, m, lengths)
    return code


cdef inline bint fill_window(Series *s, int64_t number, int sign, Merge *m) noexcept nogil:
    """Makes the tree of a window in view the sum of those of a merge, if it is not whole. Returns whether it is then.

    If there is no room the window gives up detail, as in the room `fold`. Without a tree for what was removed, there is
    nothing that was.
    """
    cdef u32 at = slot_of(number, s.slots)
    cdef Slot *slot = &s.slot[at]
    cdef Tree *t
    cdef int family = 0, code = FULL if m.trees else OK
    if slot.whole[sign] == number:
        return True
    if slot.number[0] != number:
        slot.whole[0] = NO_WINDOW
    tree_for(s, number, 0)
    t = tree_for(s, number, sign)
    if t != NULL:
        code = add_up_folded(s, at, t, m)
    while t != NULL and code == FULL and family >= 0:
        family = family_to_fold(s, at, number, True)
        if family >= 0:
            slot.level[family] += 1
            slot.whole[1 - sign] = NO_WINDOW  # its hosts are not folded yet
            publish_levels(s, at)
            code = add_up_folded(s, at, t, m)
    slot.whole[sign] = number if code == OK else NO_WINDOW
    return code == OK
