"""The server that `inbound-audit milter` runs."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from typing import Any

from inbound_audit.cli import service
from inbound_audit.listeners.milter import MilterFactory

BACKLOG = 512
"""Connections that wait in the kernel until they are accepted."""


class MilterServer(service.Service):
    """One run of `milter`. Raises Failure if the policy can't be used."""

    def _prepare(self) -> None:
        self._sessions: MilterFactory = MilterFactory(self._guard)

    async def _accept(self, listening: list[socket.socket]) -> Sequence[asyncio.AbstractServer]:
        loop = asyncio.get_running_loop()
        servers: list[asyncio.AbstractServer] = []
        for bound in listening:
            create: Any = loop.create_unix_server if bound.family == socket.AF_UNIX else loop.create_server
            servers.append(await create(self._sessions, sock=bound, backlog=BACKLOG))
        return servers
