"""The supervisor of `serve --workers`: starts workers, replaces those that die, stops all, and tells of them as of one.

It has one thread, no event loop and no counts: a worker is a fork of it, at any time, and inherits nothing but what it
is to do. The supervisor holds the addresses without listening there. Each worker listens on sockets of its own beside
those of the others (SO_REUSEPORT), so that the system spreads connections over the workers that are alive. Signals are
for the supervisor: workers ignore them, and take its orders (`worker`).
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import selectors
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple, NoReturn

from inbound_audit.cli import logs, sockets, worker
from inbound_audit.cli.failure import Failure, reason
from inbound_audit.cli.report import NOTHING, Busiest, Figures, Pulse, Report, total
from inbound_audit.cli.server import LAST_WORDS, allow_many_connections
from inbound_audit.cli.settings import Settings
from inbound_audit.errors import SharedStateError
from inbound_audit.shared import View

logger = logging.getLogger("inbound_audit.serve")

SHORTEST, LONGEST = 0.1, 10.0
"""Seconds until a worker that died is replaced: doubled, up to the longest, for each that dies before it settles."""

SETTLED = 10.0
"""Seconds after which a worker that is ready counts as one that works."""

PATIENCE = 10.0
"""Seconds that a worker has to end when its sessions must be over; it is killed then."""

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

_PACKET = 1 << 18


def run(settings: Settings) -> None:
    """Serves with `settings.workers` processes until a signal stops them. Raises Failure when one cannot start."""
    if sys.platform != "linux":
        raise Failure("--workers: counts are shared on Linux alone")
    logs.set_up(settings.verbose)
    allow_many_connections()
    with contextlib.closing(Supervisor(settings)) as supervisor:
        supervisor.run()


@dataclass(eq=False)
class Child:
    """A worker as its supervisor knows it."""

    pid: int
    channel: socket.socket
    replaces: int | None
    """The worker that was there before."""
    pause: float
    """Seconds until the next one, unless this one settles."""
    ready_at: float = math.inf
    figures: Figures = NOTHING
    why: str | None = None
    """What it said kept it from starting."""

    def order(self, order: bytes) -> None:
        with contextlib.suppress(BlockingIOError, ConnectionError):  # it is stuck, or gone
            self.channel.send(order, socket.MSG_DONTWAIT)


class Due(NamedTuple):
    """A worker that is to be started at a time of the monotonic clock."""

    at: float
    pause: float
    replaces: int


@dataclass
class Round:
    """A question to all workers: `then` is called with the answers when each has answered or is gone."""

    silent: set[Child]
    then: Callable[[list[dict[str, Any]]], None]
    answers: list[dict[str, Any]] = field(default_factory=list)

    def heard(self, child: Child, *answer: dict[str, Any]) -> None:
        if child in self.silent:
            self.silent.remove(child)
            self.answers += answer
            if not self.silent:
                self.then(self.answers)


class Supervisor:
    """One run of `serve --workers`. Raises Failure when it cannot have the addresses."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._report = Report(settings.json)
        self._view: View | None = None
        # Not the default one: that is a descriptor of its own, which a fork would share with its supervisor.
        self._selector = selectors.PollSelector()
        self._wake, self._waker = socket.socketpair()
        self._held = sockets.hold(settings.listen)

        self._children: set[Child] = set()
        self._due: list[Due] = []
        self._serving = False  # all were ready, once
        self._failure: str | None = None
        self._stopping: Round | None = None
        self._stop_by = math.inf
        self._reloading: Round | None = None
        self._reload_again = False

        self._next_beat = 0.0
        self._past = NOTHING  # of workers that are gone
        self._cut = 0
        self._pulse = Pulse(self._report, self._figures, self._busiest)

    def close(self) -> None:
        """Lets go of all that it holds. A worker that is still there stops then."""
        self._selector.close()
        for child in self._children:
            child.channel.close()
        for held in (*self._held, self._wake, self._waker):
            held.close()
        self._close_view()

    def run(self) -> None:
        """Returns when all workers have ended. Raises Failure when one of the first could not start."""
        with self._listening_to_signals():
            while self._failure is None and len(self._children) < self._settings.workers:
                self._start(SHORTEST)
            while self._children or self._due:
                for key, _ in self._selector.select(max(0.0, self._next() - time.monotonic())):
                    key.data()
                self._keep_time(time.monotonic())
        if self._failure is not None:
            raise Failure(self._failure)
        if not self._settings.quiet:
            self._pulse.beat()
        self._report.stopped(self._figures(), self._cut)

    # ---- time and signals

    def _next(self) -> float:
        return min(self._next_beat, self._stop_by, *(due.at for due in self._due))

    def _keep_time(self, now: float) -> None:
        for due in [due for due in self._due if due.at <= now]:
            self._due.remove(due)
            self._start(due.pause, due.replaces)
        if self._next_beat <= now:
            self._next_beat = math.floor(now) + 1.1  # workers tell their figures at the full second
            if self._serving and not self._settings.quiet:
                self._pulse.beat()
        if self._stop_by <= now:
            self._stop_by = math.inf
            for child in self._children:
                logger.error("worker %d does not end, and is killed", child.pid)
                os.kill(child.pid, signal.SIGKILL)

    @contextlib.contextmanager
    def _listening_to_signals(self) -> Iterator[None]:
        self._wake.setblocking(False)
        self._waker.setblocking(False)
        self._selector.register(self._wake, selectors.EVENT_READ, self._signalled)
        wakeup_before = signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)
        before = [(number, signal.signal(number, _noted)) for number in SIGNALS]
        try:
            yield
        finally:
            for number, handler in before:
                signal.signal(number, handler)
            signal.set_wakeup_fd(wakeup_before)

    def _signalled(self) -> None:
        for number in self._wake.recv(4096):
            if number == signal.SIGHUP:
                self._reload()
            elif number in SIGNALS:
                self._stop(cut=self._stopping is not None)

    # ---- workers come and go

    def _start(self, pause: float, replaces: int | None = None) -> None:
        try:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with theirs:
                try:
                    pid = self._fork(ours, theirs)
                except OSError:
                    ours.close()
                    raise
        except OSError as error:
            self._not_started(f"a worker cannot be started: {reason(error)}", pause, replaces)
            return
        child = Child(pid, ours, replaces, pause)
        self._children.add(child)
        self._selector.register(ours, selectors.EVENT_READ, lambda: self._hear(child))

    def _fork(self, ours: socket.socket, theirs: socket.socket) -> int:
        """The process id of a new worker. Signals wait meanwhile: the fork would note them for the supervisor."""
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            pid = os.fork()
            if pid == 0:
                ours.close()
                self._be_a_worker(theirs, mask)
            return pid
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def _be_a_worker(self, supervisor: socket.socket, mask: Collection[int]) -> NoReturn:
        """In the fork: forgets the supervisor that it was, and never comes back to it."""
        status = 1
        try:
            signal.set_wakeup_fd(-1)
            for number in SIGNALS:
                # A terminal and a service manager send them to every process; what they mean the supervisor decides.
                signal.signal(number, signal.SIG_IGN)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            held, self._held = self._held, []
            self.close()
            status = worker.serve(self._settings, held, supervisor)
        finally:
            os._exit(status)

    def _ended(self, child: Child) -> None:
        self._selector.unregister(child.channel)
        child.channel.close()
        self._children.remove(child)
        os.kill(child.pid, signal.SIGKILL)  # as a rule it is dead; if it lives on, nobody can tell it anything any more
        status = os.waitstatus_to_exitcode(os.waitpid(child.pid, 0)[1])
        self._past = total([self._past, child.figures._replace(open=0)])
        for waiting in (self._stopping, self._reloading):
            if waiting is not None:
                waiting.heard(child)
        if self._stopping is not None:
            if status != 0 and self._failure is None:
                self._tell_of_death(child, status, None)
        elif self._serving:
            self._replace(child, status)
        else:
            self._fail(child.why or f"worker {child.pid} {_how(status)} before it was ready")

    def _replace(self, child: Child, status: int) -> None:
        now = time.monotonic()
        pause = SHORTEST if now - child.ready_at >= SETTLED else child.pause
        self._tell_of_death(child, status, pause)
        if child.why is not None:
            logger.error("worker %d could not start: %s", child.pid, child.why)
        self._due.append(Due(now + pause, min(2 * pause, LONGEST), child.pid))

    def _not_started(self, why: str, pause: float, replaces: int | None) -> None:
        if replaces is None:
            self._fail(why)
            return
        logger.error("%s; another attempt in %g s", why, pause)
        self._due.append(Due(time.monotonic() + pause, min(2 * pause, LONGEST), replaces))

    def _fail(self, why: str) -> None:
        if self._failure is None:
            self._failure = why
            self._stop(cut=True)

    # ---- what workers say

    def _hear(self, child: Child) -> None:
        try:
            packet = child.channel.recv(_PACKET)
        except ConnectionResetError:
            return  # it ended without having read all its orders: what it said before is still to come
        if not packet:
            self._ended(child)
            return
        said = json.loads(packet)
        if "total" in said:
            child.figures = Figures(**said["total"])
        match said["event"]:
            case "policy":
                self._ready(child, said["policy"])
            case "failed":
                child.why = said["why"]
            case "answered" if self._reloading is not None:
                self._reloading.heard(child, said)
            case "stopping" | "stopped" if self._stopping is not None:
                self._cut += said.get("cut", 0)
                self._stopping.heard(child, said)

    def _ready(self, child: Child, policy: str) -> None:
        child.ready_at = time.monotonic()
        if self._stopping is not None:
            return
        if self._serving:
            words = f"worker {child.pid} is there in place of {child.replaces}"
            self._report.event("restarted", words, pid=child.pid, replaces=child.replaces)
        elif len(self._children) == self._settings.workers and all(map(_is_ready, self._children)):
            self._serving = True
            names = [sockets.name_of(held) for held in self._held]
            self._report.listening(names, sorted(child.pid for child in self._children))
            self._report.policy("policy", policy)

    # ---- orders

    def _stop(self, cut: bool) -> None:
        """Lets open sessions end within the grace, or cuts them off."""
        self._due.clear()
        if self._stopping is None:
            self._stopping = Round({*self._children}, self._tell_stopping)
        self._stop_by = time.monotonic() + LAST_WORDS + PATIENCE + (0 if cut else self._settings.grace)
        for child in self._children:
            child.order(worker.CUT if cut else worker.STOP)

    def _tell_stopping(self, answers: list[dict[str, Any]]) -> None:
        count = sum(answer.get("open", 0) for answer in answers)
        if count and self._failure is None:
            self._report.stopping(count, self._settings.grace)

    def _reload(self) -> None:
        """One at a time: of signals that come meanwhile, one more is made."""
        self._reload_again = self._reloading is not None
        if self._children and self._reloading is None and self._stopping is None:
            self._reloading = Round({*self._children}, self._reloaded)
            for child in self._children:
                child.order(worker.RELOAD)

    def _reloaded(self, answers: list[dict[str, Any]]) -> None:
        self._reloading = None
        problems = Counter((*answer["problem"],) for answer in answers if answer["problem"])
        for (level, words), number in problems.items():
            those = f" (in {number} of {len(answers)} workers)" if number < len(answers) else ""
            logger.log(level, "%s%s", words, those)
        if answers and not problems and self._settings.policy is not None:
            self._report.policy("reloaded", answers[0]["policy"])
        if self._reload_again:
            self._reload()

    # ---- what it tells

    def _figures(self) -> Figures:
        return total([self._past, *(child.figures for child in self._children)])

    def _busiest(self) -> Busiest:
        assert self._settings.shared is not None
        try:
            if self._view is None:
                self._view = View(self._settings.shared)
            self._view.refresh()
            busiest = next(iter(self._view.top(1, prefixlen=self._settings.prefixlen)), None)
        except SharedStateError:
            busiest = None
        if busiest is None:
            self._close_view()  # whoever removes the directory makes the workers count in another
        return busiest

    def _close_view(self) -> None:
        view, self._view = self._view, None
        if view is not None:
            view.close()

    def _tell_of_death(self, child: Child, status: int, delay: float | None) -> None:
        words = f"worker {child.pid} {_how(status)}" + (f", another in {delay:g} s" if delay is not None else "")
        self._report.event(
            "worker",
            words,
            pid=child.pid,
            status=status if status >= 0 else None,
            signal=_name_of(-status) if status < 0 else None,
            delay=delay,
        )


def _noted(number: int, frame: object) -> None:
    """Does nothing: the number of a signal that has a handler comes through the wakeup descriptor."""


def _is_ready(child: Child) -> bool:
    return child.ready_at < math.inf


def _how(status: int) -> str:
    return f"was killed by {_name_of(-status)}" if status < 0 else f"ended with status {status}"


def _name_of(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"
