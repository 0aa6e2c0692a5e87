"""The structures of a gate, and its bounds.

Lock rule: that of the room `gate`. This room holds no code but what reads and writes a counter.
"""

from libc.stdint cimport int64_t

from inbound_audit._core.bits cimport u32, u64, store64
from inbound_audit._core.gate_decisions cimport Decisions
from inbound_audit._core.gate_queue cimport GateQueue, Mutex
from inbound_audit._core.limits cimport LimitSet
from inbound_audit._core.model cimport Tree, ia_ac
from inbound_audit._core.own_socket cimport OwnSocket
from inbound_audit._core.ranges cimport Ranges
from inbound_audit._core.reply cimport Reply, Words

cdef extern from "inbound_audit/_core/gate.h":
    ctypedef struct Thread "pthread_t":
        pass
    int64_t monotonic_ms "ia_monotonic_ms"() noexcept nogil
    int watch "ia_watch"(int, int, u64, bint) noexcept nogil
    int unwatch "ia_unwatch"(int, int) noexcept nogil

cdef enum:
    MAX_SOCKETS = 256           # that a gate listens on
    MAX_LANES = 64
    MAX_DRAINED = 512           # sockets of one lane; beyond it the oldest one is reset
    DRAIN_MS = 1000
    END = 0                     # numbers of events: the queue is lost, or the lane is to end;
    FIRST_SOCKET = 1            # then the listening sockets, then the drained ones
    FIRST_DRAINED = FIRST_SOCKET + MAX_SOCKETS

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
    Reply denial                # denied by an override
    Reply busy                  # the queue is full, or no descriptor is left
    Reply unavailable           # it can't be counted
    Reply closing               # it waited when the gate was closed

cdef struct Listening:
    OwnSocket socket            # the gate's; its number, atomic, is -1 once all lanes have left it
    int given                   # the number that the caller has for the same open socket
    u64 lanes                   # that have it; atomic
    u64 own_us                  # what its caller has set, for what is accepted; atomic
    u32 is_limited              # this gate has set another time; atomic

# A place of the ring of drained sockets, or of the list of free places.
cdef struct Drained:
    OwnSocket socket
    int64_t until_ms
    u32 older
    u32 newer                   # or the next free place

cdef struct Lane:
    Thread thread
    Gate *gate
    Mutex lock
    u64 wanted                  # other threads that wait for the lock; atomic
    Mutex hands                 # for each change of a descriptor below; taken after `lock`, before that of the queue
    int hand                    # a connection that is neither refused nor in the queue yet; -1: none
    Rules *rules                # under the lock, like all that follows
    int epoll
    int task                    # the thread of the lane, by which its epoll is known
    u32 begun                   # published: the epoll is marked
    bint is_stale               # the epoll is to be made anew
    OwnSocket spare             # for the time when no descriptor is left; below 0: it is lost
    bint rests
    int *watched                # [sockets] the number under which the epoll has it; -1: this lane has left it
    int64_t checked_ms
    Drained drained[MAX_DRAINED + 1]    # place 0 is before the oldest and after the newest
    u32 free                    # the first free place; 0: none
    # counters and news: written under the lock, read without it
    u64 opened
    u64 refused
    u64 queue_full
    u64 forwarded               # connections that went into a forwarder's queue
    u64 closed_waiting          # connections that waited when the gate was closed
    u64 uncounted
    u64 failures                # connections that were lost, and times when none could be accepted
    u64 left                    # listening sockets that were closed under the gate
    u64 lost                    # descriptors of the gate that other code has closed
    u32 error                   # of the last failure, or of the last socket that was left
    u32 wants_file              # the tree has no file: Python has to make one
    # news under the lock: peers without a version are none
    ia_ac last                  # that was refused
    ia_ac last_full             # for which the queue was full
    ia_ac last_uncounted        # that could not be counted
    int count_error             # the code of why
    Decisions decisions         # for the decision log

cdef struct Gate:
    Tree *tree
    Tree *refusals              # counts who was over a limit, for shedding; NULL: not wanted
    GateQueue queue
    GateQueue *out              # where those go that may stay: `queue`, or a forwarder's; under each lane's lock
    u32 stops                   # the threads are to end; atomic
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
