"""The counted radix trie: sessions per IPv4 and IPv6 prefix, one byte of the address per step.

Each family has a root *entry* in the header. An entry counts everything below it, so the root's count is the family's
total, and to add a session adds to each entry on the path to its host: O(bytes of the address), at most 4 or 16 steps.

Invariants (the room `verify` checks each of them):
  1. an entry's count is the sum of its node's entries, and more than zero;
  2. a node's depth is larger than that of the node above it, and all below it share its path;
  3. a node has two children or more; or one, a SUFFIX that the entry above could not hold (to free memory must never
     need memory);
  4. a host is a SUFFIX if at most three bytes of its address are left, and a LEAF otherwise;
  5. each block is reachable once, or is in one free list once.

The room `seqlock` says what a reader relies on, the room `node` what the bits mean.

Lock rule: `trie_add`, `trie_remove` and `trie_move` are for the holder of the tree's writer lock. `trie_count` takes no
lock; its caller follows the protocol of `seqlock`.
"""


from inbound_audit._core.address cimport Address, first_difference
from inbound_audit._core.arena cimport arena_reset, release
from inbound_audit._core.bits cimport u8, u32, u64, acquire64, ctz64, load8, publish64, store64
from inbound_audit._core.codes cimport DAMAGED, FULL, OK, OVERFLOW, UNMATCHED
from inbound_audit._core.layout cimport LEAF_CLASS, Arena, block, header, reach_of
from inbound_audit._core.node cimport (
    BODY, GRADE_FULL, SHRINK_TO, SLOTS, TAG_FULL, TAG_LEAF, TAG_NONE, TAG_SHIFT, TAG_SUFFIX, Key, Node, byte_at,
    child_of, copy_slots, count_of, differ, entries_of, entry, erase, find, handle, is_node, last_byte, new_node,
    path_of, put, size_class, sum_below, tag_of, unit_of,
)
from inbound_audit._core.path cimport Path, Step, descend, fits_suffix, host_of, new_host, shift_counts
from inbound_audit._core.seqlock cimport write_close, write_open, write_step

cdef enum:
    MAX_RETIRED = 40    # more blocks than two changes in one write window can retire

cdef struct Retired:
    int count
    u32 unit[MAX_RETIRED]
    u8 size_class[MAX_RETIRED]


cdef inline bint go_down(
    const Arena *a, bint v6, u64 hi, u64 lo, int length, u32 reach, u64 *e, int *depth, u32 *count
) noexcept nogil:
    """One level towards a prefix, from the child `e`. False: `count` has the sessions below the prefix."""
    cdef u64 *at
    cdef Node *n
    cdef Key k
    cdef int next_depth
    count[0] = 0
    if not is_node(e[0]):
        if tag_of(e[0]) != TAG_NONE:
            k = host_of(a, v6, e[0], hi, lo)
            count[0] = 0 if differ(k.hi, k.lo, hi, lo, length) else count_of(e[0])
        return False
    if unit_of(e[0]) >= reach:
        return False
    n = <Node *>block(a, unit_of(e[0]))
    next_depth = load8(&n.depth)
    if next_depth != depth[0]:
        k = path_of(n, v6)
        if next_depth < depth[0] or next_depth > last_byte(v6):
            return False
        depth[0] = next_depth
        if differ(k.hi, k.lo, hi, lo, length if length < 8 * next_depth else 8 * next_depth):
            return False
        if length <= 8 * next_depth:
            count[0] = count_of(e[0])
            return False
    if length < 8 * next_depth + 8:
        count[0] = sum_below(n, v6, tag_of(e[0]) == TAG_FULL, byte_at(hi, lo, next_depth), length - 8 * next_depth)
        return False
    at = find(n, v6, tag_of(e[0]) == TAG_FULL, byte_at(hi, lo, next_depth))
    if at == NULL:
        return False
    e[0] = acquire64(at)
    depth[0] += 1
    return True


cdef inline u32 count_prefix(const Arena *a, bint v6, u64 hi, u64 lo, int length) noexcept nogil:
    """Sessions below a prefix. O(length), also while a writer changes what it reads, and in damaged bytes."""
    cdef u32 reach = reach_of(a), count = 0
    cdef u64 e = acquire64(&header(a).root[v6])
    cdef int depth = 0
    while length > 8 * depth:
        if not go_down(a, v6, hi, lo, length, reach, &e, &depth, &count):
            return count
    return count_of(e)


cdef inline u32 bound_prefix(const Arena *a, bint v6, u64 hi, u64 lo, int length, u32 enough) noexcept nogil:
    """As `count_prefix`, until a prefix around it has at most `enough` sessions: then so many."""
    cdef u32 reach = reach_of(a), count = 0
    cdef u64 e = acquire64(&header(a).root[v6])
    cdef int depth = 0
    while length > 8 * depth and count_of(e) > enough:
        if not go_down(a, v6, hi, lo, length, reach, &e, &depth, &count):
            return count
    return count_of(e)


cdef inline void retire(Retired *r, int kind, u32 unit) noexcept nogil:
    """Notes a block of size class `kind` that is to be freed after the write window."""
    r.unit[r.count] = unit
    r.size_class[r.count] = <u8>kind
    r.count += 1


cdef inline void retire_node(Retired *r, Arena *a, Node *n, bint v6) noexcept nogil:
    if n.grade <= GRADE_FULL:  # else another process wrote there: the block is lost
        retire(r, size_class(n.grade, v6), handle(a, n) & BODY)


cdef inline void release_all(Arena *a, Retired *r) noexcept nogil:
    cdef int i
    for i in range(r.count):
        if r.unit[i] < a.bump:  # else another process wrote there, and the block was never handed out
            release(a, r.size_class[i], r.unit[i])
    r.count = 0


cdef inline u64 other_child(Node *n, bint v6, u64 *but) noexcept nogil:
    """The first entry of a node that is not at `but`, or 0 (only in a damaged node)."""
    cdef u64 *entries = entries_of(n, v6, n.grade & 7)
    cdef u64 used = n.used
    cdef int i
    if n.grade == GRADE_FULL:
        for i in range(256):
            if entries[i] and entries + i != but:
                return entries[i]
        return 0
    while used:
        i = ctz64(used)
        if entries + i != but:
            return entries[i]
        used &= used - 1
    return 0


cdef inline u32 fork_host(Arena *a, bint v6, u64 e, u64 hi, u64 lo, u32 n, Retired *r) noexcept nogil:
    """Makes a node over the host of `e` and a new host; 0 if the arena is full."""
    cdef Key k = host_of(a, v6, e, hi, lo)
    cdef int depth = first_difference(k.hi, k.lo, hi, lo) >> 3
    cdef u32 mine = new_host(a, v6, depth + 1, hi, lo)
    cdef u32 theirs = child_of(e)
    cdef Node *fresh = new_node(a, v6, 0, depth, hi, lo) if mine else NULL
    if fresh == NULL:
        if mine and mine >> TAG_SHIFT == TAG_LEAF:
            release(a, LEAF_CLASS, mine & BODY)
        return 0
    if tag_of(e) == TAG_LEAF and fits_suffix(v6, depth + 1):
        theirs = new_host(a, v6, depth + 1, k.hi, k.lo)
        retire(r, LEAF_CLASS, unit_of(e))
    put(fresh, v6, byte_at(k.hi, k.lo, depth), entry(theirs, count_of(e)))
    put(fresh, v6, byte_at(hi, lo, depth), entry(mine, n))
    return handle(a, fresh)


cdef inline u32 fork_path(Arena *a, bint v6, u64 e, u64 hi, u64 lo, u32 n, Retired *r) noexcept nogil:
    """Makes a node over the node of `e` and a new host that is not on its path; 0 if the arena is full."""
    cdef Node *below = <Node *>block(a, unit_of(e))
    cdef Key k = path_of(below, v6)
    cdef int depth = first_difference(k.hi, k.lo, hi, lo) >> 3
    cdef u32 mine = new_host(a, v6, depth + 1, hi, lo)
    cdef Node *fresh = new_node(a, v6, 0, depth, hi, lo) if mine else NULL
    if fresh == NULL:
        if mine and mine >> TAG_SHIFT == TAG_LEAF:
            release(a, LEAF_CLASS, mine & BODY)
        return 0
    if below.live == 1 and fits_suffix(v6, depth + 1):  # invariant 3: now the entry above can hold the only child
        retire_node(r, a, below, v6)
        e = entry(child_of(other_child(below, v6, NULL)), count_of(e))
    put(fresh, v6, byte_at(k.hi, k.lo, depth), e)
    put(fresh, v6, byte_at(hi, lo, depth), entry(mine, n))
    return handle(a, fresh)


cdef inline u32 grow(Arena *a, bint v6, Node *n, u8 byte, u64 e, Retired *r) noexcept nogil:
    """Makes a node of the next grade with one more slot; 0 if the arena is full, or another process wrote there."""
    cdef Key k = path_of(n, v6)
    cdef Node *fresh = new_node(a, v6, n.grade + 1, n.depth, k.hi, k.lo) if n.grade < GRADE_FULL else NULL
    if fresh == NULL:
        return 0
    copy_slots(n, fresh, v6, NULL)  # model: seqlock/build
    put(fresh, v6, byte, e)
    retire_node(r, a, n, v6)
    return handle(a, fresh)


cdef inline int insert(Arena *a, bint v6, u64 hi, u64 lo, u32 n, Path *path, Retired *r) noexcept nogil:
    """Makes and publishes what a new host needs after the last entry of its path. Returns OK; or FULL, unchanged."""
    cdef u64 *last = path.step[path.last].entry
    cdef u64 e = last[0]
    cdef u32 fresh, mine
    cdef Node *node
    cdef u8 byte
    if tag_of(e) == TAG_NONE:
        fresh = new_host(a, v6, 0, hi, lo)
    elif not is_node(e):
        fresh = fork_host(a, v6, e, hi, lo, n, r)
        if fresh and path.last and path.step[path.last].node.live == 1:
            # invariant 3: the only child becomes a node, which the entry above can hold itself
            retire_node(r, a, path.step[path.last].node, v6)
            path.last -= 1
            last = path.step[path.last].entry
    elif path.mismatch:
        fresh = fork_path(a, v6, e, hi, lo, n, r)
    else:
        node = <Node *>block(a, unit_of(e))
        byte = byte_at(hi, lo, node.depth)
        mine = new_host(a, v6, node.depth + 1, hi, lo)
        if mine == 0:
            return FULL
        # In damaged bytes the new host's block may be this node's, so its grade is bounded again.
        if node.live < SLOTS[node.grade & 7]:
            write_open(&header(a).seq)
            put(node, v6, byte, entry(mine, n))
            return OK
        fresh = grow(a, v6, node, byte, entry(mine, n), r)
        if fresh == 0 and mine >> TAG_SHIFT == TAG_LEAF:
            release(a, LEAF_CLASS, mine & BODY)
    if fresh == 0:
        return FULL
    write_open(&header(a).seq)
    publish64(last, entry(fresh, count_of(e)))  # model: seqlock/publish
    return OK


cdef inline int add_in(Arena *a, bint v6, u64 hi, u64 lo, u32 n, Retired *r) noexcept nogil:
    """Adds `n` sessions of a host. Returns OK, and the write window is open; or a code, and nothing is changed."""
    cdef Path path
    if count_of(header(a).root[v6]) > <u32>0xFFFFFFFF - n:
        return OVERFLOW
    descend(a, v6, hi, lo, &path)
    if path.damaged:
        return DAMAGED
    if path.found:
        write_open(&header(a).seq)
    elif insert(a, v6, hi, lo, n, &path, r) != OK:
        return FULL
    else:
        store64(&header(a).hosts[v6], header(a).hosts[v6] + 1)
    shift_counts(&path, v6, hi, lo, path.last, n)
    return OK


cdef inline u32 without(Arena *a, bint v6, Node *n, u64 *gone, int depth_above) noexcept nogil:
    """What replaces a node without the slot at `gone`: its only other child, a smaller node, or 0 (the node stays)."""
    cdef u64 survivor
    cdef Node *fresh
    cdef Key k
    cdef int left = n.live - 1
    if left == 1:
        survivor = other_child(n, v6, gone)
        return 0 if tag_of(survivor) == TAG_SUFFIX and not fits_suffix(v6, depth_above) else child_of(survivor)
    if n.grade == 0 or left > SHRINK_TO[n.grade - 1]:
        return 0
    k = path_of(n, v6)
    fresh = new_node(a, v6, n.grade - 1, n.depth, k.hi, k.lo)
    if fresh == NULL:
        return 0  # a full arena: the node stays as large as it is
    copy_slots(n, fresh, v6, gone)
    return handle(a, fresh)


cdef inline void cut(Arena *a, bint v6, u64 hi, u64 lo, u32 n, Path *path, int at, Retired *r) noexcept nogil:
    """Removes step `at` and all below it, which is a single host with `n` sessions, and its count from those above."""
    cdef Step *s = &path.step[at]
    cdef Step *above
    cdef u64 e = path.step[path.last].entry[0]
    cdef u32 fresh
    cdef int i
    if tag_of(e) == TAG_LEAF:
        retire(r, LEAF_CLASS, unit_of(e))
    for i in range(at + 1, path.last + 1):
        retire_node(r, a, path.step[i].node, v6)
    if at == 0:
        write_open(&header(a).seq)
        store64(s.entry, 0)
        return
    above = &path.step[at - 1]
    fresh = without(a, v6, s.node, s.entry, above.depth)
    write_open(&header(a).seq)
    # First the counts: a host that takes the place of the node takes over the count of the entry above.
    shift_counts(path, v6, hi, lo, at - 1, -<u64>n)
    if fresh == 0:
        erase(s.node, v6, byte_at(hi, lo, s.depth - 1), s.entry)
    else:
        # Of a move: the window was opened before `fresh` was built.
        publish64(above.entry, entry(fresh, count_of(above.entry[0])))
        retire_node(r, a, s.node, v6)


cdef inline int remove_in(Arena *a, bint v6, u64 hi, u64 lo, u32 n, Retired *r) noexcept nogil:
    """Removes `n` sessions of a host. Returns OK, and the write window is open; or UNMATCHED if it has fewer."""
    cdef Path path
    cdef int at
    descend(a, v6, hi, lo, &path)
    at = path.last
    if path.damaged:
        return DAMAGED
    if not path.found or count_of(path.step[at].entry[0]) < n:
        return UNMATCHED
    if count_of(path.step[at].entry[0]) > n:
        write_open(&header(a).seq)
        shift_counts(&path, v6, hi, lo, at, -<u64>n)
        return OK
    # Entries that count this host alone go with it: its own, and those of a one-child node (invariant 3).
    while at > 0 and count_of(path.step[at - 1].entry[0]) == n:
        at -= 1
    cut(a, v6, hi, lo, n, &path, at, r)
    store64(&header(a).hosts[v6], header(a).hosts[v6] - 1)
    return OK


cdef inline int close_change(Arena *a, int code, Retired *r) noexcept nogil:
    """Closes the write window of a change that succeeded, and frees what it retired. Returns `code`."""
    if code == OK:
        write_close(&header(a).seq)
    release_all(a, r)  # model: seqlock/free
    if code == OK and (header(a).root[0] | header(a).root[1]) == 0:
        arena_reset(a)
    return code


cdef inline int trie_add(Arena *a, const Address *host, u32 n) noexcept nogil:
    """Adds `n` sessions. Returns OK; or a code, and the tree is unchanged. O(bytes of the address)."""
    cdef Retired r
    r.count = 0
    if host.version == 4:
        return close_change(a, add_in(a, False, host.hi, host.lo, n, &r), &r)
    return close_change(a, add_in(a, True, host.hi, host.lo, n, &r), &r)


cdef inline int trie_remove(Arena *a, const Address *host, u32 n) noexcept nogil:
    """Removes `n` sessions. Returns OK; or a code (never FULL), and the tree is unchanged. O(bytes of the address)."""
    cdef Retired r
    r.count = 0
    if host.version == 4:
        return close_change(a, remove_in(a, False, host.hi, host.lo, n, &r), &r)
    return close_change(a, remove_in(a, True, host.hi, host.lo, n, &r), &r)


cdef inline int trie_move(Arena *a, const Address *source, const Address *target, u32 n) noexcept nogil:
    """Moves `n` sessions, in one step for readers. Returns OK; or a code, and the tree is unchanged."""
    cdef Retired r
    cdef int code
    r.count = 0
    code = add_in(a, target.version == 6, target.hi, target.lo, n, &r)
    if code != OK:
        return close_change(a, code, &r)
    write_step(&header(a).seq)
    code = remove_in(a, source.version == 6, source.hi, source.lo, n, &r)
    if code != OK:
        remove_in(a, target.version == 6, target.hi, target.lo, n, &r)
        close_change(a, OK, &r)
        return code
    return close_change(a, OK, &r)


cdef inline u32 trie_count(const Arena *a, const Address *address, int length) noexcept nogil:
    """Sessions below a prefix. The caller follows the protocol of `seqlock`. O(length)."""
    if address.version == 4:
        return count_prefix(a, False, address.hi, address.lo, length)
    return count_prefix(a, True, address.hi, address.lo, length)


cdef inline u32 trie_bound(const Arena *a, const Address *address, int length, u32 enough) noexcept nogil:
    """At least the sessions below a prefix: exactly so many if the result is more than `enough`. As `trie_count`."""
    if address.version == 4:
        return bound_prefix(a, False, address.hi, address.lo, length, enough)
    return bound_prefix(a, True, address.hi, address.lo, length, enough)
