"""The trie against a model: steps that add, remove, move and count, held to an array of counts.

Each step is three bytes: what to do, with which address, and how much. The addresses are a fixed set in which many
share their first bytes. The checker of the core runs at the end of each input, and each count is also taken by the
C reader of shared files, from the same bytes.
"""

from libc.string cimport memset

cimport inbound_audit._core.address as ip
cimport inbound_audit._core.arena as arena
cimport inbound_audit._core.backing as backing
cimport inbound_audit._core.codes as codes
cimport inbound_audit._core.coalesce as coalesce
cimport inbound_audit._core.layout as layout
cimport inbound_audit._core.seek as seek
cimport inbound_audit._core.trie as trie
cimport inbound_audit._core.verify as verify
from inbound_audit._core.bits cimport u8, u32, u64

cdef extern from "driver.h":
    void expect(bint, const char *) noexcept nogil

cdef extern from "reader.h":
    long long reader_count(const u8 *, u64, const u8 *, int, int) noexcept nogil

cdef enum:
    HOSTS = 256             # even ones are IPv4, odd ones IPv6
    MAX_COUNT = 0xFFFFFFFF
    CAPACITY = 1 << 16      # bytes: a tree of all hosts does not fit, so that FULL is reached
    STEP = 3                # bytes

cdef ip.Address host[HOSTS]
cdef u8 packed[HOSTS][16]
cdef u64 model[HOSTS]
cdef layout.Arena tree


cdef public void set_up() noexcept nogil:
    cdef int i, j
    cdef u8 *p
    for i in range(HOSTS):
        p = packed[i]
        memset(p, 0, 16)
        if i % 2 == 0:      # groups of a /8, of a /24, and of addresses that share nothing
            p[0], p[1], p[2], p[3] = 10, <u8>(i >> 5), <u8>(i & 8), <u8>(i * 7)
            if i & 16:
                p[0] = <u8>(i * 37)
            ip.from_packed(p, 4, &host[i])
        else:
            p[0], p[1], p[2], p[3] = 0x20, 0x01, 0x0D, 0xB8
            p[4 + (i >> 4) % 12] = <u8>i
            if i & 8:
                for j in range(16):
                    p[j] = <u8>(i * (j + 3))
            p[15] = <u8>(i * 3)  # no two are the same
            ip.from_packed(p, 16, &host[i])
    expect(backing.arena_open(&tree, CAPACITY) == codes.OK, "there is room for a tree")


cdef u64 total_of(int version) noexcept nogil:
    cdef u64 total = 0
    cdef int i
    for i in range(HOSTS):
        if host[i].version == version:
            total += model[i]
    return total


cdef u64 count_of(const ip.Address *a, int length) noexcept nogil:
    cdef u64 total = 0
    cdef int i
    for i in range(HOSTS):
        if host[i].version == a.version and ip.compare(host[i].hi, host[i].lo, a.hi, a.lo, length) == 0:
            total += model[i]
    return total


cdef void add(int i, u32 n) noexcept nogil:
    cdef int code = trie.trie_add(&tree, &host[i], n)
    if total_of(host[i].version) + n > MAX_COUNT:
        expect(code == codes.OVERFLOW, "a count that would pass its bound is an error")
    else:
        expect(code == codes.OK or code == codes.FULL, "sessions are added, or the tree is full")
    model[i] += n if code == codes.OK else 0


cdef void remove(int i, u32 n) noexcept nogil:
    cdef int code = trie.trie_remove(&tree, &host[i], n)
    expect(code == (codes.OK if n <= model[i] and model[i] else codes.UNMATCHED), "what is there is removed, no more")
    model[i] -= n if code == codes.OK else 0


cdef void move(int i, int j, u32 n) noexcept nogil:
    cdef int code = trie.trie_move(&tree, &host[i], &host[j], n)
    if code == codes.OK:
        expect(n <= model[i] or (i == j), "what is not there is not moved")
        model[i] -= n
        model[j] += n
    else:
        expect(code == codes.UNMATCHED or code == codes.FULL or code == codes.OVERFLOW, "a move has a reason to fail")
        expect(code != codes.UNMATCHED or n > model[i], "a move of what is there finds it")


cdef void count(int i, int length) noexcept nogil:
    cdef int width = ip.width(host[i].version)
    cdef ip.Address a = host[i]
    cdef u64 seen
    length = length % (width + 1)
    ip.mask(&a, length)
    seen = trie.trie_count(&tree, &a, length)
    expect(seen == count_of(&a, length), "a count is the model's")
    expect(<long long>seen == reader_count(tree.base, tree.size, packed[i], width == 128, length),
           "the C reader counts the same")


cdef void nearest(int i, int up) noexcept nogil:
    """The nearest host at or beyond an address."""
    cdef ip.Address found
    cdef int j, best = -1
    for j in range(HOSTS):
        if model[j] == 0 or host[j].version != host[i].version:
            continue
        if ip.compare(host[j].hi, host[j].lo, host[i].hi, host[i].lo, 128) * up < 0:
            continue
        if best < 0 or ip.compare(host[j].hi, host[j].lo, host[best].hi, host[best].lo, 128) * up < 0:
            best = j
    expect(seek.seek_host(&tree, host[i].version == 6, &host[i], up, &found) == (best >= 0), "there is a nearest host")
    if best >= 0:
        expect(found.hi == host[best].hi and found.lo == host[best].lo, "the nearest host is found")


cdef u32 amount(u8 byte) noexcept nogil:
    """How much: mostly little, and the bounds."""
    return <u32>MAX_COUNT - (255 - byte) if byte >= 250 else <u32>(byte % 8) + 1


cdef public void run(const u8 *data, size_t size) noexcept nogil:
    cdef size_t at, step
    cdef int what
    memset(model, 0, sizeof(model))
    arena.arena_renew(&tree, 0)
    for step in range(size // STEP):
        at = step * STEP
        what = data[at] % 16
        if what < 7:
            add(data[at + 1], amount(data[at + 2]))
        elif what < 10:
            remove(data[at + 1], amount(data[at + 2]))
        elif what < 12:
            move(data[at + 1], data[at + 2], 1)
        elif what < 14:
            count(data[at + 1], data[at + 2])
        elif what == 14:
            nearest(data[at + 1], 1 if data[at + 2] & 1 else -1)
        else:
            coalesce.coalesce(&tree)
    expect(verify.verify(&tree) == NULL, "every invariant of the tree holds")
    expect(trie.trie_count(&tree, &host[0], 0) == total_of(4), "the total of IPv4 is the model's")
    expect(trie.trie_count(&tree, &host[1], 0) == total_of(6), "the total of IPv6 is the model's")
