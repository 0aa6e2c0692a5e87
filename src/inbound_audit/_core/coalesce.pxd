"""Merges free blocks: an arena whose free blocks have the wrong sizes has room again.

A released block keeps its size class, so the blocks of many leaves are too small for a large node. `coalesce` merges
free blocks that lie side by side into runs, and carves the runs into the largest blocks. A run at the end counts as
never handed out. Live blocks stay where they are, so readers are not affected.

Lock rule: the caller holds the tree's writer lock, outside of a write window.
"""

from libc.stdlib cimport calloc, free

from inbound_audit._core.arena cimport carve
from inbound_audit._core.bits cimport u8, u32, u64, load32, store32
from inbound_audit._core.layout cimport CLASSES, HEADER_UNITS, UNIT, UNITS, Arena, block


cdef inline void mark_free(const Arena *a, u8 *is_free) noexcept nogil:
    """Marks the units of all free blocks. A list that another process damaged ends at the first wrong link."""
    cdef u32 unit, i
    cdef int size_class
    for size_class in range(CLASSES):
        unit = a.free[size_class]
        while HEADER_UNITS <= unit <= a.bump - UNITS[size_class] and not is_free[unit]:
            for i in range(UNITS[size_class]):
                is_free[unit + i] = 1
            unit = load32(<u32 *>block(a, unit))


cdef inline u32 run_length(const u8 *is_free, u32 unit, u32 end) noexcept nogil:
    cdef u32 start = unit
    while unit < end and is_free[unit]:
        unit += 1
    return unit - start


cdef inline void coalesce(Arena *a) noexcept nogil:
    """Makes the largest possible blocks of the free units. O(units handed out)."""
    cdef u8 *is_free = <u8 *>calloc(a.bump, 1)
    cdef u32 unit = HEADER_UNITS, end = a.bump, run
    cdef int size_class
    if is_free == NULL:
        return
    mark_free(a, is_free)
    for size_class in range(CLASSES):
        a.free[size_class] = 0
    while unit < end:
        run = run_length(is_free, unit, end)
        if unit + run == end and run:
            if <u64>end * UNIT > a.touched:
                a.touched = <u64>end * UNIT  # else `arena_trim` would not give it back
            store32(&a.bump, unit)
        elif run:
            carve(a, unit, run)
        unit += run if run else 1
    a.freed = 0
    free(is_free)
