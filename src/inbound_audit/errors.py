"""Every error that inbound_audit raises, and the words of the ones that need composing.

All of them derive from `InboundAuditError`. The three that say "this text is wrong" are `ValueError` too, so
that code which already guards a parse with ``except ValueError`` keeps working.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import wraps
from typing import ParamSpec, TypeVar

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def nearest(name: object, known: Iterable[str]) -> str | None:
    """The known name that is nearest to a wrong one, None if no known name is near."""
    # difflib is imported when an error is made, never for a count.
    from difflib import get_close_matches

    folded = {one.lower(): one for one in known}
    near = get_close_matches(name.lower(), list(folded), n=1) if isinstance(name, str) else []
    return folded[near[0]] if near else None


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: ``; did you mean 'limits'?``, or nothing if no known name is near."""
    near = nearest(name, known)
    return "" if near is None else f"; did you mean {near!r}?"


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
