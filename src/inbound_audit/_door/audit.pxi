# Services, listeners, and sums over their trees.


cdef class Audit:
    """The native part of `inbound_audit.InboundAudit`: services, listeners, and sums over their trees."""

    cdef Owner *owner
    cdef dict listeners
    cdef dict kins          # numbers of (service number, listener name in UTF-8)
    cdef object capacity
    cdef bint is_closed
    cdef OwnerHeader *own   # of our file, in shared mode
    cdef int own_guard
    cdef object clock       # a callable that answers seconds; None: the system's
    cdef object series_kind # what `series` answers one of
    cdef SeriesTable made_series

    def __cinit__(self, *args, **kwargs):
        self.owner = <Owner *>calloc(1, sizeof(Owner))
        if self.owner == NULL:
            raise MemoryError
        self.listeners = {}
        self.kins = {}
        self.own_guard = UNGUARDED
        self.owner.own_fd = -1
        self.series_kind = SeriesTable
        self.capacity = DEFAULT_CAPACITY
        # The two that the core knows by number.
        add_service(self.owner, b"SMTP", 4)
        add_service(self.owner, b"inbound_cidr", 12)

    def _reserve(self, capacity):
        """Bytes of address space for each listener made from now on. Raises CapacityError."""
        check_capacity(capacity)
        self.capacity = capacity

    def __dealloc__(self):
        self.leave_file()
        if self.owner != NULL:
            free_trees(self.owner)
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
            made.tree = add_tree(self.owner, number, self.kin_of(number, listener_bytes(name, self.owner.shared)), self.capacity)
            if made.tree == NULL:
                raise no_room(self.capacity)
            made.audit, made.service_type, made.name = self, service_type, name
            label_listener(&made.tree.label, service_type, name)
            if self.owner.shared:
                self.first_home(made)
            link_tree(self.owner, made.tree)
            self.listeners[service_type, name] = made
        return made

    cdef u32 kin_of(self, int service, bytes name):
        return self.kins.setdefault((service, name), len(self.kins))

    def _forget(self, close=False, forked=False):
        """Drops every count: the audit is closed, or its file was cut short, or this is a forked child, to whom the
        sessions do not belong. The locks of a child are free: their holders are threads that the fork left behind.
        """
        cdef Listener listener
        cdef u32 state = HOMELESS if self.owner.shared else READY
        self.is_closed = self.is_closed or close
        self.leave_file()
        if forked:
            free_guard_lock()
        for listener in self.listeners.values():
            if forked:
                unlock(&listener.tree.arena.lock)
            forget(listener.tree, ENDED if self.is_closed else state)
        forget_series(self.owner, self.is_closed, forked)
        if self.is_closed:
            self.made_series = None  # which holds us

    # ---- shared mode; `shared.pxi` has the rest

    def _share(self, int fd, u32 pid, u64 started):
        """Moves every listener into a file of our own that nobody else knows yet, open for reading and writing and empty.

        `pid` and `started` (microseconds since 1970) are what `ps` tells of us. The descriptor is in use until the next
        `_share` or `_forget`. Raises CapacityError, and SharedStateError for a listener's name that doesn't fit.
        """
        cdef OwnerHeader *head
        cdef Listener listener
        cdef int slot
        cdef u64 at = GRAIN
        # All the memory first: what is refused has changed nothing.
        if back_file(fd, 0, PAGE) != 0 or back_file(fd, GRAIN - PAGE, PAGE) != 0:
            raise no_space()
        for listener in self.listeners.values():
            if back_file(fd, at, share_needs(&listener.tree.arena)) != 0:
                raise no_space()
            at += range_of(self.capacity)
        back_series(self, fd, at)
        head = <OwnerHeader *>map_file(NULL, PAGE, fd, 0, True)
        if head == NULL:
            raise no_room(PAGE)
        slot = guard(head, PAGE, True)
        if slot == UNGUARDED:
            unmap_range(head, PAGE)
            raise no_room(PAGE)
        self.leave_file()
        self.owner.shared = True
        self.own, self.own_guard, self.owner.own_fd = head, slot, fd
        self.owner.own_sections = 0
        head.magic, head.layout, head.byte_order = OWNER_MAGIC, LAYOUT, BYTE_ORDER_MARK
        head.stride, head.pid, head.started = range_of(self.capacity), pid, started
        for listener in self.listeners.values():
            self.settle_tree(listener.tree)
        settle_series(self)

    def _unsettle(self, int fd):
        """That descriptor is about to be closed: nothing grows in its file any more."""
        cdef Tree *t = self.owner.newest
        while t != NULL:  # those of others have no descriptor
            if t.arena.fd == fd:
                t.arena.fd = -1
            t = t.older
        if self.own != NULL and self.owner.own_fd == fd:
            self.leave_file()

    def _settled(self):
        """Our file is complete and others can find it: sessions may be opened."""
        cdef Listener listener
        for listener in self.listeners.values():
            if listener.tree.state == HOMELESS:
                listener.tree.state = READY

    cdef int first_home(self, Listener made) except -1:
        """The same for one that nobody has seen yet; if it fails, it has never been."""
        try:
            return self.settle_tree(made.tree)
        except CapacityError:
            self.owner.trees -= 1
            arena_close(&made.tree.arena)
            raise

    cdef int settle_tree(self, Tree *t) except -1:
        """Gives a tree the next section of our file; without one it waits, as others of a forked child do."""
        cdef int code
        if self.own == NULL:
            t.state = HOMELESS
            return 0
        take_lock(t)
        write_label(&t.arena, &t.label)
        code = arena_share(&t.arena, self.owner.own_fd, GRAIN + self.owner.own_sections * range_of(self.capacity))
        unlock(&t.arena.lock)
        if code != OK:
            raise no_space()
        self.owner.own_sections += 1
        publish32(&self.own.trees, self.owner.own_sections)
        return 0

    cdef void leave_file(self) noexcept:
        if self.own != NULL:
            unguard(self.own_guard)
            unmap_range(self.own, PAGE)
            self.own = NULL

    @property
    def _needed(self):
        """Bytes that our file has at least, unless somebody has cut it short."""
        cdef Tree *t = self.owner.newest
        cdef u64 needed = GRAIN
        while t != NULL:
            if t.arena.fd >= 0 and t.arena.offset + t.arena.held > needed:
                needed = t.arena.offset + t.arena.held
            t = t.older
        return needed

    def _looking(self, begins):
        """Tells others that we begin, or have ended, to look for them."""
        if self.own != NULL and bool(load64(&self.own.looked) & 1) != begins:
            fence_full()
            store64(&self.own.looked, self.own.looked + 1)
            fence_full()

    def _meet(self, int fd, u64 size):
        """Maps another owner's file of `size` bytes. Raises SharedStateError when it is none that can be read."""
        cdef Neighbour met = Neighbour.__new__(Neighbour)
        cdef int fault = foreign_open(&met.f, fd, size)
        if fault != SOUND:
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

    # ---- windows of time; `series.pxi` and `windows.pxi` have the rest

    def _set_clock(self, clock):
        """A callable that answers seconds since 1970, for all windows to come."""
        self.clock = clock
        self.owner.clock = <void *>clock
        self.owner.last_now = system_clock()
        self.owner.now = python_clock

    def _set_series_kind(self, kind):
        """The class of what `series` answers; a subclass of SeriesTable."""
        self.series_kind = kind

    def _define(self, int scope, str name not None, u32 interval, u32 slots, u64 window_bytes, u32 hosts_most):
        """Begins to count in a series; the scope is the position in `SCOPES`. Raises CapacityError."""
        cdef bytes text = name.encode("utf-8")
        cdef Series *s = know_series(self.owner, scope, text, interval, slots)
        if s == NULL:
            raise CapacityError(f"{name!r}: an audit knows {SERIES_MOST} series at most")
        if self.is_closed:
            raise InboundAuditError("the audit is closed")
        if s.own == NULL:
            window_bytes = min(window_bytes, <u64>self.capacity)
            s.units_most = <u32>(window_bytes // UNIT) - HEADER_UNITS
            s.hosts_most = hosts_most
            make_ring(self, s)

    def _monitor(self, str name not None, u32 interval, u32 slots, u64 window_bytes, u32 hosts_most):
        """One monitor more; before there is any series."""
        cdef int kind
        for kind in range(3):
            self._define(kind, name, interval, slots, window_bytes, hosts_most)
        self.owner.monitors += 1

    def _make_room_for_less(self, name):
        """Makes the trees for what is taken away from a series. Raises CapacityError."""
        cdef Series *s = series_of(self, name)
        cdef Tree *t
        cdef u32 i
        if s.own.tree[2 * s.slots - 1] == NULL:
            need_trees(self, s.slots)
        for i in range(s.slots):
            if s.own.tree[2 * i + 1] == NULL:
                t = window_tree(self, s, i, 1)
                settle_window(self, t)
                publish_tree(&s.own.tree[2 * i + 1], t)

    def connections(self, monitor, cidr=None, startv=0, endv=None, *, Session ac=None):
        """Connections in windows `startv` to `endv` of a monitor (as `startv` if it is None; 0 is the current window).

        `monitor` is its text (``"300,6"``) or its position; `cidr` as in `inbound_session_count`, where ``"/24"``, and
        None for exactly the connecting IP, speak of the session `ac`. Raises MonitorError, CidrError.
        O(windows x prefix length x processes); takes no lock.
        """
        return count_of_kind(self, CONNECTIONS, monitor, cidr, startv, endv, ac)

    def receptions(self, monitor, cidr=None, startv=0, endv=None, *, Session ac=None):
        """Messages that were accepted; otherwise as `connections`."""
        return count_of_kind(self, RECEPTIONS, monitor, cidr, startv, endv, ac)

    def rejections(self, monitor, cidr=None, startv=0, endv=None, *, Session ac=None):
        """Rejections; otherwise as `connections`."""
        return count_of_kind(self, REJECTIONS, monitor, cidr, startv, endv, ac)

    def sliding_average(self, kind, monitor, cidr=None, *, Session ac=None):
        """A float: the current window, and the one before as far as a window of that width that ends now covers it.

        `kind` is ``"connections"``, ``"receptions"`` or ``"rejections"``. Raises MonitorError, CidrError.
        """
        cdef Series *s
        cdef Prefix p, peer
        cdef size_t size = 0
        cdef const char *c = NULL
        cdef int code = OK
        if kind not in KINDS:
            raise MonitorError(f"{kind!r}: is none of {', '.join(KINDS)}")
        s = monitor_of(self, KINDS.index(kind), monitor)
        if ac is not None:
            peer_of(&ac.ac, &peer)
            p = peer
        elif cidr is None:
            raise CidrError(f"{cidr!r}: {reason_of(NO_KEY)}")
        if cidr is not None:
            c = ascii(cidr, &size)
            if c == NULL:
                raise not_ascii(cidr)
            code = parse_cidr(c, c + size, &peer.address if ac is not None else NULL, &p)
        if code != OK:
            raise window_error(code, cidr, None, self)
        return sliding_average(s, &p)

    @property
    def monitors(self):
        """The texts of the monitors, as a tuple."""
        return monitor_names(self)

    @property
    def uncounted(self):
        """Connections, receptions and rejections for which a monitor had no room."""
        cdef u32 i
        cdef u64 n = 0
        for i in range(3 * self.owner.monitors):
            n += load64(&self.owner.series[i].uncounted)
        return n

    @property
    def series(self):
        """The named series."""
        if self.made_series is None:
            self.made_series = self.series_kind.__new__(self.series_kind)
            self.made_series._audit = self
        return self.made_series

    # ---- for other rooms

    @property
    def _windows(self):
        """Every series and monitor that somebody has: `(scope, name, type, interval, windows)`."""
        cdef Series *s
        cdef u32 i
        rows = []
        for i in range(self.owner.series_known):
            s = self.owner.series[i]
            if s.first != NULL:
                kind = "string" if s.scope == STRINGS else "cidr"
                rows.append((public_scope(s), name_of(s), kind, s.interval, s.slots))
        return rows

    def _window_count(self, scope, name, interval, num_windows, cidr, startv, endv):
        """A sum over windows of what `_windows` tells of. Raises SeriesError, CidrError."""
        cdef Series *s = identified(self, scope, name, interval, num_windows)
        cdef size_t size = 0
        cdef const char *c = ascii(cidr, &size)
        cdef int64_t count = 0
        cdef int code
        if c == NULL:
            raise not_ascii(cidr)
        code = count_events(NULL, s, c, size, window_index(startv), window_index(endv), &count)
        if code != OK:
            raise window_error(code, range_text(startv, endv) if code == BAD_WINDOW else cidr, name, self)
        return count

    def _window_rows(self, scope, name, interval, num_windows, startv, endv):
        """Every host with its net count over those windows, `(count, address)`, in address order. O(hosts)."""
        cdef Series *s = identified(self, scope, name, interval, num_windows)
        cdef Address a
        if not 0 <= startv <= endv < num_windows:
            raise window_error(BAD_WINDOW, range_text(startv, endv), name, self)
        rows = []
        for (version, hi, lo), count in sorted(sum_of_rows(s, startv, endv).items()):
            if count:
                a.hi, a.lo, a.version = hi, lo, version
                rows.append((count, address_text(&a)))
        return rows

    def _series_hosts(self, name):
        """Distinct hosts over all windows of our own ring, each window's for itself."""
        cdef Series *s = series_of(self, name)
        cdef u64 n = 0
        cdef u32 i
        for i in range(2 * s.slots):
            if s.own.tree[i] != NULL and in_view(s, s.slot[i // 2].number[i % 2]):
                n += load64(&header(&s.own.tree[i].arena).hosts[0]) + load64(&header(&s.own.tree[i].arena).hosts[1])
        return n

    def _series_memory(self, name):
        """Bytes of the arenas of our own ring."""
        cdef Series *s = series_of(self, name)
        cdef u64 n = 0
        cdef u32 i
        for i in range(2 * s.slots):
            if s.own.tree[i] != NULL:
                n += arena_used(&s.own.tree[i].arena)
        return n

    def _series_folded(self, name):
        """Windows of our own ring in which detail was given up: `(window, IPv4 length, IPv6 length, hosts)`."""
        cdef Series *s = series_of(self, name)
        cdef Slot *slot
        cdef int64_t now = window_number(now_of(self.owner), s.interval) + s.base, number
        cdef u32 v
        if now < s.newest:
            now = s.newest
        rows = []
        for v in range(s.slots):
            number = now - v
            slot = &s.slot[slot_of(number, s.slots)]
            if slot.number[0] == number and (slot.level[0] or slot.level[1]):
                four = 32 if s.scope == STRINGS else length_of(s, slot, 0)
                rows.append((v, four, length_of(s, slot, 1), slot.folded))
        return rows

    def _series_dump(self, name):
        """What our own ring holds: `(newest, [(number, level4, level6, folded, added, taken), ...])`.

        Numbers are those of the clock; rows are 24 bytes each (u64 hi, u64 lo, u32 count, u32 version). Frees the GIL;
        weakly consistent beside those who add. O(hosts).
        """
        cdef Series *s = series_of(self, name)
        cdef Slot *slot
        cdef int64_t number, newest, base
        cdef u32 i, at
        take_series(s)
        newest, base = s.newest, s.base
        unlock(&s.lock)
        windows = []
        for i in range(s.slots):
            number = newest - i
            at = slot_of(number, s.slots)
            slot = &s.slot[at]
            if slot.number[0] == number:
                added, taken = packed_rows(s.own.tree[2 * at], number), packed_rows(s.own.tree[2 * at + 1], number)
                if added or taken:
                    windows.append((number - base, length_of(s, slot, 0) if s.scope != STRINGS else 32,
                                    length_of(s, slot, 1), slot.folded, added, taken))
        return newest - base, windows

    def _series_restore(self, name, int64_t newest, windows):
        """Adds what `_series_dump` told to the windows of those numbers; those out of view are left out. If `newest` lies
        ahead of the clock, all move back together. Answers how much was added.

        Raises SeriesError for rows that are none, and nothing is added; CapacityError.
        """
        cdef Series *s = series_of(self, name)
        cdef const u8[::1] rows
        cdef u64 added = 0
        cdef int64_t now, number, back
        cdef int code = OK, sign
        cdef Py_ssize_t size
        cdef const Kept *first
        for window in windows:
            check_rows(name, window[4])
            check_rows(name, window[5])
            if not (0 <= window[1] <= 32 and 0 <= window[2] <= 128 and 0 <= window[3] < 1 << 63):
                raise SeriesError(f"{name!r}: {window[1:4]} says of no window how it was folded")
            if window[5]:
                self._make_room_for_less(name)
        now = now_of(self.owner)
        take_series(s)
        if s.state != ENDED:
            move_on(s, now)
        back = newest + s.base - s.newest
        back = back if back > 0 else 0
        unlock(&s.lock)
        for window in windows:
            number = <int64_t>window[0] + s.base - back
            take_series(s)
            if s.state != ENDED and in_view(s, number):
                restore_levels(s, number, window[1], window[2], window[3])
            unlock(&s.lock)
            for sign in range(2):
                rows = window[4 + sign]
                size = rows.shape[0] // <Py_ssize_t>sizeof(Kept)
                first = <const Kept *>&rows[0] if size else NULL
                with nogil:
                    code = restore_rows(s, number, sign, first, size, &added)
                if code != OK:
                    raise window_error(code, None, name, self)
        return added

    def _series_add_at(self, name, key, count, int64_t microseconds):
        """Adds to the window of a past time; False when it is out of view. Raises as `series.add` does."""
        cdef Series *s = series_of(self, name)
        cdef Key k
        cdef Address a
        cdef int code
        cdef int64_t by, now
        read_series_key(s, key, None, &k)
        code = read_key(k.ac, s, k.text, k.size, &a)
        if code != OK:
            raise key_error(code, key, name, self)
        count = index(count)
        if count == 0 or not -0xFFFFFFFF <= count <= 0xFFFFFFFF:
            raise SeriesError(f"{name!r}: {count!r}: {reason_of(BAD_AMOUNT)}")
        if count < 0:
            self._make_room_for_less(name)
        by, now = count, now_of(self.owner)
        code = change_past(s, &a, by, now, microseconds)
        if code not in (OK, UNMATCHED):
            raise window_error(code, None, name, self)
        return code == OK

    def _series_log(self, name, int fd, u64 log_id, u64 sequence):
        """Each change from now on is a line in that file, too; -1: no more. The descriptor stays the caller's."""
        cdef Series *s = series_of(self, name)
        take_series(s)
        s.log_fd, s.log_id, s.log_sequence = fd, log_id, sequence
        unlock(&s.lock)

    def _series_logged(self, name):
        """The number of the last line, and how many lines could not be written."""
        cdef Series *s = series_of(self, name)
        return s.log_sequence, s.log_failures

    def _check_windows(self):
        """Raises AssertionError when an invariant does not hold in any of our windows. O(hosts)."""
        cdef Series *s
        cdef u32 i, k
        for i in range(self.owner.series_known):
            s = self.owner.series[i]
            for k in range(2 * s.slots if s.own != NULL else 0):
                if s.own.tree[k] != NULL and s.state != ENDED:
                    take_series(s)
                    try:
                        check_tree(s.own.tree[k])
                        assert load64(<u64 *>&header(&s.own.tree[k].arena).number) == <u64>s.slot[k // 2].number[k % 2]
                    finally:
                        unlock(&s.lock)
