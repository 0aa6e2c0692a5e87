"""The server of `inbound-audit serve`: an SMTP factory, a certificate and a Maildir."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable, Sequence

from inbound_audit.cli import service
from inbound_audit.cli.accepting import accept_from
from inbound_audit.cli.maildir import Discard, Maildir
from inbound_audit.cli.settings import Settings
from inbound_audit.cli.tls import Certificate
from inbound_audit.listeners.smtp import SMTPFactory, protocol_factory


def run(settings: Settings) -> None:
    """Serves SMTP until a signal stops it. Raises Failure if it can't start."""
    service.run(settings, Server)


class Server(service.Service):
    """One run of `serve`. Raises Failure if the policy, the certificate or the Maildir can't be used."""

    _not_reloaded = "not reloaded, the old policy and certificate stay in use"

    def _prepare(self) -> None:
        settings = self._settings
        self._certificate = Certificate(settings.tls_cert, settings.tls_key) if settings.tls_cert else None
        context = self._certificate.load() if self._certificate else None
        self._handler = Maildir(settings.maildir) if settings.maildir else Discard()
        self._sessions: SMTPFactory = self._make_factory(context)
        self._no_gate = ""

    def close(self) -> None:
        """Ends the sessions that the event loop has left open, and waits until all messages are written."""
        super().close()
        self._handler.close()

    async def _accept(self, listening: list[socket.socket]) -> Sequence[asyncio.AbstractServer]:
        servers, self._no_gate = await accept_from(listening, self._sessions, self._settings)
        return servers

    def _describe(self) -> None:
        if self._no_gate:
            self._report.no_gate(self._no_gate)
        if self._settings.maildir is None:
            self._report.discarding()

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

    @property
    def _reloadable(self) -> bool:
        return super()._reloadable or self._certificate is not None

    def _load(self) -> Callable[[], None]:
        """The certificate too."""
        context = self._certificate.load() if self._certificate else None
        use_policy = super()._load()

        def use() -> None:
            use_policy()
            if context is not None:
                self._sessions.present(context)

        return use
