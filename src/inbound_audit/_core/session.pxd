"""A session in its listener's tree: it is counted from `add_session` to `remove_session`.

Lock rule: the caller holds the lock of the tree. A caller that may also be a reader of other processes' trees calls
`show_session` after it has released the lock and before it counts.
"""

from inbound_audit._core.address cimport Address
from inbound_audit._core.bits cimport fence_full
from inbound_audit._core.codes cimport CLOSED, OK
from inbound_audit._core.model cimport READY, Tree, ia_ac
from inbound_audit._core.trie cimport trie_add, trie_remove


cdef inline int add_session(ia_ac *ac, const Address *a) noexcept nogil:
    """Counts the session of an address. Returns OK or a code; then it is not open. O(bytes of the address)."""
    cdef Tree *t = ac.tree
    cdef int code = CLOSED
    if t.state == READY:
        code = trie_add(&t.arena, a, 1)  # model: owners/open
    ac.epoch = t.epoch
    ac.open = code == OK
    return code


cdef inline void show_session(Tree *t) noexcept nogil:
    """Of two processes that each open a session and then count, one sees both.

    The pointer is read without the lock. It changes from NULL, or to NULL, only while no session can be opened in the
    tree (NO_FILE), or when no other process counts it.
    """
    if t.arena.file != NULL:
        fence_full()  # model: owners/fence


cdef inline void remove_session(ia_ac *ac) noexcept nogil:
    """Ends the count. Idempotent: of two threads that close a session, or the audit, one removes the count."""
    cdef Address a
    if ac.open and ac.epoch == ac.tree.epoch:
        a.hi, a.lo, a.version = ac.hi, ac.lo, ac.version
        trie_remove(&ac.tree.arena, &a, 1)
    ac.open = 0
