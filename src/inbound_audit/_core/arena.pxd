"""Blocks of an arena: size classes, and a list of free blocks for each.

`alloc` takes a block from the list of its size class, or from the units that were never handed out, or splits a larger
free block. A released block goes to the list of its class; the word at the start of a free block is the next of its
list. The room `coalesce` merges free blocks that lie side by side. A tree that becomes empty is reset whole, and its
pages go back to the system.

Lock rule: the caller holds the tree's writer lock.
"""

from libc.stdint cimport int64_t

from inbound_audit._core.backing cimport arena_grow, return_pages, set_backed
from inbound_audit._core.bits cimport u32, u64, fence_release, load32, publish64, store32, store64
from inbound_audit._core.layout cimport (
    BY_SIZE, CLASSES, HEADER_UNITS, LARGEST_UNITS, NO_WINDOW, TRIM_SLICE, UNIT, UNITS, Arena, Header, block, header,
)
from inbound_audit._core.mapping cimport GRAIN, give_back, give_back_file
from inbound_audit._core.seqlock cimport write_close, write_open


cdef inline void keep_free(Arena *a, int size_class, u32 unit) noexcept nogil:
    store32(<u32 *>block(a, unit), a.free[size_class])
    a.free[size_class] = unit


cdef inline void carve(Arena *a, u32 unit, u32 units) noexcept nogil:
    """Makes free blocks of a run of units, the largest first. A leaf is one unit, so no unit is left over."""
    cdef int i = CLASSES - 1
    while units:
        while UNITS[BY_SIZE[i]] > units:
            i -= 1
        keep_free(a, BY_SIZE[i], unit)
        unit += UNITS[BY_SIZE[i]]
        units -= UNITS[BY_SIZE[i]]


cdef inline u32 split(Arena *a, u32 units) noexcept nogil:
    """Takes `units` units from the smallest free block that is larger. Returns 0 if no block is larger. O(classes)."""
    cdef u32 unit
    cdef int i
    for i in range(CLASSES):
        unit = a.free[BY_SIZE[i]]
        if UNITS[BY_SIZE[i]] > units and unit:
            a.free[BY_SIZE[i]] = load32(<u32 *>block(a, unit))
            if a.free[BY_SIZE[i]] >= a.bump:  # another process wrote there
                a.free[BY_SIZE[i]] = 0
            carve(a, unit + units, UNITS[BY_SIZE[i]] - units)
            return unit
    return 0


cdef inline u32 alloc(Arena *a, int size_class) noexcept nogil:
    """A block of that class, its contents undefined; 0 if the arena is full."""
    cdef u32 unit = a.free[size_class]
    if unit:
        a.free[size_class] = load32(<u32 *>block(a, unit))
        if a.free[size_class] >= a.bump:  # another process wrote there
            a.free[size_class] = 0
        a.live += UNITS[size_class]
        return unit
    unit = a.bump
    if unit + UNITS[size_class] > a.backed and not arena_grow(a, unit + UNITS[size_class]):
        unit = split(a, UNITS[size_class])
        a.live += UNITS[size_class] if unit else 0
        return unit
    store32(&a.bump, unit + UNITS[size_class])
    a.live += UNITS[size_class]
    return unit


cdef inline void release(Arena *a, int size_class, u32 unit) noexcept nogil:
    """Frees a block. Call it outside of a write window: until then a reader may stand in the block (room `seqlock`)."""
    keep_free(a, size_class, unit)
    a.live -= UNITS[size_class]
    a.freed += UNITS[size_class]


cdef inline void unlabel(Arena *a) noexcept nogil:
    """From now on the tree holds no window. What is stored next is seen by no reader that still sees the old label.

    A reader believes what it reads of a window if the tree has the same label before and afterwards, also if the writer
    was stopped meanwhile. So the label goes before anything else of the window.
    """
    store64(<u64 *>&header(a).number, <u64>NO_WINDOW)
    fence_release()


cdef inline void empty(Arena *a, int64_t number) noexcept nogil:
    """Removes all blocks and counts, and labels the tree with window `number`. O(1)."""
    cdef Header *h = header(a)
    cdef int i
    write_open(&h.seq)
    if h.number != number:
        unlabel(a)
    for i in range(2):
        store64(&h.root[i], 0)
        store64(&h.hosts[i], 0)
    publish64(<u64 *>&h.number, <u64>number)
    write_close(&h.seq)
    for i in range(CLASSES):
        a.free[i] = 0
    store32(&a.bump, HEADER_UNITS)
    a.live = 0
    a.freed = 0


cdef inline void arena_reset(Arena *a) noexcept nogil:
    """Removes all blocks and counts, and gives the pages back. O(1), and one system call if there are pages."""
    cdef u64 used = <u64>a.bump * UNIT
    empty(a, header(a).number)
    return_pages(a, used)


cdef inline void arena_renew(Arena *a, int64_t number) noexcept nogil:
    """Empties the tree for window `number`. The pages stay; `arena_trim` gives back those that are not used again."""
    cdef u64 used = <u64>a.bump * UNIT
    empty(a, number)
    if used > a.touched:
        a.touched = used


cdef inline bint arena_trim(Arena *a, u64 keep) noexcept nogil:
    """Gives back one slice of the pages that earlier contents left after the first `keep` bytes.

    Returns False if no page is left. One system call over at most TRIM_SLICE bytes, so no caller waits long.
    """
    cdef u64 used = <u64>(a.bump + LARGEST_UNITS) * UNIT, first
    used = keep if keep > used else used
    used += (GRAIN - used % GRAIN) % GRAIN
    if a.in_file:
        a.touched = a.held  # all memory of a file is in use
    if a.touched <= used:
        return False
    first = a.touched - TRIM_SLICE if a.touched > used + TRIM_SLICE else used
    first -= first % GRAIN
    if not a.in_file:
        give_back(a.base + first, <size_t>(a.touched - first))
    elif a.file == NULL:
        return False
    else:
        set_backed(a, first)
        give_back_file(a.base + first, <size_t>(a.touched - first))
    a.touched = first
    return True


cdef inline u64 arena_used(const Arena *a) noexcept nogil:
    """Bytes from the start to the highest block that was handed out since the last reset. Needs no lock."""
    return <u64>load32(<u32 *>&a.bump) * UNIT
