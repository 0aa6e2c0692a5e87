"""Records of a node of a cluster, from any bytes: they are refused, or their hosts are written as just these bytes.

The first byte of an input says into how many parts the rest is cut. Accepted records are written again and give the
same bytes. They are set in a tree and replace another; then both have the same hosts and digest, and each invariant of
a tree holds. What is refused changes nothing.
"""

from libc.string cimport memcmp, memcpy, memset

cimport inbound_audit._core.backing as backing
cimport inbound_audit._core.codes as codes
cimport inbound_audit._core.model as model
cimport inbound_audit._core.node_tree as node_tree
cimport inbound_audit._core.records as records
cimport inbound_audit._core.verify as verify
from inbound_audit._core.bits cimport u8, u64

cdef extern from "driver.h":
    void expect(bint, const char *) noexcept nogil

cdef enum:
    MAX_PARTS = 3
    MAX_SIZE = 4096         # bytes of an input
    CAPACITY = 1 << 16

cdef model.Tree one
cdef model.Tree two


cdef public void set_up() noexcept nogil:
    expect(backing.arena_open(&one.arena, CAPACITY) == codes.OK, "there is room for a tree")
    expect(backing.arena_open(&two.arena, CAPACITY) == codes.OK, "there is room for another")


cdef node_tree.Change change_of(model.Tree *t) noexcept nogil:
    cdef node_tree.Change c
    memset(&c, 0, sizeof(c))
    c.tree, c.max_hosts = t, 1 << 20
    return c


cdef void check_tree(model.Tree *t) noexcept nogil:
    expect(verify.verify(&t.arena) == NULL, "each invariant of the tree holds")
    expect(node_tree.digest_of(t) == t.digest, "the digest is that of the hosts")


cdef void check_written(const node_tree.Part *part) noexcept nogil:
    """The same records, written again."""
    cdef u8[MAX_SIZE + 64] out
    cdef u8[MAX_SIZE + 64] again
    cdef u8 *at = again
    cdef records.Reader r
    cdef records.Writer w
    cdef records.Host host
    cdef int version, found
    if part.size == 0:
        return
    records.start_reader(&r, part.data, part.size)
    found = records.next_record(&r, &host)
    for version in range(4, 7, 2):
        records.start_writer(&w, out, out + sizeof(out))
        while found == records.RECORD and host.address.version == version:
            expect(records.write_record(&w, &host), "what was read from so many bytes fits into them")
            found = records.next_record(&r, &host)
        at = records.write_number(at, 0, w.records)
        expect(<size_t>(at - again) + <size_t>(w.at - w.start) <= part.size, "what is written is no longer")
        memcpy(at, w.start, <size_t>(w.at - w.start))
        at += w.at - w.start
    expect(found == records.NO_RECORD, "all records are read")
    expect(<size_t>(at - again) == part.size and memcmp(again, part.data, part.size) == 0, "the bytes are the same")


cdef void check_accepted(const node_tree.Part *part, size_t parts, u64 gone) noexcept nogil:
    """The tree `two` has other hosts before."""
    cdef node_tree.Change c
    cdef size_t i
    cdef int set_code = codes.OK, code
    c = change_of(&one)
    node_tree.empty_node(&c)
    for i in range(parts):
        check_written(&part[i])
        code = node_tree.set_records(&c, &part[i], gone)
        set_code = code if code != codes.OK else set_code
    check_tree(&one)
    c = change_of(&two)
    code = node_tree.replace_records(&c, part, parts)
    check_tree(&two)
    if code == codes.OK and set_code == codes.OK:
        expect(one.digest == two.digest, "both ways lead to the same hosts")
        expect(node_tree.hosts_of(&one) == node_tree.hosts_of(&two), "and to the same number")


cdef public void run(const u8 *data, size_t size) noexcept nogil:
    cdef node_tree.Part[MAX_PARTS] part
    cdef records.Host last
    cdef size_t parts, i, at = 1
    cdef u64 present = 0, gone = 0
    if size == 0 or size > MAX_SIZE:
        return
    parts = 1 + data[0] % MAX_PARTS
    last.address.version = 0
    for i in range(parts):
        part[i].data = data + at
        part[i].size = size - at if i == parts - 1 else (size - 1) // parts
        at += part[i].size
        if not records.check_records(part[i].data, part[i].size, &last, &present, &gone):
            return
    check_accepted(part, parts, gone)
