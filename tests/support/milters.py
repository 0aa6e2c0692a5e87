"""`inbound-audit milter` and `inbound-audit policyd` in processes of their own."""

from __future__ import annotations

from tests.support.command_line import Serve


class MilterProcess(Serve):
    """Listens where `listen` says; its events are those of `Serve`."""

    command_name = "milter"

    def __init__(self, *arguments: str, listen: str = "inet:127.0.0.1:0") -> None:
        super().__init__("--verbose", *arguments, listen=[listen], hostname=None)


class PolicydProcess(MilterProcess):
    command_name = "policyd"
