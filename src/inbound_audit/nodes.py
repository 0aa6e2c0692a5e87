"""The nodes of the cluster, as the sections of the agent's file have them."""

from __future__ import annotations

import time
from typing import NamedTuple

from inbound_audit import _ipcount

THIS_HOST = "this host"
STATES = {number: name for name, number in _ipcount.NODE_STATES.items()}
"""What the number in a section means."""

COUNTED = frozenset(("heard", "duplicate", THIS_HOST))


class NodeInfo(NamedTuple):
    """A node of the cluster. `age_s`: seconds since its last word, 0 for this host."""

    name: str
    state: str
    age_s: float
    sessions: int
    hosts: int

    @property
    def counted(self) -> bool:
        """Whether its sessions are part of `inbound_cidr`."""
        return self.state in COUNTED


def counted_of(nodes: tuple[NodeInfo, ...]) -> tuple[int, int]:
    """How many are counted and how many are known; this host is both where no agent runs."""
    return max(1, sum(node.counted for node in nodes)), max(1, len(nodes))


def nodes_of(audit: _ipcount.Audit) -> tuple[NodeInfo, ...]:
    """The nodes by name, this host first; none where no agent runs. O(nodes)."""
    now = time.monotonic_ns()
    found = []
    for name, state, heard_ns, hosts, total in audit._nodes():
        is_host = STATES.get(state) == THIS_HOST
        age_s = 0.0 if is_host else max(0, now - heard_ns) / 1e9
        found.append(NodeInfo(name, STATES.get(state, "lost"), age_s, audit.total() if is_host else total, hosts))
    return tuple(sorted(found, key=lambda node: (node.state != THIS_HOST, node.name)))
