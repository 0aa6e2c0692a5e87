"""The grammar of the `cidr` argument: which prefix does a text mean, for this connecting IP?

    length    := "/" digits                      the connecting IP's prefix; "/32" is exactly the connecting IP
    pair      := "/" digits ",/" digits          the first for an IPv4 peer, the second for an IPv6 peer
    absolute  := address [ "/" digits ]          host bits are ignored
               | ipv4 "/" ipv4-mask
               | "[" ipv6 "]" [ "/" digits ]  |  "[" ipv6 "/" digits "]"
               | "localhost" [ "/" digits ]      127.0.0.1, or ::1 when the length is over 32

Nothing is ever resolved. A text means the same in Python and in Lua because both end here.
"""

from libc.string cimport memchr, memcmp

from inbound_audit._core.address cimport Address, from_ipv4, is_mapped, mask, unmap, width
from inbound_audit._core.address_text cimport explain, parse_ipv4, parse_number, parse_raw, scan_ipv4
from inbound_audit._core.bits cimport u32, u64
from inbound_audit._core.codes cimport (
    BAD_BRACKET, BAD_CHAR, BAD_EMPTY, BAD_LENGTH, BAD_MASK, BAD_SIGN, BAD_SLASH, NO_PEER, OK,
)

cdef struct Prefix:
    Address address  # the bits after `length` are zero
    int length


cdef inline int length_fault(const char *s, const char *end) noexcept nogil:
    """Why the text after a slash is not a length."""
    if s < end and (s[0] == b'-' or s[0] == b'+'):
        return BAD_SIGN
    return BAD_SLASH if s < end and memchr(s, b'/', <size_t>(end - s)) != NULL else BAD_LENGTH


cdef inline int parse_length(const char *s, const char *end, int most) noexcept nogil:
    """The length after a slash; or a code."""
    cdef int length = parse_number(s, end, most)
    return length if length >= 0 else length_fault(s, end)


cdef inline int mask_length(u32 bits) noexcept nogil:
    """The length of a netmask; BAD_MASK if it has a hole or is inverted."""
    cdef int length = 0
    while length < 32 and bits >> 31:
        bits <<= 1
        length += 1
    return length if bits == 0 else BAD_MASK


cdef inline int pair_length(const char *s, const char *end, int version) noexcept nogil:
    """The length of a `pair` in that family; `s` points after the first slash. Both lengths are checked."""
    cdef const char *comma = <const char *>memchr(s, b',', <size_t>(end - s)) if s < end else NULL
    cdef int first, second
    if comma == NULL:
        return length_fault(s, end)
    first = parse_length(s, comma, 32)
    if first < 0:
        return first
    if comma + 1 == end or comma[1] != b'/':
        return BAD_CHAR
    second = parse_length(comma + 2, end, 128)
    return first if version == 4 and second >= 0 else second


cdef inline int relative_length(const char *s, const char *end, int version) noexcept nogil:
    """The length of a `length` or `pair` in that family; `s` points after the first slash."""
    cdef int length = parse_number(s, end, 128)
    if length < 0:
        return pair_length(s, end, version)
    if length == 32:
        return width(version)
    return length if length <= width(version) else BAD_LENGTH


cdef inline int parse_localhost(const char *s, const char *end, Prefix *out) noexcept nogil:
    """``localhost`` with an optional length; `s` points after the name."""
    cdef int length = 32
    if s < end:
        if s[0] != b'/':
            return BAD_CHAR
        length = parse_length(s + 1, end, 128)
        if length < 0:
            return length
    out.length = length
    out.address.version = 4 if length <= 32 else 6
    out.address.hi = (<u64>0x7F000001) << 32 if length <= 32 else 0
    out.address.lo = 0 if length <= 32 else 1
    mask(&out.address, length)
    return OK


cdef inline int tail_length(const char *tail, const char *end, int version) noexcept nogil:
    """The length of [tail, end): digits, or an IPv4 mask."""
    cdef int length = parse_number(tail, end, width(version)), code
    cdef u32 bits = 0
    if length >= 0 or version == 6 or tail == end or memchr(tail, b'.', <size_t>(end - tail)) == NULL:
        return length if length >= 0 else length_fault(tail, end)
    if memchr(tail, b'/', <size_t>(end - tail)) != NULL:
        return BAD_SLASH
    code = parse_ipv4(tail, end, &bits)
    return mask_length(bits) if code == OK else code


cdef inline int finish(Prefix *out, const char *tail, const char *end) noexcept nogil:
    """Reads the length in [tail, end), or takes the whole address if `tail` is NULL; unmaps; clears host bits."""
    cdef Address *a = &out.address
    out.length = width(a.version) if tail == NULL else tail_length(tail, end, a.version)
    if out.length < 0:
        return out.length
    if is_mapped(a) and out.length >= 96:
        unmap(a)
        out.length -= 96
    mask(a, out.length)
    return OK


cdef inline int parse_bracketed(const char *s, const char *end, Prefix *out) noexcept nogil:
    """``[ipv6]``, ``[ipv6]/length`` or ``[ipv6/length]``; `s` points after the first bracket."""
    cdef const char *stop = <const char *>memchr(s, b']', <size_t>(end - s))
    cdef const char *slash
    cdef int code
    if stop == NULL:
        return BAD_BRACKET
    slash = <const char *>memchr(s, b'/', <size_t>(stop - s)) if s < stop else NULL
    code = parse_raw(s, stop if slash == NULL else slash, &out.address)
    if code < 0:
        return code
    if out.address.version == 4 or (stop + 1 < end and stop[1] != b'/'):
        return BAD_BRACKET
    if stop + 1 < end:
        return BAD_SLASH if slash != NULL else finish(out, stop + 2, end)
    if slash != NULL:
        slash += 1
    return finish(out, slash, stop)


cdef inline int parse_absolute(const char *s, const char *end, Prefix *out) noexcept nogil:
    cdef const char *tail = s
    cdef u32 value = 0
    cdef int code
    if scan_ipv4(&tail, end, &value) == OK and (tail == end or tail[0] == b'/'):
        from_ipv4(value, &out.address)
    elif s[0] == b'[':
        return parse_bracketed(s + 1, end, out)
    elif end - s >= 9 and memcmp(s, b"localhost", 9) == 0:
        return parse_localhost(s + 9, end, out)
    else:
        tail = <const char *>memchr(s, b'/', <size_t>(end - s))
        if tail == NULL:
            tail = end
        code = parse_raw(s, tail, &out.address)
        if code < 0:
            return code
    if tail == end:
        return finish(out, NULL, end)
    return finish(out, tail + 1, end)


cdef inline int parse_cidr(const char *s, const char *end, const Address *peer, Prefix *out) noexcept nogil:
    """The prefix that a text means for a connecting IP (`peer`, may be NULL). Returns OK or a code."""
    cdef int code
    if s == end:
        return BAD_EMPTY
    if s[0] != b'/':
        code = parse_absolute(s, end, out)
    elif peer == NULL:
        code = relative_length(s + 1, end, 6)
        code = NO_PEER if code >= 0 else code
    else:
        code = relative_length(s + 1, end, peer.version)
        if code >= 0:
            out.address = peer[0]
            out.length = code
            mask(&out.address, code)
            return OK
    return OK if code == OK else explain(s, end, code)
