"""`InboundAudit`: the facade over the native core. Counting is native; here is what happens once a process."""

from __future__ import annotations

import os
from collections.abc import Iterable
from types import TracebackType
from weakref import WeakSet

from inbound_audit import _ipcount
from inbound_audit.errors import InboundAuditError, SharedStateError, UnknownServiceType
from inbound_audit.services import DEFAULT_LISTENER_NAME, DEFAULT_SERVICE_TYPE, SERVICE_TYPES

_alive: WeakSet[InboundAudit] = WeakSet()


class InboundAudit(_ipcount.Audit):
    """How many sessions are open right now, by any prefix, per service and listener.

    `capacity` is the address space reserved for each listener, in bytes (8 KiB to just under 8 GiB, 1 GiB by default:
    some 30 million hosts); memory is used as hosts come. `services` are service types beside the reference's. `shared`
    names an audit that all processes of the host count together: not in this version.

    Any thread may open, close and ask. A forked child starts with no sessions: those of its parent stay the parent's.

    >>> audit = InboundAudit()
    >>> smtp = audit.listener("SMTP", name="mx")
    >>> with smtp.session("192.0.2.7") as ac:
    ...     ac.inbound_session_count("/24")
    1
    """

    def __init__(
        self,
        *,
        shared: str | None = None,
        capacity: int = _ipcount.DEFAULT_CAPACITY,
        services: Iterable[str] = (),
    ) -> None:
        if shared is not None:
            raise SharedStateError(f"{shared!r}: counts that processes share are not available in this version")
        super().__init__()
        self._reserve(capacity)
        if isinstance(services, str):
            raise UnknownServiceType(services, SERVICE_TYPES, "is a text, not a list of service types")
        for name in (*SERVICE_TYPES, *services):
            self._add_service(name)
        _alive.add(self)

    def listener(
        self, service_type: str = DEFAULT_SERVICE_TYPE, name: str = DEFAULT_LISTENER_NAME
    ) -> _ipcount.Listener:
        """The listener of that service type and name, made at the first call; a new service type becomes known.

        Raises UnknownServiceType for the view `inbound_cidr` and for what can be no name; CapacityError when the
        system reserves no address space for its tree.
        """
        if self.closed:
            raise InboundAuditError("the audit is closed")
        self._add_service(service_type)
        return self._listener(service_type, name)

    def close(self) -> None:
        """Forgets every session and gives the memory back. Sessions may be closed afterwards; counts are 0."""
        self._forget(close=True)

    def __enter__(self) -> InboundAudit:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _after_fork_in_child() -> None:
    _ipcount._let_go_counters()
    for audit in _alive:
        audit._forget()


os.register_at_fork(
    before=_ipcount._hold_counters,
    after_in_parent=_ipcount._let_go_counters,
    after_in_child=_after_fork_in_child,
)
