# The trie alone.

# All counters that are alive, linked by `Tree.older` and `Tree.sibling`. A fork holds the lock of this list and of each
# counter, so that the child's trees are whole. The thread that forks may make and drop counters meanwhile.
cdef model.Tree *counters = NULL
cdef u32 counters_lock = 0
cdef u64 counters_waiting = 0
cdef u64 forking_thread = 0     # that has the lock of the list; 0: none


cdef bint lock_counters() noexcept:
    """False: this thread has the lock, since it is about to fork."""
    if bits.load64(&forking_thread) == PyThread_get_thread_ident():
        return False
    if not seqlock.try_lock(&counters_lock):
        with nogil:
            seqlock.lock_wait(&counters_lock, &counters_waiting)
    return True


cdef void link_counter(model.Tree *t) noexcept:
    global counters
    cdef bint locked = lock_counters()
    t.older, t.sibling = counters, NULL
    if counters != NULL:
        counters.sibling = t
    counters = t
    if locked:
        seqlock.unlock(&counters_lock)


cdef void unlink_counter(model.Tree *t) noexcept:
    global counters
    cdef bint locked = lock_counters()
    if t.older != NULL:
        t.older.sibling = t.sibling
    if t.sibling != NULL:
        t.sibling.older = t.older
    elif counters == t:
        counters = t.older
    if locked:
        seqlock.unlock(&counters_lock)


def _lock_counters():
    """Before a fork: no other thread is in the middle of a change."""
    cdef model.Tree *t
    if not lock_counters():
        return
    t = counters
    while t != NULL:
        lock_tree(t)
        t.listener_id = 1  # held
        t = t.older
    bits.store64(&forking_thread, PyThread_get_thread_ident())


def _release_counters():
    """After a fork, in parent and child."""
    cdef model.Tree *t = counters
    if bits.load64(&forking_thread) == 0:
        return
    while t != NULL:
        if t.listener_id:  # else it was made meanwhile
            t.listener_id = 0
            seqlock.unlock(&t.arena.lock)
        t = t.older
    bits.store64(&forking_thread, 0)
    seqlock.unlock(&counters_lock)


@cython.final
cdef class PrefixCounter:
    """Counts by IPv4 and IPv6 address, asked by any prefix: the trie alone, without services and sessions.

    An address is a text, an ipaddress object, packed bytes or a getpeername() tuple; IPv4-mapped IPv6 is IPv4. `len()`
    is the number of distinct hosts; iteration yields their addresses as text in order, IPv4 first, and `items()` with
    their counts. `capacity` is the address space to reserve, in bytes; memory is used as hosts come.

    Lock rule: any number of threads may change and ask; counts take no lock.

    >>> counter = PrefixCounter()
    >>> counter.add("192.0.2.7")
    >>> counter.add("192.0.2.9", 2)
    >>> counter.count("192.0.2.0/24")
    3
    """

    cdef model.Tree t
    cdef bint linked
    cdef object __weakref__

    def __cinit__(self, *, capacity=DEFAULT_CAPACITY):
        check_capacity(capacity)
        capacity = affordable(capacity, 2)
        if backing.arena_open(&self.t.arena, capacity) != codes.OK:
            raise no_room(capacity)
        link_counter(&self.t)
        self.linked = True

    def __dealloc__(self):
        if self.linked:
            unlink_counter(&self.t)
        backing.arena_close(&self.t.arena)

    def __len__(self):
        return bits.load64(&layout.header(&self.t.arena).hosts[0]) + bits.load64(&layout.header(&self.t.arena).hosts[1])

    def __repr__(self):
        return f"<PrefixCounter: {self.total} of {len(self)} hosts>"

    def __iter__(self):
        for address, _ in self.items():
            yield address

    def items(self):
        """Yields `(address, count)` in address order. Weakly consistent; O(bytes of the address) a step."""
        cdef prefix.Prefix host
        cdef ip.Address start
        cdef int64_t count
        for version in (4, 6):
            memset(&start, 0, sizeof(start))
            host.length = 32 if version == 4 else 128
            while walk.tree_seek(&self.t, version == 6, &start, 1, &host.address):
                count = sums.tree_count(&self.t, &host)
                if count:
                    yield address_text(&host.address), count
                start = host.address
                if not ip.next_address(&start):
                    break

    def add(self, address, n=1):
        """Counts `n` more. Raises AddressError or CapacityError and changes nothing. O(bytes of the address)."""
        self.change(address, n, trie.trie_add)

    def remove(self, address, n=1):
        """Counts `n` less. Raises AddressError if the host has fewer, and changes nothing. O(bytes of the address)."""
        self.change(address, n, trie.trie_remove)

    cdef int change(
        self, object address, object n, int (*how)(layout.Arena *, const ip.Address *, u32) noexcept nogil
    ) except -1:
        cdef ip.Address a
        cdef int port, code
        cdef u32 by
        read_address(address, False, &a, &port)
        n = index(n)
        if not 0 < n <= 0xFFFFFFFF:
            raise address_error(address, f"n must be 1 to 4294967295, not {n!r}")
        by = n  # before the lock: a number's own code may run here
        lock_tree(&self.t)
        code = how(&self.t.arena, &a, by)
        seqlock.unlock(&self.t.arena.lock)
        return codes.OK if code == codes.OK else raise_change(code, address, &self.t)

    def count(self, cidr):
        """How many are counted below an address or prefix (text). Raises CidrError. O(prefix length)."""
        cdef size_t size = 0
        cdef const char *s = ascii(cidr, &size)
        cdef prefix.Prefix p
        cdef int code
        if s == NULL:
            raise not_ascii(cidr)
        code = prefix.parse_cidr(s, s + size, NULL, &p)
        if code != codes.OK:
            raise count_error(code, cidr, None, None)
        return sums.tree_count(&self.t, &p)

    @property
    def total(self):
        return sums.total_trees(&self.t)

    @property
    def memory(self):
        """Bytes in use, free lists included."""
        return arena.arena_used(&self.t.arena)

    def clear(self):
        """Forgets everything and gives the memory back. O(1) and a system call."""
        forget(&self.t, model.READY)

    def top(self, n=10, *, prefixlen=(32, 128), min_count=1):
        """The `n` largest prefixes of those lengths (IPv4, IPv6) as `(count, "prefix/length")`, the largest first,
        and of equal counts the lower address. Those below `min_count` are left out, and cost nothing."""
        return top_of(&self.t, n, prefixlen, min_count)

    def tree(self):
        """The compressed tree as rows `(count, "prefix/length")`, in address order. O(hosts)."""
        return rows_of(&self.t)

    def _picture(self, rows, within):
        """The rows of a picture: `(count, "prefix/length", parent)` as `drawn` gives them. Frees the GIL.

        Raises ValueError, CidrError. O(rows x bytes of the address).
        """
        cdef u32 most = rows_asked(rows)
        cdef picture.Picture pic
        memset(&pic, 0, sizeof(pic))
        return drawn(&pic, most, within, picture.add_part(&pic.parts, &self.t, NULL, False, 0))

    def add_many(self, packed, *, version=4):
        """Counts each of an array of packed addresses once more: all of them, or none and an error.

        `packed` is a C-contiguous buffer: bytes in network order (4 or 16 an address, as `version` says), an array of
        shape (n, 4) or (n, 16), of 4- or 16-byte items, or of 32-bit integers (IPv4 as a number). Frees the GIL;
        other writers get their turn between blocks of 256.

        Raises AddressError for another buffer, CapacityError. O(addresses x bytes of the address).
        """
        cdef Batch b
        cdef Py_ssize_t done
        cdef int code
        read_batch(packed, version, &b)
        try:
            with nogil:
                code = add_batch(&self.t, &b, &done)
        finally:
            PyBuffer_Release(&b.view)
        if code != codes.OK:
            raise CapacityError(f"address {done} of {b.size}: {reason_of(code)}")

    def count_many(self, packed, *, version=4, prefixlen=None):
        """The counts of an array of packed addresses (as for `add_many`), or of their prefixes of that length.

        Answers an `array('I')`. Frees the GIL. Raises AddressError for another buffer, CidrError for a length beyond
        the family. O(addresses x prefix length).
        """
        cdef Batch b
        cdef unsigned int[::1] out
        cdef int length
        read_batch(packed, version, &b)
        try:
            if prefixlen is not None and not 0 <= prefixlen <= 8 * b.width:
                raise CidrError(f"{prefixlen!r}: has a prefix length beyond the address family")
            length = 8 * b.width if prefixlen is None else prefixlen
            counts = array.array("I", bytes(4 * b.size))
            if b.size:
                out = counts
                with nogil:
                    count_batch(&self.t, &b, length, &out[0])
        finally:
            PyBuffer_Release(&b.view)
        return counts

    def _check(self):
        """Raises AssertionError when an invariant of the trie does not hold. O(hosts)."""
        check_tree(&self.t)
