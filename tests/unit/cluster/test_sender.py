"""What a node says: its changes after a pause, heartbeats, snapshots in parts; and what its numbers mean."""

from __future__ import annotations

import pytest
from tests.support.gold_nodes import GoldTrees, decode

from inbound_audit.cluster import sender as rooms
from inbound_audit.cluster.frames import MAX_FRAME_BYTES, Frame, FrameType, unpack
from inbound_audit.cluster.leases import HEARTBEAT_S, LONG_HEARTBEAT_S, MANY_NODES, heartbeat_s, lease_s, silence_s
from inbound_audit.cluster.sender import MIN_PAUSE_S, Sender
from inbound_audit.errors import CapacityError


class Speaker:
    """A sender, its host's sessions, and the time."""

    def __init__(self) -> None:
        self.now = 100.0
        self.trees = GoldTrees()
        self.sender = Sender(7, self.trees, lambda: self.now)

    def said(self, wait_s: float = 0.0) -> list[Frame]:
        self.now += wait_s
        return [unpack(frame) for frame in self.sender.frames(self.now)]


@pytest.fixture
def speaker() -> Speaker:
    return Speaker()


def test_the_first_word_comes_at_once(speaker: Speaker) -> None:
    """Also of a host without sessions."""
    assert speaker.sender.due(speaker.now) == 0
    (frame,) = speaker.said()
    assert (frame.type, frame.epoch, frame.seq, frame.base, frame.hosts) == (FrameType.HEARTBEAT, 7, 1, 0, 0)


def test_sessions_from_before_the_start_are_said(speaker: Speaker) -> None:
    speaker.trees.own[4, 9] = 3
    (frame,) = speaker.said()
    assert (frame.type, frame.hosts, frame.total) == (FrameType.DELTA, 1, 3)
    assert decode(frame.records) == (((4, 9), 3),)


def test_a_change_is_said_after_the_pause_and_once(speaker: Speaker) -> None:
    speaker.said()
    speaker.trees.open((4, 9), 2)
    assert speaker.sender.due(speaker.now) == pytest.approx(MIN_PAUSE_S)
    assert speaker.said() == []
    (frame,) = speaker.said(MIN_PAUSE_S)
    assert (frame.seq, frame.base) == (2, 0)
    speaker.trees.open((4, 9), 1)
    (frame,) = speaker.said(MIN_PAUSE_S)
    assert (frame.seq, frame.base) == (3, 2)
    assert decode(frame.records) == (((4, 9), 3),)
    assert speaker.said(MIN_PAUSE_S) == []


def test_a_host_that_has_ended_is_said_with_no_session(speaker: Speaker) -> None:
    speaker.trees.open((6, 9), 2)
    speaker.said()
    speaker.trees.open((6, 9), -2)
    (frame,) = speaker.said(1)
    assert decode(frame.records) == (((6, 9), 0),)
    assert (frame.hosts, frame.total, frame.digest) == (0, 0, 0)


def test_heartbeats_have_numbers_of_their_own_and_name_the_last_change(speaker: Speaker) -> None:
    speaker.trees.open((4, 9))
    (change,) = speaker.said()
    beats = [frame for _ in range(4) for frame in speaker.said(HEARTBEAT_S)]
    assert [(frame.type, frame.seq, frame.base) for frame in beats] == [
        (FrameType.HEARTBEAT, seq, change.seq) for seq in range(2, 6)
    ]
    assert {frame.digest for frame in beats} == {change.digest}
    assert [frame.age_ms for frame in beats] == [250, 500, 750, 1000]


def test_the_pause_grows_with_the_nodes(speaker: Speaker) -> None:
    speaker.said()
    speaker.sender.nodes = 1000
    speaker.trees.open((4, 9))
    assert speaker.sender.due(speaker.now) == pytest.approx(0.5)
    assert speaker.said(0.49) == []
    assert [frame.type for frame in speaker.said(0.01)] == [FrameType.DELTA]


def test_heartbeats_of_many_nodes_come_less_often(speaker: Speaker) -> None:
    speaker.said()
    speaker.sender.nodes = MANY_NODES
    assert [frame.type for frame in speaker.said(HEARTBEAT_S)] == [FrameType.HEARTBEAT]
    speaker.sender.nodes += 1
    assert speaker.said(LONG_HEARTBEAT_S - 0.01) == []
    assert [frame.type for frame in speaker.said(0.01)] == [FrameType.HEARTBEAT]


@pytest.mark.parametrize("nodes", [2, MANY_NODES, MANY_NODES + 1, 4000])
def test_a_lease_has_room_for_lost_heartbeats_and_for_a_restart_within_a_second(nodes: int) -> None:
    assert lease_s(nodes) > 4 * heartbeat_s(nodes)
    assert lease_s(nodes) > 1 + heartbeat_s(nodes)
    assert lease_s(MANY_NODES) > 2 * heartbeat_s(nodes)  # a node that has just begun does not know all others yet
    assert silence_s(nodes) > 2 * heartbeat_s(2 * nodes)


def test_the_pause_grows_with_the_walk(speaker: Speaker, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = GoldTrees.difference

    def slow(trees: GoldTrees, *arguments: object) -> bytes:
        speaker.now += 0.05
        return whole(trees, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(GoldTrees, "difference", slow)
    speaker.trees.open((4, 9))
    speaker.said()
    assert speaker.sender.pause == pytest.approx(rooms.PAUSE_PER_WALK * 0.05)


def test_the_pause_grows_with_the_processor_time_of_the_walk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not with the time in which others had the processor."""
    now, used, trees = [100.0], [7.0], GoldTrees()
    sender = Sender(7, trees, lambda: now[0], cost=lambda: used[0])
    whole = GoldTrees.difference

    def slow(trees: GoldTrees, *arguments: object) -> bytes:
        now[0] += 0.05
        used[0] += 0.01
        return whole(trees, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(GoldTrees, "difference", slow)
    trees.open((4, 9))
    sender.frames(now[0])
    assert sender.pause == pytest.approx(rooms.PAUSE_PER_WALK * 0.01)


def test_many_changes_are_several_frames_that_follow_one_another(
    speaker: Speaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rooms, "MAX_RECORDS_BYTES", 300)
    for host in range(100):
        speaker.trees.open((4, host))
    said = speaker.said()
    assert len(said) > 5
    assert [frame.base for frame in said] == [0, *(frame.seq for frame in said[:-1])]
    assert len([row for frame in said for row in decode(frame.records)]) == said[-1].hosts == 100


def test_what_is_beyond_a_burst_is_said_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rooms, "MAX_RECORDS_BYTES", 60)
    monkeypatch.setattr(rooms, "SESSIONS_PACE", rooms.SESSIONS_PACE._replace(max_frames=3))
    monkeypatch.setattr(rooms, "MAX_FIRST_FRAMES", 3)
    speaker = Speaker()
    for host in range(20):
        speaker.trees.open((4, host))
    said = []
    while len(said) < 20 and (more := speaker.said(MIN_PAUSE_S)):
        assert len(more) <= 3
        said += [row for frame in more for row in decode(frame.records)]
    assert len(said) == 20


def test_a_snapshot_has_all_that_was_said_and_nothing_else(speaker: Speaker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rooms, "MAX_RECORDS_BYTES", 300)
    for host in range(50):
        speaker.trees.open((6, host << 64), host + 1)
    last = speaker.said()[-1]
    speaker.trees.open((4, 1))
    speaker.said(0.0)
    parts = [unpack(part) for part in speaker.sender.snapshot()]
    assert [(part.part, part.parts) for part in parts] == [(at, len(parts)) for at in range(len(parts))]
    assert {part._replace(records=b"", part=0) for part in parts} == {
        Frame(FrameType.SNAPSHOT, 7, last.seq, 0, 0, 50, 1275, last.digest, b"", 0, len(parts))
    }
    rows = [row for part in parts for row in decode(part.records)]
    assert rows == [((6, host << 64), host + 1) for host in range(50)]


def test_a_snapshot_of_nothing_has_one_part(speaker: Speaker) -> None:
    (part,) = speaker.sender.snapshot()
    assert unpack(part)[:3] == (FrameType.SNAPSHOT, 7, 0)
    assert unpack(part).parts == 1


def test_a_goodbye_is_the_next_word(speaker: Speaker) -> None:
    speaker.said()
    assert unpack(speaker.sender.goodbye())[:3] == (FrameType.GOODBYE, 7, 2)


def test_a_silent_node_says_nothing_and_answers_nobody(speaker: Speaker) -> None:
    """Later it goes on where it was."""
    speaker.said()
    speaker.sender.silent = True
    speaker.trees.open((4, 9))
    assert speaker.said(10) == []
    assert speaker.sender.snapshot() == []
    assert speaker.sender.due(speaker.now) > 0
    speaker.sender.silent = False
    (frame,) = speaker.said()
    assert (frame.type, frame.seq, frame.base) == (FrameType.DELTA, 2, 0)


def test_a_node_of_many_hosts(speaker: Speaker) -> None:
    """Frames stay within their bound, and a host takes at most 5 bytes."""
    speaker.trees.own = {(4, (host * 2654435761) % 2**32): 1 for host in range(2_000)}
    frames = speaker.sender.frames(speaker.now)
    assert all(len(frame) <= MAX_FRAME_BYTES for frame in frames)
    assert sum(map(len, frames)) <= 5 * 2_000 + 64 * len(frames)


def test_a_walk_without_room_is_logged_once_and_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    trees = GoldTrees()
    sender = Sender(1, trees, lambda: 0.0)
    sender.frames(0.0)
    trees.open((4, 7), 1)
    with monkeypatch.context() as patch:
        patch.setattr(trees, "difference", raise_capacity)
        for second in range(1, 4):
            assert [unpack(frame).type for frame in sender.frames(second)] == [FrameType.HEARTBEAT]
    assert [unpack(frame).hosts for frame in sender.frames(4.0)] == [1]
    assert caplog.text.count("the rest is tried again") == 1


def raise_capacity(*arguments: object) -> bytes:
    raise CapacityError("no room")
