"""Forks that Python does not know of, and open files whose locks no child inherits.

Lock rule: `is_child` may be called by any thread, with or without the GIL. It costs one load.
"""

from inbound_audit._core.bits cimport u64

cdef extern from "inbound_audit/_core/fork.h":
    u64 generation "ia_generation"
    int watch_forks "ia_watch_forks"() noexcept nogil
    bint is_child "ia_is_child"() noexcept nogil
    bint begin_handling "ia_begin_handling"() noexcept nogil
    void end_handling "ia_end_handling"(bint done) noexcept nogil
    bint is_handling "ia_is_handling"() noexcept nogil
    bint is_alone "ia_is_alone"() noexcept nogil
    void *hold_file "ia_hold_file"(int fd) noexcept nogil
    void drop_file "ia_drop_file"(void *) noexcept nogil
