# The gate: threads that accept, count, ask the limits and refuse without the GIL.

from _thread import start_new_thread

MAX_GATE_SOCKETS = gate_model.MAX_SOCKETS

cdef tuple LINGERS = ("close", "abort", "drain")              # by `gate_model.Linger`


@cython.no_gc_clear  # its threads use the listener's tree and the rules until they have ended
cdef class NativeGate(_GateFigures):
    """The native part of `inbound_audit.listeners.gate.Gate`. Until `_open` is called it is closed.

    Lock rule: that of the room `gate`. Methods may be called by any thread, and by a signal handler in the middle of
    one of them, or of a fork. Those that wait do so without the GIL.

    A thread of the gate runs Python only for the audit's clock. It can't wait for its own end: a gate that it closes
    or drops stops at once, and is ended by another thread.
    """

    cdef Listener _listener
    cdef GateRules rules
    cdef readonly dict _noted_rules   # by their number: those that may have made the decisions which are noted
    cdef u64 said_lost      # decisions that `_take_decisions` has returned as lost
    cdef PrefixCounter refusals
    cdef object make_socket
    cdef NativeForwarder forwarder
    cdef u64 generation     # of forks
    cdef u64 waiters        # threads that wait for `queue.reads`; atomic
    cdef u32 closing        # atomic

    def _open(self, Listener listener not None, list given not None, GateRules rules not None, make_socket, *,
              u32 backlog, u32 threads, linger, PrefixCounter refusals=None):
        """Starts to accept from listening sockets, which are given by their descriptors. Called once.

        `make_socket(family, type, proto, fileno)` makes the sockets that `_take` returns. `refusals` counts each peer
        that is over a limit, if there is room. Raises OSError, MemoryError, and what making a file for the counts
        raises.
        """
        cdef gate_model.Gate *g
        cdef int *fds
        cdef u32 number = 0
        cdef int code
        if len(given) > gate_model.MAX_SOCKETS:
            raise ValueError(f"{len(given)} listening sockets: at most {gate_model.MAX_SOCKETS}")
        if self.gate != NULL or not 0 < threads <= gate_model.MAX_LANES:
            raise ValueError(f"{self!r}: opened twice, or too many threads")
        if fork.is_child():
            handle_the_fork()
        if bits.load32(&listener.tree.state) == model.NO_FILE:
            listener.audit._ensure_file()
        how = LINGERS.index(linger)
        fds = <int *>calloc(len(given) + 1, sizeof(int))
        g = <gate_model.Gate *>calloc(1, sizeof(gate_model.Gate))
        if fds == NULL or g == NULL or gate.make_lanes(g, &rules.rules, <u32>len(given), threads) != 0:
            free(fds)
            if g != NULL:
                gate.free_gate(g)
            raise MemoryError
        for fd in given:
            fds[number] = fd
            number += 1
        self._listener, self.rules, self.make_socket = listener, rules, make_socket
        self.generation, self.refusals = fork.generation, refusals
        g.tree, g.linger = listener.tree, how
        if refusals is not None:
            g.refusals = &refusals.t
        self.gate = g
        with nogil:
            code = open_among_all(g, backlog, fds)
            free(fds)
        if code != 0:
            close_gate(self)
            raise OSError(-code, f"the gate can't begin: {cause_of(-code)}")

    def __del__(self):
        """In one of its own threads it comes back to life until another thread has closed it."""
        NativeGate.close(self)

    def __dealloc__(self):
        if self.gate == NULL or (not is_left(self) and not close_gate(self)):
            return  # no other thread could be started, and this one still needs the memory
        if is_left(self):
            take_out(self.gate)
        gate.free_gate(self.gate)

    def close(self):
        """Stops accepting, refuses what waits, and waits for the threads. The listening sockets stay the caller's.

        Idempotent. Waits for a batch (`MAX_BATCH` connections) at most. In one of the gate's own threads (a clock that
        is Python's runs there) it returns at once, and another thread ends the gate. Raises RuntimeError if there that
        thread can't be started.
        """
        if fork.is_child():
            handle_the_fork()
        if self.gate != NULL and not is_left(self) and not close_gate(self):
            start_new_thread(NativeGate.close, (self,))

    def _exchange(self, GateRules rules not None):
        """Later connections are decided by these rules. Waits for a batch of each thread. One caller at a time. Raises
        RuntimeError in one of the gate's own threads, which is in the middle of a batch (see `close`)."""
        cdef gate_model.Gate *g = self.gate
        cdef u32 i
        if g != NULL and not is_left(self):
            if gate.is_lane(g):
                raise RuntimeError("a clock that a gate calls can't exchange the limits of that gate")
            if self._noted_rules is not None:
                self._noted_rules[rules.rules.number] = rules
            with nogil:
                for i in range(g.lanes):
                    gate_lane.lock_lane(&g.lane[i])
                    g.lane[i].rules = &rules.rules
                    gate_queue.unlock_mutex(&g.lane[i].lock)
        self.rules = rules

    def _forward_to(self, NativeForwarder forwarder):
        """Later connections that may stay go to a forwarder, or with None to Python. As `_exchange` otherwise."""
        cdef gate_model.Gate *g = self.gate
        cdef u32 i
        before = self.forwarder
        if g != NULL and not is_left(self) and (forwarder is None or forwarder.w != NULL):
            with nogil:
                for i in range(g.lanes):
                    gate_lane.lock_lane(&g.lane[i])
                g.out = &g.queue if forwarder is None else &forwarder.w.inbox
                for i in range(g.lanes):
                    gate_queue.unlock_mutex(&g.lane[i].lock)
            self.forwarder = forwarder
        del before  # its threads are not waited for under a lock

    def fileno(self):
        """A descriptor that is readable while a connection waits, or once the gate is closed; -1 when it was closed."""
        return -1 if self.closed else self.gate.queue.reads.fd

    def second_fileno(self):
        """A descriptor as `fileno`, which stays open, and readable, when the gate is closed: the caller closes it.
        Raises OSError, also if the gate is closed."""
        cdef int made = -EBADF
        if not self.closed:
            bits.fetch_add64(&self.waiters, 1)
            bits.fence_full()  # as in `_wait`
            if bits.load32(&self.closing) == 0 and own_socket.is_own(&self.gate.queue.reads):
                made = own_socket.second_descriptor(self.gate.queue.reads.fd)
            bits.fetch_add64(&self.waiters, <u64>-1)
        if made < 0:
            raise OSError(-made, f"{self!r} can't be watched: {cause_of(-made)}")
        return made

    @property
    def _asked_limits(self):
        """What later connections are asked about, or None."""
        return None if self.rules is None else self.rules.limits

    @property
    def closed(self):
        """Whether it accepts no more."""
        if fork.is_child():
            handle_the_fork()
        if self.gate == NULL or is_left(self) or bits.load32(&self.closing):
            return True
        return gate_queue.is_lost(&self.gate.queue)

    @property
    def _is_lost(self):
        """Whether it waits to be closed, because other code has closed a descriptor of its queue."""
        return self.closed and self.gate != NULL and not is_left(self) and bits.load32(&self.closing) == 0

    def _wait(self, double timeout_s):
        """Waits until `fileno` is readable, a signal comes or the time (below 0: none) is over. Frees the GIL."""
        cdef int milliseconds
        if self.closed:
            return
        milliseconds = -1 if timeout_s < 0 else <int>min(timeout_s * 1000 + 0.999, 3600e3)
        bits.fetch_add64(&self.waiters, 1)
        bits.fence_full()  # either `close_gate` sees this thread, or this thread sees that the gate closes
        if bits.load32(&self.closing) == 0:
            gate_queue.check_queue(&self.gate.queue)
            if not gate_queue.is_lost(&self.gate.queue):
                with nogil:
                    own_socket.wait_for(self.gate.queue.reads.fd, milliseconds)
        bits.fetch_add64(&self.waiters, <u64>-1)

    def _take(self, Py_ssize_t most):
        """Up to `most` connections that wait, as `(socket, Session or None, the limits that were asked or None)`; the
        sockets are as `make_socket` makes them. Limits that were exchanged since count as not asked. Never waits. If
        one can't be made, it closes all of them and raises."""
        cdef gate_queue.Connection c
        cdef bint found
        taken = []
        if self.gate == NULL or self.closed:
            return taken
        while len(taken) < most:
            found = gate_queue.pop(&self.gate.queue, &c)  # with the GIL: no fork of Python's comes between
            if not found:
                break
            if not own_socket.is_own(&c.socket):
                drop_connection(&c)
                continue
            try:
                taken.append(self.made(&c))
            except BaseException:
                drop_connection(&c)
                for connection, opened, _ in taken:
                    connection.close()
                    if opened is not None:
                        end_session(opened)
                raise
        return taken

    cdef tuple made(self, gate_queue.Connection *c):
        """The Python objects of a connection; what they own is no longer in `c`."""
        cdef Session opened = None
        cdef ip.Address a
        cdef u32 monitors
        if c.ac.open:
            a.hi, a.lo, a.version = c.ac.hi, c.ac.lo, c.ac.version
            monitors = <u32>c.numbers[0]
            opened = new_session(self._listener, &a, c.ac.remote_port, None, monitors)
            if monitors:
                memcpy(opened.counted, c.numbers, (1 + monitors) * sizeof(int64_t))
            opened.ac.epoch, opened.ac.open = c.ac.epoch, 1
            c.ac.open = 0
        try:
            connection = self.make_socket(c.family, SOCK_STREAM, 0, c.socket.fd)
            if opened is not None:
                opened.local = plain_local(connection.getsockname())
        except BaseException:
            if opened is not None:
                end_session(opened)
            raise
        return connection, opened, self.rules.limits if c.asked == self.rules.rules.number else None

    @property
    def _has_news(self):
        """Whether `_news` has something new: set at most once a second. Takes no lock."""
        return not self.closed and bits.load32(&self.gate.queue.news) != 0

    def _news(self):
        """What has happened since the last call that may be logged. Waits for a batch of each thread; in one of the
        gate's own (see `close`) it is nothing, for now.

        Returns the peer that was over a limit last, or None; the peer for which the queue had no room last, or None;
        the InboundAuditError that says why the last one could not be counted, or None; the number of the error of the
        last failure, or 0; and whether the counts need a file.
        """
        cdef gate_model.Gate *g = self.gate
        cdef model.ia_ac last, full, uncounted
        cdef int error = 0, code = 0
        cdef bint wants_file = False
        cdef u32 i
        memset(&last, 0, sizeof(last))
        full = uncounted = last
        if self.closed or gate.is_lane(g):
            return None, None, None, 0, False
        with nogil:
            bits.store64(&g.noted, gate_lane.news_of(g))
            gate_queue.set_news(&g.queue, False)
            for i in range(g.lanes):
                gate_lane.lock_lane(&g.lane[i])
                take_news(&g.lane[i].last, &last)
                take_news(&g.lane[i].last_full, &full)
                if take_news(&g.lane[i].last_uncounted, &uncounted):
                    code = g.lane[i].count_error
                if g.lane[i].error:
                    error = <int>g.lane[i].error
                    bits.store32(&g.lane[i].error, 0)
                wants_file = wants_file or g.lane[i].wants_file
                bits.store32(&g.lane[i].wants_file, 0)
                gate_queue.unlock_mutex(&g.lane[i].lock)
        return text_of_peer(&last), text_of_peer(&full), error_of_count(&uncounted, code), error, bool(wants_file)

    def _note_decisions(self):
        """From now on what is decided is noted for `_take_decisions`. Idempotent; waits for a batch of each thread.
        Raises MemoryError, and RuntimeError in one of the gate's own threads (see `_exchange`)."""
        cdef gate_model.Gate *g = self.gate
        cdef gate_decisions.Decision *place[gate_model.MAX_LANES]
        cdef u32 i, made
        if g == NULL or self._noted_rules is not None or is_left(self):
            return
        if gate.is_lane(g):
            raise RuntimeError("a clock that a gate calls can't change that gate")
        for made in range(g.lanes):
            place[made] = <gate_decisions.Decision *>calloc(gate_decisions.ROOM, sizeof(gate_decisions.Decision))
            if place[made] == NULL:
                for i in range(made):
                    free(place[i])
                raise MemoryError
        self._noted_rules = {self.rules.rules.number: self.rules}
        with nogil:
            for i in range(g.lanes):
                gate_lane.lock_lane(&g.lane[i])
                if g.lane[i].decisions.place == NULL:  # another thread may have come first
                    g.lane[i].decisions.place, place[i] = place[i], NULL
                gate_queue.unlock_mutex(&g.lane[i].lock)
                free(place[i])

    def _take_decisions(self, Py_ssize_t most):
        """What was decided since the last call, and how much more it was: of each thread at most `most` decisions,
        those that came first, as `(what, microseconds, client, port, name of the limit, prefix, count, most)`.

        `client` is None for a peer without an address; the last four are None for a `what` that is neither "over" nor
        "would be over". Never waits; also of a gate that is closed. One caller at a time.
        """
        cdef gate_model.Gate *g = self.gate
        cdef gate_decisions.Decision d
        cdef Py_ssize_t taken
        cdef u64 lost = 0
        cdef u32 i
        if g == NULL or self._noted_rules is None or is_left(self):
            return [], 0
        found, left_out, asked = [], 0, self.rules.rules.number
        for i in range(g.lanes):
            taken = 0
            while taken < gate_decisions.ROOM and gate_decisions.next_decision(&g.lane[i].decisions, &d):
                if taken < most:
                    found.append(decision_of(self._noted_rules[d.rules], &d))
                else:
                    left_out += 1
                taken += 1
            lost += gate_decisions.lost_decisions(&g.lane[i].decisions)
        # Whatever was noted before these rules came is taken.
        for number in [number for number in self._noted_rules if number < asked]:
            del self._noted_rules[number]
        left_out += lost - self.said_lost
        self.said_lost = lost
        return found, left_out

    @property
    def waiting(self):
        """Connections in the queue."""
        return 0 if self.closed else bits.load32(&self.gate.queue.size)

    # ---- forks

    @property
    def _is_held(self):
        """Whether this thread is about to fork: a signal handler runs in the middle of that."""
        return gate.held_here != 0

    def _hold(self):
        """Waits until no thread is in the middle of a batch. Until `_let_go` none begins one. Returns False, and holds
        nothing, in a child that was made without Python: its gate has no thread, and locks that none gives back."""
        if self.gate == NULL or is_left(self):
            return False
        with nogil:
            gate.hold(self.gate)
        return True

    def _let_go(self):
        """In the parent or the child."""
        if self.gate != NULL:
            gate.let_go(self.gate)

    def _leave(self):
        """In the child of a fork: the gate is the parent's. Its descriptors are closed here, unless that was done."""
        bits.store32(&self.closing, 1)
        if self.gate != NULL:
            gate.leave_to_parent(self.gate)
            take_out(self.gate)


cdef bint is_left(NativeGate self) noexcept:
    """Whether it is a gate of the parent of a fork."""
    return self.generation != fork.generation or (fork.is_child() and not fork.is_handling())


cdef bint close_gate(NativeGate self) noexcept:
    """Once. Returns False in a thread of the gate itself, which can't wait for its own end: it ends later."""
    cdef gate_model.Gate *g = self.gate
    if gate.is_lane(g):
        gate.ask_to_stop(g)
        return False
    if bits.exchange32(&self.closing, 1) == 0:
        with nogil:
            bits.fence_full()
            gate.end_gate(g)
            while bits.load64(&self.waiters):
                seqlock.sched_yield()
            gate_queue.close_queue(&g.queue)
            take_from_all(g)
    return True


cdef void drop_connection(gate_queue.Connection *c) noexcept:
    """Closes a connection for which no Python objects were made, or which they or other code have closed."""
    own_socket.close_socket(&c.socket)
    with nogil:
        gate_connection.take_back(c)
