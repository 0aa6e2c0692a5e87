"""One writer, and readers that take no lock: the protocol, and why each result is right.

    writer                                    reader
    ------                                    ------
    build new blocks (not reachable yet)      s = seq
    seq += 1                (odd)             walk the tree, bounds checked
    publish: stores of single words           seq == s and even?  exact, as of one moment
    seq += 1                (even)            otherwise try again
    free retired blocks

The time between the two increments is a *write window*. At every instant, also between two stores of a writer that was
stopped there:
  * each node that can be reached from the roots is complete; a new one is published by one word;
  * a block that was reachable in this window is not written again before the window closes.
So a reader that finds the same *odd* number before and after its walk stood beside a writer that stands still, and
walked a sound tree: its result lacks at most that one update. (A move adds before it removes, and between the two the
number grows by two: so a walk that is accepted may see a session twice, never not at all. A difference of two
prefixes may be off by the session that is being added or removed.) The reader waits a little for a writer that runs
(READ_SPINS tries, some microseconds), then takes that result and remembers the number, so that the next reader of the
same update need not wait. It never yields its processor, because on a busy machine that costs milliseconds. A reader
that was overtaken sees another number and tries again, at most READ_TRIES times.

What a walk reads may be overwritten meanwhile, so every access is atomic (room `bits`), and the fences are those of
H.-J. Boehm, "Can seqlocks get along with programming language memory models?" (2012): a release fence between the
increment that opens the window and the stores, an acquire fence between the loads and the second load of the number. A
word that leads to a new node is a release store, and a reader loads it by acquire: one node may be built and published
after the window was opened.

Lock rule: writers of one tree exclude one another with `Arena.lock`, which only threads of the owning process see. A
writer holds it, a reader does not need it, and no Python code runs under it.

docs/model/seqlock.pml is a model of this; comments "model: seqlock/NAME" name its steps.
"""

from inbound_audit._core.bits cimport (
    u32, u64, acquire64, exchange32, fence_acquire, fence_release, fetch_add64, load32, load64, pause, publish32,
    publish64, store64,
)

cdef extern from "<sched.h>" nogil:
    int sched_yield() noexcept

cdef enum:
    READ_SPINS = 128    # tries before a writer counts as stopped
    READ_TRIES = 1024
    REST_PAUSES = 8     # between two blocks of a batch
    REST_YIELDS = 64    # at most, while other writers wait

# What a walk is worth.
cdef enum Walk:
    OVERTAKEN = 0       # nothing: try again
    BESIDE_UPDATE = 1   # it lacks at most one update: wait for the writer, and try again
    EXACT = 2           # or the writer is stopped, and it lacks at most that update


cdef inline u64 read_begin(u64 *seq) noexcept nogil:
    """The number before a walk."""
    return acquire64(seq)  # model: seqlock/begin


cdef inline bint read_stood(u64 *seq, u64 began) noexcept nogil:
    """No write window began or ended since `began`, so the walk was sound."""
    fence_acquire()
    return load64(seq) == began  # model: seqlock/stood


cdef inline bint read_waited(int attempt) noexcept nogil:
    """The writer has not moved for READ_SPINS tries: it lost its processor, or was stopped."""
    return attempt >= READ_SPINS


cdef inline int read_end(u64 *seq, u64 began, u64 *stalled, int attempt) noexcept nogil:
    """What a walk that began at the number `began` is worth. `stalled`: the update for which a reader waited before."""
    if not read_stood(seq, began):
        return OVERTAKEN
    if not began & 1 or began == load64(stalled):  # model: seqlock/exact, seqlock/stalled
        return EXACT
    if read_waited(attempt):  # model: seqlock/waited
        store64(stalled, began)
        return EXACT
    return BESIDE_UPDATE  # model: seqlock/beside


cdef inline void write_open(u64 *seq) noexcept nogil:
    """Opens the write window, unless it is open: for a reader, two changes in one window are one."""
    if not load64(seq) & 1:
        publish64(seq, load64(seq) + 1)  # `reach` was stored before; model: seqlock/open
        fence_release()


cdef inline void write_step(u64 *seq) noexcept nogil:
    """Between two changes in one write window: no walk that is accepted has read some words before and some after."""
    publish64(seq, load64(seq) + 2)  # model: seqlock/step
    fence_release()


cdef inline void write_close(u64 *seq) noexcept nogil:
    """Closes the write window."""
    publish64(seq, load64(seq) + 1)  # model: seqlock/close
    fence_release()  # before any store into the blocks that are freed next


cdef inline bint try_lock(u32 *lock) noexcept nogil:
    """Acquires the lock if it is free. Returns False if it is not."""
    return load32(lock) == 0 and exchange32(lock, 1) == 0


cdef inline void lock_wait(u32 *lock, u64 *waiting) noexcept nogil:
    """Acquires the lock. Call it without the GIL: the lock's holder may be waiting for the GIL.

    `waiting` counts the writers that wait.
    """
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
    """A short rest between two blocks of a batch, and a longer one while other writers wait. Bounded."""
    cdef int _i
    for _i in range(REST_PAUSES):
        pause()
    for _i in range(REST_YIELDS):
        if load64(waiting) == 0:
            return
        sched_yield()


cdef inline void unlock(u32 *lock) noexcept nogil:
    publish32(lock, 0)
