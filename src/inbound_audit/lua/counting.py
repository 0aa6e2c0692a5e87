"""The core's C functions called from Python, for a Lua without FFI.

The accept construct is then the bytes of an `ia_ac`, a copy as LuaJIT's is; what is said there of its life holds here.
"""

from __future__ import annotations

import ctypes
from functools import partial

from inbound_audit import _ipcount

_TEXT_MOST = 64


class Accept(ctypes.Structure):
    """`ia_ac` of `_ipcount.LUA_CDEF`."""

    _fields_ = [
        ("hi", ctypes.c_uint64),
        ("tree", ctypes.c_uint64),
        ("remote_port", ctypes.c_uint16),
        ("version", ctypes.c_uint8),
        ("open", ctypes.c_uint8),
        ("epoch", ctypes.c_uint32),
        ("lo", ctypes.c_uint64),
        ("conn_id", ctypes.c_uint64),
    ]


_abi = _ipcount.lua_abi()
if ctypes.sizeof(Accept) != _abi["sizeof_ac"]:
    raise ImportError(f"ia_ac has {_abi['sizeof_ac']} bytes in the core, {ctypes.sizeof(Accept)} here")

# PYFUNCTYPE keeps the GIL: giving it up and taking it back costs more than a count.
_count = ctypes.PYFUNCTYPE(
    ctypes.c_int64, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_size_t
)(_abi["ia_session_count"])
_text = (ctypes.c_char_p, ctypes.c_size_t)
_code = partial(ctypes.PYFUNCTYPE, ctypes.c_int64, ctypes.c_char_p)
_range = (ctypes.c_int64, ctypes.c_int64, ctypes.POINTER(ctypes.c_int64))
_event_count = _code(ctypes.c_int, *_text, ctypes.c_int64, *_text, *_range)(_abi["ia_event_count"])
_series_add = _code(*_text, *_text, ctypes.c_int64)(_abi["ia_series_add"])
_series_count = _code(*_text, *_text, *_range)(_abi["ia_series_count"])
_series_remove = _code(*_text, *_text)(_abi["ia_series_remove"])
_write = ctypes.PYFUNCTYPE(ctypes.c_size_t, ctypes.c_char_p, ctypes.c_char_p)
_writers = {"remote_addr": _write(_abi["ia_remote_addr"]), "remote_ip": _write(_abi["ia_remote_ip"])}


def snapshot(handle: int) -> bytes:
    """The bytes of the `ia_ac` at an address, which must belong to a session that is referenced."""
    return ctypes.string_at(handle, ctypes.sizeof(Accept))


def session_count(accept: bytes, cidr: bytes | None, service: bytes | None) -> int:
    """Open sessions, or a negative code of the core."""
    return int(_count(accept, cidr, len(cidr or b""), service, len(service or b"")))


def event_count(accept: bytes, kind: int, monitor: bytes, cidr: bytes | None, first: int, last: int) -> tuple[int, int]:
    """A code of the core, 0 if all is well, and what a monitor counted in those windows."""
    out = ctypes.c_int64()
    code = _event_count(accept, kind, monitor, len(monitor), 0, cidr, len(cidr or b""), first, last, ctypes.byref(out))
    return int(code), out.value


def series_add(accept: bytes, name: bytes, key: bytes | None, amount: int) -> int:
    """0, or a negative code of the core."""
    return int(_series_add(accept, name, len(name), key, len(key or b""), amount))


def series_count(accept: bytes, name: bytes, key: bytes | None, first: int, last: int) -> tuple[int, int]:
    """A code of the core, 0 if all is well, and what a named series counted in those windows."""
    out = ctypes.c_int64()
    code = _series_count(accept, name, len(name), key, len(key or b""), first, last, ctypes.byref(out))
    return int(code), out.value


def series_remove(accept: bytes, name: bytes, key: bytes | None) -> int:
    """0, or a negative code of the core."""
    return int(_series_remove(accept, name, len(name), key, len(key or b"")))


def read(accept: bytes, name: str) -> bytes | int:
    """`remote_addr` and `remote_ip` as text, any other name is a field of the struct."""
    if name in _writers:
        out = ctypes.create_string_buffer(_TEXT_MOST)
        length = _writers[name](accept, out)
        return out.raw[:length]
    return int(getattr(Accept.from_buffer_copy(accept), name))
