"""The door of the native core: the only native place that touches Python objects, and the only one that raises.

What lies behind it (`inbound_audit/_core/*.pxd`) answers codes. Here they become exceptions with the offending text.
The door is one module, so that its classes reach one another without a call; it is written in one file a class
(`inbound_audit/_door/*.pxi`).

Lock rule: a count takes no lock and keeps the GIL (leaving and re-taking it costs more than the count). A change takes
the writer lock of its tree; who finds it taken waits without the GIL. Nothing that can run Python runs under the lock.
"""

cimport cython
from cpython.buffer cimport PyBUF_FORMAT, PyBUF_ND, PyBuffer_Release, PyObject_GetBuffer
from cpython.unicode cimport PyUnicode_DecodeASCII
from libc.stdint cimport int64_t, uintptr_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset, strpbrk

from inbound_audit._core.address cimport (
    TEXT_MAX, Address, format_address, format_prefix, format_remote, from_ipv4, from_packed, map_ipv4, mask,
    parse_address, parse_remote,
)
from inbound_audit._core.arena cimport (
    CAPACITY_LEAST, UNIT, UNITS_MOST, Arena, arena_close, arena_open, arena_reset, arena_used, header,
)
from inbound_audit._core.bits cimport fetch_add64, load64, u8, u16, u32, u64
from inbound_audit._core.cidr cimport Prefix, parse_cidr
from inbound_audit._core.codes cimport CLOSED, NO_SERVICE, NOT_TEXT, OK, UNMATCHED, reason as c_reason
from inbound_audit._core.owner cimport (
    SERVICE_NAME_MOST, TREES_MOST, VIEW, Owner, Tree, add_service, add_tree, count_absolute, count_session, find_service,
    forest_count, forest_total, free_trees, ia_ac, peer_of, tree_count, tree_total, trees_of,
)
from inbound_audit._core.ranges cimport NO_VALUE, Ranges, free_ranges, lookup, reserve_ranges
from inbound_audit._core.seqlock cimport let_others, lock_wait, try_lock, unlock
from inbound_audit._core.trie cimport trie_add, trie_move, trie_remove
from inbound_audit._core.verify cimport verify
from inbound_audit._core.walk cimport Rows, free_rows, tree_seek, walk_top, walk_tree

import array
import warnings
from operator import index
from weakref import WeakSet

from inbound_audit.errors import AddressError, CapacityError, CidrError, InboundAuditError, UnknownServiceType

cdef extern from "Python.h":
    bint PyUnicode_IS_ASCII(object) noexcept
    const char *PyUnicode_DATA(object) noexcept
    Py_ssize_t PyUnicode_GET_LENGTH(object) noexcept

DEFAULT_CAPACITY = 1 << 30
cdef u64 conn_ids = 1

include "inbound_audit/_door/convert.pxi"
include "inbound_audit/_door/session.pxi"
include "inbound_audit/_door/audit.pxi"
include "inbound_audit/_door/counter.pxi"
include "inbound_audit/_door/networks.pxi"
include "inbound_audit/_door/lua.pxi"
