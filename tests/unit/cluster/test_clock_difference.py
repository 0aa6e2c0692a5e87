"""Nodes whose clocks differ are measured and named, and what they record is counted as before."""

from __future__ import annotations

import logging
from collections import Counter

import pytest
from tests.support.fake_cluster import EPOCH_S, FakeCluster, FakeNode
from tests.support.fake_engine import CALM

from inbound_audit.cli.cluster import row_text
from inbound_audit.cluster.change_log import ChangeLog, about
from inbound_audit.cluster.clock_difference import MAX_EQUAL_S, MIN_DIFFERENCE_S, WORDS, ClockDifference, in_words
from inbound_audit.cluster.frames import MAX_CLOCK_MS, FrameType, unpack
from inbound_audit.cluster.host_series import FOR_ALL, FOR_MANAGERS
from inbound_audit.cluster.node_state import NodeState, State
from inbound_audit.cluster.window_records import SeriesKey

KEY = SeriesKey("series", "failures", 60, 4)
MANAGED = SeriesKey("series", "managed", 60, 4)
LATE_S = 0.05
"""How late a word may be in a calm network, with the turns of nodes."""


class Clocks(FakeCluster):
    """Nodes whose clocks are ahead of UTC by as much as is said; all but the last have recorded something."""

    def __init__(self, *skews_s: float) -> None:
        super().__init__(faults=CALM)
        for at, skew_s in enumerate(skews_s):
            self.begin(f"mx{at}", skew_s)
        for node in self.nodes[:-1]:
            self.record(node)

    def begin(self, name: str, skew_s: float) -> FakeNode:
        node = self.start(name, skew_s=skew_s)
        node.events.replicate.update({KEY: FOR_ALL, MANAGED: FOR_MANAGERS})
        return node

    def record(self, node: FakeNode) -> None:
        node.events.record(KEY, int((EPOCH_S + self.now + node.skew_s) // KEY.interval), (4, 7), 1)

    def of(self, name: str, node: FakeNode | None = None) -> NodeState:
        """What a node, the last one, knows of another one."""
        return (node or self.nodes[-1]).receiver.nodes[name]


@pytest.mark.parametrize("skew_s", [0.0, 3.2, -3.2, 0.9, -0.9, 3600.0, -3600.0, 1e9])
def test_a_clock_is_measured(skew_s: float) -> None:
    """The one that is off says no windows; the other one is named there."""
    clocks = Clocks(0.0, skew_s)
    clocks.run(WORDS + 1)
    clock = clocks.of("mx0").clock
    assert clock.ahead_s == pytest.approx(-skew_s, abs=LATE_S)
    assert clock.differs == (abs(skew_s) > 1)
    assert about(clocks.of("mx0"))["clock_ahead_s"] == pytest.approx(-skew_s, abs=LATE_S)


def test_each_node_names_the_one_that_is_off_and_it_names_all_others() -> None:
    clocks = Clocks(0.0, 0.3, 5.0, 0.0)
    for node in clocks.nodes:
        clocks.record(node)
    clocks.run(WORDS + 2)
    named = {(node.name, name) for node in clocks.nodes for name, of in node.receiver.nodes.items() if of.clock.differs}
    assert named == {(name, "mx2") for name in ("mx0", "mx1", "mx3")} | {
        ("mx2", name) for name in ("mx0", "mx1", "mx3")
    }
    clocks.check_clocks()


def test_a_clock_that_is_set_is_seen_on_both_nodes() -> None:
    clocks = Clocks(0.0, 0.0)
    clocks.record(clocks.nodes[1])
    clocks.run(WORDS + 2)
    one, other = clocks.nodes
    for skew_s, seen in ((-7.0, True), (0.0, False), (7.0, True), (0.2, False)):
        other.skew_s = skew_s
        clocks.run(WORDS + 1)
        assert clocks.of("mx0", other).clock.differs == clocks.of("mx1", one).clock.differs == seen
        clocks.check_clocks()


def test_no_count_is_changed() -> None:
    """What is recorded lies in the window that the clock of its node gives it, on every node."""
    clocks = Clocks(45.0, 0.0)
    for _ in range(200):
        clocks.record(clocks.nodes[0])
        clocks.run(0.5, 0.1)
    assert clocks.of("mx0").clock.differs
    said = Counter[int]()
    for window, hosts in clocks.nodes[0].events.windows.items():
        said[window.number] += sum(hosts.values())
    series = clocks.nodes[1].series.series[KEY]
    counted = {number: sum(series.sums.get((number, 0), Counter()).values()) for number in said}
    assert counted == {number: count if number <= series.number else 0 for number, count in said.items()}
    clocks.check_windows()


def test_a_node_without_windows_says_no_clock() -> None:
    clocks = Clocks(9.0, 0.0)
    clocks.run(WORDS + 2)
    assert clocks.of("mx1", clocks.nodes[0]).clock.ahead_s is None
    assert clocks.of("mx0").clock.ahead_s is not None


def test_what_was_late_is_not_taken_for_a_clock_that_is_behind() -> None:
    """This host stood still for long; what came meanwhile is heard at once. Then the network is slow now and then."""
    clocks = Clocks(0.0, 0.0)
    clocks.run(WORDS + 2)
    state = clocks.of("mx0")
    for away_s in (2.0, 20.0):
        clocks.nodes[1].freeze()
        clocks.run(away_s)
        frames = list(clocks.nodes[1].inbox)
        clocks.nodes[1].inbox.clear()
        for node, frame, _ in frames:  # they come now
            clocks.nodes[1].receiver.heard(node, frame, clocks.now)
        assert not state.clock.differs
        clocks.nodes[1].thaw()
        for _ in range(40):
            clocks.run(0.1)
            assert not state.clock.differs
    clocks.network.faults = CALM._replace(max_delay_s=2.5)
    for _ in range(600):
        clocks.run(0.1)
        assert -2.6 < (state.clock.ahead_s or 0.0) < 0.01


def test_a_node_that_was_lost_or_begins_anew_is_measured_anew() -> None:
    clocks = Clocks(5.0, 0.0)
    clocks.run(WORDS + 1)
    assert clocks.of("mx0").clock.differs
    lost = clocks.nodes[0]
    clocks.kill(lost)
    clocks.run(3)
    assert clocks.of("mx0").clock.ahead_s is None
    assert not clocks.of("mx0").clock.differs
    clocks.start("mx0", lost.trees, lost.events, -5.0)
    clocks.run(WORDS + 1)
    assert clocks.of("mx0", clocks.nodes[0]).clock.ahead_s == pytest.approx(-5.0, abs=LATE_S)


def test_a_clock_that_can_t_be_said_is_bounded() -> None:
    for utc, said in ((-5.0, 0), (1e30, MAX_CLOCK_MS)):
        clocks = Clocks(0.0, 0.0)
        clocks.nodes[0].sender._utc = lambda utc=utc: utc
        clocks.run(1.5)
        assert clocks.of("mx0").state == State.HEARD
        times = [frame.clock_ms for frame in map(unpack, clocks.nodes[0].sender.frames(1e6)) if frame.type == 5]
        assert times == [said]


def test_each_word_about_windows_has_a_clock_and_no_other_has() -> None:
    clocks = Clocks(0.25, 0.0)
    said: list[FrameType] = []
    clocks.nodes[0].engine.publish = lambda frame: said.append((unpack(frame).type, unpack(frame).tree)) or True
    clocks.run(10)
    windows = [type_ for type_, tree in said if tree == FOR_ALL]
    assert windows.count(FrameType.CLOCK) == windows.count(FrameType.HEARTBEAT) + windows.count(FrameType.DELTA)
    assert 8 <= windows.count(FrameType.CLOCK) <= 11
    assert (FrameType.CLOCK, 0) not in said


# ---- by itself


def test_it_begins_and_ends_at_differences_that_lie_apart() -> None:
    clock, now = ClockDifference(), 0.0
    for ahead_s, differs in (
        (0.9, False),
        (MIN_DIFFERENCE_S, True),
        (0.8, True),
        (MAX_EQUAL_S - 0.1, False),
        (0.9, False),
    ):
        for _ in range(WORDS):
            now += 1
            clock.note(ahead_s, now)
        assert clock.differs == differs


def test_before_there_are_words_enough_nothing_is_known() -> None:
    clock = ClockDifference()
    for now in range(WORDS - 1):
        clock.note(60.0, float(now))
        assert (clock.ahead_s, clock.differs) == (None, False)
    for _ in range(100):  # as one word
        clock.note(60.0, WORDS - 2 + 0.1)
    assert clock.ahead_s is None
    clock.note(60.0, 60.0)
    assert (clock.ahead_s, clock.differs) == (60.0, True)


# ---- what is said of it


def test_the_agent_logs_its_begin_and_its_end(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    clocks = Clocks(3.2, 0.0)
    log = ChangeLog()
    for skew_s in (3.2, 3.2, 0.0, 0.0, -60.0):
        clocks.nodes[0].skew_s = skew_s
        for _ in range(WORDS + 1):
            clocks.run(1.0)
            log.report(list(clocks.nodes[1].receiver.nodes.values()))
    lines = [record.message for record in caplog.records if "clock" in record.message]
    assert lines == [
        "node mx0: its clock is 3.2 s ahead: windows are added up by the clock of each node",
        "node mx0: its clock differs no more",
        "node mx0: its clock is 60.0 s behind: windows are added up by the clock of each node",
    ]


@pytest.mark.parametrize(
    ("ahead_s", "words"), [(3.24, "3.2 s ahead"), (-1.0, "1.0 s behind"), (86400.0, "86400.0 s ahead")]
)
def test_it_is_said_in_words(ahead_s: float, words: str) -> None:
    assert in_words(ahead_s) == f"its clock is {words}"


def test_the_list_of_nodes_names_it() -> None:
    columns = ("sessions", "hosts", "gaps", "snapshots", "why", "windows", "window_hosts")
    row = {**dict.fromkeys(columns, 0), "node": "mx2", "state": "heard", "age_s": 0.004, "clock_ahead_s": -3.2}
    assert row_text({**row, "clock_differs": True}).endswith(
        "heard 4 ms ago, 0 gaps, 0 snapshots, its clock is 3.2 s behind"
    )
    assert "clock" not in row_text({**row, "clock_differs": False})
    assert "clock" not in row_text({**row, "clock_differs": None, "clock_ahead_s": None})
