"""The PROXY header that a back end gets before the client's first byte. Source: HAProxy's proxy-protocol.txt.

    version 1   "PROXY TCP4 192.0.2.7 198.51.100.1 40000 25\\r\\n", "PROXY UNKNOWN\\r\\n"
    version 2   signature (12 bytes) | 0x21 | family | length (2 bytes) | addresses | ports

The source is the client that is counted, the destination the address to which it has connected. If only one of them is
IPv6, the other is written as an IPv4-mapped address. A client without an address gets UNKNOWN, or LOCAL in version 2.

Lock rule: none.
"""

from libc.string cimport memcpy

from inbound_audit._core.address cimport Address, map_ipv4
from inbound_audit._core.address_text cimport format_address, put_number
from inbound_audit._core.bits cimport u8, u16, u64

cdef enum:
    MAX_HEADER_BYTES = 128      # version 1 has 107 at most, version 2 has 52

cdef struct Ends:
    Address source
    Address destination
    u16 source_port
    u16 destination_port
    bint known


cdef inline void same_family(Ends *e) noexcept nogil:
    if e.source.version != e.destination.version:
        map_ipv4(&e.source if e.source.version == 4 else &e.destination)


cdef inline u8 *put_bytes(u8 *out, u64 left_aligned, int n) noexcept nogil:
    """The first bytes of a number, in network order. Returns what follows them."""
    cdef int i
    for i in range(n):
        out[i] = <u8>(left_aligned >> (56 - 8 * i))
    return out + n


cdef inline u8 *put_address(u8 *out, const Address *a) noexcept nogil:
    if a.version == 4:
        return put_bytes(out, a.hi, 4)
    return put_bytes(put_bytes(out, a.hi, 8), a.lo, 8)


cdef inline int write_v2(const Ends *e, char *out) noexcept nogil:
    cdef u8 *at = <u8 *>out + 16
    memcpy(out, b"\r\n\r\n\x00\r\nQUIT\n", 12)
    out[12] = 0x21 if e.known else 0x20
    out[13] = 0 if not e.known else 0x11 if e.source.version == 4 else 0x21
    if e.known:
        at = put_address(put_address(at, &e.source), &e.destination)
        at = put_bytes(put_bytes(at, <u64>e.source_port << 48, 2), <u64>e.destination_port << 48, 2)
    put_bytes(<u8 *>out + 14, <u64>(at - <u8 *>out - 16) << 48, 2)
    return <int>(at - <u8 *>out)


cdef inline int write_v1(const Ends *e, char *out) noexcept nogil:
    cdef int n = 11
    if not e.known:
        memcpy(out, b"PROXY UNKNOWN\r\n", 15)
        return 15
    memcpy(out, b"PROXY TCP4 " if e.source.version == 4 else b"PROXY TCP6 ", 11)
    n += format_address(&e.source, out + n)
    out[n] = b' '
    n += 1 + format_address(&e.destination, out + n + 1)
    out[n] = b' '
    n += 1 + put_number(out + n + 1, e.source_port)
    out[n] = b' '
    n += 1 + put_number(out + n + 1, e.destination_port)
    out[n], out[n + 1] = b'\r', b'\n'
    return n + 2


cdef inline int write_header(Ends *e, bint binary, char *out) noexcept nogil:
    """Writes at most MAX_HEADER_BYTES. Returns how many."""
    if e.known:
        same_family(e)
    return write_v2(e, out) if binary else write_v1(e, out)
