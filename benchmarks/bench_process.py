"""What only a process of its own can tell: memory per host, and what `import inbound_audit` loads."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.measure import summary
from benchmarks.peers import COUNTERS
from benchmarks.resident import measured
from benchmarks.scale import QUICK

if not Path("/proc/self/status").exists():
    pytest.skip("the system does not tell the resident set", allow_module_level=True)

HEAVY = ("lupa", "aiosmtpd", "click", "rich", "tqdm")
IMPORT = f"""
import sys
before = set(sys.modules)
import inbound_audit
new = set(sys.modules) - before
import json
print(json.dumps([len(new), sorted(name for name in new if name.split(".")[0] in {HEAVY!r})]))
"""
PEERS_FILLED = 20_000 if QUICK else 100_000


@pytest.mark.parametrize(("key", "workload"), [("memory-4", "random"), ("memory-6", "random6")])
def test_memory_of_a_million_hosts(
    key: str, workload: str, once: Callable[..., Any], report: Callable[..., None]
) -> None:
    """The larger of what the resident set grew by and what the trie says of itself is held against the bar."""
    took = once(lambda: measured(workload, 1_000_000))
    each = {name: took[name] / took["hosts"] for name in ("resident", "arena")}
    report(key, summary([max(each.values())]), each, "bytes")


def test_import(once: Callable[..., Any], report: Callable[..., None]) -> None:
    def load() -> Any:
        return json.loads(subprocess.run([sys.executable, "-c", IMPORT], check=True, capture_output=True).stdout)

    new, heavy = once(load)
    report("import", summary([len(heavy)]), {"new modules in all": new}, "modules")


@pytest.mark.parametrize("workload", ["random", "mail", "scan6"])
@pytest.mark.parametrize("peer", [peer.name for peer in COUNTERS])
def test_memory_of_a_peer(peer: str, workload: str, once: Callable[..., Any], benchmark: Any) -> None:
    try:
        next(kind for kind in COUNTERS if kind.name == peer)(4)
    except ImportError:
        pytest.skip(f"{peer} is not installed")
    took = once(lambda: measured(workload, PEERS_FILLED, peer))
    benchmark.group = "memory"
    benchmark.extra_info.update(
        kind="memory", peer=peer, workload=workload, size=took["hosts"], bytes=took["resident"] / took["hosts"]
    )
