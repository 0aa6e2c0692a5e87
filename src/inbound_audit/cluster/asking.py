"""Asks other nodes for their snapshots, on threads that may wait: the answer may never come."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

from inbound_audit.errors import ClusterError
from inbound_audit.log_limiter import LogLimiter

logger = logging.getLogger("inbound_audit.cluster")

ASK_TIMEOUT_S = 2.0
"""Seconds that a node has to send its snapshot."""

ASKING = 4
"""Snapshots that are asked for at once: a node that does not answer holds up no other."""


class Asking:
    """The requests that are on their way, one of a node at most.

    `ask(node, timeout_s)` returns the parts of an answer, which `answered(node, parts)` takes; None: there was none.
    """

    def __init__(
        self,
        ask: Callable[[str, float], list[bytes] | None],
        answered: Callable[[str, list[bytes] | None], None],
    ) -> None:
        self.nodes: set[str] = set()
        """The nodes whose snapshot is on its way."""
        self._ask = ask
        self._answered = answered
        self._threads = ThreadPoolExecutor(ASKING, "inbound_audit cluster")
        self._log = LogLimiter(logger)

    def start(self) -> None:
        """Starts the first thread: later the system may have none to give. Raises ClusterError."""
        try:
            self._threads.submit(time.monotonic)
        except RuntimeError as error:
            raise ClusterError(f"no snapshot of another node can be asked for: {error}") from None

    def ask(self, nodes: Iterable[str]) -> None:
        """Asks these, of which none is in `nodes`. Does not wait."""
        for node in nodes:
            self.nodes.add(node)
            try:
                self._threads.submit(self._ask_one, node)
            except RuntimeError as error:  # it is asked by a thread that is there, or when it is wanted again
                self.nodes.discard(node)
                self._log.report(logging.WARNING, "fewer threads ask for snapshots than may: %s", error, kind="ask")

    def close(self) -> None:
        """Asks for nothing more. Does not wait."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _ask_one(self, node: str) -> None:
        parts = None
        try:
            parts = self._ask(node, ASK_TIMEOUT_S)
        finally:
            self._answered(node, parts)
            self.nodes.discard(node)
