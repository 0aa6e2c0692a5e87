"""The door of one server: counts a connection in, asks the policy about it, and counts it out exactly once."""

from __future__ import annotations

import logging
import traceback
import warnings
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from inbound_audit.errors import AddressError, InboundAuditError
from inbound_audit.log_limiter import LogLimiter
from inbound_audit.policy.base import Choice, ConnectPolicy, evaluate
from inbound_audit.policy.verdict import ACCEPT, UNAVAILABLE, Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from inbound_audit._ipcount import Listener, Session

logger = logging.getLogger("inbound_audit.listeners")

Refusal = bytes | Callable[[Verdict], bytes]
"""What a refused peer is sent: bytes, or what a function makes of the Verdict."""


class Admission:
    """One connection that came to a guard, from accept to close.

    `session` is its accept construct, None when it is not counted. `policy` is the one that was in force when it came:
    a reload in between does not change who is told of its end. An admission that is collected open is closed and warns
    (`ResourceWarning`), as its session would.
    """

    __slots__ = ("__weakref__", "_guard", "policy", "session", "verdict")

    def __init__(self, guard: Guard, session: Session | None, verdict: Verdict = ACCEPT) -> None:
        self._guard: Guard | None = guard
        self.policy = guard.policy
        self.session = session
        self.verdict = verdict

    @property
    def closed(self) -> bool:
        return self._guard is None

    @property
    def let_in(self) -> bool:
        """What the last `ask` came to. A verdict that says "disconnect" lets nobody in, whatever else it says."""
        return self.verdict.lets_in

    def ask(self) -> Verdict:
        """Asks the policy whether the connection may stay, and counts the answer. Never raises.

        A refusal is a rejection of the client in the audit's windows, as one of `hook` is.
        """
        guard = self._guard
        if guard is None:
            return self.verdict
        if self.session is not None and self.policy is not None:
            self.verdict = guard._consult(self, "validate_connect")
        if self.let_in:
            guard.accepted += 1
        else:
            guard.refused += 1
            self._count_rejection()
            self.report(logging.INFO, "refused %s: %d %s", self.peer, self.verdict.code, self.verdict.text)
        return self.verdict

    def hook(self, name: str, *args: object) -> Verdict:
        """Asks a further hook of the policy; ACCEPT when it has none or the session is not counted. Never raises."""
        if self._guard is None or self.session is None:
            return ACCEPT
        verdict = self._guard._consult(self, name, *args)
        if not verdict.lets_in:
            self._count_rejection()
        return verdict

    def record_reception(self) -> None:
        """A message of this connection was accepted: counts it for the client in the audit's windows. Never raises."""
        if self.session is not None:
            self.session.record_reception()

    def _count_rejection(self) -> None:
        if self.session is not None:
            self.session.record_rejection()

    def capabilities(self) -> tuple[Sequence[str], Sequence[str]]:
        """The ESMTP capabilities that the policy adds and removes for this session. Never raises."""
        ask = getattr(self.policy, "capabilities", None)
        if ask is None or self._guard is None or self.session is None:
            return (), ()
        try:
            added, removed = ask(self.session)
        except Exception as error:
            self._guard._failed("capabilities", self, error)
            return (), ()
        return added, removed

    def rebind(self, remote: Any) -> None:
        """The real client became known: the count moves there. Never raises.

        Where the arena is full the connection is counted no more, and `when_full` decides.
        """
        guard = self._guard
        if guard is None or self.session is None:
            return
        try:
            self.session.rebind(remote)
        except InboundAuditError as error:
            self.session.close()
            self.session = None
            self.verdict = guard._not_counted(error)

    def farewell(self, refusal: Refusal) -> bytes:
        """What the peer is to be sent now that it is refused; nothing if that can't be made. Never raises."""
        try:
            farewell = refusal(self.verdict) if callable(refusal) else refusal
            if not isinstance(farewell, bytes):
                raise TypeError(f"a refusal was made that is no bytes: {farewell!r}")
        except Exception as error:
            if self._guard is not None:
                self._guard._failed("the refusal", self, error)
            return b""
        return farewell

    def report(self, level: int, message: str, *args: object) -> None:
        """Tells of a refusal in the log, once a burst."""
        if self._guard is not None:
            self._guard.refusals.report(level, message, *args)

    @property
    def peer(self) -> str:
        """The peer's address as text, for a log line."""
        return "an uncounted peer" if self.session is None else self.session.remote_addr

    def close(self) -> None:
        """Ends the session. Idempotent, never raises; any thread may call it."""
        guard = self._guard
        # Of two threads that close at once, the one that takes the entry out is the one that closes.
        if guard is None or guard._live.pop(id(self), None) is None:
            return
        self._guard = None
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

    def __del__(self) -> None:
        if self._guard is not None and id(self) in self._guard._live:
            peer = self.peer
            self.close()
            warnings.warn(f"the connection of {peer} was dropped without being closed", ResourceWarning, stacklevel=1)


class Guard:
    """Counts the connections of one server in its listener, and asks a policy about each.

    `policy` may be exchanged while the server runs: later connections get the new one. `when_full` says what happens
    to a connection for which the listener's arena has no room, `on_error` what a policy that raises or answers
    something else than a Verdict amounts to: "accept" (the default: a guard never brings a server down) or "refuse".
    Connections without an address (Unix sockets) are let in and not counted.

    Use one guard for what one thread accepts and what is stopped together, be it on one socket or several. Guards may
    share a listener and a policy: what is counted together is the listener's. The counters are written by the thread
    that accepts; any thread may read them.

    opened     connections that came
    accepted   of these, let in; refused: turned away; neither: still waiting to be known (PROXY), or gone before
    uncounted  without an address, or without room
    failures   questions that the policy failed to answer
    open       connections that have come and not ended
    """

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
        self.opened = self.accepted = self.refused = self.uncounted = self.failures = 0
        self.refusals = LogLimiter(logger)
        self._room = LogLimiter(logger)
        self._errors = LogLimiter(logger)
        # Weak, so that a connection whose server forgot it can still be collected, and is then counted out.
        self._live: dict[int, weakref.ref[Admission]] = {}

    @property
    def open(self) -> int:
        return len(self._live)

    def enter(self, remote: Any, local: Any = None) -> Admission:
        """Counts a connection in. The policy is asked by `Admission.ask`, now or when the client is known.

        `remote` and `local` are what getpeername() and getsockname() say. Never raises.
        """
        self.opened += 1
        session, verdict = None, ACCEPT
        try:
            session = self.listener.session(remote, local)
        except AddressError:
            self.uncounted += 1
        except InboundAuditError as error:
            verdict = self._not_counted(error)
        admission = Admission(self, session, verdict)
        self._live[id(admission)] = weakref.ref(admission)
        return admission

    def admit(self, remote: Any, local: Any = None) -> Admission:
        """`enter`, then `ask`."""
        admission = self.enter(remote, local)
        admission.ask()
        return admission

    def close_all(self) -> None:
        """Ends every session that is still open: for a server whose event loop is gone, and its connections with it."""
        for reference in list(self._live.values()):
            admission = reference()
            if admission is not None:
                admission.close()

    def _not_counted(self, error: InboundAuditError) -> Verdict:
        self.uncounted += 1
        verdict = self._full_verdict
        self._room.report(logging.WARNING, "a session is %s uncounted: %s", _deed(verdict), error)
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
            logging.ERROR, "%s failed for %s, which is %s:\n%s", hook, admission.peer, _deed(verdict), _Traceback(error)
        )
        return verdict


def _chosen(setting: str, choice: str) -> Verdict:
    if choice not in ("accept", "refuse"):
        raise ValueError(f"{setting}={choice!r}: neither 'accept' nor 'refuse'")
    return ACCEPT if choice == "accept" else UNAVAILABLE


def _deed(verdict: Verdict) -> str:
    return "let in" if verdict else "refused"


class _Traceback:
    """An exception as it is told in a log; put into words only if the line is written at all."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def __str__(self) -> str:
        return "".join(traceback.format_exception(self._error)).rstrip()
