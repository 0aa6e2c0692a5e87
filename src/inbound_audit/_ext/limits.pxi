# The limits that are checked at accept: the native part of `inbound_audit.Limits`.


cdef object ONE = 1  # a Python number: the ends of ranges have up to 129 bits


cdef tuple range_of_prefix(const prefix.Prefix *p):
    """Its first and last address, left-aligned in 128 bits."""
    first = (<object>p.address.hi << 64) | <object>p.address.lo
    return first, first | ((ONE << (128 - p.length)) - 1)


cdef class LimitTables:
    """Tables of limits, one per network, and which addresses belong to which network.

    Until `_configure` is called there are no limits. Lock rule: `_configure` is called once, before any other thread
    has the object; afterwards only the counters change, atomically.
    """

    cdef limits.LimitSet set
    cdef NetworkMap networks    # to the numbers of listed prefixes
    cdef list names             # of the limits, in order
    cdef object accept
    cdef object refuse
    cdef object deny
    cdef public bint explains   # whether `_take_passed` will be called

    def __dealloc__(self):
        limits.free_limits(&self.set)

    def _configure(self, list tables not None, list prefixes not None, int default, accept, refuse, deny):
        """Sets everything. Called once.

        `tables[i]` lists the limits of network i as `(name, kind, IPv4 length or -1, IPv6 length or -1, maximum, event,
        seconds, denial)`. `kind` is "prefix", "network" or "listener"; "timed prefix" or "timed network" for the events
        of so many seconds, where `event` is one of `MONITOR_KINDS`; each but "listener" also with "cluster " before it,
        if all prefix limits of the network have it. `prefixes` lists `(text, network)`; of two equal prefixes the later
        one counts. An address without a prefix belongs to network `default`. `accept`, `refuse` and `deny` (for an
        override) are what `validate_connect` returns. A `denial` that is not None is `(seconds, why)`: a session over
        the limit has its prefix denied for so long.

        Raises CidrError, MemoryError, and ValueError if it was called before or a number is out of range.
        """
        if self.networks is not None or not 0 <= default < len(tables):
            raise ValueError(f"{self!r}: configured twice, or network {default} of {len(tables)}")
        for cidr, number in prefixes:
            if not 0 <= number < len(tables):
                raise ValueError(f"{cidr!r}: network {number} of {len(tables)}")
        self.set.default_table = default
        self.make_limits(tables)
        self.make_nodes(prefixes)
        self.accept, self.refuse, self.deny = accept, refuse, deny

    cdef int make_limits(self, list tables) except -1:
        cdef Py_ssize_t i = 0, network
        cdef limits.Limit *limit
        rows = [row for table in tables for row in table]
        self.names = [row[0] for row in rows]
        self.set.limit = <limits.Limit *>calloc(len(rows) + 1, sizeof(limits.Limit))
        self.set.table = <limits.Table *>calloc(len(tables), sizeof(limits.Table))
        if self.set.limit == NULL or self.set.table == NULL:
            raise MemoryError
        self.set.tables = len(tables)
        for network, table in enumerate(tables):
            self.set.table[network].first = i
            for _, kind, four, six, maximum, event, seconds, denial in table:
                limit = &self.set.limit[i]
                limit.kind = LIMIT_KINDS.index(kind)
                limit.length[0], limit.length[1], limit.maximum = four, six, maximum
                if limit.kind >= limits.TIMED_PREFIX_LIMIT:
                    limit.event, limit.interval = MONITOR_KINDS.index(event), seconds
                    self.set.timed = True
                if denial is not None:
                    limit.deny_s, limit.reason = denial[0], reason_number(denial[1])
                    self.set.denies = True
                i += 1
            self.set.table[network].end = i
            self.sort_lengths(&self.set.table[network])
        return 0

    cdef int sort_lengths(self, limits.Table *table) except -1:
        """Lists the limits of open sessions in prefixes by ascending length."""
        cdef lengths.LengthLimit *asked
        cdef int v6, i, length
        numbers = [i for i in range(<int>table.first, <int>table.end) if limits.is_of_open_prefix(&self.set.limit[i])]
        if len({self.set.limit[i].kind for i in numbers}) > 1:
            raise ValueError(f"{self!r}: some prefix limits of one network are for the cluster")
        for v6 in range(2):
            found = sorted([(self.set.limit[i].length[v6], i) for i in numbers if self.set.limit[i].length[v6] >= 0])
            table.length[v6] = <lengths.LengthLimit *>calloc(len(found) + 1, sizeof(lengths.LengthLimit))
            if table.length[v6] == NULL:
                raise MemoryError
            for length, i in found:
                asked = &table.length[v6][table.lengths[v6]]
                asked.length, asked.limit, asked.maximum = length, i, self.set.limit[i].maximum
                table.lengths[v6] += 1
        return 0

    cdef int make_nodes(self, list prefixes) except -1:
        """Numbers the listed prefixes in address order, finds what lies in what, and the terms of each network."""
        cdef prefix.Prefix p
        cdef limits.Node *node
        cdef int version, parent, around
        listed = {}
        for cidr, network in prefixes:
            read_prefix(cidr, NULL, &p)
            first, last = range_of_prefix(&p)
            listed[p.address.version == 6, first, -last] = p.length, network, cidr
        self.set.node = <limits.Node *>calloc(len(listed) + 1, sizeof(limits.Node))
        if self.set.node == NULL:
            raise MemoryError
        terms = [([], []) for _ in range(self.set.tables)]
        rows = sorted(listed.items())
        inner = [((v6, first, -minus_last), i) for i, ((v6, first, minus_last), _) in enumerate(rows)]
        for number, outer in nested(inner):
            (v6, first, _), (length, network, _) = rows[number]
            parent = limits.NO_NODE if outer is None else outer
            node = &self.set.node[number]
            node.table, node.parent, node.length = network, parent, length
            self.set.nodes += 1
            around = limits.table_of(&self.set, parent)
            if around != network:
                terms[network][v6].append((first, length, 1))
                terms[around][v6].append((first, length, -1))
        for network, families in enumerate(terms):
            for version in range(2):
                self.fill_terms(&self.set.table[network], version, families[version])
        self.networks = NetworkMap([(listed[key][2], number) for number, key in enumerate(sorted(listed))])
        return 0

    cdef int fill_terms(self, limits.Table *table, int v6, list terms) except -1:
        cdef model.Term *term
        table.term[v6] = <model.Term *>calloc(len(terms) + 1, sizeof(model.Term))
        if table.term[v6] == NULL:
            raise MemoryError
        for first, length, sign in terms:
            term = &table.term[v6][table.terms[v6]]
            term.hi, term.lo = first >> 64, first & ((ONE << 64) - 1)
            term.version, term.length, term.sign = 6 if v6 else 4, length, sign
            table.terms[v6] += 1
        return 0

    @property
    def _passed(self):
        """How often each limit was passed, as a list of `(name, number)`. A name may be there more than once."""
        cdef Py_ssize_t i
        names = self.names or ()
        return [(names[i], <object>bits.load64(&self.set.limit[i].passed)) for i in range(len(names))]

    @property
    def denied(self):
        """How many sessions an override has refused, in a dry run as well."""
        return bits.load64(&self.set.denied)

    def prepare(self, audit):
        """`Limits` makes in an audit the monitors that its limits over time need. Here there are none."""

    def validate_connect(self, Session ac not None):
        """Lets the session in, or refuses it: a `Verdict`. Takes no lock. An override decides before the limits.

        O(listeners x (prefix length + limits)); where a limit is passed by the sessions of all networks together, the
        listed prefixes below the limit's prefix are counted as well. If a limit over time lacks its monitor, it is made
        first (`prepare`), and raises what that raises.
        """
        cdef int row, node
        cdef int64_t now
        cdef Section section
        if self.networks is None:
            return self.accept
        if self.explains:
            passed.conn_id = 0  # whatever becomes of this question, the answer before it is no longer the last
        if fork.is_child():
            handle_the_fork()
        if model.load_map(&ac.ac.tree.owner.overrides) != NULL:
            row = self.overrule(ac)
            if row != limits.WITHIN_LIMITS:
                return self.deny if row == limits.DENIED else self.accept
        now = limits.time_of_limits(&self.set, ac.ac.tree.owner)
        section_begin(&section, ac)
        node = self.networks.find(&ac.ac)
        row = limits.passed_limit(&self.set, &ac.ac, node, now)
        if row != limits.WITHIN_LIMITS and self.explains:
            note_passed(&self.set, row, node, &ac.ac, now)
        section_end(&section)
        if row == limits.WITHIN_LIMITS:
            return self.accept
        if limits.lacks_monitor(&self.set.limit[row], ac.ac.tree.owner):
            self.prepare(ac.listener.audit)
            if limits.lacks_monitor(&self.set.limit[row], ac.ac.tree.owner):
                raise PolicyError(f"limit {self.names[row]!r}: no monitor counts its events")
            return self.validate_connect(ac)
        bits.fetch_add64(&self.set.limit[row].passed, 1)
        if self.set.denies:
            self.note_over(ac, row, now)
        return self.refuse

    cdef int overrule(self, Session ac):
        """What an override says (`limits.overruled`), counted."""
        cdef model.ia_ac copy
        cdef int row
        copy_accept(ac, &copy)
        row = limits.overruled(&self.set, &copy, self.networks.find(&copy))
        if row == limits.DENIED:
            bits.fetch_add64(&self.set.denied, 1)
        return row

    cdef int note_over(self, Session ac, int row, int64_t now) except -1:
        cdef model.ia_ac copy
        cdef int node
        copy_accept(ac, &copy)
        node = self.networks.find(&copy)
        with nogil:  # another thread may hold the lock of the notes
            limits.note_over(&self.set, row, &copy, node, now)
        ac.listener.audit._carry_out_denials()
        return 0

    def _states(self, Session ac not None):
        """The limits that a new connection of this client would be asked about, in their order. `ac`: of
        `Listener.visit`. Returns the number of its network and a list of `(name, prefix or None, count, maximum,
        whether the connection would be over it)`; the count is that of now, without the connection. O(limits)."""
        cdef const limits.Table *table
        cdef const limits.Limit *limit
        cdef ip.Address a
        cdef int64_t count, now
        cdef int i, node, number
        if self.networks is None:
            raise ValueError(f"{self!r}: has no limits yet")
        if fork.is_child():
            handle_the_fork()
        now = limits.time_of_limits(&self.set, ac.ac.tree.owner)
        node = self.networks.find(&ac.ac)
        number = limits.table_of(&self.set, node)
        table = &self.set.table[number]
        a.hi, a.lo, a.version = ac.ac.hi, ac.ac.lo, ac.ac.version
        rows = []
        for i in range(<int>table.first, <int>table.end):
            limit = &self.set.limit[i]
            if limit.length[a.version == 6] < 0:
                continue
            count = limits.limited_count(&self.set, limit, number, node, &ac.ac, now)
            name, counted, _, most = passed_by(self, i, &a, count)
            adds = limit.kind < limits.TIMED_PREFIX_LIMIT or limit.event == model.CONNECTIONS
            rows.append((name, counted, count, most, count + (1 if adds else 0) > most))
        return number, rows

    def _fullest(
        self, Audit audit not None, service_type, int number, u32 rows, u64 steps, bint all_over=False,
        int64_t window=-1, tuple hints=()
    ):
        """How full limit `number` is, which is for no listener alone, with what an audit counts for a service.

        Returns `(count, "prefix/length")` of the `rows` fullest prefixes, the fullest first (None in place of the text
        for a limit of a whole network); what is over the limit: of these, or with `all_over` of
        all prefixes; and whether that is sure: False if it would take more than `steps` prefixes that are looked into.
        A prefix of `hints` is the first row if it is fuller than that and the walk was not sure.
        `window`: what a limit over time has in that window of the monitor with the most windows, of all networks.
        Else it is as full as in that monitor in which it is the fullest: processes may have different monitors, and
        each counts in its own.

        Raises UnknownServiceType, CidrError, ValueError for a limit that is not there, MemoryError. Frees the GIL and
        stops no writer. O(steps x trees x bytes of the address).
        """
        cdef int service = audit.number_of(service_type)
        cdef const limits.Limit *limit
        cdef model.Series *events
        cdef u32 after = 0
        if not 0 <= number < len(self.names or ()) or self.set.limit[number].kind == limits.LISTENER_LIMIT:
            raise ValueError(f"{self!r}: has no limit {number} of a network")
        if fork.is_child():
            handle_the_fork()
        limit = &self.set.limit[number]
        if limit.kind < limits.TIMED_PREFIX_LIMIT or window != fullest.NOW:
            events = fullest.longest_monitor(limit, audit.owner)
            return self.filled(audit, service, number, events, rows, steps, all_over, window, hints)
        events = fullest.next_monitor(limit, audit.owner, &after)
        most = self.filled(audit, service, number, events, rows, steps, all_over, window, hints)
        while events != NULL:
            events = fullest.next_monitor(limit, audit.owner, &after)
            if events != NULL:
                more = self.filled(audit, service, number, events, rows, steps, all_over, window, hints)
                sure = most[2] and more[2]
                most = more if more[0][:1] > most[0][:1] else most
                most = most[0], most[1], sure
        return most

    cdef tuple filled(
        self, Audit audit, int service, int number, model.Series *events, u32 rows, u64 steps, bint all_over,
        int64_t window, tuple hints
    ):
        """As `_fullest`, of one monitor."""
        cdef fullest.Fill f
        cdef prefix.Prefix hint
        cdef int code
        memset(&f, 0, sizeof(f))
        f.set, f.listed, f.events, f.window = &self.set, self.networks.family, events, window
        f.now = limits.time_of_limits(&self.set, audit.owner)
        with nogil:
            code = fullest.begin_fill(&f, audit.owner, service, number)
            if code == codes.OK:
                code = fullest.fill_rows(&f, rows, steps, all_over)
        try:
            for text in hints:
                read_prefix(text, NULL, &hint)
                code = fullest.prefer(&f, &hint) if code == codes.OK else code
            if code != codes.OK:
                raise MemoryError
            whole = not (limits.is_of_open_prefix(&f.limit) or limits.is_of_prefix(&f.limit))
            found = [
                (f.rows.row[i].count, None if whole else prefix_text(&f.rows.row[i].prefix))
                for i in range(<int>f.rows.size)
            ]
            return found, f.over, not f.ended
        finally:
            fullest.free_fill(&f)

    def _take_passed(self, Session ac not None):
        """The limit that the session was over when this thread last asked about a session: its name, the prefix that
        it counts (None: the whole network or listener), what it counted, and the maximum. None if the session was
        within the limits, after another call, and unless `explains` was set before it was asked. O(1)."""
        cdef ip.Address a
        if passed.conn_id != ac.ac.conn_id or passed.set != &self.set:
            return None
        passed.conn_id = 0
        a.hi, a.lo, a.version = passed.hi, passed.lo, passed.version
        return passed_by(self, passed.row, &a, passed.count)


cdef extern from *:
    """
    /* The last session that was over a limit when this thread asked; conn_id 0: none. */
    static _Thread_local struct ia_passed {
        uint64_t conn_id, hi, lo;
        int64_t count;
        const void *set;
        int row, version;
    } ia_passed;
    """
    cdef struct Passed "ia_passed":
        u64 conn_id
        u64 hi
        u64 lo
        int64_t count
        const void *set
        int row
        int version
    Passed passed "ia_passed"


cdef void note_passed(const limits.LimitSet *s, int row, int node, const model.ia_ac *ac, int64_t now) noexcept:
    passed.conn_id, passed.hi, passed.lo, passed.version = ac.conn_id, ac.hi, ac.lo, ac.version
    passed.set, passed.row = s, row
    passed.count = limits.limited_count(s, &s.limit[row], limits.table_of(s, node), node, ac, now)


cdef tuple passed_by(LimitTables tables, int row, const ip.Address *a, int64_t count):
    """Limit number `row`, which an address is over: its name, the prefix that it counts or None, the count, the
    maximum."""
    cdef const limits.Limit *limit = &tables.set.limit[row]
    cdef prefix.Prefix p
    counted = None
    if limits.is_of_open_prefix(limit) or limits.is_of_prefix(limit):
        p.address, p.length = a[0], limit.length[a.version == 6]
        ip.mask(&p.address, p.length)
        counted = prefix_text(&p)
    return tables.names[row], counted, count, limit.maximum


# By `limits.LimitKind`.
cdef tuple LIMIT_KINDS = (
    "prefix", "network", "listener", "cluster prefix", "cluster network",
    "timed prefix", "timed network", "cluster timed prefix", "cluster timed network",
)
