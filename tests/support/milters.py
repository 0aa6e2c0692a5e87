"""`inbound-audit milter` and `inbound-audit policyd` in processes of their own."""

from __future__ import annotations

import socket
from collections.abc import Sequence

from tests.support.command_line import Serve


class MilterProcess(Serve):
    """Listens where `listen` says, or at the sockets that are `handed` over; its events are those of `Serve`."""

    command_name = "milter"

    def __init__(self, *arguments: str, listen: str = "inet:127.0.0.1:0", handed: Sequence[socket.socket] = ()) -> None:
        where = [] if handed else [listen]
        super().__init__("--verbose", *arguments, listen=where, hostname=None, handed=handed)


class PolicydProcess(MilterProcess):
    command_name = "policyd"
