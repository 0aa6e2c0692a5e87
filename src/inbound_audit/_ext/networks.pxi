# Networks by longest match, and the limits that are checked at accept.


cdef object ONE = 1  # a Python number: the ends of ranges have up to 129 bits


@cython.wraparound(True)
cdef list flatten(list items):
    """Nested ranges `(first, last, value)` sorted by (first, -last) as boundaries `[first, value]`, inner ones win."""
    cdef list edges = [], stack = []

    def edge(at, value):
        if edges and edges[-1][0] == at:
            edges[-1][1] = value
        else:
            edges.append([at, value])

    def close_before(at):
        while stack and stack[-1][0] < at:
            last, _ = stack.pop()
            edge(last + 1, stack[-1][1] if stack else ranges.NO_VALUE)

    for first, last, value in items:
        close_before(first)
        edge(first, value)
        stack.append((last, value))
    close_before(ONE << 129)
    return [e for e in edges if e[0] < ONE << 128]


@cython.final
cdef class NetworkMap:
    """Networks that never change, each with a value from 0 to 2147483647; an address finds that of its longest match.

    `items` are pairs of a prefix (text) and a value; of two equal prefixes the later one counts. Raises CidrError for
    a bad prefix. Building is O(n log n), a look-up O(log n).
    """

    cdef ranges.Ranges family[2]
    cdef Py_ssize_t size

    def __cinit__(self, items=()):
        cdef prefix.Prefix p
        both = ([], [])
        for cidr, value in items:
            read_prefix(cidr, NULL, &p)
            if not 0 <= value <= 0x7FFFFFFF:
                raise ValueError(f"{cidr!r}: its value {value!r} is not between 0 and 2147483647")
            first = (<object>p.address.hi << 64) | <object>p.address.lo
            last = first | ((ONE << (128 - p.length)) - 1)
            both[p.address.version == 6].append((first, last, value))
            self.size += 1
        for version in range(2):
            self.fill(&self.family[version], flatten(sorted(both[version], key=lambda item: (item[0], -item[1]))))

    cdef int fill(self, ranges.Ranges *r, list edges) except -1:
        ranges.free_ranges(r)
        if not ranges.reserve_ranges(r, len(edges)):
            raise MemoryError
        for first, value in edges:
            r.range[r.size].hi = first >> 64
            r.range[r.size].lo = first & ((ONE << 64) - 1)
            r.range[r.size].value = value
            r.size += 1
        return 0

    def __dealloc__(self):
        ranges.free_ranges(&self.family[0])
        ranges.free_ranges(&self.family[1])

    def __len__(self):
        return self.size

    def lookup(self, address):
        """The value of the longest match, or None. Raises AddressError."""
        cdef ip.Address a
        cdef int port, value
        read_address(address, False, &a, &port)
        value = ranges.lookup(&self.family[a.version == 6], a.hi, a.lo)
        return None if value == ranges.NO_VALUE else value

    def lookup_session(self, Session session not None):
        """The same for the connecting IP of a session."""
        cdef int value = self.find(&session.ac)
        return None if value == ranges.NO_VALUE else value

    cdef int find(self, const model.ia_ac *ac) noexcept:
        return ranges.lookup(&self.family[ac.version == 6], ac.hi, ac.lo)


cdef struct Limit:
    int length[2]   # IPv4, IPv6; negative: does not speak of the family
    int64_t most


cdef class LimitTables:
    """Tables of limits, and which one is for whom: the native part of `inbound_audit.Limits`.

    Until `_configure` is called there are no limits.
    """

    cdef Limit *limit
    cdef Py_ssize_t *start      # of table i: limit[start[i]] up to limit[start[i + 1]]
    cdef Py_ssize_t tables
    cdef NetworkMap networks
    cdef int default
    cdef object accept

    def __cinit__(self, *args, **kwargs):
        self.networks = NetworkMap()

    def __dealloc__(self):
        free(self.limit)
        free(self.start)

    def _configure(self, list tables not None, NetworkMap networks not None, int default, accept):
        """`tables[i]` is a list of `(ipv4 length or -1, ipv6 length or -1, most)`, and an empty one is no limit at all;
        `networks` maps an address to the number of its table; who is in none of them has table `default`. `accept` is
        the answer for a session within its limits. Called once."""
        cdef Py_ssize_t i
        rows = [row for table in tables for row in table]
        if self.start != NULL or not 0 <= default < len(tables):
            raise ValueError(f"{self!r}: configured twice, or table {default} of {len(tables)}")
        self.limit = <Limit *>malloc((len(rows) + 1) * sizeof(Limit))
        self.start = <Py_ssize_t *>malloc((len(tables) + 1) * sizeof(Py_ssize_t))
        if self.limit == NULL or self.start == NULL:
            raise MemoryError
        self.start[0] = 0
        for i, table in enumerate(tables):
            self.start[i + 1] = self.start[i] + len(table)
        for i, row in enumerate(rows):
            self.limit[i].length[0], self.limit[i].length[1], self.limit[i].most = row
        self.networks, self.default, self.accept, self.tables = networks, default, accept, len(tables)

    def _passed(self, table, row, count, prefix):
        """The answer for a session that passes limit `row` of a table: `count` are open from `prefix`."""
        raise NotImplementedError

    def validate_connect(self, Session ac not None):
        """Lets the session in, or refuses it: a `Verdict`. O(limits x prefix length x listeners); takes no lock.

        Counts are those of the session's own service, the asking session included.
        """
        cdef model.Tree *first = trees.trees_of(ac.ac.tree.owner, ac.ac.tree.service)
        cdef prefix.Prefix peer, p
        cdef int64_t count
        cdef Py_ssize_t i
        cdef int table, length
        if self.tables == 0:
            return self.accept
        table = self.networks.find(&ac.ac)
        if not 0 <= table < self.tables:
            table = self.default
        query.peer_of(&ac.ac, &peer)
        for i in range(self.start[table], self.start[table + 1]):
            length = self.limit[i].length[ac.ac.version == 6]
            if length < 0:
                continue
            p.address, p.length = peer.address, length
            ip.mask(&p.address, length)
            count = sums.sum_trees(first, &p)
            if count > self.limit[i].most:
                return self._passed(table, i - self.start[table], count, prefix_text(&p))
        return self.accept
