# The accept construct and its listener.

cdef extern from *:
    """
    /* Python makes no object of these types: one without a tree would crash. Cython makes them by their static
       functions, and does not use the slots that are replaced here. */
    static PyObject *ia_no_session(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
        (void)type; (void)args; (void)kwargs;
        PyErr_SetString(PyExc_TypeError, "a session is opened by Listener.session()");
        return NULL;
    }
    static PyObject *ia_no_listener(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
        (void)type; (void)args; (void)kwargs;
        PyErr_SetString(PyExc_TypeError, "a listener is made by InboundAudit.listener()");
        return NULL;
    }
    static PyObject *ia_no_node_tree(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
        (void)type; (void)args; (void)kwargs;
        PyErr_SetString(PyExc_TypeError, "a tree of a node is made by NodeTrees.add() or ClusterSeries.tree()");
        return NULL;
    }
    static PyObject *ia_no_cluster_series(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
        (void)type; (void)args; (void)kwargs;
        PyErr_SetString(PyExc_TypeError, "a series over the cluster is made by NodeTrees.series()");
        return NULL;
    }
    /* As cython.critical_section, but without an instruction where Python has a GIL: counts stand in it. */
    #ifdef Py_GIL_DISABLED
    typedef PyCriticalSection ia_section;
    #define ia_section_begin(section, of) PyCriticalSection_Begin(section, of)
    #define ia_section_end(section) PyCriticalSection_End(section)
    #else
    typedef int ia_section;
    #define ia_section_begin(section, of) ((void)(section))
    #define ia_section_end(section) ((void)(section))
    #endif
    static void ia_seal(PyObject *type, newfunc refuse) {
        ((PyTypeObject *)type)->tp_new = refuse;
        ((PyTypeObject *)type)->tp_vectorcall = NULL;
    }
    """
    ctypedef void (*newfunc)()
    newfunc no_session "ia_no_session"
    newfunc no_listener "ia_no_listener"
    newfunc no_node_tree "ia_no_node_tree"
    newfunc no_cluster_series "ia_no_cluster_series"
    void seal "ia_seal"(object, newfunc)
    ctypedef struct Section "ia_section":
        pass
    void section_begin "ia_section_begin"(Section *, object) noexcept
    void section_end "ia_section_end"(Section *) noexcept


@cython.final
@cython.no_gc
@cython.freelist(64)
cdef class Session:
    """One open inbound session: the accept construct, `ac`. Made by `Listener.session`, counted until `close`.

    Closing is idempotent and never fails; `with` does it. A session that is collected while it is open is closed and
    warns (`ResourceWarning`). Any thread may count, also after the session has ended.

    Lock rule: the lock of the listener's tree is held to close and to rebind. Counts take no lock of the core: a count
    beside a `rebind` in another thread is of the address before or after. `rebind` changes several fields of `ac`, so
    it stands in a critical section of the session, and so does what reads the address (where Python has a GIL, the
    section is empty). Lua copies `ac` when a hook begins, without the GIL: a session's hooks and its `rebind` are not
    called at the same time. `open` is one byte: it is read without the lock to see that nothing is to be done, and
    again under it.
    """

    cdef model.ia_ac ac
    cdef readonly Listener listener
    cdef object local
    cdef int64_t *counted   # in which windows monitors have counted it, from `record_event`; NULL: in none

    def __dealloc__(self):
        free(self.counted)
        if self.ac.open and self.ac.epoch == self.ac.tree.epoch and not fork.is_child():
            end_session(self)
            if not Py_IsFinalizing():  # at exit the module `warnings` may be gone
                warnings.warn(f"session from {self.remote_ip} was never closed", ResourceWarning, stacklevel=1)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        end_session(self)

    def __repr__(self):
        where = f"{self.service_type}/{self.listener_name}{' closed' if self.closed else ''}"
        return f"<Session {self.conn_id} from {self.remote_addr} on {where}>"

    def close(self):
        """Ends the session: it is counted no more. O(bytes of the address)."""
        end_session(self)

    def rebind(self, remote):
        """The real client became known (PROXY, XCLIENT): its count moves there, at one moment for every reader.

        Raises AddressError or CapacityError, and the session stays where it is counted; InboundAuditError when it is
        closed. O(bytes of the address).
        """
        cdef ip.Address source, target
        cdef model.Tree *t = self.ac.tree
        cdef int port, code
        cdef Section section
        if fork.is_child():
            handle_the_fork()
        read_address(remote, True, &target, &port)
        section_begin(&section, self)
        lock_tree(t)
        if self.ac.open and self.ac.epoch == t.epoch:
            source.hi, source.lo, source.version = self.ac.hi, self.ac.lo, self.ac.version
            code = trie.trie_move(&t.arena, &source, &target, 1)
        else:
            code = codes.CLOSED
        if code == codes.OK:
            self.ac.hi, self.ac.lo, self.ac.version = target.hi, target.lo, <u8>target.version
            self.ac.remote_port = <u16>port
        seqlock.unlock(&t.arena.lock)
        session_.show_session(t)
        if code == codes.OK and self.counted != NULL:
            series_change.move_connection(t.owner, &source, &target, self.counted)
        section_end(&section)
        if code == codes.CLOSED:
            raise InboundAuditError("the session is closed")
        if code != codes.OK:
            raise_change(code, remote, t)

    def record_reception(self, n=1):
        """Records `n` messages that were accepted from this session's address, in the current windows of all monitors.

        Raises ValueError for a number below 1 or over 4294967295. O(monitors x bytes of the address).
        """
        record_session_event(self, model.RECEPTIONS, n)

    def record_rejection(self, n=1):
        """Records `n` rejections, as `record_reception` records messages."""
        record_session_event(self, model.REJECTIONS, n)

    def count_reception(self, n=1):
        """The earlier name of `record_reception`."""
        record_session_event(self, model.RECEPTIONS, n)

    def count_rejection(self, n=1):
        """The earlier name of `record_rejection`."""
        record_session_event(self, model.REJECTIONS, n)

    def inbound_session_count(self, cidr=None, service_type=None):
        """How many sessions are open now; the argument's grammar is that of the reference's `ac` method.

        No arguments: this listener, exactly the connecting IP. `cidr` is a length of the connecting IP (``"/24"``,
        ``"/24,/56"``), an address or a prefix; `service_type` defaults to SMTP. The asking session is included.

        Raises CidrError or UnknownServiceType. O(prefix length x listeners of the service); takes no lock.
        """
        cdef size_t cidr_size = 0, service_size = 0
        cdef const char *c = NULL
        cdef const char *s = NULL
        cdef int64_t count
        cdef Section section
        if fork.is_child():
            handle_the_fork()
        if cidr is not None:
            c = ascii(cidr, &cidr_size)
            if c == NULL:
                raise not_ascii(cidr)
        if service_type is not None:
            s = ascii(service_type, &service_size)
            if s == NULL:
                raise UnknownServiceType(service_type, self.listener.audit.service_types)
        section_begin(&section, self)
        count = query.query_sessions(&self.ac, c, cidr_size, s, service_size)
        section_end(&section)
        if count < 0:
            raise count_error(count, cidr, service_type, self.listener.audit)
        return count

    @property
    def remote_addr(self):
        """``"192.0.2.7:port"``, or ``"2001:db8::7.port"`` for IPv6: the form that policies split. Port 0: unknown."""
        cdef prefix.Prefix p
        cdef char text[ip_text.TEXT_MAX]
        cdef model.ia_ac ac
        copy_accept(self, &ac)
        query.peer_of(&ac, &p)
        return PyUnicode_DecodeASCII(text, ip_text.format_remote(&p.address, ac.remote_port, text), NULL)

    @property
    def remote_ip(self):
        """The connecting IP as text (RFC 5952)."""
        cdef prefix.Prefix p
        peer_of_session(self, &p)
        return address_text(&p.address)

    @property
    def remote_port(self):
        """0 when it is not known."""
        return self.ac.remote_port

    @property
    def version(self):
        """4 or 6; an IPv4-mapped peer is 4."""
        return self.ac.version

    @property
    def local_addr(self):
        """The listener's own address in the form of `remote_addr`, or None."""
        cdef ip.Address a
        cdef char text[ip_text.TEXT_MAX]
        cdef int port
        if self.local is None:
            return None
        read_address(self.local, True, &a, &port)
        return PyUnicode_DecodeASCII(text, ip_text.format_remote(&a, port, text), NULL)

    @property
    def service_type(self):
        return self.listener.service_type

    @property
    def listener_name(self):
        return self.listener.name

    @property
    def conn_id(self):
        """A number that no other session of this process has."""
        return self.ac.conn_id

    @property
    def override(self):
        """What an override says about the connecting IP now: "allow", "deny" or None. `decision` says why."""
        return override_of_session(self)

    @property
    def decision(self):
        """The override that holds for the connecting IP now, as `InboundAudit.decisions` has it, or None."""
        return None if override_of_session(self) is None else self.listener.audit._decision_for(self.remote_ip)

    @property
    def closed(self):
        """True once it is counted no more: closed, or its audit was closed, or left behind by a fork."""
        if fork.is_child():
            handle_the_fork()
        return not self.ac.open or self.ac.epoch != bits.load32(&self.ac.tree.epoch)

    @property
    def _handle(self):
        """The address of the C struct `ia_ac`, good while this object is referenced."""
        return <uintptr_t>&self.ac


cdef inline void copy_accept(Session s, model.ia_ac *out) noexcept:
    """The accept construct as of one moment. `s` must not be None."""
    cdef Section section
    section_begin(&section, s)
    out[0] = s.ac
    section_end(&section)


cdef inline void peer_of_session(Session s, prefix.Prefix *out) noexcept:
    """The connecting IP as of one moment. `s` must not be None."""
    cdef Section section
    section_begin(&section, s)
    query.peer_of(&s.ac, out)
    section_end(&section)


cdef object not_ascii(object cidr):
    if isinstance(cidr, str):
        return CidrError(f"{cidr!r}: has a NUL or a non-ASCII character")
    return CidrError(f"{cidr!r}: {reason_of(codes.NOT_TEXT)}")


cdef object plain_local(object local):
    """What a session may keep of `local`: it takes no part in garbage collection, so nothing that could lead back."""
    if type(local) is str or type(local) is bytes:
        return local
    if isinstance(local, tuple) and local:
        port = local[1] if len(<tuple>local) > 1 and type(local[1]) is int else 0
        return (str(local[0]), port)
    if isinstance(local, (bytearray, memoryview)):
        return bytes(local)
    packed = getattr(local, "packed", None)
    return packed if type(packed) is bytes else str(local)


cdef void end_session(Session s) noexcept:
    cdef model.Tree *t = s.ac.tree
    if not s.ac.open:
        return
    if fork.is_child():  # it is the parent's session
        s.ac.open = 0
        return
    lock_tree(t)
    session_.remove_session(&s.ac)
    seqlock.unlock(&t.arena.lock)


seal(Session, no_session)
