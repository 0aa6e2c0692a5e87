"""Address ranges: reserved memory, and files that are mapped.

A range in which readers may stand is never unmapped while they can: it is *covered* with other pages in place, at one
moment (`MAP_FIXED`). A reader without a lock then reads other bytes, and always finds memory at the address.

Lock rule: none; each function is one system call, for the owner of the range.
"""

from inbound_audit._core.bits cimport u64

cdef extern from "inbound_audit/_core/mapping.h":
    const bint SHARED_POSSIBLE "IA_SHARED"
    void *reserve "ia_reserve"(size_t) noexcept nogil
    void unmap_range "ia_unmap"(void *, size_t) noexcept nogil
    void give_back "ia_give_back"(void *, size_t) noexcept nogil
    bint cover_failed "ia_cover"(void *, size_t, bint writable) noexcept nogil
    void *map_file "ia_map_file"(void *at, size_t, int fd, u64 offset, bint writable) noexcept nogil
    bint write_failed "ia_write_file"(int fd, const void *, size_t, u64 offset) noexcept nogil
    int back_file "ia_back"(int fd, u64 offset, u64 size) noexcept nogil
    int give_back_file "ia_give_back_file"(void *, size_t) noexcept nogil

cdef enum:
    GRAIN = 65536        # bytes: offsets in a file are multiples of it, whatever the size of a page
