"""PROXY headers against proxy-protocol.txt: which name the client, which the balancer, and which are closed."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import struct
from collections.abc import Iterator

import pytest
from tests.support import listening
from tests.support.listening import Peer, Script, serving
from tests.support.waiting import eventually

from inbound_audit import InboundAudit
from inbound_audit.listeners import Guard
from inbound_audit.listeners.proxy import HeaderError, read_header, real_client
from inbound_audit.listeners.smtp import protocol_factory
from inbound_audit.listeners.smtp_reader import CommandReader

acceptor, audit, guard = listening.acceptor, listening.audit, listening.guard  # fixtures

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
FOUR = socket.inet_aton("198.51.100.7") + socket.inet_aton("203.0.113.9") + struct.pack("!HH", 4000, 25)
SIX = ipaddress.ip_address("2001:db8::7").packed + ipaddress.ip_address("2001:db8::9").packed + FOUR[8:]
UNIX = b"/client".ljust(108, b"\0") + b"/server".ljust(108, b"\0")
ADDRESSES = {1: FOUR, 2: SIX, 3: UNIX}
CLIENTS = {1: ("198.51.100.7", 4000), 2: ("2001:db8::7", 4000), 3: None}

CLOSED = "closed"
BALANCER = None


def v2(command: int, family: int, body: bytes, length: int | None = None) -> bytes:
    return SIGNATURE + struct.pack("!BBH", command, family, len(body) if length is None else length) + body


class Transport(asyncio.Transport):
    """A transport that stays open."""

    def is_closing(self) -> bool:
        return False


async def _read(*pieces: bytes) -> tuple[object, bytes]:
    reader = CommandReader()
    reader.set_transport(Transport())
    for piece in pieces:
        reader.feed_data(piece)
    reader.feed_eof()
    try:
        header = await read_header(reader)
    except (HeaderError, asyncio.CancelledError):
        return CLOSED, b""
    return real_client(header), await reader.read()


def client(*pieces: bytes) -> object:
    """Whom a header counts for: the client that it names, BALANCER, or CLOSED. What follows it is left unread."""
    found, rest = asyncio.run(_read(*pieces, b"EHLO"))
    assert found == CLOSED or rest == b"EHLO"
    return found


def expected(command: int, family: int) -> object:
    """Section 2.2 of the specification, with all addresses in place."""
    if command == 0x20:
        return BALANCER  # LOCAL: the receiver must accept it and ignore the rest, the family too
    if command != 0x21:
        return CLOSED
    if family == 0x00:
        return BALANCER
    return CLIENTS[family >> 4] if family in (0x11, 0x12, 0x21, 0x22, 0x31, 0x32) else CLOSED


def test_every_command_and_family() -> None:
    async def all_of_them() -> list[tuple[int, int, object]]:
        wrong = []
        for command in range(256):
            for family in range(256):
                found, _ = await _read(v2(command, family, ADDRESSES.get(family >> 4, UNIX)))
                if found != expected(command, family):
                    wrong.append((command, family, found))
        return wrong

    assert asyncio.run(all_of_them()) == []


@pytest.mark.parametrize("family", [0x11, 0x12, 0x21, 0x22, 0x31, 0x32])
def test_addresses_that_are_cut_off(family: int) -> None:
    whole = ADDRESSES[family >> 4]
    for length in range(len(whole)):
        assert client(v2(0x21, family, whole[:length])) == CLOSED, length
    assert client(v2(0x21, family, whole)) == CLIENTS[family >> 4]


@pytest.mark.parametrize("family", [0x11, 0x21, 0x31])
@pytest.mark.parametrize(
    ("tlvs", "valid"),
    [
        (b"\x04\x00\x00", True),
        (b"\x04\x00\x02ab\xee\x00\x01x", True),
        (b"\x04", False),
        (b"\x04\x00", False),
        (b"\x04\x00\x01", False),
        (b"\x04\x00\x00\x03\x00\x05abcd", False),
        (b"\x04\xff\xffabc", False),
    ],
)
def test_vectors_after_the_addresses(family: int, tlvs: bytes, valid: bool) -> None:
    found = client(v2(0x21, family, ADDRESSES[family >> 4] + tlvs))
    assert found == (CLIENTS[family >> 4] if valid else CLOSED)


@pytest.mark.parametrize("command", [0x20, 0x21])
@pytest.mark.parametrize("body", [b"", b"\xff", FOUR[:5], FOUR, b"x" * 65535])
def test_what_follows_local_or_unspec_is_skipped(command: int, body: bytes) -> None:
    assert client(v2(command, 0x00, body)) == BALANCER


def test_a_header_that_is_not_all_there() -> None:
    async def beginnings() -> set[object]:
        whole = v2(0x21, 0x11, FOUR)
        first = b"PROXY TCP4 198.51.100.7 203.0.113.9 4000 25\r\n"
        return {(await _read(each[:end]))[0] for each in (whole, first) for end in range(len(each))}

    assert asyncio.run(beginnings()) == {CLOSED}
    assert client(v2(0x21, 0x11, FOUR, length=13)) == "closed"
    assert client(v2(0x21, 0x11, b"", length=65535)) == "closed"


def test_a_header_in_pieces() -> None:
    whole = v2(0x21, 0x21, SIX)
    assert client(*(whole[at : at + 1] for at in range(len(whole)))) == CLIENTS[2]


@pytest.mark.parametrize("position", range(12))
def test_a_signature_with_another_byte(position: int) -> None:
    whole = bytearray(v2(0x21, 0x11, FOUR))
    whole[position] ^= 1
    assert client(bytes(whole)) == CLOSED


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (b"TCP4 198.51.100.7 203.0.113.9 4000 25", ("198.51.100.7", 4000)),
        (b"TCP4 255.255.255.255 255.255.255.255 65535 65535", ("255.255.255.255", 65535)),
        (b"TCP4 198.51.100.7 203.0.113.9 0 0", ("198.51.100.7", 0)),
        (b"TCP6 2001:db8::7 2001:DB8::9 4000 25", ("2001:db8::7", 4000)),
        (b"TCP6 ::ffff:198.51.100.7 ::1 4000 25", ("::ffff:c633:6407", 4000)),
        (b"UNKNOWN", BALANCER),
        (b"UNKNOWN ", BALANCER),
        (b"UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535", BALANCER),
        (b"UNKNOWNS", CLOSED),
        (b"unknown", CLOSED),
        (b"", CLOSED),
        (b"TCP4", CLOSED),
        (b"TCP 198.51.100.7 203.0.113.9 4000 25", CLOSED),
        (b"TCPX4 198.51.100.7 203.0.113.9 4000 25", CLOSED),
        (b"TCP44 198.51.100.7 203.0.113.9 4000 25", CLOSED),
        (b"UDP4 198.51.100.7 203.0.113.9 4000 25", CLOSED),
        (b"tcp4 198.51.100.7 203.0.113.9 4000 25", CLOSED),
        (b"TCP4 198.51.100.7 203.0.113.9 4000", CLOSED),
        (b"TCP4 198.51.100.7 203.0.113.9 4000 25 x", CLOSED),
        (b"TCP4 198.51.100.7 203.0.113.9 4000 25 ", CLOSED),
        (b"TCP4  198.51.100.7 203.0.113.9 4000 25", CLOSED),
        (b"TCP4 198.51.100.7\t203.0.113.9 4000 25", CLOSED),
        (b"TCP4 198.51.100.07 203.0.113.9 4000 25", CLOSED),
        (b"TCP4 198.51.100 203.0.113.9 4000 25", CLOSED),
        (b"TCP4 198.51.100.256 203.0.113.9 4000 25", CLOSED),
        (b"TCP4 198.51.100.7 x 4000 25", CLOSED),
        (b"TCP4 2001:db8::7 2001:db8::9 4000 25", CLOSED),
        (b"TCP6 198.51.100.7 203.0.113.9 4000 25", CLOSED),
        (b"TCP6 2001:db8::7%1 2001:db8::9 4000 25", CLOSED),
        (b"TCP6 2001:db8:::7 2001:db8::9 4000 25", CLOSED),
        (b"TCP4 198.51.100.7 203.0.113.9 65536 25", CLOSED),
        (b"TCP4 198.51.100.7 203.0.113.9 4000 65536", CLOSED),
        (b"TCP4 198.51.100.7 203.0.113.9 04000 25", CLOSED),
        (b"TCP4 198.51.100.7 203.0.113.9 -1 25", CLOSED),
        (b"TCP4 198.51.100.7 203.0.113.9 +1 25", CLOSED),
        (b"TCP4 198.51.100.7 203.0.113.9 4000 25\0", CLOSED),
        (b"UNKNOWN " + b"x" * 91, BALANCER),
        (b"UNKNOWN " + b"x" * 92, CLOSED),
        (b"UNKNOWN " + b"x" * 100_000, CLOSED),
    ],
)  # fmt: skip
def test_the_first_version(line: bytes, found: object) -> None:
    assert client(b"PROXY " + line + b"\r\n") == found
    assert client(b"PROXY " + line + b"\n") == CLOSED
    assert client(b"proxy " + line + b"\r\n") == CLOSED


@contextlib.contextmanager
def behind_a_balancer(guard: Guard) -> Iterator[Peer]:
    factory = protocol_factory(object(), guard, proxy_from=["127.0.0.1"], hostname="mx")
    with serving(factory, listening.WAYS[0]) as (_, address), Peer(*address) as peer:
        yield peer


@pytest.mark.usefixtures("acceptor")
@pytest.mark.parametrize(
    "header",
    [
        pytest.param(v2(0x21, 0x10, FOUR), id="IPv4 without a protocol"),
        pytest.param(v2(0x21, 0x20, SIX), id="IPv6 without a protocol"),
        pytest.param(v2(0x21, 0x30, UNIX), id="Unix without a protocol"),
        pytest.param(v2(0x21, 0x01, FOUR), id="a protocol without a family"),
        pytest.param(v2(0x21, 0x11, FOUR + b"\x04"), id="a TLV that is cut off"),
        pytest.param(v2(0x21, 0x11, FOUR[:-1]), id="an address that is cut off"),
        pytest.param(b"PROXY TCP4 1 2 3 4\r\n", id="no address"),
    ],
)
def test_a_broken_header_passes_no_limit(guard: Guard, audit: InboundAudit, header: bytes) -> None:
    policy = guard.policy = Script()
    with behind_a_balancer(guard) as peer:
        peer.send(header + b"EHLO c.example\r\n")
        assert peer.rest() == b""
        eventually(lambda: guard.open == 0)
    assert policy.asked == []
    assert (guard.opened, guard.accepted, guard.uncounted) == (1, 0, 0)


@pytest.mark.usefixtures("acceptor")
@pytest.mark.parametrize("header", [v2(0x20, family, b"") for family in (0x00, 0x11, 0x31, 0xFF)])
def test_local_is_the_balancer_which_is_counted_and_judged(guard: Guard, audit: InboundAudit, header: bytes) -> None:
    policy = guard.policy = Script()
    with behind_a_balancer(guard) as peer:
        peer.send(header)
        assert peer.line().startswith(b"220")
        assert audit.inbound_session_count("127.0.0.1") == 1
    assert policy.asked == [("connect", "127.0.0.1")]


def test_a_client_that_is_no_address_is_not_a_full_arena(audit: InboundAudit) -> None:
    guard = Guard(audit.listener("SMTP"), when_full="accept")
    admission = guard.enter(("192.0.2.7", 25))
    for nonsense in ("nonsense", ("192.0.2.256", 25), "", b"abc", None):
        assert admission.rebind(nonsense) is False
        assert audit.inbound_session_count("192.0.2.7") == 1
    assert guard.uncounted == 0
    assert admission.rebind(("198.51.100.7", 25)) is True
    assert audit.inbound_session_count("198.51.100.7") == 1
    admission.close()
