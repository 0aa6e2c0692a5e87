"""One flow of a forwarder: a client, a back end, and the bytes between them.

    CONNECTING ----> MOVING ----> ENDED         CONNECTING: to one back end after the other, until one takes it
        |                           ^           MOVING:     what one side sends, the other gets
        +--------> REFUSED ---------+           REFUSED:    no back end took it; its reply is read, or a second is over

What holds between two batches:
  * the bytes that a side has sent are in its socket, in its pipe, or were written to the other side, in that order; so
    they arrive once and in order. A pipe belongs to a flow only while it holds bytes.
  * a side is read only when the other one has room, so a flow holds PIPE_BYTES at most in each direction.
  * the end of a stream is carried on after its last byte. A flow ends when both ends were carried on; when a side was
    reset, which resets the other; or when its time is over.
  * `readable` and `writable` are false only if the system has said so since the last event of that socket.
  * an urgent byte keeps its place in the stream. The other side does not learn that it is urgent.
  * a client that the flow counts is counted until right before its socket is closed.

Lock rule: the caller holds `Mover.lock`. The tree is changed under its writer lock, as by `Session`; its holder waits
for nothing.
"""

from libc.errno cimport EAGAIN, ECONNRESET, EINTR, ENOMEM, EPIPE, ETIMEDOUT
from libc.stdint cimport int64_t, uintptr_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from inbound_audit._core.address cimport from_packed
from inbound_audit._core.bits cimport u32, u64, exchange32, fetch_add64, load32, store32
from inbound_audit._core.forward_header cimport MAX_HEADER_BYTES, Ends, write_header
from inbound_audit._core.forward_model cimport (
    BACK_END, CLIENT, CONNECTING, ENDED, EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLOUT, EPOLLPRI, EPOLLRDHUP,
    MAX_ROUNDS, MOVING, NO_HEADER, PIPE_BYTES, REFUSED, V2, Flow, FlowList, Forwarder, Mover, Place, Side, Target,
)
from inbound_audit._core.forward_pipe cimport close_pipe, copy_bytes, give_back, is_whole, no_pipe, splice, take_pipe
from inbound_audit._core.gate_connection cimport Caller, send_reply, take_back
from inbound_audit._core.gate_drain cimport abort_on_close, end_stream
from inbound_audit._core.gate_model cimport add_one, monotonic_ms, unwatch
from inbound_audit._core.gate_queue cimport Connection, lock_mutex, unlock_mutex
from inbound_audit._core.own_socket cimport close_file, close_socket, is_own, own, put_byte

cdef extern from "inbound_audit/_core/forward.h":
    int EINPROGRESS
    int watch_changes "ia_watch_changes"(int, int, u64) noexcept nogil
    void do_not_wait "ia_do_not_wait"(int) noexcept nogil
    void send_at_once "ia_send_at_once"(int) noexcept nogil
    int begin_connect "ia_connect"(const Place *, int *) noexcept nogil
    int connected "ia_connected"(int) noexcept nogil
    bint is_of_target "ia_is_of_target"(int) noexcept nogil
    int local_address "ia_local"(int, Caller *) noexcept nogil
    int send_all "ia_send_all"(int, const char *, size_t) noexcept nogil
    int end_sending "ia_end_sending"(int) noexcept nogil
    int64_t drop_bytes "ia_drop"(int) noexcept nogil


cdef inline void note_failure(Mover *m, int error) noexcept nogil:
    store32(&m.error, <u32>error)
    add_one(&m.failures)


# ---- lists

cdef inline void leave_list(Mover *m, Flow *f) noexcept nogil:
    cdef FlowList *among = &m.list[f.stage]
    if f.older == NULL:
        among.oldest = f.newer
    else:
        f.older.newer = f.newer
    if f.newer == NULL:
        among.newest = f.older
    else:
        f.newer.older = f.older


cdef inline void enter_list(Mover *m, Flow *f, u32 stage) noexcept nogil:
    """As the newest of that stage: its time begins."""
    cdef FlowList *among = &m.list[stage]
    f.stage, f.since_ms = stage, monotonic_ms()
    f.older, f.newer = among.newest, NULL
    if among.newest == NULL:
        among.oldest = f
    else:
        among.newest.newer = f
    among.newest = f


cdef inline void enter_stage(Mover *m, Flow *f, u32 stage) noexcept nogil:
    leave_list(m, f)
    enter_list(m, f, stage)


cdef inline void go_on(Mover *m, Flow *f) noexcept nogil:
    """It has another turn, without an event."""
    if not f.waits:
        f.waits, f.next, m.going_on = True, m.going_on, f


# ---- what Python takes

cdef inline void show_news(Forwarder *w) noexcept nogil:
    """Under the news' lock: makes `reads` readable."""
    if not w.shown and is_own(&w.writes):
        put_byte(w.writes.fd)
        w.shown = True


cdef inline void check_news(Forwarder *w) noexcept nogil:
    """Without them Python would not hear of an end, so that nothing more is taken: the inbox is lost."""
    lock_mutex(&w.news_lock)
    if not (is_own(&w.reads) and is_own(&w.writes)):
        store32(&w.inbox.lost, 1)
    unlock_mutex(&w.news_lock)


cdef inline void report(Forwarder *w, Flow *ended) noexcept nogil:
    """A flow that Python knows has ended; NULL: a back end has another state, or the inbox is lost."""
    lock_mutex(&w.news_lock)
    if ended != NULL:
        ended.next, w.ended = w.ended, ended
    show_news(w)
    unlock_mutex(&w.news_lock)


# ---- the end of a flow

cdef inline void close_side(Mover *m, const Flow *f, Side *s, bint abort) noexcept nogil:
    if s.socket.fd < 0:
        return
    if f.is_checked or is_own(&s.socket):
        if abort:
            abort_on_close(s.socket.fd, True)
        if unwatch(m.epoll, s.socket.fd) != 0:
            m.is_stale = True
        close_file(s.socket.fd)
    else:
        add_one(&m.lost)
        m.is_stale = True
    s.socket.fd = -1


cdef inline void close_flow_pipe(Side *s) noexcept nogil:
    if s.held:
        close_pipe(&s.pipe)
    s.held = 0


cdef inline void end_flow(Mover *m, Flow *f, bint abort) noexcept nogil:
    """Takes its count back, closes all that it has, and makes it a dead one. `abort`: by resets. O(1)."""
    leave_list(m, f)
    f.stage = ENDED
    take_back(&f.c)
    close_side(m, f, &f.side[CLIENT], abort)
    close_side(m, f, &f.side[BACK_END], abort)
    close_flow_pipe(&f.side[CLIENT])
    close_flow_pipe(&f.side[BACK_END])
    add_one(&m.ended_flows)
    if not f.waits:  # else it is in a list, and leaves that first
        f.next, m.dead = m.dead, f


cdef inline void bury(Mover *m) noexcept nogil:
    """Frees the dead, once no event of this batch can name them."""
    cdef Flow *f
    while m.dead != NULL:
        f = m.dead
        m.dead = f.next
        if f.is_known:
            report(m.forwarder, f)
        else:
            free(f)


# ---- moving bytes

cdef inline int carry_end(Side *a, Side *b) noexcept nogil:
    """All that side `a` has sent was written. Returns 0, or -errno."""
    if not a.ended or b.end_sent:
        return 0
    b.end_sent = True
    return 0 if a.end_sent else end_sending(b.socket.fd)  # the second end is said by the close that follows


cdef inline int fill_pipe(Mover *m, Side *a) noexcept nogil:
    """Moves bytes of side `a` into a pipe, which is its own then, or notes that no byte waits. Returns 0, or -errno."""
    cdef int64_t n = splice(a.socket.fd, m.pipe.writes, PIPE_BYTES)
    if a.urgent and (n == -EAGAIN or n == 0) or n == 0 and not a.end_shown:
        n = copy_bytes(a.socket.fd, m.pipe.writes)  # `splice` says both of a stream with an urgent byte, too
    if n > 0:
        a.held, a.pipe = <u32>n, m.pipe
        no_pipe(&m.pipe)
    elif n == 0:
        a.ended = True
    elif n == -EAGAIN:
        a.readable = a.urgent = False
    elif n != -EINTR:
        return <int>n
    return 0


cdef inline int empty_pipe(Mover *m, Side *a, Side *b) noexcept nogil:
    """Moves bytes out of the pipe of side `a`. Returns 0, or -errno.

    A flow that has to keep the pipe ends if the mover gets no other one: else flows that are not read would stop all.
    """
    cdef int64_t n = splice(a.pipe.reads, b.socket.fd, a.held)
    cdef int code
    if n == -EAGAIN:
        b.writable = False
        if m.pipe.reads < 0:
            code = take_pipe(m)
            if code != 0:
                note_failure(m, -code)
                return code
    elif n < 0:
        return 0 if n == -EINTR else <int>n
    else:
        a.held -= <u32>n
    if a.held == 0:
        if m.pipe.reads < 0:
            m.pipe = a.pipe
        else:
            give_back(m, &a.pipe)
    return 0


cdef inline int carry(Mover *m, Flow *f, int side) noexcept nogil:
    """Moves what a side has sent. Returns 0 if there is no more for now, 1 if there may be, or -errno of a side."""
    cdef Side *a = &f.side[side]
    cdef Side *b = &f.side[1 - side]
    cdef int _n, code
    for _n in range(MAX_ROUNDS):
        if a.held == 0:
            if a.ended or not (a.readable and b.writable):
                return carry_end(a, b)
            code = take_pipe(m)
            if code != 0:
                if not m.rests:
                    note_failure(m, -code)
                m.rests = True
                return 1
            code = fill_pipe(m, a)
            m.moved[side] += a.held
        else:
            if not b.writable:
                return 0
            code = empty_pipe(m, a, b)
        if code != 0:
            return code
    return 1


cdef inline void move(Mover *m, Flow *f) noexcept nogil:
    """Both directions have their turn, also if one of them has failed: its last bytes may be there still."""
    cdef u64 before = m.moved[0] + m.moved[1]
    cdef int first = carry(m, f, CLIENT)
    cdef int second = carry(m, f, BACK_END)
    if first < 0 or second < 0:
        add_one(&m.reset)
        end_flow(m, f, True)
    elif f.side[CLIENT].end_sent and f.side[BACK_END].end_sent:
        end_flow(m, f, False)
    else:
        if m.moved[0] + m.moved[1] != before:
            enter_stage(m, f, MOVING)
        if first or second:
            go_on(m, f)


# ---- finding a back end

cdef inline void drain(Mover *m, Flow *f) noexcept nogil:
    """Drops what a refused client has sent, and closes it at its end: bytes that are not read would reset it."""
    cdef int64_t n
    cdef int _n
    for _n in range(MAX_ROUNDS):
        n = drop_bytes(f.side[CLIENT].socket.fd)
        if n == -EAGAIN:
            return
        if n <= 0 and n != -EINTR:
            end_flow(m, f, False)
            return
    go_on(m, f)


cdef inline void refuse(Mover *m, Flow *f) noexcept nogil:
    """The client is sent away. With a reply, it has a second to read it, and is not counted meanwhile."""
    cdef int fd = f.side[CLIENT].socket.fd
    add_one(&m.unavailable)
    if m.forwarder.sorry_size == 0:
        end_flow(m, f, False)
        return
    send_reply(fd, m.forwarder.sorry, m.forwarder.sorry_size)
    end_stream(fd)
    take_back(&f.c)
    enter_stage(m, f, REFUSED)
    drain(m, f)


cdef inline void note_unreachable(Mover *m, Flow *f, int error) noexcept nogil:
    """The next back end is tried, for this client, and for others until a probe has reached this one."""
    cdef Target *t = &m.forwarder.target[f.target]
    f.target += 1
    if not is_of_target(error):
        note_failure(m, error)
        return
    fetch_add64(&t.failures, 1)
    if exchange32(&t.down, 1) == 0:
        report(m.forwarder, NULL)


cdef inline void find_target(Mover *m, Flow *f) noexcept nogil:
    """Begins to connect to the first back end, from `target` on, that is not down."""
    cdef Side *s = &f.side[BACK_END]
    cdef Forwarder *w = m.forwarder
    cdef int code, fd
    while f.target < w.targets:
        if load32(&w.target[f.target].down):
            f.target += 1
            continue
        code = begin_connect(&w.target[f.target].place, &fd)
        if fd >= 0:
            own(&s.socket, fd)
            s.readable = s.writable = s.urgent = s.failed = s.end_shown = False
            code = watch_changes(m.epoll, fd, <u64><uintptr_t>f + BACK_END)
            if code == 0:
                enter_stage(m, f, CONNECTING)
                return
            close_side(m, f, s, True)
        note_unreachable(m, f, -code)
    refuse(m, f)


cdef inline int send_header(Mover *m, Flow *f) noexcept nogil:
    """Returns 0, or -errno."""
    cdef char header[MAX_HEADER_BYTES]
    cdef Caller local
    cdef Ends e
    if m.forwarder.header == NO_HEADER:
        return 0
    memset(&e, 0, sizeof(e))
    e.known = f.c.ac.tree != NULL and local_address(f.side[CLIENT].socket.fd, &local) == 0 and local.size != 0
    if e.known:
        e.source.hi, e.source.lo, e.source.version = f.c.ac.hi, f.c.ac.lo, f.c.ac.version
        e.source_port, e.destination_port = f.c.ac.remote_port, local.port
        from_packed(local.address, local.size, &e.destination)
    return send_all(f.side[BACK_END].socket.fd, header, write_header(&e, m.forwarder.header == V2, header))


cdef inline void leave_target(Mover *m, Flow *f, int error) noexcept nogil:
    """The back end could not be reached."""
    close_side(m, f, &f.side[BACK_END], True)
    note_unreachable(m, f, error)
    find_target(m, f)


cdef inline void finish_connecting(Mover *m, Flow *f) noexcept nogil:
    """Something has happened to a socket that connects."""
    cdef Side *s = &f.side[BACK_END]
    cdef int code = connected(s.socket.fd) if s.failed else 0
    if code == 0 and not s.writable:
        return
    if code == 0:
        code = send_header(m, f)
    if code == -ECONNRESET or code == -EPIPE:
        # The back end has taken the connection and ended it at once: the client hears so, and no other one is tried.
        add_one(&m.reset)
        end_flow(m, f, True)
        return
    if code != 0:
        leave_target(m, f, -code)
        return
    fetch_add64(&m.forwarder.target[f.target].connected, 1)
    enter_stage(m, f, MOVING)
    move(m, f)


# ---- turns

cdef inline bint keeps_side(const Side *s) noexcept nogil:
    return (s.socket.fd < 0 or is_own(&s.socket)) and (s.held == 0 or is_whole(&s.pipe))


cdef inline void take_turn(Mover *m, Flow *f) noexcept nogil:
    """Does what can be done for it now, without waiting."""
    f.is_checked = keeps_side(&f.side[CLIENT]) and keeps_side(&f.side[BACK_END])
    if not f.is_checked:
        end_flow(m, f, True)
    elif f.stage == MOVING:
        move(m, f)
    elif f.stage == CONNECTING:
        finish_connecting(m, f)
    elif f.stage == REFUSED:
        drain(m, f)
    f.is_checked = False


cdef inline void serve_flow(Mover *m, Flow *f, int side, u32 events) noexcept nogil:
    cdef u32 trouble = events & <u32>(EPOLLERR | EPOLLHUP)
    if f.stage == ENDED:
        return  # earlier in this batch
    if events & <u32>(EPOLLIN | EPOLLPRI | EPOLLRDHUP) or trouble:
        f.side[side].readable = True
    if trouble:
        f.side[side].failed = True
    if events & <u32>EPOLLPRI:
        f.side[side].urgent = True
    if events & <u32>EPOLLRDHUP:
        f.side[side].end_shown = True
    if events & <u32>EPOLLOUT or trouble:
        f.side[side].writable = True
    if side == BACK_END or f.stage != CONNECTING:
        take_turn(m, f)
    if side == CLIENT and f.stage != ENDED and (events & <u32>EPOLLERR or (trouble and f.stage == CONNECTING)):
        add_one(&m.reset)
        end_flow(m, f, True)  # it was reset: whatever is held for it, it is no session any more


cdef inline void end_late_flows(Mover *m, u32 stage, int64_t most_ms) noexcept nogil:
    """Those of a stage whose time is over."""
    cdef int64_t now = monotonic_ms()
    cdef Flow *f = m.list[stage].oldest
    while f != NULL and now - f.since_ms >= most_ms:
        if stage == CONNECTING and keeps_side(&f.side[CLIENT]):
            leave_target(m, f, ETIMEDOUT)
        else:
            if stage == MOVING:
                add_one(&m.timed_out)
            end_flow(m, f, False)
        f = m.list[stage].oldest


cdef inline void end_all_flows(Mover *m) noexcept nogil:
    """Cuts them all off."""
    cdef u32 stage
    for stage in range(<u32>ENDED):
        while m.list[stage].oldest != NULL:
            end_flow(m, m.list[stage].oldest, True)


# ---- the beginning of a flow

cdef inline void begin_flow(Mover *m, Connection *c) noexcept nogil:
    """A connection that was taken out of the inbox."""
    cdef Flow *f = <Flow *>c.flow
    cdef int fd = c.socket.fd
    cdef bint is_refused = f != NULL and f.stage == REFUSED
    if f == NULL:
        f = <Flow *>calloc(1, sizeof(Flow))
    if f == NULL:
        note_failure(m, ENOMEM)
        take_back(c)
        close_socket(&c.socket)
        return
    f.c = c[0]
    f.side[CLIENT].socket = c.socket
    f.side[BACK_END].socket.fd = -1
    add_one(&m.begun_flows)
    enter_list(m, f, CONNECTING)
    if not is_own(&c.socket) or watch_changes(m.epoll, fd, <u64><uintptr_t>f + CLIENT) != 0:
        end_flow(m, f, True)
        return
    if c.flow != NULL:  # from Python; a gate has accepted any other, and its socket does not wait
        do_not_wait(fd)
    abort_on_close(fd, False)
    if is_refused:
        enter_stage(m, f, REFUSED)
        return
    send_at_once(fd)
    find_target(m, f)
