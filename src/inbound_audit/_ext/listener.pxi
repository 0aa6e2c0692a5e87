# A listener: opens sessions, and counts its own.

cdef u64 conn_ids = 1   # atomic


cdef inline Session new_session(Listener listener, const ip.Address *a, int port, object local, u32 monitors):
    """A session that is not counted yet, and so many monitors will count."""
    cdef Session s = Session.__new__(Session)
    s.listener = listener
    s.local = None if local is None else plain_local(local)
    s.ac.tree = listener.tree
    s.ac.hi, s.ac.lo, s.ac.version, s.ac.remote_port = a.hi, a.lo, <u8>a.version, <u16>port
    s.ac.conn_id = bits.fetch_add64(&conn_ids, 1)
    if monitors:
        s.counted = <int64_t *>malloc((1 + monitors) * sizeof(int64_t))
        if s.counted == NULL:
            raise MemoryError
    return s


@cython.final
@cython.no_gc_clear  # a session's tree is alive as long as its listener keeps the audit
cdef class Listener:
    """A named listener of one service type; owns the tree that counts its sessions. Made by `InboundAudit.listener`.

    Lock rule: the lock of its tree is held to open a session. Counts take no lock.
    """

    cdef model.Tree *tree
    cdef readonly Audit audit
    cdef readonly str service_type
    cdef readonly str name

    def __repr__(self):
        return f"<Listener {self.service_type}/{self.name}: {self.total} open>"

    def session(self, remote, local=None):
        """Opens a session: it is counted from now until `Session.close`.

        `remote` is a getpeername() tuple, a text (``"192.0.2.7"``, ``"192.0.2.7:25"``, ``"[2001:db8::7]:25"``), an
        ipaddress object or packed bytes; `local` the same for the listener's own side, read only when asked for.

        Raises AddressError, CapacityError, and InboundAuditError when the audit is closed. O(bytes of the address).

        In shared mode two processes that each open a session and then count see both of them, or one of them does: the
        session is in its tree before any other tree is read after this.
        """
        cdef Session s
        cdef model.Tree *t = self.tree
        cdef ip.Address a
        cdef int port, code
        cdef int64_t now = 0
        cdef u32 monitors
        if fork.is_child():
            handle_the_fork()
        read_address(remote, True, &a, &port)
        if bits.load32(&t.state) == model.NO_FILE:
            self.audit._ensure_file()
        monitors = bits.acquire32(&t.owner.monitors)
        if monitors:
            now = window.now_of(t.owner)  # before the lock, and before the session: a clock may be Python's
        s = new_session(self, &a, port, local, monitors)
        lock_tree(t)
        code = session_.add_session(&s.ac, &a)
        seqlock.unlock(&t.arena.lock)
        session_.show_session(t)
        if code == codes.CLOSED:
            raise InboundAuditError("the audit is closed")
        if code != codes.OK:
            raise_change(code, remote, t)
        if monitors:
            series_change.record_event(t.owner, monitors, model.CONNECTIONS, &a, 1, now, s.counted)
        return s

    def visit(self, remote, local=None):
        """A session of a client that another listener or process counts: a policy can be asked about it, and it is
        itself neither counted nor recorded. It is closed from the beginning. Arguments are those of `session`. Its
        counts are 0 once the audit is closed.

        Raises AddressError, and CapacityError for an audit that has no file and gets none. O(1).
        """
        cdef ip.Address a
        cdef int port
        if fork.is_child():
            handle_the_fork()
        read_address(remote, True, &a, &port)
        if bits.load32(&self.tree.state) == model.NO_FILE:
            self.audit._ensure_file()
        return new_session(self, &a, port, local, 0)

    def inbound_session_count(self, cidr=None, Session ac=None):
        """How many sessions of this listener are open now, in shared mode those of all processes.

        `cidr` is an address or a prefix of any length; with `ac` also a length of its connecting IP (``"/24"``,
        ``"/24,/56"``), and None is exactly that IP. With neither, all sessions of the listener.

        Raises CidrError. O(prefix length x processes); takes no lock.
        """
        cdef size_t size = 0
        cdef const char *c
        cdef prefix.Prefix peer
        cdef int64_t count
        if fork.is_child():
            handle_the_fork()
        if ac is not None:
            peer_of_session(ac, &peer)
        if cidr is None:
            return sums.listener_total(self.tree) if ac is None else sums.listener_count(self.tree, &peer)
        c = ascii(cidr, &size)
        if c == NULL:
            raise not_ascii(cidr)
        count = query.query_listener(self.tree, NULL if ac is None else &peer.address, c, size)
        if count < 0:
            raise count_error(count, cidr, None, self.audit)
        return count

    @property
    def total(self):
        """Open sessions of this listener, both families; in shared mode in all processes."""
        if fork.is_child():
            handle_the_fork()
        return sums.listener_total(self.tree)

    @property
    def memory(self):
        """Bytes of the arena in use, free lists included."""
        return arena.arena_used(&self.tree.arena)

    def _check(self):
        """Raises AssertionError when an invariant of the trie does not hold. O(hosts)."""
        check_tree(self.tree)


seal(Listener, no_listener)
