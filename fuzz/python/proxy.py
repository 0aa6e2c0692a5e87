"""PROXY headers from a balancer that is trusted: a header is read as its protocol says, or the connection is closed.

The first byte of an input says in pieces of what size the rest arrives. A session that gets a banner is counted, once,
for the address that the gold reader finds in the header, and the policy was asked about that address. A connection
whose header can't be read gets no banner.
"""

from __future__ import annotations

import ipaddress
import re
import struct

from fuzz.python.smtp_server import PEER, Server, pieces

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
V1 = re.compile(rb"PROXY (?:UNKNOWN[^\r\n]{0,92}|(TCP[46]) (\S+) (\S+) (\d+) (\d+))\r\n")
MAX_V1 = 107
LENGTHS = {0: 0, 1: 4, 2: 16}
LOCAL = PEER[0]

server = Server(proxy_from=["127.0.0.1"], proxy_timeout=1e6)


def gold(data: bytes) -> str | None:
    """The client that a header names, the balancer's own address where it names none; None for what is no header."""
    return gold_v2(data) if data.startswith(SIGNATURE) else gold_v1(data)


def gold_v1(data: bytes) -> str | None:
    match = V1.match(data)
    if match is None or match.end() > MAX_V1:
        return None
    if match[1] is None:
        return LOCAL
    kind = ipaddress.IPv4Address if match[1] == b"TCP4" else ipaddress.IPv6Address
    try:
        client, _ = (kind(match[at].decode("ascii")) for at in (2, 3))
    except ValueError:
        return None
    return shown(client)


def gold_v2(data: bytes) -> str | None:
    if len(data) < 16:
        return None
    version, kind, size = struct.unpack("!BBH", data[12:16])
    if version >> 4 != 2 or version & 15 > 1 or len(data) < 16 + size:
        return None
    family = kind >> 4
    if version & 15 == 0:
        return LOCAL
    if kind & 15 > 2 or family > 3:
        return None
    if family in (0, 3):
        return LOCAL
    width = LENGTHS[family]
    if size < 2 * width + 4:
        return None
    return shown(ipaddress.ip_address(data[16 : 16 + width]))


def shown(client: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    return str(getattr(client, "ipv4_mapped", None) or client)


def run(data: bytes) -> None:
    if not data:
        return
    header = data[1:]
    transport = server.open()
    assert server.audit.total() == 1, "a balancer's connection is counted from its accept on"
    server.send(transport, pieces(header, data[0] % 32))
    if transport.written.startswith(b"220 "):
        expected = gold(header)
        assert expected is not None, "a session is let in without a header that can be read"
        assert server.policy.asked == [expected], (server.policy.asked, expected)
        if not transport.closed:
            assert server.audit.total() == server.audit.inbound_session_count(expected) == 1
    else:
        assert not server.policy.asked, "the policy is asked about a session that gets no banner"
    server.end(transport)
