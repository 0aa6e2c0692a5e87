"""The bytes of a tree: a header, a label, and units of sixteen bytes.

    unit 0                 HEADER_UNITS                bump            limit
    | Header               | blocks, used and free ... | never touched | slack |

A tree lies in one reserved range of address space that never moves. A page of the range costs memory from its first
touch on. A *unit* is sixteen bytes. A *block* is named by its first unit, a number that means the same in each process
that maps the bytes. The largest block fits into the slack, so a reader checks the first unit of a block alone.

`reach` is where the memory of a file ends. A reader that a writer overtook may read a unit number out of a block that
was used again; it goes no further than `reach`, because a page without memory raises SIGBUS.

The struct `Arena` is what the owner, or a reader, knows of such a range; it is private memory of the process.
"""

from libc.stdint cimport int64_t
from libc.string cimport memcpy

from inbound_audit._core.bits cimport u8, u32, u64, load32
from inbound_audit._core.kept_file cimport KeptFile
from inbound_audit._core.mapping cimport GRAIN

cdef extern from *:
    """
    /* Units of a size class: a leaf; IPv4 nodes of 3, 5, 8, 16, 32, 64 and 256 slots; the same for IPv6. */
    static const unsigned char ia_units[15] = {1, 3, 4, 6, 10, 19, 37, 133, 4, 5, 7, 11, 20, 38, 134};
    /* The classes in the order of their sizes. */
    static const unsigned char ia_by_size[15] = {0, 1, 2, 8, 9, 3, 10, 4, 11, 5, 12, 6, 13, 7, 14};
    """
    const u8 UNITS "ia_units"[15]
    const u8 BY_SIZE "ia_by_size"[15]

cdef extern from *:
    "#define IA_NO_WINDOW (-((int64_t)1 << 62))"
    const int64_t NO_WINDOW "IA_NO_WINDOW"  # a number that no window has

cdef enum:
    UNIT = 16                            # bytes
    CLASSES = 15
    LEAF_CLASS = 0
    LARGEST_UNITS = 134
    PAGE = 4096
    HEADER_UNITS = PAGE // UNIT
    MAX_UNITS = (1 << 29) - 4096         # 29 bits of a handle can name them and the slack: just under 8 GiB
    MIN_CAPACITY = 2 * PAGE
    MIN_GIVE_BACK = 16 * PAGE            # a reset that frees less makes no system call
    MAX_GROWTH = 1 << 20                 # bytes by which a file grows at once: to zero them takes time
    TRIM_SLICE = 1 << 17                 # bytes that one trim gives back: some ten microseconds
    MAGIC = 0x7464756169                 # "iaudt"
    LAYOUT = 2
    BYTE_ORDER_MARK = 0x01020304
    MAX_NAME = 64                        # bytes

cdef struct Header:
    # A query reads this cache line first.
    u64 seq
    u64 root[2]          # one entry per family, IPv4 first: count << 32 | child
    u64 hosts[2]         # distinct addresses
    u64 magic
    u32 layout
    u32 byte_order
    u32 limit            # units
    u32 reach            # units that have memory; at most `limit`
    # the label, in a file; written before the tree is published
    u32 service_size
    u32 listener_size
    char service[MAX_NAME]
    char listener[MAX_NAME]
    u32 names_sum        # `sum_of_label`: a reader rejects a damaged name
    u32 kind             # what the tree counts (room `model`)
    # of a window (room `window`)
    int64_t number       # of the window that the tree holds now
    int64_t newest       # of the ring; only in the ring's first tree
    int64_t base
    u32 interval         # seconds
    u32 slots
    u32 slot
    u32 sign             # 0: what was added, 1: what was subtracted
    u32 level[2]         # prefix lengths to which hosts were folded, IPv4 first
    u64 folded           # number of hosts that were folded
    u32 replicate        # which hosts of a cluster count the series; in all trees of a ring

# The name of a tree, in private memory: the owner never reads it back from the file.
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
    u32 limit            # units that may be handed out; in private memory, so that a reader can trust it
    u32 lock             # the writer lock of the tree
    u64 size             # bytes of the reserved range, slack included; a multiple of GRAIN
    u64 waiting          # writers that wait for the lock: a batch yields to them
    # the allocator's state: private, because another process could write to shared bytes
    u32 bump             # first unit that was never handed out; stored atomically, because a walk reads it
    u32 backed           # the value of `reach`; equal to `limit` without a file
    u32 free[CLASSES]    # first block of each list; 0: none
    u32 live             # units in blocks that are in use
    u32 freed            # units released since the last `coalesce`
    u64 touched          # bytes from the start that earlier contents have left in memory
    KeptFile *file       # that may grow; NULL: no file
    bint in_file         # the mapped bytes are those of a file
    int guarded          # slot of the guard, kept once the arena was in a file; else UNGUARDED
    u64 offset           # of the range in the file
    u64 held             # bytes of the range that the file system has given
    int error            # number of the error that the last growth, or move into a file, failed with


cdef inline Header *header(const Arena *a) noexcept nogil:
    return <Header *>a.base


cdef inline u32 sum_of_label(const Header *h) noexcept nogil:
    """FNV-1a over both names, their sizes, and the constant fields of a window. The caller checked the sizes."""
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
    """Writes the label into the header, before other processes can find the tree."""
    cdef Header *h = header(a)
    h.service_size, h.listener_size = label.service_size, label.listener_size
    memcpy(h.service, label.service, MAX_NAME)
    memcpy(h.listener, label.listener, MAX_NAME)
    h.kind, h.interval, h.slots, h.slot, h.sign = label.kind, label.interval, label.slots, label.slot, label.sign
    h.names_sum = sum_of_label(h)


cdef inline u8 *block(const Arena *a, u32 unit) noexcept nogil:
    return a.base + <u64>unit * UNIT


cdef inline u32 reach_of(const Arena *a) noexcept nogil:
    """The bound of unit numbers for a reader. `reach` lies in shared bytes, so `limit` bounds it."""
    cdef u32 units = load32(&header(a).reach)
    return units if units < a.limit else a.limit


cdef inline u64 range_of(u64 capacity) noexcept nogil:
    """Bytes of address space for an arena of that capacity."""
    # The slack: a largest block fits after the limit.
    cdef u64 size = capacity // UNIT
    size = ((MAX_UNITS if size > MAX_UNITS else size) + 2 * LARGEST_UNITS) * UNIT
    return size + (GRAIN - size % GRAIN) % GRAIN
