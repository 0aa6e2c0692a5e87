# The bytes of a tree as another process may have written them, for the targets that read such a tree.
#
# An input is what to do, an address and a length, then the start of the header, then the units of the tree. Behind the
# last unit that a reader may reach lie bytes that the sanitizer watches.

from libc.string cimport memcpy, memset

cimport inbound_audit._core.backing as backing
cimport inbound_audit._core.codes as codes
cimport inbound_audit._core.layout as layout
cimport inbound_audit._core.model as model
from inbound_audit._core.bits cimport u8, u32, u64

cdef extern from "driver.h":
    void expect(bint, const char *) noexcept nogil

cdef extern from "<sanitizer/asan_interface.h>":
    void poison "ASAN_POISON_MEMORY_REGION"(const void *, size_t) noexcept nogil

cdef enum:
    UNITS = 512             # that a reader may reach
    ROOTS = 40              # bytes of the header that an input sets: seq, roots, numbers of hosts
    PROBE = 18              # bytes of an input before them: what to do, an address, and a length

cdef layout.Arena arena
cdef model.Tree tree


cdef public void set_up() noexcept nogil:
    expect(backing.arena_open(&arena, UNITS * layout.UNIT) == codes.OK, "there is room for a tree")
    poison(arena.base + (UNITS + layout.LARGEST_UNITS) * layout.UNIT,
           <size_t>(arena.size - (UNITS + layout.LARGEST_UNITS) * layout.UNIT))


cdef void fill(const u8 *data, size_t size) noexcept nogil:
    """The tree as an owner's file has it, but for the bytes of the input."""
    cdef size_t rest, room = <size_t>(UNITS + layout.LARGEST_UNITS - layout.HEADER_UNITS) * layout.UNIT
    cdef u8 *units = arena.base + layout.HEADER_UNITS * layout.UNIT
    backing.arena_format(&arena)
    memset(units, 0, room)
    memcpy(arena.base, data, ROOTS if size > ROOTS else size)
    rest = size - ROOTS if size > ROOTS else 0
    memcpy(units, data + ROOTS, room if rest > room else rest)
    memset(&tree, 0, sizeof(tree))
    tree.arena = arena
    tree.max_units = UNITS
