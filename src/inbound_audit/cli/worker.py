"""One worker of `serve --workers`: a server in a process of its own, which hears and tells its supervisor alone.

The two ends of a socket are all that they have in common. An order is a packet with its name. What a worker tells is a
packet with a JSON object: the events that `Report` makes, and two more: "failed", why it could not start, and
"answered", what became of a reload.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
import time
from collections.abc import Sequence

from inbound_audit import InboundAudit
from inbound_audit.cli import sockets
from inbound_audit.cli.failure import Failure
from inbound_audit.cli.policies import Policies
from inbound_audit.cli.report import Busiest, Report
from inbound_audit.cli.server import Problem, Server, parts
from inbound_audit.cli.settings import Settings

logger = logging.getLogger("inbound_audit.serve")

STOP, CUT, RELOAD = b"stop", b"cut", b"reload"

_MOST = 10_000
"""Characters of a text that is told: a packet has to fit into the socket's buffer."""


def serve(settings: Settings, held: Sequence[socket.socket], supervisor: socket.socket) -> int:
    """Serves at the addresses of `held` until the supervisor says stop, or is gone.

    Returns the exit status of the process; raises nothing.
    """
    told = Told(supervisor)
    try:
        with parts(settings) as (audit, policies), contextlib.ExitStack() as own:
            worker = own.enter_context(contextlib.closing(Worker(settings, audit, policies, told, supervisor)))
            listening = [own.enter_context(bound) for bound in sockets.beside(held)]
            for place in held:
                place.close()
            asyncio.run(worker.serve(listening))
    except Failure as failure:
        told.event("failed", "", why=failure.format_message()[:_MOST])
    except BaseException:
        logger.exception("a worker failed")
    else:
        return 0
    return 1


class Told(Report):
    """What a report would print goes to the supervisor, as it is. When that is gone nobody is told any more."""

    def __init__(self, supervisor: socket.socket) -> None:
        super().__init__(as_json=True)
        self._supervisor = supervisor

    def event(self, event: str, text: str, **details: object) -> None:
        # A supervisor that reads nothing holds up no session: of the figures the next will do as well.
        flags = socket.MSG_DONTWAIT if event == "second" else 0
        with contextlib.suppress(BlockingIOError, ConnectionError):
            self._supervisor.send(json.dumps({"event": event, **details}).encode(), flags)


class Worker(Server):
    """A Server whose orders come from a supervisor; when that is gone, so is the reason to accept."""

    def __init__(
        self, settings: Settings, audit: InboundAudit, policies: Policies, report: Report, supervisor: socket.socket
    ) -> None:
        super().__init__(settings, audit, policies, report)
        self._supervisor = supervisor

    def busiest(self) -> Busiest:
        """Left to the supervisor: one answer is enough for all, and no session waits for it there."""
        return None

    def _obey(self, loop: asyncio.AbstractEventLoop) -> None:
        loop.add_reader(self._supervisor, self._ordered, loop)

    def _ordered(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            order = self._supervisor.recv(16)
        except ConnectionResetError:
            return  # it ended without having read all: what it said before is still to come
        if order == RELOAD:
            self._reload_wanted.set()
            return
        self._stop.set()
        if order == CUT:
            self._cut.set()
        elif not order:
            loop.remove_reader(self._supervisor)

    async def _beat(self) -> None:
        """At the full seconds of a clock that all processes share: the sums are then of one moment."""
        while True:
            await asyncio.sleep(1 - time.monotonic() % 1)
            self._pulse.beat()

    def _reloaded(self, problem: Problem | None) -> None:
        told = problem and (problem[0], problem[1][:_MOST])
        self._report.event("answered", "", policy=self._policies.describe(), problem=told)
