"""Where the memory of an arena comes from: the system, or a file that grows.

An arena begins in private memory. `arena_share` moves it into a file of the owner at the same addresses. Growth asks
the file system for memory first (`posix_fallocate`), so a full file system is a code and never a signal.

Lock rule: the caller holds the tree's writer lock, or no other thread knows the arena.
"""

from libc.errno cimport EBADF, ENOMEM, errno

from inbound_audit._core.bits cimport u8, u32, u64, clear, store32
from inbound_audit._core.codes cimport FULL, OK
from inbound_audit._core.kept_file cimport KeptFile, kept_fd
from inbound_audit._core.layout cimport (
    BYTE_ORDER_MARK, CLASSES, HEADER_UNITS, LARGEST_UNITS, LAYOUT, MAGIC, MAX_GROWTH, MAX_UNITS, MIN_GIVE_BACK, PAGE,
    UNIT, Arena, Header, header, range_of,
)
from inbound_audit._core.mapping cimport (
    GRAIN, back_file, cover_failed, give_back, give_back_file, map_file, reserve, unmap_range, write_failed,
)
from inbound_audit._core.sigbus cimport UNGUARDED, guard, unguard


cdef inline void set_backed(Arena *a, u64 bytes) noexcept nogil:
    """Notes that the first `bytes` of the range have memory. A largest block fits after the last unit in reach."""
    cdef u64 units = bytes // UNIT - LARGEST_UNITS
    a.held = bytes
    a.backed = a.limit if units > a.limit else <u32>units
    store32(&header(a).reach, a.backed)


cdef inline void arena_format(Arena *a) noexcept nogil:
    """Makes an empty arena in private memory, where readers of earlier contents may be. Its header has no label."""
    cdef int i
    clear(<u64 *>header(a), sizeof(Header) // 8)
    header(a).magic = MAGIC
    header(a).layout = LAYOUT
    header(a).byte_order = BYTE_ORDER_MARK
    header(a).limit = a.limit
    set_backed(a, a.size)
    store32(&a.bump, HEADER_UNITS)
    a.live = 0
    a.freed = 0
    a.touched = 0
    for i in range(CLASSES):
        a.free[i] = 0


cdef inline int arena_open(Arena *a, u64 capacity) noexcept nogil:
    """Reserves `capacity` bytes (rounded up, at most 8 GiB). Returns FULL if the system refuses."""
    cdef u64 units = capacity // UNIT
    a.limit = <u32>(MAX_UNITS if units > MAX_UNITS else units)
    a.size = range_of(capacity)
    a.base = <u8 *>reserve(<size_t>a.size)
    if a.base == NULL:
        return FULL
    a.lock = 0
    a.waiting = 0
    a.file = NULL
    a.in_file = False
    a.guarded = UNGUARDED
    arena_format(a)
    return OK


cdef inline void arena_close(Arena *a) noexcept nogil:
    """Unmaps the arena. No thread may read it any more."""
    if a.base != NULL:
        unguard(a.guarded)
        unmap_range(a.base, <size_t>a.size)
        a.base = NULL


cdef inline u64 first_grain(const Arena *a, u64 bytes) noexcept nogil:
    """`bytes` rounded up to a multiple of GRAIN, at most the range."""
    bytes += (GRAIN - bytes % GRAIN) % GRAIN
    return a.size if bytes > a.size else bytes


cdef inline u64 share_needs(const Arena *a) noexcept nogil:
    """The number of bytes that `arena_share` needs from the file system."""
    return first_grain(a, <u64>(a.bump + LARGEST_UNITS) * UNIT)


cdef inline int arena_share(Arena *a, KeptFile *file, u64 offset) noexcept nogil:
    """Moves the arena into a file, at the same addresses: readers see the same bytes before and after.

    Returns OK; or FULL, and the arena is unchanged but for `error`.
    """
    cdef u64 used = <u64>a.bump * UNIT
    cdef u64 bytes = share_needs(a)
    cdef int slot, fd = kept_fd(file)
    if fd < 0 or back_file(fd, offset, bytes) != 0 or write_failed(fd, a.base, <size_t>used, offset):
        a.error = EBADF if fd < 0 else errno
        return FULL
    slot = guard(a.base, <size_t>a.size, True) if a.guarded == UNGUARDED else a.guarded
    if slot == UNGUARDED:
        a.error = ENOMEM
        return FULL
    a.guarded = slot
    if map_file(a.base, <size_t>a.size, fd, offset, True) == NULL:
        a.error = errno
        return FULL
    a.in_file = True
    a.file = file
    a.offset = offset
    set_backed(a, bytes)
    return OK


cdef inline bint arena_leave(Arena *a) noexcept nogil:
    """Leaves the file with all counts in it: the arena becomes empty private memory.

    Returns False if that failed; then the arena must not be written to any more.
    """
    if cover_failed(a.base, <size_t>a.size, True):
        return False
    a.in_file = False
    a.file = NULL
    arena_format(a)
    return True


cdef inline bint hold(Arena *a, u64 upto) noexcept nogil:
    """Asks the file system for the bytes from `held` up to `upto`. Returns False, and sets `error`, if it fails."""
    cdef u64 at = a.held
    cdef int fd = kept_fd(a.file)
    if fd < 0 or back_file(fd, a.offset + at, upto - at) != 0:
        a.error = EBADF if fd < 0 else errno
        return False
    # An overtaken reader may have read there before, and the SIGBUS handler put an empty page in the file's place.
    if map_file(a.base + at, <size_t>(upto - at), fd, a.offset + at, True) == NULL:
        a.error = errno
        return False
    set_backed(a, upto)
    return True


cdef inline bint arena_grow(Arena *a, u32 units) noexcept nogil:
    """Asks the file system for memory up to `units`, and for more if there is more. Returns False if it has none."""
    cdef u64 need = first_grain(a, <u64>(units + LARGEST_UNITS) * UNIT)
    cdef u64 more = first_grain(a, a.held + (MAX_GROWTH if a.held // 2 > MAX_GROWTH else a.held // 2))
    if a.file == NULL or units > a.limit:
        return False
    return (more > need and hold(a, more)) or hold(a, need)


cdef inline void return_pages(Arena *a, u64 used) noexcept nogil:
    """Gives the pages of an empty arena back to the system, except the first grain of a file."""
    cdef u64 held = a.held
    if used < MIN_GIVE_BACK:
        return
    if not a.in_file:
        give_back(a.base + PAGE, <size_t>(used - PAGE + (PAGE - used % PAGE) % PAGE))
    elif a.file != NULL and held > GRAIN:
        set_backed(a, GRAIN)
        give_back_file(a.base + GRAIN, <size_t>(held - GRAIN))
