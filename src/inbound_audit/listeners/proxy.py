"""The real client behind a balancer: which peers are trusted, and what a PROXY header says.

aiosmtpd's own parser reads and checks the header (versions 1 and 2 of the protocol).
"""

from __future__ import annotations

from collections.abc import Iterable

from aiosmtpd.proxy_protocol import AF, V2_CMD, ProxyData

from inbound_audit._ipcount import NetworkMap
from inbound_audit.listeners.guard import Admission

HEADER_TIMEOUT_S = 5.0
"""Seconds that a balancer has for its header; the PROXY protocol asks for at least three."""


class TrustedProxies:
    """The networks whose PROXY headers are believed. Raises CidrError for an entry that is not a prefix.

    Every connection from there must begin with a header, and no other connection may. The address that the kernel
    reports decides, before a byte is read. A peer without an address is never believed.
    """

    def __init__(self, networks: Iterable[str] = (), timeout: float = HEADER_TIMEOUT_S) -> None:
        self._networks = NetworkMap([(cidr, 1) for cidr in networks])
        self._empty = not len(self._networks)
        self.timeout = timeout

    def expects_header(self, admission: Admission) -> bool:
        if self._empty or admission.session is None:
            return False
        return self._networks.lookup_session(admission.session) is not None


def real_client(header: ProxyData) -> tuple[str, int] | None:
    """Address and port of the client that a valid header names.

    None if it names no other client: the balancer speaks for itself (LOCAL, a health check), does not know the client
    (UNKNOWN), or passes on a Unix socket. The connection then stays counted for the balancer.
    """
    if header.command == V2_CMD.LOCAL or header.family not in (AF.INET, AF.INET6):
        return None
    return str(header.src_addr), header.src_port or 0
