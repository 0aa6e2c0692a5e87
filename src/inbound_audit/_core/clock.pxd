"""The time: microseconds since 1970, read without a system call, and the number of a window of time.

The system keeps a coarse clock, good to some milliseconds, in memory that every process can read. That is enough for
windows of seconds.
"""

from libc.stdint cimport int64_t

from inbound_audit._core.bits cimport u32

cdef extern from "inbound_audit/_core/clock.h":
    const int64_t MAX_TIME_US "IA_MAX_TIME_US"   # microseconds
    int64_t system_clock "ia_system_clock"() noexcept nogil

cdef enum:
    SECOND_US = 1000000


cdef inline int64_t window_number(int64_t microseconds, u32 interval) noexcept nogil:
    """The number of the window that a time lies in; before 1970 they are negative."""
    cdef int64_t width = <int64_t>interval * SECOND_US
    cdef int64_t number = microseconds // width
    return number - 1 if number * width > microseconds else number
