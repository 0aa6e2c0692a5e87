"""The forwarder: threads that move bytes between clients and back ends in native code, without Python.

    forwarder = Forwarder(listener, resolve("127.0.0.1", 2525))
    with Gate(listener, Limits({"/32": 10}), [listening]) as gate:
        gate.forward_to(forwarder)

It goes with a gate, which gives it the connections that may stay, or with Python code, which adds those that it has
asked a policy about (`listeners.forward_server`). `Forwarder` says what becomes of each connection.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal, NamedTuple, cast

from inbound_audit._ipcount import MAX_TARGETS, NativeForwarder
from inbound_audit.errors import named_keywords
from inbound_audit.listeners.gate_forks import Batches
from inbound_audit.process import Stage, register, wait_before_forks

if TYPE_CHECKING:
    from inbound_audit._ipcount import Listener, Session

SendProxy = Literal["v1", "v2"] | None

CONNECT_S = 5.0
IDLE_S = 900.0
"""Seconds: a mail server may take ten minutes to answer the end of a message (RFC 5321, section 4.5.3.2)."""


class BackEnd(NamedTuple):
    """An address that connections are forwarded to: its name in reports, and what `socket.connect` gets."""

    name: str
    family: int
    address: tuple[str, int] | tuple[str, int, int, int] | str

    @property
    def packed(self) -> tuple[bytes, int, int] | bytes:
        """As the forwarder takes it."""
        if isinstance(self.address, str):
            return os.fsencode(self.address)
        host, port, *rest = self.address
        return socket.inet_pton(self.family, host.partition("%")[0]), port, rest[1] if rest else 0


def resolve(host: str, port: int) -> list[BackEnd]:
    """The back ends of a name or an address, in the order of the system. Raises OSError."""
    found: list[BackEnd] = []
    for family, _, _, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        text = f"[{address[0]}]" if family == socket.AF_INET6 else address[0]
        if family in (socket.AF_INET, socket.AF_INET6):
            found.append(BackEnd(f"{text}:{port}", family, cast("tuple[str, int]", address)))
    return found


def unix_back_end(path: str) -> BackEnd:
    return BackEnd(f"unix:{path}", socket.AF_UNIX, path)


class Forwarder(NativeForwarder):
    """Forwards connections to the first of its back ends that can be reached.

    `back_ends` are from 1 to 64, the best one first. `threads` move bytes at the same time; a connection stays with
    one of them. What a client sends goes to its back end as it comes, and the other way round: through a pipe in the
    kernel, so no byte is copied, and no connection holds more than 64 KiB in each direction. A peer that does not read
    stops the one that sends.

    A stream that ends is carried on as an end, so a client may end its own and still read. A side that is reset resets
    the other. An urgent byte keeps its place among the others; that it is urgent is not passed on. A connection on
    which no byte moves for `idle_s` seconds is closed.

    A back end that refuses a connection, or takes none within `connect_s`, is down: the next one is tried, for this
    connection and for later ones, until `mark_up`. If all are down the client is sent `unavailable` and closed.
    `send_proxy`: a PROXY header of that version comes first, with the client's address. A connection that waits for a
    thread is one of `backlog`.

    A connection that a gate forwards is counted until right before its client's socket is closed. One that Python has
    added (`add`) stays counted by its session, until `take_ended` returns its number.

    waiting      connections that no thread has taken yet
    open         connections that have not ended, those included
    begun        connections that a thread has taken
    bytes_in     that clients have sent; `bytes_out` that back ends have sent
    unavailable  clients for which there was no back end
    timed_out    connections that were idle for too long
    reset        connections of which a side was reset
    failures     times when the system refused memory, a descriptor or a port
    lost         descriptors of the forwarder that other code of the process has closed: their connections end

    If other code closes what the forwarder itself waits on, or wakes Python by, it takes no connection any more: it is
    `closed`, and those that it has go on until `close`.

    Any thread may close it. A child of a fork has no forwarder: there it is closed. Raises OSError (also where the
    system has no epoll or splice), ValueError and MemoryError.
    """

    @named_keywords
    def __init__(
        self,
        listener: Listener,
        back_ends: Iterable[BackEnd],
        *,
        threads: int = 1,
        send_proxy: SendProxy = None,
        connect_s: float = CONNECT_S,
        idle_s: float = IDLE_S,
        unavailable: bytes = b"",
        backlog: int = 1024,
    ) -> None:
        self.listener, self.back_ends = listener, tuple(back_ends)
        if not 1 <= len(self.back_ends) <= MAX_TARGETS:
            raise ValueError(f"{len(self.back_ends)} back ends: give from 1 to {MAX_TARGETS}")
        if not (connect_s > 0 and idle_s > 0):
            raise ValueError(f"connect_s={connect_s!r}, idle_s={idle_s!r}: give seconds above 0")
        self._open(
            listener,
            [each.packed for each in self.back_ends],
            threads=threads,
            backlog=backlog,
            send_proxy=send_proxy,
            connect_ms=round(connect_s * 1000),
            idle_ms=round(idle_s * 1000),
            unavailable=unavailable,
        )
        register(self, Stage.COUNTS, Forwarder._leave, Forwarder.close)
        self._batches = Batches(self)
        wait_before_forks(self._batches)

    def add(self, connection: socket.socket, session: Session | None) -> int:
        """Takes over a connection that Python has asked about; the socket object is detached then. `session` says who
        it is, for the PROXY header.

        Returns the number by which `take_ended` returns it: its session is the caller's to close. 0: too many wait, and
        the connection is the caller's still. One thread calls this and `take_ended`. Raises MemoryError.
        """
        number = self._add(connection.fileno(), session)
        if number:
            connection.detach()
        return number

    def add_refused(self, connection: socket.socket) -> None:
        """Takes over a connection that was refused, and closes it once the client has closed, or after a second: a
        reset would take the reply from a client that has sent something that was not read."""
        if self._add(connection.fileno(), None, refused=True):
            connection.detach()
        else:
            connection.close()

    def take_ended(self) -> list[int]:
        """The numbers of connections that were added, and have ended since the last call. Never waits."""
        return self._take_ended()

    @property
    def down(self) -> tuple[BackEnd, ...]:
        """The back ends that could not be reached."""
        return tuple(each for number, each in enumerate(self.back_ends) if self._is_down(number))

    def mark_up(self, back_end: BackEnd) -> None:
        """It was reached: later connections go there again."""
        self._mark(self.back_ends.index(back_end), False)

    def mark_down(self, back_end: BackEnd) -> None:
        self._mark(self.back_ends.index(back_end), True)

    def __enter__(self) -> Forwarder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"{self.open} open"
        return f"<Forwarder to {', '.join(each.name for each in self.back_ends)}: {state}>"
