"""One writer, and readers that take no lock: the protocol, and why each answer is right.

    writer                                    reader
    ------                                    ------
    build new blocks (nobody can reach them)  s = seq
    seq += 1                (odd)             walk the tree, bounds checked
    publish: stores of single words           seq == s and even?  exact, as of one moment
    seq += 1                (even)            otherwise try again
    give retired blocks back

What stays true at every instant, also between two stores of a writer that was stopped there:
  * everything that can be reached from the roots is a complete node; a new one is published by one word;
  * a block that was reachable in this window is not written again before the window closes.
So a reader that finds the same *odd* number before and after its walk stood beside a writer that stands still in
mid-update, and has walked a sound tree: its answer lacks at most that one update (of a move, which adds before it
takes away, it may have seen the first half: one more, never one less). It waits a little for a writer that runs
(`READ_SPINS` turns, some microseconds), then takes such an answer, and remembers the number: who meets the same update
again need not wait. It never offers its processor to anybody: where others want it too, that costs milliseconds.
A reader whose walk was overtaken sees another number, drops what it saw, and tries again, `READ_TRIES` times at most.

Writers of one tree exclude one another with `Arena.lock`, a word that only threads of the owning process see. Lock
rule: whoever changes a tree holds it; whoever reads does not need it; nothing that can run Python runs under it.
"""

from inbound_audit._core.bits cimport (
    u32, u64, acquire64, exchange32, fence_acquire, fence_release, fetch_add64, load32, load64, pause, publish32,
    publish64,
)

cdef extern from "<sched.h>" nogil:
    int sched_yield() noexcept

cdef enum:
    READ_SPINS = 128
    READ_TRIES = 1024
    REST_PAUSES = 8
    REST_YIELDS = 64


cdef inline u64 read_begin(u64 *seq) noexcept nogil:
    return acquire64(seq)


cdef inline bint read_stood(u64 *seq, u64 began) noexcept nogil:
    """Nothing was published since `began`; what was read is sound."""
    fence_acquire()
    return load64(seq) == began


cdef inline bint read_waited(int attempt) noexcept nogil:
    """A writer that has not moved until now has lost its processor, or worse."""
    return attempt >= READ_SPINS


cdef inline void write_open(u64 *seq) noexcept nogil:
    """Opens the window, unless it is open: two changes in one window are one for a reader."""
    if not load64(seq) & 1:
        publish64(seq, load64(seq) + 1)  # how far readers may go was said before
        fence_release()


cdef inline void write_close(u64 *seq) noexcept nogil:
    publish64(seq, load64(seq) + 1)
    fence_release()  # what is written next, into blocks that were given back, is not seen before this


cdef inline bint try_lock(u32 *lock) noexcept nogil:
    return load32(lock) == 0 and exchange32(lock, 1) == 0


cdef inline void lock_wait(u32 *lock, u64 *waiting) noexcept nogil:
    """Takes the lock; only without the GIL, for whose holder somebody who has the lock may be waiting."""
    cdef int spins = 0
    if try_lock(lock):
        return
    fetch_add64(waiting, 1)
    while not try_lock(lock):
        spins += 1
        if spins < 100:
            pause()
        else:
            sched_yield()
    fetch_add64(waiting, <u64>-1)


cdef inline void yield_to_waiting(u64 *waiting) noexcept nogil:
    """Between two blocks of a batch: a moment in which nothing changes, and a longer one for who waits. Bounded."""
    cdef int i
    for i in range(REST_PAUSES):
        pause()
    for i in range(REST_YIELDS):
        if load64(waiting) == 0:
            return
        sched_yield()


cdef inline void unlock(u32 *lock) noexcept nogil:
    publish32(lock, 0)
