"""The inner functions of the core, for the tests in tests/unit/core; no part of the package.

Each function of a room that no public method shows by itself is called here with plain Python values. The set-up step
of the Makefile builds this module beside the core (tests/support/build_inner.py), with bounds checks and assertions.
"""

from libc.stdint cimport int64_t, uintptr_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

cimport inbound_audit._core.address as ip
cimport inbound_audit._core.address_text as ip_text
cimport inbound_audit._core.arena as arena_
cimport inbound_audit._core.backing as backing
cimport inbound_audit._core.bits as bits
cimport inbound_audit._core.change_log as change_log
cimport inbound_audit._core.clock as clock
cimport inbound_audit._core.cluster_window as cluster_window
cimport inbound_audit._core.coalesce as coalesce_
cimport inbound_audit._core.codes as codes
cimport inbound_audit._core.own_socket as own_socket
cimport inbound_audit._core.gate_decisions as gate_decisions
cimport inbound_audit._core.gate_model as gate_model
cimport inbound_audit._core.gate_queue as gate_queue
cimport inbound_audit._core.hosts as hosts_
cimport inbound_audit._core.kept_file as kept_file
cimport inbound_audit._core.layout as layout
cimport inbound_audit._core.lengths as lengths_
cimport inbound_audit._core.mapping as mapping
cimport inbound_audit._core.model as model
cimport inbound_audit._core.monitor as monitor
cimport inbound_audit._core.node as node
cimport inbound_audit._core.node_tree as node_tree
cimport inbound_audit._core.owner_files as owner_files
cimport inbound_audit._core.path as path
cimport inbound_audit._core.prefix as prefix
cimport inbound_audit._core.query as query
cimport inbound_audit._core.ranges as ranges
cimport inbound_audit._core.reply as reply
cimport inbound_audit._core.seek as seek_
cimport inbound_audit._core.seqlock as seqlock
cimport inbound_audit._core.series_change as series_change
cimport inbound_audit._core.series_query as series_query
cimport inbound_audit._core.session as session_
cimport inbound_audit._core.sigbus as sigbus
cimport inbound_audit._core.sliding as sliding
cimport inbound_audit._core.strings as strings
cimport inbound_audit._core.sums as sums
cimport inbound_audit._core.trees as trees
cimport inbound_audit._core.trie as trie
cimport inbound_audit._core.verify as verify_
cimport inbound_audit._core.walk as walk
cimport inbound_audit._core.watch as watch
cimport inbound_audit._core.window as window
from inbound_audit._core.bits cimport u8, u32, u64

OK, FULL, UNMATCHED, OVERFLOW, DAMAGED = codes.OK, codes.FULL, codes.UNMATCHED, codes.OVERFLOW, codes.DAMAGED
NO_SERVICE, NO_PEER, BAD_WINDOW, CLOSED = codes.NO_SERVICE, codes.NO_PEER, codes.BAD_WINDOW, codes.CLOSED
NEED_NEGATIVE_TREE, NO_KEY, LONG_KEY = codes.NEED_NEGATIVE_TREE, codes.NO_KEY, codes.LONG_KEY
CODES = range(codes.OTHER_FAMILY, 0)
UNIT, HEADER_UNITS, GRAIN, PAGE = layout.UNIT, layout.HEADER_UNITS, mapping.GRAIN, layout.PAGE
LARGEST_UNITS, MIN_CAPACITY = layout.LARGEST_UNITS, layout.MIN_CAPACITY
MAX_REPLY_BYTES, MAX_FIELD_BYTES = reply.MAX_REPLY_BYTES, reply.MAX_FIELD_BYTES
MAX_DRAINED = gate_model.MAX_DRAINED
UNITS = [layout.UNITS[i] for i in range(layout.CLASSES)]
BY_SIZE = [layout.BY_SIZE[i] for i in range(layout.CLASSES)]
SLOTS = [node.SLOTS[i] for i in range(node.GRADE_FULL + 1)]
TAG_NONE, TAG_SUFFIX, TAG_LEAF = node.TAG_NONE, node.TAG_SUFFIX, node.TAG_LEAF
TAG_SMALL, TAG_FULL = node.TAG_SMALL, node.TAG_FULL
READ_SPINS = seqlock.READ_SPINS
SOUND, NOT_READY, OTHER_MAGIC = owner_files.SOUND, owner_files.NOT_READY, owner_files.OTHER_MAGIC
OTHER_LAYOUT, OTHER_ORDER, NONSENSE = owner_files.OTHER_LAYOUT, owner_files.OTHER_ORDER, owner_files.NONSENSE
CUT_SHORT = owner_files.CUT_SHORT
REUSE_DELAY_NS, NO_WINDOW, MAX_KEY = window.REUSE_DELAY_NS, layout.NO_WINDOW, change_log.MAX_KEY
CONNECTIONS, ADDRESSES, STRINGS = model.CONNECTIONS, model.ADDRESSES, model.STRINGS
MAX_SERVICES, SMTP, INBOUND_CIDR = model.MAX_SERVICES, model.SMTP, model.INBOUND_CIDR


# ---- bits, codes, address, address_text, monitor, strings, watch

def high_bits(int n):
    return bits.high_bits(n)


def match16(bytes keys not None, u8 byte, u8 care):
    assert len(keys) == 16
    return bits.match16(<const u8 *><const char *>keys, byte, care)


def reason(long code):
    return codes.reason(code).decode("ascii")


cdef ip.Address address(object text) except *:
    cdef ip.Address a
    cdef bytes given = text.encode("ascii")
    cdef const char *s = given
    cdef int code = ip_text.parse_address(s, s + len(given), &a)
    if code != codes.OK:
        raise ValueError(reason(code))
    return a


cdef prefix.Prefix prefix_of(object text) except *:
    cdef prefix.Prefix p
    cdef bytes given = text.encode("ascii")
    cdef const char *s = given
    cdef int code = prefix.parse_cidr(s, s + len(given), NULL, &p)
    if code != codes.OK:
        raise ValueError(reason(code))
    return p


cdef str text_of(const ip.Address *a):
    cdef char out[ip_text.TEXT_MAX]
    return out[:ip_text.format_address(a, out)].decode("ascii")


def words(text):
    """`(hi, lo, version)` of an address."""
    cdef ip.Address a = address(text)
    return a.hi, a.lo, a.version


def masked(text, int length):
    cdef ip.Address a = address(text)
    ip.mask(&a, length)
    return text_of(&a)


def next_address(text):
    """The next address, and whether there is one."""
    cdef ip.Address a = address(text)
    more = bool(ip.next_address(&a))
    return text_of(&a), more


def mapped(text):
    """An IPv4 address as IPv4-mapped IPv6, and back."""
    cdef ip.Address a = address(text)
    ip.map_ipv4(&a)
    there = text_of(&a), a.version
    ip.unmap(&a)
    return there, (text_of(&a), a.version)


def from_packed(bytes packed not None):
    cdef ip.Address a
    ip.from_packed(<const u8 *><const char *>packed, <int>len(packed), &a)
    return text_of(&a)


def compare(one, other, int bits_):
    cdef ip.Address a = address(one), b = address(other)
    return ip.compare(a.hi, a.lo, b.hi, b.lo, bits_)


def first_difference(one, other):
    cdef ip.Address a = address(one), b = address(other)
    return ip.first_difference(a.hi, a.lo, b.hi, b.lo)


def parse_number(bytes text not None, int maximum):
    cdef const char *s = text
    return ip_text.parse_number(s, s + len(text), maximum)


def parse_remote(bytes text not None):
    """The address and the port; or the code."""
    cdef ip.Address a
    cdef int port
    cdef const char *s = text
    cdef int code = ip_text.parse_remote(s, s + len(text), &a, &port)
    if code != codes.OK:
        return code
    return text_of(&a), port


def format_remote(text, int port):
    cdef ip.Address a = address(text)
    cdef char out[ip_text.TEXT_MAX]
    return out[:ip_text.format_remote(&a, port, out)].decode("ascii")


def parse_monitor(bytes text not None):
    cdef int interval, windows
    cdef const char *s = text
    cdef int code = monitor.parse_monitor(s, s + len(text), &interval, &windows)
    if code != codes.OK:
        return code
    return interval, windows


def parse_duration(bytes text not None):
    cdef const char *s = text
    return monitor.parse_duration(s, s + len(text))


def sip128(bytes text not None, u64 k0, u64 k1):
    cdef u64 out[2]
    strings.sip128(<const u8 *><const char *>text, len(text), k0, k1, out)
    return out[0], out[1]


def text_address(bytes text not None):
    cdef ip.Address a
    strings.address_of_text(text, len(text), &a)
    return a.hi, a.lo, a.version


def watch_directory(bytes place not None):
    return watch.watch_directory(place)


def add_watch(int fd, bytes place not None):
    return watch.add_watch(fd, place)


def remove_watch(int fd, int number):
    return watch.remove_watch(fd, number)


cdef kept_file.KeptFile *hold(int fd) except? NULL:
    """A file that is open as `fd`; NULL for -1. It has no path, so it is not opened again."""
    cdef kept_file.KeptFile *file
    if fd < 0:
        return NULL
    file = kept_file.kept_open(fd, b"", kept_file.O_RDWR, False)
    if file == NULL:
        raise OSError
    return file


def log_change(int fd, u64 log_id, u64 sequence, bytes key, text, int64_t by, bint removed, int64_t now):
    """Writes the line after `sequence`. Returns the new sequence and the number of failures."""
    cdef model.Series s
    cdef ip.Address a = address(text)
    memset(&s, 0, sizeof(s))
    s.log, s.log_id, s.log_sequence = hold(fd), log_id, sequence
    change_log.log_change(&s, &a, <const char *>key if key is not None else NULL, len(key or b""), by, removed, now)
    kept_file.kept_free(s.log)
    return s.log_sequence, s.log_failures


def range_of(u64 capacity):
    return layout.range_of(capacity)


# ---- seqlock

cdef class SeqLock:
    """A sequence counter, and a writer lock."""

    cdef u64 seq
    cdef u32 lock
    cdef readonly u64 waiting

    def begin(self):
        return seqlock.read_begin(&self.seq)

    def stood(self, u64 began):
        return bool(seqlock.read_stood(&self.seq, began))

    def waited(self, int attempt):
        return bool(seqlock.read_waited(attempt))

    def open(self):
        seqlock.write_open(&self.seq)

    def step(self):
        seqlock.write_step(&self.seq)

    def close(self):
        seqlock.write_close(&self.seq)

    def try_lock(self):
        return bool(seqlock.try_lock(&self.lock))

    def acquire(self):
        with nogil:
            seqlock.lock_wait(&self.lock, &self.waiting)

    def release(self):
        seqlock.unlock(&self.lock)

    def rest(self):
        with nogil:
            seqlock.yield_to_waiting(&self.waiting)

    def is_waited_for(self):
        return bits.load64(&self.waiting) != 0


# ---- mapping, sigbus

cdef class Mapping:
    """A file, mapped and guarded."""

    cdef u8 *at
    cdef size_t size
    cdef int slot
    cdef bint writable

    def __cinit__(self, int fd, size_t size, bint writable=False):
        self.slot = sigbus.UNGUARDED
        self.size, self.writable = size, writable
        self.at = <u8 *>mapping.map_file(NULL, size, fd, 0, writable)
        if self.at == NULL:
            raise MemoryError
        if sigbus.watch_faults_failed():
            raise OSError
        self.slot = sigbus.guard(self.at, size, writable)

    def __dealloc__(self):
        if self.at != NULL:
            sigbus.unguard(self.slot)
            mapping.unmap_range(self.at, self.size)

    def __getitem__(self, size_t at):
        assert at < self.size
        with nogil:  # a load that may fault
            at = (<const volatile u8 *>self.at)[at]
        return at

    def __setitem__(self, size_t at, u8 value):
        assert at < self.size and self.writable
        (<volatile u8 *>self.at)[at] = value

    def was_lost(self):
        return bool(sigbus.was_lost(self.slot))

    def cover(self):
        return not mapping.cover_failed(self.at, self.size, self.writable)


# ---- layout, backing, arena, coalesce, node, path, trie, seek, verify

cdef class Arena:
    """An arena with the trie in it."""

    cdef layout.Arena a
    cdef kept_file.KeptFile *file

    def __cinit__(self, u64 capacity=1 << 20):
        if backing.arena_open(&self.a, capacity) != codes.OK:
            raise MemoryError

    def __dealloc__(self):
        backing.arena_close(&self.a)
        kept_file.kept_free(self.file)

    @property
    def bump(self):
        return self.a.bump

    @property
    def live(self):
        return self.a.live

    @property
    def freed(self):
        return self.a.freed

    @property
    def limit(self):
        return self.a.limit

    @property
    def backed(self):
        return self.a.backed

    @property
    def held(self):
        return self.a.held

    @property
    def size(self):
        return self.a.size

    @property
    def touched(self):
        return self.a.touched

    @property
    def reach(self):
        return layout.reach_of(&self.a)

    @reach.setter
    def reach(self, u32 units):
        """As another process could."""
        layout.header(&self.a).reach = units

    @property
    def number(self):
        return layout.header(&self.a).number

    @property
    def seq(self):
        return layout.header(&self.a).seq

    def label(self, bytes service not None, bytes listener not None, u32 kind=0):
        """Writes the label. Returns its checksum as stored, and as computed."""
        cdef layout.Label label
        memset(&label, 0, sizeof(label))
        label.service_size, label.listener_size, label.kind = <u32>len(service), <u32>len(listener), kind
        memcpy(label.service, <const char *>service, len(service))
        memcpy(label.listener, <const char *>listener, len(listener))
        layout.write_label(&self.a, &label)
        return layout.header(&self.a).names_sum, layout.sum_of_label(layout.header(&self.a))

    def spoil_label(self, int at):
        """Changes one byte of the listener's name. Returns whether the checksum still fits."""
        layout.header(&self.a).listener[at] ^= 1
        return layout.header(&self.a).names_sum == layout.sum_of_label(layout.header(&self.a))

    def share_needs(self):
        return backing.share_needs(&self.a)

    def share(self, int fd, u64 offset):
        self.file = hold(fd)
        return backing.arena_share(&self.a, self.file, offset)

    def leave(self):
        return bool(backing.arena_leave(&self.a))

    def grow(self, u32 units):
        return bool(backing.arena_grow(&self.a, units))

    def alloc(self, int size_class):
        assert 0 <= size_class < layout.CLASSES
        return arena_.alloc(&self.a, size_class)

    def release(self, int size_class, u32 unit):
        arena_.release(&self.a, size_class, unit)

    def carve(self, u32 unit, u32 units):
        arena_.carve(&self.a, unit, units)

    def split(self, u32 units):
        return arena_.split(&self.a, units)

    def free_list(self, int size_class):
        unit, found = self.a.free[size_class], []
        while unit:
            assert unit not in found
            found.append(unit)
            unit = (<u32 *>layout.block(&self.a, unit))[0]
        return found

    def damage_free(self, u32 unit, u32 link):
        """Writes the link of a free block, as another process could."""
        (<u32 *>layout.block(&self.a, unit))[0] = link

    def coalesce(self):
        coalesce_.coalesce(&self.a)

    def reset(self):
        arena_.arena_reset(&self.a)

    def renew(self, int64_t number):
        arena_.arena_renew(&self.a, number)

    def trim(self, u64 keep):
        return bool(arena_.arena_trim(&self.a, keep))

    # ---- the trie

    def add(self, text, u32 n=1):
        cdef ip.Address a = address(text)
        return trie.trie_add(&self.a, &a, n)

    def remove(self, text, u32 n=1):
        cdef ip.Address a = address(text)
        return trie.trie_remove(&self.a, &a, n)

    def move(self, source, target, u32 n=1):
        cdef ip.Address a = address(source), b = address(target)
        return trie.trie_move(&self.a, &a, &b, n)

    def move_about(self, source, target, int rounds):
        """Moves one session there and back, without the GIL."""
        cdef ip.Address a = address(source), b = address(target)
        cdef int _i
        with nogil:
            for _i in range(rounds):
                trie.trie_move(&self.a, &a, &b, 1)
                trie.trie_move(&self.a, &b, &a, 1)

    def least_and_most(self, first, second, int rounds):
        """The least and the largest sum of two counts, read one after the other, that a reader would accept beside a
        writer; without the GIL."""
        cdef prefix.Prefix p = prefix_of(first), q = prefix_of(second)
        cdef u64 *seq = &layout.header(&self.a).seq
        cdef u64 began
        cdef u32 seen, least = 0xFFFFFFFF, most = 0
        cdef int _i
        with nogil:
            for _i in range(rounds):
                began = seqlock.read_begin(seq)
                seen = trie.trie_count(&self.a, &p.address, p.length)
                seen += trie.trie_count(&self.a, &q.address, q.length)
                if seqlock.read_stood(seq, began):
                    least = seen if seen < least else least
                    most = seen if seen > most else most
        return least, most

    def count(self, cidr):
        cdef prefix.Prefix p = prefix_of(cidr)
        return trie.trie_count(&self.a, &p.address, p.length)

    def bound(self, cidr, u32 enough):
        cdef prefix.Prefix p = prefix_of(cidr)
        return trie.trie_bound(&self.a, &p.address, p.length, enough)

    def seek(self, text, int up=1):
        """The nearest host at or beyond an address, or None."""
        cdef ip.Address a = address(text), out
        return text_of(&out) if seek_.seek_host(&self.a, a.version == 6, &a, up, &out) else None

    def branch(self, cidr):
        """`(count, the longest prefix with the same hosts)`, or None."""
        cdef prefix.Prefix p = prefix_of(cidr)
        cdef seek_.Branch b
        if not seek_.branch_below(&self.a, &p, &b):
            return None
        return b.count, f"{text_of(&b.prefix.address)}/{b.prefix.length}"

    def descend(self, text):
        """`(entries on the path, found, mismatch, damaged)`."""
        cdef ip.Address a = address(text)
        cdef path.Path p
        path.descend(&self.a, a.version == 6, a.hi, a.lo, &p)
        return p.last + 1, bool(p.found), bool(p.mismatch), bool(p.damaged)

    def root_tag(self, bint v6):
        return node.tag_of(layout.header(&self.a).root[v6])

    def damage(self, u32 unit, int word, u32 value):
        """Writes one word of a block, as another process could."""
        (<u32 *>layout.block(&self.a, unit))[word] = value

    def root_unit(self, bint v6):
        return node.unit_of(layout.header(&self.a).root[v6])

    def verify(self):
        """None, or the invariant that does not hold."""
        cdef const char *fault = verify_.verify(&self.a)
        return None if fault == NULL else fault.decode("ascii")


cdef class Node:
    """One node in an arena of its own."""

    cdef Arena arena
    cdef node.Node *n
    cdef readonly bint v6
    cdef readonly int grade

    def __cinit__(self, bint v6, int grade, int depth=1, where="10.0.0.0"):
        cdef ip.Address a = address(where)
        self.arena = Arena()
        self.v6, self.grade = v6, grade
        self.n = node.new_node(&self.arena.a, v6, grade, depth, a.hi, a.lo)

    @property
    def live(self):
        return self.n.live

    @property
    def path(self):
        cdef node.Key k = node.path_of(self.n, self.v6)
        return k.hi, k.lo

    @property
    def full(self):
        return self.grade == node.GRADE_FULL

    def put(self, u8 byte, u32 count):
        assert self.n.live < node.SLOTS[self.grade]
        node.put(self.n, self.v6, byte, node.entry((<u32>node.TAG_LEAF << node.TAG_SHIFT) | byte, count))

    def find(self, u8 byte):
        """The count of the entry of that byte, or None."""
        cdef u64 *at = node.find(self.n, self.v6, self.full, byte)
        return None if at == NULL or at[0] == 0 else node.count_of(at[0])

    def erase(self, u8 byte):
        node.erase(self.n, self.v6, byte, node.find(self.n, self.v6, self.full, byte))

    def sum_below(self, u8 byte, int bits_):
        return node.sum_below(self.n, self.v6, self.full, byte, bits_)

    def next_key(self, int after, int step):
        return node.next_key(self.n, self.v6, self.full, after, step)

    def copied(self, int grade, but=None):
        """A copy in a node of another grade, without the slot of the byte `but`."""
        cdef Node fresh = Node(self.v6, grade)
        cdef u64 *leave = NULL if but is None else node.find(self.n, self.v6, self.full, but)
        node.copy_slots(self.n, fresh.n, self.v6, leave)
        return fresh


# ---- ranges

cdef class Ranges:
    """Ranges `(first address, value)`, in order."""

    cdef ranges.Ranges r

    def __cinit__(self, list items not None):
        cdef ip.Address a
        if not ranges.reserve_ranges(&self.r, len(items)):
            raise MemoryError
        for first, value in items:
            a = address(first)
            self.r.range[self.r.size].hi, self.r.range[self.r.size].lo = a.hi, a.lo
            self.r.range[self.r.size].value = value
            self.r.size += 1

    def __dealloc__(self):
        ranges.free_ranges(&self.r)

    def lookup(self, text):
        cdef ip.Address a = address(text)
        return ranges.lookup(&self.r, a.hi, a.lo)


# ---- trees, sums, query, walk, owner_files

cdef int64_t last_now(model.Owner *o) noexcept nogil:
    return o.last_now


cdef class Owner:
    """An owner with two services; trees and series by their index."""

    cdef model.Owner *o
    cdef model.Tree *tree[64]
    cdef readonly int trees
    cdef owner_files.OwnerHeader *own

    def __cinit__(self):
        self.o = <model.Owner *>calloc(1, sizeof(model.Owner))
        if self.o == NULL:
            raise MemoryError
        self.o.now = last_now
        trees.add_known_services(self.o)

    def __dealloc__(self):
        if self.own != NULL:
            mapping.unmap_range(self.own, layout.PAGE)
        trees.free_trees(self.o)
        kept_file.kept_free(self.o.own_file)
        free(self.o)

    def set_time(self, int64_t seconds):
        self.o.last_now = 1000000 * seconds

    def add_service(self, bytes name not None):
        return trees.add_service(self.o, name, len(name))

    def find_service(self, bytes name not None):
        return trees.find_service(self.o, name, len(name))

    def add_tree(self, int service=0, u32 listener_id=0):
        cdef model.Tree *t = trees.add_tree(self.o, service, listener_id, 1 << 20)
        if t == NULL:
            raise MemoryError
        self.tree[self.trees] = t
        trees.link_tree(self.o, t)
        self.trees += 1
        return self.trees - 1

    def add_sum(self):
        """The sum over all other nodes, not in use yet."""
        cdef model.Tree *t = trees.add_tree(self.o, model.INBOUND_CIDR, 0, 1 << 20)
        if t == NULL:
            raise MemoryError
        self.tree[self.trees] = t
        trees.link_sum(self.o, t)
        self.trees += 1
        return self.trees - 1

    def use_sum(self, int tree, bint used):
        node_tree.use_sum(self.tree[tree], used)

    def own_sum(self):
        """Whether this process keeps a sum that is in use."""
        return node_tree.own_sum(self.o) != NULL

    def check_sum(self, int tree):
        """None, or why it is not the sum of the nodes."""
        cdef const char *fault = node_tree.check_sum(self.o, self.tree[tree])
        return None if fault == NULL else fault.decode()

    def run(self, int tree, text):
        """`(hosts, pieces)` of a tree from an address on; a host is `(address, count)`."""
        cdef ip.Address start = address(text)
        cdef hosts_.Run run
        found, pieces = [], 0
        hosts_.start_run(&run, self.tree[tree], &start)
        while hosts_.run_has(&run):
            pieces += run.at == 0
            found.append((text_of(&hosts_.run_host(&run).address), hosts_.run_host(&run).count))
            hosts_.run_on(&run)
        return found, pieces

    def unlink(self, int tree):
        trees.unlink_tree(self.o, self.tree[tree])

    def listed(self, int service=0):
        """How many trees the list of a service has."""
        cdef model.Tree *t = trees.trees_of(self.o, service)
        n = 0
        while t != NULL:
            n += 1
            t = t.next
        return n

    def next_of(self, int tree):
        """The index of the tree after it in its list, or None."""
        return next((i for i in range(self.trees) if self.tree[i] == self.tree[tree].next), None)

    def add(self, int tree, text, u32 n=1):
        cdef ip.Address a = address(text)
        return trie.trie_add(&self.tree[tree].arena, &a, n)

    def stop_in_update(self, int tree):
        """The sequence counter is odd from now on, as beside a writer that was stopped."""
        seqlock.write_open(&layout.header(&self.tree[tree].arena).seq)

    def stalled(self, int tree):
        return self.tree[tree].stalled

    def share(self, bint shared):
        self.o.shared = shared

    def tree_count(self, int tree, cidr):
        cdef prefix.Prefix p = prefix_of(cidr)
        return sums.tree_count(self.tree[tree], &p)

    def listener_count(self, int tree, cidr):
        cdef prefix.Prefix p = prefix_of(cidr)
        return sums.listener_count(self.tree[tree], &p)

    def sum_trees(self, cidr, int service=0):
        cdef prefix.Prefix p = prefix_of(cidr)
        return sums.sum_trees(trees.trees_of(self.o, service), &p)

    def first_over(self, remote, list asked not None, int after=-1, int service=0):
        """`(number of the limit or None, sure)`; `asked` has a `(length, number, maximum)` for each limit."""
        cdef lengths_.LengthLimit limit[64]
        cdef ip.Address a = address(remote)
        cdef bint sure = True
        cdef int i, found
        if len(asked) > 64:
            raise ValueError("at most 64 limits")
        for i in range(len(asked)):
            limit[i].length, limit[i].limit, limit[i].maximum = asked[i]
        found = lengths_.first_over(trees.trees_of(self.o, service), &a, limit, len(asked), after, &sure)
        return None if found == lengths_.NO_LIMIT else found, bool(sure)

    def total(self, int service=0):
        return sums.total_trees(trees.trees_of(self.o, service))

    def listener_total(self, int tree):
        return sums.listener_total(self.tree[tree])

    cdef model.ia_ac accept(self, int tree, remote) except *:
        cdef model.ia_ac ac
        cdef ip.Address a = address(remote)
        memset(&ac, 0, sizeof(ac))
        ac.hi, ac.lo, ac.version, ac.tree = a.hi, a.lo, <u8>a.version, self.tree[tree]
        return ac

    def query_sessions(self, int tree, remote, bytes cidr, bytes service):
        cdef model.ia_ac ac = self.accept(tree, remote)
        cdef const char *c = NULL
        cdef const char *s = NULL
        if cidr is not None:
            c = cidr
        if service is not None:
            s = service
        return query.query_sessions(&ac, c, len(cidr or b""), s, len(service or b""))

    def query_absolute(self, bytes cidr not None, bytes service not None):
        return query.query_absolute(self.o, cidr, len(cidr), service, len(service))

    def query_listener(self, int tree, bytes cidr not None, peer=None):
        cdef ip.Address a
        if peer is not None:
            a = address(peer)
        return query.query_listener(self.tree[tree], &a if peer is not None else NULL, cidr, len(cidr))

    def branch(self, cidr, int service=0):
        """`(count, the longest prefix with the same hosts)`, or None."""
        cdef prefix.Prefix p = prefix_of(cidr)
        cdef seek_.Branch b
        if not walk.trees_branch(trees.trees_of(self.o, service), &p, &b):
            return None
        return b.count, f"{text_of(&b.prefix.address)}/{b.prefix.length}"

    def rows(self, int version=4, int service=0):
        """`(code, [(count, prefix)])` of the compressed tree."""
        cdef walk.Rows rows
        cdef int code
        memset(&rows, 0, sizeof(rows))
        code = walk.walk_tree(trees.trees_of(self.o, service), version, &rows)
        return code, self.taken(&rows)

    def top(self, size_t n, int four=32, int six=128, int service=0):
        cdef walk.Rows rows, heap
        cdef int length[2]
        cdef int code
        length[0], length[1] = four, six
        memset(&rows, 0, sizeof(rows))
        memset(&heap, 0, sizeof(heap))
        code = walk.walk_top(trees.trees_of(self.o, service), n, length, 1, &heap, &rows)
        walk.free_rows(&heap)
        return code, self.taken(&rows)

    def hosts(self, int tree, int version=4):
        cdef walk.Rows rows
        cdef int code
        memset(&rows, 0, sizeof(rows))
        code = walk.walk_hosts(self.tree[tree], version, &rows)
        return code, self.taken(&rows)

    cdef list taken(self, walk.Rows *rows):
        cdef walk.Row *row
        found = []
        for i in range(rows.size):
            row = &rows.row[i]
            found.append((row.count, f"{text_of(&row.prefix.address)}/{row.prefix.length}"))
        walk.free_rows(rows)
        return found

    def within_budget(self, int tree, u64 found):
        """Whether `found` rows are possible in one tree."""
        cdef walk.Rows rows
        memset(&rows, 0, sizeof(rows))
        rows.found = found - 1
        return bool(walk.within_row_budget(self.tree[tree], &rows))

    # ---- a file of its own

    def move_into(self, int fd):
        """All trees, each into the next section."""
        cdef int i
        cdef u64 at
        assert mapping.back_file(fd, 0, mapping.GRAIN) == 0
        self.o.own_file = hold(fd)
        self.own = <owner_files.OwnerHeader *>mapping.map_file(NULL, layout.PAGE, fd, 0, True)
        self.own.magic, self.own.layout = owner_files.OWNER_MAGIC, layout.LAYOUT
        self.own.byte_order, self.own.stride = layout.BYTE_ORDER_MARK, self.tree[0].arena.size
        for i in range(self.trees):
            at = mapping.GRAIN + i * self.own.stride
            assert backing.arena_share(&self.tree[i].arena, self.o.own_file, at) == codes.OK
        self.own.trees = <u32>self.trees

    def set_stride(self, u64 stride):
        """As a damaged file would have it."""
        self.own.stride = stride


cdef class OwnerFile:
    """Another owner's file, as `Owner` attaches it."""

    cdef owner_files.MappedOwner f
    cdef Owner owner
    cdef readonly int fault

    def __cinit__(self, Owner owner not None, int fd, u64 size):
        self.owner = owner
        self.fault = owner_files.owner_open(&self.f, fd, size)

    def __dealloc__(self):
        owner_files.owner_close(&self.f)

    def attach(self, int service=0, u32 listener_id=0, u64 now=0):
        cdef u32 number = self.f.trees
        cdef int fault = owner_files.attach_listener_tree(&self.f, self.owner.o, number, service, listener_id, now)
        self.f.trees += 1
        return fault

    def attach_sum(self, u64 now=0):
        cdef int fault = owner_files.attach_sum(&self.f, self.owner.o, self.f.trees, now)
        self.f.trees += 1
        return fault

    def refresh(self, u64 size, u64 memory):
        return owner_files.owner_refresh(&self.f, size, memory)

    def detach(self, u64 now):
        owner_files.owner_detach(&self.f, self.owner.o, now)

    def first_address(self):
        """Where the tree that was attached last is mapped."""
        return <uintptr_t>self.f.first.arena.base


def header_fault(u64 magic, u32 version, u32 byte_order, u64 expected):
    return owner_files.header_fault(magic, version, byte_order, expected)


# ---- window, fold, series_query, series_change

cdef model.Series *remote_series(uintptr_t session, u32 scope, bytes name, u32 interval, u32 slots) except? NULL:
    """A series of the other nodes; NULL: none is known. `session`: the handle of a session of the audit."""
    cdef model.Owner *o = (<model.ia_ac *>session).tree.owner
    cdef model.Series *s
    for i in range(o.series_known):
        s = o.series[i]
        if s.scope == scope and s.name[:s.name_size] == name and s.interval == interval and s.slots == slots:
            return model.load_series(&s.remote)
    return NULL


def remote_count(uintptr_t session, u32 scope, bytes name not None, u32 interval, u32 slots, cidr, int64_t first,
                 int64_t last):
    """What a process counts of a series of the other nodes; None: it knows of none."""
    cdef model.Series *s = remote_series(session, scope, name, interval, slots)
    cdef prefix.Prefix p = prefix_of(cidr)
    return None if s == NULL else window.range_count(s, window.now_of(s.owner), first, last, &p)


def remote_levels(uintptr_t session, u32 scope, bytes name not None, u32 interval, u32 slots):
    """The lengths to which hosts of the other nodes' current window are folded, as readers see them."""
    cdef model.Series *s = remote_series(session, scope, name, interval, slots)
    cdef int[2] lengths
    cluster_window.levels_of_window(s, clock.window_number(window.now_of(s.owner), interval), s.newest, lengths)
    return lengths[0], lengths[1]


cdef class Series:
    """A series with the ring of one process."""

    cdef model.Series *s
    cdef Owner owner

    def __cinit__(self, Owner owner not None, u32 interval, u32 slots, u32 scope=model.ADDRESSES, bytes name=b"s",
                  u64 window_bytes=1 << 20, bint negative=False):
        cdef model.Owner *o = owner.o
        cdef model.Series *s = <model.Series *>calloc(1, sizeof(model.Series))
        cdef u32 i
        self.owner = owner
        s.scope, s.interval, s.slots, s.owner = scope, interval, slots, o
        s.name_size = <u32>len(name)
        memcpy(s.name, <const char *>name, len(name))
        s.max_units = <u32>(window_bytes // layout.UNIT) - layout.HEADER_UNITS
        s.slot = <model.Slot *>calloc(slots, sizeof(model.Slot))
        s.own = <model.Ring *>calloc(1, sizeof(model.Ring))
        s.own.series = s
        s.own.tree = <model.Tree **>calloc(2 * slots, sizeof(model.Tree *))
        for i in range(2 * slots):
            s.slot[i // 2].number[i % 2] = layout.NO_WINDOW
            if negative or i % 2 == 0:
                s.own.tree[i] = trees.add_tree(o, 0, 0, window_bytes)
                s.own.tree[i].ring = s.own
                layout.header(&s.own.tree[i].arena).number = layout.NO_WINDOW
        o.series[o.series_known] = s
        o.series_known += 1
        s.newest = clock.window_number(window.now_of(o), interval)
        window.tree_for(s, s.newest, 0)
        window.publish_timeline(s)
        window.link_ring(s, s.own)
        s.ready = 1
        self.s = s

    def set_max_hosts(self, u32 n):
        self.s.max_hosts = n

    def set_remote(self, Series remote not None, u32 replicate):
        """`remote`, the last series that was made, stands for what the other nodes of a cluster have recorded."""
        cdef model.Owner *o = self.owner.o
        assert o.series[o.series_known - 1] == remote.s
        o.series_known -= 1  # it belongs to this series from now on
        self.s.replicate = replicate
        model.publish_series(&self.s.remote, remote.s)

    def set_replicate(self, u32 replicate):
        self.s.replicate = replicate

    def end(self):
        self.s.state = model.ENDED

    @property
    def newest(self):
        return self.s.newest

    @property
    def base(self):
        return self.s.base

    def slot_of(self, int64_t number):
        return window.slot_of(number, self.s.slots)

    def in_view(self, int64_t number):
        return bool(window.in_view(self.s, number))

    def advance(self):
        return window.advance(self.s, window.now_of(self.s.owner))

    def window_count(self, int64_t number, cidr):
        cdef prefix.Prefix p = prefix_of(cidr)
        return window.window_count(self.s.own, number, &p)

    def range_count(self, int64_t first, int64_t last, cidr):
        cdef prefix.Prefix p = prefix_of(cidr)
        return window.range_count(self.s, window.now_of(self.s.owner), first, last, &p)

    def change(self, text, int64_t by=1):
        """`(code, number of the window)`."""
        cdef ip.Address a = address(text)
        cdef int64_t number = layout.NO_WINDOW
        code = series_change.change(self.s, &a, by, window.now_of(self.s.owner), NULL, 0, &number)
        return code, number

    def record_past(self, text, int64_t by, int64_t seconds):
        cdef ip.Address a = address(text)
        return series_change.record_past(self.s, &a, by, window.now_of(self.s.owner), 1000000 * seconds)

    def move_event(self, source, target, int64_t number):
        cdef ip.Address a = address(source), b = address(target)
        series_change.move_event(self.s, &a, &b, number)

    def remove_key(self, text):
        cdef ip.Address a = address(text)
        return series_change.remove_key(self.s, &a, window.now_of(self.s.owner), NULL, 0)

    def add_text(self, bytes key, int64_t by=1):
        cdef const char *k = NULL
        if key is not None:
            k = key
        return series_change.series_add(self.s, NULL, k, len(key or b""), by)

    def query_key(self, bytes key, int64_t first=0, int64_t last=0):
        """The count; or the code and None."""
        cdef int64_t count = 0
        cdef const char *k = NULL
        if key is not None:
            k = key
        code = series_query.query_key(NULL, self.s, False, k, len(key or b""), first, last, &count)
        if code != codes.OK:
            return code, None
        return count

    def query_cluster(self, bytes key not None, int64_t first=0, int64_t last=0):
        """The count on all nodes, as of a monitor."""
        cdef int64_t count = 0
        code = series_query.query_events(NULL, self.s, True, key, len(key), first, last, &count)
        assert code == codes.OK
        return count

    def sliding_sum(self, cidr, but=()):
        """`(what lies in the last seconds, what the window before has, the count)`, without some prefixes."""
        cdef prefix.Prefix p = prefix_of(cidr), other
        cdef model.Term term[8]
        cdef sliding.Span span
        cdef sliding.Parts parts
        cdef size_t terms = 0
        for text in but:
            other = prefix_of(text)
            term[terms].hi, term[terms].lo = other.address.hi, other.address.lo
            term[terms].version, term[terms].length, term[terms].sign = other.address.version, other.length, -1
            terms += 1
        sliding.span_until(self.s, window.now_of(self.owner.o), &span)
        parts.whole = parts.before = 0
        sliding.add_parts(self.s, &span, &p, term, terms, &parts)
        return parts.whole, parts.before, sliding.sliding_count(&parts, &span)

    def left_at_least(self, cidr, int64_t maximum):
        """`(what is left, whether the current window alone has more)`."""
        cdef prefix.Prefix p = prefix_of(cidr)
        cdef sliding.Span span
        cdef bint more = False
        sliding.span_until(self.s, window.now_of(self.owner.o), &span)
        left = sliding.left_at_least(self.s, &span, &p, maximum, &more)
        return left, bool(more)

    def sliding_average(self, cidr):
        cdef prefix.Prefix p = prefix_of(cidr)
        return series_query.sliding_average(self.s, window.now_of(self.owner.o), &p)

    def find(self, bytes name not None):
        """Whether the owner finds this series by that name."""
        return series_query.find_series(self.owner.o, name, len(name)) == self.s

    def levels(self):
        """The lengths to which the current window's hosts are folded, as readers see them, and how many were."""
        cdef layout.Header *h = layout.header(&self.s.own.tree[2 * window.slot_of(self.s.newest, self.s.slots)].arena)
        return h.level[0], h.level[1], h.folded

    def verify(self):
        """The faults of all trees."""
        cdef const char *fault
        found = []
        for i in range(2 * self.s.slots):
            if self.s.own.tree[i] != NULL:
                fault = verify_.verify(&self.s.own.tree[i].arena)
                if fault != NULL:
                    found.append(fault.decode("ascii"))
        return found


# ---- the gate

def write_reply(list parts not None, peer, bytes limit, int64_t count):
    """`parts`: bytes, or the number of a `PartKind`. `limit` may be None."""
    cdef reply.Reply r
    cdef reply.Words name
    cdef bytearray out = bytearray(reply.MAX_REPLY_BYTES)
    cdef ip.Address a = address(peer)
    memset(&r, 0, sizeof(r))
    for part in parts:
        if isinstance(part, bytes):
            r.part[r.parts].words.text, r.part[r.parts].words.size = part, <u32>len(part)
        else:
            r.part[r.parts].kind = part
        r.parts += 1
    if limit is not None:
        name.text, name.size = limit, <u32>len(limit)
    size = reply.write_reply(&r, &a, NULL if limit is None else &name, count, out)
    return bytes(out[:size])


cdef class OwnSocket:
    cdef own_socket.OwnSocket s

    def __cinit__(self, int number):
        own_socket.own(&self.s, number)

    @property
    def is_own(self):
        return own_socket.is_own(&self.s)

    def close(self):
        own_socket.close_socket(&self.s)


cdef class GateDecisions:
    """Decisions are known here by their counts."""

    cdef gate_decisions.Decisions d

    def __cinit__(self, bint noted=True):
        if noted:
            self.d.place = <gate_decisions.Decision *>calloc(gate_decisions.ROOM, sizeof(gate_decisions.Decision))

    def __dealloc__(self):
        gate_decisions.close_decisions(&self.d)

    def note(self, int64_t count):
        cdef model.ia_ac peer
        memset(&peer, 0, sizeof(peer))
        with nogil:
            gate_decisions.note_decision(&self.d, &peer, 1, gate_decisions.OVER, 0, count)

    def take(self):
        cdef gate_decisions.Decision found
        cdef bint is_one
        with nogil:
            is_one = gate_decisions.next_decision(&self.d, &found)
        return found.count if is_one else None

    @property
    def lost(self):
        return gate_decisions.lost_decisions(&self.d)


GATE_DECISIONS_ROOM = gate_decisions.ROOM


cdef class GateQueue:
    """Connections are known here by their descriptors alone, which are only numbers."""

    cdef gate_queue.GateQueue q

    def __cinit__(self, u32 room):
        if gate_queue.open_queue(&self.q, room) != 0:
            raise MemoryError

    def __dealloc__(self):
        gate_queue.close_queue(&self.q)
        free(self.q.place)

    def push(self, int number):
        cdef gate_queue.Connection c
        memset(&c, 0, sizeof(c))
        c.socket.fd = number
        return bool(gate_queue.push(&self.q, &c))

    def pop(self):
        cdef gate_queue.Connection c
        return c.socket.fd if gate_queue.pop(&self.q, &c) else None

    def set_news(self, bint news):
        gate_queue.set_news(&self.q, news)

    def end(self):
        gate_queue.end_queue(&self.q)

    @property
    def ready(self):
        return self.q.reads.fd

    @property
    def size(self):
        return self.q.size

    @property
    def accepted(self):
        return self.q.accepted


def session_steps(Owner owner not None, int tree, host, str steps not None):
    """Adds ("+") and removes ("-") one session of a host again and again, or ends ("x") its tree: what each step has
    returned, and the count after it."""
    cdef model.ia_ac ac
    cdef ip.Address a = address(host)
    cdef model.Tree *t = owner.tree[tree]
    cdef prefix.Prefix p
    memset(&ac, 0, sizeof(ac))
    ac.tree, ac.hi, ac.lo, ac.version = t, a.hi, a.lo, <u8>a.version
    query.peer_of(&ac, &p)
    seen = []
    for step in steps:
        code = None
        if step == "+":
            code = session_.add_session(&ac, &a)
            session_.show_session(t)
        elif step == "-":
            session_.remove_session(&ac)
        else:
            t.state, t.epoch = model.ENDED, t.epoch + 1
        seen.append((code, bool(ac.open), sums.tree_count(t, &p)))
    return seen
