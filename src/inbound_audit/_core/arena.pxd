"""Memory that never moves: one reserved range of address space, handed out in units of sixteen bytes.

    unit 0                 HEADER_UNITS                bump            limit
    | Header               | blocks, used and free ... | never touched | slack |

In a file, the first part has been asked of the system (`posix_fallocate`): nothing is handed out behind it, so that a file
system without room is an answer and never a signal. `reach` tells readers where it ends: one that was overtaken in
mid-walk may read a unit out of a block that is something else by now, and must not go where the file has nothing.

A block is named by its first unit, a number that means the same in every process that maps the bytes. A block has a
size class for life; a free one waits in the list of its class, linked by the word at its start. Nothing is merged: a
tree that becomes empty is reset whole and its pages go back to the system. The range is reserved, not committed: a
page costs memory from its first touch on.

Lock rule: every function here is for the holder of the tree's writer lock.
"""

from libc.stdint cimport int64_t
from libc.string cimport memcpy, memset

from inbound_audit._core.bits cimport u8, u32, u64, load32, store32, store64
from inbound_audit._core.codes cimport FULL, OK
from inbound_audit._core.mapping cimport (
    GRAIN, back_file, cover_failed, give_back, give_back_file, map_file, reserve, unmap_range, write_failed,
)
from inbound_audit._core.seqlock cimport write_close, write_open
from inbound_audit._core.sigbus cimport UNGUARDED, guard, unguard

cdef extern from *:
    """
    /* Units of a size class: a leaf; IPv4 nodes of 3, 5, 8, 16, 32, 64 and 256 slots; the same for IPv6. */
    static const unsigned char ia_units[15] = {1, 3, 4, 6, 10, 19, 37, 133, 4, 5, 7, 11, 20, 38, 134};
    /* The classes in the order of their sizes. */
    static const unsigned char ia_by_size[15] = {0, 1, 2, 8, 9, 3, 10, 4, 11, 5, 12, 6, 13, 7, 14};
    """
    const u8 UNITS "ia_units"[15]
    const u8 BY_SIZE "ia_by_size"[15]

cdef enum:
    UNIT = 16
    CLASSES = 15
    LEAF_CLASS = 0
    LARGEST_UNITS = 134
    PAGE = 4096
    HEADER_UNITS = PAGE // UNIT
    MAX_UNITS = (1 << 29) - 4096        # what 29 bits of a handle can name, and the slack: just under 8 GiB
    MIN_CAPACITY = 2 * PAGE
    MIN_GIVE_BACK = 16 * PAGE          # below that a reset is not worth a system call
    MAX_GROWTH = 1 << 20                  # bytes that a file grows by at once: zeroing them is a pause
    TRIM_SLICE = 1 << 17                 # bytes that are given back at once: some ten microseconds
    MAGIC = 0x7464756169                 # "iaudt"
    LAYOUT = 2
    BYTE_ORDER_MARK = 0x01020304
    MAX_NAME = 64

cdef struct Header:
    # One cache line for readers: what a query touches first.
    u64 seq
    u64 root[2]          # an entry a family, IPv4 first: count << 32 | child
    u64 hosts[2]         # distinct addresses
    u64 magic
    u32 layout
    u32 byte_order
    u32 limit            # units
    u32 reach            # units that have memory for sure: readers go no further; at most `limit`
    # whose tree it is, in a file; written before the tree is published
    u32 service_size
    u32 listener_size
    char service[MAX_NAME]
    char listener[MAX_NAME]
    u32 names_sum        # `sum_of_label`: a damaged name would be counted as somebody else's
    u32 kind             # SESSIONS of a listener, or a WINDOW of time
    # of a window: which one it is now (room `window`)
    int64_t number       # changes with the content
    int64_t newest       # of the ring; in its head alone
    int64_t base
    u32 interval         # seconds
    u32 slots
    u32 slot
    u32 sign             # 0: what was added, 1: what was taken away
    u32 level[2]         # prefix lengths to which hosts were folded, IPv4 first
    u64 folded           # hosts that were

# Whose tree it is, as its owner knows it: what stands in a file is for others.
cdef struct Label:
    u32 service_size
    u32 listener_size
    char service[MAX_NAME]
    char listener[MAX_NAME]
    u32 kind
    u32 interval
    u32 slots
    u32 slot
    u32 sign

cdef struct Arena:
    u8 *base
    u32 limit            # units that may be handed out; a reader's bound, kept out of the shared bytes
    u32 lock             # writers of this tree, one at a time
    u64 size             # bytes of the reserved range, slack included; a multiple of GRAIN
    u64 waiting          # of the writers, those who found the lock taken: a batch lets them go first
    # the allocator's own: it trusts nothing that another process could have written
    u32 bump             # first unit that was never handed out
    u32 backed           # what stands in `reach`; all of them where there is no file
    u32 free[CLASSES]    # first block of each list; 0: none
    u32 live             # units in blocks that are in use
    u32 freed            # units given back since the free ones were last put together (room `coalesce`)
    u64 touched          # bytes from the start that an earlier content has left in memory
    int fd               # of the file, to ask for more; -1: none
    bint in_file         # what is mapped is a file's
    int guarded          # for good, once it has been in a file
    u64 offset           # of the range in the file
    u64 held             # bytes of the range that were asked of the system


cdef inline Header *header(const Arena *a) noexcept nogil:
    return <Header *>a.base


cdef inline u32 sum_of_label(const Header *h) noexcept nogil:
    """FNV-1a over the bytes of both names and their sizes, and over what never changes of a window. The sizes fit."""
    cdef u32 s = 2166136261, i
    for i in range(h.service_size):
        s = (s ^ <u8>h.service[i]) * 16777619
    s = (s ^ h.service_size) * 16777619
    for i in range(h.listener_size):
        s = (s ^ <u8>h.listener[i]) * 16777619
    s = (s ^ h.listener_size) * 16777619
    s = (s ^ h.kind) * 16777619
    s = (s ^ h.interval) * 16777619
    s = (s ^ h.slots) * 16777619
    s = (s ^ h.slot) * 16777619
    return (s ^ h.sign) * 16777619


cdef inline void write_label(Arena *a, const Label *label) noexcept nogil:
    """Says in the bytes whose tree it is. Before others can find it."""
    cdef Header *h = header(a)
    h.service_size, h.listener_size = label.service_size, label.listener_size
    memcpy(h.service, label.service, MAX_NAME)
    memcpy(h.listener, label.listener, MAX_NAME)
    h.kind, h.interval, h.slots, h.slot, h.sign = label.kind, label.interval, label.slots, label.slot, label.sign
    h.names_sum = sum_of_label(h)


cdef inline u8 *block(const Arena *a, u32 unit) noexcept nogil:
    return a.base + <u64>unit * UNIT


cdef inline u32 reach_of(const Arena *a) noexcept nogil:
    """The bound of a reader's handles. It stands in shared bytes, so it is believed only as far as the mapping goes."""
    cdef u32 units = load32(&header(a).reach)
    return units if units < a.limit else a.limit


cdef inline void set_backed(Arena *a, u64 bytes) noexcept nogil:
    """The first `bytes` of the range have memory. A whole largest block fits behind the last unit that is handed out."""
    cdef u64 units = bytes // UNIT - LARGEST_UNITS
    a.held = bytes
    a.backed = a.limit if units > a.limit else <u32>units
    store32(&header(a).reach, a.backed)


cdef inline void arena_format(Arena *a) noexcept nogil:
    """An empty arena, in memory of its own. Its header is that of nobody."""
    cdef int i
    memset(header(a), 0, sizeof(Header))
    header(a).magic = MAGIC
    header(a).layout = LAYOUT
    header(a).byte_order = BYTE_ORDER_MARK
    header(a).limit = a.limit
    set_backed(a, a.size)
    a.bump = HEADER_UNITS
    a.live = 0
    a.freed = 0
    a.touched = 0
    for i in range(CLASSES):
        a.free[i] = 0


cdef inline u64 range_of(u64 capacity) noexcept nogil:
    """Bytes of address space for an arena of that capacity."""
    # The slack lets a reader bound a handle by its first unit alone: a whole largest block fits behind the limit.
    cdef u64 size = capacity // UNIT
    size = ((MAX_UNITS if size > MAX_UNITS else size) + 2 * LARGEST_UNITS) * UNIT
    return size + (GRAIN - size % GRAIN) % GRAIN


cdef inline int arena_open(Arena *a, u64 capacity) noexcept nogil:
    """Reserves `capacity` bytes (rounded up, at most 8 GiB). FULL when the system has no room for them."""
    cdef u64 units = capacity // UNIT
    a.limit = <u32>(MAX_UNITS if units > MAX_UNITS else units)
    a.size = range_of(capacity)
    a.base = <u8 *>reserve(<size_t>a.size)
    if a.base == NULL:
        return FULL
    a.lock = 0
    a.waiting = 0
    a.fd = -1
    a.in_file = False
    a.guarded = UNGUARDED
    arena_format(a)
    return OK


cdef inline void arena_close(Arena *a) noexcept nogil:
    """Only when nobody can read any more."""
    if a.base != NULL:
        unguard(a.guarded)
        unmap_range(a.base, <size_t>a.size)
        a.base = NULL


# ---- in a file

cdef inline u64 first_grain(const Arena *a, u64 bytes) noexcept nogil:
    """Bytes up to the grain that ends at or behind `bytes`, within the range."""
    bytes += (GRAIN - bytes % GRAIN) % GRAIN
    return a.size if bytes > a.size else bytes


cdef inline u64 share_needs(const Arena *a) noexcept nogil:
    """Bytes that `arena_share` asks of the file system."""
    return first_grain(a, <u64>(a.bump + LARGEST_UNITS) * UNIT)


cdef inline int arena_share(Arena *a, int fd, u64 offset) noexcept nogil:
    """Moves the arena into a file, at the same addresses: readers see the same bytes before and after. OK, or FULL and
    everything is as it was."""
    cdef u64 used = <u64>a.bump * UNIT
    cdef u64 bytes = share_needs(a)
    cdef int slot
    if back_file(fd, offset, bytes) != 0 or write_failed(fd, a.base, <size_t>used, offset):
        return FULL
    slot = guard(a.base, <size_t>a.size, True) if a.guarded == UNGUARDED else a.guarded
    if slot == UNGUARDED:
        return FULL
    a.guarded = slot
    if map_file(a.base, <size_t>a.size, fd, offset, True) == NULL:
        return FULL
    a.in_file = True
    a.fd = fd
    a.offset = offset
    set_backed(a, bytes)
    return OK


cdef inline bint arena_leave(Arena *a) noexcept nogil:
    """Leaves the file, and every count, behind: the arena is empty memory again. False when that failed; then nothing
    may be written to it any more."""
    if cover_failed(a.base, <size_t>a.size, True):
        return False
    a.in_file = False
    a.fd = -1
    arena_format(a)
    return True


cdef inline bint hold(Arena *a, u64 upto) noexcept nogil:
    """Asks for the bytes of the range from where they end now. False when there is no room for them."""
    cdef u64 at = a.held
    if back_file(a.fd, a.offset + at, upto - at) != 0:
        return False
    # A reader that was overtaken may have met nothing there, and an empty page been put in its place.
    if map_file(a.base + at, <size_t>(upto - at), a.fd, a.offset + at, True) == NULL:
        return False
    set_backed(a, upto)
    return True


cdef inline bint arena_grow(Arena *a, u32 units) noexcept nogil:
    """Asks the system for memory up to `units`, and some more while it is at it. False when there is none."""
    cdef u64 need = first_grain(a, <u64>(units + LARGEST_UNITS) * UNIT)
    cdef u64 more = first_grain(a, a.held + (MAX_GROWTH if a.held // 2 > MAX_GROWTH else a.held // 2))
    if a.fd < 0 or units > a.limit:
        return False
    return (more > need and hold(a, more)) or hold(a, need)


cdef inline void return_pages(Arena *a, u64 used) noexcept nogil:
    """What an arena that is empty again has used goes back to the system, but for the first grain of a file."""
    cdef u64 held = a.held
    if used < MIN_GIVE_BACK:
        return
    if not a.in_file:
        give_back(a.base + PAGE, <size_t>(used - PAGE + (PAGE - used % PAGE) % PAGE))
    elif a.fd >= 0 and held > GRAIN:
        set_backed(a, GRAIN)
        give_back_file(a.base + GRAIN, <size_t>(held - GRAIN))


# ---- blocks

cdef inline void keep_free(Arena *a, int size_class, u32 unit) noexcept nogil:
    store32(<u32 *>block(a, unit), a.free[size_class])
    a.free[size_class] = unit


cdef inline void carve(Arena *a, u32 unit, u32 units) noexcept nogil:
    """Makes free blocks of a run of units, the largest first. A leaf is one unit, so nothing is left over."""
    cdef int i = CLASSES - 1
    while units:
        while UNITS[BY_SIZE[i]] > units:
            i -= 1
        keep_free(a, BY_SIZE[i], unit)
        unit += UNITS[BY_SIZE[i]]
        units -= UNITS[BY_SIZE[i]]


cdef inline u32 split(Arena *a, u32 units) noexcept nogil:
    """Takes so many units from the smallest free block that is larger; 0 when there is none. O(classes)."""
    cdef u32 unit
    cdef int i
    for i in range(CLASSES):
        unit = a.free[BY_SIZE[i]]
        if UNITS[BY_SIZE[i]] > units and unit:
            a.free[BY_SIZE[i]] = load32(<u32 *>block(a, unit))
            if a.free[BY_SIZE[i]] >= a.bump:  # somebody else wrote there
                a.free[BY_SIZE[i]] = 0
            carve(a, unit + units, UNITS[BY_SIZE[i]] - units)
            return unit
    return 0


cdef inline u32 alloc(Arena *a, int size_class) noexcept nogil:
    """A block of that class, contents undefined; 0 when the arena is full."""
    cdef u32 unit = a.free[size_class]
    if unit:
        a.free[size_class] = load32(<u32 *>block(a, unit))
        if a.free[size_class] >= a.bump:  # somebody else wrote there
            a.free[size_class] = 0
        a.live += UNITS[size_class]
        return unit
    unit = a.bump
    if unit + UNITS[size_class] > a.backed and not arena_grow(a, unit + UNITS[size_class]):
        unit = split(a, UNITS[size_class])
        a.live += UNITS[size_class] if unit else 0
        return unit
    a.bump = unit + UNITS[size_class]
    a.live += UNITS[size_class]
    return unit


cdef inline void release(Arena *a, int size_class, u32 unit) noexcept nogil:
    """Gives a block back. Only outside a write window: a reader may still stand in it (see seqlock)."""
    keep_free(a, size_class, unit)
    a.live -= UNITS[size_class]
    a.freed += UNITS[size_class]


cdef inline void empty(Arena *a, int64_t number) noexcept nogil:
    """No block and no count is left, and what is there belongs to window `number`. O(1)."""
    cdef Header *h = header(a)
    cdef int i
    write_open(&h.seq)
    for i in range(2):
        store64(&h.root[i], 0)
        store64(&h.hosts[i], 0)
    store64(<u64 *>&h.number, <u64>number)
    write_close(&h.seq)
    for i in range(CLASSES):
        a.free[i] = 0
    a.bump = HEADER_UNITS
    a.live = 0
    a.freed = 0


cdef inline void arena_reset(Arena *a) noexcept nogil:
    """Forgets every block, and every count. O(1), and a system call when there are pages to give back."""
    cdef u64 used = <u64>a.bump * UNIT
    empty(a, header(a).number)
    return_pages(a, used)


cdef inline void arena_renew(Arena *a, int64_t number) noexcept nogil:
    """The same, for the content of another window; the pages stay, and `arena_trim` gives back what nobody needs."""
    cdef u64 used = <u64>a.bump * UNIT
    empty(a, number)
    if used > a.touched:
        a.touched = used


cdef inline bint arena_trim(Arena *a, u64 keep) noexcept nogil:
    """Gives back one slice of what an earlier content has left behind the first `keep` bytes; False when nothing is.

    One system call over a bounded range, so nobody waits long for it.
    """
    cdef u64 used = <u64>(a.bump + LARGEST_UNITS) * UNIT, first
    used = keep if keep > used else used
    used += (GRAIN - used % GRAIN) % GRAIN
    if a.in_file:
        a.touched = a.held  # what a file has been given is in memory
    if a.touched <= used:
        return False
    first = a.touched - TRIM_SLICE if a.touched > used + TRIM_SLICE else used
    first -= first % GRAIN
    if not a.in_file:
        give_back(a.base + first, <size_t>(a.touched - first))
    elif a.fd < 0:
        return False
    else:
        set_backed(a, first)
        give_back_file(a.base + first, <size_t>(a.touched - first))
    a.touched = first
    return True


cdef inline u64 arena_used(const Arena *a) noexcept nogil:
    """Bytes from the start to the highest block that was ever handed out since the last reset."""
    return <u64>a.bump * UNIT
