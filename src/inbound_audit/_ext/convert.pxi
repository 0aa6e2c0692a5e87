# From and to Python, errors from codes, and changes under the writer lock.


# ---- from and to Python

cdef str reason_of(long code):
    return codes.reason(code).decode("ascii")


cdef inline const char *ascii(object text, size_t *size) noexcept:
    """The bytes of an ASCII `str`, borrowed; NULL for anything else."""
    if not isinstance(text, str) or not PyUnicode_IS_ASCII(text):
        return NULL
    size[0] = <size_t>PyUnicode_GET_LENGTH(text)
    return PyUnicode_DATA(text)


cdef inline const char *utf8(object text, size_t *size) except? NULL:
    """The bytes of a `str` in UTF-8, borrowed; NULL for one with a lone surrogate, which can't be encoded."""
    cdef const char *found = ascii(text, size)
    return encoded(text, size) if found == NULL else found


cdef const char *encoded(object text, size_t *size) except? NULL:
    # By itself, since a call with a `try` costs some 40 instructions more.
    cdef Py_ssize_t length = 0
    cdef const char *found
    try:
        found = PyUnicode_AsUTF8AndSize(text, &length)
    except UnicodeEncodeError:
        return NULL
    size[0] = <size_t>length
    return found


cdef object address_error(object given, str why):
    return AddressError(f"{given!r}: {why}")


cdef int read_packed(object given, ip.Address *out) except -1:
    """4 or 16 bytes in network order."""
    cdef const u8[::1] view
    try:
        view = given
    except (TypeError, ValueError, BufferError):
        why = "is not an address: expected a text, a getpeername() tuple, an ipaddress object or packed bytes"
        raise address_error(given, why) from None
    if view.shape[0] != 4 and view.shape[0] != 16:
        raise address_error(given, "is not a packed address: it has neither 4 nor 16 bytes")
    ip.from_packed(&view[0], <int>view.shape[0], out)
    return 0


cdef int read_text(object given, bint with_port, ip.Address *out, int *port) except -1:
    cdef size_t size = 0
    cdef const char *s = ascii(given, &size)
    cdef int code
    if s == NULL:
        raise address_error(given, "has a NUL or a non-ASCII character" if isinstance(given, str) else "is not a text")
    code = ip_text.parse_remote(s, s + size, out, port) if with_port else ip_text.parse_address(s, s + size, out)
    if code != codes.OK:
        raise address_error(given, reason_of(code))
    return 0


cdef int read_address(object given, bint with_port, ip.Address *out, int *port) except -1:
    """Any form of an address that callers may hold; `with_port` allows a port after a text; a tuple may have one."""
    port[0] = 0
    if isinstance(given, str):
        return read_text(given, with_port, out, port)
    if isinstance(given, tuple) and given:
        read_text(given[0], False, out, port)
        if len(<tuple>given) > 1 and isinstance(given[1], int):
            if not 0 <= given[1] <= 65535:
                raise address_error(given, "has no port between 0 and 65535")
            port[0] = given[1]
        return 0
    return read_packed(getattr(given, "packed", given), out)


cdef str address_text(const ip.Address *a):
    cdef char text[ip_text.TEXT_MAX]
    return PyUnicode_DecodeASCII(text, ip_text.format_address(a, text), NULL)


cdef str prefix_text(const prefix.Prefix *p):
    cdef char text[ip_text.TEXT_MAX]
    return PyUnicode_DecodeASCII(text, ip_text.format_prefix(&p.address, p.length, text), NULL)


cdef list take_rows(walk.Rows *rows, int code):
    """Rows as `(count, "prefix/length")`; frees them. Raises what the code of their walk says."""
    cdef size_t i
    try:
        if code == codes.FULL:
            raise MemoryError
        if code != codes.OK:
            raise SharedStateError(reason_of(code))
        return [(rows.row[i].count, prefix_text(&rows.row[i].prefix)) for i in range(rows.size)]
    finally:
        walk.free_rows(rows)


cdef list rows_of(model.Tree *first):
    """The rows of the compressed tree, IPv4 first."""
    cdef walk.Rows rows
    cdef int code
    memset(&rows, 0, sizeof(rows))
    with nogil:
        code = walk.walk_tree(first, 4, &rows)
        if code == codes.OK:
            code = walk.walk_tree(first, 6, &rows)
    return take_rows(&rows, code)


cdef list top_of(model.Tree *first, object n, object prefixlen, object least=1):
    cdef walk.Rows rows, heap
    cdef int length[2]
    cdef int code, i
    cdef size_t most
    cdef int64_t at_least
    try:
        length[0], length[1] = prefixlen
    except (TypeError, ValueError, OverflowError):
        raise CidrError(f"{prefixlen!r}: is not a pair of prefix lengths, one for IPv4 and one for IPv6") from None
    if not (0 <= length[0] <= 32 and 0 <= length[1] <= 128):
        raise CidrError(f"{prefixlen!r}: has a prefix length beyond the address family")
    most = min(max(0, index(n)), 1 << 62)
    at_least = min(max(1, index(least)), 1 << 62)
    memset(&rows, 0, sizeof(rows))
    memset(&heap, 0, sizeof(heap))
    with nogil:
        code = walk.walk_top(first, most, length, at_least, &heap, &rows)
    walk.free_rows(&heap)
    return take_rows(&rows, code)


def count_error(code, cidr, service, audit):
    """The exception for the code of a count: what Python raises, and whose words Lua tells."""
    if code == codes.NO_SERVICE:
        return UnknownServiceType(service, audit.service_types)
    if code == codes.NOT_TEXT and isinstance(cidr, str):
        return UnknownServiceType(service, audit.service_types)
    return CidrError(f"{cidr!r}: {reason_of(code)}")


# ---- changes under the writer lock

cdef inline void lock_tree(model.Tree *t) noexcept:
    if not seqlock.try_lock(&t.arena.lock):
        with nogil:
            seqlock.lock_wait(&t.arena.lock, &t.arena.waiting)


cdef inline void lock_owner(model.Owner *o) noexcept:
    if not seqlock.try_lock(&o.lock):
        with nogil:
            seqlock.lock_wait(&o.lock, &o.waiting)


cdef inline void unlock_owner(model.Owner *o) noexcept:
    seqlock.unlock(&o.lock)


cdef int raise_change(int code, object given, model.Tree *t) except -1:
    if code == codes.UNMATCHED:
        raise address_error(given, reason_of(code))
    if code == codes.DAMAGED:
        raise SharedStateError(f"{given!r}: {reason_of(code)}")
    if code == codes.FULL and t.arena.backed < t.arena.limit:
        raise CapacityError(f"{given!r}: no room in the shared counts: {cause_of(t.arena.error)}")
    raise CapacityError(f"{given!r}: {reason_of(code)}")


cdef void forget(model.Tree *t, u32 state) noexcept:
    """Empties a tree and detaches its sessions. A tree in a file leaves it, and the file as it is."""
    lock_tree(t)
    bits.store32(&t.epoch, t.epoch + 1)
    bits.store32(&t.state, state)
    if t.label.kind == model.REMOTE or t.label.kind == model.SUM:
        bits.store64(&t.digest, 0)
        bits.store64(<u64 *>&layout.header(&t.arena).number, 0)
    if not t.arena.in_file:
        arena.arena_reset(&t.arena)
        if t.arena.guarded != sigbus.UNGUARDED:  # it was in a file once: a fork's child has empty pages there
            backing.arena_format(&t.arena)
    elif not backing.arena_leave(&t.arena):
        t.arena.file = NULL
        bits.store32(&t.state, model.ENDED)  # what is mapped there may be another process's
    seqlock.unlock(&t.arena.lock)


cdef int check_capacity(object capacity) except -1:
    if isinstance(capacity, bool) or not isinstance(capacity, int):
        raise TypeError(f"capacity {capacity!r}: is not a whole number of bytes")
    if not layout.MIN_CAPACITY <= capacity <= <u64>layout.MAX_UNITS * layout.UNIT:
        raise CapacityError(
            f"{capacity!r}: a capacity is between {layout.MIN_CAPACITY} and {<u64>layout.MAX_UNITS * layout.UNIT} bytes"
        )
    return 0


cdef u64 affordable(u64 capacity, u64 times) noexcept:
    """`capacity`; the default is made smaller until the system reserves it `times` over, but not below 16 MiB."""
    cdef void *base
    if capacity != DEFAULT_CAPACITY:
        return capacity
    while capacity > <u64>16 << 20:
        base = mapping.reserve(<size_t>(capacity * times))
        if base != NULL:
            mapping.unmap_range(base, <size_t>(capacity * times))
            break
        capacity //= 4
    return capacity


cdef object no_room(object capacity):
    return CapacityError(
        f"{capacity!r}: the system reserves no such range of address space (ulimit -v, or a container's limit)"
    )


cdef int check_tree(model.Tree *t) except -1:
    """Raises AssertionError for the first invariant of the trie that does not hold. O(hosts)."""
    cdef const char *fault
    lock_tree(t)
    fault = verify.verify(&t.arena)
    seqlock.unlock(&t.arena.lock)
    if fault != NULL:
        raise AssertionError(fault.decode("ascii"))
    return 0
