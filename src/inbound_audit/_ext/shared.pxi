# Shared mode: the files of other owners. `inbound_audit.shared` finds the files; here their sections become trees.


def watch_directory(str path not None):
    """A descriptor that becomes readable when a name in a directory comes or goes, or a file there is closed by its
    writer or touched (inotify). Raises OSError.
    """
    cdef bytes name = path.encode("utf-8", "surrogateescape")
    cdef int fd = watch.watch_directory(name)
    if fd < 0:
        PyErr_SetFromErrno(OSError)
    return fd


def add_watch(int fd, str path not None):
    """The same for one more directory, on a descriptor that `watch_directory` returned. Returns the number by which its
    events name it; the first one has 1. Raises OSError."""
    cdef bytes name = path.encode("utf-8", "surrogateescape")
    cdef int number = watch.add_watch(fd, name)
    if number < 0:
        PyErr_SetFromErrno(OSError)
    return number


def remove_watch(int fd, int number):
    """Ends what `add_watch` began. Raises OSError."""
    if watch.remove_watch(fd, number) != 0:
        PyErr_SetFromErrno(OSError)


def watch_faults():
    """Installs the handler of SIGBUS: a mapped file that is cut short costs its counts, not this process.

    Raises OSError.

    May be called again: a handler that was set in between is called after ours.
    """
    if sigbus.watch_faults_failed():
        PyErr_SetFromErrno(OSError)


def shared_mode_possible():
    """This system has what shared mode needs."""
    return bool(mapping.SHARED_POSSIBLE)


cdef str fault_text(int fault):
    if fault == owner_files.NOT_READY:
        return "is too short to be an owner's file"
    if fault == owner_files.OTHER_MAGIC:
        return "does not begin with the mark of an owner's file"
    if fault == owner_files.OTHER_ORDER:
        return "was written on a machine of another byte order"
    if fault == owner_files.OTHER_LAYOUT:
        return f"has another layout than this version's {layout.LAYOUT}: let all processes use the same version"
    if fault == owner_files.CUT_SHORT:
        return "was cut short by another program"
    if fault == owner_files.NO_ROOM:
        return "has no room in this process: address space, memory or service types"
    return "holds numbers that no owner writes"


cdef object fault_error(int fault):
    if fault in (owner_files.OTHER_LAYOUT, owner_files.OTHER_ORDER):
        return OtherVersionError(fault_text(fault))
    return SharedStateError(fault_text(fault))


# ---- other owners' files

cdef bint is_printable(const char *text, size_t size) noexcept nogil:
    """Printable ASCII, as the name of a service type is."""
    cdef size_t i
    for i in range(size):
        if not b' ' <= text[i] <= b'~':
            return False
    return True


cdef void note_label(model.Tree *t, const layout.Header *seen) noexcept:
    t.label.kind, t.label.listener_size = seen.kind, seen.listener_size
    memcpy(t.label.listener, seen.listener, seen.listener_size)


cdef int map_listener(owner_files.MappedOwner *f, model.Owner *o, const layout.Header *seen, u64 now) noexcept:
    """Hangs the next section of a file in the list of its service. A Fault, or SOUND."""
    cdef int fault = owner_files.NONSENSE, number
    if not is_printable(seen.service, seen.service_size):
        return owner_files.NONSENSE
    lock_owner(o)
    number = trees.ensure_service(o, seen.service, seen.service_size)
    if number < 0:
        fault = owner_files.NO_ROOM
    elif number != model.INBOUND_CIDR:
        listener_id = trees.listener_id_of(o, number, seen.listener, seen.listener_size)
        fault = owner_files.attach_listener_tree(f, o, f.trees, number, listener_id, now)
        if fault == owner_files.SOUND:
            note_label(f.first, seen)
    unlock_owner(o)
    return fault


cdef int map_node(
    owner_files.MappedOwner *f, model.Owner *o, const layout.Header *seen, int service, u64 now
) noexcept:
    """Hangs the next section of a file, the tree of another node, in the list of a service. A Fault, or SOUND."""
    cdef int fault
    if not node_tree.is_node_name(seen.listener, seen.listener_size):
        return owner_files.NONSENSE
    lock_owner(o)
    fault = owner_files.attach_listener_tree(f, o, f.trees, service, 0, now)
    if fault == owner_files.SOUND:
        note_label(f.first, seen)
    unlock_owner(o)
    return fault


cdef int map_sum(owner_files.MappedOwner *f, model.Owner *o, const layout.Header *seen, u64 now) noexcept:
    """Attaches the next section of a file, the sum over all other nodes. A Fault, or SOUND."""
    cdef int fault
    lock_owner(o)
    fault = owner_files.attach_sum(f, o, f.trees, now)
    if fault == owner_files.SOUND:
        note_label(f.first, seen)
    unlock_owner(o)
    return fault


cdef bint is_series_name(const layout.Header *seen) except -1:
    """Whether the section's name is one of a series: UTF-8 that is not empty."""
    try:
        return len(seen.listener[:seen.listener_size].decode("utf-8")) > 0
    except UnicodeDecodeError:
        return False


cdef int map_window(owner_files.MappedOwner *f, model.Owner *o, const layout.Header *seen, u64 now) noexcept:
    """Hangs the next section of a file in the owner's ring of a series, or of that of the other nodes. A Fault, or
    SOUND."""
    cdef int scope = scope_of(seen.service, seen.service_size), fault = owner_files.NO_ROOM
    cdef model.Series *s
    if scope < 0 or not 0 < seen.interval <= monitor.MAX_INTERVAL_S or not 0 < seen.slots <= model.MAX_SLOTS:
        return owner_files.NONSENSE
    if seen.slot >= seen.slots or seen.sign > 1 or seen.replicate > model.REPLICATE_MANAGER:
        return owner_files.NONSENSE
    lock_owner(o)
    s = know_series(o, <u32>scope, seen.listener, seen.listener_size, seen.interval, seen.slots)
    if s != NULL and seen.kind == model.REMOTE_WINDOW:
        s = know_remote(s)
    if s != NULL:
        fault = owner_files.attach_window_tree(f, s, f.trees, seen.slot, seen.sign, now)
    unlock_owner(o)
    return fault


@cython.final
cdef class OwnerFile:
    """The file of another owner, whose listeners' trees are among those of an audit. Made by `OwnFile.map_owner`.

    It uses its descriptor, which the caller closes after `detach`.

    Lock rule: one thread at a time calls `refresh` and `detach`; they take `Owner.lock`.
    """

    cdef owner_files.MappedOwner f
    cdef Audit audit
    cdef list names         # of the listeners' trees
    cdef str node           # None: all trees are attached

    def __dealloc__(self):
        # The trees are freed with the audit.
        owner_files.owner_close(&self.f)

    def refresh(self, int fd, u64 size, u64 memory, u64 now):
        """Takes note of the file's size and of the memory it has (bytes), and maps the trees that are new in it.

        `fd` is open for reading. `now` is nanoseconds of a clock that only grows. Raises SharedStateError for a file
        that can't be read: detach it then. O(new trees x all trees).
        """
        cdef model.Owner *o = self.audit.owner
        cdef int fault
        if self.f.head == NULL:
            raise InboundAuditError("the owner's file is detached")
        lock_owner(o)
        self.f.fd = fd
        fault = owner_files.owner_refresh(&self.f, size, memory)
        unlock_owner(o)
        while fault == owner_files.SOUND and self.f.trees < bits.acquire32(&self.f.head.trees):
            fault = self.map_section(now)
            self.f.trees += 1
        if fault != owner_files.SOUND:
            raise fault_error(fault)

    cdef int map_section(self, u64 now) except -1:
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
        if self.node is not None:
            return self.attach_node(&seen, now)
        if seen.kind == model.WINDOW or seen.kind == model.REMOTE_WINDOW:
            if not is_series_name(&seen):
                return owner_files.NONSENSE
            return map_window(&self.f, self.audit.owner, &seen, now)
        if seen.kind == model.REMOTE:
            return map_node(&self.f, self.audit.owner, &seen, model.INBOUND_CIDR, now)
        if seen.kind == model.SUM:
            return map_sum(&self.f, self.audit.owner, &seen, now)
        if seen.kind != model.SESSIONS:
            return owner_files.SOUND  # a later version's
        fault = map_listener(&self.f, self.audit.owner, &seen, now)
        if fault == owner_files.SOUND:
            service = seen.service[:seen.service_size].decode("ascii")
            names = service, seen.listener[:seen.listener_size].decode("utf-8", "replace")
            self.names.append(names)
        return fault

    cdef int attach_node(self, const layout.Header *seen, u64 now) except -1:
        """Attaches the tree of one node as a listener's, and passes over all others. A Fault, or SOUND."""
        cdef int fault
        name = seen.listener[:seen.listener_size].decode("utf-8", "replace")
        if seen.kind != model.REMOTE or name != self.node:
            return owner_files.SOUND
        fault = map_node(&self.f, self.audit.owner, seen, model.SMTP, now)
        if fault == owner_files.SOUND:
            self.f.first.label.kind = model.SESSIONS
            self.names.append(("SMTP", name))
        return fault

    @property
    def grown(self):
        """Whether there are sections that `refresh` has not mapped yet."""
        return self.f.head != NULL and bits.load32(&self.f.head.trees) > self.f.trees

    @property
    def needed(self):
        """The least number of bytes of the file, by its sections, unless another program has cut it short."""
        cdef model.Tree *t = self.f.first
        cdef u64 needed = mapping.GRAIN, end
        while t != NULL:
            end = t.arena.offset + <u64>(layout.reach_of(&t.arena) + layout.LARGEST_UNITS) * layout.UNIT
            needed = end if end > needed else needed
            t = t.sibling
        return needed

    def detach(self, u64 now):
        """Takes its trees out of all counts. Idempotent; O(its trees)."""
        if self.f.head == NULL:
            return
        lock_owner(self.audit.owner)
        owner_files.owner_detach(&self.f, self.audit.owner, now)
        unlock_owner(self.audit.owner)
        owner_files.owner_close(&self.f)
        self.names.clear()

    @property
    def pid(self):
        """The process id that the owner states; it is a label, and not checked."""
        return bits.load32(&self.f.head.pid) if self.f.head != NULL else 0

    @property
    def started(self):
        """Unix time in seconds, as the owner states it."""
        return bits.load64(&self.f.head.started) / 1e6 if self.f.head != NULL else 0.0

    @property
    def scan_count(self):
        """How often the owner has begun or ended a scan; odd during one."""
        return bits.load64(&self.f.head.scan_count) if self.f.head != NULL else 0

    @property
    def served(self):
        """What the owner says it has done since it began, by the names in `SERVED`."""
        return tuple([bits.load64(&self.f.head.served[i]) if self.f.head != NULL else 0
                      for i in range(owner_files.SERVED_NUMBERS)])

    @property
    def listeners(self):
        """Each listener as `(service type, name, open sessions)`, in the order in which they were made."""
        cdef model.Tree *t = self.f.first
        cdef list rows = []
        for names in reversed(self.names):
            while t.ring != NULL or t.label.kind != model.SESSIONS:
                t = t.sibling
            rows.append((*names, sums.tree_total(t)))
            t = t.sibling
        rows.reverse()
        return rows
