"""How `serve` accepts: by gates, or by the event loop where there can be none."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from collections.abc import Sequence
from typing import NamedTuple

from inbound_audit._ipcount import MAX_GATE_SOCKETS
from inbound_audit.cli.failure import Failure, reason
from inbound_audit.cli.settings import Settings
from inbound_audit.listeners.shed import Shed
from inbound_audit.listeners.smtp import BACKLOG, SMTPFactory


class Accepting(NamedTuple):
    """The servers that accept, and why no gate does; empty if one does, or if none is wanted."""

    servers: Sequence[asyncio.AbstractServer]
    no_gate: str


async def accept_from(listening: list[socket.socket], factory: SMTPFactory, settings: Settings) -> Accepting:
    """Begins to accept from sockets in the running event loop. Raises Failure if the settings need a gate and there can
    be none."""
    no_gate = ""
    if settings.gate is not False:
        try:
            return Accepting(_by_gates(listening, factory, settings.shed), no_gate)
        except OSError as error:
            no_gate = reason(error) if sys.platform == "linux" else "it needs Linux"
            if settings.gate or settings.shed is not None:
                asked = "--gate" if settings.shed is None else "--shed"
                raise Failure(f"{asked}: there can be no gate: {no_gate}; leave {asked} out") from None
    loop = asyncio.get_running_loop()
    return Accepting([await loop.create_server(factory, sock=bound, backlog=BACKLOG) for bound in listening], no_gate)


def _by_gates(
    listening: list[socket.socket], factory: SMTPFactory, refusals_per_s: int | None
) -> Sequence[asyncio.AbstractServer]:
    """Raises OSError if there can be no gate; then none is left."""
    loop = asyncio.get_running_loop()
    groups = [listening[i : i + MAX_GATE_SOCKETS] for i in range(0, len(listening), MAX_GATE_SOCKETS)]
    shed = refusals_per_s is not None and Shed(refusals_per_s)
    with contextlib.ExitStack() as undo:
        for bound in listening:
            bound.listen(BACKLOG)
        gates = [undo.enter_context(factory.gate(group, shed=shed)) for group in groups]
        servers = [gate.serve(loop, factory) for gate in gates]
        undo.pop_all()
    return servers
