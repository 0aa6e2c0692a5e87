"""The counted radix trie: sessions per IPv4 and IPv6 prefix, one byte of the address a step.

Each family has a root *entry* in the header; an entry counts everything below it, so the root's count is the family's
total, and adding a session adds to every entry on its way: O(bytes of the address), at most 4 or 16 steps.

Invariants (`verify` checks each of them):
  1. an entry's count is the sum of its node's entries, and more than zero;
  2. a node's depth is larger than that of the node above it, and all below it share its path;
  3. a node has two children or more; or one, a SUFFIX that the entry above could not hold (giving memory back must
     never need memory);
  4. a host is a SUFFIX wherever at most three bytes of its address are left, and a LEAF elsewhere;
  5. every block is reachable once, or in one free list once.

What a reader relies on is said in `seqlock`, what the bits mean in `node`.
"""

from inbound_audit._core.address cimport Address
from inbound_audit._core.arena cimport alloc, arena_reset, release
from inbound_audit._core.bits cimport u8, u32, u64, clz64, high_bits, load64, store32, store64
from inbound_audit._core.codes cimport DAMAGED, FULL, OK, OVERFLOW, UNMATCHED
from inbound_audit._core.layout cimport LEAF_CLASS, Arena, block, header, reach_of
from inbound_audit._core.node cimport (
    BODY, GRADE_FULL, SHRINK_TO, SLOTS, SUFFIX_BODY, TAG_FULL, TAG_LEAF, TAG_NONE, TAG_SHIFT, TAG_SUFFIX, Key, Node,
    byte_at, child_of, copy_slots, count_of, differ, entry, erase, find, handle, is_node, last_byte, new_node,
    next_key, path_of, put, size_class, sum_below, sums_of, tag_of, unit_of,
)
from inbound_audit._core.seqlock cimport write_close, write_open

cdef enum:
    MAX_DEPTH = 17        # entries on one way: the root's, and one a byte
    MAX_RETIRED = 40   # more than two changes in one window can retire

cdef struct Step:
    u64 *entry
    Node *node          # the node that holds the entry; NULL for the root's
    int depth           # bytes of the address that lead here, this entry's included

cdef struct Path:
    Step step[MAX_DEPTH]
    int last
    bint found          # the last entry is this host's
    bint mismatch          # the last entry's node does not lie on the way: `Node.path` differs
    bint damaged        # the last entry's node is none that we have written

cdef struct Retired:
    int count
    u32 unit[MAX_RETIRED]
    u8 size_class[MAX_RETIRED]


# ---- hosts at the end of a way

cdef inline Key host_of(const Arena *a, bint v6, u64 e, u64 hi, u64 lo) noexcept nogil:
    """The address of a SUFFIX or LEAF entry; (hi, lo) is any address on the way to it."""
    cdef Key k
    cdef u64 *words
    if tag_of(e) == TAG_SUFFIX:
        k.hi = hi if v6 else (hi & high_bits(8)) | (<u64>(child_of(e) & SUFFIX_BODY) << 32)
        k.lo = (lo & high_bits(40)) | (child_of(e) & SUFFIX_BODY) if v6 else 0
        return k
    words = <u64 *>block(a, unit_of(e) if unit_of(e) < reach_of(a) else 0)
    k.hi = load64(words)
    k.lo = load64(words + 1)
    return k


cdef inline bint fits_suffix(bint v6, int depth) noexcept nogil:
    return depth >= (13 if v6 else 1)


cdef inline u32 new_host(Arena *a, bint v6, int depth, u64 hi, u64 lo) noexcept nogil:
    """The child word of a host below `depth` bytes; 0 when the arena is full."""
    cdef u32 unit
    cdef u64 *words
    if fits_suffix(v6, depth):
        return (TAG_SUFFIX << TAG_SHIFT) | (<u32>(lo if v6 else hi >> 32) & SUFFIX_BODY)
    unit = alloc(a, LEAF_CLASS)
    if unit == 0:
        return 0
    words = <u64 *>block(a, unit)
    store64(words, hi)
    store64(words + 1, lo)
    return unit | (<u32>TAG_LEAF << TAG_SHIFT)


# ---- count

cdef inline u32 count_prefix(const Arena *a, bint v6, u64 hi, u64 lo, int length) noexcept nogil:
    """Sessions below a prefix. O(length); bounded also when what it reads is being changed or is damaged."""
    cdef u32 reach = reach_of(a)
    cdef u64 e = load64(&header(a).root[v6])
    cdef u64 *at
    cdef Node *n
    cdef Key k
    cdef int depth = 0
    while length > 8 * depth:
        if not is_node(e):
            if tag_of(e) == TAG_NONE:
                return 0
            k = host_of(a, v6, e, hi, lo)
            return 0 if differ(k.hi, k.lo, hi, lo, length) else count_of(e)
        if unit_of(e) >= reach:
            return 0
        n = <Node *>block(a, unit_of(e))
        if n.depth != depth:
            k = path_of(n, v6)
            if n.depth < depth or n.depth > last_byte(v6):
                return 0
            depth = n.depth
            if differ(k.hi, k.lo, hi, lo, length if length < 8 * depth else 8 * depth):
                return 0
            if length <= 8 * depth:
                return count_of(e)
        if length < 8 * depth + 8:
            return sum_below(n, v6, tag_of(e) == TAG_FULL, byte_at(hi, lo, depth), length - 8 * depth)
        at = find(n, v6, tag_of(e) == TAG_FULL, byte_at(hi, lo, depth))
        if at == NULL:
            return 0
        e = load64(at)
        depth += 1
    return count_of(e)


# ---- the way to a host

cdef inline void descend(Arena *a, bint v6, u64 hi, u64 lo, Path *path) noexcept nogil:
    """Every entry on the way to a host, as far as there is one. Only for the lock's holder.

    Other processes of the user could write into a shared tree: a node is believed as far as that harms nobody else.
    """
    cdef Step *s = &path.step[0]
    cdef u64 *at
    cdef Node *n
    cdef Key k
    s.entry = &header(a).root[v6]
    s.node = NULL
    s.depth = 0
    path.last = 0
    path.found = False
    path.mismatch = False
    path.damaged = False
    while is_node(s.entry[0]):
        n = <Node *>block(a, unit_of(s.entry[0]))
        # The second is two questions in one: the depth is not above the one that led here, nor below the last byte.
        if unit_of(s.entry[0]) >= a.bump or (
            (<u32>(n.depth - s.depth) >= <u32>(last_byte(v6) + 1 - s.depth)) | (n.grade > GRADE_FULL)
        ):
            path.damaged = True
            return
        if n.depth != s.depth:
            k = path_of(n, v6)
            if differ(k.hi, k.lo, hi, lo, 8 * n.depth):
                path.mismatch = True
                return
        at = find(n, v6, tag_of(s.entry[0]) == TAG_FULL, byte_at(hi, lo, n.depth))
        if at == NULL or at[0] == 0:
            return
        path.last += 1
        s = &path.step[path.last]
        s.entry = at
        s.node = n
        s.depth = n.depth + 1
    if tag_of(s.entry[0]) != TAG_NONE:
        k = host_of(a, v6, s.entry[0], hi, lo)
        path.found = k.hi == hi and k.lo == lo


cdef inline void shift_counts(Path *path, bint v6, u64 hi, u64 lo, int upto, u64 by) noexcept nogil:
    """Adds `by` (two's complement) to the entries 0 .. upto of a way, and to the sums of the full nodes on it."""
    cdef Step *s
    cdef u32 *sums
    cdef int i
    for i in range(upto + 1):
        s = &path.step[i]
        store64(s.entry, s.entry[0] + (by << 32))
        if s.node != NULL and s.node.grade == GRADE_FULL:
            sums = sums_of(s.node, v6) + (byte_at(hi, lo, s.node.depth) >> 4)
            store32(sums, sums[0] + <u32>by)


cdef inline void retire(Retired *r, int size_class, u32 unit) noexcept nogil:
    r.unit[r.count] = unit
    r.size_class[r.count] = <u8>size_class
    r.count += 1


cdef inline void retire_node(Retired *r, Arena *a, Node *n, bint v6) noexcept nogil:
    retire(r, size_class(n.grade, v6), handle(a, n) & BODY)


cdef inline void release_all(Arena *a, Retired *r) noexcept nogil:
    cdef int i
    for i in range(r.count):
        if r.unit[i] < a.bump:  # or else it is none that was ever handed out: somebody else wrote there
            release(a, r.size_class[i], r.unit[i])
    r.count = 0


cdef inline u64 other_child(Node *n, bint v6, u64 *but) noexcept nogil:
    """The first entry of a node that is not at `but`; 0 when there is none, which only a damaged node has."""
    cdef bint full = n.grade == GRADE_FULL
    cdef int key = next_key(n, v6, full, -1, 1)
    cdef u64 *at
    if key >= 0 and find(n, v6, full, <u8>key) == but:
        key = next_key(n, v6, full, key, 1)
    at = find(n, v6, full, <u8>key) if key >= 0 else NULL
    return at[0] if at != NULL else 0


# ---- add

cdef inline int first_difference(u64 hi1, u64 lo1, u64 hi2, u64 lo2) noexcept nogil:
    """The first bit in which two different addresses differ, 0 to 127."""
    return clz64(hi1 ^ hi2) if hi1 != hi2 else 64 + clz64(lo1 ^ lo2)


cdef inline u32 fork_host(Arena *a, bint v6, u64 e, u64 hi, u64 lo, u32 n, Retired *r) noexcept nogil:
    """A node over the host of `e` and a new host; 0 when the arena is full."""
    cdef Key k = host_of(a, v6, e, hi, lo)
    cdef int depth = first_difference(k.hi, k.lo, hi, lo) >> 3
    cdef u32 mine = new_host(a, v6, depth + 1, hi, lo)
    cdef u32 theirs = child_of(e)
    cdef Node *fresh = new_node(a, v6, 0, depth, hi, lo) if mine else NULL
    if fresh == NULL:
        if mine and mine >> TAG_SHIFT == TAG_LEAF:
            release(a, LEAF_CLASS, mine & BODY)
        return 0
    if tag_of(e) == TAG_LEAF and fits_suffix(v6, depth + 1):
        theirs = new_host(a, v6, depth + 1, k.hi, k.lo)
        retire(r, LEAF_CLASS, unit_of(e))
    put(fresh, v6, byte_at(k.hi, k.lo, depth), entry(theirs, count_of(e)))
    put(fresh, v6, byte_at(hi, lo, depth), entry(mine, n))
    return handle(a, fresh)


cdef inline u32 fork_path(Arena *a, bint v6, u64 e, u64 hi, u64 lo, u32 n, Retired *r) noexcept nogil:
    """A node over the node of `e`, from whose path the new host strays, and that host; 0 when the arena is full."""
    cdef Node *below = <Node *>block(a, unit_of(e))
    cdef Key k = path_of(below, v6)
    cdef int depth = first_difference(k.hi, k.lo, hi, lo) >> 3
    cdef u32 mine = new_host(a, v6, depth + 1, hi, lo)
    cdef Node *fresh = new_node(a, v6, 0, depth, hi, lo) if mine else NULL
    if fresh == NULL:
        if mine and mine >> TAG_SHIFT == TAG_LEAF:
            release(a, LEAF_CLASS, mine & BODY)
        return 0
    if below.live == 1 and fits_suffix(v6, depth + 1):  # invariant 3: now the entry above can hold the only child
        retire_node(r, a, below, v6)
        e = entry(child_of(other_child(below, v6, NULL)), count_of(e))
    put(fresh, v6, byte_at(k.hi, k.lo, depth), e)
    put(fresh, v6, byte_at(hi, lo, depth), entry(mine, n))
    return handle(a, fresh)


cdef inline u32 grow(Arena *a, bint v6, Node *n, u8 byte, u64 e, Retired *r) noexcept nogil:
    """The node of the next grade with one more slot; 0 when the arena is full."""
    cdef Key k = path_of(n, v6)
    cdef Node *fresh = new_node(a, v6, n.grade + 1, n.depth, k.hi, k.lo)
    if fresh == NULL:
        return 0
    copy_slots(n, fresh, v6, NULL)
    put(fresh, v6, byte, e)
    retire_node(r, a, n, v6)
    return handle(a, fresh)


cdef inline int insert(Arena *a, bint v6, u64 hi, u64 lo, u32 n, Path *path, Retired *r) noexcept nogil:
    """Makes and publishes what a new host needs below the last entry of its way. OK, or FULL and nothing changed."""
    cdef u64 *last = path.step[path.last].entry
    cdef u64 e = last[0]
    cdef u32 fresh, mine
    cdef Node *node
    cdef u8 byte
    if tag_of(e) == TAG_NONE:
        fresh = new_host(a, v6, 0, hi, lo)
    elif not is_node(e):
        fresh = fork_host(a, v6, e, hi, lo, n, r)
        if fresh and path.last and path.step[path.last].node.live == 1:
            # invariant 3: the only child becomes a node, which the entry above can hold itself
            retire_node(r, a, path.step[path.last].node, v6)
            path.last -= 1
            last = path.step[path.last].entry
    elif path.mismatch:
        fresh = fork_path(a, v6, e, hi, lo, n, r)
    else:
        node = <Node *>block(a, unit_of(e))
        byte = byte_at(hi, lo, node.depth)
        mine = new_host(a, v6, node.depth + 1, hi, lo)
        if mine == 0:
            return FULL
        if node.live < SLOTS[node.grade]:
            write_open(&header(a).seq)
            put(node, v6, byte, entry(mine, n))
            return OK
        fresh = grow(a, v6, node, byte, entry(mine, n), r)
        if fresh == 0 and mine >> TAG_SHIFT == TAG_LEAF:
            release(a, LEAF_CLASS, mine & BODY)
    if fresh == 0:
        return FULL
    write_open(&header(a).seq)
    store64(last, entry(fresh, count_of(e)))
    return OK


cdef inline int add_in(Arena *a, bint v6, u64 hi, u64 lo, u32 n, Retired *r) noexcept nogil:
    """Counts `n` more sessions of a host and leaves the window open; a code, and nothing is changed or opened."""
    cdef Path path
    if count_of(header(a).root[v6]) > <u32>0xFFFFFFFF - n:
        return OVERFLOW
    descend(a, v6, hi, lo, &path)
    if path.damaged:
        return DAMAGED
    if path.found:
        write_open(&header(a).seq)
    elif insert(a, v6, hi, lo, n, &path, r) != OK:
        return FULL
    else:
        store64(&header(a).hosts[v6], header(a).hosts[v6] + 1)
    shift_counts(&path, v6, hi, lo, path.last, n)
    return OK


# ---- remove

cdef inline u32 without(Arena *a, bint v6, Node *n, u64 *gone, int depth_above) noexcept nogil:
    """What replaces a node when the slot at `gone` leaves it: 0 for the node itself, a survivor, a smaller node."""
    cdef u64 survivor
    cdef Node *fresh
    cdef Key k
    cdef int left = n.live - 1
    if left == 1:
        survivor = other_child(n, v6, gone)
        return 0 if tag_of(survivor) == TAG_SUFFIX and not fits_suffix(v6, depth_above) else child_of(survivor)
    if n.grade == 0 or left > SHRINK_TO[n.grade - 1]:
        return 0
    k = path_of(n, v6)
    fresh = new_node(a, v6, n.grade - 1, n.depth, k.hi, k.lo)
    if fresh == NULL:
        return 0  # a full arena: the node stays as large as it is
    copy_slots(n, fresh, v6, gone)
    return handle(a, fresh)


cdef inline void cut(Arena *a, bint v6, Path *path, int at, u8 byte, Retired *r) noexcept nogil:
    """Takes away step `at` and all below it, a single host; the counts above are still as they were."""
    cdef Step *s = &path.step[at]
    cdef Step *above
    cdef u64 e = path.step[path.last].entry[0]
    cdef u32 fresh
    cdef int i
    if tag_of(e) == TAG_LEAF:
        retire(r, LEAF_CLASS, unit_of(e))
    for i in range(at + 1, path.last + 1):
        retire_node(r, a, path.step[i].node, v6)
    if at == 0:
        write_open(&header(a).seq)
        store64(s.entry, 0)
        return
    above = &path.step[at - 1]
    fresh = without(a, v6, s.node, s.entry, above.depth)
    write_open(&header(a).seq)
    if fresh == 0:
        erase(s.node, v6, byte, s.entry)
    else:
        store64(above.entry, entry(fresh, count_of(above.entry[0])))
        retire_node(r, a, s.node, v6)


cdef inline int remove_in(Arena *a, bint v6, u64 hi, u64 lo, u32 n, Retired *r) noexcept nogil:
    """Counts `n` sessions of a host less and leaves the window open; UNMATCHED when it has fewer. Never FULL."""
    cdef Path path
    cdef int at
    descend(a, v6, hi, lo, &path)
    at = path.last
    if path.damaged:
        return DAMAGED
    if not path.found or count_of(path.step[at].entry[0]) < n:
        return UNMATCHED
    if count_of(path.step[at].entry[0]) > n:
        write_open(&header(a).seq)
    else:
        # Entries that count nobody but this host go with it: its own, and those of a one-child node (invariant 3).
        while at > 0 and count_of(path.step[at - 1].entry[0]) == n:
            at -= 1
        cut(a, v6, &path, at, byte_at(hi, lo, path.step[at].depth - 1) if at else 0, r)
        store64(&header(a).hosts[v6], header(a).hosts[v6] - 1)
        at -= 1
    shift_counts(&path, v6, hi, lo, at, -<u64>n)
    return OK


# ---- whole changes: one window each. Lock rule: the caller holds the tree's writer lock.

cdef inline int close_change(Arena *a, int code, Retired *r) noexcept nogil:
    if code == OK:
        write_close(&header(a).seq)
    release_all(a, r)
    if code == OK and (header(a).root[0] | header(a).root[1]) == 0:
        arena_reset(a)
    return code


cdef inline int trie_add(Arena *a, const Address *host, u32 n) noexcept nogil:
    """Counts `n` more sessions. OK; or FULL or OVERFLOW, and the tree is as it was. O(bytes of the address)."""
    cdef Retired r
    r.count = 0
    if host.version == 4:
        return close_change(a, add_in(a, False, host.hi, host.lo, n, &r), &r)
    return close_change(a, add_in(a, True, host.hi, host.lo, n, &r), &r)


cdef inline int trie_remove(Arena *a, const Address *host, u32 n) noexcept nogil:
    """Counts `n` sessions less. OK; or UNMATCHED, and the tree is as it was. O(bytes of the address)."""
    cdef Retired r
    r.count = 0
    if host.version == 4:
        return close_change(a, remove_in(a, False, host.hi, host.lo, n, &r), &r)
    return close_change(a, remove_in(a, True, host.hi, host.lo, n, &r), &r)


cdef inline int trie_move(Arena *a, const Address *source, const Address *target, u32 n) noexcept nogil:
    """`n` sessions change their address, at one moment for every reader. OK, or a code and the tree is as it was."""
    cdef Retired r
    cdef int code
    r.count = 0
    code = add_in(a, target.version == 6, target.hi, target.lo, n, &r)
    if code != OK:
        return close_change(a, code, &r)
    code = remove_in(a, source.version == 6, source.hi, source.lo, n, &r)
    if code != OK:
        remove_in(a, target.version == 6, target.hi, target.lo, n, &r)
        close_change(a, OK, &r)
        return code
    return close_change(a, OK, &r)


cdef inline u32 trie_count(const Arena *a, const Address *address, int length) noexcept nogil:
    """Sessions below a prefix, as found now: the caller checks with `seqlock` that it stood. O(length)."""
    if address.version == 4:
        return count_prefix(a, False, address.hi, address.lo, length)
    return count_prefix(a, True, address.hi, address.lo, length)


# ---- seek: hosts in address order

cdef inline int compare(u64 hi1, u64 lo1, u64 hi2, u64 lo2, int bits) noexcept nogil:
    """-1, 0 or 1, as the first `bits` bits of the one are below, equal to or above those of the other."""
    cdef u64 x = hi1 & high_bits(bits), y = hi2 & high_bits(bits)
    if x == y:
        x = lo1 & high_bits(bits - 64)
        y = lo2 & high_bits(bits - 64)
    return (x > y) - (x < y)


cdef inline Key with_byte(Key k, int depth, u8 byte) noexcept nogil:
    """The first `depth` bytes of `k`, then `byte`, then zeros."""
    k.hi &= high_bits(8 * depth)
    k.lo &= high_bits(8 * depth - 64)
    if depth < 8:
        k.hi |= <u64>byte << (56 - 8 * depth)
    else:
        k.lo |= <u64>byte << (120 - 8 * depth)
    return k


cdef inline bint outermost(const Arena *a, bint v6, u64 e, Key path, int up, Address *out) noexcept nogil:
    """The lowest (`up` 1) or highest (-1) host below an entry; `path` is the address bytes that lead to it."""
    cdef Node *n
    cdef int depth = -1, key
    cdef u64 *at
    while is_node(e):
        if unit_of(e) >= reach_of(a):
            return False
        n = <Node *>block(a, unit_of(e))
        if n.depth <= depth or n.depth > last_byte(v6):
            return False
        depth = n.depth
        key = next_key(n, v6, tag_of(e) == TAG_FULL, -1 if up > 0 else 256, up)
        at = find(n, v6, tag_of(e) == TAG_FULL, <u8>key) if key >= 0 else NULL
        if at == NULL:
            return False
        path = with_byte(path_of(n, v6), depth, <u8>key)
        e = load64(at)
    if tag_of(e) == TAG_NONE:
        return False
    path = host_of(a, v6, e, path.hi, path.lo)
    out.hi = path.hi
    out.lo = path.lo
    out.version = 6 if v6 else 4
    return True


cdef inline bint seek_host(const Arena *a, bint v6, const Address *start, int up, Address *out) noexcept nogil:
    """The nearest host at or beyond `start`, upwards (1) or downwards (-1). O(bytes x slots); checked by `seqlock`.

    `out` is not `start`: it is written before the last comparison.
    """
    cdef u64 e = load64(&header(a).root[v6]), spare = 0
    cdef Key path, spare_path
    cdef Node *n
    cdef u64 *at
    cdef int depth = -1, side, key
    path.hi = 0
    path.lo = 0
    spare_path = path
    while is_node(e) and unit_of(e) < reach_of(a):
        n = <Node *>block(a, unit_of(e))
        if n.depth <= depth or n.depth > last_byte(v6):
            return False
        depth = n.depth
        path = path_of(n, v6)
        side = compare(path.hi, path.lo, start.hi, start.lo, 8 * depth) * up
        if side > 0:
            return outermost(a, v6, e, path, up, out)
        if side < 0:
            return outermost(a, v6, spare, spare_path, up, out)
        key = next_key(n, v6, tag_of(e) == TAG_FULL, byte_at(start.hi, start.lo, depth), up)
        at = find(n, v6, tag_of(e) == TAG_FULL, <u8>key) if key >= 0 else NULL
        if at != NULL:
            spare = load64(at)
            spare_path = with_byte(path, depth, <u8>key)
        at = find(n, v6, tag_of(e) == TAG_FULL, byte_at(start.hi, start.lo, depth))
        path = with_byte(path, depth, byte_at(start.hi, start.lo, depth))
        e = load64(at) if at != NULL else 0
    if outermost(a, v6, e, path, up, out) and compare(out.hi, out.lo, start.hi, start.lo, 128) * up >= 0:
        return True
    return outermost(a, v6, spare, spare_path, up, out)
