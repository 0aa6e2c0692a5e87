"""The layout of a node, and how to search one.

A node has up to 256 children, by one byte of the address: the byte at its `depth`. `path` holds the bytes before it, so
a chain of single children is one node (path compression). Two shapes:

    small (3, 5, 8, 16, 32 or 64 slots)              full (256 slots)
    +-----------------------------------------+      +---------------------------------+
    | grade depth live path4 | used (bit map) |      | grade depth live path4 | unused |
    +-----------------------------------------+      +---------------------------------+
    | path, IPv6 only (16 bytes)              |      | path, IPv6 only (16 bytes)      |
    +-----------------------------------------+      +---------------------------------+
    | key byte of each slot, any order        |      | sixteen sums of sixteen slots   |
    +-----------------------------------------+      +---------------------------------+
    | entry of each slot                      |      | entry of each byte              |
    +-----------------------------------------+      +---------------------------------+

An *entry* is one word: the count of all sessions below it, and the child.

    63           32 31 29 28                   0
    |    count     | tag |   unit, or suffix    |

    NONE    no child
    SUFFIX  a host: the last three bytes of its address; the path has the other bytes
    LEAF    a host: its whole address is in a block
    SMALL, FULL   a node

A slot of a small node exists if its bit in `used` is set. That bit is stored last, so a slot appears and disappears
whole. With the sums of sixteen slots a prefix that ends inside a full node takes at most eight loads.

A reader may see damaged bytes, so each access stays within the arena's slack: a grade is a table index of three bits, a
slot number is below 64 or below 256.
"""

from inbound_audit._core.arena cimport alloc
from inbound_audit._core.bits cimport (
    u8, u16, u32, u64, acquire64, clear, ctz64, high_bits, load8, load32, load64, match16, publish64, store8, store16,
    store32, store64,
)
from inbound_audit._core.layout cimport LEAF_CLASS, Arena, block

cdef extern from *:
    """
    /* Indexed by grade; the eighth value is for a grade that no writer stores. */
    static const unsigned short ia_slots[8] = {3, 5, 8, 16, 32, 64, 256, 0};
    static const unsigned char ia_key_bytes[8] = {8, 8, 8, 16, 32, 64, 64, 0};
    /* A node shrinks to a grade if it has at most this many children, so that it does not grow again at once. */
    static const unsigned char ia_shrink_to[8] = {2, 3, 6, 12, 24, 48, 0, 0};
    """
    const u16 SLOTS "ia_slots"[8]
    const u8 KEY_BYTES "ia_key_bytes"[8]
    const u8 SHRINK_TO "ia_shrink_to"[8]

cdef enum:
    TAG_NONE = 0
    TAG_SUFFIX = 1
    TAG_LEAF = 2
    TAG_SMALL = 3
    TAG_FULL = 4
    TAG_SHIFT = 29
    BODY = (1 << 29) - 1
    SUFFIX_BODY = 0xFFFFFF
    GRADE_FULL = 6

cdef struct Node:
    u8 grade
    u8 depth
    u16 live       # number of children
    u32 path4      # the first four bytes of the path
    u64 used       # one bit per slot

cdef struct Key:
    u64 hi
    u64 lo


# ---- entries

cdef inline u64 entry(u32 child, u32 count) noexcept nogil:
    return (<u64>count << 32) | child


cdef inline u32 child_of(u64 e) noexcept nogil:
    return <u32>e


cdef inline u32 count_of(u64 e) noexcept nogil:
    return <u32>(e >> 32)


cdef inline int tag_of(u64 e) noexcept nogil:
    return <int>((<u32>e) >> TAG_SHIFT)


cdef inline u32 unit_of(u64 e) noexcept nogil:
    return <u32>e & BODY


cdef inline bint is_node(u64 e) noexcept nogil:
    return TAG_SMALL <= tag_of(e) <= TAG_FULL


# ---- addresses, byte by byte

cdef inline int last_byte(bint v6) noexcept nogil:
    return 15 if v6 else 3


cdef inline u8 byte_at(u64 hi, u64 lo, int depth) noexcept nogil:
    return <u8>(hi >> (56 - 8 * depth)) if depth < 8 else <u8>(lo >> (120 - 8 * depth))


cdef inline bint differ(u64 hi1, u64 lo1, u64 hi2, u64 lo2, int bits) noexcept nogil:
    """The two addresses differ in the first `bits` bits."""
    return ((hi1 ^ hi2) & high_bits(bits)) != 0 or ((lo1 ^ lo2) & high_bits(bits - 64)) != 0


# ---- the parts of a node

cdef inline Key path_of(Node *n, bint v6) noexcept nogil:
    cdef Key k
    if v6:
        k.hi = load64(<u64 *>(<u8 *>n + 16))
        k.lo = load64(<u64 *>(<u8 *>n + 24))
    else:
        k.hi = <u64>load32(&n.path4) << 32
        k.lo = 0
    return k


cdef inline u8 *keys_of(Node *n, bint v6) noexcept nogil:
    return <u8 *>n + (32 if v6 else 16)


cdef inline u32 *sums_of(Node *n, bint v6) noexcept nogil:
    return <u32 *>keys_of(n, v6)


cdef inline int grade_of(Node *n) noexcept nogil:
    """An index of the tables of grades, whatever the byte is."""
    return load8(&n.grade) & 7


cdef inline u64 *entries_of(Node *n, bint v6, int grade) noexcept nogil:
    return <u64 *>(keys_of(n, v6) + KEY_BYTES[grade])


cdef inline int size_class(int grade, bint v6) noexcept nogil:
    return LEAF_CLASS + 1 + grade + (7 if v6 else 0)


cdef inline u64 matches(Node *n, bint v6, int grade, u8 byte, u8 care) noexcept nogil:
    """A bit map of the slots of a small node whose key equals `byte` in the bits of `care`."""
    cdef u8 *keys = keys_of(n, v6)
    cdef u64 used = acquire64(&n.used)  # first: a slot's key and entry are stored before its bit
    cdef u64 hits = match16(keys, byte, care)
    if grade > 3:
        hits |= <u64>match16(keys + 16, byte, care) << 16
        if grade > 4:
            hits |= <u64>match16(keys + 32, byte, care) << 32
            hits |= <u64>match16(keys + 48, byte, care) << 48
    return hits & used


# ---- queries

cdef inline u64 *find(Node *n, bint v6, bint full, u8 byte) noexcept nogil:
    """The place of the entry of that byte; NULL if a small node has none (a full node's entry may be empty)."""
    cdef u64 hits
    cdef int grade
    if full:
        return entries_of(n, v6, GRADE_FULL) + byte
    grade = grade_of(n)
    hits = matches(n, v6, grade, byte, 0xFF)
    return entries_of(n, v6, grade) + ctz64(hits) if hits else NULL


cdef inline u32 sum_below(Node *n, bint v6, bint full, u8 byte, int bits) noexcept nogil:
    """Sessions of the children that share the first `bits` (1 to 7) bits of `byte`."""
    cdef u8 care = <u8>(0xFF << (8 - bits))
    cdef int grade = GRADE_FULL if full else grade_of(n)
    cdef u64 *entries = entries_of(n, v6, grade)
    cdef u64 hits
    cdef u32 total = 0
    cdef int first = byte & care, span = 256 >> bits, i
    if not full:
        hits = matches(n, v6, grade, byte, care)
        while hits:
            total += count_of(load64(entries + ctz64(hits)))
            hits &= hits - 1
    elif bits <= 4:
        for i in range(first >> 4, (first + span) >> 4):
            total += load32(sums_of(n, v6) + i)
    else:
        for i in range(first, first + span):
            total += count_of(load64(entries + i))
    return total


cdef inline bint outer_keys(Node *n, bint v6, bint full, u8 byte, int bits, int *first, int *last) noexcept nogil:
    """The lowest and the highest key of the children that share the first `bits` (0 to 7) bits of `byte`.

    Returns False without such a child. O(slots).
    """
    cdef u8 care = <u8>(0xFF << (8 - bits))
    cdef u8 *keys = keys_of(n, v6)
    cdef u64 *entries = entries_of(n, v6, GRADE_FULL)
    cdef u64 used
    cdef int key
    first[0], last[0] = byte & care, (byte & care) | (0xFF >> bits)
    if full:
        while first[0] <= last[0] and load64(entries + first[0]) == 0:
            first[0] += 1
        while first[0] < last[0] and load64(entries + last[0]) == 0:
            last[0] -= 1
        return first[0] <= last[0]
    first[0], last[0] = last[0] + 1, -1
    used = matches(n, v6, grade_of(n), byte, care)
    while used:
        key = load8(keys + ctz64(used))
        used &= used - 1
        if (key ^ byte) & care:
            continue  # a writer has stored another key meanwhile
        if key < first[0]:
            first[0] = key
        if key > last[0]:
            last[0] = key
    return last[0] >= 0


cdef inline int next_key(Node *n, bint v6, bint full, int after, int step) noexcept nogil:
    """The nearest key above (`step` 1) or below (-1) `after`, or -1. O(slots)."""
    cdef u8 *keys = keys_of(n, v6)
    cdef u64 used
    cdef int key, best = -1
    if full:
        key = after + step
        while 0 <= key <= 255:
            if load64(entries_of(n, v6, GRADE_FULL) + key):
                return key
            key += step
        return -1
    used = acquire64(&n.used)
    while used:
        key = load8(keys + ctz64(used))
        used &= used - 1
        if (key - after) * step > 0 and (best < 0 or (best - key) * step > 0):
            best = key
    return best


# ---- changes (the caller holds the writer lock)

cdef inline Node *new_node(Arena *a, bint v6, int grade, int depth, u64 hi, u64 lo) noexcept nogil:
    """An empty node that is not published yet; NULL if the arena is full."""
    cdef u32 unit = alloc(a, size_class(grade, v6))
    cdef Node *n
    if unit == 0:
        return NULL
    n = <Node *>block(a, unit)
    hi &= high_bits(8 * depth)
    lo &= high_bits(8 * depth - 64)
    store8(&n.grade, <u8>grade)
    store8(&n.depth, <u8>depth)
    store16(&n.live, 0)
    store32(&n.path4, <u32>(hi >> 32))
    store64(&n.used, 0)
    if v6:
        store64(<u64 *>(<u8 *>n + 16), hi)
        store64(<u64 *>(<u8 *>n + 24), lo)
    # Clears the sums and entries of a full node; the keys of a small node, because a match reads sixteen at once.
    clear(<u64 *>keys_of(n, v6), 8 + 256 if grade == GRADE_FULL else KEY_BYTES[grade] // 8)
    return n


cdef inline u32 handle(Arena *a, Node *n) noexcept nogil:
    cdef u32 unit = <u32>((<u8 *>n - a.base) >> 4)
    return unit | (<u32>(TAG_FULL if n.grade == GRADE_FULL else TAG_SMALL) << TAG_SHIFT)


cdef inline void put(Node *n, bint v6, u8 byte, u64 e) noexcept nogil:
    """Adds a slot, published by the last store. The node has room, and no slot for that byte."""
    cdef int grade = n.grade & 7, slot
    cdef u64 used
    store16(&n.live, n.live + 1)
    if grade == GRADE_FULL:
        store32(sums_of(n, v6) + (byte >> 4), sums_of(n, v6)[byte >> 4] + count_of(e))
        publish64(entries_of(n, v6, GRADE_FULL) + byte, e)
        return
    used = n.used
    slot = ctz64(~used) if ~used else 63  # another process wrote to a node without room
    store8(keys_of(n, v6) + slot, byte)
    store64(entries_of(n, v6, grade) + slot, e)
    publish64(&n.used, used | (<u64>1 << slot))


cdef inline void erase(Node *n, bint v6, u8 byte, u64 *at) noexcept nogil:
    """Removes the slot at `at` with its count."""
    store16(&n.live, n.live - 1)
    if n.grade == GRADE_FULL:
        store32(sums_of(n, v6) + (byte >> 4), sums_of(n, v6)[byte >> 4] - count_of(at[0]))
        store64(at, 0)
    else:
        # Below 64 unless another process wrote to the node meanwhile.
        store64(&n.used, n.used & ~(<u64>1 << ((at - entries_of(n, v6, n.grade & 7)) & 63)))


cdef inline void copy_slots(Node *source, Node *target, bint v6, u64 *leave) noexcept nogil:
    """Copies all slots of `source` except the one at `leave` into a new node that has room for them."""
    cdef bint full = source.grade == GRADE_FULL
    cdef u64 *entries = entries_of(source, v6, source.grade & 7)
    cdef u8 *keys = keys_of(source, v6)
    cdef u64 used = source.used
    cdef int i
    if full:
        for i in range(256):
            if entries[i] and entries + i != leave:
                put(target, v6, <u8>i, entries[i])
        return
    while used:
        i = ctz64(used)
        used &= used - 1
        if entries + i != leave:
            put(target, v6, keys[i], entries[i])
