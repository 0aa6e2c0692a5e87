"""What Lua asks Python about windows: definitions of series, the message of an error, counts without a session.

Counting is native. A policy defines its series while it is loaded. Then it knows no audit but one that it was made
with: what it has defined is remembered, and defined in each audit whose sessions it is asked about.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from inbound_audit import _ipcount
from inbound_audit._ipcount import CODES, LIMITS, MONITOR_KINDS
from inbound_audit.errors import CapacityError, PolicyError, SeriesError
from inbound_audit.process import ProcessLock
from inbound_audit.series import DEFAULT_BYTES, Definition, check, contradiction

if TYPE_CHECKING:
    from inbound_audit.audit import InboundAudit

_MAX_DEFINITIONS = 1024  # a script that defines in a loop is stopped before it has used up our memory
_MAX_SHOWN = 1000  # bytes of what was asked for that an error repeats
_MAX_KEY = LIMITS["key_bytes"] + 1000  # bytes: more than a key may have, and an error repeats it


class SeriesHost:
    """The Python side of `msys.audit` and `msys.audit_series`.

    `audit` is the one that the policy was made with, `audit_of` finds that of an accept construct.
    """

    def __init__(self, audit: InboundAudit | None, audit_of: Callable[[bytes], InboundAudit]) -> None:
        self._audit = audit
        self._audit_of = audit_of
        self._known: list[InboundAudit] = [] if audit is None else [audit]
        self._wanted: dict[Definition, None] = {}
        self.defined_monitors: dict[str, None] = {}
        self._lock = ProcessLock()

    def functions(self) -> dict[str, Callable[..., Any]]:
        """By the names that the Lua files call. Texts come and go as bytes."""
        return {
            "event_count": _ipcount.accept_event_count,
            "series_add": _ipcount.accept_series_add,
            "series_count": _ipcount.accept_series_count,
            "series_remove": _ipcount.accept_series_remove,
            "define_monitor": self._define_monitor,
            "series_define": self._define,
            "series_make_room": self._make_room,
            "series_other_family": self._log_other_family,
            "series_remove_item": self._remove_item,
            "absolute_events": self._absolute_events,
            "absolute_add": self._absolute_add,
            "absolute_count": self._absolute_count,
            "window_message": self._message,
        }

    def add_audit(self, audit: InboundAudit) -> None:
        """Defines the policy's series in an audit. Raises SeriesError if the audit has such a series otherwise."""
        with self._lock:
            if audit not in self._known:
                for definition in self._wanted:
                    _apply(definition, audit)
                self._known.append(audit)

    def _define(
        self,
        name: object,
        kind: object,
        interval: Any,
        num_windows: Any,
        serialize: bool,
        replicate: object,
        persist: bool,
        max_hosts: Any,
        max_bytes: Any,
    ) -> None:
        numbers = (interval, num_windows, max_hosts, DEFAULT_BYTES if max_bytes is None else max_bytes)
        interval, num_windows, max_hosts, max_bytes = map(_shown, numbers)
        where = "none" if replicate is None else _strict(replicate)
        definition = Definition(
            _strict(name), _strict(kind), interval, num_windows, serialize, where, persist, max_hosts, max_bytes
        )
        check(definition)
        with self._lock:
            self._remember(definition)

    def _define_monitor(self, monitor: object) -> None:
        """Raises MonitorError."""
        text = _strict(monitor)
        _ipcount.parse_monitor(text)
        self.defined_monitors[text] = None

    def _remember(self, wanted: Definition) -> None:
        for known in self._wanted:
            why = contradiction(known, wanted) if known.name == wanted.name else None
            if why:
                raise SeriesError(f"{wanted.name!r}: is defined already, and {why}")
        if wanted not in self._wanted and len(self._wanted) == _MAX_DEFINITIONS:
            raise CapacityError(f"{wanted.name!r}: a policy can define {_MAX_DEFINITIONS} series")
        for audit in self._known:
            if not audit.closed:
                _apply(wanted, audit)
        self._wanted[wanted] = None

    def _bound(self) -> InboundAudit:
        if self._audit is None:
            raise PolicyError("no session is being validated, and the policy was made without an audit")
        return self._audit

    def _make_room(self, accept: bytes, name: bytes) -> None:
        self._audit_of(accept).series.ensure_negative_trees(name.decode())

    def _log_other_family(self, accept: bytes, name: bytes) -> None:
        self._audit_of(accept).series.log_other_family(name.decode())

    def _remove_item(self, accept: bytes | None, name: bytes, key: bytes | None) -> None:
        series = (self._bound() if accept is None else self._audit_of(accept)).series
        text = _strict(name)
        if key is None and accept is not None and series.defined(text).type != "string":
            series.remove_item(text, _address_of(accept))
        else:
            series.remove_item(text, _text_key(key))

    def _absolute_events(self, kind: int, monitor: bytes, cidr: bytes | None, first: int, last: int) -> int:
        audit = self._bound()
        if cidr is None:
            raise PolicyError("no session is being validated, so there is no connecting IP; name an address")
        count: int = getattr(audit, MONITOR_KINDS[kind])(_shown(monitor), _shown(cidr), first, last)
        return count

    def _absolute_add(self, name: bytes, key: bytes | None, amount: int) -> None:
        self._bound().series.add(_strict(name), _text_key(key), amount)

    def _absolute_count(self, name: bytes, key: bytes | None, first: int, last: int) -> int:
        return self._bound().series.count(_strict(name), _text_key(key), first, last)

    def _message(self, accept: bytes | None, code: int, what: object, name: object) -> bytes:
        """The message of the error that Python's own function raises."""
        audit = self._bound() if accept is None else self._audit_of(accept)
        shown = _shown(name)
        message = str(_ipcount.window_error(code, _shown(what), shown, audit))
        if what is not None and code == CODES["BAD_AMOUNT"]:
            message = f"{shown!r}: {_shown(what)}: {message.removeprefix(f'{shown!r}: ')}"
        return message.encode("utf-8", "backslashreplace")


def _apply(definition: Definition, audit: InboundAudit) -> None:
    name, kind, interval, num_windows, *_ = definition
    audit.series.define(
        name,
        kind,
        interval,
        num_windows,
        serialize=definition.serialize,
        replicate=definition.replicate,
        persist=definition.persist,
        max_hosts=definition.max_hosts,
        max_bytes=definition.max_bytes,
    )


def _shown(value: object) -> Any:
    """What was asked for as an error repeats it: not all of a long text."""
    return value[:_MAX_SHOWN].decode("utf-8", "backslashreplace") if isinstance(value, bytes) else value


def _strict(name: object) -> Any:
    """A name; bytes that are not UTF-8, or too many, stay something that no name can be."""
    return name[:_MAX_SHOWN].decode("utf-8", "surrogateescape") if isinstance(name, bytes) else name


def _address_of(accept: bytes) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    address = _ipcount.accept_field(accept, "remote_ip")
    assert isinstance(address, bytes)
    return ipaddress.ip_address(address.decode())


def _text_key(key: bytes | None) -> str | None:
    return None if key is None else key[:_MAX_KEY].decode("utf-8", "surrogateescape")
