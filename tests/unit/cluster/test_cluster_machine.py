"""Three nodes of which Hypothesis chooses each step: what is said, which frame arrives, what is lost, who ends."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.support.fake_cluster import EPOCH_S, FakeCluster, FakeNode
from tests.support.fake_engine import CALM, Faults

from inbound_audit.cluster.leases import LEASE_S
from inbound_audit.cluster.window_records import SeriesKey

NAMES = ("mx1", "mx2", "mx3")
HOSTS = ((4, 1), (4, 2**32 - 1), (6, 1), (6, 2**128 - 1))
SERIES = {SeriesKey("series", "all", 1, 3): 1, SeriesKey("strings", "managed", 30, 2): 2}
names = st.sampled_from(NAMES)


class ClusterMachine(RuleBasedStateMachine):
    """Frames wait in the nodes' inboxes until a rule delivers them, in any order."""

    @initialize(seed=st.integers(0, 2**32))
    def begin(self, seed: int) -> None:
        self.cluster = FakeCluster(seed, Faults())
        self.cluster.managers = NAMES[:1]
        for name in NAMES:
            self.begin_host(name)

    def begin_host(self, name: str) -> None:
        node = self.cluster.start(name)
        node.events.replicate.update(SERIES)
        node.series.find()

    def node(self, name: str) -> FakeNode | None:
        return next((node for node in self.cluster.nodes if node.name == name), None)

    @rule(name=names, host=st.sampled_from(HOSTS), sessions=st.integers(-2, 3))
    def session(self, name: str, host: tuple[int, int], sessions: int) -> None:
        if node := self.node(name):
            node.trees.open(host, max(sessions, -node.trees.own.get(host, 0)))

    @rule(
        name=names, key=st.sampled_from(sorted(SERIES)), host=st.sampled_from(HOSTS), by=st.sampled_from([1, 1, 3, -1])
    )
    def event(self, name: str, key: SeriesKey, host: tuple[int, int], by: int) -> None:
        if node := self.node(name):
            node.events.record(key, int((EPOCH_S + self.cluster.now) // key.interval), host, by)

    @rule(name=names)
    def end_processes(self, name: str) -> None:
        if node := self.node(name):
            node.events.clear()

    @rule(name=names)
    def say(self, name: str) -> None:
        if node := self.node(name):
            node.sender.silent = node.receiver.duplicate
            for frame in node.sender.frames(self.cluster.now):
                node.say(frame)

    @rule(name=names, data=st.data())
    def deliver(self, name: str, data: st.DataObject) -> None:
        """A frame arrives; perhaps it comes again."""
        node = self.node(name)
        if node and node.inbox:
            at = data.draw(st.integers(0, len(node.inbox) - 1))
            source, frame, _ = node.inbox[at]
            if data.draw(st.booleans()):
                del node.inbox[at]
            node.receiver.heard(source, frame, self.cluster.now)

    @rule(name=names)
    def lose(self, name: str) -> None:
        if node := self.node(name):
            node.inbox.clear()

    @rule(name=names, bit=st.integers(0, 7), data=st.data())
    def damage(self, name: str, bit: int, data: st.DataObject) -> None:
        node = self.node(name)
        if node and node.inbox:
            source, frame, at = node.inbox.popleft()
            place = data.draw(st.integers(0, len(frame) - 1))
            damaged = frame[:place] + bytes([frame[place] ^ 1 << bit]) + frame[place + 1 :]
            node.inbox.append((source, damaged, at))

    @rule(name=names)
    def ask(self, name: str) -> None:
        """The answer may come much later."""
        if node := self.node(name):
            for other in node.receiver.asks(self.cluster.now):
                node._ask(other)

    @rule(seconds=st.sampled_from([0.005, 0.1, 0.3, 1.4]))
    def wait(self, seconds: float) -> None:
        self.cluster.network.run(self.cluster.now + seconds)
        for node in self.cluster.nodes:
            node.receiver.tick(self.cluster.now)
            node.series.turn()

    @rule(name=names, goodbye=st.booleans())
    def end(self, name: str, goodbye: bool) -> None:
        if node := self.node(name):
            self.cluster.stop(node) if goodbye else self.cluster.kill(node)

    @rule(name=names)
    def start(self, name: str) -> None:
        if not self.node(name):
            self.begin_host(name)

    @rule(name=names)
    def restart(self, name: str) -> None:
        if node := self.node(name):
            self.cluster.kill(node)
            again = self.cluster.start(name, node.trees, node.events)
            again.series.find()

    @precondition(lambda self: hasattr(self, "cluster"))
    @invariant()
    def copies_are_what_was_said(self) -> None:
        """And windows of other nodes are the sums of the copies."""
        for node in self.cluster.nodes:
            self.cluster.check_sums(node)
            self.cluster.check_always(node)
            for name, tree in node.view().items():
                state = node.receiver.nodes[name]
                assert not tree.hosts or self.cluster.now <= state.heard_at + LEASE_S

    def teardown(self) -> None:
        """All that waits arrives, and then it is quiet: every view is the truth. A short life may take a lease more."""
        if hasattr(self, "cluster"):
            self.cluster.heal(CALM)
            self.cluster.run(4, 0.05)
            self.cluster.check_views()
            self.cluster.check_windows()


TestClusterMachine = ClusterMachine.TestCase
