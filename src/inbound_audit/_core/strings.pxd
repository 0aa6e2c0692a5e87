"""A text as an address: its 128-bit hash, so that series of texts count in the same trie.

SipHash-2-4 with 128 bits of output (Aumasson and Bernstein, 2012). The key is fixed, for processes and restarts have to
agree on it: two texts that somebody finds to be the same would count as one, which harms nobody but himself.
"""

from inbound_audit._core.address cimport Address
from inbound_audit._core.bits cimport u8, u64

cdef extern from *:
    """
    #include <stddef.h>
    #include <stdint.h>
    #include <string.h>

    #define IA_ROTATE(x, b) (((x) << (b)) | ((x) >> (64 - (b))))

    static inline void ia_sip_rounds(uint64_t v[4], int rounds)
    {
        while (rounds--) {
            v[0] += v[1], v[2] += v[3];
            v[1] = IA_ROTATE(v[1], 13) ^ v[0], v[3] = IA_ROTATE(v[3], 16) ^ v[2];
            v[0] = IA_ROTATE(v[0], 32);
            v[2] += v[1], v[0] += v[3];
            v[1] = IA_ROTATE(v[1], 17) ^ v[2], v[3] = IA_ROTATE(v[3], 21) ^ v[0];
            v[2] = IA_ROTATE(v[2], 32);
        }
    }
    static inline uint64_t ia_little_endian(const uint8_t *p, size_t n)
    {
        uint64_t word = 0;
        size_t i;
        for (i = 0; i < n; i++)
            word |= (uint64_t)p[i] << (8 * i);
        return word;
    }
    static inline void ia_sip128(const uint8_t *text, size_t size, uint64_t k0, uint64_t k1, uint64_t out[2])
    {
        uint64_t v[4] = {k0 ^ 0x736f6d6570736575, k1 ^ 0x646f72616e646f6d ^ 0xee, k0 ^ 0x6c7967656e657261, k1 ^ 0x7465646279746573};
        uint64_t word;
        size_t left = size;
        for (; left >= 8; left -= 8, text += 8) {
            word = ia_little_endian(text, 8);
            v[3] ^= word;
            ia_sip_rounds(v, 2);
            v[0] ^= word;
        }
        word = ia_little_endian(text, left) | ((uint64_t)size << 56);
        v[3] ^= word;
        ia_sip_rounds(v, 2);
        v[0] ^= word;
        v[2] ^= 0xee;
        ia_sip_rounds(v, 4);
        out[0] = v[0] ^ v[1] ^ v[2] ^ v[3];
        v[1] ^= 0xdd;
        ia_sip_rounds(v, 4);
        out[1] = v[0] ^ v[1] ^ v[2] ^ v[3];
    }
    """
    void sip128 "ia_sip128"(const u8 *, size_t, u64 k0, u64 k1, u64 *out) noexcept nogil


cdef inline void address_of_text(const char *text, size_t size, Address *out) noexcept nogil:
    """The address that stands for a text. O(size)."""
    cdef u64 hash[2]
    sip128(<const u8 *>text, size, 0x0706050403020100, 0x0f0e0d0c0b0a0908, hash)
    out.hi, out.lo, out.version = hash[0], hash[1], 6
