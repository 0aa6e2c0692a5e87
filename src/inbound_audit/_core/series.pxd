"""Series of windows: what is added to them, and sums over the rings of all processes.

Three series are counted for each monitor, by the address of a session: connections, receptions (messages that were
accepted) and rejections. Others have a name. A count may be taken away: it cancels what was added by the same host, and
beyond that stands in a second tree, so a sum may be negative.

Lock rule: changes take `Series.lock`, and may be called with or without the GIL by who does not hold it; the time is
asked before, as a clock may be Python's.
"""

from libc.stdint cimport int64_t
from libc.string cimport memcmp

from inbound_audit._core.address cimport Address, parse_address, width
from inbound_audit._core.arena cimport header
from inbound_audit._core.bits cimport acquire32, fetch_add64, load64, u32, u64
from inbound_audit._core.cidr cimport Prefix, parse_cidr
from inbound_audit._core.clock cimport SECOND_US, window_number
from inbound_audit._core.codes cimport (
    BAD_AMOUNT, BAD_WINDOW, CLOSED, LONG_KEY, NEED_NEGATIVE_TREE, NO_KEY, OK, UNMATCHED,
)
from inbound_audit._core.fold cimport STRINGS, add_bounded, coarsen, move_bounded
from inbound_audit._core.monitor cimport parse_monitor
from inbound_audit._core.change_log cimport MAX_KEY, log_change
from inbound_audit._core.owner cimport ENDED, Owner, Ring, Series, Tree, ia_ac, load_ring, load_tree, peer_of
from inbound_audit._core.seqlock cimport lock_wait, unlock
from inbound_audit._core.strings cimport address_of_text
from inbound_audit._core.trie cimport trie_add, trie_count, trie_remove
from inbound_audit._core.window cimport (
    NO_WINDOW, in_view, lies_back, advance, now_of, range_count, ring_now, slot_of, tree_for, trim, window_count,
)

cdef enum Scope:
    CONNECTIONS = 0
    RECEPTIONS = 1
    REJECTIONS = 2
    ADDRESSES = 3       # a named series
    # STRINGS = 4, of `fold`

cdef enum:
    MAX_CLOCK_READS = 8     # times that one change reads the clock

cdef enum:
    MAX_AMOUNT = 0xFFFFFFFF


# ---- which series

cdef inline Series *find_series(Owner *o, const char *name, size_t size) noexcept nogil:
    """The named series in which we count ourselves. O(series)."""
    cdef Series *s
    cdef u32 i
    for i in range(acquire32(&o.series_known)):
        s = o.series[i]
        if s.scope >= ADDRESSES and s.name_size == size and acquire32(&s.ready) and memcmp(s.name, name, size) == 0:
            return s
    return NULL


cdef inline Series *find_monitor(Owner *o, int kind, const char *text, size_t size, int64_t position) noexcept nogil:
    """The series of a monitor, named by its text or (`text` NULL) by its position. O(monitors)."""
    cdef int interval, slots
    cdef u32 i
    if text == NULL:
        return o.series[3 * position + kind] if 0 <= position < o.monitors else NULL
    if parse_monitor(text, text + size, &interval, &slots) != OK:
        return NULL
    for i in range(o.monitors):
        if interval == <int>o.series[3 * i].interval and slots == <int>o.series[3 * i].slots:
            return o.series[3 * i + kind]
    return NULL


# ---- questions

cdef inline int range_of_windows(const Series *s, int64_t first, int64_t last) noexcept nogil:
    return OK if 0 <= first <= last < s.slots else BAD_WINDOW


cdef inline int query_events(
    const ia_ac *ac, Series *s, const char *cidr, size_t size, int64_t first, int64_t last, int64_t *out
) noexcept nogil:
    """What a monitor counted below a prefix, in a range of windows. OK or a code. `cidr` NULL: exactly the peer."""
    cdef Prefix peer, p
    cdef int code = range_of_windows(s, first, last)
    if code != OK:
        return code
    if ac != NULL:
        peer_of(ac, &peer)
        p = peer
    if cidr != NULL:
        code = parse_cidr(cidr, cidr + size, &peer.address if ac != NULL else NULL, &p)
    elif ac == NULL:
        code = NO_KEY
    if code == OK:
        out[0] = range_count(s, now_of(s.owner), first, last, &p)
    return code


cdef inline int query_key(
    const ia_ac *ac, Series *s, const char *key, size_t size, int64_t first, int64_t last, int64_t *out
) noexcept nogil:
    """The same of a named series: the key of one of strings is a text."""
    cdef Prefix p
    cdef int code = range_of_windows(s, first, last)
    if s.scope != STRINGS:
        return query_events(ac, s, key, size, first, last, out)
    if code == OK:
        code = NO_KEY if key == NULL else LONG_KEY if size > MAX_KEY else OK
    if code == OK:
        address_of_text(key, size, &p.address)
        p.length = 128
        out[0] = range_count(s, now_of(s.owner), first, last, &p)
    return code


cdef inline double sliding_average(Series *s, const Prefix *p) noexcept nogil:
    """The current window, and the one before as far as a window that ends now still covers it; of each ring."""
    cdef int64_t now = now_of(s.owner)
    cdef int64_t number = window_number(now, s.interval), current = 0
    cdef int64_t width_us = <int64_t>s.interval * SECOND_US
    cdef double gone = <double>(now - number * width_us) / <double>width_us, total = 0
    cdef double covered
    cdef Ring *r = load_ring(&s.first)
    cdef u64 base
    while r != NULL:
        if ring_now(r, number, &current):
            base = load64(<u64 *>&header(&load_tree(&r.tree[0]).arena).base)
            # A timeline that waits for the clock has its newest window before it.
            covered = 1.0 - gone if current == <int64_t>(<u64>number + base) else 1.0
            total += window_count(r, current, p)
            if s.slots > 1:  # else the one before is out of view, also while nobody has put another in its place
                total += covered * window_count(r, current - 1, p)
        r = load_ring(&r.next)
    return total


# ---- changes

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


cdef inline int change_past(Series *s, const Address *host, int64_t by, int64_t now, int64_t past) noexcept nogil:
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


cdef inline void remove_all(Tree *t, const Address *host) noexcept nogil:
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
                remove_all(other_tree(s, number, 0), host)
                remove_all(other_tree(s, number, 1), host)
        log_change(s, host, key, size, 0, True, now)
        code = OK
    unlock(&s.lock)
    return code


# ---- keys

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
    return change(s, &a, by, now_of(s.owner), key if s.scope == STRINGS else NULL, size, &number)


cdef inline int series_remove(Series *s, const ia_ac *ac, const char *key, size_t size) noexcept nogil:
    """`remove_item` of a named series, in our own ring. OK or a code."""
    cdef Address a
    cdef int code = read_key(ac, s, key, size, &a)
    return remove_key(s, &a, now_of(s.owner), key if s.scope == STRINGS else NULL, size) if code == OK else code


# ---- the events of sessions

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
