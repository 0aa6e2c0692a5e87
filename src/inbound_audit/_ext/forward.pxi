# The forwarder: threads that move bytes between clients and back ends without the GIL.

MAX_TARGETS = forward_model.MAX_TARGETS

cdef tuple PROXY_HEADERS = (None, "v1", "v2")     # by `forward_model.Header`


@cython.no_gc_clear  # its threads use the listener's tree until they have ended
cdef class NativeForwarder:
    """The native part of `inbound_audit.listeners.forward.Forwarder`. Until `_open` is called it is closed.

    Lock rule: that of the room `forward`. Methods may be called by any thread, and by a signal handler in the middle of
    a fork. Those that wait do so without the GIL. `_add` and `_take_ended` are called by one thread, or under a lock.
    """

    cdef forward_model.Forwarder *w
    cdef Listener _listener
    cdef bytes sorry
    cdef u64 generation     # of forks
    cdef u32 closing        # atomic

    def _open(self, Listener listener not None, list targets not None, *, u32 threads, u32 backlog, send_proxy,
              int64_t connect_ms, int64_t idle_ms, bytes unavailable not None):
        """Starts its threads. Called once.

        `targets` are the back ends: ``(packed address, port, scope)``, or the path of a Unix socket as bytes. Raises
        OSError, ValueError, MemoryError.
        """
        cdef forward_model.Forwarder *w
        cdef u32 i
        cdef int code
        if self.w != NULL or not 0 < threads <= forward_model.MAX_MOVERS:
            raise ValueError(f"{self!r}: opened twice, or too many threads")
        if not 0 < len(targets) <= forward_model.MAX_TARGETS:
            raise ValueError(f"{len(targets)} back ends: from 1 to {forward_model.MAX_TARGETS}")
        if fork.is_child():
            handle_the_fork()
        how = PROXY_HEADERS.index(send_proxy)
        w = <forward_model.Forwarder *>calloc(1, sizeof(forward_model.Forwarder))
        if w == NULL or forward.make_forwarder(w, <u32>len(targets), threads) != 0:
            if w != NULL:
                forward.free_forwarder(w)
            raise MemoryError
        self.w = w
        self._listener, self.sorry, self.generation = listener, unavailable, fork.generation
        w.header, w.connect_ms, w.idle_ms = how, connect_ms, idle_ms
        w.sorry, w.sorry_size = PyBytes_AS_STRING(unavailable), <u32>len(unavailable)
        try:
            for i in range(w.targets):
                read_place(&w.target[i].place, targets[i])
        except BaseException:
            self.closing = 1
            raise
        with nogil:
            code = open_forwarder_among_all(w, backlog)
        if code != 0:
            NativeForwarder.close(self)
            raise OSError(-code, f"the forwarder can't begin: {cause_of(-code)}")

    def __del__(self):
        NativeForwarder.close(self)

    def __dealloc__(self):
        if self.w == NULL:
            return
        if forwarder_is_left(self):
            take_left_forwarder_out(self.w)
        forward.free_forwarder(self.w)

    def close(self):
        """Cuts off all connections and waits for the threads: for a batch each. Idempotent."""
        cdef forward_model.Forwarder *w = self.w
        if fork.is_child():
            handle_the_fork()
        if w == NULL or forwarder_is_left(self) or bits.exchange32(&self.closing, 1):
            return
        with nogil:
            forward.end_forwarder(w)
            take_forwarder_out(w)

    @property
    def closed(self):
        """Whether it takes no connection any more: closed, or other code has closed what it waits on."""
        if fork.is_child():
            handle_the_fork()
        if self.w == NULL or forwarder_is_left(self) or bits.load32(&self.closing):
            return True
        return gate_queue.is_lost(&self.w.inbox)

    @property
    def _is_lost(self):
        """Whether other code has closed a descriptor without which it takes no connection. Those it has go on."""
        return self.closed and self.w != NULL and not forwarder_is_left(self) and bits.load32(&self.closing) == 0

    def second_fileno(self):
        """A descriptor that is readable while `_take_ended` has something to return, or the forwarder is closed: the
        caller closes it. Raises OSError."""
        cdef int made = -EBADF
        if self.w != NULL and own_socket.is_own(&self.w.reads):
            made = own_socket.second_descriptor(self.w.reads.fd)
        if made < 0:
            raise OSError(-made, f"{self!r} can't be watched: {cause_of(-made)}")
        return made

    def _add(self, int fd, Session session, bint refused=False):
        """Takes over the descriptor of a connection, unless it returns 0: then there is no room, or it is closed.

        Returns the number by which `_take_ended` returns it. It stays counted by its session. `refused`: its reply was
        sent; it is closed once the client has closed, or after a second, and `_take_ended` never returns it. Raises
        MemoryError.
        """
        cdef gate_queue.Connection c
        cdef forward_model.Flow *f
        if self.closed:
            return 0
        f = <forward_model.Flow *>calloc(1, sizeof(forward_model.Flow))
        if f == NULL:
            raise MemoryError
        f.is_known = not refused
        f.stage = forward_model.REFUSED if refused else forward_model.CONNECTING
        memset(&c, 0, sizeof(c))
        if session is not None:
            copy_accept(session, &c.ac)
            c.ac.open = 0  # here
        c.flow = f
        own_socket.own(&c.socket, fd)
        if not gate_queue.push(&self.w.inbox, &c):
            free(f)
            return 0
        return <uintptr_t>f

    def _take_ended(self):
        """The numbers of connections that were added, and have ended since the last call. Never waits."""
        cdef forward_model.Forwarder *w = self.w
        cdef forward_model.Flow *f
        cdef forward_model.Flow *after
        if w == NULL or forwarder_is_left(self):
            return []
        if not bits.load32(&self.closing):
            forward_flow.check_news(w)
        gate_queue.lock_mutex(&w.news_lock)
        f, w.ended = w.ended, NULL
        if w.shown and own_socket.is_own(&w.reads):
            own_socket.take_byte(w.reads.fd)
        w.shown = False
        gate_queue.unlock_mutex(&w.news_lock)
        ended = []
        while f != NULL:
            after = f.next
            ended.append(<uintptr_t>f)
            free(f)
            f = after
        return ended

    def _is_down(self, u32 target):
        """Whether a back end could not be reached, and `_mark_up` was not called since."""
        return self.w != NULL and target < self.w.targets and bits.load32(&self.w.target[target].down) != 0

    def _mark(self, u32 target, bint down):
        """What a probe has found."""
        if self.w != NULL and target < self.w.targets:
            bits.store32(&self.w.target[target].down, down)

    # ---- figures

    @property
    def waiting(self):
        """Connections that no thread has taken yet."""
        return 0 if self.closed else bits.load32(&self.w.inbox.size)

    @property
    def open(self):
        """Connections that have not ended: also those that wait."""
        if self.w == NULL:
            return 0
        ended = over_movers(self.w, &self.w.mover.ended_flows)  # first, so that the difference is never too large
        return over_movers(self.w, &self.w.mover.begun_flows) - ended + self.waiting

    @property
    def begun(self):
        """Connections that a thread has taken."""
        return 0 if self.w == NULL else over_movers(self.w, &self.w.mover.begun_flows)

    @property
    def bytes_in(self):
        """Bytes that clients have sent."""
        return 0 if self.w == NULL else over_movers(self.w, &self.w.mover.moved[0])

    @property
    def bytes_out(self):
        """Bytes that back ends have sent."""
        return 0 if self.w == NULL else over_movers(self.w, &self.w.mover.moved[1])

    @property
    def unavailable(self):
        """Clients that were sent away, as no back end could be reached."""
        return 0 if self.w == NULL else over_movers(self.w, &self.w.mover.unavailable)

    @property
    def timed_out(self):
        """Connections that were idle for too long."""
        return 0 if self.w == NULL else over_movers(self.w, &self.w.mover.timed_out)

    @property
    def reset(self):
        """Connections of which one side was reset, and the other was for that."""
        return 0 if self.w == NULL else over_movers(self.w, &self.w.mover.reset)

    @property
    def failures(self):
        """Times when the system refused memory, a descriptor or a port."""
        return 0 if self.w == NULL else over_movers(self.w, &self.w.mover.failures)

    @property
    def lost(self):
        """Descriptors of the forwarder that other code has closed, and that it has missed."""
        return 0 if self.w == NULL else over_movers(self.w, &self.w.mover.lost)

    # ---- forks

    def _hold(self):
        """As `NativeGate._hold`."""
        if self.w == NULL or forwarder_is_left(self):
            return False
        with nogil:
            forward.hold(self.w)
        return True

    def _let_go(self):
        """In the parent or the child."""
        if self.w != NULL:
            forward.let_go(self.w)

    def _leave(self):
        """In the child of a fork: the forwarder is the parent's. Its descriptors are closed here, unless that was
        done."""
        bits.store32(&self.closing, 1)
        if self.w != NULL:
            forward.leave_to_parent(self.w)
            take_left_forwarder_out(self.w)


cdef bint forwarder_is_left(NativeForwarder self) noexcept:
    """Whether it is a forwarder of the parent of a fork."""
    return self.generation != fork.generation or (fork.is_child() and not fork.is_handling())


cdef u64 over_movers(const forward_model.Forwarder *w, const u64 *first) noexcept:
    """The sum of a counter over all movers; `first` is that of the first one."""
    cdef u64 total = 0
    cdef u32 i
    for i in range(w.movers):
        total += bits.load64(<u64 *>(<char *>first + i * sizeof(forward_model.Mover)))
    return total


cdef int read_place(forward_model.Place *out, object target) except -1:
    cdef const char *text
    if isinstance(target, bytes):
        text = PyBytes_AS_STRING(target)
        if forward.set_path(out, text, <u32>len(target)) != 0:
            raise ValueError(f"{target!r}: the path of a Unix socket is too long")
        return 0
    packed, port, scope = target
    text = PyBytes_AS_STRING(packed)
    if len(packed) not in (4, 16):
        raise ValueError(f"{packed!r}: expected 4 or 16 bytes")
    forward.set_address(out, <const u8 *>text, <int>len(packed), port, scope)
    return 0
