"""Folding: a window that may not grow any more gives up detail.

To *fold* a host is to move its count to the first address of a shorter prefix. Every prefix of that length and shorter
stays exact at every moment. The finest length goes first, in the family that has more hosts:

    IPv6   /128 -> /64 -> /56 -> /48 -> /32 -> /16 -> /0          strings (hashes)  /128 -> /0
    IPv4    /32 -> /24 -> /16 -> /8 -> /0

From the moment a length is given up, a record counts at the shorter length. A walk folds the hosts that are there:
STEPS hosts per record, in address order, so no caller waits long. Hosts that share a prefix become one, and their
blocks are free. During a walk there may be a quarter more hosts than the bound, and eight: a walk over all hosts
takes one record per STEPS hosts, and there are at most six walks. A window begins with full detail.

A shortage of bytes alone folds to /48 and /24 at most, as long as an eighth of the memory is free. A fuller window,
or too many hosts, folds further. So a record never fails for lack of room while one host has room. If the
free blocks have the wrong sizes, they are merged first (room `coalesce`). If that does not help, because all nodes
need to grow at once, the whole window would have to be folded before the next host finds a block. So after ROUNDS of
STEPS hosts one host next to the new one is folded to a length that both share, and the new host counts there.

Lock rule: the caller holds the series' lock.
"""

from libc.stdint cimport int64_t

from inbound_audit._core.address cimport Address, compare, mask, next_address, width
from inbound_audit._core.bits cimport u8, u32, u64, load64
from inbound_audit._core.coalesce cimport coalesce
from inbound_audit._core.codes cimport FULL, OK, OVERFLOW, UNMATCHED
from inbound_audit._core.layout cimport header
from inbound_audit._core.model cimport STRINGS, Series, Slot, Tree
from inbound_audit._core.seek cimport seek_host
from inbound_audit._core.trie cimport trie_add, trie_count, trie_move, trie_remove
from inbound_audit._core.window cimport slot_of, store_level

cdef extern from *:
    """
    /* Lengths of IPv4, of IPv6, and of the hashes of strings; the last of each row is 0. */
    static const int ia_levels[3][7] = {
        {32, 24, 16, 8, 0, 0, 0}, {128, 64, 56, 48, 32, 16, 0}, {128, 0, 0, 0, 0, 0, 0}
    };
    /* The last level to which a shortage of bytes alone folds. */
    static const unsigned char ia_soft[3] = {1, 3, 1};
    """
    const int LEVELS "ia_levels"[3][7]
    const u8 SOFT "ia_soft"[3]

cdef enum:
    STEPS = 32          # hosts that one record folds
    ROUNDS = 32         # times STEPS: what a record folds that finds no block


cdef inline int row_of(const Series *s, int family) noexcept nogil:
    """The row of LEVELS."""
    return 2 if s.scope == STRINGS else family


cdef inline int length_of(const Series *s, const Slot *slot, int family) noexcept nogil:
    """The length to which hosts of a family (0: IPv4, 1: IPv6) are folded."""
    return LEVELS[row_of(s, family)][slot.level[family]]


cdef inline void coarsen(const Series *s, const Slot *slot, Address *a) noexcept nogil:
    """Makes it the address at which a host counts now."""
    mask(a, length_of(s, slot, a.version == 6))


cdef inline void publish_levels(const Series *s, u32 at) noexcept nogil:
    """Writes into the header, for readers, to which lengths hosts of a slot are folded."""
    cdef const Slot *slot = &s.slot[at]
    cdef int lengths[2]
    lengths[0], lengths[1] = length_of(s, slot, 0), length_of(s, slot, 1)
    store_level(s.own.tree[2 * at], slot, lengths)


cdef inline u64 hosts_in(const Series *s, u32 at, int family, int64_t number) noexcept nogil:
    """Hosts of a family in both trees of a window."""
    cdef u64 hosts = 0
    cdef Tree *t
    cdef int sign
    for sign in range(2):
        t = s.own.tree[2 * at + sign]
        if t != NULL and s.slot[at].number[sign] == number:
            hosts += load64(&header(&t.arena).hosts[family])
    return hosts


cdef inline bint too_many(const Series *s, u32 at, int64_t number) noexcept nogil:
    return s.max_hosts != 0 and hosts_in(s, at, 0, number) + hosts_in(s, at, 1, number) > s.max_hosts


cdef inline u64 live_units(const Series *s, u32 at, int64_t number) noexcept nogil:
    """Units in use in both trees of a window."""
    cdef u64 live = 0
    cdef Tree *t
    cdef int sign
    for sign in range(2):
        t = s.own.tree[2 * at + sign]
        if t != NULL and s.slot[at].number[sign] == number:
            live += t.arena.live
    return live


cdef inline bint gives_more(const Series *s, u32 at, int family, int64_t number, bint hard) noexcept nogil:
    """The family has hosts, and a length that may be given up."""
    cdef Slot *slot = &s.slot[at]
    if length_of(s, slot, family) == 0 or hosts_in(s, at, family, number) == 0:
        return False
    return hard or slot.level[family] < SOFT[row_of(s, family)]


cdef inline void begin_walk(Series *s, u32 at, int level) noexcept nogil:
    """Sets the level of the slot's family, and begins the walk that folds its hosts."""
    cdef Slot *slot = &s.slot[at]
    slot.level[slot.family] = <u8>level
    slot.folding = True
    slot.sign = 0
    slot.hi = 0
    slot.lo = 0
    publish_levels(s, at)


cdef inline int family_to_fold(const Series *s, u32 at, int64_t number, bint hard) noexcept nogil:
    """The family (0: IPv4, 1: IPv6) that gives up its next length: the one with more hosts. -1: no length is left."""
    cdef bint four = gives_more(s, at, 0, number, hard), six = gives_more(s, at, 1, number, hard)
    if not four and not six:
        return -1
    return six and not (four and hosts_in(s, at, 0, number) > hosts_in(s, at, 1, number))


cdef inline bint begin_fold(Series *s, u32 at, int64_t number, bint hard) noexcept nogil:
    """Gives up the next length of one family. Returns False if no length is left."""
    cdef Slot *slot = &s.slot[at]
    cdef int family = family_to_fold(s, at, number, hard)
    if family < 0:
        return False
    slot.family = <u8>family
    begin_walk(s, at, slot.level[family] + 1)
    return True


cdef inline bint step_past(Slot *slot, const Address *host) noexcept nogil:
    """Moves the walk to the address after a host. Returns False after the last address."""
    cdef Address a = host[0]
    cdef bint more = next_address(&a)
    slot.hi, slot.lo = a.hi, a.lo
    return more


cdef inline int fold_host(Tree *t, const Address *host, const Address *target) noexcept nogil:
    """Moves the count of a host to its prefix, in one step for readers if a block is free. Returns OK or a code."""
    cdef u32 n = trie_count(&t.arena, host, width(host.version))
    cdef int code = trie_move(&t.arena, host, target, n)
    if code == FULL or code == OVERFLOW:  # no block for both, or their sum is too large, while both are there
        trie_remove(&t.arena, host, n)
        code = trie_add(&t.arena, target, n)
        if code != OK:
            trie_add(&t.arena, host, n)  # its blocks were freed just now
    return code


cdef inline bint fold_next(Series *s, u32 at, int64_t number) noexcept nogil:
    """Folds the next host of the walk. Returns False if the walk is over."""
    cdef Slot *slot = &s.slot[at]
    cdef Tree *t = s.own.tree[2 * at + slot.sign]
    cdef bint v6 = slot.family == 1
    cdef Address start, host, target
    start.hi, start.lo, start.version = slot.hi, slot.lo, 6 if v6 else 4
    # Damaged bytes may lead backwards, and the walk would not end.
    if t != NULL and slot.number[slot.sign] == number and seek_host(&t.arena, v6, &start, 1, &host) and (
        compare(host.hi, host.lo, start.hi, start.lo, 128) >= 0
    ):
        target = host
        coarsen(s, slot, &target)
        if target.hi != host.hi or target.lo != host.lo:
            slot.folded += fold_host(t, &host, &target) == OK
        if step_past(slot, &host):
            return True
    slot.hi = 0
    slot.lo = 0
    slot.sign += 1
    return slot.sign < 2


cdef inline bint fold_some(Series *s, u32 at, int64_t number, bint hard) noexcept nogil:
    """Folds up to STEPS hosts. Returns False if no length is left to give up."""
    cdef Slot *slot = &s.slot[at]
    cdef int _i
    if not slot.folding and not begin_fold(s, at, number, hard):
        return False
    for _i in range(STEPS):
        if not fold_next(s, at, number):
            slot.folding = False
            break
    publish_levels(s, at)
    return True


cdef inline bint fold_one_of(Tree *t, const Address *place, int length) noexcept nogil:
    """Moves one host of a prefix to its first address, `place`. Returns False if none of STEPS hosts could be moved."""
    cdef Address start = place[0], host
    cdef int _i
    for _i in range(STEPS):
        if not seek_host(&t.arena, place.version == 6, &start, 1, &host):
            return False
        if compare(host.hi, host.lo, start.hi, start.lo, 128) < 0:
            return False
        if compare(host.hi, host.lo, place.hi, place.lo, length) != 0:
            return False
        if fold_host(t, &host, place) == OK:
            return True
        start = host
        if not next_address(&start):
            return False
    return False


cdef inline bint fold_beside(Series *s, Tree *t, u32 at, const Address *host) noexcept nogil:
    """Folds another host to the longest length that it shares with `host`, so that `host` can count there.

    Returns False if that is not possible, or if a walk folds the other family.
    """
    cdef Slot *slot = &s.slot[at]
    cdef int family = host.version == 6, row = row_of(s, family), level = slot.level[family]
    cdef Address place
    if slot.folding and slot.family != family:
        return False
    while True:
        place = host[0]
        mask(&place, LEVELS[row][level])
        if trie_count(&t.arena, &place, LEVELS[row][level]) and fold_one_of(t, &place, LEVELS[row][level]):
            break
        if LEVELS[row][level] == 0:
            return False
        level += 1
    slot.folded += 1
    slot.family = <u8>family
    begin_walk(s, at, level)
    return True


cdef inline void make_room(Series *s, u32 at, int64_t number) noexcept nogil:
    """Folds what one record that may add a host has to fold."""
    cdef u64 live
    if too_many(s, at, number):
        fold_some(s, at, number, True)
        return
    live = live_units(s, at, number)
    if s.slot[at].folding or 4 * live > 3 * <u64>s.max_units:
        fold_some(s, at, number, 8 * live > 7 * <u64>s.max_units)


cdef inline bint coalesced(Tree *t, u32 least) noexcept nogil:
    """Merges free blocks if at least `least` units were released since the last time."""
    if t.arena.freed < least:
        return False
    coalesce(&t.arena)
    return True


cdef inline int add_coarse(Series *s, Tree *t, int64_t number, const Address *host, u32 n) noexcept nogil:
    """Adds at the length to which the window is folded."""
    cdef Address a = host[0]
    coarsen(s, &s.slot[slot_of(number, s.slots)], &a)
    return trie_add(&t.arena, &a, n)


cdef inline int add_bounded(Series *s, Tree *t, int64_t number, const Address *host, u32 n) noexcept nogil:
    """Adds to a tree of a window, and folds hosts if it has no room. Returns OK, FULL or OVERFLOW."""
    cdef u32 at = slot_of(number, s.slots)
    cdef int code, rounds = 0
    make_room(s, at, number)
    code = add_coarse(s, t, number, host, n)
    while code == FULL:
        if not coalesced(t, s.max_units // 16 + 1):
            rounds += 1
            if not (rounds == ROUNDS and fold_beside(s, t, at, host)) and not fold_some(s, at, number, True):
                break
        code = add_coarse(s, t, number, host, n)
    if code == FULL and coalesced(t, 1):
        code = add_coarse(s, t, number, host, n)
    return code


cdef inline int move_bounded(
    Series *s, Tree *t, int64_t number, const Address *source, const Address *target
) noexcept nogil:
    """Moves one count of `source`, at whatever length it counts now, to `target`. Returns OK, UNMATCHED or FULL."""
    cdef u32 at = slot_of(number, s.slots)
    cdef Slot *slot = &s.slot[at]
    cdef int family = source.version == 6, row, code = UNMATCHED
    cdef Address a, b
    make_room(s, at, number)
    b = target[0]
    coarsen(s, slot, &b)
    for row in range(slot.level[family] + 1):
        a = source[0]
        mask(&a, LEVELS[row_of(s, family)][row])
        code = trie_move(&t.arena, &a, &b, 1)
        if code == FULL or code == OVERFLOW:
            code = trie_remove(&t.arena, &a, 1)
            if code == OK and add_bounded(s, t, number, target, 1) != OK:
                return trie_add(&t.arena, &a, 1)
        if code == OK:
            break
    return code
