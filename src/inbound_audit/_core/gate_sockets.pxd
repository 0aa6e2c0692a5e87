"""What a lane waits on: its epoll, the listening sockets, and a spare descriptor for the time when none is left.

    listening sockets   the gate's descriptors, which all lanes share --+
    queue               that it is lost, or that the lane is to end ----+--> epoll of the lane --> run_lane
    drained sockets     the lane's ------------------------------------+

Other code may close each of them, and get its number. What is lost is made anew: a descriptor of a listening socket as
a copy of the caller's, if the caller has it still; an epoll with all that the lane watches. If a number can't be taken
out of an epoll, because it is lost, the epoll is *stale*, and made anew, too: it would report that socket for ever.

Lock rule: the caller holds `Lane.lock`. A lane's descriptors change under its `hands`; those of listening sockets under
`hands` of the gate's first lane.
"""

from libc.errno cimport EBADF
from libc.stdint cimport int64_t

from inbound_audit._core.bits cimport u32, u64, fetch_add64, load32, load64, store32, store64
from inbound_audit._core.gate_drain cimport end_all_drains
from inbound_audit._core.gate_model cimport (
    END, FIRST_DRAINED, FIRST_SOCKET, Gate, Lane, Listening, add_one, monotonic_ms, unwatch, watch,
)
from inbound_audit._core.gate_queue cimport check_queue, lock_mutex, unlock_mutex
from inbound_audit._core.own_socket cimport (
    OwnSocket, close_file, close_socket, is_own, is_same, own, read_inode, second_descriptor,
)

cdef extern from "inbound_audit/_core/gate.h":
    int open_epoll "ia_epoll"() noexcept nogil
    int mark_epoll "ia_mark_epoll"(int) noexcept nogil
    bint is_epoll_of "ia_is_epoll_of"(int, int) noexcept nogil
    int watch_end "ia_watch_end"(int, int, u64) noexcept nogil
    int limit_accept "ia_limit_accept"(int, int64_t *) noexcept nogil
    void unlimit_accept "ia_unlimit_accept"(int, int64_t) noexcept nogil

cdef enum:
    CHECK_MS = 1000             # between two checks of what no event reports


cdef inline void note_failure(Lane *lane, u64 *counter, int error) noexcept nogil:
    store32(&lane.error, <u32>error)
    add_one(counter)


# ---- the spare descriptor

cdef inline bint take_spare(Lane *lane) noexcept nogil:
    cdef const OwnSocket *writes = &lane.gate.queue.writes
    lock_mutex(&lane.hands)
    if not is_own(&lane.spare):
        own(&lane.spare, second_descriptor(writes.fd) if is_own(writes) else -EBADF)
    unlock_mutex(&lane.hands)
    return lane.spare.fd >= 0


# ---- listening sockets

cdef inline int number_of(const Listening *s) noexcept nogil:
    return <int>load32(<const u32 *>&s.socket.fd)


cdef inline int open_listening(Listening *s) noexcept nogil:
    """Returns 0, or -errno."""
    cdef int code, fd = second_descriptor(s.given)
    if fd < 0:
        return fd
    code = read_inode(fd, &s.socket.inode)
    if code != 0:
        close_file(fd)
        return code
    store32(<u32 *>&s.socket.fd, <u32>fd)
    return 0


cdef inline int limit_time(Listening *s) noexcept nogil:
    """Gives `accept` a time, and keeps the caller's. Returns 0, or -errno."""
    cdef int64_t own_us = 0
    cdef int code = limit_accept(number_of(s), &own_us)
    if code == 1:
        store64(&s.own_us, <u64>own_us)
        store32(&s.is_limited, 1)
    return code if code < 0 else 0


cdef inline void end_listening(Listening *s, bint restore) noexcept nogil:
    """Closes the gate's descriptor. `restore`: the socket gets the caller's time again, if it was this gate that has
    set another one. Under the first lane's `hands`."""
    if restore and load32(&s.is_limited) and is_own(&s.socket):
        unlimit_accept(s.socket.fd, <int64_t>load64(&s.own_us))
    if is_own(&s.socket):
        close_file(s.socket.fd)
    store32(<u32 *>&s.socket.fd, <u32>-1)


cdef inline void leave_socket(Lane *lane, u32 i, int error) noexcept nogil:
    """This lane accepts from it no more. The last lane closes it."""
    cdef Listening *s = &lane.gate.listening[i]
    if not is_same(lane.watched[i], s.socket.inode) or unwatch(lane.epoll, lane.watched[i]) != 0:
        lane.is_stale = True
    lane.watched[i] = -1
    note_failure(lane, &lane.left, error)
    if fetch_add64(&s.lanes, <u64>-1) == 1:
        lock_mutex(&lane.gate.lane.hands)
        end_listening(s, True)
        unlock_mutex(&lane.gate.lane.hands)


cdef inline void take_anew(Gate *g, Listening *s) noexcept nogil:
    """Another descriptor of a socket that was lost. Without one it has none."""
    cdef int fd = -1
    lock_mutex(&g.lane.hands)
    if s.socket.fd >= 0 and not is_own(&s.socket):
        if is_same(s.given, s.socket.inode):
            fd = second_descriptor(s.given)
        if fd >= 0 and not is_same(fd, s.socket.inode):
            close_file(fd)  # the caller's number became another socket's in between
            fd = -1
        store32(<u32 *>&s.socket.fd, <u32>fd)
    unlock_mutex(&g.lane.hands)


cdef inline bint keeps_socket(Lane *lane, u32 i) noexcept nogil:
    """Whether the lane watches a descriptor of it that is the gate's. If not, its epoll is stale."""
    cdef Listening *s = &lane.gate.listening[i]
    if lane.watched[i] == number_of(s) and is_same(lane.watched[i], s.socket.inode):
        return True
    take_anew(lane.gate, s)
    lane.is_stale = True
    note_failure(lane, &lane.lost, EBADF)
    return False


cdef inline void check_socket(Lane *lane, u32 i) noexcept nogil:
    """Leaves a socket that its owner has closed, and limits the time of one for which other code has set another."""
    cdef Listening *s = &lane.gate.listening[i]
    if not is_same(s.given, s.socket.inode):
        leave_socket(lane, i, EBADF)
    elif keeps_socket(lane, i):
        limit_time(s)


# ---- the epoll

cdef inline bint has_epoll(const Lane *lane) noexcept nogil:
    """Whether its number is that of the lane's epoll still."""
    return lane.epoll >= 0 and is_epoll_of(lane.epoll, lane.task)


cdef inline void close_epoll(Lane *lane) noexcept nogil:
    """Under `hands`."""
    if has_epoll(lane):
        close_file(lane.epoll)
    lane.epoll = -1


cdef inline int watch_socket(Lane *lane, u32 i) noexcept nogil:
    """Returns 0, or -errno."""
    cdef int fd = number_of(&lane.gate.listening[i])
    cdef int code = watch(lane.epoll, fd, FIRST_SOCKET + i, lane.gate.lanes > 1)
    lane.watched[i] = fd if code == 0 else lane.watched[i]
    return code


cdef inline int fill_epoll(Lane *lane) noexcept nogil:
    """Watches all that the lane waits on. A listening socket that can't be watched is left. Returns 0, or -errno."""
    cdef u32 i
    cdef int code = watch_end(lane.epoll, lane.gate.queue.writes.fd, END)
    for i in range(lane.gate.sockets):
        if code == 0 and lane.watched[i] >= 0 and watch_socket(lane, i) != 0:
            leave_socket(lane, i, EBADF)
    i = lane.drained[0].newer
    while code == 0 and i != 0:
        if is_own(&lane.drained[i].socket):
            watch(lane.epoll, lane.drained[i].socket.fd, FIRST_DRAINED + i, False)
        i = lane.drained[i].newer
    return code


cdef inline int renew_epoll(Lane *lane) noexcept nogil:
    """Makes the epoll anew. Returns 0, or -errno: then it is made anew later."""
    cdef int code
    if not lane.is_stale:
        note_failure(lane, &lane.lost, EBADF)
    lane.is_stale = True
    lock_mutex(&lane.hands)
    close_epoll(lane)
    lane.epoll = open_epoll()
    lane.task = mark_epoll(lane.epoll) if lane.epoll >= 0 else 0
    unlock_mutex(&lane.hands)
    if lane.epoll < 0:
        return lane.epoll
    lane.is_stale = False
    code = fill_epoll(lane)
    lane.is_stale = lane.is_stale or code != 0
    return code


# ---- all of them

cdef inline int open_lane(Gate *g, Lane *lane) noexcept nogil:
    """Returns 0, or -errno. The epoll has no owner until the lane's thread runs."""
    cdef u32 i
    cdef int code
    lane.epoll = open_epoll()
    code = lane.epoll if lane.epoll < 0 else watch_end(lane.epoll, g.queue.writes.fd, END)
    for i in range(g.sockets):
        if code == 0:
            code = watch_socket(lane, i)
            g.listening[i].lanes += code == 0
    return code if code or take_spare(lane) else lane.spare.fd


cdef inline void close_lane(Lane *lane, bint abort) noexcept nogil:
    """Under `hands`, or in the child of a fork. The epoll goes first there: what it watches is the parent's."""
    if not abort:
        close_epoll(lane)
    end_all_drains(lane, abort)
    close_socket(&lane.spare)
    close_epoll(lane)


cdef inline void check_lane(Lane *lane) noexcept nogil:
    """Once per CHECK_MS: what no event reports."""
    cdef int64_t now = monotonic_ms()
    cdef u32 i
    if now - lane.checked_ms < CHECK_MS:
        return
    lane.checked_ms = now
    check_queue(&lane.gate.queue)
    if not is_own(&lane.spare):
        take_spare(lane)
    for i in range(lane.gate.sockets):
        if lane.watched[i] >= 0:
            check_socket(lane, i)
