"""A cluster in memory: nodes with gold trees on the fake engine, in simulated time, and what must be true of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

from tests.support.fake_engine import CALM, FakeEngine, FakeNetwork, Faults
from tests.support.gold_nodes import GoldTree, GoldTrees, digest

from inbound_audit.cluster.frames import unpack
from inbound_audit.cluster.receiver import COUNTED, Bounds, Receiver, State
from inbound_audit.cluster.sender import Sender

TICK_S = 0.05
ANSWER_S = 0.02
"""How long a snapshot is under way."""
MAX_INBOX = 10_000


class FakeNode:
    """A host: its sessions, its agent, and what the agent has heard. `mute_at`: since when it says nothing."""

    def __init__(self, cluster: FakeCluster, name: str, own: Any, bounds: Bounds) -> None:
        self.cluster = cluster
        self.name = name
        self.trees = own
        self.epoch = cluster.network.random.getrandbits(64)
        self.began = cluster.now
        self.frozen = False
        self.history: dict[int, int] = {0: 0}  # the digest after each change that was said
        self.inbox: deque[tuple[str, bytes, float]] = deque(maxlen=MAX_INBOX)
        self.asked: set[str] = set()
        self.tick_at = 0.0
        self.sender = Sender(self.epoch, own, lambda: cluster.now)
        self.receiver = Receiver(name, self.epoch, own, lambda: cluster.now, bounds)
        self.engine = FakeEngine(cluster.network, name)
        self.engine.open(
            lambda node, data: self.inbox.append((node, data, cluster.now)),
            self.sender.snapshot,
            lambda up: None,
            lambda node: self.frozen or self.receiver.gone(node, cluster.now),
        )

    def turn(self) -> None:
        """What the agent's loop does when it wakes."""
        if self.frozen:
            return
        now = self.cluster.now
        while self.inbox:
            self.receiver.heard(*self.inbox.popleft())
        if now >= self.tick_at:
            self.receiver.tick(now)
            self.tick_at = now + TICK_S
        for node in self.receiver.asks(now):
            if node not in self.asked:
                self.asked.add(node)
                self.cluster.network.later(ANSWER_S, lambda node=node: self._ask(node))
        self.sender.nodes = len(self.receiver.nodes)
        self.sender.silent = self.receiver.duplicate
        if self.sender.due(now) == 0:
            for frame in self.sender.frames(now):
                self.say(frame)

    def say(self, frame: bytes) -> None:
        read = unpack(frame)
        self.history[read.content] = read.digest
        self.engine.publish(frame)

    def _ask(self, node: str) -> None:
        parts = self.engine.ask(node, 1.0)

        def arrive() -> None:
            self.asked.discard(node)
            if not self.frozen:
                self.receiver.answered(node, parts, self.cluster.now)

        self.cluster.network.later(ANSWER_S if parts is not None else 0.2, arrive)

    def freeze(self) -> None:
        self.frozen = self.engine.frozen = True

    def thaw(self) -> None:
        self.frozen = self.engine.frozen = False

    def view(self) -> dict[str, GoldTree]:
        """The trees of the other nodes, as the workers of this host count them."""
        return {name: tree for name, tree in self.trees.trees.items() if name != self.name}


class FakeCluster:
    """Nodes, and the time. A host's sessions outlive its agent: `start` may begin with those of a node before."""

    def __init__(self, seed: int = 0, faults: Faults = CALM, bounds: Bounds = Bounds(), trees: Any = GoldTrees) -> None:  # noqa: B008
        self.make_trees = trees
        self.network = FakeNetwork(seed, faults)
        self.bounds = bounds
        self.nodes: list[FakeNode] = []
        self.lives: dict[int, FakeNode] = {}  # of all nodes that ever were, by epoch

    @property
    def now(self) -> float:
        return self.network.now

    def start(self, name: str, own: GoldTrees | None = None) -> FakeNode:
        trees = self.make_trees(self.bounds.max_nodes)
        if own is not None:
            trees.own, trees._moved = own.own, True
        node = FakeNode(self, name, trees, self.bounds)
        self.nodes.append(node)
        self.lives[node.epoch] = node
        return node

    def kill(self, node: FakeNode) -> None:
        self.nodes.remove(node)
        node.engine.close()

    def stop(self, node: FakeNode) -> None:
        """Ends a node in order."""
        node.say(node.sender.goodbye())
        self.kill(node)

    def cut(self, one: FakeNode, other: FakeNode) -> None:
        """From now on nothing comes from the one to the other."""
        self.network.cut.add((one.engine, other.engine))

    def heal(self, faults: Faults = CALM) -> None:
        """No fault is left, and no node stands still."""
        self.network.cut.clear()
        self.network.faults = faults
        for node in self.nodes:
            node.thaw()

    def run(self, seconds: float, step_s: float = 0.01) -> None:
        """Each node has a turn per step."""
        until = self.now + seconds
        while self.now < until:
            self.network.run(self.now + step_s)
            for node in list(self.nodes):
                node.turn()

    def pairs(self) -> Iterator[tuple[FakeNode, FakeNode]]:
        yield from ((one, other) for one in self.nodes for other in self.nodes if one is not other)

    def check_always(self, node: FakeNode) -> None:
        """What a copy is known to have is what its node has said at that moment, and the sums of bounds are right."""
        hosts = waiting = 0
        for name, state in node.receiver.nodes.items():
            replica = state.replica
            hosts += replica.tree.hosts
            waiting += replica.waiting_bytes
            if state.state in COUNTED and name != node.name and replica.has is not None and state.epoch is not None:
                assert replica.tree.digest == self.lives[state.epoch].history[replica.has], (node.name, name)
        assert node.receiver.hosts == hosts
        assert node.receiver.waiting_bytes == waiting

    def check_views(self) -> None:
        """Every view is the truth: those that live have their sessions, the others none."""
        for node in self.nodes:
            view = {name: tree.counts for name, tree in node.view().items() if tree.counts}
            truth = {other.name: other.trees.own for other in self.nodes if other is not node and other.trees.own}
            assert view == truth, (self.now, node.name, node.receiver.nodes)
            for tree in node.view().values():
                assert tree.digest == digest(tree.counts)

    def check_states(self) -> None:
        """Each node lists the others as they are."""
        for node in self.nodes:
            for name in node.view():
                heard = any(other.name == name for other in self.nodes)
                assert node.receiver.nodes[name].state == (State.HEARD if heard else State.LOST)
