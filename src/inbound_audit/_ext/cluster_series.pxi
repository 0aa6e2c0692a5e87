# A series over a cluster: what this host has to say of its windows, and the ring with the sum over the other nodes.

cdef enum:
    WALKS = 8                   # over a window that is emptied for another one meanwhile: it was in view for long
    MAX_TRIMS = 16              # slices of memory that one `advance` gives back


@cython.final
cdef class ClusterSeries:
    """One series over the cluster, in the agent. Made by `NodeTrees.series`.

    A window goes by its number (seconds since 1970, divided by the interval) and its sign: 0 for what was added, 1 for
    what was removed. This host's windows are those of all its processes. What the other nodes recorded is a ring of
    this process, which a count over the cluster adds to them: the sum of the trees that `tree` made.

    Lock rule: `Series.lock` of that ring, then the lock of a node's tree; one thread at a time calls it.
    """

    cdef Audit audit
    cdef model.Series *local
    cdef model.Series *s        # of the other nodes
    cdef u32 epoch              # of the ring's first tree at the last `advance`
    cdef bint is_new            # there was none
    cdef readonly str scope
    cdef readonly str name
    cdef readonly bint complete  # the last `difference` had room for all
    cdef readonly bint is_full   # a change found no room in the ring since the last `fill`

    def __repr__(self):
        return f"<ClusterSeries {self.scope} {self.name!r} {self.interval},{self.slots}>"

    @property
    def interval(self):
        """Seconds of a window."""
        return self.s.interval

    @property
    def slots(self):
        """How many windows are in view."""
        return self.s.slots

    @property
    def number(self):
        """Of the current window, as of the last `advance`."""
        return self.s.newest

    # ---- this host

    def difference(self, int64_t number, int sign, NodeTree said not None, size_t max_bytes=1 << 18):
        """The records of what a window of this host holds now, where that is not what `said` holds: as
        `NodeTrees.difference`. A window out of view holds nothing. Raises ValueError, MemoryError.
        O(hosts x log processes)."""
        cdef int64_t now = clock.window_number(window.now_of(self.audit.owner), self.s.interval)
        cdef RecordBuffer out
        cdef hosts.Merge merge
        cdef ip.Address start
        cdef bint held = False
        cdef int attempt
        self.check_sign(sign)
        for attempt in range(WALKS):
            out, start = RecordBuffer(max_bytes), said.resume
            start.version = start.version or 4
            if cluster_window.open_window(&merge, self.local, now, number, sign) != codes.OK:
                raise MemoryError
            with nogil:
                self.complete = out.write_difference(&merge, said.t, &start)
                held = cluster_window.holds_window(&merge, now, number, sign)
                hosts.close_merge(&merge)
            if held:
                break
        self.complete = self.complete and held
        if not held:
            return b""
        memset(&said.resume, 0, sizeof(said.resume))
        if not self.complete:
            said.resume = start
        return out.joined()

    def stamp(self, int64_t number, int sign):
        """A number that differs as soon as the window has changed in any process of this host. O(processes)."""
        cdef int64_t now = clock.window_number(window.now_of(self.audit.owner), self.s.interval)
        self.check_sign(sign)
        return cluster_window.stamp_of_window(self.local, now, number, sign)

    def levels(self, int64_t number):
        """The shortest lengths to which hosts of the window are folded in any process of this host, of IPv4 and of
        IPv6; 32 and 128: in none. O(processes)."""
        cdef int64_t now = clock.window_number(window.now_of(self.audit.owner), self.s.interval)
        cdef int[2] lengths
        cluster_window.levels_of_window(self.local, now, number, lengths)
        return lengths[0], lengths[1]

    # ---- the other nodes

    def advance(self):
        """Moves the ring to the audit's clock. Returns whether windows were emptied, or moved: then `fill` each that is
        in view. Raises InboundAuditError when the audit is closed. O(windows)."""
        cdef int64_t now = window.now_of(self.audit.owner)
        cdef bint moved
        cdef int _i
        self.lock()
        moved = cluster_window.follow_clock(self.s, now) or self.is_new or self.epoch != self.s.own.tree[0].epoch
        self.epoch, self.is_new = self.s.own.tree[0].epoch, False
        for _i in range(MAX_TRIMS):
            if self.s.trims:
                window.trim(self.s)
        seqlock.unlock(&self.s.lock)
        return moved

    def tree(self, int64_t number, int sign, u64 max_hosts):
        """An empty tree for what another node has in a window. A change of it is made in the ring, too, while the
        window is in view and was filled since it came into view.

        Empty the tree before it is dropped. Raises CapacityError, ValueError.
        """
        cdef NodeTree made
        self.check_sign(sign)
        if sign:
            self.ensure_negative_trees()
        made = private_tree(self.audit, self.name, max_hosts)
        made.series, made.number, made.sign = self, number, sign
        return made

    def fill(self, int64_t number, int sign, list trees not None):
        """Makes a window of the ring the sum of these trees, all that there are for it; O(1) if it is that already.

        A window without room gives up detail, and no counts (docs/windows.md); else no host passes through a false
        count. Returns False if a part could not be counted: a count of a family would pass 2**32 - 1. Does nothing if
        the window is out of view.

        Raises ValueError for a tree of another window, CapacityError, MemoryError, and InboundAuditError when the audit
        is closed. O(hosts x log trees).
        """
        cdef hosts.Merge merge
        cdef bint complete = True
        self.check_sign(sign)
        self.is_full = False
        if sign and trees:
            self.ensure_negative_trees()
        if hosts.reserve_merge(&merge, <size_t>len(trees)) != codes.OK:
            raise MemoryError
        try:
            for tree in trees:
                self.merge_tree(&merge, number, sign, tree)
            self.lock()
            with nogil:
                if window.in_view(self.s, number):
                    complete = cluster_window.fill_window(self.s, number, sign, &merge)
            seqlock.unlock(&self.s.lock)
        finally:
            hosts.close_merge(&merge)
        return complete

    cdef int merge_tree(self, hosts.Merge *merge, int64_t number, int sign, NodeTree tree) except -1:
        cdef size_t i
        if tree is None or tree.series is not self or tree.number != number or tree.sign != sign:
            raise ValueError(f"{tree!r}: is not a tree of window {number} of {self!r}")
        hosts.merge_tree(merge, tree.t)
        return 0

    cdef int check_sign(self, int sign) except -1:
        if not 0 <= sign <= 1:
            raise ValueError(f"sign {sign}: expected 0 or 1")
        return 0

    cdef int ensure_negative_trees(self) except -1:
        cdef bint made = False
        cdef int code
        self.lock()
        seqlock.unlock(&self.s.lock)
        lock_owner(self.audit.owner)
        code = make_negative_trees(self.audit, self.s, &made)
        unlock_owner(self.audit.owner)
        raise_unmade(code, window_bytes(self.s), self.audit.owner.error)
        if made:
            self.audit._announce()
        return 0

    cdef int lock(self) except -1:
        """Raises InboundAuditError when the audit is closed."""
        if self.audit.own == NULL and self.audit.owner.shared:
            self.audit._ensure_file()
        lock_series(self.s)
        if self.s.state == model.ENDED:
            seqlock.unlock(&self.s.lock)
            raise InboundAuditError("the audit is closed")
        return 0

    cdef model.Tree *begin(self, int64_t number, int sign, int *lengths) noexcept:
        """Takes the lock. The tree of the ring in which the change of a node's tree is made, too, at these lengths
        (IPv4 first); NULL: none."""
        cdef const model.Slot *slot = &self.s.slot[window.slot_of(number, self.s.slots)]
        lock_series(self.s)
        lengths[0], lengths[1] = fold.length_of(self.s, slot, 0), fold.length_of(self.s, slot, 1)
        return cluster_window.whole_tree(self.s, number, sign)

    cdef void end(self, int64_t number, int sign, node_tree.Change *c) noexcept:
        """Releases the lock. A window in which the change was not made is whole no more."""
        if c.gave_up:
            self.s.slot[window.slot_of(number, self.s.slots)].whole[sign] = layout.NO_WINDOW
        if c.changes and cluster_window.whole_tree(self.s, number, sign) == NULL and window.in_view(self.s, number):
            self.is_full = True
        if self.s.trims:
            window.trim(self.s)
        seqlock.unlock(&self.s.lock)


seal(ClusterSeries, no_cluster_series)


cdef ClusterSeries make_cluster_series(Audit audit, str scope, str name, u32 interval, u32 slots, u64 max_bytes):
    cdef bytes kind = scope.encode("ascii", "replace"), text = name.encode("utf-8", "surrogatepass")
    cdef const char *c = text
    cdef int number = scope_of(kind, len(kind)), code = NO_SERIES_LEFT
    cdef int64_t now = window.now_of(audit.owner)  # before the lock: the clock may be Python's
    cdef model.Series *s = NULL
    cdef ClusterSeries made = ClusterSeries.__new__(ClusterSeries)
    if number < 0 or not 0 < interval <= monitor.MAX_INTERVAL_S or not 0 < slots <= model.MAX_SLOTS:
        raise SeriesError(f"{scope} {name!r} {interval},{slots}: no series has these values")
    if len(text) > layout.MAX_NAME or max_bytes // slots < layout.MIN_CAPACITY + layout.PAGE:
        raise SeriesError(f"{name!r}: is too long, or {max_bytes} bytes are too few for {slots} windows")
    lock_owner(audit.owner)
    made.local = know_series(audit.owner, <u32>number, c, len(text), interval, slots)
    if made.local != NULL:
        s = know_remote(made.local)
    if s != NULL:
        code = AUDIT_CLOSED if audit.is_closed else MADE
        if code == MADE and not s.ready:
            s.max_units = <u32>(min(max_bytes // slots, audit.capacity) // layout.UNIT) - layout.HEADER_UNITS
            code = make_ring(audit, s, now)
    unlock_owner(audit.owner)
    if code == NO_SERIES_LEFT:
        raise CapacityError(f"{name!r}: an audit has room for {model.MAX_SERIES} series")
    raise_unmade(code, audit.capacity, audit.owner.error)
    made.audit, made.s, made.scope, made.name, made.is_new = audit, s, scope, name, True
    audit._announce()
    return made
