"""One connection of a guard: its count, the policy's verdicts about it, and what is recorded and logged for it."""

from __future__ import annotations

import contextlib
import logging
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from inbound_audit.errors import AddressError, InboundAuditError
from inbound_audit.listeners.time_limit import TimeLimit, time_limited
from inbound_audit.policy.verdict import ACCEPT, DENIED, Verdict

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping, Sequence

    from inbound_audit._ipcount import Session
    from inbound_audit.listeners.guard import Guard
    from inbound_audit.policy.base import ConnectPolicy

Refusal = bytes | Callable[[Verdict], bytes]
"""What a refused peer is sent: bytes, or a function from the Verdict to bytes."""


class Admission:
    """One connection of a guard, from accept to close.

    `session` is its accept construct, None when it is not counted. `uncounted` is that of a client for which there was
    no room: overrides are asked about it. `policy` is the guard's policy at the time of the accept: a reload does not
    change whose `end_session` is called. An admission that is collected open is closed and warns (`ResourceWarning`),
    as its session would. Its text is the peer's address.
    """

    __slots__ = ("__weakref__", "_guard", "asked", "closed", "policy", "records", "session", "uncounted", "verdict")

    def __init__(self, guard: Guard, session: Session | None, verdict: Verdict = ACCEPT) -> None:
        self._guard = guard
        self.closed = False
        self.records = True  # whether refusals are rejections in the audit's windows
        self.asked: ConnectPolicy | None = None  # the policy that a gate has asked already
        self.policy = guard.policy
        self.session = session
        self.uncounted: Session | None = None
        self.verdict = verdict

    @property
    def client(self) -> Session | None:
        """The accept construct of the client, counted or not. None without an address."""
        return self.uncounted if self.session is None else self.session

    @property
    def let_in(self) -> bool:
        """Whether the last `evaluate` accepted. A verdict with `disconnect` accepts no connection."""
        return self.verdict.lets_in

    @property
    def denied(self) -> bool:
        """Whether an override of the audit has refused it, and no policy."""
        return self.verdict is getattr(self.policy, "denial", DENIED)

    def evaluate(self) -> Verdict:
        """Asks the policy whether the connection may stay, and records the answer. Never raises.

        A refusal is a rejection of the client in the audit's windows, as a refusal by `hook` is.
        """
        if self.closed:
            return self.verdict
        guard = self._guard
        if self.session is not None and (self.policy is None or self.policy is not self.asked):
            self.verdict = guard.consult_connect(self)
        elif self.uncounted is not None and self.let_in:
            self.verdict = guard.consult_overrides(self, self.uncounted)
        if self.let_in:
            guard.accepted += 1
        else:
            guard._refused += 1
            self._record_rejection()
            guard.refusals.report(logging.INFO, "refused %s: %d %s", self, self.verdict.code, self.verdict.text)
        guard._note(self, "validate_connect", self.verdict)
        return self.verdict

    ask = evaluate
    """The earlier name of `evaluate`."""

    def hook(self, name: str, *args: object) -> Verdict:
        """Asks a later hook; ACCEPT if the policy has no such hook or the session is not counted. Never raises."""
        if self.closed or self.session is None:
            return ACCEPT
        verdict = self._guard._consult(self, name, *args)
        if not verdict.lets_in:
            self._record_rejection()
        self._guard._note(self, name, verdict)
        return verdict

    def record_reception(self) -> None:
        """Records an accepted message, for the client in the audit's windows. Never raises.

        It may come after `close`: a message can be stored while its connection is lost.
        """
        self._guard.received += 1
        if self.session is not None:
            self.session.record_reception()

    count_reception = record_reception
    """The earlier name of `record_reception`."""

    def _record_rejection(self) -> None:
        if self.session is not None and self.records:
            self.session.record_rejection()

    def capabilities(self) -> tuple[Sequence[str], Sequence[str]]:
        """The ESMTP capabilities that the policy adds and removes for this session. Never raises."""
        ask = getattr(self.policy, "capabilities", None)
        if ask is None or self.closed or self.session is None:
            return (), ()
        try:
            added, removed = ask(self.session)
        except Exception as error:
            self._guard._failed("capabilities", self, error)
            return (), ()
        return added, removed

    def describe(self, attributes: Mapping[str, str]) -> None:
        """Tells the policy what a mail server knows of the client. Never raises."""
        note = getattr(self.policy, "attributes", None)
        if note is None or self.closed or self.session is None:
            return
        try:
            note(self.session, attributes)
        except Exception as error:
            self._guard._failed("attributes", self, error)

    def rebind(self, remote: Any) -> bool:
        """Moves the count to the real client. Never raises.

        If the arena is full the connection is no longer counted, and `when_full` decides. Returns False if `remote` is
        no address: the count has not moved then, and the caller is to close the connection.
        """
        if self.closed or (self.session is None and self.uncounted is None):
            return True
        try:
            if self.session is None:
                self.uncounted = self._guard.listener.visit(remote)
                return True
            self.session.rebind(remote)
            self.asked = None  # a gate has asked about another address
        except AddressError as error:
            self.report(logging.INFO, "%s names a client that is no address: %s", self, error)
            return False
        except InboundAuditError as error:
            if self.session is not None:
                self.session.close()
            self.session = None
            self.verdict = self._guard._not_counted(error)
            self.uncounted = self._guard._visited(remote)
        return True

    def refusal_bytes(self, refusal: Refusal) -> bytes:
        """The bytes for the refused peer; none if `refusal` fails. Never raises."""
        try:
            reply = refusal(self.verdict) if callable(refusal) else refusal
            if not isinstance(reply, bytes):
                raise TypeError(f"the refusal is not bytes: {reply!r}")
        except Exception as error:
            self._guard._failed("the refusal", self, error)
            return b""
        return reply

    def report(self, level: int, message: str, *args: object) -> None:
        """Logs a refusal, at most one per interval of the guard's log limiter."""
        self._guard.refusals.report(level, message, *args)

    def report_handler_error(self, error: Exception) -> None:
        """Logs that the server's own code has raised for this connection, at most one line per interval."""
        report = self._guard.handler_errors.report
        report(logging.ERROR, "the handler failed for %s:\n%s", self, TracebackText(error), kind=type(error).__name__)

    @contextlib.contextmanager
    def time_limited(self, connection: socket.socket, limit: TimeLimit) -> Iterator[None]:
        """Shuts the connection down if its time is over within the block.

        Reads then find its end, and writes fail: an OSError that follows from that ends the block, and is not raised.
        """
        with time_limited(connection, limit) as deadline:
            yield
        if deadline.over:
            self.report_time_over()

    def report_time_over(self) -> None:
        """Logs that the connection was ended for its time, at most one line per interval."""
        self.report(logging.INFO, "%s was silent or open for too long, and is cut off", self)

    @property
    def peer(self) -> str:
        """The peer's address as text, for a log line."""
        return "an uncounted peer" if self.session is None else self.session.remote_addr

    def __str__(self) -> str:
        return self.peer

    def close(self) -> None:
        """Ends the session. Idempotent, never raises; any thread may call it."""
        guard = self._guard
        # If two threads close at once, the one that takes the entry out closes.
        if self.closed or guard._live.pop(id(self), None) is None:
            return
        self.closed = True
        if self.session is None:
            return
        end_session = getattr(self.policy, "end_session", None)
        try:
            if end_session is not None:
                end_session(self.session)
        except Exception as error:
            guard._failed("end_session", self, error)
        finally:
            self.session.close()

    def __del__(self, at_exit: Callable[[], bool] = sys.is_finalizing) -> None:
        if not self.closed and id(self) in self._guard._live:
            peer = self.peer
            self.close()
            if at_exit():
                return  # the module `warnings` may be gone
            warnings.warn(f"the connection of {peer} was dropped without being closed", ResourceWarning, stacklevel=1)


class TracebackText:
    """An exception for a log line; formatted only if the line is written."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def __str__(self) -> str:
        return "".join(traceback.format_exception(self._error)).rstrip()
