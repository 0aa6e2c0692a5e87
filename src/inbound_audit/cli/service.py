"""What `serve` and `milter` have in common: listening sockets, signals, reload and stop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

import click

from inbound_audit import InboundAudit, Limits
from inbound_audit._ipcount import OwnFile, parse_monitor
from inbound_audit.cli import logs, memory, privileges, sockets
from inbound_audit.cli.decision_log import decision_log, reopen
from inbound_audit.cli.failure import Failure
from inbound_audit.cli.policies import Policies
from inbound_audit.cli.report import Busiest, Figures, PeriodicReport, Report
from inbound_audit.cli.settings import Settings, reloaded
from inbound_audit.errors import CapacityError, MonitorError, SharedStateError
from inbound_audit.listeners import Guard
from inbound_audit.listeners.pending import stop_accepting

logger = logging.getLogger("inbound_audit.serve")

_T = TypeVar("_T")

SWITCH_S = 0.0005

_NOTHING_TO_RELOAD = (
    "nothing to reload: limits of the command line stay until a restart; write them into a file (--config) to change "
    "them while this runs"
)

RESTART_FOR = "not reloaded, restart for: %s"

Problem = tuple[int, str]
"""Why a reload failed: a level of `logging`, and a message."""


class Sessions(Protocol):
    """The sessions of a server, as their factory ends them."""

    def stop(self) -> int:
        """Closes those outside of a transaction. Returns how many are inside of one."""

    async def shut_down(self, grace: float, cut: asyncio.Event) -> int:
        """`stop`, then closes all after `grace` seconds, or when `cut` is set. Returns how many were inside a
        transaction."""


def run(
    settings: Settings,
    kind: Callable[[Settings, InboundAudit, Policies, Report], Service],
    listens: Callable[[tuple[sockets.Endpoint, ...]], list[socket.socket]] = sockets.bind,
) -> None:
    """Serves until a signal stops it; `kind` makes the server, `listens` its sockets. Raises Failure if it can't
    start."""
    logs.set_up(settings.verbose, settings.json)
    allow_many_connections()
    keep_other_threads_short()
    with contextlib.ExitStack() as held:
        report = held.enter_context(contextlib.closing(Report(settings.json)))
        settings = privileges.become_user(settings)
        listening = [held.enter_context(bound) for bound in listens(settings.listen)]
        privileges.restrict(settings)
        audit, policies = held.enter_context(parts(settings))
        server = held.enter_context(contextlib.closing(kind(settings, audit, policies, report)))
        asyncio.run(server.serve(listening))


@contextlib.contextmanager
def parts(settings: Settings) -> Iterator[tuple[InboundAudit, Policies]]:
    """The audit and the policies of a server, both closed at the end. Raises Failure or click.UsageError."""
    policies = Policies(settings)
    try:
        audit = InboundAudit(
            shared=settings.shared,
            group=settings.group if settings.shared is not None else None,  # with --user it may be given alone
            capacity=settings.capacity,
            monitors=policies.monitors(),
            monitor_bytes=settings.monitor_bytes,
            state=settings.state,
        )
        with audit, contextlib.closing(policies):
            audit.listener(settings.service, settings.listener)
            yield audit, policies
    except CapacityError as error:
        # With shared counts the file system may be full.
        other = "another --capacity, such as 1G" + (" or --monitor-bytes" if settings.monitor else "")
        hint = f"choose {other}" if settings.shared is None else f"make room there, or {other}"
        raise Failure(f"{error}; {hint}") from None
    except MonitorError as error:
        raise click.UsageError(f"--monitor: {error}") from None
    except SharedStateError as error:
        raise Failure(f"--shared: {error}") from None


def allow_many_connections() -> None:
    """Raises the soft limit of open files: each connection is one, and the usual 1,024 are too few."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # macOS reports "unlimited" and refuses to set it
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def keep_other_threads_short() -> None:
    """While a thread reads a list or loads a policy, the event loop waits for Python after each call to the system: for
    `SWITCH_S` from now on, and not for the usual 5 ms."""
    sys.setswitchinterval(SWITCH_S)


class Service:
    """One run of a command that serves: an audit, a guard, and a policy that can be exchanged.

    Raises Failure if the policy can't be used. A server derives from it, and makes its own parts in `_prepare`.
    """

    not_reloaded = "not reloaded, the old policy stays in use"

    _busy = "in a mail transaction"
    """What a stop lets end, in the report."""

    _sessions: Sessions

    def __init__(self, settings: Settings, audit: InboundAudit, policies: Policies, report: Report) -> None:
        self._settings = settings
        self._audit = audit
        self._policies = policies
        self._decisions = decision_log(settings, audit)
        self._guard = Guard(
            audit.listener(settings.service, settings.listener),
            policies.make(audit),
            when_full=settings.when_full,
            on_error=settings.on_error,
            decisions=self._decisions,
        )
        self._report = report
        self._periodic = PeriodicReport(report, self.figures, self.busiest)
        self._stop, self._cut, self._reload_wanted = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._reloads = 0
        self._prepare()

    def _prepare(self) -> None:
        """Makes what serves: `_sessions`, and what else the server needs. Raises Failure."""
        raise NotImplementedError

    async def _accept(self, listening: list[socket.socket]) -> Sequence[asyncio.AbstractServer]:
        """Begins to accept. Raises Failure."""
        raise NotImplementedError

    def _describe(self) -> None:
        """Reports once, after the addresses, what else is to be known of this run."""

    def figures(self) -> Figures:
        guard, policies = self._guard, self._policies
        return Figures(
            open=guard.open,
            opened=guard.opened,
            accepted=guard.accepted,
            refused=guard.refused,
            messages=guard.received,
            would_refuse=sum(policies.would_refuse.values()),
            uncounted=guard.uncounted,
            failures=guard.failures + policies.errors,
            unlogged=0 if self._decisions is None else self._decisions.left_out,
        )

    def busiest(self) -> Busiest:
        return next(iter(self._audit.top(1, prefixlen=self._settings.prefixlen)), None)

    def close(self) -> None:
        """Ends the sessions that the event loop has left open, and writes what was decided."""
        self._guard.close_all()
        if self._decisions is not None:
            self._decisions.close()

    async def serve(self, listening: list[socket.socket]) -> None:
        """Accepts until `_stop` is set, then lets open mail transactions end."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(_log_unless_reset)
        self._receive_orders(loop)
        servers = await self._accept(listening)
        self._report.listening([sockets.name_of(bound) for bound in listening])
        self._describe()
        self._report.policy("policy", self._policies.describe())
        giving_back = memory.give_back(lambda: (self._guard.opened, self._guard.open, self._reloads))
        work = (self._report_each_second(), self._beat(), self._reload_on_order(), giving_back)
        background = [asyncio.ensure_future(one) for one in work]
        await _first(asyncio.ensure_future(self._stop.wait()), *background)
        for server in servers:
            await stop_accepting(server)
        await self._finish()
        for task in background:
            task.cancel()

    def _receive_orders(self, loop: asyncio.AbstractEventLoop) -> None:
        """Starts to receive orders; here they are signals."""
        loop.add_signal_handler(signal.SIGHUP, self._reload_wanted.set)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled)

    def _signalled(self) -> None:
        (self._cut if self._stop.is_set() else self._stop).set()

    async def _report_each_second(self) -> None:
        while True:
            await asyncio.sleep(1)
            self._state_served()
            if not self._settings.quiet:
                self._periodic.write()

    def _state_served(self) -> None:
        """Shows `inbound-audit metrics` the figures; other processes forget them when this one has ended."""
        OwnFile(self._audit).state_served(self.figures()[1:])

    async def _beat(self) -> None:
        """Shows whoever watches over this process that its loop runs."""
        while self._report.beat_s is not None:
            self._report.alive()
            await asyncio.sleep(self._report.beat_s)
        await asyncio.Event().wait()

    # ---- reload

    async def _reload_on_order(self) -> None:
        while True:
            await self._reload_wanted.wait()
            self._reload_wanted.clear()
            self._reloaded(await self._reload())
            self._reloads += 1

    async def _reload(self) -> Problem | None:
        """Loads what can be reloaded, all or nothing. Open sessions keep the policy that accepted them.

        In a thread: sessions go on while files are read, the script compiles and its `init` runs.
        """
        try:
            # A thread of this reload alone: an order that found no thread is not carried out later.
            with ThreadPoolExecutor(1, "inbound_audit reload") as thread:
                settings, kept = await _started(thread, self._fresh)
                use = await _started(thread, lambda: self._load(settings))
            use()
            self._settings = settings
            logs.set_up(settings.verbose, settings.json)
        except Failure as failure:
            return logging.ERROR, f"{self.not_reloaded}: {failure.format_message()}"
        except Exception:  # whatever the file contains, the server goes on
            return logging.ERROR, f"{self.not_reloaded}\n{traceback.format_exc().rstrip()}"
        if not self._reloadable:
            return logging.WARNING, _NOTHING_TO_RELOAD
        if kept:
            logger.warning(RESTART_FOR, ", ".join(kept))
        return None

    @property
    def _reloadable(self) -> bool:
        return self._policies.reloadable or self._settings.source is not None or self._decisions is not None

    def _fresh(self) -> tuple[Settings, list[str]]:
        """The settings of the configuration file as it is now, if there is one, and the keys that need a restart.

        Raises Failure.
        """
        return reloaded(self._settings)

    def _load(self, settings: Settings) -> Callable[[], None]:
        """Loads what can be reloaded, in a thread. Returns what puts it to use, in the loop. Raises Failure."""
        if self._decisions is not None:
            reopen(self._decisions)
        if settings is self._settings and not self._policies.reloadable:
            return lambda: None
        policies = self._policies
        self._add_monitors(settings)
        policy = policies.load(settings, self._audit)
        if isinstance(policy, Limits):
            policy.prepare(self._audit)
        asked = policies.asked(settings, policy)

        def use() -> None:
            self._guard.choose(when_full=settings.when_full, on_error=settings.on_error)
            self._guard.policy = asked
            policies.use(settings, policy)

        return use

    def _add_monitors(self, settings: Settings) -> None:
        """Those that are there stay. Raises Failure if there is no room for more."""
        present = {parse_monitor(monitor) for monitor in self._audit.monitors}
        lacking = [one for one in self._policies.monitors(settings) if parse_monitor(one) not in present]
        try:
            if lacking:
                self._audit.add_monitors(lacking)
        except (CapacityError, MonitorError) as error:
            raise Failure(f"--monitor: {error}") from None

    def _reloaded(self, problem: Problem | None) -> None:
        if problem:
            logger.log(problem[0], "%s", problem[1])
        elif self._policies.reloadable or self._settings.source is not None:
            self._report.policy("reloaded", self._policies.describe())

    # ---- the end

    async def _finish(self) -> None:
        """Closes idle sessions, and waits for open mail transactions until the grace is over or `_cut` is set."""
        settings = self._settings
        self._report.stopping(self._sessions.stop(), settings.grace, self._busy)
        cut = await self._sessions.shut_down(settings.grace, self._cut)
        if not settings.quiet:
            self._periodic.write()
        self._report.stopped(self.figures(), cut)


def _started(thread: ThreadPoolExecutor, job: Callable[[], _T]) -> asyncio.Future[_T]:
    """The result of a job in a thread. Raises Failure if the thread can't be started."""
    try:
        return asyncio.get_running_loop().run_in_executor(thread, job)
    except RuntimeError as error:
        raise Failure(str(error)) from None


def _log_unless_reset(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Logs an exception of the event loop, unless a peer has reset its connection: that is not an error here."""
    if not isinstance(context.get("exception"), ConnectionError):
        loop.default_exception_handler(context)


async def _first(*tasks: asyncio.Future[Any]) -> None:
    """Waits until one of the tasks has ended; raises what that task raised."""
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        task.result()
