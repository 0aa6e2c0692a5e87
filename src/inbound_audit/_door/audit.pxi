# Services, listeners, and sums over their trees.


cdef class Audit:
    """The native part of `inbound_audit.InboundAudit`: services, listeners, and sums over their trees."""

    cdef Owner *owner
    cdef dict listeners
    cdef object capacity
    cdef bint is_closed

    def __cinit__(self, *args, **kwargs):
        self.owner = <Owner *>calloc(1, sizeof(Owner))
        if self.owner == NULL:
            raise MemoryError
        self.listeners = {}
        self.capacity = DEFAULT_CAPACITY
        # The two that the core knows by number.
        add_service(self.owner, b"SMTP", 4)
        add_service(self.owner, b"inbound_cidr", 12)

    def _reserve(self, capacity):
        """Bytes of address space for each listener made from now on. Raises CapacityError."""
        check_capacity(capacity)
        self.capacity = capacity

    def __dealloc__(self):
        cdef u32 i
        if self.owner != NULL:
            for i in range(self.owner.services):
                free_trees(self.owner.service[i].first)
            free(self.owner)

    cdef int number_of(self, object service_type) except -1:
        cdef size_t size = 0
        cdef const char *name = ascii(service_type, &size)
        cdef int number = NO_SERVICE if name == NULL else find_service(self.owner, name, size)
        if number < 0:
            raise UnknownServiceType(service_type, self.service_types)
        return number

    def _add_service(self, str name not None):
        """Makes a service type known; nothing when it is. Raises UnknownServiceType for a name that can't be one."""
        cdef size_t size = 0
        cdef const char *s = ascii(name, &size)
        if s == NULL or not 0 < size <= SERVICE_NAME_MOST or not name.isprintable():
            why = f"is no name for a service type: 1 to {SERVICE_NAME_MOST} printable ASCII characters"
            raise UnknownServiceType(name, self.service_types, why)
        if find_service(self.owner, s, size) < 0 and add_service(self.owner, s, size) < 0:
            raise CapacityError(f"{name!r}: an audit has room for {self.owner.services} service types")

    def _listener(self, str service_type not None, str name not None):
        """The listener of that service and name; the same object each time. The service is known."""
        global making_listener
        cdef Listener made
        cdef int number = self.number_of(service_type)
        if number == VIEW:
            raise UnknownServiceType(service_type, self.service_types, "is a view; no listener can belong to it")
        made = self.listeners.get((service_type, name))
        if made is None:
            if self.owner.trees == TREES_MOST:
                raise CapacityError(f"{name!r}: an audit has room for {TREES_MOST} listeners")
            making_listener = True
            made = Listener.__new__(Listener)
            made.tree = add_tree(self.owner, number, self.capacity)
            if made.tree == NULL:
                raise no_room(self.capacity)
            made.audit, made.service_type, made.name = self, service_type, name
            self.listeners[service_type, name] = made
        return made

    def _forget(self, close=False):
        """Drops every count: the audit is closed, or this is a forked child, to whom the sessions do not belong."""
        cdef Listener listener
        self.is_closed = self.is_closed or close
        for listener in self.listeners.values():
            if not close:
                unlock(&listener.tree.arena.lock)  # its holder may be a thread that the fork left behind
            forget(listener.tree)

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
        if c == NULL:
            raise not_ascii(cidr)
        if s == NULL:
            raise UnknownServiceType(service_type, self.service_types)
        count = count_absolute(self.owner, c, cidr_size, s, service_size)
        if count < 0:
            raise count_error(count, cidr, service_type, self)
        return count

    def total(self, service_type="SMTP"):
        """Open sessions of a service, both families. Raises UnknownServiceType. O(listeners)."""
        return forest_total(trees_of(self.owner, self.number_of(service_type)))

    def top(self, n=10, *, service_type="SMTP", prefixlen=(32, 128)):
        """The `n` largest prefixes of those two lengths (IPv4, IPv6) as `(count, "prefix/length")`, best first.

        Opens only prefixes that are larger than the n-th answer; frees the GIL and stops no writer: each row was true
        at some moment of the walk. Raises CidrError or UnknownServiceType.
        """
        return top_of(trees_of(self.owner, self.number_of(service_type)), n, prefixlen)

    def tree(self, service_type="SMTP"):
        """The compressed tree as rows `(count, "prefix/length")`: branching prefixes and hosts in address order, IPv4
        first, a prefix before what it holds. Frees the GIL, stops no writer. Raises UnknownServiceType. O(hosts).
        """
        return rows_of(trees_of(self.owner, self.number_of(service_type)))
