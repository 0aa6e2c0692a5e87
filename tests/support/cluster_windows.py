"""Reads what a process counts of the windows of the other nodes of a cluster."""

from __future__ import annotations

from tests.support import inner

from inbound_audit import Session


def remote_count(
    session: Session, name: str, interval: int, slots: int, cidr: str, first: int = 0, last: int = 0
) -> int | None:
    """What a count over the cluster adds to the count of this host, of a named series of addresses; None: the process
    knows of nothing.

    `session`: any open session of the audit.
    """
    key = (inner.ADDRESSES, name.encode(), interval, slots)
    count: int | None = inner.remote_count(session._handle, *key, cidr, first, last)
    return count
