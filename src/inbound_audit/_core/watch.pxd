"""A descriptor that becomes readable when a directory changes (inotify)."""

cdef extern from "inbound_audit/_core/watch.h":
    int add_watch "ia_add_watch"(int, const char *) noexcept nogil
    int remove_watch "ia_remove_watch"(int, int) noexcept nogil
    int watch_directory "ia_watch_directory"(const char *) noexcept nogil
