"""Windows over a cluster: what a host says of its series, and what it counts of those of other nodes."""

from __future__ import annotations

import logging
from collections import Counter

import pytest
from tests.support.fake_cluster import EPOCH_S, FakeCluster, FakeNode
from tests.support.fake_engine import CALM, Faults
from tests.support.gold_nodes import GoldTree, Host, decode, encode
from tests.support.gold_series import Events, GoldSeries, GoldSeriesTrees

from inbound_audit.cluster import host_series, sender
from inbound_audit.cluster.bounds import Bounds
from inbound_audit.cluster.copies import REFUSE_S
from inbound_audit.cluster.frames import Frame, FrameType, pack, unpack
from inbound_audit.cluster.host_series import FOR_ALL, FOR_MANAGERS, RETRY_S, HostSeries
from inbound_audit.cluster.leases import LEASE_S
from inbound_audit.cluster.node_state import WINDOW_COST_BYTES, State
from inbound_audit.cluster.sender import Sender
from inbound_audit.cluster.window_records import MAX_HEAD_BYTES, UNFOLDED, SeriesKey, Window, WindowRecords
from inbound_audit.cluster.window_records import pack as pack_windows
from inbound_audit.cluster.window_records import unpack as unpack_windows
from inbound_audit.cluster.windows import MIN_ROOM_BYTES, WindowTrees
from inbound_audit.errors import CapacityError

NAMED = SeriesKey("series", "failures", 3600, 2)
MONITOR = SeriesKey("rejections", "300,6", 300, 6)
HOST: Host = (4, 7)


class Hosts(FakeCluster):
    """Two nodes, in whose series something is recorded."""

    def __init__(self, bounds: Bounds = Bounds(), replicate: int = FOR_ALL) -> None:  # noqa: B008 - it is immutable
        super().__init__(bounds=bounds)
        self.replicate = replicate
        self.one, self.two = self.host("mx1"), self.host("mx2")

    def host(self, name: str, events: Events | None = None) -> FakeNode:
        node = self.start(name, events=events)
        node.events.replicate.setdefault(NAMED, self.replicate)
        return node

    def number(self, key: SeriesKey = NAMED) -> int:
        return int((EPOCH_S + self.now) // key.interval)

    def record(self, node: FakeNode, by: int = 1, host: Host = HOST, key: SeriesKey = NAMED, back: int = 0) -> None:
        node.events.record(key, self.number(key) - back, host, by)

    def counted(self, node: FakeNode, key: SeriesKey = NAMED, back: int = 0, sign: int = 0) -> dict[Host, int]:
        """What a node counts of the others."""
        series = node.series.series.get(key)
        return dict(series.sums.get((self.number(key) - back, sign), Counter())) if series else {}


@pytest.fixture
def hosts() -> Hosts:
    hosts = Hosts()
    hosts.run(2)
    return hosts


def test_each_node_counts_what_the_others_have_recorded(hosts: Hosts) -> None:
    three = hosts.host("mx3")
    hosts.record(hosts.two, 3)
    hosts.record(hosts.two, -1)
    hosts.record(three, 5, back=1)
    hosts.record(three, 2)
    hosts.run(3)
    assert hosts.counted(hosts.one) == {HOST: 5}
    assert hosts.counted(hosts.one, sign=1) == {HOST: 1}
    assert hosts.counted(hosts.one, back=1) == {HOST: 5}
    assert hosts.counted(hosts.two) == {HOST: 2}
    assert hosts.counted(three) == {HOST: 3}
    hosts.check_windows()


@pytest.mark.parametrize(
    ("replicate", "managers", "counts"),
    [(0, ("mx1",), False), (FOR_ALL, (), True), (FOR_MANAGERS, (), False), (FOR_MANAGERS, ("mx1",), True)],
)
def test_a_series_says_for_whom_it_is(replicate: int, managers: tuple[str, ...], counts: bool) -> None:
    hosts = Hosts(replicate=replicate)
    hosts.network.faults = CALM._replace(min_delay_s=CALM.max_delay_s)  # so frames keep their order
    hosts.kill(hosts.one)
    hosts.managers = managers
    one = hosts.host("mx1")
    hosts.record(hosts.two)
    hosts.run(3)
    assert hosts.counted(one) == ({HOST: 1} if counts else {})
    assert one.receiver.nodes["mx2"].dropped == 0
    assert one.receiver.nodes["mx2"].whole


@pytest.mark.parametrize("monitors", [(), ("300,6",), ("300,5", "300,6")])
def test_a_monitor_is_counted_if_the_agent_was_given_it(monitors: tuple[str, ...]) -> None:
    hosts = Hosts()
    hosts.monitors = monitors
    one, two = hosts.host("mx3"), hosts.host("mx4")
    for node in (one, two):
        node.events.replicate[MONITOR] = 0
    hosts.record(two, key=MONITOR)
    hosts.run(3)
    assert hosts.counted(one, MONITOR) == ({HOST: 1} if "300,6" in monitors else {})


def test_nothing_is_said_of_windows_where_there_is_nothing(hosts: Hosts) -> None:
    """Nor is a copy made of what a node has not."""
    frames: list[Frame] = []
    hosts.one.receiver.heard("mx2", pack(Frame(FrameType.HEARTBEAT, hosts.two.epoch, 10**6, tree=FOR_ALL)), hosts.now)
    for node in hosts.nodes:
        node.engine.on_frame = lambda node, data: frames.append(unpack(data))
    hosts.run(4)
    assert len(frames) > 20
    assert {frame.tree for frame in frames} == {0}
    assert hosts.one.receiver.nodes["mx2"].windows == {}


def test_a_window_takes_a_pause_of_its_own(hosts: Hosts) -> None:
    said: list[Frame] = []
    for node in hosts.nodes:
        node.engine.on_frame = lambda node, data: said.append(unpack(data))
    for _ in range(300):
        hosts.record(hosts.two)
        hosts.two.trees.open(HOST)
        hosts.run(0.01)
    trees = Counter(frame.tree for frame in said if frame.type == FrameType.DELTA)
    assert trees[0] > 100
    assert trees[FOR_ALL] <= 4


def test_the_last_change_is_seen_although_it_was_lost(hosts: Hosts) -> None:
    """Also when no window is left to speak of."""
    hosts.record(hosts.two)
    hosts.run(3)
    hosts.cut(hosts.two, hosts.one)
    hosts.two.events.clear()
    hosts.run(1.1)
    hosts.heal()
    assert hosts.counted(hosts.one) == {HOST: 1}
    hosts.run(2.5)
    assert hosts.counted(hosts.one) == {}


def test_a_node_that_is_lost_takes_its_windows_along_and_brings_them_back(hosts: Hosts) -> None:
    hosts.record(hosts.two)
    hosts.run(3)
    hosts.two.freeze()
    hosts.run(LEASE_S + 0.2)
    assert hosts.counted(hosts.one) == {}
    hosts.two.thaw()
    hosts.run(3)
    assert hosts.counted(hosts.one) == {HOST: 1}
    assert hosts.one.receiver.nodes["mx2"].whole
    hosts.stop(hosts.two)
    hosts.run(0.1)
    assert hosts.counted(hosts.one) == {}


def test_an_agent_that_restarts_within_a_second_is_never_gone(hosts: Hosts) -> None:
    hosts.network.faults = CALM._replace(hint=0)
    hosts.record(hosts.two, 4)
    hosts.run(3)
    node = hosts.two
    for _ in range(5):
        hosts.kill(node)
        for step in range(200):
            if step == 60:
                node = hosts.host("mx2", node.events)
            hosts.run(0.01)
            assert hosts.counted(hosts.one) == {HOST: 4}
    hosts.record(node)
    hosts.run(3)
    assert hosts.counted(hosts.one) == {HOST: 5}


def test_windows_of_a_series_that_no_process_has_wait_for_one(hosts: Hosts) -> None:
    other = NAMED._replace(name="other")
    hosts.two.events.replicate[other] = FOR_ALL
    hosts.record(hosts.two, key=other)
    hosts.run(3)
    assert hosts.one.receiver.nodes["mx2"].whole
    assert hosts.counted(hosts.one, other) == {}
    hosts.one.events.replicate[other] = FOR_ALL
    hosts.run(1.1)
    assert hosts.counted(hosts.one, other) == {HOST: 1}
    hosts.record(hosts.two, key=other)
    hosts.run(2.5)
    assert hosts.counted(hosts.one, other) == {HOST: 2}


def test_windows_turn_on_both_sides(hosts: Hosts) -> None:
    short = SeriesKey("series", "short", 4, 3)
    for node in hosts.nodes:
        node.events.replicate[short] = FOR_ALL
    for _ in range(25):
        hosts.record(hosts.two, key=short)
        hosts.run(1.0)
        hosts.check_windows()
    windows = hosts.one.receiver.nodes["mx2"].windows[FOR_ALL].tree.windows
    assert 2 <= len(windows) <= 4


@pytest.mark.parametrize("steps_s", [(3600.0, 0.0), (-3600.0, 0.0), (7200.0, 0.0), (10_000_000.0, -7200.0, 0.0)])
def test_a_clock_that_is_set_and_set_back_changes_no_count(hosts: Hosts, steps_s: tuple[float, ...]) -> None:
    hosts.record(hosts.two, 3)
    hosts.record(hosts.two, 5, back=1)
    hosts.run(3)
    for step_s in steps_s:
        hosts.one.skew_s = step_s
        hosts.run(0.2)
    assert hosts.counted(hosts.one) == {HOST: 3}
    assert hosts.counted(hosts.one, back=1) == {HOST: 5}


def test_a_turn_sums_up_the_new_window_alone(hosts: Hosts) -> None:
    series = hosts.one.series.series[NAMED]
    assert isinstance(series, GoldSeries)
    fills = series.fills
    hosts.one.skew_s = 3600.0
    hosts.run(0.2)
    assert series.fills == fills + 2


def test_more_windows_or_hosts_than_the_bounds_are_not_counted_and_sessions_are() -> None:
    hosts = Hosts(Bounds(max_window_hosts=5, max_windows=1))
    hosts.two.trees.open(HOST)
    for host in range(6):
        hosts.record(hosts.two, host=(4, host))
    hosts.run(3)
    state = hosts.one.receiver.nodes["mx2"]
    assert (state.state, state.hosts) == (State.HEARD, 1)
    assert state.refused_windows
    assert "windows" in state.why
    assert hosts.counted(hosts.one) == {}
    assert hosts.one.receiver.copies.windows.hosts == 0
    snapshots = state.snapshots
    hosts.run(5)
    assert state.snapshots == snapshots
    hosts.two.events.remove(NAMED, (4, 5))
    hosts.run(REFUSE_S + 2)
    assert not state.refused_windows
    assert len(hosts.counted(hosts.one)) == 5
    hosts.record(hosts.two, host=(4, 1), back=1)
    hosts.run(3)
    assert state.refused_windows
    assert state.hosts == 1


def test_a_node_with_more_events_than_the_bound_takes_no_room_of_the_others() -> None:
    hosts = Hosts(Bounds(max_window_events=5))
    three = hosts.host("mx3")
    hosts.record(three)
    for _ in range(5):
        hosts.record(hosts.two)
    hosts.run(3)
    assert hosts.counted(hosts.one) == {HOST: 6}
    hosts.record(hosts.two)
    hosts.run(3)
    state = hosts.one.receiver.nodes["mx2"]
    assert state.refused_windows
    assert state.why == "its windows: more than 5 events in a window"
    assert hosts.counted(hosts.one) == {HOST: 1}


def test_a_node_that_makes_and_drops_windows_without_end_is_slowed_down(hosts: Hosts) -> None:
    """Its windows cost more than their bytes."""
    key = NAMED._replace(name="flood")
    windows = [Window(key, number, 0) for number in range(100)]
    changes = [
        b"".join(pack_windows(WindowRecords(window, UNFOLDED, records)) for window in windows)
        for records in (encode({HOST: 1}), b"")
    ]
    said = hosts.two.series.copy(100, 100, 100)
    state = hosts.one.receiver.nodes["mx2"]
    base, seq = 0, 10**6
    for _ in range(500):
        for records in changes:
            said.set_many(records)
            frame = Frame(FrameType.DELTA, hosts.two.epoch, seq, base, 0, said.hosts, said.total, said.digest, records)
            hosts.one.receiver.heard("mx2", pack(frame._replace(tree=FOR_ALL)), hosts.now)
            base, seq = seq, seq + 1
    bounds = hosts.bounds
    taken = state.windows[FOR_ALL].tree.handled * WINDOW_COST_BYTES
    assert 0 < taken <= bounds.max_bytes_per_s * bounds.burst_s + len(windows) * WINDOW_COST_BYTES
    assert "more bytes per second than the bound" in state.why


@pytest.mark.parametrize("bounds", [Bounds(max_all_window_hosts=3), Bounds(max_all_windows=1)])
def test_windows_of_all_nodes_have_a_bound(bounds: Bounds) -> None:
    hosts = Hosts(bounds)
    three = hosts.host("mx3")
    for host in range(2):
        hosts.record(hosts.two, host=(4, host))
        hosts.record(three, host=(4, host))
    hosts.run(3)
    refused = [state.refused_windows for state in hosts.one.receiver.nodes.values()]
    assert sum(refused) == 1
    assert hosts.counted(hosts.one) == {(4, 0): 1, (4, 1): 1}


def test_a_node_of_too_many_sessions_has_no_windows_either() -> None:
    hosts = Hosts(Bounds(max_hosts=2))
    hosts.record(hosts.two)
    hosts.run(3)
    for host in range(3):
        hosts.two.trees.open((4, host))
    hosts.run(3)
    assert hosts.one.receiver.nodes["mx2"].state == State.TOO_LARGE
    assert hosts.counted(hosts.one) == {}
    hosts.two.trees.clear()
    hosts.run(3)
    assert hosts.counted(hosts.one) == {HOST: 1}


def test_a_tree_that_is_not_known_is_dropped_with_a_reason(hosts: Hosts) -> None:
    hosts.one.receiver.heard("mx2", pack(Frame(FrameType.HEARTBEAT, hosts.two.epoch, 10**6, tree=3)), hosts.now)
    state = hosts.one.receiver.nodes["mx2"]
    assert (state.dropped, state.why) == (1, "it is about a tree that this agent does not know")
    assert state.whole


def test_an_answer_without_windows_is_that_of_an_agent_without_them(hosts: Hosts) -> None:
    parts = [part for part in hosts.two.sender.snapshot() if unpack(part).tree == 0]
    hosts.one.receiver.answered("mx2", parts, hosts.now)
    assert hosts.one.receiver.nodes["mx2"].whole


def test_an_answer_leaves_out_what_has_no_room(hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sessions come first."""
    for host in range(30):
        hosts.record(hosts.two, host=(6, host << 64))
        hosts.two.trees.open((6, host << 64))
    hosts.run(2)
    monkeypatch.setattr(sender, "MAX_RECORDS_BYTES", MAX_HEAD_BYTES + 100)
    trees = [unpack(part).tree for part in hosts.two.sender.snapshot()]
    assert set(trees) == {0, 1, 2}
    monkeypatch.setattr(sender, "MAX_PARTS", trees.count(0) + 1)
    assert [unpack(part).tree for part in hosts.two.sender.snapshot()] == [0] * trees.count(0) + [2]


# ---- the windows of this host


class Speaker:
    """What one host says of its windows."""

    def __init__(self) -> None:
        self.events = Events()
        self.events.replicate[NAMED] = FOR_ALL
        self.now = 7200.0
        self.series = HostSeries(GoldSeriesTrees(self.events, lambda: self.now), clock=lambda: self.now)
        self.series.find()
        self.series.turn()
        self.windows = self.series.said[FOR_ALL]

    def said(self, max_bytes: int = 10_000) -> list[tuple[int, list[tuple[Host, int]]]]:
        records = self.windows.difference(self.windows.said(), max_bytes)
        self.windows.said().set_many(records)
        return [(one.window.number, list(decode(one.records))) for one in unpack_windows(records)]


def test_what_changes_behind_a_walk_is_said_by_the_next() -> None:
    """A walk that had no room goes on where it stopped; a host before that place may have changed."""
    speaker = Speaker()
    speaker.events.record(NAMED, 2, (4, 99), 1)
    speaker.said()
    for host in range(30):
        speaker.events.record(NAMED, 2, (4, host), 1)
    first = speaker.said(MAX_HEAD_BYTES + 200)
    assert not speaker.windows.complete
    speaker.events.record(NAMED, 2, (4, 0), 1)
    said = [row for _ in range(10) for _, rows in speaker.said() for row in rows]
    assert ((4, 0), 2) in said
    assert len(first[0][1]) + len(said) == 31


def test_windows_that_are_new_and_have_no_room_are_said_whole() -> None:
    speaker = Speaker()
    for by in (1, -1):
        for host in range(30):
            speaker.events.record(NAMED, 2, (4, host), by)
    said = [row for _ in range(20) for _, rows in speaker.said(MAX_HEAD_BYTES + 200) for row in rows]
    assert said == 2 * [((4, host), 1) for host in range(30)]


def test_a_window_that_changes_all_the_time_keeps_no_other_one_waiting() -> None:
    """Each call has room for a part of one window."""
    speaker = Speaker()
    speaker.events.record(NAMED, 2, HOST, 1)
    said: set[int] = set()
    for _ in range(60):
        for host in range(30):
            speaker.events.record(NAMED, 1, (4, host), 1)
        said |= {number for number, _ in speaker.said(MAX_HEAD_BYTES + MIN_ROOM_BYTES)}
    assert said == {1, 2}
    assert [row for _ in range(60) for row in speaker.said(MAX_HEAD_BYTES + MIN_ROOM_BYTES)]
    assert speaker.windows.complete
    assert [(number, len(rows)) for number, rows in speaker.said()] == []


def test_a_window_that_has_not_changed_is_not_walked(monkeypatch: pytest.MonkeyPatch) -> None:
    speaker = Speaker()
    speaker.events.record(NAMED, 2, HOST, 1)
    assert speaker.said() == [(2, [(HOST, 1)])]
    monkeypatch.setattr(GoldSeries, "difference", lambda *arguments: pytest.fail("a window is walked"))
    assert speaker.said() == []


def test_a_window_that_leaves_the_view_is_said_as_empty() -> None:
    speaker = Speaker()
    speaker.events.record(NAMED, 2, HOST, 1)
    speaker.events.record(NAMED, 1, HOST, 1)
    speaker.said()
    speaker.now += 3600
    speaker.series.turn()
    assert speaker.said() == [(1, [])]
    speaker.events.replicate.clear()
    speaker.series.find()
    assert speaker.said() == [(2, [])]
    assert not speaker.windows.changed()


def test_levels_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    speaker = Speaker()
    speaker.events.record(NAMED, 2, HOST, 1)
    speaker.said()
    speaker.events.fold(NAMED, 2, (24, 64))
    records = speaker.windows.difference(speaker.windows.said(), 10_000)
    (said,) = unpack_windows(records)
    assert said.levels == (24, 64)
    speaker.windows.said().set_many(records)
    assert speaker.said() == []


def test_windows_beyond_the_bound_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_series, "MAX_WINDOWS", 1)
    speaker = Speaker()
    for number in (1, 2):
        speaker.events.record(NAMED, number, HOST, 1)
    assert not speaker.windows.is_too_much
    assert speaker.said() == [(1, [(HOST, 1)])]
    assert speaker.windows.is_too_much
    speaker.events.record(NAMED, 1, HOST, 1)
    assert speaker.said() == [(1, [(HOST, 2)])]
    speaker.now += 3600
    speaker.series.turn()
    assert speaker.said() == [(1, [])]
    assert speaker.said() == [(2, [(HOST, 1)])]


def test_other_trees_take_over(hosts: Hosts) -> None:
    """As an agent does that has used up its file."""
    hosts.record(hosts.two)
    hosts.record(hosts.one)
    hosts.run(3)
    node = hosts.one
    trees = GoldSeriesTrees(node.events, lambda: EPOCH_S + hosts.now)
    node.series.move(trees)
    assert hosts.counted(node) == {HOST: 1}
    assert trees.made == node.series.series
    hosts.record(hosts.two)
    hosts.record(node)
    hosts.run(3)
    assert hosts.counted(node) == {HOST: 2}
    assert hosts.counted(hosts.two) == {HOST: 2}


def test_a_window_without_room_is_logged_once_and_summed_up_again(
    hosts: Hosts, caplog: pytest.LogCaptureFixture
) -> None:
    series = hosts.one.series.series[NAMED]
    assert isinstance(series, GoldSeries)
    series.max_hosts = 2
    for host in range(4):
        hosts.record(hosts.two, host=(4, host))
    hosts.run(3)
    fills = series.fills
    hosts.run(2 * RETRY_S)
    assert fills < series.fills <= fills + 3 * 4
    assert [record.levelno for record in caplog.records if "failures" in record.message] == [logging.WARNING]
    series.max_hosts = 10
    hosts.run(RETRY_S + 1)
    assert len(hosts.counted(hosts.one)) == 4


def test_a_series_without_room_is_counted_on_its_host_alone(caplog: pytest.LogCaptureFixture) -> None:
    speaker = Speaker()
    speaker.series._trees.max_series = 1  # type: ignore[attr-defined]
    speaker.events.replicate[NAMED._replace(name="more")] = FOR_ALL
    for _ in range(3):
        speaker.series.find()
        speaker.series.turn()
    assert len(caplog.records) == 1
    assert "more is counted on this host alone" in caplog.text
    assert speaker.windows.keys == [NAMED]


def test_a_series_without_room_for_what_waits_is_tried_again(
    hosts: Hosts, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    other = NAMED._replace(name="other")
    hosts.two.events.replicate[other] = FOR_ALL
    for back in (0, 1):
        hosts.record(hosts.two, key=other, back=back)
    hosts.run(3)
    series = hosts.one.series._trees.series(*other)
    assert isinstance(series, GoldSeries)
    series.max_trees = 1
    hosts.one.events.replicate[other] = FOR_ALL
    hosts.run(3)
    assert other not in hosts.one.series.series
    assert hosts.one.receiver.nodes["mx2"].whole
    assert caplog.text.count("other is counted on this host alone: no room for one more window") == 1
    series.max_trees = 100
    hosts.run(RETRY_S + 1)
    assert (hosts.counted(hosts.one, other), hosts.counted(hosts.one, other, back=1)) == ({HOST: 1}, {HOST: 1})


def test_windows_of_a_node_without_room_are_not_counted_and_say_why(hosts: Hosts) -> None:
    series = hosts.one.series.series[NAMED]
    assert isinstance(series, GoldSeries)
    series.max_trees = 0
    hosts.record(hosts.two)
    hosts.run(3)
    assert hosts.one.receiver.nodes["mx2"].why == "its windows: no room for one more window"
    assert hosts.counted(hosts.one) == {}


def test_frames_of_windows_follow_one_another_and_stop_after_a_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sessions need room, too."""
    monkeypatch.setattr(sender, "MAX_RECORDS_BYTES", MAX_HEAD_BYTES + 100)
    monkeypatch.setattr(sender, "WINDOWS_PACE", sender.WINDOWS_PACE._replace(max_frames=3))
    monkeypatch.setattr(sender, "MAX_FIRST_FRAMES", 5)
    speaker = Speaker()
    hosts = Hosts()
    speaks = Sender(1, hosts.one.trees, lambda: speaker.now, speaker.series.said.values())
    for host in range(40):
        speaker.events.record(NAMED, 2, (6, host << 64), 1)
    said = []
    for at in range(20):
        frames = [unpack(frame) for frame in speaks.frames(speaker.now)]
        changes = [frame for frame in frames if frame.tree == FOR_ALL and frame.type == FrameType.DELTA]
        assert len(changes) == 5 if at == 0 else len(changes) <= 3
        said += changes
        speaker.now += 1
    assert [frame.base for frame in said] == [0, *(frame.seq for frame in said[:-1])]
    assert said[-1].hosts == 40


def test_an_engine_that_loses_half_of_all_frames(hosts: Hosts) -> None:
    hosts.network.faults = Faults(loss=0.5, repeat=0.5, late_s=3.0, max_delay_s=0.2)
    for at in range(30):
        hosts.record(hosts.two, host=(4, at % 5))
        hosts.run(0.3)
    hosts.heal(CALM)
    hosts.run(4)
    hosts.check_windows()
    hosts.check_always(hosts.one)


def test_a_window_that_was_not_set_is_said_by_the_next_walk(monkeypatch: pytest.MonkeyPatch) -> None:
    speaker = Speaker()
    hosts = Hosts()
    speaks = Sender(1, hosts.one.trees, lambda: speaker.now, speaker.series.said.values())
    speaker.events.record(NAMED, 2, HOST, 1)

    def no_room(*arguments: object) -> None:
        raise CapacityError("no room")

    with monkeypatch.context() as patch:
        patch.setattr(GoldTree, "set_many", no_room)
        speaks.frames(speaker.now)
    assert speaker.windows.said().hosts == 0
    speaker.now += 1
    speaks.frames(speaker.now)
    assert speaker.windows.said().hosts == 1


@pytest.mark.parametrize("name", ["", "x" * 65, "\ud800"])
def test_a_series_that_no_frame_names_is_passed_over(name: str) -> None:
    speaker = Speaker()
    speaker.events.replicate[NAMED._replace(name=name)] = FOR_ALL
    speaker.series.find()
    assert speaker.windows.keys == [NAMED]


def test_a_monitor_of_another_size_than_its_name_is_not_said() -> None:
    speaker = Speaker()
    speaker.series = HostSeries(GoldSeriesTrees(speaker.events, lambda: speaker.now), ["300,6"])
    for key in (MONITOR, MONITOR._replace(interval=60)):
        speaker.events.replicate[key] = 0
    speaker.series.find()
    assert set(speaker.series.series) == {MONITOR, NAMED}


def test_a_series_without_room_for_its_trees_ends_no_agent(hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    other = NAMED._replace(name="other")
    for node in hosts.nodes:
        node.events.replicate[other] = FOR_ALL
    hosts.record(hosts.two, key=other)
    hosts.run(3)
    one = hosts.one.series

    def no_room(*arguments: object) -> None:
        raise CapacityError("no room")

    monkeypatch.setattr(WindowTrees, "remake", no_room)
    one.series.pop(other)
    one.find()
    assert other not in one.series
