# Windows of time, as an audit has them; `series.pxi` and `windows.pxi` have the rest.


cdef class Windows:
    """The part of an audit that counts over time: monitors, named series, and what other rooms ask of both.

    Always an Audit: it is a class of its own to be read by itself.
    """

    cdef model.Owner *owner
    cdef object clock       # a callable that answers seconds; None: the system's
    cdef SeriesTable made_series

    def _set_clock(self, read_clock):
        """A callable that returns seconds since 1970, for all windows to come."""
        self.clock = read_clock
        self.owner.clock = <void *>read_clock
        self.owner.last_now = clock.system_clock()
        self.owner.now = python_clock

    def _define(
        self, int scope, str name not None, u32 interval, u32 slots, u64 window_bytes, u32 max_hosts, u32 family=0
    ):
        """Begins to count in a series; the scope is the position in `SCOPES`, `family` is 4, 6 or 0 (both).

        Raises CapacityError.
        """
        cdef bytes text = name.encode("utf-8")
        cdef model.Series *s = know_series(self.owner, scope, text, interval, slots)
        if s == NULL:
            raise CapacityError(f"{name!r}: an audit knows {model.MAX_SERIES} series at most")
        if (<Audit>self).is_closed:
            raise InboundAuditError("the audit is closed")
        if not s.ready:
            window_bytes = min(window_bytes, <u64>(<Audit>self).capacity)
            s.max_units = <u32>(window_bytes // layout.UNIT) - layout.HEADER_UNITS
            s.max_hosts = max_hosts
            s.family = family
            make_ring(<Audit>self, s)

    def _monitor(self, str name not None, u32 interval, u32 slots, u64 window_bytes, u32 max_hosts):
        """One monitor more; before there is any series."""
        cdef int kind
        for kind in range(3):
            self._define(kind, name, interval, slots, window_bytes, max_hosts)
        self.owner.monitors += 1

    def connections(self, monitor, cidr=None, startv=0, endv=None, *, Session ac=None):
        """Connections in windows `startv` to `endv` of a monitor (as `startv` if it is None; 0 is the current window).

        `monitor` is its text (``"300,6"``) or its position; `cidr` as in `inbound_session_count`, where ``"/24"``, and
        None for exactly the connecting IP, speak of the session `ac`. Raises MonitorError, CidrError.
        O(windows x prefix length x processes); takes no lock.
        """
        return query_kind(<Audit>self, model.CONNECTIONS, monitor, cidr, startv, endv, ac)

    def receptions(self, monitor, cidr=None, startv=0, endv=None, *, Session ac=None):
        """Messages that were accepted; otherwise as `connections`."""
        return query_kind(<Audit>self, model.RECEPTIONS, monitor, cidr, startv, endv, ac)

    def rejections(self, monitor, cidr=None, startv=0, endv=None, *, Session ac=None):
        """Rejections; otherwise as `connections`."""
        return query_kind(<Audit>self, model.REJECTIONS, monitor, cidr, startv, endv, ac)

    def sliding_average(self, kind, monitor, cidr=None, *, Session ac=None):
        """A float: the current window, and the one before as far as a window of that width that ends now covers it.

        `kind` is ``"connections"``, ``"receptions"`` or ``"rejections"``. Raises MonitorError, CidrError.
        """
        cdef model.Series *s
        cdef prefix.Prefix p, peer
        cdef size_t size = 0
        cdef const char *c = NULL
        cdef int code = codes.OK
        if kind not in MONITOR_KINDS:
            raise MonitorError(f"{kind!r}: is none of {', '.join(MONITOR_KINDS)}")
        s = monitor_of(<Audit>self, MONITOR_KINDS.index(kind), monitor)
        if ac is not None:
            query.peer_of(&ac.ac, &peer)
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
        return series_query.sliding_average(s, &p)

    @property
    def monitors(self):
        """The texts of the monitors, as a tuple."""
        return monitor_names(<Audit>self)

    @property
    def uncounted(self):
        """Connections, receptions and rejections for which a monitor had no room."""
        cdef u32 i
        cdef u64 n = 0
        for i in range(3 * self.owner.monitors):
            n += bits.load64(&self.owner.series[i].uncounted)
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

    # ---- for other rooms

    @property
    def _windows(self):
        """Every series and monitor that somebody has: `(scope, name, type, interval, windows)`."""
        cdef model.Series *s
        cdef u32 i
        rows = []
        for i in range(self.owner.series_known):
            s = self.owner.series[i]
            if s.first != NULL:
                rows.append((public_scope(s), name_of(s), type_of(s), s.interval, s.slots))
        return rows

    def _window_count(self, scope, name, interval, num_windows, cidr, startv, endv):
        """A sum over windows of what `_windows` tells of; of a series of strings `cidr` is the text. Raises SeriesError,
        CidrError."""
        cdef model.Series *s = identified(<Audit>self, scope, name, interval, num_windows)
        cdef Key k
        cdef int64_t count = 0
        cdef int code
        read_series_key(s, cidr, None, &k, True)
        code = series_query.query_key(k.ac, s, k.text, k.size, window_index(startv), window_index(endv), &count)
        if code == codes.OTHER_FAMILY:
            log_other_family(s)
        elif code != codes.OK:
            raise window_error(code, range_text(startv, endv) if code == codes.BAD_WINDOW else cidr, name, self)
        return count

    def _window_rows(self, scope, name, interval, num_windows, startv, endv):
        """Every host with its net count over those windows, `(count, address)`, in address order. O(hosts)."""
        cdef model.Series *s = identified(<Audit>self, scope, name, interval, num_windows)
        cdef ip.Address a
        if not 0 <= startv <= endv < num_windows:
            raise window_error(codes.BAD_WINDOW, range_text(startv, endv), name, self)
        rows = []
        for (version, hi, lo), count in sorted(sum_of_rows(s, startv, endv).items()):
            if count:
                a.hi, a.lo, a.version = hi, lo, version
                rows.append((count, address_text(&a)))
        return rows

    def _series_hosts(self, name):
        """Distinct hosts over all windows of our own ring, each window's for itself."""
        cdef model.Series *s = series_of(<Audit>self, name)
        cdef u64 n = 0
        cdef u32 i
        for i in range(2 * s.slots):
            if s.own.tree[i] != NULL and window.in_view(s, s.slot[i // 2].number[i % 2]):
                n += bits.load64(&layout.header(&s.own.tree[i].arena).hosts[0]) + bits.load64(&layout.header(&s.own.tree[i].arena).hosts[1])
        return n

    def _series_memory(self, name):
        """Bytes of the arenas of our own ring."""
        cdef model.Series *s = series_of(<Audit>self, name)
        cdef u64 n = 0
        cdef u32 i
        for i in range(2 * s.slots):
            if s.own.tree[i] != NULL:
                n += arena.arena_used(&s.own.tree[i].arena)
        return n

    def _series_folded(self, name):
        """Windows of our own ring in which detail was given up: `(window, IPv4 length, IPv6 length, hosts)`."""
        cdef model.Series *s = series_of(<Audit>self, name)
        cdef model.Slot *slot
        cdef int64_t now = clock.window_number(window.now_of(self.owner), s.interval) + s.base, number
        cdef u32 v
        if now < s.newest:
            now = s.newest
        rows = []
        for v in range(s.slots):
            number = now - v
            slot = &s.slot[window.slot_of(number, s.slots)]
            if slot.number[0] == number and (slot.level[0] or slot.level[1]):
                four = 32 if s.scope == model.STRINGS else fold.length_of(s, slot, 0)
                rows.append((v, four, fold.length_of(s, slot, 1), slot.folded))
        return rows

    def _series_dump(self, name):
        """What our own ring holds: `(newest, [(number, level4, level6, folded, added, taken), ...])`.

        Numbers are those of the clock; rows are 24 bytes each (u64 hi, u64 lo, u32 count, u32 version). Frees the GIL;
        weakly consistent beside those who add. O(hosts).
        """
        cdef model.Series *s = series_of(<Audit>self, name)
        cdef int64_t number, newest, base
        cdef u32 i, at
        lock_series(s)
        newest, base = s.newest, s.base
        seqlock.unlock(&s.lock)
        windows = []
        for i in range(s.slots):
            number = newest - i
            at = window.slot_of(number, s.slots)
            if s.slot[at].number[0] == number:
                added, taken = packed_rows(s.own.tree[2 * at], number), packed_rows(s.own.tree[2 * at + 1], number)
                if added or taken:
                    windows.append(packed_window(s, number, base, added, taken))
        return newest - base, windows

    def _series_dump_logged(self, name):
        """The same, and the numbers of the last line of the log before and after; where these are the same, the rows
        are exactly what the lines up to that one say. Takes more memory meanwhile.
        """
        cdef model.Series *s = series_of(<Audit>self, name)
        cdef Dump d
        cdef int code
        cdef u32 i
        d.rows = <walk.Rows *>calloc(2 * s.slots, sizeof(walk.Rows))
        if d.rows == NULL:
            raise MemoryError
        try:
            with nogil:
                code = walk_windows(s, &d)
            if code != codes.OK:
                raise MemoryError
            windows = [packed_window(s, d.newest - i, d.base, packed(&d.rows[2 * i]), packed(&d.rows[2 * i + 1]))
                       for i in range(s.slots) if d.rows[2 * i].size or d.rows[2 * i + 1].size]
            return d.newest - d.base, windows, d.before, d.after
        finally:
            for i in range(2 * s.slots):
                walk.free_rows(&d.rows[i])
            free(d.rows)

    def _series_restore(self, name, int64_t newest, windows):
        """Adds what `_series_dump` told to the windows of those numbers; those out of view are left out. If `newest` lies
        ahead of the clock, all move back together. Answers how much was added.

        Rows of a family that the series does not count are left out: a series of type cidr of an earlier version holds
        both. Raises SeriesError for malformed rows, and nothing is added; CapacityError.
        """
        cdef model.Series *s = series_of(<Audit>self, name)
        cdef const u8[::1] rows
        cdef u64 added = 0, left_out = 0
        cdef int64_t now, number, back
        cdef int code = codes.OK, sign
        cdef Py_ssize_t size
        cdef const PackedRow *first
        for saved in windows:
            check_rows(name, saved[4])
            check_rows(name, saved[5])
            if not (0 <= saved[1] <= 32 and 0 <= saved[2] <= 128 and 0 <= saved[3] < 1 << 63):
                raise SeriesError(f"{name!r}: {saved[1:4]} says of no window how it was folded")
            if saved[5]:
                self.series.ensure_negative_trees(name)
        now = window.now_of(self.owner)
        lock_series(s)
        if s.state != model.ENDED:
            window.advance(s, now)
        back = newest + s.base - s.newest
        back = back if back > 0 else 0
        seqlock.unlock(&s.lock)
        for saved in windows:
            number = <int64_t>saved[0] + s.base - back
            lock_series(s)
            if s.state != model.ENDED and window.in_view(s, number):
                restore_levels(s, number, saved[1], saved[2], saved[3])
            seqlock.unlock(&s.lock)
            for sign in range(2):
                rows = saved[4 + sign]
                size = rows.shape[0] // <Py_ssize_t>sizeof(PackedRow)
                first = <const PackedRow *>&rows[0] if size else NULL
                with nogil:
                    code = restore_rows(s, number, sign, first, size, &added, &left_out)
                if code != codes.OK:
                    raise window_error(code, None, name, self)
        if left_out and series_query.report_family(s) != codes.OK:
            log_other_family(s)
        return added

    def _series_log(self, name, int fd, u64 log_id, u64 sequence):
        """Each change from now on is a line in that file, too; -1: no more. The descriptor stays the caller's."""
        cdef model.Series *s = series_of(<Audit>self, name)
        lock_series(s)
        s.log_fd, s.log_id, s.log_sequence = fd, log_id, sequence
        seqlock.unlock(&s.lock)

    def _series_logged(self, name):
        """The number of the last line, and how many lines could not be written."""
        cdef model.Series *s = series_of(<Audit>self, name)
        return s.log_sequence, s.log_failures

    def _check_windows(self):
        """Raises AssertionError when an invariant does not hold in any of our windows. O(hosts)."""
        cdef model.Series *s
        cdef u32 i, k
        for i in range(self.owner.series_known):
            s = self.owner.series[i]
            for k in range(2 * s.slots if s.own != NULL else 0):
                if s.own.tree[k] != NULL and s.state != model.ENDED:
                    lock_series(s)
                    try:
                        check_tree(s.own.tree[k])
                        assert bits.load64(<u64 *>&layout.header(&s.own.tree[k].arena).number) == <u64>s.slot[k // 2].number[k % 2]
                    finally:
                        seqlock.unlock(&s.lock)
