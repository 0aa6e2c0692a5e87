"""How full a limit is: its prefixes by what it counts in them, the fullest first, and how much is over it.

A limit counts in no prefix more than in one around it, whatever it leaves out (other networks, exempt prefixes, what
was long ago). So the fullest prefix is looked into first, until it has the limit's own length: no other has more. A
prefix that is not fuller than the last row is never looked into; where very many are alike, that may be all the same
very many, so the walk has a bound, and says if it has come to it.

What is asked is counted by the limit's own code, with the prefix in place of the one that it has for a client.

Lock rule: none. It reads as the walks do (room `walk`).
"""

from libc.stdint cimport int64_t
from libc.stdlib cimport free

from inbound_audit._core.address cimport mask
from inbound_audit._core.bits cimport u32, u64, acquire32
from inbound_audit._core.codes cimport FULL, OK
from inbound_audit._core.limits cimport (
    CLUSTER_TIMED_PREFIX_LIMIT, TIMED_PREFIX_LIMIT, Limit, LimitSet, count_over_time, is_of_open_prefix, is_of_prefix,
    limited_count, trees_of_limit,
)
from inbound_audit._core.model cimport Owner, Series, Tree, ia_ac, load_ring
from inbound_audit._core.picture cimport Parts, add_rings, add_trees, add_windows, parts_branch
from inbound_audit._core.prefix cimport Prefix
from inbound_audit._core.ranges cimport Ranges, lookup
from inbound_audit._core.seek cimport Branch
from inbound_audit._core.sliding cimport Parts as Sums, Span, sliding_count, span_until
from inbound_audit._core.sums cimport whole_family
from inbound_audit._core.walk cimport Row, Rows, append, comes_first, half, pop, sift_up

cdef enum:
    NOW = -1                # in place of the number of a window

cdef struct Fill:
    const LimitSet *set
    const Ranges *listed    # IPv4, IPv6: the listed prefixes
    Limit limit             # a copy, whose lengths are those of the prefix that is counted
    int want[2]             # the limit's own lengths
    int table
    Tree place              # of the client: its service and its owner; it holds nothing
    ia_ac client            # stands in the prefix that is counted
    Series *events          # of a limit over time; NULL: no monitor has them
    Span span
    int64_t now
    int64_t window          # NOW, or a window of the monitor: what was recorded in it
    Parts seen              # where there are hosts
    # what was found
    Rows heap               # prefixes that may be looked into
    Rows rows               # of the limit's length, the fullest first
    int64_t over            # sessions or events beyond the maximum, in all prefixes that were found
    bint ended              # the bound has ended the walk: there may be more


cdef inline Series *next_monitor(const Limit *limit, Owner *o, u32 *after) noexcept nogil:
    """The events of a limit over time, of a monitor that any process has: the first one from number `after` on, which
    is moved behind it; NULL: no further one. O(series)."""
    cdef Series *s
    while after[0] < acquire32(&o.series_known):
        s = o.series[after[0]]
        after[0] += 1
        if s.scope == <u32>limit.event and s.interval == limit.interval and s.slots > 1 and load_ring(&s.first) != NULL:
            return s
    return NULL


cdef inline Series *longest_monitor(const Limit *limit, Owner *o) noexcept nogil:
    """Of these the one with the most windows."""
    cdef u32 at = 0
    cdef Series *found = NULL
    cdef Series *s = next_monitor(limit, o, &at)
    while s != NULL:
        if found == NULL or s.slots > found.slots:
            found = s
        s = next_monitor(limit, o, &at)
    return found


cdef inline int begin_fill(Fill *f, Owner *o, int service, int number) noexcept nogil:
    """Of limit `number`. `f` is zeroed but for `set`, `listed`, `events`, `now` and `window`. OK or FULL. O(trees)."""
    cdef int64_t first, last
    f.limit = f.set.limit[number]
    f.want[0], f.want[1] = f.limit.length[0], f.limit.length[1]
    while not f.set.table[f.table].first <= <size_t>number < f.set.table[f.table].end:
        f.table += 1
    f.place.owner, f.place.service = o, service
    f.client.tree, f.client.version = &f.place, 4
    if f.limit.kind < TIMED_PREFIX_LIMIT:
        return add_trees(&f.seen, trees_of_limit(&f.limit, &f.client), NULL, 0)
    if f.events == NULL:
        return OK
    span_until(f.events, f.now, &f.span)
    first, last = max(f.window, 0), f.window if f.window != NOW else 1
    if f.limit.kind >= CLUSTER_TIMED_PREFIX_LIMIT:
        return add_windows(&f.seen, f.events, f.now, first, last)
    return add_rings(&f.seen, f.events, f.now, first, last)


cdef inline bint counts_all(const Fill *f) noexcept nogil:
    """All that `seen` has in a prefix counts in it."""
    return f.window != NOW or (is_of_open_prefix(&f.limit) and f.set.nodes == 0)


cdef inline int64_t fill_of(Fill *f, const Prefix *p) noexcept nogil:
    """What the limit counts in a prefix of any length; of a limit of a whole network, in all of it."""
    cdef bint v6 = p.address.version == 6
    cdef Branch branch
    cdef int node
    cdef Sums sums
    if counts_all(f):
        return branch.count if parts_branch(&f.seen, p, &branch) else 0
    f.client.hi, f.client.lo, f.client.version = p.address.hi, p.address.lo, p.address.version
    f.limit.length[v6] = p.length
    node = lookup(&f.listed[v6], p.address.hi, p.address.lo)
    if f.limit.kind < TIMED_PREFIX_LIMIT:
        return limited_count(f.set, &f.limit, f.table, node, &f.client, f.now)
    if f.events == NULL:
        return 0
    count_over_time(f.set, &f.limit, f.table, node, &f.client, f.events, &f.span, &sums)
    return sliding_count(&sums, &f.span)


cdef inline int look_into(Fill *f, Prefix p) noexcept nogil:
    """Puts a prefix on the heap, as short as its hosts allow and at most as long as the limit's. OK or FULL."""
    cdef Branch branch
    cdef Row row
    cdef int want = f.want[p.address.version == 6]
    if want < 0 or not parts_branch(&f.seen, &p, &branch):
        return OK
    row.prefix, row.count, row.spot = branch.prefix, branch.count, 0
    row.whole = row.prefix.length >= want
    if row.whole:
        row.prefix.length = want
        mask(&row.prefix.address, want)
    if not counts_all(f):
        row.count = fill_of(f, &row.prefix)
    if row.count <= 0:
        return OK
    if append(&f.heap, &row) != OK:
        return FULL
    sift_up(&f.heap, f.heap.size - 1)
    return OK


cdef inline int look_below(Fill *f, const Row *row) noexcept nogil:
    cdef int code = look_into(f, half(&row.prefix, False))
    return code if code != OK else look_into(f, half(&row.prefix, True))


cdef inline int take_row(Fill *f, const Row *row, size_t most) noexcept nogil:
    if row.count > f.limit.maximum:
        f.over += row.count - f.limit.maximum
    return append(&f.rows, row) if f.rows.size < most else OK


cdef inline int descend_to_row(Fill *f, Row row, size_t most) noexcept nogil:
    """Down the fuller half of each prefix, to one of the limit's length: full, and perhaps not the fullest. It empties
    the heap."""
    cdef int code = OK
    while code == OK and not row.whole:
        f.heap.size = 0
        code = look_below(f, &row)
        if f.heap.size == 0:
            return code  # the hosts have gone meanwhile
        row = pop(&f.heap)
    return take_row(f, &row, most) if code == OK else code


cdef inline int fill_rows(Fill *f, size_t most, u64 steps, bint all_over) noexcept nogil:
    """The `most` fullest prefixes; `all_over`: and what is over the limit in all prefixes. It looks into `steps`
    prefixes at most. A limit of a whole network has one row, of any prefix. OK or FULL.

    O(steps x parts x bytes of the address).
    """
    cdef Prefix all
    cdef Row row
    cdef int version, code = OK
    if not (is_of_open_prefix(&f.limit) or is_of_prefix(&f.limit)):
        whole_family(6, &row.prefix)
        row.count, row.whole, row.spot = fill_of(f, &row.prefix) if counts_all(f) else 0, True, 0
        whole_family(4, &row.prefix)
        row.count += fill_of(f, &row.prefix)
        return take_row(f, &row, most)
    for version in range(4, 7, 2):
        whole_family(version, &all)
        if code == OK:
            code = look_into(f, all)
    while code == OK and f.heap.size:
        if f.rows.size >= most and not (all_over and f.heap.row[0].count > f.limit.maximum):
            break
        row = pop(&f.heap)
        if row.whole:
            code = take_row(f, &row, most)
        elif steps == 0:
            f.ended = True
            return OK if f.rows.size else descend_to_row(f, row, most)
        else:
            steps -= 1
            code = look_below(f, &row)
    return code


cdef inline int prefer(Fill *f, const Prefix *p) noexcept nogil:
    """A prefix of the limit's length that may be fuller than the first row, where the bound has ended the walk. OK or
    FULL."""
    cdef Row row
    row.prefix, row.whole, row.spot = p[0], True, 0
    if not f.ended or p.length != f.want[p.address.version == 6]:
        return OK
    row.count = fill_of(f, p)
    if row.count <= 0:
        return OK
    if f.rows.size == 0:
        return append(&f.rows, &row)
    if comes_first(&row, &f.rows.row[0]):
        f.rows.row[0] = row
    return OK


cdef inline void free_fill(Fill *f) noexcept nogil:
    free(f.seen.part)
    free(f.heap.row)
    free(f.rows.row)
