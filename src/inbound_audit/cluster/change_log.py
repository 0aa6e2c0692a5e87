"""What an agent says of the other nodes: which have come and gone, in its log, and the details of each."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence

from inbound_audit.cluster.clock_difference import in_words
from inbound_audit.cluster.node_state import NodeState, State
from inbound_audit.cluster.windows import WindowTrees
from inbound_audit.nodes import STATES

logger = logging.getLogger("inbound_audit.cluster")


class ChangeLog:
    """Logs the states of nodes as they change."""

    def __init__(self) -> None:
        self._states: dict[str, State] = {}
        self._refused: set[str] = set()
        """The nodes whose windows are not counted because they are too many."""
        self._differing: set[str] = set()
        """The nodes whose clocks differ."""

    def report(self, nodes: Collection[NodeState]) -> None:
        """Logs what has changed since the last call. O(nodes)."""
        for node in nodes:
            if self._states.get(node.name, State.LOST) != node.state:
                level = logging.INFO if node.state in (State.HEARD, State.THIS_HOST) else logging.WARNING
                why = f" ({node.why})" if node.why else ""
                logger.log(level, "node %s: %s%s", node.name, STATES[node.state], why)
            if node.refused_windows and node.name not in self._refused:
                logger.warning("the windows of node %s are not counted: %s", node.name, node.why)
            self._report_clock(node)
        self._states = {node.name: node.state for node in nodes}
        self._refused = {node.name for node in nodes if node.refused_windows}
        self._differing = {node.name for node in nodes if node.clock.differs}

    def _report_clock(self, node: NodeState) -> None:
        ahead_s, differed = node.clock.ahead_s, node.name in self._differing
        if ahead_s is None or node.clock.differs == differed:
            return
        if differed:
            logger.info("node %s: its clock differs no more", node.name)
        else:
            logger.warning("node %s: %s: windows are added up by the clock of each node", node.name, in_words(ahead_s))


def in_hex(digest: int) -> str:
    """``00c0ffee00c0ffee``."""
    return f"{digest:016x}"


def about(state: NodeState) -> dict[str, object]:
    """What `inbound-audit cluster --json` says of a node beside its counts."""
    ahead_s = state.clock.ahead_s
    return {
        "node": state.name,
        "epoch": None if state.epoch is None else f"{state.epoch:016x}",
        "digest": in_hex(state.replica.tree.digest),
        "gaps": state.gaps,
        "snapshots": state.snapshots,
        "dropped": state.dropped,
        "bytes": state.bytes,
        "version": state.version,
        "why": state.why or None,
        "clock_ahead_s": None if ahead_s is None else round(ahead_s, 3),
        "clock_differs": state.clock.differs,
        **about_windows([replica.tree for replica in state.windows.values()]),
    }


def about_windows(copies: Sequence[WindowTrees]) -> dict[str, object]:
    """What a node has said; of this host, what it has said itself."""
    return {
        "windows": sum(len(copy.windows) for copy in copies),
        "window_hosts": sum(copy.hosts for copy in copies),
        "folded_windows": sum(copy.folded for copy in copies),
    }
