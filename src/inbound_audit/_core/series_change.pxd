"""Records in a series: adds and subtracts counts, moves them, removes a key.

A count may be subtracted: it cancels what was added for the same host, and the rest stands in a second tree of the
window, so a count may be negative.

Lock rule: a change takes `Series.lock`. Call these functions with or without the GIL, and never with that lock held. The
time is read before the lock is taken, because a clock may be Python's.
"""

from libc.stdint cimport int64_t

from inbound_audit._core.address cimport Address, parse_address, width
from inbound_audit._core.bits cimport u32, fetch_add64
from inbound_audit._core.change_log cimport MAX_KEY, log_change
from inbound_audit._core.clock cimport SECOND_US, window_number
from inbound_audit._core.codes cimport BAD_AMOUNT, CLOSED, LONG_KEY, NEED_NEGATIVE_TREE, NO_KEY, OK, UNMATCHED
from inbound_audit._core.fold cimport STRINGS, add_bounded, coarsen, move_bounded
from inbound_audit._core.layout cimport header
from inbound_audit._core.model cimport CONNECTIONS, ENDED, Owner, Series, Tree, ia_ac
from inbound_audit._core.prefix cimport Prefix
from inbound_audit._core.query cimport peer_of
from inbound_audit._core.series_query cimport counts_family, report_family
from inbound_audit._core.seqlock cimport lock_wait, unlock
from inbound_audit._core.strings cimport address_of_text
from inbound_audit._core.trie cimport trie_add, trie_count, trie_remove
from inbound_audit._core.window cimport NO_WINDOW, advance, in_view, lies_back, now_of, slot_of, tree_for, trim

cdef enum:
    MAX_CLOCK_READS = 8     # times that one change reads the clock

cdef enum:
    MAX_AMOUNT = 0xFFFFFFFF


cdef inline Tree *other_tree(Series *s, int64_t number, int sign) noexcept nogil:
    """Our tree of that window and sign if it counts anything; NULL otherwise."""
    cdef u32 at = slot_of(number, s.slots)
    cdef Tree *t = s.own.tree[2 * at + sign]
    if t == NULL or s.slot[at].number[sign] != number:
        return NULL
    return t if (header(&t.arena).root[0] | header(&t.arena).root[1]) else NULL


cdef inline int add_signed(Series *s, int64_t number, const Address *host, int64_t by) noexcept nogil:
    """Adds to a window in view. What the same host has on the other side is cancelled first. OK, or a code."""
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
    """Takes the lock. The time for `advance`: `now`, unless it lies so far back that it has to be asked for once more.

    Between the question and the lock any time may pass. An old answer must not be taken for a clock that was set back,
    so that is believed only of an answer to a question that was put when the current window had begun already.
    """
    cdef int64_t newest
    cdef int i
    lock_wait(&s.lock, &s.waiting)
    for i in range(MAX_CLOCK_READS):
        if not lies_back(s, now):
            return now
        newest = s.newest
        unlock(&s.lock)
        now = now_of(s.owner)
        lock_wait(&s.lock, &s.waiting)
        if s.newest == newest:
            return now
    return (s.newest - s.base) * s.interval * SECOND_US  # others turn faster than we can ask: theirs is the time


cdef inline int change(
    Series *s, const Address *host, int64_t by, int64_t now, const char *key, size_t size, int64_t *number
) noexcept nogil:
    """Adds to the current window of our ring, and says which one that is (`number`). OK, or a code and nothing has
    changed. `key`: as in `log_change`.

    O(bytes of the address), whatever the windows hold.
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
    """The number of the window of a past time, in our timeline."""
    cdef int64_t number = window_number(past, s.interval) + s.base
    return s.newest if number > s.newest else number


cdef inline int record_past(Series *s, const Address *host, int64_t by, int64_t now, int64_t past) noexcept nogil:
    """Adds to the window of a time that has gone. UNMATCHED when that is out of view."""
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
    """One event turns out to be another address's: it moves within the window in which it was counted, while that is kept.

    Time does not move on: a window that the clock has left behind, and that may come into view again, is not emptied.
    """
    cdef Tree *t
    lock_wait(&s.lock, &s.waiting)
    if s.state != ENDED and in_view(s, number):
        t = other_tree(s, number, 0)
        if t != NULL:
            move_bounded(s, t, number, source, target)
    unlock(&s.lock)


cdef inline void remove_host(Tree *t, const Address *host) noexcept nogil:
    cdef u32 n
    if t != NULL:
        n = trie_count(&t.arena, host, width(host.version))
        if n:
            trie_remove(&t.arena, host, n)


cdef inline bint was_folded(const Series *s, int64_t number, const Address *host) noexcept nogil:
    cdef u32 at = slot_of(number, s.slots)
    return s.slot[at].number[0] == number and s.slot[at].level[host.version == 6] != 0


cdef inline int remove_key(Series *s, const Address *host, int64_t now, const char *key, size_t size) noexcept nogil:
    """Forgets a host in all windows of our ring. What was folded is no host any more, and stays. O(slots x bytes).

    Time does not move on, as in `move_event`.
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
    """The address that a key of a change stands for. OK or a code. `key` NULL: the connecting IP."""
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
    """`add` of a named series. OK or a code."""
    cdef Address a
    cdef int64_t number
    cdef int code = read_key(ac, s, key, size, &a)
    if code != OK:
        return code
    if not -<int64_t>MAX_AMOUNT <= by <= <int64_t>MAX_AMOUNT or by == 0:
        return BAD_AMOUNT
    if not counts_family(s, a.version):
        return CLOSED if s.state == ENDED else report_family(s)
    return change(s, &a, by, now_of(s.owner), key if s.scope == STRINGS else NULL, size, &number)


cdef inline int series_remove(Series *s, const ia_ac *ac, const char *key, size_t size) noexcept nogil:
    """`remove_item` of a named series, in our own ring. OK or a code."""
    cdef Address a
    cdef int code = read_key(ac, s, key, size, &a)
    if code != OK or not counts_family(s, a.version):
        return code
    return remove_key(s, &a, now_of(s.owner), key if s.scope == STRINGS else NULL, size)


cdef inline void record_event(Owner *o, int kind, const Address *host, u32 n, int64_t now, int64_t *numbers) noexcept nogil:
    """Counts for every monitor. What finds no room is counted as such: no session fails for it.

    `numbers`, if it is not NULL, has a place for each monitor, and is told in which window that was; NO_WINDOW: in none.
    """
    cdef Series *s
    cdef int64_t number
    cdef u32 m
    for m in range(o.monitors):
        s = o.series[3 * m + kind]
        if change(s, host, n, now, NULL, 0, &number) != OK:
            fetch_add64(&s.uncounted, n)
            number = NO_WINDOW
        if numbers != NULL:
            numbers[m] = number


cdef inline void move_connection(
    Owner *o, const Address *source, const Address *target, const int64_t *numbers
) noexcept nogil:
    """A connection was another address's. `numbers`: as `record_event` has told."""
    cdef u32 m
    for m in range(o.monitors):
        move_event(o.series[3 * m + CONNECTIONS], source, target, numbers[m])
