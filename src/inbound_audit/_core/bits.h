/* Atomic words, fences, and the match of sixteen bytes: what the room `bits` declares. */
#ifndef INBOUND_AUDIT_BITS_H
#define INBOUND_AUDIT_BITS_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>
#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#if defined(__SANITIZE_THREAD__)
#define IA_THREAD_SANITIZER 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define IA_THREAD_SANITIZER 1
#endif
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

/* Sets words that readers may read meanwhile to 0. */
static inline void ia_clear(uint64_t *word, size_t words)
{
    size_t i;
    for (i = 0; i < words; i++)
        ia_store(&word[i], 0);
}

/* Reads sixteen bytes, aligned to eight, that a writer may change meanwhile. Bit i of the result: keys[i] equals `byte` in
   the bits of `care`. C has no atomic load of sixteen bytes: that of SSE2 is volatile, so the compiler makes it once, and
   each byte of it is whole. ThreadSanitizer does not know such a load, and is shown the other form. */
static inline uint32_t ia_match16(const uint8_t *keys, uint8_t byte, uint8_t care)
{
#if defined(__SSE2__) && !defined(IA_THREAD_SANITIZER)
    __m128i have = *(const volatile __m128i_u *)(const void *)keys;
    have = _mm_and_si128(have, _mm_set1_epi8((char)care));
    return (uint32_t)_mm_movemask_epi8(_mm_cmpeq_epi8(have, _mm_set1_epi8((char)(byte & care))));
#else
    const uint64_t *words = (const uint64_t *)(const void *)keys;
    const uint64_t have[2] = {ia_load(&words[0]), ia_load(&words[1])};
    uint8_t key[16];
    uint32_t hits = 0;
    int i;
    memcpy(key, have, sizeof key);
    for (i = 0; i < 16; i++)
        hits |= (uint32_t)(((key[i] ^ byte) & care) == 0) << i;
    return hits;
#endif
}

#endif
