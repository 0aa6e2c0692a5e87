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

from inbound_audit._core.address cimport Address, compare, first_difference, mask, width
from inbound_audit._core.bits cimport u32, u64, load64
from inbound_audit._core.clock cimport window_number
from inbound_audit._core.codes cimport FULL, OK
from inbound_audit._core.layout cimport header
from inbound_audit._core.model cimport SESSIONS, Ring, Series, Tree, load_ring, load_series, load_tree
from inbound_audit._core.prefix cimport Prefix
from inbound_audit._core.sums cimport tree_count, whole_family
from inbound_audit._core.walk cimport Row, Rows, append, half, last_of, pop, sift_up, tree_seek
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

cdef struct Spot:
    Prefix prefix
    Address first           # the first and the last host in it, as they were found
    Address last
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


cdef inline int64_t parts_count(const Parts *parts, const Prefix *p) noexcept nogil:
    """The sum below a prefix. O(parts x prefix length)."""
    cdef int64_t total = 0
    cdef const Part *part
    cdef size_t i
    for i in range(parts.size):
        part = &parts.part[i]
        if part.of_window:
            total += pair_sum(part.added, part.taken, part.number, p, NULL, 0)
        else:
            total += tree_count(part.added, p)
    return total


cdef inline bint parts_seek(const Parts *parts, const Address *start, int up, Address *out) noexcept nogil:
    """The nearest host at or beyond `start` in any of the parts. O(parts x bytes of the address)."""
    cdef Address host
    cdef bint found = False
    cdef size_t i
    for i in range(parts.size):
        if tree_seek(parts.part[i].added, start.version == 6, start, up, &host):
            if not found or compare(host.hi, host.lo, out.hi, out.lo, 128) * up < 0:
                out[0] = host
            found = True
    return found


# ---- spots

cdef inline bint narrow_parts(
    const Parts *parts, const Prefix *p, const Address *first, const Address *last, Spot *out
) noexcept nogil:
    """The longest prefix inside `p` that holds the same hosts, and the first and last of them. Returns False if there
    is none.

    `first` and `last` are the first and last host in `p` where they are known, else NULL. A host that has gone since
    makes the result shorter than it could be.
    """
    cdef Address end = last_of(p)
    cdef int length
    out.first = p.address
    if first != NULL:
        out.first = first[0]
    elif not parts_seek(parts, &p.address, 1, &out.first):
        return False
    if compare(out.first.hi, out.first.lo, p.address.hi, p.address.lo, p.length) != 0:
        return False  # the host lies after the prefix, or the bytes are damaged
    out.last = out.first
    if last != NULL:
        out.last = last[0]
    elif not parts_seek(parts, &end, -1, &out.last):
        return False
    if compare(out.last.hi, out.last.lo, out.first.hi, out.first.lo, 128) <= 0:
        out.last = out.first  # the last host has gone meanwhile
        length = width(p.address.version)
    else:
        length = first_difference(out.first.hi, out.first.lo, out.last.hi, out.last.lo)
    out.prefix.address = out.first
    out.prefix.length = length if length > p.length else p.length
    mask(&out.prefix.address, out.prefix.length)
    return True


cdef inline bint look_at(
    const Parts *parts, const Prefix *p, const Address *first, const Address *last, Spot *out
) noexcept nogil:
    """As `narrow_parts`, with the sum. Returns False if that is not above zero."""
    if not narrow_parts(parts, p, first, last, out):
        return False
    out.count = parts_count(parts, &out.prefix)
    out.inside[0] = out.inside[1] = 0
    return out.count > 0


cdef inline int add_spot(Picture *pic, const Spot *spot, u32 *number) noexcept nogil:
    """Makes it a row that may be split. Returns OK, or FULL if there is no memory. O(log rows)."""
    cdef u32 room = 2 * pic.size + 64
    cdef Spot *more
    cdef Row row
    if pic.size == pic.room:
        more = <Spot *>realloc(pic.spot, room * sizeof(Spot))
        if more == NULL:
            return FULL
        pic.spot = more
        pic.room = room
    pic.spot[pic.size] = spot[0]
    row.prefix, row.count, row.spot, row.whole = spot.prefix, spot.count, pic.size, False
    if append(&pic.heap, &row) != OK:
        return FULL
    sift_up(&pic.heap, pic.heap.size - 1)
    number[0] = pic.size
    pic.size += 1
    return OK


cdef inline int split(Picture *pic, u32 number) noexcept nogil:
    """Adds the branches of a spot that is no host. Returns OK or FULL."""
    cdef Spot whole = pic.spot[number]  # a copy: the array may move
    cdef Prefix lower = half(&whole.prefix, False), upper = half(&whole.prefix, True)
    cdef Spot branch
    cdef u32 inside = 0
    cdef int code = OK
    if look_at(&pic.parts, &lower, &whole.first, NULL, &branch):
        code = add_spot(pic, &branch, &inside)
        pic.spot[number].inside[0] = inside
    inside = 0
    if code == OK and look_at(&pic.parts, &upper, NULL, &whole.last, &branch):
        code = add_spot(pic, &branch, &inside)
        pic.spot[number].inside[1] = inside
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
    cdef Spot family
    cdef Prefix all
    cdef Row heaviest
    cdef u32 number = 0
    cdef int version, code = OK
    for version in range(4, 7, 2):
        whole_family(version, &all)
        if within != NULL:
            if within.address.version != version:
                continue
            all = within[0]
        if code == OK and pic.size < rows and look_at(&pic.parts, &all, NULL, NULL, &family):
            code = add_spot(pic, &family, &number)
    pic.families = pic.size
    while code == OK and pic.heap.size and pic.size + 2 <= rows:
        heaviest = pop(&pic.heap)
        if heaviest.prefix.length < width(heaviest.prefix.address.version):
            code = split(pic, heaviest.spot)
    add_up(pic)
    return code


cdef inline void free_picture(Picture *pic) noexcept nogil:
    free(pic.parts.part)
    free(pic.spot)
    free(pic.heap.row)
