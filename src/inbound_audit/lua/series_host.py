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
from inbound_audit.lua.world import MAX_SHOWN, functions_of, raw, shown
from inbound_audit.process import ProcessLock
from inbound_audit.series.definition import DEFAULT_BYTES, Definition, check, contradiction

if TYPE_CHECKING:
    from inbound_audit.audit import InboundAudit

_MAX_DEFINITIONS = 1024  # a script that defines in a loop is stopped before it has used up our memory
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
        native = ("within", "session_count", "event_count", "series_add", "series_count", "series_remove")
        return {**{name: getattr(_ipcount, f"accept_{name}") for name in native}, **functions_of(self)}

    def add_audit(self, audit: InboundAudit) -> None:
        """Defines the policy's series in an audit. Raises SeriesError if the audit has such a series otherwise."""
        with self._lock:
            if audit not in self._known:
                for definition in self._wanted:
                    audit.series.define(**definition._asdict())
                self._known.append(audit)

    def lua_series_define(self, *values: Any) -> None:
        """The fields of a Definition in their order, None for a default. Raises SeriesError, CapacityError."""
        fields = dict(zip(Definition._fields, map(_name, values), strict=True))
        defaults = {"replicate": "none", "max_bytes": DEFAULT_BYTES}
        definition = Definition(**fields | {key: value for key, value in defaults.items() if fields[key] is None})
        check(definition)
        with self._lock:
            self._remember(definition)

    def lua_define_monitor(self, monitor: object) -> None:
        """Raises MonitorError."""
        text = _name(monitor)
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
                audit.series.define(**wanted._asdict())
        self._wanted[wanted] = None

    def _bound(self) -> InboundAudit:
        if self._audit is None:
            raise PolicyError("no session is being validated, and the policy was made without an audit")
        return self._audit

    def lua_series_make_room(self, accept: bytes, name: bytes) -> None:
        self._audit_of(accept).series.ensure_negative_trees(name.decode())

    def lua_series_other_family(self, accept: bytes, name: bytes) -> None:
        self._audit_of(accept).series.log_other_family(name.decode())

    def lua_series_remove_item(self, accept: bytes | None, name: bytes, key: bytes | None) -> None:
        series = (self._bound() if accept is None else self._audit_of(accept)).series
        text = _name(name)
        if key is None and accept is not None and series.defined(text).type != "string":
            series.remove_item(text, _address_of(accept))
        else:
            series.remove_item(text, _key(key))

    def lua_absolute_events(
        self, kind: int, monitor: bytes, cluster: bool, cidr: bytes | None, first: int, last: int
    ) -> int:
        audit = self._bound()
        if cidr is None:
            raise PolicyError("no session is being validated, so there is no connecting IP; name an address")
        count: int = getattr(audit, MONITOR_KINDS[kind])(shown(monitor), shown(cidr), first, last, cluster=cluster)
        return count

    def lua_absolute_add(self, name: bytes, key: bytes | None, amount: int) -> None:
        self._bound().series.add(_name(name), _key(key), amount)

    def lua_absolute_count(self, name: bytes, key: bytes | None, first: int, last: int) -> int:
        return self._bound().series.count(_name(name), _key(key), first, last)

    def lua_window_message(self, accept: bytes | None, code: int, what: object, name: object) -> bytes:
        """The message of the error that Python's own function raises."""
        audit = self._bound() if accept is None else self._audit_of(accept)
        message = str(_ipcount.window_error(code, shown(what), shown(name), audit))
        if what is not None and code == CODES["BAD_AMOUNT"]:
            series = f"{shown(name)!r}: "
            message = f"{series}{shown(what)}: {message.removeprefix(series)}"
        return raw(message)


def _name(value: Any, most: int = MAX_SHOWN) -> Any:
    """A name or key; bytes that are not UTF-8, or too many, stay something that no name can be."""
    return value[:most].decode("utf-8", "surrogateescape") if isinstance(value, bytes) else value


def _key(value: Any) -> Any:
    return _name(value, _MAX_KEY)


def _address_of(accept: bytes) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    address = _ipcount.accept_field(accept, "remote_ip")
    assert isinstance(address, bytes)
    return ipaddress.ip_address(address.decode())
