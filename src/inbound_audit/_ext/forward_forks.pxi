# All forwarders of the process, and what a fork does to each of them. The room `gate_forks` calls this in its handlers:
# a lane of a gate takes the lock of a forwarder's inbox under its own, so gates are held first.

# Those that have descriptors, linked by `Forwarder.next`. The lock is held while one is opened, and by a fork. It is
# taken before the locks of a forwarder, and its holder never waits for the GIL.
cdef forward_model.Forwarder *forwarders = NULL
cdef gate_queue.Mutex forwarders_lock
gate_queue.init_mutex(&forwarders_lock, NULL)


cdef void hold_forwarders() noexcept nogil:
    cdef forward_model.Forwarder *w
    gate_queue.lock_mutex(&forwarders_lock)
    w = forwarders
    while w != NULL:
        forward.hold_movers(w)
        w = w.next


cdef void let_go_of_forwarders() noexcept nogil:
    cdef forward_model.Forwarder *w = forwarders
    while w != NULL:
        forward.let_go_of_movers(w)
        w = w.next
    gate_queue.unlock_mutex(&forwarders_lock)


cdef void leave_forwarders() noexcept nogil:
    """In the child. Calls nothing but what a signal handler may call."""
    global forwarders
    while forwarders != NULL:
        forward.leave_to_parent(forwarders)
        forwarders = forwarders.next
    gate_queue.init_mutex(&forwarders_lock, NULL)


cdef int open_forwarder_among_all(forward_model.Forwarder *w, u32 backlog) noexcept nogil:
    """Returns 0, or -errno."""
    global forwarders
    cdef int code
    gate_queue.lock_mutex(&forwarders_lock)
    code = forward.open_forwarder(w, backlog)
    w.next = forwarders
    forwarders = w
    gate_queue.unlock_mutex(&forwarders_lock)
    return code


cdef void take_forwarder_out(forward_model.Forwarder *w) noexcept nogil:
    """Its last descriptor is closed."""
    cdef forward_model.Forwarder **at = &forwarders
    gate_queue.lock_mutex(&forwarders_lock)
    while at[0] != NULL and at[0] != w:
        at = &at[0].next
    if at[0] == w:
        at[0] = w.next
    gate_queue.unlock_mutex(&forwarders_lock)


cdef void take_left_forwarder_out(forward_model.Forwarder *w) noexcept nogil:
    """Takes a forwarder of the parent out, in a child: of a fork that no handler has seen they are all in the list, and
    its lock may be held for ever. Under the GIL: no other thread of this process uses the list before."""
    cdef forward_model.Forwarder **at = &forwarders
    while at[0] != NULL and at[0] != w:
        at = &at[0].next
    if at[0] == w:
        at[0] = w.next
        gate_queue.init_mutex(&forwarders_lock, NULL)
