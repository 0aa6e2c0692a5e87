# The trees of a cluster's nodes: what others have said, and what this host has said.

MAX_NODES = model.MAX_NODES
cdef enum:
    MAX_HOST_BYTES = 256        # of a tree with many hosts, each: a leaf, and its share of nodes and of free blocks

NODE_STATES = MappingProxyType({
    "heard": model.HEARD, "lost": model.LOST, "duplicate": model.DUPLICATE, "other version": model.OTHER_VERSION,
    "this host": model.THIS_HOST, "too large": model.TOO_LARGE,
})


cdef object not_records():
    return ValueError("these bytes are not records: a number is malformed, or an address is out of order")


cdef void lock_nodes(model.Owner *o) noexcept:
    if not seqlock.try_lock(&o.nodes_lock):
        with nogil:
            seqlock.lock_wait(&o.nodes_lock, &o.nodes_waiting)


cdef model.Tree *find_section(model.Owner *o, u32 kind, const char *name, size_t size) noexcept:
    """The tree of this process with that kind and name, or NULL. O(trees of this process)."""
    cdef model.Tree *t = o.listeners
    while t != NULL:
        if t.label.kind == kind and t.label.listener_size == size and memcmp(t.label.listener, name, size) == 0:
            return t
        t = t.sibling
    return NULL


cdef model.Tree *make_section(Audit audit, u32 kind, str name) except NULL:
    """The tree of this process with that kind and name, made at the first call. Raises CapacityError."""
    cdef layout.Label label
    cdef model.Tree *t
    cdef bytes text = name.encode("ascii")
    cdef int code = MADE
    label_listener(&label, "SMTP", name, True)
    label.kind = kind
    lock_owner(audit.owner)
    t = find_section(audit.owner, kind, text, len(text))
    if t == NULL:
        code = make_listener_tree(audit, model.INBOUND_CIDR, &label, &t)
    unlock_owner(audit.owner)
    raise_unmade(code, audit.capacity, audit.owner.error)
    return t


@cython.final
cdef class NodeTree:
    """The sessions of one node, or a window of one of its series: hosts with absolute counts, and the digest of them.
    Made by `NodeTrees` and `ClusterSeries`.

    Records are bytes as docs/bytes.md describes them. Reading takes no lock.

    Lock rule: one thread changes the trees of an audit at a time; the others wait for it, without the GIL.
    """

    cdef Audit audit
    cdef model.Tree *t
    cdef bint is_private        # in no list; the tree belongs to this object
    cdef ClusterSeries series   # of a window: whose window of that number and sign is the sum of the nodes' trees
    cdef int64_t number
    cdef int sign
    cdef readonly str name
    cdef ip.Address resume      # where the next `difference` begins; version 0: at the first address

    def __dealloc__(self):
        if self.is_private and self.t != NULL:
            backing.arena_close(&self.t.arena)
            free(self.t)

    def __repr__(self):
        return f"<NodeTree {self.name!r}: {self.total} of {self.hosts} hosts>"

    @property
    def hosts(self):
        """Distinct addresses."""
        return node_tree.hosts_of(self.t)

    @property
    def total(self):
        """Sessions, both families."""
        return sums.tree_total(self.t)

    @property
    def digest(self):
        """The sum of the hashes of all hosts and counts, modulo 2**64; 0 for an empty tree."""
        return bits.load64(&self.t.digest)

    @property
    def memory(self):
        """Bytes of the arena in use, free lists included."""
        return arena.arena_used(&self.t.arena)

    cdef int begin(self, node_tree.Change *c) except -1:
        """Takes the locks. Raises InboundAuditError when the audit is closed."""
        if not self.is_private:
            if self.t.state == model.NO_FILE:
                self.audit._ensure_file()
            lock_nodes(self.audit.owner)
        c.sum = NULL
        c.length[0], c.length[1] = 32, 128
        if self.series is not None:
            c.sum = self.series.begin(self.number, self.sign, c.length)
        elif not self.is_private:
            c.sum = node_tree.own_sum(self.audit.owner)
        lock_tree(self.t)
        c.tree, c.max_hosts, c.changes, c.gave_up = self.t, self.t.max_hosts, 0, False
        c.is_marked = self.series is None
        c.locked_sum = c.sum if c.is_marked else NULL
        if c.locked_sum != NULL:
            lock_tree(c.locked_sum)
        if self.t.state != model.READY or (self.series is not None and self.series.s.state == model.ENDED):
            self.end(c)
            raise InboundAuditError("the audit is closed")
        return 0

    cdef void end(self, node_tree.Change *c) noexcept:
        if c.locked_sum != NULL:
            seqlock.unlock(&c.locked_sum.arena.lock)
        seqlock.unlock(&self.t.arena.lock)
        if self.series is not None:
            self.series.end(self.number, self.sign, c)
        elif not self.is_private:
            seqlock.unlock(&self.audit.owner.nodes_lock)

    cdef int raise_code(self, int code) except -1:
        if code == codes.OK:
            return 0
        if code == codes.FULL and node_tree.hosts_of(self.t) >= self.t.max_hosts:
            raise CapacityError(f"{self.name!r}: a node has at most {self.t.max_hosts} hosts here")
        return raise_change(code, self.name, self.t)

    def set_many(self, bytes records not None):
        """Gives each host of the records its new count, 0 for none. Returns how many hosts have another count now.

        Raises ValueError for bytes that are not records, and nothing is changed; CapacityError when the tree has no
        room for a host, or more than its `max_hosts`: then some of the records are not carried out, and the digest is
        that of the hosts that are there. O(records x bytes of the address).
        """
        cdef node_tree.Part part
        cdef node_tree.Change c
        cdef records_.Host last
        cdef u64 present = 0, gone = 0
        cdef int code
        part.data, part.size = <const u8 *>PyBytes_AS_STRING(records), <size_t>len(records)
        last.address.version = 0
        if not records_.check_records(part.data, part.size, &last, &present, &gone):
            raise not_records()
        self.begin(&c)
        with nogil:
            code = node_tree.set_records(&c, &part, gone)
        self.end(&c)
        self.raise_code(code)
        return c.changes

    def replace(self, records not None):
        """Makes the tree hold exactly the hosts of the records: bytes, or a list of bytes that continue one another.

        No host passes through a count that is neither its old one nor its new one. Returns how many hosts have another
        count now. Raises as `set_many`, and changes nothing for more than `max_hosts` hosts.
        O((hosts + records) x bytes of the address).
        """
        cdef list given = [records] if isinstance(records, bytes) else list(records)
        cdef node_tree.Part *part = <node_tree.Part *>malloc((len(given) + 1) * sizeof(node_tree.Part))
        cdef node_tree.Change c
        cdef records_.Host last
        cdef u64 present = 0, gone = 0
        cdef size_t size = <size_t>len(given), i
        cdef int code
        if part == NULL:
            raise MemoryError
        last.address.version = 0
        part[0].data, part[0].size = NULL, 0
        try:
            for i in range(size):
                if not isinstance(given[i], bytes):
                    raise TypeError(f"{given[i]!r}: expected bytes")
                part[i].data, part[i].size = <const u8 *>PyBytes_AS_STRING(given[i]), <size_t>len(given[i])
                if not records_.check_records(part[i].data, part[i].size, &last, &present, &gone):
                    raise not_records()
            if present > self.t.max_hosts:
                raise CapacityError(f"{self.name!r}: a node has at most {self.t.max_hosts} hosts here")
            self.begin(&c)
            with nogil:
                code = node_tree.replace_records(&c, part, size)
            self.end(&c)
        finally:
            free(part)
        self.raise_code(code)
        return c.changes

    def empty(self):
        """Removes all hosts: for readers in one moment. Raises InboundAuditError when the audit is closed.

        O(1); O(hosts) while a sum is kept, and readers see that moment at its end.
        """
        cdef node_tree.Change c
        self.begin(&c)
        with nogil:
            node_tree.empty_node(&c)
        self.end(&c)

    def records(self, bytes after not None=b"", size_t max_bytes=1 << 18):
        """`(records, cursor)`: the hosts beyond the cursor `after` (``b""``: from the first on), as many as fit into
        `max_bytes`, and the cursor for the rest (``b""``: nothing is left).

        The records of one call after the other are what `replace` takes. Raises ValueError for another cursor, or less
        than 64 bytes.
        """
        cdef ip.Address start
        cdef RecordBuffer out = RecordBuffer(max_bytes)
        cdef bint more
        if len(after) not in (0, 4, 16):
            raise ValueError(f"{after!r}: is not a cursor")
        if not after:
            start.hi, start.lo, start.version = 0, 0, 4
        else:
            ip.from_packed(<const u8 *>PyBytes_AS_STRING(after), <int>len(after), &start)
            if not ip.next_address(&start):
                if start.version == 6:
                    return b"", b""
                start.hi, start.lo, start.version = 0, 0, 6
        with nogil:
            more = out.write_hosts(self.t, &start)
        return out.joined(), out.last_address() if more else b""

    def set_word(self, int state, u64 heard_ns=0):
        """Writes into the section what other processes read of the node: its state (a number of `NODE_STATES`), and
        when it was heard last, in nanoseconds of CLOCK_MONOTONIC. Raises ValueError for another state."""
        if not 0 <= state <= model.TOO_LARGE:
            raise ValueError(f"{state!r}: is not the state of a node")
        bits.store64(<u64 *>&layout.header(&self.t.arena).newest, heard_ns)
        bits.publish64(<u64 *>&layout.header(&self.t.arena).number, <u64>state)

    def _check(self):
        """Raises AssertionError when an invariant of the trie does not hold, or the digest is wrong. O(hosts)."""
        cdef u64 digest
        check_tree(self.t)
        digest = node_tree.digest_of(self.t)
        if digest != bits.load64(&self.t.digest):
            raise AssertionError("the digest is not that of the hosts")


seal(NodeTree, no_node_tree)


cdef NodeTree private_tree(Audit audit, str name, u64 max_hosts):
    """An empty tree in no list. Raises CapacityError."""
    cdef NodeTree made = NodeTree.__new__(NodeTree)
    cdef u64 room = audit.capacity
    if max_hosts < room // MAX_HOST_BYTES:
        room = layout.MIN_CAPACITY + max_hosts * MAX_HOST_BYTES
    made.audit, made.name, made.is_private = audit, name, True
    made.t = <model.Tree *>calloc(1, sizeof(model.Tree))
    if made.t == NULL:
        raise MemoryError
    if backing.arena_open(&made.t.arena, room) != codes.OK:
        free(made.t)
        made.t = NULL
        raise no_room(room)
    made.t.owner, made.t.max_hosts, made.t.state = audit.owner, max_hosts, model.READY
    return made


@cython.final
cdef class RecordBuffer:
    """Memory in which records are written: those of IPv4, then those of IPv6."""

    cdef u8 *start
    cdef size_t size
    cdef records_.Writer four
    cdef records_.Writer six

    def __cinit__(self, size_t max_bytes):
        if max_bytes < 64:
            raise ValueError(f"{max_bytes}: records need at least 64 bytes")
        self.size = max_bytes - 2 * records_.MAX_SIZE_BYTES
        self.start = <u8 *>malloc(self.size)
        if self.start == NULL:
            raise MemoryError
        records_.start_writer(&self.four, self.start, self.start + self.size)
        records_.start_writer(&self.six, self.start, self.start + self.size)

    def __dealloc__(self):
        free(self.start)

    cdef records_.Writer *writer(self, int version) noexcept nogil:
        """The writer of that version; IPv6 begins where IPv4 has ended."""
        if version == 4:
            return &self.four
        records_.start_writer(&self.six, self.four.at, self.start + self.size)
        return &self.six

    cdef bint write_hosts(self, model.Tree *t, ip.Address *start) noexcept nogil:
        """Writes the hosts from `start` on. Returns whether some had no room."""
        cdef hosts.Run run
        cdef records_.Writer *w
        while True:
            w = self.writer(start.version)
            hosts.start_run(&run, t, start)
            while hosts.run_has(&run):
                if not records_.write_record(w, hosts.run_host(&run)):
                    return True
                hosts.run_on(&run)
            if start.version == 6:
                return False
            start.hi, start.lo, start.version = 0, 0, 6

    cdef bint write_difference(
        self, hosts.Merge *merge, model.Tree *said, ip.Address *start
    ) noexcept nogil:
        """Writes what the trees of a merge hold otherwise than `said`, from `start` on. Returns False if some had no
        room: the first of them is the new `start`."""
        cdef ip.Address stopped
        while difference.write_difference(merge, said, start, self.writer(start.version), &stopped):
            if start.version == 6:
                return True
            start.hi, start.lo, start.version = 0, 0, 6
        start[0] = stopped
        return False

    cdef bytes joined(self):
        """The records; nothing at all if there are none."""
        cdef u8 *sizes_end
        cdef u8[records_.MAX_SIZE_BYTES] four
        cdef u8[records_.MAX_SIZE_BYTES] six
        if self.four.records + self.six.records == 0:
            return b""
        sizes_end = records_.write_number(four, 0, self.four.records)
        head = PyBytes_FromStringAndSize(<char *>four, sizes_end - four)
        sizes_end = records_.write_number(six, 0, self.six.records)
        middle = PyBytes_FromStringAndSize(<char *>six, sizes_end - six)
        return (
            head + PyBytes_FromStringAndSize(<char *>self.four.start, self.four.at - self.four.start)
            + middle + PyBytes_FromStringAndSize(<char *>self.six.start, self.six.at - self.six.start)
        )

    cdef bytes last_address(self):
        """Of the last record, packed."""
        if self.six.records:
            return self.six.hi.to_bytes(8, "big") + self.six.lo.to_bytes(8, "big")
        return self.four.lo.to_bytes(4, "big")


@cython.final
cdef class NodeTrees:
    """The trees of the other nodes of a cluster, in the file of this process (one process of a host has them: the
    agent), and what this node has said. `inbound_cidr` counts them from the first record on.

    Lock rule: that of `NodeTree`; `difference` and `changed` belong to one thread.
    """

    cdef Audit audit
    cdef dict made_series       # what `series` returns
    cdef u64 stamp              # of the trees of SMTP when the last `difference` began
    cdef bint is_stale          # that call has not seen all hosts
    cdef readonly bint complete  # the last `difference` had room for all

    def __cinit__(self, Audit audit not None):
        self.audit = audit
        self.made_series = {}
        self.is_stale = True

    def add(self, str name not None, u64 max_hosts=1 << 24):
        """The tree of a node, made at the first call; the same section each time. O(nodes), and system calls.

        Raises ValueError for a name that no node can have, CapacityError beyond `MAX_NODES` names or without room.
        """
        cdef NodeTree made = NodeTree.__new__(NodeTree)
        cdef size_t size = 0
        cdef const char *text = ascii(name, &size)
        if text == NULL or not node_tree.is_node_name(text, size):
            raise ValueError(
                f"{name!r}: the name of a node is 1 to {model.MAX_NODE_NAME} printable ASCII characters, "
                "without blanks and without / * $ # ?"
            )
        if find_section(self.audit.owner, model.REMOTE, text, size) == NULL and self.size >= model.MAX_NODES:
            raise CapacityError(f"{name!r}: a file has room for {model.MAX_NODES} nodes")
        made.audit, made.name = self.audit, name
        made.t = make_section(self.audit, model.REMOTE, name)
        made.t.max_hosts = max_hosts
        self.audit._announce()
        return made

    @property
    def size(self):
        """How many nodes have a section, in use or not. O(nodes)."""
        cdef model.Tree *t = self.audit.owner.listeners
        cdef size_t size = 0
        while t != NULL:
            size += t.label.kind == model.REMOTE
            t = t.sibling
        return size

    def said(self, str name not None="", u64 max_hosts=1 << 32):
        """An empty tree without a section: what this node has said. Raises CapacityError."""
        return private_tree(self.audit, name, max_hosts)

    def replicated(self):
        """Every series and monitor that a process of this host records in: `(scope, name, interval, windows,
        replicate)`. The scope of a monitor is its kind, and `replicate` is as in `SeriesStore.define`: if processes
        differ, what reaches most hosts. O(series x processes)."""
        cdef model.Series *s
        cdef u32 i
        cdef list rows = []
        for i in range(bits.acquire32(&self.audit.owner.series_known)):
            s = self.audit.owner.series[i]
            if model.load_ring(&s.first) != NULL:
                scope = (<bytes>scope_name(s.scope)).decode("ascii")
                rows.append((scope, name_of(s), s.interval, s.slots, cluster_window.replicate_of(s)))
        return rows

    def series(
        self, str scope not None, str name not None, u32 interval, u32 slots, u64 max_bytes=1 << 28
    ):
        """A series or monitor over the cluster, made at the first call: the same object each time. `max_bytes` is for
        what the other nodes have added in all its windows, which share it; what they removed has as much again.

        Raises SeriesError for values that no series has, CapacityError, and InboundAuditError when the audit is closed.
        O(windows), and system calls.
        """
        cdef tuple key = (scope, name, interval, slots)
        cdef ClusterSeries made = self.made_series.get(key)
        if made is None:
            made = self.made_series[key] = make_cluster_series(self.audit, scope, name, interval, slots, max_bytes)
        return made

    def difference(self, NodeTree said not None, size_t max_bytes=1 << 18, service="SMTP"):
        """The records of what this host's sessions of a service are now, where that is not what `said` holds: the sums
        over all processes, sorted, at most `max_bytes`. ``b""``: nothing differs.

        The caller passes them to `said.set_many`. What had no room (`complete` is false) comes first in the next call
        with this `said`. Frees the GIL; each count was true at some moment of the walk. Raises UnknownServiceType,
        MemoryError, ValueError for less than 64 bytes. O(hosts x log trees).
        """
        cdef int number = self.audit.number_of(service)
        cdef model.Tree *first = trees.trees_of(self.audit.owner, number)
        cdef RecordBuffer out = RecordBuffer(max_bytes)
        cdef hosts.Merge merge
        cdef ip.Address start = said.resume
        cdef u64 stamp = difference.stamp_of(first)
        cdef bint complete
        if hosts.open_merge(&merge, first) != codes.OK:
            raise MemoryError
        if start.version == 0:
            start.version = 4
        with nogil:
            complete = out.write_difference(&merge, said.t, &start)
            hosts.close_merge(&merge)
        if number == model.SMTP:
            self.is_stale = not complete or said.resume.version != 0
            self.stamp = stamp
        memset(&said.resume, 0, sizeof(said.resume))
        if not complete:
            said.resume = start
        self.complete = complete
        return out.joined()

    def changed(self):
        """Whether `difference` may find something for SMTP: a tree has changed since it began, or it is not complete.
        O(trees), a load each."""
        return self.is_stale or self.stamp != difference.stamp_of(trees.trees_of(self.audit.owner, model.SMTP))

    @property
    def sum(self):
        """Whether one more tree has the sum over all nodes: then a count of `inbound_cidr` costs the same whatever
        their number is. To set it takes O(hosts of all nodes), and no count changes. Raises CapacityError when there is
        no room. It becomes False when a later change finds no room, or all counts are dropped."""
        return node_tree.own_sum(self.audit.owner) != NULL

    @sum.setter
    def sum(self, bint wanted):
        cdef model.Owner *o = self.audit.owner
        cdef model.Tree *t
        cdef int code = codes.OK
        if not wanted and find_section(o, model.SUM, b"", 0) == NULL:
            return
        t = make_section(self.audit, model.SUM, "")
        if t.state == model.NO_FILE:
            self.audit._ensure_file()
        lock_nodes(o)
        lock_tree(t)
        if t.state != model.READY:
            code = codes.CLOSED
        elif wanted and node_tree.own_sum(o) == NULL:
            with nogil:
                code = node_tree.rebuild_sum(o, t)
        elif not wanted:
            node_tree.use_sum(t, False)
            arena.arena_reset(&t.arena)
        seqlock.unlock(&t.arena.lock)
        seqlock.unlock(&o.nodes_lock)
        if code == codes.CLOSED:
            raise InboundAuditError("the audit is closed")
        if code != codes.OK:
            raise_change(code, "sum", t)
        self.audit._announce()

    def check_records(self, list parts not None):
        """How many hosts with a count are in records that continue one another (bytes each, as `NodeTree.replace` takes
        them). Raises ValueError if they are no such records. O(records)."""
        cdef records_.Host last
        cdef u64 present = 0, gone = 0
        last.address.version = 0
        for part in parts:
            if not isinstance(part, bytes) or not records_.check_records(
                <const u8 *>PyBytes_AS_STRING(part), <size_t>len(part), &last, &present, &gone
            ):
                raise not_records()
        return present

    def _check(self):
        """Raises AssertionError when the sum is kept and is not that of all nodes. O(hosts x nodes)."""
        cdef model.Owner *o = self.audit.owner
        cdef const char *fault = NULL
        cdef model.Tree *t
        lock_nodes(o)
        t = node_tree.own_sum(o)
        if t != NULL:
            fault = node_tree.check_sum(o, t)
        seqlock.unlock(&o.nodes_lock)
        if fault != NULL:
            raise AssertionError(fault.decode("ascii"))
        if t != NULL:
            check_tree(t)


cdef list rows_of_nodes(model.Owner *o):
    """`(name, state, heard_ns, hosts, total)` of each node whose section is in use."""
    cdef model.Tree *t = trees.remote_trees(o)
    cdef list rows = []
    while t != &o.anchor[model.SMTP]:
        state = bits.acquire64(<u64 *>&layout.header(&t.arena).number)
        if state:
            name = t.label.listener[:t.label.listener_size].decode("ascii", "replace")
            heard_ns = bits.load64(<u64 *>&layout.header(&t.arena).newest)
            rows.append((name, state, heard_ns, node_tree.hosts_of(t), sums.tree_total(t)))
        t = model.load_tree(&t.next)
    rows.sort()
    return rows
