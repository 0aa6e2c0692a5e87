"""What an agent needs at its bounds is what docs/cluster.md says, and less than its unit allows."""

from __future__ import annotations

import re
from pathlib import Path

import inbound_audit.cli
from inbound_audit.cluster.bounds import Bounds
from inbound_audit.cluster.inbox import MAX_BYTES
from inbound_audit.cluster.zenoh_settings import MAX_MESSAGE_BYTES, MAX_UNHEARD

PAGE = (Path(__file__).parents[3] / "docs" / "cluster.md").read_text("utf-8")
UNIT = Path(inbound_audit.cli.__file__).with_name("inbound-audit-agent.service").read_text("utf-8")


def row(name: str) -> list[int]:
    """The numbers in a row of the page's table, without the versions of IP."""
    (said,) = re.findall(rf"^\| {name} \| (.*) \|$", PAGE, re.MULTILINE)
    return [int(number) for number in re.findall(r"\b(\d+) (?:MiB|bytes)", said)]


def test_the_page_and_the_unit_have_room_for_the_bounds() -> None:
    bounds = Bounds()
    (base,), (waiting,) = row("an agent that hears no other node"), row("frames and changes that wait")
    (in_zenoh,) = row("frames that wait in Zenoh")
    assert waiting << 20 == MAX_BYTES + 2 * bounds.max_all_waiting_bytes
    assert in_zenoh << 20 == MAX_UNHEARD * MAX_MESSAGE_BYTES
    _, host = row("a host that another node counts")
    _, window_host = row("a host in a window of another node")
    in_all = (base + waiting + in_zenoh << 20) + 2 * (
        bounds.max_all_hosts * host + bounds.max_all_window_hosts * window_host
    )
    assert f"is {in_all / 1e9:.1f} GB if all hosts are IPv6" in PAGE
    (allowed,) = re.findall(r"^MemoryMax=(\d+)G$", UNIT, re.MULTILINE)
    assert f"`MemoryMax={allowed}G`" in PAGE
    assert in_all < int(allowed) << 30
