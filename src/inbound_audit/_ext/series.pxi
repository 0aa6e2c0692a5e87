# Monitors and named series: counts, records, and the texts of their errors.

# ---- errors

def window_error(code, what, name, audit):
    """The exception for the code of a series or monitor. `what`: the text of the query; `name`: the series."""
    if code == codes.NO_MONITOR:
        known = ", ".join(map(repr, monitor_names(audit))) or "none"
        return MonitorError(f"{what!r}: {reason_of(code)} (known: {known})")
    if code == codes.NO_SERIES:
        known = ", ".join(sorted(series_names(audit))) if audit is not None else ""
        return SeriesError(f"{name!r}: {reason_of(code)} (known: {known or 'none'})")
    if code == codes.BAD_WINDOW:
        kind = MonitorError if audit is not None and name in monitor_names(audit) else SeriesError
        return kind(f"windows {what} of {name!r}: {reason_of(code)}")
    if code in (codes.NO_KEY, codes.LONG_KEY, codes.BAD_AMOUNT, codes.NEED_NEGATIVE_TREE, codes.NEED_PYTHON):
        return SeriesError(f"{name!r}: {reason_of(code)}")
    if code in (codes.FULL, codes.OVERFLOW):
        return CapacityError(f"{name!r}: {reason_of(code)}")
    if code == codes.DAMAGED:
        return SharedStateError(f"{name!r}: {reason_of(code)}")
    if code == codes.CLOSED:
        return InboundAuditError(reason_of(code))
    return CidrError(f"{what!r}: {reason_of(code)}")


cdef str family_name(int version):
    return "IPv4" if version == 4 else "IPv6"


cdef int log_other_family(model.Series *s) except -1:
    """Logs, once per series (the core's OTHER_FAMILY), that an address of the other family is not counted."""
    logger.warning(
        "series %s: its type is %s: %s addresses add nothing and count 0; a series of type ip counts both families",
        name_of(s), type_of(s), family_name(10 - s.family),
    )
    return 0


cdef object range_text(object first, object last):
    return str(first) if first == last else f"{first} to {last}"


cdef tuple monitor_names(Audit audit):
    cdef u32 m
    return tuple([name_of(audit.owner.monitor[m][0]) for m in range(bits.acquire32(&audit.owner.monitors))])


cdef list series_names(Audit audit):
    cdef model.Series *s
    cdef u32 i
    cdef list names = []
    for i in range(bits.acquire32(&audit.owner.series_known)):
        s = audit.owner.series[i]
        if s.scope >= model.ADDRESSES and bits.acquire32(&s.ready):
            names.append(name_of(s))
    return names


# ---- monitors

cdef model.Series *monitor_of(Audit audit, int kind, object monitor) except NULL:
    cdef size_t size = 0
    cdef const char *text
    cdef model.Series *s = NULL
    if fork.is_child():
        handle_the_fork()
    if isinstance(monitor, int) and not isinstance(monitor, bool):
        if -1 < monitor < model.MAX_MONITORS:
            s = series_query.find_monitor(audit.owner, kind, NULL, 0, monitor)
    else:
        text = ascii(monitor, &size)
        if text != NULL:
            s = series_query.find_monitor(audit.owner, kind, text, size, 0)
    if s == NULL:
        raise window_error(codes.NO_MONITOR, monitor, None, audit)
    return s


cdef int is_of_cluster(model.Series *s, object cluster) except -1:
    """Whether a query of a monitor is about all nodes of the cluster."""
    if type(cluster) is not bool:
        raise MonitorError(f"{name_of(s)!r}: cluster {cluster!r}: expected True or False")
    return cluster is True


cdef object query_kind(
    Audit audit, int kind, object monitor, object cidr, object startv, object endv, Session ac, object cluster
):
    cdef model.Series *s = monitor_of(audit, kind, monitor)
    cdef bint of_cluster = is_of_cluster(s, cluster)
    cdef size_t size = 0
    cdef const char *c = NULL
    cdef int64_t first, last, count = 0
    cdef int code
    cdef model.ia_ac own
    if cidr is not None:
        c = ascii(cidr, &size)
        if c == NULL:
            raise not_ascii(cidr)
    elif ac is None:
        raise CidrError(f"{cidr!r}: {reason_of(codes.NO_KEY)}")
    endv = startv if endv is None else endv
    first, last = window_index(startv), window_index(endv)
    if ac is not None:
        copy_accept(ac, &own)
    code = series_query.query_events(&own if ac is not None else NULL, s, of_cluster, c, size, first, last, &count)
    if code != codes.OK:
        raise window_error(code, range_text(startv, endv) if code == codes.BAD_WINDOW else cidr, name_of(s), audit)
    return count


cdef inline int64_t window_index(object v) except? -2:
    """The number of a window in a query; a number beyond every series is beyond this one, too."""
    v = index(v)
    return v if -1 < v <= model.MAX_SLOTS else model.MAX_SLOTS + 1


cdef str name_of(model.Series *s):
    return (<bytes>s.name[:s.name_size]).decode("utf-8", "replace")


cdef int record_session_event(Session session, int kind, object n) except -1:
    cdef model.Owner *o = session.ac.tree.owner
    cdef prefix.Prefix peer
    cdef u32 monitors
    n = index(n)
    if not 0 < n <= 0xFFFFFFFF:
        raise ValueError(f"{n!r}: expected a number from 1 to 4294967295")
    if fork.is_child():
        handle_the_fork()
    monitors = bits.acquire32(&o.monitors)
    if monitors:
        peer_of_session(session, &peer)
        series_change.record_event(o, monitors, kind, &peer.address, n, window.now_of(o), NULL)
    return 0


# ---- named series

cdef model.Series *series_of(Audit audit, object name) except NULL:
    cdef size_t size = 0
    cdef const char *text = NULL
    cdef model.Series *s = NULL
    if fork.is_child():
        handle_the_fork()
    if isinstance(name, str):
        text = utf8(name, &size)
    if text != NULL:
        s = series_query.find_series(audit.owner, text, size)
    if s == NULL:
        raise window_error(codes.NO_SERIES, None, name, audit)
    return s


cdef class SeriesTable:
    """The native part of `inbound_audit.series.SeriesSet`: records and counts in the named series of an audit.

    Keeps its audit alive.
    """

    cdef readonly Audit _audit

    def __cinit__(self, Audit audit not None, *args, **kwargs):
        self._audit = audit

    def __init__(self, audit):
        pass

    def add(self, name, key=None, count=1, *, Session ac=None):
        """Adds `count` (a whole number, negative too) to the current window.

        `key` is an address (text, an ipaddress object, packed bytes, a getpeername() tuple), a Session, or None for the
        address of `ac`; of a series of strings it is the text. Raises SeriesError, AddressError, CapacityError. O(bytes
        of the address).
        """
        cdef Audit audit = self._audit
        cdef model.Series *s = series_of(audit, name)
        cdef Key k
        cdef int64_t by
        cdef int code
        read_series_key(s, key, ac, &k)
        by = amount_of(name, count)
        if audit.own == NULL and audit.owner.shared:
            audit._ensure_file()
        code = series_change.series_add(s, k.ac, k.text, k.size, by)
        if code == codes.NEED_NEGATIVE_TREE:
            self.ensure_negative_trees(name)
            code = series_change.series_add(s, k.ac, k.text, k.size, by)
        if code == codes.OTHER_FAMILY:
            log_other_family(s)
        elif code != codes.OK:
            raise key_error(code, key, name, audit)

    def count(self, name, key=None, startv=0, endv=None, *, Session ac=None):
        """The sum of what was added and removed in windows `startv` to `endv` (None: the same as `startv`; 0 is the
        current window), in all processes; of a series that is replicated, on all nodes of the cluster.

        `key` is a `cidr` as in `inbound_session_count`, an address, a Session, or None for the address of `ac`; of a
        series of strings it is the text. Raises SeriesError, CidrError. O(windows x prefix length).
        """
        cdef Audit audit = self._audit
        cdef model.Series *s = series_of(audit, name)
        cdef Key k
        cdef int64_t first, last, count = 0
        cdef int code
        read_series_key(s, key, ac, &k, True)
        endv = startv if endv is None else endv
        first, last = window_index(startv), window_index(endv)
        code = series_query.query_key(k.ac, s, False, k.text, k.size, first, last, &count)
        if code == codes.OTHER_FAMILY:
            log_other_family(s)
        elif code != codes.OK:
            if code == codes.BAD_WINDOW:  # also of a series that is called as a monitor is
                raise SeriesError(f"windows {range_text(startv, endv)} of {name!r}: {reason_of(code)}")
            raise window_error(code, key, name, audit)
        return count

    def remove_here(self, name, key=None, *, Session ac=None):
        """Removes a key from all windows of this process. Raises as `add` does."""
        cdef model.Series *s = series_of(self._audit, name)
        cdef Key k
        cdef int code
        read_series_key(s, key, ac, &k)
        code = series_change.series_remove(s, k.ac, k.text, k.size)
        if code != codes.OK:
            raise key_error(code, key, name, self._audit)

    def add_at(self, name, key, count, int64_t microseconds):
        """Adds to the window of a past time; False when no window of that time is left.

        Raises as `add` does, and SeriesError for an address of a family that the series does not count.
        """
        cdef model.Series *s = series_of(self._audit, name)
        cdef Key k
        cdef ip.Address a
        cdef int code
        cdef int64_t by, now
        read_series_key(s, key, None, &k)
        code = series_change.read_key(k.ac, s, k.text, k.size, &a)
        if code != codes.OK:
            raise key_error(code, key, name, self._audit)
        if not series_query.counts_family(s, a.version):
            raise SeriesError(f"{name!r}: {key} is an {family_name(a.version)} address, and the type is {type_of(s)}")
        by = amount_of(name, count)
        if by < 0:
            self.ensure_negative_trees(name)
        now = window.now_of(self._audit.owner)
        code = series_change.record_past(s, &a, by, now, microseconds)
        if code not in (codes.OK, codes.UNMATCHED):
            raise window_error(code, None, name, self._audit)
        return code == codes.OK

    def ensure_negative_trees(self, name):
        """Makes the trees for removed counts of a series; False when they are there. Raises CapacityError."""
        cdef model.Series *s = series_of(self._audit, name)
        cdef bint made = False
        cdef int code
        lock_owner(self._audit.owner)
        code = make_negative_trees(self._audit, s, &made)
        unlock_owner(self._audit.owner)
        raise_unmade(code, window_bytes(s), s.owner.error)
        return made

    def log_other_family(self, name):
        """Logs that an address of the other family is not counted: what the core's code OTHER_FAMILY asks for."""
        log_other_family(series_of(self._audit, name))


cdef struct Key:
    # A key as the core takes it: a text, or the address of an accept construct, which stands in `own`.
    const char *text
    size_t size
    const model.ia_ac *ac
    model.ia_ac own


cdef int read_series_key(model.Series *s, object key, Session ac, Key *out, bint prefix=False) except -1:
    """Borrows from `key`, which the caller holds. `prefix`: a text may be a cidr, that the core reads."""
    cdef ip.Address a
    cdef int port = 0
    out.text = NULL
    out.size = 0
    out.ac = &out.own if ac is not None else NULL
    if ac is not None:
        copy_accept(ac, &out.own)
    if isinstance(key, Session) and s.scope != model.STRINGS:
        copy_accept(<Session>key, &out.own)
        out.ac = &out.own
    elif isinstance(key, str):
        out.text = utf8(key, &out.size)
        if out.text == NULL:
            raise SeriesError(f"{key!r}: a text with a lone surrogate can't be encoded")
        if s.scope != model.STRINGS and not PyUnicode_IS_ASCII(key):
            raise not_ascii(key) if prefix else address_error(key, "has a NUL or a non-ASCII character")
    elif key is not None:
        if s.scope == model.STRINGS:
            raise SeriesError(f"{name_of(s)!r}: key {key!r}: expected a text")
        read_address(key, False, &a, &port)
        memset(&out.own, 0, sizeof(model.ia_ac))
        out.own.hi, out.own.lo, out.own.version = a.hi, a.lo, <u8>a.version
        out.ac = &out.own
    elif s.scope == model.STRINGS or ac is None:
        raise SeriesError(f"{name_of(s)!r}: {reason_of(codes.NO_KEY)}")
    return 0


cdef inline int64_t amount_of(object name, object count) except 0:
    """The amount of a change. Raises SeriesError."""
    cdef int beyond = 0
    cdef int64_t by
    if type(count) is not int:
        count = index(count)
    by = PyLong_AsLongLongAndOverflow(count, &beyond)
    if beyond or by == 0 or not -<int64_t>series_change.MAX_AMOUNT <= by <= <int64_t>series_change.MAX_AMOUNT:
        raise SeriesError(f"{name!r}: {count!r}: {reason_of(codes.BAD_AMOUNT)}")
    return by


cdef object key_error(int code, object key, object name, Audit audit):
    """The error of a change: its key is an address."""
    error = window_error(code, key, name, audit)
    return address_error(key, reason_of(code)) if isinstance(error, CidrError) else error
