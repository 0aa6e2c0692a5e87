"""Each bound of a session by bytes or by numbers, beside the memory of `inbound-audit serve`: a peer goes on beyond it.

The bounds by time (--timeout, --command-timeout, --session-timeout, --tls-timeout, --proxy-timeout, --min-rate) have no
case here: they say how long a session keeps what the others bound, and hold no bytes themselves.
"""

from __future__ import annotations

import contextlib
import fcntl
import re
import select
import socket
import struct
import sys
import termios
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest
from tests.support.command_line import Serve, begun
from tests.support.waiting import PATIENCE, eventually

from inbound_audit.listeners.budget import SessionBudget

pytestmark = [
    pytest.mark.system,
    pytest.mark.memory,
    pytest.mark.skipif(sys.platform != "linux", reason="the memory of a process is read from /proc"),
]

MIB = 1 << 20
MAX_SENT = 64 * MIB
"""More than any of these peers can send before it is cut off, or before the kernel's buffers are full."""

BEGIN = b"HELO c\r\n"
ENVELOPE = b"MAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\n"
LINE = b"x" * 998 + b"\r\n"

# The options that bound it: what begins the session, and what is sent again and again.
PIECES = {
    ("--max-command-line",): (b"", b"x" * MIB),
    ("--max-errors",): (BEGIN, b"BOGUS " + LINE),
    ("--max-commands",): (BEGIN, b"NOOP " + LINE),
    ("--max-auth",): (BEGIN, b"AUTH PLAIN " + LINE),
    ("--max-messages",): (BEGIN, ENVELOPE + b"DATA\r\nx\r\n.\r\n"),
    ("--max-line",): (BEGIN + ENVELOPE + b"DATA\r\n", b"x" * MIB),
    ("--max-size",): (BEGIN + ENVELOPE + b"DATA\r\n", LINE * 1000),
    # The first bounds what is held, the second ends it: 10,000 recipients would be 6 MiB.
    ("--max-recipients", "--max-session-commands"): (
        BEGIN + ENVELOPE, b"RCPT TO:<" + b"r" * 60 + b"@" + (b"d" * 60 + b".") * 7 + b"example>\r\n",
    ),
}  # fmt: skip
SMALL = ("--limit", "/32=100", "--max-size", "1M", "--message-memory", "2M", "--max-messages", "100")
BY_TIME = {"--timeout", "--command-timeout", "--session-timeout", "--tls-timeout", "--proxy-timeout", "--min-rate"}


def highest(server: Serve) -> int:
    """Bytes that the process has had in memory at the most."""
    found = re.search(r"VmHWM:\s*(\d+) kB", Path(f"/proc/{server.pid}/status").read_text())
    assert found is not None
    return int(found[1]) << 10


def connected(server: Serve) -> socket.socket:
    return socket.create_connection(server.addresses[0], timeout=PATIENCE)


def push(peer: socket.socket, begin: bytes, piece: bytes) -> int:
    """Sends as much as the server takes, and reads what it says, until it closes. Returns how much was sent."""
    sent, rest = 0, memoryview(begin + piece)
    peer.setblocking(False)
    with contextlib.suppress(ConnectionError):
        while sent < MAX_SENT:
            readable, writable, _ = select.select([peer], [peer], [], 20)
            assert readable or writable, f"the server stands still after {sent} bytes: {piece[:30]!r}"
            if readable and not peer.recv(1 << 16):
                break
            if writable:
                done = peer.send(rest)
                sent, rest = sent + done, rest[done:] or memoryview(piece)
    return sent


def test_each_option_has_a_case() -> None:
    options = {each.metadata["option"] for each in fields(SessionBudget)}
    assert {option for of_case in PIECES for option in of_case} | BY_TIME | {"--max-early"} == options


def test_a_peer_that_goes_on_beyond_a_bound_takes_no_memory() -> None:
    with Serve(*SMALL, listen=("127.0.0.1:0",)) as server:
        with connected(server) as peer:  # what a first session brings stays
            push(peer, BEGIN + ENVELOPE, b"DATA\r\nx\r\n.\r\nQUIT\r\n")
        for options, (begin, piece) in PIECES.items():
            before = highest(server)
            with connected(server) as peer:
                sent = push(peer, begin, piece)
            assert sent < MAX_SENT, options
            assert highest(server) - before < 4 * MIB, options
        assert server.complaints == []
        assert server.stopped()["open"] == 0


def test_the_messages_of_all_sessions_have_no_more_than_the_process_has_for_them() -> None:
    with Serve(*SMALL, listen=("127.0.0.1:0",)) as server, contextlib.ExitStack() as open_ones:
        peers = [open_ones.enter_context(begun(server.addresses[0])) for _ in range(30)]
        before = highest(server)
        for peer in peers:
            assert peer.ask(b"DATA").startswith(b"354")
            peer.send(LINE * 900)
        assert {peer.ask(b".")[:3] for peer in peers} == {b"250", b"451"}
        assert highest(server) - before < 12 * MIB  # of 26


# ---- before the banner

TARPIT = """
require("msys.core")
require("msys.extended.vctx")
local policy = {}
function policy:validate_connect(ac, vctx)
  vctx:tarpit(3600)
  return msys.core.VALIDATE_CONT
end
msys.registerModule("policy", policy)
"""


def unread(peer: socket.socket) -> int:
    """Bytes of a peer that its server has not read, as /proc/net/tcp has them for the server's end."""
    server, own = (f"{int.from_bytes(socket.inet_aton(host), sys.byteorder):08X}:{port:04X}" for host, port in
                   (peer.getpeername(), peer.getsockname()))  # fmt: skip
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[1:3] == [server, own]:
            return int(fields[4].partition(":")[2], 16)
    raise AssertionError("the connection is gone")


def unsent(peer: socket.socket) -> int:
    """Bytes that have not come to the server's system."""
    return int(struct.unpack("i", fcntl.ioctl(peer.fileno(), termios.TIOCOUTQ, bytes(4)))[0])


def send_all(peer: socket.socket, data: bytes) -> None:
    peer.sendall(data)
    eventually(lambda: unsent(peer) == 0, "that all has come")


@pytest.fixture
def tarpit(tmp_path: Path) -> Iterator[str]:
    path = tmp_path / "policy.lua"
    path.write_text(TARPIT)
    return str(path)


@pytest.mark.parametrize(("option", "waits"), [(("--max-early", "1K"), 2000), ((), 0)], ids=["1K", "default"])
def test_beyond_max_early_reading_waits(tarpit: str, option: tuple[str, ...], waits: int) -> None:
    with (
        Serve("--policy", tarpit, *option, listen=("127.0.0.1:0",)) as server,
        connected(server) as peer,
        connected(server) as other,
    ):
        send_all(peer, b"x" * 2000)
        eventually(lambda: unread(peer) == 0, "that the first bytes are read")
        send_all(peer, b"x" * 2000)
        send_all(other, b"x")  # what comes later is read: so the server has gone past the bytes before it
        eventually(lambda: unread(other) == 0, "that the other is read")
        assert unread(peer) == waits


def test_what_comes_before_the_banner_takes_no_memory(tarpit: str) -> None:
    with Serve("--policy", tarpit, listen=("127.0.0.1:0",)) as server, connected(server) as peer:
        send_all(peer, b"x" * (2 * SessionBudget.max_early_bytes))
        eventually(lambda: unread(peer) < SessionBudget.max_early_bytes, "that it is read")
        before, sent = highest(server), 0
        peer.setblocking(False)
        while sent < MAX_SENT:
            with connected(server) as other:
                send_all(other, b"x")
                eventually(lambda: unread(other) == 0, "that the server has gone round")
            if not select.select([], [peer], [], 0)[1]:
                break
            sent += peer.send(b"x" * MIB)
        assert sent < MAX_SENT
        assert highest(server) - before < 8 * MIB
