"""How much memory a structure takes: filled in a process of its own, whose resident set is read before and after.

    python -m benchmarks.resident random 1000000              the trie, filled with packed addresses
    python -m benchmarks.resident random 100000 "py-radix"    a peer, filled with texts

Prints a JSON object: `hosts`, `resident` (bytes that the resident set grew by) and, for the trie, `arena` (bytes that
it says it uses).
"""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.peers import COUNTERS
from benchmarks.workloads import WORKLOADS, texts_of
from inbound_audit import PrefixCounter

MINUTES_MOST = 3


def resident() -> int:
    """Bytes of this process that are in memory. Linux only: elsewhere a process cannot read it of itself."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("the system does not tell the resident set")


def of_trie(workload: str, size: int) -> dict[str, int]:
    packed = WORKLOADS[workload].packed(size)
    PrefixCounter().add_many(packed[:1], version=WORKLOADS[workload].version)  # what the first call loads is no memory
    counter = PrefixCounter()
    gc.collect()
    before = resident()
    counter.add_many(packed, version=WORKLOADS[workload].version)
    return {"hosts": len(counter), "resident": resident() - before, "arena": counter.memory}


def of_peer(workload: str, size: int, name: str) -> dict[str, int]:
    """The texts exist before and are not counted; what a peer makes of them is."""
    version = WORKLOADS[workload].version
    kind = next(peer for peer in COUNTERS if peer.name == name)
    texts = texts_of(WORKLOADS[workload].packed(size), version)
    kind(version).add(texts[0])
    peer = kind(version)
    gc.collect()
    before = resident()
    for text in texts:
        peer.add(text)
    return {"hosts": size, "resident": resident() - before}


def measured(workload: str, size: int, *peer: str) -> dict[str, int]:
    """The same, asked of a new process. Raises subprocess.SubprocessError when that fails."""
    command = [sys.executable, "-m", "benchmarks.resident", workload, str(size), *peer]
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run(command, cwd=root, check=True, capture_output=True, timeout=60 * MINUTES_MOST)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def main(arguments: list[str]) -> None:
    workload, size, *peer = arguments
    print(json.dumps(of_peer(workload, int(size), *peer) if peer else of_trie(workload, int(size))))


if __name__ == "__main__":
    main(sys.argv[1:])
