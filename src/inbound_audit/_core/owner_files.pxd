"""The files of other processes: their trees among ours, and what is no longer there.

A process that counts in shared mode is an *owner*: it has one file, and nobody else writes to it.

    0                  65536                 65536 + stride
    | OwnerHeader      | section 0           | section 1           | ...
                         one tree: an arena as it is in memory, blocks from byte 4096 on

Others map a section as soon as it is in use, read only, and hang it in the list of its service, or in the owner's ring of
its series, as one tree more. What stands in the file is believed only as far as the mapping reaches: a tree's bound is
the size of our own mapping, and how many rows a walk may find is bounded by the memory that the file system says the file
has.

A tree that is dropped is covered with empty pages (a reader who stands in it counts nothing from there on) and taken
out of its list. Address range and `Tree` are used again after `REUSE_DELAY_NS` at the earliest, and freed with the audit. (A reader
that lost its processor for longer, on just that tree, may count some trees twice, once.)

Lock rule: every function here is called by one thread at a time (the door's); readers go on meanwhile.
"""

from inbound_audit._core.bits cimport u8, u32, u64, load32, load64
from inbound_audit._core.layout cimport BYTE_ORDER_MARK, LARGEST_UNITS, LAYOUT, MAX_UNITS, PAGE, UNIT, Header
from inbound_audit._core.mapping cimport GRAIN, cover_failed, map_file, unmap_range
from inbound_audit._core.model cimport MAX_TREES, Owner, Ring, Series, Tree, publish_tree
from inbound_audit._core.sigbus cimport UNGUARDED, guard, unguard, was_lost
from inbound_audit._core.trees cimport link_tree, new_tree, unlink_tree
from inbound_audit._core.window cimport REUSE_DELAY_NS, drop_ring, link_ring, new_ring, series_place

cdef extern from *:
    """
    #define IA_OWNER_MAGIC ((uint64_t)0x72656e776f6169)  /* "iaowner" */
    """
    const u64 OWNER_MAGIC "IA_OWNER_MAGIC"
    u64 swapped "__builtin_bswap64"(u64) noexcept nogil

# Why a file can't be read; the door has the words.
cdef enum Fault:
    SOUND = 0
    NOT_READY = 1        # shorter than a header: its owner is still at it
    OTHER_MAGIC = 2
    OTHER_ORDER = 3
    OTHER_LAYOUT = 4
    NONSENSE = 5         # a number that no owner writes
    CUT_SHORT = 6
    NO_ROOM = 7          # ours: no memory, or no address space

cdef struct OwnerHeader:
    u64 magic
    u32 layout
    u32 byte_order
    u64 stride           # bytes from section to section
    u32 trees            # sections in use; published after the section is complete
    u32 pid              # what the owner says of itself: a label
    u64 started          # microseconds since 1970
    u64 scan_count           # odd while the owner looks for others

cdef struct MappedOwner:
    OwnerHeader *head    # mapped, read only
    int fd
    int guarded
    u64 stride
    u64 size             # bytes of the file, the largest we have seen
    u32 trees            # of which we have looked at so many
    Tree *first
    Ring *rings


cdef inline int header_fault(u64 magic, u32 layout, u32 byte_order, u64 expected) noexcept nogil:
    if magic == swapped(expected):
        return OTHER_ORDER
    if magic != expected:
        return OTHER_MAGIC
    if byte_order != BYTE_ORDER_MARK:
        return NONSENSE
    return SOUND if layout == LAYOUT else OTHER_LAYOUT


cdef inline int owner_open(MappedOwner *f, int fd, u64 size) noexcept nogil:
    """Maps the header of another owner's file of `size` bytes. A Fault; then nothing is held."""
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
    """Lets the header go. The trees were dropped."""
    if f.head != NULL:
        unguard(f.guarded)
        unmap_range(f.head, PAGE)
        f.head = NULL


cdef inline Tree *spare_tree(Owner *o, int service, u64 size, u64 now) noexcept nogil:
    """A tree of that service with an address range of that size, that has rested; NULL when there is none."""
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
    """The header of a section, mapped by itself, to see whose tree it is. NULL when there is no address space."""
    return <Header *>map_file(NULL, PAGE, f.fd, GRAIN + number * f.stride, False)


cdef inline void rest_tree(Tree *t, Owner *o, u64 now) noexcept nogil:
    """Nobody counts there any more, and a reader who still does counts nothing. It stays guarded."""
    if t.arena.base != NULL:
        cover_failed(t.arena.base, t.arena.size, False)
    t.dropped = now
    t.sibling = o.spare
    o.spare = t


cdef inline int map_tree(MappedOwner *f, Owner *o, u32 number, int service, u64 now, Tree **out) noexcept nogil:
    """Maps section `number` as a tree of our own process, not yet in a list. A Fault; then nothing is changed."""
    cdef Tree *t = spare_tree(o, service, f.stride, now)
    cdef void *base
    if t == NULL:
        t = new_tree(o, service)
    if t == NULL:
        return NO_ROOM
    t.arena.size = f.stride
    t.arena.offset = GRAIN + number * f.stride
    base = map_file(t.arena.base, f.stride, f.fd, t.arena.offset, False)
    if base != NULL:
        t.arena.base = <u8 *>base
        if t.arena.guarded == UNGUARDED:
            t.arena.guarded = guard(base, f.stride, False)
    if base == NULL or t.arena.guarded == UNGUARDED:
        rest_tree(t, o, now)
        return NO_ROOM
    was_lost(t.arena.guarded)  # of who had it before
    t.arena.limit = <u32>(f.stride // UNIT - 2 * LARGEST_UNITS)
    t.stalled = 0
    t.max_units = f.size // UNIT
    t.sibling = f.first
    f.first = t
    out[0] = t
    return SOUND


cdef inline int attach_listener_tree(MappedOwner *f, Owner *o, u32 number, int service, u32 listener_id, u64 now) noexcept nogil:
    """Hangs section `number` in the list of its service. A Fault; then nothing is changed."""
    cdef Tree *t
    cdef int fault = map_tree(f, o, number, service, now, &t)
    if fault == SOUND:
        t.listener_id = listener_id
        t.ring = NULL
        link_tree(o, t)
    return fault


cdef inline int attach_window_tree(MappedOwner *f, Series *s, u32 number, u32 slot, u32 sign, u64 now) noexcept nogil:
    """Hangs section `number` in this file's ring of a series. A Fault; then nothing is counted that was not before."""
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
    """What the file system says of the file now: its size and the memory it has, in bytes. A Fault."""
    cdef Tree *t = f.first
    if size < f.size:
        return CUT_SHORT
    while t != NULL:
        t.max_units = 2 * memory // UNIT
        # An overtaken or damaged walk has gone where nothing was; something may be there later.
        if was_lost(t.arena.guarded) and map_file(t.arena.base, f.stride, f.fd, t.arena.offset, False) == NULL:
            return NO_ROOM
        t = t.sibling
    f.size = size
    if not f.trees <= load32(&f.head.trees) <= MAX_TREES or load64(&f.head.stride) != f.stride:
        return NONSENSE
    return header_fault(load64(&f.head.magic), load32(&f.head.layout), load32(&f.head.byte_order), OWNER_MAGIC)


cdef inline void owner_detach(MappedOwner *f, Owner *o, u64 now) noexcept nogil:
    """Counts its trees no more."""
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
        rest_tree(t, o, now)
        t = f.first
    f.trees = 0
