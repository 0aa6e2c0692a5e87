# Our own rings: made, moved into a file, emptied; and the clock that turns them.

SCOPES = (b"connections", b"receptions", b"rejections", b"series", b"strings")

# ---- the clock

cdef int64_t python_clock(model.Owner *o) noexcept with gil:
    """The time by a callable. One that fails, or says nonsense, is told of, and the last good time holds."""
    cdef double seconds
    cdef double furthest = <double>clock.MAX_TIME_US
    try:
        seconds = (<object>o.clock)()
        if not -furthest < seconds * 1e6 < furthest:
            raise ValueError(f"the clock says {seconds!r}")
        # From the nearest microsecond: 0.3 is a little less than three tenths.
        o.last_now = <int64_t>(seconds * 1e6 + (0.5 if seconds >= 0 else -0.5))
    except KeyboardInterrupt:
        PyErr_SetInterrupt()  # it was not the clock's: it comes again as soon as Python goes on
    except BaseException as error:
        report_clock(error)
    return o.last_now


cdef void report_clock(object error) noexcept:
    try:
        warnings.warn(f"the audit's clock failed, and stands still: {error!r}", RuntimeWarning, stacklevel=1)
    except Warning:
        pass  # a filter makes it an error, and there is nobody here to raise it to


# ---- knowing and making series (the GIL is the lock of all that, as in shared.pxi)

cdef model.Series *know_series(model.Owner *o, u32 scope, bytes name, u32 interval, u32 slots) noexcept:
    """The series with that identity, made known if it is not. NULL when there is no room for one more."""
    cdef model.Series *s
    cdef u32 i
    for i in range(o.series_known):
        s = o.series[i]
        if s.scope == scope and s.interval == interval and s.slots == slots and s.name[:s.name_size] == name:
            return s
    s = <model.Series *>calloc(1, sizeof(model.Series)) if o.series_known < model.MAX_SERIES else NULL
    if s == NULL:
        return NULL
    s.scope, s.interval, s.slots, s.owner = scope, interval, slots, o
    s.name_size = <u32>len(name)
    memcpy(s.name, <const char *>name, len(name))
    s.log_fd = -1
    o.series[o.series_known] = s
    bits.publish32(&o.series_known, o.series_known + 1)
    return s


cdef model.Tree *window_tree(Audit audit, model.Series *s, u32 slot, u32 sign) except NULL:
    """A tree of our ring, in our file if we have one, but not yet in the ring."""
    cdef u64 size = <u64>(s.max_units + layout.HEADER_UNITS) * layout.UNIT
    cdef bytes scope = SCOPES[s.scope]
    cdef model.Tree *t
    t = trees.add_tree(audit.owner, 0, 0, size)
    if t == NULL:
        raise no_room(size)
    t.ring = s.own
    t.label.service_size = <u32>len(scope)
    memcpy(t.label.service, <const char *>scope, t.label.service_size)
    t.label.listener_size = s.name_size
    memcpy(t.label.listener, s.name, s.name_size)
    t.label.kind, t.label.interval, t.label.slots, t.label.slot, t.label.sign = model.WINDOW, s.interval, s.slots, slot, sign
    layout.header(&t.arena).number = window.NO_WINDOW
    return t


cdef int need_trees(Audit audit, u32 number) except -1:
    """Before the first is made: a series that does not fit leaves room for one that does."""
    if audit.owner.trees + number > model.MAX_TREES:
        raise CapacityError(f"{number} windows: an audit has room for {model.MAX_TREES} listeners and windows")
    return 0


cdef int attach_window(Audit audit, model.Tree *t) except -1:
    """Gives a new tree its section, or lets it go."""
    if audit.own == NULL:
        return 0
    try:
        return audit.attach_tree(t)
    except CapacityError:
        # It stays among the audit's trees, empty, and in no ring.
        audit.owner.trees -= 1
        backing.arena_close(&t.arena)
        raise


cdef int begin_ring(model.Series *s) except -1:
    """A ring of our own that has no trees yet."""
    cdef u32 i
    s.slot = <model.Slot *>calloc(s.slots, sizeof(model.Slot))
    if s.slot == NULL:
        raise MemoryError
    for i in range(s.slots):
        s.slot[i].number[0] = s.slot[i].number[1] = window.NO_WINDOW
    s.own = <model.Ring *>calloc(1, sizeof(model.Ring))
    if s.own != NULL:
        s.own.series = s
        s.own.tree = <model.Tree **>calloc(2 * s.slots, sizeof(model.Tree *))
    if s.own == NULL or s.own.tree == NULL:
        free(s.own)
        free(s.slot)
        s.own, s.slot = NULL, NULL
        raise MemoryError
    return 0


cdef void give_back_trees(Audit audit, model.Series *s) noexcept:
    """Those of an unfinished ring that nobody else can have seen: a smaller series may have their address space."""
    cdef model.Tree *t
    cdef u32 i
    for i in range(s.slots):
        t = s.own.tree[2 * i]
        if t != NULL and not t.arena.in_file:
            backing.arena_close(&t.arena)
            s.own.tree[2 * i] = NULL
            audit.owner.trees -= 1


cdef int make_ring(Audit audit, model.Series *s) except -1:
    """Our own ring of a series. Raises CapacityError, and nobody counts in it; the trees that there are wait for another
    try: others know of them, and would not believe a second of the same window.
    """
    cdef model.Tree *t
    cdef u32 i, made = 0
    cdef int64_t now = window.now_of(audit.owner)  # first of all: a clock may be anybody's code, and ask for this very series
    if s.own == NULL:
        need_trees(audit, s.slots)
        begin_ring(s)
    while made < s.slots and s.own.tree[2 * made] != NULL:
        made += 1
    need_trees(audit, s.slots - made)
    try:
        for i in range(made, s.slots):
            t = window_tree(audit, s, i, 0)
            attach_window(audit, t)
            s.own.tree[2 * i] = t
    except CapacityError:
        give_back_trees(audit, s)
        raise
    s.base = 0
    s.newest = clock.window_number(now, s.interval)
    window.tree_for(s, s.newest, 0)
    window.publish_timeline(s)
    s.state = model.ENDED if audit.is_closed else model.READY
    window.link_ring(s, s.own)
    bits.publish32(&s.ready, 1)
    return 0


cdef inline void lock_series(model.Series *s) noexcept:
    if not seqlock.try_lock(&s.lock):
        with nogil:
            seqlock.lock_wait(&s.lock, &s.waiting)


cdef void forget_series(model.Owner *o, bint closed, bint forked) noexcept:
    """Empties our rings: the audit is closed, its file was lost, or this is a forked child. The locks of a child are free."""
    cdef model.Series *s
    cdef u32 i, k
    for i in range(o.series_known):
        s = o.series[i]
        if s.own == NULL:
            continue
        if forked:
            seqlock.unlock(&s.lock)
            s.log_fd = -1  # what it writes there would have its parent's numbers
        lock_series(s)
        for k in range(2 * s.slots):
            if s.own.tree[k] != NULL:
                if forked:
                    seqlock.unlock(&s.own.tree[k].arena.lock)
                forget(s.own.tree[k], model.ENDED if closed else model.READY)
                if s.own.tree[k].state == model.ENDED:
                    s.state = model.ENDED
                s.slot[k // 2].number[k % 2] = window.NO_WINDOW
                if s.state != model.ENDED:
                    layout.header(&s.own.tree[k].arena).number = window.NO_WINDOW
        if closed:
            s.state = model.ENDED
        if s.state != model.ENDED and s.own.tree[0] != NULL:  # else it is not made yet
            window.tree_for(s, s.newest, 0)
            window.publish_timeline(s)
        seqlock.unlock(&s.lock)


cdef int back_series(Audit audit, int fd, u64 at) except -1:
    """Asks for the memory that our rings need in a new file, from that offset on."""
    cdef model.Series *s
    cdef u32 i, k
    for i in range(audit.owner.series_known):
        s = audit.owner.series[i]
        for k in range(2 * s.slots if s.own != NULL else 0):
            if s.own.tree[k] != NULL:
                if mapping.back_file(fd, at, backing.share_needs(&s.own.tree[k].arena)) != 0:
                    raise no_space()
                at += layout.range_of(audit.capacity)
    return 0


cdef int attach_series(Audit audit) except -1:
    """Moves our rings into the file."""
    cdef model.Series *s
    cdef u32 i, k
    cdef int code
    for i in range(audit.owner.series_known):
        s = audit.owner.series[i]
        for k in range(2 * s.slots if s.own != NULL else 0):
            if s.own.tree[k] != NULL:
                lock_series(s)
                code = audit.share_tree(s.own.tree[k])
                seqlock.unlock(&s.lock)
                if code != codes.OK:
                    raise no_space()
    return 0
