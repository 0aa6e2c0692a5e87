"""A tree as another process may have written it: each count ends and reads no byte outside, by the core and by the C
reader of shared files. Its owner writes to the same bytes: each change is made or refused, inside too.
"""

from libc.stdint cimport int64_t

cimport inbound_audit._core.address as ip
cimport inbound_audit._core.coalesce as coalesce
cimport inbound_audit._core.prefix as prefix
cimport inbound_audit._core.sums as sums
cimport inbound_audit._core.trie as trie
cimport inbound_audit._core.verify as verify

include "hostile_tree.pxi"

cdef extern from "reader.h":
    long long reader_count(const u8 *, u64, const u8 *, int, int) noexcept nogil


cdef void count(const u8 *address, bint v6, int length) noexcept nogil:
    cdef prefix.Prefix p
    cdef int64_t seen
    ip.from_packed(address, 16 if v6 else 4, &p.address)
    v6 = p.address.version == 6
    p.length = length % (ip.width(p.address.version) + 1)
    ip.mask(&p.address, p.length)
    seen = sums.tree_count(&tree, &p)
    expect(seen >= 0 and seen >> 32 == 0, "a count is a count")
    if v6 or p.address.hi >> 56 == address[0]:  # else it was a mapped address
        seen = reader_count(arena.base, <u64>(UNITS + layout.LARGEST_UNITS) * layout.UNIT, address, v6, p.length)
        expect(seen >= 0, "a count of the C reader is a count")


cdef void write_beside(const u8 *address) noexcept nogil:
    """What the owner does with such bytes: each change is made or refused."""
    cdef ip.Address a, b
    tree.arena.bump = UNITS // 2
    verify.verify(&tree.arena)
    ip.from_packed(address, 4, &a)
    ip.from_packed(address, 16, &b)
    expect(trie.trie_add(&tree.arena, &a, 1) <= 0 and trie.trie_add(&tree.arena, &b, 1) <= 0, "an addition has a code")
    expect(trie.trie_move(&tree.arena, &a, &b, 1) <= 0, "a move has a code")
    expect(trie.trie_remove(&tree.arena, &a, 1) <= 0, "a removal has a code")
    expect(trie.trie_remove(&tree.arena, &b, 1) <= 0, "a removal of IPv6 has a code")
    coalesce.coalesce(&tree.arena)


cdef public void run(const u8 *data, size_t size) noexcept nogil:
    cdef int i
    if size < PROBE:
        return
    fill(data + PROBE, size - PROBE)
    if data[0] % 4 == 0:
        write_beside(data + 1)
        return
    for i in range(4):
        count(data + 1, i & 1, data[17] + 8 * i)
