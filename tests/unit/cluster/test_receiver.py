"""What a receiver makes of frames: epochs, leases, snapshots, duplicates, and the bounds that hold against forgers."""

from __future__ import annotations

import struct
from collections.abc import ValuesView
from random import Random
from zlib import crc32

import pytest
from tests.support.effort import effort
from tests.support.gold_nodes import GoldTree, GoldTrees, encode

from inbound_audit.cluster.bounds import Bounds
from inbound_audit.cluster.copies import GAP_S, REFUSE_SESSIONS_S
from inbound_audit.cluster.frames import Frame, FrameType, pack, unpack
from inbound_audit.cluster.leases import HEARTBEAT_S, LEASE_S, LONG_LEASE_S, MANY_NODES
from inbound_audit.cluster.node_state import MAX_OTHERS, MAX_UNANSWERED_S, NodeState, State
from inbound_audit.cluster.own_name import RESUME_S
from inbound_audit.cluster.receiver import (
    CHECK_S,
    DISAGREE_S,
    FORGET_S,
    HINT_LEASE_S,
    Receiver,
)
from inbound_audit.cluster.replica import WAITING_FRAME_BYTES
from inbound_audit.cluster.sender import Sender

OWN_EPOCH = 5


class Pair:
    """One node that speaks and one that hears; the test carries the frames."""

    def __init__(self, bounds: Bounds = Bounds()) -> None:  # noqa: B008 - it is immutable
        self.now = 1000.0
        self.trees = GoldTrees(bounds.max_nodes)
        self.receiver = Receiver("here", OWN_EPOCH, self.trees, lambda: self.now, bounds)
        self.begin(1)

    def begin(self, epoch: int) -> None:
        """The node that speaks begins anew, with the sessions that it has."""
        before = self.own.own if hasattr(self, "own") else {}
        self.own = GoldTrees()
        self.own.own = before
        self.sender = Sender(epoch, self.own, lambda: self.now)

    def open(self, host: int, sessions: int = 1) -> None:
        self.own.open((4, host), sessions)

    def say(self, wait_s: float = HEARTBEAT_S) -> list[bytes]:
        self.now += wait_s
        return self.sender.frames(self.now)

    def hear(self, *frames: bytes, node: str = "mx1") -> None:
        for frame in frames:
            self.receiver.heard(node, frame, self.now)

    def talk(self, wait_s: float = HEARTBEAT_S) -> None:
        self.hear(*self.say(wait_s))

    def lose_a_change(self) -> None:
        """A frame is lost, and the next one shows that it was."""
        self.open(2)
        self.say()
        self.talk()

    def answer(self) -> None:
        self.receiver.answered("mx1", self.sender.snapshot(), self.now)

    def tick(self, wait_s: float = 0.0) -> None:
        self.now += wait_s
        self.receiver.tick(self.now)

    def asks(self, wait_s: float = 0.0) -> list[str]:
        self.now += wait_s
        return self.receiver.asks(self.now)

    @property
    def state(self) -> NodeState:
        return self.receiver.nodes["mx1"]

    @property
    def tree(self) -> GoldTree:
        return self.trees.trees["mx1"]

    @property
    def agrees(self) -> bool:
        return self.tree.counts == self.own.own and self.state.whole


@pytest.fixture
def pair() -> Pair:
    pair = Pair()
    pair.open(1, 2)
    pair.talk()
    assert pair.agrees
    return pair


def sealed(body: bytes) -> bytes:
    return body + struct.pack("<I", crc32(body))


# ---- changes


def test_changes_are_counted(pair: Pair) -> None:
    pair.open(2)
    pair.open(1, -2)
    pair.talk()
    assert pair.tree.counts == {(4, 2): 1}
    assert (pair.state.state, pair.state.hosts, pair.state.total, pair.state.gaps) == (State.HEARD, 1, 1, 0)
    assert pair.asks(1) == []


def test_other_processes_read_the_state_in_the_tree(pair: Pair) -> None:
    assert pair.tree.word == (State.HEARD, int(pair.now * 1e9))
    assert pair.trees.trees["here"].word[0] == State.THIS_HOST
    heard_at = pair.now
    pair.tick(2 * LEASE_S)
    assert pair.tree.word == (State.LOST, int(heard_at * 1e9))


def test_a_repeated_frame_changes_nothing(pair: Pair) -> None:
    old = pair.say()
    pair.hear(*old)
    pair.open(1, 5)
    change = pair.say()
    pair.hear(*change, *old, *change, *old)
    assert pair.agrees
    assert pair.state.gaps == 0


def test_frames_in_another_order_heal_without_a_snapshot(pair: Pair) -> None:
    frames = []
    for host in range(6):
        pair.open(host, host + 1)
        pair.open(1)
        frames += pair.say()
    Random(3).shuffle(frames)
    pair.hear(*frames)
    assert pair.agrees
    assert (pair.state.snapshots, pair.state.gaps) == (0, 1)
    assert pair.receiver.copies.sessions.waiting_bytes == 0


def test_a_lost_frame_is_mended_by_a_snapshot_while_counts_stay(pair: Pair) -> None:
    pair.open(2)
    pair.say()
    pair.open(3)
    pair.talk()
    assert pair.tree.counts == {(4, 1): 2}
    assert pair.asks() == []
    assert pair.asks(GAP_S) == ["mx1"]
    pair.open(4)
    later = pair.say()
    pair.answer()
    pair.hear(*later)
    assert pair.agrees
    assert (pair.state.gaps, pair.state.snapshots) == (1, 1)


def test_changes_during_the_snapshot_are_made_after_it(pair: Pair) -> None:
    pair.open(2)
    pair.say()
    pair.open(3)
    pair.talk()
    parts = pair.sender.snapshot()
    for host in range(4, 8):
        pair.open(host)
        pair.open(3, 1)
        pair.talk()
    pair.receiver.answered("mx1", parts, pair.now)
    assert pair.agrees


def test_a_lost_last_change_is_seen_by_the_heartbeat(pair: Pair) -> None:
    pair.lose_a_change()
    assert not pair.state.whole
    assert pair.asks(GAP_S) == ["mx1"]
    pair.answer()
    assert pair.agrees


def test_a_lost_heartbeat_is_no_gap(pair: Pair) -> None:
    for _ in range(3):
        pair.say()
    pair.open(2)
    pair.talk()
    assert pair.agrees
    assert pair.state.gaps == 0


def test_a_tree_that_differs_is_seen_by_its_digest(pair: Pair) -> None:
    """Whatever made it differ."""
    pair.tree.set_many(encode({(4, 77): 1}))
    pair.receiver.copies.sessions.hosts += 1
    pair.talk()
    assert pair.asks(GAP_S) == ["mx1"]
    pair.answer()
    assert pair.agrees


def test_a_change_whose_digest_differs_is_seen(pair: Pair) -> None:
    pair.tree.set_many(encode({(4, 1): 3}))
    pair.open(2)
    pair.talk()
    assert not pair.state.whole
    pair.answer()
    assert pair.agrees


def test_a_late_snapshot_takes_nothing_back(pair: Pair) -> None:
    parts = pair.sender.snapshot()
    pair.open(2)
    pair.talk()
    pair.receiver.answered("mx1", parts, pair.now)
    assert pair.agrees
    assert pair.state.snapshots == 0


@pytest.mark.parametrize("change", ["cut", "twice", "mixed", "epoch", "damaged", "not asked"])
def test_a_wrong_snapshot_changes_nothing(pair: Pair, change: str) -> None:
    parts = [Frame(FrameType.SNAPSHOT, 1, 1, 0, 0, 2, 2, 0, encode({(4, 8 + part): 1}), part, 2) for part in range(2)]
    wrong = {
        "cut": parts[:1],
        "twice": [parts[0], parts[0]],
        "mixed": [parts[0], parts[1]._replace(seq=2)],
        "epoch": [part._replace(epoch=2) for part in parts],
        "damaged": [parts[0], parts[1]._replace(records=b"\xff")],
        "not asked": [parts[0]._replace(type=FrameType.DELTA, parts=0)],
    }[change]
    pair.receiver.answered("mx1", [pack(part) for part in wrong], pair.now)
    assert pair.tree.counts == {(4, 1): 2}
    for nothing in (None, [], [b""], [b"forged"] * 300):
        pair.receiver.answered("mx1", nothing, pair.now)
        pair.receiver.answered("stranger", nothing, pair.now)
    pair.talk()
    assert pair.agrees


def test_a_node_that_goes_on_to_differ_is_asked_less_and_less(pair: Pair) -> None:
    pair.lose_a_change()
    asked = 0
    for _ in range(1000):
        pair.talk(0.01)
        asked += len(pair.asks())
    assert 10 <= asked <= 15
    pair.answer()
    assert pair.agrees


def restart_twice(pair: Pair) -> None:
    """A node starts twice within half a second while this host is frozen: all frames come when it thaws. The first
    start has ended then, and seems to be the newer one by as long as its frames have waited."""
    pair.begin(2)
    first = [frame for _ in range(3) for frame in pair.say(0.1)]
    pair.begin(3)
    pair.open(2)
    pair.hear(*first, *(frame for _ in range(8) for frame in pair.say()))
    assert (pair.state.state, pair.state.epoch) == (State.DUPLICATE, 2)


def test_a_start_that_seemed_older_is_counted_when_the_other_one_is_lost(pair: Pair) -> None:
    restart_twice(pair)
    for _ in range(int(LEASE_S / HEARTBEAT_S) + 2):
        pair.talk()
        pair.tick()
    assert (pair.state.state, pair.state.epoch) == (State.HEARD, 3)
    assert pair.asks(GAP_S) == ["mx1"]
    pair.answer()
    assert pair.agrees


@pytest.mark.parametrize("every_s", [0.0, 0.01, 0.1])
def test_another_start_is_not_taken_for_frames_that_have_waited(pair: Pair, every_s: float) -> None:
    """They come faster than they were sent. That start may have ended, too."""
    restart_twice(pair)
    pair.tick(LEASE_S + 0.1)
    late = [frame for _ in range(16) for frame in pair.say()]
    for frame in late:
        pair.now += every_s
        pair.hear(frame)
    assert (pair.state.state, pair.state.epoch) == (State.LOST, 2)


def test_a_node_that_does_not_answer_is_asked_again_soon(pair: Pair) -> None:
    """It may have no connection yet, or it has lost the request."""
    pair.lose_a_change()
    asked = 0
    for _ in range(1000):
        pair.talk(0.01)
        if pair.asks():
            asked += 1
            pair.receiver.answered("mx1", None, pair.now)
    assert 10 / MAX_UNANSWERED_S - 5 <= asked <= 10 / MAX_UNANSWERED_S + 5
    pair.answer()
    assert pair.agrees


def test_the_time_of_a_request_without_an_answer_delays_the_next_one_no_further(pair: Pair) -> None:
    """While it is on its way none is wanted."""
    pair.lose_a_change()
    while not pair.asks():
        pair.talk(0.01)
    for _ in range(40):
        pair.talk(0.05)
        assert pair.receiver.asks(pair.now, {"mx1"}) == []
    pair.receiver.answered("mx1", None, pair.now)
    failed_at = pair.now
    while not pair.asks():
        pair.talk(0.01)
    assert pair.now - failed_at <= MAX_UNANSWERED_S + 0.02


def test_a_node_of_which_no_snapshot_is_had_is_not_counted_for_ever(pair: Pair) -> None:
    pair.say()
    pair.open(2)
    pair.say()
    for _ in range(int(DISAGREE_S / HEARTBEAT_S) + 2):
        pair.talk()
        pair.tick()
    assert pair.state.state == State.HEARD
    assert pair.tree.counts == {}
    assert pair.asks(1) == ["mx1"]
    pair.answer()
    assert pair.agrees


# ---- who is there


def test_silence_for_a_lease_drops_the_node_whole(pair: Pair) -> None:
    pair.tick(LEASE_S)
    assert pair.tree.hosts == 1
    pair.tick(0.01)
    assert (pair.state.state, pair.tree.hosts, pair.receiver.copies.sessions.hosts) == (State.LOST, 0, 0)


def test_repeats_are_no_sign_of_life(pair: Pair) -> None:
    """Whatever an engine does with the frames of a dead node."""
    frames = [*pair.say(), *pair.say()]
    pair.hear(*frames)
    for _ in range(200):
        pair.hear(*frames)
        pair.tick(0.01)
    assert (pair.state.state, pair.tree.hosts) == (State.LOST, 0)


def test_a_node_that_comes_back_is_counted_after_its_snapshot(pair: Pair) -> None:
    pair.tick(2)
    pair.talk()
    assert (pair.state.state, pair.tree.hosts) == (State.HEARD, 0)
    assert pair.asks() == ["mx1"]
    pair.answer()
    assert pair.agrees


@pytest.mark.parametrize("away_s", [0.0, 0.3, 0.7, 1.0])
@pytest.mark.parametrize("dies_after_s", [0.01, 0.1, 0.24])
def test_a_restart_within_a_second_is_never_seen(pair: Pair, away_s: float, dies_after_s: float) -> None:
    """The counts stay until the snapshot of the new start, and no host passes through a false one."""
    pair.talk()
    pair.tick(dies_after_s)
    for _ in range(10):
        pair.tick(away_s / 10)
    pair.begin(2)
    pair.open(2)
    frames = pair.say(0.04)
    pair.tick()
    pair.hear(*frames)
    assert pair.tree.counts == {(4, 1): 2}
    assert pair.state.state == State.HEARD
    assert pair.asks() == ["mx1"]
    pair.answer()
    assert pair.agrees


def test_a_restart_with_the_same_sessions_needs_no_snapshot(pair: Pair) -> None:
    pair.begin(2)
    pair.say()
    pair.talk()
    assert pair.agrees
    assert pair.state.snapshots == 0


def test_a_node_that_is_heard_from_its_start_on_needs_no_snapshot(pair: Pair) -> None:
    assert (pair.state.snapshots, pair.asks(1)) == (0, [])


def test_a_goodbye_drops_the_node_at_once(pair: Pair) -> None:
    late = pair.say()
    pair.hear(pair.sender.goodbye(), *late)
    assert (pair.state.state, pair.tree.hosts) == (State.LOST, 0)


def test_a_hint_shortens_the_lease_and_a_word_undoes_it(pair: Pair) -> None:
    pair.receiver.gone("mx1", pair.now)
    pair.receiver.gone("stranger", pair.now)
    pair.receiver.gone("here", pair.now)
    pair.talk()
    pair.tick(2 * HINT_LEASE_S)
    assert pair.state.state == State.HEARD
    pair.receiver.gone("mx1", pair.now)
    pair.tick(HINT_LEASE_S + 0.01)
    assert (pair.state.state, pair.tree.hosts) == (State.LOST, 0)
    assert pair.receiver.nodes["here"].state == State.THIS_HOST


def test_a_host_that_stood_still_drops_a_node_only_if_it_stays_silent(pair: Pair) -> None:
    pair.now += 10 * LEASE_S
    pair.receiver.woke(pair.now)
    pair.tick(HINT_LEASE_S - 0.01)
    assert (pair.state.state, pair.tree.hosts) == (State.HEARD, 1)
    pair.talk()
    pair.tick(LEASE_S - 0.01)
    assert pair.state.state == State.HEARD
    pair.now += 10 * LEASE_S
    pair.receiver.woke(pair.now)
    pair.tick(HINT_LEASE_S + 0.01)
    assert (pair.state.state, pair.tree.hosts) == (State.LOST, 0)
    pair.receiver.woke(pair.now)
    assert pair.state.state == State.LOST


def test_a_large_cluster_has_a_longer_lease(pair: Pair) -> None:
    beat = pack(Frame(FrameType.HEARTBEAT, 1, 1))
    for node in range(MANY_NODES):
        pair.hear(beat, node=f"node{node}")
    pair.talk()
    pair.tick(LONG_LEASE_S)
    assert pair.tree.hosts == 1
    pair.tick(0.01)
    assert pair.tree.hosts == 0


class Visits(dict[str, NodeState]):
    """Counts how often all nodes are visited."""

    times = 0

    def values(self) -> ValuesView[NodeState]:
        self.times += 1
        return super().values()


def test_while_nothing_happens_the_nodes_are_seldom_visited(pair: Pair) -> None:
    """There may be thousands, and the agent looks 20 times per second whose lease is over and who is to be asked."""
    nodes = pair.receiver.nodes = Visits(pair.receiver.nodes)
    for _ in range(25):
        pair.talk(0.2)
        for _ in range(4):
            pair.tick(0.05)
            assert pair.asks() == []
    assert nodes.times <= 10 / CHECK_S + 1
    assert pair.state.state == State.HEARD


def test_late_frames_of_an_earlier_start_change_nothing(pair: Pair) -> None:
    old = [*pair.say(2), *pair.say()]
    pair.begin(2)
    pair.open(5)
    pair.talk()
    pair.answer()
    pair.hear(*old)
    assert pair.agrees
    assert pair.state.epoch == 2
    assert pair.state.dropped == 2


def test_late_frames_of_an_earlier_start_do_not_bring_a_dead_node_back(pair: Pair) -> None:
    early = pair.say()
    pair.begin(2)
    pair.talk(1)
    pair.answer()
    pair.tick(2)
    pair.hear(*early)
    assert (pair.state.state, pair.tree.hosts) == (State.LOST, 0)


def test_an_epoch_that_is_used_again_heals(pair: Pair) -> None:
    """Such as that of a virtual machine that was set back: its numbers were all heard already."""
    for _ in range(300):
        pair.talk()
    pair.begin(1)
    pair.open(9)
    for _ in range(100):
        pair.talk()
        pair.tick()
        if pair.asks():
            pair.answer()
    assert pair.agrees
    assert pair.state.state == State.HEARD


def test_a_late_copy_of_a_short_start_is_not_taken_for_a_newer_one(pair: Pair) -> None:
    """Its first frame came when it could not be told from the start before it."""
    pair.now += 1
    pair.begin(2)
    pair.talk(0.01)
    pair.begin(3)
    late = pair.say(0.05)
    pair.hear(*late)
    assert pair.state.epoch == 2
    pair.now += 0.2
    pair.begin(4)
    pair.open(5)
    pair.talk(0.05)
    pair.answer()
    pair.now += 3
    pair.hear(*pair.say(), *late)
    assert pair.state.epoch == 4
    assert pair.agrees


def test_a_late_copy_of_a_short_start_does_not_bring_a_dead_node_back(pair: Pair) -> None:
    """That start began when it could not be told from the one before it, and ended before that one was lost."""
    pair.begin(2)
    pair.talk(0.05)
    pair.answer()
    pair.begin(3)
    short = pair.say(0.01)
    pair.hear(*short)
    assert pair.state.epoch == 2
    pair.tick(2)
    assert pair.state.state == State.LOST
    pair.hear(*short)
    assert (pair.state.state, pair.tree.hosts) == (State.LOST, 0)


def test_earlier_starts_are_bounded(pair: Pair) -> None:
    for epoch in range(2, 50):
        pair.begin(epoch)
        pair.talk(1)
    assert pair.state.epoch == 49
    assert len(pair.state.others) == MAX_OTHERS


# ---- other versions


def other_version(frame: bytes) -> bytes:
    return sealed(frame[:4] + b"\x02" + frame[5:-4] + b"more")


def test_a_node_of_another_version_is_listed_and_not_counted() -> None:
    pair = Pair()
    pair.open(1)
    pair.hear(*map(other_version, pair.say()))
    assert (pair.state.state, pair.state.version, pair.tree.hosts) == (State.OTHER_VERSION, 2, 0)
    pair.tick(2)
    assert pair.state.state == State.LOST
    pair.talk()
    assert (pair.state.state, pair.state.version) == (State.HEARD, 1)


def test_a_node_that_is_upgraded_is_counted_for_its_lease_at_most(pair: Pair) -> None:
    for _ in range(8):
        pair.hear(*map(other_version, pair.say()))
        pair.tick()
    assert (pair.state.state, pair.state.version, pair.tree.hosts) == (State.OTHER_VERSION, 2, 0)


# ---- two nodes of one name


def own_frame(epoch: int, seq: int, age_s: float) -> bytes:
    return pack(Frame(FrameType.HEARTBEAT, epoch, seq, 0, int(age_s * 1000)))


def test_the_older_of_two_nodes_of_one_name_yields_after_two_words(pair: Pair) -> None:
    pair.now += 100
    pair.hear(own_frame(9, 1, 0.1), node="here")
    assert not pair.receiver.duplicate
    pair.hear(own_frame(9, 1, 0.1), node="here")
    assert not pair.receiver.duplicate
    pair.hear(own_frame(9, 2, 0.2), node="here")
    assert pair.receiver.duplicate
    assert pair.receiver.nodes["here"].state == State.DUPLICATE
    pair.tick(1)
    assert pair.trees.trees["here"].word[0] == State.DUPLICATE


def test_the_newer_of_two_nodes_of_one_name_goes_on(pair: Pair) -> None:
    """Late frames of its own earlier start are the same thing."""
    for seq in range(1, 10):
        pair.hear(own_frame(9, seq, 500), node="here")
    assert not pair.receiver.duplicate


def test_own_frames_that_come_back_mean_nothing(pair: Pair) -> None:
    for seq in range(1, 10):
        pair.hear(own_frame(OWN_EPOCH, seq, 0), node="here")
    assert not pair.receiver.duplicate
    assert pair.receiver.nodes["here"].total == 0


def test_a_duplicate_speaks_again_when_the_other_is_silent(pair: Pair) -> None:
    pair.now += 100
    for seq in range(1, 60):
        pair.hear(own_frame(9, seq, seq / 4), node="here")
        pair.tick(0.25)
    assert pair.receiver.duplicate
    pair.tick(2 * RESUME_S)
    assert not pair.receiver.duplicate
    assert pair.receiver.nodes["here"].state == State.THIS_HOST


def test_receivers_count_the_newer_of_two(pair: Pair) -> None:
    older = pair.sender
    pair.now += 10
    pair.begin(2)
    for host in range(2, 6):
        pair.open(host)
        frames = pair.say()
        pair.hear(*older.frames(pair.now), *frames)
        pair.tick()
    assert pair.state.state == State.DUPLICATE
    pair.answer()
    assert pair.agrees
    assert pair.state.epoch == 2
    for _ in range(8):
        pair.talk()
        pair.tick()
    assert pair.state.state == State.HEARD


def test_the_older_is_counted_when_the_newer_has_been_gone_for_long(pair: Pair) -> None:
    older = pair.sender
    pair.now += 10
    pair.begin(2)
    pair.talk()
    for _ in range(int((LEASE_S + FORGET_S) / HEARTBEAT_S) + 8):
        pair.now += HEARTBEAT_S
        pair.hear(*older.frames(pair.now))
        pair.tick()
        if pair.asks():
            pair.receiver.answered("mx1", older.snapshot(), pair.now)
    assert (pair.state.epoch, pair.state.state, pair.state.whole) == (1, State.HEARD, True)


# ---- forgers and bounds

FORGED = [
    pack(Frame(FrameType.DELTA, 1, 900, 899, 0, 1, 1, 0, b"\xff" * 50)),
    pack(Frame(FrameType.DELTA, 1, 901, 1, 0, 1, 1, 0, b"\xff\xff\xff\xff\x0f")),
    pack(Frame(FrameType.DELTA, 1, 902, 1, 0, 2**32 - 1, 2**64 - 1, 0, b"\0\0")),
    pack(Frame(FrameType.DELTA, 1, 903, 1, 0, 1, 1, 0, encode({(4, 5): 2**32 - 1}))),
    pack(Frame(FrameType.HEARTBEAT, 1, 904, 903, 0, 1, 1, 0)),
    pack(Frame(FrameType.SNAPSHOT, 1, 905, 0, 0, 1, 1, 0, b"\xff" * 50, 0, 256)),
    pack(Frame(FrameType.HEARTBEAT, 77, 1, tree=9)),
]


def test_forged_frames_raise_nothing_and_heal(pair: Pair) -> None:
    for frame in FORGED:
        pair.hear(frame, frame[:-1], frame + b"x", bytes(len(frame)), b"")
        pair.tick()
        pair.asks()
    for _ in range(100):
        pair.talk()
        pair.tick()
        if pair.asks():
            pair.answer()
    assert pair.agrees
    assert pair.state.dropped > 20


def test_a_forged_last_number_heals(pair: Pair) -> None:
    """No later frame of the node is new to us then."""
    pair.hear(pack(Frame(FrameType.HEARTBEAT, 1, 2**64 - 1, 2**64 - 2)))
    for _ in range(60):
        pair.talk()
        pair.tick()
        if pair.asks():
            pair.answer()
    assert pair.agrees


STRANGER = pack(Frame(FrameType.HEARTBEAT, 1, 1))


def test_names_beyond_the_bound_are_not_taken() -> None:
    pair = Pair(Bounds(max_nodes=40))
    beat = STRANGER
    for node in range(100):
        pair.hear(beat, node=f"node{node}")
    for name in ("", "a b", "x" * 64, "a/b"):
        pair.hear(beat, node=name)
    assert len(pair.receiver.nodes) == len(pair.trees.trees) == 40
    assert pair.receiver.dropped == 61 + 4
    assert not pair.receiver.full


def test_ten_thousand_names_one_after_the_other() -> None:
    """Names of nodes that are lost hold places until the receiver moves to other trees."""
    pair = Pair(Bounds(max_nodes=40))
    pair.open(1)
    moves = 0
    for node in range(effort(1000, 10_000)):
        pair.hear(pack(Frame(FrameType.HEARTBEAT, node, 1)), node=f"node{node}")
        pair.talk(0.2)
        if node % 5 == 0:
            pair.tick()
        if pair.receiver.full:
            moves += 1
            pair.trees = GoldTrees(40)
            pair.receiver.move(pair.trees)
            assert pair.agrees
            assert len(pair.trees.trees) < 20
    assert len(pair.receiver.nodes) <= 40
    assert moves > 20
    assert pair.agrees
    pair.open(2)
    pair.talk()
    assert pair.agrees


def test_new_names_have_a_bound_per_second() -> None:
    pair = Pair(Bounds(max_new_nodes_per_s=10, new_nodes_burst_s=2))
    pair.open(1)
    pair.talk(3)
    for node in range(1000):
        pair.hear(STRANGER, node=f"node{node}")
    listed = len(pair.receiver.nodes)
    assert 20 <= listed <= 23
    pair.open(2)
    pair.talk(1)
    assert pair.agrees
    for node in range(1000):
        pair.hear(STRANGER, node=f"node{node}")
    assert listed + 9 <= len(pair.receiver.nodes) <= listed + 11


def test_a_section_that_is_not_to_be_had_is_a_name_that_is_not_taken() -> None:
    pair = Pair()
    pair.trees.max_nodes = 1
    pair.talk()
    assert list(pair.receiver.nodes) == ["here"]
    assert pair.receiver.dropped == 1


def test_a_node_with_too_many_hosts_is_listed_and_not_counted() -> None:
    pair = Pair(Bounds(max_hosts=10))
    for host in range(10):
        pair.open(host)
    pair.talk()
    assert pair.agrees
    pair.open(10)
    pair.talk()
    assert (pair.state.state, pair.tree.hosts, pair.receiver.copies.sessions.hosts) == (State.TOO_LARGE, 0, 0)
    pair.answer()
    assert pair.tree.hosts == 0
    pair.open(3, -1)
    pair.talk()
    assert pair.asks(1) == ["mx1"]
    pair.answer()
    assert pair.agrees
    assert pair.state.state == State.HEARD


def test_a_node_that_hides_its_number_of_hosts_is_dropped_all_the_same() -> None:
    pair = Pair(Bounds(max_hosts=10))
    records = encode({(4, host): 1 for host in range(100)})
    pair.hear(pack(Frame(FrameType.DELTA, 1, 1, 0, 0, 1, 1, 0, records)))
    assert (pair.state.state, pair.tree.hosts) == (State.TOO_LARGE, 0)
    pair.hear(pack(Frame(FrameType.HEARTBEAT, 1, 2)))
    assert pair.state.state == State.TOO_LARGE
    pair.now += REFUSE_SESSIONS_S
    pair.hear(pack(Frame(FrameType.HEARTBEAT, 1, 3)))
    assert pair.state.state == State.HEARD
    pair.receiver.answered("mx1", [pack(Frame(FrameType.SNAPSHOT, 1, 9, 0, 0, 1, 1, 0, records, 0, 1))], pair.now)
    assert (pair.state.state, pair.tree.hosts) == (State.TOO_LARGE, 0)


def test_all_nodes_together_have_a_bound_of_hosts() -> None:
    pair = Pair(Bounds(max_hosts=10, max_all_hosts=25))
    for node in range(20):
        tree = GoldTree()
        tree.set_many(encode({(6, host << 64): 1 for host in range(1 + node % 9)}))
        records = encode(tree.counts)
        frame = Frame(FrameType.DELTA, node, 1, 0, 0, tree.hosts, tree.total, tree.digest, records)
        pair.hear(pack(frame), node=f"node{node}")
        assert pair.receiver.copies.sessions.hosts == sum(tree.hosts for tree in pair.trees.trees.values()) <= 25


def test_changes_that_wait_have_a_bound() -> None:
    bounds = Bounds(max_waiting_bytes=20_000, max_all_waiting_bytes=50_000)
    pair = Pair(bounds)
    change = encode({(4, host): 1 for host in range(100)})
    for node in range(5):
        for seq in range(3, 200, 2):
            frame = Frame(FrameType.DELTA, 1, seq, seq - 1, 0, 1, 1, 0, change)
            pair.hear(pack(frame), node=f"node{node}")
            waiting = [state.replica.waiting for state in pair.receiver.nodes.values()]
            kept = [sum(len(one.records) + WAITING_FRAME_BYTES for one in frames.values()) for frames in waiting]
            assert max(kept) <= 20_000
            assert sum(kept) == pair.receiver.copies.sessions.waiting_bytes <= 50_000
        pair.now += 0.1
    pair.tick(LEASE_S)
    assert pair.receiver.copies.sessions.waiting_bytes < 50_000
    pair.tick(LEASE_S)
    assert pair.receiver.copies.sessions.waiting_bytes == 0


def test_a_node_that_floods_is_cut_to_its_bound_and_hurts_no_other() -> None:
    pair = Pair(Bounds(max_bytes_per_s=100_000, burst_s=2))
    pair.open(1)
    pair.talk()
    for seq in range(1, 5001):
        pair.hear(pack(Frame(FrameType.HEARTBEAT, 4, seq)), node="flood")
        if seq % 1000 == 0:
            pair.talk()
            pair.tick()
    flood = pair.receiver.nodes["flood"]
    assert flood.dropped > 4900
    assert "bytes per second" in flood.why
    assert flood.state == State.HEARD
    assert pair.agrees


def test_the_bounds_that_are_published() -> None:
    """docs/cluster.md gives these figures."""
    assert Bounds() == Bounds(4000, 1_000_000, 20_000_000, 1 << 20, 64 << 20, 8 << 20, 4)
    assert unpack(pack(Frame(FrameType.HEARTBEAT, 1, 1))).content == 0


def test_a_snapshot_counts_in_the_bound_of_its_node(pair: Pair) -> None:
    """Its node is not asked again before it is paid for, and its frames are heard meanwhile."""
    bounds = pair.receiver.bounds
    pair.receiver.answered("mx1", [bytes(1 << 20)] * 64, pair.now)
    paid_s = (64 << 20) / bounds.max_bytes_per_s - bounds.burst_s
    pair.open(2)
    pair.say()
    pair.open(3)
    pair.talk()
    assert not pair.state.whole
    assert pair.state.state == State.HEARD
    assert pair.asks(paid_s / 2) == []
    pair.talk()
    assert pair.asks(paid_s) == ["mx1"]


def test_a_snapshot_of_what_is_there_replaces_nothing(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GoldTree, "replace", lambda *arguments: pytest.fail("the tree is replaced"))
    pair.answer()
    assert pair.agrees
    assert pair.state.snapshots == 0
