"""A file that the process holds open, and how it is opened again when other code has closed its descriptor.

Lock rule: `kept_fd` may be called by several threads at once, unless the file may be another one (`any`): then by the
holder of one lock. `kept_free` is for the last user.
"""

from inbound_audit._core.bits cimport u64

cdef extern from "inbound_audit/_core/kept_file.h":
    ctypedef struct KeptFile "struct ia_kept_file":
        int fd
        KeptFile *before
    int O_RDWR, O_WRONLY, O_APPEND, O_CREAT
    KeptFile *kept_open "ia_kept_open"(int fd, const char *path, int flags, bint any) noexcept nogil
    int kept_fd "ia_kept_fd"(KeptFile *) noexcept nogil
    int kept_status "ia_kept_status"(KeptFile *, u64 *status) noexcept nogil
    void kept_close "ia_kept_close"(KeptFile *) noexcept nogil
    void kept_free "ia_kept_free"(KeptFile *) noexcept nogil
