"""The structures of an audit.

    Owner --- service "SMTP" --> tree of listener "mx" --> tree of listener "submission"
          --- service "Control" --> ...
          --- series "300,6" --> ring of this process --> ring of another process

A service is a list of trees: those of this process, and those of other owners that are attached. A series is a list of
rings, one for each owner that records in it; a ring has one tree for each window. `inbound_cidr` is no service of its
own: it is the view of all SMTP sessions of the cluster, and a host without a cluster is a cluster of one.

Readers follow these pointers without a lock, so each is published by one store (`publish_tree`, `publish_ring`) after
the structure behind it is complete. A `Tree` and its address range live as long as the audit.
"""

from libc.stdint cimport int64_t

from inbound_audit._core.bits cimport u8, u16, u32, u64
from inbound_audit._core.layout cimport MAX_NAME, Arena, Label

cdef extern from "inbound_audit/_core/bits.h":
    Ring *load_ring "ia_acquire"(Ring **) noexcept nogil
    void publish_ring "ia_publish"(Ring **, Ring *) noexcept nogil
    Tree *load_tree "ia_acquire"(Tree **) noexcept nogil
    void publish_tree "ia_publish"(Tree **, Tree *) noexcept nogil

cdef enum:
    MAX_SERVICES = 64
    MAX_SERVICE_NAME = 63
    MAX_TREES = 4096       # listeners and windows of one owner: bounds a sum, and the address space reserved
    MAX_SERIES = 1024
    MAX_MONITORS = 16
    MAX_SLOTS = 1024       # windows of one series
    SMTP = 0                # the service of a count that names none
    INBOUND_CIDR = 1                # inbound_cidr

# What a tree counts.
cdef enum Kind:
    SESSIONS = 0            # of a listener
    WINDOW = 1              # of a series

# What a tree is ready for.
cdef enum State:
    READY = 0
    NO_FILE = 1            # a fork's child: before it counts, it needs a file of its own
    ENDED = 2               # the audit is closed

cdef struct Tree:
    # What a sum reads stands first.
    Tree *next              # of the same service
    u64 stalled             # a `seq` in mid-update that a reader has waited for in vain
    Arena arena
    Owner *owner
    Tree *older             # made before this one: all of an audit
    Tree *sibling           # foreign: of the same file, or waiting to be used again
    u64 max_units           # foreign: more hosts than this can't be in the memory that the file has
    u64 dropped             # foreign: when it left, in nanoseconds of a clock that only grows
    int service             # of a window: MAX_SERVICES and the number of its series
    u32 listener_id                 # listeners of the same service and name, in all processes, have the same number
    u32 epoch               # grows when the tree is forgotten; written under the arena's lock
    u32 state               # written under the arena's lock
    Label label
    Ring *ring              # of a window

# One process's windows of one series. Window `number` of the ring lies in slot `number` mod `slots`; of each slot there
# is a tree for what was added, and one for what was taken away as soon as something was. The head is the tree of slot 0.
cdef struct Ring:
    Ring *next              # of the same series, in another process
    Ring *same_file         # foreign: of the same file; of those that have left, the next
    Series *series
    Tree **tree             # of slot and sign: [2 * slot + sign]; NULL where there is none
    u64 dropped             # foreign: when it left

# What the owner of a ring knows of a slot.
cdef struct Slot:
    int64_t number[2]       # of the window that each of its trees holds
    u8 level[2]             # rows of the table of lengths to which hosts were folded, IPv4 first
    u8 family               # being folded
    u8 sign                 # where the walk of the folding is
    bint folding
    u64 hi                  # and at which address
    u64 lo
    u64 folded

cdef struct Series:
    u32 scope               # connections, receptions, rejections, addresses or strings
    u32 family              # 4 or 6: only addresses of that version are recorded and counted here; 0: both
    u32 family_reported     # 1: a query or change with the other version was reported
    u32 name_size
    char name[MAX_NAME]
    u32 interval            # seconds
    u32 slots
    Owner *owner
    Ring *first             # of all processes; published
    Ring *spare             # of those that have gone
    # our own part
    Ring *own               # NULL: we don't count there
    u32 lock                # writers of our ring, one at a time
    u32 state
    u32 ready               # published when our ring is complete
    u64 waiting
    int64_t newest          # number of the current window
    int64_t base            # that number less the clock's
    Slot *slot
    u32 max_units          # of a window: beyond three quarters of it detail is given up
    u32 max_hosts          # of a window; 0: no bound
    u64 keep                # bytes that a window may leave in memory
    bint trims
    u64 uncounted           # for which there was no room
    int log_fd              # -1: none
    u64 log_id
    u64 log_sequence
    u64 log_failures

cdef struct Service:
    char name[MAX_SERVICE_NAME + 1]
    u32 size
    Tree *first

cdef struct Owner:
    Service service[MAX_SERVICES]
    u32 services            # published after the service is complete
    u32 trees               # own ones
    bint shared
    Tree *newest            # of all that were ever made
    Tree *spare             # foreign ones that were dropped
    Series *series[MAX_SERIES]
    u32 series_known        # published after the series is complete
    u32 monitors            # series[3 * m + kind] is that of monitor m
    int64_t (*now)(Owner *) noexcept nogil   # microseconds since 1970; NULL: the system's clock
    void *clock             # the door's
    int64_t last_now
    # our own file, in shared mode
    int own_fd
    u32 own_sections

# A prefix whose count is added to a sum (sign 1) or subtracted from it (sign -1).
cdef struct Term:
    u64 hi
    u64 lo
    int version
    int length
    int sign

# What a policy asks: the connecting IP and its listener. Copied by value into Lua, so it owns nothing; `tree` stays
# good as long as the owner, which every holder of a copy keeps alive.
cdef struct ia_ac:
    # What a count of an IPv4 session reads stands first: a session is met cold, and one cache line is cheaper than two.
    u64 hi
    Tree *tree
    u16 remote_port
    u8 version
    u8 open                 # 1 while the session is counted
    u32 epoch               # of the tree when the session was opened: another one counts it no more
    u64 lo
    u64 conn_id

cdef enum Scope:
    CONNECTIONS = 0
    RECEPTIONS = 1
    REJECTIONS = 2
    ADDRESSES = 3       # a named series
    # STRINGS = 4, of `fold`
