"""The real client behind a balancer: whom to believe, and what a PROXY header says.

The header itself is read and checked by aiosmtpd's own parser (versions 1 and 2 of the protocol).
"""

from __future__ import annotations

from collections.abc import Iterable

from aiosmtpd.proxy_protocol import AF, V2_CMD, ProxyData

from inbound_audit._ipcount import NetworkMap
from inbound_audit.listeners.guard import Admission

HEADER_TIMEOUT = 5.0
"""Seconds that a balancer has for its header; the protocol asks for at least three."""


class TrustedProxies:
    """The networks whose PROXY headers are believed. Raises CidrError for an entry that is no prefix.

    A header is expected of every connection from there and of no other: which of the two holds is decided by the
    address that the kernel reports, before a byte is read. A peer without an address is never believed.
    """

    def __init__(self, networks: Iterable[str] = (), timeout: float = HEADER_TIMEOUT) -> None:
        self._networks = NetworkMap([(cidr, 1) for cidr in networks])
        self._none = not len(self._networks)
        self.timeout = timeout

    def expects_header(self, admission: Admission) -> bool:
        if self._none or admission.session is None:
            return False
        return self._networks.lookup_session(admission.session) is not None


def real_client(header: ProxyData) -> tuple[str, int] | None:
    """Address and port of the client that a valid header tells of.

    None where there is no other client: the balancer speaks for itself (LOCAL, a health check), does not know
    (UNKNOWN), or passes a Unix socket on. The connection then stays the balancer's own.
    """
    if header.command == V2_CMD.LOCAL or header.family not in (AF.INET, AF.INET6):
        return None
    return str(header.src_addr), header.src_port or 0
