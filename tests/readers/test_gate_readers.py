"""The readers in C and Lua count exactly while the threads of a gate count, refuse and take back beside them."""

from __future__ import annotations

import contextlib
import random
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.readers.test_foreign_readers import Programs, Reader
from tests.support.gates import Taken, connect, end, reset
from tests.support.waiting import PATIENCE, eventually

from inbound_audit import InboundAudit, Limits
from inbound_audit.listeners.gate import Gate

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="a gate needs Linux")

LIMIT, LANES = 3, 2
FLOODED = [f"127.0.0.{last}" for last in range(2, 10)]
HELD = FLOODED[:4]
ROUNDS, OPENED = 150, 2000


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Programs:
    return Programs(tmp_path_factory.mktemp("programs"))


@pytest.fixture
def audit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[InboundAudit]:
    monkeypatch.setenv("INBOUND_AUDIT_SHM", str(tmp_path))
    with InboundAudit(shared="mail", capacity=1 << 22) as audit:
        yield audit


class Flood:
    """Two threads whose peers come and leave at once, from addresses of which the half has all its places taken."""

    def __init__(self, gate: Gate, port: int) -> None:
        self._gate, self._port, self._stop = gate, port, threading.Event()
        self._threads = [threading.Thread(target=self._come, args=(seed,)) for seed in range(2)]
        self._threads.append(threading.Thread(target=self._serve))

    def _come(self, seed: int) -> None:
        draw = random.Random(seed)
        while not self._stop.is_set():
            peer = connect(self._port, draw.choice(FLOODED))
            (reset if draw.random() < 0.3 else socket.socket.close)(peer)

    def _serve(self) -> None:
        """Sessions of the flood end at once."""
        while not self._stop.is_set():
            end(self._gate.get(0.05))

    def __enter__(self) -> Flood:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(PATIENCE)


def hold(gate: Gate, port: int, held: contextlib.ExitStack) -> list[Taken]:
    """All places of some addresses, one after the other."""
    taken: list[Taken] = []
    for source in HELD * LIMIT:
        held.enter_context(connect(port, source))
        taken += gate.get(PATIENCE)
    assert len(taken) == LIMIT * len(HELD)
    return taken


@pytest.mark.parametrize("kind", ["c", "c-pread", "luajit", "lupa.luajit21"])
def test_a_reader_beside_a_flooded_gate_never_counts_what_can_t_be(
    audit: InboundAudit, programs: Programs, kind: str
) -> None:
    """Each thread of a gate has one connection at most that is counted and not decided about. Beside them a writer that
    stands still in mid-update hides one of each tree, as docs/bytes.md says: there is one tree here, and such an update
    is one of those in flight."""
    with contextlib.ExitStack() as held:
        listening = held.enter_context(socket.create_server(("127.0.0.1", 0), backlog=512))
        gate = held.enter_context(Gate(audit.listener("SMTP"), Limits({"/32": LIMIT}), [listening], threads=LANES))
        taken = hold(gate, listening.getsockname()[1], held)
        held.callback(end, taken)
        least = LIMIT * len(HELD)
        reader = Reader(programs.command(kind))
        held.enter_context(reader.process)  # its pipes
        held.callback(reader.process.kill)
        assert reader.ask("open mail", "total SMTP") == ["0", str(least)]
        hosts = [f"count SMTP {source}/32" for source in FLOODED]
        wide = ["count SMTP 0.0.0.0/0", "count inbound_cidr 127.0.0.0/8", "total SMTP"]
        with Flood(gate, listening.getsockname()[1]):
            begun, rounds = gate.opened, 0
            while rounds < ROUNDS or gate.opened < begun + OPENED:
                rounds += 1
                answers = [int(answer) for answer in reader.ask(*hosts, *wide)]
                for source, count in zip(FLOODED, answers, strict=False):
                    assert (LIMIT if source in HELD else 0) <= count <= LIMIT + LANES, (source, answers)
                for count in answers[len(FLOODED) :]:
                    assert least <= count <= LIMIT * len(FLOODED) + LANES, answers
        assert gate.refused > 0
        eventually(lambda: (end(gate.take()), audit.total() == least)[1], "the end of the flood")
        expected = [LIMIT if source in HELD else 0 for source in FLOODED]
        assert [int(answer) for answer in reader.ask(*hosts, *wide)] == [*expected, *[least] * len(wide)]
        assert reader.ask("count SMTP 127.0.0.2/31", "count SMTP ::/0") == [str(2 * LIMIT), "0"]
        assert reader.end() == (0, "")
    assert audit.total() == 0
