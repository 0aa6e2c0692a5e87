"""Sums over trees: of one tree, of a listener in all processes, of a service.

Lock rule: none; each tree is read by the protocol of `seqlock`.
"""

from libc.stdint cimport int64_t

from inbound_audit._core.address cimport Address
from inbound_audit._core.bits cimport u32, u64, pause
from inbound_audit._core.layout cimport Arena, header
from inbound_audit._core.model cimport Term, Tree, load_tree
from inbound_audit._core.prefix cimport Prefix
from inbound_audit._core.seqlock cimport BESIDE_UPDATE, EXACT, READ_TRIES, read_begin, read_end, read_stood
from inbound_audit._core.trees cimport service_trees
from inbound_audit._core.trie cimport trie_bound, trie_count


cdef inline int64_t sum_terms(const Arena *a, const Term *term, size_t terms) noexcept nogil:
    """The signed sum of the counts of some prefixes, in one walk each."""
    cdef Address address
    cdef int64_t total = 0
    cdef size_t i
    for i in range(terms):
        address.hi, address.lo, address.version = term[i].hi, term[i].lo, term[i].version
        total += term[i].sign * <int64_t>trie_count(a, &address, term[i].length)
    return total


cdef inline int64_t tree_count(Tree *t, const Prefix *p) noexcept nogil:
    """Sessions below a prefix in one tree, exact as of one moment.

    The room `seqlock` says what a stopped writer costs. If a writer overtakes all READ_TRIES walks, the result is that
    of the last walk, and of no one moment.
    """
    cdef u64 *seq = &header(&t.arena).seq
    cdef u64 began
    cdef u32 seen = 0, sound = 0
    cdef bint stood = False
    cdef int attempt, worth
    for attempt in range(READ_TRIES):
        began = read_begin(seq)
        seen = trie_count(&t.arena, &p.address, p.length)  # model: seqlock/walk
        worth = read_end(seq, began, &t.stalled, attempt)
        if worth == EXACT:
            return seen
        if worth == BESIDE_UPDATE:
            sound = seen
            stood = True
        pause()
    return sound if stood else seen  # model: seqlock/give_up


cdef inline int64_t tree_bound(Tree *t, const Prefix *p, u32 enough) noexcept nogil:
    """At least the sessions below a prefix in one tree: exactly so many if the result is more than `enough`.

    Beside a writer it is the count of `tree_count`.
    """
    cdef u64 *seq = &header(&t.arena).seq
    cdef u64 began = read_begin(seq)
    cdef u32 seen = trie_bound(&t.arena, &p.address, p.length, enough)
    if began & 1 == 0 and read_stood(seq, began):
        return seen
    return tree_count(t, p)


cdef inline int64_t tree_sum(Tree *t, const Prefix *p, const Term *term, size_t terms) noexcept nogil:
    """As `tree_count`, with the signed sum of some terms added; `p` may be NULL.

    Beside a writer that was stopped in mid-update, the sum may be off by that update in either direction.
    """
    cdef u64 *seq = &header(&t.arena).seq
    cdef u64 began
    cdef int64_t seen = 0, sound = 0
    cdef bint stood = False
    cdef int attempt, worth
    for attempt in range(READ_TRIES):
        began = read_begin(seq)
        seen = sum_terms(&t.arena, term, terms)
        if p != NULL:
            seen += trie_count(&t.arena, &p.address, p.length)
        worth = read_end(seq, began, &t.stalled, attempt)
        if worth == EXACT:
            return seen
        if worth == BESIDE_UPDATE:
            sound = seen
            stood = True
        pause()
    return sound if stood else seen


cdef inline int64_t sum_trees(Tree *t, const Prefix *p) noexcept nogil:
    """The sum over `t` and the trees after it in the list."""
    cdef int64_t total = 0
    while t != NULL:
        total += tree_count(t, p)  # model: owners/count
        t = load_tree(&t.next)
    return total


cdef inline int64_t listener_count(Tree *mine, const Prefix *p) noexcept nogil:
    """The sum over a listener: its tree, and in shared mode its trees in other processes."""
    cdef int64_t total = 0
    cdef Tree *t
    if not mine.owner.shared:
        return tree_count(mine, p)
    t = service_trees(mine.owner, mine.service)
    while t != NULL:
        if t.listener_id == mine.listener_id:
            total += tree_count(t, p)
        t = load_tree(&t.next)
    return total


cdef inline void whole_family(int version, Prefix *out) noexcept nogil:
    """The prefix of length 0."""
    out.address.hi = 0
    out.address.lo = 0
    out.address.version = version
    out.length = 0


cdef inline int64_t tree_total(Tree *t) noexcept nogil:
    """Sessions of one tree, both families."""
    cdef Prefix p4, p6
    whole_family(4, &p4)
    whole_family(6, &p6)
    return tree_count(t, &p4) + tree_count(t, &p6)


cdef inline int64_t listener_total(Tree *mine) noexcept nogil:
    """Sessions of a listener, both families; in shared mode of all processes."""
    cdef Prefix p4, p6
    whole_family(4, &p4)
    whole_family(6, &p6)
    return listener_count(mine, &p4) + listener_count(mine, &p6)


cdef inline int64_t total_trees(Tree *t) noexcept nogil:
    """Sessions of `t` and the trees after it in the list, both families."""
    cdef int64_t total = 0
    while t != NULL:
        total += tree_total(t)
        t = load_tree(&t.next)
    return total
