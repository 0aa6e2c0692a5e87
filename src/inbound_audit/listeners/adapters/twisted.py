"""Twisted: a wrapping factory.

    endpoint.listen(CountedFactory(site, guard))

Any factory of protocols may be wrapped, and the endpoint may have TLS.
"""

from __future__ import annotations

from typing import Any, cast

from twisted.internet.interfaces import (
    IHalfCloseableProtocol,
    IHandshakeListener,
    IProtocolNegotiationFactory,
    ISSLTransport,
)
from twisted.internet.protocol import Protocol, connectionDone
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from zope.interface import alsoProvides

from inbound_audit.listeners.admission import Admission, Refusal
from inbound_audit.listeners.guard import Guard


class CountedFactory(WrappingFactory):
    """Counts the connections of a port, and asks the policy about each before the wrapped factory.

    A refused connection is sent `refusal` (bytes, or a function from the Verdict to bytes) and closed; with TLS it is
    closed before its handshake, without a reply. A tarpit is not waited for. Peers of Unix sockets are let in
    uncounted. What wraps the transport of a connection (`transport.startTLS`, another protocol) changes nothing: the
    count ends with the connection.
    """

    def __init__(self, wrapped: Any, guard: Guard, *, refusal: Refusal = b"") -> None:
        super().__init__(wrapped)
        self.guard, self.refusal = guard, refusal
        if IProtocolNegotiationFactory.providedBy(wrapped):  # HTTP/2 over TLS
            alsoProvides(self, IProtocolNegotiationFactory)
            self.acceptableProtocols = wrapped.acceptableProtocols

    def buildProtocol(self, addr: Any) -> CountedProtocol:
        return CountedProtocol(self, addr)


class CountedProtocol(ProtocolWrapper):
    """A connection, from `makeConnection`, which comes before a handshake, to `connectionLost`.

    A wrapper, so that code which exchanges a wrapper's `wrappedProtocol` (WebSockets) exchanges nothing of this.
    """

    factory: CountedFactory
    _admission: Admission

    def __init__(self, factory: CountedFactory, address: Any) -> None:
        super().__init__(cast("Any", factory), cast("Any", Protocol()))  # what a connection is that may not stay
        self._address = address

    def makeConnection(self, transport: Any) -> None:
        # Not in `buildProtocol`: a factory of TLS around this one can't bear a None from there.
        factory, made = self.factory, None
        self._admission = factory.guard.admit(_pair(transport.getPeer()), _pair(transport.getHost()))
        try:
            if self._admission.let_in:
                made = factory.wrappedFactory.buildProtocol(self._address)
        finally:  # what that raises is logged by Twisted, which leaves the connection open
            if made is not None:
                self.wrappedProtocol = made
            super().makeConnection(transport)
            for interface in (IHalfCloseableProtocol, IHandshakeListener):
                if interface.providedBy(made):
                    alsoProvides(self, interface)
            if made is None:
                self._leave(transport)

    def readConnectionLost(self) -> None:
        self.wrappedProtocol.readConnectionLost()

    def writeConnectionLost(self) -> None:
        self.wrappedProtocol.writeConnectionLost()

    def handshakeCompleted(self) -> None:
        self.wrappedProtocol.handshakeCompleted()

    def connectionLost(self, reason: Any = connectionDone) -> None:
        try:
            super().connectionLost(reason)
        finally:
            self._admission.close()

    def _leave(self, transport: Any) -> None:
        if ISSLTransport.providedBy(transport):
            transport.abortConnection()
            return
        if not self._admission.let_in:
            transport.write(self._admission.refusal_bytes(self.factory.refusal))
        transport.loseConnection()


def _pair(address: Any) -> Any:
    """An address as `Guard.admit` takes it; those of Unix sockets have no host."""
    host = getattr(address, "host", None)
    return "" if host is None else (host, address.port)
