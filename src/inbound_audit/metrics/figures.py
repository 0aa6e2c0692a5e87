"""What is measured of a shared audit: names, labels and values, as Prometheus and OpenTelemetry both take them.

A figure is a number of now, which may fall: a gauge. Names follow the conventions of Prometheus (its documentation,
"Metric and label naming"): a prefix of the program, the thing that is measured, and its unit unless it is a count.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from inbound_audit._ipcount import MONITOR_KINDS, SERVED, SeriesStore
from inbound_audit.errors import InboundAuditError, SharedStateError
from inbound_audit.nodes import STATES, THIS_HOST
from inbound_audit.process import ProcessLock
from inbound_audit.shared import View

EVERYTHING = ("0.0.0.0/0", "::/0")

ABOUT = {
    "up": "1 if the audit can be read, otherwise 0.",
    "processes": "Processes that count in the audit.",
    "damaged_processes": "Processes whose file can't be read; their sessions are not counted.",
    "sessions": "Open sessions of a listener, in all processes.",
    "served": "Connections and messages of the processes that serve now, each since its begin, by what became of them; "
    "unlogged: lines that the decision log left out.",
    "events": "Connections, receptions or rejections in all windows of a monitor, such as 60,5: five of 60 seconds.",
    "prefix_sessions": "Open sessions of the prefixes that have the most.",
    "nodes": "Nodes of the cluster by state; this host is heard.",
    "cluster_sessions": "Open sessions of all nodes that are counted.",
}
"""The help of each figure by its name, which is without the prefix ``inbound_audit_``."""


class Figure(NamedTuple):
    """A value of now. `name` is a key of `ABOUT`; `labels` are the same names for each figure of a name."""

    name: str
    labels: Mapping[str, str]
    value: float


class SharedAudit:
    """The figures of one shared audit.

    `user` is as that of `View`. `top` prefixes of SMTP with the lengths `prefixlen` are figures, too: none by default,
    since each that was ever among them is a time series of its own where the figures are kept.

    Any thread may read it. Lock rule: `_lock` is held while the view is opened, refreshed or closed; counts take none.
    """

    def __init__(
        self, name: str, *, user: str | None = None, top: int = 0, prefixlen: tuple[int, int] = (24, 56)
    ) -> None:
        self.name = name
        self._user, self._top, self._prefixlen = user, top, prefixlen
        self._lock = ProcessLock()
        self._view: View | None = None
        self.why_down = ""

    def figures(self) -> list[Figure]:
        """O(processes x monitors), and a walk of the trees if `top` is not 0. Never raises: an audit that can't be read
        is not up, and `why_down` is the reason."""
        found = [Figure("up", {"audit": self.name}, 1)]
        is_up = self._try(lambda view: found.extend(self._read(view)))
        return found if is_up else [Figure("up", {"audit": self.name}, 0)]

    def is_up(self) -> bool:
        """Whether it can be read; if not, `why_down` is the reason. It reads no count: O(processes) system calls."""
        return self._try(lambda view: None)

    def _try(self, read: Callable[[View], None]) -> bool:
        try:
            with self._lock:
                view = self._refreshed()
            read(view)
        except (InboundAuditError, OSError) as error:
            self.why_down = str(error)
            self.close()
            return False
        self.why_down = ""
        return True

    def close(self) -> None:
        """Idempotent; `figures` opens it again."""
        with self._lock:
            view, self._view = self._view, None
            if view is not None:
                view.close()

    def _refreshed(self) -> View:
        """Raises SharedStateError, OSError."""
        if self._view is None:
            self._view = View(self.name, user=self._user)
        else:
            self._view.refresh()
        if self._view.place.gone:
            raise SharedStateError(f"{self.name!r}: no process is attached to it any more")
        return self._view

    def _read(self, view: View) -> Iterator[Figure]:
        audit = {"audit": self.name}
        owners = view.owners
        yield Figure("processes", audit, sum(owner.damaged is None and bool(owner.listeners) for owner in owners))
        yield Figure("damaged_processes", audit, sum(owner.damaged is not None for owner in owners))
        sessions: Counter[tuple[str, str]] = Counter()
        for owner in owners:
            for service, listener, total in owner.listeners:
                sessions[service, listener] += total
        for (service, listener), total in sessions.items():
            yield Figure("sessions", {**audit, "service": service, "listener": listener}, total)
        for what, *numbers in zip(SERVED, *(owner.served for owner in owners), strict=True):
            yield Figure("served", {**audit, "what": what}, sum(numbers))
        yield from self._events(view)
        for count, prefix in view.top(self._top, prefixlen=self._prefixlen) if self._top else ():
            yield Figure("prefix_sessions", {**audit, "prefix": prefix}, count)
        yield from self._nodes(view)

    def _events(self, view: View) -> Iterator[Figure]:
        store = SeriesStore(view)
        for kind, name, _, interval, windows in store.known:
            if kind in MONITOR_KINDS:
                monitor = kind, name, interval, windows
                value = sum(store.count(*monitor, cidr, 0, windows - 1) for cidr in EVERYTHING)
                labels = {"audit": self.name, "kind": kind, "monitor": name}
                yield Figure("events", labels, value)

    def _nodes(self, view: View) -> Iterator[Figure]:
        nodes = view.nodes
        if not nodes:  # no agent runs
            return
        states = Counter("heard" if node.state == THIS_HOST else node.state for node in nodes)
        for state in sorted(set(STATES.values()) - {THIS_HOST}):
            yield Figure("nodes", {"audit": self.name, "state": state}, states[state])
        yield Figure("cluster_sessions", {"audit": self.name}, sum(node.sessions for node in nodes if node.counted))
