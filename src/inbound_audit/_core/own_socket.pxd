"""A socket of ours that other code of the process may close: a daemon closes all numbers, a library closes one twice.

Whoever closes it may get its number for a socket or a file of its own. So the number is compared with the socket's
inode right before each use, and before it is closed.

Lock rule: the owner's. `is_own` is a check of one moment.
"""

from inbound_audit._core.bits cimport u64

cdef extern from "inbound_audit/_core/own_socket.h":
    int second_descriptor "ia_second"(int) noexcept nogil
    int read_inode "ia_inode"(int, u64 *) noexcept nogil
    bint is_same "ia_is_same"(int, u64) noexcept nogil
    int open_pair "ia_pair"(int *) noexcept nogil
    void put_byte "ia_put_byte"(int) noexcept nogil
    void take_byte "ia_take_byte"(int) noexcept nogil
    int wait_for "ia_wait_for"(int, int) noexcept nogil
    void close_file "ia_close"(int) noexcept nogil
    u64 closed_twice "ia_lost"

cdef struct OwnSocket:
    int fd          # below 0: no socket
    u64 inode       # 0: the system did not say; then the number is not compared


cdef inline void own(OwnSocket *s, int fd) noexcept nogil:
    """Takes over an open descriptor, or a number below 0."""
    s.fd, s.inode = fd, 0
    if fd >= 0:
        read_inode(fd, &s.inode)


cdef inline bint is_own(const OwnSocket *s) noexcept nogil:
    """Whether it is open, and no other file has its number."""
    return s.fd >= 0 and (s.inode == 0 or is_same(s.fd, s.inode))


cdef inline void close_socket(OwnSocket *s) noexcept nogil:
    """Once. A number that stands for another file is left open."""
    if is_own(s):
        close_file(s.fd)
    s.fd = -1
