"""Longest-prefix match over networks that never change: exempt lists, named networks, address lists of policies.

Nested prefixes are flattened once into ranges that do not overlap. Each range has its first address, and the value that
holds from there to the next range. A look-up is a binary search: O(log networks), one array per family, no pointers.

Lock rule: none; the arrays never change after they were filled.
"""

from libc.stdlib cimport free, malloc

from inbound_audit._core.address cimport compare
from inbound_audit._core.bits cimport u64

cdef enum:
    NO_VALUE = -1

cdef struct Range:
    u64 hi
    u64 lo
    int value

cdef struct Ranges:
    Range *range
    size_t size


cdef inline int lookup(const Ranges *r, u64 hi, u64 lo) noexcept nogil:
    """The value at an address; NO_VALUE if no network holds it."""
    cdef size_t low = 0, high = r.size, middle
    while low < high:
        middle = (low + high) // 2
        if compare(r.range[middle].hi, r.range[middle].lo, hi, lo, 128) <= 0:
            low = middle + 1
        else:
            high = middle
    return r.range[low - 1].value if low else NO_VALUE


cdef inline bint reserve_ranges(Ranges *r, size_t size) noexcept nogil:
    """Allocates room for `size` ranges. Returns False if there is no memory."""
    r.range = <Range *>malloc((size if size else 1) * sizeof(Range))
    r.size = 0
    return r.range != NULL


cdef inline void free_ranges(Ranges *r) noexcept nogil:
    free(r.range)
    r.range = NULL
    r.size = 0
