"""Addresses from text: the core and inet_pton accept the same texts and read the same bits, and each address that the
core writes is read by both as the same.

The first byte of an input says what the rest is: a text, a text with a port, or the bytes of an address.
"""

from libc.string cimport strlen

cimport inbound_audit._core.address as ip
cimport inbound_audit._core.address_text as ip_text
cimport inbound_audit._core.codes as codes
from inbound_audit._core.bits cimport u8

include "gold.pxi"

cdef extern from "<arpa/inet.h>" nogil:
    const char *inet_ntop(int, const void *, char *, unsigned) noexcept
    int AF_INET, AF_INET6

cdef extern from "gold.h":
    int gold_address(const char *, size_t, gold_prefix *) noexcept nogil
    int gold_number(const char *, size_t, int) noexcept nogil


cdef void check_address(const char *s, size_t size) noexcept nogil:
    cdef ip.Address a
    cdef gold_prefix gold
    cdef int code = ip_text.parse_address(s, s + size, &a)
    cdef bint right = gold_address(s, size, &gold) != 0
    expect(right == (code == codes.OK), "the core and inet_pton accept the same addresses")
    if right:
        expect(same_address(&a, &gold), "the core and inet_pton read the same address")
        check_written(&a)
    else:
        check_reason(code)


cdef void check_written(const ip.Address *a) noexcept nogil:
    cdef char text[ip_text.TEXT_MAX]
    cdef gold_prefix gold
    cdef int size = ip_text.format_address(a, text)
    expect(0 < size < ip_text.TEXT_MAX and gold_address(text, <size_t>size, &gold), "inet_pton reads what is written")
    expect(same_address(a, &gold), "inet_pton reads what is written as the same address")


cdef void check_remote(const char *s, size_t size) noexcept nogil:
    """An address and a port: as the gold reader has both parts."""
    cdef ip.Address a, alone
    cdef gold_prefix gold
    cdef int port = -1
    cdef size_t i
    cdef int code = ip_text.parse_remote(s, s + size, &a, &port)
    if code != codes.OK:
        check_reason(code)
        expect(not gold_address(s, size, &gold), "an address alone is a remote")
        return
    if gold_address(s, size, &gold):
        expect(port == 0 and same_address(&a, &gold), "an address alone has port 0")
        return
    i = size
    while i and s[i - 1] != b":":
        i -= 1
    expect(i > 0 and port == gold_number(s + i, size - i, 65535), "the port stands after the last colon")
    expect(ip_text.parse_address(s, s + i - 1, &alone) == codes.OK, "an address stands before the port")
    expect(a.hi == alone.hi and a.lo == alone.lo and a.version == alone.version, "the port changes no address")


cdef void check_bytes(const u8 *data, size_t size) noexcept nogil:
    """An address as the C library writes it is read as its bytes."""
    cdef char text[64]
    cdef ip.Address a, packed
    cdef int width = 16 if size >= 16 else 4
    if size < 4:
        return
    ip.from_packed(data, width, &packed)
    inet_ntop(AF_INET6 if width == 16 else AF_INET, data, text, 64)
    expect(ip_text.parse_address(text, text + strlen(text), &a) == codes.OK, "what inet_ntop writes is an address")
    expect(a.hi == packed.hi and a.lo == packed.lo and a.version == packed.version, "and is that address")
    check_written(&a)


cdef public void run(const u8 *data, size_t size) noexcept nogil:
    cdef const char *s = <const char *>data + 1
    if size == 0 or size > MAX_TEXT:
        return
    if data[0] % 4 == 0:
        check_remote(s, size - 1)
    elif data[0] % 4 == 1:
        check_bytes(data + 1, size - 1)
    else:
        check_address(s, size - 1)
