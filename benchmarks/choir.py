"""One process that speaks for many nodes of a cluster, in the place of their agents.

    python -m benchmarks.choir ADDRESS NODES CHANGES_PER_S PAUSE_S SECONDS

Each node says the same: a frame of CHANGES_PER_S * PAUSE_S changes at each pause, or a heartbeat; and a snapshot when
it is asked. All go over one connection of Zenoh to the agent that listens at ADDRESS.
"""

from __future__ import annotations

import json
import sys
from time import monotonic, sleep

from benchmarks.workloads import WORKLOADS
from inbound_audit import InboundAudit
from inbound_audit._ipcount import NodeTrees
from inbound_audit.cluster.sender import Sender

CLUSTER = "bench"
REST_S = 5.0


def frames_of(changes: int, pause_s: float, frames: int) -> list[bytes]:
    """What a node says, a frame a pause: a first state, then half of it goes and comes."""
    return [frame for frame, _ in said_by(changes, pause_s, frames)]


def said_by(changes: int, pause_s: float, frames: int, beats: int = 0) -> list[tuple[bytes, list[bytes]]]:
    """The same, each with the snapshot that it leads to; in so many more at the end nothing changes."""
    now = [0.0]
    said: list[tuple[bytes, list[bytes]]] = []
    with InboundAudit(capacity=1 << 24) as audit:
        smtp = audit.listener("SMTP")
        sender = Sender(1, NodeTrees(audit), lambda: now[0])
        addresses = WORKLOADS["random"].texts(changes)
        kept = {address: smtp.session(address) for address in addresses}
        while len(said) < frames:
            said += [(frame, sender.snapshot()) for frame in sender.frames(now[0])]
            for address in addresses:
                if address in kept:
                    kept.pop(address).close()
                else:
                    kept[address] = smtp.session(address)
            now[0] += pause_s
        while len(said) < frames + beats:
            said += [(frame, sender.snapshot()) for frame in sender.frames(now[0])]
            now[0] += 1.0
        for session in kept.values():
            session.close()
    return said


def part(changes: float, pause_s: float, seconds: float) -> list[tuple[bytes, list[bytes]]]:
    """What a node says here, at last for REST_S seconds heartbeats, which show whether something is missing."""
    return said_by(int(changes * pause_s), pause_s, int(seconds / pause_s), int(REST_S / pause_s))


def main() -> None:
    import zenoh

    address, nodes, changes, pause, seconds = sys.argv[1:]
    pause_s = float(pause)
    said = part(float(changes), pause_s, float(seconds))
    config = zenoh.Config()
    for path, value in {"mode": "client", "connect/endpoints": [address]}.items():
        config.insert_json5(path, json.dumps(value))
    snapshot: list[bytes] = []

    def answer(query: zenoh.Query) -> None:
        with query:
            for part in snapshot:
                query.reply(str(query.key_expr), part)

    with zenoh.open(config) as session:
        session.declare_queryable(f"ia/{CLUSTER}/*/s", answer)
        voices = [session.declare_publisher(f"ia/{CLUSTER}/choir{at}/d") for at in range(int(nodes))]
        began = monotonic()
        for number, (frame, snapshot[:]) in enumerate(said):
            for at, voice in enumerate(voices):
                due = began + (number + at / len(voices)) * pause_s
                if (early := due - monotonic()) > 0.001:
                    sleep(early)
                voice.put(frame)


if __name__ == "__main__":
    main()
