"""The time in microseconds since 1970, read without a system call, and the numbers of windows.

The system's coarse clock is exact to some milliseconds, which is enough for windows of seconds.
"""

from libc.stdint cimport int64_t

from inbound_audit._core.bits cimport u32

cdef extern from "inbound_audit/_core/clock.h":
    const int64_t MAX_TIME_US "IA_MAX_TIME_US"   # microseconds
    int64_t system_clock "ia_system_clock"() noexcept nogil

cdef enum:
    SECOND_US = 1000000


cdef inline int64_t window_number(int64_t microseconds, u32 interval) noexcept nogil:
    """The number of the window that a time lies in. It is negative before 1970. `interval`: seconds."""
    cdef int64_t width = <int64_t>interval * SECOND_US
    cdef int64_t number = microseconds // width
    return number - 1 if number * width > microseconds else number
