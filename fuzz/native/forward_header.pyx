"""PROXY headers that a guard sends: both versions say the two ends that they were given, and nothing else.

An input is the version, the family of each end, both addresses and both ports. An IPv4 address beside an IPv6 one
is read as what it is mapped to.
"""

from libc.string cimport memcmp

cimport inbound_audit._core.address as ip
cimport inbound_audit._core.forward_header as forward_header
from inbound_audit._core.bits cimport u8, u16

include "gold.pxi"

cdef extern from "gold.h":
    int gold_address(const char *, size_t, gold_prefix *) noexcept nogil
    int gold_number(const char *, size_t, int) noexcept nogil

cdef enum:
    SIZE = 39
    MAX_V1 = 107


cdef int word(const char *s, int size, int at) noexcept nogil:
    """The end of the word that begins at `at`."""
    while at < size and s[at] != b" " and s[at] != b"\r":
        at += 1
    return at


cdef void check_v1(
    const forward_header.Ends *e, const ip.Address *ends, const char *s, int size
) noexcept nogil:
    cdef int at = 11, end, i
    cdef gold_prefix gold
    expect(size <= MAX_V1 and memcmp(s + size - 2, b"\r\n", 2) == 0, "a line of at most 107 bytes")
    expect(memcmp(s, b"PROXY TCP4 " if e.source.version == 4 else b"PROXY TCP6 ", 11) == 0, "it names the family")
    for i in range(4):
        end = word(s, size, at)
        if i < 2:
            expect(gold_address(s + at, <size_t>(end - at), &gold) != 0, "an address")
            expect(same_address(&ends[i], &gold), "the address of that end")
        else:
            expect(gold_number(s + at, <size_t>(end - at), 65535) == (
                e.destination_port if i == 3 else e.source_port), "the port of that end")
        at = end + 1
    expect(at == size - 1, "nothing follows")


cdef void check_v2(
    const forward_header.Ends *e, const ip.Address *ends, const u8 *s, int size
) noexcept nogil:
    cdef ip.Address a
    cdef int i
    cdef int width = 4 if e.source.version == 4 else 16
    cdef const u8 *ports = s + 16 + 2 * width
    expect(size == 20 + 2 * width and s[14] == 0 and s[15] == size - 16, "its own length")
    expect(memcmp(s, b"\r\n\r\n\x00\r\nQUIT\n\x21", 13) == 0 and s[13] == (0x11 if width == 4 else 0x21), "its kind")
    expect(ports[0] << 8 | ports[1] == e.source_port and ports[2] << 8 | ports[3] == e.destination_port, "the ports")
    for i in range(2):
        ip.from_packed(s + 16 + i * width, width, &a)
        expect(a.version == ends[i].version and a.hi == ends[i].hi and a.lo == ends[i].lo, "the address of that end")


cdef public void run(const u8 *data, size_t size) noexcept nogil:
    cdef char out[forward_header.MAX_HEADER_BYTES]
    cdef forward_header.Ends e
    cdef ip.Address ends[2]
    cdef int n
    if size < SIZE:
        return
    ip.from_packed(data + 3, 4 if data[1] & 1 else 16, &ends[0])
    ip.from_packed(data + 19, 4 if data[2] & 1 else 16, &ends[1])
    e.source, e.destination, e.known = ends[0], ends[1], data[0] & 2 == 0
    e.source_port = <u16>(data[35] << 8 | data[36])
    e.destination_port = <u16>(data[37] << 8 | data[38])
    n = forward_header.write_header(&e, data[0] & 1, out)
    expect(0 < n <= forward_header.MAX_HEADER_BYTES, "at most its bound")
    if not e.known:
        expect(n == (16 if data[0] & 1 else 15), "no end is said")
        return
    expect(e.source.version == e.destination.version, "both ends are of one family")
    if data[0] & 1:
        check_v2(&e, ends, <u8 *>out, n)
    else:
        check_v1(&e, ends, out, n)
