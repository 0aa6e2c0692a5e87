# The series of an audit as its other users have them: definitions, and rows for files, the console and tests.


@cython.final
cdef class SeriesStore:
    """Defines the series and monitors of an audit, and reads and writes their rows. It has no state beside the audit's.

    Lock rule: `Owner.lock` for definitions, `Series.lock` for the windows of one series; sums take no lock.
    """

    cdef Audit audit

    def __cinit__(self, Audit audit not None):
        self.audit = audit

    def define(
        self, str scope not None, str name not None, u32 interval, u32 slots, u64 window_bytes, u32 max_hosts,
        u32 family=0, u32 replicate=0
    ):
        """Makes the windows of a series, unless they are there. `scope` is a kind of a monitor, ``"series"`` or
        ``"strings"``; `family` is 4, 6 or 0 (both). `replicate`: which hosts of a cluster count it (the core's
        Replicate); 0 changes nothing in a series that is there.

        Raises CapacityError, and InboundAuditError when the audit is closed. O(windows).
        """
        cdef bytes kind = scope.encode("ascii"), text = name.encode("utf-8")
        cdef const char *c = text
        cdef size_t size = len(text)
        cdef int number = scope_of(kind, len(kind)), code = NO_SERIES_LEFT
        cdef int64_t now = window.now_of(self.audit.owner)  # before the lock: the clock may be Python's
        cdef model.Series *s
        if replicate > model.REPLICATE_MANAGER:
            raise SeriesError(f"{name!r}: replicate {replicate}: expected a number from 0 to {model.REPLICATE_MANAGER}")
        if number < 0 or size > layout.MAX_NAME:
            raise SeriesError(f"{name!r}: unknown scope {scope!r}, or a name of more than {layout.MAX_NAME} bytes")
        lock_owner(self.audit.owner)
        s = know_series(self.audit.owner, <u32>number, c, size, interval, slots)
        if s != NULL:
            code = AUDIT_CLOSED if self.audit.is_closed else MADE
            if code == MADE and replicate:
                replicate_series(s, replicate)
            if code == MADE and not s.ready:
                s.max_units = <u32>(min(window_bytes, self.audit.capacity) // layout.UNIT) - layout.HEADER_UNITS
                s.max_hosts, s.family = max_hosts, family
                code = make_ring(self.audit, s, now)
        unlock_owner(self.audit.owner)
        if code == NO_SERIES_LEFT:
            raise CapacityError(f"{name!r}: an audit has room for {model.MAX_SERIES} series")
        raise_unmade(code, min(window_bytes, self.audit.capacity), self.audit.owner.error)

    def define_monitor(self, str name not None, u32 interval, u32 slots, u64 window_bytes, u32 max_hosts):
        """One monitor more, unless it is there. Threads that record see it with all of its windows, or not at all.

        Raises as `define` does, and CapacityError for one monitor too many.
        """
        cdef bytes text = name.encode("ascii")
        cdef bint fits
        for kind in MONITOR_KINDS:
            self.define(kind, name, interval, slots, window_bytes, max_hosts)
        lock_owner(self.audit.owner)
        fits = publish_monitor(self.audit.owner, text, len(text), interval, slots)
        unlock_owner(self.audit.owner)
        if not fits:
            raise CapacityError(f"{name!r}: an audit has room for {model.MAX_MONITORS} monitors")

    @property
    def known(self):
        """Every series and monitor that a process has, as `(scope, name, type, interval, windows)`.

        The type of a series that only other processes have is ``"ip"`` or ``"string"``.
        """
        cdef model.Series *s
        cdef u32 i
        rows = []
        for i in range(self.audit.owner.series_known):
            s = self.audit.owner.series[i]
            if s.first != NULL:
                rows.append((public_scope(s), name_of(s), type_of(s), s.interval, s.slots))
        return rows

    def is_of_cluster(self, scope, name, interval, num_windows):
        """Whether this host's agent has what the other nodes recorded in an entry of `known`. Raises SeriesError."""
        cdef model.Series *s = identified(self.audit, scope, name, interval, num_windows)
        cdef model.Series *remote = model.load_series(&s.remote)
        return remote != NULL and model.load_ring(&remote.first) != NULL

    def count(self, scope, name, interval, num_windows, cidr, startv, endv):
        """A sum over windows of an entry of `known`; of a series of type string `cidr` is the text. Where this host
        counts the series over a cluster, the other nodes are included.

        Raises SeriesError, CidrError. O(windows x prefix length x processes).
        """
        cdef model.Series *s = identified(self.audit, scope, name, interval, num_windows)
        cdef Key k
        cdef int64_t count = 0
        cdef int code
        read_series_key(s, cidr, None, &k, True)
        code = series_query.query_key(
            k.ac, s, True, k.text, k.size, window_index(startv), window_index(endv), &count
        )
        if code == codes.OTHER_FAMILY:
            log_other_family(s)
        elif code != codes.OK:
            raise window_error(code, range_text(startv, endv) if code == codes.BAD_WINDOW else cidr, name, self.audit)
        return count

    def rows(self, scope, name, interval, num_windows, startv, endv):
        """Each host and its net count over those windows of an entry of `known`, `(count, address)`, in address order.
        Other nodes are included as in `count`.

        Raises SeriesError. O(hosts).
        """
        cdef model.Series *s = identified(self.audit, scope, name, interval, num_windows)
        cdef ip.Address a
        if not 0 <= startv <= endv < num_windows:
            raise window_error(codes.BAD_WINDOW, range_text(startv, endv), name, self.audit)
        rows = []
        for (version, hi, lo), count in sorted(sum_of_rows(s, startv, endv).items()):
            if count:
                a.hi, a.lo, a.version = hi, lo, version
                rows.append((count, address_text(&a)))
        return rows

    def picture(self, scope, name, interval, num_windows, startv, endv, rows, within):
        """The rows of a picture of windows `startv` to `endv` of an entry of `known`: `(count, "prefix/length",
        parent)` as `drawn` gives them. Other nodes are included as in `count`. Frees the GIL.

        Raises ValueError, CidrError, SeriesError. O(rows x windows x processes x bytes of the address).
        """
        cdef u32 most = rows_asked(rows)
        cdef model.Series *s = identified(self.audit, scope, name, interval, num_windows)
        cdef int64_t first = window_index(startv), last = window_index(endv)
        cdef picture.Picture pic
        if series_query.range_of_windows(s, first, last) != codes.OK:
            raise window_error(codes.BAD_WINDOW, range_text(startv, endv), name, self.audit)
        if s.scope == model.STRINGS:
            raise SeriesError(f"{name!r}: is a series of texts, of which no picture can be drawn")
        memset(&pic, 0, sizeof(pic))
        cdef int code = picture.add_windows(&pic.parts, s, window.now_of(self.audit.owner), first, last)
        return drawn(&pic, most, within, code)

    def count_rows(
        self, scope, name, interval, num_windows, startv, endv, list prefixes not None, list parents not None
    ):
        """The sums over windows of an entry of `known` of addresses, for prefixes that are nested: `parents` has the
        position of a prefix before it that it is in, or -1. Other nodes are included as in `count`. Frees the GIL.

        Raises ValueError, CidrError, SeriesError. O(prefixes x windows x processes x bytes of the address); a window
        of a process that has nothing in a prefix costs nothing inside it.
        """
        cdef model.Series *s = identified(self.audit, scope, name, interval, num_windows)
        cdef int64_t first = window_index(startv), last = window_index(endv)
        cdef Py_ssize_t rows = len(prefixes), i
        cdef picture.Parts parts
        cdef picture.CountedRow *row
        cdef int code
        if series_query.range_of_windows(s, first, last) != codes.OK:
            raise window_error(codes.BAD_WINDOW, range_text(startv, endv), name, self.audit)
        memset(&parts, 0, sizeof(parts))
        row = <picture.CountedRow *>calloc(rows + 1, sizeof(picture.CountedRow))
        try:
            code = codes.OK if row != NULL else codes.FULL
            for i in range(rows if row != NULL else 0):
                read_prefix(prefixes[i], NULL, &row[i].prefix)
                row[i].parent = parents[i]
                if not -1 <= row[i].parent < i:
                    raise ValueError(f"{prefixes[i]!r}: it is in no prefix before it")
            if code == codes.OK:
                code = picture.add_windows(&parts, s, window.now_of(self.audit.owner), first, last)
            if code != codes.OK:
                raise MemoryError
            with nogil:
                picture.count_rows(&parts, row, rows)
            return [row[i].count for i in range(rows)]
        finally:
            free(parts.part)
            free(row)

    def hosts(self, name):
        """The distinct hosts of each window of this process, added up. Raises SeriesError. O(windows)."""
        cdef model.Series *s = series_of(self.audit, name)
        cdef u64 n = 0
        cdef u32 i
        lock_series(s)
        for i in range(2 * s.slots):
            if s.own.tree[i] != NULL and window.in_view(s, s.slot[i // 2].number[i % 2]):
                n += bits.load64(&layout.header(&s.own.tree[i].arena).hosts[0])
                n += bits.load64(&layout.header(&s.own.tree[i].arena).hosts[1])
        seqlock.unlock(&s.lock)
        return n

    def memory(self, name):
        """The bytes that the windows of this process use. Raises SeriesError. O(windows)."""
        cdef model.Series *s = series_of(self.audit, name)
        cdef u64 n = 0
        cdef model.Tree *t
        cdef u32 i
        for i in range(2 * s.slots):
            t = model.load_tree(&s.own.tree[i])
            if t != NULL:
                n += arena.arena_used(&t.arena)
        return n

    def folded(self, name):
        """The windows of this process that gave up detail: `(window, IPv4 length, IPv6 length, hosts)`. O(windows).

        Each row is true at some moment: the lock is given back after each window, as Python makes the rows.
        """
        cdef model.Series *s = series_of(self.audit, name)
        cdef model.Slot slot
        cdef int64_t now = clock.window_number(window.now_of(self.audit.owner), s.interval), number
        cdef u32 v
        lock_series(s)
        now = max(now + s.base, s.newest)
        seqlock.unlock(&s.lock)
        rows = []
        for v in range(s.slots):
            number = now - v
            lock_series(s)
            slot = s.slot[window.slot_of(number, s.slots)]
            seqlock.unlock(&s.lock)
            if slot.number[0] == number and (slot.level[0] or slot.level[1]):
                four = 32 if s.scope == model.STRINGS else fold.length_of(s, &slot, 0)
                rows.append((v, four, fold.length_of(s, &slot, 1), slot.folded))
        return rows

    def dump(self, name):
        """What the windows of this process hold: `(newest, [(number, level4, level6, folded, added, taken), ...])`.

        Numbers are those of the clock; rows are 24 bytes each (u64 hi, u64 lo, u32 count, u32 version). Releases the
        GIL; weakly consistent beside threads that add. O(hosts).
        """
        cdef model.Series *s = series_of(self.audit, name)
        cdef int64_t number, newest, base
        cdef u32 i, at
        lock_series(s)
        newest, base = s.newest, s.base
        seqlock.unlock(&s.lock)
        windows = []
        for i in range(s.slots):
            number = newest - i
            at = window.slot_of(number, s.slots)
            if s.slot[at].number[0] == number:
                added, taken = packed_rows(s.own.tree[2 * at], number), packed_rows(s.own.tree[2 * at + 1], number)
                if added or taken:
                    windows.append(packed_window(s, number, base, added, taken))
        return newest - base, windows

    def dump_logged(self, name):
        """As `dump`, and the numbers of the last line of the change log before and after. If they are equal, the rows
        are exactly what the lines up to that one say. Uses more memory meanwhile.
        """
        cdef model.Series *s = series_of(self.audit, name)
        cdef Dump d
        cdef int code
        cdef u32 i
        d.rows = <walk.Rows *>calloc(2 * s.slots, sizeof(walk.Rows))
        if d.rows == NULL:
            raise MemoryError
        try:
            with nogil:
                code = walk_windows(s, &d)
            if code != codes.OK:
                raise MemoryError
            windows = [packed_window(s, d.newest - i, d.base, packed(&d.rows[2 * i]), packed(&d.rows[2 * i + 1]))
                       for i in range(s.slots) if d.rows[2 * i].size or d.rows[2 * i + 1].size]
            return d.newest - d.base, windows, d.before, d.after
        finally:
            for i in range(2 * s.slots):
                walk.free_rows(&d.rows[i])
            free(d.rows)

    def restore(self, name, int64_t newest, windows):
        """Adds what `dump` returned to the windows of those numbers, but those out of view. If `newest` lies ahead of
        the clock, all move back together. Returns how much was added.

        Rows of a family that the series does not count are left out: a series of type cidr of an earlier version holds
        both. Raises SeriesError for malformed rows, and nothing is added; CapacityError.
        """
        cdef model.Series *s = series_of(self.audit, name)
        cdef u64 added = 0, left_out = 0
        cdef int64_t now, back
        cdef int code
        for saved in windows:
            check_window(name, saved)
            if saved[5]:
                self.audit.series.ensure_negative_trees(name)
        now = window.now_of(self.audit.owner)
        lock_series(s)
        if s.state != model.ENDED:
            window.advance(s, now)
        back = newest + s.base - s.newest
        back = back if back > 0 else 0
        seqlock.unlock(&s.lock)
        for saved in windows:
            code = restore_window(s, <int64_t>saved[0] + s.base - back, saved, &added, &left_out)
            if code != codes.OK:
                raise window_error(code, None, name, self.audit)
        if left_out and series_query.report_family(s) != codes.OK:
            log_other_family(s)
        return added

    def log(self, name, int fd, bytes path=b"", u64 log_id=0, sequence=None):
        """From now on each change is a line in that file; `fd` -1: no more. `path` is where the file is opened again
        if other code closes its descriptor. `sequence` is the number of the line before; None: as it is.

        The descriptor stays the caller's. Raises OSError.
        """
        cdef model.Series *s = series_of(self.audit, name)
        cdef kept_file.KeptFile *made = NULL
        cdef kept_file.KeptFile *before
        cdef u64 number = sequence or 0
        cdef bint renumber = sequence is not None
        if fd >= 0:
            made = kept_file.kept_open(fd, path, kept_file.O_WRONLY | kept_file.O_APPEND | kept_file.O_CREAT, True)
            if made == NULL:
                PyErr_SetFromErrno(OSError)
        lock_series(s)
        before, s.log, s.log_id = s.log, made, log_id
        if renumber:
            s.log_sequence = number
        seqlock.unlock(&s.lock)
        kept_file.kept_free(before)

    def logged(self, name):
        """The number of the last line, and how many lines could not be written."""
        cdef model.Series *s = series_of(self.audit, name)
        return bits.load64(&s.log_sequence), bits.load64(&s.log_failures)

    def log_error(self, name):
        """Why the last line that could not be written was not: an error number."""
        return series_of(self.audit, name).log_error

    def check(self):
        """Raises AssertionError when an invariant does not hold in a window of this process. O(hosts)."""
        cdef model.Series *s
        cdef u32 i, k
        for i in range(2 * self.audit.owner.series_known):
            s = window.series_at(self.audit.owner, i)
            for k in range(2 * s.slots if s != NULL and s.own != NULL else 0):
                if s.own.tree[k] != NULL and s.state != model.ENDED:
                    lock_series(s)
                    try:
                        check_tree(s.own.tree[k])
                        held = bits.load64(<u64 *>&layout.header(&s.own.tree[k].arena).number)
                        assert held == <u64>s.slot[k // 2].number[k % 2]
                    finally:
                        seqlock.unlock(&s.lock)
