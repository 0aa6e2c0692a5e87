"""The door of the native core: the only native place that touches Python objects, and the only one that raises.

What lies behind it (`inbound_audit/_core/*.pxd`) answers codes. Here they become exceptions with the offending text.
The door is one module, so that its classes reach one another without a call; it is written in one file a class
(`inbound_audit/_door/*.pxi`).

Lock rule: a count takes no lock and keeps the GIL (leaving and re-taking it costs more than the count). A change takes
the writer lock of its tree; who finds it taken waits without the GIL. Nothing that can run Python runs under the lock.
"""

cimport cython
from cpython.buffer cimport PyBUF_FORMAT, PyBUF_ND, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.exc cimport PyErr_SetInterrupt
from cpython.long cimport PyLong_AsLongLongAndOverflow
from cpython.unicode cimport PyUnicode_DecodeASCII
from libc.stdint cimport int64_t, uintptr_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset, strpbrk

from inbound_audit._core.address cimport (
    TEXT_MAX, Address, behind, format_address, format_prefix, format_remote, from_ipv4, from_packed, map_ipv4, mask,
    parse_address, parse_remote,
)
from inbound_audit._core.arena cimport (
    BYTE_ORDER_MARK, CAPACITY_LEAST, HEADER_UNITS, LARGEST_UNITS, LAYOUT, MAGIC, NAME_MOST, PAGE, UNIT, UNITS_MOST, Arena, Header,
    Label, arena_close, arena_leave, arena_open, arena_reset, arena_share, arena_used, header, range_of, reach_of, share_needs,
    sum_of_label, write_label,
)
from inbound_audit._core.bits cimport (
    acquire32, acquire64, fence_acquire, fence_full, fetch_add64, load32, load64, publish32, store64, u8, u16, u32, u64,
)
from inbound_audit._core.cidr cimport Prefix, parse_cidr
from inbound_audit._core.codes cimport (
    BAD_AMOUNT, BAD_WINDOW, CLOSED, DAMAGED, FULL, LONG_KEY, NEED_HELP, NEED_MINUS, NOT_TEXT, NO_KEY, NO_MONITOR, NO_SERIES,
    NO_SERVICE, OK, OVERFLOW, UNMATCHED, reason as c_reason,
)
from inbound_audit._core.foreign cimport (
    CUT_SHORT, FOREIGN_MAGIC, NONSENSE, NOT_READY, NO_ROOM, OTHER_LAYOUT, OTHER_ORDER, OWNER_MAGIC, SOUND, Foreign, OwnerHeader,
    foreign_close, foreign_drop, foreign_look, foreign_meet, foreign_meet_window, foreign_open,
    header_fault, section_open,
)
from inbound_audit._core.mapping cimport (
    GRAIN, SHARED_POSSIBLE, UNGUARDED, back_file, free_guard_lock, guard, map_file, unguard, unmap_range,
    watch_directory as c_watch_directory, watch_faults_failed,
)
from inbound_audit._core.owner cimport (
    ENDED, HOMELESS, MONITORS_MOST, READY, SERIES_MOST, SERVICE_NAME_MOST, SESSIONS, SLOTS_MOST, SMTP, TREES_MOST, VIEW, WINDOW,
    Owner, Ring, Series, Slot, Tree, add_service, add_tree, count_absolute, count_session, find_service, forest_count,
    forest_total, free_trees, ia_ac, kin_total, link_tree, peer_of, publish_tree,
    tree_count, tree_total, trees_of,
)
from inbound_audit._core.clock cimport FURTHEST, system_clock, window_number
from inbound_audit._core.fold cimport STRINGS, length_of, tell_levels
from inbound_audit._core.ranges cimport NO_VALUE, Ranges, free_ranges, lookup, reserve_ranges
from inbound_audit._core.series cimport (
    ADDRESSES, AMOUNT_MOST, CONNECTIONS, RECEPTIONS, REJECTIONS, add_signed, change_past, count_event, count_events, count_key, find_monitor,
    find_series, move_connection, read_key, series_add, series_remove, sliding_average,
)
from inbound_audit._core.seqlock cimport let_others, lock_wait, try_lock, unlock
from inbound_audit._core.trie cimport trie_add, trie_move, trie_remove
from inbound_audit._core.verify cimport verify
from inbound_audit._core.walk cimport Rows, free_rows, tree_seek, walk_hosts, walk_top, walk_tree
from inbound_audit._core.window cimport (
    NO_WINDOW, NO_WINDOW, in_view, link_ring, move_on, now_of, publish_timeline, ring_now, slot_of, tree_for,
)

import array
import warnings
from operator import index
from weakref import WeakSet

from inbound_audit.errors import (
    AddressError, CapacityError, CidrError, InboundAuditError, MonitorError, OtherVersionError, SeriesError, SharedStateError,
    UnknownServiceType,
)

cdef extern from "Python.h":
    object PyErr_SetFromErrno(object)
    bint PyUnicode_IS_ASCII(object) noexcept
    const char *PyUnicode_DATA(object) noexcept
    Py_ssize_t PyUnicode_GET_LENGTH(object) noexcept
    const char *PyUnicode_AsUTF8AndSize(object, Py_ssize_t *) except NULL

DEFAULT_CAPACITY = 1 << 30
NO_SUCH_SERIES = NO_SERIES
cdef u64 conn_ids = 1

include "inbound_audit/_door/convert.pxi"
include "inbound_audit/_door/session.pxi"
include "inbound_audit/_door/over_time.pxi"
include "inbound_audit/_door/audit.pxi"
include "inbound_audit/_door/rings.pxi"
include "inbound_audit/_door/series.pxi"
include "inbound_audit/_door/windows.pxi"
include "inbound_audit/_door/shared.pxi"
include "inbound_audit/_door/counter.pxi"
include "inbound_audit/_door/networks.pxi"
include "inbound_audit/_door/lua.pxi"
