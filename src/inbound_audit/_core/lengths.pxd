"""Counts of one address at several prefix lengths, in one walk per tree.

All prefixes of an address lie on one path from the root. An entry on it counts the sessions of all longer prefixes too,
so it is a bound of each of their counts: the walk ends where everything that is still asked is within its maximum.

Lock rule: none; each tree is read by the protocol of `seqlock`.
"""

from libc.stdint cimport int64_t

from inbound_audit._core.address cimport Address
from inbound_audit._core.bits cimport u32, u64, acquire64
from inbound_audit._core.layout cimport Arena, header, reach_of
from inbound_audit._core.model cimport Tree, load_tree
from inbound_audit._core.node cimport count_of
from inbound_audit._core.seqlock cimport EXACT, read_begin, read_end
from inbound_audit._core.trie cimport go_down

cdef enum:
    MAX_TOGETHER = 16           # lengths that one walk answers
    NO_LIMIT = 0x7FFFFFFF       # no limit is passed

# How many sessions a limit allows in the prefix of one length.
cdef struct LengthLimit:
    int length
    int limit                   # its number
    int64_t maximum


cdef inline void bound_path(
    const Arena *a, const Address *peer, const LengthLimit *asked, int n, bint goes_on, int64_t *left
) noexcept nogil:
    """Subtracts from `left`, or from the maximum if it does not go on with what another tree has left, per length a
    bound of the sessions below the prefix: exactly so many if there are more.

    The lengths ascend. The caller follows the protocol of `seqlock`. O(bytes of the address + n).
    """
    cdef bint v6 = peer.version == 6
    cdef u32 reach = reach_of(a), count = 0
    cdef u64 e = acquire64(&header(a).root[v6])
    cdef int depth = 0, next_depth, i = 0
    cdef int64_t most
    while i < n:
        most = left[i] if goes_on else asked[i].maximum
        if <int64_t>count_of(e) <= most or asked[i].length <= 8 * depth:
            count = count_of(e)
        else:
            next_depth = depth  # after a prefix that ends in this level, the next one begins here again
            if go_down(a, v6, peer.hi, peer.lo, asked[i].length, reach, &e, &next_depth, &count):
                depth = next_depth
                continue
        left[i] = most - count
        i += 1


cdef inline bint bound_tree(
    Tree *t, const Address *peer, const LengthLimit *asked, int n, bint goes_on, int64_t *left
) noexcept nogil:
    """`bound_path` of one tree as of one moment. False, and `left` is worth nothing: a writer changed it meanwhile."""
    cdef u64 *seq = &header(&t.arena).seq
    cdef u64 began = read_begin(seq)
    bound_path(&t.arena, peer, asked, n, goes_on, left)
    return read_end(seq, began, &t.stalled, 0) == EXACT


cdef inline int first_over(
    Tree *first, const Address *peer, const LengthLimit *asked, size_t n, int after, bint *sure
) noexcept nogil:
    """The number of the first limit above `after` that the sessions of some trees may be over; or NO_LIMIT.

    `sure` becomes False if they may be within it as well: if there are several trees, of which one may have fewer
    sessions than its bound, or if a writer changed one meanwhile. The lengths ascend. O(trees x (bytes of the address
    + n)).
    """
    cdef int64_t left[MAX_TOGETHER]
    cdef int found = NO_LIMIT, some, i
    cdef Tree *t
    while n and first != NULL:
        some = <int>n if n < MAX_TOGETHER else MAX_TOGETHER
        t = first
        while t != NULL:
            if not bound_tree(t, peer, asked, some, t != first, left):
                sure[0] = False
                return after + 1
            sure[0] = sure[0] and t == first
            t = load_tree(&t.next)
        for i in range(some):
            if left[i] < 0 and after < asked[i].limit < found:
                found = asked[i].limit
        asked += some
        n -= some
    return found
