# Our own file in shared mode: trees are made in it and move into it; and the end of all counts of this process.

cdef enum:
    # Why no tree or ring was made. The functions here run under `Owner.lock`: they return codes, and raise nothing.
    MADE = 0
    NO_TREES = 1            # the audit has as many as it can have
    NO_RANGE = 2            # the system reserves no address space
    NO_SPACE = 3            # the file can't be had, or can't grow: the owner has the error's number
    NO_MEMORY = 4
    NO_SERIES_LEFT = 5
    AUDIT_CLOSED = 6


cdef int raise_unmade(int code, u64 size, int error) except -1:
    """`size`: the bytes of address space that a tree asked for; `error`: the number in the owner."""
    if code == MADE:
        return 0
    if code == NO_TREES:
        raise CapacityError(f"an audit has room for {model.MAX_TREES} listeners and windows")
    if code == NO_RANGE:
        raise no_room(size)
    if code == NO_SPACE:
        raise CapacityError(f"no room for another process or listener in the shared counts: {cause_of(error)}")
    if code == AUDIT_CLOSED:
        raise InboundAuditError("the audit is closed")
    raise MemoryError


cdef int label_listener(layout.Label *label, str service_type, str name, bint shared) except -1:
    """Whose tree it is. Raises SharedStateError in shared mode for a name that is too long for a file; elsewhere the
    label has its beginning."""
    cdef bytes service = service_type.encode("ascii"), listener = name.encode("utf-8", "surrogatepass")
    if shared and len(listener) > layout.MAX_NAME:
        raise SharedStateError(f"{name!r}: in shared mode a listener's name has at most {layout.MAX_NAME} bytes")
    listener = listener[:layout.MAX_NAME]
    memset(label, 0, sizeof(layout.Label))
    memcpy(label.service, <const char *>service, len(service))
    memcpy(label.listener, <const char *>listener, len(listener))
    label.service_size, label.listener_size = <u32>len(service), <u32>len(listener)
    label.kind = model.SESSIONS
    return 0


cdef int make_listener_tree(Audit audit, int number, const layout.Label *label, model.Tree **out) noexcept:
    cdef model.Owner *o = audit.owner
    cdef u32 listener_id = trees.listener_id_of(o, number, label.listener, label.listener_size)
    cdef model.Tree *t = trees.add_tree(o, number, listener_id, audit.capacity)
    cdef int code
    if t == NULL:
        return NO_TREES if o.trees == model.MAX_TREES else NO_RANGE
    t.label = label[0]
    if o.shared:
        code = attach_tree(audit, t)
        if code != MADE:
            abandon_tree(o, t)
            return code
    trees.append_listener(o, t)
    if label.kind == model.SUM:
        trees.link_sum(o, t)
    else:
        trees.link_tree(o, t)
    out[0] = t
    return MADE


cdef void abandon_tree(model.Owner *o, model.Tree *t) noexcept:
    """A tree that no reader has seen; it stays among the audit's trees, empty, and in no list."""
    o.trees -= 1
    t.label.kind = model.WINDOW
    backing.arena_close(&t.arena)


cdef int attach_tree(Audit audit, model.Tree *t) noexcept:
    """Gives a tree the next section of our file. Without a file the tree waits, as those of a forked child do."""
    cdef int code
    if audit.own == NULL:
        t.state = model.NO_FILE
        return MADE
    lock_tree(t)
    code = share_tree(audit, t)
    seqlock.unlock(&t.arena.lock)
    return code


cdef int share_tree(Audit audit, model.Tree *t) noexcept:
    """The same for the holder of the tree's lock."""
    cdef u64 offset = mapping.GRAIN + audit.owner.own_sections * layout.range_of(audit.capacity)
    layout.write_label(&t.arena, &t.label)
    if backing.arena_share(&t.arena, audit.owner.own_file, offset) != codes.OK:
        audit.owner.error = t.arena.error
        return NO_SPACE
    audit.owner.own_sections += 1
    bits.publish32(&audit.own.trees, audit.owner.own_sections)
    return MADE


cdef void leave_file(Audit audit) noexcept:
    if audit.own != NULL:
        sigbus.unguard(audit.own_guard)
        mapping.unmap_range(audit.own, layout.PAGE)
        audit.own = NULL


cdef int back_all(Audit audit, int fd) noexcept:
    """Asks for the memory that all our trees need in a new file."""
    cdef model.Tree *t = audit.owner.listeners
    cdef u64 at = mapping.GRAIN
    cdef u64 last_page = mapping.GRAIN - layout.PAGE
    audit.owner.error = mapping.back_file(fd, 0, layout.PAGE) or mapping.back_file(fd, last_page, layout.PAGE)
    while t != NULL and audit.owner.error == 0:
        audit.owner.error = mapping.back_file(fd, at, backing.share_needs(&t.arena))
        at += layout.range_of(audit.capacity)
        t = t.sibling
    return back_series(audit, fd, at) if audit.owner.error == 0 else NO_SPACE


cdef int share_all(Audit audit, int fd, const char *path, u32 pid, u64 started) noexcept:
    """Moves all trees into a new file. What fails before the file is ours has changed nothing."""
    cdef owner_files.OwnerHeader *head
    cdef model.Owner *o = audit.owner
    cdef model.Tree *t
    cdef kept_file.KeptFile *file
    cdef int slot, code = back_all(audit, fd)
    if code != MADE:
        return code
    head = <owner_files.OwnerHeader *>mapping.map_file(NULL, layout.PAGE, fd, 0, True)
    if head == NULL:
        return NO_RANGE
    slot = sigbus.guard(head, layout.PAGE, True)
    if slot == sigbus.UNGUARDED:
        mapping.unmap_range(head, layout.PAGE)
        return NO_RANGE
    file = kept_file.kept_open(fd, path, kept_file.O_RDWR, False)
    if file == NULL:
        o.error = errno
        sigbus.unguard(slot)
        mapping.unmap_range(head, layout.PAGE)
        return NO_SPACE
    leave_file(audit)
    o.shared = True
    file.before = o.own_file
    audit.own, audit.own_guard, o.own_file = head, slot, file
    o.own_sections = 0
    head.magic, head.layout, head.byte_order = owner_files.OWNER_MAGIC, layout.LAYOUT, layout.BYTE_ORDER_MARK
    head.stride, head.pid, head.started = layout.range_of(audit.capacity), pid, started
    t = o.listeners
    while t != NULL and code == MADE:
        code = attach_tree(audit, t)
        t = t.sibling
    if code == MADE:
        code = attach_series(audit)
    if code == MADE:
        kept_file.kept_close(file.before)
    return code


cdef void forget_all(Audit audit, bint close, bint forked) noexcept:
    """Drops every count of this process and leaves its file."""
    cdef model.Owner *o = audit.owner
    cdef model.Tree *t
    if forked:  # the holders of the locks are threads that the fork left behind
        seqlock.unlock(&o.lock)
        seqlock.unlock(&o.nodes_lock)
        seqlock.unlock(&o.notes.lock)
        bits.store32(&o.notes.size, 0)
        sigbus.free_guard_lock()
    lock_owner(o)
    audit.is_closed = audit.is_closed or close
    leave_file(audit)
    t = o.listeners
    while t != NULL:
        if forked:
            seqlock.unlock(&t.arena.lock)
        forget(t, model.ENDED if audit.is_closed else model.NO_FILE if o.shared else model.READY)
        t = t.sibling
    forget_series(o, audit.is_closed, forked)
    kept_file.kept_close(o.own_file)
    unlock_owner(o)


@cython.final
cdef class OwnFile:
    """The file of this process in shared mode, as far as the audit is concerned. It has no state beside the audit's.

    Lock rule: `Owner.lock`.
    """

    cdef Audit audit

    def __cinit__(self, Audit audit not None):
        self.audit = audit

    def share(self, int fd, bytes path not None, u32 pid, u64 started):
        """Moves every tree into a new file, which is open as `fd` for reading and writing, empty, and known to no other
        process.

        `path` is where the file will be found: a descriptor that other code closes is opened there again. `pid`
        and `started` (microseconds since 1970) are what `ps` shows. The descriptor stays the caller's.
        Raises CapacityError. O(trees).
        """
        cdef int code
        lock_owner(self.audit.owner)
        code = share_all(self.audit, fd, path, pid, started)
        unlock_owner(self.audit.owner)
        raise_unmade(code, layout.PAGE, self.audit.owner.error)

    def detach(self):
        """The file of the last `share` could not be published: no tree grows in it any more. O(trees)."""
        cdef model.Owner *o = self.audit.owner
        cdef model.Tree *t
        lock_owner(o)
        t = o.newest
        while t != NULL:
            if t.arena.file == o.own_file:
                t.arena.file = NULL
            t = t.older
        leave_file(self.audit)
        kept_file.kept_close(o.own_file)
        unlock_owner(o)

    def mark_ready(self):
        """The file is complete and other owners can find it: sessions may be opened. O(listeners)."""
        cdef model.Owner *o = self.audit.owner
        cdef model.Tree *t
        lock_owner(o)
        t = o.listeners
        while t != NULL:
            if t.state == model.NO_FILE:
                bits.store32(&t.state, model.READY)
            t = t.sibling
        unlock_owner(o)

    @property
    def needed(self):
        """The bytes that the file has at least, unless another program has cut it short. O(trees)."""
        cdef model.Owner *o = self.audit.owner
        cdef model.Tree *t
        cdef u64 needed = mapping.GRAIN
        lock_owner(o)
        t = o.newest
        while t != NULL:
            if t.arena.file != NULL and t.arena.offset + t.arena.held > needed:
                needed = t.arena.offset + t.arena.held
            t = t.older
        unlock_owner(o)
        return needed

    @property
    def status(self):
        """Size and number of names of the file. Raises OSError if other code has closed its descriptor and it is
        not at its path. Reads as OSError without a file."""
        cdef u64[2] status = [0, 0]
        cdef bint failed
        lock_owner(self.audit.owner)
        failed = self.audit.own == NULL or kept_file.kept_status(self.audit.owner.own_file, status) != 0
        unlock_owner(self.audit.owner)
        if failed:
            PyErr_SetFromErrno(OSError)
        return status[0], status[1]

    def mark_scan(self, bint begins):
        """Shows other owners that a scan for them begins, or has ended."""
        cdef owner_files.OwnerHeader *own
        lock_owner(self.audit.owner)
        own = self.audit.own
        if own != NULL and (bits.load64(&own.scan_count) & 1 != 0) != begins:
            bits.fence_full()
            bits.store64(&own.scan_count, own.scan_count + 1)
            bits.fence_full()
        unlock_owner(self.audit.owner)

    def state_served(self, served not None):
        """Shows other processes what this one has done since it began: a number for each name in `SERVED`. Without a
        file it does nothing. Raises ValueError for other numbers of numbers, OverflowError. O(1)."""
        cdef u64[owner_files.SERVED_NUMBERS] numbers
        cdef int i
        if len(served) != owner_files.SERVED_NUMBERS:
            raise ValueError(f"{len(served)} numbers: write {owner_files.SERVED_NUMBERS}, as SERVED names them")
        for i in range(owner_files.SERVED_NUMBERS):
            numbers[i] = served[i]
        lock_owner(self.audit.owner)
        if self.audit.own != NULL:
            for i in range(owner_files.SERVED_NUMBERS):
                bits.store64(&self.audit.own.served[i], numbers[i])
        unlock_owner(self.audit.owner)

    def forget(self, *, bint forked=False):
        """Drops every count and leaves the file: it was cut short, or (`forked`) this is a forked child, whose sessions
        are the parent's. O(trees)."""
        forget_all(self.audit, False, forked)

    def map_owner(self, int fd, u64 size, str node=None):
        """Maps another owner's file of `size` bytes. `node`: only the tree of that node of a cluster is attached, as
        if it were a listener of SMTP. Raises SharedStateError for a file that can't be read."""
        cdef OwnerFile found = OwnerFile.__new__(OwnerFile)
        cdef int fault = owner_files.owner_open(&found.f, fd, size)
        if fault != owner_files.SOUND:
            raise fault_error(fault)
        found.audit, found.names, found.node = self.audit, [], node
        self.audit.owner.shared = True
        return found
