"""`kept_file`: a file whose descriptor other code closes is opened again, and no other file is written to."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from inbound_audit import InboundAudit, _ipcount

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc/self/fd is Linux's")


@pytest.fixture
def audit() -> Iterator[InboundAudit]:
    with InboundAudit() as made:
        made.series.define("s", "ip", 300, 6)
        yield made


def numbers_of(path: Path) -> list[int]:
    """The descriptors of this process that stand for a file."""
    wanted = os.stat(path)
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            if os.path.samestat(os.fstat(int(name)), wanted):
                found.append(int(name))
        except OSError:
            continue
    return found


def log_to(audit: InboundAudit, path: Path) -> int:
    """Begins a change log, and returns the number of the descriptor that the core has for it."""
    with open(path, "ab") as file:
        _ipcount.SeriesStore(audit).log("s", file.fileno(), os.fsencode(path), 1, 0)
    (number,) = numbers_of(path)
    return number


def test_a_file_is_opened_again(audit: InboundAudit, tmp_path: Path) -> None:
    log, other = tmp_path / "log", tmp_path / "other"
    number = log_to(audit, log)
    assert number > 2
    with open(other, "wb") as file:
        os.dup2(file.fileno(), number)
    audit.series.add("s", "192.0.2.7")
    assert other.read_bytes() == b""
    assert log.read_bytes().endswith(b" 192.0.2.7\n")
    _ipcount.SeriesStore(audit).log("s", -1)
    assert numbers_of(log) == []
    assert numbers_of(other) == [number]
    os.close(number)


def test_a_line_that_has_no_file_is_counted_as_a_failure(audit: InboundAudit, tmp_path: Path) -> None:
    directory = tmp_path / "gone"
    directory.mkdir()
    log = directory / "log"
    os.close(log_to(audit, log))
    log.unlink()
    directory.rmdir()
    audit.series.add("s", "192.0.2.7")
    assert _ipcount.SeriesStore(audit).logged("s") == (1, 1)
    assert audit.series.count("s", "192.0.2.7", 0, 0) == 1


@pytest.mark.parametrize("kind", ["link", "directory", "pipe"])
def test_what_lies_at_the_path_is_not_followed(audit: InboundAudit, tmp_path: Path, kind: str) -> None:
    log, other = tmp_path / "log", tmp_path / "other"
    os.close(log_to(audit, log))
    log.unlink()
    other.touch()
    if kind == "link":
        log.symlink_to(other)
    elif kind == "directory":
        log.mkdir()
    else:
        os.mkfifo(log)
    audit.series.add("s", "192.0.2.7")
    assert other.read_bytes() == b""
    assert _ipcount.SeriesStore(audit).logged("s")[1] == 1
