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

    not_reloaded = "not reloaded, the old policy and certificate stay in use"

    def _prepare(self) -> None:
        settings = self._settings
        context = _certificate(settings)
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
        return super()._reloadable or self._settings.tls_cert is not None

    def _load(self, settings: Settings) -> Callable[[], None]:
        """The certificate too, and what sessions are made with."""
        context = _certificate(settings)
        use_policy = super()._load(settings)

        def use() -> None:
            self._sessions.change(
                budget=settings.budget, message_memory=settings.message_memory, hostname=settings.hostname
            )
            use_policy()
            self._sessions.present(context)

        return use


def _certificate(settings: Settings) -> ssl.SSLContext | None:
    """Raises Failure."""
    if settings.tls_cert is None:
        return None
    return Certificate(settings.tls_cert, settings.tls_key).load()
