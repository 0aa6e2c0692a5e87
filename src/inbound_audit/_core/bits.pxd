"""The machine: words that are read and written whole, bit counting, and a match of sixteen bytes at once.

Readers run beside a writer without a lock, so every word that both touch goes through `load*` and `store*`: one
access each, never torn, never repeated by the compiler. On x86-64 and arm64 they are plain moves.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

ctypedef uint8_t u8
ctypedef uint16_t u16
ctypedef uint32_t u32
ctypedef uint64_t u64

cdef extern from *:
    """
    #include <stdint.h>
    #if defined(__SSE2__)
    #include <emmintrin.h>
    #endif

    #define ia_load32(p) __atomic_load_n((p), __ATOMIC_RELAXED)
    #define ia_load64(p) __atomic_load_n((p), __ATOMIC_RELAXED)
    #define ia_acquire32(p) __atomic_load_n((p), __ATOMIC_ACQUIRE)
    #define ia_acquire64(p) __atomic_load_n((p), __ATOMIC_ACQUIRE)
    #define ia_store32(p, v) __atomic_store_n((p), (v), __ATOMIC_RELAXED)
    #define ia_store64(p, v) __atomic_store_n((p), (v), __ATOMIC_RELAXED)
    #define ia_publish32(p, v) __atomic_store_n((p), (v), __ATOMIC_RELEASE)
    #define ia_publish64(p, v) __atomic_store_n((p), (v), __ATOMIC_RELEASE)
    #define ia_fence_acquire() __atomic_thread_fence(__ATOMIC_ACQUIRE)
    #define ia_fence_release() __atomic_thread_fence(__ATOMIC_RELEASE)
    #define ia_fence_full() __atomic_thread_fence(__ATOMIC_SEQ_CST)
    #define ia_exchange32(p, v) __atomic_exchange_n((p), (v), __ATOMIC_ACQUIRE)
    #define ia_fetch_add64(p, v) __atomic_fetch_add((p), (v), __ATOMIC_RELAXED)

    #if defined(__x86_64__) || defined(__i386__)
    #define ia_pause() __builtin_ia32_pause()
    #elif defined(__aarch64__)
    #define ia_pause() __asm__ __volatile__("yield")
    #else
    #define ia_pause() ((void)0)
    #endif

    /* Bit i of the answer: keys[i] equals `want` in the bits of `care`. Reads sixteen bytes. */
    static inline uint32_t ia_match16(const uint8_t *keys, uint8_t want, uint8_t care)
    {
    #if defined(__SSE2__)
        __m128i have = _mm_loadu_si128((const __m128i *)keys);
        have = _mm_and_si128(have, _mm_set1_epi8((char)care));
        return (uint32_t)_mm_movemask_epi8(_mm_cmpeq_epi8(have, _mm_set1_epi8((char)(want & care))));
    #else
        uint32_t hits = 0;
        for (int i = 0; i < 16; i++)
            hits |= (uint32_t)(((keys[i] ^ want) & care) == 0) << i;
        return hits;
    #endif
    }
    """
    u32 load32 "ia_load32"(u32 *) noexcept nogil
    u64 load64 "ia_load64"(u64 *) noexcept nogil
    u32 acquire32 "ia_acquire32"(u32 *) noexcept nogil
    u64 acquire64 "ia_acquire64"(u64 *) noexcept nogil
    void store32 "ia_store32"(u32 *, u32) noexcept nogil
    void store64 "ia_store64"(u64 *, u64) noexcept nogil
    void publish32 "ia_publish32"(u32 *, u32) noexcept nogil
    void publish64 "ia_publish64"(u64 *, u64) noexcept nogil
    u32 exchange32 "ia_exchange32"(u32 *, u32) noexcept nogil
    u64 fetch_add64 "ia_fetch_add64"(u64 *, u64) noexcept nogil
    void fence_acquire "ia_fence_acquire"() noexcept nogil
    void fence_release "ia_fence_release"() noexcept nogil
    void fence_full "ia_fence_full"() noexcept nogil
    void pause "ia_pause"() noexcept nogil
    u32 match16 "ia_match16"(const u8 *, u8, u8) noexcept nogil
    int ctz64 "__builtin_ctzll"(u64) noexcept nogil
    int clz64 "__builtin_clzll"(u64) noexcept nogil
    int popcount64 "__builtin_popcountll"(u64) noexcept nogil


cdef inline u64 high_bits(int n) noexcept nogil:
    """A word whose `n` high bits are set; any `n`, also below 0 and over 64."""
    if n <= 0:
        return 0
    if n >= 64:
        return ~(<u64>0)
    return ~(~(<u64>0) >> n)
