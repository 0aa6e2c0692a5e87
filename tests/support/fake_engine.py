"""An engine in memory, with seeded faults: frames are lost, repeated, late, out of order, cut and damaged.

Time is that of the network: a test moves it on by `run`. Without a delay frames are delivered while they are published.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count
from random import Random
from typing import NamedTuple


class Faults(NamedTuple):
    """The share of frames that a fault happens to, and delays in seconds."""

    loss: float = 0.0
    repeat: float = 0.0
    """A second copy arrives after the first, up to `late_s` later."""
    truncate: float = 0.0
    flip: float = 0.0
    min_delay_s: float = 0.0
    max_delay_s: float = 0.0
    """Delays are drawn for each frame, so frames overtake one another."""
    late_s: float = 0.0
    hint: float = 1.0
    """How many of the ends of nodes the others hear of."""


CALM = Faults(min_delay_s=0.001, max_delay_s=0.005)


class FakeNetwork:
    """What connects the fake engines. `cut` holds the pairs of engines of which the first does not reach the second."""

    def __init__(self, seed: int = 0, faults: Faults = Faults()) -> None:  # noqa: B008 - it is immutable
        self.random = Random(seed)
        self.faults = faults
        self.now = 0.0
        self.engines: list[FakeEngine] = []
        self.cut: set[tuple[FakeEngine, FakeEngine]] = set()
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = count()

    def later(self, delay_s: float, event: Callable[[], None]) -> None:
        """Calls `event` when `run` has come to that time."""
        heapq.heappush(self._events, (self.now + delay_s, next(self._numbers), event))

    def run(self, now: float) -> None:
        """Moves the time on, and delivers what is due until then."""
        while self._events and self._events[0][0] <= now:
            self.now, _, event = heapq.heappop(self._events)
            event()
        self.now = now

    def reaches(self, one: FakeEngine, other: FakeEngine) -> bool:
        return other in self.engines and (one, other) not in self.cut

    def damaged(self, data: bytes) -> bytes:
        """The frame as it arrives: perhaps cut, perhaps with a bit turned."""
        draw = self.random
        if draw.random() < self.faults.truncate:
            data = data[: draw.randrange(len(data))]
        if data and draw.random() < self.faults.flip:
            at = draw.randrange(len(data))
            data = data[:at] + bytes([data[at] ^ 1 << draw.randrange(8)]) + data[at + 1 :]
        return data

    def send(self, source: FakeEngine, target: FakeEngine, data: bytes) -> None:
        faults, draw = self.faults, self.random
        if not self.reaches(source, target) or draw.random() < faults.loss:
            return
        delay = draw.uniform(faults.min_delay_s, faults.max_delay_s)
        copies = [delay]
        if draw.random() < faults.repeat:
            copies.append(delay + draw.uniform(0, faults.late_s))
        data = self.damaged(data)  # both copies: a late one is never the first that can be read
        for wait in copies:
            self._deliver(wait, source, target, data)

    def _deliver(self, wait: float, source: FakeEngine, target: FakeEngine, data: bytes) -> None:
        def arrive() -> None:
            if target in self.engines:
                target.on_frame(source.node, data)

        if wait:
            self.later(wait, arrive)
        else:
            arrive()

    def end(self, engine: FakeEngine) -> None:
        """An engine is gone: the others hear of it after 10 ms, if at all."""
        self.engines.remove(engine)
        for other in list(self.engines):
            if self.random.random() < self.faults.hint:
                self.later(0.01, lambda other=other: other in self.engines and other.on_gone(engine.node))
        if len(self.engines) == 1:
            self.engines[0].on_link(False)


class FakeEngine:
    """cluster/engine.py says what the calls do. `frozen`: its process is stopped, so it answers nobody."""

    def __init__(self, network: FakeNetwork, node: str) -> None:
        self.network = network
        self.node = node
        self.frozen = False
        self.published = 0

    def open(
        self,
        on_frame: Callable[[str, bytes], None],
        on_ask: Callable[[], list[bytes]],
        on_link: Callable[[bool], None],
        on_gone: Callable[[str], None],
    ) -> None:
        self.on_frame, self.on_ask, self.on_link, self.on_gone = on_frame, on_ask, on_link, on_gone
        self.network.engines.append(self)
        for engine in self.network.engines if len(self.network.engines) == 2 else [self]:
            engine.on_link(len(self.network.engines) > 1)

    def publish(self, frame: bytes) -> bool:
        if self not in self.network.engines:
            return False
        self.published += 1
        for target in list(self.network.engines):
            if target is not self:
                self.network.send(self, target, frame)
        return True

    def ask(self, node: str, timeout_s: float) -> list[bytes] | None:
        network = self.network
        named = [engine for engine in network.engines if engine.node == node and engine is not self]
        if self not in network.engines or not named:
            return None
        origin = network.random.choice(named)
        both_ways = network.reaches(self, origin) and network.reaches(origin, self)
        if origin.frozen or not both_ways or network.random.random() < network.faults.loss:
            return None
        parts = [network.damaged(part) for part in origin.on_ask()]
        network.random.shuffle(parts)
        return parts

    def close(self) -> None:
        if self in self.network.engines:
            self.network.end(self)
