"""The forwarder: threads that move bytes between clients and back ends. They never have the GIL, and copy no byte.

     gate or Python --> inbox (bounded) --> mover 1, 2, ... --> a back end
                                               |
                                               +--> Python: its flows that have ended, back ends that are down

    mover       a thread, with an epoll of its own over the inbox and the sockets of its flows
    flow        a connection from the inbox to its end (room `forward_flow`), all that time in one mover

What holds between two batches:
  * a connection is in the inbox, in a flow, or among those that Python has not taken yet; so it is closed once.
  * begun = open + ended, and the descriptors of a mover are those of its open flows, at most two sockets and two pipes
    each, its epoll, its pipe and at most MAX_SPARE spare ones.
  * a flow whose client Python has not asked about is counted here, from its gate to the close of its client's socket.
    The count of any other is Python's, which gets the flow at once when it has ended.

Other code of the process may close any of these descriptors. A flow that has lost one ends. An epoll is made anew, and
so is one that can't forget a number. An inbox that is lost, or whose news are, takes nothing any more, and Python is
told so. Flows go on, and so does what waits in it.

Lock rule: `Mover.lock` is held for a batch: no call in it waits, but for the writer lock of a tree. Under it the locks
of the inbox and of the news are taken, whose holders wait for nothing. A fork comes between two batches: one of which
Python knows by `hold`, any other by `hold_movers`, so that the child finds each descriptor, and closes it.
"""

from libc.errno cimport EINTR, ENOMEM
from libc.stdint cimport uintptr_t
from libc.stdlib cimport calloc, free

from inbound_audit._core.bits cimport u8, u16, u32, u64, acquire32, fetch_add64, load32, load64, publish32, store32
from inbound_audit._core.forward_flow cimport (
    begin_flow, bury, check_news, end_all_flows, end_late_flows, note_failure, report, serve_flow, take_turn,
    watch_changes,
)
from inbound_audit._core.forward_model cimport (
    ARRIVED, CONNECTING, END, ENDED, EPOLLHUP, MAX_TAKEN, MOVING, REFUSED, Flow, Forwarder, Mover, Place, Target,
)
from inbound_audit._core.forward_pipe cimport close_pipe, close_pipes, no_pipe
from inbound_audit._core.gate cimport (
    count_held, held_here, join_thread, same_thread, this_thread, wake,
)
from inbound_audit._core.gate_lane cimport Event, begin_thread, lock_between, lock_for_batch, rest, wait_for_events
from inbound_audit._core.gate_model cimport DRAIN_MS, add_one, monotonic_ms, watch
from inbound_audit._core.gate_queue cimport (
    Connection, check_queue, close_queue, end_queue, init_mutex, is_lost, lock_mutex, open_queue, pop, unlock_mutex,
)
from inbound_audit._core.gate_sockets cimport is_epoll_of, mark_epoll, open_epoll, watch_end
from inbound_audit._core.own_socket cimport close_file, close_socket, is_own, open_pair, own

cdef extern from "inbound_audit/_core/forward.h":
    void set_address "ia_set_address"(Place *, const u8 *, int, u16, u32) noexcept nogil
    int set_path "ia_set_path"(Place *, const char *, size_t) noexcept nogil

cdef enum:
    MAX_EVENTS = 64
    CHECK_MS = 1000             # between two checks of what no event reports
    SOON_MS = 100               # between two checks of flows that have little time
    REST_MS = 20                # without a pipe


# ---- what a mover waits on

cdef inline bint has_epoll(const Mover *m) noexcept nogil:
    return m.epoll >= 0 and is_epoll_of(m.epoll, m.task)


cdef inline void close_epoll(Mover *m) noexcept nogil:
    if has_epoll(m):
        close_file(m.epoll)
    m.epoll = -1


cdef inline int watch_inbox(Mover *m) noexcept nogil:
    """Returns 0, or -errno. A lost inbox is watched no more: its end would be reported for ever."""
    cdef Forwarder *w = m.forwarder
    cdef int code = 0
    if is_lost(&w.inbox):
        return 0
    if is_own(&w.inbox.writes):
        code = watch_end(m.epoll, w.inbox.writes.fd, END)
    if code == 0 and is_own(&w.inbox.reads):
        code = watch(m.epoll, w.inbox.reads.fd, ARRIVED, w.movers > 1)
    return code


cdef inline void watch_flows(Mover *m) noexcept nogil:
    """One that can't be watched ends by its time."""
    cdef Flow *f
    cdef u32 stage
    cdef int side
    for stage in range(<u32>ENDED):
        f = m.list[stage].oldest
        while f != NULL:
            for side in range(2):
                if is_own(&f.side[side].socket):
                    watch_changes(m.epoll, f.side[side].socket.fd, <u64><uintptr_t>f + <u64>side)
            f = f.newer


cdef inline int renew_epoll(Mover *m) noexcept nogil:
    """Makes the epoll anew. Returns 0, or -errno: then it is made anew later."""
    cdef int code
    if not m.is_stale:
        add_one(&m.lost)
    m.is_stale = True
    close_epoll(m)
    m.epoll = open_epoll()
    if m.epoll < 0:
        return m.epoll
    m.task = mark_epoll(m.epoll)
    code = watch_inbox(m)
    watch_flows(m)
    m.is_stale = code != 0
    return code


# ---- a batch

cdef inline void lock_mover(Mover *m) noexcept nogil:
    lock_between(&m.lock, &m.wanted)


cdef inline bint begin_batch(Mover *m) noexcept nogil:
    return lock_for_batch(&m.lock, &m.wanted, &m.forwarder.held, &m.forwarder.stops)


cdef inline void take_arrived(Mover *m) noexcept nogil:
    cdef Connection c
    cdef int _n
    for _n in range(MAX_TAKEN):
        if not pop(&m.forwarder.inbox, &c):
            return
        begin_flow(m, &c)


cdef inline void serve_event(Mover *m, const Event *e) noexcept nogil:
    cdef u64 number = e.data.u64
    if number == END or (number == ARRIVED and e.events & <u32>EPOLLHUP):
        store32(&m.forwarder.inbox.lost, 1)  # the forwarder does not stop, so the stream has ended
    elif number == ARRIVED:
        take_arrived(m)
    else:
        serve_flow(m, <Flow *><uintptr_t>(number & ~<u64>1), <int>(number & 1), e.events)


cdef inline void take_turns(Mover *m) noexcept nogil:
    """Of those that go on without an event: one each."""
    cdef Flow *f = m.going_on
    cdef Flow *after
    m.going_on = NULL
    while f != NULL:
        after = f.next
        f.waits = False
        if f.stage == ENDED:
            f.next, m.dead = m.dead, f
        else:
            take_turn(m, f)
        f = after


cdef inline void leave_inbox(Mover *m) noexcept nogil:
    """It is lost: it is watched no more, and Python hears of it once."""
    if not m.left_inbox:
        m.left_inbox = m.is_stale = True
        report(m.forwarder, NULL)
    take_arrived(m)


cdef inline void serve_time(Mover *m) noexcept nogil:
    """What is due at some time."""
    end_late_flows(m, CONNECTING, m.forwarder.connect_ms)
    end_late_flows(m, MOVING, m.forwarder.idle_ms)
    end_late_flows(m, REFUSED, DRAIN_MS)
    if monotonic_ms() - m.checked_ms >= CHECK_MS:
        m.checked_ms = monotonic_ms()
        if not is_lost(&m.forwarder.inbox):
            check_queue(&m.forwarder.inbox)
            check_news(m.forwarder)
    if is_lost(&m.forwarder.inbox):
        leave_inbox(m)


cdef inline int wait_ms(const Mover *m) noexcept nogil:
    if m.going_on != NULL:
        return REST_MS if m.rests else 0
    if m.left_inbox:  # no event says any more that it has connections, or that the forwarder stops
        return SOON_MS if load32(&m.forwarder.inbox.size) == 0 else 0
    return CHECK_MS if m.list[CONNECTING].oldest == NULL and m.list[REFUSED].oldest == NULL else SOON_MS


cdef inline int wait_for_work(Mover *m, Event *event) noexcept nogil:
    """Returns how many events there are, or -errno."""
    cdef int code = 0
    if m.is_stale or not has_epoll(m):
        if not begin_batch(m):
            return 0
        code = renew_epoll(m)
        unlock_mutex(&m.lock)
    if code != 0 or acquire32(&m.forwarder.stops):
        return code
    return wait_for_events(m.epoll, event, MAX_EVENTS, wait_ms(m))


cdef inline void *run_mover(void *given) noexcept nogil:
    """The thread of a mover, until the forwarder stops."""
    cdef Mover *m = <Mover *>given
    cdef Event event[MAX_EVENTS]
    cdef int found, i
    m.task = mark_epoll(m.epoll)
    publish32(&m.begun, 1)
    while not acquire32(&m.forwarder.stops):
        found = wait_for_work(m, event)
        if not begin_batch(m):
            break
        m.rests = m.is_checked = False
        if found < 0 and found != -EINTR:
            note_failure(m, -found)
        for i in range(found):
            serve_event(m, &event[i])
        take_turns(m)
        serve_time(m)
        bury(m)
        unlock_mutex(&m.lock)
        if found < 0 and found != -EINTR:
            rest(REST_MS)
    return NULL


# ---- its memory

cdef inline int make_forwarder(Forwarder *w, u32 targets, u32 movers) noexcept nogil:
    """The memory of a forwarder, without descriptors; `free_forwarder` gives it back. Returns 0, or -ENOMEM."""
    cdef u32 i
    w.inbox.reads.fd = w.inbox.writes.fd = w.reads.fd = w.writes.fd = -1
    w.target = <Target *>calloc(targets, sizeof(Target))
    w.mover = <Mover *>calloc(movers, sizeof(Mover))
    if w.target == NULL or w.mover == NULL:
        return -ENOMEM
    w.targets, w.movers = targets, movers
    init_mutex(&w.news_lock, NULL)
    for i in range(movers):
        w.mover[i].forwarder, w.mover[i].epoll = w, -1
        no_pipe(&w.mover[i].pipe)
        init_mutex(&w.mover[i].lock, NULL)
    return 0


cdef inline void free_forwarder(Forwarder *w) noexcept nogil:
    cdef Flow *f
    while w.ended != NULL:
        f = w.ended
        w.ended = f.next
        free(f)
    free(w.mover)
    free(w.target)
    free(w.inbox.place)
    free(w)


# ---- begin and end

cdef inline int open_mover(Mover *m) noexcept nogil:
    """Returns 0, or -errno. The epoll has no owner until the mover's thread runs."""
    m.epoll = open_epoll()
    return m.epoll if m.epoll < 0 else watch_inbox(m)


cdef inline int open_forwarder(Forwarder *w, u32 backlog) noexcept nogil:
    """Opens its descriptors and starts its threads. Returns 0, or -errno: then `end_forwarder` undoes it.

    Called under the lock of all forwarders.
    """
    cdef int[2] ends
    cdef u32 i
    cdef int code = open_queue(&w.inbox, backlog)
    if code == 0:
        code = open_pair(ends)
        own(&w.reads, -1 if code else ends[0])
        own(&w.writes, -1 if code else ends[1])
    for i in range(w.movers):
        code = open_mover(&w.mover[i]) if code == 0 else code
    for i in range(w.movers):
        if code == 0:
            code = begin_thread(&w.mover[i].thread, run_mover, &w.mover[i], &w.mover[i].begun)
            w.running += code == 0
    return code


cdef inline void stop_movers(Forwarder *w) noexcept nogil:
    """Ends the threads, and waits for them: a batch each at the most."""
    cdef u32 i
    publish32(&w.stops, 1)
    for i in range(w.running):
        lock_mover(&w.mover[i])
        if is_own(&w.inbox.writes) and has_epoll(&w.mover[i]):
            wake(w.mover[i].epoll, w.inbox.writes.fd, END)
        unlock_mutex(&w.mover[i].lock)
    for i in range(w.running):
        join_thread(w.mover[i].thread, NULL)
    w.running = 0


cdef inline void end_mover(Mover *m) noexcept nogil:
    """Cuts off its flows, and closes all that it has. Its thread has ended."""
    cdef Forwarder *w = m.forwarder
    while load64(&w.held) and not held_here:
        rest(1)  # another thread is about to fork
    lock_mover(m)
    end_all_flows(m)
    while m.going_on != NULL:
        m.dead, m.going_on, m.dead.next = m.going_on, m.going_on.next, m.dead
    bury(m)
    close_pipes(m)
    close_epoll(m)
    unlock_mutex(&m.lock)


cdef inline void drop_arrived(Forwarder *w) noexcept nogil:
    """The connections that no mover has taken are flows of the first one, which cuts them off."""
    cdef Connection c
    lock_mover(&w.mover[0])
    while pop(&w.inbox, &c):
        close_socket(&c.socket)
        begin_flow(&w.mover[0], &c)
    unlock_mutex(&w.mover[0].lock)


cdef inline void end_forwarder(Forwarder *w) noexcept nogil:
    """Takes nothing any more, ends the threads, cuts off all flows. Only once. Python can still take what it knows."""
    cdef u32 i
    stop_movers(w)
    end_queue(&w.inbox)
    drop_arrived(w)
    for i in range(w.movers):
        end_mover(&w.mover[i])
    close_queue(&w.inbox)
    lock_mutex(&w.news_lock)
    close_socket(&w.reads)
    close_socket(&w.writes)
    unlock_mutex(&w.news_lock)


# ---- forks

cdef inline void hold(Forwarder *w) noexcept nogil:
    """Until `let_go` no thread is in the middle of a batch."""
    cdef u32 i
    fetch_add64(&w.held, 1)
    count_held(1)
    for i in range(w.movers):
        lock_mover(&w.mover[i])
        unlock_mutex(&w.mover[i].lock)


cdef inline void let_go(Forwarder *w) noexcept nogil:
    count_held(-1)
    fetch_add64(&w.held, <u64>-1)


cdef inline void hold_movers(Forwarder *w) noexcept nogil:
    """Until `let_go_of_movers` each descriptor has one place."""
    cdef u32 i
    for i in range(w.movers):
        lock_mover(&w.mover[i])
    lock_mutex(&w.inbox.lock)
    lock_mutex(&w.news_lock)


cdef inline void let_go_of_movers(Forwarder *w) noexcept nogil:
    cdef u32 i
    unlock_mutex(&w.news_lock)
    unlock_mutex(&w.inbox.lock)
    for i in range(w.movers):
        unlock_mutex(&w.mover[i].lock)


cdef inline void close_copies(Mover *m) noexcept nogil:
    cdef Flow *f
    cdef u32 stage
    cdef int side
    close_epoll(m)  # first: what it watches is the parent's
    for stage in range(<u32>ENDED):
        f = m.list[stage].oldest
        while f != NULL:
            for side in range(2):
                close_socket(&f.side[side].socket)
                if f.side[side].held:
                    close_pipe(&f.side[side].pipe)
            f = f.newer
        m.list[stage].oldest = NULL
    close_pipes(m)


cdef inline void leave_to_parent(Forwarder *w) noexcept nogil:
    """In the child of a fork, which has copies of all descriptors and no thread: the copies are closed, and nothing
    else is done to them. The memory of the flows is left: a signal handler may call this."""
    cdef u32 i
    w.running = 0
    publish32(&w.stops, 1)
    while w.inbox.size:
        close_socket(&w.inbox.place[w.inbox.first].socket)
        w.inbox.first = (w.inbox.first + 1) % w.inbox.room
        w.inbox.size -= 1
    for i in range(w.movers):
        close_copies(&w.mover[i])
    close_socket(&w.inbox.reads)
    close_socket(&w.inbox.writes)
    close_socket(&w.reads)
    close_socket(&w.writes)
