# Arrays of packed addresses: adds and counts of many at once.

cdef struct Batch:
    Py_buffer view
    Py_ssize_t size      # addresses
    int width            # bytes of one
    bint numbers         # 32-bit integers of this machine, not bytes in network order


cdef int read_batch(object packed, object version, Batch *b) except -1:
    cdef Py_ssize_t item
    if version not in (4, 6):
        raise AddressError(f"version {version!r}: is neither 4 nor 6")
    try:
        PyObject_GetBuffer(packed, &b.view, PyBUF_FORMAT | PyBUF_ND)
    except (TypeError, BufferError, ValueError) as error:
        raise address_error(packed, f"is not a contiguous buffer of packed addresses ({error})") from None
    item = b.view.itemsize
    b.width = 4 if version == 4 else 16
    b.numbers = False
    if b.view.ndim == 2 and item == 1:
        b.width = <int>b.view.shape[1]
    elif item == 4 and b.view.ndim == 1:
        b.width = 4 if strpbrk(b.view.format, b"IsxL") != NULL else 0  # not int32, not float32
        # Unsigned integers: '>' and '!' say network order, anything else is this machine's.
        b.numbers = strpbrk(b.view.format, b"IL") != NULL and strpbrk(b.view.format, b">!") == NULL
    elif item == 16 and b.view.ndim == 1:
        b.width = 16 if strpbrk(b.view.format, b"sx") != NULL else 0  # not complex128
    elif item != 1 or b.view.ndim != 1:
        b.width = 0
    if b.width != 4 and b.width != 16 or b.view.len % b.width:
        PyBuffer_Release(&b.view)
        shape = tuple(memoryview(packed).shape)
        raise AddressError(f"a buffer of shape {shape} and {item}-byte items: expected an array of packed addresses")
    b.size = b.view.len // b.width
    return 0


cdef inline void batch_address(const Batch *b, Py_ssize_t i, ip.Address *out) noexcept nogil:
    cdef u32 number
    if b.numbers:
        memcpy(&number, <const u8 *>b.view.buf + 4 * i, 4)  # a view may begin anywhere
        ip.from_ipv4(number, out)
    else:
        ip.from_packed(<const u8 *>b.view.buf + i * b.width, b.width, out)


cdef enum:
    BATCH_BLOCK = 256


cdef int add_batch(model.Tree *t, const Batch *b, Py_ssize_t *done) noexcept nogil:
    """Adds each; `done` is how many before the first failure, and those are taken away again."""
    cdef ip.Address a
    cdef Py_ssize_t first = 0, i = 0, stop
    cdef u32 epoch = t.epoch
    cdef int code = codes.OK
    while i < b.size and code == codes.OK:
        stop = min(i + BATCH_BLOCK, b.size)
        seqlock.lock_wait(&t.arena.lock, &t.arena.waiting)
        if t.epoch != epoch:  # cleared meanwhile: what was added before is gone, and not to be taken away
            first, epoch = i, t.epoch
        while i < stop and code == codes.OK:
            batch_address(b, i, &a)
            code = trie.trie_add(&t.arena, &a, 1)
            i += code == codes.OK
        seqlock.unlock(&t.arena.lock)
        seqlock.yield_to_waiting(&t.arena.waiting)
    done[0] = i
    if code != codes.OK:
        undo_batch(t, b, first, i, epoch)
    return code


cdef void undo_batch(model.Tree *t, const Batch *b, Py_ssize_t first, Py_ssize_t stop, u32 epoch) noexcept nogil:
    """Takes away what a batch has added, unless the tree was cleared since."""
    cdef ip.Address a
    cdef Py_ssize_t end
    while first < stop:
        end = min(first + BATCH_BLOCK, stop)
        seqlock.lock_wait(&t.arena.lock, &t.arena.waiting)
        while first < end and t.epoch == epoch:
            batch_address(b, first, &a)
            trie.trie_remove(&t.arena, &a, 1)
            first += 1
        first = end
        seqlock.unlock(&t.arena.lock)
        seqlock.yield_to_waiting(&t.arena.waiting)


cdef void count_batch(model.Tree *t, const Batch *b, int length, unsigned int *out) noexcept nogil:
    cdef prefix.Prefix p
    cdef Py_ssize_t i
    for i in range(b.size):
        batch_address(b, i, &p.address)
        p.length = length
        if p.address.version == 4 and b.width == 16:
            # A mapped address: a prefix of 96 bits or more is IPv4, a shorter one IPv6, as in the grammar of texts.
            if length >= 96:
                p.length = length - 96
            else:
                ip.map_ipv4(&p.address)
        out[i] = <unsigned int>sums.tree_count(t, &p)
