"""One worker of `serve --workers`: a server in its own process, which talks to its supervisor only.

A socket connects the two. The supervisor sends orders, one packet each, which is the order's name; with that for a
reload comes a file in memory, which has the settings if they are those of a configuration file. The worker sends
events, one packet each, which is a JSON object: the events of `Report`, and "failed" (why it could not start) and
"answered" (the result of a reload).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import pickle
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

import click

from inbound_audit import InboundAudit
from inbound_audit.cli import privileges, sockets
from inbound_audit.cli.policies import Policies
from inbound_audit.cli.report import Busiest, Report
from inbound_audit.cli.server import Server
from inbound_audit.cli.service import Problem, parts
from inbound_audit.cli.settings import Settings

logger = logging.getLogger("inbound_audit.serve")

STOP, CUT, RELOAD = b"stop", b"cut", b"reload"

_MAX_TEXT = 10_000
"""Characters of a message to the supervisor: a packet must fit into the socket's buffer."""


def serve(settings: Settings, held: Sequence[socket.socket], supervisor: socket.socket) -> int:
    """Serves at the addresses of `held` until the supervisor orders a stop, or ends.

    Returns the exit status of the process; raises nothing.
    """
    report = SupervisorReport(supervisor)
    try:
        with contextlib.ExitStack() as own:
            listening = [own.enter_context(bound) for bound in sockets.beside(held)]
            for address in held:
                address.close()
            privileges.restrict(settings)
            audit, policies = own.enter_context(parts(settings))
            worker = own.enter_context(contextlib.closing(Worker(settings, audit, policies, report, supervisor)))
            asyncio.run(worker.serve(listening))
    except click.ClickException as failure:
        report.event("failed", "", why=failure.format_message()[:_MAX_TEXT])
    except BaseException as error:
        logger.exception("a worker failed")
        report.event("failed", "", why=f"{type(error).__name__}: {error}"[:_MAX_TEXT])
    else:
        return 0
    return 1


class SupervisorReport(Report):
    """Sends the lines of a report to the supervisor as JSON; discards most once the supervisor has ended."""

    def __init__(self, supervisor: socket.socket) -> None:
        super().__init__(as_json=True)
        self.close()  # the service manager watches the supervisor alone
        self._supervisor = supervisor

    beat_s = 1.0

    def alive(self) -> None:
        self.event("alive", "")

    def event(self, event: str, text: str, **details: object) -> None:
        # Figures may be lost: a supervisor that does not read must not delay sessions, and the next figures follow.
        flags = socket.MSG_DONTWAIT if event in ("second", "alive") else 0
        try:
            self._supervisor.send(json.dumps({"event": event, **details}).encode(), flags)
        except OSError:
            if event in ("policy", "answered"):
                raise  # the supervisor waits for these: it replaces a worker that has ended


@contextlib.contextmanager
def file_of(settings: Settings) -> Iterator[int]:
    """The descriptor of a file in memory that has the settings. Raises OSError."""
    file = os.memfd_create("inbound_audit settings")
    try:
        with open(file, "wb", closefd=False) as writer:
            pickle.dump(replace(settings, source=None), writer)
        yield file
    finally:
        os.close(file)


def settings_in(file: int) -> Settings:
    """What `file_of` has written. Workers read the same file at once, so none moves its position."""
    settings: Settings = pickle.loads(os.pread(file, os.fstat(file).st_size, 0))
    return settings


class Worker(Server):
    """A Server whose orders come from a supervisor; it stops when the supervisor has ended."""

    def __init__(
        self, settings: Settings, audit: InboundAudit, policies: Policies, report: Report, supervisor: socket.socket
    ) -> None:
        super().__init__(settings, audit, policies, report)
        self._supervisor = supervisor
        self._ordered = settings

    def busiest(self) -> Busiest:
        """None: the supervisor finds it, once for all workers and without delaying a session."""
        return None

    def _receive_orders(self, loop: asyncio.AbstractEventLoop) -> None:
        loop.add_reader(self._supervisor, self._receive_order, loop)

    def _receive_order(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            order, files, _, _ = socket.recv_fds(self._supervisor, 16, 1)
        except OSError:
            return  # the loop calls again: the supervisor ended with unread packets, say, and its orders are to come
        for file in files:
            self._ordered = settings_in(file)
            os.close(file)
        if order == RELOAD:
            self._reload_wanted.set()
            return
        self._stop.set()
        if order == CUT:
            self._cut.set()
        elif not order:
            loop.remove_reader(self._supervisor)

    def _fresh(self) -> tuple[Settings, list[str]]:
        """Those that the supervisor has read last, which says what needs a restart."""
        return replace(self._ordered, source=self._settings.source), []

    async def _report_each_second(self) -> None:
        """At the full seconds of a clock that all processes share, so that the sums are of one moment."""
        while True:
            await asyncio.sleep(1 - time.monotonic() % 1)
            self._state_served()
            self._periodic.write()

    def _reloaded(self, problem: Problem | None) -> None:
        short = problem and (problem[0], problem[1][:_MAX_TEXT])
        self._report.event("answered", "", policy=self._policies.describe(), problem=short)
