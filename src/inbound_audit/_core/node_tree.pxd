"""The tree of one node of a cluster: absolute counts, as records have them, with a digest.

    set_records      some hosts get new counts
    replace_records  the tree has exactly those hosts afterwards, and no host passes through a false count
    empty_node       no host is left: one moment for readers

The trees of all other nodes lie in the list of `inbound_cidr`. Beyond some hundred nodes one more tree, the *sum*, has
the counts of all of them, and readers take it instead while its header says so (`number` is 1). It is derived: each
change of a node's tree is made in it, too. To drop a node takes the sum many changes, so the mark is cleared first:
readers go through the nodes' trees until it is set again. (A reader that had begun before may see a part of the drop.)
A sum that has no room for a change is given up; counts stay right without it. A tree of one window of a node's series
has a sum, too: the window of the other nodes (room `cluster_window`).

Lock rule: one writer at a time, the holder of `Owner.nodes_lock`, or of a tree that only one thread knows; it takes the
writer lock of each tree that it changes for as long as the whole change. Readers take no lock.
"""

from libc.stdint cimport int64_t

from inbound_audit._core.address cimport Address, mask
from inbound_audit._core.arena cimport arena_reset
from inbound_audit._core.bits cimport u8, u32, u64, fence_full, load64, publish64, store64
from inbound_audit._core.coalesce cimport coalesce
from inbound_audit._core.codes cimport DAMAGED, FULL, OK
from inbound_audit._core.hosts cimport Run, run_has, run_host, run_on, start_run
from inbound_audit._core.layout cimport Arena, header
from inbound_audit._core.model cimport MAX_NODE_NAME, REMOTE, SMTP, Owner, Tree, load_tree
from inbound_audit._core.node cimport count_of
from inbound_audit._core.path cimport Path, descend
from inbound_audit._core.records cimport RECORD, Host, Reader, hash_host, next_record, order, start_reader
from inbound_audit._core.sums cimport tree_count, tree_total, whole_family
from inbound_audit._core.prefix cimport Prefix
from inbound_audit._core.trees cimport remote_trees, sum_in_use
from inbound_audit._core.trie cimport Retired, add_in, close_change, remove_in, trie_add, trie_remove

# Some of the records that replace a tree; the next part continues them.
cdef struct Part:
    const u8 *data
    size_t size

cdef struct Change:
    Tree *tree
    Tree *sum               # NULL: no sum is kept
    Tree *locked_sum        # whose lock is held; NULL: none
    bint is_marked          # the header of the sum says whether it is complete
    bint gave_up            # the sum had no room for a change
    int[2] length           # to which hosts are folded in the sum, IPv4 first
    u64 max_hosts
    u64 changes             # how many hosts have another count than before


cdef inline bint is_node_name(const char *name, size_t size) noexcept nogil:
    """1 to MAX_NODE_NAME printable ASCII characters, without blanks and without / * $ # ?"""
    cdef size_t i
    for i in range(size):
        if not b'!' <= name[i] <= b'~' or name[i] in b"/*$#?":
            return False
    return 0 < size <= MAX_NODE_NAME


cdef inline u64 hosts_of(const Tree *t) noexcept nogil:
    return load64(&header(&t.arena).hosts[0]) + load64(&header(&t.arena).hosts[1])


cdef inline bint is_scattered(const Arena *a) noexcept nogil:
    """Enough was freed since the free blocks were merged that to merge them is worth its time."""
    return a.freed > a.bump // 16


cdef inline u64 digest_of(Tree *t) noexcept nogil:
    """The digest, made anew from all hosts. O(hosts)."""
    cdef u64 digest = 0
    cdef Address start
    cdef Run run
    cdef int version
    for version in range(4, 7, 2):
        start.hi = start.lo = 0
        start.version = version
        start_run(&run, t, &start)
        while run_has(&run):
            digest += hash_host(&run_host(&run).address, run_host(&run).count)
            run_on(&run)
    return digest


# ---- the sum

cdef inline void use_sum(Tree *sum, bint used) noexcept nogil:
    """Sets or clears the mark in the header, between the changes before and after."""
    publish64(<u64 *>&header(&sum.arena).number, used)
    fence_full()


cdef inline Tree *own_sum(Owner *o) noexcept nogil:
    """The sum that this process keeps up; NULL if it keeps none."""
    cdef Tree *sum = load_tree(&o.sum)
    return sum if sum != NULL and sum.max_units == 0 and sum_in_use(sum) else NULL


cdef inline void mark_sum(Change *c, bint used) noexcept nogil:
    if c.sum != NULL and c.is_marked:
        use_sum(c.sum, used)


cdef inline bint follow(Tree *sum, const Address *host, u32 before, u32 n) noexcept nogil:
    """Makes the change of a host from `before` to `n` in the sum. Returns False if the sum has no room."""
    cdef int code
    if n < before:
        return trie_remove(&sum.arena, host, before - n) == OK
    code = trie_add(&sum.arena, host, n - before)
    if code == FULL and is_scattered(&sum.arena):
        coalesce(&sum.arena)
        code = trie_add(&sum.arena, host, n - before)
    return code == OK


cdef inline void follow_change(Change *c, const Address *host, u32 before, u32 n) noexcept nogil:
    """The same in the sum of a change, at the length to which it is folded; a sum without room is given up."""
    cdef Address a = host[0]
    mask(&a, c.length[host.version == 6])
    if not follow(c.sum, &a, before, n):
        mark_sum(c, False)
        c.sum = NULL
        c.gave_up = True


cdef inline bint add_to_sum(Tree *sum, Tree *t) noexcept nogil:
    cdef Address start
    cdef Run run
    cdef int version
    for version in range(4, 7, 2):
        start.hi = start.lo = 0
        start.version = version
        start_run(&run, t, &start)
        while run_has(&run):
            if not follow(sum, &run_host(&run).address, 0, run_host(&run).count):
                return False
            run_on(&run)
    return True


cdef inline int rebuild_sum(Owner *o, Tree *sum) noexcept nogil:
    """Makes the sum anew from the trees of this process's nodes, and puts it in use. Returns OK; or FULL, and it is not
    in use. O(hosts of all nodes)."""
    cdef Tree *t = remote_trees(o)
    use_sum(sum, False)
    arena_reset(&sum.arena)
    while t != &o.anchor[SMTP]:
        if t.max_units == 0 and not add_to_sum(sum, t):
            return FULL
        t = load_tree(&t.next)
    use_sum(sum, True)
    return OK


cdef inline const char *check_sum(Owner *o, Tree *sum) noexcept nogil:
    """NULL, or why the sum is not that of the trees of this process's nodes. O(hosts x nodes)."""
    cdef Address start
    cdef Prefix host
    cdef Tree *t = remote_trees(o)
    cdef Run run
    cdef int64_t total = 0
    cdef int version
    while t != &o.anchor[SMTP]:
        total += tree_total(t) if t.max_units == 0 else 0
        t = load_tree(&t.next)
    if total != tree_total(sum):
        return "the total of the sum is not that of the nodes"
    for version in range(4, 7, 2):
        start.hi = start.lo = 0
        start.version = version
        host.length = 32 if version == 4 else 128
        start_run(&run, sum, &start)
        while run_has(&run):
            host.address = run_host(&run).address
            total = 0
            t = remote_trees(o)
            while t != &o.anchor[SMTP]:
                total += tree_count(t, &host) if t.max_units == 0 else 0
                t = load_tree(&t.next)
            if total != run_host(&run).count:
                return "a host of the sum has another count than the nodes together"
            run_on(&run)
    return NULL


# ---- one node

cdef inline int set_in(Arena *a, const Address *host, u32 n, u64 max_hosts, u32 *before) noexcept nogil:
    cdef bint v6 = host.version == 6
    cdef Retired r
    cdef Path path
    r.count = 0
    before[0] = 0
    descend(a, v6, host.hi, host.lo, &path)
    if path.damaged:
        return DAMAGED
    if path.found:
        before[0] = count_of(path.step[path.last].entry[0])
    elif n and header(a).hosts[0] + header(a).hosts[1] >= max_hosts:
        return FULL
    if n == before[0]:
        return OK
    if n > before[0]:
        return close_change(a, add_in(a, v6, host.hi, host.lo, n - before[0], &r), &r)
    return close_change(a, remove_in(a, v6, host.hi, host.lo, before[0] - n, &r), &r)


cdef inline int set_host(Change *c, const Address *host, u32 n) noexcept nogil:
    """Makes the count of a host `n`, in one step for readers; 0 removes it. Returns OK; or a code, and the tree is
    unchanged. O(bytes of the address)."""
    cdef Arena *a = &c.tree.arena
    cdef u64 digest
    cdef u32 before
    cdef int code = set_in(a, host, n, c.max_hosts, &before)
    if code == FULL and is_scattered(a) and hosts_of(c.tree) < c.max_hosts:
        coalesce(a)
        code = set_in(a, host, n, c.max_hosts, &before)
    if code != OK or n == before:
        return code
    c.changes += 1
    digest = c.tree.digest
    if before:
        digest -= hash_host(host, before)
    if n:
        digest += hash_host(host, n)
    store64(&c.tree.digest, digest)
    if c.sum != NULL:
        follow_change(c, host, before, n)
    return OK


cdef inline int set_records(Change *c, const Part *part, u64 gone) noexcept nogil:
    """Gives hosts new counts. The records were checked, and `gone` of them have the count 0.

    Returns OK; or a code, and some of them are not carried out. O(records x bytes of the address).
    """
    cdef u64 bound = c.max_hosts
    cdef Reader r
    cdef Host host
    cdef int code = OK
    c.max_hosts += gone  # those that are gone may stand after those that come
    start_reader(&r, part.data, part.size)
    while code == OK and next_record(&r, &host) == RECORD:
        code = set_host(c, &host.address, host.count)
    return FULL if code == OK and hosts_of(c.tree) > bound else code


cdef inline bint next_of_parts(const Part *part, size_t parts, size_t *at, Reader *r, Host *out) noexcept nogil:
    """The next record of several parts. Returns False at the end."""
    while next_record(r, out) != RECORD:
        at[0] += 1
        if at[0] >= parts:
            return False
        start_reader(r, part[at[0]].data, part[at[0]].size)
    return True


cdef inline int remove_before(Change *c, Run *run, const Address *stop) noexcept nogil:
    """Removes the hosts of a run that lie before `stop` (NULL: all), and steps over the one that is there."""
    cdef int side = -1, code = OK
    while code == OK and side < 0 and run_has(run):
        side = order(&run_host(run).address, stop) if stop != NULL else -1
        if side < 0:
            code = set_host(c, &run_host(run).address, 0)
        if side <= 0:
            run_on(run)
    return code


cdef inline int replace_records(Change *c, const Part *part, size_t parts) noexcept nogil:
    """Makes the tree hold exactly the hosts of these records, which were checked and are in order from part to part.

    Each host goes from its count before to its new one; none is removed that stays. Returns OK; or a code, and some
    are not carried out. O((hosts + records) x bytes of the address).
    """
    cdef u64 before = hosts_of(c.tree)
    cdef size_t at = 0
    cdef Address start
    cdef Reader r
    cdef Run run
    cdef Host host
    cdef bint has
    cdef int version, code = OK
    c.max_hosts += before  # those that go may stand after those that come
    start_reader(&r, part[0].data, part[0].size)
    has = next_of_parts(part, parts, &at, &r, &host)
    for version in range(4, 7, 2):
        start.hi = start.lo = 0
        start.version = version
        start_run(&run, c.tree, &start)
        while code == OK and has and host.address.version == version:
            code = remove_before(c, &run, &host.address)
            if code == OK:
                code = set_host(c, &host.address, host.count)
            has = next_of_parts(part, parts, &at, &r, &host)
        if code == OK:
            code = remove_before(c, &run, NULL)
    return code


cdef inline void empty_node(Change *c) noexcept nogil:
    """Removes all hosts: for readers in one moment. O(1), and with a sum O(hosts)."""
    cdef Address start
    cdef Run run
    cdef int version
    if hosts_of(c.tree) == 0:
        return
    c.changes += hosts_of(c.tree)
    mark_sum(c, False)
    for version in range(4, 7, 2):
        start.hi = start.lo = 0
        start.version = version
        start_run(&run, c.tree, &start)
        while c.sum != NULL and run_has(&run):
            follow_change(c, &run_host(&run).address, run_host(&run).count, 0)
            run_on(&run)
    arena_reset(&c.tree.arena)
    store64(&c.tree.digest, 0)
    mark_sum(c, True)
