"""A picture of a sum of trees: its heaviest prefixes of any length, down to a number of rows.

    The tree, compressed             5 rows                      3 rows
      10.0.0.0/8        9              10.0.0.0/8      9           10.0.0.0/8      9
        10.1.0.0/16     7                10.1.0.0/16   7             10.1.0.0/16   7
          10.1.2.3/32   4                  10.1.2.3    4             10.2.0.9/32   2
          10.1.2.4/32   3                  10.1.2.4    3
        10.2.0.9/32     2                10.2.0.9      2

The heaviest prefix that is not yet split is split into the two branches in which its sessions lie, until no row is
left for both. So a row is split whole or not at all, and what is not split is not heavier than what is. The cost
depends on the rows, not on the hosts.

It is weakly consistent, as each long walk is (room `walk`). Its rows add up all the same: a row is never less than the
rows inside it.

What is drawn is an array of parts: the trees of a service, or the windows of a series, of which each may have a
second tree that is subtracted. A prefix whose sum is not above zero has no row.

Damaged bytes of another owner's file can make wrong rows, never more rows than asked for, and no endless walk: each
step takes a prefix from the heap, and what it puts there is longer.

Lock rule: none. The trees of an audit live as long as it does.
"""

from libc.stdint cimport int64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcmp

from inbound_audit._core.address cimport width
from inbound_audit._core.bits cimport u32, u64, acquire64, fence_acquire, load64
from inbound_audit._core.clock cimport window_number
from inbound_audit._core.codes cimport FULL, OK
from inbound_audit._core.layout cimport header
from inbound_audit._core.model cimport SESSIONS, Ring, Series, Tree, load_ring, load_series, load_tree
from inbound_audit._core.prefix cimport Prefix
from inbound_audit._core.seek cimport Branch
from inbound_audit._core.sums cimport tree_count, whole_family
from inbound_audit._core.walk cimport Row, Rows, append, half, join, pop, sift_up, tree_branch
from inbound_audit._core.window cimport pair_sum, ring_now, slot_of

cdef enum:
    MAX_PICTURE_ROWS = 65536

cdef struct Part:
    Tree *added
    Tree *taken             # what is subtracted; NULL: nothing
    int64_t number          # the window that both must hold
    bint of_window          # False: a tree of sessions

cdef struct Parts:
    Part *part
    size_t size
    size_t room
    bint takes              # something is subtracted

cdef struct Spot:
    Prefix prefix
    int64_t count
    u32 inside[2]           # the spots of its branches; 0: none

cdef struct Picture:
    Parts parts
    Spot *spot              # a spot comes after the spot that it is in
    u32 size
    u32 room
    u32 families            # the first spots, one for each family that has sessions; they are in no other
    Rows heap               # the spots that are not split


# ---- what is drawn

cdef inline int add_part(Parts *parts, Tree *added, Tree *taken, bint of_window, int64_t number) noexcept nogil:
    """Returns OK, or FULL if there is no memory. Amortized O(1)."""
    cdef size_t room = 2 * parts.size + 16
    cdef Part *more
    if parts.size == parts.room:
        more = <Part *>realloc(parts.part, room * sizeof(Part))
        if more == NULL:
            return FULL
        parts.part = more
        parts.room = room
    parts.part[parts.size] = Part(added=added, taken=taken, number=number, of_window=of_window)
    parts.size += 1
    parts.takes = parts.takes or taken != NULL
    return OK


cdef inline bint is_of_listener(const Tree *t, const char *name, size_t size) noexcept nogil:
    return t.label.kind == SESSIONS and t.label.listener_size == size and memcmp(t.label.listener, name, size) == 0


cdef inline int add_trees(Parts *parts, Tree *t, const char *listener, size_t size) noexcept nogil:
    """The trees from `t` on; `listener` not NULL: those of listeners with that name. OK or FULL. O(trees)."""
    cdef int code = OK
    while t != NULL and code == OK:
        if listener == NULL or is_of_listener(t, listener, size):
            code = add_part(parts, t, NULL, False, 0)
        t = load_tree(&t.next)
    return code


cdef inline int add_rings(Parts *parts, Series *s, int64_t now, int64_t first, int64_t last) noexcept nogil:
    """Windows `first` to `last` of all rings (0 is the current one), at `now` in microseconds. OK or FULL.

    O(rings x windows).
    """
    cdef Ring *r = load_ring(&s.first)
    cdef Tree *added
    cdef int64_t number = 0, v
    cdef u32 at
    cdef int code = OK
    while r != NULL and code == OK:
        if ring_now(r, window_number(now, s.interval), &number):
            for v in range(first, last + 1):
                at = 2 * slot_of(number - v, s.slots)
                added = load_tree(&r.tree[at])
                if added == NULL or load64(<u64 *>&header(&added.arena).number) != <u64>(number - v):
                    continue  # the slot holds a window that is out of view
                if code == OK:
                    code = add_part(parts, added, load_tree(&r.tree[at + 1]), True, number - v)
        r = load_ring(&r.next)
    return code


cdef inline int add_windows(Parts *parts, Series *s, int64_t now, int64_t first, int64_t last) noexcept nogil:
    """As `add_rings`, with what the other nodes of the cluster recorded."""
    cdef Series *remote = load_series(&s.remote)
    cdef int code = add_rings(parts, s, now, first, last)
    if code == OK and remote != NULL:
        code = add_rings(parts, remote, now, first, last)
    return code


cdef inline bint part_branch(const Part *part, const Prefix *p, Branch *out) noexcept nogil:
    """What was added to a part below a prefix. Returns False if that is nothing, or another window by now."""
    cdef u64 *held = <u64 *>&header(&part.added.arena).number
    if not part.of_window:
        return tree_branch(part.added, p, out)
    if acquire64(held) != <u64>part.number or not tree_branch(part.added, p, out):
        return False
    fence_acquire()
    return load64(held) == <u64>part.number


cdef inline bint parts_branch(const Parts *parts, const Prefix *p, Branch *out) noexcept nogil:
    """The longest prefix inside `p` that holds the same hosts, and its sum. Returns False if there is no host.

    O(parts x bytes of the address).
    """
    cdef const Part *part
    cdef Branch branch
    cdef bint found = False
    cdef size_t i
    for i in range(parts.size):
        part = &parts.part[i]
        if part_branch(part, p, &branch):
            branch.count = 0 if part.taken != NULL else branch.count
            join(out, &branch, not found)
            found = True
    if not found:
        return False
    for i in range(parts.size if parts.takes else 0):
        part = &parts.part[i]
        if part.taken != NULL:  # of one moment with what was added, and of the hosts that were added alone
            out.count += pair_sum(part.added, part.taken, part.number, &out.prefix, NULL, 0)
    return True


# ---- spots

cdef inline int add_spot(Picture *pic, const Prefix *p, u32 *number) noexcept nogil:
    """Makes what lies below a prefix a row that may be split; `number` is 0 if its sum is not above zero.

    Returns OK, or FULL if there is no memory. O(parts x bytes of the address + log rows).
    """
    cdef u32 room = 2 * pic.size + 64
    cdef Spot *more
    cdef Branch branch
    cdef Row row
    number[0] = 0
    if not parts_branch(&pic.parts, p, &branch) or branch.count <= 0:
        return OK
    if pic.size == pic.room:
        more = <Spot *>realloc(pic.spot, room * sizeof(Spot))
        if more == NULL:
            return FULL
        pic.spot = more
        pic.room = room
    more = &pic.spot[pic.size]
    more.prefix, more.count = branch.prefix, branch.count
    more.inside[0] = more.inside[1] = 0
    row.prefix, row.count, row.spot, row.whole = branch.prefix, branch.count, pic.size, False
    if append(&pic.heap, &row) != OK:
        return FULL
    sift_up(&pic.heap, pic.heap.size - 1)
    number[0] = pic.size
    pic.size += 1
    return OK


cdef inline int split(Picture *pic, u32 number) noexcept nogil:
    """Adds the branches of a spot that is no host. Returns OK or FULL."""
    cdef Prefix whole = pic.spot[number].prefix, branch
    cdef u32 inside
    cdef int code = OK, upper
    for upper in range(2):
        branch = half(&whole, upper)
        if code == OK:
            code = add_spot(pic, &branch, &inside)
            pic.spot[number].inside[upper] = inside
    return code


cdef inline void add_up(Picture *pic) noexcept nogil:
    """A spot is never less than what is inside it: sessions that opened during the walk are in the branches alone."""
    cdef u32 i = pic.size, k
    cdef int64_t inside
    while i > 0:
        i -= 1
        inside = 0
        for k in range(2):
            if pic.spot[i].inside[k]:
                inside += pic.spot[pic.spot[i].inside[k]].count
        if pic.spot[i].count < inside:
            pic.spot[i].count = inside


cdef inline int draw(Picture *pic, u32 rows, const Prefix *within) noexcept nogil:
    """Fills an empty picture of `pic.parts` with at most `rows` spots, `MAX_PICTURE_ROWS` or fewer. OK or FULL.

    `within`: of what lies in that prefix; NULL: of all.

    O(rows x parts x bytes of the address + rows x log rows).
    """
    cdef Prefix all
    cdef Row heaviest
    cdef u32 number
    cdef int version, code = OK
    for version in range(4, 7, 2):
        whole_family(version, &all)
        if within != NULL:
            if within.address.version != version:
                continue
            all = within[0]
        if code == OK and pic.size < rows:
            code = add_spot(pic, &all, &number)
    pic.families = pic.size
    while code == OK and pic.heap.size and pic.size + 2 <= rows:
        heaviest = pop(&pic.heap)
        if heaviest.prefix.length < width(heaviest.prefix.address.version):
            code = split(pic, heaviest.spot)
    add_up(pic)
    return code


# ---- the rows of a picture in other parts

cdef struct CountedRow:
    Prefix prefix
    int64_t count
    int64_t seen            # of one part
    int parent              # a row before it, in which it is; -1: none

cdef inline int64_t part_count(const Part *part, const Prefix *p) noexcept nogil:
    if part.of_window:
        return pair_sum(part.added, part.taken, part.number, p, NULL, 0)
    return tree_count(part.added, p)


cdef inline void count_rows(const Parts *parts, CountedRow *row, size_t rows) noexcept nogil:
    """Adds to each row what the parts have in it. A part that has nothing in a row is not asked about those inside it.

    O(parts x rows x bytes of the address).
    """
    cdef size_t i, k
    for i in range(parts.size):
        for k in range(rows):
            if row[k].parent >= 0 and row[row[k].parent].seen == 0:
                row[k].seen = 0
                continue
            row[k].seen = part_count(&parts.part[i], &row[k].prefix)
            row[k].count += row[k].seen


cdef inline void free_picture(Picture *pic) noexcept nogil:
    free(pic.parts.part)
    free(pic.spot)
    free(pic.heap.row)
