"""The supervisor of `serve --workers`: starts workers, replaces those that die, stops them, and sums their reports.

It has one thread, no event loop and no counts, so it can fork a worker at any time; the worker inherits only its
settings and addresses. The supervisor binds the addresses without listening there. Each worker listens on its own
sockets at the same addresses (SO_REUSEPORT), and the system spreads connections over the live workers. From a socket of
systemd all of them accept. Signals are for the supervisor: workers ignore them, and receive its orders (`worker`).
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import sched
import selectors
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import Any, NoReturn

from inbound_audit.cli import logs, privileges, sockets, worker
from inbound_audit.cli.failure import Failure, reason
from inbound_audit.cli.report import NOTHING, Busiest, Figures, PeriodicReport, Report, total
from inbound_audit.cli.server import Server
from inbound_audit.cli.service import RESTART_FOR, allow_many_connections, keep_other_threads_short
from inbound_audit.cli.settings import Settings, reloaded
from inbound_audit.errors import SharedStateError
from inbound_audit.listeners.smtp import STOP_TIMEOUT_S
from inbound_audit.shared import View

logger = logging.getLogger("inbound_audit.serve")

MIN_PAUSE_S, MAX_PAUSE_S = 0.1, 10.0
"""Seconds until a dead worker is replaced: doubled, up to the maximum, for each that dies before it is stable."""

STABLE_AFTER_S = 10.0
"""Seconds after which a worker that is ready counts as stable."""

KILL_TIMEOUT_S = 10.0
"""Seconds that a worker has to end after its sessions must have ended; then it is killed."""

START_TIMEOUT_S = 300.0
"""Seconds that a worker may be silent until it is ready: a policy may load large lists."""

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

_PACKET = 1 << 18


def run(settings: Settings) -> None:
    """Serves with `settings.workers` processes until a signal stops them. Raises Failure if one can't start."""
    if sys.platform != "linux":
        raise Failure("--workers: counts are shared on Linux only")
    logs.set_up(settings.verbose, settings.json)
    allow_many_connections()
    keep_other_threads_short()
    with contextlib.closing(Supervisor(settings)) as supervisor:
        supervisor.run()


@dataclass(eq=False)
class Child:
    """The supervisor's state of a worker."""

    pid: int
    channel: socket.socket
    replaces: int | None
    """The process id of the worker that it replaces."""
    pause: float
    """Seconds until its replacement starts, unless this worker becomes stable."""
    ready_at: float = math.inf
    heard_at: float = field(default_factory=time.monotonic)
    """When it last sent anything; infinite once it was killed for its silence."""
    figures: Figures = NOTHING
    why: str | None = None
    """Why it could not start, or failed, in its own words."""
    no_gate: str = ""
    """Why it accepts without a gate."""
    no_order: str = ""
    """Why it took no order, for a message."""

    def order(self, order: bytes, *files: int) -> None:
        """Sends an order, with descriptors. A worker that does not get it is killed: it would go on as if there was
        none."""
        try:
            socket.send_fds(self.channel, [order], files, socket.MSG_DONTWAIT)
        except OSError as error:
            self.no_order = f", and took no order: {reason(error)}"
            if not isinstance(error, ConnectionError):  # usually it has ended, which its channel says
                logger.error("worker %d takes no order and is killed: %s", self.pid, reason(error))
            os.kill(self.pid, signal.SIGKILL)


@dataclass
class Broadcast:
    """An order to all workers: `then` is called with their answers when each has answered or ended."""

    silent: set[Child]
    then: Callable[[list[dict[str, Any]]], None]
    answers: list[dict[str, Any]] = field(default_factory=list)

    def answered(self, child: Child, *answer: dict[str, Any]) -> None:
        if child in self.silent:
            self.silent.remove(child)
            self.answers += answer
            if not self.silent:
                self.then(self.answers)


class Supervisor:
    """One run of `serve --workers`. Raises Failure if the addresses can't be bound."""

    def __init__(self, settings: Settings) -> None:
        self._report = Report(settings.json)
        self._settings = settings = privileges.become_user(settings)
        self._view: View | None = None
        # Not the default selector: its descriptor would be shared between a fork and its supervisor.
        self._selector = selectors.PollSelector()
        self._wake, self._waker = socket.socketpair()
        self._held = sockets.hold(settings.listen)

        self._timers = sched.scheduler(time.monotonic)
        self._children: set[Child] = set()
        self._pending_starts: list[sched.Event] = []
        self._serving = False  # all workers have been ready once
        self._failure: str | None = None
        self._stopping: Broadcast | None = None
        self._reloading: Broadcast | None = None
        self._reload_again = False
        self._fresh, self._kept = settings, list[str]()

        self._last_check = time.monotonic()
        self._past = NOTHING  # figures of workers that have ended
        self._cut = 0
        self._periodic = PeriodicReport(self._report, self._figures, self._busiest)

    def close(self) -> None:
        """Closes all descriptors. A worker that still runs then stops."""
        self._selector.close()
        for child in self._children:
            child.channel.close()
        for held in (*self._held, self._wake, self._waker):
            held.close()
        self._report.close()
        self._close_view()

    def run(self) -> None:
        """Returns when all workers have ended. Raises Failure if one of the first could not start."""
        with self._listening_to_signals():
            while self._failure is None and len(self._children) < self._settings.workers:
                self._start(MIN_PAUSE_S)
            self._report_each_second()
            self._beat()
            while self._children or self._pending_starts:
                for key, _ in self._selector.select(self._timers.run(blocking=False)):
                    key.data()
        if self._failure is not None:
            raise Failure(self._failure)
        if not self._settings.quiet:
            self._periodic.write()
        self._report.stopped(self._figures(), self._cut)

    # ---- time and signals

    def _report_each_second(self) -> None:
        # Workers send their figures at the full second.
        self._timers.enterabs(math.floor(time.monotonic()) + 1.1, 0, self._report_each_second)
        self._kill_silent()
        if self._serving and not self._settings.quiet:
            self._periodic.write()

    def _beat(self) -> None:
        """Shows the service manager that this loop runs."""
        if self._report.beat_s is not None:
            self._timers.enter(self._report.beat_s, 0, self._beat)
            self._report.alive()

    def _kill_silent(self) -> None:
        """Kills the workers that hang or were stopped: they keep their sockets, and new connections would wait."""
        now = time.monotonic()
        late, self._last_check = now - self._last_check > 3, now
        for child in self._children if self._stopping is None else ():
            if late:  # this process was stopped itself, and has not read what they have sent
                child.heard_at = max(child.heard_at, now)
            silent_s = now - child.heard_at
            if silent_s > (self._settings.worker_timeout if _is_ready(child) else START_TIMEOUT_S):
                logger.error("worker %d has been silent for %d s and is killed", child.pid, silent_s)
                child.heard_at = math.inf
                os.kill(child.pid, signal.SIGKILL)

    def _kill_all(self) -> None:
        for child in self._children:
            logger.error("worker %d does not end and is killed", child.pid)
            os.kill(child.pid, signal.SIGKILL)

    @contextlib.contextmanager
    def _listening_to_signals(self) -> Iterator[None]:
        self._wake.setblocking(False)
        self._waker.setblocking(False)
        self._selector.register(self._wake, selectors.EVENT_READ, self._signalled)
        wakeup_before = signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)
        before = [(number, signal.signal(number, _ignored)) for number in SIGNALS]
        try:
            yield
        finally:
            for number, handler in before:
                signal.signal(number, handler)
            signal.set_wakeup_fd(wakeup_before)

    def _signalled(self) -> None:
        for number in _received(self._wake) or b"":
            if number == signal.SIGHUP:
                self._reload()
            elif number in SIGNALS:
                self._stop(cut=self._stopping is not None)

    # ---- workers come and go

    def _start(self, pause: float, replaces: int | None = None) -> None:
        with contextlib.ExitStack() as undo:
            try:
                ours, theirs = map(undo.enter_context, socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET))
                pid = self._fork(ours, theirs)
            except OSError as error:
                self._not_started(f"a worker cannot be started: {reason(error)}", pause, replaces)
                return
            undo.pop_all()
            theirs.close()
        child = Child(pid, ours, replaces, pause)
        self._children.add(child)
        self._selector.register(ours, selectors.EVENT_READ, lambda: self._receive(child))

    def _fork(self, ours: socket.socket, theirs: socket.socket) -> int:
        """Returns the process id of a new worker. Signals are blocked meanwhile: the fork would swallow them."""
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
        """Turns the fork into a worker; never returns."""
        status = 1
        try:
            signal.set_wakeup_fd(-1)
            for number in SIGNALS:
                # A terminal and a service manager send them to every process; only the supervisor acts on them.
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
        os.kill(child.pid, signal.SIGKILL)  # usually it is dead; if not, it can no longer receive orders
        status = os.waitstatus_to_exitcode(os.waitpid(child.pid, 0)[1])
        self._past = total([self._past, child.figures._replace(open=0)])
        for waiting in (self._stopping, self._reloading):
            if waiting is not None:
                waiting.answered(child)
        if self._stopping is not None:
            if status != 0 and self._failure is None:
                self._report_death(child, status, None)
        elif self._serving:
            self._replace(child, status)
        else:
            self._fail(child.why or f"worker {child.pid} {_how(status)} before it was ready{child.no_order}")

    def _replace(self, child: Child, status: int) -> None:
        pause = MIN_PAUSE_S if time.monotonic() - child.ready_at >= STABLE_AFTER_S else child.pause
        self._report_death(child, status, pause)
        if child.why is not None:
            logger.error("worker %d %s: %s", child.pid, "failed" if _is_ready(child) else "could not start", child.why)
        self._start_after(pause, child.pid)

    def _not_started(self, why: str, pause: float, replaces: int | None) -> None:
        if replaces is None:
            self._fail(why)
            return
        logger.error("%s; another attempt in %g s", why, pause)
        self._start_after(pause, replaces)

    def _start_after(self, pause: float, replaces: int) -> None:
        def start() -> None:
            self._pending_starts.remove(due)
            self._start(min(2 * pause, MAX_PAUSE_S), replaces)

        due = self._timers.enter(pause, 0, start)
        self._pending_starts.append(due)

    def _fail(self, why: str) -> None:
        if self._failure is None:
            self._failure = why
            self._stop(cut=True)

    # ---- what workers send

    def _receive(self, child: Child) -> None:
        packet = _received(child.channel)
        if not packet:
            if packet is not None:
                self._ended(child)
            return
        child.heard_at = max(child.heard_at, time.monotonic())
        event = json.loads(packet)
        if "total" in event:
            child.figures = Figures(**event["total"])
        match event["event"]:
            case "policy":
                self._ready(child, event["policy"])
            case "no_gate":
                child.no_gate = event["reason"]
            case "failed":
                child.why = event["why"]
            case "answered" if self._reloading is not None:
                self._reloading.answered(child, event)
            case "stopping" | "stopped" if self._stopping is not None:
                self._cut += event.get("cut", 0)
                self._stopping.answered(child, event)

    def _ready(self, child: Child, policy: str) -> None:
        child.ready_at = time.monotonic()
        if self._stopping is not None:
            return
        if self._serving:
            text = f"worker {child.pid} replaces {child.replaces}"
            self._report.event("restarted", text, pid=child.pid, replaces=child.replaces)
            if child.no_gate:
                self._report.no_gate(child.no_gate)
        elif len(self._children) == self._settings.workers and all(map(_is_ready, self._children)):
            self._serving = True
            names = [sockets.name_of(held) for held in self._held]
            self._report.listening(names, sorted(child.pid for child in self._children))
            if reasons := sorted(filter(None, (child.no_gate for child in self._children))):
                self._report.no_gate(reasons[0])
            if self._settings.maildir is None:
                self._report.discarding()
            self._report.policy("policy", policy)

    # ---- orders

    def _stop(self, cut: bool) -> None:
        """Orders all workers to let open mail transactions end within the grace, or to cut them off."""
        while self._pending_starts:
            self._timers.cancel(self._pending_starts.pop())
        if self._stopping is None:
            self._stopping = Broadcast({*self._children}, self._report_stopping)
        self._timers.enter(STOP_TIMEOUT_S + KILL_TIMEOUT_S + (0 if cut else self._settings.grace), 0, self._kill_all)
        for child in self._children:
            child.order(worker.CUT if cut else worker.STOP)

    def _report_stopping(self, answers: list[dict[str, Any]]) -> None:
        if self._failure is None:
            self._report.stopping(sum(answer.get("open", 0) for answer in answers), self._settings.grace)

    def _reload(self) -> None:
        """Orders a reload. Signals that come during a reload cause one more."""
        self._reload_again = self._reloading is not None
        if self._reloading is not None or self._stopping is not None:
            return
        if not self._read_settings():
            return
        if not self._children:  # the next one starts in a moment
            self._reloaded([])
            return
        try:
            with contextlib.ExitStack() as held:
                files = [held.enter_context(worker.file_of(self._fresh))] if self._settings.source else []
                self._reloading = Broadcast({*self._children}, self._reloaded)
                for child in self._children:
                    child.order(worker.RELOAD, *files)
        except OSError as error:  # the file in memory could not be made
            logger.error("%s: %s", Server.not_reloaded, reason(error))

    def _read_settings(self) -> bool:
        """Reads the configuration file, if there is one. Returns whether the workers may have what it says."""
        try:
            self._fresh, self._kept = reloaded(self._settings)
        except Failure as failure:
            logger.error("%s: %s", Server.not_reloaded, failure.format_message())
            return False
        return True

    def _reloaded(self, answers: list[dict[str, Any]]) -> None:
        self._reloading = None
        if not answers and self._stopping is None:
            logger.warning("nothing is reloaded: no worker runs, and each one that starts loads the files itself")
        problems = Counter((*answer["problem"],) for answer in answers if answer["problem"])
        for (level, message), number in problems.items():
            share = f" (in {number} of {len(answers)} workers)" if number < len(answers) else ""
            logger.log(level, "%s%s", message, share)
        if not problems:
            self._use_settings()
        if answers and not problems and (self._settings.policy is not None or self._settings.source is not None):
            self._report.policy("reloaded", answers[0]["policy"])
        if self._reload_again:
            self._reload()

    def _use_settings(self) -> None:
        """The workers that start from now on have the new settings, too."""
        self._settings = self._fresh
        logs.set_up(self._settings.verbose, self._settings.json)
        if self._kept:
            logger.warning(RESTART_FOR, ", ".join(self._kept))

    # ---- the report

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
            self._close_view()  # if the directory was removed, the workers count in another one
        return busiest

    def _close_view(self) -> None:
        view, self._view = self._view, None
        if view is not None:
            view.close()

    def _report_death(self, child: Child, status: int, delay: float | None) -> None:
        text = f"worker {child.pid} {_how(status)}" + (f", another in {delay:g} s" if delay is not None else "")
        self._report.event(
            "worker",
            text,
            pid=child.pid,
            status=status if status >= 0 else None,
            signal=_name_of(-status) if status < 0 else None,
            delay=delay,
        )


def _ignored(number: int, frame: object) -> None:
    """Does nothing: a signal with a Python handler is written to the wakeup descriptor."""


def _received(readable: socket.socket) -> bytes | None:
    """What has come; None if that can't be read now, and the selector will say so again.

    A worker that has ended with unread orders is an error once; what it sent before is still to come.
    """
    try:
        return readable.recv(_PACKET)
    except OSError as error:
        logger.debug("nothing is read: %s", reason(error))
        return None


def _is_ready(child: Child) -> bool:
    return child.ready_at < math.inf


def _how(status: int) -> str:
    return f"was killed by {_name_of(-status)}" if status < 0 else f"ended with status {status}"


def _name_of(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"
