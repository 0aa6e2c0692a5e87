"""The native extension: the only native code that touches Python objects, and the only native code that raises.

The core (`inbound_audit/_core/*.pxd`) returns codes. The extension turns them into exceptions with the offending text.
It is one module, so that its classes call one another directly; `inbound_audit/_ext/*.pxi` has one file per class.

Lock rule: a count takes no lock and keeps the GIL (to release and take the GIL costs more than the count). A change
takes the writer lock of its tree, and waits for that lock without the GIL. No Python code runs under the lock.
"""

cimport cython
from cpython.buffer cimport PyBUF_FORMAT, PyBUF_ND, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.exc cimport PyErr_SetInterrupt
from cpython.long cimport PyLong_AsLongLongAndOverflow
from cpython.unicode cimport PyUnicode_DecodeASCII
from libc.errno cimport EBADF, errno
from libc.stdint cimport int64_t, uintptr_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcmp, memcpy, memset, strlen, strpbrk

cimport inbound_audit._core.bits as bits
cimport inbound_audit._core.codes as codes
cimport inbound_audit._core.address as ip
cimport inbound_audit._core.address_text as ip_text
cimport inbound_audit._core.prefix as prefix
cimport inbound_audit._core.monitor as monitor
cimport inbound_audit._core.clock as clock
cimport inbound_audit._core.seqlock as seqlock
cimport inbound_audit._core.mapping as mapping
cimport inbound_audit._core.sigbus as sigbus
cimport inbound_audit._core.kept_file as kept_file
cimport inbound_audit._core.fork as fork
cimport inbound_audit._core.watch as watch
cimport inbound_audit._core.layout as layout
cimport inbound_audit._core.backing as backing
cimport inbound_audit._core.arena as arena
cimport inbound_audit._core.path as path
cimport inbound_audit._core.trie as trie
cimport inbound_audit._core.ranges as ranges
cimport inbound_audit._core.overrides as overrides
cimport inbound_audit._core.model as model
cimport inbound_audit._core.trees as trees
cimport inbound_audit._core.sums as sums
cimport inbound_audit._core.lengths as lengths
cimport inbound_audit._core.records as records_
cimport inbound_audit._core.hosts as hosts
cimport inbound_audit._core.node_tree as node_tree
cimport inbound_audit._core.difference as difference
cimport inbound_audit._core.session as session_
cimport inbound_audit._core.query as query
cimport inbound_audit._core.window as window
cimport inbound_audit._core.owner_files as owner_files
cimport inbound_audit._core.fold as fold
cimport inbound_audit._core.cluster_window as cluster_window
cimport inbound_audit._core.change_log as change_log
cimport inbound_audit._core.series_query as series_query
cimport inbound_audit._core.series_change as series_change
cimport inbound_audit._core.walk as walk
cimport inbound_audit._core.picture as picture
cimport inbound_audit._core.verify as verify
cimport inbound_audit._core.decision as decision
cimport inbound_audit._core.limits as limits
cimport inbound_audit._core.fullest as fullest
cimport inbound_audit._core.reply as reply
cimport inbound_audit._core.own_socket as own_socket
cimport inbound_audit._core.gate_queue as gate_queue
cimport inbound_audit._core.gate_decisions as gate_decisions
cimport inbound_audit._core.gate_model as gate_model
cimport inbound_audit._core.gate_connection as gate_connection
cimport inbound_audit._core.gate_lane as gate_lane
cimport inbound_audit._core.gate as gate
cimport inbound_audit._core.forward_model as forward_model
cimport inbound_audit._core.forward_flow as forward_flow
cimport inbound_audit._core.forward as forward
from inbound_audit._core.bits cimport u8, u16, u32, u64

import array
import logging
import warnings
from operator import index
from types import MappingProxyType

from inbound_audit.errors import (
    AddressError, CapacityError, CidrError, InboundAuditError, MonitorError, OtherVersionError, PolicyError,
    SeriesError, SharedStateError, UnknownServiceType, cause_of,
)

cdef extern from *:
    """
    #if PY_VERSION_HEX < 0x030D0000
    #define Py_IsFinalizing _Py_IsFinalizing
    #endif
    """

cdef extern from "inbound_audit/_ext/keywords.h":
    pass

cdef extern from "<sys/socket.h>":
    const int SOCK_STREAM

cdef extern from "Python.h":
    bint Py_IsFinalizing() noexcept
    object PyErr_SetFromErrno(object)
    unsigned long PyThread_get_thread_ident() noexcept
    bint PyUnicode_IS_ASCII(object) noexcept
    const char *PyUnicode_DATA(object) noexcept
    Py_ssize_t PyUnicode_GET_LENGTH(object) noexcept
    const char *PyUnicode_AsUTF8AndSize(object, Py_ssize_t *) except NULL

DEFAULT_CAPACITY = 1 << 30
NO_SUCH_SERIES = codes.NO_SERIES
logger = logging.getLogger("inbound_audit.series")

include "inbound_audit/_ext/convert.pxi"
include "inbound_audit/_ext/picture.pxi"
include "inbound_audit/_ext/parse.pxi"
include "inbound_audit/_ext/process.pxi"
include "inbound_audit/_ext/session.pxi"
include "inbound_audit/_ext/listener.pxi"
include "inbound_audit/_ext/audit.pxi"
include "inbound_audit/_ext/own_file.pxi"
include "inbound_audit/_ext/rings.pxi"
include "inbound_audit/_ext/series.pxi"
include "inbound_audit/_ext/packed_rows.pxi"
include "inbound_audit/_ext/store.pxi"
include "inbound_audit/_ext/shared.pxi"
include "inbound_audit/_ext/batch.pxi"
include "inbound_audit/_ext/counter.pxi"
include "inbound_audit/_ext/node_tree.pxi"
include "inbound_audit/_ext/cluster_series.pxi"
include "inbound_audit/_ext/networks.pxi"
include "inbound_audit/_ext/overrides.pxi"
include "inbound_audit/_ext/limits.pxi"
include "inbound_audit/_ext/forward_forks.pxi"
include "inbound_audit/_ext/gate_forks.pxi"
include "inbound_audit/_ext/gate_rules.pxi"
include "inbound_audit/_ext/gate_figures.pxi"
include "inbound_audit/_ext/forward.pxi"
include "inbound_audit/_ext/gate.pxi"
include "inbound_audit/_ext/lua.pxi"
