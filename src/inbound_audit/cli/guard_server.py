"""The server of `inbound-audit guard`: a gate, a forwarder, and back ends that are watched."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from inbound_audit._ipcount import MAX_GATE_SOCKETS
from inbound_audit.cli import service
from inbound_audit.cli.failure import Failure, reason
from inbound_audit.cli.report import Figures
from inbound_audit.cli.settings import Settings
from inbound_audit.listeners.forward import BackEnd, Forwarder, SendProxy
from inbound_audit.listeners.forward_server import ForwardServer
from inbound_audit.listeners.gate import gate_of
from inbound_audit.listeners.gate_reply import GateRefusal, refusal_of
from inbound_audit.listeners.shed import Shed
from inbound_audit.listeners.smtp import BACKLOG
from inbound_audit.policy.verdict import UNAVAILABLE


@dataclass(frozen=True)
class Forwarding:
    """The options of `guard` that `serve` does not have. Times are in seconds."""

    back_ends: Sequence[BackEnd]
    refusal: GateRefusal
    send_proxy: SendProxy
    connect_s: float
    idle_s: float
    check_s: float
    threads: int


class GuardServer(service.Service):
    """One run of `guard`. Raises Failure if the policy can't be used, or where there can be no gate."""

    _busy = "open"

    _sessions: ForwardServer
    _served: ForwardServer | None = None

    def _prepare(self) -> None:
        given = self._forwarding
        try:
            self._forwarder = Forwarder(
                self._guard.listener,
                given.back_ends,
                threads=given.threads,
                send_proxy=given.send_proxy,
                connect_s=given.connect_s,
                idle_s=given.idle_s,
                unavailable=refusal_of(given.refusal, UNAVAILABLE, busy=True),
                backlog=BACKLOG,
            )
        except (OSError, ValueError) as error:
            raise Failure(f"cannot forward: {error}") from None

    @property
    def _forwarding(self) -> Forwarding:
        assert self._settings.forwarding is not None
        return self._settings.forwarding

    async def _accept(self, listening: list[socket.socket]) -> Sequence[asyncio.AbstractServer]:
        settings, given = self._settings, self._forwarding
        if len(listening) > MAX_GATE_SOCKETS:
            raise Failure(f"--listen: {len(listening)} sockets, and a gate accepts from at most {MAX_GATE_SOCKETS}")
        for bound in listening:
            bound.listen(BACKLOG)
        try:
            gate = gate_of(
                self._guard,
                listening,
                refusal=given.refusal,
                proxy_from=settings.proxy_from,
                shed=settings.shed is not None and Shed(settings.shed),
            )
        except OSError as error:
            raise Failure(f"cannot accept: {reason(error)}; a guard needs Linux") from None
        self._sessions = self._served = ForwardServer(
            gate,
            self._forwarder,
            self._guard,
            refusal=given.refusal,
            check_s=given.check_s,
            on_change=self._report_back_end,
        )
        return [self._sessions]

    def _report_back_end(self, back_end: BackEnd, why: str) -> None:
        state = f"down: {why}" if why else "up"
        text = f"{back_end.name} is {state}"
        self._report.event("back_end", text, back_end=back_end.name, up=not why, reason=why or None)

    def figures(self) -> Figures:
        found, served = super().figures(), self._served
        if served is None:
            return found
        return found._replace(open=found.open + served.open, accepted=found.accepted + served.accepted)

    def _load(self, settings: Settings) -> Callable[[], None]:
        use_policy = super()._load(settings)

        def use() -> None:
            self._sessions.route_to_python()
            try:
                use_policy()
            finally:  # the policy that is in use has its route, also if that is the old one
                self._sessions.route()

        return use

    def close(self) -> None:
        """Cuts off what is open still."""
        if self._served is not None:
            self._served.end()
        self._forwarder.close()
        super().close()
