"""The log of a series: a line for each change, written by who makes it.

    1f0c44d29b07aa13 42 1795572000123456 1 192.0.2.7
    log              no. microseconds   by key

A line is one write to a file that is opened to append, so lines of several processes never mix. The key of a series of
strings is percent-encoded. A line that can't be written is counted, and the change stands.

Lock rule: for the holder of the series' lock, so that numbers go up in the order of the lines.
"""

from libc.stdint cimport int64_t

from inbound_audit._core.address cimport TEXT_MAX, Address, format_address
from inbound_audit._core.bits cimport u64
from inbound_audit._core.owner cimport Series

cdef extern from *:
    """
    #include <errno.h>
    #include <stdio.h>
    #include <stdint.h>
    #include <unistd.h>

    #define IA_MAX_KEY 4096
    #define IA_MAX_LINE (3 * IA_MAX_KEY + 128)

    static inline size_t ia_percent(const char *key, size_t size, char *out)
    {
        static const char digits[] = "0123456789ABCDEF";
        char *at = out;
        size_t i;
        for (i = 0; i < size && i < IA_MAX_KEY; i++) {
            unsigned char c = (unsigned char)key[i];
            if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' || c == '_' || c == '-')
                *at++ = (char)c;
            else
                *at++ = '%', *at++ = digits[c >> 4], *at++ = digits[c & 15];
        }
        return (size_t)(at - out);
    }
    static inline int ia_write_line(int fd, uint64_t log, uint64_t number, int64_t when, int64_t by, int removed,
                                    const char *key, size_t size, int text)
    {
        char line[IA_MAX_LINE];
        int at = removed ? snprintf(line, 100, "%016llx %llu %lld remove ", (unsigned long long)log, (unsigned long long)number,
                                    (long long)when)
                         : snprintf(line, 100, "%016llx %llu %lld %lld ", (unsigned long long)log, (unsigned long long)number,
                                    (long long)when, (long long)by);
        ssize_t done;
        size_t length = (size_t)at;
        if (text)
            length += ia_percent(key, size, line + length);
        else {
            memcpy(line + length, key, size);
            length += size;
        }
        line[length++] = '\\n';
        do
            done = write(fd, line, length);
        while (done < 0 && errno == EINTR);
        return done != (ssize_t)length;
    }
    """
    bint write_line_failed "ia_write_line"(
        int fd, u64 log, u64 number, int64_t when, int64_t by, bint removed, const char *key, size_t size, bint text
    ) noexcept nogil

cdef enum:
    MAX_KEY = 4096     # bytes of a string


cdef inline void log_change(
    Series *s, const Address *a, const char *key, size_t size, int64_t by, bint removed, int64_t now
) noexcept nogil:
    """Writes a line, if the series has a log. `key` is the text of a series of strings; NULL: the address is the key."""
    cdef char text[TEXT_MAX]
    cdef const char *shown = key
    if s.log_fd < 0:
        return
    if key == NULL:
        shown = text
        size = <size_t>format_address(a, text)
    s.log_sequence += 1
    s.log_failures += write_line_failed(
        s.log_fd, s.log_id, s.log_sequence, now, by, removed, shown, size, key != NULL
    )
