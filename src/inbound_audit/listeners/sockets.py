"""Sockets whose connections are counted, for any server that calls the `accept` of a listening socket.

    listening = counted_socket(socket.create_server(("", 8000)), guard)
    web.run_app(app, sock=listening)        # aiohttp; websockets, asyncssh, uvicorn and others have such an argument

`accept` counts each connection and asks the policy; the server gets those that may stay. A session ends when the object
of its connection is closed. So it lasts as long as the connection: during a handshake of TLS, after the server has
exchanged its protocol (a WebSocket), and when the code that serves has failed.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
import os
import selectors
import socket
import ssl
from collections.abc import Callable
from typing import Any, cast

from inbound_audit.listeners.admission import Admission, Refusal
from inbound_audit.listeners.guard import Guard

MAX_REFUSED = 64
"""Connections that one call of `accept` refuses if the socket does not block: then an event loop does other work."""

POLL_S = 0.1

GuardSource = Guard | Callable[[], Guard]

_DETACHED = "a counted socket can't be detached; for TLS in a server with threads make its context by `counted_context`"


def counted_socket(listening: socket.socket, guard: GuardSource, *, refusal: Refusal = b"") -> CountedListeningSocket:
    """A listening socket in place of `listening`, which is closed without the system's socket being closed.

    `guard` is a Guard, or a function that makes one: it is called once, in the process that accepts, when that begins
    to listen. With a function of a module the socket can be sent to processes that `multiprocessing` starts; each then
    has a guard and an audit of its own.

    A refused connection is sent `refusal` (bytes, or a function from the Verdict to bytes) and closed. That comes
    before a handshake, so with TLS leave it empty. A tarpit is not waited for. If the socket blocks, `accept` goes on
    to wait for one that may stay: a server of socketserver has `listeners.threads` instead.

    Raises TypeError for a socket whose own `accept` would not be called (`ssl.SSLSocket`: give the server the
    context), ValueError for one that is no stream.
    """
    if type(listening).accept is not socket.socket.accept:
        raise TypeError(f"a {type(listening).__name__} has an `accept` of its own: give a plain socket")
    if listening.type != socket.SOCK_STREAM:
        raise ValueError(f"{listening!r}: has no connections that could be counted")
    timeout = listening.gettimeout()
    made = CountedListeningSocket(listening.family, listening.type, listening.proto, listening.detach())
    if timeout is not None:  # else nothing is set: another process may have the socket, and rely on its not blocking
        made.settimeout(timeout)
    made._source, made.refusal = guard, refusal
    return made


class CountedSocket(socket.socket):
    """A connection. Its admission is closed when it is."""

    __slots__ = ("admission",)
    admission: Admission | None

    def close(self) -> None:
        """As `socket.close`. If files of `makefile` are open, the last of them closes, which calls this again."""
        try:
            super().close()
        finally:
            _end(self)

    def detach(self) -> int:
        """Ends the count and raises TypeError: the end of the descriptor would not be seen."""
        number = super().detach()  # first: what has the descriptor too, a `SSLSocket`, is to close it alone
        if self.admission is not None:
            self.admission.close()
            raise TypeError(_DETACHED)
        return number


class CountedTLSSocket(ssl.SSLSocket):
    """What a context of `counted_context` makes of a connection: the count goes on until this object is closed. Made of
    a counted listening socket, it accepts such connections."""

    admission: Admission | None = None
    _counts: tuple[Guard, Refusal] | None = None

    @classmethod
    def _create(cls, sock: Any, *arguments: Any, **named: Any) -> CountedTLSSocket:
        """What `SSLContext.wrap_socket` calls. It closes the connection if the handshake fails."""
        admission = counts = None
        if isinstance(sock, CountedSocket):
            admission, sock.admission = sock.admission, None
        elif isinstance(sock, CountedListeningSocket):
            counts, sock._source = (sock.guard, sock.refusal), None
        try:
            made = cast("CountedTLSSocket", super()._create(sock, *arguments, **named))  # type: ignore[misc]
        except BaseException:
            if admission is not None:
                admission.close()
            raise
        made.admission, made._counts = admission, counts
        return made

    def accept(self) -> tuple[ssl.SSLSocket, Any]:
        if self._counts is None:
            return super().accept()
        connection, address = _accept(self, *self._counts)
        given = {name: getattr(self, name) for name in ("do_handshake_on_connect", "suppress_ragged_eofs")}
        return self.context.wrap_socket(connection, server_side=True, **given), address

    def close(self) -> None:
        try:
            super().close()
        finally:
            _end(self)


def counted_context(context: ssl.SSLContext) -> ssl.SSLContext:
    """The same context, whose `wrap_socket` takes counted sockets: for servers with threads. An event loop of asyncio
    does without: it has no socket object of TLS."""
    context.sslsocket_class = CountedTLSSocket
    return context


class CountedListeningSocket(socket.socket):
    """Made by `counted_socket`."""

    _source: GuardSource | None
    refusal: Refusal

    @property
    def guard(self) -> Guard:
        """The guard, made now if it was to be made by a function. Raises what that raises."""
        if not isinstance(self._source, Guard):
            if self._source is None:
                raise TypeError("the socket was detached")
            self._source = self._source()
        return self._source

    def listen(self, *backlog: int) -> None:
        _ = self.guard  # what can't be made fails here, and not at each connection
        super().listen(*backlog)

    def accept(self) -> tuple[CountedSocket, Any]:
        """The next connection that may stay, and its address. Raises OSError as `socket.accept` does."""
        return _accept(self, self.guard, self.refusal)

    def detach(self) -> int:
        """Raises TypeError: what accepts by the descriptor would count nothing."""
        number = super().detach()
        if self._source is not None:
            raise TypeError(_DETACHED)
        return number

    def fileno(self) -> int:
        """Raises TypeError in an event loop that accepts by the descriptor, and would count nothing."""
        with contextlib.suppress(RuntimeError):  # without an event loop, in a server with threads
            loop = asyncio.get_running_loop()
            if not isinstance(loop, asyncio.BaseEventLoop) and not hasattr(loop, "takes_counted_sockets"):
                raise TypeError(
                    f"{type(loop).__module__} accepts by itself and would count nothing: run the server in asyncio's "
                    "own event loop, or in inbound_audit.listeners.adapters.uvloop.Loop"
                )
        return super().fileno()

    def __reduce__(self) -> Any:
        """For the arguments of a process that `multiprocessing` starts."""
        if isinstance(self._source, Guard):
            raise TypeError("a guard stays in its process: give counted_socket a function of a module that makes one")
        from multiprocessing import reduction

        return _received, (reduction.DupFd(self.fileno()), self.family, self._source, self.refusal)


def _received(descriptor: Any, family: int, guard: GuardSource, refusal: Refusal) -> CountedListeningSocket:
    return counted_socket(socket.socket(family, socket.SOCK_STREAM, fileno=descriptor.detach()), guard, refusal=refusal)


def _accept(listening: socket.socket, guard: Guard, refusal: Refusal) -> tuple[CountedSocket, Any]:
    for _ in range(MAX_REFUSED) if listening.gettimeout() == 0 else itertools.count():
        accepted, address = socket.socket.accept(listening)
        connection = CountedSocket(accepted.family, accepted.type, accepted.proto, accepted.detach())
        connection.admission = admission = guard.admit(address, local_address(connection))
        if admission.let_in:
            return connection, address
        send_refusal(connection, admission, refusal)
        connection.close()
        if listening.gettimeout() is None:
            _wait_for_another(listening)
    raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))


def _wait_for_another(listening: socket.socket) -> None:
    """Waits for a connection. Raises OSError when another thread closes the socket: the system's `accept` would go on,
    and a server that has seen one connection waiting does not expect it to."""
    with selectors.DefaultSelector() as selector:
        with contextlib.suppress(ValueError):  # it is closed already
            selector.register(listening, selectors.EVENT_READ)
        while not selector.select(POLL_S):
            if listening.fileno() < 0:
                raise OSError(errno.EBADF, os.strerror(errno.EBADF))


def _end(connection: CountedSocket | CountedTLSSocket) -> None:
    if connection.admission is not None and connection.fileno() < 0:
        connection.admission.close()


def local_address(connection: Any) -> Any:
    """The own address of a connection; None if the peer has reset it, which some systems forget it for."""
    try:
        return connection.getsockname()
    except OSError:
        return None


def send_refusal(connection: Any, admission: Admission, refusal: Refusal) -> None:
    """Sends a refusal as far as that does not wait. Never raises for the state of the connection."""
    reply = admission.refusal_bytes(refusal)
    with contextlib.suppress(OSError):  # the peer has left, or does not read: the server does not wait for it
        connection.settimeout(0)
        connection.send(reply)
