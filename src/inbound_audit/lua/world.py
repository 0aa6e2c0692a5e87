"""One Lua state: which Lua it is, what it may use, and the Python functions that Lua may call."""

from __future__ import annotations

import gc
import importlib
import logging
import time
import weakref
from collections.abc import Callable
from functools import cache, wraps
from importlib import resources
from types import ModuleType
from typing import Any

from inbound_audit import _ipcount
from inbound_audit.errors import InboundAuditError, PolicyError
from inbound_audit.lua.dialect import DialectError, translate
from inbound_audit.lua.reference import ABSENT, HOOKS, OTHER_HOOKS
from inbound_audit.ration import Ration

# Scripts are written in Lua 5.1; `module` and `setfenv` are missing from all later ones. "lua" is what lupa is called
# where it was built against a system's Lua.
_LUAS = ("luajit21", "luajit20", "lua51", "lua")
_VERSION = (5, 1)
_UNBOUNDED = "luajit20"  # has only its own allocator where pointers have 64 bits

# Strings that Python hands over are allocated outside of any pcall, where running out of memory ends the process: at
# this distance from the limit nothing is handed over any more.
_RESERVE = 1 << 20

MAX_SHOWN = 1000  # bytes of what a script handed over that an error repeats

logger = logging.getLogger("inbound_audit.lua")

HostFunction = Callable[..., "tuple[object, ...]"]


def text(raw: bytes) -> str:
    """Lua's bytes as text; bytes that are not UTF-8 become visible escapes."""
    return raw.decode("utf-8", "backslashreplace")


def raw(value: str) -> bytes:
    """Text as Lua's bytes; bytes that were not UTF-8 on the wire become the same bytes again."""
    try:
        return value.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return value.encode("utf-8", "backslashreplace")


def shown(value: object) -> Any:
    """What a script handed over as an error repeats it: not all of a long text."""
    return text(value[:MAX_SHOWN]) if isinstance(value, bytes) else value


def functions_of(host: object) -> dict[str, Callable[..., Any]]:
    """The methods ``lua_...`` of an object, by the names without ``lua_`` by which the Lua files call them."""
    return {name.removeprefix("lua_"): getattr(host, name) for name in dir(host) if name.startswith("lua_")}


def host_function(function: Callable[..., Any], room_for: Callable[[int], bool]) -> HostFunction:
    """Makes a Python function one that Lua may call: a reason first, then its value, and nothing is raised.

    An exception would reach Lua as a Python object, whose attributes lead everywhere. And strings for which Lua has no
    room are not handed over: where that fails the process does not go on.
    """

    @wraps(function)
    def call(*args: object) -> tuple[object, ...]:
        try:
            value = function(*args)
        except Exception as error:
            known = isinstance(error, (InboundAuditError, KeyError, DialectError))
            answer: tuple[object, ...] = (raw(str(error) if known else f"{type(error).__name__}: {error}"),)
        else:
            answer = (None, *value) if isinstance(value, tuple) else (None, value)
        size = sum([len(part) for part in answer if isinstance(part, bytes)])
        return answer if size < _RESERVE // 2 or room_for(size) else (b"not enough memory",)

    return call


def import_lua(name: str | None) -> ModuleType:
    """lupa's module of that name, or its best one. Raises PolicyError if lupa has no such module."""
    for candidate in _LUAS if name is None else (name,):
        try:
            return importlib.import_module(f"lupa.{candidate}")
        except ImportError:
            continue
    raise PolicyError(f"this lupa has no {name or 'Lua 5.1 or LuaJIT'}")


@cache
def _compiler_allowed() -> bool:
    """Whether LuaJIT may compile: where it can't make its code executable, it ends the process. Found out once."""
    if _ipcount.executable_memory_allowed():
        return True
    logger.warning(
        "this process may not execute memory that it has written (MemoryDenyWriteExecute= or a seccomp filter), so "
        "LuaJIT interprets policies and does not compile them"
    )
    return False


def _deny(*_: object) -> object:
    """No attribute of a Python object is for Lua, should one ever get there."""
    raise AttributeError("not available")


COLLECT_BYTES = 64 << 20
"""Memory of all Lua states at which Python's collector runs before one more is made."""

_worlds: weakref.WeakSet[World] = weakref.WeakSet()
_collect_at = COLLECT_BYTES


def collect_replaced() -> None:
    """Frees the Lua states of policies that were replaced: they are in reference cycles, and Python's collector does
    not know how much memory Lua has. Runs it when that memory is large, and has doubled since. O(states)."""
    global _collect_at
    if sum(world.memory for world in list(_worlds)) >= _collect_at:
        gc.collect()
        _collect_at = max(COLLECT_BYTES, 2 * sum(world.memory for world in list(_worlds)))


class World:
    """A Lua state in which the rooms of this directory have been built; `entry_points` are the functions of hooks.lua.

    lupa's lock makes one thread at a time run Lua; each call of an entry point holds it once. `max_memory` is in bytes;
    LuaJIT 2.0 has no such limit.
    """

    def __init__(self, name: str | None, ffi: bool | None, max_memory: int) -> None:
        lua = import_lua(name)
        collect_replaced()
        self.error: type[Exception] = lua.LuaError
        self._limit = max_memory
        self._state = self._make(lua, max_memory)
        self._count = self._state.eval(b"collectgarbage")
        if not _compiler_allowed():
            self._state.execute(b"if jit then jit.off() end")
        self.implementation = text(self._state.lua_implementation)
        if self._state.lua_version != _VERSION:
            raise PolicyError(f"{self.implementation}: policies are written in Lua 5.1")
        self.ffi = self._choose_memory(ffi)
        self.entry_points: dict[str, Callable[..., Any]] = {}
        self.ration: Ration | None = None
        """Bounds the time that `collect` takes, once the policy is loaded."""
        _worlds.add(self)

    @property
    def memory(self) -> int:
        """Bytes that Lua has."""
        return int(self._state.get_memory_used(True) if self._limit else self._count(b"count") * 1024)

    def _make(self, lua: ModuleType, max_memory: int) -> Any:
        options = {
            "encoding": None,  # Lua's strings are bytes, on this side too
            "source_encoding": "utf-8",
            "attribute_handlers": (_deny, _deny),
            "register_eval": False,
            "register_builtins": False,
            "unpack_returned_tuples": True,
        }
        if lua.__name__.endswith(_UNBOUNDED):
            self._limit = 0
            return lua.LuaRuntime(**options)
        return lua.LuaRuntime(max_memory=max_memory, **options)

    def _choose_memory(self, ffi: bool | None) -> bool:
        has_ffi = bool(self._state.eval(b"(pcall(require, 'ffi'))"))
        if ffi and not has_ffi:
            raise PolicyError(f"{self.implementation} has no FFI")
        return has_ffi if ffi is None else ffi

    def build(self, host: dict[str, Callable[..., Any]], options: dict[str, object]) -> None:
        """Runs boot.lua. `host` are the Python functions for Lua, `options` the settings of the rooms."""
        abi = _ipcount.lua_abi()
        settings = {
            **options,
            "ffi": self.ffi,
            "ceiling": (self._limit - _RESERVE) / 1024 if self._limit else float("inf"),
            "cdef": raw(_ipcount.LUA_CDEF),
            **{name.removeprefix("ia_"): value for name, value in abi.items()},
            "codes": self._table(dict(_ipcount.CODES)),
            "kinds": self._table({"connection": 0, **{kind: n for n, kind in enumerate(_ipcount.MONITOR_KINDS)}}),
            "clock": getattr(time, "CLOCK_THREAD_CPUTIME_ID", 3),
            "monotonic": getattr(time, "CLOCK_MONOTONIC", 1),
            "max_windows": _ipcount.LIMITS["windows"],
            "max_amount": _ipcount.LIMITS["count"],
            "hooks": raw(HOOKS),
            "other_hooks": raw(OTHER_HOOKS),
            **{f"absent_{kind}": raw(names) for kind, names in ABSENT.items()},
        }
        functions = {name: host_function(function, self.make_room_for) for name, function in host.items()}
        entry_points = self._state.execute(
            room("boot"), lambda name: room(text(name)), self._table(functions), self._table(settings), name="=boot.lua"
        )
        self.entry_points = {text(name): function for name, function in entry_points.items()}

    def _table(self, mapping: dict[str, Any]) -> Any:
        return self._state.table_from({raw(key): value for key, value in mapping.items()})

    def make_room_for(self, size: int) -> bool:
        """Whether `size` bytes may be handed over, if need be after what no script can reach any more was freed."""
        if self._has_room_for(size):
            return True
        self.collect()
        return self._has_room_for(size)

    def _has_room_for(self, size: int) -> bool:
        return not self._limit or bool(self._state.get_memory_used(True) + size < self._limit - _RESERVE)

    def collect(self) -> None:
        """Frees what no script can reach any more, unless that has taken too much time lately."""
        if self.ration is None:
            self._state.gccollect()
            return
        with self.ration.spending() as left_s:
            if left_s > 0:
                self._state.gccollect()


@cache
def room(name: str) -> bytes:
    """The text of a Lua file of this directory."""
    return resources.files(__package__).joinpath(f"{name}.lua").read_bytes()


def translation(source: bytes, chunkname: bytes) -> tuple[bytes, bytes, bool]:
    """A script as `dialect.Translation` describes it. Raises PolicyError."""
    if source.startswith(b"\x1b"):
        raise PolicyError("bytecode is not allowed")
    try:
        plain, counted, has_long_text = translate(source.decode("latin-1"))
    except DialectError as error:
        raise PolicyError(f"{_shown(chunkname)}:{error}") from None
    return plain.encode("latin-1"), counted.encode("latin-1"), has_long_text


def _shown(chunkname: bytes) -> str:
    """A chunk's name as Lua's errors have it."""
    name = text(chunkname)
    return name[1:] if name[:1] in "@=" else f'[string "{name.splitlines()[0] if name else ""}"]'
