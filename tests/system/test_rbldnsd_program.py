"""Lists are read as rbldnsd itself reads them: the same lines, the same addresses, the program's answers."""

from __future__ import annotations

import ipaddress
import os
import random
import re
import shutil
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.support.ports import free_ports
from tests.support.waiting import PATIENCE

from inbound_audit.address_lists.lists import NetworkLists, networks_of
from inbound_audit.address_lists.rbldnsd import Zone
from inbound_audit.regular_file import Directories

PROGRAM = shutil.which("rbldnsd", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
pytestmark = pytest.mark.skipif(PROGRAM is None, reason="rbldnsd is not installed")

A, TXT = 1, 16
PROBES = [
    "0.0.0.1", "1.2.0.3", "1.2.3.4", "4.1.1.1", "10.0.0.1", "10.1.2.3", "10.255.255.255", "11.0.0.1", "192.0.2.4",
    "192.0.2.7", "192.0.2.8", "192.0.2.77", "198.51.100.9", "::1", "::", "1::2", "1:2:3:4:5:6:7:8", "10:20::1",
    "2001:db8::1", "2001:db8::7", "2001:db8:1::1", "2001:db8:1:ffff::", "2001:db9::1", "fe80::1",
]  # fmt: skip
LINES = """
192.0.2.7
192.0.2.07
192.0.2.77/24
192.0.2
192
192/8
0/0
10.1/12
10/8
10
192.0.2.4-192.0.2.7
192.0.2.4-7
10.0-1
0-5
1.2-1.2.3.4
1.2.3.4-1.2
192.0.2.7-192.0.2.4
1.2.3.4.5
192.0.2.256
192.0.2.0/33
192.0.2.0/
192.0.2.7:4:text
192.0.2.7 :4:text
192.0.2.7 :4 : text
192.0.2.7 :4
192.0.2.7 :10.2:text
192.0.2.7 :10.1.2:text
192.0.2.7 :0:text
192.0.2.7 :300:text
192.0.2.7 ::text
192.0.2.7 text with blanks
192.0.2.7 $ is listed, $$5, $1, $x
192.0.2.7 =just this $
192.0.2.7 # comment
192.0.2.7#comment
192.0.2.7 ; comment
192.0.2.7x
::1
::
::/0 :5:x
1::2
1::2::3
1:2:3:4:5:6:7:8
1:2:3:4:5:6:7:8:9:x
1:2:3:4:5:6:7
2001:db8:1
2001:db8:1/48
2001:db8:1/32
2001:db8::7
2001:DB8::0007
2001:db8::7:
2001:db8::7 :4:text $
2001:db8::7:4:text
2001:db8::/32:4:text
2001:db8:
2001:db8::12345
2001:db8::/129
2001:db8::1.2.3.4
2001:db8::1-2001:db8::2
2001
10:20
nonsense
""".strip().splitlines()
BEFORE = [
    [], [":2:Listed, see http://bl.example/?ip=$"], [":3"], [":text alone"], ["10/8", "!10.1/16"],
    ["$1 one", "$1 two", "192.0.2.0/24 $1/$"], ["$= template $=, $"], ["$MAXRANGE4 /24"], ["$UNKNOWN x", "#$TTL 300"],
    [":2:x", "!192.0.2.7", "! 2001:db8::7", "2001:db8::/32"],
]  # fmt: skip


class Answer(NamedTuple):
    a: str | None
    txt: str | None


def exchange(port: int, packet: bytes) -> bytes:
    """A datagram may be lost while the program starts."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            udp.settimeout(2)
            try:
                udp.connect(("127.0.0.1", port))
                udp.send(packet)
                return udp.recv(4096)
            except ConnectionError:
                time.sleep(0.1)
            except TimeoutError:
                continue
    raise AssertionError("rbldnsd does not answer")


def query(port: int, name: str, kind: int) -> str | None:
    """The first record of that kind, None if there is none."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    packet = struct.pack(">6H", 1, 0, 1, 0, 0, 0) + labels + b"\0" + struct.pack(">2H", kind, 1)
    reply = exchange(port, packet)
    if struct.unpack(">H", reply[6:8])[0] == 0:
        return None
    data = reply[len(packet) + 12 :]  # behind the compressed name, type, class, TTL and length
    return socket.inet_ntoa(data[:4]) if kind == A else data[1 : 1 + data[0]].decode("utf-8", "surrogateescape")


class Program:
    """rbldnsd with three zones per list: `4.N` and `s.N` for IPv4, `6.N` for IPv6."""

    def __init__(self, directory: Path, lists: list[list[str]]) -> None:
        self.files = []
        zones = []
        for number, lines in enumerate(lists):
            path, path6 = directory / f"list{number}", directory / f"list{number}v6"
            path.write_text("".join(f"{line}\n" for line in lines))
            # A line that begins like 10/8 is an entry of both families. In a file for both it means IPv4.
            path6.write_text("".join(f"{line}\n" for line in lines if not re.match("!? *[0-9]+/", line)))
            self.files.append(path)
            for name, kind, file in (("t", "ip4trie", path), ("s", "ip4set", path), ("v", "ip6trie", path6)):
                zones.append(f"{name}{number}.test:{kind}:{file}")
        (self.port,) = free_ports(1)
        user = ["-u", "nobody"] if os.geteuid() == 0 else []
        assert PROGRAM is not None
        self._process = subprocess.Popen([PROGRAM, "-n", "-e", *user, "-b", f"127.0.0.1/{self.port}", *zones])

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()

    def answer(self, number: int, address: str) -> Answer:
        ip = ipaddress.ip_address(address)
        zones = ("v",) if ip.version == 6 else ("t", "s")
        name = ip.reverse_pointer.removesuffix(".in-addr.arpa").removesuffix(".ip6.arpa")
        for zone in zones:
            found = Answer(*(query(self.port, f"{name}.{zone}{number}.test", kind) for kind in (A, TXT)))
            if found.a is not None:
                return found
        return Answer(None, None)


@pytest.fixture
def readable() -> Iterator[Path]:
    """A directory that the program can read, which runs as another user if we are root."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name)
        path.chmod(0o755)
        yield path


def ours(path: Path, address: str) -> Answer:
    with path.open() as lines:
        zone = Zone(lines, lambda number, reason: None)
    networks, values = networks_of(zone.entries)
    index = networks.lookup(address)
    value = None if index is None else values[index]
    if value is None:
        return Answer(None, None)
    return Answer(value.a, zone.expand(value.txt, str(ipaddress.ip_address(address))) or None)


def compare(directory: Path, lists: list[list[str]]) -> None:
    program = Program(directory, lists)
    try:
        for number, lines in enumerate(lists):
            for address in PROBES:
                assert (lines, address, ours(program.files[number], address)) == (
                    lines, address, program.answer(number, address),
                )  # fmt: skip
    finally:
        program.stop()


def test_every_form_of_a_line(readable: Path) -> None:
    compare(readable, [[line] for line in LINES])


def test_lines_before_a_line(readable: Path) -> None:
    compare(
        readable, [[*before, line] for before in BEFORE for line in ("192.0.2.7", "2001:db8::7", "10/8 x", "::1 :5")]
    )


def test_random_lines(readable: Path) -> None:
    chance = random.Random(9)
    pieces = [
        "192.0.2",
        ".7",
        "10",
        "/8",
        "/24",
        ":4:",
        " ",
        "x",
        "2001:db8",
        "::",
        "1",
        ":",
        "-",
        "!",
        "$",
        "#",
        "/48",
        ".",
        "0",
        "=",
    ]
    lists = [["".join(chance.choices(pieces, k=chance.randint(1, 6)))] for _ in range(250)]
    compare(readable, lists)


def test_a_list_as_policies_ask_it(readable: Path) -> None:
    (readable / "l").write_text("\n".join([":2:Listed: $", *LINES]))
    found = NetworkLists(Directories(readable / "policy"))
    found.define("l", "l", "txt", 0)
    assert found.query("l", "192.0.2.8") == "Listed: 192.0.2.8"
