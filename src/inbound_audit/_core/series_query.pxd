"""Counts of a series over its windows, summed over the rings of all owners.

Each monitor has three series, by the address of the session: connections, receptions (messages that were accepted) and
rejections. Other series have a name.

What the other nodes of a cluster recorded is the series `remote` of a series. A count adds it if the series is
replicated, or if the query asks for the whole cluster.

Lock rule: none. `now_of` may call Python, so a caller without the GIL must not hold a lock.
"""

from libc.stdint cimport int64_t
from libc.string cimport memcmp

from inbound_audit._core.bits cimport u32, acquire32, exchange32, load32
from inbound_audit._core.change_log cimport MAX_KEY
from inbound_audit._core.codes cimport BAD_WINDOW, LONG_KEY, NO_KEY, OK, OTHER_FAMILY
from inbound_audit._core.model cimport (
    ADDRESSES, REPLICATE_NONE, STRINGS, Owner, Series, ia_ac, load_series,
)
from inbound_audit._core.monitor cimport parse_monitor
from inbound_audit._core.prefix cimport Prefix, parse_cidr
from inbound_audit._core.query cimport peer_of
from inbound_audit._core.sliding cimport Parts, Span, add_parts, span_until
from inbound_audit._core.strings cimport address_of_text
from inbound_audit._core.window cimport now_of, range_count


cdef inline Series *find_series(Owner *o, const char *name, size_t size) noexcept nogil:
    """The named series of that name in which this process records, or NULL. O(series)."""
    cdef Series *s
    cdef u32 i
    for i in range(acquire32(&o.series_known)):
        s = o.series[i]
        if s.scope >= ADDRESSES and s.name_size == size and acquire32(&s.ready) and memcmp(s.name, name, size) == 0:
            return s
    return NULL


cdef inline Series *find_monitor(Owner *o, int kind, const char *text, size_t size, int64_t position) noexcept nogil:
    """The series of a monitor, by its text or (`text` NULL) its position, or NULL. O(monitors)."""
    cdef u32 monitors = acquire32(&o.monitors), m
    cdef int interval, slots
    if text == NULL:
        return o.monitor[position][kind] if 0 <= position < monitors else NULL
    if parse_monitor(text, text + size, &interval, &slots) != OK:
        return NULL
    for m in range(monitors):
        if interval == <int>o.monitor[m][kind].interval and slots == <int>o.monitor[m][kind].slots:
            return o.monitor[m][kind]
    return NULL


cdef inline int range_of_windows(const Series *s, int64_t first, int64_t last) noexcept nogil:
    """OK, or BAD_WINDOW if the range is empty or out of view."""
    return OK if 0 <= first <= last < s.slots else BAD_WINDOW


cdef inline bint counts_family(const Series *s, int version) noexcept nogil:
    return s.family == 0 or s.family == <u32>version


cdef inline int report_family(Series *s) noexcept nogil:
    """The code of a change or query with an address that the series does not count: the first one is reported."""
    return OTHER_FAMILY if load32(&s.family_reported) == 0 and exchange32(&s.family_reported, 1) == 0 else OK


cdef inline int64_t range_of_cluster(
    Series *s, bint cluster, int64_t first, int64_t last, const Prefix *p
) noexcept nogil:
    """As `range_count`, at the present time; with what the other nodes recorded, if the series is replicated or
    `cluster` asks for it.
    """
    cdef int64_t now = now_of(s.owner)
    cdef int64_t total = range_count(s, now, first, last, p)
    cdef Series *remote
    if cluster or load32(&s.replicate) != REPLICATE_NONE:
        remote = load_series(&s.remote)
        if remote != NULL:
            total += range_count(remote, now, first, last, p)
    return total


cdef inline int query_events(
    const ia_ac *ac, Series *s, bint cluster, const char *cidr, size_t size, int64_t first, int64_t last, int64_t *out
) noexcept nogil:
    """Counts a series of addresses below a prefix, over a range of windows. Returns OK or a code.

    `cidr` NULL: exactly the connecting IP of `ac`. `cluster`: with what the other nodes of the cluster recorded, as a
    series that is replicated always is. O(owners x windows x prefix length).
    """
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
    if code == OK and not counts_family(s, p.address.version):
        out[0] = 0
        return report_family(s)
    if code == OK:
        out[0] = range_of_cluster(s, cluster, first, last, &p)
    return code


cdef inline int query_key(
    const ia_ac *ac, Series *s, bint cluster, const char *key, size_t size, int64_t first, int64_t last, int64_t *out
) noexcept nogil:
    """As `query_events`, for any series: in a series of strings the key is a text."""
    cdef Prefix p
    cdef int code = range_of_windows(s, first, last)
    if s.scope != STRINGS:
        return query_events(ac, s, cluster, key, size, first, last, out)
    if code == OK:
        code = NO_KEY if key == NULL else LONG_KEY if size > MAX_KEY else OK
    if code == OK:
        address_of_text(key, size, &p.address)
        p.length = 128
        out[0] = range_of_cluster(s, cluster, first, last, &p)
    return code


cdef inline double sliding_average(Series *s, int64_t now, const Prefix *p) noexcept nogil:
    """The sum over all rings: the current window, and the share of the one before that a window ending now covers.

    `now`: microseconds.
    """
    cdef Span span
    cdef Parts parts
    cdef double share
    span_until(s, now, &span)
    parts.whole = parts.before = 0
    add_parts(s, &span, p, NULL, 0, &parts)
    share = <double>span.left_us / <double>span.width_us
    return parts.whole + parts.before * share
