"""What a milter costs Postfix: the processor time of a connection, of all processes of a Postfix."""

from __future__ import annotations

import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.milters import MilterProcess
from tests.support.postfix import Postfix, needs_postfix
from tests.support.waiting import PATIENCE

from benchmarks.measure import Race, summary
from benchmarks.scale import POSTFIX_CONNECTIONS, POSTFIX_ROUNDS

pytestmark = needs_postfix

LIMITS = ("--limit", "/32=1000", "--limit", "/24=10000", "--limit", "/0=20000")
DIALOGUES = {
    "EHLO and QUIT": [b"EHLO x\r\n", b"QUIT\r\n"],
    "a message": [
        b"EHLO x\r\n",
        b"MAIL FROM:<a@example.net>\r\n",
        b"RCPT TO:<b@example.com>\r\n",
        b"DATA\r\n",
        b"Subject: x\r\n\r\n" + b"a line of text\r\n" * 50 + b".\r\n",
        b"QUIT\r\n",
    ],
}


def talk(address: tuple[str, int], lines: list[bytes]) -> None:
    with socket.create_connection(address, PATIENCE) as peer, peer.makefile("rb") as answers:
        for line in (b"", *lines):
            peer.sendall(line)
            while (answer := answers.readline())[3:4] == b"-":
                pass
            assert answer[:1] in (b"2", b"3"), answer


def batch(postfix: Postfix, dialogue: str) -> Callable[[], float]:
    """Milliseconds of a connection."""

    def measured() -> float:
        before = postfix.processor_s()
        for _ in range(POSTFIX_CONNECTIONS[dialogue]):
            talk(postfix.plain, DIALOGUES[dialogue])
        return (postfix.processor_s() - before) / POSTFIX_CONNECTIONS[dialogue] * 1e3

    return measured


def test_a_milter(once: Callable[..., Any], report: Callable[..., None]) -> None:
    with tempfile.TemporaryDirectory(prefix="milter-") as place:
        Path(place).chmod(0o755)
        where = f"unix:{place}/milter"
        with (
            MilterProcess(*LIMITS, "--socket-mode", "666", listen=where),
            Postfix(f"smtpd_milters = {where}") as fronted,
            Postfix("") as bare,
        ):
            races = {
                dialogue: Race({"without": batch(bare, dialogue), "with": batch(fronted, dialogue)})
                for dialogue in DIALOGUES
            }

            def rounds() -> None:
                for race in races.values():
                    race.warm_up()
                    for _ in range(POSTFIX_ROUNDS):
                        race.round()

            once(rounds)
    shortest = [taken["without"] / taken["with"] for taken in races["EHLO and QUIT"].rounds]
    details = {
        f"{dialogue}, {name}": value for dialogue, race in races.items() for name, value in race.medians().items()
    }
    report("postfix-milter", summary(shortest), details, "milliseconds of a connection")
