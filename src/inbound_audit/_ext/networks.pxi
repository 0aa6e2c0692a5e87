# Networks by longest match.


cdef object ONE = 1  # a Python number: the ends of ranges have up to 129 bits


cdef tuple range_of_prefix(const prefix.Prefix *p):
    """Its first and last address, left-aligned in 128 bits."""
    first = (<object>p.address.hi << 64) | <object>p.address.lo
    return first, first | ((ONE << (128 - p.length)) - 1)


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
            both[p.address.version == 6].append((*range_of_prefix(&p), value))
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
