# All gates of the process, and what a fork does to each of them.

# Those that have descriptors, linked by `Gate.next`. The lock is held while one is opened, and by a fork: also by one
# of which Python does not know. It is taken before the locks of a gate, and its holder never waits for the GIL.
cdef gate_model.Gate *gates = NULL
cdef gate_queue.Mutex gates_lock
gate_queue.init_mutex(&gates_lock, NULL)


cdef void before_any_fork() noexcept nogil:
    cdef gate_model.Gate *g
    if fork.is_child():
        in_child_of_any_fork()  # of a fork that no handler has seen
    gate_queue.lock_mutex(&gates_lock)
    g = gates
    while g != NULL:
        gate.hold_descriptors(g)
        g = g.next
    hold_forwarders()


cdef void in_parent_of_any_fork() noexcept nogil:
    cdef gate_model.Gate *g = gates
    let_go_of_forwarders()
    while g != NULL:
        gate.let_go_of_descriptors(g)
        g = g.next
    gate_queue.unlock_mutex(&gates_lock)


cdef void in_child_of_any_fork() noexcept nogil:
    """Calls nothing but what a signal handler may call. No lock of a gate is ever taken again here."""
    global gates
    while gates != NULL:
        gate.leave_to_parent(gates)
        gates = gates.next
    gate_queue.init_mutex(&gates_lock, NULL)
    leave_forwarders()


if gate.handle_forks(before_any_fork, in_parent_of_any_fork, in_child_of_any_fork) != 0:
    raise MemoryError


cdef int open_among_all(gate_model.Gate *g, u32 backlog, const int *given) noexcept nogil:
    """Returns 0, or -errno."""
    global gates
    cdef int code
    gate_queue.lock_mutex(&gates_lock)
    code = gate.open_gate(g, backlog, given)
    g.next = gates
    gates = g
    gate_queue.unlock_mutex(&gates_lock)
    return code


cdef void take_from_all(gate_model.Gate *g) noexcept nogil:
    """Its last descriptor is closed."""
    cdef gate_model.Gate **at = &gates
    gate_queue.lock_mutex(&gates_lock)
    while at[0] != g:
        at = &at[0].next
    at[0] = g.next
    gate_queue.unlock_mutex(&gates_lock)


cdef void take_out(gate_model.Gate *g) noexcept nogil:
    """Takes a gate of the parent out, in a child: of a fork that no handler has seen they are all in the list, and its
    lock may be held for ever. Under the GIL: no other thread of this process uses the list before."""
    cdef gate_model.Gate **at = &gates
    while at[0] != NULL and at[0] != g:
        at = &at[0].next
    if at[0] == g:
        at[0] = g.next
        gate_queue.init_mutex(&gates_lock, NULL)
