"""The connections that a gate has let in and Python has not taken: bounded, and the only way out of a gate.

    gate threads --push--> [ connection | connection | ... ] --pop--> Python
                                     `reads` is readable while something is to be fetched

`reads` and `writes` are the ends of a stream, so that the end of one is seen at the other. If other code has closed one
of them, the queue is *lost*: nothing is pushed any more, and the gate ends.

Lock rule: `lock` is held for each push and each pop, and for no call that waits. A byte is put and taken under it, so
`reads` is readable exactly while a connection waits, news are to be reported, or the queue is closed.
"""

from libc.errno cimport ENOMEM
from libc.stdint cimport int64_t
from libc.stdlib cimport calloc

from inbound_audit._core.bits cimport u32, u64, fetch_add64, load32, store32
from inbound_audit._core.model cimport MAX_MONITORS, ia_ac
from inbound_audit._core.own_socket cimport OwnSocket, close_socket, is_own, open_pair, own, put_byte, take_byte

cdef extern from "<pthread.h>":
    ctypedef struct Mutex "pthread_mutex_t":
        pass
    int init_mutex "pthread_mutex_init"(Mutex *, void *) noexcept nogil
    int lock_mutex "pthread_mutex_lock"(Mutex *) noexcept nogil
    int unlock_mutex "pthread_mutex_unlock"(Mutex *) noexcept nogil

# A connection that was let in. It is counted while `ac.open`.
cdef struct Connection:
    OwnSocket socket
    int family
    u64 asked                       # the number of the rules whose limits were asked about it; 0: none
    void *flow                      # of a forwarder, once Python has asked about it; else NULL
    ia_ac ac
    int64_t numbers[1 + MAX_MONITORS]   # from `record_event`

cdef struct GateQueue:
    Mutex lock
    Connection *place
    u32 room
    u32 first
    u32 size                        # atomic: read without the lock
    u32 news                        # atomic: read without the lock
    bint closed
    bint shown                      # `reads` is readable
    OwnSocket reads
    OwnSocket writes
    u32 lost                        # atomic
    u64 accepted                    # connections that were pushed; atomic


cdef inline int open_queue(GateQueue *q, u32 room) noexcept nogil:
    """Returns 0, or -errno. `close_queue` ends it in either case, and the caller frees `place`."""
    cdef int[2] ends
    cdef int code = open_pair(ends)
    own(&q.reads, -1 if code else ends[0])
    own(&q.writes, -1 if code else ends[1])
    q.place = <Connection *>calloc(room, sizeof(Connection))
    q.room = room
    init_mutex(&q.lock, NULL)
    return -ENOMEM if q.place == NULL else code


cdef inline bint is_lost(GateQueue *q) noexcept nogil:
    return load32(&q.lost) != 0


cdef inline void check_queue(GateQueue *q) noexcept nogil:
    """Whether both ends are its own. A thread whose gate is not closed."""
    if not (is_own(&q.reads) and is_own(&q.writes)):
        store32(&q.lost, 1)


cdef inline void show_queue(GateQueue *q) noexcept nogil:
    """Under the lock."""
    cdef bint shown = q.size > 0 or q.news or q.closed
    if shown == q.shown:
        return
    if not is_own(&q.writes if shown else &q.reads):
        store32(&q.lost, 1)
    elif shown:
        put_byte(q.writes.fd)
    else:
        take_byte(q.reads.fd)
    q.shown = shown


cdef inline bint push(GateQueue *q, const Connection *c) noexcept nogil:
    """False: the queue is full or closed, and the connection stays the caller's. O(1)."""
    cdef bint fits
    lock_mutex(&q.lock)
    fits = q.size < q.room and not q.closed and not is_lost(q)
    if fits:
        q.place[(q.first + q.size) % q.room] = c[0]
        store32(&q.size, q.size + 1)
        fetch_add64(&q.accepted, 1)
        show_queue(q)
    unlock_mutex(&q.lock)
    return fits


cdef inline bint pop(GateQueue *q, Connection *out) noexcept nogil:
    """The connection that has waited longest. False: none waits. O(1)."""
    cdef bint found
    lock_mutex(&q.lock)
    found = q.size > 0
    if found:
        out[0] = q.place[q.first]
        q.first = (q.first + 1) % q.room
        store32(&q.size, q.size - 1)
        show_queue(q)
    unlock_mutex(&q.lock)
    return found


cdef inline void set_news(GateQueue *q, bint news) noexcept nogil:
    """Makes `reads` readable although no connection may wait, or no more."""
    lock_mutex(&q.lock)
    store32(&q.news, news)
    show_queue(q)
    unlock_mutex(&q.lock)


cdef inline void end_queue(GateQueue *q) noexcept nogil:
    """Nothing is pushed any more; `reads` stays readable. What waits can still be popped."""
    lock_mutex(&q.lock)
    q.closed = True
    show_queue(q)
    unlock_mutex(&q.lock)


cdef inline void close_queue(GateQueue *q) noexcept nogil:
    """No thread waits for it any more."""
    lock_mutex(&q.lock)
    close_socket(&q.reads)
    close_socket(&q.writes)
    unlock_mutex(&q.lock)
