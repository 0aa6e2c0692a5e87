"""The change log of a series: one line for each change, written by the process that makes the change.

    1f0c44d29b07aa13 42 1795572000123456 1 192.0.2.7
    log              no. microseconds   by key

A line is one `write` to a file that is open for appending, so lines of several processes never mix. The key of a series
of strings is percent-encoded. `log_failures` counts the lines that could not be written; their changes stay.

Lock rule: the caller holds `Series.lock`, so that the numbers grow in the order of the lines.
"""

from libc.errno cimport EBADF
from libc.stdint cimport int64_t

from inbound_audit._core.address cimport Address
from inbound_audit._core.address_text cimport TEXT_MAX, format_address
from inbound_audit._core.bits cimport u64
from inbound_audit._core.kept_file cimport kept_fd
from inbound_audit._core.model cimport Series

cdef extern from "inbound_audit/_core/change_log.h":
    const size_t MAX_KEY "IA_MAX_KEY"    # bytes of a string
    int write_line "ia_write_line"(
        int fd, u64 log, u64 number, int64_t when, int64_t by, bint removed, const char *key, size_t size, bint text
    ) noexcept nogil


cdef inline void log_change(
    Series *s, const Address *a, const char *key, size_t size, int64_t by, bint removed, int64_t now
) noexcept nogil:
    """Writes a line if the series has a log. `key`: the text, in a series of strings; NULL: the address is the key."""
    cdef char text[TEXT_MAX]
    cdef const char *shown = key
    cdef int fd, error = EBADF
    if s.log == NULL:
        return
    if key == NULL:
        shown = text
        size = <size_t>format_address(a, text)
    s.log_sequence += 1
    fd = kept_fd(s.log)
    if fd >= 0:
        error = write_line(fd, s.log_id, s.log_sequence, now, by, removed, shown, size, key != NULL)
    if error != 0:
        s.log_error = error
        s.log_failures += 1
