# The rows of windows: sums of them, and their packed form in files.


cdef model.Series *identified(Audit audit, object scope, object name, object interval, object num_windows) except NULL:
    cdef model.Series *s
    cdef u32 i
    for i in range(audit.owner.series_known):
        s = audit.owner.series[i]
        if public_scope(s) == scope and name_of(s) == name and s.interval == interval and s.slots == num_windows:
            return s
    raise SeriesError(f"{name!r}: no such series of {interval},{num_windows}")


cdef str public_scope(model.Series *s):
    return MONITOR_KINDS[s.scope] if s.scope < model.ADDRESSES else "series"


cdef str type_of(model.Series *s):
    """The type of a series; for a series that only other processes count in, ``"string"`` or ``"ip"``."""
    if s.scope == model.STRINGS:
        return "string"
    return "cidr" if s.family == 4 else "cidr_ipv6" if s.family == 6 else "ip"


cdef int hosts_of(model.Tree *t, int64_t number, walk.Rows *rows) noexcept nogil:
    """The hosts of a tree, if it holds that window before and after; else none."""
    cdef u64 *held
    cdef int code
    if t == NULL:
        return codes.OK
    held = <u64 *>&layout.header(&t.arena).number
    if bits.acquire64(held) != <u64>number:
        return codes.OK
    code = walk.walk_hosts(t, 4, rows)
    if code == codes.OK:
        code = walk.walk_hosts(t, 6, rows)
    bits.fence_acquire()
    if bits.load64(held) != <u64>number:  # it has turned meanwhile: some may be another window's
        rows.size = 0
    return code


cdef dict sum_of_rows(model.Series *s, int64_t first, int64_t last):
    """Net counts over windows of all rings, those of the other nodes too, by (version, hi, lo). O(hosts)."""
    cdef model.Series *remote = model.load_series(&s.remote)
    cdef int64_t now = window.now_of(s.owner)
    cdef dict sums = {}
    add_series_rows(sums, s, now, first, last)
    if remote != NULL:
        add_series_rows(sums, remote, now, first, last)
    return sums


cdef int add_series_rows(dict sums, model.Series *s, int64_t now, int64_t first, int64_t last) except -1:
    cdef model.Ring *r = s.first
    cdef int64_t number = 0, v
    cdef u32 at
    while r != NULL:
        if window.ring_now(r, clock.window_number(now, s.interval), &number):
            for v in range(first, last + 1):
                at = 2 * window.slot_of(number - v, s.slots)
                add_rows(sums, r.tree[at], r.tree[at + 1], number - v)
        r = r.next
    return 0


cdef int add_rows(dict sums, model.Tree *added, model.Tree *taken, int64_t number) except -1:
    cdef walk.Rows[2] rows
    cdef ip.Address a
    cdef size_t i
    cdef int sign, code
    memset(rows, 0, sizeof(rows))
    with nogil:
        code = hosts_of(added, number, &rows[0])
        if code == codes.OK and taken != NULL:
            code = hosts_of(taken, number, &rows[1])
            # To rotate empties the first tree alone (as in `pair_sum`): the second may be an older window's.
            if added == NULL or bits.load64(<u64 *>&layout.header(&added.arena).number) != <u64>number:
                rows[0].size = rows[1].size = 0
    try:
        if code != codes.OK:
            raise window_error(code, None, "rows", None) if code == codes.DAMAGED else MemoryError()
        for sign in range(2):
            for i in range(rows[sign].size):
                a = rows[sign].row[i].prefix.address
                key = (a.version, a.hi, a.lo)
                sums[key] = sums.get(key, 0) + (-rows[sign].row[i].count if sign else rows[sign].row[i].count)
    finally:
        for sign in range(2):
            walk.free_rows(&rows[sign])
    return 0


# ---- what is kept in files: rows of 24 bytes, hi, lo, count, version

cdef struct PackedRow:
    u64 hi
    u64 lo
    u32 count
    u32 version


cdef bytes packed_rows(model.Tree *t, int64_t number):
    cdef walk.Rows rows
    cdef int code
    memset(&rows, 0, sizeof(rows))
    with nogil:
        code = hosts_of(t, number, &rows)
    try:
        if code != codes.OK:
            raise MemoryError
        return packed(&rows)
    finally:
        walk.free_rows(&rows)


cdef bytes packed(const walk.Rows *rows):
    cdef size_t i
    cdef bytes made = PyBytes_FromStringAndSize(NULL, rows.size * sizeof(PackedRow))  # not visible to other code yet
    cdef PackedRow *at = <PackedRow *>PyBytes_AS_STRING(made)
    with nogil:
        for i in range(rows.size):
            at[i].hi, at[i].lo = rows.row[i].prefix.address.hi, rows.row[i].prefix.address.lo
            at[i].count, at[i].version = <u32>rows.row[i].count, <u32>rows.row[i].prefix.address.version
    return made


cdef struct Dump:
    int64_t newest
    int64_t base
    u64 before          # number of the last line of the log when it began, and when it ended
    u64 after
    walk.Rows *rows          # of window newest - i, what was added in [2 * i], and what was taken away after it


cdef int walk_windows(model.Series *s, Dump *d) noexcept nogil:
    """All rows of our own ring, with nothing in between that may take time. OK, or a code."""
    cdef int64_t number
    cdef int code = codes.OK
    cdef u32 i
    seqlock.lock_wait(&s.lock, &s.waiting)
    d.newest, d.base, d.before = s.newest, s.base, s.log_sequence
    seqlock.unlock(&s.lock)
    for i in range(2 * s.slots):
        number = d.newest - i // 2
        code = hosts_of(s.own.tree[2 * window.slot_of(number, s.slots) + i % 2], number, &d.rows[i])
        if code != codes.OK:
            break
    seqlock.lock_wait(&s.lock, &s.waiting)
    d.after = s.log_sequence
    seqlock.unlock(&s.lock)
    return code


cdef object packed_window(model.Series *s, int64_t number, int64_t base, bytes added, bytes taken):
    # The slot is read without the lock: if it holds another window by now, this one is out of view, and `restore`
    # leaves it out.
    cdef model.Slot *slot = &s.slot[window.slot_of(number, s.slots)]
    level4 = fold.length_of(s, slot, 0) if s.scope != model.STRINGS else 32
    return number - base, level4, fold.length_of(s, slot, 1), slot.folded, added, taken


cdef int check_rows(object name, const u8[::1] rows) except -1:
    cdef const PackedRow *at = <const PackedRow *>&rows[0] if rows.shape[0] else NULL
    cdef Py_ssize_t i
    if rows.shape[0] % sizeof(PackedRow):
        raise SeriesError(f"{name!r}: {rows.shape[0]} bytes are not rows")
    for i in range(rows.shape[0] // <Py_ssize_t>sizeof(PackedRow)):
        if at[i].count == 0 or at[i].version not in (4, 6) or (at[i].version == 4 and (<u32>at[i].hi or at[i].lo)):
            raise SeriesError(f"{name!r}: row {i} is malformed")
    return 0


cdef int check_window(object name, object saved) except -1:
    """Raises SeriesError for a saved window that no dump returns."""
    check_rows(name, saved[4])
    check_rows(name, saved[5])
    if not (0 <= saved[1] <= 32 and 0 <= saved[2] <= 128 and 0 <= saved[3] < 1 << 63):
        raise SeriesError(f"{name!r}: {saved[1:4]}: expected two prefix lengths and a number of hosts")
    return 0


cdef int restore_rows(
    model.Series *s, int64_t number, int sign, const PackedRow *row, Py_ssize_t size, u64 *added, u64 *left_out
) noexcept nogil:
    """Adds rows to a window of our ring. OK, or the code of the first that found no room."""
    cdef ip.Address a
    cdef Py_ssize_t i
    cdef int code = codes.OK
    for i in range(size):
        if code != codes.OK:
            break
        if not series_query.counts_family(s, <int>row[i].version):
            left_out[0] += row[i].count
            continue
        a.hi, a.lo, a.version = row[i].hi, row[i].lo, <int>row[i].version
        seqlock.lock_wait(&s.lock, &s.waiting)
        if s.state == model.ENDED:
            code = codes.CLOSED
        elif window.in_view(s, number):
            code = series_change.add_signed(s, number, &a, -<int64_t>row[i].count if sign else <int64_t>row[i].count)
            added[0] += row[i].count if code == codes.OK else 0
        seqlock.unlock(&s.lock)
    return code


cdef int restore_levels(model.Series *s, int64_t number, object level4, object level6, object folded) noexcept:
    """Gives a window the lengths at which its restored rows count. Rows that are there keep their detail."""
    cdef model.Slot *slot = &s.slot[window.slot_of(number, s.slots)]
    cdef int lengths[2]
    cdef int family
    # Texts have no IPv4 keys: a saved length of 32 is not one of theirs.
    lengths[0], lengths[1] = 128 if s.scope == model.STRINGS else level4, level6
    if window.tree_for(s, number, 0) == NULL:
        return 0
    for family in range(2):
        while fold.length_of(s, slot, family) > lengths[family]:
            slot.level[family] += 1
    slot.folded += folded
    fold.publish_levels(s, window.slot_of(number, s.slots))
    return 0


cdef int restore_window(model.Series *s, int64_t number, object saved, u64 *added, u64 *left_out) except? -1:
    """Adds a saved window to that of our ring. OK, or the code of the first row that found no room."""
    cdef const u8[::1] rows
    cdef const PackedRow *first
    cdef Py_ssize_t size
    cdef int code = codes.OK, sign
    lock_series(s)
    if s.state != model.ENDED and window.in_view(s, number):
        restore_levels(s, number, saved[1], saved[2], saved[3])
    seqlock.unlock(&s.lock)
    for sign in range(2):
        rows = saved[4 + sign]
        size = rows.shape[0] // <Py_ssize_t>sizeof(PackedRow)
        first = <const PackedRow *>&rows[0] if size else NULL
        with nogil:
            code = restore_rows(s, number, sign, first, size, added, left_out)
        if code != codes.OK:
            break
    return code
