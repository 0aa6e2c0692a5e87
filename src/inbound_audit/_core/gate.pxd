"""The gate: threads that accept, count, ask the limits and refuse. They never have the GIL, and allocate nothing.

     listening sockets --> accept --> count in the listener's tree --> ask the limits
                                                                         |       |
                                     Python <-- queue (bounded) <-- stays        is over, or the queue is full:
                                                                                 reply, close, count taken back

    thread 1, 2, ...  a *lane* each: an epoll of its own over all listening sockets, its rules, what it drains

What holds between two batches:
  * a descriptor that was accepted is in one place: in the queue, among the drained sockets of a lane, with Python, or
    closed; so each is closed once.
  * a session that the gate counted is in the queue or with Python. That of a refused connection was taken back.
  * opened = accepted + refused + queue_full, and accepted = taken + waiting.

A *batch* is what one listening socket gives at once, MAX_BATCH connections at the most. A lane that has no descriptor
left gives up its spare one, accepts with it, closes both, and takes the spare one again; without it, it rests.

Lock rule: `Lane.lock` is held for a batch. Under it the rules are exchanged, and each descriptor is in its place: a
fork waits for the locks of all lanes. The tree is changed under its writer lock, as by `Session`. The queue has a lock
of its own, which is taken last. No lock is held across a call that waits. A clock that is Python's takes the GIL, so
Python waits for `Lane.lock` without the GIL.
"""

from libc.errno cimport EAGAIN, EBADF, EINTR, EINVAL, EMFILE, ENFILE, ENOTSOCK
from libc.stdint cimport int64_t
from libc.string cimport memset

from inbound_audit._core.bits cimport u32, u64, acquire32, fetch_add64, load64, publish32, store32
from inbound_audit._core.gate_connection cimport (
    DRAIN_MS, FIRST_DRAINED, FIRST_SOCKET, Caller, Gate, Lane, Listening, Rules, Thread, add_one, close_oldest,
    end_drains, go_on_draining, monotonic_ms, receive, send_away, unwatch, watch,
)
from inbound_audit._core.gate_queue cimport (
    Connection, close_file, end_queue, init_mutex, lock_mutex, open_event, open_queue, pop, set_event, set_news,
    unlock_mutex,
)
from inbound_audit._core.seqlock cimport sched_yield

cdef extern from "inbound_audit/_core/gate.h":
    ctypedef union EventData "epoll_data_t":
        u64 u64
    cdef struct Event "epoll_event":
        EventData data
    int second_descriptor "ia_second"(int) noexcept nogil
    u64 inode_of "ia_inode"(int) noexcept nogil
    int open_epoll "ia_epoll"() noexcept nogil
    int wait_for_events "ia_wait"(int, Event *, int, int) noexcept nogil
    int wait_for "ia_wait_for"(int, int) noexcept nogil
    bint is_of_connection "ia_is_of_connection"(int) noexcept nogil
    void do_not_wait "ia_do_not_wait"(int) noexcept nogil
    int accept_connection "ia_accept"(int, Caller *) noexcept nogil
    int start_thread "ia_start"(Thread *, void *(*)(void *) noexcept nogil, void *) noexcept nogil

cdef extern from "<pthread.h>":
    int join_thread "pthread_join"(Thread, void **) noexcept nogil
    Thread this_thread "pthread_self"() noexcept nogil
    bint same_thread "pthread_equal"(Thread, Thread) noexcept nogil

cdef enum:
    MAX_BATCH = 64
    MAX_LANES = 64
    MAX_EVENTS = 64
    REST_MS = 50
    CHECK_MS = 1000             # between two checks whether a listening socket is still the one that it was
    STOP = 0                    # the number of the event that ends the threads


# ---- listening sockets

cdef inline void note_failure(Lane *lane, u64 *counter, int error) noexcept nogil:
    store32(&lane.error, <u32>error)
    add_one(counter)


cdef inline void close_own(int *fd) noexcept nogil:
    """Closes a descriptor if it is open, once."""
    if fd[0] >= 0:
        close_file(fd[0])
    fd[0] = -1


cdef inline void leave_socket(Lane *lane, u32 i) noexcept nogil:
    """This lane accepts from it no more. The last lane closes it, unless other code has closed it."""
    cdef Listening *s = &lane.gate.listening[i]
    lane.has[i] = False
    unwatch(lane.epoll, s.fd)
    if fetch_add64(&s.lanes, <u64>-1) == 1:
        if inode_of(s.fd) == s.inode:
            close_file(s.fd)
        s.fd = -1


cdef inline void check_sockets(Lane *lane) noexcept nogil:
    """Leaves listening sockets that their owner has closed."""
    cdef Listening *s
    cdef int64_t now = monotonic_ms()
    cdef u32 i
    if now - lane.checked_ms < CHECK_MS:
        return
    lane.checked_ms = now
    for i in range(lane.gate.sockets):
        s = &lane.gate.listening[i]
        if lane.has[i] and (inode_of(s.given) != s.inode or inode_of(s.fd) != s.inode):
            note_failure(lane, &lane.left, EBADF)
            leave_socket(lane, i)


cdef inline bint take_spare(Lane *lane) noexcept nogil:
    if lane.spare < 0:
        lane.spare = second_descriptor(lane.gate.stop)
    return lane.spare >= 0


cdef inline bint accept_without_room(Lane *lane, int listening, int error) noexcept nogil:
    """No descriptor is left: a connection gets the spare one, the reply of a server that is busy, and is closed. It
    is not counted. Returns whether there was one: `accept` fails for want of a descriptor also when none waits."""
    cdef Connection c
    cdef Caller caller
    cdef bint found = False
    if lane.spare >= 0:
        close_own(&lane.spare)
        found = accept_connection(listening, &caller) == 0
        if found:
            memset(&c.ac, 0, sizeof(c.ac))
            c.fd, c.ac.version = caller.fd, 4
            send_away(lane.gate, NULL, &lane.rules.busy, &c, NULL, 0)
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
        note_failure(lane, &lane.left, error)
        leave_socket(lane, i)
        return False
    if error == EMFILE or error == ENFILE:
        return accept_without_room(lane, lane.gate.listening[i].fd, error) and not lane.rests
    note_failure(lane, &lane.failures, error)
    lane.rests = not is_of_connection(error)  # no memory, or a rule of the system
    return not lane.rests


cdef inline void accept_batch(Lane *lane, u32 i) noexcept nogil:
    cdef Caller caller
    cdef int error, _n
    do_not_wait(lane.gate.listening[i].fd)
    for _n in range(MAX_BATCH):
        error = -accept_connection(lane.gate.listening[i].fd, &caller)
        if error == 0:
            receive(lane, &caller)
        elif not goes_on(lane, i, error):
            return


# ---- a thread

cdef inline void lock_lane(Lane *lane) noexcept nogil:
    """For other threads: waits for a batch at most. A lock alone would go to the thread that has released it."""
    fetch_add64(&lane.wanted, 1)
    lock_mutex(&lane.lock)
    fetch_add64(&lane.wanted, <u64>-1)


cdef inline void begin_batch(Lane *lane) noexcept nogil:
    while load64(&lane.wanted):
        sched_yield()
    lock_mutex(&lane.lock)


cdef inline void serve_event(Lane *lane, u64 number) noexcept nogil:
    begin_batch(lane)
    if number >= FIRST_DRAINED:
        go_on_draining(lane, <u32>(number - FIRST_DRAINED))
    elif number >= FIRST_SOCKET and lane.has[number - FIRST_SOCKET]:
        accept_batch(lane, <u32>(number - FIRST_SOCKET))
    unlock_mutex(&lane.lock)


cdef inline void serve_time(Lane *lane) noexcept nogil:
    """What is due at some time: once per batch, and each second."""
    begin_batch(lane)
    end_drains(lane)
    check_sockets(lane)
    unlock_mutex(&lane.lock)


cdef inline u64 news_of(Gate *g) noexcept nogil:
    """Grows with each event that Python may have to report."""
    cdef u64 n = 0
    cdef u32 i
    for i in range(g.lanes):
        n += load64(&g.lane[i].refused) + load64(&g.lane[i].failures) + load64(&g.lane[i].left)
        n += load64(&g.lane[i].queue_full) + load64(&g.lane[i].uncounted)
    return n


cdef inline void *run_lane(void *given) noexcept nogil:
    """The thread of a lane, until the gate stops."""
    cdef Lane *lane = <Lane *>given
    cdef Gate *g = lane.gate
    cdef Event event[MAX_EVENTS]
    cdef int64_t said_ms = 0
    cdef int found = 0, i
    while not acquire32(&g.stops):
        found = wait_for_events(lane.epoll, event, MAX_EVENTS, DRAIN_MS // 4 if lane.drains else CHECK_MS)
        if found < 0 and found != -EINTR:
            note_failure(lane, &lane.failures, -found)
            lane.rests = True
        for i in range(found):
            if not acquire32(&g.stops):
                serve_event(lane, event[i].data.u64)
        serve_time(lane)
        if monotonic_ms() - said_ms >= CHECK_MS and news_of(g) != load64(&g.noted):
            said_ms = monotonic_ms()
            set_news(&g.queue, True)
        if lane.rests:
            lane.rests = False
            wait_for(g.stop, REST_MS)
    return NULL


# ---- the whole

cdef inline void close_lane(Lane *lane) noexcept nogil:
    while lane.drains:
        close_oldest(lane, True)
    close_own(&lane.spare)
    close_own(&lane.epoll)


cdef inline int open_lane(Gate *g, Lane *lane) noexcept nogil:
    """Returns 0, or -errno."""
    cdef u32 i
    cdef int code
    lane.epoll = open_epoll()
    code = lane.epoll if lane.epoll < 0 else watch(lane.epoll, g.stop, STOP, False)
    for i in range(g.sockets):
        if code == 0:
            code = watch(lane.epoll, g.listening[i].fd, FIRST_SOCKET + i, g.lanes > 1)
            lane.has[i] = code == 0
            g.listening[i].lanes += code == 0
    return code if code or take_spare(lane) else lane.spare


cdef inline int open_gate(Gate *g, Rules *rules, u32 backlog, const int *given, u32 sockets, u32 lanes) noexcept nogil:
    """Takes descriptors of its own and starts the threads. Returns 0, or -errno: then `end_gate` undoes it."""
    cdef u32 i
    cdef int code = open_queue(&g.queue, backlog)
    g.stop = open_event()
    code = g.stop if code == 0 and g.stop < 0 else code
    g.sockets, g.lanes = sockets, lanes
    for i in range(sockets):
        g.listening[i].given = given[i]
        g.listening[i].fd = second_descriptor(given[i])
        g.listening[i].inode = inode_of(g.listening[i].fd)
        code = g.listening[i].fd if code == 0 and g.listening[i].fd < 0 else code
    for i in range(lanes):
        g.lane[i].gate, g.lane[i].rules = g, rules
        g.lane[i].spare = g.lane[i].epoll = -1
        init_mutex(&g.lane[i].lock, NULL)
        code = open_lane(g, &g.lane[i]) if code == 0 else code
    for i in range(lanes):
        if code == 0:
            code = start_thread(&g.lane[i].thread, run_lane, &g.lane[i])
            g.running += code == 0
    return code


cdef inline void ask_to_stop(Gate *g) noexcept nogil:
    publish32(&g.stops, 1)
    set_event(g.stop)


cdef inline void stop_threads(Gate *g) noexcept nogil:
    """Ends the threads, and waits for them: a batch each at the most."""
    cdef u32 i
    ask_to_stop(g)
    for i in range(g.running):
        join_thread(g.lane[i].thread, NULL)
    g.running = 0


cdef inline bint is_lane(const Gate *g) noexcept nogil:
    """Whether the caller is a thread of this gate: Python code that a clock of Python's runs."""
    cdef u32 i
    for i in range(g.running):
        if same_thread(g.lane[i].thread, this_thread()):
            return True
    return False


cdef inline void close_waiting(Gate *g) noexcept nogil:
    """Refuses the connections that Python has not taken, and takes their counts back."""
    cdef Connection c
    cdef Lane *lane = &g.lane[0]
    cdef bint found = True
    while found:
        lock_lane(lane)  # its rules may be exchanged meanwhile
        found = pop(&g.queue, &c)
        if found:
            add_one(&lane.closed_waiting)
            send_away(g, NULL, &lane.rules.closing, &c, NULL, 0)
        unlock_mutex(&lane.lock)


cdef inline void close_listening(Gate *g) noexcept nogil:
    """Unless other code has closed it, or the lanes have left it."""
    cdef u32 i
    for i in range(g.sockets):
        if g.listening[i].fd >= 0 and inode_of(g.listening[i].fd) == g.listening[i].inode:
            close_own(&g.listening[i].fd)


cdef inline void end_gate(Gate *g) noexcept nogil:
    """Ends the threads, refuses what waits, and closes all descriptors but `queue.ready`. Only once; the caller is no
    thread of the gate."""
    cdef u32 i
    stop_threads(g)
    end_queue(&g.queue)
    close_waiting(g)
    for i in range(g.lanes):
        close_lane(&g.lane[i])
    close_listening(g)
    close_own(&g.stop)


cdef inline void leave_to_parent(Gate *g) noexcept nogil:
    """In the child of a fork, which has copies of all descriptors and no thread. What is set or watched is the
    parent's, too: the copies are closed, and nothing else is done to them."""
    cdef u32 i
    g.running = 0
    for i in range(g.queue.size):
        close_file(g.queue.place[(g.queue.first + i) % g.queue.room].fd)
    for i in range(g.lanes):
        close_own(&g.lane[i].epoll)  # first: what it watches, the parent watches
        while g.lane[i].drains:
            close_oldest(&g.lane[i], False)
        close_own(&g.lane[i].spare)
    close_listening(g)
    close_own(&g.queue.ready)
    close_own(&g.stop)


cdef inline void lock_lanes(Gate *g) noexcept nogil:
    """Between two batches of each lane, and with the queue at rest."""
    cdef u32 i
    for i in range(g.lanes):
        lock_lane(&g.lane[i])
    lock_mutex(&g.queue.lock)


cdef inline void unlock_lanes(Gate *g) noexcept nogil:
    cdef u32 i
    unlock_mutex(&g.queue.lock)
    for i in range(g.lanes):
        unlock_mutex(&g.lane[i].lock)
