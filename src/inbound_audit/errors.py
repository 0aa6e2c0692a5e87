"""Every error that inbound_audit raises, and the words of the ones that need composing.

All of them derive from `InboundAuditError`. The three that say "this text is wrong" are `ValueError` too, so
that code which already guards a parse with ``except ValueError`` keeps working.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable
from functools import wraps
from typing import ParamSpec, TypeVar

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: ``; did you mean 'limits'?``, or nothing if no known name is near."""
    # difflib is imported when an error is made, never for a count.
    from difflib import get_close_matches

    folded = {one.lower(): one for one in known}
    near = get_close_matches(name.lower(), list(folded), n=1) if isinstance(name, str) else []
    return f"; did you mean {folded[near[0]]!r}?" if near else ""


_WHAT_TO_DO = {
    errno.EFBIG: "this process may not write files that large: ulimit -f, LimitFSIZE=",
    errno.ENOSPC: "the file system is full: df, or mount it with a larger size",
    errno.EDQUOT: "the user's quota is used up",
    errno.EMFILE: "this process may open no more files: ulimit -n, LimitNOFILE=",
    errno.ENFILE: "the system may open no more files: sysctl fs.file-max",
    errno.ENOMEM: "no memory or address space is left: ulimit -v, MemoryMax=, sysctl vm.max_map_count",
    errno.EACCES: "this user has no right to do that: ls -l, or another directory",
    errno.EPERM: "this user has no right to do that: ls -l, or another directory",
    errno.EROFS: "the file system is mounted to be read only",
    errno.ENOLCK: "the system has no lock left, or the file system has none",
    errno.EOPNOTSUPP: "the file system can't do that: use one in memory, such as /dev/shm",
    errno.EIO: "the device failed: dmesg",
    errno.EBADF: "other code of this process has closed our file",
}


def cause_of(error: int | OSError) -> str:
    """The cause of an error of the system, by its number, and what to do about it."""
    number = error.errno if isinstance(error, OSError) else error
    if not number:
        return str(error.strerror or error) if isinstance(error, OSError) else str(error)
    advice = _WHAT_TO_DO.get(number)
    return os.strerror(number) + (f" ({advice})" if advice else "")


def plain(text: str) -> str:
    """A text that another process has chosen, without control characters, which a terminal would obey."""
    return text if text.isprintable() else ascii(text)[1:-1]


def named_keywords(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """A decorator of functions without ``**keywords``: the TypeError for an unknown keyword names the nearest one."""
    code = function.__code__
    known = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]

    @wraps(function)
    def call(*arguments: Arguments.args, **keywords: Arguments.kwargs) -> Result:
        for keyword in keywords:
            if keyword not in known:
                called = function.__qualname__.removesuffix(".__init__")
                near = did_you_mean(keyword, known)
                raise TypeError(f"{called}() got an unexpected keyword argument {keyword!r}{near}")
        return function(*arguments, **keywords)

    return call


class InboundAuditError(Exception):
    """Base of all errors of this package."""


class AddressError(InboundAuditError, ValueError):
    """A text, tuple or object is not an address; or that address has fewer sessions than were to be removed."""


class CidrError(InboundAuditError, ValueError):
    """The `cidr` argument of a count does not follow the grammar."""


class UnknownServiceType(InboundAuditError, ValueError):
    """No such service type. The message lists the known ones and suggests the nearest."""

    def __init__(self, name: object, known: Iterable[str] = (), why: str = "no such service type") -> None:
        self.name = name
        self.known = tuple(known)
        self.why = why
        super().__init__(name, self.known, why)

    def __str__(self) -> str:
        text = f"{self.name!r}: {self.why}"
        if self.name not in self.known:
            text += did_you_mean(self.name, self.known)
        return f"{text} (known: {', '.join(self.known)})"


class MonitorError(InboundAuditError, ValueError):
    """No such monitor, or a window that it does not have; or a malformed monitor text."""


class SeriesError(InboundAuditError, ValueError):
    """No such series, or a window or a key that it does not have; or an invalid definition."""


class CapacityError(InboundAuditError):
    """An arena is full, a count would pass 4,294,967,295, or the system has no address space left."""


class PolicyError(InboundAuditError):
    """A policy is missing, unreadable, does not compile, or is configured with an invalid entry."""


class SharedStateError(InboundAuditError):
    """The counts of other processes cannot be shared or read."""


class OtherVersionError(SharedStateError):
    """A process that counts in the same place writes another layout: sums over both would be a guess."""


class ClusterError(InboundAuditError):
    """The settings of a cluster are wrong, or its engine can't be used. The message says what to do."""
