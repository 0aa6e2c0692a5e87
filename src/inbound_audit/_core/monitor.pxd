"""Durations and monitors, as a user writes them.

    duration  := number [ unit ]               seconds without a unit
    number    := digits [ "." 1 to 3 digits ]
    unit      := "ms" | "s" | "m" | "h" | "d" | "w"
    monitor   := duration "," digits           the length of a window in whole seconds, and the number of windows;
                                               spaces may stand around either
"""

from libc.stdint cimport int64_t

from inbound_audit._core.address_text cimport digit, parse_number
from inbound_audit._core.codes cimport BAD_DURATION, BAD_MONITOR, OK

cdef enum:
    MAX_INTERVAL_S = 1 << 30    # of a window, and of any duration: 34 years
    MAX_WINDOWS = 1024          # of one series

cdef enum:
    SECOND_MS = 1000


cdef inline int64_t unit_ms(const char *s, const char *end) noexcept nogil:
    """The milliseconds of one unit; 0 if [s, end) is not a unit."""
    if s == end:
        return SECOND_MS
    if end - s == 2 and s[0] == b'm' and s[1] == b's':
        return 1
    if end - s != 1:
        return 0
    if s[0] == b's':
        return SECOND_MS
    if s[0] == b'm':
        return 60 * SECOND_MS
    if s[0] == b'h':
        return 3600 * SECOND_MS
    if s[0] == b'd':
        return 86400 * <int64_t>SECOND_MS
    return 604800 * <int64_t>SECOND_MS if s[0] == b'w' else 0


cdef inline int64_t parse_duration(const char *s, const char *end) noexcept nogil:
    """Milliseconds, rounded down; BAD_DURATION if the text is malformed or the duration is over MAX_INTERVAL_S."""
    cdef const char *dot = s
    cdef const char *unit
    cdef int64_t whole, one, milliseconds, thousandths = 0
    cdef int places = 0
    while dot < end and digit(dot[0]) >= 0:
        dot += 1
    whole = parse_number(s, dot, MAX_INTERVAL_S)
    unit = dot
    if dot < end and dot[0] == b'.':
        unit += 1
        while unit < end and digit(unit[0]) >= 0 and places < 4:
            thousandths = thousandths * 10 + digit(unit[0])
            unit += 1
            places += 1
        if places == 0:
            return BAD_DURATION
    one = unit_ms(unit, end)
    if whole < 0 or one == 0 or places > 3:
        return BAD_DURATION
    while places < 3:
        thousandths *= 10
        places += 1
    milliseconds = whole * one + thousandths * one // 1000
    return milliseconds if milliseconds <= <int64_t>MAX_INTERVAL_S * SECOND_MS else BAD_DURATION


cdef inline void strip(const char **s, const char **end) noexcept nogil:
    """Leaves out the spaces at both ends."""
    while s[0] < end[0] and s[0][0] == b' ':
        s[0] += 1
    while s[0] < end[0] and (end[0] - 1)[0] == b' ':
        end[0] -= 1


cdef inline int parse_monitor(const char *s, const char *end, int *interval, int *windows) noexcept nogil:
    """OK or BAD_MONITOR. `interval` is in seconds."""
    cdef const char *comma = s
    cdef const char *behind
    cdef int64_t milliseconds
    while comma < end and comma[0] != b',':
        comma += 1
    if comma == end:
        return BAD_MONITOR
    behind = comma + 1
    strip(&s, &comma)
    strip(&behind, &end)
    milliseconds = parse_duration(s, comma)
    windows[0] = parse_number(behind, end, MAX_WINDOWS)
    if milliseconds <= 0 or milliseconds % SECOND_MS or windows[0] <= 0:
        return BAD_MONITOR
    interval[0] = <int>(milliseconds // SECOND_MS)
    return OK
