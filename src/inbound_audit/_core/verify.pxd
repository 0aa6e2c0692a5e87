"""The checker: walks a tree and its free lists, and returns the first invariant that does not hold.

O(hosts), and one byte of memory for each unit of the arena.

Lock rule: the caller holds the tree's writer lock.
"""

from libc.stdlib cimport calloc, free

from inbound_audit._core.bits cimport u8, u32, u64, load32, load64, popcount64
from inbound_audit._core.layout cimport CLASSES, HEADER_UNITS, LEAF_CLASS, UNITS, Arena, block, header
from inbound_audit._core.node cimport (
    GRADE_FULL, SLOTS, TAG_FULL, TAG_LEAF, TAG_NONE, TAG_SUFFIX, Key, Node, count_of, differ, find, is_node,
    last_byte, next_key, path_of, size_class, sums_of, tag_of, unit_of,
)
from inbound_audit._core.path cimport fits_suffix, host_of
from inbound_audit._core.seek cimport with_byte

cdef struct Check:
    const Arena *a
    bint v6
    u8 *seen             # one byte per unit: 1 if it belongs to a block that was visited
    u64 visited          # units
    u64 hosts
    const char *fault    # the first invariant that does not hold


cdef inline bint claim(Check *c, u32 unit, int kind) noexcept nogil:
    """Marks a block of size class `kind` as visited. False: it lies outside of the arena, or was visited before."""
    cdef u32 i
    if unit < HEADER_UNITS or unit + UNITS[kind] > c.a.bump:
        c.fault = "a block lies outside of the arena"
        return False
    for i in range(unit, unit + UNITS[kind]):
        if c.seen[i]:
            c.fault = "a block is reached twice"
            return False
        c.seen[i] = 1
    c.visited += UNITS[kind]
    return True


cdef inline bint check_host(Check *c, u64 e, int depth, Key path) noexcept nogil:
    cdef Key k
    if tag_of(e) == TAG_LEAF and not claim(c, unit_of(e), LEAF_CLASS):
        return False
    k = host_of(c.a, c.v6, e, path.hi, path.lo)
    c.hosts += 1
    if differ(k.hi, k.lo, path.hi, path.lo, 8 * depth) or (not c.v6 and (<u32>k.hi or k.lo)):
        c.fault = "a host does not lie below its path"
    elif (tag_of(e) == TAG_SUFFIX) != fits_suffix(c.v6, depth):
        c.fault = "a host is kept in the wrong form"
    elif tag_of(e) != TAG_SUFFIX and tag_of(e) != TAG_LEAF:
        c.fault = "an entry has an unknown tag"
    return c.fault == NULL


cdef inline bint check_shape(Check *c, Node *n, bint full, u64 only, int depth_above) noexcept nogil:
    """The header of a node: the number of children, and whether a single child is allowed (invariant 3)."""
    if not full and popcount64(n.used) != n.live:
        c.fault = "a node's slots do not fit their number"
    elif n.live == 0 or (n.live == 1 and (tag_of(only) != TAG_SUFFIX or fits_suffix(c.v6, depth_above))):
        c.fault = "a node has too few children"
    return c.fault == NULL


cdef inline bint check_node(Check *c, u64 e, int depth_above, Key path) noexcept nogil:
    """Checks the node of an entry and all below it."""
    cdef Node *n = <Node *>block(c.a, unit_of(e))
    cdef bint full = tag_of(e) == TAG_FULL
    cdef u32 sums[16]
    cdef u64 total = 0, child
    cdef int key, live = 0, i
    cdef Key k
    # First the bounds: a damaged arena ends in a fault and not in a crash.
    if not HEADER_UNITS <= unit_of(e) < c.a.bump or n.grade > GRADE_FULL:
        c.fault = "a node lies outside of the arena, or its grade is wrong"
        return False
    if not claim(c, unit_of(e), size_class(n.grade, c.v6)):
        return False
    if full != (n.grade == GRADE_FULL) or (not full and n.used >> (SLOTS[n.grade] - 1) > 1):
        c.fault = "a node's grade does not fit its tag or its slots"
        return False
    k = path_of(n, c.v6)
    key = next_key(n, c.v6, full, -1, 1)
    child = 0 if key < 0 else load64(find(n, c.v6, full, <u8>key))
    if not check_shape(c, n, full, child, depth_above):
        return False
    if n.depth < depth_above or n.depth > last_byte(c.v6) or differ(k.hi, k.lo, path.hi, path.lo, 8 * depth_above):
        c.fault = "a node does not lie below its path"
        return False
    for i in range(16):
        sums[i] = 0
    while key >= 0:
        child = load64(find(n, c.v6, full, <u8>key))
        if not check_entry(c, child, n.depth + 1, with_byte(k, n.depth, <u8>key)):
            return False
        total += count_of(child)
        sums[key >> 4] += count_of(child)
        live += 1
        key = next_key(n, c.v6, full, key, 1)
    if live != n.live or total != count_of(e):
        c.fault = "a count is not the sum of those below it"
    for i in range(16 if full else 0):
        if sums[i] != sums_of(n, c.v6)[i]:
            c.fault = "a sum of sixteen is wrong"
    return c.fault == NULL


cdef inline bint check_entry(Check *c, u64 e, int depth, Key path) noexcept nogil:
    if count_of(e) == 0 or tag_of(e) == TAG_NONE:
        c.fault = "an entry counts nothing"
        return False
    return check_node(c, e, depth, path) if is_node(e) else check_host(c, e, depth, path)


cdef inline bint check_free(Check *c) noexcept nogil:
    """Each block that is not in the tree is in the free list of its class."""
    cdef u32 unit
    cdef int kind
    for kind in range(CLASSES):
        unit = c.a.free[kind]
        while unit:
            if not claim(c, unit, kind):
                return False
            unit = load32(<u32 *>block(c.a, unit))
    if c.visited != c.a.bump - HEADER_UNITS:
        c.fault = "a block is lost"
    return c.fault == NULL


cdef inline const char *verify(const Arena *a) noexcept nogil:
    """NULL, or the first invariant that does not hold."""
    cdef Check c
    cdef Key path
    cdef int family
    if not HEADER_UNITS <= a.bump <= a.limit:
        return "more units were handed out than there are"
    path.hi = 0
    path.lo = 0
    c.a = a
    c.visited = 0
    c.fault = NULL
    c.seen = <u8 *>calloc(a.bump, 1)
    if c.seen == NULL:
        return "there is no memory to check with"
    if header(a).seq & 1:
        c.fault = "a write window was left open"
    for family in range(2):
        c.v6 = family == 1
        c.hosts = 0
        if c.fault == NULL and header(a).root[family]:
            check_entry(&c, header(a).root[family], 0, path)
        if c.fault == NULL and c.hosts != header(a).hosts[family]:
            c.fault = "the number of hosts is wrong"
    if c.fault == NULL and c.visited != a.live:
        c.fault = "the number of units in use is wrong"
    if c.fault == NULL:
        check_free(&c)
    free(c.seen)
    return c.fault
