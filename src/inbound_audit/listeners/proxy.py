"""The real client behind a balancer: which peers are trusted, and what a PROXY header says.

The source of the rules is HAProxy's proxy-protocol.txt, versions 1 and 2. aiosmtpd's `ProxyData` carries the header;
its parser is not used, as it takes headers for valid that the specification does not have.
"""

from __future__ import annotations

import ipaddress
import re
import struct
from asyncio import IncompleteReadError
from collections.abc import Iterable
from typing import Any

from aiosmtpd.proxy_protocol import AF, PROTO, V2_CMD, V2_SIGNATURE, ProxyData

from inbound_audit._ipcount import NetworkMap
from inbound_audit.listeners.admission import Admission
from inbound_audit.listeners.smtp_reader import CommandReader, LineTooLong

MAX_V1_BYTES = 107
"""Bytes of a header of version 1, its CRLF included."""

_ADDRESSES = {AF.INET: "!4s4sHH", AF.INET6: "!16s16sHH", AF.UNIX: "!108s108s"}
_V1 = re.compile(rb"(TCP4|TCP6) ([0-9A-Fa-f:.]+) ([0-9A-Fa-f:.]+) (0|[1-9]\d{0,4}) (0|[1-9]\d{0,4})\r\n")
_IP = {b"TCP4": (AF.INET, ipaddress.IPv4Address), b"TCP6": (AF.INET6, ipaddress.IPv6Address)}


class HeaderError(ValueError):
    """A PROXY header that the specification does not allow. Its connection is closed."""


class TrustedProxies:
    """The networks whose PROXY headers are believed. Raises CidrError for an entry that is not a prefix.

    Every connection from there must begin with a header, and no other connection may. The address that the kernel
    reports decides, before a byte is read. A peer without an address is never believed.
    """

    def __init__(self, networks: Iterable[str] = ()) -> None:
        self._networks = NetworkMap([(cidr, 1) for cidr in networks])
        self._empty = not len(self._networks)

    def expects_header(self, admission: Admission) -> bool:
        if self._empty or admission.client is None:
            return False
        return self._networks.lookup_session(admission.client) is not None


async def read_header(reader: CommandReader) -> ProxyData:
    """Reads one header, and no byte more. Raises HeaderError."""
    header: ProxyData
    try:
        begin = await reader.readexactly(6)
        if begin == b"PROXY ":
            header = _first_version(await _line(reader))
        elif begin == V2_SIGNATURE[:6]:
            begin += await reader.readexactly(10)
            header = _second_version(begin, await reader.readexactly(int.from_bytes(begin[14:], "big")))
        else:
            raise HeaderError(f"{begin!r} begins no header")
    except IncompleteReadError:
        raise HeaderError("the header is not complete") from None
    return header


async def _line(reader: CommandReader) -> bytes:
    try:
        return await reader.line(MAX_V1_BYTES - len("PROXY "))
    except LineTooLong:
        raise HeaderError(f"version 1 with more than {MAX_V1_BYTES} bytes") from None


def _first_version(line: bytes) -> Any:
    """A header of version 1, whose `line` is what follows "PROXY "."""
    header: Any = ProxyData(version=1)
    header.whole_raw = bytearray(b"PROXY " + line)
    if re.fullmatch(rb"UNKNOWN(?: [^\r]*)?\r\n", line, re.DOTALL):
        header.family, header.protocol = AF.UNSPEC, PROTO.UNSPEC
        header.rest = line[len("UNKNOWN") : -2]
        return header
    found = _V1.fullmatch(line)
    if found is None:
        raise HeaderError(f"version 1 with {line!r}")
    header.protocol = PROTO.STREAM
    address: Any
    header.family, address = _IP[found[1]]
    try:
        header.src_addr, header.dst_addr = address(found[2].decode()), address(found[3].decode())
    except ValueError as error:
        raise HeaderError(f"version 1 with an address that is none: {error}") from None
    header.src_port, header.dst_port = int(found[4]), int(found[5])
    if max(header.src_port, header.dst_port) > 65535:
        raise HeaderError(f"version 1 with a port that is none: {line!r}")
    return header


def _second_version(begin: bytes, body: bytes) -> Any:
    """A header of version 2, whose `begin` are the 16 bytes of every header and `body` what follows."""
    header: Any = ProxyData(version=2)
    header.whole_raw = bytearray(begin + body)
    version_and_command, family_and_protocol = begin[12], begin[13]
    if begin[:12] != V2_SIGNATURE or version_and_command not in (0x20, 0x21):
        raise HeaderError(f"version 2 with {begin[6:13]!r}")
    header.command = V2_CMD(version_and_command & 15)
    header.rest = body
    if header.command == V2_CMD.LOCAL or family_and_protocol == 0:
        # LOCAL is valid whatever follows, and of UNSPEC the addresses are not used (section 2.2).
        header.family, header.protocol = AF.UNSPEC, PROTO.UNSPEC
        return header
    try:
        header.family, header.protocol = AF(family_and_protocol >> 4), PROTO(family_and_protocol & 15)
        layout = _ADDRESSES[header.family]
    except (KeyError, ValueError):
        layout = ""
    if not layout or header.protocol == PROTO.UNSPEC:
        raise HeaderError(f"version 2 with the family and protocol {family_and_protocol:#04x}")
    length = struct.calcsize(layout)
    if len(body) < length:
        raise HeaderError(f"version 2 with {len(body)} of {length} bytes of addresses")
    _check_tlvs(body[length:])
    _set_addresses(header, struct.unpack(layout, body[:length]))
    header.rest = body[length:]
    header.tlv_start = 16 + length if header.rest else None
    return header


def _set_addresses(header: Any, fields: tuple[bytes | int, ...]) -> None:
    address: Any = {AF.INET: ipaddress.IPv4Address, AF.INET6: ipaddress.IPv6Address}.get(header.family, bytes)
    header.src_addr, header.dst_addr = address(fields[0]), address(fields[1])
    if header.family != AF.UNIX:
        header.src_port, header.dst_port = fields[2:]


def _check_tlvs(tlvs: bytes) -> None:
    """Raises HeaderError if the vectors after the addresses do not fill what is there (section 2.2)."""
    while tlvs:
        length = 3 + int.from_bytes(tlvs[1:3], "big")
        if len(tlvs) < length:
            raise HeaderError("version 2 with a TLV that is cut off")
        tlvs = tlvs[length:]


def real_client(header: ProxyData) -> tuple[str, int] | None:
    """Address and port of the client that a valid header names.

    None if it names no other client: the balancer speaks for itself (LOCAL, a health check), does not know the client
    (UNKNOWN), or passes on a Unix socket. The connection then stays counted for the balancer.
    """
    if header.command == V2_CMD.LOCAL or header.family not in (AF.INET, AF.INET6):
        return None
    return str(header.src_addr), header.src_port or 0
