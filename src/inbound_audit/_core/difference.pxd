"""What a sum of trees holds and another tree does not: what a host has to tell the other hosts of its cluster.

Both are walked in address order, once; each host with another count is a difference. The walk is weakly consistent;
what it misses, the next one finds.

Lock rule: none, as in the room `hosts`. The other tree may be changed at the host that was found last.
"""

from libc.stdint cimport uintptr_t

from inbound_audit._core.address cimport Address
from inbound_audit._core.bits cimport u64, acquire64, load64
from inbound_audit._core.hosts cimport Merge, Run, next_host, run_has, run_host, run_on, start_merge, start_run
from inbound_audit._core.layout cimport header
from inbound_audit._core.model cimport Tree, load_tree
from inbound_audit._core.records cimport Host, Writer, mix, order, write_record


cdef struct Difference:
    Merge *merge
    Run run                 # of the other tree
    Host now                # the next host of the merge
    bint has                # there is one


cdef inline u64 stamp_tree(u64 stamp, Tree *t) noexcept nogil:
    """The stamp of one tree more. `dropped` tells it from another owner's tree that was at this place before."""
    return mix(stamp ^ <u64><uintptr_t>t ^ acquire64(&header(&t.arena).seq)) ^ mix(load64(&t.dropped))


cdef inline u64 stamp_of(Tree *t) noexcept nogil:
    """A number that differs as soon as any tree of the list has changed, or the list has. Two loads per tree."""
    cdef u64 stamp = 0
    while t != NULL:
        stamp = stamp_tree(stamp, t)
        t = load_tree(&t.next)
    return stamp


cdef inline void start_difference(Difference *d, Merge *m, Tree *other, const Address *start) noexcept nogil:
    """Between the trees of a merge and `other`, from `start` on, of its version."""
    d.merge = m
    d.now.address = start[0]
    d.now.count = 0
    start_run(&d.run, other, start)
    start_merge(m, start)
    d.has = next_host(m, &d.now)


cdef inline bint next_difference(Difference *d, Host *out) noexcept nogil:
    """The next host with another count, and its count in the merge. Returns False at the end. O(hosts x log trees)."""
    cdef int side
    cdef bint differs = False
    while not differs and (d.has or run_has(&d.run)):
        side = -1 if not run_has(&d.run) else 1 if not d.has else order(&d.now.address, &run_host(&d.run).address)
        differs = side != 0 or d.now.count != run_host(&d.run).count
        if differs:
            out[0] = d.now if side <= 0 else run_host(&d.run)[0]
        if side > 0:
            out.count = 0
        if side >= 0:
            run_on(&d.run)
        if side <= 0:
            d.has = next_host(d.merge, &d.now)
    return differs


cdef inline bint write_difference(
    Merge *m, Tree *said, const Address *start, Writer *w, Address *stopped
) noexcept nogil:
    """Writes what the trees of a merge hold otherwise than `said`, from `start` on, of its version.

    Returns False if there is no room; `stopped` is then the first address that is left out.
    """
    cdef Difference d
    cdef Host host
    start_difference(&d, m, said, start)
    while next_difference(&d, &host):
        if not write_record(w, &host):
            stopped[0] = host.address
            return False
    return True
