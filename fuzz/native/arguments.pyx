"""The argument grammar: prefixes with and without a connecting IP, durations, monitors.

The first byte of an input says what the rest is read as. Each text is read by the core and by the gold reader: both
accept it or both refuse it, and what they read is the same. What the core accepts it writes as a text that it reads as
the same; what it refuses has a reason.
"""

from libc.stdint cimport int64_t

cimport inbound_audit._core.address as ip
cimport inbound_audit._core.address_text as ip_text
cimport inbound_audit._core.codes as codes
cimport inbound_audit._core.monitor as monitor
cimport inbound_audit._core.prefix as prefix
from inbound_audit._core.bits cimport u8

include "gold.pxi"

cdef extern from "gold.h":
    int gold_absolute(const char *, size_t, gold_prefix *) noexcept nogil
    int gold_relative(const char *, size_t, int) noexcept nogil
    void gold_mask(gold_prefix *) noexcept nogil

cdef enum:
    UNITS = 7

cdef extern from *:
    """
    #include <stdio.h>
    static const struct { const char *text; long long ms; } unit_of[7] = {{"", 1000}, {"ms", 1}, {"s", 1000},
        {"m", 60000}, {"h", 3600000}, {"d", 86400000}, {"w", 604800000}};
    /* A duration of which the value is known: `value` thousandths of a unit. */
    static int write_duration(char *out, unsigned value, int unit)
    {
        return sprintf(out, "%u.%03u%s", value / 1000, value % 1000, unit_of[unit].text);
    }
    static long long ms_of(unsigned value, int unit) { return (long long)value * unit_of[unit].ms / 1000; }
    """
    int write_duration(char *, unsigned, int) noexcept nogil
    long long ms_of(unsigned, int) noexcept nogil


cdef bint same(const prefix.Prefix *p, const gold_prefix *gold) noexcept nogil:
    return same_address(&p.address, gold) and p.length == gold.length


cdef void check_written(const prefix.Prefix *p) noexcept nogil:
    cdef char text[ip_text.TEXT_MAX]
    cdef prefix.Prefix again
    cdef int size = ip_text.format_prefix(&p.address, p.length, text)
    expect(prefix.parse_cidr(text, text + size, NULL, &again) == codes.OK, "a prefix that is written can be read")
    expect(again.length == p.length and again.address.hi == p.address.hi and again.address.lo == p.address.lo
           and again.address.version == p.address.version, "a prefix that is written is read as the same")


cdef void check_prefix(const char *s, size_t size, const ip.Address *peer, const gold_prefix *peer_gold) noexcept nogil:
    cdef prefix.Prefix p
    cdef gold_prefix gold
    cdef int length, code = prefix.parse_cidr(s, s + size, peer, &p)
    cdef bint right
    if size and s[0] == b"/":
        length = gold_relative(s, size, 4 if peer != NULL and peer.version == 4 else 6)
        right = length >= 0 and peer != NULL
        if right:
            gold = peer_gold[0]
            gold.length = length
            gold_mask(&gold)
    else:
        right = gold_absolute(s, size, &gold) != 0
    expect(right == (code == codes.OK), "the core and the gold reader accept the same prefixes")
    if right:
        expect(same(&p, &gold), "the core and the gold reader read the same prefix")
        check_written(&p)
    else:
        check_reason(code)


cdef void check_peer(const char *s, size_t size, bint v6) noexcept nogil:
    """The first bytes are those of the connecting IP."""
    cdef gold_prefix gold
    cdef ip.Address peer
    cdef int i, width = 16 if v6 else 4
    if size < <size_t>width:
        return
    ip.from_packed(<const u8 *>s, width, &peer)
    gold.version, gold.length = peer.version, ip.width(peer.version)
    for i in range(16):
        gold.byte[i] = 0
    for i in range(4 if peer.version == 4 else 16):
        gold.byte[i] = <u8>s[i if peer.version == 6 or not v6 else 12 + i]
    check_prefix(s + width, size - <size_t>width, &peer, &gold)


cdef void check_duration(const char *s, size_t size) noexcept nogil:
    cdef int64_t ms = monitor.parse_duration(s, s + size)
    expect(ms == codes.BAD_DURATION or 0 <= ms <= <int64_t>monitor.MAX_INTERVAL_S * 1000, "a duration has bounds")


cdef void check_known_duration(const u8 *data, size_t size) noexcept nogil:
    """A duration that is written from its value is read as that value."""
    cdef char text[64]
    cdef unsigned value
    cdef int unit, length
    if size < 5:
        return
    value = data[0] | data[1] << 8 | data[2] << 16 | <unsigned>data[3] << 24
    unit = data[4] % UNITS
    length = write_duration(text, value, unit)
    if ms_of(value, unit) <= <int64_t>monitor.MAX_INTERVAL_S * 1000:
        expect(monitor.parse_duration(text, text + length) == ms_of(value, unit), "a duration is read as written")
    else:
        expect(monitor.parse_duration(text, text + length) == codes.BAD_DURATION, "a long duration is refused")


cdef void check_monitor(const char *s, size_t size) noexcept nogil:
    cdef int interval = -1, windows = -1
    cdef int code = monitor.parse_monitor(s, s + size, &interval, &windows)
    if code == codes.OK:
        expect(0 < interval <= monitor.MAX_INTERVAL_S and 0 < windows <= monitor.MAX_WINDOWS, "a monitor has bounds")
    else:
        expect(code == codes.BAD_MONITOR, "what is no monitor is refused as one")


cdef public void run(const u8 *data, size_t size) noexcept nogil:
    cdef const char *s = <const char *>data + 1
    if size == 0 or size > MAX_TEXT:
        return
    size -= 1
    if data[0] % 6 == 0:
        check_prefix(s, size, NULL, NULL)
    elif data[0] % 6 == 1:
        check_peer(s, size, False)
    elif data[0] % 6 == 2:
        check_peer(s, size, True)
    elif data[0] % 6 == 3:
        check_duration(s, size)
    elif data[0] % 6 == 4:
        check_known_duration(data + 1, size)
    else:
        check_monitor(s, size)
