"""A tree as another process may have written it: each long walk ends, with its rows or with an error.

The rows of the tree, the hosts, and the largest prefixes. A walk that damaged bytes lead in a circle ends by its
budget.
"""

cimport inbound_audit._core.walk as walk

include "hostile_tree.pxi"


cdef void walk_rows(int version, bint hosts) noexcept nogil:
    cdef walk.Rows rows
    cdef int code
    memset(&rows, 0, sizeof(rows))
    code = walk.walk_hosts(&tree, version, &rows) if hosts else walk.walk_tree(&tree, version, &rows)
    expect(code == codes.OK or code == codes.DAMAGED, "a walk ends")
    walk.free_rows(&rows)


cdef void walk_top(int length) noexcept nogil:
    cdef walk.Rows rows, heap
    cdef int[2] lengths = [length % 33, length % 129]
    cdef int code
    memset(&rows, 0, sizeof(rows))
    memset(&heap, 0, sizeof(heap))
    code = walk.walk_top(&tree, 5, lengths, &heap, &rows)
    expect(code == codes.OK or code == codes.DAMAGED, "a search for the largest ends")
    walk.free_rows(&rows)
    walk.free_rows(&heap)


cdef public void run(const u8 *data, size_t size) noexcept nogil:
    if size < PROBE:
        return
    fill(data + PROBE, size - PROBE)
    if data[0] % 2:
        walk_top(data[17])
    else:
        walk_rows(4 if data[1] & 1 else 6, (data[1] & 2) != 0)
