"""A lane: a thread that accepts, in batches, and waits. It never has the GIL, and allocates nothing.

A *batch* is what one listening socket gives at once, MAX_BATCH connections at the most. A lane that has no descriptor
left gives up its spare one, accepts with it, closes both, and takes the spare one again; without it, it rests.

Lock rule: `Lane.lock` is held for a batch, and for each change of what the lane waits on. Nothing is held while it
waits.
"""

from libc.errno cimport EAGAIN, EBADF, EINTR, EINVAL, EMFILE, ENFILE, ENOTSOCK
from libc.stdint cimport int64_t
from libc.string cimport memset

from inbound_audit._core.bits cimport u32, u64, acquire32, fetch_add64, load64, publish32, store32
from inbound_audit._core.gate_connection cimport Caller, is_forwarded, receive, send_away
from inbound_audit._core.gate_drain cimport drains, end_drains, go_on_draining
from inbound_audit._core.gate_model cimport (
    DRAIN_MS, END, FIRST_DRAINED, FIRST_SOCKET, Gate, Lane, Thread, monotonic_ms,
)
from inbound_audit._core.gate_queue cimport Connection, Mutex, is_lost, lock_mutex, set_news, unlock_mutex
from inbound_audit._core.gate_sockets cimport (
    CHECK_MS, check_lane, close_lane, has_epoll, keeps_socket, leave_socket, mark_epoll, note_failure,
    renew_epoll, take_spare,
)
from inbound_audit._core.own_socket cimport close_socket, is_own, put_byte
from inbound_audit._core.seqlock cimport sched_yield

cdef extern from "inbound_audit/_core/gate.h":
    ctypedef union EventData "epoll_data_t":
        u64 u64
    cdef struct Event "epoll_event":
        u32 events
        EventData data
    int wait_for_events "ia_wait"(int, Event *, int, int) noexcept nogil
    void rest "ia_rest"(int) noexcept nogil
    bint is_of_connection "ia_is_of_connection"(int) noexcept nogil
    void do_not_wait "ia_do_not_wait"(int) noexcept nogil
    int accept_connection "ia_accept"(int, bint, Caller *) noexcept nogil
    int start_thread "ia_start"(Thread *, void *(*)(void *) noexcept nogil, void *) noexcept nogil

cdef enum:
    MAX_BATCH = 64
    MAX_EVENTS = 64
    REST_MS = 50


# ---- a batch

cdef inline int accept_next(Lane *lane, int listening, bint with_spare, Caller *caller) noexcept nogil:
    """Accepts a connection into the lane's hand. Returns 0, or an error number."""
    cdef int error
    lock_mutex(&lane.hands)
    if with_spare:
        close_socket(&lane.spare)
    error = -accept_connection(listening, not is_forwarded(lane), caller)
    if error == 0:
        lane.hand = caller.fd
    unlock_mutex(&lane.hands)
    return error


cdef inline bint accept_without_room(Lane *lane, int listening, int error) noexcept nogil:
    """No descriptor is left: a connection gets the spare one, the reply of a server that is busy, and is closed. It
    is not counted. Returns whether there was one: `accept` fails for want of a descriptor also when none waits."""
    cdef Connection c
    cdef Caller caller
    cdef bint found = False
    if lane.spare.fd >= 0:
        found = accept_next(lane, listening, True, &caller) == 0
        if found:
            memset(&c.ac, 0, sizeof(c.ac))
            c.ac.version = 4
            send_away(lane, &lane.rules.busy, &c, NULL, 0, True)
    lane.rests = not take_spare(lane)
    if found or lane.rests:
        note_failure(lane, &lane.failures, error)
    return found


cdef inline bint goes_on(Lane *lane, u32 i, int error) noexcept nogil:
    """What becomes of a batch after `accept` has failed. Linux also reports what happened to a connection before."""
    if error == EAGAIN:
        return False
    if error == EINTR:
        return True
    if error == EBADF or error == EINVAL or error == ENOTSOCK:
        if keeps_socket(lane, i):
            leave_socket(lane, i, error)  # it was shut down
        return False
    if error == EMFILE or error == ENFILE:
        return accept_without_room(lane, lane.watched[i], error) and not lane.rests
    note_failure(lane, &lane.failures, error)
    lane.rests = not is_of_connection(error)  # no memory, or a rule of the system
    return not lane.rests


cdef inline void accept_batch(Lane *lane, u32 i) noexcept nogil:
    cdef Caller caller
    cdef int error, _n
    if not keeps_socket(lane, i):
        return
    do_not_wait(lane.watched[i])
    for _n in range(MAX_BATCH):
        error = accept_next(lane, lane.watched[i], False, &caller)
        if error == 0:
            receive(lane, &caller, <int64_t>load64(&lane.gate.listening[i].own_us))
        elif not goes_on(lane, i, error):
            return


# ---- a thread

# Between its batches a thread that works in batches (a lane, a mover of a forwarder) lets others have its lock, which
# `wanted` says, and begins none while another thread is about to fork, which `held` says.

cdef inline void lock_between(Mutex *lock, u64 *wanted) noexcept nogil:
    """For other threads: waits for a batch at most. A lock alone would go to the thread that has released it."""
    fetch_add64(wanted, 1)
    lock_mutex(lock)
    fetch_add64(wanted, <u64>-1)


cdef inline bint lock_for_batch(Mutex *lock, u64 *wanted, u64 *held, u32 *stops) noexcept nogil:
    """For the thread itself. False: it is to end, and has no lock."""
    while not acquire32(stops):
        while load64(wanted):
            sched_yield()
        lock_mutex(lock)
        if load64(held) == 0:
            return True
        unlock_mutex(lock)
        rest(1)
    return False


cdef inline int begin_thread(
    Thread *thread, void *(*run)(void *) noexcept nogil, void *given, u32 *begun
) noexcept nogil:
    """Starts a thread, and waits until it has begun: a fork does not find its epoll before. Returns 0, or -errno."""
    cdef int code = start_thread(thread, run, given)
    while code == 0 and not acquire32(begun):
        sched_yield()
    return code


cdef inline void lock_lane(Lane *lane) noexcept nogil:
    lock_between(&lane.lock, &lane.wanted)


cdef inline bint begin_batch(Lane *lane) noexcept nogil:
    return lock_for_batch(&lane.lock, &lane.wanted, &lane.gate.held, &lane.gate.stops)


cdef inline void serve_event(Lane *lane, u64 number) noexcept nogil:
    if not begin_batch(lane):
        return
    if number == END:
        store32(&lane.gate.queue.lost, 1)  # the gate does not stop, so the stream has ended
    elif number >= FIRST_DRAINED:
        go_on_draining(lane, <u32>(number - FIRST_DRAINED))
    elif lane.watched[number - FIRST_SOCKET] >= 0:
        accept_batch(lane, <u32>(number - FIRST_SOCKET))
    unlock_mutex(&lane.lock)


cdef inline void serve_time(Lane *lane) noexcept nogil:
    """What is due at some time: once per batch, and each second."""
    if not begin_batch(lane):
        return
    if drains(lane):
        end_drains(lane, monotonic_ms())
    check_lane(lane)
    unlock_mutex(&lane.lock)


cdef inline int wait_for_work(Lane *lane, Event *event) noexcept nogil:
    """Returns how many events there are, or -errno."""
    cdef int code = 0
    if lane.is_stale or not has_epoll(lane):
        if not begin_batch(lane):
            return 0
        code = renew_epoll(lane)
        unlock_mutex(&lane.lock)
    if code != 0 or acquire32(&lane.gate.stops):  # a thread that stops the gate wakes the epoll that was there before
        return code
    return wait_for_events(lane.epoll, event, MAX_EVENTS, DRAIN_MS // 4 if drains(lane) else CHECK_MS)


cdef inline u64 news_of(Gate *g) noexcept nogil:
    """Grows with each event that Python may have to report."""
    cdef u64 n = 0
    cdef u32 i
    for i in range(g.lanes):
        n += load64(&g.lane[i].refused) + load64(&g.lane[i].failures)
        n += load64(&g.lane[i].left) + load64(&g.lane[i].lost)
        n += load64(&g.lane[i].queue_full) + load64(&g.lane[i].uncounted)
    return n


cdef inline void begin_lane(Lane *lane) noexcept nogil:
    lock_mutex(&lane.hands)
    lane.task = mark_epoll(lane.epoll)
    unlock_mutex(&lane.hands)
    publish32(&lane.begun, 1)


cdef inline void end_lane(Lane *lane) noexcept nogil:
    """Closes what the lane waits on. If the queue is lost, a copy of `reads` becomes readable: by a byte, or by the end
    of the stream, of which the last lane's spare descriptor is the last that writes."""
    lock_mutex(&lane.hands)
    close_lane(lane, True)
    unlock_mutex(&lane.hands)
    if is_lost(&lane.gate.queue) and is_own(&lane.gate.queue.writes):
        put_byte(lane.gate.queue.writes.fd)


cdef inline void *run_lane(void *given) noexcept nogil:
    """The thread of a lane, until the gate stops or its queue is lost."""
    cdef Lane *lane = <Lane *>given
    cdef Gate *g = lane.gate
    cdef Event event[MAX_EVENTS]
    cdef int64_t said_ms = 0
    cdef int found, i
    begin_lane(lane)
    while not (acquire32(&g.stops) or is_lost(&g.queue)):
        found = wait_for_work(lane, event)
        if found < 0 and found != -EINTR:
            note_failure(lane, &lane.failures, -found)
            lane.rests = True
        for i in range(found):
            serve_event(lane, event[i].data.u64)
        serve_time(lane)
        if monotonic_ms() - said_ms >= CHECK_MS and news_of(g) != load64(&g.noted):
            said_ms = monotonic_ms()
            set_news(&g.queue, True)
        if lane.rests:
            lane.rests = False
            rest(REST_MS)
    end_lane(lane)
    return NULL
