"""The connections that a gate has let in and Python has not taken: bounded, and the only way out of a gate.

    gate threads --push--> [ connection | connection | ... ] --pop--> Python
                                     `ready` is readable while something is to be fetched

Lock rule: `lock` is held for each push and each pop, and for no call that waits. `ready` is set and cleared under it,
so it is readable exactly while a connection waits, news are to be reported, or the queue is closed.
"""

from libc.errno cimport ENOMEM
from libc.stdint cimport int64_t
from libc.stdlib cimport calloc

from inbound_audit._core.bits cimport u32, u64, fetch_add64, store32
from inbound_audit._core.model cimport MAX_MONITORS, ia_ac

cdef extern from "inbound_audit/_core/gate.h":
    ctypedef struct Mutex "pthread_mutex_t":
        pass
    int open_event "ia_event"() noexcept nogil
    void set_event "ia_set_event"(int) noexcept nogil
    void clear_event "ia_clear_event"(int) noexcept nogil
    void close_file "ia_close"(int) noexcept nogil
    u64 closed_twice "ia_lost"

cdef extern from "<pthread.h>":
    int init_mutex "pthread_mutex_init"(Mutex *, void *) noexcept nogil
    int lock_mutex "pthread_mutex_lock"(Mutex *) noexcept nogil
    int unlock_mutex "pthread_mutex_unlock"(Mutex *) noexcept nogil

# A connection that was let in. It is counted while `ac.open`.
cdef struct Connection:
    int fd
    int family
    u64 asked                       # the number of the rules whose limits were asked about it; 0: none
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
    bint shown                      # `ready` is readable
    int ready                       # a descriptor
    u64 accepted                    # connections that were pushed; atomic


cdef inline int open_queue(GateQueue *q, u32 room) noexcept nogil:
    """Returns 0, or -errno. `close_ready` ends it in either case, and the caller frees `place`."""
    q.place = <Connection *>calloc(room, sizeof(Connection))
    q.room = room
    init_mutex(&q.lock, NULL)
    q.ready = open_event()
    if q.place == NULL:
        return -ENOMEM
    return q.ready if q.ready < 0 else 0


cdef inline void show_queue(GateQueue *q) noexcept nogil:
    """Under the lock."""
    cdef bint shown = q.size > 0 or q.news or q.closed
    if shown != q.shown:
        if shown:
            set_event(q.ready)
        else:
            clear_event(q.ready)
        q.shown = shown


cdef inline bint push(GateQueue *q, const Connection *c) noexcept nogil:
    """False: the queue is full or closed, and the connection stays the caller's. O(1)."""
    cdef bint fits
    lock_mutex(&q.lock)
    fits = q.size < q.room and not q.closed
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
    """Makes `ready` readable although no connection may wait, or no more."""
    lock_mutex(&q.lock)
    store32(&q.news, news)
    show_queue(q)
    unlock_mutex(&q.lock)


cdef inline void end_queue(GateQueue *q) noexcept nogil:
    """Nothing is pushed any more; `ready` stays readable. What waits can still be popped."""
    lock_mutex(&q.lock)
    q.closed = True
    show_queue(q)
    unlock_mutex(&q.lock)


cdef inline void close_ready(GateQueue *q) noexcept nogil:
    """No thread waits for it any more."""
    lock_mutex(&q.lock)
    if q.ready >= 0:
        close_file(q.ready)
    q.ready = -1
    unlock_mutex(&q.lock)
