"""Simulated life of a cluster, drawn from a seed: sessions come and go, events are recorded, agents end, networks fail;
then it is quiet."""

from __future__ import annotations

import sys
from random import Random

from tests.support.fake_cluster import EPOCH_S, TICK_S, FakeCluster, FakeNode
from tests.support.fake_engine import CALM, Faults
from tests.support.gold_nodes import GoldTrees, Host

from inbound_audit.cluster.leases import LEASE_S
from inbound_audit.cluster.window_records import SeriesKey

NAMES = ("mx1", "mx2", "mx3", "mx4", "mx5")
HOSTS: tuple[Host, ...] = tuple((4, 0xC0000200 + at) for at in range(24)) + tuple((6, at << 64) for at in range(1, 17))
SERIES = {
    SeriesKey("receptions", "5,4", 5, 4): 0,
    SeriesKey("connections", "60,2", 60, 2): 0,
    SeriesKey("series", "failures", 40, 2): 1,
    SeriesKey("strings", "greetings", 10, 3): 2,
    SeriesKey("series", "private", 40, 2): 0,
}
"""The series of each node, and for whom they are."""
PREFIXES = ("192.0.2.0/24", "192.0.2.7", "198.51.100.0/25", "2001:db8::/48")
STEP_S = 0.002
PHASE_STEPS = 2000
QUIET_S = 2.0
SHORT_LIFE_S = 0.5
"""A start that lived shorter than this may be taken for the newer one until its lease is over."""
STATES_S = 6.0
MAX_DELAY_S = 0.2
MAX_TURN_S = 0.2
"""From one turn of an agent to the next, which are drawn."""


class Simulation:
    """One cluster of five nodes. A step is a session that opens or closes, a turn of one agent, and perhaps a fault."""

    def __init__(self, seed: int) -> None:
        self.draw = Random(seed)
        self.cluster = FakeCluster(seed)
        self.reached: dict[tuple[str, FakeNode], float] = {}
        self.short_life = False
        self.faults = 0
        ends, others = (
            (self.kill, self.stop),
            (self.restart, self.workers, self.clock, self.freeze, self.cut, self.network, self.heal),
        )
        self.all_faults = (*ends, *others, *[self.join] * 4)
        self.cluster.monitors, self.cluster.managers = ("5,4",), NAMES[:2]
        for name in NAMES:
            self.begin(name)

    def begin(self, name: str) -> None:
        """A host begins. Its clock is up to a second off."""
        node = self.cluster.start(name, skew_s=self.draw.choice((0.0, -1.0, 1.0)))
        node.events.replicate.update(SERIES)

    def run(self, steps: int) -> None:
        for step in range(1, steps + 1):
            self.step()
            if step % PHASE_STEPS == 0:
                self.quiet()

    def step(self) -> None:
        cluster, draw = self.cluster, self.draw
        cluster.network.run(cluster.now + draw.expovariate(1 / STEP_S))
        if cluster.nodes:
            self.session(draw.choice(cluster.nodes).trees)
            self.event(draw.choice(cluster.nodes))
            node = draw.choice(cluster.nodes)
            node.turn()
            self.check(node)
        if draw.random() < 0.01:
            self.faults += 1
            for node in cluster.nodes:
                self.note_reached(node)
            draw.choice(self.all_faults)()

    def session(self, trees: GoldTrees) -> None:
        host = self.draw.choice(HOSTS)
        trees.open(host, self.draw.randint(-trees.own.get(host, 0), 3))

    def event(self, node: FakeNode) -> None:
        """Something is recorded in the current window or the one before; now and then a key is removed, a window is
        folded, or an override is changed."""
        draw = self.draw
        key = draw.choice(list(SERIES))
        number = int((EPOCH_S + self.cluster.now + node.skew_s) // key.interval) - draw.choice((0, 0, 0, 1))
        host = draw.choice(HOSTS)
        if draw.random() < 0.05:
            node.change(draw.choice(("deny", "allow", "lift")), draw.choice(PREFIXES), draw.choice((None, 20.0)))
        if draw.random() < 0.01:
            node.events.remove(key, host)
        elif draw.random() < 0.01:
            node.events.fold(key, number, draw.choice(((32, 128), (24, 64), (0, 0))))
        else:
            node.events.record(key, number, host, draw.choice((1, 1, 1, 5, -1)))

    def check(self, node: FakeNode) -> None:
        """The invariants, and that nothing is counted of a node that could not be heard for the time of its lease."""
        now = self.cluster.now
        self.cluster.check_always(node)
        self.note_reached(node)
        for name, tree in node.view().items():
            if not node.frozen and tree.hosts:
                silent = now - self.reached.get((name, node), now)
                assert silent <= LEASE_S + MAX_DELAY_S + TICK_S + MAX_TURN_S, (node.name, name, silent)

    def note_reached(self, node: FakeNode) -> None:
        """Whose word can reach the node now."""
        for other in self.cluster.nodes:
            if other is not node and self.hears(other, node):
                self.reached[other.name, node] = self.cluster.now

    def hears(self, one: FakeNode, other: FakeNode) -> bool:
        return not one.frozen and self.cluster.network.reaches(one.engine, other.engine)

    # ---- faults

    def any_node(self) -> FakeNode | None:
        return self.draw.choice(self.cluster.nodes) if self.cluster.nodes else None

    def kill(self) -> None:
        """The host ends, with its sessions."""
        if node := self.any_node():
            self.note_life(node)
            self.cluster.kill(node)

    def restart(self) -> None:
        """The agent ends and begins again; the workers go on."""
        if node := self.any_node():
            self.note_life(node)
            self.cluster.kill(node)
            self.cluster.start(node.name, node.trees, node.events, node.skew_s, node.table)

    def workers(self) -> None:
        """The processes of a host that have recorded something end, and others begin."""
        if node := self.any_node():
            node.events.clear()

    def clock(self) -> None:
        """The clock of a host is set."""
        if node := self.any_node():
            node.skew_s = self.draw.choice((-45.0, -7.0, 0.0, 7.0, 45.0))

    def stop(self) -> None:
        if node := self.any_node():
            self.note_life(node)
            self.cluster.stop(node)

    def note_life(self, node: FakeNode) -> None:
        self.short_life = self.short_life or self.cluster.now - node.began < SHORT_LIFE_S

    def join(self) -> None:
        away = [name for name in NAMES if not any(node.name == name for node in self.cluster.nodes)]
        if away:
            self.begin(self.draw.choice(away))

    def freeze(self) -> None:
        if node := self.any_node():
            node.thaw() if node.frozen else node.freeze()

    def cut(self) -> None:
        pairs = list(self.cluster.pairs())
        if pairs:
            one, other = self.draw.choice(pairs)
            self.cluster.cut(one, other)
            if self.draw.random() < 0.5:
                self.cluster.cut(other, one)

    def network(self) -> None:
        draw = self.draw
        self.cluster.network.faults = Faults(
            loss=draw.choice((0, 0.05, 0.5)),
            repeat=draw.choice((0, 0.3)),
            truncate=draw.choice((0, 0.1)),
            flip=draw.choice((0, 0.1)),
            max_delay_s=draw.choice((0.001, 0.02, MAX_DELAY_S)),
            late_s=5.0,
            hint=draw.choice((0, 0.5, 1)),
        )

    def heal(self) -> None:
        self.cluster.heal()

    # ---- quiet

    def quiet(self) -> None:
        """No session, no fault: two seconds later every view is the truth, and then every state."""
        self.cluster.heal(CALM)
        for node in self.cluster.nodes:
            node.skew_s = self.draw.choice((0.0, -1.0, 1.0))
        self.cluster.run(QUIET_S * (2 if self.short_life else 1), 0.05)
        self.cluster.check_views()
        self.cluster.run(STATES_S, 0.05)
        self.cluster.check_states()
        self.cluster.check_windows()
        self.cluster.check_clocks()
        self.cluster.check_overrides()
        self.short_life = False
        for node in self.cluster.nodes:
            for name in node.view():
                self.reached[name, node] = self.cluster.now


def main() -> None:
    """python -m tests.support.cluster_simulation STEPS SEED"""
    steps, seed = (int(float(argument)) for argument in sys.argv[1:])
    simulation = Simulation(seed)
    simulation.run(steps)
    print(f"{steps:,} steps, {simulation.faults:,} faults, {simulation.cluster.now:,.0f} s: no error")


if __name__ == "__main__":
    main()
