"""Long walks over a sum of trees: the rows of the compressed tree, and the largest prefixes.

A walk never stops a writer. It is made of short reads, each exact as of its moment: "the first host at or after this
address" and "what lies below this prefix". So a walk is weakly consistent: each row was true at some moment of the
walk, a host that is there all the time is found exactly once, and rows need not add up while sessions open and close.

A walk needs to know where the trees branch inside a prefix: the common bits of all hosts in the prefix are the next row
of the (binary) compressed tree, and it branches after them. One way down each tree says that, and the count.

Damaged bytes of another owner's file could lead in a circle. A walk that finds more rows than the memory of all its
trees can hold ends with DAMAGED.

Lock rule: none.
"""

from libc.stdint cimport int64_t
from libc.stdlib cimport free, realloc

from inbound_audit._core.address cimport Address, compare, first_difference, mask, next_address, width
from inbound_audit._core.bits cimport u32, u64, high_bits, load32, load64, pause
from inbound_audit._core.codes cimport DAMAGED, FULL, OK
from inbound_audit._core.layout cimport header
from inbound_audit._core.model cimport Tree, load_tree
from inbound_audit._core.prefix cimport Prefix
from inbound_audit._core.seek cimport Branch, branch_below, seek_host
from inbound_audit._core.seqlock cimport BESIDE_UPDATE, EXACT, READ_TRIES, read_begin, read_end
from inbound_audit._core.sums cimport tree_count, whole_family

cdef enum:
    MAX_OPEN = 130      # prefixes that wait in a walk: one per bit of the address, and one
    ROWS_FREE = 65536   # rows before the first check of the budget

cdef struct Row:
    Prefix prefix
    int64_t count
    bint whole          # top: the prefix has the requested length
    u32 spot            # picture: the number of its spot

cdef struct Rows:
    Row *row
    size_t size
    size_t room
    u64 found           # rows of the whole walk
    u64 checked         # the value of `found` at the last check of the budget
    u64 budget          # the largest number of rows that was possible at any check


cdef inline int append(Rows *rows, const Row *row) noexcept nogil:
    """Returns OK, or FULL if there is no memory. Amortized O(1)."""
    cdef size_t room = rows.room
    cdef Row *more
    if rows.size == room:
        room = 2 * room + 64
        more = <Row *>realloc(rows.row, room * sizeof(Row))
        if more == NULL:
            return FULL
        rows.row = more
        rows.room = room
    rows.row[rows.size] = row[0]
    rows.size += 1
    return OK


cdef inline bint within_row_budget(Tree *t, Rows *rows) noexcept nogil:
    """Counts a row. Returns False if there are more rows than the memory of the trees can hold. Amortized O(1)."""
    cdef u64 budget = 0, units
    rows.found += 1
    if rows.found < 2 * rows.checked + ROWS_FREE:
        return True
    rows.checked = rows.found
    while t != NULL:
        # At most two hosts per unit, and as many branches as hosts; twice that, because the tree may grow meanwhile.
        units = load64(&t.max_units)
        budget += 8 * (units if units else load32(&t.arena.bump))
        t = load_tree(&t.next)
    if budget > rows.budget:
        rows.budget = budget
    return rows.found <= rows.budget + ROWS_FREE


# ---- hosts, and where a prefix branches

cdef inline bint tree_seek(Tree *t, bint v6, const Address *start, int up, Address *out) noexcept nogil:
    """The nearest host of one tree: `seek_host` under the protocol of `seqlock`."""
    cdef u64 *seq = &header(&t.arena).seq
    cdef u64 began
    cdef bint found = False
    cdef int attempt
    for attempt in range(READ_TRIES):
        began = read_begin(seq)
        found = seek_host(&t.arena, v6, start, up, out)
        if read_end(seq, began, &t.stalled, attempt) == EXACT:
            break
        pause()
    # Damaged bytes may lead backwards, and the walk would not end.
    return found and compare(out.hi, out.lo, start.hi, start.lo, 128) * up >= 0


cdef inline bint tree_branch(Tree *t, const Prefix *p, Branch *out) noexcept nogil:
    """What one tree has below a prefix, as of one moment as in `tree_count`. Returns False if that is nothing."""
    cdef u64 *seq = &header(&t.arena).seq
    cdef u64 began
    cdef Branch sound
    cdef bint found = False, stood = False, sound_found = False
    cdef int attempt, worth
    for attempt in range(READ_TRIES):
        began = read_begin(seq)
        found = branch_below(&t.arena, p, out)
        worth = read_end(seq, began, &t.stalled, attempt)
        if worth == EXACT:
            return found
        if worth == BESIDE_UPDATE:
            sound, sound_found, stood = out[0], found, True
        pause()
    if stood:
        out[0] = sound
        return sound_found
    return found


cdef inline void join(Branch *all, const Branch *more, bint first) noexcept nogil:
    """Adds what another tree has; `first`: there was none before."""
    cdef const Address *a = &all.prefix.address
    cdef const Address *b = &more.prefix.address
    cdef int length = more.prefix.length
    if first:
        all[0] = more[0]
        return
    if a.hi != b.hi or a.lo != b.lo:
        length = min(length, first_difference(a.hi, a.lo, b.hi, b.lo))
    all.prefix.length = min(length, all.prefix.length)
    mask(&all.prefix.address, all.prefix.length)
    all.count += more.count


cdef inline bint trees_branch(Tree *t, const Prefix *p, Branch *out) noexcept nogil:
    """What the trees from `t` on have below a prefix. Returns False if that is nothing. O(trees)."""
    cdef Branch branch
    cdef bint found = False
    while t != NULL:
        if tree_branch(t, p, &branch):
            join(out, &branch, not found)
            found = True
        t = load_tree(&t.next)
    return found


cdef inline Prefix half(const Prefix *p, bint upper) noexcept nogil:
    """The lower or upper half of a prefix that is not a host."""
    cdef Prefix h = p[0]
    h.length += 1
    if upper and p.length < 64:
        h.address.hi |= (<u64>1 << 63) >> p.length
    elif upper:
        h.address.lo |= (<u64>1 << 63) >> (p.length - 64)
    return h


# ---- the rows of the compressed tree

cdef inline int walk_tree(Tree *t, int version, Rows *rows) noexcept nogil:
    """Branching prefixes and hosts in address order, a prefix before its hosts. Returns OK, FULL or DAMAGED.

    O(hosts x bytes of the address).
    """
    cdef Prefix open[MAX_OPEN]
    cdef Branch branch
    cdef Row row
    cdef int waiting = 1
    row.whole = False
    whole_family(version, &open[0])
    while waiting:
        waiting -= 1
        if not trees_branch(t, &open[waiting], &branch):
            continue
        row.prefix, row.count = branch.prefix, branch.count
        if append(rows, &row) != OK:
            return FULL
        if not within_row_budget(t, rows):
            return DAMAGED
        if row.prefix.length < width(version):
            open[waiting] = half(&row.prefix, True)
            open[waiting + 1] = half(&row.prefix, False)
            waiting += 2
    return OK


# ---- the hosts of one tree

cdef inline int walk_hosts(Tree *t, int version, Rows *rows) noexcept nogil:
    """Every host of a family with its count, in address order. Returns OK, FULL or DAMAGED.

    O(hosts x bytes of the address).
    """
    cdef Address start
    cdef Prefix all
    cdef Row row
    whole_family(version, &all)
    start = all.address
    row.whole = True
    row.prefix.length = width(version)
    while tree_seek(t, version == 6, &start, 1, &row.prefix.address):
        row.count = tree_count(t, &row.prefix)
        start = row.prefix.address
        if row.count and append(rows, &row) != OK:
            return FULL
        if not within_row_budget(t, rows):
            return DAMAGED
        if not next_address(&start):
            break
    return OK


# ---- the largest prefixes: best first, from a heap of prefixes that may be opened

cdef inline bint comes_first(const Row *a, const Row *b) noexcept nogil:
    """The larger count, and of equal counts the lower address, IPv4 first."""
    if a.count != b.count:
        return a.count > b.count
    if a.prefix.address.version != b.prefix.address.version:
        return a.prefix.address.version < b.prefix.address.version
    if a.prefix.address.hi != b.prefix.address.hi:
        return a.prefix.address.hi < b.prefix.address.hi
    return a.prefix.address.lo < b.prefix.address.lo


cdef inline void sift_up(Rows *heap, size_t at) noexcept nogil:
    cdef Row row = heap.row[at]
    while at and comes_first(&row, &heap.row[(at - 1) // 2]):
        heap.row[at] = heap.row[(at - 1) // 2]
        at = (at - 1) // 2
    heap.row[at] = row


cdef inline Row pop(Rows *heap) noexcept nogil:
    """Removes the largest row of a heap that is not empty."""
    cdef Row top = heap.row[0]
    cdef Row row
    cdef size_t at = 0, child
    heap.size -= 1
    row = heap.row[heap.size]
    while 2 * at + 1 < heap.size:
        child = 2 * at + 1
        if child + 1 < heap.size and comes_first(&heap.row[child + 1], &heap.row[child]):
            child += 1
        if not comes_first(&heap.row[child], &row):
            break
        heap.row[at] = heap.row[child]
        at = child
    heap.row[at] = row
    return top


cdef inline int push(Tree *t, Prefix p, const int *length, Rows *heap) noexcept nogil:
    """Narrows a prefix, at most to the requested length, and puts it on the heap unless it is empty. OK or a code."""
    cdef Branch branch
    cdef Row row
    cdef int want = length[p.address.version == 6]
    if want < 0 or not trees_branch(t, &p, &branch):
        return OK
    row.prefix, row.count = branch.prefix, branch.count
    row.whole = row.prefix.length >= want
    if row.whole:
        row.prefix.length = want
        mask(&row.prefix.address, want)
    if append(heap, &row) != OK:
        return FULL
    if not within_row_budget(t, heap):
        return DAMAGED
    sift_up(heap, heap.size - 1)
    return OK


cdef inline int walk_top(
    Tree *t, size_t n, const int *length, int64_t least, Rows *heap, Rows *rows
) noexcept nogil:
    """The `n` largest prefixes of length[0] (IPv4) and length[1] (IPv6) bits that have a count of `least` or more; a
    negative length skips the family.

    A prefix is opened only while it is the largest one left, so a prefix that is smaller than the n-th row, or than
    `least`, is never opened. Of equal counts the lower address comes first: an unopened prefix is compared by its first
    address.
    Returns OK, FULL or DAMAGED.
    """
    cdef Prefix p
    cdef Row row
    cdef int version, i, code
    for version in range(4, 7, 2):
        whole_family(version, &p)
        code = push(t, p, length, heap)
        if code != OK:
            return code
    while heap.size and rows.size < n:
        row = pop(heap)
        if row.count < least:
            break
        if row.whole:
            if append(rows, &row) != OK:
                return FULL
            continue
        for i in range(2):
            code = push(t, half(&row.prefix, i == 1), length, heap)
            if code != OK:
                return code
    return OK


cdef inline void free_rows(Rows *rows) noexcept nogil:
    free(rows.row)
    rows.row = NULL
    rows.size = 0
    rows.room = 0
