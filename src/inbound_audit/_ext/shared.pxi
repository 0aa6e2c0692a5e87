# Shared mode: our own file, and those of other processes. Which files there are, and whose, is Python's business
# (`inbound_audit.shared`); here they become trees. The GIL is the lock of all that: one thread at a time looks around.


def watch_directory(str path not None):
    """A descriptor that becomes readable when a name in a directory comes or goes, or a file there is closed by its
    writer or touched (inotify). Raises OSError.
    """
    cdef bytes name = path.encode("utf-8", "surrogateescape")
    cdef int fd = watch.watch_directory(name)
    if fd < 0:
        PyErr_SetFromErrno(OSError)
    return fd


def watch_faults():
    """Takes care that a file which is cut short while it is mapped costs its counts and not this process. Raises OSError.

    May be called again: who has set a handler for SIGBUS meanwhile is asked after ours.
    """
    if sigbus.watch_faults_failed():
        PyErr_SetFromErrno(OSError)


def shared_mode_possible():
    """This system has what shared mode needs."""
    return bool(mapping.SHARED_POSSIBLE)


cdef bytes listener_bytes(str name, bint shared):
    """A listener's name as it stands in a file."""
    cdef bytes text = name.encode("utf-8", "surrogatepass")
    if shared and len(text) > layout.MAX_NAME:
        raise SharedStateError(f"{name!r}: in shared mode a listener's name has at most {layout.MAX_NAME} bytes")
    return text


cdef str fault_text(int fault):
    if fault == owner_files.NOT_READY:
        return "is too short to be an owner's file"
    if fault == owner_files.OTHER_MAGIC:
        return "does not begin as an owner's file does"
    if fault == owner_files.OTHER_ORDER:
        return "was written on a machine of another byte order"
    if fault == owner_files.OTHER_LAYOUT:
        return f"has another layout than this version's {layout.LAYOUT}: let all processes use the same version"
    if fault == owner_files.CUT_SHORT:
        return "was cut short by somebody"
    if fault == owner_files.NO_ROOM:
        return "finds no room in this process's address space"
    return "holds numbers that no owner writes"


cdef object fault_error(int fault):
    return (OtherVersionError if fault in (owner_files.OTHER_LAYOUT, owner_files.OTHER_ORDER) else SharedStateError)(fault_text(fault))


# ---- our own file

cdef int label_listener(layout.Label *label, str service_type, str name) except -1:
    """Whose tree it is. A name that is too long for a file can only be that of a listener that has none."""
    cdef bytes service = service_type.encode("ascii"), listener = name.encode("utf-8", "surrogatepass")[:layout.MAX_NAME]
    memset(label, 0, sizeof(layout.Label))
    memcpy(label.service, <const char *>service, len(service))
    memcpy(label.listener, <const char *>listener, len(listener))
    label.service_size, label.listener_size = <u32>len(service), <u32>len(listener)
    label.kind = model.SESSIONS
    return 0


cdef object no_space():
    return CapacityError("the file system that holds the shared counts has no room for another process or listener")


# ---- others' files

@cython.final
cdef class OwnerFile:
    """The file of another owner, whose listeners' trees are among those of an audit. Made by `Audit._map_owner`.

    It keeps its descriptor, which stays the caller's to close after `drop`.
    """

    cdef owner_files.MappedOwner f
    cdef Audit audit
    cdef list names

    def __dealloc__(self):
        # With the audit its trees are freed; until then they are counted only if nobody has dropped this.
        owner_files.owner_close(&self.f)

    def refresh(self, u64 size, u64 memory, u64 now):
        """Takes notice of the file's size and of the memory it has (bytes), and of listeners that are new in it.

        `now` is nanoseconds of a clock that only grows. Raises SharedStateError when it can't be read: then it is to be
        dropped.
        """
        cdef Audit audit = self.audit
        cdef int fault
        if self.f.head == NULL:
            raise InboundAuditError("nobody's file is open here")
        fault = owner_files.owner_refresh(&self.f, size, memory)
        while fault == owner_files.SOUND and self.f.trees < bits.acquire32(&self.f.head.trees):
            fault = self.map_section(audit, now)
            self.f.trees += 1
        if fault != owner_files.SOUND:
            raise fault_error(fault)

    cdef int map_section(self, Audit audit, u64 now) except -1:
        """A Fault, or SOUND."""
        cdef layout.Header *h = owner_files.open_section(&self.f, self.f.trees)
        cdef layout.Header seen
        cdef int fault, guard
        if h == NULL:
            return owner_files.NO_ROOM
        guard = sigbus.guard(h, layout.PAGE, False)
        if guard != sigbus.UNGUARDED:
            memcpy(&seen, h, sizeof(layout.Header))  # what is checked is what is used
            sigbus.unguard(guard)
        mapping.unmap_range(h, layout.PAGE)
        if guard == sigbus.UNGUARDED:
            return owner_files.NO_ROOM
        fault = owner_files.header_fault(seen.magic, seen.layout, seen.byte_order, layout.MAGIC)
        if fault != owner_files.SOUND:
            return fault
        if not 0 < seen.service_size <= model.MAX_SERVICE_NAME or seen.listener_size > layout.MAX_NAME:
            return owner_files.NONSENSE
        if seen.names_sum != layout.sum_of_label(&seen):
            return owner_files.NONSENSE
        return self.map_window(audit, &seen, now) if seen.kind == model.WINDOW else self.map_listener(audit, &seen, now)

    cdef int map_listener(self, Audit audit, layout.Header *seen, u64 now) except -1:
        cdef int fault, number
        service, name = seen.service[:seen.service_size], seen.listener[:seen.listener_size]
        if seen.kind != model.SESSIONS or not (service.isascii() and service.decode("latin-1").isprintable()):
            return owner_files.NONSENSE
        service_type = service.decode("ascii")
        audit._add_service(service_type)
        number = audit.number_of(service_type)
        if number == model.INBOUND_CIDR:
            return owner_files.NONSENSE
        fault = owner_files.attach_listener_tree(&self.f, audit.owner, self.f.trees, number, audit.listener_id_of(number, name), now)
        if fault == owner_files.SOUND:
            self.names.append((service_type, name.decode("utf-8", "replace")))
        return fault

    cdef int map_window(self, Audit audit, layout.Header *seen, u64 now) except -1:
        cdef bytes scope = seen.service[:seen.service_size]
        cdef model.Series *s
        if scope not in SCOPES or not 0 < seen.interval <= monitor.MAX_INTERVAL_S or not 0 < seen.slots <= model.MAX_SLOTS:
            return owner_files.NONSENSE
        if seen.slot >= seen.slots or seen.sign > 1:
            return owner_files.NONSENSE
        s = know_series(audit.owner, SCOPES.index(scope), seen.listener[:seen.listener_size], seen.interval, seen.slots)
        return owner_files.NO_ROOM if s == NULL else owner_files.attach_window_tree(&self.f, s, self.f.trees, seen.slot, seen.sign, now)

    @property
    def needed(self):
        """Bytes that the file has at least, by what its sections say of themselves, unless somebody has cut it short."""
        cdef model.Tree *t = self.f.first
        cdef u64 needed = mapping.GRAIN, end
        while t != NULL:
            end = t.arena.offset + <u64>(layout.reach_of(&t.arena) + layout.LARGEST_UNITS) * layout.UNIT
            needed = end if end > needed else needed
            t = t.sibling
        return needed

    def detach(self, u64 now):
        """Counts its sessions no more. Idempotent; O(its listeners)."""
        if self.f.head == NULL:
            return
        owner_files.owner_detach(&self.f, self.audit.owner, now)
        owner_files.owner_close(&self.f)
        self.names.clear()

    @property
    def pid(self):
        """What the owner says of itself: a label, that proves nothing."""
        return bits.load32(&self.f.head.pid) if self.f.head != NULL else 0

    @property
    def started(self):
        """Unix time in seconds, by the owner's word."""
        return bits.load64(&self.f.head.started) / 1e6 if self.f.head != NULL else 0.0

    @property
    def scan_count(self):
        """How often it has begun and ended to look for others: odd while it does."""
        return bits.load64(&self.f.head.scan_count) if self.f.head != NULL else 0

    @property
    def listeners(self):
        """Each listener as `(service type, name, open sessions)`, in the order in which they were made."""
        cdef model.Tree *t = self.f.first
        cdef list rows = []
        for names in reversed(self.names):
            while t.ring != NULL:  # a window
                t = t.sibling
            rows.append((*names, sums.tree_total(t)))
            t = t.sibling
        rows.reverse()
        return rows
