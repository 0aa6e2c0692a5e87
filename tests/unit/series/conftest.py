"""What the tests of windows and series have in common."""

from __future__ import annotations

import pytest

from inbound_audit import InboundAudit


@pytest.fixture
def audit(clock):
    """An audit without monitors, whose time the test sets."""
    with InboundAudit(clock=clock, capacity=1 << 20) as audit:
        yield audit
