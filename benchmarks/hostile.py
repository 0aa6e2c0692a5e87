"""Peers that each do their worst with an SMTP server: what a session's budget is there for. And the worst policy.

    python -m benchmarks.hostile PORT NUMBER SECONDS

runs so many of them at once, of each kind as many as of any other, again and again until the time is over.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import ssl
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from itertools import cycle, islice, repeat
from pathlib import Path

HOST = "127.0.0.1"
PIECE = 1 << 20
BEGUN = b"EHLO c\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nDATA\r\n"
LINE = b"x" * 998 + b"\r\n"

Sent = Iterator[bytes]
"""What a peer sends, piece by piece. An empty piece is a pause."""


def message(line: bytes) -> Callable[[], Sent]:
    """A message without an end, of such lines."""
    piece = line * (PIECE // len(line))
    return lambda: (each for each in (BEGUN, *repeat(piece, 1000)))


def kept_message() -> Sent:
    """A message as large as it may be by default, which then never ends."""
    yield BEGUN
    yield LINE * 10_200
    for _ in range(1000):
        yield b""
        yield LINE


def tiny_segments() -> Sent:
    yield BEGUN
    yield from repeat(b"x\r\n", 1_000_000)


def slow_command() -> Sent:
    for each in b"EHLO " + b"x" * 1000:
        yield bytes([each])
        yield b""


def commands(*those: bytes) -> Callable[[], Sent]:
    """Such commands for ever, in one piece after another, whose replies nobody reads."""
    return lambda: repeat(b"EHLO c\r\n" + b"".join(command + b"\r\n" for command in those) * 1000, 1000)


KINDS: dict[str, Callable[[], Sent]] = {
    "no line's end in a message": message(b"x" * 1024),
    "empty lines": message(b"\r\n"),
    "dots": message(b"..\r\n"),
    "bare LF": message(b"\n"),
    "a message that is kept": kept_message,
    "tiny segments": tiny_segments,
    "no line's end in a command": lambda: repeat(b"x" * PIECE, 1000),
    "a slow command": slow_command,
    "silence": lambda: repeat(b"", 1000),
    "NOOP": commands(b"NOOP"),
    "recipients": commands(b"MAIL FROM:<a@b.example>", *[b"RCPT TO:<%s@d.example>" % (b"x" * 900)] * 500),
    "addresses": commands(b"VRFY <%s@b>" % (b"a." * 250), b"VRFY " + b"(" * 1900, b"VRFY <%sx@b>" % (b"(a)" * 160)),
    "unknown commands": commands(b"BOGUS"),
    "connections": lambda: iter([b""] * 0),
    "STARTTLS that stalls": lambda: iter([b"STARTTLS\r\n", *repeat(b"", 1000)]),
    "a message through TLS": kept_message,
}


def once(port: int, kind: str, stop: threading.Event) -> None:
    """One connection of a peer, until the server ends it or it has sent everything."""
    with contextlib.suppress(OSError), socket.create_connection((HOST, port), 20) as plain:
        connection = plain
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if kind == "a message through TLS":
            plain.recv(1000)
            plain.sendall(b"STARTTLS\r\n")
            plain.recv(1000)
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            connection = context.wrap_socket(plain)
        with connection:
            for piece in KINDS[kind]():
                if stop.wait(0 if piece else 0.5):
                    return
                connection.sendall(piece)


def attack(port: int, number: int, seconds: float) -> None:
    """Runs `number` peers at a time for so long."""
    stop = threading.Event()

    def again(kind: str) -> None:
        while not stop.wait(0.05):
            once(port, kind, stop)

    peers = [threading.Thread(target=again, args=[kind], daemon=True) for kind in islice(cycle(KINDS), number)]
    for peer in peers:
        peer.start()
    time.sleep(seconds)
    stop.set()
    for peer in peers:
        peer.join(30)


@contextlib.contextmanager
def worst_policy() -> Iterator[str]:
    """The path of `worst.lua`, with the list that it reads beside it."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(shutil.copy(Path(__file__).with_name("worst.lua"), directory))
        path.with_suffix(".txt").write_text(
            "".join(f"10.{n >> 8}.{n & 255}.0/24 :2:text {n}\n" for n in range(1 << 16))
        )
        yield str(path)


def resident(pids: list[int]) -> int:
    """Bytes of these processes that are in memory, shared pages counted for each."""
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                total += int(line.split()[1]) << 10
    return total


def banner_time(port: int) -> float:
    """Seconds from connecting to the banner, of a good client. Raises OSError."""
    started = time.perf_counter()
    with socket.create_connection((HOST, port), 60) as client:
        banner = client.recv(100)
        taken = time.perf_counter() - started
        if not banner.startswith(b"220"):
            raise OSError(f"{banner!r} is no banner")
        client.sendall(b"QUIT\r\n")
        client.recv(100)
    return taken


if __name__ == "__main__":
    attack(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
