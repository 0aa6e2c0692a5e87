"""What Lua may ask Python: the words of an error, what the core's struct does not hold, scripts, address lists."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from inbound_audit import _ipcount
from inbound_audit.log_limiter import LogLimiter
from inbound_audit.lua import counting
from inbound_audit.lua.networks import NetworkLists
from inbound_audit.lua.sources import Sources
from inbound_audit.lua.windows import Windows
from inbound_audit.lua.world import raw, text

if TYPE_CHECKING:
    from inbound_audit._ipcount import Listener, Session
    from inbound_audit.audit import InboundAudit

logger = logging.getLogger("inbound_audit.lua")


class Host:
    """The Python side of one policy.

    `asked` holds the sessions whose hooks run just now, by the address of their struct. `listeners` are those whose
    sessions were ever seen, by the address of their tree; each keeps its audit, and so the memory that a kept accept
    construct points into. `audit` is one that is known before there is a session, or None.
    """

    def __init__(self, sources: Sources, audit: InboundAudit | None) -> None:
        self._sources = sources
        self._dropped = LogLimiter(logger)
        self._windows = Windows(audit, self._audit_of)
        self._lists = NetworkLists(sources.path.parent, burst=LogLimiter(logger))
        self.asked: dict[int, Session] = {}
        self.listeners: dict[int, Listener] = {}

    def meet(self, session: Session) -> None:
        """Remembers the listener of a session, whose audit gets the policy's series. Raises InboundAuditError."""
        self._windows.meet(cast("InboundAudit", session.listener.audit))
        self.listeners[_accept(counting.snapshot(session._handle)).tree] = session.listener

    def functions(self) -> dict[str, Callable[..., Any]]:
        """By the names that ask.lua gives them. Texts come and go as bytes."""
        return {
            "log": self._log,
            "warn": self._warn,
            "dropped": self._sessions_dropped,
            "explain": self._explain,
            "describe": self._describe,
            "find": self._find,
            "define": self._define,
            "query": self._query,
            "reload": lambda name: self._lists.reload(text(name)),
            "count": counting.session_count,
            "read": lambda accept, name: counting.read(accept, text(name)),
            **self._windows.functions(),
        }

    def _audit_of(self, accept: bytes) -> InboundAudit:
        return cast("InboundAudit", self.listeners[_accept(accept).tree].audit)

    def _log(self, words: bytes) -> None:
        logger.info("%s: %s", self._sources.path, text(words))

    def _warn(self, words: bytes) -> None:
        logger.warning("%s: %s", self._sources.path, text(words))

    def _sessions_dropped(self) -> None:
        self._dropped.report(
            logging.WARNING, "%s: too many sessions are kept; the oldest is forgotten", self._sources.path
        )

    def _explain(self, accept: bytes, code: int, cidr: object, service: object) -> bytes:
        """What Python's own count would have said."""
        words = _ipcount.count_error(code, _shown(cidr), _shown(service), self._audit_of(accept))
        return str(words).encode("utf-8", "backslashreplace")

    def _describe(self, accept: bytes, name: bytes) -> bytes | None:
        """`service_type`, `listener_name`: always; `local_addr`: while the session is being validated."""
        struct = _accept(accept)
        if name != b"local_addr":
            value = getattr(self.listeners[struct.tree], {b"service_type": "service_type"}.get(name, "name"))
            return raw(value)
        for session in list(self.asked.values()):
            if session.conn_id == struct.conn_id:
                return None if session.local_addr is None else raw(session.local_addr)
        raise KeyError("local_addr is known while its session is being validated")

    def _find(self, module: bytes, templates: bytes) -> tuple[bytes, bytes]:
        return self._sources.find(text(module), text(templates))

    def _define(self, name: bytes, source: bytes, kind: bytes, refresh: float) -> None:
        self._lists.define(text(name), text(source), text(kind), refresh)

    def _query(self, name: bytes, address: bytes) -> bytes | None:
        value = self._lists.query(text(name), text(address))
        return None if value is None else raw(value)


def _accept(accept: bytes) -> counting.Accept:
    return counting.Accept.from_buffer_copy(accept)


def _shown(value: object) -> object:
    """An argument of a count as Python would have been given it; it may be none that a count takes."""
    return text(value) if isinstance(value, bytes) else value
