"""What an override decides about a session, and the denials that limits ask for.

An administrator's override holds for every connection of its prefix. The one that a limit has asked for (DENY_NETWORK)
holds for the network of that limit alone: an exempt address, or one of another named network, may lie in the prefix.
`limits` decides that, because networks are a policy's.

A limit that was passed, and says `then deny`, leaves a *note*: the prefix, and for how long. A thread of Python takes
the notes and makes overrides of them, so nothing here waits for a file. There is room for MAX_NOTES; a note that finds
none is dropped, because a peer that goes on is over the limit again.

Lock rule: `Notes.lock` for the notes. Readers of overrides take no lock (room `overrides`).
"""

from libc.stdint cimport int64_t

from inbound_audit._core.address cimport mask
from inbound_audit._core.bits cimport u32, u64, load32, store32
from inbound_audit._core.model cimport Owner, ia_ac, load_map
from inbound_audit._core.overrides cimport (
    ALLOW, DENY, DENY_NETWORK, MAX_NOTES, NO_OUTER, NO_OVERRIDE, Found, Note, Notes, OverrideMap, find_in, first_of,
)
from inbound_audit._core.prefix cimport Prefix
from inbound_audit._core.query cimport peer_of
from inbound_audit._core.seqlock cimport READ_TRIES, lock_wait, read_begin, read_stood, unlock
from inbound_audit._core.window cimport now_of


cdef inline bint search_maps(Owner *o, const ia_ac *ac, Found *out) noexcept nogil:
    """As `find_override`, where there are overrides. A map is replaced at most some times per second."""
    cdef OverrideMap *m
    cdef int64_t now = -1
    cdef u64 began
    cdef u32 number
    cdef int _try
    for _try in range(READ_TRIES):
        m = load_map(&o.overrides)
        if m == NULL:
            break
        began = read_begin(&m.seq)
        number = first_of(m, ac.version == 6, ac.hi, ac.lo)
        if number != NO_OUTER and now < 0:
            now = now_of(o)
        find_in(m, number, now, out)
        if read_stood(&m.seq, began) and not began & 1:
            return out.action != NO_OVERRIDE
    out.action = NO_OVERRIDE
    return False


cdef inline bint find_override(const ia_ac *ac, Found *out) noexcept nogil:
    """Whether an override holds for the connecting IP, and which: the longest match. Where the audit has none, it is
    one load and one compare. The caller holds no lock, because the audit's clock may be Python's. O(log overrides)."""
    return load_map(&ac.tree.owner.overrides) != NULL and search_maps(ac.tree.owner, ac, out)


cdef inline void note_denial(Owner *o, const ia_ac *ac, int length, u32 seconds, u32 reason) noexcept nogil:
    """The connecting IP's prefix of that length is to be denied. `reason`: a number for whoever takes the note."""
    cdef Notes *n = &o.notes
    cdef Prefix p
    cdef u32 i
    peer_of(ac, &p)
    mask(&p.address, length)
    lock_wait(&n.lock, &n.waiting)
    for i in range(n.size):
        if (
            n.note[i].hi == p.address.hi and n.note[i].lo == p.address.lo
            and n.note[i].version == <u32>p.address.version and n.note[i].length == <u32>length
        ):
            break
    else:
        if n.size < MAX_NOTES:
            n.note[n.size] = Note(p.address.hi, p.address.lo, p.address.version, length, seconds, reason)
            store32(&n.size, n.size + 1)
    unlock(&n.lock)


cdef inline u32 take_notes(Owner *o, Note *out) noexcept nogil:
    """Moves all notes to `out`, which has room for MAX_NOTES. Returns how many."""
    cdef Notes *n = &o.notes
    cdef u32 i, found
    if load32(&n.size) == 0:
        return 0
    lock_wait(&n.lock, &n.waiting)
    found = n.size
    for i in range(found):
        out[i] = n.note[i]
    store32(&n.size, 0)
    unlock(&n.lock)
    return found
