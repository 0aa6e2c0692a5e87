"""What an agent pays for what other nodes say, without the engine that carries it."""

from __future__ import annotations

from collections.abc import Callable
from time import process_time

import pytest

from benchmarks.choir import frames_of
from benchmarks.measure import summary
from benchmarks.scale import QUICK
from inbound_audit import InboundAudit
from inbound_audit._ipcount import NodeTrees
from inbound_audit.cluster.bounds import Bounds
from inbound_audit.cluster.frames import MIN_FRAME_BYTES
from inbound_audit.cluster.receiver import Receiver

SECONDS = 2 if QUICK else 5


@pytest.mark.parametrize(("key", "nodes", "changes"), [("cluster-1000", 1_000, 100), ("cluster-100", 100, 10_000)])
def test_cost_of_what_others_say(
    key: str, nodes: int, changes: int, once: Callable[..., None], report: Callable[..., None]
) -> None:
    """Each node changes so many hosts per second, and says so in a frame."""
    said = frames_of(changes, 1.0, SECONDS)
    now = [0.0]
    with InboundAudit(capacity=1 << 24) as audit:
        receiver = Receiver("here", 1 << 40, NodeTrees(audit), lambda: now[0], Bounds())
        shares = []

        def listen() -> None:
            for second, frame in enumerate(said):
                now[0] = float(second)
                began = process_time()
                for node in range(nodes):
                    receiver.heard(f"mx{node}", frame, now[0])
                receiver.tick(now[0])
                assert receiver.asks(now[0]) == []
                shares.append(process_time() - began)

        once(listen)
        assert all(state.gaps == state.dropped == 0 for state in receiver.nodes.values())
    report(key, summary(shares[1:]), {"first second": shares[0]}, "processors")


def test_bytes_of_a_change(once: Callable[..., None], report: Callable[..., None]) -> None:
    """5,000 hosts change at once."""
    changes = 5_000
    said: list[bytes] = []
    once(lambda: said.extend(frames_of(changes, 1.0, SECONDS)))
    each = [(len(frame) - MIN_FRAME_BYTES) / changes for frame in said]
    report("cluster-bytes", summary(each), {"of the frame itself": float(MIN_FRAME_BYTES)}, "bytes")
