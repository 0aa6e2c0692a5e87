"""The servers of `inbound-audit milter` and `policyd`: what mail servers ask."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence

from inbound_audit.cli import service
from inbound_audit.cli.settings import Settings
from inbound_audit.listeners.mail_server import MailServers
from inbound_audit.listeners.milter import MilterFactory
from inbound_audit.listeners.policy_delegation import PolicyServers

BACKLOG = 512
"""Connections that wait in the kernel until they are accepted."""


class MailServerService(service.Service):
    """What mail servers ask. A class that derives from it makes `_sessions`."""

    _sessions: MailServers

    async def _accept(self, listening: list[socket.socket]) -> Sequence[asyncio.AbstractServer]:
        loop = asyncio.get_running_loop()
        # `create_unix_server` would remove the path at the end, which may belong to systemd (from Python 3.13 on).
        return [await loop.create_server(self._sessions, sock=bound, backlog=BACKLOG) for bound in listening]


class MilterServer(MailServerService):
    """One run of `milter`. Raises Failure if the policy can't be used."""

    def _prepare(self) -> None:
        self._sessions = MilterFactory(self._guard)


class PolicyService(MailServerService):
    """One run of `policyd`. Raises Failure if the policy can't be used."""

    def _prepare(self) -> None:
        self._sessions: PolicyServers = PolicyServers(self._guard, records=self._settings.record)

    def _load(self, settings: Settings) -> Callable[[], None]:
        use_policy = super()._load(settings)

        def use() -> None:
            use_policy()
            self._sessions.records = settings.record

        return use
