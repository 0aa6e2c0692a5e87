"""Refused connections whose socket is not closed yet: *drained*, so that the peer can read its reply.

    place 0 <--> oldest <--> ... <--> newest <--> place 0           free --> place --> place --> 0

A drained socket is closed once its peer has closed, or after DRAIN_MS. A lane drains MAX_DRAINED at once: one more
resets the oldest. A place is free again as soon as its socket is closed, so slow peers wait beside quick ones.

Lock rule: the caller holds `Lane.lock`. A socket comes into the ring, and leaves it, under `Lane.hands`.
"""

from libc.stdint cimport int64_t

from inbound_audit._core.bits cimport u32
from inbound_audit._core.gate_model cimport (
    DRAIN_MS, FIRST_DRAINED, MAX_DRAINED, Drained, Lane, add_one, monotonic_ms, unwatch, watch,
)
from inbound_audit._core.gate_queue cimport lock_mutex, unlock_mutex
from inbound_audit._core.own_socket cimport close_file, close_socket, is_own, own

cdef extern from "inbound_audit/_core/gate.h":
    void abort_on_close "ia_abort_on_close"(int, bint) noexcept nogil
    void end_stream "ia_end_stream"(int) noexcept nogil
    bint read_away "ia_read_away"(int) noexcept nogil


cdef inline void make_places(Lane *lane) noexcept nogil:
    cdef u32 at
    for at in range(1, <u32>MAX_DRAINED):
        lane.drained[at].newer = at + 1
    lane.free = 1


cdef inline bint drains(const Lane *lane) noexcept nogil:
    return lane.drained[0].newer != 0


cdef inline void close_hand(Lane *lane) noexcept nogil:
    """Closes the connection that the lane has in its hand."""
    lock_mutex(&lane.hands)
    close_file(lane.hand)
    lane.hand = -1
    unlock_mutex(&lane.hands)


cdef inline void end_drain(Lane *lane, u32 at, bint abort) noexcept nogil:
    """Closes a drained socket, and frees its place. Under `hands`. O(1)."""
    cdef Drained *place = &lane.drained[at]
    if is_own(&place.socket):
        unwatch(lane.epoll, place.socket.fd)
        if abort:
            abort_on_close(place.socket.fd, True)
    else:
        add_one(&lane.lost)
        lane.is_stale = True
    close_socket(&place.socket)
    lane.drained[place.older].newer = place.newer
    lane.drained[place.newer].older = place.older
    place.newer, lane.free = lane.free, at


cdef inline void end_drains(Lane *lane, int64_t now) noexcept nogil:
    """Closes the drained sockets whose time is over."""
    lock_mutex(&lane.hands)
    while drains(lane) and lane.drained[lane.drained[0].newer].until_ms <= now:
        end_drain(lane, lane.drained[0].newer, False)
    unlock_mutex(&lane.hands)


cdef inline void end_all_drains(Lane *lane, bint abort) noexcept nogil:
    """Under `hands`."""
    while drains(lane):
        end_drain(lane, lane.drained[0].newer, abort)


cdef inline void go_on_draining(Lane *lane, u32 at) noexcept nogil:
    """Something has come, or the peer has closed."""
    cdef Drained *place = &lane.drained[at]
    if place.socket.fd >= 0 and (not is_own(&place.socket) or read_away(place.socket.fd)):
        lock_mutex(&lane.hands)
        end_drain(lane, at, False)
        unlock_mutex(&lane.hands)


cdef inline bint add_drained(Lane *lane) noexcept nogil:
    """Puts the connection that the lane has in its hand among those that are drained. False: it can't be watched."""
    cdef Drained *place
    cdef u32 at
    cdef bint is_watched
    lock_mutex(&lane.hands)
    if lane.free == 0:
        end_drain(lane, lane.drained[0].newer, True)
    at = lane.free
    is_watched = watch(lane.epoll, lane.hand, FIRST_DRAINED + at, False) == 0
    if is_watched:
        place = &lane.drained[at]
        own(&place.socket, lane.hand)
        lane.hand, lane.free = -1, place.newer
        place.until_ms = monotonic_ms() + DRAIN_MS
        place.older, place.newer = lane.drained[0].older, 0
        lane.drained[place.older].newer = at
        lane.drained[0].older = at
    unlock_mutex(&lane.hands)
    return is_watched


cdef inline void drain(Lane *lane) noexcept nogil:
    """Closes the connection in the lane's hand once its peer has closed, or after DRAIN_MS: a reset would take the
    reply from a peer that has sent something that was not read."""
    end_stream(lane.hand)
    if read_away(lane.hand) or not add_drained(lane):
        close_hand(lane)
