# What the targets of texts share: the gold reader's results, and what holds for each text that is refused.

from libc.string cimport memcmp, strcmp

cimport inbound_audit._core.address as ip
cimport inbound_audit._core.codes as codes
from inbound_audit._core.bits cimport u8

cdef extern from "driver.h":
    void expect(bint, const char *) noexcept nogil

cdef extern from "gold.h":
    ctypedef struct gold_prefix:
        unsigned char byte[16]
        int version
        int length

cdef enum:
    MAX_TEXT = 4096


cdef bint same_address(const ip.Address *a, const gold_prefix *gold) noexcept nogil:
    cdef u8 packed[16]
    cdef int i
    for i in range(8):
        packed[i] = <u8>(a.hi >> (56 - 8 * i))
        packed[8 + i] = <u8>(a.lo >> (56 - 8 * i))
    return a.version == gold.version and memcmp(packed, gold.byte, 16) == 0


cdef void check_reason(int code) noexcept nogil:
    expect(code < 0 and strcmp(codes.reason(code), "unknown error") != 0, "what is refused has a reason")


cdef public void set_up() noexcept nogil:
    pass
