"""Pipes that bytes go through from one socket to another, without being copied.

A mover has one empty pipe, through which each of its flows moves bytes in turn. Only when the other side has no room
for all of them does the pipe stay with the flow, until it is empty; the mover then goes on with a spare one. So the
pipes of a forwarder are as many as the sides that wait for a slow peer, and no flow holds more than PIPE_BYTES in each
direction.

Both ends of a pipe are known by their inode, as the room `own_socket` says of sockets. A flow's pipe is compared before
each turn, the mover's empty one before its first use in a batch.

Lock rule: the caller holds `Mover.lock`.
"""

from libc.stdint cimport int64_t

from inbound_audit._core.bits cimport u64
from inbound_audit._core.forward_model cimport MAX_SPARE, Mover, Pipe
from inbound_audit._core.own_socket cimport close_file

cdef extern from "inbound_audit/_core/forward.h":
    int open_pipe "ia_pipe"(int *) noexcept nogil
    int pipe_inode "ia_pipe_inode"(int, u64 *) noexcept nogil
    bint is_same_pipe "ia_is_same_pipe"(int, u64) noexcept nogil
    int64_t splice "ia_splice"(int, int, size_t) noexcept nogil
    int64_t copy_bytes "ia_copy"(int, int) noexcept nogil


cdef inline void no_pipe(Pipe *p) noexcept nogil:
    p.reads = p.writes = -1


cdef inline bint is_whole(const Pipe *p) noexcept nogil:
    """Whether both ends are those of this pipe still."""
    return p.reads >= 0 and is_same_pipe(p.reads, p.inode) and is_same_pipe(p.writes, p.inode)


cdef inline int make_pipe(Pipe *p) noexcept nogil:
    """Returns 0, or -errno: then it has no pipe."""
    cdef int[2] ends
    cdef int code = open_pipe(ends)
    no_pipe(p)
    if code == 0:
        p.reads, p.writes, p.inode = ends[0], ends[1], 0
        pipe_inode(p.reads, &p.inode)
    return code


cdef inline void close_pipe(Pipe *p) noexcept nogil:
    """A number that stands for another file is left open."""
    if p.reads >= 0 and is_same_pipe(p.reads, p.inode):
        close_file(p.reads)
    if p.writes >= 0 and is_same_pipe(p.writes, p.inode):
        close_file(p.writes)
    no_pipe(p)


cdef inline int take_pipe(Mover *m) noexcept nogil:
    """The mover has an empty pipe from now on. Returns 0, or -errno."""
    if m.pipe.reads >= 0 and m.is_checked:
        return 0
    while not is_whole(&m.pipe):
        close_pipe(&m.pipe)
        if m.spares == 0:
            return make_pipe(&m.pipe)
        m.spares -= 1
        m.pipe = m.spare[m.spares]
    m.is_checked = True
    return 0


cdef inline void give_back(Mover *m, Pipe *p) noexcept nogil:
    """An empty pipe that a flow needs no more."""
    if m.spares < MAX_SPARE:
        m.spare[m.spares] = p[0]
        m.spares += 1
        no_pipe(p)
    else:
        close_pipe(p)


cdef inline void close_pipes(Mover *m) noexcept nogil:
    close_pipe(&m.pipe)
    while m.spares:
        m.spares -= 1
        close_pipe(&m.spare[m.spares])
