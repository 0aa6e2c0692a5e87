"""Addresses from text and to text.

An IPv4 address is four decimal octets without leading zeros, an IPv6 address is as in RFC 4291, also in brackets,
with or without a zone id, which is dropped. The text of an address is that of RFC 5952. Nothing is ever resolved.
"""

from libc.stdint cimport int64_t
from libc.string cimport memchr

from inbound_audit._core.address cimport Address, from_ipv4, unmap
from inbound_audit._core.bits cimport u8, u16, u32, u64
from inbound_audit._core.codes cimport (
    BAD_ASCII, BAD_BLANK, BAD_BRACKET, BAD_CHAR, BAD_EMPTY, BAD_GROUP, BAD_NAME, BAD_OCTET, BAD_PARTS, BAD_PORT,
    BAD_ZERO, BAD_ZONE, OK,
)

cdef enum:
    TEXT_MAX = 64  # room for any address text, its port or length, and a NUL

cdef inline int digit(char c) noexcept nogil:
    cdef int v = <u8>c - 48
    return v if 0 <= v <= 9 else -1


cdef inline int hex_digit(char c) noexcept nogil:
    cdef int v = <u8>c - 48
    if 0 <= v <= 9:
        return v
    v = (<u8>c | 32) - 97
    return v + 10 if 0 <= v <= 5 else -1


cdef inline int parse_number(const char *s, const char *end, int maximum) noexcept nogil:
    """The number of a text of decimal digits alone; -1 if it is empty, has another character, or is over `maximum`."""
    cdef int64_t value = 0  # has room for ten times `maximum` and a digit
    cdef int d
    if s == end:
        return -1
    while s < end:
        d = digit(s[0])
        if d < 0:
            return -1
        value = value * 10 + d
        if value > maximum:
            return -1
        s += 1
    return <int>value


cdef inline int scan_ipv4(const char **at, const char *end, u32 *out) noexcept nogil:
    """Four decimal octets, no leading zeros (RFC 6943 section 3.1.1: a leading zero is octal to some).

    `at` moves past them, whatever follows: most texts are an IPv4 address and little more, and are read once.
    """
    cdef const char *s = at[0]
    cdef u32 value = 0, octet
    cdef int part, d
    for part in range(4):
        if part:
            if s == end or s[0] != b'.':
                return BAD_PARTS if s == end else BAD_CHAR
            s += 1
        d = digit(s[0]) if s < end else -1
        if d < 0:
            return BAD_PARTS if s == end or s[0] == b'.' else BAD_CHAR
        octet = <u32>d
        s += 1
        while s < end and digit(s[0]) >= 0:
            if octet == 0:
                return BAD_ZERO
            octet = octet * 10 + <u32>digit(s[0])
            if octet > 255:
                return BAD_OCTET
            s += 1
        value = (value << 8) | octet
    at[0] = s
    out[0] = value
    return OK


cdef inline int parse_ipv4(const char *s, const char *end, u32 *out) noexcept nogil:
    """Four octets and nothing else."""
    cdef int code = scan_ipv4(&s, end, out)
    if code == OK and s != end:
        return BAD_PARTS if s[0] == b'.' else BAD_CHAR
    return code


cdef inline int place_groups(const u16 *group, int count, int gap, Address *out) noexcept nogil:
    """Makes an address of eight groups; `::` at index `gap` stands for missing groups (`gap` < 0: there is no `::`)."""
    cdef int i, at
    if (gap < 0 and count != 8) or (gap >= 0 and count > 7):
        return BAD_PARTS
    out.hi = 0
    out.lo = 0
    out.version = 6
    for i in range(count):
        at = i if gap < 0 or i < gap else i + 8 - count
        if at < 4:
            out.hi |= (<u64>group[i]) << (48 - 16 * at)
        else:
            out.lo |= (<u64>group[i]) << (112 - 16 * at)
    return OK


cdef inline int read_group(const char **at, const char *end, u32 *value) noexcept nogil:
    """Reads up to four hex digits; `at` moves past them. Returns the number of digits, or BAD_GROUP."""
    cdef const char *s = at[0]
    cdef int digits = 0
    value[0] = 0
    while s < end and hex_digit(s[0]) >= 0:
        value[0] = (value[0] << 4) | <u32>hex_digit(s[0])
        digits += 1
        s += 1
        if digits > 4:
            return BAD_GROUP
    at[0] = s
    return digits


cdef inline int parse_ipv6(const char *s, const char *end, Address *out) noexcept nogil:
    """RFC 4291 section 2.2: groups of hex digits, one `::`, a dotted IPv4 tail. Mapped addresses stay IPv6 here."""
    cdef u16 group[9]
    cdef int count = 0, gap = -1, got
    cdef u32 value = 0
    cdef const char *start
    if s[0] == b':':  # a leading colon must be part of "::"
        gap = 0
        s += 2
        if s > end or (s - 1)[0] != b':':
            return BAD_PARTS
    while s < end:
        start = s
        got = read_group(&s, end, &value)
        if s < end and s[0] == b'.' and count <= 6:
            got = parse_ipv4(start, end, &value)
            group[count] = <u16>(value >> 16)
            count += 1
            s = end
        elif got == 0:
            got = BAD_PARTS if s[0] == b':' else BAD_CHAR
        if got < 0 or count == 8:
            return got if got < 0 else BAD_PARTS
        group[count] = <u16>value
        count += 1
        if s == end:
            return place_groups(group, count, gap, out)
        if s[0] != b':':
            return BAD_CHAR
        s += 1
        if s == end:
            return BAD_PARTS
        if s[0] == b':':
            if gap >= 0:
                return BAD_PARTS
            gap = count
            s += 1
    return place_groups(group, count, gap, out)


cdef inline bint is_zone(const char *s, const char *end) noexcept nogil:
    """A zone id (RFC 4007 section 11.2): printable, without the characters of our grammar."""
    cdef const char *at = s
    while at < end:
        if <u8>at[0] <= 32 or <u8>at[0] > 126 or at[0] == b'%' or at[0] == b'[' or at[0] == b']' or at[0] == b'/':
            return False
        at += 1
    return s < end


cdef inline int parse_raw(const char *s, const char *end, Address *out) noexcept nogil:
    """An address without brackets. A zone id is dropped. The result is not yet unmapped."""
    cdef const char *zone
    cdef u32 value = 0
    cdef int code
    if s == end:
        return BAD_EMPTY
    if memchr(s, b':', <size_t>(end - s)) == NULL:
        code = parse_ipv4(s, end, &value)
        from_ipv4(value, out)
        return code
    zone = <const char *>memchr(s, b'%', <size_t>(end - s))
    if zone != NULL:
        if not is_zone(zone + 1, end):
            return BAD_ZONE
        end = zone
    return parse_ipv6(s, end, out)


cdef inline int explain(const char *s, const char *end, int code) noexcept nogil:
    """The code that describes best why a text is not an address."""
    cdef bint letters = False, colons = False
    if s == end:
        return BAD_EMPTY
    while s < end:
        if s[0] == 0 or <u8>s[0] > 126:
            return BAD_ASCII
        if <u8>s[0] <= 32:
            return BAD_BLANK
        colons = colons or s[0] == b':'
        letters = letters or (hex_digit(s[0]) < 0 and 97 <= (<u8>s[0] | 32) <= 122)
        s += 1
    return BAD_NAME if letters and not colons and (code == BAD_CHAR or code == BAD_PARTS) else code


cdef inline int parse_address(const char *s, const char *end, Address *out) noexcept nogil:
    """One address, an IPv6 one also in brackets. IPv4-mapped is IPv4."""
    cdef int code
    cdef bint bracket = end - s >= 2 and s[0] == b'['
    if bracket and (end - 1)[0] != b']':
        return explain(s, end, BAD_BRACKET)
    code = parse_raw(s + bracket, end - bracket, out)
    if code == OK and bracket and out.version == 4:
        code = BAD_BRACKET
    if code < 0:
        return explain(s, end, code)
    unmap(out)
    return OK


cdef inline const char *port_of(const char *s, const char *end) noexcept nogil:
    """The colon before a port, as in ``192.0.2.7:25`` and ``[2001:db8::7]:25``, or NULL."""
    cdef const char *colon = <const char *>memchr(s, b':', <size_t>(end - s)) if s < end else NULL
    cdef const char *bracket
    if colon == NULL or s[0] != b'[':
        return colon if colon != NULL and memchr(colon + 1, b':', <size_t>(end - colon - 1)) == NULL else NULL
    bracket = <const char *>memchr(s, b']', <size_t>(end - s))
    return bracket + 1 if bracket != NULL and bracket + 1 < end and bracket[1] == b':' else NULL


cdef inline int parse_remote(const char *s, const char *end, Address *out, int *port) noexcept nogil:
    """`parse_address`, or an address and a port: ``192.0.2.7:25``, ``[2001:db8::7]:25``. No port is port 0."""
    cdef const char *tail = s
    cdef u32 value = 0
    port[0] = 0
    if scan_ipv4(&tail, end, &value) == OK and tail == end:
        from_ipv4(value, out)
        return OK
    tail = port_of(s, end)
    if tail == NULL:
        return parse_address(s, end, out)
    port[0] = parse_number(tail + 1, end, 65535)
    return parse_address(s, tail, out) if port[0] >= 0 else explain(s, end, BAD_PORT)


cdef inline int put_number(char *out, unsigned int value) noexcept nogil:
    """Writes the decimal digits of `value`, at most ten. Returns their number."""
    cdef char digits[10]
    cdef int n = 0, i
    while True:
        digits[n] = <char>(48 + value % 10)
        value //= 10
        n += 1
        if value == 0 or n == 10:
            break
    for i in range(n):
        out[i] = digits[n - 1 - i]
    return n


cdef inline int put_group(char *out, u16 value) noexcept nogil:
    """Writes hex digits without leading zeros. Returns their number."""
    cdef int n = 0, i, d
    for i in range(4):
        d = (value >> (12 - 4 * i)) & 15
        if d or n or i == 3:
            out[n] = <char>(48 + d if d < 10 else 87 + d)
            n += 1
    return n


cdef inline void longest_gap(const u16 *group, int *start, int *size) noexcept nogil:
    """The first longest run of two or more zero groups (RFC 5952 section 4.2), or size 0."""
    cdef int i, run = 0
    start[0] = -1
    size[0] = 0
    for i in range(8):
        run = run + 1 if group[i] == 0 else 0
        if run >= 2 and run > size[0]:
            size[0] = run
            start[0] = i - run + 1


cdef inline int format_ipv6(const Address *a, char *out) noexcept nogil:
    cdef u16 group[8]
    cdef int i, n = 0, start, size
    for i in range(4):
        group[i] = <u16>(a.hi >> (48 - 16 * i))
        group[i + 4] = <u16>(a.lo >> (48 - 16 * i))
    longest_gap(group, &start, &size)
    i = 0
    while i < 8:
        if i == start:
            out[n] = b':'
            n += 1
            i += size
            if i == 8:
                out[n] = b':'
                n += 1
            continue
        if i:
            out[n] = b':'
            n += 1
        n += put_group(out + n, group[i])
        i += 1
    return n


cdef inline int format_address(const Address *a, char *out) noexcept nogil:
    """Writes the text (RFC 5952) into `out` (TEXT_MAX bytes). Returns its length; there is no NUL."""
    cdef int n = 0, i
    if a.version == 6:
        return format_ipv6(a, out)
    for i in range(4):
        if i:
            out[n] = b'.'
            n += 1
        n += put_number(out + n, <unsigned int>((a.hi >> (56 - 8 * i)) & 255))
    return n


cdef inline int format_remote(const Address *a, int port, char *out) noexcept nogil:
    """Writes the reference's form: ``1.2.3.4:port`` for IPv4, ``address.port`` for IPv6."""
    cdef int n = format_address(a, out)
    out[n] = b':' if a.version == 4 else b'.'
    return n + 1 + put_number(out + n + 1, <unsigned int>port)


cdef inline int format_prefix(const Address *a, int length, char *out) noexcept nogil:
    cdef int n = format_address(a, out)
    out[n] = b'/'
    return n + 1 + put_number(out + n + 1, <unsigned int>length)
