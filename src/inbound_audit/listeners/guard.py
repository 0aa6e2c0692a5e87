"""The gate of one server: counts a connection, asks the policy about it, and ends its count exactly once."""

from __future__ import annotations

import logging
import sys
import traceback
import warnings
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from inbound_audit.errors import AddressError, InboundAuditError, named_keywords
from inbound_audit.log_limiter import LogLimiter
from inbound_audit.policy.base import Choice, ConnectPolicy, evaluate
from inbound_audit.policy.verdict import ACCEPT, UNAVAILABLE, Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inbound_audit._ipcount import Listener, Session

logger = logging.getLogger("inbound_audit.listeners")

Refusal = bytes | Callable[[Verdict], bytes]
"""What a refused peer is sent: bytes, or a function from the Verdict to bytes."""


class Admission:
    """One connection of a guard, from accept to close.

    `session` is its accept construct, None when it is not counted. `policy` is the guard's policy at the time of the
    accept: a reload does not change whose `end_session` is called. An admission that is collected open is closed and
    warns (`ResourceWarning`), as its session would. Its text is the peer's address.
    """

    __slots__ = ("__weakref__", "_guard", "closed", "policy", "session", "verdict")

    def __init__(self, guard: Guard, session: Session | None, verdict: Verdict = ACCEPT) -> None:
        self._guard = guard
        self.closed = False
        self.policy = guard.policy
        self.session = session
        self.verdict = verdict

    @property
    def let_in(self) -> bool:
        """Whether the last `evaluate` accepted. A verdict with `disconnect` accepts no connection."""
        return self.verdict.lets_in

    def evaluate(self) -> Verdict:
        """Asks the policy whether the connection may stay, and records the answer. Never raises.

        A refusal is a rejection of the client in the audit's windows, as a refusal by `hook` is.
        """
        if self.closed:
            return self.verdict
        guard = self._guard
        if self.session is not None and self.policy is not None:
            self.verdict = guard._consult(self, "validate_connect")
        if self.let_in:
            guard.accepted += 1
        else:
            guard.refused += 1
            self._record_rejection()
            guard.refusals.report(logging.INFO, "refused %s: %d %s", self, self.verdict.code, self.verdict.text)
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
        if self.session is not None:
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

    def rebind(self, remote: Any) -> bool:
        """Moves the count to the real client. Never raises.

        If the arena is full the connection is no longer counted, and `when_full` decides. Returns False if `remote` is
        no address: the count has not moved then, and the caller is to close the connection.
        """
        if self.closed or self.session is None:
            return True
        try:
            self.session.rebind(remote)
        except AddressError as error:
            self.report(logging.INFO, "%s names a client that is no address: %s", self, error)
            return False
        except InboundAuditError as error:
            self.session.close()
            self.session = None
            self.verdict = self._guard._not_counted(error)
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
        report(logging.ERROR, "the handler failed for %s:\n%s", self, _Traceback(error), kind=type(error).__name__)

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


class Guard:
    """Counts the connections of one server in its listener, and asks a policy about each.

    `policy` may be exchanged while the server runs: later connections get the new one. `when_full` decides about a
    connection for which the listener's arena has no room, `on_error` about one for which the policy raises or returns
    something other than a Verdict: "accept" (the default: a guard never brings a server down) or "refuse".
    Connections without an address (Unix sockets) are accepted and not counted; those
    with an address that can't be read are refused.

    Use one guard per thread that accepts and per server that is stopped as a whole, on one socket or several. Guards
    may share a listener and a policy; connections of one listener are counted together. The counters are written by
    the thread that accepts; any thread may read them.

    opened     connections that came
    accepted   of these; neither accepted nor refused are those that wait for a PROXY header or left before it
    refused    of these
    received   messages that were accepted
    uncounted  without an address, or without room
    failures   questions on which the policy failed
    open       connections that have not ended

    Raises ValueError for another choice than "accept" and "refuse".
    """

    @named_keywords
    def __init__(
        self,
        listener: Listener,
        policy: ConnectPolicy | None = None,
        *,
        when_full: Choice = "accept",
        on_error: Choice = "accept",
    ) -> None:
        self.listener = listener
        self.policy = policy
        self._full_verdict = _chosen("when_full", when_full)
        self._error_verdict = _chosen("on_error", on_error)
        self.opened = self.accepted = self.refused = self.received = self.uncounted = self.failures = 0
        self.refusals = LogLimiter(logger)
        self._room = LogLimiter(logger)
        self._errors = LogLimiter(logger)
        self.handler_errors = LogLimiter(logger)
        # Weak, so that a connection that its server forgot can be collected, which ends its session.
        self._live: dict[int, weakref.ref[Admission]] = {}

    @property
    def open(self) -> int:
        return len(self._live)

    def enter(self, remote: Any, local: Any = None) -> Admission:
        """Counts a connection. `Admission.evaluate` asks the policy, now or when the client is known.

        `remote` and `local` are what getpeername() and getsockname() return. Never raises.
        """
        self.opened += 1
        session, verdict = None, ACCEPT
        try:
            session = self.listener.session(remote, local)
        except AddressError as error:
            self.uncounted += 1
            if _is_address(remote):
                verdict = UNAVAILABLE
                self._room.report(logging.WARNING, "a peer is refused, its address can't be read: %s", error)
        except InboundAuditError as error:
            verdict = self._not_counted(error)
        admission = Admission(self, session, verdict)
        self._live[id(admission)] = weakref.ref(admission)
        return admission

    def admit(self, remote: Any, local: Any = None) -> Admission:
        """`enter`, then `evaluate`. Never raises."""
        admission = self.enter(remote, local)
        admission.evaluate()
        return admission

    def close_all(self) -> None:
        """Ends every open session, for a server whose event loop is closed."""
        for reference in list(self._live.values()):
            admission = reference()
            if admission is not None:
                admission.close()

    def _not_counted(self, error: InboundAuditError) -> Verdict:
        self.uncounted += 1
        verdict = self._full_verdict
        self._room.report(logging.WARNING, "a session is %s uncounted: %s", _outcome(verdict), error)
        return verdict

    def _consult(self, admission: Admission, hook: str, *args: object) -> Verdict:
        try:
            return evaluate(admission.policy, hook, admission.session, *args)
        except Exception as error:
            return self._failed(hook, admission, error)

    def _failed(self, hook: str, admission: Admission, error: Exception) -> Verdict:
        self.failures += 1
        verdict = self._error_verdict
        self._errors.report(
            logging.ERROR,
            "%s failed for %s, which is %s:\n%s",
            hook,
            admission,
            _outcome(verdict),
            _Traceback(error),
            kind=type(error).__name__,
        )
        return verdict


def _chosen(setting: str, choice: str) -> Verdict:
    if choice not in ("accept", "refuse"):
        raise ValueError(f"{setting}={choice!r}: expected 'accept' or 'refuse'")
    return ACCEPT if choice == "accept" else UNAVAILABLE


def _is_address(remote: Any) -> bool:
    """Whether `remote` should be an address of IPv4 or IPv6: the peers of Unix sockets have a path, bytes or no name,
    those of other families a tuple of numbers."""
    host = remote[0] if isinstance(remote, tuple) and remote else remote
    return isinstance(host, str) and not host.startswith(("/", "\0")) and host != ""


def _outcome(verdict: Verdict) -> str:
    return "let in" if verdict else "refused"


class _Traceback:
    """An exception for a log line; formatted only if the line is written."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def __str__(self) -> str:
        return "".join(traceback.format_exception(self._error)).rstrip()
