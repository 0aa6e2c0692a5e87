/* SipHash-2-4 with 128 bits of output (Aumasson and Bernstein, 2012). */
#ifndef INBOUND_AUDIT_SIPHASH_H
#define INBOUND_AUDIT_SIPHASH_H

#include <stddef.h>
#include <stdint.h>

#define IA_ROTATE_LEFT(x, b) (((x) << (b)) | ((x) >> (64 - (b))))

static inline void ia_sip_rounds(uint64_t v[4], int rounds)
{
    while (rounds--) {
        v[0] += v[1], v[2] += v[3];
        v[1] = IA_ROTATE_LEFT(v[1], 13) ^ v[0], v[3] = IA_ROTATE_LEFT(v[3], 16) ^ v[2];
        v[0] = IA_ROTATE_LEFT(v[0], 32);
        v[2] += v[1], v[0] += v[3];
        v[1] = IA_ROTATE_LEFT(v[1], 17) ^ v[2], v[3] = IA_ROTATE_LEFT(v[3], 21) ^ v[0];
        v[2] = IA_ROTATE_LEFT(v[2], 32);
    }
}

static inline uint64_t ia_little_endian(const uint8_t *bytes, size_t size)
{
    uint64_t word = 0;
    size_t i;
    for (i = 0; i < size; i++)
        word |= (uint64_t)bytes[i] << (8 * i);
    return word;
}

/* The hash of a text under the key (k0, k1): two words, in the order in which the reference implementation writes them. */
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

#endif
