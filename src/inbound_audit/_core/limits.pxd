"""Limits that are checked at accept, and which sessions count in which.

Prefixes are listed for networks; an address belongs to the network of its longest listed prefix, and to the default
network where no prefix is listed. So the networks are a partition of the addresses. Each has a table of limits of its
own. A limit counts the sessions of its own network only: those of other networks use up nothing of it.

    0.0.0.0/0        default          the default's sessions in 0.0.0.0/0 are
      10.0.0.0/8     partner            + count(0.0.0.0/0) - count(10.0.0.0/8) + count(10.1.0.0/16)
        10.1.0.0/16  default          and the partner's are
                                        + count(10.0.0.0/8) - count(10.1.0.0/16)

These signed terms are found once; each tree is read once for all of them (`tree_sum`), so that the sum over a tree is
exact as of one moment.

A limit over time counts what a monitor recorded in the last seconds (room `sliding`), in the same prefixes and
networks. Monitors are an audit's, limits a policy's, so it finds its monitor when it is asked: one whose windows are as
long, and of which there are two or more. If there is none, the limit is passed, and `lacks_monitor` says so.
"""

from libc.stdint cimport int64_t
from libc.stdlib cimport free

from inbound_audit._core.address cimport compare, mask
from inbound_audit._core.bits cimport u32, u64, acquire32, high_bits
from inbound_audit._core.decision cimport find_override, note_denial
from inbound_audit._core.lengths cimport NO_LIMIT, LengthLimit, first_over
from inbound_audit._core.model cimport SMTP, Owner, Series, Term, Tree, ia_ac, load_series, load_tree
from inbound_audit._core.overrides cimport ALLOW, DENY_NETWORK, NO_OVERRIDE, Found
from inbound_audit._core.prefix cimport Prefix
from inbound_audit._core.query cimport peer_of
from inbound_audit._core.sliding cimport Parts, Span, add_parts, left_at_least, sliding_count, span_until
from inbound_audit._core.sums cimport listener_total, sum_trees, tree_sum
from inbound_audit._core.trees cimport service_trees, trees_of_cluster
from inbound_audit._core.window cimport now_of

cdef enum:
    NO_NODE = -1            # the parent of a prefix that lies in no other one: the default network
    # in place of the number of a limit
    WITHIN_LIMITS = -1
    DENIED = -2             # an override refuses the session, whatever the limits say
    ALLOWED = -3            # an override lets it in, likewise

# What a limit counts.
cdef enum LimitKind:
    PREFIX_LIMIT = 0        # sessions of the network from the connecting IP's prefix
    NETWORK_LIMIT = 1       # all sessions of the network
    LISTENER_LIMIT = 2      # all sessions of the listener, whatever network they belong to
    CLUSTER_PREFIX_LIMIT = 3    # as PREFIX_LIMIT, for SMTP over all nodes of the cluster
    CLUSTER_NETWORK_LIMIT = 4   # as NETWORK_LIMIT, likewise
    TIMED_PREFIX_LIMIT = 5      # events of the network from the connecting IP's prefix, over time
    TIMED_NETWORK_LIMIT = 6     # all events of the network, over time
    CLUSTER_TIMED_PREFIX_LIMIT = 7      # as TIMED_PREFIX_LIMIT, with what the other nodes of the cluster recorded
    CLUSTER_TIMED_NETWORK_LIMIT = 8     # as TIMED_NETWORK_LIMIT, likewise

cdef struct Limit:
    int kind
    int length[2]           # IPv4, IPv6; negative: the limit does not apply to the family
    int64_t maximum
    u64 passed              # how many sessions were over the limit
    int event               # of a limit over time: which series of a monitor has the events
    u32 interval            # likewise: seconds
    u32 deny_s              # a session that is over the limit has its prefix denied for so many seconds; 0: it has not
    u32 reason              # of the denial (room `decision`)

# A listed prefix.
cdef struct Node:
    int table               # the number of its network
    int parent              # the longest listed prefix around it, or NO_NODE
    int length

cdef struct Table:
    size_t first            # its limits: limit[first] up to limit[end]
    size_t end
    Term *term[2]           # IPv4, IPv6, in address order, a prefix before what it holds
    size_t terms[2]
    LengthLimit *length[2]  # IPv4, IPv6: of open sessions in prefixes, by ascending length
    size_t lengths[2]

cdef struct LimitSet:
    Limit *limit
    Node *node
    size_t nodes
    Table *table
    size_t tables
    int default_table
    bint timed              # there are limits over time
    bint denies             # there are limits that say `then deny`
    u64 denied              # how many sessions an override has refused; atomic

# What of a network lies below a prefix, as `tree_sum` takes it.
cdef struct Share:
    const Prefix *p
    const Term *term
    size_t terms


cdef inline void free_limits(LimitSet *s) noexcept nogil:
    cdef size_t i
    cdef int v6
    for i in range(s.tables):
        for v6 in range(2):
            free(s.table[i].term[v6])
            free(s.table[i].length[v6])
    free(s.table)
    free(s.node)
    free(s.limit)
    s.table = NULL
    s.node = NULL
    s.limit = NULL
    s.tables = 0


cdef inline int table_of(const LimitSet *s, int node) noexcept nogil:
    return s.default_table if node == NO_NODE else s.node[node].table


cdef inline int node_around(const LimitSet *s, int node, int length) noexcept nogil:
    """The longest listed prefix around the prefix of that length of an address; `node` is that of the address."""
    while node != NO_NODE and s.node[node].length > length:
        node = s.node[node].parent
    return node


cdef inline size_t first_term(const Table *t, bint v6, u64 hi, u64 lo, int length) noexcept nogil:
    """The first term that is not before an address and length. O(log terms)."""
    cdef size_t low = 0, high = t.terms[v6], middle
    cdef int side
    while low < high:
        middle = (low + high) // 2
        side = compare(t.term[v6][middle].hi, t.term[v6][middle].lo, hi, lo, 128)
        if side < 0 or (side == 0 and t.term[v6][middle].length < length):
            low = middle + 1
        else:
            high = middle
    return low


cdef inline Share share_of_network(const LimitSet *s, int table, int node, const Prefix *p) noexcept nogil:
    """What of a network lies below a prefix around an address; `node` is the longest listed prefix of that address."""
    cdef const Table *t = &s.table[table]
    cdef bint v6 = p.address.version == 6
    cdef Share share
    cdef size_t begin, end
    node = node_around(s, node, p.length)
    # What lies below the prefix stands together: after the prefix itself, up to the last address that it holds.
    begin = first_term(t, v6, p.address.hi, p.address.lo, p.length + 1)
    end = first_term(t, v6, p.address.hi | ~high_bits(p.length), p.address.lo | ~high_bits(p.length - 64), 129)
    share.p = p if table_of(s, node) == table else NULL
    share.term = t.term[v6] + begin
    share.terms = end - begin
    return share


cdef inline int64_t count_in_network(
    const LimitSet *s, int table, int node, Tree *first, const Prefix *p
) noexcept nogil:
    """Sessions of a network below a prefix. O(prefix length x trees x (1 + terms below the prefix))."""
    cdef Share share = share_of_network(s, table, node, p)
    cdef int64_t total = 0
    while first != NULL:
        total += tree_sum(first, share.p, share.term, share.terms)
        first = load_tree(&first.next)
    return total


cdef inline int64_t network_total(const LimitSet *s, int table, Tree *first) noexcept nogil:
    """All sessions of a network that is not the default, both families."""
    cdef const Table *t = &s.table[table]
    cdef int64_t total = 0
    while first != NULL:
        total += tree_sum(first, NULL, t.term[0], t.terms[0]) + tree_sum(first, NULL, t.term[1], t.terms[1])
        first = load_tree(&first.next)
    return total


cdef inline Tree *trees_of_limit(const Limit *limit, const ia_ac *ac) noexcept nogil:
    """What a limit over the cluster counts: all nodes, for a session of SMTP."""
    if ac.tree.service == SMTP and limit.kind >= CLUSTER_PREFIX_LIMIT:
        return trees_of_cluster(ac.tree.owner)
    return service_trees(ac.tree.owner, ac.tree.service)


cdef inline void prefix_of_limit(const Limit *limit, const ia_ac *ac, Prefix *out) noexcept nogil:
    """The connecting IP's prefix in which a limit counts."""
    peer_of(ac, out)
    out.length = limit.length[ac.version == 6]
    mask(&out.address, out.length)


cdef inline bint is_of_open_prefix(const Limit *limit) noexcept nogil:
    """It counts the open sessions of the connecting IP's prefix."""
    return limit.kind == PREFIX_LIMIT or limit.kind == CLUSTER_PREFIX_LIMIT


# ---- over time

cdef inline Series *monitored(const Limit *limit, Owner *o) noexcept nogil:
    """The events that a limit over time counts; NULL if no monitor has them. O(monitors)."""
    cdef Series *events
    cdef u32 m
    for m in range(acquire32(&o.monitors)):
        events = o.monitor[m][limit.event]
        if events.interval == limit.interval and events.slots > 1:
            return events
    return NULL


cdef inline bint is_of_prefix(const Limit *limit) noexcept nogil:
    """Of a limit over time: it counts the connecting IP's prefix, not the whole network."""
    return limit.kind == TIMED_PREFIX_LIMIT or limit.kind == CLUSTER_TIMED_PREFIX_LIMIT


cdef inline bint lacks_monitor(const Limit *limit, Owner *o) noexcept nogil:
    """The limit can't be asked yet, and counts as passed: the audit needs a monitor more."""
    return limit.kind >= TIMED_PREFIX_LIMIT and monitored(limit, o) == NULL


cdef inline int64_t time_of_limits(const LimitSet *s, Owner *o) noexcept nogil:
    """What `passed_limit` takes as the time. The caller holds no lock, because the clock may be Python's."""
    return now_of(o) if s.timed else 0


cdef inline void sum_over_time(
    const Limit *limit, Series *events, const Span *span, const Prefix *p, const Term *term, size_t terms, Parts *out
) noexcept nogil:
    """Adds what a limit counts below a prefix, or of some terms, to `out`."""
    add_parts(events, span, p, term, terms, out)
    if limit.kind >= CLUSTER_TIMED_PREFIX_LIMIT:
        events = load_series(&events.remote)
        if events != NULL:
            add_parts(events, span, p, term, terms, out)


cdef inline void count_over_time(
    const LimitSet *s, const Limit *limit, int table, int node, const ia_ac *ac, Series *events, const Span *span,
    Parts *out
) noexcept nogil:
    """The events of its network that a limit over time counts."""
    cdef const Table *t = &s.table[table]
    cdef Prefix p
    cdef Share share
    cdef int v6
    out.whole = out.before = 0
    if is_of_prefix(limit):
        prefix_of_limit(limit, ac, &p)
        share = share_of_network(s, table, node, &p)
        if share.p != NULL or share.terms:
            sum_over_time(limit, events, span, share.p, share.term, share.terms, out)
        return
    for v6 in range(2):
        if t.terms[v6]:
            sum_over_time(limit, events, span, NULL, t.term[v6], t.terms[v6], out)


cdef inline int64_t left_over_time(
    const Limit *limit, Series *events, const Span *span, const Prefix *p, bint *more
) noexcept nogil:
    """As `left_at_least`, of what the limit counts in all networks together."""
    cdef int64_t left = left_at_least(events, span, p, limit.maximum, more)
    cdef bint _more
    if limit.kind >= CLUSTER_TIMED_PREFIX_LIMIT:
        events = load_series(&events.remote)
        if events != NULL:
            left = left_at_least(events, span, p, left, &_more)
    return left


cdef inline bint passes_over_time(
    const LimitSet *s, const Limit *limit, int table, int node, const ia_ac *ac, int64_t now
) noexcept nogil:
    """Whether there were more events than a limit over time allows. True as well if no monitor has them."""
    cdef Series *events
    cdef Prefix p
    cdef Parts parts
    cdef Span span
    cdef bint more = False
    if is_of_prefix(limit) and limit.length[ac.version == 6] < 0:
        return False
    events = monitored(limit, ac.tree.owner)
    if events == NULL:
        return True
    span_until(events, now, &span)
    if is_of_prefix(limit):
        prefix_of_limit(limit, ac, &p)
        if left_over_time(limit, events, &span, &p, &more) >= 0:
            return False
        if more and s.nodes == 0:
            return True
    count_over_time(s, limit, table, node, ac, events, &span, &parts)
    return sliding_count(&parts, &span) > limit.maximum


# ---- what is asked

cdef inline int64_t limited_count(
    const LimitSet *s, const Limit *limit, int table, int node, const ia_ac *ac, int64_t now
) noexcept nogil:
    """The open sessions, the one that asks included, or the events that a limit for the family of `ac` counts."""
    cdef Series *events
    cdef Tree *first
    cdef Prefix p
    cdef Parts parts
    cdef Span span
    if limit.kind >= TIMED_PREFIX_LIMIT:
        events = monitored(limit, ac.tree.owner)
        if events == NULL:
            return 0
        span_until(events, now, &span)
        count_over_time(s, limit, table, node, ac, events, &span, &parts)
        return sliding_count(&parts, &span)
    first = trees_of_limit(limit, ac)
    if limit.kind == LISTENER_LIMIT:
        return listener_total(ac.tree)
    if not is_of_open_prefix(limit):
        return network_total(s, table, first)
    prefix_of_limit(limit, ac, &p)
    return sum_trees(first, &p) if s.nodes == 0 else count_in_network(s, table, node, first, &p)


cdef inline bint passes(
    const LimitSet *s, const Limit *limit, int table, int node, const ia_ac *ac, int64_t now
) noexcept nogil:
    """Whether more sessions are open than a limit allows, the one that asks included; or there were more events."""
    if limit.kind >= TIMED_PREFIX_LIMIT:
        return passes_over_time(s, limit, table, node, ac, now)
    if is_of_open_prefix(limit) and limit.length[ac.version == 6] < 0:
        return False
    return limited_count(s, limit, table, node, ac, now) > limit.maximum


cdef inline int next_over(const LimitSet *s, const Table *t, const ia_ac *ac, int after, bint *sure) noexcept nogil:
    """The first limit after number `after` that the prefixes of `ac` may be over, with the sessions of all networks."""
    cdef bint v6 = ac.version == 6
    cdef Prefix peer
    if t.lengths[v6] == 0:
        return NO_LIMIT
    peer_of(ac, &peer)
    return first_over(
        trees_of_limit(&s.limit[t.length[v6].limit], ac), &peer.address, t.length[v6], t.lengths[v6], after, sure
    )


cdef inline int passed_limit(const LimitSet *s, const ia_ac *ac, int node, int64_t now) noexcept nogil:
    """The number of the first limit that a session is over, or WITHIN_LIMITS. `node`: its longest listed prefix. `now`:
    what `time_of_limits` has returned.

    One walk per tree answers all limits of open sessions in prefixes, unless it leaves one in doubt: its count has the
    sessions of other networks in it, or bounds of several trees. Most sessions are within it by that count already.
    """
    cdef int table = table_of(s, node)
    cdef const Table *t = &s.table[table]
    cdef bint sure = s.nodes == 0
    cdef int over = next_over(s, t, ac, -1, &sure), i
    for i in range(<int>t.first, <int>t.end):
        if not is_of_open_prefix(&s.limit[i]):
            if passes(s, &s.limit[i], table, node, ac, now):
                return i
        elif i >= over:
            if sure or passes(s, &s.limit[i], table, node, ac, now):
                return i
            over = next_over(s, t, ac, i, &sure)
    return WITHIN_LIMITS


# ---- overrides

cdef inline int overruled(const LimitSet *s, const ia_ac *ac, int node) noexcept nogil:
    """DENIED or ALLOWED if an override decides about a session, else WITHIN_LIMITS. `node`: its longest listed prefix.
    `s` NULL: there are no limits. The caller holds no lock, because the clock may be Python's. One load and one compare
    where there are no overrides."""
    cdef Found found
    cdef u32 action
    if not find_override(ac, &found):
        return WITHIN_LIMITS
    action = found.action
    if action == DENY_NETWORK and s != NULL:
        if table_of(s, node) != table_of(s, node_around(s, node, <int>found.length)):
            action = found.others  # the limit that has denied the prefix does not count this address
    return WITHIN_LIMITS if action == NO_OVERRIDE else ALLOWED if action == ALLOW else DENIED


cdef inline void note_over(const LimitSet *s, int row, const ia_ac *ac, int node, int64_t now) noexcept nogil:
    """A session is over limit number `row`, and perhaps over some behind it, which were not asked: where one of them
    says so, the prefix is to be denied. `node` and `now` as in `passed_limit`."""
    cdef int table = table_of(s, node), i
    cdef const Limit *limit
    for i in range(row, <int>s.table[table].end):
        limit = &s.limit[i]
        if limit.deny_s and not lacks_monitor(limit, ac.tree.owner) and passes(s, limit, table, node, ac, now):
            note_denial(ac.tree.owner, ac, limit.length[ac.version == 6], limit.deny_s, limit.reason)
