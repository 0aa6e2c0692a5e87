"""Files for programs in other languages: they read the counts of a shared audit, and need nothing but these.

inbound_audit.h    C99 and C++, nothing to link
inbound_audit.lua  LuaJIT, by its FFI

Both say at their top what they offer and what it costs; docs/bytes.md draws what they read.
"""

from __future__ import annotations

from pathlib import Path

_HERE = Path(__file__).parent


def header() -> Path:
    """The C header: give its directory to the compiler (``-I``)."""
    return _HERE / "inbound_audit.h"


def lua_module() -> Path:
    """The LuaJIT module: put its directory and ``/?.lua`` into ``LUA_PATH`` or ``package.path``."""
    return _HERE / "inbound_audit.lua"
