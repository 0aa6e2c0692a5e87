"""Atomic words, fences, bit counting, and a match of sixteen bytes at once.

Readers run beside a writer without a lock, so every access to what both touch is atomic (C11): a reader's load, and a
writer's store. It is never torn, and the compiler never repeats it. A writer's own loads may be plain, because the lock
excludes other writers. There are three kinds:

    relaxed     `load*`, `store*`       a value that stands for itself: a count, a key, a number
    acquire     `acquire*`              a word that leads to bytes, or says that they are complete
    release     `publish*`              the store of such a word, after the bytes

On x86-64 all of them are plain moves. The room `seqlock` has the fences. `make tsan` searches for accesses that break
this rule. ThreadSanitizer does not know fences, and no access relies on one to be free of races.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

ctypedef uint8_t u8
ctypedef uint16_t u16
ctypedef uint32_t u32
ctypedef uint64_t u64

cdef extern from "inbound_audit/_core/bits.h":
    u8 load8 "ia_load"(u8 *) noexcept nogil
    u32 load32 "ia_load"(u32 *) noexcept nogil
    u64 load64 "ia_load"(u64 *) noexcept nogil
    u32 acquire32 "ia_acquire"(u32 *) noexcept nogil
    u64 acquire64 "ia_acquire"(u64 *) noexcept nogil
    void store8 "ia_store"(u8 *, u8) noexcept nogil
    void store16 "ia_store"(u16 *, u16) noexcept nogil
    void store32 "ia_store"(u32 *, u32) noexcept nogil
    void store64 "ia_store"(u64 *, u64) noexcept nogil
    void publish32 "ia_publish"(u32 *, u32) noexcept nogil
    void publish64 "ia_publish"(u64 *, u64) noexcept nogil
    u32 exchange32 "ia_exchange"(u32 *, u32) noexcept nogil
    u64 fetch_add64 "ia_fetch_add"(u64 *, u64) noexcept nogil
    void fence_acquire "ia_fence_acquire"() noexcept nogil
    void fence_release "ia_fence_release"() noexcept nogil
    void fence_full "ia_fence_full"() noexcept nogil
    void pause "ia_pause"() noexcept nogil
    void clear "ia_clear"(u64 *, size_t words) noexcept nogil
    u32 match16 "ia_match16"(const u8 *, u8, u8) noexcept nogil
    int ctz64 "__builtin_ctzll"(u64) noexcept nogil
    int clz64 "__builtin_clzll"(u64) noexcept nogil
    void prefetch "__builtin_prefetch"(const void *) noexcept nogil
    int popcount64 "__builtin_popcountll"(u64) noexcept nogil


cdef inline u64 high_bits(int n) noexcept nogil:
    """A word whose `n` high bits are set. `n` below 0 is 0, over 64 is 64."""
    if n <= 0:
        return 0
    if n >= 64:
        return ~(<u64>0)
    return ~(~(<u64>0) >> n)
