"""One connection of a gate: counted, asked about, and refused or put into the queue. And the structures of a gate.

    accepted --> counted --> asked --> queue --> Python
                   |          |          |
                   |          over       full        reply --> close --> count taken back
                   no room: as the rules say

A refused connection is closed at once, or reset, or *drained*: its stream ends, and the socket is closed when its peer
has closed, or after DRAIN_MS. A lane drains MAX_DRAINED sockets at the most.

Lock rule: the caller holds `Lane.lock`. The tree is changed under its writer lock, as by `Session`. A descriptor comes
into a lane's hand, and leaves it, under `Lane.hands`: so a fork of which Python does not know finds it, too.
"""

from libc.stdint cimport int64_t
from libc.string cimport memset

from inbound_audit._core.address cimport Address, from_packed
from inbound_audit._core.bits cimport u8, u16, u32, u64, acquire32, fetch_add64, load32, store32, store64
from inbound_audit._core.codes cimport OK
from inbound_audit._core.gate_queue cimport Connection, GateQueue, Mutex, close_file, lock_mutex, push, unlock_mutex
from inbound_audit._core.limits cimport (
    WITHIN_LIMITS, LimitSet, limited_count, passed_limit, table_of, time_of_limits,
)
from inbound_audit._core.model cimport CONNECTIONS, NO_FILE, REJECTIONS, Tree, ia_ac
from inbound_audit._core.ranges cimport NO_VALUE, Ranges, lookup
from inbound_audit._core.reply cimport MAX_REPLY_BYTES, Reply, Words, write_reply
from inbound_audit._core.seqlock cimport lock_wait, unlock
from inbound_audit._core.series_change cimport record_event
from inbound_audit._core.session cimport add_session, remove_session, show_session
from inbound_audit._core.trie cimport trie_add
from inbound_audit._core.window cimport now_of

cdef extern from "inbound_audit/_core/gate.h":
    ctypedef struct Thread "pthread_t":
        pass
    cdef struct Caller "ia_caller":
        int fd
        int family
        int size
        u16 port
        u8 address[16]
    int AF_UNIX
    int64_t monotonic_ms "ia_monotonic_ms"() noexcept nogil
    int watch "ia_watch"(int, int, u64, bint) noexcept nogil
    int unwatch "ia_unwatch"(int, int) noexcept nogil
    void send_reply "ia_send"(int, const char *, size_t) noexcept nogil
    ctypedef struct Time "struct timeval":
        pass
    void set_time "ia_set_time"(int, const Time *) noexcept nogil
    void abort_on_close "ia_abort_on_close"(int, bint) noexcept nogil
    void end_stream "ia_end_stream"(int) noexcept nogil
    bint read_away "ia_read_away"(int) noexcept nogil

cdef enum:
    MAX_SOCKETS = 256       # that a gate listens on
    MAX_DRAINED = 512           # sockets of one lane; beyond it the oldest one is reset
    DRAIN_MS = 1000
    FIRST_SOCKET = 1            # numbers of events: the listening sockets, then the drained ones
    FIRST_DRAINED = 1 + MAX_SOCKETS

# How a refused connection is closed.
cdef enum Linger:
    CLOSE = 0
    ABORT = 1
    DRAIN = 2

# What decides. It never changes; it is exchanged as a whole, and whoever made it keeps it as long as a lane has it.
cdef struct Rules:
    LimitSet *limits            # NULL: none
    const Ranges *networks      # of the limits: IPv4, IPv6
    const Ranges *balancers     # IPv4, IPv6; NULL: none
    const Words *names          # of the limits
    u64 number                  # that no other rules have; from 1 on
    bint dry_run
    bint refuses_uncounted
    Reply refusal               # over a limit
    Reply busy                  # the queue is full, or no descriptor is left
    Reply unavailable           # it can't be counted
    Reply closing               # it waited when the gate was closed

cdef struct Listening:
    int fd                      # the gate's; -1 once all lanes have left it
    int given                   # the number that the caller has for the same open socket
    u64 inode
    u64 lanes                   # that have it; atomic
    Time own                    # what its caller has set, for what is accepted

cdef struct Drained:
    int fd                      # -1: it was closed
    int64_t until_ms

cdef struct Lane:
    Thread thread
    Gate *gate
    Mutex lock
    u64 wanted                  # other threads that wait for the lock; atomic
    Mutex hands                 # for each change of a descriptor below; taken after `lock`, before that of the queue
    int hand                    # a connection that is neither refused nor in the queue yet; -1: none
    Rules *rules                # under the lock, like all that follows
    int epoll
    int spare                   # a descriptor for the time when none is left; -1: it is lost
    bint rests
    bint *has                   # [sockets]
    int64_t checked_ms
    Drained drained[MAX_DRAINED]    # a ring: from `first_drained` on, the oldest first
    u32 first_drained
    u32 drains
    # counters and news: written under the lock, read without it
    u64 opened
    u64 refused
    u64 queue_full
    u64 closed_waiting          # connections that waited when the gate was closed
    u64 uncounted
    u64 failures                # connections that were lost, and times when none could be accepted
    u64 left                    # listening sockets that were closed under the gate
    u32 error                   # of the last failure, or of the last socket that was left
    u32 wants_file              # the tree has no file: Python has to make one
    # news under the lock: peers without a version are none
    ia_ac last                  # that was refused
    ia_ac last_full             # for which the queue was full
    ia_ac last_uncounted        # that could not be counted
    int count_error             # the code of why

cdef struct Gate:
    Tree *tree
    Tree *refusals              # counts who was over a limit, for shedding; NULL: not wanted
    GateQueue queue
    int stop                    # a descriptor, readable when the threads are to end
    u32 stops                   # likewise; atomic
    u64 held                    # threads that are about to fork, between two batches; atomic
    int linger
    u32 lanes
    u32 running                 # threads that were started
    u32 sockets
    u64 noted                   # the news that Python has taken; atomic
    Listening *listening        # [sockets]
    Lane *lane                  # [lanes]
    Gate *next                  # of all gates of the process


cdef inline void add_one(u64 *counter) noexcept nogil:
    store64(counter, counter[0] + 1)  # one thread writes it


# ---- counting

cdef inline void lock_tree(Tree *t) noexcept nogil:
    lock_wait(&t.arena.lock, &t.arena.waiting)


cdef inline int count_connection(Gate *g, const Caller *caller, Connection *c) noexcept nogil:
    """Opens the session of a connection, in the monitors too. Returns OK, or a code if it is not counted."""
    cdef Tree *t = g.tree
    cdef Address a
    cdef u32 monitors = acquire32(&t.owner.monitors)
    cdef int64_t now = now_of(t.owner) if monitors else 0
    cdef int code
    from_packed(caller.address, caller.size, &a)
    c.ac.tree, c.ac.hi, c.ac.lo, c.ac.version, c.ac.remote_port = t, a.hi, a.lo, <u8>a.version, caller.port
    lock_tree(t)
    code = add_session(&c.ac, &a)
    unlock(&t.arena.lock)
    show_session(t)
    if code == OK:
        record_event(t.owner, monitors, CONNECTIONS, &a, 1, now, c.numbers)
    return code


cdef inline void take_back(Connection *c) noexcept nogil:
    """Ends the count of a connection."""
    if c.ac.open:
        lock_tree(c.ac.tree)
        remove_session(&c.ac)
        unlock(&c.ac.tree.arena.lock)


# ---- refusing

cdef inline void close_hand(Lane *lane) noexcept nogil:
    """Closes the connection that the lane has in its hand."""
    lock_mutex(&lane.hands)
    close_file(lane.hand)
    lane.hand = -1
    unlock_mutex(&lane.hands)


cdef inline bint push_hand(Lane *lane, const Connection *c) noexcept nogil:
    """Puts the connection that the lane has in its hand into the queue. False: it has no room."""
    cdef bint fits
    lock_mutex(&lane.hands)
    fits = push(&lane.gate.queue, c)
    if fits:
        lane.hand = -1
    unlock_mutex(&lane.hands)
    return fits


cdef inline void close_drained(Lane *lane, Drained *socket) noexcept nogil:
    """Under `hands`."""
    if socket.fd >= 0:
        unwatch(lane.epoll, socket.fd)
        close_file(socket.fd)
        socket.fd = -1


cdef inline void close_oldest(Lane *lane, bint abort) noexcept nogil:
    """Takes the oldest socket out of the ring of those that are drained. Under `hands`."""
    cdef Drained *oldest = &lane.drained[lane.first_drained]
    if abort and oldest.fd >= 0:
        abort_on_close(oldest.fd, True)
    close_drained(lane, oldest)
    lane.first_drained = (lane.first_drained + 1) % MAX_DRAINED
    lane.drains -= 1


cdef inline bint add_drained(Lane *lane) noexcept nogil:
    """Puts the connection that the lane has in its hand among those that are drained. False: it can't be watched."""
    cdef u32 at
    cdef bint watched
    lock_mutex(&lane.hands)
    if lane.drains == MAX_DRAINED:
        close_oldest(lane, True)
    at = (lane.first_drained + lane.drains) % MAX_DRAINED
    watched = watch(lane.epoll, lane.hand, FIRST_DRAINED + at, False) == 0
    if watched:
        lane.drained[at].fd, lane.hand = lane.hand, -1
        lane.drained[at].until_ms = monotonic_ms() + DRAIN_MS
        lane.drains += 1
    unlock_mutex(&lane.hands)
    return watched


cdef inline void drain(Lane *lane) noexcept nogil:
    """Closes a socket once its peer has closed, or after DRAIN_MS: a reset would take the reply from a peer that has
    sent something that was not read."""
    end_stream(lane.hand)
    if read_away(lane.hand) or not add_drained(lane):
        close_hand(lane)


cdef inline void end_drains(Lane *lane) noexcept nogil:
    """Closes the drained sockets whose time is over."""
    cdef int64_t now
    if lane.drains:
        now = monotonic_ms()
        lock_mutex(&lane.hands)
        while lane.drains and (
            lane.drained[lane.first_drained].fd < 0 or lane.drained[lane.first_drained].until_ms <= now
        ):
            close_oldest(lane, False)
        unlock_mutex(&lane.hands)


cdef inline void go_on_draining(Lane *lane, u32 at) noexcept nogil:
    if lane.drained[at].fd >= 0 and read_away(lane.drained[at].fd):
        lock_mutex(&lane.hands)
        close_drained(lane, &lane.drained[at])
        unlock_mutex(&lane.hands)


cdef inline void send_away(
    Lane *lane, const Reply *r, Connection *c, const Words *limit, int64_t count, bint at_once
) noexcept nogil:
    """Sends a reply to the connection in the lane's hand, closes it, and takes its count back. `at_once`: without
    draining."""
    cdef int linger = lane.gate.linger
    cdef char reply[MAX_REPLY_BYTES]
    cdef Address peer
    peer.hi, peer.lo, peer.version = c.ac.hi, c.ac.lo, c.ac.version
    send_reply(c.fd, reply, write_reply(r, &peer, limit, count, reply))
    abort_on_close(c.fd, linger == ABORT)
    if linger == DRAIN and not at_once:
        take_back(c)  # it is no session any more, and it may take a second until its socket is closed
        drain(lane)
        return
    if linger == DRAIN:
        end_stream(c.fd)
        read_away(c.fd)  # what has come already takes no reply from the peer
    close_hand(lane)
    take_back(c)


cdef inline void count_refusal(Tree *refusals, const Address *peer) noexcept nogil:
    """Without room for one more host it is left out."""
    lock_tree(refusals)
    trie_add(&refusals.arena, peer, 1)
    unlock(&refusals.arena.lock)


cdef inline void refuse(Lane *lane, Connection *c, int row, int64_t count) noexcept nogil:
    """The connection is over limit number `row`."""
    cdef Rules *r = lane.rules
    cdef Tree *t = lane.gate.tree
    cdef Address peer
    cdef u32 monitors
    peer.hi, peer.lo, peer.version = c.ac.hi, c.ac.lo, c.ac.version
    add_one(&lane.refused)  # before the peer can know
    lane.last = c.ac
    if lane.gate.refusals != NULL:
        count_refusal(lane.gate.refusals, &peer)
    send_away(lane, &r.refusal, c, &r.names[row], count, False)
    monitors = acquire32(&t.owner.monitors)
    if monitors:
        record_event(t.owner, monitors, REJECTIONS, &peer, 1, now_of(t.owner), NULL)


# ---- one connection

cdef inline bint is_over(Lane *lane, Connection *c) noexcept nogil:
    """Asks the limits, and refuses the connection if it is over one."""
    cdef Rules *r = lane.rules
    cdef bint v6 = c.ac.version == 6
    cdef int64_t now
    cdef int row, node
    if r.balancers != NULL and lookup(&r.balancers[v6], c.ac.hi, c.ac.lo) != NO_VALUE:
        return False  # it is asked about when Python has read who the client is
    if r.limits == NULL:
        return False
    c.asked = r.number
    node = lookup(&r.networks[v6], c.ac.hi, c.ac.lo)
    now = time_of_limits(r.limits, c.ac.tree.owner)
    row = passed_limit(r.limits, &c.ac, node, now)
    if row == WITHIN_LIMITS:
        return False
    fetch_add64(&r.limits.limit[row].passed, 1)
    if r.dry_run:
        return False
    refuse(lane, c, row, limited_count(r.limits, &r.limits.limit[row], table_of(r.limits, node), node, &c.ac, now))
    return True


cdef inline void note_uncounted(Lane *lane, const Connection *c, int code) noexcept nogil:
    add_one(&lane.uncounted)
    if load32(&lane.gate.tree.state) == NO_FILE:
        store32(&lane.wants_file, 1)
    else:
        lane.last_uncounted = c.ac
        lane.count_error = code


cdef inline void receive(Lane *lane, const Caller *caller, const Time *own) noexcept nogil:
    """A connection that was accepted, and is in the lane's hand: it is refused, or comes into the queue."""
    cdef Connection c
    cdef int code
    memset(&c.ac, 0, sizeof(c.ac))
    c.fd, c.family, c.asked = caller.fd, caller.family, 0
    c.ac.version = 4
    add_one(&lane.opened)
    if caller.size == 0:
        add_one(&lane.uncounted)
    else:
        code = count_connection(lane.gate, caller, &c)
        if code != OK:
            note_uncounted(lane, &c, code)
            if lane.rules.refuses_uncounted:
                add_one(&lane.refused)
                send_away(lane, &lane.rules.unavailable, &c, NULL, 0, False)
                return
        elif is_over(lane, &c):
            return
    if caller.family != AF_UNIX:  # whose connections inherit nothing
        set_time(c.fd, own)
    if not push_hand(lane, &c):
        add_one(&lane.queue_full)
        lane.last_full = c.ac
        send_away(lane, &lane.rules.busy, &c, NULL, 0, False)
