"""Change logs: any file is read to its end, and each entry is what its line says.

A line that is an entry for the gold reader is one for the product, alone and among the lines of the input. The input is
read once more with a line after it that a process has just written: that line is found.
"""

from __future__ import annotations

import os
import re

from inbound_audit.persist.change_log import MAX_LINE, Entry, read_log

GOLD = re.compile(r"([0-9a-f]{16}) ([1-9]\d{0,18}) (-?\d{1,18}) (remove|-?[1-9]\d{0,9}) ([!-~\x80-\xff]*)", re.ASCII)
LAST = b"1f0c44d29b07aa13 42 1795572000123456 -7 a%20key\n"

fd = os.memfd_create("log")
path = f"/proc/self/fd/{fd}"


def entries(data: bytes) -> tuple[list[Entry], list[int]]:
    """The entries of a file with these bytes, and the lines that were reported."""
    os.ftruncate(fd, 0)
    os.pwrite(fd, data, 0)
    reported: list[int] = []
    return list(read_log(path, broken=lambda line, why: reported.append(line))), reported


def run(data: bytes) -> None:
    found, reported = entries(data)
    lines = data.count(b"\n")
    numbers = [entry.line for entry in found]
    assert numbers == sorted(set(numbers)), "each line is one entry at most"
    assert all(1 <= number <= lines for number in [*numbers, *reported]), "only whole lines are read"
    for entry in found:
        assert 0 < entry.sequence < 10**19
        assert 0 <= entry.log < 1 << 64
        assert entry.by is None or 0 < abs(entry.by) < 10**10
    for number, line in enumerate(data.split(b"\n")[:-1], 1):
        match = GOLD.fullmatch(line.decode("latin-1"))
        if match is not None and b"%" not in line and len(line) < MAX_LINE and match[5].isascii():
            assert any(entry.line == number and entry.key == match[5] for entry in found), line
    known = {entry.log: entry.sequence for entry in found}
    if found:
        assert all(entry.sequence > known[entry.log] for entry in read_log(path, known, lambda line, why: None))
    again, _ = entries(data + b"\n" + LAST)
    assert again[-1][:5] == (0x1F0C44D29B07AA13, 42, 1795572000123456, -7, "a key")
    assert [entry[:5] for entry in again[: len(found)]] == [entry[:5] for entry in found]
