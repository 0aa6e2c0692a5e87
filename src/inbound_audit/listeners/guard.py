"""The guard of one server: counts a connection, asks the policy about it, and ends its count exactly once."""

from __future__ import annotations

import contextlib
import logging
import socket
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from inbound_audit import inquiries
from inbound_audit.errors import AddressError, InboundAuditError, named_keywords
from inbound_audit.listeners.admission import Admission, TracebackText
from inbound_audit.listeners.gate_rules import is_native
from inbound_audit.listeners.inquiry import decides_by, would_decide
from inbound_audit.log_limiter import LogLimiter
from inbound_audit.policy.base import Choice, ConnectPolicy, evaluate
from inbound_audit.policy.reason import override_reason
from inbound_audit.policy.verdict import ACCEPT, DENIED, UNAVAILABLE, Verdict

if TYPE_CHECKING:
    from inbound_audit._ipcount import Listener, Session
    from inbound_audit.inquiries import Answer
    from inbound_audit.listeners.decision_log import DecisionLog
    from inbound_audit.listeners.gate import Gate

logger = logging.getLogger("inbound_audit.listeners")


class Guard:
    """Counts the connections of one server in its listener, and asks a policy about each.

    An override of the audit (`InboundAudit.deny`, `allow`) decides whatever the policy says: who is denied is refused
    before the policy is asked, who is allowed is let in after that.

    `policy` may be exchanged while the server runs: later connections get the new one. `when_full` decides about a
    connection for which the listener's arena has no room, unless it is denied; `on_error` about one for which the
    policy raises or returns something other than a Verdict: "accept" (the default: a guard never brings a server down)
    or "refuse". Connections without an address (Unix sockets) are accepted and not counted; those with an address that
    can't be read are refused.

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

    `decisions` gets each decision, also those of the guard's gates.

    With a gate (`listeners.gate`) the figures are those of both: a connection that waits in the gate is opened, and
    neither accepted nor refused.

    Raises ValueError for another choice than "accept" and "refuse", and what the policy's `prepare` raises.
    """

    @named_keywords
    def __init__(
        self,
        listener: Listener,
        policy: ConnectPolicy | None = None,
        *,
        when_full: Choice = "accept",
        on_error: Choice = "accept",
        decisions: DecisionLog | None = None,
    ) -> None:
        self.listener = listener
        self.decisions = decisions
        self._policy = self._prepared(policy)
        self._denial = _denial_of(policy)
        self._gates: list[Gate] = []
        self.choose(when_full=when_full, on_error=on_error)
        self.accepted = self.received = self.failures = 0
        self._opened = self._refused = self._uncounted = 0
        self.refusals = LogLimiter(logger)
        self._room = LogLimiter(logger)
        self._errors = LogLimiter(logger)
        self.handler_errors = LogLimiter(logger)
        # Weak, so that a connection that its server forgot can be collected, which ends its session.
        inquiries.note(listener.audit, self)
        self._live: dict[int, weakref.ref[Admission]] = {}

    @property
    def open(self) -> int:
        return len(self._live) + sum(gate.waiting for gate in self._gates)

    @property
    def opened(self) -> int:
        return self._opened + sum(gate.opened for gate in self._gates)

    @property
    def refused(self) -> int:
        return self._refused + sum(gate.refused + gate.queue_full for gate in self._gates)

    @property
    def uncounted(self) -> int:
        return self._uncounted + sum(gate.uncounted for gate in self._gates)

    @property
    def policy(self) -> ConnectPolicy | None:
        return self._policy

    @policy.setter
    def policy(self, policy: ConnectPolicy | None) -> None:
        self._policy = self._prepared(policy)
        self._denial = _denial_of(policy)
        for gate in self._gates:
            gate.follow(policy)

    def choose(self, *, when_full: Choice, on_error: Choice) -> None:
        """Exchanges both choices; a gate follows when the policy is set next. Raises ValueError, and exchanges none."""
        full, error = _chosen("when_full", when_full), _chosen("on_error", on_error)
        self._full_verdict, self._error_verdict = full, error

    @property
    def on_error(self) -> Verdict:
        """What becomes of a connection about which the policy can't be asked."""
        return self._error_verdict

    @property
    def refuses_when_full(self) -> bool:
        return not self._full_verdict

    def would_decide(self, address: str) -> Answer:
        """What becomes of a new connection from that address now (`inbound-audit why`). Raises AddressError."""
        return self._with_log(would_decide(self.listener, self.policy, address))

    def decides_by(self) -> Answer:
        """The policy, its limits and the decision log, for those who look at the audit from outside."""
        return self._with_log(decides_by(self.listener, self.policy))

    def _with_log(self, answer: Answer) -> Answer:
        return answer if self.decisions is None else {**answer, "log": self.decisions.file}

    def add_gate(self, gate: Gate) -> None:
        """From now on the guard's figures have those of a gate of the same listener."""
        if self.decisions is not None:
            self.decisions.add_gate(gate)
        self._gates.append(gate)

    def enter(self, remote: Any, local: Any = None) -> Admission:
        """Counts a connection. `Admission.evaluate` asks the policy, now or when the client is known.

        `remote` and `local` are what getpeername() and getsockname() return. Never raises.
        """
        return self._enter(self.listener.session, remote, local)

    def visit(self, remote: Any, local: Any = None) -> Admission:
        """`enter` for a client that another process counts, or nothing does: it is asked about, and neither counted nor
        recorded, unless its `records` is set."""
        admission = self._enter(self.listener.visit, remote, local)
        admission.records = False
        return admission

    def _enter(self, opened: Callable[[Any, Any], Session], remote: Any, local: Any) -> Admission:
        self._opened += 1
        session, uncounted, verdict = None, None, ACCEPT
        try:
            session = opened(remote, local)
        except AddressError as error:
            self._uncounted += 1
            if _is_address(remote):
                verdict = UNAVAILABLE
                self._room.report(logging.WARNING, "a peer is refused, its address can't be read: %s", error)
        except InboundAuditError as error:
            verdict, uncounted = self._not_counted(error), self._visited(remote, local)
        admission = self._admission(session, verdict)
        admission.uncounted = uncounted
        return admission

    def _visited(self, remote: Any, local: Any = None) -> Session | None:
        """A client for which there was no room, to ask overrides about; None in an audit without any."""
        with contextlib.suppress(InboundAuditError):
            return self.listener.visit(remote, local)
        return None

    def receive(
        self, session: Session | None, asked: ConnectPolicy | None = None, connection: socket.socket | None = None
    ) -> Admission:
        """A connection that a gate has let in, with its count. `Admission.evaluate` asks the policy, unless it is
        `asked`: the limits that the gate has asked. `connection` says who it is if there was no room to count it: a
        balancer, say. Never raises."""
        admission = self._admission(session, ACCEPT)
        admission.asked = asked
        # The name of a Unix socket is its peer's choice, and may look like an address.
        if session is None and connection is not None and connection.family in (socket.AF_INET, socket.AF_INET6):
            with contextlib.suppress(OSError):  # the peer has left
                admission.uncounted = self._visited(connection.getpeername())
        return admission

    def _admission(self, session: Session | None, verdict: Verdict) -> Admission:
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
        self._uncounted += 1
        self.report_uncounted(error)
        return self._full_verdict

    def report_uncounted(self, error: InboundAuditError) -> None:
        """Logs why there was no room to count a session, at most one line per interval."""
        self._room.report(logging.WARNING, "a session is %s uncounted: %s", _outcome(self._full_verdict), error)

    def consult_connect(self, admission: Admission) -> Verdict:
        """What overrides and the policy say about a connection. Never raises."""
        denial, session = self._denial, admission.session
        override = None if denial is None or session is None else session.override
        if denial is not None and override == "deny":
            return denial
        verdict = self._consult(admission, "validate_connect")
        return ACCEPT if override == "allow" else verdict

    def consult_overrides(self, admission: Admission, uncounted: Session) -> Verdict:
        """The verdict about a client that could not be counted: who is denied is refused all the same."""
        denial: Verdict = getattr(admission.policy, "denial", DENIED)
        return denial if uncounted.override == "deny" else admission.verdict

    def _prepared(self, policy: ConnectPolicy | None) -> ConnectPolicy | None:
        """A policy whose `prepare`, if it has one, was called. Raises what that raises."""
        prepare = getattr(policy, "prepare", None)
        if prepare is not None:
            prepare(self.listener.audit)
        if self.decisions is not None and policy is not None and hasattr(policy, "explains"):
            policy.explains = True
        return policy

    def _note(self, admission: Admission, hook: str, verdict: Verdict) -> None:
        """Writes a decision to the log, if there is one. Never raises."""
        if self.decisions is None:
            return
        explain, reason = getattr(admission.policy, "explain", None), None
        if admission.denied and admission.session is not None:
            reason = override_reason(admission.session.decision)
        elif explain is not None and admission.session is not None:
            try:
                reason = explain(admission.session)
            except Exception as error:
                self._failed("explain", admission, error)
        self.decisions.decided(admission.session, hook, verdict, reason)

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
            TracebackText(error),
            kind=type(error).__name__,
        )
        return verdict


def _denial_of(policy: ConnectPolicy | None) -> Verdict | None:
    """The verdict for whom an override of the audit denies. None: the policy asks about overrides itself."""
    return None if is_native(policy) else getattr(policy, "denial", DENIED)


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
