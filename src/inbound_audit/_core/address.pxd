"""An address as bits.

An address is 128 bits, left-aligned: byte 0 of its packed form is the high byte of `hi`. An IPv4 address fills the high
half of `hi` and leaves the rest zero, so both families are walked by the same code, four or sixteen bytes deep.

IPv4-mapped IPv6 (``::ffff:0:0/96``, RFC 4291 section 2.5.5.2) is IPv4 everywhere: each function that reads an address
calls `unmap`.
"""


from inbound_audit._core.bits cimport u8, u32, u64, clz64, high_bits

cdef struct Address:
    u64 hi
    u64 lo
    int version  # 4 or 6


cdef inline int width(int version) noexcept nogil:
    """Bits of an address of that family."""
    return 32 if version == 4 else 128


cdef inline void mask(Address *a, int length) noexcept nogil:
    """Clears the bits after the first `length` bits."""
    a.hi &= high_bits(length)
    a.lo &= high_bits(length - 64)


cdef inline bint is_mapped(const Address *a) noexcept nogil:
    return a.version == 6 and a.hi == 0 and (a.lo >> 32) == 0xFFFF


cdef inline void unmap(Address *a) noexcept nogil:
    if is_mapped(a):
        a.hi = a.lo << 32
        a.lo = 0
        a.version = 4


cdef inline void map_ipv4(Address *a) noexcept nogil:
    """Makes an IPv4 address an IPv4-mapped IPv6 address."""
    a.lo = (<u64>0xFFFF << 32) | (a.hi >> 32)
    a.hi = 0
    a.version = 6


cdef inline bint next_address(Address *a) noexcept nogil:
    """Increments the address. Returns False after the last one of its family."""
    if a.version == 4:
        a.hi += <u64>1 << 32
        return a.hi != 0
    a.lo += 1
    a.hi += a.lo == 0
    return a.hi != 0 or a.lo != 0


cdef inline void from_packed(const u8 *p, int size, Address *out) noexcept nogil:
    """4 or 16 bytes in network order."""
    cdef int i
    out.hi = 0
    out.lo = 0
    out.version = 4 if size == 4 else 6
    for i in range(4 if size == 4 else 8):
        out.hi |= (<u64>p[i]) << (56 - 8 * i)
    if size == 16:
        for i in range(8):
            out.lo |= (<u64>p[8 + i]) << (56 - 8 * i)
    unmap(out)


cdef inline void from_ipv4(u32 value, Address *out) noexcept nogil:
    out.hi = <u64>value << 32
    out.lo = 0
    out.version = 4

cdef inline int compare(u64 hi1, u64 lo1, u64 hi2, u64 lo2, int bits) noexcept nogil:
    """Compares the first `bits` bits of two addresses: -1, 0 or 1."""
    cdef u64 x = hi1 & high_bits(bits), y = hi2 & high_bits(bits)
    if x == y:
        x = lo1 & high_bits(bits - 64)
        y = lo2 & high_bits(bits - 64)
    return (x > y) - (x < y)


cdef inline int first_difference(u64 hi1, u64 lo1, u64 hi2, u64 lo2) noexcept nogil:
    """The first bit in which two different addresses differ, 0 to 127."""
    return clz64(hi1 ^ hi2) if hi1 != hi2 else 64 + clz64(lo1 ^ lo2)
