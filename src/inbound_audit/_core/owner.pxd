"""Who counts what: services, their listeners' trees, and sums over them.

    Owner --- service "SMTP" --> tree of listener "mx" --> tree of listener "submission"
          --- service "Control" --> ...

A series of windows of time is a list of rings, one a process that counts in it (rooms `window` and `series`).

A service is a list of trees that grows at its head by one published pointer. A tree of another process leaves the list
when that process is gone, by one store into the tree before it, and keeps its own `next`, so that a reader who stands
on it finds on. A `Tree` and its address range live as long as the audit: what is left is covered, and used again later.
So a reader walks the list without a lock. In shared mode the trees of other processes hang in the same lists (room
`foreign`): a count is a sum over trees, whoever's they are. `inbound_cidr` is no service: it is the view of all SMTP sessions that the
cluster has, and here a host is a cluster of one.
"""

from libc.stdlib cimport calloc, free
from libc.stdint cimport int64_t
from libc.string cimport memcmp, memcpy

from inbound_audit._core.address cimport Address, width
from inbound_audit._core.arena cimport MAX_NAME, Arena, Label, arena_close, arena_open, header
from inbound_audit._core.bits cimport acquire32, u8, u16, u32, u64, load64, pause, publish32, store64
from inbound_audit._core.cidr cimport Prefix, parse_cidr
from inbound_audit._core.codes cimport FULL, NO_SERVICE, OK
from inbound_audit._core.seqlock cimport READ_TRIES, read_begin, read_stood, read_waited
from inbound_audit._core.trie cimport trie_count

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


# ---- making and ending (the door's, one thread at a time)

cdef inline int add_service(Owner *o, const char *name, size_t size) noexcept nogil:
    """The number of a new service, or FULL. The name is new and fits."""
    cdef Service *s = &o.service[o.services]
    if o.services == MAX_SERVICES:
        return FULL
    memcpy(s.name, name, size)
    s.size = <u32>size
    publish32(&o.services, o.services + 1)
    return <int>o.services - 1


cdef inline void link_tree(Owner *o, Tree *t) noexcept nogil:
    t.next = o.service[t.service].first
    publish_tree(&o.service[t.service].first, t)


cdef inline void unlink_tree(Owner *o, Tree *t) noexcept nogil:
    """Takes a tree out of its list, if it is there. A reader on it goes on to those behind it."""
    cdef Tree **at = &o.service[t.service].first
    while at[0] != NULL and at[0] != t:
        at = &at[0].next
    if at[0] == t:
        publish_tree(at, t.next)


cdef inline Tree *new_tree(Owner *o, int service) noexcept nogil:
    """A tree without an arena, not yet in a list; NULL when there is no memory."""
    cdef Tree *t = <Tree *>calloc(1, sizeof(Tree))
    if t == NULL:
        return NULL
    t.owner = o
    t.service = service
    t.state = READY
    t.arena.fd = -1
    t.arena.guarded = -1
    t.older = o.newest
    o.newest = t
    return t


cdef inline Tree *add_tree(Owner *o, int service, u32 listener_id, u64 capacity) noexcept nogil:
    """A new tree of our own, not yet published; NULL when there is no memory or address space for it."""
    cdef Arena arena
    cdef Tree *t
    if o.trees == MAX_TREES or arena_open(&arena, capacity) != OK:
        return NULL
    t = new_tree(o, service)
    if t == NULL:
        arena_close(&arena)
        return NULL
    t.arena = arena
    t.listener_id = listener_id
    o.trees += 1
    return t


cdef inline void free_ring(Ring *r) noexcept nogil:
    free(r.tree)
    free(r)


cdef inline void free_series(Series *s) noexcept nogil:
    cdef Ring *r = s.first
    while r != NULL:
        s.first = r.next
        free_ring(r)
        r = s.first
    r = s.spare
    while r != NULL:
        s.spare = r.same_file
        free_ring(r)
        r = s.spare
    if s.own != NULL and not s.ready:  # for want of room it never came into the list
        free_ring(s.own)
    free(s.slot)
    free(s)


cdef inline void free_trees(Owner *o) noexcept nogil:
    """Only when nobody can read any more."""
    cdef Tree *t = o.newest
    cdef u32 i
    while t != NULL:
        o.newest = t.older
        arena_close(&t.arena)
        free(t)
        t = o.newest
    for i in range(o.series_known):
        free_series(o.series[i])
    o.series_known = 0


# ---- sums

cdef inline int find_service(Owner *o, const char *name, size_t size) noexcept nogil:
    """The number of a service by its exact name, or NO_SERVICE. O(services)."""
    cdef int i
    for i in range(<int>acquire32(&o.services)):
        if o.service[i].size == size and memcmp(o.service[i].name, name, size) == 0:
            return i
    return NO_SERVICE


cdef inline Tree *trees_of(Owner *o, int service) noexcept nogil:
    return load_tree(&o.service[SMTP if service == INBOUND_CIDR else service].first)


cdef inline int64_t tree_count(Tree *t, const Prefix *p) noexcept nogil:
    """Sessions below a prefix in one tree, exact as of one moment.

    `seqlock` says what a stopped writer costs. A writer that overtakes every try without a rest gets its last walk as an
    answer, as that of no moment; it would have to change the tree a thousand times in the time of one walk each.
    """
    cdef u64 *seq = &header(&t.arena).seq
    cdef u64 began
    cdef u32 seen = 0, sound = 0
    cdef bint stood = False
    cdef int attempt
    for attempt in range(READ_TRIES):
        began = read_begin(seq)
        seen = trie_count(&t.arena, &p.address, p.length)
        if read_stood(seq, began):
            if not began & 1 or began == load64(&t.stalled):
                return seen
            if read_waited(attempt):
                store64(&t.stalled, began)
                return seen
            sound = seen
            stood = True
        pause()
    return sound if stood else seen  # a writer that never rests: what stood beside an update, if anything did


cdef inline int64_t sum_trees(Tree *t, const Prefix *p) noexcept nogil:
    """The sum over `t` and the trees behind it."""
    cdef int64_t total = 0
    while t != NULL:
        total += tree_count(t, p)
        t = t.next
    return total


cdef inline int64_t listener_count(Tree *mine, const Prefix *p) noexcept nogil:
    """The sum over a listener: one tree, and in shared mode its trees in other processes."""
    cdef int64_t total = 0
    cdef Tree *t
    if not mine.owner.shared:
        return tree_count(mine, p)
    t = trees_of(mine.owner, mine.service)
    while t != NULL:
        if t.listener_id == mine.listener_id:
            total += tree_count(t, p)
        t = t.next
    return total


cdef inline void whole_family(int version, Prefix *out) noexcept nogil:
    out.address.hi = 0
    out.address.lo = 0
    out.address.version = version
    out.length = 0


cdef inline int64_t tree_total(Tree *t) noexcept nogil:
    """Both families of one tree."""
    cdef Prefix p4, p6
    whole_family(4, &p4)
    whole_family(6, &p6)
    return tree_count(t, &p4) + tree_count(t, &p6)


cdef inline int64_t listener_total(Tree *mine) noexcept nogil:
    """Both families of a listener."""
    cdef Prefix p4, p6
    whole_family(4, &p4)
    whole_family(6, &p6)
    return listener_count(mine, &p4) + listener_count(mine, &p6)


cdef inline int64_t total_trees(Tree *t) noexcept nogil:
    cdef int64_t total = 0
    while t != NULL:
        total += tree_total(t)
        t = t.next
    return total


cdef inline void peer_of(const ia_ac *ac, Prefix *out) noexcept nogil:
    """The connecting IP, as a prefix of its own."""
    out.address.hi = ac.hi
    out.address.lo = ac.lo if ac.version == 6 else 0
    out.address.version = ac.version
    out.length = width(ac.version)


cdef inline int64_t query_sessions(
    const ia_ac *ac, const char *cidr, size_t cidr_size, const char *service, size_t service_size
) noexcept nogil:
    """`ac:inbound_session_count(cidr, service)`; NULL is nil. The count, or a code."""
    cdef Prefix peer, p
    cdef int number = SMTP, code
    peer_of(ac, &peer)
    if service != NULL:
        number = find_service(ac.tree.owner, service, service_size)
        if number < 0:
            return number
    if cidr == NULL:
        return listener_count(ac.tree, &peer) if service == NULL else sum_trees(trees_of(ac.tree.owner, number), &peer)
    code = parse_cidr(cidr, cidr + cidr_size, &peer.address, &p)
    return sum_trees(trees_of(ac.tree.owner, number), &p) if code == OK else code


cdef inline int64_t query_listener(Tree *mine, const Address *peer, const char *cidr, size_t cidr_size) noexcept nogil:
    """The sessions of one listener below a prefix; `peer` NULL: a length alone is an error. The count, or a code."""
    cdef Prefix p
    cdef int code = parse_cidr(cidr, cidr + cidr_size, peer, &p)
    return listener_count(mine, &p) if code == OK else code


cdef inline int64_t query_absolute(
    Owner *o, const char *cidr, size_t cidr_size, const char *service, size_t service_size
) noexcept nogil:
    """The same without a connecting IP."""
    cdef Prefix p
    cdef int number = find_service(o, service, service_size)
    cdef int code = parse_cidr(cidr, cidr + cidr_size, NULL, &p)
    if code < 0:
        return code
    return sum_trees(trees_of(o, number), &p) if number >= 0 else number
