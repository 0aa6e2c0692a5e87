"""What the other nodes may take of this agent: bounds, and what is taken of them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

from inbound_audit.cluster.replica import Replica
from inbound_audit.cluster.windows import MAX_EVENTS, MAX_HOSTS, MAX_WINDOWS, WindowTrees


class Bounds(NamedTuple):
    """What the other nodes may take of this agent, at most. Frames beyond it are dropped, and counted as dropped."""

    max_nodes: int = 4000
    max_hosts: int = 1_000_000
    """Of one node. A node that has more is listed, and not counted."""
    max_all_hosts: int = 20_000_000
    """Of all nodes: half a gigabyte for IPv4, a whole one for IPv6, and from MIN_SUMMED nodes on as much for their sum.
    """
    max_waiting_bytes: int = 1 << 20
    """Changes of one node and tree that wait for one that is missing."""
    max_all_waiting_bytes: int = 64 << 20
    """Of all nodes: for their sessions, and as much for their windows."""
    max_bytes_per_s: int = 8 << 20
    """Of one node, each frame counted with FRAME_COST_BYTES more, and each window with WINDOW_COST_BYTES: 1,000 small
    frames, or 8,000 windows, per second."""
    burst_s: int = 4
    max_windows: int = MAX_WINDOWS
    """Of one node and tree. If a node has more, or more hosts in them, its windows are not counted."""
    max_all_windows: int = 16_000
    """To each belong two mappings of memory; the system allows a process 65,530."""
    max_window_hosts: int = MAX_HOSTS
    max_window_events: int = MAX_EVENTS
    """Of one node in one window."""
    max_all_window_hosts: int = 20_000_000
    max_new_nodes_per_s: int = 200
    """Names that are listed, at half a millisecond each: else a program that sends under ever new names would hold up
    what the nodes say."""
    new_nodes_burst_s: int = 5


class Load:
    """What the copies of other nodes take, in all: of their sessions."""

    def __init__(self, max_hosts: int, max_waiting_bytes: int) -> None:
        self.hosts = 0
        self.waiting_bytes = 0
        self.max_hosts = max_hosts
        self.max_waiting_bytes = max_waiting_bytes

    @contextlib.contextmanager
    def changing(self, replica: Replica[Any]) -> Iterator[None]:
        """A copy is changed in the block: the sums have it as it is afterwards."""
        self._account(replica, -1)
        try:
            yield
        finally:
            self._account(replica, 1)

    def _account(self, replica: Replica[Any], sign: int) -> None:
        self.hosts += sign * replica.tree.hosts
        self.waiting_bytes += sign * replica.waiting_bytes

    @property
    def fits(self) -> bool:
        """Whether the hosts are within their bound."""
        return self.hosts <= self.max_hosts


class WindowLoad(Load):
    """What the copies of other nodes take, in all: of their windows."""

    def __init__(self, max_hosts: int, max_waiting_bytes: int, max_windows: int) -> None:
        super().__init__(max_hosts, max_waiting_bytes)
        self.windows = 0
        self.max_windows = max_windows

    def _account(self, replica: Replica[WindowTrees], sign: int) -> None:
        super()._account(replica, sign)
        self.windows += sign * len(replica.tree.windows)

    @property
    def fits(self) -> bool:
        return super().fits and self.windows <= self.max_windows
