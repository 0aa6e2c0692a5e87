"""What Lua may ask Python: the messages of errors, what the core's struct does not hold, scripts, address lists."""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Any, cast

from inbound_audit import _ipcount
from inbound_audit.address_lists.lists import NetworkLists
from inbound_audit.errors import PolicyError, did_you_mean
from inbound_audit.log_limiter import LogLimiter
from inbound_audit.lua import pcre
from inbound_audit.lua.needs import monitors_of
from inbound_audit.lua.series_host import SeriesHost
from inbound_audit.lua.sources import Sources
from inbound_audit.lua.world import functions_of, logger, raw, shown, text, translation
from inbound_audit.nodes import counted_of

if TYPE_CHECKING:
    from inbound_audit._ipcount import Listener, Session
    from inbound_audit.audit import InboundAudit
    from inbound_audit.policy.message import Message

_MAX_NAME = 100  # characters of a wrong name for which a right one is searched


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
        self.lists = NetworkLists(sources.directories)
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
        patterns = {
            f"pcre_{function.__name__}": _pattern(function) for function in (pcre.match, pcre.split, pcre.replace)
        }
        return {**functions_of(self), **patterns, **self.series.functions()}

    def _audit_of(self, accept: bytes) -> InboundAudit:
        return cast("InboundAudit", self.listeners[_tree(accept)].audit)

    def lua_now(self) -> float:
        return monotonic()

    def lua_log(self, message: bytes) -> None:
        logger.info("%s: %s", self._sources.path, text(message))

    def lua_warn(self, message: bytes) -> None:
        logger.warning("%s: %s", self._sources.path, text(message))

    def lua_dropped(self) -> None:
        self._dropped.report(
            logging.WARNING, "%s: too many sessions are kept; the oldest is forgotten", self._sources.path
        )

    def lua_count_message(self, accept: bytes, code: int, cidr: object, service: object) -> bytes:
        """The message of the error that Python's own count raises."""
        return raw(str(_ipcount.count_error(code, shown(cidr), shown(service), self._audit_of(accept))))

    def lua_field(self, accept: bytes, name: bytes) -> bytes | int:
        return _ipcount.accept_field(accept, text(name))

    def lua_dotted(self, ip: bytes) -> bytes:
        """The hexadecimal digits of an IPv6 address with dots between them: ``2.0.0.1.0.d.b.8...``."""
        return raw(".".join(ipaddress.IPv6Address(text(ip)).exploded.replace(":", "")))

    def lua_did_you_mean(self, name: object, known: bytes) -> bytes:
        return raw(did_you_mean(str(shown(name))[:_MAX_NAME], text(known).split()))

    def _session_of(self, accept: bytes) -> tuple[int, Session]:
        conn_id = _ipcount.accept_field(accept, "conn_id")
        for handle, session in list(self.asked.items()):
            if session.conn_id == conn_id:
                return handle, session
        raise KeyError("local_addr is known while its session is being validated")

    def lua_describe(self, accept: bytes, name: bytes) -> bytes | None:
        """`service_type`, `listener_name`: always; `local_addr`: while the session is being validated."""
        if name == b"local_addr":
            address = self._session_of(accept)[1].local_addr
            return None if address is None else raw(address)
        listener = self.listeners[_tree(accept)]
        return raw(listener.service_type if name == b"service_type" else listener.name)

    def lua_decision(self, accept: bytes) -> tuple[bytes | None, bytes | None]:
        """The action of the override that holds for the connecting IP, and why; nothing without one."""
        address = _ipcount.accept_field(accept, "remote_ip")
        assert isinstance(address, bytes)
        decision = self._audit_of(accept)._decision_for(address.decode())
        return (None, None) if decision is None else (raw(decision.action), raw(decision.why))

    def lua_nodes(self, accept: bytes) -> tuple[int, int]:
        return counted_of(self._audit_of(accept).nodes)

    def lua_recipients(self, accept: bytes) -> bytes:
        """The recipients of the message that is being validated, one per line."""
        message = self.messages.get(self._session_of(accept)[0])
        return raw("\n".join(message.rcptto if message else ()))

    def lua_translate(self, source: bytes, chunkname: bytes) -> tuple[bytes, bytes, bool]:
        translated = translation(source, chunkname)
        self.monitors.update(dict.fromkeys(monitors_of(source.decode("latin-1"))))
        return translated

    def lua_find(self, module: bytes, templates: bytes) -> tuple[bytes, bytes]:
        return self._sources.find(text(module), text(templates))

    def lua_define(self, name: bytes, source: bytes | None = None, kind: bytes = b"a", refresh: float = 0) -> None:
        self.lists.define(text(name), None if source is None else text(source), text(kind), refresh)

    def lua_query(self, name: bytes, address: bytes, expand: bool) -> bytes | None:
        value = self.lists.query(text(name), text(address), expand)
        return None if value is None else raw(value)

    def lua_reload(self, name: bytes) -> None:
        self.lists.reload(text(name))


def _tree(accept: bytes) -> int:
    return cast("int", _ipcount.accept_field(accept, "tree"))


def _pattern(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of `pcre` whose PatternError is a message that begins with "!", as pcre.lua expects it."""

    def call(*texts: bytes) -> Any:
        try:
            return function(*texts)
        except pcre.PatternError as error:
            raise PolicyError(f"!{error}") from None

    return call
