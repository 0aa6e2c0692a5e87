"""What a lane of a gate has refused, or would refuse in a dry run, until Python writes it to the decision log: bounded.

    lane --note--> [ decision | decision | ... ] --next_decision--> Python
                     a ring of ROOM places; what finds no place is counted in `lost`

`written` and `read` only grow; the difference is how many places are taken. Nothing waits.

Lock rule: one thread writes (under `Lane.lock`) and one reads, beside each other. A place is the writer's until
`written` is published, then the reader's until `read` is.
"""

from libc.stdint cimport int64_t
from libc.stdlib cimport free

from inbound_audit._core.bits cimport acquire64, load64, publish64, store64, u8, u16, u64
from inbound_audit._core.clock cimport system_clock
from inbound_audit._core.model cimport ia_ac

cdef enum:
    ROOM = 4096                 # places of one lane: a power of two

# What became of a connection, and why.
cdef enum What:
    OVER = 0                    # refused: over a limit
    WOULD_BE_OVER = 1           # let in by a dry run
    NOT_COUNTED = 2             # refused: there was no room to count it
    QUEUE_FULL = 3              # refused: as many waited as may
    CLOSING = 4                 # refused: it waited when the gate was closed
    OVERRULED = 5               # refused: an override denies it

cdef struct Decision:
    int64_t time_us             # since 1970
    u64 hi
    u64 lo
    u64 rules                   # the number of the rules that decided
    int64_t count               # that the limit counted
    int row                     # the limit, of OVER and WOULD_BE_OVER; below 0: none
    u16 port
    u8 version
    u8 what

cdef struct Decisions:
    Decision *place             # [ROOM], from the caller; NULL: decisions are not noted. Set under `Lane.lock`, once
    u64 written                 # atomic
    u64 read                    # atomic
    u64 lost                    # atomic; only grows


cdef inline void close_decisions(Decisions *d) noexcept nogil:
    """No thread has it any more."""
    free(d.place)
    d.place = NULL


cdef inline void note_decision(
    Decisions *d, const ia_ac *peer, u64 rules, int what, int row, int64_t count
) noexcept nogil:
    """Notes a decision, if decisions are noted and there is a place. O(1)."""
    cdef Decision *place
    cdef u64 written = d.written
    if d.place == NULL:
        return
    if written - acquire64(&d.read) == ROOM:
        store64(&d.lost, d.lost + 1)
        return
    place = &d.place[written % ROOM]
    place.time_us, place.hi, place.lo, place.port, place.version = (
        system_clock(), peer.hi, peer.lo, peer.remote_port, peer.version
    )
    place.rules, place.what, place.row, place.count = rules, <u8>what, row, count
    publish64(&d.written, written + 1)


cdef inline bint next_decision(Decisions *d, Decision *out) noexcept nogil:
    """The one that was noted first. False: no decision waits. O(1)."""
    cdef u64 read = d.read
    if d.place == NULL or read == acquire64(&d.written):
        return False
    out[0] = d.place[read % ROOM]
    publish64(&d.read, read + 1)
    return True


cdef inline u64 lost_decisions(Decisions *d) noexcept nogil:
    """How many found no place until now."""
    return load64(&d.lost)
