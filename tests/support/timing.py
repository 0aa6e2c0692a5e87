"""What the tests of windows have in common: a clock that they set, and questions about prefixes."""

from __future__ import annotations

import ipaddress

from hypothesis import strategies as st
from tests.support.gold import Address, Network

from inbound_audit import InboundAudit

START = 1_799_999_880.0
"""A border of windows of 1, 7, 10 and 60 seconds, and of many others."""

# A quarter of a second has no rounding, so a time near a border is on the side where it is said to be. A step is less
# than a window, a window, some windows, all of them, and further than anybody will look.
_STEPS = [0.25, 1.0, 3.0, 6.75, 7.0, 9.75, 10.0, 10.25, 20.0, 30.0, 60.0, 61.0, 180.0, 240.0, 3600.0, 1e6, 2.0**33]
steps = st.one_of(
    st.sampled_from(_STEPS[:12]),
    st.sampled_from(_STEPS[:12]),
    st.sampled_from(_STEPS[:12]),
    st.sampled_from(_STEPS),
    st.sampled_from(_STEPS).map(lambda step: -step),
)


class Clock:
    """A clock that the test moves."""

    def __init__(self, seconds: float = START) -> None:
        self.seconds = seconds

    def __call__(self) -> float:
        return self.seconds

    def step(self, seconds: float) -> None:
        """Forwards or backwards, as far as a float says to the quarter of a second; before 1970, too."""
        self.seconds = min(max(self.seconds + seconds, -(2.0**38)), 2.0**38)


def around(address: Address, length: int) -> Network:
    return ipaddress.ip_network((address, length), strict=False)


def families() -> list[Network]:
    return [ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0")]


def shown(audit: InboundAudit, kind: str = "connections", monitor: str = "10,3", cidr: str = "0.0.0.0/0") -> list[int]:
    """What each window has."""
    return [getattr(audit, kind)(monitor, cidr, v) for v in range(int(monitor.split(",")[1]))]
