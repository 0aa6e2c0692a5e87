"""A text as an address: its 128-bit hash, so that series of texts count in the same trie.

The hash is SipHash-2-4. Its key is fixed, because processes and restarts have to agree on it. Two texts with the same
hash would count as one text.
"""

from inbound_audit._core.address cimport Address
from inbound_audit._core.bits cimport u8, u64

cdef extern from "inbound_audit/_core/siphash.h":
    void sip128 "ia_sip128"(const u8 *, size_t, u64 k0, u64 k1, u64 *out) noexcept nogil


cdef inline void address_of_text(const char *text, size_t size, Address *out) noexcept nogil:
    """The address of a text: its hash, as IPv6. O(size)."""
    cdef u64 hash[2]
    sip128(<const u8 *>text, size, 0x0706050403020100, 0x0f0e0d0c0b0a0908, hash)
    out.hi, out.lo, out.version = hash[0], hash[1], 6
