"""Landlock: the kernel lets a process open only the files that it needs, whatever a mistake in it makes it try.

Three system calls, which the C library has no functions for; landlock(7) describes them. The restriction holds for the
calling thread and for the threads and processes that it starts, and can't be taken back.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import stat
import struct
from collections.abc import Iterable

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same on every architecture
_VERSION_FLAG = 1
_PATH_BENEATH = 1
_NET_PORT = 2

PR_SET_NO_NEW_PRIVS = 38


# Rights to files, by bit: 0 execute, 1 write, 2 read, 3 list, 4 to 5 remove, 6 to 12 make (6 and 11 devices), 13 link
# and rename between directories, 14 truncate, 15 control a device.
_READ = 1 << 2 | 1 << 3
_DEVICES = 1 << 6 | 1 << 11 | 1 << 15
_OF_A_FILE = 1 << 0 | 1 << 1 | 1 << 2 | 1 << 14 | 1 << 15
_RIGHTS_BY_VERSION = {2: 14, 3: 15, 4: 15, 5: 16}
MIN_VERSION = 2
"""Under version 1 no file can be linked or moved to another directory, and a Maildir moves each message."""
_CONNECT = 1 << 1
_TCP = 1 << 0 | _CONNECT  # bind and connect; since version 4
_SCOPES = 1 << 0 | 1 << 1  # abstract Unix sockets and signals of other processes; since version 6


def version() -> int:
    """The version of Landlock's interface; 0 where the kernel does not have it, or has it off."""
    try:
        return _call(_CREATE_RULESET, None, 0, _VERSION_FLAG)
    except (OSError, AttributeError):
        return 0


def restrict(readable: Iterable[str], writable: Iterable[str], ports: Iterable[int] = ()) -> bool:
    """From now on only what lies at or below these paths can be opened: nothing can be executed, or bound; by TCP only
    these ports can be connected to; and no device can be made.

    A path that is not there, or out of reach, is left out. Returns False where the kernel has no Landlock, or only one
    before `MIN_VERSION`. Raises OSError.
    """
    abi = version()
    if abi < MIN_VERSION:
        return False
    handled = (1 << _RIGHTS_BY_VERSION.get(abi, 16)) - 1
    attributes = struct.pack("=QQQ", handled, _TCP, _SCOPES)[: 8 if abi < 4 else 16 if abi < 6 else 24]
    ruleset = _call(_CREATE_RULESET, attributes, len(attributes), 0)
    try:
        for paths, rights in ((readable, _READ), (writable, handled & ~1 & ~_DEVICES)):
            for path in paths:
                with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
                    _allow(ruleset, path, rights & handled)
        for port in ports if abi >= 4 else ():
            _call(_ADD_RULE, ruleset, _NET_PORT, struct.pack("=QQ", _CONNECT, port), 0)
        prctl(PR_SET_NO_NEW_PRIVS, 1)  # required of whoever is not root
        _call(_RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)
    return True


def _allow(ruleset: int, path: str, rights: int) -> None:
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        if not stat.S_ISDIR(os.fstat(fd).st_mode):
            rights &= _OF_A_FILE
        _call(_ADD_RULE, ruleset, _PATH_BENEATH, struct.pack("=Qi", rights, fd), 0)
    finally:
        os.close(fd)


def _call(number: int, *arguments: int | bytes | None) -> int:
    return c_function("syscall", number, *arguments)


def c_function(name: str, *arguments: int | bytes | None) -> int:
    """Calls a function of the C library. Raises OSError if it returns a number below 0."""
    words = [ctypes.c_long(one) if isinstance(one, int) else one for one in arguments]
    result: int = getattr(ctypes.CDLL(None, use_errno=True), name)(*words)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def prctl(option: int, value: int) -> None:
    """An option of this thread (prctl(2)). Raises OSError."""
    c_function("prctl", option, value, 0, 0, 0)
