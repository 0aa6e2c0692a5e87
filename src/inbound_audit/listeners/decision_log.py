"""The decision log: one JSON line for each client that is refused, with the reason; docs/howto/decision-log.md has the
members.

    guard = Guard(listener, limits, decisions=DecisionLog(LogFile("decisions.log")))

Who decides never waits for a disk: lines wait in memory until a thread writes them, four times per second. Beyond a
number of lines per second, or if they can't be written, they are left out and counted: `{"left_out": 120}`.
"""

from __future__ import annotations

import contextlib
import json
import socket
import time
import weakref
from collections import deque
from collections.abc import Callable
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from inbound_audit.listeners.gate_reply import BUSY, CLOSING
from inbound_audit.listeners.log_sinks import LogFile, Sink
from inbound_audit.policy.reason import Reason, override_reason
from inbound_audit.policy.verdict import DENIED, LOCAL_ERROR, UNAVAILABLE, Verdict
from inbound_audit.process import BackgroundThread, ProcessLock, Stage, register

if TYPE_CHECKING:
    from inbound_audit._ipcount import Listener, Session
    from inbound_audit.listeners.gate import Gate

DEFAULT_RATE = 1000
"""Lines per second."""

MAX_WAITING = 1 << 14
"""Lines that wait to be written; beyond it they are left out."""

INTERVAL_S = 0.25
"""Seconds between two writes."""

CONNECT = "validate_connect"

_BY_A_GATE = {
    "not counted": ("uncounted", UNAVAILABLE),
    "queue full": ("busy", BUSY),
    "closing": ("closing", CLOSING),
}


class DecisionLog:
    """Writes what a guard, or several, and their gates have decided.

    Each refusal and each tarpit is a line, and with `accepted` each connection that is let in. `rate` is the most lines
    per second, at least 1. `node` is called for each write: the name of this host in the lines.

    left_out    lines that were not written, since there were too many or they could not be

    Any thread may use it; in the child of a fork what waits is the parent's. Raises ValueError.

    Lock rule: `_lock` is held for a few assignments, `_writing` for a write; the latter is taken first.
    """

    def __init__(
        self,
        sink: Sink,
        *,
        accepted: bool = False,
        rate: int = DEFAULT_RATE,
        node: Callable[[], str] = socket.gethostname,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if rate < 1:
            raise ValueError(f"rate={rate!r}: expected a number of lines per second, from 1")
        self.sink, self.accepted, self.rate = sink, accepted, rate
        self._node, self._clock = node, clock
        self._lock, self._writing = ProcessLock(), ProcessLock()
        self._gates: weakref.WeakSet[Gate] = weakref.WeakSet()
        self._closed = False
        self._begin()
        register(self, Stage.COUNTS, DecisionLog._begin, DecisionLog.close)

    def _begin(self) -> None:
        """Also in the child of a fork."""
        self._waiting: deque[tuple[Any, ...]] = deque()
        self._second, self._lines = 0, 0  # how many lines came within this second of the clock
        self.left_out = self._said = 0
        self._said_in = -1  # the second
        self._gates.clear()

    @property
    def file(self) -> str | None:
        """The path of the file; None if the lines go elsewhere."""
        return self.sink.path if isinstance(self.sink, LogFile) else None

    # ---- what is decided

    def decided(self, session: Session | None, hook: str, verdict: Verdict, reason: Reason | None) -> None:
        """A guard has an answer. Never raises, never waits. O(1)."""
        if reason is not None and reason.would_refuse is not None:
            self._decided(session, hook, reason.would_refuse, "dry run", _by(session, verdict, reason), reason)
        if not verdict.lets_in or verdict.tarpit > 0:
            done = "tarpit" if verdict.lets_in else "refused"
            self._decided(session, hook, verdict, done, _by(session, verdict, reason), reason)
        elif self.accepted and hook == CONNECT:
            self._decided(session, hook, verdict, "accepted", None, None)

    def _decided(
        self, session: Session | None, hook: str, verdict: Verdict, done: str, by: str | None, reason: Reason | None
    ) -> None:
        if self._has_room():
            peer = (None, None, 0) if session is None else (session.listener, session.remote_ip, session.remote_port)
            self._note(time.time(), *peer, done, by, hook, verdict, reason)

    def add_gate(self, gate: Gate) -> None:
        """From now on what this gate decides is written, too, until it is collected. Raises what
        `Gate._note_decisions` raises."""
        gate._note_decisions()
        self._gates.add(gate)
        self._start()

    def end_gate(self, gate: Gate) -> None:
        """A gate is closed: what it has decided by now is kept to be written."""
        with self._writing:
            if gate in self._gates:
                self._take(gate)

    def _take(self, gate: Gate) -> None:
        taken, lost = gate._take_decisions(self.rate)
        refusal = UNAVAILABLE if gate.limits is None else gate.limits.refusal
        for what, microseconds, client, port, limit, prefix, count, most in taken:
            if not self._has_room():
                continue
            peer = microseconds / 1e6, gate.listener, client, port
            if what == "overruled":
                denial = DENIED if gate.limits is None else gate.limits.denial
                decision = gate.listener.audit._decision_for(client) if client else None
                self._note(*peer, "refused", "override", CONNECT, denial, override_reason(decision))
            elif limit is None:
                by, verdict = _BY_A_GATE[what]
                self._note(*peer, "refused", by, CONNECT, verdict, None)
            else:
                done = "refused" if what == "over" else "dry run"
                self._note(*peer, done, "limit", CONNECT, refusal, Reason("limit", limit, prefix, count, most))
        with self._lock:
            self.left_out += lost

    def _has_room(self) -> bool:
        """Whether one line more may be written. Otherwise it is counted as left out."""
        second = int(self._clock())
        with self._lock:
            if second != self._second:
                self._second, self._lines = second, 0
            if self._closed or self._lines >= self.rate or len(self._waiting) >= MAX_WAITING:
                self.left_out += 1
                return False
            self._lines += 1
            return True

    def _note(self, seconds: float, listener: Listener | None, *decision: Any) -> None:
        self._waiting.append((seconds, listener, *decision))
        if self not in _thread:
            self._start()

    def _start(self) -> None:
        with contextlib.suppress(OSError, RuntimeError):  # the system has no thread to give, for now
            _thread.enter(self)

    # ---- what is written

    def flush(self, *, last: bool = False) -> None:
        """Writes what waits; `last`: and how much was left out, which it says once per second otherwise. Never
        raises."""
        with self._writing:
            for gate in list(self._gates):
                self._take(gate)
            node = self._node() if self._waiting else ""
            lines = [_line(node, *self._waiting.popleft()) for _ in range(len(self._waiting))]
            lost = self.sink.write(lines) if lines else 0
            with self._lock:
                self.left_out += lost
            if self.left_out != self._said and (last or int(self._clock()) != self._said_in):
                self._say_left_out()

    def _say_left_out(self) -> None:
        self._said_in, left_out = int(self._clock()), self.left_out
        about = {"time": _time(time.time()), "node": self._node(), "left_out": left_out - self._said}
        if not self.sink.write([json.dumps(about)]):
            self._said = left_out

    def reopen(self) -> None:
        """Opens the file anew, or connects anew. Raises OSError, and goes on as before."""
        with self._writing:
            self.sink.reopen()

    def close(self) -> None:
        """Writes what waits; what is decided afterwards is left out. Idempotent."""
        _thread.leave(self)
        with self._writing:
            if not self._closed:
                self.flush(last=True)
                self._closed = True
                self.sink.close()


def _write_all(thread: BackgroundThread) -> None:
    while thread.wait(INTERVAL_S) is not None:
        for log in thread.members:
            log.flush()


_thread = BackgroundThread("inbound_audit decisions", _write_all)


def _by(session: Session | None, verdict: Verdict, reason: Reason | None) -> str:
    if session is None:
        return "uncounted"
    if verdict is UNAVAILABLE or verdict is LOCAL_ERROR:
        return "failure"
    return "policy" if reason is None else reason.by


def _line(
    node: str,
    seconds: float,
    listener: Listener | None,
    client: str | None,
    port: int,
    done: str,
    by: str | None,
    hook: str,
    verdict: Verdict,
    reason: Reason | None,
) -> str:
    """A decision as JSON, in ASCII and in one line whatever the texts are."""
    members: dict[str, object] = {"time": _time(seconds), "node": node}
    if listener is not None:
        members |= {"service": listener.service_type, "listener": listener.name}
    members |= {"client": client, "port": port or None, "done": done, "by": by, "hook": hook}
    if reason is not None:
        members |= {name: getattr(reason, name) for name in _WHY}
    members |= {"code": verdict.code or None, "text": verdict.text or None, "tarpit": verdict.tarpit or None}
    return json.dumps({name: value for name, value in members.items() if value is not None})


_WHY = ("limit", "prefix", "count", "most", "script", "line", "why")


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
