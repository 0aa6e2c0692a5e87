"""socketserver: a mix-in for any TCP server class, threading and forking ones included.

    class Server(Counted, socketserver.ThreadingTCPServer): ...

    with Server(("::", 2525), Handler, guard=guard) as server:
        server.serve_forever()

A session begins with `verify_request` and ends with `shutdown_request`. In a forking server the child serves, and ends
by `os._exit` without calling anything, so the parent keeps the session until it has reaped the child.
"""

from __future__ import annotations

import os
import socket
import socketserver
import ssl
import threading
from typing import TYPE_CHECKING, Any

from inbound_audit.descriptor import Descriptor
from inbound_audit.errors import InboundAuditError
from inbound_audit.listeners.admission import Admission, Refusal
from inbound_audit.listeners.gate import Gate, gate_of
from inbound_audit.listeners.guard import Guard
from inbound_audit.listeners.sockets import local_address, send_refusal
from inbound_audit.listeners.time_limit import IDLE_S, TimeLimit

if TYPE_CHECKING:
    from inbound_audit._ipcount import Session

    _Base = socketserver.TCPServer
else:
    _Base = object

# Each request has its own thread or process, which may wait while the server accepts others.
_CONCURRENT: tuple[type, ...] = (socketserver.ThreadingMixIn,)
if hasattr(socketserver, "ForkingMixIn"):
    _CONCURRENT += (socketserver.ForkingMixIn,)


class Counted(_Base):
    """Counts the connections of a socketserver server and asks the guard's policy about each.

    `refusal` is sent to a refused peer: bytes, or a function from the Verdict to bytes. The thread or process of a
    connection waits out its tarpit; a server that serves one connection at a time does not wait. Unix stream servers
    accept every peer, uncounted.

    With `gate` a gate accepts, and refuses those that are over the policy's limits if that is a `Limits`, without
    Python (`listeners.gate`); the server gets the others as its own socket would have accepted them: with TLS if that
    is a `ssl.SSLSocket`. A gate refuses before a handshake: without a reply if the socket is one when it begins to
    listen, else in clear. A forking server can't have a gate, nor can a server with another way to accept: a socket of
    another class, or a `get_request` of a class behind this one.

    A connection that is silent for `idle_s` seconds, or that is served for `session_s`, is shut down: the handler finds
    its end, and an OSError that follows from that is not reported. None is no limit.

    If its gate is closed, by other code that closes a descriptor of it, say, a server ends: `serve_forever` and
    `handle_request` raise InboundAuditError.

    Raises TypeError for a UDP server, which has no connections, and for a server that can't have the gate; TypeError or
    ValueError for wrong seconds; and what `Gate` raises.
    """

    def __init__(
        self,
        *args: Any,
        guard: Guard,
        refusal: Refusal = b"",
        idle_s: float | None = IDLE_S,
        session_s: float | None = None,
        gate: bool = False,
        **kwargs: Any,
    ) -> None:
        if self.socket_type != socket.SOCK_STREAM:
            raise TypeError(f"{type(self).__name__} has no connections that could be counted")
        if gate:
            self._check_gate()
        self.guard = guard
        self._refusal = refusal
        self._limit = TimeLimit(idle_s=idle_s, session_s=session_s)
        self._admissions: dict[Any, Admission] = {}
        self._children: dict[int, Admission] = {}
        self._stopping = threading.Event()
        self._wants_gate = gate
        self._gate: Gate | None = None
        self._listening: socket.socket | None = None  # the gate's, which accepts in clear
        # The server's own: the gate may be closed first, and its number is another file's then.
        self._reads: Descriptor | None = None
        self._received: tuple[int, Admission] | None = None  # a descriptor from the gate; `verify_request` comes next
        super().__init__(*args, **kwargs)

    def _check_gate(self) -> None:
        name = type(self).__name__
        if hasattr(self, "active_children"):
            # Its sessions end when it reaps its children, which it does before it asks the policy itself.
            raise TypeError(f"{name} forks: it can't have a gate")
        if getattr(super().get_request, "__func__", None) is not socketserver.TCPServer.get_request:
            raise TypeError(
                f"{name} can't have a gate: a class behind Counted has a get_request of its own, which would accept "
                "beside it; write it in a class that derives from Counted, and call super().get_request() there"
            )

    def inbound_session(self, request: Any) -> Session | None:
        """The accept construct of a request, for handlers; None when it is not counted.

        In the child of a forking server the session belongs to the parent: it knows the peer, but its counts are 0.
        """
        admission = self._admissions.get(request)
        return None if admission is None else admission.session

    def server_activate(self) -> None:
        super().server_activate()
        if self._wants_gate:  # `listen` was called
            _check_accept(self.socket)
            self._listening = socket.socket(fileno=os.dup(self.socket.fileno()))
            refusal = None if isinstance(self.socket, ssl.SSLSocket) else self._refusal  # it comes before a handshake
            self._gate = gate_of(self.guard, [self._listening], refusal=refusal)
            self._reads = Descriptor(self._gate.second_fileno())

    def fileno(self) -> int:
        if self._reads is None:
            return super().fileno()
        number = self._reads.current  # before the check: other code may close it at any moment
        self._check_open()
        assert number is not None  # it stays lost once it is
        return number

    def _check_open(self) -> None:
        """Raises InboundAuditError if no connection can come from the gate any more: what is watched would be readable
        for ever, or never."""
        if self._gate is None or self._reads is None or (not self._gate.closed and self._reads.is_ours):
            return
        self._gate.report()  # why it is lost, if it is
        self._gate.close()
        raise InboundAuditError(f"{type(self).__name__} accepts no more: its gate is closed")

    def get_request(self) -> tuple[Any, Any]:
        """The next connection and its address. Raises OSError: none waits; TypeError: the gate can't accept as the
        server's new socket would; InboundAuditError: the gate is closed."""
        if self._gate is None:
            return super().get_request()
        self._end_received()
        self._check_open()
        for request, session, asked in self._gate.take_asked(1):
            admission = self.guard.receive(session, asked, request)
            self._received = request.fileno(), admission
            try:
                address = request.getpeername()
            except OSError:  # it has left; what it was is known all the same
                address = (session.remote_ip, session.remote_port) if session else ""
            return _as_accepted(self.socket, request), address
        raise BlockingIOError

    def service_actions(self) -> None:
        super().service_actions()
        self._end_received()
        self._check_open()

    def _end_received(self) -> None:
        """Ends the count of a connection that was lost between `get_request` and `verify_request`: in a handshake."""
        received, self._received = self._received, None
        if received is not None:
            received[1].close()

    def _admission_of(self, request: Any) -> Admission | None:
        """Of a request that came from the gate and was not verified yet. It may have been wrapped: the number stays."""
        received = self._received
        if received is None or received[0] != request.fileno():
            return None
        self._received = None
        return received[1]

    # serve_forever() ends if this raises, so nothing in it may raise.
    def verify_request(self, request: Any, client_address: Any) -> bool:
        if not super().verify_request(request, client_address):
            return False
        if self._children:
            self.collect_children()  # sessions of children that have ended must not count against this peer
        admission = self._admission_of(request) or self.guard.enter(client_address, local_address(request))
        self._admissions[request] = admission
        admission.evaluate()
        if admission.let_in or self._waits(admission):
            return True
        self._refuse(request, admission)
        return False

    def process_request(self, request: Any, client_address: Any) -> None:
        before = self._pids()
        super().process_request(request, client_address)
        for pid in self._pids() - before:
            self._children[pid] = self._admissions.pop(request)

    def finish_request(self, request: Any, client_address: Any) -> None:
        admission = self._admissions[request]
        if self._waits(admission):
            self._stopping.wait(admission.verdict.tarpit)
        if admission.let_in:
            with admission.time_limited(request, self._limit):
                super().finish_request(request, client_address)
        else:
            self._refuse(request, admission)

    def shutdown_request(self, request: Any) -> None:
        unverified = self._admission_of(request)
        try:
            super().shutdown_request(request)
        finally:
            admission = self._admissions.pop(request, unverified)
            if admission is not None:
                admission.close()

    def collect_children(self, **kwargs: Any) -> None:
        super().collect_children(**kwargs)  # type: ignore[misc]  # forking servers have it, and only they call this
        for pid in self._children.keys() - self._pids():
            self._children.pop(pid).close()

    def server_close(self) -> None:
        """Closes the server as its base class does, and cuts tarpits short. Children left behind are not counted."""
        self._stopping.set()
        try:
            if self._gate is not None:
                self._gate.report(last=True)
                self._gate.close()
            super().server_close()
        finally:
            reads, self._reads = self._reads, None
            if reads is not None:
                reads.close()
            if self._listening is not None:
                self._listening.close()
            self._end_received()
            while self._children:
                self._children.popitem()[1].close()

    def _pids(self) -> frozenset[int]:
        """The children that a forking server has not reaped."""
        return frozenset(getattr(self, "active_children", None) or ())

    def _waits(self, admission: Admission) -> bool:
        return admission.verdict.tarpit > 0 and isinstance(self, _CONCURRENT)

    def _refuse(self, request: Any, admission: Admission) -> None:
        send_refusal(request, admission, self._refusal)


def _check_accept(listening: Any) -> None:
    """Raises TypeError for a socket whose connections are not as `_as_accepted` makes them."""
    if getattr(type(listening), "accept", None) not in (socket.socket.accept, ssl.SSLSocket.accept):
        raise TypeError(f"a {type(listening).__name__} has an `accept` of its own, which a gate does not call")


def _as_accepted(listening: socket.socket, connection: socket.socket) -> socket.socket:
    """What the `accept` of a listening socket would have made of a connection. Raises OSError if a handshake fails, and
    TypeError; then the connection is closed."""
    try:
        _check_accept(listening)
        connection.settimeout(socket.getdefaulttimeout())
        if not isinstance(listening, ssl.SSLSocket):
            return connection
        tls: Any = listening  # as `ssl.SSLSocket.accept` does it
        return tls.context.wrap_socket(  # type: ignore[no-any-return]
            connection,
            server_side=True,
            do_handshake_on_connect=tls.do_handshake_on_connect,
            suppress_ragged_eofs=tls.suppress_ragged_eofs,
        )
    except BaseException:
        connection.close()
        raise
