"""Hosts in address order: the nearest host at or beyond an address, and where the hosts of a prefix branch.

Lock rule: none; the caller follows the protocol of `seqlock`.
"""


from libc.stdint cimport int64_t

from inbound_audit._core.address cimport Address, compare, mask, width
from inbound_audit._core.bits cimport u8, u32, u64, acquire64, clz64, high_bits, load8
from inbound_audit._core.layout cimport Arena, block, header, reach_of
from inbound_audit._core.node cimport (
    TAG_FULL, TAG_NONE, Key, Node, byte_at, count_of, differ, find, is_node, last_byte, next_key, outer_keys, path_of,
    sum_below, tag_of, unit_of,
)
from inbound_audit._core.path cimport host_of
from inbound_audit._core.prefix cimport Prefix

# What lies below a prefix.
cdef struct Branch:
    Prefix prefix       # the longest one that holds the same hosts
    int64_t count       # their sessions

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


cdef inline bint only_host(const Arena *a, bint v6, u64 e, Key path, int length, Branch *out) noexcept nogil:
    """The host of an entry that leads to no node, if it has that prefix."""
    cdef Key k
    if tag_of(e) == TAG_NONE:
        return False
    k = host_of(a, v6, e, path.hi, path.lo)
    if differ(k.hi, k.lo, path.hi, path.lo, length):
        return False
    out.prefix.address.hi, out.prefix.address.lo = k.hi, k.lo
    out.prefix.length = width(6 if v6 else 4)
    mask(&out.prefix.address, out.prefix.length)
    return True


cdef inline bint branch_below(const Arena *a, const Prefix *p, Branch *out) noexcept nogil:
    """What lies below a prefix, in one way down. Returns False if there is no host. O(bytes of the address x slots).

    The caller follows the protocol of `seqlock`. The result is no shorter than `p` and inside it, whatever the bytes.
    """
    cdef bint v6 = p.address.version == 6
    cdef u64 e = acquire64(&header(a).root[v6])
    cdef u32 reach = reach_of(a)
    cdef Key path, k
    cdef Node *n
    cdef u64 *at
    cdef int length = p.length, depth = 0, above, bits, first = 0, last = 0
    path.hi, path.lo = p.address.hi, p.address.lo
    out.prefix.address.version = p.address.version
    while is_node(e):
        if unit_of(e) >= reach:
            return False
        n = <Node *>block(a, unit_of(e))
        above, depth = depth, load8(&n.depth)
        if depth < above or depth > last_byte(v6):
            return False
        bits = length - 8 * depth
        if depth != above:
            k = path_of(n, v6)
            if differ(k.hi, k.lo, path.hi, path.lo, length if bits < 0 else 8 * depth):
                return False
            if bits < 0:
                path = k
        bits = 0 if bits < 0 else bits
        if bits < 8:
            if not outer_keys(n, v6, tag_of(e) == TAG_FULL, byte_at(path.hi, path.lo, depth), bits, &first, &last):
                return False
            if first != last:
                out.count = count_of(e)
                if bits:
                    out.count = sum_below(n, v6, tag_of(e) == TAG_FULL, byte_at(path.hi, path.lo, depth), bits)
                path = with_byte(path, depth, <u8>first)
                out.prefix.address.hi, out.prefix.address.lo = path.hi, path.lo
                out.prefix.length = 8 * depth + clz64(<u64>(first ^ last) << 56)
                mask(&out.prefix.address, out.prefix.length)
                return True
            # All of them are below one child.
            path = with_byte(path, depth, <u8>first)
            length = 8 * depth + 8
        at = find(n, v6, tag_of(e) == TAG_FULL, byte_at(path.hi, path.lo, depth))
        if at == NULL:
            return False
        e = acquire64(at)
        depth += 1
    out.count = count_of(e)
    return only_host(a, v6, e, path, length, out)
