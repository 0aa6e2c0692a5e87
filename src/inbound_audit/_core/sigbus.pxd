"""Guards of mapped files: what happens when another process cuts a file short.

A load from a page that the file has lost raises SIGBUS. A handler puts an empty page in the place of a page in a
*guarded* range, notes the loss, and the reader goes on; a fault anywhere else goes to the handler that was set before.

A range in which readers may stand stays guarded as long as it is mapped: a fault may be on its way to the handler while
another thread covers the page.

Lock rule: `guard` and `watch_faults_failed` take a lock of their own and may be called from any thread; `unguard` and
`was_lost` are for the owner of the slot. The handler takes no lock.
"""

cdef extern from "inbound_audit/_core/sigbus.h":
    bint watch_faults_failed "ia_watch_faults"() noexcept nogil
    int guard "ia_guard"(void *, size_t, bint writable) noexcept nogil
    void unguard "ia_unguard"(int slot) noexcept nogil
    bint was_lost "ia_was_lost"(int slot) noexcept nogil
    void free_guard_lock "ia_unlock_guards"() noexcept nogil    # in the child of a fork

cdef enum:
    UNGUARDED = -1
