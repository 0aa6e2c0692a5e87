"""Simulated traffic against a slow, simple model, in native code; no part of the package. `make soak` runs it.

The model knows nothing of tries: it has an array of hosts in address order, the open sessions of each host, and its
events in each window. A count of a prefix is a sum over a range of that array. Each step changes both, and compares one
count of a random prefix. A *period* is PERIOD steps over one set of hosts; at its end all counts at all lengths are
compared, the trees are verified, and all sessions end.
"""

from libc.stdint cimport int64_t
from libc.stdlib cimport calloc, free, qsort
from libc.string cimport memset

cimport inbound_audit._core.address as ip
cimport inbound_audit._core.codes as codes
cimport inbound_audit._core.fold as fold
cimport inbound_audit._core.model as model
cimport inbound_audit._core.layout as layout
cimport inbound_audit._core.series_change as series_change
cimport inbound_audit._core.sums as sums
cimport inbound_audit._core.trees as trees
cimport inbound_audit._core.trie as trie
cimport inbound_audit._core.verify as verify
cimport inbound_audit._core.window as window
from inbound_audit._core.bits cimport u32, u64, high_bits
from inbound_audit._core.prefix cimport Prefix

cdef enum:
    HOSTS = 512         # addresses of a period, both families; at most
    TREES = 2           # listeners of one service
    SERIES = 3
    SLOTS = 4           # windows in view
    KEPT = 32           # windows of the model
    INTERVAL = 10       # seconds
    MAX_OPEN = 64       # sessions of a host in a tree
    SMALL = 1 << 13     # bytes of a tree that becomes full
    LARGE = 1 << 20
    SIGNED = 0          # a series from which counts are subtracted, too
    MOVING = 1          # a series whose events move to other addresses
    FOLDING = 2         # a series that holds few hosts

cdef enum:
    PERIOD = 1 << 18

cdef struct Soak:
    u64 random
    u64 step
    model.Owner *owner
    model.Tree *tree[TREES]
    model.Series *series[SERIES]
    int hosts
    ip.Address host[HOSTS]
    u32 opened[TREES][HOSTS]
    int64_t event[SERIES][KEPT][HOSTS]
    int64_t newest[SERIES]      # the newest window that a record has made
    int64_t first_window        # of the period
    u64 refused                 # sessions for which a tree had no room
    u64 coarse                  # counts that were not compared, because a window was folded
    const char *fault


cdef int64_t last_now(model.Owner *o) noexcept nogil:
    return o.last_now


cdef u64 draw(Soak *k, u64 below) noexcept nogil:
    """A number below a bound, by xorshift64*."""
    k.random ^= k.random >> 12
    k.random ^= k.random << 25
    k.random ^= k.random >> 27
    return ((k.random * <u64>0x2545F4914F6CDD1D) >> 20) % below


# ---- the hosts of a period

cdef int by_address(const void *x, const void *y) noexcept nogil:
    cdef const ip.Address *a = <const ip.Address *>x
    cdef const ip.Address *b = <const ip.Address *>y
    if a.version != b.version:
        return a.version - b.version
    return ip.compare(a.hi, a.lo, b.hi, b.lo, 128)


cdef void draw_host(Soak *k, int i, bint dense) noexcept nogil:
    """A host that differs from an earlier one from some bit on; `dense`: in few bytes, so nodes become large."""
    cdef ip.Address *a = &k.host[i]
    cdef const ip.Address *like = &k.host[draw(k, i) if i else 0]
    cdef int bit
    a.hi, a.lo = draw(k, <u64>1 << 44) << 20, draw(k, <u64>1 << 44) << 20 | draw(k, 1 << 20)
    a.version = 6 if draw(k, 3) == 0 else 4
    if i and draw(k, 16):
        a.version = like.version
        bit = <int>draw(k, ip.width(a.version))
        if dense:
            bit = ip.width(a.version) - (8 if draw(k, 8) else 16)
        a.hi = (like.hi & high_bits(bit)) | (a.hi & ~high_bits(bit))
        a.lo = (like.lo & high_bits(bit - 64)) | (a.lo & ~high_bits(bit - 64))
    if a.version == 4:
        a.hi, a.lo = a.hi & high_bits(32), 0


cdef void draw_hosts(Soak *k) noexcept nogil:
    """The hosts of a period, in address order, each once."""
    cdef int wanted = 2 + <int>draw(k, HOSTS - 1), i, n = 1
    cdef bint dense = draw(k, 2) == 0
    for i in range(wanted):
        draw_host(k, i, dense)
    qsort(k.host, wanted, sizeof(ip.Address), by_address)
    for i in range(1, wanted):
        if by_address(&k.host[i], &k.host[n - 1]):
            k.host[n] = k.host[i]
            n += 1
    k.hosts = n


cdef void draw_prefix(Soak *k, Prefix *p) noexcept nogil:
    """A prefix of a host, of any length."""
    p.address = k.host[draw(k, k.hosts)]
    p.length = <int>draw(k, ip.width(p.address.version) + 1)
    ip.mask(&p.address, p.length)


# ---- what the model counts

cdef bint lies_in(const ip.Address *a, const Prefix *p) noexcept nogil:
    return a.version == p.address.version and ip.compare(a.hi, a.lo, p.address.hi, p.address.lo, p.length) == 0


cdef int first_in(Soak *k, const Prefix *p) noexcept nogil:
    """The first host that is not before the prefix."""
    cdef int low = 0, high = k.hosts, at
    while low < high:
        at = (low + high) // 2
        if by_address(&k.host[at], &p.address) < 0:
            low = at + 1
        else:
            high = at
    return low


cdef int64_t open_sessions(Soak *k, int tree, const Prefix *p) noexcept nogil:
    cdef int i = first_in(k, p)
    cdef int64_t n = 0
    while i < k.hosts and lies_in(&k.host[i], p):
        n += k.opened[tree][i]
        i += 1
    return n


cdef int64_t events(Soak *k, int s, int64_t window_, const Prefix *p) noexcept nogil:
    cdef int i = first_in(k, p)
    cdef int64_t n = 0
    while i < k.hosts and lies_in(&k.host[i], p):
        n += k.event[s][window_ % KEPT][i]
        i += 1
    return n


cdef bint fail(Soak *k, const char *why) noexcept nogil:
    k.fault = why
    return False


# ---- steps over sessions

cdef bint open_session(Soak *k, int tree, int i, u32 n) noexcept nogil:
    cdef int code
    if k.opened[tree][i] + n > MAX_OPEN:
        return True
    code = trie.trie_add(&k.tree[tree].arena, &k.host[i], n)
    if code == codes.OK:
        k.opened[tree][i] += n
        return True
    k.refused += 1
    return code == codes.FULL and tree == 1 or fail(k, "a session could not be opened")


cdef bint close_session(Soak *k, int tree, int i, u32 n) noexcept nogil:
    cdef int code = trie.trie_remove(&k.tree[tree].arena, &k.host[i], n)
    if k.opened[tree][i] < n:
        return code == codes.UNMATCHED or fail(k, "a session that was not open was closed")
    k.opened[tree][i] -= n
    return code == codes.OK or fail(k, "an open session could not be closed")


cdef bint rebind(Soak *k, int tree, int i, int j) noexcept nogil:
    cdef int code
    if i == j and k.opened[tree][i] == 0:  # to add comes first, so this would move what it added
        return True
    code = trie.trie_move(&k.tree[tree].arena, &k.host[i], &k.host[j], 1)
    if k.opened[tree][i] == 0:
        return code != codes.OK or fail(k, "a session that was not open was moved")
    if code == codes.OK:
        k.opened[tree][i] -= 1
        k.opened[tree][j] += 1
        return True
    return code == codes.FULL and tree == 1 or fail(k, "an open session could not be moved")


cdef bint compare_sessions(Soak *k, const Prefix *p) noexcept nogil:
    cdef int64_t first = open_sessions(k, 0, p), second = open_sessions(k, 1, p)
    if sums.tree_count(k.tree[0], p) != first or sums.tree_count(k.tree[1], p) != second:
        return fail(k, "a count of sessions differs")
    return sums.sum_trees(trees.trees_of(k.owner, model.SMTP), p) == first + second or fail(k, "a sum differs")


cdef bint session_step(Soak *k) noexcept nogil:
    cdef int tree = <int>draw(k, TREES), i = <int>draw(k, k.hosts), what = <int>draw(k, 8)
    cdef u32 n = 1 if draw(k, 8) else 1 + <u32>draw(k, 4)
    cdef bint good
    cdef Prefix p
    # Fuller and emptier times take turns, so that nodes grow and shrink.
    if what < (4 if (k.step >> 13) & 1 else 2):
        good = open_session(k, tree, i, n)
    elif what < 6:
        good = close_session(k, tree, i, n)
    else:
        good = rebind(k, tree, i, <int>draw(k, k.hosts))
    draw_prefix(k, &p)
    return good and compare_sessions(k, &p)


# ---- steps over series

cdef int64_t clock_window(Soak *k) noexcept nogil:
    return k.owner.last_now // (INTERVAL * <int64_t>1000000)


cdef void let_time_pass(Soak *k) noexcept nogil:
    """To a later moment, seldom beyond some windows. The windows that come into being are empty in the model."""
    cdef int64_t before = clock_window(k), n
    cdef int s
    k.owner.last_now += 1000000 * <int64_t>draw(k, (SLOTS + 2) * INTERVAL if draw(k, 32) == 0 else INTERVAL // 2)
    for n in range(before + 1, clock_window(k) + 1):
        for s in range(SERIES):
            memset(k.event[s][n % KEPT], 0, sizeof(k.event[s][0]))


cdef bint record(Soak *k, int s, int i) noexcept nogil:
    cdef int64_t by = 1 + <int64_t>draw(k, 3), number = 0
    cdef int64_t past = <int64_t>draw(k, SLOTS)
    cdef bint late = s == MOVING and draw(k, 4) == 0
    cdef int code
    if s == SIGNED and draw(k, 3) == 0:
        by = -by
    if late and clock_window(k) - past < k.first_window:
        return True
    if late:
        code = series_change.record_past(
            k.series[s], &k.host[i], by, k.owner.last_now, k.owner.last_now - past * INTERVAL * 1000000
        )
        number = clock_window(k) - past
    else:
        code = series_change.change(k.series[s], &k.host[i], by, k.owner.last_now, NULL, 0, &number)
    if code != codes.OK:
        return fail(k, "an event could not be recorded")
    if number != clock_window(k) - (past if late else 0):
        return fail(k, "an event was recorded in another window")
    k.event[s][number % KEPT][i] += by
    k.newest[s] = clock_window(k)
    return True


cdef bint move_event(Soak *k, int i, int j) noexcept nogil:
    cdef int64_t number = clock_window(k) - <int64_t>draw(k, SLOTS)
    series_change.move_event(k.series[MOVING], &k.host[i], &k.host[j], number)
    if number >= k.first_window and number <= k.newest[MOVING] and number > k.newest[MOVING] - SLOTS:
        if k.event[MOVING][number % KEPT][i] > 0:
            k.event[MOVING][number % KEPT][i] -= 1
            k.event[MOVING][number % KEPT][j] += 1
    return True


cdef bint remove_key(Soak *k, int s, int i) noexcept nogil:
    cdef int64_t n
    for n in range(k.newest[s] - SLOTS + 1, k.newest[s] + 1):
        if n >= k.first_window:
            k.event[s][n % KEPT][i] = 0
    return series_change.remove_key(k.series[s], &k.host[i], k.owner.last_now, NULL, 0) == codes.OK or fail(
        k, "a key could not be removed"
    )


cdef bint was_folded(Soak *k, int64_t number, const Prefix *p) noexcept nogil:
    """Detail of that length was given up. The one thing that the model takes from what it checks."""
    cdef model.Series *s = k.series[FOLDING]
    cdef u32 at = window.slot_of(number, SLOTS)
    return s.slot[at].number[0] == number and p.length > fold.length_of(s, &s.slot[at], p.address.version == 6)


cdef bint compare_series(Soak *k, int s, const Prefix *p) noexcept nogil:
    cdef int64_t first = <int64_t>draw(k, SLOTS), last = first + <int64_t>draw(k, SLOTS - first), n, expected = 0
    for n in range(clock_window(k) - last, clock_window(k) - first + 1):
        if n >= k.first_window:
            if s == FOLDING and was_folded(k, n, p):
                k.coarse += 1
                return True
            expected += events(k, s, n, p)
    return window.range_count(k.series[s], k.owner.last_now, first, last, p) == expected or fail(
        k, "a count of events differs"
    )


cdef bint series_step(Soak *k) noexcept nogil:
    cdef int s = <int>draw(k, SERIES), i = <int>draw(k, k.hosts), what = <int>draw(k, 32)
    cdef bint good
    cdef Prefix p
    if draw(k, 64) == 0:
        let_time_pass(k)
    if what == 0 and s != FOLDING:
        good = remove_key(k, s, i)
    elif what < 6 and s == MOVING:
        good = move_event(k, i, <int>draw(k, k.hosts))
    else:
        good = record(k, s, i)
    draw_prefix(k, &p)
    return good and compare_series(k, s, &p)


# ---- periods

cdef bint verify_trees(Soak *k) noexcept nogil:
    cdef model.Tree *t = k.owner.newest
    cdef const char *why
    while t != NULL:
        why = verify.verify(&t.arena)
        if why != NULL:
            return fail(k, why)
        t = t.older
    return True


cdef bint compare_all(Soak *k) noexcept nogil:
    """Each host at each length."""
    cdef Prefix p
    cdef int i, s
    for i in range(k.hosts):
        p.length = ip.width(k.host[i].version)
        while p.length >= 0:
            p.address = k.host[i]
            ip.mask(&p.address, p.length)
            if not compare_sessions(k, &p):
                return False
            for s in range(SERIES):
                if not compare_series(k, s, &p):
                    return False
            p.length -= 1
    return True


cdef bint end_period(Soak *k) noexcept nogil:
    """Compares everything and ends all sessions; the next period begins in windows of its own."""
    cdef int t, i
    if not (verify_trees(k) and compare_all(k)):
        return False
    for t in range(TREES):
        for i in range(k.hosts):
            if k.opened[t][i] and not close_session(k, t, i, k.opened[t][i]):
                return False
        if layout.header(&k.tree[t].arena).root[0] | layout.header(&k.tree[t].arena).root[1] or k.tree[t].arena.live:
            return fail(k, "a tree without sessions is not empty")
    return True


cdef void begin_period(Soak *k) noexcept nogil:
    draw_hosts(k)
    k.owner.last_now += (KEPT + SLOTS) * INTERVAL * <int64_t>1000000
    k.first_window = clock_window(k)
    memset(k.event, 0, sizeof(k.event))


cdef bint one_step(Soak *k) noexcept nogil:
    if k.step % PERIOD == 0:
        if k.step and not end_period(k):
            return False
        begin_period(k)
    k.step += 1
    return series_step(k) if draw(k, 3) == 0 else session_step(k)


# ---- from Python

cdef model.Series *new_series(model.Owner *o, bint negative, u64 window_bytes, u32 max_hosts) noexcept:
    """A series of addresses with the ring of this process, without a file; NULL if there is no memory."""
    cdef model.Series *s = <model.Series *>calloc(1, sizeof(model.Series))
    cdef int i
    if s == NULL:
        return NULL
    o.series[o.series_known] = s
    o.series_known += 1
    s.scope, s.interval, s.slots, s.owner = model.ADDRESSES, INTERVAL, SLOTS, o
    s.max_units = <u32>(window_bytes // layout.UNIT) - layout.HEADER_UNITS
    s.max_hosts = max_hosts
    s.slot = <model.Slot *>calloc(SLOTS, sizeof(model.Slot))
    s.own = window.new_ring(s, 0)
    if s.slot == NULL or s.own == NULL:
        return NULL
    for i in range(2 * SLOTS):
        s.slot[i // 2].number[i % 2] = layout.NO_WINDOW
        if negative or i % 2 == 0:
            s.own.tree[i] = trees.add_tree(o, model.MAX_SERVICES, 0, window_bytes)
            if s.own.tree[i] == NULL:
                return NULL
            s.own.tree[i].ring = s.own
            layout.header(&s.own.tree[i].arena).number = layout.NO_WINDOW
    s.newest = o.last_now // (INTERVAL * <int64_t>1000000)
    window.tree_for(s, s.newest, 0)
    window.publish_timeline(s)
    window.link_ring(s, s.own)
    s.ready = 1
    return s


cdef class Traffic:
    """Steps that a seed determines."""

    cdef Soak *k

    def __cinit__(self, u64 seed):
        cdef int i
        self.k = <Soak *>calloc(1, sizeof(Soak))
        if self.k == NULL:
            raise MemoryError
        self.k.owner = <model.Owner *>calloc(1, sizeof(model.Owner))
        if self.k.owner == NULL:
            raise MemoryError
        self.k.random = (seed * 2 + 1) * <u64>0x9E3779B97F4A7C15
        self.k.owner.now = last_now
        self.k.owner.last_now = 1000000 * <int64_t>1000000000
        trees.add_service(self.k.owner, b"SMTP", 4)
        for i in range(TREES):
            self.k.tree[i] = trees.add_tree(self.k.owner, model.SMTP, i, SMALL if i else LARGE)
            if self.k.tree[i] == NULL:
                raise MemoryError
            trees.link_tree(self.k.owner, self.k.tree[i])
        for i in range(SERIES):
            self.k.series[i] = new_series(self.k.owner, i == SIGNED, LARGE, 40 if i == FOLDING else 0)
            if self.k.series[i] == NULL:
                raise MemoryError

    def __dealloc__(self):
        if self.k != NULL:
            if self.k.owner != NULL:
                trees.free_trees(self.k.owner)
                free(self.k.owner)
            free(self.k)

    def run(self, u64 steps):
        """Makes that many steps without the GIL. Raises AssertionError with the step at which tree and model differ."""
        cdef u64 end = self.k.step + steps
        cdef bint good = True
        with nogil:
            while good and self.k.step < end:
                good = one_step(self.k)
        if not good:
            raise AssertionError(f"step {self.k.step}: {self.k.fault.decode('ascii')}")

    @property
    def refused(self):
        """How many sessions found a tree full."""
        return self.k.refused

    @property
    def coarse(self):
        """How many counts were not compared, because a window had given up their detail."""
        return self.k.coarse

    def lose_a_session(self):
        """Removes a session from a tree behind the model's back: the next steps have to find it."""
        cdef int i
        for i in range(self.k.hosts):
            if self.k.opened[0][i]:
                return trie.trie_remove(&self.k.tree[0].arena, &self.k.host[i], 1) == codes.OK
        return False
