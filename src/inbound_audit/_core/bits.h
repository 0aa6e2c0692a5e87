/* Atomic words, fences, and the match of sixteen bytes: what the room `bits` declares. */
#ifndef INBOUND_AUDIT_BITS_H
#define INBOUND_AUDIT_BITS_H

#include <stdint.h>
#if defined(__SSE2__)
#include <emmintrin.h>
#endif

/* Macros, because Cython calls them with pointers to several types. */
#define ia_load(p) __atomic_load_n((p), __ATOMIC_RELAXED)
#define ia_acquire(p) __atomic_load_n((p), __ATOMIC_ACQUIRE)
#define ia_store(p, v) __atomic_store_n((p), (v), __ATOMIC_RELAXED)
#define ia_publish(p, v) __atomic_store_n((p), (v), __ATOMIC_RELEASE)
#define ia_exchange(p, v) __atomic_exchange_n((p), (v), __ATOMIC_ACQUIRE)
#define ia_fetch_add(p, v) __atomic_fetch_add((p), (v), __ATOMIC_RELAXED)

static inline void ia_fence_acquire(void) { __atomic_thread_fence(__ATOMIC_ACQUIRE); }
static inline void ia_fence_release(void) { __atomic_thread_fence(__ATOMIC_RELEASE); }
static inline void ia_fence_full(void) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }

static inline void ia_pause(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
}

/* Reads sixteen bytes. Bit i of the result: keys[i] equals `byte` in the bits of `care`. */
static inline uint32_t ia_match16(const uint8_t *keys, uint8_t byte, uint8_t care)
{
#if defined(__SSE2__)
    __m128i have = _mm_loadu_si128((const __m128i *)(const void *)keys);
    have = _mm_and_si128(have, _mm_set1_epi8((char)care));
    return (uint32_t)_mm_movemask_epi8(_mm_cmpeq_epi8(have, _mm_set1_epi8((char)(byte & care))));
#else
    uint32_t hits = 0;
    int i;
    for (i = 0; i < 16; i++)
        hits |= (uint32_t)(((keys[i] ^ byte) & care) == 0) << i;
    return hits;
#endif
}

#endif
