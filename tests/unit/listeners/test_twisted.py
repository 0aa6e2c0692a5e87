"""Twisted: its ports, over TCP of both families, TLS and Unix sockets, with factories that fail or want nothing."""

from __future__ import annotations

import concurrent.futures
import contextlib
import random
import socket
import ssl
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.support import listening
from tests.support.effort import effort
from tests.support.frameworks import authority
from tests.support.listening import Peer
from tests.support.waiting import PATIENCE, eventually

from inbound_audit import Limits
from inbound_audit.listeners import Guard

pytest.importorskip("twisted")

from twisted.internet import interfaces
from twisted.internet import ssl as twisted_ssl
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.selectreactor import SelectReactor
from twisted.protocols.policies import WrappingFactory
from twisted.protocols.tls import TLSMemoryBIOFactory
from zope.interface import implementer

from inbound_audit.listeners.adapters.twisted import CountedFactory

audit, guard = listening.audit, listening.guard


class Echo(Protocol):
    def dataReceived(self, data: bytes) -> None:
        if data == b"fail":
            raise RuntimeError("the protocol fails")
        self.transport.write(data)

    def connectionLost(self, reason: Any = None) -> None:
        self.factory.lost += 1


@implementer(interfaces.IHalfCloseableProtocol)
class HalfClosed(Echo):
    def readConnectionLost(self) -> None:
        self.transport.write(b"the last word")
        self.transport.loseConnection()

    def writeConnectionLost(self) -> None:
        pass


class Echoes(Factory):
    """Counts what it made and what was lost."""

    def __init__(self, protocol: Callable[[], Protocol] = Echo) -> None:
        self.protocol, self.made, self.lost = protocol, 0, 0

    def buildProtocol(self, addr: Any) -> Any:
        self.made += 1
        return super().buildProtocol(addr)


@contextlib.contextmanager
def reactor_of(listen: Callable[[SelectReactor], Any]) -> Iterator[Any]:
    """A reactor of its own in a thread, listening; yields the port's address."""
    reactor = SelectReactor()
    ports: list[Any] = []

    def run() -> None:
        reactor.callWhenRunning(lambda: ports.append(listen(reactor)))
        reactor.run(installSignalHandlers=False)
        for reader in list(reactor._internalReaders):
            reactor.removeReader(reader)
            reader.connectionLost(None)

    with concurrent.futures.ThreadPoolExecutor(1) as threads:
        ended = threads.submit(run)
        try:
            eventually(lambda: ports or ended.done(), "the port")
            yield ports[0].getHost()
        finally:
            reactor.callFromThread(reactor.stop)
            ended.result(PATIENCE)


@contextlib.contextmanager
def serving(factory: Any, host: str = "127.0.0.1") -> Iterator[tuple[str, int]]:
    with reactor_of(lambda reactor: reactor.listenTCP(0, factory, interface=host)) as address:
        yield host, address.port


def echo(peer: Peer, data: bytes = b"hello") -> None:
    peer.send(data)
    assert peer.socket.recv(100) == data


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_the_count_is_the_number_of_open_connections(guard: Guard, host: str) -> None:
    chance, echoes = random.Random(host), Echoes()
    with serving(CountedFactory(echoes, guard), host) as address:
        open_ones: list[Peer] = []
        for _ in range(effort(40, 100)):
            if len(open_ones) < 8 and chance.random() < 0.6:
                open_ones.append(Peer(*address))
                if chance.random() < 0.7:
                    echo(open_ones[-1])
            elif open_ones:
                leaves = open_ones.pop(chance.randrange(len(open_ones)))
                end = chance.choice(["close", "reset", "half-close", "fail"])
                if end == "half-close":
                    leaves.socket.shutdown(socket.SHUT_WR)
                elif end == "fail":
                    leaves.send(b"fail")
                leaves.reset() if end == "reset" else leaves.close()
            eventually(lambda: guard.open == guard.listener.total == len(open_ones), "the count")
        assert guard.listener.inbound_session_count(host) == len(open_ones)
        for peer in open_ones:
            peer.close()
        eventually(lambda: guard.open == 0 and echoes.lost == echoes.made, "the end of all")
    assert echoes.lost == echoes.made == guard.accepted


def test_a_peer_over_the_limit_never_reaches_the_factory(guard: Guard) -> None:
    echoes, guard.policy = Echoes(), Limits({"/32": 1})
    with serving(CountedFactory(echoes, guard, refusal=b"busy\n")) as address, Peer(*address) as first:
        echo(first)
        with Peer(*address) as second:
            assert second.rest() == b"busy\n"
        eventually(lambda: guard.open == 1, "the end of the refused one")
        assert (echoes.made, echoes.lost) == (1, 0)
        guard.policy = Limits({"/32": 2})
        with Peer(*address) as third:
            echo(third)
        first.close()
        eventually(lambda: guard.open == 0, "the end of all")


def test_peers_of_unix_sockets_have_no_host(guard: Guard, tmp_path: Any) -> None:
    """Twisted's own limit per peer raises for them (twisted/twisted issue 12183)."""
    guard.policy = Limits({"/0": 0})
    path = str(tmp_path / "socket")
    with (
        reactor_of(lambda reactor: reactor.listenUNIX(path, CountedFactory(Echoes(), guard))),
        socket.socket(socket.AF_UNIX) as peer,
    ):
        peer.settimeout(PATIENCE)
        peer.connect(path)
        peer.sendall(b"hello")
        assert peer.recv(100) == b"hello"
        assert (guard.open, guard.uncounted, guard.listener.total) == (1, 1, 0)


@pytest.mark.filterwarnings("ignore:Passing pyOpenSSL:DeprecationWarning")  # Twisted does so
@pytest.mark.parametrize("outside", [False, True], ids=["tls around", "tls inside"])
def test_a_handshake_that_never_ends_is_counted(guard: Guard, outside: bool) -> None:
    guard.policy, echoes = Limits({"/32": 2}), Echoes()
    issued = authority().issue_cert("localhost")
    pem = issued.private_key_pem.bytes() + issued.cert_chain_pems[0].bytes()
    certificate = twisted_ssl.PrivateCertificate.loadPEM(pem).options()
    client = ssl.create_default_context()
    authority().configure_trust(client)

    def listen(reactor: SelectReactor) -> Any:
        wrap = lambda factory: TLSMemoryBIOFactory(certificate, False, factory, reactor)  # noqa: E731
        factory = CountedFactory(wrap(echoes), guard) if outside else wrap(CountedFactory(echoes, guard))
        return reactor.listenTCP(0, factory, interface="127.0.0.1")

    with reactor_of(listen) as address, Peer("127.0.0.1", address.port) as silent:
        eventually(lambda: guard.open == 1, "the silent one")
        with Peer("127.0.0.1", address.port) as peer:
            peer.socket = client.wrap_socket(peer.socket, server_hostname="localhost")
            echo(peer)
            assert guard.open == 2
            with contextlib.suppress(ConnectionResetError), Peer("127.0.0.1", address.port) as refused:
                assert refused.rest() == b""  # before its handshake
            eventually(lambda: guard.refused == 1, "the refusal")
            peer.socket.close()
        eventually(lambda: guard.open == 1, "the end of both")
        with Peer("127.0.0.1", address.port) as rude:
            rude.send(b"not a handshake\r\n\r\n")
            rude.rest()
        silent.close()
        eventually(lambda: guard.open == 0, "the end of all")
    assert (guard.opened, guard.refused) == (4, 1)


@pytest.mark.parametrize("error", [True, False], ids=["raises", "wants none"])
def test_a_factory_that_makes_no_protocol_closes_the_connection(guard: Guard, error: bool) -> None:
    class None_(Factory):
        def buildProtocol(self, addr: Any) -> None:
            if error:
                raise RuntimeError("the factory fails")

    with serving(CountedFactory(None_(), guard, refusal=b"busy\n")) as address, Peer(*address) as peer:
        assert peer.rest() == b""
        eventually(lambda: guard.open == 0, "the end of the connection")
    assert guard.accepted == 1


def test_a_half_closed_connection_is_served(guard: Guard) -> None:
    with serving(CountedFactory(Echoes(HalfClosed), guard)) as address, Peer(*address) as peer:
        echo(peer)
        peer.socket.shutdown(socket.SHUT_WR)
        assert peer.rest() == b"the last word"


def test_a_reactor_that_stops_leaves_no_count(guard: Guard) -> None:
    with serving(CountedFactory(Echoes(), guard)) as address:
        peer = Peer(*address)
        echo(peer)
        assert guard.open == 1
    assert guard.open == 0
    peer.close()


def test_other_wrappers_may_lie_around_and_inside(guard: Guard) -> None:
    with serving(WrappingFactory(CountedFactory(WrappingFactory(Echoes()), guard))) as address, Peer(*address) as peer:
        echo(peer)
        assert guard.open == 1


def test_the_protocols_of_a_factory_over_tls_are_its_own(guard: Guard) -> None:
    """HTTP/2 is negotiated by what the factory offers."""

    @implementer(interfaces.IProtocolNegotiationFactory)
    class Negotiates(Factory):
        def acceptableProtocols(self) -> list[bytes]:
            return [b"h2"]

    counted = CountedFactory(Negotiates(), guard)
    assert interfaces.IProtocolNegotiationFactory.providedBy(counted)
    assert counted.acceptableProtocols() == [b"h2"]
    assert not interfaces.IProtocolNegotiationFactory.providedBy(CountedFactory(Echoes(), guard))
