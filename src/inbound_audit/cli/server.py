"""The server of `inbound-audit serve`: listening sockets, signals, reload and stop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import signal
import socket
import ssl
import sys
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import click

from inbound_audit import InboundAudit
from inbound_audit.cli import logs, memory, privileges, sockets
from inbound_audit.cli.accepting import accept_from
from inbound_audit.cli.failure import Failure
from inbound_audit.cli.maildir import Discard, Maildir
from inbound_audit.cli.policies import Policies
from inbound_audit.cli.report import Busiest, Figures, PeriodicReport, Report
from inbound_audit.cli.settings import Settings
from inbound_audit.cli.tls import Certificate
from inbound_audit.errors import CapacityError, MonitorError, SharedStateError
from inbound_audit.listeners import Guard
from inbound_audit.listeners.pending import stop_accepting
from inbound_audit.listeners.smtp import SMTPFactory, protocol_factory
from inbound_audit.policy.base import ConnectPolicy

logger = logging.getLogger("inbound_audit.serve")

_T = TypeVar("_T")

SWITCH_S = 0.0005

Problem = tuple[int, str]
"""Why a reload failed: a level of `logging`, and a message."""

_NOT_RELOADED = "not reloaded, the old policy and certificate stay in use"


def run(settings: Settings) -> None:
    """Serves until a signal stops it. Raises Failure if it can't start."""
    logs.set_up(settings.verbose)
    allow_many_connections()
    keep_other_threads_short()
    with contextlib.ExitStack() as held:
        report = held.enter_context(contextlib.closing(Report(settings.json)))
        settings = privileges.become_user(settings)
        listening = [held.enter_context(bound) for bound in sockets.bind(settings.listen)]
        privileges.restrict(settings)
        audit, policies = held.enter_context(parts(settings))
        server = held.enter_context(contextlib.closing(Server(settings, audit, policies, report)))
        asyncio.run(server.serve(listening))


@contextlib.contextmanager
def parts(settings: Settings) -> Iterator[tuple[InboundAudit, Policies]]:
    """The audit and the policies of a server, both closed at the end. Raises Failure or click.UsageError."""
    policies = Policies(settings)
    try:
        audit = InboundAudit(
            shared=settings.shared,
            group=settings.group,
            capacity=settings.capacity,
            monitors=policies.monitors(),
            monitor_bytes=settings.monitor_bytes,
            state=settings.state,
        )
        with audit, contextlib.closing(policies):
            audit.listener("SMTP")
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


class Server:
    """One run of `serve`. Raises Failure if the policy, the certificate or the Maildir can't be used."""

    def __init__(self, settings: Settings, audit: InboundAudit, policies: Policies, report: Report) -> None:
        self._settings = settings
        self._audit = audit
        self._policies = policies
        self._guard = Guard(
            audit.listener("SMTP"), policies.make(audit), when_full=settings.when_full, on_error=settings.on_error
        )
        self._certificate = Certificate(settings.tls_cert, settings.tls_key) if settings.tls_cert else None
        context = self._certificate.load() if self._certificate else None
        self._handler = Maildir(settings.maildir) if settings.maildir else Discard()
        self._factory = self._make_factory(context)
        self._report = report
        self._periodic = PeriodicReport(report, self.figures, self.busiest)
        self._stop, self._cut, self._reload_wanted = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._reloads = 0

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
        )

    def busiest(self) -> Busiest:
        return next(iter(self._audit.top(1, prefixlen=self._settings.prefixlen)), None)

    def close(self) -> None:
        """Ends the sessions that the event loop has left open, and waits until all messages are written."""
        self._guard.close_all()
        self._handler.close()

    async def serve(self, listening: list[socket.socket]) -> None:
        """Accepts until `_stop` is set, then lets open mail transactions end."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(_log_unless_reset)
        self._receive_orders(loop)
        servers, no_gate = await accept_from(listening, self._factory, self._settings)
        self._report.listening([sockets.name_of(bound) for bound in listening])
        if no_gate:
            self._report.no_gate(no_gate)
        if self._settings.maildir is None:
            self._report.discarding()
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

    def _make_factory(self, context: ssl.SSLContext | None) -> SMTPFactory:
        settings = self._settings
        return protocol_factory(
            self._handler,
            self._guard,
            proxy_from=settings.proxy_from,
            hostname=settings.hostname,
            budget=settings.budget,
            message_memory=settings.message_memory,
            ident="ESMTP",
            tls_context=context,
        )

    def _receive_orders(self, loop: asyncio.AbstractEventLoop) -> None:
        """Starts to receive orders; here they are signals."""
        loop.add_signal_handler(signal.SIGHUP, self._reload_wanted.set)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled)

    def _signalled(self) -> None:
        (self._cut if self._stop.is_set() else self._stop).set()

    async def _report_each_second(self) -> None:
        while not self._settings.quiet:
            await asyncio.sleep(1)
            self._periodic.write()
        await asyncio.Event().wait()

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
        """Loads the policy and the certificate again, both or none. Open sessions keep the policy that accepted them.

        In a thread: sessions go on while files are read, the script compiles and its `init` runs.
        """
        try:
            # A thread of this reload alone: an order that found no thread is not carried out later.
            with ThreadPoolExecutor(1, "inbound_audit reload") as thread:
                context, policy = await _started(thread, self._load)
            if policy is not None:
                self._guard.policy = policy
            if context is not None:
                self._factory.present(context)
        except Failure as failure:
            return logging.ERROR, f"{_NOT_RELOADED}: {failure.format_message()}"
        except Exception:  # whatever the file contains, the server goes on
            return logging.ERROR, f"{_NOT_RELOADED}\n{traceback.format_exc().rstrip()}"
        if not (self._policies.reloadable or self._certificate):
            return logging.WARNING, "nothing to reload: limits given by --limit stay until a restart"
        return None

    def _load(self) -> tuple[ssl.SSLContext | None, ConnectPolicy | None]:
        """What can be reloaded. Raises Failure."""
        context = self._certificate.load() if self._certificate else None
        return context, self._policies.make(self._audit) if self._policies.reloadable else None

    def _reloaded(self, problem: Problem | None) -> None:
        if problem:
            logger.log(problem[0], "%s", problem[1])
        elif self._policies.reloadable:
            self._report.policy("reloaded", self._policies.describe())

    # ---- the end

    async def _finish(self) -> None:
        """Closes idle sessions, and waits for open mail transactions until the grace is over or `_cut` is set."""
        settings = self._settings
        self._report.stopping(self._factory.stop(), settings.grace)
        cut = await self._factory.shut_down(settings.grace, self._cut)
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
