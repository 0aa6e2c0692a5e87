"""Overrides: prefixes whose connections are let in or refused until some time, whatever the limits say.

The longest match decides. One that has expired gives way to the next around it (`outer`) at that moment, whether the
map was made anew since or not.

    192.0.2.0/24   deny, no end       <--+
      192.0.2.7/32 allow until 10:00  ---+ outer

A map is filled while no reader can find it, and then published by one store. Its memory is used again for a later one,
and given back with the audit: so a reader needs no lock. A reader may stand in a map that is replaced and filled again
meanwhile. It notices by `seq`, which is odd while a map is filled, and asks the map that is published by then.

Lock rule: `Owner.lock` to fill and to publish. Readers take none.
"""

from libc.stdint cimport int64_t
from libc.stdlib cimport calloc, free

from inbound_audit._core.bits cimport u32, u64, load32, load64, store32, store64
from inbound_audit._core.ranges cimport NO_VALUE, Range, Ranges, lookup
from inbound_audit._core.seqlock cimport write_close, write_open

cdef extern from *:
    """
    #define IA_NO_OUTER 0xFFFFFFFFu
    """
    const u32 NO_OUTER "IA_NO_OUTER"    # a number that no override has

cdef enum:
    MAX_OUTER = 129             # overrides that hold one another: one of each length
    MAX_NOTES = 256

# What an override does with a connection.
cdef enum Action:
    NO_OVERRIDE = 0
    ALLOW = 1
    DENY = 2
    DENY_NETWORK = 3            # a limit has denied it: those of its network alone (room `decision`)

cdef struct Override:
    u64 until                   # microseconds since 1970
    u32 action
    u32 length                  # of its prefix
    u32 outer                   # the number of the next one around it, or NO_OUTER

cdef struct OverrideMap:
    u64 seq
    Ranges family[2]            # IPv4, IPv6; the values are numbers of `entry`
    Override *entry
    size_t room                 # of `entry`; each family has twice as much
    OverrideMap *older          # the one that was allocated before

# What holds for an address.
cdef struct Found:
    u32 action                  # of the longest match
    u32 length                  # of its prefix
    u32 others                  # the action of the longest match that no limit has made

# A prefix that a limit wants denied (room `decision`).
cdef struct Note:
    u64 hi
    u64 lo
    u32 version
    u32 length
    u32 seconds
    u32 reason

cdef struct Notes:
    Note note[MAX_NOTES]
    u32 size
    u32 lock
    u64 waiting


cdef inline void free_map(OverrideMap *m) noexcept nogil:
    free(m.family[0].range)
    free(m.family[1].range)
    free(m.entry)
    free(m)


cdef inline OverrideMap *new_map(size_t room) noexcept nogil:
    """An empty map for at most `room` overrides; NULL if there is no memory."""
    cdef OverrideMap *m = <OverrideMap *>calloc(1, sizeof(OverrideMap))
    cdef int v6
    if m == NULL:
        return NULL
    m.room = room
    m.entry = <Override *>calloc(room, sizeof(Override))
    for v6 in range(2):
        m.family[v6].range = <Range *>calloc(2 * room, sizeof(Range))
    if m.entry == NULL or m.family[0].range == NULL or m.family[1].range == NULL:
        free_map(m)
        return NULL
    return m


cdef inline void free_maps(OverrideMap *newest) noexcept nogil:
    """All maps. No thread may read them any more."""
    cdef OverrideMap *m = newest
    while m != NULL:
        newest = m.older
        free_map(m)
        m = newest


cdef inline void fill_map(OverrideMap *m, const Ranges *families, const Override *entries, size_t size) noexcept nogil:
    """The map holds this from now on. It is not the one that is published, and has room for `size` overrides."""
    cdef Ranges *r
    cdef size_t i
    cdef int v6
    write_open(&m.seq)
    for v6 in range(2):
        r = &m.family[v6]
        for i in range(families[v6].size):
            store64(&r.range[i].hi, families[v6].range[i].hi)
            store64(&r.range[i].lo, families[v6].range[i].lo)
            store32(<u32 *>&r.range[i].value, <u32>families[v6].range[i].value)
        store64(<u64 *>&r.size, families[v6].size)
    for i in range(size):
        store64(&m.entry[i].until, entries[i].until)
        store32(&m.entry[i].action, entries[i].action)
        store32(&m.entry[i].length, entries[i].length)
        store32(&m.entry[i].outer, entries[i].outer)
    write_close(&m.seq)


cdef inline u32 first_of(OverrideMap *m, bint v6, u64 hi, u64 lo) noexcept nogil:
    """The number of the longest match, whether it has expired or not; or NO_OUTER. O(log overrides)."""
    cdef int value = lookup(&m.family[v6], hi, lo)
    return NO_OUTER if value == NO_VALUE else <u32>value


cdef inline void find_in(OverrideMap *m, u32 number, int64_t now, Found *out) noexcept nogil:
    """The first of an override and those around it that has not expired. O(those that hold one another)."""
    cdef u32 action
    cdef int _depth
    out.action = out.others = NO_OVERRIDE
    for _depth in range(MAX_OUTER):
        if number >= m.room:  # NO_OUTER; or the map is filled again
            return
        if load64(&m.entry[number].until) > <u64>now:
            action = load32(&m.entry[number].action)
            if out.action == NO_OVERRIDE:
                out.action, out.length = action, load32(&m.entry[number].length)
            if action != DENY_NETWORK:
                out.others = action
                return
        number = load32(&m.entry[number].outer)
