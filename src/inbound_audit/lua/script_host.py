"""What Lua may ask Python: the messages of errors, what the core's struct does not hold, scripts, address lists."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, cast

from inbound_audit import _ipcount
from inbound_audit.address_lists.lists import NetworkLists
from inbound_audit.errors import PolicyError, did_you_mean
from inbound_audit.log_limiter import LogLimiter
from inbound_audit.lua import pcre
from inbound_audit.lua.needs import monitors_of
from inbound_audit.lua.series_host import SeriesHost
from inbound_audit.lua.sources import Sources
from inbound_audit.lua.world import logger, raw, text, translation

if TYPE_CHECKING:
    from inbound_audit._ipcount import Listener, Session
    from inbound_audit.audit import InboundAudit
    from inbound_audit.policy.message import Message


class ScriptHost:
    """The Python side of one policy.

    `asked` holds the sessions whose hooks run just now, by the address of their struct, and `messages` the messages of
    those hooks. `listeners` are those whose sessions were ever seen, by the address of their tree; each
    keeps its audit, and so the memory that a kept accept construct points into. `audit` is one that is known before
    there is a session, or None. `monitors` are those that the scripts name.
    """

    def __init__(self, sources: Sources, audit: InboundAudit | None) -> None:
        self._sources = sources
        self._dropped = LogLimiter(logger)
        self.series = SeriesHost(audit, self._audit_of)
        self._lists = NetworkLists(sources.path.parent, limiter=LogLimiter(logger))
        self.asked: dict[int, Session] = {}
        self.messages: dict[int, Message] = {}
        self.listeners: dict[int, Listener] = {}
        self.monitors: dict[str, None] = {}

    def add_listener(self, session: Session) -> None:
        """Remembers the listener of a session, whose audit gets the policy's series. Raises InboundAuditError."""
        self.series.add_audit(cast("InboundAudit", session.listener.audit))
        self.listeners[_tree(_ipcount.accept_bytes(session._handle))] = session.listener

    def functions(self) -> dict[str, Callable[..., Any]]:
        """By the names that the Lua files call. Texts come and go as bytes."""
        return {
            "log": self._log,
            "warn": self._warn,
            "dropped": self._sessions_dropped,
            "count_message": self._count_message,
            "describe": self._describe,
            "recipients": self._recipients,
            "translate": self._translate,
            "find": self._find,
            "define": self._define,
            "query": self._query,
            "reload": lambda name: self._lists.reload(text(name)),
            "did_you_mean": lambda name, known: _did_you_mean(name, text(known).split()),
            "session_count": _ipcount.accept_session_count,
            "within": _ipcount.accept_within,
            "field": lambda accept, name: _ipcount.accept_field(accept, text(name)),
            "pcre_match": _pattern(pcre.match),
            "pcre_split": _pattern(pcre.split),
            "pcre_replace": _pattern(pcre.replace),
            **self.series.functions(),
        }

    def _audit_of(self, accept: bytes) -> InboundAudit:
        return cast("InboundAudit", self.listeners[_tree(accept)].audit)

    def _log(self, message: bytes) -> None:
        logger.info("%s: %s", self._sources.path, text(message))

    def _warn(self, message: bytes) -> None:
        logger.warning("%s: %s", self._sources.path, text(message))

    def _sessions_dropped(self) -> None:
        self._dropped.report(
            logging.WARNING, "%s: too many sessions are kept; the oldest is forgotten", self._sources.path
        )

    def _count_message(self, accept: bytes, code: int, cidr: object, service: object) -> bytes:
        """The message of the error that Python's own count raises."""
        error = _ipcount.count_error(code, _shown(cidr), _shown(service), self._audit_of(accept))
        return str(error).encode("utf-8", "backslashreplace")

    def _session_of(self, accept: bytes) -> tuple[int, Session]:
        conn_id = _ipcount.accept_field(accept, "conn_id")
        for handle, session in list(self.asked.items()):
            if session.conn_id == conn_id:
                return handle, session
        raise KeyError("local_addr is known while its session is being validated")

    def _describe(self, accept: bytes, name: bytes) -> bytes | None:
        """`service_type`, `listener_name`: always; `local_addr`: while the session is being validated."""
        if name == b"local_addr":
            address = self._session_of(accept)[1].local_addr
            return None if address is None else raw(address)
        listener = self.listeners[_tree(accept)]
        return raw(listener.service_type if name == b"service_type" else listener.name)

    def _recipients(self, accept: bytes) -> bytes:
        """The recipients of the message that is being validated, one per line."""
        message = self.messages.get(self._session_of(accept)[0])
        return raw("\n".join(message.rcptto if message else ()))

    def _translate(self, source: bytes, chunkname: bytes) -> tuple[bytes, bytes]:
        translated = translation(source, chunkname)
        self.monitors.update(dict.fromkeys(monitors_of(source.decode("latin-1"))))
        return translated

    def _find(self, module: bytes, templates: bytes) -> tuple[bytes, bytes]:
        return self._sources.find(text(module), text(templates))

    def _define(self, name: bytes, source: bytes | None = None, kind: bytes = b"a", refresh: float = 0) -> None:
        self._lists.define(text(name), None if source is None else text(source), text(kind), refresh)

    def _query(self, name: bytes, address: bytes, expand: bool) -> bytes | None:
        value = self._lists.query(text(name), text(address), expand)
        return None if value is None else raw(value)


def _tree(accept: bytes) -> int:
    return cast("int", _ipcount.accept_field(accept, "tree"))


def _did_you_mean(name: object, known: Iterable[str]) -> bytes:
    return raw(did_you_mean(text(name) if isinstance(name, bytes) else str(name), known))


def _pattern(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of `pcre` whose PatternError is a message that begins with "!", as pcre.lua expects it."""

    def call(*texts: bytes) -> Any:
        try:
            return function(*texts)
        except pcre.PatternError as error:
            raise PolicyError(f"!{error}") from None

    return call


def _shown(value: object) -> object:
    """An argument of a count as Python would have been given it; it may be one that no count takes."""
    return text(value) if isinstance(value, bytes) else value
