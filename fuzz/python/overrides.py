"""Lines of overrides: each is an entry or is left out, and of two hosts both come to have the same, byte for byte.

An input is lines, or (its first byte is 0x80 and above) numbers from which lines are drawn that are near one another.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator

from inbound_audit.cluster.host_overrides import HostOverrides
from inbound_audit.overrides.entry import Entry, Key, read_line
from inbound_audit.overrides.files import read_entries
from inbound_audit.overrides.table import Table

logging.getLogger("inbound_audit").setLevel(logging.CRITICAL)
PREFIXES = ("192.0.2.0/24", "192.0.2.77/24", "192.0.2.7", "::ffff:192.0.2.7/128", "2001:db8::/32", "/24", "::/0")
TIMES = (None, 0, -0.0, 1, 1.0, 2.5, 1e10, 10**10)
TEXTS = ("", "a", "b", "\u00e9\U0001f600", "\x00")
MEMBERS = {"prefix": PREFIXES, "action": ("deny", "allow", "lift", "x"), "until": TIMES, "why": TEXTS, "since": TIMES}
MEMBERS |= {"by": TEXTS, "changed": (1, 2, 3), "node": TEXTS, "kept": TIMES}


def drawn(data: bytes) -> Iterator[bytes]:
    for at in range(0, len(data), len(MEMBERS)):
        chosen = zip(MEMBERS.items(), data[at : at + len(MEMBERS)], strict=False)
        yield json.dumps({name: values[number % len(values)] for (name, values), number in chosen}).encode()


def one_by_one(lines: bytes) -> Iterator[tuple[Key, Entry]]:
    for line in lines.splitlines():
        try:
            yield read_line(line)
        except (ValueError, RecursionError) as error:
            assert str(error)


class Host(HostOverrides):
    def __init__(self, items: list[tuple[Key, Entry]]) -> None:
        self.table = Table()
        super().__init__(lambda: self.table, self.merge, clock=lambda: 0.0, utc=lambda: 0.5)
        self.merge(items)
        self.carry_out()

    def merge(self, items: Iterable[tuple[Key, Entry]]) -> None:
        """A change makes another table."""
        self.table = Table(self.table)
        self.table.merge(items)


def run(data: bytes) -> None:
    lines = data[1:] if data[:1] < b"\x80" else b"\n".join(drawn(data[1:]))
    found = read_entries("file", lines)
    assert found == list(one_by_one(lines)), "a line is read without regard to the others"
    for key, entry in found:
        assert read_line(entry.line()) == (key, entry)
        assert read_line(entry.line())[1].line() == entry.line()
    timely = [item for item in found if item[1].is_kept(0.5) and max(item[1].changed / 1e9, item[1].since) < 86400]
    half = len(timely) // 2
    one, other = Host(timely[:half]), Host(timely[half:])
    said = b"".join(one.parts())
    one.put("other", b"".join(other.parts()))
    other.put("one", said)
    one.carry_out()
    other.carry_out()
    assert one.table == other.table, "the order makes a difference"
    assert one.digest == other.digest, "the hosts never agree"
