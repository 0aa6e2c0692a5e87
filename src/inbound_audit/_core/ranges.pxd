"""Longest-prefix match over networks that never change: exempt lists, named networks, address lists of policies.

Nested prefixes are flattened once into ranges that do not overlap. Each range has its first address, and the value that
holds from there to the next range. A look-up is a binary search: O(log networks), one array per family, no pointers.

Lock rule: none; the arrays never change after they were filled. (Those of the room `overrides` are filled again beside
readers, so a look-up reads by atomic loads.)
"""

from libc.stdlib cimport free, malloc, qsort

from inbound_audit._core.address cimport compare
from inbound_audit._core.bits cimport u32, u64, high_bits, load32, load64

cdef enum:
    NO_VALUE = -1
    MAX_NESTED = 129  # lengths of prefixes that hold one another: 0 to 128

cdef struct Network:
    u64 hi
    u64 lo
    int length  # of an address of 128 bits; IPv4 addresses are left-aligned
    int value
    size_t order  # of two equal prefixes the later one counts

cdef struct Range:
    u64 hi
    u64 lo
    int value

cdef struct Ranges:
    Range *range
    size_t size


cdef inline int lookup(const Ranges *r, u64 hi, u64 lo) noexcept nogil:
    """The value at an address; NO_VALUE if no network holds it."""
    cdef size_t low = 0, high = load64(<u64 *>&r.size), middle
    while low < high:
        middle = (low + high) // 2
        if compare(load64(<u64 *>&r.range[middle].hi), load64(<u64 *>&r.range[middle].lo), hi, lo, 128) <= 0:
            low = middle + 1
        else:
            high = middle
    return <int>load32(<u32 *>&r.range[low - 1].value) if low else NO_VALUE


cdef inline bint reserve_ranges(Ranges *r, size_t size) noexcept nogil:
    """Allocates room for `size` ranges, at least one. Returns False if there is no memory."""
    r.range = <Range *>malloc(size * sizeof(Range))
    r.size = 0
    return r.range != NULL


cdef inline void free_ranges(Ranges *r) noexcept nogil:
    free(r.range)
    r.range = NULL
    r.size = 0


cdef inline int in_order(const void *a, const void *b) noexcept nogil:
    """For qsort: by the first address; of networks with the same one, the widest first, and equal ones as they came."""
    cdef const Network *x = <const Network *>a
    cdef const Network *y = <const Network *>b
    cdef int difference = compare(x.hi, x.lo, y.hi, y.lo, 128)
    if difference == 0:
        difference = (x.length > y.length) - (x.length < y.length)
    return difference if difference else (x.order > y.order) - (x.order < y.order)


cdef inline void begin_range(Ranges *r, u64 hi, u64 lo, int value) noexcept nogil:
    """From this address on the value holds. The addresses of one call after the other never decrease."""
    if r.size and r.range[r.size - 1].hi == hi and r.range[r.size - 1].lo == lo:
        r.size -= 1
    r.range[r.size].hi = hi
    r.range[r.size].lo = lo
    r.range[r.size].value = value
    r.size += 1


cdef inline void end_network(Ranges *r, const Network *n, int value) noexcept nogil:
    """After the last address of a network another value holds. Nothing comes after the last address of all."""
    cdef u64 hi = n.hi | ~high_bits(n.length), lo = n.lo | ~high_bits(n.length - 64)
    if lo != ~<u64>0:
        begin_range(r, hi, lo + 1, value)
    elif hi != ~<u64>0:
        begin_range(r, hi + 1, 0, value)


cdef inline bint flatten(Ranges *r, Network *network, size_t size) noexcept nogil:
    """Makes ranges of networks, whose order it changes; the innermost network counts.

    `r` is empty. Returns False if there is no memory. O(size log size).
    """
    cdef Network outer[MAX_NESTED + 1]
    cdef size_t i
    cdef int depth = 0
    if not size:
        return True  # there is no array then, and qsort takes no null pointer
    if not reserve_ranges(r, 2 * size):
        return False
    qsort(network, size, sizeof(Network), in_order)
    for i in range(size + 1):
        while depth and (
            i == size
            or compare(outer[depth - 1].hi, outer[depth - 1].lo, network[i].hi, network[i].lo, outer[depth - 1].length)
        ):
            depth -= 1
            end_network(r, &outer[depth], outer[depth - 1].value if depth else NO_VALUE)
        if i < size:
            if depth and outer[depth - 1].length == network[i].length:  # the same network: the later one counts
                depth -= 1
            outer[depth] = network[i]
            depth += 1
            begin_range(r, network[i].hi, network[i].lo, network[i].value)
    return True
