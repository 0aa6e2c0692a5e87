"""What a gate logs: refusals, a full queue, sessions that are not counted, lost connections, sockets and descriptors.

At most one line each per 10 seconds. It reads the gate's figures and news, and decides nothing.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from inbound_audit.errors import InboundAuditError, cause_of
from inbound_audit.listeners.gate_reply import BUSY
from inbound_audit.log_limiter import LogLimiter
from inbound_audit.policy.verdict import UNAVAILABLE

if TYPE_CHECKING:
    from inbound_audit.listeners.gate import Gate

logger = logging.getLogger("inbound_audit.listeners")


class GateLog:
    """`refusals` is the limiter of the guard that the gate belongs to, or one of its own.

    Lock rule: that of `LogLimiter`.
    """

    def __init__(self) -> None:
        self.refusals = LogLimiter(logger)
        self._failures, self._full, self._uncounted = (LogLimiter(logger) for _ in range(3))
        self._said = 0  # refusals that a log line has reported

    def report(self, gate: Gate) -> None:
        peer, full, uncounted, error, wants_file = gate._news()
        if peer is not None:
            self._report_refusal(gate, peer)
        if full is not None:
            text = "refused %s: %d %s; the queue was full %d times"
            self._full.report(logging.WARNING, text, full, BUSY.code, BUSY.text, gate.queue_full)
        if uncounted is not None:
            self._report_uncounted(gate, uncounted)
        if error:
            text = "a gate has failed %d times, left %d listening sockets and lost %d descriptors; the last cause: %s"
            self._failures.report(logging.WARNING, text, gate.failures, gate.left, gate.lost, cause_of(error))
        if wants_file:
            try:
                gate.listener.audit._ensure_file()
            except (InboundAuditError, OSError) as failure:
                self._failures.report(logging.WARNING, "sessions are not counted: %s", failure)

    def report_end(self) -> None:
        text = "a gate is closed: other code of this process has closed a descriptor without which it can't go on"
        self._failures.report(logging.ERROR, text)

    def _report_refusal(self, gate: Gate, peer: str) -> None:
        if logger.isEnabledFor(logging.INFO) and self.refusals.admit("gate") is not None:
            verdict = UNAVAILABLE if gate.limits is None else gate.limits.refusal
            refused = gate.refused
            others, self._said = refused - self._said - 1, refused
            more = f" (and {others} more since the last such line)" if others > 0 else ""
            logger.info("refused %s: %d %s%s", peer, verdict.code, verdict.text, more)

    def _report_uncounted(self, gate: Gate, error: InboundAuditError) -> None:
        """As the guard does without a gate, in its name."""
        if gate.guard is None:
            self._uncounted.report(logging.WARNING, "a session is let in uncounted: %s", error)
            return
        gate.guard.report_uncounted(error)
        if gate.guard.refuses_when_full:
            text = "refused %s: %d %s"
            self.refusals.report(logging.INFO, text, "an uncounted peer", UNAVAILABLE.code, UNAVAILABLE.text)
