"""Hosts in address order: the nearest host at or beyond an address.

Lock rule: none; the caller follows the protocol of `seqlock`.
"""


from inbound_audit._core.address cimport Address, compare
from inbound_audit._core.bits cimport u8, u64, acquire64, high_bits, load8
from inbound_audit._core.layout cimport Arena, block, header, reach_of
from inbound_audit._core.node cimport (
    TAG_FULL, TAG_NONE, Key, Node, byte_at, find, is_node, last_byte, next_key, path_of, tag_of, unit_of,
)
from inbound_audit._core.path cimport host_of

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
    """The lowest (`up` 1) or highest (-1) host below an entry; `path` has the address bytes before the entry."""
    cdef Node *n
    cdef int depth = -1, before, key
    cdef u64 *at
    while is_node(e):
        if unit_of(e) >= reach_of(a):
            return False
        n = <Node *>block(a, unit_of(e))
        before, depth = depth, load8(&n.depth)
        if depth <= before or depth > last_byte(v6):
            return False
        key = next_key(n, v6, tag_of(e) == TAG_FULL, -1 if up > 0 else 256, up)
        at = find(n, v6, tag_of(e) == TAG_FULL, <u8>key) if key >= 0 else NULL
        if at == NULL:
            return False
        path = with_byte(path_of(n, v6), depth, <u8>key)
        e = acquire64(at)
    if tag_of(e) == TAG_NONE:
        return False
    path = host_of(a, v6, e, path.hi, path.lo)
    out.hi = path.hi
    out.lo = path.lo
    out.version = 6 if v6 else 4
    return True


cdef inline bint seek_host(const Arena *a, bint v6, const Address *start, int up, Address *out) noexcept nogil:
    """The nearest host at or beyond `start`, upwards (`up` 1) or downwards (-1). O(bytes of the address x slots).

    The caller follows the protocol of `seqlock`. `out` must not be `start`.
    """
    cdef u64 e = acquire64(&header(a).root[v6]), spare = 0
    cdef Key path, spare_path
    cdef Node *n
    cdef u64 *at
    cdef int depth = -1, before, side, key
    path.hi = 0
    path.lo = 0
    spare_path = path
    while is_node(e) and unit_of(e) < reach_of(a):
        n = <Node *>block(a, unit_of(e))
        before, depth = depth, load8(&n.depth)
        if depth <= before or depth > last_byte(v6):
            return False
        path = path_of(n, v6)
        side = compare(path.hi, path.lo, start.hi, start.lo, 8 * depth) * up
        if side > 0:
            return outermost(a, v6, e, path, up, out)
        if side < 0:
            return outermost(a, v6, spare, spare_path, up, out)
        key = next_key(n, v6, tag_of(e) == TAG_FULL, byte_at(start.hi, start.lo, depth), up)
        at = find(n, v6, tag_of(e) == TAG_FULL, <u8>key) if key >= 0 else NULL
        if at != NULL:
            spare = acquire64(at)
            spare_path = with_byte(path, depth, <u8>key)
        at = find(n, v6, tag_of(e) == TAG_FULL, byte_at(start.hi, start.lo, depth))
        path = with_byte(path, depth, byte_at(start.hi, start.lo, depth))
        e = acquire64(at) if at != NULL else 0
    if outermost(a, v6, e, path, up, out) and compare(out.hi, out.lo, start.hi, start.lo, 128) * up >= 0:
        return True
    return outermost(a, v6, spare, spare_path, up, out)
