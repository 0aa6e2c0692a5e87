"""What an agent pays for what other nodes say: processor time of a second of their frames."""

from __future__ import annotations

from collections.abc import Callable
from time import process_time

import pytest

from benchmarks.measure import summary
from benchmarks.scale import QUICK
from benchmarks.workloads import WORKLOADS
from inbound_audit import InboundAudit
from inbound_audit._ipcount import NodeTrees
from inbound_audit.cluster.receiver import Bounds, Receiver
from inbound_audit.cluster.sender import Sender

SECONDS = 2 if QUICK else 5
RANDOM = WORKLOADS["random"]


def frames_of(node: int, changes: int, seconds: int) -> list[bytes]:
    """What a node says in so many seconds, a frame each: a first state, then half of it goes and comes."""
    addresses = RANDOM.texts(changes)
    now = [0.0]
    said: list[bytes] = []
    with InboundAudit(capacity=1 << 24) as audit:
        smtp = audit.listener("SMTP")
        sender = Sender(f"mx{node}", node + 1, NodeTrees(audit), lambda: now[0])
        kept = {address: smtp.session(address) for address in addresses}
        said += sender.frames(0.0)
        for second in range(1, seconds):
            for address in addresses:
                if second % 2:
                    kept.pop(address).close()
                else:
                    kept[address] = smtp.session(address)
            now[0] = float(second)
            said += sender.frames(now[0])
        for session in kept.values():
            session.close()
    return said


@pytest.mark.parametrize(("key", "nodes", "changes"), [("cluster-1000", 1_000, 100), ("cluster-100", 100, 10_000)])
def test_cost_of_what_others_say(
    key: str, nodes: int, changes: int, once: Callable[..., None], report: Callable[..., None]
) -> None:
    """Each node changes so many hosts per second, and says so in a frame."""
    said = frames_of(0, changes, SECONDS)
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
