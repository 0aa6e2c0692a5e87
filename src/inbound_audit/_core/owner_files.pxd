"""Files of other owners: attached, refreshed, detached.

A process in shared mode is an *owner*: it has one file, and no other process writes to that file.

    0                  65536                 65536 + stride
    | OwnerHeader      | section 0           | section 1           | ...
                         one tree: the bytes of an arena (room `layout`)

Other owners map a section read-only as soon as it is in use, and attach it: as one more tree in the list of its
service, or in the owner's ring of its series. The contents of the file are not trusted: the size of the mapping
bounds a tree, and the memory that the file system reports for the file bounds the rows of a walk. A section of a kind
that this version does not know is passed over.

A detached tree is covered with empty pages, so a reader that stands in it counts 0 from there on, and is taken out of
its list. Its address range and `Tree` are used again after REUSE_DELAY_NS at the earliest, and freed with the audit.
(A reader that loses its processor for longer, on just that tree, may count some trees twice in that one query.)

Lock rule: one thread at a time calls these functions for an audit, as in the room `trees`. Readers run beside it.
"""

from inbound_audit._core.bits cimport u8, u32, u64, load32, load64, store64
from inbound_audit._core.layout cimport BYTE_ORDER_MARK, LARGEST_UNITS, LAYOUT, MAX_UNITS, PAGE, UNIT, Header
from inbound_audit._core.mapping cimport GRAIN, cover_failed, map_file, unmap_range
from inbound_audit._core.model cimport INBOUND_CIDR, MAX_TREES, Owner, Ring, Series, Tree, publish_tree
from inbound_audit._core.sigbus cimport UNGUARDED, guard, unguard, was_lost
from inbound_audit._core.trees cimport link_sum, link_tree, new_tree, unlink_tree
from inbound_audit._core.window cimport REUSE_DELAY_NS, drop_ring, link_ring, new_ring, series_place

cdef extern from *:
    """
    #define IA_OWNER_MAGIC ((uint64_t)0x72656e776f6169)  /* "iaowner" */
    """
    const u64 OWNER_MAGIC "IA_OWNER_MAGIC"
    u64 swapped "__builtin_bswap64"(u64) noexcept nogil

cdef enum:
    SERVED_NUMBERS = 8

# Why a file can't be read; the extension has the messages.
cdef enum Fault:
    SOUND = 0
    NOT_READY = 1        # shorter than a header: its owner still writes it
    OTHER_MAGIC = 2
    OTHER_ORDER = 3
    OTHER_LAYOUT = 4
    NONSENSE = 5         # a number that no owner writes
    CUT_SHORT = 6
    NO_ROOM = 7          # this process has no memory or address space for it

cdef struct OwnerHeader:
    u64 magic
    u32 layout
    u32 byte_order
    u64 stride           # bytes from section to section
    u32 trees            # sections in use; published after the section is complete
    u32 pid              # as the owner states it; not verified
    u64 started          # microseconds since 1970
    u64 scan_count       # grows when a scan for other owners begins and ends: odd during a scan
    u64 served[SERVED_NUMBERS]  # what the owner says it has done since it began; each of a moment of its own

cdef struct MappedOwner:
    OwnerHeader *head    # mapped, read only
    int fd
    int guarded
    u64 stride
    u64 size             # bytes of the file, the largest that was seen
    u32 trees            # sections that were attached or rejected
    Tree *first
    Ring *rings


cdef inline int header_fault(u64 magic, u32 layout, u32 byte_order, u64 expected) noexcept nogil:
    """SOUND, or why the first fields of a header are not those of this version."""
    if magic == swapped(expected):
        return OTHER_ORDER
    if magic != expected:
        return OTHER_MAGIC
    if byte_order != BYTE_ORDER_MARK:
        return NONSENSE
    return SOUND if layout == LAYOUT else OTHER_LAYOUT


cdef inline int owner_open(MappedOwner *f, int fd, u64 size) noexcept nogil:
    """Maps the header of another owner's file of `size` bytes. Returns SOUND; or a Fault, and nothing is mapped."""
    cdef int fault
    f.head = NULL
    if size < GRAIN:
        return NOT_READY
    f.head = <OwnerHeader *>map_file(NULL, PAGE, fd, 0, False)
    if f.head == NULL:
        return NO_ROOM
    f.guarded = guard(f.head, PAGE, False)
    f.fd = fd
    f.trees = 0
    f.first = NULL
    f.rings = NULL
    f.size = size
    f.stride = load64(&f.head.stride)
    if f.guarded == UNGUARDED:
        fault = NO_ROOM
    else:
        fault = header_fault(load64(&f.head.magic), load32(&f.head.layout), load32(&f.head.byte_order), OWNER_MAGIC)
        if fault == SOUND and (f.stride % GRAIN or not GRAIN <= f.stride <= <u64>(MAX_UNITS + 4096) * UNIT):
            fault = NONSENSE
    if fault != SOUND:
        owner_close(f)
    return fault


cdef inline void owner_close(MappedOwner *f) noexcept nogil:
    """Unmaps the header. The trees were detached before."""
    if f.head != NULL:
        unguard(f.guarded)
        unmap_range(f.head, PAGE)
        f.head = NULL


cdef inline Tree *spare_tree(Owner *o, int service, u64 size, u64 now) noexcept nogil:
    """A detached tree of that service and size whose reuse delay is over, or NULL."""
    cdef Tree **at = &o.spare
    cdef Tree *t
    while at[0] != NULL:
        t = at[0]
        if t.service == service and t.arena.size == size and now - t.dropped >= REUSE_DELAY_NS:
            at[0] = t.sibling
            return t
        at = &t.sibling
    return NULL


cdef inline Header *open_section(const MappedOwner *f, u32 number) noexcept nogil:
    """Maps the header of a section alone, to read its label. NULL if there is no address space."""
    return <Header *>map_file(NULL, PAGE, f.fd, GRAIN + number * f.stride, False)


cdef inline void retire_tree(Tree *t, Owner *o, u64 now) noexcept nogil:
    """Covers a tree with empty pages and keeps it for later use. The range stays guarded."""
    if t.arena.base != NULL:
        cover_failed(t.arena.base, t.arena.size, False)
    store64(&t.dropped, now)
    t.sibling = o.spare
    o.spare = t


cdef inline int map_tree(MappedOwner *f, Owner *o, u32 number, int service, u64 now, Tree **out) noexcept nogil:
    """Maps section `number` as a tree that is not yet in a list. Returns SOUND; or a Fault, and nothing is changed."""
    cdef Tree *t = spare_tree(o, service, f.stride, now)
    cdef void *base
    if t == NULL:
        t = new_tree(o, service)
        if t == NULL:
            return NO_ROOM
        t.arena.size = f.stride
        t.arena.limit = <u32>(f.stride // UNIT - 2 * LARGEST_UNITS)
    t.arena.offset = GRAIN + number * f.stride
    base = map_file(t.arena.base, f.stride, f.fd, t.arena.offset, False)
    if base != NULL:
        if t.arena.base == NULL:  # else it is the same, and a reader may be there
            t.arena.base = <u8 *>base
        if t.arena.guarded == UNGUARDED:
            t.arena.guarded = guard(base, f.stride, False)
    if base == NULL or t.arena.guarded == UNGUARDED:
        retire_tree(t, o, now)
        return NO_ROOM
    was_lost(t.arena.guarded)  # clears the note of an earlier use
    store64(&t.stalled, 0)
    store64(&t.max_units, f.size // UNIT)
    t.sibling = f.first
    f.first = t
    out[0] = t
    return SOUND


cdef inline int attach_listener_tree(
    MappedOwner *f, Owner *o, u32 number, int service, u32 listener_id, u64 now
) noexcept nogil:
    """Attaches section `number` to its service. Returns SOUND; or a Fault, and nothing is changed."""
    cdef Tree *t
    cdef int fault = map_tree(f, o, number, service, now, &t)
    if fault == SOUND:
        t.listener_id = listener_id
        t.ring = NULL
        link_tree(o, t)
    return fault


cdef inline int attach_sum(MappedOwner *f, Owner *o, u32 number, u64 now) noexcept nogil:
    """Attaches section `number` as the sum over all other nodes. Returns SOUND; or a Fault, and nothing is changed."""
    cdef Tree *t
    cdef int fault = map_tree(f, o, number, INBOUND_CIDR, now, &t)
    if fault == SOUND:
        t.ring = NULL
        if o.sum == NULL or o.sum.max_units:  # else this process keeps one itself
            link_sum(o, t)
    return fault


cdef inline int attach_window_tree(
    MappedOwner *f, Series *s, u32 number, u32 slot, u32 sign, u64 now
) noexcept nogil:
    """Attaches section `number` to the file's ring of a series. Returns SOUND; or a Fault, and no count is changed."""
    cdef Ring *r = f.rings
    cdef Tree *t
    cdef int fault
    while r != NULL and r.series != s:
        r = r.same_file
    if r == NULL:
        r = new_ring(s, now)
        if r == NULL:
            return NO_ROOM
        r.same_file = f.rings
        f.rings = r
        link_ring(s, r)
    if r.tree[2 * slot + sign] != NULL:
        return NONSENSE
    fault = map_tree(f, s.owner, number, series_place(s), now, &t)
    if fault == SOUND:
        t.ring = r
        publish_tree(&r.tree[2 * slot + sign], t)
    return fault


cdef inline int owner_refresh(MappedOwner *f, u64 size, u64 memory) noexcept nogil:
    """Notes the size and the memory (both in bytes) that the file system reports for the file. Returns a Fault."""
    cdef Tree *t = f.first
    if size < f.size:
        return CUT_SHORT
    while t != NULL:
        store64(&t.max_units, 2 * memory // UNIT)
        # A reader hit a page without memory, and the SIGBUS handler covered it; the page may have memory by now.
        if was_lost(t.arena.guarded) and map_file(t.arena.base, f.stride, f.fd, t.arena.offset, False) == NULL:
            return NO_ROOM
        t = t.sibling
    f.size = size
    if not f.trees <= load32(&f.head.trees) <= MAX_TREES or load64(&f.head.stride) != f.stride:
        return NONSENSE
    return header_fault(load64(&f.head.magic), load32(&f.head.layout), load32(&f.head.byte_order), OWNER_MAGIC)


cdef inline void owner_detach(MappedOwner *f, Owner *o, u64 now) noexcept nogil:
    """Detaches all trees of the file."""
    cdef Tree *t = f.first
    cdef Ring *r = f.rings
    while r != NULL:
        f.rings = r.same_file
        drop_ring(r, now)
        r = f.rings
    while t != NULL:
        f.first = t.sibling
        if t.ring == NULL:
            unlink_tree(o, t)
        if o.sum == t:
            publish_tree(&o.sum, NULL)
        retire_tree(t, o, now)
        t = f.first
    f.trees = 0
