"""A read-only view for a process that is not a member: what `show`, `top` and `ps` use."""

from __future__ import annotations

import contextlib

from inbound_audit import _ipcount
from inbound_audit.errors import InboundAuditError, SharedStateError
from inbound_audit.nodes import NodeInfo, nodes_of
from inbound_audit.picture import picture as draw_picture
from inbound_audit.process import ProcessLock
from inbound_audit.services import SERVICE_TYPES
from inbound_audit.shared.directory import SharedDirectory
from inbound_audit.shared.scanner import OwnerInfo, OwnerScanner


class View(_ipcount.Audit):
    """The counts of the processes that share an audit. It writes nothing and removes nothing.

    `user` (a name or number): whose audit it is, if not of this user; root has to name another user. `pid` selects the
    owners that state this process id, `owner` the one with that id. `node`: the sessions of that other node of a
    cluster in place of this host's. `place` is the directory, as of the last `refresh`. Queries are those of
    `InboundAudit`: over the owners as of the last `refresh`, and their counts as of now.

    Raises SharedStateError when there is no such audit, owner or node, or the directory is refused.

    Lock rule: `_lock` is held for a scan and for the end. Counts take no lock.
    """

    def __init__(
        self,
        name: str,
        *,
        pid: int | None = None,
        owner: str | None = None,
        user: str | None = None,
        node: str | None = None,
    ) -> None:
        super().__init__(services=SERVICE_TYPES)
        self._lock = ProcessLock()
        self._name = name
        self.user = user
        self.place = SharedDirectory(name, read_only=True, user=user)
        self._scanner = OwnerScanner(self, self.place, remove_dead=False, pid=pid, owner=owner, node=node)
        try:
            self.refresh()
            if pid is not None and not self.owners:
                raise SharedStateError(f"{name!r}: no process with the id {pid} is attached to it")
            if owner is not None and not self.owners:
                raise SharedStateError(f"{name!r}: no owner with the id {owner} is attached to it")
            if node is not None and not any(owner.listeners for owner in self.owners):
                raise SharedStateError(f"{name!r}: no node {node!r} is known here")
        except BaseException:
            self.close()
            raise

    def refresh(self) -> None:
        """Attaches new owners and drops dead ones, also when the directory was made anew. O(owners) system calls."""
        with self._lock:
            if self.closed:
                raise InboundAuditError("the view is closed")
            if self.place.gone:
                with contextlib.suppress(SharedStateError):  # no process counts there any more
                    place, self.place = self.place, SharedDirectory(self._name, read_only=True, user=self.user)
                    self._scanner.move(self.place)
                    place.close()
            self._scanner.scan()

    picture = draw_picture

    @property
    def nodes(self) -> tuple[NodeInfo, ...]:
        """The nodes of the cluster, this host first; none where no agent runs. O(nodes)."""
        return nodes_of(self)

    @property
    def owners(self) -> list[OwnerInfo]:
        """The processes that are attached, as of the last `refresh`."""
        with self._lock:
            return self._scanner.owners

    def close(self) -> None:
        """Closes everything; counts are 0 from then on. Idempotent."""
        with self._lock:
            if not self.closed:
                super().close()
                self._scanner.detach_all()
                self.place.close()

    def __enter__(self) -> View:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
