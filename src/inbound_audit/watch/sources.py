"""What can be looked at in an audit: the open sessions of services and listeners, what monitors counted, series."""

from __future__ import annotations

from inbound_audit._ipcount import MONITOR_KINDS
from inbound_audit.feed import Look, Source
from inbound_audit.nodes import THIS_HOST


def sources_of(look: Look) -> list[Source]:
    """In the order in which a key goes through them."""
    services = sorted({row.service for row in look.listeners})
    found = [Source(service=service) for service in services]
    found += [Source(service=row.service, listener=row.listener) for row in look.listeners]
    if look.nodes:
        found.append(Source(service="inbound_cidr"))
        found += [Source(node=node.name) for node in look.nodes if node.state != THIS_HOST]
    for kind in MONITOR_KINDS:
        found += [Source(monitor=row.name, kind=kind, endv=row.windows - 1) for row in look.monitors]
    found += [Source(series=row.name, endv=row.windows - 1) for row in look.series]
    if len(look.processes) > 1:
        found += [Source(service=service, pid=row.pid) for row in look.processes for service in services]
    return found if look.source in found else [look.source, *found]


def title_of(source: Source) -> str:
    """As the screen names it."""
    where = f" of process {source.pid}" if source.pid is not None else f" of node {source.node}" * bool(source.node)
    if source.series is not None:
        return f"series {source.series}{where}"
    if source.monitor is not None:
        return f"{source.kind} in {source.monitor}{where}"
    listener = f" {source.listener}" if source.listener is not None else ""
    return f"open {source.service}{listener} sessions{where}"
