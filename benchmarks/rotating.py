"""An attacker who never uses an IPv6 address twice, against a series with a bound: how much memory, and what is exact.

    python -m benchmarks.rotating 10000000

Prints a JSON object: `resident` (the most bytes that the resident set grew by), `memory` (what the series says it
uses), `hosts` (that are left), `prefixes` (those of /48 and shorter that were compared with a count of their own),
`wrong` (those that differed), and `folded` (the lengths to which hosts were, by window). It needs a process of its own,
as `benchmarks.resident` does.
"""

from __future__ import annotations

import gc
import json
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from ipaddress import IPv6Address, IPv6Network, ip_network
from pathlib import Path
from typing import Any

from benchmarks.resident import resident
from inbound_audit import InboundAudit

MAX_BYTES = 64 << 20
INTERVAL, WINDOWS = 300, 6
BLOCK = 10_000
MINUTES_MOST = 5
LENGTHS = (48, 47, 44, 40, 36, 32, 24, 16, 8, 0)

# Fixed bits at the top, and how many below them the attacker draws: as a customer, as a site, as a provider.
SHAPES = {
    "within one /64": (0x2001_0DB8_0001_0001, 64),
    "across the /64s of a /48": (0x2001_0DB8_0002, 80),
    "across the /48s of a /32": (0x2001_0DB9, 96),
}


def blocks(addresses: int) -> Iterator[list[bytes]]:
    """So many addresses, the same in every run, a block of each shape in turn."""
    draw = random.Random(11)
    shapes = list(SHAPES.values())
    for number in range(addresses // BLOCK):
        fixed, bits = shapes[number % len(shapes)]
        top = fixed << bits
        yield [(top | draw.getrandbits(bits)).to_bytes(16, "big") for _ in range(BLOCK)]


def fill(audit: InboundAudit, seconds: list[float], addresses: int) -> int:
    """Adds all of them, spread over all windows. The most that was resident meanwhile."""
    add = audit.series.add
    most = resident()
    for number, block in enumerate(blocks(addresses)):
        seconds[0] = INTERVAL * (number * BLOCK * WINDOWS // addresses)
        for address in block:
            add("s", address)
        most = max(most, resident())
    return most


def truth(addresses: int) -> dict[int, Counter[int]]:
    """What each prefix of each length has to count, by its bits."""
    sums: dict[int, Counter[int]] = {48: Counter()}
    for block in blocks(addresses):
        sums[48].update(int.from_bytes(address[:6], "big") for address in block)
    for length in LENGTHS[1:]:
        sums[length] = Counter()
        for bits, n in sums[48].items():
            sums[length][bits >> 48 - length] += n
    return sums


def prefix(bits: int, length: int) -> IPv6Network:
    made = ip_network((IPv6Address(bits << 128 - length), length))
    assert isinstance(made, IPv6Network)
    return made


def wrong(audit: InboundAudit, sums: dict[int, Counter[int]]) -> list[str]:
    """The prefixes whose sum over all windows is not what it has to be."""
    asked = [(str(prefix(bits, length)), n) for length, counts in sums.items() for bits, n in counts.items()]
    return [cidr for cidr, n in asked if audit.series.count("s", cidr, 0, WINDOWS - 1) != n]


def of_series(addresses: int) -> dict[str, Any]:
    """What `main` prints. A multiple of the block."""
    seconds = [0.0]
    with InboundAudit(clock=lambda: seconds[0]) as audit:
        audit.series.define("s", "ip", INTERVAL, WINDOWS, max_bytes=MAX_BYTES)
        audit.series.add("s", "192.0.2.7")  # what the first call loads is no memory
        for _ in blocks(BLOCK):  # nor is what a block of addresses takes
            pass
        gc.collect()
        before = resident()
        most = fill(audit, seconds, addresses)
        folded = [row.ipv6 for row in audit.series.folded("s")]
        sums = truth(addresses)
        return {
            "resident": most - before,
            "memory": audit.series.memory("s"),
            "hosts": audit.series.hosts("s"),
            "prefixes": sum(map(len, sums.values())),
            "wrong": wrong(audit, sums),
            "folded": folded,
        }


def measured(addresses: int) -> dict[str, Any]:
    """The same, asked of a new process. Raises subprocess.SubprocessError when that fails."""
    command = [sys.executable, "-m", "benchmarks.rotating", str(addresses)]
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run(command, cwd=root, check=True, capture_output=True, timeout=60 * MINUTES_MOST)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


if __name__ == "__main__":
    print(json.dumps(of_series(int(sys.argv[1]))))
