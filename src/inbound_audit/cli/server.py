"""What runs behind `inbound-audit serve`: the listening sockets, the signals, and the end of it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import signal
import socket
import traceback
import weakref
from collections.abc import Iterator
from typing import Any

from inbound_audit import InboundAudit
from inbound_audit.cli import logs, sockets
from inbound_audit.cli.failure import Failure
from inbound_audit.cli.maildir import Discard, Maildir
from inbound_audit.cli.policies import Policies
from inbound_audit.cli.report import Busiest, Figures, Pulse, Report
from inbound_audit.cli.settings import Settings
from inbound_audit.cli.tls import Certificate
from inbound_audit.errors import CapacityError, SharedStateError
from inbound_audit.listeners import Guard
from inbound_audit.listeners.smtp import SMTP, protocol_factory

logger = logging.getLogger("inbound_audit.serve")

BACKLOG = 512
LAST_WORDS = 1.0
"""Seconds that a peer whose session is cut has to read why."""

Problem = tuple[int, str]
"""What kept a reload from being one: a level of `logging`'s, and words."""

_NOT_RELOADED = "not reloaded, what was loaded before stays"
_SHUTDOWN = b"421 4.3.2 service is shutting down\r\n"  # RFC 5321, 3.8


def run(settings: Settings) -> None:
    """Serves until a signal stops it. Raises Failure when it cannot start."""
    logs.set_up(settings.verbose)
    allow_many_connections()
    with parts(settings) as (audit, policies), contextlib.ExitStack() as held:
        server = held.enter_context(contextlib.closing(Server(settings, audit, policies, Report(settings.json))))
        listening = [held.enter_context(bound) for bound in sockets.bind(settings.listen)]
        asyncio.run(server.serve(listening))


@contextlib.contextmanager
def parts(settings: Settings) -> Iterator[tuple[InboundAudit, Policies]]:
    """What a server counts in and what it asks, both closed in the end. Raises Failure."""
    try:
        audit = InboundAudit(
            shared=settings.shared,
            group=settings.group,
            capacity=settings.capacity,
            monitors=settings.monitor,
            monitor_bytes=settings.monitor_bytes,
            state=settings.state,
        )
        with audit, contextlib.closing(Policies(settings)) as policies:
            audit.listener("SMTP")
            yield audit, policies
    except CapacityError as error:
        # Of shared counts it may also be the file system that is full.
        other = "another --capacity" + (" or --monitor-bytes" if settings.monitor else "")
        hint = f"choose {other}" if settings.shared is None else f"make room there, or {other}"
        raise Failure(f"{error}; {hint}") from None
    except SharedStateError as error:
        raise Failure(f"--shared: {error}") from None


def allow_many_connections() -> None:
    """Every connection is an open file, and the usual soft limit of 1,024 is far below what one process can serve."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # macOS calls it unlimited and refuses to set that
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


class Server:
    """One run of `serve`. Raises Failure when the policy, the certificate or the Maildir cannot be used."""

    def __init__(self, settings: Settings, audit: InboundAudit, policies: Policies, report: Report) -> None:
        self._settings = settings
        self._audit = audit
        self._policies = policies
        self._guard = Guard(
            audit.listener("SMTP"), policies.make(audit), when_full=settings.when_full, on_error=settings.on_error
        )
        self._certificate = Certificate(settings.tls_cert, settings.tls_key) if settings.tls_cert else None
        self._handler = Maildir(settings.maildir) if settings.maildir else Discard()
        self._report = report
        self._pulse = Pulse(report, self.figures, self.busiest)
        # aiosmtpd's servers that are there now, for the last word to each.
        self._sessions: weakref.WeakSet[SMTP] = weakref.WeakSet()

        self._stop, self._cut, self._reload_wanted = asyncio.Event(), asyncio.Event(), asyncio.Event()

    def figures(self) -> Figures:
        guard, policies = self._guard, self._policies
        return Figures(
            open=guard.open,
            opened=guard.opened,
            accepted=guard.accepted,
            refused=guard.refused,
            would_refuse=sum(policies.would_refuse.values()),
            uncounted=guard.uncounted,
            failures=guard.failures + policies.errors,
        )

    def busiest(self) -> Busiest:
        return next(iter(self._audit.top(1, prefixlen=self._settings.prefixlen)), None)

    def close(self) -> None:
        """Ends what the event loop has left open, and finishes the messages that are being written."""
        self._guard.close_all()
        self._handler.close()

    async def serve(self, listening: list[socket.socket]) -> None:
        """Accepts until it is told to stop, then lets open sessions end."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(_tell_unless_reset)
        self._obey(loop)
        factory = self._factory()
        servers = [await loop.create_server(factory, sock=bound, backlog=BACKLOG) for bound in listening]
        self._report.listening([sockets.name_of(bound) for bound in listening])
        self._report.policy("policy", self._policies.describe())
        beside = [asyncio.ensure_future(work) for work in (self._beat(), self._reload_when_told())]
        await _first(asyncio.ensure_future(self._stop.wait()), *beside)
        for server in servers:
            server.close()
        await self._finish()
        for task in beside:
            task.cancel()

    def _factory(self) -> Any:
        settings = self._settings
        more: dict[str, Any] = {"hostname": settings.hostname} if settings.hostname else {}
        return protocol_factory(
            self._handler,
            self._guard,
            proxy_from=settings.proxy_from,
            smtp_class=self._make,
            ident="ESMTP",
            tls_context=self._certificate.context if self._certificate else None,
            **more,
        )

    def _make(self, *args: Any, **kwargs: Any) -> SMTP:
        session = SMTP(*args, **kwargs)
        self._sessions.add(session)
        return session

    def _obey(self, loop: asyncio.AbstractEventLoop) -> None:
        """Orders come from now on; here they are signals."""
        loop.add_signal_handler(signal.SIGHUP, self._reload_wanted.set)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled)

    def _signalled(self) -> None:
        (self._cut if self._stop.is_set() else self._stop).set()

    async def _beat(self) -> None:
        while not self._settings.quiet:
            await asyncio.sleep(1)
            self._pulse.beat()
        await asyncio.Event().wait()

    # ---- reload

    async def _reload_when_told(self) -> None:
        while True:
            await self._reload_wanted.wait()
            self._reload_wanted.clear()
            self._reloaded(await self._reload())

    async def _reload(self) -> Problem | None:
        """Puts a new policy in force for sessions to come; those that are open end with the one that let them in."""
        try:
            if self._certificate:
                self._certificate.renew()
            if self._policies.reloadable:
                # In a thread: sessions go on while Lua compiles, and while its `init` runs.
                self._guard.policy = await asyncio.to_thread(self._policies.make, self._audit)
        except Failure as failure:
            return logging.ERROR, f"{_NOT_RELOADED}: {failure.format_message()}"
        except Exception:  # whatever a file may hold: a reload ends no service
            return logging.ERROR, f"{_NOT_RELOADED}\n{traceback.format_exc().rstrip()}"
        if not (self._policies.reloadable or self._certificate):
            return logging.WARNING, "nothing to reload: limits given by --limit stay until a restart"
        return None

    def _reloaded(self, problem: Problem | None) -> None:
        if problem:
            logger.log(problem[0], "%s", problem[1])
        elif self._policies.reloadable:
            self._report.policy("reloaded", self._policies.describe())

    # ---- the end

    async def _finish(self) -> None:
        """Waits for open sessions; when the grace is over, or at a second signal, each is told and closed."""
        settings, count = self._settings, self._guard.open
        if count:
            self._report.stopping(count, settings.grace)
        await self._until_nobody_is_left(settings.grace, self._cut)
        cut = self._guard.open
        for session in list(self._sessions):
            _dismiss(session)
        await self._until_nobody_is_left(LAST_WORDS, asyncio.Event())
        if not settings.quiet:
            self._pulse.beat()
        self._report.stopped(self.figures(), cut)

    async def _until_nobody_is_left(self, seconds: float, cut: asyncio.Event) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while self._guard.open and loop.time() < deadline and not cut.is_set():
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(cut.wait(), 0.02)


def _tell_unless_reset(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """A peer that resets is no fault of ours, wherever in asyncio or aiosmtpd nobody was left to be told of it."""
    if not isinstance(context.get("exception"), ConnectionError):
        loop.default_exception_handler(context)


async def _first(*tasks: asyncio.Future[Any]) -> None:
    """Waits until one of them is done; what it raised is raised here."""
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        task.result()


def _dismiss(session: SMTP) -> None:
    transport = session.transport
    if isinstance(transport, asyncio.WriteTransport):
        transport.write(_SHUTDOWN)
        transport.close()
