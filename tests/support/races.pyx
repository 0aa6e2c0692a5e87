"""Threads in the core at once: no data race, and exact sums in the end; no part of the package.

`make tsan` compiles this into a program without Python, under ThreadSanitizer, and runs it (tests/support/racing.py):

    races STEPS SEED        each thread makes so many steps; a count that is wrong ends the program with its name

Two *writers* open, close and rebind sessions in two trees, each under the tree's writer lock. Two *recorders* add,
subtract, move and remove events in three series, while windows rotate and hosts are folded. Each keeps a tally. Two
*counters* and a *walker* take no lock. The *keeper* makes services, and has a tree of its own, which it takes out of
its list and puts back, moves into a file and out of it, fills and empties. In the end each count is the sum of the
tallies, and the checker finds no fault in a tree.

PRIVATE, FILED and WHOLE have one session, or event, of each steady host all the time: every count of it is 1.
"""

from libc.stdint cimport int64_t
from libc.stdio cimport fprintf, printf, stderr
from libc.stdlib cimport atoll, calloc, exit
from libc.string cimport memcpy, memset

cimport inbound_audit._core.address as ip
cimport inbound_audit._core.backing as backing
cimport inbound_audit._core.cluster_window as cluster_window
cimport inbound_audit._core.codes as codes
cimport inbound_audit._core.hosts as hosts
cimport inbound_audit._core.kept_file as kept_file
cimport inbound_audit._core.layout as layout
cimport inbound_audit._core.lengths as lengths_
cimport inbound_audit._core.model as model
cimport inbound_audit._core.query as query
cimport inbound_audit._core.seqlock as seqlock
cimport inbound_audit._core.series_change as series_change
cimport inbound_audit._core.series_query as series_query
cimport inbound_audit._core.sigbus as sigbus
cimport inbound_audit._core.sliding as sliding
cimport inbound_audit._core.sums as sums
cimport inbound_audit._core.trees as trees
cimport inbound_audit._core.trie as trie
cimport inbound_audit._core.verify as verify
cimport inbound_audit._core.walk as walk
cimport inbound_audit._core.window as window
from inbound_audit._core.bits cimport u32, u64, acquire32, fetch_add64, publish32
from inbound_audit._core.prefix cimport Prefix

cdef extern from "<pthread.h>" nogil:
    ctypedef struct pthread_t:
        pass
    int pthread_create(pthread_t *, void *, void *(*)(void *) noexcept nogil, void *)
    int pthread_join(pthread_t, void **)

cdef extern from "<sys/mman.h>" nogil:
    int memfd_create(const char *, unsigned int)

cdef enum:
    HOSTS = 600
    STEADY = 8
    MAX_OPEN = 4            # sessions of a host in a tree, of one writer
    TREES = 3
    PRIVATE = 0
    FILED = 1               # in a file that grows
    COMING = 2              # the keeper's
    SERIES = 3
    WHOLE = 0               # one window with full detail
    FOLDED = 1              # one window that folds
    TURNING = 2             # windows that rotate
    SLOTS = 3
    TALLIES = 64            # windows of TURNING that a recorder remembers
    TICK_US = 20000         # by which each reading moves the clock
    TREE_BYTES = 1 << 20
    MAX_SECTIONS = 200      # of the file
    PAIR = 2                # writers, recorders, counters
    THREADS = 8

cdef struct Worker:
    int number
    u64 random
    u64 step
    u32 opened[TREES][HOSTS]
    int64_t whole[HOSTS]
    int64_t folded
    int64_t window[TALLIES]     # the number of the window of each tally
    int64_t turned[TALLIES]

cdef model.Owner *owner
cdef model.Tree *tree[TREES]
cdef model.Series *series[SERIES]
cdef ip.Address host[HOSTS]
cdef Worker worker[THREADS]
cdef kept_file.KeptFile *file
cdef u64 sections
cdef u64 steps


cdef void check(bint holds, const char *property) noexcept nogil:
    if not holds:
        fprintf(stderr, "FAILED: %s\n", property)
        exit(1)


cdef int64_t tick(model.Owner *o) noexcept nogil:
    return <int64_t>fetch_add64(<u64 *>&o.last_now, TICK_US)


cdef u64 draw(Worker *w, u64 below) noexcept nogil:
    """A number below a bound, by xorshift64*."""
    w.random ^= w.random >> 12
    w.random ^= w.random << 25
    w.random ^= w.random >> 27
    return ((w.random * <u64>0x2545F4914F6CDD1D) >> 20) % below


cdef int draw_host(Worker *w) noexcept nogil:
    return STEADY + <int>draw(w, HOSTS - STEADY)


cdef void draw_prefix(Worker *w, Prefix *p) noexcept nogil:
    """A prefix of a host, of any length."""
    p.address = host[draw(w, HOSTS)]
    p.length = <int>draw(w, ip.width(p.address.version) + 1)
    ip.mask(&p.address, p.length)


cdef Prefix alone(int i) noexcept nogil:
    """A host as a prefix."""
    cdef Prefix p
    p.address = host[i]
    p.length = ip.width(host[i].version)
    return p


# ---- writers: sessions, under the writer lock

cdef bint open_session(Worker *w, int t, int i) noexcept nogil:
    cdef int code
    seqlock.lock_wait(&tree[t].arena.lock, &tree[t].arena.waiting)
    code = trie.trie_add(&tree[t].arena, &host[i], 1)
    seqlock.unlock(&tree[t].arena.lock)
    check(code == codes.OK or code == codes.FULL, "a session is opened, or the tree is full")
    w.opened[t][i] += code == codes.OK
    return code == codes.OK


cdef void close_sessions(Worker *w, int t, int i, u32 n) noexcept nogil:
    cdef int code = codes.OK
    seqlock.lock_wait(&tree[t].arena.lock, &tree[t].arena.waiting)
    if n:
        code = trie.trie_remove(&tree[t].arena, &host[i], n)
    seqlock.unlock(&tree[t].arena.lock)
    check(code == codes.OK, "a session that is open is closed")
    w.opened[t][i] -= n


cdef void rebind(Worker *w, int t, int i, int j) noexcept nogil:
    cdef int code
    seqlock.lock_wait(&tree[t].arena.lock, &tree[t].arena.waiting)
    code = trie.trie_move(&tree[t].arena, &host[i], &host[j], 1)
    seqlock.unlock(&tree[t].arena.lock)
    check(code == codes.OK or code == codes.FULL, "a session that is open is moved, or the tree is full")
    if code == codes.OK:
        w.opened[t][i] -= 1
        w.opened[t][j] += 1


cdef void write_step(Worker *w) noexcept nogil:
    """Fuller and emptier times take turns, so that nodes, and the file, grow and shrink."""
    cdef int t = <int>draw(w, COMING), i = draw_host(w), j = draw_host(w)
    cdef bint fuller = (w.step >> 11) & 1 == 0
    cdef Prefix p = alone(i)
    if (w.step & 4095) == 4095:
        for i in range(HOSTS):
            close_sessions(w, t, i, w.opened[t][i])
    elif w.opened[t][i] and draw(w, 4) == 0:
        if w.opened[t][j] < MAX_OPEN:
            rebind(w, t, i, j)
    elif w.opened[t][i] and draw(w, 8) >= (4 if fuller else 1):
        close_sessions(w, t, i, 1)
    elif w.opened[t][i] < MAX_OPEN and draw(w, 8) < (7 if fuller else 2):
        open_session(w, t, i)
    check(sums.tree_count(tree[t], &p) >= w.opened[t][i], "a writer counts its own sessions")


# ---- recorders: events, under the series' lock, which the core takes

cdef int64_t drawn_amount(Worker *w) noexcept nogil:
    return <int64_t>(1 + draw(w, 3)) * (-1 if draw(w, 4) == 0 else 1)


cdef void record_whole(Worker *w) noexcept nogil:
    """Each recorder has hosts of its own, so that it knows what to expect when it removes or moves."""
    cdef int i = draw_host(w) // PAIR * PAIR + w.number % PAIR, j = draw_host(w) // PAIR * PAIR + w.number % PAIR
    cdef u64 what = draw(w, 16)
    cdef int64_t by = drawn_amount(w), number
    if i < STEADY or j < STEADY or i >= HOSTS or j >= HOSTS:
        return
    if what == 0:
        check(series_change.remove_key(series[WHOLE], &host[i], tick(owner), NULL, 0) == codes.OK, "a key is removed")
        w.whole[i] = 0
    elif what < 4 and w.whole[i] > 0:
        series_change.move_event(series[WHOLE], &host[i], &host[j], series[WHOLE].newest)
        w.whole[i] -= 1
        w.whole[j] += 1
    else:
        check(series_change.change(series[WHOLE], &host[i], by, tick(owner), NULL, 0, &number) == codes.OK, "recorded")
        w.whole[i] += by


cdef void tally_window(Worker *w, int64_t number, int64_t by) noexcept nogil:
    """Adds to the tally of a window; one that is TALLIES windows older is long out of view."""
    cdef int at = <int>(number % TALLIES)
    if w.window[at] < number:
        w.window[at] = number
        w.turned[at] = 0
    if w.window[at] == number:
        w.turned[at] += by


cdef void record_turning(Worker *w) noexcept nogil:
    cdef int64_t by = drawn_amount(w), now = tick(owner), number = 0, past
    cdef int i = draw_host(w), code
    if draw(w, 8):
        check(series_change.change(series[TURNING], &host[i], by, now, NULL, 0, &number) == codes.OK, "recorded")
        tally_window(w, number, by)
        if draw(w, 4) == 0:
            series_change.move_event(series[TURNING], &host[i], &host[draw_host(w)], number)
    else:
        past = now - 1000000
        code = series_change.record_past(series[TURNING], &host[i], by, now, past)
        check(code == codes.OK or code == codes.UNMATCHED, "recorded in the past, or out of view")
        if code == codes.OK:
            tally_window(w, window.window_number(past, 1), by)


cdef void record_step(Worker *w) noexcept nogil:
    cdef int s = <int>draw(w, SERIES), code
    cdef int64_t by = drawn_amount(w), number
    if s == WHOLE:
        record_whole(w)
    elif s == TURNING:
        record_turning(w)
    elif draw(w, 4):
        code = series_change.change(series[FOLDED], &host[draw_host(w)], by, tick(owner), NULL, 0, &number)
        check(code == codes.OK, "a series that folds has room")
        w.folded += by
    else:
        record_in_monitors(w)


cdef void record_in_monitors(Worker *w) noexcept nogil:
    """A connection that is bound anew, in as many monitors as there are: the keeper adds one."""
    cdef u32 monitors = acquire32(&owner.monitors)
    cdef int64_t numbers[2]
    cdef int i = draw_host(w)
    series_change.record_event(owner, monitors, model.CONNECTIONS, &host[i], 1, tick(owner), numbers)
    check(numbers[0] == monitors, "a connection is in the monitors that were seen")
    series_change.move_connection(owner, &host[i], &host[draw_host(w)], numbers)
    w.folded += monitors


# ---- readers: without a lock

cdef void limit_step(const ip.Address *steady) noexcept nogil:
    """A host of one session is over a limit of none, and within a limit of one unless a writer is beside it."""
    cdef lengths_.LengthLimit limit[2]
    cdef bint sure = True
    cdef int found, i
    for i in range(2):
        limit[i].length, limit[i].limit, limit[i].maximum = ip.width(steady.version), i, 1 - i
    found = lengths_.first_over(tree[PRIVATE], steady, limit, 2, -1, &sure)
    check(found <= 1, "a steady host is over a limit of none")
    check(found == 1 or not sure, "a steady host is within a limit of one")


cdef void count_step(Worker *w) noexcept nogil:
    cdef int i = <int>draw(w, STEADY), code
    cdef int64_t count = 0
    cdef model.ia_ac ac
    cdef sliding.Span span
    cdef bint more
    cdef Prefix p = alone(i)
    check(sums.tree_count(tree[PRIVATE], &p) == 1, "a steady host has one session")
    check(sums.tree_count(tree[FILED], &p) == 1, "a steady host has one session in the file")
    check(window.range_count(series[WHOLE], tick(owner), 0, 0, &p) == 1, "a steady host has one event")
    limit_step(&p.address)
    memset(&ac, 0, sizeof(ac))
    ac.hi, ac.lo, ac.version, ac.tree = p.address.hi, p.address.lo, p.address.version, tree[FILED]
    check(query.query_sessions(&ac, NULL, 0, NULL, 0) == 1, "a steady host has one session of a listener")
    check(query.query_sessions(&ac, "/24,/56", 7, "Service5", 8) <= 0, "a service without listeners has no session")
    draw_prefix(w, &p)
    sums.sum_trees(trees.trees_of(owner, model.SMTP), &p)
    sums.listener_total(tree[COMING])
    i = <int>draw(w, SERIES)
    check(series_query.find_series(owner, series[i].name, 1) == series[i], "a series is found by its name")
    code = series_query.query_events(&ac, series[i], i % 2, NULL, 0, 0, SLOTS - 1, &count)
    check(code == codes.OK, "a series is counted")
    window.range_count(series[i], tick(owner), 0, SLOTS - 1, &p)
    series_query.sliding_average(series[i], window.now_of(owner), &p)
    sliding.span_until(series[i], window.now_of(owner), &span)
    sliding.left_at_least(series[i], &span, &p, <int64_t>draw(w, 64), &more)


cdef void check_rows(const walk.Rows *rows, int version) noexcept nogil:
    """Of a walk over all hosts: in address order, and each steady host once."""
    cdef const ip.Address *a
    cdef const ip.Address *before = NULL
    cdef int expected = 0, found = 0, i
    cdef size_t at
    for i in range(STEADY):
        expected += host[i].version == version
    for at in range(rows.size):
        a = &rows.row[at].prefix.address
        check(before == NULL or ip.compare(before.hi, before.lo, a.hi, a.lo, 128) < 0, "a walk is in address order")
        before = a
        for i in range(STEADY):
            found += host[i].version == version and ip.compare(host[i].hi, host[i].lo, a.hi, a.lo, 128) == 0
    check(found == expected, "a walk finds each steady host once")


cdef void merge_hosts(model.Tree *first, int version) noexcept nogil:
    """All hosts of all trees, as a node of a cluster sends them."""
    cdef hosts.Merge m
    cdef hosts.Host found
    cdef ip.Address start
    cdef int steady = 0, i
    start.hi = start.lo = 0
    start.version = version
    check(hosts.open_merge(&m, first) == codes.OK, "there is memory for a merge")
    hosts.start_merge(&m, &start)
    while hosts.next_host(&m, &found):
        for i in range(STEADY):
            if host[i].version == version and host[i].hi == found.address.hi and host[i].lo == found.address.lo:
                check(found.count == COMING, "a steady host has one session in each of two trees")
                steady += 1
    for i in range(STEADY):
        steady -= host[i].version == version
    check(steady == 0, "a merge finds each steady host once")
    hosts.close_merge(&m)


cdef void say_window(Worker *w) noexcept nogil:
    """The hosts of a window, as a node of a cluster says them."""
    cdef int s = <int>draw(w, SERIES)
    cdef int sign = <int>draw(w, 2)
    cdef int64_t now = window.window_number(tick(owner), series[s].interval)
    cdef hosts.Merge m
    cdef hosts.Host found
    cdef ip.Address start
    cdef int[2] lengths
    cdef int steady = 0, i
    start.hi = start.lo = 0
    start.version = 6 if draw(w, 2) else 4
    cluster_window.stamp_of_window(series[s], now, now, sign)
    cluster_window.levels_of_window(series[s], now, now, lengths)
    check(cluster_window.open_window(&m, series[s], now, now, sign) == codes.OK, "there is memory for a merge")
    hosts.start_merge(&m, &start)
    while hosts.next_host(&m, &found):
        for i in range(STEADY):
            if host[i].version == start.version:
                steady += host[i].hi == found.address.hi and host[i].lo == found.address.lo
    if s == WHOLE and sign == 0:
        check(cluster_window.holds_window(&m, now, now, sign), "a window that does not turn is held")
        for i in range(STEADY):
            steady -= host[i].version == start.version
        check(steady == 0, "a window has each steady host once")
    hosts.close_merge(&m)


cdef void walk_step(Worker *w) noexcept nogil:
    """A walk is long, so it is every 64th step."""
    cdef walk.Rows rows, heap
    cdef int[2] length
    cdef int version = 6 if draw(w, 2) else 4
    cdef u64 what = draw(w, 5)
    cdef model.Tree *first = trees.trees_of(owner, model.SMTP)
    if w.step % 64:
        return
    memset(&rows, 0, sizeof(rows))
    memset(&heap, 0, sizeof(heap))
    length[0], length[1] = <int>draw(w, 33), <int>draw(w, 129)
    if what == 0:
        check(walk.walk_tree(first, version, &rows) == codes.OK, "a tree is walked")
    elif what == 1:
        merge_hosts(first, version)
    elif what == 2:
        check(walk.walk_top(first, 9, length, 1, &heap, &rows) == codes.OK, "the largest prefixes are found")
    elif what == 3:
        say_window(w)
    else:
        check(walk.walk_hosts(tree[FILED], version, &rows) == codes.OK, "the hosts of a tree are walked")
        check_rows(&rows, version)
    walk.free_rows(&rows)
    walk.free_rows(&heap)


# ---- the keeper: the lists of the owner, and a tree that comes and goes

cdef void share(int t) noexcept nogil:
    """Moves a tree into the next section of the file, as a process does that joins others."""
    global sections
    seqlock.lock_wait(&tree[t].arena.lock, &tree[t].arena.waiting)
    check(backing.arena_share(&tree[t].arena, file, sections * layout.range_of(TREE_BYTES)) == codes.OK, "shared")
    sections += 1
    seqlock.unlock(&tree[t].arena.lock)


cdef void forget(Worker *w, int t) noexcept nogil:
    """Empties a tree; a tree in the file leaves it, as the child of a fork does."""
    seqlock.lock_wait(&tree[t].arena.lock, &tree[t].arena.waiting)
    check(backing.arena_leave(&tree[t].arena), "left")
    memset(w.opened[t], 0, sizeof(w.opened[t]))
    seqlock.unlock(&tree[t].arena.lock)


cdef void change_lists(Worker *w) noexcept nogil:
    """Takes the keeper's tree out of its list or puts it back, and makes a service."""
    cdef char name[8]
    seqlock.lock_wait(&owner.lock, &owner.waiting)
    trees.unlink_tree(owner, tree[COMING])
    memcpy(name, <const char *>b"Service", 7)
    name[7] = <char>(48 + draw(w, 10))
    check(trees.ensure_service(owner, name, 8) > 0, "there is room for a service")
    trees.link_tree(owner, tree[COMING])
    seqlock.unlock(&owner.lock)


cdef void add_monitor() noexcept nogil:
    """The series that folds becomes that of a monitor."""
    if owner.monitors == 0:
        owner.monitor[0][<int>model.CONNECTIONS] = series[FOLDED]
        publish32(&owner.monitors, 1)


cdef void keep_step(Worker *w) noexcept nogil:
    cdef int i = draw_host(w)
    cdef u64 what = draw(w, 256)
    if what == 0:
        change_lists(w)
    elif what == 1 and tree[COMING].arena.in_file:
        forget(w, COMING)
    elif what == 1 and sections < MAX_SECTIONS:
        share(COMING)
    elif what == 3:
        add_monitor()
    elif what == 2:
        for i in range(HOSTS):
            close_sessions(w, COMING, i, w.opened[COMING][i])
    elif w.opened[COMING][i] < MAX_OPEN:
        open_session(w, COMING, i)


# ---- before and after

cdef void *work(void *which) noexcept nogil:
    cdef Worker *w = <Worker *>which
    cdef int job = w.number // PAIR
    for w.step in range(steps):
        if job == 0:
            write_step(w)
        elif job == 1:
            record_step(w)
        elif job == 2:
            count_step(w)
        elif w.number % PAIR:
            walk_step(w)
        else:
            keep_step(w)
    return NULL


cdef void check_tree(int t) noexcept nogil:
    cdef int64_t total = 0, sessions
    cdef Prefix p
    cdef int i, k
    for i in range(HOSTS):
        p = alone(i)
        sessions = i < STEADY and t != COMING
        for k in range(THREADS):
            sessions += worker[k].opened[t][i]
        check(sums.tree_count(tree[t], &p) == sessions, "a host has as many sessions as the tallies say")
        total += sessions
    check(sums.tree_total(tree[t]) == total, "a tree has as many sessions as the tallies say")


cdef void check_whole() noexcept nogil:
    cdef Prefix p
    cdef int i, k
    cdef int64_t events
    for i in range(HOSTS):
        p = alone(i)
        events = i < STEADY
        for k in range(THREADS):
            events += worker[k].whole[i]
        check(window.range_count(series[WHOLE], tick(owner), 0, 0, &p) == events, "a host has its events")


cdef int64_t events_in(int s, int64_t number) noexcept nogil:
    """All events of a window, both families."""
    cdef Prefix p4, p6
    sums.whole_family(4, &p4)
    sums.whole_family(6, &p6)
    return window.window_count(series[s].own, number, &p4) + window.window_count(series[s].own, number, &p6)


cdef void check_turning() noexcept nogil:
    cdef int64_t number, events
    cdef int k
    for number in range(series[TURNING].newest - SLOTS + 1, series[TURNING].newest + 1):
        events = 0
        for k in range(THREADS):
            events += worker[k].turned[number % TALLIES] if worker[k].window[number % TALLIES] == number else 0
        check(events_in(TURNING, number) == events, "a window has the events of the tallies")


cdef void check_all() noexcept nogil:
    cdef model.Tree *t = owner.newest
    cdef int64_t folded = 0
    cdef int k
    while t != NULL:
        check(verify.verify(&t.arena) == NULL, "the checker finds no fault in a tree")
        t = t.older
    for k in range(TREES):
        check_tree(k)
    for k in range(THREADS):
        folded += worker[k].folded
    check(events_in(FOLDED, series[FOLDED].newest) == folded, "a window that was folded has all its events")
    check_whole()
    check_turning()


cdef void make_series(int i, u32 interval, u32 max_hosts) noexcept nogil:
    """As the extension makes one, with the trees for subtracted counts."""
    cdef model.Series *s = <model.Series *>calloc(1, sizeof(model.Series))
    cdef int k
    check(s != NULL, "there is memory for a series")
    series[i] = owner.series[i] = s
    s.name[0], s.name_size = <char>(97 + i), 1
    s.scope, s.interval, s.slots, s.owner, s.max_hosts = model.ADDRESSES, interval, SLOTS, owner, max_hosts
    s.max_units = TREE_BYTES // layout.UNIT - layout.HEADER_UNITS
    s.slot = <model.Slot *>calloc(SLOTS, sizeof(model.Slot))
    s.own = window.new_ring(s, 0)
    check(s.slot != NULL and s.own != NULL, "there is memory for a ring")
    for k in range(2 * SLOTS):
        s.slot[k // 2].number[k % 2] = layout.NO_WINDOW
        s.own.tree[k] = trees.add_tree(owner, model.MAX_SERVICES, 0, TREE_BYTES)
        check(s.own.tree[k] != NULL, "there is room for a window")
        s.own.tree[k].ring = s.own
        layout.header(&s.own.tree[k].arena).number = layout.NO_WINDOW
    s.newest = window.window_number(owner.last_now, interval)
    window.tree_for(s, s.newest, 0)
    window.publish_timeline(s)
    window.link_ring(s, s.own)
    s.ready = 1
    owner.series_known += 1


cdef void make_hosts() noexcept nogil:
    """In few groups of many, so that there are nodes of all sizes."""
    cdef u64 i
    for i in range(<u64>HOSTS):
        host[i].version = 6 if i % 3 == 0 else 4
        host[i].hi = (<u64>10 << 24 | (i % 3) << 16 | (i % 2) << 8 | i % 251) << 32
        host[i].lo = i << 40 | i if i % 3 == 0 else 0


cdef void set_up(u64 seed) noexcept nogil:
    global owner, file
    cdef int64_t number
    cdef int i, t
    make_hosts()
    owner = <model.Owner *>calloc(1, sizeof(model.Owner))
    file = kept_file.kept_open(memfd_create("races", 0), "", kept_file.O_RDWR, False)
    check(owner != NULL and file != NULL and not sigbus.watch_faults_failed(), "there is an owner with a file")
    owner.now = tick
    owner.last_now = <int64_t>1000000 << 20
    trees.add_known_services(owner)
    for t in range(TREES):
        tree[t] = trees.add_tree(owner, model.SMTP, t, TREE_BYTES)
        check(tree[t] != NULL, "there is room for a tree")
        trees.link_tree(owner, tree[t])
    make_series(WHOLE, 1 << 20, 0)
    make_series(FOLDED, 1 << 20, 200)
    make_series(TURNING, 1, 200)
    for i in range(STEADY):
        for t in range(COMING):
            check(trie.trie_add(&tree[t].arena, &host[i], 1) == codes.OK, "a steady host is added")
        t = series_change.change(series[WHOLE], &host[i], 1, tick(owner), NULL, 0, &number)
        check(t == codes.OK, "a steady host is recorded")
    share(FILED)
    for i in range(THREADS):
        worker[i].number = i
        worker[i].random = (seed * THREADS + i) * 2 + 1


cdef public int main(int count, char **word) noexcept nogil:
    global steps
    cdef pthread_t thread[THREADS]
    cdef int i
    check(count == 3, "usage: races STEPS SEED")
    steps = <u64>atoll(word[1])
    set_up(<u64>atoll(word[2]))
    for i in range(THREADS):
        check(pthread_create(&thread[i], NULL, work, &worker[i]) == 0, "a thread is started")
    for i in range(THREADS):
        check(pthread_join(thread[i], NULL) == 0, "a thread has ended")
    check_all()
    printf("%d threads, %lld steps each; every count is the sum of the tallies\n", <int>THREADS, <long long>steps)
    return 0
