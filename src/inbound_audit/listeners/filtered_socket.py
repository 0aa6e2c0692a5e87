"""A listening socket that has a program which drops packets: set, replaced and taken off, if it is ours.

It touches no program of other code, and no descriptor but its own.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterable, Iterator
from errno import EBUSY

from inbound_audit.descriptor import Descriptor
from inbound_audit.listeners import packet_filter
from inbound_audit.listeners.packet_filter import MARK, Program


class FilteredSocket:
    """A listening socket, by a descriptor of our own: the caller may close its own at any time."""

    def __init__(self, given: socket.socket, token: int) -> None:
        self._given, self._token = given, token
        self._own = Descriptor(os.dup(given.fileno()))
        self._program: Program = []
        host, port = given.getsockname()[:2]
        self._name = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def __str__(self) -> str:
        return self._name

    @property
    def has_program(self) -> bool:
        return bool(self._program)

    @property
    def is_listening(self) -> bool:
        """Whether the caller still has the socket."""
        try:
            found = os.fstat(self._given.fileno())
        except OSError:
            return False
        return (found.st_dev, found.st_ino) == self._own.identity[:2]

    def set_program(self, program: Program) -> None:
        """Replaces or, if it is empty, takes off the program; sets it again if it is gone. Raises OSError, also if the
        socket has another one."""
        if not (program or self._program) or self._own.current is None:
            return
        with _as_socket(self._own.number) as listening:
            found = packet_filter.attached_to(listening)
            if found is not None and (found != (MARK, self._token) or not self._program):
                raise OSError(EBUSY, "the socket has a program that is not this gate's")
            if program and (found is None or program != self._program):
                packet_filter.attach(listening, program)
            elif not program:
                packet_filter.detach(listening)
        self._program = program

    def close(self) -> None:
        self._own.close()


@contextlib.contextmanager
def _as_socket(number: int) -> Iterator[socket.socket]:
    """For a few calls."""
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0, fileno=number)
    try:
        yield made
    finally:
        made.detach()


def take_off_left(sockets: Iterable[socket.socket]) -> None:
    """Takes off programs that a process has left on its sockets when it was killed."""
    for one in sockets:
        if one.family in (socket.AF_INET, socket.AF_INET6):
            with contextlib.suppress(OSError):  # a system without such programs
                found = packet_filter.attached_to(one)
                if found is not None and found[0] == MARK:
                    packet_filter.detach(one)
