"""All hosts of a tree, or of a sum of trees, in address order: what a node of a cluster compares and sends.

A *run* reads a tree in pieces of at most RUN hosts, each in one walk under the protocol of `seqlock`. So a writer is
not stopped, and each host's count was true at some moment of the walk. A writer that overtakes a piece makes the next
try shorter. A *merge* takes the lowest of several runs each time and adds up what is counted at the same address.

To walk a piece costs O(its hosts), because a node's slots are visited once and in order; `seek` searches anew for each
host. Damaged bytes of another owner's file could lead in a circle, or to more hosts than there are: a walk has a budget
of steps, addresses only grow, and a run ends after as many hosts as the memory of its tree can hold.

Lock rule: none; a `Run` and a `Merge` belong to one thread.
"""

from libc.stdlib cimport free, malloc

from inbound_audit._core.address cimport Address, compare, mask, next_address
from inbound_audit._core.bits cimport (
    u8, u32, u64, acquire64, ctz64, load8, load32, load64, pause, prefetch,
)
from inbound_audit._core.codes cimport FULL, OK
from inbound_audit._core.layout cimport block, header, reach_of
from inbound_audit._core.model cimport Tree, load_tree
from inbound_audit._core.node cimport (
    GRADE_FULL, TAG_FULL, TAG_NONE, TAG_SUFFIX, Key, Node, byte_at, count_of, entries_of, grade_of, is_node, keys_of,
    last_byte, path_of, tag_of, unit_of,
)
from inbound_audit._core.path cimport host_of
from inbound_audit._core.records cimport Host
from inbound_audit._core.seek cimport with_byte
from inbound_audit._core.seqlock cimport EXACT, READ_TRIES, read_begin, read_end

cdef enum:
    RUN = 256               # hosts of a piece
    MIN_RUN = 8
    FEW = 8                 # slots of a node whose grade is below FEW_GRADE
    FEW_GRADE = 3
    AHEAD = 4               # entries of a full node whose blocks are fetched before they are visited
    STEPS_A_HOST = 17       # nodes on the way to a host, at most
    HOSTS_FREE = 65536      # hosts of a run before its budget counts

cdef struct Run:
    Tree *tree
    bint v6
    bint ended              # there is nothing beyond the piece
    Address start           # where the next piece begins
    u32 most                # hosts of the next piece
    u32 size
    u32 at                  # the next host of the piece
    u64 steps               # nodes that the walk of this piece has visited
    u64 found               # hosts of all pieces
    Host host[RUN]

cdef struct Merge:
    Tree **tree
    size_t trees
    size_t room
    Run *run
    Run **heap              # the run with the lowest host first
    size_t size
    int length              # hosts that share so many bits are one, at the first address; 128: each is one


# ---- one tree

cdef inline bint take_host(Run *r, u64 e, Key k) noexcept nogil:
    """Appends a host to the piece. Returns False if the piece is complete."""
    cdef Host *host = &r.host[r.size]
    cdef Host *last = host - 1
    # Beside a writer the bytes may be another block's by now; then the walk is repeated.
    if compare(k.hi, k.lo, r.start.hi, r.start.lo, 128) < 0:
        return True
    if r.size and compare(k.hi, k.lo, last.address.hi, last.address.lo, 128) <= 0:
        return True
    host.address.hi = k.hi
    host.address.lo = k.lo
    host.address.version = r.start.version
    host.count = count_of(e)
    r.size += 1
    return r.size < r.most


cdef inline bint take_full(Run *r, Node *n, Key k, int depth, bint edge, int least) noexcept nogil:
    cdef u64 *entries = entries_of(n, r.v6, GRADE_FULL)
    cdef u64 e
    cdef int key
    for key in range(least, 256):
        e = load64(entries + ((key + AHEAD) & 255))
        if tag_of(e) > TAG_SUFFIX:
            prefetch(block(&r.tree.arena, unit_of(e)))
        e = acquire64(entries + key)
        if e and not take_below(r, e, with_byte(k, depth, <u8>key), depth + 1, edge and key == least):
            return False
    return True


cdef inline bint take_few(Run *r, Node *n, Key k, int depth, bint edge, int least) noexcept nogil:
    """Slots are in no order; a few are sorted by insertion."""
    cdef u64 *entries = entries_of(n, r.v6, grade_of(n))
    cdef u8 *keys = keys_of(n, r.v6)
    cdef u64 used = acquire64(&n.used)
    cdef u32[FEW] sorted
    cdef u32 one
    cdef int size = 0, i, key
    while used and size < FEW:
        i = ctz64(used)
        used &= used - 1
        one = <u32>load8(keys + i) << 8 | <u32>i
        i = size
        while i and sorted[i - 1] > one:
            sorted[i] = sorted[i - 1]
            i -= 1
        sorted[i] = one
        size += 1
    for i in range(size):
        key = <int>(sorted[i] >> 8)
        if key >= least and not take_below(
            r, acquire64(entries + (sorted[i] & 63)), with_byte(k, depth, <u8>key), depth + 1, edge and key == least
        ):
            return False
    return True


cdef inline bint take_small(Run *r, Node *n, Key k, int depth, bint edge, int least) noexcept nogil:
    """Slots are in no order; a bit map of their keys sorts them."""
    cdef u64 *entries = entries_of(n, r.v6, grade_of(n))
    cdef u8 *keys = keys_of(n, r.v6)
    cdef u64 used = acquire64(&n.used), word, e
    cdef u64[4] have
    cdef u8[256] slot
    cdef int i, key
    have[0] = have[1] = have[2] = have[3] = 0
    while used:
        i = ctz64(used)
        used &= used - 1
        key = load8(keys + i)
        have[key >> 6] |= <u64>1 << (key & 63)
        slot[key] = <u8>i
    for i in range(least >> 6, 4):
        word = have[i]
        if i == least >> 6:
            word &= ~(<u64>0) << (least & 63)
        while word:
            key = 64 * i + ctz64(word)
            word &= word - 1
            e = acquire64(entries + slot[key])
            if not take_below(r, e, with_byte(k, depth, <u8>key), depth + 1, edge and key == least):
                return False
    return True


cdef inline bint take_below(Run *r, u64 e, Key path, int depth, bint edge) noexcept nogil:
    """Appends the hosts below an entry that is `depth` bytes deep; returns False if the piece is complete.

    `edge`: `path` has the first bytes of `start`, so hosts before `start` may lie below the entry.
    """
    cdef Node *n
    cdef int side, at, least = 0
    if not is_node(e):
        if tag_of(e) == TAG_NONE or count_of(e) == 0:
            return True
        return take_host(r, e, host_of(&r.tree.arena, r.v6, e, path.hi, path.lo))
    r.steps += 1
    if unit_of(e) >= reach_of(&r.tree.arena) or r.steps > STEPS_A_HOST * (<u64>r.size + 2):
        return True
    n = <Node *>block(&r.tree.arena, unit_of(e))
    at = load8(&n.depth)
    if at < depth or at > last_byte(r.v6):
        return True
    if at != depth or edge:
        path = path_of(n, r.v6)
    if edge:
        side = compare(path.hi, path.lo, r.start.hi, r.start.lo, 8 * at)
        if side < 0:
            return True
        edge = side == 0
    if edge:
        least = byte_at(r.start.hi, r.start.lo, at)
    if tag_of(e) == TAG_FULL:
        return take_full(r, n, path, at, edge, least)
    if grade_of(n) < FEW_GRADE:
        return take_few(r, n, path, at, edge, least)
    return take_small(r, n, path, at, edge, least)


cdef inline void read_piece(Run *r) noexcept nogil:
    """Reads the next hosts; none at the end."""
    cdef u64 *seq = &header(&r.tree.arena).seq
    cdef u64 began, units
    cdef Key path
    cdef int attempt
    cdef bint complete = True
    path.hi = 0
    path.lo = 0
    r.at = 0
    r.size = 0
    if r.ended:
        return
    for attempt in range(READ_TRIES):
        r.size = 0
        r.steps = 0
        began = read_begin(seq)
        complete = not take_below(r, acquire64(&header(&r.tree.arena).root[r.v6]), path, 0, True)
        if read_end(seq, began, &r.tree.stalled, attempt) == EXACT:
            break
        r.most = r.most // 2 if r.most // 2 > MIN_RUN else MIN_RUN
        pause()
    r.found += r.size
    units = load64(&r.tree.max_units)
    r.ended = not complete or r.found > HOSTS_FREE + 8 * (units if units else load32(&r.tree.arena.bump))
    if r.size:
        r.start = r.host[r.size - 1].address
        if not next_address(&r.start):
            r.ended = True
    r.most = 2 * r.most if 2 * r.most < RUN else RUN


cdef inline void start_run(Run *r, Tree *t, const Address *start) noexcept nogil:
    """The hosts of `t` from `start` on, of its version."""
    r.tree = t
    r.v6 = start.version == 6
    r.ended = False
    r.start = start[0]
    r.most = RUN
    r.found = 0
    read_piece(r)


cdef inline bint run_has(const Run *r) noexcept nogil:
    return r.at < r.size


cdef inline Host *run_host(Run *r) noexcept nogil:
    """The host at which the run stands."""
    return &r.host[r.at]


cdef inline void run_on(Run *r) noexcept nogil:
    """Goes to the next host."""
    r.at += 1
    if r.at == r.size:
        read_piece(r)


# ---- several trees

cdef inline int compare_runs(Run *a, Run *b) noexcept nogil:
    cdef Address *x = &run_host(a).address
    cdef Address *y = &run_host(b).address
    return compare(x.hi, x.lo, y.hi, y.lo, 128)


cdef inline void sink(Merge *m, size_t at) noexcept nogil:
    """Puts the run at place `at` of the heap where it belongs below it."""
    cdef Run *r = m.heap[at]
    cdef size_t child = 2 * at + 1
    while child < m.size:
        if child + 1 < m.size and compare_runs(m.heap[child + 1], m.heap[child]) < 0:
            child += 1
        if compare_runs(m.heap[child], r) >= 0:
            break
        m.heap[at] = m.heap[child]
        at = child
        child = 2 * at + 1
    m.heap[at] = r


cdef inline int reserve_merge(Merge *m, size_t room) noexcept nogil:
    """Room for so many trees; there is none yet. Returns OK; or FULL, and nothing is allocated."""
    m.trees = 0
    m.size = 0
    m.length = 128
    m.room = room
    m.tree = <Tree **>malloc((room + 1) * sizeof(Tree *))
    m.run = <Run *>malloc((room + 1) * sizeof(Run))
    m.heap = <Run **>malloc((room + 1) * sizeof(Run *))
    if m.tree == NULL or m.run == NULL or m.heap == NULL:
        close_merge(m)
        return FULL
    return OK


cdef inline void merge_tree(Merge *m, Tree *t) noexcept nogil:
    """One tree more; without room, or NULL, it is left out."""
    if t != NULL and m.trees < m.room:
        m.tree[m.trees] = t
        m.trees += 1


cdef inline int open_merge(Merge *m, Tree *first) noexcept nogil:
    """For the trees of a list from `first` on. Returns OK; or FULL, and nothing is allocated."""
    cdef Tree *t = first
    cdef size_t room = 0
    while t != NULL:
        room += 1
        t = load_tree(&t.next)
    if reserve_merge(m, room) != OK:
        return FULL
    while first != NULL:
        merge_tree(m, first)
        first = load_tree(&first.next)
    return OK


cdef inline void close_merge(Merge *m) noexcept nogil:
    free(m.tree)
    free(m.run)
    free(m.heap)
    m.tree = NULL
    m.run = NULL
    m.heap = NULL


cdef inline void start_merge(Merge *m, const Address *start) noexcept nogil:
    """The hosts of the trees from `start` on, of its version."""
    cdef size_t i
    m.size = 0
    for i in range(m.trees):
        start_run(&m.run[i], m.tree[i], start)
        if run_has(&m.run[i]):
            m.heap[m.size] = &m.run[i]
            m.size += 1
    for i in range(m.size // 2):
        sink(m, m.size // 2 - 1 - i)


cdef inline bint next_host(Merge *m, Host *out) noexcept nogil:
    """The next address with the sum of its counts (at most 2**32 - 1). Returns False at the end. O(log trees)."""
    cdef u64 total = 0
    cdef const Address *a
    cdef Run *r
    if m.size == 0:
        return False
    out[0] = run_host(m.heap[0])[0]
    while m.size:
        r = m.heap[0]
        a = &run_host(r).address
        if (a.hi != out.address.hi or a.lo != out.address.lo) and (
            m.length == 128 or compare(a.hi, a.lo, out.address.hi, out.address.lo, m.length) != 0
        ):
            break
        total += run_host(r).count
        run_on(r)
        if not run_has(r):
            m.size -= 1
            m.heap[0] = m.heap[m.size]
        if m.size:
            sink(m, 0)
    if m.length < 128:
        mask(&out.address, m.length)
    out.count = <u32>(total if total < <u64>0xFFFFFFFF else <u64>0xFFFFFFFF)
    return True
