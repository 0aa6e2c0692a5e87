"""A descriptor that becomes readable when a directory changes (inotify)."""

cdef extern from "inbound_audit/_core/watch.h":
    int watch_directory "ia_watch_directory"(const char *) noexcept nogil
