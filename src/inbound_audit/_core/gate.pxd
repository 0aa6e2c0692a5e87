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
  * opened = accepted + refused + queue_full, and accepted = taken + waiting + forwarded.

A connection that may stay goes to Python by the queue, or by the queue of a forwarder to its threads (room `forward`).

Other code of the process may close any of these descriptors. A lane makes anew what it has lost (room `gate_sockets`).
A gate without its queue ends: its threads stop, and Python, which sees that `reads` has changed, closes it. A
connection of which only the number is left is counted no more.

Lock rule: `Lane.lock` is held for a batch. Under it the rules are exchanged. The tree is changed under its writer
lock, as by `Session`. Each descriptor changes its place under `Lane.hands`, or the lock of the queue, which is taken
last. No lock is held across a call that waits for more than IA_ACCEPT_MS. But a clock that is Python's takes the GIL,
so Python waits for `Lane.lock` without the GIL. The holder of `hands` or of the queue's lock waits for nothing else.

A fork of which Python knows comes between two batches (`hold`), so that the trees are whole; the thread that forks
holds no lock then, and may do all else with the gate. Any fork waits for `hands` and for the queue
(`hold_descriptors`), so that the child finds each descriptor, and closes it.
"""

from libc.errno cimport ENOMEM
from libc.stdlib cimport calloc, free

from inbound_audit._core.bits cimport u32, u64, fetch_add64, load64, publish32
from inbound_audit._core.gate_connection cimport send_away, take_back
from inbound_audit._core.gate_decisions cimport CLOSING, close_decisions, note_decision
from inbound_audit._core.gate_drain cimport make_places
from inbound_audit._core.gate_lane cimport begin_thread, lock_lane, rest, run_lane
from inbound_audit._core.gate_model cimport END, Gate, Lane, Listening, Rules, Thread, add_one
from inbound_audit._core.gate_queue cimport (
    Connection, end_queue, init_mutex, lock_mutex, open_queue, pop, unlock_mutex,
)
from inbound_audit._core.gate_sockets cimport (
    close_lane, end_listening, has_epoll, limit_time, open_lane, open_listening,
)
from inbound_audit._core.own_socket cimport close_file, close_socket, is_own

cdef extern from "inbound_audit/_core/gate.h":
    u32 held_here "ia_held_here"
    void count_held "ia_count_held"(int) noexcept nogil
    void wake "ia_wake"(int, int, u64) noexcept nogil

cdef extern from "<pthread.h>":
    int join_thread "pthread_join"(Thread, void **) noexcept nogil
    Thread this_thread "pthread_self"() noexcept nogil
    bint same_thread "pthread_equal"(Thread, Thread) noexcept nogil
    int handle_forks "pthread_atfork"(
        void (*)() noexcept nogil, void (*)() noexcept nogil, void (*)() noexcept nogil
    ) noexcept nogil


# ---- its memory

cdef inline int make_lanes(Gate *g, Rules *rules, u32 sockets, u32 lanes) noexcept nogil:
    """The memory of a gate, without descriptors; `free_gate` gives it back. Returns 0, or -ENOMEM."""
    cdef u32 i
    g.queue.reads.fd = g.queue.writes.fd = -1
    g.out = &g.queue
    g.listening = <Listening *>calloc(sockets + 1, sizeof(Listening))
    g.lane = <Lane *>calloc(lanes, sizeof(Lane))
    if g.listening == NULL or g.lane == NULL:
        return -ENOMEM
    for i in range(sockets):
        g.listening[i].socket.fd = -1
    g.sockets = sockets
    for i in range(lanes):
        g.lane[i].watched = <int *>calloc(sockets + 1, sizeof(int))
        if g.lane[i].watched == NULL:
            return -ENOMEM
        make_places(&g.lane[i])
        g.lane[i].gate, g.lane[i].rules = g, rules
        g.lane[i].spare.fd = g.lane[i].epoll = g.lane[i].hand = -1
        init_mutex(&g.lane[i].lock, NULL)
        init_mutex(&g.lane[i].hands, NULL)
        g.lanes += 1
    return 0


cdef inline void free_gate(Gate *g) noexcept nogil:
    cdef u32 i
    for i in range(g.lanes):
        free(g.lane[i].watched)
        close_decisions(&g.lane[i].decisions)
    free(g.lane)
    free(g.listening)
    free(g.queue.place)
    free(g)


# ---- begin and end

cdef inline int open_gate(Gate *g, u32 backlog, const int *given) noexcept nogil:
    """Takes descriptors of its own and starts the threads. Returns 0, or -errno: then `end_gate` undoes it.

    Called under the lock of all gates.
    """
    cdef Listening *s
    cdef u32 i
    cdef int code = open_queue(&g.queue, backlog)
    for i in range(g.sockets):
        s = &g.listening[i]
        s.given = given[i]
        code = open_listening(s) if code == 0 else code
        code = limit_time(s) if code == 0 else code
    for i in range(g.lanes):
        code = open_lane(g, &g.lane[i]) if code == 0 else code
    for i in range(g.lanes):
        if code == 0:
            code = begin_thread(&g.lane[i].thread, run_lane, &g.lane[i], &g.lane[i].begun)
            g.running += code == 0
    return code


cdef inline void ask_to_stop(Gate *g) noexcept nogil:
    cdef u32 i
    publish32(&g.stops, 1)
    for i in range(g.lanes):
        lock_mutex(&g.lane[i].hands)
        if is_own(&g.queue.writes) and has_epoll(&g.lane[i]):
            wake(g.lane[i].epoll, g.queue.writes.fd, END)
        unlock_mutex(&g.lane[i].hands)


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
    cdef bint found = True, is_here
    while found:
        while load64(&g.held) and not held_here:
            rest(1)  # another thread is about to fork
        lock_lane(lane)  # its rules may be exchanged meanwhile
        lock_mutex(&lane.hands)
        found = pop(&g.queue, &c)
        is_here = found and is_own(&c.socket)
        if is_here:
            lane.hand = c.socket.fd
        unlock_mutex(&lane.hands)
        if found:
            add_one(&lane.closed_waiting)
            note_decision(&lane.decisions, &c.ac, lane.rules.number, CLOSING, 0, 0)
        if is_here:
            send_away(lane, &lane.rules.closing, &c, NULL, 0, True)
        elif found:
            take_back(&c)
        unlock_mutex(&lane.lock)


cdef inline void close_descriptors(Gate *g, bint is_child) noexcept nogil:
    """All but those of the queue. Under the first lane's `hands`, or in the child of a fork."""
    cdef u32 i
    for i in range(g.lanes):
        close_lane(&g.lane[i], not is_child)
    for i in range(g.sockets):
        end_listening(&g.listening[i], not is_child)


cdef inline void end_gate(Gate *g) noexcept nogil:
    """Ends the threads, refuses what waits, and closes all descriptors but those of the queue. Only once; the caller is
    no thread of the gate."""
    stop_threads(g)
    end_queue(&g.queue)
    close_waiting(g)
    lock_mutex(&g.lane.hands)
    close_descriptors(g, False)
    unlock_mutex(&g.lane.hands)


cdef inline void leave_to_parent(Gate *g) noexcept nogil:
    """In the child of a fork, which has copies of all descriptors and no thread. What is set or watched is the
    parent's, too: the copies are closed, and nothing else is done to them."""
    cdef u32 i
    g.running = 0
    publish32(&g.stops, 1)
    while g.queue.size:
        close_socket(&g.queue.place[g.queue.first].socket)
        g.queue.first = (g.queue.first + 1) % g.queue.room
        g.queue.size -= 1
    for i in range(g.lanes):
        if g.lane[i].hand >= 0:
            close_file(g.lane[i].hand)
        g.lane[i].hand = -1
    close_descriptors(g, True)
    close_socket(&g.queue.reads)
    close_socket(&g.queue.writes)


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
