"""Memory that never moves: one reserved range of address space, handed out in units of sixteen bytes.

    unit 0                 HEADER_UNITS                bump            limit
    | Header               | blocks, used and free ... | never touched | slack |

A block is named by its first unit, a number that means the same in every process that maps the bytes. A block has a
size class for life; a free one waits in the list of its class, linked by the word at its start. Nothing is merged: a
tree that becomes empty is reset whole and its pages go back to the system. The range is reserved, not committed: a
page costs memory from its first touch on.

Lock rule: every function here is for the holder of the tree's writer lock.
"""

from libc.string cimport memset

from inbound_audit._core.bits cimport u8, u32, u64, load32, store32, store64
from inbound_audit._core.codes cimport OK, FULL
from inbound_audit._core.seqlock cimport write_close, write_open

cdef extern from *:
    """
    #include <sys/mman.h>
    #ifndef MAP_NORESERVE
    #define MAP_NORESERVE 0
    #endif
    #ifndef MAP_ANONYMOUS
    #define MAP_ANONYMOUS MAP_ANON
    #endif

    #define IA_SMALL_TREE ((size_t)4 << 20)

    /* Units of a size class: a leaf; IPv4 nodes of 3, 5, 8, 16, 32, 64 and 256 slots; the same for IPv6. */
    static const unsigned char ia_units[15] = {1, 3, 4, 6, 10, 19, 37, 133, 4, 5, 7, 11, 20, 38, 134};

    static inline void *ia_reserve(size_t size)
    {
        void *at = mmap(NULL, size, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (at == MAP_FAILED)
            return NULL;
    #ifdef MADV_HUGEPAGE
        /* A tree that outgrows this is met cold: large pages spare a walk of the page table at each of its levels. */
        if (size > IA_SMALL_TREE)
            (void)madvise((char *)at + IA_SMALL_TREE, size - IA_SMALL_TREE, MADV_HUGEPAGE);
    #endif
        return at;
    }
    static inline void ia_unmap(void *at, size_t size) { munmap(at, size); }
    static inline void ia_give_back(void *at, size_t size) { (void)madvise(at, size, MADV_DONTNEED); }
    """
    const u8 UNITS "ia_units"[15]
    void *reserve "ia_reserve"(size_t) noexcept nogil
    void unmap_range "ia_unmap"(void *, size_t) noexcept nogil
    void give_back "ia_give_back"(void *, size_t) noexcept nogil

cdef enum:
    UNIT = 16
    CLASSES = 15
    LEAF_CLASS = 0
    LARGEST_UNITS = 134
    PAGE = 4096
    HEADER_UNITS = PAGE // UNIT
    UNITS_MOST = (1 << 29) - 1024        # what 29 bits of a handle can name: 8 GiB
    CAPACITY_LEAST = 2 * PAGE
    GIVE_BACK_LEAST = 16 * PAGE          # below that a reset is not worth a system call
    LAYOUT = 1
    BYTE_ORDER_MARK = 0x01020304

cdef struct Header:
    # One cache line for readers: what a query touches first.
    u64 seq
    u64 root[2]          # an entry a family, IPv4 first: count << 32 | child
    u64 hosts[2]         # distinct addresses
    u64 magic
    u32 layout
    u32 byte_order
    u32 limit            # units
    u32 bump             # first unit that was never handed out
    # the writer's own
    u32 free[CLASSES]    # first block of each list; 0: none

cdef struct Arena:
    u8 *base
    u64 size             # bytes of the reserved range, slack included
    u32 limit            # units that may be handed out; a reader's bound, kept out of the shared bytes
    u32 lock             # writers of this tree, one at a time
    u64 waiting          # of them, those who found it taken: a batch lets them go first


cdef inline Header *header(const Arena *a) noexcept nogil:
    return <Header *>a.base


cdef inline u8 *block(const Arena *a, u32 unit) noexcept nogil:
    return a.base + <u64>unit * UNIT


cdef inline int arena_open(Arena *a, u64 capacity) noexcept nogil:
    """Reserves `capacity` bytes (rounded to pages, at most 8 GiB). FULL when the system has no room for them."""
    cdef u64 units = capacity // UNIT
    if units > UNITS_MOST:
        units = UNITS_MOST
    # The slack lets a reader bound a handle by its first unit alone: a whole largest block fits behind the limit.
    a.size = (units + 2 * LARGEST_UNITS) * UNIT
    a.size += (PAGE - a.size % PAGE) % PAGE
    a.base = <u8 *>reserve(<size_t>a.size)
    if a.base == NULL:
        return FULL
    a.limit = <u32>units
    a.lock = 0
    a.waiting = 0
    memset(header(a), 0, sizeof(Header))
    header(a).magic = 0x7464756169  # "iaudt"
    header(a).layout = LAYOUT
    header(a).byte_order = BYTE_ORDER_MARK
    header(a).limit = a.limit
    header(a).bump = HEADER_UNITS
    return OK


cdef inline void arena_close(Arena *a) noexcept nogil:
    """Only when nobody can read any more."""
    if a.base != NULL:
        unmap_range(a.base, <size_t>a.size)
        a.base = NULL


cdef inline u32 alloc(Arena *a, int size_class) noexcept nogil:
    """A block of that class, contents undefined; 0 when the arena is full."""
    cdef Header *h = header(a)
    cdef u32 unit = h.free[size_class]
    if unit:
        h.free[size_class] = load32(<u32 *>block(a, unit))
        return unit
    unit = h.bump
    if unit + UNITS[size_class] > a.limit:
        return 0
    h.bump = unit + UNITS[size_class]
    return unit


cdef inline void release(Arena *a, int size_class, u32 unit) noexcept nogil:
    """Gives a block back. Only outside a write window: a reader may still stand in it (see seqlock)."""
    cdef Header *h = header(a)
    store32(<u32 *>block(a, unit), h.free[size_class])
    h.free[size_class] = unit


cdef inline void arena_reset(Arena *a) noexcept nogil:
    """Forgets every block, and every count. O(1), and a system call when there are pages to give back."""
    cdef Header *h = header(a)
    cdef u64 used = <u64>h.bump * UNIT
    cdef int i
    write_open(&h.seq)
    for i in range(2):
        store64(&h.root[i], 0)
        h.hosts[i] = 0
    write_close(&h.seq)
    for i in range(CLASSES):
        h.free[i] = 0
    h.bump = HEADER_UNITS
    if used >= GIVE_BACK_LEAST:
        give_back(a.base + PAGE, <size_t>(used - PAGE + (PAGE - used % PAGE) % PAGE))


cdef inline u64 arena_used(const Arena *a) noexcept nogil:
    """Bytes from the start to the highest block that was ever handed out since the last reset."""
    return <u64>header(a).bump * UNIT
