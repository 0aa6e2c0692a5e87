# Series of windows of time: monitors, named series, and what other rooms ask of them.

SCOPES = (b"connections", b"receptions", b"rejections", b"series", b"strings")
KINDS = ("connections", "receptions", "rejections")

cdef enum:
    INTERVAL_MOST = 1 << 30           # seconds
    WINDOW_LEAST = 16384              # bytes: room for the largest node and what leads there


# ---- the clock

cdef int64_t python_clock(Owner *o) noexcept with gil:
    """The time by a callable. One that fails, or says nonsense, is told of, and the last good time holds."""
    cdef double seconds
    cdef double furthest = <double>FURTHEST
    try:
        seconds = (<object>o.clock)()
        if not -furthest < seconds * 1e6 < furthest:
            raise ValueError(f"the clock says {seconds!r}")
        # From the nearest microsecond: 0.3 is a little less than three tenths.
        o.last_now = <int64_t>(seconds * 1e6 + (0.5 if seconds >= 0 else -0.5))
    except BaseException as error:
        report_clock(error)
    return o.last_now


cdef void report_clock(object error) noexcept:
    try:
        warnings.warn(f"the audit's clock failed, and stands still: {error!r}", RuntimeWarning, stacklevel=1)
    except Warning:
        pass  # a filter makes it an error, and there is nobody here to raise it to


# ---- knowing and making series (the GIL is the lock of all that, as in shared.pxi)

cdef Series *know_series(Owner *o, u32 scope, bytes name, u32 interval, u32 slots) noexcept:
    """The series with that identity, made known if it is not. NULL when there is no room for one more."""
    cdef Series *s
    cdef u32 i
    for i in range(o.series_known):
        s = o.series[i]
        if s.scope == scope and s.interval == interval and s.slots == slots and s.name[:s.name_size] == name:
            return s
    s = <Series *>calloc(1, sizeof(Series)) if o.series_known < SERIES_MOST else NULL
    if s == NULL:
        return NULL
    s.scope, s.interval, s.slots, s.owner = scope, interval, slots, o
    s.name_size = <u32>len(name)
    memcpy(s.name, <const char *>name, len(name))
    s.log_fd = -1
    o.series[o.series_known] = s
    publish32(&o.series_known, o.series_known + 1)
    return s


cdef Tree *window_tree(Audit audit, Series *s, u32 slot, u32 sign) except NULL:
    """A tree of our ring, in our file if we have one, but not yet in the ring."""
    cdef u64 size = <u64>(s.units_most + HEADER_UNITS) * UNIT
    cdef bytes scope = SCOPES[s.scope]
    cdef Tree *t
    t = add_tree(audit.owner, 0, 0, size)
    if t == NULL:
        raise no_room(size)
    t.ring = s.own
    t.label.service_size = <u32>len(scope)
    memcpy(t.label.service, <const char *>scope, t.label.service_size)
    t.label.listener_size = s.name_size
    memcpy(t.label.listener, s.name, s.name_size)
    t.label.kind, t.label.interval, t.label.slots, t.label.slot, t.label.sign = WINDOW, s.interval, s.slots, slot, sign
    header(&t.arena).number = NO_WINDOW
    return t


cdef int need_trees(Audit audit, u32 number) except -1:
    """Before the first is made: a series that does not fit leaves room for one that does."""
    if audit.owner.trees + number > TREES_MOST:
        raise CapacityError(f"{number} windows: an audit has room for {TREES_MOST} listeners and windows")
    return 0


cdef int settle_window(Audit audit, Tree *t) except -1:
    """Gives a new tree its section, or lets it go."""
    if audit.own == NULL:
        return 0
    try:
        return audit.settle_tree(t)
    except CapacityError:
        # It stays among the audit's trees, empty, and in no ring.
        arena_close(&t.arena)
        raise


cdef int make_ring(Audit audit, Series *s) except -1:
    """Our own ring of a series. Raises CapacityError, and there is none."""
    cdef Ring *r
    cdef u32 i
    need_trees(audit, s.slots)
    r = new_ring(s, <u64>-1)
    if r == NULL:
        raise MemoryError
    s.slot = <Slot *>calloc(s.slots, sizeof(Slot))
    if s.slot == NULL:
        raise MemoryError
    s.own = r
    try:
        for i in range(s.slots):
            r.tree[2 * i] = window_tree(audit, s, i, 0)
            s.slot[i].number[0] = s.slot[i].number[1] = NO_WINDOW
        s.base = 0
        s.newest = window_number(now_of(audit.owner), s.interval)
        tree_for(s, s.newest, 0)
        publish_timeline(s)
        for i in range(s.slots):
            settle_window(audit, r.tree[2 * i])
    except BaseException:
        unmake_ring(s, r)
        raise
    s.state = ENDED if audit.is_closed else READY
    link_ring(s, r)
    publish32(&s.ready, 1)
    return 0


cdef void unmake_ring(Series *s, Ring *r) noexcept:
    """A ring that nobody has seen: its trees stay the audit's, which frees them."""
    s.own = NULL
    free(s.slot)
    s.slot = NULL
    free(r.tree)
    free(r)


cdef inline void take_series(Series *s) noexcept:
    if not try_lock(&s.lock):
        with nogil:
            lock_wait(&s.lock, &s.waiting)


cdef void forget_series(Owner *o, bint closed, bint forked) noexcept:
    """Empties our rings: the audit is closed, its file was lost, or this is a forked child. The locks of a child are free."""
    cdef Series *s
    cdef u32 i, k
    for i in range(o.series_known):
        s = o.series[i]
        if s.own == NULL:
            continue
        if forked:
            unlock(&s.lock)
            s.log_fd = -1  # what it writes there would have its parent's numbers
        take_series(s)
        for k in range(2 * s.slots):
            if s.own.tree[k] != NULL:
                if forked:
                    unlock(&s.own.tree[k].arena.lock)
                forget(s.own.tree[k], ENDED if closed else READY)
                if s.own.tree[k].state == ENDED:
                    s.state = ENDED
                s.slot[k // 2].number[k % 2] = NO_WINDOW
                if s.state != ENDED:
                    header(&s.own.tree[k].arena).number = NO_WINDOW
        if closed:
            s.state = ENDED
        if s.state != ENDED:
            tree_for(s, s.newest, 0)
            publish_timeline(s)
        unlock(&s.lock)


cdef int back_series(Audit audit, int fd, u64 at) except -1:
    """Asks for the memory that our rings need in a new file, from that offset on."""
    cdef Series *s
    cdef u32 i, k
    for i in range(audit.owner.series_known):
        s = audit.owner.series[i]
        for k in range(2 * s.slots if s.own != NULL else 0):
            if s.own.tree[k] != NULL:
                if back_file(fd, at, share_needs(&s.own.tree[k].arena)) != 0:
                    raise no_space()
                at += range_of(audit.capacity)
    return 0


cdef int settle_series(Audit audit) except -1:
    """Moves our rings into the file."""
    cdef Series *s
    cdef u32 i, k
    cdef int code
    for i in range(audit.owner.series_known):
        s = audit.owner.series[i]
        for k in range(2 * s.slots if s.own != NULL else 0):
            if s.own.tree[k] != NULL:
                take_series(s)
                try:
                    audit.settle_tree(s.own.tree[k])
                finally:
                    unlock(&s.lock)
    return 0


# ---- the words of an error

def window_error(code, what, name, audit):
    """The exception for the code of a series or monitor. `what` is the text that was asked for, `name` whose it was."""
    if code == NO_MONITOR:
        return MonitorError(f"{what!r}: {reason_of(code)} (known: {', '.join(map(repr, monitor_names(audit))) or 'none'})")
    if code == NO_SERIES:
        known = ", ".join(sorted(series_names(audit))) if audit is not None else ""
        return SeriesError(f"{name!r}: {reason_of(code)} (known: {known or 'none'})")
    if code == BAD_WINDOW:
        kind = MonitorError if audit is not None and name in monitor_names(audit) else SeriesError
        return kind(f"windows {what} of {name!r}: {reason_of(code)}")
    if code in (NO_KEY, LONG_KEY, BAD_AMOUNT, NEED_MINUS, NEED_HELP):
        return SeriesError(f"{name!r}: {reason_of(code)}")
    if code in (FULL, OVERFLOW):
        return CapacityError(f"{name!r}: {reason_of(code)}")
    if code == DAMAGED:
        return SharedStateError(f"{name!r}: {reason_of(code)}")
    if code == CLOSED:
        return InboundAuditError(reason_of(code))
    return CidrError(f"{what!r}: {reason_of(code)}")


cdef object range_text(object first, object last):
    return str(first) if first == last else f"{first} to {last}"


cdef tuple monitor_names(Audit audit):
    cdef u32 m
    return tuple([(<bytes>audit.owner.series[3 * m].name[:audit.owner.series[3 * m].name_size]).decode("ascii")
                  for m in range(audit.owner.monitors)])


cdef list series_names(Audit audit):
    cdef Series *s
    cdef u32 i
    cdef list names = []
    for i in range(audit.owner.series_known):
        s = audit.owner.series[i]
        if s.scope >= ADDRESSES and s.own != NULL:
            names.append((<bytes>s.name[:s.name_size]).decode("utf-8", "replace"))
    return names


# ---- monitors

cdef Series *monitor_of(Audit audit, int kind, object monitor) except NULL:
    cdef size_t size = 0
    cdef const char *text
    cdef Series *s = NULL
    if isinstance(monitor, int) and not isinstance(monitor, bool):
        if -1 < monitor < MONITORS_MOST:
            s = find_monitor(audit.owner, kind, NULL, 0, monitor)
    else:
        text = ascii(monitor, &size)
        if text != NULL:
            s = find_monitor(audit.owner, kind, text, size, 0)
    if s == NULL:
        raise window_error(NO_MONITOR, monitor, None, audit)
    return s


cdef object count_of_kind(Audit audit, int kind, object monitor, object cidr, object startv, object endv, Session ac):
    cdef Series *s = monitor_of(audit, kind, monitor)
    cdef size_t size = 0
    cdef const char *c = NULL
    cdef int64_t first, last, count = 0
    cdef int code
    if cidr is not None:
        c = ascii(cidr, &size)
        if c == NULL:
            raise not_ascii(cidr)
    elif ac is None:
        raise CidrError(f"{cidr!r}: {reason_of(NO_KEY)}")
    endv = startv if endv is None else endv
    first, last = window_index(startv), window_index(endv)
    code = count_events(&ac.ac if ac is not None else NULL, s, c, size, first, last, &count)
    if code != OK:
        raise window_error(code, range_text(startv, endv) if code == BAD_WINDOW else cidr, name_of(s), audit)
    return count


cdef inline int64_t window_index(object v) except? -2:
    """The number of a window in a question; what is beyond all windows is beyond this one's."""
    v = index(v)
    return v if -1 < v <= SLOTS_MOST else SLOTS_MOST + 1


cdef str name_of(Series *s):
    return (<bytes>s.name[:s.name_size]).decode("utf-8", "replace")


cdef int count_of_session(Session session, int kind, object n) except -1:
    cdef Owner *o = session.ac.tree.owner
    cdef Address a
    n = index(n)
    if not 0 < n <= 0xFFFFFFFF:
        raise ValueError(f"{n!r}: a session counts from 1 to 4294967295")
    if o.monitors:
        a.hi, a.lo, a.version = session.ac.hi, session.ac.lo if session.ac.version == 6 else 0, session.ac.version
        count_event(o, kind, &a, n, now_of(o), NULL)
    return 0


# ---- named series

cdef Series *series_of(Audit audit, object name) except NULL:
    cdef Py_ssize_t size = 0
    cdef const char *text = NULL
    cdef Series *s = NULL
    if isinstance(name, str):
        try:
            text = PyUnicode_AsUTF8AndSize(name, &size)
        except UnicodeEncodeError:
            raise window_error(NO_SERIES, None, name, audit) from None
        s = find_series(audit.owner, text, <size_t>size)
    if s == NULL:
        raise window_error(NO_SERIES, None, name, audit)
    return s


cdef class SeriesTable:
    """The native part of `inbound_audit.series.SeriesSet`: what is added to named series, and counts. Made by
    `Audit.series`; it is light, and keeps its audit alive.
    """

    cdef readonly Audit _audit

    def __init__(self):
        raise TypeError("the series of an audit are its attribute `series`")

    def add(self, name, key=None, count=1, *, Session ac=None):
        """Adds `count` (a whole number, negative too) to the current window.

        `key` is an address (text, an ipaddress object, packed bytes), a Session, or None for the address of `ac`; of a
        series of strings it is the text. Raises SeriesError, AddressError, CapacityError. O(bytes of the address).
        """
        cdef Audit audit = self._audit
        cdef Series *s = series_of(audit, name)
        cdef Key k
        cdef int64_t by
        cdef int code, beyond = 0
        read_series_key(s, key, ac, &k)
        if type(count) is not int:
            count = index(count)
        by = PyLong_AsLongLongAndOverflow(count, &beyond)
        if beyond or by == 0 or not -<int64_t>AMOUNT_MOST <= by <= <int64_t>AMOUNT_MOST:
            raise SeriesError(f"{name!r}: {count!r}: {reason_of(BAD_AMOUNT)}")
        if audit.own == NULL and audit.owner.shared:
            audit._settle()
        code = series_add(s, k.ac, k.text, k.size, by)
        if code == NEED_MINUS:
            audit._make_room_for_less(name)
            code = series_add(s, k.ac, k.text, k.size, by)
        if code != OK:
            raise key_error(code, key, name, audit)

    def count(self, name, key=None, startv=0, endv=None, *, Session ac=None):
        """What was added less what was taken away, in windows `startv` to `endv` (as `startv` if it is None; 0 is the
        current window), in all processes.

        `key` is a `cidr` as in `inbound_session_count`, an address, a Session, or None for the address of `ac`; of a
        series of strings it is the text. Raises SeriesError, CidrError. O(windows x prefix length).
        """
        cdef Audit audit = self._audit
        cdef Series *s = series_of(audit, name)
        cdef Key k
        cdef int64_t first, last, count = 0
        cdef int code
        read_series_key(s, key, ac, &k, True)
        endv = startv if endv is None else endv
        first, last = window_index(startv), window_index(endv)
        code = count_key(k.ac, s, k.text, k.size, first, last, &count)
        if code != OK:
            if code == BAD_WINDOW:  # also of a series that is called as a monitor is
                raise SeriesError(f"windows {range_text(startv, endv)} of {name!r}: {reason_of(code)}")
            raise window_error(code, key, name, audit)
        return count

    def _remove_here(self, name, key=None, *, Session ac=None):
        """Forgets a key in all windows of this process. Raises as `add` does."""
        cdef Series *s = series_of(self._audit, name)
        cdef Key k
        cdef int code
        read_series_key(s, key, ac, &k)
        code = series_remove(s, k.ac, k.text, k.size)
        if code != OK:
            raise key_error(code, key, name, self._audit)


cdef struct Key:
    # A key as the core takes it: a text, or the address of an accept construct. An address that came in another form
    # stands in `own`.
    const char *text
    size_t size
    const ia_ac *ac
    ia_ac own


cdef int read_series_key(Series *s, object key, Session ac, Key *out, bint prefix=False) except -1:
    """Borrows from `key` and `ac`, which the caller holds. `prefix`: a text may be a cidr, that the core reads."""
    cdef Py_ssize_t size = 0
    cdef Address a
    cdef int port = 0
    out.text = NULL
    out.size = 0
    out.ac = &ac.ac if ac is not None else NULL
    if isinstance(key, Session) and s.scope != STRINGS:
        out.ac = &(<Session>key).ac
    elif isinstance(key, str):
        try:
            out.text = PyUnicode_AsUTF8AndSize(key, &size)
        except UnicodeEncodeError:
            raise SeriesError(f"{key!r}: is no text that has an encoding") from None
        out.size = <size_t>size
        if s.scope != STRINGS and not PyUnicode_IS_ASCII(key):
            raise not_ascii(key) if prefix else address_error(key, "has a NUL or a non-ASCII character")
    elif key is not None:
        if s.scope == STRINGS:
            raise SeriesError(f"{name_of(s)!r}: its keys are texts, and {key!r} is none")
        read_address(key, False, &a, &port)
        memset(&out.own, 0, sizeof(ia_ac))
        out.own.hi, out.own.lo, out.own.version = a.hi, a.lo, <u8>a.version
        out.ac = &out.own
    elif s.scope == STRINGS or ac is None:
        raise SeriesError(f"{name_of(s)!r}: {reason_of(NO_KEY)}")
    return 0


cdef object key_error(int code, object key, object name, Audit audit):
    """The error of a change: its key is an address."""
    error = window_error(code, key, name, audit)
    return address_error(key, reason_of(code)) if isinstance(error, CidrError) else error
