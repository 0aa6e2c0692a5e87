"""The path to a host: the entries that lead to it, and how a host lies at the end.

A host is a SUFFIX (its last bytes are in the entry) or a LEAF (its whole address is in a block), see the room `node`.

Lock rule: `host_of` takes no lock, its caller follows the protocol of `seqlock`; the other functions are for the holder
of the tree's writer lock.
"""


from inbound_audit._core.arena cimport alloc
from inbound_audit._core.bits cimport u32, u64, high_bits, load64, store32, store64
from inbound_audit._core.layout cimport LEAF_CLASS, Arena, block, header, reach_of
from inbound_audit._core.node cimport (
    GRADE_FULL, SUFFIX_BODY, TAG_FULL, TAG_LEAF, TAG_NONE, TAG_SHIFT, TAG_SUFFIX, Key, Node, byte_at, child_of,
    differ, entry, find, is_node, last_byte, path_of, sums_of, tag_of, unit_of,
)

cdef enum:
    MAX_DEPTH = 17      # entries on one path: the root's, and one per byte

cdef struct Step:
    u64 *entry
    Node *node          # the node that holds the entry; NULL for the root's
    int depth           # bytes of the address on the path to this entry, its own byte included

cdef struct Path:
    Step step[MAX_DEPTH]
    int last
    bint found          # the last entry is this host's
    bint mismatch       # the path of the last entry's node differs from the host's address
    bint damaged        # the last entry leads to bytes that no writer stores

cdef inline Key host_of(const Arena *a, bint v6, u64 e, u64 hi, u64 lo) noexcept nogil:
    """The address of a SUFFIX or LEAF entry; (hi, lo) is any address whose path leads to the entry."""
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
    """At most three bytes of the address are left."""
    return depth >= (13 if v6 else 1)


cdef inline u32 new_host(Arena *a, bint v6, int depth, u64 hi, u64 lo) noexcept nogil:
    """The child word of a host after `depth` bytes; 0 if the arena is full."""
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


cdef inline void descend(Arena *a, bint v6, u64 hi, u64 lo, Path *path) noexcept nogil:
    """Finds the entries on the path to a host, as far as there are any. For the holder of the writer lock.

    Another process of the user could write into a shared tree, so each node is checked before it is used.
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
        # One comparison for two bounds: the depth is at least that of the step, and at most the last byte.
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
    """Adds `by` (two's complement) to the entries 0 .. `upto` of a path, and to the sums of the full nodes on it."""
    cdef Step *s
    cdef u32 *sums
    cdef int i
    for i in range(upto + 1):
        s = &path.step[i]
        store64(s.entry, s.entry[0] + (by << 32))  # model: seqlock/store
        if s.node != NULL and s.node.grade == GRADE_FULL:
            sums = sums_of(s.node, v6) + (byte_at(hi, lo, s.node.depth) >> 4)
            store32(sums, sums[0] + <u32>by)
