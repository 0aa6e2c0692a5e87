# Services, listeners, monitors, and sums over their trees.


cdef class Audit:
    """The native part of `inbound_audit.InboundAudit` and of `inbound_audit.shared.View`: services, listeners,
    monitors, and sums over their trees. `services` are the service types, `capacity` and `clock` are those of
    `InboundAudit`.

    Raises UnknownServiceType, CapacityError, TypeError for a clock that can't be called.

    Lock rule: `Owner.lock` is held to change what the audit consists of: its services, trees, series, rings and its
    file. Under it runs no Python code, and no Python object that takes part in garbage collection is made: a finalizer
    may use the audit. Counts take no lock. The lock of a tree or of a series is taken after it, never before it.
    """

    cdef model.Owner *owner
    cdef object clock               # a callable that returns seconds; None: the system's clock
    cdef SeriesTable made_series    # what `series` returns
    cdef dict listeners             # by service type and name; changed under the lock
    cdef u64 capacity
    cdef bint is_closed
    cdef owner_files.OwnerHeader *own   # of our file, in shared mode
    cdef int own_guard

    def __cinit__(self, *args, **kwargs):
        self.owner = <model.Owner *>calloc(1, sizeof(model.Owner))
        if self.owner == NULL:
            raise MemoryError
        self.listeners = {}
        self.own_guard = sigbus.UNGUARDED
        self.capacity = DEFAULT_CAPACITY
        trees.add_known_services(self.owner)

    def __init__(self, services=(), capacity=DEFAULT_CAPACITY, clock=None):
        if clock is not None:
            if not callable(clock):
                raise TypeError(f"clock {clock!r}: expected a callable that returns seconds since 1970")
            self.clock = clock
            self.owner.clock = <void *>clock
            self.owner.last_now = time_of_system()
            self.owner.now = python_clock
        check_capacity(capacity)
        self.capacity = affordable(capacity, 16)  # for some listeners, and for the rest of the program
        if isinstance(services, str):
            raise UnknownServiceType(services, self.service_types, "is a text, not a list of service types")
        for name in services:
            self.add_service(name)

    def __dealloc__(self):
        leave_file(self)
        if self.owner != NULL:
            trees.free_trees(self.owner)
            kept_file.kept_free(self.owner.own_file)
            free(self.owner)

    cdef int number_of(self, object service_type) except -1:
        cdef size_t size = 0
        cdef const char *name = ascii(service_type, &size)
        cdef int number = codes.NO_SERVICE if name == NULL else trees.find_service(self.owner, name, size)
        if number < 0:
            raise UnknownServiceType(service_type, self.service_types)
        return number

    cdef int add_service(self, str name) except -1:
        """The number of a service type, which becomes known. Raises UnknownServiceType for a malformed name."""
        cdef size_t size = 0
        cdef const char *s = ascii(name, &size)
        cdef int number
        if s == NULL or not 0 < size <= model.MAX_SERVICE_NAME or not name.isprintable():
            why = f"the name of a service type is 1 to {model.MAX_SERVICE_NAME} printable ASCII characters"
            raise UnknownServiceType(name, self.service_types, why)
        lock_owner(self.owner)
        number = trees.ensure_service(self.owner, s, size)
        unlock_owner(self.owner)
        if number < 0:
            raise CapacityError(f"{name!r}: an audit has room for {self.owner.services} service types")
        return number

    def _listener(self, str service_type not None, str name not None):
        """The listener of that service type and name; the same object each time. A new service type becomes known."""
        cdef tuple key = (service_type, name)
        cdef Listener made = self.listeners.get(key)
        cdef layout.Label label
        cdef int number, code = MADE
        if fork.is_child():
            handle_the_fork()
        if made is not None:
            return made
        number = self.add_service(service_type)
        if number == model.INBOUND_CIDR:
            raise UnknownServiceType(service_type, self.service_types, "is a view; no listener can belong to it")
        label_listener(&label, service_type, name, self.owner.shared)
        made = Listener.__new__(Listener)
        made.audit, made.service_type, made.name = self, service_type, name
        lock_owner(self.owner)
        try:
            if key in self.listeners:  # another thread, or a finalizer, was first
                made = <Listener>self.listeners[key]
            else:
                code = make_listener_tree(self, number, &label, &made.tree)
                if code == MADE:
                    self.listeners[key] = made
        finally:
            unlock_owner(self.owner)
        if code == NO_TREES:
            raise CapacityError(f"{name!r}: an audit has room for {model.MAX_TREES} listeners")
        raise_unmade(code, self.capacity, self.owner.error)
        return made

    def _ensure_file(self):
        """A forked child of a shared audit is about to record: `InboundAudit` makes a file of its own."""

    def _announce(self):
        """Our file has a new tree: `InboundAudit` makes other processes scan for it."""

    def _carry_out_denials(self):
        """A limit wants a prefix denied: `InboundAudit` takes such wishes, and makes overrides of them."""

    def _decision_for(self, address):
        """The override that holds for an address: `InboundAudit` knows the reasons."""

    def _nodes(self):
        """The other nodes of the cluster, and this one, as the agent's file has them: `(name, state, heard_ns, hosts,
        sessions)` in the order of their names. The states are `NODE_STATES`; `heard_ns` is of CLOCK_MONOTONIC.
        O(nodes); takes no lock."""
        if fork.is_child():
            handle_the_fork()
        return rows_of_nodes(self.owner)

    def _drop_dead_owners(self):
        """`InboundAudit` drops the counts of processes that have ended, before their saved counts are adopted."""

    def close(self):
        """Drops every count. Idempotent."""
        forget_all(self, True, False)
        with cython.critical_section(self):
            self.made_series = None  # it refers to this audit

    # ---- events over time

    def connections(self, monitor, cidr=None, startv=0, endv=None, *, Session ac=None, cluster=False):
        """Connections in windows `startv` to `endv` of a monitor (as `startv` if it is None; 0 is the current window).

        `monitor` is its text (``"300,6"``) or its position; `cidr` as in `inbound_session_count`, where ``"/24"``, and
        None for exactly the connecting IP, speak of the session `ac`. `cluster`: with what the other nodes have
        recorded, of a monitor that the agents were given (``--monitor``). Raises MonitorError, CidrError.
        O(windows x prefix length x processes); takes no lock.
        """
        return query_kind(self, model.CONNECTIONS, monitor, cidr, startv, endv, ac, cluster)

    def receptions(self, monitor, cidr=None, startv=0, endv=None, *, Session ac=None, cluster=False):
        """Messages that were accepted; otherwise as `connections`."""
        return query_kind(self, model.RECEPTIONS, monitor, cidr, startv, endv, ac, cluster)

    def rejections(self, monitor, cidr=None, startv=0, endv=None, *, Session ac=None, cluster=False):
        """Rejections; otherwise as `connections`."""
        return query_kind(self, model.REJECTIONS, monitor, cidr, startv, endv, ac, cluster)

    def sliding_average(self, kind, monitor, cidr=None, *, Session ac=None, cluster=False):
        """A float: the current window, and the one before as far as a window of that width that ends now covers it.

        `kind` is ``"connections"``, ``"receptions"`` or ``"rejections"``; `cluster` as in `connections`. Raises
        MonitorError, CidrError.
        """
        cdef model.Series *s
        cdef model.Series *remote = NULL
        cdef prefix.Prefix p, peer
        cdef size_t size = 0
        cdef const char *c = NULL
        cdef int code = codes.OK
        cdef int64_t now
        cdef double average
        if kind not in MONITOR_KINDS:
            raise MonitorError(f"{kind!r}: expected one of {', '.join(MONITOR_KINDS)}")
        s = monitor_of(self, MONITOR_KINDS.index(kind), monitor)
        if ac is not None:
            peer_of_session(ac, &peer)
            p = peer
        elif cidr is None:
            raise CidrError(f"{cidr!r}: {reason_of(codes.NO_KEY)}")
        if cidr is not None:
            c = ascii(cidr, &size)
            if c == NULL:
                raise not_ascii(cidr)
            code = prefix.parse_cidr(c, c + size, &peer.address if ac is not None else NULL, &p)
        if code != codes.OK:
            raise window_error(code, cidr, None, self)
        if is_of_cluster(s, cluster):
            remote = model.load_series(&s.remote)
        now = window.now_of(self.owner)
        average = series_query.sliding_average(s, now, &p)
        return average if remote == NULL else average + series_query.sliding_average(remote, now, &p)

    @property
    def monitors(self):
        """The texts of the monitors, as a tuple."""
        return monitor_names(self)

    @property
    def uncounted(self):
        """Connections, receptions and rejections for which a monitor had no room."""
        cdef u32 m
        cdef u64 n = 0
        for m in range(bits.acquire32(&self.owner.monitors)):
            for kind in range(len(MONITOR_KINDS)):
                n += bits.load64(&self.owner.monitor[m][kind].uncounted)
        return n

    @property
    def series(self):
        """The named series."""
        cdef SeriesTable made
        with cython.critical_section(self):
            made = self.made_series
        if made is None:
            made = self._make_series()
            with cython.critical_section(self):  # another thread, or a finalizer, may have been first
                if self.made_series is None:
                    self.made_series = made
                made = self.made_series
        return made

    def _make_series(self):
        return SeriesTable(self)

    # ---- open sessions

    @property
    def closed(self):
        return self.is_closed

    @property
    def service_types(self):
        """The names that are known, as a tuple."""
        cdef u32 i
        return tuple([self.owner.service[i].name.decode("ascii") for i in range(self.owner.services)])

    def inbound_session_count(self, cidr, service_type="SMTP"):
        """How many sessions of a service are open now from an address or prefix. There is no connecting IP here, so a
        length alone (``"/24"``) is an error.

        Raises CidrError or UnknownServiceType. O(prefix length x listeners of the service); takes no lock.
        """
        cdef size_t cidr_size = 0, service_size = 0
        cdef const char *c = ascii(cidr, &cidr_size)
        cdef const char *s = ascii("SMTP" if service_type is None else service_type, &service_size)
        cdef int64_t count
        if fork.is_child():
            handle_the_fork()
        if c == NULL:
            raise not_ascii(cidr)
        if s == NULL:
            raise UnknownServiceType(service_type, self.service_types)
        count = query.query_absolute(self.owner, c, cidr_size, s, service_size)
        if count < 0:
            raise count_error(count, cidr, service_type, self)
        return count

    def total(self, service_type="SMTP"):
        """Open sessions of a service, both families. Raises UnknownServiceType. O(listeners)."""
        if fork.is_child():
            handle_the_fork()
        return sums.total_trees(trees.trees_of(self.owner, self.number_of(service_type)))

    def top(self, n=10, *, service_type="SMTP", prefixlen=(32, 128)):
        """The `n` largest prefixes of those two lengths (IPv4, IPv6) as `(count, "prefix/length")`, the largest first,
        and of equal counts the lower address.

        Opens only prefixes that are larger than the n-th answer; frees the GIL and stops no writer: each row was true
        at some moment of the walk. Raises CidrError or UnknownServiceType.
        """
        if fork.is_child():
            handle_the_fork()
        return top_of(trees.trees_of(self.owner, self.number_of(service_type)), n, prefixlen)

    def tree(self, service_type="SMTP"):
        """The compressed tree as rows `(count, "prefix/length")`: branching prefixes and hosts in address order, IPv4
        first, a prefix before what it holds. Frees the GIL, stops no writer. Raises UnknownServiceType. O(hosts).
        """
        if fork.is_child():
            handle_the_fork()
        return rows_of(trees.trees_of(self.owner, self.number_of(service_type)))

    def _picture(self, rows, within, service_type, listener):
        """The rows of a picture of a service, or of its listeners of that name: `(count, "prefix/length", parent)` as
        `drawn` gives them. Frees the GIL, stops no writer. Raises ValueError, CidrError, UnknownServiceType.

        O(rows x listeners x bytes of the address).
        """
        cdef u32 most = rows_asked(rows)
        cdef bytes name = None if listener is None else listener.encode()
        cdef picture.Picture pic
        if fork.is_child():
            handle_the_fork()
        cdef model.Tree *first = trees.trees_of(self.owner, self.number_of(service_type))
        memset(&pic, 0, sizeof(pic))
        cdef const char *only = NULL if name is None else <char *>name
        return drawn(&pic, most, within, picture.add_trees(&pic.parts, first, only, len(name or b"")))
