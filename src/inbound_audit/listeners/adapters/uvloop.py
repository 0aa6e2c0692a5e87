"""uvloop: an event loop that takes counted sockets. A server in it needs nothing else.

    uvicorn.Config(app, loop="inbound_audit.listeners.adapters.uvloop:Loop")
    asyncio.Runner(loop_factory=Loop)

uvloop accepts by descriptor, beside the socket's own `accept`. So a gate accepts (`listeners.gate`): such a loop needs
Linux.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from typing import Any

import uvloop

from inbound_audit.listeners.aio import counted
from inbound_audit.listeners.gate import gate_of
from inbound_audit.listeners.gate_server import GateServer
from inbound_audit.listeners.sockets import CountedListeningSocket


class Loop(uvloop.Loop):
    """uvloop's event loop, whose `create_server` serves what a gate has let in if `sock` is a counted socket.

    Of the other arguments `backlog` and those of TLS count then, and `wait_closed` does not wait for connections.
    Raises what `Gate` raises.
    """

    takes_counted_sockets = True

    async def create_server(  # type: ignore[override]
        self, protocol_factory: Callable[[], asyncio.BaseProtocol], *arguments: Any, sock: Any = None, **named: Any
    ) -> asyncio.AbstractServer:
        if not isinstance(sock, CountedListeningSocket):
            return await super().create_server(protocol_factory, *arguments, sock=sock, **named)
        guard, tls = sock.guard, {name: value for name, value in named.items() if name.startswith("ssl")}
        sock.listen(named.get("backlog", 100))
        refusal = None if tls.get("ssl") else sock.refusal
        listening = socket.socket(sock.family, sock.type, sock.proto, os.dup(sock.fileno()))
        try:
            gate = gate_of(guard, [listening], refusal=refusal, linger="drain")
        except BaseException:
            listening.close()
            raise
        return _Server(sock, gate, self, counted(protocol_factory, guard, refusal=sock.refusal, idle_s=None), **tls)


class _Server(GateServer):
    def __init__(self, sock: CountedListeningSocket, *arguments: Any, **tls: Any) -> None:
        self._sock = sock
        super().__init__(*arguments, **tls)

    def close(self) -> None:
        super().close()
        self._sock.close()
