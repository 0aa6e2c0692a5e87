"""Records in a series: adds and subtracts counts, moves them, removes a key.

To subtract cancels what was added for the same host first. The rest stands in a second tree of the window, so a count
may be negative.

Lock rule: a change takes `Series.lock`. A caller may hold the GIL or not, and holds no lock. The time is read before
the lock is taken, because a clock may be Python's.
"""

from libc.stdint cimport int64_t

from inbound_audit._core.address cimport Address, width
from inbound_audit._core.address_text cimport parse_address
from inbound_audit._core.bits cimport u32, fetch_add64, load32
from inbound_audit._core.change_log cimport MAX_KEY, log_change
from inbound_audit._core.clock cimport SECOND_US, window_number
from inbound_audit._core.codes cimport BAD_AMOUNT, CLOSED, LONG_KEY, NEED_NEGATIVE_TREE, NO_KEY, OK, UNMATCHED
from inbound_audit._core.fold cimport add_bounded, coarsen, move_bounded
from inbound_audit._core.layout cimport NO_WINDOW, header
from inbound_audit._core.model cimport CONNECTIONS, ENDED, STRINGS, Owner, Series, Tree, ia_ac
from inbound_audit._core.prefix cimport Prefix
from inbound_audit._core.query cimport peer_of
from inbound_audit._core.series_query cimport counts_family, report_family
from inbound_audit._core.seqlock cimport lock_wait, unlock
from inbound_audit._core.strings cimport address_of_text
from inbound_audit._core.trie cimport trie_add, trie_count, trie_remove
from inbound_audit._core.window cimport advance, in_view, lies_back, now_of, slot_of, tree_for, trim

cdef enum:
    MAX_CLOCK_READS = 8     # per change

cdef enum:
    MAX_AMOUNT = 0xFFFFFFFF


cdef inline Tree *other_tree(Series *s, int64_t number, int sign) noexcept nogil:
    """This process's tree of that window and sign if it has hosts; else NULL."""
    cdef u32 at = slot_of(number, s.slots)
    cdef Tree *t = s.own.tree[2 * at + sign]
    if t == NULL or s.slot[at].number[sign] != number:
        return NULL
    return t if (header(&t.arena).root[0] | header(&t.arena).root[1]) else NULL


cdef inline int add_signed(Series *s, int64_t number, const Address *host, int64_t by) noexcept nogil:
    """Adds to a window in view, and cancels what the host has in the opposite tree first. Returns OK or a code."""
    cdef int sign = by < 0, code
    cdef u32 n = <u32>(-by if by < 0 else by), cancelled = 0
    cdef Tree *head = tree_for(s, number, 0)
    cdef Tree *opposite = other_tree(s, number, 1 - sign)
    cdef Tree *t
    cdef Address a = host[0]
    coarsen(s, &s.slot[slot_of(number, s.slots)], &a)
    if opposite != NULL:
        cancelled = trie_count(&opposite.arena, &a, width(a.version))
        cancelled = n if cancelled > n else cancelled
    t = tree_for(s, number, sign) if sign else head
    if t == NULL and cancelled < n:
        return NEED_NEGATIVE_TREE
    if cancelled:
        trie_remove(&opposite.arena, &a, cancelled)
    if cancelled == n:
        return OK
    code = add_bounded(s, t, number, host, n - cancelled)
    if code != OK and cancelled:
        trie_add(&opposite.arena, &a, cancelled)  # its blocks were freed just now
    return code


cdef inline int64_t lock_at(Series *s, int64_t now) noexcept nogil:
    """Acquires the lock, and returns the time for `advance`: `now`, or a newer one if `now` is too old.

    Any time may pass between the read of the clock and the lock. An old time looks like a clock that was set back. So a
    time before the current window is believed only if it was read after the current window had begun.
    """
    cdef int64_t newest
    cdef int _i
    lock_wait(&s.lock, &s.waiting)
    for _i in range(MAX_CLOCK_READS):
        if not lies_back(s, now):
            return now
        newest = s.newest
        unlock(&s.lock)
        now = now_of(s.owner)
        lock_wait(&s.lock, &s.waiting)
        if s.newest == newest:
            return now
    return (s.newest - s.base) * s.interval * SECOND_US  # other threads rotate faster: take their time


cdef inline int change(
    Series *s, const Address *host, int64_t by, int64_t now, const char *key, size_t size, int64_t *number
) noexcept nogil:
    """Adds to the current window of this process's ring, and stores its number in `number`.

    Returns OK; or a code, and nothing is changed. `key`: as in `log_change`. O(bytes of the address).
    """
    cdef int code = CLOSED
    now = lock_at(s, now)
    if s.state != ENDED:
        number[0] = advance(s, now)
        code = add_signed(s, number[0], host, by)
        if code == OK:
            log_change(s, host, key, size, by, False, now)
        if s.trims:
            trim(s)
    unlock(&s.lock)
    return code


cdef inline int64_t past_window(const Series *s, int64_t past) noexcept nogil:
    """The number of the window of a past time, in the ring's timeline."""
    cdef int64_t number = window_number(past, s.interval) + s.base
    return s.newest if number > s.newest else number


cdef inline int record_past(Series *s, const Address *host, int64_t by, int64_t now, int64_t past) noexcept nogil:
    """Adds to the window of a past time. Returns OK, UNMATCHED if that window is out of view, or another code."""
    cdef int code = CLOSED
    cdef int64_t number
    now = lock_at(s, now)
    if s.state != ENDED:
        advance(s, now)
        number = past_window(s, past)
        code = add_signed(s, number, host, by) if in_view(s, number) else UNMATCHED
    unlock(&s.lock)
    return code


cdef inline void move_event(Series *s, const Address *source, const Address *target, int64_t number) noexcept nogil:
    """Moves one event to another address, within the window in which it was recorded, if that is in view.

    The ring does not advance: if the clock is set back, a window may come into view again, so it is not emptied here.
    """
    cdef Tree *t
    lock_wait(&s.lock, &s.waiting)
    if s.state != ENDED and in_view(s, number):
        t = other_tree(s, number, 0)
        if t != NULL:
            move_bounded(s, t, number, source, target)
    unlock(&s.lock)


cdef inline void remove_host(Tree *t, const Address *host) noexcept nogil:
    """Removes a host with its whole count; `t` may be NULL."""
    cdef u32 n
    if t != NULL:
        n = trie_count(&t.arena, host, width(host.version))
        if n:
            trie_remove(&t.arena, host, n)


cdef inline bint was_folded(const Series *s, int64_t number, const Address *host) noexcept nogil:
    """Hosts of that family are folded in that window."""
    cdef u32 at = slot_of(number, s.slots)
    return s.slot[at].number[0] == number and s.slot[at].level[host.version == 6] != 0


cdef inline int remove_key(Series *s, const Address *host, int64_t now, const char *key, size_t size) noexcept nogil:
    """Removes a host from all windows of this process's ring. O(slots x bytes of the address).

    Windows that were folded keep their counts, because the host's own count is not known there. The ring does not
    advance, as in `move_event`.
    """
    cdef int64_t number
    cdef int code = CLOSED
    cdef u32 i
    lock_wait(&s.lock, &s.waiting)
    if s.state != ENDED:
        for i in range(s.slots):
            number = s.newest - i
            if not was_folded(s, number, host):
                remove_host(other_tree(s, number, 0), host)
                remove_host(other_tree(s, number, 1), host)
        log_change(s, host, key, size, 0, True, now)
        code = OK
    unlock(&s.lock)
    return code


cdef inline int read_key(const ia_ac *ac, Series *s, const char *key, size_t size, Address *out) noexcept nogil:
    """Stores the address of a key in `out`. `key` NULL: the connecting IP. Returns OK or a code."""
    cdef Prefix peer
    if s.scope == STRINGS:
        if key == NULL:
            return NO_KEY
        if size > MAX_KEY:
            return LONG_KEY
        address_of_text(key, size, out)
        return OK
    if key != NULL:
        return parse_address(key, key + size, out)
    if ac == NULL:
        return NO_KEY
    peer_of(ac, &peer)
    out[0] = peer.address
    return OK


cdef inline int series_add(
    Series *s, const ia_ac *ac, const char *key, size_t size, int64_t by
) noexcept nogil:
    """`series.add(name, key, by)`. Returns OK or a code."""
    cdef Address a
    cdef int64_t number
    cdef int code = read_key(ac, s, key, size, &a)
    if code != OK:
        return code
    if not -<int64_t>MAX_AMOUNT <= by <= <int64_t>MAX_AMOUNT or by == 0:
        return BAD_AMOUNT
    if not counts_family(s, a.version):
        return CLOSED if load32(&s.state) == ENDED else report_family(s)
    return change(s, &a, by, now_of(s.owner), key if s.scope == STRINGS else NULL, size, &number)


cdef inline int series_remove(Series *s, const ia_ac *ac, const char *key, size_t size) noexcept nogil:
    """`series.remove_item(name, key)`, in this process's ring alone. Returns OK or a code."""
    cdef Address a
    cdef int code = read_key(ac, s, key, size, &a)
    if code != OK or not counts_family(s, a.version):
        return code
    return remove_key(s, &a, now_of(s.owner), key if s.scope == STRINGS else NULL, size)


cdef inline void record_event(
    Owner *o, u32 monitors, int kind, const Address *host, u32 n, int64_t now, int64_t *numbers
) noexcept nogil:
    """Records `n` events in the first `monitors` monitors: those that the caller has seen, because more may be added at
    any time. Events that find no room are added to `uncounted`; no session fails.

    `numbers`, if it is not NULL, has `monitors` + 1 places. It gets `monitors`, then for each monitor the number of the
    window, or NO_WINDOW if the event found no room.
    """
    cdef Series *s
    cdef int64_t number
    cdef u32 m
    if numbers != NULL:
        numbers[0] = monitors
    for m in range(monitors):
        s = o.monitor[m][kind]
        if change(s, host, n, now, NULL, 0, &number) != OK:
            fetch_add64(&s.uncounted, n)
            number = NO_WINDOW
        if numbers != NULL:
            numbers[1 + m] = number


cdef inline void move_connection(
    Owner *o, const Address *source, const Address *target, const int64_t *numbers
) noexcept nogil:
    """Moves a connection to another address. `numbers`: from `record_event`."""
    cdef int64_t m
    for m in range(numbers[0]):
        move_event(o.monitor[m][<int>CONNECTIONS], source, target, numbers[1 + m])
