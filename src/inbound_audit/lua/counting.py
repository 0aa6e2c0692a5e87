"""The core's C functions called from Python, for a Lua without FFI.

The accept construct is then the bytes of an `ia_ac`, a copy as LuaJIT's is; what is said there of its life holds here.
"""

from __future__ import annotations

import ctypes

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
_write = ctypes.PYFUNCTYPE(ctypes.c_size_t, ctypes.c_char_p, ctypes.c_char_p)
_writers = {"remote_addr": _write(_abi["ia_remote_addr"]), "remote_ip": _write(_abi["ia_remote_ip"])}


def snapshot(handle: int) -> bytes:
    """The bytes of the `ia_ac` at an address, which must belong to a session that is referenced."""
    return ctypes.string_at(handle, ctypes.sizeof(Accept))


def session_count(accept: bytes, cidr: bytes | None, service: bytes | None) -> int:
    """Open sessions, or a negative code of the core."""
    return int(_count(accept, cidr, len(cidr or b""), service, len(service or b"")))


def read(accept: bytes, name: str) -> bytes | int:
    """`remote_addr` and `remote_ip` as text, any other name is a field of the struct."""
    if name in _writers:
        out = ctypes.create_string_buffer(_TEXT_MOST)
        length = _writers[name](accept, out)
        return out.raw[:length]
    return int(getattr(Accept.from_buffer_copy(accept), name))
