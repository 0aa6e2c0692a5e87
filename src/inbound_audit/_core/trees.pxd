"""The lists of trees: services and their listeners' trees.

A list grows behind its anchor by one published pointer. `unlink_tree` takes a tree out of its list by one store into
the tree before it. The tree keeps its own `next`, so a reader that stands on it goes on.

Lock rule: `Owner.lock` is held to change the lists. `find_service`, `trees_of` and readers of the lists take no lock.
"""

from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy

from inbound_audit._core.backing cimport arena_close, arena_open
from inbound_audit._core.bits cimport u8, u32, u64, acquire32, acquire64, publish32
from inbound_audit._core.codes cimport FULL, NO_SERVICE, OK
from inbound_audit._core.kept_file cimport kept_free
from inbound_audit._core.layout cimport Arena, header
from inbound_audit._core.model cimport (
    INBOUND_CIDR, MAX_SERVICES, MAX_TREES, READY, SESSIONS, SMTP, Owner, Ring, Series, Service, Tree, load_tree,
    publish_tree,
)
from inbound_audit._core.overrides cimport free_maps

cdef extern from *:
    """
    /* The header of a tree that holds nothing; never written to. */
    static uint64_t ia_nothing[64];
    """
    u64 NOTHING "ia_nothing"[64]


cdef inline int add_service(Owner *o, const char *name, size_t size) noexcept nogil:
    """Adds a service and returns its number, or FULL. The name is new and fits."""
    cdef Service *s = &o.service[o.services]
    if o.services == MAX_SERVICES:
        return FULL
    memcpy(s.name, name, size)
    s.size = <u32>size
    o.anchor[o.services].arena.base = <u8 *>NOTHING
    publish32(&o.services, o.services + 1)
    return <int>o.services - 1


cdef inline void add_known_services(Owner *o) noexcept nogil:
    """Adds the two that the core knows by number, to an owner without services."""
    add_service(o, b"SMTP", 4)
    add_service(o, b"inbound_cidr", 12)
    o.anchor[INBOUND_CIDR].next = &o.anchor[SMTP]


cdef inline int ensure_service(Owner *o, const char *name, size_t size) noexcept nogil:
    """The number of a service, which becomes known; or FULL."""
    cdef int number = find_service(o, name, size)
    return number if number >= 0 else add_service(o, name, size)


cdef inline u32 listener_id_of(Owner *o, int service, const char *name, u32 size) noexcept nogil:
    """The number that all trees of a service and listener name share, own or not. O(trees)."""
    cdef Tree *t = o.newest
    while t != NULL:
        if t.service == service and t.label.kind == SESSIONS and t.label.listener_size == size:
            if memcmp(t.label.listener, name, size) == 0:
                return t.listener_id
        t = t.older
    o.listener_ids += 1
    return o.listener_ids


cdef inline void append_listener(Owner *o, Tree *t) noexcept nogil:
    cdef Tree **at = &o.listeners
    while at[0] != NULL:
        at = &at[0].sibling
    at[0] = t


cdef inline void link_tree(Owner *o, Tree *t) noexcept nogil:
    publish_tree(&t.next, o.anchor[t.service].next)  # a reader may stand on a tree that is used again
    publish_tree(&o.anchor[t.service].next, t)


cdef inline void unlink_tree(Owner *o, Tree *t) noexcept nogil:
    """Takes a tree out of its list, if it is there. A reader on the tree goes on to the next one."""
    cdef Tree **at = &o.anchor[t.service].next
    while at[0] != NULL and at[0] != t:
        at = &at[0].next
    if at[0] == t:
        publish_tree(at, t.next)


cdef inline Tree *new_tree(Owner *o, int service) noexcept nogil:
    """A tree without an arena, not yet in a list; NULL if there is no memory."""
    cdef Tree *t = <Tree *>calloc(1, sizeof(Tree))
    if t == NULL:
        return NULL
    t.owner = o
    t.service = service
    t.state = READY
    t.arena.guarded = -1
    t.older = o.newest
    o.newest = t
    return t


cdef inline Tree *add_tree(Owner *o, int service, u32 listener_id, u64 capacity) noexcept nogil:
    """A new tree of this process, not yet published; NULL if there is no memory or address space."""
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
    """Frees a series, and that of the other nodes."""
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
    if s.own != NULL and not s.ready:  # it was never complete, so it is in no list
        free_ring(s.own)
    free(s.slot)
    kept_free(s.log)
    if s.remote != NULL:
        free_series(s.remote)
    free(s)


cdef inline void free_trees(Owner *o) noexcept nogil:
    """Frees all trees, series and overrides. No thread may read them any more."""
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
    free_maps(o.newest_map)


cdef inline int find_service(Owner *o, const char *name, size_t size) noexcept nogil:
    """The number of a service by its exact name, or NO_SERVICE. O(services)."""
    cdef int i
    for i in range(<int>acquire32(&o.services)):
        if o.service[i].size == size and memcmp(o.service[i].name, name, size) == 0:
            return i
    return NO_SERVICE


cdef inline void link_sum(Owner *o, Tree *t) noexcept nogil:
    """Publishes a tree that has the sum over all other nodes."""
    publish_tree(&t.next, &o.anchor[SMTP])
    publish_tree(&o.sum, t)


cdef inline bint sum_in_use(Tree *sum) noexcept nogil:
    """The header says that the sum is complete."""
    return acquire64(<u64 *>&header(&sum.arena).number) == 1


cdef inline Tree *remote_trees(Owner *o) noexcept nogil:
    """The trees of the other nodes; SMTP's anchor comes after the last one."""
    return load_tree(&o.anchor[INBOUND_CIDR].next)


cdef inline Tree *trees_of_cluster(Owner *o) noexcept nogil:
    """What `inbound_cidr` counts: the other nodes, or their sum, and this host."""
    cdef Tree *sum = load_tree(&o.sum)
    return sum if sum != NULL and sum_in_use(sum) else remote_trees(o)


cdef inline Tree *service_trees(Owner *o, int service) noexcept nogil:
    """The trees of a service that is not the view `inbound_cidr`: one load."""
    return load_tree(&o.anchor[service].next)


cdef inline Tree *trees_of(Owner *o, int service) noexcept nogil:
    return trees_of_cluster(o) if service == INBOUND_CIDR else service_trees(o, service)
