# Our own rings: made, moved into a file, emptied; and the clock that rotates them.

# ---- the clock

cdef int64_t python_clock(model.Owner *o) noexcept with gil:
    """Calls the Python clock. If it raises or returns a value out of range, warns and returns the last valid time."""
    cdef double seconds
    cdef double furthest = <double>clock.MAX_TIME_US
    try:
        seconds = (<object>o.clock)()
        if not -furthest < seconds * 1e6 < furthest:
            raise ValueError(f"the clock returned {seconds!r}")
        # From the nearest microsecond: 0.3 is a little less than three tenths.
        bits.store64(<u64 *>&o.last_now, <u64><int64_t>(seconds * 1e6 + (0.5 if seconds >= 0 else -0.5)))
    except KeyboardInterrupt:
        PyErr_SetInterrupt()  # it is not the clock's: Python raises it again as soon as it goes on
    except BaseException as error:
        report_clock(error)
    return <int64_t>bits.load64(<u64 *>&o.last_now)


cdef int64_t time_of_system() noexcept:
    return clock.system_clock()


cdef void report_clock(object error) noexcept:
    try:
        warnings.warn(f"the audit's clock failed; the last valid time is used: {error!r}", RuntimeWarning, stacklevel=1)
    except Warning:
        pass  # a filter makes it an error, and a clock can't raise


# ---- the series of an audit and our rings: under `Owner.lock`, so nothing here raises

cdef const char *scope_name(u32 scope) noexcept nogil:
    """The kind of a series, as it stands in an owner's file."""
    if scope == model.CONNECTIONS:
        return b"connections"
    if scope == model.RECEPTIONS:
        return b"receptions"
    if scope == model.REJECTIONS:
        return b"rejections"
    return b"strings" if scope == model.STRINGS else b"series"


cdef int scope_of(const char *name, size_t size) noexcept nogil:
    """The scope of that name; -1 for an unknown one."""
    cdef u32 scope
    for scope in range(model.STRINGS + 1):
        if strlen(scope_name(scope)) == size and memcmp(scope_name(scope), name, size) == 0:
            return <int>scope
    return -1


cdef model.Series *know_series(
    model.Owner *o, u32 scope, const char *name, size_t size, u32 interval, u32 slots
) noexcept:
    """The series with that identity, which becomes known. NULL: there is no room for one more."""
    cdef model.Series *s
    cdef u32 i
    for i in range(o.series_known):
        s = o.series[i]
        if s.scope == scope and s.interval == interval and s.slots == slots and s.name_size == size:
            if memcmp(s.name, name, size) == 0:
                return s
    s = <model.Series *>calloc(1, sizeof(model.Series)) if o.series_known < model.MAX_SERIES else NULL
    if s == NULL:
        return NULL
    s.kind, s.scope, s.interval, s.slots, s.owner = model.WINDOW, scope, interval, slots, o
    s.name_size = <u32>size
    memcpy(s.name, name, size)
    o.series[o.series_known] = s
    bits.publish32(&o.series_known, o.series_known + 1)
    return s


cdef bint publish_monitor(model.Owner *o, const char *name, size_t size, u32 interval, u32 slots) noexcept:
    """One monitor more, whose series are complete, unless it is there. False: there is no room."""
    cdef model.Series **series = o.monitor[o.monitors]
    cdef u32 m
    cdef int kind
    for m in range(o.monitors):
        if o.monitor[m][0].interval == interval and o.monitor[m][0].slots == slots:
            return True
    if o.monitors == model.MAX_MONITORS:
        return False
    for kind in range(3):
        series[kind] = know_series(o, kind, name, size, interval, slots)
    bits.publish32(&o.monitors, o.monitors + 1)
    return True


cdef model.Series *know_remote(model.Series *s) noexcept:
    """What the other nodes of a cluster record in a series, which becomes known. NULL: there is no memory."""
    cdef model.Series *remote = s.remote
    if remote == NULL:
        remote = <model.Series *>calloc(1, sizeof(model.Series))
        if remote == NULL:
            return NULL
        remote.kind, remote.scope, remote.interval, remote.slots = model.REMOTE_WINDOW, s.scope, s.interval, s.slots
        remote.name_size, remote.owner = s.name_size, s.owner
        memcpy(remote.name, s.name, s.name_size)
        model.publish_series(&s.remote, remote)
    return remote


cdef u64 window_bytes(const model.Series *s) noexcept:
    return <u64>(s.max_units + layout.HEADER_UNITS) * layout.UNIT


cdef int make_window(Audit audit, model.Series *s, u32 slot, u32 sign, model.Tree **out) noexcept:
    """A tree for our ring, in our file if we have one, but not yet in the ring."""
    cdef const char *scope = scope_name(s.scope)
    cdef model.Tree *t = trees.add_tree(audit.owner, 0, 0, window_bytes(s))
    cdef int code
    if t == NULL:
        return NO_RANGE
    t.ring = s.own
    t.label.service_size = <u32>strlen(scope)
    memcpy(t.label.service, scope, t.label.service_size)
    t.label.listener_size = s.name_size
    memcpy(t.label.listener, s.name, s.name_size)
    t.label.kind, t.label.interval, t.label.slots = s.kind, s.interval, s.slots
    t.label.slot, t.label.sign = slot, sign
    layout.header(&t.arena).number = layout.NO_WINDOW
    layout.header(&t.arena).replicate = s.replicate
    if audit.own != NULL:
        code = attach_tree(audit, t)
        if code != MADE:
            abandon_tree(audit.owner, t)
            return code
    out[0] = t
    return MADE


cdef void replicate_series(model.Series *s, u32 replicate) noexcept:
    """Which hosts of a cluster count the series, for this process and in its file."""
    cdef u32 i
    bits.store32(&s.replicate, replicate)
    for i in range(2 * s.slots if s.own != NULL else 0):
        if s.own.tree[i] != NULL:
            bits.store32(&layout.header(&s.own.tree[i].arena).replicate, replicate)


cdef int begin_ring(model.Series *s) noexcept:
    """A ring of our own that has no trees yet."""
    cdef u32 i
    s.slot = <model.Slot *>calloc(s.slots, sizeof(model.Slot))
    s.own = <model.Ring *>calloc(1, sizeof(model.Ring))
    if s.own != NULL:
        s.own.series = s
        s.own.tree = <model.Tree **>calloc(2 * s.slots, sizeof(model.Tree *))
    if s.slot == NULL or s.own == NULL or s.own.tree == NULL:
        free(s.own)
        free(s.slot)
        s.own, s.slot = NULL, NULL
        return NO_MEMORY
    for i in range(s.slots):
        s.slot[i].number[0] = s.slot[i].number[1] = layout.NO_WINDOW
        s.slot[i].whole[0] = s.slot[i].whole[1] = layout.NO_WINDOW
    return MADE


cdef void give_back_trees(model.Owner *o, model.Series *s) noexcept:
    """Closes the trees of an unfinished ring that no other owner has seen: a smaller series may use their space."""
    cdef model.Tree *t
    cdef u32 i
    for i in range(s.slots):
        t = s.own.tree[2 * i]
        if t != NULL and not t.arena.in_file:
            abandon_tree(o, t)
            s.own.tree[2 * i] = NULL


cdef int make_ring(Audit audit, model.Series *s, int64_t now) noexcept:
    """Our own ring of a series. If it fails, nothing is recorded in it, and its trees in our file wait for another try:
    other owners know them, and would not believe a second tree of the same window.
    """
    cdef u32 i, made = 0
    cdef int code
    if s.own == NULL:
        code = NO_TREES if audit.owner.trees + s.slots > model.MAX_TREES else begin_ring(s)
        if code != MADE:
            return code
    while made < s.slots and s.own.tree[2 * made] != NULL:
        made += 1
    # Before the first is made: a series that does not fit leaves room for one that does.
    code = NO_TREES if audit.owner.trees + s.slots - made > model.MAX_TREES else MADE
    for i in range(made, s.slots):
        if code == MADE:
            code = make_window(audit, s, i, 0, &s.own.tree[2 * i])
    if code != MADE:
        give_back_trees(audit.owner, s)
        return code
    s.base = 0
    s.newest = clock.window_number(now, s.interval)
    window.tree_for(s, s.newest, 0)
    window.publish_timeline(s)
    s.state = model.ENDED if audit.is_closed else model.READY
    window.link_ring(s, s.own)
    bits.publish32(&s.ready, 1)
    return MADE


cdef int make_negative_trees(Audit audit, model.Series *s, bint *made) noexcept:
    """The trees for removed counts of our ring. `made`: they were not there before."""
    cdef model.Tree *t = NULL
    cdef int code = MADE
    cdef u32 i
    made[0] = s.own.tree[2 * s.slots - 1] == NULL  # the last one made
    if made[0] and audit.owner.trees + s.slots > model.MAX_TREES:
        return NO_TREES
    for i in range(s.slots if made[0] else 0):
        if code == MADE and s.own.tree[2 * i + 1] == NULL:
            code = make_window(audit, s, i, 1, &t)
            if code == MADE:
                lock_series(s)  # who changes the ring reads its trees under the lock
                model.publish_tree(&s.own.tree[2 * i + 1], t)
                seqlock.unlock(&s.lock)
    return code


cdef inline void lock_series(model.Series *s) noexcept:
    if not seqlock.try_lock(&s.lock):
        with nogil:
            seqlock.lock_wait(&s.lock, &s.waiting)


cdef void forget_series(model.Owner *o, bint closed, bint forked) noexcept:
    """Empties our rings: the audit is closed, its file lost, or this is the child of a fork: its locks are free."""
    cdef model.Series *s
    cdef u32 i, k
    for i in range(2 * o.series_known):
        s = window.series_at(o, i)
        if s == NULL or s.own == NULL:
            continue
        if forked:
            seqlock.unlock(&s.lock)
            kept_file.kept_free(s.log)  # what it writes there would have its parent's numbers
            s.log = NULL
        lock_series(s)
        for k in range(2 * s.slots):
            if s.own.tree[k] != NULL:
                if forked:
                    seqlock.unlock(&s.own.tree[k].arena.lock)
                forget(s.own.tree[k], model.ENDED if closed else model.READY)
                if s.own.tree[k].state == model.ENDED:
                    bits.store32(&s.state, model.ENDED)
                s.slot[k // 2].number[k % 2] = s.slot[k // 2].whole[k % 2] = layout.NO_WINDOW
                if s.state != model.ENDED:
                    bits.store64(<u64 *>&layout.header(&s.own.tree[k].arena).number, <u64>layout.NO_WINDOW)
                    bits.store32(&layout.header(&s.own.tree[k].arena).replicate, s.replicate)
        if closed:
            bits.store32(&s.state, model.ENDED)
        if s.state != model.ENDED and s.own.tree[0] != NULL:  # else it is not made yet
            window.tree_for(s, s.newest, 0)
            window.publish_timeline(s)
        seqlock.unlock(&s.lock)


cdef int back_series(Audit audit, int fd, u64 at) noexcept:
    """Asks for the memory that our rings need in a new file, from that offset on."""
    cdef model.Series *s
    cdef u32 i, k
    for i in range(2 * audit.owner.series_known):
        s = window.series_at(audit.owner, i)
        for k in range(2 * s.slots if s != NULL and s.own != NULL else 0):
            if s.own.tree[k] != NULL:
                audit.owner.error = mapping.back_file(fd, at, backing.share_needs(&s.own.tree[k].arena))
                if audit.owner.error != 0:
                    return NO_SPACE
                at += layout.range_of(audit.capacity)
    return MADE


cdef int attach_series(Audit audit) noexcept:
    """Moves our rings into the file."""
    cdef model.Series *s
    cdef u32 i, k
    cdef int code = MADE
    for i in range(2 * audit.owner.series_known):
        s = window.series_at(audit.owner, i)
        for k in range(2 * s.slots if s != NULL and s.own != NULL else 0):
            if s.own.tree[k] != NULL and code == MADE:
                lock_series(s)
                code = share_tree(audit, s.own.tree[k])
                seqlock.unlock(&s.lock)
    return code
