"""One connection of a gate: counted, asked about, and refused or put into the queue.

    accepted --> counted --> asked --> queue --> Python
                   |          |          |
                   |          over       full        reply --> close --> count taken back
                   no room: as the rules say

A refused connection is closed at once, or reset, or drained (room `gate_drain`).

Lock rule: the caller holds `Lane.lock`. The tree is changed under its writer lock, as by `Session`. A descriptor comes
into a lane's hand, and leaves it, under `Lane.hands`: so a fork of which Python does not know finds it, too. In the
hand, where it is for microseconds, it is not compared with anything.
"""

from libc.stdint cimport int64_t
from libc.string cimport memset

from inbound_audit._core.address cimport Address, from_packed
from inbound_audit._core.bits cimport u8, u16, u32, u64, acquire32, fetch_add64, load32, store32
from inbound_audit._core.codes cimport OK
from inbound_audit._core.gate_decisions cimport NOT_COUNTED, OVER, OVERRULED, QUEUE_FULL, WOULD_BE_OVER, note_decision
from inbound_audit._core.gate_drain cimport abort_on_close, close_hand, drain, end_stream, read_away
from inbound_audit._core.gate_model cimport ABORT, DRAIN, Gate, Lane, Rules, add_one
from inbound_audit._core.gate_queue cimport Connection, lock_mutex, push, unlock_mutex
from inbound_audit._core.limits cimport (
    ALLOWED, DENIED, NO_NODE, WITHIN_LIMITS, limited_count, note_over, overruled, passed_limit, table_of,
    time_of_limits,
)
from inbound_audit._core.model cimport CONNECTIONS, NO_FILE, REJECTIONS, Tree
from inbound_audit._core.own_socket cimport own
from inbound_audit._core.ranges cimport NO_VALUE, lookup
from inbound_audit._core.reply cimport MAX_REPLY_BYTES, Reply, Words, write_reply
from inbound_audit._core.seqlock cimport lock_wait, unlock
from inbound_audit._core.series_change cimport record_event
from inbound_audit._core.session cimport add_session, remove_session, show_session
from inbound_audit._core.trie cimport trie_add
from inbound_audit._core.window cimport now_of

cdef extern from "inbound_audit/_core/gate.h":
    cdef struct Caller "ia_caller":
        int fd
        int family
        int size
        u16 port
        u8 address[16]
    int AF_UNIX
    void send_reply "ia_send"(int, const char *, size_t) noexcept nogil
    int set_time "ia_set_time"(int, int64_t) noexcept nogil


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

cdef inline bint is_forwarded(const Lane *lane) noexcept nogil:
    """Whether what may stay goes to a forwarder, and not to Python. The same for a batch."""
    return lane.gate.out != &lane.gate.queue


cdef inline bint push_hand(Lane *lane, Connection *c) noexcept nogil:
    """Puts the connection that the lane has in its hand into the queue, or a forwarder's. False: it has no room."""
    cdef bint fits
    lock_mutex(&lane.hands)
    own(&c.socket, lane.hand)
    fits = push(lane.gate.out, c)
    if fits:
        lane.hand = -1
        if is_forwarded(lane):
            add_one(&lane.forwarded)
    unlock_mutex(&lane.hands)
    return fits


cdef inline void send_away(
    Lane *lane, const Reply *r, Connection *c, const Words *limit, int64_t count, bint at_once
) noexcept nogil:
    """Sends a reply to the connection in the lane's hand, closes it, and takes its count back. `at_once`: without
    draining."""
    cdef int linger = lane.gate.linger
    cdef char reply[MAX_REPLY_BYTES]
    cdef Address peer
    peer.hi, peer.lo, peer.version = c.ac.hi, c.ac.lo, c.ac.version
    send_reply(lane.hand, reply, write_reply(r, &peer, limit, count, reply))
    abort_on_close(lane.hand, linger == ABORT)
    if linger == DRAIN and not at_once:
        take_back(c)  # it is no session any more, and it may take a second until its socket is closed
        drain(lane)
        return
    if linger == DRAIN:
        end_stream(lane.hand)
        read_away(lane.hand)  # what has come already takes no reply from the peer
    close_hand(lane)
    take_back(c)


cdef inline void count_refusal(Tree *refusals, const Address *peer) noexcept nogil:
    """Without room for one more host it is left out."""
    lock_tree(refusals)
    trie_add(&refusals.arena, peer, 1)
    unlock(&refusals.arena.lock)


cdef inline void refuse(Lane *lane, Connection *c, int row, int64_t count) noexcept nogil:
    """The connection is over limit number `row`, or DENIED."""
    cdef Rules *r = lane.rules
    cdef Tree *t = lane.gate.tree
    cdef Address peer
    cdef u32 monitors = acquire32(&t.owner.monitors)
    peer.hi, peer.lo, peer.version = c.ac.hi, c.ac.lo, c.ac.version
    # All of this before the peer can know: its next connection may be asked about what is recorded here.
    add_one(&lane.refused)
    lane.last = c.ac
    note_decision(&lane.decisions, &c.ac, r.number, OVER if row >= 0 else OVERRULED, row, count)
    if lane.gate.refusals != NULL:
        count_refusal(lane.gate.refusals, &peer)
    if monitors:
        record_event(t.owner, monitors, REJECTIONS, &peer, 1, now_of(t.owner), NULL)
    if row == DENIED:
        send_away(lane, &r.denial, c, NULL, 0, False)
    else:
        send_away(lane, &r.refusal, c, &r.names[row], count, False)


# ---- one connection

cdef inline bint is_balancer(const Rules *r, const Connection *c) noexcept nogil:
    """Whether the connection is asked about when Python has read who the client is."""
    return r.balancers != NULL and lookup(&r.balancers[c.ac.version == 6], c.ac.hi, c.ac.lo) != NO_VALUE


cdef inline int decided(Lane *lane, Connection *c, int *node) noexcept nogil:
    """What an override says, as `overruled`: a connection that is denied is refused. Sets the listed prefix."""
    cdef Rules *r = lane.rules
    cdef int row
    node[0] = NO_NODE if r.limits == NULL else lookup(&r.networks[c.ac.version == 6], c.ac.hi, c.ac.lo)
    row = overruled(r.limits, &c.ac, node[0])
    if row == DENIED:
        if r.limits != NULL:
            fetch_add64(&r.limits.denied, 1)
        refuse(lane, c, row, 0)
    return row


cdef inline bint is_over(Lane *lane, Connection *c) noexcept nogil:
    """Asks the overrides and the limits, and refuses the connection if it is denied or over one."""
    cdef Rules *r = lane.rules
    cdef int64_t now, count
    cdef int row, node
    if is_balancer(r, c):
        return False
    row = decided(lane, c, &node)
    if row == DENIED:
        return True
    if r.limits == NULL:
        return False
    c.asked = r.number
    if row == ALLOWED:
        return False
    now = time_of_limits(r.limits, c.ac.tree.owner)
    row = passed_limit(r.limits, &c.ac, node, now)
    if row == WITHIN_LIMITS:
        return False
    fetch_add64(&r.limits.limit[row].passed, 1)
    if r.dry_run and lane.decisions.place == NULL:
        return False
    count = limited_count(r.limits, &r.limits.limit[row], table_of(r.limits, node), node, &c.ac, now)
    if r.dry_run:
        note_decision(&lane.decisions, &c.ac, r.number, WOULD_BE_OVER, row, count)
        return False
    if r.limits.denies:
        note_over(r.limits, row, &c.ac, node, now)
    refuse(lane, c, row, count)
    return True


cdef inline void note_uncounted(Lane *lane, const Connection *c, int code) noexcept nogil:
    add_one(&lane.uncounted)
    if load32(&lane.gate.tree.state) == NO_FILE:
        store32(&lane.wants_file, 1)
    else:
        lane.last_uncounted = c.ac
        lane.count_error = code


cdef inline void receive(Lane *lane, const Caller *caller, int64_t own_us) noexcept nogil:
    """A connection that was accepted, and is in the lane's hand: it is refused, or comes into the queue, with the time
    that the caller has set for what is accepted."""
    cdef Connection c
    cdef int code, node
    memset(&c.ac, 0, sizeof(c.ac))
    c.family, c.asked, c.flow = caller.family, 0, NULL
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
                note_decision(&lane.decisions, &c.ac, lane.rules.number, NOT_COUNTED, 0, 0)
                send_away(lane, &lane.rules.unavailable, &c, NULL, 0, False)
                return
            if not is_balancer(lane.rules, &c) and decided(lane, &c, &node) == DENIED:
                return
        elif is_over(lane, &c):
            return
    if caller.family != AF_UNIX and not is_forwarded(lane):  # which inherit nothing, or never wait
        set_time(lane.hand, own_us)
    if not push_hand(lane, &c):
        add_one(&lane.queue_full)
        lane.last_full = c.ac
        note_decision(&lane.decisions, &c.ac, lane.rules.number, QUEUE_FULL, 0, 0)
        send_away(lane, &lane.rules.busy, &c, NULL, 0, False)
