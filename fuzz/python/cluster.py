"""Frames of other nodes: no error, no memory beyond the bounds, and a node that sends nothing wrong is counted right.

An input is a list of steps. Some are raw bytes as a frame, some are frames with a good checksum and drawn fields (of
sessions, of windows, of overrides, of no tree), some are damaged frames of a node that is there, and some let time
pass.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from contextlib import suppress
from zlib import crc32

from tests.support.gold_nodes import GoldTrees
from tests.support.gold_series import Events, GoldSeriesTrees

from inbound_audit.cluster.bounds import Bounds
from inbound_audit.cluster.frames import Frame, FrameError, FrameType, pack, unpack
from inbound_audit.cluster.host_overrides import HostOverrides
from inbound_audit.cluster.host_series import FOR_ALL, FOR_MANAGERS, HostSeries
from inbound_audit.cluster.leases import HEARTBEAT_S
from inbound_audit.cluster.node_state import State
from inbound_audit.cluster.receiver import Receiver
from inbound_audit.cluster.replica import WAITING_FRAME_BYTES
from inbound_audit.cluster.sender import Sender
from inbound_audit.cluster.window_records import SCOPES, SeriesKey, WindowRecords
from inbound_audit.cluster.window_records import Window as WindowKey
from inbound_audit.cluster.window_records import pack as pack_windows
from inbound_audit.overrides.entry import Entry, Key, entry_of, exact_prefix
from inbound_audit.overrides.table import Table

BOUNDS = Bounds(
    max_nodes=6,
    max_hosts=12,
    max_all_hosts=30,
    max_waiting_bytes=3000,
    max_all_waiting_bytes=8000,
    max_bytes_per_s=1 << 20,
    max_windows=4,
    max_all_windows=10,
    max_window_hosts=12,
    max_all_window_hosts=30,
)
ALL, MANAGED = SeriesKey("series", "all", 600, 3), SeriesKey("series", "managed", 600, 3)
AHEAD_S = 3.0
"""By how much the clock of the honest node is ahead."""
NAMES = ("here", "honest", "a", "b", "c", "d", "e", "f", "g", "a b", "")
_FIELDS = struct.Struct("<BBBBBBBB")
_STEP = struct.Struct("<BBB")
_WINDOW = struct.Struct("<BBBBB")


class Cluster:
    """A receiver, and a node that speaks to it beside the forgers."""

    def __init__(self) -> None:
        self.now = 50.0
        self.trees = GoldTrees(BOUNDS.max_nodes)
        self.series = self.series_of(Events())
        clock = lambda: self.now  # noqa: E731
        key = exact_prefix("192.0.2.0/24")
        entry = entry_of("deny", key, None, "", "me@honest", "honest", now=self.now)._replace(changed=1)
        self.said, self.taken = Table({key: entry}), Table()
        self.overrides = HostOverrides(lambda: self.taken, self.take, clock, clock)
        said = HostOverrides(lambda: self.said, self.said.merge, clock, clock)
        said.carry_out()
        self.receiver = Receiver("here", 3, self.trees, clock, BOUNDS, self.series, clock, self.overrides)
        self.own = GoldTrees()
        self.own.own[4, 1] = 2
        self.events = Events()
        windows = self.series_of(self.events)
        ahead = lambda: self.now + AHEAD_S  # noqa: E731
        self.sender = Sender(77, self.own, clock, windows.said.values(), utc=ahead, overrides=said)
        for key in (ALL, MANAGED):
            self.events.record(key, 0, (4, 1), 2)
        self.speak()

    def series_of(self, events: Events) -> HostSeries:
        events.replicate.update({ALL: FOR_ALL, MANAGED: FOR_MANAGERS})
        series = HostSeries(GoldSeriesTrees(events, lambda: self.now), is_manager=True, clock=lambda: self.now)
        series.find()
        return series

    def take(self, entries: Iterable[tuple[Key, Entry]]) -> None:
        """A change makes another table."""
        self.taken = Table(self.taken)
        self.taken.merge(entries)

    def speak(self) -> list[bytes]:
        frames = self.sender.frames(self.now)
        for frame in frames:
            self.receiver.heard("honest", frame, self.now)
        return frames

    def raw(self, node: str, data: bytes) -> None:
        self.receiver.heard(node, data, self.now)
        self.receiver.heard(node, b"ibac\x01" + data, self.now)
        sealed = b"ibac\x01" + data
        sealed += struct.pack("<I", crc32(sealed))
        with suppress(FrameError):
            assert pack(unpack(sealed)) == sealed, "a frame has more than one form"
        self.receiver.heard(node, sealed, self.now)

    def frame(self, node: str, data: bytes) -> None:
        self.receiver.heard(node, forged(data), self.now)

    def windows(self, node: str, data: bytes) -> None:
        """A change of windows whose records are drawn."""
        fields = _WINDOW.unpack(data[8:13].ljust(5, b"\0"))
        scope, number, sign, level, interval = fields
        key = SeriesKey(SCOPES[scope % 5], ("all", "managed", "x")[scope % 3], (600, interval + 1)[scope & 1], 3)
        half = 13 + max(0, len(data) - 13) // 2
        said = [
            pack_windows(WindowRecords(WindowKey(key, number % 4 - at, sign & 1), (level % 40, level), records))
            for at, records in enumerate((data[half:], data[13:half]))
        ]
        self.receiver.heard(node, forged(data[:8] + b"".join(said[::-1])), self.now)

    def snapshot(self, node: str, data: bytes) -> None:
        half = len(data) // 2
        parts = [unpacked(forged(part)) for part in (data[:half], data[half:])]
        whole = [parts[0]._replace(type=FrameType.SNAPSHOT, records=part.records) for part in parts]
        answer = [pack(part._replace(base=0, part=at, parts=2)) for at, part in enumerate(whole)]
        self.receiver.answered(node, answer, self.now)
        self.receiver.answered(node, [forged(data)], self.now)

    def damaged(self, node: str, data: bytes) -> None:
        """A frame that the honest node says next, and a copy in which bytes differ."""
        self.now += HEARTBEAT_S
        self.own.open((6, len(data) % 5 + 1), 1)
        self.events.record((ALL, MANAGED)[len(data) % 2], 0, (6, len(data) % 5 + 1), 1)
        for frame in self.speak():
            copy = bytearray(frame)
            for at, byte in enumerate(data):
                copy[(at * 7) % len(copy)] ^= byte
            if bytes(copy) != frame:
                self.receiver.heard("honest", bytes(copy), self.now)

    def time(self, node: str, data: bytes) -> None:
        self.now += sum(data) / 256
        self.speak()
        self.receiver.gone(node, self.now)
        self.speak()
        self.receiver.tick(self.now)
        self.overrides.carry_out()
        if "honest" in self.receiver.asks(self.now):
            self.receiver.answered("honest", self.sender.snapshot(), self.now)

    def check(self) -> None:
        receiver = self.receiver
        states = receiver.nodes.values()
        assert len(states) <= BOUNDS.max_nodes
        sessions = [state.replica for state in states]
        copies = [replica for state in states for replica in state.windows.values()]
        for load, replicas in ((receiver.copies.sessions, sessions), (receiver.copies.windows, copies)):
            waiting = [
                sum(len(frame.records) + WAITING_FRAME_BYTES for frame in replica.waiting.values())
                for replica in replicas
            ]
            assert max(waiting, default=0) <= BOUNDS.max_waiting_bytes
            assert sum(waiting) == load.waiting_bytes <= BOUNDS.max_all_waiting_bytes
            hosts = [replica.tree.hosts for replica in replicas]
            assert max(hosts, default=0) <= BOUNDS.max_hosts
            assert sum(hosts) == load.hosts <= BOUNDS.max_all_hosts
        windows = [len(replica.tree.windows) for replica in copies]
        assert max(windows, default=0) <= BOUNDS.max_windows
        assert sum(windows) == receiver.copies.windows.windows <= BOUNDS.max_all_windows
        for state in states:
            is_counted = state.state in (State.HEARD, State.DUPLICATE)
            assert is_counted or not any(replica.tree.hosts for replica in state.replicas)


def forged(data: bytes) -> bytes:
    """A frame with a good checksum and fields that are near those of others."""
    kind, epoch, seq, base, age, hosts, total, digest = _FIELDS.unpack(data[:8].ljust(8, b"\0"))
    large = 2**40 if kind & 128 else 1
    numbers = (epoch % 4, seq * large, base * large, age * 100, hosts, total, digest)
    return pack(Frame(kind % 7, *numbers, data[8:], kind & 1, 1, kind >> 5 & 3))


def unpacked(data: bytes) -> Frame:
    with suppress(FrameError):
        return unpack(data)
    return Frame(FrameType.SNAPSHOT, 1, 1, parts=1)


def run(data: bytes) -> None:
    cluster = Cluster()
    steps: list[Callable[[str, bytes], None]] = [
        cluster.raw,
        cluster.frame,
        cluster.windows,
        cluster.snapshot,
        cluster.damaged,
        cluster.time,
    ]
    at = 0
    while at + _STEP.size <= len(data):
        step, name, size = _STEP.unpack_from(data, at)
        at += _STEP.size
        node = NAMES[name % len(NAMES)]
        chosen = steps[step % len(steps)]
        if node == "honest" and chosen not in (cluster.damaged, cluster.time):
            node = "a"
        chosen(node, data[at : at + size])
        at += size
        cluster.check()
    for _ in range(20):
        cluster.time("", b"\x40")
    while cluster.receiver.nodes["honest"].refused_windows:  # others had taken all places: it is tried again
        cluster.time("", b"\x40")
    while not cluster.said.keys() <= cluster.taken.keys():  # a frame of them may have come before the node was counted
        cluster.time("", b"\x40")
    assert cluster.receiver.nodes["honest"].state == State.HEARD
    assert cluster.trees.trees["honest"].counts == cluster.own.own, "a node is counted wrong because of others"
    honest = cluster.receiver.nodes["honest"]
    assert abs((honest.clock.ahead_s or 0.0) - AHEAD_S) < 0.01, "a clock is measured wrong because of others"
    for tree, key in ((FOR_ALL, ALL), (FOR_MANAGERS, MANAGED)):
        counts = {window: held.tree.counts for window, held in honest.windows[tree].tree.windows.items()}
        assert counts == {WindowKey(key, 0, 0): cluster.events.windows[WindowKey(key, 0, 0)]}
