"""The power fails at any moment: what was saved and acknowledged is there, once (`tests.support.power_loss`)."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from tests.support.faults import environment
from tests.support.forking import UNDER_ASAN
from tests.support.keeping import in_a_child
from tests.support.power_loss import SPAN, Left, Saved, crashes, message, read_record
from tests.support.sharing import FULL

from inbound_audit.persist import read_log
from inbound_audit.series import requests

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="the library is preloaded as Linux does it"),
    pytest.mark.skipif(UNDER_ASAN, reason="AddressSanitizer stands before the C library itself"),
    pytest.mark.timeout(3600 if FULL else 600),
]

DRAWS = 60 if FULL else 1


@pytest.fixture
def place() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="power-", dir="/dev/shm"))
    (path / "recorded").mkdir()
    yield path
    shutil.rmtree(path)


def each_crash(place: Path, name: str, check: Callable[[Path, Left], None]) -> int:
    """Runs a scenario, and checks what each power failure may leave, in a fresh process. Returns how many it was."""
    root, record = str(place / "recorded"), place / "record"
    command = [sys.executable, "-m", "tests.support.power_loss", name, root, str(record)]
    subprocess.run(command, env=environment(), check=True)
    seen = set()
    for left in crashes(read_record(record), DRAWS):
        state = repr((sorted(left.names.items()), sorted(left.contents.items()), left.promised))
        if hash(state) in seen:
            continue
        seen.add(hash(state))
        after = place / "after"
        after.mkdir()
        left.write(root, after)
        assert in_a_child(partial(check, after, left)) == 0, (left.names, left.promised)
        shutil.rmtree(after)
    return len(seen)


def within(count: int, left: Left) -> None:
    assert left.promised <= count <= left.attempted, (left.promised, count, left.attempted)


def kept_twice(directory: Path, left: Left) -> None:
    """A process adopts what is left, and one after it counts the same."""
    counts = []
    for _ in range(2):
        kept = Saved(directory)
        counts.append(kept.count())
        kept.audit.close()
    within(counts[0], left)
    assert counts[0] == counts[1]
    assert not list(directory.rglob("*.damaged*"))


@pytest.mark.parametrize("name", ["save", "adopt"])
def test_what_was_saved_outlives_a_power_failure(place: Path, name: str) -> None:
    assert each_crash(place, name, kept_twice) > 30


def loaded(directory: Path, left: Left) -> None:
    """The snapshot, and then the lines of the log that it has not."""
    kept = Saved(directory)
    within(kept.count(), left)

    def ask(**request: object) -> dict[str, dict[str, int]]:
        return dict(json.loads(requests.handle(kept.audit, json.dumps({**request, "series": "kept"}).encode())))

    path = directory / "a" / "state" / "kept.log"
    known = {int(log, 16): number for log, number in ask(do="known")["marks"].items()}
    entries = list(read_log(path, known, broken=lambda *why: None)) if path.exists() else []
    rows = [[entry.microseconds, entry.key, entry.by] for entry in entries]
    ask(do="load", **SPAN, rows=rows, marks={f"{entry.log:016x}": entry.sequence for entry in entries})
    within(kept.count(), left)
    kept.audit.close()


def test_a_log_counts_no_line_twice_after_a_power_failure(place: Path) -> None:
    assert each_crash(place, "log", loaded) > 50


def delivered(directory: Path, left: Left) -> None:
    found = [path.read_bytes() for path in directory.glob("a/mail/new/*")]
    for number in range(1, left.promised + 1):
        assert found.count(message(number)) == 1
    assert len(found) <= left.attempted
    assert set(found) <= {message(number) for number in range(1, left.attempted + 1)}


def test_a_message_that_was_acknowledged_outlives_a_power_failure(place: Path) -> None:
    assert each_crash(place, "deliver", delivered) > 20
