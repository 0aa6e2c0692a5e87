"""What a sum of trees holds and another tree does not: what a host has to tell the other hosts of its cluster.

Both are walked in address order, once, and each host with another count becomes a record with its count now. The walk
is weakly consistent; what it misses, the next one finds.

Lock rule: none, as in the room `hosts`.
"""

from libc.stdint cimport uintptr_t

from inbound_audit._core.address cimport Address
from inbound_audit._core.bits cimport u64, acquire64
from inbound_audit._core.hosts cimport Merge, Run, next_host, run_has, run_host, run_on, start_merge, start_run
from inbound_audit._core.layout cimport header
from inbound_audit._core.model cimport Tree, load_tree
from inbound_audit._core.records cimport Host, Writer, mix, order, write_record


cdef inline u64 stamp_of(Tree *t) noexcept nogil:
    """A number that differs as soon as any tree of the list has changed, or the list has. One load per tree."""
    cdef u64 stamp = 0
    while t != NULL:
        stamp = mix(stamp ^ <u64><uintptr_t>t ^ acquire64(&header(&t.arena).seq))
        t = load_tree(&t.next)
    return stamp


cdef inline bint write_difference(
    Merge *m, Tree *first, Tree *stop, Tree *said, const Address *start, Writer *w, Address *stopped
) noexcept nogil:
    """Writes what the trees from `first` up to `stop` hold otherwise than `said`, from `start` on, of its version.

    Returns False if there is no room; `stopped` is then the first address that is left out. O(hosts x log trees).
    """
    cdef Run run
    cdef Host now, host
    cdef bint has
    cdef int side
    now.address = start[0]
    now.count = 0
    start_run(&run, said, start)
    start_merge(m, first, stop, start)
    has = next_host(m, &now)
    while has or run_has(&run):
        side = -1 if not run_has(&run) else 1 if not has else order(&now.address, &run_host(&run).address)
        if side or now.count != run_host(&run).count:
            host = now if side <= 0 else run_host(&run)[0]
            if side > 0:
                host.count = 0
            if not write_record(w, &host):
                stopped[0] = host.address
                return False
        if side >= 0:
            run_on(&run)
        if side <= 0:
            has = next_host(m, &now)
    return True
