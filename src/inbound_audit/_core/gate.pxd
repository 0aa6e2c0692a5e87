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

Lock rule: `Lane.lock` is held for a batch. Under it the rules are exchanged. The tree is changed under its writer
lock, as by `Session`. Each descriptor changes its place under `Lane.hands`, or the lock of the queue, which is taken
last. No lock is held across a call that waits for more than IA_ACCEPT_MS. But a clock that is Python's takes the GIL,
so Python waits for `Lane.lock` without the GIL. The holder of `hands` or of the queue's lock waits for nothing else.

A fork of which Python knows comes between two batches (`hold`), so that the trees are whole; the thread that forks
holds no lock then, and may do all else with the gate. Any fork waits for `hands` and for the queue
(`hold_descriptors`), so that the child finds each descriptor, and closes it.
"""

from libc.errno cimport EAGAIN, EBADF, EINTR, EINVAL, EMFILE, ENFILE, ENOMEM, ENOTSOCK
from libc.stdint cimport int64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from inbound_audit._core.bits cimport u32, u64, acquire32, fetch_add64, load64, publish32, store32
from inbound_audit._core.gate_connection cimport (
    DRAIN_MS, FIRST_DRAINED, FIRST_SOCKET, Caller, Gate, Lane, Listening, Rules, Thread, Time, add_one, close_oldest,
    end_drains, go_on_draining, monotonic_ms, receive, send_away, set_time, unwatch, watch,
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
    int read_inode "ia_inode"(int, u64 *) noexcept nogil
    bint is_same "ia_is_same"(int, u64) noexcept nogil
    int limit_accept "ia_limit_accept"(int, Time *) noexcept nogil
    void rest "ia_rest"(int) noexcept nogil
    u32 held_here "ia_held_here"
    void count_held "ia_count_held"(int) noexcept nogil
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
    int handle_forks "pthread_atfork"(
        void (*)() noexcept nogil, void (*)() noexcept nogil, void (*)() noexcept nogil
    ) noexcept nogil

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


cdef inline void close_listening(Listening *s) noexcept nogil:
    """Unless other code has closed it, or the lanes have left it."""
    if s.fd >= 0 and is_same(s.fd, s.inode):
        close_file(s.fd)
    s.fd = -1


cdef inline void leave_socket(Lane *lane, u32 i) noexcept nogil:
    """This lane accepts from it no more. The last lane closes it, unless other code has closed it."""
    cdef Listening *s = &lane.gate.listening[i]
    lane.has[i] = False
    unwatch(lane.epoll, s.fd)
    if fetch_add64(&s.lanes, <u64>-1) == 1:
        lock_mutex(&lane.hands)
        close_listening(s)
        unlock_mutex(&lane.hands)


cdef inline void check_sockets(Lane *lane) noexcept nogil:
    """Leaves listening sockets that their owner has closed, and makes none wait that other code has made block."""
    cdef Listening *s
    cdef Time unused
    cdef int64_t now = monotonic_ms()
    cdef u32 i
    if now - lane.checked_ms < CHECK_MS:
        return
    lane.checked_ms = now
    for i in range(lane.gate.sockets):
        s = &lane.gate.listening[i]
        if lane.has[i] and not (is_same(s.given, s.inode) and is_same(s.fd, s.inode)):
            note_failure(lane, &lane.left, EBADF)
            leave_socket(lane, i)
        elif lane.has[i]:
            limit_accept(s.fd, &unused)


cdef inline bint take_spare(Lane *lane) noexcept nogil:
    lock_mutex(&lane.hands)
    if lane.spare < 0:
        lane.spare = second_descriptor(lane.gate.stop)
    unlock_mutex(&lane.hands)
    return lane.spare >= 0


cdef inline int accept_next(Lane *lane, int listening, bint with_spare, Caller *caller) noexcept nogil:
    """Accepts a connection into the lane's hand. Returns 0, or an error number."""
    cdef int error
    lock_mutex(&lane.hands)
    if with_spare:
        close_own(&lane.spare)
    error = -accept_connection(listening, caller)
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
    if lane.spare >= 0:
        found = accept_next(lane, listening, True, &caller) == 0
        if found:
            memset(&c.ac, 0, sizeof(c.ac))
            c.fd, c.ac.version = caller.fd, 4
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
        error = accept_next(lane, lane.gate.listening[i].fd, False, &caller)
        if error == 0:
            receive(lane, &caller, &lane.gate.listening[i].own)
        elif not goes_on(lane, i, error):
            return


# ---- a thread

cdef inline void lock_lane(Lane *lane) noexcept nogil:
    """For other threads: waits for a batch at most. A lock alone would go to the thread that has released it."""
    fetch_add64(&lane.wanted, 1)
    lock_mutex(&lane.lock)
    fetch_add64(&lane.wanted, <u64>-1)


cdef inline bint begin_batch(Lane *lane) noexcept nogil:
    """Takes the lock, but in no fork. False: the gate stops."""
    while not acquire32(&lane.gate.stops):
        while load64(&lane.wanted):
            sched_yield()
        lock_mutex(&lane.lock)
        if load64(&lane.gate.held) == 0:
            return True
        unlock_mutex(&lane.lock)
        wait_for(lane.gate.stop, 1)
    return False


cdef inline void serve_event(Lane *lane, u64 number) noexcept nogil:
    if not begin_batch(lane):
        return
    if number >= FIRST_DRAINED:
        go_on_draining(lane, <u32>(number - FIRST_DRAINED))
    elif number >= FIRST_SOCKET and lane.has[number - FIRST_SOCKET]:
        accept_batch(lane, <u32>(number - FIRST_SOCKET))
    unlock_mutex(&lane.lock)


cdef inline void serve_time(Lane *lane) noexcept nogil:
    """What is due at some time: once per batch, and each second."""
    if not begin_batch(lane):
        return
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

cdef inline int make_lanes(Gate *g, Rules *rules, u32 sockets, u32 lanes) noexcept nogil:
    """The memory of a gate, without descriptors; `free_gate` gives it back. Returns 0, or -ENOMEM."""
    cdef u32 i
    g.stop = g.queue.ready = -1
    g.listening = <Listening *>calloc(sockets + 1, sizeof(Listening))
    g.lane = <Lane *>calloc(lanes, sizeof(Lane))
    if g.listening == NULL or g.lane == NULL:
        return -ENOMEM
    for i in range(sockets):
        g.listening[i].fd = -1
    g.sockets = sockets
    for i in range(lanes):
        g.lane[i].has = <bint *>calloc(sockets + 1, sizeof(bint))
        if g.lane[i].has == NULL:
            return -ENOMEM
        g.lane[i].gate, g.lane[i].rules = g, rules
        g.lane[i].spare = g.lane[i].epoll = g.lane[i].hand = -1
        init_mutex(&g.lane[i].lock, NULL)
        init_mutex(&g.lane[i].hands, NULL)
        g.lanes += 1
    return 0


cdef inline void free_gate(Gate *g) noexcept nogil:
    cdef u32 i
    for i in range(g.lanes):
        free(g.lane[i].has)
    free(g.lane)
    free(g.listening)
    free(g.queue.place)
    free(g)


cdef inline void close_lane(Lane *lane, bint abort) noexcept nogil:
    while lane.drains:
        close_oldest(lane, abort)
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


cdef inline int open_listening(Listening *s) noexcept nogil:
    """Returns 0, or -errno."""
    cdef int code
    s.fd = second_descriptor(s.given)
    if s.fd < 0:
        return s.fd
    code = read_inode(s.fd, &s.inode)
    if code != 0:
        close_own(&s.fd)
    return limit_accept(s.fd, &s.own) if code == 0 else code


cdef inline int open_gate(Gate *g, u32 backlog, const int *given) noexcept nogil:
    """Takes descriptors of its own and starts the threads. Returns 0, or -errno: then `end_gate` undoes it.

    Called under the lock of all gates.
    """
    cdef u32 i
    cdef int code = open_queue(&g.queue, backlog)
    g.stop = open_event()
    code = g.stop if code == 0 and g.stop < 0 else code
    for i in range(g.sockets):
        g.listening[i].given = given[i]
        code = open_listening(&g.listening[i]) if code == 0 else code
    for i in range(g.lanes):
        code = open_lane(g, &g.lane[i]) if code == 0 else code
    for i in range(g.lanes):
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
        while load64(&g.held) and not held_here:
            rest(1)  # another thread is about to fork
        lock_lane(lane)  # its rules may be exchanged meanwhile
        lock_mutex(&lane.hands)
        found = pop(&g.queue, &c)
        if found:
            lane.hand = c.fd
        unlock_mutex(&lane.hands)
        if found:
            add_one(&lane.closed_waiting)
            send_away(lane, &lane.rules.closing, &c, NULL, 0, True)
        unlock_mutex(&lane.lock)


cdef inline void close_descriptors(Gate *g, bint abort) noexcept nogil:
    """All but `queue.ready`. Under `hands`, or without another thread."""
    cdef u32 i
    for i in range(g.lanes):
        close_lane(&g.lane[i], abort)
    for i in range(g.sockets):
        close_listening(&g.listening[i])
    close_own(&g.stop)


cdef inline void end_gate(Gate *g) noexcept nogil:
    """Ends the threads, refuses what waits, and closes all descriptors but `queue.ready`. Only once; the caller is no
    thread of the gate."""
    cdef u32 i
    stop_threads(g)
    end_queue(&g.queue)
    close_waiting(g)
    for i in range(g.sockets):
        if g.listening[i].fd >= 0:
            set_time(g.listening[i].fd, &g.listening[i].own)
    lock_mutex(&g.lane.hands)
    close_descriptors(g, True)
    unlock_mutex(&g.lane.hands)


cdef inline void leave_to_parent(Gate *g) noexcept nogil:
    """In the child of a fork, which has copies of all descriptors and no thread. What is set or watched is the
    parent's, too: the copies are closed, and nothing else is done to them."""
    cdef u32 i
    g.running = 0
    publish32(&g.stops, 1)
    while g.queue.size:
        close_file(g.queue.place[g.queue.first].fd)
        g.queue.first = (g.queue.first + 1) % g.queue.room
        g.queue.size -= 1
    for i in range(g.lanes):
        close_own(&g.lane[i].hand)
        close_own(&g.lane[i].epoll)  # first: what it watches is the parent's
    close_descriptors(g, False)
    close_own(&g.queue.ready)


# ---- forks

cdef inline void hold(Gate *g) noexcept nogil:
    """Until `let_go` no thread is in the middle of a batch, but the caller's own if it is one of the gate's. What the
    caller does with the gate meanwhile is done as ever; a close ends the threads."""
    cdef u32 i
    fetch_add64(&g.held, 1)
    count_held(1)
    for i in range(g.lanes):
        if i >= g.running or not same_thread(g.lane[i].thread, this_thread()):
            lock_lane(&g.lane[i])
            unlock_mutex(&g.lane[i].lock)


cdef inline void let_go(Gate *g) noexcept nogil:
    count_held(-1)
    fetch_add64(&g.held, <u64>-1)


cdef inline void hold_descriptors(Gate *g) noexcept nogil:
    """Until `let_go_of_descriptors` each has one place."""
    cdef u32 i
    for i in range(g.lanes):
        lock_mutex(&g.lane[i].hands)
    lock_mutex(&g.queue.lock)


cdef inline void let_go_of_descriptors(Gate *g) noexcept nogil:
    cdef u32 i
    unlock_mutex(&g.queue.lock)
    for i in range(g.lanes):
        unlock_mutex(&g.lane[i].hands)
