"""Every error that inbound_audit raises, and the words of the ones that need composing.

All of them derive from `InboundAuditError`. The three that say "this text is wrong" are `ValueError` too, so
that code which already guards a parse with ``except ValueError`` keeps working.
"""

from __future__ import annotations

from collections.abc import Iterable


class InboundAuditError(Exception):
    """Base of all errors of this package."""


class AddressError(InboundAuditError, ValueError):
    """A text, tuple or object is no address; or that address has fewer sessions than were to be removed."""


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
        # difflib is imported where an error is being told, never on the way of a count.
        from difflib import get_close_matches

        text = f"{self.name!r}: {self.why}"
        if isinstance(self.name, str) and self.name not in self.known:
            folded = {known.lower(): known for known in self.known}
            near = get_close_matches(self.name.lower(), list(folded), n=1)
            if near:
                text += f"; did you mean {folded[near[0]]!r}?"
        return f"{text} (known: {', '.join(self.known)})"


class MonitorError(InboundAuditError, ValueError):
    """No such monitor, or a window that it does not have; or a text that is none."""


class SeriesError(InboundAuditError, ValueError):
    """No such series, or a window or a key that it does not have; or a definition that makes no sense."""


class CapacityError(InboundAuditError):
    """An arena is full, a count would pass 4,294,967,295, or the system has no address space left."""


class PolicyError(InboundAuditError):
    """A policy is missing, unreadable, does not compile, or is configured with an entry that makes no sense."""


class SharedStateError(InboundAuditError):
    """The counts of other processes cannot be shared or read."""


class OtherVersionError(SharedStateError):
    """A process that counts in the same place writes another layout: sums over both would be a guess."""
