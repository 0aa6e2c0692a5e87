"""A tree as another process may have written it: each long walk ends, with its rows or with an error.

The rows of the tree, the hosts, the hosts in pieces that are merged with those of the same tree, the largest prefixes,
and a picture. A walk that damaged bytes lead in a circle ends by its budget.
"""

from libc.stdint cimport int64_t

cimport inbound_audit._core.address as ip
cimport inbound_audit._core.hosts as hosts
cimport inbound_audit._core.picture as picture
cimport inbound_audit._core.prefix as prefix
cimport inbound_audit._core.records as records
cimport inbound_audit._core.walk as walk

include "hostile_tree.pxi"


cdef void walk_rows(int version, bint alone) noexcept nogil:
    cdef walk.Rows rows
    cdef int code
    memset(&rows, 0, sizeof(rows))
    code = walk.walk_hosts(&tree, version, &rows) if alone else walk.walk_tree(&tree, version, &rows)
    expect(code == codes.OK or code == codes.DAMAGED, "a walk ends")
    walk.free_rows(&rows)


cdef void walk_top(int length) noexcept nogil:
    cdef walk.Rows rows, heap
    cdef int[2] lengths = [length % 33, length % 129]
    cdef int code
    memset(&rows, 0, sizeof(rows))
    memset(&heap, 0, sizeof(heap))
    code = walk.walk_top(&tree, 5, lengths, 1, &heap, &rows)
    expect(code == codes.OK or code == codes.DAMAGED, "a search for the largest ends")
    walk.free_rows(&rows)
    walk.free_rows(&heap)


cdef bint is_inside(const prefix.Prefix *p, const prefix.Prefix *outer) noexcept nogil:
    """Not all of it."""
    return p.length > outer.length and ip.compare(
        p.address.hi, p.address.lo, outer.address.hi, outer.address.lo, outer.length
    ) == 0


cdef void draw_picture(u32 rows) noexcept nogil:
    """Each row is inside the row that it belongs to, and what is inside a row is not more than it."""
    cdef picture.Picture pic
    cdef picture.Spot *outer
    cdef picture.Spot *inner
    cdef int64_t inside
    cdef u32 i, k
    memset(&pic, 0, sizeof(pic))
    expect(picture.add_part(&pic.parts, &tree, NULL, False, 0) == codes.OK, "there is memory")
    expect(picture.draw(&pic, rows, NULL) == codes.OK and pic.size <= rows, "a picture has no more rows")
    for i in range(pic.size):
        outer = &pic.spot[i]
        inside = 0
        for k in range(2):
            if outer.inside[k]:
                inner = &pic.spot[outer.inside[k]]
                inside += inner.count
                expect(is_inside(&inner.prefix, &outer.prefix), "a row is inside the row around it")
        expect(outer.count > 0 and inside <= outer.count, "rows add up")
    picture.free_picture(&pic)


cdef void merge_hosts(int version, u64 hi, u64 lo) noexcept nogil:
    """Addresses ascend from the first one on, and a host of both runs has both counts."""
    cdef model.Tree again = tree
    cdef hosts.Merge merge
    cdef records.Host host
    cdef ip.Address start
    cdef u64 found = 0
    start.hi, start.lo, start.version = hi, lo if version == 6 else 0, version
    tree.next = &again
    expect(hosts.open_merge(&merge, &tree) == codes.OK, "there is memory")
    hosts.start_merge(&merge, &start)
    while hosts.next_host(&merge, &host):
        expect(ip.compare(host.address.hi, host.address.lo, start.hi, start.lo, 128) >= 0, "addresses ascend")
        start = host.address
        ip.next_address(&start)
        found += 1
    expect(found <= hosts.HOSTS_FREE + 9 * UNITS + 2 * hosts.RUN, "a run ends")
    hosts.close_merge(&merge)


cdef public void run(const u8 *data, size_t size) noexcept nogil:
    if size < PROBE:
        return
    fill(data + PROBE, size - PROBE)
    if data[0] % 4 == 2:
        merge_hosts(4 if data[1] & 1 else 6, <u64>data[2] << 56 | <u64>data[3] << 48, data[4])
    elif data[0] % 8 == 4:
        draw_picture(2 + data[17])
    elif data[0] % 2:
        walk_top(data[17])
    else:
        walk_rows(4 if data[1] & 1 else 6, (data[1] & 2) != 0)
