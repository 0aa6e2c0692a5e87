# Networks by longest match.


cdef class NetworkArray:
    """Networks of one family, in memory that grows."""

    cdef ranges.Network *network
    cdef size_t size, room

    cdef int append(self, const prefix.Prefix *p, int value) except -1:
        cdef ranges.Network *larger
        if self.size == self.room:
            larger = <ranges.Network *>realloc(self.network, (2 * self.room + 16) * sizeof(ranges.Network))
            if larger == NULL:
                raise MemoryError
            self.network, self.room = larger, 2 * self.room + 16
        self.network[self.size] = ranges.Network(p.address.hi, p.address.lo, p.length, value, self.size)
        self.size += 1
        return 0

    def __dealloc__(self):
        free(self.network)


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
        cdef NetworkArray ipv4 = NetworkArray(), ipv6 = NetworkArray()
        cdef bint fits
        for cidr, value in items:
            read_prefix(cidr, NULL, &p)
            if not 0 <= value <= 0x7FFFFFFF:
                raise ValueError(f"{cidr!r}: its value {value!r} is not between 0 and 2147483647")
            (ipv6 if p.address.version == 6 else ipv4).append(&p, value)
            self.size += 1
        with nogil:  # a list of a million networks takes so long that other threads would wait
            fits = ranges.flatten(&self.family[0], ipv4.network, ipv4.size)
            fits = fits and ranges.flatten(&self.family[1], ipv6.network, ipv6.size)
        if not fits:
            raise MemoryError

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
        cdef model.ia_ac ac
        cdef int value
        copy_accept(session, &ac)
        value = self.find(&ac)
        return None if value == ranges.NO_VALUE else value

    cdef int find(self, const model.ia_ac *ac) noexcept:
        return ranges.lookup(&self.family[ac.version == 6], ac.hi, ac.lo)
