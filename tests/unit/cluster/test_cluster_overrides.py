"""Overrides over a cluster: whatever is lost, late or repeated, every node comes to have the last change of each
prefix; and what a broken node says takes nothing but its share."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.effort import effort
from tests.support.fake_cluster import EPOCH_S, FakeCluster, FakeNode
from tests.support.fake_engine import CALM, Faults
from tests.support.timing import Clock
from tests.support.waiting import eventually

from inbound_audit import InboundAudit
from inbound_audit.cluster import host_overrides
from inbound_audit.cluster.frames import MAX_FRAME_BYTES, OVERRIDES, Frame, FrameType, pack, unpack
from inbound_audit.cluster.host_overrides import (
    DIGEST_S,
    MAX_ASK_S,
    SETTLE_S,
    HostOverrides,
)
from inbound_audit.cluster.node_state import State
from inbound_audit.cluster.repeating import Repeating
from inbound_audit.errors import ClusterError, SharedStateError
from inbound_audit.overrides.audit import MAX_BYTES_FROM_NODES, MAX_FROM_NODES
from inbound_audit.overrides.entry import LIFTED_S, MAX_WHY, Entry, Key, entry_of, exact_prefix
from inbound_audit.overrides.files import lines_of
from inbound_audit.overrides.table import Table

NAMES = ("mx1", "mx2", "mx3")
PREFIXES = ("192.0.2.0/24", "192.0.2.7/32", "2001:db8::/48")
FAULTS = Faults(loss=0.3, repeat=0.5, truncate=0.1, flip=0.1, max_delay_s=0.3, late_s=5.0)


def made(prefix: str, action: str = "deny", **more: Any) -> tuple[Key, Entry]:
    key = exact_prefix(prefix)
    fields = {"for_s": LIFTED_S, "why": "", "by": "me@there", "node": "there", "now": float(EPOCH_S), **more}
    changed = fields.pop("changed", EPOCH_S)
    return key, entry_of(action, key, **fields)._replace(changed=int(changed * 1e9))


def holds(node: FakeNode) -> dict[str, str]:
    return {entry.prefix: entry.action for _, entry in node.table.holding(node.utc())}


# ---- nodes together

names = st.sampled_from(NAMES)
steps = st.one_of(
    st.tuples(st.just("change"), names, st.sampled_from(("deny", "allow", "lift")), st.sampled_from(PREFIXES)),
    st.tuples(st.just("run"), st.sampled_from((0.05, 0.3, 2.0))),
    st.tuples(st.just("cut"), names, names),
    st.tuples(st.sampled_from(("restart", "freeze", "stop", "start")), names),
    st.tuples(st.sampled_from(("heal", "faults"))),
)  # fmt: skip


class Life:
    """Three hosts, whose agents come and go, and the last change of each prefix."""

    def __init__(self, skews: Iterable[float]) -> None:
        self.cluster = FakeCluster(1)
        self.gold = Table()
        self.tables = {name: Table() for name in NAMES}
        self.skews = dict(zip(NAMES, skews, strict=True))
        self.nodes: dict[str, FakeNode] = {}
        for name in NAMES:
            self.start(name)

    def start(self, name: str) -> None:
        if name not in self.nodes:
            self.nodes[name] = self.cluster.start(name, skew_s=self.skews[name], table=self.tables[name])

    def stop(self, name: str) -> None:
        if name in self.nodes:
            self.cluster.stop(self.nodes.pop(name))

    def restart(self, name: str) -> None:
        if name in self.nodes:
            self.cluster.kill(self.nodes.pop(name))
            self.start(name)

    def freeze(self, name: str) -> None:
        if name in self.nodes:
            self.nodes[name].freeze()

    def change(self, name: str, action: str, prefix: str) -> None:
        if name in self.nodes:  # an agent that is frozen has a host that is not
            self.nodes[name].change(action, prefix)
            self.gold.merge(self.tables[name].items())

    def cut(self, one: str, other: str) -> None:
        if one != other and one in self.nodes and other in self.nodes:
            self.cluster.cut(self.nodes[one], self.nodes[other])

    def faults(self) -> None:
        self.cluster.network.faults = FAULTS

    def heal(self) -> None:
        self.cluster.heal(CALM)

    def run(self, seconds: float) -> None:
        self.cluster.run(seconds, 0.05)


@settings(max_examples=effort(20, 300))
@given(st.tuples(*[st.sampled_from((0.0, -5.0, 5.0))] * 3), st.lists(steps, max_size=25))
def test_after_quiet_every_node_has_the_last_change_of_each_prefix(skews: Any, drawn: list[Any]) -> None:
    life = Life(skews)
    for name, *arguments in drawn:
        getattr(life, name)(*arguments)
    life.heal()
    for name in NAMES:
        life.start(name)
    for _ in range(int(2 * MAX_ASK_S)):
        life.run(1.0)
        if all(table == life.gold for table in life.tables.values()):
            break
    assert list(life.tables.values()) == [life.gold] * 3


def frames_of(node: FakeNode) -> list[Frame]:
    """The frames of overrides that a node publishes from now on."""
    published: list[Frame] = []
    publish = node.engine.publish

    def note(data: bytes) -> bool:
        frame = unpack(data)
        if frame.type == FrameType.OVERRIDES:
            published.append(frame)
        return publish(data)

    node.engine.publish = note  # type: ignore[method-assign]
    return published


def test_a_change_is_said_once_and_at_once() -> None:
    cluster = FakeCluster()
    nodes = [cluster.start(name) for name in NAMES]
    said = [frames_of(node) for node in nodes]
    asked: list[str] = []
    for node in nodes:
        node.engine.on_ask = lambda node=node: asked.append(node.name) or []
    cluster.run(0.5)
    assert said == [[], [], []]  # nobody has anything
    nodes[0].change("deny", "192.0.2.0/24")
    cluster.run(0.5)
    assert [holds(node) for node in nodes] == [{"192.0.2.0/24": "deny"}] * 3
    nodes[1].change("lift", "192.0.2.0/24")
    cluster.run(0.5)
    assert [holds(node) for node in nodes] == [{}] * 3
    cluster.run(5.0)
    with_lines = [[frame.records for frame in frames if frame.records] for frames in said]
    assert [len(lines) for lines in with_lines] == [1, 1, 0]
    assert all(len(frames) <= 2 + 6 / DIGEST_S for frames in said)
    assert asked == []


def test_who_joins_late_gets_what_a_node_has_said_that_is_gone() -> None:
    cluster = FakeCluster()
    origin, other = cluster.start("mx1"), cluster.start("mx2")
    origin.change("deny", "192.0.2.0/24")
    origin.change("deny", "198.51.100.0/24")
    cluster.run(0.5)
    origin.change("lift", "198.51.100.0/24")
    cluster.run(0.5)
    cluster.kill(origin)
    cluster.run(60.0)
    late = cluster.start("mx3", table=Table([made("198.51.100.0/24", for_s=1e6)]))  # it has missed the end of this one
    cluster.run(2 * DIGEST_S + 1.0)
    assert holds(late) == holds(other) == {"192.0.2.0/24": "deny"}


def test_what_has_ended_is_not_said() -> None:
    cluster = FakeCluster()
    node = cluster.start("mx1")
    said = frames_of(node)
    node.change("deny", "192.0.2.0/24", 0.01)
    cluster.run(3.0)
    assert said == []


# ---- one host


class Fixture:
    """The overrides of a host, its clock and its table."""

    def __init__(self) -> None:
        self.clock = Clock(EPOCH_S)
        self.table = Table()
        self.taken: list[list[str]] = []
        self.overrides = HostOverrides(lambda: Table(self.table), self._take, self.clock, self.clock)

    def _take(self, entries: Iterable[tuple[Key, Entry]]) -> None:
        self.taken.append(
            [entry.prefix for _, entry in self.table.later(entries, MAX_FROM_NODES, MAX_BYTES_FROM_NODES)]
        )

    def hear(self, *lines: bytes) -> list[str]:
        """What was taken of these lines."""
        self.taken.clear()
        self.overrides.put("mx2", b"".join(lines))
        self.overrides.carry_out()
        return [prefix for prefixes in self.taken for prefix in prefixes]


@pytest.fixture
def host() -> Fixture:
    return Fixture()


GOOD = made("203.0.113.0/24")[1]


@pytest.mark.parametrize(
    "bad",
    [
        b"nonsense\n",
        b"[" * 8000 + b"\n",
        b"\0" * 9000 + b"\n",
        b'{"prefix":"192.0.2.0/24"}\n',
        GOOD._replace(prefix="192.0.2.0/33").line(),
        GOOD._replace(why="a\nb").line(),
        GOOD._replace(changed=1 << 63).line(),
        made("192.0.2.0/24", changed=EPOCH_S + 2 * host_overrides.MAX_AHEAD_S)[1].line(),
        GOOD._replace(prefix="192.0.2.0/24", since=9e10).line(),
        GOOD._replace(prefix="192.0.2.0/24", until=EPOCH_S - 1.0, kept=EPOCH_S - 1.0).line(),
    ],
)
def test_a_bad_line_is_left_out_and_keeps_no_other_one_out(host: Fixture, bad: bytes) -> None:
    assert host.hear(bad, GOOD.line(), bad) == ["203.0.113.0/24"]


def test_a_line_that_the_host_has_is_not_read_again(host: Fixture, caplog: pytest.LogCaptureFixture) -> None:
    assert host.hear(GOOD.line()) == [GOOD.prefix]
    assert host.hear(GOOD.line()) == []
    assert host.taken == []


def test_what_others_say_leaves_room_for_the_host() -> None:
    table = Table()
    table.later([made(f"10.0.{at}.0/24") for at in range(25)], 20)
    assert len(table) == 20
    newer = [made("10.0.0.0/24", "lift", changed=EPOCH_S + 1), made("192.0.2.0/24"), made("203.0.113.0/24")]
    assert table.later(newer, 20) == newer[:2]  # the first makes room for the second
    assert len(table) == 21
    assert table.later([made("198.51.100.0/24")], 20) == []  # and what was lifted stays, for all that others say
    assert table.later([made("198.51.100.0/24", "lift")], 20)
    assert sum(entry.action == "lift" for entry in table.values()) == 2


def test_long_lines_of_others_leave_room_in_the_file() -> None:
    why = "\N{CJK UNIFIED IDEOGRAPH-4E00}" * MAX_WHY
    table = Table()
    table.later([made(f"10.0.{at}.0/24", why=why) for at in range(50)], 100, 20_000)
    size = sum(len(entry.line()) for entry in table.values())
    assert 20_000 - 2_000 < size <= 20_000
    assert table.later([made("10.0.0.0/24", why="shorter", changed=EPOCH_S + 1)], 100, 20_000)


def test_a_host_with_more_than_others_may_fill_takes_their_lifts() -> None:
    table = Table(made(f"10.0.{at}.0/24", why="a reason " * 9) for at in range(50))
    bounds = 100, 5_000, 20_000
    assert sum(len(entry.line()) for entry in table.values()) > 10_000
    changed = EPOCH_S + 1
    assert table.later([made("192.0.2.0/24")], *bounds) == []
    assert table.later([made("10.0.0.0/24", why="a reason " * 10, changed=changed)], *bounds) == []
    assert table.later([made("10.0.0.0/24", "lift", why="a reason " * 10, changed=changed)], *bounds)
    assert table.later([made("10.0.1.0/24", "allow", changed=changed)], *bounds)
    assert not table.later([made("10.0.2.0/24", "lift", why="a reason " * 10, changed=changed)], 100, 5_000, 5_000)


def test_all_of_a_full_table_are_said_and_answered_in_frames(host: Fixture) -> None:
    host.table.update(made(f"10.{at >> 8}.{at & 255}.0/24", why="a reason " * 9) for at in range(3_000))
    host.overrides.carry_out()
    lines = {entry.line() for entry in host.table.values()}
    said = []
    while words := host.overrides.words(host.clock(), 2):
        said.append(words)
        assert host.overrides.words(host.clock(), 2) is None  # not at once
        host.clock.step(0.25)
    for parts in (said, host.overrides.parts()):
        assert len(parts) > 2
        assert {line for part in parts for line in part.splitlines(keepends=True)} == lines
        assert max(len(pack(Frame(FrameType.OVERRIDES, 1, 1, records=part))) for part in parts) <= MAX_FRAME_BYTES


def test_what_waits_is_bounded(host: Fixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_overrides, "MAX_WAITING_LINES", 100)
    monkeypatch.setattr(host_overrides, "MAX_WAITING_BYTES", 10_000)
    for lines in (b"\n" * 100, b"x" * 10_000):
        assert host.hear(lines, GOOD.line()) == []
    for lines in (b"\n" * 50, b"x" * 5_000):  # one node has half of the room
        host.overrides.put("mx2", lines)
        assert host.hear(GOOD.line()) == []
    host.overrides.put("mx3", b"\n" * 100)
    host.overrides.put("mx3", b"\n" * 50)
    assert host.hear(GOOD.line()) == [GOOD.prefix]


def test_a_line_ends_with_a_line_feed_alone(host: Fixture) -> None:
    """As lines are counted and charged."""
    assert host.hear(GOOD.line() + b"\r" * 1_000 + b"\n") == [GOOD.prefix]
    assert lines_of(b"\r" * 1_000) == [b"\r" * 1_000]
    assert lines_of(b"a\vb\x1cc\r\nd\n") == [b"a\vb\x1cc\r", b"d"]


def test_a_failure_to_write_is_logged_and_mended_by_a_later_answer(
    host: Fixture, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(entries: object) -> None:
        raise SharedStateError("no space is left")

    with monkeypatch.context() as patch:
        patch.setattr(host.overrides, "_take", fail)
        assert host.hear(GOOD.line()) == []
    assert "no space is left" in caplog.text
    assert host.hear(GOOD.line()) == [GOOD.prefix]


# ---- what a node says to the receiver


def overrides_frame(node: FakeNode, lines: bytes = b"", digest: int = 7) -> bytes:
    return pack(Frame(FrameType.OVERRIDES, node.epoch, 1, 0, 0, 1, 1, digest, lines, tree=OVERRIDES))


def test_a_node_that_never_agrees_is_asked_less_and_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_overrides, "MAX_ASK_S", 8.0)
    cluster = FakeCluster()
    watcher, node = cluster.start("mx1"), cluster.start("mx2")
    asked = []
    node.engine.on_ask = lambda: asked.append(cluster.now) or []
    for _ in range(80):
        cluster.run(1.0, 0.25)
        node.engine.publish(overrides_frame(node))
    assert 80 / 8.0 <= len(asked) <= 4 + 80 / 8.0
    cluster.run(0.5)
    assert watcher.receiver.nodes["mx2"].state == State.HEARD


def test_no_digest_is_compared_just_after_a_change() -> None:
    """It may have been said before the change came to that node."""
    cluster = FakeCluster()
    watcher, node = cluster.start("mx1"), cluster.start("mx2")
    cluster.run(2.0)
    watcher.change("deny", "192.0.2.0/24")
    watcher.overrides.carry_out()
    for seconds, asked in ((0.0, []), (0.5 * SETTLE_S, []), (SETTLE_S, ["mx2"])):
        watcher.receiver.heard("mx2", overrides_frame(node), cluster.now + seconds)
        assert watcher.overrides.asks(()) == asked


def test_who_joins_while_changes_go_on_gets_what_was_before() -> None:
    cluster = FakeCluster()
    one, other = cluster.start("mx1"), cluster.start("mx2")
    one.change("deny", "192.0.2.0/24")
    cluster.run(2.0)
    late = cluster.start("mx3")
    for at in range(20):
        other.change("deny", f"10.0.{at}.0/24", 30.0)
        cluster.run(0.5, 0.05)
    assert "192.0.2.0/24" in holds(late)


def test_a_node_whose_answers_cost_much_is_asked_later() -> None:
    cluster = FakeCluster()
    watcher, node = cluster.start("mx1"), cluster.start("mx2")
    cluster.run(2.0)
    state = watcher.receiver.nodes["mx2"]
    node.change("deny", "192.0.2.0/24")
    node.overrides.carry_out()
    node.overrides.parts = lambda: [b"\n" * 10_000] * 20  # type: ignore[method-assign]
    watcher.receiver.answered("mx2", node.sender.snapshot(), cluster.now)
    assert state.ask_at > cluster.now + 5.0
    for digest in (7, watcher.overrides.digest, 8):
        watcher.receiver.heard("mx2", overrides_frame(node, digest=digest), cluster.now + 3.0)
        assert watcher.overrides.asks(()) == []


def test_changes_that_never_end_keep_nothing_out_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Digests are not compared just after a change; but one that was missed comes all the same."""
    monkeypatch.setattr(host_overrides, "MAX_ASK_S", 8.0)
    cluster = FakeCluster()
    one, other = cluster.start("mx1"), cluster.start("mx2")
    cluster.run(0.5)
    cluster.cut(one, other)
    one.change("deny", "192.0.2.0/24")
    cluster.run(0.5)
    cluster.network.cut.clear()
    for at in range(40):
        other.change("deny", f"10.0.{at}.0/24", 30.0)
        cluster.run(0.5, 0.05)
        if "192.0.2.0/24" in holds(other):
            return
    raise AssertionError("it never came")


def test_lines_are_taken_of_nodes_alone_that_are_counted_and_within_their_bound() -> None:
    cluster = FakeCluster()
    watcher, node = cluster.start("mx1"), cluster.start("mx2")
    node.engine.publish(overrides_frame(node, GOOD.line()))  # before any sign of life
    stranger = Frame(FrameType.OVERRIDES, 5, 1, records=GOOD.line(), tree=OVERRIDES)
    watcher.receiver.heard("mx9", pack(stranger), cluster.now)
    watcher.overrides.carry_out()
    assert holds(watcher) == {}
    assert "mx9" not in watcher.receiver.nodes
    cluster.run(0.5)
    state = watcher.receiver.nodes["mx2"]
    before = state.allowance
    watcher.receiver.heard("mx2", overrides_frame(node, b"\n" * 100_000), cluster.now)
    assert state.allowance - before > 10.0
    watcher.receiver.heard("mx2", overrides_frame(node, GOOD.line()), cluster.now)
    watcher.overrides.carry_out()
    assert holds(watcher) == {}
    assert state.dropped == 1


def test_an_agent_without_overrides_counts_on() -> None:
    """As one of before they were shared: their frames and parts change nothing."""
    cluster = FakeCluster()
    watcher, node = cluster.start("mx1"), cluster.start("mx2")
    watcher.receiver._overrides = None
    node.change("deny", "192.0.2.0/24")
    node.trees.open((4, 1))
    cluster.run(0.5)
    node.trees.open((4, 2))
    watcher.receiver.answered("mx2", node.sender.snapshot(), cluster.now)
    cluster.run(0.5)
    cluster.check_views()
    assert holds(watcher) == {}


# ---- the thread, and what it asks


def test_a_job_that_fails_is_done_again(caplog: pytest.LogCaptureFixture) -> None:
    done: list[int] = []

    def job() -> None:
        done.append(1)
        raise ValueError("it is broken")

    repeating = Repeating(job, 0.001)
    repeating.start()
    eventually(lambda: len(done) > 2, "it is done again")
    repeating.close()
    assert "it is broken" in caplog.text


def test_without_a_thread_the_agent_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    repeating = Repeating(list, 0.001)
    with pytest.raises(ClusterError, match="no overrides of other nodes can be taken: can't start new thread"):
        repeating.start()
    repeating.close()


def test_a_change_makes_another_table() -> None:
    """So that who looks for changes need not compare 10,000 of them."""
    with InboundAudit() as audit:
        before = audit._overrides.table
        assert audit._overrides.table is before
        audit.deny("192.0.2.0/24")
        assert len(before) == 0
        assert [entry.prefix for entry in audit._overrides.table.values()] == ["192.0.2.0/24"]
