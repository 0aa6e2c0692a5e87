"""Sliding sums: what was recorded in the last seconds, as many as a window has.

         window before            current window
    |------------------------|------------------|.......|
                      |----- span, as wide as a window -|
                                               now

Two windows have the sum, whatever the span: all of the current one, and of the one before the share that the span still
covers. That is exact if the events of the window before came evenly.

Lock rule: none.
"""

from libc.stdint cimport int64_t

from inbound_audit._core.bits cimport u32, u64, acquire64, load64, store64
from inbound_audit._core.clock cimport SECOND_US, window_number
from inbound_audit._core.layout cimport header
from inbound_audit._core.model cimport Ring, Series, Term, Tree, load_ring, load_tree
from inbound_audit._core.prefix cimport Prefix
from inbound_audit._core.sums cimport tree_bound
from inbound_audit._core.window cimport ring_now, slot_of, window_sum

cdef enum:
    MAX_BOUND = 0x7FFFFFFF  # of the count at which a walk ends early

# The seconds of one window up to now.
cdef struct Span:
    int64_t number      # of the window in which it ends, by the clock
    int64_t width_us
    int64_t left_us     # of the window before, which it covers

cdef struct Parts:
    int64_t whole       # what lies within the span
    int64_t before      # what was recorded in the window before, of which the span covers a share


cdef inline void span_until(Series *s, int64_t now, Span *out) noexcept nogil:
    """`now`: microseconds. Most often the window is that of the last call, which saves a division."""
    cdef int64_t number = <int64_t>load64(&s.asked), width_us = <int64_t>s.interval * SECOND_US
    if not 0 <= now - number * width_us < width_us:
        number = window_number(now, s.interval)
        store64(&s.asked, <u64>number)
    out.number = number
    out.width_us = width_us
    out.left_us = (number + 1) * width_us - now


cdef inline void add_parts(
    Series *s, const Span *span, const Prefix *p, const Term *term, size_t terms, Parts *out
) noexcept nogil:
    """Adds what all rings of a series have below a prefix, or of some terms (`window_sum`).

    If the clock was set back, the newest window of a ring is ahead of the clock and began long ago: then the window
    before it counts whole. With one window in view there is none before. O(rings x prefix length x (1 + terms)).
    """
    cdef Ring *r = load_ring(&s.first)
    cdef int64_t current = 0, before
    cdef Tree *head
    while r != NULL:
        head = load_tree(&r.tree[0])
        if head != NULL and ring_now(r, span.number, &current):
            out.whole += window_sum(r, current, p, term, terms)
            before = window_sum(r, current - 1, p, term, terms) if s.slots > 1 else 0
            if current == <int64_t>(<u64>span.number + load64(<u64 *>&header(&head.arena).base)):
                out.before += before
            else:
                out.whole += before
        r = load_ring(&r.next)


cdef inline int64_t left_of_window(Tree *t, int64_t number, const Prefix *p, int64_t left) noexcept nogil:
    """`left` less a bound of what was added below a prefix in a window: more is left than that if it is not negative.

    A tree that holds another window has nothing of this one. One that is emptied meanwhile has less than was read.
    """
    if t == NULL or left < 0 or acquire64(<u64 *>&header(&t.arena).number) != <u64>number:
        return left
    return left - tree_bound(t, p, <u32>(left if left < MAX_BOUND else MAX_BOUND))


cdef inline int64_t left_at_least(
    Series *s, const Span *span, const Prefix *p, int64_t maximum, bint *more
) noexcept nogil:
    """How many events more are surely within a maximum; negative: that takes exact counts, unless there are `more`.

    Most sessions are far below their limits, so that each walk ends early; or, under attack, one window alone has more
    than the maximum. The window before counts whole.
    """
    cdef Ring *r = load_ring(&s.first)
    cdef int64_t current = 0, left = maximum, after
    more[0] = False
    while r != NULL:
        if ring_now(r, span.number, &current):
            after = left_of_window(load_tree(&r.tree[2 * slot_of(current, s.slots)]), current, p, left)
            more[0] = more[0] or (left == maximum and after < 0)  # no bound has been subtracted before: it is exact
            left = left_of_window(load_tree(&r.tree[2 * slot_of(current - 1, s.slots)]), current - 1, p, after)
        r = load_ring(&r.next)
    return left


cdef inline int64_t sliding_count(const Parts *parts, const Span *span) noexcept nogil:
    """The share of the window before is rounded down: exact up to 2**53 microseconds x events, then to one event."""
    return parts.whole + <int64_t>(<double>parts.before * <double>span.left_us / <double>span.width_us)
