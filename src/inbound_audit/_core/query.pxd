"""Counts of open sessions by the arguments of `inbound_session_count`: of a session, a listener or an audit.

Lock rule: none, and no GIL: Lua calls these functions by address.
"""

from libc.stdint cimport int64_t

from inbound_audit._core.address cimport Address, width
from inbound_audit._core.codes cimport OK
from inbound_audit._core.model cimport SMTP, Owner, Tree, ia_ac
from inbound_audit._core.prefix cimport Prefix, parse_cidr
from inbound_audit._core.sums cimport listener_count, sum_trees
from inbound_audit._core.trees cimport find_service, service_trees, trees_of


cdef inline void peer_of(const ia_ac *ac, Prefix *out) noexcept nogil:
    """The connecting IP as a prefix."""
    out.address.hi = ac.hi
    out.address.lo = ac.lo if ac.version == 6 else 0
    out.address.version = ac.version
    out.length = width(ac.version)


cdef inline int64_t query_service(
    const ia_ac *ac, const Prefix *peer, const char *cidr, size_t cidr_size, const char *service, size_t service_size
) noexcept nogil:
    """As `query_sessions`, with the name of a service."""
    cdef Prefix p
    cdef int number = find_service(ac.tree.owner, service, service_size), code
    if number < 0:
        return number
    if cidr == NULL:
        return sum_trees(trees_of(ac.tree.owner, number), peer)
    code = parse_cidr(cidr, cidr + cidr_size, &peer.address, &p)
    return sum_trees(trees_of(ac.tree.owner, number), &p) if code == OK else code


cdef inline int64_t query_sessions(
    const ia_ac *ac, const char *cidr, size_t cidr_size, const char *service, size_t service_size
) noexcept nogil:
    """`ac:inbound_session_count(cidr, service)`; NULL is nil. Returns the count, or a code."""
    cdef Prefix peer, p
    cdef int code
    peer_of(ac, &peer)
    if service != NULL:
        return query_service(ac, &peer, cidr, cidr_size, service, service_size)
    if cidr == NULL:
        return listener_count(ac.tree, &peer)
    code = parse_cidr(cidr, cidr + cidr_size, &peer.address, &p)
    return sum_trees(service_trees(ac.tree.owner, SMTP), &p) if code == OK else code


cdef inline int64_t query_listener(Tree *mine, const Address *peer, const char *cidr, size_t cidr_size) noexcept nogil:
    """`Listener.inbound_session_count(cidr)`. `peer` NULL: a length alone is an error. Returns the count, or a code."""
    cdef Prefix p
    cdef int code = parse_cidr(cidr, cidr + cidr_size, peer, &p)
    return listener_count(mine, &p) if code == OK else code


cdef inline int64_t query_absolute(
    Owner *o, const char *cidr, size_t cidr_size, const char *service, size_t service_size
) noexcept nogil:
    """`audit.inbound_session_count(cidr, service)`, without a connecting IP. Returns the count, or a code."""
    cdef Prefix p
    cdef int number = find_service(o, service, service_size)
    cdef int code = parse_cidr(cidr, cidr + cidr_size, NULL, &p)
    if code < 0:
        return code
    return sum_trees(trees_of(o, number), &p) if number >= 0 else number
