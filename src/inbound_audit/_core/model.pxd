"""The structures of an audit.

    Owner --- "inbound_cidr" --> tree of node "mx2" --> tree of node "mx3" --+
                                                                              |
          --- "SMTP" ---> (anchor) --> tree of listener "mx" --> tree of listener "submission"
          --- "Control" -> (anchor) --> ...
          --- series "300,6" --> ring of this process --> ring of another process

A service is a list of trees: those of this process, and those of other owners that are attached. A series is a list of
rings, one for each owner that records in it; a ring has one tree per window. What the other nodes of a cluster have
recorded in it is a series of its own (`remote`), with one ring: that of the agent.

`inbound_cidr` is not a service of its own: it is the view of all SMTP sessions of the cluster. Its list has a tree for
each other node (room `node_tree`), and ends in the list of SMTP, so a host without a cluster is a cluster of one. Each
list begins with its *anchor*, a tree that holds nothing and stays where it is; the list of `inbound_cidr` ends in the
anchor of SMTP because SMTP's first tree changes. With very many nodes one tree has the sum over them: `sum` leads to
it, it is in no list, and SMTP's anchor comes after it.

Readers follow these pointers without a lock, so each is published by one store (`publish_tree`, `publish_ring`) after
the structure is complete. A `Tree` and its address range live as long as the audit.
"""

from libc.stdint cimport int64_t

from inbound_audit._core.bits cimport u8, u16, u32, u64
from inbound_audit._core.kept_file cimport KeptFile
from inbound_audit._core.layout cimport MAX_NAME, Arena, Label
from inbound_audit._core.overrides cimport Notes, OverrideMap

cdef extern from "inbound_audit/_core/bits.h":
    Ring *load_ring "ia_acquire"(Ring **) noexcept nogil
    void publish_ring "ia_publish"(Ring **, Ring *) noexcept nogil
    Series *load_series "ia_acquire"(Series **) noexcept nogil
    void publish_series "ia_publish"(Series **, Series *) noexcept nogil
    OverrideMap *load_map "ia_acquire"(OverrideMap **) noexcept nogil
    void publish_map "ia_publish"(OverrideMap **, OverrideMap *) noexcept nogil
    Tree *load_tree "ia_acquire"(Tree **) noexcept nogil
    void publish_tree "ia_publish"(Tree **, Tree *) noexcept nogil

cdef enum:
    MAX_SERVICES = 64
    MAX_SERVICE_NAME = 63
    MAX_TREES = 4096        # of one owner: bounds a sum, and the reserved address space
    MAX_NODES = 4000        # other nodes of a cluster
    MAX_NODE_NAME = 63      # bytes
    MAX_SERIES = 1024
    MAX_MONITORS = 16
    MAX_SLOTS = 1024        # windows of one series
    SMTP = 0                # the default service
    INBOUND_CIDR = 1        # the view inbound_cidr

# What a tree counts.
cdef enum Kind:
    SESSIONS = 0            # of a listener
    WINDOW = 1              # of a series
    REMOTE = 2              # the sessions of another node, as it said them: service SMTP, and the node's name
    SUM = 3                 # the sum over all trees of kind REMOTE in the same file
    REMOTE_WINDOW = 4       # the sum over a window of a series of the other nodes

# What this host knows of another node; 0: the tree is not in use.
cdef enum NodeState:
    HEARD = 1
    LOST = 2
    DUPLICATE = 3           # two nodes have this name
    OTHER_VERSION = 4
    THIS_HOST = 5           # its tree is empty: its sessions are those of SMTP
    TOO_LARGE = 6           # it has more hosts than it may, and is not counted

# What a series counts.
cdef enum Scope:
    CONNECTIONS = 0         # of a monitor
    RECEPTIONS = 1
    REJECTIONS = 2
    ADDRESSES = 3           # of a named series
    STRINGS = 4             # of a named series; the addresses are hashes

# Which hosts of a cluster count what a host records in a series.
cdef enum Replicate:
    REPLICATE_NONE = 0
    REPLICATE_CLUSTER = 1   # all
    REPLICATE_MANAGER = 2   # those whose agent is a manager

# May a session be opened in a tree?
cdef enum State:
    READY = 0
    NO_FILE = 1             # not yet: the process needs a file of its own first (the child of a fork, shared mode)
    ENDED = 2               # no more: the audit is closed

cdef struct Tree:
    # A sum reads the first fields.
    Tree *next              # of the same service
    u64 stalled             # a `seq` in mid-update for which a reader has waited without success
    Arena arena
    Owner *owner
    Tree *older             # the tree of this audit that was made before
    Tree *sibling           # the next of: this process's listeners; another owner's file; the trees to be used again
    u64 max_units           # of another owner: the units for which its file has memory; 0: a tree of our own
    u64 dropped             # of another owner: when it was detached, in nanoseconds of a monotonic clock
    int service             # of a window: MAX_SERVICES plus the number of its series (room `window`)
    u32 listener_id         # equal for listeners of the same service and name in all processes
    u32 epoch               # grows when the tree is emptied; stored under the arena's lock, and atomically
    u32 state               # State; likewise
    Label label
    Ring *ring              # of a window
    u64 digest              # of a node: of its hosts (room `records`); written under the arena's lock
    u64 max_hosts           # of a node

# One process's windows of one series. Window `number` lies in slot `number` mod `slots`. A slot has a tree for what was
# added; it gets a second tree when something is subtracted. The head of a ring is the first tree of slot 0.
cdef struct Ring:
    Ring *next              # of the same series, in another process
    Ring *same_file         # of another owner: the next ring of the file, or the next that may be used again
    Series *series
    Tree **tree             # [2 * slot + sign]; NULL: no tree
    u64 dropped             # of another owner: when it was detached, as in `Tree`

# What the owner of a ring knows of a slot.
cdef struct Slot:
    int64_t number[2]       # of the window that each of the two trees holds
    u8 level[2]             # index in the table of lengths (room `fold`), IPv4 first
    bint folding            # a walk that folds hosts is under way:
    u8 family               # in this family (0: IPv4, 1: IPv6),
    u8 sign                 # in this tree,
    u64 hi                  # from this address on
    u64 lo
    u64 folded              # number of hosts that were folded
    int64_t whole[2]        # of other nodes: the window whose tree is the sum over all of them (room `cluster_window`)

cdef struct Series:
    u32 kind                # WINDOW, or REMOTE_WINDOW: of the other nodes
    u32 scope               # Scope
    u32 family              # 4 or 6: only addresses of that version are recorded and counted here; 0: both
    u32 family_reported     # 1: a query or change with the other version was reported
    u32 name_size
    char name[MAX_NAME]
    u32 interval            # seconds
    u32 slots
    Owner *owner
    Ring *first             # of the rings of all owners; published
    Ring *spare             # of the rings that may be used again
    Series *remote          # the same series of the other nodes, in the agent's file; published; NULL: none is known
    u32 replicate           # Replicate
    u64 asked               # the number of the window of the last sliding sum; atomic
    # the ring of this process
    Ring *own               # NULL: this process does not record in the series
    u32 lock                # the writer lock of the ring
    u32 state               # State; stored under the lock, and atomically
    u32 ready               # published when the ring is complete
    u64 waiting             # writers that wait for the lock
    int64_t newest          # number of the current window
    int64_t base            # `newest` minus the number that the clock gives
    Slot *slot
    u32 max_units           # of a window; it folds hosts from three quarters of this on
    u32 max_hosts           # of a window; 0: no bound
    u64 keep                # bytes of a window's pages that stay when it is emptied
    bint trims              # some windows still have pages beyond that
    u64 uncounted           # events that found no room
    KeptFile *log           # the change log; NULL: no log
    u64 log_id
    u64 log_sequence
    u64 log_failures
    int log_error        # why the last of them failed: an error number

cdef struct Service:
    char name[MAX_SERVICE_NAME + 1]
    u32 size

cdef struct Owner:
    Service service[MAX_SERVICES]
    Tree anchor[MAX_SERVICES]   # of each service: `next` is its first tree
    u32 services            # published after the service is complete
    u32 trees               # of this process
    u32 lock                # of a change to services, trees, series, rings or the file of this process
    u32 listener_ids        # how many were given out
    u64 waiting
    Tree *listeners         # the listeners' trees of this process in the order in which they were made, by `sibling`
    bint shared             # other owners may be attached
    Tree *newest            # the last tree that was made: `older` leads to all of them
    Tree *spare             # the trees of other owners that may be used again
    Series *series[MAX_SERIES]  # those of this host; `remote` leads to those of the other nodes
    u32 series_known        # published after the series is complete
    u32 monitors            # published after the series of the monitor are complete
    Series *monitor[MAX_MONITORS][3]    # the series of each monitor, by kind
    int64_t (*now)(Owner *) noexcept nogil   # microseconds since 1970; NULL: the system's clock
    void *clock             # the extension's: a Python callable
    int64_t last_now        # the last valid time of that clock
    # overrides
    OverrideMap *overrides  # published; NULL: none
    OverrideMap *newest_map  # the last one that was allocated: `older` leads to all of them
    Notes notes
    # the file of this process, in shared mode
    KeptFile *own_file
    u32 own_sections
    # the cluster
    Tree *sum               # NULL: none; published
    u32 nodes_lock          # of a change of the nodes' trees and of their sum
    u64 nodes_waiting
    int error               # number of the error for which the last tree, or the last file, was not made

# A prefix whose count is added to a sum (sign 1) or subtracted from it (sign -1).
cdef struct Term:
    u64 hi
    u64 lo
    int version
    int length
    int sign

# The accept construct: the connecting IP and its listener. Lua gets a copy, so the struct owns nothing; `tree` is valid
# as long as the owner, and each holder of a copy keeps the audit alive.
cdef struct ia_ac:
    # A count of an IPv4 session reads the first fields, which lie in one cache line.
    u64 hi
    Tree *tree
    u16 remote_port
    u8 version
    u8 open                 # 1 while the session is counted
    u32 epoch               # of the tree when the session was opened; if it differs, the session is not counted
    u64 lo
    u64 conn_id
