"""A forwarder in an event loop: what it waits for at its end, and what it says of descriptors that it has lost."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import cast

import pytest
from tests.support import forwarding
from tests.support.forwarding import Pairs
from tests.support.gates import Other, connect, said
from tests.support.listening import LoopThread, Script, fill
from tests.support.waiting import PATIENCE, eventually

from inbound_audit import InboundAudit, Listener, Verdict
from inbound_audit.listeners import Guard, forward_server
from inbound_audit.listeners.forward import Forwarder, SendProxy, resolve
from inbound_audit.listeners.forward_server import LOST, ForwardServer
from inbound_audit.listeners.gate import gate_of

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="a forwarder needs Linux")

audit, listener = forwarding.audit, forwarding.listener  # fixtures

BALANCERS = ("127.0.0.0/8",)
HEADER = b"PROXY TCP4 192.0.2.1 192.0.2.9 1000 25\r\n"


@dataclass
class Served:
    thread: LoopThread
    server: ForwardServer
    guard: Guard
    port: int
    behind: socket.socket
    own: Pairs

    def begin_to_stop(self, cut: bool = False) -> Future[int]:
        """How many connections will have been cut off."""

        async def stop() -> int:
            event = asyncio.Event()
            if cut:
                event.set()
            self.server.close()
            return await self.server.shut_down(PATIENCE, event)

        return asyncio.run_coroutine_threadsafe(stop(), self.thread.loop)


@contextlib.contextmanager
def served(
    listener: Listener, answer: Verdict, proxy_from: tuple[str, ...] = (), send_proxy: SendProxy = None
) -> Iterator[Served]:
    guard = Guard(listener, Script({"connect": answer}))
    own = Pairs()
    with (
        socket.create_server(("127.0.0.1", 0)) as behind,
        socket.create_server(("127.0.0.1", 0)) as listening,
        Forwarder(listener, resolve(*behind.getsockname()), send_proxy=send_proxy) as forwarder,
    ):
        own.find(behind, listening)
        behind.settimeout(PATIENCE)

        async def begin() -> ForwardServer:
            gate = gate_of(guard, [listening], proxy_from=proxy_from)
            return ForwardServer(gate, forwarder, guard, check_s=0.01)

        with LoopThread() as thread:
            port = listening.getsockname()[1]
            server = cast(ForwardServer, thread.do(begin))
            behind.accept()[0].close()  # the probe
            found = Served(thread, server, guard, port, behind, own)
            yield found
            found.begin_to_stop(cut=True).result(PATIENCE)
            assert thread.complaints == []
        guard.close_all()


def test_a_balancer_without_room_is_believed():
    """It is not counted, and its client is not, but overrides hold, and the next header names that client."""
    with InboundAudit(capacity=8192) as audit:
        kept = fill(audit.listener("SMTP"))
        audit.deny("192.0.2.1")
        with served(audit.listener("SMTP"), Verdict(), BALANCERS, send_proxy="v1") as found:
            with connect(found.port, "127.77.66.55") as client:
                client.sendall(HEADER)
                assert said(client) == b"421 4.7.0 access denied\r\n"
            assert audit.lift("192.0.2.1")
            with connect(found.port, "127.77.66.55") as client:
                client.sendall(HEADER)
                with found.behind.accept()[0] as server:
                    assert server.recv(99).startswith(b"PROXY TCP4 192.0.2.1 127.0.0.1 1000 ")
            assert found.guard.uncounted == 2
        for session in kept:
            session.close()


# ---- the end


def test_a_probe_from_before_a_client_failed_is_not_believed(listener, monkeypatch):
    changes: list[str] = []
    with served(listener, Verdict()) as found:
        (back_end,) = found.server._forwarder.back_ends
        eventually(lambda: not found.server._probed, "the end of the first probe")
        found.server._on_change = lambda _, why: changes.append(why)
        answered = asyncio.Event()
        answers = iter([""])

        async def why_unreachable(*_: object) -> str:
            why = next(answers, "it is gone")
            await answered.wait()
            return why

        async def begin() -> None:
            found.server._start_probe(back_end)

        monkeypatch.setattr(forward_server, "_why_unreachable", why_unreachable)
        found.thread.do(begin)
        found.server._forwarder.mark_down(back_end)  # as a client finds it
        found.thread.loop.call_soon_threadsafe(answered.set)
        eventually(lambda: changes == ["it is gone"], "the word that it is down")
        assert found.server._forwarder.down == (back_end,)


def test_a_stop_waits_for_a_client_in_a_tarpit(listener):
    """Which gets its verdict then."""
    with served(listener, Verdict(False, 450, "no", tarpit=0.2)) as found, connect(found.port) as client:
        eventually(lambda: found.guard.refused, "the verdict")
        stopping = found.begin_to_stop()
        assert said(client) == b"450 4.7.0 no\r\n"
        assert stopping.result(PATIENCE) == 0


def test_a_stop_waits_for_a_header_that_has_begun(listener):
    with served(listener, Verdict(), BALANCERS) as found, connect(found.port) as client:
        client.sendall(HEADER[:10])
        eventually(lambda: found.server.stop() == 1, "the connection")
        stopping = found.begin_to_stop()
        client.sendall(HEADER[10:] + b"hello")
        with found.behind.accept()[0] as server:
            assert server.recv(5) == b"hello"
        client.close()
        assert stopping.result(PATIENCE) == 0


@pytest.mark.parametrize("proxy_from", [(), BALANCERS], ids=["a tarpit", "a header"])
def test_a_second_signal_cuts_off_who_waits(audit, listener, proxy_from):
    with served(listener, Verdict(tarpit=3600), proxy_from) as found, connect(found.port) as client:
        eventually(lambda: found.server.stop() == 1, "the connection")
        assert found.begin_to_stop(cut=True).result(PATIENCE) == 1
        assert said(client) == b""
        eventually(lambda: audit.total() == found.server.stop() == 0, "the end of the count")


# ---- descriptors that other code closes


@pytest.mark.parametrize("lost", Pairs.NAMES)
def test_a_forwarder_that_is_lost_is_logged_once_and_its_counts_end(audit, listener, caplog, lost):
    with served(listener, Verdict()) as found:
        with connect(found.port) as client, found.behind.accept()[0] as server:
            client.sendall(b"hello")
            assert server.recv(5) == b"hello"
            other = Other("nothing")
            other.take([found.own.number[lost]])
            eventually(lambda: LOST in caplog.messages, "the line")
            with connect(found.port) as late, contextlib.suppress(ConnectionResetError):
                assert said(late) == b""  # there is no room for it
            eventually(lambda: audit.total() == 1, "the end of the late one")
        eventually(lambda: audit.total() == found.guard.open == 0, "the end of the count")
        assert caplog.messages.count(LOST) == 1
        other.end()
