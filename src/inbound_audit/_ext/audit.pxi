# Services, listeners, and sums over their trees.


cdef class Audit(Windows):
    """The native part of `inbound_audit.InboundAudit`: services, listeners, and sums over their trees."""

    cdef dict listeners
    cdef dict listener_ids          # numbers of (service number, listener name in UTF-8)
    cdef object capacity
    cdef bint is_closed
    cdef owner_files.OwnerHeader *own   # of our file, in shared mode
    cdef int own_guard

    def __cinit__(self, *args, **kwargs):
        self.owner = <model.Owner *>calloc(1, sizeof(model.Owner))
        if self.owner == NULL:
            raise MemoryError
        self.listeners = {}
        self.listener_ids = {}
        self.own_guard = sigbus.UNGUARDED
        self.owner.own_fd = -1
        self.capacity = DEFAULT_CAPACITY
        # The two that the core knows by number.
        trees.add_service(self.owner, b"SMTP", 4)
        trees.add_service(self.owner, b"inbound_cidr", 12)

    def _reserve(self, capacity):
        """Bytes of address space for each listener made from now on. Raises CapacityError."""
        check_capacity(capacity)
        self.capacity = capacity

    def __dealloc__(self):
        self.leave_file()
        if self.owner != NULL:
            trees.free_trees(self.owner)
            free(self.owner)

    cdef int number_of(self, object service_type) except -1:
        cdef size_t size = 0
        cdef const char *name = ascii(service_type, &size)
        cdef int number = codes.NO_SERVICE if name == NULL else trees.find_service(self.owner, name, size)
        if number < 0:
            raise UnknownServiceType(service_type, self.service_types)
        return number

    def _add_service(self, str name not None):
        """Makes a service type known; nothing when it is. Raises UnknownServiceType for a name that can't be one."""
        cdef size_t size = 0
        cdef const char *s = ascii(name, &size)
        if s == NULL or not 0 < size <= model.MAX_SERVICE_NAME or not name.isprintable():
            why = f"is no name for a service type: 1 to {model.MAX_SERVICE_NAME} printable ASCII characters"
            raise UnknownServiceType(name, self.service_types, why)
        if trees.find_service(self.owner, s, size) < 0 and trees.add_service(self.owner, s, size) < 0:
            raise CapacityError(f"{name!r}: an audit has room for {self.owner.services} service types")

    def _listener(self, str service_type not None, str name not None):
        """The listener of that service and name; the same object each time. The service is known."""
        cdef Listener made
        cdef int number = self.number_of(service_type)
        if number == model.INBOUND_CIDR:
            raise UnknownServiceType(service_type, self.service_types, "is a view; no listener can belong to it")
        made = self.listeners.get((service_type, name))
        if made is None:
            if self.owner.trees == model.MAX_TREES:
                raise CapacityError(f"{name!r}: an audit has room for {model.MAX_TREES} listeners")
            made = Listener.__new__(Listener)
            made.tree = trees.add_tree(self.owner, number, self.listener_id_of(number, listener_bytes(name, self.owner.shared)), self.capacity)
            if made.tree == NULL:
                raise no_room(self.capacity)
            made.audit, made.service_type, made.name = self, service_type, name
            label_listener(&made.tree.label, service_type, name)
            if self.owner.shared:
                self.attach_new_tree(made)
            trees.link_tree(self.owner, made.tree)
            self.listeners[service_type, name] = made
        return made

    cdef u32 listener_id_of(self, int service, bytes name):
        return self.listener_ids.setdefault((service, name), len(self.listener_ids))

    def _forget(self, close=False, forked=False):
        """Drops every count: the audit is closed, or its file was cut short, or this is a forked child, to whom the
        sessions do not belong. The locks of a child are free: their holders are threads that the fork left behind.
        """
        cdef Listener listener
        cdef u32 state = model.NO_FILE if self.owner.shared else model.READY
        self.is_closed = self.is_closed or close
        self.leave_file()
        if forked:
            sigbus.free_guard_lock()
        for listener in self.listeners.values():
            if forked:
                seqlock.unlock(&listener.tree.arena.lock)
            forget(listener.tree, model.ENDED if self.is_closed else state)
        forget_series(self.owner, self.is_closed, forked)
        if self.is_closed:
            with cython.critical_section(self):
                self.made_series = None  # it refers to this audit

    # ---- shared mode; `shared.pxi` has the rest

    def _share(self, int fd, u32 pid, u64 started):
        """Moves every listener into a file of our own that nobody else knows yet, open for reading and writing and empty.

        `pid` and `started` (microseconds since 1970) are what `ps` tells of us. The descriptor is in use until the next
        `_share` or `_forget`. Raises CapacityError, and SharedStateError for a listener's name that doesn't fit.
        """
        cdef owner_files.OwnerHeader *head
        cdef Listener listener
        cdef int slot
        cdef u64 at = mapping.GRAIN
        # All the memory first: what is refused has changed nothing.
        if mapping.back_file(fd, 0, layout.PAGE) != 0 or mapping.back_file(fd, mapping.GRAIN - layout.PAGE, layout.PAGE) != 0:
            raise no_space()
        for listener in self.listeners.values():
            if mapping.back_file(fd, at, backing.share_needs(&listener.tree.arena)) != 0:
                raise no_space()
            at += layout.range_of(self.capacity)
        back_series(self, fd, at)
        head = <owner_files.OwnerHeader *>mapping.map_file(NULL, layout.PAGE, fd, 0, True)
        if head == NULL:
            raise no_room(layout.PAGE)
        slot = sigbus.guard(head, layout.PAGE, True)
        if slot == sigbus.UNGUARDED:
            mapping.unmap_range(head, layout.PAGE)
            raise no_room(layout.PAGE)
        self.leave_file()
        self.owner.shared = True
        self.own, self.own_guard, self.owner.own_fd = head, slot, fd
        self.owner.own_sections = 0
        head.magic, head.layout, head.byte_order = owner_files.OWNER_MAGIC, layout.LAYOUT, layout.BYTE_ORDER_MARK
        head.stride, head.pid, head.started = layout.range_of(self.capacity), pid, started
        for listener in self.listeners.values():
            self.attach_tree(listener.tree)
        attach_series(self)

    def _detach_file(self, int fd):
        """That descriptor is about to be closed: nothing grows in its file any more."""
        cdef model.Tree *t = self.owner.newest
        while t != NULL:  # those of others have no descriptor
            if t.arena.fd == fd:
                t.arena.fd = -1
            t = t.older
        if self.own != NULL and self.owner.own_fd == fd:
            self.leave_file()

    def _mark_ready(self):
        """Our file is complete and others can find it: sessions may be opened."""
        cdef Listener listener
        for listener in self.listeners.values():
            if listener.tree.state == model.NO_FILE:
                listener.tree.state = model.READY

    cdef int attach_new_tree(self, Listener made) except -1:
        """The same for one that nobody has seen yet; if it fails, it has never been."""
        try:
            return self.attach_tree(made.tree)
        except CapacityError:
            self.owner.trees -= 1
            backing.arena_close(&made.tree.arena)
            raise

    cdef int attach_tree(self, model.Tree *t) except -1:
        """Gives a tree the next section of our file; without one it waits, as others of a forked child do."""
        cdef int code
        if self.own == NULL:
            t.state = model.NO_FILE
            return 0
        lock_tree(t)
        code = self.share_tree(t)
        seqlock.unlock(&t.arena.lock)
        if code != codes.OK:
            raise no_space()
        return 0

    cdef int share_tree(self, model.Tree *t) noexcept:
        """The same for the holder of the tree's lock, under which nothing may raise. OK or FULL."""
        cdef int code
        layout.write_label(&t.arena, &t.label)
        code = backing.arena_share(&t.arena, self.owner.own_fd, mapping.GRAIN + self.owner.own_sections * layout.range_of(self.capacity))
        if code == codes.OK:
            self.owner.own_sections += 1
            bits.publish32(&self.own.trees, self.owner.own_sections)
        return code

    cdef void leave_file(self) noexcept:
        if self.own != NULL:
            sigbus.unguard(self.own_guard)
            mapping.unmap_range(self.own, layout.PAGE)
            self.own = NULL

    @property
    def _needed(self):
        """Bytes that our file has at least, unless somebody has cut it short."""
        cdef model.Tree *t = self.owner.newest
        cdef u64 needed = mapping.GRAIN
        while t != NULL:
            if t.arena.fd >= 0 and t.arena.offset + t.arena.held > needed:
                needed = t.arena.offset + t.arena.held
            t = t.older
        return needed

    def _scan_mark(self, begins):
        """Tells others that we begin, or have ended, to look for them."""
        if self.own != NULL and bool(bits.load64(&self.own.scan_count) & 1) != begins:
            bits.fence_full()
            bits.store64(&self.own.scan_count, self.own.scan_count + 1)
            bits.fence_full()

    def _map_owner(self, int fd, u64 size):
        """Maps another owner's file of `size` bytes. Raises SharedStateError when it is none that can be read."""
        cdef OwnerFile met = OwnerFile.__new__(OwnerFile)
        cdef int fault = owner_files.owner_open(&met.f, fd, size)
        if fault != owner_files.SOUND:
            raise fault_error(fault)
        met.audit, met.names = self, []
        self.owner.shared = True
        return met

    @property
    def _listeners(self):
        """How many there are."""
        return len(self.listeners)

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
        count = query.query_absolute(self.owner, c, cidr_size, s, service_size)
        if count < 0:
            raise count_error(count, cidr, service_type, self)
        return count

    def total(self, service_type="SMTP"):
        """Open sessions of a service, both families. Raises UnknownServiceType. O(listeners)."""
        return sums.total_trees(trees.trees_of(self.owner, self.number_of(service_type)))

    def top(self, n=10, *, service_type="SMTP", prefixlen=(32, 128)):
        """The `n` largest prefixes of those two lengths (IPv4, IPv6) as `(count, "prefix/length")`, the largest first,
        and of equal counts the lower address.

        Opens only prefixes that are larger than the n-th answer; frees the GIL and stops no writer: each row was true
        at some moment of the walk. Raises CidrError or UnknownServiceType.
        """
        return top_of(trees.trees_of(self.owner, self.number_of(service_type)), n, prefixlen)

    def tree(self, service_type="SMTP"):
        """The compressed tree as rows `(count, "prefix/length")`: branching prefixes and hosts in address order, IPv4
        first, a prefix before what it holds. Frees the GIL, stops no writer. Raises UnknownServiceType. O(hosts).
        """
        return rows_of(trees.trees_of(self.owner, self.number_of(service_type)))
