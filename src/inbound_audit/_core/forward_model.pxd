"""The structures of a forwarder, and its bounds.

    Forwarder --- inbox: connections that are to be forwarded
              --- target[]: the back ends, best first
              --- mover[]: threads --- the lists of its flows, the pipe that is empty, and spare ones

    Flow: side 0 (client) ---- its pipe ---> side 1 (back end)
                          <--- its pipe ----

Lock rule: that of the room `forward`. This room holds no code.
"""

from libc.stdint cimport int64_t

from inbound_audit._core.bits cimport u32, u64
from inbound_audit._core.gate_model cimport Thread
from inbound_audit._core.gate_queue cimport Connection, GateQueue, Mutex
from inbound_audit._core.own_socket cimport OwnSocket

cdef extern from "inbound_audit/_core/forward.h":
    cdef struct Place "ia_target":
        pass
    int EPOLLIN
    int EPOLLPRI
    int EPOLLOUT
    int EPOLLRDHUP
    int EPOLLERR
    int EPOLLHUP

cdef enum:
    MAX_MOVERS = 64
    MAX_TARGETS = 64
    MAX_SPARE = 64              # empty pipes that a mover keeps
    MAX_ROUNDS = 4              # pipes full of bytes that a side moves before others have their turn
    PIPE_BYTES = 1 << 16
    MAX_TAKEN = 16              # connections that a mover takes out of the inbox before others have their turn
    END = 0                     # numbers of events: the forwarder stops, or its inbox is lost;
    ARRIVED = 2                 # the inbox has connections; any other number is the address of a flow, and its side
    CLIENT = 0
    BACK_END = 1

# What a flow is in the middle of: which time it has, and in which list it is.
cdef enum:                      # Stage
    CONNECTING = 0
    MOVING = 1
    REFUSED = 2                 # its reply is sent, and the client has not closed yet
    STAGES = 3
    ENDED = 3

# Which header a back end gets first: HAProxy's proxy-protocol.txt.
cdef enum Header:
    NO_HEADER = 0
    V1 = 1
    V2 = 2

cdef struct Pipe:
    int reads                   # below 0: no pipe
    int writes
    u64 inode                   # which both ends have

cdef struct Side:
    OwnSocket socket
    bint readable               # it may have bytes, or its end
    bint writable               # it may have room
    bint urgent                 # it may have an urgent byte
    bint failed                 # an event has said that something is wrong with it
    bint end_shown              # an event has said that its stream has ended, though bytes may be left
    bint ended                  # its stream has ended, and all of it was read
    bint end_sent               # the end of the other stream was sent to it
    Pipe pipe                   # what came from this side, and the other has no room for
    u32 held                    # how many bytes of it

cdef struct Flow:
    Side side[2]
    Connection c                # of the client; counted here while `c.ac.open`
    bint is_checked             # in this turn its sockets were compared with what they were opened for
    bint is_known               # Python knows it, and has its count
    u32 stage                   # Stage
    u32 target                  # the back end that it has, or waits for
    bint waits                  # it is in the list of those that go on without an event
    int64_t since_ms            # of the last byte, or of the beginning of its stage
    Flow *older                 # of the same stage
    Flow *newer
    Flow *next                  # of those that go on without an event, or have ended

cdef struct FlowList:
    Flow *oldest
    Flow *newest

cdef struct Target:
    Place place
    u32 down                    # it could not be reached, and no probe has reached it since; atomic
    u64 failures                # connections that could not be made; atomic
    u64 connected               # those that were; atomic

cdef struct Mover:
    Thread thread
    Forwarder *forwarder
    Mutex lock
    u64 wanted                  # other threads that wait for the lock; atomic
    int epoll                   # under the lock, like all that follows
    int task                    # the thread of the mover, by which its epoll is known
    u32 begun                   # published: the epoll is marked
    bint is_stale               # the epoll is to be made anew
    bint left_inbox             # the inbox is lost, and watched no more
    bint rests                  # no pipe could be made
    int64_t checked_ms
    Pipe pipe                   # the empty one that is used next
    bint is_checked             # in this batch
    Pipe spare[MAX_SPARE]       # empty ones
    u32 spares
    FlowList list[STAGES]       # the flows of each stage, the one that has waited longest first
    Flow *going_on              # that have more to move than one turn
    Flow *dead                  # that have ended in this batch
    # counters: written under the lock, read without it
    u64 begun_flows
    u64 ended_flows
    u64 moved[2]                # bytes that came from clients, from back ends
    u64 unavailable             # clients that were refused, as no back end could be reached
    u64 timed_out
    u64 reset
    u64 failures                # flows that were lost for want of memory or descriptors
    u64 lost                    # descriptors of the forwarder that other code has closed
    u32 error                   # of the last failure

cdef struct Forwarder:
    GateQueue inbox
    Target *target              # [targets]
    Mover *mover                # [movers]
    u32 targets
    u32 movers
    u32 running                 # threads that were started
    u32 stops                   # the threads are to end; atomic
    u64 held                    # threads that are about to fork, between two batches; atomic
    int header                  # Header
    int64_t connect_ms
    int64_t idle_ms
    const char *sorry           # what a client is sent for which there is no back end
    u32 sorry_size
    # what Python takes
    Mutex news_lock
    Flow *ended                 # flows that Python knows
    bint shown                  # `reads` is readable
    OwnSocket reads
    OwnSocket writes
    Forwarder *next             # of all forwarders of the process
